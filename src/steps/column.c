/*
 * column.c
 *		add_tenant_column: the tenant column, without rewriting the table.
 *
 * ADD COLUMN with a constant default stores the value once, in the catalogs,
 * for all rows there are, and stays as the default of new ones; without a
 * value the column is NULL.  Either way the table's pages are not touched and
 * the lock is held for milliseconds, at any size.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/job.h"
#include "engine/json.h"
#include "engine/locks.h"
#include "engine/sqltext.h"
#include "steps/kinds.h"
#include "steps/target.h"

PG_FUNCTION_INFO_V1(tenantmig_add_tenant_column);

static void
check_type(Oid type)
{
	if (!SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(type)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("type with OID %u does not exist", type)));
	if (get_typtype(type) == TYPTYPE_PSEUDO ||
		OidIsValid(get_element_type(type)) || sql_equality(type) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("type %s cannot be the type of a tenant column",
						format_type_be(type)),
				 errhint("Use text, uuid, integer, bigint, or a domain or enum.")));
}

/*
 * The server takes no domain's constraints on trust: it writes all rows anew to
 * check them.
 */
static void
check_no_rewrite(Oid relid, Oid type)
{
	ListCell   *lc;

	if (!DomainHasConstraints(type))
		return;
	foreach(lc, target_leaves(relid))
	{
		Relation	relation = table_open(lfirst_oid(lc), NoLock);
		BlockNumber blocks = RelationGetNumberOfBlocks(relation);

		table_close(relation, NoLock);
		if (blocks > 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("a column of type %s cannot be added to %s without rewriting the table",
							format_type_be(type), sql_relation(relid)),
					 errdetail("It is a domain with constraints, and the server would write every row anew under an exclusive lock to check them."),
					 errhint("Call with column_type => %s, and have the domain's rules checked by a CHECK constraint, added NOT VALID and then validated.",
							 sql_literal(format_type_be(getBaseType(type))))));
	}
}

Datum
tenantmig_add_tenant_column(PG_FUNCTION_ARGS)
{
	Oid			relid;
	char	   *column;
	Oid			type;
	char	   *value;
	TargetColumn existing;
	JobRequest	request = {.kind = "add_tenant_column"};
	JsonObject *arguments = json_begin();
	StringInfoData sql;
	int64		id;
	char	   *relation;
	char	   *type_name;

	target_require(fcinfo, 0, "relation");
	target_require(fcinfo, 1, "column_name");
	target_require(fcinfo, 2, "column_type");
	relid = PG_GETARG_OID(0);
	column = target_arg_name(fcinfo, 1);
	type = PG_GETARG_OID(2);
	value = target_arg_text(fcinfo, 3);

	target_check_relation(relid);
	if (column[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("column_name must not be empty")));
	check_type(type);
	relation = sql_relation(relid);
	type_name = format_type_extended(type, -1, FORMAT_TYPE_FORCE_QUALIFY);

	if (value)
	{
		TargetColumn wanted = {.type = type,.typmod = -1};
		Identity	saved;

		/* raises if the type rejects it; a domain's check may be anybody's */
		identity_enter_owner(&saved, target_owner(relid), NULL);
		(void) target_value(&wanted, value);
		identity_leave(&saved);
		if (value[0] == '\0')
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("value must not be empty"),
					 errhint("An empty tenant is what an unset setting looks like to a policy.")));
	}
	json_put_text(arguments, "column", column);
	json_put_text(arguments, "type", type_name);
	json_put_text(arguments, "value", value);
	request.relid = relid;
	request.arguments = json_end(arguments);
	request.describe = psprintf("column %s of %s", quote_identifier(column),
								relation);

	id = job_reuse(&request);
	if (id != 0)
		PG_RETURN_INT64(id);

	lock_tree_or_error(relid, AccessExclusiveLock);
	if (target_find_column(relid, column, &existing))
	{
		if (existing.type != type)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("column %s of relation %s already exists with type %s",
							quote_identifier(column), relation,
							existing.type_name),
					 errhint("Call with column_type => %s, or choose another column_name.",
							 sql_literal(existing.type_name))));
		ereport(NOTICE,
				(errmsg("column %s of relation %s exists already; it is kept as it is",
						quote_identifier(column), relation),
				 value ? errhint("Give its rows their value with: SELECT tenantmig.backfill(%s, %s, value => %s);",
								 sql_literal(relation), sql_literal(column), sql_literal(value)) : 0));
		id = job_record(&request);
		job_record_end(id);
		PG_RETURN_INT64(id);
	}

	check_no_rewrite(relid, type);
	initStringInfo(&sql);
	appendStringInfo(&sql, "ALTER TABLE %s ADD COLUMN %s %s", relation,
					 quote_identifier(column), type_name);
	if (value)
		appendStringInfo(&sql, " DEFAULT %s::%s", sql_literal(value), type_name);
	else if (get_typtype(type) == TYPTYPE_DOMAIN)
		appendStringInfoString(&sql, " DEFAULT NULL");	/* not the domain's own */
	id = job_record(&request);
	target_execute(relid, sql.data);
	job_record_step(id, relation, sql.data,
					psprintf("ALTER TABLE %s DROP COLUMN IF EXISTS %s", relation,
							 quote_identifier(column)),
					AccessExclusiveLock);
	job_record_end(id);
	PG_RETURN_INT64(id);
}

static bool
column_holds(const Job *job, Oid relid)
{
	TargetColumn column;

	return target_find_column(relid, json_text(job->arguments, "column"), &column);
}

const StepOps column_ops = {
	.kind = "add_tenant_column",
	.holds = column_holds,
};
