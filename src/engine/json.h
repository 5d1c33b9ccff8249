/*
 * json.h
 *		Small helpers over PostgreSQL's jsonb: flat objects in, values out.
 */
#ifndef TENANTMIG_JSON_H
#define TENANTMIG_JSON_H

#include "nodes/pg_list.h"
#include "utils/jsonb.h"

typedef struct JsonObject JsonObject;

/* Build one object; a NULL text, list or object writes nothing */
extern JsonObject *json_begin(void);
extern void json_put_text(JsonObject *object, const char *key, const char *text);
extern void json_put_int(JsonObject *object, const char *key, int64 number);
extern void json_put_double(JsonObject *object, const char *key, double number);
extern void json_put_bool(JsonObject *object, const char *key, bool flag);
extern void json_put_list(JsonObject *object, const char *key, List *texts);
extern void json_put_nested(JsonObject *object, const char *key, Jsonb *value);
extern Jsonb *json_end(JsonObject *object);

/* Read one object; palloc'd, NULL or the default where the key is missing or null */
extern char *json_text(Jsonb *object, const char *key);
extern int64 json_int(Jsonb *object, const char *key, int64 missing);
extern bool json_bool(Jsonb *object, const char *key, bool missing);
extern List *json_list(Jsonb *object, const char *key);
extern Jsonb *json_nested(Jsonb *object, const char *key);

/* The keys of an object, as a List of char * */
extern List *json_keys(Jsonb *object);

#endif							/* TENANTMIG_JSON_H */
