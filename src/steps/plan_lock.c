/*
 * plan_lock.c
 *		What a plan says of the locks that a job takes.
 */
#include "postgres.h"

#include "engine/compat.h"
#include "engine/settings.h"
#include "engine/sqltext.h"
#include "steps/plan_lock.h"

static const struct
{
	LOCKMODE	mode;
	const char *name;			/* as in LOCK TABLE */
	const char *who;
} modes[] = {
	{AccessShareLock, "ACCESS SHARE", "nobody but DDL waits"},
	{RowExclusiveLock, "ROW EXCLUSIVE", "nobody but DDL waits"},
	{ShareUpdateExclusiveLock, "SHARE UPDATE EXCLUSIVE",
	"VACUUM, ANALYZE and DDL wait; readers and writers do not"},
	{ShareLock, "SHARE", "writers wait; readers do not"},
	{ShareRowExclusiveLock, "SHARE ROW EXCLUSIVE", "writers wait; readers do not"},
	{AccessExclusiveLock, "ACCESS EXCLUSIVE", "readers and writers wait"},
};

char *
plan_lock(Oid relid, LOCKMODE mode, const char *how_long)
{
	for (int i = 0; i < lengthof(modes); i++)
		if (modes[i].mode == mode)
			return psprintf("%s on %s %s: %s%s", modes[i].name, sql_relation(relid),
							how_long, modes[i].who,
							mode < ShareLock ? ""
							: psprintf("; asked for during %d ms at most, then withdrawn and asked for again",
									   setting_lock_timeout));
	elog(ERROR, "unexpected lock mode %d", mode);
}
