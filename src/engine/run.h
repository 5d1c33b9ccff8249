/*
 * run.h
 *		A job at work in this process.
 */
#ifndef TENANTMIG_RUN_H
#define TENANTMIG_RUN_H

#include "engine/job.h"
#include "engine/identity.h"

typedef struct Progress
{
	const char *phase;			/* a constant */
	int64		rows_total;		/* -1: not known */
	int64		rows_done;
	int64		blocks_total;
	int64		blocks_done;
	Oid			leaf;			/* where the leader is, of a table with several */
	int			leaves_total;
	int			leaves_done;
	double		rows_per_second;
	int64		wal_bytes;
	int64		batches;
	int64		rows_told;		/* how much of these sums the row has, from here */
	int64		wal_told;
	int64		batches_told;
	char	   *throttle_reason;	/* NULL: none */
	const char *method;			/* how rows are chosen; a constant, or NULL */
	char	   *method_reason;	/* why not in a better way, or NULL */
	int			held_by_pid;	/* whose snapshot is that reason, or 0 */
	char	   *workers_reason; /* why fewer work on it than were asked for, or
								 * NULL */
	Jsonb	   *checkpoint;		/* in the run's context */
} Progress;

typedef struct ThrottleState ThrottleState;

typedef struct JobRun
{
	Job		   *job;
	Oid			relid;			/* the table, resolved when the run started */
	Oid			owner;			/* its owner, as whom the user's code runs */
	bool		foreground;		/* CALL run(), in a session of the user's */
	bool		cancelling;		/* what it has built goes too */
	bool		ending;			/* cleaning up, which does not give up */
	bool		reason_untold;	/* the row has another throttle_reason */
	bool		lost;			/* the claim: the row is not to be written */
	bool		helping;		/* the claim and the end are the leader's */
	MemoryContext context;		/* lives as long as the run */
	MemoryContext scratch;		/* reset before every transaction */
	Progress	progress;
	int			sharers;		/* processes at work on this job; 0 is 1 */
	int			most_sharers;	/* there have been */
	struct Crew *crew;			/* those processes, or NULL */

	/* Looks at the others of the crew, outside of any transaction, before each
	 * batch and in rests; may raise what became of them.  NULL: alone */
	void		(*tend) (struct JobRun *run);
	ThrottleState *throttle;	/* made by throttle_wait() */
} JobRun;

/*
 * One transaction.  The body runs with SPI connected and a snapshot active,
 * as the session's user, in the scratch context.  Returns NULL when it
 * committed; otherwise it was rolled back, and the error is returned in the
 * run's context.  No transaction is open afterwards (in the foreground: a new
 * one that has done nothing).
 */
typedef void (*RunBody) (JobRun *run, void *arg);
extern ErrorData *run_transaction(JobRun *run, RunBody body, void *arg);

/* Call something that runs transactions of its own, outside of any; returns
 * its error or NULL */
extern ErrorData *run_catch(JobRun *run, RunBody work, void *arg);

/* The same as run_transaction; raises the error */
extern void run_or_error(JobRun *run, RunBody body, void *arg);

/* The same, and asks again after a rest when the error is a passing one
 * (run_is_transient); raises, or returns, the error when it stays. */
extern void run_patiently(JobRun *run, RunBody body, void *arg);
extern ErrorData *run_try_patiently(JobRun *run, RunBody body, void *arg);

/* Book-keeping: cannot be cancelled half-way */
extern void run_bookkeeping(JobRun *run, RunBody body, void *arg);

/* Within a transaction: if the table has another name by now, take it over
 * into the rows of the job and its steps, for people */
extern void run_follow_name(JobRun *run);

/* Within a transaction: work as the owner of the table, and back */
extern void run_enter_owner(JobRun *run, Identity *saved);

/* One statement as the owner over SPI, within a transaction */
extern uint64 run_sql(JobRun *run, const char *sql);

/* Lock not had, deadlock, serialization failure and the like */
extern bool run_is_transient(const ErrorData *error);

/*
 * Within a transaction: raise a cancellation if pause() or cancel() was
 * called, or if the claim was lost, and take over changed options.
 */
extern void run_check_request(JobRun *run);

/* Rest, but wake up and raise when a request comes (not while ending).  No
 * transaction open.  The reason is shown until run_forget_throttle(). */
extern void run_rest(JobRun *run, int ms, const char *reason);

/* The reason of the last rest is over; the next progress row will say so */
extern void run_forget_throttle(JobRun *run);

/* Write the progress row: within the transaction that is open */
extern void run_write_progress(JobRun *run);
/* The same in a transaction of its own */
extern void run_set_phase(JobRun *run, const char *phase);

/*
 * A step that is one statement, in one transaction with its journal entry.
 * Takes the lock on the table (and what inherits from it) first, under
 * lock_timeout and with retries.  Does nothing if the job has done it
 * already.  Statement and inverse are templates (template.h), rendered under
 * the lock.  temporary: its inverse runs at the end of the job.
 */
extern void run_statement(JobRun *run, Oid relid, LOCKMODE mode,
						  const char *statement, const char *inverse,
						  bool temporary);

/* Within a transaction: the lock, or an error that names who is in the way */
extern void run_lock(Oid relid, LOCKMODE mode);

/* The same for several relations, in that order, see lock_trees_try() */
extern void run_lock_all(List *relids, LOCKMODE mode);

/* The step within a transaction that is open, without the lock (mode is for the
 * journal) and without asking whether it was done already; 42P01 when the
 * relation is gone */
extern void run_statement_within(JobRun *run, Oid relid, LOCKMODE mode,
								 const char *statement, const char *inverse,
								 bool temporary);

/* Within a transaction: the owner of a table, false when it is gone */
extern bool run_find_owner(Oid relid, Oid *owner);

/* Run the inverses of the temporary steps of this job, of a top-level step that
 * has begun and not ended, and of all of those if the job is cancelled */
extern void run_clean_up(JobRun *run);

/* A step outside of a transaction block: journaled, run, marked */
extern void run_toplevel(JobRun *run, Oid relid, const char *statement,
						 const char *inverse);

/* An attempt that was interrupted had run it to its end: mark it, so that the
 * clean-up does not take it back */
extern void run_toplevel_done(JobRun *run, Oid relid, const char *statement);

/*
 * Run one recorded inverse of "target" on the relation of the step, whatever it
 * is called by now, and mark the step as undone.  If the relation is gone, so is
 * what was made on it: the step is only marked.
 */
extern void run_inverse(JobRun *run, const Job *target, const JobStep *step);

/* For the error at hand, within PG_CATCH: copied into the run's context */
extern ErrorData *run_take_error(JobRun *run);

/* Within a transaction: the request of the row; takes over changed options */
extern char *run_read_request(JobRun *run);
extern void run_read_progress(JobRun *run);

/* The same for the sums only: what others have added to them counts as well */
extern void run_read_sums(JobRun *run);

/* For the report */
extern void run_note(JobRun *run, Jsonb *facts);
extern void run_error_row(JobRun *run, const char *relation, Jsonb *key,
						  const char *sqlstate, const char *message);

/* A run without a job yet, in a context of its own */
extern JobRun *run_new(bool foreground);

typedef enum RunOutcome
{
	RUN_ENDED,					/* succeeded, failed, cancelled or paused */
	RUN_NOT_CLAIMED,			/* somebody else has it, or nothing to do */
	RUN_NO_SLOT,				/* max_workers are at work */
	RUN_NOT_READY				/* an earlier job must end first */
} RunOutcome;

/*
 * Claim a job and do it.  In a worker: no transaction is open at entry or
 * exit.  In the foreground: within SPI in non-atomic mode; errors of the job
 * are raised after they were recorded.
 */
extern RunOutcome job_run(int64 id);
/* The same for one that this session has claimed; releases the claim */
extern RunOutcome job_run_claimed(int64 id, bool foreground);

#endif							/* TENANTMIG_RUN_H */
