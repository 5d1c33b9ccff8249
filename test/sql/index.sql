--
-- create_index: what is built, what is left alone, and the way back
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
SELECT setval('tenantmig.job_id_seq', 400000) \g /dev/null
\set ECHO all
CREATE SCHEMA tm_index;
SET search_path = tm_index, public;
CREATE TABLE orders (id int PRIMARY KEY, tenant_id text, email text, at timestamp, tags int[], "Odd ""name" int);
INSERT INTO orders SELECT i, 't' || i % 9, 'Mail' || i || '@example.org', '2026-01-01'::timestamp + i * interval '1 minute', ARRAY[i % 5, i % 7], i % 10
FROM generate_series(1, 2000) i;
SELECT tm_test.keep('orders', '');

-- columns, in order; the name is made as PostgreSQL makes it
SELECT tenantmig.create_index('orders', '{tenant_id,at}') AS job \gset
CALL tenantmig.wait(:job);
SELECT tm_test.changes('orders', '');
SELECT kind, relation, state, phase, error, next_action FROM tenantmig.jobs WHERE id = :job;
SELECT position, kind, relation, state, statement, inverse, lock_mode FROM tenantmig.job_steps WHERE job = :job ORDER BY position;
-- again: the same job, while the index is there
SELECT tenantmig.create_index('orders', '{tenant_id,at}') = :job AS same;
-- under another name it is another index
SELECT tenantmig.create_index('orders', '{tenant_id,at}', 'orders_by_tenant') AS other \gset
CALL tenantmig.wait(:other);
SELECT tm_test.changes('orders', '');
-- somebody's index that is the same is taken for it
CREATE INDEX theirs ON orders (email);
SELECT setval('tenantmig.job_id_seq', 410000);
SET client_min_messages = notice;
SELECT tenantmig.create_index('orders', '{email}') AS found \gset
SET client_min_messages = warning;
SELECT state FROM tenantmig.jobs WHERE id = :found;
SELECT tenantmig.undo(:found) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('orders', '');
DROP INDEX theirs;
-- dropped by somebody: built anew
SELECT tenantmig.undo(:other) AS undo \gset
CALL tenantmig.wait(:undo);
DROP INDEX orders_tenant_id_at_idx;
SELECT tenantmig.create_index('orders', '{tenant_id,at}') AS again \gset
SELECT :again <> :job AS another;
CALL tenantmig.wait(:again);
SELECT count(*) FROM pg_indexes WHERE indexname = 'orders_tenant_id_at_idx';
-- the way back
SELECT tenantmig.undo(:again) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('orders', '');
SELECT state, undone_by = :undo AS by_it FROM tenantmig.jobs WHERE id = :again;

-- all that the call can say
SELECT tenantmig.create_index('orders', ARRAY['tenant_id', 'lower(email) text_pattern_ops DESC NULLS LAST', 'Odd "name']) AS a,
       tenantmig.create_index('orders', '{tenant_id,email}', 'uniq', is_unique => true, predicate => $$tenant_id <> 't1' -- not one$$, include => '{at,"Odd \"name"}') AS b,
       tenantmig.create_index('orders', '{tags}', method => 'gin') AS c,
       tenantmig.create_index('orders', '{tenant_id}', method => 'hash') AS d,
       tenantmig.create_index('orders', '{at}', method => 'brin') AS e,
       tenantmig.create_index('orders', ARRAY['tenant_id COLLATE "C"']) AS f,
       tenantmig.create_index('orders', ARRAY['(id + 1)', 'id']) AS g \gset
CALL tenantmig.wait(:a);
CALL tenantmig.wait(:b);
CALL tenantmig.wait(:c);
CALL tenantmig.wait(:d);
CALL tenantmig.wait(:e);
CALL tenantmig.wait(:f);
CALL tenantmig.wait(:g);
SELECT tm_test.changes('orders', '');
INSERT INTO orders (id, tenant_id, email) VALUES (3000, 't2', 'Mail2@example.org'), (3001, 't2', 'Mail2@example.org');
-- each is its own inverse's
SELECT tenantmig.undo(:a) AS a, tenantmig.undo(:b) AS b, tenantmig.undo(:c) AS c, tenantmig.undo(:d) AS d,
       tenantmig.undo(:e) AS e, tenantmig.undo(:f) AS f, tenantmig.undo(:g) AS g \gset
CALL tenantmig.wait(:a);
CALL tenantmig.wait(:b);
CALL tenantmig.wait(:c);
CALL tenantmig.wait(:d);
CALL tenantmig.wait(:e);
CALL tenantmig.wait(:f);
CALL tenantmig.wait(:g);
SELECT tm_test.changes('orders', '');

-- duplicates: failed, nothing left, and done after they are gone
INSERT INTO orders (id, tenant_id, email) VALUES (3000, 't2', 'Mail2@example.org'), (3001, 't2', 'Mail2@example.org');
SELECT tenantmig.create_index('orders', '{tenant_id,email}', 'uniq', is_unique => true) AS job \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT state, sqlstate, error, error_detail FROM tenantmig.jobs WHERE id = :job;
SELECT * FROM tm_test.leftovers;
SELECT count(*) FROM pg_class WHERE relname = 'uniq';
DELETE FROM orders WHERE id >= 3000;
SELECT tenantmig.retry(:job);
CALL tenantmig.wait(:job);
SELECT state, attempts, error FROM tenantmig.jobs WHERE id = :job;
SELECT tm_test.changes('orders', '');
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);

-- an index of that name that is not ours is never taken for it, valid or not
CREATE INDEX taken ON orders (email);
SELECT tm_test.try($$SELECT tenantmig.create_index('orders', '{tenant_id}', 'taken')$$);
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'taken'::regclass;
SELECT tm_test.try($$SELECT tenantmig.create_index('orders', '{email}', 'taken')$$);
-- nor one whose definition is the same but that is not valid
SELECT tenantmig.create_index('orders', '{email}') AS job \gset
CALL tenantmig.wait(:job);
SELECT indexrelid::regclass, indisvalid FROM pg_index WHERE indrelid = 'orders'::regclass ORDER BY indexrelid::regclass::text;
DROP INDEX taken;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.try($$SELECT tenantmig.create_index('orders', '{tenant_id}', 'orders')$$);
-- nor is a name that somebody took between the call and the build
BEGIN;
SELECT tenantmig.create_index('orders', '{tenant_id}', 'raced') AS job \gset
CREATE INDEX raced ON orders (email);
COMMIT;
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT state, sqlstate, error, error_hint FROM tenantmig.jobs WHERE id = :job;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('orders', '');
DROP INDEX raced;

-- a dry run
SELECT tenantmig.create_index('orders', '{tenant_id}', dry_run => true) AS plan \gset
SELECT tm_test.changes('orders', '');
SELECT state, next_action = format('SELECT tenantmig.start(%s);', id) AS start FROM tenantmig.jobs WHERE id = :plan;
SELECT kind, state, statement, inverse, lock_mode FROM tenantmig.job_steps WHERE job = :plan;
SELECT array_agg(k ORDER BY k) AS plan FROM tenantmig.job, jsonb_object_keys(plan) k WHERE id = :plan;
SELECT tenantmig.start(:plan);
CALL tenantmig.wait(:plan);
SELECT tm_test.changes('orders', '');
SELECT kind, state, statement FROM tenantmig.job_steps WHERE job = :plan;
SELECT tenantmig.undo(:plan) AS undo \gset
CALL tenantmig.wait(:undo);

-- in the foreground a concurrent build is impossible, and said so; the job can go on
BEGIN;
SELECT tenantmig.create_index('orders', '{tenant_id}') AS job \gset
SELECT tenantmig.pause(:job);
COMMIT;
\set VERBOSITY sqlstate
CALL tenantmig.run(:job);
\set VERBOSITY default
SELECT state, sqlstate, tm_test.mask(error) AS error, error_detail, tm_test.mask(error_hint) AS error_hint FROM tenantmig.jobs WHERE id = :job;
SELECT tenantmig.retry(:job);
CALL tenantmig.wait(:job);
SELECT tm_test.changes('orders', '');
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);

-- what cannot be an index
SELECT c, m, p, tm_test.try(format('SELECT tenantmig.create_index(%L, %L, method => %L, predicate => %L)', 'orders', c, m, p))
FROM (VALUES ('{}', 'btree', NULL), ('{nope}', 'btree', NULL), ('{""}', 'btree', NULL), ('{NULL}', 'btree', NULL),
	('{"tenant_id, id"}', 'btree', NULL), ('{"tenant_id) WHERE (false"}', 'btree', NULL), ('{"id); DROP TABLE orders; --"}', 'btree', NULL),
	('{"id) INCLUDE (at"}', 'btree', NULL), ('{random()}', 'btree', NULL), ('{"(now())"}', 'btree', NULL), ('{"count(id)"}', 'btree', NULL),
	('{"(SELECT 1)"}', 'btree', NULL), ('{"generate_series(1, id)"}', 'btree', NULL), ('{"id no_such_opclass"}', 'btree', NULL),
	('{ctid}', 'btree', NULL), ('{id}', 'gin', NULL), ('{id}', 'heap', NULL), ('{id}', 'nope', NULL), ('{id}', '', NULL),
	('{id,at}', 'hash', NULL),
	('{id}', 'btree', ''), ('{id}', 'btree', 'true; DROP TABLE orders'), ('{id}', 'btree', 'id > 1) WITH (fillfactor = 10'),
	('{id}', 'btree', 'at > now()'), ('{id}', 'btree', 'id'), ('{id}', 'btree', 'nope > 1'), ('{id}', 'btree', 'EXISTS (SELECT FROM orders)')) v(c, m, p);
SELECT tm_test.try($$SELECT tenantmig.create_index('orders', '{id}', is_unique => true, method => 'hash')$$);
SELECT tm_test.try($$SELECT tenantmig.create_index('orders', '{id}', name => '')$$);
SELECT tm_test.try($$SELECT tenantmig.create_index('orders', '{id}', include => '{nope}')$$);
SELECT tm_test.try($$SELECT tenantmig.create_index('orders', '{id}', include => '{at}', method => 'hash')$$);
SELECT tm_test.changes('orders', '');

-- partitioned tables, two levels: one index, made of those of the leaves
CREATE TABLE parted (id int, tenant_id text, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM ('2026-02-01') TO ('2026-03-01') PARTITION BY LIST (id);
CREATE TABLE parted_2_1 PARTITION OF parted_2 FOR VALUES IN (1);
CREATE TABLE parted_2_2 PARTITION OF parted_2 DEFAULT;
INSERT INTO parted SELECT i, 't', date '2026-01-01' + i % 59 FROM generate_series(1, 500) i;
SELECT tm_test.keep('parted', '');
SELECT tenantmig.create_index('parted', '{tenant_id,at}', 'parted_tenant') AS job \gset
CALL tenantmig.wait(:job);
SELECT tm_test.changes('parted', '');
SELECT c.relname, i.indisvalid, p.inhparent::regclass AS below
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid LEFT JOIN pg_inherits p ON p.inhrelid = c.oid
WHERE c.relnamespace = 'tm_index'::regnamespace AND c.relname LIKE 'parted%tenant%' ORDER BY 1;
SELECT tenantmig.create_index('parted', '{tenant_id,at}', 'parted_tenant') = :job AS same;
-- a partition that comes later gets it by itself
CREATE TABLE parted_3 PARTITION OF parted FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
SELECT count(*) FROM pg_inherits WHERE inhparent = 'parted_tenant'::regclass;
DROP TABLE parted_3;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('parted', '');
-- unique: with the key of the partitions, not without
SELECT tm_test.try($$SELECT tenantmig.create_index('parted', '{tenant_id,id}', is_unique => true)$$);
SELECT tm_test.changes('parted', '');
SELECT tenantmig.create_index('parted', '{tenant_id,at,id}', is_unique => true) AS job \gset
CALL tenantmig.wait(:job);
SELECT tm_test.changes('parted', '');
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('parted', '');
-- nor below a table whose partitions are told apart by an expression
CREATE TABLE by_expression (id int, tenant_id text) PARTITION BY LIST (lower(tenant_id));
SELECT tm_test.try($$SELECT tenantmig.create_index('by_expression', '{tenant_id,id}', is_unique => true)$$);
-- without any partition it is valid at once
CREATE TABLE empty_one (id int, tenant_id text) PARTITION BY LIST (id);
SELECT tenantmig.create_index('empty_one', '{tenant_id,id}', is_unique => true) AS job \gset
CALL tenantmig.wait(:job);
SELECT indexrelid::regclass, indisvalid FROM pg_index WHERE indrelid = 'empty_one'::regclass;
-- duplicates in one leaf: nothing is left in any
CREATE TABLE dup (id int, v int, tenant_id text) PARTITION BY LIST (id);
CREATE TABLE dup_1 PARTITION OF dup FOR VALUES IN (1);
CREATE TABLE dup_2 PARTITION OF dup FOR VALUES IN (2);
INSERT INTO dup VALUES (1, 1, 'a'), (2, 1, 'a'), (2, 1, 'a');
SELECT tm_test.keep('dup');
SELECT tenantmig.create_index('dup', '{id,v}', is_unique => true) AS job \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT state, error FROM tenantmig.jobs WHERE id = :job;
-- what is valid stays for another attempt
SELECT * FROM tm_test.leftovers;
SELECT tm_test.changes('dup');
DELETE FROM dup WHERE id = 2 AND ctid = '(0,2)';
SELECT tenantmig.retry(:job);
CALL tenantmig.wait(:job);
SELECT indexrelid::regclass, indisvalid FROM pg_index WHERE indrelid IN (SELECT relid FROM pg_partition_tree('dup')) ORDER BY indexrelid::regclass::text;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT indexrelid::regclass, indisvalid FROM pg_index WHERE indrelid IN (SELECT relid FROM pg_partition_tree('dup')) ORDER BY indexrelid::regclass::text;
-- undone after the failure
INSERT INTO dup VALUES (2, 1, 'a');
SELECT tenantmig.create_index('dup', '{id,v}', is_unique => true) AS job \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('dup');
SELECT * FROM tm_test.leftovers;
-- inheritance: the table itself only
CREATE TABLE base (id int, tenant_id text);
CREATE TABLE derived () INHERITS (base);
SELECT tm_test.keep('base');
SELECT tenantmig.create_index('base', '{tenant_id}') AS job \gset
CALL tenantmig.wait(:job);
SELECT tm_test.changes('base');

-- tablespace, storage, NULLS NOT DISTINCT
SET allow_in_place_tablespaces = true;
CREATE TABLESPACE regress_tm_elsewhere LOCATION '';
SELECT tenantmig.create_index('orders', '{tenant_id,email}', 'all_of_it', is_unique => true, tablespace => 'regress_tm_elsewhere',
	nulls_not_distinct => true, storage => '{"fillfactor": 70, "deduplicate_items": false}', include => '{at}', predicate => 'id > 0') AS a,
	tenantmig.create_index('orders', '{tags}', method => 'gin', storage => '{"fastupdate": "off"}') AS b,
	tenantmig.create_index('parted', '{tenant_id}', 'parted_elsewhere', tablespace => 'regress_tm_elsewhere', storage => '{"fillfactor": 80}') AS c \gset
CALL tenantmig.wait(:a);
CALL tenantmig.wait(:b);
CALL tenantmig.wait(:c);
SELECT c.relname, t.spcname, c.reloptions, pg_get_indexdef(c.oid) FROM pg_class c LEFT JOIN pg_tablespace t ON t.oid = c.reltablespace
WHERE c.relnamespace = 'tm_index'::regnamespace AND c.relkind IN ('i', 'I') AND (c.reltablespace <> 0 OR c.reloptions IS NOT NULL) ORDER BY 1;
INSERT INTO orders VALUES (5001, NULL, 'x');
SELECT tm_test.sqlstate($$INSERT INTO orders VALUES (5002, NULL, 'x')$$);
DELETE FROM orders WHERE id = 5001;
SELECT tenantmig.undo(:a) AS a, tenantmig.undo(:b) AS b, tenantmig.undo(:c) AS c \gset
CALL tenantmig.wait(:a);
CALL tenantmig.wait(:b);
CALL tenantmig.wait(:c);
SELECT tm_test.changes('orders', '');
SELECT tm_test.changes('parted', '');
CREATE ROLE regress_tm_index;
CREATE TABLE owned (id int, tenant_id text);
ALTER TABLE owned OWNER TO regress_tm_index;
SELECT n, tm_test.try(format('SELECT tenantmig.create_index(%L, %L, %s)', t, '{tenant_id}', n))
FROM (VALUES ('orders', $$tablespace => 'nope'$$), ('orders', $$tablespace => 'pg_global'$$), ('owned', $$tablespace => 'regress_tm_elsewhere'$$),
	('orders', $$nulls_not_distinct => true$$), ('orders', $$storage => '[]'$$), ('orders', $$storage => '{"fillfactor": null}'$$),
	('orders', $$storage => '{"fillfactor": 7}'$$), ('orders', $$storage => '{"nope": 7}'$$), ('orders', $$storage => '{"fastupdate": true}'$$),
	('orders', $$storage => '{"x) TABLESPACE pg_default; --": 1}'$$), ('orders', $$storage => NULL$$)) v(t, n);
DROP TABLE owned;
DROP ROLE regress_tm_index;
DROP TABLESPACE regress_tm_elsewhere;

-- names of 63 bytes, which are the same once they are cut
CREATE TABLE "long_table_name_that_is_as_long_as_a_name_may_be_in_the_server1" (tenant_id text, "a_column_with_a_rather_long_name_as_well_and_more_of_it_1" int, "a_column_with_a_rather_long_name_as_well_and_more_of_it_2" int);
SELECT tenantmig.create_index(oid, ARRAY['tenant_id', c]) AS job FROM pg_class,
	unnest('{a_column_with_a_rather_long_name_as_well_and_more_of_it_1,a_column_with_a_rather_long_name_as_well_and_more_of_it_2}'::text[]) c
WHERE relname LIKE 'long_table%1' AND relkind = 'r' \g /dev/null
SELECT tenantmig.create_index(oid, ARRAY['tenant_id'], name => repeat('n', 63)::name) AS a FROM pg_class WHERE relname LIKE 'long_table%1' AND relkind = 'r' \gset
CALL tenantmig.wait(:a);
SELECT indexname, octet_length(indexname) FROM pg_indexes WHERE tablename LIKE 'long_table%' ORDER BY 1;
-- a longer one is cut as the server cuts it, and is taken then
SELECT tm_test.try(format('SELECT tenantmig.create_index(%L, %L, %L)', oid::regclass, '{tenant_id}', repeat('n', 64))) FROM pg_class WHERE relname LIKE 'long_table%1' AND relkind = 'r';
SELECT tm_test.try(format('SELECT tenantmig.create_index(%L, %L, %L)', 'orders', '{id}', repeat('n', 64)));

SELECT * FROM tm_test.leftovers;
DROP SCHEMA tm_index CASCADE;
