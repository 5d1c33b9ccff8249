/*
 * toplevel.c
 *		Statements that cannot run inside a transaction block.
 *
 * SPI cannot run them: they want to be the outermost statement of a
 * transaction that they may commit.  So we do what the traffic cop does for a
 * simple query of one statement, with two things to watch:
 *
 * - The parse tree, the plan and the portal live in a context that is not a
 *   child of the transaction's, because CREATE INDEX CONCURRENTLY commits in
 *   the middle and goes on using them.
 *
 * - The user must be set outside of the transaction.  The command starts
 *   further transactions, and those do not expect a security-restricted
 *   context; the server switches to the owner of the table by itself for
 *   what code of the user's it runs.  Where it does so too late, we do it
 *   (transform_restricted), and no other statement than those that were looked
 *   at for this may come here.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "parser/analyze.h"
#include "parser/parse_utilcmd.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "engine/compat.h"
#include "engine/index_writeback.h"
#include "engine/toplevel.h"

/*
 * Parse analysis of an index definition runs code of the user's: a constant of
 * a domain is checked by the domain's functions.  The server enters its
 * security-restricted context only after that, so it is done here, inside one;
 * the server finds it done.  The lock is the one that the command takes itself.
 * From here on nobody can rename the table; while we waited, somebody may have.
 */
static void
transform_restricted(RawStmt *parsetree, const char *sql, Oid expected)
{
	IndexStmt  *stmt = castNode(IndexStmt, parsetree->stmt);
	Oid			user;
	int			sec_context;
	Oid			relid;

	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(user, sec_context | SECURITY_RESTRICTED_OPERATION);
	PushActiveSnapshot(GetTransactionSnapshot());
	relid = RangeVarGetRelid(stmt->relation, ShareUpdateExclusiveLock, true);
	if (relid != expected)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the table was renamed or dropped before its index could be built")));
	parsetree->stmt = (Node *) transformIndexStmt(relid, stmt, sql);
	PopActiveSnapshot();
	SetUserIdAndSecContext(user, sec_context);
}

static void
run_portal(const char *sql, Oid relid, MemoryContext parse_context)
{
	List	   *parsetrees;
	RawStmt    *parsetree;
	List	   *queries;
	List	   *plans;
	Portal		portal;
	QueryCompletion qc;
	bool		snapshot_set = false;

	MemoryContextSwitchTo(parse_context);
	parsetrees = pg_parse_query(sql);
	if (list_length(parsetrees) != 1)
		elog(ERROR, "not exactly one statement: %s", sql);
	parsetree = linitial_node(RawStmt, parsetrees);
	if (IsA(parsetree->stmt, IndexStmt))
		transform_restricted(parsetree, sql, relid);
	else if (!IsA(parsetree->stmt, DropStmt) && !IsA(parsetree->stmt, VacuumStmt))
		elog(ERROR, "not a statement that runs at the top level: %s", sql);

	if (analyze_requires_snapshot(parsetree))
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		snapshot_set = true;
	}
	queries = pg_analyze_and_rewrite_fixedparams(parsetree, sql, NULL, 0, NULL);
	plans = pg_plan_queries(queries, sql, 0, NULL);
	if (snapshot_set)
		PopActiveSnapshot();

	portal = CreatePortal("", true, true);
	portal->visible = false;
	PortalDefineQuery(portal, NULL, sql, CreateCommandTag(parsetree->stmt),
					  plans, NULL);
	PortalStart(portal, NULL, 0, InvalidSnapshot);
	if (IsA(parsetree->stmt, IndexStmt))
		index_writeback_begin();
	(void) portal_run(portal, None_Receiver, &qc);
	index_writeback_end();
	PortalDrop(portal, false);
}

ErrorData *
toplevel_run(const char *sql, Oid relid, Oid user, const char *search_path,
			 MemoryContext context)
{
	MemoryContext parse_context;
	ErrorData  *volatile error = NULL;
	Oid			save_user;
	int			save_sec_context;
	char	   *save_timeout;
	char	   *save_path = pstrdup(GetConfigOption("search_path", false, false));

	parse_context = AllocSetContextCreate(TopMemoryContext,
										  "tenantmig top-level statement",
										  ALLOCSET_DEFAULT_SIZES);
	GetUserIdAndSecContext(&save_user, &save_sec_context);
	save_timeout = pstrdup(GetConfigOption("lock_timeout", false, false));
	SetConfigOption("search_path", search_path, PGC_USERSET, PGC_S_SESSION);
	/* a timeout in the middle would leave an invalid index, and none of the
	 * locks that these commands wait for makes others wait */
	SetConfigOption("lock_timeout", "0", PGC_USERSET, PGC_S_SESSION);
	SetUserIdAndSecContext(user, 0);
	pgstat_report_activity(STATE_RUNNING, sql);

	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		run_portal(sql, relid, parse_context);
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		index_writeback_end();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		AbortOutOfAnyTransaction();
		FlushErrorState();
		disable_all_timeouts(false);
	}
	PG_END_TRY();

	SetUserIdAndSecContext(save_user, save_sec_context);
	SetConfigOption("search_path", save_path, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("lock_timeout", save_timeout, PGC_USERSET, PGC_S_SESSION);
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextSwitchTo(context);
	MemoryContextDelete(parse_context);
	return error;
}
