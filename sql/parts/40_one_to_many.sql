/*
 * One tenant to many: columns, backfill, indexes, constraints, policies.
 */
CREATE FUNCTION tenantmig.add_tenant_column(
    relation regclass, column_name name DEFAULT 'tenant_id',
    column_type regtype DEFAULT 'text', value text DEFAULT NULL)
RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_add_tenant_column';
COMMENT ON FUNCTION tenantmig.add_tenant_column(regclass, name, regtype, text) IS
'Add the tenant column without rewriting the table; a value fills old rows and is the default of new ones';

CREATE FUNCTION tenantmig.backfill(
    relation regclass, column_name name DEFAULT 'tenant_id',
    value text DEFAULT NULL, expression text DEFAULT NULL, via text DEFAULT NULL,
    unset text DEFAULT NULL, options jsonb DEFAULT '{}', dry_run boolean DEFAULT false)
RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_backfill';
COMMENT ON FUNCTION tenantmig.backfill(regclass, name, text, text, text, text, jsonb, boolean) IS
'A job that fills the tenant column in short transactions, from a value, an expression or the parent row';

CREATE FUNCTION tenantmig.create_index(
    relation regclass, columns text[], name name DEFAULT NULL, is_unique boolean DEFAULT false,
    predicate text DEFAULT NULL, method name DEFAULT 'btree', include name[] DEFAULT '{}',
    dry_run boolean DEFAULT false, tablespace name DEFAULT NULL,
    nulls_not_distinct boolean DEFAULT false, storage jsonb DEFAULT '{}')
RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_create_index';
COMMENT ON FUNCTION tenantmig.create_index(regclass, text[], name, boolean, text, name, name[], boolean, name, boolean, jsonb) IS
'A job that builds an index concurrently and leaves nothing invalid behind';

CREATE FUNCTION tenantmig.set_not_null(
    relation regclass, column_name name DEFAULT 'tenant_id', dry_run boolean DEFAULT false)
RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_set_not_null';
COMMENT ON FUNCTION tenantmig.set_not_null(regclass, name, boolean) IS
'A job that makes a column NOT NULL without holding up writers';

CREATE FUNCTION tenantmig.enable_rls(
    relation regclass, column_name name DEFAULT 'tenant_id',
    setting text DEFAULT 'app.current_tenant_id',
    roles name[] DEFAULT '{public}', admin_roles name[] DEFAULT '{}',
    force boolean DEFAULT true, on_missing text DEFAULT 'deny',
    inline boolean DEFAULT false, set_default boolean DEFAULT false)
RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_enable_rls';
COMMENT ON FUNCTION tenantmig.enable_rls(regclass, name, text, name[], name[], boolean, text, boolean, boolean) IS
'Isolate the tenants of a table, its partitions and children by row-level security, fail-closed';

CREATE FUNCTION tenantmig.disable_rls(relation regclass, keep_policies boolean DEFAULT false)
RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_disable_rls';
COMMENT ON FUNCTION tenantmig.disable_rls(regclass, boolean) IS
'Switch row-level security off again and drop the policies that enable_rls made';

CREATE FUNCTION tenantmig.fill_tenant() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_fill_tenant';
COMMENT ON FUNCTION tenantmig.fill_tenant() IS
'Trigger that gives new rows their tenant while a backfill runs, and after it if keep_trigger says so';

CREATE FUNCTION tenantmig.tree_tops(tids tid[], ups tid[])
RETURNS TABLE (tid tid, top tid)
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 10000 AS 'MODULE_PATHNAME', 'tenantmig_tree_tops';
COMMENT ON FUNCTION tenantmig.tree_tops(tid[], tid[]) IS
'For rows that each have one above them, or none: the topmost of each; for the backfill of a tree';
