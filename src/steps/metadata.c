/*
 * metadata.c
 *		Giving all rows a constant without writing one of them.
 *
 * ADD COLUMN with a constant default keeps the value once, in the catalogs, for
 * all rows there are.  So a column that no row has a value of its own in can be
 * dropped and added again with the value as its default: milliseconds, at any
 * size.  What takes time is to know that no row has one, and to know it still
 * at the moment when the column is dropped.  One transaction does it:
 *
 * 1. SHARE UPDATE EXCLUSIVE on the table and all below.  Nobody who reads or
 *	  writes notices.  VACUUM is kept out, and only VACUUM sets the bit of a
 *	  page in the visibility map.
 * 2. Read all rows.  One with another value: it cannot be done.
 * 3. ACCESS EXCLUSIVE, asked for like every strong lock: for a moment, then
 *	  withdrawn and asked for again after a rest.  Whoever had written to the
 *	  table has ended; all that is committed can be seen.
 * 4. Read the rows of the pages whose bit is not set.  A row that was written
 *	  after 1 is on one of them: writing to a page clears its bit, and nobody can
 *	  have set it again.  A page whose bit is set is what it was before 2.
 * 5. Drop and add the column, and commit.
 *
 * Step 4 is short because a vacuumed table has few such pages: a table that has
 * many is vacuumed first, and one in which many are written meanwhile is left to
 * be filled row by row.  The same pages are read right before 3, so that they
 * are in memory and what can be found without the lock is.
 *
 * What comes in between 2 and 5 without a value is unset as all the others are.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/visibilitymap.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/settings.h"
#include "engine/sqltext.h"
#include "engine/template.h"
#include "engine/stop_point.h"
#include "steps/backfill.h"
#include "steps/metadata.h"
#include "steps/rows.h"

/* Pages that may be read under the lock, and how long that may take, in ms */
#define MOST_OPEN_BLOCKS	2000
#define LONGEST_CHECK		100

/* More such pages than this, and the table is vacuumed first */
#define WORTH_A_VACUUM		(MOST_OPEN_BLOCKS / 2)

/* How many times all rows are read, when too many pages changed meanwhile */
#define MOST_ATTEMPTS		3

typedef struct Metadata
{
	MetadataChange *change;
	Source	   *source;			/* as of the transaction */
	char	   *reason;			/* in the run's context */
	bool		passing;		/* the reason may go away by itself */
	Oid			stray_leaf;		/* where a row with another value was */
	bool		locked;			/* against VACUUM */
	List	   *vacuums;		/* leaves to vacuum first */
	TimestampTz locked_at;
} Metadata;

static bool
not_possible(JobRun *run, Metadata *m, const char *reason)
{
	m->reason = MemoryContextStrdup(run->context, reason);
	return false;
}

/* The table as it is now */
static bool
resolve(JobRun *run, Metadata *m)
{
	Identity	saved;
	char	   *obstacle;

	if (sql_relation(run->relid) == NULL)
		return not_possible(run, m, "the table is gone");
	if (target_owner(run->relid) != run->owner)
		return not_possible(run, m, "the table has got another owner");
	run_follow_name(run);
	run_enter_owner(run, &saved);
	m->source = source_resolve(m->change->arguments, run->relid);
	identity_leave(&saved);
	obstacle = metadata_obstacle(m->source, m->change->back);
	return obstacle == NULL || not_possible(run, m, obstacle);
}

/* --- pages that are not all-visible ---------------------------------- */

/* The visibility map has two bits for each block; 64 of them are read at once */
#define BLOCKS_OF_A_WORD	32
#define BLOCKS_OF_A_PAGE \
	((BLCKSZ - MAXALIGN(SizeOfPageHeaderData)) * BITS_PER_BYTE / BITS_PER_HEAPBLOCK)
#define ALL_VISIBLE_WORD	UINT64CONST(0x5555555555555555)

static bool
word_is_visible(Relation relation, BlockNumber first, Buffer *map)
{
	uint64		word;

	/* leaves the page of the map that has the block in *map */
	if (!VM_ALL_VISIBLE(relation, first, map))
		return false;
	memcpy(&word, PageGetContents(BufferGetPage(*map)) +
		   first % BLOCKS_OF_A_PAGE * BITS_PER_HEAPBLOCK / BITS_PER_BYTE,
		   sizeof(word));
	return (word & ALL_VISIBLE_WORD) == ALL_VISIBLE_WORD;
}

/* Append the runs of such blocks of a leaf, and count them; not many more than
 * may be */
static void
find_open_blocks(Oid leaf, List **runs, int *count)
{
	Relation	relation = table_open(leaf, AccessShareLock);
	BlockNumber blocks = RelationGetNumberOfBlocks(relation);
	BlockNumber block = 0;
	Buffer		map = InvalidBuffer;
	RowSet	   *run = NULL;

	while (block < blocks && *count <= MOST_OPEN_BLOCKS)
	{
		CHECK_FOR_INTERRUPTS();
		if (block % BLOCKS_OF_A_WORD == 0 &&
			word_is_visible(relation, block, &map))
		{
			block += BLOCKS_OF_A_WORD;
			continue;
		}
		if (!VM_ALL_VISIBLE(relation, block, &map))
		{
			if (run == NULL || run->until != block)
			{
				run = palloc0(sizeof(RowSet));
				run->leaf = leaf;
				run->from = block;
				*runs = lappend(*runs, run);
			}
			run->until = block + 1;
			(*count)++;
		}
		block++;
	}
	if (BufferIsValid(map))
		ReleaseBuffer(map);
	table_close(relation, NoLock);
}

static bool
open_blocks(JobRun *run, Metadata *m, List **runs)
{
	int			count = 0;
	ListCell   *lc;

	*runs = NIL;
	foreach(lc, target_leaves(run->relid))
		find_open_blocks(lfirst_oid(lc), runs, &count);
	if (count <= MOST_OPEN_BLOCKS)
		return true;
	m->passing = true;
	return not_possible(run, m, psprintf("more than %d pages of the table are not marked as all-visible: they were written to meanwhile, or a transaction is open that VACUUM has to wait for",
										 MOST_OPEN_BLOCKS));
}

/* --- rows ------------------------------------------------------------ */

typedef struct RowCounts
{
	int64		unset;
	int64		set;
	int64		strays;			/* set to something else */
} RowCounts;

/* With what has been committed by now, whatever snapshot is active */
static void
count_rows(SPIPlanPtr plan, Datum *tids, RowCounts *counts)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

	SPI_connect();
	if (SPI_execute_snapshot(plan, tids, NULL, snapshot, InvalidSnapshot,
							 true, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not count rows");
	counts->unset += query_get_int8(0, 1, 0);
	counts->set += query_get_int8(0, 2, 0);
	counts->strays += query_get_int8(0, 3, 0);
	SPI_finish();
	UnregisterSnapshot(snapshot);
}

static SPIPlanPtr
prepare(const char *sql, int nargs)
{
	Oid			types[2] = {TIDOID, TIDOID};
	SPIPlanPtr	plan = SPI_prepare_cursor(sql, nargs, types, CURSOR_OPT_GENERIC_PLAN);

	if (plan == NULL)
		elog(ERROR, "could not prepare: %s", sql);
	return plan;
}

/* The row is looked for later, when nobody waits for us */
static bool
found_strays(JobRun *run, Metadata *m, Oid leaf, int64 strays)
{
	m->stray_leaf = leaf;
	return not_possible(run, m,
						psprintf(strays == 1
								 ? INT64_FORMAT " row of %s has another value"
								 : INT64_FORMAT " rows of %s have another value",
								 strays, sql_relation(leaf)));
}

static void
name_stray_body(JobRun *run, void *arg)
{
	Metadata   *m = arg;
	Identity	saved;
	List	   *keys;

	run_check_request(run);
	if (sql_relation(m->stray_leaf) == NULL || !resolve(run, m))
		return;
	run_enter_owner(run, &saved);
	keys = source_stray_examples(m->source, m->stray_leaf, 1);
	identity_leave(&saved);
	if (keys)
		(void) not_possible(run, m, psprintf("%s, as %s", m->reason,
											 (char *) linitial(keys)));
}

static bool
read_all(JobRun *run, Metadata *m)
{
	RowCounts	all = {0};
	ListCell   *lc;

	foreach(lc, target_leaves(run->relid))
	{
		Oid			leaf = lfirst_oid(lc);
		SPIPlanPtr	plan = prepare(source_stray_query(m->source, leaf, false), 0);

		count_rows(plan, NULL, &all);
		SPI_freeplan(plan);
		if (all.strays > 0)
			return found_strays(run, m, leaf, all.strays);
	}
	m->change->rows = m->change->back ? all.set : all.unset;
	return true;
}

static bool
read_runs(JobRun *run, Metadata *m, List *runs, bool hurry)
{
	Oid			leaf = InvalidOid;
	SPIPlanPtr	plan = NULL;
	ListCell   *lc;

	foreach(lc, runs)
	{
		RowSet	   *set = lfirst(lc);
		ItemPointerData tids[2];
		Datum		values[2] = {PointerGetDatum(&tids[0]), PointerGetDatum(&tids[1])};
		RowCounts	counts = {0};

		if (set->leaf != leaf)
		{
			if (plan)
				SPI_freeplan(plan);
			leaf = set->leaf;
			plan = prepare(source_stray_query(m->source, leaf, true), 2);
		}
		ItemPointerSet(&tids[0], set->from, 0);
		ItemPointerSet(&tids[1], set->until, 0);
		count_rows(plan, values, &counts);
		if (counts.strays > 0)
			return found_strays(run, m, leaf, counts.strays);
		if (hurry && TimestampDifferenceExceeds(m->locked_at, GetCurrentTimestamp(),
												LONGEST_CHECK))
		{
			m->passing = true;
			return not_possible(run, m, "to check the pages that were written to meanwhile takes too long");
		}
	}
	if (plan)
		SPI_freeplan(plan);
	return true;
}

/* The rows are the owner's to see: operators of a type may be anybody's */
static bool
read_open_blocks(JobRun *run, Metadata *m, bool hurry)
{
	Identity	saved;
	List	   *runs;
	bool		passed;

	if (!open_blocks(run, m, &runs))
		return false;
	run_enter_owner(run, &saved);
	passed = read_runs(run, m, runs, hurry);
	identity_leave(&saved);
	return passed;
}

/* --- the transaction ------------------------------------------------- */

/* While it waits, VACUUM of other tables can go on */
static void
rest_within(int ms)
{
	PopActiveSnapshot();
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	PushActiveSnapshot(GetTransactionSnapshot());
}

static bool
lock_exclusively(JobRun *run, Metadata *m)
{
	for (int attempt = 0;; attempt++)
	{
		LockBlocker blocker;

		if (!read_open_blocks(run, m, false))
			return false;
		if (lock_tree_try(run->relid, AccessExclusiveLock, &blocker))
			break;
		if (attempt >= setting_lock_retries)
			lock_not_had(&blocker);
		rest_within(lock_backoff(attempt));
	}
	m->locked_at = GetCurrentTimestamp();
	lock_set_timeout(setting_lock_timeout);
	return true;
}

/* The journal has what undo does: batches, unless it finds that it can do
 * without them */
static void
write_journal(JobRun *run, const Metadata *m, const MetadataTexts *texts)
{
	JsonObject *facts = json_begin();

	(void) step_write(run->job->id, STEP_BATCHES, run->relid, "done",
					  m->change->keep_default ? texts->change
					  : psprintf("%s; %s", texts->change, texts->set_default),
					  backfill_inverse_text(m->source), false,
					  AccessExclusiveLock);
	if (m->change->keep_default)
		(void) step_write(run->job->id, STEP_STATEMENT, run->relid, "done",
						  texts->keep_default, texts->set_default, false,
						  AccessExclusiveLock);
	json_put_text(facts, "method", "metadata");
	job_merge_summary(run->job->id, json_end(facts));
}

static void
change_body(JobRun *run, void *arg)
{
	Metadata   *m = arg;
	LockBlocker blocker;
	MetadataTexts texts;
	Identity	saved;
	bool		passed;

	run_check_request(run);
	if (!lock_tree_try(run->relid, ShareUpdateExclusiveLock, &blocker))
		lock_not_had(&blocker);
	m->locked = true;
	if (!resolve(run, m))
		return;
	run_enter_owner(run, &saved);
	passed = read_all(run, m);
	identity_leave(&saved);
	if (!passed)
		return;
	STOP_POINT("metadata-read");
	if (!lock_exclusively(run, m) || !resolve(run, m) ||
		!read_open_blocks(run, m, true))
		return;
	metadata_texts(m->source, m->change->back, &texts);
	(void) run_sql(run, template_render(texts.change, run->relid));
	if (!m->change->keep_default)
		(void) run_sql(run, template_render(texts.set_default, run->relid));
	if (!m->change->back)
		write_journal(run, m, &texts);
	run->progress.rows_done += m->change->rows;
	run_write_progress(run);
	STOP_POINT("metadata-changed");
}

/*
 * Once it is locked against VACUUM it has waited for the lock as long as it may, with all
 * rows read.
 */
static void
try_change(JobRun *run, Metadata *m)
{
	for (int attempt = 0;; attempt++)
	{
		Progress	before = run->progress;
		ErrorData  *error;

		m->locked = false;
		error = run_transaction(run, change_body, m);
		if (error == NULL)
			return;
		run->progress = before;
		if (m->locked || attempt >= setting_lock_retries ||
			!run_is_transient(error))
			ReThrowError(error);
		run_rest(run, lock_backoff(attempt),
				 error->detail ? error->detail : error->message);
		FreeErrorData(error);
	}
}

/* --- VACUUM ---------------------------------------------------------- */

#define VACUUM_LEAF "VACUUM (PROCESS_TOAST false, TRUNCATE false) %R"

/* The leaves that have many pages that are not all-visible */
static List *
find_vacuums(Oid relid)
{
	List	   *vacuums = NIL;
	ListCell   *lc;
	int64		open = 0;

	foreach(lc, target_leaves(relid))
	{
		Relation	relation = table_open(lfirst_oid(lc), AccessShareLock);
		BlockNumber blocks = RelationGetNumberOfBlocks(relation);
		BlockNumber visible;

		visibilitymap_count(relation, &visible, NULL);
		table_close(relation, NoLock);
		if (visible >= blocks)
			continue;
		open += blocks - visible;
		vacuums = lappend_oid(vacuums, lfirst_oid(lc));
	}
	return open > WORTH_A_VACUUM ? vacuums : NIL;
}

static void
vacuum_body(JobRun *run, void *arg)
{
	Metadata   *m = arg;
	LockBlocker blocker;

	run_check_request(run);
	if (!lock_tree_try(run->relid, AccessShareLock, &blocker))
		lock_not_had(&blocker);
	m->vacuums = NIL;
	if (!resolve(run, m))
		return;
	MemoryContextSwitchTo(run->context);
	m->vacuums = find_vacuums(run->relid);
}

/* The foreground is inside of a procedure, where VACUUM cannot run */
static void
vacuum(JobRun *run, Metadata *m)
{
	ListCell   *lc;

	run_patiently(run, vacuum_body, m);
	if (run->foreground || m->reason)
		return;
	foreach(lc, m->vacuums)
	{
		run_set_phase(run, "vacuuming");
		run_toplevel(run, lfirst_oid(lc), VACUUM_LEAF, NULL);
	}
}

/* --- from outside ---------------------------------------------------- */

char *
metadata_change(JobRun *run, MetadataChange *change)
{
	Metadata	m = {.change = change};

	for (int attempt = 0; attempt < MOST_ATTEMPTS; attempt++)
	{
		m.reason = NULL;
		m.passing = false;
		m.stray_leaf = InvalidOid;
		vacuum(run, &m);
		if (m.reason)
			break;
		run_set_phase(run, "changing the column");
		try_change(run, &m);
		if (m.reason == NULL)
		{
			change->held_ms = (int) ((GetCurrentTimestamp() - m.locked_at) / 1000);
			break;
		}
		if (!m.passing)
			break;
	}
	if (OidIsValid(m.stray_leaf))
		run_patiently(run, name_stray_body, &m);
	return m.reason;
}

void
metadata_plan(const Job *job, const Source *source, bool keep_default)
{
	Oid			relid = source->relid;
	MetadataTexts texts;
	ListCell   *lc;

	foreach(lc, find_vacuums(source->relid))
		(void) step_write(job->id, STEP_TOPLEVEL, lfirst_oid(lc), "planned",
						  VACUUM_LEAF, NULL, false, ShareUpdateExclusiveLock);
	metadata_texts(source, false, &texts);
	(void) step_write(job->id, STEP_STATEMENT, relid, "planned", texts.change,
					  backfill_inverse_text(source), false, AccessExclusiveLock);
	if (!keep_default)
		(void) step_write(job->id, STEP_STATEMENT, relid, "planned",
						  texts.set_default, NULL, false, AccessExclusiveLock);
}
