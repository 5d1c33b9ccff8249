/*
 * job_control.c
 *		The SQL calls that control and watch jobs.
 *
 * A control call locks the job's row first, as the claim does, so that what
 * it decides on does not change under it.  A job that nobody works on changes
 * its state here; for one that somebody works on, a request is left and its
 * process is interrupted when this transaction commits.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/job.h"
#include "engine/json.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/run.h"
#include "engine/settings.h"
#include "engine/throttle.h"
#include "engine/worker.h"

PG_FUNCTION_INFO_V1(tenantmig_start);
PG_FUNCTION_INFO_V1(tenantmig_pause);
PG_FUNCTION_INFO_V1(tenantmig_resume);
PG_FUNCTION_INFO_V1(tenantmig_cancel);
PG_FUNCTION_INFO_V1(tenantmig_retry);
PG_FUNCTION_INFO_V1(tenantmig_alter_job);
PG_FUNCTION_INFO_V1(tenantmig_assert_done);
PG_FUNCTION_INFO_V1(tenantmig_wait);
PG_FUNCTION_INFO_V1(tenantmig_run);
PG_FUNCTION_INFO_V1(tenantmig_purge_jobs);
PG_FUNCTION_INFO_V1(tenantmig_job_state);
PG_FUNCTION_INFO_V1(tenantmig_job_phase);
PG_FUNCTION_INFO_V1(tenantmig_job_pid);
PG_FUNCTION_INFO_V1(tenantmig_job_helpers);

static bool
is(const char *state, const char *other)
{
	return strcmp(state, other) == 0;
}

/* The job, its row locked, allowed to be controlled; *state as it is now */
static Job *
get_for_control(int64 id, const char **state)
{
	OwnQuery	query;
	Job		   *job;

	/* rights first: a stranger must not wait for, or hold, the row */
	(void) job_get(id);
	query_init(&query, "SELECT FROM tenantmig.job WHERE id = $1 FOR UPDATE");
	query_int8(&query, id);
	(void) query_once(&query);
	job = job_get(id);
	*state = job_live_state(job);
	return job;
}

/* A migration whose variable is empty must not go on */
int64
job_argument(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("job must not be null"),
				 errhint("Look for it with: SELECT id, kind, relation, state FROM tenantmig.jobs;")));
	return PG_GETARG_INT64(0);
}

static void
wrong_state(const Job *job, const char *state, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s job " INT64_FORMAT ": it is %s", what, job->id, state),
			 is(state, "planned") ? errhint("Run it with: SELECT tenantmig.start(" INT64_FORMAT ");", job->id)
			 : is(state, "paused") ? errhint("Go on with it with: SELECT tenantmig.resume(" INT64_FORMAT ");", job->id)
			 : is(state, "failed") || is(state, "cancelled") ? errhint("Queue it again with: SELECT tenantmig.retry(" INT64_FORMAT ");", job->id)
			 : is(state, "succeeded") && job->undone_by != 0 ? errhint("Job " INT64_FORMAT " has undone it; to do it again, call its function again.", job->undone_by)
			 : is(state, "succeeded") ? errhint("Take it back with: SELECT tenantmig.undo(" INT64_FORMAT ");", job->id)
			 : errhint("Wait for it with: CALL tenantmig.wait(" INT64_FORMAT ");", job->id)));
}

static void
requeue(const Job *job)
{
	job_requeued(job->id, GetUserId(), namespace_search_path,
				 job->at_home ? job->relid : job_relation(job));
	worker_ask_at_commit(job->id);
}

Datum
tenantmig_start(PG_FUNCTION_ARGS)
{
	const char *state;
	Job		   *job = get_for_control(job_argument(fcinfo), &state);

	if (!is(state, "planned"))
		wrong_state(job, state, "start");
	requeue(job);
	PG_RETURN_VOID();
}

Datum
tenantmig_pause(PG_FUNCTION_ARGS)
{
	const char *state;
	Job		   *job = get_for_control(job_argument(fcinfo), &state);

	if (is(state, "running"))
	{
		job_set_request(job->id, "pause");
		worker_interrupt_at_commit(job->id);
	}
	else if (is(state, "queued") || is(state, "paused"))
		job_set_state(job->id, "paused");
	else
		wrong_state(job, state, "pause");
	PG_RETURN_VOID();
}

Datum
tenantmig_resume(PG_FUNCTION_ARGS)
{
	const char *state;
	Job		   *job = get_for_control(job_argument(fcinfo), &state);

	if (is(state, "paused"))
		requeue(job);
	else if (is(state, "queued"))
		worker_ask_at_commit(job->id);
	else if (is(state, "running") && job->request == NULL)
		ereport(NOTICE,
				(errmsg("job " INT64_FORMAT " is running already", job->id)));
	else if (is(state, "running"))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot resume job " INT64_FORMAT ": a %s was asked for and has not taken effect yet",
						job->id, job->request),
				 errhint("Call again in a moment.")));
	else
		wrong_state(job, state, "resume");
	PG_RETURN_VOID();
}

Datum
tenantmig_cancel(PG_FUNCTION_ARGS)
{
	const char *state;
	Job		   *job = get_for_control(job_argument(fcinfo), &state);

	if (is(state, "running"))
	{
		job_set_request(job->id, "cancel");
		worker_interrupt_at_commit(job->id);
	}
	else if (is(state, "planned") ||
			 ((is(state, "queued") || is(state, "paused")) &&
			  step_list(job->id) == NIL))
		job_set_state(job->id, "cancelled");
	else if (is(state, "queued") || is(state, "paused"))
	{
		/* a worker must remove what the job has half-made */
		requeue(job);
		job_set_request(job->id, "cancel");
	}
	else
		wrong_state(job, state, "cancel");
	PG_RETURN_VOID();
}

Datum
tenantmig_retry(PG_FUNCTION_ARGS)
{
	const char *state;
	Job		   *job = get_for_control(job_argument(fcinfo), &state);

	if (!is(state, "failed") && !is(state, "cancelled"))
		wrong_state(job, state, "retry");
	if (job->undone_by != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot retry job " INT64_FORMAT ": job " INT64_FORMAT " has undone it",
						job->id, job->undone_by),
				 errhint("Call its function again.")));
	requeue(job);
	PG_RETURN_VOID();
}

/* --- alter_job ------------------------------------------------------- */

static Jsonb *
merge_options(Jsonb *old, Jsonb *changes)
{
	OwnQuery	query;
	MemoryContext context = CurrentMemoryContext;
	Jsonb	   *merged;

	query_init(&query, "SELECT jsonb_strip_nulls($1 || $2)");
	query_jsonb(&query, old);
	query_jsonb(&query, changes);
	SPI_connect();
	query_run(&query);
	MemoryContextSwitchTo(context);
	merged = query_get_jsonb(0, 1);
	SPI_finish();
	return merged;
}

Datum
tenantmig_alter_job(PG_FUNCTION_ARGS)
{
	const char *state;
	Job		   *job = get_for_control(job_argument(fcinfo), &state);
	Jsonb	   *changes = PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1);
	ListCell   *lc;
	Jsonb	   *merged;

	if (is(state, "succeeded") || is(state, "failed") || is(state, "cancelled"))
		wrong_state(job, state, "alter");
	if (changes == NULL || !JB_ROOT_IS_OBJECT(changes))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object")));
	foreach(lc, json_keys(changes))
		if (!throttle_is_option(lfirst(lc)))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" cannot be changed", (char *) lfirst(lc)),
					 errhint("Those that can: %s.", throttle_option_names())));
	merged = merge_options(job->options, changes);
	throttle_check_options(merged);
	job_set_options(job->id, merged);
	PG_RETURN_VOID();
}

/* --- looking --------------------------------------------------------- */

Datum
tenantmig_job_state(PG_FUNCTION_ARGS)
{
	Job		   *job = job_read(PG_GETARG_INT64(0));

	if (job == NULL || !job_is_visible(job))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(job_live_state(job)));
}

Datum
tenantmig_job_pid(PG_FUNCTION_ARGS)
{
	Job		   *job = job_read(PG_GETARG_INT64(0));
	int			pid = job && job_is_visible(job) ? lock_job_pid(job->id) : 0;

	if (pid == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT32(pid);
}

Datum
tenantmig_job_helpers(PG_FUNCTION_ARGS)
{
	Job		   *job = job_read(PG_GETARG_INT64(0));
	List	   *pids = job && job_is_visible(job) ? lock_helpers(job->id) : NIL;
	Datum	   *values = palloc(sizeof(Datum) * (list_length(pids) + 1));
	ListCell   *lc;

	foreach(lc, pids)
		values[foreach_current_index(lc)] = Int32GetDatum(lfirst_int(lc));
	PG_RETURN_ARRAYTYPE_P(construct_array(values, list_length(pids), INT4OID,
										  sizeof(int32), true, TYPALIGN_INT));
}

/* What the progress row says, and how long the job has been queued */
static char *
recorded_phase(int64 id, bool *queued_long)
{
	OwnQuery	query;
	MemoryContext context = CurrentMemoryContext;
	char	   *phase = NULL;

	*queued_long = false;
	query_init(&query, "SELECT p.phase, "
			   "j.queued_at < clock_timestamp() - interval '2 seconds' "
			   "FROM tenantmig.job j LEFT JOIN tenantmig.job_progress p ON p.job = j.id "
			   "WHERE j.id = $1");
	query_int8(&query, id);
	SPI_connect();
	if (query_run(&query) > 0)
	{
		MemoryContextSwitchTo(context);
		phase = query_get_text(0, 1);
		*queued_long = query_get_bool(0, 2);
	}
	SPI_finish();
	return phase;
}

static char *
queued_phase(const Job *job, bool queued_long)
{
	bool		failed;
	int64		other = job_unmet_dependency(job->id, &failed);

	if (other != 0 && !failed)
		return psprintf("waiting for job " INT64_FORMAT, other);
	if (lock_slots_taken() >= setting_max_workers)
		return "waiting for one of tenantmig.max_workers";
	if (queued_long)
		return "waiting for a free worker slot (max_worker_processes)";
	return "queued";
}

Datum
tenantmig_job_phase(PG_FUNCTION_ARGS)
{
	Job		   *job = job_read(PG_GETARG_INT64(0));
	const char *state;
	bool		queued_long;
	char	   *phase;

	if (job == NULL || !job_is_visible(job))
		PG_RETURN_NULL();
	phase = recorded_phase(job->id, &queued_long);
	state = job_live_state(job);
	if (job->undone_by != 0)
		phase = psprintf("undone by job " INT64_FORMAT, job->undone_by);
	else if (!job->at_home && is(state, "paused"))
		phase = "restored from a dump or a copy";
	else if (is(state, "paused") && is(job->state, "running"))
		phase = "interrupted";
	else if (is(state, "queued"))
		phase = queued_phase(job, queued_long);
	else if (is(state, "planned"))
		phase = "planned";
	else if (is(state, "succeeded"))
		phase = "done";
	if (phase == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(phase));
}

/* Raise what a job ended with, unless it succeeded or has not ended */
static void
raise_job_error(const Job *job, const char *state)
{
	if (is(state, "failed"))
		ereport(ERROR,
				(errcode(job->sqlstate ? MAKE_SQLSTATE(job->sqlstate[0], job->sqlstate[1],
													   job->sqlstate[2], job->sqlstate[3],
													   job->sqlstate[4])
						 : ERRCODE_INTERNAL_ERROR),
				 errmsg("job " INT64_FORMAT " failed: %s", job->id,
						job->error ? job->error : "no error was recorded"),
				 job->error_detail ? errdetail_internal("%s", job->error_detail) : 0,
				 job->error_hint ? errhint("%s", job->error_hint)
				 : errhint("Mend the cause, then: SELECT tenantmig.retry(" INT64_FORMAT ");", job->id)));
	if (is(state, "cancelled"))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " was cancelled", job->id),
				 errhint("Queue it again with: SELECT tenantmig.retry(" INT64_FORMAT ");", job->id)));
}

static Jsonb *
job_progress_numbers(int64 id)
{
	OwnQuery	query;
	MemoryContext context = CurrentMemoryContext;
	Jsonb	   *numbers = NULL;

	query_init(&query, "SELECT to_jsonb(p) FROM tenantmig.job_progress p WHERE job = $1");
	query_int8(&query, id);
	SPI_connect();
	if (query_run(&query) > 0)
	{
		MemoryContextSwitchTo(context);
		numbers = query_get_jsonb(0, 1);
	}
	SPI_finish();
	return numbers;
}

/* "filling rows, 1200 of 5000 rows (24 %)" */
static char *
progress_text(int64 id)
{
	Jsonb	   *p = job_progress_numbers(id);
	char	   *phase = json_text(p, "phase");
	int64		done = json_int(p, "rows_done", 0);
	int64		total = json_int(p, "rows_total", -1);
	char	   *reason = json_text(p, "throttle_reason");
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoString(&buf, phase ? phase : "not started");
	if (total > 0)
		appendStringInfo(&buf, ", " INT64_FORMAT " of " INT64_FORMAT " rows (%d %%)",
						 done, total, (int) (100.0 * done / total));
	if (reason)
		appendStringInfo(&buf, "; resting: %s", reason);
	return buf.data;
}

Datum
tenantmig_assert_done(PG_FUNCTION_ARGS)
{
	Job		   *job = job_get(job_argument(fcinfo));
	const char *state = job_live_state(job);

	if (is(state, "succeeded") && job->undone_by == 0)
		PG_RETURN_VOID();
	if (job->undone_by != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " was undone by job " INT64_FORMAT,
						job->id, job->undone_by),
				 errhint("To do it again, call its function again.")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("job " INT64_FORMAT " has not succeeded: it is %s", job->id, state),
			 job->error ? errdetail_internal("%s", job->error)
			 : errdetail_internal("Progress: %s.", progress_text(job->id)),
			 is(state, "failed") || is(state, "cancelled")
			 ? errhint("Mend the cause, then: SELECT tenantmig.retry(" INT64_FORMAT ");", job->id)
			 : is(state, "paused")
			 ? errhint("SELECT tenantmig.resume(" INT64_FORMAT ");", job->id)
			 : is(state, "planned")
			 ? errhint("SELECT tenantmig.start(" INT64_FORMAT ");", job->id)
			 : errhint("Wait for it before this migration: CALL tenantmig.wait(" INT64_FORMAT ");", job->id)));
}

/* --- the procedures -------------------------------------------------- */

/* Procedures that commit must be the outermost statement of a session */
static int64
check_top_level(FunctionCallInfo fcinfo, const char *name)
{
	int64		id = job_argument(fcinfo);
	bool		atomic = true;

	if (fcinfo->context && IsA(fcinfo->context, CallContext))
		atomic = castNode(CallContext, fcinfo->context)->atomic;
	if (atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("tenantmig.%s cannot run inside a transaction block", name),
				 errdetail("A job that was recorded in this transaction cannot start before it commits."),
				 errhint("Commit first, then send CALL tenantmig.%s(" INT64_FORMAT "); on its own. A migration that must not wait can check with: SELECT tenantmig.assert_done(" INT64_FORMAT ");",
						 name, id, id)));
	return id;
}

/* The waiter itself may be what the job waits for: then it waits for ever */
static void
check_not_in_the_way(const Job *job)
{
	OwnQuery	query;
	int			pid = lock_job_pid(job->id);
	bool		blocked;

	if (pid == 0)
		return;
	query_init(&query, "SELECT pg_blocking_pids($1) @> ARRAY[$2]");
	query_int4(&query, pid);
	query_int4(&query, MyProcPid);
	SPI_connect();
	query_run(&query);
	blocked = query_get_bool(0, 1);
	SPI_finish();
	if (blocked)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("job " INT64_FORMAT " waits for this session", job->id),
				 errdetail("Process %d, which works on it, wants a lock that this session (process %d) holds.",
						   pid, MyProcPid),
				 errhint("Release session-level locks and close cursors, then wait again.")));
}

/* One look at the job; true when the waiting is over */
static bool
look(int64 id, char **told, bool nudge)
{
	Job		   *job = job_get(id);
	const char *state = job_live_state(job);
	bool		failed;
	char	   *text;

	/* it ended between two looks: what it ended with is in the row by now */
	if (!is(state, job->state))
		job = job_get(id);
	raise_job_error(job, state);
	if (is(state, "succeeded"))
		return true;
	if (is(state, "planned"))
		wrong_state(job, state, "wait for");
	if (!nudge)
		return false;
	check_not_in_the_way(job);
	/* a slot may have become free */
	if (is(state, "queued") && lock_job_pid(id) == 0 &&
		lock_slots_taken() < setting_max_workers &&
		job_unmet_dependency(id, &failed) == 0)
		(void) worker_start(MyDatabaseId, id);
	text = psprintf("job " INT64_FORMAT " is %s: %s", id, state,
					progress_text(id));
	if (*told == NULL || strcmp(text, *told) != 0)
	{
		ereport(NOTICE,
				(errmsg_internal("%s", text),
				 is(state, "paused")
				 ? errhint("Go on with it with: SELECT tenantmig.resume(" INT64_FORMAT ");", id) : 0));
		*told = MemoryContextStrdup(TopMemoryContext, text);
	}
	return false;
}

/*
 * Poll, and commit between the polls: a waiting transaction's snapshot would
 * hold up CREATE INDEX CONCURRENTLY in the worker for ever.
 */
Datum
tenantmig_wait(PG_FUNCTION_ARGS)
{
	int64		id = check_top_level(fcinfo, "wait");
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz deadline = 0;
	TimestampTz next_nudge = TimestampTzPlusMilliseconds(start, 1000);
	char	   *told = NULL;
	long		pause = 10;

	if (!PG_ARGISNULL(1))
		deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
														   TimestampTzGetDatum(start),
														   PG_GETARG_DATUM(1)));
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		bool		nudge = now >= next_nudge;

		if (look(id, &told, nudge))
			break;
		if (nudge)
			next_nudge = TimestampTzPlusMilliseconds(now, 2000);
		if (deadline != 0 && now >= deadline)
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("timeout while waiting for job " INT64_FORMAT, id),
					 errdetail("Progress: %s.", progress_text(id)),
					 errhint("The job goes on. Wait again with: CALL tenantmig.wait(" INT64_FORMAT ");", id)));
		SPI_commit();
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 pause, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		pause = Min(pause * 2, 250);
	}
	SPI_finish();
	PG_RETURN_VOID();
}

/*
 * A worker that has paused or handed back the job is still letting go of it for
 * a moment; one that has taken it up keeps it.
 */
static bool
claim_soon(int64 id)
{
	for (int attempt = 0; attempt < 100; attempt++)
	{
		if (lock_claim_job(id))
			return true;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 10, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return false;
}

/* The claim comes first: a job that is queued before it can be taken up by
 * anybody */
static bool
claim_and_queue(const Job *job)
{
	if (!claim_soon(job->id))
		return false;
	PG_TRY();
	{
		if (is(job->state, "paused"))
			job_requeued(job->id, GetUserId(), namespace_search_path,
						 job_relation(job));
		SPI_commit();
	}
	PG_CATCH();
	{
		lock_release_job(job->id);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return true;
}

Datum
tenantmig_run(PG_FUNCTION_ARGS)
{
	int64		id = check_top_level(fcinfo, "run");
	Job		   *job = job_get(id);
	const char *state = job_live_state(job);
	bool		failed;
	int64		other;

	if (!is(state, "queued") && !(is(state, "paused") && job->at_home))
		wrong_state(job, state, "run");
	job_add_feeders(id, 0);
	other = job_unmet_dependency(id, &failed);
	if (other != 0 && !failed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " builds on job " INT64_FORMAT ", which has not ended",
						id, other),
				 errhint("First: CALL tenantmig.run(" INT64_FORMAT ");", other)));
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	if (!claim_and_queue(job) || job_run_claimed(id, true) != RUN_ENDED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("job " INT64_FORMAT " was taken up by another process", id),
				 errhint("Wait for it with: CALL tenantmig.wait(" INT64_FORMAT ");", id)));
	SPI_finish();
	PG_RETURN_VOID();
}

/* --- purge ----------------------------------------------------------- */

Datum
tenantmig_purge_jobs(PG_FUNCTION_ARGS)
{
	OwnQuery	query;
	uint64		count;
	int64	   *ids;
	int64		purged = 0;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("older_than must not be null")));
	SPI_connect();
	query_init(&query, "SELECT id FROM tenantmig.job "
			   "WHERE state IN ('planned', 'succeeded', 'failed', 'cancelled') "
			   "AND COALESCE(finished_at, created_at) < now() - $1 "
	/* a fill trigger that is still there reads its job */
			   "AND NOT EXISTS (SELECT FROM pg_trigger t "
			   " JOIN pg_proc p ON p.oid = t.tgfoid "
			   " JOIN pg_namespace n ON n.oid = p.pronamespace "
			   " WHERE n.nspname = 'tenantmig' AND p.proname = 'fill_tenant' "
			   " AND t.tgargs = job.id::text::bytea || decode('00', 'hex')) "
			   "ORDER BY id");
	query_datum(&query, INTERVALOID, PG_GETARG_DATUM(0), false);
	count = query_run(&query);
	ids = palloc(sizeof(int64) * Max(count, 1));
	for (uint64 i = 0; i < count; i++)
		ids[i] = query_get_int8(i, 1, 0);
	for (uint64 i = 0; i < count; i++)
	{
		Job		   *job = job_read(ids[i]);

		if (job == NULL || !job_is_visible(job))
			continue;
		query_init(&query, "DELETE FROM tenantmig.job WHERE id = $1");
		query_int8(&query, ids[i]);
		purged += query_run(&query);
	}
	SPI_finish();
	PG_RETURN_INT64(purged);
}
