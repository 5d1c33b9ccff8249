/*
 * query.h
 *		Statements of the extension's own, with typed parameters, over SPI.
 */
#ifndef TENANTMIG_QUERY_H
#define TENANTMIG_QUERY_H

#include "executor/spi.h"
#include "utils/jsonb.h"

#define QUERY_MAX_ARGS 20

typedef struct OwnQuery
{
	const char *sql;
	int			nargs;
	Oid			types[QUERY_MAX_ARGS];
	Datum		values[QUERY_MAX_ARGS];
	char		nulls[QUERY_MAX_ARGS];
	bool		latest;			/* see what has been committed by now, also in
								 * a transaction that keeps its snapshot */
} OwnQuery;

extern void query_init(OwnQuery *query, const char *sql);
extern void query_int8(OwnQuery *query, int64 value);
extern void query_int4(OwnQuery *query, int32 value);
extern void query_float8(OwnQuery *query, double value);
extern void query_bool(OwnQuery *query, bool value);
extern void query_oid(OwnQuery *query, Oid value);
extern void query_text(OwnQuery *query, const char *value);	/* NULL: null */
extern void query_name(OwnQuery *query, const char *value);
extern void query_jsonb(OwnQuery *query, Jsonb *value);
extern void query_datum(OwnQuery *query, Oid type, Datum value, bool isnull);

/*
 * Run it as the extension; SPI must be connected for query_run, while
 * query_once connects and finishes by itself.  Both see what the transaction
 * did so far and return SPI_processed.
 */
extern uint64 query_run(OwnQuery *query);
extern uint64 query_once(OwnQuery *query);

/* The cells of the result of query_run, palloc'd in the current context */
extern char *query_get_text(uint64 row, int column);
extern int64 query_get_int8(uint64 row, int column, int64 null_value);
extern bool query_get_bool(uint64 row, int column);
extern Oid	query_get_oid(uint64 row, int column);
extern Jsonb *query_get_jsonb(uint64 row, int column);

#endif							/* TENANTMIG_QUERY_H */
