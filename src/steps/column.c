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

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
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
#include "engine/query.h"
#include "engine/sqltext.h"
#include "engine/template.h"
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
	const char *initial = "";	/* behind the type */
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
	if (value)
		initial = psprintf(" DEFAULT %s::%s", sql_literal(value), type_name);
	else if (get_typtype(type) == TYPTYPE_DOMAIN)
		initial = " DEFAULT NULL";	/* not the domain's own */
	id = job_record(&request);
	target_step(id, relid, relid,
				template_make("ALTER TABLE %R ADD COLUMN %s %s%s",
							  quote_identifier(column), type_name, initial),
				template_make("ALTER TABLE %R DROP COLUMN IF EXISTS %s",
							  quote_identifier(column)));
	job_record_end(id);
	PG_RETURN_INT64(id);
}

/*
 * Whether new rows get the value, or something that is computed for each, as
 * when somebody has since made the default the tenant of the session.
 */
static bool
default_stands(Oid relid, const TargetColumn *column, const char *value)
{
	Relation	relation = table_open(relid, AccessShareLock);
	Node	   *expression = build_column_default(relation, column->attnum);
	bool		result = false;

	if (expression)
		expression = eval_const_expressions(NULL, expression);
	if (expression && !IsA(expression, Const))
		result = true;
	else if (expression && !((Const *) expression)->constisnull)
	{
		TypeCacheEntry *type = lookup_type_cache(getBaseType(column->type),
												 TYPECACHE_EQ_OPR_FINFO);

		result = DatumGetBool(FunctionCall2Coll(&type->eq_opr_finfo,
												column->collation,
												((Const *) expression)->constvalue,
												target_value(column, value)));
	}
	table_close(relation, NoLock);
	return result;
}

/* The column may have been dropped since, and added again as something else */
static bool
column_holds(const Job *job, Oid relid)
{
	TargetColumn column;
	char	   *value = json_text(job->arguments, "value");

	if (!target_find_column(relid, json_text(job->arguments, "column"), &column) ||
		strcmp(format_type_extended(column.type, -1, FORMAT_TYPE_FORCE_QUALIFY),
			   json_text(job->arguments, "type")) != 0)
		return false;
	return value == NULL || default_stands(relid, &column, value);
}

/* --- undo ------------------------------------------------------------ */

/* A child that has declared the column itself, or has it from another parent
 * too, keeps it when the parent's is dropped */
static bool
goes_with_parent(Oid leaf, const char *name)
{
	HeapTuple	tuple = SearchSysCacheAttName(leaf, name);
	Form_pg_attribute att;
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	att = (Form_pg_attribute) GETSTRUCT(tuple);
	result = !att->attislocal && att->attinhcount <= 1;
	ReleaseSysCache(tuple);
	return result;
}

/* Rows with a value that dropping the column would lose */
static int64
count_written(JobRun *run, Oid leaf, const Job *target,
			  const TargetColumn *column)
{
	const char *name = quote_identifier(json_text(target->arguments, "column"));
	char	   *value = json_text(target->arguments, "value");
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT pg_catalog.count(*) FROM ONLY %s WHERE %s IS NOT NULL",
					 sql_relation(leaf), name);
	if (value)
		appendStringInfo(&sql, " AND NOT (%s %s %s::%s)", name,
						 sql_equality(column->type), sql_literal(value),
						 column->type_name);
	(void) run_sql(run, sql.data);
	return query_get_int8(0, 1, 0);
}

/* Rows that backfills which have not been undone, as they failed, have filled */
static int64
count_filled(const Job *target)
{
	OwnQuery	query;

	query_init(&query, "SELECT COALESCE(sum(p.rows_done), 0)::bigint "
			   "FROM tenantmig.job j JOIN tenantmig.job_progress p ON p.job = j.id "
			   "WHERE j.kind = 'backfill' AND j.id > $1 AND j.undone_by IS NULL "
			   "AND j.relid = $2 AND j.arguments ->> 'column' = $3");
	query_int8(&query, target->id);
	query_oid(&query, target->relid);
	query_text(&query, json_text(target->arguments, "column"));
	query_run(&query);
	return query_get_int8(0, 1, 0);
}

static void
column_check_undo(JobRun *run, const Job *target)
{
	char	   *name = json_text(target->arguments, "column");
	TargetColumn column;
	int64		written = 0;
	ListCell   *lc;

	if (!OidIsValid(run->relid) ||
		!target_find_column(run->relid, name, &column) ||
		sql_equality(column.type) == NULL)
		return;
	foreach(lc, target_leaves(run->relid))
		if (lfirst_oid(lc) == run->relid || goes_with_parent(lfirst_oid(lc), name))
			written += count_written(run, lfirst_oid(lc), target, &column);
	if (written <= count_filled(target))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot undo job " INT64_FORMAT ": column %s of %s has values that it has not given",
					target->id, quote_identifier(name), job_relation_text(target)),
			 errdetail_plural(INT64_FORMAT " row has one, which would be lost with the column.",
							  INT64_FORMAT " rows have one, which would be lost with the column.",
							  (unsigned long) written, written),
			 errhint("Nothing was changed. If they may go: ALTER TABLE %s DROP COLUMN %s;",
					 sql_relation(run->relid), quote_identifier(name))));
}

const StepOps column_ops = {
	.kind = "add_tenant_column",
	.check_undo = column_check_undo,
	.holds = column_holds,
};
