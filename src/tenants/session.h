/*
 * session.h
 *		For whom a session works.
 */
#ifndef TENANTMIG_SESSION_H
#define TENANTMIG_SESSION_H

/*
 * Set the setting, and the search_path of where the tenant lives, for the
 * transaction or for the session.  Raises 22023 for a bad name of a setting,
 * 42704 for a tenant that is not in the registry, and 55000 for one that lives
 * in another database.
 */
extern void session_use_tenant(const char *tenant, const char *setting,
							   bool is_local);

/* The text argument with the name of the setting; raises 22004 if it is null */
extern char *session_setting_argument(FunctionCallInfo fcinfo, int argument);

/* --- lock.c --- */

/* The settings of this file, when the library is loaded */
extern void session_lock_define(void);

#endif							/* TENANTMIG_SESSION_H */
