--
-- audit_rls: tables that row-level security does not cover
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
\i :abs_srcdir/sql/include/audit.sql
\set ECHO all
\pset format unaligned

-- a schema without a hole
SELECT * FROM seen();
SELECT * FROM seen(role => NULL);
SELECT * FROM seen(role => 'public');
SELECT * FROM seen(role => 'regress_tm_owner');

--
-- 1. Row-level security off, on an ordinary and a partitioned table
--
CREATE TABLE notes (tenant_id text NOT NULL, id int, PRIMARY KEY (tenant_id, id));
SELECT * FROM seen();
GRANT SELECT ON notes TO regress_tm_app;
SELECT * FROM seen();
CALL mends('rls_disabled');
SELECT * FROM seen();
CREATE TABLE parts (tenant_id text NOT NULL, id int, PRIMARY KEY (tenant_id, id)) PARTITION BY HASH (tenant_id);
CREATE TABLE part0 PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0);
GRANT SELECT ON parts TO regress_tm_app;
SELECT * FROM seen();
CALL mends('rls_disabled');
SELECT * FROM seen();
-- policies that are not enabled
ALTER TABLE notes DISABLE ROW LEVEL SECURITY;
SELECT * FROM seen();
CALL mends('rls_disabled');
SELECT * FROM seen();
-- a column of another name, which enable_rls was called with
CREATE TABLE odd (org uuid NOT NULL PRIMARY KEY);
SELECT tenantmig.enable_rls('odd', 'org') > 0 AS enabled;
CREATE TABLE odd2 (org uuid NOT NULL PRIMARY KEY);
SELECT * FROM seen();
DROP TABLE odd, odd2;

--
-- 2. The owner passes without FORCE, and so does who inherits from him
--
ALTER TABLE orders NO FORCE ROW LEVEL SECURITY;
SELECT * FROM seen();
SELECT * FROM seen(role => 'regress_tm_owner');
GRANT regress_tm_owner TO regress_tm_app;
SELECT * FROM seen();
SELECT * FROM seen(role => NULL);
CALL mends('owner_bypasses');
SELECT * FROM seen();
-- by SET ROLE, too
ALTER TABLE orders NO FORCE ROW LEVEL SECURITY;
ALTER ROLE regress_tm_app NOINHERIT;
SELECT * FROM seen('owner_bypasses');
CALL mends('owner_bypasses');
ALTER ROLE regress_tm_app INHERIT;
REVOKE regress_tm_owner FROM regress_tm_app;

--
-- 5. Copies
--
CREATE TABLE orders_2019 AS SELECT * FROM orders;
SELECT * FROM seen();
ALTER TABLE orders_2019 ALTER tenant_id SET NOT NULL;
CREATE INDEX ON orders_2019 (tenant_id);
GRANT SELECT ON orders_2019 TO regress_tm_app;
SELECT * FROM seen();
CALL mends('table_copy');
SELECT * FROM seen();
DROP TABLE orders_2019;
-- in a schema that was not asked for
CREATE SCHEMA regress_tm_backup;
CREATE TABLE regress_tm_backup.orders AS SELECT * FROM orders;
GRANT SELECT ON regress_tm_backup.orders TO regress_tm_app;
SELECT * FROM seen();
DROP SCHEMA regress_tm_backup CASCADE;

--
-- 8. Partitions and children that can be named; parents that show them
--
DROP TABLE part0;
CREATE TABLE part0 PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0);
-- nobody can name it
SELECT * FROM seen();
GRANT SELECT ON part0 TO PUBLIC;
SELECT * FROM seen();
CALL mends('child_unprotected');
SELECT * FROM seen();
-- policies like those of the parent
SELECT tenantmig.enable_rls('notes', roles => '{regress_tm_app}', admin_roles => '{regress_tm_owner}', on_missing => 'error', inline => true) > 0 AS changed;
CREATE TABLE old_notes (CHECK (id < 0)) INHERITS (notes);
CREATE INDEX ON old_notes (tenant_id);
GRANT INSERT ON old_notes TO regress_tm_app;
SELECT * FROM seen();
CALL mends('child_unprotected');
SELECT * FROM seen();
CREATE TABLE everything (id int);
ALTER TABLE notes INHERIT everything;
GRANT SELECT (id) ON everything TO regress_tm_app;
SELECT * FROM seen();
CALL mends('parent_unprotected');
SELECT * FROM seen();
ALTER TABLE notes NO INHERIT everything;
DROP TABLE everything;

--
-- 9. TRUNCATE, REFERENCES, TRIGGER; however they came to the role
--
CREATE ROLE regress_tm_group ROLE regress_tm_app;
CREATE ROLE regress_tm_grantor;
GRANT ALL ON orders TO regress_tm_app;
GRANT TRUNCATE ON customers TO PUBLIC;
GRANT REFERENCES (id), TRIGGER ON notes TO regress_tm_group;
SELECT check_name, severity, object, role_name, replace(mend, ', MAINTAIN', '') AS mend FROM seen();
SELECT check_name, object, role_name FROM seen(role => NULL);
CALL mends('privilege_beyond_rls');
SELECT * FROM seen();
-- what somebody else granted on
GRANT TRUNCATE ON orders TO regress_tm_grantor WITH GRANT OPTION;
SET ROLE regress_tm_grantor;
GRANT TRUNCATE ON regress_tm_audit.orders TO regress_tm_app;
RESET ROLE;
SELECT * FROM seen();
CALL mends('privilege_beyond_rls');
SELECT has_table_privilege('regress_tm_app', 'orders', 'TRUNCATE');
REVOKE ALL ON orders FROM regress_tm_grantor;
DROP ROLE regress_tm_group;

-- what tables will have that are made from now on
ALTER DEFAULT PRIVILEGES FOR ROLE regress_tm_owner IN SCHEMA regress_tm_audit GRANT ALL ON TABLES TO regress_tm_app;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_tm_owner GRANT TRUNCATE ON TABLES TO PUBLIC;
SELECT check_name, severity, object, role_name, replace(mend, 'MAINTAIN, ', '') AS mend FROM seen();
CALL mends('privilege_beyond_rls');
SELECT * FROM seen();

--
-- 22. Foreign tables
--
CREATE FOREIGN DATA WRAPPER regress_tm_fdw;
CREATE SERVER regress_tm_server FOREIGN DATA WRAPPER regress_tm_fdw;
CREATE FOREIGN TABLE archive (tenant_id text, note text) SERVER regress_tm_server;
SELECT * FROM seen();
GRANT SELECT ON archive TO regress_tm_app;
SELECT * FROM seen();
CALL mends('foreign_table');
SELECT * FROM seen();
-- by a predefined role
GRANT pg_read_all_data TO regress_tm_app;
SELECT check_name, severity, object, role_name, replace(mend, ' GRANTED BY ' || current_user, '') FROM seen('foreign_table');
CALL mends('foreign_table');
SELECT * FROM seen();

--
-- Left out: temporary tables, those of the system, of extensions, other schemas
--
CREATE TEMP TABLE scratch (tenant_id text);
GRANT ALL ON scratch TO PUBLIC;
CREATE SCHEMA regress_tm_other;
CREATE TABLE regress_tm_other.t (tenant_id text);
SELECT check_name, object FROM tenantmig.audit_rls('regress_tm_app') WHERE object LIKE '%scratch%' OR object LIKE 'tenantmig%' OR object LIKE 'pg\_%';
SELECT check_name, object FROM tenantmig.audit_rls('regress_tm_app') WHERE object LIKE 'regress\_tm\_other%' ORDER BY 1;
SELECT * FROM seen();
DROP SCHEMA regress_tm_other CASCADE;

--
-- Arguments
--
SELECT * FROM tm_test.try($$SELECT * FROM tenantmig.audit_rls('regress_tm_nobody')$$);
SELECT * FROM tm_test.try($$SELECT * FROM tenantmig.audit_rls('REGRESS_TM_APP')$$);
SELECT * FROM tm_test.try($$SELECT * FROM tenantmig.audit_rls(schemas => '{regress_tm_nowhere}')$$);
SELECT * FROM tm_test.try($$SELECT * FROM tenantmig.audit_rls(schemas => '{}')$$);
SELECT * FROM tm_test.try($$SELECT * FROM tenantmig.audit_rls(schemas => '{public,NULL}')$$);
SELECT * FROM tm_test.try($$SELECT * FROM tenantmig.audit_rls(column_name => NULL)$$);
SELECT * FROM tm_test.try($$SELECT * FROM tenantmig.audit_rls(setting => 'app')$$);
SELECT * FROM tm_test.try($$SELECT * FROM tenantmig.audit_rls(setting => NULL)$$);
SELECT * FROM tm_test.try($$SELECT * FROM tenantmig.audit_rls(max_rows => -1)$$);
SELECT * FROM tenantmig.audit_rls('regress_tm_app', '{pg_catalog}', 'no_such_column') WHERE check_name = 'no_tenant_table';

-- anybody may call it, and it writes nothing
SET ROLE regress_tm_app;
BEGIN READ ONLY;
SELECT * FROM tenantmig.audit_rls('regress_tm_app', '{regress_tm_audit}');
COMMIT;
RESET ROLE;

DROP SCHEMA regress_tm_audit CASCADE;
DROP SERVER regress_tm_server;
DROP FOREIGN DATA WRAPPER regress_tm_fdw;
DROP ROLE regress_tm_owner, regress_tm_app, regress_tm_grantor;
