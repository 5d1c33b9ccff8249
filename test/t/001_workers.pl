# Workers: when one starts and when none does, what can be done with a job that
# it works on, what waits for what, and that nothing polls.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TenantMig;

# What is promised to take a second is given this much on a busy machine.
my $promptly = 10;

my $node = new_node('workers', preload => 1, stop_points => 1);
my ($job, $other, $third, $error, $started);

sub workers { number($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'tenantmig worker'") }

sub call { $node->safe_psql('postgres', "SELECT tenantmig.$_[0]") }

# Seconds between a moment of the server's clock and the first time that a
# query (with a column of the server's clock beside it) gave true.
sub server_seconds
{
	my ($since, $condition) = @_;
	my $seconds = '';

	poll_for(
		$PostgreSQL::Test::Utils::timeout_default,
		sub {
			$seconds = $node->safe_psql('postgres',
				"SELECT extract(epoch FROM clock_timestamp() - '$since') WHERE $condition");
			return $seconds ne '';
		});
	return $seconds eq '' ? 'never' : $seconds;
}

sub prompt_ok
{
	my ($seconds, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($seconds ne 'never' && $seconds < $promptly, "$what (after $seconds s)");
}

make_table($node, 'orders');
make_table($node, 'items');
make_table($node, 'parts');
my $orders = digest($node, 'orders');

# --- the transaction decides ---------------------------------------------

$node->safe_psql('postgres', q(
	BEGIN;
	SELECT tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges"}');
	ROLLBACK;));
is(number($node, 'SELECT count(*) FROM tenantmig.job'), 0,
	'a rolled back call leaves no job');
is(workers(), 0, 'and no worker');

$node->safe_psql('postgres', q(
	BEGIN;
	SAVEPOINT s;
	SELECT tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges"}');
	ROLLBACK TO s;
	COMMIT;));
is(number($node, 'SELECT count(*) FROM tenantmig.job'), 0,
	'so does one in a subtransaction that was rolled back');
wait_no_worker($node);

stop_at($node, 'filling rows:wait');
my $session = background($node);
$session->query_safe('BEGIN');
$job = $session->query_safe(
	q(SELECT tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges", "batch_target": "2ms"}')));
ok(!poll_for(1.5, sub { workers() > 0 }), 'no worker before the commit');
my $since = $session->query_safe('COMMIT; SELECT clock_timestamp()');
prompt_ok(
	server_seconds($since, "tenantmig.job_pid($job) IS NOT NULL"),
	'a worker starts when the call commits');
$session->quit;

# --- a worker at work ------------------------------------------------------

wait_at($node, $job, 'filling rows');
is( $node->safe_psql(
		'postgres',
		"SELECT backend_type, datname, wait_event_type FROM pg_stat_activity
		 WHERE pid = tenantmig.job_pid($job)"),
	'tenantmig worker|postgres|Extension',
	'pg_stat_activity tells what the process is');
is(job_field($node, $job, 'state, phase'),
	'running|filling rows', 'a job between two batches is running');
is( $node->safe_psql(
		'postgres',
		"SELECT job, datname, relid = 'orders'::regclass, relation, command, phase,
		        rows_total, rows_done BETWEEN 1 AND 19999
		 FROM tenantmig.stat_progress"),
	"$job|postgres|t|public.orders|backfill|filling rows|20000|t",
	'stat_progress tells how far it is');

# The call again, while it is open
is(submit($node, q(tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges"}'))),
	$job, 'the same call returns the job that is open');
is(workers(), 1, 'and starts no second worker');

# Rates, of the running job
call("alter_job($job, '{\"max_rows_per_second\": 20}')");
release($node);
wait_until($node,
	"SELECT count(*) = 1 FROM tenantmig.stat_progress WHERE throttle_reason LIKE 'max_rows_per_second: % limit 20%'",
	'alter_job throttles a job that is running');
is( $node->safe_psql(
		'postgres',
		"SELECT application_name FROM pg_stat_activity WHERE pid = tenantmig.job_pid($job)"
	),
	"tenantmig job $job",
	'the application name tells which job a worker does');

# Pause, at rest
$since = $node->safe_psql('postgres',
	"SELECT tenantmig.pause($job); SELECT clock_timestamp()");
$since =~ s/.*\n//s;
$since =~ s/^\s+//;
prompt_ok(
	server_seconds($since,
		"(SELECT state FROM tenantmig.job WHERE id = $job) = 'paused' AND tenantmig.job_pid($job) IS NULL"),
	'pause stops a job that rests');
is(job_field($node, $job, 'state, next_action'),
	"paused|SELECT tenantmig.resume($job);", 'a paused job says how it goes on');
my $done = number($node, "SELECT rows_done FROM tenantmig.job_progress WHERE job = $job");
is( number($node, 'SELECT count(*) FROM orders WHERE tenant_id IS NOT NULL'),
	$done, 'what was counted as done is done');
cmp_ok($done, '<', 20000, 'and it is not all');
wait_no_worker($node);
is(submit($node, q(tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges"}'))),
	$job, 'the same call returns the paused job');
is(job_state($node, $job), 'paused', 'and leaves it paused');

# Faster again, and on
call("alter_job($job, '{\"max_rows_per_second\": null}')");
is(job_field($node, $job, "options ? 'max_rows_per_second'"),
	'f', 'null takes an option away');
$since = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
call("resume($job)");
prompt_ok(
	server_seconds($since,
		"(SELECT attempts FROM tenantmig.job WHERE id = $job) = 2"),
	'resume starts a worker');
wait_job_state($node, $job, 'succeeded');
is(number($node, "SELECT rows_done FROM tenantmig.job_progress WHERE job = $job"),
	20000, 'each row was changed once');
is(digest($node, 'orders'), $orders, 'no other column was touched');
is(wrong_tenants($node, 'orders', q('acme')), 0, 'all rows have their tenant');
assert_clean($node);

# Pause within a batch: the batch is rolled back
stop_at($node, 'batch-updated:wait');
$job = submit($node,
	q(tenantmig.backfill('items', value => 'acme', options => '{"method": "ranges", "max_rows_per_second": 4000}')));
wait_at($node, $job, 'batch-updated');
$since = $node->safe_psql('postgres',
	"SELECT clock_timestamp() FROM tenantmig.pause($job)");
prompt_ok(
	server_seconds($since,
		"(SELECT state FROM tenantmig.job WHERE id = $job) = 'paused' AND tenantmig.job_pid($job) IS NULL"),
	'pause stops a job in a batch');
release($node);

# Cancel, while it runs
call("resume($job)");
wait_until($node,
	"SELECT count(*) = 1 FROM tenantmig.job_progress WHERE job = $job AND rows_done > 0",
	'the job goes on');
is(number($node, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'items'::regclass"),
	1, 'new rows are covered meanwhile');
$since = $node->safe_psql('postgres',
	"SELECT clock_timestamp() FROM tenantmig.cancel($job)");
prompt_ok(
	server_seconds($since,
		"(SELECT state FROM tenantmig.job WHERE id = $job) = 'cancelled' AND tenantmig.job_pid($job) IS NULL"),
	'cancel ends a job');
assert_clean($node);
cmp_ok(number($node, 'SELECT count(*) FROM items WHERE tenant_id IS NULL'),
	'>', 0, 'a cancelled job has not done it all');

# What cannot be done in a state says so
for my $call ("pause($job)", "resume($job)", "cancel($job)",
	"alter_job($job, '{\"nice\": 1}')", "start($job)")
{
	$error = sql_error($node, "SELECT tenantmig.$call");
	is($error->{sqlstate}, '55000', "$call of a cancelled job is refused");
	like($error->{message}, qr/job $job: it is cancelled/, 'and says why');
}
call("retry($job)");
$since = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
call("alter_job($job, '{\"max_rows_per_second\": null}')");
wait_job_state($node, $job, 'succeeded');
is(wrong_tenants($node, 'items', q('acme')), 0, 'retry completes it');
assert_clean($node);

# --- wait, run, assert_done -------------------------------------------------

stop_at($node, 'job-start:wait');
$job = submit($node, q(tenantmig.backfill('parts', value => 'acme', options => '{"method": "ranges"}')));
wait_at($node, $job, 'job-start');

$error = sql_error($node, "CALL tenantmig.wait($job, '300 ms')");
is($error->{sqlstate}, '57014', 'wait gives up after its timeout');
like($error->{hint}, qr/CALL tenantmig\.wait\($job\)/, 'with a hint');
is(job_state($node, $job), 'running', 'the job goes on');
for my $procedure ('wait', 'run')
{
	$error =
	  sql_error($node, [ 'BEGIN', "CALL tenantmig.$procedure($job)" ]);
	is($error->{sqlstate}, '25001', "$procedure in a transaction block");
	like(
		$error->{hint},
		qr/CALL tenantmig\.$procedure\($job\).*assert_done\($job\)/,
		'has a hint');
}
$error = sql_error($node, "SELECT tenantmig.assert_done($job)");
is($error->{sqlstate}, '55000', 'assert_done of a job that runs');
like($error->{message}, qr/job $job has not succeeded: it is running/, 'tells its state');
like($error->{detail}, qr/Progress: /, 'and its progress');
like($error->{hint}, qr/CALL tenantmig\.wait\($job\)/, 'and what to do');
$error = sql_error($node, "CALL tenantmig.run($job)");
is($error->{sqlstate}, '55000', 'run of a job that a worker does');

my $waiter = $node->background_psql('postgres', on_error_stop => 0);
$waiter->query_until(qr/waiting/,
	"\\echo waiting\nCALL tenantmig.wait($job);\n\\echo waited\n");
is( number($node,
		"SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CALL tenantmig.wait%' AND backend_xmin IS NOT NULL AND wait_event = 'Extension'"
	),
	0,
	'a session that waits holds no snapshot');
release($node);
$waiter->query_until(qr/waited/, '');
$waiter->quit;
is(job_state($node, $job), 'succeeded', 'wait returns when the job has ended');
sql_ok($node, "SELECT tenantmig.assert_done($job)", 'assert_done of a succeeded job');

# The error of the job is the error of wait
make_table($node, 'gaps', rows => 100);
$job = submit($node, q(tenantmig.set_not_null('gaps')));
$error = sql_error($node, "CALL tenantmig.wait($job)");
is($error->{sqlstate}, '23502', "wait raises the job's error");
like($error->{message}, qr/job $job failed: column tenant_id of relation public.gaps .*\b100\b/,
	'with its message');
$error = sql_error($node, "SELECT tenantmig.assert_done($job)");
like($error->{hint}, qr/tenantmig\.retry\($job\)/, 'assert_done of a failed job says how to go on');

# --- without any worker -----------------------------------------------------

$node->append_conf('postgresql.conf', 'tenantmig.max_workers = 0');
$node->reload;
wait_until($node, "SELECT current_setting('tenantmig.max_workers') = '0'", 'no workers');
$job = submit($node, q(tenantmig.backfill('gaps', value => 'acme', options => '{"method": "ranges"}')));
is(job_field($node, $job, 'state, phase'),
	'queued|waiting for one of tenantmig.max_workers',
	'a job without a worker is queued and says why');
sql_ok($node, "CALL tenantmig.run($job)", 'run does it in the foreground');
is(job_field($node, $job, 'state, attempts'), 'succeeded|1', 'to its end');
is(wrong_tenants($node, 'gaps', q('acme')), 0, 'with all rows');

$job = submit($node, q(tenantmig.set_not_null('gaps')));
sql_ok($node, "CALL tenantmig.run($job)", 'set_not_null in the foreground');
is(number($node, "SELECT count(*) FROM pg_attribute WHERE attrelid = 'gaps'::regclass AND attname = 'tenant_id' AND attnotnull"),
	1, 'the column is NOT NULL');

$job = submit($node, q(tenantmig.create_index('gaps', '{tenant_id}')));
$error = sql_error($node, "CALL tenantmig.run($job)");
is($error->{sqlstate}, '25001', 'create_index cannot run in the foreground');
like($error->{hint}, qr/Run it yourself: CREATE INDEX CONCURRENTLY .*tenantmig\.retry\($job\)/,
	'and says what to do');
is(job_state($node, $job), 'failed', 'the job has failed');
assert_clean($node);
my ($statement) = $error->{hint} =~ /Run it yourself: (.*); then/;
$node->safe_psql('postgres', $statement);
call("retry($job)");
sql_ok($node, "CALL tenantmig.run($job)", 'after doing what the hint says it runs');
is(job_state($node, $job), 'succeeded', 'to its end');
ok(!poll_for(0.5, sub { workers() > 0 }), 'no worker was ever needed');

# --- max_workers ------------------------------------------------------------

$node->append_conf('postgresql.conf', 'tenantmig.max_workers = 2');
$node->reload;
make_table($node, "crowd_$_", rows => 3000) for 1 .. 6;
stop_at($node, 'job-start:wait');
my @crowd =
  map { submit($node, "tenantmig.backfill('crowd_$_', value => 'acme', options => '{\"method\": \"ranges\", \"max_rows_per_second\": 10000}')") }
  1 .. 6;
wait_until(
	$node,
	"SELECT count(*) = 2 FROM pg_stat_activity WHERE application_name = 'tenantmig at job-start'",
	'two jobs of six start');
wait_until(
	$node,
	"SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type LIKE 'tenantmig worker'",
	'the workers of the others have gone');
is( $node->safe_psql(
		'postgres',
		'SELECT state, count(*) FROM tenantmig.jobs WHERE id >= '
		  . "$crowd[0] GROUP BY state ORDER BY state"),
	"queued|4\nrunning|2",
	'four are queued');
is(job_field($node, $crowd[5], 'phase'),
	'waiting for one of tenantmig.max_workers', 'and say why');
release($node);
my $most = 0;
ok( poll_for(
		$PostgreSQL::Test::Utils::timeout_default,
		sub {
			my ($working, $open) = split /\|/, $node->safe_psql(
				'postgres',
				"SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 29697),
				        (SELECT count(*) FROM tenantmig.jobs WHERE state IN ('queued', 'running', 'paused'))");
			$most = $working if $working > $most;
			return $open == 0;
		}),
	'all six end, one after the other');
cmp_ok($most, '<=', 2, 'never more than two at once');
is(number($node, "SELECT count(*) FROM tenantmig.jobs WHERE id >= $crowd[0] AND state = 'succeeded'"),
	6, 'with success');
assert_clean($node);

# --- one after the other ----------------------------------------------------

make_table($node, 'chain', rows => 2000);
stop_at($node, 'job-start:wait');
my @ids = split /\n/, $node->safe_psql('postgres', q(
	BEGIN;
	SELECT tenantmig.backfill('chain', value => 'acme', options => '{"method": "ranges"}');
	SELECT tenantmig.create_index('chain', '{tenant_id}');
	SELECT tenantmig.set_not_null('chain');
	COMMIT;));
is(scalar(@ids), 3, 'three jobs on one table in one transaction');
wait_at($node, $ids[0], 'job-start');
wait_until($node,
	"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'tenantmig worker'",
	'only the first has a worker');
is(job_field($node, $ids[1], 'state, phase'),
	"queued|waiting for job $ids[0]", 'the second waits for it');
like(job_field($node, $ids[2], 'phase'),
	qr/^waiting for job (?:$ids[0]|$ids[1])$/, 'the third waits too');
$error = sql_error($node, "CALL tenantmig.run($ids[1])");
is($error->{sqlstate}, '55000', 'the second cannot be run before the first');
release($node);
wait_job_state($node, $_, 'succeeded') for @ids;
is( number($node,
		"SELECT count(*) FROM tenantmig.jobs a JOIN tenantmig.jobs b ON b.id = a.id + 1
		 WHERE a.id IN ($ids[0], $ids[1]) AND b.started_at >= a.finished_at"),
	2, 'each started when the one before had ended');
assert_clean($node);

# A failure takes along what builds on it
make_table($node, 'broken', rows => 2000);
$node->safe_psql('postgres',
	'ALTER TABLE broken ADD CONSTRAINT no_acme CHECK (tenant_id <> $$acme$$ OR id < 1500)');
@ids = split /\n/, $node->safe_psql('postgres', q(
	BEGIN;
	SELECT tenantmig.backfill('broken', value => 'acme', options => '{"method": "ranges"}');
	SELECT tenantmig.set_not_null('broken');
	COMMIT;));
wait_job_state($node, $_, 'failed') for @ids;
is(job_field($node, $ids[0], 'sqlstate'), '23514', 'the first job failed with its error');
is(job_field($node, $ids[1], 'sqlstate, error'),
	"55000|job $ids[0], which job $ids[1] builds on, did not succeed",
	'the second because of the first');
like(job_field($node, $ids[1], 'error_hint'),
	qr/tenantmig\.retry\($ids[0]\).*tenantmig\.retry\($ids[1]\)/, 'and says how to go on');
assert_clean($node);
$node->safe_psql('postgres', 'ALTER TABLE broken DROP CONSTRAINT no_acme');
call("retry($ids[0])");
call("retry($ids[1])");
wait_job_state($node, $_, 'succeeded') for @ids;
is(wrong_tenants($node, 'broken', q('acme')), 0, 'retry of both completes them');
assert_clean($node);

# --- nothing polls ------------------------------------------------------------

# All jobs have ended: the launcher and nobody else is there, and does not even
# wake up.  Voluntary context switches count how often it did.
sub switches
{
	my $pid = $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'tenantmig launcher'");
	my ($count) = slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m;
	return $count;
}
is( $node->safe_psql(
		'postgres',
		"SELECT backend_type, wait_event_type, query, xact_start IS NULL
		 FROM pg_stat_activity WHERE backend_type LIKE 'tenantmig%'"),
	'tenantmig launcher|Extension||t',
	'only the launcher is there, and it waits');
SKIP:
{
	skip 'no /proc', 2 unless -e '/proc/self/status';
	# what it was asked for last is done
	my $before = switches();
	poll_for(5, sub { my $was = $before; $before = switches(); $was == $before });
	my $seen = 0;
	poll_for(5, sub { $seen += workers(); $seen += number($node,
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'tenantmig starter'"); 0 });
	is($seen, 0, 'no worker or starter for five seconds');
	is(switches(), $before, 'and the launcher did not wake up');
}
$node->stop;

done_testing();
