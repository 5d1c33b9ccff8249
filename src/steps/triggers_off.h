/*
 * triggers_off.h
 *		Updates that do not fire the triggers of a table.
 */
#ifndef TENANTMIG_TRIGGERS_OFF_H
#define TENANTMIG_TRIGGERS_OFF_H

#include "executor/spi.h"
#include "utils/reltrigger.h"

#include "steps/source.h"

typedef enum TriggersOff
{
	/*
	 * The fill trigger of this job, if no other BEFORE UPDATE trigger FOR EACH
	 * ROW is there that could change what the value is taken from.  It has
	 * nothing to add to a row that the job itself gives its value, and costs a
	 * lock on the row with its WAL.
	 */
	TRIGGERS_OFF_OWN,
	/*
	 * Those that people have made; what is ENABLE ALWAYS fires, and constraints
	 * are checked.
	 */
	TRIGGERS_OFF_ALL
} TriggersOff;

/* SPI_execute_plan, for an UPDATE of a leaf whose text this is, by a job, without
 * these triggers of the leaf */
extern int	triggers_off_execute(SPIPlanPtr plan, const char *text, Datum *values,
								 TriggersOff which, int64 job, Oid leaf);

/* Whether a trigger is one that TRIGGERS_OFF_ALL leaves out; the fill trigger of
 * a job */
extern bool triggers_off_silenced(const Trigger *trigger);
extern bool triggers_off_own(const Trigger *trigger, int64 job);

/* The triggers of the table that would have fired for the column: names */
extern List *triggers_not_fired(const Source *source);

#endif							/* TENANTMIG_TRIGGERS_OFF_H */
