--
-- What the tests of the audit share: a schema without a hole, and ways to look
-- for holes and to mend them.  Read after helpers.sql.
--
CREATE ROLE regress_tm_owner;
CREATE ROLE regress_tm_app;
CREATE SCHEMA regress_tm_audit AUTHORIZATION regress_tm_owner;
GRANT USAGE ON SCHEMA regress_tm_audit TO PUBLIC;
SET search_path = regress_tm_audit, public;

SET ROLE regress_tm_owner;
CREATE TABLE customers (
	tenant_id text NOT NULL,
	id bigint GENERATED ALWAYS AS IDENTITY,
	name text,
	PRIMARY KEY (tenant_id, id));
CREATE TABLE orders (
	tenant_id text NOT NULL,
	id bigint GENERATED ALWAYS AS IDENTITY,
	customer_id bigint,
	note text,
	PRIMARY KEY (tenant_id, id),
	FOREIGN KEY (tenant_id, customer_id) REFERENCES customers);
CREATE INDEX ON orders (tenant_id, customer_id);
GRANT SELECT, INSERT, UPDATE, DELETE ON customers, orders TO regress_tm_app;
SELECT count(tenantmig.enable_rls(t)) FROM unnest('{customers,orders}'::regclass[]) t;
RESET ROLE;

-- What is found; by default for the application, and of all checks
CREATE FUNCTION seen(checks text DEFAULT '%', role name DEFAULT 'regress_tm_app',
	OUT check_name text, OUT severity text, OUT object text, OUT role_name name, OUT mend text)
RETURNS SETOF record LANGUAGE sql AS $$
	SELECT a.check_name, a.severity, a.object, a.role_name, a.mend
	FROM tenantmig.audit_rls(role, '{regress_tm_audit}') a WHERE a.check_name LIKE checks
$$;

-- Does what the rows say, waits for the jobs, and looks again: nothing may be
-- left of the check, and there must have been something
CREATE PROCEDURE mends(checks text, role name DEFAULT 'regress_tm_app') LANGUAGE plpgsql AS $$
DECLARE
	statements text[];
	statement text;
	found text;
BEGIN
	SELECT array_agg(DISTINCT s.mend) INTO statements FROM regress_tm_audit.seen(checks, role) s;
	IF statements IS NULL OR array_position(statements, NULL) IS NOT NULL THEN
		RAISE EXCEPTION 'nothing to mend: %', statements;
	END IF;
	FOREACH statement IN ARRAY statements LOOP
		EXECUTE statement;
	END LOOP;
	COMMIT;
	CALL tm_test.wait_until($q$SELECT NOT EXISTS (SELECT FROM tenantmig.jobs WHERE state IN ('queued', 'running'))$q$);
	SELECT string_agg(s::text, E'\n') INTO found FROM regress_tm_audit.seen(checks, role) s;
	IF found IS NOT NULL THEN
		RAISE EXCEPTION 'still there: %', found;
	END IF;
END $$;
