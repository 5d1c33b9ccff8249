--
-- add_tenant_column: the column, without touching the table's pages, and back
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
SELECT setval('tenantmig.job_id_seq', 300000) \g /dev/null
\set ECHO all
CREATE SCHEMA tm_column;
SET search_path = tm_column, public;

CREATE TABLE orders (id int PRIMARY KEY, note text DEFAULT 'none', amount numeric NOT NULL);
INSERT INTO orders SELECT i, 'note ' || i, i * 1.5 FROM generate_series(1, 1000) i;
SELECT tm_test.keep('orders');
SELECT pg_relation_filenode('orders') AS file, pg_relation_size('orders') AS size \gset

-- without a value: NULL, and no default
SELECT tenantmig.add_tenant_column('orders') AS job \gset
SELECT tm_test.changes('orders');
SELECT count(*) FILTER (WHERE tenant_id IS NULL) AS unset, count(*) FROM orders;
SELECT pg_relation_filenode('orders') = :file AND pg_relation_size('orders') = :size AS not_rewritten;
-- the job has been done when the call returns
SELECT kind, relation, state, phase, attempts, error, next_action,
       started_at <= finished_at AS in_order FROM tenantmig.jobs WHERE id = :job;
SELECT position, kind, relation, state, statement, inverse, lock_mode FROM tenantmig.job_steps WHERE job = :job;
SELECT tenantmig.assert_done(:job);
CALL tenantmig.wait(:job);

-- the same call again is the same job
SELECT tenantmig.add_tenant_column('orders') = :job AS same;
SELECT tenantmig.add_tenant_column('tm_column.orders', 'tenant_id', 'text', NULL) = :job AS same;
-- said with a NOTICE
SELECT setval('tenantmig.job_id_seq', 310000);
SET client_min_messages = notice;
SELECT tenantmig.add_tenant_column('orders', 'shown') AS shown \gset
SELECT tenantmig.add_tenant_column('orders', 'shown') = :shown AS same;
-- a column that somebody has made is kept, whatever is in it
ALTER TABLE orders ADD COLUMN theirs text DEFAULT 'x';
SELECT tenantmig.add_tenant_column('orders', 'theirs') AS kept \gset
SELECT tenantmig.add_tenant_column('orders', 'theirs', value => 'y') AS kept_too \gset
SET client_min_messages = warning;
SELECT DISTINCT theirs FROM orders;
SELECT count(*) AS steps FROM tenantmig.job_steps WHERE job IN (:kept, :kept_too);
-- with another type it is an error
SELECT tm_test.try($$SELECT tenantmig.add_tenant_column('orders', 'theirs', 'uuid')$$);
-- undoing a call that has done nothing drops nothing
SELECT tm_test.try(format('SELECT tenantmig.undo(%s)', :kept));
SELECT tenantmig.undo(:kept_too) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenantmig.undo(:kept) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT DISTINCT theirs FROM orders;
SELECT tenantmig.undo(:shown) AS undo \gset
CALL tenantmig.wait(:undo);
ALTER TABLE orders DROP COLUMN theirs;

-- the way back
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('orders');
SELECT kind, state FROM tenantmig.jobs WHERE id = :undo;
SELECT state, phase = 'undone by job ' || :undo AS said, next_action, undone_by = :undo AS by_it
FROM tenantmig.jobs WHERE id = :job;
SELECT state FROM tenantmig.job_steps WHERE job = :job;
-- and forth again: a new job
SELECT tenantmig.add_tenant_column('orders') <> :job AS another;

-- with a value: old rows have it, new ones get it, the pages are not touched
SELECT tm_test.keep('orders');
SELECT tenantmig.add_tenant_column('orders', 'region', 'text', 'eu''s "best"') AS job \gset
SELECT tm_test.changes('orders', 'region');
INSERT INTO orders VALUES (1001, 'new', 1);
SELECT region, count(*) FROM orders GROUP BY region;
SELECT pg_relation_filenode('orders') = :file AS not_rewritten;
DELETE FROM orders WHERE id = 1001;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('orders');

-- the call again, after the column was dropped and added without its default
CREATE TABLE again (id int);
INSERT INTO again VALUES (1), (2);
SELECT tenantmig.add_tenant_column('again', value => 'a') AS job \gset
SELECT tenantmig.add_tenant_column('again', value => 'a') = :job AS same;
ALTER TABLE again ALTER tenant_id SET DEFAULT current_setting('app.tenant', true);
SELECT tenantmig.add_tenant_column('again', value => 'a') = :job AS same;
ALTER TABLE again DROP tenant_id, ADD tenant_id text;
SELECT tenantmig.add_tenant_column('again', value => 'a') = :job AS same;
ALTER TABLE again ALTER tenant_id SET DEFAULT 'b';
SELECT tenantmig.add_tenant_column('again', value => 'a') = :job AS same;
DROP TABLE again;

-- values that the application has written since go with nobody's column
CREATE TABLE written (id int);
INSERT INTO written VALUES (1), (2), (3);
SELECT tenantmig.add_tenant_column('written', value => 'a') AS job \gset
SELECT tenantmig.add_tenant_column('written', 'owner') AS job2 \gset
UPDATE written SET tenant_id = 'b', owner = 'me' WHERE id > 1;
SELECT tenantmig.undo(:job2) AS undo2 \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:undo2);
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
\set VERBOSITY default
SELECT tm_test.mask(error) AS error, sqlstate, error_detail, error_hint FROM tenantmig.jobs WHERE id IN (:undo, :undo2) ORDER BY id;
SELECT * FROM written ORDER BY id;
UPDATE written SET tenant_id = 'a', owner = NULL;
SELECT tenantmig.undo(:job2) AS undo2 \gset
CALL tenantmig.wait(:undo2);
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT * FROM written ORDER BY id;

-- types: each kind that can be a tenant
CREATE DOMAIN tenant_name AS text CHECK (VALUE ~ '^[a-z]+$');
CREATE TYPE plan AS ENUM ('free', 'paid');
CREATE DOMAIN plain AS text DEFAULT 'of the domain';
CREATE TABLE kinds (id int);
INSERT INTO kinds VALUES (1), (2);
SELECT pg_relation_filenode('kinds') AS file \gset
SELECT tenantmig.add_tenant_column('kinds', 'u', 'uuid', '00000000-0000-0000-0000-000000000001') IS NOT NULL AS u,
       tenantmig.add_tenant_column('kinds', 'i', 'integer', ' 42 ') IS NOT NULL AS i,
       tenantmig.add_tenant_column('kinds', 'b', 'bigint', '9223372036854775807') IS NOT NULL AS b,
       tenantmig.add_tenant_column('kinds', 'd', 'plain') IS NOT NULL AS d,
       tenantmig.add_tenant_column('kinds', 'dv', 'plain', 'acme') IS NOT NULL AS dv,
       tenantmig.add_tenant_column('kinds', 'e', 'plan', 'paid') IS NOT NULL AS e,
       tenantmig.add_tenant_column('kinds', 'v', 'varchar', 'v') IS NOT NULL AS v,
       tenantmig.add_tenant_column('kinds', 'n', 'name') IS NOT NULL AS n;
SELECT * FROM kinds ORDER BY id;
SELECT tm_test.catalog('kinds');
SELECT pg_relation_filenode('kinds') = :file AS not_rewritten;
-- a domain with constraints would rewrite a table that has rows
SELECT tm_test.try($$SELECT tenantmig.add_tenant_column('kinds', 'x', 'tenant_name', 'acme')$$);
CREATE TABLE no_rows (id int);
SELECT tenantmig.add_tenant_column('no_rows', 'x', 'tenant_name', 'acme') IS NOT NULL AS added;
SELECT tm_test.catalog('no_rows');
-- a value the type rejects, and types that cannot be
SELECT v, tm_test.try(format($$SELECT tenantmig.add_tenant_column('kinds', 'x', %L, %L)$$, t, v))
FROM (VALUES ('uuid', 'acme'), ('integer', 'acme'), ('integer', '99999999999'), ('integer', ''),
	('tenant_name', 'ACME'), ('tenant_name', ''), ('plan', 'none'), ('text', ''),
	('text[]', '{a}'), ('record', 'a'), ('anyelement', 'a'), ('void', 'a'), ('trigger', 'a'),
	('json', '{}'), ('point', '(1,1)')) AS s(t, v);
SELECT count(*) FROM pg_attribute WHERE attrelid = 'kinds'::regclass AND attname = 'x';

-- names
SELECT tm_test.try($$SELECT tenantmig.add_tenant_column('kinds', '')$$);
SELECT tm_test.try($$SELECT tenantmig.add_tenant_column('kinds', 'ctid')$$);
SELECT tm_test.try($$SELECT tenantmig.add_tenant_column('kinds', 'tableoid')$$);

-- it belongs to the transaction of the caller
SELECT tm_test.keep('kinds');
SELECT count(*) AS jobs FROM tenantmig.jobs \gset
BEGIN;
SELECT tenantmig.add_tenant_column('kinds') IS NOT NULL AS added;
SELECT count(*) FROM kinds WHERE tenant_id IS NULL;
ROLLBACK;
SELECT tm_test.changes('kinds');
SELECT count(*) = :jobs AS no_job FROM tenantmig.jobs;
-- several in one transaction, inside a function, in a savepoint
BEGIN;
SAVEPOINT s;
SELECT tenantmig.add_tenant_column('kinds', 'gone') IS NOT NULL AS added;
ROLLBACK TO s;
DO $$ BEGIN PERFORM tenantmig.add_tenant_column('kinds', 'stays', 'text', 'a'); END $$;
SELECT tenantmig.add_tenant_column('orders', 'stays', 'text', 'b') IS NOT NULL AS added;
COMMIT;
SELECT tm_test.changes('kinds');
SELECT DISTINCT stays FROM kinds;
SELECT DISTINCT stays FROM orders;

-- partitions and children get it too; a partition by itself cannot
CREATE TABLE parted (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM ('2026-02-01') TO ('2026-03-01') PARTITION BY LIST (id);
CREATE TABLE parted_2_1 PARTITION OF parted_2 FOR VALUES IN (1);
CREATE TABLE base (id int);
CREATE TABLE derived (more text) INHERITS (base);
INSERT INTO parted VALUES (1, '2026-01-05'), (1, '2026-02-05');
INSERT INTO base VALUES (1);
INSERT INTO derived VALUES (2, 'x');
SELECT tm_test.keep('parted'), tm_test.keep('base');
SELECT tenantmig.add_tenant_column('parted', value => 'p') AS job \gset
SELECT tenantmig.add_tenant_column('base', value => 'b') AS job2 \gset
SELECT tm_test.changes('parted');
SELECT tm_test.changes('base');
SELECT tableoid::regclass, tenant_id FROM parted UNION ALL SELECT tableoid::regclass, tenant_id FROM base ORDER BY 1;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenantmig.undo(:job2) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('parted');
SELECT tm_test.changes('base');
SELECT tm_test.try($$SELECT tenantmig.add_tenant_column('parted_1')$$);
-- a child that had the column itself keeps it
ALTER TABLE derived ADD COLUMN tenant_id text;
UPDATE derived SET tenant_id = 'own';
SELECT tm_test.keep('base');
SELECT tenantmig.add_tenant_column('base', value => 'b') AS job \gset
SELECT tableoid::regclass, tenant_id FROM base ORDER BY 1;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('base');
SELECT tableoid::regclass, tenant_id FROM derived;

SELECT * FROM tm_test.leftovers;
DROP SCHEMA tm_column CASCADE;
