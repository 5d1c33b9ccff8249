/*
 * audit.h
 *		The audit of row-level security: what is looked at, and what is found.
 */
#ifndef TENANTMIG_AUDIT_H
#define TENANTMIG_AUDIT_H

#include "nodes/pg_list.h"
#include "utils/acl.h"
#include "utils/hsearch.h"

#include "engine/compat.h"
#include "engine/query.h"

/* A condition of a policy, or the default of a column, as far as it matters */
#define CONDITION_TRUE			0x0001	/* holds for every row */
#define CONDITION_NO_TENANT		0x0002	/* does not mention the column */
#define CONDITION_CONSTANT		0x0004	/* compares it with a constant */
#define CONDITION_BYPASS		0x0008	/* OR something without the column */
#define CONDITION_NULL			0x0010	/* rows without a tenant pass */
#define CONDITION_DEFAULTED		0x0020	/* a tenant that nobody has set */
#define CONDITION_OPERATOR		0x0040	/* compares by no equality of the server's */
#define CONDITION_PER_ROW		0x0100	/* the setting is read for each row */
#define CONDITION_COLUMN_CAST	0x0200	/* the column is cast */

typedef struct AuditCondition
{
	char	   *tree;			/* as in the catalog; NULL: there is none */
	bool		isolates;		/* only rows of the session's tenant pass */
	List	   *except;			/* roles (OIDs) whose members pass it all the same */
	int			flags;
	char	   *setting;		/* which the column is compared with, or NULL */
} AuditCondition;

typedef struct AuditPolicy
{
	char	   *name;
	char		command;		/* as in pg_policy.polcmd */
	bool		permissive;
	List	   *roles;			/* OIDs; ACL_ID_PUBLIC for public */
	AuditCondition qual;
	AuditCondition check;
} AuditPolicy;

/* Who is looked at, and as whom that role may act */
typedef struct AuditActor
{
	Oid			oid;			/* ACL_ID_PUBLIC: what everybody may do */
	char	   *name;			/* of the role that is reported */
	List	   *granted;		/* the roles it has the privileges of, and public */
} AuditActor;

typedef struct AuditAccess
{
	AuditActor *actor;
	AclMode		mode;			/* SELECT, INSERT, UPDATE, DELETE */
} AuditAccess;

/* A table with the tenant column */
typedef struct AuditTable
{
	Oid			oid;
	char	   *name;			/* qualified, quoted */
	char	   *schema;
	char	   *relname;
	char		kind;			/* as in pg_class.relkind */
	bool		inside;			/* in the schemas that were asked for */
	bool		is_partition;
	bool		enabled;		/* row-level security */
	bool		forced;
	Oid			owner;
	AttrNumber	attnum;			/* of the tenant column */
	char	   *column;
	Oid			type;
	bool		not_null;
	AuditCondition preset;		/* the default of the column */
	char	   *shape;			/* the same for tables with the same columns */
	struct AuditTable *parent;	/* a parent that has the column too, or NULL */
	bool		has_children;
	List	   *policies;		/* of AuditPolicy * */
	List	   *accesses;		/* of AuditAccess * */
	char	   *setting;		/* that its policies compare with, or the default */
} AuditTable;

typedef struct Audit
{
	char	   *role_name;		/* NULL: all roles */
	List	   *schemas;		/* of char *; NIL with all_schemas */
	bool		all_schemas;
	char	   *column;
	char	   *setting;
	int64		max_rows;		/* -1: no limit */

	List	   *tables;			/* of AuditTable *, by name */
	HTAB	   *table_of;		/* the same by OID */
	List	   *actors;			/* of AuditActor *; none of them bypasses */
	List	   *settings;		/* of char *: all that policies compare with */
	List	   *findings;
	MemoryContext context;		/* where all of it lives */

	/* As arrays, for the statements */
	Datum		relids;
	Datum		attnums;
	Datum		roles;			/* of pairs of a role ... */
	Datum		grantees;		/* ... and one whose privileges it has */
	Datum		subjects;		/* all roles that are looked at, also those that
								 * row-level security does not hold for */

	/* Owners of views and functions whom the policies of a table let see all;
	 * in_views: when somebody else reads the view, too */
	Datum		open_owners;
	Datum		open_relids;
	Datum		open_in_views;
} Audit;

/* --- audit.c --- */

typedef enum AuditSeverity
{
	AUDIT_ERROR,
	AUDIT_WARNING,
	AUDIT_INFO
} AuditSeverity;

/* Any of role, detail and mend may be NULL; all are copied */
extern void audit_add(Audit *audit, const char *check, AuditSeverity severity,
					  const char *object, const char *role, const char *detail,
					  const char *mend);

/*
 * Run a statement that begins with AUDIT_WITH and gives check, severity,
 * object, role, detail and mend, and add its rows.
 */
extern void audit_query(Audit *audit, const char *sql);

/* Such a statement with other columns: bound, for query_run() */
extern void audit_bind(Audit *audit, OwnQuery *query, const char *sql);

/* --- audit_model.c --- */
extern void audit_read_model(Audit *audit);
extern AuditTable *audit_find_table(Audit *audit, Oid relid);
extern bool audit_has_role(const AuditActor *actor, Oid role);
extern Datum audit_oid_array(Datum *values, int count);

/* --- audit_condition.c --- */

/* Fills all but the tree, which is set before */
extern void audit_read_condition(const AuditTable *table,
								 AuditCondition *condition);
extern void audit_read_default(AuditTable *table);

/* --- audit_rewrite.c --- */

/* "column = (SELECT setting)" as SQL; NULL if the type cannot be compared */
extern char *audit_isolation(const AuditTable *table);
/* The value that the setting has, of the type of the column, as SQL */
extern char *audit_setting_value(const AuditTable *table);
/* The condition as SQL, as it is */
extern char *audit_condition_text(const AuditTable *table,
								  const AuditCondition *condition);
/* The same with the setting read once, and the column not cast */
extern char *audit_better_condition(const AuditTable *table,
									const AuditCondition *condition);

/* --- audit_tokens.c --- */

/* The words and signs of a text of SQL, those in its literals too; words that
 * are not quoted are folded to lower case */
extern List *audit_tokens(const char *text);
extern bool audit_mentions(List *tokens, const char *word);
/* Whether there is a SET of this setting */
extern bool audit_sets(List *tokens, const char *setting);
/* Whether an INSERT into this table names its columns and leaves one out */
extern bool audit_inserts_without(List *tokens, const char *schema,
								  const char *table, const char *column);

/* --- audit_definers.c --- */
extern void audit_read_definers(Audit *audit);

/* --- audit_policies.c --- */

/* Whether the policies let these roles read rows of all tenants */
extern bool audit_is_open(Audit *audit, AuditTable *table, List *roles,
						  bool with_exceptions);

/* --- the checks, by subject --- */
extern void audit_check_tables(Audit *audit);
extern void audit_check_roles(Audit *audit);
extern void audit_check_views(Audit *audit);
extern void audit_check_policies(Audit *audit);
extern void audit_check_keys(Audit *audit);
extern void audit_check_rows(Audit *audit);
extern void audit_check_indexes(Audit *audit);
extern void audit_check_code(Audit *audit);
extern void audit_check_server(Audit *audit);

/* --- SQL that the statements share --- */

/*
 * All run with search_path pg_catalog, pg_temp.  Parameters: $1 and $2 the
 * tables and the numbers of their tenant columns, $3 and $4 roles and those
 * whose privileges they have (0: public), $5 the settings, $6 the name of the
 * one role that was asked for, or null, $7 all roles that are looked at, $8 to
 * $10 owners whom policies let see all.
 *
 * t	the tables		g	roles and grantees		s	schemas a role may use
 * opened	owners and tables
 * acl	what is granted on tables and the like, on their columns too.  Who has
 *		the privileges of pg_read_all_data or pg_write_all_data has them on all
 */
#define AUDIT_READ_ALL	"6181"
#define AUDIT_WRITE_ALL	"6182"

#define AUDIT_WITH \
	"WITH RECURSIVE t AS MATERIALIZED (" \
	" SELECT c.oid, u.attnum, a.attname, " COLUMN_IS_NOT_NULL("a") " AS not_null, c.relname, c.relkind, " \
	" c.relispartition, c.relowner, c.relrowsecurity, c.relforcerowsecurity, " \
	" n.nspname, format('%I.%I', n.nspname, c.relname) AS name " \
	" FROM unnest($1::oid[], $2::int2[]) u (relid, attnum) " \
	" JOIN pg_class c ON c.oid = u.relid " \
	" JOIN pg_namespace n ON n.oid = c.relnamespace " \
	" JOIN pg_attribute a ON a.attrelid = u.relid AND a.attnum = u.attnum), " \
	"g AS MATERIALIZED (" \
	" SELECT u.role, u.grantee, COALESCE($6, CASE WHEN u.role = 0 THEN 'public' " \
	" ELSE pg_get_userbyid(u.role) END) AS role_name " \
	" FROM unnest($3::oid[], $4::oid[]) u (role, grantee)), " \
	"opened AS MATERIALIZED (" \
	" SELECT o.owner, o.relid, o.in_view FROM unnest($8::oid[], $9::oid[], $10::bool[]) o (owner, relid, in_view)), " \
	"s AS MATERIALIZED (" \
	" SELECT DISTINCT g.role, n.oid AS nspid " \
	" FROM pg_namespace n, aclexplode(COALESCE(n.nspacl, acldefault('n', n.nspowner))) a, g " \
	" WHERE a.privilege_type = 'USAGE' AND g.grantee IN (a.grantee, " AUDIT_READ_ALL ", " AUDIT_WRITE_ALL ")), " \
	"acl AS MATERIALIZED (" \
	" SELECT x.*, pg_get_userbyid(x.grantor) AS grantor_name, " \
	" CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS grantee_name " \
	" FROM (SELECT c.oid, c.relowner AS owner, a.grantor, a.grantee, a.privilege_type AS priv " \
	"  FROM pg_class c, aclexplode(COALESCE(c.relacl, acldefault('r', c.relowner))) a " \
	"  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.oid >= 16384 AND c.relpersistence <> 't' " \
	"  UNION ALL " \
	"  SELECT c.oid, c.relowner, a.grantor, a.grantee, a.privilege_type " \
	"  FROM pg_attribute t, pg_class c, aclexplode(t.attacl) a " \
	"  WHERE t.attacl IS NOT NULL AND NOT t.attisdropped AND c.oid = t.attrelid " \
	"  AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.oid >= 16384 AND c.relpersistence <> 't' " \
	"  UNION ALL " \
	"  SELECT c.oid, c.relowner, c.relowner, p.grantee, p.priv " \
	"  FROM pg_class c, (VALUES (" AUDIT_READ_ALL "::oid, 'SELECT'), (" AUDIT_WRITE_ALL ", 'INSERT'), " \
	"  (" AUDIT_WRITE_ALL ", 'UPDATE'), (" AUDIT_WRITE_ALL ", 'DELETE')) p (grantee, priv) " \
	"  WHERE p.grantee IN (SELECT grantee FROM g) " \
	"  AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.oid >= 16384 AND c.relpersistence <> 't') x) "

/*
 * Whether what a role o of pg_roles defines sees all rows of t: what runs as
 * that role, or what reads as it for somebody else, as a view does.
 */
#define AUDIT_PASSES_BY(o, t, opened) \
	"(" o ".rolsuper OR " o ".rolbypassrls OR (" t ".relrowsecurity " \
	"AND NOT " t ".relforcerowsecurity AND pg_has_role(" o ".oid, " t ".relowner, 'USAGE')) " \
	"OR (" o ".oid, " t ".oid) IN (" opened "))"
#define AUDIT_PASSES(o, t) \
	AUDIT_PASSES_BY(o, t, "SELECT owner, relid FROM opened")
#define AUDIT_PASSES_IN_VIEW(o, t) \
	AUDIT_PASSES_BY(o, t, "SELECT owner, relid FROM opened WHERE in_view")

/*
 * Takes all that the grouped rows x of acl grant away, from everybody whom the
 * role has it through; what somebody granted on goes with his right to do so,
 * and what comes by a predefined role with the membership in it (revoke_all,
 * made by AUDIT_REVOKE_ALL).
 */
#define AUDIT_BY_OWNER \
	"x.grantor = x.owner AND x.grantee NOT IN (" AUDIT_READ_ALL ", " AUDIT_WRITE_ALL ")"

#define AUDIT_REVOKE(object) \
	"concat_ws('; ', " \
	" 'REVOKE ' || string_agg(DISTINCT x.priv, ', ') FILTER (WHERE " AUDIT_BY_OWNER ") " \
	" || ' ON " object " FROM ' || string_agg(DISTINCT x.grantee_name, ', ') FILTER (WHERE " AUDIT_BY_OWNER ") || ' CASCADE', " \
	" 'REVOKE GRANT OPTION FOR ' || string_agg(DISTINCT x.priv, ', ') FILTER (WHERE x.grantor <> x.owner) " \
	" || ' ON " object " FROM ' || string_agg(DISTINCT quote_ident(x.grantor_name), ', ') FILTER (WHERE x.grantor <> x.owner) || ' CASCADE', " \
	" (SELECT string_agg(ra.revoke, '; ') FROM revoke_all ra WHERE ra.role = g.role AND ra.roleid = ANY (array_agg(x.grantee))))"

#define AUDIT_REVOKE_ALL \
	"revoke_all AS (" \
	" SELECT DISTINCT g.role, m.roleid, format('REVOKE %I FROM %I', pg_get_userbyid(m.roleid), b.rolname) " \
	"  || COALESCE(' GRANTED BY ' || quote_ident(gr.rolname), '') AS revoke " \
	" FROM pg_auth_members m JOIN g ON g.grantee = m.member JOIN pg_roles b ON b.oid = m.member " \
	" LEFT JOIN pg_roles gr ON gr.oid = m.grantor " \
	" WHERE m.roleid IN (" AUDIT_READ_ALL ", " AUDIT_WRITE_ALL ")) "

/* Objects of an extension are its author's business */
#define AUDIT_NOT_MEMBER(class, oid) \
	"NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = '" class "'::regclass " \
	"AND e.objid = " oid " AND e.deptype = 'e')"

#define AUDIT_USER_SCHEMA(n) \
	n ".nspname NOT LIKE 'pg\\_%' AND " n ".nspname NOT IN ('information_schema', 'tenantmig')"

#endif							/* TENANTMIG_AUDIT_H */
