/*
 * unique_key.h
 *		Unique constraints and indexes as jobs read, write and swap them.
 */
#ifndef TENANTMIG_UNIQUE_KEY_H
#define TENANTMIG_UNIQUE_KEY_H

#include "engine/json.h"
#include "engine/step.h"

/*
 * What is unique on one table, with all that DDL can say of it, as an object
 * that can be journaled: the spec of an index (index.h), without a name, and
 *
 *	called							name of the constraint or index
 *	table, schema, relation			of the table
 *	partitioned						bool
 *	constraint						text behind ADD CONSTRAINT name, or missing
 *	deferrable, deferred			bool
 *	comment, index_comment			text
 *	clustered, identity				bool: CLUSTER ON, REPLICA IDENTITY
 *	statistics						list of "number target" of columns
 *	extensions						list: DEPENDS ON EXTENSION
 */
extern Jsonb *unique_read(Oid index);	/* of any index, unique or not */

/* What stands between the parentheses of its definition, one by one */
extern List *unique_elements(Jsonb *key);

/* The same with one more column in front */
extern Jsonb *unique_scoped(Jsonb *key, const char *column);

/*
 * What a partition that came after a key was scoped would have had before: named as
 * it is now, and defined as that of its parent was.
 */
extern Jsonb *unique_unscoped(Jsonb *key, Jsonb *parent);

/* Whether a column is among those that are unique together */
extern bool unique_has(Jsonb *key, const char *column);

/* The names of the columns, as in "(tenant_id, email)" */
extern char *unique_columns(Jsonb *key);

/* On one table of a tree; the root comes first, parents before their children */
typedef struct UniqueChange
{
	Oid			table;
	struct UniqueChange *parent;
	bool		partitioned;
	Jsonb	   *now;
	Jsonb	   *wanted;
	char	   *built;			/* the name of the index until the swap */
	struct IndexEntry *entry;	/* and what the journal says of it */
} UniqueChange;

/* For a table and all partitions: what there is, by the index of the root */
extern List *unique_tree(Oid relid, Oid index);

/*
 * Build what is wanted and put it in the place of what is there, in one
 * transaction; the indexes are built with the run's own journal.  "find" makes
 * out the change from the catalogs, in the run's context, or returns NIL when
 * there is nothing to do; it is called again when something has changed
 * meanwhile.  "done" is called at the end of that transaction.
 */
typedef struct UniqueSwap
{
	List	   *(*find) (JobRun *run, void *arg);
	void		(*done) (JobRun *run, List *changes, void *arg);
	void	   *arg;
	bool		undoable;		/* write what takes it back */
} UniqueSwap;

extern void unique_swap(JobRun *run, UniqueSwap *swap);

/* For a dry run: the steps of it */
extern void unique_plan(const Job *job, List *changes, JsonObject *plan,
						List *warnings);

/* The text that says what would take a change back, as a template */
extern char *unique_inverse_text(const UniqueChange *change);

#endif							/* TENANTMIG_UNIQUE_KEY_H */
