/*
 * stop_point.c
 *		Named places where a test can stop, fail or crash a job.
 */
#include "postgres.h"

#include "engine/stop_point.h"

#ifdef TENANTMIG_STOP_POINTS

#include <signal.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/backend_status.h"
#include "utils/guc.h"

#include "engine/settings.h"

static bool
at_point(const char *name, const char *action)
{
	char		want[128];

	snprintf(want, sizeof(want), "%s:%s", name, action);
	return setting_stop_point && strcmp(setting_stop_point, want) == 0;
}

void
stop_point(const char *name)
{
	char		appname[NAMEDATALEN];

	strlcpy(appname, MyBEEntry->st_appname, sizeof(appname));
	while (at_point(name, "wait"))
	{
		pgstat_report_appname(psprintf("tenantmig at %s", name));
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 1000, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();

		/*
		 * Whether it was signalled or not: a SIGHUP that comes while a worker
		 * starts is lost, and the test would wait for ever.
		 */
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		if (!at_point(name, "wait"))
			pgstat_report_appname(appname);
	}
	if (at_point(name, "error"))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("stop point \"%s\" reached", name)));
	if (at_point(name, "crash"))
		kill(MyProcPid, SIGKILL);
	if (at_point(name, "exit"))
	{
		kill(MyProcPid, SIGTERM);
		for (;;)
			CHECK_FOR_INTERRUPTS();
	}
}

#endif
