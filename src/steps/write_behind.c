/*
 * write_behind.c
 *		What a job has changed goes to the disk while it works.
 *
 * Blocks that a batch has changed leave shared buffers for the system's cache,
 * where the next checkpoint finds all of them at once.  While it makes them
 * durable, everybody's commits wait, for a tenth of a second or more.  So a block
 * is written when its rows are done, and the disk is told to begin, as
 * backend_flush_after would tell it of those that happen to be evicted.
 *
 * Blocks are written that far behind that their WAL has been flushed by now;
 * else the job would wait for that.
 */
#include "postgres.h"

#include "access/genam.h"
#include "catalog/pg_class.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/smgr.h"
#include "utils/rel.h"

#include "engine/compat.h"
#include "steps/write_behind.h"

#define DISTANCE	2048		/* blocks behind the rows that are done */
#define LAST_ADDED	256			/* blocks at the end, which are being filled */

/* If it is in shared buffers */
static void
write_block(Relation relation, BlockNumber block)
{
	Buffer		buffer = PrefetchBuffer(relation, MAIN_FORKNUM, block).recent_buffer;

	if (!BufferIsValid(buffer) ||
		!ReadRecentBuffer(relation_locator(relation), MAIN_FORKNUM, block, buffer))
		return;
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	FlushOneBuffer(buffer);
	UnlockReleaseBuffer(buffer);
}

static void
write_blocks(Relation relation, BlockNumber from, BlockNumber until)
{
	for (BlockNumber block = from; block < until; block++)
		write_block(relation, block);
}

/* Of a file that is as it is on disk, the system finds that out at once */
static void
tell_disk(Relation relation)
{
	if (RELKIND_HAS_STORAGE(relation->rd_rel->relkind))
		smgrwriteback(RelationGetSmgr(relation), MAIN_FORKNUM, 0,
					  RelationGetNumberOfBlocks(relation));
}

/* An index that is being dropped or built anew is no reason to wait */
static void
tell_disk_of_indexes(Relation relation)
{
	List	   *indexes = RelationGetIndexList(relation);
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index;

		if (!ConditionalLockRelationOid(lfirst_oid(lc), AccessShareLock))
			continue;
		index = index_open(lfirst_oid(lc), NoLock);
		tell_disk(index);
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
}

void
write_behind(WriteBehind *state, Relation relation, BlockNumber from, BlockNumber until)
{
	BlockNumber end = RelationGetNumberOfBlocks(relation);
	BlockNumber added = end - Min(end, LAST_ADDED);

	if (!data_is_cached_by_system())
		return;
	if (state->relid != RelationGetRelid(relation))
		*state = (WriteBehind)
	{
		.relid = RelationGetRelid(relation),.end = end
	};
	write_blocks(relation, from - Min(from, DISTANCE), until - Min(until, DISTANCE));
	if (added > state->end)
	{
		write_blocks(relation, state->end, added);
		state->end = added;
	}
	tell_disk(relation);
	tell_disk_of_indexes(relation);
}
