/*
 * identity.h
 *		As whom the code runs: the caller, the table's owner, the extension.
 */
#ifndef TENANTMIG_IDENTITY_H
#define TENANTMIG_IDENTITY_H

typedef struct Identity
{
	Oid			user;
	int			sec_context;
	int			guc_level;
} Identity;

/*
 * Become the extension, for a statement of our own on our own tables.  Only
 * text that is qualified down to the operators may run in between.
 */
extern void identity_enter_extension(Identity *saved);

/*
 * Become the owner of a relation, inside a security-restricted operation:
 * nothing the owner's code does (triggers, defaults, index functions, casts)
 * can have more than the owner's rights, or change back.  search_path is the
 * one the caller of the job had; NULL keeps the session's.  Temporary objects
 * of the session are looked for last, so that they shadow nothing.
 */
extern void identity_enter_owner(Identity *saved, Oid owner,
								 const char *search_path);

/* Back to what was saved; settings changed in between are undone. */
extern void identity_leave(const Identity *saved);

/* The number that says in which database of which cluster a job was recorded */
extern int64 identity_home(void);

#endif							/* TENANTMIG_IDENTITY_H */
