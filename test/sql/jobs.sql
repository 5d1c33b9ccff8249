--
-- The life of a job: every control in every state, the views, purging
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
SELECT setval('tenantmig.job_id_seq', 500000) \g /dev/null
\set ECHO all
CREATE SCHEMA tm_jobs;
SET search_path = tm_jobs, public;
CREATE TABLE planned (id int PRIMARY KEY, tenant_id text);
CREATE TABLE queued (LIKE planned INCLUDING ALL);
CREATE TABLE running (LIKE planned INCLUDING ALL);
CREATE TABLE paused (LIKE planned INCLUDING ALL);
CREATE TABLE succeeded (LIKE planned INCLUDING ALL);
CREATE TABLE failed (LIKE planned INCLUDING ALL);
CREATE TABLE cancelled (LIKE planned INCLUDING ALL);
INSERT INTO planned SELECT generate_series(1, 100);
INSERT INTO queued SELECT generate_series(1, 100);
INSERT INTO running SELECT generate_series(1, 5000);
INSERT INTO paused SELECT generate_series(1, 100);
INSERT INTO succeeded SELECT generate_series(1, 100);
INSERT INTO failed SELECT generate_series(1, 100);
INSERT INTO cancelled SELECT generate_series(1, 100);

--
-- One job in each state.  The running one rests behind its first batch.
--
SELECT tenantmig.backfill('succeeded', value => 'a', options => '{"method": "ranges"}') AS succeeded, tenantmig.backfill('failed', expression => $$(1 / (id - 50))::text$$) AS failed,
       tenantmig.backfill('planned', value => 'a', options => '{"method": "ranges"}', dry_run => true) AS planned \gset
BEGIN;
SELECT tenantmig.backfill('paused', value => 'a', options => '{"method": "ranges"}') AS paused, tenantmig.backfill('cancelled', value => 'a', options => '{"method": "ranges"}') AS cancelled \gset
SELECT tenantmig.pause(:paused);
SELECT tenantmig.cancel(:cancelled);
-- it waits for the paused one
SELECT tenantmig.set_not_null('paused') AS queued \gset
COMMIT;
CALL tenantmig.wait(:succeeded);
\set VERBOSITY sqlstate
CALL tenantmig.wait(:failed);
\set VERBOSITY default
SELECT tenantmig.backfill('running', value => 'a', options => '{"method": "ranges", "max_rows_per_second": 1}') AS running \gset
CALL tm_test.wait_until(format('SELECT rows_done > 0 FROM tenantmig.jobs WHERE id = %s', :running));
CREATE TEMP TABLE states AS
SELECT name, id FROM (VALUES (1, 'planned', :planned::bigint), (2, 'queued', :queued), (3, 'running', :running), (4, 'paused', :paused),
	(5, 'succeeded', :succeeded), (6, 'failed', :failed), (7, 'cancelled', :cancelled)) v(n, name, id) ORDER BY n;
SELECT name, j.state, j.relation, regexp_replace(phase, '\d+', 'N') AS phase, rows_total, attempts, owner = current_user AS mine,
       started_at IS NOT NULL AS started, finished_at IS NOT NULL AS finished, tm_test.mask(next_action) AS next_action
FROM states LEFT JOIN tenantmig.jobs j USING (id) ORDER BY states.id;
SELECT sqlstate, error, error_hint FROM tenantmig.jobs WHERE id = :failed;

-- a call is tried, and taken back
CREATE FUNCTION probe(call text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	line text;
	lines text[] := '{}';
BEGIN
	BEGIN
		FOR line IN SELECT tm_test.try(call) LOOP
			lines := lines || line;
		END LOOP;
		RAISE EXCEPTION 'taken back';
	EXCEPTION WHEN raise_exception THEN
		NULL;
	END;
	RETURN QUERY SELECT unnest(lines);
END $$;
SELECT c AS call, name AS job, probe(format('SELECT tenantmig.' || c, id))
FROM unnest('{start(%s),pause(%s),resume(%s),cancel(%s),retry(%s),"alter_job(%s, ''{}'')",assert_done(%s),undo(%s),"undo(%s, dry_run => true)"}'::text[]) WITH ORDINALITY AS calls(c, n),
     states ORDER BY n, states.id;
-- nothing has come of that: the states are the same, the running one was not interrupted
SELECT name, j.state FROM states LEFT JOIN tenantmig.jobs j USING (id) WHERE j.state <> name;
SELECT count(*) FROM tenantmig.jobs WHERE kind = 'undo' AND relation LIKE 'tm_jobs.%';
SELECT request IS NULL AS no_request FROM tenantmig.job WHERE id = :running;
SELECT pid IS NOT NULL AS at_work, datname = current_database() AS here, relid = 'running'::regclass AS its_table, relation, command,
       rows_total, rows_done > 0 AND rows_done <= rows_total AS rows, blocks_done <= blocks_total AS blocks,
       rows_per_second > 0 AS rate, wal_bytes > 0 AS wal, eta >= '0' AS eta, blocker_pid, blocker_query
FROM tenantmig.stat_progress WHERE job = :running;
CALL tm_test.wait_until(format('SELECT throttle_reason LIKE ''max_rows_per_second: %% limit 1 a second'' FROM tenantmig.stat_progress WHERE job = %s', :running));
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'tenantmig worker' AND application_name = 'tenantmig job ' || :running;
SELECT tenantmig.job_pid(:running) = pid AS same_pid FROM tenantmig.stat_progress WHERE job = :running;
-- only what has not ended is in progress
SELECT name FROM states JOIN tenantmig.stat_progress ON job = id ORDER BY id;

-- wait and run
SELECT setval('tenantmig.job_id_seq', 510000);
SELECT tenantmig.backfill('queued', value => 'a', options => '{"method": "ranges"}', dry_run => true) AS plan \gset
CALL tenantmig.wait(:plan);
CALL tenantmig.run(:plan);
\set VERBOSITY terse
CALL tenantmig.wait(:plan, '1 day');
\set VERBOSITY sqlstate
CALL tenantmig.wait(:running, '50 ms');
CALL tenantmig.wait(:running, '0');
CALL tenantmig.wait(:running, '-1 day');
CALL tenantmig.wait(:failed);
CALL tenantmig.wait(:cancelled);
CALL tenantmig.run(:running);
CALL tenantmig.run(:succeeded);
CALL tenantmig.run(:failed);
CALL tenantmig.run(:cancelled);
\set VERBOSITY default
SELECT state FROM tenantmig.jobs WHERE id = :running;
CALL tenantmig.wait(:succeeded, '0');

-- no such job
SELECT c, tm_test.try('SELECT tenantmig.' || format(c, 0))
FROM unnest('{start(%s),pause(%s),resume(%s),cancel(%s),retry(%s),"alter_job(%s, ''{}'')",assert_done(%s),undo(%s)}'::text[]) c;
SELECT c, tm_test.try('SELECT tenantmig.' || format(c, 'NULL'))
FROM unnest('{start(%s),pause(%s),resume(%s),cancel(%s),retry(%s),"alter_job(%s, ''{}'')",assert_done(%s),undo(%s)}'::text[]) c;
SELECT tm_test.try('SELECT tenantmig.pause(-9223372036854775808)');
CALL tenantmig.wait(0);
CALL tenantmig.run(0);
CALL tenantmig.wait(NULL);
CALL tenantmig.run(NULL);
SELECT tenantmig.job_state(0), tenantmig.job_phase(0), tenantmig.job_pid(0);

-- not inside of a transaction block or a function
BEGIN;
CALL tenantmig.wait(510001);
ROLLBACK;
BEGIN;
CALL tenantmig.run(510001);
ROLLBACK;
DO $$ BEGIN CALL tenantmig.wait(510001); END $$;
\set VERBOSITY sqlstate
CREATE FUNCTION waiting() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CALL tenantmig.wait(510001); END $$;
SELECT waiting();
DO $$ BEGIN BEGIN CALL tenantmig.run(510001); EXCEPTION WHEN no_data_found THEN NULL; END; END $$;
\set VERBOSITY default

--
-- alter_job
--
SELECT o, tm_test.try(format('SELECT tenantmig.alter_job(%s, %L)', :running, o))
FROM unnest('{"{\"nice\": 0.5}","{\"keep_trigger\": true}","{\"on_orphan\": \"leave\"}","{\"nope\": 1}","{\"nice\": -1}","{\"not_between\": 5}",[],null}'::text[]) o;
SELECT tm_test.try(format('SELECT tenantmig.alter_job(%s, NULL)', :running));
SELECT options FROM tenantmig.jobs WHERE id = :running;
-- null takes one away; seen by the job within its rest
SELECT tenantmig.alter_job(:running, '{"max_rows_per_second": null, "nice": null, "batch_target": "100ms"}');
SELECT options FROM tenantmig.jobs WHERE id = :running;
CALL tenantmig.wait(:running);
SELECT state, rows_done, attempts FROM tenantmig.jobs WHERE id = :running;
SELECT tenant_id, count(*) FROM running GROUP BY 1;

--
-- planned -> queued -> succeeded
--
SELECT tenantmig.start(:planned);
CALL tenantmig.wait(:planned);
SELECT state, rows_done FROM tenantmig.jobs WHERE id = :planned;
SELECT tenantmig.assert_done(:planned);
SELECT tenant_id, count(*) FROM planned GROUP BY 1;

--
-- paused -> queued -> running -> succeeded, and then the one that waited for it
--
SELECT tenantmig.pause(:paused);
SELECT tenantmig.resume(:paused);
CALL tenantmig.wait(:paused);
CALL tenantmig.wait(:queued);
SELECT attnotnull FROM pg_attribute WHERE attrelid = 'paused'::regclass AND attname = 'tenant_id';

--
-- running -> paused -> running -> cancelled: nothing half-made is left, the rows done stay; retry does the rest
--
CREATE TABLE cycle (id int PRIMARY KEY, tenant_id text);
INSERT INTO cycle SELECT generate_series(1, 50000);
SELECT tenantmig.backfill('cycle', value => 'a', options => '{"method": "ranges", "max_rows_per_second": 1, "batch_target": "1ms"}') AS job \gset
CALL tm_test.wait_until(format('SELECT rows_done > 0 FROM tenantmig.jobs WHERE id = %s', :job));
SELECT count(*) AS triggers FROM pg_trigger WHERE tgrelid = 'cycle'::regclass;
SELECT tenantmig.pause(:job);
CALL tm_test.wait_until(format('SELECT state = ''paused'' FROM tenantmig.jobs WHERE id = %s', :job));
-- the fill trigger stays over a pause
SELECT count(*) AS triggers FROM pg_trigger WHERE tgrelid = 'cycle'::regclass;
SELECT error IS NULL AS no_error, rows_done = (SELECT count(*) FROM cycle WHERE tenant_id = 'a') AS counted, rows_done < 50000 AS part FROM tenantmig.jobs WHERE id = :job;
INSERT INTO cycle VALUES (50001);
SELECT tenant_id FROM cycle WHERE id = 50001;
-- the same call finds it
SELECT tenantmig.backfill('cycle', value => 'a', options => '{"method": "ranges"}') = :job AS same;
SELECT tenantmig.resume(:job);
CALL tm_test.wait_until(format('SELECT state = ''running'' FROM tenantmig.jobs WHERE id = %s', :job));
SELECT tm_test.try(format('SELECT tenantmig.resume(%s)', :job));
SELECT tenantmig.cancel(:job);
CALL tm_test.wait_until(format('SELECT state = ''cancelled'' FROM tenantmig.jobs WHERE id = %s', :job));
SELECT count(*) AS triggers FROM pg_trigger WHERE tgrelid = 'cycle'::regclass;
SELECT rows_done = (SELECT count(*) - 1 FROM cycle WHERE tenant_id = 'a') AS counted, finished_at IS NOT NULL AS finished FROM tenantmig.jobs WHERE id = :job;
SELECT tenantmig.retry(:job);
-- the throttle is taken away while it is queued or rests
SELECT tenantmig.alter_job(:job, '{"max_rows_per_second": null}');
CALL tenantmig.wait(:job);
SELECT state, attempts FROM tenantmig.jobs WHERE id = :job;
SELECT tenant_id, count(*) FROM cycle GROUP BY 1;
-- cancel of one whose worker has gone: what it left is removed too
SELECT tenantmig.backfill('cycle', value => 'b', unset => 'a', options => '{"method": "ranges", "max_rows_per_second": 1, "batch_target": "1ms"}') AS job \gset
CALL tm_test.wait_until(format('SELECT rows_done > 0 FROM tenantmig.jobs WHERE id = %s', :job));
SELECT tenantmig.job_pid(:job) AS pid \gset
SELECT pg_terminate_backend(:pid);
CALL tm_test.wait_until(format('SELECT tenantmig.job_pid(%s) IS DISTINCT FROM %s', :job, :pid));
SELECT tenantmig.cancel(:job);
CALL tm_test.wait_until(format('SELECT state = ''cancelled'' FROM tenantmig.jobs WHERE id = %s', :job));
SELECT * FROM tm_test.leftovers;
-- pg_cancel_backend pauses
SELECT tenantmig.retry(:job);
CALL tm_test.wait_until(format('SELECT throttle_reason IS NOT NULL FROM tenantmig.stat_progress WHERE job = %s', :job));
SELECT pg_cancel_backend(tenantmig.job_pid(:job));
CALL tm_test.wait_until(format('SELECT state = ''paused'' FROM tenantmig.jobs WHERE id = %s', :job));
SELECT sqlstate, error FROM tenantmig.jobs WHERE id = :job;
SELECT tenantmig.cancel(:job);
CALL tm_test.wait_until(format('SELECT state = ''cancelled'' FROM tenantmig.jobs WHERE id = %s', :job));
SELECT * FROM tm_test.leftovers;

--
-- failed -> queued -> succeeded
--
SELECT relation, key, sqlstate, message FROM tenantmig.job_errors WHERE job = :failed;
DELETE FROM failed WHERE id = 50;
SELECT tenantmig.retry(:failed);
CALL tenantmig.wait(:failed);
SELECT state, error, attempts FROM tenantmig.jobs WHERE id = :failed;

--
-- A rollback, whole or to a savepoint, leaves nothing
--
SELECT count(*) AS jobs FROM tenantmig.jobs \gset
BEGIN;
SELECT tenantmig.backfill('queued', value => 'rolled back', options => '{"method": "ranges"}') IS NOT NULL AS recorded;
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT tenantmig.backfill('queued', value => 'rolled back', options => '{"method": "ranges"}') IS NOT NULL AS recorded;
ROLLBACK TO s;
SELECT tenantmig.backfill('queued', value => 'kept', options => '{"method": "ranges"}') AS kept \gset
-- inside the transaction: it is queued, and cannot be waited for
SELECT state FROM tenantmig.jobs WHERE id = :kept;
SELECT tm_test.try(format('SELECT tenantmig.assert_done(%s)', :kept));
COMMIT;
SELECT count(*) - :jobs AS more FROM tenantmig.jobs;
CALL tenantmig.wait(:kept);
SELECT tenant_id, count(*) FROM queued GROUP BY 1;

--
-- The NOTICEs
--
SELECT setval('tenantmig.job_id_seq', 520000);
CREATE TABLE told (id int, tenant_id text);
INSERT INTO told VALUES (1);
SET client_min_messages = notice;
BEGIN;
SELECT tenantmig.backfill('told', value => 'a', options => '{"method": "ranges"}') AS job \gset
SELECT tenantmig.backfill('told', value => 'a', options => '{"method": "ranges"}') = :job AS same;
SELECT tenantmig.pause(:job);
SELECT tenantmig.backfill('told', value => 'a', options => '{"method": "ranges"}') = :job AS same;
SELECT tenantmig.resume(:job);
SELECT tenantmig.resume(:job);
COMMIT;
SET client_min_messages = warning;
CALL tenantmig.wait(:job);
SET client_min_messages = notice;
SELECT tenantmig.backfill('told', value => 'a', options => '{"method": "ranges"}') = :job AS same;
SELECT tenantmig.create_index('told', '{tenant_id}', dry_run => true) AS plan \gset
SELECT tenantmig.undo(:job, dry_run => true) AS undo \gset
SET client_min_messages = warning;
SELECT tenantmig.cancel(:plan), tenantmig.cancel(:undo);
SELECT state FROM tenantmig.jobs WHERE id IN (:plan, :undo);

--
-- Purging: what has ended, and is old enough
--
SELECT tenantmig.backfill('told', value => 'b', unset => 'a', options => '{"method": "ranges"}', dry_run => true) AS old_plan \gset
BEGIN;
SELECT tenantmig.set_not_null('told') AS open \gset
SELECT tenantmig.pause(:open);
COMMIT;
SELECT tenantmig.purge_jobs() AS purged;
SELECT tm_test.try('SELECT tenantmig.purge_jobs(NULL)');
UPDATE tenantmig.job SET created_at = created_at - interval '40 days', finished_at = finished_at - interval '40 days'
WHERE id IN (:job, :plan, :undo, :old_plan, :open);
SELECT tenantmig.purge_jobs('1 year') AS purged;
SELECT tenantmig.purge_jobs() AS purged;
SELECT id = :open AS open FROM tenantmig.jobs WHERE relation = 'tm_jobs.told';
SELECT count(*) FROM tenantmig.job_step WHERE job IN (:job, :plan, :undo, :old_plan);
SELECT tenantmig.cancel(:open);
SELECT * FROM tm_test.leftovers;
DROP SCHEMA tm_jobs CASCADE;
-- jobs of tables that are gone can still be looked at, and ended
SELECT count(*) > 0 AS seen FROM tenantmig.jobs WHERE relation LIKE 'tm_jobs.%';
SELECT tm_test.try(format('SELECT tenantmig.undo(%s)', :succeeded));
