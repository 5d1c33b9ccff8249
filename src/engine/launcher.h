/*
 * launcher.h
 *		Resuming jobs after a restart; needs shared_preload_libraries.
 */
#ifndef TENANTMIG_LAUNCHER_H
#define TENANTMIG_LAUNCHER_H

extern void launcher_init(void);

/* Have the launcher look at a database soon; false when there is none */
extern bool launcher_ask(Oid database);

extern PGDLLEXPORT void tenantmig_launcher_main(Datum arg);
extern PGDLLEXPORT void tenantmig_starter_main(Datum arg);

#endif							/* TENANTMIG_LAUNCHER_H */
