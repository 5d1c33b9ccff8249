--
-- undo: a whole way forth and back, in the right order only
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
SELECT setval('tenantmig.job_id_seq', 850000) \g /dev/null
\set ECHO all
CREATE SCHEMA tm_undo;
SET search_path = tm_undo, public;
CREATE TABLE customers (id int PRIMARY KEY, name text DEFAULT 'x');
CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL REFERENCES customers);
CREATE INDEX ON orders (customer);
CREATE VIEW seen AS SELECT * FROM orders;
INSERT INTO customers SELECT generate_series(1, 50);
INSERT INTO orders SELECT i, i % 50 + 1 FROM generate_series(1, 1000) i;
SELECT tm_test.keep('customers'), tm_test.keep('orders');

-- forth, all recorded at once: each waits for what it needs
BEGIN;
SELECT tenantmig.add_tenant_column('customers') AS c1, tenantmig.add_tenant_column('orders') AS o1 \gset
SELECT tenantmig.backfill('customers', expression => $$'t' || id % 3$$) AS c2 \gset
SELECT tenantmig.backfill('orders', via => 'customer') AS o2 \gset
SELECT tenantmig.set_not_null('customers') AS c3, tenantmig.set_not_null('orders') AS o3 \gset
SELECT tenantmig.create_index('orders', '{tenant_id,id}') AS o4 \gset
COMMIT;
CALL tenantmig.wait(:o4);
CALL tenantmig.wait(:c3);
SELECT tenantmig.enable_rls('orders') AS o5 \gset
SELECT count(*) FROM orders o JOIN customers c ON c.id = o.customer WHERE o.tenant_id IS DISTINCT FROM c.tenant_id OR c.tenant_id <> 't' || c.id % 3;
SELECT kind, relation, state FROM tenantmig.jobs WHERE id IN (:c1, :o1, :c2, :o2, :c3, :o3, :o4, :o5) ORDER BY id;
SELECT tm_test.changes('customers');
SELECT count(*) > 3 AS more FROM tm_test.changes('orders');

-- not in another order: a later job builds on it
SELECT j, tm_test.try(format('SELECT tenantmig.undo(%s)', id)) FROM (VALUES ('c1', :c1::bigint), ('o1', :o1), ('c2', :c2), ('o2', :o2)) v(j, id);
-- a dry run lists what it would run, in order, and changes nothing
SELECT tenantmig.undo(:o3, dry_run => true) AS plan \gset
SELECT position, kind, state, tm_test.mask(statement) AS statement, lock_mode FROM tenantmig.job_steps WHERE job = :plan ORDER BY position;
SELECT attnotnull FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'tenant_id';
SELECT tenantmig.cancel(:plan);

-- back
SELECT tenantmig.undo(:o5) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenantmig.undo(:o4) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenantmig.undo(:o3) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenantmig.undo(:o2) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT count(*) FROM orders WHERE tenant_id IS NOT NULL;
SELECT tenantmig.undo(:o1) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenantmig.undo(:c3) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenantmig.undo(:c2) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenantmig.undo(:c1) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('customers');
SELECT tm_test.changes('orders');
SELECT kind, state, undone_by IS NOT NULL AS undone, next_action FROM tenantmig.jobs WHERE id IN (:c1, :o1, :c2, :o2, :c3, :o3, :o4, :o5) ORDER BY id;
SELECT DISTINCT state FROM tenantmig.job_steps WHERE job IN (:c1, :o1, :c2, :o2, :c3, :o3, :o4, :o5) AND inverse IS NOT NULL;

-- twice is once; an undo is not undone; nor is an undone job retried or asserted
SELECT tenantmig.undo(:c1) = :undo AS same;
SELECT tm_test.try(format('SELECT tenantmig.undo(%s)', :undo));
SELECT tm_test.try(format('SELECT tenantmig.retry(%s)', :c1));
SELECT tm_test.try(format('SELECT tenantmig.assert_done(%s)', :c1));

-- all of it at once, the last first: each undo waits for those before it
BEGIN;
SELECT tenantmig.add_tenant_column('customers') AS c1 \gset
SELECT tenantmig.backfill('customers', value => 'a', options => '{"method": "ranges"}') AS c2 \gset
SELECT tenantmig.set_not_null('customers') AS c3 \gset
COMMIT;
CALL tenantmig.wait(:c3);
BEGIN;
SELECT tenantmig.undo(:c3) AS u3 \gset
SELECT tenantmig.undo(:c2) AS u2 \gset
SELECT tenantmig.undo(:c1) AS u1 \gset
COMMIT;
CALL tenantmig.wait(:u1);
SELECT tm_test.changes('customers');
SELECT state FROM tenantmig.jobs WHERE id IN (:u1, :u2, :u3);

-- what stands on a column keeps it: the undo fails, says what, and can be tried again
SELECT tenantmig.add_tenant_column('customers') AS job \gset
CREATE VIEW uses AS SELECT tenant_id FROM customers;
SELECT tenantmig.undo(:job) AS undo \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:undo);
\set VERBOSITY default
SELECT state, sqlstate, error, error_detail FROM tenantmig.jobs WHERE id = :undo;
SELECT state, undone_by FROM tenantmig.jobs WHERE id = :job;
DROP VIEW uses;
SELECT tenantmig.undo(:job) <> :undo AS another;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('customers');

-- of a job that was cancelled, or that failed half-way
SELECT tenantmig.add_tenant_column('customers') AS c1 \gset
SELECT tenantmig.backfill('customers', expression => $$(100 / (id - 50))::text$$, options => '{"batch_target": "1ms"}') AS c2 \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:c2);
\set VERBOSITY default
SELECT tenantmig.undo(:c2) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenantmig.undo(:c1) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('customers');

-- the table is called something else by now
SELECT tenantmig.add_tenant_column('customers') AS job \gset
ALTER TABLE customers RENAME TO clients;
SELECT tm_test.try(format('SELECT tenantmig.undo(%s)', :job));
ALTER TABLE clients RENAME TO customers;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('customers');
SELECT * FROM tm_test.leftovers;
DROP SCHEMA tm_undo CASCADE;
