/*
 * document.c
 *		A nested jsonb document: built in order, and taken apart again.
 */
#include "postgres.h"

#include "utils/numeric.h"

#include "checks/document.h"
#include "engine/compat.h"

struct Document
{
	JsonbParseState *state;
};

static void
push(Document *document, JsonbIteratorToken token, JsonbValue *value)
{
	(void) pushJsonbValue(&document->state, token, value);
}

static JsonbValue
string_value(const char *text)
{
	JsonbValue	v;

	v.type = jbvString;
	v.val.string.val = pstrdup(text);
	v.val.string.len = (int) strlen(text);
	return v;
}

static void
push_key(Document *document, const char *key)
{
	JsonbValue	v;

	if (key == NULL)
		return;
	v = string_value(key);
	push(document, WJB_KEY, &v);
}

static void
push_value(Document *document, const char *key, JsonbValue *value)
{
	push_key(document, key);
	push(document, key ? WJB_VALUE : WJB_ELEM, value);
}

static void
push_null(Document *document, const char *key)
{
	JsonbValue	v;

	v.type = jbvNull;
	push_value(document, key, &v);
}

Document *
document_begin(void)
{
	Document   *document = palloc0(sizeof(Document));

	push(document, WJB_BEGIN_OBJECT, NULL);
	return document;
}

void
document_object(Document *document, const char *key)
{
	push_key(document, key);
	push(document, WJB_BEGIN_OBJECT, NULL);
}

void
document_end_object(Document *document)
{
	push(document, WJB_END_OBJECT, NULL);
}

void
document_array(Document *document, const char *key)
{
	push_key(document, key);
	push(document, WJB_BEGIN_ARRAY, NULL);
}

void
document_end_array(Document *document)
{
	push(document, WJB_END_ARRAY, NULL);
}

void
document_text(Document *document, const char *key, const char *text)
{
	JsonbValue	v;

	if (text == NULL)
	{
		push_null(document, key);
		return;
	}
	v = string_value(text);
	push_value(document, key, &v);
}

void
document_count(Document *document, const char *key, int64 count)
{
	JsonbValue	v;

	if (count < 0)
	{
		push_null(document, key);
		return;
	}
	v.type = jbvNumeric;
	v.val.numeric = int64_to_numeric(count);
	push_value(document, key, &v);
}

void
document_bool(Document *document, const char *key, bool flag)
{
	JsonbValue	v;

	v.type = jbvBool;
	v.val.boolean = flag;
	push_value(document, key, &v);
}

void
document_part(Document *document, const char *key, Jsonb *part)
{
	JsonbValue	v;

	if (part == NULL)
	{
		push_null(document, key);
		return;
	}
	v.type = jbvBinary;
	v.val.binary.data = &part->root;
	v.val.binary.len = VARSIZE(part) - VARHDRSZ;
	push_value(document, key, &v);
}

void
document_texts(Document *document, const char *key, List *texts)
{
	ListCell   *lc;

	document_array(document, key);
	foreach(lc, texts)
		document_text(document, NULL, lfirst(lc));
	document_end_array(document);
}

Jsonb *
document_end(Document *document)
{
	return JsonbValueToJsonb(pushJsonbValue(&document->state, WJB_END_OBJECT,
											NULL));
}

Jsonb *
document_get(Jsonb *object, const char *key)
{
	JsonbValue *v;

	if (object == NULL || !JB_ROOT_IS_OBJECT(object))
		return NULL;
	v = getKeyJsonValueFromContainer(&object->root, key, (int) strlen(key),
									 NULL);
	return v == NULL || v->type != jbvBinary ? NULL : JsonbValueToJsonb(v);
}

List *
document_items(Jsonb *object, const char *key)
{
	Jsonb	   *array = document_get(object, key);
	List	   *items = NIL;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;

	if (array == NULL)
		return NIL;
	it = JsonbIteratorInit(&array->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		if (token == WJB_ELEM && v.type == jbvBinary)
			items = lappend(items, JsonbValueToJsonb(&v));
	return items;
}
