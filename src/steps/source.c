/*
 * source.c
 *		Which value a row gets: a constant, an expression, or the parent's.
 *
 * Everything of ours in a statement is qualified down to the operators, since
 * it is run with the search_path of whoever called, in which the text of an
 * expression must be read.  Constants travel as literals that are cast to the
 * column's type: the text was accepted by the type's input function when the
 * job was recorded.  A leaf is aliased to the name of the table of the call,
 * so that an expression may qualify its columns with it.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "engine/template.h"
#include "steps/source.h"
#include "steps/source_text.h"

/* --- pieces ---------------------------------------------------------- */

const char *
source_alias(const Source *source)
{
	return quote_identifier(get_rel_name(source->relid));
}

char *
source_own_column(const Source *source, const char *name)
{
	return psprintf("%s.%s", source_alias(source), quote_identifier(name));
}

char *
source_typed_literal(const Source *source, const char *text)
{
	return psprintf("%s::%s", sql_literal(text), source->target.type_name);
}

/* "the row needs a value", for a column given as text */
char *
source_unset_text(const Source *source, const char *column)
{
	if (source->unset == NULL)
		return psprintf("%s IS NULL", column);
	return psprintf("(%s IS NULL OR %s %s %s)", column, column,
					sql_equality(source->target.type),
					source_typed_literal(source, source->unset));
}

char *
source_needs_value(const Source *source)
{
	return source_unset_text(source, source_own_column(source, source->column));
}

/* The value for a row, as text of an expression */
char *
source_new_value(const Source *source)
{
	switch (source->kind)
	{
		case SOURCE_VALUE:
			return source_typed_literal(source, source->value);
		case SOURCE_EXPRESSION:
			return sql_parenthesized(source->expression);
		case SOURCE_VIA:
			return psprintf(PARENT_ALIAS ".%s", quote_identifier(source->column));
	}
	return NULL;
}

/*
 * The same as the column will keep it: an assignment rounds and pads, and only
 * what comes out of it can be compared with what is there.
 */
static char *
stored_value(const Source *source)
{
	if (source->kind == SOURCE_VALUE)
		return source_new_value(source);
	return psprintf("CAST(%s AS %s)", source_new_value(source),
					source->target.type_name);
}

/* Whether a cast to the column's type cuts off what an assignment rejects */
static bool
cast_truncates(const Source *source)
{
	int32		typmod = source->target.typmod;
	Oid			type = getBaseTypeAndTypmod(source->target.type, &typmod);
	char		category;
	bool		preferred;

	get_type_category_preferred(type, &category, &preferred);
	return typmod >= 0 &&
		(category == TYPCATEGORY_STRING || category == TYPCATEGORY_BITSTRING);
}

/* "the row has the value that the source gives"; for via, within the join */
char *
source_equals_stored(const Source *source)
{
	char	   *column = source_own_column(source, source->column);
	char	   *equal = psprintf("%s %s %s", column,
								 sql_equality(source->target.type),
								 stored_value(source));

	if (source->kind == SOURCE_VALUE || !cast_truncates(source))
		return equal;
	/* only blanks may be cut off */
	return psprintf("%s AND pg_catalog.rtrim(CAST(%s AS pg_catalog.text)) "
					"OPERATOR(pg_catalog.=) "
					"pg_catalog.rtrim(CAST(%s AS pg_catalog.text))",
					equal, column, source_new_value(source));
}

char *
source_parent_from(const Source *source)
{
	return psprintf("%s%s AS " PARENT_ALIAS,
					get_rel_relkind(source->parent) == RELKIND_PARTITIONED_TABLE
					? "" : "ONLY ",
					sql_relation(source->parent));
}

/* parent.key = row.key AND ... */
char *
source_parent_join(const Source *source)
{
	StringInfoData buf;
	ListCell   *c;
	ListCell   *p;
	ListCell   *o;

	initStringInfo(&buf);
	forthree(c, source->child_columns, p, source->parent_columns,
			 o, source->operators)
		appendStringInfo(&buf, "%s" PARENT_ALIAS ".%s %s %s",
						 buf.len > 0 ? " AND " : "",
						 quote_identifier(lfirst(p)), (char *) lfirst(o),
						 source_own_column(source, lfirst(c)));
	return buf.data;
}

/* "the source has a value for the row"; for via, within the join */
char *
source_has_value(const Source *source)
{
	if (source->kind == SOURCE_VALUE)
		return "true";
	return psprintf("NOT (%s)", source_unset_text(source, stored_value(source)));
}

char *
source_in_places(const Source *source, int places)
{
	const char *except = places & PLACES_EXCEPT
		? psprintf(" AND %s.ctid OPERATOR(pg_catalog.<>) ALL ($3)", source_alias(source)) : "";

	if (places & PLACES_LISTED)
		return psprintf("%s.ctid OPERATOR(pg_catalog.=) ANY ($1)%s",
						source_alias(source), except);
	if (places & PLACES_ALL)
		return psprintf("true%s", except);
	return psprintf("%s.ctid OPERATOR(pg_catalog.>=) $1 AND "
					"%s.ctid OPERATOR(pg_catalog.<) $2%s",
					source_alias(source), source_alias(source), except);
}

char *
source_leaf_from(const Source *source, Oid leaf)
{
	return psprintf("ONLY %s AS %s", sql_relation(leaf), source_alias(source));
}

/* "the row has the value that the source gives", as text of a condition */
static char *
has_same_value(const Source *source)
{
	if (source->kind == SOURCE_VIA)
		return psprintf("EXISTS (SELECT FROM %s WHERE %s AND %s)",
						source_parent_from(source), source_parent_join(source),
						source_equals_stored(source));
	return psprintf("(%s)", source_equals_stored(source));
}

/* "the row has a value that the job gives": from the source or as an orphan */
static char *
has_given_value(const Source *source, const char *orphan_value)
{
	if (orphan_value == NULL)
		return has_same_value(source);
	return psprintf("(%s OR %s %s %s)", has_same_value(source),
					source_own_column(source, source->column),
					sql_equality(source->target.type),
					source_typed_literal(source, orphan_value));
}

/* "the source has no value for the row", as text of a condition */
static char *
has_no_value(const Source *source)
{
	if (source->kind == SOURCE_VALUE)
		return "false";
	if (source->kind == SOURCE_EXPRESSION)
		return source_unset_text(source, stored_value(source));
	return psprintf("NOT EXISTS (SELECT FROM %s WHERE %s AND %s)",
					source_parent_from(source), source_parent_join(source),
					source_has_value(source));
}

/* "the row has a value, and the source another"; for via, within the join */
char *
source_differs(const Source *source)
{
	return psprintf("NOT (%s) AND %s AND NOT (%s)", source_needs_value(source),
					source_has_value(source), source_equals_stored(source));
}

/* The same, as text of a condition */
static char *
has_conflict(const Source *source)
{
	if (source->kind == SOURCE_VIA)
		return psprintf("EXISTS (SELECT FROM %s WHERE %s AND %s)",
						source_parent_from(source), source_parent_join(source),
						source_differs(source));
	return psprintf("(%s)", source_differs(source));
}

/* "the row is to be given a value, if the source has one" */
char *
source_wants_value(const Source *source)
{
	if (source->on_conflict != CONFLICT_OVERWRITE)
		return source_needs_value(source);
	return psprintf("(%s OR %s)", source_needs_value(source), has_conflict(source));
}

/* The same for a row of which is known that the source has a value; for via,
 * within the join */
char *
source_takes_value(const Source *source)
{
	if (source->on_conflict != CONFLICT_OVERWRITE)
		return source_needs_value(source);
	return psprintf("(%s OR NOT (%s))", source_needs_value(source),
					source_equals_stored(source));
}

/* --- statements ------------------------------------------------------ */

/*
 * Give the rows of a leaf for which a condition holds a value; unlocked: only
 * those that nobody has locked.  More conditions may be added.
 */
static void
begin_update(StringInfo buf, const Source *source, Oid leaf, const char *value,
			 const char *from, const char *condition, int places, bool unlocked)
{
	initStringInfo(buf);
	appendStringInfo(buf, "UPDATE %s SET %s = %s", source_leaf_from(source, leaf),
					 quote_identifier(source->column), value);
	if (from)
		appendStringInfo(buf, " FROM %s", from);
	if (unlocked)
		appendStringInfo(buf, " WHERE %s.ctid OPERATOR(pg_catalog.=) ANY (ARRAY("
						 "SELECT %s.ctid FROM %s WHERE %s AND %s "
						 "FOR NO KEY UPDATE SKIP LOCKED))",
						 source_alias(source), source_alias(source), source_leaf_from(source, leaf),
						 source_in_places(source, places), condition);
	else
		appendStringInfo(buf, " WHERE %s", source_in_places(source, places));
}

static char *
fill_statement(const Source *source, Oid leaf, int places, bool unlocked)
{
	StringInfoData buf;

	if (source_climbs(source, leaf))
		return source_tree_fill(source, leaf, places, unlocked);
	begin_update(&buf, source, leaf, source_new_value(source),
				 source->kind == SOURCE_VIA ? source_parent_from(source) : NULL,
				 source_wants_value(source), places, unlocked);
	appendStringInfo(&buf, " AND %s AND %s", source_takes_value(source), source_has_value(source));
	if (source->kind == SOURCE_VIA)
		appendStringInfo(&buf, " AND %s", source_parent_join(source));
	return buf.data;
}

/* A row that has got a value in its source meanwhile is no orphan any more */
static char *
assign_statement(const Source *source, Oid leaf, const char *orphan_value,
				 int places, bool unlocked)
{
	StringInfoData buf;
	char	   *condition = psprintf("%s AND %s", source_needs_value(source),
									 has_no_value(source));

	begin_update(&buf, source, leaf, source_typed_literal(source, orphan_value), NULL,
				 condition, places, unlocked);
	appendStringInfo(&buf, " AND %s", condition);
	return buf.data;
}

static char *
unfill_statement(const Source *source, Oid leaf, const char *orphan_value,
				 int places, bool unlocked)
{
	StringInfoData buf;
	char	   *condition = psprintf("NOT (%s) AND %s", source_needs_value(source),
									 has_given_value(source, orphan_value));

	if (source_climbs(source, leaf))
		return source_tree_unfill(source, leaf, orphan_value, places, unlocked);
	begin_update(&buf, source, leaf,
				 source->unset ? source_typed_literal(source, source->unset) : "NULL",
				 NULL, condition, places, unlocked);
	appendStringInfo(&buf, " AND %s", condition);
	return buf.data;
}

/* jsonb of the primary key of a row, or of its place when it has none */
static char *
key_expression(const Source *source, Oid leaf)
{
	StringInfoData buf;
	Bitmapset  *key;
	Relation	relation = table_open(leaf, AccessShareLock);
	int			attnum = -1;

	initStringInfo(&buf);
	key = RelationGetIndexAttrBitmap(relation, INDEX_ATTR_BITMAP_PRIMARY_KEY);
	while ((attnum = bms_next_member(key, attnum)) >= 0)
	{
		char	   *name = get_attname(leaf, attnum + FirstLowInvalidHeapAttributeNumber, false);

		appendStringInfo(&buf, "%s%s, %s", buf.len > 0 ? ", " : "",
						 sql_literal(name), source_own_column(source, name));
	}
	table_close(relation, NoLock);
	if (buf.len == 0)
		appendStringInfo(&buf, "'ctid', %s.ctid::text", source_alias(source));
	return psprintf("pg_catalog.jsonb_build_object(%s)", buf.data);
}

char *
source_statement(const Source *source, SourceStatement what, Oid leaf,
				 int places, const char *orphan_value)
{
	switch (what)
	{
		case STATEMENT_COUNT:
			if (source_climbs(source, leaf))
				return source_tree_count(source, leaf, places, orphan_value);
			return psprintf("SELECT pg_catalog.count(*) FILTER (WHERE %s), "
							"pg_catalog.count(*) FILTER (WHERE NOT (%s)), "
							"pg_catalog.count(*) FILTER (WHERE NOT (%s) AND %s), "
							"pg_catalog.count(*) FILTER (WHERE %s) "
							"FROM %s WHERE %s",
							source_needs_value(source), source_needs_value(source),
							source_needs_value(source),
							has_given_value(source, orphan_value),
							has_conflict(source),
							source_leaf_from(source, leaf), source_in_places(source, places));
		case STATEMENT_FILL:
			return fill_statement(source, leaf, places, false);
		case STATEMENT_FILL_UNLOCKED:
			return fill_statement(source, leaf, places, true);
		case STATEMENT_ASSIGN:
			return assign_statement(source, leaf, orphan_value, places, false);
		case STATEMENT_ASSIGN_UNLOCKED:
			return assign_statement(source, leaf, orphan_value, places, true);
		case STATEMENT_RESIDUE:
			return psprintf("SELECT pg_catalog.count(*), "
							"pg_catalog.count(*) FILTER (WHERE %s AND %s) "
							"FROM %s WHERE %s AND %s",
							source_needs_value(source), has_no_value(source),
							source_leaf_from(source, leaf), source_in_places(source, places),
							source_wants_value(source));
		case STATEMENT_UNFILL:
			return unfill_statement(source, leaf, orphan_value, places, false);
		case STATEMENT_UNFILL_UNLOCKED:
			return unfill_statement(source, leaf, orphan_value, places, true);
		case STATEMENT_PLACES:
			return psprintf("SELECT %s.ctid FROM %s WHERE %s", source_alias(source),
							source_leaf_from(source, leaf), source_in_places(source, places));
		case STATEMENT_KEY:
			return psprintf("SELECT %s FROM %s WHERE %s", key_expression(source, leaf),
							source_leaf_from(source, leaf), source_in_places(source, places));
	}
	return NULL;
}

/*
 * A leaf, and "the source has no value for the row, nor will it have one when
 * the rows above it are filled"; both behind *with.
 */
static char *
resolved_from(const Source *source, Oid leaf, const char **with,
			  char **unresolved)
{
	if (!source_climbs(source, leaf))
	{
		*with = "";
		*unresolved = has_no_value(source);
		return source_leaf_from(source, leaf);
	}
	*with = source_with_tree(source, leaf, source_needs_value(source));
	*unresolved = PARENT_ALIAS "." ROW_TID " IS NULL";
	return source_leaf_with_given(source, leaf);
}

List *
source_examples(const Source *source, Oid leaf, bool unresolved, int limit)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *keys = NIL;
	const char *with = "";
	char	   *condition = "true";
	char	   *from = unresolved ? resolved_from(source, leaf, &with, &condition)
		: source_leaf_from(source, leaf);

	SPI_connect();
	SPI_execute(psprintf("%sSELECT %s FROM %s WHERE %s AND %s LIMIT %d",
						 with, key_expression(source, leaf), from,
						 source_needs_value(source), condition, limit),
				true, 0);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < SPI_processed; i++)
		keys = lappend(keys, query_get_text(i, 1));
	SPI_finish();
	return keys;
}

List *
source_conflicts(const Source *source, Oid leaf, int limit)
{
	MemoryContext context = CurrentMemoryContext;
	bool		via = source->kind == SOURCE_VIA;
	List	   *conflicts = NIL;

	SPI_connect();
	SPI_execute(psprintf("SELECT %s, CAST(%s AS pg_catalog.text), "
						 "CAST(%s AS pg_catalog.text) FROM %s%s%s WHERE %s%s%s LIMIT %d",
						 key_expression(source, leaf),
						 source_own_column(source, source->column), stored_value(source),
						 source_leaf_from(source, leaf),
						 via ? ", " : "", via ? source_parent_from(source) : "",
						 source_differs(source),
						 via ? " AND " : "", via ? source_parent_join(source) : "", limit),
				true, 0);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Conflict   *conflict = palloc(sizeof(Conflict));

		conflict->key = query_get_text(i, 1);
		conflict->has = query_get_text(i, 2);
		conflict->gives = query_get_text(i, 3);
		conflicts = lappend(conflicts, conflict);
	}
	SPI_finish();
	return conflicts;
}

/*
 * "the row has a value, and another one than the constant": byte for byte,
 * since what the type's equality takes for the same may read differently.
 */
static char *
is_stray(const Source *source)
{
	return psprintf("NOT (%s) AND pg_catalog.record_image_ne(ROW(%s), ROW(%s))",
					source_needs_value(source), source_own_column(source, source->column),
					source_new_value(source));
}

char *
source_stray_query(const Source *source, Oid leaf, bool between)
{
	return psprintf("SELECT pg_catalog.count(*) FILTER (WHERE %s), "
					"pg_catalog.count(*) FILTER (WHERE NOT (%s)), "
					"pg_catalog.count(*) FILTER (WHERE %s) FROM %s%s%s",
					source_needs_value(source), source_needs_value(source), is_stray(source),
					source_leaf_from(source, leaf), between ? " WHERE " : "",
					between ? source_in_places(source, PLACES_BETWEEN) : "");
}

List *
source_stray_examples(const Source *source, Oid leaf, int limit)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *keys = NIL;

	SPI_connect();
	SPI_execute(psprintf("SELECT %s FROM %s WHERE %s LIMIT %d",
						 key_expression(source, leaf), source_leaf_from(source, leaf),
						 is_stray(source), limit),
				true, 0);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < SPI_processed; i++)
		keys = lappend(keys, query_get_text(i, 1));
	SPI_finish();
	return keys;
}

char *
source_literal(const Source *source, const char *text)
{
	return source_typed_literal(source, text);
}

char *
source_plan_query(const Source *source, Oid leaf)
{
	const char *with;
	char	   *unresolved;
	char	   *from = resolved_from(source, leaf, &with, &unresolved);

	return psprintf("%sSELECT pg_catalog.count(*) FILTER (WHERE %s), "
					"pg_catalog.count(*) FILTER (WHERE NOT (%s)), "
					"pg_catalog.count(*) FILTER (WHERE %s AND %s), "
					"pg_catalog.count(*) FILTER (WHERE %s) FROM %s",
					with, source_needs_value(source), source_needs_value(source),
					source_needs_value(source), unresolved, has_conflict(source), from);
}

Jsonb *
source_arguments(const Source *source)
{
	JsonObject *arguments = json_begin();

	json_put_text(arguments, "column", source->column);
	json_put_text(arguments, "value", source->value);
	json_put_text(arguments, "expression", source->expression);
	json_put_text(arguments, "via", source->via);
	json_put_text(arguments, "unset", source->unset);
	if (source->on_conflict != CONFLICT_LEAVE)
		json_put_text(arguments, "on_conflict",
					  source_conflict_name(source->on_conflict));
	if (source->kind == SOURCE_VIA)
		json_put_text(arguments, "parent", sql_relation(source->parent));
	return json_end(arguments);
}

char *
source_describe(const Source *source)
{
	switch (source->kind)
	{
		case SOURCE_VALUE:
			return psprintf("value %s", sql_literal(source->value));
		case SOURCE_EXPRESSION:
			return psprintf("expression %s", source->expression);
		case SOURCE_VIA:
			return psprintf("via %s to %s", quote_identifier(source->via),
							sql_relation(source->parent));
	}
	return NULL;
}

/* --- the trigger ----------------------------------------------------- */

char *
source_trigger_name(const Source *source, int64 job)
{
	/* BEFORE triggers fire by name: after those that may set the key */
	return sql_derived_name(psprintf("zz_tenantmig_" INT64_FORMAT "_", job),
							source->column, "");
}

/*
 * The number of the job is all that the trigger says of itself: whoever has the
 * TRIGGER privilege may write what he wants there, but not into our tables.
 */
char *
source_create_trigger(const Source *source, int64 job)
{
	return template_make("CREATE TRIGGER %s BEFORE INSERT%s ON %R FOR EACH ROW "
						 "EXECUTE FUNCTION tenantmig.fill_tenant('%s')",
						 quote_identifier(source_trigger_name(source, job)),
						 source->kind == SOURCE_VALUE ? "" : " OR UPDATE",
						 psprintf(INT64_FORMAT, job));
}

char *
source_drop_trigger(const Source *source, int64 job)
{
	return template_make("DROP TRIGGER IF EXISTS %s ON %R",
						 quote_identifier(source_trigger_name(source, job)));
}

/*
 * An UPDATE reads a lone literal as one of the column's type, a SELECT as
 * text: so it is given the type here, but without the length, which an
 * explicit cast would cut it to.
 */
static char *
typed_if_literal(const Source *source)
{
	List	   *raw = raw_parser(source->expression, RAW_PARSE_PLPGSQL_EXPR);
	SelectStmt *stmt = castNode(SelectStmt, linitial_node(RawStmt, raw)->stmt);
	Oid			type = getBaseType(source->target.type);

	if (!IsA(linitial_node(ResTarget, stmt->targetList)->val, A_Const))
		return sql_parenthesized(source->expression);
	return psprintf("%s::%s", sql_parenthesized(source->expression),
					format_type_extended(type, -1, FORMAT_TYPE_TYPEMOD_GIVEN |
										 FORMAT_TYPE_FORCE_QUALIFY));
}

char *
source_row_query(const Source *source)
{
	StringInfoData buf;
	ListCell   *p;
	ListCell   *o;

	if (source->kind == SOURCE_EXPRESSION)
		return psprintf("SELECT %s FROM (SELECT ($1).*) AS %s",
						typed_if_literal(source), source_alias(source));
	initStringInfo(&buf);
	appendStringInfo(&buf, "SELECT %s FROM %s", source_new_value(source),
					 source_parent_from(source));
	forboth(p, source->parent_columns, o, source->operators)
		appendStringInfo(&buf, " %s " PARENT_ALIAS ".%s %s $%d",
						 foreach_current_index(p) == 0 ? "WHERE" : "AND",
						 quote_identifier(lfirst(p)), (char *) lfirst(o),
						 foreach_current_index(p) + 1);
	return buf.data;
}

char *
source_expression_update(const Source *source)
{
	return psprintf("UPDATE %s SET %s = %s", source_leaf_from(source, source->relid),
					quote_identifier(source->column),
					sql_parenthesized(source->expression));
}

bool
source_is_unset(const TargetColumn *column, Datum value, bool isnull,
				const char *unset)
{
	TypeCacheEntry *type;

	if (isnull)
		return true;
	if (unset == NULL)
		return false;
	type = lookup_type_cache(column->type, TYPECACHE_EQ_OPR_FINFO);
	return DatumGetBool(FunctionCall2Coll(&type->eq_opr_finfo,
										  column->collation, value,
										  target_value(column, unset)));
}
