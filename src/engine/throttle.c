/*
 * throttle.c
 *		How much of the server a job may take.
 *
 * Between two batches, with no transaction open, the job rests for the
 * longest of what the throttles ask: a share of its own work (nice), the rows
 * and the WAL it may write in a second, standbys that have fallen behind, and
 * a window of the day in which it must not work.  The options are read again
 * in every batch, so alter_job() works on a running job; each rest is cut into
 * pieces, so that pause, cancel and changed options are seen within a second.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/query.h"
#include "engine/settings.h"
#include "engine/throttle.h"

static const char *const option_names[] = {
	"batch_target", "max_rows_per_second", "max_wal_rate",
	"max_replication_lag", "nice", "not_between", "synchronous_commit",
};

bool
throttle_is_option(const char *key)
{
	for (int i = 0; i < lengthof(option_names); i++)
		if (strcmp(option_names[i], key) == 0)
			return true;
	return false;
}

const char *
throttle_option_names(void)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < lengthof(option_names); i++)
		appendStringInfo(&buf, "%s%s", i > 0 ? ", " : "", option_names[i]);
	return buf.data;
}

/* An interval such as '200ms' in ms; a bare number counts as ms */
static double
interval_ms(const char *text, const char *key)
{
	char	   *end;
	double		number = strtod(text, &end);
	Interval   *interval;
	double		ms;

	if (end != text && *end == '\0')
		ms = number;
	else
	{
		interval = DatumGetIntervalP(DirectFunctionCall3(interval_in,
														 CStringGetDatum(text),
														 ObjectIdGetDatum(InvalidOid),
														 Int32GetDatum(-1)));
		ms = interval->time / 1000.0 + (interval->day + 30.0 * interval->month) * 86400000.0;
	}
	if (!(ms >= 0 && ms <= INT_MAX))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" is out of range: %s", key, text)));
	return ms;
}

static double
positive_number(Jsonb *options, const char *key, double missing)
{
	char	   *text = json_text(options, key);
	char	   *end;
	double		number;

	if (text == NULL)
		return missing;
	number = strtod(text, &end);
	if (end == text || *end != '\0' || !(number >= 0 && number <= 1e15))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" must be a number that is not negative: %s", key, text)));
	return number;
}

static int
time_of_day(const char *text)
{
	return (int) (DatumGetTimeADT(DirectFunctionCall3(time_in,
													  CStringGetDatum(text),
													  ObjectIdGetDatum(InvalidOid),
													  Int32GetDatum(-1))) / USECS_PER_SEC);
}

void
throttle_read(Throttle *t, Jsonb *options)
{
	char	   *text;
	List	   *window;

	t->batch_target = setting_batch_target;
	if ((text = json_text(options, "batch_target")) != NULL)
		t->batch_target = Max(1, (int) interval_ms(text, "batch_target"));
	t->max_rows_per_second = (int64) positive_number(options, "max_rows_per_second", 0);
	t->max_wal_rate = setting_max_wal_rate * INT64CONST(1024);
	if ((text = json_text(options, "max_wal_rate")) != NULL)
		t->max_wal_rate = Max(0, DatumGetInt64(DirectFunctionCall1(pg_size_bytes,
																   CStringGetTextDatum(text))));
	t->max_replication_lag = setting_max_replication_lag;
	if ((text = json_text(options, "max_replication_lag")) != NULL)
		t->max_replication_lag = (int) interval_ms(text, "max_replication_lag");
	t->nice = positive_number(options, "nice", setting_nice);
	t->synchronous_commit = false;
	if ((text = json_text(options, "synchronous_commit")) != NULL &&
		!parse_bool(text, &t->synchronous_commit))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"synchronous_commit\" must be on or off: %s", text)));

	t->not_from = t->not_until = -1;
	if (json_text(options, "not_between") == NULL)
		return;
	window = json_list(options, "not_between");
	if (list_length(window) != 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"not_between\" must be an array of two times of day"),
				 errhint("For example: {\"not_between\": [\"08:00\", \"18:00\"]}, in the time zone of the server.")));
	t->not_from = time_of_day(linitial(window));
	t->not_until = time_of_day(lsecond(window));
}

void
throttle_check_options(Jsonb *options)
{
	Throttle	t;

	throttle_read(&t, options);
}

/* Seconds until the window in which the job must not work is over; 0: not in it */
static int
seconds_of_window(const Throttle *t)
{
	pg_time_t	now = (pg_time_t) time(NULL);
	struct pg_tm *tm = pg_localtime(&now, session_timezone);
	int			second = tm->tm_hour * 3600 + tm->tm_min * 60 + tm->tm_sec;
	bool		within;

	if (t->not_from < 0)
		return 0;
	within = t->not_from <= t->not_until
		? second >= t->not_from && second < t->not_until
		: second >= t->not_from || second < t->not_until;
	if (!within)
		return 0;
	return (t->not_until - second + 86400) % 86400;
}

static void
lag_body(JobRun *run, void *arg)
{
	OwnQuery	query;

	query_init(&query, "SELECT COALESCE(max(extract(epoch FROM replay_lag) * 1000), 0)::bigint "
			   "FROM pg_stat_replication");
	query_run(&query);
	*(int64 *) arg = query_get_int8(0, 1, 0);
}

/* How long to rest now, and why; 0: not at all */
static int
rest_needed(JobRun *run, const Throttle *t, const BatchCost *cost,
			double rested_ms, char **reason)
{
	double		longest = 0;
	double		ms;
	int			seconds = seconds_of_window(t);

	if (seconds > 0)
	{
		*reason = psprintf("not_between: %d s until %02d:%02d", seconds,
						   t->not_until / 3600, t->not_until / 60 % 60);
		return 1000;
	}
	if (t->max_replication_lag > 0)
	{
		int64		lag = 0;

		run_or_error(run, lag_body, &lag);
		if (lag > t->max_replication_lag)
		{
			*reason = psprintf("max_replication_lag: a standby is " INT64_FORMAT " ms behind, limit %d ms",
							   lag, t->max_replication_lag);
			return 1000;
		}
	}
	if (t->nice > 0)
	{
		longest = cost->ms * t->nice - rested_ms;
		*reason = psprintf("nice: %g times the work", t->nice);
	}
	if (t->max_rows_per_second > 0)
	{
		ms = cost->rows * 1000.0 / t->max_rows_per_second - cost->ms - rested_ms;
		if (ms > longest)
		{
			longest = ms;
			*reason = psprintf("max_rows_per_second: limit " INT64_FORMAT,
							   t->max_rows_per_second);
		}
	}
	if (t->max_wal_rate > 0)
	{
		ms = cost->wal_bytes * 1000.0 / t->max_wal_rate - cost->ms - rested_ms;
		if (ms > longest)
		{
			longest = ms;
			*reason = psprintf("max_wal_rate: limit " INT64_FORMAT " bytes a second",
							   t->max_wal_rate);
		}
	}
	return (int) Min(longest, 1000);
}

void
throttle_wait(JobRun *run, const BatchCost *cost)
{
	TimestampTz start = GetCurrentTimestamp();
	bool		rested = false;

	for (;;)
	{
		MemoryContext context;
		Throttle	t;
		char	   *reason = NULL;
		int			ms;

		MemoryContextReset(run->scratch);
		context = MemoryContextSwitchTo(run->scratch);
		throttle_read(&t, run->job->options);
		ms = rest_needed(run, &t, cost,
						 (GetCurrentTimestamp() - start) / 1000.0, &reason);
		MemoryContextSwitchTo(context);
		if (ms <= 0)
		{
			if (!rested)
				run_forget_throttle(run);
			return;
		}
		rested = true;
		/* the reason must outlive the transactions of the rest */
		reason = MemoryContextStrdup(run->context, reason);
		run_rest(run, ms, reason);
		pfree(reason);
	}
}
