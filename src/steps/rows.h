/*
 * rows.h
 *		Which rows next: how the pieces of a feed are cut into batches.
 *
 * A cursor takes pieces of a table from a feed and hands out sets of rows;
 * whoever takes one works on it in one transaction and says how it went, so
 * that the next one can be larger or smaller.  A cursor lives in the memory of
 * one process only; what must outlive it is the position of the feed.
 */
#ifndef TENANTMIG_ROWS_H
#define TENANTMIG_ROWS_H

#include "storage/block.h"
#include "utils/array.h"

#include "steps/feed.h"
#include "steps/source.h"

/* The rows of a leaf whose place is in blocks [from, until) */
typedef struct RowSet
{
	Oid			leaf;
	BlockNumber from;
	BlockNumber until;
	bool		open;			/* and all that come behind "until" meanwhile */
	ArrayType  *tids;			/* these only; NULL: all */
	int			count;			/* of tids */
} RowSet;

/* How large the sets of a cursor are */
typedef enum RowSetSize
{
	ROWS_ADAPTED,				/* to the time that a set takes */
	ROWS_FEW,					/* the same, and the first as small as can be */
	ROWS_WHOLE					/* a leaf is one set, seen by one snapshot */
} RowSetSize;

typedef struct RowRequest
{
	Feed	   *feed;
	int			taker;
	RowSetSize	size;
	const Source *source;		/* what the rows are taken for */
	bool		only;			/* no other way instead, even where it is faster */
} RowRequest;

typedef enum RowAnswer
{
	ROWS_NEXT,					/* here is a set */
	ROWS_WAIT,					/* nothing to do for a moment */
	ROWS_END
} RowAnswer;

/* What was done with a set */
typedef struct RowOutcome
{
	TransactionId xid;
	int64		rows;
	int64		hot_rows;		/* whose new version is on the same page */
	double		ms;
} RowOutcome;

/* How rows are chosen now, for people */
typedef struct RowChoice
{
	const char *method;			/* as in the option */
	const char *reason;			/* why not in the better way, or NULL */
	bool		horizon_held;	/* the reason is an old snapshot */
} RowChoice;

typedef struct RowCursor RowCursor;

typedef struct RowCursorOps
{
	/* A cursor, made in "context" */
	RowCursor  *(*open) (MemoryContext context, const RowRequest *request);

	/* The next set, not yet taken off.  Within a transaction: the leaf is
	 * locked and may be worked on. */
	RowAnswer	(*next) (RowCursor *cursor, RowSet *set);

	/* The set has been committed.  Goes on behind it. */
	void		(*done) (RowCursor *cursor, const RowSet *set,
						 const RowOutcome *outcome, int target_ms);

	/* The set failed or took too long to lock; hand out half of it next */
	void		(*shrink) (RowCursor *cursor);

	RowChoice	(*choice) (const RowCursor *cursor);
} RowCursorOps;

extern const RowCursorOps range_cursor;
extern const RowCursorOps page_cursor;

/* The size of the next set, when one of so many blocks or rows took so long:
 * grows by half at most, and shrinks to a tenth at once */
extern double rows_adapt(double size, double done, double ms, int target_ms);

#endif							/* TENANTMIG_ROWS_H */
