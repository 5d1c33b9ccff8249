/*
 * fk.c
 *		Foreign keys as jobs read, write and build them.
 *
 * ADD CONSTRAINT ... FOREIGN KEY by itself reads both tables while it keeps all
 * writers of both out.  So it is added NOT VALID, which holds for all that is
 * written from then on, and takes a moment; and validated beside readers and
 * writers.  A partitioned table takes no foreign key that is not valid: there
 * this is done on each leaf partition, and when the one of the root is added,
 * the server finds and attaches those of the partitions, and reads no row.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/json.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "engine/stop_point.h"
#include "engine/template.h"
#include "steps/fk.h"
#include "steps/key.h"
#include "steps/target.h"

/* --- reading ---------------------------------------------------------- */

#define COLUMNS(what, relation, numbers) \
	"(SELECT jsonb_agg(" what " ORDER BY k.n) " \
	"FROM unnest(" numbers ") WITH ORDINALITY k (attnum, n) " \
	"JOIN pg_attribute a ON a.attrelid = " relation " AND a.attnum = k.attnum)"

#define FOREIGN_KEY \
	"SELECT jsonb_build_object('home', $3, 'oid', c.oid::bigint, 'name', c.conname, " \
	"'child', c.conrelid::bigint, 'child_schema', n.nspname, 'child_name', r.relname, " \
	"'referenced', c.confrelid::bigint, 'referenced_schema', fn.nspname, " \
	"'referenced_name', fr.relname, " \
	"'columns', " COLUMNS("a.attname", "c.conrelid", "c.conkey") ", " \
	"'columns_numbers', " COLUMNS("a.attnum::text", "c.conrelid", "c.conkey") ", " \
	"'referenced_columns', " COLUMNS("a.attname", "c.confrelid", "c.confkey") ", " \
	"'referenced_columns_numbers', " COLUMNS("a.attnum::text", "c.confrelid", "c.confkey") ", " \
	"'set_columns', " COLUMNS("a.attname", "c.conrelid", "c.confdelsetcols") ", " \
	"'set_columns_numbers', " COLUMNS("a.attnum::text", "c.conrelid", "c.confdelsetcols") ", " \
	"'match', c.confmatchtype, 'on_update', c.confupdtype, 'on_delete', c.confdeltype, " \
	"'deferrable', c.condeferrable, 'deferred', c.condeferred, 'valid', c.convalidated, " \
	"'enforced', COALESCE((to_jsonb(c) ->> 'conenforced')::boolean, true), " \
	"'comment', obj_description(c.oid, 'pg_constraint'), " \
	"'partitions', (WITH RECURSIVE below (oid, conrelid, conname) AS ( " \
	" SELECT b.oid, b.conrelid, b.conname FROM pg_constraint b " \
	" WHERE b.conparentid = c.oid AND b.confrelid = c.confrelid UNION ALL " \
	" SELECT b.oid, b.conrelid, b.conname FROM below JOIN pg_constraint b " \
	" ON b.conparentid = below.oid AND b.confrelid = c.confrelid) " \
	" SELECT jsonb_object_agg(conrelid::bigint, conname) FROM below)) " \
	"FROM pg_constraint c " \
	"JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace " \
	"JOIN pg_class fr ON fr.oid = c.confrelid JOIN pg_namespace fn ON fn.oid = fr.relnamespace " \
	"WHERE c.contype = 'f' "

List *
fk_read_all(Oid referenced, Oid index)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	List	   *keys = NIL;
	uint64		count;

	query_init(&query, FOREIGN_KEY "AND c.conparentid = 0 "
			   "AND c.confrelid = $1 AND c.conindid = $2 "
			   "ORDER BY n.nspname, r.relname, c.conname");
	query_oid(&query, referenced);
	query_oid(&query, index);
	query_int8(&query, identity_home());
	SPI_connect();
	count = query_run(&query);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < count; i++)
		keys = lappend(keys, query_get_jsonb(i, 1));
	SPI_finish();
	return keys;
}

Jsonb *
fk_read(Oid child, const char *name)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	Jsonb	   *key = NULL;

	query_init(&query, FOREIGN_KEY "AND c.conrelid = $1 AND c.conname = $2");
	query_oid(&query, child);
	query_name(&query, name);
	query_int8(&query, identity_home());
	SPI_connect();
	if (query_run(&query) > 0)
	{
		MemoryContextSwitchTo(context);
		key = query_get_jsonb(0, 1);
	}
	SPI_finish();
	return key;
}

ForeignKey *
fk_parse(Jsonb *object)
{
	ForeignKey *fk = palloc0(sizeof(ForeignKey));

	fk->child = key_find_relation(object, "child", "child_schema", "child_name");
	fk->referenced = key_find_relation(object, "referenced", "referenced_schema",
									   "referenced_name");
	fk->constraint = (Oid) json_int(object, "oid", 0);
	fk->name = json_text(object, "name");
	fk->columns = key_follow_columns(fk->child, object, "columns");
	fk->referenced_columns = key_follow_columns(fk->referenced, object,
												"referenced_columns");
	fk->set_columns = key_follow_columns(fk->child, object, "set_columns");
	fk->match = json_text(object, "match")[0];
	fk->on_update = json_text(object, "on_update")[0];
	fk->on_delete = json_text(object, "on_delete")[0];
	fk->deferrable = json_bool(object, "deferrable", false);
	fk->deferred = json_bool(object, "deferred", false);
	fk->valid = json_bool(object, "valid", true);
	fk->enforced = json_bool(object, "enforced", true);
	fk->comment = json_text(object, "comment");
	fk->partitions = json_nested(object, "partitions");
	if (!OidIsValid(fk->child) || !OidIsValid(fk->referenced))
		return NULL;
	fk->tables = fk_tables(fk->child);
	return fk;
}

Oid
fk_find(Oid table, const char *name, bool *valid)
{
	Oid			constraint = get_relation_constraint_oid(table, name, true);
	HeapTuple	tuple;

	*valid = false;
	if (!OidIsValid(constraint))
		return InvalidOid;
	tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(constraint));
	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	*valid = ((Form_pg_constraint) GETSTRUCT(tuple))->convalidated;
	ReleaseSysCache(tuple);
	return constraint;
}

/* --- texts ------------------------------------------------------------ */

static const char *
action_text(char action)
{
	switch (action)
	{
		case FKCONSTR_ACTION_RESTRICT:
			return "RESTRICT";
		case FKCONSTR_ACTION_CASCADE:
			return "CASCADE";
		case FKCONSTR_ACTION_SETNULL:
			return "SET NULL";
		case FKCONSTR_ACTION_SETDEFAULT:
			return "SET DEFAULT";
		default:
			return NULL;
	}
}

char *
fk_definition(const ForeignKey *fk)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoString(&buf, template_make("FOREIGN KEY (%s) REFERENCES %t (%s)",
											   sql_name_list(fk->columns),
											   template_other(fk->referenced),
											   sql_name_list(fk->referenced_columns)));
	if (fk->match == FKCONSTR_MATCH_FULL)
		appendStringInfoString(&buf, " MATCH FULL");
	if (action_text(fk->on_update))
		appendStringInfo(&buf, " ON UPDATE %s", action_text(fk->on_update));
	if (action_text(fk->on_delete))
		appendStringInfo(&buf, " ON DELETE %s", action_text(fk->on_delete));
	if (fk->set_columns != NIL)
		appendStringInfoString(&buf, template_make(" (%s)", sql_name_list(fk->set_columns)));
	if (fk->deferrable)
		appendStringInfoString(&buf, " DEFERRABLE");
	if (fk->deferred)
		appendStringInfoString(&buf, " INITIALLY DEFERRED");
	return buf.data;
}

char *
fk_add_text(const ForeignKey *fk, const char *name, bool valid)
{
	return template_make("ALTER TABLE %R ADD CONSTRAINT %s %t%s",
						 quote_identifier(name), fk_definition(fk),
						 valid ? "" : " NOT VALID");
}

char *
fk_drop_text(const char *name)
{
	return template_make("ALTER TABLE %R DROP CONSTRAINT IF EXISTS %s",
						 quote_identifier(name));
}

char *
fk_validate_text(const char *name)
{
	return template_make("ALTER TABLE %R VALIDATE CONSTRAINT %s",
						 quote_identifier(name));
}

char *
fk_rename_text(const char *from, const char *to)
{
	return template_make("ALTER TABLE %R RENAME CONSTRAINT %s TO %s",
						 quote_identifier(from), quote_identifier(to));
}

char *
fk_temporary_name(int64 job, const char *name, Oid distinct, bool first)
{
	char	   *prefix = psprintf("%stenantmig_" INT64_FORMAT "_", first ? "!" : "", job);

	return sql_derived_name(prefix, name,
							strlen(prefix) + strlen(name) < NAMEDATALEN ? ""
							: psprintf("_%u", distinct));
}

bool
fk_is_temporary(const char *name)
{
	return strncmp(name[0] == '!' ? name + 1 : name, "tenantmig_", 10) == 0;
}

List *
fk_tables(Oid child)
{
	return get_rel_relkind(child) == RELKIND_PARTITIONED_TABLE
		? target_leaves(child) : list_make1_oid(child);
}

/* --- building --------------------------------------------------------- */

typedef struct FkStep
{
	const ForeignKey *fk;
	Oid			table;
	const char *name;
	bool		exists;
	bool		valid;
} FkStep;

static void
look_body(JobRun *run, void *arg)
{
	FkStep	   *s = arg;
	const char *state;

	run_check_request(run);
	s->exists = OidIsValid(fk_find(s->table, s->name, &s->valid));
	if (!s->exists || fk_is_temporary(s->name))
		return;
	/* the name was free when it was chosen; only our journal tells whose it is */
	state = step_state(run->job->id, s->table, fk_add_text(s->fk, s->name, false));
	if (state == NULL || strcmp(state, "done") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("constraint %s of relation %s already exists, and is not of job " INT64_FORMAT,
						quote_identifier(s->name), sql_relation(s->table),
						run->job->id),
				 errhint("Rename or drop it, then: SELECT tenantmig.retry(" INT64_FORMAT ");",
						 run->job->id)));
}

static void
add_body(JobRun *run, void *arg)
{
	FkStep	   *s = arg;

	run_check_request(run);
	/* whoever inserts into a table comes to the referenced one with it locked */
	run_lock_all(s->table == s->fk->referenced ? list_make1_oid(s->table)
				 : list_make2_oid(s->table, s->fk->referenced),
				 ShareRowExclusiveLock);
	run_follow_name(run);
	run_statement_within(run, s->table, ShareRowExclusiveLock,
						 fk_add_text(s->fk, s->name, false),
						 fk_drop_text(s->name), true);
}

/*
 * A foreign key to a partitioned table is there once more for each of its
 * partitions, and the server leaves those rows NOT VALID when it validates the
 * one that they belong to.  It has read all of them.
 */
static void
mark_below_valid(Oid table, const char *name)
{
	Relation	catalog = table_open(ConstraintRelationId, RowExclusiveLock);
	OwnQuery	query;
	uint64		count;
	List	   *below = NIL;
	ListCell   *lc;
	bool		valid;
	Oid			constraint = fk_find(table, name, &valid);

	if (!OidIsValid(constraint))
		elog(ERROR, "constraint %s of relation %u is gone", name, table);

	query_init(&query, "WITH RECURSIVE below (oid, convalidated) AS ( "
			   "SELECT oid, convalidated FROM pg_constraint WHERE conparentid = $1 UNION ALL "
			   "SELECT c.oid, c.convalidated FROM below JOIN pg_constraint c ON c.conparentid = below.oid) "
			   "SELECT oid FROM below WHERE NOT convalidated");
	query_oid(&query, constraint);
	SPI_connect();
	count = query_run(&query);
	for (uint64 i = 0; i < count; i++)
		below = lappend_oid(below, query_get_oid(i, 1));
	foreach(lc, below)
	{
		HeapTuple	tuple = SearchSysCacheCopy1(CONSTROID, lfirst_oid(lc));

		((Form_pg_constraint) GETSTRUCT(tuple))->convalidated = true;
		CatalogTupleUpdate(catalog, &tuple->t_self, tuple);
	}
	SPI_finish();
	table_close(catalog, RowExclusiveLock);
}

static void
validate_body(JobRun *run, void *arg)
{
	FkStep	   *s = arg;

	run_check_request(run);
	run_lock(s->table, ShareUpdateExclusiveLock);
	run_follow_name(run);
	run_statement_within(run, s->table, ShareUpdateExclusiveLock,
						 fk_validate_text(s->name), NULL, false);
	mark_below_valid(s->table, s->name);
}

void
fk_build(JobRun *run, const ForeignKey *fk, const char *temporary)
{
	ListCell   *lc;

	foreach(lc, fk->tables)
	{
		FkStep		s = {.fk = fk,.table = lfirst_oid(lc),.name = temporary};

		run_or_error(run, look_body, &s);
		if (!s.exists)
			run_patiently(run, add_body, &s);
		STOP_POINT("key-foreign-key-added");
	}
}

void
fk_validate(JobRun *run, const ForeignKey *fk, const char *temporary)
{
	ListCell   *lc;

	foreach(lc, fk->tables)
	{
		FkStep		s = {.fk = fk,.table = lfirst_oid(lc),.name = temporary};

		run_or_error(run, look_body, &s);
		if (!s.valid)
			run_patiently(run, validate_body, &s);
		STOP_POINT("key-foreign-key-validated");
	}
}

void
fk_plan_build(int64 job, const ForeignKey *fk, const char *temporary)
{
	ListCell   *lc;

	foreach(lc, fk->tables)
		(void) step_write(job, STEP_STATEMENT, lfirst_oid(lc), "planned",
						  fk_add_text(fk, temporary, false),
						  fk_drop_text(temporary), true, ShareRowExclusiveLock);
	foreach(lc, fk->valid ? fk->tables : NIL)
		(void) step_write(job, STEP_STATEMENT, lfirst_oid(lc), "planned",
						  fk_validate_text(temporary), NULL, false,
						  ShareUpdateExclusiveLock);
}

/* --- rows that would violate it ---------------------------------------- */

/* p.column = c.column, as the foreign key compares them */
static char *
pair_text(const ForeignKey *fk, int position)
{
	TargetColumn ours;
	TargetColumn theirs;
	const char *column = list_nth(fk->columns, position);
	const char *referenced = list_nth(fk->referenced_columns, position);
	char	   *equality;

	target_check_column(fk->child, column, &ours);
	target_check_column(fk->referenced, referenced, &theirs);
	equality = ours.type == theirs.type ? sql_equality(ours.type) : NULL;
	return psprintf("p.%s %s c.%s%s", quote_identifier(referenced),
					equality ? equality : "OPERATOR(pg_catalog.=)",
					quote_identifier(column),
					ours.collation != theirs.collation && OidIsValid(theirs.collation)
					? psprintf(" COLLATE %s", key_collation(theirs.collation)) : "");
}

static char *
violation_from(const ForeignKey *fk)
{
	StringInfoData buf;
	StringInfoData nulls;
	bool		one_table = get_rel_relkind(fk->child) == RELKIND_RELATION;
	bool		one_referenced = get_rel_relkind(fk->referenced) == RELKIND_RELATION;
	int			count = list_length(fk->columns);

	initStringInfo(&buf);
	initStringInfo(&nulls);
	appendStringInfo(&buf, "FROM %s%s c WHERE ", one_table ? "ONLY " : "",
					 sql_relation(fk->child));
	for (int i = 0; i < count; i++)
		appendStringInfo(&nulls, "%sc.%s IS NOT NULL", i > 0 ? " AND " : "",
						 quote_identifier(list_nth(fk->columns, i)));
	appendStringInfo(&buf, "(%s AND NOT EXISTS (SELECT FROM %s%s p WHERE ",
					 nulls.data, one_referenced ? "ONLY " : "",
					 sql_relation(fk->referenced));
	for (int i = 0; i < count; i++)
		appendStringInfo(&buf, "%s%s", i > 0 ? " AND " : "", pair_text(fk, i));
	appendStringInfoString(&buf, "))");
	if (fk->match == FKCONSTR_MATCH_FULL && count > 1)
	{
		appendStringInfo(&buf, " OR (NOT (%s) AND NOT (", nulls.data);
		for (int i = 0; i < count; i++)
			appendStringInfo(&buf, "%sc.%s IS NULL", i > 0 ? " AND " : "",
							 quote_identifier(list_nth(fk->columns, i)));
		appendStringInfoString(&buf, "))");
	}
	return buf.data;
}

FkViolations *
fk_violations(const ForeignKey *fk)
{
	MemoryContext context = CurrentMemoryContext;
	FkViolations *v = palloc0(sizeof(FkViolations));
	char	   *from = violation_from(fk);
	List	   *columns = key_columns(fk->child);
	ListCell   *lc;

	foreach(lc, fk->columns)
		if (!key_has(columns, lfirst(lc)))
			columns = lappend(columns, lfirst(lc));
	v->fk = fk;
	v->child = sql_relation(fk->child);
	v->referenced = sql_relation(fk->referenced);
	SPI_connect();
	SPI_execute(psprintf("SELECT pg_catalog.count(*) %s", from), true, 0);
	v->count = query_get_int8(0, 1, 0);
	if (v->count > 0)
	{
		SPI_execute(psprintf("SELECT %s %s LIMIT %d", key_object("c", columns),
							 from, FK_MOST_VIOLATIONS), true, 0);
		MemoryContextSwitchTo(context);
		for (uint64 i = 0; i < SPI_processed; i++)
			v->examples = lappend(v->examples, query_get_text(i, 1));
	}
	SPI_finish();
	return v;
}

void
fk_raise_violations(JobRun *run, List *violations, const char *advice)
{
	StringInfoData detail;
	int64		count = 0;
	int			keys = 0;
	const FkViolations *first = NULL;
	ListCell   *lc;

	initStringInfo(&detail);
	foreach(lc, violations)
	{
		const FkViolations *v = lfirst(lc);
		ListCell   *example;
		int			shown = 0;

		if (v->count == 0)
			continue;
		first = first ? first : v;
		count += v->count;
		appendStringInfo(&detail, "%sForeign key %s of %s: " INT64_FORMAT " %s, such as ",
						 keys++ > 0 ? "\n" : "", quote_identifier(v->fk->name),
						 v->child, v->count,
						 v->count == 1 ? "row" : "rows");
		foreach(example, v->examples)
		{
			run_error_row(run, v->child,
						  DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
															 CStringGetDatum(lfirst(example)))),
						  "23503",
						  psprintf("%s has no row with its (%s)",
								   v->referenced,
								   sql_name_list(v->fk->referenced_columns)));
			if (shown < 5)
				appendStringInfo(&detail, "%s%s", shown++ > 0 ? ", " : "",
								 (char *) lfirst(example));
		}
		appendStringInfoChar(&detail, '.');
	}
	if (first == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
			 keys == 1
			 ? errmsg(INT64_FORMAT " %s of %s would violate foreign key %s (%s)",
					  count, count == 1 ? "row" : "rows",
					  first->child,
					  quote_identifier(first->fk->name),
					  sql_name_list(first->fk->columns))
			 : errmsg(INT64_FORMAT " rows would violate %d foreign keys", count, keys),
			 errdetail_internal("%s", detail.data),
			 errhint("%s SELECT relation, key FROM tenantmig.job_errors WHERE job = " INT64_FORMAT "; lists them. Then: SELECT tenantmig.retry(" INT64_FORMAT ");",
					 advice, run->job->id, run->job->id)));
}
