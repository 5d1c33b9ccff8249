# Sessions that waited for a batch: they are counted, also those that stand
# behind them in the queue, and the job rests for it. Sessions that wait for
# others are none of its business.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TenantMig;

my $node = new_node('waiters', stop_points => 1, conf => "autovacuum = off\n");
my @sessions;

sub blocked
{
	my ($sql) = @_;
	my ($session, $pid) = new_session($node);

	$session->query_until(qr/started/, "\\echo started\n$sql\n");
	wait_blocked($node, $pid, 'a session waits');
	push @sessions, $session;
}

# A job stays in its first batch of the rows, with a rest for nice behind it
# that is long enough to look at
sub job_in_batch
{
	my ($table, $options) = @_;
	my $job;

	make_table($node, $table, rows => 2000);
	stop_at($node, 'batch-updated:wait');
	$job = submit($node, qq(tenantmig.backfill('$table', value => 'acme', options => '$options')));
	wait_at($node, $job, 'batch-updated');
	return $job;
}

# What the job makes of it
sub counted
{
	my ($job, $expected, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	release($node);
	wait_until($node, "SELECT count(*) = 1 FROM tenantmig.throttles($job) WHERE name = 'nice' AND in_force",
		'the job rests');
	is( $node->safe_psql('postgres', "SELECT current, limit_value FROM tenantmig.throttles($job) WHERE name = 'max_waiters'"),
		"$expected sessions waited for the last batch|0", $name);
	$node->safe_psql('postgres', qq(SELECT tenantmig.alter_job($job, '{"nice": null}')));
	wait_job_state($node, $job, 'succeeded');
	$_->quit foreach splice @sessions;
}

# two for the same row, of which the second waits for the first; one for
# another row; and one that wants the table
my $job = job_in_batch('orders', '{"nice": 1000, "method": "ranges"}');
blocked('UPDATE orders SET touched = touched + 1 WHERE id = 1;');
blocked('UPDATE orders SET touched = touched + 1 WHERE id = 1;');
blocked('UPDATE orders SET touched = touched + 1 WHERE id = 2;');
blocked('BEGIN; LOCK TABLE orders IN SHARE MODE; COMMIT;');
counted($job, 4, 'all who wait for the batch are counted');
is(number($node, 'SELECT sum(touched) FROM orders'), 3, 'and did what they wanted');

# others that wait for each other
my ($holder) = new_session($node);
$node->safe_psql('postgres', 'CREATE TABLE other AS SELECT 1 AS n');
$holder->query_safe('BEGIN; UPDATE other SET n = 2');
$job = job_in_batch('items', '{"nice": 1000, "method": "ranges"}');
blocked('UPDATE other SET n = 3;');
release($node);
wait_until($node, "SELECT count(*) = 1 FROM tenantmig.throttles($job) WHERE name = 'nice' AND in_force", 'the job rests');
is( $node->safe_psql('postgres', "SELECT current FROM tenantmig.throttles($job) WHERE name = 'max_waiters'"),
	'0 sessions waited for the last batch', 'those that wait for others are not counted');
$node->safe_psql('postgres', qq(SELECT tenantmig.alter_job($job, '{"nice": null}')));
$holder->query_safe('COMMIT');
wait_job_state($node, $job, 'succeeded');
$_->quit foreach splice @sessions;
$holder->quit;

assert_clean($node);
done_testing();
