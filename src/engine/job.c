/*
 * job.c
 *		Jobs and their steps: rows on disk and structs in memory.
 *
 * The states, and who moves a job between them:
 *
 *		planned --start--> queued --claim--> running --> succeeded
 *		                     ^  |               |  \---> failed
 *		                     |  pause           |   \--> cancelled
 *		             resume, |  v               v
 *		              retry  +--paused <------ (pause)
 *
 * A job function inserts the row (queued or planned) in the caller's
 * transaction.  Whoever holds the claim (locks.h) moves it to running and to
 * its end.  The control functions move jobs that nobody has claimed, and only
 * leave a request on those that somebody has.
 *
 * A row that says running while the claim is free, or that was recorded in
 * another cluster or database, tells of a process that is gone: such a job
 * counts as paused everywhere (job_state()).
 *
 * All statements run as the extension with search_path pinned to pg_catalog
 * (query.c), so that unqualified operators and functions are the server's own.
 */
#include "postgres.h"


#include "catalog/namespace.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "engine/step.h"

#define JOB_COLUMNS \
	"id, kind, schema_name::text, relation_name::text, arguments, options, " \
	"state, request, target, undone_by, search_path, caller, owner, " \
	"owner_name::text, home, attempts, stalled, " \
	"sqlstate, error, error_detail, error_hint, relid "

static Job *
job_from_row(uint64 row)
{
	Job		   *job = palloc0(sizeof(Job));
	const char *kind;

	job->id = query_get_int8(row, 1, 0);
	kind = query_get_text(row, 2);
	job->kind = kind;
	job->schema_name = query_get_text(row, 3);
	job->relation_name = query_get_text(row, 4);
	job->arguments = query_get_jsonb(row, 5);
	job->options = query_get_jsonb(row, 6);
	job->state = query_get_text(row, 7);
	job->request = query_get_text(row, 8);
	job->target = query_get_int8(row, 9, 0);
	job->undone_by = query_get_int8(row, 10, 0);
	job->search_path = query_get_text(row, 11);
	job->caller = query_get_oid(row, 12);
	job->owner = query_get_oid(row, 13);
	job->owner_name = query_get_text(row, 14);
	job->at_home = query_get_int8(row, 15, 0) == identity_home();
	job->attempts = (int) query_get_int8(row, 16, 0);
	job->stalled = (int) query_get_int8(row, 17, 0);
	job->sqlstate = query_get_text(row, 18);
	job->error = query_get_text(row, 19);
	job->error_detail = query_get_text(row, 20);
	job->error_hint = query_get_text(row, 21);
	job->relid = query_get_oid(row, 22);
	return job;
}

Job *
job_read(int64 id)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	Job		   *job = NULL;

	query_init(&query, "SELECT " JOB_COLUMNS
			   "FROM tenantmig.job WHERE id = $1");
	query_int8(&query, id);
	query.latest = true;
	SPI_connect();
	if (query_run(&query) > 0)
	{
		MemoryContextSwitchTo(context);
		job = job_from_row(0);
	}
	SPI_finish();
	return job;
}

/*
 * Whether the current user may see a job: his own and those on tables he owns.
 * Roles and tables are known by their OIDs, which say nothing where a job was
 * restored: there it is for superusers to look at.  A table that was dropped
 * and made again is another one.
 */
static bool
job_visible(Oid caller, bool at_home, Oid relid)
{
	if (superuser())
		return true;
	if (!at_home)
		return false;
	if (SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(caller)) &&
		has_privs_of_role(GetUserId(), caller))
		return true;
	return SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)) &&
		relation_ownercheck(relid, GetUserId());
}

bool
job_is_visible(const Job *job)
{
	return job_visible(job->caller, job->at_home, job->relid);
}

static void
check_control(const Job *job)
{
	if (!job_is_visible(job))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for job " INT64_FORMAT, job->id),
				 errdetail("Only the role that recorded it, the owner of its table and superusers may see and control it.")));
}

Job *
job_get(int64 id)
{
	Job		   *job = job_read(id);

	if (job == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("job " INT64_FORMAT " does not exist", id),
				 errhint("Look for it with: SELECT id, kind, relation, state FROM tenantmig.jobs;")));
	check_control(job);
	return job;
}

PG_FUNCTION_INFO_V1(tenantmig_job_visible);
Datum
tenantmig_job_visible(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(job_visible(PG_GETARG_OID(0),
							   PG_GETARG_INT64(1) == identity_home(),
							   PG_ARGISNULL(2) ? InvalidOid : PG_GETARG_OID(2)));
}

char *
job_relation_text(const Job *job)
{
	return job->relation_name == NULL ? pstrdup("no relation")
		: sql_name(job->schema_name, job->relation_name);
}

Oid
job_find_relation(const Job *job, Oid relid, const char *schema_name,
				  const char *relation_name)
{
	if (job->at_home)
		return SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid))
			? relid : InvalidOid;
	return get_relname_relid(relation_name, get_namespace_oid(schema_name, true));
}

Oid
job_relation(const Job *job)
{
	Oid			relid;

	if (job->relation_name == NULL)
		return InvalidOid;
	relid = job_find_relation(job, job->relid, job->schema_name,
							  job->relation_name);
	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation %s does not exist", job_relation_text(job)),
				 errdetail("Job " INT64_FORMAT " was recorded for it; a relation that was made again under its name is another one.",
						   job->id),
				 errhint("Call the function of the job for the relation that is there.")));
	return relid;
}

const char *
job_live_state(const Job *job)
{
	if (strcmp(job->state, "queued") != 0 && strcmp(job->state, "running") != 0)
		return job->state;
	if (!job->at_home)
		return "paused";
	if (strcmp(job->state, "running") == 0 && lock_job_pid(job->id) == 0)
	{
		/* It may have ended since the row was read: look again */
		Job		   *again = job_read(job->id);

		if (again == NULL || strcmp(again->state, "running") != 0)
			return again ? again->state : job->state;
		if (lock_job_pid(job->id) == 0)
			return "paused";
	}
	return job->state;
}

void
job_relation_names(Oid relid, char **schema_name, char **relation_name)
{
	*schema_name = *relation_name = NULL;
	if (OidIsValid(relid))
	{
		*relation_name = get_rel_name(relid);
		*schema_name = get_namespace_name(get_rel_namespace(relid));
	}
}

Job *
job_find_twin(const JobRequest *request)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	Job		   *twin = NULL;

	query_init(&query, "SELECT " JOB_COLUMNS "FROM tenantmig.job "
			   "WHERE kind = $1 AND relid = $2 "
			   "AND arguments = $3 AND target IS NOT DISTINCT FROM $4 "
			   "AND undone_by IS NULL AND home = $5 "
			   "AND state IN ('queued', 'running', 'paused', 'succeeded') "
			   "AND NOT EXISTS (SELECT FROM tenantmig.job u WHERE u.kind = 'undo' "
			   " AND u.target = job.id AND u.state IN ('queued', 'running', 'paused')) "
			   "ORDER BY id DESC LIMIT 1");
	query_text(&query, request->kind);
	query_oid(&query, request->relid);
	query_jsonb(&query, request->arguments);
	query_datum(&query, INT8OID, Int64GetDatum(request->target),
				request->target == 0);
	query_int8(&query, identity_home());
	SPI_connect();
	if (query_run(&query) > 0)
	{
		MemoryContextSwitchTo(context);
		twin = job_from_row(0);
	}
	SPI_finish();
	return twin;
}

/* --- state changes --------------------------------------------------- */

void
job_set_state(int64 id, const char *state)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job SET state = $2, request = NULL, "
			   "finished_at = CASE WHEN $2 IN ('succeeded', 'cancelled') "
			   "THEN clock_timestamp() ELSE finished_at END "
			   "WHERE id = $1");
	query_int8(&query, id);
	query_text(&query, state);
	(void) query_once(&query);
}

void
job_set_request(int64 id, const char *what)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job SET request = $2 WHERE id = $1");
	query_int8(&query, id);
	query_text(&query, what);
	(void) query_once(&query);
}

void
job_claimed(int64 id, Oid owner, const char *owner_name)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job SET state = 'running', "
			   "request = NULL, attempts = attempts + 1, stalled = stalled + 1, "
			   "started_at = COALESCE(started_at, clock_timestamp()), "
			   "finished_at = NULL, owner = $2, owner_name = $3, "
			   "sqlstate = NULL, error = NULL, error_detail = NULL, error_hint = NULL "
			   "WHERE id = $1");
	query_int8(&query, id);
	query_oid(&query, owner);
	query_name(&query, owner_name);
	(void) query_once(&query);

	query_init(&query, "INSERT INTO tenantmig.job_progress (job, updated_at) "
			   "VALUES ($1, clock_timestamp()) ON CONFLICT (job) DO UPDATE "
			   "SET throttle_reason = NULL, workers_reason = NULL, updated_at = clock_timestamp()");
	query_int8(&query, id);
	(void) query_once(&query);
}

void
job_failed(int64 id, const ErrorData *error)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job SET state = 'failed', "
			   "request = NULL, finished_at = clock_timestamp(), "
			   "sqlstate = $2, error = $3, error_detail = $4, error_hint = $5 "
			   "WHERE id = $1");
	query_int8(&query, id);
	query_text(&query, unpack_sql_state(error->sqlerrcode));
	query_text(&query, error->message);
	query_text(&query, error->detail);
	query_text(&query, error->hint);
	(void) query_once(&query);
}

void
job_requeued(int64 id, Oid caller, const char *search_path, Oid relid)
{
	OwnQuery	query;
	Job		   *job = job_read(id);

	if (job && !job->at_home)
		step_bind(id);
	query_init(&query, "UPDATE tenantmig.job SET state = 'queued', "
			   "request = NULL, stalled = 0, caller = $2, home = $3, "
			   "queued_at = clock_timestamp(), finished_at = NULL, "
			   "search_path = CASE WHEN home = $3 THEN search_path ELSE $4 END, "
			   "reads = CASE WHEN home = $3 THEN reads ELSE array_remove("
			   " ARRAY[to_regclass(arguments ->> 'parent')::oid], NULL) END, "
			   "relid = $5 WHERE id = $1");
	query_int8(&query, id);
	query_oid(&query, caller);
	query_int8(&query, identity_home());
	query_text(&query, search_path);
	query_oid(&query, relid);
	(void) query_once(&query);
}

void
job_set_options(int64 id, Jsonb *options)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job SET options = $2 WHERE id = $1");
	query_int8(&query, id);
	query_jsonb(&query, options);
	(void) query_once(&query);
}

void
job_set_undone(int64 id, int64 undone_by)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job SET undone_by = $2 WHERE id = $1");
	query_int8(&query, id);
	query_int8(&query, undone_by);
	(void) query_once(&query);
}

void
job_renamed(int64 id, Oid relid)
{
	OwnQuery	query;
	Job		   *job = job_read(id);
	char	   *schema_name;
	char	   *relation_name;

	step_follow_names(id);
	if (job == NULL || strcmp(job_relation_text(job), sql_relation(relid)) == 0)
		return;
	job_relation_names(relid, &schema_name, &relation_name);
	query_init(&query, "UPDATE tenantmig.job SET schema_name = $2, "
			   "relation_name = $3 WHERE id = $1");
	query_int8(&query, id);
	query_name(&query, schema_name);
	query_name(&query, relation_name);
	(void) query_once(&query);
}

Jsonb *
job_summary(int64 id)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	Jsonb	   *summary = NULL;

	query_init(&query, "SELECT summary FROM tenantmig.job WHERE id = $1");
	query_int8(&query, id);
	SPI_connect();
	if (query_run(&query) > 0)
	{
		MemoryContextSwitchTo(context);
		summary = query_get_jsonb(0, 1);
	}
	SPI_finish();
	return summary;
}

void
job_merge_summary(int64 id, Jsonb *facts)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job SET summary = summary || $2 WHERE id = $1");
	query_int8(&query, id);
	query_jsonb(&query, facts);
	(void) query_once(&query);
}

void
job_add_error(int64 id, const char *relation, Jsonb *key,
			  const char *sqlstate, const char *message)
{
	OwnQuery	query;

	query_init(&query, "INSERT INTO tenantmig.job_error "
			   "(job, relation, key, sqlstate, message) "
			   "VALUES ($1, $2, $3, $4, $5)");
	query_int8(&query, id);
	query_text(&query, relation);
	query_jsonb(&query, key);
	query_text(&query, sqlstate);
	query_text(&query, message);
	(void) query_once(&query);
}

bool
job_has_row_error(int64 id, const char *relation, Jsonb *key)
{
	OwnQuery	query;

	query_init(&query, "SELECT FROM tenantmig.job_error "
			   "WHERE job = $1 AND relation = $2 AND key = $3");
	query_int8(&query, id);
	query_text(&query, relation);
	query_jsonb(&query, key);
	return query_once(&query) > 0;
}

void
job_forget_row_errors(int64 id)
{
	OwnQuery	query;

	query_init(&query, "DELETE FROM tenantmig.job_error "
			   "WHERE job = $1 AND key IS NOT NULL");
	query_int8(&query, id);
	(void) query_once(&query);
}

/* --- what comes first ------------------------------------------------ */

int64
job_unmet_dependency(int64 id, bool *failed)
{
	OwnQuery	query;
	int64		other = 0;

	*failed = false;
	query_init(&query, "SELECT d.id, d.state IN ('failed', 'cancelled') "
			   "FROM tenantmig.job j JOIN tenantmig.job d ON d.id = ANY (j.depends) "
			   "WHERE j.id = $1 AND d.state <> 'succeeded' "
			   "ORDER BY d.state IN ('failed', 'cancelled') DESC, d.id LIMIT 1");
	query_int8(&query, id);
	SPI_connect();
	if (query_run(&query) > 0)
	{
		other = query_get_int8(0, 1, 0);
		*failed = query_get_bool(0, 2);
	}
	SPI_finish();
	return other;
}

#define FEEDERS \
	"FROM tenantmig.job r JOIN tenantmig.job f " \
	"ON f.relid = ANY (r.reads) AND f.home = r.home AND f.id <> r.id " \
	"WHERE r.state = 'queued' AND r.home = $3 " \
	"AND ($1 = 0 OR r.id = $1) AND ($2 = 0 OR f.id = $2) " \
	"AND f.feeds AND f.state IN ('queued', 'running', 'paused') " \
	"AND NOT f.id = ANY (r.depends) " \
	"AND NOT EXISTS (WITH RECURSIVE first (id) AS (SELECT f.id UNION " \
	" SELECT unnest(j.depends) FROM first JOIN tenantmig.job j USING (id)) " \
	" SELECT FROM first WHERE first.id = r.id) "

static uint64
run_on_feeders(const char *sql, bool latest, int64 reader, int64 feeder)
{
	OwnQuery	query;

	query_init(&query, sql);
	query.latest = latest;
	query_int8(&query, reader);
	query_int8(&query, feeder);
	query_int8(&query, identity_home());
	return query_once(&query);
}

/*
 * Under a lock, since two that add to the graph at the same time could make
 * their jobs wait for each other; not taken where there is nothing to add.
 */
void
job_add_feeders(int64 reader, int64 feeder)
{
	if (run_on_feeders("SELECT " FEEDERS "LIMIT 1", true, reader, feeder) == 0)
		return;
	lock_recording(InvalidOid);
	(void) run_on_feeders("UPDATE tenantmig.job c SET depends = c.depends || p.ids "
						  "FROM (SELECT r.id, array_agg(f.id ORDER BY f.id) AS ids "
						  FEEDERS "GROUP BY r.id) p "
						  "WHERE c.id = p.id AND c.state = 'queued'",
						  false, reader, feeder);
}

/* The row is locked as the claim locks it, so that nobody claims it between */
void
job_requeue_interrupted(void)
{
	OwnQuery	query;
	uint64		count;
	int64	   *ids;

	SPI_connect();
	query_init(&query, "SELECT id FROM tenantmig.job "
			   "WHERE state = 'running' AND home = $1 ORDER BY id FOR UPDATE");
	query_int8(&query, identity_home());
	count = query_run(&query);
	ids = palloc(sizeof(int64) * Max(count, 1));
	for (uint64 i = 0; i < count; i++)
		ids[i] = query_get_int8(i, 1, 0);
	for (uint64 i = 0; i < count; i++)
	{
		if (lock_job_pid(ids[i]) != 0)
			continue;
		query_init(&query, "UPDATE tenantmig.job SET state = 'queued', "
				   "queued_at = clock_timestamp() WHERE id = $1");
		query_int8(&query, ids[i]);
		query_run(&query);
	}
	SPI_finish();
}

List *
job_ready_list(int most)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	uint64		count;
	List	   *ready = NIL;

	query_init(&query, "SELECT j.id FROM tenantmig.job j "
			   "WHERE j.state = 'queued' "
			   "AND j.home = $1 AND NOT EXISTS (SELECT FROM tenantmig.job d "
			   " WHERE d.id = ANY (j.depends) "
			   " AND d.state IN ('queued', 'running', 'paused')) "
			   "ORDER BY j.id LIMIT $2");
	query_int8(&query, identity_home());
	query_int8(&query, most);
	SPI_connect();
	count = query_run(&query);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < count; i++)
	{
		int64	   *id = palloc(sizeof(int64));

		*id = query_get_int8(i, 1, 0);
		ready = lappend(ready, id);
	}
	SPI_finish();
	return ready;
}
