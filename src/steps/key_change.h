/*
 * key_change.h
 *		A change of a primary key and of the foreign keys that point at it.
 */
#ifndef TENANTMIG_KEY_CHANGE_H
#define TENANTMIG_KEY_CHANGE_H

#include "engine/json.h"
#include "steps/fk.h"
#include "steps/key.h"

/* One table: that of the call, or a partition of it at any depth */
typedef struct TableChange
{
	Oid			table;
	bool		partitioned;
	KeyDef	   *now;
	KeyDef	   *wanted;
	char	   *temporary;		/* name of the index until the swap */
	char	   *kept;			/* what the old key is called, where it is kept */
} TableChange;

typedef struct FkChange
{
	ForeignKey *now;
	ForeignKey *wanted;
	char	   *temporary;
} FkChange;

/* All names in it are those of the job that makes it */
typedef struct KeyChange
{
	Oid			relid;
	bool		keep;			/* the old key stays as a unique constraint */
	bool		back;			/* this is the undo of one */
	bool		builds;			/* an index for the wanted key */
	List	   *tables;			/* TableChange *, the root first */
	List	   *foreign_keys;	/* FkChange * */
	Jsonb	   *before;			/* for the undo */
} KeyChange;

/*
 * What a job has to do now, from its arguments and the catalogs; and what the
 * undo of "target" has to do.  NULL: nothing, it is so already.  Within a
 * transaction; palloc'd in the current context.
 */
extern KeyChange *key_change_forth(const Job *job, Oid relid);
extern KeyChange *key_change_back(const Job *job, const Job *target, Oid relid);

/* Write the planned steps, and the facts of the plan into the object */
extern void key_change_plan(const Job *job, const KeyChange *change,
							JsonObject *plan);

/* Do it, from wherever an earlier attempt was interrupted */
extern void key_change_run(JobRun *run, KeyChange *change);

/* The key, for index_build_table(), of the index on the new key */
#define KEY_INDEX	"key"

/* Between the two files: the tables of a tree; the unique constraint that the
 * index of a table is made, as a template; the check that keys and partitions
 * are those that the change was made out for; and the swap, as one transaction */
extern List *key_tables(Oid relid);
extern char *key_unique_text(const TableChange *t);
extern void key_check_tables(JobRun *run, const KeyChange *change);
extern void key_check_unique(JobRun *run, const KeyChange *change);
extern void key_swap_body(JobRun *run, void *arg);

#endif							/* TENANTMIG_KEY_CHANGE_H */
