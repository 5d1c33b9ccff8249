--
-- backfill: which rows get which value, what is left alone, and the way back
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
SELECT setval('tenantmig.job_id_seq', 200000) \g /dev/null
\set ECHO all
CREATE SCHEMA tm_backfill;
SET search_path = tm_backfill, public;

CREATE TABLE orders (id int PRIMARY KEY, region text, note text, tenant_id text);
INSERT INTO orders SELECT i, CASE WHEN i % 2 = 0 THEN 'EU' ELSE 'US' END, repeat('x', i % 40) FROM generate_series(1, 5000) i;
UPDATE orders SET tenant_id = 'old' WHERE id <= 10;
SELECT tm_test.keep('orders');

--
-- A value
--
SELECT tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges"}') AS job \gset
CALL tenantmig.wait(:job);
SELECT tm_test.changes('orders');
SELECT tenant_id, count(*), min(id), max(id) FROM orders GROUP BY tenant_id ORDER BY tenant_id;
SELECT kind, relation, state, phase, rows_total, rows_done, attempts, error, next_action
FROM tenantmig.jobs WHERE id = :job;
SELECT jsonb_pretty(tm_test.facts(:job));
SELECT position, kind, state, regexp_replace(tm_test.mask(statement), ' BEFORE .*', ' ...') AS statement, tm_test.mask(inverse) AS inverse, lock_mode
FROM tenantmig.job_steps WHERE job = :job ORDER BY position;
SELECT count(*) AS errors FROM tenantmig.job_errors WHERE job = :job;
SELECT * FROM tm_test.leftovers;

-- again: the same job, as long as no row needs a value
SELECT tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges"}') = :job AS same;
INSERT INTO orders VALUES (5001, 'EU', '');
SELECT tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges"}') AS job2 \gset
SELECT :job2 <> :job AS another;
CALL tenantmig.wait(:job2);
SELECT rows_total, rows_done FROM tenantmig.jobs WHERE id = :job2;
-- it cannot be taken back: rows of the first cannot be told from its own
SELECT tm_test.try(format('SELECT tenantmig.undo(%s)', :job));
SELECT setval('tenantmig.job_id_seq', 210000);
SELECT tenantmig.undo(:job2) AS undo \gset
\set VERBOSITY terse
CALL tenantmig.wait(:undo);
\set VERBOSITY default
SELECT tm_test.mask(error) AS error, tm_test.mask(error_detail) AS detail, error_hint AS hint FROM tenantmig.jobs WHERE id = :undo;
SELECT tenant_id, count(*) FROM orders GROUP BY tenant_id ORDER BY tenant_id;
DELETE FROM orders WHERE id = 5001;

-- a first backfill can be taken back
TRUNCATE orders;
INSERT INTO orders SELECT i, CASE WHEN i % 2 = 0 THEN 'EU' ELSE 'US' END, repeat('x', i % 40) FROM generate_series(1, 5000) i;
UPDATE orders SET tenant_id = 'old' WHERE id <= 10;
SELECT tm_test.changes('orders');
CREATE TABLE before AS SELECT * FROM orders;
SELECT tenantmig.backfill('orders', value => 'globex', options => '{"method": "ranges"}') AS job \gset
CALL tenantmig.wait(:job);
-- a row that came in with the value since, and one that has been given to another tenant since
INSERT INTO orders VALUES (6000, 'EU', 'new', 'globex');
UPDATE orders SET tenant_id = 'initech' WHERE id = 11;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT o.* FROM orders o LEFT JOIN before b USING (id) WHERE b IS DISTINCT FROM o ORDER BY id;
SELECT state, undone_by = :undo AS by_it FROM tenantmig.jobs WHERE id = :job;
DELETE FROM orders WHERE id = 6000;
UPDATE orders SET tenant_id = NULL WHERE tenant_id <> 'old';

--
-- An expression
--
SELECT tenantmig.backfill('orders', expression => $$lower(region) || '-' || (orders.id % 3) -- per region$$) AS job \gset
CALL tenantmig.wait(:job);
SELECT tm_test.changes('orders');
SELECT count(*) FROM orders WHERE tenant_id IS DISTINCT FROM
	CASE WHEN id <= 10 THEN 'old' WHEN id % 2 = 0 THEN 'eu-' || id % 3 ELSE 'us-' || id % 3 END;
SELECT rows_total, rows_done FROM tenantmig.jobs WHERE id = :job;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT count(*) FROM (SELECT * FROM orders EXCEPT SELECT * FROM before) s;
-- with a sub-select, of the type's cast, and a CASE that leaves rows out
CREATE TABLE regions (code text PRIMARY KEY, tenant text);
INSERT INTO regions VALUES ('EU', 'euro');
SELECT tenantmig.backfill('orders', expression => '(SELECT tenant FROM regions WHERE code = region)', options => '{"on_orphan": "leave"}') AS job \gset
CALL tenantmig.wait(:job);
SELECT region, tenant_id, count(*) FROM orders GROUP BY 1, 2 ORDER BY 1, 2;
SELECT tm_test.facts(:job) - 'source' AS facts;
-- what was left is listed by key
SELECT relation, key, sqlstate, message FROM tenantmig.job_errors WHERE job = :job ORDER BY (key ->> 'id')::int LIMIT 3;
SELECT count(*) FROM tenantmig.job_errors WHERE job = :job;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT count(*) FROM (SELECT * FROM orders EXCEPT SELECT * FROM before) s;

-- rows without a value: fail, by default; the others have theirs
SELECT tenantmig.backfill('orders', expression => '(SELECT tenant FROM regions WHERE code = region)') AS job \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
\pset format unaligned
SELECT state, sqlstate, error, regexp_replace(error_detail, '\{.*\}', '{...}') AS error_detail, tm_test.mask(error_hint) AS error_hint,
       next_action = format('SELECT tenantmig.retry(%s);', id) AS retry
FROM tenantmig.jobs WHERE id = :job;
\pset format aligned
SELECT region, tenant_id, count(*) FROM orders GROUP BY 1, 2 ORDER BY 1, 2;
SELECT * FROM tm_test.leftovers;
-- mended, and tried again
INSERT INTO regions VALUES ('US', 'usa');
SELECT tenantmig.retry(:job);
CALL tenantmig.wait(:job);
SELECT region, tenant_id, count(*) FROM orders GROUP BY 1, 2 ORDER BY 1, 2;
SELECT state, error, attempts FROM tenantmig.jobs WHERE id = :job;
SELECT count(*) FROM tenantmig.job_errors WHERE job = :job AND key IS NOT NULL;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT count(*) FROM (SELECT * FROM orders EXCEPT SELECT * FROM before) s;
-- a failed one is undone as well
DELETE FROM regions WHERE code = 'US';
SELECT tenantmig.backfill('orders', expression => '(SELECT tenant FROM regions WHERE code = region)') AS job \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT count(*) FROM (SELECT * FROM orders EXCEPT SELECT * FROM before) s;
-- assigned
UPDATE orders SET tenant_id = 'lost' WHERE id = 1;
SELECT tenantmig.backfill('orders', expression => '(SELECT tenant FROM regions WHERE code = region)', options => '{"on_orphan": "assign", "orphan_value": "lost"}') AS job \gset
CALL tenantmig.wait(:job);
SELECT region, tenant_id, count(*) FROM orders GROUP BY 1, 2 ORDER BY 1, 2;
SELECT tm_test.facts(:job) - 'source' AS facts;
-- a row that had the orphans' value before cannot be told from them
SELECT tenantmig.undo(:job) AS undo \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:undo);
\set VERBOSITY default
SELECT error_detail FROM tenantmig.jobs WHERE id = :undo;
SELECT region, tenant_id, count(*) FROM orders GROUP BY 1, 2 ORDER BY 1, 2;
-- without such a row they can
UPDATE orders SET tenant_id = CASE WHEN id <= 10 THEN 'old' END WHERE tenant_id IN ('lost', 'euro');
SELECT tenantmig.backfill('orders', expression => '(SELECT tenant FROM regions WHERE code = region)', options => '{"on_orphan": "assign", "orphan_value": "found"}') AS job \gset
CALL tenantmig.wait(:job);
SELECT region, tenant_id, count(*) FROM orders GROUP BY 1, 2 ORDER BY 1, 2;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT count(*) FROM (SELECT * FROM orders EXCEPT SELECT * FROM before) s;

--
-- A placeholder
--
CREATE TABLE marked (id int, tenant_id text NOT NULL DEFAULT 'unassigned');
INSERT INTO marked (id) VALUES (1), (2);
INSERT INTO marked VALUES (3, 'acme');
SELECT tenantmig.backfill('marked', value => 'globex', unset => 'unassigned', options => '{"method": "ranges"}') AS job \gset
CALL tenantmig.wait(:job);
SELECT * FROM marked ORDER BY id;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT * FROM marked ORDER BY id;

--
-- Via a foreign key, by column and by constraint
--
CREATE TABLE customers (id int PRIMARY KEY, tenant_id text);
CREATE TABLE invoices (id int, customer_id int REFERENCES customers, payer int CONSTRAINT pays REFERENCES customers, tenant_id text);
INSERT INTO customers SELECT i, 't' || i % 7 FROM generate_series(1, 100) i;
INSERT INTO invoices SELECT i, i % 100 + 1, (i + 50) % 100 + 1 FROM generate_series(1, 3000) i;
INSERT INTO invoices VALUES (3001, NULL, 1);
SELECT tm_test.keep('invoices');
SELECT tenantmig.backfill('invoices', via => 'pays') AS job \gset
CALL tenantmig.wait(:job);
SELECT tm_test.changes('invoices');
SELECT count(*) FROM invoices i JOIN customers c ON c.id = payer WHERE i.tenant_id IS DISTINCT FROM c.tenant_id;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT count(*) FROM invoices WHERE tenant_id IS NOT NULL;
SELECT tenantmig.backfill('invoices', via => 'customer_id') AS job \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT error, regexp_replace(error_detail, '\{.*\}', '{...}') AS error_detail FROM tenantmig.jobs WHERE id = :job;
SELECT count(*) FROM invoices i LEFT JOIN customers c ON c.id = customer_id WHERE i.tenant_id IS DISTINCT FROM c.tenant_id;
-- a parent without a tenant is no tenant either
UPDATE invoices SET tenant_id = NULL;
UPDATE customers SET tenant_id = NULL WHERE id = 7;
DELETE FROM invoices WHERE id = 3001;
SELECT tenantmig.backfill('invoices', via => 'customer_id', options => '{"on_orphan": "leave"}') AS job \gset
CALL tenantmig.wait(:job);
SELECT count(*) AS left, count(DISTINCT customer_id) AS of_customers, min(customer_id) FROM invoices WHERE tenant_id IS NULL;
SELECT tm_test.facts(:job) ->> 'orphans' AS orphans;
-- via waits for the parent's own job
UPDATE invoices SET tenant_id = NULL;
UPDATE customers SET tenant_id = NULL;
BEGIN;
SELECT tenantmig.backfill('customers', expression => $$'t' || id % 7$$) AS parent \gset
SELECT tenantmig.backfill('invoices', via => 'customer_id') AS child \gset
COMMIT;
CALL tenantmig.wait(:child);
SELECT count(*) FROM invoices i JOIN customers c ON c.id = customer_id WHERE i.tenant_id IS DISTINCT FROM c.tenant_id OR c.tenant_id <> 't' || c.id % 7;
SELECT p.finished_at <= c.started_at AS in_order FROM tenantmig.jobs p, tenantmig.jobs c WHERE p.id = :parent AND c.id = :child;
-- and cannot be undone before the child is
SELECT tm_test.try(format('SELECT tenantmig.undo(%s)', :parent));

--
-- Options
--
CREATE TABLE small (id int PRIMARY KEY, tenant_id text);
INSERT INTO small SELECT generate_series(1, 10);
SELECT o, tm_test.try(format($$SELECT tenantmig.backfill('small', value => 'a', options => %L)$$, o))
FROM unnest(ARRAY['{"batch_size": 10}', '{"on_orphan": "drop"}', '{"on_orphan": "assign"}', '{"orphan_value": "x"}',
	'{"on_orphan": "assign", "orphan_value": ""}', '{"nice": "very"}', '{"nice": -1}', '{"batch_target": "soon"}', '{"batch_target": "-1s"}',
	'{"max_rows_per_second": "1e99"}', '{"max_wal_rate": -5}', '{"max_replication_lag": "x"}', '{"not_between": "08:00"}',
	'{"not_between": ["08:00"]}', '{"not_between": ["08:00", "25:00"]}', '{"not_between": [8, 18]}',
	'{"synchronous_commit": "maybe"}', '{"keep_trigger": "perhaps"}', '{"workers": 17}', '{"method": "magic"}',
	'{"triggers": "none"}', '{"max_errors": 10}', '{"on_conflict": "replace"}', '[]', '"x"', '1', 'null',
	'{"nice": {"a": 1}}', E'{"a\\nb": 1}']) o;
SELECT count(*) AS jobs FROM tenantmig.jobs WHERE relation = 'tm_backfill.small';
-- all that are known, at once
SELECT tenantmig.backfill('small', value => 'a', options => '{"method": "auto", "workers": 1, "batch_target": "50ms",
	"max_rows_per_second": 100000, "max_wal_rate": 100000000, "max_replication_lag": "1min", "nice": 0.1,
	"not_between": ["00:00", "00:00"], "on_orphan": "fail", "on_conflict": "leave", "max_errors": 0, "triggers": "on",
	"keep_trigger": false, "synchronous_commit": true}') AS job \gset
CALL tenantmig.wait(:job);
SELECT tenant_id, count(*) FROM small GROUP BY 1;

--
-- The table's own triggers and checks fire; an error is told with the row's table
--
CREATE TABLE strict (id int PRIMARY KEY, tenant_id text CHECK (tenant_id <> 'bad'), touched text);
INSERT INTO strict VALUES (1), (2);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.touched := current_user; RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON strict FOR EACH ROW EXECUTE FUNCTION touch();
SELECT tenantmig.backfill('strict', value => 'bad', options => '{"method": "ranges"}') AS job \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT sqlstate, error, error_detail, error_hint FROM tenantmig.jobs WHERE id = :job;
SELECT * FROM strict ORDER BY id;
SELECT * FROM tm_test.leftovers;
SELECT tenantmig.backfill('strict', value => 'good', options => '{"method": "ranges"}') AS job \gset
CALL tenantmig.wait(:job);
SELECT id, tenant_id, touched = current_user AS as_owner FROM strict ORDER BY id;
-- a trigger that sets it back, one that skips the row, a rule: a failure, no
-- endless sweep and no success
CREATE FUNCTION unset() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.tenant_id := NULL; RETURN NEW; END $$;
CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TABLE unsetting (id int, tenant_id text);
CREATE TABLE skipping (LIKE unsetting);
CREATE TABLE ruled (LIKE unsetting);
INSERT INTO unsetting VALUES (1), (2);
INSERT INTO skipping VALUES (1), (2);
INSERT INTO ruled VALUES (1), (2);
CREATE TRIGGER zzz_unset BEFORE UPDATE ON unsetting FOR EACH ROW EXECUTE FUNCTION unset();
CREATE TRIGGER skip BEFORE UPDATE ON skipping FOR EACH ROW WHEN (OLD.id = 1) EXECUTE FUNCTION skip();
CREATE RULE nothing AS ON UPDATE TO ruled DO INSTEAD NOTHING;
CREATE TEMP TABLE in_vain AS
SELECT t, 'value' AS s, tenantmig.backfill(t, value => 'a', options => '{"method": "ranges", "on_orphan": "leave"}') AS job
FROM unnest('{unsetting,skipping,ruled}'::regclass[]) t;
CALL tm_test.wait_until($$SELECT count(*) = 0 FROM tenantmig.jobs JOIN in_vain ON id = job WHERE state IN ('queued', 'running')$$);
INSERT INTO in_vain
SELECT t, 'expression', tenantmig.backfill(t, expression => $$'b' || id$$, options => '{"on_orphan": "leave"}')
FROM unnest('{unsetting,skipping,ruled}'::regclass[]) t;
CALL tm_test.wait_until($$SELECT count(*) = 0 FROM tenantmig.jobs JOIN in_vain ON id = job WHERE state IN ('queued', 'running')$$);
SELECT t, s, state, sqlstate, error, error_detail, tm_test.mask(error_hint) AS error_hint
FROM tenantmig.jobs JOIN in_vain ON id = job ORDER BY t::text, s;
SELECT tableoid::regclass, * FROM unsetting UNION ALL SELECT tableoid::regclass, * FROM skipping UNION ALL SELECT tableoid::regclass, * FROM ruled
ORDER BY 1, 2;
SELECT * FROM tm_test.leftovers;

--
-- The plan of a dry run is exact, and changes nothing
--
UPDATE orders SET tenant_id = NULL WHERE tenant_id <> 'old';
SELECT tm_test.keep('orders', '');
SELECT tenantmig.backfill('orders', expression => '(SELECT tenant FROM regions WHERE code = region)', dry_run => true) AS plan \gset
SELECT tm_test.changes('orders', '');
SELECT state, phase, rows_total, next_action = format('SELECT tenantmig.start(%s);', id) AS start FROM tenantmig.jobs WHERE id = :plan;
SELECT jsonb_pretty(plan - '{estimated_ms,estimated_wal_bytes,estimated_disk_bytes,unresolved_examples}'::text[]),
       jsonb_array_length(plan -> 'unresolved_examples') AS examples FROM tenantmig.job WHERE id = :plan;
SELECT plan ?& '{estimated_ms,estimated_wal_bytes,estimated_disk_bytes}'::text[] AS estimates FROM tenantmig.job WHERE id = :plan;
SELECT position, kind, state, regexp_replace(tm_test.mask(statement), ' BEFORE .*', ' ...') AS statement, lock_mode FROM tenantmig.job_steps WHERE job = :plan ORDER BY position;

--
-- What the column keeps of a value, not the value as it was written, is what is
-- counted and taken back
--
CREATE TABLE rounded (id int, code numeric, tenant_id numeric(5,0));
INSERT INTO rounded VALUES (1, 1.5), (2, 2.4), (3, 7.7);
UPDATE rounded SET tenant_id = 8 WHERE id = 3;
SELECT tenantmig.backfill('rounded', expression => 'code') AS job \gset
CALL tenantmig.wait(:job);
SELECT * FROM rounded ORDER BY id;
SELECT tm_test.facts(:job) ->> 'rows_already_same' AS already_same;
UPDATE rounded SET tenant_id = NULL;
SELECT tenantmig.backfill('rounded', expression => 'code') AS job \gset
CALL tenantmig.wait(:job);
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT * FROM rounded ORDER BY id;
SELECT tm_test.facts(:undo);
-- text that an assignment would reject is not what a row has been given, blanks are
CREATE TABLE cut (id int, code text, tenant_id varchar(3));
INSERT INTO cut VALUES (1, 'abc  ', NULL), (2, 'abcd', 'abc'), (3, 'x ', NULL);
SELECT tenantmig.backfill('cut', expression => 'code') AS job \gset
CALL tenantmig.wait(:job);
SELECT id, '<' || tenant_id || '>' FROM cut ORDER BY id;
SELECT tm_test.facts(:job) ->> 'rows_already_same' AS already_same;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT id, '<' || tenant_id || '>' FROM cut ORDER BY id;
-- a parent that has another tenant by now: said, not passed over
CREATE TABLE shops (id int PRIMARY KEY, tenant_id text);
CREATE TABLE tills (id int, shop int REFERENCES shops, tenant_id text);
INSERT INTO shops VALUES (1, 'a'), (2, 'b');
INSERT INTO tills VALUES (1, 1), (2, 1), (3, 2);
SELECT tenantmig.backfill('tills', via => 'shop') AS job \gset
CALL tenantmig.wait(:job);
UPDATE shops SET tenant_id = 'c' WHERE id = 2;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT * FROM tills ORDER BY id;
SELECT (tm_test.facts(:undo) - 'warnings') AS facts, tm_test.mask(tm_test.facts(:undo) -> 'warnings' ->> 0) AS warning;

-- a row that fails in one partition, and those at its place in the others
CREATE TABLE twins (part text, id int, tenant_id text) PARTITION BY LIST (part);
CREATE TABLE twins_a PARTITION OF twins FOR VALUES IN ('a');
CREATE TABLE twins_b PARTITION OF twins FOR VALUES IN ('b');
INSERT INTO twins SELECT p, i FROM generate_series(1, 5) i, unnest('{a,b}'::text[]) p;
CREATE FUNCTION refuse_one() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.part = 'a' AND NEW.id = 2 THEN RAISE 'not this one'; END IF; RETURN NEW; END$$;
CREATE TRIGGER refuse_one BEFORE UPDATE ON twins FOR EACH ROW EXECUTE FUNCTION refuse_one();
SELECT tenantmig.backfill('twins', expression => 'part', options => '{"max_errors": 1}') AS job \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT part, id FROM twins WHERE tenant_id IS NULL;
SELECT key FROM tenantmig.job_errors WHERE job = :job AND key IS NOT NULL;

DROP SCHEMA tm_backfill CASCADE;
