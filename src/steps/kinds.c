/*
 * kinds.c
 *		The table of the kinds of job.
 */
#include "postgres.h"

#include "engine/compat.h"
#include "engine/step.h"
#include "steps/kinds.h"

static const StepOps *const kinds[] = {
	&column_ops,
	&backfill_ops,
	&index_ops,
	&not_null_ops,
	&scope_unique_ops,
	&foreign_key_ops,
	&primary_key_ops,
	&rls_enable_ops,
	&rls_disable_ops,
	&fence_ops,
	&unfence_ops,
	&undo_ops,
};

const StepOps *
step_ops(const char *kind)
{
	for (int i = 0; i < lengthof(kinds); i++)
		if (strcmp(kinds[i]->kind, kind) == 0)
			return kinds[i];
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("unknown kind of job \"%s\"", kind),
			 errhint("It was recorded by another version of tenantmig.")));
}
