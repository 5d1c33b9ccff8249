/*
 * not_null.h
 *		The statements that set_not_null and its undo share.
 */
#ifndef TENANTMIG_NOT_NULL_H
#define TENANTMIG_NOT_NULL_H

#include "engine/step.h"

/* As templates for a table; the constraint is the job's own */
typedef struct NotNullTexts
{
	char	   *constraint;
	char	   *add;
	char	   *drop;
	char	   *validate;
	char	   *set;
	char	   *unset;
} NotNullTexts;

extern void not_null_texts(int64 job, const char *name, NotNullTexts *t);

extern bool not_null_take_back(JobRun *run, const Job *target,
							   const JobStep *step);

#endif							/* TENANTMIG_NOT_NULL_H */
