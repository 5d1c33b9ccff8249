/*
 * direct_read.c
 *		What is known of rows without a statement.
 *
 * A job counts the rows before it fills them, and looks for what is left
 * afterwards.  At first no row has a value, and in the end all have one: to see
 * that, the header of each row is enough.  A statement takes three times as long
 * for it.  As soon as a row is otherwise, it is the statement that counts.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/predicate.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "engine/compat.h"
#include "engine/give_way.h"
#include "steps/direct_read.h"

bool
direct_access_is_plain(Relation relation, Oid role, AclMode privileges)
{
	return relation->rd_rel->relam == HEAP_TABLE_AM_OID &&
		ExecutorCheckPerms_hook == NULL &&
		relation->rd_rules == NULL &&
		!relation->rd_rel->relrowsecurity &&
		pg_class_aclmask(RelationGetRelid(relation), role, privileges,
						 ACLMASK_ALL) == privileges &&
		namespace_aclcheck(RelationGetNamespace(relation), role,
						   ACL_USAGE) == ACLCHECK_OK;
}

/* The rows of a page that the snapshot sees, added to *rows; false: one of them
 * is not as wanted */
static bool
look_at_page(Relation relation, Buffer buffer, Snapshot snapshot,
			 AttrNumber column, bool null, int64 *rows)
{
	Page		page = BufferGetPage(buffer);
	OffsetNumber last = PageGetMaxOffsetNumber(page);
	bool		all_visible = PageIsAllVisible(page) && !snapshot->takenDuringRecovery;

	test_for_old_snapshot(snapshot, relation, page);
	for (OffsetNumber offset = FirstOffsetNumber; offset <= last; offset++)
	{
		HeapTupleData tuple;
		bool		visible;

		if (!direct_tuple(relation, buffer, offset, &tuple))
			continue;
		visible = all_visible ||
			HeapTupleSatisfiesVisibility(&tuple, snapshot, buffer);
		HeapCheckForSerializableConflictOut(visible, relation, &tuple, buffer, snapshot);
		if (!visible)
			continue;
		if (heap_attisnull(&tuple, column, RelationGetDescr(relation)) != null)
			return false;
		(*rows)++;
	}
	return true;
}

/* Whether the column of each row of the set is NULL, or of none; *rows: so many
 * there are */
static bool
all_rows_are(Relation relation, const RowSet *set, AttrNumber column, bool null,
			 int64 *rows)
{
	Snapshot	snapshot = GetActiveSnapshot();
	BufferAccessStrategy strategy = GetAccessStrategy(BAS_BULKREAD);
	BlockNumber end = RelationGetNumberOfBlocks(relation);
	bool		all = true;

	PredicateLockRelation(relation, snapshot);
	if (!set->open)
		end = Min(end, set->until);
	for (BlockNumber block = set->from; all && block < end; block++)
	{
		Buffer		buffer;

		CHECK_FOR_INTERRUPTS();
		give_way();
		buffer = ReadBufferExtended(relation, MAIN_FORKNUM, block, RBM_NORMAL, strategy);
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		all = look_at_page(relation, buffer, snapshot, column, null, rows);
		UnlockReleaseBuffer(buffer);
	}
	FreeAccessStrategy(strategy);
	return all;
}

/*
 * Of a row, (NULL, NULL) is null for a statement.  The first batch is always the
 * statement's: it finds out whether the owner may read what the source is made
 * of, before anything is changed.
 */
static bool
is_simple(const Pass *pass)
{
	const Source *source = pass->source;

	switch (pass->what)
	{
		case STATEMENT_COUNT:
			if (source->kind != SOURCE_VALUE && pass->plan == NULL)
				return false;
			break;
		case STATEMENT_RESIDUE:
			if (source->on_conflict == CONFLICT_OVERWRITE)
				return false;
			break;
		default:
			return false;
	}
	return source->unset == NULL && !type_is_rowtype(source->target.type) &&
		pass->set.tids == NULL && (pass->bad == NULL || pass->bad->count == 0);
}

bool
direct_count(const JobRun *run, Pass *pass)
{
	bool		before = pass->what == STATEMENT_COUNT;
	AttrNumber	column = get_attnum(pass->set.leaf, pass->source->column);
	Relation	relation;
	bool		counted = false;
	int64		rows = 0;

	if (!is_simple(pass) || column == InvalidAttrNumber)
		return false;
	relation = table_open(pass->set.leaf, NoLock);
	if (direct_access_is_plain(relation, run->owner, ACL_SELECT))
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		counted = all_rows_are(relation, &pass->set, column, before, &rows);
		PopActiveSnapshot();
	}
	table_close(relation, NoLock);
	if (counted && before)
		pass->counted[0] += rows;
	return counted;
}
