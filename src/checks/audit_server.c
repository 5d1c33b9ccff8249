/*
 * audit_server.c
 *		What is about the server and the database as a whole: presets of the
 *		setting, publications, sequences, large objects, the version.
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "checks/audit.h"
#include "engine/compat.h"

PG_FUNCTION_INFO_V1(tenantmig_missing_fixes);

/* --- the version ------------------------------------------------------ */

/*
 * Holes of the server's own that let a query see rows behind a policy, and the
 * first minor release of each major one without them.  Releases before 13
 * are out of support and taken to have all of them, those after 17 none.
 */
static const struct
{
	const char *name;
	int			fixed[5];		/* 13, 14, 15, 16, 17; 0: never had it */
}			holes[] = {
	{"CVE-2023-2455", {11, 8, 3, 0, 0}},
	{"CVE-2024-10976", {17, 14, 9, 5, 1}},
	{"CVE-2025-8713", {22, 19, 14, 10, 6}}
};

#define FIRST_MAJOR 13

static bool
is_fixed(int hole, int version)
{
	int			major = version / 10000;
	int			minor = version % 10000;

	if (major >= FIRST_MAJOR + lengthof(holes[0].fixed))
		return true;
	return major >= FIRST_MAJOR &&
		minor >= holes[hole].fixed[major - FIRST_MAJOR];
}

/* "a, b" for those that the version has; NULL: none */
static char *
missing_fixes(int version)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < lengthof(holes); i++)
		if (!is_fixed(i, version))
			appendStringInfo(&buf, "%s%s", buf.len > 0 ? ", " : "",
							 holes[i].name);
	return buf.len > 0 ? buf.data : NULL;
}

/* Which of these holes a server of that server_version_num has */
Datum
tenantmig_missing_fixes(PG_FUNCTION_ARGS)
{
	char	   *missing = missing_fixes(PG_GETARG_INT32(0));

	if (missing == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(missing));
}

static void
check_version(Audit *audit)
{
	int			version = atoi(GetConfigOption("server_version_num", false, false));
	char	   *missing = missing_fixes(version);

	if (missing)
		audit_add(audit, "server_version", AUDIT_ERROR,
				  psprintf("PostgreSQL %d.%d", version / 10000, version % 10000),
				  NULL,
				  psprintf("The server has holes through which rows behind a policy can be seen: %s. No statement mends that: install the last minor release and restart.",
						   missing),
				  NULL);
}

/* --- the setting ------------------------------------------------------ */

#define SETTING_NAME(text) \
	"(SELECT string_agg(quote_ident(part), '.' ORDER BY place) " \
	" FROM regexp_split_to_table(" text ", '\\.') WITH ORDINALITY p (part, place))"

#define PRESETS \
	"WITH preset AS (" \
	" SELECT d.setrole, d.setdatabase, r.rolname, b.datname, split_part(c, '=', 1) AS setting, " \
	"  substr(c, strpos(c, '=') + 1) AS value " \
	" FROM pg_db_role_setting d CROSS JOIN LATERAL unnest(d.setconfig) c " \
	" LEFT JOIN pg_roles r ON r.oid = d.setrole LEFT JOIN pg_database b ON b.oid = d.setdatabase " \
	" WHERE (d.setrole = 0 OR d.setrole = ANY ($7::oid[])) AND (d.setdatabase = 0 OR b.datname = current_database()) " \
	" AND lower(split_part(c, '=', 1)) IN (SELECT lower(s) FROM unnest($5::text[]) s)) " \
	"SELECT 'setting_preset', 'warning', " \
	" concat_ws(' in ', CASE WHEN setrole <> 0 THEN 'role ' || quote_ident(rolname) END, " \
	"  CASE WHEN setdatabase <> 0 THEN 'database ' || quote_ident(datname) WHEN setrole = 0 THEN 'all roles' END), " \
	" COALESCE(rolname, $6), " \
	" format('%s is set before the application sets it, so a session that forgets to works for that tenant instead of for none.', setting), " \
	" CASE WHEN setrole = 0 AND setdatabase <> 0 THEN format('ALTER DATABASE %I RESET %s', datname, " SETTING_NAME("setting") ") " \
	"  ELSE format('ALTER ROLE %s%s RESET %s', CASE WHEN setrole = 0 THEN 'ALL' ELSE quote_ident(rolname) END, " \
	"   CASE WHEN setdatabase <> 0 THEN ' IN DATABASE ' || quote_ident(datname) ELSE '' END, " SETTING_NAME("setting") ") END " \
	"FROM preset ORDER BY 3"

#define PRESETS_IN_FILES \
	"SELECT 'setting_preset', 'warning', f.sourcefile, $6::text, " \
	" format('%s is set in line %s of this file, so a session that does not set it works for that tenant instead of for none. " \
	"In a file other than postgresql.auto.conf only an editor takes it out.', f.name, f.sourceline), " \
	" CASE WHEN f.sourcefile LIKE '%postgresql.auto.conf' THEN format('ALTER SYSTEM RESET %s', " SETTING_NAME("f.name") ") END " \
	"FROM pg_file_settings f WHERE lower(f.name) IN (SELECT lower(s) FROM unnest($5::text[]) s)"

/* --- publications ----------------------------------------------------- */

#define PUBLICATIONS \
	AUDIT_WITH \
	"SELECT 'publication_unfiltered', 'warning', format('publication %I', p.pubname), $6::text, " \
	" format('It publishes %s %s, so its subscribers get the rows of all tenants.', t.name, " \
	"  CASE WHEN r.prqual IS NULL THEN 'without a row filter' ELSE format('with a row filter that does not mention %I', t.attname) END), " \
	" format('ALTER PUBLICATION %I DROP TABLE %s', p.pubname, t.name) " \
	"FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid JOIN t ON t.oid = r.prrelid " \
	"WHERE r.prqual IS NULL OR position(quote_ident(t.attname) IN pg_get_expr(r.prqual, r.prrelid)) = 0 " \
	"UNION ALL " \
	"SELECT 'publication_unfiltered', 'warning', format('publication %I', p.pubname), $6, " \
	" format('It publishes all tables of schema %I, so its subscribers get the rows of all tenants. Add the tables that they need one by one, with a row filter.', n.nspname), " \
	" format('ALTER PUBLICATION %I DROP TABLES IN SCHEMA %I', p.pubname, n.nspname) " \
	"FROM pg_publication_namespace s JOIN pg_publication p ON p.oid = s.pnpubid JOIN pg_namespace n ON n.oid = s.pnnspid " \
	"WHERE EXISTS (SELECT FROM t WHERE t.nspname = n.nspname) " \
	"UNION ALL " \
	"SELECT 'publication_unfiltered', 'warning', format('publication %I', p.pubname), $6, " \
	" 'It publishes all tables, so its subscribers get the rows of all tenants. It cannot be changed, only be made anew, for the tables that they need, with a row filter.', " \
	" format('DROP PUBLICATION %I', p.pubname) " \
	"FROM pg_publication p WHERE p.puballtables AND EXISTS (SELECT FROM t) ORDER BY 3, 5"

/* --- sequences and large objects -------------------------------------- */

/*
 * A sequence that gives a table its keys may be used, not looked at or set;
 * one that stands alone in a schema of the tables shows what others do.
 */
#define SEQUENCES \
	AUDIT_WITH ", " AUDIT_REVOKE_ALL ", " \
	"sequence AS MATERIALIZED (" \
	" SELECT c.oid, c.relowner, format('%I.%I', n.nspname, c.relname) AS name, c.relacl, " \
	"  COALESCE((SELECT min(t.name) FROM pg_depend d JOIN t ON t.oid = d.refobjid " \
	"   WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')), " \
	"   (SELECT min(t.name) FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid JOIN t ON t.oid = f.adrelid " \
	"   WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid)) AS feeds, " \
	"  EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')) AS owned " \
	" FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace " \
	" WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname IN (SELECT nspname FROM t) " \
	" AND " AUDIT_NOT_MEMBER("pg_class", "c.oid") "), " \
	"x AS (" \
	" SELECT s.oid, s.relowner AS owner, a.grantor, a.grantee, a.privilege_type AS priv, pg_get_userbyid(a.grantor) AS grantor_name, " \
	"  CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee_name " \
	" FROM sequence s, aclexplode(COALESCE(s.relacl, acldefault('s', s.relowner))) a WHERE a.grantee <> s.relowner) " \
	"SELECT 'shared_sequence', CASE WHEN q.feeds IS NULL AND NOT bool_or(x.priv <> 'USAGE') THEN 'info' ELSE 'warning' END, " \
	" q.name, g.role_name, " \
	" CASE WHEN q.feeds IS NULL THEN format('All tenants draw from it: its numbers tell %I how much the others do.', g.role_name) " \
	"  ELSE format('It gives %s its keys. %I can %s; to insert rows USAGE is enough, and none is needed for an identity column.', " \
	"   q.feeds, g.role_name, string_agg(DISTINCT CASE x.priv WHEN 'UPDATE' THEN 'set it back' ELSE 'see how much other tenants do' END, ' and ')) END, " \
	AUDIT_REVOKE("SEQUENCE ' || q.name || '") " " \
	"FROM sequence q JOIN x ON x.oid = q.oid JOIN g ON g.grantee = x.grantee " \
	"WHERE (q.feeds IS NOT NULL AND x.priv IN ('SELECT', 'UPDATE')) OR (q.feeds IS NULL AND NOT q.owned) " \
	"GROUP BY q.oid, q.name, q.feeds, g.role, g.role_name ORDER BY g.role_name"

/* There may be millions, so the statement finds them by itself */
#define LARGE_OBJECTS \
	AUDIT_WITH ", " \
	"lo AS (" \
	" SELECT g.role, g.role_name, a.grantee, l.oid FROM pg_largeobject_metadata l, " \
	" aclexplode(COALESCE(l.lomacl, acldefault('L', l.lomowner))) a JOIN g ON g.grantee = a.grantee) " \
	"SELECT 'large_objects', 'warning', 'large objects', lo.role_name, " \
	" format('%I can read %s large objects, such as %s. They have no policies: what one tenant stores, all can read. Keep such data in a bytea column of a table.', " \
	"  lo.role_name, count(DISTINCT lo.oid), min(lo.oid)), " \
	" format('DO %L', format('DECLARE object oid; BEGIN FOR object IN SELECT DISTINCT l.oid FROM pg_catalog.pg_largeobject_metadata l, " \
	"pg_catalog.aclexplode(COALESCE(l.lomacl, pg_catalog.acldefault(%L, l.lomowner))) a WHERE a.grantee = ANY (%L::oid[]) " \
	"LOOP EXECUTE pg_catalog.format(%L, object); END LOOP; END', 'L', array_agg(DISTINCT lo.grantee)::text, " \
	"  format('REVOKE ALL ON LARGE OBJECT %%s FROM %s CASCADE', replace(string_agg(DISTINCT CASE WHEN lo.grantee = 0 THEN 'PUBLIC' " \
	"   ELSE quote_ident(pg_get_userbyid(lo.grantee)) END, ', '), '%', '%%')))) " \
	"FROM lo GROUP BY lo.role, lo.role_name ORDER BY lo.role_name"

void
audit_check_server(Audit *audit)
{
	check_version(audit);
	audit_query(audit, PRESETS);
	/* The paths are not for everybody */
	if (superuser() || has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_SETTINGS))
		audit_query(audit, PRESETS_IN_FILES);
	audit_query(audit, PUBLICATIONS);
	audit_query(audit, SEQUENCES);
	audit_query(audit, LARGE_OBJECTS);
}
