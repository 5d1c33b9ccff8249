/*
 * sheet_html.c
 *		A report as one page of HTML that needs nothing else.
 *
 * Everything that comes from outside goes through put(), which escapes what
 * means something in HTML.  No scripts, no links, no other files: the policy
 * in the head forbids them besides.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "checks/sheet.h"

static const char *const style =
	"body{font:15px/1.45 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
	"h1{font-size:1.4em}h2{font-size:1.1em;margin-top:1.6em;border-bottom:1px solid #999}"
	"dl{display:grid;grid-template-columns:11em 1fr;margin:0}dt{color:#555}dd{margin:0}"
	"p{margin:.5em 0 0}p.note{margin:.1em 0 0 2em;color:#444}"
	"pre{margin:.2em 0 0 2em;white-space:pre-wrap}";

static void
put(Sheet *sheet, const char *text)
{
	for (const char *p = text; *p; p++)
	{
		switch (*p)
		{
			case '&':
				appendStringInfoString(&sheet->out, "&amp;");
				break;
			case '<':
				appendStringInfoString(&sheet->out, "&lt;");
				break;
			case '>':
				appendStringInfoString(&sheet->out, "&gt;");
				break;
			case '"':
				appendStringInfoString(&sheet->out, "&quot;");
				break;
			case '\'':
				appendStringInfoString(&sheet->out, "&#39;");
				break;
			default:
				appendStringInfoChar(&sheet->out, *p);
		}
	}
}

/* <before>text<after> on a line of its own */
static void
element(Sheet *sheet, const char *before, const char *text, const char *after)
{
	appendStringInfoString(&sheet->out, before);
	put(sheet, text);
	appendStringInfo(&sheet->out, "%s\n", after);
}

/* Close the list of facts, unless it goes on */
static void
open_element(Sheet *sheet, const char *name)
{
	if (sheet->open && (name == NULL || strcmp(sheet->open, name) != 0))
		appendStringInfo(&sheet->out, "</%s>\n", sheet->open);
	if (name && (sheet->open == NULL || strcmp(sheet->open, name) != 0))
		appendStringInfo(&sheet->out, "<%s>\n", name);
	sheet->open = name;
}

static void
html_begin(Sheet *sheet, const char *title)
{
	appendStringInfoString(&sheet->out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n");
	if (pg_get_client_encoding() == PG_UTF8)
		appendStringInfoString(&sheet->out, "<meta charset=\"utf-8\">\n");
	appendStringInfoString(&sheet->out,
						   "<meta http-equiv=\"Content-Security-Policy\" "
						   "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n");
	element(sheet, "<title>", title, "</title>");
	appendStringInfo(&sheet->out, "<style>%s</style>\n</head>\n<body>\n", style);
	element(sheet, "<h1>", title, "</h1>");
}

static void
html_section(Sheet *sheet, const char *title)
{
	open_element(sheet, NULL);
	element(sheet, "<h2>", title, "</h2>");
}

static void
html_fact(Sheet *sheet, const char *label, const char *value)
{
	open_element(sheet, "dl");
	element(sheet, "<dt>", label, "</dt>");
	element(sheet, "<dd>", value, "</dd>");
}

static void
html_item(Sheet *sheet, int number, const char *text)
{
	open_element(sheet, NULL);
	appendStringInfo(&sheet->out, "<p>%d. ", number);
	element(sheet, "", text ? text : "", "</p>");
}

static void
html_note(Sheet *sheet, const char *text)
{
	element(sheet, "<p class=\"note\">", text, "</p>");
}

static void
html_code(Sheet *sheet, const char *sql)
{
	element(sheet, "<pre>", sql, "</pre>");
}

static void
html_nothing(Sheet *sheet, const char *text)
{
	open_element(sheet, NULL);
	element(sheet, "<p>", text, "</p>");
}

static void
html_end(Sheet *sheet)
{
	open_element(sheet, NULL);
	appendStringInfoString(&sheet->out, "</body>\n</html>\n");
}

const SheetOps sheet_html = {
	.begin = html_begin,
	.section = html_section,
	.fact = html_fact,
	.item = html_item,
	.note = html_note,
	.code = html_code,
	.nothing = html_nothing,
	.end = html_end,
};
