/*
 * audit_tables.c
 *		Tables that row-level security does not cover.
 *
 * A table is subject to its own policies and to no others: a partition that is
 * named in a query is not protected by its parent, and a copy is protected by
 * nobody.  Foreign tables and materialized views cannot have policies at all.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "checks/audit.h"
#include "engine/compat.h"
#include "engine/sqltext.h"
#include "steps/rls.h"

/* What the model has not read of a table in a schema that was not asked for */
static bool
can_reach_outside(const AuditTable *table, const AuditActor *actor)
{
	return OidIsValid(actor->oid) &&
		pg_class_aclcheck(table->oid, actor->oid, ACL_SELECT) == ACLCHECK_OK;
}

/* The roles that can get at a table, for a sentence; NULL: nobody can */
static char *
who_reaches(Audit *audit, const AuditTable *table)
{
	List	   *names = NIL;
	StringInfoData buf;
	ListCell   *lc;

	foreach(lc, table->accesses)
	{
		AuditActor *actor = ((AuditAccess *) lfirst(lc))->actor;

		if (actor->oid != table->owner)
			names = lappend(names, actor->name);
	}
	if (!table->inside)
		foreach(lc, audit->actors)
			if (can_reach_outside(table, lfirst(lc)))
				names = lappend(names, ((AuditActor *) lfirst(lc))->name);
	if (names == NIL)
		return NULL;

	initStringInfo(&buf);
	foreach(lc, names)
	{
		int			i = foreach_current_index(lc);

		if (i == 3)
		{
			appendStringInfo(&buf, " and %d more", list_length(names) - i);
			break;
		}
		appendStringInfo(&buf, "%s%s", i > 0 ? ", " : "",
						 quote_identifier(lfirst(lc)));
	}
	return buf.data;
}

static AuditPolicy *
find_policy(const AuditTable *table, const char *name)
{
	ListCell   *lc;

	foreach(lc, table->policies)
		if (strcmp(((AuditPolicy *) lfirst(lc))->name, name) == 0)
			return lfirst(lc);
	return NULL;
}

static void
append_roles(StringInfo buf, const char *argument, const AuditPolicy *policy)
{
	List	   *names = NIL;
	ListCell   *lc;

	if (policy == NULL || list_member_oid(policy->roles, ACL_ID_PUBLIC))
		return;
	foreach(lc, policy->roles)
		names = lappend(names,
						sql_literal(GetUserNameFromId(lfirst_oid(lc), false)));
	appendStringInfo(buf, ", %s => ARRAY[", argument);
	foreach(lc, names)
		appendStringInfo(buf, "%s%s", foreach_current_index(lc) > 0 ? ", " : "",
						 (char *) lfirst(lc));
	appendStringInfoString(buf, "]::name[]");
}

/*
 * The call of enable_rls for a table: like that which the policies of another
 * one were made with, if it has ours.
 */
static char *
enable_call(const AuditTable *table, const AuditTable *like)
{
	AuditPolicy *access = like ? find_policy(like, RLS_ACCESS) : NULL;
	AuditPolicy *isolation = like ? find_policy(like, RLS_ISOLATION) : NULL;
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "SELECT tenantmig.enable_rls(%s, %s, %s",
					 sql_literal(table->name), sql_literal(table->column),
					 sql_literal(like ? like->setting : table->setting));
	if (access)
	{
		append_roles(&buf, "roles", access);
		append_roles(&buf, "admin_roles", find_policy(like, RLS_ADMIN));
		if (!like->forced)
			appendStringInfoString(&buf, ", force => false");
		if (access->qual.tree && access->check.tree &&
			strstr(audit_condition_text(like, &access->qual), "tenantmig.required_setting("))
			appendStringInfoString(&buf, ", on_missing => 'error'");
	}
	if (isolation && (isolation->qual.flags & CONDITION_PER_ROW))
		appendStringInfoString(&buf, ", inline => true");
	appendStringInfoChar(&buf, ')');
	return buf.data;
}

/* Another table with the very same columns that is protected */
static AuditTable *
find_original(Audit *audit, const AuditTable *copy)
{
	ListCell   *lc;

	foreach(lc, audit->tables)
	{
		AuditTable *table = lfirst(lc);

		if (table->enabled && strcmp(table->shape, copy->shape) == 0)
			return table;
	}
	return NULL;
}

static void
check_child(Audit *audit, AuditTable *table, const char *who)
{
	const char *mend = table->policies
		? psprintf("ALTER TABLE %s ENABLE ROW LEVEL SECURITY", table->name)
		: enable_call(table, table->parent);

	audit_add(audit, "child_unprotected", AUDIT_ERROR, table->name,
			  audit->role_name,
			  psprintf("%s can name this %s of %s in a query, which the policies of the parent do not cover: all tenants can be seen.",
					   who, table->is_partition ? "partition" : "child",
					   table->parent->name),
			  mend);
}

static void
check_open_table(Audit *audit, AuditTable *table)
{
	const char *who = who_reaches(audit, table);
	AuditTable *original;

	if (table->parent)
	{
		/* if the parent is open too, what mends it mends this one */
		if (who && table->inside && table->parent->enabled)
			check_child(audit, table, who);
		return;
	}
	original = table->has_children ? NULL : find_original(audit, table);
	if (original && table->policies == NIL)
		audit_add(audit, "table_copy", who ? AUDIT_ERROR : AUDIT_WARNING,
				  table->name, audit->role_name,
				  psprintf("It has the columns of %s but no row-level security%s%s. If it is an old copy: DROP TABLE %s.",
						   original->name, who ? ", and can be reached by " : "",
						   who ? who : "", table->name),
				  enable_call(table, original));
	else if (!table->inside)
		return;
	else if (table->policies != NIL)
		audit_add(audit, "rls_disabled", who ? AUDIT_ERROR : AUDIT_WARNING,
				  table->name, audit->role_name,
				  psprintf("It has policies, but row-level security is not enabled, so they have no effect%s%s.",
						   who ? ": open to " : "", who ? who : ""),
				  psprintf("ALTER TABLE %s ENABLE ROW LEVEL SECURITY",
						   table->name));
	else
		audit_add(audit, "rls_disabled", who ? AUDIT_ERROR : AUDIT_WARNING,
				  table->name, audit->role_name,
				  psprintf("It has a tenant column but no row-level security: %s%s.",
						   who ? "all tenants can be seen by " : "only its owner can reach it so far",
						   who ? who : ""),
				  enable_call(table, NULL));
}

/* The owner, and whoever has the owner's privileges, passes unless FORCE */
static void
check_owner(Audit *audit, AuditTable *table)
{
	ListCell   *lc;

	foreach(lc, audit->actors)
	{
		AuditActor *actor = lfirst(lc);

		if (audit_has_role(actor, table->owner))
			audit_add(audit, "owner_bypasses", AUDIT_ERROR, table->name,
					  actor->name,
					  psprintf("%s %s, and row-level security is not forced on the owner.",
							   quote_identifier(actor->name),
							   actor->oid == table->owner ? "owns it"
							   : psprintf("has the privileges of its owner %s",
										  quote_identifier(GetUserNameFromId(table->owner, false)))),
					  psprintf("ALTER TABLE %s FORCE ROW LEVEL SECURITY",
							   table->name));
	}
}

/* --- statements ------------------------------------------------------- */

#define PRIVILEGES \
	AUDIT_WITH ", " AUDIT_REVOKE_ALL \
	"SELECT 'privilege_beyond_rls', " \
	" CASE WHEN bool_or(x.priv = 'TRUNCATE') THEN 'error' ELSE 'warning' END, " \
	" t.name, g.role_name, " \
	" format('%I has %s on it, which no policy restricts: %s.', g.role_name, string_agg(DISTINCT x.priv, ', '), " \
	"  string_agg(DISTINCT CASE x.priv WHEN 'TRUNCATE' THEN 'it can delete the rows of all tenants' " \
	"   WHEN 'REFERENCES' THEN 'a foreign key tells which keys exist' " \
	"   WHEN 'TRIGGER' THEN 'a trigger sees the rows that others write' " \
	"   ELSE 'it can lock, cluster and vacuum the table' END, '; ')), " \
	AUDIT_REVOKE("TABLE ' || t.name || '") " " \
	"FROM t JOIN acl x ON x.oid = t.oid JOIN g ON g.grantee = x.grantee " \
	"WHERE t.relkind IN ('r', 'p') AND x.grantee <> x.owner " \
	"AND x.priv IN ('TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN') " \
	"GROUP BY t.oid, t.name, g.role, g.role_name ORDER BY g.role_name"

#define FOREIGN_TABLES \
	AUDIT_WITH ", " AUDIT_REVOKE_ALL \
	"SELECT 'foreign_table', 'error', t.name, g.role_name, " \
	" format('%I can use this foreign table, and there is no row-level security on foreign tables. " \
	"Let it through a view that compares the tenant, or isolate the tenants on the other server.', g.role_name), " \
	AUDIT_REVOKE("TABLE ' || t.name || '") " " \
	"FROM t JOIN acl x ON x.oid = t.oid JOIN g ON g.grantee = x.grantee " \
	"WHERE t.relkind = 'f' AND x.priv IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE') " \
	"GROUP BY t.oid, t.name, g.role, g.role_name ORDER BY g.role_name"

/* What tables that do not exist yet will be granted */
#define DEFAULT_PRIVILEGES \
	AUDIT_WITH \
	"SELECT 'privilege_beyond_rls', 'info', " \
	" format('default privileges of %s%s', w.who, w.place), g.role_name, " \
	" format('Tables that are made from now on will give %s to %s.', string_agg(DISTINCT a.privilege_type, ', '), g.role_name), " \
	" format('ALTER DEFAULT PRIVILEGES FOR ROLE %s%s REVOKE %s ON TABLES FROM %s', w.who, w.place, " \
	"  string_agg(DISTINCT a.privilege_type, ', '), " \
	"  string_agg(DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END, ', ')) " \
	"FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace " \
	"CROSS JOIN LATERAL (SELECT quote_ident(pg_get_userbyid(d.defaclrole)) AS who, " \
	" COALESCE(' IN SCHEMA ' || quote_ident(n.nspname), '') AS place) w, aclexplode(d.defaclacl) a " \
	"JOIN g ON g.grantee = a.grantee " \
	"WHERE d.defaclobjtype = 'r' AND a.grantee <> d.defaclrole " \
	"AND (d.defaclnamespace = 0 OR n.nspname IN (SELECT nspname FROM t)) " \
	"AND a.privilege_type IN ('TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN') " \
	"GROUP BY w.who, w.place, g.role, g.role_name ORDER BY g.role_name"

/* Through a parent without the column, or without row-level security, the rows
 * of its children can be seen whatever policies these have */
#define PARENTS \
	AUDIT_WITH ", " AUDIT_REVOKE_ALL ", " \
	"up (child, relid) AS (" \
	" SELECT t.oid, i.inhparent FROM t JOIN pg_inherits i ON i.inhrelid = t.oid WHERE t.relrowsecurity " \
	" UNION SELECT up.child, i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.relid) " \
	"SELECT 'parent_unprotected', 'error', format('%I.%I', n.nspname, p.relname), g.role_name, " \
	" format('%I can see the rows of %s through this parent, which has no row-level security and no tenant column. " \
	"Or take the children out: ALTER TABLE ... NO INHERIT %I.%I.', g.role_name, min(t.name), n.nspname, p.relname), " \
	AUDIT_REVOKE("TABLE ' || format('%I.%I', n.nspname, p.relname) || '") " " \
	"FROM up JOIN t ON t.oid = up.child JOIN pg_class p ON p.oid = up.relid " \
	"JOIN pg_namespace n ON n.oid = p.relnamespace " \
	"JOIN acl x ON x.oid = p.oid JOIN g ON g.grantee = x.grantee " \
	"WHERE NOT p.relrowsecurity AND p.oid NOT IN (SELECT oid FROM t) " \
	"AND x.priv IN ('SELECT', 'UPDATE', 'DELETE') " \
	"GROUP BY n.nspname, p.relname, g.role, g.role_name ORDER BY g.role_name"

void
audit_check_tables(Audit *audit)
{
	bool		any = false;
	ListCell   *lc;

	foreach(lc, audit->tables)
	{
		AuditTable *table = lfirst(lc);

		any |= table->inside;
		if (table->kind == RELKIND_FOREIGN_TABLE)
			continue;
		if (!table->enabled)
			check_open_table(audit, table);
		else if (table->inside && !table->forced)
			check_owner(audit, table);
	}
	if (!any)
		audit_add(audit, "no_tenant_table", AUDIT_WARNING,
				  quote_identifier(audit->column), NULL,
				  "No table has a column of this name, so there was no table to look at. Name another one as column_name.",
				  NULL);
	audit_query(audit, PRIVILEGES);
	audit_query(audit, DEFAULT_PRIVILEGES);
	audit_query(audit, FOREIGN_TABLES);
	audit_query(audit, PARENTS);
}
