/*
 * backfill_undo.c
 *		Taking back what a backfill has given.
 */
#include "postgres.h"

#include "engine/json.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "steps/backfill.h"
#include "steps/metadata.h"
#include "steps/pass.h"

typedef struct UndoArg
{
	const Job  *target;
	Source	   *source;
	BackfillOptions options;
	int64		already_same;
	int64		conflicts;
	int64		filled;			/* rows that the target has changed */
	bool		metadata;		/* without writing them */
	MetadataChange change;
} UndoArg;

static void
resolve_undo_body(JobRun *run, void *arg)
{
	UndoArg    *a = arg;
	Identity	saved;
	Jsonb	   *summary = job_summary(a->target->id);
	char	   *method = json_text(summary, "method");
	OwnQuery	query;

	query_init(&query, "SELECT rows_done FROM tenantmig.job_progress WHERE job = $1");
	query_int8(&query, a->target->id);
	a->filled = query_run(&query) > 0 ? query_get_int8(0, 1, 0) : 0;
	MemoryContextSwitchTo(run->context);
	a->already_same = json_int(summary, "rows_already_same", 0);
	a->metadata = method && strcmp(method, "metadata") == 0;
	a->conflicts = json_int(summary, "rows_conflicting", 0);
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
		.workers = arg->options.workers,.source_job = arg->target->id,
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

static void
change_work(JobRun *run, void *arg)
{
	UndoArg    *a = arg;

	a->metadata = metadata_change(run, &a->change) == NULL;
}

/*
 * What was given without writing the rows is taken back so, if they all have
 * it still.
 */
static bool
undone_by_metadata(JobRun *run, UndoArg *arg)
{
	ErrorData  *error;

	if (!arg->metadata)
		return false;
	arg->change.arguments = arg->target->arguments;
	arg->change.back = true;
	error = run_catch(run, change_work, arg);
	if (error && (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
				  error->sqlerrcode == ERRCODE_OBJECT_IN_USE))
		return false;
	if (error)
		ReThrowError(error);
	return arg->metadata;
}

/* What was overwritten is nowhere any more */
static void
refuse_overwritten(JobRun *run, const UndoArg *arg)
{
	if (arg->source->on_conflict != CONFLICT_OVERWRITE || arg->conflicts == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot take back the values of job " INT64_FORMAT,
					arg->target->id),
			 errdetail_plural(INT64_FORMAT " row of %s had another value before it, which it has overwritten.",
							  INT64_FORMAT " rows of %s had other values before it, which it has overwritten.",
							  (unsigned long) arg->conflicts, arg->conflicts,
							  job_relation_text(run->job)),
			 errhint("Nothing was changed. Bring the old values back from a backup.")));
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
	refuse_overwritten(run, &arg);
	if (undone_by_metadata(run, &arg))
	{
		note_undo(run, &arg);
		return;
	}
	pass.source = arg.source;
	pass.triggers_off = arg.options.triggers_off;
	pass.workers = arg.options.workers;
	pass.source_job = target->id;
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
