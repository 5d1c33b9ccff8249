/*
 * key_change.c
 *		A change of a primary key and of the foreign keys that point at it.
 *
 *	1	a unique index on the new key, built concurrently
 *	2	each foreign key once more, as it is to be, NOT VALID and under a name of
 *		the job's own: it stands on that index, and from now on both hold
 *	3	each of them is validated, beside readers and writers
 *	4	the swap, one transaction under ACCESS EXCLUSIVE on all tables concerned:
 *		the old foreign keys go, the new ones get their names, the old primary
 *		key goes, and the index becomes the new one under its name
 *
 * Until the swap the old keys are all there, and what the job has added is
 * temporary steps; after it the new ones are, valid.  There is nothing in
 * between, so whenever the job is interrupted the application has a primary key
 * and valid foreign keys.
 *
 * On a partitioned table the index is built on each leaf partition, and is made
 * a unique constraint of the whole tree, for 2; in the swap it becomes the
 * primary key (key_set_primary).
 *
 * With "keep" the old primary key becomes a unique constraint in the swap, with
 * its index and the foreign keys that stand on it, so 2 and 3 are left out.
 *
 * Undo is the same change the other way round: the swap has journaled how all
 * was.  Its helpers are temporary steps of the undo job.
 *
 * Names.  Each statement is written when it is run, under the locks, for the
 * OIDs that the change was made out for.  The swap looks under its locks
 * whether keys and foreign keys are still those; if somebody has changed them,
 * it is an error, all is cleaned up, and a new attempt makes the change out
 * anew.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "commands/defrem.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/sqltext.h"
#include "engine/stop_point.h"
#include "engine/template.h"
#include "steps/index.h"
#include "steps/key_change.h"
#include "steps/target.h"

/* --- what is to be done ------------------------------------------------ */

List *
key_tables(Oid relid)
{
	return get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE
		? target_tree(relid) : list_make1_oid(relid);
}

static char *
free_name(Oid table, List *columns, const char *label)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, columns)
		appendStringInfo(&buf, "%s%s", buf.len > 0 ? "_" : "", (char *) lfirst(lc));
	return ChooseRelationName(get_rel_name(table), buf.len > 0 ? buf.data : NULL,
							  label, get_rel_namespace(table), true);
}

/* The key of a table as it is to be: like that of now, but for the columns */
static KeyDef *
wanted_key(const KeyDef *now, List *columns)
{
	KeyDef	   *wanted = palloc(sizeof(KeyDef));
	ListCell   *lc;

	*wanted = *now;
	wanted->constraint = wanted->index = InvalidOid;
	wanted->columns = columns;
	wanted->include = NIL;
	foreach(lc, now->include)
		if (!key_has(columns, lfirst(lc)))
			wanted->include = lappend(wanted->include, lfirst(lc));
	if (wanted->name == NULL)
		wanted->name = free_name(now->table, NIL, "pkey");
	return wanted;
}

static TableChange *
table_change(const Job *job, KeyDef *now, KeyDef *wanted)
{
	TableChange *t = palloc0(sizeof(TableChange));

	t->table = now->table;
	t->partitioned = get_rel_relkind(t->table) == RELKIND_PARTITIONED_TABLE;
	t->now = now;
	t->wanted = wanted;
	t->temporary = fk_temporary_name(job->id, wanted->name ? wanted->name : "none",
									 t->table, false);
	return t;
}

/*
 * A foreign key as it is to be: each column of the new key is paired with what
 * it was paired with, or else with the column of the same name.  An action that
 * sets columns sets those that it did: the tenant stays.
 */
static ForeignKey *
wanted_foreign_key(const ForeignKey *now, List *columns)
{
	ForeignKey *wanted = palloc(sizeof(ForeignKey));
	ListCell   *lc;
	bool		more = list_length(columns) > list_length(now->columns);

	*wanted = *now;
	wanted->constraint = InvalidOid;
	wanted->columns = NIL;
	wanted->referenced_columns = columns;
	foreach(lc, columns)
	{
		char	   *column = lfirst(lc);

		for (int i = 0; i < list_length(now->columns); i++)
			if (strcmp(list_nth(now->referenced_columns, i), lfirst(lc)) == 0)
				column = list_nth(now->columns, i);
		wanted->columns = lappend(wanted->columns, column);
	}
	if (more && now->set_columns == NIL &&
		(now->on_delete == FKCONSTR_ACTION_SETNULL ||
		 now->on_delete == FKCONSTR_ACTION_SETDEFAULT))
		wanted->set_columns = now->columns;
	/* of one column MATCH FULL says nothing; with the tenant, which is not
	 * NULL, it would refuse a NULL */
	if (more && list_length(now->columns) == 1)
	{
		TargetColumn column;

		if (target_find_column(now->child, linitial(now->columns), &column) &&
			!column.not_null)
			wanted->match = FKCONSTR_MATCH_SIMPLE;
	}
	return wanted;
}

static void
add_foreign_key_change(const Job *job, KeyChange *change, ForeignKey *now,
					   ForeignKey *wanted)
{
	FkChange   *f = palloc0(sizeof(FkChange));

	f->now = now;
	f->wanted = wanted;
	f->temporary = fk_temporary_name(job->id, wanted->name, now->constraint,
									 get_rel_relkind(now->child) == RELKIND_PARTITIONED_TABLE);
	change->foreign_keys = lappend(change->foreign_keys, f);
}

KeyChange *
key_change_forth(const Job *job, Oid relid)
{
	KeyChange  *change = palloc0(sizeof(KeyChange));
	List	   *columns = json_list(job->arguments, "columns");
	JsonObject *before = json_begin();
	JsonObject *tables = json_begin();
	JsonObject *foreign_keys = json_begin();
	KeyDef	   *root;
	ListCell   *lc;

	change->relid = relid;
	change->builds = true;
	foreach(lc, key_tables(relid))
	{
		Jsonb	   *object = key_read(lfirst_oid(lc));
		KeyDef	   *now = key_parse(object);

		change->tables = lappend(change->tables,
								 table_change(job, now, wanted_key(now, columns)));
		json_put_nested(tables, psprintf("%05d", foreach_current_index(lc)), object);
	}
	root = ((TableChange *) linitial(change->tables))->now;
	if (key_same_columns(root->columns, columns))
		return NULL;
	change->keep = OidIsValid(root->constraint) &&
		strcmp(json_text(job->arguments, "foreign_keys"), "keep") == 0;
	foreach(lc, change->keep || !OidIsValid(root->index) ? NIL
			: fk_read_all(relid, root->index))
	{
		Jsonb	   *object = lfirst(lc);
		ForeignKey *now = fk_parse(object);

		/* its table has just been dropped */
		if (now == NULL)
			continue;
		add_foreign_key_change(job, change, now, wanted_foreign_key(now, columns));
		json_put_nested(foreign_keys, psprintf("%05d", foreach_current_index(lc)), object);
	}
	foreach(lc, change->keep ? change->tables : NIL)
	{
		TableChange *t = lfirst(lc);

		t->kept = free_name(t->table, t->now->columns, "key");
		if (t->table == relid)
			json_put_text(before, "kept", t->kept);
	}
	json_put_bool(before, "keep", change->keep);
	json_put_nested(before, "tables", json_end(tables));
	json_put_nested(before, "foreign_keys", json_end(foreign_keys));
	change->before = json_end(before);
	return change;
}

/* The primary key that was, under the name that it was kept under: it is the
 * one to go back to */
static bool
find_kept(KeyChange *change, Jsonb *before)
{
	char	   *kept = json_text(before, "kept");
	Oid			constraint = get_relation_constraint_oid(change->relid, kept, true);
	HeapTuple	tuple;
	ListCell   *lc;

	if (!OidIsValid(constraint))
		return false;
	foreach(lc, lcons_oid(constraint, key_constraints_below(constraint)))
	{
		Form_pg_constraint form;
		ListCell   *table;

		tuple = SearchSysCache1(CONSTROID, lfirst_oid(lc));
		if (!HeapTupleIsValid(tuple))
			return false;
		form = (Form_pg_constraint) GETSTRUCT(tuple);
		foreach(table, change->tables)
		{
			TableChange *t = lfirst(table);

			if (t->table == form->conrelid)
			{
				t->kept = pstrdup(NameStr(form->conname));
				t->wanted->constraint = form->oid;
			}
		}
		ReleaseSysCache(tuple);
	}
	return true;
}

/* Of a partition that came later: like that of the others */
static KeyDef *
key_before(Jsonb *before, Oid table, List *columns)
{
	Jsonb	   *tables = json_nested(before, "tables");
	ListCell   *lc;

	foreach(lc, json_keys(tables))
	{
		KeyDef	   *key = key_parse(json_nested(tables, lfirst(lc)));

		if (key && key->table == table)
			return key;
	}
	return wanted_key(key_parse(key_read(table)), columns);
}

KeyChange *
key_change_back(const Job *job, const Job *target, Oid relid)
{
	KeyChange  *change = palloc0(sizeof(KeyChange));
	Jsonb	   *before = json_nested(job_summary(target->id), "key");
	Jsonb	   *foreign_keys;
	List	   *columns;
	ListCell   *lc;

	if (before == NULL)
		return NULL;
	foreign_keys = json_nested(before, "foreign_keys");
	change->relid = relid;
	change->back = true;
	change->keep = json_bool(before, "keep", false);
	columns = key_before(before, relid, NIL)->columns;
	foreach(lc, key_tables(relid))
	{
		KeyDef	   *now = key_parse(key_read(lfirst_oid(lc)));

		change->tables = lappend(change->tables,
								 table_change(job, now,
											  key_before(before, now->table, columns)));
	}
	change->builds = columns != NIL && !change->keep;
	if (key_same_columns(((TableChange *) linitial(change->tables))->now->columns, columns))
		return NULL;
	if (change->keep && !find_kept(change, before))
		change->builds = true;
	change->keep = change->keep && !change->builds;
	foreach(lc, json_keys(foreign_keys))
	{
		ForeignKey *wanted = fk_parse(json_nested(foreign_keys, lfirst(lc)));
		Jsonb	   *there = wanted ? fk_read(wanted->child, wanted->name) : NULL;
		ForeignKey *now = there ? fk_parse(there) : NULL;

		/* one that somebody has dropped or replaced since is none of ours */
		if (now != NULL && now->referenced == relid)
			add_foreign_key_change(job, change, now, wanted);
	}
	return change;
}

/* --- the unique constraint of a partitioned table ------------------------ */

/*
 * The partitions first, whose indexes are there; the server finds them when the
 * constraint of the root is made.  One transaction, so there is all of it or
 * nothing.
 */
static void
unique_body(JobRun *run, void *arg)
{
	KeyChange  *change = arg;
	TableChange *root = linitial(change->tables);
	ListCell   *lc;

	run_check_request(run);
	if (OidIsValid(get_relation_constraint_oid(change->relid, root->temporary, true)))
	{
		key_check_unique(run, change);
		return;
	}
	run_lock(change->relid, AccessExclusiveLock);
	run_follow_name(run);
	key_check_tables(run, change);
	foreach(lc, change->tables)
	{
		TableChange *t = lfirst(lc);

		if (!t->partitioned)
			run_statement_within(run, t->table, AccessExclusiveLock, key_unique_text(t),
								 fk_drop_text(t->temporary), true);
	}
	run_statement_within(run, root->table, AccessExclusiveLock, key_unique_text(root),
						 fk_drop_text(root->temporary), true);
}

/* --- all of it ----------------------------------------------------------- */

void
key_change_run(JobRun *run, KeyChange *change)
{
	TableChange *root = linitial(change->tables);
	ListCell   *lc;

	foreach(lc, change->builds ? change->tables : NIL)
	{
		TableChange *t = lfirst(lc);

		if (t->partitioned)
			continue;
		(void) index_build_table(run, t->table, KEY_INDEX,
								 key_index_spec(t->wanted, t->temporary));
		STOP_POINT("key-index-built");
	}
	if (change->builds && root->partitioned)
	{
		run_set_phase(run, "attaching partitions");
		run_patiently(run, unique_body, change);
		STOP_POINT("key-unique-added");
	}
	foreach(lc, change->foreign_keys)
	{
		FkChange   *f = lfirst(lc);

		run_set_phase(run, "adding foreign keys");
		fk_build(run, f->wanted, f->temporary);
	}
	foreach(lc, change->foreign_keys)
	{
		FkChange   *f = lfirst(lc);

		if (!f->wanted->valid)
			continue;
		run_set_phase(run, "validating foreign keys");
		fk_validate(run, f->wanted, f->temporary);
	}
	run_set_phase(run, "swapping keys");
	STOP_POINT("key-before-swap");
	run_patiently(run, key_swap_body, change);
	STOP_POINT("key-swapped");
}
