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
 * The number of blocks adapts to the execution time of the batch: it grows by
 * half at most, and shrinks to a tenth at once when a batch took much too
 * long.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/partition.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "engine/compat.h"
#include "steps/rows.h"
#include "steps/target.h"

#define FIRST_BLOCKS	64
#define MOST_BLOCKS		(1 << 20)

typedef struct Leaf
{
	Oid			relid;
	bool		partition;
	BlockNumber end;
} Leaf;

struct RowCursor
{
	MemoryContext context;
	Oid			root;			/* the table of the call */
	Leaf	   *leaves;
	int			count;
	int			current;		/* index into leaves */
	BlockNumber block;			/* next block of the current leaf */
	double		size;			/* blocks in the next set */
	bool		whole;
};

/*
 * The size of a leaf now; 0 if it has been dropped, or is a partition of this
 * table no more.  Leaves it locked.
 */
static BlockNumber
leaf_size(const RowCursor *cursor, const Leaf *leaf)
{
	Relation	relation = try_table_open(leaf->relid, RowExclusiveLock);
	BlockNumber size = 0;

	if (relation == NULL)
		return 0;
	if (!leaf->partition ||
		(get_rel_relispartition(leaf->relid) &&
		 list_member_oid(get_partition_ancestors(leaf->relid), cursor->root)))
		size = RelationGetNumberOfBlocks(relation);
	table_close(relation, NoLock);
	return size;
}

static RowCursor *
range_open(MemoryContext context, Oid relid, RowPosition from, RowSetSize size)
{
	List	   *leaves = target_leaves(relid);
	RowCursor  *cursor = MemoryContextAllocZero(context, sizeof(RowCursor));
	ListCell   *lc;

	cursor->context = context;
	cursor->root = relid;
	cursor->size = size == ROWS_FEW ? 1 : FIRST_BLOCKS;
	cursor->whole = size == ROWS_WHOLE;
	cursor->leaves = MemoryContextAllocZero(context,
											sizeof(Leaf) * Max(1, list_length(leaves)));
	foreach(lc, leaves)
	{
		Oid			leaf = lfirst_oid(lc);
		Relation	relation = try_table_open(leaf, AccessShareLock);

		if (relation == NULL)
			continue;
		cursor->leaves[cursor->count].relid = leaf;
		cursor->leaves[cursor->count].partition =
			leaf != relid && get_rel_relispartition(leaf);
		cursor->leaves[cursor->count].end = RelationGetNumberOfBlocks(relation);
		table_close(relation, AccessShareLock);
		if (leaf < from.leaf)
			cursor->current = cursor->count + 1;
		else if (leaf == from.leaf)
			cursor->block = from.block;
		cursor->count++;
	}
	return cursor;
}

/* Where the next set ends, if it does not end with the leaf */
static BlockNumber
set_end(const RowCursor *cursor, const Leaf *leaf)
{
	if (cursor->whole)
		return leaf->end;
	return (BlockNumber) Min((double) leaf->end,
							 cursor->block + Max(1.0, cursor->size));
}

static bool
range_next(RowCursor *cursor, RowSet *set)
{
	for (; cursor->current < cursor->count; cursor->current++, cursor->block = 0)
	{
		Leaf	   *leaf = &cursor->leaves[cursor->current];
		BlockNumber size = leaf_size(cursor, leaf);

		if (cursor->block == 0)
			leaf->end = size;
		if (size == 0 || cursor->block >= leaf->end)
			continue;
		set->leaf = leaf->relid;
		set->from = cursor->block;
		set->until = set_end(cursor, leaf);
		if (set->until >= leaf->end)
		{
			leaf->end = Max(leaf->end, size);
			set->until = set_end(cursor, leaf);
		}
		set->open = set->until >= leaf->end;
		return true;
	}
	return false;
}

static void
range_done(RowCursor *cursor, const RowSet *set, double ms, int target_ms)
{
	double		factor = target_ms / Max(ms, 0.001);
	double		blocks = set->until - set->from;

	cursor->block = set->until;
	/* the short last set of a leaf says nothing about longer ones */
	if (blocks + 1 < cursor->size && factor > 1)
		return;
	cursor->size = Min(Max(blocks * Min(Max(factor, 0.1), 1.5), 1.0), MOST_BLOCKS);
}

static void
range_shrink(RowCursor *cursor)
{
	cursor->size = Max(cursor->size / 2, 1.0);
}

static RowPosition
range_position(const RowCursor *cursor)
{
	RowPosition position = {InvalidOid, 0};

	if (cursor->current < cursor->count)
	{
		position.leaf = cursor->leaves[cursor->current].relid;
		position.block = cursor->block;
	}
	return position;
}

static void
range_blocks(const RowCursor *cursor, int64 *done, int64 *total)
{
	*done = *total = 0;
	for (int i = 0; i < cursor->count; i++)
	{
		*total += cursor->leaves[i].end;
		if (i < cursor->current)
			*done += cursor->leaves[i].end;
	}
	*done += cursor->block;
}

const RowCursorOps range_cursor = {
	.name = "ranges",
	.open = range_open,
	.next = range_next,
	.done = range_done,
	.shrink = range_shrink,
	.position = range_position,
	.blocks = range_blocks,
};
