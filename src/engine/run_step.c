/*
 * run_step.c
 *		The steps of a job at work, and their inverses.
 *
 * A step is run with its journal entry (job_step.c), under a lock that is not
 * waited for longer than tenantmig.lock_timeout at a time.  The clean-up at the
 * end of a job runs the inverses of its temporary steps.  It does not give up:
 * a trigger or a constraint of ours that stays behind harms the application,
 * so as long as somebody is in the way the job is not over, and says so.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/locks.h"
#include "engine/settings.h"
#include "engine/sqltext.h"
#include "engine/step.h"
#include "engine/stop_point.h"
#include "engine/toplevel.h"

typedef struct StatementArg
{
	Oid			relid;
	LOCKMODE	mode;
	StepKind	kind;
	const char *relation;
	const char *statement;
	const char *inverse;
	bool		temporary;
	const char *state;
	int			position;
} StatementArg;

static void
lock_or_error(Oid relid, LOCKMODE mode)
{
	LockBlocker blocker;

	if (OidIsValid(relid) && !lock_tree_try(relid, mode, &blocker))
		lock_not_had(&blocker);
	/* whatever else the statement locks is waited for no longer either */
	lock_set_timeout(setting_lock_timeout);
}

void
run_statement_within(JobRun *run, Oid relid, LOCKMODE mode,
					 const char *statement, const char *inverse, bool temporary)
{
	lock_or_error(relid, mode);
	(void) run_sql(run, statement);
	(void) step_write(run->job->id, STEP_STATEMENT,
					  job_relation_text(run->job), "done", statement, inverse,
					  temporary, mode);
}

static void
statement_body(JobRun *run, void *arg)
{
	StatementArg *a = arg;

	run_check_request(run);
	run_statement_within(run, a->relid, a->mode, a->statement, a->inverse,
						 a->temporary);
}

static void
step_state_body(JobRun *run, void *arg)
{
	StatementArg *a = arg;
	const char *state = step_state(run->job->id, a->statement);

	a->state = state == NULL ? NULL
		: MemoryContextStrdup(run->context, state);
}

void
run_statement(JobRun *run, Oid relid, LOCKMODE mode, const char *statement,
			  const char *inverse, bool temporary)
{
	StatementArg arg = {.relid = relid,.mode = mode,.statement = statement,
	.inverse = inverse,.temporary = temporary};

	run_or_error(run, step_state_body, &arg);
	if (arg.state && strcmp(arg.state, "done") == 0)
		return;
	run_patiently(run, statement_body, &arg);
}

static void
write_step_body(JobRun *run, void *arg)
{
	StatementArg *a = arg;

	run_check_request(run);
	a->position = step_write(run->job->id, a->kind, a->relation, a->state,
							 a->statement, a->inverse, a->temporary, a->mode);
}

static void
step_done_body(JobRun *run, void *arg)
{
	step_set_state(run->job->id, *(int *) arg, "done");
}

void
run_toplevel(JobRun *run, const char *relation, const char *statement,
			 const char *inverse)
{
	StatementArg arg = {.kind = STEP_TOPLEVEL,.relation = relation,
		.statement = statement,.inverse = inverse,
	.state = "running",.mode = ShareUpdateExclusiveLock};
	ErrorData  *error;

	if (run->foreground)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("this step of job " INT64_FORMAT " cannot run inside a procedure",
						run->job->id),
				 errdetail("The statement must be the outermost one of a session: %s",
						   statement),
				 errhint("Run it yourself: %s; then call tenantmig.retry(" INT64_FORMAT ") so that the job goes on.",
						 statement, run->job->id)));
	run_or_error(run, write_step_body, &arg);
	STOP_POINT("toplevel-before");
	error = toplevel_run(statement, run->owner, run->job->search_path,
						 run->context);
	STOP_POINT("toplevel-after");
	if (error)
		ReThrowError(error);
	run_bookkeeping(run, step_done_body, &arg.position);
}

static void
toplevel_done_body(JobRun *run, void *arg)
{
	const char *statement = arg;
	const char *state = step_state(run->job->id, statement);

	if (state && strcmp(state, "running") == 0)
		(void) step_write(run->job->id, STEP_TOPLEVEL, NULL, "done", statement,
						  NULL, false, NoLock);
}

void
run_toplevel_done(JobRun *run, const char *statement)
{
	run_bookkeeping(run, toplevel_done_body, unconstify(char *, statement));
}

typedef struct InverseArg
{
	const Job  *target;
	const JobStep *step;
} InverseArg;

static void
inverse_body(JobRun *run, void *arg)
{
	InverseArg *a = arg;

	if (a->step->kind == STEP_STATEMENT && a->step->inverse != NULL)
	{
		lock_or_error(run->relid, AccessExclusiveLock);
		(void) run_sql(run, a->step->inverse);
	}
	step_set_state(a->target->id, a->step->position, "undone");
}

void
run_inverse(JobRun *run, const Job *target, const JobStep *step)
{
	InverseArg	arg = {.target = target,.step = step};

	if (step->inverse != NULL)
	{
		if (step->kind == STEP_BATCHES)
			step_ops(target->kind)->undo_batches(run, target, step);
		else if (step->kind == STEP_TOPLEVEL)
		{
			ErrorData  *error;

			if (run->foreground)
				ereport(ERROR,
						(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
						 errmsg("this step of job " INT64_FORMAT " cannot run inside a procedure",
								run->job->id),
						 errhint("Run it yourself: %s", step->inverse)));
			STOP_POINT("inverse-before");
			if (step_ops(target->kind)->undo_toplevel)
				(void) step_ops(target->kind)->undo_toplevel(run, target, step);
			else
			{
				error = toplevel_run(step->inverse, run->owner,
									 run->job->search_path, run->context);
				if (error)
					ReThrowError(error);
			}
			STOP_POINT("inverse-after");
		}
	}
	run_patiently(run, inverse_body, &arg);
}

/* false: there is no such relation */
bool
run_find_owner(Oid relid, Oid *owner)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));

	if (!HeapTupleIsValid(tuple))
		return false;
	*owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return true;
}

static void
list_steps_body(JobRun *run, void *arg)
{
	MemoryContextSwitchTo(run->context);
	*(List **) arg = step_list(run->job->id);
}

static void
take_over_name(JobRun *run)
{
	MemoryContext context;

	job_renamed(run->job->id, run->relid);
	context = MemoryContextSwitchTo(run->context);
	run->job->relation_name = get_rel_name(run->relid);
	run->job->schema_name = get_namespace_name(get_rel_namespace(run->relid));
	MemoryContextSwitchTo(context);
}

void
run_follow_name(JobRun *run)
{
	char	   *now = OidIsValid(run->relid) ? sql_relation(run->relid) : NULL;

	if (now != NULL && strcmp(now, job_relation_text(run->job)) != 0)
		take_over_name(run);
}

/*
 * What was made must go whatever the table is called and whoever owns it by
 * now.  A new name may have been taken over in a transaction that was rolled
 * back, so this looks at the row and not at the struct.
 */
static void
follow_relation_body(JobRun *run, void *arg)
{
	if (OidIsValid(run->relid) && run_find_owner(run->relid, &run->owner))
		take_over_name(run);
}

/* For a clean-up: the table may be gone, and then so is what was made on it */
static void
resolve_body(JobRun *run, void *arg)
{
	Oid			owner;

	run->owner = run->job->owner;
	if (run_find_owner(run->job->relid, &owner))
	{
		run->relid = run->job->relid;
		run->owner = owner;
	}
}

void
run_clean_up(JobRun *run)
{
	List	   *steps = NIL;

	/* not found under its name: what was made on it, a retry that finds it
	 * removes */
	if (!OidIsValid(run->relid))
		run_or_error(run, resolve_body, NULL);
	if (run->job->relation_name != NULL && !OidIsValid(run->relid))
		return;
	run_or_error(run, follow_relation_body, NULL);
	run_or_error(run, list_steps_body, &steps);
	for (int i = list_length(steps) - 1; i >= 0; i--)
	{
		JobStep    *step = list_nth(steps, i);

		if (!(step->temporary && strcmp(step->state, "done") == 0) &&
			!(step->kind == STEP_TOPLEVEL && strcmp(step->state, "running") == 0))
			continue;
		if (!run->ending)
			run_set_phase(run, "removing helpers");
		run->ending = true;
		run_inverse(run, run->job, step);
	}
}
