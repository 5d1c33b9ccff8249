/*
 * custom_setting.h
 *		The setting of the user's that names the tenant of a session.
 */
#ifndef TENANTMIG_CUSTOM_SETTING_H
#define TENANTMIG_CUSTOM_SETTING_H

/* What the functions take when they are not told otherwise */
#define CUSTOM_SETTING_DEFAULT	"app.current_tenant_id"

/* Raise 22023 unless this can be the name of a custom setting that is not the
 * extension's own */
extern void custom_setting_check(const char *name);

#endif							/* TENANTMIG_CUSTOM_SETTING_H */
