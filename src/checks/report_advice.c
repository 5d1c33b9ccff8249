/*
 * report_advice.c
 *		The recommendations of the report: what to run next.
 *
 * First what the jobs need (start, resume, retry), then what their tables
 * still lack (a value, NOT NULL, an index, row-level security), asked of the
 * catalogs, and last the way back.  The same advice for many tables is one
 * text with many statements.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "checks/report.h"
#include "engine/compat.h"
#include "engine/json.h"
#include "engine/sqltext.h"

#define UNDO_MOST 10			/* statements of the way back in a report of all jobs */

/*
 * A literal that can be shown and pasted: control characters are written as
 * escapes, where sql_literal() would leave them as they are.
 */
static char *
printable_literal(const char *text)
{
	StringInfoData buf;
	bool		plain = true;

	for (const char *p = text; *p; p++)
		if ((unsigned char) *p < 0x20 || *p == 0x7f)
			plain = false;
	if (plain)
		return sql_literal(text);
	initStringInfo(&buf);
	appendStringInfoString(&buf, "E'");
	for (const char *p = text; *p; p++)
	{
		if ((unsigned char) *p < 0x20 || *p == 0x7f)
			appendStringInfo(&buf, "\\x%02x", (unsigned char) *p);
		else if (*p == '\'' || *p == '\\')
			appendStringInfo(&buf, "%c%c", *p, *p);
		else
			appendStringInfoChar(&buf, *p);
	}
	appendStringInfoChar(&buf, '\'');
	return buf.data;
}

static void
advise(List **all, const char *text, char *statement)
{
	ReportAdvice *advice = NULL;
	ListCell   *lc;

	foreach(lc, *all)
		if (strcmp(((ReportAdvice *) lfirst(lc))->text, text) == 0)
			advice = lfirst(lc);
	if (advice == NULL)
	{
		advice = palloc0(sizeof(ReportAdvice));
		advice->text = text;
		*all = lappend(*all, advice);
	}
	if (statement)
		advice->statements = lappend(advice->statements, statement);
}

static bool
in_state(const ReportJob *job, const char *state)
{
	return strcmp(job->state, state) == 0;
}

/* SELECT tenantmig.<function>(<job>); */
static char *
job_call(const char *function, int64 job)
{
	return psprintf("SELECT tenantmig.%s(" INT64_FORMAT ");", function, job);
}

static char *
wait_call(int64 job)
{
	return psprintf("CALL tenantmig.wait(" INT64_FORMAT ");", job);
}

static char *
errors_query(int64 job)
{
	return psprintf("SELECT * FROM tenantmig.job_errors WHERE job = " INT64_FORMAT ";",
					job);
}

static void
advise_on_state(List **all, const ReportJob *job)
{
	bool		can_undo = json_bool(job->facts, "can_undo", false);

	if (in_state(job, "planned"))
	{
		if (json_int(job->plan, "rows_unresolved", 0) > 0)
			advise(all, "Rows without a value would stay as they are: give them one first, or say what to do with them by the option on_orphan.",
				   NULL);
		advise(all, "Run what was planned.", job_call("start", job->id));
	}
	else if (in_state(job, "queued") || in_state(job, "running"))
		advise(all, "Wait for the end.", wait_call(job->id));
	else if (in_state(job, "paused") && json_bool(job->facts, "restored", false))
		advise(all, "It came from another database or cluster: see that it is wanted here, then go on.",
			   job_call("resume", job->id));
	else if (in_state(job, "paused"))
		advise(all, "Go on with what is paused.", job_call("resume", job->id));
	else if (in_state(job, "failed"))
	{
		if (job->rows_failed > 0)
			advise(all, "Look at the rows that failed.", errors_query(job->id));
		advise(all, "Mend the cause of the error, then queue the job again; what is done already is not done twice.",
			   job_call("retry", job->id));
		if (can_undo)
			advise(all, "Or take back what was done before the error.",
				   job_call("undo", job->id));
	}
	else if (in_state(job, "cancelled") && can_undo)
		advise(all, "Take back what was done before it was cancelled.",
			   job_call("undo", job->id));
	else if (in_state(job, "cancelled"))
		advise(all, "Queue what was cancelled again, if it is wanted after all.",
			   job_call("retry", job->id));
}

static bool
is_open(const ReportJob *job, const char *kind)
{
	ListCell   *lc;

	foreach(lc, json_list(job->facts, "open_kinds"))
		if (strcmp(lfirst(lc), kind) == 0)
			return true;
	return false;
}

/* What there is to know about the table of a completed job */
typedef struct TableNeeds
{
	const ReportJob *job;
	char	   *relation;		/* literals */
	char	   *column;
	bool		filled;
	bool		not_null;
} TableNeeds;

static void
advise_to_fill(List **all, const TableNeeds *needs)
{
	const ReportJob *job = needs->job;
	char	   *via = json_text(job->facts, "via");

	if (json_int(job->summary, "residue", 0) > 0)
		advise(all, "Rows are still without a value: see which and why, mend them, and call the function again.",
			   job->rows_failed > 0 ? errors_query(job->id) : NULL);
	else if (needs->filled || is_open(job, "backfill"))
		return;
	else if (via)
		advise(all, "Give the rows their tenant: through the foreign key, as here, or from a value or an expression.",
			   psprintf("SELECT tenantmig.backfill(%s, %s, via => %s);",
						needs->relation, needs->column, printable_literal(via)));
	else
		advise(all, "Give the rows their tenant: a constant, with the name of yours in place of 'default', or an expression.",
			   psprintf("SELECT tenantmig.backfill(%s, %s, value => 'default');",
						needs->relation, needs->column));
}

static void
advise_not_null(List **all, const TableNeeds *needs)
{
	if (needs->filled && !needs->not_null && !is_open(needs->job, "set_not_null"))
		advise(all, "Make the column NOT NULL, so that no row comes without a tenant.",
			   psprintf("SELECT tenantmig.set_not_null(%s, %s);",
						needs->relation, needs->column));
}

static void
advise_index(List **all, const TableNeeds *needs)
{
	if (!json_bool(needs->job->facts, "indexed", false) &&
		!is_open(needs->job, "create_index"))
		advise(all, "Create an index that leads with the column, for queries of one tenant.",
			   psprintf("SELECT tenantmig.create_index(%s, ARRAY[%s]);",
						needs->relation,
						printable_literal(quote_identifier(needs->job->column))));
}

static void
advise_rls(List **all, const TableNeeds *needs)
{
	if (needs->filled && !json_bool(needs->job->facts, "rls", false) &&
		!is_open(needs->job, "enable_rls") &&
		strcmp(needs->job->kind, "disable_rls") != 0)
		advise(all, "Isolate the tenants by row-level security, once the application sets its tenant.",
			   psprintf("SELECT tenantmig.enable_rls(%s, %s);",
						needs->relation, needs->column));
}

/* Whether a later job among them tells the same about the same column */
static bool
told_later(List *jobs, int position)
{
	const ReportJob *job = list_nth(jobs, position);

	for (int i = position + 1; i < list_length(jobs); i++)
	{
		const ReportJob *later = list_nth(jobs, i);

		if (later->stands && in_state(later, "succeeded") &&
			later->relation && later->column &&
			strcmp(job->relation, later->relation) == 0 &&
			strcmp(job->column, later->column) == 0)
			return true;
	}
	return false;
}

/* The tables of completed jobs, each column once */
static List *
find_tables(List *jobs)
{
	List	   *tables = NIL;

	for (int i = 0; i < list_length(jobs); i++)
	{
		const ReportJob *job = list_nth(jobs, i);
		TableNeeds *needs;

		CHECK_FOR_INTERRUPTS();
		if (!job->stands || !in_state(job, "succeeded") ||
			job->relation == NULL || job->column == NULL ||
			!json_bool(job->facts, "column_exists", false) ||
			told_later(jobs, i))
			continue;
		needs = palloc0(sizeof(TableNeeds));
		needs->job = job;
		needs->relation = printable_literal(job->relation);
		needs->column = printable_literal(job->column);
		needs->not_null = json_bool(job->facts, "not_null", false);
		needs->filled = needs->not_null ||
			json_bool(job->facts, "filled", false);
		tables = lappend(tables, needs);
	}
	return tables;
}

/* In the order in which it is best done */
static void
advise_on_tables(List **all, List *jobs)
{
	static void (*const advisers[]) (List **, const TableNeeds *) = {
		advise_to_fill, advise_not_null, advise_index, advise_rls,
	};
	List	   *tables = find_tables(jobs);
	ListCell   *lc;

	for (int i = 0; i < lengthof(advisers); i++)
		foreach(lc, tables)
			advisers[i] (all, lfirst(lc));
}

static bool
can_be_undone(const ReportJob *job)
{
	return job->stands && in_state(job, "succeeded") &&
		strcmp(job->kind, "undo") != 0 &&
		json_bool(job->facts, "can_undo", false);
}

static void
advise_to_undo_one(List **all, const ReportJob *job)
{
	List	   *later = document_items(job->facts, "later_jobs");
	ReportAdvice *advice;
	ListCell   *lc;

	if (!can_be_undone(job))
		return;
	if (later == NIL)
	{
		advise(all, "To take it back:", job_call("undo", job->id));
		return;
	}
	advice = palloc0(sizeof(ReportAdvice));
	advice->text = "To take it back, undo what was built on it first, each when the one before has ended:";
	foreach(lc, later)
		advice->statements = lappend(advice->statements,
									 job_call("undo", json_int(lfirst(lc), "job", 0)));
	advice->statements = lappend(advice->statements, job_call("undo", job->id));
	*all = lappend(*all, advice);
}

static void
advise_to_undo_all(List **all, List *jobs)
{
	List	   *statements = NIL;
	int			more = 0;
	ReportAdvice *advice;

	for (int i = list_length(jobs) - 1; i >= 0; i--)
	{
		const ReportJob *job = list_nth(jobs, i);

		if (!can_be_undone(job))
			continue;
		if (list_length(statements) < UNDO_MOST)
			statements = lappend(statements, job_call("undo", job->id));
		else
			more++;
	}
	if (statements == NIL)
		return;
	advice = palloc0(sizeof(ReportAdvice));
	advice->statements = statements;
	advice->text = "To take everything back, undo one job after the other, the last one first, each when the one before has ended:";
	if (more > 0)
		advice->text = psprintf("%s (%d more are not listed)", advice->text, more);
	*all = lappend(*all, advice);
}

List *
report_advice(List *jobs, bool single)
{
	List	   *all = NIL;
	ListCell   *lc;

	foreach(lc, jobs)
	{
		const ReportJob *job = lfirst(lc);

		if (job->stands)
			advise_on_state(&all, job);
	}
	advise_on_tables(&all, jobs);
	if (single)
		advise_to_undo_one(&all, linitial(jobs));
	else
		advise_to_undo_all(&all, jobs);
	return all;
}
