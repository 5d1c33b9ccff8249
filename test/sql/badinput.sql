--
-- Bad input and attacks: a clear error, nothing changed, nobody's rights exceeded
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
SELECT setval('tenantmig.job_id_seq', 100000) \g /dev/null
\set ECHO all
CREATE SCHEMA tm_bad;
SET search_path = tm_bad, public;
CREATE ROLE regress_tm_victim;
CREATE ROLE regress_tm_evil;
CREATE ROLE "Regress_TM_Victim";
GRANT USAGE ON SCHEMA tm_bad TO regress_tm_victim, regress_tm_evil, "Regress_TM_Victim";
GRANT CREATE ON SCHEMA tm_bad TO regress_tm_victim, regress_tm_evil;

CREATE TABLE orders (id int PRIMARY KEY, region text, customer int, tenant_id text, short varchar(3));
INSERT INTO orders SELECT i, 'EU' FROM generate_series(1, 10) i;
CREATE TABLE customers (id int PRIMARY KEY, tenant_id text);
CREATE TABLE others (id int PRIMARY KEY, tenant_id uuid);
SELECT tm_test.keep('orders', '');
SELECT count(*) AS jobs FROM tenantmig.job \gset

-- every function that takes a table
CREATE FUNCTION calls(relation text) RETURNS SETOF text LANGUAGE sql AS $$
SELECT format(c, relation) FROM unnest(ARRAY['SELECT tenantmig.add_tenant_column(%L, ''x'')', 'SELECT tenantmig.backfill(%L, value => ''x'')',
	'SELECT tenantmig.create_index(%L, ''{tenant_id}'')', 'SELECT tenantmig.set_not_null(%L)', 'SELECT tenantmig.set_primary_key(%L, ''{id}'')',
	'SELECT tenantmig.add_foreign_key(%L, ''{id}'', ''pg_class'', ''{oid}'')',
	'SELECT tenantmig.enable_rls(%L)', 'SELECT tenantmig.disable_rls(%L)']) c
$$;
CREATE FUNCTION all_calls(relation text) RETURNS TABLE (calls text, error text) LANGUAGE sql AS $$
SELECT string_agg(substring(c, 'tenantmig\.(\w+)'), ', ' ORDER BY c), e
FROM (SELECT c, (SELECT string_agg(t, E'\n') FROM tm_test.try(c) t) AS e FROM tm_bad.calls(relation) c) s GROUP BY e ORDER BY 1
$$;

--
-- Which table
--
CREATE VIEW a_view AS SELECT * FROM orders;
CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM orders;
CREATE SEQUENCE a_sequence;
CREATE TYPE a_type AS (tenant_id text);
CREATE INDEX an_index ON customers (tenant_id);
CREATE TEMP TABLE a_temp (id int, tenant_id text);
SELECT * FROM all_calls('nope');
SELECT * FROM all_calls('nope.orders');
SELECT * FROM all_calls('');
SELECT * FROM all_calls('0');
SELECT * FROM all_calls('4294967295');
SELECT * FROM all_calls('a_view');
SELECT * FROM all_calls('a_matview');
SELECT * FROM all_calls('a_sequence');
SELECT * FROM all_calls('a_type');
SELECT * FROM all_calls('an_index');
SELECT * FROM all_calls('a_temp');
SELECT * FROM all_calls('pg_class');
SELECT * FROM all_calls('pg_authid');
SELECT * FROM all_calls('pg_toast.pg_toast_1255');
SELECT * FROM all_calls('information_schema.sql_features');
SELECT * FROM all_calls('tenantmig.job');
SELECT * FROM all_calls('tenantmig.tenant');
SELECT * FROM all_calls('tenantmig.jobs');
SELECT count(*) - :jobs AS jobs FROM tenantmig.job;

--
-- Which column, which value
--
SELECT c, tm_test.sqlstate(format($$SELECT tenantmig.backfill('orders', %L, value => 'x')$$, c)) FROM unnest(ARRAY['nope', '', 'ctid', 'TENANT_ID', 'tenant_id"', 'id; --']) c;
SELECT c, v, tm_test.try(format('SELECT tenantmig.backfill(%L, %L, value => %L)', t, c, v))
FROM (VALUES ('others', 'tenant_id', 'not a uuid'), ('others', 'tenant_id', ''), ('orders', 'short', 'too long'), ('orders', 'id', 'x'),
	('orders', 'id', '99999999999'), ('orders', 'tenant_id', '')) v(t, c, v);
SELECT tm_test.try($$SELECT tenantmig.backfill('orders', value => 'x', unset => 'x')$$);
SELECT tm_test.try($$SELECT tenantmig.backfill('others', value => gen_random_uuid()::text, unset => 'x')$$);
-- exactly one source
SELECT tm_test.try($$SELECT tenantmig.backfill('orders')$$);
SELECT tm_test.try($$SELECT tenantmig.backfill('orders', value => 'a', expression => 'region')$$);
SELECT tm_test.try($$SELECT tenantmig.backfill('orders', value => 'a', expression => 'region', via => 'customer')$$);
-- a value is a parameter, whatever it looks like
SELECT tenantmig.backfill('orders', value => $$1'; DROP TABLE orders; --$$) AS job \gset
CALL tenantmig.wait(:job);
SELECT tenant_id, count(*) FROM orders GROUP BY 1;
SELECT tenantmig.undo(:job) AS job \gset
CALL tenantmig.wait(:job);

--
-- An expression is parsed as exactly one
--
CREATE FUNCTION nobody() RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT 'x'::text $$;
CREATE PROCEDURE a_procedure() LANGUAGE sql AS $$ SELECT 1 $$;
SELECT e AS expression, tm_test.try(format($$SELECT tenantmig.backfill('orders', expression => %L)$$, e))
FROM unnest(ARRAY['', ' ', '-- nothing', 'a, b', 'region, region', '1) WHERE false --', '''x''); DROP TABLE orders; --', 'COMMIT', '1; COMMIT', '1; DROP TABLE orders',
	'region FROM orders', 'region AS x', 'region x', '*', 'orders.*', 'DISTINCT region', 'region WHERE true', 'region ORDER BY 1', 'region LIMIT 1', 'region UNION SELECT ''x''',
	'region INTO x', 'region GROUP BY region', 'region FOR UPDATE', 'ALL region', 'WITH x AS (SELECT 1) SELECT 1', 'SELECT region', '(SELECT 1, 2)',
	'(DELETE FROM orders RETURNING region)', '(WITH d AS (DELETE FROM orders RETURNING region) SELECT region FROM d)',
	'generate_series(1, 2)::text', 'unnest(ARRAY[region])', 'count(*)::text', 'max(region)', 'row_number() OVER ()::text', 'lag(region) OVER ()',
	'random()::text', 'clock_timestamp()::text', 'nobody()', 'nextval(''a_sequence'')::text', 'a_procedure()', 'nope', 'nope(region)', 'other.region', '$1', '?', 'DEFAULT',
	'NULL', '''x'' COLLATE nope', '1', 'ARRAY[region]', 'region = ', '(region', 'region)', E'region\n; SELECT 1', 'E''\x00''',
	'CURRENT OF c', 'orders', 'tenantmig_parent.region', '/* ', '''', '$$', 'OPERATOR(nope.=)(1)', 'grouping(region)::text', 'tenant_id']) e;
SELECT e, tm_test.sqlstate(format($$SELECT tenantmig.backfill('others', expression => %L)$$, e)) FROM unnest(ARRAY['id', '''x''', 'id::text']) e;
SELECT arguments ->> 'expression' AS recorded FROM tenantmig.job
WHERE schema_name = 'tm_bad' AND kind = 'backfill' AND arguments ? 'expression' ORDER BY id;
CALL tm_test.wait_until($$SELECT count(*) = 0 FROM tenantmig.jobs WHERE relation LIKE 'tm_bad.%' AND state IN ('queued', 'running')$$);
SELECT c FROM tm_test.changes('orders', '') c WHERE c !~ 'rows, digest';
SELECT count(*) AS rows, count(region) AS regions FROM orders;
UPDATE orders SET tenant_id = NULL;

--
-- Via
--
SELECT v, tm_test.try(format($$SELECT tenantmig.backfill('orders', via => %L)$$, v)) FROM unnest(ARRAY['', 'customer', 'nope', 'orders_pkey', 'tm_bad.customers']) v;
ALTER TABLE orders ADD CONSTRAINT first FOREIGN KEY (customer) REFERENCES customers;
ALTER TABLE orders ADD CONSTRAINT second FOREIGN KEY (customer) REFERENCES others;
SELECT tm_test.try($$SELECT tenantmig.backfill('orders', via => 'customer')$$);
SELECT tm_test.try($$SELECT tenantmig.backfill('orders', via => 'second')$$);
ALTER TABLE customers RENAME COLUMN tenant_id TO tenant;
SELECT tm_test.try($$SELECT tenantmig.backfill('orders', via => 'first')$$);
ALTER TABLE customers RENAME COLUMN tenant TO tenant_id;
ALTER TABLE orders DROP CONSTRAINT first, DROP CONSTRAINT second;

--
-- NULL in every place of every function; what is not there; what is not meant to be called
--
CREATE FUNCTION call_with(function oid, value text) RETURNS text LANGUAGE plpgsql AS $fn$
DECLARE
	p pg_proc;
	arguments text;
BEGIN
	SELECT * INTO p FROM pg_proc WHERE oid = function;
	SELECT string_agg(CASE WHEN value IS NULL THEN 'NULL::' || format_type(t, NULL)
		ELSE format('%L::text::%s', value, format_type(t, NULL)) END, ', ' ORDER BY n) INTO arguments
	FROM unnest(p.proargtypes) WITH ORDINALITY u(t, n);
	RETURN tm_test.sqlstate(format('%s tenantmig.%I(%s)', CASE WHEN p.prokind = 'p' THEN 'CALL' ELSE 'SELECT' END, p.proname, arguments));
END $fn$;
SELECT p.proname, call_with(p.oid, NULL) FROM pg_proc p WHERE p.pronamespace = 'tenantmig'::regnamespace ORDER BY p.proname COLLATE "C";
-- one NULL at a time, the others as they should be
CREATE TABLE good (function text, n int, argument text);
INSERT INTO good SELECT f, n, a FROM (VALUES
	('add_tenant_column', ARRAY['''orders''', '''x''', '''text''']),
	('backfill', ARRAY['''orders''', '''tenant_id''', '''a''', 'NULL', 'NULL', 'NULL', '''{}''', 'false']),
	('create_index', ARRAY['''orders''', '''{id}''', 'NULL', 'false', 'NULL', '''btree''', '''{}''', 'false', 'NULL', 'false', '''{}''']),
	('scope_unique', ARRAY['''orders''', '''orders_pkey''', '''tenant_id''', 'true']),
	('suggest_indexes', ARRAY['''orders''', '''tenant_id''']),
	('set_not_null', ARRAY['''orders''', '''tenant_id''', 'false']),
	('set_primary_key', ARRAY['''orders''', '''{id}''', '''keep''', 'false']),
	('add_foreign_key', ARRAY['''orders''', '''{id}''', '''orders''', '''{id}''', 'NULL', '''CASCADE''', 'false']),
	('enable_rls', ARRAY['''orders''', '''tenant_id''', '''app.x''', '''{public}''', '''{}''', 'true', '''deny''']),
	('disable_rls', ARRAY['''orders''', 'false']),
	('create_tenant', ARRAY['''regress-null''', 'NULL', '''{}''']),
	('alter_job', ARRAY['0', '''{}''']), ('undo', ARRAY['0', 'false']), ('report', ARRAY['0', '''text'''])) v(f, args), unnest(args) WITH ORDINALITY u(a, n);
SELECT function, n, tm_test.sqlstate(format('SELECT tenantmig.%I(%s)', function,
	(SELECT string_agg(CASE WHEN o.n = g.n THEN 'NULL' ELSE o.argument END, ', ' ORDER BY o.n) FROM good o WHERE o.function = g.function)))
FROM good g WHERE argument <> 'NULL' ORDER BY function COLLATE "C", n;
SELECT tm_test.sqlstate($$SELECT tenantmig.create_index('orders', '{NULL}')$$), tm_test.sqlstate($$SELECT tenantmig.create_index('orders', '{id}', include => '{NULL}')$$),
       tm_test.sqlstate($$SELECT tenantmig.enable_rls('orders', roles => '{NULL}')$$);
SELECT tm_test.changes('orders', '');
-- any OID for a table or a type
SELECT o, e, count(*) FROM unnest('{0,1,16,1259,2147483648,4294967294}'::oid[]) o,
	LATERAL (SELECT regexp_replace(tm_test.sqlstate(c), '\d{7,}', 'N') AS e FROM tm_bad.calls(o::text) c) s GROUP BY 1, 2 ORDER BY o::text::bigint, e;
SELECT o, tm_test.sqlstate(format($$SELECT tenantmig.add_tenant_column('orders', 'x', %s)$$, o)) FROM unnest('{0,1,4294967295,2249,2277,2276,705}'::oid[]) o;
-- what is for the extension only, called by anybody with anything
SELECT tenantmig.job_visible(NULL, NULL, NULL), tenantmig.job_visible(0, 0, 0), tenantmig.job_visible(4294967295, 1, 'pg_class'::regclass);
SELECT tm_test.sqlstate('SELECT tenantmig.fill_tenant()');
SELECT tm_test.try($$SELECT tenantmig.report(0)$$);
SELECT tm_test.try($$SELECT tenantmig.report(NULL, 'yaml')$$);
SELECT tm_test.try($$SELECT tenantmig.purge_jobs('nonsense')$$);

--
-- Somebody else's table, and somebody else's job
--
SET ROLE regress_tm_victim;
CREATE TABLE theirs (id int PRIMARY KEY, tenant_id text, code text);
INSERT INTO theirs SELECT i, NULL, 'secret ' || i FROM generate_series(1, 10) i;
CREATE TABLE secrets (code text, tenant text);
-- one that failed with keys in its records, one that waits, one planned
SELECT tenantmig.backfill('theirs', expression => '(SELECT tenant FROM secrets s WHERE s.code = theirs.code)') AS failed \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:failed);
\set VERBOSITY default
BEGIN;
SELECT tenantmig.backfill('theirs', value => 'secret value') AS open \gset
SELECT tenantmig.pause(:open);
COMMIT;
SELECT tenantmig.set_not_null('theirs', dry_run => true) AS planned \gset
SELECT id IN (:failed, :open, :planned) AS theirs, count(*) FROM tenantmig.jobs GROUP BY 1;
RESET ROLE;
SELECT tm_test.keep('theirs', '');

SET ROLE regress_tm_evil;
SELECT * FROM all_calls('theirs');
-- nor does a call tell whether a column is there
SELECT tm_test.sqlstate($$SELECT tenantmig.backfill('theirs', 'nope', value => 'x')$$);
CREATE FUNCTION on_job(job bigint) RETURNS TABLE (call text, result text) LANGUAGE sql AS $$
SELECT c, tm_test.sqlstate(format('SELECT tenantmig.' || c, job))
FROM unnest('{start(%s),pause(%s),resume(%s),cancel(%s),retry(%s),"alter_job(%s, ''{}'')",assert_done(%s),undo(%s),"undo(%s, true)",report(%s),"report(%s, ''json'')"}'::text[]) c
$$;
SELECT result, count(*) FROM unnest(ARRAY[:failed, :open, :planned]::bigint[]) j, on_job(j) GROUP BY 1;
SELECT tm_test.try(format('SELECT tenantmig.cancel(%s)', :open));
\set VERBOSITY sqlstate
CALL tenantmig.wait(:open, '0');
CALL tenantmig.run(:open);
SELECT tenantmig.purge_jobs('-1 day');
\set VERBOSITY default
SELECT tenantmig.job_state(j), tenantmig.job_phase(j), tenantmig.job_pid(j) FROM unnest(ARRAY[:failed, :open, :planned]::bigint[]) j;
-- the views and the report of all jobs show nothing of them
SELECT (SELECT count(*) FROM tenantmig.jobs) AS jobs, (SELECT count(*) FROM tenantmig.job_steps) AS steps,
       (SELECT count(*) FROM tenantmig.job_errors) AS errors, (SELECT count(*) FROM tenantmig.stat_progress) AS progress,
       tenantmig.report(NULL) ~ 'secret|theirs' AS reported, tenantmig.report(NULL, 'json') ~ 'secret|theirs' AS reported_json;
-- a cheap function of his own sees no row of theirs before the view has decided
CREATE FUNCTION leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN RAISE WARNING 'leaked %', $1; RETURN true; END $$;
SELECT count(*) FROM tenantmig.jobs WHERE leak(relation) AND leak(error);
SELECT count(*) FROM tenantmig.job_errors WHERE leak(key::text);
SELECT count(*) FROM tenantmig.job_steps WHERE leak(statement);
SELECT count(*) FROM tenantmig.stat_progress WHERE leak(blocker_query);
-- nor do the tables
SELECT t, s, tm_test.sqlstate(format(s, t)) FROM unnest('{tenantmig.job,tenantmig.job_step,tenantmig.job_error,tenantmig.job_progress,tenantmig.tenant}'::text[]) t,
	unnest('{SELECT * FROM %s,INSERT INTO %s DEFAULT VALUES,DELETE FROM %s,TRUNCATE %s CASCADE,LOCK %s,CREATE TRIGGER x BEFORE INSERT ON %s EXECUTE FUNCTION tenantmig.fill_tenant(),ALTER TABLE %s OWNER TO regress_tm_evil}'::text[]) s
WHERE tm_test.sqlstate(format(s, t)) !~ '^42501: ';
SELECT tm_test.sqlstate('CREATE TABLE tenantmig.planted ()'), tm_test.sqlstate($$SELECT nextval('tenantmig.job_id_seq')$$), tm_test.sqlstate($$UPDATE tenantmig.job SET caller = 10$$);
SELECT t, tm_test.sqlstate(format('INSERT INTO tenantmig.%I SELECT', t)) ~ '^(42501|55000)' AS refused FROM unnest('{jobs,job_steps,job_errors,stat_progress,tenants}'::text[]) t;
-- a trigger of ours on his own table looks up nothing that he may not read
CREATE TABLE bait (id int, tenant_id text, code text);
CREATE TRIGGER bait BEFORE INSERT ON bait FOR EACH ROW EXECUTE FUNCTION tenantmig.fill_tenant('tenant_id', '', 'tm_bad', 'expression', 'bait', '(SELECT code FROM tm_bad.theirs LIMIT 1)');
SELECT tm_test.sqlstate('INSERT INTO tm_bad.bait VALUES (1)');
-- nor does an expression: of a table that he may not read, of a function that he may not call
SELECT tm_test.sqlstate($$SELECT tenantmig.backfill('bait', expression => '(SELECT code FROM theirs LIMIT 1)')$$);
SELECT tm_test.try($$SELECT tenantmig.backfill('bait', expression => '(SELECT max(code) FROM (SELECT * FROM theirs) s)')$$);
DROP TRIGGER bait ON bait;
INSERT INTO bait VALUES (1);
RESET ROLE;
-- what was granted at the call and is taken back before the work
GRANT SELECT ON theirs TO regress_tm_evil;
SET ROLE regress_tm_evil;
BEGIN;
SELECT tenantmig.backfill('bait', expression => '(SELECT max(code) FROM theirs)') AS job \gset
SELECT tenantmig.pause(:job);
COMMIT;
RESET ROLE;
REVOKE SELECT ON theirs FROM regress_tm_evil;
SET ROLE regress_tm_evil;
SELECT tenantmig.resume(:job);
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT tenant_id FROM bait;
-- a foreign key to a table that he may not read
RESET ROLE;
GRANT REFERENCES ON theirs TO regress_tm_evil;
SET ROLE regress_tm_evil;
CREATE TABLE hook (id int PRIMARY KEY, t int REFERENCES theirs, tenant_id text);
SELECT tm_test.try($$SELECT tenantmig.backfill('hook', via => 't')$$);
SELECT tm_test.sqlstate($$SELECT tenantmig.backfill('bait', expression => 'pg_read_file(''/etc/passwd'')')$$);
RESET ROLE;

-- names that differ in case only are different roles
SET ROLE "Regress_TM_Victim";
SELECT (SELECT count(*) FROM tenantmig.jobs) AS jobs, tm_test.sqlstate(format('SELECT tenantmig.cancel(%s)', :open)) AS cancel,
       tm_test.sqlstate($$SELECT tenantmig.backfill('tm_bad.theirs', value => 'x')$$) AS backfill;
RESET ROLE;
-- a member of the owner may
CREATE ROLE regress_tm_friend IN ROLE regress_tm_victim;
SET ROLE regress_tm_friend;
SELECT count(*) FROM tenantmig.jobs;
SELECT tenantmig.alter_job(:open, '{"nice": 1}');
RESET ROLE;
-- a role that was given membership without its rights may not
CREATE ROLE regress_tm_distant NOINHERIT IN ROLE regress_tm_victim;
SET ROLE regress_tm_distant;
SELECT (SELECT count(*) FROM tenantmig.jobs) AS jobs, tm_test.sqlstate(format('SELECT tenantmig.cancel(%s)', :open)) AS cancel;
RESET ROLE;
-- the owner of the table may, whoever recorded it; who has lost the table's rights may not
ALTER TABLE theirs OWNER TO regress_tm_evil;
SET ROLE regress_tm_evil;
SELECT count(*) FROM tenantmig.jobs WHERE relation = 'tm_bad.theirs';
RESET ROLE;
SET ROLE regress_tm_victim;
SELECT tenantmig.resume(:open);
\set VERBOSITY sqlstate
CALL tenantmig.wait(:open);
\set VERBOSITY default
SELECT state, sqlstate, tm_test.mask(error) AS error FROM tenantmig.jobs WHERE id = :open;
RESET ROLE;
ALTER TABLE theirs OWNER TO regress_tm_victim;
SELECT tm_test.changes('theirs', '');
SELECT j.state, count(*) FROM tenantmig.jobs j WHERE id IN (:failed, :open, :planned) GROUP BY 1;

--
-- Planted objects: the caller's search_path has everything of the server's shadowed.
-- What is planted writes down that it was called.
--
CREATE SCHEMA tm_trap;
GRANT USAGE ON SCHEMA tm_trap TO PUBLIC;
CREATE TABLE tm_trap.called (what text, as_role name DEFAULT current_user);
GRANT ALL ON tm_trap.called TO PUBLIC;
CREATE FUNCTION tm_trap.note(what text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO tm_trap.called VALUES (what); END $$;
DO $do$
DECLARE
	t text;
	o text;
BEGIN
	-- operators of the very types that our statements use, or of ones that fit better
	FOREACH t IN ARRAY '{text,varchar,name,bigint,integer,oid,tid,boolean,jsonb,"text[]","bigint[]",timestamptz,"double precision",regclass,"\"char\""}'::text[] LOOP
		FOREACH o IN ARRAY '{=,<>,<,>,<=,>=}'::text[] LOOP
			EXECUTE format('CREATE FUNCTION tm_trap.%I(%s, %s) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM tm_trap.note(%L); RETURN true; END $$', 'op_' || t || o, t, t, 'operator ' || o || ' ' || t);
			EXECUTE format('CREATE OPERATOR tm_trap.%s (FUNCTION = tm_trap.%I, LEFTARG = %s, RIGHTARG = %s)', o, 'op_' || t || o, t, t);
		END LOOP;
	END LOOP;
	EXECUTE 'CREATE FUNCTION tm_trap.concatenate(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM tm_trap.note(''||''); RETURN ''''; END $$';
	EXECUTE 'CREATE OPERATOR tm_trap.|| (FUNCTION = tm_trap.concatenate, LEFTARG = text, RIGHTARG = text)';
	EXECUTE 'CREATE FUNCTION tm_trap.arrow(jsonb, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM tm_trap.note(''->>''); RETURN ''''; END $$';
	EXECUTE 'CREATE OPERATOR tm_trap.->> (FUNCTION = tm_trap.arrow, LEFTARG = jsonb, RIGHTARG = text)';
	EXECUTE 'CREATE OPERATOR tm_trap.-> (FUNCTION = tm_trap.arrow, LEFTARG = jsonb, RIGHTARG = text)';
	-- functions
	EXECUTE 'CREATE FUNCTION tm_trap.count() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM tm_trap.note(''count''); RETURN 0; END $$';
	EXECUTE 'CREATE FUNCTION tm_trap.max(integer) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN PERFORM tm_trap.note(''max''); RETURN 0; END $$';
	EXECUTE 'CREATE FUNCTION tm_trap.format(text, VARIADIC text[]) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM tm_trap.note(''format''); RETURN ''''; END $$';
	EXECUTE 'CREATE FUNCTION tm_trap.format(text, name, name) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM tm_trap.note(''format''); RETURN ''''; END $$';
	EXECUTE 'CREATE FUNCTION tm_trap.format(text, bigint) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM tm_trap.note(''format''); RETURN ''''; END $$';
	EXECUTE 'CREATE FUNCTION tm_trap.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN PERFORM tm_trap.note(''clock_timestamp''); RETURN ''epoch''; END $$';
	EXECUTE 'CREATE FUNCTION tm_trap.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN PERFORM tm_trap.note(''now''); RETURN ''epoch''; END $$';
	EXECUTE 'CREATE FUNCTION tm_trap.current_setting(text, boolean) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM tm_trap.note(''current_setting''); RETURN NULL; END $$';
	EXECUTE 'CREATE FUNCTION tm_trap.current_setting(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM tm_trap.note(''current_setting''); RETURN NULL; END $$';
	EXECUTE 'CREATE FUNCTION tm_trap.unnest(anyarray) RETURNS SETOF anyelement LANGUAGE plpgsql AS $$ BEGIN PERFORM tm_trap.note(''unnest''); END $$';
	EXECUTE 'CREATE FUNCTION tm_trap.pg_blocking_pids(integer) RETURNS integer[] LANGUAGE plpgsql AS $$ BEGIN PERFORM tm_trap.note(''pg_blocking_pids''); RETURN NULL; END $$';
	EXECUTE 'CREATE FUNCTION tm_trap.jsonb_build_object(VARIADIC text[]) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM tm_trap.note(''jsonb_build_object''); RETURN ''{}''; END $$';
	EXECUTE 'CREATE FUNCTION tm_trap.jsonb_strip_nulls(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM tm_trap.note(''jsonb_strip_nulls''); RETURN ''{}''; END $$';
	EXECUTE 'CREATE FUNCTION tm_trap.fill_tenant() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM tm_trap.note(''fill_tenant''); RETURN NEW; END $$';
	EXECUTE 'CREATE FUNCTION tm_trap.backfill(integer) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM tm_trap.note(''backfill''); RETURN 0; END $$';
	-- types and tables of the same names
	EXECUTE 'CREATE DOMAIN tm_trap.text AS pg_catalog.text CHECK (tm_trap.note(''text'') IS NULL)';
	EXECUTE 'CREATE TABLE tm_trap.pg_class (x int)';
	EXECUTE 'CREATE TABLE tm_trap.pg_trigger (x int)';
	EXECUTE 'CREATE TABLE tm_trap.job (id bigint)';
END $do$;
GRANT USAGE, CREATE ON SCHEMA tm_bad TO regress_tm_victim;
SET ROLE regress_tm_victim;
CREATE TEMP TABLE job (id bigint, state pg_catalog.text);
CREATE TEMP TABLE shopping (id int);
CREATE TABLE shops (id int PRIMARY KEY);
CREATE TABLE shopping (id int PRIMARY KEY, shop int REFERENCES shops, region pg_catalog.text);
INSERT INTO shops SELECT pg_catalog.generate_series(1, 10);
INSERT INTO tm_bad.shopping SELECT i, i, 'EU' FROM pg_catalog.generate_series(1, 10) i;
SELECT pg_catalog.set_config('search_path', 'tm_trap, pg_catalog, tm_bad', false);
SELECT tenantmig.add_tenant_column('tm_bad.shops') AS a, tenantmig.add_tenant_column('tm_bad.shopping', 'tenant_id', 'pg_catalog.text') AS b \gset
SELECT tenantmig.undo(:a) AS a \gset
CALL tenantmig.wait(:a);
SELECT tenantmig.add_tenant_column('tm_bad.shops', 'tenant_id', 'pg_catalog.text') AS a \gset
SELECT tenantmig.backfill('tm_bad.shops', value => 'acme', options => '{"keep_trigger": true}') AS c \gset
SELECT tenantmig.backfill('tm_bad.shopping', via => 'shop', options => '{"keep_trigger": true}') AS d \gset
SELECT tenantmig.set_not_null('tm_bad.shopping') AS e, tenantmig.create_index('tm_bad.shopping', '{tenant_id,id}') AS f,
       tenantmig.set_not_null('tm_bad.shopping', dry_run => true) AS g \gset
CALL tenantmig.wait(:d);
CALL tenantmig.wait(:e);
CALL tenantmig.wait(:f);
INSERT INTO tm_bad.shops VALUES (11);
INSERT INTO tm_bad.shopping VALUES (11, 11, 'US');
UPDATE tm_bad.shopping SET shop = 1;
SELECT tenantmig.alter_job(:g, '{"nice": 1}');
SELECT tenantmig.enable_rls('tm_bad.shopping') AS h, tenantmig.cancel(:g) \gset
SELECT pg_catalog.length(tenantmig.report(:d)) OPERATOR(pg_catalog.>) 0 AS report, pg_catalog.length(tenantmig.report(NULL, 'json')) OPERATOR(pg_catalog.>) 0 AS report_json;
SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>) 5 AS jobs FROM tenantmig.jobs;
SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>) 5 AS steps FROM tenantmig.job_steps;
SELECT pg_catalog.count(*) AS progress FROM tenantmig.stat_progress;
SELECT pg_catalog.count(*) AS tenants FROM tenantmig.tenants;
SELECT tenantmig.create_tenant('regress-trap');
SELECT tenantmig.purge_jobs('1000 years');
SELECT pg_catalog.set_config('app.current_tenant_id', 'acme', false);
SELECT pg_catalog.count(*) FROM tm_bad.shopping;
SELECT tenantmig.undo(:h) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenantmig.undo(:f) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenantmig.undo(:e) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenantmig.undo(:d) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tenantmig.undo(:c) AS undo \gset
CALL tenantmig.wait(:undo);
RESET ROLE;
SET search_path = tm_bad, public;
SELECT what, as_role, count(*) FROM tm_trap.called GROUP BY 1, 2;
SELECT count(*), count(tenant_id) FROM tm_bad.shopping;
-- the trap works
SET ROLE regress_tm_victim;
SELECT pg_catalog.set_config('search_path', 'tm_trap, pg_catalog, tm_bad', false);
SELECT 'a'::pg_catalog.text = 'b'::pg_catalog.text AS trapped;
RESET ROLE;
SET search_path = tm_bad, public;
SELECT what, as_role FROM tm_trap.called;
DELETE FROM tenantmig.tenant WHERE tenant LIKE 'regress%';

SELECT tm_test.changes('orders', '');
SELECT * FROM tm_test.leftovers;
SET client_min_messages = error;
DROP SCHEMA tm_trap, tm_bad CASCADE;
DROP OWNED BY regress_tm_victim, regress_tm_evil, "Regress_TM_Victim", regress_tm_friend, regress_tm_distant;
DROP ROLE regress_tm_victim, regress_tm_evil, "Regress_TM_Victim", regress_tm_friend, regress_tm_distant;
