/*
 * settings.c
 *		The tenantmig.* configuration parameters.
 *
 * All have real types and units, so that ALTER SYSTEM, ALTER DATABASE and SET
 * check what they are given.  A job's options (see throttle.h) come before
 * the settings.
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"

#include "engine/settings.h"

int			setting_lock_timeout = 500;
int			setting_lock_retries = 30;
int			setting_max_workers = 2;
int			setting_batch_target = 200;
int			setting_max_wal_rate = 0;
int			setting_max_replication_lag = 0;
int			setting_max_slot_retention = 0;
int			setting_max_archive_backlog = 0;
bool		setting_yield_to_vacuum = true;
int			setting_max_vacuum_rest = 600000;
int			setting_max_waiters = 0;
double		setting_nice = 0;
bool		setting_give_way = true;
bool		setting_autostart = true;

#ifdef TENANTMIG_STOP_POINTS
char	   *setting_stop_point = NULL;
#endif

/* Limits on what others than the job show */
static void
define_limits_on_server(void)
{
	DefineCustomIntVariable("tenantmig.max_replication_lag",
							"A job rests while a standby replays later than this.",
							"Zero means no limit.",
							&setting_max_replication_lag, 0, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("tenantmig.max_slot_retention",
							"A job rests while a replication slot retains more WAL than this.",
							"Zero means no limit.",
							&setting_max_slot_retention, 0, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("tenantmig.max_archive_backlog",
							"A job rests while more WAL segments than this wait for the archiver.",
							"Zero means no limit.",
							&setting_max_archive_backlog, 0, 0, INT_MAX,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("tenantmig.yield_to_vacuum",
							 "A job rests while its table is vacuumed.",
							 "No longer than tenantmig.max_vacuum_rest.",
							 &setting_yield_to_vacuum, true,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("tenantmig.max_vacuum_rest",
							"Longest time that a job rests because its table is vacuumed.",
							"Then it goes on until there is no VACUUM of the table any more.",
							&setting_max_vacuum_rest, 600000, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("tenantmig.max_waiters",
							"A job rests, and takes smaller batches, if more sessions than this waited for its last batch.",
							"-1 means no limit.",
							&setting_max_waiters, 0, -1, INT_MAX,
							PGC_USERSET, 0, NULL, NULL, NULL);
}

void
settings_define(void)
{
	DefineCustomIntVariable("tenantmig.lock_timeout",
							"Longest time that a strong lock on a table is waited for at once.",
							"Sessions that come after it wait no longer than this. The lock is asked for again tenantmig.lock_retries times.",
							&setting_lock_timeout, 500, 1, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("tenantmig.lock_retries",
							"How many times a lock that was not had is asked for again.",
							NULL,
							&setting_lock_retries, 30, 0, 100000,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("tenantmig.max_workers",
							"How many background workers may work on the jobs of one database at once.",
							"They are taken from max_worker_processes.",
							&setting_max_workers, 2, 0, 256,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("tenantmig.batch_target",
							"Execution time that one batch of a backfill aims at.",
							NULL,
							&setting_batch_target, 200, 1, 60000,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("tenantmig.max_wal_rate",
							"Most WAL that all jobs together may write in a second.",
							"Each process that works on a job has an equal part of it. Zero means no limit.",
							&setting_max_wal_rate, 0, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_KB, NULL, NULL, NULL);
	define_limits_on_server();
	DefineCustomRealVariable("tenantmig.nice",
							 "Time a job rests after each batch, as a share of the time the batch took.",
							 "1 means as long as the batch took.",
							 &setting_nice, 0, 0, 1000,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("tenantmig.give_way",
							 "Offer the processor to other processes while a job works.",
							 "By sched_yield(), every 50 microseconds or so.",
							 &setting_give_way, true,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("tenantmig.autostart",
							 "Resume interrupted jobs when the server starts.",
							 "Needs tenantmig in shared_preload_libraries.",
							 &setting_autostart, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
#ifdef TENANTMIG_STOP_POINTS
	DefineCustomStringVariable("tenantmig.stop_point",
							   "Where to stop, and how: \"name:wait\", \"name:error\", \"name:crash\" or \"name:exit\".",
							   "Only in builds made for tests.",
							   &setting_stop_point, "",
							   PGC_SUSET, 0, NULL, NULL, NULL);
#endif
	MarkGUCPrefixReserved("tenantmig");
}
