/*
 * Keys and foreign keys.
 */
CREATE FUNCTION tenantmig.add_foreign_key(
    relation regclass, columns name[], referenced regclass, referenced_columns name[],
    name name DEFAULT NULL, on_delete text DEFAULT 'NO ACTION', dry_run boolean DEFAULT false)
RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_add_foreign_key';
COMMENT ON FUNCTION tenantmig.add_foreign_key(regclass, name[], regclass, name[], name, text, boolean) IS
'A job that adds a foreign key without holding up writers, and lists the rows that would violate it first';

CREATE FUNCTION tenantmig.set_primary_key(
    relation regclass, columns name[], foreign_keys text DEFAULT 'composite', dry_run boolean DEFAULT false)
RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'tenantmig_set_primary_key';
COMMENT ON FUNCTION tenantmig.set_primary_key(regclass, name[], text, boolean) IS
'A job that gives a table another primary key, and its foreign keys the tenant, without holding up readers and writers';
