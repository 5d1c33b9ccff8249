/*
 * report_render.c
 *		The document of the report as text or HTML.
 *
 * One walk over the document calls the few operations of a sheet (section,
 * fact, item, ...), which exist once for text (report_text.c) and once for
 * HTML (report_html.c).  Names and messages are made printable here; how a
 * sheet escapes what is left is its own business.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "checks/sheet.h"
#include "checks/report.h"
#include "engine/compat.h"
#include "engine/json.h"
#include "engine/sqltext.h"

/* --- values ---------------------------------------------------------- */

/* A text of the document, printable; NULL when it is missing */
static char *
get(Jsonb *object, const char *key)
{
	char	   *text = json_text(object, key);

	return text ? sql_printable(text) : NULL;
}

/* "12 ms", "5.23 s", "12 min 5 s", "3 h 12 min", "2 d 3 h" */
static char *
duration(int64 ms)
{
	int64		s = ms / 1000;

	if (ms < 0)
		return NULL;
	if (ms < 1000)
		return psprintf(INT64_FORMAT " ms", ms);
	if (s < 60)
		return psprintf("%.2f s", ms / 1000.0);
	if (s < 3600)
		return psprintf(INT64_FORMAT " min " INT64_FORMAT " s", s / 60, s % 60);
	if (s < 86400)
		return psprintf(INT64_FORMAT " h " INT64_FORMAT " min", s / 3600,
						s % 3600 / 60);
	return psprintf(INT64_FORMAT " d " INT64_FORMAT " h", s / 86400,
					s % 86400 / 3600);
}

static char *
get_duration(Jsonb *object)
{
	return duration(json_int(object, "elapsed_ms", -1));
}

static char *
size(int64 bytes)
{
	return text_to_cstring(DatumGetTextPP(DirectFunctionCall1(pg_size_pretty,
															  Int64GetDatum(bytes))));
}

/* A time of the document, to the second */
static char *
get_time(Jsonb *object, const char *key)
{
	char	   *text = json_text(object, key);
	char	   *point;
	char	   *zone;

	if (text == NULL)
		return NULL;
	if (strchr(text, 'T'))
		*strchr(text, 'T') = ' ';
	point = strchr(text, '.');
	if (point == NULL)
		return text;
	zone = point + 1 + strspn(point + 1, "0123456789");
	*point = '\0';
	return psprintf("%s%s", text, zone);
}

static char *
count_text(Jsonb *object, const char *key)
{
	int64		count = json_int(object, key, -1);

	return count < 0 ? pstrdup("not known")
		: psprintf(INT64_FORMAT, count);
}

/* "a, b, c" of what is not NULL or empty */
static char *
join(char *a, char *b, char *c)
{
	StringInfoData buf;
	char	   *parts[] = {a, b, c};

	initStringInfo(&buf);
	for (int i = 0; i < lengthof(parts); i++)
		if (parts[i] && parts[i][0])
			appendStringInfo(&buf, "%s%s", buf.len > 0 ? ", " : "", parts[i]);
	return buf.data;
}

static void
put_fact(Sheet *sheet, const char *label, const char *value)
{
	if (value)
		sheet->ops->fact(sheet, label, value);
}

/* --- facts that jobs put down ---------------------------------------- */

static bool
ends_in(const char *text, const char *end)
{
	size_t		len = strlen(text);
	size_t		end_len = strlen(end);

	return len > end_len && strcmp(text + len - end_len, end) == 0;
}

/* rows_unresolved: "Rows unresolved"; the unit at the end goes to the value */
static char *
fact_label(const char *key)
{
	char	   *label = sql_printable(key);

	if (strcmp(key, "elapsed_ms") == 0)
		return pstrdup("At work");
	if (strcmp(key, "estimated_ms") == 0)
		return pstrdup("Estimated time");
	if (ends_in(label, "_ms"))
		label[strlen(label) - strlen("_ms")] = '\0';
	else if (ends_in(label, "_bytes"))
		label[strlen(label) - strlen("_bytes")] = '\0';
	for (char *p = label; *p; p++)
		if (*p == '_')
			*p = ' ';
	label[0] = pg_toupper((unsigned char) label[0]);
	return psprintf("%s", strncmp(label, "Estimated wal", 13) == 0
					? "Estimated WAL" : label);
}

static void
put_recorded_fact(Sheet *sheet, Jsonb *facts, const char *key)
{
	int64		number = json_int(facts, key, -1);
	char	   *value;

	if (number >= 0 && ends_in(key, "_ms"))
		value = duration(number);
	else if (number >= 0 && ends_in(key, "_bytes"))
		value = size(number);
	else
		value = get(facts, key);
	put_fact(sheet, fact_label(key), value);
}

/* Those that everybody looks for come first, then all others */
static void
put_recorded_facts(Sheet *sheet, Jsonb *facts)
{
	static const char *const first[] = {"source", "method"};
	ListCell   *lc;

	for (int i = 0; i < lengthof(first); i++)
		put_recorded_fact(sheet, facts, first[i]);
	foreach(lc, json_keys(facts))
	{
		bool		done = false;

		for (int i = 0; i < lengthof(first); i++)
			if (strcmp(lfirst(lc), first[i]) == 0)
				done = true;
		if (!done)
			put_recorded_fact(sheet, facts, lfirst(lc));
	}
}

/* --- sections -------------------------------------------------------- */

static char *
title(Jsonb *document)
{
	Jsonb	   *summary = document_get(document, "summary");
	char	   *relation = get(summary, "relation");

	if (json_text(summary, "job") == NULL)
		return psprintf("tenantmig: all jobs in database %s",
						get(document, "database"));
	return psprintf("tenantmig: job %s, %s%s%s", json_text(summary, "job"),
					get(summary, "kind"), relation ? " of " : "",
					relation ? relation : "");
}

static void
put_job_facts(Sheet *sheet, Jsonb *summary)
{
	put_fact(sheet, "Job", join(json_text(summary, "job"), get(summary, "kind"),
							   NULL));
	put_fact(sheet, "Relation", get(summary, "relation"));
	put_fact(sheet, "Column", get(summary, "column"));
	put_fact(sheet, "Undo of job", json_text(summary, "undo_of"));
	put_fact(sheet, "Undone by job", json_text(summary, "undone_by"));
	put_fact(sheet, "Owner", get(summary, "owner"));
	put_fact(sheet, "State", get(summary, "state"));
	put_fact(sheet, "Phase", get(summary, "phase"));
	put_fact(sheet, "Attempts", json_text(summary, "attempts"));
	put_recorded_facts(sheet, document_get(summary, "facts"));
	put_fact(sheet, "Next action",
			 json_text(summary, "next_action")
			 ? get(summary, "next_action") : "none");
}

static void
put_jobs_by_status(Sheet *sheet, Jsonb *summary)
{
	Jsonb	   *counts = document_get(summary, "jobs_by_status");
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, json_keys(counts))
		appendStringInfo(&buf, "%s%s %s", buf.len > 0 ? ", " : " (",
						 json_text(counts, lfirst(lc)), (char *) lfirst(lc));
	put_fact(sheet, "Jobs", psprintf("%s%s%s", json_text(summary, "jobs"),
									 buf.data, buf.len > 0 ? ")" : ""));
}

static void
put_summary(Sheet *sheet, Jsonb *document)
{
	Jsonb	   *summary = document_get(document, "summary");

	sheet->ops->section(sheet, "Summary");
	put_fact(sheet, "Status", get(summary, "status"));
	put_fact(sheet, "Execution time", get_duration(summary));
	put_fact(sheet, "Started", get_time(summary, "started"));
	put_fact(sheet, "Completed", get_time(summary, "completed"));
	if (json_text(summary, "job"))
		put_job_facts(sheet, summary);
	else
		put_jobs_by_status(sheet, summary);
}

static void
put_plan(Sheet *sheet, Jsonb *document)
{
	Jsonb	   *plan = document_get(document, "plan");
	List	   *examples;
	ListCell   *lc;
	int			number = 0;

	if (plan == NULL)
		return;
	sheet->ops->section(sheet, "Plan (nothing was changed)");
	put_recorded_facts(sheet, document_get(plan, "facts"));
	examples = json_list(plan, "unresolved_examples");
	foreach(lc, examples)
		put_fact(sheet, lc == list_head(examples) ? "Unresolved keys" : "",
				 sql_printable(lfirst(lc)));
	examples = json_list(plan, "conflict_examples");
	foreach(lc, examples)
		put_fact(sheet, lc == list_head(examples) ? "Conflicts" : "",
				 sql_printable(lfirst(lc)));
	examples = json_list(plan, "locks");
	foreach(lc, examples)
		put_fact(sheet, lc == list_head(examples) ? "Locks" : "", lfirst(lc));
	foreach(lc, document_items(plan, "statements"))
	{
		Jsonb	   *step = lfirst(lc);
		char	   *lock = get(step, "lock");
		char	   *relation = get(step, "relation");

		sheet->ops->item(sheet, ++number, NULL);
		sheet->ops->code(sheet, get(step, "statement"));
		if (lock)
			sheet->ops->note(sheet, psprintf("lock: %s%s%s", lock,
										   relation ? " on " : "",
										   relation ? relation : ""));
	}
}

static void
put_records(Sheet *sheet, Jsonb *document)
{
	Jsonb	   *records = document_get(document, "records");
	char	   *left;

	sheet->ops->section(sheet, "Records");
	if (!json_bool(records, "counted", false))
	{
		sheet->ops->nothing(sheet, "No rows were to be changed.");
		return;
	}
	left = count_text(records, "left");
	if (json_bool(records, "left_counted_by_full_scan", false))
		left = psprintf("%s (counted by a final full scan)", left);
	put_fact(sheet, "Total", count_text(records, "total"));
	put_fact(sheet, "Changed", count_text(records, "changed"));
	put_fact(sheet, "Left", left);
	put_fact(sheet, "Failed", count_text(records, "failed"));
	if (json_int(records, "already_set", -1) >= 0)
		put_fact(sheet, "Set before", count_text(records, "already_set"));
	if (json_int(records, "orphans_assigned", 0) > 0)
		put_fact(sheet, "Assigned",
				 psprintf("%s (orphans that got orphan_value)",
						  count_text(records, "orphans_assigned")));
}

/* A step of one job */
static void
put_step(Sheet *sheet, Jsonb *document, Jsonb *step, int number)
{
	char	   *state = get(step, "state");
	char	   *lock = get(step, "lock");

	if (strcmp(state, "undone") == 0 && json_bool(step, "temporary", false))
		state = "done, and taken back at the end";
	else if (strcmp(state, "running") == 0 &&
			 strcmp(json_text(document_get(document, "summary"), "state"), "running") != 0)
		state = "begun, not ended";
	sheet->ops->item(sheet, number, NULL);
	sheet->ops->code(sheet, get(step, "statement"));
	sheet->ops->note(sheet, join(state, get_duration(step),
							   lock ? psprintf("lock %s", lock) : NULL));
}

/* A table of all jobs */
static void
put_table(Sheet *sheet, Jsonb *table, int number)
{
	char	   *relation = get(table, "relation");
	ListCell   *lc;

	sheet->ops->item(sheet, number,
					psprintf("%s: %s", relation ? relation : "no relation",
							 join(get(table, "status"), get_duration(table),
								  NULL)));
	if (json_int(table, "changed", -1) >= 0)
		sheet->ops->note(sheet,
						psprintf("rows: total %s, changed %s, left %s, failed %s",
								 count_text(table, "total"),
								 count_text(table, "changed"),
								 count_text(table, "left"),
								 count_text(table, "failed")));
	foreach(lc, document_items(table, "jobs"))
	{
		Jsonb	   *job = lfirst(lc);
		char	   *undone_by = json_text(job, "undone_by");
		char	   *again = json_text(job, "called_again_as");
		char	   *fate = undone_by ? psprintf("by job %s", undone_by)
			: again ? psprintf("called again as job %s", again) : NULL;

		sheet->ops->note(sheet,
						psprintf("job %s, %s: %s", json_text(job, "job"),
								 get(job, "kind"),
								 join(get(job, "status"), fate,
									  get_duration(job))));
	}
}

static void
put_components(Sheet *sheet, Jsonb *document)
{
	bool		single = strcmp(json_text(document, "report"), "job") == 0;
	List	   *components = document_items(document, "components");
	ListCell   *lc;
	int			number = 0;

	sheet->ops->section(sheet, "By component");
	if (components == NIL)
		sheet->ops->nothing(sheet, single ? "No step was taken."
						   : "There are no jobs.");
	foreach(lc, components)
	{
		if (single)
			put_step(sheet, document, lfirst(lc), ++number);
		else
			put_table(sheet, lfirst(lc), ++number);
	}
}

/* In a report about all jobs: whose warning or error it is */
static char *
whose(Jsonb *document, Jsonb *finding)
{
	char	   *relation = get(finding, "relation");

	if (strcmp(json_text(document, "report"), "job") == 0)
		return "";
	return psprintf("job %s%s%s: ", json_text(finding, "job"),
					relation ? ", " : "", relation ? relation : "");
}

static void
put_warnings(Sheet *sheet, Jsonb *document)
{
	List	   *warnings = document_items(document, "warnings");
	ListCell   *lc;
	int			number = 0;

	sheet->ops->section(sheet, "Warnings");
	if (warnings == NIL)
		sheet->ops->nothing(sheet, "None.");
	foreach(lc, warnings)
		sheet->ops->item(sheet, ++number,
						psprintf("%s%s", whose(document, lfirst(lc)),
								 get(lfirst(lc), "text")));
}

static void
put_error(Sheet *sheet, Jsonb *document, Jsonb *error, int number)
{
	char	   *of = json_text(error, "of");
	int64		count = json_int(error, "count", 0);
	Jsonb	   *examples = document_get(error, "examples");
	char	   *relation = get(error, "relation");

	sheet->ops->item(sheet, number,
					psprintf("%s[%s] %s%s", whose(document, error),
							 get(error, "sqlstate"), get(error, "message"),
							 strcmp(of, "job") == 0 ? " (the job ended with it)"
							 : strcmp(of, "attempt") == 0 ? " (an attempt ended with it)"
							 : count > 1 ? psprintf(" (" INT64_FORMAT " times)", count)
							 : ""));
	if (json_text(error, "detail"))
		sheet->ops->note(sheet, psprintf("detail: %s", get(error, "detail")));
	if (json_text(error, "hint"))
		sheet->ops->note(sheet, psprintf("hint: %s", get(error, "hint")));
	if (examples && JB_ROOT_COUNT(examples) > 0)
		sheet->ops->note(sheet,
						psprintf("%s%skeys such as %s", relation ? relation : "",
								 relation ? ", " : "",
								 sql_printable(JsonbToCString(NULL, &examples->root,
															  VARSIZE(examples)))));
}

static void
put_errors(Sheet *sheet, Jsonb *document)
{
	List	   *errors = document_items(document, "errors");
	int64		left_out = json_int(document, "errors_left_out", 0);
	ListCell   *lc;
	int			number = 0;

	sheet->ops->section(sheet, "Errors");
	if (errors == NIL)
		sheet->ops->nothing(sheet, "None.");
	foreach(lc, errors)
		put_error(sheet, document, lfirst(lc), ++number);
	if (left_out > 0)
		sheet->ops->nothing(sheet,
						   psprintf(INT64_FORMAT " more kinds of errors are in tenantmig.job_errors.",
									left_out));
}

static void
put_recommendations(Sheet *sheet, Jsonb *document)
{
	List	   *recommendations = document_items(document, "recommendations");
	ListCell   *lc;
	ListCell   *sc;
	int			number = 0;

	sheet->ops->section(sheet, "Recommendations");
	if (recommendations == NIL)
		sheet->ops->nothing(sheet, "None.");
	foreach(lc, recommendations)
	{
		sheet->ops->item(sheet, ++number, get(lfirst(lc), "text"));
		foreach(sc, json_list(lfirst(lc), "statements"))
			sheet->ops->code(sheet, sql_printable(lfirst(sc)));
	}
}

static char *
render(const SheetOps *ops, Jsonb *document)
{
	Sheet		sheet = {.ops = ops};

	initStringInfo(&sheet.out);
	ops->begin(&sheet, title(document));
	put_summary(&sheet, document);
	put_plan(&sheet, document);
	put_records(&sheet, document);
	put_components(&sheet, document);
	put_warnings(&sheet, document);
	put_errors(&sheet, document);
	put_recommendations(&sheet, document);
	ops->end(&sheet);
	return sheet.out.data;
}

char *
report_as_text(Jsonb *document)
{
	return render(&sheet_text, document);
}

char *
report_as_html(Jsonb *document)
{
	return render(&sheet_html, document);
}
