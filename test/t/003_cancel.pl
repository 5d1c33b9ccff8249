# A worker is sent away, cancelled, paused, and its job cancelled, in each
# phase of each kind of job: it is gone at once, the job can be resumed and is
# completed, and a cancelled job leaves nothing behind.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TenantMig;

# What is promised to take a second is given this much on a busy machine.
my $promptly = 10;

my $node = new_node('cancel', preload => 1, stop_points => 1);
make_table($node, 'orders', rows => 6000);
$node->safe_psql('postgres', 'CREATE VIEW nulls AS SELECT count(*) AS n FROM orders WHERE tenant_id IS NULL');
my $orders = digest($node, 'orders');

sub call { $node->safe_psql('postgres', "SELECT $_[0]") }

sub gone_promptly
{
	my ($job, $pid, $what) = @_;
	my $seconds = seconds_until($node,
		"SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)");

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	cmp_ok($seconds, '<', $promptly, "gone promptly after $what");
	is(worker_pid($node, $job), '', 'nobody works on the job');
}

# One place of one job.  enter waits until the job is there; leave lets it go
# on; cleaned is called while the cancelled job cleans up.
sub try_place
{
	my ($name, $call, $enter, $leave) = @_;
	my ($job, $pid);

	note($name);
	$job = submit($node, $call);
	$enter->($job);
	$pid = worker_pid($node, $job);
	call("pg_terminate_backend($pid)");
	gone_promptly($job, $pid, 'pg_terminate_backend');
	is(job_field($node, $job, 'state, phase, next_action'),
		"paused|interrupted|SELECT tenantmig.resume($job);",
		'the job is interrupted');

	call("tenantmig.resume($job)");
	$enter->($job);
	$pid = worker_pid($node, $job);
	call("pg_cancel_backend($pid)");
	gone_promptly($job, $pid, 'pg_cancel_backend');
	is(job_field($node, $job, 'state, sqlstate, next_action'),
		"paused|57014|SELECT tenantmig.resume($job);", 'the job is paused');
	like(job_field($node, $job, 'error'), qr/user request/, 'with the reason');

	call("tenantmig.resume($job)");
	$enter->($job);
	$pid = worker_pid($node, $job);
	call("tenantmig.pause($job)");
	gone_promptly($job, $pid, 'pause()');
	is(job_field($node, $job, 'state, sqlstate, error'),
		'paused||', 'the job is paused');

	call("tenantmig.resume($job)");
	$enter->($job);
	is(job_field($node, $job, 'attempts'), 4, 'each resume was an attempt');
	call("tenantmig.cancel($job)");
	$leave->();
	wait_job_state($node, $job, 'cancelled');
	assert_clean($node);
	is(digest($node, 'orders'), $orders, 'no other column was touched');

	call("tenantmig.retry($job)");
	wait_job_state($node, $job, 'succeeded');
	assert_clean($node);
	is(digest($node, 'orders'), $orders, 'no other column was touched');
	return $job;
}

# A place that is a stop point
sub try_point
{
	my ($point, $call) = @_;

	stop_at($node, "$point:wait");
	return try_place($point, $call,
		sub { wait_at($node, $_[0], $point) },
		sub { release($node) });
}

# A place where the job waits for a lock that another session holds
sub try_blocked
{
	my ($phase, $call, $lock, $condition) = @_;
	my $blocker = background($node);

	$blocker->query_safe("BEGIN; $lock");
	my $job = try_place(
		$phase, $call,
		sub {
			wait_until(
				$node,
				"SELECT count(*) = 1 FROM tenantmig.stat_progress
				 WHERE job = $_[0] AND pid IS NOT NULL AND phase ~ '^($phase)\$' AND $condition",
				"job $_[0] waits: $phase");
		},
		sub { $blocker->query_safe('ROLLBACK') });
	$blocker->quit;
	return $job;
}

sub undo
{
	my ($job) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_job_state($node, submit($node, "tenantmig.undo($job)"), 'succeeded');
}

# --- backfill --------------------------------------------------------------------

# From an expression that leaves a row out, so that there is something to sweep
my $left_out = $node->safe_psql('postgres', q{SELECT 't' || customer FROM orders WHERE id = 7});
my $backfill = qq(tenantmig.backfill('orders', expression => \$\$CASE WHEN id <> 7 THEN 't' || customer END\$\$,
	options => '{"batch_target": "1ms", "on_orphan": "assign", "orphan_value": "$left_out"}'));
my $job;

for my $point (
	'job-start', 'counting rows', 'backfill-covered', 'batch-updated',
	'filling rows', 'sweeping for residue', 'verifying', 'job-end')
{
	$job = try_point($point, $backfill);
	is(wrong_tenants($node, 'orders', q('t' || customer)), 0, 'all rows have their tenant');
	undo($job);
	is(number($node, 'SELECT n FROM nulls'), 6000, 'undo takes it back');
}

$job = try_blocked('covering new rows', $backfill,
	'LOCK TABLE orders IN ROW EXCLUSIVE MODE',
	'(blocker_pid IS NOT NULL OR throttle_reason IS NOT NULL)');
is(wrong_tenants($node, 'orders', q('t' || customer)), 0, 'all rows have their tenant');

# Its undo, which cannot be half cancelled: sent away and cancelled, it goes on
stop_at($node, 'taking values back:wait');
my $undo = submit($node, "tenantmig.undo($job)");
for my $how ('pg_terminate_backend', 'pg_cancel_backend')
{
	wait_at($node, $undo, 'taking values back');
	my $pid = worker_pid($node, $undo);
	call("$how($pid)");
	gone_promptly($undo, $pid, $how);
	is(job_state($node, $undo), 'paused', 'the undo is paused');
	call("tenantmig.resume($undo)");
}
wait_at($node, $undo, 'taking values back');
release($node);
wait_job_state($node, $undo, 'succeeded');
is(number($node, 'SELECT n FROM nulls'), 6000, 'the undo is complete');
assert_clean($node);

# A rest is interrupted as well
$job = submit($node, $backfill =~ s/"1ms"/"1ms", "max_rows_per_second": 10/r);
wait_until($node, "SELECT throttle_reason LIKE 'max_rows%' FROM tenantmig.stat_progress WHERE job = $job",
	'the job rests');
my $pid = worker_pid($node, $job);
call("pg_terminate_backend($pid)");
gone_promptly($job, $pid, 'pg_terminate_backend in a rest');
call("tenantmig.resume($job)");
wait_until($node, "SELECT throttle_reason LIKE 'max_rows%' FROM tenantmig.stat_progress WHERE job = $job AND pid IS NOT NULL",
	'the job rests again');
$pid = worker_pid($node, $job);
call("tenantmig.pause($job)");
gone_promptly($job, $pid, 'pause() in a rest');
call("tenantmig.cancel($job)");
wait_job_state($node, $job, 'cancelled');
assert_clean($node);

# --- create_index ------------------------------------------------------------------

my $create_index = q(tenantmig.create_index('orders', '{customer,id}', 'orders_customer'));
my $indexes = "SELECT count(*) FROM pg_class WHERE relname LIKE 'orders_customer%'";

for my $point ('toplevel-before', 'job-end')
{
	$job = try_point($point, $create_index);
	is(number($node, $indexes), 1, 'the index is there');
	undo($job);
	is(number($node, $indexes), 0, 'undo takes it back');
}

# A resumed build must first drop what the interrupted one left, and waits for
# the same transaction
$job = try_blocked('building index|dropping what an interrupted build left',
	$create_index,
	'UPDATE orders SET touched = 0 WHERE id = 1', 'blocker_pid IS NOT NULL');
is(number($node, $indexes), 1, 'the index is there');
undo($job);

# A cancelled job is gone from the catalog before it says cancelled, also when
# what it had built was whole
stop_at($node, 'toplevel-after:wait');
$job = submit($node, $create_index);
wait_at($node, $job, 'toplevel-after');
is(number($node, $indexes), 1, 'the index is built');
call("tenantmig.cancel($job)");
wait_job_state($node, $job, 'cancelled');
is(number($node, $indexes), 0, 'and is gone');
release($node);

# --- set_not_null --------------------------------------------------------------------

wait_job_state($node, submit($node, $backfill), 'succeeded');
my $constraints =
  "SELECT count(*) FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype IN ('c', 'n')
      AND conname LIKE 'tenantmig%'";
my $not_null =
  "SELECT attnotnull FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'tenant_id'";
my $set_not_null = q(tenantmig.set_not_null('orders'));

for my $point ('not-null-added', 'not-null-validated', 'job-end')
{
	$job = try_point($point, $set_not_null);
	is($node->safe_psql('postgres', $not_null), 't', 'the column is NOT NULL');
	is(number($node, $constraints), 0, 'without a helper');
	undo($job);
	is($node->safe_psql('postgres', $not_null), 'f', 'undo takes it back');
}

# Only sent away, cancelled and paused while it waits: to clean up it needs the
# lock that the other session has, and that may be waited for.
$job = try_blocked('adding check constraint', $set_not_null,
	'LOCK TABLE orders IN ACCESS SHARE MODE',
	'(blocker_pid IS NOT NULL OR throttle_reason IS NOT NULL)');
is($node->safe_psql('postgres', $not_null), 't', 'the column is NOT NULL');
undo($job);

stop_at($node, 'not-null-added:wait');
$job = submit($node, $set_not_null);
wait_at($node, $job, 'not-null-added');
my $blocker = background($node);
$blocker->query_safe('BEGIN; LOCK TABLE orders IN SHARE UPDATE EXCLUSIVE MODE');
release($node);
for my $how ('pg_terminate_backend', 'pg_cancel_backend')
{
	wait_until(
		$node,
		"SELECT count(*) = 1 FROM tenantmig.stat_progress WHERE job = $job
		 AND phase = 'validating' AND (blocker_pid IS NOT NULL OR throttle_reason IS NOT NULL)",
		'the job waits to validate');
	$pid = worker_pid($node, $job);
	call("$how($pid)");
	gone_promptly($job, $pid, $how);
	call("tenantmig.resume($job)");
}
$blocker->query_safe('ROLLBACK');
$blocker->quit;
wait_job_state($node, $job, 'succeeded');
is($node->safe_psql('postgres', $not_null), 't', 'the column is NOT NULL');
assert_clean($node);

# --- who waits for a place ---------------------------------------------------------------

# A job that waits for the place of a worker must not wait for ever when that
# one is sent away, with the launcher or without.
$node->stop;
for my $preload (1, 0)
{
	my $alone = new_node("place_$preload",
		preload => $preload,
		stop_points => 1,
		conf => "tenantmig.max_workers = 1\n");

	make_table($alone, $_, rows => 1000) for 'first', 'second';
	stop_at($alone, 'filling rows:wait');
	my $first = submit($alone, q(tenantmig.backfill('first', value => 'acme', options => '{"method": "ranges"}')));
	wait_at($alone, $first, 'filling rows');
	my $second = submit($alone, q(tenantmig.backfill('second', value => 'acme', options => '{"method": "ranges"}')));
	wait_until($alone,
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'tenantmig worker'",
		'the second job has no place');
	is(job_state($alone, $second), 'queued', 'it is queued');
	$pid = worker_pid($alone, $first);
	$alone->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	wait_at($alone, $second, 'filling rows');
	is(job_state($alone, $first), 'paused', 'the first stays away');
	release($alone);
	wait_job_state($alone, $second, 'succeeded');
	is(job_state($alone, $first), 'paused', 'the first still stays away');
	$alone->safe_psql('postgres', "SELECT tenantmig.resume($first)");
	wait_job_state($alone, $first, 'succeeded');
	assert_clean($alone);
	$alone->stop;
}

done_testing();
