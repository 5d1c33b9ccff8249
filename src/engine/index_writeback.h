/*
 * index_writeback.h
 *		An index that is being built goes to the disk while it grows.
 */
#ifndef TENANTMIG_INDEX_WRITEBACK_H
#define TENANTMIG_INDEX_WRITEBACK_H

/*
 * Around a command that makes an index: the disk is told to begin with what
 * there is of its file, many times a second.  The end may come without the
 * beginning, and twice; it belongs into the way out of an error, too.
 */
extern void index_writeback_begin(void);
extern void index_writeback_end(void);

#endif							/* TENANTMIG_INDEX_WRITEBACK_H */
