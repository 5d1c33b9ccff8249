/*
 * target.c
 *		The table and the column that a call works on, checked.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/job.h"
#include "engine/locks.h"
#include "engine/settings.h"
#include "engine/sqltext.h"
#include "engine/template.h"
#include "steps/target.h"

void
target_require(FunctionCallInfo fcinfo, int argument, const char *name)
{
	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
}

char *
target_arg_text(FunctionCallInfo fcinfo, int argument)
{
	return PG_ARGISNULL(argument) ? NULL
		: text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

char *
target_arg_name(FunctionCallInfo fcinfo, int argument)
{
	return PG_ARGISNULL(argument) ? NULL
		: pstrdup(NameStr(*PG_GETARG_NAME(argument)));
}

List *
target_arg_list(FunctionCallInfo fcinfo, int argument, const char *name)
{
	ArrayType  *array;
	Oid			type;
	int16		typlen;
	bool		typbyval;
	char		typalign;
	Datum	   *elements;
	bool	   *nulls;
	int			count;
	List	   *texts = NIL;

	if (PG_ARGISNULL(argument))
		return NIL;
	array = PG_GETARG_ARRAYTYPE_P(argument);
	type = ARR_ELEMTYPE(array);
	get_typlenbyvalalign(type, &typlen, &typbyval, &typalign);
	deconstruct_array(array, type, typlen, typbyval, typalign,
					  &elements, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not contain nulls", name)));
		texts = lappend(texts, type == NAMEOID
						? pstrdup(NameStr(*DatumGetName(elements[i])))
						: TextDatumGetCString(elements[i]));
	}
	return texts;
}

Oid
target_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

static void
wrong_kind(Oid relid, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("%s is not a table that tenantmig can change",
					sql_relation(relid)),
			 errdetail_internal("%s", detail),
			 errhint("Name an ordinary or partitioned table.")));
}

static void
check_kind(Oid relid, char relkind, char persistence)
{
	switch (relkind)
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
			break;
		case RELKIND_VIEW:
			wrong_kind(relid, "It is a view.");
			break;
		case RELKIND_MATVIEW:
			wrong_kind(relid, "It is a materialized view.");
			break;
		case RELKIND_FOREIGN_TABLE:
			wrong_kind(relid, "It is a foreign table; its rows are on another server.");
			break;
		case RELKIND_SEQUENCE:
			wrong_kind(relid, "It is a sequence.");
			break;
		case RELKIND_COMPOSITE_TYPE:
			wrong_kind(relid, "It is a composite type.");
			break;
		case RELKIND_INDEX:
		case RELKIND_PARTITIONED_INDEX:
			wrong_kind(relid, "It is an index.");
			break;
		default:
			wrong_kind(relid, "It is an internal relation.");
	}
	if (persistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s is a temporary table", sql_relation(relid)),
				 errdetail("Only the session that made it can see its rows, so no worker can change them."),
				 errhint("Name a permanent table.")));
}

void
target_check_relation(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Form_pg_class class;
	ListCell   *lc;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	class = (Form_pg_class) GETSTRUCT(tuple);

	if (IsCatalogRelationOid(relid) || IsToastNamespace(class->relnamespace) ||
		IsCatalogNamespace(class->relnamespace) ||
		class->relnamespace == get_namespace_oid("tenantmig", true) ||
		class->relnamespace == get_namespace_oid("information_schema", true))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied: %s belongs to the system",
						sql_relation(relid)),
				 errhint("Name a table of the application.")));
	if (!relation_ownercheck(relid, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of table %s", sql_relation(relid)),
				 errdetail("It belongs to role %s.",
						   quote_identifier(GetUserNameFromId(class->relowner, false))),
				 errhint("Call the function as that role or as a member of it.")));
	check_kind(relid, class->relkind, class->relpersistence);
	ReleaseSysCache(tuple);

	foreach(lc, target_tree(relid))
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_FOREIGN_TABLE)
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("%s has a foreign table below it", sql_relation(relid)),
					 errdetail("%s keeps its rows on another server.",
							   sql_relation(lfirst_oid(lc))),
					 errhint("Detach it, and run tenantmig on the other server too.")));
}

bool
target_find_column(Oid relid, const char *column, TargetColumn *result)
{
	AttrNumber	attnum = get_attnum(relid, column);
	HeapTuple	tuple;
	Form_pg_attribute att;

	if (attnum <= 0)
		return false;
	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid),
							Int16GetDatum(attnum));
	if (!HeapTupleIsValid(tuple))
		return false;
	att = (Form_pg_attribute) GETSTRUCT(tuple);
	result->attnum = attnum;
	result->type = att->atttypid;
	result->typmod = att->atttypmod;
	result->collation = att->attcollation;
	result->not_null = attribute_is_not_null(att);
	result->type_name = format_type_extended(att->atttypid, att->atttypmod,
											 FORMAT_TYPE_TYPEMOD_GIVEN |
											 FORMAT_TYPE_FORCE_QUALIFY);
	ReleaseSysCache(tuple);
	return true;
}

void
target_check_column(Oid relid, const char *column, TargetColumn *result)
{
	if (!target_find_column(relid, column, result))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column %s of relation %s does not exist",
						quote_identifier(column), sql_relation(relid)),
				 errhint("Check its name; a tenant column that is not there yet is added with: SELECT tenantmig.add_tenant_column(%s, %s);",
						 sql_literal(sql_relation(relid)), sql_literal(column))));
}

List *
target_tree(Oid relid)
{
	return find_all_inheritors(relid, NoLock, NULL);
}

List *
target_trigger_tables(Oid relid)
{
	List	   *tables = NIL;
	ListCell   *lc;

	foreach(lc, target_tree(relid))
		if (lfirst_oid(lc) == relid || !get_rel_relispartition(lfirst_oid(lc)))
			tables = lappend_oid(tables, lfirst_oid(lc));
	return tables;
}

List *
target_leaves(Oid relid)
{
	List	   *leaves = NIL;
	ListCell   *lc;

	foreach(lc, target_tree(relid))
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_RELATION)
			leaves = lappend_oid(leaves, lfirst_oid(lc));
	list_sort(leaves, list_oid_cmp);
	return leaves;
}

Datum
target_value(const TargetColumn *column, const char *text)
{
	Oid			input;
	Oid			ioparam;

	getTypeInputInfo(column->type, &input, &ioparam);
	return OidInputFunctionCall(input, (char *) text, ioparam, column->typmod);
}

void
target_step(int64 job, Oid root, Oid relid, const char *statement,
			const char *inverse)
{
	target_step_under(job, root, relid, statement, inverse, AccessExclusiveLock);
}

void
target_step_under(int64 job, Oid root, Oid relid, const char *statement,
				  const char *inverse, LOCKMODE mode)
{
	char	   *sql = template_render(statement, relid);
	Identity	saved;

	identity_enter_owner(&saved, target_owner(root), NULL);
	lock_set_timeout(setting_lock_timeout);
	SPI_connect();
	if (SPI_execute(sql, false, 0) < 0)
		elog(ERROR, "could not run: %s", sql);
	SPI_finish();
	identity_leave(&saved);
	job_record_step(job, relid, statement, inverse, mode);
}
