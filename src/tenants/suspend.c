/*
 * suspend.c
 *		suspend_tenant and reactivate_tenant.
 *
 * A suspension is a row of the registry.  It works through the triggers of
 * fence.c: when suspend_tenant() has got the locks of the tenant, nobody has
 * written for it without having ended the transaction, and nobody can before
 * this transaction ends.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/settings.h"
#include "engine/sqltext.h"
#include "tenants/fence.h"
#include "tenants/registry.h"

PG_FUNCTION_INFO_V1(tenantmig_suspend_tenant);
PG_FUNCTION_INFO_V1(tenantmig_reactivate_tenant);

/* The row of a tenant in the registry */
typedef struct Registered
{
	char	   *creator;
	char	   *status;
	char	   *since;
	char	   *by;				/* or NULL */
} Registered;

/* Raises 42704; after a statement that has read a row */
static void
take_row(const char *tenant, bool found, MemoryContext context, Registered *row)
{
	if (!found)
		registry_no_tenant(tenant);
	MemoryContextSwitchTo(context);
	row->creator = query_get_text(0, 1);
	row->status = query_get_text(0, 2);
	row->since = query_get_text(0, 3);
	row->by = query_get_text(0, 4);
}

/* Raises 42704 and 42501.  Before anything is locked, so that nobody makes the
 * writers of others wait. */
static void
check_rights(const char *tenant)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	Registered	row;

	query_init(&query, "SELECT created_by::text, status, status_since::text, status_by::text "
			   "FROM tenantmig.tenant WHERE tenant = $1");
	query_text(&query, tenant);
	SPI_connect();
	take_row(tenant, query_run(&query) > 0, context, &row);
	SPI_finish();
	if (!registry_may_manage(row.creator))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for tenant \"%s\"", sql_printable(tenant)),
				 errdetail("Another role created it."),
				 errhint("Call the function as that role, as a member of it, or as a superuser.")));
}

/* The row, locked; waits no longer than tenantmig.lock_timeout */
static void
lock_row(const char *tenant, Registered *row)
{
	MemoryContext context = CurrentMemoryContext;
	int			level = NewGUCNestLevel();
	OwnQuery	query;

	lock_set_timeout(setting_lock_timeout);
	query_init(&query, "SELECT created_by::text, status, status_since::text, status_by::text "
			   "FROM tenantmig.tenant WHERE tenant = $1 FOR NO KEY UPDATE");
	query_text(&query, tenant);
	SPI_connect();
	take_row(tenant, query_run(&query) > 0, context, row);
	SPI_finish();
	AtEOXact_GUC(false, level);
}

static void
set_status(const char *tenant, const char *status, const char *reason,
		   const char *by)
{
	OwnQuery	query;

	query_init(&query, "UPDATE tenantmig.tenant SET status = $2, status_reason = $3, "
			   "status_by = $4, status_since = clock_timestamp() WHERE tenant = $1");
	query_text(&query, tenant);
	query_text(&query, status);
	query_text(&query, reason);
	query_name(&query, by);
	(void) query_once(&query);
}

/* --- what it means for the tables ------------------------------------ */

/*
 * Tables of owners whose rights the caller has: with a fence; or without one,
 * but with the isolation policy, a column called tenant_id, or a job of ours
 * that has given them a tenant.  Partitions have the fence of their parent.  At
 * most ten names, and how many there are.
 */
static int64
list_tables(bool fenced, char **names)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	int64		count = 0;

	query_init(&query,
			   "WITH found AS (SELECT format('%I.%I', n.nspname, c.relname) AS name "
			   " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
			   " CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM pg_trigger t "
			   "  WHERE t.tgrelid = c.oid AND t.tgname = $2 AND t.tgenabled IN ('O', 'A') "
			   "  AND t.tgfoid = 'tenantmig.fence_tenant()'::regprocedure)) f (fenced) "
			   " WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND NOT c.relispartition "
			   " AND n.nspname <> ALL ('{pg_catalog,information_schema,tenantmig}') "
			   " AND pg_has_role($3, c.relowner, 'USAGE') AND f.fenced = $1 "
			   " AND ($1 OR EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid AND polname = 'tenantmig_isolation') "
			   "  OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'tenant_id' AND NOT attisdropped) "
			   "  OR EXISTS (SELECT FROM tenantmig.job j WHERE j.relid = c.oid AND j.home = $4 "
			   "   AND j.kind IN ('add_tenant_column', 'backfill') AND j.state = 'succeeded' AND j.undone_by IS NULL))) "
			   "SELECT (SELECT count(*) FROM found), string_agg(name, ', ' ORDER BY name) "
			   "FROM (SELECT name FROM found ORDER BY name LIMIT 10) f");
	query_bool(&query, fenced);
	query_name(&query, FENCE_TRIGGER);
	query_oid(&query, GetUserId());
	query_int8(&query, identity_home());
	SPI_connect();
	(void) query_run(&query);
	count = query_get_int8(0, 1, 0);
	MemoryContextSwitchTo(context);
	*names = query_get_text(0, 2);
	if (count > 10)
		*names = psprintf("%s and " INT64_FORMAT " more", *names, count - 10);
	SPI_finish();
	return count;
}

static void
tell_tables(const char *tenant)
{
	char	   *names;
	int64		count = list_tables(true, &names);

	if (count > 0)
		ereport(NOTICE,
				(errmsg_plural("tenant \"%s\" is suspended: " INT64_FORMAT " table refuses its writes",
							   "tenant \"%s\" is suspended: " INT64_FORMAT " tables refuse its writes",
							   (unsigned long) count, sql_printable(tenant), count),
				 errdetail("%s.", sql_printable(names))));
	else
		ereport(WARNING,
				(errmsg("tenant \"%s\" is suspended, but no table refuses its writes",
						sql_printable(tenant)),
				 errdetail("None of the tables that you have the owner's rights on has a fence."),
				 errhint("For each of them: SELECT tenantmig.fence_tenants('...');")));
	count = list_tables(false, &names);
	if (count > 0)
		ereport(WARNING,
				(errmsg_plural(INT64_FORMAT " table with tenants has no fence and takes writes of tenant \"%s\"",
							   INT64_FORMAT " tables with tenants have no fence and take writes of tenant \"%s\"",
							   (unsigned long) count, count, sql_printable(tenant)),
				 errdetail("%s.", sql_printable(names)),
				 errhint("For each of them: SELECT tenantmig.fence_tenants('...');")));
}

/* --- the functions ---------------------------------------------------- */

/* Whether the caller's suspension stops at least what that of "by" does */
static bool
may_take_over(const char *by)
{
	Oid			role = by ? get_role_oid(by, true) : InvalidOid;

	if (!OidIsValid(role) || role == GetUserId())
		return false;
	return superuser() || has_privs_of_role(GetUserId(), role);
}

Datum
tenantmig_suspend_tenant(PG_FUNCTION_ARGS)
{
	char	   *tenant = registry_tenant_argument(fcinfo);
	char	   *reason = PG_ARGISNULL(1) ? NULL
		: text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *caller = GetUserNameFromId(GetUserId(), false);
	Registered	row;

	check_rights(tenant);
	fence_close(tenant);
	lock_row(tenant, &row);
	if (strcmp(row.status, "suspended") == 0)
	{
		if (may_take_over(row.by))
		{
			set_status(tenant, "suspended", reason, caller);
			tell_tables(tenant);
		}
		else
			ereport(NOTICE,
					(errmsg("tenant \"%s\" is suspended already, since %s; nothing was changed",
							sql_printable(tenant), row.since)));
		PG_RETURN_BOOL(false);
	}
	if (strcmp(row.status, "active") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("tenant \"%s\" cannot be suspended while it is %s",
						sql_printable(tenant), row.status),
				 errhint("Wait until that is done; see: SELECT * FROM tenantmig.jobs WHERE state = 'running';")));
	set_status(tenant, "suspended", reason, caller);
	tell_tables(tenant);
	PG_RETURN_BOOL(true);
}

Datum
tenantmig_reactivate_tenant(PG_FUNCTION_ARGS)
{
	char	   *tenant = registry_tenant_argument(fcinfo);
	Registered	row;

	check_rights(tenant);
	lock_row(tenant, &row);
	if (strcmp(row.status, "suspended") != 0)
	{
		ereport(NOTICE,
				(errmsg("tenant \"%s\" is not suspended; nothing was changed",
						sql_printable(tenant))));
		PG_RETURN_BOOL(false);
	}
	set_status(tenant, "active", NULL,
			   GetUserNameFromId(GetUserId(), false));
	PG_RETURN_BOOL(true);
}
