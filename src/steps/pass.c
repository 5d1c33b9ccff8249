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
#include "steps/pass.h"

/* Batches that pass over locked rows at once, after one that ran into some */
#define WARY_BATCHES	8

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
	bool		out_of_time = batch_out_of_time_taken(error);

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

void
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
				pass_set_checkpoint(run, pass, pass->rows->position(pass->cursor));
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
