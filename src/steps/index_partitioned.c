/*
 * index_partitioned.c
 *		One index for all partitions of a table, at any depth, concurrently.
 *
 *	1	CREATE INDEX ON ONLY each partitioned table, from the top down: empty, and
 *		not valid as long as a partition lacks its own.  From here on a partition
 *		that is made or attached gets its index by itself.
 *	2	CREATE INDEX CONCURRENTLY on each partition that holds rows.
 *	3	ALTER INDEX ... ATTACH PARTITION, from the bottom up, so that an index is
 *		valid before it is attached: the server would lock the tables above
 *		otherwise.  With its last partition the index of a partitioned table
 *		becomes valid.
 *
 * Then the tree is looked at again, until nothing is missing: a partition may
 * have come in between a look and the index of its parent.  And one may have gone
 * after all the others were attached, in which case nothing makes the index of
 * the parent valid any more: it is dropped, with what is attached, and all is
 * done again.
 *
 * The indexes of the partitioned tables are temporary steps until all is valid.
 */
#include "postgres.h"

#include "catalog/index.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"

#include "engine/compat.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/settings.h"
#include "engine/sqltext.h"
#include "engine/stop_point.h"
#include "engine/template.h"
#include "steps/index_build.h"
#include "steps/target.h"

/* --- what is there ------------------------------------------------------ */

typedef struct Tree
{
	Oid			root;
	const char *key;
	Jsonb	   *spec;
	List	   *builds;			/* of IndexBuild *, parents before their children */
	bool		valid;			/* the index of the root */
	bool		missing;		/* a partition has none that is attached */
} Tree;

/* The index of a table that is attached to that of its parent */
static Oid
attached_index(Oid table, Oid parent_index)
{
	ListCell   *lc;

	if (!OidIsValid(parent_index))
		return InvalidOid;
	foreach(lc, find_inheritance_children(parent_index, NoLock))
		if (IndexGetRelation(lfirst_oid(lc), true) == table)
			return lfirst_oid(lc);
	return InvalidOid;
}

static IndexBuild *
find_build(const Tree *tree, Oid table)
{
	ListCell   *lc;

	foreach(lc, tree->builds)
		if (((IndexBuild *) lfirst(lc))->table == table)
			return lfirst(lc);
	return NULL;
}

/* A table whose parent is not in the list has just come or gone */
static void
add_build(JobRun *run, Tree *tree, Oid table)
{
	IndexBuild *b = palloc0(sizeof(IndexBuild));
	IndexEntry *entry = index_entry(run->job, table, tree->key);

	b->key = tree->key;
	b->spec = tree->spec;
	b->root = tree->root;
	b->table = table;
	b->partitioned = get_rel_relkind(table) == RELKIND_PARTITIONED_TABLE;
	if (table != tree->root)
	{
		b->parent = find_build(tree, get_rel_relispartition(table)
							   ? get_partition_parent(table, true) : InvalidOid);
		if (b->parent == NULL)
			return;
		b->index = attached_index(table, b->parent->index);
		b->attached = OidIsValid(b->index);
	}
	if (!b->attached && entry)
		b->index = index_candidate(table, entry);
	tree->builds = lappend(tree->builds, b);
}

static void
tree_body(JobRun *run, void *arg)
{
	Tree	   *tree = arg;
	ListCell   *lc;

	run_check_request(run);
	MemoryContextSwitchTo(run->context);
	tree->builds = NIL;
	tree->missing = false;
	foreach(lc, target_tree(tree->root))
		add_build(run, tree, lfirst_oid(lc));
	foreach(lc, tree->builds)
	{
		IndexBuild *b = lfirst(lc);

		if (b->parent && !b->attached)
			tree->missing = true;
	}
	tree->valid = OidIsValid(index_find(run->job, tree->root, tree->key));
}

/* --- building ------------------------------------------------------------ */

/* Only the table itself is locked; nobody waits for us longer than this takes */
static void
create_parent_body(JobRun *run, void *arg)
{
	IndexBuild *b = arg;

	run_check_request(run);
	lock_set_timeout(setting_lock_timeout);
	LockRelationOid(b->table, ShareLock);
	run_statement_within(run, b->table, ShareLock, b->create, b->drop, true);
	index_journal(run->job->id, b->table, b->key, b->name, b->spec,
				  get_relname_relid(b->name, get_rel_namespace(b->table)));
}

static void
create_parent(JobRun *run, IndexBuild *b)
{
	index_look(run, b);
	if (!b->gone && b->exists && !b->ours)
		index_taken(run, b);
	if (!b->gone && !b->exists)
		run_patiently(run, create_parent_body, b);
}

static void
attach_body(JobRun *run, void *arg)
{
	const IndexBuild *b = arg;
	IndexEntry *parent_entry = index_entry(run->job, b->parent->table, b->key);
	IndexEntry *entry = index_entry(run->job, b->table, b->key);
	Oid			parent = b->parent->attached ? b->parent->index : InvalidOid;
	Oid			index;

	run_check_request(run);
	if (entry == NULL || sql_relation(b->table) == NULL)
		return;
	if (parent_entry && !OidIsValid(parent))
		parent = index_candidate(b->parent->table, parent_entry);
	index = index_candidate(b->table, entry);
	if (!OidIsValid(parent) || !index_is_on(parent, b->parent->table) ||
		!OidIsValid(index) || !index_is_on(index, b->table) ||
		get_rel_relispartition(index) || !get_rel_relispartition(b->table) ||
		get_partition_parent(b->table, true) != b->parent->table ||
		OidIsValid(attached_index(b->table, parent)))
		return;
	run_statement_within(run, b->table, AccessExclusiveLock,
						 template_make("ALTER INDEX %s ATTACH PARTITION %s",
									   sql_relation(parent), sql_relation(index)),
						 NULL, false);
}

/* One look at the tree, and all that it lacks */
static void
build_tree(JobRun *run, Tree *tree)
{
	ListCell   *lc;

	STOP_POINT("index-tree-listed");
	foreach(lc, tree->builds)
	{
		IndexBuild *b = lfirst(lc);

		if (b->partitioned && !b->attached)
			create_parent(run, b);
	}
	STOP_POINT("index-parent-created");
	foreach(lc, tree->builds)
	{
		IndexBuild *b = lfirst(lc);

		if (!b->partitioned && !b->attached)
			index_build_rows(run, b);
	}
	STOP_POINT("index-leaves-built");
	run_set_phase(run, "attaching partitions");
	for (int i = list_length(tree->builds) - 1; i > 0; i--)
	{
		IndexBuild *b = list_nth(tree->builds, i);

		if (b->attached)
			continue;
		run_patiently(run, attach_body, b);
		STOP_POINT("index-attached");
	}
}

/* --- the end -------------------------------------------------------------- */

static void
list_steps_body(JobRun *run, void *arg)
{
	MemoryContextSwitchTo(run->context);
	*(List **) arg = step_list(run->job->id);
}

/* All are attached, and still that of the root is not valid */
static void
drop_root(JobRun *run, Tree *tree)
{
	IndexBuild *root = linitial(tree->builds);
	List	   *steps;
	ListCell   *lc;

	index_look(run, root);
	run_or_error(run, list_steps_body, &steps);
	foreach(lc, steps)
	{
		JobStep    *step = lfirst(lc);

		if (step->relid == root->table && step->kind == STEP_STATEMENT &&
			strcmp(step->statement, root->create) == 0)
			run_inverse(run, run->job, step);
	}
}

/* Steps of earlier looks and attempts too */
static void
keep_parents_body(JobRun *run, void *arg)
{
	Tree	   *tree = arg;
	ListCell   *lc;

	foreach(lc, tree->builds)
	{
		IndexBuild *b = lfirst(lc);
		IndexEntry *entry = index_entry(run->job, b->table, b->key);

		if (b->partitioned && entry)
			step_keep(run->job->id, b->table,
					  index_create_text(entry->spec, entry->name, true));
	}
}

static void
raise_not_valid(JobRun *run, const Tree *tree)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the index on %s is not valid", job_relation_text(run->job)),
			 errdetail("A partition may have been added or detached meanwhile."),
			 errhint("SELECT tenantmig.retry(" INT64_FORMAT ");", run->job->id)));
}

static Oid
build_partitioned(JobRun *run, Tree *tree)
{
	run_or_error(run, tree_body, tree);
	for (int round = 0; !tree->valid; round++)
	{
		if (round > setting_lock_retries)
			raise_not_valid(run, tree);
		build_tree(run, tree);
		run_or_error(run, tree_body, tree);
		if (!tree->valid && !tree->missing)
		{
			drop_root(run, tree);
			run_or_error(run, tree_body, tree);
		}
	}
	run_bookkeeping(run, keep_parents_body, tree);
	return ((IndexBuild *) linitial(tree->builds))->index;
}

static void
relkind_body(JobRun *run, void *arg)
{
	Tree	   *tree = arg;

	tree->missing = get_rel_relkind(tree->root) == RELKIND_PARTITIONED_TABLE;
}

Oid
index_build_on(JobRun *run, Oid relid, const char *key, Jsonb *spec)
{
	Tree		tree = {.root = relid,.key = key,.spec = spec};

	run_or_error(run, relkind_body, &tree);
	return tree.missing ? build_partitioned(run, &tree)
		: index_build_table(run, relid, key, spec);
}
