# The primary is lost in the middle of a job. Its standby never works on the
# job while it is one, says that it cannot take calls, and goes on with the job
# by itself once it is promoted.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TenantMig;

my $node = new_node('old', preload => 1, stop_points => 1,
	conf => "wal_level = replica\nmax_wal_senders = 5\nautovacuum = off\n");
make_table($node, 'orders', rows => 20000);
my $orders = digest($node, 'orders');

$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('new');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;

# Some batches, then the primary stays between two of them
my $job = submit($node, q{tenantmig.backfill('orders', value => 'acme',
	options => '{"method": "pages", "max_rows_per_second": 3000}')});
wait_until($node, "SELECT rows_done > 500 FROM tenantmig.jobs WHERE id = $job", 'some batches are done');
stop_at($node, 'batch-committed:wait');
wait_at($node, $job, 'batch-committed');
my $done = $node->safe_psql('postgres', 'SELECT count(*) FROM orders WHERE tenant_id IS NOT NULL');
my $lsn = $node->lsn('insert');
$node->safe_psql('postgres', 'CHECKPOINT');
wait_until($standby, "SELECT pg_last_wal_replay_lsn() >= '$lsn'", 'the standby has them too');

# in recovery
is(job_field($standby, $job, 'state, phase'), 'paused|interrupted', 'for the standby nobody works on the job');
is($standby->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'tenantmig%')),
	'0', 'nothing of ours runs on it');
for my $call ("tenantmig.resume($job)", "tenantmig.cancel($job)", q{tenantmig.backfill('orders', value => 'other')})
{
	is(sql_error($standby, "SELECT $call")->{sqlstate}, '25006', "$call is refused there");
}
like($standby->safe_psql('postgres', "SELECT tenantmig.report($job)"), qr/State: +paused/, 'the report can be read there');

# The primary is gone for good
$node->stop('immediate');
$standby->append_conf('postgresql.conf', "tenantmig.stop_point = ''\n");
is($standby->safe_psql('postgres', 'SELECT count(*) FROM orders WHERE tenant_id IS NOT NULL'), $done,
	'the standby has the rows of the batches that were committed');
$standby->promote;
wait_job_state($standby, $job, 'succeeded');
is(wrong_tenants($standby, 'orders', q('acme')), 0, 'with all rows');
is(digest($standby, 'orders'), $orders, 'and all that was there');
is(job_field($standby, $job, 'attempts'), '2', 'it was resumed once');
is(job_field($standby, $job, 'rows_done'), '20000', 'and counted no row twice');
assert_clean($standby);
assert_no_crash($standby);
$standby->stop;

done_testing();
