/*
 * Jobs: the rows, and the views over them.  Nobody but the extension writes
 * the tables; everybody looks through the views, which show a role its own
 * jobs and those on tables it owns.
 */
\echo Use "CREATE EXTENSION tenantmig" to load this file. \quit

/*
 * The schema may be there already: a restore makes it first.  But whoever owns
 * it can drop what is in it, and what he has put there beforehand may be called
 * in place of ours or of the server's.  So it must be a superuser's and empty,
 * and nobody else may create anything in it.
 */
DO LANGUAGE plpgsql $guard$
DECLARE
    schema_oid pg_catalog.oid;
    schema_owner pg_catalog.name;
    creators pg_catalog.text;
    planted pg_catalog.text;
BEGIN
    SELECT n.oid, r.rolname INTO schema_oid, schema_owner
    FROM pg_catalog.pg_namespace n
         LEFT JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) n.nspowner AND r.rolsuper
    WHERE n.nspname OPERATOR(pg_catalog.=) 'tenantmig';
    IF schema_owner IS NULL THEN
        RAISE insufficient_privilege USING
            MESSAGE = 'schema "tenantmig" exists and does not belong to a superuser',
            DETAIL = 'Its owner could replace or drop what the extension makes in it.',
            HINT = pg_catalog.format('If nothing in it is needed: DROP SCHEMA tenantmig; or, if it is empty: ALTER SCHEMA tenantmig OWNER TO %I;', CURRENT_USER);
    END IF;

    SELECT pg_catalog.string_agg(pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid), ', '
               ORDER BY d.classid, d.objid) INTO planted
    FROM pg_catalog.pg_depend d
    WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass::pg_catalog.oid
          AND d.refobjid OPERATOR(pg_catalog.=) schema_oid
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_extension e
              WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass::pg_catalog.oid
                    AND e.oid OPERATOR(pg_catalog.=) d.objid
                    AND e.extname OPERATOR(pg_catalog.=) 'tenantmig');
    IF planted IS NOT NULL THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = 'schema "tenantmig" exists and is not empty',
            DETAIL = pg_catalog.format('There is in it: %s.', planted),
            HINT = 'Move or drop these objects, then create the extension.';
    END IF;

    SELECT pg_catalog.string_agg(COALESCE(pg_catalog.quote_ident(r.rolname), 'PUBLIC'), ', '
               ORDER BY r.rolname) INTO creators
    FROM pg_catalog.pg_namespace n
         CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) a
         LEFT JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) a.grantee
    WHERE n.oid OPERATOR(pg_catalog.=) schema_oid
          AND a.privilege_type OPERATOR(pg_catalog.=) 'CREATE' AND r.rolsuper IS NOT TRUE;
    IF creators IS NOT NULL THEN
        RAISE insufficient_privilege USING
            MESSAGE = 'schema "tenantmig" exists and others than superusers may create objects in it',
            HINT = pg_catalog.format('REVOKE CREATE ON SCHEMA tenantmig FROM %s;', creators);
    END IF;
END
$guard$;

COMMENT ON SCHEMA tenantmig IS
'Changes the tenancy of a live database from inside the server';

CREATE TABLE tenantmig.job (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    relid oid NOT NULL DEFAULT 0,
    schema_name name,
    relation_name name,
    arguments jsonb NOT NULL DEFAULT '{}',
    options jsonb NOT NULL DEFAULT '{}',
    state text NOT NULL CHECK (state OPERATOR(pg_catalog.=) ANY
        ('{planned,queued,running,paused,succeeded,failed,cancelled}'::text[])),
    request text CHECK (request OPERATOR(pg_catalog.=) ANY ('{pause,cancel}'::text[])),
    target bigint,
    undone_by bigint,
    reads oid[] NOT NULL DEFAULT '{}',
    depends bigint[] NOT NULL DEFAULT '{}',
    feeds boolean NOT NULL DEFAULT false,
    plan jsonb,
    summary jsonb NOT NULL DEFAULT '{}',
    caller oid NOT NULL,
    owner oid NOT NULL,
    owner_name name NOT NULL,
    search_path text NOT NULL,
    home bigint NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    stalled integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    queued_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    sqlstate text,
    error text,
    error_detail text,
    error_hint text
);
CREATE INDEX job_relid ON tenantmig.job (relid);
CREATE INDEX job_open ON tenantmig.job (id)
    WHERE state OPERATOR(pg_catalog.=) ANY ('{queued,running,paused}'::text[]);
COMMENT ON TABLE tenantmig.job IS 'One row for each job; look at it through tenantmig.jobs';
COMMENT ON COLUMN tenantmig.job.relid IS 'The table, in the database that the job was recorded in; elsewhere the names count';
COMMENT ON COLUMN tenantmig.job.request IS 'What pause() or cancel() asked of a running job';
COMMENT ON COLUMN tenantmig.job.target IS 'The job that an undo works on';
COMMENT ON COLUMN tenantmig.job.reads IS 'Other tables that the job looks at; as relid, in the database that it was recorded in';
COMMENT ON COLUMN tenantmig.job.feeds IS 'Whether jobs that read its table wait for it, also those recorded before it';
COMMENT ON COLUMN tenantmig.job.depends IS 'Jobs on the same or a referenced table that must succeed first';
COMMENT ON COLUMN tenantmig.job.summary IS 'What was counted and found, for the report';
COMMENT ON COLUMN tenantmig.job.caller IS 'The role that recorded the job';
COMMENT ON COLUMN tenantmig.job.owner IS 'The owner of the table, as which the job runs';
COMMENT ON COLUMN tenantmig.job.home IS 'The cluster and database that the job was recorded in; elsewhere (restored, copied) it is paused';
COMMENT ON COLUMN tenantmig.job.stalled IS 'Attempts that ended in a crash, with no batch committed since';

CREATE TABLE tenantmig.job_step (
    job bigint NOT NULL REFERENCES tenantmig.job ON DELETE CASCADE,
    "position" integer NOT NULL,
    kind text NOT NULL CHECK (kind OPERATOR(pg_catalog.=) ANY ('{statement,toplevel,batches}'::text[])),
    relid oid NOT NULL,
    relation text NOT NULL,
    state text NOT NULL CHECK (state OPERATOR(pg_catalog.=) ANY
        ('{planned,running,done,undone}'::text[])),
    statement text NOT NULL,
    inverse text,
    temporary boolean NOT NULL DEFAULT false,
    lock_mode text,
    started_at timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (job, "position")
);
COMMENT ON TABLE tenantmig.job_step IS 'What a job did, with the inverse recorded before it ran; look at it through tenantmig.job_steps';
COMMENT ON COLUMN tenantmig.job_step.kind IS 'statement: in a transaction; toplevel: outside one; batches: many transactions';
COMMENT ON COLUMN tenantmig.job_step.relid IS 'The relation that the step works on, in the database that the job was recorded in; elsewhere its name counts';
COMMENT ON COLUMN tenantmig.job_step.relation IS 'Its name when it was last seen, for people and for a restored database';
COMMENT ON COLUMN tenantmig.job_step.statement IS 'A template: %R stands for the relation, %S for its schema, %% for a percent sign';
COMMENT ON COLUMN tenantmig.job_step.inverse IS 'A template as well; what takes the step back';
COMMENT ON COLUMN tenantmig.job_step.temporary IS 'Its inverse runs at the end of the job itself';

CREATE TABLE tenantmig.job_error (
    job bigint NOT NULL REFERENCES tenantmig.job ON DELETE CASCADE,
    relation text,
    key jsonb,
    sqlstate text NOT NULL,
    message text NOT NULL,
    at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
-- where a publication has all tables, rows without an identity cannot be deleted
ALTER TABLE tenantmig.job_error REPLICA IDENTITY FULL;
CREATE INDEX job_error_job ON tenantmig.job_error (job);
COMMENT ON TABLE tenantmig.job_error IS 'Rows and attempts that failed; look at it through tenantmig.job_errors';

CREATE TABLE tenantmig.job_progress (
    job bigint PRIMARY KEY REFERENCES tenantmig.job ON DELETE CASCADE,
    phase text,
    rows_total bigint,
    rows_done bigint NOT NULL DEFAULT 0,
    blocks_total bigint,
    blocks_done bigint,
    rows_per_second double precision,
    wal_bytes bigint NOT NULL DEFAULT 0,
    batches bigint NOT NULL DEFAULT 0,
    throttle_reason text,
    throttle_facts jsonb NOT NULL DEFAULT '{}',
    method text,
    method_reason text,
    held_by_pid integer,
    workers_reason text,
    partition oid,
    partitions_total integer,
    partitions_done integer,
    checkpoint jsonb NOT NULL DEFAULT '{}',
    updated_at timestamptz
) WITH (fillfactor = 50);
COMMENT ON COLUMN tenantmig.job_progress.throttle_facts IS 'What the process at work knows of its limits, for tenantmig.throttles()';
COMMENT ON COLUMN tenantmig.job_progress.partition IS 'The partition that the worker of the job is in';
COMMENT ON TABLE tenantmig.job_progress IS 'How far a job is; written in the transaction of each batch; look at it through tenantmig.stat_progress';

CREATE TABLE tenantmig.job_partition (
    job bigint NOT NULL REFERENCES tenantmig.job ON DELETE CASCADE,
    relid oid NOT NULL,
    relation text NOT NULL,
    rows_total bigint,
    rows_done bigint NOT NULL DEFAULT 0,
    updated_at timestamptz,
    PRIMARY KEY (job, relid)
) WITH (fillfactor = 50);
COMMENT ON TABLE tenantmig.job_partition IS 'How far a job is in each partition of its table; look at it through tenantmig.job_partitions';
COMMENT ON COLUMN tenantmig.job_partition.relid IS 'The partition, in the database that the job was recorded in; elsewhere its name counts';
COMMENT ON COLUMN tenantmig.job_partition.rows_total IS 'Rows to change, as they were counted; null: they were not';

SELECT pg_catalog.pg_extension_config_dump('tenantmig.job', '');
SELECT pg_catalog.pg_extension_config_dump('tenantmig.job_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('tenantmig.job_step', '');
SELECT pg_catalog.pg_extension_config_dump('tenantmig.job_error', '');
SELECT pg_catalog.pg_extension_config_dump('tenantmig.job_progress', '');
SELECT pg_catalog.pg_extension_config_dump('tenantmig.job_partition', '');

CREATE FUNCTION tenantmig.job_state(job bigint)
RETURNS text LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'tenantmig_job_state';
COMMENT ON FUNCTION tenantmig.job_state(bigint) IS
'The state a job is in now: a job whose worker is gone is paused, whatever its row says';

CREATE FUNCTION tenantmig.job_phase(job bigint)
RETURNS text LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'tenantmig_job_phase';
COMMENT ON FUNCTION tenantmig.job_phase(bigint) IS
'What a job does or waits for now';

CREATE FUNCTION tenantmig.job_pid(job bigint)
RETURNS integer LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'tenantmig_job_pid';
COMMENT ON FUNCTION tenantmig.job_pid(bigint) IS
'The process that works on a job, or NULL';

CREATE FUNCTION tenantmig.job_helpers(job bigint)
RETURNS integer[] LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'tenantmig_job_helpers';
COMMENT ON FUNCTION tenantmig.job_helpers(bigint) IS
'The processes that help the one which works on a job';

CREATE FUNCTION tenantmig.job_visible(caller oid, home bigint, relid oid)
RETURNS boolean LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'tenantmig_job_visible';
COMMENT ON FUNCTION tenantmig.job_visible(oid, bigint, oid) IS
'Whether the current role may see a job: its own, and those on tables it owns';

CREATE FUNCTION tenantmig.step_text(template text, home bigint, relid oid, relation text)
RETURNS text LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'tenantmig_step_text';
COMMENT ON FUNCTION tenantmig.step_text(text, bigint, oid, text) IS
'A statement of a step with the name that its relation has now, or had when it was last seen';

CREATE VIEW tenantmig.jobs WITH (security_barrier) AS
SELECT j.id, j.kind,
       CASE WHEN j.relation_name IS NOT NULL
            THEN pg_catalog.format('%I.%I', j.schema_name, j.relation_name) END AS relation,
       s.state,
       tenantmig.job_phase(j.id) AS phase,
       COALESCE(p.rows_total, (j.plan OPERATOR(pg_catalog.->>) 'rows_total')::bigint) AS rows_total,
       p.rows_done, j.owner_name AS owner, j.attempts,
       j.created_at, j.started_at, j.finished_at, j.error,
       CASE WHEN s.state OPERATOR(pg_catalog.=) 'planned' THEN pg_catalog.format('SELECT tenantmig.start(%s);', j.id)
            WHEN s.state OPERATOR(pg_catalog.=) 'paused' THEN pg_catalog.format('SELECT tenantmig.resume(%s);', j.id)
            WHEN s.state OPERATOR(pg_catalog.=) 'failed' THEN pg_catalog.format('SELECT tenantmig.retry(%s);', j.id)
            WHEN s.state OPERATOR(pg_catalog.=) ANY ('{queued,running}'::text[]) THEN pg_catalog.format('CALL tenantmig.wait(%s);', j.id)
       END AS next_action,
       j.sqlstate, j.error_detail, j.error_hint, j.options, j.undone_by
FROM tenantmig.job j
     LEFT JOIN tenantmig.job_progress p ON p.job OPERATOR(pg_catalog.=) j.id
     CROSS JOIN LATERAL (SELECT tenantmig.job_state(j.id) AS state OFFSET 0) s
WHERE tenantmig.job_visible(j.caller, j.home, j.relid);
COMMENT ON VIEW tenantmig.jobs IS 'All jobs of your own and on tables you own, and what to do next';

CREATE VIEW tenantmig.job_steps WITH (security_barrier) AS
SELECT s.job, s."position", s.kind,
       tenantmig.step_text('%R', j.home, s.relid, s.relation) AS relation, s.state,
       tenantmig.step_text(s.statement, j.home, s.relid, s.relation) AS statement,
       tenantmig.step_text(s.inverse, j.home, s.relid, s.relation) AS inverse,
       s.started_at, s.finished_at, s.lock_mode
FROM tenantmig.job_step s JOIN tenantmig.job j ON j.id OPERATOR(pg_catalog.=) s.job
WHERE tenantmig.job_visible(j.caller, j.home, j.relid);
COMMENT ON VIEW tenantmig.job_steps IS 'What each job did or would do, and the statement that takes it back';

CREATE VIEW tenantmig.job_errors WITH (security_barrier) AS
SELECT e.job, e.relation, e.key, e.sqlstate, e.message, e.at
FROM tenantmig.job_error e JOIN tenantmig.job j ON j.id OPERATOR(pg_catalog.=) e.job
WHERE tenantmig.job_visible(j.caller, j.home, j.relid);
COMMENT ON VIEW tenantmig.job_errors IS 'Rows that could not be changed, and attempts that failed';

CREATE VIEW tenantmig.job_partitions WITH (security_barrier) AS
SELECT q.job, tenantmig.step_text('%R', j.home, q.relid, q.relation) AS relation, q.relid,
       CASE WHEN j.state OPERATOR(pg_catalog.=) 'succeeded'
                 OR q.relid OPERATOR(pg_catalog.<) c.leaf
                 OR (q.relid OPERATOR(pg_catalog.=) c.leaf
                     AND c.block OPERATOR(pg_catalog.=) 4294967294::bigint) THEN 'done'
            WHEN q.rows_done OPERATOR(pg_catalog.>) 0::bigint
                 OR q.relid OPERATOR(pg_catalog.=) c.leaf THEN 'running'
            ELSE 'waiting' END AS state,
       q.rows_total, q.rows_done, q.updated_at
FROM tenantmig.job_partition q JOIN tenantmig.job j ON j.id OPERATOR(pg_catalog.=) q.job
     LEFT JOIN tenantmig.job_progress p ON p.job OPERATOR(pg_catalog.=) j.id
     CROSS JOIN LATERAL (SELECT (p.checkpoint OPERATOR(pg_catalog.->>) 'leaf')::oid AS leaf,
                                (p.checkpoint OPERATOR(pg_catalog.->>) 'block')::bigint AS block) c
WHERE tenantmig.job_visible(j.caller, j.home, j.relid);
COMMENT ON VIEW tenantmig.job_partitions IS 'How far each job is in the partitions of its table';

CREATE VIEW tenantmig.stat_progress WITH (security_barrier) AS
SELECT j.id AS job, w.pid, pg_catalog.current_database() AS datname,
       c.oid AS relid,
       CASE WHEN j.relation_name IS NOT NULL
            THEN pg_catalog.format('%I.%I', j.schema_name, j.relation_name) END AS relation,
       j.kind AS command,
       tenantmig.job_phase(j.id) AS phase,
       COALESCE(i.tuples_total, p.rows_total) AS rows_total,
       COALESCE(i.tuples_done, p.rows_done) AS rows_done,
       COALESCE(i.blocks_total, p.blocks_total) AS blocks_total,
       COALESCE(i.blocks_done, p.blocks_done) AS blocks_done,
       p.rows_per_second, p.wal_bytes,
       CASE WHEN p.rows_per_second OPERATOR(pg_catalog.>) 0::double precision
                 AND p.rows_total OPERATOR(pg_catalog.>=) p.rows_done
            THEN pg_catalog.make_interval(secs =>
                 pg_catalog.round(((p.rows_total OPERATOR(pg_catalog.-) p.rows_done)::double precision
                   OPERATOR(pg_catalog./) p.rows_per_second)::numeric, 1)::double precision) END AS eta,
       p.throttle_reason,
       b.pid AS blocker_pid, b.query AS blocker_query,
       p.method, p.method_reason, p.held_by_pid,
       (SELECT a.query FROM pg_catalog.pg_stat_activity a
        WHERE a.pid OPERATOR(pg_catalog.=) p.held_by_pid) AS held_by_query,
       CASE WHEN w.pid IS NOT NULL
            THEN 1 OPERATOR(pg_catalog.+) pg_catalog.cardinality(h.pids) END AS workers,
       h.pids AS helper_pids, p.workers_reason,
       (SELECT pg_catalog.format('%I.%I', pn.nspname, pc.relname)
        FROM pg_catalog.pg_class pc
             JOIN pg_catalog.pg_namespace pn ON pn.oid OPERATOR(pg_catalog.=) pc.relnamespace
        WHERE pc.oid OPERATOR(pg_catalog.=) p.partition) AS partition,
       p.partitions_total, p.partitions_done
FROM tenantmig.job j
     LEFT JOIN tenantmig.job_progress p ON p.job OPERATOR(pg_catalog.=) j.id
     CROSS JOIN LATERAL (SELECT tenantmig.job_pid(j.id) AS pid OFFSET 0) w
     CROSS JOIN LATERAL (SELECT tenantmig.job_helpers(j.id) AS pids OFFSET 0) h
     LEFT JOIN pg_catalog.pg_namespace n ON n.nspname OPERATOR(pg_catalog.=) j.schema_name
     LEFT JOIN pg_catalog.pg_class c ON c.relnamespace OPERATOR(pg_catalog.=) n.oid
          AND c.relname OPERATOR(pg_catalog.=) j.relation_name
     LEFT JOIN pg_catalog.pg_stat_progress_create_index i ON i.pid OPERATOR(pg_catalog.=) w.pid
     LEFT JOIN LATERAL (
          SELECT a.pid, a.query
          FROM pg_catalog.unnest(pg_catalog.array_prepend(w.pid, h.pids)) AS m(pid)
               CROSS JOIN LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(m.pid)) AS bp(pid)
               JOIN pg_catalog.pg_stat_activity a ON a.pid OPERATOR(pg_catalog.=) bp.pid
          WHERE a.pid OPERATOR(pg_catalog.<>) ALL (pg_catalog.array_prepend(w.pid, h.pids))
          LIMIT 1) b ON true
WHERE j.state OPERATOR(pg_catalog.=) ANY ('{queued,running,paused}'::text[])
      AND tenantmig.job_visible(j.caller, j.home, j.relid);
COMMENT ON VIEW tenantmig.stat_progress IS 'Jobs that are not ended: how far, how fast, what they wait for and who blocks them';

GRANT USAGE ON SCHEMA tenantmig TO PUBLIC;
GRANT SELECT ON tenantmig.jobs, tenantmig.job_steps, tenantmig.job_errors, tenantmig.job_partitions, tenantmig.stat_progress TO PUBLIC;
