/*
 * throttle_options.c
 *		The throttles among a job's options, and the settings behind them.
 *
 * An option that is there comes before the setting of its name.  Whatever is
 * wrong with one is 22023, with the name of the option.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/settings.h"
#include "engine/sqltext.h"
#include "engine/throttle.h"

static const char *const option_names[] = {
	"batch_target", "max_rows_per_second", "max_wal_rate",
	"max_replication_lag", "max_slot_retention", "max_archive_backlog",
	"yield_to_vacuum", "max_vacuum_rest", "max_waiters", "nice", "not_between",
	"synchronous_commit",
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

pg_noreturn static void bad_value(const char *key, const char *text,
								  const char *what);

static void
bad_value(const char *key, const char *text, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("option \"%s\" must be %s: %s", key, what,
					sql_printable(text))));
}

/* --- kinds of values ------------------------------------------------- */

static Datum
input_interval(const char *text)
{
	return DirectFunctionCall3(interval_in, CStringGetDatum(text),
							   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

static Datum
input_time(const char *text)
{
	return DirectFunctionCall3(time_in, CStringGetDatum(text),
							   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

static Datum
input_size(const char *text)
{
	return DirectFunctionCall1(pg_size_bytes, CStringGetTextDatum(text));
}

/* Read a text with an input function of the server; what that one does not
 * take is an error of ours */
static Datum
input_value(Datum (*input) (const char *), const char *text, const char *key,
			const char *what)
{
	MemoryContext context = CurrentMemoryContext;
	volatile Datum value = 0;

	PG_TRY();
	{
		value = input(text);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_DATA_EXCEPTION)
			ReThrowError(error);
		bad_value(key, text, what);
	}
	PG_END_TRY();
	return value;
}

/* An interval such as '200ms' in ms; a bare number counts as ms */
static int
duration(Jsonb *options, const char *key, int missing)
{
	static const char what[] = "an interval that is not negative, or a number of milliseconds";
	char	   *text = json_text(options, key);
	char	   *end;
	double		ms;

	if (text == NULL)
		return missing;
	ms = strtod(text, &end);
	if (end == text || *end != '\0')
	{
		Interval   *interval = DatumGetIntervalP(input_value(input_interval, text,
															 key, what));

		ms = interval->time / 1000.0 +
			(interval->day + 30.0 * interval->month) * 86400000.0;
	}
	if (!(ms >= 0))
		bad_value(key, text, what);
	if (ms > INT_MAX)
		bad_value(key, text, "24 days at most");
	return (int) ms;
}

/* A number of bytes, or a text such as '64MB' */
static int64
size(Jsonb *options, const char *key, int64 missing)
{
	static const char what[] = "a number of bytes, or a size such as \"64MB\"";
	char	   *text = json_text(options, key);
	int64		bytes;

	if (text == NULL)
		return missing;
	bytes = DatumGetInt64(input_value(input_size, text, key, what));
	if (bytes < 0)
		bad_value(key, text, what);
	return bytes;
}

static double
number(Jsonb *options, const char *key, double missing)
{
	char	   *text = json_text(options, key);
	char	   *end;
	double		value;

	if (text == NULL)
		return missing;
	value = strtod(text, &end);
	if (end == text || *end != '\0' || !(value >= 0 && value <= 1e15))
		bad_value(key, text, "a number that is not negative");
	return value;
}

static int
whole_number(Jsonb *options, const char *key, int least, int missing)
{
	char	   *text = json_text(options, key);
	char	   *end;
	double		value;

	if (text == NULL)
		return missing;
	value = strtod(text, &end);
	if (end == text || *end != '\0' ||
		!(value >= least && value <= INT_MAX) || value != (int) value)
		bad_value(key, text, psprintf("a whole number from %d on", least));
	return (int) value;
}

static bool
flag(Jsonb *options, const char *key, bool missing)
{
	char	   *text = json_text(options, key);
	bool		value;

	if (text == NULL)
		return missing;
	if (!parse_bool(text, &value))
		bad_value(key, text, "on or off");
	return value;
}

static bool
is_pair(Jsonb *options, const char *key)
{
	JsonbValue *v = getKeyJsonValueFromContainer(&options->root, key,
												 (int) strlen(key), NULL);

	return v != NULL && v->type == jbvBinary &&
		JsonContainerIsArray(v->val.binary.data) &&
		JsonContainerSize(v->val.binary.data) == 2;
}

static void
read_window(Throttle *t, Jsonb *options)
{
	static const char key[] = "not_between";
	List	   *times = json_list(options, key);
	int			seconds[2];

	t->not_from = t->not_until = -1;
	if (json_text(options, key) == NULL)
		return;
	/* other elements than texts are not in the list */
	if (list_length(times) != 2 || !is_pair(options, key))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"not_between\" must be an array of two times of day"),
				 errhint("For example: {\"not_between\": [\"08:00\", \"18:00\"]}, in the time zone of the server.")));
	for (int i = 0; i < 2; i++)
		seconds[i] = (int) (DatumGetTimeADT(input_value(input_time, list_nth(times, i), key,
														"an array of two times of day such as \"08:00\"")) /
							USECS_PER_SEC);
	t->not_from = seconds[0];
	t->not_until = seconds[1];
}

/* --- all of them ----------------------------------------------------- */

void
throttle_read(Throttle *t, Jsonb *options)
{
	t->batch_target = Max(1, duration(options, "batch_target", setting_batch_target));
	t->max_rows_per_second = number(options, "max_rows_per_second", 0);
	t->max_wal_rate = size(options, "max_wal_rate",
						   setting_max_wal_rate * INT64CONST(1024));
	t->wal_rate_of_server = json_text(options, "max_wal_rate") == NULL;
	t->max_replication_lag = duration(options, "max_replication_lag",
									  setting_max_replication_lag);
	t->max_slot_retention = size(options, "max_slot_retention",
								 setting_max_slot_retention * INT64CONST(1048576));
	t->max_archive_backlog = whole_number(options, "max_archive_backlog", 0,
										  setting_max_archive_backlog);
	t->yield_to_vacuum = flag(options, "yield_to_vacuum", setting_yield_to_vacuum);
	t->max_vacuum_rest = duration(options, "max_vacuum_rest", setting_max_vacuum_rest);
	t->max_waiters = whole_number(options, "max_waiters", -1, setting_max_waiters);
	t->nice = number(options, "nice", setting_nice);
	t->synchronous_commit = flag(options, "synchronous_commit", false);
	read_window(t, options);
}

void
throttle_check_options(Jsonb *options)
{
	Throttle	t;

	throttle_read(&t, options);
}
