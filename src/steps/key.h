/*
 * key.h
 *		Primary keys as jobs read, write and change them.
 */
#ifndef TENANTMIG_KEY_H
#define TENANTMIG_KEY_H

#include "engine/step.h"

/* The primary key of one table, with all that DDL can say of it */
typedef struct KeyDef
{
	Oid			table;
	Oid			constraint;		/* InvalidOid: there is none */
	Oid			index;
	Oid			parent;			/* the constraint that this one came with */
	char	   *name;
	List	   *columns;		/* char * */
	List	   *include;
	char	   *method;			/* of the index */
	char	   *options;		/* of the index, as in WITH (...) */
	char	   *tablespace;		/* NULL: that of the database */
	bool		deferrable;
	bool		deferred;
	char	   *comment;
	char	   *index_comment;
	bool		clustered;
	bool		identity;		/* REPLICA IDENTITY USING INDEX */
	bool		temporal;		/* WITHOUT OVERLAPS */
} KeyDef;

/* Read from the catalogs, as an object that can be journaled; as a struct, or
 * NULL when the table is gone */
extern Jsonb *key_read(Oid table);
extern KeyDef *key_parse(Jsonb *object);

/* The primary key's columns, NIL when there is none */
extern List *key_columns(Oid table);

/* Names of columns as they are called now, by the numbers that were recorded with
 * them, where those mean anything */
extern List *key_follow_columns(Oid table, Jsonb *object, const char *names);

/* A relation of such an object: by its OID in the database that the object was
 * read in ("home"), by its name elsewhere; InvalidOid when it is gone */
extern Oid	key_find_relation(Jsonb *object, const char *oid, const char *schema,
							  const char *name);

extern bool key_has(List *columns, const char *column);
extern bool key_same_columns(List *a, List *b);

/* pg_catalog.jsonb_build_object(...) of columns of a row; the qualified name of
 * a collation */
extern char *key_object(const char *alias, List *columns);
extern char *key_collation(Oid collation);

/* The index of a key as index_build_table() takes it; what adds a constraint, as
 * a piece of a template */
extern Jsonb *key_index_spec(const KeyDef *key, const char *name);
extern char *key_constraint_text(const KeyDef *key, const char *name,
								 const char *kind, const char *index);

/*
 * Make a unique constraint the primary key of its table, or a primary key a
 * unique constraint, and those of the partitions with it.  The index stays, and
 * the foreign keys that point at it.  Within a transaction that holds ACCESS
 * EXCLUSIVE; the columns are NOT NULL.
 */
extern void key_set_primary(Oid constraint, bool primary);

/* The constraints of the partitions that came with one, at any depth */
extern List *key_constraints_below(Oid constraint);

/* An index by its name in the schema of its table: InvalidOid if there is none
 * on that table */
extern Oid	key_find_index(Oid table, const char *name, bool *valid);

#endif							/* TENANTMIG_KEY_H */
