--
-- The fill trigger: new rows get their tenant, and what reads what
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
SELECT setval('tenantmig.job_id_seq', 800000) \g /dev/null
\set ECHO all
CREATE SCHEMA tm_trigger;
SET search_path = tm_trigger, public;

--
-- A value
--
CREATE TABLE orders (id int PRIMARY KEY, note text, tenant_id text);
INSERT INTO orders VALUES (1, 'before');
SELECT tenantmig.backfill('orders', value => 'it''s "one"', options => '{"method": "ranges", "keep_trigger": true}') AS job \gset
CALL tenantmig.wait(:job);
INSERT INTO orders VALUES (2, 'after');
INSERT INTO orders VALUES (3, 'set', 'other');
INSERT INTO orders (id) SELECT 4 RETURNING tenant_id;
INSERT INTO orders VALUES (4, 'upsert') ON CONFLICT (id) DO UPDATE SET note = excluded.note || coalesce(excluded.tenant_id, ' none');
COPY orders (id) FROM stdin;
5
\.
MERGE INTO orders USING (VALUES (6)) v(id) ON orders.id = v.id WHEN NOT MATCHED THEN INSERT (id) VALUES (v.id);
-- a row without a tenant gets one from any update, one with a tenant is left alone
ALTER TABLE orders DISABLE TRIGGER USER;
INSERT INTO orders VALUES (8, 'late');
ALTER TABLE orders ENABLE TRIGGER USER;
SELECT tenant_id FROM orders WHERE id = 8;
UPDATE orders SET note = 'moved' WHERE id = 8;
UPDATE orders SET tenant_id = NULL WHERE id = 5;
UPDATE orders SET note = 'touched' WHERE id = 3;
SELECT * FROM orders ORDER BY id;
SELECT tm_test.catalog('orders');
-- it stays until the job is undone
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
INSERT INTO orders VALUES (7);
SELECT * FROM orders ORDER BY id;
SELECT * FROM tm_test.leftovers;

-- a placeholder
CREATE TABLE marked (id int, tenant_id text DEFAULT 'unassigned');
SELECT tenantmig.backfill('marked', value => 'acme', unset => 'unassigned', options => '{"method": "ranges", "keep_trigger": true}') AS job \gset
CALL tenantmig.wait(:job);
INSERT INTO marked (id) VALUES (1);
INSERT INTO marked VALUES (2, NULL), (3, 'globex'), (4, '');
SELECT * FROM marked ORDER BY id;

-- a type of its own
CREATE DOMAIN tenant_no AS int CHECK (VALUE > 0);
CREATE TABLE numbered (id int, tenant_id tenant_no);
SELECT tenantmig.backfill('numbered', value => ' 7 ', options => '{"method": "ranges", "keep_trigger": true}') AS job \gset
CALL tenantmig.wait(:job);
INSERT INTO numbered VALUES (1);
INSERT INTO numbered VALUES (2, 8);
SELECT * FROM numbered ORDER BY id;

--
-- An expression: follows the columns that it reads, unless set by hand
--
CREATE TABLE cases (id int PRIMARY KEY, region text, "Sub region" text, note text, tenant_id text);
INSERT INTO cases VALUES (1, 'EU', 'a'), (2, 'US', 'b');
SELECT tenantmig.backfill('cases', expression => $$lower(cases.region) || coalesce('/' || "Sub region", '')$$, options => '{"keep_trigger": true}') AS job \gset
CALL tenantmig.wait(:job);
INSERT INTO cases VALUES (3, 'ASIA'), (5, NULL);
INSERT INTO cases VALUES (4, 'ASIA', 'x', 'set', 'own');
SELECT * FROM cases ORDER BY id;
UPDATE cases SET note = 'touched';
UPDATE cases SET region = 'MOVED' WHERE id IN (1, 3, 4);
SELECT * FROM cases ORDER BY id;
-- by hand, in the same statement or another: it stays
UPDATE cases SET region = 'AGAIN', tenant_id = 'hand' WHERE id = 1;
UPDATE cases SET tenant_id = 'hand too' WHERE id = 2;
UPDATE cases SET region = 'THIRD' WHERE id IN (1, 2);
-- set to nothing together with what it reads: derived
UPDATE cases SET tenant_id = NULL, region = 'BACK' WHERE id = 4;
-- nothing to derive from: the old value, and not NULL
UPDATE cases SET region = NULL WHERE id = 3;
UPDATE cases SET region = 'FIFTH' WHERE id = 5;
SELECT * FROM cases ORDER BY id;
-- the columns may be renamed, and others added and dropped, in sessions that have used it
ALTER TABLE cases DROP COLUMN note, ADD COLUMN more int DEFAULT 1;
INSERT INTO cases (id, region) VALUES (6, 'NEW');
SELECT id, tenant_id, more FROM cases WHERE id = 6;
-- one that it reads is gone: said, nothing guessed
ALTER TABLE cases RENAME COLUMN region TO area;
SELECT tm_test.try($$INSERT INTO tm_trigger.cases (id, area) VALUES (7, 'X')$$);
ALTER TABLE cases RENAME COLUMN area TO region;
INSERT INTO cases (id, region) VALUES (7, 'X');
SELECT id, tenant_id FROM cases WHERE id = 7;
-- the application is told whose trigger it is
SELECT setval('tenantmig.job_id_seq', 810000);
CREATE TABLE told (id int, a int, tenant_id text);
SELECT tenantmig.backfill('told', expression => '(10 / a)::text', options => '{"keep_trigger": true}') AS job \gset
CALL tenantmig.wait(:job);
INSERT INTO told VALUES (1, 0);
-- columns that a row has only once it is stored cannot be read
CREATE TABLE generated (id int, a text, b text GENERATED ALWAYS AS (upper(a)) STORED, tenant_id text);
CREATE FUNCTION tenant_of(generated) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT $1.a $$;
SELECT e, tm_test.try(format($$SELECT tenantmig.backfill('generated', expression => %L)$$, e))
FROM unnest('{b,generated.b || a,ctid::text,tableoid::regclass::text,xmin::text,tenant_of(generated),generated.tenant_of}'::text[]) e;
SELECT count(*) FROM tenantmig.jobs WHERE relation = 'tm_trigger.generated';
-- a whole row is all of its columns
CREATE TABLE whole (id int, a text, tenant_id text);
SELECT tenantmig.backfill('whole', expression => $$to_jsonb(whole) ->> 'a'$$, options => '{"keep_trigger": true}') AS job \gset
CALL tenantmig.wait(:job);
INSERT INTO whole VALUES (1, 'x'), (2, 'y');
UPDATE whole SET a = 'z' WHERE id = 2;
SELECT * FROM whole ORDER BY id;

--
-- Via: of the parent, with the key of the child
--
CREATE TABLE customers (a int, b text, tenant_id text, PRIMARY KEY (a, b));
CREATE TABLE invoices (id int PRIMARY KEY, cb text, ca int, tenant_id text, CONSTRAINT inv FOREIGN KEY (ca, cb) REFERENCES customers (a, b) ON UPDATE CASCADE ON DELETE SET NULL);
INSERT INTO customers VALUES (1, 'x', 't1'), (1, 'y', 't2'), (2, 'x', 't3'), (9, 'none', NULL);
INSERT INTO invoices VALUES (1, 'x', 1), (2, 'y', 1);
SELECT tenantmig.backfill('invoices', via => 'inv', options => '{"keep_trigger": true}') AS job \gset
CALL tenantmig.wait(:job);
INSERT INTO invoices VALUES (3, 'x', 2), (5, NULL, 1), (6, 'none', 9);
INSERT INTO invoices VALUES (4, 'y', 1, 'own');
SELECT * FROM invoices ORDER BY id;
UPDATE invoices SET ca = 2, cb = 'x' WHERE id IN (1, 4, 5, 6);
UPDATE invoices SET ca = NULL WHERE id = 3;
SELECT * FROM invoices ORDER BY id;
-- a change of the parent's key changes no tenant
UPDATE customers SET b = 'z' WHERE a = 2;
SELECT * FROM invoices ORDER BY id;
-- the row that violates the key is still refused by the key, and so is a deferred one at commit
INSERT INTO invoices VALUES (7, 'nobody', 77);
-- the parent, its key and the column here may get other names
ALTER TABLE customers RENAME TO clients;
INSERT INTO invoices VALUES (8, 'x', 1);
ALTER TABLE clients RENAME COLUMN a TO number;
INSERT INTO invoices VALUES (9, 'x', 1);
ALTER TABLE invoices RENAME COLUMN ca TO client;
INSERT INTO invoices VALUES (10, 'x', 1);
ALTER TABLE invoices RENAME TO bills;
INSERT INTO bills VALUES (11, 'y', 1);
SELECT * FROM bills WHERE id >= 8 ORDER BY id;
ALTER TABLE bills RENAME TO invoices;
ALTER TABLE invoices RENAME COLUMN client TO ca;
-- what the source cannot do without is not guessed: which trigger it is, and what to do
ALTER TABLE invoices RENAME CONSTRAINT inv TO inv2;
SELECT tm_test.try($$INSERT INTO tm_trigger.invoices VALUES (12, 'x', 1)$$);
ALTER TABLE invoices RENAME CONSTRAINT inv2 TO inv;
ALTER TABLE invoices RENAME COLUMN tenant_id TO tenant;
SELECT tm_test.try($$INSERT INTO tm_trigger.invoices VALUES (12, 'x', 1)$$);
ALTER TABLE invoices RENAME COLUMN tenant TO tenant_id;
ALTER TABLE clients RENAME COLUMN tenant_id TO tenant;
SELECT tm_test.try($$INSERT INTO tm_trigger.invoices VALUES (12, 'x', 1)$$);
ALTER TABLE clients RENAME COLUMN tenant TO tenant_id;
ALTER TABLE invoices DROP CONSTRAINT inv;
SELECT tm_test.try($$INSERT INTO tm_trigger.invoices VALUES (12, 'x', 1)$$);
ALTER TABLE invoices ADD CONSTRAINT inv FOREIGN KEY (ca, cb) REFERENCES clients;
INSERT INTO invoices VALUES (12, 'x', 1);
SELECT * FROM invoices WHERE id = 12;

--
-- A value that the column's type does not take is an error and not cut
--
CREATE TABLE short (id int PRIMARY KEY, code text, n int, tenant_id varchar(3));
INSERT INTO short VALUES (1, 'abc', 1);
SELECT tenantmig.backfill('short', expression => 'code', options => '{"keep_trigger": true}') AS job \gset
CALL tenantmig.wait(:job);
SELECT tm_test.try($$INSERT INTO tm_trigger.short VALUES (2, 'abcdef')$$);
SELECT tm_test.try($$UPDATE tm_trigger.short SET code = 'abcdef'$$);
-- as an UPDATE has it: blanks are cut
INSERT INTO short VALUES (3, 'abc  ');
SELECT id, code, tenant_id, length(tenant_id) FROM short ORDER BY id;
CREATE DOMAIN short_text AS varchar(3) CHECK (VALUE <> 'bad');
CREATE TABLE short_domain (id int, code text, tenant_id short_text);
SELECT tenantmig.backfill('short_domain', expression => 'code', options => '{"keep_trigger": true}') AS job \gset
CALL tenantmig.wait(:job);
SELECT c, tm_test.try(format('INSERT INTO tm_trigger.short_domain VALUES (1, %L)', c)) FROM unnest('{abc,abcdef,bad}'::text[]) c;
SELECT * FROM short_domain;
CREATE TABLE cast_number (id int, tenant_id text);
SELECT tenantmig.backfill('cast_number', expression => 'id + 1', options => '{"keep_trigger": true}') AS job \gset
CALL tenantmig.wait(:job);
INSERT INTO cast_number VALUES (1);
CREATE TABLE cast_literal (id int, tenant_id uuid);
SELECT tenantmig.backfill('cast_literal', expression => $$'00000000-0000-0000-0000-000000000001'$$, options => '{"keep_trigger": true}') AS job \gset
CALL tenantmig.wait(:job);
INSERT INTO cast_literal VALUES (1);
SELECT id, tenant_id FROM cast_number UNION ALL SELECT id, tenant_id::text FROM cast_literal;
CREATE TABLE short_parent (id int PRIMARY KEY, tenant_id text);
CREATE TABLE long_parent (id int PRIMARY KEY, tenant_id varchar(6));
CREATE TABLE short_child (id int, p int REFERENCES short_parent, l int REFERENCES long_parent, tenant_id varchar(3));
SELECT v, tm_test.try(format($$SELECT tenantmig.backfill('tm_trigger.short_child', via => %L)$$, v)) FROM unnest('{p,l}'::text[]) v;

--
-- Its own firing changes the table or fires it again
--
CREATE TABLE nested (id int, tenant_id text);
CREATE FUNCTION nest(id int) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
	IF id > 0 THEN
		PERFORM nest_more(id);
	END IF;
	RETURN 't' || id;
END $$;
CREATE FUNCTION nest_more(id int) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	GRANT SELECT ON tm_trigger.nested TO PUBLIC;
	INSERT INTO tm_trigger.nested VALUES (id - 1);
	REVOKE SELECT ON tm_trigger.nested FROM PUBLIC;
	INSERT INTO tm_trigger.nested VALUES (-id);
	IF id = 3 THEN
		RAISE EXCEPTION 'enough';
	END IF;
EXCEPTION WHEN raise_exception THEN
	INSERT INTO tm_trigger.nested VALUES (-30);
END $$;
SELECT tenantmig.backfill('nested', expression => 'tm_trigger.nest(id)', options => '{"keep_trigger": true}') AS job \gset
CALL tenantmig.wait(:job);
INSERT INTO nested VALUES (2);
INSERT INTO nested VALUES (5);
SELECT tenant_id, id, count(*) FROM nested GROUP BY 1, 2 ORDER BY 2;
-- and nothing is left behind by one change after the other
DO $$ BEGIN
	FOR i IN 1 .. 50 LOOP
		GRANT SELECT ON tm_trigger.nested TO PUBLIC;
		INSERT INTO tm_trigger.nested VALUES (0);
	END LOOP;
END $$;
SELECT count(*) <= 30 AS few FROM pg_backend_memory_contexts WHERE name = 'tenantmig fill trigger';

--
-- Partitions and children, moved rows
--
CREATE TABLE parted (id int, region text, tenant_id text) PARTITION BY LIST (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 (more int, tenant_id text, id int, gone int, region text);
ALTER TABLE parted_2 DROP COLUMN gone;
ALTER TABLE parted_2 DROP COLUMN more;
ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES IN (2);
CREATE TABLE base (id int, region text, tenant_id text);
CREATE TABLE derived (x int) INHERITS (base);
SELECT tenantmig.backfill('parted', expression => 'lower(region)', options => '{"keep_trigger": true}') AS p,
       tenantmig.backfill('base', expression => 'lower(region)', options => '{"keep_trigger": true}') AS b \gset
CALL tenantmig.wait(:p);
CALL tenantmig.wait(:b);
INSERT INTO parted VALUES (1, 'EU'), (2, 'US');
INSERT INTO parted VALUES (2, 'AT', 'own');
INSERT INTO parted_2 (id, region) VALUES (2, 'DIRECT');
INSERT INTO base VALUES (1, 'BASE');
INSERT INTO derived VALUES (2, 'DERIVED');
UPDATE parted SET id = 2 WHERE region = 'EU';
UPDATE parted SET region = 'XX' WHERE region = 'US';
CREATE TABLE parted_3 PARTITION OF parted FOR VALUES IN (3);
INSERT INTO parted VALUES (3, 'LATE');
SELECT tableoid::regclass, id, region, tenant_id FROM parted UNION ALL SELECT tableoid::regclass, id, region, tenant_id FROM base ORDER BY 3;

--
-- It runs as the owner of the table, with nothing of the inserter's in the way
--
CREATE ROLE regress_tm_owner;
CREATE ROLE regress_tm_app;
GRANT USAGE, CREATE ON SCHEMA tm_trigger TO regress_tm_owner;
GRANT USAGE ON SCHEMA tm_trigger TO regress_tm_app;
SET ROLE regress_tm_owner;
CREATE TABLE lookup (code text, tenant text);
INSERT INTO lookup VALUES ('A', 'tenant a');
CREATE FUNCTION who() RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
	RETURN current_user || ' ' || current_setting('search_path');
END $$;
CREATE FUNCTION climb() RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
	PERFORM set_config('role', 'none', false);
	RETURN 'climbed';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END $$;
CREATE TABLE secured (id int, code text, tenant_id text, seen text);
GRANT SELECT, INSERT, UPDATE ON secured TO regress_tm_app;
SELECT tenantmig.backfill('secured', expression => $$(SELECT tenant FROM lookup l WHERE l.code = secured.code) || ' ' || who() || ' ' || climb()$$, options => '{"keep_trigger": true}') AS job \gset
CALL tenantmig.wait(:job);
RESET ROLE;
SET ROLE regress_tm_app;
CREATE TEMP TABLE lookup (code text, tenant text);
INSERT INTO lookup VALUES ('A', 'stolen');
SET search_path = pg_temp;
INSERT INTO tm_trigger.secured VALUES (1, 'A');
SELECT id, code, tenant_id, current_user, current_setting('search_path') FROM tm_trigger.secured;
RESET ROLE;
SET search_path = tm_trigger, public;
DROP TABLE pg_temp.lookup;

--
-- Called by hand, and put on by hand: the TRIGGER privilege gives nothing
--
SELECT tm_test.try('SELECT tenantmig.fill_tenant()');
CREATE TABLE hand (id int PRIMARY KEY, parent int, tenant_id text);
CREATE TABLE other_table (id int, tenant_id text);
SELECT tenantmig.backfill('other_table', value => 'other', options => '{"method": "ranges", "keep_trigger": true}') AS other \gset
CALL tenantmig.wait(:other);
SELECT tenantmig.backfill('hand', value => 'hand', options => '{"method": "ranges"}') AS own \gset
CALL tenantmig.wait(:own);
SELECT tenantmig.create_index('hand', '{tenant_id}') AS index \gset
CALL tenantmig.wait(:index);
CREATE FUNCTION tm_trigger.by_hand(clause text, arguments text) RETURNS SETOF text LANGUAGE plpgsql AS $fn$
BEGIN
	DROP TRIGGER IF EXISTS by_hand ON tm_trigger.hand;
	EXECUTE format('CREATE TRIGGER by_hand %s EXECUTE FUNCTION tenantmig.fill_tenant(%s)', clause, arguments);
	RETURN QUERY SELECT tm_test.try('INSERT INTO tm_trigger.hand VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET parent = excluded.parent + 1');
	RETURN QUERY SELECT tm_test.try('DELETE FROM tm_trigger.hand');
END $fn$;
SELECT c, by_hand(c, quote_literal(:own)) FROM unnest(ARRAY['AFTER INSERT ON hand FOR EACH ROW', 'BEFORE INSERT ON hand FOR EACH STATEMENT',
	'BEFORE DELETE ON hand FOR EACH ROW', 'BEFORE TRUNCATE ON hand FOR EACH STATEMENT', 'BEFORE INSERT OR UPDATE ON hand FOR EACH ROW']) c;
SELECT a, by_hand('BEFORE INSERT ON hand FOR EACH ROW', a) FROM unnest(ARRAY['', $$''$$, $$'x'$$, $$'-1'$$, $$' 1'$$, $$'1', ''$$,
	$$'99999999999999999999'$$, $$'999999999999'$$, $$'tenant_id', '', '', 'value', 'x'$$,
	$$'tenant_id', '', 'tm_trigger', 'expression', 'hand', 'tm_trigger.own(hand)'$$]) a;
SELECT what, by_hand('BEFORE INSERT ON hand FOR EACH ROW', quote_literal(job)) AS result
FROM (VALUES ('of another table', :other), ('of another kind', :index)) v(what, job), LATERAL (SELECT 1) s
\g | sed -E 's/such job as [0-9]+/such job as N/'
-- not in the rights of the owner
GRANT INSERT, SELECT, TRIGGER ON hand TO regress_tm_app;
DROP TRIGGER by_hand ON hand;
SET ROLE regress_tm_app;
CREATE TEMP TABLE mine (id int);
CREATE FUNCTION pg_temp.own(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN current_user; END $$;
CREATE TRIGGER by_hand BEFORE INSERT ON hand FOR EACH ROW
	EXECUTE FUNCTION tenantmig.fill_tenant('tenant_id', '', 'pg_temp', 'expression', 'hand', 'pg_temp.own(''x'')');
SELECT tm_test.try('INSERT INTO tm_trigger.hand VALUES (2, 2)');
RESET ROLE;
DROP TABLE pg_temp.mine;
DROP FUNCTION pg_temp.own(text);
DROP TRIGGER by_hand ON hand;
-- a trigger that is there keeps its job from being purged
SELECT tenantmig.purge_jobs('0') > 0 AS purged;
SELECT count(*) FROM tenantmig.job WHERE id = :other;
INSERT INTO other_table VALUES (1);
SELECT * FROM other_table;
DROP TABLE other_table;
SELECT tenantmig.purge_jobs('0') > 0 AS purged;
SELECT count(*) FROM tenantmig.job WHERE id = :other;
SELECT count(*) FROM hand;
DROP SCHEMA tm_trigger CASCADE;
DROP ROLE regress_tm_owner, regress_tm_app;
