/*
 * prove_read.c
 *		What the role sees of a table or a view: SELECT and COPY.
 *
 * What is there and what is seen are counted by the same snapshot, so that
 * others may write meanwhile.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "checks/prove.h"
#include "engine/compat.h"
#include "engine/query.h"

typedef struct Select
{
	ProveRelation *relation;
	const char *tenant;			/* NULL: none is set */
} Select;

/* All rows that are seen, and those that are not the tenant's */
static void
try_select(Proof *proof, void *arg, ProveOutcome *outcome)
{
	Select	   *select = arg;
	Oid			types[] = {TEXTOID};
	Datum		values[] = {(Datum) 0};
	char		nulls[] = "n";
	SPIPlanPtr	plan;
	char	   *sql;

	sql = psprintf("SELECT pg_catalog.count(*), "
				   "pg_catalog.count(*) FILTER (WHERE (%s) IS NOT TRUE) FROM %s t",
				   prove_condition(select->relation, 1), select->relation->name);
	if (select->tenant)
	{
		values[0] = CStringGetTextDatum(select->tenant);
		nulls[0] = ' ';
	}
	SPI_connect();
	plan = SPI_prepare(sql, 1, types);
	if (plan == NULL)
		elog(ERROR, "could not prepare: %s", sql);
	if (SPI_execute_snapshot(plan, values, nulls, proof->snapshot,
							 InvalidSnapshot, true, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not run: %s", sql);
	outcome->rows = query_get_int8(0, 1, 0);
	outcome->others = query_get_int8(0, 2, 0);
	SPI_finish();
}

static void
prove_select(Proof *proof, ProveRelation *relation, ProveState state)
{
	int			tenant = prove_state_tenant(state);
	Select		select = {.relation = relation};
	ProveOutcome outcome;
	int64		count = -1;

	if (tenant != NOBODY)
	{
		select.tenant = proof->tenants[tenant];
		if (relation->is_table)
			count = relation->count[tenant];
	}
	prove_attempt(proof, state, try_select, &select, &outcome);
	prove_judge_read(proof, relation, state, "SELECT", count, &outcome);
}

static void
prove_copy(Proof *proof, ProveRelation *relation, ProveState state)
{
	int			tenant = prove_state_tenant(state);
	ProveOutcome outcome;

	/* a partitioned table itself has no rows, COPY looks no further */
	if ((relation->rights & ACL_SELECT) && relation->relkind == RELKIND_RELATION)
	{
		int64		count = tenant == NOBODY ? 0 : relation->only[tenant];

		prove_attempt(proof, state, prove_copy_to, relation, &outcome);
		outcome.others = Max(outcome.rows - count, 0);
		prove_judge_read(proof, relation, state, "COPY TO", count, &outcome);
	}
	if ((relation->rights & ACL_INSERT) && proof->writes)
	{
		prove_attempt(proof, state, prove_copy_from, relation, &outcome);
		if (outcome.touched)
			prove_note(proof, relation, prove_state_name(state), "COPY FROM",
					   "refused", "let in", false);
		else
			prove_judge_refused(proof, relation, state, "COPY FROM", false, &outcome);
	}
}

void
prove_reads(Proof *proof, ProveRelation *relation, ProveState state)
{
	if ((relation->rights & ACL_SELECT) && relation->has_column)
		prove_select(proof, relation, state);
	if (relation->is_table)
		prove_copy(proof, relation, state);
}
