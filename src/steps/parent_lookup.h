/*
 * parent_lookup.h
 *		The value of a parent by its key, without a query.
 */
#ifndef TENANTMIG_PARENT_LOOKUP_H
#define TENANTMIG_PARENT_LOOKUP_H

#include "steps/source.h"

typedef struct ParentLookup ParentLookup;

/*
 * What is needed to look up parents of rows of a table, for a source that is
 * via, in the current context; NULL: only a query can do it.  What is found
 * out here about rights holds until a relation, a schema or a role changes.
 */
extern ParentLookup *parent_lookup_prepare(const Source *source, Oid child,
										   Oid owner);

/*
 * For the keys of many rows, as of the active snapshot: open, ask for each, and
 * close.  Values are in the current context.  What is known of the places of
 * parents can be kept from one reader to the next, as long as they look up
 * parents of the same table; or NULL.
 */
typedef struct ParentReader ParentReader;
typedef struct ParentPlaces ParentPlaces;

extern ParentPlaces *parent_places_make(MemoryContext context);
extern ParentReader *parent_reader_open(const ParentLookup *lookup,
										ParentPlaces *known);
extern Datum parent_reader_value(ParentReader *reader, const Datum *key, bool *isnull);
extern void parent_reader_close(ParentReader *reader);

/*
 * The value of the parent that has this key, none of it NULL, in the order of
 * the foreign key; as of now, as a query in a volatile function would see it.
 * *isnull: no value, or no such parent.  Runs no code but the server's own.
 */
extern Datum parent_lookup_value(const ParentLookup *lookup, const Datum *key,
								 bool *isnull);

#endif							/* TENANTMIG_PARENT_LOOKUP_H */
