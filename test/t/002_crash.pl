# The server stops at once, as at a power failure, at every place where a job
# can be: when it is back, the job goes on from where it was and ends as if
# nothing had happened.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TenantMig;

my $node = new_node('crash', preload => 1, stop_points => 1);
make_table($node, 'orders', rows => 6000);
my $orders = digest($node, 'orders');
my $backfill =
  q(tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges", "batch_target": "1ms"}'));
# it is swept only when rows were left
my $derived =
  q(tenantmig.backfill('orders', expression => $$CASE WHEN id <> 7 THEN 'acme' END$$,
	options => '{"method": "ranges", "batch_target": "1ms", "on_orphan": "assign", "orphan_value": "acme"}'));

# Submit, stop the server when a worker is at the point, start it again
sub crash_at
{
	my ($server, $point, $call, %option) = @_;
	my $job;

	stop_at($server, "$point:wait");
	$job = submit($server, $call);
	wait_until(
		$server,
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'tenantmig at $point'",
		"a worker is at \"$point\"");
	$server->stop('immediate');
	stop_at($server, $option{then} // '');
	$server->start unless $option{stopped};
	return $job;
}

sub attempts_are
{
	my ($job, $attempts, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(job_field($node, $job, 'attempts'), $attempts, $name);
}

sub orders_are
{
	my ($tenant) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(digest($node, 'orders'), $orders, 'no other column was touched');
	is(wrong_tenants($node, 'orders', $tenant), 0,
		"all rows have the tenant $tenant");
	assert_clean($node);
}

# --- backfill, and its undo ---------------------------------------------------

# There are as many rounds as places, each with an undo that is interrupted too
my @undo_points = (
	'worker-start', 'job-start', 'batch-updated', 'batch-before-commit',
	'taking values back', 'job-end');
for my $point (
	'worker-start', 'job-start',
	'counting rows', 'backfill-counted',
	'backfill-covered', 'batch-updated',
	'batch-before-commit', 'batch-committed',
	'filling rows', 'backfill-filled',
	'sweeping for residue', 'backfill-verified',
	'job-end')
{
	my $undo_point = shift @undo_points;
	my $job = crash_at($node, $point, $point =~ /^sweeping/ ? $derived : $backfill);

	wait_job_state($node, $job, 'succeeded');
	attempts_are($job, $point eq 'worker-start' ? 1 : 2,
		"the launcher resumed it after \"$point\"");
	is(job_field($node, $job, 'rows_done'), 6000, 'each row was changed once');
	orders_are(q('acme'));

	my $undo_call = "tenantmig.undo($job)";
	my $undo =
	  $undo_point
	  ? crash_at($node, $undo_point, $undo_call)
	  : submit($node, $undo_call);
	wait_job_state($node, $undo, 'succeeded');
	attempts_are($undo, $undo_point && $undo_point ne 'worker-start' ? 2 : 1,
		'attempts of the undo');
	is(job_field($node, $job, 'undone_by'), $undo, 'the undo is recorded');
	orders_are('NULL');
}

# --- create_index, and its undo -------------------------------------------------

my $create_index = q(tenantmig.create_index('orders', '{customer,id}', 'orders_customer'));
my $valid = q(SELECT count(*) FROM pg_index
	WHERE indrelid = 'orders'::regclass AND indisvalid AND indisready
	  AND indexrelid = 'orders_customer'::regclass);

sub index_is_whole
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(number($node, $valid), 1, 'the index is valid');
	is( $node->safe_psql('postgres',
			'SET enable_seqscan = off; SET enable_bitmapscan = off;
			 SELECT sum(n) FROM (SELECT count(*) AS n FROM orders GROUP BY customer) c'),
		6000, 'and has an entry for each row');
	is(digest($node, 'orders'), $orders, 'no row was touched');
	assert_clean($node);
}

sub index_is_gone
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is( number($node,
			"SELECT count(*) FROM pg_class WHERE relname LIKE 'orders_customer%'"),
		0, 'the index is gone');
	is(digest($node, 'orders'), $orders, 'no row was touched');
	assert_clean($node);
}

@undo_points = ('job-start', 'inverse-before', 'inverse-after', 'job-end');
for my $point ('toplevel-before', 'toplevel-after', 'index-built', 'job-end')
{
	my $job = crash_at($node, $point, $create_index);

	wait_job_state($node, $job, 'succeeded');
	attempts_are($job, 2, "the launcher resumed it after \"$point\"");
	index_is_whole();
	my $undo = crash_at($node, shift @undo_points, "tenantmig.undo($job)");
	wait_job_state($node, $undo, 'succeeded');
	index_is_gone();
}

# In the midst of the build: it waits for a transaction that writes
my $writer = background($node);
$writer->query_safe('BEGIN; UPDATE orders SET touched = 0 WHERE id = 1');
my $job = submit($node, $create_index);
wait_until(
	$node,
	"SELECT count(*) = 1 FROM pg_index i, pg_stat_progress_create_index p
	 WHERE i.indexrelid = p.index_relid AND NOT i.indisvalid AND p.phase LIKE 'waiting for writers%'",
	'the build waits for a writer');
$node->stop('immediate');
$writer->{run}->kill_kill;
$node->start;
wait_job_state($node, $job, 'succeeded');
attempts_are($job, 2, 'what an interrupted build left was built anew');
index_is_whole();

# --- set_not_null, and its undo --------------------------------------------------

wait_job_state($node, submit($node, $backfill), 'succeeded');
@undo_points = ('job-start', 'job-end');
for my $point ('not-null-added', 'not-null-validated', 'not-null-set', 'job-end')
{
	my $is_not_null = "SELECT attnotnull FROM pg_attribute
		WHERE attrelid = 'orders'::regclass AND attname = 'tenant_id'";
	my $undo_point = shift @undo_points;

	$job = crash_at($node, $point, q(tenantmig.set_not_null('orders')));
	wait_job_state($node, $job, 'succeeded');
	attempts_are($job, 2, "the launcher resumed it after \"$point\"");
	is($node->safe_psql('postgres', $is_not_null), 't', 'the column is NOT NULL');
	assert_clean($node);

	my $undo_call = "tenantmig.undo($job)";
	my $undo =
	  $undo_point
	  ? crash_at($node, $undo_point, $undo_call)
	  : submit($node, $undo_call);
	wait_job_state($node, $undo, 'succeeded');
	is($node->safe_psql('postgres', $is_not_null), 'f', 'and is not any more');
	is( number($node,
			"SELECT count(*) FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype = 'c'"),
		0, 'without a constraint in its place');
	orders_are(q('acme'));
}

# --- a cancel that was interrupted ---------------------------------------------------

make_table($node, 'items', rows => 6000);
stop_at($node, 'filling rows:wait');
$job = submit($node, q(tenantmig.backfill('items', value => 'acme', options => '{"method": "ranges", "batch_target": "1ms"}')));
wait_at($node, $job, 'filling rows');
$node->safe_psql('postgres',
	"UPDATE tenantmig.job SET request = 'cancel' WHERE id = $job");
$node->stop('immediate');
stop_at($node, '');
$node->start;
wait_job_state($node, $job, 'cancelled');
assert_clean($node);

# --- more jobs at work than workers are allowed afterwards -----------------------------

make_table($node, "crowd_$_", rows => 1000) for 1 .. 3;
$node->append_conf('postgresql.conf', 'tenantmig.max_workers = 3');
stop_at($node, 'backfill-covered:wait');
my @crowd =
  map { submit($node, "tenantmig.backfill('crowd_$_', value => 'acme', options => '{\"method\": \"ranges\"}')") } 1 .. 3;
wait_at($node, $_, 'backfill-covered') for @crowd;
$node->stop('immediate');
$node->append_conf('postgresql.conf', 'tenantmig.max_workers = 1');
stop_at($node, '');
$node->start;
wait_job_state($node, $_, 'succeeded') for @crowd;
is(wrong_tenants($node, "crowd_$_", q('acme')), 0, "crowd_$_ is complete") for 1 .. 3;
assert_clean($node);

# --- not resumed by itself -----------------------------------------------------------

# What the views say of a job whose worker is gone, and that nobody resumes
sub interrupted
{
	my ($server, $job) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(job_field($server, $job, 'state, phase, next_action'),
		"paused|interrupted|SELECT tenantmig.resume($job);",
		'it is shown as interrupted');
	is( $server->safe_psql('postgres',
			"SELECT pid IS NULL, phase FROM tenantmig.stat_progress WHERE job = $job"),
		't|interrupted', 'without a process');
	my $error = sql_error($server, "SELECT tenantmig.assert_done($job)");
	like($error->{message}, qr/it is paused/, 'assert_done says so');
	like($error->{hint}, qr/tenantmig\.resume\($job\)/, 'and how to go on');
}

sub nobody_starts
{
	my ($server) = @_;
	my $query = "SELECT count(*) FROM pg_stat_activity
		WHERE backend_type IN ('tenantmig worker', 'tenantmig starter')";

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(!poll_for(2, sub { number($server, $query) > 0 }), 'nobody resumes it');
}

for my $kind ('preloaded, without autostart', 'not preloaded')
{
	my $preload = $kind ne 'not preloaded';
	my $alone = new_node(
		$preload ? 'autostart_off' : 'not_preloaded',
		preload => $preload,
		stop_points => 1,
		conf => $preload ? "tenantmig.autostart = off\n" : '');

	note($kind);
	make_table($alone, 'orders', rows => 6000);
	$job = crash_at($alone, 'filling rows', $backfill);
	nobody_starts($alone);
	interrupted($alone, $job);
	my $filled = number($alone, 'SELECT count(*) FROM orders WHERE tenant_id IS NOT NULL');
	is(job_field($alone, $job, 'rows_done'), $filled, 'what was committed is counted');
	$alone->safe_psql('postgres', "SELECT tenantmig.resume($job)");
	wait_job_state($alone, $job, 'succeeded');
	is(job_field($alone, $job, 'attempts, rows_done'), '2|6000', 'resume() completes it');
	is(digest($alone, 'orders'), $orders, 'no other column was touched');
	is(wrong_tenants($alone, 'orders', q('acme')), 0, 'all rows have their tenant');
	assert_clean($alone);

	# The next call of the same function takes up what was interrupted
	make_table($alone, 'items', rows => 6000);
	my $call = $backfill =~ s/orders/items/r;
	$job = crash_at($alone, 'backfill-covered', $call);
	interrupted($alone, $job);
	is(submit($alone, $call), $job, 'the same call returns the interrupted job');
	wait_job_state($alone, $job, 'succeeded');
	is(wrong_tenants($alone, 'items', q('acme')), 0, 'and completes it');
	assert_clean($alone);

	# ... or an index build that was interrupted, by retrying the migration
	$call = q(tenantmig.create_index('items', '{tenant_id}'));
	$job = crash_at($alone, 'toplevel-after', $call);
	interrupted($alone, $job);
	is(submit($alone, $call), $job, 'the same call returns the interrupted build');
	wait_job_state($alone, $job, 'succeeded');
	is(number($alone, "SELECT count(*) FROM pg_index WHERE indrelid = 'items'::regclass AND indisvalid"),
		2, 'one index more, no two');
	assert_clean($alone);

	# ... or cancel() cleans up
	make_table($alone, 'parts', rows => 6000);
	$job = crash_at($alone, 'filling rows', $backfill =~ s/orders/parts/r);
	is(number($alone, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'parts'::regclass"),
		1, 'the trigger is there');
	$alone->safe_psql('postgres', "SELECT tenantmig.cancel($job)");
	wait_job_state($alone, $job, 'cancelled');
	assert_clean($alone);
	$alone->stop;
}

$node->stop;

done_testing();
