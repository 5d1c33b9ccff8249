# The same call in two sessions, and two processes for one job: one job, done
# once, and the loser leaves everything alone.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TenantMig;

my $node = new_node('twice', stop_points => 1);

make_table($node, 'orders', rows => 8000);

my %calls = (
	backfill => q(tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges"}')),
	create_index => q(tenantmig.create_index('orders', '{tenant_id,id}')),
	set_not_null => q(tenantmig.set_not_null('orders')),
	add_tenant_column => q(tenantmig.add_tenant_column('orders', 'region', value => 'eu')),
	enable_rls => q(tenantmig.enable_rls('orders')));

# Jobs must not start before both sessions have recorded theirs
$node->append_conf('postgresql.conf', 'tenantmig.max_workers = 0');
$node->reload;

foreach my $name (qw(backfill create_index set_not_null add_tenant_column enable_rls))
{
	my $call = "SELECT $calls{$name}";

	# the first one rolls back, then it commits
	foreach my $end ('ROLLBACK', 'COMMIT')
	{
		my ($one, $one_pid) = new_session($node);
		my ($two, $two_pid) = new_session($node);

		$one->query_safe('BEGIN');
		my $first = $one->query_safe($call);
		$two->query_until(qr/asking/, "\\echo asking\n$call;\n");
		wait_blocked($node, $two_pid, "$name: the second call waits for the first transaction");
		is( $node->safe_psql('postgres', "SELECT pg_blocking_pids($two_pid)"),
			"{$one_pid}", "$name: for that and nothing else");
		$one->query_safe($end);
		my $second = $two->query_safe('SELECT NULL');
		chomp($second);
		if ($end eq 'COMMIT')
		{
			is($second, $first, "$name: and returns the same job");
		}
		else
		{
			isnt($second, $first, "$name: after a rollback it records its own");
			is(job_field($node, $first, 'count(*)'), '0', "$name: nothing is left of the first");
			is(job_field($node, $second, 'count(*)'), '1', "$name: the second one is there");
			# away with it, for the next round
			if ($name =~ /^(add|enable)/)
			{
				$node->safe_psql('postgres', 'ALTER TABLE orders DROP COLUMN region')
				  if $name =~ /^add/;
				$node->safe_psql('postgres', 'SELECT tenantmig.disable_rls(\'orders\')')
				  if $name =~ /^enable/;
			}
			else
			{
				$node->safe_psql('postgres', "SELECT tenantmig.cancel($second)");
			}
		}
		$one->quit;
		$two->quit;
	}
}
is( $node->safe_psql('postgres', q{
		SELECT kind, count(*) FROM tenantmig.jobs WHERE state = 'queued' GROUP BY 1 ORDER BY 1}),
	"backfill|1\ncreate_index|1\nset_not_null|1", 'one job for each call');

# Another call waits for nobody, and nobody waits for a call on another table
make_table($node, 'other', rows => 10);
{
	my ($one) = new_session($node);
	$one->query_safe('BEGIN');
	$one->query_safe('SELECT ' . $calls{backfill});
	sql_ok($node, [ q(SET statement_timeout = '60s'), q(SELECT tenantmig.backfill('other', value => 'acme', options => '{"method": "ranges"}')) ],
		'a call on another table does not wait');
	$one->query_safe('ROLLBACK');
	$one->quit;
}

# All of them run, one after the other, each once
$node->append_conf('postgresql.conf', 'tenantmig.max_workers = 2');
$node->reload;
$node->safe_psql('postgres', q{SELECT tenantmig.resume(id) FROM tenantmig.jobs WHERE state = 'queued'});
wait_until($node, q{SELECT count(*) = 0 FROM tenantmig.jobs
	WHERE state NOT IN ('succeeded', 'cancelled')}, 'all jobs are done');
is($node->safe_psql('postgres', q{SELECT max(attempts) FROM tenantmig.jobs}), '1', 'each of them once');
is(wrong_tenants($node, 'orders', q('acme')), 0, 'all rows are filled');
assert_clean($node);

#
# Two processes for one job
#
make_table($node, 'twin', rows => 8000);
my $before = digest($node, 'twin');
stop_at($node, 'worker-start:wait');
my $job = submit($node, q(tenantmig.backfill('twin', value => 'acme', options => '{"method": "ranges", "batch_target": "1ms"}')));
$node->safe_psql('postgres', "SELECT tenantmig.resume($job)") foreach (1 .. 3);
wait_until($node, q{SELECT count(*) = 4 FROM pg_stat_activity
	WHERE application_name = 'tenantmig at worker-start'}, 'four workers want the same job');
stop_at($node, 'backfill-covered:wait');
wait_at($node, $job, 'backfill-covered');
wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity
	WHERE backend_type = 'tenantmig worker'}, 'one gets it, the others leave');
is(job_field($node, $job, 'attempts'), '1', 'it was claimed once');
is( $node->safe_psql('postgres', q{SELECT count(*) FROM pg_trigger
		WHERE tgrelid = 'twin'::regclass AND tgname LIKE 'zz_tenantmig%'}),
	'1', 'those that left have cleaned up nothing');
is(job_state($node, $job), 'running', 'nor changed its state');

# run() in the foreground is a loser as well
my $error = sql_error($node, "CALL tenantmig.run($job)");
like($error->{sqlstate}, qr/^(55000|55006)$/, 'run() of a running job is refused');
is(job_state($node, $job), 'running', 'and changes nothing');
release($node);
wait_job_state($node, $job, 'succeeded');
is(wrong_tenants($node, 'twin', q('acme')), 0, 'the job is done');
is(digest($node, 'twin'), $before, 'the rows are otherwise as they were');
is(job_field($node, $job, 'attempts'), '1', 'by the one that had it');
assert_clean($node);

assert_no_crash($node);
$node->stop;
done_testing();
