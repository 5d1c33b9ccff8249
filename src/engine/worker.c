/*
 * worker.c
 *		Background workers: asked for at commit, one job each.
 *
 * A job function only notes the job.  When its transaction has committed, a
 * dynamic background worker is registered; after a rollback nothing happens.
 * The worker claims the job, does it, starts workers for the jobs that its end
 * has made ready, and exits.  Nobody waits in between, so nothing polls.
 *
 * If no worker can be had (max_worker_processes is used up), the job stays
 * queued.  With tenantmig preloaded the launcher asks again; without, the next
 * worker that ends, resume(), wait() or the next call of a job function does.
 * A worker that ends still has its own slot: when there is no other, it does
 * the next job itself.
 *
 * The worker's session is the bootstrap superuser's; see identity.c for what
 * runs as whom.  Exit codes: 0 after a job, whatever became of it; 1 when the
 * process was told to go or could not keep its books.  Neither is restarted:
 * a worker that dies leaves its job interrupted, and who resumes it is said
 * above.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "engine/compat.h"
#include "engine/job.h"
#include "engine/launcher.h"
#include "engine/locks.h"
#include "engine/run.h"
#include "engine/settings.h"
#include "engine/stop_point.h"
#include "engine/worker.h"

typedef struct WorkerArgs
{
	Oid			database;
	int64		job;
} WorkerArgs;

StaticAssertDecl(sizeof(WorkerArgs) <= BGW_EXTRALEN,
				 "worker arguments must fit into bgw_extra");

/* What to do when the transaction commits; lives in TopMemoryContext because
 * commit callbacks come late */
typedef struct Note
{
	int64		job;
	SubTransactionId subid;		/* gone if that one is rolled back */
} Note;

static List *asked = NIL;		/* of Note * */
static List *interrupted = NIL; /* of Note * */

static void
note_job(List **list, int64 job)
{
	MemoryContext context = MemoryContextSwitchTo(TopMemoryContext);
	Note	   *note = palloc(sizeof(Note));

	note->job = job;
	note->subid = GetCurrentSubTransactionId();
	*list = lappend(*list, note);
	MemoryContextSwitchTo(context);
}

void
worker_ask_at_commit(int64 job)
{
	note_job(&asked, job);
}

void
worker_interrupt_at_commit(int64 job)
{
	note_job(&interrupted, job);
}

static void
forget_notes(void)
{
	list_free_deep(asked);
	list_free_deep(interrupted);
	asked = interrupted = NIL;
}

/* Notes of a subtransaction go to its parent, or away with it */
static List *
end_of_subtransaction(List *notes, SubTransactionId subid,
					  SubTransactionId parent, bool aborted)
{
	ListCell   *lc;

	foreach(lc, notes)
	{
		Note	   *note = lfirst(lc);

		if (note->subid != subid)
			continue;
		if (aborted)
		{
			notes = foreach_delete_current(notes, lc);
			pfree(note);
		}
		else
			note->subid = parent;
	}
	return notes;
}

static void
at_end_of_subtransaction(SubXactEvent event, SubTransactionId subid,
						 SubTransactionId parent, void *arg)
{
	bool		aborted = event == SUBXACT_EVENT_ABORT_SUB;

	if (!aborted && event != SUBXACT_EVENT_COMMIT_SUB)
		return;
	asked = end_of_subtransaction(asked, subid, parent, aborted);
	interrupted = end_of_subtransaction(interrupted, subid, parent, aborted);
}

static void
act_on_notes(void)
{
	ListCell   *lc;

	foreach(lc, asked)
	{
		int64		job = ((Note *) lfirst(lc))->job;

		if (!worker_start(MyDatabaseId, job) && !launcher_ask(MyDatabaseId))
			ereport(WARNING,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("no free worker slot for job " INT64_FORMAT "; it stays queued", job),
					 errhint("Raise max_worker_processes, call SELECT tenantmig.resume(" INT64_FORMAT ") when a slot is free, or run it here with CALL tenantmig.run(" INT64_FORMAT ").",
							 job, job)));
	}
	foreach(lc, interrupted)
	{
		int			pid = lock_job_pid(((Note *) lfirst(lc))->job);

		if (pid != 0 && pid != MyProcPid)
			kill(pid, SIGINT);
	}
}

static void
at_end_of_transaction(XactEvent event, void *arg)
{
	if (asked == NIL && interrupted == NIL)
		return;
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			act_on_notes();
			forget_notes();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			forget_notes();
			break;
		default:
			break;
	}
}

void
worker_init(void)
{
	RegisterXactCallback(at_end_of_transaction, NULL);
	RegisterSubXactCallback(at_end_of_subtransaction, NULL);
}

bool
worker_start(Oid database, int64 job)
{
	BackgroundWorker worker;
	WorkerArgs	args = {.database = database,.job = job};

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "tenantmig");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name),
			 "tenantmig_worker_main");
	snprintf(worker.bgw_name, BGW_MAXLEN, "tenantmig job " INT64_FORMAT, job);
	snprintf(worker.bgw_type, BGW_MAXLEN, "tenantmig worker");
	memcpy(worker.bgw_extra, &args, sizeof(args));
	return RegisterDynamicBackgroundWorker(&worker, NULL);
}

/* The extension may have been dropped, or never made, in this database */
static bool
extension_is_here(void)
{
	return OidIsValid(get_extension_oid("tenantmig", true));
}

int64
worker_start_ready(bool interrupted)
{
	int64		left = 0;
	List	   *ready = NIL;
	ListCell   *lc;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (extension_is_here() && !RecoveryInProgress())
	{
		if (interrupted)
			job_requeue_interrupted();
		ready = job_ready_list(Max(setting_max_workers, 1));
	}
	foreach(lc, ready)
	{
		int64		job = *(int64 *) lfirst(lc);

		if (lock_job_pid(job) == 0 && lock_slots_taken() < setting_max_workers &&
			!worker_start(MyDatabaseId, job) && left == 0)
			left = job;
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	return left;
}

static bool at_work = false;

/*
 * Sent away in the midst of a job: the jobs that waited for this one's place
 * must not wait for ever.  All locks of this process are gone by now.
 */
static void
leave_early(int code, Datum arg)
{
	if (at_work && !launcher_ask(MyDatabaseId))
		(void) worker_start(MyDatabaseId, 0);
}

static RunOutcome
do_job(int64 job)
{
	volatile RunOutcome outcome = RUN_NOT_CLAIMED;

	SetConfigOption("application_name", psprintf("tenantmig job " INT64_FORMAT, job),
					PGC_USERSET, PGC_S_SESSION);
	STOP_POINT("worker-start");
	at_work = true;
	PG_TRY();
	{
		outcome = job_run(job);
	}
	PG_FINALLY();
	{
		at_work = false;
	}
	PG_END_TRY();
	return outcome;
}

/*
 * What the database may have set for its sessions, and a job must not have: it
 * writes, its triggers fire, each batch sees what was committed before, and
 * its book-keeping is not cut short.
 */
static void
pin_settings(void)
{
	static const char *const pinned[][2] = {
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"session_replication_role", "origin"},
		{"lock_timeout", "0"},
		{"statement_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
#ifdef HAVE_TRANSACTION_TIMEOUT
		{"transaction_timeout", "0"},
#endif
		{"row_security", "on"},
	};

	for (int i = 0; i < lengthof(pinned); i++)
		SetConfigOption(pinned[i][0], pinned[i][1], PGC_SUSET, PGC_S_SESSION);
}

void
worker_begin(Oid database)
{
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	pin_settings();
}

void
tenantmig_worker_main(Datum arg)
{
	WorkerArgs	args;
	int64		job;

	memcpy(&args, MyBgworkerEntry->bgw_extra, sizeof(args));
	worker_begin(args.database);
	on_shmem_exit(leave_early, 0);

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (!extension_is_here())
	{
		CommitTransactionCommand();
		proc_exit(0);
	}
	CommitTransactionCommand();

	/*
	 * What is ready is looked for after every outcome but "not claimed": a job
	 * that could not run a moment ago may have become ready while its claim
	 * was held here, when whoever made it so had to pass over it.
	 */
	job = args.job;
	while (job == 0 || do_job(job) != RUN_NOT_CLAIMED)
	{
		job = worker_start_ready(false);
		if (job == 0)
			break;
		(void) launcher_ask(MyDatabaseId);
	}
	proc_exit(0);
}
