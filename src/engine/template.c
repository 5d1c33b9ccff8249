/*
 * template.c
 *		Statements of the journal, written for a relation whatever its name.
 *
 * A step may run, or be taken back, long after its text was written, and its
 * table may have got another name or schema by then, or another table may have
 * got the old one.  So a text of the journal does not name the relation: it is
 * a template, and the step has the relation's OID.  It becomes a statement when
 * it is run, under the lock on the relation, so that it can hit no other; one at
 * the top level is looked at once more when it has its lock (toplevel.c).  In a
 * restored database, where OIDs mean nothing, the recorded name is put in.
 *
 * A foreign key has two relations.  The other one is written with its OID and
 * the database that the OID is of (template_other); who runs the statement
 * locks it as well.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "engine/compat.h"
#include "engine/identity.h"
#include "engine/sqltext.h"
#include "engine/template.h"

/* Verbatim text within a template */
static void
append_verbatim(StringInfo buf, const char *text)
{
	for (const char *p = text; *p; p++)
	{
		if (*p == '%')
			appendStringInfoChar(buf, '%');
		appendStringInfoChar(buf, *p);
	}
}

char *
template_make(const char *format,...)
{
	StringInfoData buf;
	va_list		arguments;

	initStringInfo(&buf);
	va_start(arguments, format);
	for (const char *at = format; *at; at++)
	{
		if (at[0] != '%' || (at[1] != 's' && at[1] != 't'))
		{
			appendStringInfoChar(&buf, *at);
			continue;
		}
		if (at[1] == 's')
			append_verbatim(&buf, va_arg(arguments, const char *));
		else
			appendStringInfoString(&buf, va_arg(arguments, const char *));
		at++;
	}
	va_end(arguments);
	return buf.data;
}

/* --- other relations --------------------------------------------------- */

/* Written %{home oid name%}; a percent sign in the name is doubled */
char *
template_other(Oid relid)
{
	StringInfoData buf;
	char	   *name = sql_relation(relid);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	initStringInfo(&buf);
	appendStringInfo(&buf, "%%{" INT64_FORMAT " %u ", identity_home(), relid);
	append_verbatim(&buf, name);
	appendStringInfoString(&buf, "%}");
	return buf.data;
}

List *
template_others(const char *template)
{
	List	   *others = NIL;
	int64		home;
	Oid			relid;

	for (const char *at = template; *at; at++)
	{
		if (*at != '%')
			continue;
		at++;
		if (*at == '{' && sscanf(at + 1, INT64_FORMAT " %u ", &home, &relid) == 2 &&
			home == identity_home() && get_rel_name(relid) != NULL)
			others = list_append_unique_oid(others, relid);
		if (*at == '\0')
			break;
	}
	return others;
}

/*
 * Write the name of the other relation that starts here, behind %{, and go
 * behind its end.  gone: what to do when there is none of that OID any more,
 * true: write its recorded name.  False when it is gone, or this is no such
 * piece.
 */
static bool
render_other(StringInfo buf, const char **at, bool gone)
{
	int64		home;
	Oid			relid;
	int			length;
	const char *name = NULL;
	const char *end;

	if (sscanf(*at, INT64_FORMAT " %u %n", &home, &relid, &length) != 2)
		return false;
	for (end = *at + length; *end && !(end[0] == '%' && end[1] == '}'); end++)
		if (end[0] == '%' && end[1] == '%')
			end++;
	if (*end == '\0')
		return false;
	if (home == identity_home())
		name = sql_relation(relid);
	if (name)
		appendStringInfoString(buf, name);
	else if (home == identity_home() && !gone)
		return false;
	else
		for (const char *p = *at + length; p < end; p++)
		{
			appendStringInfoChar(buf, *p);
			if (*p == '%')
				p++;
		}
	*at = end + 2;
	return true;
}

/* --- rendering --------------------------------------------------------- */

static char *
render(const char *template, const char *relation, const char *schema, bool gone)
{
	StringInfoData buf;
	const char *at = template;

	initStringInfo(&buf);
	while (*at)
	{
		char		what = at[0] == '%' ? at[1] : '\0';

		if (what == 'R')
			appendStringInfoString(&buf, relation);
		else if (what == 'S')
			appendStringInfoString(&buf, schema);
		else if (what == '{')
		{
			at += 2;
			if (!render_other(&buf, &at, gone))
				return NULL;
			continue;
		}
		else
			appendStringInfoChar(&buf, *at);
		at += what != '\0' && strchr("RS%", what) != NULL ? 2 : 1;
	}
	return buf.data;
}

char *
template_render(const char *template, Oid relid)
{
	char	   *relation = sql_relation(relid);

	if (relation == NULL)
		return NULL;
	return render(template, relation,
				  quote_identifier(get_namespace_name(get_rel_namespace(relid))),
				  false);
}

char *
template_render_name(const char *template, const char *relation)
{
	char	   *schema;
	char	   *name;

	if (!sql_split_name(relation, &schema, &name))
		return NULL;
	return render(template, relation, quote_identifier(schema), true);
}
