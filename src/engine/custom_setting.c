/*
 * custom_setting.c
 *		The setting of the user's that names the tenant of a session.
 */
#include "postgres.h"

#include "engine/compat.h"
#include "engine/custom_setting.h"
#include "engine/sqltext.h"

/* The rule of the server for custom settings: simple identifiers and dots */
static bool
is_custom_setting(const char *name)
{
	bool		qualified = false;
	bool		at_start = true;

	for (const char *p = name; *p; p++)
	{
		if (*p == '.')
		{
			if (at_start)
				return false;
			qualified = at_start = true;
		}
		else if ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
				 *p == '_' || IS_HIGHBIT_SET(*p))
			at_start = false;
		else if (at_start || strchr("0123456789$", *p) == NULL)
			return false;
	}
	return qualified && !at_start;
}

void
custom_setting_check(const char *name)
{
	if (!is_custom_setting(name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not the name of a custom setting",
						sql_printable(name)),
				 errdetail("It takes two or more simple identifiers with dots in between."),
				 errhint("Use a name such as app.current_tenant_id.")));
	if (pg_strncasecmp(name, "tenantmig.", strlen("tenantmig.")) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("setting \"%s\" belongs to tenantmig", name),
				 errhint("Use a name such as app.current_tenant_id.")));
}
