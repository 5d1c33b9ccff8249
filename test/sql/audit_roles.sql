--
-- audit_rls: roles that no policy holds for; views, rules and functions that
-- do things as somebody else
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
\i :abs_srcdir/sql/include/audit.sql
-- the grantor of a membership is who runs the tests
CREATE FUNCTION plain(text) RETURNS text LANGUAGE sql AS $$ SELECT replace($1, ' GRANTED BY ' || quote_ident(session_user), '') $$;
CREATE ROLE regress_tm_bypass BYPASSRLS;
CREATE ROLE regress_tm_super SUPERUSER;
CREATE ROLE regress_tm_middle;
\set ECHO all
\pset format unaligned

--
-- 3. Superusers, BYPASSRLS, and who can become one
--
ALTER ROLE regress_tm_app BYPASSRLS;
SELECT * FROM seen();
SELECT * FROM seen(role => NULL);
CALL mends('role_bypasses');
SELECT * FROM seen();
ALTER ROLE regress_tm_app SUPERUSER BYPASSRLS;
SELECT * FROM seen();
CALL mends('role_bypasses');
SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = 'regress_tm_app';
GRANT regress_tm_bypass TO regress_tm_app;
GRANT regress_tm_super TO regress_tm_middle;
GRANT regress_tm_middle TO regress_tm_app;
SELECT check_name, severity, object, role_name, plain(mend) FROM seen();
SELECT check_name, severity, object, role_name, plain(mend) FROM seen(role => NULL);
CALL mends('role_bypasses');
SELECT * FROM seen();
GRANT pg_execute_server_program, pg_read_server_files TO regress_tm_app;
SELECT check_name, severity, object, role_name, plain(mend) FROM seen();
CALL mends('role_bypasses');
SELECT * FROM seen();
REVOKE regress_tm_middle FROM regress_tm_app;
-- before 16 it can make itself a member of the owner
ALTER ROLE regress_tm_app CREATEROLE;
SELECT (SELECT count(*) FROM seen('role_bypasses')) = (current_setting('server_version_num')::int < 160000)::int AS told;
ALTER ROLE regress_tm_app NOCREATEROLE;

-- nothing can be done about the first of them
SELECT check_name, role_name = (SELECT rolname FROM pg_roles WHERE oid = 10) AS first, mend FROM seen('role%', (SELECT rolname FROM pg_roles WHERE oid = 10));

--
-- 21. REPLICATION
--
ALTER ROLE regress_tm_app REPLICATION;
SELECT * FROM seen();
CALL mends('replication_role');
SELECT * FROM seen();
ALTER ROLE regress_tm_middle REPLICATION;
GRANT regress_tm_middle TO regress_tm_app;
SELECT check_name, severity, object, role_name, plain(mend) FROM seen();
CALL mends('replication_role');
SELECT * FROM seen();

--
-- 4. Views whose owner passes the policies
--
CREATE VIEW v AS SELECT * FROM orders;
-- nobody may use it
SELECT * FROM seen();
GRANT SELECT ON v TO regress_tm_app;
SELECT * FROM seen();
-- through others on top of it
REVOKE ALL ON v FROM regress_tm_app;
CREATE VIEW v2 AS SELECT * FROM v WHERE id > 0;
CREATE VIEW v3 AS SELECT id FROM v2;
GRANT SELECT (id) ON v3 TO regress_tm_app;
SELECT * FROM seen();
-- the one on top reads as the user
ALTER VIEW v3 SET (security_invoker = true);
SELECT * FROM seen();
ALTER VIEW v3 RESET (security_invoker);
CALL mends('view_bypasses');
SELECT * FROM seen();
DROP VIEW v CASCADE;
-- one of the owner's, to whom the policies do not apply
SET ROLE regress_tm_owner;
CREATE VIEW v AS SELECT * FROM orders;
GRANT UPDATE ON v TO PUBLIC;
RESET ROLE;
SELECT * FROM seen();
ALTER TABLE orders NO FORCE ROW LEVEL SECURITY;
SELECT * FROM seen();
SELECT check_name, object, role_name FROM seen('view_bypasses', NULL);
CALL mends('view_bypasses');
SELECT * FROM seen();
DROP VIEW v;
ALTER TABLE orders FORCE ROW LEVEL SECURITY;

-- one of a role that the policies hold for, and let see all
CREATE ROLE regress_tm_reports;
GRANT SELECT ON orders TO regress_tm_reports;
GRANT ALL ON SCHEMA regress_tm_audit TO regress_tm_reports;
SET ROLE regress_tm_reports;
CREATE VIEW v AS SELECT * FROM orders;
CREATE FUNCTION f() RETURNS SETOF orders LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC SELECT * FROM orders; END;
RESET ROLE;
GRANT SELECT ON v TO regress_tm_app;
SELECT * FROM seen();
ALTER POLICY tenantmig_isolation ON orders TO regress_tm_app;
SELECT * FROM seen();
CALL mends('%');
SELECT * FROM seen();
-- an admin's view shows everybody his own tenant, an admin's function all
ALTER VIEW v RESET (security_invoker);
ALTER FUNCTION f SECURITY DEFINER;
SELECT tenantmig.enable_rls('orders', admin_roles => '{regress_tm_reports}') > 0 AS changed;
SELECT * FROM seen();
INSERT INTO orders (tenant_id) VALUES ('a'), ('b');
SET ROLE regress_tm_app;
SET app.current_tenant_id = 'a';
SELECT (SELECT count(*) FROM v) AS view, (SELECT count(*) FROM f()) AS function;
RESET app.current_tenant_id;
RESET ROLE;
DELETE FROM orders;
CALL mends('definer_function');
SELECT tenantmig.enable_rls('orders') > 0 AS changed;
DROP OWNED BY regress_tm_reports;
DROP ROLE regress_tm_reports;

--
-- 5. Materialized views
--
CREATE VIEW v WITH (security_invoker = true) AS SELECT * FROM orders;
CREATE MATERIALIZED VIEW m AS SELECT tenant_id, count(*) FROM v GROUP BY 1;
SELECT * FROM seen();
GRANT SELECT ON m TO PUBLIC;
SELECT * FROM seen();
CALL mends('materialized_view');
SELECT * FROM seen();
CREATE VIEW over_m AS SELECT * FROM m;
GRANT SELECT ON over_m TO regress_tm_app;
SELECT * FROM seen();
CALL mends('materialized_view');
SELECT * FROM seen();
DROP MATERIALIZED VIEW m CASCADE;
DROP VIEW v;

--
-- 7. Rules
--
CREATE TABLE log (note text);
CREATE RULE log AS ON INSERT TO orders DO ALSO INSERT INTO log VALUES (new.note);
CREATE RULE nothing AS ON DELETE TO orders WHERE old.id < 0 DO INSTEAD NOTHING;
SELECT * FROM seen();
CALL mends('rule_writes');
SELECT * FROM seen();
DROP RULE nothing ON orders;
CREATE RULE sweep AS ON INSERT TO log DO ALSO DELETE FROM orders;
SELECT * FROM seen();
GRANT INSERT ON log TO regress_tm_app;
SELECT * FROM seen();
CALL mends('rule_writes');
SELECT * FROM seen();
DROP TABLE log;

--
-- 6. SECURITY DEFINER functions whose owner passes the policies
--
CREATE FUNCTION f(a int, OUT b bigint) LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, regress_tm_audit, pg_temp AS 'SELECT count(*) FROM orders';
SELECT * FROM seen();
SELECT check_name, object, role_name FROM seen('definer_%', NULL);
-- nobody may call it, or get at the schema
REVOKE EXECUTE ON FUNCTION f FROM PUBLIC;
SELECT * FROM seen();
GRANT EXECUTE ON FUNCTION f TO regress_tm_app;
REVOKE USAGE ON SCHEMA regress_tm_audit FROM PUBLIC;
SELECT * FROM seen();
GRANT USAGE ON SCHEMA regress_tm_audit TO PUBLIC;
CALL mends('definer_function');
SELECT * FROM seen();
DROP FUNCTION f;
-- what it does is parsed, or put together, or something else
CREATE FUNCTION f() RETURNS bigint LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC SELECT count(*) FROM orders; END;
CREATE FUNCTION g(t text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'BEGIN EXECUTE t; END';
CREATE PROCEDURE h(INOUT t text) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'BEGIN t := 1; END';
SELECT * FROM seen();
CALL mends('definer_function');
SELECT * FROM seen();
DROP ROUTINE f, g, h;
-- one of a role that the policies hold for
SET ROLE regress_tm_owner;
CREATE FUNCTION regress_tm_audit.f() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM regress_tm_audit.orders';
RESET ROLE;
SELECT * FROM seen();
DROP FUNCTION f;
-- trigger functions run without EXECUTE
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'BEGIN DELETE FROM regress_tm_audit.orders; RETURN NULL; END';
REVOKE EXECUTE ON FUNCTION f FROM PUBLIC;
CREATE TABLE free (id int);
CREATE TRIGGER f AFTER INSERT ON free EXECUTE FUNCTION f();
SELECT * FROM seen();
GRANT INSERT ON free TO regress_tm_app;
SELECT * FROM seen();
CALL mends('definer_function');
SELECT * FROM seen();
DROP TABLE free;
DROP FUNCTION f;
-- search_path: none; temporary tables first; a schema that others may create in
CREATE SCHEMA regress_tm_free;
GRANT ALL ON SCHEMA regress_tm_free TO PUBLIC;
CREATE FUNCTION f1() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
CREATE FUNCTION f2() RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, regress_tm_audit AS 'SELECT 1';
CREATE FUNCTION f3() RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = regress_tm_free, regress_tm_audit, pg_temp AS 'SELECT 1';
SELECT * FROM seen('definer_search_path');
CALL mends('definer_search_path');
SELECT * FROM seen('definer_search_path');
DROP FUNCTION f1, f2, f3;
DROP SCHEMA regress_tm_free;

--
-- 19. Functions that the planner trusts
--
CREATE FUNCTION trusted(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE LEAKPROOF AS 'BEGIN RAISE NOTICE ''%'', $1; RETURN true; END';
SELECT * FROM seen();
CALL mends('leakproof_function');
SELECT * FROM seen();
DROP FUNCTION trusted;

--
-- 17. What chooses the tenant for the application
--
CREATE FUNCTION choose(t text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('app.current_tenant_id', t, true); END $$;
CREATE FUNCTION choose2() RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET LOCAL app.current_tenant_id = 'a'; END $$;
CREATE FUNCTION fixed() RETURNS int LANGUAGE sql SET app.current_tenant_id = 'a' AS 'SELECT 1';
-- reads it only
CREATE FUNCTION mine() RETURNS text LANGUAGE sql STABLE AS $$ SELECT current_setting('app.current_tenant_id', true) $$;
SELECT * FROM seen();
CALL mends('setting_function');
SELECT * FROM seen();
DROP FUNCTION choose, choose2, fixed, mine;
CREATE FUNCTION choose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('app.current_tenant_id', 'a', true); RETURN NEW; END $$;
CREATE TRIGGER choose BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION choose();
SELECT * FROM seen();
CALL mends('setting_function');
SELECT * FROM seen();
DROP FUNCTION choose;
ALTER ROLE regress_tm_app SET app.current_tenant_id = 'a';
ALTER ROLE regress_tm_app IN DATABASE :"DBNAME" SET App.Current_Tenant_Id = 'a';
ALTER ROLE regress_tm_owner SET app.current_tenant_id = 'a';
ALTER DATABASE :"DBNAME" SET app.current_tenant_id = 'a';
SELECT check_name, severity, replace(object, quote_ident(current_database()), 'DB') AS object, role_name, replace(mend, quote_ident(current_database()), 'DB') AS mend FROM seen();
CALL mends('setting_preset');
SELECT * FROM seen();
ALTER ROLE regress_tm_owner RESET app.current_tenant_id;

--
-- 27. Trigger functions that insert without the tenant
--
CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	-- INSERT INTO customers (name) is only in a comment
	INSERT INTO Orders AS o (customer_id, note) VALUES (1, 'INSERT INTO customers (name)');
	RETURN NULL;
END $$;
SELECT * FROM seen();
CREATE TRIGGER log AFTER INSERT ON customers FOR EACH ROW EXECUTE FUNCTION log();
SELECT * FROM seen();
CALL mends('trigger_without_tenant');
SELECT * FROM seen();
SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 'orders'::regclass;
ALTER TABLE orders ALTER tenant_id DROP DEFAULT;
ALTER TABLE customers ALTER tenant_id DROP DEFAULT;
-- a trigger fills it
CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.tenant_id := current_setting('app.current_tenant_id'); RETURN NEW; END $$;
CREATE TRIGGER fill BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION fill();
CREATE TRIGGER fill BEFORE INSERT ON customers FOR EACH ROW EXECUTE FUNCTION fill();
SELECT * FROM seen();

--
-- 20. The version of the server
--
SELECT v AS version, tenantmig.missing_fixes(v) FROM unnest(ARRAY[
	120022, 130010, 130011, 130017, 130021, 130022, 140007, 140008, 140013, 140014, 140018, 140019,
	150002, 150003, 150008, 150009, 150013, 150014, 160000, 160004, 160005, 160009, 160010,
	170000, 170001, 170005, 170006, 180000, 190000]) v;
SELECT tenantmig.missing_fixes(current_setting('server_version_num')::int) IS NULL
	= NOT EXISTS (SELECT FROM tenantmig.audit_rls() WHERE check_name = 'server_version' AND mend IS NULL) AS told;

--
-- Many roles: what one statement mends is one row, and of login roles that are
-- members of the same one stands for all
--
DROP TRIGGER fill ON orders;
DROP TRIGGER fill ON customers;
DROP TRIGGER log ON customers;
CREATE ROLE regress_tm_all;
CREATE ROLE regress_tm_1 LOGIN IN ROLE regress_tm_all;
CREATE ROLE regress_tm_2 LOGIN IN ROLE regress_tm_all;
CREATE ROLE regress_tm_3 LOGIN IN ROLE regress_tm_all;
CREATE ROLE regress_tm_gate LOGIN NOINHERIT IN ROLE regress_tm_1, regress_tm_2, regress_tm_3;
GRANT SELECT, TRUNCATE ON orders TO regress_tm_all;
SELECT check_name, object, role_name, detail FROM tenantmig.audit_rls(schemas => '{regress_tm_audit}');
SELECT check_name, object, role_name, detail FROM tenantmig.audit_rls('regress_tm_gate', '{regress_tm_audit}');
CALL mends('privilege_beyond_rls', 'regress_tm_gate');
SELECT * FROM seen(role => NULL);
DROP ROLE regress_tm_1, regress_tm_2, regress_tm_3, regress_tm_gate;
DROP OWNED BY regress_tm_all;
DROP ROLE regress_tm_all;

DROP SCHEMA regress_tm_audit CASCADE;
DROP ROLE regress_tm_owner, regress_tm_app, regress_tm_bypass, regress_tm_super, regress_tm_middle;
