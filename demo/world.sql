/*
 * The database of a test-management application before it knew tenants: users
 * write suites of test cases, every run of a case is an execution with details.
 * 976,000 rows. 120 users belong to the tenant "acme" already; nothing else
 * says whose it is. Some rows lost their parent.
 */
CREATE TABLE users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email text NOT NULL UNIQUE,
    full_name text NOT NULL,
    tenant_id text,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE test_suites (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_by bigint,
    name text NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}'
);
CREATE TABLE test_cases (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    suite_id bigint NOT NULL,
    title text NOT NULL,
    configuration jsonb NOT NULL DEFAULT '{}'
);
CREATE TABLE test_executions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    case_id bigint,
    executed_by bigint NOT NULL,
    status text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
CREATE TABLE test_execution_details (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_id bigint,
    step integer NOT NULL,
    result text NOT NULL,
    output text NOT NULL DEFAULT ''
);

INSERT INTO users (email, full_name, tenant_id, created_at)
SELECT format('user%s@example.org', u), 'User ' || u,
       CASE WHEN u <= 120 THEN 'acme' END,
       timestamptz '2024-01-01 UTC' + u * interval '1 hour'
FROM generate_series(1, 2400) u;

-- The first 45 suites are acme's; the last four lost their author.
INSERT INTO test_suites (created_by, name, metadata)
SELECT CASE WHEN s <= 45 THEN 1 + s % 120
            WHEN s <= 896 THEN 121 + s * 37 % 2280 END,
       'Suite ' || s, jsonb_build_object('team', s % 17)
FROM generate_series(1, 900) s;

INSERT INTO test_cases (suite_id, title, configuration)
SELECT 1 + (c - 1) / 14, 'Case ' || c, jsonb_build_object('browser', 'firefox', 'retries', c % 3)
FROM generate_series(1, 12600) c;

-- One execution in 10,000 is of a case that is gone.
INSERT INTO test_executions (case_id, executed_by, status, started_at, finished_at)
SELECT CASE WHEN e % 10000 > 0 THEN c END,
       CASE WHEN c <= 630 THEN 1 + e % 120 ELSE 121 + e % 2280 END,
       (ARRAY['passed', 'passed', 'passed', 'failed', 'skipped'])[1 + e % 5],
       t, t + e % 600 * interval '1 second'
FROM generate_series(1, 320000) e
     CROSS JOIN LATERAL (SELECT 1 + e::bigint * 7919 % 12600 AS c,
                                timestamptz '2025-01-01 UTC' + e * interval '1 minute' AS t) x;

INSERT INTO test_execution_details (execution_id, step, result, output)
SELECT CASE WHEN d % 80000 > 0 THEN (d + 1) / 2 END, 1 + d % 2,
       CASE WHEN d % 9 = 0 THEN 'failed' ELSE 'passed' END,
       'output of step ' || d
FROM generate_series(1, 640000) d;

ALTER TABLE test_suites ADD FOREIGN KEY (created_by) REFERENCES users;
ALTER TABLE test_cases ADD FOREIGN KEY (suite_id) REFERENCES test_suites;
ALTER TABLE test_executions
    ADD FOREIGN KEY (case_id) REFERENCES test_cases,
    ADD FOREIGN KEY (executed_by) REFERENCES users;
ALTER TABLE test_execution_details ADD FOREIGN KEY (execution_id) REFERENCES test_executions;
CREATE INDEX ON test_cases (suite_id);
CREATE INDEX ON test_executions (case_id);
CREATE INDEX ON test_execution_details (execution_id);

GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO qa_app;
VACUUM ANALYZE users, test_suites, test_cases, test_executions, test_execution_details;

-- What the proof compares with: how many rows there are, and a digest of the
-- columns that the application never changes.
CREATE SCHEMA demo;
CREATE TABLE demo.watched (
    relation regclass PRIMARY KEY,
    fixed_columns text NOT NULL,
    writer_inserts integer NOT NULL,    -- rows in each of its transactions
    rows_before bigint,
    max_id bigint,
    digest_before numeric
);
INSERT INTO demo.watched (relation, fixed_columns, writer_inserts) VALUES
    ('users', 'id, email, full_name, created_at', 0),
    ('test_suites', 'id, created_by, name, metadata', 0),
    ('test_cases', 'id, suite_id, title, configuration', 0),
    ('test_executions', 'id, case_id, executed_by, started_at', 1),
    ('test_execution_details', 'id, execution_id, step, result', 2);

CREATE FUNCTION demo.measure(relation regclass, fixed_columns text, up_to bigint,
    OUT row_count bigint, OUT max_id bigint, OUT digest numeric)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SELECT count(*), max(id), sum(hashtextextended(ROW(%s)::text, 0))
                           FILTER (WHERE id <= coalesce($1, id)) FROM %s', fixed_columns, relation)
    INTO row_count, max_id, digest USING up_to;
END $$;

UPDATE demo.watched SET (rows_before, max_id, digest_before) =
    (SELECT m.row_count, m.max_id, m.digest FROM demo.measure(relation, fixed_columns, NULL) m);
