/*
 * direct_update.h
 *		Updates of rows that are known by their places, without a statement.
 */
#ifndef TENANTMIG_DIRECT_UPDATE_H
#define TENANTMIG_DIRECT_UPDATE_H

#include "steps/pass.h"

/*
 * Do what the statement of the batch at hand would do, if it is one that can be
 * done so; false: nothing was done.  In the transaction of the batch, as the
 * owner.  *rows: so many were updated.  Raises what the statement would raise.
 */
extern bool direct_update(JobRun *run, Pass *pass, int64 *rows);

#endif							/* TENANTMIG_DIRECT_UPDATE_H */
