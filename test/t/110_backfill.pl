# What a backfill must not miss, and whom it must not hold up: rows that
# updates keep moving, and writers of rows that a batch has updated while
# others hold rows that it still needs.
use strict;
use warnings FATAL => 'all';

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use TenantMig;

my $node = new_node('backfill', stop_points => 1, conf => "max_connections = 60\nautovacuum = off\n");
my $job;

#
# A row that each update moves to a new block, by a session in which the fill
# trigger does not fire: it outruns a pass that ends at a size read before
#
$node->safe_psql('postgres', q{
CREATE TABLE docs (id int PRIMARY KEY, doc text, tenant_id text);
ALTER TABLE docs ALTER COLUMN doc SET STORAGE PLAIN;
INSERT INTO docs SELECT i, repeat('x', 600) FROM generate_series(1, 30000) i;
INSERT INTO docs VALUES (0, repeat('y', 5000));
CREATE TABLE stop (x int);
CREATE TABLE moves (n bigint);
INSERT INTO moves VALUES (0);
CREATE PROCEDURE keep_moving() LANGUAGE plpgsql AS $$
BEGIN
	WHILE NOT EXISTS (SELECT FROM stop) LOOP
		UPDATE docs SET doc = repeat('z', 5000) WHERE id = 0;
		UPDATE moves SET n = n + 1;
		COMMIT;
		-- some ms between two updates
		PERFORM count(*) FROM generate_series(1, 30000);
		COMMIT;
	END LOOP;
END $$;
});
my $mover = background($node);
$mover->query_safe('SET session_replication_role = replica');
$mover->query_until(qr/started/, "\\echo started\nCALL keep_moving();\n");
wait_until($node, 'SELECT n > 5 FROM moves', 'a row is moved all the while');
my $moved = number($node, 'SELECT n FROM moves');
$job = submit($node, q(tenantmig.backfill('docs', value => 'acme', options => '{"method": "ranges", "nice": 1}')));
wait_job_state($node, $job, 'succeeded');
is(wrong_tenants($node, 'docs', q('acme')), 0, 'no row is without a value when the job says so');
cmp_ok(number($node, 'SELECT n FROM moves'), '>', $moved, 'the row was moved meanwhile');
$node->safe_psql('postgres', 'INSERT INTO stop VALUES (1)');
$mover->quit;
is(wrong_tenants($node, 'docs', q('acme')), 0, 'and none afterwards');
assert_clean($node);

#
# Twenty sessions that each hold one row, and let go one after the other: the
# batch comes to one locked row after the other, and each wait alone is short.
# Who wants a row that is free must not wait for all of them.
#
my $sessions = 20;
make_table($node, 'orders', rows => 20000);
$node->safe_psql('postgres', q{
CREATE TABLE waited (ms float8);
CREATE PROCEDURE write_others() LANGUAGE plpgsql AS $$
DECLARE
	start timestamptz;
BEGIN
	WHILE NOT EXISTS (SELECT FROM enough) LOOP
		FOR i IN 0 .. 9 LOOP
			start := clock_timestamp();
			UPDATE orders SET touched = touched + 1 WHERE id = i * 2000 + 2;
			COMMIT;
			INSERT INTO waited VALUES (extract(epoch FROM clock_timestamp() - start) * 1000);
			COMMIT;
		END LOOP;
	END LOOP;
END $$;
CREATE TABLE enough (x int);
});
stop_at($node, 'backfill-covered:wait');
$job = submit($node, q(tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges"}')));
wait_at($node, $job, 'backfill-covered');
my @holders = map { background($node) } 1 .. $sessions;
foreach my $i (0 .. $#holders)
{
	$holders[$i]->query_safe('BEGIN; UPDATE orders SET touched = touched + 1 WHERE id = ' . ($i * 1000 + 500));
}
my $innocent = background($node);
$innocent->query_until(qr/started/, "\\echo started\nCALL write_others();\n");
wait_until($node, 'SELECT count(*) > 20 FROM waited', 'another session writes');
release($node);
wait_until($node, "SELECT rows_done > 0 FROM tenantmig.jobs WHERE id = $job",
	'rows are filled while others are held');
foreach my $holder (@holders)
{
	my $next = time + 0.2;

	poll_for(5, sub { time >= $next });
	$holder->query_safe('COMMIT');
}
wait_job_state($node, $job, 'succeeded');
$node->safe_psql('postgres', 'INSERT INTO enough VALUES (1)');
$innocent->quit;
$_->quit foreach @holders;
my $longest = number($node, 'SELECT max(ms) FROM waited');
cmp_ok($longest, '<', 2000, 'nobody waited for rows that others held');
note("longest write beside: $longest ms");
is(wrong_tenants($node, 'orders', q('acme')), 0, 'the rows that were held are filled as well');
is(number($node, 'SELECT count(*) FROM orders WHERE touched = 1 AND id % 1000 = 500'), $sessions,
	'and keep what was written to them');
assert_clean($node);

#
# A parent that gets its tenant while orphans are assigned: what is no orphan
# any more is not given to the orphans' tenant
#
$node->safe_psql('postgres', q{
DROP TABLE orders;
CREATE TABLE customers (id int PRIMARY KEY, tenant_id text);
CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, tenant_id text);
INSERT INTO customers SELECT i, CASE WHEN i > 20 THEN 't' || i END FROM generate_series(1, 50) i;
INSERT INTO orders SELECT i, i % 50 + 1 FROM generate_series(1, 2000) i;
});
stop_at($node, 'verifying:wait');
$job = submit($node, q(tenantmig.backfill('orders', via => 'customer', options => '{"on_orphan": "assign", "orphan_value": "nobody"}')));
wait_at($node, $job, 'verifying');
$node->safe_psql('postgres', q(UPDATE customers SET tenant_id = 'late' WHERE id <= 10));
release($node);
wait_job_state($node, $job, 'succeeded');
is($node->safe_psql('postgres', q{
	SELECT count(*) FROM orders o JOIN customers c ON c.id = o.customer
	WHERE o.tenant_id IS DISTINCT FROM COALESCE(c.tenant_id, 'nobody')}),
	'0', 'only orphans have the orphans\' value');
is($node->safe_psql('postgres', q(SELECT count(*) FROM orders WHERE tenant_id = 'nobody')),
	'400', 'and all of them');
assert_clean($node);

done_testing();
