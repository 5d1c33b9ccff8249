/*
 * key_check.c
 *		What stands in the way of a change of keys.
 *
 * Whatever the change cannot carry over to the new key is refused before
 * anything is made, with the reason and what to do about it; so is whatever
 * would make the new keys weaker than the old ones.
 */
#include "postgres.h"

#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "steps/key_check.h"
#include "steps/target.h"

static const TableChange *
root_of(const KeyChange *change)
{
	return linitial(change->tables);
}

/* The texts of the first column of a query, in the current context */
static List *
query_texts(OwnQuery *query)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *texts = NIL;
	uint64		count;

	SPI_connect();
	count = query_run(query);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < count; i++)
		texts = lappend(texts, query_get_text(i, 1));
	SPI_finish();
	return texts;
}

static char *
join(List *texts)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, texts)
		appendStringInfo(&buf, "%s%s", buf.len > 0 ? ", " : "", (char *) lfirst(lc));
	return buf.data;
}

/* --- NOT NULL -------------------------------------------------------------- */

/* An open set_not_null comes first: see job_record.c */
static bool
will_be_not_null(Oid relid, const char *column)
{
	OwnQuery	query;

	query_init(&query, "SELECT FROM tenantmig.job WHERE relid = $1 "
			   "AND kind = 'set_not_null' AND arguments ->> 'column' = $2 "
			   "AND state IN ('queued', 'running', 'paused')");
	query_oid(&query, relid);
	query_text(&query, column);
	return query_once(&query) > 0;
}

static void
check_not_null(Oid relid, const char *name, bool calling, const char *why)
{
	TargetColumn column;

	target_check_column(relid, name, &column);
	if (column.not_null || (calling && will_be_not_null(relid, name)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("column %s of relation %s is not NOT NULL",
					quote_identifier(name), sql_relation(relid)),
			 errdetail_internal("%s", why),
			 errhint("First: SELECT tenantmig.set_not_null(%s, %s);",
					 sql_literal(sql_relation(relid)), sql_literal(name))));
}

/* --- the table ---------------------------------------------------------------- */

static void
check_partition(const KeyChange *change)
{
	const KeyDef *now = root_of(change)->now;
	Oid			root;

	if (!OidIsValid(now->parent))
		return;
	root = llast_oid(get_partition_ancestors(change->relid));
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("the primary key of %s belongs to that of %s",
					sql_relation(change->relid), sql_relation(root)),
			 errdetail("A partition has the primary key of its parent."),
			 errhint("Call the function for %s.", sql_relation(root))));
}

/* A key WITHOUT OVERLAPS has another meaning, and another kind of index */
static void
check_method(const KeyChange *change)
{
	const KeyDef *now = root_of(change)->now;

	if (OidIsValid(now->constraint) && strcmp(now->method, "btree") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the primary key of %s cannot be changed",
						sql_relation(change->relid)),
				 errdetail("Its index is of method %s.", quote_identifier(now->method)),
				 errhint("Only keys with a btree index can be changed.")));
}

/* Its index is not a B-tree, and cannot be made beforehand */
static void
check_temporal(const KeyChange *change)
{
	const KeyDef *now = root_of(change)->now;

	if (!now->temporal)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("primary key %s of %s is WITHOUT OVERLAPS and cannot be changed online",
					quote_identifier(now->name), sql_relation(change->relid)),
			 errdetail("The server builds it only under ACCESS EXCLUSIVE, for as long as it reads the table."),
			 errhint("In a quiet hour, when no foreign key points at it: ALTER TABLE %s DROP CONSTRAINT %s, ADD CONSTRAINT %s PRIMARY KEY (%s WITHOUT OVERLAPS); (with the extension btree_gist).",
					 sql_relation(change->relid), quote_identifier(now->name),
					 quote_identifier(now->name),
					 sql_name_list(root_of(change)->wanted->columns))));
}

/* A unique index of a partitioned table holds within each partition only */
static void
check_partition_key(const KeyChange *change)
{
	OwnQuery	query;
	List	   *missing;
	ListCell   *lc;

	foreach(lc, change->tables)
	{
		const TableChange *t = lfirst(lc);

		if (!t->partitioned)
			continue;
		query_init(&query, "SELECT COALESCE(quote_ident(a.attname), 'an expression') "
				   "FROM pg_partitioned_table p "
				   "CROSS JOIN unnest(p.partattrs::int2[]) k (attnum) "
				   "LEFT JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = k.attnum AND k.attnum > 0 "
				   "WHERE p.partrelid = $1");
		query_oid(&query, t->table);
		missing = NIL;
		{
			List	   *keys = query_texts(&query);
			ListCell   *key;

			foreach(key, keys)
			{
				bool		found = false;
				ListCell   *column;

				foreach(column, t->wanted->columns)
					if (strcmp(quote_identifier(lfirst(column)), lfirst(key)) == 0)
						found = true;
				if (!found)
					missing = lappend(missing, lfirst(key));
			}
		}
		if (missing != NIL)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("the primary key of %s must have all columns of its partition key",
							sql_relation(change->relid)),
					 errdetail("%s is partitioned by %s.", sql_relation(t->table),
							   join(missing)),
					 errhint("Give these columns too.")));
	}
}

/*
 * Views that group by the key and name other columns, and functions with such
 * a body, stand on the constraint.
 */
static void
check_dependants(const TableChange *t)
{
	OwnQuery	query;
	List	   *names;

	query_init(&query, "SELECT DISTINCT CASE WHEN w.oid IS NOT NULL "
			   "THEN CASE v.relkind WHEN 'm' THEN 'materialized view ' ELSE 'view ' END "
			   " || format('%I.%I', n.nspname, v.relname) "
			   "ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END "
			   "FROM pg_depend d "
			   "LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid "
			   "LEFT JOIN pg_class v ON v.oid = w.ev_class "
			   "LEFT JOIN pg_namespace n ON n.oid = v.relnamespace "
			   "WHERE d.deptype = 'n' "
			   "AND (d.refclassid = 'pg_constraint'::regclass AND d.refobjid = $1 "
			   " OR d.refclassid = 'pg_class'::regclass AND d.refobjid = $2) "
			   "AND NOT (d.classid = 'pg_constraint'::regclass AND EXISTS ( "
			   " SELECT FROM pg_constraint f WHERE f.oid = d.objid AND f.contype = 'f')) "
			   "ORDER BY 1");
	query_oid(&query, t->now->constraint);
	query_oid(&query, t->now->index);
	names = query_texts(&query);
	if (names == NIL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("the primary key of %s cannot be changed because other objects depend on it",
					sql_relation(t->table)),
			 errdetail("They group by its columns and use other columns of the table: %s.",
					   join(names)),
			 errhint("Replace them by ones that name all these columns in GROUP BY, or drop them, then call again.")));
}

/* Those that point at the table as a whole come with it, and are changed */
static void
check_references_of_partition(const TableChange *t)
{
	OwnQuery	query;
	List	   *names;

	query_init(&query, "SELECT format('%I of %I.%I', f.conname, n.nspname, c.relname) "
			   "FROM pg_constraint f JOIN pg_class c ON c.oid = f.conrelid "
			   "JOIN pg_namespace n ON n.oid = c.relnamespace "
			   "WHERE f.contype = 'f' AND f.conparentid = 0 AND f.confrelid = $1 "
			   "AND f.conindid = $2 ORDER BY 1");
	query_oid(&query, t->table);
	query_oid(&query, t->now->index);
	names = query_texts(&query);
	if (names == NIL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("foreign keys point at the primary key of partition %s alone",
					sql_relation(t->table)),
			 errdetail("They are: %s.", join(names)),
			 errhint("Drop them, or let them point at the partitioned table, then call again; or use foreign_keys => 'keep'.")));
}

static void
check_what_stands_on(const KeyChange *change)
{
	ListCell   *lc;

	foreach(lc, change->tables)
	{
		const TableChange *t = lfirst(lc);

		if (!OidIsValid(t->now->constraint))
			continue;
		check_dependants(t);
		/* the old key stays in partitions too */
		if (t != root_of(change) && !change->keep)
			check_references_of_partition(t);
	}
}

/* Publications of a table whose entry r, the key's columns being in $2, is so */
static List *
publications_where(const TableChange *t, bool keep, const char *condition)
{
	OwnQuery	query;
	JsonObject *columns = json_begin();

	query_init(&query, psprintf("SELECT quote_ident(p.pubname) FROM pg_publication_rel r "
								"JOIN pg_publication p ON p.oid = r.prpubid "
								"JOIN pg_class c ON c.oid = r.prrelid "
								"WHERE r.prrelid = $1 AND (p.pubupdate OR p.pubdelete) "
								"AND (c.relreplident = 'd' OR c.relreplident = 'i' AND $3) "
								"AND %s ORDER BY 1", condition));
	query_oid(&query, t->table);
	json_put_list(columns, "columns", t->wanted->columns);
	query_jsonb(&query, json_nested(json_end(columns), "columns"));
	query_bool(&query, t->now->identity && !keep);
	return query_texts(&query);
}

/* UPDATE and DELETE would be refused by the server after the swap */
static void
check_publications(const KeyChange *change)
{
	ListCell   *lc;

	foreach(lc, change->tables)
	{
		const TableChange *t = lfirst(lc);
		List	   *names;

		names = publications_where(t, change->keep,
								   "EXISTS (SELECT FROM jsonb_array_elements_text($2) k (name) "
								   " JOIN pg_attribute a ON a.attrelid = r.prrelid AND a.attname = k.name "
								   " WHERE r.prattrs IS NOT NULL AND NOT a.attnum = ANY (r.prattrs::int2[]))");
		if (names != NIL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("publication %s of %s leaves out columns of the new primary key",
							join(names), sql_relation(t->table)),
					 errdetail("The server would refuse UPDATE and DELETE, whose rows it could not identify to subscribers."),
					 errhint("Add the columns to the list of the publication with ALTER PUBLICATION ... SET TABLE, then call again.")));
		names = publications_where(t, change->keep,
								   "EXISTS (SELECT FROM regexp_matches(r.prqual::text, ':varattno (\\d+)', 'g') v (n) "
								   " JOIN pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = v.n[1]::int2 "
								   " WHERE NOT $2 ? a.attname)");
		if (names != NIL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("publication %s filters rows of %s by columns that the new primary key does not have",
							join(names), sql_relation(t->table)),
					 errdetail("The server would refuse UPDATE and DELETE, whose old rows it could not filter."),
					 errhint("Name the columns in the new key, or change the filter with ALTER PUBLICATION ... SET TABLE, then call again.")));
	}
}

/* --- the foreign keys -------------------------------------------------------- */

static void
refuse_foreign_key(const ForeignKey *fk, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("foreign key %s of %s cannot get the tenant into it",
					quote_identifier(fk->name), sql_relation(fk->child)),
			 errdetail_internal("%s", detail),
			 errhint("%s", hint)));
}

static void
check_referencing_owner(const ForeignKey *fk, Oid user)
{
	if (relation_ownercheck(fk->child, user))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("must be owner of table %s", sql_relation(fk->child)),
			 errdetail("Its foreign key %s points at the key, and role %s must rebuild it.",
					   quote_identifier(fk->name),
					   quote_identifier(GetUserNameFromId(user, false))),
			 errhint("Make that role a member of the owner's, or use foreign_keys => 'keep'.")));
}

static bool
all_not_null(const ForeignKey *fk)
{
	ListCell   *lc;

	foreach(lc, fk->columns)
	{
		TargetColumn column;

		if (target_find_column(fk->child, lfirst(lc), &column) && !column.not_null)
			return false;
	}
	return true;
}

static void
check_columns(const KeyChange *change, const FkChange *f, bool calling)
{
	ListCell   *lc;

	foreach(lc, f->now->referenced_columns)
		if (!key_has(f->wanted->referenced_columns, lfirst(lc)))
			refuse_foreign_key(f->now,
							   psprintf("It refers to column %s, which the new key does not have.",
										quote_identifier(lfirst(lc))),
							   "Keep the old key for it with foreign_keys => 'keep', or drop it first.");
	if (list_length(f->now->columns) == list_length(f->wanted->columns))
		refuse_foreign_key(f->now, "The new key has the same columns in another order, and the server would go on using the old index for it.",
						   "Keep the old key for it with foreign_keys => 'keep'.");
	foreach(lc, f->wanted->columns)
	{
		TargetColumn column;

		if (key_has(f->now->columns, lfirst(lc)))
			continue;
		if (!target_find_column(f->now->child, lfirst(lc), &column))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column %s of relation %s does not exist",
							quote_identifier(lfirst(lc)), sql_relation(f->now->child)),
					 errdetail("Foreign key %s of that table points at the key of %s, and must be paired with its tenant.",
							   quote_identifier(f->now->name), sql_relation(change->relid)),
					 errhint("First: SELECT tenantmig.add_tenant_column(%s, %s); and fill it, or use foreign_keys => 'keep'.",
							 sql_literal(sql_relation(f->now->child)),
							 sql_literal(lfirst(lc)))));
		check_not_null(f->now->child, lfirst(lc), calling,
					   psprintf("Foreign key %s would not be checked for rows where it is NULL.",
								quote_identifier(f->now->name)));
	}
}

/*
 * A fill trigger finds the parent by the columns of the old foreign key.  Those
 * will not tell one row of the parent from another, and the trigger would fail
 * each INSERT of the application.
 */
static void
check_fill_triggers(const KeyChange *change, const ForeignKey *fk)
{
	OwnQuery	query;
	JsonObject *names = json_begin();
	List	   *triggers;

	json_put_list(names, "via", lappend(list_copy(fk->columns), fk->name));
	query_init(&query, "SELECT DISTINCT quote_ident(t.tgname) FROM pg_trigger t "
			   "JOIN tenantmig.job j ON t.tgargs = j.id::text::bytea || decode('00', 'hex') "
			   "WHERE t.tgfoid = 'tenantmig.fill_tenant'::regproc AND j.kind = 'backfill' "
			   "AND (t.tgrelid = $1 OR t.tgrelid IN (SELECT relid FROM pg_partition_tree($1))) "
			   "AND $2 @> to_jsonb(j.arguments ->> 'via') "
	/* one that goes with its job, which comes first */
			   "AND (j.state NOT IN ('queued', 'running', 'paused') OR j.options @> '{\"keep_trigger\": true}') "
			   "ORDER BY 1");
	query_oid(&query, fk->child);
	query_jsonb(&query, json_nested(json_end(names), "via"));
	triggers = query_texts(&query);
	if (triggers == NIL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("new rows of %s take their tenant through foreign key %s",
					sql_relation(fk->child), quote_identifier(fk->name)),
			 errdetail("Trigger %s looks up the row of %s by columns that will not tell its rows apart any more, and would fail each INSERT.",
					   join(triggers), sql_relation(change->relid)),
			 errhint("Let the application give the tenant, or a default (set_default of tenantmig.enable_rls), then DROP TRIGGER %s ON %s; and call again. Or use foreign_keys => 'keep'.",
					 (char *) linitial(triggers), sql_relation(fk->child))));
}

static void
check_foreign_key(const KeyChange *change, const FkChange *f, bool calling)
{
	const ForeignKey *fk = f->now;

	check_columns(change, f, calling);
	check_fill_triggers(change, fk);
	if (fk->on_update == FKCONSTR_ACTION_SETNULL ||
		fk->on_update == FKCONSTR_ACTION_SETDEFAULT)
		refuse_foreign_key(fk, "Its action ON UPDATE would set the tenant too; the server knows a list of columns for ON DELETE only.",
						   "Give it another action first, or use foreign_keys => 'keep'.");
	if (fk->match == FKCONSTR_MATCH_FULL && list_length(fk->columns) > 1 && !all_not_null(fk))
		refuse_foreign_key(fk, "It is MATCH FULL over columns that can be NULL: with the tenant, which is not NULL, no row could do without a reference.",
						   "Make its columns NOT NULL first, or use foreign_keys => 'keep'.");
	if (!fk->enforced)
		refuse_foreign_key(fk, "It is NOT ENFORCED, and would be after it.",
						   "Drop it and add it again afterwards, or use foreign_keys => 'keep'.");
	if (!fk->valid && get_rel_relkind(fk->child) == RELKIND_PARTITIONED_TABLE)
		refuse_foreign_key(fk, "It is NOT VALID on a partitioned table.",
						   "Validate it first.");
}

void
key_check(const KeyChange *change, Oid user, bool calling)
{
	ListCell   *lc;

	check_partition(change);
	check_temporal(change);
	check_method(change);
	check_partition_key(change);
	foreach(lc, root_of(change)->wanted->columns)
		check_not_null(change->relid, lfirst(lc), calling,
					   "A primary key would have to read the whole table for NULLs under its lock.");
	check_what_stands_on(change);
	check_publications(change);
	foreach(lc, change->foreign_keys)
	{
		const FkChange *f = lfirst(lc);

		/* who asks for it, and as whom it runs */
		check_referencing_owner(f->now, user);
		check_referencing_owner(f->now, target_owner(change->relid));
		if (!change->back)
			check_foreign_key(change, f, calling);
	}
}

void
key_check_back(const KeyChange *change, const Job *target)
{
	Oid			index = root_of(change)->now->index;
	ListCell   *lc;

	foreach(lc, OidIsValid(index) ? fk_read_all(change->relid, index) : NIL)
	{
		ForeignKey *fk = fk_parse(lfirst(lc));
		bool		ours = false;
		ListCell   *other;

		foreach(other, change->foreign_keys)
			if (fk && ((FkChange *) lfirst(other))->now->constraint == fk->constraint)
				ours = true;
		if (fk && !ours && !fk_is_temporary(fk->name))
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot undo job " INT64_FORMAT ": foreign key %s of %s points at the new primary key",
							target->id, quote_identifier(fk->name), sql_relation(fk->child)),
					 errhint("Drop it, or undo the job that made it, first.")));
	}
}

/* --- what a person should know -------------------------------------------------- */

static List *
warn_of_conflicts(const KeyChange *change, List *warnings)
{
	OwnQuery	query;
	List	   *names;

	if (change->keep || root_of(change)->now->columns == NIL)
		return warnings;
	query_init(&query, "SELECT p.oid::regprocedure::text FROM pg_proc p "
			   "JOIN pg_language l ON l.oid = p.prolang AND l.lanname NOT IN ('c', 'internal') "
			   "WHERE p.prosrc ~* 'on\\s+conflict' AND strpos(lower(p.prosrc), lower($1)) > 0 "
			   "ORDER BY 1");
	query_text(&query, get_rel_name(change->relid));
	names = query_texts(&query);
	if (names == NIL)
		return warnings;
	return lappend(warnings,
				   psprintf("ON CONFLICT is used by %s: with the old key alone, (%s), it finds no unique index after the swap",
							join(names), sql_name_list(root_of(change)->now->columns)));
}

static List *
warn_of_publications(const KeyChange *change, List *warnings)
{
	OwnQuery	query;
	List	   *names;

	query_init(&query, "SELECT DISTINCT quote_ident(t.pubname) FROM pg_publication_tables t "
			   "JOIN pg_namespace n ON n.nspname = t.schemaname "
			   "JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename "
			   "WHERE c.oid = $1 AND c.relreplident = 'd' ORDER BY 1");
	query_oid(&query, change->relid);
	names = query_texts(&query);
	if (names == NIL)
		return warnings;
	return lappend(warnings,
				   psprintf("the table is published by %s: subscribers identify its rows by the new key from the swap on, and need its columns and an index on them",
							join(names)));
}

/* Foreign keys that stand on another unique constraint, without the tenant */
static List *
warn_of_others(const KeyChange *change, List *warnings)
{
	OwnQuery	query;
	List	   *names;
	const KeyDef *now = root_of(change)->now;

	query_init(&query, "SELECT format('%I of %I.%I', f.conname, n.nspname, c.relname) "
			   "FROM pg_constraint f JOIN pg_class c ON c.oid = f.conrelid "
			   "JOIN pg_namespace n ON n.oid = c.relnamespace "
			   "WHERE f.contype = 'f' AND f.conparentid = 0 AND f.confrelid = $1 "
			   "AND (f.conindid <> $2 OR $3) AND EXISTS ( "
			   " SELECT FROM jsonb_array_elements_text($4) k (name) "
			   " JOIN pg_attribute a ON a.attrelid = $1 AND a.attname = k.name "
			   " WHERE NOT a.attnum = ANY (f.confkey) AND NOT $5 @> to_jsonb(k.name)) "
			   "ORDER BY 1");
	query_oid(&query, change->relid);
	query_oid(&query, now->index);
	query_bool(&query, change->keep);
	{
		JsonObject *lists = json_begin();
		Jsonb	   *end;

		json_put_list(lists, "wanted", root_of(change)->wanted->columns);
		/* an array in any case */
		json_put_list(lists, "now", now->columns != NIL ? now->columns : list_make1(""));
		end = json_end(lists);
		query_jsonb(&query, json_nested(end, "wanted"));
		query_jsonb(&query, json_nested(end, "now"));
	}
	names = query_texts(&query);
	if (names == NIL)
		return warnings;
	return lappend(warnings,
				   psprintf("these foreign keys stay as they are and can point at another tenant's row: %s",
							join(names)));
}

/* Those who look rows up by the old key alone, without the tenant */
static List *
warn_of_lookups(const KeyChange *change, List *warnings)
{
	List	   *columns = root_of(change)->now->columns;
	OwnQuery	query;

	if (change->keep || change->back || columns == NIL ||
		strcmp(linitial(columns), linitial(root_of(change)->wanted->columns)) == 0)
		return warnings;
	query_init(&query, "SELECT FROM pg_index i JOIN pg_attribute a "
			   "ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] "
			   "WHERE i.indrelid = $1 AND i.indexrelid <> $2 AND i.indisvalid "
			   "AND i.indpred IS NULL AND a.attname = $3");
	query_oid(&query, change->relid);
	query_oid(&query, root_of(change)->now->index);
	query_text(&query, linitial(columns));
	if (query_once(&query) > 0)
		return warnings;
	return lappend(warnings,
				   psprintf("statements that look for rows by (%s) without %s find no index for it after the swap: give them the tenant, as the policies of enable_rls do, or first SELECT tenantmig.create_index(%s, %s);",
							sql_name_list(columns),
							quote_identifier(linitial(root_of(change)->wanted->columns)),
							sql_literal(sql_relation(change->relid)),
							sql_literal(psprintf("{%s}", sql_name_list(columns)))));
}

List *
key_warnings(const KeyChange *change)
{
	List	   *warnings = warn_of_lookups(change, NIL);

	warnings = warn_of_conflicts(change, warnings);
	warnings = warn_of_publications(change, warnings);
	return warn_of_others(change, warnings);
}

/* --- duplicates --------------------------------------------------------------- */

int64
key_duplicates(const KeyChange *change, char **example)
{
	MemoryContext context = CurrentMemoryContext;
	const TableChange *root = root_of(change);
	List	   *columns = root->wanted->columns;
	bool		ruled_out = OidIsValid(root->now->constraint) || columns == NIL ||
		(change->keep && change->back);
	char	   *object;
	int64		count;
	ListCell   *lc;

	foreach(lc, root->now->columns)
		if (!key_has(columns, lfirst(lc)))
			ruled_out = columns == NIL || (change->keep && change->back);
	if (ruled_out)
		return 0;
	object = key_object("c", columns);
	SPI_connect();
	SPI_execute(psprintf("SELECT pg_catalog.count(*), pg_catalog.min(CAST(k AS pg_catalog.text)) "
						 "FROM (SELECT %s AS k FROM %s%s c GROUP BY %s "
						 "HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1) d",
						 object, root->partitioned ? "" : "ONLY ",
						 sql_relation(change->relid), sql_name_list(columns)),
				true, 0);
	count = query_get_int8(0, 1, 0);
	MemoryContextSwitchTo(context);
	*example = count > 0 ? query_get_text(0, 2) : NULL;
	SPI_finish();
	return count;
}
