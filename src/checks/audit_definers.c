/*
 * audit_definers.c
 *		Owners of views and functions whom the policies let see all tenants.
 *
 * What a view or a SECURITY DEFINER function reads, it reads under the policies
 * of its owner.  An owner whom these do not hold for is found by the catalogs;
 * here are those whom they do hold for, but let through too much.
 *
 * The exceptions that enable_rls makes for admins ask for the current user,
 * which a view does not change and a function does.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"

#include "checks/audit.h"
#include "engine/compat.h"

#define DEFINERS \
	"SELECT r.oid FROM pg_roles r WHERE NOT r.rolsuper AND NOT r.rolbypassrls AND r.oid IN (" \
	" SELECT c.relowner FROM pg_class c WHERE c.oid >= 16384 AND (c.relkind = 'v' OR " \
	"  EXISTS (SELECT FROM pg_rewrite w WHERE w.ev_class = c.oid AND w.ev_type <> '1')) " \
	" UNION SELECT p.proowner FROM pg_proc p WHERE p.oid >= 16384 AND p.prosecdef)"

/* The roles that the policies of a table speak of and that this one has the
 * privileges of */
static List *
roles_of(const AuditTable *table, Oid role)
{
	List	   *roles = list_make1_oid(ACL_ID_PUBLIC);
	ListCell   *lc;
	ListCell   *lr;

	foreach(lc, table->policies)
	{
		AuditPolicy *policy = lfirst(lc);

		foreach(lr, list_concat_copy(policy->roles, policy->qual.except))
			if (OidIsValid(lfirst_oid(lr)) &&
				has_privs_of_role(role, lfirst_oid(lr)))
				roles = list_append_unique_oid(roles, lfirst_oid(lr));
	}
	return roles;
}

static List *
read_definers(Audit *audit)
{
	OwnQuery	query;
	uint64		count;
	List	   *definers = NIL;

	query_init(&query, DEFINERS);
	SPI_connect();
	count = query_run(&query);
	MemoryContextSwitchTo(audit->context);
	for (uint64 i = 0; i < count; i++)
		definers = lappend_oid(definers, query_get_oid(i, 1));
	SPI_finish();
	return definers;
}

void
audit_read_definers(Audit *audit)
{
	List	   *definers = read_definers(audit);
	int			room = list_length(definers) * list_length(audit->tables) + 1;
	Datum	   *owners = palloc(sizeof(Datum) * room);
	Datum	   *relids = palloc(sizeof(Datum) * room);
	Datum	   *in_views = palloc(sizeof(Datum) * room);
	int			count = 0;
	ListCell   *lc;
	ListCell   *lt;

	foreach(lc, definers)
		foreach(lt, audit->tables)
		{
			AuditTable *table = lfirst(lt);
			Oid			definer = lfirst_oid(lc);
			List	   *roles;

			CHECK_FOR_INTERRUPTS();
			if (!table->inside || !table->enabled || table->policies == NIL ||
				pg_class_aclcheck(table->oid, definer, ACL_SELECT) != ACLCHECK_OK)
				continue;
			roles = roles_of(table, definer);
			if (!audit_is_open(audit, table, roles, true))
				continue;
			owners[count] = ObjectIdGetDatum(definer);
			relids[count] = ObjectIdGetDatum(table->oid);
			in_views[count++] = BoolGetDatum(audit_is_open(audit, table, roles,
														   false));
		}
	audit->open_owners = audit_oid_array(owners, count);
	audit->open_relids = audit_oid_array(relids, count);
	audit->open_in_views = PointerGetDatum(construct_array(in_views, count,
														   BOOLOID, 1, true,
														   TYPALIGN_CHAR));
}
