/*
 * index_options.h
 *		What create_index can say beside the columns, checked.
 */
#ifndef TENANTMIG_INDEX_OPTIONS_H
#define TENANTMIG_INDEX_OPTIONS_H

#include "nodes/parsenodes.h"
#include "utils/jsonb.h"

/* What stands in WITH (...), from an object of names and values; NULL for none.
 * Whether the method knows them is checked by index_check_storage(). */
extern char *index_storage_text(Jsonb *storage);
extern void index_check_storage(List *options, Oid method);

/* It exists, and the owner of the table may create in it */
extern void index_check_tablespace(const char *tablespace, Oid relid);

/* On a partitioned table a unique index must have the columns that tell its
 * partitions apart, at every level */
extern void index_check_unique(Oid relid, List *names);

#endif							/* TENANTMIG_INDEX_OPTIONS_H */
