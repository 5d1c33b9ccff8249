/*
 * run.c
 *		A job at work in this process: transactions, errors, requests.
 *
 * The way of a run:
 *
 *	claim		session lock on the job, then state running, in a transaction
 *				that counts the attempt.  A process that dies from here on
 *				leaves a running row without a claim.
 *	work		the kind's run(), many transactions, each written here
 *	clean up	inverses of the temporary steps (triggers, helper constraints),
 *				on success, failure and cancel, not on pause
 *	end			succeeded, failed, paused or cancelled, in a transaction of
 *				its own; then the claim is released
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

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/run.h"
#include "engine/settings.h"
#include "engine/sqltext.h"
#include "engine/step.h"
#include "engine/stop_point.h"
#include "engine/toplevel.h"

/* A job that crashed the server this often without a batch in between */
#define MAX_STALLED	5

static void set_throttle_reason(JobRun *run, const char *reason);

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

static ErrorData *
take_error(JobRun *run)
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
		error = take_error(run);
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
		error = take_error(run);
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
		error = take_error(run);
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
		error = take_error(run);
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
			set_throttle_reason(run, NULL);
			return NULL;
		}
		if (!run_is_transient(error) || attempt >= setting_lock_retries)
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

static char *
read_request(JobRun *run)
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
	if (!lock_holds_job(run->job->id) && !lock_claim_job(run->job->id))
		claim_lost(run, "A function of the user's released all advisory locks, and another process took over the job.");
	run->job->request = read_request(run);
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
set_throttle_reason(JobRun *run, const char *reason)
{
	char	   *old = run->progress.throttle_reason;

	if (reason == old || (reason && old && strcmp(reason, old) == 0))
		return;
	run->progress.throttle_reason = reason
		? MemoryContextStrdup(run->context, reason) : NULL;
	if (old)
		pfree(old);
	run_bookkeeping(run, write_progress_body, NULL);
}

void
run_forget_throttle(JobRun *run)
{
	if (run->progress.throttle_reason)
		pfree(run->progress.throttle_reason);
	run->progress.throttle_reason = NULL;
}

/*
 * Short rests (the usual share of "nice") are not worth a row; from a second
 * on the progress row says why.  The request is looked at once a second: the
 * interrupt of pause() comes sooner anyway.
 */
void
run_rest(JobRun *run, int ms, const char *reason)
{
	bool		told = false;

	while (ms > 0)
	{
		int			piece = Min(ms, 1000);

		if (!told && (ms >= 1000 || run->progress.throttle_reason))
		{
			set_throttle_reason(run, reason);
			told = true;
		}
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
		if (piece == 1000)
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

void
run_write_progress(JobRun *run)
{
	Progress   *p = &run->progress;
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job_progress SET phase = $2, "
			   "rows_total = $3, rows_done = $4, blocks_total = $5, "
			   "blocks_done = $6, rows_per_second = $7, wal_bytes = $8, "
			   "batches = $9, throttle_reason = $10, "
			   "checkpoint = COALESCE($11, checkpoint), "
			   "updated_at = clock_timestamp() WHERE job = $1");
	query_int8(&query, run->job->id);
	query_text(&query, p->phase);
	query_int8_or_null(&query, p->rows_total);
	query_int8(&query, p->rows_done);
	query_int8_or_null(&query, p->blocks_total);
	query_int8_or_null(&query, p->blocks_done);
	query_float8(&query, p->rows_per_second);
	query_int8(&query, p->wal_bytes);
	query_int8(&query, p->batches);
	query_text(&query, p->throttle_reason);
	query_jsonb(&query, p->checkpoint);
	SPI_connect();
	query_run(&query);
	SPI_finish();
}

void
run_set_phase(JobRun *run, const char *phase)
{
	run->progress.phase = phase;
	run_bookkeeping(run, write_progress_body, NULL);
}

static void
read_progress(JobRun *run)
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
}

/* --- steps ----------------------------------------------------------- */

typedef struct StatementArg
{
	Oid			relid;
	LOCKMODE	mode;
	StepKind	kind;
	const char *relation;
	const char *statement;
	const char *inverse;
	bool		temporary;
	const char *state;
	int			position;
} StatementArg;

static void
lock_or_error(Oid relid, LOCKMODE mode)
{
	LockBlocker blocker;

	if (OidIsValid(relid) && !lock_tree_try(relid, mode, &blocker))
		lock_not_had(&blocker);
	/* whatever else the statement locks is waited for no longer either */
	lock_set_timeout(setting_lock_timeout);
}

void
run_statement_within(JobRun *run, Oid relid, LOCKMODE mode,
					 const char *statement, const char *inverse, bool temporary)
{
	lock_or_error(relid, mode);
	(void) run_sql(run, statement);
	(void) step_write(run->job->id, STEP_STATEMENT,
					  job_relation_text(run->job), "done", statement, inverse,
					  temporary, mode);
}

static void
statement_body(JobRun *run, void *arg)
{
	StatementArg *a = arg;

	run_check_request(run);
	run_statement_within(run, a->relid, a->mode, a->statement, a->inverse,
						 a->temporary);
}

static void
step_state_body(JobRun *run, void *arg)
{
	StatementArg *a = arg;
	const char *state = step_state(run->job->id, a->statement);

	a->state = state == NULL ? NULL
		: MemoryContextStrdup(run->context, state);
}

void
run_statement(JobRun *run, Oid relid, LOCKMODE mode, const char *statement,
			  const char *inverse, bool temporary)
{
	StatementArg arg = {.relid = relid,.mode = mode,.statement = statement,
	.inverse = inverse,.temporary = temporary};

	run_or_error(run, step_state_body, &arg);
	if (arg.state && strcmp(arg.state, "done") == 0)
		return;
	run_patiently(run, statement_body, &arg);
}

static void
write_step_body(JobRun *run, void *arg)
{
	StatementArg *a = arg;

	run_check_request(run);
	a->position = step_write(run->job->id, a->kind, a->relation, a->state,
							 a->statement, a->inverse, a->temporary, a->mode);
}

static void
step_done_body(JobRun *run, void *arg)
{
	step_set_state(run->job->id, *(int *) arg, "done");
}

void
run_toplevel(JobRun *run, const char *relation, const char *statement,
			 const char *inverse)
{
	StatementArg arg = {.kind = STEP_TOPLEVEL,.relation = relation,
		.statement = statement,.inverse = inverse,
	.state = "running",.mode = ShareUpdateExclusiveLock};
	ErrorData  *error;

	if (run->foreground)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("this step of job " INT64_FORMAT " cannot run inside a procedure",
						run->job->id),
				 errdetail("The statement must be the outermost one of a session: %s",
						   statement),
				 errhint("Run it yourself: %s; then call tenantmig.retry(" INT64_FORMAT ") so that the job goes on.",
						 statement, run->job->id)));
	run_or_error(run, write_step_body, &arg);
	STOP_POINT("toplevel-before");
	error = toplevel_run(statement, run->owner, run->job->search_path,
						 run->context);
	STOP_POINT("toplevel-after");
	if (error)
		ReThrowError(error);
	run_bookkeeping(run, step_done_body, &arg.position);
}

static void
toplevel_done_body(JobRun *run, void *arg)
{
	const char *statement = arg;
	const char *state = step_state(run->job->id, statement);

	if (state && strcmp(state, "running") == 0)
		(void) step_write(run->job->id, STEP_TOPLEVEL, NULL, "done", statement,
						  NULL, false, NoLock);
}

void
run_toplevel_done(JobRun *run, const char *statement)
{
	run_bookkeeping(run, toplevel_done_body, unconstify(char *, statement));
}

typedef struct InverseArg
{
	const Job  *target;
	const JobStep *step;
} InverseArg;

static void
inverse_body(JobRun *run, void *arg)
{
	InverseArg *a = arg;

	if (a->step->kind == STEP_STATEMENT && a->step->inverse != NULL)
	{
		lock_or_error(run->relid, AccessExclusiveLock);
		(void) run_sql(run, a->step->inverse);
	}
	step_set_state(a->target->id, a->step->position, "undone");
}

void
run_inverse(JobRun *run, const Job *target, const JobStep *step)
{
	InverseArg	arg = {.target = target,.step = step};

	if (step->inverse != NULL)
	{
		if (step->kind == STEP_BATCHES)
			step_ops(target->kind)->undo_batches(run, target, step);
		else if (step->kind == STEP_TOPLEVEL)
		{
			ErrorData  *error;

			if (run->foreground)
				ereport(ERROR,
						(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
						 errmsg("this step of job " INT64_FORMAT " cannot run inside a procedure",
								run->job->id),
						 errhint("Run it yourself: %s", step->inverse)));
			STOP_POINT("inverse-before");
			error = toplevel_run(step->inverse, run->owner,
								 run->job->search_path, run->context);
			STOP_POINT("inverse-after");
			if (error)
				ReThrowError(error);
		}
	}
	run_patiently(run, inverse_body, &arg);
}

/* false: there is no such relation */
static bool
find_owner(Oid relid, Oid *owner)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));

	if (!HeapTupleIsValid(tuple))
		return false;
	*owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return true;
}

static void
list_steps_body(JobRun *run, void *arg)
{
	MemoryContextSwitchTo(run->context);
	*(List **) arg = step_list(run->job->id);
}

static void
take_over_name(JobRun *run)
{
	MemoryContext context;

	job_renamed(run->job->id, run->relid);
	context = MemoryContextSwitchTo(run->context);
	run->job->relation_name = get_rel_name(run->relid);
	run->job->schema_name = get_namespace_name(get_rel_namespace(run->relid));
	MemoryContextSwitchTo(context);
}

void
run_follow_name(JobRun *run)
{
	char	   *now = OidIsValid(run->relid) ? sql_relation(run->relid) : NULL;

	if (now != NULL && strcmp(now, job_relation_text(run->job)) != 0)
		take_over_name(run);
}

/*
 * What was made must go whatever the table is called and whoever owns it by
 * now.  A new name may have been taken over in a transaction that was rolled
 * back, so this looks at the row and not at the struct.
 */
static void
follow_relation_body(JobRun *run, void *arg)
{
	if (OidIsValid(run->relid) && find_owner(run->relid, &run->owner))
		take_over_name(run);
}

/* For a clean-up: the table may be gone, and then so is what was made on it */
static void
resolve_body(JobRun *run, void *arg)
{
	Oid			schema = InvalidOid;

	run->owner = run->job->owner;
	if (run->job->relation_name)
		schema = get_namespace_oid(run->job->schema_name, true);
	if (OidIsValid(schema))
		run->relid = get_relname_relid(run->job->relation_name, schema);
	if (OidIsValid(run->relid))
		(void) find_owner(run->relid, &run->owner);
}

void
run_clean_up(JobRun *run)
{
	List	   *steps = NIL;

	/* not found under its name: what was made on it, a retry that finds it
	 * removes */
	if (!OidIsValid(run->relid))
		run_or_error(run, resolve_body, NULL);
	if (run->job->relation_name != NULL && !OidIsValid(run->relid))
		return;
	run_or_error(run, follow_relation_body, NULL);
	run_or_error(run, list_steps_body, &steps);
	for (int i = list_length(steps) - 1; i >= 0; i--)
	{
		JobStep    *step = list_nth(steps, i);

		if ((step->temporary && strcmp(step->state, "done") == 0) ||
			(step->kind == STEP_TOPLEVEL && strcmp(step->state, "running") == 0))
			run_inverse(run, run->job, step);
	}
}

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

/* --- claim ----------------------------------------------------------- */

typedef struct ClaimArg
{
	int64		id;
	RunOutcome	outcome;
} ClaimArg;

/* The owner may have changed, and the caller may have lost its rights */
static void
resolve_relation(JobRun *run)
{
	Job		   *job = run->job;

	run->owner = job->owner;
	if (job->relation_name == NULL)
		return;
	run->relid = job_relation(job);
	if (!find_owner(run->relid, &run->owner))
		elog(ERROR, "cache lookup failed for relation %u", run->relid);

	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(job->caller)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("the role that recorded job " INT64_FORMAT " no longer exists",
						job->id),
				 errhint("As the owner of the table, take the job over with: SELECT tenantmig.retry(" INT64_FORMAT ");",
						 job->id)));
	if (!relation_ownercheck(run->relid, job->caller))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role %s, which recorded job " INT64_FORMAT ", no longer has the rights of the owner of %s",
						quote_identifier(GetUserNameFromId(job->caller, false)),
						job->id, job_relation_text(job)),
				 errhint("As the owner of the table, take the job over with: SELECT tenantmig.retry(" INT64_FORMAT ");",
						 job->id)));
}

/*
 * Decide under a row lock, so that a pause() that came first is seen.  Errors
 * about the table or its owner are not raised here: they fail the job later.
 */
static void
claim_body(JobRun *run, void *arg)
{
	ClaimArg   *a = arg;
	OwnQuery	query;
	bool		failed;

	query_init(&query, "SELECT FROM tenantmig.job WHERE id = $1 FOR UPDATE");
	query_int8(&query, a->id);
	query_run(&query);
	MemoryContextSwitchTo(run->context);
	run->job = job_read(a->id);
	MemoryContextSwitchTo(run->scratch);

	if (run->job == NULL || !run->job->at_home ||
		(strcmp(run->job->state, "queued") != 0 &&
		 strcmp(run->job->state, "running") != 0))
	{
		a->outcome = RUN_NOT_CLAIMED;
		return;
	}
	/* A request was asked of a process that is gone.  Cancelling has work to
	 * do: what was left half-made. */
	run->cancelling = run->job->request &&
		strcmp(run->job->request, "cancel") == 0;
	if (run->job->request && !run->cancelling)
	{
		job_set_state(a->id, "paused");
		a->outcome = RUN_NOT_CLAIMED;
		return;
	}
	if (!run->cancelling && job_unmet_dependency(a->id, &failed) != 0 && !failed)
	{
		a->outcome = RUN_NOT_READY;
		return;
	}
	step_forget_planned(a->id);
	job_claimed(a->id, run->job->owner, run->job->owner_name);
	read_progress(run);
	a->outcome = RUN_ENDED;
}

static void
start_body(JobRun *run, void *arg)
{
	bool		failed;
	int64		other;

	if (run->job->stalled >= MAX_STALLED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " was interrupted %d times without progress",
						run->job->id, run->job->stalled),
				 errhint("Look into the server log for the cause before SELECT tenantmig.retry(" INT64_FORMAT ");",
						 run->job->id)));
	other = job_unmet_dependency(run->job->id, &failed);
	if (other != 0 && failed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT ", which job " INT64_FORMAT " builds on, did not succeed",
						other, run->job->id),
				 errhint("SELECT tenantmig.retry(" INT64_FORMAT "), and when it has succeeded SELECT tenantmig.retry(" INT64_FORMAT ");",
						 other, run->job->id)));
	resolve_relation(run);
	if (OidIsValid(run->relid))
	{
		OwnQuery	query;

		query_init(&query, "UPDATE tenantmig.job SET owner = $2, owner_name = $3 "
				   "WHERE id = $1 AND (owner, owner_name) IS DISTINCT FROM ($2, $3)");
		query_int8(&query, run->job->id);
		query_oid(&query, run->owner);
		query_name(&query, GetUserNameFromId(run->owner, false));
		query_run(&query);
	}
}

/* --- end ------------------------------------------------------------- */

static void
set_state_body(JobRun *run, void *arg)
{
	job_set_state(run->job->id, arg);
}

static void
failed_body(JobRun *run, void *arg)
{
	ErrorData  *error = arg;

	job_failed(run->job->id, error);
	job_add_error(run->job->id, job_relation_text(run->job), NULL,
				  unpack_sql_state(error->sqlerrcode), error->message);
}

static void
paused_body(JobRun *run, void *arg)
{
	ErrorData  *error = arg;
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job SET state = 'paused', request = NULL, "
			   "sqlstate = $2, error = $3 WHERE id = $1");
	query_int8(&query, run->job->id);
	query_text(&query, error ? unpack_sql_state(error->sqlerrcode) : NULL);
	query_text(&query, error ? error->message : NULL);
	query_run(&query);
}

static void
request_body(JobRun *run, void *arg)
{
	run->job->request = read_request(run);
}

static void
clean_up_work(JobRun *run, void *arg)
{
	run_clean_up(run);
}

/* Clean up; an error in it is added to the records, never hides the first */
static void
clean_up_after_error(JobRun *run)
{
	ErrorData  *error = run_catch(run, clean_up_work, NULL);

	if (error)
		run_error_row(run, job_relation_text(run->job), NULL,
					  unpack_sql_state(error->sqlerrcode),
					  psprintf("clean-up: %s", error->message));
}

/* Disk full and the like: the job waits for a person */
static bool
wants_a_person(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_DISK_FULL ||
		error->sqlerrcode == ERRCODE_OUT_OF_MEMORY;
}

static void
end_with_error(JobRun *run, ErrorData *error)
{
	QueryCancelPending = false;
	if (run->lost)
		return;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
	{
		run_bookkeeping(run, request_body, NULL);
		if (run->job->request && strcmp(run->job->request, "cancel") == 0)
		{
			clean_up_after_error(run);
			run_bookkeeping(run, set_state_body, "cancelled");
		}
		else
			run_bookkeeping(run, paused_body,
							run->job->request ? NULL : error);
		return;
	}
	if (wants_a_person(error))
	{
		run_bookkeeping(run, paused_body, error);
		return;
	}
	clean_up_after_error(run);
	run_bookkeeping(run, failed_body, error);
}

static void
work(JobRun *run, void *arg)
{
	run_or_error(run, start_body, NULL);
	STOP_POINT("job-start");
	step_ops(run->job->kind)->run(run);
	run_clean_up(run);
	STOP_POINT("job-end");
	/* what was reached is said before the claim goes */
	run->progress.phase = "done";
	run_bookkeeping(run, write_progress_body, NULL);
	run_bookkeeping(run, set_state_body, "succeeded");
}

typedef struct Claimed
{
	int64		id;
	RunOutcome	outcome;
	ErrorData  *error;			/* what the job ended with, recorded already */
} Claimed;

static void
claim_and_work(JobRun *run, void *arg)
{
	Claimed    *claimed = arg;
	ClaimArg	claim = {.id = claimed->id,.outcome = RUN_NOT_CLAIMED};

	run_bookkeeping(run, claim_body, &claim);
	claimed->outcome = claim.outcome;
	if (claim.outcome != RUN_ENDED)
		return;
	if (run->cancelling)
	{
		run_or_error(run, resolve_body, NULL);
		clean_up_after_error(run);
		run_bookkeeping(run, set_state_body, "cancelled");
		return;
	}
	claimed->error = run_catch(run, work, NULL);
	if (claimed->error)
		end_with_error(run, claimed->error);
}

static JobRun *
new_run(bool foreground)
{
	MemoryContext context = AllocSetContextCreate(foreground ? CurrentMemoryContext
												  : TopMemoryContext, "tenantmig job",
												  ALLOCSET_DEFAULT_SIZES);
	JobRun	   *run = MemoryContextAllocZero(context, sizeof(JobRun));

	run->foreground = foreground;
	run->context = context;
	run->scratch = AllocSetContextCreate(context, "tenantmig batch",
										 ALLOCSET_DEFAULT_SIZES);
	return run;
}

/* What a job ended with, for the log or, in the foreground, as an error */
static void
report_end(int64 id, const ErrorData *error, bool foreground)
{
	ereport(foreground ? ERROR : LOG,
			(errcode(error->sqlerrcode),
			 errmsg("job " INT64_FORMAT " stopped: %s", id, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0));
}

RunOutcome
job_run(int64 id, bool foreground)
{
	MemoryContext caller_context = CurrentMemoryContext;
	Claimed		claimed = {.id = id,.outcome = RUN_NOT_CLAIMED};
	JobRun	   *run;
	ErrorData  *error;
	int			slot = -1;

	if (!lock_claim_job(id))
		return RUN_NOT_CLAIMED;
	if (!foreground && (slot = lock_claim_slot()) < 0)
	{
		lock_release_job(id);
		return RUN_NO_SLOT;
	}
	run = new_run(foreground);
	error = run_catch(run, claim_and_work, &claimed);
	lock_release_job(id);
	lock_release_slot(slot);
	MemoryContextSwitchTo(caller_context);
	/* the books could not be kept: nothing more can be done here */
	if (error)
		ReThrowError(error);
	if (claimed.error)
		report_end(id, claimed.error, foreground);
	MemoryContextDelete(run->context);
	return claimed.outcome;
}
