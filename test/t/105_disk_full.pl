# No space left: the job pauses, says why, says it once, and goes on from there
# when somebody has made room.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TenantMig;

my $node = new_node('disk_full');

sub times_in_log
{
	my ($pattern, $offset) = @_;
	my $log = slurp_file($node->logfile, $offset);
	my $count = () = $log =~ /$pattern/g;

	return $count;
}

# The server's own error for a full disk, from a trigger: every row but the
# first few thousand does not fit while the switch is on
make_table($node, 'orders', rows => 8000);
$node->safe_psql('postgres', q{
	CREATE TABLE disk (is_full boolean);
	INSERT INTO disk VALUES (true);
	CREATE FUNCTION fill_up() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.id > 5000 AND (SELECT is_full FROM disk) THEN
			RAISE EXCEPTION USING errcode = '53100', message = 'could not extend file: No space left on device';
		END IF;
		RETURN NEW;
	END $$;
	CREATE TRIGGER fill_up BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION fill_up();
});
my $before = digest($node, 'orders');
my $offset = -s $node->logfile;
my $job = submit($node, q(tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges", "batch_target": "1ms"}')));
wait_job_state($node, $job, 'paused');
like(job_field($node, $job, 'error'), qr/No space left on device/, 'the job is paused with the reason');
is(job_field($node, $job, 'sqlstate'), '53100', 'and its SQLSTATE');
is(job_field($node, $job, 'next_action'), "SELECT tenantmig.resume($job);", 'and what to do');
my $done = $node->safe_psql('postgres', 'SELECT count(tenant_id) FROM orders');
cmp_ok($done, '>', 0, 'what was done before is kept');
cmp_ok($done, '<=', 5000, 'the rest is not done');
is(times_in_log(qr/LOG:  job $job stopped/, $offset), 1, 'one line in the log');
is( $node->safe_psql('postgres', q{
		INSERT INTO orders (id, customer, body) VALUES (-1, 0, 'new') RETURNING tenant_id}),
	'acme', 'new rows are covered while it is paused');
$node->safe_psql('postgres', 'DELETE FROM orders WHERE id = -1');

# asked for too early: again one line, and paused again
$offset = -s $node->logfile;
$node->safe_psql('postgres', "SELECT tenantmig.resume($job)");
wait_until($node, "SELECT state = 'paused' AND attempts = 2 FROM tenantmig.jobs WHERE id = $job",
	'paused again');
is(times_in_log(qr/LOG:  job $job stopped/, $offset), 1, 'one line for each attempt');

$node->safe_psql('postgres', 'UPDATE disk SET is_full = false');
$node->safe_psql('postgres', "SELECT tenantmig.resume($job)");
wait_job_state($node, $job, 'succeeded');
is(job_field($node, $job, 'error'), '', 'the reason is gone');
is(wrong_tenants($node, 'orders', q('acme')), 0, 'all rows are filled');
is(digest($node, 'orders'), $before, 'and otherwise as they were');
assert_clean($node);

# An index, where the disk is full in the middle of the build
$node->safe_psql('postgres', q{
	UPDATE disk SET is_full = true;
	CREATE FUNCTION big(bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
	BEGIN
		IF $1 > 5000 AND (SELECT is_full FROM public.disk) THEN
			RAISE EXCEPTION USING errcode = '53100', message = 'could not extend file: No space left on device';
		END IF;
		RETURN $1;
	END $$});
$job = submit($node, q(tenantmig.create_index('orders', '{big(id)}', name => 'orders_big')));
wait_job_state($node, $job, 'paused');
is(job_field($node, $job, 'sqlstate'), '53100', 'a build that finds no room is paused');
$node->safe_psql('postgres', 'UPDATE disk SET is_full = false');
$node->safe_psql('postgres', "SELECT tenantmig.resume($job)");
wait_job_state($node, $job, 'succeeded');
is($node->safe_psql('postgres', q{SELECT indisvalid FROM pg_index WHERE indexrelid = 'orders_big'::regclass}),
	't', 'and built anew when there is some');
assert_clean($node);

# cancel() while paused: nothing half-made stays
$node->safe_psql('postgres', q{UPDATE disk SET is_full = true; UPDATE orders SET tenant_id = NULL WHERE id < 5000; DROP INDEX orders_big});
$job = submit($node, q(tenantmig.create_index('orders', '{big(id)}', name => 'orders_big')));
wait_job_state($node, $job, 'paused');
$node->safe_psql('postgres', "SELECT tenantmig.cancel($job)");
wait_job_state($node, $job, 'cancelled');
is($node->safe_psql('postgres', q{SELECT to_regclass('orders_big')}), '', 'cancel() removes what a full disk left');
assert_clean($node);

#
# A small file system of its own, where there is one to be had: needs a mount,
# which an ordinary user may not do
#
SKIP:
{
	my $dir = $ENV{TENANTMIG_SMALL_TABLESPACE};
	my $filler;

	skip 'TENANTMIG_SMALL_TABLESPACE names no empty directory on a small file system '
	  . '(as root: mount -t tmpfs -o size=16m,mode=0777 tmpfs DIR)', 1
	  unless $dir && -d $dir && -w $dir;

	mkdir "$dir/space" or die "could not make $dir/space: $!";
	$node->safe_psql('postgres', "CREATE TABLESPACE small LOCATION '$dir/space'");
	$node->safe_psql('postgres', q{
		CREATE TABLE tight (id bigint, body text, tenant_id text) TABLESPACE small;
		CREATE TABLE filler (body text) TABLESPACE small;
		ALTER TABLE filler ALTER body SET STORAGE PLAIN;
		INSERT INTO tight SELECT g, md5(g::text) FROM generate_series(1, 40000) g});
	$before = digest($node, 'tight');
	# to the brim, in smaller and smaller pieces
	foreach my $piece (1000, 100, 10)
	{
		1 while $node->psql('postgres',
			"INSERT INTO filler SELECT repeat('x', 7000) FROM generate_series(1, $piece)") == 0;
	}
	$node->safe_psql('postgres', 'CHECKPOINT');
	$offset = -s $node->logfile;
	$job = submit($node, q(tenantmig.backfill('tight', value => 'acme', options => '{"method": "ranges", "batch_target": "1ms"}')));
	wait_job_state($node, $job, 'paused');
	is(job_field($node, $job, 'sqlstate'), '53100', 'a full tablespace pauses the job');
	like(job_field($node, $job, 'error'), qr/No space left on device/, 'with the reason');
	is(times_in_log(qr/LOG:  job $job stopped/, $offset), 1, 'one line in the log');
	$node->safe_psql('postgres', 'DROP TABLE filler');
	$node->safe_psql('postgres', 'CHECKPOINT');
	$node->safe_psql('postgres', "SELECT tenantmig.resume($job)");
	wait_job_state($node, $job, 'succeeded');
	is(wrong_tenants($node, 'tight', q('acme')), 0, 'resume() fills the rest when there is room');
	is(digest($node, 'tight'), $before, 'the rows are otherwise as they were');
	assert_clean($node);
}

assert_no_crash($node);
$node->stop;
done_testing();
