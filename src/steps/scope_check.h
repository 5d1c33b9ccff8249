/*
 * scope_check.h
 *		What can be scoped, and what is to be known before.
 */
#ifndef TENANTMIG_SCOPE_CHECK_H
#define TENANTMIG_SCOPE_CHECK_H

#include "nodes/pg_list.h"
#include "utils/jsonb.h"

/* The index of a unique constraint or index that can be scoped; an error that says
 * what to do otherwise */
extern Oid	scope_check(Oid relid, const char *name, const char *column);

/* Raises an error if one column more would be too many */
extern void scope_check_room(Oid relid, Jsonb *key, const char *column);

/* Whether it stays unique for rows that the old one knew: the column is NOT NULL.
 * Changes: a List of UniqueChange * */
extern void scope_check_change(Oid relid, List *changes, const char *column);

/* For plan and report, as texts */
extern List *scope_warnings(Oid relid, Jsonb *key, const char *column);

#endif							/* TENANTMIG_SCOPE_CHECK_H */
