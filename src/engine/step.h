/*
 * step.h
 *		What a kind of job is made of.
 *
 * A new kind is one file in src/steps/ that exports a StepOps, and one row in
 * the table of src/steps/kinds.c.
 */
#ifndef TENANTMIG_STEP_H
#define TENANTMIG_STEP_H

#include "engine/job.h"
#include "engine/run.h"

typedef struct StepOps
{
	const char *kind;

	/*
	 * The plan of a dry run, in the caller's transaction and as the owner of
	 * the table: write the steps with step_write(..., "planned", ...) and
	 * return the facts for the report.  Changes nothing else.
	 */
	Jsonb	   *(*plan) (const Job *job, Oid relid);

	/*
	 * Do the work.  Called outside of any transaction; every transaction goes
	 * through run_transaction() and its kin.  Returns when the work is done
	 * and verified, raises an error otherwise.  Must go on from wherever an
	 * earlier attempt was interrupted.
	 */
	void		(*run) (JobRun *run);

	/* Whether what a succeeded job did is still so; as the owner */
	bool		(*holds) (const Job *job, Oid relid);

	/*
	 * Raise an error if taking back the job "target" would lose what others
	 * have written since.  Within a transaction, before the first inverse.
	 */
	void		(*check_undo) (JobRun *run, const Job *target);

	/* Take back a step of kind STEP_BATCHES of the job "target" */
	void		(*undo_batches) (JobRun *run, const Job *target,
								 const JobStep *step);

	/*
	 * The statement that takes back a step of the job "target" which was made
	 * on relid, if only what is surely ours may go: palloc'd, or NULL when
	 * nothing of ours is there.  Within a transaction; may raise an error that
	 * passes.  Without this the recorded inverse is run.
	 */
	char	   *(*find_inverse) (const Job *target, const JobStep *step, Oid relid);

	/*
	 * Take back a step of the job "target" in transactions of its own, where
	 * running its inverse would hold others up.  Outside of any transaction;
	 * what it makes on the way are steps of run->job.  False: run the inverse.
	 */
	bool		(*take_back) (JobRun *run, const Job *target,
							  const JobStep *step);

	/* Write the planned steps of an undo of "target" for the job, where they
	 * are others than the recorded inverses; returns facts for its plan */
	Jsonb	   *(*plan_undo) (const Job *job, const Job *target, Oid relid);
} StepOps;

extern const StepOps *step_ops(const char *kind);

#endif							/* TENANTMIG_STEP_H */
