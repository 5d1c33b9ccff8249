--
-- The tenant of a session: use_tenant and current_tenant
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
\set ECHO all
CREATE ROLE regress_tm_app;
CREATE SCHEMA regress_tm_session;
CREATE SCHEMA "regress tm ""sb";
CREATE SCHEMA regress_tm_sc;
GRANT USAGE ON SCHEMA regress_tm_session TO PUBLIC;
SET search_path = regress_tm_session, public;
SELECT count(tenantmig.create_tenant(t)) FROM unnest('{sa,sb,sc,sd}'::text[]) t;
UPDATE tenantmig.tenant SET placement = 'schema', schema_name = 'regress tm "sb' WHERE tenant = 'sb';
UPDATE tenantmig.tenant SET placement = 'schema', schema_name = 'regress_tm_sc' WHERE tenant = 'sc';
UPDATE tenantmig.tenant SET placement = 'database' WHERE tenant = 'sd';
CREATE TABLE orders (id int, tenant_id text);
INSERT INTO orders VALUES (1, 'sa'), (2, 'sa'), (3, 'sb');
GRANT ALL ON orders TO regress_tm_app;
SELECT tenantmig.enable_rls('orders') > 0 AS enabled;
SET client_min_messages = notice;

SET ROLE regress_tm_app;
-- none
SELECT tenantmig.current_tenant() IS NULL AS none, tenantmig.current_tenant('app.other') IS NULL AS no_other;
-- for a transaction
BEGIN;
SELECT tenantmig.use_tenant('sa');
SELECT tenantmig.current_tenant(), current_setting('app.current_tenant_id'), (SELECT count(*) FROM orders);
SHOW search_path;
SAVEPOINT s;
SELECT tenantmig.use_tenant('sb');
SELECT tenantmig.current_tenant(), (SELECT count(*) FROM orders);
SHOW search_path;
ROLLBACK TO s;
SELECT tenantmig.current_tenant(), (SELECT count(*) FROM orders);
SHOW search_path;
COMMIT;
SELECT tenantmig.current_tenant() IS NULL AS none, (SELECT count(*) FROM orders);
SHOW search_path;
-- without a transaction it is gone at once, and said so
SELECT tenantmig.use_tenant('sa');
SELECT tenantmig.current_tenant() IS NULL AS none;
-- for a session
SELECT tenantmig.use_tenant('sa', false);
SELECT tenantmig.current_tenant(), (SELECT count(*) FROM orders);
-- a transaction of another tenant in between
BEGIN;
SELECT tenantmig.use_tenant('sb');
SELECT tenantmig.current_tenant(), (SELECT count(*) FROM orders);
COMMIT;
SELECT tenantmig.current_tenant();
-- another setting
SELECT tenantmig.use_tenant('sb', false, 'app.other');
SELECT tenantmig.current_tenant(), tenantmig.current_tenant('app.other');
SELECT tenantmig.use_tenant('sb', setting => 'app.other', is_local => NULL);
RESET app.current_tenant_id;
RESET app.other;
SELECT tenantmig.current_tenant() IS NULL AS none;

-- the schema of one tenant is never there for the next
SELECT tenantmig.use_tenant('sb', false);
SHOW search_path;
SELECT tenantmig.use_tenant('sb', false);
SHOW search_path;
SELECT tenantmig.use_tenant('sc', false);
SHOW search_path;
SELECT tenantmig.use_tenant('sa', false);
SHOW search_path;
SET search_path = regress_tm_session, regress_tm_sc, "regress tm ""sb", "$user", PUBLIC;
SELECT tenantmig.use_tenant('sc', false);
SHOW search_path;
SET search_path = '';
SELECT tenantmig.use_tenant('sc', false);
SHOW search_path;
SELECT tenantmig.use_tenant('sa', false);
SHOW search_path;
RESET app.current_tenant_id;
RESET ROLE;
SET search_path = regress_tm_session, public;

-- what cannot be used; the tenant stays as it is
SELECT tenantmig.use_tenant('sa', false);
SELECT v AS statement, tm_test.try(v) FROM unnest(ARRAY[
	'SELECT tenantmig.use_tenant(NULL)', 'SELECT tenantmig.use_tenant('''')', 'SELECT tenantmig.use_tenant(''nobody'')',
	'SELECT tenantmig.use_tenant(''nobody''''; --'')', 'SELECT tenantmig.use_tenant(''sd'')',
	'SELECT tenantmig.use_tenant(''sb'', setting => ''work_mem'')', 'SELECT tenantmig.use_tenant(''sb'', setting => ''tenantmig.nice'')',
	'SELECT tenantmig.use_tenant(''sb'', setting => NULL)', 'SELECT tenantmig.current_tenant(NULL)']) v;
SELECT tenantmig.current_tenant();
RESET app.current_tenant_id;

-- one that is suspended may read
SET client_min_messages = error;
SELECT tenantmig.suspend_tenant('sa');
SET client_min_messages = notice;
SET ROLE regress_tm_app;
BEGIN;
SELECT tenantmig.use_tenant('sa');
SELECT count(*) FROM orders;
COMMIT;
RESET ROLE;
-- a standby, or a transaction that may only read
BEGIN READ ONLY;
SELECT tenantmig.use_tenant('sa');
SELECT tenantmig.current_tenant();
COMMIT;
-- parallel plans, and what a view cannot see through
SELECT proname, pronargs, provolatile, proparallel, proleakproof FROM pg_proc WHERE proname = 'current_tenant' ORDER BY pronargs;
BEGIN;
SELECT tenantmig.use_tenant('sa');
SET LOCAL parallel_setup_cost = 0;
SET LOCAL parallel_tuple_cost = 0;
SET LOCAL min_parallel_table_scan_size = 0;
SELECT count(*) FROM orders WHERE tenantmig.current_tenant() = tenant_id;
COMMIT;
-- names planted in front are not called
CREATE SCHEMA regress_tm_trap;
CREATE FUNCTION regress_tm_trap.trap(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trapped''; END';
CREATE OPERATOR regress_tm_trap.= (FUNCTION = regress_tm_trap.trap, LEFTARG = text, RIGHTARG = text);
BEGIN;
SET LOCAL search_path = regress_tm_trap, pg_catalog;
SELECT tenantmig.use_tenant('sc');
SHOW search_path;
SELECT tenantmig.current_tenant();
COMMIT;

SET client_min_messages = warning;
DROP SCHEMA regress_tm_session, "regress tm ""sb", regress_tm_sc, regress_tm_trap CASCADE;
DELETE FROM tenantmig.tenant WHERE tenant IN ('sa', 'sb', 'sc', 'sd');
DROP ROLE regress_tm_app;
