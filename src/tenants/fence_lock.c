/*
 * fence_lock.c
 *		The locks of tenants: between those who write and who closes.
 *
 * Whoever writes for a tenant to a fenced table takes a lock on the tenant, for
 * the rest of the transaction, in a mode that all writers share.  Whoever
 * closes a tenant takes it in a mode that none of them shares, in every form
 * that a column may have it in: so it waits for the transactions that have
 * written and might not commit yet, and keeps newcomers waiting until it has
 * committed itself, when they see what it did.
 *
 * A transaction that writes for very many tenants would fill the lock table.
 * After some it takes one lock instead that stands for all of them, which
 * whoever closes any tenant takes too.  That one is taken after the tenant's
 * own, so that the two kinds cannot wait for each other in a circle.
 *
 * These are advisory locks with a fourth field of our own, see engine/locks.c.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/guc.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "engine/locks.h"
#include "engine/settings.h"
#include "engine/sqltext.h"
#include "tenants/fence.h"

#define LOCK_FENCE		0x7411

#define WRITER_MODE			RowExclusiveLock
#define CLOSER_MODE			ShareRowExclusiveLock
/* those who close different tenants do not wait for each other */
#define CLOSER_MODE_FOR_ALL	ShareLock

/* 0 stands for all tenants */
static uint64
lock_key(const char *canonical)
{
	uint64		key = hash_bytes_extended((const unsigned char *) canonical,
										  strlen(canonical), 0);

	return key == 0 ? 1 : key;
}

static void
set_tag(LOCKTAG *tag, uint64 key)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (key >> 32),
						 (uint32) key, LOCK_FENCE);
}

/*
 * It belongs to the top transaction: if it went with a subtransaction that is
 * rolled back, the next row would have to ask for it again.
 */
static void
lock_for_writer(uint64 key)
{
	ResourceOwner owner = CurrentResourceOwner;
	LOCKTAG		tag;

	set_tag(&tag, key);
	CurrentResourceOwner = TopTransactionResourceOwner;
	PG_TRY();
	{
		(void) LockAcquire(&tag, WRITER_MODE, false, false);
	}
	PG_FINALLY();
	{
		CurrentResourceOwner = owner;
	}
	PG_END_TRY();
}

void
fence_lock_writer(const char *canonical)
{
	lock_for_writer(lock_key(canonical));
}

void
fence_lock_all_tenants(void)
{
	lock_for_writer(0);
}

/* The keys of a tenant in every kind of column, and 0 */
static int
find_keys(const char *tenant, uint64 *keys)
{
	int			count = 0;

	for (FenceKind kind = FENCE_TEXT; kind <= FENCE_KINDS; kind++)
	{
		char	   *canonical = fence_canonical(kind, tenant);

		if (canonical)
			keys[count++] = lock_key(canonical);
	}
	keys[count++] = 0;
	return count;
}

static LOCKMODE
closer_mode(uint64 key)
{
	return key == 0 ? CLOSER_MODE_FOR_ALL : CLOSER_MODE;
}

/* All locks, or none; in that case *missing is the one */
static bool
try_to_close(const uint64 *keys, int count, uint64 *missing)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile uint64 current = 0;
	volatile bool had = false;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		int			level = NewGUCNestLevel();
		TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														   setting_lock_timeout);
		LOCKTAG		tag;

		MemoryContextSwitchTo(context);
		for (int i = 0; i < count; i++)
		{
			current = keys[i];
			lock_set_timeout((int) Max(1, (deadline - GetCurrentTimestamp()) / 1000));
			set_tag(&tag, current);
			(void) LockAcquire(&tag, closer_mode(current), false, false);
		}
		AtEOXact_GUC(false, level);
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
	*missing = current;
	return had;
}

static void
not_closed(const char *tenant, uint64 key)
{
	VirtualTransactionId *vxids;
	LOCKTAG		tag;
	int			count;
	int			pid = 0;

	set_tag(&tag, key);
	vxids = GetLockConflicts(&tag, closer_mode(key), &count);
	for (int i = 0; i < count && pid == 0; i++)
	{
		PGPROC	   *proc = vxid_proc(vxids[i]);

		/* a prepared transaction keeps the number of the process that made it */
		if (proc && proc_local_xid(proc) == vxids[i].localTransactionId)
			pid = proc->pid;
	}
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("could not close tenant \"%s\" in time", sql_printable(tenant)),
			 pid != 0
			 ? errdetail("Process %d has written for it, or has suspended it, and has not ended its transaction; its last query: %s",
						 pid, sql_printable(pgstat_get_backend_current_activity(pid, true)))
			 : count > 0
			 ? errdetail("A prepared transaction has written for it.")
			 : errdetail("Whoever has written for it has gone by now."),
			 pid != 0
			 ? errhint("Nothing was changed. Wait for that process or end it with SELECT pg_terminate_backend(%d), then call again; or raise tenantmig.lock_retries.",
					   pid)
			 : errhint("Nothing was changed. Call again, or raise tenantmig.lock_retries.")));
}

void
fence_close(const char *tenant)
{
	uint64		keys[FENCE_KINDS + 1];
	int			count = find_keys(tenant, keys);
	uint64		missing;

	for (int attempt = 0; !try_to_close(keys, count, &missing); attempt++)
	{
		if (attempt >= setting_lock_retries)
			not_closed(tenant, missing);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 lock_backoff(attempt), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}
