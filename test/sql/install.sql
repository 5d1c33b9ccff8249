--
-- Installation and the contract: names, parameters, types, defaults, settings
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
\set ECHO all
CREATE EXTENSION tenantmig;
RESET client_min_messages;

-- every object has a comment
SELECT pg_describe_object(classid, objid, 0) AS without_comment
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass
      AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'tenantmig')
      AND deptype = 'e' AND obj_description(objid, classid::regclass::text) IS NULL
      -- types that come with a table or view, and their arrays
      AND NOT (classid = 'pg_type'::regclass AND EXISTS (
          SELECT FROM pg_type t WHERE t.oid = objid AND (t.typrelid <> 0 OR t.typelem <> 0)))
      -- the sequence of an identity column
      AND NOT EXISTS (SELECT FROM pg_depend i WHERE i.classid = pg_depend.classid
          AND i.objid = pg_depend.objid AND i.deptype = 'i')
ORDER BY 1;
SELECT obj_description('tenantmig'::regnamespace, 'pg_namespace') IS NOT NULL AS schema_has_comment,
       obj_description(oid, 'pg_extension') IS NOT NULL AS extension_has_comment
FROM pg_extension WHERE extname = 'tenantmig';

-- rows of all tables can be deleted where a publication has all tables
SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'tenantmig'::regnamespace AND c.relkind = 'r' AND c.relreplident = 'd'
      AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary);

-- what every call takes and gives, in order, with defaults; p: a procedure
\pset format unaligned
SELECT p.proname || '(' || pg_get_function_arguments(p.oid) || ')'
       || COALESCE(' -> ' || pg_get_function_result(p.oid), '') AS call,
       p.prokind AS kind, p.provolatile AS volatile, p.proisstrict AS strict
FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'tenantmig')
ORDER BY p.proname COLLATE "C", p.pronargs;

-- none runs as its owner, and all are this library's
SELECT p.oid::regprocedure FROM pg_proc p
WHERE p.pronamespace = 'tenantmig'::regnamespace
      AND (p.prosecdef OR p.prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c')
           OR p.probin <> 'tenantmig' OR p.prosrc <> 'tenantmig_' || p.proname);

-- what the views show, in order
SELECT c.relname AS view, string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum) AS columns
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'tenantmig'::regnamespace AND c.relkind = 'v'
GROUP BY c.relname ORDER BY c.relname COLLATE "C";
\pset format aligned
-- a leaky function of somebody's cannot look behind them
SELECT relname FROM pg_class
WHERE relnamespace = 'tenantmig'::regnamespace AND relkind = 'v'
      AND NOT COALESCE(reloptions @> '{security_barrier=true}' OR reloptions @> '{security_barrier}', false);

-- settings; there may be one more in builds made for tests
LOAD 'tenantmig';
SELECT name, vartype, unit, boot_val, min_val, max_val, context
FROM pg_settings WHERE name LIKE 'tenantmig.%' AND name <> 'tenantmig.stop_point'
ORDER BY name COLLATE "C";
SELECT name FROM pg_settings WHERE name LIKE 'tenantmig.%' AND short_desc = '';
SET tenantmig.lock_timeout = '2s';
SHOW tenantmig.lock_timeout;
SET tenantmig.max_wal_rate = '10MB';
SHOW tenantmig.max_wal_rate;
SET tenantmig.batch_target = 'soon';
SET tenantmig.lock_timeout = 0;
SET tenantmig.nice = -1;
SET tenantmig.no_such_setting = 1;
RESET tenantmig.lock_timeout;
RESET tenantmig.max_wal_rate;

-- the public may look through the views and call, nothing else
SELECT c.relname, c.relkind, a.privilege_type
FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
WHERE c.relnamespace = 'tenantmig'::regnamespace AND a.grantee = 0
ORDER BY c.relname COLLATE "C", a.privilege_type;
SELECT a.privilege_type
FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a
WHERE n.nspname = 'tenantmig' AND a.grantee = 0;
CREATE ROLE regress_tm_nobody;
SET ROLE regress_tm_nobody;
SELECT relname, privilege
FROM pg_class, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) privilege
WHERE relnamespace = 'tenantmig'::regnamespace AND relkind IN ('r', 'v')
      AND (relkind, privilege) <> ('v', 'SELECT') AND has_table_privilege(oid, privilege);
SELECT relname, privilege
FROM pg_class, unnest('{SELECT,UPDATE,USAGE}'::text[]) privilege
WHERE relnamespace = 'tenantmig'::regnamespace AND relkind = 'S' AND has_sequence_privilege(oid, privilege);
SELECT has_schema_privilege('tenantmig', 'CREATE') AS may_create;
RESET ROLE;
DROP ROLE regress_tm_nobody;

-- not relocatable
ALTER EXTENSION tenantmig SET SCHEMA public;

--
-- A schema of that name that was there before
--
CREATE ROLE regress_tm_planter;
CREATE DATABASE regress_tm_planted TEMPLATE template0;
GRANT CREATE ON DATABASE regress_tm_planted TO regress_tm_planter;
SELECT current_database() AS home \gset
\c regress_tm_planted
\set SHOW_CONTEXT never
-- somebody's
SET ROLE regress_tm_planter;
CREATE SCHEMA tenantmig;
RESET ROLE;
CREATE EXTENSION tenantmig;
-- with things in it
SET ROLE regress_tm_planter;
CREATE TABLE tenantmig.called (what text);
CREATE FUNCTION tenantmig.equal(text, text) RETURNS boolean LANGUAGE plpgsql
AS $$ BEGIN INSERT INTO tenantmig.called VALUES ('equal'); RETURN true; END $$;
CREATE OPERATOR tenantmig.= (FUNCTION = tenantmig.equal, LEFTARG = text, RIGHTARG = text);
CREATE FUNCTION tenantmig.format(text, text) RETURNS text LANGUAGE plpgsql
AS $$ BEGIN INSERT INTO tenantmig.called VALUES ('format'); RETURN ''; END $$;
CREATE FUNCTION tenantmig.undo(integer) RETURNS bigint LANGUAGE plpgsql
AS $$ BEGIN INSERT INTO tenantmig.called VALUES ('undo'); RETURN 0; END $$;
RESET ROLE;
CREATE EXTENSION tenantmig;
ALTER SCHEMA tenantmig OWNER TO CURRENT_USER;
CREATE EXTENSION tenantmig;
SELECT * FROM tenantmig.called;
DROP SCHEMA tenantmig CASCADE;
-- empty, a superuser's, but open
CREATE SCHEMA tenantmig;
GRANT USAGE, CREATE ON SCHEMA tenantmig TO PUBLIC, regress_tm_planter;
CREATE EXTENSION tenantmig;
REVOKE CREATE ON SCHEMA tenantmig FROM PUBLIC, regress_tm_planter;
-- as a restore makes it
CREATE EXTENSION tenantmig WITH SCHEMA tenantmig;
SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'tenantmig';
-- again, over what is left of it
DROP EXTENSION tenantmig;
CREATE EXTENSION tenantmig;
DROP EXTENSION tenantmig;
-- operators and functions in the way of the install script
DROP SCHEMA tenantmig;
CREATE TABLE called (what text);
CREATE FUNCTION trap(text, text) RETURNS boolean LANGUAGE plpgsql
AS $$ BEGIN INSERT INTO public.called VALUES ('trap'); RETURN true; END $$;
CREATE FUNCTION trap(varchar, varchar) RETURNS boolean LANGUAGE plpgsql
AS $$ BEGIN INSERT INTO public.called VALUES ('trap'); RETURN true; END $$;
CREATE OPERATOR public.= (FUNCTION = trap, LEFTARG = text, RIGHTARG = text);
CREATE OPERATOR public.= (FUNCTION = trap, LEFTARG = varchar, RIGHTARG = varchar);
CREATE FUNCTION public.format(text, text) RETURNS text LANGUAGE plpgsql
AS $$ BEGIN INSERT INTO public.called VALUES ('format'); RETURN ''; END $$;
SET search_path = public, pg_catalog;
CREATE EXTENSION tenantmig;
SELECT count(*) FROM tenantmig.jobs;
SELECT * FROM called;
\c :home
DROP DATABASE regress_tm_planted WITH (FORCE);
DROP ROLE regress_tm_planter;
