/*
 * plan_lock.h
 *		What a plan says of the locks that a job takes.
 */
#ifndef TENANTMIG_PLAN_LOCK_H
#define TENANTMIG_PLAN_LOCK_H

#include "storage/lock.h"

/* One sentence: which lock on which relation, how long it is held in the normal
 * case ("while the index is built"), and who waits meanwhile; palloc'd */
extern char *plan_lock(Oid relid, LOCKMODE mode, const char *how_long);

#endif							/* TENANTMIG_PLAN_LOCK_H */
