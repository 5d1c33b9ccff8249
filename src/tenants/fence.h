/*
 * fence.h
 *		Who may write for a tenant now.
 */
#ifndef TENANTMIG_FENCE_H
#define TENANTMIG_FENCE_H

#define FENCE_TRIGGER			"tenantmig_fence"
#define FENCE_TRUNCATE_TRIGGER	"tenantmig_fence_truncate"

/*
 * The registry has tenants as text; columns have other types.  Two values are
 * the same tenant if a column of that kind takes them for the same.
 */
typedef enum FenceKind
{
	FENCE_NONE,					/* not a type that can be fenced */
	FENCE_TEXT,					/* text, varchar, enums */
	FENCE_BPCHAR,				/* blanks at the end do not count */
	FENCE_CITEXT,				/* upper and lower case are the same */
	FENCE_UUID,
	FENCE_INTEGER
} FenceKind;

#define FENCE_KINDS	5			/* from FENCE_TEXT on */

/* Of a column; domains are what they are made of */
extern FenceKind fence_kind(Oid type, Oid collation);

/* The one text for all that are the same, palloc'd; NULL when this text is no
 * value of that kind */
extern char *fence_canonical(FenceKind kind, const char *tenant);

/* A writer's, until the end of the top transaction */
extern void fence_lock_writer(const char *canonical);
extern void fence_lock_all_tenants(void);

/*
 * Within a transaction: wait for the transactions that have written for the
 * tenant to fenced tables, and make those that want to wait for this one.
 * Other tenants' writers do not wait, except those with very many tenants in
 * one transaction.  No wait is longer than tenantmig.lock_timeout, which makes
 * the writers behind it go on; it is asked for again tenantmig.lock_retries
 * times.  Raises 55P03 that names a blocker.
 */
extern void fence_close(const char *tenant);

#endif							/* TENANTMIG_FENCE_H */
