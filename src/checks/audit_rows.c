/*
 * audit_rows.c
 *		Rows that break the pairing that a foreign key ought to have.
 *
 * Where a foreign key does not pair the tenant columns, or does and has not
 * been validated, rows may refer to rows of other tenants already.  That can
 * only be told by looking at them.  At most max_rows rows are looked at for
 * each such key, so that the audit of a large database ends; a row says so if
 * there are more.
 *
 * The query runs as the caller, who must be allowed to read all rows of both
 * tables; called by a superuser, as the owner of the referencing table, since
 * even planning a query may run code of the tables' owners (expressions of
 * indexes), which must not become a superuser's.  It is a security-restricted
 * operation in any case, and waits for no lock.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/resowner.h"
#include "utils/rls.h"

#include "checks/audit.h"
#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/locks.h"
#include "engine/sqltext.h"

typedef struct ForeignKey
{
	char	   *name;
	AuditTable *child;
	AuditTable *parent;
	bool		paired;
	int			count;
	char	  **columns;		/* quoted, without the tenant columns */
	char	  **referenced;
	char	  **operators;		/* parent = child */
} ForeignKey;

#define KEYS \
	"WITH t AS MATERIALIZED (SELECT u.oid, u.attnum FROM unnest($1::oid[], $2::int2[]) u (oid, attnum)), " \
	"fk AS MATERIALIZED (" \
	" SELECT c.conname, c.conrelid, c.confrelid, c.conkey, c.confkey, c.conpfeqop, c.convalidated, t.attnum, " \
	"  EXISTS (SELECT FROM unnest(c.conkey, c.confkey) u (own, other) WHERE u.own = t.attnum AND u.other = r.attnum) AS paired " \
	" FROM pg_constraint c JOIN t ON t.oid = c.conrelid JOIN t r ON r.oid = c.confrelid " \
	" WHERE c.contype = 'f' AND c.conparentid = 0) " \
	"SELECT fk.conname, fk.conrelid, fk.confrelid, fk.paired, k.columns, k.referenced, k.operators " \
	"FROM fk CROSS JOIN LATERAL (SELECT array_agg(quote_ident(a.attname) ORDER BY u.place) AS columns, " \
	"  array_agg(quote_ident(b.attname) ORDER BY u.place) AS referenced, " \
	"  array_agg(format('OPERATOR(%I.%s)', n.nspname, o.oprname) ORDER BY u.place) AS operators " \
	" FROM unnest(fk.conkey, fk.confkey, fk.conpfeqop) WITH ORDINALITY u (own, other, operator, place) " \
	" JOIN pg_attribute a ON a.attrelid = fk.conrelid AND a.attnum = u.own " \
	" JOIN pg_attribute b ON b.attrelid = fk.confrelid AND b.attnum = u.other " \
	" JOIN pg_operator o ON o.oid = u.operator JOIN pg_namespace n ON n.oid = o.oprnamespace " \
	" WHERE u.own <> fk.attnum) k " \
	"WHERE k.columns IS NOT NULL AND NOT (fk.paired AND fk.convalidated) " \
	"ORDER BY fk.conrelid, fk.conname"

static char **
text_array(uint64 row, int column, int *count)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row],
									  SPI_tuptable->tupdesc, column, &isnull);
	Datum	   *elements;
	char	  **texts;

	deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false,
					  TYPALIGN_INT, &elements, NULL, count);
	texts = palloc(sizeof(char *) * *count);
	for (int i = 0; i < *count; i++)
		texts[i] = TextDatumGetCString(elements[i]);
	return texts;
}

static List *
read_keys(Audit *audit)
{
	OwnQuery	query;
	uint64		rows;
	List	   *keys = NIL;

	audit_bind(audit, &query, KEYS);
	SPI_connect();
	rows = query_run(&query);
	MemoryContextSwitchTo(audit->context);
	for (uint64 i = 0; i < rows; i++)
	{
		ForeignKey *key = palloc0(sizeof(ForeignKey));

		key->name = query_get_text(i, 1);
		key->child = audit_find_table(audit, query_get_oid(i, 2));
		key->parent = audit_find_table(audit, query_get_oid(i, 3));
		key->paired = query_get_bool(i, 4);
		key->columns = text_array(i, 5, &key->count);
		key->referenced = text_array(i, 6, &key->count);
		key->operators = text_array(i, 7, &key->count);
		keys = lappend(keys, key);
	}
	SPI_finish();
	return keys;
}

/* --- the query -------------------------------------------------------- */

/* "left = right", or their texts if the types differ */
static char *
same_tenant(const ForeignKey *key, const char *child, const char *parent)
{
	char	   *equality = key->child->type == key->parent->type
		? sql_equality(key->child->type) : NULL;
	const char *own = quote_identifier(key->child->column);
	const char *other = quote_identifier(key->parent->column);

	if (equality)
		return psprintf("%s.%s %s %s.%s", child, own, equality, parent, other);
	return psprintf("%s.%s::pg_catalog.text OPERATOR(pg_catalog.=) %s.%s::pg_catalog.text",
					child, own, parent, other);
}

static char *
same_key(const ForeignKey *key, const char *child, const char *parent)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < key->count; i++)
		appendStringInfo(&buf, "%s%s.%s %s %s.%s", i > 0 ? " AND " : "",
						 parent, key->referenced[i], key->operators[i],
						 child, key->columns[i]);
	return buf.data;
}

/*
 * The tenants of a row and of what it refers to.  Under a key that pairs them
 * a row is wrong if its own tenant has no such parent, whoever else has.
 */
static char *
make_query(const ForeignKey *key, int64 limit)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "SELECT c.%s::pg_catalog.text, p.%s::pg_catalog.text, pg_catalog.row_to_json(k)::pg_catalog.text FROM ",
					 quote_identifier(key->child->column),
					 quote_identifier(key->parent->column));
	if (limit >= 0)
		appendStringInfo(&buf, "(SELECT * FROM %s LIMIT " INT64_FORMAT ") c",
						 key->child->name, limit);
	else
		appendStringInfo(&buf, "%s c", key->child->name);
	appendStringInfo(&buf, " %s JOIN %s p ON %s CROSS JOIN LATERAL (SELECT ",
					 key->paired ? "LEFT" : "", key->parent->name,
					 same_key(key, "c", "p"));
	for (int i = 0; i < key->count; i++)
		appendStringInfo(&buf, "%sc.%s", i > 0 ? ", " : "", key->columns[i]);
	appendStringInfoString(&buf, ") k WHERE ");
	if (key->paired)
	{
		appendStringInfo(&buf, "c.%s IS NOT NULL", quote_identifier(key->child->column));
		for (int i = 0; i < key->count; i++)
			appendStringInfo(&buf, " AND c.%s IS NOT NULL", key->columns[i]);
		appendStringInfo(&buf, " AND NOT EXISTS (SELECT FROM %s q WHERE %s AND %s)",
						 key->parent->name, same_key(key, "c", "q"),
						 same_tenant(key, "c", "q"));
	}
	else
		appendStringInfo(&buf, "(%s) IS NOT TRUE AND NOT (c.%s IS NULL AND p.%s IS NULL)",
						 same_tenant(key, "c", "p"),
						 quote_identifier(key->child->column),
						 quote_identifier(key->parent->column));
	appendStringInfoString(&buf, " LIMIT 1");
	return buf.data;
}

/* The rows go to the tenants of what they refer to; where several tenants have
 * such a row, nobody can tell whose it is */
static char *
mend_statement(const ForeignKey *key)
{
	if (!key->paired)
		return psprintf("SELECT tenantmig.backfill(%s, %s, via => %s, options => '{\"on_conflict\": \"overwrite\"}')",
						sql_literal(key->child->name),
						sql_literal(key->child->column), sql_literal(key->name));
	return psprintf("UPDATE %s AS c SET %s = p.%s FROM %s AS p WHERE %s AND NOT EXISTS (SELECT FROM %s AS q WHERE %s AND %s) "
					"AND (SELECT count(*) FROM %s AS r WHERE %s) = 1",
					key->child->name, quote_identifier(key->child->column),
					quote_identifier(key->parent->column), key->parent->name,
					same_key(key, "c", "p"), key->parent->name,
					same_key(key, "c", "q"), same_tenant(key, "c", "q"),
					key->parent->name, same_key(key, "c", "r"));
}

/* --- looking ---------------------------------------------------------- */

static bool
may_read(Oid relid, Oid role)
{
	return pg_class_aclcheck(relid, role, ACL_SELECT) == ACLCHECK_OK &&
		check_enable_rls(relid, role, true) != RLS_ENABLED;
}

static char *
first_cell(const char *sql, int column)
{
	if (SPI_execute(sql, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look at rows: %s", sql);
	return SPI_processed == 0 ? NULL
		: SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);
}

/* True: no more rows than the limit, which is only told by counting them */
static bool
saw_all(const ForeignKey *key, int64 limit)
{
	char	   *count;

	if (limit < 0)
		return true;
	count = first_cell(psprintf("SELECT pg_catalog.count(*) FROM (SELECT FROM %s LIMIT " INT64_FORMAT ") s",
								key->child->name, limit + 1), 1);
	return strtoll(count, NULL, 10) <= limit;
}

static void
add_not_checked(Audit *audit, const ForeignKey *key, const char *object,
				const char *why)
{
	audit_add(audit, "rows_not_checked", AUDIT_INFO, object, audit->role_name,
			  psprintf("Whether rows of %s refer to rows of other tenants in %s is not known: %s.",
					   key->child->name, key->parent->name, why), NULL);
}

/* As whoever looks, in the middle of SPI */
static void
look(Audit *audit, const ForeignKey *key, const char *object)
{
	char	   *query = make_query(key, audit->max_rows);
	char	   *tenant;
	char	   *parent_tenant;
	char	   *example;

	if (SPI_execute(query, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look at rows: %s", query);
	if (SPI_processed == 0)
	{
		if (!saw_all(key, audit->max_rows))
			add_not_checked(audit, key, object,
							psprintf("none of the first " INT64_FORMAT " rows does, which is as many as max_rows allows; NULL looks at all",
									 audit->max_rows));
		return;
	}
	tenant = query_get_text(0, 1);
	parent_tenant = query_get_text(0, 2);
	example = query_get_text(0, 3);
	audit_add(audit, "rows_cross_tenants", AUDIT_ERROR, object,
			  audit->role_name,
			  psprintf("There are rows of one tenant that refer to rows of another, such as %s of tenant %s, which refers to %s in %s. The statement gives them to the tenant of the row that they refer to; delete or correct them where that is wrong.",
					   example, tenant ? tenant : "NULL",
					   parent_tenant ? psprintf("a row of tenant %s", parent_tenant) : "none",
					   key->parent->name),
			  mend_statement(key));
}

static void
look_as(Audit *audit, const ForeignKey *key, const char *object, Oid runner)
{
	Identity	saved;
	bool		readable;

	SPI_connect();
	identity_enter_owner(&saved, runner, "pg_catalog");
	/* partitions are locked when the query is planned; identity_leave() takes
	 * it back */
	lock_set_timeout(1);
	readable = may_read(key->child->oid, runner) &&
		may_read(key->parent->oid, runner);
	if (readable)
		look(audit, key, object);
	identity_leave(&saved);
	SPI_finish();
	if (!readable)
		add_not_checked(audit, key, object,
						psprintf("%s may not read all rows of both tables",
								 quote_identifier(GetUserNameFromId(runner, false))));
}

/* An error in somebody's code, or in his data, is not one of the audit */
static void
look_safely(Audit *audit, const ForeignKey *key, const char *object,
			Oid runner)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		look_as(audit, key, object, runner);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(error);
		add_not_checked(audit, key, object,
						psprintf("looking at them failed: %s", error->message));
	}
	PG_END_TRY();
}

static void
check_key(Audit *audit, const ForeignKey *key)
{
	char	   *object = psprintf("constraint %s on %s",
								  quote_identifier(key->name), key->child->name);
	Oid			relids[] = {key->child->oid, key->parent->oid};
	Oid			runner = superuser() ? key->child->owner : GetUserId();

	if (superuser_arg(runner) && key->parent->owner != runner &&
		!superuser_arg(key->parent->owner))
	{
		add_not_checked(audit, key, object, "a superuser owns one table, and somebody else the other");
		return;
	}
	for (int i = 0; i < lengthof(relids); i++)
		if (!ConditionalLockRelationOid(relids[i], AccessShareLock))
		{
			add_not_checked(audit, key, object, "a table is locked by another session");
			return;
		}
	if (get_rel_name(relids[0]) == NULL || get_rel_name(relids[1]) == NULL)
		return;					/* dropped meanwhile */

	look_safely(audit, key, object, runner);
}

void
audit_check_rows(Audit *audit)
{
	List	   *keys = read_keys(audit);
	ListCell   *lc;

	foreach(lc, keys)
	{
		ForeignKey *key = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		if (key->paired)
			audit_add(audit, "foreign_key_not_validated", AUDIT_INFO,
					  psprintf("constraint %s on %s",
							   quote_identifier(key->name), key->child->name),
					  audit->role_name,
					  "It pairs the tenant columns, but rows that were there before it may break it.",
					  psprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s",
							   key->child->name, quote_identifier(key->name)));
		if (audit->max_rows != 0)
			check_key(audit, key);
	}
}
