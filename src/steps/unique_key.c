/*
 * unique_key.c
 *		Unique constraints and indexes, read from the catalogs.
 *
 * Definitions are taken as the server prints them, with all names qualified,
 * and a column is put in front: so operator classes, collations, expressions,
 * storage and predicates stay what they are.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/index.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_inherits.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "steps/index.h"
#include "steps/target.h"
#include "steps/unique_key.h"

/* What stands behind a prefix that is known */
static char *
behind(const char *text, const char *prefix)
{
	size_t		length = strlen(prefix);

	return strncmp(text, prefix, length) == 0 ? pstrdup(text + length) : NULL;
}

static char *
read_definition(Oid index)
{
	Oid			table = IndexGetRelation(index, false);
	char	   *text = pg_get_indexdef_string(index);
	char	   *behind_kind = psprintf("INDEX %s ON %s ",
									   quote_identifier(get_rel_name(index)),
									   sql_relation(table));
	char	   *rest = behind(text, psprintf("CREATE UNIQUE %s", behind_kind));

	if (rest == NULL)
		rest = behind(text, psprintf("CREATE %s", behind_kind));
	if (rest == NULL)
		elog(ERROR, "unexpected definition of an index: %s", text);
	return rest;
}

static char *
read_constraint(Oid constraint, Oid table, const char *name)
{
	char	   *text;
	char	   *rest;

	if (!OidIsValid(constraint))
		return NULL;
	text = pg_get_constraintdef_command(constraint);
	rest = behind(text, psprintf("ALTER TABLE %s ADD CONSTRAINT %s ",
								 sql_relation(table), quote_identifier(name)));
	if (rest == NULL)
		elog(ERROR, "unexpected definition of a constraint: %s", text);
	return rest;
}

Jsonb *
unique_read(Oid index)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			table = IndexGetRelation(index, false);
	char	   *name = get_rel_name(index);
	char	   *definition;
	char	   *constraint;
	Jsonb	   *key;
	Identity	saved;
	OwnQuery	query;

	/* with the path that qualifies all names but the server's */
	identity_enter_extension(&saved);
	definition = read_definition(index);
	constraint = read_constraint(get_index_constraint(index), table, name);
	identity_leave(&saved);

	query_init(&query, "SELECT jsonb_strip_nulls(jsonb_build_object("
			   "'table', i.indrelid::bigint, 'schema', n.nspname, 'relation', t.relname, "
			   "'partitioned', t.relkind = 'p', 'called', c.relname, 'method', am.amname, "
			   "'is_unique', i.indisunique, 'nulls_not_distinct', i.indnullsnotdistinct, "
			   "'definition', $2, 'constraint', $3, "
			   "'names', (SELECT jsonb_agg(COALESCE(a.attname, 'expr') ORDER BY k.place) "
			   " FROM unnest(i.indkey) WITH ORDINALITY k (attnum, place) "
			   " LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum "
			   " WHERE k.place <= i.indnkeyatts), "
			   "'include', (SELECT jsonb_agg(a.attname ORDER BY k.place) "
			   " FROM unnest(i.indkey) WITH ORDINALITY k (attnum, place) "
			   " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum "
			   " WHERE k.place > i.indnkeyatts), "
			   "'predicate', pg_get_expr(i.indpred, i.indrelid), "
			   "'deferrable', con.condeferrable, 'deferred', con.condeferred, "
			   "'comment', obj_description(con.oid, 'pg_constraint'), "
			   "'index_comment', obj_description(c.oid, 'pg_class'), "
			   "'clustered', i.indisclustered, 'identity', i.indisreplident, "
			   "'statistics', (SELECT jsonb_agg(a.attnum || ' ' || a.attstattarget ORDER BY a.attnum) "
			   " FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attstattarget >= 0), "
			   "'extensions', (SELECT jsonb_agg(e.extname ORDER BY e.extname) "
			   " FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid "
			   " WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid "
			   " AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'x'))) "
			   "FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
			   "JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace "
			   "JOIN pg_am am ON am.oid = c.relam "
			   "LEFT JOIN pg_constraint con ON con.conindid = c.oid AND con.contype IN ('u', 'p', 'x') "
			   "WHERE i.indexrelid = $1");
	query_oid(&query, index);
	query_text(&query, definition);
	query_text(&query, constraint);
	SPI_connect();
	query_run(&query);
	MemoryContextSwitchTo(context);
	key = query_get_jsonb(0, 1);
	SPI_finish();
	return key;
}

/* --- its elements ------------------------------------------------------------ */

/* The end of a quoted piece that begins here: behind the quote that ends it.  In a
 * string that begins with E, a backslash takes the next character along. */
static const char *
behind_quoted(const char *at, bool escapes)
{
	char		quote = *at++;

	while (*at && *at != quote)
		at += escapes && *at == '\\' && at[1] ? 2 : 1;
	return *at ? at + 1 : at;
}

List *
unique_elements(Jsonb *key)
{
	const char *text = strchr(json_text(key, "definition"), '(') + 1;
	const char *start = text;
	const char *at = text;
	int			depth = 0;
	List	   *elements = NIL;

	while (*at)
	{
		if (*at == '\'' || *at == '"')
		{
			at = behind_quoted(at, *at == '\'' && at > text && at[-1] == 'E');
			continue;
		}
		if (depth == 0 && (*at == ',' || *at == ')'))
		{
			while (*start == ' ')
				start++;
			elements = lappend(elements, pnstrdup(start, at - start));
			start = at + 1;
			if (*at == ')')
				break;
		}
		if (*at == '(' || *at == '[')
			depth++;
		if (*at == ')' || *at == ']')
			depth--;
		at++;
	}
	return elements;
}

/* --- one more column ------------------------------------------------------ */

/* Behind the first parenthesis, which only the method or keywords precede */
static char *
with_column(const char *text, const char *column)
{
	const char *open = strchr(text, '(');

	return psprintf("%.*s%s, %s", (int) (open + 1 - text), text,
					quote_identifier(column), open + 1);
}

/* A column cannot be in the key and be included too */
static char *
without_included(char *text, List *include, List *rest)
{
	char	   *piece = psprintf(" INCLUDE (%s)", sql_name_list(include));
	char	   *at = strstr(text, piece);

	if (at == NULL)
		elog(ERROR, "unexpected definition of an index: %s", text);
	return psprintf("%.*s%s%s", (int) (at - text), text,
					rest == NIL ? "" : psprintf(" INCLUDE (%s)", sql_name_list(rest)),
					at + strlen(piece));
}

static List *
without(List *names, const char *name)
{
	List	   *rest = NIL;
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) != 0)
			rest = lappend(rest, lfirst(lc));
	return rest;
}

/* The columns of the index come one later */
static List *
shifted(List *statistics)
{
	List	   *later = NIL;
	ListCell   *lc;

	foreach(lc, statistics)
	{
		int			number;
		int			target;

		if (sscanf(lfirst(lc), "%d %d", &number, &target) == 2)
			later = lappend(later, psprintf("%d %d", number + 1, target));
	}
	return later;
}

static void
copy_texts(JsonObject *to, Jsonb *from)
{
	static const char *const texts[] = {"schema", "relation", "called", "method",
		"predicate", "comment", "index_comment"};
	static const char *const flags[] = {"partitioned", "is_unique", "nulls_not_distinct",
		"deferrable", "deferred", "clustered", "identity"};

	json_put_int(to, "table", json_int(from, "table", 0));
	for (int i = 0; i < lengthof(texts); i++)
		json_put_text(to, texts[i], json_text(from, texts[i]));
	for (int i = 0; i < lengthof(flags); i++)
		json_put_bool(to, flags[i], json_bool(from, flags[i], false));
}

Jsonb *
unique_scoped(Jsonb *key, const char *column)
{
	JsonObject *scoped = json_begin();
	List	   *include = json_list(key, "include");
	List	   *rest = without(include, column);
	char	   *definition = json_text(key, "definition");
	char	   *constraint = json_text(key, "constraint");

	if (list_length(rest) < list_length(include))
	{
		definition = without_included(definition, include, rest);
		if (constraint)
			constraint = without_included(constraint, include, rest);
	}
	copy_texts(scoped, key);
	json_put_text(scoped, "definition", with_column(definition, column));
	if (constraint)
		json_put_text(scoped, "constraint", with_column(constraint, column));
	json_put_list(scoped, "names", lcons(pstrdup(column), json_list(key, "names")));
	json_put_list(scoped, "include", rest);
	json_put_list(scoped, "statistics", shifted(json_list(key, "statistics")));
	json_put_list(scoped, "extensions", json_list(key, "extensions"));
	return json_end(scoped);
}

Jsonb *
unique_unscoped(Jsonb *key, Jsonb *parent)
{
	JsonObject *before = json_begin();

	copy_texts(before, key);
	json_put_text(before, "definition", json_text(parent, "definition"));
	json_put_text(before, "constraint", json_text(parent, "constraint"));
	json_put_list(before, "names", json_list(parent, "names"));
	json_put_list(before, "include", json_list(parent, "include"));
	return json_end(before);
}

bool
unique_has(Jsonb *key, const char *column)
{
	List	   *names = json_list(key, "names");

	return list_length(without(names, column)) < list_length(names);
}

char *
unique_columns(Jsonb *key)
{
	return psprintf("(%s)", sql_name_list(json_list(key, "names")));
}

/* --- a tree ---------------------------------------------------------------- */

static UniqueChange *
find_change(List *changes, Oid table)
{
	ListCell   *lc;

	foreach(lc, changes)
		if (((UniqueChange *) lfirst(lc))->table == table)
			return lfirst(lc);
	return NULL;
}

/* Downwards by the indexes, each of which is attached to the one above */
List *
unique_tree(Oid relid, Oid index)
{
	List	   *changes = NIL;
	ListCell   *lc;

	foreach(lc, find_all_inheritors(index, NoLock, NULL))
	{
		UniqueChange *change = palloc0(sizeof(UniqueChange));
		Oid			current = lfirst_oid(lc);

		change->table = IndexGetRelation(current, false);
		change->partitioned = get_rel_relkind(current) == RELKIND_PARTITIONED_INDEX;
		change->now = unique_read(current);
		if (current != index)
			change->parent = find_change(changes, get_partition_parent(change->table, true));
		changes = lappend(changes, change);
	}
	return changes;
}
