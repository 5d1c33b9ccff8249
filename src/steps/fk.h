/*
 * fk.h
 *		Foreign keys as jobs read, write and build them.
 */
#ifndef TENANTMIG_FK_H
#define TENANTMIG_FK_H

#include "engine/step.h"

/* One foreign key; of a partitioned table the one of the root */
typedef struct ForeignKey
{
	Oid			child;			/* the referencing table */
	Oid			referenced;
	Oid			constraint;		/* InvalidOid: not made yet */
	char	   *name;
	List	   *columns;		/* char *, in pairs with the next */
	List	   *referenced_columns;
	char		match;			/* as in pg_constraint */
	char		on_update;
	char		on_delete;
	List	   *set_columns;	/* of ON DELETE SET NULL (...); NIL: all */
	bool		deferrable;
	bool		deferred;
	bool		valid;
	bool		enforced;
	char	   *comment;
	Jsonb	   *partitions;		/* its names on the partitions, by their OIDs */
	List	   *tables;			/* OIDs: on which it is built, the child or its leaf
								 * partitions */
} ForeignKey;

/* Read from the catalogs, as objects that can be journaled: those that depend
 * on an index of the referenced table, in the order of their tables' names; the
 * one of a name, or NULL */
extern List *fk_read_all(Oid referenced, Oid index);
extern Jsonb *fk_read(Oid child, const char *name);

/* Such an object as a struct; NULL when one of its tables is gone */
extern ForeignKey *fk_parse(Jsonb *object);

/* FOREIGN KEY (...) REFERENCES ..., without NOT VALID, as a template */
extern char *fk_definition(const ForeignKey *fk);

/*
 * A name for one of the job's own until it gets that of what it replaces; the
 * OID keeps apart what is alike after truncation.  first: one that comes before
 * all others, for the partitions of a table: the server attaches the first by
 * name that is the same as the table's, and one that the partition had before
 * must not go with that.
 */
extern char *fk_temporary_name(int64 job, const char *name, Oid distinct,
							   bool first);
extern bool fk_is_temporary(const char *name);

/* The child, or its leaf partitions as they are now */
extern List *fk_tables(Oid child);

/* The OID of a constraint on a table; whether it is validated */
extern Oid	fk_find(Oid table, const char *name, bool *valid);

/*
 * Build it under a name of the job's own, step by step; what an earlier attempt
 * has done is not done twice.  NOT VALID under SHARE ROW EXCLUSIVE on both
 * tables for a moment (a temporary step), and validated beside readers and
 * writers.
 */
extern void fk_build(JobRun *run, const ForeignKey *fk, const char *temporary);
extern void fk_validate(JobRun *run, const ForeignKey *fk, const char *temporary);

/* The texts of that, for the plan */
extern char *fk_add_text(const ForeignKey *fk, const char *name, bool valid);
extern char *fk_drop_text(const char *name);
extern char *fk_validate_text(const char *name);
extern char *fk_rename_text(const char *from, const char *to);
extern void fk_plan_build(int64 job, const ForeignKey *fk, const char *temporary);

/* The rows that would violate it, counted as the current user, over SPI; and
 * the keys of some */
#define FK_MOST_VIOLATIONS	100	/* listed for each foreign key */

typedef struct FkViolations
{
	const ForeignKey *fk;
	char	   *child;			/* the tables as they are called */
	char	   *referenced;
	int64		count;
	List	   *examples;		/* char *, each a jsonb */
} FkViolations;

extern FkViolations *fk_violations(const ForeignKey *fk);

/* Record them, and raise 23503 if there are any; outside of any transaction.
 * advice is the first part of the HINT */
extern void fk_raise_violations(JobRun *run, List *violations, const char *advice);

#endif							/* TENANTMIG_FK_H */
