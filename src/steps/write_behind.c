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
 * else the job would wait for that.  The disk is told of whole files, since who
 * works beside the job changes blocks anywhere; but the more files, the rarer.
 */
#include "postgres.h"

#include "access/genam.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/smgr.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "steps/write_behind.h"

#define DISTANCE	2048		/* blocks behind the rows that are done */
#define LAST_ADDED	256			/* blocks at the end, which are being filled */
#define MOST_ADDED	4096		/* more of them are the work of others */
#define TELL_EVERY	20			/* ms for each file */

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
	{
		CHECK_FOR_INTERRUPTS();
		write_block(relation, block);
	}
}

static void
write_added(WriteBehind *state, Relation relation, BlockNumber end)
{
	BlockNumber until = end - Min(end, LAST_ADDED);

	/* it was truncated */
	state->end = Min(state->end, end);
	if (until <= state->end)
		return;
	if (until - state->end <= MOST_ADDED)
		write_blocks(relation, state->end, until);
	state->end = until;
}

/*
 * Of what is on disk already, the system finds that out at once.  Elsewhere than
 * with sync_file_range() the server would throw the blocks out of the cache.
 * Returns the number of files.
 */
static int
tell_disk(Relation relation)
{
	BlockNumber blocks = RelationGetNumberOfBlocks(relation);

#ifdef HAVE_SYNC_FILE_RANGE
	smgrwriteback(RelationGetSmgr(relation), MAIN_FORKNUM, 0, blocks);
#endif
	return 1 + blocks / RELSEG_SIZE;
}

/* An index that is being dropped or built anew is no reason to wait */
static int
tell_disk_of_indexes(Relation relation)
{
	List	   *indexes = RelationGetIndexList(relation);
	ListCell   *lc;
	int			files = 0;

	foreach(lc, indexes)
	{
		Relation	index;

		if (!ConditionalLockRelationOid(lfirst_oid(lc), AccessShareLock))
			continue;
		index = index_open(lfirst_oid(lc), NoLock);
		files += tell_disk(index);
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return files;
}

void
write_behind(WriteBehind *state, Relation relation, BlockNumber from, BlockNumber until)
{
	BlockNumber end;
	TimestampTz now = GetCurrentTimestamp();

	if (!data_is_cached_by_system() || RelationUsesLocalBuffers(relation))
		return;
	end = RelationGetNumberOfBlocks(relation);
	if (state->relid != RelationGetRelid(relation))
		*state = (WriteBehind)
	{
		.relid = RelationGetRelid(relation),.end = end
	};
	write_blocks(relation, from - Min(from, DISTANCE),
				 Min(until - Min(until, DISTANCE), end));
	write_added(state, relation, end);
	if (now >= state->tell_at)
	{
		int			files = tell_disk(relation) + tell_disk_of_indexes(relation);

		state->tell_at = now + files * TELL_EVERY * INT64CONST(1000);
	}
}
