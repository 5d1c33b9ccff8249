/*
 * scope_check.c
 *		What scope_unique can work on, and whom it concerns.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/index.h"
#include "catalog/partition.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "steps/scope_check.h"
#include "steps/target.h"
#include "steps/unique_key.h"

/* One text, made by a query of ours about an OID; NULL when there is none */
static char *
find_text(const char *sql, Oid oid)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	char	   *text = NULL;

	query_init(&query, sql);
	query_oid(&query, oid);
	SPI_connect();
	if (query_run(&query) > 0)
	{
		MemoryContextSwitchTo(context);
		text = query_get_text(0, 1);
	}
	SPI_finish();
	return text;
}

/* --- refusals ----------------------------------------------------------------- */

static void
no_such_key(Oid relid, const char *name)
{
	char	   *there = find_text("SELECT string_agg(quote_ident(c.relname), ', ' ORDER BY c.relname) "
								  "FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
								  "WHERE i.indrelid = $1 AND i.indisunique AND NOT i.indisprimary", relid);

	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("%s has no unique constraint or index %s",
					sql_relation(relid), quote_identifier(name)),
			 there ? errdetail("It has: %s.", there) : 0,
			 errhint("Names are taken as they are, without a schema; see them with SELECT * FROM tenantmig.suggest_indexes(%s);",
					 sql_literal(sql_relation(relid)))));
}

static void
refuse_primary(Oid relid, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("%s of %s is the primary key", quote_identifier(name),
					sql_relation(relid)),
			 errhint("Change it, and the foreign keys that point at it, with tenantmig.set_primary_key.")));
}

/* The statement for a quiet hour.  A unique constraint WITHOUT OVERLAPS is an
 * exclusion constraint in another notation. */
static void
refuse_exclusion(Oid relid, Oid constraint, bool temporal, const char *name,
				 const char *column)
{
	char	   *definition = pg_get_constraintdef_command(constraint);
	const char *open = strchr(strstr(definition, temporal ? " UNIQUE " : " EXCLUDE "), '(');

	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s constraint %s of %s cannot be scoped online",
					temporal ? "unique" : "exclusion",
					quote_identifier(name), sql_relation(relid)),
			 errdetail("The server builds %s constraint only under ACCESS EXCLUSIVE, for as long as it reads the table.",
					   temporal ? "a WITHOUT OVERLAPS" : "an exclusion"),
			 errhint("In a quiet hour, in one transaction: ALTER TABLE %s DROP CONSTRAINT %s; %.*s%s%s, %s; (with the extension btree_gist for GiST).",
					 sql_relation(relid), quote_identifier(name),
					 (int) (open + 1 - definition), definition,
					 quote_identifier(column), temporal ? "" : " WITH =", open + 1)));
}

static void
refuse_not_unique(Oid relid, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("index %s of %s is not unique", quote_identifier(name),
					sql_relation(relid)),
			 errhint("Its twin that begins with the tenant: SELECT * FROM tenantmig.suggest_indexes(%s);",
					 sql_literal(sql_relation(relid)))));
}

static void
refuse_partition(Oid relid, Oid index)
{
	Oid			parent = get_partition_parent(index, true);
	Oid			table = IndexGetRelation(parent, false);

	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("%s of %s belongs to that of its parent",
					quote_identifier(get_rel_name(index)), sql_relation(relid)),
			 errhint("SELECT tenantmig.scope_unique(%s, %s);",
					 sql_literal(sql_relation(table)), sql_literal(get_rel_name(parent)))));
}

static void
refuse_invalid(Oid relid, Oid index)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("index %s of %s is not valid", quote_identifier(get_rel_name(index)),
					sql_relation(relid)),
			 errhint("REINDEX INDEX CONCURRENTLY %s; or drop it.", sql_relation(index))));
}

/* $1: an index; and what is attached to it in partitions */
#define INDEX_AND_PARTITIONS \
	"(SELECT $1 UNION SELECT relid::oid FROM pg_partition_tree($1))"

/* Foreign keys, functions, views: whatever stands on the constraint or its index,
 * also in a single partition */
static void
check_dependents(Oid relid, Oid index)
{
	char	   *foreign_keys = find_text("SELECT string_agg(format('%I of %s', conname, conrelid::regclass), ', ' ORDER BY conname) "
										 "FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 AND conindid IN " INDEX_AND_PARTITIONS,
										 index);
	char	   *others;

	if (foreign_keys)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("foreign keys point at %s of %s", quote_identifier(get_rel_name(index)),
						sql_relation(relid)),
				 errdetail("A foreign key needs what is unique by itself: %s.", foreign_keys),
				 errhint("Let them point at a key with the tenant first: scope the referenced key under another name with tenantmig.create_index(..., is_unique => true), add the composite foreign key with tenantmig.add_foreign_key, and drop the old one.")));
	others = find_text("SELECT string_agg(pg_describe_object(d.classid, d.objid, 0), ', ') "
					   "FROM " INDEX_AND_PARTITIONS " i (oid) "
					   "LEFT JOIN pg_constraint c ON c.conindid = i.oid AND c.contype = 'u' "
					   "JOIN pg_depend d ON d.deptype = 'n' AND "
					   "(d.refclassid = 'pg_class'::regclass AND d.refobjid = i.oid "
					   " OR d.refclassid = 'pg_constraint'::regclass AND d.refobjid = c.oid)", index);
	if (others)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("other objects depend on %s of %s", quote_identifier(get_rel_name(index)),
						sql_relation(relid)),
				 errdetail("There are: %s.", others),
				 errhint("Drop or change them first.")));
}

static Form_pg_index
read_index(Oid index)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	Form_pg_index form;

	if (!HeapTupleIsValid(tuple))
		return NULL;
	form = palloc(sizeof(FormData_pg_index));
	memcpy(form, GETSTRUCT(tuple), sizeof(FormData_pg_index));
	ReleaseSysCache(tuple);
	return form;
}

Oid
scope_check(Oid relid, const char *name, const char *column)
{
	Oid			index = get_relname_relid(name, get_rel_namespace(relid));
	Form_pg_index form = read_index(index);

	if (form == NULL || form->indrelid != relid)
		no_such_key(relid, name);
	if (form->indisprimary)
		refuse_primary(relid, name);
	if (form->indisexclusion)
		refuse_exclusion(relid, get_index_constraint(index), form->indisunique, name, column);
	if (!form->indisunique)
		refuse_not_unique(relid, name);
	if (get_rel_relispartition(index))
		refuse_partition(relid, index);
	if (!form->indisvalid)
		refuse_invalid(relid, index);
	check_dependents(relid, index);
	return index;
}

void
scope_check_room(Oid relid, Jsonb *key, const char *column)
{
	List	   *include = json_list(key, "include");
	int			columns = list_length(json_list(key, "names")) + list_length(include) + 1;
	ListCell   *lc;

	foreach(lc, include)
		if (strcmp(lfirst(lc), column) == 0)
			columns--;
	if (columns > INDEX_MAX_KEYS)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("%s of %s has %d columns already, and an index cannot have more",
						quote_identifier(json_text(key, "called")), sql_relation(relid),
						INDEX_MAX_KEYS)));
}

static bool
is_not_null(Oid relid, const char *column)
{
	TargetColumn target;

	target_check_column(relid, column, &target);
	return target.not_null;
}

/* Among rows without a tenant nothing would be unique any more */
static bool
needs_not_null(Oid relid, Jsonb *key, const char *column)
{
	return !json_bool(key, "nulls_not_distinct", false) && !is_not_null(relid, column);
}

/* The server would refuse UPDATE and DELETE, whose rows it could not identify to
 * subscribers */
static void
check_publications(const UniqueChange *change, const char *column)
{
	OwnQuery	query;

	if (!json_bool(change->now, "identity", false))
		return;
	query_init(&query, "SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid "
			   "JOIN pg_attribute a ON a.attrelid = r.prrelid AND a.attname = $2 "
			   "WHERE (r.prrelid = $1 OR p.pubviaroot AND r.prrelid IN (SELECT relid FROM pg_partition_ancestors($1))) "
			   "AND (p.pubupdate OR p.pubdelete) "
			   "AND r.prattrs IS NOT NULL AND NOT a.attnum = ANY (r.prattrs::int2[])");
	query_oid(&query, change->table);
	query_name(&query, column);
	if (query_once(&query) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a publication of %s leaves out column %s of its new replica identity",
						sql_relation(change->table), quote_identifier(column)),
				 errdetail("The server would refuse UPDATE and DELETE, whose rows it could not identify to subscribers."),
				 errhint("Add the column to the list of the publication with ALTER PUBLICATION ... SET TABLE, then call again.")));
}

void
scope_check_change(Oid relid, List *changes, const char *column)
{
	UniqueChange *root = linitial(changes);
	ListCell   *lc;

	foreach(lc, changes)
		check_publications(lfirst(lc), column);
	if (needs_not_null(relid, root->now, column) || (json_bool(root->now, "identity", false) &&
													 !is_not_null(relid, column)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("column %s of %s may be NULL", quote_identifier(column),
						sql_relation(relid)),
				 errdetail("Rows without a tenant would no longer be unique by %s.",
						   unique_columns(root->now)),
				 errhint("First: SELECT tenantmig.set_not_null(%s, %s);",
						 sql_literal(sql_relation(relid)), sql_literal(column))));
}

/* --- warnings ------------------------------------------------------------------- */

/* Functions whose text has ON CONFLICT and the name of the table */
static char *
functions_on_conflict(Oid relid)
{
	return find_text("SELECT string_agg(p.oid::regprocedure::text, ', ' ORDER BY p.oid::regprocedure::text) "
					 "FROM pg_proc p JOIN pg_class c ON c.oid = $1, "
					 "LATERAL (SELECT COALESCE(pg_get_function_sqlbody(p.oid), p.prosrc) AS text) s "
					 "WHERE s.text ~* '\\mon\\s+conflict\\M' "
					 "AND strpos(lower(s.text), lower(c.relname)) > 0 "
					 "AND p.pronamespace NOT IN (SELECT n.oid FROM pg_namespace n "
					 " WHERE n.nspname IN ('pg_catalog', 'information_schema', 'tenantmig'))", relid);
}

List *
scope_warnings(Oid relid, Jsonb *key, const char *column)
{
	List	   *warnings = NIL;
	char	   *functions = functions_on_conflict(relid);
	char	   *old = unique_columns(key);

	if (functions)
		warnings = lappend(warnings,
						   psprintf("ON CONFLICT is used with %s by %s: a conflict on %s finds no unique index after the swap and must name %s too",
									sql_relation(relid), functions, old, quote_identifier(column)));
	if (json_bool(key, "deferrable", false))
		warnings = lappend(warnings,
						   "The constraint is DEFERRABLE, but an index that is being built is checked at once: from the time that it takes entries until the swap, a statement that makes two rows of one tenant equal for a moment gets an error");
	if (needs_not_null(relid, key, column))
		warnings = lappend(warnings,
						   psprintf("Column %s may be NULL; the job fails until set_not_null has been run",
									quote_identifier(column)));
	return warnings;
}
