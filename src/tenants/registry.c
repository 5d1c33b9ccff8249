/*
 * registry.c
 *		create_tenant: the tenants that this database knows.
 *
 * The registry belongs to the extension; a role sees in the view what it or
 * one of its roles has entered.  Calling create_tenant() again never changes
 * a tenant: migrations are re-run, and what was edited since must stay.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "engine/compat.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "tenants/registry.h"

PG_FUNCTION_INFO_V1(tenantmig_create_tenant);

/* "" is what an unset setting looks like, so it must never be a tenant */
char *
registry_tenant_argument(FunctionCallInfo fcinfo)
{
	char	   *tenant;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("tenant must not be null"),
				 errhint("Give the value that the tenant column has in its rows, such as 'acme'.")));
	tenant = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (tenant[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("tenant must not be empty"),
				 errhint("Give the value that the tenant column has in its rows, such as 'acme'.")));
	return tenant;
}

/* The name of the tenant for people; NULL when the call leaves it out */
static char *
get_tenant_name(FunctionCallInfo fcinfo)
{
	char	   *name;

	if (PG_ARGISNULL(1))
		return NULL;
	name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name must not be empty"),
				 errhint("Leave it out to have the tenant as its name.")));
	return name;
}

static Jsonb *
get_attributes(FunctionCallInfo fcinfo)
{
	Jsonb	   *attributes = PG_ARGISNULL(2) ? NULL : PG_GETARG_JSONB_P(2);

	if (attributes == NULL || !JB_ROOT_IS_OBJECT(attributes))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("attributes must be a JSON object"),
				 errhint("Leave it out, or give an object such as '{\"plan\": \"free\"}'.")));
	return attributes;
}

bool
registry_may_manage(const char *creator)
{
	Oid			role = get_role_oid(creator, true);

	return superuser() ||
		(OidIsValid(role) && has_privs_of_role(GetUserId(), role));
}

void
registry_no_tenant(const char *tenant)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("tenant \"%s\" does not exist", sql_printable(tenant)),
			 errdetail("It is not in the registry of this database."),
			 errhint("Enter it with: SELECT tenantmig.create_tenant(%s);",
					 sql_literal(tenant))));
}

/*
 * Say that a tenant is kept although the call describes it otherwise.  A role
 * that may not see the tenant is not told whether it guessed right.
 */
static void
tell_difference(const char *tenant, const char *name, Jsonb *attributes)
{
	OwnQuery	query;
	bool		found;
	bool		same_name = true;
	bool		same_attributes = true;
	char	   *creator = NULL;

	query_init(&query, "SELECT created_by::text, "
			   "name IS NOT DISTINCT FROM COALESCE($2, name), "
			   "attributes = $3 OR $3 = '{}' "
			   "FROM tenantmig.tenant WHERE tenant = $1");
	query_text(&query, tenant);
	query_text(&query, name);
	query_jsonb(&query, attributes);
	SPI_connect();
	found = query_run(&query) > 0;
	if (found)
	{
		creator = query_get_text(0, 1);
		same_name = query_get_bool(0, 2);
		same_attributes = query_get_bool(0, 3);
		if (!registry_may_manage(creator))
			ereport(NOTICE,
					(errmsg("tenant \"%s\" exists already; it is kept as it is",
							sql_printable(tenant)),
					 errdetail("Another role created it.")));
		else if (!same_name || !same_attributes)
			ereport(NOTICE,
					(errmsg("tenant \"%s\" exists already with %s; it is kept as it is",
							sql_printable(tenant),
							same_attributes ? "another name"
							: same_name ? "other attributes"
							: "another name and other attributes"),
					 errhint("See it with: SELECT * FROM tenantmig.tenants WHERE tenant = %s;",
							 sql_literal(tenant))));
	}
	SPI_finish();
}

Datum
tenantmig_create_tenant(PG_FUNCTION_ARGS)
{
	char	   *tenant = registry_tenant_argument(fcinfo);
	char	   *name = get_tenant_name(fcinfo);
	Jsonb	   *attributes = get_attributes(fcinfo);
	OwnQuery	query;

	/* Waits for a session that enters the same tenant, and finds its row */
	query_init(&query, "INSERT INTO tenantmig.tenant "
			   "(tenant, name, attributes, created_by) VALUES ($1, $2, $3, $4) "
			   "ON CONFLICT (tenant) DO NOTHING");
	query_text(&query, tenant);
	query_text(&query, name ? name : tenant);
	query_jsonb(&query, attributes);
	query_name(&query, GetUserNameFromId(GetUserId(), false));
	if (query_once(&query) > 0)
		PG_RETURN_BOOL(true);
	tell_difference(tenant, name, attributes);
	PG_RETURN_BOOL(false);
}
