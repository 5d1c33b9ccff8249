--
-- audit_rls on a schema of 1,000 tables and 6,000 indexes: nothing where there
-- is nothing, and the needles that are put into the haystack
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
\i :abs_srcdir/sql/include/large.sql
\set ECHO all
SELECT count(*) FILTER (WHERE relkind = 'r') AS tables, count(*) FILTER (WHERE relkind = 'i') AS indexes
FROM pg_class WHERE relnamespace = 'regress_tm_large'::regnamespace;
SELECT * FROM tenantmig.audit_rls('regress_tm_app', '{regress_tm_large}');
SELECT * FROM tenantmig.audit_rls(schemas => '{regress_tm_large}');

ALTER TABLE t17 DISABLE ROW LEVEL SECURITY;
ALTER TABLE t500 DROP CONSTRAINT t500_tenant_id_parent_fkey, ADD CONSTRAINT swapped FOREIGN KEY (parent, tenant_id) REFERENCES t501 (id, tenant_id);
CREATE UNIQUE INDEX t700_a ON t700 (a);
GRANT TRUNCATE ON t999 TO regress_tm_app;
ALTER POLICY tenantmig_isolation ON t1000 USING (true);
DROP INDEX t3_tenant_id_parent_idx;
CREATE VIEW v AS SELECT * FROM t42;
GRANT SELECT ON v TO regress_tm_app;
\pset format unaligned
SELECT check_name, severity, object FROM tenantmig.audit_rls('regress_tm_app', '{regress_tm_large}');

-- in steps: the locks on all of it at once would not fit
\o /dev/null
\set ECHO none
SELECT format('DROP TABLE %s CASCADE', string_agg(format('t%s', i), ', ' ORDER BY i)) FROM generate_series(1, 1000) i GROUP BY i / 100 ORDER BY i / 100 \gexec
\o
\set ECHO all
DROP SCHEMA regress_tm_large CASCADE;
DROP ROLE regress_tm_app;
