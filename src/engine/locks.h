/*
 * locks.h
 *		Advisory locks of the engine, and strong locks on users' tables.
 */
#ifndef TENANTMIG_LOCKS_H
#define TENANTMIG_LOCKS_H

#include "engine/compat.h"
#include "nodes/pg_list.h"
#include "storage/lock.h"

/* A job is claimed under a session lock: a running job whose lock is free
 * belongs to a dead process. */
extern bool lock_claim_job(int64 job);
extern void lock_release_job(int64 job);
extern bool lock_holds_job(int64 job);
extern int	lock_job_pid(int64 job);	/* 0: nobody */

/* Whoever helps with a job holds this lock in share; nobody ever waits for it.
 * The pids of those who do, ascending. */
extern void lock_claim_helper(int64 job);
extern void lock_release_helper(int64 job);
extern List *lock_helpers(int64 job);

/* One of the tenantmig.max_workers places of this database; -1: all taken */
extern int	lock_claim_slot(void);
extern void lock_release_slot(int slot);
extern int	lock_slots_taken(void);

/* How many processes of the server work on jobs, in whatever database: in
 * workers, in CALL run() */
extern int	lock_workers(void);

/* Until the end of the transaction: two sessions that record jobs on the same
 * table do so one after the other. */
extern void lock_recording(Oid relid);

/*
 * Ask for a lock on a relation and all that inherits from it, waiting at most
 * tenantmig.lock_timeout in all.  False: not had, nothing is held; blocker
 * tells who is in the way.
 */
typedef struct LockBlocker
{
	int			pid;			/* 0: unknown, such as a prepared transaction */
	char	   *detail;			/* palloc'd sentence for an errdetail */
	char	   *relation;		/* which relation, palloc'd */
} LockBlocker;

extern bool lock_tree_try(Oid relid, LOCKMODE mode, LockBlocker *blocker);

/*
 * The same for several relations, in the order of the list.  Sessions of the
 * application may want them in another order.  So with more than one, all of
 * them are waited for together for less than a deadlock detector takes to wake
 * up: in a deadlock it is always this process that gives way.
 */
extern bool lock_trees_try(List *relids, LOCKMODE mode, LockBlocker *blocker);

/* The same with tenantmig.lock_retries and backoff, for functions that work in
 * the caller's transaction; without retries if that transaction has locked
 * other tables.  Raises 55P03 when it gives up. */
extern void lock_tree_or_error(Oid relid, LOCKMODE mode);

/* Raise 55P03 that names the blocker */
pg_noreturn extern void lock_not_had(const LockBlocker *blocker);

/*
 * Within a transaction that is about to commit: how many other sessions wait
 * for what this process holds, or stand in the queue behind one that does.
 * Whoever waited for this transaction still waits, so nobody is missed.  As
 * long as nobody waits for anything it costs a look at each process.
 */
extern int	lock_waiters(void);

/* How long to rest before the attempt after this one, in ms; attempt from 0 */
extern int	lock_backoff(int attempt);

/* No lock wait lasts longer than this, until identity_leave() or, outside of
 * one, the end of the transaction */
extern void lock_set_timeout(int ms);

extern const char *lock_mode_name(LOCKMODE mode);

#endif							/* TENANTMIG_LOCKS_H */
