/*
 * index_writeback.c
 *		An index that is being built goes to the disk while it grows.
 *
 * CREATE INDEX writes past shared buffers, and makes the file durable when it is
 * complete: all of it at once.  Everybody's commits wait for that, 150 ms for an
 * index of 200 MB.  Nothing in the server asks the disk to begin before; so we do,
 * from a timer, since the command does not return to us in between.
 *
 * The timer's handler interrupts the server anywhere.  It may make system calls,
 * on a path that it is given when the file is made, and nothing else: no memory,
 * no locks, no errors.  That the file is gone or grows is no matter; it asks for
 * what there is.
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/timeout.h"

#include "engine/compat.h"
#include "engine/index_writeback.h"

#ifdef HAVE_SYNC_FILE_RANGE

#define INTERVAL	50			/* ms */

static volatile sig_atomic_t has_file = false;
static char path[MAXPGPATH];	/* of the file, once there is one */
static int	segment;			/* the last one that was there */
static TimeoutId timeout;
static bool installed = false;
static bool active = false;
static object_access_hook_type next_hook;

static bool
tell_segment(int number)
{
	char		segment_path[MAXPGPATH + 12];
	int			fd;

	if (number == 0)
		strlcpy(segment_path, path, sizeof(segment_path));
	else
		snprintf(segment_path, sizeof(segment_path), "%s.%d", path, number);
	fd = open(segment_path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return false;
	(void) sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
	(void) close(fd);
	return true;
}

/*
 * The timer: errno is restored by those who call it.  Where the disk has much to
 * do already, the call waits; not while others wait for us to write WAL.
 */
static void
tell_disk(void)
{
	if (!has_file || CritSectionCount > 0)
		return;
	(void) tell_segment(segment);
	while (tell_segment(segment + 1))
		segment++;
}

/* The relation is in the relation cache, but cannot be seen in the catalog yet */
static void
note_index(ObjectAccessType access, Oid class, Oid object, int subobject, void *arg)
{
	Relation	relation;

	if (next_hook)
		next_hook(access, class, object, subobject, arg);
	if (!active || access != OAT_POST_CREATE || class != RelationRelationId || subobject != 0)
		return;
	relation = RelationIdGetRelation(object);
	if (!RelationIsValid(relation))
		return;
	if (relation->rd_rel->relkind == RELKIND_INDEX)
	{
		has_file = false;
		segment = 0;
		relation_path(relation, path, sizeof(path));
		has_file = true;
	}
	RelationClose(relation);
}

void
index_writeback_begin(void)
{
	if (!installed)
	{
		timeout = RegisterTimeout(USER_TIMEOUT, tell_disk);
		next_hook = object_access_hook;
		object_access_hook = note_index;
		installed = true;
	}
	if (!disk_is_told())
		return;
	has_file = false;
	active = true;
	enable_timeout_every(timeout, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), INTERVAL),
						 INTERVAL);
}

void
index_writeback_end(void)
{
	if (!active)
		return;
	disable_timeout(timeout, false);
	active = false;
}

#else

/* Elsewhere the server does not ask for this either */
void
index_writeback_begin(void)
{
}

void
index_writeback_end(void)
{
}

#endif
