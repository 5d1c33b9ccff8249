/*
 * Tenants: the registry.
 */
CREATE TABLE tenantmig.tenant (
    tenant text PRIMARY KEY CHECK (tenant OPERATOR(pg_catalog.<>) ''),
    name text NOT NULL,
    status text NOT NULL DEFAULT 'active' CHECK (status OPERATOR(pg_catalog.=) ANY ('{active,suspended,moving}'::text[])),
    placement text NOT NULL DEFAULT 'shared' CHECK (placement OPERATOR(pg_catalog.=) ANY ('{shared,schema,database}'::text[])),
    schema_name name,
    attributes jsonb NOT NULL DEFAULT '{}' CHECK (pg_catalog.jsonb_typeof(attributes) OPERATOR(pg_catalog.=) 'object'),
    created_by name NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    status_since timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    status_reason text,
    status_by name
);
CREATE INDEX tenant_suspended ON tenantmig.tenant (tenant) WHERE status OPERATOR(pg_catalog.=) 'suspended';
CREATE UNIQUE INDEX tenant_schema ON tenantmig.tenant (schema_name) WHERE placement OPERATOR(pg_catalog.=) 'schema';
COMMENT ON TABLE tenantmig.tenant IS 'One row for each tenant; look at it through tenantmig.tenants';
SELECT pg_catalog.pg_extension_config_dump('tenantmig.tenant', '');

CREATE VIEW tenantmig.tenants WITH (security_barrier) AS
SELECT tenant, name, status, placement, schema_name, attributes, created_at, status_since, status_reason, status_by
FROM tenantmig.tenant
WHERE created_by OPERATOR(pg_catalog.=) ANY (
      SELECT rolname FROM pg_catalog.pg_roles WHERE pg_catalog.pg_has_role(oid, 'USAGE'))
      OR (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) CURRENT_USER);
COMMENT ON VIEW tenantmig.tenants IS 'The tenants that you or a role of yours created; superusers see all';
GRANT SELECT ON tenantmig.tenants TO PUBLIC;

CREATE FUNCTION tenantmig.create_tenant(tenant text, name text DEFAULT NULL, attributes jsonb DEFAULT '{}')
RETURNS boolean LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_create_tenant';
COMMENT ON FUNCTION tenantmig.create_tenant(text, text, jsonb) IS 'Enter a tenant into the registry; false if it was there';
