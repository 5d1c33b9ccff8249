/*
 * write_behind.c
 *		What a job has changed goes to the disk while it works.
 *
 * Blocks that a batch has changed leave shared buffers for the system's cache,
 * where the next checkpoint finds all of them at once.  While it makes them
 * durable, everybody's commits wait, for a tenth of a second or more.  So a block
 * is written when its rows are done, and the disk is told to begin, as
 * checkpoint_flush_after would tell it.
 *
 * Blocks are written that far behind that their WAL has been flushed by now;
 * else the job would wait for that.  Who works beside the job changes blocks
 * anywhere, and so do new index entries.  The disk is told of these in rounds over
 * the table and its indexes.
 *
 * All this goes a little at a time.  The disk does what it is told in the order
 * in which it is told, and a commit that comes after much else waits for all of
 * that.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/smgr.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "steps/write_behind.h"

#define DISTANCE	2048		/* blocks behind the rows that are done */
#define HOLE		8192		/* so many blocks were not worked on now */
#define FEW_BLOCKS	32			/* are written at once, and a share of the rest */
#define DUE_SHARE	16
#define LAST_ADDED	256			/* blocks at the end, which are being filled */
#define MOST_ADDED	4096		/* more of them are the work of others */

/* A round begins so long after the one before, and goes on in short turns */
#define ROUND_EVERY	80			/* ms */
#define TURN_EVERY	20			/* ms */
#define TURN_TIME	1000		/* us */
#define TURN_BLOCKS	128			/* until we look at the clock */

/* The WAL writer flushes when there is four times as much, by default */
#define WAL_BYTES	(256 * 1024)

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

/*
 * Of what is on disk already, the system finds that out at once.  Elsewhere than
 * with sync_file_range() the server would throw the blocks out of the cache.
 */
static void
tell_disk(Relation relation, BlockNumber from, BlockNumber until)
{
#ifdef HAVE_SYNC_FILE_RANGE
	if (from < until)
		smgrwriteback(RelationGetSmgr(relation), MAIN_FORKNUM, from, until - from);
#endif
}

static void
write_blocks(Relation relation, BlockNumber from, BlockNumber until)
{
	for (BlockNumber block = from; block < until; block++)
	{
		CHECK_FOR_INTERRUPTS();
		write_block(relation, block);
	}
	tell_disk(relation, from, until);
}

/* --- what the job has changed ---------------------------------------- */

static void
write_due(WriteBehind *state, Relation relation, BlockNumber end)
{
	BlockNumber due = Min(state->due, end);
	BlockNumber until;

	if (state->written >= due)
		return;
	until = state->written + Max((due - state->written) / DUE_SHARE, FEW_BLOCKS);
	until = Min(until, due);
	write_blocks(relation, state->written, until);
	state->written = until;
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

/* --- what else has left shared buffers ------------------------------- */

/* Go on where the round stands; false: the turn is over */
static bool
tell_of_file(WriteBehind *state, Relation relation, TimestampTz deadline)
{
	BlockNumber blocks = RelationGetNumberOfBlocks(relation);

	while (state->round_block < blocks)
	{
		BlockNumber from = state->round_block;

		if (GetCurrentTimestamp() >= deadline)
			return false;
		state->round_block = Min(from + TURN_BLOCKS, blocks);
		tell_disk(relation, from, state->round_block);
	}
	state->round_block = 0;
	return true;
}

/* An index that is being dropped or built anew is no reason to wait */
static bool
tell_of_index(WriteBehind *state, Oid oid, TimestampTz deadline)
{
	Relation	index;
	bool		done;

	if (!ConditionalLockRelationOid(oid, AccessShareLock))
	{
		state->round_block = 0;
		return true;
	}
	index = index_open(oid, NoLock);
	done = tell_of_file(state, index, deadline);
	index_close(index, AccessShareLock);
	return done;
}

/*
 * The indexes in the order of their OIDs.  One that has been made or dropped
 * since the last turn shifts the round by one, which the next round makes good.
 */
static bool
tell_of_files(WriteBehind *state, Relation relation, TimestampTz deadline)
{
	List	   *indexes;
	bool		done;

	if (state->round_file == 0)
	{
		if (!tell_of_file(state, relation, deadline))
			return false;
		state->round_file = 1;
	}
	indexes = RelationGetIndexList(relation);
	for (done = true; done && state->round_file <= list_length(indexes);
		 state->round_file += done)
		done = tell_of_index(state, list_nth_oid(indexes, state->round_file - 1),
							 deadline);
	list_free(indexes);
	return done;
}

static void
tell_of_others(WriteBehind *state, Relation relation)
{
	TimestampTz now = GetCurrentTimestamp();

	if (now < state->turn_at)
		return;
	state->turn_at = now + TURN_EVERY * INT64CONST(1000);
	if (!tell_of_files(state, relation, now + TURN_TIME))
		return;
	state->round_file = 0;
	state->turn_at = now + ROUND_EVERY * INT64CONST(1000);
}

/* --- of a batch ------------------------------------------------------ */

static bool
is_of_interest(Relation relation)
{
	return data_is_cached_by_system() && !RelationUsesLocalBuffers(relation);
}

static void
begin(WriteBehind *state, Relation relation)
{
	*state = (WriteBehind)
	{
		.relid = RelationGetRelid(relation),
			.end = RelationGetNumberOfBlocks(relation)
	};
}

void
write_behind_done(WriteBehind *state, Relation relation, BlockNumber from, BlockNumber until)
{
	if (!is_of_interest(relation))
		return;
	if (state->relid != RelationGetRelid(relation))
		begin(state, relation);
	from -= Min(from, DISTANCE);
	until -= Min(until, DISTANCE);
	if (from > state->due + HOLE)
		state->written = from;
	state->due = Max(state->due, until);
}

void
write_behind(WriteBehind *state, Relation relation)
{
	BlockNumber end;

	if (!is_of_interest(relation))
		return;
	if (!OidIsValid(state->relid))
		begin(state, relation);
	if (state->relid != RelationGetRelid(relation))
		return;
	end = RelationGetNumberOfBlocks(relation);
	write_due(state, relation, end);
	write_added(state, relation, end);
	tell_of_others(state, relation);
}

void
write_behind_wal(void)
{
	static XLogRecPtr told = InvalidXLogRecPtr;

	if (XactLastRecEnd < told + WAL_BYTES)
		return;
	told = XactLastRecEnd;
	XLogSetAsyncXactLSN(told);
}
