/*
 * backfill.c
 *		backfill: the call, its options, and the plan of a dry run.
 *
 * The work itself is in backfill_run.c, the statements in source.c, and which
 * rows come next behind rows.h.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/job.h"
#include "engine/json.h"
#include "engine/query.h"
#include "engine/sqltext.h"
#include "engine/template.h"
#include "engine/throttle.h"
#include "steps/backfill.h"
#include "steps/kinds.h"
#include "steps/metadata.h"
#include "steps/rows.h"
#include "steps/target.h"
#include "steps/triggers_off.h"

PG_FUNCTION_INFO_V1(tenantmig_backfill);

/* --- options --------------------------------------------------------- */

static void
bad_option(const char *key, const char *value, const char *allowed)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("option \"%s\" cannot be %s", key, sql_printable(value)),
			 errhint("Use one of: %s.", allowed)));
}

static void
check_is_object(Jsonb *options)
{
	if (!JB_ROOT_IS_OBJECT(options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object")));
}

static void
check_keys(Jsonb *options)
{
	ListCell   *lc;

	foreach(lc, json_keys(options))
	{
		const char *key = lfirst(lc);

		if (throttle_is_option(key) || strcmp(key, "workers") == 0 ||
			strcmp(key, "method") == 0 || strcmp(key, "max_errors") == 0 ||
			strcmp(key, "on_orphan") == 0 || strcmp(key, "orphan_value") == 0 ||
			strcmp(key, "on_conflict") == 0 || strcmp(key, "triggers") == 0 ||
			strcmp(key, "keep_trigger") == 0)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown option \"%s\"", sql_printable(key)),
				 errhint("Known are: method, workers, max_errors, triggers, on_conflict, on_orphan, orphan_value, keep_trigger, %s.",
						 throttle_option_names())));
	}
}

static int64
whole_number(Jsonb *options, const char *key, int64 missing, int64 least,
			 int64 most)
{
	char	   *text = json_text(options, key);
	char	   *end;
	int64		number;

	if (text == NULL)
		return missing;
	errno = 0;
	number = strtoll(text, &end, 10);
	if (end == text || *end != '\0' || errno != 0 || number < least || number > most)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" cannot be %s", key, sql_printable(text)),
				 errhint("Use a whole number from " INT64_FORMAT " to " INT64_FORMAT ".",
						 least, most)));
	return number;
}

static BackfillMethod
read_method(Jsonb *options, const Source *source)
{
	static const char *const names[] = {
		[METHOD_AUTO] = "auto",
		[METHOD_PAGES] = "pages",
		[METHOD_RANGES] = "ranges",
		[METHOD_METADATA] = "metadata",
	};
	char	   *text = json_text(options, "method");
	int			method = METHOD_AUTO;

	if (text == NULL)
		return METHOD_AUTO;
	while (method < lengthof(names) && strcmp(text, names[method]) != 0)
		method++;
	if (method == lengthof(names))
		bad_option("method", text, "auto, pages, ranges, metadata");
	if (method == METHOD_METADATA && source->kind != SOURCE_VALUE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("method \"metadata\" goes with value, which is the same for all rows"),
				 errhint("Leave the option out.")));
	return method;
}

void
backfill_read_options(Jsonb *options, const Source *source,
					  BackfillOptions *result)
{
	char	   *text;

	check_keys(options);
	throttle_check_options(options);

	result->method = read_method(options, source);
	result->max_errors = whole_number(options, "max_errors", 0, 0, INT_MAX);
	result->workers = (int) whole_number(options, "workers", 1, 1, FEED_MOST_TAKERS);
	result->on_orphan = ORPHAN_FAIL;
	if ((text = json_text(options, "on_orphan")) != NULL)
	{
		if (strcmp(text, "leave") == 0)
			result->on_orphan = ORPHAN_LEAVE;
		else if (strcmp(text, "assign") == 0)
			result->on_orphan = ORPHAN_ASSIGN;
		else if (strcmp(text, "fail") != 0)
			bad_option("on_orphan", text, "fail, leave, assign");
	}
	result->orphan_value = json_text(options, "orphan_value");
	if ((result->orphan_value != NULL) != (result->on_orphan == ORPHAN_ASSIGN))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("orphan_value goes with on_orphan \"assign\", and only with it")));
	if (result->orphan_value)
	{
		Datum		value = target_value(&source->target, result->orphan_value);

		if (result->orphan_value[0] == '\0' ||
			source_is_unset(&source->target, value, false, source->unset))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("orphan_value must be neither empty nor the placeholder")));
	}
	result->keep_trigger = false;
	if ((text = json_text(options, "keep_trigger")) != NULL &&
		!parse_bool(text, &result->keep_trigger))
		bad_option("keep_trigger", text, "true, false");
	result->triggers_off = false;
	if ((text = json_text(options, "triggers")) != NULL)
	{
		result->triggers_off = strcmp(text, "off") == 0;
		if (!result->triggers_off && strcmp(text, "on") != 0)
			bad_option("triggers", text, "on, off");
	}
}

/* --- the call -------------------------------------------------------- */

static void
check_one_source(const char *value, const char *expression, const char *via)
{
	int			count = (value != NULL) + (expression != NULL) + (via != NULL);

	if (count != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("exactly one of value, expression and via must be given"),
				 errdetail("%d are given.", count),
				 errhint("For example: SELECT tenantmig.backfill('orders', value => 'default');")));
}

static void
check_not_partition_key(Oid relid, const Source *source)
{
	ListCell   *lc;

	foreach(lc, target_tree(relid))
	{
		Oid			table = lfirst_oid(lc);
		Relation	relation;

		if (get_rel_relkind(table) != RELKIND_PARTITIONED_TABLE)
			continue;
		relation = table_open(table, AccessShareLock);
		for (int i = 0; i < get_partition_natts(RelationGetPartitionKey(relation)); i++)
			if (get_partition_col_attnum(RelationGetPartitionKey(relation), i) ==
				get_attnum(table, source->column))
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("column %s is part of the partition key of %s",
								quote_identifier(source->column), sql_relation(table)),
						 errdetail("Giving rows a new value would move them to other partitions.")));
		table_close(relation, AccessShareLock);
	}
}

Datum
tenantmig_backfill(PG_FUNCTION_ARGS)
{
	Oid			relid;
	JsonObject *arguments = json_begin();
	JobRequest	request = {.kind = "backfill"};
	Source	   *source;
	BackfillOptions options;
	Identity	saved;
	int64		id;

	target_require(fcinfo, 0, "relation");
	target_require(fcinfo, 1, "column_name");
	target_require(fcinfo, 6, "options");
	target_require(fcinfo, 7, "dry_run");
	relid = PG_GETARG_OID(0);
	target_check_relation(relid);
	check_one_source(target_arg_text(fcinfo, 2), target_arg_text(fcinfo, 3),
					 target_arg_text(fcinfo, 4));

	json_put_text(arguments, "column", target_arg_name(fcinfo, 1));
	json_put_text(arguments, "value", target_arg_text(fcinfo, 2));
	json_put_text(arguments, "expression", target_arg_text(fcinfo, 3));
	json_put_text(arguments, "via", target_arg_text(fcinfo, 4));
	json_put_text(arguments, "unset", target_arg_text(fcinfo, 5));
	request.relid = relid;
	request.options = PG_GETARG_JSONB_P(6);
	check_is_object(request.options);
	/* which rows are changed is part of what the call stands for */
	json_put_text(arguments, "on_conflict",
				  json_text(request.options, "on_conflict"));
	request.dry_run = PG_GETARG_BOOL(7);

	identity_enter_owner(&saved, target_owner(relid), namespace_search_path);
	source = source_resolve(json_end(arguments), relid);
	check_not_partition_key(relid, source);
	backfill_read_options(request.options, source, &options);
	if (options.on_orphan == ORPHAN_FAIL)
		source_check_circle(source, 0);
	identity_leave(&saved);

	if (source->kind == SOURCE_VIA)
		request.reads = list_make1_oid(source->parent);
	request.feeds = true;
	request.arguments = source_arguments(source);
	request.describe = psprintf("backfill of %s.%s (%s)", sql_relation(relid),
								quote_identifier(source->column),
								source_describe(source));
	id = job_submit(&request);
	if (source->on_conflict == CONFLICT_OVERWRITE && !request.dry_run)
		ereport(NOTICE,
				(errmsg("values that job " INT64_FORMAT " overwrites are lost: once it has, undo will not be possible",
						id)));
	PG_RETURN_INT64(id);
}

/* --- the plan -------------------------------------------------------- */

typedef struct PlanFacts
{
	int64		rows;
	int64		already_set;
	int64		unresolved;
	int64		strays;			/* rows with another value than a constant */
	int64		conflicting;
	List	   *examples;
	List	   *conflicts;		/* of texts */
	double		bytes_per_row;
	int			indexes;
	int64		blocks;
} PlanFacts;

static void
plan_leaf(const Source *source, Oid leaf, PlanFacts *facts)
{
	Relation	relation = table_open(leaf, AccessShareLock);
	BlockNumber blocks = RelationGetNumberOfBlocks(relation);
	bool		constant = source->kind == SOURCE_VALUE;
	int64		rows;
	int64		all;
	int64		unresolved;
	int64		conflicting;

	facts->indexes = Max(facts->indexes, list_length(RelationGetIndexList(relation)));
	table_close(relation, NoLock);

	SPI_connect();
	SPI_execute(constant ? source_stray_query(source, leaf, false)
				: source_plan_query(source, leaf), true, 0);
	rows = query_get_int8(0, 1, 0);
	all = rows + query_get_int8(0, 2, 0);
	unresolved = constant ? 0 : query_get_int8(0, 3, 0);
	facts->strays += constant ? query_get_int8(0, 3, 0) : 0;
	conflicting = query_get_int8(0, constant ? 3 : 4, 0);
	facts->rows += rows;
	facts->already_set += all - rows;
	facts->unresolved += unresolved;
	facts->conflicting += conflicting;
	facts->blocks += blocks;
	if (all > 0)
		facts->bytes_per_row = Max(facts->bytes_per_row, (double) blocks * BLCKSZ / all);
	SPI_finish();
	if (unresolved > 0 && list_length(facts->examples) < 5)
		facts->examples = list_concat(facts->examples,
									  source_examples(source, leaf, true, 5));
	if (conflicting > 0 && list_length(facts->conflicts) < 5)
	{
		ListCell   *lc;

		foreach(lc, source_conflicts(source, leaf, 5))
			facts->conflicts = lappend(facts->conflicts,
									   backfill_conflict_text(lfirst(lc)));
	}
}

char *
backfill_conflict_text(const Conflict *conflict)
{
	return psprintf("%s has %s, the source gives %s", conflict->key,
					sql_printable(sql_literal(conflict->has)),
					sql_printable(sql_literal(conflict->gives)));
}

static char *
conflict_warning(const Source *source, int64 rows)
{
	static const char *const what[] = {
		[CONFLICT_LEAVE] = "and keep it",
		[CONFLICT_FAIL] = "so the job would fail before it changes anything",
		[CONFLICT_OVERWRITE] = "and would lose it: undo will not be possible",
	};

	return psprintf(INT64_FORMAT " rows have another value than the source gives, %s; see option on_conflict",
					rows, what[source->on_conflict]);
}

/*
 * Rough, and said to be so: a batch writes each row anew, with an entry in
 * each index, and WAL for all of it.
 */
static void
put_estimates(JsonObject *plan, const PlanFacts *facts, bool metadata)
{
	double		row_bytes = facts->bytes_per_row + 80.0 * facts->indexes;

	if (metadata)
	{
		/* the rows are read; what is written is in the catalogs */
		json_put_int(plan, "estimated_ms", (int64) (facts->rows * 0.0002 + facts->blocks * 0.01));
		json_put_int(plan, "estimated_wal_bytes", 0);
		json_put_int(plan, "estimated_disk_bytes", 0);
		return;
	}
	json_put_int(plan, "estimated_ms",
				 (int64) (facts->rows * (0.006 + 0.001 * facts->indexes) +
						  facts->blocks * 0.01));
	json_put_int(plan, "estimated_wal_bytes", (int64) (facts->rows * (row_bytes + 60)));
	json_put_int(plan, "estimated_disk_bytes", (int64) (facts->rows * row_bytes));
}

static void
plan_steps(const Job *job, const Source *source, Oid relid, bool keep_trigger)
{
	List	   *tables = target_trigger_tables(relid);
	char	   *create = source_create_trigger(source, job->id);
	char	   *drop = source_drop_trigger(source, job->id);
	ListCell   *lc;

	foreach(lc, tables)
		(void) step_write(job->id, STEP_STATEMENT, lfirst_oid(lc), "planned",
						  create, drop, true, ShareRowExclusiveLock);
	foreach(lc, target_leaves(relid))
		(void) step_write(job->id, STEP_BATCHES, lfirst_oid(lc), "planned",
						  template_make("%s", source_statement(source, STATEMENT_FILL,
															   lfirst_oid(lc), PLACES_BETWEEN,
															   NULL)),
						  backfill_inverse_text(source), false, RowExclusiveLock);
	foreach(lc, keep_trigger ? NIL : tables)
		(void) step_write(job->id, STEP_STATEMENT, lfirst_oid(lc), "planned",
						  drop, NULL, false, AccessExclusiveLock);
}

/* Whether it would be done by the catalogs alone; *verdict: that and why */
static bool
plan_metadata(const Source *source, const BackfillOptions *options,
			  const PlanFacts *facts, char **verdict)
{
	char	   *reason;

	*verdict = NULL;
	if (source->kind != SOURCE_VALUE)
		return false;
	reason = metadata_obstacle(source, false);
	if (reason == NULL && facts->strays > 0)
		reason = psprintf(facts->strays == 1 ? INT64_FORMAT " row has another value"
						  : INT64_FORMAT " rows have another value", facts->strays);
	*verdict = reason ? psprintf("not possible: %s", reason) : "possible";
	if (reason || options->method == METHOD_METADATA)
		return reason == NULL;
	if (options->method != METHOD_AUTO || facts->rows == 0)
		return false;
	reason = metadata_reservation(source);
	if (reason)
		*verdict = psprintf("possible, but only if asked for by option method: %s", reason);
	return reason == NULL;
}

static Jsonb *
backfill_plan(const Job *job, Oid relid)
{
	Source	   *source = source_resolve(job->arguments, relid);
	JsonObject *plan = json_begin();
	BackfillOptions options;
	PlanFacts	facts = {0};
	List	   *warnings = NIL;
	char	   *verdict;
	bool		metadata;
	List	   *triggers;
	ListCell   *lc;

	foreach(lc, target_leaves(relid))
		plan_leaf(source, lfirst_oid(lc), &facts);
	backfill_read_options(job->options, source, &options);
	metadata = plan_metadata(source, &options, &facts, &verdict);
	if (metadata)
		metadata_plan(job, source, options.keep_trigger);
	else
		plan_steps(job, source, relid, options.keep_trigger);
	if (options.method == METHOD_METADATA && !metadata)
		warnings = lappend(warnings, psprintf("the job would fail: method metadata is %s", verdict));
	if (facts.unresolved > 0)
		warnings = lappend(warnings,
						   psprintf(INT64_FORMAT " rows have no tenant to take from their source; see option on_orphan",
									facts.unresolved));
	if (facts.conflicting > 0)
		warnings = lappend(warnings, conflict_warning(source, facts.conflicting));
	if (options.triggers_off && (triggers = triggers_not_fired(source)) != NIL)
		warnings = lappend(warnings,
						   psprintf("%d triggers will not fire for the rows that the job changes: %s",
									list_length(triggers), sql_name_list(triggers)));
	if (source->on_conflict == CONFLICT_OVERWRITE)
		facts.rows += facts.conflicting;
	json_put_text(plan, "source", source_describe(source));
	json_put_text(plan, "method", metadata ? "metadata"
				  : options.method == METHOD_RANGES || source_wants_ranges(source)
				  ? "ranges" : "pages");
	json_put_text(plan, "metadata", verdict);
	json_put_int(plan, "rows_total", facts.rows);
	json_put_int(plan, "rows_already_set", facts.already_set);
	json_put_int(plan, "rows_unresolved", facts.unresolved);
	json_put_list(plan, "unresolved_examples", facts.examples);
	if (facts.conflicting > 0)
	{
		json_put_int(plan, "rows_conflicting", facts.conflicting);
		json_put_list(plan, "conflict_examples", facts.conflicts);
	}
	put_estimates(plan, &facts, metadata);
	json_put_list(plan, "warnings", warnings);
	return json_end(plan);
}

/* Whether there is no row any more that the job would change or fail for */
static bool
backfill_holds(const Job *job, Oid relid)
{
	Source	   *source = source_resolve(job->arguments, relid);
	ListCell   *lc;

	if (source->target.not_null && source->unset == NULL &&
		source->on_conflict == CONFLICT_LEAVE)
		return true;
	foreach(lc, target_leaves(relid))
		if (source_examples(source, lfirst_oid(lc), false, 1) != NIL ||
			(source->on_conflict != CONFLICT_LEAVE &&
			 source_conflicts(source, lfirst_oid(lc), 1) != NIL))
			return false;
	return true;
}

const StepOps backfill_ops = {
	.kind = "backfill",
	.plan = backfill_plan,
	.run = backfill_run,
	.holds = backfill_holds,
	.undo_batches = backfill_undo,
};
