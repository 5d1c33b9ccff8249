/*
 * job.h
 *		Jobs and their steps: rows on disk and structs in memory.
 *
 * Every function here runs as the extension, in the transaction that is
 * open, and leaves the user as it was.  Strings in the structs live in the
 * memory context that was current when they were made.
 */
#ifndef TENANTMIG_JOB_H
#define TENANTMIG_JOB_H

#include "fmgr.h"
#include "nodes/pg_list.h"
#include "storage/lock.h"
#include "utils/jsonb.h"

typedef struct Job
{
	int64		id;
	const char *kind;
	Oid			relid;			/* the table, where at_home; names elsewhere */
	char	   *schema_name;	/* NULL: a job without a table */
	char	   *relation_name;
	Jsonb	   *arguments;		/* what the call said */
	Jsonb	   *options;		/* what alter_job() may change */
	const char *state;
	char	   *request;		/* pause, cancel or NULL */
	int64		target;			/* the job that an undo works on, or 0 */
	int64		undone_by;		/* the undo job, or 0 */
	char	   *search_path;
	Oid			caller;
	Oid			owner;
	char	   *owner_name;
	bool		at_home;		/* recorded in this database of this cluster */
	int			attempts;
	int			stalled;
	char	   *sqlstate;		/* of a failed job */
	char	   *error;
	char	   *error_detail;
	char	   *error_hint;
} Job;

/* What a job function hands in */
typedef struct JobRequest
{
	const char *kind;
	Oid			relid;			/* the table, or InvalidOid */
	Jsonb	   *arguments;
	Jsonb	   *options;
	List	   *reads;			/* OIDs of other tables the job looks at */
	bool		feeds;			/* it makes values that others read */
	int64		target;			/* for undo */
	bool		dry_run;
	const char *describe;		/* "backfill of public.orders", for the NOTICE */
} JobRequest;

/*
 * Record a job, or find the one that stands for the same call: an open one,
 * or one that succeeded and still holds (the kind's holds() says so).  With
 * dry_run the kind's plan() runs and the job is planned; otherwise it is
 * queued, and a worker is asked for at commit.  Raises a NOTICE.
 */
extern int64 job_submit(const JobRequest *request);

/* The half of it that direct functions use: the id of a job that stands for
 * this call already, with a NOTICE; 0 if there is none.  Of two sessions that
 * make the same call, the second waits and finds the job of the first. */
extern int64 job_reuse(const JobRequest *request);

/*
 * Record a job that the caller's transaction has already done (direct
 * functions): job_record opens it, job_record_step adds what was done with
 * its inverse, job_record_end closes it as succeeded.
 */
extern int64 job_record(const JobRequest *request);
extern void job_record_step(int64 job, Oid relid, const char *statement,
							const char *inverse, LOCKMODE mode);
extern void job_record_end(int64 job);

/* Read a job; NULL when there is none.  job_get raises 42704 instead, and
 * 42501 when the current user may not see it. */
extern Job *job_read(int64 id);
extern Job *job_get(int64 id);

/* The first argument of a function that is called for a job; 22004 if null */
extern int64 job_argument(FunctionCallInfo fcinfo);

/* The state a job is in now: paused when its process is gone, or when it was
 * recorded elsewhere */
extern const char *job_live_state(const Job *job);

/* The newest job that stands for the same call, open or succeeded, or NULL */
extern Job *job_find_twin(const JobRequest *request);

/* The names of a table, palloc'd; NULL for InvalidOid */
extern void job_relation_names(Oid relid, char **schema_name,
							   char **relation_name);

/* Whether the current user may see and control it */
extern bool job_is_visible(const Job *job);

/* The table, whatever it is called by now (at_home), or by its name
 * (elsewhere); raises 42P01 when it is gone */
extern Oid	job_relation(const Job *job);

/* The same for any relation of the job; InvalidOid when it is gone */
extern Oid	job_find_relation(const Job *job, Oid relid,
							  const char *schema_name,
							  const char *relation_name);
extern char *job_relation_text(const Job *job);

/* State changes, each one UPDATE */
extern void job_set_state(int64 id, const char *state);
extern void job_set_request(int64 id, const char *request);
extern void job_claimed(int64 id, Oid owner, const char *owner_name);
extern void job_failed(int64 id, const ErrorData *error);
extern void job_requeued(int64 id, Oid caller, const char *search_path,
						 Oid relid);
extern void job_set_options(int64 id, Jsonb *options);
extern void job_set_undone(int64 id, int64 undone_by);
extern void job_renamed(int64 id, Oid relid);	/* and the names of its steps */
extern Jsonb *job_summary(int64 id);
extern void job_merge_summary(int64 id, Jsonb *facts);
extern void job_add_error(int64 id, const char *relation, Jsonb *key,
						  const char *sqlstate, const char *message);

extern bool job_has_row_error(int64 id, const char *relation, Jsonb *key);

/* Errors of single rows: a new attempt finds those that are still there */
extern void job_forget_row_errors(int64 id);

/* An earlier job that this one needs: 0 when all are done.  failed: it ended
 * without success. */
extern int64 job_unmet_dependency(int64 id, bool *failed);

/*
 * Jobs that feed a table are done before jobs that read it, whichever was
 * recorded first: make a queued reader (0: all) depend on the open feeders
 * (0: all) that it does not know of yet, unless they wait for it themselves.
 */
extern void job_add_feeders(int64 reader, int64 feeder);

/* Queued jobs that could run now, oldest first, as a List of int64 pointers */
extern List *job_ready_list(int most);

/* Queue the jobs that say running while their process is gone */
extern void job_requeue_interrupted(void);

typedef enum StepKind
{
	STEP_STATEMENT,				/* in a transaction */
	STEP_TOPLEVEL,				/* outside one */
	STEP_BATCHES				/* many transactions */
} StepKind;

typedef struct JobStep
{
	int			position;
	StepKind	kind;
	Oid			relid;			/* as recorded; see step_relation */
	char	   *relation;		/* its name, for people and for elsewhere */
	char	   *state;
	char	   *statement;		/* templates for the relation: template.h */
	char	   *inverse;
	bool		temporary;
	char	   *lock_mode;
} JobStep;

/*
 * The journal.  A step that runs in a transaction is written as done in that
 * same transaction; others are written as running, and committed, before they
 * run.  step_write finds a step of the job with the same statement for the same
 * relation, so that a resumed job does not write it again, and returns its
 * position.  All batches on one relation are the same step, however described.
 */
extern int	step_write(int64 job, StepKind kind, Oid relid,
					   const char *state, const char *statement,
					   const char *inverse, bool temporary, LOCKMODE mode);
extern void step_set_state(int64 job, int position, const char *state);
extern List *step_list(int64 job);	/* of JobStep *, by position */
extern void step_forget_planned(int64 job);

/* The inverse of another step covers this one from now on */
extern void step_forget_inverse(int64 job, Oid relid, const char *statement);

/* A temporary step that stays after all */
extern void step_keep(int64 job, Oid relid, const char *statement);

/* NULL: there is no such step */
extern const char *step_state(int64 job, Oid relid, const char *statement);

/* The relation of a step, in the same way */
extern Oid	step_relation(const Job *job, const JobStep *step);

/* A job that comes to a new home: the relations are those of the names */
extern void step_bind(int64 job);
extern void step_follow_names(int64 job);

#endif							/* TENANTMIG_JOB_H */
