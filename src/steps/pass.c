/*
 * pass.c
 *		One pass of one statement over a table, a batch at a time.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "engine/locks.h"
#include "engine/settings.h"
#include "engine/stop_point.h"
#include "steps/crew.h"
#include "steps/pass.h"
#include "steps/target.h"

/* Batches that pass over locked rows at once, after one that ran into some */
#define WARY_BATCHES	8

/* How long to rest when no rows can be worked on, in ms */
#define REST_MS		2

static void
open_body(JobRun *run, void *arg)
{
	Pass	   *pass = arg;

	RowRequest	request = {.taker = pass->taker,.size = pass->sets,
		.source = pass->source,.only = pass->only_so};

	throttle_read(&pass->throttle, run->job->options);
	if (pass->feed == NULL)
	{
		List	   *leaves = target_leaves(run->relid);
		Size		size = feed_size(list_length(leaves));

		pass->feed = pass->workers > 1 ? crew_make(run, pass, size)
			: MemoryContextAlloc(run->context, size);
		feed_init(pass->feed, run->relid, leaves, pass->start);
	}
	request.feed = pass->feed;
	if (pass->sets == ROWS_ADAPTED && pass->throttle.max_rows_per_second > 0)
		request.size = ROWS_FEW;
	pass->cursor = pass->rows->open(run->context, &request);
}

/*
 * A batch that did not commit.  A lock not had: again, and pass over locked
 * rows this time.  Any other passing error: again after a rest.  The progress
 * that the batch had added is taken back with it.
 */
static void
batch_failed(JobRun *run, Pass *pass, ErrorData *error, int attempt)
{
	bool		out_of_time = batch_out_of_time_taken(error);

	if (!out_of_time && pass->executing && pass->bad && split_helps(error))
	{
		split_failed(run, pass, error);
		return;
	}
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

/* The batch has committed */
static void
batch_done(JobRun *run, Pass *pass)
{
	if (pass->wary > 0)
		pass->wary--;
	pass->pass_over_locked = pass->wary > 0;
	pass->updated += pass->cost.rows;
	feed_add_rows(pass->feed, pass->cost.rows);
	crew_add_batch(run, pass);
	pass->outcome.rows += pass->cost.rows;
	pass->outcome.ms += pass->cost.ms;
	split_forget_part(pass);
	if (pass->parts != NIL)
		return;
	pass->rows->done(pass->cursor, &pass->whole, &pass->outcome,
					 pass->throttle.batch_target);
	if (throttle_wants_less(run, &pass->throttle, &pass->cost))
		pass->rows->shrink(pass->cursor);
	memset(&pass->outcome, 0, sizeof(pass->outcome));
}

/* One transaction, or a moment without one; its error, if it has none that
 * another attempt can mend, is raised */
static void
one_batch(JobRun *run, Pass *pass, int *attempt)
{
	Progress	before = run->progress;
	int64		counted[lengthof(pass->counted)];
	RowOutcome	outcome = pass->outcome;
	ErrorData  *error;

	memcpy(counted, pass->counted, sizeof(counted));
	error = run_transaction(run, batch_body, pass);
	if (error)
	{
		memcpy(pass->counted, counted, sizeof(counted));
		before.checkpoint = run->progress.checkpoint;
		before.throttle_reason = run->progress.throttle_reason;
		before.method = run->progress.method;
		before.method_reason = run->progress.method_reason;
		before.held_by_pid = run->progress.held_by_pid;
		run->progress = before;
		pass->outcome = outcome;
		batch_failed(run, pass, error, (*attempt)++);
		FreeErrorData(error);
		return;
	}
	*attempt = 0;
	if (pass->answer == ROWS_WAIT)
		run_rest(run, REST_MS, "waiting for old row versions to be no longer needed");
	if (pass->answer != ROWS_NEXT)
		return;
	batch_done(run, pass);
	pass->last_commit = GetCurrentTimestamp();
	pass->last_rows = feed_progress(pass->feed).rows;
	STOP_POINT(!run->helping ? "batch-committed"
			   : pass->count_rows ? "helper-committed" : "helper-counted");
	STOP_POINT(pass->phase);
	throttle_wait(run, &pass->cost);
}

void
pass_open(JobRun *run, Pass *pass)
{
	const BatchCost nothing = {0};

	run_or_error(run, open_body, pass);
	throttle_wait(run, &nothing);
	pass->started = pass->last_commit = GetCurrentTimestamp();
	pass->last_rows = 0;
}

void
pass_work(JobRun *run, Pass *pass)
{
	int			attempt = 0;

	do
	{
		if (run->tend)
			run->tend(run);
		one_batch(run, pass, &attempt);
	} while (pass->answer != ROWS_END);
}

void
run_pass(JobRun *run, Pass *pass)
{
	pass->updated = 0;
	pass->passed_over = false;
	pass->pass_over_locked = false;
	pass->wary = 0;
	if (run->foreground)
		pass->workers = 1;
	run_set_phase(run, pass->phase);
	pass_open(run, pass);
	if (run->crew)
		crew_work(run, pass);
	else
		pass_work(run, pass);
	if (pass->plan)
		SPI_freeplan(pass->plan);
	pass->plan = NULL;
	pass->feed = NULL;
}
