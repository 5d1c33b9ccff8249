/*
 * ranges.c
 *		Which rows next, the plain way: ranges of blocks.
 *
 * A leaf is cut at block boundaries and read by tid range scans, so that each
 * block is visited once, whatever keys the table has or has not, and however
 * its keys are spread.  The last set of a leaf has no upper end: a row that
 * one update after the other moves to new blocks would outrun every pass that
 * ends at a size read before.  So one snapshot sees all that is behind the
 * cursor.  Rows that an update moves to blocks that have been visited are
 * found by the sweep that follows.
 *
 * The number of blocks adapts to the execution time of the batch.
 */
#include "postgres.h"

#include "engine/compat.h"
#include "steps/rows.h"

#define FIRST_BLOCKS	64
#define MOST_BLOCKS		(1 << 20)

struct RowCursor
{
	Feed	   *feed;
	int			taker;
	Piece		piece;			/* what is left of it */
	double		size;			/* blocks in the next set */
	bool		whole;
};

double
rows_adapt(double size, double done, double ms, int target_ms)
{
	double		factor = target_ms / Max(ms, 0.001);

	/* a short last set says nothing about longer ones */
	if (done + 1 < size && factor > 1)
		return size;
	return Max(done * Min(Max(factor, 0.1), 1.5), 1.0);
}

static RowCursor *
range_open(MemoryContext context, const RowRequest *request)
{
	RowCursor  *cursor = MemoryContextAllocZero(context, sizeof(RowCursor));

	cursor->feed = request->feed;
	cursor->taker = request->taker;
	cursor->size = request->size == ROWS_FEW ? 1 : FIRST_BLOCKS;
	cursor->whole = request->size == ROWS_WHOLE;
	return cursor;
}

static bool
next_piece(RowCursor *cursor)
{
	Piece	   *piece = &cursor->piece;

	if (piece->from < piece->until)
	{
		if (feed_lock_leaf(cursor->feed, piece) > 0)
			return true;
		feed_hold(cursor->feed, cursor->taker, piece, 0);
	}
	return feed_take(cursor->feed, cursor->taker,
					 cursor->whole ? MaxBlockNumber : cursor->size, piece);
}

static RowAnswer
range_next(RowCursor *cursor, RowSet *set)
{
	Piece	   *piece = &cursor->piece;

	if (!next_piece(cursor))
		return ROWS_END;
	memset(set, 0, sizeof(RowSet));
	set->leaf = piece->leaf;
	set->from = piece->from;
	set->until = cursor->whole ? piece->until
		: (BlockNumber) Min((double) piece->until, piece->from + Max(1.0, cursor->size));
	set->open = piece->last && set->until == piece->until;
	return ROWS_NEXT;
}

static void
range_done(RowCursor *cursor, const RowSet *set, const RowOutcome *outcome,
		   int target_ms)
{
	cursor->size = Min(rows_adapt(cursor->size, set->until - set->from,
								  outcome->ms, target_ms), MOST_BLOCKS);
	cursor->piece.from = set->until;
	feed_hold(cursor->feed, cursor->taker, &cursor->piece,
			  cursor->piece.from < cursor->piece.until);
}

static void
range_shrink(RowCursor *cursor)
{
	cursor->size = Max(cursor->size / 2, 1.0);
}

static RowChoice
range_choice(const RowCursor *cursor)
{
	return (RowChoice)
	{
		.method = "ranges"
	};
}

const RowCursorOps range_cursor = {
	.open = range_open,
	.next = range_next,
	.done = range_done,
	.shrink = range_shrink,
	.choice = range_choice,
};
