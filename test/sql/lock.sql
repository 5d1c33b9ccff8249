--
-- lock_tenant: nothing that SQL can do changes the tenant of a locked session
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
\set ECHO all
CREATE ROLE regress_tm_app;
CREATE SCHEMA regress_tm_lock;
GRANT ALL ON SCHEMA regress_tm_lock TO PUBLIC;
SET search_path = regress_tm_lock, public;
SELECT count(tenantmig.create_tenant(t)) FROM unnest('{la,lb}'::text[]) t;
CREATE TABLE orders (id int, tenant_id text);
INSERT INTO orders SELECT g, CASE WHEN g % 3 = 0 THEN 'la' ELSE 'lb' END FROM generate_series(1, 3000) g;
GRANT ALL ON orders TO regress_tm_app;
SELECT tenantmig.enable_rls('orders') > 0 AS enabled;
-- the same per row, as guides write it: evaluated in parallel workers
CREATE TABLE rows_of (id int, tenant_id text);
INSERT INTO rows_of SELECT * FROM orders;
GRANT ALL ON rows_of TO regress_tm_app;
ALTER TABLE rows_of ENABLE ROW LEVEL SECURITY;
CREATE POLICY per_row ON rows_of USING (tenant_id = current_setting('app.current_tenant_id', true));
-- and one that asks for the lock
CREATE TABLE strict (id int, tenant_id text);
INSERT INTO strict SELECT * FROM orders;
GRANT ALL ON strict TO regress_tm_app;
ALTER TABLE strict ENABLE ROW LEVEL SECURITY;
CREATE POLICY locked_only ON strict USING (tenant_id = tenantmig.locked_tenant());
CREATE VIEW seen AS SELECT tenantmig.current_tenant() AS current, tenantmig.locked_tenant() AS locked,
	current_setting('app.current_tenant_id') AS setting,
	(SELECT setting FROM pg_show_all_settings() WHERE name = 'app.current_tenant_id') AS hidden,
	(SELECT string_agg(DISTINCT tenant_id, ',') FROM orders) AS orders;
ALTER VIEW seen OWNER TO regress_tm_app;
-- what an attacker has prepared
CREATE FUNCTION definer(t text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
	PERFORM set_config('app.current_tenant_id', t, false);
	RETURN tenantmig.current_tenant();
END $$;
CREATE FUNCTION with_clause() RETURNS text LANGUAGE sql SET app.current_tenant_id = 'lb' AS 'SELECT tenantmig.current_tenant()';
SET ROLE regress_tm_app;

-- not locked: as always
SELECT tenantmig.locked_tenant() IS NULL AS not_locked;
SET app.current_tenant_id = 'lb';
SELECT count(*) FROM orders;
SELECT count(*) FROM strict;

SELECT tenantmig.lock_tenant('la') AS token \gset
SELECT :'token' ~ '^[0-9a-f]{32}$' AS random;
SELECT * FROM seen;
SELECT count(*) FROM strict;
-- statements that set it are refused
SELECT v AS statement, tm_test.try(v) FROM unnest(ARRAY[
	'SET app.current_tenant_id = ''lb''',
	'SET LOCAL app.current_tenant_id = ''lb''',
	'SET SESSION app.current_tenant_id = ''''',
	'SET "App.CURRENT_Tenant_Id" = ''lb''',
	'SELECT set_config(''app.current_tenant_id'', ''lb'', false)',
	'SELECT set_config(''app.current_tenant_id'', NULL, true)',
	'UPDATE pg_settings SET setting = ''lb'' WHERE name = ''app.current_tenant_id''',
	'SELECT definer(''lb'')',
	'SELECT with_clause()',
	'DO $d$ BEGIN SET LOCAL app.current_tenant_id = ''lb''; END $d$',
	'SELECT tenantmig.use_tenant(''lb'')',
	'SELECT tenantmig.use_tenant(''lb'', false)',
	'SELECT tenantmig.lock_tenant(''lb'')',
	'SELECT tenantmig.lock_tenant(''la'')',
	'SELECT tenantmig.lock_tenant(''lb'', ''app.other'')',
	'SET tenantmig.session_lock = ''app.current_tenant_id=lb''',
	'SET LOCAL tenantmig.session_lock = ''''',
	'SELECT set_config(''tenantmig.session_lock'', '''', false)',
	'RESET tenantmig.session_lock']) v;
SELECT * FROM seen;
-- the same tenant may be set: an application that does so goes on
SET app.current_tenant_id = 'la';
BEGIN;
SET LOCAL app.current_tenant_id = 'la';
SELECT tenantmig.use_tenant('la');
COMMIT;
SELECT * FROM seen;
-- what takes it back does nothing
RESET app.current_tenant_id;
SELECT * FROM seen;
SET app.current_tenant_id TO DEFAULT;
RESET ALL;
SET client_min_messages = warning;
SET search_path = regress_tm_lock, public;
SELECT * FROM seen;
DISCARD ALL;
SET client_min_messages = warning;
SET search_path = regress_tm_lock, public;
SELECT session_user = current_user AS reset_role;
SET ROLE regress_tm_app;
SELECT * FROM seen;
SHOW app.current_tenant_id;
-- a role of its own may be set to another tenant, for sessions to come
SELECT tm_test.try('ALTER ROLE regress_tm_app SET app.current_tenant_id = ''lb''');
SELECT * FROM seen;
-- temporary objects and prepared statements
CREATE FUNCTION pg_temp.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$SELECT 'lb'$$;
PREPARE mine AS SELECT count(*), min(tenant_id) FROM orders;
EXECUTE mine;
SET plan_cache_mode = force_generic_plan;
EXECUTE mine;
-- parallel workers
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET parallel_leader_participation = off;
EXPLAIN (COSTS off) SELECT count(*), min(tenant_id) FROM rows_of;
SELECT count(*), min(tenant_id), max(tenant_id) FROM rows_of;
SELECT count(*), min(tenant_id), max(tenant_id) FROM strict;
SELECT count(*), min(tenant_id), max(tenant_id) FROM orders;

-- the token: a wrong one is an error, the right one opens
SELECT tm_test.try('SELECT tenantmig.unlock_tenant(''0'')');
SELECT tm_test.try('SELECT tenantmig.unlock_tenant(NULL)');
SELECT tenantmig.unlock_tenant(:'token');
SELECT tenantmig.locked_tenant() IS NULL AS not_locked, tenantmig.current_tenant() IS NULL AS nobody, (SELECT count(*) FROM orders);
SELECT count(*), min(tenant_id), max(tenant_id) FROM strict;
SELECT tm_test.try(format('SELECT tenantmig.unlock_tenant(%L)', :'token'));
SET app.current_tenant_id = 'lb';
SELECT count(*), min(tenant_id), max(tenant_id) FROM rows_of;
SELECT tm_test.try('SELECT tenantmig.lock_tenant(''la'', ''app.other'')');
-- the next lock has another token
SELECT tenantmig.lock_tenant('lb') AS second \gset
SELECT :'second' <> :'token' AS another;
SELECT tm_test.try(format('SELECT tenantmig.unlock_tenant(%L)', :'token'));
SELECT tenantmig.unlock_tenant(:'second');

-- a rollback neither takes the lock back nor the value
BEGIN;
SET LOCAL app.current_tenant_id = 'lb';
SAVEPOINT s;
SELECT tenantmig.lock_tenant('la') AS token \gset
ROLLBACK TO s;
SELECT * FROM seen;
SELECT tm_test.try('SET app.current_tenant_id = ''lb''');
ROLLBACK;
SELECT * FROM seen;
SELECT tenantmig.unlock_tenant(:'token');
-- locked while SET LOCAL and a SET clause are in effect
CREATE FUNCTION locks() RETURNS text LANGUAGE sql SET app.current_tenant_id = 'lb' AS 'SELECT tenantmig.lock_tenant(''la'')';
BEGIN;
SET LOCAL app.current_tenant_id = 'lb';
SELECT locks() AS token \gset
SELECT * FROM seen;
COMMIT;
SELECT * FROM seen;
-- an unlock that is rolled back is one
BEGIN;
SELECT tenantmig.unlock_tenant(:'token');
ROLLBACK;
SELECT tenantmig.locked_tenant() IS NULL AS not_locked;
RESET ROLE;

-- a value from the start of the connection is not what RESET goes back to
SELECT format('dbname=%L options=''-c app.current_tenant_id=lb''', current_database()) AS other \gset
\c :"other"
SET client_min_messages = warning;
SET search_path = regress_tm_lock, public;
SET ROLE regress_tm_app;
SELECT tenantmig.current_tenant();
SELECT tenantmig.lock_tenant('la') AS token \gset
RESET app.current_tenant_id;
SELECT * FROM seen;
RESET ALL;
SET search_path = regress_tm_lock, public;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET parallel_leader_participation = off;
SELECT current_setting('app.current_tenant_id'), count(*), min(tenant_id), max(tenant_id) FROM rows_of;
SELECT format('dbname=%L', current_database()) AS other \gset
\c :"other"

--
-- What cannot be locked
--
SET client_min_messages = warning;
SET search_path = regress_tm_lock, public;
SELECT v AS statement, tm_test.try(v) FROM unnest(ARRAY[
	'SELECT tenantmig.lock_tenant(NULL)', 'SELECT tenantmig.lock_tenant('''')', 'SELECT tenantmig.lock_tenant(''nobody'')',
	'SELECT tenantmig.lock_tenant(''la'', NULL)', 'SELECT tenantmig.lock_tenant(''la'', ''work_mem'')',
	'SELECT tenantmig.lock_tenant(''la'', ''plpgsql.extra_warnings'')',
	'SELECT tenantmig.unlock_tenant(''x'')']) v;
SELECT tenantmig.locked_tenant() IS NULL AS not_locked;
-- not from an index function, whose session may be anybody's
CREATE FUNCTION locks(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM tenantmig.lock_tenant('la'); RETURN 1; END $$;
CREATE TABLE indexed (i int);
INSERT INTO indexed VALUES (1);
SELECT tm_test.try('CREATE INDEX ON indexed (locks(i))');
SELECT tenantmig.locked_tenant() IS NULL AS not_locked;
SELECT name, setting FROM pg_settings WHERE name LIKE 'tenantmig.session%';


--
-- The ways of the manual: for locked sessions only, and one role for each tenant
--
CREATE POLICY locked_only ON orders AS RESTRICTIVE USING (tenant_id = (SELECT tenantmig.locked_tenant()));
SET ROLE regress_tm_app;
SET app.current_tenant_id = 'lb';
SELECT count(*) FROM orders;
SELECT tenantmig.lock_tenant('lb') AS token \gset
SELECT count(*), min(tenant_id), max(tenant_id) FROM orders;
SELECT tenantmig.unlock_tenant(:'token');
SELECT count(*) FROM orders;
RESET ROLE;
DROP POLICY locked_only ON orders;

CREATE ROLE regress_tm_tenants;
CREATE ROLE regress_tm_la LOGIN IN ROLE regress_tm_tenants;
CREATE ROLE regress_tm_stranger LOGIN IN ROLE regress_tm_tenants;
GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO regress_tm_tenants;
CREATE TABLE login_tenants (login name PRIMARY KEY, tenant text NOT NULL);
GRANT SELECT ON login_tenants TO regress_tm_tenants;
INSERT INTO login_tenants VALUES ('regress_tm_la', 'la');
SELECT tenantmig.enable_rls('orders', roles => '{regress_tm_tenants}') > 0 AS enabled;
CREATE POLICY own_login ON orders AS RESTRICTIVE TO regress_tm_tenants
  USING (tenant_id = (SELECT tenant FROM login_tenants WHERE login = session_user));
SET SESSION AUTHORIZATION regress_tm_la;
SELECT count(*) FROM orders;
SET app.current_tenant_id = 'la';
SELECT count(*), min(tenant_id), max(tenant_id) FROM orders;
SET app.current_tenant_id = 'lb';
SELECT count(*) FROM orders;
SELECT tm_test.sqlstate('INSERT INTO orders VALUES (1, ''lb'')');
SET SESSION AUTHORIZATION regress_tm_stranger;
SELECT count(*) FROM orders;
RESET SESSION AUTHORIZATION;

DROP SCHEMA regress_tm_lock CASCADE;
DELETE FROM tenantmig.tenant WHERE tenant IN ('la', 'lb');
DROP ROLE regress_tm_app, regress_tm_la, regress_tm_stranger, regress_tm_tenants;
