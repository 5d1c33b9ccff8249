/*
 * leaf_progress.c
 *		How far a job is in each partition of its table.
 *
 * A row for each partition (or inheritance child) that has been visited.  It is
 * written after the progress row of the job, so that workers who share a
 * partition come to it one after the other.
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "engine/compat.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "steps/leaf_progress.h"

static void
forget_body(JobRun *run, void *arg)
{
	OwnQuery	query;

	query_init(&query, "DELETE FROM tenantmig.job_partition WHERE job = $1");
	query_int8(&query, run->job->id);
	query_run(&query);
}

void
leaf_progress_forget(JobRun *run)
{
	run_bookkeeping(run, forget_body, NULL);
}

void
leaf_progress_add(JobRun *run, const Pass *pass, int64 counted)
{
	int64		done = pass->count_rows ? pass->cost.rows : 0;
	OwnQuery	query;

	if (!(pass->totals || done > 0) || feed_progress(pass->feed).leaves_total < 2)
		return;
	query_init(&query, "INSERT INTO tenantmig.job_partition AS p "
			   "(job, relid, relation, rows_total, rows_done, updated_at) "
			   "VALUES ($1, $2, $3, $4, $5, clock_timestamp()) "
			   "ON CONFLICT (job, relid) DO UPDATE SET relation = $3, "
			   "rows_total = COALESCE(p.rows_total + $4, $4, p.rows_total), "
			   "rows_done = p.rows_done + $5, updated_at = clock_timestamp()");
	query_int8(&query, run->job->id);
	query_oid(&query, pass->set.leaf);
	query_text(&query, sql_relation(pass->set.leaf));
	query_datum(&query, INT8OID, Int64GetDatum(counted), !pass->totals);
	query_int8(&query, done);
	query_run(&query);
}
