/*
 * sqltext.c
 *		SQL text, built in one place: OIDs in, quoted names out.
 */
#include "postgres.h"

#include <ctype.h>

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_operator.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"
#include "utils/varlena.h"

#include "engine/compat.h"
#include "engine/sqltext.h"

char *
sql_name(const char *schema, const char *name)
{
	return pstrdup(quote_qualified_identifier(schema, name));
}

char *
sql_relation(Oid relid)
{
	char	   *name = get_rel_name(relid);
	char	   *schema;

	if (name == NULL)
		return NULL;
	schema = get_namespace_name(get_rel_namespace(relid));
	if (schema == NULL)
		return NULL;
	return sql_name(schema, name);
}

bool
sql_split_name(const char *text, char **schema, char **name)
{
	List	   *parts;

	if (!SplitIdentifierString(pstrdup(text), '.', &parts) ||
		list_length(parts) != 2)
		return false;
	*schema = linitial(parts);
	*name = lsecond(parts);
	return true;
}

char *
sql_literal(const char *text)
{
	return quote_literal_cstr(text);
}

char *
sql_name_list(List *names)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, names)
		appendStringInfo(&buf, "%s%s", buf.len > 0 ? ", " : "",
						 quote_identifier((char *) lfirst(lc)));
	return buf.data;
}

char *
sql_derived_name(const char *prefix, const char *stem, const char *suffix)
{
	int			room = NAMEDATALEN - 1 - (int) strlen(prefix) - (int) strlen(suffix);
	int			len = pg_mbcliplen(stem, (int) strlen(stem), room);

	return psprintf("%s%.*s%s", prefix, len, stem, suffix);
}

char *
sql_operator(Oid operator)
{
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Form_pg_operator op;
	char	   *text;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	op = (Form_pg_operator) GETSTRUCT(tuple);
	text = psprintf("OPERATOR(%s.%s)",
					quote_identifier(get_namespace_name(op->oprnamespace)),
					NameStr(op->oprname));
	ReleaseSysCache(tuple);
	return text;
}

char *
sql_equality(Oid type)
{
	TypeCacheEntry *entry = lookup_type_cache(getBaseType(type),
											  TYPECACHE_EQ_OPR);

	return OidIsValid(entry->eq_opr) ? sql_operator(entry->eq_opr) : NULL;
}

char *
sql_parenthesized(const char *expression)
{
	return psprintf("(%s\n)", expression);
}

void
sql_check_expression(const char *expression, const char *what)
{
	List	   *raw = raw_parser(expression, RAW_PARSE_PLPGSQL_EXPR);
	SelectStmt *stmt;

	stmt = castNode(SelectStmt, linitial_node(RawStmt, raw)->stmt);

	if (list_length(raw) != 1 || list_length(stmt->targetList) != 1 ||
		linitial_node(ResTarget, stmt->targetList)->name != NULL ||
		stmt->distinctClause || stmt->intoClause || stmt->fromClause ||
		stmt->whereClause || stmt->groupClause || stmt->havingClause ||
		stmt->windowClause || stmt->valuesLists || stmt->sortClause ||
		stmt->limitOffset || stmt->limitCount || stmt->lockingClause ||
		stmt->withClause || stmt->op != SETOP_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is not exactly one expression", what),
				 errdetail("It reads: %s", sql_printable(expression)),
				 errhint("Give one SQL expression over the row's own columns, such as lower(region).")));
}

IndexElem *
sql_parse_index_element(const char *element)
{
	List	   *raw;
	IndexStmt  *stmt;

	raw = raw_parser(psprintf("CREATE INDEX ON x (%s\n)", element),
					 RAW_PARSE_DEFAULT);
	if (list_length(raw) == 1 &&
		IsA(linitial_node(RawStmt, raw)->stmt, IndexStmt))
	{
		stmt = (IndexStmt *) linitial_node(RawStmt, raw)->stmt;
		if (list_length(stmt->indexParams) == 1 &&
			stmt->indexIncludingParams == NIL && stmt->options == NIL &&
			stmt->whereClause == NULL && stmt->tableSpace == NULL)
			return linitial_node(IndexElem, stmt->indexParams);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("index column is not exactly one index element"),
			 errdetail("It reads: %s", sql_printable(element)),
			 errhint("Give a column name, or an expression as CREATE INDEX takes it, such as lower(email).")));
}

char *
sql_printable(const char *text)
{
	StringInfoData buf;
	const char *p;

	initStringInfo(&buf);
	for (p = text; *p; p++)
	{
		if (*p == '\n')
			appendStringInfoString(&buf, "\\n");
		else if (*p == '\r')
			appendStringInfoString(&buf, "\\r");
		else if (*p == '\t')
			appendStringInfoString(&buf, "\\t");
		else if ((unsigned char) *p < 0x20 || *p == 0x7f)
			appendStringInfo(&buf, "\\x%02x", (unsigned char) *p);
		else
			appendStringInfoChar(&buf, *p);
	}
	return buf.data;
}
