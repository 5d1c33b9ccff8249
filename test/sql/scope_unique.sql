--
-- scope_unique: the call, the plan, what is refused, and the warnings.  The shapes
-- and the interruptions are in t/116_scope_unique.pl.
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
SELECT setval('tenantmig.job_id_seq', 460000) \g /dev/null
\set ECHO all
CREATE SCHEMA tm_scope;
SET search_path = tm_scope, public;
CREATE TABLE orders (id int PRIMARY KEY, tenant_id text NOT NULL, email text, at date, ref int,
	CONSTRAINT orders_email UNIQUE (email) WITH (fillfactor = 80));
COMMENT ON CONSTRAINT orders_email ON orders IS 'one to an address';
INSERT INTO orders SELECT i, 't' || i % 9, 'Mail' || i, '2026-01-01', i FROM generate_series(1, 2000) i;
SELECT tm_test.keep('orders', '');
\pset format unaligned

-- the plan: statements, locks, whom they stop, for how long
SELECT tenantmig.scope_unique('orders', 'orders_email', dry_run => true) AS plan \gset
SELECT tm_test.changes('orders', '');
SELECT kind, relation, state, statement, inverse, lock_mode FROM tenantmig.job_steps WHERE job = :plan ORDER BY position;
SELECT jsonb_pretty(plan - '{estimated_ms,estimated_wal_bytes,estimated_disk_bytes,rows_total}'::text[]) FROM tenantmig.job WHERE id = :plan;
SELECT tenantmig.start(:plan);
CALL tenantmig.wait(:plan);
SELECT tm_test.changes('orders', '');
SELECT kind, relation, state, statement, inverse, lock_mode FROM tenantmig.job_steps WHERE job = :plan ORDER BY position;
SELECT state, phase, error, next_action FROM tenantmig.jobs WHERE id = :plan;
-- the name is that of the new one, and its comment
SELECT obj_description(oid, 'pg_constraint') FROM pg_constraint WHERE conname = 'orders_email';
INSERT INTO orders VALUES (3001, 'u1', 'Mail1'), (3002, 'u2', 'Mail1');
SELECT tm_test.try($$INSERT INTO orders VALUES (3003, 'u1', 'Mail1')$$);
-- again: the same job, while it holds
SELECT tenantmig.scope_unique('orders', 'orders_email') = :plan AS same;
-- the way back: planned, closed while two tenants have the same, and open again
SELECT tenantmig.undo(:plan, dry_run => true) AS undo \gset
SELECT kind, relation, state, statement, lock_mode FROM tenantmig.job_steps WHERE job = :undo ORDER BY position;
SELECT jsonb_pretty(plan - '{estimated_ms,estimated_wal_bytes,estimated_disk_bytes,rows_total}'::text[]) FROM tenantmig.job WHERE id = :undo;
SELECT tenantmig.start(:undo);
\set VERBOSITY sqlstate
CALL tenantmig.wait(:undo);
\set VERBOSITY default
SELECT state, sqlstate, error, error_detail FROM tenantmig.jobs WHERE id = :undo;
SELECT tm_test.changes('orders', '');
SELECT * FROM tm_test.leftovers;
DELETE FROM orders WHERE id > 3000;
SELECT tenantmig.retry(:undo);
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('orders', '');
SELECT obj_description(oid, 'pg_constraint') FROM pg_constraint WHERE conname = 'orders_email';

-- with the tenant in it already: nothing to do
CREATE UNIQUE INDEX orders_done ON orders (ref, tenant_id);
SET client_min_messages = notice;
SELECT setval('tenantmig.job_id_seq', 465000) \g /dev/null
SELECT tenantmig.scope_unique('orders', 'orders_done') AS job \gset
SET client_min_messages = warning;
SELECT state FROM tenantmig.jobs WHERE id = :job;
SELECT count(*) FROM tenantmig.job_steps WHERE job = :job;

-- ON CONFLICT, in functions of either kind; DEFERRABLE
CREATE FUNCTION upsert_old(m text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN INSERT INTO orders (id, tenant_id, email) VALUES (0, 't', m) ON
	CONFLICT (email) DO NOTHING; END $$;
CREATE FUNCTION upsert_new(m text) RETURNS void LANGUAGE sql BEGIN ATOMIC
INSERT INTO orders (id, tenant_id, email) VALUES (0, 't', m) ON CONFLICT (email) DO NOTHING; END;
CREATE FUNCTION other() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DELETE FROM orders; END $$;
ALTER TABLE orders ADD CONSTRAINT orders_ref UNIQUE (ref) DEFERRABLE;
SELECT tenantmig.scope_unique('orders', 'orders_email', dry_run => true) AS plan \gset
SELECT jsonb_array_elements_text(plan -> 'warnings') FROM tenantmig.job WHERE id = :plan;
SELECT tenantmig.scope_unique('orders', 'orders_ref', dry_run => true) AS plan \gset
SELECT jsonb_array_elements_text(plan -> 'warnings') FROM tenantmig.job WHERE id = :plan;
SELECT tenantmig.scope_unique('orders', 'orders_email') AS job \gset
CALL tenantmig.wait(:job);
SELECT tenantmig.report(:job) LIKE '%ON CONFLICT is used%upsert_old(text)%' AS reported;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
DROP FUNCTION upsert_new, upsert_old, other;

-- a tenant that may be NULL: rows without one would not be unique any more
ALTER TABLE orders ALTER tenant_id DROP NOT NULL;
SELECT tenantmig.scope_unique('orders', 'orders_email') AS job \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT state, sqlstate, error, error_detail, error_hint FROM tenantmig.jobs WHERE id = :job;
ALTER TABLE orders ALTER tenant_id SET NOT NULL;
SELECT tenantmig.retry(:job);
CALL tenantmig.wait(:job);
SELECT state FROM tenantmig.jobs WHERE id = :job;
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT tm_test.changes('orders', '');
-- but where NULLs are not distinct they are
CREATE TABLE nulls (tenant_id text, email text CONSTRAINT nulls_email UNIQUE NULLS NOT DISTINCT);
SELECT tenantmig.scope_unique('nulls', 'nulls_email') AS job \gset
CALL tenantmig.wait(:job);
INSERT INTO nulls VALUES (NULL, 'a');
SELECT tm_test.sqlstate($$INSERT INTO nulls VALUES (NULL, 'a')$$);

-- it builds on the column: that is undone later
CREATE TABLE late (id int, email text CONSTRAINT late_email UNIQUE);
SELECT tenantmig.add_tenant_column('late', value => 'x') AS added \gset
ALTER TABLE late ALTER tenant_id SET NOT NULL;
SELECT tenantmig.scope_unique('late', 'late_email') AS job \gset
CALL tenantmig.wait(:job);
SELECT tm_test.try(format('SELECT tenantmig.undo(%s)', :added));

-- what is refused, and what to do
CREATE TABLE pointed (id int, tenant_id text NOT NULL, code text CONSTRAINT pointed_code UNIQUE);
CREATE TABLE pointing (code text CONSTRAINT pointing_fk REFERENCES pointed (code));
CREATE TABLE excluded (tenant_id text NOT NULL, place point, during tsrange,
	CONSTRAINT excluded_during EXCLUDE USING gist (during WITH &&, place WITH ~=) WHERE (place IS NOT NULL) DEFERRABLE);
CREATE INDEX orders_plain ON orders (at);
CREATE TABLE parted (id int, tenant_id text NOT NULL, CONSTRAINT parted_id UNIQUE (id)) PARTITION BY LIST (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE pointing_at_one (id int CONSTRAINT pointing_at_one_fk REFERENCES parted_1 (id));
CREATE UNIQUE INDEX orders_at_ref ON orders (at, ref);
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'orders_at_ref'::regclass;
CREATE FUNCTION uses() RETURNS void LANGUAGE sql BEGIN ATOMIC
INSERT INTO nulls VALUES ('t', 'x') ON CONFLICT ON CONSTRAINT nulls_email DO NOTHING; END;
CREATE TABLE used (tenant_id text NOT NULL, email text CONSTRAINT used_email UNIQUE);
CREATE FUNCTION uses_it() RETURNS void LANGUAGE sql BEGIN ATOMIC
INSERT INTO used VALUES ('t', 'x') ON CONFLICT ON CONSTRAINT used_email DO NOTHING; END;
CREATE VIEW seen AS SELECT * FROM orders;
SELECT t, k, tm_test.try(format('SELECT tenantmig.scope_unique(%L, %L)', t, k))
FROM (VALUES ('orders', 'orders_pkey'), ('orders', 'orders_plain'), ('orders', 'nope'), ('orders', 'tm_scope.orders_email'),
	('orders', 'orders_tenant_id_not_null'), ('orders', 'pointed_code'), ('orders', ''), ('orders', 'orders_at_ref'),
	('pointed', 'pointed_code'), ('excluded', 'excluded_during'), ('parted_1', 'parted_1_id_key'), ('parted', 'parted_id'), ('used', 'used_email'),
	('seen', 'orders_email'), ('orders', NULL)) v(t, k);
SELECT tm_test.try($$SELECT tenantmig.scope_unique('orders', 'orders_email', 'nope')$$);
SELECT tm_test.try($$SELECT tenantmig.scope_unique('pg_class', 'pg_class_relname_nsp_index')$$);
CREATE ROLE tm_scope_other;
GRANT USAGE ON SCHEMA tm_scope TO tm_scope_other;
SET ROLE tm_scope_other;
SELECT tm_test.try($$SELECT tenantmig.scope_unique('tm_scope.orders', 'orders_email')$$);
RESET ROLE;
DROP OWNED BY tm_scope_other;
DROP ROLE tm_scope_other;
-- 32 columns are the most
SELECT format('CREATE TABLE wide (tenant_id text NOT NULL, %s, CONSTRAINT wide_all UNIQUE (%s))',
	string_agg('c' || i || ' int', ', '), string_agg('c' || i, ', ')) FROM generate_series(1, 32) i \gexec
SELECT tm_test.try($$SELECT tenantmig.scope_unique('wide', 'wide_all')$$);

-- a replica identity whose new column a publication leaves out
CREATE TABLE listed (id int NOT NULL, email text NOT NULL, tenant_id text NOT NULL);
CREATE UNIQUE INDEX listed_email ON listed (email);
ALTER TABLE listed REPLICA IDENTITY USING INDEX listed_email;
SET client_min_messages = error;
CREATE PUBLICATION tm_scope_pub FOR TABLE listed (id, email);
SELECT tenantmig.scope_unique('listed', 'listed_email') AS job \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT state, error FROM tenantmig.jobs WHERE id = :job;
DROP PUBLICATION tm_scope_pub;
DROP TABLE listed;

SELECT * FROM tm_test.leftovers WHERE name <> 'orders_at_ref';
DROP SCHEMA tm_scope CASCADE;
