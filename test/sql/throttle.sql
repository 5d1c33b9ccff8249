--
-- Throttles: what the options may say, and what throttles() shows
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
\set ECHO all
CREATE SCHEMA tm_throttle;
SET search_path = tm_throttle, public;
CREATE TABLE orders (id int PRIMARY KEY, tenant_id text);
INSERT INTO orders SELECT generate_series(1, 10);
SELECT tenantmig.backfill('orders', expression => $$'a'$$, dry_run => true) AS job \gset

-- what a value may be
SELECT o, tm_test.try(format('SELECT tenantmig.alter_job(%s, %L)', :job, o))
FROM unnest(ARRAY['{"batch_target": "1 second"}', '{"batch_target": 20}', '{"max_rows_per_second": 0.5}',
	'{"max_wal_rate": "10MB"}', '{"max_wal_rate": 1000}', '{"max_replication_lag": "PT2S"}', '{"max_slot_retention": "1GB"}',
	'{"max_slot_retention": 0}', '{"max_archive_backlog": 10}', '{"yield_to_vacuum": false}', '{"yield_to_vacuum": "on"}',
	'{"max_vacuum_rest": "5min"}', '{"max_waiters": -1}', '{"max_waiters": 3}', '{"nice": "0.25"}',
	'{"not_between": ["22:00", "24:00"]}', '{"synchronous_commit": true}', '{}']) o;
SELECT options FROM tenantmig.jobs WHERE id = :job;
SELECT tenantmig.alter_job(:job, (SELECT jsonb_object_agg(key, NULL::text) FROM jsonb_object_keys(options) key))
FROM tenantmig.jobs WHERE id = :job;
SELECT options FROM tenantmig.jobs WHERE id = :job;
-- and what not: always 22023, and nothing is changed
SELECT o, tm_test.try(format('SELECT tenantmig.alter_job(%s, %L)', :job, o))
FROM unnest(ARRAY['{"batch_target": "soon"}', '{"batch_target": "-1 s"}', '{"batch_target": "1 year"}', '{"batch_target": []}',
	'{"max_rows_per_second": "NaN"}', '{"max_wal_rate": "-1MB"}', '{"max_wal_rate": "10 apples"}', '{"max_wal_rate": "1e30"}',
	'{"max_wal_rate": true}', '{"max_replication_lag": ""}', '{"max_slot_retention": "-1"}', '{"max_slot_retention": "lots"}',
	'{"max_archive_backlog": -1}', '{"max_archive_backlog": 1.5}', '{"max_archive_backlog": "9999999999"}',
	'{"yield_to_vacuum": "sometimes"}', '{"yield_to_vacuum": 2}', '{"max_vacuum_rest": "-1"}', '{"max_waiters": -2}',
	'{"max_waiters": "many"}', '{"nice": "Infinity"}', '{"not_between": ["25:00", "08:00"]}', '{"not_between": ["a", "b"]}',
	'{"not_between": ["08:00", "18:00", 5]}', '{"not_between": ["08:00", "18:00", "19:00"]}', '{"not_between": {"08:00": "18:00"}}',
	'{"synchronous_commit": "remote"}', '{"max_lag": 1}', '{"nice": 1, "nicer": 2}']) o;
SELECT options FROM tenantmig.jobs WHERE id = :job;

-- all limits, where they come from, and how they stand
SELECT name, CASE WHEN name <> 'not_between' THEN current END AS current, limit_value, source, in_force FROM tenantmig.throttles(:job);
SELECT tenantmig.alter_job(:job, '{"nice": 0.5, "max_rows_per_second": 200, "max_wal_rate": "1MB", "max_replication_lag": "2 seconds",
	"max_slot_retention": "10GB", "max_archive_backlog": 5, "yield_to_vacuum": false, "max_waiters": -1, "not_between": ["23:30", "00:10"]}');
SET tenantmig.max_replication_lag = '9s';
SELECT name, CASE WHEN name <> 'not_between' THEN regexp_replace(current, '^slot.*', 'a slot') END AS current,
       limit_value, source, in_force FROM tenantmig.throttles(:job);
SELECT current ~ '^it is \d\d:\d\d$' AS time_of_day FROM tenantmig.throttles(:job) WHERE name = 'not_between';
-- an option away: the setting counts
SELECT tenantmig.alter_job(:job, '{"max_replication_lag": null}');
SELECT limit_value, source FROM tenantmig.throttles(:job) WHERE name = 'max_replication_lag';
RESET tenantmig.max_replication_lag;
-- the numbers of options and limits go together
SELECT count(*), count(DISTINCT name) FROM tenantmig.throttles(:job);

-- a job that rests
SELECT tenantmig.alter_job(:job, '{"nice": null, "max_wal_rate": null, "not_between": null, "max_rows_per_second": 1}');
SELECT tenantmig.start(:job);
CALL tm_test.wait_until(format('SELECT in_force AND current ~ ''^\d+ a second$'' FROM tenantmig.throttles(%s) WHERE name = ''max_rows_per_second''', :job));
SELECT name, limit_value FROM tenantmig.throttles(:job) WHERE in_force;
SELECT throttle_reason ~ '^max_rows_per_second: \d+ a second, limit 1 a second$' AS says_so FROM tenantmig.stat_progress WHERE job = :job;
SELECT tenantmig.alter_job(:job, '{"max_rows_per_second": null}');
CALL tenantmig.wait(:job);
SELECT name FROM tenantmig.throttles(:job) WHERE in_force;

-- who may look
SELECT tm_test.try('SELECT * FROM tenantmig.throttles(0)');
SELECT tm_test.try('SELECT * FROM tenantmig.throttles(NULL)');
CREATE ROLE regress_tm_stranger;
SET ROLE regress_tm_stranger;
SELECT tm_test.try(format('SELECT * FROM tenantmig.throttles(%s)', :job));
RESET ROLE;
GRANT USAGE ON SCHEMA tm_throttle TO regress_tm_stranger;
ALTER TABLE orders OWNER TO regress_tm_stranger;
SET ROLE regress_tm_stranger;
SELECT count(*) FROM tenantmig.throttles(:job);
RESET ROLE;
SELECT * FROM tm_test.leftovers;
DROP SCHEMA tm_throttle CASCADE;
DROP ROLE regress_tm_stranger;
