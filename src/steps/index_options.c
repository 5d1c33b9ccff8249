/*
 * index_options.c
 *		What create_index can say beside the columns, checked.
 */
#include "postgres.h"

#include "access/amapi.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_tablespace.h"
#include "commands/tablespace.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"

#include "engine/compat.h"
#include "engine/json.h"
#include "engine/sqltext.h"
#include "steps/index_options.h"
#include "steps/target.h"

/* Written as the server prints it */
char *
index_storage_text(Jsonb *storage)
{
	StringInfoData buf;
	ListCell   *lc;

	if (!JB_ROOT_IS_OBJECT(storage))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("storage is not an object"),
				 errhint("For example: storage => '{\"fillfactor\": 90}'.")));
	initStringInfo(&buf);
	foreach(lc, json_keys(storage))
	{
		char	   *value = json_text(storage, lfirst(lc));

		if (value == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("storage parameter %s has no value",
							quote_identifier(lfirst(lc)))));
		appendStringInfo(&buf, "%s%s=%s", buf.len > 0 ? ", " : "",
						 quote_identifier(lfirst(lc)), sql_literal(value));
	}
	return buf.len > 0 ? buf.data : NULL;
}

void
index_check_storage(List *options, Oid method)
{
	IndexAmRoutine *routine = GetIndexAmRoutineByAmId(method, false);
	Datum		reloptions = transformRelOptions((Datum) 0, options, NULL, NULL,
												 false, false);

	(void) index_reloptions(routine->amoptions, reloptions, true);
}

void
index_check_tablespace(const char *tablespace, Oid relid)
{
	Oid			oid = get_tablespace_oid(tablespace, false);
	Oid			owner = target_owner(relid);

	if (oid == GLOBALTABLESPACE_OID)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("only shared relations can be placed in pg_global tablespace")));
	if (oid != MyDatabaseTableSpace &&
		tablespace_aclcheck(oid, owner, ACL_CREATE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for tablespace %s", quote_identifier(tablespace)),
				 errdetail("The index is built as the owner of the table."),
				 errhint("GRANT CREATE ON TABLESPACE %s TO %s;", quote_identifier(tablespace),
						 quote_identifier(GetUserNameFromId(owner, false)))));
}

static void
check_level(Oid table, List *names)
{
	Relation	relation = table_open(table, AccessShareLock);
	PartitionKey key = RelationGetPartitionKey(relation);

	for (int i = 0; i < get_partition_natts(key); i++)
	{
		AttrNumber	attnum = get_partition_col_attnum(key, i);
		char	   *column = attnum > 0 ? get_attname(table, attnum, false) : NULL;
		bool		found = false;
		ListCell   *lc;

		foreach(lc, names)
			found |= column && strcmp(lfirst(lc), column) == 0;
		if (!found)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("unique index on %s must have all columns of its partition key",
							sql_relation(table)),
					 column
					 ? errdetail("It lacks column %s.", quote_identifier(column))
					 : errdetail("An expression of the partition key cannot be in it."),
					 errhint("Add the column, or make a unique index on each partition, which holds within that one only.")));
	}
	table_close(relation, NoLock);
}

void
index_check_unique(Oid relid, List *names)
{
	ListCell   *lc;

	if (get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
		return;
	foreach(lc, target_tree(relid))
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_PARTITIONED_TABLE)
			check_level(lfirst_oid(lc), names);
}
