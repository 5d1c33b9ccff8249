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
between_tids(const Source *source)
{
	return psprintf("%s.ctid OPERATOR(pg_catalog.>=) $1 AND "
					"%s.ctid OPERATOR(pg_catalog.<) $2",
					alias(source), alias(source));
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
			 const char *from, const char *condition, bool unlocked)
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
						 between_tids(source), condition);
	else
		appendStringInfo(buf, " WHERE %s", between_tids(source));
	appendStringInfo(buf, " AND %s", condition);
}

static char *
fill_statement(const Source *source, Oid leaf, bool unlocked)
{
	StringInfoData buf;

	begin_update(&buf, source, leaf, new_value(source),
				 source->kind == SOURCE_VIA ? parent_from(source) : NULL,
				 needs_value(source), unlocked);
	appendStringInfo(&buf, " AND %s", has_value(source));
	if (source->kind == SOURCE_VIA)
		appendStringInfo(&buf, " AND %s", parent_join(source));
	return buf.data;
}

/* A row that has got a value in its source meanwhile is no orphan any more */
static char *
assign_statement(const Source *source, Oid leaf, const char *orphan_value,
				 bool unlocked)
{
	StringInfoData buf;

	begin_update(&buf, source, leaf, typed_literal(source, orphan_value), NULL,
				 psprintf("%s AND %s", needs_value(source), has_no_value(source)),
				 unlocked);
	return buf.data;
}

static char *
unfill_statement(const Source *source, Oid leaf, const char *orphan_value,
				 bool unlocked)
{
	StringInfoData buf;

	begin_update(&buf, source, leaf,
				 source->unset ? typed_literal(source, source->unset) : "NULL",
				 NULL,
				 psprintf("NOT (%s) AND %s", needs_value(source),
						  has_given_value(source, orphan_value)),
				 unlocked);
	return buf.data;
}

char *
source_statement(const Source *source, SourceStatement what, Oid leaf,
				 const char *orphan_value)
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
							leaf_from(source, leaf), between_tids(source));
		case STATEMENT_FILL:
			return fill_statement(source, leaf, false);
		case STATEMENT_FILL_UNLOCKED:
			return fill_statement(source, leaf, true);
		case STATEMENT_ASSIGN:
			return assign_statement(source, leaf, orphan_value, false);
		case STATEMENT_ASSIGN_UNLOCKED:
			return assign_statement(source, leaf, orphan_value, true);
		case STATEMENT_RESIDUE:
			return psprintf("SELECT pg_catalog.count(*), "
							"pg_catalog.count(*) FILTER (WHERE %s) "
							"FROM %s WHERE %s AND %s",
							has_no_value(source), leaf_from(source, leaf),
							between_tids(source), needs_value(source));
		case STATEMENT_UNFILL:
			return unfill_statement(source, leaf, orphan_value, false);
		case STATEMENT_UNFILL_UNLOCKED:
			return unfill_statement(source, leaf, orphan_value, true);
	}
	return NULL;
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

List *
source_examples(const Source *source, Oid leaf, bool unresolved, int limit)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *keys = NIL;

	SPI_connect();
	SPI_execute(psprintf("SELECT %s FROM %s WHERE %s%s%s LIMIT %d",
						 key_expression(source, leaf), leaf_from(source, leaf),
						 needs_value(source), unresolved ? " AND " : "",
						 unresolved ? has_no_value(source) : "", limit),
				true, 0);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < SPI_processed; i++)
		keys = lappend(keys, query_get_text(i, 1));
	SPI_finish();
	return keys;
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
source_create_trigger(const Source *source, Oid table, int64 job)
{
	return psprintf("CREATE TRIGGER %s BEFORE INSERT%s ON %s FOR EACH ROW "
					"EXECUTE FUNCTION tenantmig.fill_tenant('" INT64_FORMAT "')",
					quote_identifier(source_trigger_name(source, job)),
					source->kind == SOURCE_VALUE ? "" : " OR UPDATE",
					sql_relation(table), job);
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

/* --- resolving ------------------------------------------------------- */

static void
check_value(const Source *source, const char *text, const char *what)
{
	Datum		value;

	value = target_value(&source->target, text);
	if (text[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", what),
				 errhint("An empty tenant is what an unset setting looks like to a policy.")));
	if (source_is_unset(&source->target, value, false, source->unset))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must differ from unset", what)));
}

/*
 * A table that an expression or a parent lookup reads: the owner may read some
 * of it at least (which columns is checked when they are read), and no policy
 * hides rows from him: refused, never a silent zero.
 */
static void
check_may_read(Oid relid)
{
	if (pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(relid, GetUserId(), ACL_SELECT,
								  ACLMASK_ANY) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role %s may not read %s",
						quote_identifier(GetUserNameFromId(GetUserId(), false)),
						sql_relation(relid)),
				 errdetail("The backfill reads that table as the owner of the table it changes."),
				 errhint("GRANT SELECT ON %s TO %s;", sql_relation(relid),
						 quote_identifier(GetUserNameFromId(GetUserId(), false)))));
	if (check_enable_rls(relid, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row-level security of %s would hide rows from role %s",
						sql_relation(relid),
						quote_identifier(GetUserNameFromId(GetUserId(), false))),
				 errdetail("The backfill reads that table as the owner of the table it changes, and could miss rows without a word."),
				 errhint("Exempt that role (BYPASSRLS), or make it own both tables.")));
}

typedef struct QueryWalk
{
	int			depth;			/* of the query, from the outermost */
	Oid			relid;
	Bitmapset  *columns;		/* of relid that are read */
} QueryWalk;

/* Check the tables that a query reads, and collect the columns of the table
 * itself, which is the first range table entry of the outermost query */
static bool
walk_query(Node *node, QueryWalk *walk)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		if ((int) var->varlevelsup == walk->depth && var->varno == 1)
			walk->columns = bms_add_member(walk->columns,
										   var->varattno - FirstLowInvalidHeapAttributeNumber);
		return false;
	}
	if (IsA(node, Query))
	{
		Query	   *query = (Query *) node;
		ListCell   *lc;

		foreach(lc, query->rtable)
		{
			RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

			if (rte->rtekind == RTE_RELATION && rte->relid != walk->relid)
				check_may_read(rte->relid);
		}
		walk->depth++;
		(void) query_tree_walker(query, walk_query, walk, 0);
		walk->depth--;
		return false;
	}
	return expression_tree_walker(node, walk_query, walk);
}

/*
 * The columns that an expression reads.  The fill trigger computes it before
 * the row is stored: generated columns are not there yet, nor what the system
 * keeps of a row.
 */
static void
read_expression_columns(Source *source, const Bitmapset *columns)
{
	Relation	relation = table_open(source->relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(relation);
	bool		whole_row = bms_is_member(0 - FirstLowInvalidHeapAttributeNumber, columns);

	for (AttrNumber a = FirstLowInvalidHeapAttributeNumber + 1; a <= desc->natts; a++)
	{
		Form_pg_attribute att = a > 0 ? TupleDescAttr(desc, a - 1) : NULL;

		if (!bms_is_member(a - FirstLowInvalidHeapAttributeNumber, columns) &&
			!(whole_row && att && !att->attisdropped && !att->attgenerated))
			continue;
		if (a == source->target.attnum || a == 0)
			continue;
		if (att == NULL || att->attgenerated)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("expression must not read %s column %s",
							att ? "generated" : "system",
							quote_identifier(att ? NameStr(att->attname)
											 : NameStr(SystemAttributeDefinition(a)->attname))),
					 errdetail("New rows get their tenant before that column has its value."),
					 att ? errhint("Write what it is generated from instead.")
					 : errhint("Use the columns of the table itself.")));
		source->expression_columns = lappend(source->expression_columns,
											 pstrdup(NameStr(att->attname)));
	}
	table_close(relation, NoLock);
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

/*
 * Parse analysis of the update that the expression would be part of finds
 * unknown columns, wrong types, aggregates and set-returning functions; that
 * of the fill trigger's query, what only works on stored rows.
 */
static void
check_expression(Source *source)
{
	char	   *sql;
	List	   *raw;
	Query	   *query;
	QueryWalk	walk = {.depth = -1,.relid = source->relid};
	Oid			row_type = get_rel_type_id(source->relid);

	sql_check_expression(source->expression, "expression");
	sql = psprintf("UPDATE %s SET %s = %s",
				   leaf_from(source, source->relid),
				   quote_identifier(source->column),
				   sql_parenthesized(source->expression));
	raw = pg_parse_query(sql);
	query = parse_analyze_fixedparams(linitial_node(RawStmt, raw), sql,
									  NULL, 0, NULL);
	if (contain_volatile_functions((Node *) query->targetList))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("expression must not contain volatile functions"),
				 errdetail("The tenant of a row must come out the same whenever it is computed: for new rows, for the check at the end and for undo."),
				 errhint("Use a function that is IMMUTABLE or STABLE.")));
	(void) walk_query((Node *) query, &walk);
	read_expression_columns(source, walk.columns);
	sql = source_row_query(source);
	raw = pg_parse_query(sql);
	(void) parse_analyze_fixedparams(linitial_node(RawStmt, raw), sql,
									 &row_type, 1, NULL);
}

typedef struct ForeignKey
{
	char	   *name;
	Oid			parent;
	List	   *child_columns;
	List	   *parent_columns;
	List	   *operators;
} ForeignKey;

static ForeignKey *
read_foreign_key(Oid relid, HeapTuple tuple)
{
	Form_pg_constraint form = (Form_pg_constraint) GETSTRUCT(tuple);
	ForeignKey *fk = palloc0(sizeof(ForeignKey));
	int			count;
	AttrNumber	conkey[INDEX_MAX_KEYS];
	AttrNumber	confkey[INDEX_MAX_KEYS];
	Oid			operators[INDEX_MAX_KEYS];

	DeconstructFkConstraintRow(tuple, &count, conkey, confkey, operators,
							   NULL, NULL, NULL, NULL);
	fk->name = pstrdup(NameStr(form->conname));
	fk->parent = form->confrelid;
	for (int i = 0; i < count; i++)
	{
		fk->child_columns = lappend(fk->child_columns,
									get_attname(relid, conkey[i], false));
		fk->parent_columns = lappend(fk->parent_columns,
									 get_attname(form->confrelid, confkey[i], false));
		fk->operators = lappend(fk->operators, sql_operator(operators[i]));
	}
	return fk;
}

static bool
list_has_name(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

/* The foreign keys of one relation that "via" may mean */
static List *
foreign_keys_of(Oid relid, const char *via)
{
	List	   *by_name = NIL;
	List	   *by_column = NIL;
	Relation	constraints = table_open(ConstraintRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_constraint_conrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(constraints, ConstraintRelidTypidNameIndexId,
							  true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_constraint form = (Form_pg_constraint) GETSTRUCT(tuple);
		ForeignKey *fk;

		if (form->contype != CONSTRAINT_FOREIGN)
			continue;
		fk = read_foreign_key(relid, tuple);
		if (strcmp(fk->name, via) == 0)
			by_name = lappend(by_name, fk);
		if (list_has_name(fk->child_columns, via))
			by_column = lappend(by_column, fk);
	}
	systable_endscan(scan);
	table_close(constraints, AccessShareLock);
	return by_name != NIL ? by_name : by_column;
}

static bool
same_names(List *a, List *b)
{
	ListCell   *x;
	ListCell   *y;

	if (list_length(a) != list_length(b))
		return false;
	forboth(x, a, y, b)
		if (strcmp(lfirst(x), lfirst(y)) != 0)
			return false;
	return true;
}

/*
 * Find the foreign key on the table, or, where each partition has its own, on
 * the relations below it.  Those must agree; a partition without one is read
 * through the same columns.
 */
static ForeignKey *
find_foreign_key(Source *source)
{
	List	   *found = NIL;
	ForeignKey *first = NULL;
	ListCell   *lc;

	foreach(lc, find_all_inheritors(source->relid, NoLock, NULL))
		found = list_concat(found, foreign_keys_of(lfirst_oid(lc), source->via));
	if (found == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("relation %s has no foreign key %s",
						sql_relation(source->relid), quote_identifier(source->via)),
				 errdetail("via takes the name of a foreign-key constraint, or of a column that has one."),
				 errhint("List them with: SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f' AND conrelid = %s::regclass;",
						 sql_literal(sql_relation(source->relid)))));
	foreach(lc, found)
	{
		ForeignKey *fk = lfirst(lc);

		if (first == NULL)
			first = fk;
		else if (fk->parent != first->parent ||
				 !same_names(fk->child_columns, first->child_columns) ||
				 !same_names(fk->parent_columns, first->parent_columns))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("via %s is ambiguous for %s", quote_identifier(source->via),
							sql_relation(source->relid)),
					 errdetail("Both %s (to %s) and %s (to %s) fit.",
							   quote_identifier(first->name), sql_relation(first->parent),
							   quote_identifier(fk->name), sql_relation(fk->parent)),
					 errhint("Name the constraint.")));
	}
	return first;
}

static void
check_via(Source *source)
{
	ForeignKey *fk = find_foreign_key(source);
	TargetColumn parent_column;

	source->parent = fk->parent;
	source->child_columns = fk->child_columns;
	source->parent_columns = fk->parent_columns;
	source->operators = fk->operators;
	if (!target_find_column(fk->parent, source->column, &parent_column))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column %s of relation %s does not exist",
						quote_identifier(source->column), sql_relation(fk->parent)),
				 errdetail("The value is to be taken from there, through foreign key %s.",
						   quote_identifier(fk->name)),
				 errhint("Give the parent its tenant first: tenantmig.add_tenant_column(%s, %s), then tenantmig.backfill.",
						 sql_literal(sql_relation(fk->parent)), sql_literal(source->column))));
	if (parent_column.type != source->target.type ||
		parent_column.typmod != source->target.typmod)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column %s is of type %s in %s, but of type %s in %s",
						quote_identifier(source->column), source->target.type_name,
						sql_relation(source->relid), parent_column.type_name,
						sql_relation(fk->parent)),
				 errhint("Use the same type for the tenant column everywhere.")));
	check_may_read(fk->parent);
}

Source *
source_resolve(Jsonb *arguments, Oid relid)
{
	Source	   *source = palloc0(sizeof(Source));

	source->relid = relid;
	source->column = json_text(arguments, "column");
	source->unset = json_text(arguments, "unset");
	source->value = json_text(arguments, "value");
	source->expression = json_text(arguments, "expression");
	source->via = json_text(arguments, "via");
	target_check_column(relid, source->column, &source->target);
	if (sql_equality(source->target.type) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("column %s has type %s, which has no equality operator",
						quote_identifier(source->column), source->target.type_name),
				 errhint("A tenant column must be comparable: text, uuid, integer, bigint, or a domain or enum.")));
	if (source->unset)
		(void) target_value(&source->target, source->unset);
	if (source->value)
	{
		source->kind = SOURCE_VALUE;
		check_value(source, source->value, "value");
	}
	else if (source->expression)
	{
		source->kind = SOURCE_EXPRESSION;
		check_expression(source);
	}
	else
	{
		source->kind = SOURCE_VIA;
		check_via(source);
	}
	return source;
}
