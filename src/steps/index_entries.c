/*
 * index_entries.c
 *		The index entries of row versions that a batch makes.
 *
 * ExecInsertIndexTuples() makes the entries of a row in all indexes, then those
 * of the next row, so that nothing of an index is in the processor's caches when
 * its turn comes.  Here the entries of a batch are gathered, and each B-tree
 * gets its own in its own order.  Nobody can look for them before: the batch
 * has not committed, and who waits for the row that it has updated finds the
 * new version by the old one, or looks again when it has.
 *
 * Where the column is no part of an index, the keys of a new version are those
 * of the old one.  So a unique index is not asked whether they are taken: they
 * are, by the old version, and until the batch ends nobody else can take them.
 * Only a valid index knows that.  One that is being built may not have the old
 * versions of two rows that it is to find fault with.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/itup.h"
#include "access/sysattr.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "utils/rel.h"
#include "utils/tuplesort.h"

#include "engine/give_way.h"
#include "steps/index_entries.h"
#include "steps/write_behind.h"

typedef struct OneIndex
{
	Relation	index;
	IndexInfo  *info;
	IndexUniqueCheck check;
	bool		unchanged;
	Tuplesortstate *sort;		/* made with the first entry; B-trees only */
} OneIndex;

struct IndexEntries
{
	ResultRelInfo *result;
	EState	   *estate;
	int			count;
	OneIndex   *indexes;
};

static bool
depends_on(IndexInfo *info, AttrNumber column)
{
	Bitmapset  *columns = NULL;

	for (int i = 0; i < info->ii_NumIndexAttrs; i++)
		if (info->ii_IndexAttrNumbers[i] == column)
			return true;
	pull_varattnos((Node *) info->ii_Expressions, 1, &columns);
	pull_varattnos((Node *) info->ii_Predicate, 1, &columns);
	return bms_is_member(column - FirstLowInvalidHeapAttributeNumber, columns) ||
		bms_is_member(0 - FirstLowInvalidHeapAttributeNumber, columns);
}

static IndexUniqueCheck
needed_check(Relation index, bool changed)
{
	if (!index->rd_index->indisunique)
		return UNIQUE_CHECK_NO;
	return changed || !index->rd_index->indisvalid ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO;
}

IndexEntries *
index_entries_begin(ResultRelInfo *result, EState *estate, AttrNumber column, bool tidy)
{
	IndexEntries *entries = palloc0(sizeof(IndexEntries));

	entries->result = result;
	entries->estate = estate;
	entries->indexes = palloc0(Max(result->ri_NumIndices, 1) * sizeof(OneIndex));
	for (int i = 0; i < result->ri_NumIndices; i++)
	{
		OneIndex   *one = &entries->indexes[entries->count];
		bool		changed;

		one->index = result->ri_IndexRelationDescs[i];
		one->info = result->ri_IndexRelationInfo[i];
		if (!one->info->ii_ReadyForInserts)
			continue;
		changed = depends_on(one->info, column);
		one->check = needed_check(one->index, changed);
		one->unchanged = tidy && !changed;
		if (one->info->ii_Predicate != NIL)
			one->info->ii_PredicateState =
				ExecPrepareQual(one->info->ii_Predicate, estate);
		entries->count++;
	}
	return entries;
}

static void
insert(IndexEntries *entries, OneIndex *one, ItemPointer tid, Datum *values, bool *isnull)
{
	(void) index_insert(one->index, values, isnull, tid,
						entries->result->ri_RelationDesc, one->check,
						one->unchanged, one->info);
}

static void
keep(IndexEntries *entries, OneIndex *one, ItemPointer tid, Datum *values, bool *isnull)
{
	if (one->sort == NULL)
		one->sort = tuplesort_begin_index_btree(entries->result->ri_RelationDesc,
												one->index, false, false,
												Max(work_mem / entries->count, 64), NULL,
												TUPLESORT_NONE);
	tuplesort_putindextuplevalues(one->sort, one->index, tid, values, isnull);
}

void
index_entries_add(IndexEntries *entries, TupleTableSlot *slot, UpdatedIndexes indexes)
{
	ExprContext *context = GetPerTupleExprContext(entries->estate);

	context->ecxt_scantuple = slot;
	for (int i = 0; i < entries->count; i++)
	{
		OneIndex   *one = &entries->indexes[i];
		Datum		values[INDEX_MAX_KEYS];
		bool		isnull[INDEX_MAX_KEYS];

		if (!index_is_updated(one->info, indexes) ||
			(one->info->ii_PredicateState &&
			 !ExecQual(one->info->ii_PredicateState, context)))
			continue;
		FormIndexDatum(one->info, slot, entries->estate, values, isnull);
		if (one->index->rd_rel->relam == BTREE_AM_OID)
			keep(entries, one, &slot->tts_tid, values, isnull);
		else
			insert(entries, one, &slot->tts_tid, values, isnull);
	}
}

static void
insert_sorted(IndexEntries *entries, OneIndex *one)
{
	TupleDesc	desc = RelationGetDescr(one->index);
	IndexTuple	entry;

	tuplesort_performsort(one->sort);
	while ((entry = tuplesort_getindextuple(one->sort, true)) != NULL)
	{
		Datum		values[INDEX_MAX_KEYS];
		bool		isnull[INDEX_MAX_KEYS];

		CHECK_FOR_INTERRUPTS();
		give_way();
		index_deform_tuple(entry, desc, values, isnull);
		insert(entries, one, &entry->t_tid, values, isnull);
		write_behind_wal();
	}
	tuplesort_end(one->sort);
	one->sort = NULL;
}

void
index_entries_end(IndexEntries *entries)
{
	for (int i = 0; i < entries->count; i++)
		if (entries->indexes[i].sort)
			insert_sorted(entries, &entries->indexes[i]);
}
