/*
 * split.c
 *		Rows that fail: found by splitting the batch that they spoil.
 *
 * When a trigger or a constraint rejects a row, its whole batch is rolled
 * back.  Then the batch is done again in halves, and the half that fails in
 * halves of it, until the row is alone: a range of blocks is cut at blocks, one
 * block into its rows.  The row is recorded with its key, its place is left out
 * of every later statement, and the job goes on until there are more of them
 * than max_errors.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "engine/compat.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "steps/crew.h"
#include "steps/pass.h"

/*
 * What is said of the data of a row, by the server or by a trigger.  Not: that
 * the statement or the rights are wrong, that a resource has run out, that a
 * transaction was in the way of another, that somebody has interrupted it.
 */
bool
split_helps(const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case MAKE_SQLSTATE('0', '8', '0', '0', '0'):
		case MAKE_SQLSTATE('0', 'A', '0', '0', '0'):
		case MAKE_SQLSTATE('2', '5', '0', '0', '0'):
		case MAKE_SQLSTATE('2', '8', '0', '0', '0'):
		case MAKE_SQLSTATE('4', '0', '0', '0', '0'):
		case MAKE_SQLSTATE('4', '2', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '3', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '4', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '5', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '7', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '8', '0', '0', '0'):
		case MAKE_SQLSTATE('X', 'X', '0', '0', '0'):
			return false;
		default:
			return true;
	}
}

ArrayType *
tid_array(const ItemPointerData *tids, int count)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(count, 1));
	ArrayType  *array;

	for (int i = 0; i < count; i++)
		values[i] = PointerGetDatum(&tids[i]);
	array = construct_array(values, count, TIDOID, sizeof(ItemPointerData),
							false, TYPALIGN_SHORT);
	pfree(values);
	return array;
}

static ItemPointerData *
array_tids(const ArrayType *array, int *count)
{
	Datum	   *values;
	ItemPointerData *tids;

	deconstruct_array(unconstify(ArrayType *, array), TIDOID, sizeof(ItemPointerData),
					  false, TYPALIGN_SHORT, &values, NULL, count);
	tids = palloc(sizeof(ItemPointerData) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
		tids[i] = *(ItemPointer) DatumGetPointer(values[i]);
	return tids;
}

/* --- halves ---------------------------------------------------------- */

static RowSet *
copy_set(const RowSet *set)
{
	RowSet	   *copy = palloc(sizeof(RowSet));

	*copy = *set;
	return copy;
}

static RowSet *
listed_set(const RowSet *set, const ItemPointerData *tids, int count)
{
	RowSet	   *copy = copy_set(set);

	copy->open = false;
	copy->tids = tid_array(tids, count);
	copy->count = count;
	return copy;
}

static List *
halves_of_list(const RowSet *set, const ItemPointerData *tids, int count)
{
	int			half = (count + 1) / 2;

	if (count == 0)
		return NIL;
	if (count == 1)
		return list_make1(listed_set(set, tids, 1));
	return list_make2(listed_set(set, tids, half),
					  listed_set(set, tids + half, count - half));
}

typedef struct SplitArg
{
	Pass	   *pass;
	List	   *halves;
} SplitArg;

/* The rows of a block, as a list */
static List *
halves_of_block(JobRun *run, const Pass *pass, const RowSet *set)
{
	ItemPointerData from;
	ItemPointerData until;
	Oid			types[2] = {TIDOID, TIDOID};
	Datum		values[2] = {PointerGetDatum(&from), PointerGetDatum(&until)};
	ItemPointerData *tids;
	Identity	saved;
	MemoryContext context = CurrentMemoryContext;
	List	   *halves;

	ItemPointerSet(&from, set->from, 0);
	ItemPointerSet(&until, set->until, 0);
	run_enter_owner(run, &saved);
	if (SPI_execute_with_args(source_statement(pass->source, STATEMENT_PLACES,
											   set->leaf, PLACES_BETWEEN, NULL),
							  2, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not list the rows of a block");
	identity_leave(&saved);
	MemoryContextSwitchTo(context);
	tids = palloc(sizeof(ItemPointerData) * Max(SPI_processed, 1));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;

		tids[i] = *(ItemPointer) DatumGetPointer(SPI_getbinval(SPI_tuptable->vals[i],
															   SPI_tuptable->tupdesc, 1, &isnull));
	}
	halves = halves_of_list(set, tids, (int) SPI_processed);
	pfree(tids);
	return halves;
}

/* What comes in behind the end while this goes on is left to the sweep */
static List *
halves_of_range(const RowSet *set)
{
	RowSet	   *first = copy_set(set);
	RowSet	   *second = copy_set(set);

	first->until = second->from = set->from + (set->until - set->from) / 2;
	return list_make2(first, second);
}

static void
close_set(RowSet *set)
{
	Relation	relation;

	if (!set->open)
		return;
	relation = try_table_open(set->leaf, AccessShareLock);
	if (relation)
	{
		set->until = Max(set->until, RelationGetNumberOfBlocks(relation));
		table_close(relation, AccessShareLock);
	}
	set->open = false;
}

static void
split_body(JobRun *run, void *arg)
{
	SplitArg   *a = arg;
	RowSet		set = a->pass->set;
	int			count;
	ItemPointerData *tids;

	MemoryContextSwitchTo(run->context);
	if (set.tids)
	{
		tids = array_tids(set.tids, &count);
		a->halves = halves_of_list(&set, tids, count);
		pfree(tids);
		return;
	}
	close_set(&set);
	if (set.until - set.from > 1)
		a->halves = halves_of_range(&set);
	else
		a->halves = halves_of_block(run, a->pass, &set);
}

/* --- one row --------------------------------------------------------- */

typedef struct BadRowArg
{
	Pass	   *pass;
	ErrorData  *error;
	char	   *relation;
	char	   *key;			/* NULL: the row has gone */
	bool		known;			/* it has failed in another place before */
} BadRowArg;

static void
key_body(JobRun *run, void *arg)
{
	BadRowArg  *a = arg;
	const RowSet *set = &a->pass->set;
	Oid			types[1] = {TIDARRAYOID};
	Datum		values[1] = {PointerGetDatum(set->tids)};
	Identity	saved;
	Jsonb	   *key;

	run_enter_owner(run, &saved);
	if (SPI_execute_with_args(source_statement(a->pass->source, STATEMENT_KEY,
											   set->leaf, PLACES_LISTED, NULL),
							  1, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the key of a row");
	identity_leave(&saved);
	if (SPI_processed == 0)
		return;
	MemoryContextSwitchTo(run->context);
	a->relation = sql_relation(set->leaf);
	a->key = query_get_text(0, 1);
	key = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(a->key)));
	a->known = job_has_row_error(run->job->id, a->relation, key);
	if (!a->known)
		job_add_error(run->job->id, a->relation, key,
					  unpack_sql_state(a->error->sqlerrcode), a->error->message);
}

void
split_remember(MemoryContext context, BadRows *bad, BadRow row)
{
	if (bad->count == bad->room)
	{
		bad->room = Max(64, bad->room * 2);
		bad->list = bad->list
			? repalloc(bad->list, sizeof(BadRow) * bad->room)
			: MemoryContextAlloc(context, sizeof(BadRow) * bad->room);
	}
	bad->list[bad->count++] = row;
}

static void
raise_for_row(JobRun *run, int64 max_errors, ErrorData *error,
			  const BadRowArg *bad)
{
	const char *row = psprintf("The row is %s of %s.", bad->key, bad->relation);

	error->detail = error->detail ? psprintf("%s %s", error->detail, row) : pstrdup(row);
	if (max_errors > 0)
		error->message = psprintf("%s (and more than " INT64_FORMAT " rows in all have failed)",
								  error->message, max_errors);
	error->hint = psprintf("Mend the row and SELECT tenantmig.retry(" INT64_FORMAT "), which goes on with what is left; or allow for some with options {\"max_errors\": ...}.",
						   run->job->id);
	ReThrowError(error);
}

static void
one_row_failed(JobRun *run, Pass *pass, ErrorData *error)
{
	BadRowArg	arg = {.pass = pass,.error = error};
	int			count;
	ItemPointerData *tids = array_tids(pass->set.tids, &count);
	BadRow		bad = {.leaf = pass->set.leaf,.tid = tids[0]};

	run_or_error(run, key_body, &arg);
	/* gone meanwhile: whoever took it away has done it a service */
	if (arg.key == NULL)
		return;
	split_remember(run->context, pass->bad, bad);
	if (!arg.known)
		pass->bad->rows++;
	crew_add_bad_row(run, pass, bad, !arg.known);
	if (pass->bad->rows > pass->max_errors)
		raise_for_row(run, pass->max_errors, error, &arg);
}

void
split_forget_part(Pass *pass)
{
	RowSet	   *part;

	if (pass->parts == NIL)
		return;
	part = linitial(pass->parts);
	pass->parts = list_delete_first(pass->parts);
	if (part->tids && part->tids != pass->whole.tids)
		pfree(part->tids);
	pfree(part);
}

void
split_failed(JobRun *run, Pass *pass, ErrorData *error)
{
	SplitArg	arg = {.pass = pass};
	MemoryContext context;

	if (pass->set.tids && pass->set.count == 1)
		one_row_failed(run, pass, error);
	else
		run_or_error(run, split_body, &arg);
	split_forget_part(pass);
	context = MemoryContextSwitchTo(run->context);
	pass->parts = list_concat(arg.halves, pass->parts);
	MemoryContextSwitchTo(context);
}
