/*
 * fill_trigger.c
 *		The trigger that gives new rows their tenant.
 *
 * A BEFORE ROW trigger, there while a backfill runs, and after it when
 * keep_trigger says so.
 *
 *	INSERT	a row whose tenant is not set gets the one that the source gives.
 *	UPDATE	of the columns that the source reads: a tenant that came from the
 *			source follows it; one that was set otherwise stays.
 *
 * The arguments are written by source_create_trigger(): column, placeholder,
 * search_path, kind, and then
 *
 *	value		the value
 *	expression	the name that the expression may call the table by, and its text
 *	via			schema and name of the parent, then pairs of column here and
 *				column there
 *
 * Anybody can put such a trigger on a table of his own, with any arguments.
 * It is no more than he could do himself: lookups and expressions run as the
 * owner of the table, security-restricted, with the search_path that is among
 * the arguments and not the one of whoever inserts.
 *
 * What a trigger needs is made once for a session and kept by its OID: the
 * arguments of a trigger never change.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/sqltext.h"
#include "steps/source.h"
#include "steps/target.h"

PG_FUNCTION_INFO_V1(tenantmig_fill_tenant);

typedef struct FillTrigger
{
	Oid			oid;			/* of the trigger: hash key */
	Oid			relid;
	bool		valid;			/* false: the table has changed */
	MemoryContext context;
	SourceKind	kind;
	TargetColumn column;
	char	   *unset;
	char	   *search_path;
	Datum		value;			/* SOURCE_VALUE */
	SPIPlanPtr	plan;			/* the others */
	int			nkeys;			/* SOURCE_VIA */
	AttrNumber	keys[INDEX_MAX_KEYS];
	bool		typbyval;
	int16		typlen;
} FillTrigger;

static HTAB *triggers = NULL;

static void
forget_relation(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	FillTrigger *entry;

	hash_seq_init(&status, triggers);
	while ((entry = hash_seq_search(&status)) != NULL)
		if (relid == InvalidOid || entry->relid == relid)
			entry->valid = false;
}

static void
wrong_arguments(const Trigger *trigger)
{
	ereport(ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("trigger %s has arguments that tenantmig did not write",
					quote_identifier(trigger->tgname)),
			 errhint("Only tenantmig.backfill makes such triggers; drop this one.")));
}

static void
keep_plan(FillTrigger *fill, const char *sql, int nargs, Oid *types)
{
	fill->plan = SPI_prepare(sql, nargs, types);
	if (fill->plan == NULL)
		elog(ERROR, "could not prepare: %s", sql);
	(void) SPI_keepplan(fill->plan);
}

/* The parent's tenant, by its key */
static void
prepare_via(FillTrigger *fill, Relation relation, const Trigger *trigger)
{
	char	  **args = trigger->tgargs;
	Oid			types[INDEX_MAX_KEYS];
	StringInfoData sql;

	if (trigger->tgnargs < 8 || trigger->tgnargs % 2 != 0)
		wrong_arguments(trigger);
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT p.%s FROM %s AS p WHERE",
					 quote_identifier(args[0]), sql_name(args[4], args[5]));
	for (int i = 6; i < trigger->tgnargs; i += 2)
	{
		AttrNumber	attnum = get_attnum(RelationGetRelid(relation), args[i]);
		int			n = fill->nkeys++;

		if (attnum <= 0 || n >= INDEX_MAX_KEYS)
			wrong_arguments(trigger);
		fill->keys[n] = attnum;
		types[n] = get_atttype(RelationGetRelid(relation), attnum);
		appendStringInfo(&sql, "%s p.%s %s $%d", n > 0 ? " AND" : "",
						 quote_identifier(args[i + 1]),
						 sql_equality(types[n]), n + 1);
	}
	keep_plan(fill, sql.data, fill->nkeys, types);
}

static void
prepare_expression(FillTrigger *fill, Relation relation, const Trigger *trigger)
{
	Oid			type = RelationGetForm(relation)->reltype;

	if (trigger->tgnargs != 6)
		wrong_arguments(trigger);
	sql_check_expression(trigger->tgargs[5], "expression");
	keep_plan(fill,
			  source_row_query(trigger->tgargs[5], fill->column.type_name,
							   trigger->tgargs[4]),
			  1, &type);
}

static void
prepare(FillTrigger *fill, Relation relation, const Trigger *trigger)
{
	char	  **args = trigger->tgargs;
	MemoryContext old;

	if (trigger->tgnargs < 5)
		wrong_arguments(trigger);
	fill->context = AllocSetContextCreate(TopMemoryContext,
										  "tenantmig fill trigger",
										  ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(fill->context);
	fill->relid = RelationGetRelid(relation);
	target_check_column(fill->relid, args[0], &fill->column);
	get_typlenbyval(fill->column.type, &fill->typlen, &fill->typbyval);
	fill->unset = args[1][0] == '=' ? pstrdup(args[1] + 1) : NULL;
	fill->search_path = pstrdup(args[2]);
	if (strcmp(args[3], "value") == 0)
	{
		fill->kind = SOURCE_VALUE;
		fill->value = target_value(&fill->column, args[4]);
		MemoryContextSwitchTo(old);
		return;
	}
	MemoryContextSwitchTo(old);
	if (strcmp(args[3], "via") == 0)
	{
		fill->kind = SOURCE_VIA;
		prepare_via(fill, relation, trigger);
	}
	else if (strcmp(args[3], "expression") == 0)
	{
		fill->kind = SOURCE_EXPRESSION;
		prepare_expression(fill, relation, trigger);
	}
	else
		wrong_arguments(trigger);
}

/* What the session keeps of this trigger; SPI is connected, as the owner */
static FillTrigger *
look_up(Relation relation, const Trigger *trigger)
{
	FillTrigger *fill;
	bool		found;

	if (triggers == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = sizeof(Oid);
		ctl.entrysize = sizeof(FillTrigger);
		triggers = hash_create("tenantmig fill triggers", 32, &ctl,
							   HASH_ELEM | HASH_BLOBS);
		CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
	}
	fill = hash_search(triggers, &trigger->tgoid, HASH_ENTER, &found);
	if (found && fill->valid)
		return fill;
	if (found)
	{
		if (fill->plan)
			SPI_freeplan(fill->plan);
		if (fill->context)
			MemoryContextDelete(fill->context);
	}
	/* not valid until all is there: an error in between leaves it so */
	memset((char *) fill + sizeof(Oid), 0, sizeof(FillTrigger) - sizeof(Oid));
	prepare(fill, relation, trigger);
	fill->valid = true;
	return fill;
}

/* The value that the source gives to a row, in the current context */
static Datum
derive(FillTrigger *fill, Relation relation, HeapTuple tuple, bool *isnull)
{
	TupleDesc	desc = RelationGetDescr(relation);
	Datum		values[INDEX_MAX_KEYS];
	int			result;
	Datum		value;

	*isnull = false;
	if (fill->kind == SOURCE_VALUE)
		return fill->value;
	*isnull = true;
	if (fill->kind == SOURCE_EXPRESSION)
		values[0] = heap_copy_tuple_as_datum(tuple, desc);
	else
		for (int i = 0; i < fill->nkeys; i++)
		{
			bool		key_isnull;

			values[i] = heap_getattr(tuple, fill->keys[i], desc, &key_isnull);
			if (key_isnull)
				return (Datum) 0;
		}
	result = SPI_execute_plan(fill->plan, values, NULL, false, 1);
	if (result != SPI_OK_SELECT)
		elog(ERROR, "could not look up the tenant: %s", SPI_result_code_string(result));
	if (SPI_processed == 0)
		return (Datum) 0;
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, isnull);
	if (source_is_unset(&fill->column, value, *isnull, fill->unset))
		*isnull = true;
	return value;
}

static bool
same(const FillTrigger *fill, Datum a, bool a_isnull, Datum b, bool b_isnull)
{
	if (a_isnull || b_isnull)
		return a_isnull && b_isnull;
	return datum_image_eq(a, b, fill->typbyval, fill->typlen);
}

static HeapTuple
fill_insert(FillTrigger *fill, Relation relation, HeapTuple tuple)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, fill->column.attnum,
									 RelationGetDescr(relation), &isnull);
	int			attnum = fill->column.attnum;

	if (!source_is_unset(&fill->column, value, isnull, fill->unset))
		return tuple;
	value = derive(fill, relation, tuple, &isnull);
	if (isnull)
		return tuple;
	return heap_modify_tuple_by_cols(tuple, RelationGetDescr(relation), 1,
									 &attnum, &value, &isnull);
}

static HeapTuple
fill_update(FillTrigger *fill, Relation relation, HeapTuple old, HeapTuple new)
{
	TupleDesc	desc = RelationGetDescr(relation);
	int			attnum = fill->column.attnum;
	bool		was_isnull;
	Datum		was = heap_getattr(old, attnum, desc, &was_isnull);
	bool		isnull;
	Datum		value = heap_getattr(new, attnum, desc, &isnull);
	bool		unset = source_is_unset(&fill->column, value, isnull, fill->unset);

	if (!unset)
	{
		/* set by this statement, or not from the source before: it stays */
		if (!same(fill, was, was_isnull, value, isnull))
			return new;
		value = derive(fill, relation, old, &isnull);
		if (!same(fill, was, was_isnull, value, isnull))
			return new;
	}
	value = derive(fill, relation, new, &isnull);
	if (isnull || same(fill, was, was_isnull, value, isnull))
		return new;
	return heap_modify_tuple_by_cols(new, desc, 1, &attnum, &value, &isnull);
}

/* For those whose INSERT fails here and who have never heard of us */
static void
say_where(void *arg)
{
	TriggerData *data = arg;

	errcontext("trigger %s of tenantmig, which gives rows of %s their tenant",
			   quote_identifier(data->tg_trigger->tgname),
			   sql_relation(RelationGetRelid(data->tg_relation)));
}

Datum
tenantmig_fill_tenant(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	Relation	relation;
	FillTrigger *fill;
	Identity	saved;
	HeapTuple	tuple;
	MemoryContext context = CurrentMemoryContext;
	ErrorContextCallback where = {.callback = say_where,.arg = data};

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(data->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(data->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("tenantmig.fill_tenant must be fired by a BEFORE INSERT OR UPDATE trigger FOR EACH ROW")));
	relation = data->tg_relation;
	where.previous = error_context_stack;
	error_context_stack = &where;

	identity_enter_owner(&saved, RelationGetForm(relation)->relowner,
						 data->tg_trigger->tgnargs > 2
						 ? data->tg_trigger->tgargs[2] : NULL);
	SPI_connect();
	fill = look_up(relation, data->tg_trigger);
	tuple = TRIGGER_FIRED_BY_UPDATE(data->tg_event)
		? fill_update(fill, relation, data->tg_trigtuple, data->tg_newtuple)
		: fill_insert(fill, relation, data->tg_trigtuple);
	if (tuple != data->tg_trigtuple && tuple != data->tg_newtuple)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		tuple = heap_copytuple(tuple);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	identity_leave(&saved);
	error_context_stack = where.previous;
	return PointerGetDatum(tuple);
}
