/*
 * source.h
 *		Which value a row gets: a constant, an expression, or the parent's.
 *
 * This is the only place that writes the statements of a backfill.
 */
#ifndef TENANTMIG_SOURCE_H
#define TENANTMIG_SOURCE_H

#include "nodes/pg_list.h"
#include "utils/jsonb.h"

#include "steps/target.h"

typedef enum SourceKind
{
	SOURCE_VALUE,
	SOURCE_EXPRESSION,
	SOURCE_VIA
} SourceKind;

/* What to do with rows that have a value, but not the one of the source */
typedef enum ConflictChoice
{
	CONFLICT_LEAVE,
	CONFLICT_FAIL,
	CONFLICT_OVERWRITE
} ConflictChoice;

typedef struct Source
{
	SourceKind	kind;
	ConflictChoice on_conflict;
	Oid			relid;			/* the table of the call */
	char	   *column;
	TargetColumn target;
	char	   *unset;			/* placeholder that counts as NULL, or NULL */
	char	   *value;
	char	   *expression;
	List	   *expression_columns; /* names of columns it reads */
	char	   *via;			/* as in the call */
	Oid			parent;
	List	   *child_columns;	/* names */
	List	   *parent_columns; /* names, in the same order */
	List	   *operators;		/* OPERATOR(...) texts, parent = child */
} Source;

/*
 * Resolve and check what a call or a job's arguments say, as the owner of the
 * table: types, constraint, privileges, row-level security that would hide
 * rows.  Raises 22023, 42703, 42501 and so on.
 */
extern Source *source_resolve(Jsonb *arguments, Oid relid);

/*
 * Raise 22023, with the whole way, if the table would take its values from
 * itself through other open backfills, or kept triggers.  job: not this one.
 */
extern void source_check_circle(const Source *source, int64 job);

/* As in the options */
extern const char *source_conflict_name(ConflictChoice choice);

/* The arguments of the call, with what they were resolved to */
extern Jsonb *source_arguments(const Source *source);

/* For people: "value 'default'", "via orders_customer_id_fkey to public.customers" */
extern char *source_describe(const Source *source);

typedef enum SourceStatement
{
	/* (from, until) -> rows that need a value, rows that have one, rows that
	 * have the one they would get, or the orphan value, and rows that have
	 * another one than the source */
	STATEMENT_COUNT,
	/* (from, until): give the rows that need it their value; with
	 * CONFLICT_OVERWRITE those too that have another one.  In a tree also the
	 * rows above them that need one. */
	STATEMENT_FILL,
	/* the same, passing over rows that somebody has locked */
	STATEMENT_FILL_UNLOCKED,
	/* (from, until): give the orphan value to the rows that need a value and
	 * that the source has none for */
	STATEMENT_ASSIGN,
	STATEMENT_ASSIGN_UNLOCKED,
	/* (from, until) -> rows that FILL would change, if the source has a value
	 * for them; those of them that it has none for */
	STATEMENT_RESIDUE,
	/* (from, until): take back the value from the rows that have the one
	 * they would get, or the orphan value */
	STATEMENT_UNFILL,
	STATEMENT_UNFILL_UNLOCKED,
	/* (from, until) -> where the rows are */
	STATEMENT_PLACES,
	/* -> the key of the row, for people */
	STATEMENT_KEY
} SourceStatement;

/* Which rows of the leaf a statement works on */
typedef enum SourcePlaces
{
	PLACES_BETWEEN = 0,			/* those between two tids, $1 and $2, the first
								 * included */
	PLACES_LISTED = 1,			/* those at the tids of the array $1 */
	PLACES_EXCEPT = 2,			/* added to one of these: not those of the array
								 * $3 */
	PLACES_ALL = 4				/* instead of one of these: any */
} SourcePlaces;

/* The text of a statement for one leaf */
extern char *source_statement(const Source *source, SourceStatement what,
							  Oid leaf, int places, const char *orphan_value);

/* Keys (the texts of jsonb objects) of up to "limit" rows of a leaf that need
 * a value; unresolved: only of those that the source has no value for.  Reads
 * as the current user. */
extern List *source_examples(const Source *source, Oid leaf, bool unresolved,
							 int limit);

/*
 * For a constant: rows that need a value, that have one, that have another one
 * than the constant; between: of $1 and $2, as above.  And the keys of some
 * that have another one.
 */
extern char *source_stray_query(const Source *source, Oid leaf, bool between);
extern List *source_stray_examples(const Source *source, Oid leaf, int limit);

/* A text as a literal of the column's type */
extern char *source_literal(const Source *source, const char *text);
/* Up to "limit" rows of a leaf that have another value than the source: of
 * Conflict *.  Reads as the current user. */
typedef struct Conflict
{
	char	   *key;			/* text of a jsonb object */
	char	   *has;
	char	   *gives;
} Conflict;

extern List *source_conflicts(const Source *source, Oid leaf, int limit);

/* For a dry run: rows that need a value, that have one, that the source has
 * no value for, that have another one than the source */
extern char *source_plan_query(const Source *source, Oid leaf);

/* Whether its statements find more rows to change than those that have no
 * value and whose parents have one: taking a few rows of each page at a time
 * would find the same ones again and again */
extern bool source_wants_ranges(const Source *source);

/* The trigger that gives rows their value: its name, its statement and the
 * inverse of that, templates for the table that gets it */
extern char *source_trigger_name(const Source *source, int64 job);
extern char *source_create_trigger(const Source *source, int64 job);
extern char *source_drop_trigger(const Source *source, int64 job);

/*
 * The query by which that trigger finds the value for a row that is not
 * stored yet: $1 is the row for an expression, $1, $2, ... are the columns of
 * the foreign key for via.  What it gives has yet to be coerced as in an
 * assignment to the column.
 */
extern char *source_row_query(const Source *source);

/* The update of the whole table that an expression would be part of, for parse
 * analysis */
extern char *source_expression_update(const Source *source);

/* Whether a value is the placeholder or NULL */
extern bool source_is_unset(const TargetColumn *column, Datum value,
							bool isnull, const char *unset);

#endif							/* TENANTMIG_SOURCE_H */
