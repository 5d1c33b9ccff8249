/*
 * compat.h
 *		The one place where PostgreSQL versions differ.
 *
 * Every version switch of the project lives here, with its reason, so that
 * the rest of the source reads as if there were one PostgreSQL.  Supported
 * are 15 to 18.
 */
#ifndef TENANTMIG_COMPAT_H
#define TENANTMIG_COMPAT_H

#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_tablespace.h"
#include "common/relpath.h"
#include "storage/bufmgr.h"
#include "storage/fd.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/sinvaladt.h"
#include "tcop/pquery.h"
#include "utils/acl.h"
#include "utils/rel.h"

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "tenantmig supports PostgreSQL 15 to 18"
#endif

/* 16 replaced pg_class_ownercheck and its kin by object_ownercheck */
#if PG_VERSION_NUM >= 160000
#define relation_ownercheck(relid, roleid) \
	object_ownercheck(RelationRelationId, (relid), (roleid))
#define namespace_aclcheck(nspid, roleid, mode) \
	object_aclcheck(NamespaceRelationId, (nspid), (roleid), (mode))
#define tablespace_aclcheck(spcid, roleid, mode) \
	object_aclcheck(TableSpaceRelationId, (spcid), (roleid), (mode))
#else
#define relation_ownercheck(relid, roleid) \
	pg_class_ownercheck((relid), (roleid))
#define namespace_aclcheck(nspid, roleid, mode) \
	pg_namespace_aclcheck((nspid), (roleid), (mode))
#define tablespace_aclcheck(spcid, roleid, mode) \
	pg_tablespace_aclcheck((spcid), (roleid), (mode))
#endif

/* 17 replaced BackendId by ProcNumber: who holds a virtual transaction */
#if PG_VERSION_NUM >= 170000
#define vxid_proc(vxid) ProcNumberGetProc((vxid).procNumber)
#else
#define vxid_proc(vxid) BackendIdGetProc((vxid).backendId)
#endif

/* 17 put the number of the local transaction into the vxid */
#if PG_VERSION_NUM >= 170000
#define proc_local_xid(proc) ((proc)->vxid.lxid)
#else
#define proc_local_xid(proc) ((proc)->lxid)
#endif
#define my_local_xid() proc_local_xid(MyProc)

/* 17 gave LockHeldByMe a third argument */
#if PG_VERSION_NUM >= 170000
#define lock_held_by_me(tag, mode) LockHeldByMe((tag), (mode), false)
#else
#define lock_held_by_me(tag, mode) LockHeldByMe((tag), (mode))
#endif

/* 18 has pg_noreturn, in front of the declaration, for pg_attribute_noreturn() */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

/* 18 took the run_once argument away from PortalRun */
#if PG_VERSION_NUM >= 180000
#define portal_run(portal, dest, qc) \
	PortalRun((portal), FETCH_ALL, true, (dest), (dest), (qc))
#else
#define portal_run(portal, dest, qc) \
	PortalRun((portal), FETCH_ALL, true, true, (dest), (dest), (qc))
#endif

/* and from ExecutorRun */
#if PG_VERSION_NUM >= 180000
#define executor_run(desc) ExecutorRun((desc), ForwardScanDirection, 0)
#else
#define executor_run(desc) ExecutorRun((desc), ForwardScanDirection, 0, true)
#endif

/* 16 tells apart who has a role's privileges from who may become the role */
#if PG_VERSION_NUM >= 160000
#define may_set_role(member, role) member_can_set_role((member), (role))
#else
#define may_set_role(member, role) is_member_of_role((member), (role))
#endif

/* 17 can end a transaction that takes long; a job must not have that */
#if PG_VERSION_NUM >= 170000
#define HAVE_TRANSACTION_TIMEOUT 1
#endif

/* 16 moved the variable-length macros into a header of their own */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 16 tells the columns that an index must follow from those that BRIN merely
 * summarizes: which of them stand in the way of a HOT update */
#if PG_VERSION_NUM >= 160000
#define INDEX_ATTR_BITMAP_HOT INDEX_ATTR_BITMAP_HOT_BLOCKING
#else
#define INDEX_ATTR_BITMAP_HOT INDEX_ATTR_BITMAP_ALL
#endif

/* 18 gave index_beginscan a place for the counters of EXPLAIN */
#if PG_VERSION_NUM >= 180000
#define index_scan_begin(heap, index, snapshot, nkeys) \
	index_beginscan((heap), (index), (snapshot), NULL, (nkeys), 0)
#else
#define index_scan_begin(heap, index, snapshot, nkeys) \
	index_beginscan((heap), (index), (snapshot), (nkeys), 0)
#endif

/* 16 tells an update that concerns indexes which merely summarize from one that
 * concerns all */
#if PG_VERSION_NUM >= 160000
#define UpdatedIndexes TU_UpdateIndexes
#define any_index_updated(indexes) ((indexes) != TU_None)
#define index_is_updated(info, indexes) \
	((indexes) == TU_All || (info)->ii_Summarizing)
#else
#define UpdatedIndexes bool
#define any_index_updated(indexes) (indexes)
#define index_is_updated(info, indexes) true
#endif

/* 16 renamed the place of a relation's files */
#if PG_VERSION_NUM >= 160000
#define relation_locator(relation) ((relation)->rd_locator)
#else
#define relation_locator(relation) ((relation)->rd_node)
#endif

/* 17 has no snapshots that are too old any more */
#if PG_VERSION_NUM >= 170000
#define test_for_old_snapshot(snapshot, relation, page) ((void) 0)
#else
#define test_for_old_snapshot(snapshot, relation, page) \
	TestForOldSnapshot((snapshot), (relation), (page))
#endif

/* 18 returns the path of a file by value; those of a permanent relation */
static inline void
relation_path(Relation relation, char *path, size_t size)
{
#if PG_VERSION_NUM >= 180000
	strlcpy(path, relpathperm(relation_locator(relation), MAIN_FORKNUM).str, size);
#else
	char	   *found = relpathperm(relation_locator(relation), MAIN_FORKNUM);

	strlcpy(path, found, size);
	pfree(found);
#endif
}

/* 16 may write data past the system's cache, when there is nothing to write back */
#if PG_VERSION_NUM >= 160000
#define data_is_cached_by_system() ((io_direct_flags & IO_DIRECT_DATA) == 0)
#else
#define data_is_cached_by_system() true
#endif

/*
 * Whether the disk is to be told to begin with what was written.  Elsewhere than
 * with sync_file_range() that would throw it out of the system's cache.
 */
static inline bool
disk_is_told(void)
{
#ifdef HAVE_SYNC_FILE_RANGE
	return checkpoint_flush_after > 0 && data_is_cached_by_system();
#else
	return false;
#endif
}

/* 18 has generated columns that are not stored, too */
static inline bool
has_generated_columns(TupleDesc desc)
{
#if PG_VERSION_NUM >= 180000
	if (desc->constr && desc->constr->has_generated_virtual)
		return true;
#endif
	return desc->constr && desc->constr->has_generated_stored;
}

/* 18 can name the module and its version in pg_get_loaded_modules() */
#if PG_VERSION_NUM >= 180000
#define MODULE_MAGIC PG_MODULE_MAGIC_EXT(.name = "tenantmig", .version = "1.0")
#else
#define MODULE_MAGIC PG_MODULE_MAGIC
#endif

/* 16 made inheriting and SET ROLE matters of each membership; before, a role
 * inherits or not, and every member may SET ROLE.  As SQL, of a row m of
 * pg_auth_members and the row r of pg_roles of its member.  Who may grant a
 * membership may give it to himself with SET. */
#if PG_VERSION_NUM >= 160000
#define MEMBER_INHERITS "m.inherit_option"
#define MEMBER_CAN_SET "(m.set_option OR m.admin_option)"
#else
#define MEMBER_INHERITS "r.rolinherit"
#define MEMBER_CAN_SET "true"
#endif

/* 18 knows NOT NULL that is not valid, a constraint of type n: the mark on the
 * column is set, and yet there may be NULLs */
static inline bool
attribute_is_not_null(Form_pg_attribute att)
{
#if PG_VERSION_NUM >= 180000
	HeapTuple	constraint;
	bool		valid;

	if (!att->attnotnull)
		return false;
	constraint = findNotNullConstraintAttnum(att->attrelid, att->attnum);
	if (constraint == NULL)
		return true;
	valid = ((Form_pg_constraint) GETSTRUCT(constraint))->convalidated;
	heap_freetuple(constraint);
	return valid;
#else
	return att->attnotnull;
#endif
}

/* The same as SQL, of a row of pg_attribute */
#if PG_VERSION_NUM >= 180000
#define COLUMN_IS_NOT_NULL(a) \
	"(" a ".attnotnull AND NOT EXISTS (SELECT FROM pg_constraint nn " \
	" WHERE nn.conrelid = " a ".attrelid AND nn.contype = 'n' " \
	" AND nn.conkey = ARRAY[" a ".attnum] AND NOT nn.convalidated))"
#else
#define COLUMN_IS_NOT_NULL(a) a ".attnotnull"
#endif

/* 18 has keys WITHOUT OVERLAPS, and foreign keys with PERIOD, whose last column
 * is not compared by equality */
static inline bool
constraint_is_temporal(Form_pg_constraint constraint)
{
#if PG_VERSION_NUM >= 180000
	return constraint->conperiod;
#else
	return false;
#endif
}

#endif							/* TENANTMIG_COMPAT_H */
