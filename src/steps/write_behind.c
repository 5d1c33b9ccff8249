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
 * Blocks are written that far behind that their WAL should have been flushed by
 * now; else the job would wait for that.  Who works beside the job changes blocks
 * anywhere, and so do new index entries.  The disk is told of these in rounds over
 * the table and its indexes.
 *
 * All this goes a little at a time.  The disk does what it is told in the order
 * in which it is told, and a commit that comes after much else waits for all of
 * that.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/smgr.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "engine/give_way.h"
#include "steps/write_behind.h"

/* How often it goes on, in ms, and with how much: a share, but not less than */
#define STEP_EVERY	20
#define STEP_SHARE	8
#define STEP_BLOCKS	64

#define KEPT_PIECES	4			/* were done last, and are not written yet */
#define LAST_ADDED	256			/* blocks at the end, which are being filled */
#define MOST_ADDED	4096		/* more of them are the work of others */

#define ROUND_EVERY	80			/* ms from the beginning of a round to the next */
#define TURN_TIME	1000		/* us of each step, and what is begun ends */
#define TURN_BLOCKS	128			/* until we look at the clock */

/* The WAL writer flushes when there is four times as much, by default */
#define WAL_BYTES	(256 * 1024)

/* If it is in shared buffers.  Else the system is asked to read it, which is done
 * soon: it has just left them. */
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

/* Of what is on disk already, the system finds that out at once */
static void
tell_disk(Relation relation, BlockNumber from, BlockNumber until)
{
	if (from < until && disk_is_told())
		smgrwriteback(RelationGetSmgr(relation), MAIN_FORKNUM, from, until - from);
}

static void
write_blocks(Relation relation, BlockNumber from, BlockNumber until)
{
	for (BlockNumber block = from; block < until; block++)
	{
		CHECK_FOR_INTERRUPTS();
		give_way();
		write_block(relation, block);
	}
	tell_disk(relation, from, until);
}

static BlockNumber
step_of(BlockNumber blocks)
{
	return Min(blocks, Max(blocks / STEP_SHARE, STEP_BLOCKS));
}

/* --- what the job has changed ---------------------------------------- */

static void
drop_first(WriteBehind *state)
{
	state->npieces--;
	memmove(&state->pieces[0], &state->pieces[1], state->npieces * sizeof(DonePiece));
}

/* The table at hand is locked.  Another one may be about to go. */
static void
write_piece(Relation relation, const DonePiece *piece, BlockNumber until)
{
	bool		at_hand = piece->leaf == RelationGetRelid(relation);

	if (!at_hand)
	{
		if (!ConditionalLockRelationOid(piece->leaf, AccessShareLock))
			return;
		relation = try_relation_open(piece->leaf, NoLock);
		if (relation == NULL)
		{
			UnlockRelationOid(piece->leaf, AccessShareLock);
			return;
		}
	}
	write_blocks(relation, piece->from, Min(until, RelationGetNumberOfBlocks(relation)));
	if (!at_hand)
		relation_close(relation, AccessShareLock);
}

static void
write_due(WriteBehind *state, Relation relation)
{
	BlockNumber blocks = 0;

	for (int i = 0; i < state->npieces - KEPT_PIECES; i++)
		blocks += state->pieces[i].until - state->pieces[i].from;
	blocks = step_of(blocks);
	while (blocks > 0)
	{
		DonePiece  *first = &state->pieces[0];
		BlockNumber until = first->from + Min(first->until - first->from, blocks);

		write_piece(relation, first, until);
		blocks -= until - first->from;
		first->from = until;
		if (first->from >= first->until)
			drop_first(state);
	}
}

static void
write_added(WriteBehind *state, Relation relation)
{
	BlockNumber end = RelationGetNumberOfBlocks(relation);
	BlockNumber added;

	/* it was truncated */
	state->end = Min(state->end, end);
	added = end - state->end;
	if (added > LAST_ADDED + MOST_ADDED)
		state->end = end - LAST_ADDED;
	else if (added > LAST_ADDED)
	{
		BlockNumber until = state->end + step_of(added - LAST_ADDED);

		write_blocks(relation, state->end, until);
		state->end = until;
	}
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
		state->round_block = from + Min(TURN_BLOCKS, blocks - from);
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

/* The indexes in the order of their OIDs.  That one has been made or dropped
 * since the last turn makes the round miss another. */
static bool
tell_of_files(WriteBehind *state, Relation relation, TimestampTz deadline)
{
	List	   *indexes;
	bool		done = true;

	if (state->round_file == 0)
	{
		if (!tell_of_file(state, relation, deadline))
			return false;
		state->round_file = 1;
	}
	indexes = RelationGetIndexList(relation);
	while (done && state->round_file <= list_length(indexes))
	{
		done = tell_of_index(state, list_nth_oid(indexes, state->round_file - 1),
							 deadline);
		if (done)
			state->round_file++;
	}
	list_free(indexes);
	return done;
}

static void
tell_of_others(WriteBehind *state, Relation relation)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!disk_is_told())
		return;
	if (state->round_file == 0 && state->round_block == 0)
	{
		if (now < state->round_at)
			return;
		state->round_at = now + ROUND_EVERY * INT64CONST(1000);
	}
	if (tell_of_files(state, relation, now + TURN_TIME))
		state->round_file = state->round_block = 0;
}

/* --- of a batch ------------------------------------------------------ */

static bool
is_of_interest(Relation relation)
{
	return data_is_cached_by_system() && !RelationUsesLocalBuffers(relation);
}

/* If they are too many, the next checkpoint finds the first one */
void
write_behind_done(WriteBehind *state, Relation relation, BlockNumber from, BlockNumber until)
{
	if (!is_of_interest(relation))
		return;
	if (state->npieces == WRITE_BEHIND_MOST)
		drop_first(state);
	state->pieces[state->npieces++] = (DonePiece)
	{
		.leaf = RelationGetRelid(relation),.from = from,.until = until
	};
}

void
write_behind(WriteBehind *state, Relation relation)
{
	TimestampTz now = GetCurrentTimestamp();

	if (now < state->step_at || !is_of_interest(relation))
		return;
	state->step_at = now + STEP_EVERY * INT64CONST(1000);
	if (state->leaf != RelationGetRelid(relation))
	{
		state->leaf = RelationGetRelid(relation);
		state->end = RelationGetNumberOfBlocks(relation);
		state->round_file = state->round_block = 0;
		state->round_at = 0;
	}
	write_due(state, relation);
	if (state->own_only)
		return;
	write_added(state, relation);
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
