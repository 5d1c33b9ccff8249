--
-- What PostgreSQL 18 has and servers before it do not: NOT NULL that is not
-- valid, keys WITHOUT OVERLAPS, foreign keys NOT ENFORCED, virtual columns
--
SELECT current_setting('server_version_num')::int < 180000 AS is_older \gset
\if :is_older
\quit
\endif
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
SELECT setval('tenantmig.job_id_seq', 780000) \g /dev/null
\set ECHO all
CREATE SCHEMA tm_18;
SET search_path = tm_18, public;

-- NOT NULL that is not valid is no proof
CREATE TABLE orders (id int PRIMARY KEY, code text UNIQUE, tenant_id text);
INSERT INTO orders SELECT i, 'c' || i, CASE WHEN i > 2 THEN 't' || i % 3 END FROM generate_series(1, 100) i;
ALTER TABLE orders ADD CONSTRAINT has_tenant NOT NULL tenant_id NOT VALID;
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('orders', '{tenant_id,id}')$$);
SELECT tenantmig.scope_unique('orders', 'orders_code_key') AS job \gset
\set VERBOSITY sqlstate
CALL tenantmig.wait(:job);
SELECT tenantmig.set_not_null('orders') AS job \gset
CALL tenantmig.wait(:job);
\set VERBOSITY default
SELECT state, sqlstate, error FROM tenantmig.jobs WHERE id = :job;
SELECT key FROM tenantmig.job_errors WHERE job = :job AND key IS NOT NULL ORDER BY key::text;
SELECT conname, convalidated FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype IN ('n', 'c') ORDER BY 1;
UPDATE orders SET tenant_id = 'x' WHERE tenant_id IS NULL;
SELECT tenantmig.retry(:job);
CALL tenantmig.wait(:job);
SELECT position, state, statement, inverse, lock_mode FROM tenantmig.job_steps WHERE job = :job ORDER BY position;
SELECT conname, convalidated FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype IN ('n', 'c') ORDER BY 1;
SELECT tenantmig.set_primary_key('orders', '{tenant_id,id}') AS job \gset
CALL tenantmig.wait(:job);
SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype = 'p';

-- of a partition only
CREATE TABLE events (id int, tenant_id text) PARTITION BY RANGE (id);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (100);
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (100) TO (200);
INSERT INTO events SELECT i, 't' FROM generate_series(1, 199) i;
ALTER TABLE events_2 ADD CONSTRAINT mine NOT NULL tenant_id NOT VALID;
SELECT tenantmig.set_not_null('events') AS job \gset
CALL tenantmig.wait(:job);
SELECT conrelid::regclass, convalidated FROM pg_constraint WHERE conrelid IN ('events'::regclass, 'events_1'::regclass, 'events_2'::regclass) AND contype IN ('n', 'c') ORDER BY 1;
-- undone: the partition's own stays
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT conrelid::regclass, conname, convalidated FROM pg_constraint WHERE conrelid IN ('events'::regclass, 'events_1'::regclass, 'events_2'::regclass) AND contype IN ('n', 'c') ORDER BY 1;

-- WITHOUT OVERLAPS: the key and who points at it stay what they are
CREATE TABLE rooms (tenant_id text NOT NULL, valid_at int4range, code int4range,
	PRIMARY KEY (valid_at WITHOUT OVERLAPS), UNIQUE (code WITHOUT OVERLAPS));
CREATE TABLE bookings (tenant_id text, valid_at int4range,
	CONSTRAINT booked FOREIGN KEY (PERIOD valid_at) REFERENCES rooms (PERIOD valid_at));
INSERT INTO rooms VALUES ('a', '[1,5)', '[1,5)'), ('b', '[5,9)', '[5,9)');
INSERT INTO bookings VALUES (NULL, '[2,7)');
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('rooms', '{tenant_id,valid_at}')$$);
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('rooms', '{tenant_id,valid_at}', 'keep')$$);
SELECT tm_test.try($$SELECT tenantmig.scope_unique('rooms', 'rooms_code_key')$$);
SELECT tm_test.try($$SELECT tenantmig.scope_unique('rooms', 'rooms_pkey')$$);
SELECT tm_test.try($$SELECT tenantmig.backfill('bookings', via => 'booked')$$);
SELECT index_name, kind, action, statement, reason FROM tenantmig.suggest_indexes('rooms') ORDER BY index_name;
SELECT "check", object, mend FROM tenantmig.audit_rls() WHERE object ~ 'tm_18.(rooms|bookings)' AND "check" IN ('key_without_tenant', 'foreign_key_not_paired') ORDER BY 1, 2;

-- NOT ENFORCED: a rebuilt one would be
CREATE TABLE ids (id int PRIMARY KEY, tenant_id text NOT NULL);
CREATE TABLE items (id int PRIMARY KEY, order_id int, tenant_id text NOT NULL,
	CONSTRAINT loose FOREIGN KEY (order_id) REFERENCES ids (id) NOT ENFORCED);
INSERT INTO items VALUES (1, 999, 'a');
SELECT tm_test.try($$SELECT tenantmig.set_primary_key('ids', '{tenant_id,id}')$$);
SELECT tenantmig.set_primary_key('ids', '{tenant_id,id}', 'keep') AS job \gset
CALL tenantmig.wait(:job);
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid IN ('ids'::regclass, 'items'::regclass) AND contype IN ('p', 'u', 'f') ORDER BY 1;

-- virtual columns: not read, and computed from the tenant that was filled in
CREATE TABLE notes (id int PRIMARY KEY, body text, tenant_id text,
	label text GENERATED ALWAYS AS (COALESCE(tenant_id, '?') || '/' || body) VIRTUAL,
	CHECK (label <> 'a/'));
INSERT INTO notes (id, body) SELECT i, 'n' || i FROM generate_series(1, 50) i;
SELECT tm_test.try($$SELECT tenantmig.backfill('notes', expression => 'label')$$);
SELECT tenantmig.backfill('notes', value => 'a') AS job \gset
CALL tenantmig.wait(:job);
SELECT count(*), min(label), max(label) FROM notes;
SELECT * FROM tm_test.leftovers;
DROP SCHEMA tm_18 CASCADE;
