/*
 * index.h
 *		What the call and the build of an index share.
 */
#ifndef TENANTMIG_INDEX_H
#define TENANTMIG_INDEX_H

#include "engine/step.h"

/* CREATE INDEX for one table, as a template; only: of a partitioned table,
 * without rows.  Its inverse. */
extern char *index_create_text(Jsonb *arguments, const char *index, bool only);
extern char *index_drop_text(const char *index, bool concurrently);
extern char *index_qualified_name(Oid table, const char *index);

/* A name that is free, for the index of one table of the tree */
extern char *index_choose_name(Oid table, List *names);
extern char *index_name_for(const Job *job, Oid relid, Oid table);
extern void index_check_name_is_free(Oid relid, const char *name);

/* The index of a table that a job builds or has built: its name, and its OID
 * when it is complete.  The name is written before the build. */
extern void index_journal(int64 job, Oid table, const char *name, Oid index);

extern void index_run(JobRun *run);
extern bool index_holds(const Job *job, Oid relid);
extern char *index_find_inverse(const Job *target, const JobStep *step,
								Oid table);

#endif							/* TENANTMIG_INDEX_H */
