/*
 * give_way.h
 *		Others who want the processor go first.
 */
#ifndef TENANTMIG_GIVE_WAY_H
#define TENANTMIG_GIVE_WAY_H

/*
 * For loops of long work, next to CHECK_FOR_INTERRUPTS(): where nothing is held
 * that is only ever held for a moment, such as the content lock of a buffer.
 */
extern void give_way(void);

#endif							/* TENANTMIG_GIVE_WAY_H */
