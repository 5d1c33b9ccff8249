/*
 * prove_plan.c
 *		What the policies cost, and whether an index serves them.
 *
 * The role counts its tenant's rows, and the owner of the table counts the
 * same rows past the policies; both are measured.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "access/relation.h"

#include "checks/prove.h"
#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/query.h"
#include "engine/sqltext.h"

/* A table that is read in no time, whatever the plan */
#define SMALL_BLOCKS	64

typedef struct Explained
{
	ProveRelation *relation;
	bool		measure;
	char	   *index;			/* that leads with the tenant column, or NULL */
	char	   *ms;
} Explained;

/* Explain, as whoever it is by now, and look at what comes out */
static void
explain(Proof *proof, Explained *plan, const char *condition)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(proof->tenants[0])};
	char	   *sql;
	char	   *json;
	OwnQuery	query;

	sql = psprintf("EXPLAIN (%sFORMAT JSON) SELECT pg_catalog.count(*) FROM %s t%s",
				   plan->measure ? "ANALYZE, TIMING OFF, " : "",
				   plan->relation->name, condition);
	SPI_connect();
	if (SPI_execute_with_args(sql, 1, types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not run: %s", sql);
	json = query_get_text(0, 1);

	query_init(&query,
			   "SELECT p.plan -> 0 ->> 'Execution Time', "
			   "(SELECT min(n.node ->> 'Index Name') "
			   " FROM jsonb_path_query(p.plan, '$.** ? (exists (@.\"Index Cond\"))') AS n (node) "
			   " JOIN pg_class c ON c.relname = n.node ->> 'Index Name' "
			   " JOIN pg_index i ON i.indexrelid = c.oid "
			   " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] "
			   " WHERE a.attname = $2 AND n.node ->> 'Index Cond' LIKE '% = %') "
			   "FROM (SELECT $1::jsonb) AS p (plan)");
	query_text(&query, json);
	query_name(&query, proof->column);
	query_run(&query);
	{
		MemoryContext old = MemoryContextSwitchTo(proof->context);

		plan->ms = query_get_text(0, 1);
		plan->index = query_get_text(0, 2);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
}

static void
try_with_policy(Proof *proof, void *arg, ProveOutcome *outcome)
{
	explain(proof, arg, "");
}

/* Could an index serve, if the table were larger? */
static void
try_without_scan(Proof *proof, void *arg, ProveOutcome *outcome)
{
	(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	explain(proof, arg, "");
}

static void
explain_past_policy(Proof *proof, Explained *plan)
{
	Identity	saved;

	identity_enter_owner(&saved, plan->relation->owner, NULL);
	explain(proof, plan, psprintf(" WHERE %s", prove_condition(plan->relation, 1)));
	identity_leave(&saved);
}

static int64
count_blocks(const ProveRelation *relation)
{
	int64		blocks = 0;
	ListCell   *lc;

	foreach(lc, target_leaves(relation->relid))
	{
		Relation	rel = relation_open(lfirst_oid(lc), AccessShareLock);

		blocks += RelationGetNumberOfBlocks(rel);
		relation_close(rel, AccessShareLock);
	}
	return blocks;
}

void
prove_plan(Proof *proof, ProveRelation *relation)
{
	Explained		with = {.relation = relation,.measure = true};
	Explained		without = {.relation = relation,.measure = true};
	Explained		forced = {.relation = relation};
	int64		blocks = count_blocks(relation);
	char	   *how;
	ProveOutcome outcome;

	prove_attempt(proof, PROVE_TENANT_A, try_with_policy, &with, &outcome);
	if (outcome.sqlstate != 0)
		return;					/* SELECT has told already */
	explain_past_policy(proof, &without);
	if (with.index == NULL)
		prove_attempt(proof, PROVE_TENANT_A, try_without_scan, &forced, &outcome);

	if (with.index)
		how = psprintf("index %s", quote_identifier(with.index));
	else if (forced.index)
		how = psprintf("index %s could, but reading all is cheaper", quote_identifier(forced.index));
	else
		how = psprintf("no index, " INT64_FORMAT " block%s read", blocks,
					   blocks == 1 ? " is" : "s are");
	prove_note(proof, relation, "plan", "EXPLAIN SELECT",
			   psprintf("an index on %s serves, or at most %d blocks are read",
						relation->column_name, SMALL_BLOCKS),
			   psprintf("%s; %s ms, %s ms without the policy", sql_printable(how),
						with.ms, without.ms),
			   with.index || forced.index || blocks <= SMALL_BLOCKS);
}
