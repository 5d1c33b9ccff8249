# The way back of set_not_null: partitions and children that were NOT NULL before
# stay so at every instant, however the undo is interrupted, and are not read
# under a strong lock.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TenantMig;

my $node = new_node('not_null', stop_points => 1, preload => 1);

$node->safe_psql('postgres', q{
	CREATE TABLE p (id int, tenant_id text) PARTITION BY LIST (id);
	CREATE TABLE p_1 PARTITION OF p FOR VALUES IN (1);
	CREATE TABLE p_2 PARTITION OF p FOR VALUES IN (2) PARTITION BY LIST (id);
	CREATE TABLE p_2_a PARTITION OF p_2 FOR VALUES IN (2);
	CREATE TABLE p_3 PARTITION OF p FOR VALUES IN (3);
	ALTER TABLE p_1 ALTER tenant_id SET NOT NULL;
	ALTER TABLE p_2 ALTER tenant_id SET NOT NULL;
	CREATE TABLE base (id int, tenant_id text);
	CREATE TABLE kept () INHERITS (base);
	CREATE TABLE loose () INHERITS (base);
	ALTER TABLE kept ALTER tenant_id SET NOT NULL;
	INSERT INTO p SELECT 1 + i % 3, 't' FROM generate_series(1, 1000) i;
	INSERT INTO kept SELECT i, 't' FROM generate_series(1, 1000) i;
	INSERT INTO loose SELECT i, 't' FROM generate_series(1, 1000) i});

sub not_null
{
	return $node->safe_psql('postgres', q{
		SELECT string_agg(attrelid::regclass::text, ' ' ORDER BY attrelid::regclass::text COLLATE "C") FROM pg_attribute
		WHERE attname = 'tenant_id' AND attnotnull AND attrelid::regclass::text IN ('p', 'p_1', 'p_2', 'p_2_a', 'p_3', 'base', 'kept', 'loose')});
}

sub constraints
{
	return $node->safe_psql('postgres', "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND conrelid > 16384 AND connamespace = 'public'::regnamespace");
}

my $before = not_null();
is($before, 'kept p_1 p_2 p_2_a', 'those that are NOT NULL');

for my $table ('p', 'base')
{
	for my $point ('not-null-back-added', 'not-null-back-validated', 'not-null-back-done', 'job-end')
	{
		for my $how ('kill', 'terminate', 'immediate')
		{
			my $job = submit($node, "tenantmig.set_not_null('$table')");
			wait_job_state($node, $job, 'succeeded');
			stop_at($node, "$point:wait");
			my $undo = submit($node, "tenantmig.undo($job)");
			wait_at($node, $undo, $point);
			for my $kept ($table eq 'p' ? ('p_1', 'p_2_a') : ('kept'))
			{
				my $id = $kept eq 'p_2_a' ? 2 : 1;
				like(sql_error($node, "INSERT INTO $kept VALUES ($id, NULL)")->{sqlstate}, qr/^23502$/, "$kept is NOT NULL at $point");
			}
			if ($how eq 'immediate')
			{
				$node->stop('immediate');
				stop_at($node, '');
				$node->start;
			}
			elsif ($how eq 'kill')
			{
				kill 9, worker_pid($node, $undo);
				stop_at($node, '');
				wait_until($node, 'SELECT true', 'the server is back');
			}
			else
			{
				$node->safe_psql('postgres', "SELECT pg_terminate_backend(tenantmig.job_pid($undo))");
				stop_at($node, '');
				wait_until($node, "SELECT tenantmig.job_pid($undo) IS NULL OR state = 'succeeded' FROM tenantmig.jobs WHERE id = $undo",
					'the worker has gone');
				$node->safe_psql('postgres', "SELECT CASE WHEN state = 'paused' THEN tenantmig.resume($undo) END FROM tenantmig.jobs WHERE id = $undo");
			}
			wait_job_state($node, $undo, 'succeeded');
			is(not_null(), $before, "back to what it was after $how at $point");
			is(constraints(), '0', 'and no constraint is left');
			assert_clean($node);
		}
	}
}

# cancelled: what is NOT NULL stays so
my $job = submit($node, q{tenantmig.set_not_null('p')});
wait_job_state($node, $job, 'succeeded');
stop_at($node, 'not-null-back-validated:wait');
my $undo = submit($node, "tenantmig.undo($job)");
wait_at($node, $undo, 'not-null-back-validated');
$node->safe_psql('postgres', "SELECT tenantmig.cancel($undo)");
release($node);
wait_job_state($node, $undo, 'cancelled');
is(not_null(), 'kept p p_1 p_2 p_2_a p_3', 'a cancelled undo leaves all of it NOT NULL');
is(constraints(), '0', 'and no constraint');
assert_clean($node);

$node->stop;
done_testing();
