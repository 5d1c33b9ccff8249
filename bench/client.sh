# shellcheck shell=bash
# Sourced by run: a pgbench client of fixed rate beside something else, and what
# it felt.
#
# Latencies are from the moment when a transaction was due, so one that had to
# wait for its turn counts in full. Those that were under way while the other
# thing ran are counted, and no others: the client begins before it, and goes on
# afterwards until it is no longer behind.

RATE=${RATE:-200}

# What the client does to the table: it reads, and changes no key
cat > "$work/reads_and_updates.sql" <<-SQL
	\set id random(1, $ROWS)
	SELECT body FROM items WHERE id = :id;
	\set id random(1, $ROWS)
	UPDATE items SET body = reverse(body) WHERE id = :id;
SQL

# has_caught_up LINE: of the seconds that pgbench has reported on, from that line
# of its output on, the last one ended well; or it has ended itself
has_caught_up()
{
	kill -0 "$client" 2> /dev/null || return 0
	tail -n +"$1" "$work/client.out" |
		sed -nE 's/^progress: .* lag ([0-9.]+) ms.*/\1/p' | tail -n 1 |
		awk '{ good = $1 < 50 } END { exit !good }'
}

client_begin()
{
	rm -f "$work"/client.log.*
	(cd "$work" && exec pgbench -n -f "$1" -c 4 -R "$RATE" -T 100000 -P 1 \
		--log --log-prefix=client.log bench) > "$work/client.out" 2>&1 &
	client=$!
	printf '%s\n' "SELECT extract(epoch FROM clock_timestamp() - l.waitstart) * 1000
		FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE NOT l.granted AND a.application_name = 'pgbench'" '\watch 0.02' |
		psql -XqAt > "$work/client.waits" &
	sampler=$!
	helpers+=("$client" "$sampler")
	until_true 60 has_caught_up 1 || client_failed
	client_since=$(date +%s.%N)
}

client_failed() { cat "$work/client.out" >&2; die "the client beside failed or never caught up"; }

# client_end: p50, p99, p99.9 and longest latency and the longest wait for a
# lock, in milliseconds, separated by tabs, in client_felt
client_end()
{
	local until
	until=$(date +%s.%N)
	until_true 600 has_caught_up $(($(wc -l < "$work/client.out") + 2)) || client_failed

	# The alarm is what ends pgbench after its -T, in good order.
	kill -ALRM "$client" 2> /dev/null || :
	wait "$client" || client_failed
	kill "$sampler"
	wait "$sampler" 2> /dev/null || :
	helpers=()

	client_felt=$(cat "$work"/client.log.* |
		awk -v since="$client_since" -v until="$until" '
			{ end = $5 + $6 / 1e6 }
			$3 !~ /^[0-9]+$/ { print "a transaction of the client failed" > "/dev/stderr"; exit 1 }
			end >= since && end - $3 / 1e6 <= until { print $3 / 1000 }' | sort -n |
		awk 'function at(share, i) { i = int(NR * share); return v[i < NR * share ? i + 1 : i] }
			{ v[NR] = $1 }
			END { if (NR) printf "%.1f\t%.1f\t%.1f\t%.1f", at(0.5), at(0.99), at(0.999), v[NR] }')
	client_felt+=$(awk '$1 > m { m = $1 } END { printf "\t%d", m }' "$work/client.waits")
}
