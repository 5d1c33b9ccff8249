/*
 * source_resolve.c
 *		What a call says of its source, resolved and checked.
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
	sql = source_expression_update(source);
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
	bool		temporal;
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
	fk->temporal = constraint_is_temporal(form);
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

/*
 * A foreign key to a partitioned table is there once more for each of its
 * partitions; only the one to the whole is meant.
 */
static bool
is_to_partition(Form_pg_constraint form)
{
	Oid			whole = form->confrelid;
	Oid			above = form->conparentid;

	while (OidIsValid(above))
	{
		HeapTuple	tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(above));

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for constraint %u", above);
		whole = ((Form_pg_constraint) GETSTRUCT(tuple))->confrelid;
		above = ((Form_pg_constraint) GETSTRUCT(tuple))->conparentid;
		ReleaseSysCache(tuple);
	}
	return whole != form->confrelid;
}

/*
 * The foreign keys of one relation that "via" may mean.  A column is no name for
 * one that needs the value already to find the parent, as it is once keys are
 * tenant-scoped.
 */
static List *
foreign_keys_of(Oid relid, const char *via, const char *column)
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

		if (form->contype != CONSTRAINT_FOREIGN || is_to_partition(form))
			continue;
		fk = read_foreign_key(relid, tuple);
		if (strcmp(fk->name, via) == 0)
			by_name = lappend(by_name, fk);
		if (list_has_name(fk->child_columns, via) &&
			!list_has_name(fk->child_columns, column))
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
		found = list_concat(found, foreign_keys_of(lfirst_oid(lc), source->via,
															 source->column));
	if (found == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("relation %s has no foreign key %s",
						sql_relation(source->relid), quote_identifier(source->via)),
				 errdetail("via takes the name of a foreign-key constraint, or of a column that has one without %s.",
						   quote_identifier(source->column)),
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
	if (first->temporal)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("via cannot be foreign key %s of %s, which has a PERIOD",
						quote_identifier(first->name), sql_relation(source->relid)),
				 errdetail("It refers to all rows that cover a period together, not to one that has the tenant."),
				 errhint("Give expression => instead, with the row that is meant.")));
	return first;
}

static void
check_via(Source *source)
{
	ForeignKey *fk = find_foreign_key(source);
	TargetColumn parent_column;

	if (list_has_name(fk->child_columns, source->column))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("foreign key %s of %s cannot give column %s its value",
						quote_identifier(fk->name), sql_relation(source->relid),
						quote_identifier(source->column)),
				 errdetail("The column is part of it: the parent of a row that has no value yet cannot be found."),
				 errhint("Give the value as an expression over the row's own columns.")));
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

static const char *const conflict_names[] = {
	[CONFLICT_LEAVE] = "leave",
	[CONFLICT_FAIL] = "fail",
	[CONFLICT_OVERWRITE] = "overwrite",
};

const char *
source_conflict_name(ConflictChoice choice)
{
	return conflict_names[choice];
}

static ConflictChoice
read_on_conflict(const char *text)
{
	if (text == NULL)
		return CONFLICT_LEAVE;
	for (int i = 0; i < lengthof(conflict_names); i++)
		if (strcmp(text, conflict_names[i]) == 0)
			return (ConflictChoice) i;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("option \"on_conflict\" cannot be %s", sql_printable(text)),
			 errhint("Use one of: leave, fail, overwrite.")));
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
	source->on_conflict = read_on_conflict(json_text(arguments, "on_conflict"));
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
