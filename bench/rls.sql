-- Three tables of tenants in schema :schema, :rows orders: customers, their
-- orders, the items of these. Customers with an odd number belong to one large
-- tenant, number 0; the others to small ones, with 500 orders each.
CREATE SCHEMA :schema;
GRANT USAGE ON SCHEMA :schema TO bench_app;
SET search_path = :schema;
CREATE TABLE customers WITH (autovacuum_enabled = off) AS
SELECT c::bigint AS id, md5('tenant ' || CASE WHEN c % 2 = 1 THEN 0 ELSE 1 + c / 2 % (:rows / 1000) END)::uuid AS tenant_id,
       'Customer ' || c AS name
FROM generate_series(0, :rows / 10 - 1) c;
CREATE TABLE orders WITH (autovacuum_enabled = off) AS
SELECT g::bigint AS id, c.tenant_id, c.id AS customer, timestamptz '2020-01-01' + g * interval '1 second' AS created,
       (g::bigint * 7919 % 10000)::numeric / 100 AS total, 'Note ' || md5(g::text) AS note
FROM generate_series(0, :rows - 1) g JOIN customers c ON c.id = g % (:rows / 10);
CREATE TABLE items WITH (autovacuum_enabled = off) AS
SELECT id, tenant_id, id AS order_id, (id % 9)::int AS amount FROM orders;
ALTER TABLE customers ADD PRIMARY KEY (id), ALTER tenant_id SET NOT NULL;
ALTER TABLE orders ADD PRIMARY KEY (id), ALTER tenant_id SET NOT NULL;
ALTER TABLE items ADD PRIMARY KEY (id), ALTER tenant_id SET NOT NULL;
CREATE INDEX orders_created ON orders (tenant_id, created);
CREATE INDEX orders_customer ON orders (tenant_id, customer);
CREATE INDEX items_order ON items (tenant_id, order_id);
CREATE SEQUENCE new_orders START :rows;
GRANT ALL ON ALL TABLES IN SCHEMA :schema TO bench_app;
GRANT ALL ON SEQUENCE new_orders TO bench_app;
VACUUM (FREEZE, ANALYZE) customers, orders, items;
