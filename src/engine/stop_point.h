/*
 * stop_point.h
 *		Named places where a test can stop, fail or crash a job.
 *
 * Compiled out unless TENANTMIG_STOP_POINTS is defined (make STOP_POINTS=1).
 * With it, the setting tenantmig.stop_point = 'NAME:ACTION' acts when the
 * place of that name is reached: "wait" stays there until the setting is
 * changed and the configuration reloaded, "error" raises an error, "exit"
 * ends the process as pg_terminate_backend would, "crash" kills it as kill -9
 * would.
 */
#ifndef TENANTMIG_STOP_POINT_H
#define TENANTMIG_STOP_POINT_H

#ifdef TENANTMIG_STOP_POINTS
extern void stop_point(const char *name);
#define STOP_POINT(name) stop_point(name)
#else
#define STOP_POINT(name) ((void) 0)
#endif

#endif							/* TENANTMIG_STOP_POINT_H */
