/*
 * Looking from the application's side.
 */
CREATE FUNCTION tenantmig.prove_isolation(
    role_name name, tenant_a text, tenant_b text, schemas name[] DEFAULT NULL,
    column_name name DEFAULT 'tenant_id', setting text DEFAULT 'app.current_tenant_id',
    writes boolean DEFAULT true, skip regclass[] DEFAULT NULL)
RETURNS TABLE (relation text, probe text, command text, expected text, seen text, ok boolean)
LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_prove_isolation';
COMMENT ON FUNCTION tenantmig.prove_isolation(name, text, text, name[], name, text, boolean, regclass[]) IS
'Try as a role to get at the rows of another tenant, by all commands; leaves nothing behind';

CREATE FUNCTION tenantmig.assert_isolation(
    role_name name, tenant_a text, tenant_b text, schemas name[] DEFAULT NULL,
    column_name name DEFAULT 'tenant_id', setting text DEFAULT 'app.current_tenant_id',
    writes boolean DEFAULT true, skip regclass[] DEFAULT NULL)
RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_assert_isolation';
COMMENT ON FUNCTION tenantmig.assert_isolation(name, text, text, name[], name, text, boolean, regclass[]) IS
'Raise an error unless prove_isolation finds the tenants kept apart; for deploy pipelines';
