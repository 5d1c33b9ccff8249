-- Nobody gets more rights by a job, and no job takes what is not its own.
SET client_min_messages = warning;
\set VERBOSITY sqlstate
CREATE ROLE regress_tm_mallory;
CREATE SCHEMA esc AUTHORIZATION regress_tm_mallory;

-- A constant of a domain in a predicate runs the domain's functions when the
-- statement is analyzed in the worker.
SET ROLE regress_tm_mallory;
CREATE FUNCTION esc.evil(integer) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  BEGIN
    EXECUTE 'RESET SESSION AUTHORIZATION';
    EXECUTE 'ALTER ROLE regress_tm_mallory SUPERUSER';
  EXCEPTION WHEN OTHERS THEN NULL;
  END;
  RETURN true;
END $$;
CREATE DOMAIN esc.d AS integer CHECK (esc.evil(VALUE));
CREATE TABLE esc.t (a integer, tenant_id text);
SELECT tenantmig.create_index('esc.t', '{a}', predicate => $$'{1}'::esc.d[] IS NOT NULL$$) AS job \gset
RESET ROLE;
CALL tenantmig.wait(:job);
SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_tm_mallory';
SELECT indisvalid FROM pg_index WHERE indrelid = 'esc.t'::regclass;

-- An index that somebody else made under the name of a failed build is neither
-- taken for ours nor dropped.
CREATE TABLE esc.ix (id integer PRIMARY KEY, tenant_id text, k integer);
INSERT INTO esc.ix SELECT i, 't', i % 10 FROM generate_series(1, 100) i;
SELECT tenantmig.create_index('esc.ix', '{tenant_id,k}', name => 'ix_u', is_unique => true) AS job \gset
CALL tenantmig.wait(:job);
SELECT count(*) FROM pg_index WHERE indrelid = 'esc.ix'::regclass;
CREATE INDEX ix_u ON esc.ix (k);
SELECT tenantmig.retry(:job);
CALL tenantmig.wait(:job);
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT pg_get_indexdef(indexrelid), indisvalid FROM pg_index WHERE indrelid = 'esc.ix'::regclass ORDER BY 1;

-- Ours is found by its identity, whatever it is called by now.
DROP INDEX esc.ix_u;
DELETE FROM esc.ix WHERE id > 10;
SELECT tenantmig.create_index('esc.ix', '{tenant_id,k}', name => 'ix_u', is_unique => true) AS job \gset
CALL tenantmig.wait(:job);
ALTER INDEX esc.ix_u RENAME TO ix_renamed;
CREATE INDEX ix_u ON esc.ix (k);
SELECT tenantmig.undo(:job) AS undo \gset
CALL tenantmig.wait(:undo);
SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'esc.ix'::regclass ORDER BY 1;

DROP SCHEMA esc CASCADE;
DROP ROLE regress_tm_mallory;
