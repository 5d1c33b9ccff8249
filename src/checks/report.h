/*
 * report.h
 *		The report about jobs: from what was recorded to a document, from the
 *		document to text.
 */
#ifndef TENANTMIG_REPORT_H
#define TENANTMIG_REPORT_H

#include "nodes/pg_list.h"
#include "utils/jsonb.h"

#include "checks/document.h"

/* A job as the report sees it; counts are -1 where they are not known */
typedef struct ReportJob
{
	int64		id;
	char	   *kind;
	char	   *relation;		/* NULL: a job without a table */
	char	   *column;			/* the tenant column, if the call named one */
	char	   *state;
	const char *status;			/* the state in words; "undone" as well */
	Jsonb	   *facts;			/* everything that was read about it */
	Jsonb	   *summary;
	Jsonb	   *plan;			/* NULL unless it was planned */
	bool		changes_rows;	/* a kind whose rows are counted */
	int64		rows_total;
	int64		rows_changed;
	int64		rows_left;
	int64		rows_failed;
	int64		elapsed_ms;
	int64		undone_by;		/* 0: not undone */
	int64		superseded_by;	/* a later job of the same call, or 0 */
	bool		stands;			/* neither of these two */
} ReportJob;

/*
 * Read the jobs with these ids (a List of int64 *) in one statement, in that
 * order.  Checks no rights.  single: with their steps and the later jobs
 * that build on them.
 */
extern List *report_read_jobs(List *ids, bool single);
extern bool report_has_status(const ReportJob *job, const char *status);

/* The document that all formats are made from */
extern Jsonb *report_document(List *jobs, bool single);

/* Parts of it */
extern void report_put_warnings(Document *document, List *jobs, bool single);
extern void report_put_errors(Document *document, List *jobs, bool single);

/* What to do next: texts with the statements to run */
typedef struct ReportAdvice
{
	const char *text;
	List	   *statements;		/* of char * */
} ReportAdvice;

extern List *report_advice(List *jobs, bool single);

/* The document as text for a terminal of 80 columns, or as a page of HTML */
extern char *report_as_text(Jsonb *document);
extern char *report_as_html(Jsonb *document);

#endif							/* TENANTMIG_REPORT_H */
