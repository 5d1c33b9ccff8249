/*
 * kinds.h
 *		The kinds of job, one for each file.
 */
#ifndef TENANTMIG_KINDS_H
#define TENANTMIG_KINDS_H

#include "engine/step.h"

extern const StepOps column_ops;	/* add_tenant_column, direct */
extern const StepOps backfill_ops;
extern const StepOps index_ops; /* create_index */
extern const StepOps not_null_ops;	/* set_not_null */
extern const StepOps scope_unique_ops;
extern const StepOps foreign_key_ops;	/* add_foreign_key */
extern const StepOps primary_key_ops;	/* set_primary_key */
extern const StepOps rls_enable_ops;	/* enable_rls, direct */
extern const StepOps rls_disable_ops;	/* disable_rls, direct */
extern const StepOps fence_ops; /* fence_tenants, direct */
extern const StepOps unfence_ops;	/* unfence_tenants, direct */
extern const StepOps undo_ops;

#endif							/* TENANTMIG_KINDS_H */
