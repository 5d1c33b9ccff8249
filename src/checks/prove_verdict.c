/*
 * prove_verdict.c
 *		What was expected, what was seen, and whether that is as it should be.
 *
 * An error of a constraint (class 23) comes after row-level security has had
 * its say: the statement was let in.  Any other error that is not of row-level
 * security stands for a refusal only if the same statement on a row of the
 * tenant's own gets through (the control), or if no tenant is set.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "checks/prove.h"
#include "engine/compat.h"
#include "engine/sqltext.h"

const char *
prove_state_name(ProveState state)
{
	static const char *const names[PROVE_STATES] = {
		"unset", "empty", "tenant_a", "tenant_b", "garbage"
	};

	return names[state];
}

int
prove_state_tenant(ProveState state)
{
	if (state == PROVE_TENANT_A)
		return 0;
	return state == PROVE_TENANT_B ? 1 : NOBODY;
}

const char *
prove_tenant_label(int tenant)
{
	return prove_state_name(tenant == 0 ? PROVE_TENANT_A : PROVE_TENANT_B);
}

const char *
prove_command(Proof *proof, const char *fmt,...)
{
	MemoryContext old = MemoryContextSwitchTo(proof->context);
	StringInfoData buf;

	initStringInfo(&buf);
	for (;;)
	{
		va_list		args;
		int			needed;

		va_start(args, fmt);
		needed = appendStringInfoVA(&buf, fmt, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&buf, needed);
	}
	MemoryContextSwitchTo(old);
	return buf.data;
}

static ProveResult *
add_result(Proof *proof, ProveRelation *relation, const char *probe,
		   const char *command, const char *expected, const char *seen)
{
	MemoryContext old = MemoryContextSwitchTo(proof->context);
	ProveResult *result = palloc0(sizeof(ProveResult));

	result->probe = probe;
	result->command = command;
	result->expected = pstrdup(expected);
	result->seen = pstrdup(seen);
	relation->results = lappend(relation->results, result);
	MemoryContextSwitchTo(old);
	return result;
}

void
prove_note(Proof *proof, ProveRelation *relation, const char *probe,
		   const char *command, const char *expected, const char *seen,
		   bool ok)
{
	ProveResult *result = add_result(proof, relation, probe, command, expected,
									 seen);

	result->tried = true;
	result->ok = ok;
}

void
prove_not_tried(Proof *proof, ProveRelation *relation, const char *probe,
				const char *command, char *expected, const char *why)
{
	(void) add_result(proof, relation, probe, command, expected,
					  psprintf("not tried: %s", why));
}

/* --- texts ------------------------------------------------------------ */

static bool
is_constraint(const ProveOutcome *outcome)
{
	return ERRCODE_TO_CATEGORY(outcome->sqlstate) ==
		ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION;
}

static char *
error_text(const ProveOutcome *outcome)
{
	if (outcome->refused_by)
		return psprintf("refused by %s", outcome->refused_by);
	return psprintf("%serror %s: %s",
					is_constraint(outcome) ? "let in, then " : "",
					unpack_sql_state(outcome->sqlstate), outcome->message);
}

static char *
rows_text(int64 rows)
{
	if (rows == 0)
		return "no rows";
	return psprintf(INT64_FORMAT " row%s", rows, rows == 1 ? "" : "s");
}

static const char *
tenant_name(const Proof *proof, ProveState state)
{
	return sql_printable(proof->tenants[prove_state_tenant(state)]);
}

static bool
tried(Proof *proof, ProveRelation *relation, ProveState state,
	  const char *command, char *expected, const ProveOutcome *outcome)
{
	if (outcome->not_tried)
		prove_not_tried(proof, relation, prove_state_name(state), command,
						expected, outcome->message);
	return !outcome->not_tried && !outcome->no_row;
}

/* --- reads ------------------------------------------------------------ */

static char *
read_text(const Proof *proof, ProveState state, const ProveOutcome *outcome)
{
	int64		own = outcome->rows - outcome->others;

	if (outcome->sqlstate != 0)
		return error_text(outcome);
	if (prove_state_tenant(state) == NOBODY)
		return rows_text(outcome->rows);
	if (outcome->others == 0)
		return own == 0 ? rows_text(own)
			: psprintf("%s of %s", rows_text(own), tenant_name(proof, state));
	return psprintf("%s of %s and " INT64_FORMAT " of others", rows_text(own),
					tenant_name(proof, state), outcome->others);
}

/*
 * count is how many rows the tenant has, or -1 if that is not known (a view).
 * Other policies of the table may hide some of them, but not all.
 */
void
prove_judge_read(Proof *proof, ProveRelation *relation, ProveState state,
				 const char *command, int64 count, const ProveOutcome *outcome)
{
	int64		own = outcome->rows - outcome->others;
	char	   *expected;
	bool		ok;

	if (prove_state_tenant(state) == NOBODY || count == 0)
	{
		expected = "no rows";
		ok = outcome->rows == 0 &&
			(outcome->sqlstate == 0 || prove_state_tenant(state) == NOBODY);
	}
	else if (count < 0)
	{
		expected = psprintf("only rows of %s", tenant_name(proof, state));
		ok = outcome->sqlstate == 0 && outcome->others == 0;
	}
	else
	{
		expected = psprintf("%s of %s", rows_text(count), tenant_name(proof, state));
		ok = outcome->sqlstate == 0 && outcome->others == 0 &&
			own > 0 && own <= count;
	}
	prove_note(proof, relation, prove_state_name(state), command, expected,
			   read_text(proof, state, outcome), ok);
}

/* --- writes ----------------------------------------------------------- */

static const char *
write_text(const ProveOutcome *outcome)
{
	if (outcome->sqlstate != 0)
		return error_text(outcome);
	if (outcome->touched)
		return "another tenant's row was changed";
	return rows_text(outcome->rows);
}

static bool
is_refusal(ProveState state, bool control, const ProveOutcome *outcome)
{
	if (outcome->refused_by)
		return true;
	return outcome->sqlstate != 0 && !is_constraint(outcome) &&
		(control || prove_state_tenant(state) == NOBODY);
}

/* On a row of the tenant's own: it must get through, or the refusals of the
 * others would mean nothing */
bool
prove_judge_own(Proof *proof, ProveRelation *relation, ProveState state,
				const char *command, const ProveOutcome *outcome)
{
	bool		ok = outcome->sqlstate == 0 ? outcome->rows == 1
		: is_constraint(outcome);

	if (!tried(proof, relation, state, command, "let in", outcome))
		return false;
	prove_note(proof, relation, prove_state_name(state), command, "let in",
			   write_text(outcome), ok);
	return ok;
}

/* What would make a row of another tenant, or of none */
void
prove_judge_refused(Proof *proof, ProveRelation *relation, ProveState state,
					const char *command, bool control,
					const ProveOutcome *outcome)
{
	if (tried(proof, relation, state, command, "refused", outcome))
		prove_note(proof, relation, prove_state_name(state), command, "refused",
				   write_text(outcome), is_refusal(state, control, outcome));
}

/* What would change a row of another tenant */
void
prove_judge_untouched(Proof *proof, ProveRelation *relation, ProveState state,
					  const char *command, bool control,
					  const ProveOutcome *outcome)
{
	bool		ok = outcome->sqlstate == 0
		? outcome->rows == 0 && !outcome->touched
		: is_refusal(state, control, outcome);

	if (tried(proof, relation, state, command, "no rows", outcome))
		prove_note(proof, relation, prove_state_name(state), command, "no rows",
				   write_text(outcome), ok);
}
