/*
 * Measured in the tables and the catalogs; of tenantmig itself only the state of
 * its jobs is asked. The variables transactions and failures are what the
 * writer's client was told.
 */
CREATE TABLE demo.proof (
    n integer GENERATED ALWAYS AS IDENTITY,
    claim text, expected text, found text,
    ok boolean GENERATED ALWAYS AS (found IS NOT DISTINCT FROM expected) STORED
);

INSERT INTO demo.proof (claim, expected, found) VALUES
    ('transactions of the writer that failed', 0, :failures);

INSERT INTO demo.proof (claim, expected, found)
SELECT 'jobs that did not succeed', 0, count(*)
FROM tenantmig.jobs WHERE state NOT IN ('succeeded', 'planned');

-- Nothing lost, nothing but the tenant changed
CREATE TEMP TABLE after AS
SELECT w.*, m.row_count, m.digest
FROM demo.watched w, demo.measure(w.relation, w.fixed_columns, w.max_id) m ORDER BY w.rows_before;

INSERT INTO demo.proof (claim, expected, found)
SELECT format('rows of %s: %s, and %s new', relation, rows_before, writer_inserts * :transactions),
       rows_before + writer_inserts * :transactions, row_count
FROM after;

INSERT INTO demo.proof (claim, expected, found)
SELECT 'tables whose old rows changed in another column', '', coalesce(string_agg(relation::text, ', '), '')
FROM after WHERE digest <> digest_before;

-- Every row has the tenant that its chain of parents leads to
CREATE TEMP TABLE wrong AS
SELECT 'users' AS relation, count(*)
FROM users WHERE tenant_id IS DISTINCT FROM CASE WHEN id <= 120 THEN 'acme' ELSE 'default' END
UNION ALL
SELECT 'test_suites', count(*)
FROM test_suites s LEFT JOIN users u ON u.id = s.created_by
WHERE s.tenant_id IS DISTINCT FROM coalesce(u.tenant_id, 'default')
UNION ALL
SELECT 'test_cases', count(*)
FROM test_cases c LEFT JOIN test_suites s ON s.id = c.suite_id
WHERE c.tenant_id IS DISTINCT FROM coalesce(s.tenant_id, 'default')
UNION ALL
SELECT 'test_executions', count(*)
FROM test_executions e LEFT JOIN test_cases c ON c.id = e.case_id
WHERE e.tenant_id IS DISTINCT FROM coalesce(c.tenant_id, 'default')
UNION ALL
SELECT 'test_execution_details', count(*)
FROM test_execution_details d LEFT JOIN test_executions e ON e.id = d.execution_id
WHERE d.tenant_id IS DISTINCT FROM coalesce(e.tenant_id, 'default');

INSERT INTO demo.proof (claim, expected, found)
SELECT 'rows without a tenant or with a wrong one, in ' || relation, 0, count FROM wrong;

-- The catalogs agree
INSERT INTO demo.proof (claim, expected, found)
SELECT 'tables whose tenant_id is NOT NULL', 5, count(*)
FROM demo.watched JOIN pg_attribute ON attrelid = relation
WHERE attname = 'tenant_id' AND attnotnull;

INSERT INTO demo.proof (claim, expected, found)
SELECT 'tables with a valid index that leads with tenant_id', 5, count(DISTINCT indrelid)
FROM demo.watched JOIN pg_index ON indrelid = relation
     JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
WHERE attname = 'tenant_id' AND indisvalid;

INSERT INTO demo.proof (claim, expected, found)
SELECT 'invalid indexes left behind', 0, count(*) FROM pg_index WHERE NOT indisvalid;

INSERT INTO demo.proof (claim, expected, found)
SELECT 'tables with row-level security, forced', 5, count(*)
FROM demo.watched JOIN pg_class ON pg_class.oid = relation
WHERE relrowsecurity AND relforcerowsecurity;

-- What the application's role can see and do
SELECT count(*) AS acme FROM test_executions WHERE tenant_id = 'acme' \gset

CREATE VIEW pg_temp.seen AS
SELECT tenant_id FROM users UNION ALL SELECT tenant_id FROM test_suites
UNION ALL SELECT tenant_id FROM test_cases UNION ALL SELECT tenant_id FROM test_executions
UNION ALL SELECT tenant_id FROM test_execution_details;
ALTER VIEW pg_temp.seen SET (security_invoker);
GRANT SELECT ON pg_temp.seen TO qa_app;

CREATE FUNCTION demo.sqlstate_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN '00000';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;
GRANT USAGE ON SCHEMA demo TO qa_app;

SET ROLE qa_app;
SELECT count(*) AS none FROM pg_temp.seen \gset
SET app.current_tenant_id = 'acme';
SELECT count(*) AS own FROM test_executions \gset
SELECT count(*) AS foreign FROM pg_temp.seen WHERE tenant_id IS DISTINCT FROM 'acme' \gset
SELECT demo.sqlstate_of($$INSERT INTO users (email, full_name, tenant_id)
                          VALUES ('intruder@example.org', 'Intruder', 'default')$$) AS inserted \gset
SELECT demo.sqlstate_of($$UPDATE users SET tenant_id = 'default' WHERE id = 1$$) AS moved \gset
UPDATE users SET full_name = 'Nobody' WHERE tenant_id = 'default';
\set changed :ROW_COUNT
RESET ROLE;

INSERT INTO demo.proof (claim, expected, found) VALUES
    ('acme sees its own executions', :acme, :own),
    ('acme sees rows of others, in all five tables', 0, :foreign),
    ('without a tenant, rows that can be seen', 0, :none),
    ('acme writes a row for another tenant: SQLSTATE', '42501', :'inserted'),
    ('acme gives a row to another tenant: SQLSTATE', '42501', :'moved'),
    ('acme changes rows of another tenant', 0, :changed);

\pset footer off
SELECT claim, expected, found, CASE WHEN ok THEN 'ok' ELSE 'NOT OK' END AS " " FROM demo.proof ORDER BY n;
