--
-- set_not_null: the constraint, what stands in its way, and the way back
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
SELECT setval('tenantmig.job_id_seq', 600000) \g /dev/null
\set ECHO all
CREATE SCHEMA tm_not_null;
SET search_path = tm_not_null, public;
CREATE TABLE orders (id int PRIMARY KEY, tenant_id text, CHECK (id > 0));
INSERT INTO orders SELECT i, 't' || i % 3 FROM generate_series(1, 1000) i;
SELECT tm_test.keep('orders', '');

SELECT tenantmig.set_not_null('orders') AS job \gset
CALL tenantmig.wait(:job);
-- nothing but NOT NULL is left of it
SELECT tm_test.changes('orders', '');
SELECT kind, relation, state, phase, error, next_action FROM tenantmig.jobs WHERE id = :job;
SELECT position, kind, state, tm_test.mask(statement) AS statement, tm_test.mask(inverse) AS inverse, lock_mode
FROM tenantmig.job_steps WHERE job = :job ORDER BY position;
INSERT INTO orders VALUES (1001, NULL);
-- again: the same job, while it holds
SELECT tenantmig.set_not_null('orders') = :job AS same;
ALTER TABLE orders ALTER COLUMN tenant_id DROP NOT NULL;
SELECT tenantmig.set_not_null('orders') AS again \gset
SELECT :again <> :job AS another;
CALL tenantmig.wait(:again);
SELECT tenantmig.undo(:again) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('orders', '');

-- NULLs: failed, with how many and which; no constraint is left
INSERT INTO orders VALUES (1001, NULL), (1002, NULL);
SELECT tenantmig.set_not_null('orders') AS job \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
\pset format unaligned
SELECT state, sqlstate, error, error_detail, tm_test.mask(error_hint) AS error_hint FROM tenantmig.jobs WHERE id = :job;
\pset format aligned
SELECT relation, key, sqlstate, message FROM tenantmig.job_errors WHERE job = :job AND key IS NOT NULL ORDER BY key;
SELECT * FROM tm_test.leftovers;
INSERT INTO orders VALUES (1003, NULL);
-- filled, and tried again
UPDATE orders SET tenant_id = 'x' WHERE tenant_id IS NULL;
SELECT tm_test.keep('orders', '');
SELECT tenantmig.retry(:job);
CALL tenantmig.wait(:job);
SELECT tm_test.changes('orders', '');
SELECT state, attempts, error FROM tenantmig.jobs WHERE id = :job;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('orders', '');

-- one that was NOT NULL before stays so when it is undone
CREATE TABLE already (id int, tenant_id text NOT NULL);
SELECT tm_test.keep('already', '');
SELECT tenantmig.set_not_null('already') AS job \gset
CALL tenantmig.wait(:job);
SELECT count(*) AS steps FROM tenantmig.job_steps WHERE job = :job;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('already', '');

-- a dry run says how many NULLs there are
INSERT INTO orders VALUES (2000, NULL);
SELECT tm_test.keep('orders', '');
SELECT tenantmig.set_not_null('orders', dry_run => true) AS plan \gset
SELECT tm_test.changes('orders', '');
SELECT jsonb_pretty(plan) FROM tenantmig.job WHERE id = :plan;
SELECT kind, state, tm_test.mask(statement) AS statement, lock_mode FROM tenantmig.job_steps WHERE job = :plan ORDER BY position;
DELETE FROM orders WHERE id = 2000;
SELECT tenantmig.start(:plan);
CALL tenantmig.wait(:plan);
SELECT attnotnull FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'tenant_id';

-- in the foreground; the job is paused first, so that no worker takes it, and
-- none is about to end and to look for more
CALL tm_test.wait_until($$SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'tenantmig worker'$$);
CREATE TABLE here (id int, tenant_id text);
INSERT INTO here VALUES (1, 'a');
SELECT tm_test.keep('here', '');
BEGIN;
SELECT tenantmig.set_not_null('here') AS job \gset
SELECT tenantmig.pause(:job);
COMMIT;
CALL tenantmig.run(:job);
SELECT tm_test.changes('here', '');
SELECT tenantmig.assert_done(:job);
BEGIN;
SELECT tenantmig.undo(:job) AS undo \gset
SELECT tenantmig.pause(:undo);
COMMIT;
CALL tenantmig.run(:undo);
SELECT tm_test.changes('here', '');
INSERT INTO here VALUES (2, NULL);
BEGIN;
SELECT tenantmig.set_not_null('here') AS job \gset
SELECT tenantmig.pause(:job);
COMMIT;
\set VERBOSITY sqlstate
CALL tenantmig.run(:job);
\set VERBOSITY default
SELECT state, error FROM tenantmig.jobs WHERE id = :job;
SELECT * FROM tm_test.leftovers;

-- partitions and children: all of them, and back to what each was
CREATE TABLE parted (id int, tenant_id text) PARTITION BY LIST (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2) PARTITION BY LIST (id);
CREATE TABLE parted_2_1 PARTITION OF parted_2 FOR VALUES IN (2);
CREATE TABLE base (id int, tenant_id text);
CREATE TABLE derived () INHERITS (base);
CREATE TABLE strict () INHERITS (base);
ALTER TABLE parted_1 ALTER COLUMN tenant_id SET NOT NULL;
ALTER TABLE strict ALTER COLUMN tenant_id SET NOT NULL;
INSERT INTO parted VALUES (1, 'a'), (2, 'b');
INSERT INTO base VALUES (1, 'a');
INSERT INTO derived VALUES (2, 'b');
SELECT tm_test.keep('parted', ''), tm_test.keep('base', '');
SELECT tenantmig.set_not_null('parted') AS p, tenantmig.set_not_null('base') AS b \gset
CALL tenantmig.wait(:p);
CALL tenantmig.wait(:b);
SELECT tm_test.changes('parted', '');
SELECT tm_test.changes('base', '');
SELECT tenantmig.undo(:p) AS p, tenantmig.undo(:b) AS b \gset
CALL tenantmig.wait(:p);
CALL tenantmig.wait(:b);
SELECT tm_test.changes('parted', '');
SELECT tm_test.changes('base', '');
-- what was NOT NULL before stays so all the time: it is proved before NOT NULL goes
SELECT relation, tm_test.mask(statement) AS statement, lock_mode, state FROM tenantmig.job_steps WHERE job = :p ORDER BY position;
-- a NULL in a child
INSERT INTO derived VALUES (3, NULL);
SELECT tenantmig.set_not_null('base') AS job \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT error, error_detail FROM tenantmig.jobs WHERE id = :job;
DELETE FROM derived WHERE id = 3;
SELECT tm_test.changes('base', '');

-- the longest names, and what a name can hold
CREATE TABLE "Ärger; -- ""x"" %I $$
zeile" ("sechzig_bytes_und_mehr_als_das_üüüüüüüüüüüüüüü_ende" text);
SELECT tenantmig.set_not_null(oid, "left") AS job FROM pg_class, LATERAL (SELECT attname FROM pg_attribute WHERE attrelid = oid AND attnum = 1) a("left")
WHERE relname LIKE 'Ärger%' \gset
CALL tenantmig.wait(:job);
SELECT attname, attnotnull FROM pg_attribute JOIN pg_class ON oid = attrelid WHERE relname LIKE 'Ärger%' AND attnum > 0;
SELECT * FROM tm_test.leftovers;

SELECT tm_test.try($$SELECT tenantmig.set_not_null('orders', 'nope')$$);
SELECT tm_test.try($$SELECT tenantmig.set_not_null('orders', 'ctid')$$);
DROP SCHEMA tm_not_null CASCADE;
