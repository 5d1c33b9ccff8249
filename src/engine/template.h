/*
 * template.h
 *		Statements of the journal, written for a relation whatever its name.
 */
#ifndef TENANTMIG_TEMPLATE_H
#define TENANTMIG_TEMPLATE_H

#include "nodes/pg_list.h"

/*
 * In a template %R stands for the relation of the step, %S for its schema, both
 * quoted, and %% for a percent sign; all else is verbatim.  This puts one
 * together, palloc'd: each %s in the format takes an argument (char *) that is
 * verbatim, a name that has percent signs too; each %t one that is a piece of a
 * template; nothing else does.
 */
extern char *template_make(const char *format,...);

/*
 * The piece that stands for another relation; raises 42P01: by its OID,
 * whatever it is called when the statement is made; by the name that it has
 * now in another database than this one.
 */
extern char *template_other(Oid relid);

/* The OIDs of the other relations that a template speaks of and that are there,
 * in the database that they were written in */
extern List *template_others(const char *template);

/* The statement for a relation as it is called now, palloc'd; NULL when there
 * is no such relation, or no such other one that it speaks of */
extern char *template_render(const char *template, Oid relid);

/* The same for one that is known by its name only: schema.relation, quoted as
 * SQL, there or not; NULL when this is no such name */
extern char *template_render_name(const char *template, const char *relation);

#endif							/* TENANTMIG_TEMPLATE_H */
