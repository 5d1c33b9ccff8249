/*
 * prove.c
 *		prove_isolation and assert_isolation: try, as the application's role,
 *		to get at the rows of another tenant.
 *
 * Every statement is really run, and everything is rolled back.  In the order
 * of the files:
 *
 *		prove_relations.c	what there is, and the truth about it
 *		prove_attempt.c		one statement as the role, rolled back
 *		prove_read.c		SELECT and COPY
 *		prove_copy.c		COPY, without the client
 *		prove_write.c		INSERT, ON CONFLICT, UPDATE, DELETE, MERGE
 *		prove_view.c		whether views depend on rows of others
 *		prove_plan.c		what the policies cost
 *		prove_verdict.c		expected, seen, ok
 *
 * The setting is tried as it is in a new session first, on all relations: once
 * it has been set in a session it can be empty, but never unset again.
 *
 * Each relation has a subtransaction of its own, which holds the locks on the
 * two rows that writes are tried on, and no longer than the relation takes.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "checks/prove.h"
#include "engine/compat.h"
#include "engine/locks.h"
#include "engine/settings.h"
#include "engine/sqltext.h"

PG_FUNCTION_INFO_V1(tenantmig_prove_isolation);
PG_FUNCTION_INFO_V1(tenantmig_assert_isolation);

#define SHOWN_FAILURES	5

/* --- arguments -------------------------------------------------------- */

static void
check_tenants(const Proof *proof)
{
	for (int i = 0; i < 2; i++)
		if (proof->tenants[i][0] == '\0')
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s must not be empty", prove_tenant_label(i)),
					 errhint("Name two tenants that have rows.")));
	if (strcmp(proof->tenants[0], proof->tenants[1]) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("tenant_a and tenant_b are the same"),
				 errhint("Name two tenants that have rows.")));
}

/* Who may become the role may see what it sees; who may know how much there
 * is is asked for each table */
static void
check_role(const Proof *proof)
{
	if (!may_set_role(GetUserId(), proof->role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to act as role \"%s\"",
						proof->role_name),
				 errhint("Call the function as a superuser or as a member of that role.")));
	if (XactReadOnly)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot try statements that write in a read-only transaction"),
				 errdetail("They are rolled back, but they must be able to start."),
				 errhint("Call the function in a transaction that is READ WRITE, on the primary.")));
}

static void
check_schemas(const Proof *proof)
{
	ListCell   *lc;

	foreach(lc, proof->schemas)
		(void) get_namespace_oid(lfirst(lc), false);
}

static List *
read_skipped(FunctionCallInfo fcinfo, int argument)
{
	ArrayType  *array;
	Datum	   *elements;
	bool	   *nulls;
	int			count;
	List	   *skipped = NIL;

	if (PG_ARGISNULL(argument))
		return NIL;
	array = PG_GETARG_ARRAYTYPE_P(argument);
	deconstruct_array(array, REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT,
					  &elements, &nulls, &count);
	for (int i = 0; i < count; i++)
		if (!nulls[i])
			skipped = lappend_oid(skipped, DatumGetObjectId(elements[i]));
	return skipped;
}

static void
read_arguments(FunctionCallInfo fcinfo, Proof *proof)
{
	static const char *const names[] = {"role_name", "tenant_a", "tenant_b",
	NULL, "column_name", "setting", "writes"};

	for (int i = 0; i < lengthof(names); i++)
		if (names[i])
			target_require(fcinfo, i, names[i]);
	proof->role_name = target_arg_name(fcinfo, 0);
	proof->tenants[0] = target_arg_text(fcinfo, 1);
	proof->tenants[1] = target_arg_text(fcinfo, 2);
	proof->schemas = target_arg_list(fcinfo, 3, "schemas");
	proof->column = target_arg_name(fcinfo, 4);
	proof->setting = target_arg_text(fcinfo, 5);
	proof->writes = PG_GETARG_BOOL(6);
	proof->skipped = read_skipped(fcinfo, 7);
	proof->role = get_role_oid(proof->role_name, false);
	proof->can_unset = GetConfigOptionByName(proof->setting, NULL, true) == NULL;
	proof->context = CurrentMemoryContext;
	check_tenants(proof);
	check_role(proof);
	check_schemas(proof);
}

/* --- going through it ------------------------------------------------- */

typedef struct Part
{
	ProveRelation *relation;
	ProveState	first;
	ProveState	last;
} Part;

/* Whatever happens in there is rolled back, and an error goes on up from a
 * transaction that is as it was */
static void
rolled_back(Proof *proof, void (*body) (Proof *, Part *), Part *part)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		body(proof, part);
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
	CurrentResourceOwner = owner;
	if (error)
		ReThrowError(error);
}

static void
take_snapshot(Proof *proof)
{
	CommandCounterIncrement();
	proof->snapshot = RegisterSnapshot(GetTransactionSnapshot());
}

static void
try_relation(Proof *proof, Part *part)
{
	ProveRelation *relation = part->relation;

	take_snapshot(proof);
	if (relation->is_table && part->last != PROVE_UNSET)
		prove_count(proof, relation);
	for (ProveState state = part->first; state <= part->last; state++)
		prove_reads(proof, relation, state);
	if (relation->is_table && (relation->rights & ACL_SELECT) &&
		part->last > PROVE_UNSET)
		prove_plan(proof, relation);
	UnregisterSnapshot(proof->snapshot);

	if (!relation->is_table || !proof->writes)
		return;
	prove_capture(proof, relation);
	for (ProveState state = part->first; state <= part->last; state++)
		prove_writes(proof, relation, state);
}

static void
try_view_writes(Proof *proof, Part *part)
{
	ListCell   *lc;

	foreach(lc, proof->relations)
		if (((ProveRelation *) lfirst(lc))->is_table)
			prove_capture(proof, lfirst(lc));
	foreach(lc, proof->relations)
		if (!((ProveRelation *) lfirst(lc))->is_table)
			prove_view_writes(proof, lfirst(lc), part->first);
}

static void
try_independence(Proof *proof, Part *part)
{
	take_snapshot(proof);
	prove_independence(proof, part->first);
	UnregisterSnapshot(proof->snapshot);
}

static void
try_states(Proof *proof, ProveState first, ProveState last)
{
	Part		part = {.first = first,.last = last};
	bool		views = false;
	ListCell   *lc;

	foreach(lc, proof->relations)
	{
		part.relation = lfirst(lc);
		views |= !part.relation->is_table;
		if (part.relation->rights != 0)
			rolled_back(proof, try_relation, &part);
	}
	for (part.first = first; views && part.first <= last; part.first++)
	{
		if (proof->writes)
			rolled_back(proof, try_view_writes, &part);
		rolled_back(proof, try_independence, &part);
	}
}

/* What the role may not do is not tried */
static void
note_missing_rights(Proof *proof, ProveRelation *relation)
{
	static const struct
	{
		AclMode		mode;
		const char *name;
	}			rights[] = {
		{ACL_SELECT, "SELECT"}, {ACL_INSERT, "INSERT"},
		{ACL_UPDATE, "UPDATE"}, {ACL_DELETE, "DELETE"}
	};
	StringInfoData missing;

	initStringInfo(&missing);
	for (int i = 0; i < lengthof(rights); i++)
		if ((relation->rights & rights[i].mode) == 0)
			appendStringInfo(&missing, "%s%s", missing.len > 0 ? ", " : "",
							 rights[i].name);
	if (missing.len > 0 && relation->is_table)
		prove_note(proof, relation, "privilege", prove_command(proof, "%s", missing.data),
				   "own rows at most", "the role has no privilege", true);
}

/* Constraints that are deferred would be checked after all is rolled back */
static void
check_at_once(void)
{
	SPI_connect();
	if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not set constraints to immediate");
	SPI_finish();
}

static void
find_all(Proof *proof)
{
	prove_find_relations(proof);
	if (proof->relations == NIL ||
		!((ProveRelation *) linitial(proof->relations))->is_table)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("no table has a column \"%s\"",
						sql_printable(proof->column)),
				 errhint("Name the tenant column in column_name, and the schemas in schemas.")));
}

static void
try_all(Proof *proof, Part *part)
{
	ListCell   *lc;

	lock_set_timeout(setting_lock_timeout);
	find_all(proof);
	if (proof->writes)
		check_at_once();
	foreach(lc, proof->relations)
		note_missing_rights(proof, lfirst(lc));
	if (proof->can_unset)
		try_states(proof, PROVE_UNSET, PROVE_UNSET);
	try_states(proof, PROVE_EMPTY, PROVE_GARBAGE);
}

/* A proof over nothing proves nothing */
static void
check_substance(const Proof *proof)
{
	int64		count[2] = {0, 0};
	bool		rights = false;
	ListCell   *lc;

	foreach(lc, proof->relations)
	{
		ProveRelation *relation = lfirst(lc);

		rights |= relation->rights != 0;
		count[0] += relation->count[0];
		count[1] += relation->count[1];
	}
	if (!rights)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("role \"%s\" has no privilege on any table with the column \"%s\"",
						proof->role_name, sql_printable(proof->column)),
				 errdetail("There is nothing to prove."),
				 errhint("Name the role that the application works as.")));
	for (int i = 0; i < 2; i++)
		if (count[i] == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("tenant \"%s\" has no rows that role \"%s\" could come across",
							sql_printable(proof->tenants[i]), proof->role_name),
					 errdetail("That none are seen would prove nothing."),
					 errhint("Name two tenants that have rows; in a new database, make two for the purpose.")));
}

static void
prove(FunctionCallInfo fcinfo, Proof *proof)
{
	memset(proof, 0, sizeof(Proof));
	read_arguments(fcinfo, proof);
	rolled_back(proof, try_all, NULL);
	check_substance(proof);
	if (!proof->can_unset)
		prove_not_tried(proof, linitial(proof->relations), "unset", "all",
						"no rows", "this session has had the setting; call from a new one");
}

/* --- the functions ---------------------------------------------------- */

static void
put_result(ReturnSetInfo *set, const ProveRelation *relation,
		   const ProveResult *result)
{
	Datum		values[6];
	bool		nulls[6] = {false};

	values[0] = CStringGetTextDatum(relation->name);
	values[1] = CStringGetTextDatum(result->probe);
	values[2] = CStringGetTextDatum(result->command);
	values[3] = CStringGetTextDatum(result->expected);
	values[4] = CStringGetTextDatum(result->seen);
	values[5] = BoolGetDatum(result->ok);
	nulls[5] = !result->tried;
	tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
}

Datum
tenantmig_prove_isolation(PG_FUNCTION_ARGS)
{
	Proof		proof;
	ListCell   *lc;
	ListCell   *r;

	InitMaterializedSRF(fcinfo, 0);
	prove(fcinfo, &proof);
	foreach(lc, proof.relations)
		foreach(r, ((ProveRelation *) lfirst(lc))->results)
			put_result((ReturnSetInfo *) fcinfo->resultinfo, lfirst(lc), lfirst(r));
	return (Datum) 0;
}

/* The same call as a query that shows what is not ok */
static char *
call_text(const Proof *proof)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	appendStringInfo(&buf, "SELECT * FROM tenantmig.prove_isolation(%s, %s, %s",
					 sql_literal(proof->role_name), sql_literal(proof->tenants[0]),
					 sql_literal(proof->tenants[1]));
	if (proof->schemas != NIL)
	{
		appendStringInfoString(&buf, ", schemas => ARRAY[");
		foreach(lc, proof->schemas)
			appendStringInfo(&buf, "%s%s", lc == list_head(proof->schemas) ? "" : ", ",
							 sql_literal(lfirst(lc)));
		appendStringInfoString(&buf, "]::name[]");
	}
	if (strcmp(proof->column, "tenant_id") != 0)
		appendStringInfo(&buf, ", column_name => %s", sql_literal(proof->column));
	if (strcmp(proof->setting, "app.current_tenant_id") != 0)
		appendStringInfo(&buf, ", setting => %s", sql_literal(proof->setting));
	if (!proof->writes)
		appendStringInfoString(&buf, ", writes => false");
	if (proof->skipped != NIL)
	{
		appendStringInfoString(&buf, ", skip => ARRAY[");
		foreach(lc, proof->skipped)
			appendStringInfo(&buf, "%s%s", lc == list_head(proof->skipped) ? "" : ", ",
							 sql_literal(sql_relation(lfirst_oid(lc))));
		appendStringInfoString(&buf, "]::regclass[]");
	}
	appendStringInfoString(&buf, ") WHERE ok IS NOT TRUE;");
	return buf.data;
}

/* The results that failed, or were not tried: how many, and the first few */
static int
gather(const Proof *proof, bool tried, StringInfo shown)
{
	int			count = 0;
	ListCell   *lc;
	ListCell   *r;

	foreach(lc, proof->relations)
		foreach(r, ((ProveRelation *) lfirst(lc))->results)
		{
			ProveResult *result = lfirst(r);

			if (result->tried != tried || (tried && result->ok))
				continue;
			if (count++ < SHOWN_FAILURES)
				appendStringInfo(shown, "%s%s, %s, %s: expected %s, seen %s.",
								 shown->len > 0 ? "\n" : "",
								 ((ProveRelation *) lfirst(lc))->name,
								 result->probe, result->command,
								 result->expected, result->seen);
		}
	if (count > SHOWN_FAILURES)
		appendStringInfo(shown, "\nAnd %d more.", count - SHOWN_FAILURES);
	return count;
}

static int
count_tried(const Proof *proof)
{
	int			count = 0;
	ListCell   *lc;
	ListCell   *r;

	foreach(lc, proof->relations)
		foreach(r, ((ProveRelation *) lfirst(lc))->results)
			count += ((ProveResult *) lfirst(r))->tried;
	return count;
}

Datum
tenantmig_assert_isolation(PG_FUNCTION_ARGS)
{
	Proof		proof;
	StringInfoData failures;
	StringInfoData rest;
	int			failed;
	int			not_tried;

	prove(fcinfo, &proof);
	initStringInfo(&failures);
	initStringInfo(&rest);
	failed = gather(&proof, true, &failures);
	not_tried = gather(&proof, false, &rest);
	if (failed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("role \"%s\" is not isolated: %d of %d probes failed",
						proof.role_name, failed, count_tried(&proof)),
				 errdetail_internal("%s", failures.data),
				 errhint("See all: %s", call_text(&proof))));
	if (not_tried > 0)
		ereport(WARNING,
				(errmsg_plural("%d probe could not be tried",
							   "%d probes could not be tried", not_tried, not_tried),
				 errdetail_internal("%s", rest.data),
				 errhint("See all: %s", call_text(&proof))));
	PG_RETURN_VOID();
}
