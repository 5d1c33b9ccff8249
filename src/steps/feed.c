/*
 * feed.c
 *		Where a pass stands: the leaves of a table, cut into pieces.
 *
 * A leaf ends where it ended when its first piece was taken: rows that come in
 * behind that have their value from the fill trigger.  The last piece is said
 * to be the last, for those who want to see to the real end.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/partition.h"
#include "port/atomics.h"
#include "storage/bufmgr.h"
#include "storage/spin.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "engine/compat.h"
#include "steps/feed.h"

typedef struct FeedLeaf
{
	Oid			relid;
	bool		partition;
	BlockNumber end;
} FeedLeaf;

typedef struct FeedPlace
{
	int			leaf;
	BlockNumber block;
} FeedPlace;

typedef struct FeedHold
{
	bool		returned;		/* the taker is gone */
	int			count;
	Piece		pieces[FEED_MOST_PIECES];
} FeedHold;

struct Feed
{
	slock_t		mutex;			/* protects what may change */
	Oid			root;			/* the table of the call */
	double		most_blocks;	/* in a piece */
	FeedPlace	next;
	FeedHold	held[FEED_MOST_TAKERS];
	pg_atomic_uint64 rows;
	int			count;
	FeedLeaf	leaves[FLEXIBLE_ARRAY_MEMBER];
};

Size
feed_size(int leaves)
{
	return offsetof(Feed, leaves) + sizeof(FeedLeaf) * Max(leaves, 1);
}

void
feed_init(Feed *feed, Oid relid, List *leaves, RowPosition from)
{
	ListCell   *lc;

	SpinLockInit(&feed->mutex);
	feed->root = relid;
	feed->next = (FeedPlace)
	{
		0, 0
	};
	feed->most_blocks = MaxBlockNumber;
	memset(feed->held, 0, sizeof(feed->held));
	pg_atomic_init_u64(&feed->rows, 0);
	feed->count = 0;
	foreach(lc, leaves)
	{
		FeedLeaf   *leaf = &feed->leaves[feed->count];
		Relation	relation = try_table_open(lfirst_oid(lc), AccessShareLock);

		if (relation == NULL)
			continue;
		leaf->relid = lfirst_oid(lc);
		leaf->partition = leaf->relid != relid && get_rel_relispartition(leaf->relid);
		leaf->end = RelationGetNumberOfBlocks(relation);
		table_close(relation, AccessShareLock);
		if (leaf->relid < from.leaf)
			feed->next.leaf = feed->count + 1;
		else if (leaf->relid == from.leaf)
			feed->next.block = from.block;
		feed->count++;
	}
}

static BlockNumber
leaf_size(const Feed *feed, const FeedLeaf *leaf)
{
	Relation	relation = try_table_open(leaf->relid, RowExclusiveLock);
	BlockNumber size = 0;

	if (relation == NULL)
		return 0;
	if (!leaf->partition ||
		(get_rel_relispartition(leaf->relid) &&
		 list_member_oid(get_partition_ancestors(leaf->relid), feed->root)))
		size = RelationGetNumberOfBlocks(relation);
	table_close(relation, NoLock);
	return size;
}

BlockNumber
feed_lock_leaf(Feed *feed, const Piece *piece)
{
	return leaf_size(feed, &feed->leaves[piece->number]);
}

static FeedPlace
next_place(Feed *feed)
{
	FeedPlace	place;

	SpinLockAcquire(&feed->mutex);
	place = feed->next;
	SpinLockRelease(&feed->mutex);
	return place;
}

/* Move on if nobody else has done so since "at" was read; with a piece, hold
 * it */
static bool
move_on(Feed *feed, FeedPlace at, FeedPlace to, BlockNumber end,
		FeedHold *hold, const Piece *piece)
{
	bool		moved = false;

	SpinLockAcquire(&feed->mutex);
	if (feed->next.leaf == at.leaf && feed->next.block == at.block)
	{
		feed->next = to;
		feed->leaves[at.leaf].end = end;
		if (piece)
			hold->pieces[hold->count++] = *piece;
		moved = true;
	}
	SpinLockRelease(&feed->mutex);
	return moved;
}

/* The leaf of a piece that was given back, or -1 */
static int
returned_leaf(Feed *feed)
{
	int			leaf = -1;

	SpinLockAcquire(&feed->mutex);
	for (int i = 0; i < FEED_MOST_TAKERS && leaf < 0; i++)
		if (feed->held[i].returned && feed->held[i].count > 0)
			leaf = feed->held[i].pieces[feed->held[i].count - 1].number;
	SpinLockRelease(&feed->mutex);
	return leaf;
}

/* The beginning of what somebody has left behind */
static bool
take_returned(Feed *feed, int leaf, FeedHold *hold, double blocks, Piece *piece)
{
	bool		found = false;

	SpinLockAcquire(&feed->mutex);
	for (int i = 0; i < FEED_MOST_TAKERS && !found; i++)
	{
		FeedHold   *from = &feed->held[i];
		Piece	   *rest;

		if (!from->returned || from->count == 0 ||
			from->pieces[from->count - 1].number != leaf)
			continue;
		found = true;
		rest = &from->pieces[from->count - 1];
		*piece = *rest;
		if (rest->until - rest->from > blocks)
		{
			piece->until = rest->from = rest->from + (BlockNumber) Max(blocks, 1.0);
			piece->last = false;
		}
		else
			from->count--;
		hold->pieces[hold->count++] = *piece;
	}
	SpinLockRelease(&feed->mutex);
	return found;
}

/* The piece that was taken last has gone with its leaf */
static void
drop_taken(Feed *feed, FeedHold *hold)
{
	SpinLockAcquire(&feed->mutex);
	hold->count--;
	SpinLockRelease(&feed->mutex);
}

bool
feed_take(Feed *feed, int taker, double blocks, Piece *piece)
{
	FeedHold   *hold = &feed->held[taker];
	int			number;

	Assert(hold->count < FEED_MOST_PIECES);
	blocks = Min(blocks, feed->most_blocks);
	while ((number = returned_leaf(feed)) >= 0)
	{
		/* locked before it is taken: this may raise an error */
		BlockNumber size = leaf_size(feed, &feed->leaves[number]);

		if (!take_returned(feed, number, hold, blocks, piece))
			continue;
		if (size > 0)
			return true;
		drop_taken(feed, hold);
	}
	for (;;)
	{
		FeedPlace	at = next_place(feed);
		FeedPlace	to;
		FeedLeaf   *leaf;
		BlockNumber size;
		BlockNumber end;

		if (at.leaf >= feed->count)
		{
			/* it may be what another has got */
			memset(piece, 0, sizeof(Piece));
			return false;
		}
		leaf = &feed->leaves[at.leaf];
		size = leaf_size(feed, leaf);
		end = at.block == 0 ? size : leaf->end;
		if (size == 0 || at.block >= end)
		{
			to.leaf = at.leaf + 1;
			to.block = 0;
			(void) move_on(feed, at, to, end, NULL, NULL);
			continue;
		}
		/* the end of a leaf may have moved while it was worked on */
		if (at.block + blocks >= end)
			end = Max(end, size);
		to.leaf = at.leaf;
		to.block = (BlockNumber) Min((double) end, at.block + Max(blocks, 1.0));
		piece->last = to.block >= end;
		if (piece->last)
		{
			to.leaf++;
			piece->until = end;
			to.block = 0;
		}
		else
			piece->until = to.block;
		piece->number = at.leaf;
		piece->leaf = leaf->relid;
		piece->from = at.block;
		if (move_on(feed, at, to, end, hold, piece))
			return true;
	}
}

void
feed_hold(Feed *feed, int taker, const Piece *pieces, int count)
{
	FeedHold   *hold = &feed->held[taker];

	SpinLockAcquire(&feed->mutex);
	memcpy(hold->pieces, pieces, sizeof(Piece) * count);
	hold->count = count;
	SpinLockRelease(&feed->mutex);
}

void
feed_give_back(Feed *feed, int taker)
{
	SpinLockAcquire(&feed->mutex);
	feed->held[taker].returned = true;
	SpinLockRelease(&feed->mutex);
}

bool
feed_has_returned(Feed *feed)
{
	bool		found = false;

	SpinLockAcquire(&feed->mutex);
	for (int i = 0; i < FEED_MOST_TAKERS; i++)
		found = found || (feed->held[i].returned && feed->held[i].count > 0);
	SpinLockRelease(&feed->mutex);
	return found;
}

bool
feed_has_more(Feed *feed)
{
	return next_place(feed).leaf < feed->count;
}

void
feed_cut(Feed *feed, double blocks)
{
	feed->most_blocks = Max(blocks, 1.0);
}

void
feed_add_rows(Feed *feed, int64 rows)
{
	(void) pg_atomic_fetch_add_u64(&feed->rows, rows);
}

static FeedPlace
oldest_place(Feed *feed)
{
	FeedPlace	oldest;

	SpinLockAcquire(&feed->mutex);
	oldest = feed->next;
	for (int i = 0; i < FEED_MOST_TAKERS; i++)
		for (int j = 0; j < feed->held[i].count; j++)
		{
			const Piece *held = &feed->held[i].pieces[j];

			if (held->number < oldest.leaf ||
				(held->number == oldest.leaf && held->from < oldest.block))
			{
				oldest.leaf = held->number;
				oldest.block = held->from;
			}
		}
	SpinLockRelease(&feed->mutex);
	return oldest;
}

static int64
blocks_held(Feed *feed)
{
	int64		blocks = 0;

	SpinLockAcquire(&feed->mutex);
	for (int i = 0; i < FEED_MOST_TAKERS; i++)
		for (int j = 0; j < feed->held[i].count; j++)
			blocks += feed->held[i].pieces[j].until - feed->held[i].pieces[j].from;
	SpinLockRelease(&feed->mutex);
	return blocks;
}

RowPosition
feed_position(Feed *feed)
{
	FeedPlace	place = oldest_place(feed);
	RowPosition position = {InvalidOid, 0};

	if (place.leaf < feed->count)
	{
		position.leaf = feed->leaves[place.leaf].relid;
		position.block = place.block;
	}
	else if (feed->count > 0)
	{
		/* behind the last leaf there is */
		position.leaf = feed->leaves[feed->count - 1].relid;
		position.block = MaxBlockNumber;
	}
	return position;
}

FeedProgress
feed_progress(Feed *feed)
{
	FeedPlace	place = next_place(feed);
	FeedProgress p = {.leaves_total = feed->count,
	.leaves_done = oldest_place(feed).leaf};

	for (int i = 0; i < feed->count; i++)
	{
		p.blocks_total += feed->leaves[i].end;
		if (i < place.leaf)
			p.blocks_done += feed->leaves[i].end;
	}
	p.blocks_done += place.block;
	p.blocks_done = Max(p.blocks_done - blocks_held(feed), 0);
	p.rows = (int64) pg_atomic_read_u64(&feed->rows);
	return p;
}
