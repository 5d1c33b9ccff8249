--
-- enable_rls and disable_rls: what gets through, what does not, and the way back
--
SET client_min_messages = warning;
CREATE ROLE regress_tm_owner;
CREATE ROLE regress_tm_app;
CREATE ROLE regress_tm_other;
CREATE ROLE regress_tm_ops;
CREATE ROLE regress_tm_member IN ROLE regress_tm_app, regress_tm_ops;
CREATE EXTENSION citext;
CREATE SCHEMA regress_tm_rls AUTHORIZATION regress_tm_owner;
GRANT USAGE ON SCHEMA regress_tm_rls TO PUBLIC;
SET search_path = regress_tm_rls, public;

-- Runs a statement; the number of rows, or the error, as text
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
	state text;
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE statement;
	GET DIAGNOSTICS n = ROW_COUNT;
	RETURN n || ' rows';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n', state || ': ' || message, nullif(detail, ''), nullif(hint, ''));
END $$;

-- Whether the plan of a statement has an index condition on tenant_id
CREATE FUNCTION uses_index(statement text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS off) ' || statement LOOP
		IF line ~ 'Index Cond:.*tenant_id\)?(::[a-z. ]+)? = ' THEN
			RETURN true;
		END IF;
	END LOOP;
	RETURN false;
END $$;

-- All that enable_rls may change, below one schema
CREATE VIEW state AS
SELECT c.oid::regclass::text AS relation, c.relrowsecurity AS enabled,
       c.relforcerowsecurity AS forced, p.polname, p.polcmd, p.polpermissive,
       p.polroles,
       regexp_replace(pg_get_expr(p.polqual, c.oid), ' AS ("nullif"|[a-z_]+)\)', ')', 'g') AS qual,
       regexp_replace(pg_get_expr(p.polwithcheck, c.oid), ' AS ("nullif"|[a-z_]+)\)', ')', 'g') AS with_check,
       obj_description(p.oid, 'pg_policy') AS comment
FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid
WHERE c.relnamespace = 'regress_tm_rls'::regnamespace AND c.relkind IN ('r', 'p');

CREATE FUNCTION keep_state() RETURNS void LANGUAGE sql AS
'CREATE TEMP TABLE kept AS SELECT * FROM state';
CREATE FUNCTION same_state() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	RETURN NOT EXISTS (SELECT * FROM state EXCEPT SELECT * FROM kept)
		AND NOT EXISTS (SELECT * FROM kept EXCEPT SELECT * FROM state);
END $$;

CREATE TABLE orders (id int PRIMARY KEY, tenant_id text, note text);
INSERT INTO orders VALUES (1, 'a', 'one'), (2, 'a', 'two'), (3, 'b', 'three'), (4, NULL, 'nobody''s'), (5, '', 'empty');
ALTER TABLE orders OWNER TO regress_tm_owner;
GRANT ALL ON orders TO regress_tm_app, regress_tm_other, regress_tm_ops;

--
-- The default: everybody, and closed while no tenant is set
--
SELECT keep_state();
SET ROLE regress_tm_owner;
SELECT tenantmig.enable_rls('orders') AS job \gset
RESET ROLE;
SELECT polname, polcmd, polpermissive, polroles, qual = with_check AS same, qual
FROM state WHERE relation = 'orders' ORDER BY polname;
SELECT enabled, forced FROM state WHERE relation = 'orders' LIMIT 1;
SELECT state, relation, owner FROM tenantmig.jobs WHERE id = :job;
SELECT position, statement, inverse FROM tenantmig.job_steps WHERE job = :job ORDER BY 1;

SET ROLE regress_tm_app;
SELECT v AS verb, attempt(v) FROM unnest(ARRAY[
	'SELECT FROM orders',
	'SELECT FROM orders WHERE id = 1 FOR UPDATE',
	'INSERT INTO orders VALUES (10, ''a'')',
	'INSERT INTO orders VALUES (10, NULL)',
	'INSERT INTO orders VALUES (10, '''')',
	'INSERT INTO orders VALUES (1, ''a'') ON CONFLICT DO NOTHING',
	'UPDATE orders SET note = ''mine''',
	'DELETE FROM orders',
	'MERGE INTO orders o USING (VALUES (1)) v (id) ON o.id = v.id WHEN MATCHED THEN DELETE',
	'MERGE INTO orders o USING (VALUES (10)) v (id) ON o.id = v.id WHEN NOT MATCHED THEN INSERT VALUES (v.id, ''a'')']) v;
COPY orders TO STDOUT;
RESET ROLE;
GRANT pg_read_server_files TO regress_tm_app;
SET ROLE regress_tm_app;
SELECT attempt('COPY orders FROM ''/dev/null''');
RESET ROLE;
REVOKE pg_read_server_files FROM regress_tm_app;
SET ROLE regress_tm_app;

BEGIN;
SET LOCAL app.current_tenant_id = 'a';
SELECT * FROM orders ORDER BY id;
COPY orders TO STDOUT;
SELECT v AS verb, attempt(v) FROM unnest(ARRAY[
	'INSERT INTO orders VALUES (10, ''a'')',
	'INSERT INTO orders VALUES (11, ''b'')',
	'INSERT INTO orders VALUES (11, NULL)',
	'INSERT INTO orders VALUES (3, ''a'') ON CONFLICT (id) DO UPDATE SET note = ''taken''',
	'INSERT INTO orders VALUES (2, ''a'') ON CONFLICT (id) DO UPDATE SET note = ''updated''',
	'INSERT INTO orders VALUES (2, ''a'') ON CONFLICT (id) DO UPDATE SET tenant_id = ''b''',
	'UPDATE orders SET note = ''mine''',
	'UPDATE orders SET note = ''mine'' WHERE id = 3',
	'UPDATE orders SET tenant_id = ''b'' WHERE id = 1',
	'UPDATE orders SET tenant_id = NULL WHERE id = 1',
	'DELETE FROM orders WHERE id = 3',
	'DELETE FROM orders WHERE id = 10',
	'MERGE INTO orders o USING (VALUES (3)) v (id) ON o.id = v.id WHEN MATCHED THEN DELETE',
	'MERGE INTO orders o USING (VALUES (1)) v (id) ON o.id = v.id WHEN MATCHED THEN UPDATE SET tenant_id = ''b''',
	'MERGE INTO orders o USING (VALUES (12)) v (id) ON o.id = v.id WHEN NOT MATCHED THEN INSERT VALUES (v.id, ''b'')']) v;
COMMIT;
-- After the transaction the setting is empty, not unset
SELECT current_setting('app.current_tenant_id') = '' AS empty, count(*) FROM orders;
-- A plan is made once, and sees the tenant of each execution
PREPARE mine AS SELECT id FROM orders ORDER BY id;
SET app.current_tenant_id = 'b';
EXECUTE mine;
SET app.current_tenant_id = 'a';
EXECUTE mine;
RESET app.current_tenant_id;
EXECUTE mine;

-- FORCE holds for the owner, too
SET ROLE regress_tm_owner;
SELECT count(*) FROM orders;
RESET ROLE;
SELECT id, tenant_id, note FROM orders ORDER BY id;

-- Called again: the same job.  Undone: all as before.
SELECT tenantmig.enable_rls('orders') = :job AS same_job;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT same_state();
SELECT count(*) FROM state WHERE polname IS NOT NULL OR enabled OR forced;

-- Somebody widened a policy: it does not hold any more, and is mended
SELECT tenantmig.enable_rls('orders') AS job \gset
ALTER POLICY tenantmig_isolation ON orders USING (true);
SELECT tenantmig.enable_rls('orders') AS mended \gset
SELECT :mended > :job AS another_job;
SELECT position, statement LIKE 'ALTER POLICY tenantmig_isolation %' AS altered
FROM tenantmig.job_steps WHERE job = :mended;
SELECT tenantmig.enable_rls('orders') = :mended AS same_job;

--
-- Roles, and admins
--
COMMENT ON POLICY tenantmig_access ON orders IS 'kept';
DROP TABLE kept;
SELECT keep_state();
SELECT tenantmig.enable_rls('orders', roles => '{regress_tm_other,regress_tm_app,regress_tm_app}',
	admin_roles => '{regress_tm_ops}', force => false) AS job \gset
SELECT tenantmig.enable_rls('orders', roles => '{regress_tm_app,regress_tm_other}',
	admin_roles => '{regress_tm_ops}', force => false) = :job AS same_job;
SELECT polname, polpermissive, (SELECT array_agg(r::regrole::text ORDER BY r::regrole::text) FROM unnest(polroles) r), qual, forced
FROM state WHERE relation = 'orders' ORDER BY polname;
SET ROLE regress_tm_ops;
SELECT count(*) FROM orders;
SELECT attempt('UPDATE orders SET tenant_id = ''b'' WHERE tenant_id = ''''');
-- a member of an application role and of an admin role
SET ROLE regress_tm_member;
SELECT count(*) FROM orders;
SET ROLE regress_tm_app;
SELECT count(*) FROM orders;
SET app.current_tenant_id = 'b';
SELECT count(*) FROM orders;
RESET app.current_tenant_id;
-- no longer forced: the owner sees all
SET ROLE regress_tm_owner;
SELECT count(*) FROM orders;
-- in a view, who asks counts as well as who owns the view
SET ROLE regress_tm_ops;
CREATE TEMP VIEW all_orders AS SELECT * FROM orders;
GRANT SELECT ON all_orders TO regress_tm_app;
SELECT count(*) FROM all_orders;
SET ROLE regress_tm_app;
SELECT count(*) FROM all_orders;
SET app.current_tenant_id = 'b';
SELECT count(*) FROM all_orders;
RESET app.current_tenant_id;
RESET ROLE;
DROP VIEW all_orders;

SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT same_state();

-- An admin role that was renamed, or replaced by another of its name, is out
SELECT tenantmig.enable_rls('orders', roles => '{regress_tm_app}', admin_roles => '{regress_tm_ops}') AS job \gset
ALTER ROLE regress_tm_ops RENAME TO regress_tm_ops2;
SET ROLE regress_tm_ops2;
SELECT count(*) FROM orders;
RESET ROLE;
ALTER ROLE regress_tm_ops2 RENAME TO regress_tm_ops;
SELECT tenantmig.enable_rls('orders', admin_roles => '{regress_tm_ops}') AS job \gset
SET ROLE regress_tm_ops;
SELECT count(*) FROM orders;
RESET ROLE;
ALTER ROLE regress_tm_ops RENAME TO regress_tm_ops2;
SET ROLE regress_tm_ops2;
SELECT count(*) FROM orders;
RESET ROLE;
CREATE ROLE regress_tm_ops;
GRANT ALL ON orders TO regress_tm_ops;
SET ROLE regress_tm_ops;
SELECT count(*) FROM orders;
RESET ROLE;
DROP OWNED BY regress_tm_ops;
DROP ROLE regress_tm_ops;
ALTER ROLE regress_tm_ops2 RENAME TO regress_tm_ops;

-- Policies added later do not open the table
CREATE POLICY later ON orders USING (true);
SET ROLE regress_tm_app;
SELECT count(*) FROM orders;
SET app.current_tenant_id = 'a';
SELECT count(*) FROM orders;
RESET app.current_tenant_id;
RESET ROLE;

-- Other policies are kept, and the caller is told what they mean now
SELECT tenantmig.enable_rls('orders') AS job \gset
ALTER POLICY later ON orders RENAME TO "la""ter";
CREATE POLICY narrow ON orders AS RESTRICTIVE FOR SELECT TO regress_tm_app USING (note <> 'secret');
SELECT tenantmig.disable_rls('orders') AS job \gset
SELECT polname FROM state WHERE relation = 'orders' ORDER BY 1;
DROP POLICY "la""ter" ON orders;
SET client_min_messages = notice;
SELECT tenantmig.enable_rls('orders') AS job \gset
SET client_min_messages = warning;
DROP POLICY narrow ON orders;

--
-- on_missing => 'error'
--
SELECT tenantmig.enable_rls('orders', on_missing => 'error', admin_roles => '{regress_tm_ops}', setting => 'app.tenant') AS job \gset
SET ROLE regress_tm_app;
SELECT v AS verb, attempt(v) FROM unnest(ARRAY[
	'SELECT FROM orders',
	'INSERT INTO orders VALUES (10, ''a'')',
	'UPDATE orders SET note = ''mine''',
	'DELETE FROM orders']) v;
SET app.tenant = '';
SELECT attempt('SELECT FROM orders');
SET app.tenant = 'a';
SELECT count(*) FROM orders;
RESET app.tenant;
SET ROLE regress_tm_ops;
SELECT count(*) FROM orders;
RESET ROLE;
SELECT tenantmig.enable_rls('orders', on_missing => 'error', setting => 'app.tenant') AS job \gset
SELECT polname, qual FROM state WHERE relation = 'orders' ORDER BY polname;
SET ROLE regress_tm_app;
SELECT attempt('SELECT FROM orders');
SELECT attempt('INSERT INTO orders VALUES (10, ''a'')');
SET app.tenant = 'a';
SELECT count(*) FROM orders;
RESET app.tenant;
RESET ROLE;
SELECT tenantmig.required_setting(NULL) IS NULL AS strict;

-- What the policies need can go by CASCADE only, and closes the table
SELECT split_part(attempt('ALTER TABLE orders DROP COLUMN tenant_id'), E'\n', 1);
SELECT split_part(attempt('DROP EXTENSION tenantmig'), E'\n', 1);
BEGIN;
DROP EXTENSION tenantmig CASCADE;
SELECT polname, enabled FROM state WHERE relation = 'orders';
SET LOCAL ROLE regress_tm_app;
SET LOCAL app.tenant = 'a';
SELECT count(*) FROM orders;
ROLLBACK;
SELECT tenantmig.enable_rls('orders') AS job \gset
BEGIN;
ALTER TABLE orders DROP COLUMN tenant_id CASCADE;
SELECT polname, enabled FROM state WHERE relation = 'orders';
SET LOCAL ROLE regress_tm_app;
SELECT count(*) FROM orders;
ROLLBACK;

--
-- The setting without a sub-select, and as the default of new rows
--
DROP TABLE kept;
SELECT keep_state();
SELECT tenantmig.enable_rls('orders', inline => true) AS job \gset
SELECT tenantmig.enable_rls('orders', inline => true) = :job AS same_job;
SELECT polname, qual, with_check = qual AS same FROM state WHERE relation = 'orders' ORDER BY polname;
SET ROLE regress_tm_app;
SELECT attempt('SELECT FROM orders'), attempt('INSERT INTO orders VALUES (10, ''a'')');
SET app.current_tenant_id = 'a';
SELECT count(*) FROM orders;
SELECT attempt('INSERT INTO orders VALUES (10, ''b'')');
EXPLAIN (COSTS off) SELECT * FROM orders;
RESET app.current_tenant_id;
RESET ROLE;
SELECT tenantmig.enable_rls('orders', inline => true, on_missing => 'error', admin_roles => '{regress_tm_ops}') AS job_2 \gset
SELECT polname, qual FROM state WHERE relation = 'orders' ORDER BY polname;
SET ROLE regress_tm_app;
SELECT attempt('SELECT FROM orders');
RESET ROLE;
SELECT tenantmig.undo(:job_2) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT same_state();

CREATE TABLE given (id int, tenant_id varchar(4) DEFAULT 'o''ne') PARTITION BY RANGE (id);
CREATE TABLE given_1 (tenant_id varchar(4) DEFAULT lower('X'), id int);
ALTER TABLE given ATTACH PARTITION given_1 FOR VALUES FROM (0) TO (10);
CREATE TABLE given_2 PARTITION OF given FOR VALUES FROM (10) TO (20);
ALTER TABLE given_2 ALTER tenant_id DROP DEFAULT;
GRANT ALL ON given, given_1, given_2 TO regress_tm_app;
CREATE VIEW defaults AS SELECT adrelid::regclass AS relation, pg_get_expr(adbin, adrelid) AS "default" FROM pg_attrdef
WHERE adrelid::regclass::text LIKE 'given%';
SELECT * FROM defaults ORDER BY 1;
SELECT tenantmig.enable_rls('given', set_default => true) AS job \gset
SELECT tenantmig.enable_rls('given', set_default => true) = :job AS same_job;
SELECT * FROM defaults ORDER BY 1;
SELECT relation, inverse FROM tenantmig.job_steps WHERE job = :job AND statement ~ 'DEFAULT' ORDER BY position;
SET ROLE regress_tm_app;
SELECT attempt('INSERT INTO given (id) VALUES (1)');
SET app.current_tenant_id = 'a';
INSERT INTO given (id) VALUES (1), (11);
INSERT INTO given_1 (id) VALUES (2);
INSERT INTO given VALUES (3, DEFAULT);
SELECT * FROM given ORDER BY id;
SELECT attempt('INSERT INTO given VALUES (4, ''b'')');
SET app.current_tenant_id = 'abcde';
SELECT attempt('INSERT INTO given (id) VALUES (5)');
RESET app.current_tenant_id;
RESET ROLE;
-- somebody changed one of them
ALTER TABLE given_2 ALTER tenant_id SET DEFAULT 'two';
SELECT tenantmig.enable_rls('given', set_default => true) AS again \gset
SELECT relation, inverse FROM tenantmig.job_steps WHERE job = :again ORDER BY position;
SELECT tenantmig.undo(:again) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT * FROM defaults ORDER BY 1;
SELECT tenantmig.enable_rls('given', set_default => true, on_missing => 'error', setting => 'app.t') AS job \gset
SELECT * FROM defaults ORDER BY 1;
SET ROLE regress_tm_app;
SELECT attempt('INSERT INTO given (id) VALUES (1)');
RESET ROLE;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
DROP TABLE given CASCADE;
CREATE TABLE generated (id int, tenant_id text GENERATED ALWAYS AS ('x') STORED, serial int GENERATED BY DEFAULT AS IDENTITY);
SELECT attempt('SELECT tenantmig.enable_rls(''generated'', set_default => true)');
SELECT attempt('SELECT tenantmig.enable_rls(''generated'', ''serial'', set_default => true)');
SELECT attempt('SELECT tenantmig.enable_rls(''orders'', inline => NULL)'), attempt('SELECT tenantmig.enable_rls(''orders'', set_default => NULL)');
DROP TABLE generated;

--
-- disable_rls
--
DROP TABLE kept;
COMMENT ON POLICY tenantmig_isolation ON orders IS 'the''wall';
SELECT keep_state();
SELECT tenantmig.disable_rls('orders') AS job \gset
SELECT tenantmig.disable_rls('orders') = :job AS same_job;
SELECT * FROM state WHERE relation = 'orders';
SET ROLE regress_tm_app;
SELECT count(*) FROM orders;
RESET ROLE;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT same_state();
SELECT tenantmig.disable_rls('orders', keep_policies => true) AS job \gset
SELECT polname, enabled, forced FROM state WHERE relation = 'orders' ORDER BY 1;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT same_state();
-- nothing to do is a job that succeeded
CREATE TABLE plain (tenant_id text);
SET client_min_messages = notice;
SELECT tenantmig.disable_rls('plain') AS job \gset
SET client_min_messages = warning;
SELECT state, (SELECT count(*) FROM tenantmig.job_steps WHERE job = j.id) FROM tenantmig.jobs j WHERE id = :job;
-- a rollback leaves nothing
BEGIN;
SELECT tenantmig.enable_rls('plain') AS job \gset
ROLLBACK;
SELECT count(*) FROM tenantmig.jobs WHERE id = :job;
SELECT enabled, polname FROM state WHERE relation = 'plain';
DROP TABLE plain;

--
-- Partitions on all levels, and inheritance children
--
CREATE TABLE events (day int, tenant_id text) PARTITION BY RANGE (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (10);
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (10) TO (20) PARTITION BY LIST (tenant_id);
CREATE TABLE events_2_a PARTITION OF events_2 FOR VALUES IN ('a');
CREATE TABLE events_2_b (tenant_id text, day int);	-- the columns the other way round
ALTER TABLE events_2 ATTACH PARTITION events_2_b FOR VALUES IN ('b');
INSERT INTO events SELECT d, t FROM generate_series(1, 19) d, (VALUES ('a'), ('b')) v (t);
GRANT ALL ON events, events_1, events_2, events_2_a, events_2_b TO regress_tm_app;
DROP TABLE kept;
SELECT keep_state();
SELECT tenantmig.enable_rls('events') AS job \gset
SELECT relation, enabled, forced, count(polname) FROM state WHERE relation LIKE 'events%' GROUP BY 1, 2, 3 ORDER BY 1;
SET ROLE regress_tm_app;
SELECT v AS statement, attempt(v) FROM unnest(ARRAY['SELECT FROM events', 'SELECT FROM events_1',
	'SELECT FROM events_2', 'SELECT FROM events_2_a', 'SELECT FROM events_2_b', 'DELETE FROM events_2_b']) v;
SET app.current_tenant_id = 'a';
SELECT v AS statement, attempt(v) FROM unnest(ARRAY['SELECT FROM events', 'SELECT FROM events_1',
	'SELECT FROM events_2', 'SELECT FROM events_2_a', 'SELECT FROM events_2_b', 'DELETE FROM events_2_b',
	'INSERT INTO events_1 VALUES (1, ''b'')', 'INSERT INTO events VALUES (1, ''b'')',
	'UPDATE events SET tenant_id = ''b'' WHERE day = 15']) v;
RESET app.current_tenant_id;
RESET ROLE;
-- a partition that came later is noticed, and only that one is touched
CREATE TABLE events_3 PARTITION OF events FOR VALUES FROM (20) TO (30);
SELECT tenantmig.enable_rls('events') AS again \gset
SELECT :again > :job AS another_job;
SELECT DISTINCT relation FROM tenantmig.job_steps WHERE job = :again;
-- and one that was dropped does not stop the way back
DROP TABLE events_3;
SELECT tenantmig.undo(:again) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT same_state();
-- only a part of the tree
SELECT tenantmig.enable_rls('events_2_a') AS job \gset

CREATE TABLE base (id int, tenant_id uuid);
CREATE TABLE child (extra int) INHERITS (base);
CREATE TEMP TABLE temporary_child () INHERITS (base);
INSERT INTO child VALUES (1, '00000000-0000-0000-0000-00000000000a'), (2, '00000000-0000-0000-0000-00000000000b');
GRANT ALL ON base, child TO regress_tm_app;
SELECT tenantmig.enable_rls('base') AS job \gset
SET ROLE regress_tm_app;
SELECT attempt('SELECT FROM base'), attempt('SELECT FROM child');
SET app.current_tenant_id = '00000000-0000-0000-0000-00000000000a';
SELECT attempt('SELECT FROM base'), attempt('SELECT FROM child');
SET app.current_tenant_id = 'garbage';
SELECT attempt('SELECT FROM base');
RESET app.current_tenant_id;
RESET ROLE;
DROP TABLE temporary_child;

--
-- Column types: nothing leaks, and an index is used
--
CREATE TYPE color AS ENUM ('red', 'green', 'blue');
CREATE DOMAIN tenant_name AS text NOT NULL CHECK (VALUE <> 'nobody');
CREATE DOMAIN tenant_code AS varchar(4);
CREATE DOMAIN tenant_ci AS citext;
CREATE TABLE kinds (type text, one text, two text);
INSERT INTO kinds VALUES
	('text', 'acme', 'zeta'), ('varchar(20)', 'acme', 'zeta'), ('char(6)', 'acme', 'zeta'),
	('uuid', '00000000-0000-0000-0000-00000000000a', '00000000-0000-0000-0000-00000000000b'),
	('int2', '7', '8'), ('int4', '7', '8'), ('int8', '7000000000', '8000000000'),
	('tenant_name', 'acme', 'zeta'), ('tenant_code', 'acme', 'zeta'), ('color', 'red', 'green'),
	('citext', 'ACME', 'zeta'), ('tenant_ci', 'Acme', 'zeta'), ('numeric(12,2)', '7', '8'), ('date', '2024-01-01', '2024-01-02');

CREATE FUNCTION try_type(type text, one text, two text, call text,
	OUT closed text, OUT mine text, OUT theirs text, OUT unset text, OUT indexed boolean)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TABLE typed (id int, tenant_id %s)', type);
	EXECUTE format('INSERT INTO typed SELECT g, %L FROM generate_series(1, 9000) g', two);
	EXECUTE format('INSERT INTO typed SELECT g, %L FROM generate_series(1, 5) g', one);
	EXECUTE 'CREATE INDEX ON typed (tenant_id)';
	EXECUTE 'ANALYZE typed';
	EXECUTE 'GRANT ALL ON typed TO regress_tm_app';
	EXECUTE call;
	SET LOCAL ROLE regress_tm_app;
	closed := attempt('SELECT FROM typed');
	PERFORM set_config('app.current_tenant_id', one, true);
	mine := attempt('SELECT FROM typed');
	-- a generic plan cannot know how many rows the tenant has
	PERFORM set_config('enable_seqscan', 'off', true);
	indexed := uses_index('SELECT id FROM typed');
	PERFORM set_config('enable_seqscan', 'on', true);
	theirs := attempt(format('INSERT INTO typed VALUES (1, %L)', two));
	PERFORM set_config('app.current_tenant_id', '', true);
	unset := attempt('SELECT FROM typed');
	RESET ROLE;
	DROP TABLE typed;
END $$;
SELECT k.type, t.* FROM kinds k, try_type(k.type, k.one, k.two, 'SELECT tenantmig.enable_rls(''typed'')') t;
SELECT k.type, t.* FROM kinds k, try_type(k.type, k.one, k.two,
	'SELECT tenantmig.enable_rls(''typed'', admin_roles => ''{regress_tm_ops}'')') t;
SELECT k.type, t.* FROM kinds k, try_type(k.type, k.one, k.two,
	'SELECT tenantmig.enable_rls(''typed'', inline => true, set_default => true)') t;
SELECT k.type, t.mine, t.indexed FROM kinds k, try_type(k.type, k.one, k.two,
	'SELECT tenantmig.enable_rls(''typed'', on_missing => ''error'', roles => ''{regress_tm_app}'')') t;

-- A value that is too long is another tenant, not this one cut off
CREATE TABLE short (tenant_id varchar(4), tenant_id2 tenant_code);
INSERT INTO short VALUES ('acme', 'acme');
GRANT ALL ON short TO regress_tm_app;
SELECT tenantmig.enable_rls('short') AS job \gset
SET ROLE regress_tm_app;
SET app.current_tenant_id = 'acme2';
SELECT count(*) FROM short;
RESET ROLE;
SELECT tenantmig.enable_rls('short', 'tenant_id2') AS job \gset
SET ROLE regress_tm_app;
SELECT count(*) FROM short;
SET app.current_tenant_id = 'acme';
SELECT count(*) FROM short;
RESET app.current_tenant_id;
RESET ROLE;

-- Types that cannot be compared, or not safely
CREATE TABLE odd (j json, p point, n name, c "char", tenant_id text);
SELECT c AS column, attempt(format('SELECT tenantmig.enable_rls(''odd'', %L)', c)) FROM unnest('{j,p,n,c}'::text[]) c;

--
-- Bad arguments
--
SELECT a AS arguments, attempt('SELECT tenantmig.enable_rls(''orders'', ' || a || ')') FROM unnest(ARRAY[
	'on_missing => ''allow''',
	'on_missing => NULL',
	'setting => NULL',
	'setting => ''''',
	'setting => ''tenant''',
	'setting => ''app..tenant''',
	'setting => ''app.''',
	'setting => ''.tenant''',
	'setting => ''app.1''',
	'setting => ''app."t"''',
	'setting => ''app.t'''', true)) OR (true''',
	'setting => E''app.t\n''',
	'setting => ''work_mem''',
	'setting => ''TenantMig.nice''',
	'column_name => ''missing''',
	'column_name => ''''',
	'column_name => ''ctid''',
	'roles => ''{}''',
	'roles => NULL',
	'roles => ''{regress_tm_app,NULL}''',
	'roles => ''{regress_tm_nobody}''',
	'roles => ''{current_user}''',
	'roles => ''{REGRESS_TM_APP}''',
	'roles => ''{""}''',
	'roles => ''{"PUBLIC"}''',
	'admin_roles => ''{public}''',
	'admin_roles => ''{session_user}''',
	'roles => ''{regress_tm_app}'', admin_roles => ''{regress_tm_app}''']) a;
CREATE VIEW orders_view AS SELECT * FROM orders;
CREATE TEMP TABLE scratch (tenant_id text);
SELECT r AS relation, attempt(format('SELECT tenantmig.enable_rls(%L)', r)) FROM unnest('{orders_view,orders_pkey,pg_class,tenantmig.job}'::text[]) r;
SELECT left(attempt('SELECT tenantmig.enable_rls(''pg_temp.scratch'')'), 5);
SELECT attempt('SELECT tenantmig.enable_rls(1::oid)'), attempt('SELECT tenantmig.enable_rls(NULL)');
SELECT attempt('SELECT tenantmig.disable_rls(1::oid)'), attempt('SELECT tenantmig.disable_rls(''orders'', NULL)');
SET ROLE regress_tm_app;
SELECT attempt('SELECT tenantmig.enable_rls(''orders'')'), attempt('SELECT tenantmig.disable_rls(''orders'')');
RESET ROLE;
-- a child that belongs to somebody else
ALTER TABLE base OWNER TO regress_tm_owner;
SET ROLE regress_tm_owner;
SELECT attempt('SELECT tenantmig.disable_rls(''base'')');
RESET ROLE;

--
-- Names
--
CREATE ROLE regress_tm_case;
CREATE ROLE "regress_tm_Case";
CREATE ROLE "regress_tm_x""'; DROP TABLE orders; --";
CREATE SCHEMA "regress_tm %I $$ 'x";
CREATE TABLE "regress_tm %I $$ 'x"."a"";
b.c; DROP TABLE orders; --" (id int, "Tenant""'; --
ID" text);
INSERT INTO "regress_tm %I $$ 'x"."a"";
b.c; DROP TABLE orders; --" VALUES (1, 'a'), (2, 'it''s \ "b"');
GRANT USAGE ON SCHEMA "regress_tm %I $$ 'x" TO PUBLIC;
GRANT ALL ON ALL TABLES IN SCHEMA "regress_tm %I $$ 'x" TO PUBLIC;
SELECT c.oid AS hostile FROM pg_class c WHERE relname LIKE E'a";\nb.c;%' \gset
SELECT attname AS hostile_column FROM pg_attribute WHERE attrelid = :hostile AND attnum = 2 \gset
SELECT tenantmig.enable_rls(:hostile, :'hostile_column', roles => '{regress_tm_case}') AS job \gset
SELECT tenantmig.enable_rls(:hostile, :'hostile_column', setting => 'App.Tenánt$1', roles => '{regress_tm_Case,"regress_tm_x\"''; DROP TABLE orders; --"}') AS job \gset
SELECT array_agg(r::regrole::text ORDER BY r::regrole::text COLLATE "C") AS roles FROM pg_policy, unnest(polroles) r WHERE polrelid = :hostile AND NOT polpermissive;
SELECT tenantmig.enable_rls(:hostile, :'hostile_column', roles => '{regress_tm_case}', admin_roles => '{regress_tm_Case,"regress_tm_x\"''; DROP TABLE orders; --"}') AS job \gset
SET ROLE regress_tm_case;
SET app.current_tenant_id = E'it''s \\ "b"';
SELECT id FROM "regress_tm %I $$ 'x"."a"";
b.c; DROP TABLE orders; --" ORDER BY 1;
RESET app.current_tenant_id;
SET ROLE "regress_tm_x""'; DROP TABLE orders; --";
SELECT id FROM "regress_tm %I $$ 'x"."a"";
b.c; DROP TABLE orders; --" ORDER BY 1;
SET ROLE "regress_tm_Case";
SELECT id FROM "regress_tm %I $$ 'x"."a"";
b.c; DROP TABLE orders; --" ORDER BY 1;
RESET ROLE;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT array_agg(DISTINCT r::regrole::text ORDER BY r::regrole::text) AS roles FROM pg_policy, unnest(polroles) r WHERE polrelid = :hostile;
SELECT tenantmig.disable_rls(:hostile) AS job \gset
SELECT count(*) FROM pg_policy WHERE polrelid = :hostile;
SELECT count(*) > 0 AS still_there FROM orders;

--
-- Operators, functions and types planted where a search_path finds them first
--
CREATE SCHEMA regress_tm_evil;
GRANT USAGE ON SCHEMA regress_tm_evil TO PUBLIC;
CREATE TABLE regress_tm_evil.text (x int);
CREATE FUNCTION regress_tm_evil.yes(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION regress_tm_evil.yes(varchar, varchar) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION regress_tm_evil.yes(varchar, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION regress_tm_evil.yes(color, color) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION public.regress_tm_yes(tenant_ci, citext) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION regress_tm_evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$SELECT 'b'$$;
CREATE FUNCTION regress_tm_evil.pg_has_role(oid, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR regress_tm_evil.= (FUNCTION = regress_tm_evil.yes, LEFTARG = text, RIGHTARG = text);
CREATE OPERATOR regress_tm_evil.= (FUNCTION = regress_tm_evil.yes, LEFTARG = varchar, RIGHTARG = varchar);
CREATE OPERATOR regress_tm_evil.= (FUNCTION = regress_tm_evil.yes, LEFTARG = varchar, RIGHTARG = text);
CREATE OPERATOR regress_tm_evil.= (FUNCTION = regress_tm_evil.yes, LEFTARG = color, RIGHTARG = color);
-- beside the operator of citext itself, and a better match for a domain over it
CREATE OPERATOR public.= (FUNCTION = public.regress_tm_yes, LEFTARG = tenant_ci, RIGHTARG = citext);
CREATE TABLE target (t text, v varchar(9), c color, d tenant_ci);
INSERT INTO target VALUES ('b', 'b', 'blue', 'b');
GRANT ALL ON target TO regress_tm_app;
CREATE VIEW planted AS
SELECT p.polname, d.refobjid::regoperator FROM pg_policy p JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
WHERE p.polrelid = 'target'::regclass AND (d.refclassid, d.refobjid) IN (
	SELECT 'pg_operator'::regclass, o.oid FROM pg_operator o JOIN pg_proc f ON f.oid = o.oprcode WHERE f.proname IN ('yes', 'regress_tm_yes')
	UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace = 'regress_tm_evil'::regnamespace);
SET search_path = regress_tm_evil, pg_catalog;
SELECT tenantmig.enable_rls('regress_tm_rls.target', 't', admin_roles => '{regress_tm_ops}') AS job_t \gset
SELECT tenantmig.enable_rls('regress_tm_rls.target', 'v', admin_roles => '{regress_tm_ops}') AS job_v \gset
SELECT tenantmig.enable_rls('regress_tm_rls.target', 'c') AS job_c \gset
SELECT tenantmig.enable_rls('regress_tm_rls.target', 'd') AS job_d \gset
SET search_path = regress_tm_rls, public;
SELECT * FROM planted;
SET ROLE regress_tm_app;
SET app.current_tenant_id = 'a';
SELECT count(*) FROM target;
RESET app.current_tenant_id;
RESET ROLE;
-- the way back, too, under such a search_path
SET search_path = regress_tm_evil, pg_catalog;
SELECT tenantmig.undo(:job_d) AS undo_d \gset
CALL tenantmig.wait(:undo_d);
SELECT tenantmig.undo(:job_c) AS undo_c \gset
CALL tenantmig.wait(:undo_c);
SET search_path = regress_tm_rls, public;
SELECT * FROM planted;
SELECT polname, qual FROM state WHERE relation = 'target' ORDER BY 1;
SET ROLE regress_tm_app;
SET app.current_tenant_id = 'a';
SELECT count(*) FROM target;
RESET app.current_tenant_id;
RESET ROLE;

DROP SCHEMA regress_tm_evil, regress_tm_rls, "regress_tm %I $$ 'x" CASCADE;
DROP FUNCTION IF EXISTS public.regress_tm_yes;
DROP EXTENSION citext;
DROP ROLE regress_tm_owner, regress_tm_app, regress_tm_other, regress_tm_ops, regress_tm_member,
	regress_tm_case, "regress_tm_Case", "regress_tm_x""'; DROP TABLE orders; --";
