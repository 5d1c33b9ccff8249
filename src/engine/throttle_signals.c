/*
 * throttle_signals.c
 *		What the server says of its standbys, slots, archiver and VACUUMs.
 *
 * Read by SQL, as everybody else would; for that reason not after each batch,
 * but once a second.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "engine/compat.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "engine/throttle_limits.h"

static void
read_lag(Signals *signals)
{
	OwnQuery	query;

	query_init(&query, "SELECT max(extract(epoch FROM replay_lag) * 1000)::bigint "
			   "FROM pg_stat_replication");
	query_run(&query);
	signals->lag_ms = query_get_int8(0, 1, -1);
}

/* A slot that is lost keeps no WAL, and a rest does not bring it back */
static void
read_slot(Signals *signals)
{
	OwnQuery	query;

	query_init(&query, "SELECT slot_name::text, "
			   "pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint, "
			   "wal_status = 'unreserved' FROM pg_replication_slots "
			   "WHERE restart_lsn IS NOT NULL AND wal_status IS DISTINCT FROM 'lost' "
			   "ORDER BY restart_lsn LIMIT 1");
	if (query_run(&query) == 0)
		return;
	namestrcpy(&signals->slot, query_get_text(0, 1));
	signals->slot_bytes = Max(0, query_get_int8(0, 2, 0));
	signals->slot_unreserved = query_get_bool(0, 3);
}

static void
read_archive(Signals *signals)
{
	OwnQuery	query;

	signals->archive_ready = -1;
	if (!XLogArchivingActive())
		return;
	query_init(&query, "SELECT count(*) FROM pg_ls_archive_statusdir() "
			   "WHERE right(name, 6) = '.ready'");
	query_run(&query);
	signals->archive_ready = query_get_int8(0, 1, 0);
}

/*
 * A VACUUM that runs or waits on the table or on what inherits from it, by the
 * lock that it holds all the while, also on the table whose TOAST it is at.
 * One that waits for a job of ours would wait all the longer if we rested.
 */
static void
read_vacuum(Signals *signals, Oid relid)
{
	OwnQuery	query;
	char	   *relation;

	query_init(&query, "WITH RECURSIVE vacuum(pid, relid) AS ( "
			   " SELECT l.pid, l.relation FROM pg_locks l "
			   " WHERE l.locktype = 'relation' AND l.database = $2 "
			   "  AND l.mode IN ('ShareUpdateExclusiveLock', 'AccessExclusiveLock') "
			   "  AND CASE WHEN l.granted THEN "
			   "   EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.pid = l.pid) "
			   "   OR EXISTS (SELECT FROM pg_stat_progress_cluster c WHERE c.pid = l.pid) "
			   "  ELSE EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = l.pid "
			   "    AND a.query ~* '^\\s*(autovacuum: )?vacuum\\M') "
			   "   AND NOT EXISTS (SELECT FROM pg_stat_activity w "
			   "    WHERE w.pid = ANY (pg_blocking_pids(l.pid)) "
			   "     AND w.backend_type = 'tenantmig worker') END), "
			   "up(pid, relid, ancestor) AS ( "
			   " SELECT pid, relid, relid FROM vacuum UNION "
			   " SELECT up.pid, up.relid, i.inhparent "
			   " FROM up JOIN pg_inherits i ON i.inhrelid = up.ancestor) "
			   "SELECT pid, relid FROM up WHERE ancestor = $1 ORDER BY pid LIMIT 1");
	query_oid(&query, relid);
	query_oid(&query, MyDatabaseId);
	if (query_run(&query) == 0)
		return;
	signals->vacuum_pid = (int) query_get_int8(0, 1, 0);
	relation = sql_relation(query_get_oid(0, 2));
	strlcpy(signals->vacuum_relation, relation ? relation : "a relation that is gone",
			sizeof(signals->vacuum_relation));
}

void
signals_read(Signals *signals, int which, Oid relid)
{
	memset(signals, 0, sizeof(Signals));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	if (which & SIGNAL_LAG)
		read_lag(signals);
	if (which & SIGNAL_SLOT)
		read_slot(signals);
	if (which & SIGNAL_ARCHIVE)
		read_archive(signals);
	if (which & SIGNAL_VACUUM)
		read_vacuum(signals, relid);
	if (which & SIGNAL_WORKERS)
		signals->workers = lock_workers();
	SPI_finish();
	signals->read = which;
}
