/*
 * worker.h
 *		Background workers: asked for at commit, one job each.
 */
#ifndef TENANTMIG_WORKER_H
#define TENANTMIG_WORKER_H

extern void worker_init(void);

/* When this transaction commits: start a worker for the job */
extern void worker_ask_at_commit(int64 job);

/* When this transaction commits: interrupt whoever works on the job */
extern void worker_interrupt_at_commit(int64 job);

/* Start a worker for the job now; false when there is no free slot.  Job 0: one
 * that only starts what is ready. */
extern bool worker_start(Oid database, int64 job);

/* Start workers for what is ready in this database (interrupted: jobs whose
 * process is gone are queued first).  Returns the first job for which there was no slot,
 * 0 when all that were asked for could be had.  No transaction may be open. */
extern int64 worker_start_ready(bool interrupted);

/* The first thing in the main function of a worker: signals, the connection to
 * the database, settings */
extern void worker_begin(Oid database);

extern PGDLLEXPORT void tenantmig_worker_main(Datum arg);

#endif							/* TENANTMIG_WORKER_H */
