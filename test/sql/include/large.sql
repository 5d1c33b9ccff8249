--
-- 1,000 tables with row-level security and 6,000 indexes, in schema
-- regress_tm_large, for the role regress_tm_app
--
CREATE ROLE regress_tm_app;
CREATE SCHEMA regress_tm_large;
GRANT USAGE ON SCHEMA regress_tm_large TO regress_tm_app;
SET search_path = regress_tm_large;
-- as enable_rls makes them, but a hundred tables at a time
DO $$
DECLARE
	isolates text := $q$tenant_id OPERATOR(pg_catalog.=) (SELECT NULLIF(pg_catalog.current_setting('app.current_tenant_id', true), '')::pg_catalog.text)$q$;
BEGIN
	FOR i IN 1 .. 1000 LOOP
		EXECUTE format('CREATE TABLE t%s (tenant_id text NOT NULL, id bigint, parent bigint, a int, b text, c date, PRIMARY KEY (tenant_id, id), UNIQUE (tenant_id, b))', i);
		EXECUTE format('CREATE INDEX ON t%s (tenant_id, parent); CREATE INDEX ON t%s (a); CREATE INDEX ON t%s (tenant_id, c); CREATE INDEX ON t%s (lower(b))', i, i, i, i);
		EXECUTE format('CREATE POLICY tenantmig_isolation ON t%s AS RESTRICTIVE USING (%s)', i, isolates);
		EXECUTE format('CREATE POLICY tenantmig_access ON t%s USING (tenant_id IS NOT NULL)', i);
		EXECUTE format('ALTER TABLE t%s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', i);
		IF i > 1 THEN
			EXECUTE format('ALTER TABLE t%s ADD FOREIGN KEY (tenant_id, parent) REFERENCES t%s', i, i - 1);
		END IF;
		IF i % 100 = 0 THEN
			COMMIT;
		END IF;
	END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA regress_tm_large TO regress_tm_app;
