/*
 * rls_default.c
 *		The tenant of the setting as the default of the column.
 *
 * The value is what the policies compare with, so that a row that names no
 * tenant is the session's.  Partitions and children have defaults of their
 * own, which count when rows are inserted into them by name.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/heap.h"
#include "catalog/pg_attribute.h"
#include "parser/parse_node.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/sqltext.h"
#include "engine/template.h"
#include "steps/rls.h"
#include "steps/target.h"

void
rls_check_default(const RlsArguments *arguments, Oid relid)
{
	HeapTuple	tuple = SearchSysCacheAttName(relid, arguments->column);
	Form_pg_attribute att;

	if (!HeapTupleIsValid(tuple))
		return;					/* rls_check_column() has raised */
	att = (Form_pg_attribute) GETSTRUCT(tuple);
	if (att->attgenerated != '\0' || att->attidentity != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("column %s of relation %s cannot have a default",
						quote_identifier(arguments->column), sql_relation(relid)),
				 errdetail("It is %s.", att->attgenerated != '\0'
						   ? "generated" : "an identity column"),
				 errhint("Call without set_default.")));
	ReleaseSysCache(tuple);
}

/* The default as it is stored, open relation in, or NULL */
static Node *
stored_default(Relation relation, AttrNumber attnum)
{
	TupleConstr *constr = RelationGetDescr(relation)->constr;

	for (int i = 0; constr && i < constr->num_defval; i++)
		if (constr->defval[i].adnum == attnum)
			return stringToNode(constr->defval[i].adbin);
	return NULL;
}

/* As ALTER TABLE would store it */
static Node *
parse_default(Relation relation, AttrNumber attnum, const char *text)
{
	List	   *raw = raw_parser(text, RAW_PARSE_PLPGSQL_EXPR);
	SelectStmt *select = castNode(SelectStmt, linitial_node(RawStmt, raw)->stmt);
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(relation), attnum - 1);
	ParseState *pstate = make_parsestate(NULL);
	Node	   *node;

	node = cookDefault(pstate, linitial_node(ResTarget, select->targetList)->val,
					   att->atttypid, att->atttypmod, NameStr(att->attname),
					   att->attgenerated);
	free_parsestate(pstate);
	return node;
}

bool
rls_default_holds(const RlsArguments *arguments, Oid relid)
{
	Relation	relation = table_open(relid, AccessShareLock);
	TargetColumn column;
	Node	   *stored;
	bool		holds;

	target_check_column(relid, arguments->column, &column);
	stored = stored_default(relation, column.attnum);
	holds = stored != NULL &&
		equal(stored, parse_default(relation, column.attnum,
									rls_value_text(arguments, relid)));
	table_close(relation, NoLock);
	return holds;
}

char *
rls_default_text(const RlsArguments *arguments, Oid relid)
{
	return template_make("ALTER TABLE ONLY %R ALTER COLUMN %s SET DEFAULT %s",
						 quote_identifier(arguments->column),
						 rls_value_text(arguments, relid));
}

char *
rls_undo_default_text(const RlsArguments *arguments, Oid relid)
{
	Relation	relation = table_open(relid, AccessShareLock);
	const char *column = quote_identifier(arguments->column);
	TargetColumn found;
	Node	   *stored;
	char	   *inverse;

	target_check_column(relid, arguments->column, &found);
	stored = stored_default(relation, found.attnum);
	if (stored)
		inverse = template_make("SET LOCAL search_path TO " RLS_PINNED_PATH "; "
								"ALTER TABLE ONLY %R ALTER COLUMN %s SET DEFAULT %s",
								column,
								deparse_expression(stored, NIL, false, false));
	else
		inverse = template_make("ALTER TABLE ONLY %R ALTER COLUMN %s DROP DEFAULT",
								column);
	table_close(relation, NoLock);
	return inverse;
}
