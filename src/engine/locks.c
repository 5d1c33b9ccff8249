/*
 * locks.c
 *		Advisory locks of the engine, and strong locks on users' tables.
 *
 * Advisory locks.  Ours are advisory locks of the lock manager with a fourth
 * field that no SQL function can make, so that they never meet those of the
 * application.  pg_locks shows them as locktype advisory with an objsubid of
 * LOCK_JOB, LOCK_SLOT, LOCK_RECORDING or LOCK_HELPER.  A function of the user's that calls
 * pg_advisory_unlock_all() in a worker can still drop the claim, hence
 * lock_holds_job(), asked for in each batch.
 *
 * Strong locks.  A request for a strong lock that has to wait makes everybody
 * wait who comes after it.  So no wait is longer than tenantmig.lock_timeout;
 * then the request is withdrawn, the queue moves, and it is asked for again
 * after a rest.  This holds for clean-up too.
 */
#include "postgres.h"

#include <signal.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/locks.h"
#include "engine/settings.h"
#include "engine/sqltext.h"

#define LOCK_JOB		0x7401
#define LOCK_SLOT		0x7402
#define LOCK_RECORDING	0x7403
#define LOCK_HELPER		0x7404

static void
set_tag(LOCKTAG *tag, int64 key, int what)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId,
						 (uint32) (((uint64) key) >> 32), (uint32) key, what);
}

static bool
claim(int64 key, int what)
{
	LOCKTAG		tag;

	set_tag(&tag, key, what);
	if (lock_held_by_me(&tag, ExclusiveLock))
		return false;
	return LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

static void
release(int64 key, int what)
{
	LOCKTAG		tag;

	set_tag(&tag, key, what);
	if (lock_held_by_me(&tag, ExclusiveLock))
		(void) LockRelease(&tag, ExclusiveLock, true);
}

/*
 * How many of "range" of our locks, from the tag on, are held; *pid is the
 * holder of one.  This reads the whole lock table: GetLockConflicts() would
 * leave out a holder that is between two transactions, as a job at rest is.
 */
static int
count_holders(const LOCKTAG *tag, int range, int *pid)
{
	LockData   *data = GetLockStatusData();
	int			count = 0;

	*pid = 0;
	for (int i = 0; i < data->nelements; i++)
	{
		const LockInstanceData *held = &data->locks[i];

		if (held->locktag.locktag_type == tag->locktag_type &&
			held->locktag.locktag_field1 == tag->locktag_field1 &&
			held->locktag.locktag_field2 == tag->locktag_field2 &&
			held->locktag.locktag_field3 >= tag->locktag_field3 &&
			held->locktag.locktag_field3 - tag->locktag_field3 < range &&
			held->locktag.locktag_field4 == tag->locktag_field4 &&
			(held->holdMask & LOCKBIT_ON(ExclusiveLock)) != 0)
		{
			count++;
			*pid = held->pid;
		}
	}
	pfree(data->locks);
	pfree(data);
	return count;
}

/* A process that holds a lock in conflict with mode, 0 if none is known */
static int
holder_pid(const LOCKTAG *tag, LOCKMODE mode, bool *held)
{
	int			count;
	VirtualTransactionId *vxids = GetLockConflicts(tag, mode, &count);

	*held = count > 0;
	for (int i = 0; i < count; i++)
	{
		PGPROC	   *proc = vxid_proc(vxids[i]);

		/* a prepared transaction keeps the number of the process that made it */
		if (proc && proc->pid != 0 &&
			proc_local_xid(proc) == vxids[i].localTransactionId)
			return proc->pid;
	}
	return 0;
}

bool
lock_claim_job(int64 job)
{
	return claim(job, LOCK_JOB);
}

void
lock_release_job(int64 job)
{
	release(job, LOCK_JOB);
}

bool
lock_holds_job(int64 job)
{
	LOCKTAG		tag;

	set_tag(&tag, job, LOCK_JOB);
	return lock_held_by_me(&tag, ExclusiveLock);
}

int
lock_job_pid(int64 job)
{
	LOCKTAG		tag;
	int			pid;

	if (lock_holds_job(job))
		return MyProcPid;
	set_tag(&tag, job, LOCK_JOB);
	(void) count_holders(&tag, 1, &pid);
	return pid;
}

void
lock_claim_helper(int64 job)
{
	LOCKTAG		tag;

	set_tag(&tag, job, LOCK_HELPER);
	if (!lock_held_by_me(&tag, ShareLock))
		(void) LockAcquire(&tag, ShareLock, true, true);
}

void
lock_release_helper(int64 job)
{
	LOCKTAG		tag;

	set_tag(&tag, job, LOCK_HELPER);
	if (lock_held_by_me(&tag, ShareLock))
		(void) LockRelease(&tag, ShareLock, true);
}

List *
lock_helpers(int64 job)
{
	LockData   *data = GetLockStatusData();
	List	   *pids = NIL;
	LOCKTAG		tag;

	set_tag(&tag, job, LOCK_HELPER);
	for (int i = 0; i < data->nelements; i++)
		if (memcmp(&data->locks[i].locktag, &tag, sizeof(LOCKTAG)) == 0 &&
			(data->locks[i].holdMask & LOCKBIT_ON(ShareLock)) != 0)
			pids = lappend_int(pids, data->locks[i].pid);
	list_sort(pids, list_int_cmp);
	pfree(data->locks);
	pfree(data);
	return pids;
}

int
lock_claim_slot(void)
{
	for (int slot = 0; slot < setting_max_workers; slot++)
		if (claim(slot, LOCK_SLOT))
			return slot;
	return -1;
}

void
lock_release_slot(int slot)
{
	if (slot >= 0)
		release(slot, LOCK_SLOT);
}

int
lock_slots_taken(void)
{
	LOCKTAG		tag;
	int			pid;

	set_tag(&tag, 0, LOCK_SLOT);
	return count_holders(&tag, setting_max_workers, &pid);
}

/* Whether this is the lock of a job or of a slot, and pid has it */
static bool
is_work(const LockInstanceData *lock)
{
	return lock->locktag.locktag_type == LOCKTAG_ADVISORY &&
		(lock->locktag.locktag_field4 == LOCK_JOB ||
		 lock->locktag.locktag_field4 == LOCK_SLOT) &&
		(lock->holdMask & LOCKBIT_ON(ExclusiveLock)) != 0;
}

int
lock_workers(void)
{
	LockData   *data = GetLockStatusData();
	List	   *pids = NIL;
	int			count;

	for (int i = 0; i < data->nelements; i++)
		if (is_work(&data->locks[i]))
			pids = list_append_unique_int(pids, data->locks[i].pid);
	count = list_length(pids);
	list_free(pids);
	pfree(data->locks);
	pfree(data);
	return count;
}

void
lock_recording(Oid relid)
{
	LOCKTAG		tag;

	set_tag(&tag, (int64) relid, LOCK_RECORDING);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

void
lock_set_timeout(int ms)
{
	char		value[32];

	snprintf(value, sizeof(value), "%d", ms);
	(void) set_config_option("lock_timeout", value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

int
lock_backoff(int attempt)
{
	return Min(100 << Min(attempt, 6), 5000);
}

/*
 * What a process runs, if the current user may know it.  A worker is the
 * bootstrap superuser here, but what it finds out is told to the owner of the
 * table.
 */
static char *
blocker_query(Oid relid, int pid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	bool		as_owner = MyBackendType == B_BG_WORKER && HeapTupleIsValid(tuple);
	Identity	saved;
	char	   *query;

	if (as_owner)
		identity_enter_owner(&saved, ((Form_pg_class) GETSTRUCT(tuple))->relowner, NULL);
	query = sql_printable(pgstat_get_backend_current_activity(pid, true));
	if (as_owner)
		identity_leave(&saved);
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return query;
}

static void
describe_blocker(Oid relid, LOCKMODE mode, LockBlocker *blocker)
{
	LOCKTAG		tag;
	bool		held;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	blocker->pid = holder_pid(&tag, mode, &held);
	blocker->relation = sql_relation(relid);
	if (blocker->pid != 0)
		blocker->detail = psprintf("Process %d holds a lock on %s; its last query: %s",
								   blocker->pid, blocker->relation,
								   blocker_query(relid, blocker->pid));
	else if (held)
		blocker->detail = psprintf("A prepared transaction holds a lock on %s.",
								   blocker->relation);
	else
		blocker->detail = psprintf("Whoever held a lock on %s has gone by now.",
								   blocker->relation);
}

/*
 * An autovacuum worker gives way to who has waited for its lock for
 * deadlock_timeout.  We never wait that long, so we ask it ourselves, as the
 * server does: not when it is there against wraparound.
 */
static void
cancel_autovacuum(Oid relid, LOCKMODE mode)
{
	LOCKTAG		tag;
	int			count;
	VirtualTransactionId *vxids;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	vxids = GetLockConflicts(&tag, mode, &count);
	for (int i = 0; i < count; i++)
	{
		PGPROC	   *proc = vxid_proc(vxids[i]);
		uint8		flags;
		int			pid;

		if (proc == NULL)
			continue;
		LWLockAcquire(ProcArrayLock, LW_SHARED);
		flags = ProcGlobal->statusFlags[proc->pgxactoff];
		pid = proc->pid;
		LWLockRelease(ProcArrayLock);
		if (pid != 0 && (flags & PROC_IS_AUTOVACUUM) != 0 &&
			(flags & PROC_VACUUM_FOR_WRAPAROUND) == 0)
			(void) kill(pid, SIGINT);
	}
}

static bool
lock_trees(List *relids, LOCKMODE mode, int longest_ms, LockBlocker *blocker)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile Oid current = linitial_oid(relids);
	volatile bool had = false;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		ListCell   *lc;
		int			save_nestlevel = NewGUCNestLevel();
		TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														   longest_ms);

		MemoryContextSwitchTo(context);
		foreach(lc, relids)
		{
			ListCell   *below;

			current = lfirst_oid(lc);
			/* those that are had already are in others' way all the while */
			lock_set_timeout((int) Max(1, (deadline - GetCurrentTimestamp()) / 1000));
			LockRelationOid(current, mode);
			/* who wants it finds out that it was dropped */
			if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(current)))
				continue;
			foreach(below, find_all_inheritors(current, NoLock, NULL))
			{
				if (lfirst_oid(below) == lfirst_oid(lc))
					continue;
				current = lfirst_oid(below);
				lock_set_timeout((int) Max(1, (deadline - GetCurrentTimestamp()) / 1000));
				LockRelationOid(current, mode);
			}
		}
		AtEOXact_GUC(false, save_nestlevel);
		ReleaseCurrentSubTransaction();
		had = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
			ReThrowError(error);
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;

	if (!had)
		cancel_autovacuum(current, mode);
	if (!had && blocker)
		describe_blocker(current, mode, blocker);
	return had;
}

static int
short_of_deadlock(void)
{
	return Max(1, Min(setting_lock_timeout, DeadlockTimeout / 2));
}

bool
lock_tree_try(Oid relid, LOCKMODE mode, LockBlocker *blocker)
{
	return lock_trees(list_make1_oid(relid), mode, setting_lock_timeout, blocker);
}

bool
lock_trees_try(List *relids, LOCKMODE mode, LockBlocker *blocker)
{
	return lock_trees(relids, mode, list_length(relids) > 1 ? short_of_deadlock()
					  : setting_lock_timeout, blocker);
}

/*
 * Whether this transaction holds a lock that makes writers or readers of
 * another table wait: from an earlier statement of the caller's.
 */
static bool
holds_strong_lock(void)
{
	LockData   *data = GetLockStatusData();
	LOCKMASK	strong = LOCKBIT_ON(ShareLock) | LOCKBIT_ON(ShareRowExclusiveLock) |
	LOCKBIT_ON(ExclusiveLock) | LOCKBIT_ON(AccessExclusiveLock);
	bool		found = false;

	for (int i = 0; i < data->nelements && !found; i++)
	{
		const LockInstanceData *held = &data->locks[i];

		found = held->pid == MyProcPid &&
			held->locktag.locktag_type == LOCKTAG_RELATION &&
			(held->holdMask & strong) != 0;
	}
	pfree(data->locks);
	pfree(data);
	return found;
}

void
lock_not_had(const LockBlocker *blocker)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("could not lock relation %s in time", blocker->relation),
			 errdetail_internal("%s", blocker->detail),
			 blocker->pid != 0
			 ? errhint("Wait for that process or end it with SELECT pg_terminate_backend(%d), then call again; or raise tenantmig.lock_retries.",
					   blocker->pid)
			 : errhint("Call again, or raise tenantmig.lock_retries.")));
}

/*
 * A transaction that has locked other tables already must not be patient: all
 * that want those tables wait for it meanwhile, and could meet it in a
 * deadlock.  It asks once, for less than it takes a deadlock detector to wake
 * up, and tells how to do better.
 */
void
lock_tree_or_error(Oid relid, LOCKMODE mode)
{
	LockBlocker blocker;

	if (holds_strong_lock())
	{
		if (lock_trees(list_make1_oid(relid), mode, short_of_deadlock(), &blocker))
			return;
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not lock relation %s in time", blocker.relation),
				 errdetail("%s\nThis transaction holds locks on other tables, whose users would have had to wait on.",
						   blocker.detail),
				 errhint("Call the function for one table in each transaction; then it waits for the lock without holding up anybody.")));
	}
	for (int attempt = 0;; attempt++)
	{
		if (lock_tree_try(relid, mode, &blocker))
			return;
		if (attempt >= setting_lock_retries)
			lock_not_had(&blocker);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 lock_backoff(attempt), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* --- who waits for this process -------------------------------------- */

/* Whether any process waits for a lock; as of a moment ago */
static bool
somebody_waits(void)
{
	for (uint32 i = 0; i < ProcGlobal->allProcCount; i++)
	{
		volatile PGPROC *proc = &ProcGlobal->allProcs[i];

		if (proc->waitStatus == PROC_WAIT_STATUS_WAITING && proc->pid != 0)
			return true;
	}
	return false;
}

/*
 * Whether "waiter" waits for this process or for one that does ("waits"), by
 * what they hold; or behind one that asks for a conflicting lock, since the
 * queue is served in order.
 */
static bool
waits_for_us(const LockData *data, int waiter, const bool *waits)
{
	const LockInstanceData *w = &data->locks[waiter];

	for (int i = 0; i < data->nelements; i++)
	{
		const LockInstanceData *l = &data->locks[i];
		bool		ours = l->pid == MyProcPid;

		if (i == waiter || l->pid == w->pid ||
			memcmp(&l->locktag, &w->locktag, sizeof(LOCKTAG)) != 0)
			continue;
		for (LOCKMODE mode = 1; mode <= MaxLockMode; mode++)
			if (DoLockModesConflict(mode, w->waitLockMode) &&
				(((l->holdMask & LOCKBIT_ON(mode)) != 0 && (ours || waits[i])) ||
				 (l->waitLockMode == mode && waits[i] && l->waitStart < w->waitStart)))
				return true;
	}
	return false;
}

/* All locks of a process that waits count as those of one that waits */
static void
mark_process(const LockData *data, int pid, bool *waits)
{
	for (int i = 0; i < data->nelements; i++)
		if (data->locks[i].pid == pid)
			waits[i] = true;
}

int
lock_waiters(void)
{
	LockData   *data;
	bool	   *waits;
	int			count = 0;
	int			before;

	if (!somebody_waits())
		return 0;
	data = GetLockStatusData();
	waits = palloc0(sizeof(bool) * Max(data->nelements, 1));
	do
	{
		before = count;
		for (int i = 0; i < data->nelements; i++)
		{
			const LockInstanceData *w = &data->locks[i];

			if (w->waitLockMode == NoLock || waits[i] || w->pid == MyProcPid ||
				!waits_for_us(data, i, waits))
				continue;
			mark_process(data, w->pid, waits);
			count++;
		}
	} while (count > before);
	pfree(waits);
	pfree(data->locks);
	pfree(data);
	return count;
}

const char *
lock_mode_name(LOCKMODE mode)
{
	return GetLockmodeName(DEFAULT_LOCKMETHOD, mode);
}
