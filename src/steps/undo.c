/*
 * undo.c
 *		undo: run the recorded inverses of another job in reverse order.
 *
 * Each inverse was written to the journal before the step it belongs to could
 * take effect, so a job that failed or was cancelled half-way can be undone as
 * well as one that succeeded.  An inverse and the mark that it has run are one
 * transaction; an interrupted undo goes on where it stopped.  It is run on the
 * relation of the step, by its OID: whatever that is called by now, and never on
 * another one that has got its name.
 *
 * Jobs that build on each other are undone in reverse order: taking a column
 * or its values away under a later NOT NULL, index, key or policy is refused,
 * with the job to undo first; so are NOT NULL and a primary key under a later
 * primary key.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/job.h"
#include "engine/json.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "steps/index.h"
#include "steps/kinds.h"
#include "steps/target.h"

PG_FUNCTION_INFO_V1(tenantmig_undo);

/*
 * A later job that stands on what this one did: on the same table, or on a
 * table that takes its tenant from this one; 0 if there is none.  Jobs of the
 * same home know the same OIDs; of a restored job, later ones may have come with
 * it or have been recorded or resumed here.  When an undo is recorded, later
 * jobs whose own undo is under way do not count: it comes first (see
 * tables_below).  When it runs, they must have been undone.
 */
static int64
later_job(const Job *job, bool recording, char **describe)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	int64		later = 0;

	if (strcmp(job->kind, "add_tenant_column") != 0 &&
		strcmp(job->kind, "backfill") != 0 &&
		strcmp(job->kind, "set_not_null") != 0 &&
		strcmp(job->kind, "set_primary_key") != 0)
		return 0;
	query_init(&query,
			   "SELECT id, kind || ' of ' || format('%I.%I', schema_name, relation_name) "
			   "FROM tenantmig.job j "
			   "WHERE id > $1 AND kind <> 'undo' AND undone_by IS NULL "
			   "AND state IN ('queued', 'running', 'paused', 'succeeded') "
			   "AND (home = (SELECT t.home FROM tenantmig.job t WHERE t.id = $1) "
			   "  AND (relid = $2 OR $2 = ANY (reads)) "
			   " OR home = $5 AND (relid = $6 OR $6 = ANY (reads))) "
			   "AND CASE WHEN $7 = 'set_primary_key' "
			   "THEN kind = 'set_primary_key' AND relid IN ($2, $6) "
			   "WHEN kind IN ('set_primary_key', 'add_foreign_key') "
			   "THEN arguments -> 'columns' ? $3 AND ($7 <> 'set_not_null' OR kind = 'set_primary_key') "
			   "WHEN $7 = 'set_not_null' THEN false "
			   "WHEN kind = 'create_index' "
			   "THEN arguments -> 'names' ?| ARRAY[$3, 'expr'] "
			   " OR arguments -> 'include' ? $3 OR arguments ? 'predicate' "
			   "ELSE COALESCE(arguments ->> 'column', $3) = $3 END "
			   "AND NOT ($4 AND EXISTS (SELECT FROM tenantmig.job u "
			   " WHERE u.kind = 'undo' AND u.target = j.id AND u.state IN ('queued', 'running'))) "
			   "ORDER BY id DESC LIMIT 1");
	query_int8(&query, job->id);
	query_oid(&query, job->relid);
	query_text(&query, json_text(job->arguments, "column"));
	query_bool(&query, recording);
	query_int8(&query, identity_home());
	query_oid(&query, job_find_relation(job, job->relid, job->schema_name,
										job->relation_name));
	query_text(&query, job->kind);
	SPI_connect();
	if (query_run(&query) > 0)
	{
		MemoryContextSwitchTo(context);
		later = query_get_int8(0, 1, 0);
		*describe = query_get_text(0, 2);
	}
	SPI_finish();
	return later;
}

/* The tables that take their tenant from this one */
static List *
tables_below(Oid relid)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	List	   *tables = NIL;
	uint64		count;

	query_init(&query, "SELECT DISTINCT relid FROM tenantmig.job "
			   "WHERE home = $1 AND kind <> 'undo' AND $2 = ANY (reads)");
	query_int8(&query, identity_home());
	query_oid(&query, relid);
	SPI_connect();
	count = query_run(&query);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < count; i++)
		tables = lappend_oid(tables, query_get_oid(i, 1));
	SPI_finish();
	return tables;
}

static void
check_undoable(const Job *job, bool recording)
{
	const char *state = job_live_state(job);
	char	   *describe;
	int64		later;

	if (strcmp(job->kind, "undo") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " is itself an undo", job->id),
				 errhint("Call the function of job " INT64_FORMAT " again.", job->target)));
	if (strcmp(state, "succeeded") != 0 && strcmp(state, "failed") != 0 &&
		strcmp(state, "cancelled") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot undo job " INT64_FORMAT ": it is %s", job->id, state),
				 strcmp(state, "planned") == 0
				 ? errhint("It has changed nothing.")
				 : errhint("First: SELECT tenantmig.cancel(" INT64_FORMAT ");", job->id)));
	later = later_job(job, recording, &describe);
	if (later != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot undo job " INT64_FORMAT ": a later job builds on it", job->id),
				 errdetail("Job " INT64_FORMAT " is %s.", later, describe),
				 errhint("First: SELECT tenantmig.undo(" INT64_FORMAT ");", later)));
}

Datum
tenantmig_undo(PG_FUNCTION_ARGS)
{
	Job		   *target;
	JobRequest	request = {.kind = "undo"};

	target_require(fcinfo, 0, "job");
	target_require(fcinfo, 1, "dry_run");
	target = job_get(PG_GETARG_INT64(0));
	if (target->undone_by != 0)
	{
		ereport(NOTICE,
				(errmsg("job " INT64_FORMAT " has been undone by job " INT64_FORMAT " already",
						target->id, target->undone_by)));
		PG_RETURN_INT64(target->undone_by);
	}
	check_undoable(target, true);

	request.relid = job_relation(target);
	if (OidIsValid(request.relid))
		target_check_relation(request.relid);
	request.arguments = json_end(json_begin());
	request.target = target->id;
	request.reads = tables_below(request.relid);
	request.dry_run = PG_GETARG_BOOL(1);
	request.describe = psprintf("undo of job " INT64_FORMAT " (%s of %s)",
								target->id, target->kind,
								job_relation_text(target));
	PG_RETURN_INT64(job_submit(&request));
}

/* Steps of the target that have something to take back */
static bool
stands(const JobStep *step)
{
	return strcmp(step->state, "done") == 0 || strcmp(step->state, "running") == 0;
}

static Jsonb *
undo_plan(const Job *job, Oid relid)
{
	JsonObject *plan = json_begin();
	Job		   *target = job_read(job->target);
	List	   *steps = step_list(job->target);
	int			count = 0;

	if (step_ops(target->kind)->plan_undo)
		return step_ops(target->kind)->plan_undo(job, target, relid);
	for (int i = list_length(steps) - 1; i >= 0; i--)
	{
		JobStep    *step = list_nth(steps, i);
		Oid			table = step_relation(target, step);

		if (!stands(step) || step->inverse == NULL || !OidIsValid(table))
			continue;
		count++;
		(void) step_write(job->id, step->kind, table, "planned",
						  step->inverse, NULL, false,
						  step->kind == STEP_BATCHES ? RowExclusiveLock
						  : step->kind == STEP_TOPLEVEL ? ShareUpdateExclusiveLock
						  : AccessExclusiveLock);
	}
	json_put_int(plan, "statements", count);
	return json_end(plan);
}

typedef struct UndoArg
{
	Job		   *target;
	List	   *steps;
} UndoArg;

static void
read_target_body(JobRun *run, void *arg)
{
	UndoArg    *a = arg;

	run_check_request(run);
	MemoryContextSwitchTo(run->context);
	a->target = job_read(run->job->target);
	if (a->target == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("job " INT64_FORMAT " does not exist", run->job->target)));
	MemoryContextSwitchTo(run->scratch);
	check_undoable(a->target, false);
	MemoryContextSwitchTo(run->context);
	a->steps = step_list(run->job->target);
}

static void
check_loss_body(JobRun *run, void *arg)
{
	UndoArg    *a = arg;
	const StepOps *ops = step_ops(a->target->kind);
	ListCell   *lc;

	if (ops->check_undo == NULL)
		return;
	foreach(lc, a->steps)
	{
		if (!stands(lfirst(lc)))
			continue;
		ops->check_undo(run, a->target);
		return;
	}
}

static void
mark_undone_body(JobRun *run, void *arg)
{
	job_set_undone(run->job->target, run->job->id);
}

static void
undo_run(JobRun *run)
{
	UndoArg		arg;

	run->progress.phase = "undoing";
	run_or_error(run, read_target_body, &arg);
	run_or_error(run, check_loss_body, &arg);
	for (int i = list_length(arg.steps) - 1; i >= 0; i--)
	{
		JobStep    *step = list_nth(arg.steps, i);

		if (stands(step))
			run_inverse(run, arg.target, step);
	}
	run_bookkeeping(run, mark_undone_body, NULL);
}

const StepOps undo_ops = {
	.kind = "undo",
	.plan = undo_plan,
	.run = undo_run,
	.find_inverse = index_find_inverse,	/* it may have to build one again */
};
