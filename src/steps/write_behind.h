/*
 * write_behind.h
 *		What a job has changed goes to the disk while it works.
 */
#ifndef TENANTMIG_WRITE_BEHIND_H
#define TENANTMIG_WRITE_BEHIND_H

#include "datatype/timestamp.h"
#include "storage/block.h"
#include "utils/relcache.h"

/* Of one table; zero at first */
typedef struct WriteBehind
{
	Oid			relid;
	BlockNumber written;		/* what was done before it is written */
	BlockNumber due;			/* what was done before it should be */
	BlockNumber end;			/* of the table; what was added before is written */

	/* where the round over all files stands */
	int			round_file;		/* 0: the table, then its indexes */
	BlockNumber round_block;
	TimestampTz turn_at;		/* when it goes on */
} WriteBehind;

/*
 * The rows in blocks [from, until) have been done.  Where several tables are
 * worked on in turns, it is the one of the last call that matters.
 */
extern void write_behind_done(WriteBehind *state, Relation relation,
							  BlockNumber from, BlockNumber until);

/*
 * Write a little of what was done some time ago and of what was added to the
 * table, and tell the disk of it and of what else has left shared buffers.  For
 * each batch, in a transaction that has the table locked.
 */
extern void write_behind(WriteBehind *state, Relation relation);

/*
 * Let the WAL writer know that there is WAL.  A batch makes more of it than fits
 * into WAL buffers, and who commits meanwhile would have to flush it all.  Often,
 * while a batch is at work.
 */
extern void write_behind_wal(void);

#endif							/* TENANTMIG_WRITE_BEHIND_H */
