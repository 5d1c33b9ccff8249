/*
 * source_circle.c
 *		Tables that would take their tenant from each other.
 *
 * Each of them would find its parents without a value, and fail.  Looked for
 * among the backfills that are open, or whose trigger was kept, when a job is
 * recorded and when it starts.  A table that refers to itself is no circle.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "steps/source.h"

/* The way from a table to another one, as text, or NULL */
static char *
find_way(Oid from, Oid to, const char *column, int64 but)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	char	   *way = NULL;

	query_init(&query,
			   "WITH RECURSIVE step AS ("
			   "SELECT relid, reads[1] AS parent, arguments ->> 'via' AS via "
			   "FROM tenantmig.job WHERE kind = 'backfill' AND arguments ? 'via' "
			   "AND arguments ->> 'column' = $3 AND id <> $4 AND home = $5 "
			   "AND (state IN ('queued', 'running', 'paused') "
			   " OR state = 'succeeded' AND EXISTS (SELECT FROM pg_trigger t "
			   "  WHERE t.tgrelid = relid AND t.tgname ~ format('^zz_tenantmig_%s_', id)))), "
			   "way (relid, passed, text) AS (SELECT $1, ARRAY[$1], '' COLLATE \"C\" UNION ALL "
			   "SELECT step.parent, passed || step.parent, "
			   "text || format(', which takes it from %I.%I (%I)', n.nspname, c.relname, step.via) "
			   "FROM way JOIN step ON step.relid = way.relid AND way.relid <> $2 "
			   "AND step.parent <> ALL (passed) "
			   "JOIN pg_class c ON c.oid = step.parent "
			   "JOIN pg_namespace n ON n.oid = c.relnamespace) "
			   "SELECT text FROM way WHERE relid = $2 ORDER BY length(text), text LIMIT 1");
	query_oid(&query, from);
	query_oid(&query, to);
	query_text(&query, column);
	query_int8(&query, but);
	query_int8(&query, identity_home());
	SPI_connect();
	if (query_run(&query) > 0)
	{
		MemoryContextSwitchTo(context);
		way = query_get_text(0, 1);
	}
	SPI_finish();
	return way;
}

void
source_check_circle(const Source *source, int64 job)
{
	char	   *way;

	if (source->kind != SOURCE_VIA || source->parent == source->relid)
		return;
	way = find_way(source->parent, source->relid, source->column, job);
	if (way == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s would take its tenant from itself",
					sql_relation(source->relid)),
			 errdetail("%s takes it from %s (%s)%s.", sql_relation(source->relid),
					   sql_relation(source->parent),
					   quote_identifier(source->via), way),
			 errhint("Give one of these tables its tenant from a value or an expression; or say what becomes of rows that get none: options {\"on_orphan\": \"leave\"} or {\"on_orphan\": \"assign\", \"orphan_value\": \"...\"}.")));
}
