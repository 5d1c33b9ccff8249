/*
 * backfill.h
 *		The call and the plan of a backfill, and what both share with its run.
 */
#ifndef TENANTMIG_BACKFILL_H
#define TENANTMIG_BACKFILL_H

#include "engine/step.h"
#include "steps/source.h"

typedef enum OrphanChoice
{
	ORPHAN_FAIL,
	ORPHAN_LEAVE,
	ORPHAN_ASSIGN
} OrphanChoice;

/* How rows get their value */
typedef enum BackfillMethod
{
	METHOD_AUTO,				/* metadata if nothing speaks against it */
	METHOD_PAGES,
	METHOD_RANGES,
	METHOD_METADATA
} BackfillMethod;

typedef struct BackfillOptions
{
	BackfillMethod method;
	int64		max_errors;
	OrphanChoice on_orphan;
	char	   *orphan_value;	/* with ORPHAN_ASSIGN */
	bool		keep_trigger;
	bool		triggers_off;	/* the table's own triggers do not fire */
	int			workers;
} BackfillOptions;

/* Raises 22023 and 0A000; with the throttles, unknown keys are refused */
extern void backfill_read_options(Jsonb *options, const Source *source,
								  BackfillOptions *result);

/* The inverse of all batches, a template for people: undo knows what to do */
extern char *backfill_inverse_text(const Source *source);

/* For people: the key of a row, its value and the one of the source */
extern char *backfill_conflict_text(const Conflict *conflict);

extern void backfill_run(JobRun *run);
extern void backfill_undo(JobRun *run, const Job *target, const JobStep *step);

#endif							/* TENANTMIG_BACKFILL_H */
