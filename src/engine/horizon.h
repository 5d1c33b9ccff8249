/*
 * horizon.h
 *		Who keeps old row versions from being removed.
 */
#ifndef TENANTMIG_HORIZON_H
#define TENANTMIG_HORIZON_H

/*
 * Within a transaction, as the extension: the holder of the oldest snapshot or
 * transaction that this database must respect, in words, palloc'd; NULL when
 * there is none but this process.  *pid: its process, or 0.
 */
extern char *horizon_holder(int *pid);

#endif							/* TENANTMIG_HORIZON_H */
