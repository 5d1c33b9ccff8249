-- The data: a table with a primary key and two more indexes, about 200 bytes a
-- row and 90 in the indexes, filled in the order of time, whose rows belong to
-- parents, 60 to each. The tenants of the parents are as long as the word
-- "default".
--
-- Autovacuum is off on the table, so that a run does not depend on when it
-- comes by.

CREATE EXTENSION tenantmig;

CREATE TABLE accounts (
    id integer PRIMARY KEY,
    tenant_id text NOT NULL
);
INSERT INTO accounts
SELECT i, to_char(i % 1000, 'FM"tena"000') FROM generate_series(0, :accounts - 1) i;

CREATE TABLE items (
    id bigint PRIMARY KEY,
    account integer NOT NULL,
    body text NOT NULL,
    created timestamptz NOT NULL,
    tenant_id text
) WITH (autovacuum_enabled = off);
CREATE INDEX ON items (:account_index);
CREATE INDEX ON items (created);
INSERT INTO items (id, account, body, created)
SELECT i, i % :accounts, left(repeat(md5(i::text), 5), 148), now() - (:rows - i) * interval '1 second'
FROM generate_series(1, :rows) i;

VACUUM (FREEZE, ANALYZE) accounts, items;
