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
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "engine/compat.h"
#include "engine/sqltext.h"
#include "engine/template.h"

char *
template_make(const char *format,...)
{
	StringInfoData buf;
	va_list		arguments;

	initStringInfo(&buf);
	va_start(arguments, format);
	for (const char *at = format; *at; at++)
	{
		if (at[0] != '%' || at[1] != 's')
		{
			appendStringInfoChar(&buf, *at);
			continue;
		}
		for (const char *p = va_arg(arguments, const char *); *p; p++)
		{
			if (*p == '%')
				appendStringInfoChar(&buf, '%');
			appendStringInfoChar(&buf, *p);
		}
		at++;
	}
	va_end(arguments);
	return buf.data;
}

static char *
render(const char *template, const char *relation, const char *schema)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (const char *at = template; *at; at++)
	{
		if (*at != '%')
			appendStringInfoChar(&buf, *at);
		else if (at[1] == 'R')
			appendStringInfoString(&buf, relation);
		else if (at[1] == 'S')
			appendStringInfoString(&buf, schema);
		else
			appendStringInfoChar(&buf, '%');
		if (*at == '%' && at[1] != '\0' && strchr("RS%", at[1]) != NULL)
			at++;
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
				  quote_identifier(get_namespace_name(get_rel_namespace(relid))));
}

char *
template_render_name(const char *template, const char *relation)
{
	char	   *schema;
	char	   *name;

	if (!sql_split_name(relation, &schema, &name))
		return NULL;
	return render(template, relation, quote_identifier(schema));
}
