/*
 * not_null_undo.c
 *		The way back of set_not_null, where tables below were NOT NULL before.
 *
 * DROP NOT NULL goes down to all partitions and children, and those that were
 * NOT NULL before must stay so at every instant.  SET NOT NULL would read each of
 * them under ACCESS EXCLUSIVE, unless a constraint proves it.  So each gets a check
 * constraint first, validated beside readers and writers; then NOT NULL goes from
 * the table and comes back on those below, in one transaction that reads nothing.
 * The constraints are temporary steps of the undo.
 */
#include "postgres.h"

#include "catalog/pg_inherits.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/stop_point.h"
#include "steps/not_null.h"

typedef struct Back
{
	const Job  *target;
	NotNullTexts texts;			/* the constraint is that of the undo */
	List	   *below;			/* OIDs of those that were NOT NULL before */
	List	   *tops;			/* those that are not below another of these */
} Back;

static bool
is_set_step(const Job *target, const JobStep *step)
{
	NotNullTexts texts;

	not_null_texts(target->id, json_text(target->arguments, "column"), &texts);
	return strcmp(step->statement, texts.set) == 0;
}

/* A constraint goes down to what is below by itself */
static List *
find_tops(List *tables)
{
	List	   *below = NIL;
	List	   *tops = NIL;
	ListCell   *lc;

	foreach(lc, tables)
	{
		ListCell   *child;

		foreach(child, find_all_inheritors(lfirst_oid(lc), NoLock, NULL))
			if (lfirst_oid(child) != lfirst_oid(lc))
				below = lappend_oid(below, lfirst_oid(child));
	}
	foreach(lc, tables)
		if (!list_member_oid(below, lfirst_oid(lc)))
			tops = lappend_oid(tops, lfirst_oid(lc));
	return tops;
}

static void
find_body(JobRun *run, void *arg)
{
	Back	   *b = arg;
	ListCell   *lc;

	run_check_request(run);
	MemoryContextSwitchTo(run->context);
	not_null_texts(run->job->id, json_text(b->target->arguments, "column"), &b->texts);
	foreach(lc, step_list(b->target->id))
	{
		JobStep    *step = lfirst(lc);
		Oid			table = step_relation(b->target, step);

		if (OidIsValid(table) && table != run->relid && is_set_step(b->target, step) &&
			list_member_oid(find_all_inheritors(run->relid, NoLock, NULL), table))
			b->below = list_append_unique_oid(b->below, table);
	}
	b->tops = find_tops(b->below);
}

typedef struct Validate
{
	Oid			table;
	const char *statement;
} Validate;

static void
validate_body(JobRun *run, void *arg)
{
	Validate   *v = arg;

	run_check_request(run);
	run_lock(v->table, ShareUpdateExclusiveLock);
	run_statement_within(run, v->table, ShareUpdateExclusiveLock, v->statement,
						 NULL, false);
}

static void
back_body(JobRun *run, void *arg)
{
	Back	   *b = arg;
	ListCell   *lc;

	run_check_request(run);
	run_lock(run->relid, AccessExclusiveLock);
	run_statement_within(run, run->relid, AccessExclusiveLock, b->texts.unset, NULL, false);
	foreach(lc, b->below)
		run_statement_within(run, lfirst_oid(lc), AccessExclusiveLock, b->texts.set,
							 NULL, false);
}

/* That of the table stands for all; without any below, its inverse will do */
bool
not_null_take_back(JobRun *run, const Job *target, const JobStep *step)
{
	Back		b = {.target = target};
	ListCell   *lc;

	if (!is_set_step(target, step))
		return false;
	if (strcmp(step->statement, step->inverse) == 0)
		return true;
	run_or_error(run, find_body, &b);
	if (b.below == NIL)
		return false;
	foreach(lc, b.tops)
		run_statement(run, lfirst_oid(lc), AccessExclusiveLock, b.texts.add, b.texts.drop, true);
	STOP_POINT("not-null-back-added");
	foreach(lc, b.tops)
	{
		Validate	v = {.table = lfirst_oid(lc),.statement = b.texts.validate};

		run_patiently(run, validate_body, &v);
	}
	STOP_POINT("not-null-back-validated");
	run_patiently(run, back_body, &b);
	STOP_POINT("not-null-back-done");
	return true;
}
