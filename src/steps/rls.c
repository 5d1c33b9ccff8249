/*
 * rls.c
 *		enable_rls and disable_rls: tenants kept apart by row-level security.
 *
 * A query is subject to the policies of the relation it names, and no other:
 * not to those of the partitions below it, nor, if it names a partition, to
 * those above.  So all of the tree gets the same policies: the table, its
 * partitions on every level, and inheritance children.  Partitions that are
 * attached later are found missing by holds(), and the next call adds them.
 *
 * All is done in the caller's transaction, under one lock.  Only what differs
 * from what is wanted is touched, one statement at a time, each with its
 * inverse in the journal.  An undo runs every inverse in a transaction of its
 * own, last one first, so the order matters: the isolation policy is made
 * before and dropped after the policies that let rows out, and a policy that
 * changes is altered instead of dropped and made anew.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_policy.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "engine/compat.h"
#include "engine/job.h"
#include "engine/json.h"
#include "engine/locks.h"
#include "engine/query.h"
#include "engine/settings.h"
#include "engine/sqltext.h"
#include "engine/template.h"
#include "steps/kinds.h"
#include "steps/rls.h"
#include "steps/target.h"

PG_FUNCTION_INFO_V1(tenantmig_enable_rls);
PG_FUNCTION_INFO_V1(tenantmig_disable_rls);

/* A call at work */
typedef struct RlsWork
{
	Oid			root;			/* the table that was named */
	int64		job;
	int			steps;
} RlsWork;

/* --- the tree --------------------------------------------------------- */

/* The table and what inherits from it; temporary children are out of reach of
 * anybody but the session that made them */
static List *
find_tree(Oid relid)
{
	List	   *tree = NIL;
	ListCell   *lc;

	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
		if (get_rel_persistence(lfirst_oid(lc)) != RELPERSISTENCE_TEMP)
			tree = lappend_oid(tree, lfirst_oid(lc));
	return tree;
}

/* Statements run as the owner of the root, who must own the rest as well */
static void
check_tree_owner(Oid relid, List *tree)
{
	Oid			owner = target_owner(relid);
	ListCell   *lc;

	foreach(lc, tree)
		if (!relation_ownercheck(lfirst_oid(lc), owner))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("must be owner of table %s",
							sql_relation(lfirst_oid(lc))),
					 errdetail("It is a partition or child of %s and belongs to another role.",
							   sql_relation(relid)),
					 errhint("As a superuser: ALTER TABLE %s OWNER TO %s;",
							 sql_relation(lfirst_oid(lc)),
							 quote_identifier(GetUserNameFromId(owner, false)))));
}

static void
read_flags(Oid relid, bool *enabled, bool *forced)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	*enabled = ((Form_pg_class) GETSTRUCT(tuple))->relrowsecurity;
	*forced = ((Form_pg_class) GETSTRUCT(tuple))->relforcerowsecurity;
	ReleaseSysCache(tuple);
}

/* A query that names an ancestor never meets the policies of this table */
static void
warn_of_open_ancestor(Oid relid)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	char	   *ancestor = NULL;

	query_init(&query,
			   "WITH RECURSIVE up (oid) AS ("
			   " SELECT inhparent FROM pg_inherits WHERE inhrelid = $1 "
			   " UNION SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.oid) "
			   "SELECT format('%I.%I', n.nspname, c.relname) FROM up "
			   "JOIN pg_class c ON c.oid = up.oid "
			   "JOIN pg_namespace n ON n.oid = c.relnamespace "
			   "WHERE NOT c.relrowsecurity ORDER BY c.relispartition, 1 LIMIT 1");
	query_oid(&query, relid);
	SPI_connect();
	if (query_run(&query) > 0)
	{
		MemoryContextSwitchTo(context);
		ancestor = query_get_text(0, 1);
	}
	SPI_finish();
	if (ancestor)
		ereport(WARNING,
				(errmsg("rows of %s can be read through %s, which has no row-level security",
						sql_relation(relid), ancestor),
				 errdetail("A query is subject to the policies of the table it names only."),
				 errhint("Cover the whole tree with: SELECT tenantmig.enable_rls(%s);",
						 sql_literal(ancestor))));
}

/* --- steps ------------------------------------------------------------ */

static void
take_step(RlsWork *work, Oid relid, const char *statement, const char *inverse)
{
	CHECK_FOR_INTERRUPTS();
	target_step(work->job, work->root, relid, statement, inverse);
	work->steps++;
}

static void
create_policy(RlsWork *work, Oid relid, const RlsPolicy *policy)
{
	take_step(work, relid, rls_create_text(policy), rls_undo_create_text(policy));
}

static void
drop_policy(RlsWork *work, Oid relid, const RlsPolicy *policy)
{
	if (policy)
		take_step(work, relid, rls_drop_text(policy), rls_undo_drop_text(policy));
}

/* ALTER TABLE ... what ROW LEVEL SECURITY, and back */
static void
set_flag(RlsWork *work, Oid relid, const char *what, const char *back)
{
	take_step(work, relid,
			  template_make("ALTER TABLE %R %s ROW LEVEL SECURITY", what),
			  template_make("ALTER TABLE %R %s ROW LEVEL SECURITY", back));
}

/* What the table's own policies mean beside ours */
static void
tell_of_others(const char *relation, List *policies)
{
	List	   *names = NIL;
	bool		permissive = false;
	ListCell   *lc;

	foreach(lc, policies)
	{
		RlsPolicy  *policy = lfirst(lc);

		if (rls_is_ours(policy))
			continue;
		names = lappend(names, policy->name);
		permissive |= policy->permissive;
	}
	if (names == NIL)
		return;
	if (permissive)
		ereport(WARNING,
				(errmsg("table %s keeps its other policies: %s", relation,
						sql_printable(sql_name_list(names))),
				 errdetail("Nobody in roles sees another tenant through them, since policy " RLS_ISOLATION " is restrictive. Within a tenant permissive policies add up: a row is seen if one of them or " RLS_ACCESS " lets it through."),
				 errhint("If one of them was meant to narrow what is seen, make it anew AS RESTRICTIVE.")));
	else
		ereport(NOTICE,
				(errmsg("table %s keeps its other policies: %s", relation,
						sql_printable(sql_name_list(names))),
				 errdetail("They are restrictive: a row must pass them as well as policy " RLS_ISOLATION ".")));
}

static void
enable_table(RlsWork *work, const RlsArguments *arguments, Oid relid)
{
	char	   *relation = sql_relation(relid);
	List	   *policies = rls_policies(relid);
	List	   *wanted = rls_wanted_policies(arguments, relid);
	bool		enabled;
	bool		forced;
	ListCell   *lc;

	read_flags(relid, &enabled, &forced);
	if (rls_find_policy(wanted, RLS_ADMIN) == NULL)
		drop_policy(work, relid, rls_find_policy(policies, RLS_ADMIN));
	foreach(lc, wanted)
	{
		RlsPolicy  *policy = lfirst(lc);
		RlsPolicy  *old = rls_find_policy(policies, policy->name);

		if (old && rls_same_policy(relid, old, policy))
			continue;
		if (old && rls_can_alter(old, policy))
			take_step(work, relid, rls_alter_text(policy),
					  rls_undo_alter_text(old));
		else
		{
			drop_policy(work, relid, old);
			create_policy(work, relid, policy);
		}
	}
	if (!enabled)
		set_flag(work, relid, "ENABLE", "DISABLE");
	if (arguments->force && !forced)
		set_flag(work, relid, "FORCE", "NO FORCE");
	if (arguments->set_default && !rls_default_holds(arguments, relid))
		take_step(work, relid, rls_default_text(arguments, relid),
				  rls_undo_default_text(arguments, relid));
	if (!arguments->force && forced)
	{
		set_flag(work, relid, "NO FORCE", "FORCE");
		ereport(NOTICE,
				(errmsg("row-level security of %s no longer holds for its owner",
						relation)));
	}
	tell_of_others(relation, policies);
}

static void
disable_table(RlsWork *work, bool keep_policies, Oid relid)
{
	char	   *relation = sql_relation(relid);
	List	   *policies = rls_policies(relid);
	List	   *others = NIL;
	bool		enabled;
	bool		forced;
	ListCell   *lc;

	read_flags(relid, &enabled, &forced);
	if (forced)
		set_flag(work, relid, "NO FORCE", "FORCE");
	if (enabled)
		set_flag(work, relid, "DISABLE", "ENABLE");
	if (!keep_policies)
	{
		drop_policy(work, relid, rls_find_policy(policies, RLS_ACCESS));
		drop_policy(work, relid, rls_find_policy(policies, RLS_ADMIN));
		drop_policy(work, relid, rls_find_policy(policies, RLS_ISOLATION));
	}
	foreach(lc, policies)
		if (!rls_is_ours(lfirst(lc)))
			others = lappend(others, ((RlsPolicy *) lfirst(lc))->name);
	if (enabled && others != NIL)
		ereport(WARNING,
				(errmsg("other policies of table %s no longer take effect: %s",
						relation, sql_printable(sql_name_list(others))),
				 errhint("If they shall, run: ALTER TABLE %s ENABLE ROW LEVEL SECURITY;",
						 relation)));
}

/* --- the functions ---------------------------------------------------- */

Datum
tenantmig_enable_rls(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"relation", "column_name", "setting",
	"roles", "admin_roles", "force", "on_missing", "inline", "set_default"};
	RlsArguments arguments;
	JobRequest	request = {.kind = "enable_rls"};
	RlsWork		work = {0};
	List	   *tree;
	ListCell   *lc;
	int			level;

	for (int i = 0; i < lengthof(names); i++)
		target_require(fcinfo, i, names[i]);
	work.root = PG_GETARG_OID(0);
	arguments.column = target_arg_name(fcinfo, 1);
	arguments.setting = target_arg_text(fcinfo, 2);
	arguments.roles = target_arg_list(fcinfo, 3, "roles");
	arguments.admin_roles = target_arg_list(fcinfo, 4, "admin_roles");
	arguments.force = PG_GETARG_BOOL(5);
	arguments.raise_missing = rls_raises_when_missing(target_arg_text(fcinfo, 6));
	arguments.inlined = PG_GETARG_BOOL(7);
	arguments.set_default = PG_GETARG_BOOL(8);

	target_check_relation(work.root);
	rls_check_arguments(&arguments);
	rls_check_column(&arguments, work.root);
	if (arguments.set_default)
		rls_check_default(&arguments, work.root);

	request.relid = work.root;
	request.arguments = rls_arguments_to_json(&arguments);
	request.describe = psprintf("row-level security of %s",
								sql_relation(work.root));
	work.job = job_reuse(&request);
	if (work.job != 0)
		PG_RETURN_INT64(work.job);

	lock_tree_or_error(work.root, AccessExclusiveLock);
	tree = find_tree(work.root);
	check_tree_owner(work.root, tree);
	work.job = job_record(&request);
	level = rls_pin_search_path();
	foreach(lc, tree)
		enable_table(&work, &arguments, lfirst_oid(lc));
	AtEOXact_GUC(false, level);
	job_record_end(work.job);

	if (work.steps == 0)
		ereport(NOTICE,
				(errmsg("row-level security of %s is as wanted; nothing was changed",
						sql_relation(work.root))));
	rls_warn_without_index(&arguments, work.root);
	warn_of_open_ancestor(work.root);
	PG_RETURN_INT64(work.job);
}

Datum
tenantmig_disable_rls(PG_FUNCTION_ARGS)
{
	JobRequest	request = {.kind = "disable_rls"};
	JsonObject *object = json_begin();
	RlsWork		work = {0};
	bool		keep_policies;
	List	   *tree;
	ListCell   *lc;
	int			level;

	target_require(fcinfo, 0, "relation");
	target_require(fcinfo, 1, "keep_policies");
	work.root = PG_GETARG_OID(0);
	keep_policies = PG_GETARG_BOOL(1);
	target_check_relation(work.root);

	json_put_bool(object, "keep_policies", keep_policies);
	request.relid = work.root;
	request.arguments = json_end(object);
	request.describe = psprintf("row-level security of %s off",
								sql_relation(work.root));
	work.job = job_reuse(&request);
	if (work.job != 0)
		PG_RETURN_INT64(work.job);

	lock_tree_or_error(work.root, AccessExclusiveLock);
	tree = find_tree(work.root);
	check_tree_owner(work.root, tree);
	work.job = job_record(&request);
	level = rls_pin_search_path();
	foreach(lc, tree)
		disable_table(&work, keep_policies, lfirst_oid(lc));
	AtEOXact_GUC(false, level);
	job_record_end(work.job);

	if (work.steps == 0)
		ereport(NOTICE,
				(errmsg("row-level security of %s is off already; nothing was changed",
						sql_relation(work.root))));
	PG_RETURN_INT64(work.job);
}

/* --- whether it still holds ------------------------------------------- */

static bool
table_holds(const RlsArguments *arguments, Oid relid)
{
	List	   *policies = rls_policies(relid);
	List	   *wanted = rls_wanted_policies(arguments, relid);
	bool		enabled;
	bool		forced;
	ListCell   *lc;

	read_flags(relid, &enabled, &forced);
	if (!enabled || forced != arguments->force ||
		(arguments->set_default && !rls_default_holds(arguments, relid)))
		return false;
	if (rls_find_policy(policies, RLS_ADMIN) != NULL &&
		rls_find_policy(wanted, RLS_ADMIN) == NULL)
		return false;
	foreach(lc, wanted)
	{
		RlsPolicy  *policy = lfirst(lc);
		RlsPolicy  *existing = rls_find_policy(policies, policy->name);

		if (existing == NULL || !rls_same_policy(relid, existing, policy))
			return false;
	}
	return true;
}

static bool
enable_holds(const Job *job, Oid relid)
{
	RlsArguments arguments;
	bool		holds = true;
	int			level;
	ListCell   *lc;

	rls_arguments_from_json(job->arguments, &arguments);
	if (!rls_arguments_hold(&arguments, relid))
		return false;
	level = rls_pin_search_path();
	lock_set_timeout(setting_lock_timeout);
	foreach(lc, find_tree(relid))
		holds = holds && table_holds(&arguments, lfirst_oid(lc));
	AtEOXact_GUC(false, level);
	return holds;
}

static bool
disable_holds(const Job *job, Oid relid)
{
	bool		keep_policies = json_bool(job->arguments, "keep_policies", false);
	ListCell   *lc;

	foreach(lc, find_tree(relid))
	{
		bool		enabled;
		bool		forced;
		ListCell   *p;

		read_flags(lfirst_oid(lc), &enabled, &forced);
		if (enabled || forced)
			return false;
		foreach(p, rls_policies(lfirst_oid(lc)))
			if (!keep_policies && rls_is_ours(lfirst(p)))
				return false;
	}
	return true;
}

const StepOps rls_enable_ops = {
	.kind = "enable_rls",
	.holds = enable_holds,
};

const StepOps rls_disable_ops = {
	.kind = "disable_rls",
	.holds = disable_holds,
};
