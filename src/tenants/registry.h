/*
 * registry.h
 *		The tenants that this database knows.
 */
#ifndef TENANTMIG_REGISTRY_H
#define TENANTMIG_REGISTRY_H

#include "fmgr.h"

#include "engine/compat.h"

/* The first argument of a function that is called for a tenant, palloc'd;
 * raises 22004 if it is null and 22023 if it is empty */
extern char *registry_tenant_argument(FunctionCallInfo fcinfo);

/* Whether the current user has the rights of who entered a tenant */
extern bool registry_may_manage(const char *creator);

/* Raise 42704 */
pg_noreturn extern void registry_no_tenant(const char *tenant);

#endif							/* TENANTMIG_REGISTRY_H */
