/*
 * write_behind.h
 *		What a job has changed goes to the disk while it works.
 */
#ifndef TENANTMIG_WRITE_BEHIND_H
#define TENANTMIG_WRITE_BEHIND_H

#include "datatype/timestamp.h"
#include "storage/block.h"
#include "utils/relcache.h"

/* Of one table; zero at first */
typedef struct WriteBehind
{
	Oid			relid;
	BlockNumber end;			/* of the table; what was added before is written */
	TimestampTz tell_at;		/* when to tell the disk of all files again */
} WriteBehind;

/*
 * The rows in blocks [from, until) have been done.  What was done some time ago
 * is written, also what was added to the table, and the disk is told of it and of
 * the indexes.  In a transaction that has the table locked.
 */
extern void write_behind(WriteBehind *state, Relation relation,
						 BlockNumber from, BlockNumber until);

#endif							/* TENANTMIG_WRITE_BEHIND_H */
