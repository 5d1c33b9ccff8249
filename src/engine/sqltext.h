/*
 * sqltext.h
 *		SQL text, built in one place: OIDs in, quoted names out.
 */
#ifndef TENANTMIG_SQLTEXT_H
#define TENANTMIG_SQLTEXT_H

#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"

/* schema.relation, both quoted, palloc'd; NULL when there is no such relation */
extern char *sql_relation(Oid relid);
extern char *sql_name(const char *schema, const char *name);

/* The two parts of what they made, unquoted; false when it is no such name */
extern bool sql_split_name(const char *text, char **schema, char **name);

/* 'text' as a literal that any setting of standard_conforming_strings reads alike */
extern char *sql_literal(const char *text);

/* a, b, c: the names of a List of char *, quoted */
extern char *sql_name_list(List *names);

/* an identifier of at most 63 bytes, prefix + stem + suffix, the stem cut at a character */
extern char *sql_derived_name(const char *prefix, const char *stem,
							  const char *suffix);

/* OPERATOR(schema.name) of an operator; of the equality of a type (NULL: none) */
extern char *sql_operator(Oid operator);
extern char *sql_equality(Oid type);

/*
 * Check that a text is exactly one expression, and nothing that goes on
 * behind it.  Raises 22023 or a syntax error; "what" names it in the message.
 * sql_parenthesized puts such a text into parentheses, also when it ends in a
 * comment.
 */
extern void sql_check_expression(const char *expression, const char *what);
extern char *sql_parenthesized(const char *expression);

/* The same for one element of an index: a column name or an expression, with
 * collation, operator class and direction. */
extern IndexElem *sql_parse_index_element(const char *element);

/* Newlines and control characters made visible, for reports and messages */
extern char *sql_printable(const char *text);

#endif							/* TENANTMIG_SQLTEXT_H */
