# A worker's memory does not grow with the number of its batches.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TenantMig;

plan skip_all => 'no /proc/PID/status' unless -e '/proc/self/status';

my $node = new_node('memory', preload => 1, stop_points => 1,
	conf => "autovacuum = off\n");

# One row a block, and a batch of one block: batch_target is always missed,
# since the check of each row alone takes longer.
$node->safe_psql(
	'postgres', q(
	CREATE TABLE parents (id int PRIMARY KEY, tenant_id text NOT NULL);
	INSERT INTO parents SELECT g, 't' || g FROM generate_series(0, 9) g;
	CREATE TABLE orders (id bigint PRIMARY KEY, parent int NOT NULL REFERENCES parents,
		body text NOT NULL, tenant_id text) WITH (fillfactor = 10);
	ALTER TABLE orders ALTER COLUMN body SET STORAGE PLAIN;
	INSERT INTO orders SELECT g, g % 10, repeat('x', 900) FROM generate_series(1, 11000) g;
	ANALYZE;
	CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM count(*) FROM generate_series(1, 20000);
		RETURN new;
	END $$;
	CREATE TRIGGER slowly BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION slowly();
));
cmp_ok(
	number($node, "SELECT pg_relation_size('orders') / current_setting('block_size')::int"),
	'>=', 11000, 'a row fills a block');

# Without the shared memory, of which more pages are touched as time goes on
sub rss
{
	my ($pid) = @_;
	my $status = slurp_file("/proc/$pid/status");
	my ($all) = $status =~ /^VmRSS:\s+(\d+)/m;
	my ($shared) = $status =~ /^RssShmem:\s+(\d+)/m;
	return $all - $shared;
}

stop_at($node, 'backfill-filled:wait');
my $job = submit($node,
	q(tenantmig.backfill('orders', via => 'parent', options => '{"batch_target": "1ms"}')));

# The memory of the worker when it has filled that many rows, one in a batch
# (counting them before has been a pass of its own, with other code)
sub rss_at
{
	my ($rows) = @_;

	wait_until($node,
		"SELECT rows_done >= $rows FROM tenantmig.job_progress WHERE job = $job",
		"$rows batches");
	return rss(worker_pid($node, $job));
}

my $batches = "SELECT batches FROM tenantmig.job_progress WHERE job = $job";
my $early = rss_at(1000);
my $before = number($node, $batches);
my $late = rss_at(10500);
note("$early kB after 1000 batches, $late kB after 10500");
cmp_ok(number($node, $batches) - $before, '>=', 9000, 'each batch is small');
cmp_ok(number($node, $batches), '>=', 10000, 'there are 10000 of them');
cmp_ok($late - $early, '<', 2048, 'memory does not grow');
wait_at($node, $job, 'backfill-filled');
release($node);
wait_job_state($node, $job, 'succeeded');
is(wrong_tenants($node, 'orders', q('t' || parent)), 0, 'all rows have their tenant');
assert_clean($node);
$node->stop;

done_testing();
