/*
 * prove_write.c
 *		What the role can change: INSERT, ON CONFLICT, UPDATE, DELETE, MERGE.
 *
 * Each is tried on one row of each tenant, the session's own first: that one
 * must get through, so that it is known that the others could.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "commands/trigger.h"
#include "lib/stringinfo.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "checks/prove.h"
#include "engine/compat.h"
#include "engine/query.h"

/* The statements of one relation in one state */
typedef struct Writes
{
	Proof	   *proof;
	ProveRelation *relation;
	ProveState	state;
	int			own;			/* whose tenant is set, or NOBODY */
	bool		control;		/* the last statement on a row of its own got
								 * through */
} Writes;

static const char *
label(int tenant)
{
	return prove_tenant_label(tenant);
}

static void
attempt(Writes *writes, ProveStatement *statement, ProveOutcome *outcome)
{
	prove_attempt(writes->proof, writes->state, prove_write, statement, outcome);
	if (outcome->sqlstate == ERRCODE_FEATURE_NOT_SUPPORTED)
	{
		outcome->sqlstate = 0;
		outcome->not_tried = true;
	}
}

/* A statement on the row of a tenant, the own or another's */
static void
try_on(Writes *writes, int tenant, const char *command, char *sql)
{
	ProveStatement statement = {.sql = sql,.relation = writes->relation,
		.row = tenant,.watched = NOBODY,
	.tenant = writes->proof->tenants[writes->own == NOBODY ? tenant : writes->own]};
	ProveOutcome outcome = {0};

	if (tenant != writes->own)
		statement.watched = tenant;
	if (!writes->relation->is_table ||
		prove_has_row(writes->relation, tenant, &outcome))
		attempt(writes, &statement, &outcome);
	if (tenant == writes->own)
		writes->control = prove_judge_own(writes->proof, writes->relation,
										  writes->state, command, &outcome);
	else
		prove_judge_untouched(writes->proof, writes->relation, writes->state,
							  command, writes->control, &outcome);
}

/* The same for both, the own first */
static void
try_on_both(Writes *writes, const char *format, char *(*sql) (const ProveRelation *, int))
{
	int			first = writes->own == 1 ? 1 : 0;

	writes->control = false;
	for (int i = 0; i < 2; i++)
	{
		int			tenant = i == 0 ? first : 1 - first;
		const char *command = prove_command(writes->proof, "%s %s", format,
											label(tenant));

		try_on(writes, tenant, command, sql(writes->relation, tenant));
	}
}

/* --- INSERT ----------------------------------------------------------- */

/* (a, b) OVERRIDING SYSTEM VALUE VALUES (($2).a, $1) */
static char *
values_text(const ProveRelation *relation)
{
	StringInfoData names;
	StringInfoData values;
	ListCell   *lc;

	initStringInfo(&names);
	initStringInfo(&values);
	foreach(lc, relation->columns)
	{
		ProveColumn *column = lfirst(lc);
		const char *comma = names.len > 0 ? ", " : "";

		if (!column->may_insert)
			continue;
		appendStringInfo(&names, "%s%s", comma, column->name);
		if (column->attnum == relation->column.attnum)
			appendStringInfo(&values, "%s%s", comma, prove_value(relation, 1));
		else if (relation->is_table)
			appendStringInfo(&values, "%s($2).%s", comma, column->name);
		else
			appendStringInfo(&values, "%sNULL", comma);
	}
	return psprintf("(%s) OVERRIDING SYSTEM VALUE VALUES (%s)", names.data,
					values.data);
}

static char *
insert_text(const ProveRelation *relation)
{
	return psprintf("INSERT INTO %s %s", relation->name, values_text(relation));
}

/* A row like that of the tenant, with the tenant given (NULL: none) */
static void
insert_row(Writes *writes, int row, const char *tenant, char *sql,
		   ProveOutcome *outcome)
{
	ProveStatement statement = {.sql = sql,.relation = writes->relation,
		.row = row,.watched = row == writes->own ? NOBODY : row,
		.tenant = tenant,.only_tenant = !writes->relation->is_table,
	};

	attempt(writes, &statement, outcome);
}

/* Whether a trigger may have given the row a tenant, as the fill trigger of a
 * backfill does */
static bool
trigger_may_fill(const ProveRelation *relation, bool update)
{
	Relation	table = table_open(relation->relid, AccessShareLock);
	TriggerDesc *triggers = table->trigdesc;
	bool		result = triggers &&
		(update ? triggers->trig_update_before_row : triggers->trig_insert_before_row);

	table_close(table, NoLock);
	return result;
}

/* A row without a tenant may be turned away by a constraint as well */
static void
judge_null(Writes *writes, const char *command, bool update, ProveOutcome *outcome)
{
	if (outcome->sqlstate == 0 && outcome->rows > 0 && writes->relation->is_table &&
		trigger_may_fill(writes->relation, update))
	{
		outcome->not_tried = true;
		outcome->message = "a BEFORE trigger may have given the row a tenant";
	}
	if (ERRCODE_TO_CATEGORY(outcome->sqlstate) == ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION &&
		outcome->refused_by == NULL)
		outcome->refused_by = "a constraint";
	prove_judge_refused(writes->proof, writes->relation, writes->state, command,
						writes->control, outcome);
}

static void
try_inserts(Writes *writes)
{
	Proof	   *proof = writes->proof;
	char	   *sql = insert_text(writes->relation);
	int			first = writes->own == 1 ? 1 : 0;
	ProveOutcome outcome;

	writes->control = false;
	for (int i = 0; i < 2; i++)
	{
		int			tenant = i == 0 ? first : 1 - first;
		const char *command = prove_command(proof, "INSERT %s", label(tenant));

		insert_row(writes, tenant, proof->tenants[tenant], sql, &outcome);
		if (tenant == writes->own)
			writes->control = prove_judge_own(proof, writes->relation,
											  writes->state, command, &outcome);
		else
			prove_judge_refused(proof, writes->relation, writes->state, command,
								writes->control, &outcome);
	}
	insert_row(writes, first, NULL, sql, &outcome);
	judge_null(writes, "INSERT null", false, &outcome);
}

/*
 * The columns of a unique index that ON CONFLICT can name, quoted and joined;
 * one without the tenant column if there is one, since only there another
 * tenant's row can be in the way.  NULL: there is none.
 */
static char *
find_arbiter(const ProveRelation *relation, bool *has_tenant)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	char	   *columns = NULL;

	query_init(&query,
			   "SELECT string_agg(quote_ident(a.attname), ', '), bool_or(a.attnum = $2) AS tenant "
			   "FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]) "
			   "WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate "
			   "AND i.indpred IS NULL AND i.indexprs IS NULL "
			   "GROUP BY i.indexrelid ORDER BY tenant, i.indexrelid LIMIT 1");
	query_oid(&query, relation->relid);
	query_int4(&query, relation->column.attnum);
	SPI_connect();
	if (query_run(&query) > 0)
	{
		*has_tenant = query_get_bool(0, 2);
		MemoryContextSwitchTo(context);
		columns = query_get_text(0, 1);
	}
	SPI_finish();
	return columns;
}

/* column = what it is set to: the tenant, or what the row has */
static char *
set_text(const ProveRelation *relation)
{
	if (relation->update->attnum == relation->column.attnum)
		return psprintf("SET %s = %s", relation->update->name,
						prove_value(relation, 1));
	return psprintf("SET %s = %s%s", relation->update->name,
					relation->is_table ? "($2)." : "NULL",
					relation->is_table ? relation->update->name : "");
}

/* Onto a row of another tenant, by its key */
static void
try_conflicts(Writes *writes)
{
	Proof	   *proof = writes->proof;
	ProveRelation *relation = writes->relation;
	bool		has_tenant = false;
	char	   *arbiter = find_arbiter(relation, &has_tenant);
	ProveOutcome outcome;

	for (int tenant = 0; tenant < 2; tenant++)
	{
		const char *as = proof->tenants[tenant];
		const char *command;

		if (tenant == writes->own || !relation->row[tenant].found)
			continue;
		insert_row(writes, tenant, as,
				   psprintf("%s ON CONFLICT DO NOTHING", insert_text(relation)),
				   &outcome);
		prove_judge_refused(proof, relation, writes->state,
							prove_command(proof, "INSERT %s ON CONFLICT DO NOTHING", label(tenant)),
							writes->control, &outcome);

		if (arbiter == NULL || relation->update == NULL || !relation->all_select)
			continue;
		if (!has_tenant && writes->own != NOBODY)
			as = proof->tenants[writes->own];
		command = prove_command(proof, "INSERT ON CONFLICT DO UPDATE %s", label(tenant));
		insert_row(writes, tenant, as,
				   psprintf("%s ON CONFLICT (%s) DO UPDATE %s",
							insert_text(relation), arbiter, set_text(relation)),
				   &outcome);
		/* the key was free where the row went: it is one of its own */
		if (outcome.sqlstate == 0 && !outcome.touched && !outcome.not_tried && !has_tenant)
			prove_note(proof, relation, prove_state_name(writes->state), command,
					   "no rows", "a row of its own", true);
		else
			prove_judge_untouched(proof, relation, writes->state, command,
								  writes->control, &outcome);
	}
}

/* --- UPDATE, DELETE, MERGE -------------------------------------------- */

static char *
update_text(const ProveRelation *relation, int tenant)
{
	return psprintf("UPDATE %s %s", relation->name, set_text(relation));
}

static char *
delete_text(const ProveRelation *relation, int tenant)
{
	return psprintf("DELETE FROM %s", relation->name);
}

static char *
merge_text(const ProveRelation *relation, int tenant, const char *action)
{
	const ProveRow *row = &relation->row[tenant];

	return psprintf("MERGE INTO %s t USING (SELECT 1) s ON "
					"(t.ctid OPERATOR(pg_catalog.=) '(%u,%u)'::pg_catalog.tid AND "
					"t.tableoid OPERATOR(pg_catalog.=) %u::pg_catalog.oid) "
					"WHEN MATCHED THEN %s",
					relation->name, ItemPointerGetBlockNumber(&row->tid),
					ItemPointerGetOffsetNumber(&row->tid), row->tableoid, action);
}

static char *
merge_update_text(const ProveRelation *relation, int tenant)
{
	return merge_text(relation, tenant, psprintf("UPDATE %s", set_text(relation)));
}

static char *
merge_delete_text(const ProveRelation *relation, int tenant)
{
	return merge_text(relation, tenant, "DELETE");
}

/* A row of its own, given away */
static void
try_moves(Writes *writes)
{
	Proof	   *proof = writes->proof;
	ProveRelation *relation = writes->relation;
	ProveStatement statement = {.relation = relation,.row = writes->own,
	.watched = NOBODY};
	ProveOutcome outcome;

	if (writes->own == NOBODY || !relation->row[writes->own].found ||
		relation->update->attnum != relation->column.attnum)
		return;
	statement.sql = update_text(relation, writes->own);
	statement.tenant = proof->tenants[1 - writes->own];
	attempt(writes, &statement, &outcome);
	prove_judge_refused(proof, relation, writes->state,
						prove_command(proof, "UPDATE %s to %s", label(writes->own),
									  label(1 - writes->own)),
						writes->control, &outcome);
	statement.tenant = NULL;
	attempt(writes, &statement, &outcome);
	judge_null(writes, prove_command(proof, "UPDATE %s to null", label(writes->own)),
			   true, &outcome);
}

static void
try_merge_insert(Writes *writes)
{
	Proof	   *proof = writes->proof;
	char	   *sql = psprintf("MERGE INTO %s t USING (SELECT 1) s ON false "
							   "WHEN NOT MATCHED THEN INSERT %s",
							   writes->relation->name,
							   values_text(writes->relation));
	ProveOutcome outcome;

	for (int tenant = 0; tenant < 2; tenant++)
	{
		if (tenant == writes->own)
			continue;
		insert_row(writes, tenant, proof->tenants[tenant], sql, &outcome);
		prove_judge_refused(proof, writes->relation, writes->state,
							prove_command(proof, "MERGE INSERT %s", label(tenant)),
							writes->control, &outcome);
	}
}

/* The rows have been captured */
void
prove_writes(Proof *proof, ProveRelation *relation, ProveState state)
{
	Writes		writes = {.proof = proof,.relation = relation,.state = state,
	.own = prove_state_tenant(state)};
	AclMode		rights = relation->rights;

	if (rights & ACL_INSERT)
	{
		try_inserts(&writes);
		try_conflicts(&writes);
		if (relation->all_select)
			try_merge_insert(&writes);
	}
	if (rights & ACL_UPDATE)
	{
		try_on_both(&writes, "UPDATE", update_text);
		try_moves(&writes);
		if (relation->all_select)
			try_on_both(&writes, "MERGE UPDATE", merge_update_text);
	}
	if (rights & ACL_DELETE)
	{
		try_on_both(&writes, "DELETE", delete_text);
		if (relation->all_select)
			try_on_both(&writes, "MERGE DELETE", merge_delete_text);
	}
}

/*
 * Through a view that the server can write through.  There is no telling
 * which rows of its own it lets through, so only the others' are tried.
 */
void
prove_view_writes(Proof *proof, ProveRelation *view, ProveState state)
{
	Writes		writes = {.proof = proof,.relation = view,.state = state,
	.own = prove_state_tenant(state),.control = true};
	ProveOutcome outcome;

	for (int tenant = 0; tenant < 2; tenant++)
	{
		if (tenant == writes.own)
			continue;
		if (view->rights & ACL_INSERT)
		{
			insert_row(&writes, tenant, proof->tenants[tenant], insert_text(view),
					   &outcome);
			prove_judge_refused(proof, view, state,
								prove_command(proof, "INSERT %s", label(tenant)),
								true, &outcome);
		}
		if (view->rights & ACL_UPDATE)
			try_on(&writes, tenant, prove_command(proof, "UPDATE %s", label(tenant)),
				   update_text(view, tenant));
		if (view->rights & ACL_DELETE)
			try_on(&writes, tenant, prove_command(proof, "DELETE %s", label(tenant)),
				   delete_text(view, tenant));
	}
}
