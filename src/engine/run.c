/*
 * run.c
 *		A job at work in this process: transactions, requests, rests, progress.
 *
 * Transactions.  In a worker each one is started and committed outright.  In
 * the foreground (CALL run) SPI in non-atomic mode does it, and the body runs
 * in a subtransaction, so that after an error SPI, snapshots and user are
 * what they were, and the transaction can be rolled back by SPI too.
 *
 * Cancelling.  pause() and cancel() leave a request in the row and interrupt
 * the process when they commit.  So a request ends a batch or a concurrent
 * build at once (the batch is rolled back, which costs nothing but its time),
 * while book-keeping holds interrupts off.  An interrupt without a request
 * (pg_cancel_backend, Ctrl-C) pauses the job.
 */
#include "postgres.h"

#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "engine/compat.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/settings.h"
#include "engine/step.h"
#include "engine/stop_point.h"
#include "engine/throttle.h"

/* --- transactions ---------------------------------------------------- */

static void
run_body(JobRun *run, RunBody body, void *arg)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(run->scratch);
	body(run, arg);
	PopActiveSnapshot();
	SPI_finish();
}

ErrorData *
run_take_error(JobRun *run)
{
	ErrorData  *error;

	MemoryContextSwitchTo(run->context);
	error = CopyErrorData();
	FlushErrorState();
	return error;
}

static ErrorData *
worker_transaction(JobRun *run, RunBody body, void *arg)
{
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		run_body(run, body, arg);
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		disable_all_timeouts(false);
		error = run_take_error(run);
		AbortOutOfAnyTransaction();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	return error;
}

static ErrorData *
foreground_transaction(JobRun *run, RunBody body, void *arg)
{
	ErrorData  *volatile error = NULL;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		run_body(run, body, arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		error = run_take_error(run);
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	CurrentResourceOwner = owner;
	MemoryContextSwitchTo(run->context);
	if (error)
	{
		SPI_rollback();
		return error;
	}
	PG_TRY();
	{
		SPI_commit();
	}
	PG_CATCH();
	{
		error = run_take_error(run);
	}
	PG_END_TRY();
	return error;
}

ErrorData *
run_transaction(JobRun *run, RunBody body, void *arg)
{
	ErrorData  *error;

	MemoryContextReset(run->scratch);
	error = run->foreground ? foreground_transaction(run, body, arg)
		: worker_transaction(run, body, arg);

	/*
	 * As a backend does between statements.  Otherwise autovacuum and who
	 * watches would hear of the rows, and of the dead ones, when the job ends.
	 */
	if (!run->foreground)
		(void) pgstat_report_stat(false);
	MemoryContextSwitchTo(run->context);
	return error;
}

ErrorData *
run_catch(JobRun *run, RunBody work, void *arg)
{
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		work(run, arg);
	}
	PG_CATCH();
	{
		error = run_take_error(run);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(run->context);
	return error;
}

void
run_or_error(JobRun *run, RunBody body, void *arg)
{
	ErrorData  *error = run_transaction(run, body, arg);

	if (error)
		ReThrowError(error);
}

bool
run_is_transient(const ErrorData *error)
{
	switch (error->sqlerrcode)
	{
		case ERRCODE_LOCK_NOT_AVAILABLE:
		case ERRCODE_T_R_DEADLOCK_DETECTED:
		case ERRCODE_T_R_SERIALIZATION_FAILURE:
		case ERRCODE_TOO_MANY_CONNECTIONS:
		case ERRCODE_CONFIGURATION_LIMIT_EXCEEDED:
			return true;
		default:
			return false;
	}
}

ErrorData *
run_try_patiently(JobRun *run, RunBody body, void *arg)
{
	for (int attempt = 0;; attempt++)
	{
		ErrorData  *error = run_transaction(run, body, arg);

		if (error == NULL)
		{
			run_forget_throttle(run);
			return NULL;
		}
		if (!run_is_transient(error) ||
			(attempt >= setting_lock_retries && !run->ending))
			return error;
		run_rest(run, lock_backoff(attempt),
				 error->detail ? error->detail : error->message);
		FreeErrorData(error);
	}
}

void
run_patiently(JobRun *run, RunBody body, void *arg)
{
	ErrorData  *error = run_try_patiently(run, body, arg);

	if (error)
		ReThrowError(error);
}

void
run_bookkeeping(JobRun *run, RunBody body, void *arg)
{
	ErrorData  *error;

	HOLD_CANCEL_INTERRUPTS();
	error = run_transaction(run, body, arg);
	if (error)
		ReThrowError(error);
	RESUME_CANCEL_INTERRUPTS();
}

void
run_enter_owner(JobRun *run, Identity *saved)
{
	identity_enter_owner(saved, run->owner, run->job->search_path);
}

uint64
run_sql(JobRun *run, const char *sql)
{
	Identity	saved;
	int			result;

	run_enter_owner(run, &saved);
	result = SPI_execute(sql, false, 0);
	if (result < 0)
		elog(ERROR, "could not run: %s: %s", SPI_result_code_string(result), sql);
	identity_leave(&saved);
	return SPI_processed;
}

/* --- requests and rests ---------------------------------------------- */

/*
 * Somebody else has the job, or another job has its number, in an extension
 * that was dropped and made again: its row is not ours to write any more.
 */
static void
claim_lost(JobRun *run, const char *detail)
{
	run->lost = true;
	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("the claim on job " INT64_FORMAT " was lost", run->job->id),
			 errdetail_internal("%s", detail)));
}

char *
run_read_request(JobRun *run)
{
	OwnQuery	query;
	char	   *request;
	Jsonb	   *options;
	MemoryContext context;

	query_init(&query, "SELECT request, options, state = 'running' AND attempts = $2 "
			   "FROM tenantmig.job WHERE id = $1");
	query_int8(&query, run->job->id);
	query_int4(&query, run->job->attempts + 1);
	SPI_connect();
	if (query_run(&query) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("job " INT64_FORMAT " is gone", run->job->id)));
	if (!query_get_bool(0, 3))
		claim_lost(run, "Its row is no longer the one that this process claimed.");
	context = MemoryContextSwitchTo(run->context);
	request = query_get_text(0, 1);
	options = query_get_jsonb(0, 2);
	if (run->job->options)
		pfree(run->job->options);
	run->job->options = options;
	MemoryContextSwitchTo(context);
	SPI_finish();
	return request;
}

void
run_check_request(JobRun *run)
{
	if (!run->helping &&
		!lock_holds_job(run->job->id) && !lock_claim_job(run->job->id))
		claim_lost(run, "A function of the user's released all advisory locks, and another process took over the job.");
	run->job->request = run_read_request(run);
	if (run->job->request)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("%s of job " INT64_FORMAT " was asked for",
						run->job->request, run->job->id)));
}

static void
check_request_body(JobRun *run, void *arg)
{
	run_check_request(run);
}

static void
write_progress_body(JobRun *run, void *arg)
{
	run_write_progress(run);
}

static void
remember_reason(JobRun *run, const char *reason)
{
	char	   *old = run->progress.throttle_reason;

	if (old && strcmp(reason, old) == 0)
		return;
	run->progress.throttle_reason = MemoryContextStrdup(run->context, reason);
	run->reason_untold = true;
	if (old)
		pfree(old);
}

void
run_forget_throttle(JobRun *run)
{
	if (run->progress.throttle_reason)
		pfree(run->progress.throttle_reason);
	run->progress.throttle_reason = NULL;
}

/*
 * From a second on the progress row says why at once; the reason of a short
 * rest comes into it with the next batch.  The request is looked at once a
 * second: the interrupt of pause() comes sooner anyway.
 */
void
run_rest(JobRun *run, int ms, const char *reason)
{
	/* the rests before this one may have been too short to tell it */
	remember_reason(run, reason);
	if (run->reason_untold && ms >= 1000)
		run_bookkeeping(run, write_progress_body, NULL);
	while (ms > 0)
	{
		int			piece = Min(ms, 1000);

		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 piece, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (!run->foreground && ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (run->tend && !run->ending)
			run->tend(run);
		if (piece == 1000 && !run->ending)
			run_or_error(run, check_request_body, NULL);
		ms -= piece;
	}
}

/* --- progress -------------------------------------------------------- */

static void
query_int8_or_null(OwnQuery *query, int64 value)
{
	query_datum(query, INT8OID, Int64GetDatum(value), value < 0);
}

/* A helper adds its share; all else is the leader's to say */
static void
write_share(JobRun *run, OwnQuery *query)
{
	const Progress *p = &run->progress;

	query_init(query, "UPDATE tenantmig.job_progress SET "
			   "rows_done = rows_done + $2, wal_bytes = wal_bytes + $3, "
			   "batches = batches + $4, checkpoint = COALESCE($5, checkpoint), "
			   "blocks_done = COALESCE($6, blocks_done), "
			   "updated_at = clock_timestamp() WHERE job = $1");
	query_int8(query, run->job->id);
	query_int8(query, p->rows_done - p->rows_told);
	query_int8(query, p->wal_bytes - p->wal_told);
	query_int8(query, p->batches - p->batches_told);
	query_jsonb(query, p->checkpoint);
	query_int8_or_null(query, p->blocks_done);
}

static void
write_all(JobRun *run, OwnQuery *query)
{
	const Progress *p = &run->progress;

	query_init(query, "UPDATE tenantmig.job_progress SET phase = $2, "
			   "rows_total = $3, rows_done = rows_done + $4, blocks_total = $5, "
			   "blocks_done = $6, rows_per_second = $7, wal_bytes = wal_bytes + $8, "
			   "batches = batches + $9, throttle_reason = $10, "
			   "checkpoint = COALESCE($11, checkpoint), "
			   "throttle_facts = COALESCE($12, throttle_facts), "
			   "method = $13, method_reason = $14, held_by_pid = NULLIF($15, 0), "
			   "workers_reason = $16, partition = NULLIF($17, 0::oid), "
			   "partitions_total = NULLIF($18, 0), partitions_done = $19, "
			   "updated_at = clock_timestamp() WHERE job = $1");
	query_int8(query, run->job->id);
	query_text(query, p->phase);
	query_int8_or_null(query, p->rows_total);
	query_int8(query, p->rows_done - p->rows_told);
	query_int8_or_null(query, p->blocks_total);
	query_int8_or_null(query, p->blocks_done);
	query_float8(query, p->rows_per_second);
	query_int8(query, p->wal_bytes - p->wal_told);
	query_int8(query, p->batches - p->batches_told);
	query_text(query, p->throttle_reason);
	query_jsonb(query, p->checkpoint);
	query_jsonb(query, throttle_facts(run));
	query_text(query, p->method);
	query_text(query, p->method_reason);
	query_int4(query, p->held_by_pid);
	query_text(query, p->workers_reason);
	query_oid(query, p->leaf);
	query_int4(query, p->leaves_total);
	query_datum(query, INT4OID, Int32GetDatum(p->leaves_done), p->leaves_total == 0);
}

static void
sums_are_told(Progress *p)
{
	p->rows_told = p->rows_done;
	p->wal_told = p->wal_bytes;
	p->batches_told = p->batches;
}

/*
 * Sums are added to those of the row, since several processes may work on the
 * job.  If the transaction is rolled back, the caller sets run->progress back
 * to what it was.
 */
void
run_write_progress(JobRun *run)
{
	OwnQuery	query;

	SPI_connect();
	if (run->helping)
		write_share(run, &query);
	else
		write_all(run, &query);
	query_run(&query);
	SPI_finish();
	sums_are_told(&run->progress);
	run->reason_untold = false;
}

void
run_set_phase(JobRun *run, const char *phase)
{
	run->progress.phase = phase;
	run_bookkeeping(run, write_progress_body, NULL);
}

void
run_read_progress(JobRun *run)
{
	Progress   *p = &run->progress;
	OwnQuery	query;

	query_init(&query, "SELECT rows_total, rows_done, blocks_total, blocks_done, "
			   "wal_bytes, batches, checkpoint FROM tenantmig.job_progress "
			   "WHERE job = $1");
	query_int8(&query, run->job->id);
	SPI_connect();
	query_run(&query);
	MemoryContextSwitchTo(run->context);
	p->rows_total = query_get_int8(0, 1, -1);
	p->rows_done = query_get_int8(0, 2, 0);
	p->blocks_total = query_get_int8(0, 3, -1);
	p->blocks_done = query_get_int8(0, 4, -1);
	p->wal_bytes = query_get_int8(0, 5, 0);
	p->batches = query_get_int8(0, 6, 0);
	p->checkpoint = query_get_jsonb(0, 7);
	SPI_finish();
	sums_are_told(p);
}

void
run_read_sums(JobRun *run)
{
	Progress   *p = &run->progress;
	OwnQuery	query;

	query_init(&query, "SELECT rows_done, wal_bytes, batches "
			   "FROM tenantmig.job_progress WHERE job = $1");
	query_int8(&query, run->job->id);
	SPI_connect();
	query_run(&query);
	p->rows_done = query_get_int8(0, 1, 0);
	p->wal_bytes = query_get_int8(0, 2, 0);
	p->batches = query_get_int8(0, 3, 0);
	SPI_finish();
	sums_are_told(p);
}

/* --- for the report ---------------------------------------------------- */

typedef struct ErrorRowArg
{
	const char *relation;
	Jsonb	   *key;
	const char *sqlstate;
	const char *message;
} ErrorRowArg;

static void
note_body(JobRun *run, void *arg)
{
	job_merge_summary(run->job->id, arg);
}

void
run_note(JobRun *run, Jsonb *facts)
{
	run_bookkeeping(run, note_body, facts);
}

static void
error_row_body(JobRun *run, void *arg)
{
	ErrorRowArg *a = arg;

	job_add_error(run->job->id, a->relation, a->key, a->sqlstate, a->message);
}

void
run_error_row(JobRun *run, const char *relation, Jsonb *key,
			  const char *sqlstate, const char *message)
{
	ErrorRowArg arg = {relation, key, sqlstate, message};

	run_bookkeeping(run, error_row_body, &arg);
}
