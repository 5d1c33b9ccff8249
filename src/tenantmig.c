/*
 * tenantmig.c
 *		Change the tenancy of a live database from inside the server.
 *
 * The rooms: engine/ runs jobs, steps/ holds one file for each kind of job,
 * tenants/ knows the tenants, checks/ looks and reports.  tenants and checks
 * use the engine, never the reverse.
 */
#include "postgres.h"

#include "fmgr.h"

#include "engine/compat.h"
#include "engine/launcher.h"
#include "engine/settings.h"
#include "engine/worker.h"
#include "tenants/session.h"

MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	settings_define();
	session_lock_define();
	worker_init();
	launcher_init();
}
