/*
 * throttle_limits.h
 *		Each limit: what it is compared with, and what follows from that.
 *
 * Shared by the process that obeys the limits (throttle.c) and by those that
 * look at them (throttle_view.c).
 */
#ifndef TENANTMIG_THROTTLE_LIMITS_H
#define TENANTMIG_THROTTLE_LIMITS_H

#include "engine/throttle.h"

/* What the server says, as far as it was asked for */
#define SIGNAL_LAG		0x01
#define SIGNAL_SLOT		0x02
#define SIGNAL_ARCHIVE	0x04
#define SIGNAL_VACUUM	0x08
#define SIGNAL_WORKERS	0x10

typedef struct Signals
{
	int			read;			/* SIGNAL_... */
	int64		lag_ms;			/* of the standby furthest behind; -1: none is */
	NameData	slot;			/* the one that is furthest behind, or "" */
	bool		slot_unreserved;	/* it is about to lose what it needs */
	int64		slot_bytes;
	int64		archive_ready;	/* segments; -1: nothing is archived */
	int			vacuum_pid;		/* 0: none */
	char		vacuum_relation[4 * NAMEDATALEN + 8];	/* quoted */
	int			workers;		/* processes of the server at work on jobs */
} Signals;

/* Within a transaction: read some of them, for a job on this table; the others
 * are zero */
extern void signals_read(Signals *signals, int which, Oid relid);

/* What a process knows of the job that it works on */
typedef struct Facts
{
	double		rows_per_second;	/* rests are part of both */
	double		wal_per_second;
	double		batch_ms;		/* of the last batch */
	int			waiters;		/* for the last batch */
	double		vacuum_rested_ms;	/* since there is a VACUUM */
} Facts;

/* What batches have taken and rests have not paid yet */
typedef struct Owed
{
	double		rows;
	double		wal_bytes;
	double		work_ms;		/* times nice: the rest */
	double		waiters_ms;
} Owed;

typedef struct Scene
{
	const Throttle *throttle;
	const Signals *signals;
	const Facts *facts;			/* NULL: nobody works on the job */
	const Owed *owed;
	int			sharers;		/* processes at work on this job */
} Scene;

typedef struct ThrottleLimit
{
	const char *name;			/* of the option */
	char	   *current;		/* NULL: not known; palloc'd, as is the next */
	char	   *limit;			/* NULL: none */
	double		rest_ms;		/* 0: within the limit */
} ThrottleLimit;

#define THROTTLE_LIMITS 9

/* Those that depend on others than this job come first.  No transaction is
 * needed. */
extern void limits_judge(const Scene *scene, ThrottleLimit limits[THROTTLE_LIMITS]);

/* The part of the process in the limits that are rates; 0: no limit */
extern double limit_rows_per_second(const Scene *scene);
extern double limit_wal_rate(const Scene *scene);

/* The signals that the limits in use are compared with */
extern int	limits_signals(const Throttle *throttle);

#endif							/* TENANTMIG_THROTTLE_LIMITS_H */
