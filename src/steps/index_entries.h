/*
 * index_entries.h
 *		The index entries of row versions that a batch makes.
 */
#ifndef TENANTMIG_INDEX_ENTRIES_H
#define TENANTMIG_INDEX_ENTRIES_H

#include "access/tableam.h"
#include "nodes/execnodes.h"

#include "engine/compat.h"

typedef struct IndexEntries IndexEntries;

/*
 * For updates of "column" of the table in "result", whose indexes are open; in
 * the current memory context.  "tidy": let B-trees look for entries of dead row
 * versions before they split a page.
 */
extern IndexEntries *index_entries_begin(ResultRelInfo *result, EState *estate,
										 AttrNumber column, bool tidy);

/* Of the version in "slot", which has its place; "indexes" is what the update
 * said of them */
extern void index_entries_add(IndexEntries *entries, TupleTableSlot *slot,
							  UpdatedIndexes indexes);

/* All are in their indexes after this.  Raises what index_insert() raises. */
extern void index_entries_end(IndexEntries *entries);

#endif							/* TENANTMIG_INDEX_ENTRIES_H */
