/*
 * audit_roles.c
 *		Roles that row-level security does not hold for.
 *
 * Attributes of a role are not inherited, but whoever can SET ROLE to one has
 * them.  One row for each membership on the way, since each has to go.
 */
#include "postgres.h"

#include "checks/audit.h"
#include "engine/compat.h"

#define REACH \
	"WITH RECURSIVE subject AS MATERIALIZED (" \
	" SELECT r.* FROM pg_roles r WHERE r.oid = ANY ($7::oid[])), " \
	"reach (role, target) AS (" \
	" SELECT oid, oid FROM subject UNION " \
	" SELECT s.role, m.roleid FROM reach s JOIN pg_auth_members m ON m.member = s.target " \
	" JOIN pg_roles r ON r.oid = m.member WHERE " MEMBER_CAN_SET "), " \
	"edge AS (" \
	" SELECT DISTINCT s.role, b.rolname AS role_name, r.rolname AS member, m.roleid, " \
	"  format('REVOKE %I FROM %I', x.rolname, r.rolname) " \
	"  || COALESCE(' GRANTED BY ' || quote_ident(gr.rolname), '') AS revoke, " \
	"  " MEMBER_CAN_SET " AS can_set, " MEMBER_INHERITS " AS inherits " \
	" FROM reach s JOIN subject b ON b.oid = s.role " \
	" JOIN pg_auth_members m ON m.member = s.target " \
	" JOIN pg_roles r ON r.oid = m.member JOIN pg_roles x ON x.oid = m.roleid " \
	" LEFT JOIN pg_roles gr ON gr.oid = m.grantor) "

#define BYPASS \
	REACH \
	"SELECT 'role_bypasses', 'error', quote_ident(b.rolname), b.rolname, " \
	" 'No policy holds for it: it ' || CASE WHEN b.oid = 10 THEN 'is the bootstrap superuser. Let the application connect as another role.' " \
	"  WHEN b.rolsuper THEN 'is a superuser.' ELSE 'has BYPASSRLS.' END, " \
	" CASE WHEN b.oid <> 10 THEN format('ALTER ROLE %I %s', b.rolname, concat_ws(' ', CASE WHEN b.rolsuper THEN 'NOSUPERUSER' END, " \
	"  CASE WHEN b.rolbypassrls THEN 'NOBYPASSRLS' END)) END " \
	"FROM subject b WHERE b.rolsuper OR b.rolbypassrls " \
	"UNION ALL " \
	"SELECT 'role_bypasses', 'error', quote_ident(x.rolname), e.role_name, " \
	" format('By SET ROLE %I it gets past all policies, since that role %s.', x.rolname, " \
	"  CASE WHEN x.rolsuper THEN 'is a superuser' ELSE 'has BYPASSRLS' END), e.revoke " \
	"FROM edge e JOIN pg_roles x ON x.oid = e.roleid " \
	"WHERE e.can_set AND (x.rolsuper OR x.rolbypassrls) " \
	"UNION ALL " \
	"SELECT 'role_bypasses', 'error', quote_ident(x.rolname), e.role_name, " \
	" format('As a member of %I it can %s.', x.rolname, CASE x.rolname " \
	"  WHEN 'pg_execute_server_program' THEN 'run programs as the server does' " \
	"  WHEN 'pg_write_server_files' THEN 'write the files of the server' " \
	"  ELSE 'read the files of the server, those of the tables too' END), e.revoke " \
	"FROM edge e JOIN pg_roles x ON x.oid = e.roleid " \
	"WHERE (e.can_set OR e.inherits) " \
	"AND x.rolname IN ('pg_execute_server_program', 'pg_write_server_files', 'pg_read_server_files') " \
	"UNION ALL " \
	/* since 16 it takes the right to administer the role, which is an edge */ \
	"SELECT 'role_bypasses', 'error', quote_ident(b.rolname), b.rolname, " \
	" 'It has CREATEROLE, with which it can make itself a member of any role that is no superuser.', " \
	" format('ALTER ROLE %I NOCREATEROLE', b.rolname) " \
	"FROM subject b WHERE b.rolcreaterole AND NOT b.rolsuper " \
	"AND current_setting('server_version_num')::integer < 160000"

#define REPLICATION \
	REACH \
	"SELECT 'replication_role', 'error', quote_ident(b.rolname), b.rolname, " \
	" 'It has REPLICATION: it can copy the files of all tables, and decode the rows of all tenants from the WAL.', " \
	" format('ALTER ROLE %I NOREPLICATION', b.rolname) " \
	"FROM subject b WHERE b.rolreplication AND NOT b.rolsuper " \
	"UNION ALL " \
	"SELECT 'replication_role', 'error', quote_ident(x.rolname), e.role_name, " \
	" format('By SET ROLE %I, which has REPLICATION, it can decode the rows of all tenants from the WAL.', x.rolname), " \
	" e.revoke " \
	"FROM edge e JOIN pg_roles x ON x.oid = e.roleid " \
	"WHERE e.can_set AND x.rolreplication AND NOT x.rolsuper"

void
audit_check_roles(Audit *audit)
{
	audit_query(audit, BYPASS);
	audit_query(audit, REPLICATION);
}
