--
-- The report: of recorded jobs with fixed numbers and times, and of real ones
--
SET timezone = 'UTC';
SET client_min_messages = warning;
CREATE ROLE regress_tm_report;
CREATE ROLE regress_tm_report_stranger;
CREATE SCHEMA regress_tm_report AUTHORIZATION regress_tm_report;
GRANT USAGE ON SCHEMA regress_tm_report TO PUBLIC;
SET ROLE regress_tm_report;
CREATE TABLE regress_tm_report.customers (id int PRIMARY KEY, tenant_id text);
CREATE TABLE regress_tm_report.orders (id int PRIMARY KEY, tenant_id text,
    customer int CONSTRAINT orders_customer_fkey REFERENCES regress_tm_report.customers);
CREATE TABLE regress_tm_report."<b>Odd
""name'" (id int PRIMARY KEY, "Tenant" text);
RESET ROLE;
-- a real job knows the number of this database, which is told nowhere else
CREATE TABLE regress_tm_report.home (id int);
SELECT tenantmig.add_tenant_column('regress_tm_report.home') AS home \gset
CREATE TEMP TABLE here AS SELECT home FROM tenantmig.job WHERE id = :home;
DELETE FROM tenantmig.job WHERE id = :home;

-- as if it had been recorded by the owner of these tables
CREATE PROCEDURE pg_temp.record(id bigint, kind text, relation name, state text, seconds numeric,
    arguments jsonb DEFAULT '{"column": "tenant_id"}', summary jsonb DEFAULT '{}', plan jsonb DEFAULT NULL,
    target bigint DEFAULT NULL, undone_by bigint DEFAULT NULL)
LANGUAGE sql AS $$
    INSERT INTO tenantmig.job (id, kind, relid, schema_name, relation_name, arguments, state, summary, plan,
        target, undone_by, caller, owner, owner_name, search_path, home, attempts, created_at, started_at, finished_at)
    OVERRIDING SYSTEM VALUE
    SELECT $1, $2, COALESCE(to_regclass('regress_tm_report.' || quote_ident($3))::oid, 0), CASE WHEN $3 IS NOT NULL THEN 'regress_tm_report' END, $3, $6, $4, $7, $8, $9, $10,
           'regress_tm_report'::regrole, 'regress_tm_report'::regrole, 'regress_tm_report', 'public', (SELECT CASE WHEN $4 = 'queued' THEN 0 ELSE home END FROM here),
           ($5 IS NOT NULL)::int, '2026-02-24 21:00:00+00',
           CASE WHEN $5 IS NOT NULL THEN timestamptz '2026-02-24 21:00:00.25+00' END,
           timestamptz '2026-02-24 21:00:00.25+00' + make_interval(secs => $5::float8)
$$;
CREATE PROCEDURE pg_temp.step(job bigint, "position" int, kind text, state text, statement text, lock text,
    inverse text DEFAULT NULL, ms numeric DEFAULT 12, temporary boolean DEFAULT false)
LANGUAGE sql AS $$
    INSERT INTO tenantmig.job_step
    SELECT $1, $2, $3, 'regress_tm_report.orders'::regclass, 'regress_tm_report.orders', $4, $5, $7, $9, $6, '2026-02-24 21:00:00+00',
           timestamptz '2026-02-24 21:00:00+00' + make_interval(secs => $8::float8 / 1000)
$$;

-- a backfill that succeeded
CALL pg_temp.record(900001, 'backfill', 'orders', 'succeeded', 5.23, summary => '{
    "rows_total": 1500, "rows_already_set": 20, "rows_changed": 1500, "passes": 2, "sweeps": 1, "residue": 0,
    "source": "via orders_customer_fkey to regress_tm_report.customers", "method": "ranges", "trigger": "kept",
    "elapsed_ms": 75000, "warnings": ["The server rests a lot: a standby is far behind, as far as its last message said."]}');
CALL pg_temp.step(900001, 1, 'statement', 'undone',
    'CREATE TRIGGER fill BEFORE INSERT ON regress_tm_report.orders', 'ShareRowExclusiveLock',
    'DROP TRIGGER fill ON regress_tm_report.orders', temporary => true);
CALL pg_temp.step(900001, 2, 'batches', 'done',
    'UPDATE regress_tm_report.orders SET tenant_id = ...', 'RowExclusiveLock',
    'UPDATE regress_tm_report.orders SET tenant_id = NULL', 5100);

-- one that failed: rows, a hint, keys
CALL pg_temp.record(900002, 'backfill', 'customers', 'failed', 3725, summary => '{"rows_total": 100}');
UPDATE tenantmig.job SET sqlstate = '23514', error = 'too many rows failed', error_detail = 'The limit is 2.',
    error_hint = 'See tenantmig.job_errors.' WHERE id = 900002;
INSERT INTO tenantmig.job_progress (job, phase, rows_total, rows_done) VALUES (900002, 'filling rows', 100, 60);
INSERT INTO tenantmig.job_error
SELECT 900002, 'regress_tm_report.customers', jsonb_build_object('id', n), '23514', 'check "positive" is violated', now()
FROM generate_series(1, 5) n;
INSERT INTO tenantmig.job_error VALUES (900002, NULL, NULL, '23514', 'too many rows failed', now());
CALL pg_temp.step(900002, 1, 'batches', 'running', 'UPDATE ...', 'RowExclusiveLock', 'UPDATE ... NULL', NULL);
INSERT INTO tenantmig.job_error VALUES (900002, NULL, NULL, '40P01', E'deadlock detected\nin two lines', now());

-- a dry run on a table whose name has everything
CALL pg_temp.record(900003, 'backfill', E'<b>Odd\n"name''', 'planned', NULL, '{"column": "Tenant"}', plan => '{
    "rows_total": 5000, "rows_already_set": 7, "rows_unresolved": 3, "unresolved_examples": ["(id)=(4)", "(name)=(<i>\n)"],
    "estimated_ms": 93000, "estimated_wal_bytes": 1258291200, "estimated_disk_bytes": 45, "method": "ranges",
    "source": "value ''<default>''", "warnings": ["The column is in an index <x>."]}');
INSERT INTO tenantmig.job_step (job, "position", kind, relid, relation, state, statement, lock_mode)
VALUES (900003, 1, 'batches', 0, E'regress_tm_report."<b>Odd\n""name''"', 'planned',
        E'UPDATE regress_tm_report."<b>Odd\n""name''" SET "Tenant" = $1', 'RowExclusiveLock');

-- restored from a dump; cancelled; undone; an undo; a job without a table; one called again
CALL pg_temp.record(900004, 'set_not_null', 'customers', 'queued', NULL);
CALL pg_temp.record(900005, 'create_index', 'orders', 'cancelled', 0.5, '{"columns": ["tenant_id", "id"]}');
CALL pg_temp.record(900006, 'add_tenant_column', 'customers', 'succeeded', 0.002, undone_by => 900007);
CALL pg_temp.record(900007, 'undo', 'customers', 'succeeded', 0.02, '{}', target => 900006);
CALL pg_temp.record(900008, 'backfill', NULL, 'succeeded', 300000,
    summary => '{"rows_total": 10, "rows_changed": 8, "residue": 2, "rows_assigned": 1, "orphans": 3}');
CALL pg_temp.record(900009, 'backfill', 'customers', 'succeeded', 0.8,
    summary => '{"rows_total": 40, "rows_already_set": 60, "rows_changed": 40, "residue": 0}');
CALL pg_temp.step(900009, 1, 'batches', 'done', 'UPDATE ...', 'RowExclusiveLock', 'UPDATE ...');
-- what was built on the first, and a column whose literals need escapes
CALL pg_temp.record(900010, 'set_not_null', 'orders', 'succeeded', 2, '{"column": "tenant_id"}');
CALL pg_temp.step(900010, 1, 'toplevel', 'done', 'ALTER TABLE ... SET NOT NULL', 'AccessExclusiveLock', 'ALTER TABLE ...');
CALL pg_temp.record(900011, 'backfill', E'<b>Odd\n"name''', 'succeeded', 90000, '{"column": "Tenant", "value": "x"}',
    summary => '{"rows_total": 0, "rows_changed": 0, "residue": 0}');

SET ROLE regress_tm_report;
\pset format unaligned
\pset tuples_only on
SELECT tenantmig.report(900001);
SELECT tenantmig.report(900002);
SELECT tenantmig.report(900003, 'text');
RESET ROLE;
SELECT tenantmig.report(900004);
SET ROLE regress_tm_report;
SELECT tenantmig.report(900005);
SELECT tenantmig.report(900006);
SELECT tenantmig.report(900007);
SELECT tenantmig.report(900011);
SELECT tenantmig.report(NULL);
RESET ROLE;
SELECT tenantmig.report(900008);

-- HTML: nothing of a name or message becomes markup
SELECT tenantmig.report(900003, 'html');
SELECT count(*) AS unbalanced
FROM (SELECT tag, count(*) FILTER (WHERE NOT closing) - count(*) FILTER (WHERE closing)
      FROM (SELECT m[2] AS tag, m[1] = '/' AS closing
            FROM generate_series(900001, 900011) id,
                 regexp_matches(tenantmig.report(id, 'html'), '<(/?)(\w+)[^>]*>', 'g') m) t
      WHERE tag <> 'meta' GROUP BY tag HAVING count(*) FILTER (WHERE closing) <> count(*) FILTER (WHERE NOT closing)) u;
SELECT tenantmig.report(NULL, 'html') ~ '<(b|i|x|script)>' AS injected;

-- JSON: the same document
SELECT jsonb_pretty(tenantmig.report(900002, 'json')::jsonb);
\pset tuples_only off
\pset format aligned
SELECT id, r -> 'summary' ->> 'status' AS status, r -> 'records' ->> 'total' AS total,
       r -> 'records' ->> 'changed' AS changed, r -> 'records' ->> 'left' AS left,
       r -> 'records' ->> 'failed' AS failed, r -> 'summary' ->> 'next_action' AS next_action
FROM generate_series(900001, 900011) id, LATERAL (SELECT tenantmig.report(id, 'json')::jsonb AS r) j ORDER BY id;
SET ROLE regress_tm_report;
SELECT jsonb_pretty(r -> 'summary') AS summary, jsonb_pretty(r -> 'records') AS records
FROM (SELECT tenantmig.report(NULL, 'json')::jsonb AS r) j;
-- every statement it recommends is one that the server can read
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT jsonb_array_elements_text(a -> 'statements')
        FROM jsonb_array_elements(tenantmig.report(NULL, 'json')::jsonb -> 'recommendations') a
    LOOP
        BEGIN
            IF statement ~ '^SELECT' THEN
                EXECUTE 'EXPLAIN ' || statement;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING '%: %', statement, SQLERRM;
        END;
    END LOOP;
END $$;

-- who may see what
SET ROLE regress_tm_report_stranger;
SELECT tenantmig.report(NULL, 'json')::jsonb -> 'summary' ->> 'jobs' AS jobs;
\set VERBOSITY sqlstate
SELECT tenantmig.report(900001);
SELECT tenantmig.report(900001, 'html');
RESET ROLE;
SELECT count(*) FROM jsonb_path_query(tenantmig.report(NULL, 'json')::jsonb,
    '$.components[*].jobs[*].job ? (@ > 900000 && @ < 900012)') seen;
-- what is no job, and what is no format
SELECT tenantmig.report(900099);
SELECT tenantmig.report(0, 'json');
SELECT tenantmig.report(900001, 'xml');
SELECT tenantmig.report(900001, 'TEXT');
SELECT tenantmig.report(900001, '');
SELECT tenantmig.report(900001, NULL);
\set VERBOSITY default
SELECT tenantmig.report(900001, E'x\ny');
SELECT tenantmig.report(900001, NULL);
\set VERBOSITY terse

-- more errors than anybody reads are counted, not listed
INSERT INTO tenantmig.job_error
SELECT 900009, 'regress_tm_report.customers', jsonb_build_object('id', n), '22000', 'message ' || n, now()
FROM generate_series(1, 30) n;
SELECT jsonb_array_length(r -> 'errors') AS errors, r -> 'errors_left_out' AS left_out,
       r -> 'records' -> 'failed' AS failed, r -> 'warnings' AS warnings
FROM (SELECT tenantmig.report(900009, 'json')::jsonb AS r) j;
DELETE FROM tenantmig.job WHERE id BETWEEN 900001 AND 900099;

-- real ones: the numbers agree with the table
SET ROLE regress_tm_report;
INSERT INTO regress_tm_report.customers SELECT n, CASE WHEN n > 90 THEN 'acme' END FROM generate_series(1, 100) n;
SELECT tenantmig.backfill('regress_tm_report.customers', value => 'default', options => '{"method": "ranges"}', dry_run => true) AS plan \gset
SELECT r -> 'summary' ->> 'status' AS status, r -> 'records' ->> 'total' AS total,
       r -> 'records' ->> 'already_set' AS already_set, r -> 'records' ->> 'changed' AS changed,
       jsonb_array_length(r -> 'plan' -> 'statements') > 0 AS has_statements,
       regexp_replace(r -> 'summary' ->> 'next_action', '\d+', '<job>') AS next_action
FROM (SELECT tenantmig.report(:plan, 'json')::jsonb AS r) j;
SELECT tenantmig.start(:plan);
CALL tenantmig.wait(:plan);
SELECT r -> 'summary' ->> 'status' AS status, r -> 'records' ->> 'total' AS total,
       r -> 'records' ->> 'already_set' AS already_set, r -> 'records' ->> 'changed' AS changed,
       r -> 'records' ->> 'left' AS left, r -> 'records' ->> 'failed' AS failed,
       r -> 'records' ->> 'left_counted_by_full_scan' AS scanned,
       jsonb_array_length(r -> 'errors') AS errors
FROM (SELECT tenantmig.report(:plan, 'json')::jsonb AS r) j;
SELECT regexp_replace(statement, '\(\d+\)', '(<job>)') AS recommended
FROM jsonb_path_query(tenantmig.report(:plan, 'json')::jsonb, '$.recommendations[*].statements[*]') s,
     LATERAL (SELECT s #>> '{}' AS statement) t;
SELECT tenantmig.undo(:plan) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT r -> 'summary' ->> 'status' AS status, (r -> 'summary' ->> 'undone_by')::bigint = :undo AS undone_by,
       r -> 'summary' ->> 'next_action' AS next_action, r -> 'recommendations' AS recommendations
FROM (SELECT tenantmig.report(:plan, 'json')::jsonb AS r) j;
RESET ROLE;

DROP SCHEMA regress_tm_report CASCADE;
DELETE FROM tenantmig.job WHERE schema_name = 'regress_tm_report';
DROP ROLE regress_tm_report, regress_tm_report_stranger;
RESET client_min_messages;
