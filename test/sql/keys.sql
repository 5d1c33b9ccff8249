--
-- set_primary_key and add_foreign_key: what they do, refuse and take back
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
SELECT setval('tenantmig.job_id_seq', 650000) \g /dev/null
\set ECHO all
CREATE SCHEMA tm_keys;
SET search_path = tm_keys, public;
-- what the constraints of a table are, and what is said of them
CREATE FUNCTION keys(VARIADIC tables regclass[]) RETURNS SETOF text LANGUAGE sql AS $$
SELECT format('%s %s: %s%s%s', conrelid::regclass, conname, pg_get_constraintdef(c.oid),
	' (' || obj_description(c.oid, 'pg_constraint') || ')',
	CASE WHEN indisreplident THEN ' identity' END || CASE WHEN indisclustered THEN ' clustered' ELSE '' END)
FROM pg_constraint c LEFT JOIN pg_index ON indexrelid = conindid AND contype IN ('p', 'u')
WHERE conrelid = ANY (tables::oid[]) AND contype IN ('p', 'u', 'f')
ORDER BY conrelid::regclass::text COLLATE "C", conname COLLATE "C" $$;
CREATE TABLE orders (id int, tenant_id text NOT NULL, note text,
	CONSTRAINT "orders key" PRIMARY KEY (id) INCLUDE (note) WITH (fillfactor = 70));
ALTER TABLE orders CLUSTER ON "orders key";
ALTER TABLE orders REPLICA IDENTITY USING INDEX "orders key";
COMMENT ON CONSTRAINT "orders key" ON orders IS 'the 100% key';
CREATE TABLE items (id int PRIMARY KEY, tenant_id text NOT NULL,
	order_id int REFERENCES orders ON UPDATE CASCADE ON DELETE CASCADE,
	other int CONSTRAINT other REFERENCES orders ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE items ADD CONSTRAINT unchecked FOREIGN KEY (other) REFERENCES orders NOT VALID;
COMMENT ON CONSTRAINT other ON items IS 'the other';
INSERT INTO orders SELECT i, 't' || i % 2 FROM generate_series(1, 100) i;
INSERT INTO items SELECT i, 't' || i % 2, i, 101 - i FROM generate_series(1, 100, 2) i;
SELECT tm_test.keep('orders', ''), tm_test.keep('items', '');
SELECT * FROM keys('orders', 'items');

-- rows that point at another tenant's row: found before anything is changed
SELECT tenantmig.set_primary_key('orders', '{tenant_id,id}', dry_run => true) AS plan \gset
\pset format unaligned
SELECT plan ->> 'rows_unresolved', plan -> 'unresolved_examples' -> 0 FROM tenantmig.job WHERE id = :plan;
SELECT jsonb_array_elements_text(plan -> 'warnings') FROM tenantmig.job WHERE id = :plan;
SELECT jsonb_array_elements_text(plan -> 'locks') FROM tenantmig.job WHERE id = :plan;
SELECT position, kind, relation, tm_test.mask(statement) AS statement, tm_test.mask(inverse) AS inverse, lock_mode FROM tenantmig.job_steps WHERE job = :plan ORDER BY position;
SELECT tm_test.changes('orders', '') UNION ALL SELECT tm_test.changes('items', '');
SELECT tenantmig.set_primary_key('orders', '{tenant_id,id}') AS job \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT state, sqlstate, error, error_detail, tm_test.mask(error_hint) AS error_hint FROM tenantmig.jobs WHERE id = :job;
SELECT count(*), min(relation), min(message) FROM tenantmig.job_errors WHERE job = :job AND key IS NOT NULL;
\pset format aligned
SELECT tm_test.changes('orders', '') UNION ALL SELECT tm_test.changes('items', '');
SELECT * FROM tm_test.leftovers;

-- mended, and tried again
UPDATE items SET other = id;
SELECT tm_test.keep('items', '');
SELECT tenantmig.retry(:job);
CALL tenantmig.wait(:job);
SELECT * FROM keys('orders', 'items');
SELECT count(*) FROM tenantmig.job_errors WHERE job = :job AND key IS NOT NULL;
SELECT * FROM tm_test.leftovers;
-- the same call, the same job; no tenant reaches another's rows
SELECT tenantmig.set_primary_key('orders', '{tenant_id,id}') = :job AS same;
SELECT tm_test.try($$INSERT INTO items VALUES (1000, 't0', 1)$$);
SELECT tm_test.try($$UPDATE items SET tenant_id = 't0' WHERE id = 1$$);
-- the same id for two tenants; the cascade of one cannot reach the other
INSERT INTO orders VALUES (1, 't0');
INSERT INTO items VALUES (1001, 't0', 1, NULL), (1002, 't1', NULL, 3);
DELETE FROM orders WHERE (tenant_id, id) = ('t1', 1) OR (tenant_id, id) = ('t1', 3);
SELECT * FROM items WHERE id IN (1, 3, 1001, 1002) ORDER BY id;
-- two rows of one id are not to be taken back
INSERT INTO orders VALUES (2, 't1');
SELECT tenantmig.undo(:job) AS undo \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:undo);
\set VERBOSITY default
SELECT error, error_detail, tm_test.mask(error_hint) AS error_hint FROM tenantmig.jobs WHERE id = :undo;
SELECT * FROM keys('orders');
-- until the ids differ again
DELETE FROM items; DELETE FROM orders;
SELECT tenantmig.retry(:undo);
CALL tenantmig.wait(:undo);
SELECT * FROM keys('orders', 'items');
SELECT line FROM tm_test.kept k WHERE k.relation IN ('orders', 'items') AND line NOT LIKE '%rows, digest%'
EXCEPT SELECT * FROM (SELECT tm_test.state('orders', '') UNION ALL SELECT tm_test.state('items', '')) s;
SELECT * FROM tm_test.leftovers;

-- keep: a unique constraint for those who point at the old key
INSERT INTO orders SELECT i, 't' || i % 2 FROM generate_series(1, 100) i;
INSERT INTO items SELECT i, 't' || i % 2, i, i FROM generate_series(1, 100, 2) i;
SELECT tm_test.keep('orders', ''), tm_test.keep('items', '');
SELECT tenantmig.set_primary_key('orders', '{id,tenant_id}', 'keep') AS job \gset
CALL tenantmig.wait(:job);
SELECT * FROM keys('orders', 'items');
INSERT INTO orders VALUES (1, 't0') ON CONFLICT (id) DO NOTHING;
SELECT tm_test.try($$INSERT INTO items VALUES (1000, 't0', 1000)$$);
-- another order of columns
SELECT tenantmig.set_primary_key('orders', '{tenant_id,id}') AS again \gset
CALL tenantmig.wait(:again);
SELECT tm_test.try(format('SELECT tenantmig.undo(%s)', :job));
SELECT * FROM keys('orders');
SELECT tenantmig.undo(:again) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('orders', '') UNION ALL SELECT tm_test.changes('items', '');
SELECT * FROM keys('orders');

-- what is refused
CREATE VIEW grouped AS SELECT id, note, count(*) FROM orders GROUP BY id;
CREATE FUNCTION totals() RETURNS SETOF text BEGIN ATOMIC SELECT note FROM orders GROUP BY id; END;
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('orders', '{tenant_id,id}')$$);
SELECT tm_test.sqlstate($$SELECT tenantmig.set_primary_key('orders', '{tenant_id,id}', 'keep')$$);
DROP VIEW grouped; DROP FUNCTION totals;
CREATE TABLE bare (id int PRIMARY KEY, tenant_id text, order_id int REFERENCES orders);
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('bare', '{tenant_id,id}')$$);
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('orders', '{tenant_id,id}')$$);
ALTER TABLE bare DROP tenant_id;
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('orders', '{tenant_id,id}')$$);
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('orders', '{tenant_id}')$$);
ALTER TABLE bare ADD tenant_id text NOT NULL, DROP order_id,
	ADD order_id int CONSTRAINT nulls REFERENCES orders ON UPDATE SET NULL;
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('orders', '{tenant_id,id}')$$);
DROP TABLE bare;
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('orders', '{}')$$);
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('orders', '{id,id}')$$);
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('orders', '{nope,id}')$$);
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('orders', '{id}', 'drop')$$);
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('orders', NULL)$$);
SET client_min_messages = error; -- whatever wal_level is
CREATE PUBLICATION tm_keys_pub FOR TABLE orders (id, note);
ALTER TABLE orders REPLICA IDENTITY DEFAULT;
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('orders', '{tenant_id,id}')$$);
DROP PUBLICATION tm_keys_pub;
CREATE TABLE filtered (id int PRIMARY KEY, tenant_id text NOT NULL, number int NOT NULL);
CREATE PUBLICATION tm_keys_pub FOR TABLE filtered WHERE (id > 0);
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('filtered', '{tenant_id,number}')$$);
SELECT tm_test.sqlstate($$SELECT tenantmig.set_primary_key('filtered', '{tenant_id,id}', dry_run => true)$$);
DROP PUBLICATION tm_keys_pub; DROP TABLE filtered;
CREATE TABLE parted (id int, tenant_id text NOT NULL, d int NOT NULL, PRIMARY KEY (id, d)) PARTITION BY LIST (d);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('parted', '{tenant_id,id}')$$);
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('parted_1', '{tenant_id,id,d}')$$);
-- what stands on the key of a single partition
CREATE VIEW tallied AS SELECT id, d, tenant_id, count(*) FROM parted_1 GROUP BY id, d;
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('parted', '{tenant_id,id,d}')$$);
DROP VIEW tallied;
CREATE TABLE pointing (id int, d int, CONSTRAINT pointing_fk FOREIGN KEY (id, d) REFERENCES parted_1);
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('parted', '{tenant_id,id,d}')$$);
INSERT INTO parted VALUES (1, 'a', 1);
SELECT tenantmig.set_primary_key('parted', '{tenant_id,id,d}', 'keep') AS job \gset
CALL tenantmig.wait(:job);
INSERT INTO pointing VALUES (1, 1);
SELECT tm_test.sqlstate($$INSERT INTO pointing VALUES (2, 1)$$);
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.sqlstate($$DELETE FROM parted$$);
DROP TABLE pointing;
-- owners
CREATE ROLE tm_keys_a; CREATE ROLE tm_keys_b;
GRANT ALL ON SCHEMA tm_keys TO tm_keys_a, tm_keys_b;
CREATE TABLE theirs (id int PRIMARY KEY, tenant_id text NOT NULL);
CREATE TABLE others (id int PRIMARY KEY, tenant_id text NOT NULL, their int REFERENCES theirs);
ALTER TABLE theirs OWNER TO tm_keys_a; ALTER TABLE others OWNER TO tm_keys_b;
SET ROLE tm_keys_a;
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('theirs', '{tenant_id,id}')$$);
SELECT tm_test.sqlstate($$SELECT tenantmig.set_primary_key('others', '{tenant_id,id}')$$);
SELECT tm_test.try($$SELECT tenantmig.add_foreign_key('theirs', '{id}', 'others', '{id}')$$);
SELECT tenantmig.set_primary_key('theirs', '{tenant_id,id}', 'keep') AS job \gset
RESET ROLE;
CALL tenantmig.wait(:job);
SELECT * FROM keys('theirs', 'others');

-- ON CONFLICT and publications are told
CREATE FUNCTION upsert() RETURNS void LANGUAGE sql AS $$INSERT INTO tm_keys.orders (id, tenant_id) VALUES (1, 'x') ON CONFLICT (id) DO NOTHING$$;
CREATE PUBLICATION tm_keys_pub FOR TABLE orders;
RESET client_min_messages; SET client_min_messages = warning;
CREATE UNIQUE INDEX by_note ON orders (note);
CREATE TABLE notes (note text REFERENCES orders (note));
SELECT tenantmig.set_primary_key('orders', '{tenant_id,id}', dry_run => true) AS plan \gset
SELECT jsonb_array_elements_text(plan -> 'warnings') FROM tenantmig.job WHERE id = :plan;
DROP PUBLICATION tm_keys_pub;

-- a table without a key, and duplicates
CREATE TABLE none (id int NOT NULL, tenant_id text NOT NULL);
INSERT INTO none VALUES (1, 'a'), (1, 'a'), (1, 'b');
SELECT tm_test.keep('none', '');
SELECT tenantmig.set_primary_key('none', '{tenant_id,id}') AS job \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT error, error_detail FROM tenantmig.jobs WHERE id = :job;
SELECT tm_test.changes('none', '');
DELETE FROM none WHERE ctid = '(0,1)';
SELECT tm_test.keep('none', '');
SELECT tenantmig.retry(:job);
CALL tenantmig.wait(:job);
SELECT * FROM keys('none');
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('none', '');

-- all recorded at once: each waits for what it needs
CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int NOT NULL REFERENCES p);
INSERT INTO p SELECT generate_series(1, 10); INSERT INTO c SELECT i, i FROM generate_series(1, 10) i;
BEGIN;
SELECT tenantmig.add_tenant_column('p') AS a, tenantmig.add_tenant_column('c') AS b \gset
SELECT tenantmig.backfill('p', expression => $$'t' || id % 3$$) AS pb, tenantmig.backfill('c', via => 'p') AS cb \gset
SELECT tenantmig.set_not_null('p') AS pn, tenantmig.set_not_null('c') AS cn \gset
SELECT tenantmig.set_primary_key('p', '{tenant_id,id}') AS pk \gset
SELECT tenantmig.set_primary_key('c', '{tenant_id,id}') AS ck \gset
COMMIT;
CALL tenantmig.wait(:pk);
CALL tenantmig.wait(:ck);
SELECT * FROM keys('p', 'c');
SELECT tm_test.try(format('SELECT tenantmig.undo(%s)', :cn));
SELECT tm_test.try(format('SELECT tenantmig.undo(%s)', :cb));

-- a trigger that finds the parent by the old key, and a foreign key that needs
-- the tenant to find it
CREATE TABLE up (id int PRIMARY KEY, tenant_id text NOT NULL); CREATE TABLE down (id int PRIMARY KEY, up int NOT NULL REFERENCES up, tenant_id text);
INSERT INTO up SELECT i, 't' || i % 2 FROM generate_series(1, 10) i; INSERT INTO down SELECT i, i FROM generate_series(1, 10) i;
SELECT tenantmig.backfill('down', via => 'up', options => '{"keep_trigger": true}') AS job \gset
CALL tenantmig.wait(:job);
SELECT tenantmig.set_not_null('down') AS job \gset
CALL tenantmig.wait(:job);
SELECT regexp_replace(tm_test.try($$SELECT tenantmig.set_primary_key('up', '{tenant_id,id}')$$), 'zz_tenantmig_[0-9]+', 'zz_tenantmig_N', 'g') AS try;
SELECT tenantmig.set_primary_key('up', '{tenant_id,id}', 'keep') AS job \gset
CALL tenantmig.wait(:job);
ALTER TABLE down ADD CONSTRAINT paired FOREIGN KEY (tenant_id, up) REFERENCES up (tenant_id, id);
INSERT INTO down VALUES (11, 3);
SELECT tenant_id FROM down WHERE id = 11;
SELECT tm_test.try($$SELECT tenantmig.backfill('down', via => 'paired')$$);
DROP TABLE down, up;

--
-- add_foreign_key
--
CREATE TABLE parent (id int, tenant_id text, PRIMARY KEY (tenant_id, id));
CREATE TABLE child (id int, tenant_id text NOT NULL, parent_id int);
INSERT INTO parent SELECT i, 't' || i % 2 FROM generate_series(1, 50) i;
INSERT INTO child SELECT i, 't' || i % 2, i FROM generate_series(1, 52) i;
INSERT INTO child VALUES (100, 't0', NULL);
SELECT tm_test.keep('child', '');
SELECT tenantmig.add_foreign_key('child', '{tenant_id,parent_id}', 'parent', '{tenant_id,id}', on_delete => 'set null', dry_run => true) AS plan \gset
SELECT jsonb_pretty(plan) FROM tenantmig.job WHERE id = :plan;
SELECT position, kind, statement, inverse, lock_mode FROM tenantmig.job_steps WHERE job = :plan ORDER BY position;
SELECT tenantmig.add_foreign_key('child', '{tenant_id,parent_id}', 'parent', '{tenant_id,id}', on_delete => 'set null') AS job \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT sqlstate, error, error_detail, tm_test.mask(error_hint) AS error_hint FROM tenantmig.jobs WHERE id = :job;
SELECT relation, key, sqlstate, message FROM tenantmig.job_errors WHERE job = :job AND key IS NOT NULL ORDER BY key;
SELECT tm_test.changes('child', '');
DELETE FROM child WHERE id IN (51, 52);
SELECT tm_test.keep('child', '');
SELECT tenantmig.retry(:job);
CALL tenantmig.wait(:job);
SELECT tm_test.changes('child', '');
SELECT position, kind, state, statement, inverse, lock_mode FROM tenantmig.job_steps WHERE job = :job ORDER BY position;
DELETE FROM parent WHERE id = 1;
SELECT * FROM child WHERE id = 1;
SELECT tenantmig.add_foreign_key('child', '{tenant_id,parent_id}', 'parent', '{tenant_id,id}', on_delete => 'SET NULL') = :job AS same;
INSERT INTO parent VALUES (1, 't1'); UPDATE child SET parent_id = 1 WHERE id = 1;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('child', '');
-- one that is there by hand, one of a name, an unknown table
ALTER TABLE child ADD CONSTRAINT by_hand FOREIGN KEY (tenant_id, parent_id) REFERENCES parent;
SELECT tenantmig.add_foreign_key('child', '{tenant_id,parent_id}', 'parent', '{tenant_id,id}') AS job \gset
SELECT state FROM tenantmig.jobs WHERE id = :job;
SELECT count(*) FROM tenantmig.job_steps WHERE job = :job;
SELECT tm_test.try($$SELECT tenantmig.add_foreign_key('child', '{tenant_id,parent_id}', 'parent', '{tenant_id,id}', 'by_hand', 'CASCADE')$$);
SELECT tm_test.try($$SELECT tenantmig.add_foreign_key('child', '{parent_id}', 'parent', '{id}')$$);
SELECT tm_test.try($$SELECT tenantmig.add_foreign_key('child', '{tenant_id,parent_id}', 'parent', '{id}')$$);
SELECT tm_test.try($$SELECT tenantmig.add_foreign_key('child', '{tenant_id,parent_id}', 'parent', '{tenant_id,id}', on_delete => 'explode')$$);
SELECT tm_test.try($$SELECT tenantmig.add_foreign_key('child', '{tenant_id}', 'parent', '{tenant_id}', on_delete => 'set null')$$);
SELECT tm_test.try($$SELECT tenantmig.add_foreign_key('child', '{nope}', 'parent', '{id}')$$);
SELECT tm_test.try($$SELECT tenantmig.add_foreign_key('child', '{id}', 'keys', '{id}')$$);
SELECT tm_test.try($$SELECT tenantmig.add_foreign_key('child', '{tenant_id,parent_id}', 'parent', '{tenant_id,id}', '')$$);
SELECT tm_test.try($$SELECT tenantmig.add_foreign_key('child', '{tenant_id,parent_id}', NULL, '{tenant_id,id}')$$);
-- partitions; odd names; with itself
CREATE TABLE "Leaves; --" (id int, tenant_id text NOT NULL, "der %R" int) PARTITION BY RANGE (id);
CREATE TABLE leaf_1 PARTITION OF "Leaves; --" FOR VALUES FROM (0) TO (10);
CREATE TABLE leaf_2 PARTITION OF "Leaves; --" FOR VALUES FROM (10) TO (99) PARTITION BY RANGE (id);
CREATE TABLE leaf_21 PARTITION OF leaf_2 FOR VALUES FROM (10) TO (99);
INSERT INTO "Leaves; --" SELECT i, 't' || i % 2, i FROM generate_series(1, 50) i;
ALTER TABLE leaf_1 ADD CONSTRAINT "an own" FOREIGN KEY (tenant_id, "der %R") REFERENCES parent (tenant_id, id) ON DELETE CASCADE;
SELECT tm_test.keep('"Leaves; --"', '');
SELECT tenantmig.add_foreign_key('"Leaves; --"', '{tenant_id,der %R}', 'parent', '{tenant_id,id}', 'of "leaves" %', 'CASCADE') AS job \gset
CALL tenantmig.wait(:job);
SELECT tm_test.changes('"Leaves; --"', '');
SELECT * FROM tm_test.leftovers;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('"Leaves; --"', '');
ALTER TABLE parent ADD up int;
SELECT tenantmig.add_foreign_key('parent', '{tenant_id,up}', 'parent', '{tenant_id,id}') AS job \gset
CALL tenantmig.wait(:job);
SELECT * FROM keys('parent');
-- a constraint of the name that somebody has added meanwhile is not the job's
CREATE TABLE astray (id int, tenant_id text, parent_id int);
INSERT INTO astray VALUES (1, 't1', 100000);
SELECT tenantmig.add_foreign_key('astray', '{tenant_id,parent_id}', 'parent', '{tenant_id,id}', 'theirs') AS job \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
DELETE FROM astray;
ALTER TABLE astray ADD CONSTRAINT theirs CHECK (id > 0);
SELECT tenantmig.retry(:job);
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT state, regexp_replace(error, '[0-9]+$', 'N') AS error FROM tenantmig.jobs WHERE id = :job;
SELECT * FROM keys('astray');
-- undo out of order: what another job has put in its place stays
CREATE TABLE above (id int PRIMARY KEY, tenant_id text NOT NULL);
CREATE TABLE below (id int, tenant_id text NOT NULL, above_id int);
SELECT tenantmig.add_foreign_key('below', '{above_id}', 'above', '{id}') AS first \gset
CALL tenantmig.wait(:first);
SELECT tenantmig.set_primary_key('above', '{tenant_id,id}') AS second \gset
CALL tenantmig.wait(:second);
SELECT tenantmig.undo(:first) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT * FROM keys('above', 'below');
-- a column of the old key that can be NULL by now
CREATE TABLE loose (id int PRIMARY KEY, code int NOT NULL, tenant_id text NOT NULL);
SELECT tenantmig.set_primary_key('loose', '{tenant_id,code}', 'keep') AS job \gset
CALL tenantmig.wait(:job);
ALTER TABLE loose ALTER id DROP NOT NULL;
INSERT INTO loose VALUES (NULL, 1, 't1');
SELECT tm_test.try(format('SELECT tenantmig.undo(%s)', :job));
SELECT tenantmig.undo(:job) AS undo \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:undo);
\set VERBOSITY default
SELECT * FROM keys('loose');
\set ECHO none
DROP SCHEMA tm_keys CASCADE;
DROP ROLE tm_keys_a, tm_keys_b;
