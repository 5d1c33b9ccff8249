/*
 * source_tree.c
 *		The statements of a backfill whose rows take their value from the same table.
 *
 * Where a row takes its value from another one of the same table, joining each
 * with its parent would fill one level of the tree at a time, and a chain of
 * ten thousand in as many passes.  So from the rows of the batch we climb as
 * long as the row above needs a value too, each row once however many are
 * below it.  All of them get the value above the topmost that they come to:
 * a batch fills all rows that it has come by, and a pass the whole table,
 * whatever the order of the rows in it.
 *
 * LATERAL and LIMIT make each step a lookup in the index of the key, and
 * tree_tops() follows the steps in memory, as no estimate of the size of a
 * recursion is worth anything.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "engine/compat.h"
#include "engine/sqltext.h"
#include "steps/source_text.h"

#define CLIMB "tenantmig_climb"

/* Whether the statements for a leaf climb.  Not where rows of the leaf and
 * those that they refer to are in different tables for certain. */
bool
source_climbs(const Source *source, Oid leaf)
{
	return source->kind == SOURCE_VIA && source->parent == source->relid &&
		(leaf == source->relid ||
		 get_rel_relkind(source->relid) == RELKIND_PARTITIONED_TABLE);
}

bool
source_wants_ranges(const Source *source)
{
	return source->on_conflict == CONFLICT_OVERWRITE ||
		(source->kind == SOURCE_VIA && source->parent == source->relid);
}

/* The row above, if it needs a value; from and where find the row below it */
static char *
step_up(const Source *source, Oid leaf, const char *from, const char *where)
{
	return psprintf("LEFT JOIN LATERAL (SELECT " PARENT_ALIAS ".ctid AS up "
					"FROM %sONLY %s AS " PARENT_ALIAS " WHERE %s%s AND %s "
					"LIMIT 1) link ON true",
					from, sql_relation(leaf), where, source_parent_join(source),
					source_unset_text(source, psprintf(PARENT_ALIAS ".%s",
											  quote_identifier(source->column))));
}

/*
 * WITH tenantmig_given (tid of a row, the value for it), starting from the
 * rows of the leaf for which a condition holds.
 */
char *
source_with_tree(const Source *source, Oid leaf, const char *start)
{
	const char *column = quote_identifier(source->column);
	char	   *row = source_leaf_from(source, leaf);
	char	   *has_tid = psprintf("%s.ctid OPERATOR(pg_catalog.=)", source_alias(source));
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "WITH RECURSIVE " CLIMB " (tid, up) AS ("
					 "SELECT %s.ctid, link.up FROM %s %s WHERE %s UNION ",
					 source_alias(source), row, step_up(source, leaf, "", ""), start);
	appendStringInfo(&buf, "SELECT " CLIMB ".up, link.up FROM " CLIMB " %s ",
					 step_up(source, leaf, psprintf("%s, ", row),
							 psprintf("%s " CLIMB ".up AND ", has_tid)));
	appendStringInfo(&buf, "WHERE " CLIMB ".up IS NOT NULL), "
					 GIVEN " (" ROW_TID ", %s) AS MATERIALIZED ("
					 "SELECT tops.tid, link.%s FROM (SELECT pg_catalog.array_agg(tid) AS tids, "
					 "pg_catalog.array_agg(up) AS ups FROM " CLIMB ") climbed, "
					 "LATERAL tenantmig.tree_tops(climbed.tids, climbed.ups) tops, ",
					 column, column);
	appendStringInfo(&buf, "LATERAL (SELECT " PARENT_ALIAS ".%s FROM %s, %s "
					 "WHERE %s tops.top AND %s AND %s LIMIT 1) link) ",
					 column, row, source_parent_from(source), has_tid,
					 source_parent_join(source), source_has_value(source));
	return buf.data;
}

/* The rows of a leaf, each with the value from above, if there is one */
char *
source_leaf_with_given(const Source *source, Oid leaf)
{
	return psprintf("%s LEFT JOIN " GIVEN " AS " PARENT_ALIAS
					" ON " PARENT_ALIAS "." ROW_TID " OPERATOR(pg_catalog.=) %s.ctid",
					source_leaf_from(source, leaf), source_alias(source));
}

/* As for all others, where "the value of the source" is the one from above,
 * over rows that have none yet, or none any more */
char *
source_tree_count(const Source *source, Oid leaf, int places,
					 const char *orphan_value)
{
	char	   *same = source_equals_stored(source);

	if (orphan_value)
		same = psprintf("(%s OR %s %s %s)", same, source_own_column(source, source->column),
						sql_equality(source->target.type),
						source_typed_literal(source, orphan_value));
	return psprintf("%sSELECT pg_catalog.count(*) FILTER (WHERE %s), "
					"pg_catalog.count(*) FILTER (WHERE NOT (%s)), "
					"pg_catalog.count(*) FILTER (WHERE NOT (%s) AND %s), "
					"pg_catalog.count(*) FILTER (WHERE %s) FROM %s WHERE %s",
					source_with_tree(source, leaf, source_in_places(source, places)),
					source_needs_value(source), source_needs_value(source),
					source_needs_value(source), same, source_differs(source),
					source_leaf_with_given(source, leaf), source_in_places(source, places));
}

char *
source_tree_unfill(const Source *source, Oid leaf, const char *orphan_value,
					  int places, bool unlocked)
{
	char	   *same = source_equals_stored(source);

	if (orphan_value)
		same = psprintf("(%s OR %s %s %s)", same, source_own_column(source, source->column),
						sql_equality(source->target.type),
						source_typed_literal(source, orphan_value));
	return psprintf("%sUPDATE %s SET %s = %s WHERE %s.ctid OPERATOR(pg_catalog.=) "
					"ANY (ARRAY(SELECT %s.ctid FROM %s WHERE %s AND %s%s)) AND NOT (%s)",
					source_with_tree(source, leaf, psprintf("%s AND NOT (%s)",
													 source_in_places(source, places),
													 source_needs_value(source))),
					source_leaf_from(source, leaf), quote_identifier(source->column),
					source->unset ? source_typed_literal(source, source->unset) : "NULL",
					source_alias(source), source_alias(source), source_leaf_with_given(source, leaf),
					source_in_places(source, places), same,
					unlocked ? psprintf(" FOR NO KEY UPDATE OF %s SKIP LOCKED",
										source_alias(source)) : "",
					source_needs_value(source));
}

char *
source_tree_fill(const Source *source, Oid leaf, int places, bool unlocked)
{
	char	   *rows = "SELECT " ROW_TID " FROM " GIVEN;

	if (unlocked)
		rows = psprintf("SELECT %s.ctid FROM %s "
						"WHERE %s.ctid OPERATOR(pg_catalog.=) ANY (ARRAY(%s)) AND %s "
						"FOR NO KEY UPDATE SKIP LOCKED",
						source_alias(source), source_leaf_from(source, leaf), source_alias(source),
						rows, source_wants_value(source));
	return psprintf("%sUPDATE %s SET %s = %s FROM " GIVEN " AS " PARENT_ALIAS " "
					"WHERE %s.ctid OPERATOR(pg_catalog.=) ANY (ARRAY(%s)) AND "
					PARENT_ALIAS "." ROW_TID " OPERATOR(pg_catalog.=) %s.ctid AND %s",
					source_with_tree(source, leaf, psprintf("%s AND %s", source_in_places(source, places),
													 source_wants_value(source))),
					source_leaf_from(source, leaf), quote_identifier(source->column),
					source_new_value(source), source_alias(source), rows, source_alias(source),
					source_takes_value(source));
}
