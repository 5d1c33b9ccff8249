-- The data of the figure "keys": a table with two others that refer to it, all
-- of the same number of rows, of 1,000 tenants.
--
-- Autovacuum is off on the tables, so that a run does not depend on when it
-- comes by.

CREATE EXTENSION tenantmig;

CREATE TABLE orders (id bigint, tenant_id integer NOT NULL, total integer NOT NULL)
WITH (autovacuum_enabled = off);
INSERT INTO orders SELECT i, i % 1000, i % 100 FROM generate_series(1, :rows) i;
ALTER TABLE orders ADD PRIMARY KEY (id);

CREATE TABLE lines (id bigint, tenant_id integer NOT NULL, order_id bigint NOT NULL, quantity integer NOT NULL)
WITH (autovacuum_enabled = off);
CREATE TABLE notes (LIKE lines) WITH (autovacuum_enabled = off);
INSERT INTO lines SELECT i, i % 1000, i, i % 10 FROM generate_series(1, :rows) i;
INSERT INTO notes SELECT i, i % 1000, i, i % 10 FROM generate_series(1, :rows) i;
ALTER TABLE lines ADD PRIMARY KEY (id), ADD FOREIGN KEY (order_id) REFERENCES orders ON DELETE CASCADE;
ALTER TABLE notes ADD PRIMARY KEY (id), ADD FOREIGN KEY (order_id) REFERENCES orders;
CREATE INDEX ON lines (order_id);
CREATE INDEX ON notes (order_id);

CREATE SEQUENCE beside START :beside;

VACUUM (FREEZE, ANALYZE) orders, lines, notes;
