--
-- Every shape of table, column and name, forth and back
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
SELECT setval('tenantmig.job_id_seq', 700000) \g /dev/null
\set ECHO all
SET client_encoding = utf8;
CREATE SCHEMA tm_shapes;
SET search_path = tm_shapes, public;

-- Waits until these jobs have succeeded
CREATE PROCEDURE settle(jobs bigint[]) LANGUAGE plpgsql AS $$
DECLARE
	job bigint;
BEGIN
	FOREACH job IN ARRAY jobs LOOP
		CALL tenantmig.wait(job, '2 minutes');
	END LOOP;
END $$;

-- Forth: column, backfill, NOT NULL, index; what came out; and back, with what is different then
CREATE TABLE outcome (shape text, what text, result text);
CREATE PROCEDURE forth_and_back(relation regclass, column_name name, source text,
	value text DEFAULT 'acme', column_type regtype DEFAULT 'text', options jsonb DEFAULT '{}')
LANGUAGE plpgsql AS $fn$
DECLARE
	added bigint;
	filled bigint;
	required bigint;
	indexed bigint;
	undone bigint;
	before text[];
	rows_before record;
	rows_after record;
	n bigint;
	untouched text;
BEGIN
	before := ARRAY(SELECT tm_test.catalog(relation));
	SELECT * INTO rows_before FROM tm_test.digest(relation, column_name);
	added := tenantmig.add_tenant_column(relation, column_name, column_type);
	filled := tenantmig.backfill(relation, column_name,
		value => CASE WHEN source = 'value' THEN value END,
		expression => CASE WHEN source = 'expression' THEN value END,
		via => CASE WHEN source = 'via' THEN value END, options => '{"method": "ranges"}' || options);
	required := tenantmig.set_not_null(relation, column_name);
	indexed := tenantmig.create_index(relation, ARRAY[column_name]);
	COMMIT;
	CALL tm_shapes.settle(ARRAY[added, filled, required, indexed]);

	EXECUTE format('SELECT count(*) FROM %s WHERE %I IS NULL', relation, column_name) INTO n;
	SELECT * INTO rows_after FROM tm_test.digest(relation, column_name);
	INSERT INTO tm_shapes.outcome SELECT relation::text, 'forth', format('%s rows, %s without a tenant, others %s, not null %s, valid index %s, journal %s',
		rows_after.rows, n, CASE WHEN rows_before = rows_after THEN 'untouched' ELSE 'CHANGED' END,
		(SELECT bool_and(attnotnull) FROM pg_attribute WHERE attrelid = relation AND attname = column_name),
		(SELECT bool_and(indisvalid) FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0] WHERE indrelid = relation AND attname = column_name),
		(SELECT summary ->> 'residue' FROM tenantmig.job WHERE id = filled));
	undone := tenantmig.undo(indexed);
	COMMIT;
	CALL tm_shapes.settle(ARRAY[undone]);
	undone := tenantmig.undo(required);
	COMMIT;
	CALL tm_shapes.settle(ARRAY[undone]);
	undone := tenantmig.undo(filled);
	COMMIT;
	CALL tm_shapes.settle(ARRAY[undone]);
	EXECUTE format('SELECT count(*) FROM %s WHERE %I IS NOT NULL', relation, column_name) INTO n;
	undone := tenantmig.undo(added);
	COMMIT;
	CALL tm_shapes.settle(ARRAY[undone]);
	SELECT * INTO rows_after FROM tm_test.digest(relation, column_name);
	INSERT INTO tm_shapes.outcome SELECT relation::text, 'back', format('%s with a tenant, rows %s, catalog %s', n,
		CASE WHEN rows_before = rows_after THEN 'as before' ELSE 'CHANGED' END,
		CASE WHEN before = ARRAY(SELECT tm_test.catalog(relation)) THEN 'as before' ELSE 'CHANGED' END);
	COMMIT;
END $fn$;

--
-- Sizes and storage
--
CREATE TABLE empty (id int PRIMARY KEY);
CREATE TABLE no_columns ();
INSERT INTO no_columns SELECT FROM generate_series(1, 10);
CREATE TABLE no_key (a int, b text);
INSERT INTO no_key SELECT i / 3, 'dup' FROM generate_series(1, 500) i;
CREATE TABLE dropped_columns (gone int, id int, also text, kept text);
INSERT INTO dropped_columns SELECT i, i, 'x', 'y' FROM generate_series(1, 100) i;
ALTER TABLE dropped_columns DROP COLUMN gone, DROP COLUMN also;
CREATE TABLE all_dropped (a int, b int);
INSERT INTO all_dropped VALUES (1, 2), (3, 4);
ALTER TABLE all_dropped DROP COLUMN a, DROP COLUMN b;
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
INSERT INTO unlogged SELECT generate_series(1, 1000);
CREATE TABLE toasted (id int PRIMARY KEY, big text, external text);
ALTER TABLE toasted ALTER COLUMN external SET STORAGE EXTERNAL;
INSERT INTO toasted SELECT i, repeat(md5(i::text), 100), repeat(md5(i::text), 300) FROM generate_series(1, 100) i;
CREATE TABLE wide_rows (id int PRIMARY KEY, filler char(2000) DEFAULT 'x');
ALTER TABLE wide_rows ALTER COLUMN filler SET STORAGE PLAIN;
INSERT INTO wide_rows SELECT generate_series(1, 200);
CREATE TABLE packed (id int PRIMARY KEY) WITH (fillfactor = 100, autovacuum_enabled = off);
INSERT INTO packed SELECT generate_series(1, 20000);
DELETE FROM packed WHERE id % 3 = 0;
CREATE TABLE generated (id int PRIMARY KEY, a text, b text GENERATED ALWAYS AS (upper(a)) STORED, c int GENERATED ALWAYS AS IDENTITY);
INSERT INTO generated SELECT i, 'x' || i FROM generate_series(1, 100) i;
CREATE TABLE excluded (id int, during int4range, EXCLUDE USING gist (during WITH &&), CHECK (id > 0), UNIQUE (id) DEFERRABLE INITIALLY DEFERRED);
INSERT INTO excluded SELECT i, int4range(i, i + 1) FROM generate_series(1, 100) i;
CREATE TABLE typed_parts (p point, j json, x xml, n numeric[], b bytea);
INSERT INTO typed_parts SELECT point(i, i), '{"a": 1}', NULL, ARRAY[i], '\x00' FROM generate_series(1, 50) i;
DO $$ BEGIN EXECUTE 'CREATE TABLE many_columns (' || (SELECT string_agg('c' || i || ' smallint', ', ') FROM generate_series(1, 1590) i) || ')'; END $$;
INSERT INTO many_columns (c1) SELECT generate_series(1, 10);
CREATE TYPE composite AS (a int, b text);
CREATE TABLE of_type OF composite;
INSERT INTO of_type VALUES (1, 'x');

CALL forth_and_back('empty', 'tenant_id', 'value');
CALL forth_and_back('no_columns', 'tenant_id', 'value');
CALL forth_and_back('no_key', 'tenant_id', 'value');
CALL forth_and_back('dropped_columns', 'tenant_id', 'value');
CALL forth_and_back('all_dropped', 'tenant_id', 'value');
CALL forth_and_back('unlogged', 'tenant_id', 'value');
CALL forth_and_back('toasted', 'tenant_id', 'expression', $$'t' || id % 7$$);
CALL forth_and_back('wide_rows', 'tenant_id', 'value');
CALL forth_and_back('packed', 'tenant_id', 'value');
CALL forth_and_back('generated', 'tenant_id', 'expression', 'lower(a)');
CALL forth_and_back('excluded', 'tenant_id', 'value');
CALL forth_and_back('typed_parts', 'tenant_id', 'value');
CALL forth_and_back('many_columns', 'tenant_id', 'value');
SELECT * FROM outcome ORDER BY shape COLLATE "C", what DESC;
TRUNCATE outcome;
-- a table of a type gets its columns from there
SELECT tm_test.try($$SELECT tenantmig.add_tenant_column('of_type')$$);

--
-- Types of the tenant column
--
CREATE DOMAIN tenant_name AS varchar(20) NOT NULL DEFAULT 'none' CHECK (VALUE ~ '^[a-z]+$');
CREATE DOMAIN tenant_code AS text CHECK (VALUE ~ '^[a-z]+$');
CREATE DOMAIN tenant_code_code AS tenant_code CHECK (length(VALUE) < 9);
CREATE TYPE plan AS ENUM ('free', 'paid');
CREATE TABLE kinds (id int PRIMARY KEY);
INSERT INTO kinds SELECT generate_series(1, 300);
CALL forth_and_back('kinds', 'tenant_id', 'value', '00000000-0000-0000-0000-000000000001', 'uuid');
CALL forth_and_back('kinds', 'tenant_id', 'value', ' 42 ', 'int');
CALL forth_and_back('kinds', 'tenant_id', 'expression', '7 + id % 2', 'bigint');
CALL forth_and_back('empty', 'tenant_id', 'value', 'acme', 'tenant_code');
CALL forth_and_back('empty', 'tenant_id', 'value', 'acme', 'tenant_code_code');
CALL forth_and_back('kinds', 'tenant_id', 'value', 'paid', 'plan');
CALL forth_and_back('kinds', 'tenant_id', 'expression', $$CASE WHEN id % 2 = 0 THEN 'free'::plan ELSE 'paid' END$$, 'plan');
CALL forth_and_back('kinds', 'tenant_id', 'value', 'acme', 'varchar');
CALL forth_and_back('kinds', 'tenant_id', 'value', 'acme', 'name');
CALL forth_and_back('kinds', 'tenant_id', 'value', '1.50', 'numeric');
CALL forth_and_back('kinds', 'tenant_id', 'value', '2026-01-01', 'date');
SELECT shape, what, result, count(*) FROM outcome GROUP BY 1, 2, 3 ORDER BY 1, 2 DESC;
TRUNCATE outcome;
-- columns of such domains that are there already, with checks and even without NULL
CREATE TABLE domained (id int PRIMARY KEY, a tenant_code, b tenant_code_code, c tenant_name);
INSERT INTO domained SELECT generate_series(1, 300);
SELECT tenantmig.backfill('domained', 'a', value => 'acme', options => '{"method": "ranges"}') AS a, tenantmig.backfill('domained', 'b', expression => $$'b'::text$$) AS b,
       tenantmig.backfill('domained', 'c', value => 'acme', unset => 'none', options => '{"method": "ranges"}') AS c \gset
CALL settle(ARRAY[:a, :b, :c]);
SELECT a, b, c, count(*) FROM domained GROUP BY 1, 2, 3;
SELECT v, c, tm_test.try(format($$SELECT tenantmig.backfill('domained', %L, value => %L, unset => 'acme', options => '{"method": "ranges"}')$$, c, v))
FROM (VALUES ('a', 'ACME'), ('b', 'abcdefghi'), ('c', 'abcdefghijklmnopqrstuvwxyz')) t(c, v);
-- an expression's value is checked when it is stored
SELECT tenantmig.backfill('domained', 'b', expression => $$'UPPER'::text$$, unset => 'b') AS job \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT error FROM tenantmig.jobs WHERE id = :job;

--
-- Partitions, inheritance
--
CREATE TABLE parted (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM ('2026-02-01') TO ('2026-03-01') PARTITION BY HASH (id);
CREATE TABLE parted_2_1 PARTITION OF parted_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parted_2_2 (gone text, at date NOT NULL, id int NOT NULL);
ALTER TABLE parted_2_2 DROP COLUMN gone;
ALTER TABLE parted_2 ATTACH PARTITION parted_2_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE parted_rest PARTITION OF parted DEFAULT;
INSERT INTO parted SELECT i, date '2025-12-25' + i % 80 FROM generate_series(1, 3000) i;
CREATE TABLE childless (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE base (id int);
CREATE TABLE derived (more text) INHERITS (base);
CREATE TABLE grandchild () INHERITS (derived);
INSERT INTO base SELECT generate_series(1, 100);
INSERT INTO derived SELECT generate_series(101, 200);
INSERT INTO grandchild SELECT generate_series(201, 300);
CALL forth_and_back('parted', 'tenant_id', 'expression', $$to_char(at, 'MON') || '-' || parted.id % 5$$);
CALL forth_and_back('childless', 'tenant_id', 'value');
CALL forth_and_back('base', 'tenant_id', 'value');
SELECT * FROM outcome ORDER BY shape COLLATE "C", what DESC;
TRUNCATE outcome;
-- a partition by itself, when the table above it has the column
SELECT tenantmig.add_tenant_column('parted') AS added \gset
SELECT tenantmig.backfill('parted_1', value => 'january', options => '{"method": "ranges"}') AS job \gset
CALL tenantmig.wait(:job);
SELECT tableoid::regclass::text, tenant_id, count(*) FROM parted GROUP BY 1, 2 ORDER BY 1;
-- a tenant column that rows are placed by cannot be filled
CREATE TABLE by_tenant (id int, tenant_id text) PARTITION BY LIST (tenant_id);
CREATE TABLE by_tenant_rest PARTITION OF by_tenant DEFAULT;
SELECT tm_test.try($$SELECT tenantmig.backfill('by_tenant', value => 'a', options => '{"method": "ranges"}')$$);
-- nor one with a foreign table below it
CREATE EXTENSION postgres_fdw;
CREATE SERVER regress_tm_server FOREIGN DATA WRAPPER postgres_fdw;
CREATE FOREIGN TABLE far PARTITION OF by_tenant FOR VALUES IN ('far') SERVER regress_tm_server;
SELECT tm_test.try($$SELECT tenantmig.set_not_null('by_tenant')$$);
DROP EXTENSION postgres_fdw CASCADE;

--
-- Foreign keys: composite, quoted, to itself, a chain, partitioned on either side
--
CREATE TABLE org (a int, "B b" text, tenant_id text, PRIMARY KEY (a, "B b"));
INSERT INTO org SELECT i, 'x' || i % 3, 't' || i FROM generate_series(1, 20) i;
CREATE TABLE member (id int PRIMARY KEY, ob text, oa int, FOREIGN KEY (oa, ob) REFERENCES org (a, "B b"));
INSERT INTO member SELECT i, 'x' || (i % 20 + 1) % 3, i % 20 + 1 FROM generate_series(1, 1000) i;
CALL forth_and_back('member', 'tenant_id', 'via', 'member_oa_ob_fkey');
CALL forth_and_back('member', 'tenant_id', 'via', 'ob');
CREATE TABLE uk (id int PRIMARY KEY, code varchar(10) UNIQUE, tenant_id text);
INSERT INTO uk SELECT i, 'c' || i, 't' || i % 2 FROM generate_series(1, 10) i;
CREATE TABLE by_code (id int PRIMARY KEY, code text REFERENCES uk (code));
INSERT INTO by_code SELECT i, 'c' || i % 10 + 1 FROM generate_series(1, 100) i;
CALL forth_and_back('by_code', 'tenant_id', 'via', 'code');
CREATE TABLE part_child (id int, u int REFERENCES uk) PARTITION BY LIST (id);
CREATE TABLE part_child_1 PARTITION OF part_child FOR VALUES IN (1);
CREATE TABLE part_child_2 PARTITION OF part_child DEFAULT;
INSERT INTO part_child SELECT i % 3, i % 10 + 1 FROM generate_series(1, 300) i;
CALL forth_and_back('part_child', 'tenant_id', 'via', 'u');
SELECT shape, what, result, count(*) FROM outcome GROUP BY 1, 2, 3 ORDER BY shape COLLATE "C", what DESC;
TRUNCATE outcome;
-- a tree in one table: from the root, level by level, however deep and in whatever order on disk
CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree, tenant_id text);
INSERT INTO tree SELECT i, nullif(i / 2, 0) FROM generate_series(1, 2000) i;
INSERT INTO tree SELECT 10000 - i, CASE WHEN i = 1 THEN 1 ELSE 10001 - i END FROM generate_series(1, 30) i;
UPDATE tree SET tenant_id = 'root' WHERE parent IS NULL;
SELECT tm_test.keep('tree');
SELECT tenantmig.backfill('tree', via => 'parent') AS job \gset
CALL tenantmig.wait(:job);
SELECT tm_test.changes('tree');
SELECT tenant_id, count(*) FROM tree GROUP BY 1;
-- details -> executions -> cases -> suites -> users, all recorded at once
CREATE TABLE users (id int PRIMARY KEY);
CREATE TABLE suites (id int PRIMARY KEY, user_id int REFERENCES users);
CREATE TABLE cases (id int PRIMARY KEY, suite_id int REFERENCES suites);
CREATE TABLE executions (id int PRIMARY KEY, case_id int REFERENCES cases);
CREATE TABLE details (id int PRIMARY KEY, execution_id int REFERENCES executions);
INSERT INTO users SELECT generate_series(1, 10);
INSERT INTO suites SELECT i, i % 10 + 1 FROM generate_series(1, 40) i;
INSERT INTO cases SELECT i, i % 40 + 1 FROM generate_series(1, 200) i;
INSERT INTO executions SELECT i, i % 200 + 1 FROM generate_series(1, 1000) i;
INSERT INTO details SELECT i, i % 1000 + 1 FROM generate_series(1, 5000) i;
SELECT tm_test.keep(t) FROM unnest('{users,suites,cases,executions,details}'::regclass[]) t;
BEGIN;
SELECT count(tenantmig.add_tenant_column(t)) FROM unnest('{users,suites,cases,executions,details}'::regclass[]) t;
SELECT tenantmig.backfill('users', expression => $$CASE WHEN id <= 3 THEN 'acme' ELSE 'default' END$$) AS u \gset
SELECT tenantmig.backfill('suites', via => 'user_id') AS s \gset
SELECT tenantmig.backfill('cases', via => 'suite_id') AS c \gset
SELECT tenantmig.backfill('executions', via => 'case_id') AS e \gset
SELECT tenantmig.backfill('details', via => 'execution_id') AS d \gset
COMMIT;
CALL tenantmig.wait(:d);
SELECT t, c FROM unnest('{users,suites,cases,executions,details}'::regclass[]) t, tm_test.changes(t) c ORDER BY t::text;
SELECT count(*) FILTER (WHERE d.tenant_id <> CASE WHEN u.id <= 3 THEN 'acme' ELSE 'default' END OR d.tenant_id IS NULL) AS wrong, count(*)
FROM details d JOIN executions e ON e.id = execution_id JOIN cases c ON c.id = case_id JOIN suites s ON s.id = suite_id JOIN users u ON u.id = user_id;
SELECT tenantmig.undo(:d) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT count(*) FROM details WHERE tenant_id IS NOT NULL;

--
-- FORCE ROW LEVEL SECURITY: all rows, whatever a policy hides from the owner
--
CREATE ROLE regress_tm_owner;
GRANT USAGE, CREATE ON SCHEMA tm_shapes TO regress_tm_owner;
SET ROLE regress_tm_owner;
CREATE TABLE forced (id int PRIMARY KEY, tenant_id text);
INSERT INTO forced SELECT generate_series(1, 100);
CREATE POLICY none ON forced USING (id <= 10);
ALTER TABLE forced ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SELECT count(*) FROM forced;
SELECT tenantmig.backfill('forced', value => 'acme', options => '{"method": "ranges"}') AS job \gset
CALL tenantmig.wait(:job);
SELECT rows_total, rows_done FROM tenantmig.jobs WHERE id = :job;
RESET ROLE;
SELECT tenant_id, count(*) FROM forced GROUP BY 1;
SET ROLE regress_tm_owner;
SELECT tenantmig.set_not_null('forced') AS job \gset
CALL tenantmig.wait(:job);
-- a parent of the same owner, with the same; and one of another owner whose policy hides rows: refused, not skipped
CREATE TABLE forced_child (id int PRIMARY KEY, f int REFERENCES forced, tenant_id text);
INSERT INTO forced_child SELECT i, i FROM generate_series(1, 100) i;
SELECT tenantmig.backfill('forced_child', via => 'f') AS job \gset
CALL tenantmig.wait(:job);
SELECT tenant_id, count(*) FROM forced_child GROUP BY 1;
RESET ROLE;
CREATE TABLE hidden (id int PRIMARY KEY, tenant_id text);
INSERT INTO hidden SELECT i, 't' FROM generate_series(1, 100) i;
ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
GRANT SELECT, REFERENCES ON hidden TO regress_tm_owner;
SET ROLE regress_tm_owner;
CREATE TABLE hidden_child (id int PRIMARY KEY, h int REFERENCES hidden, tenant_id text);
SELECT tm_test.try($$SELECT tenantmig.backfill('hidden_child', via => 'h')$$);
SELECT tm_test.try($$SELECT tenantmig.backfill('hidden_child', expression => '(SELECT tenant_id FROM hidden WHERE id = h)')$$);
RESET ROLE;
-- a member of the owner, and a superuser, may call; it is the owner's job either way
CREATE ROLE regress_tm_member IN ROLE regress_tm_owner;
GRANT USAGE ON SCHEMA tm_shapes TO regress_tm_member;
SET ROLE regress_tm_member;
SELECT tenantmig.create_index('forced', '{tenant_id}') AS job \gset
CALL tenantmig.wait(:job);
SELECT owner, state FROM tenantmig.jobs WHERE id = :job;
SELECT relowner::regrole FROM pg_class WHERE relname = 'forced_tenant_id_idx';
RESET ROLE;

--
-- Names
--
CREATE TABLE names (n int, name text);
INSERT INTO names VALUES (1, 'x"; DROP TABLE y; --'), (2, '$$'), (3, E'new\nline'), (4, '%I %s %1$L'), (5, repeat('a', 63)),
	(6, repeat('ü', 31) || 'x'), (7, 'UPPER'), (8, 'with.dot'), (9, 'select'), (10, 'user'), (11, ' '), (12, E'tab\tand\\back'''), (13, '"'), (14, '{a,b}'),
	(15, '表'), (16, E'\u0001'), (17, 'tenantmig_parent'), (18, 'ctid_'), (19, 'p'), (20, '$1');
CREATE PROCEDURE named(name text) LANGUAGE plpgsql AS $fn$
DECLARE
	jobs bigint[];
	j bigint;
	relation regclass;
	parent regclass;
	result text;
	n bigint;
BEGIN
	EXECUTE format('CREATE SCHEMA %I', name);
	EXECUTE format('CREATE TABLE %1$I.%2$I (%3$I int PRIMARY KEY, %1$I text)', name, name || '', 'k' || left(name, 20));
	EXECUTE format('CREATE TABLE %1$I.%2$I (id int PRIMARY KEY, %3$I int CONSTRAINT %1$I REFERENCES %1$I.%1$I)', name, 'child', 'f' || left(name, 20));
	EXECUTE format('INSERT INTO %1$I.%1$I SELECT generate_series(1, 100)', name);
	EXECUTE format('INSERT INTO %1$I.child SELECT i, i FROM generate_series(1, 100) i', name);
	SELECT c.oid INTO relation FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace WHERE s.nspname = name::name AND c.relname = name::name;
	SELECT c.oid INTO parent FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace WHERE s.nspname = name::name AND c.relname = 'child';
	-- the tenant, the column and the index have that name too
	PERFORM tenantmig.add_tenant_column(parent, name::name);
	jobs := ARRAY[tenantmig.backfill(relation, name::name, value => name, options => '{"method": "ranges"}'),
		tenantmig.backfill(parent, name::name, via => name),
		tenantmig.set_not_null(parent, name::name),
		tenantmig.create_index(parent, ARRAY[name::name], name => left(name, 20) || '_i'),
		tenantmig.create_index(parent, ARRAY[name::name])];
	COMMIT;
	CALL tm_shapes.settle(jobs);
	EXECUTE format('SELECT count(*) FROM %1$I.child WHERE %1$I = %1$L', name) INTO n;
	result := n || ' rows';
	SELECT result || ', indexes ' || count(*) || ' valid ' || bool_and(indisvalid) INTO result FROM pg_index WHERE indrelid = parent AND NOT indisprimary;
	SELECT result || ', shown ' || bool_and(v.relation IN (format('%I.%I', name, name), format('%I.child', name))) INTO result FROM tenantmig.jobs v WHERE id = ANY (jobs);
	SELECT result || ', reported ' || bool_and(tenantmig.report(id) !~ E'[\u0001\t]') INTO result FROM unnest(jobs) id;
	FOR i IN REVERSE 5 .. 1 LOOP
		j := tenantmig.undo(jobs[i]);
		COMMIT;
		CALL tm_shapes.settle(ARRAY[j]);
	END LOOP;
	EXECUTE format('SELECT count(*) FROM %1$I.child JOIN %1$I.%1$I p ON true WHERE child.%1$I IS NOT NULL OR p.%1$I IS NOT NULL', name) INTO n;
	SELECT result || ', back ' || n || ' indexes ' || count(*) INTO result FROM pg_index WHERE indrelid = parent AND NOT indisprimary;
	INSERT INTO tm_shapes.outcome VALUES (name, 'name', result);
	EXECUTE format('DROP SCHEMA %I CASCADE', name);
	COMMIT;
END $fn$;
SELECT format('CALL tm_shapes.named(%L)', name) FROM names ORDER BY n \gexec
SELECT n, result FROM names LEFT JOIN outcome ON shape = name ORDER BY n;
-- tenants of such names
SELECT count(*) FILTER (WHERE tenantmig.create_tenant('regress ' || name)) FROM names;
SELECT count(*) FROM tenantmig.tenants JOIN names ON tenant = 'regress ' || names.name;
DELETE FROM tenantmig.tenant WHERE tenant LIKE 'regress %';

SELECT * FROM tm_test.leftovers;
DROP OWNED BY regress_tm_owner, regress_tm_member CASCADE;
DROP SCHEMA tm_shapes CASCADE;
DROP ROLE regress_tm_member, regress_tm_owner;
