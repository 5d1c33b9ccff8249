/*
 * direct_update.c
 *		Updates of rows that are known by their places, without a statement.
 *
 * A third of the time of "UPDATE ... WHERE ctid = ANY($1)", and a sixth of that
 * of a range of them, goes into finding each row twice and into carrying it
 * through the plan.  So where the table is an ordinary one, the row is read,
 * given its value and put back here, with the functions that the executor and
 * the apply worker of logical replication use for it: constraints are checked,
 * indexes are kept up, a row that somebody holds is waited for in the same way.
 *
 * All that is out of the ordinary is left to the statement: triggers that
 * would fire, rules, policies, generated columns, a foreign key on the column,
 * exclusion constraints, volatile checks, placeholders, a set that failed.
 * And a row that has changed since it was seen is left to the next lap, or to
 * the sweep.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/nodes.h"
#include "optimizer/optimizer.h"
#include "storage/bufmgr.h"
#include "storage/predicate.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/give_way.h"
#include "steps/direct_read.h"
#include "steps/direct_update.h"
#include "steps/index_entries.h"
#include "steps/parent_lookup.h"
#include "steps/source_text.h"
#include "steps/triggers_off.h"
#include "steps/write_behind.h"

typedef struct DirectUpdate
{
	Relation	relation;
	AttrNumber	column;
	bool		constrained;
	CommandId	command;
	Snapshot	snapshot;
	EState	   *estate;
	ResultRelInfo *result;
	IndexEntries *entries;
	TupleTableSlot *old;
	TupleTableSlot *new;

	Datum		value;			/* SOURCE_VALUE */
	ParentLookup *lookup;		/* SOURCE_VIA */
	ParentReader *reader;
	int			nkeys;
	AttrNumber	keys[INDEX_MAX_KEYS];
} DirectUpdate;

/* --- what can be done so --------------------------------------------- */

/* Foreign keys over other columns need no new check when this one changes */
static bool
has_foreign_key_on(Relation relation, AttrNumber column)
{
	ListCell   *lc;

	foreach(lc, RelationGetFKeyList(relation))
	{
		ForeignKeyCacheInfo *key = lfirst(lc);

		for (int i = 0; i < key->nkeys; i++)
			if (key->conkey[i] == column)
				return true;
	}
	return false;
}

/* It may look for other rows of the batch, whose index entries are not there */
static bool
has_volatile_check(Relation relation)
{
	TupleConstr *constr = RelationGetDescr(relation)->constr;

	for (int i = 0; constr && i < constr->num_check; i++)
		if (contain_volatile_functions(stringToNode(constr->check[i].ccbin)))
			return true;
	return false;
}

static bool
has_exclusion_constraint(Relation relation)
{
	List	   *indexes = RelationGetIndexList(relation);
	bool		has = false;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(lc)));

		if (!HeapTupleIsValid(tuple))
			continue;
		has = has || ((Form_pg_index) GETSTRUCT(tuple))->indisexclusion;
		ReleaseSysCache(tuple);
	}
	list_free(indexes);
	return has;
}

/*
 * Whether something fires that is more than the check of a foreign key.  The
 * relation cache may throw its own description away while we look up what a
 * trigger calls.
 */
static bool
fires_triggers(Relation relation, const JobRun *run, const Pass *pass)
{
	TriggerDesc *desc = CopyTriggerDesc(relation->trigdesc);

	for (int i = 0; desc && i < desc->numtriggers; i++)
	{
		const Trigger *trigger = &desc->triggers[i];

		if (!TRIGGER_FOR_UPDATE(trigger->tgtype) ||
			trigger->tgenabled == TRIGGER_DISABLED ||
			RI_FKey_trigger_type(trigger->tgfoid) != RI_TRIGGER_NONE ||
			triggers_off_own(trigger, run->job->id) ||
			(pass->triggers_off && triggers_off_silenced(trigger)))
			continue;
		return true;
	}
	return false;
}

/* The type may have got another length since the job began, and a child of its
 * own may have lost the column */
static bool
has_type_of(Relation relation, AttrNumber column, const TargetColumn *target)
{
	Form_pg_attribute att;

	if (column == InvalidAttrNumber)
		return false;
	att = TupleDescAttr(RelationGetDescr(relation), column - 1);
	return att->atttypid == target->type && att->atttypmod == target->typmod;
}

static bool
is_ordinary(Relation relation, AttrNumber column, const JobRun *run,
			const Pass *pass)
{
	return direct_access_is_plain(relation, run->owner, ACL_SELECT | ACL_UPDATE) &&
		has_type_of(relation, column, &pass->source->target) &&
		!fires_triggers(relation, run, pass) &&
		!has_foreign_key_on(relation, column) &&
		!has_exclusion_constraint(relation) &&
		!has_volatile_check(relation) &&
		!has_generated_columns(RelationGetDescr(relation));
}

static bool
is_simple(const Pass *pass)
{
	const Source *source = pass->source;

	return pass->what == STATEMENT_FILL && !pass->pass_over_locked &&
		pass->parts == NIL &&
		(pass->bad == NULL || pass->bad->count == 0) &&
		source->unset == NULL && !type_is_rowtype(source->target.type) &&
		source->on_conflict != CONFLICT_OVERWRITE &&
		(source->kind == SOURCE_VALUE ||
		 (source->kind == SOURCE_VIA && !source_climbs(source, pass->set.leaf)));
}

/* --- the value ------------------------------------------------------- */

static bool
prepare_value(DirectUpdate *update, const JobRun *run, const Pass *pass)
{
	const Source *source = pass->source;
	ListCell   *lc;

	if (source->kind == SOURCE_VALUE)
	{
		update->value = target_value(&source->target, source->value);
		return true;
	}
	update->lookup = parent_lookup_prepare(source, pass->set.leaf, run->owner);
	if (update->lookup == NULL)
		return false;
	foreach(lc, source->child_columns)
		update->keys[update->nkeys++] = get_attnum(pass->set.leaf, lfirst(lc));
	return true;
}

/* The value of the row in "old", if the source has one */
static bool
find_value(DirectUpdate *update, Datum *value)
{
	Datum		key[INDEX_MAX_KEYS];
	bool		isnull;

	if (update->reader == NULL)
	{
		*value = update->value;
		return true;
	}
	for (int i = 0; i < update->nkeys; i++)
	{
		key[i] = slot_getattr(update->old, update->keys[i], &isnull);
		if (isnull)
			return false;
	}
	*value = parent_reader_value(update->reader, key, &isnull);
	return !isnull;
}

/* --- a row ----------------------------------------------------------- */

/* In "new", the row in "old" with the value; dropped columns lose theirs, as in
 * any update */
static void
give_value(DirectUpdate *update, Datum value)
{
	TupleDesc	desc = RelationGetDescr(update->relation);
	TupleTableSlot *old = update->old;
	TupleTableSlot *new = update->new;

	slot_getallattrs(old);
	ExecClearTuple(new);
	memcpy(new->tts_values, old->tts_values, desc->natts * sizeof(Datum));
	memcpy(new->tts_isnull, old->tts_isnull, desc->natts * sizeof(bool));
	for (int i = 0; i < desc->natts; i++)
		if (TupleDescAttr(desc, i)->attisdropped)
			new->tts_isnull[i] = true;
	new->tts_values[update->column - 1] = value;
	new->tts_isnull[update->column - 1] = false;
	ExecStoreVirtualTuple(new);
	new->tts_tableOid = RelationGetRelid(update->relation);
}

static void
check_constraints(DirectUpdate *update)
{
	if (update->constrained)
		ExecConstraints(update->result, update->new, update->estate);
	if (update->relation->rd_rel->relispartition)
		(void) ExecPartitionCheck(update->result, update->new, update->estate, true);
}

/* False: the row is not there any more, or has another version by now */
static bool
put_back(DirectUpdate *update, ItemPointer tid)
{
	TM_FailureData failure;
	LockTupleMode mode;
	UpdatedIndexes indexes;
	TM_Result	result;

	result = table_tuple_update(update->relation, tid, update->new, update->command,
								update->snapshot, InvalidSnapshot, true,
								&failure, &mode, &indexes);
	switch (result)
	{
		case TM_Ok:
			if (any_index_updated(indexes))
				index_entries_add(update->entries, update->new, indexes);
			return true;
		case TM_Updated:
		case TM_Deleted:
		case TM_SelfModified:
			return false;
		default:
			elog(ERROR, "unexpected result of an update: %d", result);
			return false;
	}
}

/* The row in "old" */
static bool
update_row(DirectUpdate *update)
{
	bool		isnull;
	Datum		value;
	MemoryContext old;
	bool		found;

	(void) slot_getattr(update->old, update->column, &isnull);
	if (!isnull)
		return false;
	ResetPerTupleExprContext(update->estate);
	old = MemoryContextSwitchTo(GetPerTupleMemoryContext(update->estate));
	found = find_value(update, &value);
	MemoryContextSwitchTo(old);
	if (!found)
		return false;
	give_value(update, value);
	check_constraints(update);
	return put_back(update, &update->old->tts_tid);
}

/* --- a batch --------------------------------------------------------- */

static void
begin(DirectUpdate *update, const JobRun *run, Pass *pass)
{
	TupleConstr *constraints = RelationGetDescr(update->relation)->constr;

	CheckCmdReplicaIdentity(update->relation, CMD_UPDATE);
	PushActiveSnapshot(GetTransactionSnapshot());
	update->snapshot = GetActiveSnapshot();
	update->command = GetCurrentCommandId(true);
	update->constrained = constraints != NULL;
	update->estate = CreateExecutorState();
	update->estate->es_snapshot = update->snapshot;
	update->estate->es_output_cid = update->command;
	update->result = makeNode(ResultRelInfo);
	InitResultRelInfo(update->result, update->relation, 0, NULL, 0);
	ExecOpenIndices(update->result, false);

	/*
	 * By pages, it keeps B-trees from growing that they look for entries of dead
	 * row versions.  By ranges, where each row gets a new entry, they would find
	 * a few at a time, again and again, for a quarter of the time, and split
	 * their pages all the same.
	 */
	update->entries = index_entries_begin(update->result, update->estate,
										  update->column, pass->set.tids != NULL);
	update->old = pass->set.tids
		? MakeSingleTupleTableSlot(RelationGetDescr(update->relation), &TTSOpsHeapTuple)
		: table_slot_create(update->relation, NULL);
	update->new = table_slot_create(update->relation, NULL);
	if (update->lookup == NULL)
		return;
	if (pass->parents == NULL)
		pass->parents = parent_places_make(run->context);
	update->reader = parent_reader_open(update->lookup, pass->parents);
}

static void
finish(DirectUpdate *update)
{
	index_entries_end(update->entries);
	if (update->reader)
		parent_reader_close(update->reader);
	ExecDropSingleTupleTableSlot(update->new);
	ExecDropSingleTupleTableSlot(update->old);
	ExecCloseIndices(update->result);
	FreeExecutorState(update->estate);
	PopActiveSnapshot();
	CommandCounterIncrement();
}

/*
 * Copies of the rows at places of one page, and the number of the places.  The
 * page is looked up and locked once for all of them.
 */
static int
read_page(DirectUpdate *update, const ItemPointerData *tids, int count,
		  HeapTuple *rows, int *found)
{
	BlockNumber block = ItemPointerGetBlockNumber(&tids[0]);
	Buffer		buffer = ReadBuffer(update->relation, block);
	int			i;

	*found = 0;
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	test_for_old_snapshot(update->snapshot, update->relation, BufferGetPage(buffer));
	for (i = 0; i < count && ItemPointerGetBlockNumber(&tids[i]) == block &&
		 *found < MaxHeapTuplesPerPage; i++)
	{
		HeapTupleData tuple;
		bool		visible;

		if (!direct_tuple(update->relation, buffer,
						  ItemPointerGetOffsetNumber(&tids[i]), &tuple))
			continue;
		visible = HeapTupleSatisfiesVisibility(&tuple, update->snapshot, buffer);
		HeapCheckForSerializableConflictOut(visible, update->relation, &tuple,
											buffer, update->snapshot);
		if (!visible)
			continue;
		PredicateLockTID(update->relation, &tuple.t_self, update->snapshot,
						 HeapTupleHeaderGetXmin(tuple.t_data));
		rows[(*found)++] = heap_copytuple(&tuple);
	}
	UnlockReleaseBuffer(buffer);
	return i;
}

static int64
update_listed(DirectUpdate *update, const RowSet *set)
{
	ItemPointerData *tids = (ItemPointerData *) ARR_DATA_PTR(set->tids);
	TupleTableSlot *slot = update->old;
	HeapTuple	found[MaxHeapTuplesPerPage];
	int64		rows = 0;
	int			count;

	for (int i = 0; i < set->count;)
	{
		CHECK_FOR_INTERRUPTS();
		i += read_page(update, &tids[i], set->count - i, found, &count);
		for (int j = 0; j < count; j++)
		{
			give_way();
			ExecStoreHeapTuple(found[j], slot, true);
			if (update_row(update))
				rows++;
		}
		write_behind_wal();
	}
	ExecClearTuple(slot);
	return rows;
}

/* Versions that are made meanwhile are not seen by the snapshot */
static int64
update_range(DirectUpdate *update, const RowSet *set)
{
	ItemPointerData first;
	ItemPointerData last;
	TableScanDesc scan;
	int64		rows = 0;

	ItemPointerSet(&first, set->from, 0);
	ItemPointerSet(&last, set->open ? MaxBlockNumber : set->until - 1, MaxOffsetNumber);
	scan = table_beginscan_tidrange(update->relation, update->snapshot, &first, &last);
	while (table_scan_getnextslot_tidrange(scan, ForwardScanDirection, update->old))
	{
		CHECK_FOR_INTERRUPTS();
		give_way();
		if (update_row(update))
			rows++;
		write_behind_wal();
	}
	table_endscan(scan);
	return rows;
}

bool
direct_update(JobRun *run, Pass *pass, int64 *rows)
{
	DirectUpdate update = {0};
	bool		possible;

	if (!is_simple(pass))
		return false;
	update.relation = table_open(pass->set.leaf, NoLock);
	update.column = get_attnum(pass->set.leaf, pass->source->column);
	possible = is_ordinary(update.relation, update.column, run, pass) &&
		prepare_value(&update, run, pass);
	if (possible)
	{
		begin(&update, run, pass);
		*rows = pass->set.tids ? update_listed(&update, &pass->set)
			: update_range(&update, &pass->set);
		finish(&update);
	}
	table_close(update.relation, NoLock);
	return possible;
}
