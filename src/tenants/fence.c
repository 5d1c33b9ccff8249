/*
 * fence.c
 *		The trigger that refuses writes for a tenant that is suspended.
 *
 * An AFTER ROW trigger: it sees the row as it was written, whatever BEFORE
 * triggers and generated columns have made of it, and costs an UPDATE no lock
 * on the row, as a BEFORE trigger would.  It fires before the transaction can
 * commit, which is all that matters.  TRUNCATE, which has no rows, is refused
 * while any tenant is suspended.
 *
 * A row is let through when this transaction holds the lock of its tenant (see
 * fence_lock.c) and the tenant is not among those that are suspended.  Of
 * these the session keeps a list, thrown away when the server says that the
 * registry has changed: a trigger of the registry sends an invalidation, as
 * for a change of its definition.  It comes with the commit of whoever closes
 * a tenant, before the lock is let go.  So whoever has got the lock afterwards, and
 * looks for invalidations then, sees what was done, also with an old snapshot;
 * and what holds under the lock cannot change as long as it is held.
 *
 * Only who has the rights of the table's owner can stop writes to it.
 * Otherwise anybody could enter the tenants of others into the registry, and
 * suspend them.  If the role that suspended a tenant is gone, that counts as
 * if it had the rights.
 *
 * The argument of the trigger is the name of the tenant column.  The TRIGGER
 * privilege lets others than the owner make such a trigger, with whatever
 * column; all that they can do with it is to refuse writes.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "tenants/fence.h"

PG_FUNCTION_INFO_V1(tenantmig_fence_tenant);
PG_FUNCTION_INFO_V1(tenantmig_tenant_changed);

/* Locks of single tenants that one transaction takes */
#define MOST_TENANTS	32

/* A suspended tenant, in one of the forms that columns may have it in */
typedef struct Closed
{
	FenceKind	kind;
	char	   *canonical;
	char	   *tenant;
	char	   *since;
	char	   *reason;			/* or NULL */
	char	   *by;
	Oid			by_role;		/* InvalidOid: gone */
} Closed;

static MemoryContext closed_context = NULL;
static Closed *closed = NULL;	/* sorted */
static int	nclosed = 0;
static bool closed_known = false;

/* Counts what has been thrown away */
static uint64 generation = 0;

static Oid	registry = InvalidOid;	/* of which the list is */

/* What the current transaction has seen to be open, and holds the lock of */
typedef struct Held
{
	FenceKind	kind;
	char	   *canonical;		/* in the transaction's context */
} Held;

static Held held[MOST_TENANTS];
static int	nheld = 0;
static bool holds_all = false;
static LocalTransactionId held_in = InvalidLocalTransactionId;
static uint64 held_generation = 0;

/* What a statement needs for a table */
typedef struct Fence
{
	FenceKind	kind;
	AttrNumber	attnum;
	bool		typbyval;
	int16		typlen;
	FmgrInfo	output;
	bool		has_last;		/* the tenant of the last row, which is open */
	Datum		last;
	LocalTransactionId last_in;
	uint64		last_generation;
} Fence;

static void
not_a_trigger(const char *function)
{
	ereport(ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("%s was not called by the trigger manager", function)));
}

/* --- who is closed ---------------------------------------------------- */

static void
forget(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == registry)
	{
		closed_known = false;
		generation++;
	}
}

static int
compare_closed(const void *a, const void *b)
{
	const Closed *x = a;
	const Closed *y = b;

	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	return strcmp(x->canonical, y->canonical);
}

static void
read_closed(uint64 row)
{
	Closed		found = {0};

	found.tenant = query_get_text(row, 1);
	found.since = query_get_text(row, 2);
	found.reason = query_get_text(row, 3);
	found.by = query_get_text(row, 4);
	found.by_role = found.by ? get_role_oid(found.by, true) : InvalidOid;
	for (FenceKind kind = FENCE_TEXT; kind <= FENCE_KINDS; kind++)
	{
		found.kind = kind;
		found.canonical = fence_canonical(kind, found.tenant);
		if (found.canonical)
			closed[nclosed++] = found;
	}
}

/* As committed by now, and by this transaction */
static void
load_closed(void)
{
	MemoryContext old;
	OwnQuery	query;
	uint64		rows;
	uint64		before;

	if (!OidIsValid(registry))
		CacheRegisterRelcacheCallback(forget, (Datum) 0);
	registry = get_relname_relid("tenant", get_namespace_oid("tenantmig", false));
	if (closed_context == NULL)
		closed_context = AllocSetContextCreate(TopMemoryContext,
											   "tenantmig suspended tenants",
											   ALLOCSET_SMALL_SIZES);
	MemoryContextReset(closed_context);
	closed = NULL;
	nclosed = 0;
	before = generation;
	query_init(&query, "SELECT tenant, status_since, status_reason, status_by "
			   "FROM tenantmig.tenant WHERE status = 'suspended'");
	query.latest = true;
	SPI_connect();
	rows = query_run(&query);
	old = MemoryContextSwitchTo(closed_context);
	if (rows > 0)
		closed = palloc(sizeof(Closed) * rows * FENCE_KINDS);
	for (uint64 i = 0; i < rows; i++)
		read_closed(i);
	MemoryContextSwitchTo(old);
	SPI_finish();
	if (nclosed > 1)
		qsort(closed, nclosed, sizeof(Closed), compare_closed);
	closed_known = generation == before;
}

/* Whether who suspended a tenant may stop the writes of this owner's tables */
static bool
counts_for(const Closed *found, Oid owner)
{
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(found->by_role)))
		return true;
	return superuser_arg(found->by_role) ||
		has_privs_of_role(found->by_role, owner);
}

/*
 * The entry that stops the tenant: of several with one canonical text, such as
 * 'acme' and 'Acme' for citext, any may.
 */
static const Closed *
find_closed(FenceKind kind, const char *canonical, Oid owner, bool *known)
{
	Closed		key = {.kind = kind,.canonical = unconstify(char *, canonical)};
	const Closed *found;

	*known = false;
	if (nclosed == 0)
		return NULL;
	found = bsearch(&key, closed, nclosed, sizeof(Closed), compare_closed);
	if (found == NULL)
		return NULL;
	*known = true;
	while (found > closed && compare_closed(&key, found - 1) == 0)
		found--;
	for (; found < closed + nclosed && compare_closed(&key, found) == 0; found++)
		if (counts_for(found, owner))
			return found;
	return NULL;
}

/*
 * Every session learns of a change of the registry when it commits, whoever
 * makes it.
 */
Datum
tenantmig_tenant_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		not_a_trigger("tenantmig.tenant_changed()");
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	return PointerGetDatum(NULL);
}

/* --- one row ---------------------------------------------------------- */

static void
refuse(const Closed *found, Relation relation)
{
	char	   *table = sql_relation(RelationGetRelid(relation));

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("tenant \"%s\" is suspended", sql_printable(found->tenant)),
			 found->reason
			 ? errdetail("Its rows of %s cannot be written. It was suspended at %s: %s",
						 table, found->since, sql_printable(found->reason))
			 : errdetail("Its rows of %s cannot be written. It was suspended at %s.",
						 table, found->since),
			 errhint("To let it write again: SELECT tenantmig.reactivate_tenant(%s);",
					 sql_literal(found->tenant)),
			 errtable(relation)));
}

static bool
is_held(FenceKind kind, const char *canonical)
{
	if (held_in != my_local_xid() || held_generation != generation)
		return false;
	for (int i = 0; i < nheld; i++)
		if (held[i].kind == kind && strcmp(held[i].canonical, canonical) == 0)
			return true;
	return false;
}

/* Start anew in a new transaction, or when something was thrown away; asking
 * for a lock that is held already does no harm */
static void
begin_held(void)
{
	if (held_in != my_local_xid())
		holds_all = false;
	else if (held_generation == generation)
		return;
	nheld = 0;
	held_in = my_local_xid();
	held_generation = generation;
}

static void
hold_all(void)
{
	begin_held();
	if (!holds_all)
		fence_lock_all_tenants();
	holds_all = true;
}

static void
remember_held(FenceKind kind, const char *canonical)
{
	begin_held();
	if (nheld == MOST_TENANTS)
		return;
	held[nheld].kind = kind;
	held[nheld].canonical = MemoryContextStrdup(TopTransactionContext, canonical);
	nheld++;
}

/* Returns when the tenant is open for the table, and stays so */
static void
check_tenant(FenceKind kind, const char *canonical, Relation relation)
{
	const Closed *found;
	bool		known;

	if (is_held(kind, canonical))
		return;
	begin_held();
	if (nheld == MOST_TENANTS)
		hold_all();
	else if (!holds_all)
		fence_lock_writer(canonical);
	AcceptInvalidationMessages();
	if (!closed_known)
		load_closed();
	found = find_closed(kind, canonical, RelationGetForm(relation)->relowner, &known);
	if (found)
		refuse(found, relation);
	if (!known)
		remember_held(kind, canonical);
}

static void
cannot_fence(Relation relation, const Trigger *trigger, const char *column,
			 const char *detail)
{
	char	   *table = sql_relation(RelationGetRelid(relation));

	ereport(ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("trigger %s cannot tell the tenant of rows of %s",
					quote_identifier(trigger->tgname), table),
			 errdetail(detail, quote_identifier(column)),
			 errhint("If the column was renamed: SELECT tenantmig.fence_tenants(%s, '...'); or, to let all tenants write: SELECT tenantmig.unfence_tenants(%s);",
					 sql_literal(table), sql_literal(table))));
}

static Fence *
prepare(FunctionCallInfo fcinfo, const TriggerData *data)
{
	Trigger    *trigger = data->tg_trigger;
	Fence	   *fence = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(Fence));
	Relation	relation = data->tg_relation;
	const char *column = trigger->tgnargs == 1 ? trigger->tgargs[0] : "";
	Form_pg_attribute att;
	Oid			output;
	bool		isvarlena;

	fence->attnum = get_attnum(RelationGetRelid(relation), column);
	if (fence->attnum <= 0)
		cannot_fence(relation, trigger, column, "There is no column %s.");
	att = TupleDescAttr(RelationGetDescr(relation), fence->attnum - 1);
	fence->kind = fence_kind(att->atttypid, att->attcollation);
	if (fence->kind == FENCE_NONE)
		cannot_fence(relation, trigger, column,
					 "Column %s is of a type that cannot be compared with the registry.");
	fence->typbyval = att->attbyval;
	fence->typlen = att->attlen;
	getTypeOutputInfo(att->atttypid, &output, &isvarlena);
	fmgr_info_cxt(output, &fence->output, fcinfo->flinfo->fn_mcxt);
	return fence;
}

static void
check_slot(FunctionCallInfo fcinfo, Fence *fence, Relation relation,
		   TupleTableSlot *slot)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, fence->attnum, &isnull);
	MemoryContext old;

	if (isnull)
		return;
	if (fence->has_last && fence->last_in == my_local_xid() &&
		fence->last_generation == generation &&
		datumIsEqual(value, fence->last, fence->typbyval, fence->typlen))
		return;
	check_tenant(fence->kind,
				 fence_canonical(fence->kind,
								 OutputFunctionCall(&fence->output, value)),
				 relation);
	if (!fence->typbyval && fence->has_last)
		pfree(DatumGetPointer(fence->last));
	fence->has_last = false;
	old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	fence->last = datumCopy(value, fence->typbyval, fence->typlen);
	MemoryContextSwitchTo(old);
	fence->has_last = true;
	fence->last_in = my_local_xid();
	fence->last_generation = generation;
}

/* All rows of all tenants */
static void
check_truncate(Relation relation)
{
	hold_all();
	AcceptInvalidationMessages();
	if (!closed_known)
		load_closed();
	for (int i = 0; i < nclosed; i++)
		if (counts_for(&closed[i], RelationGetForm(relation)->relowner))
			refuse(&closed[i], relation);
}

Datum
tenantmig_fence_tenant(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	Fence	   *fence;

	if (!CALLED_AS_TRIGGER(fcinfo))
		not_a_trigger("tenantmig.fence_tenant()");
	if (TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
	{
		check_truncate(data->tg_relation);
		return PointerGetDatum(NULL);
	}
	if (!TRIGGER_FIRED_FOR_ROW(data->tg_event) ||
		!TRIGGER_FIRED_AFTER(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("%s must be fired AFTER ROW or by TRUNCATE",
						"tenantmig.fence_tenant()")));

	fence = fcinfo->flinfo->fn_extra;
	if (fence == NULL)
		fence = fcinfo->flinfo->fn_extra = prepare(fcinfo, data);
	check_slot(fcinfo, fence, data->tg_relation, data->tg_trigslot);
	if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
		check_slot(fcinfo, fence, data->tg_relation, data->tg_newslot);
	return PointerGetDatum(NULL);
}
