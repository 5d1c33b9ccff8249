/*
 * prove.h
 *		prove_isolation: whether a role can get at the rows of another tenant.
 */
#ifndef TENANTMIG_PROVE_H
#define TENANTMIG_PROVE_H

#include "nodes/pg_list.h"
#include "storage/itemptr.h"
#include "utils/acl.h"
#include "utils/snapshot.h"

#include "steps/target.h"

/* What the setting says while a statement is tried */
typedef enum ProveState
{
	PROVE_UNSET,
	PROVE_EMPTY,
	PROVE_TENANT_A,
	PROVE_TENANT_B,
	PROVE_GARBAGE
} ProveState;

#define PROVE_STATES	(PROVE_GARBAGE + 1)

/* No tenant's */
#define NOBODY	(-1)

/* A row that statements are tried on, locked */
typedef struct ProveRow
{
	bool		found;
	bool		locked;			/* there are some, but others have locked them */
	Oid			tableoid;
	ItemPointerData tid;
	Datum		value;			/* all of it, of the relation's row type */
} ProveRow;

typedef struct ProveColumn
{
	AttrNumber	attnum;
	char	   *name;			/* quoted */
	bool		may_select;		/* the role's rights */
	bool		may_insert;
	bool		may_update;
} ProveColumn;

/* A table with the tenant column, or a view */
typedef struct ProveRelation
{
	Oid			relid;
	char		relkind;
	Oid			owner;
	Oid			rowtype;
	char	   *name;			/* qualified and quoted */
	bool		is_table;
	bool		has_column;
	TargetColumn column;
	char	   *column_name;	/* quoted */
	char	   *type;			/* of the column, without a length */
	char	   *equality;
	List	   *columns;		/* ProveColumn *, those that can be written */
	AclMode		rights;			/* of the role: SELECT on the tenant column or,
								 * without one, on any */
	bool		all_select;		/* SELECT on the whole */
	ProveColumn *update;		/* what an UPDATE sets, NULL: nothing */
	int64		count[2];		/* rows of the tenants */
	int64		only[2];		/* the same without children */
	ProveRow	row[2];
	List	   *results;		/* ProveResult * */
} ProveRelation;

/* One row of the answer */
typedef struct ProveResult
{
	const char *probe;
	const char *command;
	char	   *expected;
	char	   *seen;
	bool		tried;			/* otherwise ok is null */
	bool		ok;
} ProveResult;

typedef struct Proof
{
	char	   *role_name;
	Oid			role;
	char	   *tenants[2];
	List	   *schemas;		/* NIL: all */
	List	   *skipped;		/* OIDs of relations */
	char	   *column;
	char	   *setting;
	bool		writes;
	bool		can_unset;		/* the session has not heard of the setting */
	List	   *relations;		/* ProveRelation *, tables before views */
	Snapshot	snapshot;		/* of the reads of one relation */
	MemoryContext context;		/* lives as long as the proof */
} Proof;

/* --- prove_relations.c ------------------------------------------------ */

/* Fill in proof->relations; raises 42501 if the caller may not know how many
 * rows there are */
extern void prove_find_relations(Proof *proof);
extern ProveRelation *prove_find(const Proof *proof, Oid relid);

/* The truth: counted and read as the owner of the table, past its policies */
extern void prove_count(Proof *proof, ProveRelation *relation);
extern void prove_capture(Proof *proof, ProveRelation *relation);
extern bool prove_is_untouched(const ProveRelation *relation, int tenant);
extern void prove_delete_sample(const Proof *proof,
								const ProveRelation *relation, int tenant);

/* The tenant in a parameter of type text, as a value of the column's type; and
 * the condition that a row is that tenant's */
extern char *prove_value(const ProveRelation *relation, int parameter);
extern char *prove_condition(const ProveRelation *relation, int parameter);

/* --- prove_attempt.c -------------------------------------------------- */

typedef struct ProveOutcome
{
	int			sqlstate;		/* 0: no error */
	const char *refused_by;		/* row-level security or the like; NULL */
	const char *message;		/* of the error, or why it was not tried */
	bool		not_tried;
	bool		no_row;			/* there is nothing that it could reach */
	int64		rows;
	int64		others;			/* rows that are not the tenant's */
	bool		touched;		/* the row that was to be left alone */
} ProveOutcome;

/* A statement that writes */
typedef struct ProveStatement
{
	char	   *sql;			/* $1: the tenant as text, $2: a row */
	ProveRelation *relation;
	const char *tenant;			/* $1 */
	int			row;			/* whose row is $2, and the only one that it may
								 * reach; NOBODY */
	int			watched;		/* whose row must not be touched; NOBODY */
	bool		only_tenant;	/* INSERT: all else is null */
} ProveStatement;

typedef void (*ProveBody) (Proof *proof, void *arg, ProveOutcome *outcome);

/*
 * Run the body as the role, with the setting in that state, in a
 * subtransaction that is rolled back whatever happens.  Errors end up in the
 * outcome, but for those that say nothing about the statement (cancelled, no
 * lock, no memory), which are raised.
 */
extern void prove_attempt(Proof *proof, ProveState state, ProveBody body,
						  void *arg, ProveOutcome *outcome);

extern bool prove_has_row(const ProveRelation *relation, int tenant,
						  ProveOutcome *outcome);

/* The body of a ProveStatement */
extern void prove_write(Proof *proof, void *statement, ProveOutcome *outcome);

/* --- prove_copy.c: bodies of a ProveRelation -------------------------- */

extern void prove_copy_to(Proof *proof, void *relation, ProveOutcome *outcome);
extern void prove_copy_from(Proof *proof, void *relation, ProveOutcome *outcome);

/* --- prove_verdict.c -------------------------------------------------- */

extern const char *prove_state_name(ProveState state);
extern int	prove_state_tenant(ProveState state);	/* 0, 1 or NOBODY */

extern void prove_note(Proof *proof, ProveRelation *relation, const char *probe,
					   const char *command, const char *expected,
					   const char *seen, bool ok);
extern void prove_not_tried(Proof *proof, ProveRelation *relation,
							const char *probe, const char *command,
							char *expected, const char *why);

/* A command, in a state; and what the outcome says about it */
extern void prove_judge_read(Proof *proof, ProveRelation *relation,
							 ProveState state, const char *command,
							 int64 count, const ProveOutcome *outcome);
extern bool prove_judge_own(Proof *proof, ProveRelation *relation,
							ProveState state, const char *command,
							const ProveOutcome *outcome);
extern void prove_judge_refused(Proof *proof, ProveRelation *relation,
								ProveState state, const char *command,
								bool control, const ProveOutcome *outcome);
extern void prove_judge_untouched(Proof *proof, ProveRelation *relation,
								  ProveState state, const char *command,
								  bool control, const ProveOutcome *outcome);

/* --- prove_read.c, prove_write.c, prove_view.c, prove_plan.c ---------- */

extern void prove_reads(Proof *proof, ProveRelation *relation, ProveState state);
extern void prove_writes(Proof *proof, ProveRelation *relation, ProveState state);
extern void prove_view_writes(Proof *proof, ProveRelation *view, ProveState state);
extern void prove_independence(Proof *proof, ProveState state);
extern void prove_plan(Proof *proof, ProveRelation *relation);

/* The names of tenants in probes and commands: tenant_a, tenant_b */
extern const char *prove_tenant_label(int tenant);

/* A command's text that lasts as long as the proof */
extern const char *prove_command(Proof *proof, const char *fmt,...) pg_attribute_printf(2, 3);

#endif							/* TENANTMIG_PROVE_H */
