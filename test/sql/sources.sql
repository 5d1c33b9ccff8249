--
-- sources of a backfill: values that differ, trees, circles, the order of
-- tables, which key is meant, and triggers that do not fire
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
SELECT setval('tenantmig.job_id_seq', 1100000) \g /dev/null
\set ECHO all
CREATE SCHEMA tm_sources;
SET search_path = tm_sources, public;

--
-- on_conflict
--
CREATE TABLE team (id int PRIMARY KEY, tenant_id text);
INSERT INTO team VALUES (1, 'acme'), (2, 'globex'), (3, NULL);
CREATE TABLE member (id int PRIMARY KEY, team_id int REFERENCES team, tenant_id text);
CREATE FUNCTION refill() RETURNS void LANGUAGE sql AS $$
TRUNCATE member;
INSERT INTO member SELECT i, i % 2 + 1, CASE WHEN i <= 2 THEN 'other' WHEN i = 3 THEN 'globex' END FROM generate_series(1, 1000) i;
INSERT INTO member VALUES (2000, 3, 'mine');	-- the source gives none: no conflict
$$;
SELECT refill();
-- a plan says what would be in the way
SELECT tenantmig.backfill('member', via => 'team_id', options => '{"on_conflict": "overwrite"}', dry_run => true) AS plan \gset
SELECT jsonb_pretty(plan - '{estimated_ms,estimated_wal_bytes,estimated_disk_bytes}'::text[]) FROM tenantmig.job WHERE id = :plan;
SELECT substring(tenantmig.report(:plan) FROM 'Conflicts:[^\n]*');
-- fail: nothing is changed
CREATE TABLE before AS SELECT * FROM member;
SELECT tenantmig.backfill('member', via => 'team_id', options => '{"on_conflict": "fail"}') AS job \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
\pset format unaligned
SELECT error, error_detail, tm_test.mask(error_hint) AS error_hint FROM tenantmig.jobs WHERE id = :job;
\pset format aligned
SELECT * FROM (TABLE member EXCEPT TABLE before) d;
SELECT relation, key, sqlstate, message FROM tenantmig.job_errors WHERE job = :job AND key IS NOT NULL ORDER BY key;
SELECT * FROM tm_test.leftovers;
-- mended, it goes on and counts again
UPDATE member SET tenant_id = CASE id % 2 WHEN 0 THEN 'acme' ELSE 'globex' END WHERE tenant_id = 'other';
SELECT tenantmig.retry(:job);
CALL tenantmig.wait(:job);
SELECT tm_test.facts(:job) - 'source' AS facts;
SELECT count(*) FROM member JOIN team ON team.id = team_id WHERE member.tenant_id IS DISTINCT FROM team.tenant_id;
-- leave, as when nothing is said: listed, with both values
SELECT refill();
SELECT tenantmig.backfill('member', via => 'team_id') AS job \gset
CALL tenantmig.wait(:job);
SELECT tm_test.facts(:job) - 'source' AS facts;
SELECT relation, key, sqlstate, message FROM tenantmig.job_errors WHERE job = :job ORDER BY key;
SELECT tenant_id, count(*) FROM member GROUP BY 1 ORDER BY 1;
SELECT tenantmig.report(:job) ~ '2 rows had another value than the source gives and kept it' AS warned;
-- the call that says so is the same
SELECT tenantmig.backfill('member', via => 'team_id', options => '{"on_conflict": "leave"}') = :job AS same;
-- overwrite is another one, for the rows that the first has left
SELECT tenantmig.backfill('member', via => 'team_id', options => '{"on_conflict": "overwrite"}') AS job2 \gset
SELECT :job2 <> :job AS another;
CALL tenantmig.wait(:job2);
SELECT tm_test.facts(:job2) - 'source' AS facts;
SELECT tenant_id, count(*) FROM member GROUP BY 1 ORDER BY 1;
SELECT tenantmig.backfill('member', via => 'team_id', options => '{"on_conflict": "overwrite"}') = :job2 AS same;
-- what it has overwritten is gone
UPDATE member SET tenant_id = NULL;
UPDATE member SET tenant_id = 'other' WHERE id = 1;
SELECT tenantmig.backfill('member', via => 'team_id', options => '{"on_conflict": "overwrite", "on_orphan": "leave"}') AS job \gset
CALL tenantmig.wait(:job);
SELECT tm_test.facts(:job) - 'source' AS facts;
SELECT tenantmig.undo(:job) AS undo \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:undo);
\set VERBOSITY default
SELECT error_detail, error_hint FROM tenantmig.jobs WHERE id = :undo;
SELECT count(*) FROM member WHERE tenant_id IS NULL;
-- it can be undone if there was nothing to overwrite
UPDATE member SET tenant_id = NULL;
SELECT tenantmig.backfill('member', expression => $$'t' || team_id$$, options => '{"on_conflict": "overwrite"}') AS job \gset
CALL tenantmig.wait(:job);
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT count(*) FROM member WHERE tenant_id IS NOT NULL;
-- a value and an expression, a placeholder, and a type that pads
CREATE TABLE padded (id int PRIMARY KEY, tenant_id char(6) NOT NULL DEFAULT 'none');
INSERT INTO padded VALUES (1, 'none'), (2, 'acme'), (3, 'other');
SELECT tenantmig.backfill('padded', value => 'acme', unset => 'none', options => '{"on_conflict": "overwrite"}') AS job \gset
CALL tenantmig.wait(:job);
SELECT tm_test.facts(:job) - 'source' AS facts;
TABLE padded ORDER BY id;
SELECT tenantmig.backfill('padded', expression => $$CASE id WHEN 2 THEN 'two' END$$, unset => 'none', options => '{"on_conflict": "overwrite", "on_orphan": "leave"}') AS job \gset
CALL tenantmig.wait(:job);
TABLE padded ORDER BY id;
SELECT tm_test.sqlstate($$SELECT tenantmig.backfill('padded', value => 'x', options => '{"on_conflict": "replace"}')$$);

--
-- A tree in one table: every level in one pass, in whatever order its rows are
--
CREATE TABLE node (id int PRIMARY KEY, parent_id int REFERENCES node, tenant_id text);
INSERT INTO node SELECT i, CASE WHEN i > 1 THEN i - 1 END, CASE WHEN i = 1 THEN 'root' END FROM generate_series(10000, 1, -1) i;
SELECT tenantmig.backfill('node', via => 'parent_id', dry_run => true) AS plan \gset
SELECT plan -> 'rows_total' AS rows_total, plan -> 'rows_unresolved' AS unresolved FROM tenantmig.job WHERE id = :plan;
SELECT tenantmig.backfill('node', via => 'parent_id') AS job \gset
CALL tenantmig.wait(:job, '60 s');
SELECT tenant_id, count(*) FROM node GROUP BY 1;
SELECT summary -> 'rows_changed' AS changed, (summary ->> 'sweeps')::int <= 2 AS few_sweeps FROM tenantmig.job WHERE id = :job;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenant_id, count(*) FROM node GROUP BY 1 ORDER BY 1;
-- rows that go round, and trees whose root has none, are orphans
TRUNCATE node;
INSERT INTO node VALUES (1, NULL, 'a'), (2, 1, NULL), (3, 2, NULL), (4, NULL, 'b'), (5, 4, NULL), (6, NULL, NULL), (7, 6, NULL), (8, 8, NULL);
INSERT INTO node VALUES (10, NULL), (11, 10), (12, 11);
UPDATE node SET parent_id = 12 WHERE id = 10;
SELECT tenantmig.backfill('node', via => 'parent_id', dry_run => true) AS plan \gset
SELECT plan -> 'rows_unresolved' AS unresolved, plan -> 'unresolved_examples' AS examples FROM tenantmig.job WHERE id = :plan;
SELECT tenantmig.backfill('node', via => 'parent_id', options => '{"on_orphan": "leave"}') AS job \gset
CALL tenantmig.wait(:job, '60 s');
TABLE node ORDER BY id;
SELECT count(*) FROM tenantmig.job_errors WHERE job = :job AND sqlstate = '23502';
SELECT tenantmig.backfill('node', via => 'parent_id', options => '{"on_orphan": "assign", "orphan_value": "lost"}') AS job \gset
CALL tenantmig.wait(:job, '60 s');
SELECT tenant_id, string_agg(id::text, ',' ORDER BY id) FROM node GROUP BY 1 ORDER BY 1;
-- in partitions, where a row may be above one of another partition
CREATE TABLE parted (id int PRIMARY KEY, parent_id int, tenant_id text) PARTITION BY HASH (id);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO parted SELECT i, NULLIF(i - 1, 0), CASE WHEN i = 1 THEN 'root' END FROM generate_series(1, 20) i;
ALTER TABLE parted ADD FOREIGN KEY (parent_id) REFERENCES parted;
SELECT tenantmig.backfill('parted', via => 'parent_id') AS job \gset
CALL tenantmig.wait(:job, '60 s');
SELECT tenant_id, count(*) FROM parted GROUP BY 1;

--
-- Circles of tables
--
CREATE TABLE a (id int PRIMARY KEY, b_id int, tenant_id text);
CREATE TABLE b (id int PRIMARY KEY, c_id int, tenant_id text);
CREATE TABLE c (id int PRIMARY KEY, a_id int, tenant_id text);
ALTER TABLE a ADD CONSTRAINT a_b FOREIGN KEY (b_id) REFERENCES b;
ALTER TABLE b ADD CONSTRAINT b_c FOREIGN KEY (c_id) REFERENCES c;
ALTER TABLE c ADD CONSTRAINT c_a FOREIGN KEY (a_id) REFERENCES a;
INSERT INTO a VALUES (1), (2); INSERT INTO b VALUES (1), (2); INSERT INTO c VALUES (1, 1);
BEGIN;
SELECT tenantmig.backfill('a', via => 'a_b') IS NOT NULL AS a, tenantmig.backfill('b', via => 'b_c') IS NOT NULL AS b;
SAVEPOINT s;
SELECT tm_test.try($$SELECT tenantmig.backfill('c', via => 'c_a')$$);
ROLLBACK TO s;
-- what becomes of rows that only the circle would fill has been said
SELECT tenantmig.backfill('c', via => 'c_a', options => '{"on_orphan": "leave"}') IS NOT NULL AS c;
ROLLBACK;
-- so does a trigger that was kept, or a job that was planned before
SELECT tenantmig.backfill('c', via => 'c_a', dry_run => true) AS planned \gset
SELECT tenantmig.backfill('a', via => 'a_b', options => '{"on_orphan": "leave", "keep_trigger": true}') AS kept \gset
CALL tenantmig.wait(:kept);
SELECT tenantmig.backfill('b', via => 'b_c', options => '{"on_orphan": "leave", "keep_trigger": true}') AS kept2 \gset
CALL tenantmig.wait(:kept2);
SELECT tm_test.sqlstate($$SELECT tenantmig.backfill('c', via => 'c_a')$$);
SELECT tenantmig.start(:planned);
\set VERBOSITY terse
CALL tenantmig.wait(:planned);
\set VERBOSITY default
SELECT error, error_detail FROM tenantmig.jobs WHERE id = :planned;
SELECT count(*) FROM (SELECT tenantmig.undo(j) FROM unnest(ARRAY[:kept, :kept2]) j) u;
SELECT max(id) AS undo, min(id) AS undo2 FROM tenantmig.jobs WHERE kind = 'undo' AND relation IN ('tm_sources.a', 'tm_sources.b') \gset
CALL tenantmig.wait(:undo2);
CALL tenantmig.wait(:undo);

--
-- Parents first, in whatever order the jobs were recorded
--
CREATE TABLE users (id int PRIMARY KEY, email text, tenant_id text);
CREATE TABLE suites (id int PRIMARY KEY, user_id int REFERENCES users, tenant_id text);
CREATE TABLE cases (id int PRIMARY KEY, suite_id int REFERENCES suites, tenant_id text);
CREATE TABLE executions (id int PRIMARY KEY, case_id int REFERENCES cases, tenant_id text);
CREATE TABLE details (id int PRIMARY KEY, execution_id int REFERENCES executions, tenant_id text);
INSERT INTO users SELECT i, 'u' || i || '@t' || i % 3 FROM generate_series(1, 10) i;
INSERT INTO suites SELECT i, i % 10 + 1 FROM generate_series(1, 50) i;
INSERT INTO cases SELECT i, i % 50 + 1 FROM generate_series(1, 200) i;
INSERT INTO executions SELECT i, i % 200 + 1 FROM generate_series(1, 1000) i;
INSERT INTO details SELECT i, i % 1000 + 1 FROM generate_series(1, 3000) i;
CREATE VIEW wrong AS
SELECT count(*) FROM details JOIN executions ON executions.id = execution_id JOIN cases ON cases.id = case_id
JOIN suites ON suites.id = suite_id JOIN users ON users.id = user_id
WHERE (details.tenant_id = split_part(email, '@', 2) AND executions.tenant_id = details.tenant_id
	AND cases.tenant_id = details.tenant_id AND suites.tenant_id = details.tenant_id) IS NOT TRUE;
BEGIN;
SELECT tenantmig.backfill('details', via => 'execution_id') AS last \gset
SELECT tenantmig.backfill('cases', via => 'suite_id') AS job \gset
SELECT tenantmig.backfill('executions', via => 'case_id') AS job \gset
SELECT tenantmig.backfill('users', expression => $$split_part(email, '@', 2)$$) AS job \gset
SELECT tenantmig.backfill('suites', via => 'user_id') AS job \gset
COMMIT;
CALL tenantmig.wait(:last, '60 s');
SELECT * FROM wrong;
SELECT relation, state FROM tenantmig.jobs WHERE id >= :last AND relation LIKE 'tm\_sources.%' ORDER BY finished_at;
-- each in a transaction of its own, the parent while the child waits to start
CALL tm_test.wait_until('SELECT NOT EXISTS (SELECT FROM tenantmig.jobs WHERE state IN (''queued'', ''running''))');
UPDATE cases SET tenant_id = NULL; UPDATE executions SET tenant_id = NULL; UPDATE details SET tenant_id = NULL;
SELECT tenantmig.backfill('executions', via => 'case_id', dry_run => true) AS middle \gset
SELECT tenantmig.backfill('details', via => 'execution_id', dry_run => true) AS last \gset
SELECT tenantmig.backfill('cases', via => 'suite_id', dry_run => true) AS first \gset
BEGIN;
SELECT tenantmig.start(:last);
SELECT tenantmig.start(:middle);
SELECT tenantmig.start(:first);
COMMIT;
CALL tenantmig.wait(:last, '60 s');
SELECT * FROM wrong;
SELECT relation, state FROM tenantmig.jobs WHERE id IN (:first, :middle, :last) ORDER BY finished_at;

--
-- Which key, and what kind of key
--
CREATE TABLE place (country text, code int, tenant_id text, PRIMARY KEY (code, country));
INSERT INTO place VALUES ('de', 1, 'a'), ('fr', 1, 'b'), ('fr', 2, 'c');
CREATE TABLE two (id int PRIMARY KEY, team_id int, country text, code bigint, tenant_id text,
	CONSTRAINT two_team FOREIGN KEY (team_id) REFERENCES team,
	CONSTRAINT two_node FOREIGN KEY (team_id) REFERENCES node NOT VALID,
	CONSTRAINT two_place FOREIGN KEY (country, code) REFERENCES place (country, code) MATCH FULL);
INSERT INTO two VALUES (1, 1, 'fr', 2), (2, 2, 'fr', 1), (3, 2, 'de', 1), (4, 1, NULL, NULL);
SELECT tm_test.try($$SELECT tenantmig.backfill('two', via => 'team_id')$$);
-- composite, in another order than the index, of another type, MATCH FULL with nulls
SELECT tenantmig.backfill('two', via => 'two_place', options => '{"on_orphan": "leave", "keep_trigger": true}') AS job \gset
CALL tenantmig.wait(:job);
INSERT INTO two VALUES (5, 1, 'fr', 1), (6, 1, NULL, NULL);
TABLE two ORDER BY id;
SELECT key, sqlstate FROM tenantmig.job_errors WHERE job = :job;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
-- NOT VALID, with rows that it does not hold for
ALTER TABLE two DROP CONSTRAINT two_team;
UPDATE two SET team_id = 5 WHERE id = 1;
SET session_replication_role = replica;
UPDATE two SET team_id = 77 WHERE id = 2;
RESET session_replication_role;
SELECT tenantmig.backfill('two', via => 'two_node', options => '{"on_orphan": "leave"}') AS job \gset
CALL tenantmig.wait(:job);
SELECT id, team_id, tenant_id FROM two ORDER BY id;
SELECT key, sqlstate FROM tenantmig.job_errors WHERE job = :job;
-- to a partitioned table of another schema, whose rows the trigger finds too
CREATE SCHEMA "tm Other";
CREATE TABLE "tm Other"."Region" (id int PRIMARY KEY, tenant_id text) PARTITION BY RANGE (id);
CREATE TABLE "tm Other".r1 PARTITION OF "tm Other"."Region" FOR VALUES FROM (1) TO (10);
CREATE TABLE "tm Other".r2 PARTITION OF "tm Other"."Region" FOR VALUES FROM (10) TO (20);
INSERT INTO "tm Other"."Region" VALUES (1, 'one'), (10, 'ten');
CREATE TABLE shop (id int PRIMARY KEY, region_id int REFERENCES "tm Other"."Region", tenant_id text);
INSERT INTO shop VALUES (1, 1), (2, 10);
SELECT tenantmig.backfill('shop', via => 'region_id', options => '{"keep_trigger": true}') AS job \gset
CALL tenantmig.wait(:job);
INSERT INTO shop VALUES (3, 10);
TABLE shop ORDER BY id;

--
-- triggers: off
--
CREATE TABLE audit (who text, id int);
CREATE TABLE doc (id int PRIMARY KEY, team_id int, changed int NOT NULL DEFAULT 0, tenant_id text);
INSERT INTO doc SELECT i, i % 2 + 1 FROM generate_series(1, 300) i;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.changed := OLD.changed + 1; RETURN NEW; END$$;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
IF TG_LEVEL = 'ROW' THEN INSERT INTO tm_sources.audit VALUES (TG_NAME, NEW.id);
ELSE INSERT INTO tm_sources.audit SELECT TG_NAME, count(*) FROM n; END IF;
RETURN NULL; END$$;
CREATE TRIGGER touch BEFORE UPDATE ON doc FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER note AFTER UPDATE ON doc FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER note_all AFTER UPDATE ON doc REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION note();
CREATE TRIGGER note_other AFTER UPDATE OF team_id ON doc FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER note_replica AFTER UPDATE ON doc FOR EACH ROW EXECUTE FUNCTION note();
ALTER TABLE doc ENABLE REPLICA TRIGGER note_replica;
CREATE TABLE tenant (id text PRIMARY KEY);
INSERT INTO tenant VALUES ('acme');
ALTER TABLE doc ADD CONSTRAINT doc_tenant FOREIGN KEY (tenant_id) REFERENCES tenant;
SELECT tenantmig.backfill('doc', value => 'acme', options => '{"triggers": "off"}', dry_run => true) AS plan \gset
SELECT plan -> 'warnings' FROM tenantmig.job WHERE id = :plan;
SELECT tenantmig.backfill('doc', value => 'acme', options => '{"triggers": "off"}') AS job \gset
CALL tenantmig.wait(:job);
SELECT tenant_id, changed, count(*) FROM doc GROUP BY 1, 2;
SELECT count(*) FROM audit;
-- they fire for everybody else
UPDATE doc SET team_id = 1 WHERE id = 1;
SELECT * FROM audit ORDER BY 1;
TRUNCATE audit;
-- the undo does as the job did
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenant_id, changed, count(*) FROM doc GROUP BY 1, 2 ORDER BY 2;
SELECT count(*) FROM audit;
-- constraints are checked all the same
SELECT tenantmig.backfill('doc', value => 'nobody', options => '{"triggers": "off"}') AS job \gset
\set VERBOSITY terse
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT count(*) FROM doc WHERE tenant_id IS NOT NULL;
ALTER TABLE doc DROP CONSTRAINT doc_tenant, ADD CONSTRAINT one_each UNIQUE (tenant_id) DEFERRABLE INITIALLY DEFERRED;
SELECT tenantmig.backfill('doc', value => 'same', options => '{"triggers": "off"}') AS job \gset
\set VERBOSITY terse
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT count(*) FROM doc WHERE tenant_id IS NOT NULL;
ALTER TABLE doc DROP CONSTRAINT one_each;
-- what is ENABLE ALWAYS fires; what a trigger of it calls has all of its own
ALTER TABLE doc ENABLE ALWAYS TRIGGER note;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN CASE WHEN NEW.id <= 5 THEN NEW END; END$$;
CREATE TRIGGER refuse BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION refuse();
SELECT tenantmig.backfill('doc', value => 'acme', options => '{"triggers": "off"}') AS job \gset
CALL tenantmig.wait(:job);
SELECT who, count(*), max(id) FROM audit GROUP BY 1;
SELECT changed, count(*) FROM doc GROUP BY 1 ORDER BY 1;
DROP TRIGGER refuse ON audit;
ALTER TABLE doc ENABLE TRIGGER note;
TRUNCATE audit;
UPDATE doc SET tenant_id = NULL;
TRUNCATE audit;
-- on, as when nothing is said
SELECT tenantmig.backfill('doc', value => 'acme', options => '{"triggers": "on"}') AS job \gset
CALL tenantmig.wait(:job);
SELECT who, count(*) > 0 AS fired FROM audit GROUP BY 1 ORDER BY 1;
SELECT min(changed), max(changed) FROM doc WHERE id > 1;

DROP SCHEMA tm_sources, "tm Other" CASCADE;
