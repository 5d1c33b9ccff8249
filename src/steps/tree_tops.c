/*
 * tree_tops.c
 *		The topmost of each row in a tree, for the statements of source.c.
 *
 * Takes each row with the one above it, or NULL.  A row that comes to one that
 * is not among them, or round to itself, has no topmost and is left out.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/itemptr.h"
#include "utils/array.h"
#include "utils/hsearch.h"

#include "engine/compat.h"

PG_FUNCTION_INFO_V1(tenantmig_tree_tops);

typedef struct TreeRow
{
	ItemPointerData tid;		/* hash key */
	bool		has_up;
	bool		visited;		/* on the way that is being followed, or done */
	struct TreeRow *top;		/* once known */
	ItemPointerData up;
} TreeRow;

static HTAB *
read_rows(ArrayType *tids, ArrayType *ups)
{
	HASHCTL		ctl = {.keysize = sizeof(ItemPointerData),
	.entrysize = sizeof(TreeRow),.hcxt = CurrentMemoryContext};
	Datum	   *tid;
	Datum	   *up;
	bool	   *up_isnull;
	int			count;
	int			up_count;
	HTAB	   *rows;

	if (array_contains_nulls(tids))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("tids must not contain nulls")));
	deconstruct_array(tids, TIDOID, sizeof(ItemPointerData), false,
					  TYPALIGN_SHORT, &tid, NULL, &count);
	deconstruct_array(ups, TIDOID, sizeof(ItemPointerData), false,
					  TYPALIGN_SHORT, &up, &up_isnull, &up_count);
	if (count != up_count)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("tids and ups must be of the same length")));
	rows = hash_create("tenantmig tree", Max(count, 1), &ctl,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < count; i++)
	{
		TreeRow    *row = hash_search(rows, DatumGetPointer(tid[i]), HASH_ENTER, NULL);

		row->has_up = !up_isnull[i];
		row->visited = false;
		row->top = NULL;
		if (row->has_up)
			row->up = *(ItemPointer) DatumGetPointer(up[i]);
	}
	return rows;
}

/* Each row is passed once, whatever the shape of the tree */
static void
find_top(HTAB *rows, TreeRow *start)
{
	TreeRow    *row = start;
	TreeRow    *top;

	while (row && !row->visited && row->has_up)
	{
		row->visited = true;
		row = hash_search(rows, &row->up, HASH_FIND, NULL);
	}
	top = row && !row->has_up ? row : row ? row->top : NULL;
	for (row = start; row && row != top && row->has_up && row->top == NULL && top;
		 row = hash_search(rows, &row->up, HASH_FIND, NULL))
		row->top = top;
	if (top)
		top->top = top;
}

Datum
tenantmig_tree_tops(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	HTAB	   *rows = read_rows(PG_GETARG_ARRAYTYPE_P(0), PG_GETARG_ARRAYTYPE_P(1));
	HASH_SEQ_STATUS status;
	TreeRow    *row;

	InitMaterializedSRF(fcinfo, 0);
	hash_seq_init(&status, rows);
	while ((row = hash_seq_search(&status)) != NULL)
	{
		Datum		values[2];
		bool		nulls[2] = {false, false};

		CHECK_FOR_INTERRUPTS();
		find_top(rows, row);
		if (row->top == NULL)
			continue;
		values[0] = PointerGetDatum(&row->tid);
		values[1] = PointerGetDatum(&row->top->tid);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	hash_destroy(rows);
	return (Datum) 0;
}
