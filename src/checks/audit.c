/*
 * audit.c
 *		audit_rls: every way round row-level security that the catalogs show.
 *
 * First a model is read: the tables with the tenant column, their policies,
 * the roles that may touch them, and who may do what (audit_model.c).  Then
 * come the checks, by subject.  Those that look at expressions work on the
 * trees of the model; the others are one statement each over all tables, so
 * that the time does not depend on round trips.
 *
 * The statements look at catalogs only and are the extension's own: every role
 * may call the audit, and no code of a user's runs in it.  The one exception
 * is in audit_rows.c, which looks at rows and says there as whom.
 *
 * Expressions are deparsed with the search_path pinned, so that the names in
 * the statements that mend are qualified.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "checks/audit.h"
#include "engine/compat.h"
#include "engine/sqltext.h"
#include "steps/rls.h"
#include "steps/target.h"

PG_FUNCTION_INFO_V1(tenantmig_audit_rls);

/* In the order of the manual, which tells what each is about */
static const char *const checks[] = {
	"no_tenant_table",
	"rls_disabled",
	"owner_bypasses",
	"role_bypasses",
	"view_bypasses",
	"materialized_view", "table_copy",
	"definer_function", "definer_search_path",
	"rule_writes",
	"child_unprotected", "parent_unprotected",
	"privilege_beyond_rls",
	"key_without_tenant",
	"foreign_key_not_paired",
	"rows_cross_tenants", "rows_not_checked", "foreign_key_not_validated",
	"tenant_nullable", "policy_lets_null",
	"permissive_policies",
	"write_unchecked",
	"role_uncovered", "isolation_uncovered",
	"policy_open",
	"setting_function", "setting_preset",
	"tenant_default",
	"leakproof_function",
	"server_version",
	"replication_role", "publication_unfiltered",
	"foreign_table",
	"shared_sequence", "large_objects",
	"setting_per_row", "column_cast",
	"no_tenant_index",
	"foreign_key_without_index",
	"trigger_without_tenant",
};

static const char *const severities[] = {"error", "warning", "info"};

typedef struct Finding
{
	int			check;			/* index in checks */
	AuditSeverity severity;
	char	   *object;
	char	   *role;
	char	   *detail;
	char	   *mend;
	int			rank;			/* of the role: public, then those that things
								 * are granted to, then their members */
	int			position;		/* in which order it was found */
	int			repeated;		/* how many more roles have it */
} Finding;

/* --- findings --------------------------------------------------------- */

static int
check_number(const char *name)
{
	for (int i = 0; i < lengthof(checks); i++)
		if (strcmp(checks[i], name) == 0)
			return i;
	elog(ERROR, "unknown check \"%s\"", name);
}

static int
role_rank(Audit *audit, const char *role)
{
	ListCell   *lc;

	foreach(lc, audit->actors)
		if (role && strcmp(((AuditActor *) lfirst(lc))->name, role) == 0)
			return foreach_current_index(lc);
	return list_length(audit->actors);
}

void
audit_add(Audit *audit, const char *check, AuditSeverity severity,
		  const char *object, const char *role, const char *detail,
		  const char *mend)
{
	MemoryContext old = MemoryContextSwitchTo(audit->context);
	Finding    *finding = palloc0(sizeof(Finding));

	finding->check = check_number(check);
	finding->severity = severity;
	finding->object = sql_printable(object);
	finding->role = role ? pstrdup(role) : NULL;
	finding->detail = detail ? sql_printable(detail) : NULL;
	finding->mend = mend && mend[0] ? pstrdup(mend) : NULL;
	finding->rank = role_rank(audit, role);
	finding->position = list_length(audit->findings);
	audit->findings = lappend(audit->findings, finding);
	MemoryContextSwitchTo(old);
}

static int
compare_texts(const char *a, const char *b)
{
	if (a == NULL || b == NULL)
		return (a != NULL) - (b != NULL);
	return strcmp(a, b);
}

static int
compare_same(const Finding *a, const Finding *b)
{
	int			result = a->severity - b->severity;

	if (result == 0)
		result = a->check - b->check;
	if (result == 0)
		result = compare_texts(a->object, b->object);
	if (result == 0)
		result = compare_texts(a->mend, b->mend);
	return result;
}

static int
compare_findings(const ListCell *x, const ListCell *y)
{
	const Finding *a = lfirst(x);
	const Finding *b = lfirst(y);
	int			result = compare_same(a, b);

	if (result == 0)
		result = a->rank - b->rank;
	return result ? result : a->position - b->position;
}

/* What one statement mends is one row, however many roles it concerns */
static List *
merge_findings(List *findings)
{
	List	   *merged = NIL;
	Finding    *last = NULL;
	ListCell   *lc;

	list_sort(findings, compare_findings);
	foreach(lc, findings)
	{
		Finding    *finding = lfirst(lc);

		if (last && compare_same(last, finding) == 0)
		{
			if (compare_texts(last->role, finding->role) != 0)
				last->repeated++;
			continue;
		}
		merged = lappend(merged, finding);
		last = finding;
	}
	return merged;
}

static void
put_text(Datum *values, bool *nulls, int column, const char *text)
{
	nulls[column] = text == NULL;
	values[column] = text ? CStringGetTextDatum(text) : (Datum) 0;
}

static void
put_finding(ReturnSetInfo *result, const Finding *finding)
{
	Datum		values[6] = {0};
	bool		nulls[6] = {0};
	const char *detail = finding->detail;

	if (finding->repeated > 0)
		detail = psprintf("%s%sThe same is true of %d more %s.",
						  detail ? detail : "", detail ? " " : "",
						  finding->repeated,
						  finding->repeated == 1 ? "role" : "roles");
	put_text(values, nulls, 0, checks[finding->check]);
	put_text(values, nulls, 1, severities[finding->severity]);
	put_text(values, nulls, 2, finding->object);
	nulls[3] = finding->role == NULL;
	if (finding->role)
		values[3] = DirectFunctionCall1(namein, CStringGetDatum(finding->role));
	put_text(values, nulls, 4, detail);
	put_text(values, nulls, 5, finding->mend);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* --- statements ------------------------------------------------------- */

void
audit_bind(Audit *audit, OwnQuery *query, const char *sql)
{
	ListCell   *lc;
	Datum	   *settings;
	int			count = 0;

	settings = palloc(sizeof(Datum) * Max(list_length(audit->settings), 1));
	foreach(lc, audit->settings)
		settings[count++] = CStringGetTextDatum(lfirst(lc));

	query_init(query, sql);
	query_datum(query, OIDARRAYOID, audit->relids, false);
	query_datum(query, INT2ARRAYOID, audit->attnums, false);
	query_datum(query, OIDARRAYOID, audit->roles, false);
	query_datum(query, OIDARRAYOID, audit->grantees, false);
	query_datum(query, TEXTARRAYOID,
				PointerGetDatum(construct_array(settings, count, TEXTOID, -1,
												false, TYPALIGN_INT)), false);
	query_name(query, audit->role_name);
	query_datum(query, OIDARRAYOID, audit->subjects, false);
	query_datum(query, OIDARRAYOID, audit->open_owners, false);
	query_datum(query, OIDARRAYOID, audit->open_relids, false);
	query_datum(query, BOOLARRAYOID, audit->open_in_views, false);
}

static AuditSeverity
severity_number(const char *name)
{
	for (int i = 0; i < lengthof(severities); i++)
		if (strcmp(severities[i], name) == 0)
			return (AuditSeverity) i;
	elog(ERROR, "unknown severity \"%s\"", name);
}

void
audit_query(Audit *audit, const char *sql)
{
	OwnQuery	query;
	uint64		count;

	CHECK_FOR_INTERRUPTS();
	audit_bind(audit, &query, sql);
	SPI_connect();
	count = query_run(&query);
	for (uint64 i = 0; i < count; i++)
		audit_add(audit, query_get_text(i, 1),
				  severity_number(query_get_text(i, 2)), query_get_text(i, 3),
				  query_get_text(i, 4), query_get_text(i, 5),
				  query_get_text(i, 6));
	SPI_finish();
}

/* --- the call --------------------------------------------------------- */

static void
check_schemas(List *schemas)
{
	ListCell   *lc;

	if (schemas == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("schemas must not be empty"),
				 errhint("Name schemas, or leave it out to look at all.")));
	foreach(lc, schemas)
		if (!OidIsValid(get_namespace_oid(lfirst(lc), true)))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_SCHEMA),
					 errmsg("schema \"%s\" does not exist",
							sql_printable(lfirst(lc)))));
}

static void
check_setting(const char *setting)
{
	RlsArguments arguments = {0};

	arguments.setting = pstrdup(setting);
	arguments.roles = list_make1("public");
	rls_check_arguments(&arguments);
}

static void
read_arguments(FunctionCallInfo fcinfo, Audit *audit)
{
	audit->role_name = target_arg_name(fcinfo, 0);
	if (audit->role_name && strcmp(audit->role_name, "public") != 0 &&
		!OidIsValid(get_role_oid(audit->role_name, true)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\" does not exist",
						sql_printable(audit->role_name)),
				 errhint("Name the role that the application connects as, or leave it out to look at all; upper and lower case are told apart.")));
	audit->all_schemas = PG_ARGISNULL(1);
	if (!audit->all_schemas)
	{
		audit->schemas = target_arg_list(fcinfo, 1, "schemas");
		check_schemas(audit->schemas);
	}
	target_require(fcinfo, 2, "column_name");
	audit->column = target_arg_name(fcinfo, 2);
	target_require(fcinfo, 3, "setting");
	audit->setting = target_arg_text(fcinfo, 3);
	check_setting(audit->setting);
	audit->max_rows = PG_ARGISNULL(4) ? -1 : PG_GETARG_INT64(4);
	if (!PG_ARGISNULL(4) && audit->max_rows < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_rows must not be negative"),
				 errhint("Give 0 to look at no rows, or NULL to look at all.")));
}

Datum
tenantmig_audit_rls(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Audit		audit = {0};
	int			guc_level;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	audit.context = CurrentMemoryContext;
	read_arguments(fcinfo, &audit);

	/* With many roles the estimates are high enough for JIT, and all wrong */
	guc_level = rls_pin_search_path();
	(void) set_config_option("jit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	audit_read_model(&audit);
	audit_check_tables(&audit);
	audit_check_roles(&audit);
	audit_check_views(&audit);
	audit_check_policies(&audit);
	audit_check_keys(&audit);
	audit_check_rows(&audit);
	audit_check_indexes(&audit);
	audit_check_code(&audit);
	audit_check_server(&audit);
	AtEOXact_GUC(false, guc_level);

	foreach(lc, merge_findings(audit.findings))
		put_finding(result, lfirst(lc));
	return (Datum) 0;
}
