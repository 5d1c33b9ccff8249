/*
 * rows.h
 *		Which rows next: how a pass over a table is cut into batches.
 *
 * A cursor goes over the leaves of a table in the order of their OIDs, and
 * hands out sets of rows; whoever takes one works on it in one transaction and
 * says how it went, so that the next one can be larger or smaller.  A cursor
 * lives in memory only.  Where it stands is a RowPosition, which travels in
 * the checkpoint of the job.
 */
#ifndef TENANTMIG_ROWS_H
#define TENANTMIG_ROWS_H

#include "nodes/pg_list.h"
#include "storage/block.h"

typedef struct RowPosition
{
	Oid			leaf;			/* InvalidOid: at the start */
	BlockNumber block;
} RowPosition;

/* The rows of a leaf whose place is in blocks [from, until) */
typedef struct RowSet
{
	Oid			leaf;
	BlockNumber from;
	BlockNumber until;
	bool		open;			/* and all that come behind "until" meanwhile */
} RowSet;

/* How large the sets of a cursor are */
typedef enum RowSetSize
{
	ROWS_ADAPTED,				/* to the time that a set takes */
	ROWS_FEW,					/* the same, and the first as small as can be */
	ROWS_WHOLE					/* a leaf is one set, seen by one snapshot */
} RowSetSize;

typedef struct RowCursor RowCursor;

typedef struct RowCursorOps
{
	const char *name;			/* as in the option "method" */

	/* A cursor over the leaves as they are now, from a position on.  Within a
	 * transaction; the cursor is made in "context". */
	RowCursor  *(*open) (MemoryContext context, Oid relid, RowPosition from,
						 RowSetSize size);

	/* The next set, not yet taken off; false at the end.  Within a
	 * transaction: the leaf is locked and may be worked on. */
	bool		(*next) (RowCursor *cursor, RowSet *set);

	/* The set has been committed; it took so long.  Goes on behind it. */
	void		(*done) (RowCursor *cursor, const RowSet *set, double ms,
						 int target_ms);

	/* The set failed or took too long to lock; hand out half of it next */
	void		(*shrink) (RowCursor *cursor);

	RowPosition (*position) (const RowCursor *cursor);

	/* Blocks behind and in all, for the progress */
	void		(*blocks) (const RowCursor *cursor, int64 *done, int64 *total);
} RowCursorOps;

extern const RowCursorOps range_cursor;

#endif							/* TENANTMIG_ROWS_H */
