/*
 * write_behind.h
 *		What a job has changed goes to the disk while it works.
 */
#ifndef TENANTMIG_WRITE_BEHIND_H
#define TENANTMIG_WRITE_BEHIND_H

#include "datatype/timestamp.h"
#include "storage/block.h"
#include "utils/relcache.h"

#define WRITE_BEHIND_MOST	16

typedef struct DonePiece
{
	Oid			leaf;
	BlockNumber from;
	BlockNumber until;
} DonePiece;

/* Zero at first */
typedef struct WriteBehind
{
	bool		own_only;		/* somebody else does the rest for the table */
	DonePiece	pieces[WRITE_BEHIND_MOST];	/* the oldest first */
	int			npieces;
	TimestampTz step_at;		/* when to go on */

	/* the table at hand */
	Oid			leaf;
	BlockNumber end;			/* what was added before is written */
	int			round_file;		/* 0: the table, then its indexes */
	BlockNumber round_block;
	TimestampTz round_at;		/* when the next round may begin */
} WriteBehind;

/* The rows in blocks [from, until) have been done */
extern void write_behind_done(WriteBehind *state, Relation relation,
							  BlockNumber from, BlockNumber until);

/*
 * Write a little of what was done some time ago and of what was added to the
 * table, and tell the disk of it and of what else has left shared buffers, if it
 * is time.  Often, in a transaction that has the table locked.
 */
extern void write_behind(WriteBehind *state, Relation relation);

/*
 * Let the WAL writer know that there is WAL.  A batch makes more of it than fits
 * into WAL buffers, and who commits meanwhile would have to flush it all.  Often,
 * while a batch is at work.
 */
extern void write_behind_wal(void);

#endif							/* TENANTMIG_WRITE_BEHIND_H */
