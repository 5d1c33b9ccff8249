# Indexes of partitioned tables: partitions that come and go while they are
# built, and every way to be interrupted.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TenantMig;

my $node = new_node('partitions', stop_points => 1, preload => 1);

$node->safe_psql('postgres', 'CREATE EXTENSION amcheck');

# Two levels, and a leaf whose columns are in another order
sub make_tree
{
	my ($name) = @_;

	$node->safe_psql('postgres', qq{
		CREATE TABLE $name (id int NOT NULL, at int NOT NULL, tenant_id text NOT NULL, email text) PARTITION BY RANGE (at);
		CREATE TABLE ${name}_1 PARTITION OF $name FOR VALUES FROM (0) TO (100);
		CREATE TABLE ${name}_2 PARTITION OF $name FOR VALUES FROM (100) TO (200) PARTITION BY LIST (id);
		CREATE TABLE ${name}_2_a PARTITION OF ${name}_2 FOR VALUES IN (1, 2, 3);
		CREATE TABLE ${name}_2_b (email text, gone int, tenant_id text NOT NULL, at int NOT NULL, id int NOT NULL);
		ALTER TABLE ${name}_2_b DROP COLUMN gone;
		ALTER TABLE ${name}_2 ATTACH PARTITION ${name}_2_b DEFAULT;
		INSERT INTO $name SELECT i % 9, i % 200, 't' || i % 7, 'm' || i FROM generate_series(1, 3000) i;});
}

sub drop_tree
{
	my ($name) = @_;

	$node->safe_psql('postgres', qq{
		DO \$\$ DECLARE t text; BEGIN
			FOR t IN SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
					AND relname LIKE '$name%' AND relkind IN ('r', 'p') LOOP
				EXECUTE 'DROP TABLE IF EXISTS ' || t; END LOOP; END \$\$});
}

sub call_for
{
	my ($name) = @_;
	return "tenantmig.create_index('$name', '{tenant_id,email,at,id}', '${name}_tenant', is_unique => true)";
}

# Valid on every table of the tree, attached all the way up, and whole
sub index_is_whole
{
	my ($name) = @_;

	is($node->safe_psql('postgres', qq{
		SELECT string_agg(t.relid::regclass::text, ' ') FROM pg_partition_tree('$name') t
		WHERE NOT EXISTS (SELECT FROM pg_index i JOIN pg_partition_tree('${name}_tenant') x ON x.relid = i.indexrelid
			WHERE i.indrelid = t.relid AND i.indisvalid AND i.indisready AND i.indisunique)}), '',
		"every partition of $name has its index");
	is($node->safe_psql('postgres', qq{
		SELECT count(bt_index_check(i.indexrelid, true)) = count(*) FROM pg_index i
		JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relkind = 'i' AND i.indrelid IN
			(SELECT relid FROM pg_partition_tree('$name'))}), 't', 'and they hold every row');
}

sub indexes_left
{
	my ($name) = @_;

	return $node->safe_psql('postgres', "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public' AND tablename LIKE '$name%'");
}

sub undo
{
	my ($job) = @_;

	wait_job_state($node, submit($node, "tenantmig.undo($job)"), 'succeeded');
}

#
# Partitions that come and go
#
for my $point ('index-tree-listed', 'index-parent-created', 'index-leaves-built')
{
	make_tree('p');
	stop_at($node, "$point:wait");
	my $job = submit($node, call_for('p'));
	wait_at($node, $job, $point);
	sql_ok($node, [
		'CREATE TABLE p_3 PARTITION OF p FOR VALUES FROM (200) TO (300)',
		'CREATE TABLE p_2_c PARTITION OF p_2 FOR VALUES IN (77)',
		'CREATE TABLE p_4 PARTITION OF p FOR VALUES FROM (300) TO (400) PARTITION BY LIST (id)',
		'CREATE TABLE p_4_a PARTITION OF p_4 DEFAULT',
		'CREATE TABLE p_5 (LIKE p)', q{INSERT INTO p_5 SELECT 1, 400, 't', i::text FROM generate_series(1, 100) i},
		'ALTER TABLE p ATTACH PARTITION p_5 FOR VALUES FROM (400) TO (500)',
		'DROP TABLE p_2_a',
		'ALTER TABLE p DETACH PARTITION p_1'], "partitions come and go at $point");
	release($node);
	wait_job_state($node, $job, 'succeeded');
	index_is_whole('p');
	assert_clean($node);
	undo($job);
	is(indexes_left('p'), 0, 'undo leaves none, on the detached one neither');
	assert_clean($node);
	drop_tree('p');
}

# The last one that lacks its index goes after the others have been attached
$node->safe_psql('postgres', q{
	CREATE TABLE q (id int, at int, tenant_id text, email text) PARTITION BY LIST (id);
	CREATE TABLE q_1 PARTITION OF q FOR VALUES IN (1);
	CREATE TABLE q_2 PARTITION OF q FOR VALUES IN (2);
	INSERT INTO q SELECT 1 + i % 2, i, 't', i FROM generate_series(1, 100) i});
stop_at($node, 'index-attached:wait');
my $job = submit($node, call_for('q'));
wait_at($node, $job, 'index-attached');
my $rest = $node->safe_psql('postgres', q{
	SELECT relid FROM pg_partition_tree('q') WHERE isleaf AND NOT EXISTS
		(SELECT FROM pg_inherits JOIN pg_index ON indexrelid = inhrelid WHERE indrelid = relid)});
like($rest, qr/^q_[12]$/, 'one is attached, one is not');
sql_ok($node, "DROP TABLE $rest", 'and that one goes');
release($node);
wait_job_state($node, $job, 'succeeded');
index_is_whole('q');
undo($job);
is(indexes_left('q'), 0, 'undo leaves none');
drop_tree('q');
assert_clean($node);

# An index that somebody has made, under a name that we would have chosen
make_tree('p');
stop_at($node, 'index-parent-created:wait');
$job = submit($node, call_for('p'));
wait_at($node, $job, 'index-parent-created');
$node->safe_psql('postgres', 'CREATE INDEX p_1_tenant_id_email_at_id_idx ON p_1 (id)');
release($node);
wait_job_state($node, $job, 'succeeded');
index_is_whole('p');
undo($job);
is(indexes_left('p'), 1, 'theirs stays');
drop_tree('p');
assert_clean($node);

#
# Interrupted
#
for my $point ('index-tree-listed', 'index-parent-created', 'toplevel-before', 'toplevel-after', 'index-built',
	'index-leaves-built', 'index-attached', 'job-end')
{
	make_tree('p');

	# killed: it goes on
	stop_at($node, "$point:wait");
	$job = submit($node, call_for('p'));
	wait_at($node, $job, $point);
	kill 9, worker_pid($node, $job);
	release($node);
	wait_until($node, 'SELECT true', 'the server is back');
	wait_job_state($node, $job, 'succeeded');
	index_is_whole('p');
	undo($job);
	is(indexes_left('p'), 0, "undone after a kill at $point");
	assert_clean($node);

	# cancelled: nothing is left that is not complete
	stop_at($node, "$point:wait");
	$job = submit($node, call_for('p'));
	wait_at($node, $job, $point);
	$node->safe_psql('postgres', "SELECT tenantmig.cancel($job)");
	release($node);
	wait_job_state($node, $job, 'cancelled');
	undo($job) if $point eq 'job-end';		# it was complete
	is(indexes_left('p'), 0, "nothing is left after a cancel at $point");
	assert_clean($node);
	drop_tree('p');
}

# the server is stopped at once while the first partition is built, and the
# undo of it is too
make_tree('p');
my ($writer) = new_session($node);
$writer->query_safe('BEGIN');
$writer->query_safe(q{INSERT INTO p_1 VALUES (1, 1, 'new', 'new')});
$job = submit($node, call_for('p'));
wait_until($node, 'SELECT count(*) > 0 FROM pg_index WHERE NOT indisvalid AND indrelid = ' . q{'p_1'::regclass},
	'a build waits for a writer');
$node->stop('immediate');
$node->start;
wait_job_state($node, $job, 'succeeded');
index_is_whole('p');
stop_at($node, 'inverse-before:wait');
my $undo = submit($node, "tenantmig.undo($job)");
wait_until($node, "SELECT state IN ('running', 'succeeded') FROM tenantmig.jobs WHERE id = $undo", 'undo has begun');
$node->stop('immediate');
stop_at($node, '');
$node->start;
wait_job_state($node, $undo, 'succeeded');
is(indexes_left('p'), 0, 'undone');
drop_tree('p');
assert_clean($node);

# duplicates in one leaf, found by the last build: it fails, nothing invalid is
# left, and the way back is open
make_tree('p');
$node->safe_psql('postgres', q{INSERT INTO p VALUES (8, 150, 'd', 'd'), (8, 150, 'd', 'd')});
$job = submit($node, call_for('p'));
wait_job_state($node, $job, 'failed');
is(job_field($node, $job, 'sqlstate'), '23505', 'duplicates fail it');
assert_clean($node);
undo($job);
is(indexes_left('p'), 0, 'undone');
$node->safe_psql('postgres', q{DELETE FROM p WHERE email = 'd'});
$job = submit($node, call_for('p'));
wait_job_state($node, $job, 'succeeded');
index_is_whole('p');
is(sql_error($node, q{INSERT INTO p VALUES (1, 1, 'n', 'n'), (1, 1, 'n', 'n')})->{sqlstate}, '23505', 'and it is unique');

$node->stop;
done_testing();
