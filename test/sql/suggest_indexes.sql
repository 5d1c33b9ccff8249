--
-- suggest_indexes: the twin of each index, and what it makes redundant
--
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\i :abs_srcdir/sql/include/helpers.sql
SELECT setval('tenantmig.job_id_seq', 480000) \g /dev/null
\set ECHO all
CREATE SCHEMA tm_suggest;
SET search_path = tm_suggest, public;
CREATE TABLE customers (id int PRIMARY KEY, tenant_id text, email text UNIQUE);
CREATE TABLE orders (id int, tenant_id text, customer_id int REFERENCES customers, email text, at timestamp, tags int[], place point,
	total numeric, "Odd ""name, (x" int, PRIMARY KEY (id), CONSTRAINT orders_email UNIQUE (email, at) INCLUDE (total),
	CONSTRAINT orders_place EXCLUDE USING gist (place WITH ~=));
CREATE INDEX orders_at ON orders (at);
CREATE INDEX orders_at_total ON orders (at, total);
CREATE INDEX orders_at_desc ON orders (at DESC NULLS LAST) WHERE total > 10;
CREATE INDEX orders_customer ON orders (customer_id, at);
CREATE INDEX orders_expr ON orders (lower(email) text_pattern_ops, ("Odd ""name, (x" + 1), COALESCE(email, 'it''s, (a'), email COLLATE "C") INCLUDE (id, tenant_id);
CREATE INDEX orders_later ON orders (total, tenant_id);
CREATE INDEX orders_tenant ON orders (tenant_id);
CREATE INDEX orders_hash ON orders USING hash (total);
CREATE INDEX orders_brin ON orders USING brin (at);
CREATE INDEX orders_gin ON orders USING gin (tags);
CREATE UNIQUE INDEX orders_lower ON orders (lower(email)) WHERE at IS NOT NULL;
CREATE UNIQUE INDEX orders_done ON orders (tenant_id, total);
\pset format unaligned
SELECT index_name, kind, action, statement, redundant, drop_statement FROM tenantmig.suggest_indexes('orders');
SELECT index_name, definition, reason FROM tenantmig.suggest_indexes('orders');
-- every call can be made
SELECT setval('tenantmig.job_id_seq', 485000) \g /dev/null
SELECT s.index_name, tm_test.try(s.statement) FROM tenantmig.suggest_indexes('orders') s WHERE action = 'create_index';
CALL tm_test.wait_until($$SELECT count(*) = 0 FROM tenantmig.jobs WHERE relation = 'tm_suggest.orders' AND state NOT IN ('succeeded', 'failed')$$);
SELECT state, error, count(*) FROM tenantmig.jobs WHERE relation = 'tm_suggest.orders' GROUP BY 1, 2;
SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'orders' AND indexdef ~ '\(tenant_id' ORDER BY 1;
-- and then there is nothing more to make
SELECT index_name, action, redundant, reason FROM tenantmig.suggest_indexes('orders') WHERE action = 'create_index' OR redundant;
-- foreign keys that point at a key; nothing at all; another name of the column; a partition
SELECT index_name, action, statement, redundant, reason FROM tenantmig.suggest_indexes('customers');
CREATE TABLE bare (id int, "The ""tenant" int);
SELECT index_name, kind, action, statement, redundant, reason FROM tenantmig.suggest_indexes('bare', 'The "tenant');
CREATE TABLE parted (id int UNIQUE, tenant_id text) PARTITION BY LIST (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
SELECT index_name, action, statement, reason FROM tenantmig.suggest_indexes('parted');
SELECT index_name, action, statement, reason FROM tenantmig.suggest_indexes('parted_1');
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'orders_at'::regclass;
SELECT index_name, action, statement, reason FROM tenantmig.suggest_indexes('orders') WHERE index_name = 'orders_at';
-- refused
SELECT tm_test.try($$SELECT tenantmig.suggest_indexes('orders', 'nope')$$);
SELECT tm_test.try($$SELECT tenantmig.suggest_indexes(NULL)$$);
SELECT tm_test.try($$SELECT tenantmig.suggest_indexes('orders_at')$$);
SELECT tm_test.try($$SELECT tenantmig.suggest_indexes('pg_class')$$);
CREATE ROLE tm_suggest_other;
SET ROLE tm_suggest_other;
SELECT tm_test.try($$SELECT tenantmig.suggest_indexes('tm_suggest.orders')$$);
RESET ROLE;
DROP ROLE tm_suggest_other;
DROP SCHEMA tm_suggest CASCADE;
