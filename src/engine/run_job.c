/*
 * run_job.c
 *		The way of a job from the claim to its end.
 *
 *	claim		session lock on the job, then state running, in a transaction
 *				that counts the attempt.  A process that dies from here on
 *				leaves a running row without a claim.
 *	work		the kind's run(), many transactions, each written here
 *	clean up	inverses of the temporary steps (triggers, helper constraints),
 *				on success, failure and cancel, not on pause
 *	end			succeeded, failed, paused or cancelled, in a transaction of
 *				its own; then the claim is released
 */
#include "postgres.h"

#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/step.h"
#include "engine/stop_point.h"

/* A job that crashed the server this often without a batch in between */
#define MAX_STALLED	5

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
	if (!run_find_owner(run->relid, &run->owner))
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
	job_add_feeders(a->id, 0);
	if (!run->cancelling && job_unmet_dependency(a->id, &failed) != 0 && !failed)
	{
		a->outcome = RUN_NOT_READY;
		return;
	}
	step_forget_planned(a->id);
	job_claimed(a->id, run->job->owner, run->job->owner_name);
	run_read_progress(run);
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

/* A job that does not run does not rest either */
static void
forget_reason(int64 id)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job_progress SET throttle_reason = NULL "
			   "WHERE job = $1 AND throttle_reason IS NOT NULL");
	query_int8(&query, id);
	(void) query_once(&query);
}

static void
set_state_body(JobRun *run, void *arg)
{
	forget_reason(run->job->id);
	job_set_state(run->job->id, arg);
}

static void
failed_body(JobRun *run, void *arg)
{
	ErrorData  *error = arg;

	forget_reason(run->job->id);
	job_failed(run->job->id, error);
	job_add_error(run->job->id, job_relation_text(run->job), NULL,
				  unpack_sql_state(error->sqlerrcode), error->message);
}

typedef struct PauseArg
{
	ErrorData  *error;			/* NULL: as it was asked for */
	bool		cancelled;		/* somebody has asked for more meanwhile */
} PauseArg;

static void
paused_body(JobRun *run, void *arg)
{
	PauseArg   *a = arg;
	OwnQuery	query;

	forget_reason(run->job->id);
	query_init(&query, "UPDATE tenantmig.job SET state = 'paused', request = NULL, "
			   "sqlstate = $2, error = $3 "
			   "WHERE id = $1 AND request IS DISTINCT FROM 'cancel'");
	query_int8(&query, run->job->id);
	query_text(&query, a->error ? unpack_sql_state(a->error->sqlerrcode) : NULL);
	query_text(&query, a->error ? a->error->message : NULL);
	a->cancelled = query_run(&query) == 0;
}

static void
request_body(JobRun *run, void *arg)
{
	run->job->request = run_read_request(run);
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
	ErrorData  *error;

	/* whoever cancels once more does not mean the clean-up */
	do
	{
		QueryCancelPending = false;
		error = run_catch(run, clean_up_work, NULL);
	} while (error && error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
			 !run->lost && !run->foreground);
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
end_cancelled(JobRun *run)
{
	run->cancelling = true;
	clean_up_after_error(run);
	run_bookkeeping(run, set_state_body, "cancelled");
}

static void
end_paused(JobRun *run, ErrorData *error)
{
	PauseArg	arg = {.error = error};

	run_bookkeeping(run, paused_body, &arg);
	if (arg.cancelled)
		end_cancelled(run);
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
			end_cancelled(run);
		else
			end_paused(run, run->job->request ? NULL : error);
		return;
	}
	if (wants_a_person(error))
	{
		end_paused(run, error);
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
	run_set_phase(run, "done");
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
		clean_up_after_error(run);
		run_bookkeeping(run, set_state_body, "cancelled");
		return;
	}
	claimed->error = run_catch(run, work, NULL);
	if (claimed->error)
		end_with_error(run, claimed->error);
}

JobRun *
run_new(bool foreground)
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
job_run(int64 id)
{
	return lock_claim_job(id) ? job_run_claimed(id, false) : RUN_NOT_CLAIMED;
}

RunOutcome
job_run_claimed(int64 id, bool foreground)
{
	MemoryContext caller_context = CurrentMemoryContext;
	Claimed		claimed = {.id = id,.outcome = RUN_NOT_CLAIMED};
	JobRun	   *run;
	ErrorData  *error;
	int			slot = -1;

	if (!foreground && (slot = lock_claim_slot()) < 0)
	{
		lock_release_job(id);
		return RUN_NO_SLOT;
	}
	run = run_new(foreground);
	error = run_catch(run, claim_and_work, &claimed);
	STOP_POINT("job-ended");
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
