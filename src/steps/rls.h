/*
 * rls.h
 *		Row-level security: what a call says, and the policies it asks for.
 */
#ifndef TENANTMIG_RLS_H
#define TENANTMIG_RLS_H

#include "nodes/pg_list.h"
#include "utils/jsonb.h"

#define RLS_ISOLATION	"tenantmig_isolation"
#define RLS_ACCESS		"tenantmig_access"
#define RLS_ADMIN		"tenantmig_admin"

#define RLS_PINNED_PATH	"pg_catalog, pg_temp"

/* What a call of enable_rls says, checked */
typedef struct RlsArguments
{
	char	   *column;
	char	   *setting;
	List	   *roles;			/* names, sorted; public stands alone */
	List	   *admin_roles;	/* names, sorted */
	bool		force;
	bool		raise_missing;	/* no tenant set: raise, not deny */
	bool		inlined;		/* the setting is read without a sub-select */
	bool		set_default;	/* new rows get the tenant of the setting */
} RlsArguments;

/* The meaning of on_missing; raises 22023 if it has none */
extern bool rls_raises_when_missing(const char *on_missing);

/* Raises 22023 and 42704; sorts the lists of roles, so that the same call
 * reads the same */
extern void rls_check_arguments(RlsArguments *arguments);

extern Jsonb *rls_arguments_to_json(const RlsArguments *arguments);
extern void rls_arguments_from_json(Jsonb *object, RlsArguments *arguments);

/* Whether the roles and the column are still there */
extern bool rls_arguments_hold(const RlsArguments *arguments, Oid relid);

/* One policy of a table, read from the catalog or made from the arguments */
typedef struct RlsPolicy
{
	char	   *name;
	char		command;		/* as in pg_policy.polcmd */
	bool		permissive;
	List	   *roles;			/* OIDs; ACL_ID_PUBLIC for public */
	char	   *qual;			/* SQL; NULL if there is none */
	char	   *check;
	char	   *comment;		/* only of those read from the catalog */
	char	   *qual_tree;		/* the same */
	char	   *check_tree;
} RlsPolicy;

/*
 * Policies are parsed, deparsed and compared with the search_path pinned to
 * the server's own schema, so that no operator planted elsewhere is picked.
 * Undone by AtEOXact_GUC(false, result).
 */
extern int	rls_pin_search_path(void);

/* All policies of a table, as a List of RlsPolicy *, by name */
extern List *rls_policies(Oid relid);
extern RlsPolicy *rls_find_policy(List *policies, const char *name);
extern bool rls_is_ours(const RlsPolicy *policy);

/*
 * The policies that the arguments ask for, in the order to create them: the
 * restrictive one first, so that no step, or its undoing, lets rows out.
 * Raises 42704 if a role is gone and 22023 if the column cannot be compared.
 */
extern List *rls_wanted_policies(const RlsArguments *arguments, Oid relid);

/* Raise 42703 or 22023 if there is no such column or it cannot be compared */
extern void rls_check_column(const RlsArguments *arguments, Oid relid);

/* The setting, cast to what the column is compared as; without a sub-select */
extern char *rls_value_text(const RlsArguments *arguments, Oid relid);

/* Warn if these arguments keep an index on the column from being used */
extern void rls_warn_without_index(const RlsArguments *arguments, Oid relid);

/* Whether a policy from the catalog does what the wanted one would */
extern bool rls_same_policy(Oid relid, const RlsPolicy *existing,
							const RlsPolicy *wanted);

/* Whether one can be turned into the other by ALTER POLICY */
extern bool rls_can_alter(const RlsPolicy *from, const RlsPolicy *to);

/* Statements, as templates for the table.  Inverses carry their search_path
 * with them. */
extern char *rls_create_text(const RlsPolicy *policy);
extern char *rls_alter_text(const RlsPolicy *policy);
extern char *rls_drop_text(const RlsPolicy *policy);
extern char *rls_undo_create_text(const RlsPolicy *policy);
extern char *rls_undo_alter_text(const RlsPolicy *policy);
extern char *rls_undo_drop_text(const RlsPolicy *policy);

/*
 * The default of the column (rls_default.c): whether it is the tenant of the
 * setting; and the statement that makes it so, with its inverse.  The check
 * raises 22023 if the column cannot have a default.  With the search_path
 * pinned.
 */
extern void rls_check_default(const RlsArguments *arguments, Oid relid);
extern bool rls_default_holds(const RlsArguments *arguments, Oid relid);
extern char *rls_default_text(const RlsArguments *arguments, Oid relid);
extern char *rls_undo_default_text(const RlsArguments *arguments, Oid relid);

#endif							/* TENANTMIG_RLS_H */
