/*
 * audit_policies.c
 *		What the policies of a table let each role do.
 *
 * For every role and command it is asked what holds together: some permissive
 * policy must let a row through, and all restrictive ones that apply must.  So
 * a role is isolated if one restrictive policy isolates, or if all permissive
 * ones do; what is wrong with a policy that another one makes harmless is not
 * reported.
 *
 * A policy is mended by altering it, so that it lets through the rows of the
 * session's tenant out of those that it let through before.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "checks/audit.h"
#include "engine/compat.h"
#include "engine/sqltext.h"
#include "steps/rls.h"

static const struct
{
	char		command;
	AclMode		mode;
	const char *name;
	const char *stem;			/* of a new policy's name */
}			commands[] = {
	{'r', ACL_SELECT, "SELECT", "tenant_select_"},
	{'a', ACL_INSERT, "INSERT", "tenant_insert_"},
	{'w', ACL_UPDATE, "UPDATE", "tenant_update_"},
	{'d', ACL_DELETE, "DELETE", "tenant_delete_"}
};

/* One table, seen by one role that may use it */
typedef struct View
{
	Audit	   *audit;
	AuditTable *table;
	AuditActor *actor;
	AclMode		mode;
	AclMode		closed;			/* commands that no policy lets it do */
} View;

/* --- which apply, and what they are worth ----------------------------- */

static bool
names_actor(const AuditPolicy *policy, const AuditActor *actor)
{
	ListCell   *lc;

	foreach(lc, policy->roles)
		if (audit_has_role(actor, lfirst_oid(lc)))
			return true;
	return false;
}

static bool
is_for(const AuditPolicy *policy, char command)
{
	return policy->command == '*' || policy->command == command;
}

/* Whether rows of other tenants are kept from this role by the condition */
static bool
holds_for(const AuditCondition *condition, const AuditActor *actor)
{
	ListCell   *lc;

	if (condition->tree == NULL || !condition->isolates)
		return false;
	foreach(lc, condition->except)
		if (audit_has_role(actor, lfirst_oid(lc)))
			return false;
	return true;
}

/* What new rows are checked with: the USING of a policy that has no WITH CHECK
 * and may have both */
static const AuditCondition *
check_of(const AuditPolicy *policy)
{
	return policy->check.tree || policy->command == 'a' ? &policy->check
		: &policy->qual;
}

bool
audit_is_open(Audit *audit, AuditTable *table, List *roles,
			  bool with_exceptions)
{
	AuditActor	actor = {InvalidOid, NULL, roles};
	AuditActor	nobody = {InvalidOid, NULL, NIL};
	const AuditActor *excepted = with_exceptions ? &actor : &nobody;
	bool		open = false;
	ListCell   *lc;

	foreach(lc, table->policies)
	{
		AuditPolicy *policy = lfirst(lc);

		if (!is_for(policy, 'r') || !names_actor(policy, &actor))
			continue;
		if (policy->permissive)
			open |= !holds_for(&policy->qual, excepted);
		else if (holds_for(&policy->qual, excepted))
			return false;
	}
	return open;
}

/* A restrictive policy that isolates this command, of this role or of others */
static AuditPolicy *
find_isolating(const View *view, char command, bool new_rows, bool applies)
{
	ListCell   *lc;

	foreach(lc, view->table->policies)
	{
		AuditPolicy *policy = lfirst(lc);

		if (!policy->permissive && is_for(policy, command) &&
			names_actor(policy, view->actor) == applies &&
			holds_for(new_rows ? check_of(policy) : &policy->qual, view->actor))
			return policy;
	}
	return NULL;
}

/*
 * Members of the admin roles of enable_rls see all tenants, as they should: the
 * isolation policy makes an exception for them, and the admin policy, which is
 * returned, lets them in.
 */
static AuditPolicy *
find_admin_policy(const View *view)
{
	AuditPolicy *admin = NULL;
	bool		excepted = false;
	ListCell   *lc;
	ListCell   *lr;

	foreach(lc, view->table->policies)
	{
		AuditPolicy *policy = lfirst(lc);

		if (strcmp(policy->name, RLS_ADMIN) == 0 && policy->permissive &&
			names_actor(policy, view->actor) &&
			!list_member_oid(policy->roles, ACL_ID_PUBLIC))
			admin = policy;
		if (strcmp(policy->name, RLS_ISOLATION) == 0 && policy->qual.isolates)
			foreach(lr, policy->qual.except)
				excepted |= audit_has_role(view->actor, lfirst_oid(lr));
	}
	return excepted ? admin : NULL;
}

/* --- what to say and to do -------------------------------------------- */

static char *
policy_object(const AuditTable *table, const AuditPolicy *policy)
{
	return psprintf("policy %s on %s", quote_identifier(policy->name),
					table->name);
}

static char *
reason(const AuditTable *table, const AuditCondition *condition)
{
	const char *column = quote_identifier(table->column);
	int			flags = condition->flags;

	if (condition->tree == NULL)
		return pstrdup("it has no condition");
	if (flags & CONDITION_TRUE)
		return pstrdup("it is true for every row");
	if (flags & CONDITION_NO_TENANT)
		return psprintf("it does not mention %s", column);
	if (flags & CONDITION_BYPASS)
		return psprintf("one side of an OR does not compare %s with the session's tenant, so whoever can make it true sees all", column);
	if (flags & CONDITION_DEFAULTED)
		return pstrdup("a tenant passes that the session has not set, by default or because it is listed");
	if (flags & CONDITION_NULL)
		return pstrdup("rows without a tenant pass");
	if (flags & CONDITION_CONSTANT)
		return psprintf("it compares %s with a constant", column);
	if (flags & CONDITION_OPERATOR)
		return psprintf("the operator that it compares %s with is no equality", column);
	return psprintf("it does not compare %s with a value that the session has", column);
}

/* The condition, narrowed to the session's tenant; NULL: cannot be compared */
static char *
narrowed(const AuditTable *table, const AuditCondition *condition)
{
	char	   *isolation = audit_isolation(table);

	if (isolation == NULL)
		return NULL;
	if (condition->tree == NULL || (condition->flags & CONDITION_TRUE))
		return isolation;
	return psprintf("%s AND (%s)", isolation,
					audit_condition_text(table, condition));
}

/* Narrow the conditions that are given; without a way to, drop the policy */
static char *
narrow(const AuditTable *table, const AuditPolicy *policy,
	   const AuditCondition *qual, const AuditCondition *check)
{
	StringInfoData buf;

	if (audit_isolation(table) == NULL)
		return psprintf("DROP POLICY %s ON %s",
						quote_identifier(policy->name), table->name);
	initStringInfo(&buf);
	appendStringInfo(&buf, "ALTER POLICY %s ON %s",
					 quote_identifier(policy->name), table->name);
	if (qual)
		appendStringInfo(&buf, " USING (%s)", narrowed(table, qual));
	if (check)
		appendStringInfo(&buf, " WITH CHECK (%s)", narrowed(table, check));
	return buf.data;
}

static char *
role_list(List *roles, Oid more)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, OidIsValid(more) ? list_append_unique_oid(list_copy(roles), more) : roles)
		appendStringInfo(&buf, "%s%s", buf.len > 0 ? ", " : "",
						 lfirst_oid(lc) == ACL_ID_PUBLIC ? "PUBLIC"
						 : quote_identifier(GetUserNameFromId(lfirst_oid(lc), false)));
	return buf.data;
}

/* A name for a new policy that no policy of the table has */
static char *
free_name(const AuditTable *table, const char *stem)
{
	char	   *name = pstrdup(stem);
	ListCell   *lc;

	for (int i = 2;; i++)
	{
		bool		taken = false;

		foreach(lc, table->policies)
			if (strcmp(((AuditPolicy *) lfirst(lc))->name, name) == 0)
				taken = true;
		if (!taken)
			return name;
		name = sql_derived_name("", stem, psprintf("_%d", i));
	}
}

/* --- one role --------------------------------------------------------- */

/* A permissive policy lets rows through that are not the tenant's */
static void
report_open(View *view, AuditPolicy *policy, int i, bool new_rows)
{
	const AuditCondition *condition = new_rows ? check_of(policy) : &policy->qual;
	bool		own_check = new_rows && condition == &policy->check;
	AuditPolicy *elsewhere = find_isolating(view, commands[i].command, new_rows, false);
	AuditTable *table = view->table;
	const char *role = view->actor->name;
	const char *quoted = quote_identifier(role);

	if (elsewhere)
		audit_add(view->audit, "isolation_uncovered", AUDIT_ERROR,
				  policy_object(table, elsewhere), role,
				  psprintf("It does not hold for %s, whom policy %s lets in: %s reaches the rows of all tenants by %s.",
						   quoted, quote_identifier(policy->name), quoted,
						   commands[i].name),
				  psprintf("ALTER POLICY %s ON %s TO %s",
						   quote_identifier(elsewhere->name), table->name,
						   view->actor->oid == ACL_ID_PUBLIC ? "PUBLIC"
						   : role_list(elsewhere->roles, view->actor->oid)));
	else if (own_check)
		audit_add(view->audit, "write_unchecked", AUDIT_ERROR,
				  policy_object(table, policy), role,
				  psprintf("By %s %s can write rows of other tenants, for the WITH CHECK does not stop it: %s.",
						   commands[i].name, quoted, reason(table, condition)),
				  narrow(table, policy, NULL, condition));
	else if (condition->flags & CONDITION_NULL)
		audit_add(view->audit, "policy_lets_null", AUDIT_ERROR,
				  policy_object(table, policy), role,
				  psprintf("It lets %s reach rows without a tenant, whosever they are.", quoted),
				  narrow(table, policy, condition, NULL));
	else
		audit_add(view->audit, "policy_open", AUDIT_ERROR,
				  policy_object(table, policy), role,
				  psprintf("It lets %s reach rows of all tenants: %s.", quoted,
						   reason(table, condition)),
				  narrow(table, policy, condition, NULL));
}

/* An INSERT without a WITH CHECK is refused: PostgreSQL takes it for false */
static void
report_no_check(View *view, AuditPolicy *policy)
{
	audit_add(view->audit, "write_unchecked", AUDIT_WARNING,
			  policy_object(view->table, policy), view->actor->name,
			  "It is for INSERT and has no WITH CHECK, so it lets no row in.",
			  narrow(view->table, policy, NULL, &policy->check));
}

static void
check_command(View *view, int i)
{
	char		command = commands[i].command;
	bool		reads = command != 'a';
	bool		writes = command == 'a' || command == 'w';
	bool		reading_safe = find_isolating(view, command, false, true) != NULL;
	bool		writing_safe = find_isolating(view, command, true, true) != NULL;
	int			permissive = 0;
	ListCell   *lc;

	foreach(lc, view->table->policies)
	{
		AuditPolicy *policy = lfirst(lc);
		const AuditCondition *check = check_of(policy);

		if (!policy->permissive || !is_for(policy, command) ||
			!names_actor(policy, view->actor))
			continue;
		permissive++;
		if (reads && !reading_safe && !holds_for(&policy->qual, view->actor))
			report_open(view, policy, i, false);
		if (!writes || writing_safe)
			continue;
		if (check->tree == NULL)
			report_no_check(view, policy);
		else if (!holds_for(check, view->actor) &&
				 (check == &policy->check || !reads))
			report_open(view, policy, i, true);
	}
	if (permissive == 0)
		view->closed |= commands[i].mode;
}

/* Let the role in to the rows of its tenant; one policy for all commands, if
 * there is none that it might add up with */
static char *
admit(const View *view, const char *isolation)
{
	bool		everybody = view->actor->oid == ACL_ID_PUBLIC;
	const char *name = everybody ? "public"
		: GetUserNameFromId(view->actor->oid, false);
	const char *role = everybody ? "PUBLIC" : quote_identifier(name);
	const char *table = view->table->name;
	StringInfoData buf;

	if (view->closed == view->mode)
		return psprintf("CREATE POLICY %s ON %s FOR ALL TO %s USING (%s)",
						quote_identifier(free_name(view->table,
												   sql_derived_name("tenant_access_", name, ""))),
						table, role, isolation);
	initStringInfo(&buf);
	for (int i = 0; i < lengthof(commands); i++)
		if (view->closed & commands[i].mode)
			appendStringInfo(&buf, "%sCREATE POLICY %s ON %s FOR %s TO %s %s (%s)",
							 buf.len > 0 ? "; " : "",
							 quote_identifier(free_name(view->table,
														sql_derived_name(commands[i].stem, name, ""))),
							 table, commands[i].name, role,
							 commands[i].command == 'a' ? "WITH CHECK" : "USING",
							 isolation);
	return buf.data;
}

static void
check_closed(View *view)
{
	StringInfoData names;
	char	   *isolation = audit_isolation(view->table);

	initStringInfo(&names);
	for (int i = 0; i < lengthof(commands); i++)
		if (view->closed & commands[i].mode)
			appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "",
							 commands[i].name);
	audit_add(view->audit, "role_uncovered", AUDIT_WARNING, view->table->name,
			  view->actor->name,
			  psprintf("%s may %s, but no permissive policy covers that: it reaches no rows. Or take the privilege away.",
					   quote_identifier(view->actor->name), names.data),
			  isolation ? admit(view, isolation) : NULL);
}

static void
check_role(Audit *audit, AuditTable *table, AuditAccess *access)
{
	View		view = {audit, table, access->actor, access->mode, 0};
	bool		owner = audit_has_role(access->actor, table->owner);
	AuditPolicy *admin = find_admin_policy(&view);

	if (owner && !table->forced)
		return;
	if (admin)
	{
		if (audit->role_name)
			audit_add(audit, "policy_open", AUDIT_INFO,
					  policy_object(table, admin), audit->role_name,
					  psprintf("%s is an admin role of enable_rls: it sees all tenants.",
							   quote_identifier(access->actor->name)),
					  psprintf("DROP POLICY %s ON %s",
							   quote_identifier(admin->name), table->name));
		return;
	}
	for (int i = 0; i < lengthof(commands); i++)
		if (view.mode & commands[i].mode)
			check_command(&view, i);

	/* A partition needs no policies if it is not to be named; the owner has
	 * all privileges, whether it uses them or not */
	if (view.closed != 0 && !owner && table->parent == NULL)
		check_closed(&view);
}

/* --- the table as such ------------------------------------------------ */

/* Permissive policies add up; it takes a restrictive one to hold them */
static void
check_permissive(Audit *audit, AuditTable *table)
{
	StringInfoData names;
	const char *command = NULL;
	char	   *isolation = audit_isolation(table);

	initStringInfo(&names);
	for (int i = 0; i < lengthof(commands) && command == NULL; i++)
	{
		ListCell   *lc;
		int			count = 0;
		List	   *roles = NIL;
		bool		overlap = false;
		bool		held = false;

		resetStringInfo(&names);
		foreach(lc, table->policies)
		{
			AuditPolicy *policy = lfirst(lc);

			if (!is_for(policy, commands[i].command))
				continue;
			if (!policy->permissive)
			{
				held |= commands[i].command == 'a' ? check_of(policy)->isolates
					: policy->qual.isolates;
				continue;
			}
			if (count > 0 && (list_length(list_difference_oid(policy->roles, roles)) < list_length(policy->roles) ||
							  list_member_oid(roles, ACL_ID_PUBLIC) ||
							  list_member_oid(policy->roles, ACL_ID_PUBLIC)))
				overlap = true;
			roles = list_concat_unique_oid(roles, policy->roles);
			appendStringInfo(&names, "%s%s", count++ > 0 ? ", " : "",
							 quote_identifier(policy->name));
		}
		if (overlap && !held)
			command = commands[i].name;
	}
	if (command == NULL || isolation == NULL)
		return;
	audit_add(audit, "permissive_policies", AUDIT_WARNING, table->name,
			  audit->role_name,
			  psprintf("For %s there are the permissive policies %s and no restrictive one that isolates: a row that any of them lets through is seen, so the next one that is added may open the table.",
					   command, names.data),
			  psprintf("CREATE POLICY %s ON %s AS RESTRICTIVE FOR ALL TO PUBLIC USING (%s)",
					   quote_identifier(free_name(table, "tenant_isolation")),
					   table->name, isolation));
}

/* Correct, but slow */
static void
check_cost(Audit *audit, AuditTable *table, AuditPolicy *policy)
{
	AuditCondition *qual = policy->qual.tree ? &policy->qual : NULL;
	AuditCondition *check = policy->check.tree ? &policy->check : NULL;
	int			flags = policy->qual.flags | policy->check.flags;
	char	   *mend;

	/* What enable_rls makes is as it was asked for ("inline") */
	if (strcmp(policy->name, RLS_ISOLATION) == 0 ||
		strcmp(policy->name, RLS_ACCESS) == 0 ||
		(flags & (CONDITION_PER_ROW | CONDITION_COLUMN_CAST)) == 0)
		return;
	mend = psprintf("ALTER POLICY %s ON %s%s%s",
					quote_identifier(policy->name), table->name,
					qual == NULL ? ""
					: psprintf(" USING (%s)", audit_better_condition(table, qual)),
					check == NULL ? ""
					: psprintf(" WITH CHECK (%s)", audit_better_condition(table, check)));
	if (flags & CONDITION_COLUMN_CAST)
		audit_add(audit, "column_cast", AUDIT_WARNING,
				  policy_object(table, policy), audit->role_name,
				  psprintf("It casts %s, so no index on the column serves: cast what it is compared with.",
						   quote_identifier(table->column)),
				  mend);
	else
		audit_add(audit, "setting_per_row", AUDIT_WARNING,
				  policy_object(table, policy), audit->role_name,
				  "It reads the setting, or calls a function, for each row: in a sub-select that is done once for a query.",
				  mend);
}

static void
check_default(Audit *audit, AuditTable *table)
{
	if ((table->preset.flags & (CONDITION_CONSTANT | CONDITION_DEFAULTED)) == 0)
		return;
	audit_add(audit, "tenant_default", AUDIT_WARNING,
			  psprintf("%s.%s", table->name, quote_identifier(table->column)),
			  audit->role_name,
			  psprintf("A row that is written without a tenant gets one by default: %s. To have that of the session: ALTER TABLE %s ALTER COLUMN %s SET DEFAULT %s.",
					   audit_condition_text(table, &table->preset), table->name,
					   quote_identifier(table->column), audit_setting_value(table)),
			  psprintf("ALTER TABLE %s ALTER COLUMN %s DROP DEFAULT",
					   table->name, quote_identifier(table->column)));
}

void
audit_check_policies(Audit *audit)
{
	ListCell   *lc;
	ListCell   *l;

	foreach(lc, audit->tables)
	{
		AuditTable *table = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		if (!table->inside || table->kind == RELKIND_FOREIGN_TABLE)
			continue;
		check_default(audit, table);
		if (table->enabled)
			foreach(l, table->accesses)
				check_role(audit, table, lfirst(l));
		check_permissive(audit, table);
		foreach(l, table->policies)
			check_cost(audit, table, lfirst(l));
	}
}
