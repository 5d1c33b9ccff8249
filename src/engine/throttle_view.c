/*
 * throttle_view.c
 *		tenantmig.throttles(): the limits of a job, and where each stands.
 *
 * What the server shows is read here and now; what only the process at work
 * knows is taken from its progress row.
 */
#include "postgres.h"

#include "funcapi.h"
#include "utils/builtins.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/throttle_limits.h"

PG_FUNCTION_INFO_V1(tenantmig_throttles);

static double
fact(Jsonb *facts, const char *key)
{
	char	   *text = json_text(facts, key);

	return text ? strtod(text, NULL) : 0;
}

/* False: nobody works on the job, or it has not done a batch */
static bool
read_facts(int64 id, Facts *facts, char **reason)
{
	OwnQuery	query;
	MemoryContext context = CurrentMemoryContext;
	Jsonb	   *row = NULL;

	*reason = NULL;
	query_init(&query, "SELECT throttle_facts, throttle_reason "
			   "FROM tenantmig.job_progress WHERE job = $1");
	query_int8(&query, id);
	SPI_connect();
	if (query_run(&query) > 0)
	{
		MemoryContextSwitchTo(context);
		row = query_get_jsonb(0, 1);
		*reason = query_get_text(0, 2);
	}
	SPI_finish();
	facts->rows_per_second = fact(row, "rows_per_second");
	facts->wal_per_second = fact(row, "wal_per_second");
	facts->batch_ms = fact(row, "batch_ms");
	facts->waiters = (int) json_int(row, "waiters", 0);
	facts->vacuum_rested_ms = fact(row, "vacuum_rested_ms");
	return json_text(row, "batch_ms") != NULL && lock_job_pid(id) != 0;
}

/* Where the value comes from: the job, a setting, or nobody has set it */
static const char *
limit_source(const Job *job, const char *name)
{
	OwnQuery	query;
	bool		set = false;

	if (json_text(job->options, name) != NULL)
		return "option";
	query_init(&query, "SELECT source <> 'default' FROM pg_settings "
			   "WHERE name = 'tenantmig.' || $1");
	query_text(&query, name);
	SPI_connect();
	if (query_run(&query) > 0)
		set = query_get_bool(0, 1);
	SPI_finish();
	return set ? "setting" : "default";
}

static bool
names(const char *reason, const char *name)
{
	size_t		length = strlen(name);

	return reason != NULL && strncmp(reason, name, length) == 0 &&
		reason[length] == ':';
}

static Datum
text_or_null(const char *text, bool *isnull)
{
	*isnull = text == NULL;
	return text ? CStringGetTextDatum(text) : (Datum) 0;
}

static void
put_limit(ReturnSetInfo *result, const Job *job, const ThrottleLimit *limit,
		  const char *reason)
{
	Datum		values[5];
	bool		nulls[5] = {false};

	values[0] = CStringGetTextDatum(limit->name);
	values[1] = text_or_null(limit->current, &nulls[1]);
	values[2] = text_or_null(limit->limit, &nulls[2]);
	values[3] = CStringGetTextDatum(limit_source(job, limit->name));
	values[4] = BoolGetDatum(names(reason, limit->name));
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

Datum
tenantmig_throttles(PG_FUNCTION_ARGS)
{
	Job		   *job = job_get(job_argument(fcinfo));
	Throttle	throttle;
	Signals		signals;
	Facts		facts;
	Owed		owed = {0};
	Scene		scene = {.throttle = &throttle,.signals = &signals,
	.owed = &owed};
	ThrottleLimit		limits[THROTTLE_LIMITS];
	char	   *reason;

	InitMaterializedSRF(fcinfo, 0);
	throttle_read(&throttle, job->options);
	signals_read(&signals, limits_signals(&throttle), job->relid);
	if (read_facts(job->id, &facts, &reason))
		scene.facts = &facts;
	scene.sharers = 1 + list_length(lock_helpers(job->id));
	limits_judge(&scene, limits);
	for (int i = 0; i < THROTTLE_LIMITS; i++)
		put_limit((ReturnSetInfo *) fcinfo->resultinfo, job, &limits[i], reason);
	return (Datum) 0;
}
