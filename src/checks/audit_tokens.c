/*
 * audit_tokens.c
 *		The words of a function's text, to tell what it mentions.
 *
 * This is no parser: the texts are of any language, and most are not SQL from
 * one end to the other.  Comments of SQL are left out.  What stands in
 * literals is read like the rest, since that is where statements that are put
 * together at run time are.  So a word in a message counts as mentioned, which
 * is why nothing is more than a warning on this ground alone.
 */
#include "postgres.h"

#include <ctype.h>

#include "lib/stringinfo.h"

#include "checks/audit.h"
#include "engine/compat.h"

static bool
is_word_start(char c)
{
	return isalpha((unsigned char) c) || c == '_' || IS_HIGHBIT_SET(c);
}

static bool
is_word(char c)
{
	return is_word_start(c) || isdigit((unsigned char) c) || c == '$';
}

/* Behind the comment that begins here */
static const char *
skip_comment(const char *p)
{
	int			depth = 0;

	if (p[0] == '-')
		return p + strcspn(p, "\n");
	do
	{
		if (p[0] == '/' && p[1] == '*')
		{
			depth++;
			p += 2;
		}
		else if (p[0] == '*' && p[1] == '/')
		{
			depth--;
			p += 2;
		}
		else
			p++;
	} while (*p && depth > 0);
	return p;
}

/* The name between double quotes that begins here, and the place behind it */
static const char *
read_quoted(const char *p, char **word)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (p++; *p; p++)
	{
		if (*p == '"' && p[1] != '"')
		{
			p++;
			break;
		}
		if (*p == '"')
			p++;
		appendStringInfoChar(&buf, *p);
	}
	*word = buf.data;
	return p;
}

List *
audit_tokens(const char *text)
{
	List	   *tokens = NIL;
	const char *p = text;

	while (*p)
	{
		char	   *word;

		if ((p[0] == '-' && p[1] == '-') || (p[0] == '/' && p[1] == '*'))
			p = skip_comment(p);
		else if (*p == '"')
		{
			p = read_quoted(p, &word);
			tokens = lappend(tokens, word);
		}
		else if (is_word_start(*p))
		{
			const char *start = p;

			while (is_word(*p))
				p++;
			word = pnstrdup(start, p - start);
			for (char *c = word; *c; c++)
				*c = pg_tolower((unsigned char) *c);
			tokens = lappend(tokens, word);
		}
		else
		{
			if (strchr("().,=;", *p))
				tokens = lappend(tokens, pnstrdup(p, 1));
			p++;
		}
	}
	return tokens;
}

bool
audit_mentions(List *tokens, const char *word)
{
	ListCell   *lc;

	foreach(lc, tokens)
		if (strcmp(lfirst(lc), word) == 0)
			return true;
	return false;
}

static bool
is_token(List *tokens, int position, const char *word)
{
	return position < list_length(tokens) &&
		strcmp(list_nth(tokens, position), word) == 0;
}

bool
audit_sets(List *tokens, const char *setting)
{
	List	   *name = audit_tokens(setting);

	for (int i = 0; i < list_length(tokens); i++)
	{
		int			next = i + 1;
		bool		same = true;

		if (!is_token(tokens, i, "set"))
			continue;
		if (is_token(tokens, next, "local") || is_token(tokens, next, "session"))
			next++;
		for (int k = 0; same && k < list_length(name); k++)
			same = is_token(tokens, next + k, list_nth(name, k));
		if (same)
			return true;
	}
	return false;
}

/* The position behind [schema.]table, or -1 */
static int
skip_relation(List *tokens, int i, const char *schema, const char *table)
{
	if (is_token(tokens, i + 1, "."))
		return is_token(tokens, i, schema) && is_token(tokens, i + 2, table)
			? i + 3 : -1;
	return is_token(tokens, i, table) ? i + 1 : -1;
}

bool
audit_inserts_without(List *tokens, const char *schema, const char *table,
					  const char *column)
{
	int			count = list_length(tokens);

	for (int i = 0; i + 3 < count; i++)
	{
		int			next;
		bool		named = false;

		if (!is_token(tokens, i, "insert") || !is_token(tokens, i + 1, "into"))
			continue;
		next = skip_relation(tokens, i + 2, schema, table);
		if (next < 0)
			continue;
		if (is_token(tokens, next, "as"))
			next += 2;
		if (!is_token(tokens, next, "(") || is_token(tokens, next + 1, "select") ||
			is_token(tokens, next + 1, "with"))
			continue;
		for (next++; next < count && !is_token(tokens, next, ")"); next++)
			if (is_token(tokens, next, column))
				named = true;
		if (!named)
			return true;
	}
	return false;
}
