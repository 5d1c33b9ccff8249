/*
 * batch.c
 *		One batch of a pass: an UPDATE and its checkpoint in one transaction.
 *
 * After a crash both are there or neither.  While a batch waits for a locked
 * row it keeps others waiting for all the rows that it has updated.  So it
 * waits for a moment only, and the whole statement has a time limit, since
 * moments add up; then it is rolled back and done again in a form that passes
 * over locked rows.  The moment is shorter than deadlock_timeout, so that a
 * deadlock is always ours to resolve.
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/instrument.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "engine/horizon.h"
#include "engine/json.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/settings.h"
#include "engine/sqltext.h"
#include "engine/stop_point.h"
#include "steps/direct_read.h"
#include "steps/direct_update.h"
#include "steps/leaf_progress.h"
#include "steps/pass.h"
#include "steps/target.h"
#include "steps/triggers_off.h"

/* How long a batch that holds rows waits for one, in ms */
#define ROW_LOCK_WAIT	10

/* So many parents are put into a hash table in the time of one lookup */
#define PARENTS_HASHED	4

/*
 * The table is what it was when the run started: not dropped, not renamed to
 * something else, the column still there with its type.  A new name is taken
 * over; everything else is a clean failure.
 */
static void
check_still_there(JobRun *run, Pass *pass)
{
	TargetColumn column;
	char	   *now = sql_relation(run->relid);

	if (now == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation %s was dropped while job " INT64_FORMAT " worked on it",
						job_relation_text(run->job), run->job->id)));
	if (target_owner(run->relid) != run->owner)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("relation %s has got another owner while job " INT64_FORMAT " worked on it",
						now, run->job->id),
				 errhint("SELECT tenantmig.retry(" INT64_FORMAT "); goes on as the new owner.",
						 run->job->id)));
	run_follow_name(run);
	if (!target_find_column(run->relid, pass->source->column, &column) ||
		column.type != pass->source->target.type)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column %s of relation %s was dropped or changed while job " INT64_FORMAT " worked on it",
						quote_identifier(pass->source->column), now, run->job->id)));
}

/*
 * A leaf that is read as a whole, with one snapshot, is not for helpers to
 * share; the server can do it with workers of its own.
 */
static bool
reads_in_parallel(const JobRun *run, const Pass *pass)
{
	return pass->sets == ROWS_WHOLE && pass->workers > 1 && run->sharers < 2 &&
		pass->set.from == 0 && pass->set.open;
}

/*
 * The plan of the statement, kept for as long as its text stays the same.  The
 * join with a parent is worth a look at each batch.
 */
static SPIPlanPtr
batch_plan(JobRun *run, Pass *pass, SourceStatement what)
{
	bool		listed = pass->set.tids != NULL;
	bool		parallel = reads_in_parallel(run, pass);
	Oid			types[3] = {listed ? TIDARRAYOID : TIDOID, TIDOID, TIDARRAYOID};
	int			places = listed ? PLACES_LISTED : parallel ? PLACES_ALL : PLACES_BETWEEN;
	char	   *text;

	if (pass->bad && pass->bad->count > 0)
		places |= PLACES_EXCEPT;
	text = source_statement(pass->source, what, pass->set.leaf, places,
							pass->orphan_value);
	if (pass->plan && strcmp(text, pass->plan_text) == 0)
		return pass->plan;
	if (pass->plan)
	{
		SPI_freeplan(pass->plan);
		pfree(pass->plan_text);
		pass->plan = NULL;
	}
	pass->plan = SPI_prepare_cursor(text, 3, types,
									(pass->source->kind == SOURCE_VIA
									 ? CURSOR_OPT_CUSTOM_PLAN : CURSOR_OPT_GENERIC_PLAN) |
									(parallel ? CURSOR_OPT_PARALLEL_OK : 0));
	if (pass->plan == NULL)
		elog(ERROR, "could not prepare: %s", text);
	(void) SPI_keepplan(pass->plan);
	pass->plan_text = MemoryContextStrdup(run->context, text);
	return pass->plan;
}

static Datum
tid_datum(BlockNumber block)
{
	ItemPointer tid = palloc0(sizeof(ItemPointerData));

	ItemPointerSet(tid, block, 0);
	return PointerGetDatum(tid);
}

/* --- the time limit of a batch --------------------------------------- */

static TimeoutId batch_timeout = MAX_TIMEOUTS;
static volatile sig_atomic_t batch_out_of_time = false;

static void
batch_timeout_handler(void)
{
	batch_out_of_time = true;
	InterruptPending = true;
	QueryCancelPending = true;
}

static void
start_time_limit(const Pass *pass)
{
	batch_out_of_time = false;
	if (!pass->limited || pass->pass_over_locked)
		return;
	if (batch_timeout == MAX_TIMEOUTS)
		batch_timeout = RegisterTimeout(USER_TIMEOUT, batch_timeout_handler);
	enable_timeout_after(batch_timeout, 10 * pass->throttle.batch_target + 1000);
}

static void
stop_time_limit(void)
{
	if (batch_timeout != MAX_TIMEOUTS)
		disable_timeout(batch_timeout, false);
}

/*
 * For the error that a batch ended with: whether it was the time limit.  An
 * interrupt that comes at the same time is seen in the row of the job.
 */
bool
batch_out_of_time_taken(const ErrorData *error)
{
	bool		result = batch_out_of_time &&
		error->sqlerrcode == ERRCODE_QUERY_CANCELED;

	stop_time_limit();
	if (batch_out_of_time)
		QueryCancelPending = false;
	batch_out_of_time = false;
	return result;
}

/*
 * Waiting for a lock must end before the deadlock detector of another session
 * wakes up and ends that session instead of us.
 */
static int
batch_lock_timeout(void)
{
	return Max(1, Min(setting_lock_timeout, DeadlockTimeout / 2));
}

static void
set_batch_timeouts(const JobRun *run, const Pass *pass)
{
	lock_set_timeout(batch_lock_timeout());
	if (!pass->throttle.synchronous_commit && synchronous_commit > SYNCHRONOUS_COMMIT_OFF)
		(void) set_config_option("synchronous_commit", "off", PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	/* compiling takes longer than a batch */
	(void) set_config_option("jit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	/* the job has as many processes as it says, and no more */
	(void) set_config_option("max_parallel_workers_per_gather",
							 psprintf("%d", pass->sets == ROWS_WHOLE && run->sharers < 2
									  ? Max(pass->workers - 1, 0) : 0),
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	/* deferred triggers would fire at commit, outside of the owner's rights */
	if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) < 0)
		elog(ERROR, "could not set constraints");
}

/*
 * A batch that names its rows: look up the parent of each, unless the batch is
 * large enough to pay for a hash table of all parents.  The planner reckons
 * with pages that must be read for each lookup; but batch after batch looks up
 * in the same table.
 */
static void
set_join_method(const Pass *pass)
{
	HeapTuple	tuple;
	float4		parents;

	if (pass->source->kind != SOURCE_VIA || pass->set.tids == NULL)
		return;
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(pass->source->parent));
	if (!HeapTupleIsValid(tuple))
		return;
	parents = ((Form_pg_class) GETSTRUCT(tuple))->reltuples;
	ReleaseSysCache(tuple);
	if (parents < (float4) pass->set.count * PARENTS_HASHED)
		return;
	(void) set_config_option("enable_hashjoin", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	(void) set_config_option("enable_mergejoin", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

static SourceStatement
passing_over_locked(SourceStatement what)
{
	switch (what)
	{
		case STATEMENT_FILL:
			return STATEMENT_FILL_UNLOCKED;
		case STATEMENT_ASSIGN:
			return STATEMENT_ASSIGN_UNLOCKED;
		case STATEMENT_UNFILL:
			return STATEMENT_UNFILL_UNLOCKED;
		default:
			return what;
	}
}

/* Of the rows that failed, those of the leaf at hand */
static ArrayType *
bad_places(const Pass *pass)
{
	int			most = pass->bad ? pass->bad->count : 0;
	ItemPointerData *tids = palloc(sizeof(ItemPointerData) * Max(most, 1));
	int			count = 0;

	for (int i = 0; i < most; i++)
		if (pass->bad->list[i].leaf == pass->set.leaf)
			tids[count++] = pass->bad->list[i].tid;
	return tid_array(tids, count);
}

static void
execute_statement(JobRun *run, Pass *pass, int64 *rows)
{
	SourceStatement what = pass->pass_over_locked
		? passing_over_locked(pass->what) : pass->what;
	Datum		values[3];
	int			result;

	values[0] = pass->set.tids ? PointerGetDatum(pass->set.tids)
		: tid_datum(pass->set.from);
	values[1] = tid_datum(pass->set.open ? MaxBlockNumber : pass->set.until);
	/* parallel workers get a copy, used or not */
	values[2] = PointerGetDatum(bad_places(pass));
	(void) batch_plan(run, pass, what);
	result = pass->triggers_off || pass->source->kind != SOURCE_VALUE
		? triggers_off_execute(pass->plan, pass->plan_text, values,
							   pass->triggers_off ? TRIGGERS_OFF_ALL : TRIGGERS_OFF_OWN,
							   run->job->id, pass->set.leaf)
		: SPI_execute_plan(pass->plan, values, NULL, false, 0);
	if (result < 0)
		elog(ERROR, "could not run batch: %s", SPI_result_code_string(result));
	*rows = result == SPI_OK_UPDATE ? (int64) SPI_processed : 0;
	if (result == SPI_OK_SELECT)
		for (int i = 0; i < SPI_tuptable->tupdesc->natts; i++)
			pass->counted[i] += query_get_int8(0, i + 1, 0);
}

static void
execute_batch(JobRun *run, Pass *pass, int64 *rows)
{
	Identity	saved;

	if (!pass->pass_over_locked)
		lock_set_timeout(Min(ROW_LOCK_WAIT, batch_lock_timeout()));
	set_join_method(pass);
	run_enter_owner(run, &saved);
	start_time_limit(pass);
	if (!direct_update(run, pass, rows) &&
		(reads_in_parallel(run, pass) || !direct_count(run, pass)))
		execute_statement(run, pass, rows);
	stop_time_limit();
	CHECK_FOR_INTERRUPTS();
	identity_leave(&saved);
}

/* Where a resumed job goes on: what is done for good, without this batch */
static void
set_checkpoint(JobRun *run, const Pass *pass)
{
	Progress   *p = &run->progress;
	RowPosition position = feed_position(pass->feed);
	JsonObject *checkpoint = json_begin();
	Jsonb	   *now;

	json_put_int(checkpoint, "leaf", position.leaf);
	json_put_int(checkpoint, "block", position.block);
	now = json_end(checkpoint);
	if (p->checkpoint)
		pfree(p->checkpoint);
	p->checkpoint = MemoryContextAlloc(run->context, VARSIZE(now));
	memcpy(p->checkpoint, now, VARSIZE(now));
}

/*
 * Rows in a second: the average of the first ten seconds, then one in which
 * what is ten seconds old counts for a third.  Rests are part of it, and what
 * helpers do.  A sweep,
 * which finds nothing most of the time, leaves it as it was.
 */
static void
add_rate(JobRun *run, Pass *pass)
{
	Progress   *p = &run->progress;
	TimestampTz now = GetCurrentTimestamp();
	double		elapsed = (now - pass->started) / 1000000.0;
	double		since = (now - pass->last_commit) / 1000000.0;
	int64		rows = feed_progress(pass->feed).rows + pass->cost.rows;

	if (!pass->measured)
		return;
	if (elapsed < 10)
		p->rows_per_second = rows / Max(elapsed, 0.001);
	else
		p->rows_per_second += ((rows - pass->last_rows) / Max(since, 0.001) - p->rows_per_second) *
			(1 - exp(-since / 10));
}

/*
 * How rows are chosen now, and why not better.  Who holds the horizon is looked
 * up once a second.  True: something else is to be said than before.
 */
static bool
note_choice(JobRun *run, Pass *pass)
{
	Progress   *p = &run->progress;
	RowChoice	choice = pass->rows->choice(pass->cursor);
	const char *reason = choice.reason;
	TimestampTz now = GetCurrentTimestamp();
	bool		changed;

	if (!pass->measured)
		return false;
	if (choice.horizon_held)
	{
		char	   *holder;

		if (p->method_reason &&
			!TimestampDifferenceExceeds(pass->choice_at, now, 1000))
			return false;
		holder = horizon_holder(&p->held_by_pid);
		reason = psprintf("old row versions are still needed%s%s",
						  holder ? " by " : "", holder ? holder : "");
	}
	else
		p->held_by_pid = 0;
	changed = p->method != choice.method ||
		(reason == NULL) != (p->method_reason == NULL) ||
		(reason && strcmp(reason, p->method_reason) != 0);
	p->method = choice.method;
	if (changed)
	{
		if (p->method_reason)
			pfree(p->method_reason);
		p->method_reason = reason ? MemoryContextStrdup(run->context, reason) : NULL;
		pass->choice_at = now;
	}
	return changed;
}

/* What the progress row will say if this batch commits */
static void
add_progress(JobRun *run, Pass *pass)
{
	Progress   *p = &run->progress;
	FeedProgress feed;

	p->wal_bytes += pass->cost.wal_bytes;
	p->batches++;
	if (pass->count_rows)
		p->rows_done += pass->cost.rows;
	add_rate(run, pass);
	(void) note_choice(run, pass);
	feed = feed_progress(pass->feed);
	p->blocks_done = feed.blocks_done;
	p->blocks_total = feed.blocks_total;
	p->leaf = feed.leaves_total > 1 ? pass->set.leaf : InvalidOid;
	p->leaves_total = feed.leaves_total > 1 ? feed.leaves_total : 0;
	p->leaves_done = feed.leaves_done;
	if (pass->set.tids == NULL)
		p->blocks_done += pass->set.until - pass->set.from;
	if (pass->resumable)
		set_checkpoint(run, pass);
}

/* Rows of a leaf whose updates in this transaction were HOT; counted by the
 * server as they are made */
static int64
hot_updates(Oid leaf)
{
	return DatumGetInt64(DirectFunctionCall1(pg_stat_get_xact_tuples_hot_updated,
											 ObjectIdGetDatum(leaf)));
}

/* A part of a set that was split: its leaf may have gone since */
static bool
take_part(Pass *pass)
{
	Relation	relation;

	pass->set = *(RowSet *) linitial(pass->parts);
	relation = try_table_open(pass->set.leaf, RowExclusiveLock);
	if (relation == NULL)
		return false;
	table_close(relation, NoLock);
	return true;
}

/* Of what has been counted: rows that are to be changed */
static int64
rows_needed(const Pass *pass)
{
	return pass->counted[0] +
		(pass->source->on_conflict == CONFLICT_OVERWRITE ? pass->counted[3] : 0);
}

static void
clear_stalled(JobRun *run)
{
	OwnQuery	query;

	if (run->job->stalled < 0)
		return;
	query_init(&query, "UPDATE tenantmig.job SET stalled = 0 WHERE id = $1");
	query_int8(&query, run->job->id);
	query_run(&query);
	run->job->stalled = -1;		/* once is enough */
}

void
batch_body(JobRun *run, void *arg)
{
	Pass	   *pass = arg;
	instr_time	start;
	instr_time	end;
	uint64		wal = pgWalUsage.wal_bytes;
	int64		hot;
	int64		needed = rows_needed(pass);

	pass->executing = false;
	run_check_request(run);
	throttle_read(&pass->throttle, run->job->options);
	check_still_there(run, pass);
	set_batch_timeouts(run, pass);
	memset(&pass->cost, 0, sizeof(pass->cost));
	if (pass->parts != NIL)
	{
		pass->answer = ROWS_NEXT;
		if (!take_part(pass))
			return;
	}
	else
	{
		pass->answer = pass->rows->next(pass->cursor, &pass->set);
		pass->whole = pass->set;
	}
	if (pass->answer == ROWS_WAIT && note_choice(run, pass))
		run_write_progress(run);
	if (pass->answer != ROWS_NEXT)
		return;

	hot = hot_updates(pass->set.leaf);
	INSTR_TIME_SET_CURRENT(start);
	pass->executing = true;
	execute_batch(run, pass, &pass->cost.rows);
	pass->executing = false;
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	pass->cost.ms = INSTR_TIME_GET_MILLISEC(end);
	pass->cost.wal_bytes = (int64) (pgWalUsage.wal_bytes - wal);
	pass->outcome.hot_rows += hot_updates(pass->set.leaf) - hot;
	pass->outcome.xid = GetCurrentTransactionIdIfAny();
	if (pass->count_rows)
		STOP_POINT(run->helping ? "helper-updated" : "batch-updated");
	pass->cost.waiters = lock_waiters();
	clear_stalled(run);
	add_progress(run, pass);
	run_write_progress(run);
	leaf_progress_add(run, pass, rows_needed(pass) - needed);
	if (pass->count_rows && !run->helping)
		STOP_POINT("batch-before-commit");
}
