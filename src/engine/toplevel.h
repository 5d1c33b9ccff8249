/*
 * toplevel.h
 *		Statements that cannot run inside a transaction block.
 */
#ifndef TENANTMIG_TOPLEVEL_H
#define TENANTMIG_TOPLEVEL_H

/*
 * Run one utility command as a client at the top level would: CREATE INDEX
 * CONCURRENTLY, DROP INDEX CONCURRENTLY, VACUUM, ANALYZE.  No transaction may
 * be open at entry; none is at exit.  Returns NULL or the error, in context.
 * relid: the table that an index is made on; if another one has got its name
 * when the lock is had, that is an error which passes.
 * The command runs as "user"; PostgreSQL itself runs index functions and the
 * like as the owner of the table, security-restricted.
 */
extern ErrorData *toplevel_run(const char *sql, Oid relid, Oid user,
							   const char *search_path,
							   MemoryContext context);

#endif							/* TENANTMIG_TOPLEVEL_H */
