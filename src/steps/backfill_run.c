/*
 * backfill_run.c
 *		backfill at work: count, cover new rows, fill, sweep, verify.
 *
 *	count		How many rows need a value, and how many have the one they
 *				would get already (undo could not tell those apart), or another
 *				one: fail, leave, overwrite.  In short transactions, before
 *				anything is changed.
 *	metadata	A constant, in a column that no row has another value in, is given
 *				to all rows at once (metadata.c).  Then that was all.
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
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "engine/template.h"
#include "engine/stop_point.h"
#include "steps/backfill.h"
#include "steps/leaf_progress.h"
#include "steps/metadata.h"
#include "steps/pass.h"
#include "steps/target.h"

#define MOST_EXAMPLES 100

/* Of a row in job_errors: integrity_constraint_violation, the general one */
#define CONFLICT_SQLSTATE "23000"

/* Sweeps that may leave as many rows behind as there were */
#define VAIN_SWEEPS	5

typedef struct BackfillRun
{
	Source	   *source;
	char	   *description;	/* of the source */
	BackfillOptions options;
	char	   *create_trigger;	/* a template */
	List	   *triggers;		/* of TriggerTable * */
	bool		counted;
	BadRows		bad;
	int64		unset;			/* rows without a value, when they were counted */
	bool		by_rows;		/* an earlier attempt has begun so */
	bool		by_metadata;	/* an earlier attempt has done it */
	MetadataChange change;
	char	   *reason;			/* why not by metadata */
	int64		conflicts;		/* rows with another value than the source's */
	int			sweeps;
	bool		passed_over;	/* the last sweep did, over locked rows */
	List	   *examples;		/* a few keys of rows, for messages */
} BackfillRun;

typedef struct TriggerTable
{
	Oid			table;
	bool		exists;			/* the trigger, from an earlier attempt */
} TriggerTable;

/*
 * Whether an earlier attempt of this job has made its trigger.  One that merely
 * has its name was made by somebody else, and CREATE TRIGGER will say so.
 */
static bool
trigger_exists(JobRun *run, const BackfillRun *b, Oid table)
{
	const char *state = step_state(run->job->id, table, b->create_trigger);

	return state && strcmp(state, "done") == 0 &&
		OidIsValid(get_trigger_oid(table, source_trigger_name(b->source, run->job->id),
								   true));
}

/* What an earlier attempt has left */
static void
read_summary(JobRun *run, BackfillRun *b)
{
	Jsonb	   *summary = job_summary(run->job->id);
	char	   *method = json_text(summary, "method");
	ListCell   *lc;

	b->counted = json_text(summary, "rows_total") != NULL;
	b->unset = json_int(summary, "rows_total", 0);
	b->conflicts = json_int(summary, "rows_conflicting", 0);
	b->by_metadata = method && strcmp(method, "metadata") == 0;
	foreach(lc, step_list(run->job->id))
	{
		JobStep    *step = lfirst(lc);

		if (step->kind == STEP_BATCHES && strcmp(step->state, "undone") != 0)
			b->by_rows = !b->by_metadata;
	}
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
	b->create_trigger = source_create_trigger(b->source, run->job->id);
	backfill_read_options(run->job->options, b->source, &b->options);
	if (b->options.on_orphan == ORPHAN_FAIL)
		source_check_circle(b->source, run->job->id);
	foreach(lc, target_trigger_tables(run->relid))
	{
		TriggerTable *t = palloc(sizeof(TriggerTable));

		t->table = lfirst_oid(lc);
		t->exists = trigger_exists(run, b, t->table);
		b->triggers = lappend(b->triggers, t);
	}
	identity_leave(&saved);
	job_forget_row_errors(run->job->id);
	read_summary(run, b);
}

static bool
by_ranges(const BackfillRun *b)
{
	return b->options.method == METHOD_RANGES || source_wants_ranges(b->source);
}

static void
count_rows(JobRun *run, BackfillRun *b)
{
	Pass		pass = {.what = STATEMENT_COUNT,.phase = "counting rows",
		.source = b->source,.rows = &range_cursor,
		.workers = b->options.workers,.totals = true,
	.orphan_value = b->options.orphan_value};
	JsonObject *facts = json_begin();

	if (b->counted)
		return;
	leaf_progress_forget(run);
	run_pass(run, &pass);
	if (pass.counted[3] > 0 || b->conflicts > 0)
	{
		json_put_int(facts, "rows_conflicting", pass.counted[3]);
		json_put_text(facts, "on_conflict",
					  source_conflict_name(b->source->on_conflict));
	}
	b->conflicts = pass.counted[3];
	if (b->conflicts > 0 && b->source->on_conflict == CONFLICT_FAIL)
	{
		/* another attempt counts again */
		run_note(run, json_end(facts));
		return;
	}
	if (b->source->on_conflict == CONFLICT_OVERWRITE)
		pass.counted[0] += b->conflicts;
	run->progress.rows_total = b->unset = pass.counted[0];
	json_put_int(facts, "rows_total", pass.counted[0]);
	json_put_int(facts, "rows_already_set", pass.counted[1]);
	json_put_int(facts, "rows_already_same", pass.counted[2]);
	json_put_text(facts, "source", b->description);
	json_put_text(facts, "method", by_ranges(b) ? "ranges" : "pages");
	run_note(run, json_end(facts));
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

/* Put a row into job_errors, and its key into the message if it is one of the
 * first */
static void
list_row(JobRun *run, BackfillRun *b, Oid leaf, const char *key,
		 const char *sqlstate, const char *message)
{
	Datum		json = DirectFunctionCall1(jsonb_in, CStringGetDatum(key));

	job_add_error(run->job->id, sql_relation(leaf), DatumGetJsonbP(json),
				  sqlstate, message);
	if (list_length(b->examples) < 5)
	{
		MemoryContext context = MemoryContextSwitchTo(run->context);

		b->examples = lappend(b->examples, pstrdup(key));
		MemoryContextSwitchTo(context);
	}
}

static void
conflicts_body(JobRun *run, void *arg)
{
	BackfillRun *b = arg;
	int			left = MOST_EXAMPLES;
	Identity	saved;
	ListCell   *lc;
	ListCell   *c;

	run_enter_owner(run, &saved);
	b->examples = NIL;
	foreach(lc, target_leaves(run->relid))
	{
		List	   *conflicts = left == 0 ? NIL
			: source_conflicts(b->source, lfirst_oid(lc), left);

		foreach(c, conflicts)
		{
			const Conflict *conflict = lfirst(c);

			list_row(run, b, lfirst_oid(lc), conflict->key, CONFLICT_SQLSTATE,
					 psprintf("has %s, but the source gives %s",
							  sql_printable(sql_literal(conflict->has)),
							  sql_printable(sql_literal(conflict->gives))));
		}
		left -= list_length(conflicts);
	}
	identity_leave(&saved);
}

/* Rows that have a value, but not the one of the source: nothing has been
 * changed yet */
static void
handle_conflicts(JobRun *run, BackfillRun *b)
{
	if (b->conflicts == 0 || b->source->on_conflict == CONFLICT_OVERWRITE)
		return;
	run_or_error(run, conflicts_body, b);
	if (b->source->on_conflict == CONFLICT_FAIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg_plural(INT64_FORMAT " row of %s has another value than the source gives: %s",
							   INT64_FORMAT " rows of %s have another value than the source gives: %s",
							   (unsigned long) b->conflicts, b->conflicts,
							   job_relation_text(run->job), b->description),
				 errdetail("Nothing was changed. Examples: %s.",
						   join_texts(b->examples)),
				 errhint("Mend the rows and SELECT tenantmig.retry(" INT64_FORMAT "); or call backfill again with options {\"on_conflict\": \"leave\"} or {\"on_conflict\": \"overwrite\"}.",
						 run->job->id)));
	b->examples = NIL;
}
/* --- metadata -------------------------------------------------------- */

static void
reservation_body(JobRun *run, void *arg)
{
	BackfillRun *b = arg;
	char	   *reason = metadata_obstacle(b->source, false);

	if (reason == NULL)
		reason = metadata_reservation(b->source);
	b->reason = reason ? MemoryContextStrdup(run->context, reason) : NULL;
}

static void
raise_not_possible(JobRun *run, const BackfillRun *b)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the rows of %s cannot get their value by metadata only",
					job_relation_text(run->job)),
			 errdetail("Because %s.", b->reason),
			 errhint("SELECT tenantmig.backfill(%s, %s, value => %s, options => '{\"method\": \"ranges\"}');",
					 sql_literal(job_relation_text(run->job)),
					 sql_literal(b->source->column), sql_literal(b->source->value))));
}

static void
change_work(JobRun *run, void *arg)
{
	BackfillRun *b = arg;

	b->reason = metadata_change(run, &b->change);
}

/*
 * What is not possible now, or not without waiting longer for a lock than it
 * may, is done by rows, unless the user insists.
 */
static bool
change_column(JobRun *run, BackfillRun *b)
{
	ErrorData  *error;

	b->change.arguments = run->job->arguments;
	b->change.keep_default = b->options.keep_trigger;
	error = run_catch(run, change_work, b);
	if (error && (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
				  error->sqlerrcode == ERRCODE_OBJECT_IN_USE) &&
		b->options.method == METHOD_AUTO)
	{
		b->reason = error->message;
		return false;
	}
	if (error)
		ReThrowError(error);
	if (b->reason && b->options.method == METHOD_METADATA)
		raise_not_possible(run, b);
	return b->reason == NULL;
}

/* Whether that was done, and all is */
static bool
by_metadata(JobRun *run, BackfillRun *b)
{
	JsonObject *facts = json_begin();
	bool		insisted = b->options.method == METHOD_METADATA;

	if (b->by_rows || b->source->kind != SOURCE_VALUE ||
		(!insisted && !b->by_metadata && (b->options.method != METHOD_AUTO || b->unset == 0)))
		return false;
	if (!b->by_metadata)
	{
		if (!insisted)
			run_or_error(run, reservation_body, b);
		if (b->reason || !change_column(run, b))
		{
			json_put_text(facts, "metadata", psprintf("not chosen: %s", b->reason));
			run_note(run, json_end(facts));
			return false;
		}
		json_put_int(facts, "lock_held_ms", b->change.held_ms);
		STOP_POINT("metadata-committed");
	}
	json_put_int(facts, "rows_changed", run->progress.rows_done);
	json_put_int(facts, "residue", 0);
	json_put_text(facts, "default", b->options.keep_trigger ? "kept" : "as before");
	run_note(run, json_end(facts));
	return true;
}

/* --- rows ------------------------------------------------------------ */

static void
cover_new_rows(JobRun *run, BackfillRun *b)
{
	ListCell   *lc;

	run_set_phase(run, "covering new rows");
	foreach(lc, b->triggers)
	{
		TriggerTable *t = lfirst(lc);

		if (!t->exists)
			run_statement(run, t->table, ShareRowExclusiveLock, b->create_trigger,
						  source_drop_trigger(b->source, run->job->id), true);
	}
}

/* The last thing before success: until then the trigger is a helper that goes
 * away with a job that fails or is cancelled */
static void
keep_triggers_body(JobRun *run, void *arg)
{
	BackfillRun *b = arg;
	ListCell   *lc;

	foreach(lc, b->triggers)
		step_keep(run->job->id, ((TriggerTable *) lfirst(lc))->table,
				  b->create_trigger);
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
	(void) step_write(run->job->id, STEP_BATCHES, run->relid, step->state,
					  template_make("UPDATE %R SET %s = (%s), in batches",
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
	return template_make("UPDATE %R SET %s = %s WHERE it has the value of (%s), in batches",
						 quote_identifier(source->column),
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
		.source = b->source,.count_rows = true,
		.workers = b->options.workers,
		.rows = by_ranges(b) ? &range_cursor : &page_cursor,
		.only_so = b->options.method == METHOD_PAGES,
		.bad = &b->bad,.max_errors = b->options.max_errors,
		.measured = true,.limited = true,
		.triggers_off = b->options.triggers_off,
	.resumable = true,.start = checkpoint_position(run)};

	run_pass(run, &fill);
}

/*
 * Rows that are to be changed; *unresolved: those that the source has none for.  A
 * leaf is read with one snapshot, so that no row can be moved from what is to
 * be read to what has been: the one scan that has to be long.
 */
static int64
count_residue(JobRun *run, BackfillRun *b, int64 *unresolved)
{
	Pass		pass = {.what = STATEMENT_RESIDUE,.phase = "verifying",
		.source = b->source,.rows = &range_cursor,.bad = &b->bad,
		.workers = b->options.workers,
	.sets = ROWS_WHOLE};

	run_pass(run, &pass);
	*unresolved = pass.counted[1];
	return pass.counted[0];
}

/* One more pass; true when it found nothing and passed over nothing */
static bool
sweep_once(JobRun *run, BackfillRun *b)
{
	Pass		sweep = {.what = STATEMENT_FILL,.phase = "sweeping for residue",
		.source = b->source,.rows = &range_cursor,.count_rows = true,
		.bad = &b->bad,.max_errors = b->options.max_errors,
		.workers = b->options.workers,
	.triggers_off = b->options.triggers_off};

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

	/* where it seems that there is none left: one snapshot tells */
	if (b->sweeps == 0 && (b->source->kind == SOURCE_VALUE ||
						   run->progress.rows_done >= b->unset))
	{
		int64		unresolved;

		if (count_residue(run, b, &unresolved) == 0)
			return 0;
	}
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
	int			left = MOST_EXAMPLES;
	Identity	saved;
	ListCell   *lc;
	ListCell   *k;

	run_enter_owner(run, &saved);
	foreach(lc, target_leaves(run->relid))
	{
		List	   *keys = left == 0 ? NIL
			: source_examples(b->source, lfirst_oid(lc), false, left);

		foreach(k, keys)
			list_row(run, b, lfirst_oid(lc), lfirst(k), "23502",
					 "no tenant to take from the source");
		left -= list_length(keys);
	}
	identity_leave(&saved);
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
		.bad = &b->bad,.max_errors = b->options.max_errors,
		.triggers_off = b->options.triggers_off,
		.workers = b->options.workers,
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

/* All that could be done is done; but a job with rows that failed has not
 * succeeded */
static void
raise_bad_rows(JobRun *run, const BackfillRun *b)
{
	JsonObject *facts = json_begin();

	if (b->bad.rows == 0)
		return;
	json_put_int(facts, "rows_failed", b->bad.rows);
	run_note(run, json_end(facts));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg_plural(INT64_FORMAT " row of %s could not be changed",
						   INT64_FORMAT " rows of %s could not be changed",
						   (unsigned long) b->bad.rows, b->bad.rows,
						   job_relation_text(run->job)),
			 errdetail("The other rows have their value. SELECT * FROM tenantmig.job_errors WHERE job = " INT64_FORMAT "; names each of these and what was wrong with it.",
					   run->job->id),
			 errhint("Mend them and SELECT tenantmig.retry(" INT64_FORMAT "), which goes on with what is left.",
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
	handle_conflicts(run, &b);
	STOP_POINT("backfill-counted");
	if (by_metadata(run, &b))
		return;
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
	raise_bad_rows(run, &b);
	STOP_POINT("backfill-verified");
	write_fill_step(run, &b, "done");
	if (b.options.keep_trigger)
		run_bookkeeping(run, keep_triggers_body, &b);
	json_put_int(facts, "rows_changed", run->progress.rows_done);
	json_put_int(facts, "sweeps", b.sweeps);
	if (b.options.workers > 1)
		json_put_int(facts, "workers", Max(run->most_sharers, 1));
	json_put_int(facts, "residue", residue);
	json_put_text(facts, "trigger", b.options.keep_trigger ? "kept" : "removed");
	run_note(run, json_end(facts));
}
