/*
 * index.c
 *		create_index: an index built concurrently, and nothing invalid left.
 *
 * This file has the call and the plan.  The build is in index_build.c, that of
 * the index of a partitioned table in index_partitioned.c; other kinds of job
 * build indexes with them too.
 */
#include "postgres.h"

#include "access/amapi.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/partition.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_utilcmd.h"
#include "parser/parser.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/json.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/settings.h"
#include "engine/sqltext.h"
#include "engine/template.h"
#include "steps/index_build.h"
#include "steps/index_options.h"
#include "steps/kinds.h"
#include "steps/plan_lock.h"
#include "steps/target.h"

PG_FUNCTION_INFO_V1(tenantmig_create_index);

/* --- the call -------------------------------------------------------- */

static void
check_index_column(Oid relid, const char *name)
{
	TargetColumn column;

	if (!target_find_column(relid, name, &column))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column %s of relation %s does not exist",
						quote_identifier(name), sql_relation(relid))));
}

/*
 * One column of the call: the name of a column, exactly as it is, or an index
 * element as CREATE INDEX takes it.  Returns its text; name is what it adds to
 * the name of the index.
 */
static char *
check_element(Oid relid, const char *element, char **name)
{
	TargetColumn column;
	IndexElem  *elem;

	if (target_find_column(relid, element, &column))
	{
		*name = pstrdup(element);
		return pstrdup(quote_identifier(element));
	}
	elem = sql_parse_index_element(element);
	if (elem->name)
		check_index_column(relid, elem->name);
	*name = elem->name ? elem->name : "expr";
	/* a comment at its end must not swallow what follows */
	return strstr(element, "--") ? psprintf("%s\n", element) : pstrdup(element);
}

static void
check_columns(Oid relid, List *columns, List *include, List **elements,
			  List **names)
{
	ListCell   *lc;

	*elements = *names = NIL;
	if (columns == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("columns must not be empty"),
				 errhint("For example: SELECT tenantmig.create_index('orders', '{tenant_id,created_at}');")));
	foreach(lc, columns)
	{
		char	   *name;

		*elements = lappend(*elements, check_element(relid, lfirst(lc), &name));
		*names = lappend(*names, name);
	}
	foreach(lc, include)
		check_index_column(relid, lfirst(lc));
}

static void
method_cannot(const char *method, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("index method %s does not support %s",
					quote_identifier(method), what)));
}

static Oid
check_method(const char *method, bool is_unique, int columns, int included)
{
	HeapTuple	tuple = SearchSysCache1(AMNAME, CStringGetDatum(method));
	IndexAmRoutine *routine;
	Oid			am;

	if (!HeapTupleIsValid(tuple) ||
		((Form_pg_am) GETSTRUCT(tuple))->amtype != AMTYPE_INDEX)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("index method %s does not exist", quote_identifier(method)),
				 errhint("Use btree, hash, gist, gin, brin, or the method of an extension.")));
	am = ((Form_pg_am) GETSTRUCT(tuple))->oid;
	routine = GetIndexAmRoutineByAmId(am, false);
	ReleaseSysCache(tuple);
	if (is_unique && !routine->amcanunique)
		method_cannot(method, "unique indexes");
	if (columns > 1 && !routine->amcanmulticol)
		method_cannot(method, "indexes of several columns");
	if (included > 0 && !routine->amcaninclude)
		method_cannot(method, "included columns");
	return am;
}

/*
 * Parse analysis, as the owner, finds what a call can get wrong: unknown
 * columns and functions, wrong types.  Expressions must not depend on anything
 * but the row.
 */
static void
check_definition(Jsonb *arguments, Oid relid, Oid am)
{
	char	   *sql = template_render(index_create_text(arguments, "x", true), relid);
	List	   *raw = raw_parser(sql, RAW_PARSE_DEFAULT);
	Identity	saved;
	IndexStmt  *stmt;
	ListCell   *lc;

	LockRelationOid(relid, AccessShareLock);
	identity_enter_owner(&saved, target_owner(relid), namespace_search_path);
	stmt = transformIndexStmt(relid, (IndexStmt *) linitial_node(RawStmt, raw)->stmt, sql);
	foreach(lc, stmt->indexParams)
	{
		IndexElem  *elem = lfirst_node(IndexElem, lc);

		if (contain_mutable_functions(elem->expr))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					 errmsg("functions in index expression must be marked IMMUTABLE")));
		(void) ResolveOpClass(elem->opclass,
							  elem->expr ? exprType(elem->expr)
							  : get_atttype(relid, get_attnum(relid, elem->name)),
							  stmt->accessMethod, am);
	}
	if (contain_mutable_functions(stmt->whereClause))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("functions in index predicate must be marked IMMUTABLE")));
	index_check_storage(stmt->options, am);
	identity_leave(&saved);
}

static Jsonb *
call_arguments(FunctionCallInfo fcinfo, Oid relid, List **names)
{
	JsonObject *object = json_begin();
	Jsonb	   *arguments;
	List	   *columns = target_arg_list(fcinfo, 1, "columns");
	List	   *include = target_arg_list(fcinfo, 6, "include");
	List	   *elements;
	char	   *predicate = target_arg_text(fcinfo, 4);
	char	   *method = target_arg_name(fcinfo, 5);
	char	   *tablespace = target_arg_name(fcinfo, 8);
	bool		nulls_not_distinct = PG_GETARG_BOOL(9);
	Oid			am;

	check_columns(relid, columns, include, &elements, names);
	am = check_method(method, PG_GETARG_BOOL(3), list_length(columns),
					  list_length(include));
	if (predicate)
		sql_check_expression(predicate, "predicate");
	if (tablespace)
		index_check_tablespace(tablespace, relid);
	if (PG_GETARG_BOOL(3))
		index_check_unique(relid, *names);
	else if (nulls_not_distinct)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("nulls_not_distinct is for unique indexes"),
				 errhint("Add is_unique => true.")));
	json_put_list(object, "columns", columns);
	json_put_list(object, "elements", elements);
	json_put_list(object, "names", *names);
	json_put_text(object, "name", target_arg_name(fcinfo, 2));
	json_put_bool(object, "is_unique", PG_GETARG_BOOL(3));
	json_put_text(object, "predicate", predicate);
	json_put_text(object, "method", method);
	json_put_list(object, "include", include);
	json_put_text(object, "tablespace", tablespace);
	if (nulls_not_distinct)
		json_put_bool(object, "nulls_not_distinct", true);
	json_put_text(object, "storage", index_storage_text(PG_GETARG_JSONB_P(10)));
	arguments = json_end(object);
	check_definition(arguments, relid, am);
	return arguments;
}

/* A valid index of the table that is the same but for its name, or InvalidOid */
static Oid
find_twin_index(Jsonb *arguments, Oid relid)
{
	Relation	relation = table_open(relid, AccessShareLock);
	char	   *wanted = index_definition(arguments);
	bool		unique = json_bool(arguments, "is_unique", false);
	Oid			twin = InvalidOid;
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(relation))
	{
		char	   *text = pg_get_indexdef_string(lfirst_oid(lc));
		char	   *tail = strstr(text, " USING ");
		HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(lc)));
		Form_pg_index index = (Form_pg_index) GETSTRUCT(tuple);

		if (index->indisvalid && index->indisunique == unique &&
			tail && strcmp(tail + 1, wanted) == 0)
			twin = lfirst_oid(lc);
		ReleaseSysCache(tuple);
	}
	table_close(relation, AccessShareLock);
	return twin;
}

Datum
tenantmig_create_index(PG_FUNCTION_ARGS)
{
	static const char *const required[] = {"relation", "columns", NULL, "is_unique",
	NULL, "method", "include", "dry_run", NULL, "nulls_not_distinct", "storage"};
	Oid			relid;
	char	   *name;
	List	   *names;
	JobRequest	request = {.kind = "create_index"};
	int64		id;
	Oid			twin;

	for (int i = 0; i < lengthof(required); i++)
		if (required[i])
			target_require(fcinfo, i, required[i]);
	relid = PG_GETARG_OID(0);
	name = target_arg_name(fcinfo, 2);
	target_check_relation(relid);
	if (name && name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name must not be empty")));

	request.relid = relid;
	request.arguments = call_arguments(fcinfo, relid, &names);
	request.dry_run = PG_GETARG_BOOL(7);
	request.describe = psprintf("index on %s (%s)", sql_relation(relid),
								sql_name_list(names));
	id = request.dry_run ? 0 : job_reuse(&request);
	if (id != 0)
		PG_RETURN_INT64(id);
	if (name)
		index_check_name_is_free(relid, name);
	else if (!request.dry_run &&
			 OidIsValid(twin = find_twin_index(request.arguments, relid)))
	{
		ereport(NOTICE,
				(errmsg("index %s is the same already; none is built",
						sql_relation(twin)),
				 errhint("Give a name to have another one all the same.")));
		id = job_record(&request);
		index_journal(id, relid, "", get_rel_name(twin), NULL, twin);
		job_record_end(id);
		PG_RETURN_INT64(id);
	}
	PG_RETURN_INT64(job_submit(&request));
}

/* --- plan, run and holds ----------------------------------------------- */

char *
index_plan_table(const Job *job, Oid relid, Oid table, Jsonb *spec,
				 IndexEstimate *estimate)
{
	bool		partitioned = get_rel_relkind(table) == RELKIND_PARTITIONED_TABLE;
	char	   *name = index_name_for(spec, relid, table);
	Relation	relation = table_open(table, AccessShareLock);
	double		rows = Max(RelationGetForm(relation)->reltuples, 0);
	int64		blocks;

	(void) step_write(job->id, partitioned ? STEP_STATEMENT : STEP_TOPLEVEL,
					  table, "planned",
					  index_create_text(spec, name, partitioned),
					  index_drop_text(name, !partitioned), false,
					  partitioned ? ShareLock : ShareUpdateExclusiveLock);
	estimate->locks = lappend(estimate->locks, partitioned
							  ? plan_lock(table, ShareLock, "for its index, which is empty, some milliseconds")
							  : plan_lock(table, ShareUpdateExclusiveLock, "while its index is built"));
	if (table != relid && get_rel_relispartition(table) && OidIsValid(relid))
		estimate->locks = lappend(estimate->locks, psprintf("ACCESS EXCLUSIVE on the index of %s, while it is attached, some milliseconds: readers and writers of that partition wait",
															sql_relation(table)));
	if (!partitioned)
	{
		blocks = RelationGetNumberOfBlocks(relation);
		estimate->rows += rows;
		estimate->blocks += blocks;
		estimate->bytes += rows * (12 + 12.0 * list_length(json_list(spec, "names")));
		estimate->ms += rows * 0.001 + blocks * 0.02;
	}
	table_close(relation, AccessShareLock);
	return name;
}

void
index_plan_build(const Job *job, Oid relid, Jsonb *spec, IndexEstimate *estimate)
{
	ListCell   *lc;

	foreach(lc, get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE
			? target_tree(relid) : list_make1_oid(relid))
		index_plan_table(job, relid, lfirst_oid(lc), spec, estimate);
}

/* From the statistics: two scans, a sort, an entry for each row */
void
index_put_estimate(JsonObject *plan, const IndexEstimate *estimate)
{
	json_put_int(plan, "rows_total", (int64) estimate->rows);
	json_put_int(plan, "estimated_ms", (int64) estimate->ms);
	json_put_int(plan, "estimated_wal_bytes", (int64) estimate->bytes);
	json_put_int(plan, "estimated_disk_bytes", (int64) estimate->bytes);
}

static Jsonb *
index_plan(const Job *job, Oid relid)
{
	JsonObject *plan = json_begin();
	IndexEstimate estimate = {.rows = 0};

	index_plan_build(job, relid, job->arguments, &estimate);
	index_put_estimate(plan, &estimate);
	json_put_list(plan, "locks", estimate.locks);
	return json_end(plan);
}

static void
index_run(JobRun *run)
{
	(void) index_build_on(run, run->relid, "", run->job->arguments);
}

static bool
index_holds(const Job *job, Oid relid)
{
	return OidIsValid(index_find(job, relid, ""));
}

const StepOps index_ops = {
	.kind = "create_index",
	.plan = index_plan,
	.run = index_run,
	.holds = index_holds,
	.find_inverse = index_find_inverse,
};
