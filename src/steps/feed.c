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
	int			leaf;			/* -1: none */
	BlockNumber block;
} FeedPlace;

struct Feed
{
	slock_t		mutex;			/* protects what may change */
	Oid			root;			/* the table of the call */
	FeedPlace	next;
	FeedPlace	held[FEED_MOST_TAKERS];
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
	for (int i = 0; i < FEED_MOST_TAKERS; i++)
		feed->held[i].leaf = -1;
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

/* Move on if nobody else has done so since "at" was read; with a piece, take
 * what lies between */
static bool
move_on(Feed *feed, FeedPlace at, FeedPlace to, BlockNumber end, int taker,
		bool take)
{
	bool		moved = false;

	SpinLockAcquire(&feed->mutex);
	if (feed->next.leaf == at.leaf && feed->next.block == at.block)
	{
		FeedPlace  *held = &feed->held[Max(taker, 0)];

		feed->next = to;
		feed->leaves[at.leaf].end = end;
		if (take && (held->leaf < 0 || at.leaf < held->leaf ||
					 (at.leaf == held->leaf && at.block < held->block)))
			*held = at;
		moved = true;
	}
	SpinLockRelease(&feed->mutex);
	return moved;
}

bool
feed_take(Feed *feed, int taker, double blocks, Piece *piece)
{
	for (;;)
	{
		FeedPlace	at = next_place(feed);
		FeedPlace	to;
		FeedLeaf   *leaf;
		BlockNumber size;
		BlockNumber end;

		if (at.leaf >= feed->count)
			return false;
		leaf = &feed->leaves[at.leaf];
		size = leaf_size(feed, leaf);
		end = at.block == 0 ? size : leaf->end;
		if (size == 0 || at.block >= end)
		{
			to.leaf = at.leaf + 1;
			to.block = 0;
			(void) move_on(feed, at, to, end, taker, false);
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
		if (move_on(feed, at, to, end, taker, true))
			return true;
	}
}

void
feed_hold(Feed *feed, int taker, const Piece *piece)
{
	SpinLockAcquire(&feed->mutex);
	feed->held[taker].leaf = piece ? piece->number : -1;
	feed->held[taker].block = piece ? piece->from : 0;
	SpinLockRelease(&feed->mutex);
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
	{
		FeedPlace	held = feed->held[i];

		if (held.leaf >= 0 &&
			(held.leaf < oldest.leaf ||
			 (held.leaf == oldest.leaf && held.block < oldest.block)))
			oldest = held;
	}
	SpinLockRelease(&feed->mutex);
	return oldest;
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
	FeedPlace	place = oldest_place(feed);
	FeedProgress p = {.leaves_total = feed->count,.leaves_done = place.leaf};

	for (int i = 0; i < feed->count; i++)
	{
		p.blocks_total += feed->leaves[i].end;
		if (i < place.leaf)
			p.blocks_done += feed->leaves[i].end;
	}
	p.blocks_done += place.block;
	p.rows = (int64) pg_atomic_read_u64(&feed->rows);
	return p;
}
