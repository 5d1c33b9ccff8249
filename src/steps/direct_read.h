/*
 * direct_read.h
 *		What is known of rows without a statement.
 */
#ifndef TENANTMIG_DIRECT_READ_H
#define TENANTMIG_DIRECT_READ_H

#include "access/htup.h"
#include "nodes/parsenodes.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "utils/rel.h"

#include "steps/pass.h"

/* Whether a statement of the role with these privileges would see the table as
 * it is, and be let in: no policies, no hooks that decide about permissions */
extern bool direct_access_is_plain(Relation relation, Oid role, AclMode privileges);

/* The row version at a place of a page, without a copy; false: there is none.
 * The page is locked */
static inline bool
direct_tuple(Relation relation, Buffer buffer, OffsetNumber offset, HeapTuple tuple)
{
	Page		page = BufferGetPage(buffer);
	ItemId		item;

	if (offset > PageGetMaxOffsetNumber(page))
		return false;
	item = PageGetItemId(page, offset);
	if (!ItemIdIsNormal(item))
		return false;
	tuple->t_data = (HeapTupleHeader) PageGetItem(page, item);
	tuple->t_len = ItemIdGetLength(item);
	tuple->t_tableOid = RelationGetRelid(relation);
	ItemPointerSet(&tuple->t_self, BufferGetBlockNumber(buffer), offset);
	return true;
}

/*
 * Count what the statement of the batch at hand would count, where that is
 * simple: rows of which none has a value yet, or all have one.  False: nothing
 * was counted.  In the transaction of the batch, as the owner.
 */
extern bool direct_count(const JobRun *run, Pass *pass);

#endif							/* TENANTMIG_DIRECT_READ_H */
