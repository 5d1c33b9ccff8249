/*
 * metadata_check.c
 *		Whether a column can be dropped and added again without a trace.
 *
 * An obstacle is what would be lost with the column, or what would not notice
 * that its values are others now: then it is not done, whoever asks.  A
 * reservation is what a user may not expect, though nothing is lost by it: then
 * it is done only if asked for by name.
 *
 * All of it is read from the catalogs, of the table and of all that inherits
 * from it.  What is asked before the table is locked is asked again under the
 * lock.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/typcache.h"

#include "engine/compat.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "engine/template.h"
#include "steps/metadata.h"

/* $1: the tables, $2: the column, $3: the table of the call */
#define COLUMNS \
	"WITH c AS (SELECT a.*, t.oid = $3 AS root, t.relkind, t.relam, " \
	" t.relnamespace, t.reltype, t.reloftype, y.typstorage, " \
	" pg_get_expr(d.adbin, d.adrelid) AS default_text, " \
	" format('%I.%I', n.nspname, t.relname) AS tab, " \
	" format('column %I of %I.%I', a.attname, n.nspname, t.relname) AS col " \
	"FROM pg_attribute a JOIN pg_class t ON t.oid = a.attrelid " \
	"JOIN pg_namespace n ON n.oid = t.relnamespace " \
	"JOIN pg_type y ON y.oid = a.atttypid " \
	"LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum " \
	"WHERE a.attrelid = ANY ($1) AND a.attname = $2) "

static char *
first_reason(const Source *source, const char *sql)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *tables = target_tree(source->relid);
	Datum	   *oids = palloc(sizeof(Datum) * list_length(tables));
	ArrayType  *array;
	ListCell   *lc;
	OwnQuery	query;
	char	   *reason = NULL;

	foreach(lc, tables)
		oids[foreach_current_index(lc)] = ObjectIdGetDatum(lfirst_oid(lc));
	array = construct_array(oids, list_length(tables), OIDOID, sizeof(Oid),
							true, TYPALIGN_INT);
	query_init(&query, sql);
	query_datum(&query, OIDARRAYOID, PointerGetDatum(array), false);
	query_name(&query, source->column);
	query_oid(&query, source->relid);
	query.latest = true;
	SPI_connect();
	if (query_run(&query) > 0)
	{
		MemoryContextSwitchTo(context);
		reason = query_get_text(0, 1);
	}
	SPI_finish();
	return reason;
}

/*
 * Dependents would go with the column.  Its own default does not count, nor
 * does its NOT NULL, which is a constraint since PostgreSQL 18.  A partition
 * key depends on its columns too.
 */
#define DEPENDENTS \
	"SELECT 1 AS rank, format('%s depends on %s', " \
	"  pg_describe_object(d.classid, d.objid, d.objsubid), col) AS reason " \
	"FROM c JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass " \
	" AND d.refobjid = attrelid AND d.refobjsubid = attnum " \
	"WHERE NOT (d.classid = 'pg_attrdef'::regclass AND EXISTS (" \
	"  SELECT FROM pg_attrdef f WHERE f.oid = d.objid " \
	"  AND f.adrelid = attrelid AND f.adnum = attnum)) " \
	"AND NOT (d.classid = 'pg_constraint'::regclass AND EXISTS (" \
	"  SELECT FROM pg_constraint k WHERE k.oid = d.objid AND k.contype = 'n'))"

/*
 * What reads whole rows depends on no column by name, and yet an index would
 * keep what it had computed, and a constraint would not be asked again.
 */
#define WHOLE_ROWS \
	"SELECT 2, format('%s reads whole rows of %s', what, tab) FROM c JOIN (" \
	" SELECT indrelid, format('index %s', indexrelid::regclass), " \
	"  concat(indexprs::text, indpred::text) FROM pg_index " \
	" UNION ALL SELECT conrelid, format('constraint %I', conname), conbin::text " \
	"  FROM pg_constraint WHERE contype = 'c' " \
	" UNION ALL SELECT polrelid, format('policy %I', polname), " \
	"  concat(polqual::text, polwithcheck::text) FROM pg_policy) " \
	" AS x (relid, what, tree) ON x.relid = attrelid " \
	"WHERE tree LIKE '%:varattno 0 %'"

/* A stored row of the table's type keeps its columns by their numbers */
#define ROW_TYPE \
	"SELECT 3, format('%s uses the row type of %s', " \
	"  pg_describe_object(d.classid, d.objid, d.objsubid), tab) " \
	"FROM c JOIN pg_type y ON y.oid = reltype " \
	"JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass " \
	" AND d.refobjid IN (y.oid, y.typarray) " \
	"WHERE NOT (d.classid = 'pg_type'::regclass AND d.objid = y.typarray) " \
	"UNION ALL SELECT 3, format('%s is a table of a composite type', tab) " \
	"FROM c WHERE reloftype <> 0 " \
	"UNION ALL SELECT 3, format('%s is kept by an access method other than heap', tab) " \
	"FROM c WHERE relkind = 'r' " \
	" AND relam <> (SELECT oid FROM pg_am WHERE amname = 'heap') " \
	"UNION ALL SELECT 3, format('%s has used up the numbers of its columns', tab) " \
	"FROM c WHERE 1600 <= (SELECT max(a.attnum) FROM pg_attribute a " \
	" WHERE a.attrelid = c.attrelid)"

/*
 * What was set for the column and is kept under its number.  Some builds of the
 * server note something of their own, pg_..., among the options of each column.
 */
#define PROPERTIES \
	"SELECT 4, format('privileges are granted on %s', col) FROM c " \
	"WHERE attacl IS NOT NULL " \
	"UNION ALL SELECT 4, format('%s has a comment', col) FROM c " \
	"WHERE col_description(attrelid, attnum) IS NOT NULL " \
	"UNION ALL SELECT 4, format('%s has a security label', col) " \
	"FROM c JOIN pg_seclabel s ON s.classoid = 'pg_class'::regclass " \
	" AND s.objoid = attrelid AND s.objsubid = attnum " \
	"UNION ALL SELECT 4, format('%s has a storage, a compression, a statistics target or options of its own', col) " \
	"FROM c WHERE attstorage <> typstorage OR attcompression <> '' " \
	" OR COALESCE(attstattarget::int, -1) <> -1 " \
	" OR EXISTS (SELECT FROM unnest(attoptions) AS o WHERE NOT starts_with(o, 'pg_')) " \
	"UNION ALL SELECT 4, format('%s is an identity or a generated column', col) " \
	"FROM c WHERE attidentity <> '' OR attgenerated <> '' " \
	"UNION ALL SELECT 4, format('the NOT NULL of %s is not valid, not inherited, or has a comment', col) " \
	"FROM c JOIN pg_constraint k ON k.conrelid = attrelid AND k.contype = 'n' " \
	" AND k.conkey = ARRAY[attnum] " \
	"WHERE NOT k.convalidated OR k.connoinherit " \
	" OR obj_description(k.oid, 'pg_constraint') IS NOT NULL"

/* Dropping and adding it in the table must do the same below */
#define INHERITANCE \
	"SELECT 5, format('%s is inherited', col) FROM c WHERE root AND attinhcount > 0 " \
	"UNION ALL SELECT 5, format('%s is declared there too, or inherited more than once', col) " \
	"FROM c WHERE NOT root AND (attislocal OR attinhcount <> 1) " \
	"UNION ALL SELECT 5, format('%s has another default or NOT NULL than above', c.col) " \
	"FROM c, c AS r WHERE r.root AND (c.attnotnull <> r.attnotnull " \
	" OR c.default_text IS DISTINCT FROM r.default_text)"

char *
metadata_obstacle(const Source *source, bool back)
{
	const char *column = quote_identifier(source->column);

	if (DomainHasConstraints(source->target.type))
		return psprintf("type %s is a domain with constraints, and the server would write every row to check them",
						source->target.type_name);
	if (back && source->unset == NULL && source->target.not_null)
		return psprintf("column %s is NOT NULL", column);
	if (back && source->unset != NULL && !source->target.not_null)
		return psprintf("column %s may be NULL as well as the placeholder", column);
	return first_reason(source, COLUMNS
						"SELECT reason FROM (" DEPENDENTS " UNION ALL "
						WHOLE_ROWS " UNION ALL " ROW_TYPE " UNION ALL "
						PROPERTIES " UNION ALL " INHERITANCE
						") AS x ORDER BY rank, reason LIMIT 1");
}

char *
metadata_reservation(const Source *source)
{
	return first_reason(source, COLUMNS
						"SELECT reason FROM ("
						"SELECT 1, format('%s is not the last one, and would be then', col) "
						"FROM c WHERE EXISTS (SELECT FROM pg_attribute a "
						" WHERE a.attrelid = c.attrelid AND a.attnum > c.attnum "
						" AND NOT a.attisdropped) "
						"UNION ALL SELECT 2, format('trigger %I of %s would not fire', tgname, tab) "
						"FROM c JOIN pg_trigger t ON t.tgrelid = attrelid "
						"WHERE NOT t.tgisinternal AND t.tgtype & 16 <> 0 "
						" AND t.tgattr::text = '' AND t.tgenabled IN ('O', 'A') "
						" AND t.tgfoid <> 'tenantmig.fill_tenant'::regproc "
						"UNION ALL SELECT 2, format('rule %I of %s would not fire', rulename, tab) "
						"FROM c JOIN pg_rewrite r ON r.ev_class = attrelid "
						"WHERE r.ev_type = '2' "
						"UNION ALL SELECT 3, format('publication %I would not send the values', pubname) "
						"FROM c, pg_publication p WHERE pubupdate AND (puballtables "
						" OR EXISTS (SELECT FROM pg_publication_rel x "
						"  WHERE x.prpubid = p.oid AND (x.prrelid = attrelid OR x.prrelid IN "
						"   (SELECT relid FROM pg_partition_ancestors(attrelid)))) "
						" OR EXISTS (SELECT FROM pg_publication_namespace x "
						"  WHERE x.pnpubid = p.oid AND x.pnnspid = relnamespace))"
						") AS x (rank, reason) ORDER BY rank, reason LIMIT 1");
}

/*
 * The column as it is: type, collation, NOT NULL with the name it has since
 * PostgreSQL 18, default.  What the server prints as an expression is read with
 * the search_path with which it was printed.
 */
void
metadata_texts(const Source *source, bool back, MetadataTexts *texts)
{
	const char *value = back ? source->unset : source->value;
	char	   *literal = value ? source_literal(source, value) : "NULL";
	char	   *column = pstrdup(quote_identifier(source->column));
	char	   *relation = sql_relation(source->relid);
	MemoryContext context = CurrentMemoryContext;
	char	   *collation;
	char	   *not_null;
	char	   *default_text;
	OwnQuery	query;

	query_init(&query,
			   "SELECT (SELECT format(' COLLATE %I.%I', n.nspname, o.collname) "
			   "  FROM pg_collation o JOIN pg_namespace n ON n.oid = o.collnamespace "
			   "  WHERE o.oid = a.attcollation AND o.oid <> y.typcollation), "
			   "(SELECT format(' CONSTRAINT %I', k.conname) FROM pg_constraint k "
			   "  WHERE k.conrelid = a.attrelid AND k.contype = 'n' "
			   "  AND k.conkey = ARRAY[a.attnum]), "
			   "pg_get_expr(d.adbin, d.adrelid) "
			   "FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid "
			   "LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum "
			   "WHERE a.attrelid = $1 AND a.attname = $2");
	query_oid(&query, source->relid);
	query_name(&query, source->column);
	query.latest = true;
	SPI_connect();
	if (query_run(&query) != 1)
		elog(ERROR, "column %s of %s is gone", column, relation);
	MemoryContextSwitchTo(context);
	collation = query_get_text(0, 1);
	not_null = query_get_text(0, 2);
	default_text = query_get_text(0, 3);
	SPI_finish();

	texts->change = template_make("ALTER TABLE %R DROP COLUMN %s, ADD COLUMN %s %s%s DEFAULT %s%s%s",
							 column, column,
							 source->target.type_name,
							 collation ? collation : "", literal,
							 not_null ? not_null : "",
							 source->target.not_null ? " NOT NULL" : "");
	texts->set_default = default_text
		? template_make("SET LOCAL search_path = pg_catalog; ALTER TABLE %R ALTER COLUMN %s SET DEFAULT %s",
						column, default_text)
		: template_make("ALTER TABLE %R ALTER COLUMN %s DROP DEFAULT", column);
	texts->keep_default = template_make("ALTER TABLE %R ALTER COLUMN %s SET DEFAULT %s",
										column, literal);
}
