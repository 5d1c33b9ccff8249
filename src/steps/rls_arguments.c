/*
 * rls_arguments.c
 *		What a call of enable_rls says: checked, recorded, read again.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "engine/compat.h"
#include "engine/custom_setting.h"
#include "engine/json.h"
#include "engine/sqltext.h"
#include "steps/rls.h"
#include "steps/target.h"

PG_FUNCTION_INFO_V1(tenantmig_required_setting);

bool
rls_raises_when_missing(const char *on_missing)
{
	if (strcmp(on_missing, "error") == 0)
		return true;
	if (strcmp(on_missing, "deny") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid on_missing \"%s\"", sql_printable(on_missing)),
				 errhint("Use 'deny' (no rows, and no writes) or 'error'.")));
	return false;
}

static int
compare_names(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

static bool
list_has_name(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

static bool
role_exists(const char *name)
{
	return strcmp(name, "public") == 0 || OidIsValid(get_role_oid(name, true));
}

/* Sorted and each once, so that the same roles are the same call */
static List *
check_roles(List *names, const char *argument)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, names)
	{
		char	   *name = lfirst(lc);

		if (!role_exists(name))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("role \"%s\" does not exist", sql_printable(name)),
					 errdetail("It is named in %s.", argument),
					 errhint("Create it with CREATE ROLE, or name another one; upper and lower case are told apart.")));
		if (!list_has_name(result, name))
			result = lappend(result, name);
	}
	list_sort(result, compare_names);
	return result;
}

void
rls_check_arguments(RlsArguments *arguments)
{
	ListCell   *lc;

	custom_setting_check(arguments->setting);
	if (arguments->roles == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("roles must not be empty"),
				 errhint("Name the roles that the application connects as, or '{public}' for everybody.")));
	arguments->roles = check_roles(arguments->roles, "roles");
	arguments->admin_roles = check_roles(arguments->admin_roles, "admin_roles");
	if (list_has_name(arguments->admin_roles, "public"))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("public cannot be an admin role"),
				 errdetail("Everybody would see all tenants.")));
	foreach(lc, arguments->admin_roles)
		if (list_has_name(arguments->roles, lfirst(lc)))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("role \"%s\" is named in both roles and admin_roles",
							(char *) lfirst(lc)),
					 errhint("Name it once: an admin role sees all tenants.")));
	if (list_has_name(arguments->roles, "public"))
		arguments->roles = list_make1(pstrdup("public"));
}

Jsonb *
rls_arguments_to_json(const RlsArguments *arguments)
{
	JsonObject *object = json_begin();

	json_put_text(object, "column", arguments->column);
	json_put_text(object, "setting", arguments->setting);
	json_put_list(object, "roles", arguments->roles);
	json_put_list(object, "admin_roles", arguments->admin_roles);
	json_put_bool(object, "force", arguments->force);
	json_put_text(object, "on_missing",
				  arguments->raise_missing ? "error" : "deny");
	json_put_bool(object, "inline", arguments->inlined);
	json_put_bool(object, "set_default", arguments->set_default);
	return json_end(object);
}

void
rls_arguments_from_json(Jsonb *object, RlsArguments *arguments)
{
	arguments->column = json_text(object, "column");
	arguments->setting = json_text(object, "setting");
	arguments->roles = json_list(object, "roles");
	arguments->admin_roles = json_list(object, "admin_roles");
	arguments->force = json_bool(object, "force", true);
	arguments->raise_missing = strcmp(json_text(object, "on_missing"),
									  "error") == 0;
	arguments->inlined = json_bool(object, "inline", false);
	arguments->set_default = json_bool(object, "set_default", false);
}

bool
rls_arguments_hold(const RlsArguments *arguments, Oid relid)
{
	TargetColumn column;
	ListCell   *lc;

	foreach(lc, arguments->roles)
		if (!role_exists(lfirst(lc)))
			return false;
	foreach(lc, arguments->admin_roles)
		if (!role_exists(lfirst(lc)))
			return false;
	return target_find_column(relid, arguments->column, &column);
}

/*
 * The setting that a policy made with on_missing => 'error' compares with;
 * raises when there is none.  After the end of a transaction that set it with
 * SET LOCAL it is an empty string.
 */
Datum
tenantmig_required_setting(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *value = GetConfigOptionByName(name, NULL, true);

	if (value == NULL || value[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("setting \"%s\" is not set", name),
				 errdetail("Row-level security compares it with the tenant of each row."),
				 errhint("Set it to the tenant in each transaction, with: SET LOCAL %s = '...';",
						 name)));
	PG_RETURN_TEXT_P(cstring_to_text(value));
}
