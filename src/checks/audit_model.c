/*
 * audit_model.c
 *		What the audit looks at: the tables, their policies, roles and rights.
 *
 * A table belongs to the tenants if it has a column of the name that the call
 * gives, or of one that add_tenant_column or enable_rls was called with in
 * this database.  Left out are temporary tables, those of the system, and
 * those of an extension.
 *
 * Which roles: the one that was asked for, and every role that it can SET ROLE
 * to.  If none was, all that have any privilege on one of the tables, by
 * themselves or by a membership; superusers, for whom nothing can be mended,
 * and the predefined roles, which nobody connects as, are left out.  "public"
 * stands for everybody, if anything is granted to PUBLIC.  Of login roles that
 * own nothing, are granted nothing and are members of the same roles, one
 * stands for all, however many there are.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "checks/audit.h"
#include "engine/compat.h"

/* Whose privileges a role has, and whom it can become */
#define WITH_USAGE(start) \
	"usage (role, target) AS (" \
	" SELECT r.oid, r.oid FROM pg_roles r WHERE " start \
	" UNION SELECT u.role, m.roleid FROM usage u " \
	" JOIN pg_auth_members m ON m.member = u.target " \
	" JOIN pg_roles r ON r.oid = m.member WHERE " MEMBER_INHERITS ") "
#define WITH_SETABLE(start) \
	"setable (role, target) AS (" \
	" SELECT r.oid, r.oid FROM pg_roles r WHERE " start \
	" UNION SELECT s.role, m.roleid FROM setable s " \
	" JOIN pg_auth_members m ON m.member = s.target " \
	" JOIN pg_roles r ON r.oid = m.member WHERE " MEMBER_CAN_SET ") "

typedef struct TableEntry
{
	Oid			oid;			/* hash key */
	AuditTable *table;
} TableEntry;

/* --- small helpers ---------------------------------------------------- */

static List *
oid_list(Datum array)
{
	ArrayType  *a = DatumGetArrayTypePCopy(array);
	Oid		   *oids = (Oid *) ARR_DATA_PTR(a);
	int			count = ArrayGetNItems(ARR_NDIM(a), ARR_DIMS(a));
	List	   *list = NIL;

	for (int i = 0; i < count; i++)
		list = lappend_oid(list, oids[i]);
	return list;
}

static Datum
get_datum(uint64 row, int column)
{
	bool		isnull;

	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						 column, &isnull);
}

static char
get_char(uint64 row, int column)
{
	return DatumGetChar(get_datum(row, column));
}

Datum
audit_oid_array(Datum *values, int count)
{
	return PointerGetDatum(construct_array(values, count, OIDOID, sizeof(Oid),
										   true, TYPALIGN_INT));
}

static Datum
text_array(List *texts)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(list_length(texts), 1));
	int			count = 0;
	ListCell   *lc;

	foreach(lc, texts)
		values[count++] = CStringGetTextDatum(lfirst(lc));
	return PointerGetDatum(construct_array(values, count, TEXTOID, -1, false,
										   TYPALIGN_INT));
}

AuditTable *
audit_find_table(Audit *audit, Oid relid)
{
	TableEntry *entry = hash_search(audit->table_of, &relid, HASH_FIND, NULL);

	return entry ? entry->table : NULL;
}

bool
audit_has_role(const AuditActor *actor, Oid role)
{
	return list_member_oid(actor->granted, role);
}

/* --- tables ----------------------------------------------------------- */

static AuditTable *
read_table(uint64 row)
{
	AuditTable *table = palloc0(sizeof(AuditTable));

	table->oid = query_get_oid(row, 1);
	table->name = query_get_text(row, 2);
	table->kind = get_char(row, 3);
	table->inside = query_get_bool(row, 4);
	table->is_partition = query_get_bool(row, 5);
	table->enabled = query_get_bool(row, 6);
	table->forced = query_get_bool(row, 7);
	table->owner = query_get_oid(row, 8);
	table->attnum = DatumGetInt16(get_datum(row, 9));
	table->column = query_get_text(row, 10);
	table->type = query_get_oid(row, 11);
	table->not_null = query_get_bool(row, 12);
	table->preset.tree = query_get_text(row, 13);
	table->shape = query_get_text(row, 14);
	table->schema = query_get_text(row, 15);
	table->relname = query_get_text(row, 16);
	return table;
}

static void
read_tables(Audit *audit)
{
	OwnQuery	query;
	uint64		count;

	query_init(&query,
			   "WITH names AS MATERIALIZED ("
			   " SELECT $1::text AS name, 0 AS place "
			   " UNION ALL SELECT DISTINCT j.arguments->>'column', 1 FROM tenantmig.job j "
			   " WHERE j.kind IN ('add_tenant_column', 'enable_rls') "
			   " AND j.state = 'succeeded' AND j.undone_by IS NULL) "
			   "SELECT DISTINCT ON (n.nspname, c.relname) c.oid, "
			   " format('%I.%I', n.nspname, c.relname), c.relkind, "
			   " $2::text[] IS NULL OR n.nspname = ANY ($2::text[]), "
			   " c.relispartition, c.relrowsecurity, c.relforcerowsecurity, "
			   " c.relowner, a.attnum, a.attname, a.atttypid, "
			   " " COLUMN_IS_NOT_NULL("a") ", d.adbin::text, "
			   " (SELECT md5(string_agg(format('%s %s', x.attname, x.atttypid), ',' ORDER BY x.attname)) "
			   "  FROM pg_attribute x WHERE x.attrelid = c.oid AND x.attnum > 0 AND NOT x.attisdropped), "
			   " n.nspname, c.relname "
			   "FROM names JOIN pg_attribute a ON a.attname = names.name "
			   "JOIN pg_class c ON c.oid = a.attrelid "
			   "JOIN pg_namespace n ON n.oid = c.relnamespace "
			   "LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum "
			   "WHERE a.attnum > 0 AND NOT a.attisdropped "
			   "AND c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' "
			   "AND " AUDIT_USER_SCHEMA("n")
			   "AND " AUDIT_NOT_MEMBER("pg_class", "c.oid")
			   "ORDER BY n.nspname, c.relname, names.place, names.name");
	query_text(&query, audit->column);
	query_datum(&query, TEXTARRAYOID,
				audit->all_schemas ? (Datum) 0 : text_array(audit->schemas),
				audit->all_schemas);
	SPI_connect();
	count = query_run(&query);
	MemoryContextSwitchTo(audit->context);
	for (uint64 i = 0; i < count; i++)
	{
		AuditTable *table = read_table(i);
		TableEntry *entry = hash_search(audit->table_of, &table->oid,
										HASH_ENTER, NULL);

		entry->table = table;
		audit->tables = lappend(audit->tables, table);
	}
	SPI_finish();
}

/* The tables that are looked at, as the parameters of the statements */
static void
make_table_arrays(Audit *audit)
{
	Datum	   *relids = palloc(sizeof(Datum) * Max(list_length(audit->tables), 1));
	Datum	   *attnums = palloc(sizeof(Datum) * Max(list_length(audit->tables), 1));
	int			count = 0;
	ListCell   *lc;

	foreach(lc, audit->tables)
	{
		AuditTable *table = lfirst(lc);

		if (!table->inside)
			continue;
		relids[count] = ObjectIdGetDatum(table->oid);
		attnums[count++] = Int16GetDatum(table->attnum);
	}
	audit->relids = audit_oid_array(relids, count);
	audit->attnums = PointerGetDatum(construct_array(attnums, count, INT2OID,
													 sizeof(int16), true,
													 TYPALIGN_SHORT));
}

static void
read_parents(Audit *audit)
{
	OwnQuery	query;
	uint64		count;

	audit_bind(audit, &query,
			   "SELECT i.inhrelid, i.inhparent FROM pg_inherits i "
			   "WHERE i.inhrelid = ANY ($1::oid[])");
	SPI_connect();
	count = query_run(&query);
	MemoryContextSwitchTo(audit->context);
	for (uint64 i = 0; i < count; i++)
	{
		AuditTable *child = audit_find_table(audit, query_get_oid(i, 1));
		AuditTable *parent = audit_find_table(audit, query_get_oid(i, 2));

		if (child == NULL || parent == NULL)
			continue;
		parent->has_children = true;
		if (child->parent == NULL || !child->parent->enabled)
			child->parent = parent;
	}
	SPI_finish();
}

/* --- policies --------------------------------------------------------- */

static void
read_policies(Audit *audit)
{
	OwnQuery	query;
	uint64		count;
	ListCell   *lc;

	audit_bind(audit, &query,
			   "SELECT p.polrelid, p.polname, p.polcmd, p.polpermissive, p.polroles, "
			   "p.polqual::text, p.polwithcheck::text FROM pg_policy p "
			   "WHERE p.polrelid = ANY ($1::oid[]) ORDER BY p.polrelid, p.polname");
	SPI_connect();
	count = query_run(&query);
	MemoryContextSwitchTo(audit->context);
	for (uint64 i = 0; i < count; i++)
	{
		AuditTable *table = audit_find_table(audit, query_get_oid(i, 1));
		AuditPolicy *policy = palloc0(sizeof(AuditPolicy));

		policy->name = query_get_text(i, 2);
		policy->command = get_char(i, 3);
		policy->permissive = query_get_bool(i, 4);
		policy->roles = oid_list(get_datum(i, 5));
		policy->qual.tree = query_get_text(i, 6);
		policy->check.tree = query_get_text(i, 7);
		table->policies = lappend(table->policies, policy);
	}
	SPI_finish();

	foreach(lc, audit->tables)
	{
		AuditTable *table = lfirst(lc);
		ListCell   *lp;

		table->setting = audit->setting;
		foreach(lp, table->policies)
		{
			AuditPolicy *policy = lfirst(lp);

			audit_read_condition(table, &policy->qual);
			audit_read_condition(table, &policy->check);
			if (policy->check.setting)
				table->setting = policy->check.setting;
			if (policy->qual.setting)
				table->setting = policy->qual.setting;
		}
		audit_read_default(table);
	}
}

static bool
has_text(List *texts, const char *text)
{
	ListCell   *lc;

	foreach(lc, texts)
		if (strcmp(lfirst(lc), text) == 0)
			return true;
	return false;
}

/* Those that policies compare with; if there are none, the one of the call */
static void
collect_settings(Audit *audit)
{
	ListCell   *lc;

	foreach(lc, audit->tables)
	{
		AuditTable *table = lfirst(lc);

		if (!has_text(audit->settings, table->setting))
			audit->settings = lappend(audit->settings, table->setting);
	}
	if (audit->settings == NIL)
		audit->settings = list_make1(audit->setting);
}

/* --- roles ------------------------------------------------------------ */

/* Whether anything in this database is the role's own, or granted to it, or a
 * policy names it */
#define MENTIONED \
	"EXISTS (SELECT FROM pg_shdepend d WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid " \
	" AND d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())))"

/*
 * Columns: role, passes row-level security, wanted, whose privileges it has.
 * Nobody works as a predefined role, but whoever can become one has its
 * privileges if he likes.
 */
#define WITH_GRANTED \
	"granted (role, roles) AS (" \
	" SELECT x.role, array_agg(x.target ORDER BY x.target) FROM (" \
	"  SELECT u.role, u.target FROM usage u UNION " \
	"  SELECT s.role, s.target FROM setable s WHERE s.target < 16384) x GROUP BY x.role) "

#define ROLES_OF_ONE \
	"WITH RECURSIVE " WITH_SETABLE("r.rolname = $1::name") ", " \
	WITH_USAGE("r.oid IN (SELECT target FROM setable)") ", " WITH_GRANTED ", " \
	"one AS (" \
	" SELECT r.oid, r.rolname, r.rolsuper OR r.rolbypassrls AS passes, r.rolname = $1::name AS asked, " \
	"  " MENTIONED " AS mentioned, g.roles, array_remove(g.roles, r.oid) AS others " \
	" FROM granted g JOIN pg_roles r ON r.oid = g.role " \
	" WHERE r.oid >= 16384 OR r.rolname = $1::name) " \
	"SELECT k.oid, k.passes, k.asked, k.roles FROM (" \
	" SELECT one.*, one.oid = min(one.oid) OVER (PARTITION BY one.mentioned, one.others) AS first FROM one) k " \
	"WHERE k.asked OR k.mentioned OR k.first ORDER BY NOT k.asked, k.rolname"

#define ROLES_OF_ALL \
	AUDIT_WITH ", " WITH_USAGE("NOT r.rolsuper AND r.oid >= 16384") ", " \
	WITH_SETABLE("NOT r.rolsuper AND r.oid >= 16384") ", " WITH_GRANTED ", " \
	"holder AS MATERIALIZED (" \
	" SELECT DISTINCT acl.grantee AS oid FROM acl JOIN t ON t.oid = acl.oid WHERE acl.grantee <> 0 " \
	" UNION SELECT t.relowner FROM t " \
	" UNION SELECT unnest('{" AUDIT_READ_ALL "," AUDIT_WRITE_ALL "}'::oid[])), " \
	"can AS (" \
	" SELECT s.role, array_agg(s.target ORDER BY s.target) AS roles FROM setable s GROUP BY s.role), " \
	"one AS (" \
	" SELECT r.oid, r.rolname, r.rolbypassrls AS passes, " MENTIONED " AS mentioned, g.roles, " \
	"  array_remove(g.roles, r.oid) AS others, array_remove(c.roles, r.oid) AS becomes " \
	" FROM granted g JOIN can c ON c.role = g.role JOIN pg_roles r ON r.oid = g.role WHERE r.oid IN (" \
	"  SELECT u.role FROM usage u JOIN holder h ON h.oid = u.target " \
	"  UNION SELECT s.role FROM setable s JOIN holder h ON h.oid = s.target)) " \
	"SELECT k.oid, k.passes, k.mentioned OR k.first, k.roles FROM (" \
	" SELECT one.*, one.oid = min(one.oid) OVER (PARTITION BY one.mentioned, one.others, one.becomes) AS first FROM one) k " \
	"ORDER BY k.mentioned DESC, k.rolname"

#define PUBLIC_IS_GRANTED \
	AUDIT_WITH "SELECT EXISTS (SELECT FROM acl JOIN t ON t.oid = acl.oid WHERE acl.grantee = 0)"

static void
add_actor(Audit *audit, Oid role, const char *name, List *granted)
{
	AuditActor *actor = palloc0(sizeof(AuditActor));

	actor->oid = role;
	actor->name = pstrdup(name);
	actor->granted = lappend_oid(granted, ACL_ID_PUBLIC);
	audit->actors = lappend(audit->actors, actor);
}

static void
make_role_arrays(Audit *audit)
{
	int			room = 1;
	int			count = 0;
	Datum	   *roles;
	Datum	   *grantees;
	ListCell   *lc;
	ListCell   *lg;

	foreach(lc, audit->actors)
		room += list_length(((AuditActor *) lfirst(lc))->granted);
	roles = palloc(sizeof(Datum) * room);
	grantees = palloc(sizeof(Datum) * room);
	foreach(lc, audit->actors)
	{
		AuditActor *actor = lfirst(lc);

		foreach(lg, actor->granted)
		{
			roles[count] = ObjectIdGetDatum(actor->oid);
			grantees[count++] = ObjectIdGetDatum(lfirst_oid(lg));
		}
	}
	audit->roles = audit_oid_array(roles, count);
	audit->grantees = audit_oid_array(grantees, count);
}

static void
read_roles(Audit *audit)
{
	OwnQuery	query;
	uint64		count;
	Datum	   *subjects;
	int			n = 0;
	bool		one = audit->role_name != NULL;

	SPI_connect();
	if (one)
	{
		query_init(&query, ROLES_OF_ONE);
		query_name(&query, audit->role_name);
		if (strcmp(audit->role_name, "public") == 0)
			add_actor(audit, ACL_ID_PUBLIC, audit->role_name, NIL);
	}
	else
	{
		audit_bind(audit, &query, PUBLIC_IS_GRANTED);
		(void) query_run(&query);
		MemoryContextSwitchTo(audit->context);
		if (query_get_bool(0, 1))
			add_actor(audit, ACL_ID_PUBLIC, "public", NIL);
		audit_bind(audit, &query, ROLES_OF_ALL);
	}
	count = query_run(&query);
	MemoryContextSwitchTo(audit->context);
	subjects = palloc(sizeof(Datum) * Max(count, 1));
	for (uint64 i = 0; i < count; i++)
	{
		Oid			role = query_get_oid(i, 1);
		bool		bypasses = query_get_bool(i, 2);
		bool		wanted = query_get_bool(i, 3);

		if (wanted || !one)
			subjects[n++] = ObjectIdGetDatum(role);
		if (!bypasses && (wanted || one))
			add_actor(audit, role,
					  one ? audit->role_name : GetUserNameFromId(role, false),
					  oid_list(get_datum(i, 4)));
	}
	audit->subjects = audit_oid_array(subjects, n);
	SPI_finish();
	make_role_arrays(audit);
}

/* --- rights ----------------------------------------------------------- */

static AuditActor *
find_actor(Audit *audit, Oid role)
{
	ListCell   *lc;

	foreach(lc, audit->actors)
		if (((AuditActor *) lfirst(lc))->oid == role)
			return lfirst(lc);
	elog(ERROR, "role %u is not looked at", role);
}

static void
read_accesses(Audit *audit)
{
	OwnQuery	query;
	uint64		count;

	audit_bind(audit, &query,
			   AUDIT_WITH
			   "SELECT t.oid, g.role, "
			   "bool_or(acl.priv = 'SELECT'), bool_or(acl.priv = 'INSERT'), "
			   "bool_or(acl.priv = 'UPDATE'), bool_or(acl.priv = 'DELETE') "
			   "FROM t JOIN acl ON acl.oid = t.oid JOIN g ON g.grantee = acl.grantee "
			   "WHERE acl.priv IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE') "
			   "GROUP BY t.oid, g.role");
	SPI_connect();
	count = query_run(&query);
	MemoryContextSwitchTo(audit->context);
	for (uint64 i = 0; i < count; i++)
	{
		AuditTable *table = audit_find_table(audit, query_get_oid(i, 1));
		AuditAccess *access = palloc0(sizeof(AuditAccess));

		access->actor = find_actor(audit, query_get_oid(i, 2));
		access->mode = (query_get_bool(i, 3) ? ACL_SELECT : 0) |
			(query_get_bool(i, 4) ? ACL_INSERT : 0) |
			(query_get_bool(i, 5) ? ACL_UPDATE : 0) |
			(query_get_bool(i, 6) ? ACL_DELETE : 0);
		table->accesses = lappend(table->accesses, access);
	}
	SPI_finish();
}

void
audit_read_model(Audit *audit)
{
	Datum		none = audit_oid_array(NULL, 0);
	HASHCTL		ctl;

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(TableEntry);
	ctl.hcxt = audit->context;
	audit->table_of = hash_create("tables of the audit", 1024, &ctl,
								  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	audit->relids = audit->attnums = none;
	audit->roles = audit->grantees = audit->subjects = none;
	audit->open_owners = audit->open_relids = none;
	audit->open_in_views = PointerGetDatum(construct_empty_array(BOOLOID));
	read_tables(audit);
	make_table_arrays(audit);
	read_parents(audit);
	read_policies(audit);
	collect_settings(audit);
	read_roles(audit);
	read_accesses(audit);
	audit_read_definers(audit);
}
