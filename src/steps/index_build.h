/*
 * index_build.h
 *		What the builds of one table and of a partitioned one share.
 */
#ifndef TENANTMIG_INDEX_BUILD_H
#define TENANTMIG_INDEX_BUILD_H

#include "steps/index.h"

/* The index of one table: of the one of the call, or of a partition at any depth */
typedef struct IndexBuild
{
	const char *key;
	Jsonb	   *spec;
	Oid			root;			/* the table of the call */
	Oid			table;
	struct IndexBuild *parent;	/* NULL: it is the table of the call */
	bool		partitioned;
	bool		attached;		/* to the index of the parent */
	bool		gone;			/* dropped or detached meanwhile */
	char	   *name;
	char	   *qualified;
	char	   *create;			/* templates for the table */
	char	   *drop;
	Oid			index;			/* what carries the name, or was completed */
	bool		exists;
	bool		ours;
	bool		valid;
	bool		other_entry;	/* the journal has something else for this key */
	JobStep    *other;			/* and this built it */
} IndexBuild;

/*
 * The journal of the indexes.  The name is written before the build, with what
 * is asked for; the OID when the index is complete or, on a partitioned table,
 * made.
 */
typedef struct IndexEntry
{
	Oid			table;
	char	   *key;
	char	   *name;
	Oid			index;
	Jsonb	   *spec;
} IndexEntry;

extern IndexEntry *index_entry(const Job *job, Oid table, const char *key);

/* All of a table (or of any: InvalidOid) and a key (or of any: NULL) */
extern List *index_entries(const Job *job, Oid table, const char *key);
extern void index_journal(int64 job, Oid table, const char *key,
						  const char *name, Jsonb *spec, Oid index);

/* What the journal, or else the name, says is the index of a table */
extern Oid	index_candidate(Oid table, const IndexEntry *entry);

/* The same, if it is defined as was asked for and valid; or InvalidOid */
extern Oid	index_of_entry(Oid table, const IndexEntry *entry);

/* The same as index_hand_over() */
extern void index_hand_over_entry(const Job *job, Oid table,
								  const IndexEntry *entry);

/* Settle the name of the index of one table and look at what is there */
extern void index_look(JobRun *run, IndexBuild *b);

/* Raises, or forgets a name that we chose: it is taken by something not ours */
extern void index_taken(JobRun *run, IndexBuild *b);

/* Build the index of one table that holds rows, whatever an earlier attempt left */
extern void index_build_rows(JobRun *run, IndexBuild *b);

#endif							/* TENANTMIG_INDEX_BUILD_H */
