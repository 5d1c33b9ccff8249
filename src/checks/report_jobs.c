/*
 * report_jobs.c
 *		Reading jobs for the report.
 *
 * One statement reads everything about the jobs as one jsonb object each, so
 * that a report is of one moment.  Only the state comes from elsewhere: a job
 * whose process is gone is paused, whatever its row says (job_live_state()).
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"

#include "checks/report.h"
#include "engine/compat.h"
#include "engine/json.h"
#include "engine/query.h"

/*
 * $1: ids; $2: whether it is one job.
 *
 * superseded_by is a later job among them that made the same call in earnest.
 * Errors are grouped, with the keys of the first three rows of each group.
 */
static const char *const read_sql =
	"SELECT jsonb_build_object("
	" 'job', j.id, 'kind', j.kind, 'relation', r.relation, "
	" 'column', COALESCE(t.column_name, r.named_column), "
	" 'owner', j.owner_name, 'state', s.state, 'phase', s.phase, "
	" 'attempts', j.attempts, 'restored', s.phase = 'restored from a dump or a copy', "
	" 'created', j.created_at, 'started', j.started_at, 'completed', j.finished_at, "
	" 'elapsed_ms', round(extract(epoch FROM COALESCE(j.finished_at, "
	"   CASE WHEN s.state = 'running' THEN clock_timestamp() END) - j.started_at) * 1000), "
	" 'target', j.target, 'undone_by', j.undone_by, "
	" 'superseded_by', CASE WHEN j.last_of_call > j.id THEN j.last_of_call END, "
	" 'summary', j.summary, 'plan', j.plan, "
	" 'phase_total', p.rows_total, 'phase_done', p.rows_done, "
	" 'throttle_reason', p.throttle_reason, 'wal_bytes', p.wal_bytes, "
	" 'sqlstate', j.sqlstate, 'error', j.error, "
	" 'error_detail', j.error_detail, 'error_hint', j.error_hint) || "
	"jsonb_build_object("
	" 'rows_failed', e.rows_failed, 'error_groups', e.groups, 'errors', e.errors, "
	" 'steps', st.steps, 'can_undo', st.can_undo, 'later_jobs', l.later, "
	" 'column_exists', t.column_name IS NOT NULL, 'not_null', t.not_null, "
	" 'indexed', t.indexed, 'rls', t.rls, 'via', t.via, "
	" 'filled', COALESCE(o.filled, false), 'open_kinds', COALESCE(o.open_kinds, '[]')) "
	"FROM (SELECT jj.*, max(jj.id) FILTER (WHERE jj.state NOT IN ('planned', 'cancelled')) "
	"        OVER (PARTITION BY jj.kind, jj.schema_name, jj.relation_name, "
	"              jj.arguments, jj.target) AS last_of_call "
	"      FROM unnest($1) AS v(id) JOIN tenantmig.job jj ON jj.id = v.id) j "
	"LEFT JOIN tenantmig.job_progress p ON p.job = j.id "
	"CROSS JOIN LATERAL (SELECT CASE WHEN j.relation_name IS NOT NULL "
	"    THEN format('%I.%I', j.schema_name, j.relation_name) END AS relation, "
	"  COALESCE(j.arguments ->> 'column', j.arguments -> 'columns' ->> 0) AS named_column) r "
	"CROSS JOIN LATERAL (SELECT tenantmig.job_state(j.id) AS state, "
	"  tenantmig.job_phase(j.id) AS phase OFFSET 0) s "

	/* the table as it is now: what there is left to do */
	"LEFT JOIN LATERAL (SELECT a.attname::text AS column_name, "
	"   " COLUMN_IS_NOT_NULL("a") " AS not_null, "
	"   c.relrowsecurity AS rls, "
	"   EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid "
	"     AND i.indpred IS NULL AND i.indkey[0] = a.attnum) AS indexed, "
	"   (SELECT k.conname::text FROM pg_constraint k JOIN pg_attribute pa "
	"      ON pa.attrelid = k.confrelid AND pa.attname = a.attname AND NOT pa.attisdropped "
	"    WHERE k.conrelid = c.oid AND k.contype = 'f' AND k.confrelid <> c.oid "
	"    ORDER BY k.conname LIMIT 1) AS via "
	"  FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid "
	"  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
	"  WHERE n.nspname = j.schema_name AND c.relname = j.relation_name "
	"  AND (a.attname = r.named_column OR quote_ident(a.attname) = r.named_column) "
	"  LIMIT 1) t ON true "

	/* other jobs on the same column */
	"LEFT JOIN LATERAL (SELECT "
	"   bool_or(x.state = 'succeeded' AND (x.kind = 'backfill' "
	"     AND COALESCE(x.summary -> 'residue', '0') = '0' "
	"     OR x.kind = 'add_tenant_column' AND x.arguments ->> 'value' IS NOT NULL "
	"     AND EXISTS (SELECT FROM tenantmig.job_step xs WHERE xs.job = x.id))) AS filled, "
	"   jsonb_agg(DISTINCT x.kind) FILTER (WHERE x.state IN ('queued', 'running', 'paused')) "
	"     AS open_kinds "
	"  FROM tenantmig.job x WHERE x.schema_name = j.schema_name "
	"  AND x.relation_name = j.relation_name AND x.undone_by IS NULL "
	"  AND COALESCE(x.arguments ->> 'column', r.named_column) = r.named_column) o ON true "

	/* what undo() would refuse for */
	"LEFT JOIN LATERAL (SELECT jsonb_agg(jsonb_build_object('job', x.id) ORDER BY x.id DESC) AS later "
	"  FROM tenantmig.job x WHERE $2 AND j.kind IN ('add_tenant_column', 'backfill') "
	"  AND x.id > j.id AND x.kind <> 'undo' AND x.undone_by IS NULL "
	"  AND x.state IN ('queued', 'running', 'paused', 'succeeded') "
	"  AND x.home = j.home AND (x.relid = j.relid OR j.relid = ANY (x.reads)) "
	"  AND COALESCE(x.arguments ->> 'column', r.named_column) = r.named_column) l ON true "

	"LEFT JOIN LATERAL (SELECT "
	"   COALESCE(bool_or(x.inverse IS NOT NULL AND x.state IN ('running', 'done')), false) "
	"     AS can_undo, "
	"   jsonb_agg(jsonb_build_object('position', x.position, 'kind', x.kind, "
	"    'relation', tenantmig.step_text('%R', j.home, x.relid, x.relation), "
	"    'state', x.state, "
	"    'statement', tenantmig.step_text(x.statement, j.home, x.relid, x.relation), "
	"    'inverse', tenantmig.step_text(x.inverse, j.home, x.relid, x.relation), "
	"    'temporary', x.temporary, 'lock', x.lock_mode, "
	"    'elapsed_ms', CASE WHEN x.state <> 'undone' THEN "
	"      round(extract(epoch FROM x.finished_at - x.started_at) * 1000) END) "
	"    ORDER BY x.position) FILTER (WHERE $2) AS steps "
	"  FROM tenantmig.job_step x WHERE x.job = j.id) st ON true "

	"LEFT JOIN LATERAL (SELECT "
	"   (SELECT count(DISTINCT (x.relation, x.key)) FROM tenantmig.job_error x "
	/* 23000: a row that has another value than the source; nothing failed */
	"    WHERE x.job = j.id AND x.key IS NOT NULL AND x.sqlstate <> '23000') AS rows_failed, "
	"   max(g.groups) AS groups, "
	"   jsonb_agg(jsonb_build_object('sqlstate', g.sqlstate, 'message', g.message, "
	"    'relation', g.relation, 'count', g.count, 'examples', COALESCE(k.keys, '[]')) "
	"    ORDER BY g.count DESC, g.first, g.message) AS errors "
	"  FROM (SELECT x.sqlstate, x.message, x.relation, count(*) AS count, "
	"          min(x.at) AS first, count(*) OVER () AS groups "
	"        FROM tenantmig.job_error x WHERE x.job = j.id "
	"        GROUP BY x.sqlstate, x.message, x.relation "
	"        ORDER BY count(*) DESC, min(x.at), x.message LIMIT 20) g "
	"  LEFT JOIN LATERAL (SELECT jsonb_agg(y.key ORDER BY y.at, y.key) AS keys "
	"    FROM (SELECT x.key, x.at FROM tenantmig.job_error x WHERE x.job = j.id "
	"          AND x.sqlstate = g.sqlstate AND x.message = g.message "
	"          AND x.relation IS NOT DISTINCT FROM g.relation AND x.key IS NOT NULL "
	"          ORDER BY x.at, x.key LIMIT 3) y) k ON true) e ON true "
	"ORDER BY j.id";

static const char *
status_in_words(const ReportJob *job)
{
	static const char *const words[][2] = {
		{"planned", "planned"}, {"queued", "waiting"},
		{"running", "in progress"}, {"paused", "paused"},
		{"succeeded", "completed"}, {"failed", "failed"},
		{"cancelled", "cancelled"},
	};

	if (job->undone_by != 0)
		return "undone";
	for (int i = 0; i < lengthof(words); i++)
		if (strcmp(job->state, words[i][0]) == 0)
			return words[i][1];
	return job->state;
}

bool
report_has_status(const ReportJob *job, const char *status)
{
	return strcmp(job->status, status) == 0;
}

/*
 * Rows that the job had to change, has changed and has left.  A job that ended
 * well put the numbers down; until then its progress is what is known.  What a
 * completed job has left is known only if it has counted it; while a job is
 * open, such a count would be of an earlier attempt.
 */
static void
count_rows(ReportJob *job)
{
	bool		planned = strcmp(job->state, "planned") == 0;
	bool		succeeded = strcmp(job->state, "succeeded") == 0;
	Jsonb	   *recorded = planned ? job->plan : job->summary;

	job->rows_total = job->rows_changed = job->rows_left = -1;
	job->changes_rows = strcmp(job->kind, "backfill") == 0 ||
		json_int(job->summary, "rows_changed", -1) >= 0;
	if (!job->changes_rows)
		return;
	job->rows_total = json_int(recorded, "rows_total",
							   json_int(job->facts, "phase_total", -1));
	job->rows_changed = json_int(job->summary, "rows_changed",
								 json_int(job->facts, "phase_done", 0));
	if (succeeded || strcmp(job->state, "failed") == 0)
		job->rows_left = json_int(job->summary, "residue", -1);
	if (job->rows_left < 0 && job->rows_total >= 0 && !succeeded)
		job->rows_left = Max(job->rows_total - job->rows_changed, 0);
}

static ReportJob *
job_from_facts(Jsonb *facts)
{
	ReportJob  *job = palloc0(sizeof(ReportJob));

	job->facts = facts;
	job->id = json_int(facts, "job", 0);
	job->kind = json_text(facts, "kind");
	job->relation = json_text(facts, "relation");
	job->column = json_text(facts, "column");
	job->state = json_text(facts, "state");
	job->summary = document_get(facts, "summary");
	job->plan = document_get(facts, "plan");
	job->elapsed_ms = json_int(facts, "elapsed_ms", -1);
	job->rows_failed = json_int(facts, "rows_failed", 0);
	job->undone_by = json_int(facts, "undone_by", 0);
	job->superseded_by = json_int(facts, "superseded_by", 0);
	job->stands = job->undone_by == 0 && job->superseded_by == 0;
	job->status = status_in_words(job);
	count_rows(job);
	return job;
}

static Datum
id_array(List *ids)
{
	ArrayBuildState *state = initArrayResult(INT8OID, CurrentMemoryContext, false);
	ListCell   *lc;

	foreach(lc, ids)
		state = accumArrayResult(state, Int64GetDatum(*(int64 *) lfirst(lc)),
								 false, INT8OID, CurrentMemoryContext);
	return makeArrayResult(state, CurrentMemoryContext);
}

List *
report_read_jobs(List *ids, bool single)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	uint64		count;
	List	   *jobs = NIL;

	query_init(&query, read_sql);
	query_datum(&query, INT8ARRAYOID, id_array(ids), false);
	query_bool(&query, single);
	SPI_connect();
	count = query_run(&query);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < count; i++)
		jobs = lappend(jobs, job_from_facts(query_get_jsonb(i, 1)));
	SPI_finish();
	return jobs;
}
