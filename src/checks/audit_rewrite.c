/*
 * audit_rewrite.c
 *		Conditions as SQL: as they are, and as they should be.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "checks/audit.h"
#include "checks/audit_condition.h"
#include "engine/compat.h"
#include "engine/sqltext.h"

char *
audit_condition_text(const AuditTable *table, const AuditCondition *condition)
{
	return TextDatumGetCString(DirectFunctionCall2(pg_get_expr,
												   CStringGetTextDatum(condition->tree),
												   ObjectIdGetDatum(table->oid)));
}

/* The operator that the column is compared with, its argument type, and that
 * type as SQL, without a length: a value that is too long is another tenant */
static Oid
find_equality(Oid column_type, Oid *type, char **type_name)
{
	Oid			operator = lookup_type_cache(column_type, TYPECACHE_EQ_OPR)->eq_opr;
	Oid			right;

	if (!OidIsValid(operator))
		return InvalidOid;
	op_input_types(operator, type, &right);
	if (get_typtype(*type) == TYPTYPE_PSEUDO)
		*type = getBaseType(column_type);
	*type_name = format_type_extended(*type, -1, FORMAT_TYPE_TYPEMOD_GIVEN |
									  FORMAT_TYPE_FORCE_QUALIFY);
	return operator;
}

char *
audit_setting_value(const AuditTable *table)
{
	return psprintf("NULLIF(pg_catalog.current_setting(%s, true), '')::%s",
					sql_literal(table->setting),
					format_type_extended(getBaseType(table->type), -1,
										 FORMAT_TYPE_TYPEMOD_GIVEN |
										 FORMAT_TYPE_FORCE_QUALIFY));
}

char *
audit_isolation(const AuditTable *table)
{
	Oid			type;
	char	   *type_name;
	Oid			operator = find_equality(table->type, &type, &type_name);
	const char *column = quote_identifier(table->column);

	if (!OidIsValid(operator))
		return NULL;
	return psprintf("%s %s (SELECT NULLIF(pg_catalog.current_setting(%s, true), '')::%s)",
					table->type == type ? column
					: psprintf("(%s)::%s", column, type_name),
					sql_operator(operator), sql_literal(table->setting),
					type_name);
}

/* (SELECT expression) */
static Node *
make_sub_select(Node *expression)
{
	Query	   *query = makeNode(Query);
	SubLink    *sublink = makeNode(SubLink);

	query->commandType = CMD_SELECT;
	query->canSetTag = true;
	query->targetList = list_make1(makeTargetEntry((Expr *) expression, 1,
												   pstrdup("value"), false));
	query->jointree = makeFromExpr(NIL, NULL);
	sublink->subLinkType = EXPR_SUBLINK;
	sublink->subselect = (Node *) query;
	return (Node *) sublink;
}

/* Cast the value instead of the column; NULL if there is nothing to better */
static Node *
better_comparison(OpExpr *expr, const AuditTable *table)
{
	Node	   *left = linitial(expr->args);
	Node	   *right = lsecond(expr->args);
	bool		cast;
	Oid			type;
	char	   *type_name;
	Oid			operator;
	Node	   *column;
	Node	   *value;

	if (!condition_is_tenant(left, table, &cast))
	{
		Node	   *swap = left;

		left = right;
		right = swap;
		if (!condition_is_tenant(left, table, &cast))
			return NULL;
	}
	if (!cast || !condition_is_equality(expr->opno) || condition_mentions(right, InvalidAttrNumber))
		return NULL;
	operator = find_equality(table->type, &type, &type_name);
	if (!OidIsValid(operator))
		return NULL;
	column = condition_strip_casts(left, &cast);
	if (exprType(column) != type)
		column = coerce_to_target_type(NULL, column, exprType(column), type, -1,
									   COERCION_EXPLICIT, COERCE_EXPLICIT_CAST, -1);
	value = coerce_to_target_type(NULL, right, exprType(right), type, -1,
								  COERCION_EXPLICIT, COERCE_EXPLICIT_CAST, -1);
	if (column == NULL || value == NULL)
		return NULL;
	if (condition_is_once_a_query(value))
		value = make_sub_select(value);
	return (Node *) make_opclause(operator, BOOLOID, false, (Expr *) column,
								  (Expr *) value, InvalidOid, expr->inputcollid);
}

static Node *
better_mutator(Node *node, const AuditTable *table)
{
	Node	   *better;

	if (node == NULL || IsA(node, SubLink))
		return node;
	if (IsA(node, OpExpr) && list_length(((OpExpr *) node)->args) == 2 &&
		(better = better_comparison((OpExpr *) node, table)) != NULL)
		return better;
	if (!IsA(node, List) && condition_is_once_a_query(node))
		return make_sub_select(node);
	return expression_tree_mutator(node, better_mutator, (void *) table);
}

char *
audit_better_condition(const AuditTable *table,
					   const AuditCondition *condition)
{
	AuditCondition better = {0};

	better.tree = nodeToString(better_mutator(stringToNode(condition->tree),
											  table));
	return audit_condition_text(table, &better);
}
