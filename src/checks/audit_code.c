/*
 * audit_code.c
 *		Functions: those that run as somebody else, that choose the tenant, that
 *		the planner trusts, and that write without a tenant.
 *
 * The bodies of functions are texts in any language, so what they do is told
 * by the words in them (audit_tokens.c), and of SQL bodies that the server has
 * parsed, by what they depend on.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/varlena.h"

#include "checks/audit.h"
#include "engine/compat.h"
#include "engine/sqltext.h"

/* A function that a role can call, or that a trigger calls for it */
typedef struct Function
{
	char	   *name;			/* with its arguments, as in ALTER ROUTINE */
	char	   *schema;
	char	   *source;
	bool		parsed;			/* a body that was parsed when it was made */
	bool		depends;		/* on one of the tables */
	bool		definer;
	bool		passes;			/* its owner passes the policies */
	char	   *owner;
	char	   *path;			/* its search_path; NULL: none is set */
	char	   *setting;		/* one of ours that it has a value for, or NULL */
	bool		sets;			/* mentions one of ours */
	char	   *role;
	bool		by_trigger;
	char	   *creatable;		/* schemas that the role may create in */
	bool		temporary;		/* the role may make temporary tables */
	char	   *revoke;
} Function;

/* All but those of the system and of extensions */
#define FUNCTIONS \
	"fn AS MATERIALIZED (" \
	" SELECT p.oid, n.oid AS nspid, n.nspname, p.prosrc, p.prosqlbody IS NOT NULL AS parsed, p.prosecdef, p.proconfig, " \
	"  p.proowner, o.rolname, p.prorettype IN ('trigger'::regtype, 'event_trigger'::regtype) AS for_triggers, " \
	"  format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) AS name, " \
	"  COALESCE(p.proacl, acldefault('f', p.proowner)) AS acl, l.lanname, " \
	"  o.rolsuper OR o.rolbypassrls OR EXISTS (SELECT FROM t WHERE " AUDIT_PASSES("o", "t") ") AS passes, " \
	"  (SELECT s.setting FROM unnest($5::text[]) s (setting) WHERE position(lower(s.setting) IN lower(p.prosrc)) > 0 LIMIT 1) AS mentions " \
	" FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_roles o ON o.oid = p.proowner " \
	" JOIN pg_language l ON l.oid = p.prolang " \
	" WHERE " AUDIT_USER_SCHEMA("n") " AND " AUDIT_NOT_MEMBER("pg_proc", "p.oid") ") "

#define REACHABLE \
	AUDIT_WITH ", " AUDIT_REVOKE_ALL ", " FUNCTIONS ", " \
	"x AS (SELECT fn.oid, fn.proowner AS owner, a.grantor, a.grantee, a.privilege_type AS priv, " \
	"  pg_get_userbyid(a.grantor) AS grantor_name, " \
	"  CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee_name " \
	" FROM fn, aclexplode(fn.acl) a), " \
	"call AS (" \
	" SELECT fn.oid, g.role, g.role_name, false AS by_trigger, " \
	"  " AUDIT_REVOKE("ROUTINE ' || min(fn.name) || '") " AS revoke " \
	" FROM fn JOIN x ON x.oid = fn.oid JOIN g ON g.grantee = x.grantee JOIN s ON s.role = g.role AND s.nspid = fn.nspid " \
	" WHERE NOT fn.for_triggers GROUP BY fn.oid, g.role, g.role_name " \
	" UNION ALL " \
	" SELECT fn.oid, g.role, g.role_name, true, string_agg(DISTINCT format('DROP TRIGGER %I ON %I.%I', tr.tgname, n.nspname, c.relname), '; ') " \
	" FROM fn JOIN pg_trigger tr ON tr.tgfoid = fn.oid AND NOT tr.tgisinternal AND tr.tgenabled <> 'D' AND tr.tgparentid = 0 " \
	" JOIN pg_class c ON c.oid = tr.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace " \
	" JOIN acl ON acl.oid = tr.tgrelid JOIN g ON g.grantee = acl.grantee " \
	" WHERE acl.priv IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE') AND acl.grantee <> acl.owner GROUP BY fn.oid, g.role, g.role_name) " \
	"SELECT fn.name, fn.nspname, fn.prosrc, fn.parsed, " \
	" EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = fn.oid " \
	"  AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY ($1::oid[])), " \
	" fn.prosecdef, fn.passes, fn.rolname, " \
	" (SELECT substr(c, length('search_path=') + 1) FROM unnest(fn.proconfig) c WHERE c LIKE 'search\\_path=%'), " \
	" (SELECT split_part(c, '=', 1) FROM unnest(fn.proconfig) c JOIN unnest($5::text[]) s ON lower(s) = lower(split_part(c, '=', 1)) LIMIT 1), " \
	" fn.mentions IS NOT NULL, call.role_name, call.by_trigger, " \
	" (SELECT string_agg(DISTINCT quote_ident(n.nspname), ',') FROM pg_namespace n, aclexplode(COALESCE(n.nspacl, acldefault('n', n.nspowner))) a " \
	"  JOIN g ON g.grantee = a.grantee WHERE g.role = call.role AND a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner), " \
	" EXISTS (SELECT FROM pg_database b, aclexplode(COALESCE(b.datacl, acldefault('d', b.datdba))) a JOIN g ON g.grantee = a.grantee " \
	"  WHERE b.datname = current_database() AND g.role = call.role AND a.privilege_type = 'TEMPORARY'), " \
	" call.revoke " \
	"FROM call JOIN fn ON fn.oid = call.oid " \
	"WHERE fn.lanname NOT IN ('c', 'internal') AND ((fn.prosecdef AND fn.passes) OR fn.mentions IS NOT NULL OR fn.proconfig IS NOT NULL) " \
	"ORDER BY call.role_name, fn.name"

#define LEAKPROOF \
	AUDIT_WITH ", " FUNCTIONS \
	"SELECT 'leakproof_function', 'warning', 'function ' || fn.name, $6::text, " \
	" 'It is marked LEAKPROOF, so the server may run it on rows before the policies have hidden them. If it tells anything about its arguments, in a message too, it tells about all tenants.', " \
	" format('ALTER FUNCTION %s NOT LEAKPROOF', fn.name) " \
	"FROM fn JOIN pg_proc p ON p.oid = fn.oid WHERE p.proleakproof ORDER BY fn.name"

/* Tables that a trigger of their own gives the tenant, if the text of its
 * function mentions the column */
#define FILLED \
	AUDIT_WITH \
	"SELECT DISTINCT t.oid FROM t JOIN pg_trigger tr ON tr.tgrelid = t.oid JOIN pg_proc p ON p.oid = tr.tgfoid " \
	"JOIN pg_namespace n ON n.oid = p.pronamespace " \
	"WHERE NOT tr.tgisinternal AND tr.tgenabled IN ('O', 'A') AND tr.tgtype & 7 = 7 " \
	"AND ((n.nspname = 'tenantmig' AND p.proname = 'fill_tenant') OR position(t.attname IN p.prosrc) > 0)"

#define TRIGGER_FUNCTIONS \
	AUDIT_WITH ", " FUNCTIONS \
	"SELECT DISTINCT fn.name, fn.prosrc FROM fn JOIN pg_trigger tr ON tr.tgfoid = fn.oid " \
	"WHERE NOT tr.tgisinternal AND tr.tgenabled <> 'D' AND fn.prosrc ILIKE '%insert%' ORDER BY fn.name"

/* --- reading ---------------------------------------------------------- */

static List *
read_functions(Audit *audit)
{
	OwnQuery	query;
	uint64		count;
	List	   *functions = NIL;

	audit_bind(audit, &query, REACHABLE);
	SPI_connect();
	count = query_run(&query);
	MemoryContextSwitchTo(audit->context);
	for (uint64 i = 0; i < count; i++)
	{
		Function   *function = palloc0(sizeof(Function));

		function->name = query_get_text(i, 1);
		function->schema = query_get_text(i, 2);
		function->source = query_get_text(i, 3);
		function->parsed = query_get_bool(i, 4);
		function->depends = query_get_bool(i, 5);
		function->definer = query_get_bool(i, 6);
		function->passes = query_get_bool(i, 7);
		function->owner = query_get_text(i, 8);
		function->path = query_get_text(i, 9);
		function->setting = query_get_text(i, 10);
		function->sets = query_get_bool(i, 11);
		function->role = query_get_text(i, 12);
		function->by_trigger = query_get_bool(i, 13);
		function->creatable = query_get_text(i, 14);
		function->temporary = query_get_bool(i, 15);
		function->revoke = query_get_text(i, 16);
		functions = lappend(functions, function);
	}
	SPI_finish();
	return functions;
}

/* The names of all tables, to look words up in */
static HTAB *
table_names(Audit *audit)
{
	HASHCTL		ctl;
	HTAB	   *names;
	ListCell   *lc;

	ctl.keysize = NAMEDATALEN;
	ctl.entrysize = NAMEDATALEN;
	ctl.hcxt = audit->context;
	names = hash_create("names of the audit", 1024, &ctl,
						HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	foreach(lc, audit->tables)
		(void) hash_search(names, ((AuditTable *) lfirst(lc))->relname,
						   HASH_ENTER, NULL);
	return names;
}

static const char *
find_table_name(HTAB *names, List *tokens)
{
	ListCell   *lc;

	foreach(lc, tokens)
		if (hash_search(names, lfirst(lc), HASH_FIND, NULL) != NULL)
			return lfirst(lc);
	return NULL;
}

/* --- SECURITY DEFINER ------------------------------------------------- */

static void
check_definer(Audit *audit, const Function *function, List *tokens, HTAB *names)
{
	const char *table = find_table_name(names, tokens);
	bool		dynamic = audit_mentions(tokens, "execute");
	const char *what = table ? psprintf("and mentions %s", quote_identifier(table))
		: function->depends ? "and depends on tenant tables"
		: dynamic ? "and runs statements that it puts together"
		: "though it does not seem to mention a tenant table";

	audit_add(audit, "definer_function",
			  table || function->depends || dynamic ? AUDIT_ERROR : AUDIT_WARNING,
			  psprintf("function %s", function->name), function->role,
			  psprintf("%s %s. It runs as its owner %s, whom the policies do not hold for, %s. Or give it to an owner whom they hold for%s.",
					   quote_identifier(function->role),
					   function->by_trigger ? "makes triggers call it" : "can call it",
					   quote_identifier(function->owner), what,
					   function->by_trigger ? "" : psprintf(", or take the right away: %s", function->revoke)),
			  psprintf("ALTER ROUTINE %s SECURITY INVOKER", function->name));
}

/* A new search_path: what was there and is safe, then pg_temp */
static char *
safe_path(const Function *function, List *schemas, List *creatable)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "pg_catalog");
	foreach(lc, schemas)
	{
		char	   *schema = lfirst(lc);

		if (strcmp(schema, "pg_catalog") != 0 && strcmp(schema, "pg_temp") != 0 &&
			strcmp(schema, "$user") != 0 && !audit_mentions(creatable, schema))
			appendStringInfo(&buf, ", %s", quote_identifier(schema));
	}
	appendStringInfoString(&buf, ", pg_temp");
	return psprintf("ALTER ROUTINE %s SET search_path = %s", function->name,
					buf.data);
}

static void
check_path(Audit *audit, const Function *function)
{
	List	   *schemas = list_make1(function->schema);
	List	   *creatable = NIL;
	const char *problem = NULL;
	ListCell   *lc;

	if (function->creatable)
		(void) SplitIdentifierString(pstrdup(function->creatable), ',', &creatable);
	if (function->path == NULL)
		problem = "has no search_path of its own";
	else if (SplitIdentifierString(pstrdup(function->path), ',', &schemas))
	{
		if (!audit_mentions(schemas, "pg_temp") && function->temporary)
			problem = "looks for tables among the temporary ones of the caller first, since its search_path does not end with pg_temp";
		foreach(lc, schemas)
			if (audit_mentions(creatable, lfirst(lc)))
				problem = psprintf("looks for objects in %s, where the caller may create some",
								   quote_identifier(lfirst(lc)));
	}
	if (problem == NULL)
		return;
	audit_add(audit, "definer_search_path", AUDIT_WARNING,
			  psprintf("function %s", function->name), function->role,
			  psprintf("It runs as %s, but %s: %s can have it use objects of its own. What the function needs of other schemas must be qualified, or they be added.",
					   quote_identifier(function->owner), problem,
					   quote_identifier(function->role)),
			  safe_path(function, schemas, creatable));
}

/* --- the setting ------------------------------------------------------ */

/* set_config(), or SET with one of the settings; a function that only reads the
 * setting has neither */
static bool
sets_setting(Audit *audit, List *tokens)
{
	ListCell   *lc;

	if (audit_mentions(tokens, "set_config"))
		return true;
	foreach(lc, audit->settings)
		if (audit_sets(tokens, lfirst(lc)))
			return true;
	return false;
}

static void
check_setting(Audit *audit, const Function *function, List *tokens)
{
	char	   *object = psprintf("function %s", function->name);

	if (function->setting)
		audit_add(audit, "setting_function", AUDIT_WARNING, object,
				  function->role,
				  psprintf("It runs with a tenant of its own, whatever the session has set: %s has %s set.",
						   function->name, function->setting),
				  psprintf("ALTER ROUTINE %s RESET %s", function->name,
						   function->setting));
	if (function->sets && sets_setting(audit, tokens))
		audit_add(audit, "setting_function", AUDIT_WARNING, object,
				  function->role,
				  psprintf("It seems to set the tenant, and %s %s. See that it sets none that the caller has no right to.",
						   quote_identifier(function->role),
						   function->by_trigger ? "makes triggers call it" : "can call it"),
				  function->revoke);
}

/* --- rows without a tenant -------------------------------------------- */

static List *
filled_tables(Audit *audit)
{
	OwnQuery	query;
	uint64		count;
	List	   *filled = NIL;

	audit_bind(audit, &query, FILLED);
	SPI_connect();
	count = query_run(&query);
	MemoryContextSwitchTo(audit->context);
	for (uint64 i = 0; i < count; i++)
		filled = lappend_oid(filled, query_get_oid(i, 1));
	SPI_finish();
	return filled;
}

static void
check_trigger(Audit *audit, const char *name, List *tokens, List *filled)
{
	ListCell   *lc;

	foreach(lc, audit->tables)
	{
		AuditTable *table = lfirst(lc);

		/* A default that is the session's tenant fills it */
		if (!table->inside || list_member_oid(filled, table->oid) ||
			(table->preset.tree != NULL &&
			 (table->preset.flags & (CONDITION_CONSTANT | CONDITION_DEFAULTED)) == 0) ||
			!audit_inserts_without(tokens, table->schema, table->relname,
								   table->column))
			continue;
		audit_add(audit, "trigger_without_tenant", AUDIT_WARNING,
				  psprintf("function %s", name), audit->role_name,
				  psprintf("Triggers call it, and it inserts into %s without %s: the rows get no tenant, or that of a default.",
						   table->name, quote_identifier(table->column)),
				  psprintf("ALTER TABLE %s ALTER COLUMN %s SET DEFAULT %s",
						   table->name, quote_identifier(table->column),
						   audit_setting_value(table)));
	}
}

static void
check_triggers(Audit *audit)
{
	List	   *filled = filled_tables(audit);
	OwnQuery	query;
	uint64		count;

	audit_bind(audit, &query, TRIGGER_FUNCTIONS);
	SPI_connect();
	count = query_run(&query);
	for (uint64 i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		check_trigger(audit, query_get_text(i, 1),
					  audit_tokens(query_get_text(i, 2)), filled);
	}
	SPI_finish();
}

void
audit_check_code(Audit *audit)
{
	HTAB	   *names = table_names(audit);
	ListCell   *lc;

	foreach(lc, read_functions(audit))
	{
		Function   *function = lfirst(lc);
		List	   *tokens = audit_tokens(function->source);

		CHECK_FOR_INTERRUPTS();
		if (function->definer && function->passes)
		{
			check_definer(audit, function, tokens, names);
			if (!function->parsed)
				check_path(audit, function);
		}
		check_setting(audit, function, tokens);
	}
	audit_query(audit, LEAKPROOF);
	check_triggers(audit);
}
