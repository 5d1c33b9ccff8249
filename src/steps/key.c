/*
 * key.c
 *		Primary keys as jobs read, write and change them.
 *
 * What key_set_primary() does has no statement in SQL.  A primary key and a
 * unique constraint are stored alike, but for the type of the constraint and a
 * mark on the index; so one becomes the other by these two fields.  It is used
 * where a statement would have to drop an index that foreign keys stand on
 * (foreign_keys => 'keep'), or does not exist (USING INDEX on a partitioned
 * table).
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/index.h"
#include "catalog/indexing.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_index.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/json.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "engine/template.h"
#include "steps/key.h"

/* --- reading ---------------------------------------------------------- */

#define INDEX_COLUMNS(what, which) \
	"(SELECT jsonb_agg(" what " ORDER BY k.n) " \
	"FROM unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, n) " \
	"JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = k.attnum " \
	"WHERE k.n " which " i.indnkeyatts)"

Jsonb *
key_read(Oid table)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	Jsonb	   *key;

	query_init(&query, "SELECT jsonb_build_object('home', $2, 'table', r.oid::bigint, "
			   "'schema_name', n.nspname, 'relation_name', r.relname, "
			   "'oid', c.oid::bigint, 'index', c.conindid::bigint, "
			   "'parent', c.conparentid::bigint, 'name', c.conname, "
			   "'columns', " INDEX_COLUMNS("a.attname", "<=") ", "
			   "'columns_numbers', " INDEX_COLUMNS("a.attnum::text", "<=") ", "
			   "'include', " INDEX_COLUMNS("a.attname", ">") ", "
			   "'include_numbers', " INDEX_COLUMNS("a.attnum::text", ">") ", "
			   "'options', (SELECT string_agg(quote_ident(split_part(o, '=', 1)) || '=' || "
			   " quote_literal(substr(o, strpos(o, '=') + 1)), ', ') FROM unnest(x.reloptions) o), "
			   "'tablespace', (SELECT s.spcname FROM pg_tablespace s "
			   " WHERE s.oid = CASE WHEN x.reltablespace <> 0 THEN x.reltablespace "
			   "  WHEN current_setting('default_tablespace') <> '' "
			   "  THEN (SELECT d.dattablespace FROM pg_database d WHERE d.datname = current_database()) END), "
			   "'method', (SELECT m.amname FROM pg_am m WHERE m.oid = x.relam), "
			   "'deferrable', c.condeferrable, 'deferred', c.condeferred, "
			   "'comment', obj_description(c.oid, 'pg_constraint'), "
			   "'index_comment', obj_description(c.conindid, 'pg_class'), "
			   "'clustered', i.indisclustered, 'identity', i.indisreplident, "
			   "'temporal', i.indisexclusion) "
			   "FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace "
			   "LEFT JOIN (pg_constraint c JOIN pg_index i ON i.indexrelid = c.conindid "
			   " JOIN pg_class x ON x.oid = c.conindid) "
			   "ON c.conrelid = r.oid AND c.contype = 'p' WHERE r.oid = $1");
	query_oid(&query, table);
	query_int8(&query, identity_home());
	SPI_connect();
	query_run(&query);
	MemoryContextSwitchTo(context);
	key = query_get_jsonb(0, 1);
	SPI_finish();
	return key;
}

/* OIDs and numbers mean something in the database that they were read in */
static bool
is_of_here(Jsonb *object)
{
	return json_int(object, "home", 0) == identity_home();
}

Oid
key_find_relation(Jsonb *object, const char *oid, const char *schema,
				  const char *name)
{
	Job			job = {.at_home = is_of_here(object)};

	return job_find_relation(&job, (Oid) json_int(object, oid, 0),
							 json_text(object, schema), json_text(object, name));
}

List *
key_follow_columns(Oid table, Jsonb *object, const char *names)
{
	List	   *numbers = json_list(object, psprintf("%s_numbers", names));
	List	   *now = NIL;
	ListCell   *lc;

	foreach(lc, is_of_here(object) ? numbers : NIL)
	{
		char	   *name = get_attname(table, (AttrNumber) atoi(lfirst(lc)), true);

		if (name)
			now = lappend(now, name);
	}
	return now != NIL && list_length(now) == list_length(numbers) ? now
		: json_list(object, names);
}

KeyDef *
key_parse(Jsonb *object)
{
	KeyDef	   *key = palloc0(sizeof(KeyDef));

	key->table = key_find_relation(object, "table", "schema_name", "relation_name");
	key->constraint = (Oid) json_int(object, "oid", 0);
	key->index = (Oid) json_int(object, "index", 0);
	key->parent = (Oid) json_int(object, "parent", 0);
	key->name = json_text(object, "name");
	key->columns = key_follow_columns(key->table, object, "columns");
	key->include = key_follow_columns(key->table, object, "include");
	key->method = json_text(object, "method");
	key->options = json_text(object, "options");
	key->tablespace = json_text(object, "tablespace");
	key->deferrable = json_bool(object, "deferrable", false);
	key->deferred = json_bool(object, "deferred", false);
	key->comment = json_text(object, "comment");
	key->index_comment = json_text(object, "index_comment");
	key->clustered = json_bool(object, "clustered", false);
	key->identity = json_bool(object, "identity", false);
	key->temporal = json_bool(object, "temporal", false);
	return OidIsValid(key->table) ? key : NULL;
}

List *
key_columns(Oid table)
{
	return json_list(key_read(table), "columns");
}

bool
key_has(List *columns, const char *column)
{
	ListCell   *lc;

	foreach(lc, columns)
		if (strcmp(lfirst(lc), column) == 0)
			return true;
	return false;
}

bool
key_same_columns(List *a, List *b)
{
	if (list_length(a) != list_length(b))
		return false;
	for (int i = 0; i < list_length(a); i++)
		if (strcmp(list_nth(a, i), list_nth(b, i)) != 0)
			return false;
	return true;
}

Oid
key_find_index(Oid table, const char *name, bool *valid)
{
	Oid			index = get_relname_relid(name, get_rel_namespace(table));

	*valid = false;
	if (!OidIsValid(index) || IndexGetRelation(index, true) != table)
		return InvalidOid;
	*valid = get_index_isvalid(index);
	return index;
}

/* --- texts ------------------------------------------------------------ */

char *
key_object(const char *alias, List *columns)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "pg_catalog.jsonb_build_object(");
	foreach(lc, columns)
		appendStringInfo(&buf, "%s%s, %s.%s",
						 foreach_current_index(lc) > 0 ? ", " : "",
						 sql_literal(lfirst(lc)), alias,
						 quote_identifier(lfirst(lc)));
	appendStringInfoChar(&buf, ')');
	return buf.data;
}

char *
key_collation(Oid collation)
{
	HeapTuple	tuple = SearchSysCache1(COLLOID, ObjectIdGetDatum(collation));
	Form_pg_collation form;
	char	   *name;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for collation %u", collation);
	form = (Form_pg_collation) GETSTRUCT(tuple);
	name = sql_name(get_namespace_name(form->collnamespace), NameStr(form->collname));
	ReleaseSysCache(tuple);
	return name;
}

Jsonb *
key_index_spec(const KeyDef *key, const char *name)
{
	JsonObject *spec = json_begin();
	List	   *elements = NIL;
	ListCell   *lc;

	foreach(lc, key->columns)
		elements = lappend(elements, pstrdup(quote_identifier(lfirst(lc))));
	json_put_text(spec, "name", name);
	json_put_bool(spec, "is_unique", true);
	json_put_text(spec, "method", "btree");
	json_put_list(spec, "elements", elements);
	json_put_list(spec, "names", key->columns);
	json_put_list(spec, "include", key->include);
	json_put_text(spec, "storage", key->options);
	json_put_text(spec, "tablespace", key->tablespace);
	return json_end(spec);
}

/* kind: UNIQUE or PRIMARY KEY; index: an index that is there, or NULL */
char *
key_constraint_text(const KeyDef *key, const char *name, const char *kind,
					const char *index)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "ADD CONSTRAINT %s %s ", quote_identifier(name), kind);
	if (index)
		appendStringInfo(&buf, "USING INDEX %s", quote_identifier(index));
	else
	{
		appendStringInfo(&buf, "(%s)", sql_name_list(key->columns));
		if (key->include != NIL)
			appendStringInfo(&buf, " INCLUDE (%s)", sql_name_list(key->include));
		if (key->options)
			appendStringInfo(&buf, " WITH (%s)", key->options);
		if (key->tablespace)
			appendStringInfo(&buf, " USING INDEX TABLESPACE %s",
							 quote_identifier(key->tablespace));
	}
	if (key->deferrable)
		appendStringInfoString(&buf, " DEFERRABLE");
	if (key->deferred)
		appendStringInfoString(&buf, " INITIALLY DEFERRED");
	return template_make("%s", buf.data);
}

/* --- from unique to primary and back ----------------------------------- */

List *
key_constraints_below(Oid constraint)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	List	   *below = NIL;
	uint64		count;

	query_init(&query, "WITH RECURSIVE below (oid) AS ( "
			   "SELECT oid FROM pg_constraint WHERE conparentid = $1 "
			   "AND contype IN ('p', 'u') UNION ALL "
			   "SELECT c.oid FROM below JOIN pg_constraint c ON c.conparentid = below.oid "
			   "AND c.contype IN ('p', 'u')) SELECT oid FROM below");
	query_oid(&query, constraint);
	SPI_connect();
	count = query_run(&query);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < count; i++)
		below = lappend_oid(below, query_get_oid(i, 1));
	SPI_finish();
	return below;
}

static Oid
set_constraint_type(Oid constraint, bool primary, Oid *table)
{
	Relation	catalog = table_open(ConstraintRelationId, RowExclusiveLock);
	HeapTuple	tuple = SearchSysCacheCopy1(CONSTROID, ObjectIdGetDatum(constraint));
	Form_pg_constraint form;
	Oid			index;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for constraint %u", constraint);
	form = (Form_pg_constraint) GETSTRUCT(tuple);
	if (form->contype != (primary ? CONSTRAINT_UNIQUE : CONSTRAINT_PRIMARY))
		elog(ERROR, "constraint %u is of type %c", constraint, form->contype);
	form->contype = primary ? CONSTRAINT_PRIMARY : CONSTRAINT_UNIQUE;
	index = form->conindid;
	*table = form->conrelid;
	CatalogTupleUpdate(catalog, &tuple->t_self, tuple);
	InvokeObjectPostAlterHook(ConstraintRelationId, constraint, 0);
	table_close(catalog, RowExclusiveLock);
	return index;
}

static void
set_index_primary(Oid index, bool primary)
{
	Relation	catalog = table_open(IndexRelationId, RowExclusiveLock);
	HeapTuple	tuple = SearchSysCacheCopy1(INDEXRELID, ObjectIdGetDatum(index));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for index %u", index);
	((Form_pg_index) GETSTRUCT(tuple))->indisprimary = primary;
	CatalogTupleUpdate(catalog, &tuple->t_self, tuple);
	InvokeObjectPostAlterHook(IndexRelationId, index, 0);
	table_close(catalog, RowExclusiveLock);
}

void
key_set_primary(Oid constraint, bool primary)
{
	ListCell   *lc;

	foreach(lc, lcons_oid(constraint, key_constraints_below(constraint)))
	{
		Oid			table;
		Oid			index = set_constraint_type(lfirst_oid(lc), primary, &table);

		set_index_primary(index, primary);
		CacheInvalidateRelcacheByRelid(table);
		CacheInvalidateRelcacheByRelid(index);
	}
	CommandCounterIncrement();
}
