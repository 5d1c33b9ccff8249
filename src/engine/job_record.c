/*
 * job_record.c
 *		Recording a job: once for a call, however often it is made.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "engine/step.h"
#include "engine/worker.h"

static Datum
oid_array(List *oids)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(1, list_length(oids)));
	ListCell   *lc;

	foreach(lc, oids)
		values[foreach_current_index(lc)] = ObjectIdGetDatum(lfirst_oid(lc));
	return PointerGetDatum(construct_array(values, list_length(oids), OIDOID,
										   sizeof(Oid), true, TYPALIGN_INT));
}

static Oid
relation_owner(Oid relid)
{
	HeapTuple	tuple;
	Oid			owner;

	if (!OidIsValid(relid))
		return GetUserId();
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* Insert the row; the jobs that must come first are found in the same breath */
static int64
insert_job(const JobRequest *request, const char *state)
{
	OwnQuery	query;
	char	   *schema_name;
	char	   *relation_name;
	Oid			owner = relation_owner(request->relid);
	int64		id;
	List	   *touches = list_copy(request->reads);

	if (OidIsValid(request->relid))
		touches = lappend_oid(touches, request->relid);
	job_relation_names(request->relid, &schema_name, &relation_name);

	query_init(&query,
			   "INSERT INTO tenantmig.job (kind, schema_name, relation_name, "
			   "arguments, options, state, target, caller, owner, owner_name, "
			   "search_path, home, relid, reads, feeds, queued_at, depends) "
			   "SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $14, $15, $16, "
			   "CASE WHEN $6 = 'queued' THEN clock_timestamp() END, "
			   "COALESCE((SELECT array_agg(d.id ORDER BY d.id) "
			   " FROM tenantmig.job d WHERE d.home = $12 "
			   " AND d.state IN ('queued', 'running', 'paused') "
			   " AND d.relid = ANY ($13)), '{}') "
			   "RETURNING id");
	query_text(&query, request->kind);
	query_name(&query, schema_name);
	query_name(&query, relation_name);
	query_jsonb(&query, request->arguments);
	query_jsonb(&query, request->options ? request->options
				: json_end(json_begin()));
	query_text(&query, state);
	query_datum(&query, INT8OID, Int64GetDatum(request->target),
				request->target == 0);
	query_oid(&query, GetUserId());
	query_oid(&query, owner);
	query_name(&query, GetUserNameFromId(owner, false));
	query_text(&query, namespace_search_path);
	query_int8(&query, identity_home());
	query_datum(&query, OIDARRAYOID, oid_array(touches), false);
	query_oid(&query, request->relid);
	query_datum(&query, OIDARRAYOID, oid_array(request->reads), false);
	query_bool(&query, request->feeds);

	SPI_connect();
	query_run(&query);
	id = query_get_int8(0, 1, 0);
	SPI_finish();
	if (request->feeds && strcmp(state, "queued") == 0)
		job_add_feeders(0, id);
	return id;
}

static bool
same_options(const JobRequest *request, const Job *job)
{
	return request->options == NULL || job->options == NULL ||
		compareJsonbContainers(&request->options->root, &job->options->root) == 0;
}

int64
job_reuse(const JobRequest *request)
{
	const StepOps *ops = step_ops(request->kind);
	Identity	saved;
	Job		   *twin;
	bool		holds;

	if (OidIsValid(request->relid))
		lock_recording(request->relid);
	twin = job_find_twin(request);
	if (twin == NULL)
		return 0;
	if (strcmp(twin->state, "succeeded") != 0)
	{
		/* Nobody at work, though somebody should be: ask again */
		if (strcmp(twin->state, "paused") != 0 && lock_job_pid(twin->id) == 0)
		{
			twin->state = "queued";
			worker_ask_at_commit(twin->id);
		}
		ereport(NOTICE,
				(errmsg("job " INT64_FORMAT ": %s is %s already", twin->id,
						request->describe, twin->state),
				 same_options(request, twin) ? 0
				 : errdetail("It keeps the options it has; throttles can be changed with tenantmig.alter_job."),
				 strcmp(twin->state, "paused") == 0
				 ? errhint("Go on with it with: SELECT tenantmig.resume(" INT64_FORMAT ");",
						   twin->id)
				 : errhint("Wait for it with: CALL tenantmig.wait(" INT64_FORMAT ");",
						   twin->id)));
		return twin->id;
	}
	if (ops->holds == NULL)
		return 0;
	identity_enter_owner(&saved, relation_owner(request->relid), NULL);
	holds = ops->holds(twin, request->relid);
	identity_leave(&saved);
	if (!holds)
		return 0;
	ereport(NOTICE,
			(errmsg("job " INT64_FORMAT " has done this already: %s",
					twin->id, request->describe)));
	return twin->id;
}

static void
plan_job(int64 id, const JobRequest *request)
{
	const StepOps *ops = step_ops(request->kind);
	Identity	saved;
	Jsonb	   *plan;
	OwnQuery	query;

	identity_enter_owner(&saved, relation_owner(request->relid), NULL);
	plan = ops->plan(job_read(id), request->relid);
	identity_leave(&saved);

	query_init(&query, "UPDATE tenantmig.job SET plan = $2 WHERE id = $1");
	query_int8(&query, id);
	query_jsonb(&query, plan);
	(void) query_once(&query);
	ereport(NOTICE,
			(errmsg("job " INT64_FORMAT ": %s planned, nothing was changed",
					id, request->describe),
			 errhint("See the plan with SELECT tenantmig.report(" INT64_FORMAT "); and run it with SELECT tenantmig.start(" INT64_FORMAT ");",
					 id, id)));
}

int64
job_submit(const JobRequest *request)
{
	int64		id;

	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot record a job during recovery"),
				 errhint("Call the function on the primary server.")));
	if (request->dry_run)
	{
		id = insert_job(request, "planned");
		plan_job(id, request);
		return id;
	}
	id = job_reuse(request);
	if (id != 0)
		return id;
	id = insert_job(request, "queued");
	worker_ask_at_commit(id);
	ereport(NOTICE,
			(errmsg("job " INT64_FORMAT ": %s queued", id, request->describe),
			 errhint("Watch it with SELECT * FROM tenantmig.stat_progress WHERE job = " INT64_FORMAT "; wait for it with CALL tenantmig.wait(" INT64_FORMAT ");",
					 id, id)));
	return id;
}

int64
job_record(const JobRequest *request)
{
	return insert_job(request, "running");
}

void
job_record_step(int64 job, Oid relid, const char *statement,
				const char *inverse, LOCKMODE mode)
{
	(void) step_write(job, STEP_STATEMENT, relid, "done", statement,
					  inverse, false, mode);
}

void
job_record_end(int64 job)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job SET state = 'succeeded', "
			   "started_at = created_at, finished_at = clock_timestamp(), "
			   "attempts = 1 WHERE id = $1");
	query_int8(&query, job);
	(void) query_once(&query);
}
