/*
 * rls_policy.c
 *		The policies of row-level security: as they are, as they shall be.
 *
 * Each table gets two policies, three if there are admin roles.  With V for
 * the sub-select that reads the setting:
 *
 *	tenantmig_isolation		restrictive, TO roles and admin roles
 *		tenant = V
 *		with admins: CASE WHEN <is an admin> THEN true ELSE tenant = V END
 *	tenantmig_access		permissive, TO roles
 *		tenant IS NOT NULL [AND V IS NOT NULL, if a missing tenant raises]
 *		with admins: tenant = V
 *	tenantmig_admin			permissive, TO admin roles
 *		true
 *
 * The sub-selects make the server evaluate the setting, and who one is, once
 * for a query instead of once for a row.  They also hide the setting from the
 * planner, which then takes all tenants for equally large; so the comparison
 * can be had without ("inline"), for tenants of very different sizes.  The setting is cast, never the
 * column, so that an index on the column serves.
 *
 * Why access is not simply true: whatever takes the isolation policy away by
 * CASCADE (the column, or the extension with its required_setting()) must take
 * the access policy away as well, or the table would stand open.  So access
 * depends on all that isolation depends on.  No row that passes isolation
 * fails it, and the planner expects none to.
 *
 * Why there is a condition for admins.  A restrictive policy TO public holds
 * for everybody, and one TO an application's role also for an admin who is a
 * member of it.  So admins are told apart in the isolation policy, by who runs
 * the query.  It names them too, since the server chooses policies by the
 * owner of a view: through an admin's view the application sees its tenant
 * only.  A CASE, like an OR, cannot use an index; hence the comparison in the
 * access policy, which for an admin the planner finds to be "... OR true" and
 * drops.  It comes second, so the index serves only if the operator is
 * leakproof (rls_warn_without_index tells of others, such as citext's).
 *
 * Who is an admin is asked by name, so that dump and restore keep it: OIDs
 * differ in another cluster.  A role that was renamed or dropped is no admin
 * any more (to_regrole gives NULL instead of raising), which closes the table
 * to it; the next call of enable_rls mends it.  A new role under the old name
 * does not get in either: it passes the isolation policy, but tenantmig_admin
 * names the old role, by its OID.
 *
 * The isolation policy compares with the default equality operator of the
 * column's type, named with its schema and given exactly its own argument
 * types, so that no other operator can be a better match.  Where these are not
 * the column's type (varchar, domains), the column is relabelled, which costs
 * nothing and hides it from no index.  The setting is cast without a length
 * (varchar(3) would cut "acmex" down to "acm", another tenant) and to the base
 * type of a domain (whose NOT NULL would raise instead of denying).
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_policy.h"
#include "catalog/pg_type.h"
#include "commands/comment.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_clause.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "engine/compat.h"
#include "engine/sqltext.h"
#include "engine/template.h"
#include "steps/rls.h"
#include "steps/target.h"

/* How the column is compared with the setting */
typedef struct Comparison
{
	char	   *column;			/* quoted, relabelled if need be */
	char	   *operator;
	char	   *type;			/* what the setting is cast to */
	bool		leakproof;
} Comparison;

int
rls_pin_search_path(void)
{
	int			level = NewGUCNestLevel();

	(void) set_config_option("search_path", RLS_PINNED_PATH, PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return level;
}

/* --- as they are ------------------------------------------------------ */

static List *
roles_from_array(Datum datum)
{
	ArrayType  *array = DatumGetArrayTypePCopy(datum);
	Oid		   *oids = (Oid *) ARR_DATA_PTR(array);
	int			count = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	List	   *roles = NIL;

	for (int i = 0; i < count; i++)
		roles = lappend_oid(roles, oids[i]);
	return roles;
}

/* The tree as stored and as SQL; both NULL if there is none */
static void
read_condition(HeapTuple tuple, TupleDesc desc, AttrNumber attnum, Oid relid,
			   char **tree, char **sql)
{
	bool		isnull;
	Datum		datum = heap_getattr(tuple, attnum, desc, &isnull);

	*tree = *sql = NULL;
	if (isnull)
		return;
	*tree = TextDatumGetCString(datum);
	*sql = TextDatumGetCString(DirectFunctionCall2(pg_get_expr, datum,
												   ObjectIdGetDatum(relid)));
}

static RlsPolicy *
read_policy(HeapTuple tuple, TupleDesc desc, Oid relid)
{
	Form_pg_policy form = (Form_pg_policy) GETSTRUCT(tuple);
	RlsPolicy  *policy = palloc0(sizeof(RlsPolicy));
	bool		isnull;

	policy->name = pstrdup(NameStr(form->polname));
	policy->command = form->polcmd;
	policy->permissive = form->polpermissive;
	policy->roles = roles_from_array(heap_getattr(tuple,
												  Anum_pg_policy_polroles,
												  desc, &isnull));
	read_condition(tuple, desc, Anum_pg_policy_polqual, relid,
				   &policy->qual_tree, &policy->qual);
	read_condition(tuple, desc, Anum_pg_policy_polwithcheck, relid,
				   &policy->check_tree, &policy->check);
	policy->comment = GetComment(form->oid, PolicyRelationId, 0);
	return policy;
}

List *
rls_policies(Oid relid)
{
	Relation	catalog = table_open(PolicyRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *policies = NIL;

	ScanKeyInit(&key, Anum_pg_policy_polrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(catalog, PolicyPolrelidPolnameIndexId, true,
							  NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		policies = lappend(policies,
						   read_policy(tuple, RelationGetDescr(catalog), relid));
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return policies;
}

RlsPolicy *
rls_find_policy(List *policies, const char *name)
{
	ListCell   *lc;

	foreach(lc, policies)
	{
		RlsPolicy  *policy = lfirst(lc);

		if (strcmp(policy->name, name) == 0)
			return policy;
	}
	return NULL;
}

bool
rls_is_ours(const RlsPolicy *policy)
{
	return strcmp(policy->name, RLS_ISOLATION) == 0 ||
		strcmp(policy->name, RLS_ACCESS) == 0 ||
		strcmp(policy->name, RLS_ADMIN) == 0;
}

/* --- as they shall be ------------------------------------------------- */

static void
not_comparable(Oid relid, const char *column, const char *type,
			   const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("column %s of relation %s cannot be compared with a setting",
					quote_identifier(column), sql_relation(relid)),
			 errdetail_internal(detail, type),
			 errhint("Use a column of type text, uuid, integer or bigint, or of a domain or enum.")));
}

/* OPERATOR(schema.name) */
static char *
operator_text(Oid operator)
{
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Form_pg_operator form;
	char	   *text;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	text = psprintf("OPERATOR(%s.%s)",
					quote_identifier(get_namespace_name(form->oprnamespace)),
					NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return text;
}

static void
find_comparison(Oid relid, const char *column, Comparison *result)
{
	TargetColumn found;
	Oid			operator;
	Oid			type;
	Oid			right;
	Oid			function;
	CoercionPathType path;

	target_check_column(relid, column, &found);
	operator = lookup_type_cache(found.type, TYPECACHE_EQ_OPR)->eq_opr;
	if (!OidIsValid(operator))
		not_comparable(relid, column, found.type_name,
					   "Type %s has no default equality operator.");

	op_input_types(operator, &type, &right);
	if (get_typtype(type) == TYPTYPE_PSEUDO)
		type = getBaseType(found.type);

	/* A function that makes the type from text may lose some of it: name */
	path = find_coercion_pathway(type, TEXTOID, COERCION_EXPLICIT, &function);
	if (path != COERCION_PATH_RELABELTYPE && path != COERCION_PATH_COERCEVIAIO)
		not_comparable(relid, column, found.type_name,
					   "A cast from text to type %s may change the value.");

	result->type = format_type_extended(type, -1, FORMAT_TYPE_TYPEMOD_GIVEN |
										FORMAT_TYPE_FORCE_QUALIFY);
	result->column = found.type == type
		? pstrdup(quote_identifier(column))
		: psprintf("(%s)::%s", quote_identifier(column), result->type);
	result->operator = operator_text(operator);
	result->leakproof = get_func_leakproof(get_opcode(operator));
}

static char *
value_text(const RlsArguments *arguments, const char *type)
{
	return psprintf(arguments->raise_missing
					? "tenantmig.required_setting(%s)::%s"
					: "NULLIF(pg_catalog.current_setting(%s, true), '')::%s",
					sql_literal(arguments->setting), type);
}

char *
rls_value_text(const RlsArguments *arguments, Oid relid)
{
	Comparison	comparison;

	find_comparison(relid, arguments->column, &comparison);
	return value_text(arguments, comparison.type);
}

static char *
is_admin_text(const RlsArguments *arguments)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, arguments->admin_roles)
		appendStringInfo(&buf, "%s pg_catalog.pg_has_role(pg_catalog.to_regrole(%s)::pg_catalog.oid, 'USAGE')",
						 buf.len > 0 ? " OR" : "",
						 sql_literal(quote_identifier((char *) lfirst(lc))));
	return psprintf("(SELECT%s)", buf.data);
}

static List *
role_oids(List *names)
{
	List	   *oids = NIL;
	ListCell   *lc;

	foreach(lc, names)
	{
		char	   *name = lfirst(lc);

		oids = lappend_oid(oids, strcmp(name, "public") == 0 ? ACL_ID_PUBLIC
						   : get_role_oid(name, false));
	}
	return oids;
}

static RlsPolicy *
make_policy(char *name, bool permissive, List *roles, char *condition)
{
	RlsPolicy  *policy = palloc0(sizeof(RlsPolicy));

	policy->name = name;
	policy->command = '*';
	policy->permissive = permissive;
	policy->roles = roles;
	policy->qual = policy->check = condition;
	return policy;
}

List *
rls_wanted_policies(const RlsArguments *arguments, Oid relid)
{
	Comparison	comparison;
	char	   *value;
	char	   *matches;
	char	   *isolation;
	char	   *access;
	List	   *roles;
	List	   *admins;
	List	   *everybody;
	List	   *policies;

	find_comparison(relid, arguments->column, &comparison);
	value = psprintf("(SELECT %s)", value_text(arguments, comparison.type));
	matches = psprintf("%s %s %s", comparison.column, comparison.operator,
					   arguments->inlined
					   ? value_text(arguments, comparison.type) : value);
	if (arguments->admin_roles != NIL)
	{
		isolation = psprintf("CASE WHEN %s THEN true ELSE %s END",
							 is_admin_text(arguments), matches);
		access = matches;
	}
	else
	{
		isolation = matches;
		access = psprintf("%s IS NOT NULL", quote_identifier(arguments->column));
		if (arguments->raise_missing)
			access = psprintf("%s AND %s IS NOT NULL", access, value);
	}

	roles = role_oids(arguments->roles);
	admins = role_oids(arguments->admin_roles);
	everybody = list_member_oid(roles, ACL_ID_PUBLIC) ? roles
		: list_concat_copy(roles, admins);
	policies = list_make2(make_policy(RLS_ISOLATION, false, everybody, isolation),
						  make_policy(RLS_ACCESS, true, roles, access));
	if (admins != NIL)
		policies = lappend(policies,
						   make_policy(RLS_ADMIN, true, admins, "true"));
	return policies;
}

void
rls_check_column(const RlsArguments *arguments, Oid relid)
{
	Comparison	comparison;

	find_comparison(relid, arguments->column, &comparison);
}

void
rls_warn_without_index(const RlsArguments *arguments, Oid relid)
{
	Comparison	comparison;

	find_comparison(relid, arguments->column, &comparison);
	if (arguments->admin_roles != NIL && !comparison.leakproof)
		ereport(WARNING,
				(errmsg("with admin roles, no index on column %s of %s can serve the policies",
						quote_identifier(arguments->column), sql_relation(relid)),
				 errdetail("%s for type %s is not leakproof.",
						   comparison.operator, comparison.type),
				 errhint("Give the administrators a role with BYPASSRLS instead of naming them in admin_roles.")));
}

/* --- comparing -------------------------------------------------------- */

/* As CREATE POLICY would store it */
static Node *
parse_condition(Relation relation, const char *text)
{
	List	   *raw = raw_parser(text, RAW_PARSE_PLPGSQL_EXPR);
	SelectStmt *select = castNode(SelectStmt, linitial_node(RawStmt, raw)->stmt);
	ParseState *pstate = make_parsestate(NULL);
	ParseNamespaceItem *item;
	Node	   *node;

	item = addRangeTableEntryForRelation(pstate, relation, AccessShareLock,
										 NULL, false, false);
	addNSItemToQuery(pstate, item, false, true, true);
	node = transformWhereClause(pstate,
								linitial_node(ResTarget, select->targetList)->val,
								EXPR_KIND_POLICY, "POLICY");
	assign_expr_collations(pstate, node);
	free_parsestate(pstate);
	return node;
}

static bool
same_condition(Relation relation, const char *tree, const char *text)
{
	if (tree == NULL || text == NULL)
		return tree == NULL && text == NULL;
	return equal(stringToNode(tree), parse_condition(relation, text));
}

bool
rls_same_policy(Oid relid, const RlsPolicy *existing, const RlsPolicy *wanted)
{
	Relation	relation;
	bool		same;

	if (existing->command != wanted->command ||
		existing->permissive != wanted->permissive ||
		list_difference_oid(existing->roles, wanted->roles) != NIL ||
		list_difference_oid(wanted->roles, existing->roles) != NIL)
		return false;
	relation = table_open(relid, AccessShareLock);
	same = same_condition(relation, existing->qual_tree, wanted->qual) &&
		same_condition(relation, existing->check_tree, wanted->check);
	table_close(relation, NoLock);
	return same;
}

bool
rls_can_alter(const RlsPolicy *from, const RlsPolicy *to)
{
	return from->command == to->command && from->permissive == to->permissive &&
		(from->qual == NULL) == (to->qual == NULL) &&
		(from->check == NULL) == (to->check == NULL);
}

/* --- statements ------------------------------------------------------- */

static const char *
command_text(char command)
{
	switch (command)
	{
		case ACL_SELECT_CHR:
			return "SELECT";
		case ACL_INSERT_CHR:
			return "INSERT";
		case ACL_UPDATE_CHR:
			return "UPDATE";
		case ACL_DELETE_CHR:
			return "DELETE";
		default:
			return "ALL";
	}
}

static char *
role_list_text(List *roles)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, roles)
	{
		Oid			role = lfirst_oid(lc);

		appendStringInfo(&buf, "%s%s", buf.len > 0 ? ", " : "",
						 role == ACL_ID_PUBLIC ? "PUBLIC"
						 : quote_identifier(GetUserNameFromId(role, false)));
	}
	return buf.data;
}

/* TO, USING and WITH CHECK */
static char *
body_text(const RlsPolicy *policy)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, " TO %s", role_list_text(policy->roles));
	if (policy->qual)
		appendStringInfo(&buf, " USING (%s)", policy->qual);
	if (policy->check)
		appendStringInfo(&buf, " WITH CHECK (%s)", policy->check);
	return buf.data;
}

char *
rls_create_text(const RlsPolicy *policy)
{
	return template_make("CREATE POLICY %s ON %R AS %s FOR %s%s",
						 quote_identifier(policy->name),
						 policy->permissive ? "PERMISSIVE" : "RESTRICTIVE",
						 command_text(policy->command), body_text(policy));
}

char *
rls_alter_text(const RlsPolicy *policy)
{
	return template_make("ALTER POLICY %s ON %R%s",
						 quote_identifier(policy->name), body_text(policy));
}

char *
rls_drop_text(const RlsPolicy *policy)
{
	return template_make("DROP POLICY %s ON %R", quote_identifier(policy->name));
}

char *
rls_undo_create_text(const RlsPolicy *policy)
{
	return template_make("DROP POLICY IF EXISTS %s ON %R",
						 quote_identifier(policy->name));
}

char *
rls_undo_alter_text(const RlsPolicy *policy)
{
	return psprintf("SET LOCAL search_path TO " RLS_PINNED_PATH "; %s",
					rls_alter_text(policy));
}

char *
rls_undo_drop_text(const RlsPolicy *policy)
{
	return psprintf("SET LOCAL search_path TO " RLS_PINNED_PATH "; %s%s",
					rls_create_text(policy),
					policy->comment == NULL ? ""
					: template_make("; COMMENT ON POLICY %s ON %R IS %s",
									quote_identifier(policy->name),
									sql_literal(policy->comment)));
}
