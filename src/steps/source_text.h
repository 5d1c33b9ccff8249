/*
 * source_text.h
 *		Pieces of the statements of a backfill, shared by the files that write
 *		them (source.c, source_tree.c).
 *
 * All are palloc'd texts, qualified down to the operators.
 */
#ifndef TENANTMIG_SOURCE_TEXT_H
#define TENANTMIG_SOURCE_TEXT_H

#include "steps/source.h"

#define PARENT_ALIAS "tenantmig_parent"

/* --- source.c --- */

/* What a leaf is called in the statement, and a column of it */
extern const char *source_alias(const Source *source);
extern char *source_own_column(const Source *source, const char *name);
extern char *source_leaf_from(const Source *source, Oid leaf);

/* A constant of the column's type */
extern char *source_typed_literal(const Source *source, const char *text);

/* The value for a row, as text of an expression */
extern char *source_new_value(const Source *source);

/* Conditions; for via those about the source's value are true within the join
 * of parent_from and parent_join */
extern char *source_unset_text(const Source *source, const char *column);
extern char *source_needs_value(const Source *source);
extern char *source_wants_value(const Source *source);
extern char *source_takes_value(const Source *source);
extern char *source_has_value(const Source *source);
extern char *source_equals_stored(const Source *source);
extern char *source_differs(const Source *source);
extern char *source_parent_from(const Source *source);
extern char *source_parent_join(const Source *source);
extern char *source_in_places(const Source *source, int places);

/* --- source_tree.c --- */

/* WITH ... (tid of a row, value for it), and its columns */
#define GIVEN "tenantmig_given"
#define ROW_TID "tenantmig_tid"

extern bool source_climbs(const Source *source, Oid leaf);
extern char *source_with_tree(const Source *source, Oid leaf,
							  const char *start);
extern char *source_leaf_with_given(const Source *source, Oid leaf);
extern char *source_tree_count(const Source *source, Oid leaf, int places,
							   const char *orphan_value);
extern char *source_tree_fill(const Source *source, Oid leaf, int places,
							  bool unlocked);
extern char *source_tree_unfill(const Source *source, Oid leaf,
								const char *orphan_value, int places,
								bool unlocked);

#endif /* TENANTMIG_SOURCE_TEXT_H */
