/*
 * pass.h
 *		One pass of one statement over a table.
 */
#ifndef TENANTMIG_PASS_H
#define TENANTMIG_PASS_H

#include "executor/spi.h"

#include "engine/run.h"
#include "engine/throttle.h"
#include "steps/rows.h"
#include "steps/source.h"

typedef struct BadRow
{
	Oid			leaf;
	ItemPointerData tid;
} BadRow;

/* Rows that failed, by their places, which later batches leave out */
typedef struct BadRows
{
	BadRow	   *list;
	int			count;
	int			room;
	int64		rows;			/* told apart by their keys */
} BadRows;

typedef struct Pass
{
	SourceStatement what;
	const char *phase;
	Source	   *source;
	const char *orphan_value;
	const RowCursorOps *rows;
	bool		only_so;		/* no other way of choosing rows instead */
	RowCursor  *cursor;
	Feed	   *feed;			/* NULL: one of its own, from "start" on */
	int			taker;			/* which of those that share the feed */
	RowPosition start;
	bool		resumable;		/* its position goes into the checkpoint */
	bool		count_rows;		/* its updates count as progress */
	bool		totals;			/* what it counts are the totals of the job */
	bool		measured;		/* its speed is the speed of the job */
	bool		limited;		/* its batches have a time limit */
	int64		max_errors;		/* rows that may fail */
	BadRows    *bad;			/* those that have; NULL: a row that fails ends it */
	bool		triggers_off;	/* its updates fire none of the table's */
	RowSetSize	sets;
	int			workers;		/* that should share it; 0 is 1 */
	int64		source_job;		/* whose arguments the source is from; 0: the
								 * job's at work */

	/* the batch at hand */
	RowAnswer	answer;
	RowSet		set;
	RowSet		whole;			/* the set, before it was split */
	bool		executing;		/* the statement itself */
	List	   *parts;			/* of RowSet *: of the set, still to be done */
	RowOutcome	outcome;		/* of all parts */
	bool		pass_over_locked;
	int			wary;			/* so many more batches pass over locked rows */
	Throttle	throttle;
	BatchCost	cost;
	TimestampTz started;
	TimestampTz last_commit;
	int64		last_rows;		/* of the feed, at that time */
	TimestampTz choice_at;		/* when it was last said how rows are chosen */

	/* the plan of the statement for one leaf, as SPI keeps it */
	char	   *plan_text;
	SPIPlanPtr	plan;

	struct ParentPlaces *parents;	/* where they were found, or NULL so far */

	/* sums */
	int64		updated;
	int64		counted[4];
	bool		passed_over;
} Pass;

/* Go over the whole table, or what "start" leaves of it; outside of any
 * transaction.  Raises what does not pass. */
extern void run_pass(JobRun *run, Pass *pass);

/* The part of it that each worker does: open a cursor on the feed, and batches
 * until there is nothing left to take */
extern void pass_open(JobRun *run, Pass *pass);
extern void pass_work(JobRun *run, Pass *pass);

/* --- batch.c --- */

/* The transaction of one batch: takes the next set, or notes that there is
 * none, and writes the progress */
extern void batch_body(JobRun *run, void *pass);

/* For the error that a batch ended with: whether it was its time limit */
extern bool batch_out_of_time_taken(const ErrorData *error);

/* --- split.c --- */

/* Whether the error is about rows, so that others may pass */
extern bool split_helps(const ErrorData *error);

/* The set at hand has failed: put its halves in its place, or, when it was one
 * row, record it.  Raises the error when that is one too many. */
extern void split_failed(JobRun *run, Pass *pass, ErrorData *error);

/* The part of a split set that was at hand is done */
extern void split_forget_part(Pass *pass);

/* Its place is left out from now on; "context" is where the list lives */
extern void split_remember(MemoryContext context, BadRows *bad, BadRow row);

/* Arrays of tids, in the current context */
extern ArrayType *tid_array(const ItemPointerData *tids, int count);

#endif							/* TENANTMIG_PASS_H */
