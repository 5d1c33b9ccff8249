/*
 * key_swap.c
 *		The swap of a change of keys, and its plan.
 *
 * The protocol is in key_change.c.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/sqltext.h"
#include "engine/template.h"
#include "steps/index.h"
#include "steps/key_change.h"
#include "steps/target.h"

/* --- texts ---------------------------------------------------------------- */

static char *
alter_text(const char *action)
{
	return template_make("ALTER TABLE %R %t", action);
}

char *
key_unique_text(const TableChange *t)
{
	return alter_text(key_constraint_text(t->wanted, t->temporary, "UNIQUE",
										  t->partitioned ? NULL : t->temporary));
}

/* --- is all as it was made out -------------------------------------------- */

static void
definition_changed(JobRun *run, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("keys of %s were changed while job " INT64_FORMAT " worked on them",
					job_relation_text(run->job), run->job->id),
			 errdetail_internal("%s", detail),
			 errhint("Nothing was swapped. SELECT tenantmig.retry(" INT64_FORMAT "); starts from what is there now.",
					 run->job->id)));
}

/* The unique constraint was made by an earlier attempt; a partition that came
 * since has one that the server made, under another name */
void
key_check_unique(JobRun *run, const KeyChange *change)
{
	ListCell   *lc;

	foreach(lc, change->tables)
	{
		TableChange *t = lfirst(lc);

		if (!t->partitioned &&
			!OidIsValid(get_relation_constraint_oid(t->table, t->temporary, true)))
			definition_changed(run, "A partition was added.");
	}
}

/* Each partition has its index, and none has come since */
void
key_check_tables(JobRun *run, const KeyChange *change)
{
	List	   *tables = key_tables(change->relid);
	ListCell   *lc;

	if (sql_relation(change->relid) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation %s was dropped while job " INT64_FORMAT " worked on it",
						job_relation_text(run->job), run->job->id)));
	if (list_length(tables) != list_length(change->tables))
		definition_changed(run, "A partition was added or has gone.");
	foreach(lc, change->tables)
	{
		TableChange *t = lfirst(lc);
		KeyDef	   *now;
		bool		valid;

		if (!list_member_oid(tables, t->table))
			definition_changed(run, "A partition was added or has gone.");
		now = key_parse(key_read(t->table));
		if (now->constraint != t->now->constraint ||
			(now->name && strcmp(now->name, t->now->name) != 0))
			definition_changed(run, psprintf("The primary key of %s is another one.",
											 sql_relation(t->table)));
		if (change->builds && !t->partitioned &&
			(!OidIsValid(key_find_index(t->table, t->temporary, &valid)) || !valid))
			definition_changed(run, psprintf("The index %s on %s is gone or not valid.",
											 quote_identifier(t->temporary),
											 sql_relation(t->table)));
	}
}


/* --- the swap ------------------------------------------------------------ */

static void
statement(JobRun *run, Oid table, const char *text)
{
	run_statement_within(run, table, AccessExclusiveLock, text, NULL, false);
}

static char *
drop_constraint_text(const char *name)
{
	return template_make("ALTER TABLE %R DROP CONSTRAINT %s", quote_identifier(name));
}

/* What a temporary step has made stays, and the inverse of the swap covers it */
static void
keep_step(JobRun *run, Oid table, const char *text)
{
	step_keep(run->job->id, table, text);
	step_forget_inverse(run->job->id, table, text);
}

static void
comment(JobRun *run, Oid table, const char *name, const char *text)
{
	if (text)
		statement(run, table,
				  template_make("COMMENT ON CONSTRAINT %s ON %R IS %s",
								quote_identifier(name), sql_literal(text)));
}

/* The partitions' foreign keys are valid and alike, so this reads no row */
static void
swap_partitioned(JobRun *run, const FkChange *f)
{
	ListCell   *lc;

	statement(run, f->now->child,
			  fk_add_text(f->wanted, f->wanted->name, true));
	foreach(lc, f->wanted->tables)
	{
		char	   *name = json_text(f->wanted->partitions,
									 psprintf("%u", lfirst_oid(lc)));

		statement(run, lfirst_oid(lc),
				  fk_rename_text(f->temporary, name ? name : f->wanted->name));
	}
}

static void
swap_foreign_key(JobRun *run, const FkChange *f)
{
	ListCell   *lc;

	statement(run, f->now->child, drop_constraint_text(f->now->name));
	if (get_rel_relkind(f->now->child) == RELKIND_PARTITIONED_TABLE)
		swap_partitioned(run, f);
	else
		statement(run, f->now->child,
				  fk_rename_text(f->temporary, f->wanted->name));
	comment(run, f->now->child, f->wanted->name, f->wanted->comment);
	foreach(lc, f->wanted->tables)
		keep_step(run, lfirst_oid(lc), fk_add_text(f->wanted, f->temporary, false));
}

/* The catalogs are changed by the extension; the journal says so in words */
static void
set_primary(JobRun *run, Oid table, const char *name, bool primary,
			const char *inverse)
{
	key_set_primary(get_relation_constraint_oid(table, name, false), primary);
	(void) step_write(run->job->id, STEP_STATEMENT, table, "done",
					  template_make(primary ? "-- unique constraint %s of %R becomes the primary key, in the catalogs"
									: "-- primary key %s of %R becomes a unique constraint, in the catalogs",
									quote_identifier(name)),
					  inverse, false, AccessExclusiveLock);
}

static void
rename_constraint(JobRun *run, Oid table, const char *from, const char *to)
{
	if (strcmp(from, to) != 0)
		statement(run, table, fk_rename_text(from, to));
}

/* What the old key had of its own beside its definition */
static void
put_marks(JobRun *run, const KeyChange *change, const TableChange *t)
{
	const KeyDef *key = t->wanted;

	comment(run, t->table, key->name, key->comment);
	if (key->index_comment)
		statement(run, t->table,
				  template_make("COMMENT ON INDEX %S.%s IS %s",
								quote_identifier(key->name),
								sql_literal(key->index_comment)));
	if (change->keep)
		return;
	if (key->clustered)
		statement(run, t->table, template_make("ALTER TABLE %R CLUSTER ON %s",
											   quote_identifier(key->name)));
	if (key->identity)
		statement(run, t->table,
				  template_make("ALTER TABLE %R REPLICA IDENTITY USING INDEX %s",
								quote_identifier(key->name)));
}

/* How the swap reads when it is taken back; what is run is key_change_back() */
static char *
inverse_text(const KeyChange *change)
{
	const TableChange *root = linitial(change->tables);
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, change->foreign_keys)
	{
		const FkChange *f = lfirst(lc);

		appendStringInfoString(&buf, template_make("ALTER TABLE %t DROP CONSTRAINT %s; ",
												   template_other(f->now->child),
												   quote_identifier(f->now->name)));
	}
	appendStringInfoString(&buf, template_make("ALTER TABLE %R DROP CONSTRAINT %s",
											   quote_identifier(root->wanted->name)));
	if (change->keep)
		appendStringInfoString(&buf, template_make("; ALTER TABLE %R RENAME CONSTRAINT %s TO %s; -- which becomes the primary key again",
												   quote_identifier(root->kept),
												   quote_identifier(root->now->name)));
	else if (OidIsValid(root->now->constraint))
		appendStringInfo(&buf, ", %s", key_constraint_text(root->now, root->now->name,
														   "PRIMARY KEY", NULL));
	foreach(lc, change->foreign_keys)
	{
		const FkChange *f = lfirst(lc);

		appendStringInfoString(&buf, template_make("; ALTER TABLE %t ADD CONSTRAINT %s %t%s",
												   template_other(f->now->child),
												   quote_identifier(f->now->name),
												   fk_definition(f->now),
												   f->now->valid ? "" : " NOT VALID"));
	}
	return buf.data;
}

/* The statement that the swap of an ordinary table comes down to; the drop of
 * the old key is left out where that is kept or there is none */
static char *
swap_text(const KeyChange *change, const TableChange *t)
{
	bool		drops = OidIsValid(t->now->constraint) && (change->back || !change->keep);
	bool		adds = change->builds && !t->partitioned;
	char	   *drop = psprintf("DROP CONSTRAINT %s",
								drops ? quote_identifier(t->now->name) : "");
	char	   *add = adds ? key_constraint_text(t->wanted, t->wanted->name,
												 "PRIMARY KEY", t->temporary) : NULL;

	if (drops)
		drop = template_make("%s", drop);
	if (drops && adds)
		return alter_text(psprintf("%s, %s", drop, add));
	return drops ? alter_text(drop) : adds ? alter_text(add) : NULL;
}

/* The constraints of a partitioned table that have the names of what they
 * replace now: those of the leaves have names of ours, those in between have
 * what the server chose */
static void
name_partitions(JobRun *run, const KeyChange *change, Oid root)
{
	ListCell   *lc;

	foreach(lc, lcons_oid(root, key_constraints_below(root)))
	{
		HeapTuple	tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(lfirst_oid(lc)));
		Form_pg_constraint form = (Form_pg_constraint) GETSTRUCT(tuple);
		ListCell   *table;

		foreach(table, change->tables)
		{
			TableChange *t = lfirst(table);

			if (t->table == form->conrelid)
				rename_constraint(run, t->table, pstrdup(NameStr(form->conname)),
								  t->wanted->name);
		}
		ReleaseSysCache(tuple);
	}
}

/* The last step that changes the key has the inverse of the swap */
static void
swap_key(JobRun *run, const KeyChange *change)
{
	TableChange *root = linitial(change->tables);
	char	   *text = swap_text(change, root);
	char	   *inverse = change->back ? NULL : inverse_text(change);
	ListCell   *lc;

	if (change->keep && !change->back)
	{
		set_primary(run, root->table, root->now->name, false, NULL);
		foreach(lc, change->tables)
		{
			TableChange *t = lfirst(lc);

			rename_constraint(run, t->table, t->now->name, t->kept);
		}
	}
	if (text)
		run_statement_within(run, root->table, AccessExclusiveLock, text,
							 root->partitioned ? NULL : inverse, false);
	if (change->keep && change->back)
	{
		set_primary(run, root->table, root->kept, true, NULL);
		foreach(lc, change->tables)
		{
			TableChange *t = lfirst(lc);

			if (t->kept)
				rename_constraint(run, t->table, t->kept, t->wanted->name);
		}
	}
	else if (root->partitioned && change->builds)
	{
		set_primary(run, root->table, root->temporary, true, inverse);
		name_partitions(run, change,
						get_relation_constraint_oid(root->table, root->temporary, false));
	}
}

static void
keep_index_steps(JobRun *run, const KeyChange *change)
{
	ListCell   *lc;

	foreach(lc, change->tables)
	{
		TableChange *t = lfirst(lc);

		keep_step(run, t->table, key_unique_text(t));
		if (!t->partitioned)
			index_hand_over(run->job, t->table, KEY_INDEX);
	}
}

/* All of them once: the referencing tables first, as their writers come */
static List *
swap_lock_list(const KeyChange *change)
{
	List	   *tables = NIL;
	ListCell   *lc;

	foreach(lc, change->foreign_keys)
	{
		Oid			child = ((FkChange *) lfirst(lc))->now->child;

		if (child != change->relid)
			tables = list_append_unique_oid(tables, child);
	}
	return lappend_oid(tables, change->relid);
}

/* The foreign keys are those of then, and what replaces them is there */
static void
check_foreign_keys(JobRun *run, const KeyChange *change)
{
	TableChange *root = linitial(change->tables);
	ListCell   *lc;

	if (!change->keep && OidIsValid(root->now->index) && !change->back &&
		list_length(fk_read_all(change->relid, root->now->index)) !=
		list_length(change->foreign_keys))
		definition_changed(run, "A foreign key to it was added or dropped.");
	foreach(lc, change->foreign_keys)
	{
		const FkChange *f = lfirst(lc);
		bool		valid;
		ListCell   *table;

		if (fk_find(f->now->child, f->now->name, &valid) != f->now->constraint)
			definition_changed(run, psprintf("Foreign key %s of %s is gone or another one.",
											 quote_identifier(f->now->name),
											 sql_relation(f->now->child)));
		if (list_difference_oid(fk_tables(f->now->child), f->wanted->tables) != NIL)
			definition_changed(run, psprintf("A partition of %s was added.",
											 sql_relation(f->now->child)));
		foreach(table, f->wanted->tables)
			if (!OidIsValid(fk_find(lfirst_oid(table), f->temporary, &valid)) ||
				(f->wanted->valid && !valid))
				definition_changed(run, psprintf("Foreign key %s of %s is gone or not valid.",
												 quote_identifier(f->temporary),
												 sql_relation(lfirst_oid(table))));
	}
}

/* Under the lock: the server would read the table for NULLs, and the catalogs
 * can be given a primary key over some */
static void
check_not_null(JobRun *run, const KeyChange *change)
{
	const TableChange *root = linitial(change->tables);
	ListCell   *lc;

	foreach(lc, root->wanted->columns)
	{
		TargetColumn column;

		if (!target_find_column(change->relid, lfirst(lc), &column) || !column.not_null)
			definition_changed(run, psprintf("Column %s can be NULL.",
											 quote_identifier(lfirst(lc))));
	}
}

void
key_swap_body(JobRun *run, void *arg)
{
	KeyChange  *change = arg;
	JsonObject *facts;
	ListCell   *lc;

	run_check_request(run);
	run_lock_all(swap_lock_list(change), AccessExclusiveLock);
	run_follow_name(run);
	key_check_tables(run, change);
	check_foreign_keys(run, change);
	check_not_null(run, change);
	foreach(lc, change->foreign_keys)
		swap_foreign_key(run, lfirst(lc));
	swap_key(run, change);
	foreach(lc, change->back && change->keep ? NIL : change->tables)
		if (((TableChange *) lfirst(lc))->wanted->columns != NIL)
			put_marks(run, change, lfirst(lc));
	if (change->builds)
		keep_index_steps(run, change);
	if (change->back)
		return;
	facts = json_begin();
	json_put_nested(facts, "key", change->before);
	job_merge_summary(run->job->id, json_end(facts));
}

/* --- the plan ------------------------------------------------------------ */

static void
plan_step(const Job *job, Oid table, const char *text, const char *inverse,
		  LOCKMODE mode)
{
	(void) step_write(job->id, STEP_STATEMENT, table, "planned", text, inverse,
					  false, mode);
}

static void
plan_swap(const Job *job, const KeyChange *change)
{
	const TableChange *root = linitial(change->tables);
	char	   *inverse = change->back ? NULL : inverse_text(change);
	char	   *text = swap_text(change, root);
	ListCell   *lc;

	foreach(lc, change->foreign_keys)
	{
		const FkChange *f = lfirst(lc);

		plan_step(job, f->now->child, drop_constraint_text(f->now->name), NULL,
				  AccessExclusiveLock);
		plan_step(job, f->now->child,
				  get_rel_relkind(f->now->child) == RELKIND_PARTITIONED_TABLE
				  ? fk_add_text(f->wanted, f->wanted->name, true)
				  : fk_rename_text(f->temporary, f->wanted->name), NULL,
				  AccessExclusiveLock);
	}
	if (change->keep && !change->back)
		plan_step(job, root->table, fk_rename_text(root->now->name, root->kept),
				  NULL, AccessExclusiveLock);
	if (text)
		plan_step(job, root->table, text, root->partitioned ? NULL : inverse,
				  AccessExclusiveLock);
	if (root->partitioned && change->builds)
		plan_step(job, root->table,
				  fk_rename_text(root->temporary, root->wanted->name), inverse,
				  AccessExclusiveLock);
	if (change->keep && change->back)
		plan_step(job, root->table, fk_rename_text(root->kept, root->wanted->name),
				  NULL, AccessExclusiveLock);
}

static char *
names_of(List *tables)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, tables)
		appendStringInfo(&buf, "%s%s", buf.len > 0 ? ", " : "",
						 sql_relation(lfirst_oid(lc)));
	return buf.data;
}

/* Each lock, how long it is held, and whom it blocks */
static List *
plan_locks(const KeyChange *change)
{
	List	   *locks = NIL;
	char	   *table = sql_relation(change->relid);
	char	   *all = names_of(swap_lock_list(change));

	if (change->builds)
		locks = lappend(locks, psprintf("SHARE UPDATE EXCLUSIVE on %s while the index is built: blocks VACUUM, ANALYZE, DDL and other concurrent builds; readers and writers go on", table));
	if (change->builds && ((TableChange *) linitial(change->tables))->partitioned)
		locks = lappend(locks, psprintf("ACCESS EXCLUSIVE on %s and its partitions, for milliseconds: blocks everybody", table));
	if (change->foreign_keys != NIL)
	{
		locks = lappend(locks, psprintf("SHARE ROW EXCLUSIVE on %s, for milliseconds, once for each foreign key: blocks writers; readers go on", all));
		locks = lappend(locks, psprintf("SHARE UPDATE EXCLUSIVE on the referencing table and ROW SHARE on %s while a foreign key is validated: blocks VACUUM, ANALYZE and DDL; readers and writers go on", table));
	}
	return lappend(locks, psprintf("ACCESS EXCLUSIVE on %s together, for milliseconds, at the swap: blocks everybody", all));
}

void
key_change_plan(const Job *job, const KeyChange *change, JsonObject *plan)
{
	const TableChange *root = linitial(change->tables);
	IndexEstimate estimate = {.rows = 0};
	ListCell   *lc;

	foreach(lc, change->builds ? change->tables : NIL)
	{
		const TableChange *t = lfirst(lc);

		if (!t->partitioned)
			index_plan_table(job, t->table, t->table,
							 key_index_spec(t->wanted, t->temporary), &estimate);
	}
	foreach(lc, change->builds && root->partitioned ? change->tables : NIL)
	{
		const TableChange *t = lfirst(lc);

		if (!t->partitioned)
			plan_step(job, t->table, key_unique_text(t), NULL, AccessExclusiveLock);
	}
	if (change->builds && root->partitioned)
		plan_step(job, root->table, key_unique_text(root), fk_drop_text(root->temporary),
				  AccessExclusiveLock);
	foreach(lc, change->foreign_keys)
	{
		const FkChange *f = lfirst(lc);

		fk_plan_build(job->id, f->wanted, f->temporary);
	}
	plan_swap(job, change);
	json_put_list(plan, "locks", plan_locks(change));
	index_put_estimate(plan, &estimate);
}
