/*
 * throttle.c
 *		Rests between batches.
 *
 * Between two batches, with no transaction open, the job rests for the
 * longest of what its limits ask (throttle_limits.c).  The options are read
 * again in every batch and every second of a rest, so alter_job() works on a
 * running job; each rest is cut into pieces, so that pause, cancel and changed
 * options are seen within a second.
 *
 * Rows and WAL go through a bucket that leaks at the rate that is allowed, as
 * long as the batch executes or the job rests.  It is never emptier than
 * empty: time that went by without work, such as a wait for a lock, does not
 * allow a faster batch afterwards.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/memutils.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/throttle.h"
#include "engine/throttle_limits.h"

/* How long a signal counts, and the longest piece of a rest, in ms */
#define LOOK_EVERY	1000

/* Of the rates that are shown: what is so old counts for a third, in ms */
#define RATE_MEMORY	10000.0

/* What lasts from batch to batch */
struct ThrottleState
{
	Throttle	throttle;		/* as of the last look */
	Signals		signals;
	Facts		facts;
	Owed		owed;
	double		signals_at;		/* ms */
	double		last_batch_at;	/* ms, 0: there was none */
	bool		passed_vacuum;	/* max_vacuum_rest is over */
};

/* A clock that nobody sets, in ms */
static double
clock_ms(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return INSTR_TIME_GET_MILLISEC(now);
}

static ThrottleState *
get_state(JobRun *run)
{
	if (run->throttle == NULL)
		run->throttle = MemoryContextAllocZero(run->context, sizeof(ThrottleState));
	return run->throttle;
}

static Scene
get_scene(const JobRun *run, const ThrottleState *state)
{
	return (Scene)
	{
		.throttle = &state->throttle,.signals = &state->signals,
			.facts = &state->facts,.owed = &state->owed,
			.sharers = Max(run->sharers, 1)
	};
}

/* --- signals --------------------------------------------------------- */

static void
signals_body(JobRun *run, void *arg)
{
	ThrottleState *state = arg;

	signals_read(&state->signals, limits_signals(&state->throttle), run->relid);
}

static void
look(JobRun *run, ThrottleState *state)
{
	int			needed;

	throttle_read(&state->throttle, run->job->options);
	needed = limits_signals(&state->throttle);
	if ((needed & ~state->signals.read) == 0 &&
		clock_ms() - state->signals_at < LOOK_EVERY)
		return;
	if (needed != 0)
		run_or_error(run, signals_body, state);
	else
		memset(&state->signals, 0, sizeof(Signals));
	state->signals_at = clock_ms();
	if (state->signals.vacuum_pid == 0)
	{
		state->facts.vacuum_rested_ms = 0;
		state->passed_vacuum = false;
	}
}

/* --- debts ----------------------------------------------------------- */

static void
pay(double *owed, double rate, double ms)
{
	*owed = rate > 0 ? Max(0, *owed - rate * ms / 1000) : 0;
}

static void
pay_rates(JobRun *run, ThrottleState *state, double ms)
{
	Scene		scene = get_scene(run, state);

	pay(&state->owed.rows, limit_rows_per_second(&scene), ms);
	pay(&state->owed.wal_bytes, limit_wal_rate(&scene), ms);
}

static void
pay_by_rest(JobRun *run, ThrottleState *state, double ms)
{
	pay_rates(run, state, ms);
	pay(&state->owed.work_ms, state->throttle.nice > 0 ? 1000 / state->throttle.nice : 0, ms);
	pay(&state->owed.waiters_ms, 1000, ms);
	if (state->signals.vacuum_pid != 0)
		state->facts.vacuum_rested_ms += ms;
}

static void
add_rate(double *rate, double amount, double ms, bool first)
{
	double		now = 1000 * amount / Max(ms, 1);

	*rate += (now - *rate) * (first ? 1 : 1 - exp(-ms / RATE_MEMORY));
}

static void
add_batch(JobRun *run, ThrottleState *state, const BatchCost *cost)
{
	double		now = clock_ms();
	bool		first = state->last_batch_at == 0;
	double		since = first ? cost->ms : now - state->last_batch_at;
	int			most = state->throttle.max_waiters;

	if (cost->ms <= 0)
		return;
	add_rate(&state->facts.rows_per_second, (double) cost->rows, since, first);
	add_rate(&state->facts.wal_per_second, (double) cost->wal_bytes, since, first);
	state->last_batch_at = now;
	state->facts.batch_ms = cost->ms;
	state->facts.waiters = cost->waiters;

	state->owed.rows += cost->rows;
	state->owed.wal_bytes += cost->wal_bytes;
	state->owed.work_ms += cost->ms;
	state->owed.waiters_ms = most >= 0 && cost->waiters > most ? cost->ms : 0;
	pay_rates(run, state, cost->ms);
}

/* --- rests ----------------------------------------------------------- */

/* Said in the log, since a job that works shows no reason to rest */
static void
tell_vacuum_passed(JobRun *run, ThrottleState *state)
{
	Facts	   *facts = &state->facts;

	if (state->passed_vacuum || !state->throttle.yield_to_vacuum ||
		state->signals.vacuum_pid == 0 ||
		facts->vacuum_rested_ms < state->throttle.max_vacuum_rest)
		return;
	state->passed_vacuum = true;
	ereport(LOG,
			(errmsg("job " INT64_FORMAT " goes on while process %d vacuums its table",
					run->job->id, state->signals.vacuum_pid),
			 errdetail("It has rested %d s for it, as long as max_vacuum_rest allows.",
					   (int) (facts->vacuum_rested_ms / 1000))));
}

/*
 * How long to rest now, in ms, at most one piece; 0: not at all.  What is less
 * than a ms stays owed.  The reason is in the current context.
 */
static int
rest_needed(JobRun *run, ThrottleState *state, char **reason)
{
	Scene		scene = get_scene(run, state);
	ThrottleLimit		limits[THROTTLE_LIMITS];
	const ThrottleLimit *longest = &limits[0];

	limits_judge(&scene, limits);
	for (int i = 1; i < THROTTLE_LIMITS; i++)
		if (limits[i].rest_ms > longest->rest_ms)
			longest = &limits[i];
	*reason = longest->rest_ms < 1 ? NULL
		: psprintf("%s: %s, limit %s", longest->name, longest->current, longest->limit);
	return (int) Min(longest->rest_ms, LOOK_EVERY);
}

/* The reason outlives the transactions of the rest, for which the scratch
 * context is reset */
static int
next_rest(JobRun *run, ThrottleState *state, char **reason)
{
	MemoryContext context;
	int			ms;

	MemoryContextReset(run->scratch);
	context = MemoryContextSwitchTo(run->scratch);
	look(run, state);
	MemoryContextSwitchTo(run->scratch);
	tell_vacuum_passed(run, state);
	ms = rest_needed(run, state, reason);
	MemoryContextSwitchTo(context);
	if (ms > 0)
		*reason = MemoryContextStrdup(run->context, *reason);
	return ms;
}

void
throttle_wait(JobRun *run, const BatchCost *cost)
{
	ThrottleState *state = get_state(run);
	bool		rested = false;
	char	   *reason;
	int			ms;

	throttle_read(&state->throttle, run->job->options);
	add_batch(run, state, cost);
	while ((ms = next_rest(run, state, &reason)) > 0)
	{
		double		start = clock_ms();

		run_rest(run, ms, reason);
		pay_by_rest(run, state, clock_ms() - start);
		pfree(reason);
		rested = true;
	}
	if (!rested)
		run_forget_throttle(run);
}

/* --- for others ------------------------------------------------------ */

bool
throttle_wants_less(JobRun *run, const Throttle *throttle, const BatchCost *cost)
{
	Scene		scene = get_scene(run, get_state(run));
	double		rows;
	double		wal_rate;

	scene.throttle = throttle;
	rows = limit_rows_per_second(&scene);
	wal_rate = limit_wal_rate(&scene);
	return (throttle->max_waiters >= 0 && cost->waiters > throttle->max_waiters) ||
		(rows > 0 && cost->rows > rows) ||
		(wal_rate > 0 && cost->wal_bytes > wal_rate);
}

Jsonb *
throttle_facts(JobRun *run)
{
	const ThrottleState *state = run->throttle;
	JsonObject *object;

	if (state == NULL || state->last_batch_at == 0)
		return NULL;
	object = json_begin();
	json_put_double(object, "rows_per_second", state->facts.rows_per_second);
	json_put_double(object, "wal_per_second", state->facts.wal_per_second);
	json_put_double(object, "batch_ms", state->facts.batch_ms);
	json_put_int(object, "waiters", state->facts.waiters);
	json_put_double(object, "vacuum_rested_ms", state->facts.vacuum_rested_ms);
	return json_end(object);
}
