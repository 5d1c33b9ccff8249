/*
 * report.c
 *		report: what was done, what came of it and what to do next.
 *
 * The report says what was recorded and nothing else: the rows of the job, its
 * steps, its progress, its errors, and the facts that the job put down in its
 * summary.  The catalogs are asked only for what remains to be done with a
 * table.
 *
 *		report_jobs.c	  reads the jobs
 *		report_document.c makes one jsonb document out of them, with
 *		report_findings.c for the warnings and errors and
 *		report_advice.c	  for the recommendations
 *		report_render.c	  turns the document into text or HTML
 *
 * Every format is made from the one document, so that they cannot disagree.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "checks/report.h"
#include "engine/compat.h"
#include "engine/job.h"
#include "engine/query.h"
#include "engine/sqltext.h"

PG_FUNCTION_INFO_V1(tenantmig_report);

typedef enum ReportFormat
{
	REPORT_TEXT,
	REPORT_JSON,
	REPORT_HTML
} ReportFormat;

static ReportFormat
get_format(FunctionCallInfo fcinfo)
{
	char	   *format;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("format must not be null"),
				 errhint("Formats are text, json and html.")));
	format = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (strcmp(format, "text") == 0)
		return REPORT_TEXT;
	if (strcmp(format, "json") == 0)
		return REPORT_JSON;
	if (strcmp(format, "html") == 0)
		return REPORT_HTML;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown report format \"%s\"", sql_printable(format)),
			 errhint("Formats are text, json and html.")));
}

static List *
add_id(List *ids, int64 id)
{
	int64	   *copy = palloc(sizeof(int64));

	*copy = id;
	return lappend(ids, copy);
}

/* The jobs that the current user may see: the statement alone would see all */
static List *
visible_jobs(void)
{
	MemoryContext context = CurrentMemoryContext;
	OwnQuery	query;
	uint64		count;
	List	   *all = NIL;
	List	   *visible = NIL;
	ListCell   *lc;

	query_init(&query, "SELECT id FROM tenantmig.job ORDER BY id");
	SPI_connect();
	count = query_run(&query);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < count; i++)
		all = add_id(all, query_get_int8(i, 1, 0));
	SPI_finish();

	foreach(lc, all)
	{
		Job		   *job = job_read(*(int64 *) lfirst(lc));

		CHECK_FOR_INTERRUPTS();
		if (job && job_is_visible(job))
			visible = add_id(visible, job->id);
	}
	return visible;
}

Datum
tenantmig_report(PG_FUNCTION_ARGS)
{
	ReportFormat format = get_format(fcinfo);
	bool		single = !PG_ARGISNULL(0);
	List	   *jobs;
	Jsonb	   *document;
	char	   *text = NULL;

	if (single)
		jobs = report_read_jobs(add_id(NIL, job_get(PG_GETARG_INT64(0))->id), true);
	else
		jobs = report_read_jobs(visible_jobs(), false);
	if (single && jobs == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("job " INT64_FORMAT " does not exist any more",
						PG_GETARG_INT64(0))));
	document = report_document(jobs, single);

	switch (format)
	{
		case REPORT_TEXT:
			text = report_as_text(document);
			break;
		case REPORT_HTML:
			text = report_as_html(document);
			break;
		case REPORT_JSON:
			text = JsonbToCStringIndent(NULL, &document->root,
										VARSIZE(document));
			break;
	}
	PG_RETURN_TEXT_P(cstring_to_text(text));
}
