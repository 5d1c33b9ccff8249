/*
 * pages.c
 *		Which rows next, the better way: page cycling.
 *
 * An UPDATE of a full page puts the new version of each row on another page:
 * every index gets a new entry, and the table doubles.  But a page that has
 * lost a few rows has room for the new versions of the next few, on the same
 * page: those updates are HOT, need no index entries and little WAL.  And when
 * the transaction that made them is over and no snapshot sees the old versions
 * any more, pruning gives their room back for the next few.
 *
 * So a chunk of pages is gone over in laps, a transaction (or some) for each.
 * On each page a lap takes as many rows as have room there, or, where none
 * has, an eighth of the page's rows, which move away.  A chunk whose last lap
 * cannot be pruned yet rests, while others are worked on: there are always a
 * few.  If all must rest, the horizon is held by somebody's snapshot.  After a
 * while of that the rest of the chunks is done in the plain way, in ranges of
 * blocks, and so is what comes after, until the horizon moves again.  That is
 * also the way for a leaf where HOT is impossible, or where it turns out that
 * updates are not, and for one that is too small for it to matter.
 *
 * A row is tried once.  If it is still there unset in the next lap, the source
 * had no value for it, or somebody had locked it: that is for the sweep.
 *
 * What is needed of a row is read from the page here, but only as a guess: the
 * statement that changes the rows decides for itself.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/tupmacs.h"
#include "catalog/pg_am.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "engine/give_way.h"
#include "engine/sqltext.h"
#include "steps/direct_read.h"
#include "steps/pass.h"
#include "steps/write_behind.h"

#define CHUNK_BLOCKS	512
#define MOST_CHUNKS		FEED_MOST_PIECES

/* A leaf with fewer blocks is done in ranges */
#define SMALL_LEAF		32

/* One page in so many of its rows moves them away to make room */
#define MOVED_SHARE		8

#define FIRST_ROWS		100
#define MOST_ROWS		65536

/* A lap of a chunk should not keep rows locked for longer than this, in ms */
#define LAP_TARGET		40

/* How long all chunks may rest before the plain way is taken, in ms; and how
 * long that lasts before page cycling is tried again */
#define PATIENCE		500
#define FIRST_PLAIN		5000
#define LONGEST_PLAIN	60000

/* Updates that must have been counted before it is said that few are HOT */
#define HOT_SAMPLE		2000

#define OFFSETS_BYTES	((MaxHeapTuplesPerPage + 8) / 8)

typedef struct Chunk
{
	bool		used;
	bool		plain;			/* what is left of it goes in ranges */
	Piece		piece;
	BlockNumber next;			/* of this lap */
	TransactionId lap_xid;		/* newest of the last lap */
	TransactionId new_xid;		/* newest of this lap */
	bool		found;			/* this lap has found rows */
	uint8	   *finished;		/* bit for each page */
	uint8	   *tried;			/* bits for each line pointer of each page */
} Chunk;

/* What is known of the leaf at hand */
typedef struct LeafFacts
{
	Oid			relid;
	const char *unfit;			/* why not in pages, or NULL */
	AttrNumber	attnum;
	int16		attlen;
	bool		attbyval;
	int64		fitted;			/* rows that were thought to have room */
	int64		fitted_hot;		/* and had */
} LeafFacts;

struct RowCursor
{
	MemoryContext context;
	Feed	   *feed;
	int			taker;
	const Source *source;
	bool		only;
	Chunk		chunks[MOST_CHUNKS];
	LeafFacts	leaf;
	WriteBehind written;
	bool		has_unset;
	Datum		unset;			/* the placeholder */
	int			value_size;		/* bytes that a value adds to a row */
	double		rows;			/* in the next set */
	double		plain_blocks;	/* the same in the plain way */

	/* the set that has been handed out */
	Chunk	   *chunk;
	BlockNumber stopped_at;		/* where this lap goes on */
	int			fitting;		/* rows of the set that have room */
	ItemPointerData *tids;
	int			count;
	ArrayType  *array;			/* the same */

	/* the horizon */
	TimestampTz resting_since;	/* 0: some chunk could be worked on */
	TimestampTz plain_until;	/* 0: page cycling */
	int			plain_ms;
	TransactionId held_at;		/* what the horizon must pass */
};

/* --- the leaf -------------------------------------------------------- */

/* Why updates of the column in this leaf cannot be HOT; NULL: they can */
static const char *
find_unfit(RowCursor *cursor, Relation relation)
{
	Bitmapset  *indexed;

	if (relation->rd_rel->relam != HEAP_TABLE_AM_OID)
		return "its access method is not heap";
	if (RelationGetNumberOfBlocks(relation) < SMALL_LEAF)
		return "the table is small";
	indexed = RelationGetIndexAttrBitmap(relation, INDEX_ATTR_BITMAP_HOT);
	if (bms_is_member(cursor->leaf.attnum - FirstLowInvalidHeapAttributeNumber,
					  indexed))
		return "the column is part of an index: build it afterwards";
	return NULL;
}

static void
look_at_leaf(RowCursor *cursor, Relation relation)
{
	LeafFacts  *leaf = &cursor->leaf;
	Form_pg_attribute att;

	if (leaf->relid == RelationGetRelid(relation) && leaf->unfit == NULL)
	{
		/* an index may have been made since */
		leaf->attnum = get_attnum(leaf->relid, cursor->source->column);
		leaf->unfit = find_unfit(cursor, relation);
		return;
	}
	if (leaf->relid == RelationGetRelid(relation))
		return;
	memset(leaf, 0, sizeof(LeafFacts));
	leaf->relid = RelationGetRelid(relation);
	leaf->attnum = get_attnum(leaf->relid, cursor->source->column);
	att = TupleDescAttr(RelationGetDescr(relation), leaf->attnum - 1);
	leaf->attlen = att->attlen;
	leaf->attbyval = att->attbyval;
	leaf->unfit = find_unfit(cursor, relation);
}

/* --- a page ---------------------------------------------------------- */

static inline bool
bit_is_set(const uint8 *bits, int n)
{
	return bits[n / 8] & (1 << (n % 8));
}

static inline void
set_bit(uint8 *bits, int n)
{
	bits[n / 8] |= 1 << (n % 8);
}

static inline uint8 *
tried_on(Chunk *chunk, BlockNumber block)
{
	return chunk->tried + (block - chunk->piece.from) * OFFSETS_BYTES;
}

/* A value that can be compared without reading anything else */
static bool
is_plain(const LeafFacts *leaf, Datum value)
{
	return leaf->attlen != -1 || !VARATT_IS_EXTENDED(DatumGetPointer(value)) ||
		VARATT_IS_SHORT(DatumGetPointer(value));
}

static bool
seems_unset(RowCursor *cursor, HeapTuple tuple, TupleDesc desc)
{
	LeafFacts  *leaf = &cursor->leaf;
	bool		isnull;
	Datum		value;

	if (heap_attisnull(tuple, leaf->attnum, desc))
		return true;
	if (!cursor->has_unset && cursor->source->kind == SOURCE_VALUE)
		return false;
	value = heap_getattr(tuple, leaf->attnum, desc, &isnull);
	if (!is_plain(leaf, value))
		return false;
	if (cursor->has_unset &&
		datum_image_eq(value, cursor->unset, leaf->attbyval, leaf->attlen))
		return true;
	/* so large are the values of this source */
	if (leaf->attlen == -1)
		cursor->value_size = Max(cursor->value_size,
								 (int) VARSIZE_ANY(DatumGetPointer(value)));
	return false;
}

/* Whether an update of the tuple would have to wait for somebody */
static bool
is_locked(HeapTupleHeader header)
{
	uint16		infomask = header->t_infomask;

	if ((infomask & HEAP_XMAX_INVALID) || (infomask & HEAP_XMAX_IS_MULTI) ||
		HEAP_XMAX_IS_KEYSHR_LOCKED(infomask))
		return false;
	return TransactionIdIsInProgress(HeapTupleHeaderGetRawXmax(header));
}

/* Rows, and versions of rows that are still needed, on a page */
static int
rows_on_page(Page page)
{
	OffsetNumber last = PageGetMaxOffsetNumber(page);
	int			rows = 0;

	for (OffsetNumber offset = FirstOffsetNumber; offset <= last; offset++)
		if (ItemIdIsNormal(PageGetItemId(page, offset)))
			rows++;
	return rows;
}

/* What a lap finds on a page */
typedef struct PageVisit
{
	OffsetNumber offsets[MaxHeapTuplesPerPage];
	int			count;			/* of the rows that it takes */
	int			fitting;		/* of these, those that have room */
} PageVisit;

/*
 * Whether the row at an offset is to be tried; *size: of its new version.
 * What tells most rows apart comes first.
 */
static bool
is_candidate(RowCursor *cursor, Relation relation, Buffer buffer,
			 OffsetNumber offset, Size *size)
{
	HeapTupleData tuple;

	if (!direct_tuple(relation, buffer, offset, &tuple) ||
		!seems_unset(cursor, &tuple, RelationGetDescr(relation)) ||
		is_locked(tuple.t_data) ||
		!HeapTupleSatisfiesVisibility(&tuple, GetActiveSnapshot(), buffer))
		return false;
	*size = MAXALIGN(tuple.t_len + cursor->value_size) + sizeof(ItemIdData);
	return true;
}

/*
 * Prune the page, and choose what this lap takes of it: as many rows as have
 * room there.  Where that is next to none, some more move away, or there would
 * be no end.
 */
static void
visit_page(RowCursor *cursor, Relation relation, BlockNumber block,
		   PageVisit *visit)
{
	Buffer		buffer = ReadBufferExtended(relation, MAIN_FORKNUM, block,
											RBM_NORMAL, NULL);
	const uint8 *tried = tried_on(cursor->chunk, block);
	Page		page;
	OffsetNumber last;
	Size		room;
	int			moved;

	heap_page_prune_opt(relation, buffer);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	room = PageGetHeapFreeSpace(page);
	last = PageGetMaxOffsetNumber(page);
	moved = Max(1, rows_on_page(page) / MOVED_SHARE);
	visit->count = visit->fitting = 0;
	for (OffsetNumber offset = FirstOffsetNumber; offset <= last; offset++)
	{
		Size		size;

		if (bit_is_set(tried, offset - 1) ||
			!is_candidate(cursor, relation, buffer, offset, &size))
			continue;
		if (size <= room)
		{
			room -= size;
			visit->fitting++;
		}
		else if (visit->count >= moved ||
				 (visit->count > 0 && visit->fitting >= moved / 2))
			break;
		else
			room = 0;
		visit->offsets[visit->count++] = offset;
	}
	UnlockReleaseBuffer(buffer);
}

/* --- a chunk --------------------------------------------------------- */

static bool
take_chunk(RowCursor *cursor, Chunk *chunk)
{
	int			pages = CHUNK_BLOCKS;
	uint8	   *finished = chunk->finished;
	uint8	   *tried = chunk->tried;

	memset(chunk, 0, sizeof(Chunk));
	chunk->finished = finished;
	chunk->tried = tried;
	if (!feed_take(cursor->feed, cursor->taker, CHUNK_BLOCKS, &chunk->piece))
		return false;
	if (chunk->finished == NULL)
	{
		chunk->finished = MemoryContextAlloc(cursor->context, (pages + 7) / 8);
		chunk->tried = MemoryContextAlloc(cursor->context, pages * OFFSETS_BYTES);
	}
	memset(chunk->finished, 0, (pages + 7) / 8);
	memset(chunk->tried, 0, pages * OFFSETS_BYTES);
	chunk->next = chunk->piece.from;
	chunk->used = true;
	return true;
}

static void
hold_chunks(RowCursor *cursor)
{
	Piece		pieces[MOST_CHUNKS];
	int			count = 0;

	for (int i = 0; i < MOST_CHUNKS; i++)
		if (cursor->chunks[i].used)
			pieces[count++] = cursor->chunks[i].piece;
	feed_hold(cursor->feed, cursor->taker, pieces, count);
}

static void
release_chunk(RowCursor *cursor, Chunk *chunk)
{
	chunk->used = false;
	hold_chunks(cursor);
}

/* Whether pruning can make room of what the last lap has left */
static bool
can_be_pruned(const Chunk *chunk, Relation relation)
{
	return !TransactionIdIsValid(chunk->lap_xid) ||
		TransactionIdPrecedes(chunk->lap_xid,
							  GetOldestNonRemovableTransactionId(relation));
}

/* Collect rows for this lap from where it stands; false: it is at its end */
static bool
collect(RowCursor *cursor, Chunk *chunk, Relation relation)
{
	BlockNumber end = Min(chunk->piece.until, RelationGetNumberOfBlocks(relation));
	BlockNumber block;

	cursor->chunk = chunk;
	cursor->count = cursor->fitting = 0;
	for (block = chunk->next; block < end && cursor->count < (int) cursor->rows; block++)
	{
		PageVisit	visit;

		if (bit_is_set(chunk->finished, block - chunk->piece.from))
			continue;
		CHECK_FOR_INTERRUPTS();
		give_way();
		visit_page(cursor, relation, block, &visit);
		if (visit.count == 0)
			set_bit(chunk->finished, block - chunk->piece.from);
		cursor->fitting += visit.fitting;
		for (int i = 0; i < visit.count; i++, cursor->count++)
			ItemPointerSet(&cursor->tids[cursor->count], block, visit.offsets[i]);
	}
	cursor->stopped_at = block;
	return cursor->count > 0;
}

/* They outlive the transaction, for those who must split a set that failed */
static void
put_tids(RowCursor *cursor, RowSet *set)
{
	MemoryContext old = MemoryContextSwitchTo(cursor->context);

	if (cursor->array)
		pfree(cursor->array);
	cursor->array = tid_array(cursor->tids, cursor->count);
	set->tids = cursor->array;
	set->count = cursor->count;
	MemoryContextSwitchTo(old);
}

/* A set from this chunk; false: it is done, or must rest */
static bool
set_from_pages(RowCursor *cursor, Chunk *chunk, Relation relation, RowSet *set)
{
	write_behind(&cursor->written, relation);
	for (;;)
	{
		if (chunk->next == chunk->piece.from && !can_be_pruned(chunk, relation))
			return false;
		if (collect(cursor, chunk, relation))
			break;
		/* the end of the lap; one that has found nothing is the last */
		if (!chunk->found)
		{
			write_behind_done(&cursor->written, relation, chunk->piece.from, chunk->piece.until);
			release_chunk(cursor, chunk);
			return false;
		}
		chunk->next = chunk->piece.from;
		chunk->lap_xid = chunk->new_xid;
		chunk->found = false;
	}
	set->from = chunk->piece.from;
	set->until = chunk->piece.until;
	put_tids(cursor, set);
	return true;
}

static void
set_from_range(RowCursor *cursor, Chunk *chunk, RowSet *set)
{
	cursor->chunk = chunk;
	set->from = chunk->piece.from;
	set->until = (BlockNumber) Min((double) chunk->piece.until,
								   set->from + Max(1.0, cursor->plain_blocks));
	set->open = chunk->piece.last && set->until == chunk->piece.until;
}

/* --- the horizon ----------------------------------------------------- */

static double
ms_since(TimestampTz then)
{
	return (GetCurrentTimestamp() - then) / 1000.0;
}

/* All chunks rest: wait, or, after a while, do without HOT updates */
static void
all_rest(RowCursor *cursor)
{
	if (cursor->resting_since == 0)
		cursor->resting_since = GetCurrentTimestamp();
	if (cursor->only || ms_since(cursor->resting_since) < PATIENCE)
		return;
	cursor->plain_ms = Min(Max(cursor->plain_ms * 2, FIRST_PLAIN), LONGEST_PLAIN);
	cursor->plain_until = GetCurrentTimestamp() + cursor->plain_ms * INT64CONST(1000);
	cursor->resting_since = 0;
	for (int i = 0; i < MOST_CHUNKS; i++)
	{
		cursor->chunks[i].plain = true;
		if (cursor->chunks[i].used)
			cursor->held_at = cursor->chunks[i].lap_xid;
	}
}

static bool
is_plain_now(RowCursor *cursor, Relation relation)
{
	if (cursor->plain_until == 0)
		return false;
	if (GetCurrentTimestamp() < cursor->plain_until)
		return true;
	if (TransactionIdPrecedes(cursor->held_at,
							  GetOldestNonRemovableTransactionId(relation)))
	{
		cursor->plain_until = 0;
		return false;
	}
	cursor->plain_until = GetCurrentTimestamp() + cursor->plain_ms * INT64CONST(1000);
	return true;
}

/* --- the cursor ------------------------------------------------------ */

static RowCursor *
page_open(MemoryContext context, const RowRequest *request)
{
	RowCursor  *cursor = MemoryContextAllocZero(context, sizeof(RowCursor));
	const Source *source = request->source;
	MemoryContext old = MemoryContextSwitchTo(context);

	cursor->context = context;
	cursor->feed = request->feed;
	cursor->taker = request->taker;
	cursor->written.own_only = request->taker != 0;
	cursor->source = source;
	cursor->only = request->only;
	cursor->rows = request->size == ROWS_FEW ? 1 : FIRST_ROWS;
	cursor->plain_blocks = request->size == ROWS_FEW ? 1 : 64;
	cursor->tids = palloc(sizeof(ItemPointerData) * (MOST_ROWS + MaxHeapTuplesPerPage));
	cursor->value_size = get_typlen(source->target.type);
	if (source->kind == SOURCE_VALUE && cursor->value_size < 0)
		cursor->value_size = strlen(source->value) + VARHDRSZ_SHORT;
	else if (cursor->value_size < 0)
		cursor->value_size = 2;
	cursor->has_unset = source->unset != NULL;
	if (cursor->has_unset)
		cursor->unset = target_value(&source->target, source->unset);
	MemoryContextSwitchTo(old);
	return cursor;
}

/* A set from one chunk, if there is one now */
static bool
next_from(RowCursor *cursor, Chunk *chunk, RowSet *set)
{
	Relation	relation;
	bool		found;

	if (feed_lock_leaf(cursor->feed, &chunk->piece) == 0)
	{
		release_chunk(cursor, chunk);
		return false;
	}
	relation = table_open(chunk->piece.leaf, NoLock);
	/* while we waited for the lock */
	if (get_attnum(chunk->piece.leaf, cursor->source->column) == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column %s of relation %s was dropped while a job worked on it",
						quote_identifier(cursor->source->column),
						sql_relation(chunk->piece.leaf))));
	look_at_leaf(cursor, relation);
	memset(set, 0, sizeof(RowSet));
	set->leaf = chunk->piece.leaf;
	if (chunk->plain || cursor->leaf.unfit ||
		(chunk->next == chunk->piece.from && is_plain_now(cursor, relation)))
	{
		chunk->plain = true;
		set_from_range(cursor, chunk, set);
		found = true;
	}
	else
		found = set_from_pages(cursor, chunk, relation, set);
	table_close(relation, NoLock);
	return found;
}

static RowAnswer
page_next(RowCursor *cursor, RowSet *set)
{
	bool		any = true;

	while (any)
	{
		any = false;
		for (int i = 0; i < MOST_CHUNKS; i++)
		{
			Chunk	   *chunk = &cursor->chunks[i];

			if (!chunk->used && !take_chunk(cursor, chunk))
				continue;
			if (next_from(cursor, chunk, set))
			{
				cursor->resting_since = 0;
				return ROWS_NEXT;
			}
			any = any || !chunk->used;
		}
	}
	for (int i = 0; i < MOST_CHUNKS; i++)
		if (cursor->chunks[i].used)
		{
			all_rest(cursor);
			return ROWS_WAIT;
		}
	return ROWS_END;
}

/* Rows were thought to have room and had not: something else than the tenant
 * changes in this leaf when a row is updated */
static void
count_hot(RowCursor *cursor, const RowOutcome *outcome)
{
	LeafFacts  *leaf = &cursor->leaf;

	if (outcome->rows < cursor->count)
		return;
	leaf->fitted += cursor->fitting;
	leaf->fitted_hot += Min(outcome->hot_rows, cursor->fitting);
	if (leaf->fitted > HOT_SAMPLE && leaf->fitted_hot < leaf->fitted / 2)
		leaf->unfit = "updates of the table are not HOT: a trigger changes what is indexed, or lets rows grow";
}

static void
page_done(RowCursor *cursor, const RowSet *set, const RowOutcome *outcome,
		  int target_ms)
{
	Chunk	   *chunk = cursor->chunk;

	if (set->tids == NULL)
	{
		cursor->plain_blocks = rows_adapt(cursor->plain_blocks, set->until - set->from,
										  outcome->ms, target_ms);
		chunk->piece.from = set->until;
		chunk->used = chunk->piece.from < chunk->piece.until;
		hold_chunks(cursor);
		return;
	}
	cursor->rows = Min(rows_adapt(cursor->rows, cursor->count, outcome->ms,
								  Min(target_ms, LAP_TARGET)), MOST_ROWS);
	for (int i = 0; i < cursor->count; i++)
		set_bit(tried_on(chunk, ItemPointerGetBlockNumber(&cursor->tids[i])),
				ItemPointerGetOffsetNumber(&cursor->tids[i]) - 1);
	chunk->found = true;
	chunk->next = cursor->stopped_at;
	if (TransactionIdIsValid(outcome->xid))
		chunk->new_xid = outcome->xid;
	count_hot(cursor, outcome);
}

static void
page_shrink(RowCursor *cursor)
{
	cursor->rows = Max(cursor->rows / 2, 1.0);
	cursor->plain_blocks = Max(cursor->plain_blocks / 2, 1.0);
}

static RowChoice
page_choice(const RowCursor *cursor)
{
	RowChoice	choice = {.method = "pages"};

	if (cursor->leaf.unfit)
	{
		choice.method = "ranges";
		choice.reason = cursor->leaf.unfit;
	}
	else if (cursor->plain_until != 0)
	{
		choice.method = "ranges";
		choice.horizon_held = true;
	}
	else
		choice.horizon_held = cursor->resting_since != 0 &&
			ms_since(cursor->resting_since) > PATIENCE;
	return choice;
}

const RowCursorOps page_cursor = {
	.open = page_open,
	.next = page_next,
	.done = page_done,
	.shrink = page_shrink,
	.choice = page_choice,
};
