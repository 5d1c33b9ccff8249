/*
 * audit_indexes.c
 *		Indexes that isolation needs to be fast, or it will be switched off.
 */
#include "postgres.h"

#include "checks/audit.h"
#include "engine/compat.h"

/* Partitions get theirs from the parent.  A list of tenants for each partition
 * is as good as an index. */
#define TENANT_INDEX \
	AUDIT_WITH \
	"SELECT 'no_tenant_index', 'warning', t.name, $6::text, " \
	" format('No index leads with %I, so every query of a tenant reads the rows of all.', t.attname), " \
	" format('SELECT tenantmig.create_index(%L, ARRAY[%L])', t.name, quote_ident(t.attname)) " \
	"FROM t WHERE t.relkind IN ('r', 'p') " \
	"AND NOT EXISTS (SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam " \
	" WHERE i.indrelid = t.oid AND i.indkey[0] = t.attnum AND i.indisvalid AND i.indpred IS NULL AND m.amname IN ('btree', 'hash')) " \
	"AND NOT EXISTS (SELECT FROM pg_partitioned_table p WHERE p.partrelid = t.oid AND p.partstrat = 'l' AND p.partattrs[0] = t.attnum) " \
	"AND NOT (t.relispartition AND EXISTS (SELECT FROM pg_inherits h JOIN t p ON p.oid = h.inhparent WHERE h.inhrelid = t.oid)) " \
	"ORDER BY t.name"

/*
 * An index serves a foreign key if it begins with columns of the key, those
 * besides the tenant column all among them.
 */
#define FOREIGN_KEY_INDEX \
	AUDIT_WITH \
	"SELECT 'foreign_key_without_index', 'warning', format('constraint %I on %s', c.conname, t.name), $6::text, " \
	" format('No index serves it: a row of %s that is deleted, or whose key is changed, makes the server read all of this table, with a lock held.', c.confrelid::regclass), " \
	" format('SELECT tenantmig.create_index(%L, ARRAY[%s])', t.name, " \
	"  (SELECT string_agg(quote_literal(quote_ident(a.attname)), ', ' ORDER BY k.place) " \
	"   FROM unnest(c.conkey) WITH ORDINALITY k (attnum, place) JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum)) " \
	"FROM t JOIN pg_constraint c ON c.conrelid = t.oid AND c.contype = 'f' AND c.conparentid = 0 " \
	"CROSS JOIN LATERAL (SELECT CASE WHEN c.conkey = ARRAY[t.attnum] THEN c.conkey ELSE array_remove(c.conkey, t.attnum) END AS needed) n " \
	"WHERE t.relkind IN ('r', 'p') AND NOT EXISTS (" \
	" SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam, " \
	" generate_series(1, least(i.indnkeyatts, cardinality(c.conkey))) k " \
	" WHERE i.indrelid = t.oid AND i.indisvalid AND m.amname IN ('btree', 'hash') " \
	" AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) IN (SELECT format('(%I IS NOT NULL)', a.attname) " \
	"  FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attnum = ANY (c.conkey))) " \
	" AND (i.indkey::int2[])[0:k - 1] <@ c.conkey AND n.needed <@ (i.indkey::int2[])[0:k - 1]) " \
	"ORDER BY t.name, c.conname"

void
audit_check_indexes(Audit *audit)
{
	audit_query(audit, TENANT_INDEX);
	audit_query(audit, FOREIGN_KEY_INDEX);
}
