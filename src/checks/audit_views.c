/*
 * audit_views.c
 *		Views, materialized views and rules over the tables.
 *
 * What a view reads is read as its owner, unless it is security_invoker; what
 * the rules of a table do, as the owner of the table.  If that owner passes
 * the policies, so does everybody who may use the view, or another one on top
 * of it.  A materialized view keeps what its owner saw, and has no policies.
 *
 * edge has what the rules of each relation refer to.
 */
#include "postgres.h"

#include "nodes/parsenodes.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "checks/audit.h"
#include "engine/compat.h"
#include "engine/sqltext.h"

#define EDGES \
	"edge AS MATERIALIZED (" \
	" SELECT DISTINCT r.ev_class AS rel, d.refobjid AS base FROM pg_depend d " \
	" JOIN pg_rewrite r ON r.oid = d.objid " \
	" WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass " \
	" AND d.deptype = 'n' AND d.refobjid <> r.ev_class AND r.ev_class >= 16384), " \
	"rel AS MATERIALIZED (" \
	" SELECT c.oid, c.relkind, c.relowner, format('%I.%I', n.nspname, c.relname) AS name, " \
	"  EXISTS (SELECT FROM pg_options_to_table(c.reloptions) o " \
	"   WHERE o.option_name = 'security_invoker' AND o.option_value::boolean) AS invoker " \
	" FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace " \
	" WHERE c.oid IN (SELECT rel FROM edge) AND " AUDIT_USER_SCHEMA("n") \
	" AND " AUDIT_NOT_MEMBER("pg_class", "c.oid") ") "

/* up: what is on top of a view whose owner passes, and reads it as somebody */
#define VIEWS \
	AUDIT_WITH ", " EDGES ", " \
	"open AS (" \
	" SELECT r.oid, r.name, o.rolname, min(t.name) AS over, bool_or(o.rolsuper OR o.rolbypassrls) AS always " \
	" FROM edge e JOIN t ON t.oid = e.base AND t.relkind IN ('r', 'p') JOIN rel r ON r.oid = e.rel " \
	" JOIN pg_roles o ON o.oid = r.relowner " \
	" WHERE r.relkind = 'v' AND NOT r.invoker AND " AUDIT_PASSES_IN_VIEW("o", "t") " " \
	" GROUP BY r.oid, r.name, o.rolname), " \
	"up (view, rel) AS (" \
	" SELECT oid, oid FROM open UNION SELECT up.view, e.rel FROM up JOIN edge e ON e.base = up.rel " \
	" JOIN rel r ON r.oid = e.rel WHERE r.relkind = 'v' AND NOT r.invoker) " \
	"SELECT DISTINCT 'view_bypasses', 'error', o.name, g.role_name, " \
	" format('%I reads %s through it%s as its owner %I, whom the policies do not hold for%s', g.role_name, o.over, " \
	"  CASE WHEN up.rel = o.oid THEN '' ELSE ' and ' || top.name END, o.rolname, " \
	"  CASE WHEN o.always THEN ', or give the view to an owner whom they hold for.' ELSE ': without FORCE ROW LEVEL SECURITY, or since they let that role see all tenants.' END), " \
	" format('ALTER VIEW %s SET (security_invoker = true)', o.name) " \
	"FROM open o JOIN up ON up.view = o.oid JOIN rel top ON top.oid = up.rel " \
	"JOIN acl x ON x.oid = up.rel JOIN g ON g.grantee = x.grantee " \
	"WHERE x.priv IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE') ORDER BY g.role_name"

/* kept: the materialized views over the tables; seen: they and the views over
 * them that read as their owner */
#define MATERIALIZED \
	AUDIT_WITH ", " AUDIT_REVOKE_ALL ", " EDGES ", " \
	"down (rel, base) AS (" \
	" SELECT e.rel, e.base FROM edge e WHERE e.base IN (SELECT oid FROM t) " \
	" UNION SELECT e.rel, d.base FROM down d JOIN edge e ON e.base = d.rel), " \
	"seen (rel, kept) AS (" \
	" SELECT r.oid, r.oid FROM rel r WHERE r.relkind = 'm' AND r.oid IN (SELECT rel FROM down) " \
	" UNION SELECT r.oid, s.kept FROM seen s JOIN edge e ON e.base = s.rel " \
	" JOIN rel r ON r.oid = e.rel AND r.relkind = 'v' AND NOT r.invoker) " \
	"SELECT 'materialized_view', 'error', r.name, g.role_name, " \
	" format('%I can read what the materialized view %s keeps of all tenants; it can have no policies. " \
	"Let the role read a view on top of it that compares the tenant.', g.role_name, string_agg(DISTINCT k.name, ', ')), " \
	AUDIT_REVOKE("TABLE ' || r.name || '") " " \
	"FROM seen s JOIN rel r ON r.oid = s.rel JOIN rel k ON k.oid = s.kept " \
	"JOIN acl x ON x.oid = s.rel JOIN g ON g.grantee = x.grantee " \
	"WHERE x.priv = 'SELECT' GROUP BY r.oid, r.name, g.role, g.role_name ORDER BY g.role_name"

/* Rules that write, on the tables, or that touch the tables, on another one */
#define RULES \
	AUDIT_WITH ", " EDGES \
	"SELECT r.ev_class, r.rulename, t.name, r.ev_action::text, NULL::text, NULL::text " \
	"FROM pg_rewrite r JOIN t ON t.oid = r.ev_class WHERE r.ev_type <> '1' " \
	"UNION ALL " \
	"SELECT DISTINCT r.ev_class, r.rulename, w.name, r.ev_action::text, g.role_name::text, t.name " \
	"FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN rel w ON w.oid = r.ev_class " \
	"JOIN t ON t.oid = d.refobjid JOIN pg_roles o ON o.oid = w.relowner " \
	"JOIN acl x ON x.oid = w.oid JOIN g ON g.grantee = x.grantee " \
	"WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'n' " \
	"AND r.ev_type <> '1' AND w.relkind = 'r' AND w.oid NOT IN (SELECT oid FROM t) " \
	"AND t.relkind IN ('r', 'p') AND " AUDIT_PASSES_IN_VIEW("o", "t") " AND x.priv IN ('INSERT', 'UPDATE', 'DELETE') " \
	"ORDER BY 3, 2, 5"

/* A relation that one of the actions writes to; InvalidOid: none but this */
static Oid
find_written(char *actions, Oid relid)
{
	ListCell   *lc;

	foreach(lc, (List *) stringToNode(actions))
	{
		Query	   *query = lfirst_node(Query, lc);

		if (query->commandType != CMD_SELECT &&
			query->commandType != CMD_UTILITY && query->resultRelation > 0)
		{
			Oid			target = rt_fetch(query->resultRelation, query->rtable)->relid;

			if (target != relid)
				return target;
		}
	}
	return InvalidOid;
}

static void
check_rules(Audit *audit)
{
	OwnQuery	query;
	uint64		count;

	audit_bind(audit, &query, RULES);
	SPI_connect();
	count = query_run(&query);
	for (uint64 i = 0; i < count; i++)
	{
		Oid			relid = query_get_oid(i, 1);
		char	   *rule = query_get_text(i, 2);
		char	   *relation = query_get_text(i, 3);
		char	   *role = query_get_text(i, 5);
		char	   *touched = query_get_text(i, 6);
		Oid			written = find_written(query_get_text(i, 4), relid);
		char	   *mend = psprintf("DROP RULE %s ON %s",
									quote_identifier(rule), relation);
		char	   *object = psprintf("rule %s on %s",
									  quote_identifier(rule), relation);

		if (touched)
			audit_add(audit, "rule_writes", AUDIT_ERROR, object, role,
					  psprintf("It reads or writes %s as the owner of %s, whom the policies do not hold for. A trigger whose function is SECURITY INVOKER would run as the user.",
							   touched, relation),
					  mend);
		else if (OidIsValid(written) && written != relid)
			audit_add(audit, "rule_writes", AUDIT_WARNING, object,
					  audit->role_name,
					  psprintf("What is written to %s goes to %s as well, as the owner of the table and not as the user. A trigger whose function is SECURITY INVOKER would run as the user.",
							   relation, sql_relation(written)),
					  mend);
	}
	SPI_finish();
}

void
audit_check_views(Audit *audit)
{
	audit_query(audit, VIEWS);
	audit_query(audit, MATERIALIZED);
	check_rules(audit);
}
