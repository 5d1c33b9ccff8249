/*
 * leaf_progress.h
 *		How far a job is in each partition of its table.
 */
#ifndef TENANTMIG_LEAF_PROGRESS_H
#define TENANTMIG_LEAF_PROGRESS_H

#include "steps/pass.h"

/* Outside of any transaction: forget what was counted, before it is counted
 * anew */
extern void leaf_progress_forget(JobRun *run);

/*
 * Within the transaction of a batch, after its progress row was written: add
 * what it has counted, if these are the totals, and what it has changed in its
 * leaf.  Nothing if the table has but one.
 */
extern void leaf_progress_add(JobRun *run, const Pass *pass, int64 counted);

#endif							/* TENANTMIG_LEAF_PROGRESS_H */
