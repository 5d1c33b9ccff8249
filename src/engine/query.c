/*
 * query.c
 *		Statements of the extension's own, with typed parameters, over SPI.
 *
 * Plans are kept for the life of the session by the address of their text
 * (all texts are constants of the program), since the ones of a batch run
 * thousands of times.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/snapmgr.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/query.h"

typedef struct PlanEntry
{
	const char *sql;			/* hash key: the address */
	SPIPlanPtr	plan;
} PlanEntry;

static HTAB *plans = NULL;

void
query_init(OwnQuery *query, const char *sql)
{
	query->sql = sql;
	query->nargs = 0;
	query->latest = false;
}

void
query_datum(OwnQuery *query, Oid type, Datum value, bool isnull)
{
	if (query->nargs >= QUERY_MAX_ARGS)
		elog(ERROR, "too many query arguments");
	query->types[query->nargs] = type;
	query->values[query->nargs] = value;
	query->nulls[query->nargs] = isnull ? 'n' : ' ';
	query->nargs++;
}

void
query_int8(OwnQuery *query, int64 value)
{
	query_datum(query, INT8OID, Int64GetDatum(value), false);
}

void
query_int4(OwnQuery *query, int32 value)
{
	query_datum(query, INT4OID, Int32GetDatum(value), false);
}

void
query_float8(OwnQuery *query, double value)
{
	query_datum(query, FLOAT8OID, Float8GetDatum(value), false);
}

void
query_bool(OwnQuery *query, bool value)
{
	query_datum(query, BOOLOID, BoolGetDatum(value), false);
}

void
query_oid(OwnQuery *query, Oid value)
{
	query_datum(query, OIDOID, ObjectIdGetDatum(value), false);
}

void
query_text(OwnQuery *query, const char *value)
{
	query_datum(query, TEXTOID,
				value ? CStringGetTextDatum(value) : (Datum) 0, value == NULL);
}

void
query_name(OwnQuery *query, const char *value)
{
	NameData   *name = NULL;

	if (value)
	{
		name = palloc0(sizeof(NameData));
		namestrcpy(name, value);
	}
	query_datum(query, NAMEOID, NameGetDatum(name), value == NULL);
}

void
query_jsonb(OwnQuery *query, Jsonb *value)
{
	query_datum(query, JSONBOID,
				value ? JsonbPGetDatum(value) : (Datum) 0, value == NULL);
}

static SPIPlanPtr
get_plan(const OwnQuery *query)
{
	PlanEntry  *entry;
	bool		found;

	if (plans == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = sizeof(const char *);
		ctl.entrysize = sizeof(PlanEntry);
		plans = hash_create("tenantmig plans", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	entry = hash_search(plans, &query->sql, HASH_ENTER, &found);
	if (!found)
		entry->plan = NULL;
	if (entry->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(query->sql, query->nargs,
									   (Oid *) query->types);

		if (plan == NULL)
			elog(ERROR, "could not prepare: %s: %s",
				 SPI_result_code_string(SPI_result), query->sql);
		(void) SPI_keepplan(plan);
		entry->plan = plan;
	}
	return entry->plan;
}

uint64
query_run(OwnQuery *query)
{
	Identity	saved;
	int			result;

	identity_enter_extension(&saved);
	if (query->latest)
	{
		Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

		result = SPI_execute_snapshot(get_plan(query), query->values,
									  query->nulls, snapshot, InvalidSnapshot,
									  true, false, 0);
		UnregisterSnapshot(snapshot);
	}
	else
		result = SPI_execute_plan(get_plan(query), query->values,
								  query->nulls, false, 0);
	if (result < 0)
		elog(ERROR, "could not run: %s: %s", SPI_result_code_string(result),
			 query->sql);
	identity_leave(&saved);
	return SPI_processed;
}

uint64
query_once(OwnQuery *query)
{
	uint64		processed;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	processed = query_run(query);
	(void) SPI_finish();
	return processed;
}

static Datum
get_cell(uint64 row, int column, bool *isnull)
{
	if (SPI_tuptable == NULL || row >= SPI_tuptable->numvals)
		elog(ERROR, "no such row in the result");
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						 column, isnull);
}

char *
query_get_text(uint64 row, int column)
{
	if (SPI_tuptable == NULL || row >= SPI_tuptable->numvals)
		elog(ERROR, "no such row in the result");
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						column);
}

int64
query_get_int8(uint64 row, int column, int64 null_value)
{
	bool		isnull;
	Datum		value = get_cell(row, column, &isnull);

	if (isnull)
		return null_value;
	if (SPI_gettypeid(SPI_tuptable->tupdesc, column) == INT4OID)
		return DatumGetInt32(value);
	return DatumGetInt64(value);
}

bool
query_get_bool(uint64 row, int column)
{
	bool		isnull;
	Datum		value = get_cell(row, column, &isnull);

	return !isnull && DatumGetBool(value);
}

Oid
query_get_oid(uint64 row, int column)
{
	bool		isnull;
	Datum		value = get_cell(row, column, &isnull);

	return isnull ? InvalidOid : DatumGetObjectId(value);
}

Jsonb *
query_get_jsonb(uint64 row, int column)
{
	bool		isnull;
	Datum		value = get_cell(row, column, &isnull);

	return isnull ? NULL : DatumGetJsonbPCopy(value);
}
