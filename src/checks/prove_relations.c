/*
 * prove_relations.c
 *		What prove_isolation looks at, and the truth about it.
 *
 * The truth is counted and read as the owner of each table, who is not held
 * back by its policies (SECURITY_NOFORCE_RLS), in a security-restricted
 * operation; so the caller needs the owner's rights, or those to read past
 * row-level security.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "rewrite/rewriteHandler.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "checks/prove.h"
#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/query.h"
#include "engine/sqltext.h"

#define SAMPLE_ROWS 10

/* --- finding ---------------------------------------------------------- */

/* May it be read by the owner's rights, or past row-level security? */
static void
check_right_to_know(const ProveRelation *relation)
{
	Oid			user = GetUserId();

	if (relation_ownercheck(relation->relid, user) ||
		(has_bypassrls_privilege(user) &&
		 pg_class_aclcheck(relation->relid, user, ACL_SELECT) == ACLCHECK_OK))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to count the rows of %s past row-level security",
					relation->name),
			 errdetail("What the role sees is compared with what is there."),
			 errhint("Call the function as a superuser or as the owner of the tables, or name the schemas that are yours in schemas.")));
}

static bool
may(Oid relid, AttrNumber attnum, Oid role, AclMode mode)
{
	return pg_class_aclcheck(relid, role, mode) == ACLCHECK_OK ||
		pg_attribute_aclcheck(relid, attnum, role, mode) == ACLCHECK_OK;
}

static bool
may_any(Oid relid, Oid role, AclMode mode)
{
	return pg_class_aclcheck(relid, role, mode) == ACLCHECK_OK ||
		pg_attribute_aclcheck_all(relid, role, mode, ACLMASK_ANY) == ACLCHECK_OK;
}

static bool
is_view_column_updatable(Oid relid, AttrNumber attnum)
{
	Bitmapset  *column = bms_make_singleton(attnum - FirstLowInvalidHeapAttributeNumber);

	return (relation_is_updatable(relid, NIL, true, column) & (1 << CMD_UPDATE)) != 0;
}

static void
find_columns(const Proof *proof, ProveRelation *relation)
{
	Relation	rel = relation_open(relation->relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		ProveColumn *column;
		bool		is_tenant;

		if (att->attisdropped || att->attgenerated)
			continue;
		column = palloc0(sizeof(ProveColumn));
		column->attnum = att->attnum;
		column->name = pstrdup(quote_identifier(NameStr(att->attname)));
		column->may_select = may(relation->relid, att->attnum, proof->role, ACL_SELECT);
		column->may_insert = may(relation->relid, att->attnum, proof->role, ACL_INSERT);
		column->may_update = att->attidentity != ATTRIBUTE_IDENTITY_ALWAYS &&
			may(relation->relid, att->attnum, proof->role, ACL_UPDATE) &&
			(relation->relkind != RELKIND_VIEW || is_view_column_updatable(relation->relid, att->attnum));
		relation->columns = lappend(relation->columns, column);

		is_tenant = relation->has_column && att->attnum == relation->column.attnum;
		if (column->may_update && (is_tenant || relation->update == NULL))
			relation->update = column;
	}
	relation_close(rel, AccessShareLock);
}

/* What the server can do through a view */
static AclMode
view_rights(Oid relid)
{
	int			events = relation_is_updatable(relid, NIL, true, NULL);
	AclMode		rights = ACL_SELECT;

	if (events & (1 << CMD_INSERT))
		rights |= ACL_INSERT;
	if (events & (1 << CMD_UPDATE))
		rights |= ACL_UPDATE;
	if (events & (1 << CMD_DELETE))
		rights |= ACL_DELETE;
	return rights;
}

static void
find_rights(const Proof *proof, ProveRelation *relation)
{
	Oid			relid = relation->relid;
	Oid			role = proof->role;
	AttrNumber	tenant = relation->column.attnum;

	if (namespace_aclcheck(get_rel_namespace(relid), role, ACL_USAGE) != ACLCHECK_OK)
		return;
	relation->all_select = pg_class_aclcheck(relid, role, ACL_SELECT) == ACLCHECK_OK;
	if (relation->has_column ? may(relid, tenant, role, ACL_SELECT)
		: may_any(relid, role, ACL_SELECT))
		relation->rights |= ACL_SELECT;
	if (relation->has_column && may(relid, tenant, role, ACL_INSERT))
		relation->rights |= ACL_INSERT;
	if (relation->update != NULL)
		relation->rights |= ACL_UPDATE;
	if (pg_class_aclcheck(relid, role, ACL_DELETE) == ACLCHECK_OK)
		relation->rights |= ACL_DELETE;
	if (!relation->is_table)
		relation->rights &= view_rights(relid);
}

static ProveRelation *
make_relation(const Proof *proof, Oid relid, char relkind, Oid owner, Oid rowtype)
{
	ProveRelation *relation = palloc0(sizeof(ProveRelation));

	relation->relid = relid;
	relation->relkind = relkind;
	relation->owner = owner;
	relation->rowtype = rowtype;
	relation->name = sql_relation(relid);
	relation->is_table = relkind == RELKIND_RELATION ||
		relkind == RELKIND_PARTITIONED_TABLE;
	relation->has_column = target_find_column(relid, proof->column,
											  &relation->column);
	relation->column_name = pstrdup(quote_identifier(proof->column));
	if (relation->has_column)
	{
		relation->type = format_type_extended(relation->column.type, -1,
											  FORMAT_TYPE_TYPEMOD_GIVEN |
											  FORMAT_TYPE_FORCE_QUALIFY);
		relation->equality = sql_equality(relation->column.type);
		if (relation->equality == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_FUNCTION),
					 errmsg("column %s of %s cannot be compared with a tenant",
							relation->column_name, relation->name),
					 errdetail("Type %s has no default equality operator.",
							   relation->type)));
	}
	find_columns(proof, relation);
	find_rights(proof, relation);
	return relation;
}

static Datum
schemas_array(const Proof *proof)
{
	int			count = list_length(proof->schemas);
	Datum	   *elements = palloc(sizeof(Datum) * Max(count, 1));
	ListCell   *lc;
	int			i = 0;

	foreach(lc, proof->schemas)
		elements[i++] = DirectFunctionCall1(namein, CStringGetDatum(lfirst(lc)));
	return PointerGetDatum(construct_array(elements, count, NAMEOID, NAMEDATALEN,
										   false, TYPALIGN_CHAR));
}

/*
 * The tables with the column, and the views, materialized views and foreign
 * tables that have it too, or that show something of the tables, or call a
 * function that is not the server's.
 */
void
prove_find_relations(Proof *proof)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	uint64		count;

	query_init(&query,
			   "WITH RECURSIVE own AS ("
			   " SELECT c.oid, c.relkind, c.relowner, c.reltype, n.nspname, c.relname,"
			   "  EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid"
			   "   AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped) AS has_column"
			   " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
			   " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'"
			   "  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tenantmig')"
			   "), shows (oid) AS ("
			   " SELECT oid FROM own WHERE has_column"
			   " UNION SELECT r.ev_class FROM pg_depend d"
			   "  JOIN pg_rewrite r ON r.oid = d.objid"
			   "  WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_proc'::regclass"
			   " UNION SELECT r.ev_class FROM shows"
			   "  JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = shows.oid"
			   "  JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid) "
			   "SELECT oid, relkind::text, relowner, reltype FROM own "
			   "WHERE (has_column OR relkind IN ('v', 'm') AND oid IN (SELECT oid FROM shows))"
			   " AND ($1 = '{}' OR nspname = ANY ($1))"
			   " AND (relkind IN ('r', 'p') OR NOT EXISTS (SELECT FROM pg_depend e"
			   "  WHERE e.classid = 'pg_class'::regclass AND e.objid = own.oid AND e.deptype = 'e')) "
			   "ORDER BY relkind NOT IN ('r', 'p'), nspname, relname");
	query_datum(&query, NAMEARRAYOID, schemas_array(proof), false);
	query_name(&query, proof->column);
	SPI_connect();
	count = query_run(&query);
	for (uint64 i = 0; i < count; i++)
	{
		MemoryContext spi;
		ProveRelation *relation;

		if (list_member_oid(proof->skipped, query_get_oid(i, 1)))
			continue;
		spi = MemoryContextSwitchTo(context);
		relation = make_relation(proof, query_get_oid(i, 1),
								 query_get_text(i, 2)[0],
								 query_get_oid(i, 3), query_get_oid(i, 4));
		if (relation->is_table)
			check_right_to_know(relation);
		if (relation->is_table || relation->rights != 0)
			proof->relations = lappend(proof->relations, relation);
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	MemoryContextSwitchTo(context);
}

ProveRelation *
prove_find(const Proof *proof, Oid relid)
{
	ListCell   *lc;

	foreach(lc, proof->relations)
		if (((ProveRelation *) lfirst(lc))->relid == relid)
			return lfirst(lc);
	return NULL;
}

/* --- the truth -------------------------------------------------------- */

char *
prove_value(const ProveRelation *relation, int parameter)
{
	return psprintf("CAST($%d AS %s)", parameter, relation->type);
}

char *
prove_condition(const ProveRelation *relation, int parameter)
{
	return psprintf("t.%s %s %s", relation->column_name, relation->equality,
					prove_value(relation, parameter));
}

/* "FROM relation t WHERE t.tenant = $1", or of that table only */
static char *
rows_of_tenant(const ProveRelation *relation, bool only)
{
	return psprintf("FROM %s%s t WHERE %s", only ? "ONLY " : "",
					relation->name, prove_condition(relation, 1));
}

/* As the owner, with $1 and $2 if they are given; SPI stays connected.  With a
 * snapshot: it only reads, what that one shows. */
static void
run_as_owner(const ProveRelation *relation, const char *sql, int nargs,
			 Oid *types, Datum *values, Snapshot snapshot)
{
	Identity	saved;
	SPIPlanPtr	plan;
	int			result;

	SPI_connect();
	identity_enter_owner(&saved, relation->owner, NULL);
	plan = SPI_prepare(sql, nargs, types);
	if (plan == NULL)
		elog(ERROR, "could not prepare: %s", sql);
	if (snapshot)
		result = SPI_execute_snapshot(plan, values, NULL, snapshot,
									  InvalidSnapshot, true, false, 0);
	else
		result = SPI_execute_plan(plan, values, NULL, false, 0);
	if (result != SPI_OK_SELECT)
		elog(ERROR, "could not run: %s", sql);
	identity_leave(&saved);
}

static int64
count_rows(const Proof *proof, const ProveRelation *relation, int tenant, bool only)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(proof->tenants[tenant])};
	char	   *sql = psprintf("SELECT pg_catalog.count(*) %s",
							   rows_of_tenant(relation, only));
	int64		count;

	run_as_owner(relation, sql, 1, types, values, proof->snapshot);
	count = query_get_int8(0, 1, 0);
	SPI_finish();
	return count;
}

/* How many rows the tenants have, by the snapshot of the proof */
void
prove_count(Proof *proof, ProveRelation *relation)
{
	for (int tenant = 0; tenant < 2; tenant++)
	{
		relation->count[tenant] = count_rows(proof, relation, tenant, false);
		relation->only[tenant] = has_subclass(relation->relid)
			? count_rows(proof, relation, tenant, true)
			: relation->count[tenant];
	}
}

static bool
has_row(const Proof *proof, const ProveRelation *relation, int tenant)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(proof->tenants[tenant])};
	bool		found;

	run_as_owner(relation,
				 psprintf("SELECT %s LIMIT 1", rows_of_tenant(relation, false)),
				 1, types, values, NULL);
	found = SPI_processed > 0;
	SPI_finish();
	return found;
}

/*
 * One row of each tenant, locked until the end of the subtransaction, as far
 * as there is one that nobody else has locked.
 */
void
prove_capture(Proof *proof, ProveRelation *relation)
{
	MemoryContext context = CurrentMemoryContext;

	for (int tenant = 0; tenant < 2; tenant++)
	{
		Oid			types[] = {TEXTOID};
		Datum		values[] = {CStringGetTextDatum(proof->tenants[tenant])};
		ProveRow   *row = &relation->row[tenant];
		bool		isnull;

		row->found = row->locked = false;
		run_as_owner(relation,
					 psprintf("SELECT t.ctid, t.tableoid, (t.*)::%s %s LIMIT 1 FOR UPDATE SKIP LOCKED",
							  relation->name, rows_of_tenant(relation, false)),
					 1, types, values, NULL);
		if (SPI_processed > 0)
		{
			HeapTuple	tuple = SPI_tuptable->vals[0];
			TupleDesc	desc = SPI_tuptable->tupdesc;
			MemoryContext spi = MemoryContextSwitchTo(context);

			row->found = true;
			row->tid = *(ItemPointer) DatumGetPointer(SPI_getbinval(tuple, desc, 1, &isnull));
			row->tableoid = DatumGetObjectId(SPI_getbinval(tuple, desc, 2, &isnull));
			row->value = datumCopy(SPI_getbinval(tuple, desc, 3, &isnull), false, -1);
			MemoryContextSwitchTo(spi);
		}
		SPI_finish();
		if (!row->found)
			row->locked = has_row(proof, relation, tenant);
	}
}

/* Whether the captured row is still as it was, for this transaction */
bool
prove_is_untouched(const ProveRelation *relation, int tenant)
{
	const ProveRow *row = &relation->row[tenant];
	Oid			types[] = {TIDOID, OIDOID};
	Datum		values[] = {PointerGetDatum(&row->tid),
	ObjectIdGetDatum(row->tableoid)};
	bool		untouched;

	run_as_owner(relation,
				 psprintf("SELECT FROM %s t WHERE t.ctid OPERATOR(pg_catalog.=) $1 "
						  "AND t.tableoid OPERATOR(pg_catalog.=) $2",
						  relation->name),
				 2, types, values, NULL);
	untouched = SPI_processed > 0;
	SPI_finish();
	return untouched;
}

/*
 * Take some rows of a tenant away, below triggers and foreign keys.  Only in a
 * subtransaction that is going to be rolled back.
 */
void
prove_delete_sample(const Proof *proof, const ProveRelation *relation, int tenant)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(proof->tenants[tenant])};
	Relation	rel;

	if (relation->relkind != RELKIND_RELATION)
		return;
	run_as_owner(relation,
				 psprintf("SELECT t.ctid %s LIMIT %d FOR UPDATE SKIP LOCKED",
						  rows_of_tenant(relation, true), SAMPLE_ROWS),
				 1, types, values, NULL);
	rel = table_open(relation->relid, RowExclusiveLock);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		Datum		tid = SPI_getbinval(SPI_tuptable->vals[i],
										SPI_tuptable->tupdesc, 1, &isnull);

		simple_table_tuple_delete(rel, (ItemPointer) DatumGetPointer(tid),
								  GetActiveSnapshot());
	}
	table_close(rel, NoLock);
	SPI_finish();
}
