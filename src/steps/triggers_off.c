/*
 * triggers_off.c
 *		Updates that do not fire the triggers of a table.
 *
 * session_replication_role would do it for all that runs meanwhile: a function
 * of the owner's that the update calls could then write to tables of others
 * past their foreign keys and their triggers, which is why only superusers may
 * set it.  It also skips foreign keys and deferrable constraints of the table
 * itself, and rules, and wakes up what is ENABLE REPLICA.
 *
 * So the triggers are taken out of what the executor knows of the tables that
 * this one statement changes, when it starts.  What the server makes for
 * constraints stays; so does what is ENABLE ALWAYS.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "nodes/execnodes.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "engine/compat.h"
#include "steps/target.h"
#include "steps/triggers_off.h"

/* The statement whose triggers are off, which, and who has the hook besides us */
static const char *quiet_text = NULL;
static TriggersOff quiet_which;
static int64 quiet_job;
static Oid	quiet_leaf;
static ExecutorStart_hook_type next_hook = NULL;

bool
triggers_off_silenced(const Trigger *trigger)
{
	return !trigger->tgisinternal &&
		trigger->tgenabled != TRIGGER_FIRES_ALWAYS;
}

static bool
fires_before_update(const Trigger *trigger)
{
	return trigger->tgenabled != TRIGGER_DISABLED &&
		TRIGGER_TYPE_MATCHES(trigger->tgtype, TRIGGER_TYPE_ROW,
							 TRIGGER_TYPE_BEFORE, TRIGGER_TYPE_UPDATE);
}

bool
triggers_off_own(const Trigger *trigger, int64 job)
{
	return trigger->tgnargs == 1 &&
		strcmp(trigger->tgargs[0], psprintf(INT64_FORMAT, job)) == 0 &&
		trigger->tgfoid == LookupFuncName(list_make2(makeString("tenantmig"),
													 makeString("fill_tenant")),
										  0, NULL, false);
}

/* Whether the job's own trigger is the only one that could change the row */
static bool
own_is_alone(const TriggerDesc *desc)
{
	bool		found = false;

	for (int i = 0; i < desc->numtriggers; i++)
	{
		if (!fires_before_update(&desc->triggers[i]))
			continue;
		if (!triggers_off_own(&desc->triggers[i], quiet_job))
			return false;
		found = true;
	}
	return found;
}

static bool
is_quiet(const Trigger *trigger)
{
	if (quiet_which == TRIGGERS_OFF_ALL)
		return triggers_off_silenced(trigger);
	return fires_before_update(trigger);
}

/* What an UPDATE looks at: for rows of a table, which is no view */
static void
add_trigger(TriggerDesc *desc, const Trigger *trigger)
{
	int16		type = trigger->tgtype;

	desc->triggers[desc->numtriggers++] = *trigger;
	if (!TRIGGER_FOR_UPDATE(type))
		return;
	desc->trig_update_before_row |=
		TRIGGER_TYPE_MATCHES(type, TRIGGER_TYPE_ROW,
							 TRIGGER_TYPE_BEFORE, TRIGGER_TYPE_UPDATE);
	desc->trig_update_after_row |=
		TRIGGER_TYPE_MATCHES(type, TRIGGER_TYPE_ROW,
							 TRIGGER_TYPE_AFTER, TRIGGER_TYPE_UPDATE);
	desc->trig_update_before_statement |=
		TRIGGER_TYPE_MATCHES(type, TRIGGER_TYPE_STATEMENT,
							 TRIGGER_TYPE_BEFORE, TRIGGER_TYPE_UPDATE);
	desc->trig_update_after_statement |=
		TRIGGER_TYPE_MATCHES(type, TRIGGER_TYPE_STATEMENT,
							 TRIGGER_TYPE_AFTER, TRIGGER_TYPE_UPDATE);
	desc->trig_update_old_table |= TRIGGER_USES_TRANSITION_TABLE(trigger->tgoldtable);
	desc->trig_update_new_table |= TRIGGER_USES_TRANSITION_TABLE(trigger->tgnewtable);
}

/* In the executor's own memory, and of its own copy of the description */
static void
silence(EState *estate, ResultRelInfo *info)
{
	TriggerDesc *all = info->ri_TrigDesc;
	MemoryContext old;
	TriggerDesc *desc;

	if (all == NULL || (quiet_which == TRIGGERS_OFF_OWN && !own_is_alone(all)))
		return;
	old = MemoryContextSwitchTo(estate->es_query_cxt);
	desc = palloc0(sizeof(TriggerDesc));
	desc->triggers = palloc(sizeof(Trigger) * all->numtriggers);
	for (int i = 0; i < all->numtriggers; i++)
		if (!is_quiet(&all->triggers[i]))
			add_trigger(desc, &all->triggers[i]);
	info->ri_TrigDesc = desc->numtriggers > 0 ? desc : NULL;
	/* by position: computed when they are first needed */
	if (desc->numtriggers > 0)
	{
		info->ri_TrigFunctions = palloc0(sizeof(FmgrInfo) * desc->numtriggers);
		info->ri_TrigWhenExprs = palloc0(sizeof(ExprState *) * desc->numtriggers);
	}
	MemoryContextSwitchTo(old);
}

/* Nobody is left to read the old and the new rows as tables */
static void
forget_transition_tables(QueryDesc *query)
{
	ModifyTableState *state = (ModifyTableState *) query->planstate;
	ListCell   *lc;

	if (!IsA(state, ModifyTableState))
		return;
	foreach(lc, query->estate->es_opened_result_relations)
	{
		TriggerDesc *desc = ((ResultRelInfo *) lfirst(lc))->ri_TrigDesc;

		if (desc && (desc->trig_update_old_table || desc->trig_update_new_table))
			return;
	}
	state->mt_transition_capture = NULL;
}

static void
start_silenced(QueryDesc *query, int eflags)
{
	ListCell   *lc;

	if (next_hook)
		next_hook(query, eflags);
	else
		standard_ExecutorStart(query, eflags);
	/* planning may have run queries of the user's functions before ours */
	if (quiet_text == NULL || strcmp(query->sourceText, quiet_text) != 0)
		return;
	/* of the leaf only: a function of the owner's may have made the same text
	 * mean another table */
	foreach(lc, query->estate->es_opened_result_relations)
	{
		ResultRelInfo *info = lfirst(lc);

		if (RelationGetRelid(info->ri_RelationDesc) != quiet_leaf)
			return;
		silence(query->estate, info);
	}
	forget_transition_tables(query);
}

int
triggers_off_execute(SPIPlanPtr plan, const char *text, Datum *values,
					 TriggersOff which, int64 job, Oid leaf)
{
	int			result = 0;

	next_hook = ExecutorStart_hook;
	ExecutorStart_hook = start_silenced;
	quiet_text = text;
	quiet_which = which;
	quiet_job = job;
	quiet_leaf = leaf;
	PG_TRY();
	{
		result = SPI_execute_plan(plan, values, NULL, false, 0);
	}
	PG_FINALLY();
	{
		quiet_text = NULL;
		ExecutorStart_hook = next_hook;
	}
	PG_END_TRY();
	return result;
}

/* Whether an update of the column alone would fire it */
static bool
fires_for(const Trigger *trigger, AttrNumber attnum)
{
	if (!TRIGGER_FOR_UPDATE(trigger->tgtype) ||
		trigger->tgenabled == TRIGGER_DISABLED ||
		trigger->tgenabled == TRIGGER_FIRES_ON_REPLICA)
		return false;
	for (int i = 0; i < trigger->tgnattr; i++)
		if (trigger->tgattr[i] == attnum)
			return true;
	return trigger->tgnattr == 0;
}

List *
triggers_not_fired(const Source *source)
{
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, target_leaves(source->relid))
	{
		Relation	leaf = table_open(lfirst_oid(lc), AccessShareLock);
		AttrNumber	attnum = get_attnum(RelationGetRelid(leaf), source->column);

		for (int i = 0; leaf->trigdesc && i < leaf->trigdesc->numtriggers; i++)
		{
			Trigger    *trigger = &leaf->trigdesc->triggers[i];

			if (triggers_off_silenced(trigger) && fires_for(trigger, attnum) &&
				!list_member(names, makeString(trigger->tgname)))
				names = lappend(names, makeString(pstrdup(trigger->tgname)));
		}
		table_close(leaf, NoLock);
	}
	foreach(lc, names)
		lfirst(lc) = strVal(lfirst(lc));
	return names;
}
