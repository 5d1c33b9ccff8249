/*
 * index_definition.c
 *		What an index is to be: its text, its name, and whether one is like it.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "commands/defrem.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/sqltext.h"
#include "engine/template.h"
#include "steps/index.h"

Jsonb *
index_spec(List *columns, bool is_unique)
{
	JsonObject *spec = json_begin();
	List	   *elements = NIL;
	ListCell   *lc;

	foreach(lc, columns)
		elements = lappend(elements, pstrdup(quote_identifier(lfirst(lc))));
	json_put_list(spec, "elements", elements);
	json_put_list(spec, "names", columns);
	json_put_bool(spec, "is_unique", is_unique);
	json_put_text(spec, "method", "btree");
	return json_end(spec);
}

/* --- text -------------------------------------------------------------- */

char *
index_definition(Jsonb *spec)
{
	StringInfoData buf;
	char	   *whole = json_text(spec, "definition");
	List	   *include = json_list(spec, "include");
	char	   *predicate = json_text(spec, "predicate");
	char	   *storage = json_text(spec, "storage");
	char	   *tablespace = json_text(spec, "tablespace");
	ListCell   *lc;

	if (whole)
		return whole;
	initStringInfo(&buf);
	appendStringInfo(&buf, "USING %s (", quote_identifier(json_text(spec, "method")));
	foreach(lc, json_list(spec, "elements"))
		appendStringInfo(&buf, "%s%s", foreach_current_index(lc) > 0 ? ", " : "",
						 (char *) lfirst(lc));
	appendStringInfoChar(&buf, ')');
	if (include != NIL)
		appendStringInfo(&buf, " INCLUDE (%s)", sql_name_list(include));
	if (json_bool(spec, "nulls_not_distinct", false))
		appendStringInfoString(&buf, " NULLS NOT DISTINCT");
	if (storage)
		appendStringInfo(&buf, " WITH (%s)", storage);
	if (tablespace)
		appendStringInfo(&buf, " TABLESPACE %s", quote_identifier(tablespace));
	if (predicate)
		appendStringInfo(&buf, " WHERE %s", sql_parenthesized(predicate));
	return buf.data;
}

/* only: of a partitioned table, which has no rows of its own */
char *
index_create_text(Jsonb *spec, const char *index, bool only)
{
	bool		unique = json_bool(spec, "is_unique", false);

	return template_make("CREATE %sINDEX %s%s ON %s%R %s",
						 unique ? "UNIQUE " : "", only ? "" : "CONCURRENTLY ",
						 quote_identifier(index), only ? "ONLY " : "",
						 index_definition(spec));
}

char *
index_drop_text(const char *index, bool concurrently)
{
	return template_make("DROP INDEX %sIF EXISTS %S.%s",
						 concurrently ? "CONCURRENTLY " : "",
						 quote_identifier(index));
}

/* --- names ------------------------------------------------------------- */

char *
index_qualified_name(Oid table, const char *index)
{
	return sql_name(get_namespace_name(get_rel_namespace(table)), index);
}

/* A name that no relation of the schema has, made as PostgreSQL makes it */
static char *
choose_name(Oid table, List *names)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, names)
		appendStringInfo(&buf, "%s%s", buf.len > 0 ? "_" : "", (char *) lfirst(lc));
	return ChooseRelationName(get_rel_name(table), buf.data, "idx",
							  get_rel_namespace(table), false);
}

char *
index_name_for(Jsonb *spec, Oid relid, Oid table)
{
	char	   *name = json_text(spec, "name");

	if (name && table == relid)
		return name;
	return choose_name(table, json_list(spec, "names"));
}

/*
 * An index under the wanted name is an error unless an earlier job of ours is
 * about to build it or has built it, which job_submit() finds.
 */
void
index_check_name_is_free(Oid relid, const char *name)
{
	Oid			other = get_relname_relid(name, get_rel_namespace(relid));

	if (!OidIsValid(other))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_TABLE),
			 errmsg("relation %s already exists", sql_relation(other)),
			 get_rel_relkind(other) == RELKIND_INDEX && !get_index_isvalid(other)
			 ? errhint("It is an index that is not valid, left by an interrupted build. If nobody builds it now: DROP INDEX CONCURRENTLY %s;",
					   sql_relation(other))
			 : errhint("Choose another name, or leave name out.")));
}

/* --- what is like it --------------------------------------------------- */

bool
index_is_on(Oid index, Oid table)
{
	char		relkind = get_rel_relkind(index);

	return (relkind == RELKIND_INDEX || relkind == RELKIND_PARTITIONED_INDEX) &&
		IndexGetRelation(index, true) == table;
}

static Oid
index_method(Oid index)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(index));
	Oid			method;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	method = ((Form_pg_class) GETSTRUCT(tuple))->relam;
	ReleaseSysCache(tuple);
	return method;
}

/* Method, uniqueness, columns in their order, expressions where there are to be
 * some, a predicate or none */
bool
index_matches(Oid index, Oid table, Jsonb *spec)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	List	   *names = json_list(spec, "names");
	List	   *include = json_list(spec, "include");
	Form_pg_index form;
	bool		same;
	ListCell   *lc;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_index) GETSTRUCT(tuple);
	same = form->indrelid == table &&
		form->indisunique == json_bool(spec, "is_unique", false) &&
		form->indnullsnotdistinct == json_bool(spec, "nulls_not_distinct", false) &&
		form->indnkeyatts == list_length(names) &&
		form->indnatts == list_length(names) + list_length(include) &&
		heap_attisnull(tuple, Anum_pg_index_indpred, NULL) ==
		(json_text(spec, "predicate") == NULL) &&
		index_method(index) == get_index_am_oid(json_text(spec, "method"), true);
	foreach(lc, same ? list_concat(names, include) : NIL)
	{
		AttrNumber	attnum = form->indkey.values[foreach_current_index(lc)];

		if (attnum != 0 && attnum != get_attnum(table, lfirst(lc)))
			same = false;
	}
	ReleaseSysCache(tuple);
	return same;
}
