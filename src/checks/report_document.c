/*
 * report_document.c
 *		The document that all formats of the report are made from.
 *
 *		report		"job" or "all jobs", and of which database
 *		summary		status and times; of one job also what it is
 *		plan		of a planned job: its facts and statements
 *		records		rows: total, changed, left, failed; null is not known
 *		components	of one job its steps, of all jobs the tables
 *		warnings, errors, recommendations
 *
 * Of all jobs, those that were undone or called again later are listed with
 * their table but do not decide on the status, and their errors are history.
 */
#include "postgres.h"

#include "commands/dbcommands.h"
#include "miscadmin.h"

#include "checks/report.h"
#include "engine/compat.h"
#include "engine/json.h"

/* How jobs stand together: the first of these that one of them has */
static const char *
common_status(List *jobs)
{
	static const char *const order[] = {
		"failed", "paused", "in progress", "waiting",
		"completed", "cancelled", "planned",
	};
	ListCell   *lc;

	for (int i = 0; i < lengthof(order); i++)
		foreach(lc, jobs)
		{
			const ReportJob *job = lfirst(lc);

			if (job->stands && report_has_status(job, order[i]))
				return order[i];
		}
	return jobs == NIL ? "no jobs" : "undone";
}

static int64
sum_elapsed(List *jobs)
{
	int64		sum = -1;
	ListCell   *lc;

	foreach(lc, jobs)
	{
		const ReportJob *job = lfirst(lc);

		if (job->elapsed_ms >= 0)
			sum = Max(sum, 0) + job->elapsed_ms;
	}
	return sum;
}

/* --- summary --------------------------------------------------------- */

static const char *
next_action(const ReportJob *job)
{
	if (!job->stands)
		return NULL;
	if (report_has_status(job, "planned"))
		return psprintf("SELECT tenantmig.start(" INT64_FORMAT ");", job->id);
	if (report_has_status(job, "paused"))
		return psprintf("SELECT tenantmig.resume(" INT64_FORMAT ");", job->id);
	if (report_has_status(job, "failed"))
		return psprintf("SELECT tenantmig.retry(" INT64_FORMAT ");", job->id);
	if (report_has_status(job, "waiting") || report_has_status(job, "in progress"))
		return psprintf("CALL tenantmig.wait(" INT64_FORMAT ");", job->id);
	return NULL;
}

/* What the job put down, without what has a place of its own */
static void
put_facts(Document *document, Jsonb *recorded)
{
	static const char *const elsewhere[] = {
		"rows_total", "rows_already_set", "rows_changed", "rows_assigned",
		"residue", "residue_reason", "orphans", "warnings",
		"unresolved_examples", "conflict_examples", "locks",
	};
	ListCell   *lc;

	document_object(document, "facts");
	foreach(lc, json_keys(recorded))
	{
		const char *key = lfirst(lc);
		bool		skip = false;

		for (int i = 0; i < lengthof(elsewhere); i++)
			if (strcmp(key, elsewhere[i]) == 0)
				skip = true;
		if (!skip && document_get(recorded, key) == NULL &&
			json_text(recorded, key) != NULL)
		{
			int64		number = json_int(recorded, key, -1);
			char	   *text = json_text(recorded, key);

			/* whole numbers stay numbers */
			if (number >= 0 && strcmp(text, psprintf(INT64_FORMAT, number)) == 0)
				document_count(document, key, number);
			else
				document_text(document, key, text);
		}
	}
	document_end_object(document);
}

static void
put_summary_of_job(Document *document, const ReportJob *job)
{
	Jsonb	   *facts = job->facts;
	int64		target = json_int(facts, "target", 0);

	document_object(document, "summary");
	document_text(document, "status", job->status);
	document_count(document, "elapsed_ms", job->elapsed_ms);
	document_text(document, "started", json_text(facts, "started"));
	document_text(document, "completed", json_text(facts, "completed"));
	document_count(document, "job", job->id);
	document_text(document, "kind", job->kind);
	document_text(document, "relation", job->relation);
	document_text(document, "column", job->column);
	document_text(document, "owner", json_text(facts, "owner"));
	document_text(document, "state", job->state);
	document_text(document, "phase", json_text(facts, "phase"));
	document_count(document, "attempts", json_int(facts, "attempts", 0));
	document_text(document, "next_action", next_action(job));
	if (target != 0)
		document_count(document, "undo_of", target);
	if (job->undone_by != 0)
		document_count(document, "undone_by", job->undone_by);
	put_facts(document, job->summary);
	document_end_object(document);
}

/* The first start and the last end; no end while a job is open */
static void
put_times(Document *document, List *jobs)
{
	char	   *started = NULL;
	char	   *completed = NULL;
	bool		open = false;
	ListCell   *lc;

	foreach(lc, jobs)
	{
		const ReportJob *job = lfirst(lc);
		char	   *start = json_text(job->facts, "started");
		char	   *end = json_text(job->facts, "completed");

		if (job->stands && (report_has_status(job, "waiting") ||
							report_has_status(job, "in progress") ||
							report_has_status(job, "paused")))
			open = true;
		/* one time zone, one format: they compare as text */
		if (start && (started == NULL || strcmp(start, started) < 0))
			started = start;
		if (start && end && (completed == NULL || strcmp(end, completed) > 0))
			completed = end;
	}
	document_text(document, "started", started);
	document_text(document, "completed", open ? NULL : completed);
}

static void
put_summary_of_all(Document *document, List *jobs)
{
	static const char *const all_status[] = {
		"completed", "in progress", "waiting", "paused", "failed",
		"cancelled", "planned", "undone",
	};
	ListCell   *lc;

	document_object(document, "summary");
	document_text(document, "status", common_status(jobs));
	document_count(document, "elapsed_ms", sum_elapsed(jobs));
	put_times(document, jobs);
	document_count(document, "jobs", list_length(jobs));
	document_object(document, "jobs_by_status");
	for (int i = 0; i < lengthof(all_status); i++)
	{
		int			count = 0;

		foreach(lc, jobs)
			count += report_has_status(lfirst(lc), all_status[i]);
		if (count > 0)
			document_count(document, all_status[i], count);
	}
	document_end_object(document);
	document_end_object(document);
}

/* --- plan ------------------------------------------------------------ */

static void
put_plan(Document *document, const ReportJob *job)
{
	ListCell   *lc;

	document_object(document, "plan");
	put_facts(document, job->plan);
	document_texts(document, "unresolved_examples",
				   json_list(job->plan, "unresolved_examples"));
	document_texts(document, "conflict_examples",
				   json_list(job->plan, "conflict_examples"));
	if (json_list(job->plan, "locks") != NIL)
		document_texts(document, "locks", json_list(job->plan, "locks"));
	document_array(document, "statements");
	foreach(lc, document_items(job->facts, "steps"))
	{
		Jsonb	   *step = lfirst(lc);
		char	   *state = json_text(step, "state");

		if (strcmp(state, "planned") != 0)
			continue;
		document_object(document, NULL);
		document_text(document, "statement", json_text(step, "statement"));
		document_text(document, "relation", json_text(step, "relation"));
		document_text(document, "lock", json_text(step, "lock"));
		document_text(document, "kind", json_text(step, "kind"));
		document_end_object(document);
	}
	document_end_array(document);
	document_end_object(document);
}

/* --- records --------------------------------------------------------- */

typedef struct Records
{
	bool		any;			/* a job that changes rows is among them */
	int64		total;			/* -1: not known of one of them */
	int64		changed;
	int64		left;
	int64		failed;
	int64		already_set;
	int64		assigned;
	bool		scanned;		/* every "left" was counted by a full scan */
} Records;

static int64
add_count(int64 sum, int64 count)
{
	return sum < 0 || count < 0 ? -1 : sum + count;
}

/*
 * What an earlier attempt at the same call changed counts as changed, and so
 * as a part of the total; what it left is the business of the later job.
 */
static void
add_records(Records *records, const ReportJob *job)
{
	Jsonb	   *recorded = report_has_status(job, "planned") ? job->plan : job->summary;

	if (!job->changes_rows || job->undone_by != 0)
		return;
	records->any = true;
	records->changed += Max(job->rows_changed, 0);
	if (job->superseded_by != 0)
	{
		records->total = add_count(records->total, Max(job->rows_changed, 0));
		return;
	}
	records->total = add_count(records->total, job->rows_total);
	records->left = add_count(records->left, job->rows_left);
	records->failed += job->rows_failed;
	records->assigned += json_int(job->summary, "rows_assigned", 0);
	records->already_set = add_count(records->already_set,
									 json_int(recorded, "rows_already_set", -1));
	if (strcmp(job->state, "succeeded") != 0 ||
		json_int(job->summary, "residue", -1) < 0)
		records->scanned = false;
}

static Records
count_records(List *jobs)
{
	Records		records = {.scanned = true};
	ListCell   *lc;

	foreach(lc, jobs)
		add_records(&records, lfirst(lc));
	return records;
}

static void
put_records(Document *document, List *jobs)
{
	Records		records = count_records(jobs);

	document_object(document, "records");
	document_bool(document, "counted", records.any);
	if (records.any)
	{
		document_count(document, "total", records.total);
		document_count(document, "changed", records.changed);
		document_count(document, "left", records.left);
		document_bool(document, "left_counted_by_full_scan", records.scanned);
		document_count(document, "failed", records.failed);
		document_count(document, "already_set", records.already_set);
		if (records.assigned > 0)
			document_count(document, "orphans_assigned", records.assigned);
	}
	document_end_object(document);
}

/* --- components ------------------------------------------------------ */

static void
put_step(Document *document, Jsonb *step)
{
	document_object(document, NULL);
	document_text(document, "statement", json_text(step, "statement"));
	document_text(document, "relation", json_text(step, "relation"));
	document_text(document, "kind", json_text(step, "kind"));
	document_text(document, "state", json_text(step, "state"));
	document_bool(document, "temporary", json_bool(step, "temporary", false));
	document_text(document, "lock", json_text(step, "lock"));
	document_count(document, "elapsed_ms", json_int(step, "elapsed_ms", -1));
	document_text(document, "inverse", json_text(step, "inverse"));
	document_end_object(document);
}

static void
put_steps(Document *document, const ReportJob *job)
{
	ListCell   *lc;

	document_array(document, "components");
	foreach(lc, document_items(job->facts, "steps"))
		if (strcmp(json_text(lfirst(lc), "state"), "planned") != 0)
			put_step(document, lfirst(lc));
	document_end_array(document);
}

static void
put_table(Document *document, List *jobs)
{
	const ReportJob *first = linitial(jobs);
	Records		records = count_records(jobs);
	ListCell   *lc;

	document_object(document, NULL);
	document_text(document, "relation", first->relation);
	document_text(document, "status", common_status(jobs));
	document_count(document, "elapsed_ms", sum_elapsed(jobs));
	if (records.any)
	{
		document_count(document, "total", records.total);
		document_count(document, "changed", records.changed);
		document_count(document, "left", records.left);
		document_count(document, "failed", records.failed);
	}
	document_array(document, "jobs");
	foreach(lc, jobs)
	{
		const ReportJob *job = lfirst(lc);

		document_object(document, NULL);
		document_count(document, "job", job->id);
		document_text(document, "kind", job->kind);
		document_text(document, "column", job->column);
		document_text(document, "status", job->status);
		document_count(document, "elapsed_ms", job->elapsed_ms);
		if (job->undone_by != 0)
			document_count(document, "undone_by", job->undone_by);
		if (job->superseded_by != 0)
			document_count(document, "called_again_as", job->superseded_by);
		document_end_object(document);
	}
	document_end_array(document);
	document_end_object(document);
}

static int
by_relation(const ListCell *a, const ListCell *b)
{
	const ReportJob *job_a = lfirst(a);
	const ReportJob *job_b = lfirst(b);
	int			order;

	if (job_a->relation == NULL || job_b->relation == NULL)
		order = (job_a->relation == NULL) - (job_b->relation == NULL);
	else
		order = strcmp(job_a->relation, job_b->relation);
	if (order == 0)
		order = job_a->id < job_b->id ? -1 : job_a->id > job_b->id;
	return order;
}

static bool
same_relation(const ReportJob *a, const ReportJob *b)
{
	if (a->relation == NULL || b->relation == NULL)
		return a->relation == b->relation;
	return strcmp(a->relation, b->relation) == 0;
}

static void
put_tables(Document *document, List *jobs)
{
	List	   *sorted = list_copy(jobs);
	List	   *group = NIL;
	ListCell   *lc;

	list_sort(sorted, by_relation);
	document_array(document, "components");
	foreach(lc, sorted)
	{
		if (group != NIL && !same_relation(linitial(group), lfirst(lc)))
		{
			put_table(document, group);
			group = NIL;
		}
		group = lappend(group, lfirst(lc));
	}
	if (group != NIL)
		put_table(document, group);
	document_end_array(document);
}

/* --- recommendations ------------------------------------------------- */

static void
put_recommendations(Document *document, List *jobs, bool single)
{
	ListCell   *lc;

	document_array(document, "recommendations");
	foreach(lc, report_advice(jobs, single))
	{
		const ReportAdvice *advice = lfirst(lc);

		document_object(document, NULL);
		document_text(document, "text", advice->text);
		document_texts(document, "statements", advice->statements);
		document_end_object(document);
	}
	document_end_array(document);
}

Jsonb *
report_document(List *jobs, bool single)
{
	Document   *document = document_begin();
	ReportJob  *job = single ? linitial(jobs) : NULL;

	document_text(document, "report", single ? "job" : "all jobs");
	document_text(document, "database", get_database_name(MyDatabaseId));
	if (single)
		put_summary_of_job(document, job);
	else
		put_summary_of_all(document, jobs);
	if (single && job->plan && report_has_status(job, "planned"))
		put_plan(document, job);
	put_records(document, jobs);
	if (single)
		put_steps(document, job);
	else
		put_tables(document, jobs);
	report_put_warnings(document, jobs, single);
	report_put_errors(document, jobs, single);
	put_recommendations(document, jobs, single);
	return document_end(document);
}
