# No background worker is to be had: jobs stay queued, say so, and start when a
# slot is free, with the launcher by itself, without it at the next occasion.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TenantMig;

sub backfill { "tenantmig.backfill('$_[0]', value => 'acme', options => '{\"method\": \"ranges\"}')" }

# How many starters the log has seen; each is a look at the database
sub looks
{
	my ($node) = @_;
	my $log = slurp_file($node->logfile);
	my $count = () = $log =~ /starting background worker process "tenantmig starter"/g;
	return $count;
}

sub held
{
	my ($node, $table) = @_;
	my $job = submit($node, backfill($table));

	wait_at($node, $job, 'job-start');
	return $job;
}

sub waits_for_slot
{
	my ($node, $job) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_until(
		$node,
		"SELECT state = 'queued' AND phase = 'waiting for a free worker slot (max_worker_processes)'
		    AND next_action = 'CALL tenantmig.wait($job);'
		 FROM tenantmig.jobs WHERE id = $job",
		'the view says what the job waits for');
	is( $node->safe_psql('postgres',
			"SELECT pid IS NULL, phase FROM tenantmig.stat_progress WHERE job = $job"),
		't|waiting for a free worker slot (max_worker_processes)',
		'stat_progress as well');
}

# --- without the launcher ----------------------------------------------------------

# One slot for all
my $node = new_node('no_launcher',
	stop_points => 1,
	conf => "max_worker_processes = 1\nmax_logical_replication_workers = 0\n");
my ($first, $second, $third, $error);

make_table($node, "t$_", rows => 500) for 1 .. 9;
stop_at($node, 'job-start:wait');
$first = held($node, 't1');

$error = sql_error($node, 'SELECT ' . backfill('t2'));
is($error->{sqlstate}, '', 'the call succeeds');
$second = $error->{out} + 0;
like($error->{text}, qr/WARNING:  53400: no free worker slot for job $second; it stays queued/,
	'with a warning');
like($error->{text},
	qr/HINT:  Raise max_worker_processes, .*tenantmig\.resume\($second\).*CALL tenantmig\.run\($second\)/,
	'and a hint');
waits_for_slot($node, $second);

# resume() and wait() while there is still none
$error = sql_error($node, "SELECT tenantmig.resume($second)");
like($error->{text}, qr/WARNING:  53400/, 'resume() warns again');
$error = sql_error($node, "CALL tenantmig.wait($second, '1500 ms')");
is($error->{sqlstate}, '57014', 'wait() waits');
is(job_state($node, $second), 'queued', 'and the job stays queued');

# The end of the first job makes room for the second
release($node);
wait_job_state($node, $first, 'succeeded');
wait_job_state($node, $second, 'succeeded');
is(wrong_tenants($node, 't2', q('acme')), 0, 'the second job started when the first ended');
assert_clean($node);

# A chain of them: one worker's slot for four jobs
stop_at($node, 'job-start:wait');
$first = held($node, 't3');
my @queued = map { submit($node, backfill("t$_")) } 4 .. 6;
is(number($node, "SELECT count(*) FROM tenantmig.jobs WHERE state = 'queued'"), 3, 'three are queued');
release($node);
wait_job_state($node, $_, 'succeeded') for $first, @queued;
is(wrong_tenants($node, "t$_", q('acme')), 0, "t$_ is complete") for 3 .. 6;
assert_clean($node);

# When the slot is freed by somebody who is no worker of ours: resume(), and
# wait(), and the same call again
stop_at($node, 'job-start:wait');
$first = held($node, 't7');
$second = submit($node, backfill('t8'));
$third = submit($node, backfill('t9'));
my $pid = worker_pid($node, $first);
release($node);
wait_job_state($node, $_, 'succeeded') for $first, $second, $third;
assert_clean($node);

make_table($node, "u$_", rows => 500) for 1 .. 3;
$node->safe_psql('postgres', 'CREATE DATABASE elsewhere');
$node->safe_psql('elsewhere', 'CREATE EXTENSION tenantmig');
make_table($node, 'orders', rows => 500, db => 'elsewhere');
for my $occasion ('resume', 'wait', 'call')
{
	my $table = { resume => 'u1', wait => 'u2', call => 'u3' }->{$occasion};

	stop_at($node, 'job-start:wait');
	my $holder = submit($node, backfill('orders'), db => 'elsewhere');
	wait_at($node, $holder, 'job-start', db => 'elsewhere');
	my $job = submit($node, backfill($table));
	release($node);
	wait_job_state($node, $holder, 'succeeded', db => 'elsewhere');
	wait_no_worker($node);
	is(job_state($node, $job), 'queued', 'a slot is free in vain');
	if ($occasion eq 'wait')
	{
		sql_ok($node, "CALL tenantmig.wait($job)", 'wait() starts it');
	}
	else
	{
		$node->safe_psql('postgres',
			'SELECT ' . ($occasion eq 'call' ? backfill($table) : "tenantmig.resume($job)"));
	}
	wait_job_state($node, $job, 'succeeded');
	is(wrong_tenants($node, $table, q('acme')), 0, "$table is complete after $occasion");
	wait_job_state($node,
		submit($node, "tenantmig.undo($holder)", db => 'elsewhere'),
		'succeeded', db => 'elsewhere');
	wait_no_worker($node);
}
assert_clean($node);
$node->stop;

# --- with the launcher ----------------------------------------------------------------

# One slot for the launcher, one for all else: a starter needs it, too.
$node = new_node('launcher',
	preload => 1,
	stop_points => 1,
	conf => "max_worker_processes = 2\nmax_logical_replication_workers = 0\n"
	  . "log_min_messages = debug1\n");
$node->safe_psql('postgres', 'CREATE DATABASE elsewhere');
$node->safe_psql('elsewhere', 'CREATE EXTENSION tenantmig');
make_table($node, 'orders', rows => 500, db => 'elsewhere');
make_table($node, "t$_", rows => 500) for 1 .. 3;

stop_at($node, 'job-start:wait');
$first = submit($node, backfill('orders'), db => 'elsewhere');
wait_at($node, $first, 'job-start', db => 'elsewhere');

$error = sql_error($node, 'SELECT ' . backfill('t1'));
is($error->{sqlstate}, '', 'the call succeeds');
unlike($error->{text}, qr/WARNING/, 'without a warning: the launcher will see to it');
$second = $error->{out} + 0;
$third = submit($node, backfill('t2'));
waits_for_slot($node, $second);

# The launcher asks again, but less and less often.  It gets no slot for a
# starter, so that this is not in the log; its wake-ups are in /proc.
SKIP:
{
	skip 'no /proc', 1 unless -e '/proc/self/status';
	my $launcher = $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'tenantmig launcher'");
	my $wakes = sub {
		my ($count) = slurp_file("/proc/$launcher/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m;
		return $count;
	};
	my $before = $wakes->();
	poll_for(6, sub { 0 });
	cmp_ok($wakes->() - $before, '<=', 10, 'the launcher does not spin');
}
is(job_state($node, $second), 'queued', 'the job is still queued');

release($node);
wait_job_state($node, $first, 'succeeded', db => 'elsewhere');
wait_job_state($node, $second, 'succeeded');
wait_job_state($node, $third, 'succeeded');
is(wrong_tenants($node, "t$_", q('acme')), 0, "t$_ is complete") for 1, 2;
cmp_ok(looks($node), '<', 30, 'with a bounded number of looks');
assert_clean($node);

# The same after a restart: the only slot is the starter's
stop_at($node, 'job-start:wait');
$first = held($node, 't3');
$node->stop('immediate');
stop_at($node, '');
$node->start;
wait_job_state($node, $first, 'succeeded');
assert_clean($node);
$node->stop;

# --- no slot at all --------------------------------------------------------------------

$node = new_node('none', conf => "max_worker_processes = 0\n");
make_table($node, 'orders', rows => 500);
$error = sql_error($node, 'SELECT ' . backfill('orders'));
is($error->{sqlstate}, '', 'the call succeeds');
like($error->{text}, qr/WARNING:  53400/, 'with a warning');
$first = $error->{out} + 0;
sql_ok($node, "CALL tenantmig.run($first)", 'run() does the job here');
is(job_state($node, $first), 'succeeded', 'to its end');
is(wrong_tenants($node, 'orders', q('acme')), 0, 'with all rows');
assert_clean($node);
$node->stop;

done_testing();
