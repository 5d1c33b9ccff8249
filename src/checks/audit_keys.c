/*
 * audit_keys.c
 *		Keys that reach across tenants.
 *
 * The server checks keys past row-level security.  A unique key without the
 * tenant column tells one tenant which values another one has, and a foreign
 * key without it refers to, and cascades to, rows of other tenants.
 *
 * Where tenantmig has a job that rebuilds a key while the table is in use, the
 * statement that mends is a call of it.  An exclusion constraint is rebuilt by
 * plain DDL, which holds the table up while the index is built; a foreign key
 * is made anew without looking at the rows that are there.
 */
#include "postgres.h"

#include "checks/audit.h"
#include "engine/compat.h"

/* Columns of a key by number, quoted, the tenant column first unless it is in */
#define KEY_COLUMNS(relid, numbers, tenant) \
	"(SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY e.place) " \
	" FROM unnest(CASE WHEN " tenant " = ANY (" numbers ") THEN " numbers " ELSE " tenant " || " numbers " END) " \
	"  WITH ORDINALITY e (attnum, place) " \
	" JOIN pg_attribute a ON a.attrelid = " relid " AND a.attnum = e.attnum)"

/* The same as an array of names, for a call */
#define KEY_ARRAY(relid, numbers, tenant) \
	"(SELECT 'ARRAY[' || string_agg(quote_literal(a.attname), ', ' ORDER BY e.place) || ']::name[]' " \
	" FROM unnest(CASE WHEN " tenant " = ANY (" numbers ") THEN " numbers " ELSE " tenant " || " numbers " END) " \
	"  WITH ORDINALITY e (attnum, place) " \
	" JOIN pg_attribute a ON a.attrelid = " relid " AND a.attnum = e.attnum)"

/*
 * The keys of a tenant table that do not have the tenant column; an expression
 * that has it, such as tenant || name, counts.  Keys of partitions come with
 * those of the parent.  A key that the server gives out by itself tells
 * little, since nobody tries values: only a note.
 */
#define KEYS \
	AUDIT_WITH ", " \
	"key AS MATERIALIZED (" \
	" SELECT t.*, i.indisexclusion, i.indisprimary, c.oid AS conoid, c.conname, c.contype, x.relname AS index, am.amname, " \
	"  (i.indkey::int2[])[0:i.indnkeyatts - 1] AS columns, " \
	"  i.indnkeyatts = 1 AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attnum = i.indkey[0] " \
	"   AND (a.attidentity <> '' OR a.atttypid = 'uuid'::regtype OR EXISTS (SELECT FROM pg_depend d " \
	"    JOIN pg_class q ON q.oid = d.objid AND q.relkind = 'S' WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid " \
	"    AND d.refobjsubid = a.attnum AND d.deptype = 'a'))) AS given_out " \
	" FROM t JOIN pg_index i ON i.indrelid = t.oid JOIN pg_class x ON x.oid = i.indexrelid " \
	" JOIN pg_am am ON am.oid = x.relam " \
	" LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.conrelid = t.oid AND c.contype IN ('p', 'u', 'x') " \
	" WHERE t.relkind IN ('r', 'p') AND (i.indisunique OR i.indisexclusion) AND i.indislive " \
	" AND NOT x.relispartition AND NOT t.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]) " \
	" AND (i.indexprs IS NULL OR NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass " \
	"  AND d.objid = i.indexrelid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND d.refobjsubid = t.attnum))) " \
	"SELECT 'key_without_tenant', CASE WHEN k.given_out THEN 'info' ELSE 'warning' END, " \
	" format('%s %I on %s', CASE WHEN k.conname IS NULL THEN 'index' ELSE 'constraint' END, k.index, k.name), $6::text, " \
	" format('%s without %I: an insert that fails tells that another tenant has the value%s', " \
	"  CASE WHEN k.indisprimary THEN 'A primary key' WHEN k.indisexclusion THEN 'An exclusion constraint' ELSE 'A unique key' END, " \
	"  k.attname, CASE WHEN k.given_out THEN ', which is little as long as the server gives out the values.' ELSE '.' END) " \
	" || CASE WHEN k.indisprimary AND NOT k.not_null THEN ' To lock nobody out, make the column NOT NULL by set_not_null first.' ELSE '' END, " \
	" CASE " \
	"  WHEN k.indisprimary AND NOT k.indisexclusion THEN " \
	"   CASE WHEN k.not_null THEN '' ELSE format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL; ', k.name, k.attname) END " \
	"   || format('SELECT tenantmig.set_primary_key(%L, %s, ''composite'')', k.name, " KEY_ARRAY("k.oid", "k.columns", "k.attnum") ") " \
	"  WHEN NOT k.indisexclusion THEN format('SELECT tenantmig.scope_unique(%L, %L, %L)', k.name, k.index, k.attname) " \
	"  ELSE " \
	"   CASE WHEN NOT EXISTS (SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod " \
	"     JOIN pg_attribute a ON a.attrelid = k.oid AND a.attnum = k.attnum " \
	"     WHERE m.amname = k.amname AND o.opcdefault AND (o.opcintype = a.atttypid " \
	"      OR EXISTS (SELECT FROM pg_cast b WHERE b.castsource = a.atttypid AND b.casttarget = o.opcintype AND b.castmethod = 'b'))) " \
	"    AND k.amname = 'gist' THEN 'CREATE EXTENSION IF NOT EXISTS btree_gist; ' ELSE '' END " \
	"   || format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %I %s', k.name, k.conname, k.conname, " \
	"    overlay(pg_get_constraintdef(k.conoid) PLACING format('(%I%s, ', k.attname, CASE k.contype WHEN 'x' THEN ' WITH =' END) " \
	"     FROM CASE k.contype WHEN 'x' THEN length(format('EXCLUDE USING %I ', k.amname)) + 1 " \
	"      ELSE strpos(pg_get_constraintdef(k.conoid), '(') END FOR 1)) " \
	" END " \
	"FROM key k ORDER BY k.name, k.index"

/*
 * Foreign keys between tenant tables that do not pair their tenant columns.
 * What mends it is the same key with the tenant in front, not validated, since
 * there may be rows that break it; and a unique key for it to refer to, if
 * there is none.  ON DELETE SET NULL must leave the tenant alone.
 */
#define PERIOD \
	"CASE WHEN f.temporal AND k.place = cardinality(f.conkey) THEN 'PERIOD ' ELSE '' END"

#define FOREIGN_KEYS \
	AUDIT_WITH ", " \
	"fk AS MATERIALIZED (" \
	" SELECT c.*, COALESCE((to_jsonb(c) ->> 'conperiod')::boolean, false) AS temporal, t.name, t.attname, t.attnum, r.name AS parent, r.oid AS parent_oid, r.attnum AS parent_attnum, r.attname AS parent_attname " \
	" FROM pg_constraint c JOIN t ON t.oid = c.conrelid JOIN t r ON r.oid = c.confrelid " \
	" WHERE c.contype = 'f' AND c.conparentid = 0 AND t.relkind IN ('r', 'p') AND r.relkind IN ('r', 'p') " \
	" AND NOT EXISTS (SELECT FROM unnest(c.conkey, c.confkey) p (own, other) WHERE p.own = t.attnum AND p.other = r.attnum)) " \
	"SELECT 'foreign_key_not_paired', " \
	" CASE WHEN f.confdeltype IN ('a', 'r') AND f.confupdtype IN ('a', 'r') THEN 'warning' ELSE 'error' END, " \
	" format('constraint %I on %s', f.conname, f.name), $6::text, " \
	" format('A row can refer to a row of another tenant in %s, which tells whether it exists%s.', f.parent, " \
	"  CASE WHEN f.confdeltype IN ('a', 'r') AND f.confupdtype IN ('a', 'r') THEN ' and keeps it from being deleted' " \
	"   ELSE ', and changes there cascade to the rows of this tenant' END), " \
	" CASE WHEN EXISTS (SELECT FROM pg_index i WHERE i.indrelid = f.parent_oid AND i.indisunique AND i.indisvalid AND i.indimmediate " \
	"   AND i.indisexclusion = f.temporal AND i.indpred IS NULL AND i.indexprs IS NULL AND (i.indkey::int2[])[0:i.indnkeyatts - 1] @> (f.parent_attnum || f.confkey) " \
	"   AND (i.indkey::int2[])[0:i.indnkeyatts - 1] <@ (f.parent_attnum || f.confkey)) THEN '' " \
	"  ELSE format('ALTER TABLE %s ADD UNIQUE (%s%s); ', f.parent, " KEY_COLUMNS("f.confrelid", "f.confkey", "f.parent_attnum") ", " \
	"   CASE WHEN f.temporal THEN ' WITHOUT OVERLAPS' END) END " \
	" || format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %I FOREIGN KEY (%s) REFERENCES %s (%s)%s%s%s%s', " \
	"  f.name, f.conname, f.conname, " \
	"  quote_ident(f.attname) || ', ' || (SELECT string_agg(" PERIOD " || quote_ident(a.attname), ', ' ORDER BY k.place) " \
	"   FROM unnest(f.conkey) WITH ORDINALITY k (attnum, place) JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.attnum " \
	"   WHERE a.attnum <> f.attnum), " \
	"  f.parent, " \
	"  quote_ident(f.parent_attname) || ', ' || (SELECT string_agg(" PERIOD " || quote_ident(a.attname), ', ' ORDER BY k.place) " \
	"   FROM unnest(f.confkey, f.conkey) WITH ORDINALITY k (attnum, own, place) " \
	"   JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.attnum WHERE k.own <> f.attnum), " \
	"  CASE f.confupdtype WHEN 'c' THEN ' ON UPDATE CASCADE' WHEN 'r' THEN ' ON UPDATE RESTRICT' ELSE '' END, " \
	"  CASE f.confdeltype WHEN 'c' THEN ' ON DELETE CASCADE' WHEN 'r' THEN ' ON DELETE RESTRICT' " \
	"   WHEN 'n' THEN ' ON DELETE SET NULL' WHEN 'd' THEN ' ON DELETE SET DEFAULT' ELSE '' END " \
	"  || CASE WHEN f.confdeltype IN ('n', 'd') THEN ' (' || (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY k.place) " \
	"   FROM unnest(COALESCE(f.confdelsetcols, f.conkey)) WITH ORDINALITY k (attnum, place) " \
	"   JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.attnum WHERE a.attnum <> f.attnum) || ')' ELSE '' END, " \
	"  CASE WHEN f.condeferred THEN ' DEFERRABLE INITIALLY DEFERRED' WHEN f.condeferrable THEN ' DEFERRABLE' ELSE '' END, " \
	"  CASE WHEN (SELECT relkind FROM pg_class WHERE oid = f.conrelid) = 'p' THEN '' ELSE ' NOT VALID' END) " \
	"FROM fk f ORDER BY f.name, f.conname"

#define NULLABLE \
	AUDIT_WITH \
	"SELECT 'tenant_nullable', 'warning', format('%s.%I', t.name, t.attname), $6::text, " \
	" 'A row without a tenant is nobody''s: no policy that compares the tenant shows it, and one that is a little wider shows it to all. Fill such rows first.', " \
	" format('SELECT tenantmig.set_not_null(%L, %L)', t.name, t.attname) " \
	"FROM t WHERE t.relkind IN ('r', 'p') AND NOT t.not_null " \
	"AND NOT EXISTS (SELECT FROM pg_inherits i JOIN t p ON p.oid = i.inhparent WHERE i.inhrelid = t.oid) " \
	"ORDER BY t.name"

void
audit_check_keys(Audit *audit)
{
	audit_query(audit, KEYS);
	audit_query(audit, FOREIGN_KEYS);
	audit_query(audit, NULLABLE);
}
