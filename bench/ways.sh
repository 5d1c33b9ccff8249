# shellcheck shell=bash
# Sourced by run: ways to give every row of a table its tenant.

# Those that are compared; WAYS makes a choice
ways=(update key_ranges pgroll gitlab limit_1000 rewrite
	ranges pages pages_2 metadata metadata_small update_from derived_pages derived_pages_2)
[ -z "${WAYS:-}" ] || read -ra ways <<< "$WAYS"

label()
{
	case $1 in
		idle) echo "nothing" ;;
		update) echo "one \`UPDATE\`" ;;
		key_ranges) echo "key ranges of 10,000 rows" ;;
		pgroll) echo "pgroll's way" ;;
		gitlab) echo "GitLab's way" ;;
		limit_1000) echo "\`IN (SELECT … LIMIT 1000)\`" ;;
		rewrite) echo "offline rewrite" ;;
		ranges) echo "tenantmig, ranges" ;;
		pages) echo "tenantmig, pages" ;;
		pages_2) echo "tenantmig, pages, 2 workers" ;;
		metadata) echo "tenantmig, metadata" ;;
		metadata_small) echo "tenantmig, metadata, $(rows_of "$1") rows" ;;
		update_from) echo "derived: one \`UPDATE … FROM\`" ;;
		derived_pages) echo "derived: tenantmig, pages" ;;
		derived_pages_2) echo "derived: tenantmig, pages, 2 workers" ;;
		*) die "no such way: $1" ;;
	esac
}

rows_of() { if [ "$1" = metadata_small ]; then echo $((ROWS / 10)); else echo "$ROWS"; fi; }
baseline() { case $1 in update_from | derived_*) echo update_from ;; metadata_small) ;; *) echo update ;; esac; }

for way in "${ways[@]}"; do label "$way" > /dev/null; done

# What a way leaves behind: milliseconds, rows that it filled, whether it came
# to its end; or why it is not available
took='' filled='' finished='' refusal=''

run_way()
{
	took='' filled=$(rows_of "$1") finished=t refusal=''
	case $1 in
		update) took=$(timed "UPDATE items SET tenant_id = 'default'") ;;
		key_ranges | pgroll | gitlab | limit_1000) run_peer "$1" ;;
		rewrite) took=$(timed "ALTER TABLE items ALTER COLUMN tenant_id TYPE text USING 'default'") ;;
		ranges) run_ours "value => 'default'" '{"method": "ranges"}' ;;
		pages) run_ours "value => 'default'" '{"method": "pages"}' ;;
		pages_2) run_ours "value => 'default'" '{"method": "pages", "workers": 2}' ;;
		metadata*) run_ours "value => 'default'" '{"method": "metadata"}' ;;
		update_from) took=$(timed "UPDATE items SET tenant_id = accounts.tenant_id
			FROM accounts WHERE accounts.id = items.account") ;;
		derived_pages) run_ours "via => 'account'" '{"method": "pages"}' ;;
		derived_pages_2) run_ours "via => 'account'" '{"method": "pages", "workers": 2}' ;;
	esac
}

run_peer()
{
	local out
	query CHECKPOINT
	out=$(psql -XqAt -v ON_ERROR_STOP=1 -c '\timing on' -c "CALL $1($PEER_LIMIT, NULL, NULL)")
	took=$(sed -nE 's/^Time: ([0-9.]+) ms.*/\1/p' <<< "$out")
	IFS='|' read -r filled finished <<< "$out"
	[ "$filled" -gt 0 ] || die "$1 filled no row in $PEER_LIMIT s"
}

# The server may refuse a way; a job that fails is no figure.
run_ours()
{
	local job
	query CHECKPOINT
	if ! job=$(query "SELECT tenantmig.backfill('items', $1, options => '$2')" 2> "$work/refusal"); then
		refusal=$(sed -nE 's/^ERROR: +//p' "$work/refusal" | head -n 1)
		[ -n "$refusal" ] || die "$(cat "$work/refusal")"
		return
	fi
	query "CALL tenantmig.wait($job)"
	took=$(job_time "$job")
}

prepare_way()
{
	fresh "$(rows_of "$1")"
	case $1 in
		key_ranges | pgroll | gitlab | limit_1000) psql -XqAt -v ON_ERROR_STOP=1 -f "$root/bench/peers.sql" ;;
		update_from | derived_*) query "ALTER TABLE items ADD FOREIGN KEY (account) REFERENCES accounts" ;;
	esac
	query CHECKPOINT
}

# No row may have a wrong tenant, and none may be without, but those that a way
# which was stopped has not come to.
check_way()
{
	local rows wrong empty
	IFS='|' read -r rows wrong empty <<< "$(query "
		SELECT count(*), count(*) FILTER (WHERE items.tenant_id <> wanted), count(*) FILTER (WHERE items.tenant_id IS NULL)
		FROM items LEFT JOIN accounts ON accounts.id = items.account,
		     LATERAL (SELECT CASE WHEN '$(baseline "$1")' = 'update_from' THEN accounts.tenant_id ELSE 'default' END AS wanted) w")"
	[ "$rows" -eq "$(rows_of "$1")" ] || die "$1: $rows rows are left of $(rows_of "$1")"
	[ "$wrong" -eq 0 ] || die "$1: $wrong rows have a wrong tenant"
	[ "$finished" = f ] || [ "$empty" -eq 0 ] || die "$1: $empty rows have no tenant"
	[ "$finished" = t ] || [ "$empty" -le $((rows - filled)) ] || die "$1: filled fewer rows than it says"
}

# position in the WAL, bytes of the table, bytes of its indexes
sizes() { query "SELECT pg_current_wal_insert_lsn() - '0/0', pg_relation_size('items'), pg_indexes_size('items')"; }

# Updates of the table as the statistics know them. Every session but that of
# the worker has ended, and that one sends its own within moments.
updates() { query "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'items'"; }
updates_are_known() { [ "$(updates | cut -d '|' -f 1)" -ge "$1" ]; }

hot_share()
{
	case $1 in metadata* | rewrite) return ;; esac
	until_true 20 updates_are_known "$filled" || { note "$1: no statistics of all updates"; return 0; }
	updates | awk -F '|' '{ printf "%.1f", 100 * $2 / $1 }'
}

# One run, undisturbed. A line of $work/ways: way, milliseconds, bytes of WAL,
# growth of table and indexes in %, share of HOT updates in %, share of the rows
# that were done; times and WAL of the whole if that is less than 1.
measure_way()
{
	local before after share
	note "$(label "$1")"
	prepare_way "$1"
	before=$(sizes)
	run_way "$1"
	if [ -n "$refusal" ]; then
		echo "$refusal" > "$work/refused.$1"
		return
	fi
	after=$(sizes)
	share=$(if [ "$finished" = t ]; then echo 1; else calc "$filled / $ROWS" %.6f; fi)
	printf '%s|%s\n' "$before" "$after" |
		awk -F '|' -v OFS='\t' -v way="$1" -v ms="$took" -v share="$share" -v hot="$(hot_share "$1")" '
			{ print way, ms / share, ($4 - $1) / share, 100 * ($5 / $2 - 1), 100 * ($6 / $3 - 1), hot, share }' >> "$work/ways"
	check_way "$1"
}

# Medians of the runs, one line for each way; or why there are none
medians()
{
	local way column
	for way in "${ways[@]}"; do
		printf '%s' "$way"
		for column in $(seq 2 7); do printf '\t%s' "$(median "$work/ways" "$way" "$column")"; done
		printf '\t%s\t%s\t%s\t%s\n' "$(label "$way")" "$(baseline "$way")" "$(rows_of "$way")" "$(why_not "$way")"
	done
}

why_not() { [ ! -e "$work/refused.$1" ] || cat "$work/refused.$1"; }

figure_ways()
{
	local _ way
	: > "$work/ways"
	for _ in $(seq "$REPEAT"); do
		for way in "${ways[@]}"; do measure_way "$way"; done
	done
	medians > "$work/medians"

	say
	say "## Ways to give $ROWS rows their tenant"
	say
	say "$(describe_table). One way at a time, nothing beside, $REPEAT run(s)."
	say
	awk -f "$root/bench/ways.awk" "$work/medians" | tee -a "$results"
	if awk -F '\t' '$7 != "" && $7 < 1 { capped = 1 } END { exit !capped }' "$work/medians"; then
		say
		say "\\* Stopped after $PEER_LIMIT s. Time, rows a second and WAL are extrapolated from the share of the rows that was"
		say "done until then; the growth is that of this share, and the whole would grow more."
	fi
	awk -f "$root/bench/chart.awk" "$work/medians" > "$chart"
	say
	say "![time and growth of each way]($(basename "$chart"))"
}

describe_table()
{
	fresh "$ROWS"
	query "SELECT format('A table of %s and three indexes of %s', pg_size_pretty(pg_relation_size('items')), pg_size_pretty(pg_indexes_size('items')))"
}

# One run with a client beside: a line of $work/beside
disturb_way()
{
	note "$(label "$1"), a client beside"
	prepare_way "$1"
	client_begin reads_and_updates.sql
	if [ "$1" = idle ]; then
		sleep "${IDLE:-20}"
		took='' finished=t refusal=''
	else
		run_way "$1"
	fi
	client_end
	if [ -n "$refusal" ]; then
		echo "$refusal" > "$work/refused.$1"
		return
	fi
	printf '%s\t%s\t%s\t%s\n' "$1" "$took" "$client_felt" "$finished" >> "$work/beside"
	[ "$1" = idle ] || check_way "$1"
}

figure_beside()
{
	local _ way column
	: > "$work/beside"
	for _ in $(seq "$REPEAT"); do
		for way in idle "${ways[@]}"; do
			[ "$way" = metadata_small ] || disturb_way "$way"
		done
	done

	say
	say "## A client beside them"
	say
	say "The same ways, each while a client reads and updates $RATE times a second. Latency is from the moment when the"
	say "transaction was due; the wait for a lock is the longest that was seen."
	say
	say "| beside | it took | p50 | p99 | p99.9 | longest | longest wait for a lock |"
	say "|---|---|---|---|---|---|---|"
	for way in idle "${ways[@]}"; do
		[ "$way" != metadata_small ] || continue
		if [ -e "$work/refused.$way" ]; then
			say "| $(label "$way") | not available: $(why_not "$way") | | | | | |"
			continue
		fi
		say "| $(label "$way") | $(beside_time "$way") |$(
			for column in 3 4 5 6 7; do printf ' %s ms |' "$(median "$work/beside" "$way" "$column")"; done)"
	done
}

beside_time()
{
	[ "$1" != idle ] || return 0
	if awk -F '\t' -v way="$1" '$1 == way && $8 == "f" { found = 1 } END { exit !found }' "$work/beside"; then
		echo "stopped after $PEER_LIMIT s"
	else
		echo "$(calc "$(median "$work/beside" "$1" 2) / 1000") s"
	fi
}
