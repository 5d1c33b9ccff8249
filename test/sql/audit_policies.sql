--
-- audit_rls: what the policies of a table let through
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
\i :abs_srcdir/sql/include/audit.sql
CREATE ROLE regress_tm_two;
CREATE TABLE t (tenant_id text NOT NULL PRIMARY KEY, id int, deleted boolean, owner text);
ALTER TABLE t OWNER TO regress_tm_owner;
ALTER TABLE t ENABLE ROW LEVEL SECURITY;
ALTER TABLE t FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON t TO regress_tm_app;
INSERT INTO t VALUES ('a', 1, false, 'x'), ('b', 2, false, 'y');
-- what the application sees of t with a tenant set
CREATE FUNCTION as_app(tenant text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	seen text;
BEGIN
	PERFORM set_config('app.current_tenant_id', tenant, true);
	SET LOCAL ROLE regress_tm_app;
	SELECT string_agg(tenant_id, ',' ORDER BY tenant_id) INTO seen FROM regress_tm_audit.t;
	RESET ROLE;
	PERFORM set_config('app.current_tenant_id', '', true);
	RETURN seen;
END $$;
REVOKE EXECUTE ON FUNCTION as_app FROM PUBLIC;
-- makes a policy, and shows what is found and how it reads when it is mended
CREATE FUNCTION try(policy text) RETURNS TABLE (line text) LANGUAGE plpgsql AS $$
DECLARE
	statement text;
BEGIN
	EXECUTE 'CREATE POLICY p ON regress_tm_audit.t ' || policy;
	RETURN QUERY SELECT format('%s %s: %s', a.check_name, a.severity, a.detail)
		FROM tenantmig.audit_rls('regress_tm_app', '{regress_tm_audit}') a;
	FOR statement IN SELECT s.mend FROM regress_tm_audit.seen() s LOOP
		RETURN QUERY SELECT '> ' || statement;
		EXECUTE statement;
	END LOOP;
	RETURN QUERY SELECT 'left: ' || s::text FROM regress_tm_audit.seen() s;
	RETURN QUERY SELECT 'sees ' || regress_tm_audit.as_app('a');
	DROP POLICY p ON regress_tm_audit.t;
	DROP POLICY IF EXISTS tenant_isolation ON regress_tm_audit.t;
	DROP POLICY IF EXISTS tenant_access_regress_tm_app ON regress_tm_audit.t;
	DROP POLICY IF EXISTS tenant_insert_regress_tm_app ON regress_tm_audit.t;
	DROP POLICY IF EXISTS tenant_update_regress_tm_app ON regress_tm_audit.t;
	DROP POLICY IF EXISTS tenant_delete_regress_tm_app ON regress_tm_audit.t;
END $$;
\set ECHO all
\pset format unaligned
\pset tuples_only on

--
-- Policies that isolate, of any make
--
SELECT p AS policy, try('USING (' || p || ')') FROM unnest(ARRAY[
	$$tenant_id = (SELECT current_setting('app.current_tenant_id', true))$$,
	$$(SELECT NULLIF(current_setting('app.current_tenant_id', true), '')) = tenant_id AND NOT deleted$$,
	$$tenant_id = (SELECT current_setting('app.current_tenant_id')) AND (deleted IS NULL OR NOT deleted)$$,
	$$tenant_id = (SELECT COALESCE(current_setting('app.current_tenant_id', true), ''))$$,
	$$tenant_id = (SELECT COALESCE(current_setting('app.current_tenant_id', true), current_setting('app.tenant2', true)))$$,
	$$tenant_id = ANY ((SELECT string_to_array(current_setting('app.current_tenant_id', true), ','))::text[])$$,
	$$tenant_id IN (SELECT name FROM regress_tm_audit.customers) OR tenant_id = CURRENT_USER$$,
	$$EXISTS (SELECT FROM regress_tm_audit.customers c WHERE c.tenant_id = t.tenant_id)$$,
	$$CASE WHEN deleted THEN false ELSE tenant_id = (SELECT current_setting('app.current_tenant_id', true)) END$$,
	$$lower(tenant_id) = (SELECT lower(current_setting('app.current_tenant_id', true)))$$,
	$$tenant_id IS NOT DISTINCT FROM (SELECT current_setting('app.current_tenant_id', true))$$,
	$$(tenant_id = (SELECT current_setting('app.current_tenant_id', true))) IS TRUE$$,
	$$false$$]) p;

--
-- 16. Policies that do not
--
SELECT p AS policy, try('USING (' || p || ')') FROM unnest(ARRAY[
	$$true$$,
	$$NOT deleted$$,
	$$owner = CURRENT_USER$$,
	$$tenant_id = 'a'$$,
	$$tenant_id IN ('a', 'b')$$,
	$$tenant_id <> ''$$,
	$$tenant_id LIKE (SELECT current_setting('app.current_tenant_id', true))$$,
	$$tenant_id = owner$$,
	$$substring(tenant_id FROM 1 FOR 1) = (SELECT current_setting('app.current_tenant_id', true))$$,
	$$tenant_id = (SELECT current_setting('app.current_tenant_id', true)) OR (SELECT current_setting('app.bypass', true)) = 'on'$$,
	$$tenant_id = (SELECT current_setting('app.current_tenant_id', true)) OR (SELECT current_setting('app.current_tenant_id', true)) = '*'$$,
	$$tenant_id = (SELECT current_setting('app.current_tenant_id', true)) OR CURRENT_USER = 'regress_tm_two'$$,
	$$tenant_id = (SELECT COALESCE(NULLIF(current_setting('app.current_tenant_id', true), ''), 'default'))$$,
	$$tenant_id = COALESCE((SELECT NULLIF(current_setting('app.current_tenant_id', true), '')), tenant_id)$$,
	$$tenant_id = CASE WHEN (SELECT current_setting('app.current_tenant_id', true)) = '' THEN 'a' ELSE (SELECT current_setting('app.current_tenant_id', true)) END$$,
	$$tenant_id = ANY (ARRAY[(SELECT current_setting('app.current_tenant_id', true)), 'shared'])$$,
	$$NOT tenant_id = (SELECT current_setting('app.current_tenant_id', true))$$]) p;
-- an operator that is called = and is none
CREATE FUNCTION yes(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE OPERATOR = (FUNCTION = yes, LEFTARG = text, RIGHTARG = text, HASHES, MERGES);
SELECT try($$USING (tenant_id OPERATOR(regress_tm_audit.=) (SELECT current_setting('app.current_tenant_id', true)))$$);
DROP OPERATOR regress_tm_audit.= (text, text);

--
-- 14. New rows that nobody checks
--
SELECT p AS policy, try(p) FROM unnest(ARRAY[
	$$FOR ALL USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true))) WITH CHECK (true)$$,
	$$FOR ALL USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true))) WITH CHECK (id > 0)$$,
	$$FOR ALL USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true))) WITH CHECK (tenant_id IS NOT NULL)$$,
	$$FOR ALL USING (true) WITH CHECK (true)$$]) p;
CREATE POLICY reads ON t FOR SELECT USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true)));
CREATE POLICY deletes ON t FOR DELETE USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true)));
CREATE POLICY updates ON t FOR UPDATE USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true)));
SELECT p AS policy, try(p) FROM unnest(ARRAY[
	$$FOR INSERT WITH CHECK (tenant_id = (SELECT current_setting('app.current_tenant_id', true)))$$,
	$$FOR INSERT WITH CHECK (true)$$,
	$$FOR INSERT$$]) p;
-- the server takes a missing WITH CHECK for false
CREATE POLICY inserts ON t FOR INSERT;
SET ROLE regress_tm_app;
SELECT * FROM tm_test.try($$INSERT INTO regress_tm_audit.t VALUES ('c')$$);
RESET ROLE;
DROP POLICY inserts ON t;
DROP POLICY updates ON t;
CREATE POLICY inserts ON t FOR INSERT WITH CHECK (tenant_id = (SELECT current_setting('app.current_tenant_id', true)));
SELECT try($$FOR UPDATE USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true))) WITH CHECK (true)$$);
DROP POLICY reads ON t;
DROP POLICY deletes ON t;
DROP POLICY inserts ON t;

--
-- 13. Permissive policies add up
--
CREATE POLICY one ON t USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true)));
SELECT try($$FOR SELECT USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true)) AND id = 1)$$);
SELECT try($$FOR SELECT TO regress_tm_two USING (id = 1)$$);
-- of different roles they do not
ALTER POLICY one ON t TO regress_tm_app;
SELECT try($$FOR SELECT TO regress_tm_two USING (id = 1)$$);
-- a restrictive policy makes all the others harmless
CREATE POLICY tight ON t AS RESTRICTIVE USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true)));
SELECT try($$FOR ALL USING (true) WITH CHECK (true)$$);
-- if it is one that isolates, for the command, old rows and new ones
ALTER POLICY tight ON t USING (id > 0);
SELECT try($$FOR SELECT USING (true)$$);
DROP POLICY tight ON t;
CREATE POLICY tight ON t AS RESTRICTIVE USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true))) WITH CHECK (true);
SELECT try($$FOR ALL USING (true)$$);
DROP POLICY tight ON t;
DROP POLICY one ON t;

--
-- 15. Roles that the policies do not cover
--
SELECT try($$TO regress_tm_two USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true)))$$);
SELECT try($$FOR SELECT USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true)))$$);
-- let in by one, held by none
CREATE POLICY tight ON t AS RESTRICTIVE TO regress_tm_two USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true)));
SELECT try($$USING (tenant_id IS NOT NULL)$$);
DROP POLICY tight ON t;
-- membership counts
GRANT regress_tm_two TO regress_tm_app;
SELECT try($$TO regress_tm_two USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true)))$$);
REVOKE regress_tm_two FROM regress_tm_app;

DROP TABLE t;

--
-- 12. Rows without a tenant
--
CREATE TABLE u (tenant_id text, id int);
INSERT INTO u VALUES ('a', 1), (NULL, 2);
CREATE INDEX ON u (tenant_id);
ALTER TABLE u ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON u TO regress_tm_app;
CREATE POLICY p ON u USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true)) OR tenant_id IS NULL);
SELECT s::text FROM seen() s;
CALL mends('policy_lets_null');
ALTER POLICY p ON u USING (tenant_id IS NOT DISTINCT FROM (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')));
SELECT s::text FROM seen('policy%') s;
CALL mends('policy_lets_null');
ALTER POLICY p ON u USING (COALESCE(tenant_id, 'a') = (SELECT current_setting('app.current_tenant_id', true)));
SELECT s::text FROM seen('policy%') s;
CALL mends('policy_lets_null');
DELETE FROM u WHERE tenant_id IS NULL;
CALL mends('tenant_nullable');
-- now it is no hole
ALTER POLICY p ON u USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true)) OR tenant_id IS NULL);
SELECT s::text FROM seen() s;
DROP TABLE u;

--
-- 24. Policies that isolate and cost
--
CREATE TABLE t (tenant_id text NOT NULL PRIMARY KEY, id int, deleted boolean);
ALTER TABLE t OWNER TO regress_tm_owner;
ALTER TABLE t ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON t TO regress_tm_app;
INSERT INTO t VALUES ('a', 1, false), ('b', 2, false);
CREATE FUNCTION me() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN current_setting('app.current_tenant_id', true); END $$;
SELECT p AS policy, try('USING (' || p || ')') FROM unnest(ARRAY[
	$$tenant_id = current_setting('app.current_tenant_id', true)$$,
	$$tenant_id = NULLIF(current_setting('app.current_tenant_id', true), '')::varchar AND NOT deleted$$,
	$$tenant_id = regress_tm_audit.me()$$,
	$$tenant_id::varchar(10) = (SELECT current_setting('app.current_tenant_id', true))$$]) p;
-- a cast of the column
CREATE TABLE u (tenant_id uuid NOT NULL PRIMARY KEY, id int);
INSERT INTO u SELECT format('00000000-0000-0000-0000-%s', lpad(i::text, 12, '0'))::uuid, i FROM generate_series(1, 1000) i;
ANALYZE u;
ALTER TABLE u ENABLE ROW LEVEL SECURITY;
ALTER TABLE u OWNER TO regress_tm_owner;
GRANT SELECT ON u TO regress_tm_app;
CREATE POLICY p ON u USING (tenant_id::text = current_setting('app.current_tenant_id', true)) WITH CHECK (tenant_id::text = (SELECT current_setting('app.current_tenant_id', true)) AND id > 0);
SELECT s::text FROM seen() s;
CALL mends('column_cast');
SELECT s::text FROM seen() s;
SET app.current_tenant_id = '00000000-0000-0000-0000-000000000007';
SET ROLE regress_tm_app;
SELECT id FROM u;
EXPLAIN (COSTS off) SELECT * FROM u;
RESET ROLE;
RESET app.current_tenant_id;
DROP TABLE u;
-- what the server does once anyhow, or cheaply
SELECT try($$USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true)) AND now() > '2000-01-01')$$);

--
-- 18. A tenant by default
--
SELECT tenantmig.disable_rls('orders') > 0, tenantmig.enable_rls('orders') > 0;
ALTER TABLE orders ALTER tenant_id SET DEFAULT 'a';
SELECT try($$USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true)))$$);
ALTER TABLE orders ALTER tenant_id SET DEFAULT COALESCE(NULLIF(current_setting('app.current_tenant_id', true), ''), 'a');
SELECT try($$USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true)))$$);
ALTER TABLE orders ALTER tenant_id SET DEFAULT current_setting('app.current_tenant_id');
SELECT try($$USING (tenant_id = (SELECT current_setting('app.current_tenant_id', true)))$$);
ALTER TABLE orders ALTER tenant_id DROP DEFAULT;
DROP TABLE t;

--
-- The policies of enable_rls, and what may happen to them
--
SELECT tenantmig.enable_rls('orders', roles => '{regress_tm_app}', admin_roles => '{regress_tm_two}', on_missing => 'error') > 0;
GRANT SELECT ON orders TO regress_tm_two;
SELECT s::text FROM seen() s;
SELECT s::text FROM seen(role => NULL) s;
-- when asked for, an admin is told of
SELECT s::text FROM seen(role => 'regress_tm_two') s;
GRANT regress_tm_two TO regress_tm_app;
SELECT s::text FROM seen() s;
REVOKE regress_tm_two FROM regress_tm_app;
-- a policy that only has the name
CREATE POLICY tenantmig_admin ON customers TO regress_tm_app USING (true);
DROP POLICY tenantmig_isolation ON customers;
SELECT s::text FROM seen('policy_open') s;
CALL mends('policy_open');
SELECT tenantmig.enable_rls('customers') > 0;
SELECT s::text FROM seen() s;
ALTER POLICY tenantmig_isolation ON customers USING (true) WITH CHECK (true);
SELECT s::text FROM seen() s;
SELECT tenantmig.enable_rls('customers') > 0;
SELECT s::text FROM seen() s;

DROP SCHEMA regress_tm_audit CASCADE;
DROP ROLE regress_tm_owner, regress_tm_app, regress_tm_two;
