/*
 * sheet_text.c
 *		A report for a terminal of 80 columns.
 *
 * Prose is wrapped between words; statements never are, since they are there
 * to be copied.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "checks/sheet.h"

#define SHEET_WIDTH 80
#define LABEL_WIDTH 17
#define ITEM_INDENT 4

static void
rule(Sheet *sheet, char c)
{
	for (int i = 0; i < SHEET_WIDTH; i++)
		appendStringInfoChar(&sheet->out, c);
	appendStringInfoChar(&sheet->out, '\n');
}

/* Append a text at a column, its further lines at "indent" */
static void
wrap(Sheet *sheet, const char *text, int column, int indent)
{
	bool		first = true;

	while (*text)
	{
		int			bytes = (int) strcspn(text, " ");
		int			width = pg_mbstrlen_with_len(text, bytes);

		if (!first && column + 1 + width > SHEET_WIDTH)
		{
			appendStringInfo(&sheet->out, "\n%*s", indent, "");
			column = indent;
			first = true;
		}
		if (!first)
			appendStringInfoChar(&sheet->out, ' ');
		column += width + !first;
		appendBinaryStringInfo(&sheet->out, text, bytes);
		first = false;
		text += bytes + (text[bytes] == ' ');
	}
	appendStringInfoChar(&sheet->out, '\n');
}

static void
text_begin(Sheet *sheet, const char *title)
{
	rule(sheet, '=');
	wrap(sheet, title, 0, 0);
	rule(sheet, '=');
}

static void
text_section(Sheet *sheet, const char *title)
{
	appendStringInfoChar(&sheet->out, '\n');
	for (const char *p = title; *p; p++)
		appendStringInfoChar(&sheet->out, pg_ascii_toupper((unsigned char) *p));
	appendStringInfoChar(&sheet->out, '\n');
	rule(sheet, '-');
}

static void
text_fact(Sheet *sheet, const char *label, const char *value)
{
	int			width = pg_mbstrlen(label) + 2;

	appendStringInfo(&sheet->out, "%s%s", label, label[0] ? ": " : "  ");
	for (; width < LABEL_WIDTH; width++)
		appendStringInfoChar(&sheet->out, ' ');
	wrap(sheet, value, width, LABEL_WIDTH);
}

static void
text_item(Sheet *sheet, int number, const char *text)
{
	char		label[16];

	snprintf(label, sizeof(label), "%d.", number);
	appendStringInfo(&sheet->out, "%-*s", ITEM_INDENT, label);
	if (text)
		wrap(sheet, text, ITEM_INDENT, ITEM_INDENT);
	else
		sheet->open = "item";
}

static void
text_note(Sheet *sheet, const char *text)
{
	appendStringInfo(&sheet->out, "%*s", ITEM_INDENT, "");
	wrap(sheet, text, ITEM_INDENT, ITEM_INDENT);
}

static void
text_code(Sheet *sheet, const char *sql)
{
	appendStringInfo(&sheet->out, "%*s%s\n", sheet->open ? 0 : ITEM_INDENT, "",
					 sql);
	sheet->open = NULL;
}

static void
text_nothing(Sheet *sheet, const char *text)
{
	wrap(sheet, text, 0, 0);
}

static void
text_end(Sheet *sheet)
{
	rule(sheet, '=');
}

const SheetOps sheet_text = {
	.begin = text_begin,
	.section = text_section,
	.fact = text_fact,
	.item = text_item,
	.note = text_note,
	.code = text_code,
	.nothing = text_nothing,
	.end = text_end,
};
