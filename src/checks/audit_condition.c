/*
 * audit_condition.c
 *		What the condition of a policy lets through, read from its tree.
 *
 * A condition isolates if it holds for no row but those whose tenant column
 * equals a value that the session has.  It is read from the top: of what AND
 * joins one part must isolate, of what OR and CASE join all.  What is left is
 * a comparison of the column with a value, a sub-select that looks the column
 * up, or a function that is given the column, which nobody but its author can
 * judge and which is believed.
 *
 * The value is the session's if a setting, the current role, a sub-select or a
 * function whose result may change decides it.  It is not if it falls back to
 * a constant or to the row's own tenant when nothing is set (COALESCE, CASE),
 * but "" as a fallback is harmless: it is what an unset setting looks like.
 *
 * Equality is an operator that a btree operator family has as such, which only
 * a superuser can bring about; one that is merely called "=" proves nothing.
 *
 * The policies of enable_rls with admin roles have a CASE that lets members of
 * these roles through.  That is told apart by its form, and the roles are kept
 * as exceptions, so that it isolates everybody else.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/varlena.h"

#include "checks/audit.h"
#include "checks/audit_condition.h"
#include "engine/compat.h"

typedef struct Reading
{
	const AuditTable *table;
	AuditCondition *condition;
} Reading;

static bool isolates(Node *node, Reading *reading);

/* --- parts of expressions --------------------------------------------- */

/* Below what changes nothing */
static Node *
strip(Node *node)
{
	for (;;)
	{
		if (IsA(node, RelabelType))
			node = (Node *) ((RelabelType *) node)->arg;
		else if (IsA(node, CollateExpr))
			node = (Node *) ((CollateExpr *) node)->arg;
		else
			return node;
	}
}

Node *
condition_strip_casts(Node *node, bool *cast)
{
	*cast = false;
	for (;;)
	{
		node = strip(node);
		if (IsA(node, CoerceViaIO))
			node = (Node *) ((CoerceViaIO *) node)->arg;
		else if (IsA(node, CoerceToDomain))
			node = (Node *) ((CoerceToDomain *) node)->arg;
		else if (IsA(node, FuncExpr) && ((FuncExpr *) node)->args != NIL &&
				 ((FuncExpr *) node)->funcformat != COERCE_EXPLICIT_CALL)
			node = linitial(((FuncExpr *) node)->args);
		else
			return node;
		*cast = true;
	}
}

bool
condition_is_tenant(Node *node, const AuditTable *table, bool *cast)
{
	Node	   *below = condition_strip_casts(node, cast);

	if (IsA(below, FuncExpr) &&
		(((FuncExpr *) below)->funcid == F_LOWER_TEXT ||
		 ((FuncExpr *) below)->funcid == F_UPPER_TEXT))
	{
		below = condition_strip_casts(linitial(((FuncExpr *) below)->args), cast);
		*cast = false;
	}
	return IsA(below, Var) && ((Var *) below)->varno == 1 &&
		((Var *) below)->varlevelsup == 0 &&
		((Var *) below)->varattno == table->attnum;
}

typedef struct Mention
{
	AttrNumber	attnum;			/* InvalidAttrNumber: any column */
	int			level;
} Mention;

static bool
mention_walker(Node *node, Mention *mention)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		return var->varlevelsup == mention->level && var->varno == 1 &&
			(mention->attnum == InvalidAttrNumber ||
			 var->varattno == mention->attnum || var->varattno == 0);
	}
	if (IsA(node, Query))
	{
		bool		found;

		mention->level++;
		found = query_tree_walker((Query *) node, mention_walker, mention, 0);
		mention->level--;
		return found;
	}
	return expression_tree_walker(node, mention_walker, mention);
}

bool
condition_mentions(Node *node, AttrNumber attnum)
{
	Mention		mention = {attnum, 0};

	return mention_walker(node, &mention);
}

static bool
is_setting_call(Node *node)
{
	return IsA(node, FuncExpr) &&
		(((FuncExpr *) node)->funcid == F_CURRENT_SETTING_TEXT ||
		 ((FuncExpr *) node)->funcid == F_CURRENT_SETTING_TEXT_BOOL);
}

/* Something that may differ from session to session */
static bool
session_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, SQLValueFunction))
		return true;
	if (IsA(node, FuncExpr) &&
		func_volatile(((FuncExpr *) node)->funcid) != PROVOLATILE_IMMUTABLE)
		return true;
	if (IsA(node, RangeTblEntry))
		return ((RangeTblEntry *) node)->rtekind == RTE_RELATION;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, session_walker, context,
								 QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, session_walker, context);
}

static bool
is_session_value(Node *node)
{
	return session_walker(node, NULL);
}

/* The name of the setting that current_setting, or a function of ours, reads */
static bool
setting_walker(Node *node, char **setting)
{
	if (node == NULL)
		return false;
	if (IsA(node, FuncExpr))
	{
		FuncExpr   *call = (FuncExpr *) node;
		Node	   *first = call->args ? linitial(call->args) : NULL;
		char	   *name = get_func_name(call->funcid);
		bool		ours = name && strcmp(name, "required_setting") == 0;

		if ((is_setting_call(node) || ours) && first && IsA(first, Const) &&
			!((Const *) first)->constisnull &&
			((Const *) first)->consttype == TEXTOID)
		{
			*setting = TextDatumGetCString(((Const *) first)->constvalue);
			return true;
		}
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, setting_walker, setting, 0);
	return expression_tree_walker(node, setting_walker, setting);
}

/* NULL, or "" of a type of text */
static bool
is_nothing(Node *node)
{
	Const	   *value = (Const *) strip(node);
	Oid			output;
	bool		varlena;

	if (!IsA(value, Const))
		return false;
	if (value->constisnull)
		return true;
	if (value->consttype != TEXTOID && value->consttype != VARCHAROID)
		return false;
	getTypeOutputInfo(value->consttype, &output, &varlena);
	return OidOutputFunctionCall(output, value->constvalue)[0] == '\0';
}

static bool
is_fallback(Node *node)
{
	return node != NULL && !is_nothing(node) && !is_session_value(node);
}

/* A COALESCE or CASE that gives a tenant when none is set, or a tenant that is
 * listed beside that of the session */
static bool
fallback_walker(Node *node, void *context)
{
	ListCell   *lc;

	if (node == NULL)
		return false;
	if (IsA(node, CoalesceExpr))
		foreach(lc, ((CoalesceExpr *) node)->args)
			if (is_fallback(lfirst(lc)))
				return true;
	if (IsA(node, ArrayExpr))
		foreach(lc, ((ArrayExpr *) node)->elements)
			if (is_fallback(lfirst(lc)))
				return true;
	if (IsA(node, CaseExpr))
	{
		foreach(lc, ((CaseExpr *) node)->args)
			if (is_fallback((Node *) lfirst_node(CaseWhen, lc)->result))
				return true;
		if (is_fallback((Node *) ((CaseExpr *) node)->defresult))
			return true;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, fallback_walker, context, 0);
	return expression_tree_walker(node, fallback_walker, context);
}

bool
condition_is_equality(Oid operator)
{
	return get_mergejoin_opfamilies(operator) != NIL;
}

/* --- what isolates ---------------------------------------------------- */

/* The side of a comparison that the column stands against */
static bool
value_isolates(Node *value, Reading *reading)
{
	bool		other_column = condition_mentions(value, InvalidAttrNumber);

	if (is_nothing(value))
		return true;
	if (!is_session_value(value))
	{
		if (!other_column)
			reading->condition->flags |= CONDITION_CONSTANT;
		return false;
	}
	if (condition_mentions(value, reading->table->attnum) || fallback_walker(value, NULL))
	{
		reading->condition->flags |= CONDITION_DEFAULTED;
		return false;
	}
	if (reading->condition->setting == NULL)
		(void) setting_walker(value, &reading->condition->setting);
	return !other_column;
}

/* COALESCE(column, something) */
static bool
fills_gaps(Node *node, const AuditTable *table)
{
	bool		cast;

	node = condition_strip_casts(node, &cast);
	return IsA(node, CoalesceExpr) && !table->not_null &&
		condition_is_tenant(linitial(((CoalesceExpr *) node)->args), table, &cast);
}

static bool
comparison_isolates(Oid operator, List *args, Reading *reading)
{
	Node	   *left = linitial(args);
	Node	   *right = lsecond(args);
	bool		cast;

	if (!condition_is_tenant(left, reading->table, &cast))
	{
		Node	   *swap = left;

		left = right;
		right = swap;
		if (!condition_is_tenant(left, reading->table, &cast))
		{
			if (fills_gaps(left, reading->table) ||
				fills_gaps(right, reading->table))
				reading->condition->flags |= CONDITION_NULL;
			return false;
		}
	}
	if (!condition_is_equality(operator))
	{
		reading->condition->flags |= CONDITION_OPERATOR;
		return false;
	}
	if (cast)
		reading->condition->flags |= CONDITION_COLUMN_CAST;
	return value_isolates(right, reading);
}

static bool
sublink_isolates(SubLink *sublink, Reading *reading)
{
	OpExpr	   *test = (OpExpr *) sublink->testexpr;

	switch (sublink->subLinkType)
	{
		case EXISTS_SUBLINK:
			return condition_mentions(sublink->subselect, reading->table->attnum);
		case ANY_SUBLINK:
			return test && IsA(test, OpExpr) && list_length(test->args) == 2 &&
				condition_is_equality(test->opno) && condition_mentions((Node *) test, reading->table->attnum);
		case EXPR_SUBLINK:
			{
				/* (SELECT condition) */
				Query	   *query = (Query *) sublink->subselect;

				return condition_mentions((Node *) query, reading->table->attnum);
			}
		default:
			return false;
	}
}

/* pg_has_role(to_regrole('...'), ...), alone or in an OR: the roles named */
static bool
names_roles(Node *node, List **roles)
{
	ListCell   *lc;

	node = strip(node);
	if (IsA(node, SubLink) &&
		((SubLink *) node)->subLinkType == EXPR_SUBLINK)
	{
		Query	   *query = (Query *) ((SubLink *) node)->subselect;

		return query->rtable == NIL && list_length(query->targetList) == 1 &&
			names_roles((Node *) linitial_node(TargetEntry, query->targetList)->expr,
						roles);
	}
	if (is_orclause(node))
	{
		foreach(lc, ((BoolExpr *) node)->args)
			if (!names_roles(lfirst(lc), roles))
				return false;
		return true;
	}
	if (IsA(node, FuncExpr) &&
		((FuncExpr *) node)->funcid == F_PG_HAS_ROLE_OID_TEXT)
	{
		Node	   *role = strip(linitial(((FuncExpr *) node)->args));

		if (IsA(role, FuncExpr) &&
			((FuncExpr *) role)->funcid == F_TO_REGROLE)
		{
			Node	   *name = strip(linitial(((FuncExpr *) role)->args));
			List	   *names;

			if (!IsA(name, Const) || ((Const *) name)->constisnull)
				return false;
			if (SplitIdentifierString(TextDatumGetCString(((Const *) name)->constvalue),
									  '.', &names) && list_length(names) == 1)
			{
				Oid			oid = get_role_oid(linitial(names), true);

				if (OidIsValid(oid))
					*roles = list_append_unique_oid(*roles, oid);
			}
			return true;
		}
	}
	return false;
}

static bool
is_true(Node *node)
{
	return IsA(node, Const) && !((Const *) node)->constisnull &&
		((Const *) node)->consttype == BOOLOID &&
		DatumGetBool(((Const *) node)->constvalue);
}

static bool
case_isolates(CaseExpr *expr, Reading *reading)
{
	ListCell   *lc;

	if (expr->arg != NULL)
		return false;
	foreach(lc, expr->args)
	{
		CaseWhen   *when = lfirst_node(CaseWhen, lc);
		List	   *roles = NIL;

		if (is_true((Node *) when->result) &&
			names_roles((Node *) when->expr, &roles))
			reading->condition->except =
				list_concat_unique_oid(reading->condition->except, roles);
		else if (!isolates((Node *) when->result, reading))
			return false;
	}
	return expr->defresult == NULL ||
		isolates((Node *) expr->defresult, reading);
}

/* Why a part of an OR does not isolate, where its own reading has not said it */
static void
explain(Node *node, Reading *reading)
{
	if (!condition_mentions(node, reading->table->attnum))
		reading->condition->flags |= CONDITION_BYPASS;
}

static bool
bool_isolates(BoolExpr *expr, Reading *reading)
{
	bool		all = true;
	int			flags = reading->condition->flags;
	ListCell   *lc;

	switch (expr->boolop)
	{
		case AND_EXPR:
			foreach(lc, expr->args)
				if (isolates(lfirst(lc), reading))
				{
					/* whatever is wrong with the other parts */
					reading->condition->flags = flags |
						(reading->condition->flags & CONDITION_COLUMN_CAST);
					return true;
				}
			return false;
		case OR_EXPR:
			foreach(lc, expr->args)
				if (!isolates(lfirst(lc), reading))
				{
					explain(lfirst(lc), reading);
					all = false;
				}
			return all;
		case NOT_EXPR:
			/* IS NOT DISTINCT FROM; NULL is what an unset setting may give */
			if (!IsA(linitial(expr->args), DistinctExpr) ||
				!comparison_isolates(((DistinctExpr *) linitial(expr->args))->opno,
									 ((DistinctExpr *) linitial(expr->args))->args,
									 reading))
				return false;
			if (reading->table->not_null)
				return true;
			reading->condition->flags |= CONDITION_NULL;
			return false;
	}
	return false;
}

static bool
isolates(Node *node, Reading *reading)
{
	bool		cast;

	node = strip(node);
	check_stack_depth();
	switch (nodeTag(node))
	{
		case T_Const:
			return !is_true(node);
		case T_OpExpr:
			return list_length(((OpExpr *) node)->args) == 2 &&
				comparison_isolates(((OpExpr *) node)->opno,
									((OpExpr *) node)->args, reading);
		case T_ScalarArrayOpExpr:
			return ((ScalarArrayOpExpr *) node)->useOr &&
				comparison_isolates(((ScalarArrayOpExpr *) node)->opno,
									((ScalarArrayOpExpr *) node)->args, reading);
		case T_BoolExpr:
			return bool_isolates((BoolExpr *) node, reading);
		case T_BooleanTest:
			return ((BooleanTest *) node)->booltesttype == IS_TRUE &&
				isolates((Node *) ((BooleanTest *) node)->arg, reading);
		case T_NullTest:
			if (((NullTest *) node)->nulltesttype == IS_NULL &&
				condition_is_tenant((Node *) ((NullTest *) node)->arg, reading->table, &cast))
			{
				if (reading->table->not_null)
					return true;
				reading->condition->flags |= CONDITION_NULL;
			}
			return false;
		case T_SubLink:
			return sublink_isolates((SubLink *) node, reading);
		case T_CaseExpr:
			return case_isolates((CaseExpr *) node, reading);
		case T_FuncExpr:
			return condition_mentions((Node *) ((FuncExpr *) node)->args,
							reading->table->attnum);
		default:
			return false;
	}
}

/* --- what costs ------------------------------------------------------- */

static bool
stable_walker(Node *node, int *found)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var) || IsA(node, Param) || IsA(node, SubLink) ||
		IsA(node, CaseTestExpr) || IsA(node, CoerceToDomainValue))
		return true;			/* not the same for all rows */
	if (IsA(node, FuncExpr))
	{
		char		volatility = func_volatile(((FuncExpr *) node)->funcid);

		if (volatility == PROVOLATILE_VOLATILE)
			return true;
		if (volatility == PROVOLATILE_STABLE &&
			(is_setting_call(node) ||
			 ((FuncExpr *) node)->funcid >= FirstNormalObjectId))
			*found = 1;
	}
	return expression_tree_walker(node, stable_walker, found);
}

bool
condition_is_once_a_query(Node *node)
{
	int			found = 0;

	return !stable_walker(node, &found) && found;
}

/* A setting, or a stable function without arguments of the row, outside of any
 * sub-select */
static bool
per_row_walker(Node *node, void *context)
{
	if (node == NULL || IsA(node, SubLink))
		return false;
	if (IsA(node, FuncExpr) && condition_is_once_a_query(node))
		return true;
	return expression_tree_walker(node, per_row_walker, context);
}

/* --- reading ---------------------------------------------------------- */

void
audit_read_condition(const AuditTable *table, AuditCondition *condition)
{
	Reading		reading = {table, condition};
	Node	   *node;

	if (condition->tree == NULL)
		return;
	node = stringToNode(condition->tree);
	condition->isolates = isolates(node, &reading);
	if (is_true(node))
		condition->flags |= CONDITION_TRUE;
	else if (!condition_mentions(node, table->attnum))
	{
		condition->flags &= ~CONDITION_BYPASS;
		condition->flags |= CONDITION_NO_TENANT;
	}
	if (per_row_walker(node, NULL))
		condition->flags |= CONDITION_PER_ROW;
}

void
audit_read_default(AuditTable *table)
{
	AuditCondition *preset = &table->preset;
	Node	   *node;

	if (preset->tree == NULL)
		return;
	node = stringToNode(preset->tree);
	if (is_nothing(node))
		return;
	if (fallback_walker(node, NULL))
		preset->flags |= CONDITION_DEFAULTED;
	else if (!is_session_value(node))
		preset->flags |= CONDITION_CONSTANT;
}
