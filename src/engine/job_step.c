/*
 * job_step.c
 *		The journal: what a job does, with the inverse of each step.
 *
 * A step that is one transaction is written in that transaction, as done.  One
 * that is not (many batches, a statement at the top level) is written as
 * running, and committed, before it starts.  So whatever has taken effect has
 * its inverse on disk.  Planned steps are those of a dry run.
 *
 * Statements and inverses are templates (template.h) for the step's relation,
 * which is known by its OID where the job is at home, by its name elsewhere.
 * So a step is the same, and is found again, whatever the table is called.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/job.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "engine/template.h"

PG_FUNCTION_INFO_V1(tenantmig_step_text);

static const char *const step_kind_names[] = {
	[STEP_STATEMENT] = "statement",
	[STEP_TOPLEVEL] = "toplevel",
	[STEP_BATCHES] = "batches",
};

int
step_write(int64 job, StepKind kind, Oid relid, const char *state,
		   const char *statement, const char *inverse, bool temporary,
		   LOCKMODE mode)
{
	OwnQuery	query;
	int			position;

	SPI_connect();
	query_init(&query, "UPDATE tenantmig.job_step SET state = $3, "
			   "finished_at = CASE WHEN $3 = 'done' THEN clock_timestamp() END, "
			   "inverse = COALESCE($4, inverse) "
			   "WHERE job = $1 AND relid = $5 AND state <> 'planned' "
			   "AND (statement = $2 OR (kind = 'batches' AND kind = $6)) "
			   "RETURNING position");
	query_int8(&query, job);
	query_text(&query, statement);
	query_text(&query, state);
	query_text(&query, inverse);
	query_oid(&query, relid);
	query_text(&query, step_kind_names[kind]);
	if (query_run(&query) == 0)
	{
		query_init(&query, "INSERT INTO tenantmig.job_step (job, position, kind, "
				   "relation, state, statement, inverse, temporary, lock_mode, "
				   "relid, started_at, finished_at) "
				   "SELECT $1, COALESCE((SELECT max(position) "
				   " FROM tenantmig.job_step WHERE job = $1), 0) + 1, "
				   "$2, $3, $4, $5, $6, $7, $8, $9, "
				   "CASE WHEN $4 <> 'planned' THEN clock_timestamp() END, "
				   "CASE WHEN $4 = 'done' THEN clock_timestamp() END "
				   "RETURNING position");
		query_int8(&query, job);
		query_text(&query, step_kind_names[kind]);
		query_text(&query, sql_relation(relid));
		query_text(&query, state);
		query_text(&query, statement);
		query_text(&query, inverse);
		query_bool(&query, temporary);
		query_text(&query, mode == NoLock ? NULL : lock_mode_name(mode));
		query_oid(&query, relid);
		query_run(&query);
	}
	position = (int) query_get_int8(0, 1, 0);
	SPI_finish();
	return position;
}

void
step_set_state(int64 job, int position, const char *state)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job_step SET state = $3, "
			   "finished_at = clock_timestamp() "
			   "WHERE job = $1 AND position = $2");
	query_int8(&query, job);
	query_int4(&query, position);
	query_text(&query, state);
	(void) query_once(&query);
}

void
step_keep(int64 job, Oid relid, const char *statement)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job_step SET temporary = false "
			   "WHERE job = $1 AND relid = $2 AND statement = $3");
	query_int8(&query, job);
	query_oid(&query, relid);
	query_text(&query, statement);
	(void) query_once(&query);
}

void
step_forget_inverse(int64 job, Oid relid, const char *statement)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job_step SET inverse = NULL "
			   "WHERE job = $1 AND relid = $2 AND statement = $3");
	query_int8(&query, job);
	query_oid(&query, relid);
	query_text(&query, statement);
	(void) query_once(&query);
}

const char *
step_state(int64 job, Oid relid, const char *statement)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	char	   *state = NULL;

	query_init(&query, "SELECT state FROM tenantmig.job_step "
			   "WHERE job = $1 AND relid = $2 AND statement = $3 "
			   "AND state <> 'planned'");
	query_int8(&query, job);
	query_oid(&query, relid);
	query_text(&query, statement);
	SPI_connect();
	if (query_run(&query) > 0)
	{
		MemoryContextSwitchTo(context);
		state = query_get_text(0, 1);
	}
	SPI_finish();
	return state;
}

List *
step_list(int64 job)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	uint64		count;
	List	   *steps = NIL;

	query_init(&query, "SELECT position, kind, relation, state, statement, "
			   "inverse, temporary, lock_mode, relid FROM tenantmig.job_step "
			   "WHERE job = $1 ORDER BY position");
	query_int8(&query, job);
	SPI_connect();
	count = query_run(&query);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < count; i++)
	{
		JobStep    *step = palloc0(sizeof(JobStep));
		char	   *kind = query_get_text(i, 2);

		step->position = (int) query_get_int8(i, 1, 0);
		for (int k = 0; k < lengthof(step_kind_names); k++)
			if (strcmp(kind, step_kind_names[k]) == 0)
				step->kind = k;
		step->relation = query_get_text(i, 3);
		step->state = query_get_text(i, 4);
		step->statement = query_get_text(i, 5);
		step->inverse = query_get_text(i, 6);
		step->temporary = query_get_bool(i, 7);
		step->lock_mode = query_get_text(i, 8);
		step->relid = query_get_oid(i, 9);
		steps = lappend(steps, step);
	}
	SPI_finish();
	return steps;
}

void
step_forget_planned(int64 job)
{
	OwnQuery	query;

	query_init(&query, "DELETE FROM tenantmig.job_step "
			   "WHERE job = $1 AND state = 'planned'");
	query_int8(&query, job);
	(void) query_once(&query);
}

/* --- the relation of a step ------------------------------------------- */

Oid
step_relation(const Job *job, const JobStep *step)
{
	char	   *schema;
	char	   *name;

	if (!sql_split_name(step->relation, &schema, &name))
		return InvalidOid;
	return job_find_relation(job, step->relid, schema, name);
}

/* Whether anything has changed is asked first: most often nothing has */
void
step_follow_names(int64 job)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job_step s "
			   "SET relation = format('%I.%I', n.nspname, c.relname) "
			   "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
			   "WHERE s.job = $1 AND c.oid = s.relid "
			   "AND s.relation <> format('%I.%I', n.nspname, c.relname)");
	query_int8(&query, job);
	(void) query_once(&query);
}

void
step_bind(int64 job)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job_step "
			   "SET relid = COALESCE(to_regclass(relation)::oid, 0) WHERE job = $1");
	query_int8(&query, job);
	(void) query_once(&query);
}

/* A template for people: with the name that its relation has, or had */
Datum
tenantmig_step_text(PG_FUNCTION_ARGS)
{
	char	   *template;
	char	   *result = NULL;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2) || PG_ARGISNULL(3))
		PG_RETURN_NULL();
	template = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (PG_GETARG_INT64(1) == identity_home())
		result = template_render(template, PG_GETARG_OID(2));
	if (result == NULL)
		result = template_render_name(template,
									  text_to_cstring(PG_GETARG_TEXT_PP(3)));
	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(result));
}
