# shellcheck shell=bash
# Sourced by run: what row-level security and the fence cost.
#
# A query under a policy is compared with the same query without one that names
# its tenant. Both run in turn on the very same tables, prepared, on one
# connection, as roles that differ in BYPASSRLS only (a superuser would be spared
# the look at its grants as well); what is shown is the median of the ratios of
# all turns.

RLS_ROWS=${RLS_ROWS:-1000000}		# a multiple of 20000
RLS_REPEAT=${RLS_REPEAT:-3}
RLS_SECONDS=${RLS_SECONDS:-2}
shapes=(point range join scan aggregate insert update)

tenant_uuid() { printf 'tenant %s' "$1" | md5sum | cut -c 1-32; }

# tenant_of SIZE: the large one, or the first of the small ones
tenant_of() { if [ "$1" = large ]; then tenant_uuid 0; else tenant_uuid 1; fi; }

# shape_sql SHAPE SIZE PREDICATE: the script of pgbench; PREDICATE has a %s where
# the name of a table goes
shape_sql()
{
	local customers=$((RLS_ROWS / 10)) p=$3 order customer
	# shellcheck disable=SC2059
	where() { [ -z "$p" ] || printf " AND $p" "$1"; }

	if [ "$2" = large ]; then
		order="2 * random(0, $((RLS_ROWS / 2 - 1))) + 1"
		customer="2 * random(0, $((customers / 2 - 1))) + 1"
	else
		customer="$((RLS_ROWS / 500)) * random(0, 49)"
		order="$customer + $customers * random(0, 9)"
	fi
	case $1 in
		point) echo "\\set id $order"
			echo "SELECT total, note FROM orders o WHERE id = :id$(where o);" ;;
		range) echo "\\set s random($((RLS_ROWS / 2)), $RLS_ROWS)"
			echo "SELECT id, total FROM orders o WHERE created < timestamptz '2020-01-01' + :s * interval '1 second'$(where o) ORDER BY created DESC LIMIT 20;" ;;
		join) echo "\\set c $customer"
			echo "SELECT c.name, o.id, sum(i.amount) FROM customers c JOIN orders o ON o.customer = c.id JOIN items i ON i.order_id = o.id WHERE c.id = :c$(where c)$(where o)$(where i) GROUP BY c.name, o.id;" ;;
		scan) echo "SELECT count(*), sum(total) FROM orders o WHERE note LIKE '%77%'$(where o);" ;;
		aggregate) echo "SELECT date_trunc('day', created), sum(total) FROM orders o WHERE true$(where o) GROUP BY 1;" ;;
		insert) echo "INSERT INTO orders VALUES (nextval('new_orders'), :tenant, 1, '2030-01-01', 1, 'new');" ;;
		update) echo "\\set id $order"
			echo "UPDATE orders o SET total = total + 1 WHERE id = :id$(where o);" ;;
	esac
}

# turn FORM SHAPE SIZE WHO: latency in ms; WHO is policy or predicate
turn()
{
	local tenant predicate='' options="-c search_path=$1 -c synchronous_commit=off"
	tenant=$(tenant_of "$3")
	if [ "$4" = policy ]; then
		options+=" -c role=bench_app -c app.current_tenant_id=$tenant"
	else
		options+=" -c role=bench_bypass"
		predicate='%s.tenant_id = :tenant'
	fi
	shape_sql "$2" "$3" "$predicate" > "$work/shape.sql"
	PGOPTIONS=$options pgbench -n -M prepared -T "$RLS_SECONDS" -D "tenant=$tenant" -f "$work/shape.sql" bench 2> "$work/shape.err" |
		sed -nE 's/^latency average = ([0-9.]+) ms.*/\1/p' | grep . || { cat "$work/shape.err" >&2; die "rls: pgbench failed"; }
}

# The conditions on the tenant's index in the plan of a query under the policy,
# for the application's role
uses_tenant_index()
{
	shape_sql "$2" "$3" '' | grep -v '^\\set' | sed "s/:tenant/'$(tenant_of "$3")'/; s/:id/1/; s/:c\\b/1/; s/:s/1000/; s/^/EXPLAIN (COSTS off) /" > "$work/explain.sql"
	if PGOPTIONS="-c search_path=$1 -c role=bench_app -c app.current_tenant_id=$(tenant_of "$3")" \
		psql -XqAt -v ON_ERROR_STOP=1 -f "$work/explain.sql" | grep -q 'Index Cond:.*tenant_id'; then
		echo yes
	else
		echo no
	fi
}

# policy_ratio FORM SHAPE SIZE: into the file of ratios, and the median
policy_ratio()
{
	local key="$1 $2 $3" _
	for _ in $(seq "$RLS_REPEAT"); do
		printf '%s\t%s\n' "$key" "$(ratio "$(turn "$1" "$2" "$3" policy)" "$(turn "$1" "$2" "$3" predicate)")"
	done > "$work/ratios"
	median "$work/ratios" "$key" 2
}

# rls_table INDEX: one row for each shape and size
rls_table()
{
	local shape size form cells ratio
	say "| query | tenant | sub-select | its plan uses the tenant's index | inline | its plan | each row |"
	say "|---|---|---|---|---|---|---|"
	for shape in "${shapes[@]}"; do
		for size in large small; do
			cells=''
			for form in sub inline each; do
				note "rls, $1, $shape, $size, $form"
				ratio=$(policy_ratio "$form" "$shape" "$size")
				printf '%s\t%s\n' "$1 $form $shape $size" "$ratio" >> "$work/rls"
				cells+=" $(calc "$ratio") |"
				[ "$form" = each ] || cells+=" $(uses_tenant_index "$form" "$shape" "$size") |"
			done
			say "| $shape | $size |$cells"
		done
	done
}

# The worst of the ratios whose key matches
worst() { awk -F '\t' -v pattern="$1" '$1 ~ pattern && $2 > worst { worst = $2 } END { printf "%.2f", worst }' "$work/rls"; }

figure_rls()
{
	local form
	fresh 0
	query "CREATE ROLE bench_app; CREATE ROLE bench_bypass BYPASSRLS IN ROLE bench_app"
	for form in sub inline each; do
		note "rls, tables of $RLS_ROWS rows for the form $form"
		psql -XqAt -v ON_ERROR_STOP=1 -v schema="$form" -v rows="$RLS_ROWS" -f "$root/bench/rls.sql"
		for table in customers orders items; do
			case $form in
				sub) query "SELECT tenantmig.enable_rls('$form.$table')" ;;
				inline) query "SELECT tenantmig.enable_rls('$form.$table', inline => true)" ;;
				each) query "ALTER TABLE $form.$table ENABLE ROW LEVEL SECURITY;
				             CREATE POLICY each_row ON $form.$table USING (tenant_id = current_setting('app.current_tenant_id')::uuid)" ;;
			esac
		done
	done > /dev/null
	: > "$work/rls"

	say
	say "## Row-level security"
	say
	say "Time of a query under a policy against that of the same query without one that names its tenant: $RLS_ROWS orders,"
	say "half of them one tenant's, the others in tenants of 500. Median of $RLS_REPEAT turns of $RLS_SECONDS s. *Sub-select* and *inline*"
	say "are enable_rls; *each row* is the policy of guides: \`USING (tenant_id = current_setting(…)::uuid)\`."
	say
	say "With indexes that lead with the tenant:"
	say
	rls_table indexed
	for form in sub inline each; do
		query "SET search_path = $form;
		       DROP INDEX orders_created, orders_customer, items_order;
		       CREATE INDEX orders_created ON orders (created);
		       CREATE INDEX orders_customer ON orders (customer);
		       CREATE INDEX items_order ON items (order_id)"
	done
	say
	say "With indexes that do not:"
	say
	rls_table plain

	figure "point and range reads under the policy against an explicit predicate, worst" "$(worst '^indexed sub (point|range)')" "at most 1.10"
	figure "full scan, large tenant" "$(worst '^(indexed|plain) sub scan large')" "at most 1.15"
	figure "insert, WITH CHECK" "$(worst '^(indexed|plain) sub insert')" "at most 1.15"
	figure "full scan, large tenant, in the form of guides" "$(worst '^(indexed|plain) each scan large')"
}

# What the fence adds to an insert and to an update of one row, and to many rows
# in one statement, in tables as pgbench has them
figure_fence()
{
	local what table commit _ rows=${FENCE_ROWS:-100000}
	note "fence"
	fresh 0
	for table in open fenced; do
		query "CREATE TABLE $table (aid bigint PRIMARY KEY, bid int, abalance int, filler char(84), tenant_id text NOT NULL)
		       WITH (autovacuum_enabled = off, fillfactor = 50);
		       CREATE SEQUENCE ids_$table START $((rows + 1));
		       INSERT INTO $table SELECT g, 1, 0, '', 'tenant ' || g % 100 FROM generate_series(1, $rows) g"
		cat > "$work/update_$table.sql" <<-SQL
			\set id random(1, $rows)
			UPDATE $table SET abalance = abalance + 1 WHERE aid = :id;
		SQL
		echo "INSERT INTO $table VALUES (nextval('ids_$table'), 1, 0, '', 'tenant 1');" > "$work/insert_$table.sql"
	done
	query "SELECT tenantmig.fence_tenants('fenced')" > /dev/null
	query "SELECT tenantmig.create_tenant('tenant 500'), tenantmig.suspend_tenant('tenant 500')" > /dev/null 2>&1
	query "VACUUM (FREEZE, ANALYZE) open, fenced"
	for commit in on off; do
		for what in insert update; do
			figure "$what of one row in a table with a fence, against one without, synchronous_commit $commit" \
				"$(fence_ratio $commit $what)" "$([ $commit = off ] || echo "at most 1.05")"
		done
	done
	# the transaction of pgbench, all of whose tables have a tenant: three updates,
	# a read, an insert
	for table in open fenced; do
		query "CREATE SCHEMA bench_$table"
		PGOPTIONS="-c search_path=bench_$table" pgbench -i -s "${FENCE_SCALE:-10}" -q bench > "$work/pgbench.out" 2>&1 ||
			die "pgbench: $(cat "$work/pgbench.out")"
		for what in accounts branches tellers history; do
			query "ALTER TABLE bench_$table.pgbench_$what ADD COLUMN tenant_id text NOT NULL DEFAULT 'tenant 1'"
			[ $table = open ] || query "SELECT tenantmig.fence_tenants('bench_fenced.pgbench_$what')" > /dev/null
		done
		pgbench --show-script=tpcb-like 2>&1 | grep -v '^--' | sed "s/pgbench_/bench_$table.&/" > "$work/transaction_$table.sql"
	done
	for commit in on off; do
		figure "the transaction of pgbench with fences on its four tables, against without, synchronous_commit $commit" \
			"$(fence_ratio $commit transaction)" "at most 1.05"
	done
	# TRUNCATE is refused while a tenant is suspended
	query "SELECT tenantmig.reactivate_tenant('tenant 500')" > /dev/null
	for _ in $(seq "${FENCE_REPEAT:-7}"); do
		for table in fenced open; do
			query "TRUNCATE $table"
			printf '%s\t%s\n' $table "$(timed "INSERT INTO $table SELECT g, 1, 0, '', 'tenant 1' FROM generate_series(1, $rows) g")"
		done
	done > "$work/fence"
	figure "$rows rows of one tenant in one statement, with a fence against without" \
		"$(ratio "$(median "$work/fence" fenced 2)" "$(median "$work/fence" open 2)")"
}

# fence_ratio COMMIT WHAT: what a transaction takes with a fence, against without.
# In each turn one session does both, in random order, so that they see the same
# machine. Median of turns.
fence_ratio()
{
	local _
	for _ in $(seq "${FENCE_REPEAT:-7}"); do
		PGOPTIONS="-c synchronous_commit=$1" pgbench -n -M prepared -s "${FENCE_SCALE:-10}" -T "$((2 * RLS_SECONDS))" \
			-f "$work/$2_open.sql" -f "$work/$2_fenced.sql" bench 2> /dev/null |
			awk '/^ - latency average = / { ms[++n] = $5 } END { if (n != 2) exit 1; printf "fence\t%.3f\n", ms[2] / ms[1] }'
	done > "$work/fence"
	calc "$(median "$work/fence" fence 2)"
}
