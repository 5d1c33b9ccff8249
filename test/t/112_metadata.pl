# A value given by metadata only, beside an application: whoever writes another
# value at whatever moment keeps it, nobody waits long, and it is all or nothing.
use strict;
use warnings FATAL => 'all';

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use TenantMig;

my $lock_timeout = 300;			# ms, tenantmig.lock_timeout
my $slack = 2000;				# what a busy machine may add

my $node = new_node(
	'metadata',
	preload => 1,
	stop_points => 1,
	conf => "tenantmig.lock_timeout = ${lock_timeout}ms\nautovacuum = off\n");

my $insist = q(tenantmig.backfill('orders', value => 'acme', options => '{"method": "metadata"}'));
my $auto = q(tenantmig.backfill('orders', value => 'acme'));

sub fresh_orders
{
	$node->safe_psql('postgres', 'DROP TABLE IF EXISTS orders CASCADE');
	make_table($node, 'orders', rows => $_[0] // 8000);
	# so that it is the visibility map that tells of what is written later
	$node->safe_psql('postgres', 'VACUUM orders');
}

sub summary
{
	my ($job, $key) = @_;

	return $node->safe_psql('postgres', "SELECT summary ->> '$key' FROM tenantmig.job WHERE id = $job");
}

sub tenants
{
	return $node->safe_psql('postgres',
		q{SELECT coalesce(tenant_id, '-') || ' ' || count(*) FROM orders GROUP BY tenant_id ORDER BY 1});
}

# Rows are where they were: none was written
sub places
{
	return $node->safe_psql('postgres',
		q{SELECT count(*) || ' ' || sum(hashtextextended(format('%s %s %s', ctid, xmin, id), 0)) FROM orders});
}

sub waits_exclusively
{
	return $node->safe_psql('postgres', q{SELECT count(*) FROM pg_locks
		WHERE relation = 'orders'::regclass AND mode = 'AccessExclusiveLock' AND NOT granted}) > 0;
}

#
# Another value that comes between the reading and the lock
#
my @late = (
	[ 'an update', q(UPDATE orders SET tenant_id = 'late' WHERE id = 4000) ],
	[ 'an insert', q(INSERT INTO orders (id, customer, body, tenant_id) VALUES (-1, 1, 'x', 'late')) ],
	[ 'an update in a subtransaction', q(SAVEPOINT s; UPDATE orders SET tenant_id = 'late' WHERE id = 7999; RELEASE s) ]);

foreach my $late (@late)
{
	foreach my $open (0, 1)
	{
		my ($what, $sql) = @$late;
		my $name = "$what, " . ($open ? 'not committed yet' : 'committed');
		my ($places, $job);
		my $session = background($node);

		fresh_orders();
		stop_at($node, 'metadata-read:wait');
		$job = submit($node, $insist);
		wait_at($node, $job, 'metadata-read');
		$session->query_safe('BEGIN');
		$session->query_safe($sql);
		$session->query_safe('COMMIT') unless $open;
		# nobody may say meanwhile that the page is all-visible
		$node->safe_psql('postgres', 'SET client_min_messages = error; VACUUM (SKIP_LOCKED) orders');
		release($node);
		if ($open)
		{
			ok(poll_for(60, \&waits_exclusively), "$name: it is waited for");
			$session->query_safe('COMMIT');
		}
		wait_job_state($node, $job, 'failed');
		is(job_field($node, $job, 'sqlstate'), '55000', "$name: refused");
		like(job_field($node, $job, 'error_detail'), qr/1 row of public.orders has another value, as \{"id"/,
			"$name: with the row");
		is($node->safe_psql('postgres', q{SELECT string_agg(tenant_id, ',') FROM orders}), 'late',
			"$name: nothing is lost, and nothing else was done");
		$session->quit;
		assert_clean($node);
	}
}

# the same, not insisting: by rows then
fresh_orders();
stop_at($node, 'metadata-read:wait');
my $job = submit($node, $auto);
wait_at($node, $job, 'metadata-read');
$node->safe_psql('postgres', q(UPDATE orders SET tenant_id = 'late' WHERE id % 1000 = 0));
release($node);
wait_job_state($node, $job, 'succeeded');
is(tenants(), "acme 7992\nlate 8", 'auto goes on by rows');
is(summary($job, 'method'), 'pages', 'and says so');
like(summary($job, 'metadata'), qr/^not chosen: 8 rows of public.orders have another value/, 'and why');
assert_clean($node);

# what comes without a value, or is only touched, is no reason
fresh_orders();
my $places;
stop_at($node, 'metadata-read:wait');
$job = submit($node, $insist);
wait_at($node, $job, 'metadata-read');
$node->safe_psql('postgres', q{
	INSERT INTO orders (id, customer, body) SELECT -g, 1, 'x' FROM generate_series(1, 500) g;
	UPDATE orders SET touched = 1 WHERE id % 10 = 0;
	UPDATE orders SET tenant_id = 'acme' WHERE id % 100 = 1;
	DELETE FROM orders WHERE id % 10 = 5});
$places = places();
release($node);
wait_job_state($node, $job, 'succeeded');
is(tenants(), 'acme 7700', 'rows that came or were touched meanwhile');
is(places(), $places, 'without being written');

#
# An application at work all the while, with a twin of the table
#
sub start_writers
{
	my ($script) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my %writers = (out => '', err => '');

	append_to_file("$dir/script", $script);
	$writers{run} = IPC::Run::start(
		[
			$node->installed_command('pgbench'), '-n', '-c', '3', '-T', '3600',
			'-f', "$dir/script", $node->connstr('postgres')
		],
		'>', \$writers{out}, '2>', \$writers{err});
	return \%writers;
}

sub stop_writers
{
	my ($writers, $name) = @_;

	$writers->{run}->signal('INT');
	eval { $writers->{run}->finish; };
	wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'},
		"$name: writers have gone");
	unlike($writers->{err}, qr/ERROR|aborted|error/, "$name: no writer saw an error");
}

sub with_writers
{
	my ($name, $tenant, $column, $method) = @_;
	my ($writers, $job);

	fresh_orders();
	$node->safe_psql('postgres', q{DROP TABLE IF EXISTS twin; DROP SEQUENCE IF EXISTS fresh;
		CREATE SEQUENCE fresh START 1000000;
		CREATE TABLE twin (LIKE orders INCLUDING INDEXES);
		INSERT INTO twin SELECT * FROM orders});
	$writers = start_writers(qq{
\\set key random(1, 8000)
\\set other random(1, 8000)
BEGIN;
SELECT pg_advisory_xact_lock(least(:key, :other)), pg_advisory_xact_lock(greatest(:key, :other));
SELECT nextval('fresh') AS new \\gset
INSERT INTO orders (id, customer, body, touched$column) VALUES (:new, 1, 'new', 0$tenant);
INSERT INTO twin (id, customer, body, touched$column) VALUES (:new, 1, 'new', 0$tenant);
UPDATE orders SET touched = touched + 1 WHERE id = :key;
UPDATE twin SET touched = touched + 1 WHERE id = :key;
DELETE FROM orders WHERE id = :other AND :key % 10 = 1;
DELETE FROM twin WHERE id = :other AND :key % 10 = 1;
COMMIT;
}) unless $tenant;
	# not seen by the first count, when they have a tenant of their own
	stop_at($node, 'metadata-read:wait');
	$job = submit($node, qq(tenantmig.backfill('orders', value => 'acme', options => '{"method": "$method", "keep_trigger": true}')));
	wait_at($node, $job, 'metadata-read');
	$writers = start_writers(qq{
\\set key random(1, 8000)
BEGIN;
SELECT pg_advisory_xact_lock(:key);
SELECT nextval('fresh') AS new \\gset
INSERT INTO orders (id, customer, body, touched$column) VALUES (:new, 1, 'new', 0$tenant);
INSERT INTO twin (id, customer, body, touched$column) VALUES (:new, 1, 'new', 0$tenant);
UPDATE orders SET tenant_id = 'own' WHERE id = :key;
UPDATE twin SET tenant_id = 'own' WHERE id = :key;
COMMIT;
}) if $tenant;
	wait_until($node, q{SELECT last_value > 1000100 FROM fresh}, "$name: writers are at work");
	release($node);
	wait_job_state($node, $job, 'succeeded');
	wait_until($node, 'SELECT last_value > ' . $node->safe_psql('postgres', 'SELECT last_value + 100 FROM fresh') . ' FROM fresh',
		"$name: and after it");
	stop_writers($writers, $name);
	is( $node->safe_psql('postgres', q{SELECT count(*) FROM orders o FULL JOIN twin t USING (id, customer, body, touched)
			WHERE o.tenant_id IS DISTINCT FROM coalesce(t.tenant_id, 'acme') OR t.body IS NULL}),
		'0', "$name: each row has its own value or the one of the job");
	note("$name: lock held " . (summary($job, 'lock_held_ms') // '-') . ' ms');
	assert_clean($node);
	return $job;
}

$job = with_writers('without tenants', '', '', 'metadata');
is(summary($job, 'method'), 'metadata', 'done by metadata');
$job = with_writers('with tenants', ", 'own'", ', tenant_id', 'auto');
is(summary($job, 'method'), 'pages', 'done by rows');
$node->safe_psql('postgres', 'DROP TABLE twin');

#
# Somebody who reads the table for long
#
fresh_orders();
my ($long) = new_session($node);
$long->query_safe('BEGIN');
$long->query_safe('SELECT count(*) FROM orders');
$job = submit($node, $insist);
my ($longest, $seen, $end) = (0, 0, time + 60);
while ($seen < 3 && time < $end)
{
	$seen++ if waits_exclusively();
	foreach my $sql ('SELECT count(*) FROM orders WHERE id < 10', 'UPDATE orders SET touched = 2 WHERE id = 5')
	{
		my $start = time;

		$node->safe_psql('postgres', $sql);
		$longest = (time - $start) * 1000 if (time - $start) * 1000 > $longest;
	}
}
is($seen, 3, 'it asked for the lock several times');
cmp_ok($longest, '<', $lock_timeout + $slack, 'and nobody waited long behind it');
note("longest $longest ms");
is(tenants(), '- 8000', 'nothing is done yet');
$long->query_safe('COMMIT');
wait_job_state($node, $job, 'succeeded');
is(tenants(), 'acme 8000', 'done when the reader has gone');
assert_clean($node);

# who pauses or cancels it does not wait, wherever it is
sub ends_at_once
{
	my ($name, $call, $state) = @_;
	my $start = time;

	$node->safe_psql('postgres', "SELECT tenantmig.$call($job)");
	wait_job_state($node, $job, $state);
	cmp_ok(time - $start, '<', 1 + $slack / 1000, "$name: at once");
	is(tenants(), '- 8000', "$name: nothing is done");
}

fresh_orders();
$long->query_safe('BEGIN');
$long->query_safe('SELECT count(*) FROM orders');
$job = submit($node, $insist);
ok(poll_for(60, \&waits_exclusively), 'it waits for the lock');
ends_at_once('pause while it waits', 'pause', 'paused');
$node->safe_psql('postgres', "SELECT tenantmig.resume($job)");
ok(poll_for(60, \&waits_exclusively), 'it waits again');
ends_at_once('cancel while it waits', 'cancel', 'cancelled');
assert_clean($node);

# the lock is not had at all: by rows, or not
$node->safe_psql('postgres', 'ALTER SYSTEM SET tenantmig.lock_retries = 1');
$node->reload;
$job = submit($node, $insist);
wait_job_state($node, $job, 'failed');
is(job_field($node, $job, 'sqlstate'), '55P03', 'the lock was not had');
is(tenants(), '- 8000', 'nothing is done');
$long->query_safe('COMMIT');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET tenantmig.lock_retries');
$node->reload;
$node->safe_psql('postgres', "SELECT tenantmig.retry($job)");
wait_job_state($node, $job, 'succeeded');
is(tenants(), 'acme 8000', 'and was had at the second attempt');

#
# Crashes
#
foreach my $point ('metadata-read', 'metadata-changed', 'metadata-committed')
{
	my $done = $point eq 'metadata-committed';
	my ($places, $attnum);

	fresh_orders();
	$places = places();
	stop_at($node, "$point:wait");
	$job = submit($node, $insist);
	wait_at($node, $job, $point);
	$node->stop('immediate');
	stop_at($node, 'job-start:wait');
	$node->start;
	is(tenants(), $done ? 'acme 8000' : '- 8000', "crash at $point: all or nothing");
	$attnum = $node->safe_psql('postgres', q{SELECT attnum FROM pg_attribute
		WHERE attrelid = 'orders'::regclass AND attname = 'tenant_id'});
	is($attnum, $done ? 6 : 5, "crash at $point: the column is " . ($done ? 'the new' : 'still the old') . ' one');
	release($node);
	wait_job_state($node, $job, 'succeeded');
	is(tenants(), 'acme 8000', "crash at $point: done in the end");
	is(places(), $places, "crash at $point: no row was written");
	is($node->safe_psql('postgres', q{SELECT attnum FROM pg_attribute
		WHERE attrelid = 'orders'::regclass AND attname = 'tenant_id'}), '6', "crash at $point: once");
	is($node->safe_psql('postgres', "SELECT rows_done FROM tenantmig.jobs WHERE id = $job"), '8000',
		"crash at $point: and counted once");
	assert_clean($node);
}

#
# In the foreground
#
fresh_orders();
$node->safe_psql('postgres', 'ALTER SYSTEM SET tenantmig.max_workers = 0');
$node->reload;
wait_until($node, q{SELECT current_setting('tenantmig.max_workers') = '0'}, 'no worker is started');
$job = submit($node, $insist);
sql_ok($node, "CALL tenantmig.run($job)", 'run in a session');
is(tenants(), 'acme 8000', 'done in a session');
is(summary($job, 'method'), 'metadata', 'by metadata');
$job = submit($node, "tenantmig.undo($job)");
sql_ok($node, "CALL tenantmig.run($job)", 'undone in a session');
is(tenants(), '- 8000', 'taken back');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET tenantmig.max_workers');
$node->reload;

#
# A million rows, not vacuumed yet
#
$node->safe_psql('postgres', 'DROP TABLE orders');
make_table($node, 'orders', rows => 1000000);
my $size = number($node, q{SELECT pg_table_size('orders')});
$job = submit($node, $insist);
wait_job_state($node, $job, 'succeeded');
is(tenants(), 'acme 1000000', 'a million rows');
like($node->safe_psql('postgres', "SELECT string_agg(statement, ';' ORDER BY position) FROM tenantmig.job_steps WHERE job = $job"),
	qr/^VACUUM .*;ALTER TABLE/, 'vacuumed first');
cmp_ok(summary($job, 'lock_held_ms'), '<', 500, 'the lock was held for a moment');
cmp_ok(number($node, q{SELECT pg_table_size('orders')}), '<', $size * 1.01, 'the table did not grow');
note('lock held ' . summary($job, 'lock_held_ms') . ' ms');

# and when VACUUM can do nothing, since a snapshot is kept
($long) = new_session($node);
$node->safe_psql('postgres', 'UPDATE orders SET tenant_id = NULL WHERE id <= 200000');
$long->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
$long->query_safe('SELECT 1 FROM pg_class LIMIT 1');
$node->safe_psql('postgres', 'UPDATE orders SET touched = 3 WHERE id <= 200000');
$job = submit($node, q(tenantmig.backfill('orders', value => 'acme', options => '{"method": "metadata"}')));
wait_job_state($node, $job, 'failed');
like(job_field($node, $job, 'error_detail'), qr/more than \d+ pages of the table are not marked as all-visible/,
	'too much would have to be read under the lock');
is(tenants(), "- 200000\nacme 800000", 'nothing is done');
$long->query_safe('COMMIT');
assert_clean($node);
assert_no_crash($node);

done_testing();
