/*
 * horizon.c
 *		Who keeps old row versions from being removed.
 *
 * Sessions by their snapshot or transaction; standbys that send feedback, by
 * their walsender or their slot; prepared transactions.  What they run is not
 * said here: who may see it finds it in pg_stat_activity.
 */
#include "postgres.h"

#include "executor/spi.h"

#include "engine/compat.h"
#include "engine/horizon.h"
#include "engine/query.h"

char *
horizon_holder(int *pid)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	char	   *holder = NULL;

	*pid = 0;
	query_init(&query,
			   "SELECT pid::bigint, holder FROM ("
			   "SELECT a.pid, CASE WHEN a.backend_type = 'walsender' "
			   "  THEN format('standby %s, which sends feedback', a.application_name) "
			   "  ELSE format('process %s, %s, transaction open for %s', a.pid, "
			   "    coalesce(a.state, a.backend_type), "
			   "    date_trunc('second', clock_timestamp() - a.xact_start)) END AS holder, "
			   "  greatest(age(a.backend_xmin), age(a.backend_xid)) AS age "
			   "FROM pg_stat_activity a "
			   "WHERE a.pid <> pg_backend_pid() AND (a.datname IS NULL OR a.datname = current_database()) "
			   "UNION ALL SELECT s.active_pid, format('replication slot %s', s.slot_name), age(s.xmin) "
			   "FROM pg_replication_slots s "
			   "UNION ALL SELECT NULL, format('prepared transaction %s, since %s', p.gid, "
			   "  date_trunc('second', p.prepared)), age(p.transaction) "
			   "FROM pg_prepared_xacts p WHERE p.database = current_database()) h "
			   "WHERE h.age IS NOT NULL ORDER BY h.age DESC LIMIT 1");
	SPI_connect();
	if (query_run(&query) > 0)
	{
		MemoryContextSwitchTo(context);
		*pid = (int) query_get_int8(0, 1, 0);
		holder = query_get_text(0, 2);
	}
	SPI_finish();
	return holder;
}
