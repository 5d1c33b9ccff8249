/*
 * suggest_indexes.c
 *		suggest_indexes: what becomes of the indexes of a table that gets tenants.
 *
 * When every query names its tenant, be it by a policy or by itself, an index
 * serves it best if it begins with the tenant.  So each index has a twin that does.
 * Of a unique one that is what makes it unique per tenant, which is another call;
 * of others it is one more index, after which the old one may be redundant: unless
 * somebody looks rows up without the tenant, as a foreign key does that does not
 * have it.  A twin that another one begins with is not needed at all.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/index.h"
#include "catalog/partition.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "steps/target.h"
#include "steps/unique_key.h"

PG_FUNCTION_INFO_V1(tenantmig_suggest_indexes);

typedef struct Suggestion
{
	Oid			index;			/* InvalidOid: none of those that are there */
	char	   *name;
	Jsonb	   *key;
	const char *kind;
	const char *method;
	List	   *elements;		/* now */
	List	   *twin;			/* with the tenant first */
	bool		primary;
	bool		unique;
	bool		exclusion;
	bool		valid;
	const char *action;
	char	   *statement;
	bool		redundant;
	char	   *reason;
} Suggestion;

typedef struct Context
{
	Oid			relid;
	const char *column;
	const char *element;		/* the column as an element of an index */
	Oid			type;
	List	   *suggestions;
} Context;

/* --- what is there -------------------------------------------------------- */

/* With a direction or an operator class it is still the tenant */
static bool
is_tenant(const Context *c, const char *element)
{
	size_t		length = strlen(c->element);

	return strncmp(element, c->element, length) == 0 &&
		(element[length] == '\0' || element[length] == ' ');
}

static bool
begins_with_tenant(const Context *c, const Suggestion *s)
{
	return is_tenant(c, linitial(s->elements));
}

static List *
with_tenant_first(const Context *c, const Suggestion *s)
{
	List	   *twin = list_make1(pstrdup(c->element));
	ListCell   *lc;

	if (begins_with_tenant(c, s))
		return s->elements;
	foreach(lc, s->elements)
		if (!is_tenant(c, lfirst(lc)))
			twin = lappend(twin, lfirst(lc));
	return twin;
}

static const char *
kind_of(const Suggestion *s)
{
	if (s->primary)
		return "primary key";
	if (s->exclusion)
		return "exclusion constraint";
	if (s->unique)
		return json_text(s->key, "constraint") ? "unique constraint" : "unique index";
	return "index";
}

static Suggestion *
read_index(const Context *c, Oid index)
{
	Suggestion *s = palloc0(sizeof(Suggestion));
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	Form_pg_index form = (Form_pg_index) GETSTRUCT(tuple);

	s->index = index;
	s->name = get_rel_name(index);
	s->key = unique_read(index);
	s->primary = form->indisprimary;
	s->exclusion = form->indisexclusion;
	s->unique = form->indisunique;
	s->valid = form->indisvalid;
	ReleaseSysCache(tuple);
	s->kind = kind_of(s);
	s->method = json_text(s->key, "method");
	s->elements = unique_elements(s->key);
	s->twin = with_tenant_first(c, s);
	s->action = "keep";
	return s;
}

static int
compare_names(const ListCell *a, const ListCell *b)
{
	return strcmp(((Suggestion *) lfirst(a))->name, ((Suggestion *) lfirst(b))->name);
}

static void
read_indexes(Context *c)
{
	Relation	relation = table_open(c->relid, AccessShareLock);
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(relation))
		c->suggestions = lappend(c->suggestions, read_index(c, lfirst_oid(lc)));
	table_close(relation, NoLock);
	list_sort(c->suggestions, compare_names);
}

/* Foreign keys of the table or at it, as texts for a reason; NULL: none */
static char *
find_text(const char *sql, Oid relid, Oid index, const char *column)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	char	   *text = NULL;

	query_init(&query, sql);
	query_oid(&query, relid);
	query_oid(&query, index);
	query_name(&query, column);
	SPI_connect();
	if (query_run(&query) > 0)
	{
		MemoryContextSwitchTo(context);
		text = query_get_text(0, 1);
	}
	SPI_finish();
	return text;
}

/* A foreign key without the tenant whose columns the index begins with: when a
 * row that it points at goes, the server looks for rows by these columns alone */
static char *
served_foreign_keys(const Context *c, const Suggestion *s)
{
	return find_text("SELECT string_agg(quote_ident(f.conname), ', ' ORDER BY f.conname) "
					 "FROM pg_constraint f JOIN pg_index i ON i.indexrelid = $2 "
					 "WHERE f.contype = 'f' AND f.conrelid = $1 "
					 "AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = $1 "
					 " AND a.attname = $3 AND a.attnum = ANY (f.conkey)) "
					 "AND (SELECT array_agg(k.attnum ORDER BY k.attnum) "
					 " FROM unnest(i.indkey) WITH ORDINALITY k (attnum, place) "
					 " WHERE k.place <= cardinality(f.conkey)) = "
					 "(SELECT array_agg(k.attnum ORDER BY k.attnum) FROM unnest(f.conkey) k (attnum))",
					 c->relid, s->index, c->column);
}

static char *
pointing_foreign_keys(const Context *c, const Suggestion *s)
{
	return find_text("SELECT string_agg(format('%I of %s', f.conname, f.conrelid::regclass), ', ' ORDER BY f.conname) "
					 "FROM pg_constraint f WHERE f.contype = 'f' AND f.confrelid = $1 "
					 "AND f.conindid = $2 AND f.conparentid = 0 AND $3 IS NOT NULL",
					 c->relid, s->index, c->column);
}

/* --- what to do --------------------------------------------------------------- */

/* Whether an index over the first list serves all that one over the second does */
static bool
begins_with(List *longer, List *shorter)
{
	ListCell   *lc;

	if (list_length(longer) < list_length(shorter))
		return false;
	foreach(lc, shorter)
		if (strcmp(list_nth(longer, foreach_current_index(lc)), lfirst(lc)) != 0)
			return false;
	return true;
}

static bool
same_text(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

/* What is included, but for the tenant, which will be in the key */
static bool
has_included(const Context *c, List *names, List *wanted)
{
	ListCell   *lc;

	foreach(lc, wanted)
	{
		ListCell   *nc;
		bool		found = strcmp(lfirst(lc), c->column) == 0;

		foreach(nc, names)
			found |= strcmp(lfirst(nc), lfirst(lc)) == 0;
		if (!found)
			return false;
	}
	return true;
}

/* Whether it begins with the tenant, or will when all suggestions are followed */
static bool
will_begin_with_tenant(const Context *c, const Suggestion *s)
{
	return begins_with_tenant(c, s) || !s->unique ||
		(!unique_has(s->key, c->column) &&
		 (s->primary || pointing_foreign_keys(c, s) == NULL));
}

/* Whether another btree serves, as it is or will be, what the twin of this one
 * would: it begins with the same, covers the same rows and has what is included */
static bool
covers(const Context *c, const Suggestion *other, const Suggestion *s)
{
	return other->valid && !other->exclusion && strcmp(other->method, "btree") == 0 &&
		same_text(json_text(other->key, "predicate"), json_text(s->key, "predicate")) &&
		has_included(c, json_list(other->key, "include"), json_list(s->key, "include")) &&
		begins_with(other->twin, s->twin) && will_begin_with_tenant(c, other);
}

/* Of two that are alike one must stay: the unique one, the one that begins with the
 * tenant now, or else the first */
static bool
wins(const Context *c, const Suggestion *other, const Suggestion *s, bool before)
{
	bool		there = begins_with_tenant(c, other);

	if (list_length(other->twin) > list_length(s->twin) || other->unique)
		return true;
	return there == begins_with_tenant(c, s) ? before : there;
}

/* The best of those: one that begins with the tenant now, or the longest */
static Suggestion *
covering(const Context *c, const Suggestion *s)
{
	Suggestion *best = NULL;
	ListCell   *lc;
	bool		before = true;

	foreach(lc, c->suggestions)
	{
		Suggestion *other = lfirst(lc);

		if (other == s)
			before = false;
		else if (covers(c, other, s) && wins(c, other, s, before) &&
				 (best == NULL || (!begins_with_tenant(c, best) &&
								   (begins_with_tenant(c, other) ||
									list_length(other->twin) > list_length(best->twin)))))
			best = other;
	}
	return best;
}

static char *
text_array(List *texts)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "ARRAY[");
	foreach(lc, texts)
		appendStringInfo(&buf, "%s%s", foreach_current_index(lc) > 0 ? ", " : "",
						 sql_literal(lfirst(lc)));
	appendStringInfoChar(&buf, ']');
	return buf.data;
}

static char *
relation_literal(const Context *c)
{
	return sql_literal(sql_relation(c->relid));
}

/* The default column name can be left out */
static char *
column_argument(const Context *c)
{
	return strcmp(c->column, "tenant_id") == 0 ? ""
		: psprintf(", column_name => %s", sql_literal(c->column));
}

static char *
create_statement(const Context *c, const Suggestion *s, const char *method)
{
	StringInfoData buf;
	char	   *predicate = json_text(s->key, "predicate");
	List	   *include = NIL;
	ListCell   *lc;

	foreach(lc, json_list(s->key, "include"))
		if (strcmp(lfirst(lc), c->column) != 0)
			include = lappend(include, lfirst(lc));
	initStringInfo(&buf);
	appendStringInfo(&buf, "SELECT tenantmig.create_index(%s, %s", relation_literal(c),
					 text_array(s->twin));
	if (predicate)
		appendStringInfo(&buf, ", predicate => %s", sql_literal(predicate));
	if (strcmp(method, "btree") != 0)
		appendStringInfo(&buf, ", method => %s", sql_literal(method));
	if (include)
		appendStringInfo(&buf, ", include => %s", text_array(include));
	appendStringInfoString(&buf, ");");
	return buf.data;
}

static void
decide_redundant(const Context *c, Suggestion *s, const char *by)
{
	char	   *foreign_keys = served_foreign_keys(c, s);

	s->redundant = foreign_keys == NULL && !json_bool(s->key, "identity", false);
	if (foreign_keys)
		s->reason = psprintf("%s; the old one stays for foreign keys without %s: %s", by,
							 quote_identifier(c->column), foreign_keys);
	else if (!s->redundant)
		s->reason = psprintf("%s; the old one stays as the replica identity", by);
	else if (begins_with_tenant(c, s))
		s->reason = pstrdup(by);
	else
		s->reason = psprintf("%s; then the old one serves only queries without a tenant", by);
}

static void
suggest_twin(const Context *c, Suggestion *s, const char *method)
{
	Suggestion *other = strcmp(method, "btree") == 0 ? covering(c, s) : NULL;

	if (other)
	{
		decide_redundant(c, s, psprintf(begins_with_tenant(c, other)
										? "%s serves queries of one tenant"
										: "%s, once it begins with the tenant, serves its queries too",
										quote_identifier(other->name)));
		return;
	}
	s->action = "create_index";
	s->statement = create_statement(c, s, method);
	decide_redundant(c, s, "Its twin begins with the tenant");
}

static void
decide_unique(const Context *c, Suggestion *s)
{
	char	   *foreign_keys = pointing_foreign_keys(c, s);

	if (unique_has(s->key, c->column))
		s->reason = "It is unique per tenant already, but does not begin with the tenant";
	else if (s->primary)
	{
		s->action = "set_primary_key";
		s->statement = psprintf("SELECT tenantmig.set_primary_key(%s, %s);", relation_literal(c),
								text_array(lcons((char *) c->column, json_list(s->key, "names"))));
		s->reason = foreign_keys
			? psprintf("The key takes the tenant in, and so do the foreign keys that point at it: %s", foreign_keys)
			: "The key takes the tenant in";
	}
	else if (foreign_keys)
		s->reason = psprintf("Foreign keys need it as it is: %s", foreign_keys);
	else
	{
		s->action = "scope_unique";
		s->statement = psprintf("SELECT tenantmig.scope_unique(%s, %s%s);", relation_literal(c),
								sql_literal(s->name), column_argument(c));
		s->reason = "It becomes unique per tenant, under the same name";
	}
}

/* Methods of several columns, if they know the type of the tenant */
static void
decide_other_method(const Context *c, Suggestion *s)
{
	bool		several = strcmp(s->method, "gin") == 0 || strcmp(s->method, "gist") == 0;
	Oid			am = get_index_am_oid(s->method, true);

	if (strcmp(s->method, "hash") == 0)
		suggest_twin(c, s, "btree");
	else if (strcmp(s->method, "brin") == 0)
		s->reason = "It tells ranges of blocks apart, and a range holds rows of many tenants";
	else if (several && OidIsValid(GetDefaultOpClass(c->type, am)))
		suggest_twin(c, s, s->method);
	else if (several)
		s->reason = psprintf("%s cannot begin with %s; with CREATE EXTENSION btree_%s; it could",
							 s->method, quote_identifier(c->column), s->method);
	else
		s->reason = psprintf("%s takes no further column", s->method);
}

static void
decide(const Context *c, Suggestion *s)
{
	Suggestion *other;

	if (!s->valid)
	{
		s->statement = psprintf("REINDEX INDEX CONCURRENTLY %s;", sql_relation(s->index));
		s->reason = "It is not valid: an interrupted build has left it, or one is under way";
	}
	else if (get_rel_relispartition(s->index))
		s->reason = psprintf("It belongs to %s of the parent",
							 quote_identifier(get_rel_name(get_partition_parent(s->index, true))));
	else if (begins_with_tenant(c, s))
	{
		other = s->unique || strcmp(s->method, "btree") != 0 ? NULL : covering(c, s);
		s->reason = "It begins with the tenant";
		if (other)
			decide_redundant(c, s, psprintf("%s begins with the same", quote_identifier(other->name)));
	}
	else if (s->exclusion)
		s->reason = "An exclusion constraint cannot be scoped online";
	else if (s->unique)
		decide_unique(c, s);
	else if (strcmp(s->method, "btree") != 0)
		decide_other_method(c, s);
	else
		suggest_twin(c, s, "btree");
}

/* If nothing begins with the tenant, and nothing will; that of a partition comes
 * with its parent's */
static void
add_tenant_alone(Context *c)
{
	Suggestion *alone;
	ListCell   *lc;

	if (get_rel_relispartition(c->relid))
		return;
	foreach(lc, c->suggestions)
	{
		Suggestion *s = lfirst(lc);

		if (json_text(s->key, "predicate") == NULL && s->valid &&
			(begins_with_tenant(c, s) || strcmp(s->action, "keep") != 0))
			return;
	}
	alone = palloc0(sizeof(Suggestion));
	alone->action = "create_index";
	alone->twin = list_make1(pstrdup(c->element));
	alone->statement = create_statement(c, alone, "btree");
	alone->reason = "No index begins with the tenant";
	c->suggestions = lappend(c->suggestions, alone);
}

/* --- the answer ---------------------------------------------------------------- */

static void
put_text(Datum *values, bool *nulls, int column, const char *text)
{
	nulls[column] = text == NULL;
	if (text)
		values[column] = CStringGetTextDatum(text);
}

static void
put_suggestion(ReturnSetInfo *result, const Suggestion *s)
{
	Datum		values[8] = {0};
	bool		nulls[8] = {false};
	NameData	name;

	nulls[0] = s->name == NULL;
	if (s->name)
	{
		namestrcpy(&name, s->name);
		values[0] = NameGetDatum(&name);
	}
	put_text(values, nulls, 1, s->kind);
	put_text(values, nulls, 2, s->key ? json_text(s->key, "definition") : NULL);
	put_text(values, nulls, 3, s->action);
	put_text(values, nulls, 4, s->statement);
	values[5] = BoolGetDatum(s->redundant);
	put_text(values, nulls, 6, s->redundant
			 ? psprintf("DROP INDEX CONCURRENTLY %s;", sql_relation(s->index)) : NULL);
	put_text(values, nulls, 7, s->reason);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

Datum
tenantmig_suggest_indexes(PG_FUNCTION_ARGS)
{
	Context		c = {.relid = InvalidOid};
	TargetColumn target;
	ListCell   *lc;

	target_require(fcinfo, 0, "relation");
	target_require(fcinfo, 1, "column_name");
	c.relid = PG_GETARG_OID(0);
	c.column = target_arg_name(fcinfo, 1);
	c.element = quote_identifier(c.column);
	target_check_relation(c.relid);
	target_check_column(c.relid, c.column, &target);
	c.type = target.type;

	InitMaterializedSRF(fcinfo, 0);
	read_indexes(&c);
	foreach(lc, c.suggestions)
		decide(&c, lfirst(lc));
	add_tenant_alone(&c);
	foreach(lc, c.suggestions)
		put_suggestion((ReturnSetInfo *) fcinfo->resultinfo, lfirst(lc));
	PG_RETURN_NULL();
}
