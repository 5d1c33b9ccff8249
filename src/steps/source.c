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

#include "access/htup_details.h"
#include "access/table.h"
#include "access/genam.h"
#include "access/sysattr.h"
#include "catalog/heap.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/analyze.h"
#include "parser/parser.h"
#include "parser/parsetree.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "engine/template.h"
#include "steps/source.h"

#define PARENT_ALIAS "tenantmig_parent"

/* --- pieces ---------------------------------------------------------- */

static const char *
alias(const Source *source)
{
	return quote_identifier(get_rel_name(source->relid));
}

static char *
own_column(const Source *source, const char *name)
{
	return psprintf("%s.%s", alias(source), quote_identifier(name));
}

static char *
typed_literal(const Source *source, const char *text)
{
	return psprintf("%s::%s", sql_literal(text), source->target.type_name);
}

/* "the row needs a value", for a column given as text */
static char *
is_unset(const Source *source, const char *column)
{
	if (source->unset == NULL)
		return psprintf("%s IS NULL", column);
	return psprintf("(%s IS NULL OR %s %s %s)", column, column,
					sql_equality(source->target.type),
					typed_literal(source, source->unset));
}

static char *
needs_value(const Source *source)
{
	return is_unset(source, own_column(source, source->column));
}

/* The value for a row, as text of an expression */
static char *
new_value(const Source *source)
{
	switch (source->kind)
	{
		case SOURCE_VALUE:
			return typed_literal(source, source->value);
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
		return new_value(source);
	return psprintf("CAST(%s AS %s)", new_value(source),
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
static char *
equals_stored(const Source *source)
{
	char	   *column = own_column(source, source->column);
	char	   *equal = psprintf("%s %s %s", column,
								 sql_equality(source->target.type),
								 stored_value(source));

	if (source->kind == SOURCE_VALUE || !cast_truncates(source))
		return equal;
	/* only blanks may be cut off */
	return psprintf("%s AND pg_catalog.rtrim(CAST(%s AS pg_catalog.text)) "
					"OPERATOR(pg_catalog.=) "
					"pg_catalog.rtrim(CAST(%s AS pg_catalog.text))",
					equal, column, new_value(source));
}

static char *
parent_from(const Source *source)
{
	return psprintf("%s%s AS " PARENT_ALIAS,
					get_rel_relkind(source->parent) == RELKIND_PARTITIONED_TABLE
					? "" : "ONLY ",
					sql_relation(source->parent));
}

/* parent.key = row.key AND ... */
static char *
parent_join(const Source *source)
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
						 own_column(source, lfirst(c)));
	return buf.data;
}

/* "the source has a value for the row"; for via, within the join */
static char *
has_value(const Source *source)
{
	if (source->kind == SOURCE_VALUE)
		return "true";
	return psprintf("NOT (%s)", is_unset(source, stored_value(source)));
}

static char *
in_places(const Source *source, int places)
{
	const char *except = places & PLACES_EXCEPT
		? psprintf(" AND %s.ctid OPERATOR(pg_catalog.<>) ALL ($3)", alias(source)) : "";

	if (places & PLACES_LISTED)
		return psprintf("%s.ctid OPERATOR(pg_catalog.=) ANY ($1)%s",
						alias(source), except);
	return psprintf("%s.ctid OPERATOR(pg_catalog.>=) $1 AND "
					"%s.ctid OPERATOR(pg_catalog.<) $2%s",
					alias(source), alias(source), except);
}

static char *
leaf_from(const Source *source, Oid leaf)
{
	return psprintf("ONLY %s AS %s", sql_relation(leaf), alias(source));
}

/* "the row has the value that the source gives", as text of a condition */
static char *
has_same_value(const Source *source)
{
	if (source->kind == SOURCE_VIA)
		return psprintf("EXISTS (SELECT FROM %s WHERE %s AND %s)",
						parent_from(source), parent_join(source),
						equals_stored(source));
	return psprintf("(%s)", equals_stored(source));
}

/* "the row has a value that the job gives": from the source or as an orphan */
static char *
has_given_value(const Source *source, const char *orphan_value)
{
	if (orphan_value == NULL)
		return has_same_value(source);
	return psprintf("(%s OR %s %s %s)", has_same_value(source),
					own_column(source, source->column),
					sql_equality(source->target.type),
					typed_literal(source, orphan_value));
}

/* "the source has no value for the row", as text of a condition */
static char *
has_no_value(const Source *source)
{
	if (source->kind == SOURCE_VALUE)
		return "false";
	if (source->kind == SOURCE_EXPRESSION)
		return is_unset(source, stored_value(source));
	return psprintf("NOT EXISTS (SELECT FROM %s WHERE %s AND %s)",
					parent_from(source), parent_join(source),
					has_value(source));
}

/* --- statements ------------------------------------------------------ */

/*
 * Give the rows of a leaf for which a condition holds a value; unlocked: only
 * those that nobody has locked.
 */
static void
begin_update(StringInfo buf, const Source *source, Oid leaf, const char *value,
			 const char *from, const char *condition, int places, bool unlocked)
{
	initStringInfo(buf);
	appendStringInfo(buf, "UPDATE %s SET %s = %s", leaf_from(source, leaf),
					 quote_identifier(source->column), value);
	if (from)
		appendStringInfo(buf, " FROM %s", from);
	if (unlocked)
		appendStringInfo(buf, " WHERE %s.ctid OPERATOR(pg_catalog.=) ANY (ARRAY("
						 "SELECT %s.ctid FROM %s WHERE %s AND %s "
						 "FOR NO KEY UPDATE SKIP LOCKED))",
						 alias(source), alias(source), leaf_from(source, leaf),
						 in_places(source, places), condition);
	else
		appendStringInfo(buf, " WHERE %s", in_places(source, places));
	appendStringInfo(buf, " AND %s", condition);
}

static char *
fill_statement(const Source *source, Oid leaf, int places, bool unlocked)
{
	StringInfoData buf;

	begin_update(&buf, source, leaf, new_value(source),
				 source->kind == SOURCE_VIA ? parent_from(source) : NULL,
				 needs_value(source), places, unlocked);
	appendStringInfo(&buf, " AND %s", has_value(source));
	if (source->kind == SOURCE_VIA)
		appendStringInfo(&buf, " AND %s", parent_join(source));
	return buf.data;
}

/* A row that has got a value in its source meanwhile is no orphan any more */
static char *
assign_statement(const Source *source, Oid leaf, const char *orphan_value,
				 int places, bool unlocked)
{
	StringInfoData buf;

	begin_update(&buf, source, leaf, typed_literal(source, orphan_value), NULL,
				 psprintf("%s AND %s", needs_value(source), has_no_value(source)),
				 places, unlocked);
	return buf.data;
}

static char *
unfill_statement(const Source *source, Oid leaf, const char *orphan_value,
				 int places, bool unlocked)
{
	StringInfoData buf;

	begin_update(&buf, source, leaf,
				 source->unset ? typed_literal(source, source->unset) : "NULL",
				 NULL,
				 psprintf("NOT (%s) AND %s", needs_value(source),
						  has_given_value(source, orphan_value)),
				 places, unlocked);
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
						 sql_literal(name), own_column(source, name));
	}
	table_close(relation, NoLock);
	if (buf.len == 0)
		appendStringInfo(&buf, "'ctid', %s.ctid::text", alias(source));
	return psprintf("pg_catalog.jsonb_build_object(%s)", buf.data);
}

char *
source_statement(const Source *source, SourceStatement what, Oid leaf,
				 int places, const char *orphan_value)
{
	switch (what)
	{
		case STATEMENT_COUNT:
			return psprintf("SELECT pg_catalog.count(*) FILTER (WHERE %s), "
							"pg_catalog.count(*) FILTER (WHERE NOT (%s)), "
							"pg_catalog.count(*) FILTER (WHERE NOT (%s) AND %s) "
							"FROM %s WHERE %s",
							needs_value(source), needs_value(source),
							needs_value(source),
							has_given_value(source, orphan_value),
							leaf_from(source, leaf), in_places(source, places));
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
							"pg_catalog.count(*) FILTER (WHERE %s) "
							"FROM %s WHERE %s AND %s",
							has_no_value(source), leaf_from(source, leaf),
							in_places(source, places), needs_value(source));
		case STATEMENT_UNFILL:
			return unfill_statement(source, leaf, orphan_value, places, false);
		case STATEMENT_UNFILL_UNLOCKED:
			return unfill_statement(source, leaf, orphan_value, places, true);
		case STATEMENT_PLACES:
			return psprintf("SELECT %s.ctid FROM %s WHERE %s", alias(source),
							leaf_from(source, leaf), in_places(source, places));
		case STATEMENT_KEY:
			return psprintf("SELECT %s FROM %s WHERE %s", key_expression(source, leaf),
							leaf_from(source, leaf), in_places(source, places));
	}
	return NULL;
}

static List *
keys_where(const Source *source, Oid leaf, const char *condition, int limit)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *keys = NIL;

	SPI_connect();
	SPI_execute(psprintf("SELECT %s FROM %s WHERE %s LIMIT %d",
						 key_expression(source, leaf), leaf_from(source, leaf),
						 condition, limit),
				true, 0);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < SPI_processed; i++)
		keys = lappend(keys, query_get_text(i, 1));
	SPI_finish();
	return keys;
}

List *
source_examples(const Source *source, Oid leaf, bool unresolved, int limit)
{
	char	   *condition = needs_value(source);

	if (unresolved)
		condition = psprintf("%s AND %s", condition, has_no_value(source));
	return keys_where(source, leaf, condition, limit);
}

/*
 * "the row has a value, and another one than the constant": byte for byte,
 * since what the type's equality takes for the same may read differently.
 */
static char *
is_stray(const Source *source)
{
	return psprintf("NOT (%s) AND pg_catalog.record_image_ne(ROW(%s), ROW(%s))",
					needs_value(source), own_column(source, source->column),
					new_value(source));
}

char *
source_stray_query(const Source *source, Oid leaf, bool between)
{
	return psprintf("SELECT pg_catalog.count(*) FILTER (WHERE %s), "
					"pg_catalog.count(*) FILTER (WHERE NOT (%s)), "
					"pg_catalog.count(*) FILTER (WHERE %s) FROM %s%s%s",
					needs_value(source), needs_value(source), is_stray(source),
					leaf_from(source, leaf), between ? " WHERE " : "",
					between ? in_places(source, PLACES_BETWEEN) : "");
}

List *
source_stray_examples(const Source *source, Oid leaf, int limit)
{
	return keys_where(source, leaf, is_stray(source), limit);
}

char *
source_literal(const Source *source, const char *text)
{
	return typed_literal(source, text);
}

char *
source_plan_query(const Source *source, Oid leaf)
{
	return psprintf("SELECT pg_catalog.count(*) FILTER (WHERE %s), "
					"pg_catalog.count(*) FILTER (WHERE NOT (%s)), "
					"pg_catalog.count(*) FILTER (WHERE %s AND %s) FROM %s",
					needs_value(source), needs_value(source),
					needs_value(source), has_no_value(source),
					leaf_from(source, leaf));
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
						typed_if_literal(source), alias(source));
	initStringInfo(&buf);
	appendStringInfo(&buf, "SELECT %s FROM %s", new_value(source),
					 parent_from(source));
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
	return psprintf("UPDATE %s SET %s = %s", leaf_from(source, source->relid),
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
