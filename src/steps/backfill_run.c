/*
 * backfill_run.c
 *		backfill at work: count, cover new rows, fill, sweep, verify.
 *
 *	count		How many rows need a value, and how many have the one they
 *				would get already (undo could not tell those apart).  In short
 *				transactions, before anything is changed.
 *	cover		The fill trigger, under one short SHARE ROW EXCLUSIVE lock: from
 *				its commit on, whoever inserts a row gives it a value.  The lock
 *				waits for transactions that have inserted without it.
 *	fill		One pass over all blocks there are then, a batch at a time.
 *	sweep		Passes that go on until one has found nothing to do and passed
 *				over nothing.  Rows that were locked, that an update moved, that
 *				a chain of parents reaches only now, are found here.
 *	orphans		Rows that the source has no value for: fail, leave, assign.
 *	verify		A scan that counts the rows without a value.  What it finds is
 *				what is reported.
 *
 * A batch is one UPDATE of a range of blocks and the checkpoint row, in one
 * transaction: after a crash both are there or neither.  While it waits for a
 * locked row it keeps others waiting for all the rows that it has updated.  So
 * it waits for a moment only, and the whole statement has a time limit, since
 * moments add up; then it is rolled back and done again in a form that passes
 * over locked rows.  The moment is shorter than deadlock_timeout, so that a
 * deadlock is always ours to resolve.
 */
#include "postgres.h"

#include <math.h>

#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "commands/trigger.h"
#include "executor/instrument.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/settings.h"
#include "engine/sqltext.h"
#include "engine/stop_point.h"
#include "engine/throttle.h"
#include "steps/backfill.h"
#include "steps/rows.h"
#include "steps/target.h"

#define MOST_EXAMPLES 100

/* Sweeps that may leave as many rows behind as there were */
#define VAIN_SWEEPS	5

/* How long a batch that holds rows waits for one, in ms */
#define ROW_LOCK_WAIT	10

/* Batches that pass over locked rows at once, after one that ran into some */
#define WARY_BATCHES	8

/* One pass of one statement over the table */
typedef struct Pass
{
	SourceStatement what;
	const char *phase;
	Source	   *source;
	const char *orphan_value;
	const RowCursorOps *rows;
	RowCursor  *cursor;
	RowPosition start;
	bool		resumable;		/* its position goes into the checkpoint */
	bool		count_rows;		/* its updates count as progress */
	bool		measured;		/* its speed is the speed of the job */
	bool		limited;		/* its batches have a time limit */
	RowSetSize	sets;

	/* the batch at hand */
	RowSet		set;
	bool		at_end;
	bool		pass_over_locked;
	int			wary;			/* so many more batches pass over locked rows */
	Throttle	throttle;
	BatchCost	cost;
	TimestampTz started;
	TimestampTz last_commit;

	/* the plan of the statement for one leaf, as SPI keeps it */
	Oid			plan_leaf;
	char	   *plan_text;
	SPIPlanPtr	plan;

	/* sums */
	int64		updated;
	int64		counted[3];
	bool		passed_over;
} Pass;

/* --- one batch ------------------------------------------------------- */

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

static SPIPlanPtr
leaf_plan(JobRun *run, Pass *pass, SourceStatement what)
{
	Oid			types[2] = {TIDOID, TIDOID};
	char	   *text = source_statement(pass->source, what, pass->set.leaf,
										pass->orphan_value);

	if (pass->plan && pass->plan_leaf == pass->set.leaf &&
		strcmp(text, pass->plan_text) == 0)
		return pass->plan;
	if (pass->plan)
	{
		SPI_freeplan(pass->plan);
		pfree(pass->plan_text);
		pass->plan = NULL;
	}
	/* the join with a parent is worth a look at each range */
	pass->plan = SPI_prepare_cursor(text, 2, types,
									pass->source->kind == SOURCE_VIA
									? CURSOR_OPT_CUSTOM_PLAN : CURSOR_OPT_GENERIC_PLAN);
	if (pass->plan == NULL)
		elog(ERROR, "could not prepare: %s", text);
	(void) SPI_keepplan(pass->plan);
	pass->plan_leaf = pass->set.leaf;
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
static bool
take_out_of_time(const ErrorData *error)
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
set_batch_timeouts(const Pass *pass)
{
	lock_set_timeout(batch_lock_timeout());
	if (!pass->throttle.synchronous_commit && synchronous_commit > SYNCHRONOUS_COMMIT_OFF)
		(void) set_config_option("synchronous_commit", "off", PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	/* deferred triggers would fire at commit, outside of the owner's rights */
	if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) < 0)
		elog(ERROR, "could not set constraints");
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

static void
execute_batch(JobRun *run, Pass *pass, int64 *rows)
{
	SourceStatement what = pass->pass_over_locked
		? passing_over_locked(pass->what) : pass->what;
	Datum		values[2];
	Identity	saved;
	int			result;

	values[0] = tid_datum(pass->set.from);
	values[1] = tid_datum(pass->set.open ? MaxBlockNumber : pass->set.until);
	if (!pass->pass_over_locked)
		lock_set_timeout(Min(ROW_LOCK_WAIT, batch_lock_timeout()));
	run_enter_owner(run, &saved);
	start_time_limit(pass);
	result = SPI_execute_plan(leaf_plan(run, pass, what), values, NULL, false, 0);
	stop_time_limit();
	CHECK_FOR_INTERRUPTS();
	if (result < 0)
		elog(ERROR, "could not run batch: %s", SPI_result_code_string(result));
	identity_leave(&saved);
	*rows = result == SPI_OK_UPDATE ? (int64) SPI_processed : 0;
	if (result == SPI_OK_SELECT)
		for (int i = 0; i < SPI_tuptable->tupdesc->natts; i++)
			pass->counted[i] += query_get_int8(0, i + 1, 0);
}

/* Where a resumed job goes on; for passes that can be resumed */
static void
set_checkpoint(JobRun *run, const Pass *pass, RowPosition position)
{
	Progress   *p = &run->progress;
	MemoryContext context = MemoryContextSwitchTo(run->scratch);
	JsonObject *checkpoint = json_begin();
	Jsonb	   *now;

	json_put_int(checkpoint, "leaf", position.leaf);
	json_put_int(checkpoint, "block", position.block);
	now = json_end(checkpoint);
	if (p->checkpoint)
		pfree(p->checkpoint);
	p->checkpoint = MemoryContextAlloc(run->context, VARSIZE(now));
	memcpy(p->checkpoint, now, VARSIZE(now));
	MemoryContextSwitchTo(context);
}

/*
 * Rows in a second: the average of the first ten seconds, then one in which
 * what is ten seconds old counts for a third.  Rests are part of it.  A sweep,
 * which finds nothing most of the time, leaves it as it was.
 */
static void
add_rate(JobRun *run, Pass *pass)
{
	Progress   *p = &run->progress;
	TimestampTz now = GetCurrentTimestamp();
	double		elapsed = (now - pass->started) / 1000000.0;
	double		since = (now - pass->last_commit) / 1000000.0;

	if (!pass->measured)
		return;
	if (elapsed < 10)
		p->rows_per_second = (pass->updated + pass->cost.rows) / Max(elapsed, 0.001);
	else
		p->rows_per_second += (pass->cost.rows / Max(since, 0.001) - p->rows_per_second) *
			(1 - exp(-since / 10));
}

/* What the progress row will say if this batch commits */
static void
add_progress(JobRun *run, Pass *pass)
{
	Progress   *p = &run->progress;

	p->wal_bytes += pass->cost.wal_bytes;
	p->batches++;
	if (pass->count_rows)
		p->rows_done += pass->cost.rows;
	add_rate(run, pass);
	pass->rows->blocks(pass->cursor, &p->blocks_done, &p->blocks_total);
	p->blocks_done += pass->set.until - pass->set.from;
	if (pass->resumable)
		set_checkpoint(run, pass, (RowPosition)
					   {
						   pass->set.leaf, pass->set.until
					   });
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

static void
batch_body(JobRun *run, void *arg)
{
	Pass	   *pass = arg;
	instr_time	start;
	instr_time	end;
	uint64		wal = pgWalUsage.wal_bytes;

	run_check_request(run);
	throttle_read(&pass->throttle, run->job->options);
	check_still_there(run, pass);
	set_batch_timeouts(pass);
	pass->at_end = !pass->rows->next(pass->cursor, &pass->set);
	if (pass->at_end)
		return;

	INSTR_TIME_SET_CURRENT(start);
	execute_batch(run, pass, &pass->cost.rows);
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	pass->cost.ms = INSTR_TIME_GET_MILLISEC(end);
	pass->cost.wal_bytes = (int64) (pgWalUsage.wal_bytes - wal);
	if (pass->count_rows)
		STOP_POINT("batch-updated");
	clear_stalled(run);
	add_progress(run, pass);
	run_write_progress(run);
	if (pass->count_rows)
		STOP_POINT("batch-before-commit");
}

/* --- one pass -------------------------------------------------------- */

static void
open_body(JobRun *run, void *arg)
{
	Pass	   *pass = arg;

	throttle_read(&pass->throttle, run->job->options);
	pass->cursor = pass->rows->open(run->context, run->relid, pass->start,
									pass->sets == ROWS_ADAPTED &&
									pass->throttle.max_rows_per_second > 0
									? ROWS_FEW : pass->sets);
}

/*
 * A batch that did not commit.  A lock not had: again, and pass over locked
 * rows this time.  Any other passing error: again after a rest.  The progress
 * that the batch had added is taken back with it.
 */
static void
batch_failed(JobRun *run, Pass *pass, ErrorData *error, int attempt)
{
	bool		out_of_time = take_out_of_time(error);

	if (!out_of_time &&
		(!run_is_transient(error) || attempt >= setting_lock_retries))
		ReThrowError(error);
	if ((out_of_time || error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE) &&
		!pass->pass_over_locked)
	{
		pass->pass_over_locked = true;
		pass->passed_over = true;
		if (pass->limited)
			pass->wary = WARY_BATCHES;
		return;
	}
	pass->rows->shrink(pass->cursor);
	run_rest(run, lock_backoff(attempt), psprintf("%s: %s",
												  unpack_sql_state(error->sqlerrcode),
												  error->message));
}

static void
run_pass(JobRun *run, Pass *pass)
{
	const BatchCost nothing = {0};
	int			attempt = 0;

	pass->updated = 0;
	pass->passed_over = false;
	pass->pass_over_locked = false;
	pass->wary = 0;
	run_set_phase(run, pass->phase);
	run_or_error(run, open_body, pass);
	throttle_wait(run, &nothing);
	pass->started = pass->last_commit = GetCurrentTimestamp();
	for (;;)
	{
		Progress	before = run->progress;
		int64		counted[lengthof(pass->counted)];
		ErrorData  *error;

		memcpy(counted, pass->counted, sizeof(counted));
		error = run_transaction(run, batch_body, pass);
		if (error)
		{
			memcpy(pass->counted, counted, sizeof(counted));
			before.checkpoint = run->progress.checkpoint;
			before.throttle_reason = run->progress.throttle_reason;
			run->progress = before;
			if (pass->resumable)
				set_checkpoint(run, pass, pass->rows->position(pass->cursor));
			batch_failed(run, pass, error, attempt++);
			FreeErrorData(error);
			continue;
		}
		if (pass->at_end)
			break;
		attempt = 0;
		if (pass->wary > 0)
			pass->wary--;
		pass->pass_over_locked = pass->wary > 0;
		pass->updated += pass->cost.rows;
		pass->rows->done(pass->cursor, &pass->set, pass->cost.ms,
						 pass->throttle.batch_target);
		if (pass->throttle.max_rows_per_second > 0 &&
			pass->cost.rows > pass->throttle.max_rows_per_second)
			pass->rows->shrink(pass->cursor);
		pass->last_commit = GetCurrentTimestamp();
		STOP_POINT("batch-committed");
		STOP_POINT(pass->phase);
		throttle_wait(run, &pass->cost);
	}
	if (pass->plan)
		SPI_freeplan(pass->plan);
	pass->plan = NULL;
}

/* --- the phases ------------------------------------------------------ */

typedef struct BackfillRun
{
	Source	   *source;
	char	   *description;	/* of the source */
	BackfillOptions options;
	char	   *trigger_name;
	List	   *triggers;		/* of TriggerText * */
	bool		counted;
	int			sweeps;
	bool		passed_over;	/* the last sweep did, over locked rows */
	List	   *examples;		/* keys of rows without a value, for messages */
} BackfillRun;

typedef struct TriggerText
{
	Oid			table;
	char	   *relation;
	char	   *create;
	bool		exists;			/* from an earlier attempt */
} TriggerText;

/*
 * Whether an earlier attempt of this job has made its trigger.  One that merely
 * has its name was made by somebody else, and CREATE TRIGGER will say so.
 */
static bool
trigger_is_journaled(JobRun *run, const char *name)
{
	char	   *beginning = psprintf("CREATE TRIGGER %s ", quote_identifier(name));
	ListCell   *lc;

	foreach(lc, step_list(run->job->id))
	{
		JobStep    *step = lfirst(lc);

		if (strncmp(step->statement, beginning, strlen(beginning)) == 0 &&
			strcmp(step->state, "done") == 0)
			return true;
	}
	return false;
}

static void
resolve_body(JobRun *run, void *arg)
{
	BackfillRun *b = arg;
	Identity	saved;
	ListCell   *lc;

	run_check_request(run);
	MemoryContextSwitchTo(run->context);
	run_enter_owner(run, &saved);
	b->source = source_resolve(run->job->arguments, run->relid);
	b->description = source_describe(b->source);
	b->trigger_name = source_trigger_name(b->source, run->job->id);
	backfill_read_options(run->job->options, b->source, &b->options);
	foreach(lc, target_trigger_tables(run->relid))
	{
		TriggerText *t = palloc(sizeof(TriggerText));

		t->table = lfirst_oid(lc);
		t->relation = sql_relation(t->table);
		t->create = source_create_trigger(b->source, t->table, run->job->id);
		t->exists = OidIsValid(get_trigger_oid(t->table, b->trigger_name, true)) &&
			trigger_is_journaled(run, b->trigger_name);
		b->triggers = lappend(b->triggers, t);
	}
	identity_leave(&saved);
	job_forget_row_errors(run->job->id);
	b->counted = json_text(job_summary(run->job->id), "rows_total") != NULL;
}

static void
count_rows(JobRun *run, BackfillRun *b)
{
	Pass		pass = {.what = STATEMENT_COUNT,.phase = "counting rows",
		.source = b->source,.rows = &range_cursor,
	.orphan_value = b->options.orphan_value};
	JsonObject *facts = json_begin();

	if (b->counted)
		return;
	run_pass(run, &pass);
	run->progress.rows_total = pass.counted[0];
	json_put_int(facts, "rows_total", pass.counted[0]);
	json_put_int(facts, "rows_already_set", pass.counted[1]);
	json_put_int(facts, "rows_already_same", pass.counted[2]);
	json_put_text(facts, "source", b->description);
	json_put_text(facts, "method", range_cursor.name);
	run_note(run, json_end(facts));
}

static void
cover_new_rows(JobRun *run, BackfillRun *b)
{
	ListCell   *lc;

	run_set_phase(run, "covering new rows");
	foreach(lc, b->triggers)
	{
		TriggerText *t = lfirst(lc);

		/* by its name: the statement says what the table was called then */
		if (t->exists)
			continue;
		run_statement(run, t->table, ShareRowExclusiveLock, t->create,
					  psprintf("DROP TRIGGER IF EXISTS %s ON %s",
							   quote_identifier(b->trigger_name), t->relation), true);
	}
}

/* The last thing before success: until then the trigger is a helper that goes
 * away with a job that fails or is cancelled */
static void
keep_triggers_body(JobRun *run, void *arg)
{
	BackfillRun *b = arg;

	step_keep(run->job->id, psprintf("CREATE TRIGGER %s ",
									 quote_identifier(b->trigger_name)));
}

/*
 * All batches are one step of the journal, written before the trigger's, so
 * that undo, which goes backwards, stops new rows from being filled before it
 * takes back what was.
 */
typedef struct FillStep
{
	BackfillRun *b;
	const char *state;
} FillStep;

static void
fill_step_body(JobRun *run, void *arg)
{
	FillStep   *step = arg;
	Source	   *source = step->b->source;

	run_follow_name(run);
	(void) step_write(run->job->id, STEP_BATCHES, job_relation_text(run->job),
					  step->state,
					  psprintf("UPDATE %s SET %s = (%s), in batches",
							   sql_relation(source->relid),
							   quote_identifier(source->column),
							   source_describe(source)),
					  backfill_inverse_text(source), false, RowExclusiveLock);
}

static void
write_fill_step(JobRun *run, BackfillRun *b, const char *state)
{
	FillStep	step = {.b = b,.state = state};

	run_bookkeeping(run, fill_step_body, &step);
}

char *
backfill_inverse_text(const Source *source)
{
	return psprintf("UPDATE %s SET %s = %s WHERE it has the value of (%s), in batches",
					sql_relation(source->relid), quote_identifier(source->column),
					source->unset ? sql_literal(source->unset) : "NULL",
					source_describe(source));
}

static RowPosition
checkpoint_position(const JobRun *run)
{
	RowPosition position;

	position.leaf = (Oid) json_int(run->progress.checkpoint, "leaf", InvalidOid);
	position.block = (BlockNumber) json_int(run->progress.checkpoint, "block", 0);
	return position;
}

static void
fill_rows(JobRun *run, BackfillRun *b)
{
	Pass		fill = {.what = STATEMENT_FILL,.phase = "filling rows",
		.source = b->source,.rows = &range_cursor,.count_rows = true,
		.measured = true,.limited = true,
	.resumable = true,.start = checkpoint_position(run)};

	run_pass(run, &fill);
}

/*
 * Rows that need a value; *unresolved: those that the source has none for.  A
 * leaf is read with one snapshot, so that no row can be moved from what is to
 * be read to what has been: the one scan that has to be long.
 */
static int64
count_residue(JobRun *run, BackfillRun *b, int64 *unresolved)
{
	Pass		pass = {.what = STATEMENT_RESIDUE,.phase = "verifying",
	.source = b->source,.rows = &range_cursor,.sets = ROWS_WHOLE};

	run_pass(run, &pass);
	*unresolved = pass.counted[1];
	return pass.counted[0];
}

/* One more pass; true when it found nothing and passed over nothing */
static bool
sweep_once(JobRun *run, BackfillRun *b)
{
	Pass		sweep = {.what = STATEMENT_FILL,.phase = "sweeping for residue",
	.source = b->source,.rows = &range_cursor,.count_rows = true};

	run_pass(run, &sweep);
	b->sweeps++;
	b->passed_over = sweep.passed_over;
	if (sweep.updated == 0 && sweep.passed_over)
		run_rest(run, lock_backoff(b->sweeps),
				 "waiting for rows that other sessions have locked");
	return sweep.updated == 0 && !sweep.passed_over;
}

static void
raise_set_back(JobRun *run, int64 residue)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg_plural(INT64_FORMAT " row of %s still needs a value after the last pass",
						   INT64_FORMAT " rows of %s still need a value after the last pass",
						   (unsigned long) residue, residue,
						   job_relation_text(run->job)),
			 errdetail("Something keeps the rows from being updated, or sets the column back while the job runs."),
			 errhint("Find the trigger, rule or statement that does, then: SELECT tenantmig.retry(" INT64_FORMAT ");",
					 run->job->id)));
}

/*
 * Sweep until nothing is left that the source has a value for, and count what
 * is left all the same: an update that a trigger or a rule takes back looks
 * like one that has worked, or like nothing to do.  Such sweeps are in vain;
 * after some of them that left no fewer rows behind it is an error.
 */
static int64
sweep_and_verify(JobRun *run, BackfillRun *b)
{
	int64		least = PG_INT64_MAX;
	int			vain = 0;

	for (;;)
	{
		bool		clean = sweep_once(run, b);
		int64		residue;
		int64		unresolved;

		if (!clean && (b->passed_over || b->sweeps < VAIN_SWEEPS))
			continue;
		residue = count_residue(run, b, &unresolved);
		if (clean && residue == unresolved)
			return residue;
		if (residue < least)
		{
			least = residue;
			vain = 0;
		}
		else if (++vain >= VAIN_SWEEPS)
			raise_set_back(run, residue);
	}
}

static void
examples_body(JobRun *run, void *arg)
{
	BackfillRun *b = arg;
	Identity	saved;
	ListCell   *lc;

	run_enter_owner(run, &saved);
	foreach(lc, target_leaves(run->relid))
	{
		List	   *keys = source_examples(b->source, lfirst_oid(lc), false,
											 MOST_EXAMPLES);
		ListCell   *k;

		foreach(k, keys)
		{
			if (list_length(b->examples) >= MOST_EXAMPLES)
				break;
			job_add_error(run->job->id, sql_relation(lfirst_oid(lc)),
						  DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(lfirst(k)))), "23502",
						  "no tenant to take from the source");
			if (list_length(b->examples) < 5)
			{
				MemoryContext context = MemoryContextSwitchTo(run->context);

				b->examples = lappend(b->examples, pstrdup(lfirst(k)));
				MemoryContextSwitchTo(context);
			}
		}
	}
	identity_leave(&saved);
}

static char *
join_texts(List *texts)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, texts)
		appendStringInfo(&buf, "%s%s", buf.len > 0 ? ", " : "", (char *) lfirst(lc));
	return buf.data;
}

/*
 * A source may get a value for a row that was an orphan, or lose one, at any
 * time.  So sweep and assign in turns, until a sweep has left nothing.
 */
static void
assign_orphans(JobRun *run, BackfillRun *b, int64 orphans)
{
	Pass		assign = {.what = STATEMENT_ASSIGN,.phase = "assigning orphans",
		.source = b->source,.rows = &range_cursor,.count_rows = true,
	.orphan_value = b->options.orphan_value};
	JsonObject *facts = json_begin();
	int64		assigned = 0;
	int64		residue = orphans;
	int64		least = orphans;
	int			vain = 0;

	while (residue > 0)
	{
		run_pass(run, &assign);
		assigned += assign.updated;
		if (assign.updated == 0 && assign.passed_over)
			run_rest(run, lock_backoff(b->sweeps),
					 "waiting for rows that other sessions have locked");
		residue = sweep_and_verify(run, b);
		if (residue < least)
		{
			least = residue;
			vain = 0;
		}
		else if (!assign.passed_over && ++vain >= VAIN_SWEEPS)
			raise_set_back(run, residue);
	}
	json_put_int(facts, "orphans", orphans);
	json_put_int(facts, "rows_assigned", assigned);
	run_note(run, json_end(facts));
}

static void
handle_orphans(JobRun *run, BackfillRun *b, int64 orphans)
{
	JsonObject *facts = json_begin();

	run_or_error(run, examples_body, b);
	json_put_int(facts, "orphans", orphans);
	json_put_int(facts, "residue", orphans);
	run_note(run, json_end(facts));
	if (b->options.on_orphan == ORPHAN_FAIL)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg_plural(INT64_FORMAT " row of %s has no tenant to take: %s",
							   INT64_FORMAT " rows of %s have no tenant to take: %s",
							   (unsigned long) orphans, orphans,
							   job_relation_text(run->job), b->description),
				 errdetail("The other rows have theirs. Examples: %s.",
						   join_texts(b->examples)),
				 errhint("Mend the rows and SELECT tenantmig.retry(" INT64_FORMAT "); or call backfill again with options {\"on_orphan\": \"leave\"} or {\"on_orphan\": \"assign\", \"orphan_value\": \"...\"}.",
						 run->job->id)));
}

void
backfill_run(JobRun *run)
{
	BackfillRun b = {0};
	int64		residue;
	JsonObject *facts = json_begin();

	run_or_error(run, resolve_body, &b);
	count_rows(run, &b);
	STOP_POINT("backfill-counted");
	write_fill_step(run, &b, "running");
	cover_new_rows(run, &b);
	STOP_POINT("backfill-covered");
	fill_rows(run, &b);
	STOP_POINT("backfill-filled");
	residue = sweep_and_verify(run, &b);
	if (residue > 0 && b.options.on_orphan == ORPHAN_ASSIGN)
	{
		assign_orphans(run, &b, residue);
		residue = 0;
	}
	else if (residue > 0)
		handle_orphans(run, &b, residue);
	STOP_POINT("backfill-verified");
	write_fill_step(run, &b, "done");
	if (b.options.keep_trigger)
		run_bookkeeping(run, keep_triggers_body, &b);
	json_put_int(facts, "rows_changed", run->progress.rows_done);
	json_put_int(facts, "sweeps", b.sweeps);
	json_put_int(facts, "residue", residue);
	json_put_text(facts, "trigger", b.options.keep_trigger ? "kept" : "removed");
	run_note(run, json_end(facts));
}

/* --- undo ------------------------------------------------------------ */

typedef struct UndoArg
{
	const Job  *target;
	Source	   *source;
	BackfillOptions options;
	int64		already_same;
	int64		filled;			/* rows that the target has changed */
} UndoArg;

static void
resolve_undo_body(JobRun *run, void *arg)
{
	UndoArg    *a = arg;
	Identity	saved;
	Jsonb	   *summary = job_summary(a->target->id);
	OwnQuery	query;

	query_init(&query, "SELECT rows_done FROM tenantmig.job_progress WHERE job = $1");
	query_int8(&query, a->target->id);
	a->filled = query_run(&query) > 0 ? query_get_int8(0, 1, 0) : 0;
	MemoryContextSwitchTo(run->context);
	a->already_same = json_int(summary, "rows_already_same", 0);
	run_enter_owner(run, &saved);
	a->source = source_resolve(a->target->arguments, run->relid);
	backfill_read_options(a->target->options, a->source, &a->options);
	identity_leave(&saved);
}

/*
 * What the source says today may not be what it said then, and rows may have
 * been given to other tenants, or have come in, since: say how many rows it
 * was that were taken back, and how many have a value still.
 */
static void
note_undo(JobRun *run, const UndoArg *arg)
{
	Pass		count = {.what = STATEMENT_COUNT,.phase = "counting rows",
		.source = arg->source,.rows = &range_cursor,
	.orphan_value = arg->options.orphan_value};
	JsonObject *facts = json_begin();
	int64		changed = run->progress.rows_done;

	run_pass(run, &count);
	json_put_int(facts, "rows_changed", changed);
	json_put_int(facts, "rows_left", count.counted[1]);
	if (changed != arg->filled)
		json_put_list(facts, "warnings",
					  list_make1(psprintf("job " INT64_FORMAT " had given " INT64_FORMAT " rows a value, but " INT64_FORMAT " had the value that its source gives today and were taken back; " INT64_FORMAT " rows have a value still",
										  arg->target->id, arg->filled, changed,
										  count.counted[1])));
	run_note(run, json_end(facts));
}

/*
 * Back to unset, for the rows that have the value that the backfill gave.
 * Nothing is lost by it: the same backfill would give them the same value.
 * Rows that had that value before it cannot be told apart, so if there were
 * any, nothing is touched.
 */
void
backfill_undo(JobRun *run, const Job *target, const JobStep *step)
{
	UndoArg		arg = {.target = target};
	int			vain = 0;
	Pass		pass = {.what = STATEMENT_UNFILL,.phase = "taking values back",
		.measured = true,.limited = true,
	.rows = &range_cursor,.count_rows = true};

	run_or_error(run, resolve_undo_body, &arg);
	if (arg.already_same > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot take back the values of job " INT64_FORMAT, target->id),
				 errdetail_plural(INT64_FORMAT " row of %s had the same value before it, and cannot be told from those that it filled.",
								  INT64_FORMAT " rows of %s had the same value before it, and cannot be told from those that it filled.",
								  (unsigned long) arg.already_same, arg.already_same,
								  job_relation_text(run->job)),
				 errhint("Nothing was changed. Set the rows that should be empty to NULL with an UPDATE of your own.")));
	pass.source = arg.source;
	pass.orphan_value = arg.options.orphan_value;
	do
	{
		run_pass(run, &pass);
		pass.limited = false;
		if (pass.updated == 0 && pass.passed_over)
			run_rest(run, lock_backoff(vain++),
					 "waiting for rows that other sessions have locked");
	} while (pass.updated > 0 || pass.passed_over);
	note_undo(run, &arg);
}
