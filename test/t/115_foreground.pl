# CALL run() of a job whose worker is just letting go of it: it waits for that,
# and nobody else can take the job up in between.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use TenantMig;

my $node = new_node('foreground', preload => 1, stop_points => 1);
make_table($node, 'orders', rows => 3000);
my $orders = digest($node, 'orders');

stop_at($node, 'job-ended:wait');
my $job = submit($node,
	q{tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges", "max_rows_per_second": 100}')});
wait_until($node, "SELECT rows_done > 0 FROM tenantmig.jobs WHERE id = $job", 'the job is at work');
$node->safe_psql('postgres', "SELECT tenantmig.pause($job)");
wait_at($node, $job, 'job-ended');
is(job_field($node, $job, 'state'), 'paused', 'the job is paused, its worker still there');

my $session = background($node);
$session->query_until(qr/calling/, "\\echo calling\nCALL tenantmig.run($job);\n\\echo called\n");
wait_until($node,
	"SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'CALL tenantmig.run%' AND wait_event_type = 'Extension'",
	'the call waits for the worker');
is(job_field($node, $job, 'state'), 'paused', 'the job is not queued meanwhile');
$node->safe_psql('postgres', "SELECT tenantmig.alter_job($job, '{\"max_rows_per_second\": null}')");
release($node);
$session->query_until(qr/called/, '');
$session->quit;
is(job_field($node, $job, 'state, attempts'), 'succeeded|2', 'the call did the job');
is(wrong_tenants($node, 'orders', q('acme')), 0, 'with all rows');
is(digest($node, 'orders'), $orders, 'and all that was there');

# one that a worker has taken up and keeps is refused
make_table($node, 'kept', rows => 3000);
stop_at($node, 'batch-committed:wait');
$job = submit($node, "tenantmig.backfill('kept', value => 'acme')");
wait_at($node, $job, 'batch-committed');
my $error = sql_error($node, "CALL tenantmig.run($job)");
is($error->{sqlstate}, '55000', 'a running job is refused');
release($node);
wait_job_state($node, $job, 'succeeded');
assert_clean($node);
$node->stop;

done_testing();
