--
-- A job is bound to its table: its steps and their inverses find it whatever
-- it is called by now, and never another one that has got its name
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
SELECT setval('tenantmig.job_id_seq', 870000) \g /dev/null
-- What a relation is like, whatever it and the one it refers to are called
CREATE FUNCTION tm_test.nameless(relation regclass) RETURNS SETOF text
LANGUAGE sql AS $$
SELECT replace(s, c.oid::regclass::text, 'THE TABLE')
FROM pg_class c, tm_test.state(c.oid, 'none') s WHERE c.oid = relation AND s !~ 'FOREIGN KEY'
$$;
-- A trigger on one table of the name of ours on another
CREATE PROCEDURE tm_test.copy_trigger(of oid, to_relation regclass)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE (SELECT format('CREATE TRIGGER %I BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION tenantmig.fill_tenant()', tgname, to_relation)
		FROM pg_trigger WHERE tgrelid = of AND tgname LIKE 'zz\_tenantmig\_%');
END $$;
\set ECHO all
CREATE SCHEMA "A3 %S.%R";
CREATE SCHEMA attic;
CREATE TABLE "A3 %S.%R"."cust%%omers" (id int PRIMARY KEY, "te%Rnant" text);
CREATE TABLE "A3 %S.%R"."Or.d""ers %R %s %" (id int PRIMARY KEY, customer int REFERENCES "A3 %S.%R"."cust%%omers", pad text DEFAULT '100%R');
INSERT INTO "A3 %S.%R"."cust%%omers" SELECT i, 'x%R' || i FROM generate_series(1, 20) i;
INSERT INTO "A3 %S.%R"."Or.d""ers %R %s %" SELECT i, i % 20 + 1 FROM generate_series(1, 500) i;
SELECT '"A3 %S.%R"."Or.d""ers %R %s %"'::regclass::oid AS orders, '"A3 %S.%R"."cust%%omers"'::regclass::oid AS customers \gset
SELECT array_agg(s) AS before FROM tm_test.nameless(:orders) s \gset

-- forth, with percent signs wherever they can stand
SELECT tenantmig.add_tenant_column(:orders, 'te%Rnant', value => '%R %s %') AS c1 \gset
SELECT tenantmig.undo(:c1) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT array_agg(s) = :'before' AS restored FROM tm_test.nameless(:orders) s;
SELECT tenantmig.add_tenant_column(:orders, 'te%Rnant') AS c1 \gset
SELECT tenantmig.backfill(:orders, 'te%Rnant', via => 'customer', options => '{"keep_trigger": true}') AS c2 \gset
CALL tenantmig.wait(:c2);
SELECT tenantmig.set_not_null(:orders, 'te%Rnant') AS c3 \gset
CALL tenantmig.wait(:c3);
SELECT tenantmig.create_index(:orders, '{te%Rnant,id}', name => 'ix %S.%R', predicate => $$pad <> '%R %s %%'$$) AS c4 \gset
CALL tenantmig.wait(:c4);
SELECT tenantmig.enable_rls(:orders, 'te%Rnant') AS c5 \gset
CREATE POLICY "own %R" ON "A3 %S.%R"."Or.d""ers %R %s %" AS RESTRICTIVE USING (pad LIKE '%R');
SELECT tenantmig.disable_rls(:orders) AS c6 \gset
SELECT job - :c1 AS job, kind, replace(tm_test.mask(statement), :'c2', 'N') AS statement, tm_test.mask(inverse) AS inverse FROM tenantmig.job_steps
WHERE job BETWEEN :c1 AND :c6 AND inverse IS NOT NULL ORDER BY job_steps.job, position;

-- everything gets another name, and others get the old ones
ALTER TABLE "A3 %S.%R"."Or.d""ers %R %s %" RENAME TO "New %% 'name'.%R";
ALTER SCHEMA "A3 %S.%R" RENAME TO "B %R";
ALTER TABLE "B %R"."New %% 'name'.%R" SET SCHEMA attic;
ALTER TABLE "B %R"."cust%%omers" RENAME TO clients;
CREATE SCHEMA "A3 %S.%R";
CREATE TABLE "A3 %S.%R"."cust%%omers" (id int PRIMARY KEY, "te%Rnant" text);
CREATE TABLE "A3 %S.%R"."Or.d""ers %R %s %" (LIKE attic."New %% 'name'.%R" INCLUDING DEFAULTS);
CREATE INDEX "ix %S.%R" ON "A3 %S.%R"."Or.d""ers %R %s %" ("te%Rnant", id) WHERE pad <> '%R %s %%';
SELECT tenantmig.enable_rls('"A3 %S.%R"."Or.d""ers %R %s %"', 'te%Rnant') > 0 AS decoy;
CALL tm_test.copy_trigger(:orders, '"A3 %S.%R"."Or.d""ers %R %s %"');
SELECT tm_test.keep('"A3 %S.%R"."Or.d""ers %R %s %"');

-- the views say what it is called now
SELECT DISTINCT relation FROM tenantmig.job_steps WHERE job BETWEEN :c1 AND :c6;
SELECT tm_test.mask(inverse) AS inverse FROM tenantmig.job_steps WHERE job = :c4 OR job = :c1 ORDER BY job;

-- back, all at once, the last first
BEGIN;
SELECT tenantmig.undo(:c6) AS u6 \gset
SELECT tenantmig.undo(:c5) AS u5 \gset
SELECT tenantmig.undo(:c4) AS u4 \gset
SELECT tenantmig.undo(:c3) AS u3 \gset
SELECT tenantmig.undo(:c2) AS u2 \gset
SELECT tenantmig.undo(:c1) AS u1 \gset
COMMIT;
CALL tenantmig.wait(:u1);
SELECT state, count(*) FROM tenantmig.jobs WHERE id BETWEEN :u6 AND :u1 GROUP BY 1;
SELECT s FROM tm_test.nameless(:orders) s EXCEPT SELECT unnest(:'before'::text[]);
SELECT unnest(:'before'::text[]) EXCEPT SELECT s FROM tm_test.nameless(:orders) s;
SELECT tm_test.changes('"A3 %S.%R"."Or.d""ers %R %s %"');

-- an index that was renamed itself
SELECT tenantmig.create_index(:orders, '{pad}', name => 'ix') AS c1 \gset
CALL tenantmig.wait(:c1);
ALTER INDEX attic.ix RENAME TO "other %R";
CREATE INDEX ix ON attic."New %% 'name'.%R" (pad);
SELECT tenantmig.undo(:c1) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT indexrelid::regclass FROM pg_index WHERE indrelid = :orders ORDER BY 1;

-- a table that was dropped and made again is another one: its job cannot be
-- undone, and an undo that was on its way fails
CREATE TABLE attic.again (id int, tenant_id text);
INSERT INTO attic.again SELECT i FROM generate_series(1, 100) i;
SELECT tenantmig.backfill('attic.again', value => 'a', options => '{"method": "ranges"}') AS c1 \gset
CALL tenantmig.wait(:c1);
SELECT tenantmig.set_not_null('attic.again') AS c2 \gset
CALL tenantmig.wait(:c2);
BEGIN;
SELECT tenantmig.undo(:c2) AS late \gset
SELECT tenantmig.pause(:late);
COMMIT;
CREATE TABLE attic.copy AS TABLE attic.again;
ALTER TABLE attic.copy ALTER tenant_id SET NOT NULL;
DROP TABLE attic.again;
ALTER TABLE attic.copy RENAME TO again;
SELECT tm_test.keep('attic.again', 'none');
SELECT tm_test.try(format('SELECT tenantmig.undo(%s)', j)) FROM unnest(ARRAY[:c1, :c2]::bigint[]) j;
SELECT tenantmig.resume(:late);
\set VERBOSITY sqlstate
CALL tenantmig.wait(:late);
\set VERBOSITY default
SELECT state, tm_test.mask(error) AS error FROM tenantmig.jobs WHERE id = :late;
SELECT tm_test.changes('attic.again', 'none');
SELECT relation, inverse FROM tenantmig.job_steps WHERE job = :c2 AND state = 'done' AND inverse IS NOT NULL;

-- partitions, each by itself: renamed, detached, and dropped and made again
CREATE SCHEMA parts;
CREATE TABLE parts.p (id int, tenant_id text) PARTITION BY RANGE (id);
CREATE TABLE parts.a PARTITION OF parts.p FOR VALUES FROM (0) TO (100);
CREATE TABLE parts.b PARTITION OF parts.p FOR VALUES FROM (100) TO (200);
CREATE TABLE parts.c PARTITION OF parts.p FOR VALUES FROM (200) TO (300);
CREATE TABLE parts.d PARTITION OF parts.p FOR VALUES FROM (300) TO (400);
INSERT INTO parts.p SELECT i, 'a' FROM generate_series(0, 399) i;
ALTER TABLE parts.a ALTER tenant_id SET NOT NULL;
SELECT tm_test.keep('parts.p'), tm_test.keep('parts.c');
SELECT tenantmig.set_not_null('parts.p') AS c1 \gset
CALL tenantmig.wait(:c1);
SELECT tenantmig.create_index('parts.p', '{tenant_id}', name => 'of %R') AS c2 \gset
CALL tenantmig.wait(:c2);
SELECT tenantmig.enable_rls('parts.p') AS c3 \gset
SELECT relation, kind, tm_test.mask(inverse) AS inverse FROM tenantmig.job_steps WHERE job IN (:c1, :c2) ORDER BY job, position;
ALTER TABLE parts.p RENAME TO q;
ALTER TABLE parts.a RENAME TO "a %R";
ALTER TABLE parts.c SET SCHEMA attic;
ALTER TABLE parts.q DETACH PARTITION attic.c;
DROP TABLE parts.d;
CREATE TABLE parts.d (id int, tenant_id text NOT NULL);
CREATE TABLE parts.a (LIKE parts.d INCLUDING ALL);
CREATE TABLE parts.p (LIKE parts.d INCLUDING ALL);
CREATE INDEX "of %R 2" ON parts.p (tenant_id);
ALTER INDEX parts."of %R" RENAME TO "of q";
ALTER INDEX parts."of %R 2" RENAME TO "of %R";
SELECT tenantmig.enable_rls(t) > 0 FROM unnest('{parts.d,parts.a,parts.p}'::regclass[]) t;
CREATE TABLE parts.decoys AS SELECT t, s FROM unnest('{parts.d,parts.a,parts.p}'::regclass[]) t, tm_test.state(t) s;
SELECT tenantmig.undo(:c3) AS u3, tenantmig.undo(:c2) AS u2, tenantmig.undo(:c1) AS u1 \gset
CALL tenantmig.wait(:u1);
SELECT t, s FROM unnest('{parts.d,parts.a,parts.p}'::regclass[]) t, tm_test.state(t) s EXCEPT TABLE parts.decoys;
SELECT count(*) FROM parts.decoys;
DROP TABLE parts.a, parts.p;
ALTER TABLE parts.q RENAME TO p;
ALTER TABLE parts."a %R" RENAME TO a;
ALTER TABLE attic.c SET SCHEMA parts;
-- those that are gone; the detached one keeps its NOT NULL, which it got from the
-- table, and not the index, which was built on it
SELECT c FROM tm_test.changes('parts.p') c WHERE c !~ 'rows, digest';
SELECT tm_test.changes('parts.c');

-- what takes its tenant from a table is in the way of the undo of that one's
-- column, whatever either is called
CREATE TABLE parts.up (id int PRIMARY KEY);
CREATE TABLE parts.down (id int REFERENCES parts.up);
SELECT tenantmig.add_tenant_column('parts.up', value => 'a') AS c1, tenantmig.add_tenant_column('parts.down') AS c2 \gset
SELECT tenantmig.backfill('parts.down', via => 'id') AS c3 \gset
CALL tenantmig.wait(:c3);
ALTER TABLE parts.up RENAME TO "up %R";
ALTER TABLE parts.down RENAME TO "down %R";
SELECT tm_test.try(format('SELECT tenantmig.undo(%s)', :c1));
BEGIN;
SELECT tenantmig.undo(:c3) AS u3 \gset
SELECT tenantmig.undo(:c1) AS u1 \gset
SELECT depends = ARRAY[:u3::bigint] AS waits FROM tenantmig.job WHERE id = :u1;
COMMIT;
CALL tenantmig.wait(:u1);

-- jobs that failed go on under the new name
CREATE TABLE attic.half (id int, tenant_id text);
INSERT INTO attic.half SELECT i, CASE WHEN i > 1 THEN 'a' END FROM generate_series(1, 1000) i;
INSERT INTO attic.half VALUES (2, 'a');
SELECT tm_test.keep('attic.half', 'none');
\set VERBOSITY sqlstate
SELECT tenantmig.set_not_null('attic.half') AS c1 \gset
CALL tenantmig.wait(:c1);
SELECT tenantmig.create_index('attic.half', '{id}', is_unique => true, name => 'half_id') AS c2 \gset
CALL tenantmig.wait(:c2);
SELECT tenantmig.backfill('attic.half', expression => $$('b' || 1 / (id - 1))$$, options => '{"keep_trigger": true}') AS c3 \gset
CALL tenantmig.wait(:c3);
\set VERBOSITY default
ALTER TABLE attic.half RENAME TO "half %R";
CREATE TABLE attic.half (id int, tenant_id text);
DELETE FROM attic."half %R" WHERE ctid IN (SELECT max(ctid) FROM attic."half %R" WHERE id = 2);
UPDATE attic."half %R" SET id = 0 WHERE id = 1;
SELECT tenantmig.retry(:c3);
CALL tenantmig.wait(:c3);
SELECT tenantmig.retry(:c1), tenantmig.retry(:c2);
CALL tenantmig.wait(:c1);
CALL tenantmig.wait(:c2);
SELECT replace(c, :'c3', 'N') AS catalog FROM tm_test.catalog('attic."half %R"') c;
SELECT tm_test.catalog('attic.half');
SELECT kind, relation, state, error FROM tenantmig.jobs WHERE id IN (:c1, :c2, :c3) ORDER BY id;
SELECT job - :c1 AS job, kind, relation, state, count(*) FROM tenantmig.job_steps WHERE job IN (:c1, :c2, :c3) GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 4;
SELECT tenantmig.undo(:c2) AS u2, tenantmig.undo(:c1) AS u1, tenantmig.undo(:c3) AS u3 \gset
CALL tenantmig.wait(:u2);
CALL tenantmig.wait(:u1);
CALL tenantmig.wait(:u3);
SELECT tm_test.catalog('attic."half %R"');
SELECT count(*) FROM attic."half %R" WHERE tenant_id IS NULL;

-- in another database OIDs mean nothing, the recorded names count: as if the
-- jobs had been restored, where something else has the OIDs
CREATE TABLE attic."re%Rstored" (id int);
CREATE TABLE attic.bystander (id int);
INSERT INTO attic."re%Rstored" SELECT generate_series(1, 100);
SELECT tm_test.keep('attic."re%Rstored"'), tm_test.keep('attic.bystander');
SELECT tenantmig.add_tenant_column('attic."re%Rstored"') AS c1 \gset
SELECT tenantmig.backfill('attic."re%Rstored"', value => 'a', options => '{"keep_trigger": true, "method": "ranges"}') AS c2 \gset
CALL tenantmig.wait(:c2);
SELECT tenantmig.set_not_null('attic."re%Rstored"') AS c3 \gset
CALL tenantmig.wait(:c3);
SELECT tenantmig.create_index('attic."re%Rstored"', '{tenant_id}') AS c4 \gset
CALL tenantmig.wait(:c4);
UPDATE tenantmig.job SET home = home # 1, relid = 'attic.bystander'::regclass,
	summary = CASE WHEN id = :c4 THEN jsonb_build_object('indexes', jsonb_build_object('attic.bystander'::regclass::oid,
		jsonb_set(summary -> 'indexes' -> relid::text, '{oid}', to_jsonb('attic.bystander'::regclass::oid::int8)))) ELSE summary END
WHERE id IN (:c1, :c2, :c3, :c4);
UPDATE tenantmig.job_step SET relid = 'attic.bystander'::regclass WHERE job IN (:c1, :c2, :c3, :c4);
SELECT job - :c1 AS job, relation, tm_test.mask(inverse) AS inverse FROM tenantmig.job_steps WHERE job IN (:c1, :c2, :c3, :c4) AND state = 'done' AND inverse IS NOT NULL ORDER BY job_steps.job, position;
SELECT tm_test.try(format('SELECT tenantmig.undo(%s)', :c1));
BEGIN;
SELECT tenantmig.undo(:c4) AS u4 \gset
SELECT tenantmig.undo(:c3) AS u3 \gset
SELECT tenantmig.undo(:c2) AS u2 \gset
SELECT tenantmig.undo(:c1) AS u1 \gset
COMMIT;
CALL tenantmig.wait(:u1);
SELECT tm_test.changes('attic."re%Rstored"');
SELECT tm_test.changes('attic.bystander');
SELECT * FROM tm_test.leftovers WHERE name NOT LIKE 'zz%';
DROP FUNCTION tm_test.nameless;
DROP PROCEDURE tm_test.copy_trigger;
DROP SCHEMA attic, parts, "A3 %S.%R", "B %R" CASCADE;
