/*
 * launcher.h
 *		Resuming jobs after a restart; needs shared_preload_libraries.
 */
#ifndef TENANTMIG_LAUNCHER_H
#define TENANTMIG_LAUNCHER_H

extern void launcher_init(void);

/* Have the launcher look at a database soon; false when there is none */
extern bool launcher_ask(Oid database);

/* In a starter: the same, and have it start a worker for this job when the
 * starter has left its slot */
extern void launcher_ask_for_job(Oid database, int64 job);

extern PGDLLEXPORT void tenantmig_launcher_main(Datum arg);
extern PGDLLEXPORT void tenantmig_starter_main(Datum arg);

#endif							/* TENANTMIG_LAUNCHER_H */
