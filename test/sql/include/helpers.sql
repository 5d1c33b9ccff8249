--
-- What the tests share, in a schema of its own.  Read by
--	\set ECHO none
--	\getenv abs_srcdir PG_ABS_SRCDIR
--	\i :abs_srcdir/sql/include/helpers.sql
--	\set ECHO all
-- Leaves client_min_messages at warning: most NOTICEs have the number of a job.
--
SET client_min_messages = warning;
CREATE SCHEMA IF NOT EXISTS tm_test;
GRANT USAGE ON SCHEMA tm_test TO PUBLIC;

-- Numbers that differ from run to run
CREATE OR REPLACE FUNCTION tm_test.mask(message text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
SELECT regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(message,
	'\m([Jj]ob) \d+', '\1 N', 'g'),
	'(tenantmig\.[a-z_]+|pg_terminate_backend)\(\d+', '\1(N', 'g'),
	'(zz_)?tenantmig_\d+_', '\1tenantmig_N_', 'g'),
	'(job =|[Pp]rocess|OID) \d+', '\1 N', 'g'),
	'pg_temp_\d+', 'pg_temp_N', 'g'),
	'\d+ a second,', 'N a second,', 'g')
$$;

-- Runs a statement: "ok" and its first cell, or the error as psql would print it
CREATE OR REPLACE FUNCTION tm_test.try(statement text) RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
	state text;
	message text;
	detail text;
	hint text;
BEGIN
	BEGIN
		EXECUTE statement;
		RETURN NEXT 'ok';
		RETURN;
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
			detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	END;
	RETURN NEXT format('%s: %s', state, tm_test.mask(message));
	IF detail <> '' THEN
		RETURN NEXT 'DETAIL:  ' || tm_test.mask(detail);
	END IF;
	IF hint <> '' THEN
		RETURN NEXT 'HINT:  ' || tm_test.mask(hint);
	END IF;
END $$;

-- The same in one line, without DETAIL and HINT, and without what it did: no
-- worker takes up a job that a statement records all the same
CREATE OR REPLACE FUNCTION tm_test.sqlstate(statement text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	SELECT t INTO line FROM tm_test.try(statement) t LIMIT 1;
	RAISE EXCEPTION USING ERRCODE = 'TM000', MESSAGE = line;
EXCEPTION WHEN SQLSTATE 'TM000' THEN
	RETURN SQLERRM;
END $$;

-- All rows of a relation without one column, as a number of rows and a digest
CREATE OR REPLACE FUNCTION tm_test.digest(relation regclass, but text DEFAULT 'tenant_id',
	OUT rows bigint, OUT digest text)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT count(*), md5(string_agg(r, chr(10) ORDER BY r))
		FROM (SELECT (to_jsonb(t) - %L)::text AS r FROM %s t) s', but, relation)
	INTO rows, digest;
END $$;

-- All that DDL can change of a relation and of what inherits from it
CREATE OR REPLACE FUNCTION tm_test.catalog(root regclass) RETURNS SETOF text
LANGUAGE sql AS $$
WITH RECURSIVE tree(relid) AS (
	SELECT root::oid UNION ALL
	SELECT inhrelid FROM tree JOIN pg_inherits ON inhparent = relid)
SELECT line FROM (
	SELECT format('%s column %I %s%s%s', relid::regclass, attname,
		format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN ' not null' END,
		' default ' || pg_get_expr(adbin, adrelid)) AS line
	FROM tree JOIN pg_attribute ON attrelid = relid AND attnum > 0 AND NOT attisdropped
	     LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
	UNION ALL
	SELECT format('%s constraint %I %s%s', relid::regclass, conname, pg_get_constraintdef(c.oid),
		CASE WHEN NOT convalidated THEN ' not validated' END)
	FROM tree JOIN pg_constraint c ON conrelid = relid
	WHERE contype <> 'n'
	UNION ALL
	SELECT format('%s index %s%s', relid::regclass, pg_get_indexdef(indexrelid),
		CASE WHEN NOT (indisvalid AND indisready AND indislive) THEN ' INVALID' END)
	FROM tree JOIN pg_index ON indrelid = relid
	UNION ALL
	SELECT format('%s trigger %s %s', relid::regclass, tm_test.mask(pg_get_triggerdef(t.oid)), tgenabled)
	FROM tree JOIN pg_trigger t ON tgrelid = relid WHERE NOT tgisinternal
	UNION ALL
	SELECT format('%s rls %s %s', relid::regclass, relrowsecurity, relforcerowsecurity)
	FROM tree JOIN pg_class ON oid = relid) s
ORDER BY line COLLATE "C"
$$;

-- Remember catalog and rows of a table; and what has changed since
CREATE TABLE IF NOT EXISTS tm_test.kept (relation text, line text);
CREATE OR REPLACE FUNCTION tm_test.state(relation regclass, but text DEFAULT 'tenant_id') RETURNS SETOF text
LANGUAGE sql AS $$
SELECT tm_test.catalog(relation)
UNION ALL
SELECT format('%s rows, digest %s', d.rows, d.digest) FROM tm_test.digest(relation, but) d
$$;
CREATE OR REPLACE FUNCTION tm_test.keep(relation regclass, but text DEFAULT 'tenant_id') RETURNS void
LANGUAGE sql AS $$
DELETE FROM tm_test.kept k WHERE k.relation = keep.relation::text;
INSERT INTO tm_test.kept SELECT relation::text, s FROM tm_test.state(relation, but) s;
$$;
CREATE OR REPLACE FUNCTION tm_test.changes(relation regclass, but text DEFAULT 'tenant_id') RETURNS SETOF text
LANGUAGE sql AS $$
(SELECT '- ' || line FROM tm_test.kept k WHERE k.relation = changes.relation::text
 EXCEPT SELECT '- ' || s FROM tm_test.state(relation, but) s)
UNION ALL
(SELECT '+ ' || s FROM tm_test.state(relation, but) s
 EXCEPT SELECT '+ ' || line FROM tm_test.kept k WHERE k.relation = changes.relation::text)
ORDER BY 1
$$;

-- Invalid indexes, triggers and constraints of ours that are still there
CREATE OR REPLACE VIEW tm_test.leftovers AS
SELECT 'invalid index' AS what, indexrelid::regclass::text AS name
FROM pg_index WHERE NOT (indisvalid AND indisready AND indislive)
UNION ALL
SELECT 'trigger', tgname FROM pg_trigger WHERE tgname LIKE 'zz\_tenantmig\_%'
UNION ALL
SELECT 'constraint', conname FROM pg_constraint WHERE conname LIKE 'tenantmig\_%'
	AND connamespace::regnamespace::text <> 'tenantmig';

-- Waits until a query says true; an error after a minute
CREATE OR REPLACE PROCEDURE tm_test.wait_until(query text)
LANGUAGE plpgsql AS $$
DECLARE
	deadline timestamptz := clock_timestamp() + interval '60 seconds';
	done boolean;
BEGIN
	LOOP
		EXECUTE query INTO done;
		EXIT WHEN done;
		IF clock_timestamp() > deadline THEN
			RAISE EXCEPTION 'not true within a minute: %', query;
		END IF;
		COMMIT;
	END LOOP;
END $$;

-- The facts of a job that are the same in every run
CREATE OR REPLACE FUNCTION tm_test.facts(job bigint) RETURNS jsonb
LANGUAGE plpgsql AS $$
BEGIN
	RETURN (SELECT summary - '{elapsed_ms,wal_bytes,sweeps}'::text[] FROM tenantmig.job j WHERE j.id = job);
END $$;
GRANT ALL ON ALL TABLES IN SCHEMA tm_test TO PUBLIC;
