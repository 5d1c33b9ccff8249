/*
 * prove_attempt.c
 *		One statement tried as the role, and nothing left of it.
 *
 * Each attempt is a subtransaction that is rolled back.  The rollback brings
 * back the user, the settings, locks, snapshots and SPI as they were, whether
 * there was an error or not, so nothing is restored by hand.
 *
 * The role is entered as a security-restricted operation: the triggers and
 * functions that it sets off cannot get out to the caller's rights, nor leave
 * anything in the session.
 *
 * A statement that writes must not reach more than the one row that it is
 * tried on, be there a policy or not.  A WHERE clause would do that, but one
 * that looks at a column needs the right to SELECT, and with that the policies
 * for SELECT hold as well; a hole in those for UPDATE and DELETE would stay
 * hidden.  So the statement has no WHERE clause when it is analyzed and its
 * policies are found, and the condition is added to the rewritten query.
 * Defaults of an INSERT are taken out at the same place, so that no number of
 * a sequence is drawn.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "checks/prove.h"
#include "engine/compat.h"
#include "engine/sqltext.h"

static const char *
setting_value(const Proof *proof, ProveState state)
{
	int			tenant = prove_state_tenant(state);

	if (tenant != NOBODY)
		return proof->tenants[tenant];
	return state == PROVE_EMPTY ? "" : "' OR true --";
}

/* The subtransaction takes all of it back */
static void
enter_role(const Proof *proof, ProveState state)
{
	Oid			user;
	int			sec_context;

	(void) set_config_option("row_security", "on", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	if (state != PROVE_UNSET)
		(void) set_config_option(proof->setting, setting_value(proof, state),
								 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL,
								 true, 0, false);
	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(proof->role,
						   (sec_context & ~SECURITY_NOFORCE_RLS) |
						   SECURITY_RESTRICTED_OPERATION);
}

/* Errors that do not tell whether the role gets at anything */
static bool
is_no_answer(int sqlstate)
{
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES):
		case ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK):
			return true;
	}
	return sqlstate == ERRCODE_LOCK_NOT_AVAILABLE;
}

/*
 * Told by what the message is before it is translated: the SQLSTATE of a
 * missing privilege, or of a broken constraint, is the same.  A row that the
 * partition has no place for is turned away before its policies are asked.
 */
static const char *
find_refusal(const ErrorData *error)
{
	const char *id = error->message_id ? error->message_id : "";

	if (error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE &&
		strstr(id, "row violates row-level security policy"))
		return "row-level security";
	if (error->sqlerrcode == ERRCODE_CHECK_VIOLATION &&
		(strstr(id, "violates partition constraint") ||
		 strstr(id, "no partition of relation")))
		return "the bounds of the partition";
	if (error->sqlerrcode == ERRCODE_FEATURE_NOT_SUPPORTED &&
		strstr(id, "not supported with row-level security"))
		return "row-level security";
	return NULL;
}

void
prove_attempt(Proof *proof, ProveState state, ProveBody body, void *arg,
			  ProveOutcome *outcome)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext scratch = AllocSetContextCreate(context, "tenantmig probe",
												  ALLOCSET_DEFAULT_SIZES);
	ErrorData  *volatile error = NULL;
	volatile bool entered = false;

	CHECK_FOR_INTERRUPTS();
	memset(outcome, 0, sizeof(ProveOutcome));
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(scratch);
	PG_TRY();
	{
		enter_role(proof, state);
		entered = true;
		body(proof, arg, outcome);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	MemoryContextDelete(scratch);
	CurrentResourceOwner = owner;

	if (error == NULL)
		return;
	if (!entered || is_no_answer(error->sqlerrcode))
		ReThrowError(error);
	outcome->sqlstate = error->sqlerrcode;
	outcome->refused_by = find_refusal(error);
	outcome->message = sql_printable(error->message ? error->message : "");
}

/* --- statements that write -------------------------------------------- */

static Node *
column_is(int varno, AttrNumber attnum, Oid type, int16 length, Datum value)
{
	Oid			equal = lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr;
	OpExpr	   *expr;

	expr = (OpExpr *) make_opclause(equal, BOOLOID, false,
									(Expr *) makeVar(varno, attnum, type, -1,
													 InvalidOid, 0),
									(Expr *) makeConst(type, -1, InvalidOid,
													   length, value, false,
													   type == OIDOID),
									InvalidOid, InvalidOid);
	set_opfuncid(expr);
	return (Node *) expr;
}

static void
limit_to_row(Query *query, const ProveRow *row)
{
	int			varno = query->resultRelation;
	List	   *quals;

	quals = list_make2(column_is(varno, TableOidAttributeNumber, OIDOID,
								 sizeof(Oid), ObjectIdGetDatum(row->tableoid)),
					   column_is(varno, SelfItemPointerAttributeNumber, TIDOID,
								 sizeof(ItemPointerData), PointerGetDatum(&row->tid)));
	if (query->jointree->quals)
		quals = lappend(quals, query->jointree->quals);
	query->jointree->quals = (Node *) make_andclause(quals);
}

/* Null instead of what would draw numbers; instead of all but the tenant */
static void
take_out_defaults(List *targets, AttrNumber tenant, bool only_tenant)
{
	ListCell   *lc;

	foreach(lc, targets)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, lc);
		Node	   *expr = (Node *) entry->expr;

		if (entry->resjunk || entry->resno == tenant ||
			!(only_tenant || contain_volatile_functions(expr)))
			continue;
		entry->expr = (Expr *) makeNullConst(exprType(expr), exprTypmod(expr),
											 exprCollation(expr));
	}
}

/* Whether there is a row to try it on; the outcome says if not */
bool
prove_has_row(const ProveRelation *relation, int tenant, ProveOutcome *outcome)
{
	const ProveRow *row = &relation->row[tenant];

	outcome->no_row = !row->found && !row->locked;
	outcome->not_tried = row->locked;
	outcome->message = "others have locked the rows";
	return row->found;
}

/* The one query that the statement has become, if it works on a table that is
 * looked at; otherwise the outcome says why not */
static Query *
find_query(const Proof *proof, List *queries, ProveRelation **relation,
		   ProveOutcome *outcome)
{
	Query	   *query = list_length(queries) == 1 ? linitial(queries) : NULL;

	outcome->not_tried = true;
	outcome->message = "a rule or an INSTEAD OF trigger stands in for it";
	if (query == NULL || query->commandType == CMD_SELECT ||
		query->resultRelation == 0)
		return NULL;
	*relation = prove_find(proof, rt_fetch(query->resultRelation,
										   query->rtable)->relid);
	if (*relation == NULL)
	{
		outcome->message = "it works on a table that is not looked at";
		return NULL;
	}
	if (!(*relation)->is_table)
		return NULL;
	outcome->not_tried = false;
	return query;
}

/* See that it does no more than it is meant to; false if it cannot be tried */
static bool
bound_query(const Proof *proof, const ProveStatement *statement, List *queries,
			ProveOutcome *outcome)
{
	ProveRelation *relation;
	Query	   *query = find_query(proof, queries, &relation, outcome);
	ListCell   *lc;

	if (query == NULL)
		return false;
	switch (query->commandType)
	{
		case CMD_INSERT:
			take_out_defaults(query->targetList, relation->column.attnum,
							  statement->only_tenant);
			break;
		case CMD_MERGE:
			foreach(lc, query->mergeActionList)
				take_out_defaults(lfirst_node(MergeAction, lc)->targetList,
								  relation->column.attnum, false);
			break;
		default:
			if (!prove_has_row(relation, statement->row, outcome))
				return false;
			limit_to_row(query, &relation->row[statement->row]);
	}
	return true;
}

static ParamListInfo
make_params(const ProveStatement *statement, Oid *types)
{
	ParamListInfo params = makeParamList(2);
	ParamExternData *param = params->params;

	param[0].ptype = types[0];
	param[0].isnull = statement->tenant == NULL;
	param[1].ptype = types[1];
	param[1].isnull = statement->row == NOBODY ||
		!statement->relation->row[statement->row].found;
	if (!param[0].isnull)
		param[0].value = CStringGetTextDatum(statement->tenant);
	if (!param[1].isnull)
		param[1].value = statement->relation->row[statement->row].value;
	param[0].pflags = param[1].pflags = PARAM_FLAG_CONST;
	return params;
}

static int64
run_query(Query *query, const char *sql, ParamListInfo params)
{
	PlannedStmt *plan = pg_plan_query(query, sql, 0, params);
	QueryDesc  *desc = CreateQueryDesc(plan, sql, GetActiveSnapshot(),
									   InvalidSnapshot, None_Receiver, params,
									   NULL, 0);
	int64		rows;

	ExecutorStart(desc, 0);
	executor_run(desc);
	rows = desc->estate->es_processed;
	ExecutorFinish(desc);
	ExecutorEnd(desc);
	FreeQueryDesc(desc);
	return rows;
}

void
prove_write(Proof *proof, void *arg, ProveOutcome *outcome)
{
	ProveStatement *statement = arg;
	Oid			types[] = {TEXTOID, statement->relation->is_table
	? statement->relation->rowtype : TEXTOID};
	List	   *queries;

	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	queries = pg_analyze_and_rewrite_fixedparams(linitial_node(RawStmt, pg_parse_query(statement->sql)),
												 statement->sql, types, 2, NULL);
	if (!bound_query(proof, statement, queries, outcome))
		return;
	outcome->rows = run_query(linitial_node(Query, queries), statement->sql,
							  make_params(statement, types));
	PopActiveSnapshot();
	CommandCounterIncrement();
	if (statement->watched != NOBODY &&
		statement->relation->row[statement->watched].found)
		outcome->touched = !prove_is_untouched(statement->relation,
											   statement->watched);
}
