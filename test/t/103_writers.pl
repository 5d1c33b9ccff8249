# An application that writes to the table all the while: in an order that
# deadlocks with ours, ahead of the cursor and behind it, and on rows that it
# keeps locked.  It must notice nothing, and lose nothing.
use strict;
use warnings FATAL => 'all';

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TenantMig;

my $node = new_node('writers', conf => "max_connections = 50\n");

# A run of pgbench in the background, until it is stopped: its errors are what
# this is about, so none is tolerated, and each statement is timed
my $serial = 0;

sub start_writers
{
	my ($clients, $script) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my %writers = (out => '', dir => $dir, err => '');

	append_to_file("$dir/script", $script);
	$writers{run} = IPC::Run::start(
		[
			$node->installed_command('pgbench'), '-n', '-c', $clients, '-j', '2',
			'-T', '3600', '-l', '--log-prefix', "$dir/log", '-f', "$dir/script",
			$node->connstr('postgres')
		],
		'>', \$writers{out}, '2>', \$writers{err});
	return \%writers;
}

# Ends them in the middle of what they do; returns how many transactions were
# logged until then (the last ones may not have been), and the longest in ms
sub stop_writers
{
	my ($writers, $name) = @_;
	my ($count, $longest) = (0, 0);

	$writers->{run}->signal('INT');
	eval { $writers->{run}->finish; };
	# what was under way ends by itself
	wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'},
		"$name: writers have gone");
	unlike($writers->{err}, qr/ERROR|aborted|error/, "$name: no writer saw an error");
	foreach my $file (glob("$writers->{dir}/log.*"))
	{
		foreach my $line (split /\n/, slurp_file($file))
		{
			my @field = split / /, $line;

			# the last line may be cut
			next if @field < 6;
			$count++;
			$longest = $field[2] / 1000 if $field[2] / 1000 > $longest;
		}
	}
	return ($count, $longest);
}

sub errors_in_log
{
	my ($offset) = @_;
	my $log = slurp_file($node->logfile, $offset);
	my @lines = grep { !/connection to client lost/ } $log =~ /^.*client backend.*(?:ERROR|FATAL):.*$/mg;

	return join("\n", @lines);
}

#
# Deadlocks: several rows in a transaction, from the end to the beginning, with
# a deadlock detector that is quicker than usual, and with the usual one
#
foreach my $deadlock_timeout ('10ms', '1s')
{
	my ($offset, $writers, $job, $before, $count, $longest);
	my $name = "deadlock_timeout $deadlock_timeout";

	$node->append_conf('postgresql.conf', "deadlock_timeout = $deadlock_timeout\n");
	$node->reload;
	$node->safe_psql('postgres', 'DROP TABLE IF EXISTS orders');
	make_table($node, 'orders', rows => 20000);
	$before = $node->safe_psql('postgres', q{SELECT count(*), sum(hashtextextended(id || body || customer, 0)) FROM orders});
	$offset = -s $node->logfile;
	# neighbours on the page, in descending order: each pair of transactions
	# of pgbench locks in the same order, so that only ours is the other way
	$writers = start_writers(4, q{
\set block random(1, 330)
BEGIN;
UPDATE orders SET touched = touched + 1 WHERE id = :block * 60;
UPDATE orders SET touched = touched + 1 WHERE id = :block * 60 - 20;
UPDATE orders SET touched = touched + 1 WHERE id = :block * 60 - 40;
UPDATE orders SET touched = touched + 1 WHERE id = :block * 60 - 59;
COMMIT;
});
	wait_until($node, 'SELECT sum(touched) > 40 FROM orders', "$name: writers are at work");
	$job = submit($node, q(tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges", "batch_target": "20ms"}')));
	wait_job_state($node, $job, 'succeeded');
	($count, $longest) = stop_writers($writers, $name);
	is(errors_in_log($offset), '', "$name: no deadlock but ours");
	is(job_field($node, $job, 'attempts'), '1', "$name: only batches were done again");
	is(wrong_tenants($node, 'orders', q('acme')), 0, "$name: all rows are filled");
	is($node->safe_psql('postgres', q{SELECT count(*), sum(hashtextextended(id || body || customer, 0)) FROM orders}),
		$before, "$name: no row is lost or changed");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM orders WHERE touched < 0'), '0', "$name: no update is undone");
	cmp_ok($node->safe_psql('postgres', 'SELECT sum(touched) FROM orders'), '>=', 4 * $count - 16,
		"$name: and none is lost");
	note("$name: $count transactions, longest $longest ms");
	assert_clean($node);
}

#
# Ahead of the cursor and behind it.  Each write is done to a twin of the table
# as well, in the same transaction: what the twin has in the end is what the
# table must have.
#
sub make_twins
{
	my ($key) = @_;

	$node->safe_psql('postgres', qq{
		DROP TABLE IF EXISTS orders, twin; DROP SEQUENCE IF EXISTS fresh;
		CREATE SEQUENCE fresh START 10000000;
		CREATE TABLE orders (id bigint $key, body text NOT NULL, n int NOT NULL, tenant_id text)
			WITH (autovacuum_vacuum_scale_factor = 0.05);
		-- sparse keys, with holes of a million
		INSERT INTO orders (id, body, n)
			SELECT g * 37 + (g / 5000) * 1000000, repeat(md5(g::text), 2), 0 FROM generate_series(1, 20000) g;
		CREATE INDEX orders_id ON orders (id);
		CREATE TABLE twin (LIKE orders INCLUDING INDEXES);
		INSERT INTO twin SELECT * FROM orders});
}

my $everything = q{
\set k random(1, 20000)
\set key :k * 37 + (:k / 5000) * 1000000
\set l random(1, 20000)
\set other :l * 37 + (:l / 5000) * 1000000
\set width random(1, 40)
BEGIN;
SELECT pg_advisory_xact_lock(least(:key, :other)), pg_advisory_xact_lock(greatest(:key, :other));
SELECT nextval('fresh') AS new \gset
INSERT INTO orders (id, body, n) VALUES (:new, 'new', 1);
INSERT INTO twin (id, body, n) VALUES (:new, 'new', 1);
UPDATE orders SET body = repeat('moved', :width), n = n + 1 WHERE id = :key;
UPDATE twin SET body = repeat('moved', :width), n = n + 1 WHERE id = :key;
DELETE FROM orders WHERE id = :other AND :width = 7;
DELETE FROM twin WHERE id = :other AND :width = 7;
UPDATE orders SET id = -:new WHERE id = :other AND :width = 9;
UPDATE twin SET id = -:new WHERE id = :other AND :width = 9;
SELECT count(*) FROM orders WHERE id = :key;
COMMIT;
};

$node->append_conf('postgresql.conf', "deadlock_timeout = 1s\n");
$node->reload;
foreach my $key ('PRIMARY KEY', '')
{
	my $name = $key eq '' ? 'no primary key' : 'sparse keys';
	my $offset = -s $node->logfile;
	my ($writers, $job, $count, $longest, $writes, $newest);

	make_twins($key);
	$writers = start_writers(4, $everything);
	wait_until($node, 'SELECT sum(n) > 50 FROM orders', "$name: writers are at work");
	$writes = number($node, 'SELECT sum(n) FROM orders');
	$newest = number($node, 'SELECT last_value FROM fresh');
	$job = submit($node, q(tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges", "batch_target": "5ms", "nice": 1}')));
	wait_job_state($node, $job, 'succeeded');
	$writes = number($node, 'SELECT sum(n) FROM orders') - $writes;
	($count, $longest) = stop_writers($writers, $name);
	is(errors_in_log($offset), '', "$name: nor does the log show one");
	# rows that came after the job are the application's affair
	is( $node->safe_psql('postgres', qq{
			SELECT count(*) FROM orders WHERE tenant_id IS DISTINCT FROM 'acme' AND id <= $newest}),
		'0', "$name: all rows that were there, and wherever they went, are filled");
	is(digest($node, 'orders'), digest($node, 'twin'), "$name: the rows are those of the twin");
	cmp_ok($writes, '>', 10, "$name: writers were at work all the while");
	cmp_ok($longest, '<', 5000, "$name: none of them waited long");
	note("$name: $count transactions, longest $longest ms, rows done "
		  . job_field($node, $job, 'rows_done'));
	assert_clean($node);
}

# With the trigger kept, not one row is without a tenant at the end
make_twins('PRIMARY KEY');
my $writers = start_writers(4, $everything);
wait_until($node, 'SELECT sum(n) > 50 FROM orders', 'writers are at work');
my $job = submit($node,
	q(tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges", "batch_target": "5ms", "keep_trigger": true}')));
wait_job_state($node, $job, 'succeeded');
stop_writers($writers, 'keep_trigger');
is(wrong_tenants($node, 'orders', q('acme')), 0, 'keep_trigger: all rows have their tenant, whenever they came');
is(digest($node, 'orders'), digest($node, 'twin'), 'keep_trigger: the rows are those of the twin');
assert_clean($node);

#
# A row that somebody keeps locked from beginning to end
#
make_twins('PRIMARY KEY');
my ($holder, $holder_pid) = new_session($node);
my $held = $node->safe_psql('postgres', 'SELECT id FROM orders ORDER BY ctid LIMIT 1 OFFSET 10000');
foreach my $lock ('FOR UPDATE', 'FOR KEY SHARE')
{
	$node->safe_psql('postgres', 'UPDATE orders SET tenant_id = NULL');
	$holder->query_safe('BEGIN');
	$holder->query_safe("SELECT id FROM orders WHERE id = $held $lock");
	$job = submit($node, q(tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges", "batch_target": "5ms"}')));
	if ($lock eq 'FOR KEY SHARE')
	{
		# what a foreign key takes is in nobody's way, until the trigger is to go
		wait_until($node, q{SELECT count(*) = 0 FROM orders WHERE tenant_id IS NULL},
			"$lock: all rows are filled beside it");
	}
	else
	{
		wait_until($node, q{SELECT count(*) = 1 FROM orders WHERE tenant_id IS NULL},
			"$lock: all rows but the locked one are filled");
		wait_until($node, qq{SELECT throttle_reason LIKE '%$holder_pid%' OR blocker_pid = $holder_pid
			FROM tenantmig.stat_progress WHERE job = $job}, "$lock: the job says whom it waits for");
		is(job_state($node, $job), 'running', "$lock: it does not say that it is done");
	}
	is($holder->query_safe('SELECT 1'), '1', "$lock: the holder is alive");
	$holder->query_safe('COMMIT');
	wait_job_state($node, $job, 'succeeded');
	is(wrong_tenants($node, 'orders', q('acme')), 0, "$lock: all rows are filled once it lets go");
	is(job_field($node, $job, 'attempts'), '1', "$lock: in one go");
	is(digest($node, 'orders'), digest($node, 'twin'), "$lock: the rows are otherwise as they were");
	assert_clean($node);
}
# the row is changed by who held it, and deleted by who held it
foreach my $change ('UPDATE orders SET n = n + 1 WHERE id = %s', 'DELETE FROM orders WHERE id = %s')
{
	my $sql = sprintf($change, $held);

	$node->safe_psql('postgres', 'UPDATE orders SET tenant_id = NULL');
	$holder->query_safe('BEGIN');
	$holder->query_safe("SELECT id FROM orders WHERE id = $held FOR UPDATE");
	$job = submit($node, q(tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges"}')));
	wait_until($node, q{SELECT count(*) = 1 FROM orders WHERE tenant_id IS NULL}, 'one row is locked');
	$holder->query_safe($sql);
	$holder->query_safe('COMMIT');
	(my $twin_sql = $sql) =~ s/orders/twin/;
	$node->safe_psql('postgres', $twin_sql);
	wait_job_state($node, $job, 'succeeded');
	is(wrong_tenants($node, 'orders', q('acme')), 0, "$sql: all rows are filled");
	is(digest($node, 'orders'), digest($node, 'twin'), "$sql: its change is there");
}
$holder->quit;
assert_clean($node);

assert_no_crash($node);
$node->stop;
done_testing();
