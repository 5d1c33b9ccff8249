/*
 * target.h
 *		The table and the column that a call works on, checked.
 */
#ifndef TENANTMIG_TARGET_H
#define TENANTMIG_TARGET_H

#include "fmgr.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"

/* An argument that must not be NULL; raises 22004 with its name */
extern void target_require(FunctionCallInfo fcinfo, int argument,
						   const char *name);

/* text, name and array arguments, palloc'd; NULL or NIL where the argument is NULL */
extern char *target_arg_text(FunctionCallInfo fcinfo, int argument);
extern char *target_arg_name(FunctionCallInfo fcinfo, int argument);
extern List *target_arg_list(FunctionCallInfo fcinfo, int argument,
							 const char *name);

/*
 * A table that a job may work on: an ordinary or partitioned table, not of the
 * system, not temporary, without foreign tables below it, and the caller has
 * the rights of its owner.  The owner is checked first, so that nobody learns
 * about tables of others.
 */
extern void target_check_relation(Oid relid);

/* A user column of it; raises 42703.  Fills in what is asked for. */
typedef struct TargetColumn
{
	AttrNumber	attnum;
	Oid			type;
	int32		typmod;
	Oid			collation;
	bool		not_null;
	char	   *type_name;		/* as in DDL */
} TargetColumn;

extern void target_check_column(Oid relid, const char *column,
								TargetColumn *result);
extern bool target_find_column(Oid relid, const char *column,
							   TargetColumn *result);

/* The relations that hold the rows: the table itself, or its leaf partitions,
 * and inheritance children; as OIDs, ascending */
extern List *target_leaves(Oid relid);

/* The table and all that inherits from it; and those of them on which a row
 * trigger must be made, since a partition gets that of its parent */
extern List *target_tree(Oid relid);
extern List *target_trigger_tables(Oid relid);

/* A value of the column's type from text, by its input function */
extern Datum target_value(const TargetColumn *column, const char *text);

/* The owner of a relation, by OID */
extern Oid	target_owner(Oid relid);

/*
 * For direct functions: a step of the job in the caller's transaction, with its
 * journal entry, on the relation (locked already) and as the owner of root,
 * waiting for no lock longer than tenantmig.lock_timeout.  The texts are
 * templates.  The lock is ACCESS EXCLUSIVE, or the one that is given.
 */
extern void target_step(int64 job, Oid root, Oid relid, const char *statement,
						const char *inverse);
extern void target_step_under(int64 job, Oid root, Oid relid,
							  const char *statement, const char *inverse,
							  LOCKMODE mode);

#endif							/* TENANTMIG_TARGET_H */
