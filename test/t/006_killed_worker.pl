# A worker is killed while the application writes: what was committed stays,
# the job goes on from its checkpoint, and nothing of the application's is lost.
# A job that takes the server down every time is given up.

use strict;
use warnings FATAL => 'all';

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TenantMig;

my $rows = 30000;
my $node = new_node('killed', preload => 1, stop_points => 1);

make_table($node, 'orders', rows => $rows);

# The application writes down what it did in the same transaction, so that what
# the table must hold can be computed without looking at it.
$node->safe_psql(
	'postgres', qq(
	CREATE TABLE updated (id bigint NOT NULL);
	CREATE TABLE deleted (id bigint NOT NULL);
	CREATE TABLE inserted (id bigint NOT NULL);
	CREATE SEQUENCE new_ids START @{[$rows + 1]};
	CREATE VIEW expected AS
	SELECT i.id, (i.id % 97)::int AS customer, repeat(md5(i.id::text), 2) AS body,
	       (SELECT count(*) FROM updated u WHERE u.id = i.id)::int AS touched
	FROM (SELECT g::bigint AS id FROM generate_series(1, $rows) g
	      UNION ALL SELECT id FROM inserted) i
	WHERE NOT EXISTS (SELECT FROM deleted d WHERE d.id = i.id);
	CREATE INDEX ON updated (id);));

my $dir = PostgreSQL::Test::Utils::tempdir();
my %script = (
	update => qq(\\set id random(1, $rows)
		WITH u AS (UPDATE orders SET touched = touched + 1 WHERE id = :id RETURNING id)
		INSERT INTO updated SELECT id FROM u;\n),
	delete => qq(\\set id random(1, $rows)
		WITH d AS (DELETE FROM orders WHERE id = :id RETURNING id)
		INSERT INTO deleted SELECT id FROM d;\n),
	insert => q(WITH i AS (INSERT INTO orders (id, customer, body)
			SELECT n, n % 97, repeat(md5(n::text), 2) FROM nextval('new_ids') n RETURNING id)
		INSERT INTO inserted SELECT id FROM i;) . "\n");
append_to_file("$dir/$_.sql", $script{$_}) for keys %script;

# pgbench, until it is told to stop or its server goes away
sub writer
{
	my ($seconds) = @_;
	my %writer = (out => '', err => '');

	$writer{run} = IPC::Run::start(
		[
			$node->installed_command('pgbench'), '-n',
			'-M', 'prepared', '-c', '3', '-T', $seconds,
			'-f', "$dir/update.sql\@8", '-f', "$dir/insert.sql\@2",
			'-f', "$dir/delete.sql\@1",
			'-h', $node->host, '-p', $node->port, 'postgres'
		],
		'<', \undef, '>', \$writer{out}, '2>', \$writer{err},
		IPC::Run::timeout(2 * $PostgreSQL::Test::Utils::timeout_default));
	return \%writer;
}

sub has_data
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(digest($node, 'orders'), digest($node, 'expected'),
		'all rows are what the application made of them');
}

my $job = submit($node,
	q(tenantmig.backfill('orders', value => 'acme',
		options => '{"method": "ranges", "batch_target": "2ms", "max_rows_per_second": 6000, "keep_trigger": true}')));
my $writer = writer(600);

wait_until(
	$node,
	"SELECT (SELECT count(*) > 100 FROM updated)
	    AND (SELECT rows_done > 4000 FROM tenantmig.jobs WHERE id = $job)",
	'both are at work');

# The next worker stays where nothing is done yet, so that we can look
stop_at($node, 'job-start:wait');
kill 'KILL', worker_pid($node, $job);
$writer->{run}->finish;
like($writer->{err}, qr/terminated|server closed|connection|shutdown|crash/i,
	'the server restarted under the writer');
wait_at($node, $job, 'job-start');

my ($done, $checkpoint, $blocks) = split /\|/,
  $node->safe_psql('postgres',
	"SELECT rows_done, checkpoint ->> 'block', blocks_total FROM tenantmig.job_progress WHERE job = $job"
  );
cmp_ok($done, '>', 0, 'committed batches are kept');
cmp_ok($checkpoint, '>', 0, 'with a checkpoint');
cmp_ok($checkpoint, '<', $blocks, 'in the midst of the table');
is(job_field($node, $job, 'state, attempts'), 'running|2',
	'the launcher resumed the job');
# A row that the application updates while the batch is at it is left to the sweep.
is( number($node, "SELECT count(*) FROM orders WHERE tenant_id IS NULL
		AND (ctid::text::point)[0] < $checkpoint AND id <= $rows AND touched = 0"),
	0,
	'all rows before the checkpoint have their tenant');
has_data();

# On, under a writer that must not notice anything
$writer = writer(4);
stop_at($node, 'filling rows:wait');
wait_at($node, $job, 'filling rows');
cmp_ok(
	number($node, "SELECT blocks_done FROM tenantmig.job_progress WHERE job = $job"),
	'>', $checkpoint, 'it goes on from the checkpoint');
release($node);
$writer->{run}->finish;
is($writer->{run}->result(0), 0, 'the application saw no error')
  or diag($writer->{err});
wait_job_state($node, $job, 'succeeded');
is(wrong_tenants($node, 'orders', q('acme')), 0, 'all rows have their tenant');
has_data();
assert_clean($node);

# --- a job that kills the server ------------------------------------------------

make_table($node, 'items', rows => 1000);
my $items = digest($node, 'items');
stop_at($node, 'job-start:crash');
$job = submit($node, q(tenantmig.backfill('items', value => 'acme', options => '{"method": "ranges"}')));
wait_until(
	$node,
	"SELECT state = 'failed' FROM tenantmig.job WHERE id = $job",
	'the job is given up');
is(job_field($node, $job, 'attempts, sqlstate'), '6|55000', 'after five crashes');
like(job_field($node, $job, 'error'),
	qr/job $job was interrupted 5 times without progress/, 'with the reason');
like(job_field($node, $job, 'error_hint'),
	qr/server log.*tenantmig\.retry\($job\)/, 'and what to do');
is(digest($node, 'items'), $items, 'nothing was touched');
assert_clean($node);
stop_at($node, '');
$node->safe_psql('postgres', "SELECT tenantmig.retry($job)");
wait_job_state($node, $job, 'succeeded');
is(wrong_tenants($node, 'items', q('acme')), 0, 'retry() does it after all');

# Crashes with progress in between are no reason to give up
make_table($node, 'parts', rows => 60000);
$job = submit($node,
	q(tenantmig.backfill('parts', value => 'acme',
		options => '{"method": "ranges", "batch_target": "1ms", "max_rows_per_second": 2000}')));
for my $round (1 .. 7)
{
	wait_until(
		$node,
		"SELECT state = 'running' AND attempts = $round AND stalled = 0
		 FROM tenantmig.job WHERE id = $job AND tenantmig.job_pid(id) IS NOT NULL",
		"attempt $round has got somewhere");
	kill 'KILL', worker_pid($node, $job);
}
wait_until($node, "SELECT attempts = 8 FROM tenantmig.job WHERE id = $job",
	'the eighth attempt begins');
$node->safe_psql('postgres',
	"SELECT tenantmig.alter_job($job, '{\"max_rows_per_second\": null}')");
wait_job_state($node, $job, 'succeeded');
is(job_field($node, $job, 'rows_done'), 60000, 'each row was changed once');
is(wrong_tenants($node, 'parts', q('acme')), 0, 'all rows have their tenant');
assert_clean($node);

$node->stop;

done_testing();
