/*
 * throttle.h
 *		How much of the server a job may take.
 */
#ifndef TENANTMIG_THROTTLE_H
#define TENANTMIG_THROTTLE_H

#include "engine/run.h"

/* What a job's options and the settings come to */
typedef struct Throttle
{
	int			batch_target;	/* ms */
	double		max_rows_per_second;	/* 0: no limit */
	int64		max_wal_rate;	/* bytes per second, 0: no limit */
	bool		wal_rate_of_server; /* it is the setting, for all jobs together */
	int			max_replication_lag;	/* ms, 0: no limit */
	int64		max_slot_retention; /* bytes, 0: no limit */
	int			max_archive_backlog;	/* segments, 0: no limit */
	bool		yield_to_vacuum;
	int			max_vacuum_rest;	/* ms */
	int			max_waiters;	/* -1: no limit */
	double		nice;
	int			not_from;		/* seconds of the day; -1: no window */
	int			not_until;
	bool		synchronous_commit;
} Throttle;

/* Check the throttles among a job's options (22023); others are not looked at */
extern void throttle_check_options(Jsonb *options);

/* Whether alter_job() may change this key */
extern bool throttle_is_option(const char *key);
extern const char *throttle_option_names(void);

extern void throttle_read(Throttle *throttle, Jsonb *options);

/*
 * What a batch cost.  ms is execution time only: what was spent waiting for
 * locks before it, committing or resting is no work.
 */
typedef struct BatchCost
{
	int64		rows;
	int64		wal_bytes;
	double		ms;
	int			waiters;		/* lock_waiters() before the batch commits */
} BatchCost;

/*
 * Between two batches: rest for as long as the throttles say, in pieces, with
 * the reason in the progress row.  What a batch took above its share is owed
 * until it is paid by rests; what was not used is not saved up, so that no
 * burst follows a quiet time.  No transaction may be open.
 *
 * Where run->sharers processes work on one job, each calls this for its own
 * batches and has its part of the limits that the job's options set.
 */
extern void throttle_wait(JobRun *run, const BatchCost *cost);

/*
 * Whether the batches that follow this one should be smaller: more sessions
 * than max_waiters waited for it, or it took more than a second's worth of the
 * rows or the WAL, so that the rest after it is one that can be felt.  To be
 * asked after each batch; the caller then shrinks its row set.
 */
extern bool throttle_wants_less(JobRun *run, const Throttle *throttle,
								const BatchCost *cost);

/* For the progress row: what only this process knows of its throttles; NULL
 * before the first batch */
extern Jsonb *throttle_facts(JobRun *run);

#endif							/* TENANTMIG_THROTTLE_H */
