/*
 * triggers_off.h
 *		Updates that do not fire the triggers of a table.
 */
#ifndef TENANTMIG_TRIGGERS_OFF_H
#define TENANTMIG_TRIGGERS_OFF_H

#include "executor/spi.h"

#include "steps/source.h"

/*
 * SPI_execute_plan, for an UPDATE whose text this is, without the triggers
 * that people have made on the tables it changes; those that are ENABLE ALWAYS
 * fire, and constraints are checked.
 */
extern int	triggers_off_execute(SPIPlanPtr plan, const char *text,
								 Datum *values);

/* The triggers of the table that would have fired for the column: names */
extern List *triggers_not_fired(const Source *source);

#endif							/* TENANTMIG_TRIGGERS_OFF_H */
