/*
 * document.h
 *		A nested jsonb document: built in order, and taken apart again.
 *
 * json.h has the flat objects; what is here are objects and arrays within
 * objects and arrays.  A key is NULL for an element of an array.
 */
#ifndef TENANTMIG_DOCUMENT_H
#define TENANTMIG_DOCUMENT_H

#include "nodes/pg_list.h"
#include "utils/jsonb.h"

typedef struct Document Document;

/* Build: the document is an object */
extern Document *document_begin(void);
extern void document_object(Document *document, const char *key);
extern void document_end_object(Document *document);
extern void document_array(Document *document, const char *key);
extern void document_end_array(Document *document);

/* A NULL text or part, or a negative count, is written as null */
extern void document_text(Document *document, const char *key,
						  const char *text);
extern void document_count(Document *document, const char *key, int64 count);
extern void document_bool(Document *document, const char *key, bool flag);
extern void document_part(Document *document, const char *key, Jsonb *part);
extern void document_texts(Document *document, const char *key, List *texts);
extern Jsonb *document_end(Document *document);

/* Take apart: an object or array under a key, or NULL; the objects and arrays
 * in an array, as a List of Jsonb * */
extern Jsonb *document_get(Jsonb *object, const char *key);
extern List *document_items(Jsonb *object, const char *key);

#endif							/* TENANTMIG_DOCUMENT_H */
