# shellcheck shell=bash
# Sourced by run: databases, clocks, arithmetic and output for the figures.

PATH=$("$PG_CONFIG" --bindir):$PATH
export PGDATABASE=bench PGOPTIONS='-c client_min_messages=warning'
ROWS=${ROWS:-3000000}
REPEAT=${REPEAT:-1}
PEER_LIMIT=${PEER_LIMIT:-120}
results=${RESULTS:-$root/bench/results.md}
chart=${results%.md}.svg
work=$(mktemp -d)
helpers=()			# processes that must not outlive us
trap 'kill "${helpers[@]}" 2> /dev/null || :; rm -rf "$work"' EXIT

query() { psql -XqAt -v ON_ERROR_STOP=1 -c "$1"; }
admin() { PGDATABASE=postgres query "$1"; }
say() { printf '%s\n' "$*" | tee -a "$results"; }
note() { printf '%s: %s\n' "$(date +%T)" "$*" >&2; }
calc() { awk "BEGIN { printf \"${2:-%.2f}\", $1 }"; }
ratio() { calc "$1 / $2"; }
per_second() { calc "$1 * 1000 / $2" %d; }

# The row of a figure: what, what was found, what was wanted
table_open=
figure()
{
	if [ -z "$table_open" ]; then
		table_open=yes
		say
		say "| figure | found | wanted |"
		say "|---|---|---|"
	fi
	say "| $1 | $2 | ${3:-} |"
}

head_of_results()
{
	: > "$results"
	say "# Figures"
	say
	say "PostgreSQL $(admin 'SHOW server_version'), $(nproc) cores, default settings. Written by bench/run;"
	say "[README.md](README.md) says what each figure is."
}

# fresh ROWS: the database "bench", made anew, with a table "items" of so many
# rows and its parent "accounts". It is a copy, file by file, of a database that
# is made once, so that all that is compared begins with the very same blocks;
# or, with "last", that database itself: a large one and its copy do not both fit
# into the cache.
fresh()
{
	local original=rows_$1
	if [ -z "$(admin "SELECT 1 FROM pg_database WHERE datname = '$original'")" ]; then
		note "making a table of $1 rows"
		admin "CREATE DATABASE $original"
		psql -XqAt -v ON_ERROR_STOP=1 -v rows="$1" -v accounts="$(accounts "$1")" \
			-v account_index="${ACCOUNT_INDEX:-account, created}" -d "$original" -f "$root/bench/items.sql"
	fi
	admin "DROP DATABASE IF EXISTS bench WITH (FORCE)"
	if [ "${2:-}" = last ]; then
		admin "ALTER DATABASE $original RENAME TO bench"
	else
		admin "CREATE DATABASE bench TEMPLATE $original STRATEGY file_copy"
	fi
}

# accounts ROWS: the parents of a table of so many rows; an empty one gets some, too
accounts() { echo $(($1 > 60 ? $1 / 60 : 50000)); }

# A row that has another tenant: then a job that chooses its method itself fills
# the other rows, where it would have given a constant to all by metadata only
one_is_taken() { query "UPDATE items SET tenant_id = 'another' WHERE id = 1"; }

# forget ROWS: that size is not needed again
forget()
{
	admin "DROP DATABASE IF EXISTS bench WITH (FORCE)"
	[ "$1" = "$ROWS" ] || admin "DROP DATABASE IF EXISTS rows_$1 WITH (FORCE)"
}

# Milliseconds that a statement takes, after a checkpoint
timed()
{
	query CHECKPOINT
	psql -XqAt -v ON_ERROR_STOP=1 -c '\timing on' -c "$1" |
		sed -nE 's/^Time: ([0-9.]+) ms.*/\1/p'
}

# Milliseconds that an ended job took from its call, by the server's clock
job_time() { query "SELECT extract(epoch FROM finished_at - created_at) * 1000 FROM tenantmig.jobs WHERE id = $1"; }

# backfill TABLE ARGUMENTS [OPTIONS]: milliseconds, after a checkpoint
backfill()
{
	local job options=${3:-'{}'}
	query CHECKPOINT
	job=$(query "SELECT tenantmig.backfill('$1', $2, options => '$options')")
	query "CALL tenantmig.wait($job)"
	job_time "$job"
}

# until_true SECONDS COMMAND...: polls; fails when the time is over
until_true()
{
	local deadline=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $deadline ] || return 1
		sleep 0.1
	done
}

# median FILE KEY COLUMN: of the lines whose first column is KEY
median()
{
	awk -F '\t' -v key="$2" -v column="$3" '$1 == key && $column != "" { print $column }' "$1" | sort -n |
		awk '{ v[NR] = $1 } END { if (NR) print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'
}
