/*
 * primary_key.c
 *		set_primary_key: another primary key, and the foreign keys follow it.
 *
 * This file has the call, what is checked before anything is changed, and what
 * the engine asks of a kind; the work is in key_change.c.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "steps/index.h"
#include "steps/key_change.h"
#include "steps/key_check.h"
#include "steps/kinds.h"
#include "steps/target.h"

PG_FUNCTION_INFO_V1(tenantmig_set_primary_key);

/* --- the call ---------------------------------------------------------- */

static void
check_columns(Oid relid, List *columns)
{
	List	   *seen = NIL;
	ListCell   *lc;

	if (columns == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("columns must not be empty"),
				 errhint("For example: SELECT tenantmig.set_primary_key('orders', '{tenant_id,id}');")));
	foreach(lc, columns)
	{
		TargetColumn column;

		target_check_column(relid, lfirst(lc), &column);
		if (key_has(seen, lfirst(lc)))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("column %s is given twice", quote_identifier(lfirst(lc)))));
		seen = lappend(seen, lfirst(lc));
	}
}

static char *
check_foreign_keys_argument(const char *mode)
{
	if (strcmp(mode, "composite") != 0 && strcmp(mode, "keep") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("foreign_keys must be composite or keep, not %s",
						quote_literal_cstr(mode)),
				 errhint("composite rebuilds the foreign keys that point at the key with the tenant in them; keep leaves a unique constraint on the old key for them.")));
	return pstrdup(mode);
}

/* The tables whose foreign keys point at the key: jobs that fill them come first */
static List *
referencing_tables(Oid relid)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	List	   *tables = NIL;
	uint64		count;

	query_init(&query, "SELECT DISTINCT conrelid FROM pg_constraint "
			   "WHERE contype = 'f' AND confrelid = $1 AND conparentid = 0 "
			   "AND conrelid <> $1 ORDER BY 1");
	query_oid(&query, relid);
	SPI_connect();
	count = query_run(&query);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < count; i++)
		tables = lappend_oid(tables, query_get_oid(i, 1));
	SPI_finish();
	return tables;
}

/* The checks need to know what the job would do */
static Job *
job_of_request(const JobRequest *request)
{
	Job		   *job = palloc0(sizeof(Job));

	job->arguments = request->arguments;
	return job;
}

Datum
tenantmig_set_primary_key(PG_FUNCTION_ARGS)
{
	static const char *const required[] = {"relation", "columns", "foreign_keys", "dry_run"};
	JobRequest	request = {.kind = "set_primary_key"};
	JsonObject *arguments = json_begin();
	List	   *columns;
	KeyChange  *change;
	int64		id;

	for (int i = 0; i < lengthof(required); i++)
		target_require(fcinfo, i, required[i]);
	request.relid = PG_GETARG_OID(0);
	target_check_relation(request.relid);
	columns = target_arg_list(fcinfo, 1, "columns");
	check_columns(request.relid, columns);
	json_put_list(arguments, "columns", columns);
	json_put_text(arguments, "foreign_keys",
				  check_foreign_keys_argument(target_arg_text(fcinfo, 2)));
	request.arguments = json_end(arguments);
	request.dry_run = PG_GETARG_BOOL(3);
	request.reads = referencing_tables(request.relid);
	request.describe = psprintf("primary key of %s (%s)",
								sql_relation(request.relid), sql_name_list(columns));
	id = request.dry_run ? 0 : job_reuse(&request);
	if (id != 0)
		PG_RETURN_INT64(id);
	change = key_change_forth(job_of_request(&request), request.relid);
	if (change)
		key_check(change, GetUserId(), true);
	else if (!request.dry_run)
	{
		ereport(NOTICE,
				(errmsg("the primary key of %s is (%s) already",
						sql_relation(request.relid), sql_name_list(columns))));
		id = job_record(&request);
		job_record_end(id);
		PG_RETURN_INT64(id);
	}
	PG_RETURN_INT64(job_submit(&request));
}

/* --- plan --------------------------------------------------------------- */

static List *
find_violations(const KeyChange *change)
{
	List	   *violations = NIL;
	ListCell   *lc;

	foreach(lc, change->foreign_keys)
	{
		const FkChange *f = lfirst(lc);

		if (f->wanted->valid)
			violations = lappend(violations, fk_violations(f->wanted));
	}
	return violations;
}

static Jsonb *
primary_key_plan(const Job *job, Oid relid)
{
	JsonObject *plan = json_begin();
	KeyChange  *change = key_change_forth(job, relid);
	List	   *warnings = NIL;
	List	   *examples = NIL;
	int64		count = 0;
	ListCell   *lc;

	if (change == NULL)
	{
		json_put_list(plan, "warnings", list_make1("the primary key is so already"));
		return json_end(plan);
	}
	warnings = key_warnings(change);
	key_change_plan(job, change, plan);
	foreach(lc, find_violations(change))
	{
		const FkViolations *v = lfirst(lc);

		if (v->count == 0)
			continue;
		count += v->count;
		examples = list_concat(examples, list_copy_head(v->examples, 5));
		warnings = lappend(warnings,
						   psprintf(INT64_FORMAT " %s of %s would violate foreign key %s; the job would fail until the tenant is that of the row in %s",
									v->count, v->count == 1 ? "row" : "rows",
									v->child, quote_identifier(v->fk->name),
									v->referenced));
	}
	json_put_int(plan, "rows_unresolved", count);
	json_put_list(plan, "unresolved_examples", examples);
	json_put_list(plan, "warnings", warnings);
	return json_end(plan);
}

/* --- run ----------------------------------------------------------------- */

typedef struct KeyRun
{
	const Job  *target;			/* of an undo */
	KeyChange  *change;
	List	   *violations;
	int64		duplicates;
	char	   *example;
} KeyRun;

static void
resolve_body(JobRun *run, void *arg)
{
	KeyRun	   *k = arg;

	run_check_request(run);
	job_forget_row_errors(run->job->id);
	MemoryContextSwitchTo(run->context);
	k->change = k->target ? key_change_back(run->job, k->target, run->relid)
		: key_change_forth(run->job, run->relid);
	if (k->change)
		key_check(k->change, run->job->caller, false);
}

/* Reads the tables, in one transaction; nothing has been changed yet */
static void
look_body(JobRun *run, void *arg)
{
	KeyRun	   *k = arg;
	Identity	saved;

	run_check_request(run);
	MemoryContextSwitchTo(run->context);
	run_enter_owner(run, &saved);
	/* who points at a row of his tenant points at a row */
	if (k->target == NULL)
		k->violations = find_violations(k->change);
	k->duplicates = key_duplicates(k->change, &k->example);
	identity_leave(&saved);
}

static void
change_work(JobRun *run, void *arg)
{
	key_change_run(run, arg);
}

static void
key_run(JobRun *run, KeyRun *k)
{
	const char *advice = "Give the rows the tenant of the row that they point at.";
	ErrorData  *error;

	run_or_error(run, resolve_body, k);
	if (k->change == NULL)
		return;
	run_set_phase(run, "looking for rows that would violate the keys");
	run_or_error(run, look_body, k);
	if (k->duplicates > 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg_plural("primary key (%s) of %s would be violated: " INT64_FORMAT " value is there more than once",
							   "primary key (%s) of %s would be violated: " INT64_FORMAT " values are there more than once",
							   (unsigned long) k->duplicates, sql_name_list(((TableChange *) linitial(k->change->tables))->wanted->columns),
						job_relation_text(run->job), k->duplicates),
				 errdetail("One is %s.", k->example),
				 errhint("Make the rows differ, then: SELECT tenantmig.retry(" INT64_FORMAT ");",
						 run->job->id)));
	fk_raise_violations(run, k->violations, advice);
	error = run_catch(run, change_work, k->change);
	if (error && error->sqlerrcode == ERRCODE_FOREIGN_KEY_VIOLATION)
	{
		/* some came after they were looked for: list them */
		run_or_error(run, look_body, k);
		fk_raise_violations(run, k->violations, advice);
	}
	if (error)
		ReThrowError(error);
}

static void
primary_key_run(JobRun *run)
{
	KeyRun		k = {.target = NULL};

	key_run(run, &k);
}

static bool
primary_key_holds(const Job *job, Oid relid)
{
	return key_same_columns(key_columns(relid), json_list(job->arguments, "columns"));
}

/* --- undo ------------------------------------------------------------------ */

static bool
primary_key_take_back(JobRun *run, const Job *target, const JobStep *step)
{
	KeyRun		k = {.target = target};

	/* the swap; not what was made before it */
	if (run->job->id == target->id || step->temporary ||
		step->kind != STEP_STATEMENT)
		return false;
	key_run(run, &k);
	return true;
}

static Jsonb *
primary_key_plan_undo(const Job *job, const Job *target, Oid relid)
{
	JsonObject *plan = json_begin();
	KeyChange  *change = key_change_back(job, target, relid);

	if (change)
		key_change_plan(job, change, plan);
	return json_end(plan);
}

/* Whoever points at the new key would lose it */
static void
primary_key_check_undo(JobRun *run, const Job *target)
{
	KeyChange  *change = key_change_back(run->job, target, run->relid);

	if (change)
		key_check_back(change, target);
}

const StepOps primary_key_ops = {
	.kind = "set_primary_key",
	.plan = primary_key_plan,
	.run = primary_key_run,
	.holds = primary_key_holds,
	.check_undo = primary_key_check_undo,
	.find_inverse = index_find_inverse,
	.take_back = primary_key_take_back,
	.plan_undo = primary_key_plan_undo,
};
