/*
 * index.h
 *		Indexes that a job builds, for all kinds of job.
 *
 * What an index is to be is said in an object of jsonb, so that it can be
 * journaled; it has the keys
 *
 *	is_unique, nulls_not_distinct	bool
 *	method, tablespace, predicate	text
 *	elements	list: what stands between the parentheses, as SQL
 *	names		list: the column of each element, "expr" for an expression
 *	include		list of columns
 *	storage		text: what stands in WITH (...)
 *	definition	text: all that stands behind the table's name, in place of
 *				method, elements, include, ... which then only describe it
 *	name		text: of the index of the table itself; missing: one is chosen
 *
 * index_spec() makes the common ones.  The key of an index tells apart those
 * that one job builds on one table; "" is that of create_index, whose object is
 * the arguments of the job.
 *
 * All of it is journaled (job_step, and under "indexes" in the summary), so that
 * a build that was interrupted is found and gone on with when it is asked for
 * again, and that index_find_inverse() takes back what is surely ours, and
 * nothing else.  A kind of job that builds indexes has index_find_inverse as its
 * find_inverse, or calls it there.
 */
#ifndef TENANTMIG_INDEX_H
#define TENANTMIG_INDEX_H

#include "engine/json.h"
#include "engine/step.h"

/* A plain btree over columns */
extern Jsonb *index_spec(List *columns, bool is_unique);

/*
 * Build an index on a table of any shape, concurrently; on a partitioned table
 * one for all partitions, also those that are made meanwhile.  Outside of any
 * transaction.  It is valid at the end, and its OID is returned.  One that this
 * job has built already is found again.
 */
extern Oid	index_build_on(JobRun *run, Oid relid, const char *key, Jsonb *spec);

/*
 * The same on one table that holds rows: an ordinary table, or a leaf partition
 * whose index is not to be attached.  InvalidOid: the table was dropped.
 */
extern Oid	index_build_table(JobRun *run, Oid table, const char *key,
							  Jsonb *spec);

/* Within a transaction: the index that a job has built, when it is there, defined
 * as it was asked for, and valid; or InvalidOid */
extern Oid	index_find(const Job *job, Oid table, const char *key);

/* Within a transaction: from now on undo and clean-up leave this index alone,
 * since another step of the job takes care of it */
extern void index_hand_over(const Job *job, Oid table, const char *key);

/* For StepOps: of steps that are not about an index, the recorded inverse */
extern char *index_find_inverse(const Job *target, const JobStep *step,
								Oid table);

/* For a dry run: write the steps of a build as planned, and add up what it takes */
typedef struct IndexEstimate
{
	double		rows;
	int64		blocks;
	double		bytes;			/* of disk, and of WAL */
	double		ms;
	List	   *locks;			/* what each takes, see plan_lock.h */
} IndexEstimate;

extern void index_plan_build(const Job *job, Oid relid, Jsonb *spec,
							 IndexEstimate *estimate);
/* of one table; relid is the table of the call.  Returns the name of the index */
extern char *index_plan_table(const Job *job, Oid relid, Oid table, Jsonb *spec,
							  IndexEstimate *estimate);
extern void index_put_estimate(JsonObject *plan, const IndexEstimate *estimate);

/* --- texts ------------------------------------------------------------- */

/* What stands behind the table's name */
extern char *index_definition(Jsonb *spec);

/* CREATE INDEX for one table, as a template; only: of a partitioned table,
 * without rows.  Its inverse. */
extern char *index_create_text(Jsonb *spec, const char *index, bool only);
extern char *index_drop_text(const char *index, bool concurrently);
extern char *index_qualified_name(Oid table, const char *index);

/* The wanted name for the table of the call, a free one for its partitions */
extern char *index_name_for(Jsonb *spec, Oid relid, Oid table);
extern void index_check_name_is_free(Oid relid, const char *name);

/* Whether an index is there, on the table, and defined as is asked for */
extern bool index_is_on(Oid index, Oid table);
extern bool index_matches(Oid index, Oid table, Jsonb *spec);

#endif							/* TENANTMIG_INDEX_H */
