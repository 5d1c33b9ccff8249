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
#include "engine/template.h"
#include "engine/toplevel.h"

typedef struct StatementArg
{
	Oid			relid;
	LOCKMODE	mode;
	const char *statement;		/* templates */
	const char *inverse;
	bool		temporary;
	bool		done;
	int			position;
	char	   *rendered;
} StatementArg;

void
run_lock(Oid relid, LOCKMODE mode)
{
	LockBlocker blocker;

	if (!lock_tree_try(relid, mode, &blocker))
		lock_not_had(&blocker);
}

void
run_lock_all(List *relids, LOCKMODE mode)
{
	LockBlocker blocker;

	if (!lock_trees_try(relids, mode, &blocker))
		lock_not_had(&blocker);
}

/* As the relation is called now; an error when it is gone */
static char *
render(JobRun *run, const char *template, Oid relid)
{
	char	   *statement = template_render(template, relid);

	if (statement == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation %s or one below it was dropped while job " INT64_FORMAT " worked on it",
						job_relation_text(run->job), run->job->id),
				 errhint("If it was one below it: SELECT tenantmig.retry(" INT64_FORMAT ");",
						 run->job->id)));
	return statement;
}

/* Whatever else the statement locks is waited for no longer either */
static void
run_in_time(JobRun *run, const char *statement)
{
	lock_set_timeout(setting_lock_timeout);
	(void) run_sql(run, statement);
}

void
run_statement_within(JobRun *run, Oid relid, LOCKMODE mode,
					 const char *statement, const char *inverse, bool temporary)
{
	run_in_time(run, render(run, statement, relid));
	(void) step_write(run->job->id, STEP_STATEMENT, relid, "done", statement,
					  inverse, temporary, mode);
}

static void
statement_body(JobRun *run, void *arg)
{
	StatementArg *a = arg;

	run_check_request(run);
	run_lock(a->relid, a->mode);
	run_statement_within(run, a->relid, a->mode, a->statement, a->inverse,
						 a->temporary);
}

static void
step_state_body(JobRun *run, void *arg)
{
	StatementArg *a = arg;
	const char *state = step_state(run->job->id, a->relid, a->statement);

	a->done = state && strcmp(state, "done") == 0;
}

void
run_statement(JobRun *run, Oid relid, LOCKMODE mode, const char *statement,
			  const char *inverse, bool temporary)
{
	StatementArg arg = {.relid = relid,.mode = mode,.statement = statement,
	.inverse = inverse,.temporary = temporary};

	run_or_error(run, step_state_body, &arg);
	if (!arg.done)
		run_patiently(run, statement_body, &arg);
}

/* --- at the top level -------------------------------------------------- */

static void
not_in_a_procedure(JobRun *run, const char *statement, bool retry)
{
	ereport(ERROR,
			(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
			 errmsg("this step of job " INT64_FORMAT " cannot run inside a procedure",
					run->job->id),
			 errdetail("The statement must be the outermost one of a session: %s",
					   statement),
			 retry
			 ? errhint("Run it yourself: %s; then call tenantmig.retry(" INT64_FORMAT ") so that the job goes on.",
					   statement, run->job->id)
			 : errhint("Run it yourself: %s", statement)));
}

static void
begin_toplevel_body(JobRun *run, void *arg)
{
	StatementArg *a = arg;
	char	   *statement = render(run, a->statement, a->relid);

	if (run->foreground)
		not_in_a_procedure(run, statement, true);
	run_check_request(run);
	a->rendered = MemoryContextStrdup(run->context, statement);
	a->position = step_write(run->job->id, STEP_TOPLEVEL, a->relid, "running",
							 a->statement, a->inverse, false,
							 ShareUpdateExclusiveLock);
}

static void
step_done_body(JobRun *run, void *arg)
{
	step_set_state(run->job->id, *(int *) arg, "done");
}

void
run_toplevel(JobRun *run, Oid relid, const char *statement, const char *inverse)
{
	StatementArg arg = {.relid = relid,.statement = statement,.inverse = inverse};
	ErrorData  *error;

	run_or_error(run, begin_toplevel_body, &arg);
	STOP_POINT("toplevel-before");
	error = toplevel_run(arg.rendered, relid, run->owner,
						 run->job->search_path, run->context);
	STOP_POINT("toplevel-after");
	if (error)
		ReThrowError(error);
	run_bookkeeping(run, step_done_body, &arg.position);
}

static void
toplevel_done_body(JobRun *run, void *arg)
{
	StatementArg *a = arg;
	const char *state = step_state(run->job->id, a->relid, a->statement);

	if (state && strcmp(state, "running") == 0)
		(void) step_write(run->job->id, STEP_TOPLEVEL, a->relid, "done",
						  a->statement, NULL, false, NoLock);
}

void
run_toplevel_done(JobRun *run, Oid relid, const char *statement)
{
	StatementArg arg = {.relid = relid,.statement = statement};

	run_bookkeeping(run, toplevel_done_body, &arg);
}

/* --- inverses ---------------------------------------------------------- */

typedef struct InverseArg
{
	const Job  *target;
	const JobStep *step;
	char	   *inverse;
} InverseArg;

/* What takes the step back now; NULL when there is nothing to take back */
static char *
find_inverse(const InverseArg *a, Oid relid)
{
	const StepOps *ops = step_ops(a->target->kind);

	if (a->step->inverse == NULL || !OidIsValid(relid))
		return NULL;
	return ops->find_inverse ? ops->find_inverse(a->target, a->step, relid)
		: template_render(a->step->inverse, relid);
}

/* The tree of the job first, as everywhere; a partition of then may be none of
 * it by now.  Then what the step spoke of besides: to drop a foreign key, both
 * its tables are locked. */
static void
take_back_statement(JobRun *run, const InverseArg *a)
{
	Oid			relid = step_relation(a->target, a->step);
	List	   *relids;
	char	   *inverse;

	if (a->step->inverse == NULL || !OidIsValid(relid))
		return;
	relids = list_append_unique_oid(list_make1_oid(run->relid), relid);
	run_lock_all(list_concat_unique_oid(relids, template_others(a->step->statement)),
				 AccessExclusiveLock);
	inverse = find_inverse(a, relid);
	if (inverse)
		run_in_time(run, inverse);
}

static void
inverse_body(JobRun *run, void *arg)
{
	InverseArg *a = arg;

	if (a->step->kind == STEP_STATEMENT)
		take_back_statement(run, a);
	step_set_state(a->target->id, a->step->position, "undone");
}

static void
find_toplevel_body(JobRun *run, void *arg)
{
	InverseArg *a = arg;
	char	   *inverse = find_inverse(a, step_relation(a->target, a->step));

	if (inverse && run->foreground)
		not_in_a_procedure(run, inverse, false);
	a->inverse = inverse ? MemoryContextStrdup(run->context, inverse) : NULL;
}

static void
take_back_toplevel(JobRun *run, InverseArg *a)
{
	ErrorData  *error;

	STOP_POINT("inverse-before");
	run_patiently(run, find_toplevel_body, a);
	error = a->inverse == NULL ? NULL
		: toplevel_run(a->inverse, InvalidOid, run->owner,
					   run->job->search_path, run->context);
	if (error)
		ReThrowError(error);
	STOP_POINT("inverse-after");
}

static void
undone_body(JobRun *run, void *arg)
{
	InverseArg *a = arg;

	step_set_state(a->target->id, a->step->position, "undone");
}

void
run_inverse(JobRun *run, const Job *target, const JobStep *step)
{
	InverseArg	arg = {.target = target,.step = step};
	const StepOps *ops = step_ops(target->kind);

	if (step->inverse != NULL && ops->take_back &&
		ops->take_back(run, target, step))
	{
		run_bookkeeping(run, undone_body, &arg);
		return;
	}
	if (step->inverse != NULL && step->kind == STEP_BATCHES)
		ops->undo_batches(run, target, step);
	if (step->inverse != NULL && step->kind == STEP_TOPLEVEL)
		take_back_toplevel(run, &arg);
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
	char	   *now = OidIsValid(run->relid) && !run->helping
		? sql_relation(run->relid) : NULL;

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

/*
 * What goes at the end of the job: temporary steps, and what has begun at the
 * top level and not ended.  A job that is cancelled takes along what it has built
 * there; one that failed leaves that to the next attempt, or to undo.
 */
static bool
wants_clean_up(const JobRun *run, const JobStep *step)
{
	bool		done = strcmp(step->state, "done") == 0;

	if (step->kind == STEP_TOPLEVEL)
		return strcmp(step->state, "running") == 0 ||
			(done && (step->temporary || run->cancelling));
	return done && step->temporary;
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

		if (!wants_clean_up(run, step))
			continue;
		if (!run->ending)
			run_set_phase(run, "removing helpers");
		run->ending = true;
		run_inverse(run, run->job, step);
	}
}
