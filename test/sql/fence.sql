--
-- Tenants that are suspended: what fenced tables refuse, and the way back
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
\set ECHO all
SET datestyle = iso;
CREATE ROLE regress_tm_owner;
CREATE ROLE regress_tm_writer;
CREATE ROLE regress_tm_squatter;
CREATE EXTENSION citext;
CREATE SCHEMA regress_tm_fence AUTHORIZATION regress_tm_owner;
GRANT USAGE ON SCHEMA regress_tm_fence TO PUBLIC;
SET search_path = regress_tm_fence, public;
SELECT count(tenantmig.create_tenant(t)) FROM unnest('{fa,fb,FA,7,00000000-0000-0000-0000-00000000000A}'::text[]) t;

-- The message of a refusal without its time
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE sql AS $$
SELECT string_agg(regexp_replace(t, 'suspended at [-0-9:.+ ]*[0-9]', 'suspended at ...'), E'\n') FROM tm_test.try(statement) t
$$;

SET ROLE regress_tm_owner;
CREATE TABLE items (id int PRIMARY KEY, tenant_id text, note text);
CREATE TABLE parts (id int PRIMARY KEY, item int REFERENCES items ON DELETE CASCADE, tenant_id text);
GRANT ALL ON items, parts TO regress_tm_writer;
INSERT INTO items VALUES (1, 'fa'), (2, 'fa'), (3, 'fb'), (4, NULL);
INSERT INTO parts VALUES (1, 1, 'fa'), (2, 3, 'fa'), (3, 3, 'fb');
RESET ROLE;

--
-- Fence, suspend, reactivate
--
SELECT tm_test.keep('items');
SELECT tenantmig.fence_tenants('items') AS job \gset
SELECT position, statement, inverse, lock_mode FROM tenantmig.job_step WHERE job = :job ORDER BY 1;
SELECT tenantmig.fence_tenants('items') = :job AS same_job;
-- what is said about tables is about all of the database: below, as one owner
SET client_min_messages = error;
SELECT tenantmig.suspend_tenant('fa', 'not paid');
SELECT tenantmig.fence_tenants('parts') > 0 AS fenced;
SELECT status, status_reason, status_by = CURRENT_USER AS by_me, status_since > created_at AS since
FROM tenantmig.tenants WHERE tenant = 'fa';

SET ROLE regress_tm_writer;
SELECT v AS statement, attempt(v) FROM unnest(ARRAY[
	'INSERT INTO items VALUES (10, ''fa'')',
	'INSERT INTO items VALUES (10, ''fb'')',
	'INSERT INTO items VALUES (11, ''FA'')',
	'INSERT INTO items VALUES (1, ''fa'') ON CONFLICT DO NOTHING',
	'INSERT INTO items VALUES (1, ''fb'') ON CONFLICT (id) DO UPDATE SET note = ''x''',
	'UPDATE items SET note = ''x''',
	'UPDATE items SET note = ''x'' WHERE tenant_id IS DISTINCT FROM ''fa''',
	'UPDATE items SET tenant_id = ''fb'' WHERE id = 1',
	'UPDATE items SET tenant_id = ''fa'' WHERE id = 4',
	'DELETE FROM items WHERE id = 2',
	'DELETE FROM items WHERE id = 3',
	'DELETE FROM parts WHERE id = 1',
	'DELETE FROM items WHERE id = 4',
	'MERGE INTO items i USING (VALUES (1)) v (id) ON i.id = v.id WHEN MATCHED THEN DELETE',
	'COPY items TO ''/dev/null''',
	'TRUNCATE items CASCADE',
	'SELECT FROM items WHERE id = 1 FOR UPDATE']) v;
-- reading goes on
SELECT id, tenant_id, note FROM items ORDER BY 1;
SELECT id FROM parts ORDER BY 1;
\set VERBOSITY terse
COPY items FROM STDIN;
20	fb	\N
21	fa	\N
\.
\set VERBOSITY default
RESET ROLE;
-- whoever it is
SELECT attempt('DELETE FROM items WHERE id = 2');
\set VERBOSITY sqlstate
DELETE FROM items WHERE id = 2;
\set VERBOSITY default
-- a trigger that changes the tenant on the way does not get round it
CREATE FUNCTION smuggle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.tenant_id := 'fa'; RETURN NEW; END $$;
CREATE TRIGGER zzzz BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION smuggle();
SELECT attempt('INSERT INTO items VALUES (12, ''fb'')');
DROP TRIGGER zzzz ON items;

-- again, and back
SET client_min_messages = notice;
SELECT tenantmig.reactivate_tenant('fa');
SELECT tenantmig.reactivate_tenant('fa');
SET client_min_messages = error;
SELECT status, status_reason FROM tenantmig.tenants WHERE tenant = 'fa';
SELECT attempt('UPDATE items SET note = ''y'' WHERE id = 1');

-- in one transaction, and with savepoints
BEGIN;
UPDATE items SET note = 'y' WHERE id = 1;
SELECT tenantmig.suspend_tenant('fa');
SELECT attempt('UPDATE items SET note = ''y'' WHERE id = 1');
SELECT attempt('UPDATE items SET note = ''y'' WHERE id = 3');
SAVEPOINT s;
SELECT tenantmig.reactivate_tenant('fa');
SELECT attempt('UPDATE items SET note = ''y'' WHERE id = 1');
ROLLBACK TO s;
SELECT attempt('UPDATE items SET note = ''y'' WHERE id = 1');
ROLLBACK;
SELECT attempt('UPDATE items SET note = ''y'' WHERE id = 1');
-- many tenants in one transaction
BEGIN;
INSERT INTO items SELECT 1000 + g, 'many' || g FROM generate_series(1, 100) g;
SELECT tenantmig.create_tenant('many99'), tenantmig.suspend_tenant('many99');
SELECT attempt('UPDATE items SET note = ''z'' WHERE id BETWEEN 1001 AND 1100');
SELECT attempt('UPDATE items SET note = ''z'' WHERE id BETWEEN 1001 AND 1098');
SELECT count(*) < 40 AS few_locks FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND mode = 'RowExclusiveLock';
ROLLBACK;
-- a transaction that keeps its snapshot
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM items;
INSERT INTO items VALUES (30, 'fb');
SELECT tenantmig.suspend_tenant('fb');
SELECT attempt('INSERT INTO items VALUES (31, ''fb'')');
ROLLBACK;

-- what is not there, or not one's own
SELECT v AS statement, attempt(v) FROM unnest(ARRAY[
	'SELECT tenantmig.suspend_tenant(''nobody'')',
	'SELECT tenantmig.suspend_tenant('''')',
	'SELECT tenantmig.suspend_tenant(NULL)',
	'SELECT tenantmig.reactivate_tenant(''nobody'')',
	'SELECT tenantmig.reactivate_tenant(NULL)']) v;
SET ROLE regress_tm_writer;
SELECT attempt('SELECT tenantmig.suspend_tenant(''fa'')');
SELECT attempt('SELECT tenantmig.reactivate_tenant(''fa'')');
RESET ROLE;
UPDATE tenantmig.tenant SET status = 'moving' WHERE tenant = 'fb';
SELECT attempt('SELECT tenantmig.suspend_tenant(''fb'')');
UPDATE tenantmig.tenant SET status = 'active' WHERE tenant = 'fb';

--
-- Whoever enters a tenant of others cannot stop it on their tables
--
SET ROLE regress_tm_squatter;
SELECT tenantmig.create_tenant('fc');
SET client_min_messages = notice;
SELECT tenantmig.suspend_tenant('fc');
SET client_min_messages = error;
RESET ROLE;
SELECT attempt('INSERT INTO items VALUES (40, ''fc'')');
-- a superuser takes the suspension over
SELECT tenantmig.suspend_tenant('fc', 'taken over');
SELECT status_reason FROM tenantmig.tenants WHERE tenant = 'fc';
SELECT attempt('INSERT INTO items VALUES (41, ''fc'')');
-- and one of a role that is gone holds
UPDATE tenantmig.tenant SET status_by = 'regress_tm_gone' WHERE tenant = 'fc';
SELECT tenantmig.reactivate_tenant('fc');
SELECT tenantmig.suspend_tenant('fc');
SELECT attempt('INSERT INTO items VALUES (41, ''fc'')');
SET ROLE regress_tm_owner;
SELECT tenantmig.create_tenant('fd');
SET client_min_messages = notice;
SELECT tenantmig.suspend_tenant('fd');
SET client_min_messages = error;
SELECT attempt('INSERT INTO items VALUES (42, ''fd'')');
SELECT tenantmig.unfence_tenants('parts') AS job_parts \gset
SELECT tenantmig.reactivate_tenant('fd');
SET client_min_messages = notice;
SELECT tenantmig.suspend_tenant('fd');
SET client_min_messages = error;
RESET ROLE;

--
-- Away again, and the way back
--
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT attempt('INSERT INTO items VALUES (43, ''fc'')');
SELECT * FROM tm_test.changes('items') c WHERE c !~ ' rows, digest ';
SELECT tenantmig.fence_tenants('items') > :job AS another_job;
ALTER TABLE items ENABLE ALWAYS TRIGGER tenantmig_fence;
SELECT tm_test.keep('items');
SELECT tenantmig.unfence_tenants('items') AS job \gset
SELECT tenantmig.unfence_tenants('items') = :job AS same_job;
SELECT attempt('INSERT INTO items VALUES (41, ''fc'')'), attempt('DELETE FROM items WHERE id = 41');
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('items');
-- one that was switched off does not hold, and is mended
ALTER TABLE items DISABLE TRIGGER ALL;
SELECT attempt('INSERT INTO items VALUES (41, ''fc'')'), attempt('DELETE FROM items WHERE id = 41');
SELECT tenantmig.fence_tenants('items') AS job \gset
SELECT statement, inverse FROM tenantmig.job_step WHERE job = :job ORDER BY position;
SELECT attempt('INSERT INTO items VALUES (41, ''fc'')');
-- the column gets another name: nothing is written until somebody looks
ALTER TABLE items RENAME tenant_id TO tenant;
SELECT attempt('INSERT INTO items VALUES (41, ''fb'')');
SELECT tenantmig.fence_tenants('items', 'tenant') > 0 AS mended;
SELECT attempt('INSERT INTO items VALUES (41, ''fb'')');
SELECT attempt('INSERT INTO items VALUES (42, ''fc'')');

--
-- Partitions and children, and those that come later
--
CREATE TABLE events (day int, tenant_id text) PARTITION BY RANGE (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (10);
CREATE TABLE events_2 (tenant_id text, day int);
ALTER TABLE events ATTACH PARTITION events_2 FOR VALUES FROM (10) TO (20);
INSERT INTO events SELECT d, t FROM generate_series(1, 19) d, (VALUES ('fb'), ('fc')) v (t);
-- one of them has a fence already
SELECT tenantmig.fence_tenants('events_2') > 0 AS fenced;
SELECT tm_test.keep('events');
SELECT tenantmig.fence_tenants('events') AS job \gset
CREATE TABLE events_3 PARTITION OF events FOR VALUES FROM (20) TO (30);
SELECT v AS statement, attempt(v) FROM unnest(ARRAY[
	'INSERT INTO events VALUES (5, ''fc'')', 'INSERT INTO events VALUES (15, ''fc'')', 'INSERT INTO events VALUES (25, ''fc'')',
	'INSERT INTO events_2 VALUES (''fc'', 15)', 'INSERT INTO events_3 VALUES (25, ''fc'')',
	'UPDATE events SET day = day + 10 WHERE day = 5', 'UPDATE events SET day = day + 10 WHERE day = 5 AND tenant_id = ''fb''',
	'DELETE FROM events_1', 'TRUNCATE events', 'TRUNCATE events_1', 'TRUNCATE events_3']) v;
SELECT tenantmig.fence_tenants('events') > :job AS another_job;
SELECT attempt('TRUNCATE events_3');
DROP TABLE events_3;
UPDATE events SET day = 5 WHERE day = 15 AND tenant_id = 'fb' AND ctid = (SELECT max(ctid) FROM events WHERE day = 15 AND tenant_id = 'fb');
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('events');
-- a table that brings a fence of its own loses it first
SELECT tenantmig.fence_tenants('events') AS job \gset
CREATE TABLE events_4 (day int, tenant_id text);
SELECT tenantmig.fence_tenants('events_4') AS job_4 \gset
SELECT attempt('ALTER TABLE events ATTACH PARTITION events_4 FOR VALUES FROM (40) TO (50)');
SELECT tenantmig.unfence_tenants('events_4') > 0 AS unfenced;
ALTER TABLE events ATTACH PARTITION events_4 FOR VALUES FROM (40) TO (50);
SELECT tenantmig.fence_tenants('events') > :job AS another_job;
SELECT split_part(attempt('INSERT INTO events_4 VALUES (45, ''fc'')'), E'\n', 1), split_part(attempt('TRUNCATE events_4'), E'\n', 1);
-- the undo of that job leaves what came with the new parent
SELECT tenantmig.undo(:job_4) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT split_part(attempt('INSERT INTO events_4 VALUES (45, ''fc'')'), E'\n', 1);
-- one that was switched off on a partition alone
ALTER TABLE events_1 DISABLE TRIGGER tenantmig_fence;
SELECT tm_test.keep('events');
SELECT tenantmig.fence_tenants('events') AS job \gset
SELECT statement, inverse FROM tenantmig.job_step WHERE job = :job ORDER BY position;
SELECT split_part(attempt('INSERT INTO events VALUES (5, ''fc'')'), E'\n', 1);
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT * FROM tm_test.changes('events') c;

CREATE TABLE base (id int, tenant_id text);
CREATE TABLE child () INHERITS (base);
SELECT tenantmig.fence_tenants('base') AS job \gset
SELECT attempt('INSERT INTO child VALUES (1, ''fc'')'), attempt('INSERT INTO child VALUES (1, ''fb'')');

--
-- Column types: the registry's text in whatever way a column has it
--
CREATE TYPE color AS ENUM ('fa', 'fb');
CREATE DOMAIN code AS varchar(4);
CREATE DOMAIN ci AS citext;
CREATE TABLE kinds (type text, suspended text, written text, other text);
INSERT INTO kinds VALUES
	('text', 'fa', 'fa', 'FA'), ('varchar(9)', 'fa', 'fa', 'FA'), ('char(6)', 'fa', 'fa', 'FA'), ('code', 'fa', 'fa', 'FA'),
	('citext', 'fa', 'Fa', 'fb'), ('ci', 'FA', 'fA', 'fb'), ('color', 'fa', 'fa', 'fb'),
	('uuid', '00000000-0000-0000-0000-00000000000A', '{0000000000000000-000000000000000a}', '00000000-0000-0000-0000-00000000000b'),
	('int2', '7', '7', '8'), ('int4', '7', '007', '8'), ('int8', '7', ' 7 ', '77');
CREATE FUNCTION try_type(type text, suspended text, written text, other text, OUT refused text, OUT passed text)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TABLE typed (tenant_id %s)', type);
	PERFORM tenantmig.fence_tenants('typed');
	PERFORM tenantmig.suspend_tenant(suspended);
	refused := tm_test.sqlstate(format('INSERT INTO typed VALUES (%L)', written));
	passed := tm_test.sqlstate(format('INSERT INTO typed VALUES (%L), (NULL)', other));
	PERFORM tenantmig.reactivate_tenant(suspended);
	DROP TABLE typed;
END $$;
SELECT k.type, t.* FROM kinds k, try_type(k.type, k.suspended, k.written, k.other) t;
CREATE TABLE odd (j json, n numeric, d date, tenant_id text);
SELECT c AS column, attempt(format('SELECT tenantmig.fence_tenants(''odd'', %L)', c)) FROM unnest('{j,n,d,missing}'::text[]) c;

--
-- Bad arguments, and triggers that others made
--
CREATE VIEW odd_view AS SELECT * FROM odd;
SELECT v AS statement, attempt(v) FROM unnest(ARRAY[
	'SELECT tenantmig.fence_tenants(NULL)', 'SELECT tenantmig.fence_tenants(''odd'', NULL)', 'SELECT tenantmig.fence_tenants(1::oid)',
	'SELECT tenantmig.fence_tenants(''odd_view'')', 'SELECT tenantmig.fence_tenants(''pg_class'')', 'SELECT tenantmig.unfence_tenants(NULL)',
	'SELECT tenantmig.unfence_tenants(''odd_view'')',
	'SELECT tenantmig.fence_tenant()']) v;
SET ROLE regress_tm_writer;
SELECT attempt('SELECT tenantmig.fence_tenants(''items'', ''tenant'')'), attempt('SELECT tenantmig.unfence_tenants(''items'')');
RESET ROLE;
CREATE TRIGGER tenantmig_fence AFTER INSERT ON odd FOR EACH ROW EXECUTE FUNCTION smuggle();
SELECT attempt('SELECT tenantmig.fence_tenants(''odd'')');
DROP TRIGGER tenantmig_fence ON odd;
CREATE TRIGGER wrong BEFORE INSERT ON odd FOR EACH ROW EXECUTE FUNCTION tenantmig.fence_tenant('tenant_id');
SELECT attempt('INSERT INTO odd (tenant_id) VALUES (''fb'')');
DROP TRIGGER wrong ON odd;
CREATE TRIGGER wrong AFTER INSERT ON odd FOR EACH ROW EXECUTE FUNCTION tenantmig.fence_tenant();
SELECT attempt('INSERT INTO odd (tenant_id) VALUES (''fb'')');
DROP TRIGGER wrong ON odd;
CREATE TRIGGER wrong AFTER INSERT ON odd FOR EACH ROW EXECUTE FUNCTION tenantmig.fence_tenant('n');
SELECT attempt('INSERT INTO odd (tenant_id) VALUES (''fb'')');
DROP TRIGGER wrong ON odd;
-- names
CREATE TABLE "o""dd; %R" (id int, "te'n\ant %s" text);
SELECT tenantmig.fence_tenants('"o""dd; %R"', 'te''n\ant %s') AS job \gset
SELECT attempt('INSERT INTO "o""dd; %R" VALUES (1, ''fc'')'), attempt('INSERT INTO "o""dd; %R" VALUES (1, ''fb'')');
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT attempt('INSERT INTO "o""dd; %R" VALUES (1, ''fc'')');
-- nothing planted in front is called
CREATE SCHEMA regress_tm_trap;
CREATE FUNCTION regress_tm_trap.trap(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trapped''; END';
CREATE OPERATOR regress_tm_trap.= (FUNCTION = regress_tm_trap.trap, LEFTARG = text, RIGHTARG = text);
SET search_path = regress_tm_trap, pg_catalog;
SELECT tenantmig.suspend_tenant('fa');
SELECT split_part(regress_tm_fence.attempt('DELETE FROM regress_tm_fence.events WHERE tenant_id OPERATOR(pg_catalog.~) ''fa'''), E'\n', 1);
SELECT tenantmig.reactivate_tenant('fa');
RESET search_path;

DROP SCHEMA regress_tm_trap, regress_tm_fence CASCADE;
DROP EXTENSION citext;
DELETE FROM tenantmig.tenant WHERE tenant IN ('fa', 'fb', 'fc', 'fd', 'FA', '7', '00000000-0000-0000-0000-00000000000A');
DROP ROLE regress_tm_owner, regress_tm_writer, regress_tm_squatter;
