/*
 * crew.h
 *		Several workers on one pass.
 *
 * The worker of the job leads.  It makes a shared segment with the feed of the
 * pass and all that a helper must know to do batches of it, and starts helpers.
 * Each takes pieces of the same feed and adds what it has done to the same
 * sums; crew.c says how it ends.
 */
#ifndef TENANTMIG_CREW_H
#define TENANTMIG_CREW_H

#include "port/atomics.h"
#include "storage/dsm.h"
#include "storage/latch.h"
#include "storage/spin.h"

#include "steps/pass.h"

typedef struct Crew Crew;

/* Within a transaction: memory for the feed of this pass that helpers can
 * reach.  The crew is run->crew until crew_work() has ended. */
extern Feed *crew_make(JobRun *run, Pass *pass, Size size);

/* The whole pass, by this process and by helpers; in the pass are then the sums
 * of all.  No helper works on it any more when this returns or raises. */
extern void crew_work(JobRun *run, Pass *pass);

/* For each of the crew, and of no effect without one: its batch has committed;
 * a row has failed.  The rows of all are in pass->bad->rows afterwards. */
extern void crew_add_batch(JobRun *run, Pass *pass);
extern void crew_add_bad_row(JobRun *run, Pass *pass, BadRow row,
							 bool is_new);

/* --- what the leader and its helpers share ---------------------------- */

/* Texts of an error, cut if they must be */
typedef struct CrewError
{
	int			sqlerrcode;
	char		message[4096];
	char		detail[4096];	/* "": none */
	char		hint[2048];
} CrewError;

typedef enum CrewState
{
	CREW_FREE,
	CREW_STARTING,				/* a process has been asked for */
	CREW_NO_SLOT,				/* max_workers are at work */
	CREW_WORKING,				/* only such a one takes pieces */
	CREW_DONE					/* and takes no more */
} CrewState;

typedef struct CrewShared
{
	/* what is to be done; does not change */
	int64		job;
	int			attempts;
	Oid			relid;
	Oid			owner;
	Latch	   *leader;
	Pass		pass;			/* without its pointers; its position is the feed's */
	bool		by_pages;
	bool		has_bad;
	Size		feed_offset;

	pg_atomic_uint64 counted[lengthof(((Pass *) 0)->counted)];

	/* the rest under the mutex */
	slock_t		mutex;
	bool		stop;			/* nobody is to begin another batch */
	bool		passed_over;
	bool		failing;		/* somebody writes the error */
	bool		failed;			/* and has: it changes no more */
	CrewError	error;
	CrewState	states[FEED_MOST_TAKERS];	/* of takers; 0 is the leader */
	int64		bad_rows;
	int			bad_count;
	int			bad_room;
	BadRow		bad[FLEXIBLE_ARRAY_MEMBER];
} CrewShared;

struct Crew
{
	dsm_segment *segment;
	CrewShared *shared;
	int64		told[lengthof(((Pass *) 0)->counted)];	/* of pass->counted */

	/* of the leader */
	int			wanted;			/* workers, itself included */
	struct BackgroundWorkerHandle *handles[FEED_MOST_TAKERS];
	bool		gone[FEED_MOST_TAKERS]; /* was sent away: no other in its place */
	TimestampTz tried_at;		/* when helpers were last asked for */
};

/* bgw_extra of a helper */
typedef struct HelperArgs
{
	Oid			database;
	dsm_handle	segment;
	int			taker;
} HelperArgs;

extern CrewState crew_state(CrewShared *shared, int taker);

/* To WORKING only while nobody has said stop; otherwise it becomes DONE */
extern bool crew_set_state(CrewShared *shared, int taker, CrewState state);

/* How many are at work, to share the limits of the job */
extern int	crew_sharers(CrewShared *shared);

extern PGDLLEXPORT void tenantmig_helper_main(Datum arg);

#endif							/* TENANTMIG_CREW_H */
