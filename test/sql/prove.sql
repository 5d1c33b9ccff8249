--
-- prove_isolation: a clean schema, a hole of each kind, and nothing left behind
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
\set ECHO all
CREATE ROLE regress_tm_owner;
CREATE ROLE regress_tm_app;
CREATE ROLE regress_tm_other;
CREATE SCHEMA regress_tm_prove AUTHORIZATION regress_tm_owner;
GRANT USAGE ON SCHEMA regress_tm_prove TO PUBLIC;
SET search_path = regress_tm_prove;

-- What is not ok, each command once with the probes that say so
CREATE FUNCTION holes(role name DEFAULT 'regress_tm_app', a text DEFAULT 'acme', b text DEFAULT 'zeta', writes boolean DEFAULT true)
RETURNS TABLE (relation text, command text, probes text, seen text, ok boolean) LANGUAGE sql SET search_path = pg_catalog AS $$
SELECT replace(p.relation, 'regress_tm_prove.', ''), p.command, string_agg(p.probe, ' '),
	min(regexp_replace(p.seen, '[0-9.]+ ms', 'N ms', 'g')), p.ok
FROM tenantmig.prove_isolation(role, a, b, schemas => '{regress_tm_prove}', writes => writes) p
WHERE p.ok IS NOT TRUE AND (p.probe, p.command) <> ('unset', 'all')
GROUP BY p.relation, p.command, p.ok, p.expected ORDER BY 1, 2, 3 $$;

SET ROLE regress_tm_owner;
-- keys with and without the tenant, a foreign key that is deferred, numbers from sequences, a trigger
CREATE TABLE customers (id int GENERATED ALWAYS AS IDENTITY, tenant_id varchar(20) NOT NULL, name text NOT NULL CHECK (name <> ''),
	PRIMARY KEY (tenant_id, id));
CREATE TABLE orders (id serial PRIMARY KEY, tenant_id varchar(20) NOT NULL, customer int NOT NULL, total numeric NOT NULL,
	twice numeric GENERATED ALWAYS AS (total * 2) STORED,
	FOREIGN KEY (tenant_id, customer) REFERENCES customers (tenant_id, id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED);
INSERT INTO customers (tenant_id, name) SELECT (ARRAY['acme', 'zeta', 'gold'])[g % 3 + 1], 'customer ' || g FROM generate_series(0, 29) g;
INSERT INTO orders (tenant_id, customer, total) SELECT tenant_id, id, id FROM customers;
CREATE TABLE log (tenant_id text, what text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO regress_tm_prove.log VALUES (COALESCE(NEW.tenant_id, OLD.tenant_id), TG_OP);
	PERFORM pg_notify('regress_tm_prove', TG_OP);
	RETURN COALESCE(NEW, OLD);
END $$;
CREATE TRIGGER note BEFORE INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION note();
-- partitions by the tenant and by something else; inheritance
CREATE TABLE events (tenant_id text NOT NULL, at int NOT NULL, what text, PRIMARY KEY (tenant_id, at)) PARTITION BY LIST (tenant_id);
CREATE TABLE events_acme PARTITION OF events FOR VALUES IN ('acme');
CREATE TABLE events_rest PARTITION OF events DEFAULT PARTITION BY RANGE (at);
CREATE TABLE events_early PARTITION OF events_rest FOR VALUES FROM (0) TO (50);
CREATE TABLE events_late PARTITION OF events_rest FOR VALUES FROM (50) TO (1000);
INSERT INTO events SELECT t, g, 'happened' FROM generate_series(1, 99) g, unnest('{acme,zeta,gold}'::text[]) t;
CREATE TABLE places (tenant_id text, name text UNIQUE);
CREATE TABLE towns (mayor text) INHERITS (places);
INSERT INTO places VALUES ('acme', 'here'), ('zeta', 'there');
INSERT INTO towns VALUES ('acme', 'this', 'x'), ('zeta', 'that', 'y');
-- names
CREATE TABLE """; DROP TABLE orders; --" (t text, v text, tenant_id text, "t.*" text, "select" int DEFAULT 1);
INSERT INTO """; DROP TABLE orders; --" VALUES ('acme', 'x', 'acme'), ('zeta', 'y', 'zeta');
CREATE VIEW customer_view WITH (security_invoker) AS SELECT id, name, tenant_id FROM customers WHERE id > 0;
CREATE VIEW order_count WITH (security_invoker) AS SELECT count(*), sum(total) FROM orders;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA regress_tm_prove TO regress_tm_app;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA regress_tm_prove TO regress_tm_app;
RESET ROLE;
SELECT tenantmig.enable_rls(t::regclass) > 0 AS done
FROM unnest('{customers,orders,log,events,places}'::text[]) t;
SELECT tenantmig.enable_rls('"""; DROP TABLE orders; --"') > 0 AS done;
INSERT INTO log SELECT t, 'before' FROM unnest('{acme,zeta}'::text[]) t;

-- All there is: rows with where they are, sequences, catalogs
CREATE TABLE tm_test.proof_kept (line text);
CREATE TABLE tm_test.proof (relation text, probe text, command text, expected text, seen text, ok boolean);
CREATE FUNCTION all_there_is() RETURNS SETOF text LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
	rel regclass;
BEGIN
	FOR rel IN SELECT oid FROM pg_class WHERE relnamespace = 'regress_tm_prove'::regnamespace AND relkind = 'r' LOOP
		RETURN QUERY EXECUTE format('SELECT md5(string_agg(concat(%L, t.ctid, t.xmin, to_jsonb(t)), '''' ORDER BY t.ctid)) FROM ONLY %s t', rel::text, rel);
	END LOOP;
	FOR rel IN SELECT oid FROM pg_class WHERE relnamespace = 'regress_tm_prove'::regnamespace AND relkind = 'S' LOOP
		RETURN QUERY EXECUTE format('SELECT concat(%L, last_value, is_called) FROM %s', rel::text, rel);
	END LOOP;
	RETURN QUERY SELECT md5(string_agg(concat(c.oid, (to_jsonb(c) - '{relpages,reltuples,relallvisible,relfrozenxid,relminmxid}'::text[])), '' ORDER BY c.oid)) FROM pg_class c;
	RETURN QUERY SELECT md5(string_agg(to_jsonb(p)::text, '' ORDER BY p.oid)) FROM pg_policy p;
	RETURN QUERY SELECT md5(string_agg(to_jsonb(t)::text, '' ORDER BY t.oid)) FROM pg_trigger t;
	RETURN QUERY SELECT md5(string_agg(to_jsonb(r)::text, '' ORDER BY r.oid)) FROM pg_authid r;
	RETURN QUERY SELECT concat_ws(' ', current_user, session_user, current_setting('search_path'), current_setting('row_security'),
		current_setting('lock_timeout'), current_setting('app.current_tenant_id', true));
END $$;

-- In a session that has never had the setting
\c -
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET search_path = regress_tm_prove;
INSERT INTO tm_test.proof_kept SELECT all_there_is();
LISTEN regress_tm_prove;
INSERT INTO tm_test.proof
SELECT * FROM tenantmig.prove_isolation('regress_tm_app', 'acme', 'zeta', schemas => '{regress_tm_prove}');
SELECT count(*) FILTER (WHERE ok) AS ok, count(*) FILTER (WHERE ok IS NULL) AS not_tried, count(*) FILTER (WHERE NOT ok) AS failed FROM tm_test.proof;
SELECT relation, probe, command, expected, seen FROM tm_test.proof WHERE ok IS NOT TRUE;
-- each state, each relation
SELECT probe, count(*) AS probes FROM tm_test.proof GROUP BY probe ORDER BY probe;
SELECT relation, count(*) AS probes FROM tm_test.proof GROUP BY relation ORDER BY relation COLLATE "C";
-- one of them in full
SELECT probe, command, expected, seen, ok FROM tm_test.proof
WHERE relation = 'regress_tm_prove.customers' AND probe IN ('unset', 'tenant_a');
SELECT relation, command, expected, seen FROM tm_test.proof
WHERE relation ~ 'customer_view|order_count|events_acme' AND probe = 'tenant_b';
SELECT relation, regexp_replace(seen, '[0-9.]+ ms', 'N ms', 'g') AS plan FROM tm_test.proof
WHERE probe = 'plan' AND relation ~ 'events' ORDER BY 1;
-- nothing is left: no row, no number of a sequence, no NOTIFY, no setting but an empty one
SELECT line AS was FROM tm_test.proof_kept EXCEPT SELECT all_there_is();
SELECT all_there_is() AS new EXCEPT SELECT line FROM tm_test.proof_kept;
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'transactionid';
SELECT tenantmig.assert_isolation('regress_tm_app', 'acme', 'zeta', '{regress_tm_prove}');
\c -
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET search_path = regress_tm_prove;
SELECT tenantmig.assert_isolation('regress_tm_app', 'acme', 'zeta', '{regress_tm_prove}');

--
-- A hole of each kind is seen where it is
--
SELECT * FROM holes();
-- no row-level security
BEGIN;
ALTER TABLE customers DISABLE ROW LEVEL SECURITY;
SELECT * FROM holes();
ROLLBACK;
-- not for the owner
BEGIN;
ALTER TABLE customers NO FORCE ROW LEVEL SECURITY;
SELECT * FROM holes();
GRANT regress_tm_owner TO regress_tm_app;
SELECT * FROM holes();
ROLLBACK;
-- a role that bypasses it
BEGIN;
ALTER ROLE regress_tm_app BYPASSRLS;
SELECT relation, count(*) FROM holes() GROUP BY relation ORDER BY relation COLLATE "C";
ROLLBACK;
-- a permissive policy alone, and one that lets everybody in beside it
BEGIN;
DROP POLICY tenantmig_isolation ON customers;
CREATE POLICY support ON customers USING (true);
SELECT * FROM holes();
ROLLBACK;
-- the same beside a restrictive one is none
BEGIN;
CREATE POLICY support ON customers USING (true);
SELECT * FROM holes();
ROLLBACK;
-- SELECT is guarded, DELETE without WHERE is not
BEGIN;
DROP POLICY tenantmig_isolation ON log;
DROP POLICY tenantmig_access ON log;
CREATE POLICY r ON log FOR SELECT USING (tenant_id = current_setting('app.current_tenant_id', true));
CREATE POLICY i ON log FOR INSERT WITH CHECK (tenant_id = current_setting('app.current_tenant_id', true));
CREATE POLICY u ON log FOR UPDATE USING (tenant_id = current_setting('app.current_tenant_id', true));
CREATE POLICY d ON log FOR DELETE USING (true);
SELECT * FROM holes();
-- UPDATE neither
DROP POLICY d ON log;
CREATE POLICY d ON log FOR DELETE USING (tenant_id = current_setting('app.current_tenant_id', true));
DROP POLICY u ON log;
CREATE POLICY u ON log FOR UPDATE USING (true) WITH CHECK (tenant_id = current_setting('app.current_tenant_id', true));
SELECT * FROM holes();
-- rows can be given away
DROP POLICY u ON log;
CREATE POLICY u ON log FOR UPDATE USING (tenant_id = current_setting('app.current_tenant_id', true)) WITH CHECK (true);
SELECT * FROM holes();
-- rows can be planted
DROP POLICY u ON log;
CREATE POLICY u ON log FOR UPDATE USING (tenant_id = current_setting('app.current_tenant_id', true));
DROP POLICY i ON log;
CREATE POLICY i ON log FOR INSERT WITH CHECK (true);
SELECT * FROM holes();
ROLLBACK;
-- a child, a partition without policies
BEGIN;
ALTER TABLE towns DISABLE ROW LEVEL SECURITY;
ALTER TABLE events_late DISABLE ROW LEVEL SECURITY;
SELECT * FROM holes();
ROLLBACK;
-- a tenant that everybody sees, a tenant for those who have none
BEGIN;
ALTER POLICY tenantmig_isolation ON customers USING (tenant_id IN ('gold', NULLIF(current_setting('app.current_tenant_id', true), '')));
SELECT * FROM holes();
ROLLBACK;
BEGIN;
ALTER POLICY tenantmig_isolation ON customers USING (tenant_id = COALESCE(NULLIF(current_setting('app.current_tenant_id', true), ''), 'acme'));
SELECT * FROM holes();
ROLLBACK;
-- views: of an owner who bypasses, that can be written, that count, that call a function of such an owner; with an INSTEAD OF trigger
BEGIN;
CREATE VIEW definer AS SELECT * FROM customers;
GRANT ALL ON definer TO regress_tm_app;
SELECT * FROM holes();
ROLLBACK;
BEGIN;
CREATE VIEW counting AS SELECT count(*) FROM orders;
CREATE FUNCTION sum_of_all() RETURNS numeric LANGUAGE sql SECURITY DEFINER AS 'SELECT sum(total) FROM regress_tm_prove.orders';
CREATE VIEW summing WITH (security_invoker) AS SELECT sum_of_all();
CREATE VIEW renamed AS SELECT tenant_id AS whose, name FROM customers;
CREATE VIEW moody AS SELECT random() AS r, count(*) FROM customers;
GRANT SELECT ON counting, summing, renamed, moody TO regress_tm_app;
SELECT * FROM holes();
ROLLBACK;
BEGIN;
CREATE MATERIALIZED VIEW kept AS SELECT * FROM orders;
CREATE MATERIALIZED VIEW kept_counts AS SELECT customer, count(*) FROM orders GROUP BY 1;
GRANT SELECT ON kept, kept_counts TO regress_tm_app;
SELECT * FROM holes();
ROLLBACK;
BEGIN;
CREATE TRIGGER instead INSTEAD OF UPDATE ON order_count FOR EACH ROW EXECUTE FUNCTION note();
CREATE RULE aside AS ON DELETE TO customers DO ALSO NOTIFY regress_tm_prove;
SELECT * FROM holes();
ROLLBACK;
-- a policy that no index serves, once the table is large; and none that could
BEGIN;
CREATE TABLE bulk (tenant_id text, filler text);
INSERT INTO bulk SELECT (ARRAY['acme', 'zeta', 'gold'])[g % 3 + 1], repeat('x', 1000) FROM generate_series(0, 899) g;
GRANT SELECT ON bulk TO regress_tm_app;
SELECT tenantmig.enable_rls('bulk') > 0 AS done;
SELECT * FROM holes();
CREATE INDEX ON bulk (tenant_id);
SELECT * FROM holes();
ALTER POLICY tenantmig_isolation ON bulk USING (tenant_id::bytea = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::bytea));
SELECT * FROM holes();
ROLLBACK;
-- only while the setting has never been set
ALTER POLICY tenantmig_isolation ON customers USING (current_setting('app.current_tenant_id', true) IS NULL
	OR tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')));
\c -
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET search_path = regress_tm_prove;
SELECT * FROM holes();
SELECT tenantmig.enable_rls('customers') > 0 AS done;

--
-- Triggers in the way: the session is as it was, and nobody gets out
--
SELECT all_there_is() AS line INTO TEMP kept_session;
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
CREATE FUNCTION hostile() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.tenant_id = 'zeta' THEN
		PERFORM set_config('role', 'none', false);
	END IF;
	IF TG_TABLE_NAME = 'orders' THEN
		RAISE EXCEPTION 'not on a %', 'Friday';
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER hostile BEFORE INSERT ON customers FOR EACH ROW EXECUTE FUNCTION hostile();
CREATE TRIGGER hostile BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION hostile();
SELECT * FROM holes();
-- no writes, no triggers
SELECT * FROM holes(writes => false);
ROLLBACK;
SELECT line FROM kept_session EXCEPT SELECT all_there_is();

-- what is planted in the search_path is not called by our statements
BEGIN;
CREATE SCHEMA regress_tm_planted;
GRANT USAGE ON SCHEMA regress_tm_planted TO PUBLIC;
CREATE FUNCTION regress_tm_planted.trap(varchar, varchar) RETURNS boolean LANGUAGE plpgsql
AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE FUNCTION regress_tm_planted.trap(text, text) RETURNS boolean LANGUAGE plpgsql
AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE OPERATOR regress_tm_planted.= (FUNCTION = regress_tm_planted.trap, LEFTARG = varchar, RIGHTARG = varchar);
CREATE OPERATOR regress_tm_planted.= (FUNCTION = regress_tm_planted.trap, LEFTARG = text, RIGHTARG = text);
CREATE FUNCTION regress_tm_planted.count() RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint';
CREATE FUNCTION regress_tm_planted.hashtextextended(text, int) RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint';
CREATE DOMAIN regress_tm_planted.text AS pg_catalog.text CHECK (false);
SET LOCAL search_path = regress_tm_planted, pg_catalog;
SELECT * FROM tenantmig.prove_isolation('regress_tm_app', 'acme', 'zeta', schemas => '{regress_tm_prove}')
WHERE ok IS NOT TRUE AND command <> 'all' OR seen ~ 'trapped';
ROLLBACK;

--
-- Rights: of the role, and of who calls
--
BEGIN;
REVOKE ALL ON ALL TABLES IN SCHEMA regress_tm_prove FROM regress_tm_app;
GRANT SELECT ON orders TO regress_tm_app;
GRANT SELECT (name, tenant_id), INSERT (tenant_id), UPDATE (name) ON customers TO regress_tm_app;
SELECT relation, command, expected, seen, ok
FROM tenantmig.prove_isolation('regress_tm_app', 'acme', 'zeta', '{regress_tm_prove}')
WHERE probe IN ('privilege', 'tenant_a') AND relation ~ 'customers|orders$';
ROLLBACK;
SELECT line FROM kept_session EXCEPT SELECT all_there_is();
SET ROLE regress_tm_owner;
SELECT tenantmig.prove_isolation('regress_tm_app', 'acme', 'zeta', '{regress_tm_prove}');
RESET ROLE;
GRANT regress_tm_app TO regress_tm_owner, regress_tm_other;
SET ROLE regress_tm_owner;
SELECT count(*) > 400 AS proved FROM tenantmig.prove_isolation('regress_tm_app', 'acme', 'zeta', '{regress_tm_prove}') WHERE ok;
RESET ROLE;
SET ROLE regress_tm_other;
SELECT tenantmig.prove_isolation('regress_tm_app', 'acme', 'zeta', '{regress_tm_prove}');
RESET ROLE;
ALTER ROLE regress_tm_other BYPASSRLS;
GRANT SELECT ON ALL TABLES IN SCHEMA regress_tm_prove TO regress_tm_other;
SET ROLE regress_tm_other;
SELECT count(*) > 400 AS proved FROM tenantmig.prove_isolation('regress_tm_app', 'acme', 'zeta', '{regress_tm_prove}') WHERE ok;
RESET ROLE;
REVOKE SELECT ON ALL TABLES IN SCHEMA regress_tm_prove FROM regress_tm_other;
ALTER ROLE regress_tm_other NOBYPASSRLS;

--
-- In words, for a pipeline
--
BEGIN;
ALTER TABLE customers DISABLE ROW LEVEL SECURITY;
SELECT tenantmig.assert_isolation('regress_tm_app', 'acme', 'zeta', '{regress_tm_prove}');
ROLLBACK;
-- but for what everybody may see
BEGIN;
ALTER TABLE customers DISABLE ROW LEVEL SECURITY;
SELECT tenantmig.assert_isolation('regress_tm_app', 'acme', 'zeta', '{regress_tm_prove}', skip => '{customers,customer_view}');
ROLLBACK;
BEGIN;
ALTER TABLE log DISABLE ROW LEVEL SECURITY;
SELECT tenantmig.assert_isolation('regress_tm_app', 'acme', 'zeta', '{regress_tm_prove}', writes => false, skip => '{customers,NULL}');
ROLLBACK;

--
-- Bad input
--
SELECT tenantmig.prove_isolation(NULL, 'acme', 'zeta');
SELECT tenantmig.prove_isolation('regress_tm_app', NULL, 'zeta');
SELECT tenantmig.prove_isolation('regress_tm_app', 'acme', '');
SELECT tenantmig.prove_isolation('regress_tm_app', 'acme', 'acme');
SELECT tenantmig.prove_isolation('regress_tm_nobody', 'acme', 'zeta');
SELECT tenantmig.prove_isolation('regress_tm_app', 'acme', 'zeta', '{no_such_schema}');
SELECT tenantmig.prove_isolation('regress_tm_app', 'acme', 'zeta', '{NULL}');
SELECT tenantmig.prove_isolation('regress_tm_app', 'acme', 'zeta', column_name => 'no_such_column');
SELECT tenantmig.prove_isolation('regress_tm_app', 'acme', 'zeta', '{regress_tm_prove}', setting => 'no dot');
SELECT tenantmig.prove_isolation('regress_tm_app', 'acme', 'nobody', '{regress_tm_prove}');
CREATE ROLE regress_tm_nobody;
SELECT tenantmig.prove_isolation('regress_tm_nobody', 'acme', 'zeta', '{regress_tm_prove}');
DROP ROLE regress_tm_nobody;
BEGIN READ ONLY;
SELECT tenantmig.prove_isolation('regress_tm_app', 'acme', 'zeta', '{regress_tm_prove}');
ROLLBACK;
-- within a block that catches errors
DO $$
BEGIN
	PERFORM tenantmig.assert_isolation('regress_tm_app', 'acme', 'nobody', '{regress_tm_prove}');
EXCEPTION WHEN invalid_parameter_value THEN
	RAISE WARNING 'caught: %', SQLERRM;
END $$;
SELECT line FROM kept_session EXCEPT SELECT all_there_is();

--
-- Other types, and tenants that are spelled in other ways
--
CREATE SCHEMA regress_tm_types;
GRANT USAGE ON SCHEMA regress_tm_types TO regress_tm_app;
SET search_path = regress_tm_types;
CREATE TABLE by_uuid (tenant_id uuid, n int PRIMARY KEY);
INSERT INTO by_uuid VALUES ('11111111-1111-1111-1111-111111111111', 1), ('22222222-2222-2222-2222-222222222222', 2);
CREATE DOMAIN tenant_number AS int CHECK (VALUE > 0);
CREATE TABLE by_number (org tenant_number, n int);
INSERT INTO by_number VALUES (1, 1), (1, 2), (2, 1);
CREATE TYPE tenant_kind AS ENUM ('one', 'two');
CREATE TABLE by_enum (kind tenant_kind, n int);
INSERT INTO by_enum VALUES ('one', 1), ('two', 2);
GRANT ALL ON ALL TABLES IN SCHEMA regress_tm_types TO regress_tm_app;
SELECT tenantmig.enable_rls('by_uuid', on_missing => 'error') > 0,
       tenantmig.enable_rls('by_number', 'org', 'my.org') > 0,
       tenantmig.enable_rls('by_enum', 'kind') > 0;
SELECT probe, expected, seen, ok
FROM tenantmig.prove_isolation('regress_tm_app', '11111111-1111-1111-1111-111111111111', '{22222222-2222-2222-2222-222222222222}', '{regress_tm_types}')
WHERE command = 'SELECT' OR ok IS NOT TRUE;
SELECT probe, expected, seen, ok
FROM tenantmig.prove_isolation('regress_tm_app', '1', ' 2', '{regress_tm_types}', 'org', 'my.org')
WHERE command = 'SELECT' OR ok IS NOT TRUE;
SELECT probe, expected, seen, ok
FROM tenantmig.prove_isolation('regress_tm_app', 'one', 'two', '{regress_tm_types}', 'kind')
WHERE command = 'SELECT' OR ok IS NOT TRUE;
SELECT tenantmig.prove_isolation('regress_tm_app', 'one', 'three', '{regress_tm_types}', 'kind');

-- a row without a tenant gets one from a trigger
CREATE SCHEMA regress_tm_filled;
GRANT USAGE ON SCHEMA regress_tm_filled TO regress_tm_app;
SET search_path = regress_tm_filled;
CREATE TABLE filled (id int PRIMARY KEY, kept text, tenant_id text NOT NULL);
INSERT INTO filled SELECT i, 't' || i % 2, 't' || i % 2 FROM generate_series(1, 10) i;
SELECT tenantmig.backfill('filled', expression => 'kept', options => '{"keep_trigger": true}') AS job \gset
CALL tenantmig.wait(:job);
SELECT tenantmig.enable_rls('filled') > 0;
GRANT ALL ON filled TO regress_tm_app;
SELECT probe, command, seen, ok
FROM tenantmig.prove_isolation('regress_tm_app', 't0', 't1', '{regress_tm_filled}') WHERE ok IS NOT TRUE;

DROP SCHEMA regress_tm_filled, regress_tm_types, regress_tm_prove CASCADE;
DROP TABLE tm_test.proof, tm_test.proof_kept;
DROP ROLE regress_tm_app, regress_tm_other, regress_tm_owner;
