/*
 * launcher.c
 *		Resuming jobs after a restart; needs shared_preload_libraries.
 *
 * One launcher in the server, connected to no database.  When the server has
 * started (and after a crash, or a promotion) it visits every database that
 * accepts connections and is no template: a starter, a short-lived worker,
 * connects there, sees whether the extension exists, starts a worker for each
 * job that is queued or was interrupted, and exits.  Then the launcher sleeps
 * without a timeout, until a session or worker that found no free slot asks it
 * to look at a database again; it does so with a growing pause in between, for
 * as long as slots are missing.  It never runs SQL of a user's.
 *
 * Shared state, under one spinlock: the launcher's latch and the databases to
 * look at.  Too many at once mean "all".  A starter needs a slot itself; if it
 * finds no other, it leaves the job there, and the launcher starts the worker
 * when the starter has gone.
 */
#include "postgres.h"

#include <signal.h>

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "engine/compat.h"
#include "engine/launcher.h"
#include "engine/settings.h"
#include "engine/worker.h"

#define MOST_DATABASES	64
#define FIRST_PAUSE_MS	1000
#define LONGEST_PAUSE_MS 30000

typedef struct LauncherShared
{
	slock_t		mutex;
	Latch	   *latch;			/* of the launcher, NULL when there is none */
	int64		left;			/* a job that the starter found no slot for, or 0 */
	int			count;			/* of databases; more than fit: all */
	Oid			databases[MOST_DATABASES];
} LauncherShared;

static LauncherShared *shared = NULL;
static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static void
request_shmem(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(LauncherShared)));
}

static void
start_shmem(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("tenantmig launcher", sizeof(LauncherShared), &found);
	if (!found)
	{
		memset(shared, 0, sizeof(LauncherShared));
		SpinLockInit(&shared->mutex);
	}
	LWLockRelease(AddinShmemInitLock);
}

void
launcher_init(void)
{
	BackgroundWorker worker;

	if (!process_shared_preload_libraries_in_progress)
		return;
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = start_shmem;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "tenantmig");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name),
			 "tenantmig_launcher_main");
	snprintf(worker.bgw_name, BGW_MAXLEN, "tenantmig launcher");
	snprintf(worker.bgw_type, BGW_MAXLEN, "tenantmig launcher");
	RegisterBackgroundWorker(&worker);
}

bool
launcher_ask(Oid database)
{
	Latch	   *latch;

	if (shared == NULL)
		return false;
	SpinLockAcquire(&shared->mutex);
	latch = shared->latch;
	if (latch)
	{
		bool		known = false;

		for (int i = 0; i < Min(shared->count, MOST_DATABASES); i++)
			known = known || shared->databases[i] == database;
		if (!known)
		{
			if (shared->count < MOST_DATABASES)
				shared->databases[shared->count] = database;
			shared->count = Min(shared->count + 1, MOST_DATABASES + 1);
		}
	}
	SpinLockRelease(&shared->mutex);
	if (latch)
		SetLatch(latch);
	return latch != NULL;
}

void
launcher_ask_for_job(Oid database, int64 job)
{
	SpinLockAcquire(&shared->mutex);
	shared->left = job;
	SpinLockRelease(&shared->mutex);
	(void) launcher_ask(database);
}

/* --- the launcher ---------------------------------------------------- */

static int64
take_left(void)
{
	int64		job;

	SpinLockAcquire(&shared->mutex);
	job = shared->left;
	shared->left = 0;
	SpinLockRelease(&shared->mutex);
	return job;
}

static void
leave(int code, Datum arg)
{
	SpinLockAcquire(&shared->mutex);
	shared->latch = NULL;
	SpinLockRelease(&shared->mutex);
}

/* The databases to visit, in the current context */
static List *
list_databases(void)
{
	MemoryContext context = CurrentMemoryContext;
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;
	List	   *databases = NIL;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);

		if (database->datallowconn && !database->datistemplate)
		{
			MemoryContext old = MemoryContextSwitchTo(context);

			databases = lappend_oid(databases, database->oid);
			MemoryContextSwitchTo(old);
		}
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return databases;
}

/* Take what was asked for; all databases if it was too much */
static List *
take_asked(bool *all)
{
	List	   *databases = NIL;
	Oid			oids[MOST_DATABASES];
	int			count;

	SpinLockAcquire(&shared->mutex);
	count = shared->count;
	memcpy(oids, shared->databases, sizeof(oids));
	shared->count = 0;
	SpinLockRelease(&shared->mutex);

	*all = count > MOST_DATABASES;
	for (int i = 0; i < count && !*all; i++)
		databases = lappend_oid(databases, oids[i]);
	return databases;
}

/*
 * Run a starter in the database and wait for its end; false: no slot.  Only
 * the first visit after a start resumes what was interrupted: later, a worker
 * that is gone was sent away by somebody.
 */
static bool
visit(Oid database, bool interrupted)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;
	int64		job;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "tenantmig");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name),
			 "tenantmig_starter_main");
	snprintf(worker.bgw_name, BGW_MAXLEN, "tenantmig starter");
	snprintf(worker.bgw_type, BGW_MAXLEN, "tenantmig starter");
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_extra[0] = interrupted;
	worker.bgw_notify_pid = MyProcPid;
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		return false;
	(void) WaitForBackgroundWorkerShutdown(handle);
	job = take_left();
	if (job != 0)
		(void) worker_start(database, job);
	return true;
}

static void
rest(long timeout)
{
	(void) WaitLatch(MyLatch,
					 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
					 (timeout >= 0 ? WL_TIMEOUT : 0),
					 timeout, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/* Visit the databases; those for which there was no slot come back */
static List *
visit_all(List *databases, bool interrupted)
{
	List	   *left = NIL;
	ListCell   *lc;

	foreach(lc, databases)
		if (!visit(lfirst_oid(lc), interrupted))
			left = lappend_oid(left, lfirst_oid(lc));
	return left;
}

void
tenantmig_launcher_main(Datum arg)
{
	MemoryContext context;
	List	   *databases;
	long		pause = FIRST_PAUSE_MS;
	bool		started = setting_autostart;

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	pgstat_report_appname("tenantmig launcher");

	context = AllocSetContextCreate(TopMemoryContext, "tenantmig launcher",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	before_shmem_exit(leave, 0);
	SpinLockAcquire(&shared->mutex);
	shared->latch = MyLatch;
	SpinLockRelease(&shared->mutex);

	databases = setting_autostart ? list_databases() : NIL;
	for (;;)
	{
		List	   *left = visit_all(databases, started);
		bool		all;

		databases = list_concat_unique_oid(left, take_asked(&all));
		if (all)
			databases = list_databases();
		if (databases != NIL)
		{
			/* somebody found no slot: wait for one, longer each time */
			rest(pause);
			pause = Min(pause * 2, LONGEST_PAUSE_MS);
			continue;
		}
		started = false;
		pause = FIRST_PAUSE_MS;
		MemoryContextReset(context);
		rest(-1);
		databases = take_asked(&all);
		if (all)
			databases = list_databases();
	}
}

/* --- the starter ----------------------------------------------------- */

void
tenantmig_starter_main(Datum arg)
{
	int64		left;

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg), InvalidOid, 0);
	pgstat_report_appname("tenantmig starter");
	left = worker_start_ready(MyBgworkerEntry->bgw_extra[0]);
	if (left != 0)
		launcher_ask_for_job(DatumGetObjectId(arg), left);
	proc_exit(0);
}
