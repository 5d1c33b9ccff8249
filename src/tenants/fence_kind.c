/*
 * fence_kind.c
 *		When two values are the same tenant.
 */
#include "postgres.h"

#include <ctype.h>

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/lsyscache.h"

#include "engine/compat.h"
#include "tenants/fence.h"

/* citext is another extension's: its type is told by its input function */
static bool
is_citext(Oid type)
{
	Oid			input;
	Oid			ioparam;
	char	   *name;

	getTypeInputInfo(type, &input, &ioparam);
	name = get_func_name(input);
	return name && strcmp(name, "citextin") == 0;
}

FenceKind
fence_kind(Oid type, Oid collation)
{
	Oid			base = getBaseType(type);

	if (OidIsValid(collation) && !get_collation_isdeterministic(collation))
		return FENCE_NONE;
	switch (base)
	{
		case TEXTOID:
		case VARCHAROID:
			return FENCE_TEXT;
		case BPCHAROID:
			return FENCE_BPCHAR;
		case UUIDOID:
			return FENCE_UUID;
		case INT2OID:
		case INT4OID:
		case INT8OID:
			return FENCE_INTEGER;
		default:
			if (get_typtype(base) == TYPTYPE_ENUM)
				return FENCE_TEXT;
			return is_citext(base) ? FENCE_CITEXT : FENCE_NONE;
	}
}

/* 32 digits in lower case: hyphens and braces mean nothing */
static char *
canonical_uuid(const char *text)
{
	char	   *result = palloc(33);
	int			digits = 0;

	for (const char *p = text; *p; p++)
	{
		if (strchr("-{}", *p))
			continue;
		if (digits == 32 || !isxdigit((unsigned char) *p))
			return NULL;
		result[digits++] = pg_ascii_tolower((unsigned char) *p);
	}
	result[digits] = '\0';
	return digits == 32 ? result : NULL;
}

static char *
canonical_integer(const char *text)
{
	char	   *end;
	int64		number;

	errno = 0;
	number = strtoi64(text, &end, 10);
	if (errno != 0 || end == text)
		return NULL;
	while (isspace((unsigned char) *end))
		end++;
	return *end == '\0' ? psprintf(INT64_FORMAT, number) : NULL;
}

char *
fence_canonical(FenceKind kind, const char *tenant)
{
	char	   *result;
	int			length;

	switch (kind)
	{
		case FENCE_TEXT:
			return pstrdup(tenant);
		case FENCE_BPCHAR:
			result = pstrdup(tenant);
			length = strlen(result);
			while (length > 0 && result[length - 1] == ' ')
				result[--length] = '\0';
			return result;
		case FENCE_CITEXT:
			/* as the type itself folds them */
			return str_tolower(tenant, strlen(tenant), DEFAULT_COLLATION_OID);
		case FENCE_UUID:
			return canonical_uuid(tenant);
		case FENCE_INTEGER:
			return canonical_integer(tenant);
		case FENCE_NONE:
			break;
	}
	return NULL;
}
