/*
 * unique_swap.c
 *		Put a unique constraint or index in the place of another one, online.
 *
 *	1	a unique index, concurrently, on the table, or on each partition that
 *		holds rows
 *	2	the swap, one transaction under ACCESS EXCLUSIVE on the table and its
 *		partitions, which changes catalogs only: the old one is dropped, the new
 *		index becomes the constraint of that name, or gets the name; on a
 *		partitioned table they are attached to one made for it; comments,
 *		statistics targets, CLUSTER and REPLICA IDENTITY follow
 *
 * So one of the two is there and valid at every instant.  In the swap, under the
 * lock, it is looked whether the definitions, and the partitions, are still those
 * that were built for; if not, nothing is changed and the build is gone on with.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "engine/compat.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/settings.h"
#include "engine/sqltext.h"
#include "engine/stop_point.h"
#include "engine/template.h"
#include "steps/index_build.h"
#include "steps/plan_lock.h"
#include "steps/unique_key.h"

/* The index of a table within the job; one job swaps one constraint */
#define KEY "unique"

/* --- texts, as templates for the table -------------------------------------- */

static const char *
quoted_name(Jsonb *key)
{
	return quote_identifier(json_text(key, "called"));
}

static bool
is_constraint(Jsonb *key)
{
	return json_text(key, "constraint") != NULL;
}

static char *
drop_text(const UniqueChange *c)
{
	return is_constraint(c->now)
		? template_make("ALTER TABLE %R DROP CONSTRAINT %s", quoted_name(c->now))
		: template_make("DROP INDEX %S.%s", quoted_name(c->now));
}

/* Of a partitioned table: made for it, without rows, and valid when all are
 * attached.  Else what was built becomes it. */
static char *
install_text(const UniqueChange *c)
{
	const char *name = quoted_name(c->wanted);

	if (c->partitioned)
		return is_constraint(c->wanted)
			? template_make("ALTER TABLE ONLY %R ADD CONSTRAINT %s %s", name,
							json_text(c->wanted, "constraint"))
			: index_create_text(c->wanted, json_text(c->wanted, "called"), true);
	if (!is_constraint(c->wanted))
		return template_make("ALTER INDEX %S.%s RENAME TO %s",
							 quote_identifier(c->built), name);
	return template_make("ALTER TABLE %R ADD CONSTRAINT %s UNIQUE USING INDEX %s%s%s",
						 name, quote_identifier(c->built),
						 json_bool(c->wanted, "deferrable", false) ? " DEFERRABLE" : "",
						 json_bool(c->wanted, "deferred", false) ? " INITIALLY DEFERRED" : "");
}

static char *
attach_text(const UniqueChange *c)
{
	return template_make("ALTER INDEX %s ATTACH PARTITION %S.%s",
						 index_qualified_name(c->parent->table,
											  json_text(c->parent->wanted, "called")),
						 quoted_name(c->wanted));
}

/* What else there is to say of it */
static List *
detail_texts(const UniqueChange *c)
{
	Jsonb	   *key = c->wanted;
	const char *name = quoted_name(key);
	List	   *texts = NIL;
	ListCell   *lc;

	if (json_text(key, "comment"))
		texts = lappend(texts, template_make("COMMENT ON CONSTRAINT %s ON %R IS %s", name,
											 sql_literal(json_text(key, "comment"))));
	if (json_text(key, "index_comment"))
		texts = lappend(texts, template_make("COMMENT ON INDEX %S.%s IS %s", name,
											 sql_literal(json_text(key, "index_comment"))));
	foreach(lc, json_list(key, "statistics"))
	{
		int			number;
		int			target;

		if (sscanf(lfirst(lc), "%d %d", &number, &target) == 2)
			texts = lappend(texts, template_make("ALTER INDEX %S.%s ALTER COLUMN %s SET STATISTICS %s",
												 name, psprintf("%d", number), psprintf("%d", target)));
	}
	foreach(lc, json_list(key, "extensions"))
		texts = lappend(texts, template_make("ALTER INDEX %S.%s DEPENDS ON EXTENSION %s", name,
											 quote_identifier(lfirst(lc))));
	if (json_bool(key, "clustered", false))
		texts = lappend(texts, template_make("ALTER TABLE %R CLUSTER ON %s", name));
	if (json_bool(key, "identity", false))
		texts = lappend(texts, template_make("ALTER TABLE %R REPLICA IDENTITY USING INDEX %s", name));
	return texts;
}

char *
unique_inverse_text(const UniqueChange *c)
{
	const char *name = quoted_name(c->now);

	return is_constraint(c->now)
		? template_make("ALTER TABLE %R DROP CONSTRAINT %s, ADD CONSTRAINT %s %s", name, name,
						json_text(c->now, "constraint"))
		: template_make("DROP INDEX %S.%s; CREATE UNIQUE INDEX %s ON %R %s", name, name,
						json_text(c->now, "definition"));
}

/* --- the swap ---------------------------------------------------------------- */

typedef struct Swap
{
	UniqueSwap *swap;
	List	   *changes;
	bool		again;			/* something is not as it was built for */
} Swap;

static void
find_body(JobRun *run, void *arg)
{
	Swap	   *s = arg;

	run_check_request(run);
	MemoryContextSwitchTo(run->context);
	s->changes = s->swap->find(run, s->swap->arg);
}

/* Under the lock: the index that was built for what is wanted now, or false */
static bool
find_built(List *entries, UniqueChange *c)
{
	ListCell   *lc;

	if (c->partitioned)
		return true;
	foreach(lc, entries)
	{
		IndexEntry *entry = lfirst(lc);
		Oid			index;

		if (entry->table != c->table ||
			strcmp(index_definition(entry->spec), index_definition(c->wanted)) != 0)
			continue;
		index = index_of_entry(c->table, entry);
		c->built = OidIsValid(index) ? get_rel_name(index) : NULL;
		c->entry = entry;
		return c->built != NULL;
	}
	return false;
}

static void
step(JobRun *run, const UniqueChange *c, const char *statement, const char *inverse)
{
	run_statement_within(run, c->table, AccessExclusiveLock, statement, inverse, false);
}

static void
install(JobRun *run, List *changes)
{
	ListCell   *lc;

	foreach(lc, changes)
	{
		UniqueChange *c = lfirst(lc);

		step(run, c, install_text(c), NULL);
		if (c->entry)
			index_hand_over_entry(run->job, c->table, c->entry);
	}
	for (int i = list_length(changes) - 1; i > 0; i--)
		step(run, list_nth(changes, i), attach_text(list_nth(changes, i)), NULL);
	foreach(lc, changes)
	{
		UniqueChange *c = lfirst(lc);
		ListCell   *text;

		foreach(text, detail_texts(c))
			step(run, c, lfirst(text), NULL);
	}
}

/*
 * The table first and its indexes after it, as everybody locks them; no wait is
 * longer than lock_timeout, and in a deadlock it is this transaction that ends.
 */
static void
swap_body(JobRun *run, void *arg)
{
	Swap	   *s = arg;
	UniqueChange *root;
	List	   *entries;
	ListCell   *lc;

	run_check_request(run);
	run_lock(run->relid, AccessExclusiveLock);
	run_follow_name(run);
	s->again = false;
	s->changes = s->swap->find(run, s->swap->arg);
	entries = index_entries(run->job, InvalidOid, KEY);
	foreach(lc, s->changes)
		if (!find_built(entries, lfirst(lc)))
			s->again = true;
	if (s->again || s->changes == NIL)
		return;
	root = linitial(s->changes);
	step(run, root, drop_text(root), s->swap->undoable ? unique_inverse_text(root) : NULL);
	install(run, s->changes);
	s->swap->done(run, s->changes, s->swap->arg);
	STOP_POINT("unique-swapping");
}

static void
build_all(JobRun *run, Swap *s)
{
	ListCell   *lc;

	run_or_error(run, find_body, s);
	foreach(lc, s->changes)
	{
		UniqueChange *c = lfirst(lc);

		if (!c->partitioned)
			(void) index_build_table(run, c->table, KEY, c->wanted);
	}
}

/*
 * The names in definitions are qualified but for the server's own, so those must
 * come first whatever the caller's path; functions of an index may need the rest.
 */
static void
server_names_first(JobRun *run)
{
	const char *path = run->job->search_path;

	run->job->search_path = MemoryContextStrdup(run->context,
												psprintf("pg_catalog%s%s", path[0] ? ", " : "", path));
}

void
unique_swap(JobRun *run, UniqueSwap *swap)
{
	Swap		s = {.swap = swap};

	server_names_first(run);
	for (int round = 0;; round++)
	{
		build_all(run, &s);
		if (s.changes == NIL)
			return;
		STOP_POINT("unique-built");
		run_set_phase(run, "swapping");
		run_patiently(run, swap_body, &s);
		STOP_POINT("unique-swapped");
		if (!s.again)
			return;
		if (round >= setting_lock_retries)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("definitions or partitions of %s change faster than indexes are built",
							job_relation_text(run->job)),
					 errhint("SELECT tenantmig.retry(" INT64_FORMAT ");", run->job->id)));
	}
}

/* --- the plan ------------------------------------------------------------------ */

static void
plan_step(const Job *job, const UniqueChange *c, const char *statement, const char *inverse)
{
	(void) step_write(job->id, STEP_STATEMENT, c->table, "planned", statement, inverse,
					  false, AccessExclusiveLock);
}

void
unique_plan(const Job *job, List *changes, JsonObject *plan, List *warnings)
{
	IndexEstimate estimate = {.rows = 0};
	UniqueChange *root = linitial(changes);
	ListCell   *lc;

	foreach(lc, changes)
	{
		UniqueChange *c = lfirst(lc);

		if (!c->partitioned)
			c->built = index_plan_table(job, InvalidOid, c->table, c->wanted, &estimate);
	}
	plan_step(job, root, drop_text(root), unique_inverse_text(root));
	foreach(lc, changes)
		plan_step(job, lfirst(lc), install_text(lfirst(lc)), NULL);
	for (int i = list_length(changes) - 1; i > 0; i--)
		plan_step(job, list_nth(changes, i), attach_text(list_nth(changes, i)), NULL);
	foreach(lc, changes)
	{
		UniqueChange *c = lfirst(lc);
		ListCell   *text;

		foreach(text, detail_texts(c))
			plan_step(job, c, lfirst(text), NULL);
		estimate.locks = lappend(estimate.locks,
								 plan_lock(c->table, AccessExclusiveLock,
										   "for the swap, some milliseconds"));
	}
	index_put_estimate(plan, &estimate);
	json_put_list(plan, "locks", estimate.locks);
	json_put_list(plan, "warnings", warnings);
}
