--
-- audit_rls: keys that reach across tenants, rows that do, indexes; publications,
-- sequences and large objects that all tenants share
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
\i :abs_srcdir/sql/include/audit.sql
-- a table of the owner's with policies, for the application
CREATE PROCEDURE protect(VARIADIC tables text[]) LANGUAGE plpgsql AS $$
DECLARE
	name text;
BEGIN
	FOREACH name IN ARRAY tables LOOP
		EXECUTE format('ALTER TABLE %s OWNER TO regress_tm_owner', name);
	END LOOP;
	FOREACH name IN ARRAY tables LOOP
		EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO regress_tm_app', name);
		PERFORM tenantmig.enable_rls(name::regclass);
	END LOOP;
END $$;
\set ECHO all
\pset format unaligned
\pset tuples_only on

--
-- 10. Unique keys and exclusion constraints without the tenant
--
CREATE TABLE items (tenant_id text NOT NULL, id int PRIMARY KEY, sku text UNIQUE, room int, during int4range,
	code text, note text, UNIQUE (note) INCLUDE (room) DEFERRABLE,
	EXCLUDE USING gist (during WITH &&) WHERE (room > 0));
CREATE UNIQUE INDEX items_code ON items (lower(code) text_pattern_ops DESC, room) WHERE code <> 'it''s';
CREATE UNIQUE INDEX items_mixed ON items ((tenant_id || code));
CREATE INDEX ON items (tenant_id);
CALL protect('items');
SELECT check_name, severity, object FROM seen() ORDER BY object COLLATE "C";
CALL mends('key_without_tenant');
SELECT * FROM seen();
SELECT regexp_replace(pg_get_indexdef(indexrelid), '.* USING ', ''), indisunique, indimmediate FROM pg_index WHERE indrelid = 'items'::regclass ORDER BY 1;
DROP TABLE items;
DROP EXTENSION btree_gist;
-- one that the server gives out
CREATE TABLE items (tenant_id text NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, u uuid DEFAULT gen_random_uuid() UNIQUE);
CREATE INDEX ON items (tenant_id);
CALL protect('items');
SELECT check_name, severity, object FROM seen();
CALL mends('key_without_tenant');
SELECT * FROM seen();
DROP TABLE items;
-- of a partitioned table
CREATE TABLE parts (tenant_id text NOT NULL, id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE part1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE INDEX ON parts (tenant_id);
CALL protect('parts', 'part1');
SELECT check_name, severity, object FROM seen();
CALL mends('key_without_tenant');
SELECT * FROM seen();
DROP TABLE parts;

--
-- 11. Foreign keys that do not pair the tenants; 12. rows that use that
--
CREATE TABLE parents (tenant_id text NOT NULL, id int NOT NULL, code int UNIQUE, PRIMARY KEY (tenant_id, id), UNIQUE (id));
CREATE TABLE children (tenant_id text NOT NULL, id int, parent int REFERENCES parents (id) ON DELETE SET NULL ON UPDATE CASCADE,
	PRIMARY KEY (tenant_id, id));
CREATE INDEX ON children (tenant_id, parent);
INSERT INTO parents VALUES ('a', 1), ('b', 2);
INSERT INTO children VALUES ('a', 1, 1), ('b', 2, 2), ('a', 3, NULL);
CALL protect('parents', 'children');
SELECT * FROM seen() WHERE check_name <> 'key_without_tenant';
UPDATE children SET tenant_id = 'a' WHERE id = 2;
SELECT * FROM seen('rows%');
SELECT detail FROM tenantmig.audit_rls('regress_tm_app', '{regress_tm_audit}') WHERE check_name = 'rows_cross_tenants';
CALL mends('rows_cross_tenants');
SELECT * FROM children ORDER BY id;
UPDATE children SET tenant_id = 'a' WHERE id = 2;
CALL mends('foreign_key_not_paired');
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'children'::regclass AND contype = 'f';
-- the rows that were there
SELECT * FROM seen() WHERE check_name <> 'key_without_tenant';
CALL mends('rows_cross_tenants');
SELECT * FROM children ORDER BY id;
CALL mends('foreign_key_not_validated');
SELECT * FROM seen() WHERE check_name <> 'key_without_tenant';
-- that cannot come back
SELECT * FROM tm_test.try('UPDATE children SET tenant_id = ''a'' WHERE id = 2');
DELETE FROM parents WHERE id = 1;
SELECT * FROM children ORDER BY id;
-- what is looked at, and by whom
UPDATE children SET parent = NULL;
ALTER TABLE children DROP CONSTRAINT children_parent_fkey, ADD FOREIGN KEY (parent) REFERENCES parents (code);
INSERT INTO parents VALUES ('a', 10, 10), ('b', 20, 20);
INSERT INTO children SELECT 'a', i, 10 FROM generate_series(10, 20) i;
UPDATE children SET parent = 20 WHERE id = 20;
SELECT severity, object, detail, mend FROM tenantmig.audit_rls('regress_tm_app', '{regress_tm_audit}', max_rows => 5) WHERE check_name LIKE 'rows%';
SELECT count(*) FROM tenantmig.audit_rls('regress_tm_app', '{regress_tm_audit}', max_rows => 0) WHERE check_name LIKE 'rows%';
SELECT check_name FROM tenantmig.audit_rls('regress_tm_app', '{regress_tm_audit}', max_rows => NULL) WHERE check_name LIKE 'rows%';
SET ROLE regress_tm_app;
SELECT check_name, detail FROM tenantmig.audit_rls('regress_tm_app', '{regress_tm_audit}') WHERE check_name LIKE 'rows%';
SET ROLE regress_tm_owner;
SELECT check_name FROM tenantmig.audit_rls('regress_tm_app', '{regress_tm_audit}') WHERE check_name LIKE 'rows%';
RESET ROLE;
ALTER TABLE parents OWNER TO regress_tm_app;
REVOKE ALL ON parents FROM regress_tm_owner;
SELECT detail FROM tenantmig.audit_rls('regress_tm_owner', '{regress_tm_audit}') WHERE check_name LIKE 'rows%';
-- a superuser's table and somebody else's: his code must not run as the superuser
ALTER TABLE children OWNER TO CURRENT_USER;
CREATE FUNCTION spy(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE INDEX ON parents (code) WHERE spy(1) > code;
CREATE OR REPLACE FUNCTION spy(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RAISE EXCEPTION 'run by %', CURRENT_USER; END $$;
SELECT detail FROM tenantmig.audit_rls('regress_tm_app', '{regress_tm_audit}') WHERE check_name LIKE 'rows%';
-- nor fail the audit
ALTER TABLE children OWNER TO regress_tm_app;
SELECT detail FROM tenantmig.audit_rls('regress_tm_app', '{regress_tm_audit}') WHERE check_name LIKE 'rows%';
SET ROLE regress_tm_app;
SELECT detail FROM tenantmig.audit_rls('regress_tm_app', '{regress_tm_audit}') WHERE check_name LIKE 'rows%';
SET ROLE regress_tm_owner;
SELECT detail FROM tenantmig.audit_rls('regress_tm_app', '{regress_tm_audit}') WHERE check_name LIKE 'rows%';
RESET ROLE;
DROP TABLE children, parents;
DROP FUNCTION spy;
-- to a table that all tenants share, and the registry of tenants: nothing to pair
CREATE TABLE countries (code text PRIMARY KEY);
CREATE TABLE tenants (tenant_id text PRIMARY KEY);
CREATE TABLE places (tenant_id text PRIMARY KEY REFERENCES tenants, country text REFERENCES countries);
CREATE INDEX ON places (country);
CALL protect('places', 'tenants');
SELECT * FROM seen();
DROP TABLE places, tenants, countries;

--
-- 25, 26. Indexes
--
CREATE TABLE plain (tenant_id text NOT NULL, id int, customer_id bigint,
	FOREIGN KEY (tenant_id, customer_id) REFERENCES customers);
CREATE INDEX ON plain (tenant_id) WHERE id > 0;
CREATE INDEX ON plain (id, tenant_id);
CREATE INDEX ON plain USING brin (tenant_id);
CALL protect('plain');
SELECT * FROM seen();
CALL mends('no_tenant_index');
CALL mends('foreign_key_without_index');
SELECT * FROM seen();
DROP INDEX plain_tenant_id_customer_id_idx;
CREATE INDEX ON plain (customer_id) WHERE customer_id IS NOT NULL;
SELECT * FROM seen();
DROP TABLE plain;
CREATE TABLE parts (tenant_id text NOT NULL, id int) PARTITION BY LIST (tenant_id);
CREATE TABLE part_a PARTITION OF parts FOR VALUES IN ('a');
CALL protect('parts', 'part_a');
SELECT * FROM seen();
DROP TABLE parts;
CREATE TABLE parts (tenant_id text NOT NULL, id int) PARTITION BY RANGE (id);
CREATE TABLE part1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CALL protect('parts', 'part1');
SELECT * FROM seen();
CALL mends('no_tenant_index');
SELECT * FROM seen();
DROP TABLE parts;

--
-- 21. Publications
--
SET client_min_messages = error;
CREATE PUBLICATION regress_tm_one FOR TABLE orders, customers WHERE (tenant_id = 'a');
CREATE PUBLICATION regress_tm_two FOR TABLE orders WHERE (id > 0);
CREATE PUBLICATION regress_tm_three FOR TABLES IN SCHEMA regress_tm_audit;
CREATE PUBLICATION regress_tm_four FOR ALL TABLES;
SET client_min_messages = warning;
SELECT * FROM seen();
CALL mends('publication_unfiltered');
SELECT * FROM seen();
DROP PUBLICATION regress_tm_one, regress_tm_two, regress_tm_three;

--
-- 23. Sequences and large objects
--
CREATE SEQUENCE invoices;
SELECT * FROM seen();
GRANT ALL ON SEQUENCE invoices, orders_id_seq TO regress_tm_app;
SELECT * FROM seen();
CALL mends('shared_sequence');
SELECT * FROM seen();
GRANT USAGE ON SEQUENCE invoices TO PUBLIC;
SELECT * FROM seen();
CALL mends('shared_sequence');
-- it may be drawn from for a table
CREATE TABLE drawn (tenant_id text, id int DEFAULT nextval('invoices'), PRIMARY KEY (tenant_id, id));
CALL protect('drawn');
GRANT USAGE ON SEQUENCE invoices TO regress_tm_app;
SELECT * FROM seen();
GRANT SELECT, UPDATE ON SEQUENCE invoices TO regress_tm_app;
SELECT * FROM seen();
CALL mends('shared_sequence');
SELECT has_sequence_privilege('regress_tm_app', 'invoices', 'USAGE');
DROP TABLE drawn;
DROP SEQUENCE invoices;
SELECT lo_create(987654) > 0;
SELECT * FROM seen();
SET ROLE regress_tm_app;
SELECT lo_create(987655) > 0;
RESET ROLE;
GRANT SELECT ON LARGE OBJECT 987654 TO PUBLIC;
SELECT check_name, severity, object, role_name FROM seen();
SELECT detail FROM tenantmig.audit_rls('regress_tm_app', '{regress_tm_audit}');
CALL mends('large_objects');
SELECT * FROM seen();
SELECT lo_unlink(987654), lo_unlink(987655);

DROP SCHEMA regress_tm_audit CASCADE;
DROP ROLE regress_tm_owner, regress_tm_app;
