# set_primary_key interrupted at every place: at each of them, and at every end,
# the application has a valid primary key and valid foreign keys. And what
# others do meanwhile: definitions that change, readers and writers that stay.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use TenantMig;

my $lock_timeout = 300;			# ms, tenantmig.lock_timeout
my $slack = 2000;				# what a busy machine may add

my $node = new_node(
	'keys_faults',
	preload => 1,
	stop_points => 1,
	conf => "tenantmig.lock_timeout = ${lock_timeout}ms\n");

my $tables = q{
	CREATE TABLE orders (id int CONSTRAINT orders_pkey PRIMARY KEY, tenant_id text NOT NULL, note text);
	CREATE TABLE items (id int PRIMARY KEY, tenant_id text NOT NULL, order_id int NOT NULL REFERENCES orders ON DELETE CASCADE);
	CREATE TABLE parts (id int, tenant_id text NOT NULL, order_id int REFERENCES orders) PARTITION BY RANGE (id);
	CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000);
	CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (1000) TO (9000);
	ALTER TABLE orders ADD parent int REFERENCES orders;
	INSERT INTO orders SELECT i, 't' || i % 2, 'x', i FROM generate_series(1, 2000) i;
	INSERT INTO items SELECT i, 't' || i % 2, i FROM generate_series(1, 2000) i;
	INSERT INTO parts SELECT i, 't' || i % 2, i FROM generate_series(1, 2000) i;
};
my $call = q(tenantmig.set_primary_key('orders', '{tenant_id,id}'));
$node->safe_psql('postgres', $tables);

# The definitions, without what is there for the time of a job: from the columns
# of the catalog, which are read as of one moment.  pg_get_constraintdef() takes
# a snapshot for each row, and would see the half of a swap that commits meanwhile.
my $definitions = q{
	SELECT string_agg(concat_ws(' ', conrelid::regclass, conname, contype, conkey, NULLIF(confrelid, 0)::regclass, confkey,
			confmatchtype, confupdtype, confdeltype, confdelsetcols, condeferrable, condeferred, convalidated),
		E'\n' ORDER BY conrelid::regclass::text, conname)
	FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'f', 'u') AND conname NOT LIKE '%tenantmig%'};
my $before = $node->safe_psql('postgres', $definitions);
my $after;

# At this very moment: one valid primary key, and from each referencing table a
# foreign key that is valid; and they do what they say
sub keys_are_valid
{
	my ($name) = @_;
	my $now;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is( $node->safe_psql('postgres', q{
			SELECT (SELECT count(*) FROM pg_constraint JOIN pg_index ON indexrelid = conindid
				WHERE conrelid = 'orders'::regclass AND contype = 'p' AND indisvalid AND indisready AND indisprimary),
			(SELECT string_agg(DISTINCT conrelid::regclass::text, ' ') FROM pg_constraint
				WHERE contype = 'f' AND confrelid = 'orders'::regclass AND convalidated AND conparentid = 0 AND conname NOT LIKE '%tenantmig%')}),
		'1|items orders parts', "$name: a valid primary key, and valid foreign keys");
	$now = $node->safe_psql('postgres', $definitions);
	ok($now eq $before || (defined $after && $now eq $after) || !defined $after,
		"$name: all of the old ones or all of the new ones")
	  or diag($now);
	is(sql_error($node, q{INSERT INTO items VALUES (9001, 't0', 9001)})->{sqlstate}, '23503',
		"$name: a row must point at one that is there");
	is(sql_error($node, q{INSERT INTO orders VALUES (1, 't1')})->{sqlstate}, '23505',
		"$name: a key is there once");
}

sub definitions_are
{
	my ($expected, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql('postgres', $definitions), $expected, $name);
	assert_clean($node);
}

sub undo_all
{
	my ($job) = @_;
	my $undo = submit($node, "tenantmig.undo($job)");

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_job_state($node, $undo, 'succeeded');
	definitions_are($before, 'undone');
}

# once without interruption
my $job = submit($node, $call);
wait_job_state($node, $job, 'succeeded');
$after = $node->safe_psql('postgres', $definitions);
like($after, qr/items items_order_id_fkey f \{2,3\} orders \{2,1\} /, 'the keys are changed');
undo_all($job);

#
# The server stops at every place, forth and back
#
my @points = ('job-start', 'toplevel-before', 'toplevel-after', 'key-index-built', 'key-foreign-key-added',
	'key-foreign-key-validated', 'key-before-swap', 'key-swapped', 'job-end');

sub crash_at
{
	my ($point, $what) = @_;
	my $id;

	stop_at($node, "$point:wait");
	$id = submit($node, $what);
	wait_at($node, $id, $point);
	keys_are_valid("at $point");
	$node->stop('immediate');
	stop_at($node, '');
	$node->start;
	return $id;
}

foreach my $point (@points)
{
	my $undo;

	$job = crash_at($point, $call);
	keys_are_valid("after a crash at $point");
	wait_job_state($node, $job, 'succeeded');
	definitions_are($after, "$point: it went on");
	$undo = crash_at($point, "tenantmig.undo($job)");
	keys_are_valid("after a crash at $point of undo");
	wait_job_state($node, $undo, 'succeeded');
	definitions_are($before, "$point: the undo went on");
}

#
# kill -9, errors, cancel and pause at every place
#
sub kills { return scalar(() = slurp_file($node->logfile) =~ /terminated by signal 9/g) }

foreach my $point (grep { !/^job-/ } @points)
{
	my $kills = kills();

	stop_at($node, "$point:crash");
	$job = submit($node, $call);
	ok(poll_for(180, sub { kills() > $kills }), "$point: the worker was killed");
	stop_at($node, '');
	wait_until($node, 'SELECT NOT pg_is_in_recovery()', "$point: the server is up again");
	wait_job_state($node, $job, 'succeeded');
	definitions_are($after, "$point: it went on after kill -9");
	undo_all($job);

	stop_at($node, "$point:wait");
	$job = submit($node, $call);
	wait_at($node, $job, $point);
	$node->safe_psql('postgres', "SELECT tenantmig.pause($job)");
	wait_job_state($node, $job, 'paused');
	keys_are_valid("paused at $point");
	stop_at($node, '');
	$node->safe_psql('postgres', "SELECT tenantmig.cancel($job)");
	wait_job_state($node, $job, 'cancelled');
	definitions_are($point eq 'key-swapped' ? $after : $before, "$point: cancelled, and nothing is half made");
	$node->safe_psql('postgres', "SELECT tenantmig.retry($job)");
	wait_job_state($node, $job, 'succeeded');
	definitions_are($after, "$point: tried again");
	undo_all($job);
}

# an error fails it, and what was there is there
foreach my $point ('key-index-built', 'key-foreign-key-added', 'key-foreign-key-validated', 'key-before-swap')
{
	stop_at($node, "$point:error");
	$job = submit($node, $call);
	wait_job_state($node, $job, 'failed');
	stop_at($node, '');
	definitions_are($before, "$point: failed, and nothing is left");
	undo_all($job);
}

#
# A concurrent build that waits, and is cancelled; a row that slips in
#
my ($writer, $writer_pid) = new_session($node);
$writer->query_safe('BEGIN; UPDATE orders SET note = note WHERE id = 77');
$job = submit($node, $call);
wait_until($node, "SELECT blocker_pid = $writer_pid FROM tenantmig.stat_progress WHERE job = $job",
	'the build waits for a writer, and says so');
$node->safe_psql('postgres', "SELECT pg_cancel_backend(tenantmig.job_pid($job))");
wait_job_state($node, $job, 'paused');
keys_are_valid('a build was cancelled');
$writer->query_safe('COMMIT');
$node->safe_psql('postgres', "SELECT tenantmig.resume($job)");
wait_job_state($node, $job, 'succeeded');
definitions_are($after, 'it builds anew');
undo_all($job);

stop_at($node, 'key-index-built:wait');
$job = submit($node, $call);
wait_at($node, $job, 'key-index-built');
$node->safe_psql('postgres', q{INSERT INTO items VALUES (5001, 't0', 1)});
release($node);
wait_job_state($node, $job, 'failed');
is(job_field($node, $job, 'sqlstate'), '23503', 'a row that slipped in fails the validation');
like(job_field($node, $job, 'error_detail'), qr/"id": 5001/, 'and is named');
is(number($node, "SELECT count(*) FROM tenantmig.job_errors WHERE job = $job AND key ->> 'id' = '5001'"), 1, 'and listed');
definitions_are($before, 'all is as it was');
$node->safe_psql('postgres', 'DELETE FROM items WHERE id = 5001');

# from then on none does
stop_at($node, 'key-foreign-key-validated:wait');
$job = submit($node, $call);
wait_at($node, $job, 'key-foreign-key-validated');
is(sql_error($node, q{INSERT INTO items VALUES (5001, 't0', 1)})->{sqlstate}, '23503', 'both foreign keys hold until the swap');
release($node);
wait_job_state($node, $job, 'succeeded');
undo_all($job);

#
# Definitions that change between the steps
#
my $dump = $node->safe_psql('postgres', $definitions);
my @changes = (
	[ 'a foreign key to the old key', 'CREATE TABLE late (id int, order_id int REFERENCES orders)', 'DROP TABLE late', '55000' ],
	[ 'the old foreign key dropped', 'ALTER TABLE items DROP CONSTRAINT items_order_id_fkey',
		'ALTER TABLE items ADD FOREIGN KEY (order_id) REFERENCES orders ON DELETE CASCADE', '55000' ],
	[ 'our index dropped', undef, undef, '55000' ],
	[ 'a partition added', 'CREATE TABLE parts_3 PARTITION OF parts FOR VALUES FROM (9000) TO (9100)', 'DROP TABLE parts_3', '55000' ],
	[ 'the tables renamed', 'ALTER TABLE items RENAME TO things; ALTER TABLE orders RENAME TO sales; CREATE TABLE orders (id int)',
		'DROP TABLE orders; ALTER TABLE things RENAME TO items; ALTER TABLE sales RENAME TO orders', '' ],
	[ 'a column renamed', 'ALTER TABLE items RENAME order_id TO sale_id', 'ALTER TABLE items RENAME sale_id TO order_id', '' ],
	[ 'the constraint renamed', 'ALTER TABLE orders RENAME CONSTRAINT orders_pkey TO sales_pkey', 'ALTER TABLE orders RENAME CONSTRAINT sales_pkey TO orders_pkey', '55000' ],
);
foreach my $change (@changes)
{
	my ($name, $do, $undo, $sqlstate) = @$change;

	stop_at($node, 'key-before-swap:wait');
	$job = submit($node, $call);
	wait_at($node, $job, 'key-before-swap');
	$do //= "ALTER TABLE items DROP CONSTRAINT tenantmig_${job}_items_order_id_fkey";
	$node->safe_psql('postgres', $do);
	release($node);
	wait_job_state($node, $job, 'succeeded|failed');
	is(job_field($node, $job, 'sqlstate'), $sqlstate, "$name: " . ($sqlstate ? 'fails' : 'goes on'));
	assert_clean($node);
	if ($sqlstate ne '')
	{
		$node->safe_psql('postgres', $undo) if $undo;
		definitions_are($before, "$name: all is as it was");
	}
	else
	{
		my $back = submit($node, "tenantmig.undo($job)");

		wait_job_state($node, $back, 'succeeded');
		$node->safe_psql('postgres', $undo);
		definitions_are($before, "$name: all is as it was after undo");
	}
}

# the referencing table, or the table itself, dropped
stop_at($node, 'key-before-swap:wait');
$job = submit($node, $call);
wait_at($node, $job, 'key-before-swap');
$node->safe_psql('postgres', 'DROP TABLE orders CASCADE');
release($node);
wait_job_state($node, $job, 'failed');
like(job_field($node, $job, 'sqlstate'), qr/^(42P01|55000)$/, 'the table was dropped: the job fails');
assert_clean($node);
$node->safe_psql('postgres', 'DROP TABLE items, parts');
$node->safe_psql('postgres', $tables);
is($node->safe_psql('postgres', $definitions), $before, 'made again');

#
# The lock queue: a long reader or writer, then ours, then short statements
#
my ($long, $long_pid) = new_session($node);
my ($short) = new_session($node);

sub queue_behind
{
	my ($name, $held, $passing, $what) = @_;
	my $longest = 0;
	my $count = 0;
	my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;
	my $id;

	$what //= $call;
	stop_at($node, 'key-before-swap:wait') if $name =~ /swap/;
	$id = submit($node, $what) if $name =~ /swap/;
	wait_at($node, $id, 'key-before-swap') if $name =~ /swap/;
	$long->query_safe('BEGIN');
	$long->query_safe($held);
	release($node);
	$id //= submit($node, $what);
	while (time() < $deadline)
	{
		my $start = time();

		$short->query_safe($passing);
		$longest = (time() - $start) * 1000 if (time() - $start) * 1000 > $longest;
		last if ++$count >= 50 && $node->safe_psql('postgres', qq{
			SELECT throttle_reason LIKE '%rocess $long_pid %' OR blocker_pid = $long_pid
			FROM tenantmig.stat_progress WHERE job = $id}) eq 't';
	}
	is(job_state($node, $id), 'running', "$name: it waits");
	$long->query_safe('COMMIT');
	wait_job_state($node, $id, 'succeeded');
	cmp_ok($longest, '<', $lock_timeout + $slack, "$name: nobody waited long behind it");
	note("$name: longest $longest ms");
	assert_clean($node);
	return $id;
}

my $read = 'SELECT count(*) FROM orders WHERE id < 10';
my $write = 'UPDATE items SET order_id = order_id WHERE id = 5';

undo_all(queue_behind('swap behind a reader of the table', $read, $read));
undo_all(queue_behind('swap behind a reader of a referencing one', 'SELECT count(*) FROM items', 'SELECT count(*) FROM items WHERE id < 9'));
$job = queue_behind('swap behind a writer of a partition', 'UPDATE parts_1 SET id = id WHERE id = 1', $write);
undo_all($job);
$job = submit($node, $call);
wait_job_state($node, $job, 'succeeded');
# nothing was written there, so only the lock is waited for
$job = queue_behind('swap of undo behind a reader', $read, $read, "tenantmig.undo($job)");
definitions_are($before, 'undone');

# A session of the application that comes the other way round is never the one
# to get a deadlock: ours gives way
foreach my $order ([ 'items', 'orders' ], [ 'orders', 'items' ])
{
	my ($first, $second) = @$order;
	my ($app, $app_pid) = new_session($node);

	stop_at($node, 'key-before-swap:wait');
	$job = submit($node, $call);
	wait_at($node, $job, 'key-before-swap');
	$app->query_safe('BEGIN');
	$app->query_safe("LOCK TABLE $first IN ROW EXCLUSIVE MODE");
	release($node);
	wait_until($node, qq{SELECT throttle_reason LIKE '%rocess $app_pid %' OR blocker_pid = $app_pid
		FROM tenantmig.stat_progress WHERE job = $job}, "the swap waits for a session that has $first");
	$app->query_safe("LOCK TABLE $second IN ROW EXCLUSIVE MODE");
	$app->query_safe("UPDATE $second SET tenant_id = tenant_id WHERE id = 7");
	$app->query_safe('COMMIT');
	pass("which gets $second too");
	wait_job_state($node, $job, 'succeeded');
	undo_all($job);
	$app->quit;
}
unlike(slurp_file($node->logfile), qr/deadlock detected/, 'there was no deadlock');

# An autovacuum that would take for ever gives way, though no lock is waited for
# until the server would tell it to
$node->safe_psql('postgres', q{
	ALTER SYSTEM SET autovacuum_naptime = '1s';
	ALTER TABLE items SET (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1,
		autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
	UPDATE items SET tenant_id = tenant_id});
stop_at($node, 'key-before-swap:wait');
$job = submit($node, $call);
wait_at($node, $job, 'key-before-swap');
$node->safe_psql('postgres', 'UPDATE items SET tenant_id = tenant_id');
wait_until($node, q{SELECT count(*) > 0 FROM pg_stat_progress_vacuum v JOIN pg_stat_activity a USING (pid)
	WHERE relid = 'items'::regclass AND backend_type = 'autovacuum worker'}, 'an autovacuum is at work');
release($node);
wait_job_state($node, $job, 'succeeded');
like(slurp_file($node->logfile), qr/canceling autovacuum task/, 'it gave way');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET autovacuum_naptime;
	ALTER TABLE items RESET (autovacuum_vacuum_cost_delay, autovacuum_vacuum_cost_limit,
		autovacuum_vacuum_threshold, autovacuum_vacuum_scale_factor)');
$node->reload;
undo_all($job);

$_->quit foreach ($writer, $long, $short);

#
# add_foreign_key, of an ordinary and of a partitioned table
#
$node->safe_psql('postgres', q{
	ALTER TABLE orders ADD UNIQUE (tenant_id, id);
	CREATE TABLE lines (id int PRIMARY KEY, tenant_id text NOT NULL, order_id int NOT NULL);
	CREATE TABLE leaves (LIKE lines) PARTITION BY RANGE (id);
	CREATE TABLE leaves_1 PARTITION OF leaves FOR VALUES FROM (0) TO (1000);
	CREATE TABLE leaves_2 PARTITION OF leaves FOR VALUES FROM (1000) TO (9000);
	INSERT INTO lines SELECT i, 't' || i % 2, i FROM generate_series(1, 2000) i;
	INSERT INTO leaves SELECT * FROM lines});
$before = $node->safe_psql('postgres', $definitions);
foreach my $table ('lines', 'leaves')
{
	my $add = "tenantmig.add_foreign_key('$table', '{tenant_id,order_id}', 'orders', '{tenant_id,id}', '${table}_fk', 'CASCADE')";
	my $is = "SELECT count(*) FILTER (WHERE convalidated) || ' of ' || count(*) FROM pg_constraint WHERE conname = '${table}_fk' AND contype = 'f'";
	my $wanted = $table eq 'lines' ? '1 of 1' : '3 of 3';

	foreach my $point ('key-foreign-key-added', 'key-foreign-key-validated', 'foreign-key-valid', 'job-end')
	{
		stop_at($node, "$point:wait");
		$job = submit($node, $add);
		wait_at($node, $job, $point);
		$node->stop('immediate');
		stop_at($node, '');
		$node->start;
		wait_job_state($node, $job, 'succeeded');
		is($node->safe_psql('postgres', $is), $wanted, "$table: it went on after a crash at $point");
		assert_clean($node);
		undo_all($job);

		stop_at($node, "$point:wait");
		$job = submit($node, $add);
		wait_at($node, $job, $point);
		$node->safe_psql('postgres', "SELECT tenantmig.cancel($job)");
		wait_job_state($node, $job, 'cancelled');
		stop_at($node, '');
		is($node->safe_psql('postgres', $is), $point =~ /^key/ ? '0 of 0' : $wanted,
			"$table: cancelled at $point, and nothing is half made");
		assert_clean($node);
		undo_all($job);
	}
	stop_at($node, 'key-foreign-key-added:error');
	$job = submit($node, $add);
	wait_job_state($node, $job, 'failed');
	stop_at($node, '');
	definitions_are($before, "$table: failed, and nothing is left");
	undo_all($job);
}

$node->stop;
done_testing();
