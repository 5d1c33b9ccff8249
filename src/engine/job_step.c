/*
 * job_step.c
 *		The journal: what a job does, with the inverse of each step.
 *
 * A step that is one transaction is written in that transaction, as done.  One
 * that is not (many batches, a statement at the top level) is written as
 * running, and committed, before it starts.  So whatever has taken effect has
 * its inverse on disk.  Planned steps are those of a dry run.
 */
#include "postgres.h"

#include <ctype.h>

#include "catalog/namespace.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/job.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/sqltext.h"

PG_FUNCTION_INFO_V1(tenantmig_step_inverse);

static const char *const step_kind_names[] = {
	[STEP_STATEMENT] = "statement",
	[STEP_TOPLEVEL] = "toplevel",
	[STEP_BATCHES] = "batches",
};

/* --- inverses -------------------------------------------------------- */

char *
step_template(const char *text)
{
	StringInfoData buf;

	if (text == NULL)
		return NULL;
	initStringInfo(&buf);
	for (const char *p = text; *p; p++)
	{
		if (*p == '%')
			appendStringInfoChar(&buf, '%');
		appendStringInfoChar(&buf, *p);
	}
	return buf.data;
}

/*
 * A template with its names.  %R becomes "relation"; the other relations are
 * looked up, and *unknown is set if one is not there, or was recorded where its
 * OID means nothing.
 */
static char *
render(const char *template, const char *relation, bool at_home,
	   bool *names_relation, bool *unknown)
{
	StringInfoData buf;

	*names_relation = *unknown = false;
	initStringInfo(&buf);
	for (const char *p = template; *p; p++)
	{
		char	   *end;

		if (*p != '%')
			appendStringInfoChar(&buf, *p);
		else if (p[1] == 'R')
		{
			*names_relation = true;
			appendStringInfoString(&buf, relation ? relation : "?");
			p++;
		}
		else if (isdigit((unsigned char) p[1]))
		{
			Oid			relid = (Oid) strtoul(p + 1, &end, 10);
			char	   *name = at_home ? sql_relation(relid) : NULL;

			if (*end != 'R')
				elog(ERROR, "invalid inverse: %s", template);
			*unknown |= name == NULL;
			appendStringInfoString(&buf, name ? name : "?");
			p = end;
		}
		else if (p[1] == '%')
			appendStringInfoChar(&buf, *p++);
		else
			elog(ERROR, "invalid inverse: %s", template);
	}
	return buf.data;
}

static Oid
relation_by_name(const char *qualified)
{
	RangeVar   *name = makeRangeVarFromNameList(stringToQualifiedNameListCompat(qualified));
	Oid			schema = name->schemaname
		? get_namespace_oid(name->schemaname, true) : InvalidOid;

	return OidIsValid(schema) ? get_relname_relid(name->relname, schema) : InvalidOid;
}

Oid
step_relation(const Job *job, const JobStep *step)
{
	if (!OidIsValid(step->relid))
		return InvalidOid;
	if (job->at_home)
		return SearchSysCacheExists1(RELOID, ObjectIdGetDatum(step->relid))
			? step->relid : InvalidOid;
	if (step->relid == job->relid)
		return job_find_relation(job);
	return step->relation ? relation_by_name(step->relation) : InvalidOid;
}

char *
step_inverse(const Job *job, const JobStep *step)
{
	Oid			relid = step_relation(job, step);
	char	   *relation = OidIsValid(relid) ? sql_relation(relid) : NULL;
	bool		names_relation;
	bool		unknown;
	char	   *sql;

	if (step->inverse == NULL || (OidIsValid(step->relid) && relation == NULL))
		return NULL;
	sql = render(step->inverse, relation, job->at_home, &names_relation,
				 &unknown);
	if (unknown)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot take back a step of job " INT64_FORMAT ": a relation it is about is not to be found",
						job->id),
				 errdetail("It was dropped, or the job was recorded in another database. The statement: %s",
						   sql),
				 errhint("Run what still applies of the statement yourself.")));
	if (!names_relation && relation != NULL && step->relation != NULL &&
		strcmp(relation, step->relation) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("relation %s was renamed since job " INT64_FORMAT ": it is %s now",
						step->relation, job->id, relation),
				 errdetail("The statement that takes the step back names it: %s", sql),
				 errhint("Rename it back for the undo, then tenantmig.undo(" INT64_FORMAT ") again.",
						 job->id)));
	return sql;
}

char *
step_inverse_text(const Job *job, const JobStep *step)
{
	Oid			relid = step_relation(job, step);
	bool		names_relation;
	bool		unknown;

	if (step->inverse == NULL)
		return NULL;
	return render(step->inverse,
				  OidIsValid(relid) ? sql_relation(relid) : step->relation,
				  job->at_home, &names_relation, &unknown);
}

/* The same for the view: (home, relid, relation, inverse) */
Datum
tenantmig_step_inverse(PG_FUNCTION_ARGS)
{
	bool		at_home;
	char	   *relation = NULL;
	bool		names_relation;
	bool		unknown;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(3))
		PG_RETURN_NULL();
	at_home = PG_GETARG_INT64(0) == identity_home();
	if (at_home)
		relation = sql_relation(PG_GETARG_OID(1));
	if (relation == NULL && !PG_ARGISNULL(2))
		relation = text_to_cstring(PG_GETARG_TEXT_PP(2));
	PG_RETURN_TEXT_P(cstring_to_text(render(text_to_cstring(PG_GETARG_TEXT_PP(3)),
											relation, at_home,
											&names_relation, &unknown)));
}

/* --- the journal ----------------------------------------------------- */

int
step_write(int64 job, StepKind kind, Oid relid, const char *relation,
		   const char *state, const char *statement, const char *inverse,
		   bool temporary, LOCKMODE mode)
{
	OwnQuery	query;
	int			position;

	SPI_connect();
	query_init(&query, "UPDATE tenantmig.job_step SET state = $3, "
			   "finished_at = CASE WHEN $3 = 'done' THEN clock_timestamp() END, "
			   "inverse = COALESCE($4, inverse), statement = $2, "
			   "relation = CASE WHEN kind = 'batches' THEN $6 ELSE relation END "
			   "WHERE job = $1 AND state <> 'planned' "
			   "AND (statement = $2 OR kind = 'batches' AND $5 = 'batches') "
			   "RETURNING position");
	query_int8(&query, job);
	query_text(&query, statement);
	query_text(&query, state);
	query_text(&query, inverse);
	query_text(&query, step_kind_names[kind]);
	query_text(&query, relation);
	if (query_run(&query) == 0)
	{
		query_init(&query, "INSERT INTO tenantmig.job_step (job, position, kind, "
				   "relation, state, statement, inverse, temporary, lock_mode, "
				   "started_at, finished_at, relid) "
				   "SELECT $1, COALESCE((SELECT max(position) "
				   " FROM tenantmig.job_step WHERE job = $1), 0) + 1, "
				   "$2, $3, $4, $5, $6, $7, $8, "
				   "CASE WHEN $4 <> 'planned' THEN clock_timestamp() END, "
				   "CASE WHEN $4 = 'done' THEN clock_timestamp() END, $9 "
				   "RETURNING position");
		query_int8(&query, job);
		query_text(&query, step_kind_names[kind]);
		query_text(&query, relation);
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
step_keep(int64 job, const char *beginning)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job_step SET temporary = false "
			   "WHERE job = $1 AND starts_with(statement, $2)");
	query_int8(&query, job);
	query_text(&query, beginning);
	(void) query_once(&query);
}

void
step_forget_inverse(int64 job, const char *statement)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job_step SET inverse = NULL "
			   "WHERE job = $1 AND statement = $2");
	query_int8(&query, job);
	query_text(&query, statement);
	(void) query_once(&query);
}

const char *
step_state(int64 job, const char *statement)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	char	   *state = NULL;

	query_init(&query, "SELECT state FROM tenantmig.job_step "
			   "WHERE job = $1 AND statement = $2 AND state <> 'planned'");
	query_int8(&query, job);
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
