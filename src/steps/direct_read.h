/*
 * direct_read.h
 *		What is known of rows without a statement.
 */
#ifndef TENANTMIG_DIRECT_READ_H
#define TENANTMIG_DIRECT_READ_H

#include "nodes/parsenodes.h"
#include "utils/relcache.h"

#include "steps/pass.h"

/* Whether a statement of the role with these privileges would see the table as
 * it is, and be let in: no policies, no hooks that decide about permissions */
extern bool direct_access_is_plain(Relation relation, Oid role, AclMode privileges);

/*
 * Count what the statement of the batch at hand would count, where that is
 * simple: rows of which none has a value yet, or all have one.  False: nothing
 * was counted.  In the transaction of the batch, as the owner.
 */
extern bool direct_count(const JobRun *run, Pass *pass);

#endif							/* TENANTMIG_DIRECT_READ_H */
