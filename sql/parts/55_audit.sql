/*
 * The audit of row-level security.
 */
CREATE FUNCTION tenantmig.audit_rls(
    role_name name DEFAULT NULL, schemas name[] DEFAULT NULL,
    column_name name DEFAULT 'tenant_id', setting text DEFAULT 'app.current_tenant_id',
    max_rows bigint DEFAULT 10000)
RETURNS TABLE (check_name text, severity text, object text, role_name name, detail text, mend text)
LANGUAGE c STABLE ROWS 100 AS 'MODULE_PATHNAME', 'tenantmig_audit_rls';
COMMENT ON FUNCTION tenantmig.audit_rls(name, name[], name, text, bigint) IS
'Every way round row-level security that the catalogs show for a role, or for all: what can happen, and the statement that mends it';

CREATE FUNCTION tenantmig.missing_fixes(version_num integer) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'tenantmig_missing_fixes';
COMMENT ON FUNCTION tenantmig.missing_fixes(integer) IS
'The known holes in row-level security that a server of this server_version_num has; NULL if none';
