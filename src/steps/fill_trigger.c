/*
 * fill_trigger.c
 *		The trigger that gives rows their tenant.
 *
 * A BEFORE ROW trigger, there while a backfill runs, and after it when
 * keep_trigger says so.
 *
 *	INSERT	a row whose tenant is not set gets the one that the source gives.
 *	UPDATE	the same, so that a row that moves while the backfill runs is
 *			filled on its way.  When a column that the source reads changes, a
 *			tenant that came from the source follows it; one that was set
 *			otherwise stays.
 *
 * It fires for each row that the backfill itself changes, and for all that the
 * application does.  So whether there is anything to do is found out by
 * comparing the values of the two rows, and only then it becomes another user
 * and runs a query; parents are looked up without one where that is safe.
 *
 * The only argument is the number of the job.  The TRIGGER privilege lets
 * others than the owner make such a trigger, with what arguments they like,
 * and what we do runs as the owner: so all else is read from the job, which
 * nobody but us can write, and the job must be one of this table or of one
 * above it.  Lookups and expressions run as the owner of the job's table, as
 * in the backfill: security-restricted, with the search_path of the job.
 *
 * What a trigger needs is made once and kept by its OID until one of the
 * tables changes.  It may be replaced while a firing further up the stack
 * still works with the old one (an expression may write to this very table):
 * that one is put aside, and freed when nobody uses it any more.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/ilist.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/job.h"
#include "engine/sqltext.h"
#include "steps/parent_lookup.h"
#include "steps/source.h"
#include "steps/target.h"

PG_FUNCTION_INFO_V1(tenantmig_fill_tenant);

/* What one trigger needs; all of it in its own context, but for the plan */
typedef struct Fill
{
	slist_node	node;			/* in "retired" */
	MemoryContext context;
	int			uses;			/* firings that work with it now */
	bool		valid;			/* false: a table has changed */
	Oid			relid;
	Oid			root;			/* the table of the job */
	Oid			parent;			/* SOURCE_VIA */
	ParentLookup *lookup;		/* the same; NULL: by the plan */
	Oid			owner;			/* of the root */
	char	   *search_path;
	SourceKind	kind;
	TargetColumn column;
	bool		typbyval;
	int16		typlen;
	bool		has_unset;
	Datum		unset;			/* the placeholder */
	FmgrInfo   *equality;
	Datum		value;			/* SOURCE_VALUE */
	SPIPlanPtr	plan;			/* the others */
	int			nreads;			/* columns that the source reads; for via,
								 * those of the key in order */
	AttrNumber *reads;
} Fill;

typedef struct FillEntry
{
	Oid			trigger;		/* hash key */
	Fill	   *fill;			/* never NULL */
} FillEntry;

static HTAB *triggers = NULL;
static slist_head retired = SLIST_STATIC_INIT(retired);

/* Counts the changes of tables that this session has been told of */
static uint64 changes = 0;

static void
forget_all(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS status;
	FillEntry  *entry;

	changes++;
	hash_seq_init(&status, triggers);
	while ((entry = hash_seq_search(&status)) != NULL)
		entry->fill->valid = false;
}

static void
forget_relation(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	FillEntry  *entry;

	changes++;
	hash_seq_init(&status, triggers);
	while ((entry = hash_seq_search(&status)) != NULL)
		if (relid == InvalidOid || entry->fill->relid == relid ||
			entry->fill->root == relid || entry->fill->parent == relid)
			entry->fill->valid = false;
}

/* Free what has been put aside, and what belongs to triggers that have changed
 * or gone, unless a firing still works with it */
static void
free_old(void)
{
	HASH_SEQ_STATUS status;
	FillEntry  *entry;
	slist_mutable_iter iter;

	hash_seq_init(&status, triggers);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (entry->fill->valid)
			continue;
		slist_push_head(&retired, &entry->fill->node);
		(void) hash_search(triggers, &entry->trigger, HASH_REMOVE, NULL);
	}
	slist_foreach_modify(iter, &retired)
	{
		Fill	   *fill = slist_container(Fill, node, iter.cur);

		if (fill->uses > 0)
			continue;
		slist_delete_current(&iter);
		if (fill->plan)
			SPI_freeplan(fill->plan);
		MemoryContextDelete(fill->context);
	}
}

/* --- what a trigger needs -------------------------------------------- */

/* The relation from which this trigger can be dropped */
static Oid
trigger_home(Relation relation, const Trigger *trigger)
{
	Oid			home = RelationGetRelid(relation);
	ListCell   *lc;

	if (!trigger->tgisclone)
		return home;
	foreach(lc, get_partition_ancestors(home))
		if (OidIsValid(get_trigger_oid(lfirst_oid(lc), trigger->tgname, true)))
			home = lfirst_oid(lc);
	return home;
}

static char *
drop_hint(Relation relation, const Trigger *trigger)
{
	char	   *home = sql_relation(trigger_home(relation, trigger));

	return psprintf("DROP TRIGGER %s ON %s; and, if its new rows should still get their tenant, call tenantmig.backfill for %s again, as things are now.",
					quote_identifier(trigger->tgname), home, home);
}

static void
not_ours(Relation relation, const Trigger *trigger, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("trigger %s of %s belongs to no backfill of that table",
					quote_identifier(trigger->tgname),
					sql_relation(RelationGetRelid(relation))),
			 errdetail_internal("%s", detail),
			 errhint("%s", drop_hint(relation, trigger))));
}

/* The job of the trigger, and its table: this one, or one above it */
static Job *
find_job(Relation relation, const Trigger *trigger, Oid *root)
{
	Oid			relid = RelationGetRelid(relation);
	const char *text = trigger->tgnargs == 1 ? trigger->tgargs[0] : "";
	Job		   *job;

	if (text[0] == '\0' || strlen(text) > 18 ||
		strspn(text, "0123456789") != strlen(text))
		not_ours(relation, trigger, "Its argument is not the number of a job.");
	job = job_read(strtoll(text, NULL, 10));
	if (job && strcmp(job->kind, "backfill") == 0)
	{
		*root = job_relation(job);
		if (*root == relid ||
			typeInheritsFrom(get_rel_type_id(relid), get_rel_type_id(*root)))
			return job;
	}
	not_ours(relation, trigger,
			 psprintf("There is no such job as %s, or it is about something else.", text));
	return NULL;
}

static void
find_reads(Fill *fill, const Source *source)
{
	List	   *names = source->kind == SOURCE_VIA ? source->child_columns
		: source->kind == SOURCE_EXPRESSION ? source->expression_columns : NIL;
	ListCell   *lc;

	fill->reads = palloc(sizeof(AttrNumber) * Max(list_length(names), 1));
	foreach(lc, names)
		fill->reads[fill->nreads++] = get_attnum(fill->relid, lfirst(lc));
}

static void
prepare_plan(Fill *fill, Relation relation, const Source *source)
{
	Oid			types[INDEX_MAX_KEYS] = {RelationGetForm(relation)->reltype};
	bool		via = fill->kind == SOURCE_VIA;
	char	   *sql = source_row_query(source);
	SPIPlanPtr	plan;

	for (int i = 0; via && i < fill->nreads; i++)
		types[i] = get_atttype(fill->relid, fill->reads[i]);
	plan = SPI_prepare(sql, via ? fill->nreads : 1, types);
	if (plan == NULL)
		elog(ERROR, "could not prepare: %s", sql);
	(void) SPI_keepplan(plan);
	fill->plan = plan;
}

/*
 * All that can fail is done before the plan, and before the context is made to
 * last, so that nothing is left behind by an error.
 */
static Fill *
prepare(Relation relation, const Trigger *trigger)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "tenantmig fill trigger",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Fill	   *fill = palloc0(sizeof(Fill));
	uint64		before;
	Job		   *job;
	Source	   *source;
	Identity	saved;

	fill->context = context;
	fill->relid = RelationGetRelid(relation);
	job = find_job(relation, trigger, &fill->root);
	fill->owner = target_owner(fill->root);
	fill->search_path = job->search_path;
	before = changes;
	identity_enter_owner(&saved, fill->owner, fill->search_path);
	source = source_resolve(job->arguments, fill->root);
	fill->kind = source->kind;
	fill->parent = source->parent;
	target_check_column(fill->relid, source->column, &fill->column);
	get_typlenbyval(fill->column.type, &fill->typlen, &fill->typbyval);
	fill->equality = &lookup_type_cache(fill->column.type,
										TYPECACHE_EQ_OPR_FINFO)->eq_opr_finfo;
	fill->has_unset = source->unset != NULL;
	if (fill->has_unset)
		fill->unset = target_value(&fill->column, source->unset);
	if (fill->kind == SOURCE_VALUE)
		fill->value = target_value(&fill->column, source->value);
	find_reads(fill, source);
	if (fill->kind == SOURCE_VIA)
		fill->lookup = parent_lookup_prepare(source, fill->relid, fill->owner);
	SPI_connect();
	if (fill->kind != SOURCE_VALUE && fill->lookup == NULL)
		prepare_plan(fill, relation, source);
	SPI_finish();
	identity_leave(&saved);
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, TopMemoryContext);
	fill->valid = changes == before;
	return fill;
}

/*
 * Add to an error what to do about the trigger, since whoever meets it may not
 * know of us: when something was renamed or dropped that its source needs.
 */
static void
rethrow_with_hint(MemoryContext context, Relation relation,
				  const Trigger *trigger, bool preparing)
{
	ErrorData  *error;
	int			category;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
	if (category == ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION ||
		(preparing && category == ERRCODE_DATA_EXCEPTION))
	{
		FlushErrorState();
		error->hint = drop_hint(relation, trigger);
		ReThrowError(error);
	}
	PG_RE_THROW();
}

/* What the session keeps of this trigger */
static Fill *
look_up(Relation relation, const Trigger *trigger)
{
	MemoryContext context = CurrentMemoryContext;
	FillEntry  *entry;
	Fill	   *fill;
	bool		found;

	if (triggers == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = sizeof(Oid);
		ctl.entrysize = sizeof(FillEntry);
		triggers = hash_create("tenantmig fill triggers", 32, &ctl,
							   HASH_ELEM | HASH_BLOBS);
		CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
		/* the rights of the owner */
		CacheRegisterSyscacheCallback(AUTHOID, forget_all, (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, forget_all, (Datum) 0);
		CacheRegisterSyscacheCallback(NAMESPACEOID, forget_all, (Datum) 0);
	}
	entry = hash_search(triggers, &trigger->tgoid, HASH_FIND, NULL);
	if (entry && entry->fill->valid)
		return entry->fill;
	free_old();
	PG_TRY();
	{
		fill = prepare(relation, trigger);
	}
	PG_CATCH();
	{
		rethrow_with_hint(context, relation, trigger, true);
	}
	PG_END_TRY();
	/* checking a value may have fired this trigger in between */
	entry = hash_search(triggers, &trigger->tgoid, HASH_ENTER, &found);
	if (found)
		slist_push_head(&retired, &entry->fill->node);
	entry->fill = fill;
	return fill;
}

/* --- a row ----------------------------------------------------------- */

static bool
same(Datum a, bool a_isnull, Datum b, bool b_isnull, bool typbyval, int16 typlen)
{
	if (a_isnull || b_isnull)
		return a_isnull && b_isnull;
	return datum_image_eq(a, b, typbyval, typlen);
}

static bool
is_unset(const Fill *fill, Datum value, bool isnull)
{
	if (isnull)
		return true;
	return fill->has_unset &&
		DatumGetBool(FunctionCall2Coll(fill->equality, fill->column.collation,
									   value, fill->unset));
}

static bool
reads_differ(const Fill *fill, TupleDesc desc, HeapTuple old, HeapTuple new)
{
	for (int i = 0; i < fill->nreads; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, fill->reads[i] - 1);
		bool		old_isnull;
		bool		new_isnull;
		Datum		old_value = heap_getattr(old, fill->reads[i], desc, &old_isnull);
		Datum		new_value = heap_getattr(new, fill->reads[i], desc, &new_isnull);

		if (!same(old_value, old_isnull, new_value, new_isnull,
				  att->attbyval, att->attlen))
			return true;
	}
	return false;
}

/*
 * What the source gave, as the assignment of an UPDATE makes it a value of the
 * column: with an error where it does not fit, not cut to length.  In a domain
 * its constraints are checked.
 */
static Datum
assign(const Fill *fill, Datum value, Oid type, bool *isnull)
{
	CaseTestExpr *placeholder = makeNode(CaseTestExpr);
	Node	   *expr;
	ExprContext *econtext;

	if (type == fill->column.type && fill->column.typmod < 0)
		return value;
	placeholder->typeId = type;
	placeholder->typeMod = -1;
	placeholder->collation = get_typcollation(type);
	expr = coerce_to_target_type(NULL, (Node *) placeholder, type,
								 fill->column.type, fill->column.typmod,
								 COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
	if (expr == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the tenant column is of type %s but the expression is of type %s",
						fill->column.type_name, format_type_be(type))));
	econtext = CreateStandaloneExprContext();
	econtext->caseValue_datum = value;
	econtext->caseValue_isNull = *isnull;
	expr = (Node *) expression_planner((Expr *) expr);
	value = ExecEvalExpr(ExecInitExpr((Expr *) expr, NULL), econtext, isnull);
	if (!*isnull)
		value = datumCopy(value, fill->typbyval, fill->typlen);
	FreeExprContext(econtext, true);
	return value;
}

/* The value that the source gives to a row; without a lookup SPI is connected,
 * as the owner */
static Datum
derive(const Fill *fill, TupleDesc desc, HeapTuple tuple, bool *isnull)
{
	Datum		values[INDEX_MAX_KEYS];
	int			result;
	Datum		value;

	*isnull = true;
	if (fill->kind == SOURCE_EXPRESSION)
		values[0] = heap_copy_tuple_as_datum(tuple, desc);
	else
		for (int i = 0; i < fill->nreads; i++)
		{
			bool		key_isnull;

			values[i] = heap_getattr(tuple, fill->reads[i], desc, &key_isnull);
			if (key_isnull)
				return (Datum) 0;
		}
	if (fill->lookup)
	{
		value = parent_lookup_value(fill->lookup, values, isnull);
		*isnull = is_unset(fill, value, *isnull);
		return value;
	}
	result = SPI_execute_plan(fill->plan, values, NULL, false, 1);
	if (result != SPI_OK_SELECT)
		elog(ERROR, "could not look up the tenant: %s", SPI_result_code_string(result));
	if (SPI_processed == 0)
		return (Datum) 0;
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, isnull);
	if (*isnull)
		return (Datum) 0;
	value = assign(fill, value, SPI_gettypeid(SPI_tuptable->tupdesc, 1), isnull);
	if (is_unset(fill, value, *isnull))
		*isnull = true;
	return value;
}

static HeapTuple
give(const Fill *fill, TupleDesc desc, HeapTuple tuple, Datum value)
{
	int			attnum = fill->column.attnum;
	bool		isnull = false;

	return heap_modify_tuple_by_cols(tuple, desc, 1, &attnum, &value, &isnull);
}

/* The new row with the tenant that the source gives.  old: only if it has the
 * one that the source gave to the old row. */
static HeapTuple
follow(const Fill *fill, TupleDesc desc, HeapTuple old, HeapTuple new)
{
	MemoryContext context = CurrentMemoryContext;
	HeapTuple	result = new;
	Identity	saved;
	bool		came_from_source = true;
	bool		isnull;
	Datum		value;

	if (fill->lookup == NULL)
	{
		identity_enter_owner(&saved, fill->owner, fill->search_path);
		SPI_connect();
	}
	if (old)
	{
		bool		was_isnull;
		Datum		was = heap_getattr(old, fill->column.attnum, desc, &was_isnull);

		value = derive(fill, desc, old, &isnull);
		came_from_source = same(was, was_isnull, value, isnull,
								fill->typbyval, fill->typlen);
	}
	if (came_from_source)
	{
		value = derive(fill, desc, new, &isnull);
		if (!isnull)
		{
			MemoryContext spi = MemoryContextSwitchTo(context);

			result = give(fill, desc, new, value);
			MemoryContextSwitchTo(spi);
		}
	}
	if (fill->lookup == NULL)
	{
		SPI_finish();
		identity_leave(&saved);
	}
	return result;
}

/* The same, while nobody frees what it works with */
static HeapTuple
follow_safely(Fill *fill, Relation relation, const Trigger *trigger,
			  HeapTuple old, HeapTuple new)
{
	MemoryContext context = CurrentMemoryContext;
	HeapTuple	result;

	fill->uses++;
	PG_TRY();
	{
		result = follow(fill, RelationGetDescr(relation), old, new);
	}
	PG_CATCH();
	{
		fill->uses--;
		rethrow_with_hint(context, relation, trigger, false);
	}
	PG_END_TRY();
	fill->uses--;
	return result;
}

/*
 * The row as it shall be stored.  The backfill's own updates set a tenant that
 * was not set: they leave by the second return or the third.
 */
static HeapTuple
fill_row(Fill *fill, Relation relation, const Trigger *trigger,
		 HeapTuple old, HeapTuple new)
{
	TupleDesc	desc = RelationGetDescr(relation);
	bool		isnull;
	Datum		value = heap_getattr(new, fill->column.attnum, desc, &isnull);
	bool		was_isnull;
	Datum		was;

	if (is_unset(fill, value, isnull))
		return fill->kind == SOURCE_VALUE
			? give(fill, desc, new, fill->value)
			: follow_safely(fill, relation, trigger, NULL, new);
	if (old == NULL || fill->nreads == 0)
		return new;
	was = heap_getattr(old, fill->column.attnum, desc, &was_isnull);
	if (!same(was, was_isnull, value, isnull, fill->typbyval, fill->typlen) ||
		!reads_differ(fill, desc, old, new))
		return new;
	return follow_safely(fill, relation, trigger, old, new);
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
	ErrorContextCallback where = {.callback = say_where,.arg = data};
	bool		update;
	Fill	   *fill;
	HeapTuple	tuple;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(data->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(data->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("tenantmig.fill_tenant must be fired by a BEFORE INSERT OR UPDATE trigger FOR EACH ROW")));
	where.previous = error_context_stack;
	error_context_stack = &where;
	update = TRIGGER_FIRED_BY_UPDATE(data->tg_event);
	fill = look_up(data->tg_relation, data->tg_trigger);
	tuple = fill_row(fill, data->tg_relation, data->tg_trigger,
					 update ? data->tg_trigtuple : NULL,
					 update ? data->tg_newtuple : data->tg_trigtuple);
	error_context_stack = where.previous;
	return PointerGetDatum(tuple);
}
