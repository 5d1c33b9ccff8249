/*
 * lock.c
 *		lock_tenant: a session that works for one tenant and no other.
 *
 * A custom setting belongs to whoever can run SQL.  To lock it, it becomes a
 * real variable of the server, defined by this library in this session, with
 * two hooks.
 *
 *	show	answers with the tenant of the lock, whatever the variable holds.
 *			current_setting(), which the policies call, asks it.  So nothing
 *			that changes the variable changes what the policies see: SET, RESET,
 *			DISCARD ALL, the end of a transaction that has used SET LOCAL, a
 *			rollback, the end of a function with a SET clause.
 *	check	refuses SET, set_config() and functions with a SET clause for any
 *			other tenant, so that an application learns of its mistake.  RESET
 *			and its kin never ask; they have no effect.
 *
 * The lock is no part of the transaction: it holds from the moment it is taken,
 * and a rollback, which is what an attacker can always provoke, does not open
 * it.  It ends with the session, or by its token, a random number that only
 * the answer of lock_tenant() has.
 *
 * Parallel workers get the variables of their leader, not what its libraries
 * keep.  So the lock is also kept in a variable of our own.  It can be set by
 * nobody but this file: its context keeps SET away, its check hook all else; it
 * is set as an override of its default, so that neither RESET nor a rollback
 * changes it.  A worker loads the library first and then takes over the
 * variables: when ours comes, the assign hook takes the lock there.
 *
 * A variable, once defined, stays.  The hooks do not know for which variable
 * they are called, hence one setting that can be locked in a session.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "engine/compat.h"
#include "engine/custom_setting.h"
#include "engine/sqltext.h"
#include "tenants/registry.h"
#include "tenants/session.h"

PG_FUNCTION_INFO_V1(tenantmig_lock_tenant);
PG_FUNCTION_INFO_V1(tenantmig_unlock_tenant);
PG_FUNCTION_INFO_V1(tenantmig_locked_tenant);

#define LOCK_VARIABLE	"tenantmig.session_lock"

#define TOKEN_BYTES		16
#define TOKEN_LENGTH	(2 * TOKEN_BYTES)
#define MOST_WRONG		3		/* wrong tokens before the session is ended */

static char *locked_tenant = NULL;	/* NULL: not locked */
static char token[TOKEN_LENGTH + 1];
static int	wrong = 0;

/* The setting of the user's, once it is ours */
static char *setting_name = NULL;
static char *setting_value = NULL;

/* "setting=tenant", or empty, for parallel workers */
static char *lock_variable = NULL;
static bool setting_lock_variable = false;

/* --- the setting ------------------------------------------------------ */

static const char *
show_setting(void)
{
	if (locked_tenant)
		return locked_tenant;
	return setting_value ? setting_value : "";
}

/* What is not asked for by a statement, such as a line of postgresql.conf, is
 * let through: it is not seen anyhow */
static bool
check_setting(char **newval, void **extra, GucSource source)
{
	if (locked_tenant == NULL || source < PGC_S_SESSION ||
		InitializingParallelWorker ||
		(*newval && strcmp(*newval, locked_tenant) == 0))
		return true;
	GUC_check_errcode(ERRCODE_INSUFFICIENT_PRIVILEGE);
	GUC_check_errmsg("setting \"%s\" is locked in this session", setting_name);
	GUC_check_errdetail("It stays \"%s\" until the session is unlocked.",
						sql_printable(locked_tenant));
	GUC_check_errhint("Use the token that tenantmig.lock_tenant() has returned: SELECT tenantmig.unlock_tenant('...');");
	return false;
}

static void
define_setting(const char *name)
{
	if (setting_name)
		return;
	setting_name = MemoryContextStrdup(TopMemoryContext, name);
	DefineCustomStringVariable(setting_name, "The tenant of the session.", NULL,
							   &setting_value, NULL, PGC_USERSET,
							   GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
							   check_setting, NULL, show_setting);
}

/* Raise 55000 if the setting cannot be locked */
static void
check_lockable(const char *name)
{
	if (setting_name && pg_strcasecmp(setting_name, name) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot lock setting \"%s\"", name),
				 errdetail("This session has locked setting \"%s\" before, and can lock only one.",
						   setting_name),
				 errhint("Use a new session.")));
	if (setting_name == NULL &&
		(GetConfigOptionFlags(name, true) & GUC_CUSTOM_PLACEHOLDER) == 0 &&
		GetConfigOptionByName(name, NULL, true) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot lock setting \"%s\"", name),
				 errdetail("Another library has defined it."),
				 errhint("Use a name such as app.current_tenant_id, in the policies too.")));
}

/* --- for parallel workers --------------------------------------------- */

static bool
check_lock_variable(char **newval, void **extra, GucSource source)
{
	if (*newval == NULL || (*newval)[0] == '\0' || setting_lock_variable ||
		InitializingParallelWorker)
		return true;
	GUC_check_errcode(ERRCODE_INSUFFICIENT_PRIVILEGE);
	GUC_check_errmsg("parameter \"%s\" is set by tenantmig.lock_tenant() only",
					 LOCK_VARIABLE);
	return false;
}

static void
assign_lock_variable(const char *newval, void *extra)
{
	char	   *equals;

	if (!InitializingParallelWorker || newval == NULL)
		return;
	equals = strchr(newval, '=');
	if (equals == NULL)
		return;
	define_setting(pnstrdup(newval, equals - newval));
	locked_tenant = MemoryContextStrdup(TopMemoryContext, equals + 1);
}

static void
set_lock_variable(const char *value)
{
	setting_lock_variable = true;
	PG_TRY();
	{
		(void) set_config_option(LOCK_VARIABLE, value, PGC_SU_BACKEND,
								 PGC_S_OVERRIDE, GUC_ACTION_SET, true, 0, false);
	}
	PG_FINALLY();
	{
		setting_lock_variable = false;
	}
	PG_END_TRY();
}

void
session_lock_define(void)
{
	DefineCustomStringVariable(LOCK_VARIABLE,
							   "Passes the lock of a session on to its parallel workers.",
							   NULL, &lock_variable, "", PGC_SU_BACKEND,
							   GUC_NO_SHOW_ALL | GUC_NO_RESET_ALL | GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE,
							   check_lock_variable, assign_lock_variable, NULL);
}

/* --- the functions ---------------------------------------------------- */

static void
make_token(void)
{
	uint8		bytes[TOKEN_BYTES];

	if (!pg_strong_random(bytes, sizeof(bytes)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random token")));
	for (int i = 0; i < TOKEN_BYTES; i++)
		snprintf(token + 2 * i, 3, "%02x", bytes[i]);
	explicit_bzero(bytes, sizeof(bytes));
}

/* In a time that does not tell where they differ */
static bool
is_token(const char *given)
{
	unsigned char difference = 0;

	if (strlen(given) != TOKEN_LENGTH)
		return false;
	for (int i = 0; i < TOKEN_LENGTH; i++)
		difference |= given[i] ^ token[i];
	return difference == 0;
}

Datum
tenantmig_lock_tenant(PG_FUNCTION_ARGS)
{
	char	   *tenant = registry_tenant_argument(fcinfo);
	char	   *setting = session_setting_argument(fcinfo, 1);

	if (locked_tenant)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("session is locked already, for tenant \"%s\"",
						sql_printable(locked_tenant)),
				 errhint("Use the token that tenantmig.lock_tenant() has returned: SELECT tenantmig.unlock_tenant('...');")));
	/* what runs in there, such as an index function in VACUUM, must leave no
	 * trace in the session */
	if (InSecurityRestrictedOperation())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot lock the session within security-restricted operation")));
	custom_setting_check(setting);
	check_lockable(setting);
	session_use_tenant(tenant, setting, false);
	define_setting(setting);
	make_token();
	set_lock_variable(psprintf("%s=%s", setting_name, tenant));
	locked_tenant = MemoryContextStrdup(TopMemoryContext, tenant);
	wrong = 0;
	PG_RETURN_TEXT_P(cstring_to_text(token));
}

static void
wrong_token(void)
{
	wrong++;
	if (wrong >= MOST_WRONG)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PASSWORD),
				 errmsg("terminating connection after %d wrong tokens", wrong)));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PASSWORD),
			 errmsg("wrong token"),
			 errdetail("The session stays locked for tenant \"%s\". After %d wrong tokens it is ended.",
					   sql_printable(locked_tenant), MOST_WRONG)));
}

Datum
tenantmig_unlock_tenant(PG_FUNCTION_ARGS)
{
	if (locked_tenant == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("session is not locked")));
	if (PG_ARGISNULL(0) || !is_token(text_to_cstring(PG_GETARG_TEXT_PP(0))))
		wrong_token();
	set_lock_variable("");
	pfree(locked_tenant);
	locked_tenant = NULL;
	explicit_bzero(token, sizeof(token));
	/* nobody's, until somebody says whose */
	(void) set_config_option(setting_name, "", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SET, true, 0, false);
	PG_RETURN_VOID();
}

Datum
tenantmig_locked_tenant(PG_FUNCTION_ARGS)
{
	if (locked_tenant == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(locked_tenant));
}
