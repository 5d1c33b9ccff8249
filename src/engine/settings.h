/*
 * settings.h
 *		The tenantmig.* configuration parameters.
 */
#ifndef TENANTMIG_SETTINGS_H
#define TENANTMIG_SETTINGS_H

extern int	setting_lock_timeout;	/* ms */
extern int	setting_lock_retries;
extern int	setting_max_workers;
extern int	setting_batch_target;	/* ms */
extern int	setting_max_wal_rate;	/* kB per second, 0: no limit */
extern int	setting_max_replication_lag;	/* ms, 0: no limit */
extern int	setting_max_slot_retention; /* MB, 0: no limit */
extern int	setting_max_archive_backlog;	/* segments, 0: no limit */
extern bool setting_yield_to_vacuum;
extern int	setting_max_vacuum_rest;	/* ms */
extern int	setting_max_waiters;	/* -1: no limit */
extern double setting_nice;
extern bool setting_give_way;
extern bool setting_autostart;

#ifdef TENANTMIG_STOP_POINTS
extern char *setting_stop_point;
#endif

extern void settings_define(void);

#endif							/* TENANTMIG_SETTINGS_H */
