/*
 * audit_condition.h
 *		Parts of the trees of conditions, as the audit sees them.
 */
#ifndef TENANTMIG_AUDIT_CONDITION_H
#define TENANTMIG_AUDIT_CONDITION_H

#include "nodes/primnodes.h"

#include "checks/audit.h"

/* Below casts of all kinds; *cast: there are some */
extern Node *condition_strip_casts(Node *node, bool *cast);

/* The tenant column itself, or the same in lower case; *cast: behind a cast
 * that hides it from an index */
extern bool condition_is_tenant(Node *node, const AuditTable *table,
								bool *cast);

/* Whether a column of the table is in it; InvalidAttrNumber: any */
extern bool condition_mentions(Node *node, AttrNumber attnum);

/* An operator that a btree operator family has as equality */
extern bool condition_is_equality(Oid operator);

/* Reads a setting or calls a stable function of somebody's, and has the same
 * value for every row; the server's own, such as now(), cost nothing */
extern bool condition_is_once_a_query(Node *node);

#endif							/* TENANTMIG_AUDIT_CONDITION_H */
