# Page cycling: what it saves, when it does without, who holds it up, which rows
# it leaves out; and that crashes in the midst of it, beside writers, lose
# nothing.
use strict;
use warnings FATAL => 'all';

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TenantMig;

my $node = new_node('pages', preload => 1, conf => "autovacuum = off\n");

# Rows of the table and the indexes, by the server's own checker
sub assert_sound
{
	my ($table, $name) = @_;

	is($node->safe_psql('postgres', "SELECT count(*) FROM verify_heapam('$table')"), '0', "$name: the heap is sound");
	is( $node->safe_psql('postgres', "SELECT count(bt_index_check(indexrelid, true)) = count(*) FROM pg_index WHERE indrelid = '$table'::regclass"),
		't', "$name: so are the indexes");
}

sub summary
{
	my ($job, $key) = @_;
	return $node->safe_psql('postgres', "SELECT summary ->> '$key' FROM tenantmig.job WHERE id = $job");
}

# What the progress of a job says of how its rows are chosen, when it does
sub choice
{
	my ($job, $name) = @_;

	wait_until($node, "SELECT method_reason IS NOT NULL FROM tenantmig.stat_progress WHERE job = $job", $name);
	return $node->safe_psql('postgres', "SELECT method || ': ' || method_reason FROM tenantmig.stat_progress WHERE job = $job");
}

$node->safe_psql('postgres', 'CREATE EXTENSION amcheck');

#
# The table grows by an eighth, the indexes hardly, most updates are HOT
#
make_table($node, 'orders', rows => 60000);
my $before = digest($node, 'orders');
my $pages = number($node, q{SELECT pg_relation_size('orders') / 8192});
my $index_pages = number($node, q{SELECT pg_relation_size('orders_pkey') / 8192});
my $job = submit($node, q(tenantmig.backfill('orders', expression => $$'t' || customer % 7$$)));
wait_job_state($node, $job, 'succeeded');
is(summary($job, 'method'), 'pages', 'pages are chosen');
is(wrong_tenants($node, 'orders', q('t' || customer % 7)), 0, 'all rows have their tenant');
is(digest($node, 'orders'), $before, 'no row is lost or changed');
cmp_ok(number($node, q{SELECT pg_relation_size('orders') / 8192}), '<', 1.25 * $pages, 'the table has grown by less than a quarter');
cmp_ok(number($node, q{SELECT pg_relation_size('orders_pkey') / 8192}), '<', 1.2 * $index_pages, 'its index by less than a fifth');
wait_until($node, q{SELECT n_tup_hot_upd > 0.75 * n_tup_upd AND n_tup_upd >= 60000 FROM pg_stat_user_tables WHERE relname = 'orders'},
	'three updates of four are HOT');
assert_sound('orders', 'pages');

#
# Where the column is indexed already, by ranges, and it is said why
#
make_table($node, 'indexed', rows => 20000);
$node->safe_psql('postgres', 'CREATE INDEX ON indexed (tenant_id)');
$job = submit($node, q(tenantmig.backfill('indexed', value => 'acme', options => '{"max_rows_per_second": 2000}')));
is( choice($job, 'a reason is given'),
	'ranges: the column is part of an index: build it afterwards', 'an indexed column');
$node->safe_psql('postgres', qq(SELECT tenantmig.alter_job($job, '{"max_rows_per_second": null}')));
wait_job_state($node, $job, 'succeeded');
is(wrong_tenants($node, 'indexed', q('acme')), 0, 'is filled by ranges');

#
# An old snapshot: auto goes on by ranges, pages waits; both say for whom
#
my ($holder, $pid) = new_session($node);
$holder->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM orders');
make_table($node, 'held', rows => 60000);
$job = submit($node, q(tenantmig.backfill('held', expression => $$'t' || customer % 7$$)));
wait_job_state($node, $job, 'succeeded');
is(wrong_tenants($node, 'held', q('t' || customer % 7)), 0, 'auto does not wait for an old snapshot');
is($node->safe_psql('postgres', "SELECT method || ' ' || held_by_pid FROM tenantmig.job_progress WHERE job = $job"),
	"ranges $pid", 'and says whose it is');
make_table($node, 'patient', rows => 60000);
$job = submit($node, q(tenantmig.backfill('patient', expression => $$'t' || customer % 7$$, options => '{"method": "pages"}')));
like( choice($job, 'a holder is named'),
	qr/^pages: old row versions are still needed by process $pid, idle in transaction, transaction open for/,
	'pages waits, and says for whom');
is(job_state($node, $job), 'running', 'for as long as it is there');
$holder->query_safe('COMMIT');
wait_job_state($node, $job, 'succeeded');
is(wrong_tenants($node, 'patient', q('t' || customer % 7)), 0, 'and is done when it has gone');
cmp_ok(number($node, q{SELECT pg_relation_size('patient')}), '<', 0.75 * number($node, q{SELECT pg_relation_size('held')}),
	'which was worth it');
$holder->quit;

#
# Rows that are rejected: found, named, left out; a retry takes what is left
#
make_table($node, 'strict', rows => 20000);
$node->safe_psql('postgres', q{ALTER TABLE strict ADD CONSTRAINT ripe CHECK (tenant_id IS NULL OR id NOT IN (7, 11111, 20000))});
$job = submit($node, q(tenantmig.backfill('strict', value => 'acme', options => '{"method": "pages", "max_errors": 3}')));
wait_job_state($node, $job, 'failed');
is(job_field($node, $job, 'error'), '3 rows of public.strict could not be changed', 'bad rows fail the job at its end');
is( $node->safe_psql('postgres', "SELECT string_agg(key ->> 'id', ',' ORDER BY (key ->> 'id')::int), min(sqlstate) FROM tenantmig.job_errors WHERE job = $job AND key IS NOT NULL"),
	'7,11111,20000|23514', 'and are listed');
is(wrong_tenants($node, 'strict', q('acme')), 3, 'the others are filled');
$node->safe_psql('postgres', 'ALTER TABLE strict DROP CONSTRAINT ripe, ADD CONSTRAINT ripe CHECK (tenant_id IS NULL OR id <> 7)');
$node->safe_psql('postgres', "SELECT tenantmig.retry($job)");
wait_job_state($node, $job, 'failed');
is(wrong_tenants($node, 'strict', q('acme')), 1, 'a retry takes what is left');
is($node->safe_psql('postgres', "SELECT string_agg(key ->> 'id', ',') FROM tenantmig.job_errors WHERE job = $job AND key IS NOT NULL"),
	'7', 'and lists what is left of that');
$node->safe_psql('postgres', 'ALTER TABLE strict DROP CONSTRAINT ripe');
$node->safe_psql('postgres', "SELECT tenantmig.retry($job)");
wait_job_state($node, $job, 'succeeded');
is(wrong_tenants($node, 'strict', q('acme')), 0, 'until nothing is');
$node->safe_psql('postgres', q{UPDATE strict SET tenant_id = NULL; ALTER TABLE strict ADD CONSTRAINT ripe CHECK (tenant_id IS NULL OR id % 100 <> 0)});
$job = submit($node, q(tenantmig.backfill('strict', value => 'globex', options => '{"method": "ranges", "max_errors": 5}')));
wait_job_state($node, $job, 'failed');
is(job_field($node, $job, 'sqlstate'), '23514', 'one too many ends the job at once');
is(number($node, "SELECT count(*) FROM tenantmig.job_errors WHERE job = $job AND key IS NOT NULL"), 6, 'with those that were found');

#
# Crashes at moments of chance, beside writers of all kinds. What they do they
# do to a shadow of the table as well, in the same transaction.
#
my $writers = q{
\set id random(1, 30000)
\set new random(40000, 2000000000)
BEGIN;
UPDATE shot SET touched = touched + 1, customer = customer + 1 WHERE id = :id;
UPDATE shadow SET touched = touched + 1, customer = customer + 1 WHERE id = :id;
INSERT INTO shot (id, customer, body) VALUES (:new, 3, 'new') ON CONFLICT DO NOTHING;
INSERT INTO shadow (id, customer, body) VALUES (:new, 3, 'new') ON CONFLICT DO NOTHING;
UPDATE shot SET id = 3000000000 + :id WHERE id = :id + 17;
UPDATE shadow SET id = 3000000000 + :id WHERE id = :id + 17;
DELETE FROM shot WHERE id = :id + 5;
DELETE FROM shadow WHERE id = :id + 5;
COMMIT;
};
my $script = PostgreSQL::Test::Utils::tempdir() . '/script';
append_to_file($script, $writers);
my $seed = $ENV{TENANTMIG_SEED} // int(rand(1_000_000));
srand($seed);
note("TENANTMIG_SEED=$seed");

foreach my $round (1 .. 10)
{
	my $kills = 0;
	# by statements, and without
	my ($source, $method, $tenant) = $round % 2
	  ? (q(expression => $$'t' || customer % 7$$), 'auto', q('t' || customer % 7))
	  : (q(value => 'acme'), 'pages', q('acme'));

	$node->safe_psql('postgres', 'DROP TABLE IF EXISTS shot, shadow');
	make_table($node, 'shot', rows => 30000);
	$node->safe_psql('postgres', 'CREATE TABLE shadow (LIKE shot INCLUDING ALL); INSERT INTO shadow SELECT * FROM shot');
	$job = submit($node, qq(tenantmig.backfill('shot', $source, options => '{"method": "$method", "keep_trigger": true, "max_rows_per_second": 30000}')));
	while ($kills < 2)
	{
		my $run = IPC::Run::start([ $node->installed_command('pgbench'), '-n', '-c', '3', '-R', '200', '-T', '600', '-f', $script, $node->connstr('postgres') ],
			'>', \my $out, '2>', \my $err);
		my $target = int(rand(25000));

		wait_until($node, "SELECT coalesce((SELECT rows_done FROM tenantmig.job_progress WHERE job = $job), 0) >= $target OR (SELECT state FROM tenantmig.jobs WHERE id = $job) = 'succeeded'",
			"round $round: $target rows are done");
		$node->stop('immediate');
		eval { $run->finish };
		$node->start;
		$kills++;
	}
	wait_job_state($node, $job, 'succeeded');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM ((TABLE shadow EXCEPT ALL SELECT id, customer, body, touched, NULL FROM shot) UNION ALL (SELECT id, customer, body, touched, NULL FROM shot EXCEPT ALL TABLE shadow)) d}),
		'0', "round $round: the rows are those of the shadow");
	is(wrong_tenants($node, 'shot', $tenant), 0, "round $round: and all have their tenant");
	assert_sound('shot', "round $round");
}

done_testing();
