/*
 * prove_copy.c
 *		COPY, tried as the role.
 *
 * COPY speaks to the client.  For that time the server's own way to send a
 * message is taken: what COPY TO sends is counted and goes no further, and
 * COPY FROM is stopped when it asks for rows, since by then it was let in.
 */
#include "postgres.h"

/* Only the methods are wanted here, not the connection; the headers of its
 * libraries need not be installed */
#undef ENABLE_GSS
#undef USE_OPENSSL

#include "libpq/libpq.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/snapmgr.h"

#include "checks/prove.h"
#include "engine/compat.h"

static const PQcommMethods *client;
static PQcommMethods counter;
static int64 copied;
static bool asked;

static int
count_message(char type, const char *data, size_t length)
{
	switch (type)
	{
		case 'd':
			copied++;
			return 0;
		case 'H':
		case 'c':
			return 0;
		case 'G':
			asked = true;
			elog(ERROR, "COPY FROM was let in");
	}
	return client->putmessage(type, data, length);
}

static void
run_copy(const char *sql)
{
	RawStmt    *raw = linitial_node(RawStmt, pg_parse_query(sql));
	PlannedStmt *plan = makeNode(PlannedStmt);
	CommandDest dest = whereToSendOutput;
	QueryCompletion qc;

	plan->commandType = CMD_UTILITY;
	plan->canSetTag = true;
	plan->utilityStmt = raw->stmt;

	client = PqCommMethods;
	counter = *client;
	counter.putmessage = count_message;
	copied = 0;
	asked = false;
	PG_TRY();
	{
		PqCommMethods = &counter;
		whereToSendOutput = DestRemote;
		ProcessUtility(plan, sql, false, PROCESS_UTILITY_QUERY, NULL, NULL,
					   None_Receiver, &qc);
	}
	PG_FINALLY();
	{
		PqCommMethods = client;
		whereToSendOutput = dest;
	}
	PG_END_TRY();
}

void
prove_copy_to(Proof *proof, void *arg, ProveOutcome *outcome)
{
	ProveRelation *relation = arg;

	PushActiveSnapshot(proof->snapshot);
	run_copy(psprintf("COPY %s (%s) TO STDOUT", relation->name,
					  relation->column_name));
	outcome->rows = copied;
}

/* touched: it was let in */
void
prove_copy_from(Proof *proof, void *arg, ProveOutcome *outcome)
{
	ProveRelation *relation = arg;

	PushActiveSnapshot(proof->snapshot);
	PG_TRY();
	{
		run_copy(psprintf("COPY %s (%s) FROM STDIN", relation->name,
						  relation->column_name));
	}
	PG_FINALLY();
	{
		outcome->touched = asked;
	}
	PG_END_TRY();
}
