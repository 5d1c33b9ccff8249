--
-- backfill by metadata only: when, what stays of the column, why not, and back
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
SELECT setval('tenantmig.job_id_seq', 950000) \g /dev/null
\set ECHO all
CREATE SCHEMA tm_metadata;
SET search_path = tm_metadata, public;

-- The way that a job went, and what it said of metadata
CREATE FUNCTION way(job bigint) RETURNS TABLE (state text, method text, metadata text, changed text, "default" text)
LANGUAGE sql AS $$
SELECT j.state, coalesce(summary ->> 'method', plan ->> 'method'), coalesce(summary ->> 'metadata', plan ->> 'metadata'),
	summary ->> 'rows_changed', summary ->> 'default'
FROM tenantmig.job j WHERE id = job
$$;
-- What says whether rows were written
CREATE FUNCTION places(relation regclass) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE format('SELECT md5(string_agg(format(%L, tableoid, ctid, xmin), %L ORDER BY tableoid, ctid)) FROM %s',
		'%s %s %s', ',', relation) INTO result;
	RETURN concat(result, ' ', pg_relation_filenode(relation));
END $$;

--
-- No row is written, and the column is what it was
--
CREATE TABLE orders (id int PRIMARY KEY, note text, tenant_id varchar(10) COLLATE "C" DEFAULT upper('none'));
INSERT INTO orders SELECT i, repeat('x', i % 40), NULL FROM generate_series(1, 5000) i;
UPDATE orders SET note = 'again' WHERE id % 7 = 0;
DELETE FROM orders WHERE id % 11 = 0;
SELECT tm_test.keep('orders');
SELECT places('orders') AS before \gset
SELECT tenantmig.backfill('orders', value => 'acme', dry_run => true) AS job \gset
SELECT * FROM way(:job);
SELECT statement, lock_mode FROM tenantmig.job_steps WHERE job = :job ORDER BY position;
SELECT plan ->> 'estimated_wal_bytes' AS wal, plan ->> 'rows_total' AS rows FROM tenantmig.job WHERE id = :job;
SELECT tenantmig.backfill('orders', value => 'acme') AS job \gset
CALL tenantmig.wait(:job);
SELECT * FROM way(:job);
SELECT tm_test.changes('orders');
SELECT places('orders') = :'before' AS unwritten;
SELECT attcollation::regcollation FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'tenant_id';
SELECT tenant_id, count(*) FROM orders GROUP BY tenant_id;
SELECT position, kind, state, statement, inverse, lock_mode
FROM tenantmig.job_steps WHERE job = :job ORDER BY position;
SELECT (summary ->> 'lock_held_ms')::int < 5000 AS short FROM tenantmig.job WHERE id = :job;
SELECT * FROM tm_test.leftovers;
-- new rows get what they got before
INSERT INTO orders (id) VALUES (6000);
SELECT tenant_id FROM orders WHERE id = 6000;
-- the same call finds the job, as nothing is left to do
SELECT tenantmig.backfill('orders', value => 'acme') = :job AS same;
-- back: not all rows have the value, so those that have it are written
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenant_id, count(*) FROM orders GROUP BY tenant_id ORDER BY 1;
SELECT places('orders') = :'before' AS unwritten;
DELETE FROM orders WHERE id = 6000;
SELECT tm_test.changes('orders');

-- forth and back without a row written; the new attribute numbers do not show
SELECT places('orders') AS before \gset
SELECT tenantmig.backfill('orders', value => 'globex') AS job \gset
CALL tenantmig.wait(:job);
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT places('orders') = :'before' AS unwritten;
SELECT tenant_id, count(*) FROM orders GROUP BY tenant_id;
SELECT summary ->> 'rows_changed' AS changed, summary ->> 'rows_left' AS left FROM tenantmig.job WHERE id = :undo;
SELECT tm_test.changes('orders');

-- rows that have the value already
UPDATE orders SET tenant_id = 'acme' WHERE id < 100;
SELECT tenantmig.backfill('orders', value => 'acme') AS job \gset
CALL tenantmig.wait(:job);
SELECT * FROM way(:job);
SELECT tenant_id, count(*) FROM orders GROUP BY tenant_id;
SELECT tenantmig.undo(:job) AS undo \gset
\set VERBOSITY terse
CALL tenantmig.wait(:undo);
\set VERBOSITY default
SELECT tenant_id, count(*) FROM orders GROUP BY tenant_id;

-- a row with another value; also one that the type only takes for the same
UPDATE orders SET tenant_id = NULL;
UPDATE orders SET tenant_id = 'other' WHERE id = 42;
SELECT tenantmig.backfill('orders', value => 'acme') AS job \gset
CALL tenantmig.wait(:job);
SELECT * FROM way(:job);
SELECT tenant_id, count(*) FROM orders GROUP BY tenant_id ORDER BY 1;
CREATE TABLE alike (id int, tenant_id numeric);
INSERT INTO alike VALUES (1, 1.00), (2, NULL);
SELECT tenantmig.backfill('alike', value => '1') AS job \gset
CALL tenantmig.wait(:job);
SELECT * FROM way(:job);
SELECT * FROM alike ORDER BY id;
-- and who insists is told what to type
SELECT tenantmig.backfill('orders', value => 'globex', dry_run => true, options => '{"method": "metadata"}') AS job \gset
SELECT plan ->> 'method' AS method, plan ->> 'warnings' AS warnings FROM tenantmig.job WHERE id = :job;
UPDATE orders SET tenant_id = NULL WHERE id > 50;
SELECT tenantmig.backfill('orders', value => 'globex', options => '{"method": "metadata"}') AS job \gset
\set VERBOSITY terse
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT sqlstate, error, error_detail, error_hint FROM tenantmig.jobs WHERE id = :job;
SELECT tenant_id, count(*) FROM orders GROUP BY tenant_id ORDER BY 1;
SELECT tm_test.try($$SELECT tenantmig.backfill('orders', expression => 'note', options => '{"method": "metadata"}')$$);

-- NOT NULL, with a placeholder
CREATE TABLE fore (id int, tenant_id int NOT NULL DEFAULT 0);
INSERT INTO fore SELECT generate_series(1, 1000);
SELECT tenantmig.backfill('fore', value => '7', unset => '0') AS job \gset
CALL tenantmig.wait(:job);
SELECT * FROM way(:job);
SELECT tenant_id, count(*) FROM fore GROUP BY tenant_id;
INSERT INTO fore VALUES (1001);
SELECT tenant_id FROM fore WHERE id = 1001;
DELETE FROM fore WHERE id = 1001;
-- the placeholder comes back, and the column is NOT NULL all the time
SELECT places('fore') AS before \gset
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT places('fore') = :'before' AS unwritten;
SELECT tenant_id, count(*) FROM fore GROUP BY tenant_id;
SELECT tm_test.catalog('fore');

--
-- keep_trigger: new rows go on getting the value, by the default
--
CREATE TABLE kept (id int, tenant_id text DEFAULT lower('NONE'));
INSERT INTO kept SELECT i, NULL FROM generate_series(1, 10) i;
SELECT tenantmig.backfill('kept', value => 'it''s', options => '{"keep_trigger": true}') AS job \gset
CALL tenantmig.wait(:job);
SELECT * FROM way(:job);
INSERT INTO kept VALUES (11);
SELECT tenant_id, count(*) FROM kept GROUP BY tenant_id;
SELECT position, kind, state, statement, inverse FROM tenantmig.job_steps WHERE job = :job ORDER BY position;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
INSERT INTO kept VALUES (12);
SELECT tenant_id, count(*) FROM kept GROUP BY tenant_id ORDER BY 1;
SELECT tm_test.catalog('kept');

--
-- Partitions and inheritance
--
CREATE TABLE part (id int, region text, tenant_id text) PARTITION BY LIST (region);
CREATE TABLE part_eu PARTITION OF part FOR VALUES IN ('EU') PARTITION BY RANGE (id);
CREATE TABLE part_eu_1 PARTITION OF part_eu FOR VALUES FROM (1) TO (1000);
CREATE TABLE part_us (region text, tenant_id text, id int);
ALTER TABLE part_us DROP COLUMN tenant_id;
ALTER TABLE part_us ADD COLUMN tenant_id text;
ALTER TABLE part ATTACH PARTITION part_us FOR VALUES IN ('US');
INSERT INTO part SELECT i, CASE WHEN i % 2 = 0 THEN 'EU' ELSE 'US' END FROM generate_series(1, 900) i;
SELECT tm_test.keep('part');
SELECT places('part') AS before \gset
SELECT tenantmig.backfill('part', value => 'acme') AS job \gset
CALL tenantmig.wait(:job);
SELECT * FROM way(:job);
SELECT places('part') = :'before' AS unwritten;
SELECT tableoid::regclass, tenant_id, count(*) FROM part GROUP BY 1, 2 ORDER BY min(tableoid::regclass::text COLLATE "C");
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT places('part') = :'before' AS unwritten;
SELECT count(tenant_id) AS set FROM part;
SELECT tm_test.changes('part');
-- a value in one leaf
UPDATE part SET tenant_id = 'other' WHERE id = 5;
SELECT tenantmig.backfill('part', value => 'acme', dry_run => true) AS job \gset
SELECT * FROM way(:job);
UPDATE part SET tenant_id = NULL WHERE id = 5;
-- an index on one leaf
CREATE INDEX ON part_eu_1 (tenant_id);
SELECT tenantmig.backfill('part', value => 'acme', dry_run => true) AS job \gset
SELECT * FROM way(:job);
CREATE TABLE heir_root (id int, tenant_id text);
CREATE TABLE heir_1 () INHERITS (heir_root);
CREATE TABLE heir_2 (tenant_id text) INHERITS (heir_root);
INSERT INTO heir_1 VALUES (1);
INSERT INTO heir_2 VALUES (2);
SELECT (way(tenantmig.backfill(r, value => 'acme', dry_run => true))).metadata
FROM unnest(ARRAY['heir_root', 'heir_1']::regclass[]) r;
DROP TABLE heir_2;
ALTER TABLE heir_1 ALTER tenant_id SET DEFAULT 'x';
SELECT (way(tenantmig.backfill('heir_root', value => 'acme', dry_run => true))).metadata;
ALTER TABLE heir_1 ALTER tenant_id DROP DEFAULT;
SELECT tenantmig.backfill('heir_root', value => 'acme') AS job \gset
CALL tenantmig.wait(:job);
SELECT * FROM way(:job);
SELECT * FROM heir_root;

--
-- What stands in the way: each is there in its turn, and nothing else
--
CREATE ROLE tm_metadata_reader;
CREATE TABLE whole (id int);
CREATE TABLE t (id int PRIMARY KEY, tenant_id text);
INSERT INTO t VALUES (1), (2);
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TABLE cases (n serial, what text, there text, gone text);
INSERT INTO cases (what, there, gone) VALUES
	('index', 'CREATE INDEX i ON t (tenant_id)', 'DROP INDEX i'),
	('expression index', 'CREATE INDEX i ON t (lower(tenant_id))', 'DROP INDEX i'),
	('whole-row index', 'CREATE INDEX i ON t ((t IS NULL))', 'DROP INDEX i'),
	('partial index', 'CREATE INDEX i ON t (id) WHERE tenant_id IS NULL', 'DROP INDEX i'),
	('check', 'ALTER TABLE t ADD CONSTRAINT c CHECK (tenant_id <> $$x$$)', 'ALTER TABLE t DROP CONSTRAINT c'),
	('whole-row check', 'ALTER TABLE t ADD CONSTRAINT c CHECK (t IS DISTINCT FROM NULL)', 'ALTER TABLE t DROP CONSTRAINT c'),
	('unique', 'ALTER TABLE t ADD CONSTRAINT c UNIQUE (tenant_id)', 'ALTER TABLE t DROP CONSTRAINT c'),
	('foreign key', 'ALTER TABLE t ADD CONSTRAINT c FOREIGN KEY (tenant_id) REFERENCES ref', 'ALTER TABLE t DROP CONSTRAINT c'),
	('view', 'CREATE VIEW v AS SELECT tenant_id FROM t', 'DROP VIEW v'),
	('view of rows', 'CREATE VIEW v AS SELECT t FROM t', 'DROP VIEW v'),
	('rule', 'CREATE RULE r AS ON DELETE TO t DO ALSO INSERT INTO whole SELECT 1 WHERE OLD.tenant_id IS NULL', 'DROP RULE r ON t'),
	('policy', 'CREATE POLICY p ON t USING (tenant_id = $$x$$)', 'DROP POLICY p ON t'),
	('whole-row policy', 'CREATE POLICY p ON t USING (t IS NOT NULL)', 'DROP POLICY p ON t'),
	('generated', 'ALTER TABLE t ADD g text GENERATED ALWAYS AS (lower(tenant_id)) STORED', 'ALTER TABLE t DROP g'),
	('trigger of', 'CREATE TRIGGER g BEFORE UPDATE OF tenant_id ON t FOR EACH ROW EXECUTE FUNCTION nothing()', 'DROP TRIGGER g ON t'),
	('statistics', 'CREATE STATISTICS s ON id, tenant_id FROM t', 'DROP STATISTICS s'),
	('sequence', 'CREATE SEQUENCE q OWNED BY t.tenant_id', 'DROP SEQUENCE q'),
	('function', 'CREATE FUNCTION f() RETURNS text BEGIN ATOMIC SELECT tenant_id FROM t; END', 'DROP FUNCTION f'),
	('row argument', 'CREATE FUNCTION f(t) RETURNS int LANGUAGE sql AS $$SELECT 1$$', 'DROP FUNCTION f'),
	('row column', 'ALTER TABLE whole ADD r t[]', 'ALTER TABLE whole DROP r'),
	('publication of columns', 'CREATE PUBLICATION p FOR TABLE t (id, tenant_id)', 'DROP PUBLICATION p'),
	('privilege', 'GRANT SELECT (tenant_id) ON t TO tm_metadata_reader', 'REVOKE SELECT (tenant_id) ON t FROM tm_metadata_reader'),
	('comment', 'COMMENT ON COLUMN t.tenant_id IS $$c$$', 'COMMENT ON COLUMN t.tenant_id IS NULL'),
	('option', 'ALTER TABLE t ALTER tenant_id SET (n_distinct = 3)', 'ALTER TABLE t ALTER tenant_id RESET (n_distinct)'),
	('target', 'ALTER TABLE t ALTER tenant_id SET STATISTICS 7', 'ALTER TABLE t ALTER tenant_id SET STATISTICS -1'),
	('storage', 'ALTER TABLE t ALTER tenant_id SET STORAGE MAIN', 'ALTER TABLE t ALTER tenant_id SET STORAGE EXTENDED'),
	('compression', 'ALTER TABLE t ALTER tenant_id SET COMPRESSION pglz', 'ALTER TABLE t ALTER tenant_id SET COMPRESSION default'),
	('composite type', 'ALTER TABLE t OF t_type', 'ALTER TABLE t NOT OF'),
	-- what it could do, but not unasked
	('order', 'ALTER TABLE t ADD later int', 'ALTER TABLE t DROP later'),
	('trigger', 'CREATE TRIGGER g AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION nothing()', 'DROP TRIGGER g ON t'),
	('update rule', 'CREATE RULE r AS ON UPDATE TO t DO ALSO NOTHING', 'DROP RULE r ON t'),
	('publication', 'CREATE PUBLICATION p FOR TABLE t', 'DROP PUBLICATION p'),
	-- what does not matter
	('insert trigger', 'CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION nothing()', 'DROP TRIGGER g ON t'),
	('trigger of another', 'CREATE TRIGGER g BEFORE UPDATE OF id ON t FOR EACH ROW EXECUTE FUNCTION nothing()', 'DROP TRIGGER g ON t'),
	('index of another', 'CREATE INDEX i ON t (id)', 'DROP INDEX i'),
	('view of another', 'CREATE VIEW v AS SELECT id FROM t', 'DROP VIEW v'),
	('default', 'ALTER TABLE t ALTER tenant_id SET DEFAULT current_setting($$a.b$$, true)', 'ALTER TABLE t ALTER tenant_id DROP DEFAULT');
CREATE TABLE ref (tenant_id text PRIMARY KEY);
CREATE TYPE t_type AS (id int, tenant_id text);
CREATE FUNCTION verdict(what text, there text, gone text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE there;
	result := (way(tenantmig.backfill('t', value => 'acme', dry_run => true))).metadata;
	EXECUTE gone;
	RETURN result;
END $$;
SELECT what, verdict(what, there, gone) FROM cases ORDER BY n;
SELECT verdict('nothing', '', '');
-- a job asks again, and goes by rows
CREATE INDEX i ON t (tenant_id);
SELECT tenantmig.backfill('t', value => 'acme') AS job \gset
CALL tenantmig.wait(:job);
SELECT * FROM way(:job);
SELECT * FROM t ORDER BY id;
CREATE DOMAIN short AS text CHECK (length(VALUE) < 10);
CREATE TABLE guarded (id int, tenant_id short);
INSERT INTO guarded VALUES (1);
SELECT (way(tenantmig.backfill('guarded', value => 'acme', dry_run => true))).metadata;

-- asked for: the column becomes the last one
CREATE TABLE early (tenant_id text NOT NULL DEFAULT 'none', id int);
INSERT INTO early (id) VALUES (1), (2);
SELECT tenantmig.backfill('early', value => 'acme', unset => 'none') AS job \gset
CALL tenantmig.wait(:job);
SELECT * FROM way(:job);
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenantmig.backfill('early', value => 'acme', unset => 'none', options => '{"method": "metadata"}') AS job \gset
CALL tenantmig.wait(:job);
SELECT * FROM way(:job);
SELECT * FROM early ORDER BY id;
SELECT tm_test.catalog('early');
-- ranges and pages: not, though it could be
CREATE TABLE could (id int, tenant_id text);
INSERT INTO could VALUES (1);
SELECT tenantmig.backfill('could', value => 'acme', options => '{"method": "ranges"}') AS job \gset
CALL tenantmig.wait(:job);
SELECT * FROM way(:job);
UPDATE could SET tenant_id = NULL;
SELECT tenantmig.backfill('could', value => 'other', options => '{"method": "pages"}') AS job \gset
CALL tenantmig.wait(:job);
SELECT (way(:job)).method <> 'metadata' AS by_rows;
-- a table without rows to fill
CREATE TABLE nobody (id int, tenant_id text);
SELECT tenantmig.backfill('nobody', value => 'acme') AS job \gset
CALL tenantmig.wait(:job);
SELECT * FROM way(:job);

\set VERBOSITY terse
DROP SCHEMA tm_metadata CASCADE;
DROP ROLE tm_metadata_reader;
