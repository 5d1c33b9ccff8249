/*
 * report_findings.c
 *		The warnings and errors of the report.
 *
 * Warnings are those that a job put down itself, and what its counts and its
 * course give reason to say.  Errors are the one that a job ended with, and
 * those of single rows and attempts, grouped, with examples.
 */
#include "postgres.h"

#include "checks/report.h"
#include "engine/compat.h"
#include "engine/json.h"

#define ERRORS_MOST 100			/* groups in one report */

/* --- warnings -------------------------------------------------------- */

/* "1 row", "2 rows" */
static char *
rows_text(int64 rows)
{
	return psprintf(INT64_FORMAT " row%s", rows, rows == 1 ? "" : "s");
}

static List *
warn_about_rows(List *warnings, const ReportJob *job)
{
	int64		assigned = json_int(job->summary, "rows_assigned", 0);
	int64		residue = json_int(job->summary, "residue", -1);
	char	   *reason = json_text(job->summary, "residue_reason");
	int64		conflicting = json_int(job->summary, "rows_conflicting", 0);
	char	   *on_conflict = json_text(job->summary, "on_conflict");

	if (on_conflict == NULL)
		on_conflict = "leave";

	if (!report_has_status(job, "completed") && !report_has_status(job, "failed"))
		residue = -1;			/* of an earlier attempt */
	if (reason == NULL && json_int(job->summary, "orphans", 0) > 0)
		reason = "their source gives none";
	if (assigned > 0)
		warnings = lappend(warnings,
						   psprintf("%s had no value to take from the source and got orphan_value.",
									rows_text(assigned)));
	if (!report_has_status(job, "planned") && conflicting > 0)
		warnings = lappend(warnings,
						   psprintf("%s had another value than the source gives%s.",
									rows_text(conflicting),
									strcmp(on_conflict, "leave") == 0 ? " and kept it"
									: strcmp(on_conflict, "overwrite") == 0
									? ", which is lost; there is no undo" : ""));
	if (residue > 0)
		warnings = lappend(warnings,
						   psprintf("Still without a value: %s%s%s.",
									rows_text(residue), reason ? "; " : "",
									reason ? reason : ""));
	if (residue == 0 && job->rows_failed > 0)
		warnings = lappend(warnings,
						   psprintf("%s raised errors at some time; the final full scan found no row without a value.",
									rows_text(job->rows_failed)));
	return warnings;
}

static List *
warn_about_course(List *warnings, const ReportJob *job)
{
	char	   *trigger = json_text(job->summary, "trigger");
	int64		attempts = json_int(job->facts, "attempts", 0);
	char	   *resting = json_text(job->facts, "throttle_reason");

	if (trigger && strcmp(trigger, "kept") == 0)
		warnings = lappend(warnings,
						   "The trigger that gives new rows their tenant was kept.");
	if (attempts > 1)
		warnings = lappend(warnings,
						   psprintf("It took " INT64_FORMAT " attempts.", attempts));
	if (resting && report_has_status(job, "in progress"))
		warnings = lappend(warnings, psprintf("It rests: %s.", resting));
	if (json_bool(job->facts, "restored", false) && report_has_status(job, "paused"))
		warnings = lappend(warnings,
						   "It was recorded in another database or cluster, and was restored or copied to this one.");
	if (job->undone_by != 0)
		warnings = lappend(warnings,
						   psprintf("What it did was undone by job " INT64_FORMAT ".",
									job->undone_by));
	return warnings;
}

void
report_put_warnings(Document *document, List *jobs, bool single)
{
	ListCell   *lc;

	document_array(document, "warnings");
	foreach(lc, jobs)
	{
		const ReportJob *job = lfirst(lc);
		List	   *warnings;
		ListCell   *wc;

		if (!single && !job->stands)
			continue;
		warnings = json_list(report_has_status(job, "planned") ? job->plan
							 : job->summary, "warnings");
		warnings = warn_about_rows(warnings, job);
		warnings = warn_about_course(warnings, job);
		foreach(wc, warnings)
		{
			document_object(document, NULL);
			document_count(document, "job", job->id);
			document_text(document, "relation", job->relation);
			document_text(document, "text", lfirst(wc));
			document_end_object(document);
		}
	}
	document_end_array(document);
}

/* --- errors ---------------------------------------------------------- */

/* The error that a job ended with */
static void
put_fatal_error(Document *document, const ReportJob *job)
{
	Jsonb	   *facts = job->facts;

	document_object(document, NULL);
	document_count(document, "job", job->id);
	document_text(document, "relation", job->relation);
	document_text(document, "sqlstate", json_text(facts, "sqlstate"));
	document_text(document, "message", json_text(facts, "error"));
	document_text(document, "detail", json_text(facts, "error_detail"));
	document_text(document, "hint", json_text(facts, "error_hint"));
	document_text(document, "of", "job");
	document_end_object(document);
}

/* Errors of rows have keys, those of attempts at the whole have none */
static bool
is_of_rows(Jsonb *error)
{
	Jsonb	   *examples = document_get(error, "examples");

	return examples && JB_ROOT_COUNT(examples) > 0;
}

static void
put_row_error(Document *document, const ReportJob *job, Jsonb *error)
{
	document_object(document, NULL);
	document_count(document, "job", job->id);
	document_text(document, "relation", json_text(error, "relation"));
	document_text(document, "sqlstate", json_text(error, "sqlstate"));
	document_text(document, "message", json_text(error, "message"));
	document_count(document, "count", json_int(error, "count", 0));
	document_part(document, "examples", document_get(error, "examples"));
	document_text(document, "of", is_of_rows(error) ? "rows" : "attempt");
	document_end_object(document);
}

/* The attempt that the job ended with is told already */
static bool
is_fatal_again(const ReportJob *job, Jsonb *error)
{
	char	   *fatal = json_text(job->facts, "error");

	return report_has_status(job, "failed") && fatal && !is_of_rows(error) &&
		strcmp(fatal, json_text(error, "message")) == 0;
}

/* Kinds of errors beyond the limits are counted in errors_left_out */
void
report_put_errors(Document *document, List *jobs, bool single)
{
	int64		written = 0;
	int64		left_out = 0;
	ListCell   *lc;
	ListCell   *ec;

	document_array(document, "errors");
	foreach(lc, jobs)
	{
		const ReportJob *job = lfirst(lc);

		if (!single && !job->stands)
			continue;
		if (report_has_status(job, "failed"))
			put_fatal_error(document, job);
		left_out += json_int(job->facts, "error_groups", 0);
		foreach(ec, document_items(job->facts, "errors"))
		{
			bool		again = is_fatal_again(job, lfirst(ec));

			if (!again && ++written > ERRORS_MOST)
				continue;
			if (!again)
				put_row_error(document, job, lfirst(ec));
			left_out--;
		}
	}
	document_end_array(document);
	document_count(document, "errors_left_out", left_out);
}
