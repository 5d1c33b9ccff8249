/*
 * index_build.c
 *		Build the index of one table concurrently, and take it back.
 *
 * Which index is ours.  The name is journaled before the build, the OID after
 * it.  In between, what carries the name is ours only if it is on our table, it
 * is defined as ours is, and it is valid or the build had begun: somebody may
 * have run the statement for us, where no worker could.  If it is not valid,
 * an earlier attempt has left it: it is dropped, concurrently, and built
 * again, unless somebody holds the lock of a concurrent build, who may be
 * building it.  Whatever else carries the name is somebody else's: an error,
 * or another name if it was we who chose it, and never dropped.  IF NOT EXISTS
 * is never used: it takes an invalid index for a good one.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/index.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/settings.h"
#include "engine/sqltext.h"
#include "engine/stop_point.h"
#include "engine/template.h"
#include "steps/index_build.h"

/* --- the journal ------------------------------------------------------ */

/* One entry in the summary: by the table and, if it has one, the key */
static char *
entry_name(Oid table, const char *key)
{
	return key[0] ? psprintf("%u %s", table, key) : psprintf("%u", table);
}

/* The entries of a table (or of all: InvalidOid), of one key (or of all: NULL) */
List *
index_entries(const Job *job, Oid table, const char *key)
{
	OwnQuery	query;
	MemoryContext context = CurrentMemoryContext;
	List	   *found = NIL;
	uint64		count;

	query_init(&query, "SELECT e.key, e.value ->> 'name', (e.value ->> 'oid')::oid, "
			   "e.value -> 'spec', split_part(e.key, ' ', 1)::oid "
			   "FROM tenantmig.job j, jsonb_each(j.summary -> 'indexes') e "
			   "WHERE j.id = $1 AND ($2 = 0 OR split_part(e.key, ' ', 1)::oid = $2) "
			   "AND ($3 IS NULL OR e.key = concat_ws(' ', split_part(e.key, ' ', 1), NULLIF($3, '')))");
	query_int8(&query, job->id);
	query_oid(&query, table);
	query_text(&query, key);
	SPI_connect();
	count = query_run(&query);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < count; i++)
	{
		IndexEntry *entry = palloc0(sizeof(IndexEntry));
		char	   *space = strchr(query_get_text(i, 1), ' ');

		entry->table = query_get_oid(i, 5);
		entry->key = space ? pstrdup(space + 1) : "";
		entry->name = query_get_text(i, 2);
		entry->index = query_get_oid(i, 3);
		entry->spec = query_get_jsonb(i, 4);
		if (entry->spec == NULL)
			entry->spec = job->arguments;
		found = lappend(found, entry);
	}
	SPI_finish();
	return found;
}

IndexEntry *
index_entry(const Job *job, Oid table, const char *key)
{
	List	   *found = index_entries(job, table, key);

	return found == NIL ? NULL : linitial(found);
}

/* What is asked for is written where it is not the job's arguments */
void
index_journal(int64 job, Oid table, const char *key, const char *name,
			  Jsonb *spec, Oid index)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job SET summary = summary || "
			   "jsonb_build_object('indexes', COALESCE(summary -> 'indexes', '{}') || "
			   "jsonb_build_object($2::text, jsonb_build_object('name', $3, 'oid', NULLIF($4, 0)) || "
			   "CASE WHEN $5 IS NULL THEN '{}' ELSE jsonb_build_object('spec', $5) END)) "
			   "WHERE id = $1");
	query_int8(&query, job);
	query_text(&query, entry_name(table, key));
	query_text(&query, name);
	query_oid(&query, index);
	query_jsonb(&query, key[0] ? spec : NULL);
	(void) query_once(&query);
}

static void
forget_entry(int64 job, Oid table, const char *key)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.job SET summary = summary #- ARRAY['indexes', $2] "
			   "WHERE id = $1");
	query_int8(&query, job);
	query_text(&query, entry_name(table, key));
	(void) query_once(&query);
}

/* --- what is there ---------------------------------------------------- */

Oid
index_candidate(Oid table, const IndexEntry *entry)
{
	return OidIsValid(entry->index) && index_is_on(entry->index, table)
		? entry->index : get_relname_relid(entry->name, get_rel_namespace(table));
}

static void
find_index(const Job *job, IndexBuild *b, const IndexEntry *entry)
{
	const char *state;

	b->index = index_candidate(b->table, entry);
	b->exists = OidIsValid(b->index);
	b->valid = b->exists && index_is_on(b->index, b->table) && get_index_isvalid(b->index);
	state = step_state(job->id, b->table, b->create);
	b->ours = b->exists && index_is_on(b->index, b->table) &&
		(b->index == entry->index ||
		 ((b->valid || (state && (strcmp(state, "running") == 0 ||
								  strcmp(state, "done") == 0))) &&
		  index_matches(b->index, b->table, b->spec)));
}

static void
write_texts(IndexBuild *b)
{
	b->qualified = index_qualified_name(b->table, b->name);
	b->create = index_create_text(b->spec, b->name, b->partitioned);
	b->drop = index_drop_text(b->name, !b->partitioned);
}

/* Whether the name may not be another one */
static bool
name_is_wanted(const IndexBuild *b)
{
	return b->table == b->root && json_text(b->spec, "name") != NULL;
}

/* Dropped, or detached from the table whose index it was to be attached to */
static bool
is_gone(const IndexBuild *b)
{
	return sql_relation(b->table) == NULL ||
		(b->parent && (!get_rel_relispartition(b->table) ||
					   get_partition_parent(b->table, true) != b->parent->table));
}

/* The first time, the name must be free */
static void
look_body(JobRun *run, void *arg)
{
	IndexBuild *b = arg;
	IndexEntry *entry;

	run_check_request(run);
	MemoryContextSwitchTo(run->context);
	b->exists = b->valid = b->ours = false;
	b->gone = is_gone(b);
	if (b->gone)
		return;
	entry = index_entry(run->job, b->table, b->key);
	if (entry == NULL)
	{
		entry = palloc0(sizeof(IndexEntry));
		entry->name = index_name_for(b->spec, b->root, b->table);
		index_check_name_is_free(b->table, entry->name);
		index_journal(run->job->id, b->table, b->key, entry->name, b->spec,
					  InvalidOid);
	}
	b->name = entry->name;
	write_texts(b);
	find_index(run->job, b, entry);
}

void
index_look(JobRun *run, IndexBuild *b)
{
	run_or_error(run, look_body, b);
}

static void
taken_body(JobRun *run, void *arg)
{
	IndexBuild *b = arg;

	if (name_is_wanted(b))
		index_check_name_is_free(b->table, b->name);
	else
		forget_entry(run->job->id, b->table, b->key);
}

void
index_taken(JobRun *run, IndexBuild *b)
{
	run_or_error(run, taken_body, b);
	index_look(run, b);
}

/*
 * What an interrupted build has left is dropped only while nobody builds: a
 * concurrent build holds this lock, over all its transactions.
 */
static void
nobody_builds_body(JobRun *run, void *arg)
{
	run_lock(((IndexBuild *) arg)->table, ShareUpdateExclusiveLock);
}

static void
completed_body(JobRun *run, void *arg)
{
	IndexBuild *b = arg;

	index_journal(run->job->id, b->table, b->key, b->name, b->spec, b->index);
}

/* --- building --------------------------------------------------------- */

/* The name was taken after it had been journaled: nothing of ours was made */
static void
forget_build_body(JobRun *run, void *arg)
{
	IndexBuild *b = arg;

	(void) step_write(run->job->id, STEP_TOPLEVEL, b->table, "undone",
					  b->create, NULL, false, NoLock);
	if (!name_is_wanted(b))
		forget_entry(run->job->id, b->table, b->key);
}

static void
create_work(JobRun *run, void *arg)
{
	IndexBuild *b = arg;

	run_toplevel(run, b->table, b->create, b->drop);
}

static void
build_work(JobRun *run, void *arg)
{
	IndexBuild *b = arg;
	ErrorData  *error;

	index_look(run, b);
	if (!b->gone && b->exists && !b->ours)
		index_taken(run, b);
	if (b->gone)
		return;
	if (b->exists && !b->valid)
	{
		run_set_phase(run, "dropping what an interrupted build left");
		run_or_error(run, nobody_builds_body, b);
		run_toplevel(run, b->table, b->drop, NULL);
		index_look(run, b);
	}
	if (!b->exists)
	{
		run_set_phase(run, "building index");
		error = run_catch(run, create_work, b);
		if (error && error->sqlerrcode == ERRCODE_DUPLICATE_TABLE)
			run_bookkeeping(run, forget_build_body, b);
		if (error)
			ReThrowError(error);
		STOP_POINT("index-built");
		index_look(run, b);
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

/* Whether another attempt may do better: a build that met a deadlock or the like
 * is dropped and done again, and under another name if that was taken */
static bool
worth_another(const IndexBuild *b, const ErrorData *error)
{
	return run_is_transient(error) ||
		(error->sqlerrcode == ERRCODE_DUPLICATE_TABLE && !name_is_wanted(b));
}

void
index_build_rows(JobRun *run, IndexBuild *b)
{
	for (int attempt = 0;; attempt++)
	{
		ErrorData  *error = run_catch(run, build_work, b);

		if (error == NULL)
			return;
		if (!worth_another(b, error) || attempt >= setting_lock_retries)
			ReThrowError(error);
		run_rest(run, lock_backoff(attempt), error->message);
	}
}

/* The step of an earlier attempt that built something else under this key */
static void
other_body(JobRun *run, void *arg)
{
	IndexBuild *b = arg;
	IndexEntry *entry = index_entry(run->job, b->table, b->key);
	char	   *create;
	ListCell   *lc;

	if (entry == NULL || strcmp(index_definition(entry->spec), index_definition(b->spec)) == 0)
		return;
	create = index_create_text(entry->spec, entry->name, b->partitioned);
	MemoryContextSwitchTo(run->context);
	b->other_entry = true;
	foreach(lc, step_list(run->job->id))
	{
		JobStep    *step = lfirst(lc);

		if (step->relid == b->table && strcmp(step->state, "undone") != 0 &&
			strcmp(step->statement, create) == 0)
			b->other = step;
	}
}

static void
forget_body(JobRun *run, void *arg)
{
	IndexBuild *b = arg;

	forget_entry(run->job->id, b->table, b->key);
}

/* What is asked for may be another index than at an earlier attempt */
static void
drop_other(JobRun *run, IndexBuild *b)
{
	b->other = NULL;
	b->other_entry = false;
	run_or_error(run, other_body, b);
	if (b->other)
		run_inverse(run, run->job, b->other);
	if (b->other_entry)
		run_bookkeeping(run, forget_body, b);
}

Oid
index_build_table(JobRun *run, Oid table, const char *key, Jsonb *spec)
{
	IndexBuild *b = MemoryContextAllocZero(run->context, sizeof(IndexBuild));

	b->key = key;
	b->spec = spec;
	b->root = b->table = table;
	drop_other(run, b);
	index_build_rows(run, b);
	return b->gone ? InvalidOid : b->index;
}

/* --- afterwards --------------------------------------------------------- */

/* That of a partitioned table is valid only if those of all partitions are */
Oid
index_of_entry(Oid table, const IndexEntry *entry)
{
	Oid			index = index_candidate(table, entry);

	return OidIsValid(index) && index_is_on(index, table) &&
		index_matches(index, table, entry->spec) && get_index_isvalid(index)
		? index : InvalidOid;
}

Oid
index_find(const Job *job, Oid table, const char *key)
{
	IndexEntry *entry = index_entry(job, table, key);

	return entry ? index_of_entry(table, entry) : InvalidOid;
}

void
index_hand_over_entry(const Job *job, Oid table, const IndexEntry *entry)
{
	step_forget_inverse(job->id, table,
						index_create_text(entry->spec, entry->name,
										  get_rel_relkind(table) == RELKIND_PARTITIONED_TABLE));
}

void
index_hand_over(const Job *job, Oid table, const char *key)
{
	IndexEntry *entry = index_entry(job, table, key);

	if (entry)
		index_hand_over_entry(job, table, entry);
}

/* The entry of the index that a step makes, or NULL */
static IndexEntry *
entry_of_step(const Job *target, const JobStep *step)
{
	ListCell   *lc;

	foreach(lc, index_entries(target, step->relid, NULL))
	{
		IndexEntry *entry = lfirst(lc);

		if (strcmp(step->statement,
				   index_create_text(entry->spec, entry->name,
									 step->kind == STEP_STATEMENT)) == 0)
			return entry;
	}
	return NULL;
}

/*
 * Drop the index of one step: by its OID if it was completed, else only what
 * is recognised as ours.  Anything else of that name stays.  Elsewhere than at
 * home its OID means nothing, and what was journaled is found under the one
 * that its table had there.  One that is attached goes with that of the parent,
 * unless its table has been detached.
 */
char *
index_find_inverse(const Job *target, const JobStep *step, Oid table)
{
	IndexEntry *entry = entry_of_step(target, step);
	Oid			completed;
	Oid			index;

	if (entry == NULL)
		return strncmp(step->statement, "CREATE ", 7) == 0 || step->kind == STEP_TOPLEVEL
			? NULL : template_render(step->inverse, table);
	if (!target->at_home)
		entry->index = InvalidOid;
	completed = entry->index;
	/* of a step that is done no other can be ours */
	index = OidIsValid(completed) && strcmp(step->state, "done") == 0
		? completed : index_candidate(table, entry);
	if (!OidIsValid(index) || !index_is_on(index, table) ||
		get_rel_relispartition(index) ||
		(index != completed && !index_matches(index, table, entry->spec)))
		return NULL;
	if (step->kind == STEP_TOPLEVEL && !get_index_isvalid(index))
		run_lock(table, ShareUpdateExclusiveLock);	/* nobody builds it */
	return psprintf("DROP INDEX %s%s",
					step->kind == STEP_TOPLEVEL ? "CONCURRENTLY " : "",
					sql_relation(index));
}
