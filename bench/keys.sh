# shellcheck shell=bash
# Sourced by run: a primary key that becomes tenant-scoped beside a client, and
# the same work done offline.

KEY_ROWS=${KEY_ROWS:-10000000}
KEY_RUNS=${KEY_RUNS:-3}
KEY_RATE=${KEY_RATE:-500}

# One statement a transaction: half of them read, the others insert and update,
# in all three tables
write_keys_client()
{
	cat > "$work/keys.client.sql" <<-SQL
		\set id random(1, $KEY_ROWS)
		\set tenant :id % 1000
		\set what random(1, 12)
		\if :what <= 3
		SELECT total FROM orders WHERE id = :id AND tenant_id = :tenant;
		\elif :what <= 6
		SELECT sum(quantity) FROM lines WHERE order_id = :id;
		\elif :what = 7
		INSERT INTO orders VALUES (nextval('beside'), :tenant, 1);
		\elif :what = 8
		INSERT INTO lines VALUES (nextval('beside'), :tenant, :id, 1);
		\elif :what = 9
		INSERT INTO notes VALUES (nextval('beside'), :tenant, :id, 1);
		\elif :what = 10
		UPDATE orders SET total = total + 1 WHERE id = :id AND tenant_id = :tenant;
		\elif :what = 11
		UPDATE lines SET quantity = quantity + 1 WHERE id = :id;
		\else
		UPDATE notes SET order_id = order_id, quantity = quantity + 1 WHERE id = :id;
		\endif
	SQL
}

fresh_keys()
{
	local original=keys_$KEY_ROWS
	if [ -z "$(admin "SELECT 1 FROM pg_database WHERE datname = '$original'")" ]; then
		note "making three tables of $KEY_ROWS rows"
		admin "CREATE DATABASE $original"
		psql -XqAt -v ON_ERROR_STOP=1 -v rows="$KEY_ROWS" -v beside=$((KEY_ROWS + 1)) \
			-d "$original" -f "$root/bench/keys.sql"
	fi
	admin "DROP DATABASE IF EXISTS bench WITH (FORCE)"
	admin "CREATE DATABASE bench TEMPLATE $original STRATEGY file_copy"
	query CHECKPOINT
}

# What tenantmig.set_primary_key comes to, in the order of a maintenance window
offline_keys()
{
	query "BEGIN;
		ALTER TABLE lines DROP CONSTRAINT lines_order_id_fkey;
		ALTER TABLE notes DROP CONSTRAINT notes_order_id_fkey;
		ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (tenant_id, id);
		ALTER TABLE lines ADD FOREIGN KEY (tenant_id, order_id) REFERENCES orders ON DELETE CASCADE;
		ALTER TABLE notes ADD FOREIGN KEY (tenant_id, order_id) REFERENCES orders;
		COMMIT"
}

# What a DBA would do by hand, in part: the server's own share of what is felt
index_keys() { query "CREATE UNIQUE INDEX CONCURRENTLY ON orders (tenant_id, id)"; }

online_keys()
{
	local job
	job=$(query "SELECT tenantmig.set_primary_key('orders', '{tenant_id,id}')")
	query "CALL tenantmig.wait($job)"
}

# The longest statement of the client that was under way between client_since
# and $1, in ms: without the time that it waited for its turn in the client
longest_statement()
{
	cat "$work"/client.log.* | awk -v since="$client_since" -v until="$1" '
		{ end = $5 + $6 / 1e6; took = $3 - $7 }
		end >= since && end - took / 1e6 <= until && took > m { m = took }
		END { printf "%.1f", m / 1000 }'
}

keys_are_changed()
{
	[ "$(query "SELECT string_agg(pg_get_constraintdef(oid), '; ' ORDER BY conrelid::regclass::text)
		FROM pg_constraint WHERE contype = 'f' AND convalidated AND confrelid = 'orders'::regclass")" = \
		'FOREIGN KEY (tenant_id, order_id) REFERENCES orders(tenant_id, id) ON DELETE CASCADE; FOREIGN KEY (tenant_id, order_id) REFERENCES orders(tenant_id, id)' ] ||
		die "keys: the foreign keys are not those that were asked for"
	[ "$(query "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p' AND conrelid = 'orders'::regclass")" = \
		'PRIMARY KEY (tenant_id, id)' ] || die "keys: the primary key is not the one that was asked for"
}

# One run beside the client: adds a line way, seconds, longest statement, p99,
# longest wait for a lock to $work/keys
measure_keys()
{
	local began ended felt
	note "keys, $1"
	fresh_keys
	RATE=$KEY_RATE client_begin keys.client.sql
	began=$(date +%s.%N)
	"$1_keys"
	ended=$(date +%s.%N)
	client_end
	[ "$1" = index ] || keys_are_changed
	IFS=$'\t' read -ra felt <<< "$client_felt"
	printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$(calc "$ended - $began" %.1f)" "$(longest_statement "$ended")" \
		"${felt[1]}" "${felt[4]}" >> "$work/keys"
}

figure_keys()
{
	local _
	write_keys_client
	: > "$work/keys"
	for _ in $(seq "$KEY_RUNS"); do measure_keys online; measure_keys index; done
	measure_keys offline
	figure "set_primary_key of $KEY_ROWS rows with two referencing tables of as many, beside $KEY_RATE statements a second, median of $KEY_RUNS: longest statement; p99, longest wait for a lock; whole job" \
		"$(median "$work/keys" online 3) ms; $(median "$work/keys" online 4), $(median "$work/keys" online 5) ms; $(median "$work/keys" online 2) s" \
		"at most 100 ms, none fails"
	figure "CREATE UNIQUE INDEX CONCURRENTLY alone, beside the same client: longest statement; p99, longest wait for a lock; time" \
		"$(median "$work/keys" index 3) ms; $(median "$work/keys" index 4), $(median "$work/keys" index 5) ms; $(median "$work/keys" index 2) s"
	figure "set_primary_key done offline, beside the same client: ACCESS EXCLUSIVE is held; longest statement" \
		"$(median "$work/keys" offline 2) s; $(median "$work/keys" offline 3) ms"
	admin "DROP DATABASE IF EXISTS bench WITH (FORCE)"
	admin "DROP DATABASE keys_$KEY_ROWS WITH (FORCE)"
}
