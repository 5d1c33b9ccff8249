--
-- audit_rls: names that must be quoted, in what it says and in what it wants run
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
\set ECHO all
SELECT format('%I', E'regress_tm_x"''; DROP TABLE canary; --\n%s') AS role,
       format('%I', E'regress_tm_Group %I $$') AS grp,
       format('%I', E'regress_tm_s"; DROP TABLE canary; --') AS schema,
       format('%I', E't"''%I;\nx.y') AS tab,
       format('%I', E'Tenant "''; --\nID') AS col \gset
CREATE TABLE canary (x int);
CREATE ROLE :role;
CREATE ROLE :grp ROLE :role;
CREATE SCHEMA :schema;
GRANT USAGE ON SCHEMA :schema TO PUBLIC;
SELECT nspname AS schema_name FROM pg_namespace WHERE nspname LIKE 'regress\_tm\_s%' \gset
SELECT rolname AS role_name FROM pg_roles WHERE rolname LIKE 'regress\_tm\_x%' \gset
SELECT E'Tenant "''; --\nID' AS col_name \gset
SET search_path = :schema, public;

CREATE TABLE :tab (:col text DEFAULT 'x', "Id""" int PRIMARY KEY, "U '" text UNIQUE, "ref'""" int REFERENCES :tab ON DELETE CASCADE);
CREATE UNIQUE INDEX "i""'; --" ON :tab (lower("U '"));
INSERT INTO :tab VALUES ('a', 1, 'u', NULL), ('b', 2, 'v', 1);
CREATE TABLE "P %" (:col text NOT NULL, id int NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE "p'1" PARTITION OF "P %" FOR VALUES FROM (0) TO (10);
CREATE TABLE "Copy""" AS SELECT * FROM :tab;
GRANT ALL ON ALL TABLES IN SCHEMA :schema TO :grp;
GRANT TRUNCATE ON "P %" TO PUBLIC;
CREATE VIEW "V""'" AS SELECT * FROM :tab;
CREATE MATERIALIZED VIEW "M""'" AS SELECT * FROM :tab;
GRANT SELECT ON "V""'", "M""'" TO :role;
CREATE RULE "R""'" AS ON INSERT TO :tab DO ALSO INSERT INTO "P %" VALUES (new.:col, new."Id""");
CREATE TYPE "T""'" AS ENUM ('one');
CREATE FUNCTION "F""'%"("a""'" "T""'", VARIADIC text[]) RETURNS int LANGUAGE plpgsql LEAKPROOF SECURITY DEFINER AS 'BEGIN RETURN 1; END';
CREATE FUNCTION "S""'"(t text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.current_tenant_id', t, true) $$;
CREATE FUNCTION "G""'"() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO "P %" (id) VALUES (1); RETURN NULL; END $$;
CREATE TRIGGER "Tr""'" AFTER INSERT ON :tab FOR EACH ROW EXECUTE FUNCTION "G""'"();
CREATE SEQUENCE "Q""'";
GRANT ALL ON SEQUENCE "Q""'" TO :grp;
SET client_min_messages = error;
CREATE PUBLICATION "regress_tm_Pub""'" FOR TABLE :tab;
SET client_min_messages = warning;
CREATE POLICY "open""'" ON :tab TO :grp USING (true);
CREATE POLICY "null""'" ON :tab FOR SELECT USING (:col = current_setting('app.current_tenant_id', true) OR :col IS NULL);
CREATE POLICY "slow""'" ON "P %" FOR SELECT USING (:col::varchar(9) = current_setting('App.It$1', true));
ALTER TABLE :tab ENABLE ROW LEVEL SECURITY;
ALTER ROLE :role SET app.current_tenant_id = 'a';
GRANT pg_read_all_data, pg_read_server_files TO :grp;
SELECT lo_create(0) AS lo \gset
GRANT ALL ON LARGE OBJECT :lo TO :role;

-- in one line each
SELECT count(*) > 20 AS found, count(*) FILTER (WHERE object ~ '[\r\n]' OR detail ~ '[\r\n]') AS broken
FROM tenantmig.audit_rls(:'role_name', ARRAY[:'schema_name']::name[], :'col_name');
SELECT DISTINCT check_name COLLATE "C" AS check_name FROM tenantmig.audit_rls(:'role_name', ARRAY[:'schema_name']::name[], :'col_name') ORDER BY 1;

-- Does what the rows say until there are none, in three rounds: what a table
-- without row-level security hides comes to light when it has it, and a
-- statement may be overtaken by one before it (a foreign key that pairs the
-- tenants cannot give a row its tenant any more); at the end none is in trouble
CREATE TABLE public.trouble (statement text, error text);
CREATE PROCEDURE public.mend_all(role name, schema name, col name) LANGUAGE plpgsql AS $$
DECLARE
	statement text;
BEGIN
	FOR i IN 1 .. 3 LOOP
		FOR statement IN SELECT a.mend FROM tenantmig.audit_rls(role, ARRAY[schema], col) a LOOP
			BEGIN
				EXECUTE statement;
			EXCEPTION WHEN OTHERS THEN
				INSERT INTO public.trouble SELECT statement, SQLERRM WHERE i = 3;
			END;
		END LOOP;
		COMMIT;
		CALL tm_test.wait_until($q$SELECT NOT EXISTS (SELECT FROM tenantmig.jobs WHERE state IN ('queued', 'running'))$q$);
	END LOOP;
END $$;
SET client_min_messages = error;
CALL public.mend_all(:'role_name', :'schema_name', :'col_name');
SELECT * FROM public.trouble;
SELECT kind, state, error FROM tenantmig.jobs WHERE state <> 'succeeded';
SELECT * FROM tenantmig.audit_rls(:'role_name', ARRAY[:'schema_name']::name[], :'col_name');
SELECT count(*) AS canary FROM canary;

SELECT lo_unlink(:lo);
DROP PUBLICATION "regress_tm_Pub""'";
DROP SCHEMA :schema CASCADE;
DROP TABLE canary, public.trouble;
DROP PROCEDURE public.mend_all;
DROP ROLE :role, :grp;
