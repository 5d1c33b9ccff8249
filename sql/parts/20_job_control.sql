/*
 * What can be done with a job.
 */
CREATE FUNCTION tenantmig.start(job bigint) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_start';
COMMENT ON FUNCTION tenantmig.start(bigint) IS 'Turn a planned job into a real one';

CREATE FUNCTION tenantmig.pause(job bigint) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_pause';
COMMENT ON FUNCTION tenantmig.pause(bigint) IS 'Stop a job at its next batch boundary; resume() goes on from there';

CREATE FUNCTION tenantmig.resume(job bigint) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_resume';
COMMENT ON FUNCTION tenantmig.resume(bigint) IS 'Go on with a paused or interrupted job, or ask again for a worker';

CREATE FUNCTION tenantmig.cancel(job bigint) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_cancel';
COMMENT ON FUNCTION tenantmig.cancel(bigint) IS 'End a job at its next batch boundary and remove what it left half-made';

CREATE FUNCTION tenantmig.retry(job bigint) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_retry';
COMMENT ON FUNCTION tenantmig.retry(bigint) IS 'Queue a failed or cancelled job again; what is done already is not done twice';

CREATE FUNCTION tenantmig.alter_job(job bigint, options jsonb) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_alter_job';
COMMENT ON FUNCTION tenantmig.alter_job(bigint, jsonb) IS 'Change throttles and batch limits of a job that has not ended; null takes one away';

CREATE FUNCTION tenantmig.throttles(job bigint)
RETURNS TABLE (name text, current text, limit_value text, source text, in_force boolean)
LANGUAGE c STABLE ROWS 9 AS 'MODULE_PATHNAME', 'tenantmig_throttles';
COMMENT ON FUNCTION tenantmig.throttles(bigint) IS 'The limits of a job: where each stands now, where it comes from, and whether the job rests for it';

CREATE PROCEDURE tenantmig.wait(job bigint, timeout interval DEFAULT NULL)
LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_wait';
COMMENT ON PROCEDURE tenantmig.wait(bigint, interval) IS 'Wait for a job to end; raises its error if it failed';

CREATE PROCEDURE tenantmig.run(job bigint)
LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_run';
COMMENT ON PROCEDURE tenantmig.run(bigint) IS 'Do a job in this session, without a background worker';

CREATE FUNCTION tenantmig.assert_done(job bigint) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_assert_done';
COMMENT ON FUNCTION tenantmig.assert_done(bigint) IS 'Raise an error unless the job has succeeded; never waits';

CREATE FUNCTION tenantmig.undo(job bigint, dry_run boolean DEFAULT false) RETURNS bigint
LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_undo';
COMMENT ON FUNCTION tenantmig.undo(bigint, boolean) IS 'A job that runs the recorded inverses of another job in reverse order';

CREATE FUNCTION tenantmig.purge_jobs(older_than interval DEFAULT '30 days') RETURNS bigint
LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_purge_jobs';
COMMENT ON FUNCTION tenantmig.purge_jobs(interval) IS 'Forget ended jobs of your own; returns how many';
