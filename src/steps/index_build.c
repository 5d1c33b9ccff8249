/*
 * index_build.c
 *		create_index at work: build, attach, verify, and take back.
 *
 * Which index is ours.  The name is journaled before the build, the OID after
 * it.  In between, what carries the name is ours only if it is on our table, it
 * is defined as ours is, and it is valid or the build had begun: somebody may
 * have run the statement for us, where no worker could.  If it is not valid,
 * an earlier attempt has left it: it is dropped, concurrently, and built
 * again, unless somebody holds the lock of a concurrent build, who may be
 * building it.  Whatever else carries the name is somebody else's: an error,
 * and never dropped.  IF NOT EXISTS is never used: it takes an invalid index
 * for a good one.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/index.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/settings.h"
#include "engine/sqltext.h"
#include "engine/stop_point.h"
#include "engine/template.h"
#include "steps/index.h"
#include "steps/target.h"

/* --- the journal ------------------------------------------------------ */

/* The name that the index of a table was journaled under, or NULL; and its OID
 * if it was completed, or, on a partitioned table, made */
static char *
journaled(int64 job, Oid table, Oid *index)
{
	OwnQuery	query;
	MemoryContext context = CurrentMemoryContext;
	char	   *name = NULL;

	*index = InvalidOid;
	query_init(&query, "SELECT summary -> 'indexes' -> $2::text ->> 'name', "
			   "(summary -> 'indexes' -> $2::text ->> 'oid')::oid "
			   "FROM tenantmig.job WHERE id = $1");
	query_int8(&query, job);
	query_oid(&query, table);
	SPI_connect();
	if (query_run(&query) > 0)
	{
		MemoryContextSwitchTo(context);
		name = query_get_text(0, 1);
		*index = query_get_oid(0, 2);
	}
	SPI_finish();
	return name;
}

void
index_journal(int64 job, Oid table, const char *name, Oid index)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job SET summary = summary || "
			   "jsonb_build_object('indexes', COALESCE(summary -> 'indexes', '{}') || "
			   "jsonb_build_object($2::text, jsonb_build_object('name', $3, 'oid', NULLIF($4, 0)))) "
			   "WHERE id = $1");
	query_int8(&query, job);
	query_oid(&query, table);
	query_text(&query, name);
	query_oid(&query, index);
	(void) query_once(&query);
}

/* --- what is there ---------------------------------------------------- */

/* One table of the tree: the one of the call, or a partition at any depth */
typedef struct Build
{
	Oid			table;
	Oid			parent;			/* InvalidOid: the table of the call */
	bool		partitioned;
	bool		gone;			/* dropped meanwhile */
	char	   *name;
	char	   *qualified;
	char	   *create;			/* templates for the table */
	char	   *drop;
	Oid			index;			/* what carries the name, or was completed */
	bool		exists;
	bool		ours;
	bool		valid;
} Build;

static bool
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

/* Whether an index is defined as the call says: method, uniqueness, columns in
 * their order, expressions where there are to be some, a predicate or none */
static bool
same_definition(Oid index, Oid table, Jsonb *arguments)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	List	   *names = json_list(arguments, "names");
	List	   *include = json_list(arguments, "include");
	Form_pg_index form;
	bool		same;
	ListCell   *lc;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_index) GETSTRUCT(tuple);
	same = form->indrelid == table &&
		form->indisunique == json_bool(arguments, "is_unique", false) &&
		form->indnkeyatts == list_length(names) &&
		form->indnatts == list_length(names) + list_length(include) &&
		heap_attisnull(tuple, Anum_pg_index_indpred, NULL) ==
		(json_text(arguments, "predicate") == NULL) &&
		index_method(index) == get_index_am_oid(json_text(arguments, "method"), true);
	foreach(lc, same ? list_concat(names, include) : NIL)
	{
		AttrNumber	attnum = form->indkey.values[foreach_current_index(lc)];

		if (attnum != 0 && attnum != get_attnum(table, lfirst(lc)))
			same = false;
	}
	ReleaseSysCache(tuple);
	return same;
}

/* What the journal, or else the name, says is the index of a table */
static Oid
candidate(Oid table, const char *name, Oid completed)
{
	return OidIsValid(completed) && index_is_on(completed, table) ? completed
		: get_relname_relid(name, get_rel_namespace(table));
}

static void
find_index(const Job *job, Build *b)
{
	const char *state;
	Oid			completed;

	(void) journaled(job->id, b->table, &completed);
	b->index = candidate(b->table, b->name, completed);
	b->exists = OidIsValid(b->index);
	b->valid = b->exists && index_is_on(b->index, b->table) && get_index_isvalid(b->index);
	state = step_state(job->id, b->table, b->create);
	b->ours = b->exists && index_is_on(b->index, b->table) &&
		(b->index == completed ||
		 ((b->valid || (state && (strcmp(state, "running") == 0 ||
								  strcmp(state, "done") == 0))) &&
		  same_definition(b->index, b->table, job->arguments)));
}

static void
write_texts(const Job *job, Build *b)
{
	b->qualified = index_qualified_name(b->table, b->name);
	b->create = index_create_text(job->arguments, b->name, b->partitioned);
	b->drop = index_drop_text(b->name, !b->partitioned);
}

/*
 * Settle the name of the index of one table and look at what is there.  The
 * first time, the name must be free.
 */
static void
look_body(JobRun *run, void *arg)
{
	Build	   *b = arg;
	Oid			completed;

	run_check_request(run);
	MemoryContextSwitchTo(run->context);
	b->exists = b->valid = b->ours = false;
	b->gone = sql_relation(b->table) == NULL;
	if (b->gone)
		return;
	b->name = journaled(run->job->id, b->table, &completed);
	if (b->name == NULL)
	{
		b->name = index_name_for(run->job, run->relid, b->table);
		index_check_name_is_free(b->table, b->name);
		index_journal(run->job->id, b->table, b->name, InvalidOid);
	}
	write_texts(run->job, b);
	find_index(run->job, b);
}

static void
look(JobRun *run, Build *b)
{
	run_or_error(run, look_body, b);
}

/* Raises: the name is taken by something that is not ours */
static void
taken_body(JobRun *run, void *arg)
{
	Build	   *b = arg;

	index_check_name_is_free(b->table, b->name);
}

/*
 * What an interrupted build has left is dropped only while nobody builds: a
 * concurrent build holds this lock, over all its transactions.
 */
static void
nobody_builds_body(JobRun *run, void *arg)
{
	run_lock(((Build *) arg)->table, ShareUpdateExclusiveLock);
}

static void
completed_body(JobRun *run, void *arg)
{
	Build	   *b = arg;

	index_journal(run->job->id, b->table, b->name, b->index);
}

/* --- building --------------------------------------------------------- */

/* The name was taken after it had been journaled: nothing of ours was made */
static void
forget_build_body(JobRun *run, void *arg)
{
	Build	   *b = arg;

	(void) step_write(run->job->id, STEP_TOPLEVEL, b->table, "undone",
					  b->create, NULL, false, NoLock);
}

static void
create_leaf(JobRun *run, void *arg)
{
	Build	   *b = arg;

	run_toplevel(run, b->table, b->create, b->drop);
}

/* Build the index of one table that holds rows, whatever an earlier attempt left */
static void
build_leaf(JobRun *run, void *arg)
{
	Build	   *b = arg;
	ErrorData  *error;

	look(run, b);
	if (b->gone)
		return;
	if (b->exists && !b->ours)
		run_or_error(run, taken_body, b);
	if (b->exists && !b->valid)
	{
		run_set_phase(run, "dropping what an interrupted build left");
		run_or_error(run, nobody_builds_body, b);
		run_toplevel(run, b->table, b->drop, NULL);
		look(run, b);
	}
	if (!b->exists)
	{
		run_set_phase(run, "building index");
		error = run_catch(run, create_leaf, b);
		if (error && error->sqlerrcode == ERRCODE_DUPLICATE_TABLE)
			run_bookkeeping(run, forget_build_body, b);
		if (error)
			ReThrowError(error);
		STOP_POINT("index-built");
		look(run, b);
	}
	if (!b->valid || !b->ours)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("index %s is not valid after its build",
						b->qualified),
				 errhint("SELECT tenantmig.retry(" INT64_FORMAT "); drops it and builds it again.",
						 run->job->id)));
	run_bookkeeping(run, completed_body, b);
	run_toplevel_done(run, b->table, b->create);
}

/* A build that met a deadlock or the like is dropped and done again */
static void
build_leaf_patiently(JobRun *run, Build *b)
{
	for (int attempt = 0;; attempt++)
	{
		ErrorData  *error = run_catch(run, build_leaf, b);

		if (error == NULL)
			return;
		if (!run_is_transient(error) || attempt >= setting_lock_retries)
			ReThrowError(error);
		run_rest(run, lock_backoff(attempt), error->message);
	}
}

/*
 * The index of a partitioned table: empty, and invalid until all partitions
 * are attached, so a temporary step until then.  Undoing it takes those of the
 * partitions along.  Only the table itself is locked.
 */
static void
create_parent_body(JobRun *run, void *arg)
{
	Build	   *b = arg;

	run_check_request(run);
	lock_set_timeout(setting_lock_timeout);
	LockRelationOid(b->table, ShareLock);
	run_statement_within(run, b->table, ShareLock, b->create, b->drop, true);
	index_journal(run->job->id, b->table, b->name,
				  get_relname_relid(b->name, get_rel_namespace(b->table)));
}

static void
create_parent(JobRun *run, Build *b)
{
	look(run, b);
	if (b->gone)
		return;
	if (b->exists && !b->ours)
		run_or_error(run, taken_body, b);
	if (!b->exists)
		run_patiently(run, create_parent_body, b);
}

/*
 * With the attachment, the index of the partition belongs to that of the
 * parent, whose inverse drops both; its own inverse could not be run any more.
 */
static void
attach_body(JobRun *run, void *arg)
{
	const Build *b = arg;
	Oid			parent;
	Oid			index;
	char	   *parent_name = journaled(run->job->id, b->parent, &parent);
	char	   *name = journaled(run->job->id, b->table, &index);

	run_check_request(run);
	if (parent_name == NULL || name == NULL || sql_relation(b->table) == NULL ||
		sql_relation(b->parent) == NULL)
		return;
	parent = candidate(b->parent, parent_name, parent);
	index = candidate(b->table, name, index);
	if (!OidIsValid(parent) || !OidIsValid(index) || get_rel_relispartition(index))
		return;
	run_statement_within(run, b->table, ShareUpdateExclusiveLock,
						 template_make("ALTER INDEX %s ATTACH PARTITION %s",
									   sql_relation(parent), sql_relation(index)),
						 NULL, false);
	step_forget_inverse(run->job->id, b->table, b->create);
}

/* All are valid: the indexes of the partitioned tables stay */
static void
keep_parents_body(JobRun *run, void *arg)
{
	ListCell   *lc;

	foreach(lc, (List *) arg)
	{
		Build	   *b = lfirst(lc);

		if (b->partitioned && b->create)
			step_keep(run->job->id, b->table, b->create);
	}
}

/* All tables of the tree, parents before their children */
static void
tree_body(JobRun *run, void *arg)
{
	List	  **builds = arg;
	ListCell   *lc;

	MemoryContextSwitchTo(run->context);
	foreach(lc, get_rel_relkind(run->relid) == RELKIND_PARTITIONED_TABLE
			? target_tree(run->relid) : list_make1_oid(run->relid))
	{
		Build	   *b = palloc0(sizeof(Build));

		b->table = lfirst_oid(lc);
		b->partitioned = get_rel_relkind(b->table) == RELKIND_PARTITIONED_TABLE;
		if (b->table != run->relid)
			b->parent = get_partition_parent(b->table, true);
		*builds = lappend(*builds, b);
	}
}

static void
verify_body(JobRun *run, void *arg)
{
	if (!index_holds(run->job, run->relid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the index on %s is not valid", job_relation_text(run->job)),
				 errdetail("A partition may have been added or detached meanwhile."),
				 errhint("SELECT tenantmig.retry(" INT64_FORMAT ");", run->job->id)));
}

/* Partitions that are made meanwhile get their index from the parent's */
void
index_run(JobRun *run)
{
	List	   *builds = NIL;
	ListCell   *lc;

	run_or_error(run, tree_body, &builds);
	foreach(lc, builds)
		if (((Build *) lfirst(lc))->partitioned)
			create_parent(run, lfirst(lc));
	STOP_POINT("index-parent-created");
	foreach(lc, builds)
		if (!((Build *) lfirst(lc))->partitioned)
			build_leaf_patiently(run, lfirst(lc));
	run_set_phase(run, "attaching partitions");
	for (int i = list_length(builds) - 1; i > 0; i--)
		run_patiently(run, attach_body, list_nth(builds, i));
	run_or_error(run, verify_body, NULL);
	run_bookkeeping(run, keep_parents_body, builds);
}

/* --- holds and undo --------------------------------------------------- */

/*
 * The index of the table of the call is there, as it was defined, and valid;
 * that of a partitioned table is so only if those of all partitions are.
 */
bool
index_holds(const Job *job, Oid relid)
{
	Oid			index;
	char	   *name = journaled(job->id, relid, &index);

	if (name == NULL)
		return false;
	index = candidate(relid, name, index);
	return OidIsValid(index) && index_is_on(index, relid) &&
		same_definition(index, relid, job->arguments) && get_index_isvalid(index);
}

/*
 * Drop the index of one step: by its OID if it was completed, else only what
 * is recognised as ours.  Anything else of that name stays.  Elsewhere than at
 * home its OID means nothing, and what was journaled is found under the one
 * that its table had there.
 */
char *
index_find_inverse(const Job *target, const JobStep *step, Oid table)
{
	Oid			completed;
	char	   *name = journaled(target->id, step->relid, &completed);
	Oid			index;

	if (name == NULL)
		return NULL;
	if (!target->at_home)
		completed = InvalidOid;
	/* of a step that is done no other can be ours */
	index = OidIsValid(completed) && strcmp(step->state, "done") == 0
		? completed : candidate(table, name, completed);
	if (!OidIsValid(index) || !index_is_on(index, table) ||
		(index != completed && !same_definition(index, table, target->arguments)))
		return NULL;
	if (step->kind == STEP_TOPLEVEL && !get_index_isvalid(index))
		run_lock(table, ShareUpdateExclusiveLock);	/* nobody builds it */
	return psprintf("DROP INDEX %s%s",
					step->kind == STEP_TOPLEVEL ? "CONCURRENTLY " : "",
					sql_relation(index));
}
