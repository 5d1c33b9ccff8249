# A table with many partitions: how far the job is in each, by one worker and by
# several; and two jobs at once, which share what the server allows.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TenantMig;

my $node = new_node('partitions', stop_points => 1,
	conf => "autovacuum = off\ntenantmig.max_workers = 4\n");
my $partitions = 60;
my $job;

# So many partitions of a growing size; the first one is empty
$node->safe_psql('postgres', qq{
CREATE TABLE events (id int NOT NULL, customer int NOT NULL, body text, tenant_id text) PARTITION BY LIST (customer);
SELECT format('CREATE TABLE events_%s PARTITION OF events FOR VALUES IN (%s)', i, i)
FROM generate_series(0, $partitions - 1) i \\gexec
INSERT INTO events SELECT i, c, repeat('x', 100) FROM generate_series(0, $partitions - 1) c, generate_series(1, c * 20) i;
CREATE VIEW counts AS SELECT tableoid AS relid, count(*) AS rows, count(tenant_id) AS done FROM events GROUP BY 1;
});
my $events = digest($node, 'events');
my $rows = number($node, 'SELECT count(*) FROM events');

sub assert_partitions
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(number($node, qq{
		SELECT count(*) FROM tenantmig.job_partitions p FULL JOIN counts c USING (relid)
		WHERE p.job = $job AND (p.rows_total, p.rows_done) IS DISTINCT FROM (c.rows, c.done)}),
		0, 'each partition has its rows');
	return;
}

foreach my $workers (1, 3)
{
	stop_at($node, 'backfill-counted:wait');
	$job = submit($node, qq(tenantmig.backfill('events', expression => \$\$'t' || customer + $workers - $workers\$\$,
		options => '{"workers": $workers, "max_rows_per_second": 15000, "batch_target": "5ms"}')));
	wait_at($node, $job, 'backfill-counted');
	is($node->safe_psql('postgres', "SELECT state, count(*), sum(rows_total), sum(rows_done) FROM tenantmig.job_partitions WHERE job = $job GROUP BY 1"),
		"waiting|@{[$partitions - 1]}|$rows|0", 'first the rows of each partition are counted');
	release($node);
	wait_until($node, "SELECT partition LIKE 'public.events\\_%' AND partitions_total = $partitions AND partitions_done BETWEEN 5 AND $partitions - 5
		FROM tenantmig.stat_progress WHERE job = $job", 'the view shows in which partition it is');
	$node->safe_psql('postgres', "SELECT tenantmig.pause($job)");
	wait_job_state($node, $job, 'paused');
	assert_partitions();
	is(number($node, qq{
		SELECT count(*) FROM tenantmig.job_partitions p JOIN counts c USING (relid) WHERE p.job = $job AND p.state = 'done' AND c.rows > c.done}),
		0, 'one that is done is done');
	cmp_ok(number($node, "SELECT count(*) FROM tenantmig.job_partitions WHERE job = $job AND state = 'waiting'"), '>', 0, 'others are not');
	$node->safe_psql('postgres', qq(SELECT tenantmig.alter_job($job, '{"max_rows_per_second": null}'), tenantmig.resume($job)));
	wait_job_state($node, $job, 'succeeded');
	is(wrong_tenants($node, 'events', q('t' || customer)), 0, 'all rows have their tenant');
	is(digest($node, 'events'), $events, 'and nothing else was changed');
	assert_partitions();
	is($node->safe_psql('postgres', "SELECT DISTINCT state FROM tenantmig.job_partitions WHERE job = $job"), 'done', 'all are done');
	$job = submit($node, "tenantmig.undo($job)");
	wait_job_state($node, $job, 'succeeded');
	is($node->safe_psql('postgres', "SELECT state, sum(rows_total), sum(rows_done) FROM tenantmig.job_partitions WHERE job = $job GROUP BY 1"),
		"done||$rows", 'undo counts what it takes back');
	is(digest($node, 'events', with => 1), $node->safe_psql('postgres',
		"SELECT count(*) || ' ' || sum(hashtextextended(to_jsonb(e)::text, 0)) FROM (SELECT id, customer, body, NULL::text AS tenant_id FROM events) e"),
		'all is as before');
	assert_clean($node);
}

# A partition is dropped while others are worked on, and one comes in
$job = submit($node, q(tenantmig.backfill('events', expression => $$'t' || customer$$,
	options => '{"workers": 2, "max_rows_per_second": 15000, "batch_target": "5ms"}')));
wait_until($node, "SELECT partitions_done > 5 FROM tenantmig.stat_progress WHERE job = $job", 'it is at work');
$node->safe_psql('postgres', "DROP TABLE events_@{[$partitions - 2]}");
$node->safe_psql('postgres', "CREATE TABLE events_new PARTITION OF events FOR VALUES IN (1000)");
$node->safe_psql('postgres', "INSERT INTO events SELECT i, 1000, 'new' FROM generate_series(1, 500) i");
wait_job_state($node, $job, 'succeeded');
is(wrong_tenants($node, 'events', q('t' || customer)), 0, 'all rows that are there have their tenant');
assert_clean($node);
$node->safe_psql('postgres', 'DROP TABLE events CASCADE');

# Partitions that are done are dropped while their blocks wait to be written
# behind the job; with what is done for neighbours, and without
foreach my $kind ('as it comes', 'without a care for neighbours')
{
	my $letter = $kind =~ /without/ ? 'w' : 'c';
	if ($letter eq 'w')
	{
		$node->append_conf('postgresql.conf', "tenantmig.give_way = off\ncheckpoint_flush_after = 0\n");
		$node->reload;
		wait_until($node, q(SELECT current_setting('checkpoint_flush_after') = '0'), 'the settings are in force');
	}
	$node->safe_psql('postgres', qq{
		CREATE TABLE gone (id int PRIMARY KEY, customer int NOT NULL, body text, tenant_id text) PARTITION BY RANGE (id);
		SELECT format('CREATE TABLE gone_%s PARTITION OF gone FOR VALUES FROM (%s) TO (%s)', i, i * 2000, (i + 1) * 2000)
		FROM generate_series(0, 15) i \\gexec
		INSERT INTO gone SELECT i, i % 7, repeat('x', 200) FROM generate_series(0, 31999) i});
	my $all = digest($node, 'gone');
	$job = submit($node, qq(tenantmig.backfill('gone', expression => \$\$'$letter' || customer\$\$,
		options => '{"method": "pages", "max_rows_per_second": 8000, "batch_target": "5ms"}')));
	wait_until($node, "SELECT count(*) >= 4 FROM tenantmig.job_partitions WHERE job = $job AND state = 'done'", "$kind: some are done");
	my $done = $node->safe_psql('postgres', "SELECT string_agg(relid::regclass::text, ',') FROM tenantmig.job_partitions WHERE job = $job AND state = 'done'");
	$node->safe_psql('postgres', "CREATE TABLE kept AS SELECT * FROM gone WHERE tableoid = ANY (string_to_array('$done', ',')::regclass[])");
	$node->safe_psql('postgres', "DROP TABLE $done");
	wait_job_state($node, $job, 'succeeded');
	cmp_ok(number($node, 'SELECT count(*) FROM gone'), '>', 0, "$kind: others are left");
	is(wrong_tenants($node, 'gone', "'$letter' || customer"), 0, "$kind: all of their rows have their tenant");
	$node->safe_psql('postgres', 'INSERT INTO kept SELECT * FROM gone');
	is(digest($node, 'kept'), $all, "$kind: no row is lost or changed");
	assert_clean($node);
	$node->safe_psql('postgres', 'DROP TABLE gone, kept');
}

# A table with one leaf has no partitions to show
make_table($node, 'plain', rows => 1000);
$job = submit($node, q(tenantmig.backfill('plain', value => 'acme', options => '{"method": "ranges"}')));
wait_job_state($node, $job, 'succeeded');
is(number($node, "SELECT count(*) FROM tenantmig.job_partitions WHERE job = $job"), 0, 'a plain table has none');

#
# Two jobs at once, one of them with two workers: each process has an equal part
# of the rate that the server allows, and all count for max_workers
#
make_table($node, "both$_", rows => 60000) for 1, 2;
$node->append_conf('postgresql.conf', "tenantmig.max_wal_rate = '1MB'\ntenantmig.max_workers = 3\n");
$node->reload;
wait_until($node, q(SELECT current_setting('tenantmig.max_wal_rate') = '1MB'), 'the server has a limit');
my $first = submit($node, q(tenantmig.backfill('both1', expression => $$'t' || customer$$, options => '{"workers": 2, "batch_target": "5ms"}')));
my $second = submit($node, q(tenantmig.backfill('both2', expression => $$'t' || customer$$, options => '{"workers": 2, "batch_target": "5ms"}')));
wait_until($node, "SELECT sum(workers) = 3 AND count(*) = 2 FROM tenantmig.stat_progress WHERE throttle_reason ~ '1048576 shared by 3'",
	'both jobs have their part');
is(number($node, "SELECT count(*) FROM tenantmig.stat_progress WHERE workers_reason = 'all of tenantmig.max_workers (3) are at work'"), 1,
	'and one has no place for another worker');
my $before = number($node, q(SELECT sum(wal_bytes) FROM tenantmig.stat_progress));
my $start = number($node, 'SELECT extract(epoch FROM clock_timestamp())');
wait_until($node, "SELECT sum(wal_bytes) > $before + 3000000 FROM tenantmig.stat_progress", 'they go on');
my $rate = 3000000 / (number($node, 'SELECT extract(epoch FROM clock_timestamp())') - $start);
cmp_ok($rate, '<', 1.5 * 1048576, 'no faster than the server allows') or note("$rate bytes a second");
$node->append_conf('postgresql.conf', 'tenantmig.max_wal_rate = 0');
$node->reload;
wait_job_state($node, $_, 'succeeded') for $first, $second;
is(wrong_tenants($node, "both$_", q('t' || customer)), 0, "both$_ is filled") for 1, 2;
assert_clean($node);

done_testing();
