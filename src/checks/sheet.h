/*
 * sheet.h
 *		The few operations that a report is printed with.
 *
 * What is handed in is printable: no newlines, no control characters.
 */
#ifndef TENANTMIG_SHEET_H
#define TENANTMIG_SHEET_H

#include "lib/stringinfo.h"

typedef struct SheetOps SheetOps;

typedef struct Sheet
{
	const SheetOps *ops;
	StringInfoData out;
	const char *open;			/* HTML: the element to close, or NULL */
} Sheet;

struct SheetOps
{
	void		(*begin) (Sheet *sheet, const char *title);
	void		(*section) (Sheet *sheet, const char *title);
	void		(*fact) (Sheet *sheet, const char *label, const char *value);

	/* A numbered paragraph (text may be NULL: the code that follows is it),
	 * and what belongs to it */
	void		(*item) (Sheet *sheet, int number, const char *text);
	void		(*note) (Sheet *sheet, const char *text);
	void		(*code) (Sheet *sheet, const char *sql);

	/* A line of its own, such as "None." */
	void		(*nothing) (Sheet *sheet, const char *text);
	void		(*end) (Sheet *sheet);
};

extern const SheetOps sheet_text;
extern const SheetOps sheet_html;

#endif							/* TENANTMIG_SHEET_H */
