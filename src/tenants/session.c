/*
 * session.c
 *		use_tenant and current_tenant: for whom a session works.
 *
 * The tenant of a session is the value of a custom setting, the same that the
 * policies of enable_rls read.  use_tenant() sets it, after a look into the
 * registry, and puts the schema of a tenant that has one in front of the
 * search_path.  What it sets belongs to the transaction unless is_local is
 * false, so that it works behind a pooler that gives each transaction another
 * session.
 *
 * A session that served a tenant with a schema of its own and now serves
 * another one must not find that schema any more.  So all schemas of tenants
 * are taken out of the search_path first; what else is in it stays.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/varlena.h"

#include "engine/compat.h"
#include "engine/custom_setting.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "tenants/registry.h"
#include "tenants/session.h"

PG_FUNCTION_INFO_V1(tenantmig_use_tenant);
PG_FUNCTION_INFO_V1(tenantmig_current_tenant);

/* Where a tenant lives, and which schemas of a list are those of tenants */
typedef struct Home
{
	char	   *placement;
	char	   *schema_name;	/* NULL unless it has one */
	List	   *tenant_schemas;
} Home;

static List *
search_path_names(void)
{
	char	   *path = GetConfigOptionByName("search_path", NULL, false);
	List	   *names;

	if (!SplitIdentifierString(pstrdup(path), ',', &names))
		elog(ERROR, "invalid list syntax in parameter \"search_path\"");
	return names;
}

static Datum
text_array(List *texts)
{
	Datum	   *elements = palloc(sizeof(Datum) * Max(list_length(texts), 1));
	int			count = 0;
	ListCell   *lc;

	foreach(lc, texts)
		elements[count++] = CStringGetTextDatum((char *) lfirst(lc));
	return PointerGetDatum(construct_array(elements, count, TEXTOID, -1,
										   false, TYPALIGN_INT));
}

/* Raises 42704 if the registry does not know the tenant */
static void
find_home(const char *tenant, List *path, Home *home)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	uint64		found;

	query_init(&query, "SELECT t.placement, s.schema_name, "
			   "CASE WHEN t.placement = 'schema' THEN t.schema_name END "
			   "FROM tenantmig.tenant t LEFT JOIN tenantmig.tenant s "
			   "ON s.placement = 'schema' AND s.schema_name = ANY ($2) "
			   "WHERE t.tenant = $1");
	query_text(&query, tenant);
	query_datum(&query, TEXTARRAYOID, text_array(path), false);
	SPI_connect();
	found = query_run(&query);
	if (found == 0)
		registry_no_tenant(tenant);
	MemoryContextSwitchTo(context);
	home->placement = query_get_text(0, 1);
	home->schema_name = query_get_text(0, 3);
	home->tenant_schemas = NIL;
	for (uint64 i = 0; i < found; i++)
	{
		char	   *schema = query_get_text(i, 2);

		if (schema)
			home->tenant_schemas = lappend(home->tenant_schemas, schema);
	}
	SPI_finish();
}

static bool
has_name(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

static void
set_setting(const char *name, const char *value, bool is_local)
{
	(void) set_config_option(name, value, superuser() ? PGC_SUSET : PGC_USERSET,
							 PGC_S_SESSION,
							 is_local ? GUC_ACTION_LOCAL : GUC_ACTION_SET,
							 true, 0, false);
}

static void
set_path(List *names, const Home *home, bool is_local)
{
	List	   *path = home->schema_name ? list_make1(home->schema_name) : NIL;
	ListCell   *lc;

	if (home->schema_name == NULL && home->tenant_schemas == NIL)
		return;
	foreach(lc, names)
		if (!has_name(home->tenant_schemas, lfirst(lc)) &&
			!has_name(path, lfirst(lc)))
			path = lappend(path, lfirst(lc));
	set_setting("search_path", sql_name_list(path), is_local);
}

void
session_use_tenant(const char *tenant, const char *setting, bool is_local)
{
	List	   *path = search_path_names();
	Home		home;

	custom_setting_check(setting);
	find_home(tenant, path, &home);
	if (strcmp(home.placement, "database") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("tenant \"%s\" lives in a database of its own",
						sql_printable(tenant)),
				 errhint("Connect to that database instead.")));
	set_path(path, &home, is_local);
	set_setting(setting, tenant, is_local);
}

char *
session_setting_argument(FunctionCallInfo fcinfo, int argument)
{
	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("setting must not be null")));
	return text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

Datum
tenantmig_use_tenant(PG_FUNCTION_ARGS)
{
	char	   *tenant = registry_tenant_argument(fcinfo);
	char	   *setting = session_setting_argument(fcinfo, 2);
	bool		is_local;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("is_local must not be null")));
	is_local = PG_GETARG_BOOL(1);
	session_use_tenant(tenant, setting, is_local);

	/* As the server says it of SET LOCAL */
	if (is_local && !IsTransactionBlock() && !IsSubTransaction())
		ereport(WARNING,
				(errcode(ERRCODE_NO_ACTIVE_SQL_TRANSACTION),
				 errmsg("tenant \"%s\" is set for this statement only",
						sql_printable(tenant)),
				 errdetail("There is no transaction block."),
				 errhint("Use BEGIN first, or is_local => false.")));
	PG_RETURN_VOID();
}

/*
 * By GetConfigOptionByName(), as current_setting() does, so that it says what
 * the policies see, also in a session that is locked.  Without an argument it
 * cannot raise an error, nor tell anything about one.
 */
Datum
tenantmig_current_tenant(PG_FUNCTION_ARGS)
{
	const char *setting = PG_NARGS() == 0 ? CUSTOM_SETTING_DEFAULT
		: text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *value = GetConfigOptionByName(setting, NULL, true);

	if (value == NULL || value[0] == '\0')
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(value));
}
