/*
 * json.c
 *		Small helpers over PostgreSQL's jsonb: flat objects in, values out.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "engine/compat.h"
#include "engine/json.h"

struct JsonObject
{
	JsonbParseState *state;
};

static void
put_key(JsonObject *object, const char *key)
{
	JsonbValue	v;

	v.type = jbvString;
	v.val.string.val = pstrdup(key);
	v.val.string.len = (int) strlen(key);
	(void) pushJsonbValue(&object->state, WJB_KEY, &v);
}

static void
put_value(JsonObject *object, JsonbIteratorToken token, JsonbValue *v)
{
	(void) pushJsonbValue(&object->state, token, v);
}

static void
set_string(JsonbValue *v, const char *text)
{
	v->type = jbvString;
	v->val.string.val = pstrdup(text);
	v->val.string.len = (int) strlen(text);
}

JsonObject *
json_begin(void)
{
	JsonObject *object = palloc0(sizeof(JsonObject));

	(void) pushJsonbValue(&object->state, WJB_BEGIN_OBJECT, NULL);
	return object;
}

void
json_put_text(JsonObject *object, const char *key, const char *text)
{
	JsonbValue	v;

	if (text == NULL)
		return;
	put_key(object, key);
	set_string(&v, text);
	put_value(object, WJB_VALUE, &v);
}

void
json_put_int(JsonObject *object, const char *key, int64 number)
{
	JsonbValue	v;

	put_key(object, key);
	v.type = jbvNumeric;
	v.val.numeric = int64_to_numeric(number);
	put_value(object, WJB_VALUE, &v);
}

void
json_put_double(JsonObject *object, const char *key, double number)
{
	JsonbValue	v;

	put_key(object, key);
	v.type = jbvNumeric;
	v.val.numeric = DatumGetNumeric(DirectFunctionCall1(float8_numeric,
														Float8GetDatum(number)));
	put_value(object, WJB_VALUE, &v);
}

void
json_put_bool(JsonObject *object, const char *key, bool flag)
{
	JsonbValue	v;

	put_key(object, key);
	v.type = jbvBool;
	v.val.boolean = flag;
	put_value(object, WJB_VALUE, &v);
}

void
json_put_list(JsonObject *object, const char *key, List *texts)
{
	ListCell   *lc;

	if (texts == NIL)
		return;
	put_key(object, key);
	put_value(object, WJB_BEGIN_ARRAY, NULL);
	foreach(lc, texts)
	{
		JsonbValue	v;

		set_string(&v, (char *) lfirst(lc));
		put_value(object, WJB_ELEM, &v);
	}
	put_value(object, WJB_END_ARRAY, NULL);
}

void
json_put_nested(JsonObject *object, const char *key, Jsonb *value)
{
	JsonbValue	v;

	if (value == NULL)
		return;
	put_key(object, key);
	v.type = jbvBinary;
	v.val.binary.data = &value->root;
	v.val.binary.len = (int) VARSIZE_ANY_EXHDR(value);
	put_value(object, WJB_VALUE, &v);
}

Jsonb *
json_end(JsonObject *object)
{
	return JsonbValueToJsonb(pushJsonbValue(&object->state, WJB_END_OBJECT,
											NULL));
}

/* The value of a key, or NULL when it is missing, null or no object is given */
static JsonbValue *
find(Jsonb *object, const char *key)
{
	JsonbValue *v;

	if (object == NULL || !JB_ROOT_IS_OBJECT(object))
		return NULL;
	v = getKeyJsonValueFromContainer(&object->root, key, (int) strlen(key),
									 NULL);
	return v == NULL || v->type == jbvNull ? NULL : v;
}

char *
json_text(Jsonb *object, const char *key)
{
	JsonbValue *v = find(object, key);

	if (v == NULL)
		return NULL;
	switch (v->type)
	{
		case jbvString:
			return pnstrdup(v->val.string.val, v->val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(v->val.numeric)));
		case jbvBool:
			return pstrdup(v->val.boolean ? "true" : "false");
		default:
			return JsonbToCString(NULL, &JsonbValueToJsonb(v)->root, 0);
	}
}

int64
json_int(Jsonb *object, const char *key, int64 missing)
{
	JsonbValue *v = find(object, key);

	if (v == NULL || v->type != jbvNumeric)
		return missing;
	return DatumGetInt64(DirectFunctionCall1(numeric_int8,
											 NumericGetDatum(v->val.numeric)));
}

bool
json_bool(Jsonb *object, const char *key, bool missing)
{
	JsonbValue *v = find(object, key);

	return v == NULL || v->type != jbvBool ? missing : v->val.boolean;
}

List *
json_list(Jsonb *object, const char *key)
{
	JsonbValue *v = find(object, key);
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	e;
	List	   *texts = NIL;

	if (v == NULL || v->type != jbvBinary)
		return NIL;
	it = JsonbIteratorInit(v->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &e, true)) != WJB_DONE)
		if (token == WJB_ELEM && e.type == jbvString)
			texts = lappend(texts, pnstrdup(e.val.string.val,
											e.val.string.len));
	return texts;
}

Jsonb *
json_nested(Jsonb *object, const char *key)
{
	JsonbValue *v = find(object, key);

	return v == NULL || v->type != jbvBinary ? NULL : JsonbValueToJsonb(v);
}

List *
json_keys(Jsonb *object)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	List	   *keys = NIL;

	if (object == NULL || !JB_ROOT_IS_OBJECT(object))
		return NIL;
	it = JsonbIteratorInit(&object->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		if (token == WJB_KEY)
			keys = lappend(keys, pnstrdup(v.val.string.val,
										  v.val.string.len));
	return keys;
}
