/*
 * Unique constraints and indexes per tenant.
 */
CREATE FUNCTION tenantmig.scope_unique(
    relation regclass, constraint_or_index name,
    column_name name DEFAULT 'tenant_id', dry_run boolean DEFAULT false)
RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_scope_unique';
COMMENT ON FUNCTION tenantmig.scope_unique(regclass, name, name, boolean) IS
'A job that makes a unique constraint or index one per tenant; the old one falls when the new one is valid';

CREATE FUNCTION tenantmig.suggest_indexes(
    relation regclass, column_name name DEFAULT 'tenant_id',
    OUT index_name name, OUT kind text, OUT definition text, OUT action text,
    OUT statement text, OUT redundant boolean, OUT drop_statement text, OUT reason text)
RETURNS SETOF record LANGUAGE c STABLE ROWS 10 AS 'MODULE_PATHNAME', 'tenantmig_suggest_indexes';
COMMENT ON FUNCTION tenantmig.suggest_indexes(regclass, name) IS
'For each index of a table its twin that begins with the tenant, the call that makes it, and whether the old one is redundant then';
