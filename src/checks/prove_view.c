/*
 * prove_view.c
 *		Whether what a view shows depends on rows of other tenants.
 *
 * A view need not have the tenant column: it may count, join or call a
 * function.  So each is asked twice by the same snapshot, with a few rows of
 * the other tenants deleted in between.  The rows come back with the
 * subtransaction; triggers and foreign keys do not notice.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "checks/prove.h"
#include "engine/compat.h"
#include "engine/query.h"

typedef struct Look
{
	ProveRelation *view;
	char	   *seen;			/* number of rows and a digest, or the error */
	int64		rows;
} Look;

static char *
digest_text(const ProveRelation *view)
{
	StringInfoData columns;
	ListCell   *lc;

	initStringInfo(&columns);
	foreach(lc, view->columns)
	{
		ProveColumn *column = lfirst(lc);

		if (column->may_select)
			appendStringInfo(&columns, "%sv.%s", columns.len > 0 ? ", " : "",
							 column->name);
	}
	return psprintf("SELECT pg_catalog.count(*), pg_catalog.sum("
					"pg_catalog.hashtextextended(ROW(%s)::pg_catalog.text, 0)) "
					"FROM %s v", columns.data, view->name);
}

static void
try_look(Proof *proof, void *arg, ProveOutcome *outcome)
{
	Look	   *look = arg;
	char	   *sql = digest_text(look->view);
	SPIPlanPtr	plan;
	char	   *digest;

	PushCopiedSnapshot(proof->snapshot);
	UpdateActiveSnapshotCommandId();
	SPI_connect();
	plan = SPI_prepare(sql, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "could not prepare: %s", sql);
	if (SPI_execute_snapshot(plan, NULL, NULL, GetActiveSnapshot(),
							 InvalidSnapshot, true, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not run: %s", sql);
	look->rows = query_get_int8(0, 1, 0);
	digest = query_get_text(0, 2);
	look->seen = MemoryContextStrdup(proof->context,
									 psprintf(INT64_FORMAT "/%s", look->rows,
											  digest ? digest : ""));
	SPI_finish();
	PopActiveSnapshot();
}

static Look
look_at(Proof *proof, ProveRelation *view, ProveState state)
{
	Look		look = {.view = view};
	ProveOutcome outcome;

	prove_attempt(proof, state, try_look, &look, &outcome);
	if (outcome.sqlstate != 0)
		look.seen = psprintf("error %s", unpack_sql_state(outcome.sqlstate));
	return look;
}

static void
judge(Proof *proof, ProveState state, Look *first, Look *second, Look *after)
{
	static const char *const command = "SELECT, rows of others deleted";
	const char *probe = prove_state_name(state);
	bool		same = strcmp(first->seen, after->seen) == 0;

	if (strcmp(first->seen, second->seen) != 0)
		prove_not_tried(proof, first->view, probe, command, "no change",
						"it changes by itself");
	else
		prove_note(proof, first->view, probe, command, "no change",
				   same ? "no change" : "it shows the change", same);
}

/* What is kept without the column, nobody can tell whose it is */
static void
judge_kept(Proof *proof, ProveRelation *view, ProveState state)
{
	Look		look = look_at(proof, view, state);

	prove_note(proof, view, prove_state_name(state), "SELECT", "no rows",
			   look.rows == 0 ? "no rows"
			   : psprintf(INT64_FORMAT " rows without a tenant", look.rows),
			   look.rows == 0);
}

/* All views at once; in a subtransaction that is rolled back */
void
prove_independence(Proof *proof, ProveState state)
{
	int			count = list_length(proof->relations);
	Look	   *looks = palloc0(sizeof(Look) * 2 * Max(count, 1));
	ListCell   *lc;
	int			n = 0;

	foreach(lc, proof->relations)
	{
		ProveRelation *view = lfirst(lc);

		if (view->relkind == RELKIND_MATVIEW && !view->has_column &&
			(view->rights & ACL_SELECT))
			judge_kept(proof, view, state);
		if (view->relkind != RELKIND_VIEW || !(view->rights & ACL_SELECT))
			continue;
		looks[n++] = look_at(proof, view, state);
		looks[n++] = look_at(proof, view, state);
	}
	foreach(lc, proof->relations)
		for (int tenant = 0; tenant < 2 && n > 0; tenant++)
			if (((ProveRelation *) lfirst(lc))->is_table &&
				tenant != prove_state_tenant(state))
				prove_delete_sample(proof, lfirst(lc), tenant);
	CommandCounterIncrement();
	for (int i = 0; i < n; i += 2)
	{
		Look		after = look_at(proof, looks[i].view, state);

		judge(proof, state, &looks[i], &looks[i + 1], &after);
	}
}
