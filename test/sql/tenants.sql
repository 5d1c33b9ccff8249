--
-- The registry of tenants
--
CREATE ROLE regress_tm_registrar;
CREATE ROLE regress_tm_clerk IN ROLE regress_tm_registrar;
CREATE ROLE regress_tm_stranger;
GRANT USAGE ON SCHEMA tenantmig TO regress_tm_registrar, regress_tm_stranger;
\set VERBOSITY terse

SET ROLE regress_tm_registrar;
-- the name is the tenant's unless given
SELECT tenantmig.create_tenant('regress-a');
SELECT tenantmig.create_tenant('regress-b', 'Tenant B', '{"plan": "free"}');
SELECT tenantmig.create_tenant(tenant => 'regress "c"; --', attributes => '{"seats": 3}');
SELECT tenant, name, status, placement, schema_name, attributes
FROM tenantmig.tenants WHERE tenant LIKE 'regress%' ORDER BY tenant;

-- the same again is nothing new, and nothing to talk about
SELECT tenantmig.create_tenant('regress-a');
SELECT tenantmig.create_tenant('regress-b', 'Tenant B', '{"plan": "free"}');
SELECT tenantmig.create_tenant('regress-b');
-- another description is not taken over
\set VERBOSITY default
SELECT tenantmig.create_tenant('regress-b', 'Another name', '{"plan": "free"}');
SELECT tenantmig.create_tenant('regress-b', 'Tenant B', '{"plan": "paid"}');
SELECT tenantmig.create_tenant('regress-b', 'Another name', '{"plan": "paid"}');
\set VERBOSITY terse
SELECT name, attributes FROM tenantmig.tenants WHERE tenant = 'regress-b';

-- a member of the role sees them, a stranger does not, and cannot guess them
SET ROLE regress_tm_clerk;
SELECT count(*) FROM tenantmig.tenants WHERE tenant LIKE 'regress%';
SET ROLE regress_tm_stranger;
SELECT count(*) FROM tenantmig.tenants WHERE tenant LIKE 'regress%';
\set VERBOSITY default
SELECT tenantmig.create_tenant('regress-b', 'Tenant B', '{"plan": "free"}');
SELECT tenantmig.create_tenant('regress-b', 'Wrong guess', '{"plan": "paid"}');
\set VERBOSITY terse
-- nobody writes the table but the extension
INSERT INTO tenantmig.tenant (tenant, name, created_by) VALUES ('regress-x', 'x', CURRENT_USER);
RESET ROLE;
-- a superuser sees all
SELECT tenant, created_by FROM tenantmig.tenant WHERE tenant LIKE 'regress%' ORDER BY tenant;
SELECT count(*) FROM tenantmig.tenants WHERE tenant LIKE 'regress%';

-- what cannot be a tenant
\set VERBOSITY default
SELECT tenantmig.create_tenant(NULL);
SELECT tenantmig.create_tenant('');
SELECT tenantmig.create_tenant('regress-d', '');
SELECT tenantmig.create_tenant('regress-d', attributes => '[1, 2]');
SELECT tenantmig.create_tenant('regress-d', attributes => '"text"');
SELECT tenantmig.create_tenant('regress-d', attributes => NULL);
\set VERBOSITY sqlstate
SELECT tenantmig.create_tenant(NULL);
SELECT tenantmig.create_tenant('');
SELECT tenantmig.create_tenant('regress-d', '');
SELECT tenantmig.create_tenant('regress-d', attributes => '[1, 2]');
SELECT tenantmig.create_tenant('regress-d', attributes => NULL);
-- read only stays read only
BEGIN READ ONLY;
SELECT tenantmig.create_tenant('regress-d');
ROLLBACK;
\set VERBOSITY default

-- it belongs to the transaction of the caller
BEGIN;
SELECT tenantmig.create_tenant('regress-e');
ROLLBACK;
SELECT count(*) FROM tenantmig.tenants WHERE tenant IN ('regress-d', 'regress-e', 'regress-x');

-- functions and operators planted in front of the server's own are not called
CREATE SCHEMA regress_tm_trap;
CREATE FUNCTION regress_tm_trap.trap(text, text) RETURNS boolean LANGUAGE plpgsql
AS 'BEGIN RAISE EXCEPTION ''trapped''; END';
CREATE OPERATOR regress_tm_trap.= (FUNCTION = regress_tm_trap.trap, LEFTARG = text, RIGHTARG = text);
SET search_path = regress_tm_trap, pg_catalog;
SELECT tenantmig.create_tenant('regress-f', 'F');
SELECT tenantmig.create_tenant('regress-f', 'G');
RESET search_path;

DROP SCHEMA regress_tm_trap CASCADE;
DELETE FROM tenantmig.tenant WHERE tenant LIKE 'regress%';
REVOKE USAGE ON SCHEMA tenantmig FROM regress_tm_registrar, regress_tm_stranger;
DROP ROLE regress_tm_clerk, regress_tm_registrar, regress_tm_stranger;
