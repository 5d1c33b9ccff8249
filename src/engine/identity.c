/*
 * identity.c
 *		As whom the code runs: the caller, the table's owner, the extension.
 *
 * A worker's session is the bootstrap superuser's, since only that one is
 * sure to get in whatever happens to the table's owner (NOLOGIN, connection
 * limits), and can say why a job fails.  What belongs to the user, though,
 * never runs with more than the owner's rights: identity_enter_owner()
 * switches to the owner in a security-restricted operation, as REINDEX,
 * VACUUM and logical replication do.  In there SET ROLE, SET/RESET SESSION
 * AUTHORIZATION, temporary objects, cursors that outlive the transaction and
 * deferred triggers are refused by the server.  SECURITY_NOFORCE_RLS is what
 * referential integrity uses: the owner's FORCE ROW LEVEL SECURITY, which the
 * owner could lift, does not hide rows from the job.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "engine/compat.h"
#include "engine/identity.h"

static void
enter(Identity *saved, Oid user, int sec_context)
{
	GetUserIdAndSecContext(&saved->user, &saved->sec_context);
	saved->guc_level = NewGUCNestLevel();
	SetUserIdAndSecContext(user, saved->sec_context | sec_context);
}

static void
set_search_path(const char *path)
{
	(void) set_config_option("search_path", path, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

void
identity_enter_extension(Identity *saved)
{
	enter(saved, BOOTSTRAP_SUPERUSERID, SECURITY_LOCAL_USERID_CHANGE);
	set_search_path("pg_catalog, pg_temp");
}

void
identity_enter_owner(Identity *saved, Oid owner, const char *search_path)
{
	enter(saved, owner,
		  SECURITY_RESTRICTED_OPERATION | SECURITY_NOFORCE_RLS);
	if (search_path)
		set_search_path(psprintf("%s%spg_temp", search_path,
								 search_path[0] ? ", " : ""));
}

void
identity_leave(const Identity *saved)
{
	AtEOXact_GUC(false, saved->guc_level);
	SetUserIdAndSecContext(saved->user, saved->sec_context);
}

int64
identity_home(void)
{
	return (int64) (GetSystemIdentifier() ^
					((uint64) MyDatabaseId << 20));
}
