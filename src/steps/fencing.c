/*
 * fencing.c
 *		fence_tenants and unfence_tenants: tables that refuse the writes of
 *		tenants that are suspended.
 *
 * Two triggers, both of tenants/fence.c.  The one for rows is made on the table
 * and on its inheritance children; partitions, also those that are attached
 * later, get it from their parent.  The one for TRUNCATE is made on all of them,
 * since the server passes statement triggers on to nobody; a partition that
 * was attached later is found without it by holds(), and gets it from the next
 * call.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "engine/compat.h"
#include "engine/job.h"
#include "engine/json.h"
#include "engine/locks.h"
#include "engine/sqltext.h"
#include "engine/template.h"
#include "steps/kinds.h"
#include "steps/target.h"
#include "tenants/fence.h"

PG_FUNCTION_INFO_V1(tenantmig_fence_tenants);
PG_FUNCTION_INFO_V1(tenantmig_unfence_tenants);

/* A trigger of that name, as it is */
typedef struct FenceTrigger
{
	bool		ours;			/* it calls our function */
	bool		clone;			/* of the parent's */
	char		enabled;
	char	   *column;			/* NULL: no argument */
} FenceTrigger;

typedef struct FenceWork
{
	Oid			root;
	int64		job;
	char	   *column;			/* NULL: take them away */
	int			steps;
} FenceWork;

/* --- as they are ------------------------------------------------------ */

static Oid
fence_function(void)
{
	List	   *name = list_make2(makeString("tenantmig"), makeString("fence_tenant"));

	return LookupFuncName(name, 0, NULL, false);
}

static char *
first_argument(HeapTuple tuple, TupleDesc desc)
{
	bool		isnull;
	Datum		value;

	if (((Form_pg_trigger) GETSTRUCT(tuple))->tgnargs == 0)
		return NULL;
	value = heap_getattr(tuple, Anum_pg_trigger_tgargs, desc, &isnull);
	/* the arguments follow each other, each with its '\0' */
	return isnull ? NULL : pstrdup(VARDATA_ANY(DatumGetByteaPP(value)));
}

static bool
find_trigger(Oid relid, const char *name, FenceTrigger *result)
{
	Relation	catalog = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;

	ScanKeyInit(&keys[0], Anum_pg_trigger_tgrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relid));
	ScanKeyInit(&keys[1], Anum_pg_trigger_tgname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum(name));
	scan = systable_beginscan(catalog, TriggerRelidNameIndexId, true, NULL, 2, keys);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple);
	if (found)
	{
		Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);

		result->ours = form->tgfoid == fence_function();
		result->clone = OidIsValid(form->tgparentid);
		result->enabled = form->tgenabled;
		result->column = first_argument(tuple, RelationGetDescr(catalog));
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return found;
}

static bool
fires(const FenceTrigger *trigger)
{
	return trigger->enabled == TRIGGER_FIRES_ON_ORIGIN ||
		trigger->enabled == TRIGGER_FIRES_ALWAYS;
}

/* Whether the trigger is there and does what it shall for the column */
static bool
is_as_wanted(Oid relid, const char *name, const char *column)
{
	FenceTrigger trigger;

	return find_trigger(relid, name, &trigger) && trigger.ours &&
		fires(&trigger) &&
		(column == NULL ||
		 (trigger.column && strcmp(trigger.column, column) == 0));
}

static bool
table_is_fenced(Oid relid, const char *column)
{
	return is_as_wanted(relid, FENCE_TRIGGER, column) &&
		is_as_wanted(relid, FENCE_TRUNCATE_TRIGGER, NULL);
}

/* --- statements ------------------------------------------------------- */

static char *
create_text(const char *name, const char *column)
{
	if (column == NULL)
		return template_make("CREATE TRIGGER %s BEFORE TRUNCATE ON %R "
							 "FOR EACH STATEMENT EXECUTE FUNCTION tenantmig.fence_tenant()",
							 name);
	return template_make("CREATE TRIGGER %s AFTER INSERT OR UPDATE OR DELETE ON %R "
						 "FOR EACH ROW EXECUTE FUNCTION tenantmig.fence_tenant(%s)",
						 name, sql_literal(column));
}

static char *
enable_text(const char *name, char enabled)
{
	return template_make("ALTER TABLE %R %s TRIGGER %s",
						 enabled == TRIGGER_DISABLED ? "DISABLE"
						 : enabled == TRIGGER_FIRES_ON_REPLICA ? "ENABLE REPLICA"
						 : enabled == TRIGGER_FIRES_ALWAYS ? "ENABLE ALWAYS" : "ENABLE",
						 name);
}

static void
take_step(FenceWork *work, Oid relid, const char *statement,
		  const char *inverse, LOCKMODE mode)
{
	CHECK_FOR_INTERRUPTS();
	target_step_under(work->job, work->root, relid, statement, inverse, mode);
	work->steps++;
}

static void
drop_trigger(FenceWork *work, Oid relid, const char *name,
			 const FenceTrigger *trigger)
{
	char	   *inverse = create_text(name, trigger->column);

	if (trigger->enabled != TRIGGER_FIRES_ON_ORIGIN)
		inverse = psprintf("%s; %s", inverse, enable_text(name, trigger->enabled));
	lock_tree_or_error(relid, AccessExclusiveLock);
	take_step(work, relid, template_make("DROP TRIGGER %s ON %R", name),
			  inverse, AccessExclusiveLock);
}

static void
not_ours(Oid relid, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("table %s has another trigger called %s",
					sql_relation(relid), name),
			 errhint("Rename it with: ALTER TRIGGER %s ON %s RENAME TO ...;",
					 name, sql_relation(relid))));
}

/* column: of the trigger for rows; NULL for the one for TRUNCATE */
static void
make_trigger(FenceWork *work, Oid relid, const char *name, const char *column)
{
	FenceTrigger trigger;

	if (find_trigger(relid, name, &trigger))
	{
		if (!trigger.ours)
			not_ours(relid, name);
		if (is_as_wanted(relid, name, column))
			return;
		if (column == NULL || (trigger.column && strcmp(trigger.column, column) == 0))
		{
			take_step(work, relid, enable_text(name, TRIGGER_FIRES_ON_ORIGIN),
					  enable_text(name, trigger.enabled), ShareRowExclusiveLock);
			return;
		}
		drop_trigger(work, relid, name, &trigger);
	}
	take_step(work, relid, create_text(name, column),
			  template_make("DROP TRIGGER IF EXISTS %s ON %R", name),
			  ShareRowExclusiveLock);
}

/* A partition that was fenced by itself stands in the way of its parent's */
static void
drop_below(FenceWork *work)
{
	List	   *tops = target_trigger_tables(work->root);
	FenceTrigger trigger;
	ListCell   *lc;

	foreach(lc, target_tree(work->root))
		if (!list_member_oid(tops, lfirst_oid(lc)) &&
			find_trigger(lfirst_oid(lc), FENCE_TRIGGER, &trigger) &&
			!trigger.clone)
		{
			if (!trigger.ours)
				not_ours(lfirst_oid(lc), FENCE_TRIGGER);
			drop_trigger(work, lfirst_oid(lc), FENCE_TRIGGER, &trigger);
		}
}

static void
make_triggers(FenceWork *work)
{
	ListCell   *lc;

	drop_below(work);
	foreach(lc, target_trigger_tables(work->root))
		make_trigger(work, lfirst_oid(lc), FENCE_TRIGGER, work->column);
	/* one that was switched off on a partition alone */
	foreach(lc, target_tree(work->root))
	{
		make_trigger(work, lfirst_oid(lc), FENCE_TRIGGER, work->column);
		make_trigger(work, lfirst_oid(lc), FENCE_TRUNCATE_TRIGGER, NULL);
	}
}

static void
drop_triggers(FenceWork *work)
{
	FenceTrigger trigger;
	ListCell   *lc;

	foreach(lc, target_tree(work->root))
	{
		Oid			relid = lfirst_oid(lc);

		if (find_trigger(relid, FENCE_TRUNCATE_TRIGGER, &trigger) && trigger.ours)
			drop_trigger(work, relid, FENCE_TRUNCATE_TRIGGER, &trigger);
		if (find_trigger(relid, FENCE_TRIGGER, &trigger) && trigger.ours &&
			(!trigger.clone))
			drop_trigger(work, relid, FENCE_TRIGGER, &trigger);
	}
}

/* --- the functions ---------------------------------------------------- */

static void
check_column(Oid relid, const char *name)
{
	TargetColumn column;

	target_check_column(relid, name, &column);
	if (fence_kind(column.type, column.collation) == FENCE_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("column %s of relation %s cannot be compared with the registry of tenants",
						quote_identifier(name), sql_relation(relid)),
				 errdetail("It is of type %s.", column.type_name),
				 errhint("Use a column of type text, varchar, char, citext, uuid, smallint, integer, bigint or an enum, or of a domain over one, with a deterministic collation.")));
}

static void
work_on(FenceWork *work, JobRequest *request, LOCKMODE mode)
{
	lock_tree_or_error(work->root, mode);
	work->job = job_record(request);
	if (work->column)
		make_triggers(work);
	else
		drop_triggers(work);
	job_record_end(work->job);
}

Datum
tenantmig_fence_tenants(PG_FUNCTION_ARGS)
{
	JobRequest	request = {.kind = "fence_tenants"};
	JsonObject *object = json_begin();
	FenceWork	work = {0};

	target_require(fcinfo, 0, "relation");
	target_require(fcinfo, 1, "column_name");
	work.root = PG_GETARG_OID(0);
	work.column = target_arg_name(fcinfo, 1);
	target_check_relation(work.root);
	check_column(work.root, work.column);

	json_put_text(object, "column", work.column);
	request.relid = work.root;
	request.arguments = json_end(object);
	request.describe = psprintf("fence of %s", sql_relation(work.root));
	work.job = job_reuse(&request);
	if (work.job != 0)
		PG_RETURN_INT64(work.job);
	work_on(&work, &request, ShareRowExclusiveLock);
	if (work.steps == 0)
		ereport(NOTICE,
				(errmsg("%s has its fence already; nothing was changed",
						sql_relation(work.root))));
	PG_RETURN_INT64(work.job);
}

Datum
tenantmig_unfence_tenants(PG_FUNCTION_ARGS)
{
	JobRequest	request = {.kind = "unfence_tenants"};
	FenceWork	work = {0};

	target_require(fcinfo, 0, "relation");
	work.root = PG_GETARG_OID(0);
	target_check_relation(work.root);

	request.relid = work.root;
	request.arguments = json_end(json_begin());
	request.describe = psprintf("fence of %s off", sql_relation(work.root));
	work.job = job_reuse(&request);
	if (work.job != 0)
		PG_RETURN_INT64(work.job);
	work_on(&work, &request, AccessExclusiveLock);
	if (work.steps == 0)
		ereport(NOTICE,
				(errmsg("%s has no fence; nothing was changed",
						sql_relation(work.root))));
	PG_RETURN_INT64(work.job);
}

/* --- afterwards ------------------------------------------------------- */

static bool
fence_holds(const Job *job, Oid relid)
{
	char	   *column = json_text(job->arguments, "column");
	ListCell   *lc;

	foreach(lc, target_tree(relid))
		if (!table_is_fenced(lfirst_oid(lc), column))
			return false;
	return true;
}

static bool
unfence_holds(const Job *job, Oid relid)
{
	FenceTrigger trigger;
	ListCell   *lc;

	foreach(lc, target_tree(relid))
		if ((find_trigger(lfirst_oid(lc), FENCE_TRIGGER, &trigger) && trigger.ours) ||
			(find_trigger(lfirst_oid(lc), FENCE_TRUNCATE_TRIGGER, &trigger) && trigger.ours))
			return false;
	return true;
}

static bool
begins_with(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

/*
 * What was made since under the name, or came with a new parent, stays: a
 * trigger is only dropped if it stands by itself, only made if there is none,
 * and only switched if it is there.
 */
static char *
fence_find_inverse(const Job *target, const JobStep *step, Oid relid)
{
	const char *name = strstr(step->statement, "TRIGGER ") + strlen("TRIGGER ");
	FenceTrigger trigger;
	bool		found;

	name = begins_with(name, FENCE_TRUNCATE_TRIGGER) ? FENCE_TRUNCATE_TRIGGER
		: FENCE_TRIGGER;
	found = find_trigger(relid, name, &trigger);
	if (found == begins_with(step->inverse, "CREATE") ||
		(found && !trigger.ours) ||
		(found && trigger.clone && begins_with(step->inverse, "DROP")))
		return NULL;
	return template_render(step->inverse, relid);
}

const StepOps fence_ops = {
	.kind = "fence_tenants",
	.holds = fence_holds,
	.find_inverse = fence_find_inverse,
};

const StepOps unfence_ops = {
	.kind = "unfence_tenants",
	.holds = unfence_holds,
	.find_inverse = fence_find_inverse,
};
