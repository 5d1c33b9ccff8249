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

/* One pass of one statement over the table */
typedef struct Pass
{
	SourceStatement what;
	const char *phase;
	Source	   *source;
	const char *orphan_value;
	const RowCursorOps *rows;
	RowCursor  *cursor;
	RowPosition start;
	bool		resumable;		/* its position goes into the checkpoint */
	bool		count_rows;		/* its updates count as progress */
	bool		measured;		/* its speed is the speed of the job */
	bool		limited;		/* its batches have a time limit */
	bool		triggers_off;	/* its updates fire none of the table's */
	RowSetSize	sets;

	/* the batch at hand */
	RowSet		set;
	bool		at_end;
	bool		pass_over_locked;
	int			wary;			/* so many more batches pass over locked rows */
	Throttle	throttle;
	BatchCost	cost;
	TimestampTz started;
	TimestampTz last_commit;

	/* the plan of the statement for one leaf, as SPI keeps it */
	Oid			plan_leaf;
	char	   *plan_text;
	SPIPlanPtr	plan;

	/* sums */
	int64		updated;
	int64		counted[4];
	bool		passed_over;
} Pass;

/* Go over the whole table, or what "start" leaves of it; outside of any
 * transaction.  Raises what does not pass. */
extern void run_pass(JobRun *run, Pass *pass);

/* --- batch.c --- */

/* The transaction of one batch: takes the next set, or notes that there is
 * none, and writes the progress */
extern void batch_body(JobRun *run, void *pass);

/* For the error that a batch ended with: whether it was its time limit */
extern bool batch_out_of_time_taken(const ErrorData *error);

/* Where a resumed job goes on; for passes that can be resumed */
extern void pass_set_checkpoint(JobRun *run, const Pass *pass,
								RowPosition position);

#endif							/* TENANTMIG_PASS_H */
