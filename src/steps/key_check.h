/*
 * key_check.h
 *		What stands in the way of a change of keys.
 */
#ifndef TENANTMIG_KEY_CHECK_H
#define TENANTMIG_KEY_CHECK_H

#include "steps/key_change.h"

/*
 * Raise an error for what cannot be kept or done.  user has the owner's rights
 * on the table, and must have them on the referencing ones; so must the owner.
 * calling: columns
 * that an open job is about to make NOT NULL are taken for such.
 */
extern void key_check(const KeyChange *change, Oid user, bool calling);

/* Raise an error if others stand on the new key by now */
extern void key_check_back(const KeyChange *change, const Job *target);

/* What a person should know beforehand, as sentences */
extern List *key_warnings(const KeyChange *change);

/* Values of the wanted key that are there more than once, read as the current
 * user over SPI; 0 without reading where the old key rules them out */
extern int64 key_duplicates(const KeyChange *change, char **example);

#endif							/* TENANTMIG_KEY_CHECK_H */
