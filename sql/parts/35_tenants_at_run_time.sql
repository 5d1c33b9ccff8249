/*
 * Tenants at run time: the tenant of a session, and tenants that may not write.
 */
CREATE FUNCTION tenantmig.use_tenant(tenant text, is_local boolean DEFAULT true,
    setting text DEFAULT 'app.current_tenant_id')
RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_use_tenant';
COMMENT ON FUNCTION tenantmig.use_tenant(text, boolean, text) IS
'Work for a tenant: set the setting that the policies read, and the search_path of where it lives';

CREATE FUNCTION tenantmig.current_tenant() RETURNS text
LANGUAGE c STABLE PARALLEL SAFE LEAKPROOF AS 'MODULE_PATHNAME', 'tenantmig_current_tenant';
COMMENT ON FUNCTION tenantmig.current_tenant() IS
'The tenant that app.current_tenant_id names; NULL while there is none';

CREATE FUNCTION tenantmig.current_tenant(setting text) RETURNS text
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tenantmig_current_tenant';
COMMENT ON FUNCTION tenantmig.current_tenant(text) IS
'The tenant that a setting names; NULL while there is none';

CREATE FUNCTION tenantmig.suspend_tenant(tenant text, reason text DEFAULT NULL)
RETURNS boolean LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_suspend_tenant';
COMMENT ON FUNCTION tenantmig.suspend_tenant(text, text) IS
'Refuse the writes of a tenant on all fenced tables; false if it was suspended already';

CREATE FUNCTION tenantmig.reactivate_tenant(tenant text)
RETURNS boolean LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_reactivate_tenant';
COMMENT ON FUNCTION tenantmig.reactivate_tenant(text) IS
'Let a tenant write again; false if it was not suspended';

CREATE FUNCTION tenantmig.fence_tenant() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_fence_tenant';
COMMENT ON FUNCTION tenantmig.fence_tenant() IS
'Trigger that refuses to write rows of a tenant that is suspended';

CREATE FUNCTION tenantmig.fence_tenants(relation regclass, column_name name DEFAULT 'tenant_id')
RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_fence_tenants';
COMMENT ON FUNCTION tenantmig.fence_tenants(regclass, name) IS
'Make a table, its partitions and children refuse the writes of suspended tenants';

CREATE FUNCTION tenantmig.unfence_tenants(relation regclass)
RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_unfence_tenants';
COMMENT ON FUNCTION tenantmig.unfence_tenants(regclass) IS
'Take away what fence_tenants made';

CREATE FUNCTION tenantmig.tenant_changed() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_tenant_changed';
COMMENT ON FUNCTION tenantmig.tenant_changed() IS
'Trigger of the registry that makes all sessions look again who is suspended';
CREATE TRIGGER tenant_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tenantmig.tenant
FOR EACH STATEMENT EXECUTE FUNCTION tenantmig.tenant_changed();
COMMENT ON TRIGGER tenant_changed ON tenantmig.tenant IS 'All sessions look again who is suspended';
ALTER TABLE tenantmig.tenant ENABLE ALWAYS TRIGGER tenant_changed;

CREATE FUNCTION tenantmig.lock_tenant(tenant text, setting text DEFAULT 'app.current_tenant_id')
RETURNS text LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_lock_tenant';
COMMENT ON FUNCTION tenantmig.lock_tenant(text, text) IS
'Work for a tenant until the session ends or is unlocked with the token that is returned; nothing else changes it';

CREATE FUNCTION tenantmig.unlock_tenant(token text)
RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_unlock_tenant';
COMMENT ON FUNCTION tenantmig.unlock_tenant(text) IS
'Unlock the session; after some wrong tokens the session is ended';

CREATE FUNCTION tenantmig.locked_tenant() RETURNS text
LANGUAGE c STABLE PARALLEL SAFE LEAKPROOF AS 'MODULE_PATHNAME', 'tenantmig_locked_tenant';
COMMENT ON FUNCTION tenantmig.locked_tenant() IS
'The tenant that the session is locked for; NULL while it is not locked';
