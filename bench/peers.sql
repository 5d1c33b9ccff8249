-- The ways of others, with the shape of their statements. They are procedures
-- in the server, which spares them the round trips that the originals make.
--
-- Each stops when "seconds" are over, and says how many rows it has filled and
-- whether nothing was left.

-- Ranges of 10,000 values of the primary key
CREATE PROCEDURE key_ranges(seconds float8, OUT filled bigint, OUT finished boolean)
LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + make_interval(secs => seconds);
    low bigint;
    last bigint;
    n bigint;
BEGIN
    filled := 0;
    SELECT min(id), max(id) INTO low, last FROM items;
    WHILE low <= last AND clock_timestamp() < deadline LOOP
        UPDATE items SET tenant_id = 'default'
        WHERE id >= low AND id < low + 10000 AND tenant_id IS NULL;
        GET DIAGNOSTICS n = ROW_COUNT;
        COMMIT;
        filled := filled + n;
        low := low + 10000;
    END LOOP;
    finished := low > last;
END $$;

-- What guides show: any 1,000 rows without a tenant, until there are none
CREATE PROCEDURE limit_1000(seconds float8, OUT filled bigint, OUT finished boolean)
LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + make_interval(secs => seconds);
    n bigint;
BEGIN
    filled := 0;
    finished := false;
    WHILE NOT finished AND clock_timestamp() < deadline LOOP
        UPDATE items SET tenant_id = 'default'
        WHERE id IN (SELECT id FROM items WHERE tenant_id IS NULL LIMIT 1000);
        GET DIAGNOSTICS n = ROW_COUNT;
        COMMIT;
        filled := filled + n;
        finished := n = 0;
    END LOOP;
END $$;

-- pgroll: a column that says which rows are to be filled, a trigger that
-- computes the new column, and updates of 1,000 rows, in the order of the
-- primary key, that make the trigger fire
CREATE FUNCTION pgroll_up() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    id items.id%TYPE := NEW.id;
    account items.account%TYPE := NEW.account;
    body items.body%TYPE := NEW.body;
    created items.created%TYPE := NEW.created;
    tenant_id items.tenant_id%TYPE := NEW.tenant_id;
    path text;
BEGIN
    SELECT setting INTO path FROM current_setting('search_path') setting;
    IF path <> 'public_new_version' THEN
        NEW.tenant_id := 'default';
        NEW.needs_backfill := false;
    END IF;
    RETURN NEW;
END $$;

CREATE PROCEDURE pgroll(seconds float8, OUT filled bigint, OUT finished boolean)
LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + make_interval(secs => seconds);
    last bigint := 0;
    n bigint;
BEGIN
    ALTER TABLE items ADD COLUMN needs_backfill boolean DEFAULT true;
    CREATE TRIGGER pgroll_up BEFORE INSERT OR UPDATE ON items
        FOR EACH ROW EXECUTE FUNCTION pgroll_up();
    COMMIT;

    filled := 0;
    finished := false;
    WHILE NOT finished AND clock_timestamp() < deadline LOOP
        WITH batch AS (
            SELECT id FROM items
            WHERE needs_backfill = true AND id > last
            ORDER BY id LIMIT 1000
            FOR NO KEY UPDATE
        ), updated AS (
            UPDATE items SET id = items.id
            FROM batch WHERE items.id = batch.id
            RETURNING items.id
        )
        SELECT coalesce(max(id), last), count(*) INTO last, n FROM updated;
        COMMIT;
        filled := filled + n;
        finished := n = 0;
    END LOOP;

    IF finished THEN
        DROP TRIGGER pgroll_up ON items;
        ALTER TABLE items DROP COLUMN needs_backfill;
    END IF;
END $$;

-- GitLab's batched background migrations: batches of 1,000 rows by the primary
-- key, each in sub-batches of 100 that are updated on their own. The rest of
-- two minutes after each batch, the pause after each sub-batch and the table of
-- batches are left out.
CREATE PROCEDURE gitlab(seconds float8, OUT filled bigint, OUT finished boolean)
LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + make_interval(secs => seconds);
    first bigint;
    last bigint;
    low bigint;
    high bigint;
    n bigint;
BEGIN
    filled := 0;
    SELECT min(id) INTO first FROM items;
    WHILE first IS NOT NULL AND clock_timestamp() < deadline LOOP
        SELECT max(id) INTO last
        FROM (SELECT id FROM items WHERE id >= first ORDER BY id LIMIT 1000) batch;
        low := first;
        WHILE low IS NOT NULL LOOP
            SELECT id INTO high FROM items
            WHERE id BETWEEN first AND last AND id >= low ORDER BY id OFFSET 100 LIMIT 1;
            UPDATE items SET tenant_id = 'default'
            WHERE id BETWEEN first AND last AND id >= low AND id < coalesce(high, last + 1)
              AND tenant_id IS NULL;
            GET DIAGNOSTICS n = ROW_COUNT;
            COMMIT;
            filled := filled + n;
            low := high;
        END LOOP;
        SELECT min(id) INTO first FROM items WHERE id > last;
    END LOOP;
    finished := first IS NULL;
END $$;
