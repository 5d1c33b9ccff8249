/*
 * foreign_key.c
 *		add_foreign_key: a foreign key without holding up writers.
 *
 *	1	the rows that would violate it are counted and listed, before anything is
 *		changed
 *	2	ADD CONSTRAINT ... NOT VALID: a short SHARE ROW EXCLUSIVE lock on both
 *		tables; from here on no such row comes in
 *	3	VALIDATE CONSTRAINT: reads the tables beside readers and writers
 *
 * Until 3 the constraint is a temporary step.  On a partitioned table 2 and 3
 * are done on each leaf partition, and a last short lock adds the constraint of
 * the table, to which the server attaches those.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/json.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "engine/stop_point.h"
#include "engine/template.h"
#include "steps/fk.h"
#include "steps/key.h"
#include "steps/kinds.h"
#include "steps/target.h"

PG_FUNCTION_INFO_V1(tenantmig_add_foreign_key);

/* --- the call ------------------------------------------------------------ */

static const struct
{
	const char *text;
	const char *action;
} actions[] = {
	{"NO ACTION", "a"},
	{"RESTRICT", "r"},
	{"CASCADE", "c"},
	{"SET NULL", "n"},
	{"SET DEFAULT", "d"},
};

static const char *
check_action(const char *text)
{
	for (int i = 0; i < lengthof(actions); i++)
		if (pg_strcasecmp(text, actions[i].text) == 0)
			return actions[i].action;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("on_delete must not be %s", quote_literal_cstr(text)),
			 errhint("Give NO ACTION, RESTRICT, CASCADE, SET NULL or SET DEFAULT.")));
}

static void
check_column_lists(Oid relid, List *columns, Oid referenced, List *referenced_columns)
{
	ListCell   *lc;

	if (columns == NIL || list_length(columns) != list_length(referenced_columns))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("columns and referenced_columns must be as many, at least one"),
				 errhint("For example: SELECT tenantmig.add_foreign_key('items', '{tenant_id,order_id}', 'orders', '{tenant_id,id}');")));
	foreach(lc, columns)
	{
		TargetColumn column;

		target_check_column(relid, lfirst(lc), &column);
	}
	foreach(lc, referenced_columns)
	{
		TargetColumn column;

		target_check_column(referenced, lfirst(lc), &column);
	}
}

/*
 * SET NULL and SET DEFAULT leave the columns alone that cannot be NULL, so the
 * tenant stays, if others are set.
 */
static List *
columns_to_set(Oid relid, List *columns, char action)
{
	List	   *set = NIL;
	ListCell   *lc;

	if (action != FKCONSTR_ACTION_SETNULL && action != FKCONSTR_ACTION_SETDEFAULT)
		return NIL;
	foreach(lc, columns)
	{
		TargetColumn column;

		target_check_column(relid, lfirst(lc), &column);
		if (!column.not_null)
			set = lappend(set, lfirst(lc));
	}
	if (set == NIL && action == FKCONSTR_ACTION_SETNULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("on_delete cannot be SET NULL: all columns are NOT NULL"),
				 errhint("Use NO ACTION, RESTRICT or CASCADE.")));
	return list_length(set) == list_length(columns) ? NIL : set;
}

static void
check_referenced(Oid relid, Oid referenced)
{
	char		relkind = get_rel_relkind(referenced);
	Oid			owner = target_owner(relid);

	if (relkind == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", referenced)));
	if (pg_class_aclcheck(referenced, owner, ACL_REFERENCES) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(referenced, owner, ACL_REFERENCES,
								  ACLMASK_ANY) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role %s may not refer to %s",
						quote_identifier(GetUserNameFromId(owner, false)),
						sql_relation(referenced)),
				 errhint("GRANT REFERENCES ON %s TO %s;", sql_relation(referenced),
						 quote_identifier(GetUserNameFromId(owner, false)))));
	if (!relation_ownercheck(referenced, owner) &&
		(pg_class_aclcheck(referenced, owner, ACL_SELECT) != ACLCHECK_OK ||
		 check_enable_rls(referenced, owner, true) == RLS_ENABLED))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role %s may not read all of %s",
						quote_identifier(GetUserNameFromId(owner, false)),
						sql_relation(referenced)),
				 errdetail("The job reads that table as the owner of the referencing one, to find the rows that have nothing to point at."),
				 errhint("GRANT SELECT ON %s TO %s; and exempt it from row-level security, if that is on.",
						 sql_relation(referenced),
						 quote_identifier(GetUserNameFromId(owner, false)))));
	if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s is not a table that a foreign key can refer to",
						sql_relation(referenced)),
				 errhint("Name an ordinary or partitioned table.")));
}

/* What an open job is about to make of it counts as there */
static bool
will_be_unique(Oid referenced, Jsonb *columns)
{
	OwnQuery	query;

	query_init(&query, "SELECT FROM tenantmig.job WHERE relid = $1 "
			   "AND (kind = 'set_primary_key' AND arguments -> 'columns' @> $2 "
			   " AND $2 @> (arguments -> 'columns') "
			   " OR kind = 'create_index' AND arguments -> 'names' @> $2 "
			   " AND $2 @> (arguments -> 'names') AND (arguments -> 'is_unique')::boolean) "
			   "AND state IN ('queued', 'running', 'paused')");
	query_oid(&query, referenced);
	query_jsonb(&query, columns);
	return query_once(&query) > 0;
}

static void
check_unique(Oid referenced, Jsonb *arguments)
{
	OwnQuery	query;
	Jsonb	   *columns = json_nested(arguments, "referenced_columns");
	char	   *list = sql_name_list(json_list(arguments, "referenced_columns"));

	query_init(&query, "SELECT FROM pg_index i WHERE i.indrelid = $1 AND i.indisunique "
			   "AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL "
			   "AND i.indnkeyatts = jsonb_array_length($2) AND NOT EXISTS ( "
			   " SELECT FROM jsonb_array_elements_text($2) k (name) "
			   " JOIN pg_attribute a ON a.attrelid = $1 AND a.attname = k.name "
			   " WHERE NOT a.attnum = ANY ((i.indkey::int2[])[:i.indnkeyatts - 1]))");
	query_oid(&query, referenced);
	query_jsonb(&query, columns);
	if (query_once(&query) > 0 || will_be_unique(referenced, columns))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_FOREIGN_KEY),
			 errmsg("there is no unique constraint on (%s) of %s", list,
					sql_relation(referenced)),
			 errdetail("A foreign key needs a primary key, or a unique index or constraint that is valid, not deferrable and not partial, on exactly these columns."),
			 errhint("Make it the primary key with tenantmig.set_primary_key(%s, '{...}'), or: SELECT tenantmig.create_index(%s, '{...}', is_unique => true);",
					 sql_literal(sql_relation(referenced)),
					 sql_literal(sql_relation(referenced)))));
}

/* As the server names them */
static char *
default_name(Oid relid, List *columns)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, columns)
		appendStringInfo(&buf, "%s%s", buf.len > 0 ? "_" : "", (char *) lfirst(lc));
	return ChooseConstraintName(get_rel_name(relid), buf.data, "fkey",
								get_rel_namespace(relid), NIL);
}

static Oid
find_referenced(const Job *job)
{
	return key_find_relation(job->arguments, "referenced", "referenced_schema",
							 "referenced_name");
}

/*
 * The foreign key of a job, as it is to be.  The name of one that has none is
 * chosen when it is added, and is that of the constraint then.
 */
static ForeignKey *
foreign_key_of(const Job *job, Oid relid)
{
	ForeignKey *fk = palloc0(sizeof(ForeignKey));

	fk->child = relid;
	fk->referenced = find_referenced(job);
	if (!OidIsValid(fk->referenced))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation %s does not exist",
						sql_name(json_text(job->arguments, "referenced_schema"),
								 json_text(job->arguments, "referenced_name")))));
	fk->columns = json_list(job->arguments, "columns");
	fk->referenced_columns = json_list(job->arguments, "referenced_columns");
	fk->name = json_text(job->arguments, "name");
	fk->match = FKCONSTR_MATCH_SIMPLE;
	fk->on_update = FKCONSTR_ACTION_NOACTION;
	fk->on_delete = check_action(json_text(job->arguments, "on_delete"))[0];
	fk->set_columns = columns_to_set(relid, fk->columns, fk->on_delete);
	fk->valid = true;
	fk->enforced = true;
	fk->tables = fk_tables(relid);
	return fk;
}

/* A foreign key of the table that is the same, or InvalidOid; NULL: any name */
static Oid
find_same(const ForeignKey *fk, const char *name, char **found)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	Oid			same = InvalidOid;
	JsonObject *lists = json_begin();
	Jsonb	   *end;

	json_put_list(lists, "columns", fk->columns);
	json_put_list(lists, "referenced", fk->referenced_columns);
	end = json_end(lists);
	query_init(&query, "SELECT c.oid, c.conname::text FROM pg_constraint c WHERE c.contype = 'f' "
			   "AND c.conrelid = $1 AND c.confrelid = $2 AND c.confdeltype = $3 "
			   "AND c.convalidated AND ($4 IS NULL OR c.conname = $4) "
			   "AND $5 = (SELECT jsonb_agg(a.attname ORDER BY k.n) FROM unnest(c.conkey) WITH ORDINALITY k (attnum, n) "
			   " JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum) "
			   "AND $6 = (SELECT jsonb_agg(a.attname ORDER BY k.n) FROM unnest(c.confkey) WITH ORDINALITY k (attnum, n) "
			   " JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum) "
			   "AND c.conname !~ '^!?tenantmig_' ORDER BY c.conname LIMIT 1");
	query_oid(&query, fk->child);
	query_oid(&query, fk->referenced);
	query_datum(&query, CHAROID, CharGetDatum(fk->on_delete), false);
	query_name(&query, name);
	query_jsonb(&query, json_nested(end, "columns"));
	query_jsonb(&query, json_nested(end, "referenced"));
	SPI_connect();
	if (query_run(&query) > 0)
	{
		MemoryContextSwitchTo(context);
		same = query_get_oid(0, 1);
		*found = query_get_text(0, 2);
	}
	SPI_finish();
	return same;
}

static void
check_name_is_free(Oid relid, const char *name)
{
	if (name == NULL || !OidIsValid(get_relation_constraint_oid(relid, name, true)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("constraint %s of relation %s already exists",
					quote_identifier(name), sql_relation(relid)),
			 errhint("Choose another name, or leave name out.")));
}

static Jsonb *
call_arguments(FunctionCallInfo fcinfo, Oid relid, Oid referenced)
{
	JsonObject *arguments = json_begin();
	List	   *columns = target_arg_list(fcinfo, 1, "columns");
	List	   *referenced_columns = target_arg_list(fcinfo, 3, "referenced_columns");
	char	   *on_delete = target_arg_text(fcinfo, 5);
	char	   *schema;
	char	   *name;

	check_referenced(relid, referenced);
	check_column_lists(relid, columns, referenced, referenced_columns);
	(void) check_action(on_delete);
	job_relation_names(referenced, &schema, &name);
	json_put_list(arguments, "columns", columns);
	json_put_int(arguments, "home", identity_home());
	json_put_int(arguments, "referenced", referenced);
	json_put_text(arguments, "referenced_schema", schema);
	json_put_text(arguments, "referenced_name", name);
	json_put_list(arguments, "referenced_columns", referenced_columns);
	json_put_text(arguments, "name", target_arg_name(fcinfo, 4));
	json_put_text(arguments, "on_delete", asc_toupper(on_delete, strlen(on_delete)));
	return json_end(arguments);
}

Datum
tenantmig_add_foreign_key(PG_FUNCTION_ARGS)
{
	static const char *const required[] = {"relation", "columns", "referenced",
	"referenced_columns", NULL, "on_delete", "dry_run"};
	JobRequest	request = {.kind = "add_foreign_key"};
	Job			job = {.arguments = NULL};
	Oid			referenced;
	char	   *name;
	char	   *same;
	int64		id;

	for (int i = 0; i < lengthof(required); i++)
		if (required[i])
			target_require(fcinfo, i, required[i]);
	request.relid = PG_GETARG_OID(0);
	referenced = PG_GETARG_OID(2);
	name = target_arg_name(fcinfo, 4);
	target_check_relation(request.relid);
	if (name && name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name must not be empty")));
	request.arguments = call_arguments(fcinfo, request.relid, referenced);
	job.arguments = request.arguments;
	request.dry_run = PG_GETARG_BOOL(6);
	if (referenced != request.relid)
		request.reads = list_make1_oid(referenced);
	request.describe = psprintf("foreign key of %s to %s", sql_relation(request.relid),
								sql_relation(referenced));
	id = request.dry_run ? 0 : job_reuse(&request);
	if (id != 0)
		PG_RETURN_INT64(id);
	check_unique(referenced, request.arguments);
	if (!request.dry_run &&
		OidIsValid(find_same(foreign_key_of(&job, request.relid), name, &same)))
	{
		ereport(NOTICE,
				(errmsg("foreign key %s of %s is the same already; none is added",
						quote_identifier(same), sql_relation(request.relid))));
		id = job_record(&request);
		job_record_end(id);
		PG_RETURN_INT64(id);
	}
	check_name_is_free(request.relid, name);
	PG_RETURN_INT64(job_submit(&request));
}

/* --- plan ---------------------------------------------------------------- */

static bool
is_partitioned(const ForeignKey *fk)
{
	return get_rel_relkind(fk->child) == RELKIND_PARTITIONED_TABLE;
}

static Jsonb *
foreign_key_plan(const Job *job, Oid relid)
{
	JsonObject *plan = json_begin();
	ForeignKey *fk = foreign_key_of(job, relid);
	char	   *both = psprintf("%s, %s", sql_relation(fk->child),
								sql_relation(fk->referenced));
	FkViolations *v;

	if (fk->name == NULL)
		fk->name = default_name(relid, fk->columns);
	fk_plan_build(job->id, fk, fk->name);
	if (is_partitioned(fk))
		(void) step_write(job->id, STEP_STATEMENT, relid, "planned",
						  fk_add_text(fk, fk->name, true), fk_drop_text(fk->name),
						  false, ShareRowExclusiveLock);
	v = fk_violations(fk);
	json_put_int(plan, "rows_total", 0);
	json_put_int(plan, "rows_unresolved", v->count);
	json_put_list(plan, "unresolved_examples", list_copy_head(v->examples, 5));
	json_put_list(plan, "locks",
				  list_make2(psprintf("SHARE ROW EXCLUSIVE on %s, for milliseconds: blocks writers; readers go on", both),
							 psprintf("SHARE UPDATE EXCLUSIVE on %s and ROW SHARE on %s while it is validated: blocks VACUUM, ANALYZE and DDL; readers and writers go on",
									  sql_relation(fk->child), sql_relation(fk->referenced))));
	if (v->count > 0)
		json_put_list(plan, "warnings",
					  list_make1(psprintf(INT64_FORMAT " %s would violate it; the job would fail until each has a row to point at",
										  v->count, v->count == 1 ? "row" : "rows")));
	return json_end(plan);
}

/* --- run ------------------------------------------------------------------ */

typedef struct AddRun
{
	ForeignKey *fk;
	char	   *name;			/* of the constraint while it is built */
	FkViolations *violations;
	char	   *same;
	bool		partitioned;
} AddRun;

/*
 * The name is settled and journaled before the constraint is made.  On a
 * partitioned table the partitions' get the same name, as the server would name
 * them.
 */
static void
resolve_body(JobRun *run, void *arg)
{
	AddRun	   *a = arg;
	char	   *journaled;

	run_check_request(run);
	job_forget_row_errors(run->job->id);
	MemoryContextSwitchTo(run->context);
	a->fk = foreign_key_of(run->job, run->relid);
	a->partitioned = is_partitioned(a->fk);
	journaled = json_text(job_summary(run->job->id), "constraint");
	if (journaled)
		a->fk->name = journaled;
	else
	{
		JsonObject *facts = json_begin();

		check_name_is_free(run->relid, a->fk->name);
		if (a->fk->name == NULL)
			a->fk->name = default_name(run->relid, a->fk->columns);
		json_put_text(facts, "constraint", a->fk->name);
		job_merge_summary(run->job->id, json_end(facts));
	}
	a->name = a->partitioned
		? fk_temporary_name(run->job->id, a->fk->name, run->relid, true) : a->fk->name;
	if (!OidIsValid(find_same(a->fk, a->fk->name, &a->same)))
		a->same = NULL;
}

static void
look_body(JobRun *run, void *arg)
{
	AddRun	   *a = arg;
	Identity	saved;

	run_check_request(run);
	MemoryContextSwitchTo(run->context);
	run_enter_owner(run, &saved);
	a->violations = fk_violations(a->fk);
	identity_leave(&saved);
}

static void
raise_violations(JobRun *run, AddRun *a)
{
	run_set_phase(run, "looking for rows that would violate it");
	run_or_error(run, look_body, a);
	fk_raise_violations(run, list_make1(a->violations),
						"Give each row a row to point at, or remove it.");
}

static void
validate_work(JobRun *run, void *arg)
{
	AddRun	   *a = arg;

	fk_validate(run, a->fk, a->name);
}

/* An ordinary table's: valid, it stays */
static void
keep_body(JobRun *run, void *arg)
{
	AddRun	   *a = arg;

	step_keep(run->job->id, run->relid, fk_add_text(a->fk, a->name, false));
}

static void
root_body(JobRun *run, void *arg)
{
	AddRun	   *a = arg;
	ListCell   *lc;

	run_check_request(run);
	run_lock_all(list_make2_oid(run->relid, a->fk->referenced), AccessExclusiveLock);
	run_follow_name(run);
	if (list_difference_oid(fk_tables(run->relid), a->fk->tables) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a partition of %s was added while job " INT64_FORMAT " worked on it",
						job_relation_text(run->job), run->job->id),
				 errhint("SELECT tenantmig.retry(" INT64_FORMAT ");", run->job->id)));
	run_statement_within(run, run->relid, AccessExclusiveLock,
						 fk_add_text(a->fk, a->fk->name, true),
						 fk_drop_text(a->fk->name), false);
	foreach(lc, a->fk->tables)
	{
		Oid			table = lfirst_oid(lc);
		char	   *add = fk_add_text(a->fk, a->name, false);

		if (!OidIsValid(get_relation_constraint_oid(table, a->fk->name, true)))
			run_statement_within(run, table, AccessExclusiveLock,
								 fk_rename_text(a->name, a->fk->name), NULL, false);
		step_keep(run->job->id, table, add);
		step_forget_inverse(run->job->id, table, add);
	}
}

static void
foreign_key_run(JobRun *run)
{
	AddRun		a = {.fk = NULL};
	ErrorData  *error;

	run_or_error(run, resolve_body, &a);
	if (a.same)
	{
		if (!a.partitioned)
			run_bookkeeping(run, keep_body, &a);
		return;
	}
	raise_violations(run, &a);
	run_set_phase(run, "adding foreign key");
	fk_build(run, a.fk, a.name);
	run_set_phase(run, "validating");
	error = run_catch(run, validate_work, &a);
	if (error && error->sqlerrcode == ERRCODE_FOREIGN_KEY_VIOLATION)
		raise_violations(run, &a);	/* they came after they were looked for */
	if (error)
		ReThrowError(error);
	if (a.partitioned)
		run_patiently(run, root_body, &a);
	else
		run_bookkeeping(run, keep_body, &a);
	STOP_POINT("foreign-key-valid");
}

static bool
foreign_key_holds(const Job *job, Oid relid)
{
	char	   *same;
	Oid			referenced = find_referenced(job);

	return OidIsValid(referenced) &&
		OidIsValid(find_same(foreign_key_of(job, relid), json_text(job->arguments, "name"), &same));
}

/*
 * The journal has the name of the constraint.  Another one may have it by now,
 * such as the foreign key with one more column that set_primary_key has put in
 * its place, or a check: that is not ours.  Columns may have got other names.
 */
static bool
is_ours(const Job *job, Oid relid)
{
	OwnQuery	query;

	query_init(&query, "SELECT FROM pg_constraint WHERE conrelid = $1 AND conname = $2 "
			   "AND contype = 'f' AND confrelid = $3 AND cardinality(conkey) = $4");
	query_oid(&query, relid);
	query_name(&query, json_text(job_summary(job->id), "constraint"));
	query_oid(&query, job_find_relation(job, (Oid) json_int(job->arguments, "referenced", 0),
										json_text(job->arguments, "referenced_schema"),
										json_text(job->arguments, "referenced_name")));
	query_int8(&query, list_length(json_list(job->arguments, "columns")));
	return query_once(&query) > 0;
}

static char *
foreign_key_find_inverse(const Job *target, const JobStep *step, Oid relid)
{
	return step->temporary || is_ours(target, relid)
		? template_render(step->inverse, relid) : NULL;
}

const StepOps foreign_key_ops = {
	.kind = "add_foreign_key",
	.plan = foreign_key_plan,
	.run = foreign_key_run,
	.holds = foreign_key_holds,
	.find_inverse = foreign_key_find_inverse,
};
