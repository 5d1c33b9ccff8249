# shellcheck shell=bash
# Sourced by run: the figures that are not about ways.

figure_latency()
{
	local i job
	fresh 0
	query "CREATE TABLE small (id integer, tenant_id text); INSERT INTO small VALUES (1), (2)"
	for i in $(seq 41); do
		query "UPDATE small SET tenant_id = CASE id WHEN 2 THEN 'another' END"
		job=$(query "SELECT tenantmig.backfill('small', value => 't$i')")
		query "CALL tenantmig.wait($job)"
	done
	figure "COMMIT of the call to the first batch, median and longest of 41" "$(query "
		SELECT format('%s ms, %s ms',
		              round(percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)::numeric, 1),
		              round(max(ms)::numeric, 1))
		FROM (SELECT extract(epoch FROM s.started_at - j.created_at) * 1000 AS ms
		      FROM tenantmig.jobs j JOIN tenantmig.job_steps s ON s.job = j.id
		      WHERE j.relation = 'public.small' AND s.kind = 'batches') l")" "at most 250 ms"
}

# The same for one UPDATE beside it: what the machine, its caches and its
# checkpoints make of larger tables
figure_flat()
{
	local size way rate last='' text=''
	local -A smallest=()
	local -a flat_ways
	read -ra flat_ways <<< "${FLAT_WAYS:-pages ranges UPDATE}"
	if [ "$REPEAT" = 1 ] && [ ${#flat_ways[@]} = 1 ]; then last=last; fi
	# a new cluster makes the files of its WAL first: not at the cost of the smallest
	note "flat, warming up"
	fresh 1000000
	query "UPDATE items SET tenant_id = 'default'"
	forget 1000000
	: > "$work/flat"
	for size in ${SIZES:-100000 1000000 10000000}; do
		for _ in $(seq "$REPEAT"); do
			for way in "${flat_ways[@]}"; do
				note "flat, $size rows, $way"
				fresh "$size" $last
				one_is_taken
				printf '%s\t%s\n' "$way $size" "$(
					if [ "$way" = UPDATE ]; then
						timed "UPDATE items SET tenant_id = 'default'"
					else
						backfill items "value => 'default'" "{\"method\": \"$way\"}"
					fi)" >> "$work/flat"
			done
		done
		text+="${text:+; }$size:"
		for way in "${flat_ways[@]}"; do
			rate=$(per_second "$size" "$(median "$work/flat" "$way $size" 2)")
			: "${smallest[$way]:=$rate}"
			text+=" $way $(ratio "$rate" "${smallest[$way]}") ($rate)"
		done
		forget "$size"
	done
	figure "rows a second by size of the table, as a share of the smallest (and as they are)" "$text" "within 0.25"
}

# What takes the same time for any size: the column with its value; and what
# does not, the scan that makes sure that nothing is set, but under no lock
figure_metadata()
{
	local size ms job added='' filled=''
	for size in ${SIZES:-100000 1000000 10000000}; do
		note "metadata, $size rows"
		fresh "$size"
		query "ALTER TABLE items DROP COLUMN tenant_id"
		ms=$(timed "SELECT tenantmig.add_tenant_column('items', value => 'default')" | tail -n 1)
		[ "$(query "SELECT count(*) FROM items WHERE tenant_id = 'default'")" -eq "$size" ] ||
			die "metadata: not all rows have their tenant"
		added+="${added:+, }$size: $(calc "$ms" %.1f) ms"
		fresh "$size"
		query CHECKPOINT
		job=$(query "SELECT tenantmig.backfill('items', value => 'default', options => '{\"method\": \"metadata\"}')")
		query "CALL tenantmig.wait($job)"
		[ "$(query "SELECT count(*) FROM items WHERE tenant_id = 'default'")" -eq "$size" ] ||
			die "metadata: not all rows have their tenant"
		filled+="${filled:+, }$size: $(calc "$(job_time "$job")" %d) ms, $(calc "$(query "SELECT summary ->> 'lock_held_ms' FROM tenantmig.job WHERE id = $job")" %.1f) ms"
		forget "$size"
	done
	figure "add_tenant_column with a value, by size of the table" "$added" "at most 100 ms"
	figure "backfill by metadata only, by size of the table: job, of which its lock was held" "$filled" "lock at most 100 ms"
}

# A client that also inserts and changes an indexed column, beside each part of
# a migration, in one table
figure_neighbours()
{
	local what job wanted
	local felt
	cat > "$work/neighbours.sql" <<-SQL
		\set id random(1, $ROWS)
		SELECT body FROM items WHERE id = :id;
		UPDATE items SET account = (account + 1) % $(accounts "$ROWS") WHERE id = :id;
		INSERT INTO items (id, account, body, created) VALUES ($ROWS + nextval('beside'), 1, 'x', now());
	SQL
	for what in idle update backfill set_not_null; do
		note "neighbours, $what"
		if [ $what != set_not_null ]; then
			fresh "$ROWS"
			one_is_taken
			query "CREATE SEQUENCE beside"
		fi
		query CHECKPOINT
		client_begin neighbours.sql
		job='' wanted=''
		case $what in
			idle) sleep "${IDLE:-20}" ;;
			update) query "UPDATE items SET tenant_id = 'default'" ;;
			backfill)
				job=$(query "SELECT tenantmig.backfill('items', value => 'default', options => '{\"keep_trigger\": true}')")
				wanted="lock: one batch (200 ms)" ;;
			set_not_null)
				job=$(query "SELECT tenantmig.set_not_null('items')")
				wanted="lock: lock_timeout (500 ms)" ;;
		esac
		[ -z "$job" ] || query "CALL tenantmig.wait($job)"
		client_end
		IFS=$'\t' read -ra felt <<< "$client_felt"
		figure "beside, $RATE transactions a second with inserts and changes of keys, $what: longest wait for a lock; p50, p99, longest transaction" \
			"${felt[4]} ms; ${felt[0]}, ${felt[1]}, ${felt[3]} ms" "$wanted"
	done
}

# Memory of the worker's own over many small batches: a slow trigger keeps each
# to a page or two
figure_memory()
{
	local job pid first='' now='' batches
	note "memory"
	fresh 0
	query "CREATE TABLE many (id integer, body text, tenant_id text) WITH (fillfactor = 10);
	       CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
	         'BEGIN FOR i IN 1..15000 LOOP END LOOP; RETURN NEW; END';
	       CREATE TRIGGER slow BEFORE UPDATE ON many FOR EACH ROW EXECUTE FUNCTION slow();
	       INSERT INTO many SELECT i, repeat('x', 180) FROM generate_series(1, 60000) i;
	       INSERT INTO many VALUES (0, 'x', 'another')"
	job=$(query "SELECT tenantmig.backfill('many', value => 'default', options => '{\"batch_target\": 1}')")
	while batches=$(query "SELECT batches FROM tenantmig.job_progress WHERE job = $job") &&
		[ "${batches:-0}" -lt 10000 ]; do
		pid=$(query "SELECT pid FROM tenantmig.stat_progress WHERE job = $job")
		[ -n "$pid" ] || [ "$(query "SELECT state FROM tenantmig.jobs WHERE id = $job")" != succeeded ] || break
		if [ -z "$pid" ] || [ "${batches:-0}" -le 500 ]; then continue; fi
		now=$(awk '/RssAnon/ { print $2 }' "/proc/$pid/status" 2> /dev/null) || continue
		: "${first:=$now}"
	done
	query "CALL tenantmig.wait($job)"
	figure "memory of the worker after $batches batches against 500" "$(ratio "$now" "$first") ($now kB)" flat
}

# What an insert pays for getting its tenant from its parent. The table has a
# foreign key in every case, and is emptied before each run.
figure_trigger()
{
	local what _ job rows=${TRIGGER_ROWS:-200000}
	note "trigger"
	fresh 0
	query "CREATE FUNCTION look_up() RETURNS trigger LANGUAGE plpgsql AS \$\$
	       BEGIN
	         IF NEW.tenant_id IS NULL THEN
	           SELECT a.tenant_id INTO NEW.tenant_id FROM accounts a WHERE a.id = NEW.account;
	         END IF;
	         RETURN NEW;
	       END \$\$"
	for what in none plpgsql ours; do
		query "CREATE TABLE $what (id bigint PRIMARY KEY, account integer NOT NULL REFERENCES accounts, tenant_id text)
		       WITH (autovacuum_enabled = off)"
	done
	query "CREATE TRIGGER look_up BEFORE INSERT OR UPDATE ON plpgsql FOR EACH ROW EXECUTE FUNCTION look_up()"
	job=$(query "SELECT tenantmig.backfill('ours', via => 'account', options => '{\"keep_trigger\": true}')")
	query "CALL tenantmig.wait($job)"

	: > "$work/trigger"
	for _ in $(seq 5); do
		for what in none plpgsql ours; do
			query "TRUNCATE $what"
			printf '%s\t%s\n' "$what" "$(timed "INSERT INTO $what (id, account) SELECT i, i % 50000 FROM generate_series(1, $rows) i")" >> "$work/trigger"
		done
	done
	for what in plpgsql ours; do
		[ "$(query "SELECT count(*) FROM $what JOIN accounts a ON a.id = account WHERE $what.tenant_id = a.tenant_id")" -eq "$rows" ] ||
			die "trigger: rows of $what have a wrong tenant"
	done
	figure "cost that the fill trigger adds to an inserted row, against a PL/pgSQL trigger that does the same" "$(
		awk -v none="$(median "$work/trigger" none 2)" -v theirs="$(median "$work/trigger" plpgsql 2)" \
			-v ours="$(median "$work/trigger" ours 2)" -v rows="$rows" 'BEGIN {
			printf "%.2f (%.2f µs against %.2f µs, on %.2f µs without)", (ours - none) / (theirs - none),
				(ours - none) * 1000 / rows, (theirs - none) * 1000 / rows, none * 1000 / rows }')"
}

# Another session keeps a snapshot all the time, so no dead row can be removed:
# what the method that the server chooses itself takes then, against plain ranges
figure_horizon()
{
	local method ms=() growth=() before
	for method in auto ranges; do
		note "horizon, $method"
		fresh "$ROWS"
		one_is_taken
		PGAPPNAME=old_snapshot psql -Xq -c "BEGIN ISOLATION LEVEL REPEATABLE READ" -c "SELECT" -c "SELECT pg_sleep(100000)" \
			> "$work/old_snapshot.out" 2>&1 &
		helpers+=($!)
		until_true 20 holds_snapshot || die "horizon: no snapshot"
		before=$(query "SELECT pg_relation_size('items')")
		ms+=("$(backfill items "value => 'default'" "{\"method\": \"$method\"}")")
		growth+=("$(query "SELECT round(100 * (pg_relation_size('items') / $before.0 - 1))")")
		[ "$(query "SELECT count(*) FROM items WHERE tenant_id = 'default'")" -eq $((ROWS - 1)) ] ||
			die "horizon: not all rows have their tenant"
		holds_snapshot || die "horizon: the snapshot was given up"
		query "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'old_snapshot'" > /dev/null
		wait "${helpers[-1]}" || :
		helpers=()
	done
	figure "$ROWS rows while another session holds a snapshot: time of method auto against ranges; growth of the table" \
		"$(ratio "${ms[0]}" "${ms[1]}"); +${growth[0]} % against +${growth[1]} %" "time at most 1.25"
}

holds_snapshot()
{
	[ "$(query "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'old_snapshot'
	            AND backend_xmin IS NOT NULL AND query LIKE '%pg_sleep%'")" -eq 1 ]
}

# Tables of the extremes: rows as short as can be, rows of megabytes, partitions
# by the thousand. The first is too long, the last two have too few rows in a
# table, for what suits all others.
figure_shapes()
{
	local shape job pid rows memory now before
	fresh 0
	for shape in narrow wide partitioned; do
		note "shapes, $shape"
		case $shape in
			narrow)
				rows=${NARROW:-10000000}
				query "CREATE TABLE $shape (id integer, tenant_id text) WITH (autovacuum_enabled = off);
				       INSERT INTO $shape SELECT i FROM generate_series(1, $rows) i" ;;
			wide)
				rows=200
				query "CREATE TABLE $shape (id integer, body text STORAGE EXTERNAL, tenant_id text) WITH (autovacuum_enabled = off);
				       INSERT INTO $shape SELECT i, repeat(md5(i::text), 163840) FROM generate_series(1, $rows) i" ;;
			partitioned)
				rows=$((${PARTITIONS:-5000} * 20))
				query "CREATE TABLE $shape (id integer, tenant_id text) PARTITION BY HASH (id)"
				for ((i = 0; i < ${PARTITIONS:-5000}; i++)); do
					echo "CREATE TABLE ${shape}_$i PARTITION OF $shape FOR VALUES WITH (MODULUS ${PARTITIONS:-5000}, REMAINDER $i);"
				done | psql -Xq -v ON_ERROR_STOP=1
				query "INSERT INTO $shape SELECT i FROM generate_series(1, $rows) i" ;;
		esac
		query "ANALYZE $shape; INSERT INTO $shape (id, tenant_id) VALUES (0, 'another')"
		before=$(shape_size "$shape")
		query CHECKPOINT
		job=$(query "SELECT tenantmig.backfill('$shape', value => 'default')")
		memory=0
		while [ "$(query "SELECT state FROM tenantmig.jobs WHERE id = $job")" = running ] || [ "$memory" = 0 ]; do
			pid=$(query "SELECT pid FROM tenantmig.stat_progress WHERE job = $job AND pid IS NOT NULL")
			now=$(awk '/RssAnon/ { print $2 }' "/proc/${pid:-none}/status" 2> /dev/null) || now=1
			[ "${now:-1}" -le "$memory" ] || memory=${now:-1}
		done
		query "CALL tenantmig.wait($job)"
		[ "$(query "SELECT count(*) FROM $shape WHERE tenant_id = 'default'")" -eq "$rows" ] ||
			die "shapes: not all rows of $shape have their tenant"
		figure "$rows rows, $shape: time; growth; most memory of the worker" \
			"$(calc "$(job_time "$job") / 1000") s; +$(calc "100 * ($(shape_size "$shape") / $before - 1)" %d) %; $((memory / 1024)) MB"
	done
}

# Of a table, with its TOAST table, or of all its partitions
shape_size() { query "SELECT sum(pg_table_size(relid)) FROM pg_partition_tree('$1') WHERE isleaf"; }

# The audit, warm, of a large schema without a hole
figure_audit()
{
	local found ms
	fresh 0
	note "making 1,000 tables with 6,000 indexes"
	psql -XqAt -v ON_ERROR_STOP=1 -f "$root/test/sql/include/large.sql"
	query "VACUUM ANALYZE"
	found=$(query "SELECT count(*) FROM tenantmig.audit_rls('regress_tm_app', '{regress_tm_large}')")
	[ "$found" = 0 ] || die "the audit found $found holes where there are none"
	ms=$(psql -XqAt -v ON_ERROR_STOP=1 <<-SQL |
		\\timing on
		$(for _ in 1 2 3 4 5; do echo "SELECT count(*) FROM tenantmig.audit_rls('regress_tm_app', '{regress_tm_large}');"; done)
	SQL
		sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p' | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }')
	figure "audit_rls on 1,000 tables with 6,000 indexes, median of 5" "$(calc "$ms / 1000") s" "less than 2 s"
	admin "DROP DATABASE bench WITH (FORCE)"
	admin "DROP ROLE regress_tm_app"
}
