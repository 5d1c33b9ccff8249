/*
 * not_null.c
 *		set_not_null: NOT NULL without holding up writers.
 *
 * SET NOT NULL by itself reads the whole table under ACCESS EXCLUSIVE.  So:
 *
 *	1	ADD CHECK (column IS NOT NULL) NOT VALID: a short ACCESS EXCLUSIVE lock;
 *		from here on no NULL comes in
 *	2	VALIDATE CONSTRAINT: reads the table beside readers and writers
 *	3	SET NOT NULL, which takes the constraint as proof: a short ACCESS
 *		EXCLUSIVE lock
 *	4	DROP CONSTRAINT: the same.  The constraint is a temporary step, so it is
 *		gone afterwards whatever becomes of the job.
 *
 * A NOT NULL that is there and is not valid, as PostgreSQL 18 has them, is a
 * constraint already: VALIDATE CONSTRAINT of it, on each table, is what is left
 * to do.  That is not undone, since it changes nothing but what is known.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "engine/stop_point.h"
#include "engine/template.h"
#include "steps/kinds.h"
#include "steps/not_null.h"
#include "steps/plan_lock.h"
#include "steps/source.h"
#include "steps/target.h"

PG_FUNCTION_INFO_V1(tenantmig_set_not_null);

Datum
tenantmig_set_not_null(PG_FUNCTION_ARGS)
{
	Oid			relid;
	char	   *column;
	TargetColumn target;
	JsonObject *arguments = json_begin();
	JobRequest	request = {.kind = "set_not_null"};

	target_require(fcinfo, 0, "relation");
	target_require(fcinfo, 1, "column_name");
	target_require(fcinfo, 2, "dry_run");
	relid = PG_GETARG_OID(0);
	column = target_arg_name(fcinfo, 1);
	target_check_relation(relid);
	target_check_column(relid, column, &target);

	json_put_text(arguments, "column", column);
	request.relid = relid;
	request.arguments = json_end(arguments);
	request.dry_run = PG_GETARG_BOOL(2);
	request.describe = psprintf("NOT NULL of %s.%s", sql_relation(relid),
								quote_identifier(column));
	PG_RETURN_INT64(job_submit(&request));
}

void
not_null_texts(int64 job, const char *name, NotNullTexts *t)
{
	const char *column = quote_identifier(name);
	const char *constraint;

	t->constraint = sql_derived_name(psprintf("tenantmig_" INT64_FORMAT "_", job),
									 name, "");
	constraint = quote_identifier(t->constraint);
	t->add = template_make("ALTER TABLE %R ADD CONSTRAINT %s CHECK (%s IS NOT NULL) NOT VALID",
						   constraint, column);
	t->drop = template_make("ALTER TABLE %R DROP CONSTRAINT IF EXISTS %s", constraint);
	t->validate = template_make("ALTER TABLE %R VALIDATE CONSTRAINT %s", constraint);
	t->set = template_make("ALTER TABLE %R ALTER COLUMN %s SET NOT NULL", column);
	t->unset = template_make("ALTER TABLE %R ALTER COLUMN %s DROP NOT NULL", column);
}

static void
write_texts(const Job *job, NotNullTexts *t)
{
	not_null_texts(job->id, json_text(job->arguments, "column"), t);
}

/*
 * DROP NOT NULL goes down to the partitions and children; those that were NOT
 * NULL before must get it back.  So each of them has a step of its own, before
 * that of the table, which tells undo of it (not_null_undo.c); the step itself
 * finds that there is nothing to do.
 */
static List *
not_null_before(const Job *job, Oid relid)
{
	List	   *below = NIL;
	ListCell   *lc;

	foreach(lc, target_tree(relid))
	{
		TargetColumn column;

		if (lfirst_oid(lc) != relid &&
			target_find_column(lfirst_oid(lc), json_text(job->arguments, "column"),
							   &column) && column.not_null)
			below = lappend_oid(below, lfirst_oid(lc));
	}
	return below;
}

/* A NOT NULL that is not valid */
typedef struct UnprovenNotNull
{
	Oid			relid;
	char	   *validate;
} UnprovenNotNull;

/* Of the column, on the table and those below it, which come after it */
static List *
find_unproven(const Job *job, Oid relid)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *unproven = NIL;
	ListCell   *lc;

	foreach(lc, target_tree(relid))
	{
		OwnQuery	query;

		query_init(&query, "SELECT k.conname::text FROM pg_constraint k "
				   "JOIN pg_attribute a ON a.attrelid = k.conrelid AND k.conkey = ARRAY[a.attnum] "
				   "WHERE k.conrelid = $1 AND k.contype = 'n' AND NOT k.convalidated "
				   "AND a.attname = $2");
		query_oid(&query, lfirst_oid(lc));
		query_name(&query, json_text(job->arguments, "column"));
		SPI_connect();
		if (query_run(&query) > 0)
		{
			UnprovenNotNull *u;

			MemoryContextSwitchTo(context);
			u = palloc(sizeof(UnprovenNotNull));
			u->relid = lfirst_oid(lc);
			u->validate = template_make("ALTER TABLE %R VALIDATE CONSTRAINT %s",
										quote_identifier(query_get_text(0, 1)));
			unproven = lappend(unproven, u);
		}
		SPI_finish();
	}
	return unproven;
}

/* How many rows are NULL, and the keys of some: read as the current user */
static int64
count_nulls(const Job *job, Oid relid, List **examples)
{
	Source		source = {.relid = relid,.kind = SOURCE_VALUE};
	ListCell   *lc;
	int64		count = 0;

	source.column = json_text(job->arguments, "column");
	target_check_column(relid, source.column, &source.target);
	*examples = NIL;
	foreach(lc, target_leaves(relid))
	{
		SPI_connect();
		SPI_execute(psprintf("SELECT pg_catalog.count(*) FROM ONLY %s WHERE %s IS NULL",
							 sql_relation(lfirst_oid(lc)),
							 quote_identifier(source.column)), true, 0);
		count += query_get_int8(0, 1, 0);
		SPI_finish();
		if (list_length(*examples) < 5)
			*examples = list_concat(*examples,
									source_examples(&source, lfirst_oid(lc), false, 5));
	}
	return count;
}

static void
plan_steps(const Job *job, Oid relid, const NotNullTexts *t)
{
	ListCell   *lc;

	(void) step_write(job->id, STEP_STATEMENT, relid, "planned", t->add, t->drop,
					  true, AccessExclusiveLock);
	(void) step_write(job->id, STEP_STATEMENT, relid, "planned", t->validate, NULL,
					  false, ShareUpdateExclusiveLock);
	foreach(lc, not_null_before(job, relid))
		(void) step_write(job->id, STEP_STATEMENT, lfirst_oid(lc), "planned", t->set,
						  t->set, false, AccessExclusiveLock);
	(void) step_write(job->id, STEP_STATEMENT, relid, "planned", t->set, t->unset,
					  false, AccessExclusiveLock);
	(void) step_write(job->id, STEP_STATEMENT, relid, "planned", t->drop, NULL,
					  false, AccessExclusiveLock);
}

static Jsonb *
not_null_plan(const Job *job, Oid relid)
{
	NotNullTexts t;
	JsonObject *plan = json_begin();
	List	   *examples;
	int64		nulls = count_nulls(job, relid, &examples);
	bool		proven = false;
	ListCell   *lc;

	write_texts(job, &t);
	foreach(lc, find_unproven(job, relid))
	{
		UnprovenNotNull *u = lfirst(lc);

		(void) step_write(job->id, STEP_STATEMENT, u->relid, "planned", u->validate,
						  NULL, false, ShareUpdateExclusiveLock);
		proven |= u->relid == relid;
	}
	if (!proven)
		plan_steps(job, relid, &t);
	json_put_list(plan, "locks", proven
				  ? list_make1(plan_lock(relid, ShareUpdateExclusiveLock, "while the rows are read"))
				  : list_make4(
		plan_lock(relid, AccessExclusiveLock, "for the check constraint, some milliseconds"),
		plan_lock(relid, ShareUpdateExclusiveLock, "while the rows are read"),
		plan_lock(relid, AccessExclusiveLock, "for SET NOT NULL, some milliseconds"),
		plan_lock(relid, AccessExclusiveLock, "to drop the check constraint, some milliseconds")));
	json_put_int(plan, "rows_total", 0);
	json_put_int(plan, "rows_unresolved", nulls);
	json_put_list(plan, "unresolved_examples", examples);
	if (nulls > 0)
		json_put_list(plan, "warnings",
					  list_make1(psprintf(nulls == 1
										  ? INT64_FORMAT " row is NULL; the job would fail until it has a value"
										  : INT64_FORMAT " rows are NULL; the job would fail until they have a value",
										  nulls)));
	return json_end(plan);
}

static bool
column_is_not_null(const Job *job, Oid relid)
{
	TargetColumn column;

	if (!target_find_column(relid, json_text(job->arguments, "column"), &column))
		return false;
	return column.not_null;
}

typedef struct NotNullRun
{
	NotNullTexts texts;
	bool		already;
	List	   *unproven;		/* what is left of it */
	bool		added;			/* the constraint, by an earlier attempt */
	int64		nulls;
	List	   *examples;
} NotNullRun;

static void
resolve_body(JobRun *run, void *arg)
{
	NotNullRun *n = arg;
	TargetColumn column;

	run_check_request(run);
	MemoryContextSwitchTo(run->context);
	target_check_column(run->relid, json_text(run->job->arguments, "column"), &column);
	n->already = column.not_null;
	n->unproven = find_unproven(run->job, run->relid);
	write_texts(run->job, &n->texts);
	n->added = OidIsValid(get_relation_constraint_oid(run->relid,
													  n->texts.constraint, true));
}

/* The table may have been renamed or dropped since the last transaction */
static void
follow_name(JobRun *run)
{
	if (sql_relation(run->relid) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation %s was dropped while job " INT64_FORMAT " worked on it",
						job_relation_text(run->job), run->job->id)));
	run_follow_name(run);
}

static void
count_body(JobRun *run, void *arg)
{
	NotNullRun *n = arg;
	Identity	saved;

	MemoryContextSwitchTo(run->context);
	run_enter_owner(run, &saved);
	n->nulls = count_nulls(run->job, run->relid, &n->examples);
	identity_leave(&saved);
}

static void
validate_body(JobRun *run, void *arg)
{
	NotNullRun *n = arg;

	run_check_request(run);
	run_lock(run->relid, ShareUpdateExclusiveLock);
	follow_name(run);
	run_statement_within(run, run->relid, ShareUpdateExclusiveLock,
						 n->texts.validate, NULL, false);
}

/* The table first, whose validation goes down to those that inherit it */
static void
prove_body(JobRun *run, void *arg)
{
	NotNullRun *n = arg;
	ListCell   *lc;

	run_check_request(run);
	run_lock(run->relid, ShareUpdateExclusiveLock);
	follow_name(run);
	foreach(lc, find_unproven(run->job, run->relid))
	{
		UnprovenNotNull *u = lfirst(lc);

		run_statement_within(run, u->relid, ShareUpdateExclusiveLock, u->validate,
							 NULL, false);
	}
	n->already = column_is_not_null(run->job, run->relid);
}

static void
set_body(JobRun *run, void *arg)
{
	NotNullRun *n = arg;
	ListCell   *lc;

	run_check_request(run);
	run_lock(run->relid, AccessExclusiveLock);
	follow_name(run);
	foreach(lc, not_null_before(run->job, run->relid))
		run_statement_within(run, lfirst_oid(lc), AccessExclusiveLock,
							 n->texts.set, n->texts.set, false);
	run_statement_within(run, run->relid, AccessExclusiveLock, n->texts.set,
						 n->texts.unset, false);
}

static void
raise_nulls(JobRun *run, NotNullRun *n)
{
	StringInfoData keys;
	ListCell   *lc;

	run_or_error(run, count_body, n);
	initStringInfo(&keys);
	foreach(lc, n->examples)
	{
		run_error_row(run, job_relation_text(run->job),
					  DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(lfirst(lc)))),
					  "23502", "the column is NULL");
		appendStringInfo(&keys, "%s%s", keys.len > 0 ? ", " : "", (char *) lfirst(lc));
	}
	ereport(ERROR,
			(errcode(ERRCODE_NOT_NULL_VIOLATION),
			 errmsg_plural("column %s of relation %s is NULL in " INT64_FORMAT " row",
						   "column %s of relation %s is NULL in " INT64_FORMAT " rows",
						   (unsigned long) n->nulls,
						   quote_identifier(json_text(run->job->arguments, "column")),
						   job_relation_text(run->job), n->nulls),
			 errdetail("Examples: %s.", keys.data),
			 errhint("Fill them with tenantmig.backfill, then: SELECT tenantmig.retry(" INT64_FORMAT ");",
					 run->job->id)));
}

/* Reads the tables; rows that are NULL are listed */
static void
validate(JobRun *run, RunBody body, NotNullRun *n)
{
	ErrorData  *error;

	run_set_phase(run, "validating");
	error = run_try_patiently(run, body, n);
	if (error && (error->sqlerrcode == ERRCODE_CHECK_VIOLATION ||
				  error->sqlerrcode == ERRCODE_NOT_NULL_VIOLATION))
		raise_nulls(run, n);
	if (error)
		ReThrowError(error);
}

static void
not_null_run(JobRun *run)
{
	NotNullRun	n = {.already = false};

	run_or_error(run, resolve_body, &n);
	if (n.unproven != NIL)
		validate(run, prove_body, &n);
	if (n.already)
		return;
	run_set_phase(run, "adding check constraint");
	if (!n.added)
		run_statement(run, run->relid, AccessExclusiveLock, n.texts.add,
					  n.texts.drop, true);
	STOP_POINT("not-null-added");

	validate(run, validate_body, &n);
	STOP_POINT("not-null-validated");

	run_set_phase(run, "setting not null");
	run_patiently(run, set_body, &n);
	STOP_POINT("not-null-set");
}

const StepOps not_null_ops = {
	.kind = "set_not_null",
	.plan = not_null_plan,
	.run = not_null_run,
	.holds = column_is_not_null,
	.take_back = not_null_take_back,
};
