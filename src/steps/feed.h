/*
 * feed.h
 *		Where a pass stands: the leaves of a table, cut into pieces.
 *
 * A feed gives each piece of a table to one taker.  It lies in memory of its
 * own, or in memory that several workers share; then they take turns.  Which
 * rows of a piece come first, and how much of it is one batch, is not its
 * business (rows.h).
 *
 * What is not yet done of a piece is held by its taker.  The position of the
 * feed is the place before which nothing is held: what a checkpoint needs.
 * What a taker held that is gone is given out once more, before anything else.
 */
#ifndef TENANTMIG_FEED_H
#define TENANTMIG_FEED_H

#include "nodes/pg_list.h"
#include "storage/block.h"

#define FEED_MOST_TAKERS	16
#define FEED_MOST_PIECES	8	/* that one of them holds at a time */

/* A position as it is kept in a checkpoint */
typedef struct RowPosition
{
	Oid			leaf;			/* InvalidOid: at the start */
	BlockNumber block;
} RowPosition;

/* Blocks [from, until) of a leaf */
typedef struct Piece
{
	int			number;			/* of the leaf in the feed */
	Oid			leaf;
	BlockNumber from;
	BlockNumber until;
	bool		last;			/* nothing of the leaf comes after it */
} Piece;

typedef struct FeedProgress
{
	int64		blocks_done;
	int64		blocks_total;
	int			leaves_done;
	int			leaves_total;
	int64		rows;			/* changed by all takers */
} FeedProgress;

typedef struct Feed Feed;

extern Size feed_size(int leaves);

/* Within a transaction: the leaves as they are now, from a position on */
extern void feed_init(Feed *feed, Oid relid, List *leaves, RowPosition from);

/*
 * The next piece, of up to so many blocks; false when there is none.  Within a
 * transaction: leaves the leaf locked.  The taker holds it.
 */
extern bool feed_take(Feed *feed, int taker, double blocks, Piece *piece);

/* Within a transaction: lock the leaf of a piece again, and say how many
 * blocks it has now; 0 when it is gone or no part of the table any more */
extern BlockNumber feed_lock_leaf(Feed *feed, const Piece *piece);

/* What the taker still holds, of the pieces that it took */
extern void feed_hold(Feed *feed, int taker, const Piece *pieces, int count);

/* The taker is gone: others are to take what it held */
extern void feed_give_back(Feed *feed, int taker);

/* Whether there is such a piece; whether there is any other */
extern bool feed_has_returned(Feed *feed);
extern bool feed_has_more(Feed *feed);

/* Give out pieces of no more than so many blocks, so that there are some for
 * everybody.  Before the first is taken. */
extern void feed_cut(Feed *feed, double blocks);

extern void feed_add_rows(Feed *feed, int64 rows);
extern RowPosition feed_position(Feed *feed);
extern FeedProgress feed_progress(Feed *feed);

#endif							/* TENANTMIG_FEED_H */
