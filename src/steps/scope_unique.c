/*
 * scope_unique.c
 *		scope_unique: UNIQUE (email) becomes UNIQUE (tenant_id, email), online.
 *
 * The new one allows whatever the old one allows, so that nothing can fail but
 * the build.  The old one goes in the same transaction in which the new one takes
 * its name (unique_swap.c).  The way back builds the old one again in the same
 * way; it fails, and leaves the new one in place, if values have come that two
 * tenants share.
 *
 * What cannot be scoped by itself is refused, with what to do: a primary key, what
 * foreign keys point at, the index of a partition, and an exclusion constraint,
 * which the server can neither build concurrently nor make from an index.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_index.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "engine/stop_point.h"
#include "steps/index.h"
#include "steps/kinds.h"
#include "steps/scope_check.h"
#include "steps/target.h"
#include "steps/unique_key.h"

PG_FUNCTION_INFO_V1(tenantmig_scope_unique);

static char *
name_of(const Job *job)
{
	return json_text(job->arguments, "name");
}

static char *
column_of(const Job *job)
{
	return json_text(job->arguments, "column");
}

/* The unique index of that name on the table, valid; or InvalidOid */
static Oid
find_unique(Oid relid, const char *name)
{
	Oid			index = get_relname_relid(name, get_rel_namespace(relid));
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	bool		good;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	good = ((Form_pg_index) GETSTRUCT(tuple))->indrelid == relid &&
		((Form_pg_index) GETSTRUCT(tuple))->indisunique &&
		((Form_pg_index) GETSTRUCT(tuple))->indisvalid;
	ReleaseSysCache(tuple);
	return good ? index : InvalidOid;
}

static bool
is_scoped(const Job *job, Oid relid)
{
	Oid			index = find_unique(relid, name_of(job));

	return OidIsValid(index) && unique_has(unique_read(index), column_of(job));
}

/* --- the call ---------------------------------------------------------------- */

Datum
tenantmig_scope_unique(PG_FUNCTION_ARGS)
{
	static const char *const required[] = {"relation", "constraint_or_index",
	"column_name", "dry_run"};
	JobRequest	request = {.kind = "scope_unique"};
	JsonObject *arguments = json_begin();
	TargetColumn target;
	char	   *name;
	char	   *column;
	Oid			index;
	int64		id;

	for (int i = 0; i < lengthof(required); i++)
		target_require(fcinfo, i, required[i]);
	request.relid = PG_GETARG_OID(0);
	name = target_arg_name(fcinfo, 1);
	column = target_arg_name(fcinfo, 2);
	target_check_relation(request.relid);
	target_check_column(request.relid, column, &target);
	index = scope_check(request.relid, name, column);

	json_put_text(arguments, "name", name);
	json_put_text(arguments, "column", column);
	request.arguments = json_end(arguments);
	request.dry_run = PG_GETARG_BOOL(3);
	request.describe = psprintf("unique %s of %s per %s", quote_identifier(name),
								sql_relation(request.relid), quote_identifier(column));
	id = request.dry_run ? 0 : job_reuse(&request);
	if (id != 0)
		PG_RETURN_INT64(id);
	if (!request.dry_run && unique_has(unique_read(index), column))
	{
		ereport(NOTICE,
				(errmsg("%s of %s has column %s already; nothing is changed",
						quote_identifier(name), sql_relation(request.relid),
						quote_identifier(column))));
		id = job_record(&request);
		job_record_end(id);
		PG_RETURN_INT64(id);
	}
	scope_check_room(request.relid, unique_read(index), column);
	PG_RETURN_INT64(job_submit(&request));
}

/* --- forth ------------------------------------------------------------------- */

static List *
find_forth(const Job *job, Oid relid)
{
	List	   *changes;
	ListCell   *lc;

	if (is_scoped(job, relid))
		return NIL;
	changes = unique_tree(relid, scope_check(relid, name_of(job), column_of(job)));
	foreach(lc, changes)
	{
		UniqueChange *change = lfirst(lc);

		change->wanted = unique_scoped(change->now, column_of(job));
	}
	scope_check_room(relid, ((UniqueChange *) linitial(changes))->now, column_of(job));
	scope_check_change(relid, changes, column_of(job));
	return changes;
}

static List *
forth(JobRun *run, void *arg)
{
	return find_forth(run->job, run->relid);
}

static void
remember(JobRun *run, List *changes, void *arg)
{
	JsonObject *facts = json_begin();
	JsonObject *before = json_begin();
	ListCell   *lc;

	foreach(lc, changes)
	{
		UniqueChange *change = lfirst(lc);

		json_put_nested(before, psprintf("%u", change->table), change->now);
	}
	json_put_nested(facts, "before", json_end(before));
	job_merge_summary(run->job->id, json_end(facts));
}

static void
warn_body(JobRun *run, void *arg)
{
	JsonObject *facts = json_begin();
	Oid			index = find_unique(run->relid, name_of(run->job));
	List	   *warnings = OidIsValid(index)
		? scope_warnings(run->relid, unique_read(index), column_of(run->job)) : NIL;

	if (warnings == NIL)
		return;
	json_put_list(facts, "warnings", warnings);
	job_merge_summary(run->job->id, json_end(facts));
}

static void
scope_run(JobRun *run)
{
	UniqueSwap	swap = {.find = forth,.done = remember,.undoable = true};

	run_or_error(run, warn_body, NULL);
	unique_swap(run, &swap);
}

static Jsonb *
scope_plan(const Job *job, Oid relid)
{
	JsonObject *plan = json_begin();
	Oid			index = scope_check(relid, name_of(job), column_of(job));
	List	   *changes = find_forth(job, relid);
	List	   *warnings = scope_warnings(relid, unique_read(index), column_of(job));

	if (changes != NIL)
		unique_plan(job, changes, plan, warnings);
	return json_end(plan);
}

/* --- back -------------------------------------------------------------------- */

typedef struct Back
{
	const Job  *target;
	Jsonb	   *before;			/* of its swap; NULL: it has not swapped */
} Back;

static Jsonb *
read_before(const Job *target)
{
	return json_nested(job_summary(target->id), "before");
}

/* What a table had before; NULL for a partition that has come since */
static Jsonb *
before_of(const Back *back, Oid table)
{
	ListCell   *lc;

	foreach(lc, json_keys(back->before))
	{
		Jsonb	   *key = json_nested(back->before, lfirst(lc));

		if (job_find_relation(back->target, (Oid) json_int(key, "table", 0),
							  json_text(key, "schema"), json_text(key, "relation")) == table)
			return key;
	}
	return NULL;
}

static List *
find_back(const Back *back, Oid relid)
{
	char	   *column = column_of(back->target);
	Oid			index = find_unique(relid, name_of(back->target));
	List	   *changes;
	ListCell   *lc;

	if (!OidIsValid(index))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("unique constraint or index %s of %s is gone",
						quote_identifier(name_of(back->target)), sql_relation(relid)),
				 errdetail("Job " INT64_FORMAT " made it; it was dropped or renamed since.",
						   back->target->id),
				 errhint("Give it its name again, or make the old one yourself.")));
	changes = unique_tree(relid, index);
	if (!unique_has(((UniqueChange *) linitial(changes))->now, column))
		return NIL;
	foreach(lc, changes)
	{
		UniqueChange *change = lfirst(lc);

		change->wanted = before_of(back, change->table);
		if (change->wanted == NULL && change->parent)
			change->wanted = unique_unscoped(change->now, change->parent->wanted);
		if (change->wanted == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("job " INT64_FORMAT " has not recorded what %s had before",
							back->target->id, sql_relation(change->table))));
	}
	scope_check(relid, name_of(back->target), column);
	return changes;
}

static List *
back(JobRun *run, void *arg)
{
	return find_back(arg, run->relid);
}

static void
nothing(JobRun *run, List *changes, void *arg)
{
}

static void
read_before_body(JobRun *run, void *arg)
{
	Back	   *b = arg;

	MemoryContextSwitchTo(run->context);
	b->before = read_before(b->target);
}

/* The step that has the inverse stands for the whole swap */
static bool
scope_take_back(JobRun *run, const Job *target, const JobStep *step)
{
	Back		b = {.target = target};
	UniqueSwap	swap = {.find = back,.done = nothing,.arg = &b};

	if (step->kind != STEP_STATEMENT)
		return false;
	run_or_error(run, read_before_body, &b);
	unique_swap(run, &swap);
	return true;
}

static Jsonb *
scope_plan_undo(const Job *job, const Job *target, Oid relid)
{
	JsonObject *plan = json_begin();
	Back		b = {.target = target,.before = read_before(target)};
	List	   *changes = b.before ? find_back(&b, relid) : NIL;

	if (changes != NIL)
		unique_plan(job, changes, plan,
					list_make1(psprintf("The undo fails, and leaves %s as it is, if two tenants have the same value by then",
										quote_identifier(name_of(target)))));
	return json_end(plan);
}

const StepOps scope_unique_ops = {
	.kind = "scope_unique",
	.plan = scope_plan,
	.run = scope_run,
	.holds = is_scoped,
	.find_inverse = index_find_inverse,
	.take_back = scope_take_back,
	.plan_undo = scope_plan_undo,
};
