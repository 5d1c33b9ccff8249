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
	int64		max_rows_per_second;	/* 0: no limit */
	int64		max_wal_rate;	/* bytes per second, 0: no limit */
	int			max_replication_lag;	/* ms, 0: no limit */
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

/* What a batch cost */
typedef struct BatchCost
{
	int64		rows;
	int64		wal_bytes;
	double		ms;
} BatchCost;

/*
 * Between two batches: rest for as long as the throttles say, in pieces, with
 * the reason in the progress row.  No transaction may be open.
 */
extern void throttle_wait(JobRun *run, const BatchCost *cost);

#endif							/* TENANTMIG_THROTTLE_H */
