# A job while its database, or another one, is dropped, renamed, copied,
# dumped and restored, and while the extension is dropped or changed.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use TenantMig;

my $rows = 20_000;
my $longest = $PostgreSQL::Test::Utils::timeout_default;

# debug1: the postmaster says which background workers it starts
my $node = new_node(
	'database',
	preload => 1,
	stop_points => 1,
	conf => "log_min_messages = debug1\n");

# A database with a table to fill
sub make_database
{
	my ($db) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, qq{
		CREATE EXTENSION tenantmig;
		CREATE TABLE item (id int PRIMARY KEY, pad text NOT NULL, tenant_id text);
		INSERT INTO item SELECT i, repeat('x', 40) || i FROM generate_series(1, $rows) i;
	});
}

# A backfill there whose worker stands still between two batches, some rows
# done and others not; returns its id
sub start_and_stop
{
	my ($db) = @_;
	my $job;

	stop_at($node, 'backfill-covered:wait');
	$job = $node->safe_psql($db,
		q{SELECT tenantmig.backfill('item', value => 'acme',
			options => '{"method": "ranges", "batch_target": "1ms"}')});
	wait_at($node, $job, 'backfill-covered', db => $db);
	stop_at($node, 'batch-committed:wait');
	wait_at($node, $job, 'batch-committed', db => $db);
	return $job;
}

# Every row has its tenant and is otherwise as it was made, and no trigger of
# ours is left
sub all_filled
{
	my ($db, $message) = @_;

	is( $node->safe_psql($db, q{
			SELECT count(*), count(*) FILTER (WHERE tenant_id = 'acme'
					AND pad = repeat('x', 40) || id), count(DISTINCT id),
				(SELECT count(*) FROM pg_trigger WHERE tgrelid = 'item'::regclass)
			FROM item}),
		"$rows|$rows|$rows|0", $message);
}

# An error within the deadline that CountOtherDBBackends sets, not a wait
sub refused
{
	my ($sql, $message) = @_;
	my $start = time();
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql");

	isnt($rc, 0, "$message: refused");
	like($err, qr/55006.*accessed by other users/s, "$message: says why");
	cmp_ok(time() - $start, '<', $longest, "$message: in bounded time");
}

sub done_in_time
{
	my ($sql, $message) = @_;
	my $start = time();

	$node->safe_psql('postgres', $sql);
	cmp_ok(time() - $start, '<', $longest, "$message: done in bounded time");
}

# How many background workers of that name the postmaster has started
sub started
{
	my ($name, $offset) = @_;
	my $log = slurp_file($node->logfile, $offset);
	my $count = () = $log =~ /starting background worker process "\Q$name\E"/g;

	return $count;
}

sub log_size
{
	return -s $node->logfile;
}

#
# DROP, RENAME and CREATE ... TEMPLATE of the database of a running job
#
make_database('app');
make_database('idle');
my $job = start_and_stop('app');

refused('DROP DATABASE app', 'drop of the database of a running job');
refused('ALTER DATABASE app RENAME TO app2', 'rename of the database of a running job');
refused('CREATE DATABASE app_copy TEMPLATE app', 'copy of the database of a running job');
is(job_state($node, $job, db => 'app'), 'running', 'the job runs on');

# of other ones
done_in_time('ALTER DATABASE idle RENAME TO idle2', 'rename of another database');
done_in_time('CREATE DATABASE idle3 TEMPLATE idle2', 'copy of another database');
done_in_time('DROP DATABASE idle3', 'drop of another database');
done_in_time('DROP DATABASE idle2 WITH (FORCE)', 'drop of another database by force');

release($node);
wait_job_state($node, $job, 'succeeded', db => 'app');
all_filled('app', 'filled in spite of it all');

# A renamed database is still the home of its jobs.  The worker has said that
# the job succeeded and is about to leave: RENAME waits some seconds for that.
done_in_time('ALTER DATABASE app RENAME TO renamed', 'rename after the job');
is(job_state($node, $job, db => 'renamed'), 'succeeded', 'its jobs are known after a rename');
$node->safe_psql('renamed', q{UPDATE item SET tenant_id = NULL});
$job = start_and_stop('renamed');
release($node);
wait_job_state($node, $job, 'succeeded', db => 'renamed');
all_filled('renamed', 'and new ones run there');
done_in_time('DROP DATABASE renamed', 'drop after the job');

# by force, between two batches and in the middle of one
foreach my $point (qw(batch-committed batch-updated))
{
	make_database('app');
	$job = start_and_stop('app');
	stop_at($node, "$point:wait");
	wait_at($node, $job, $point, db => 'app');
	done_in_time('DROP DATABASE app WITH (FORCE)', "drop by force at $point");
	is( $node->safe_psql('postgres', q{SELECT count(*) FROM pg_database WHERE datname = 'app'}),
		'0', "gone by force at $point");
	wait_no_worker($node);
	release($node);
}

#
# Copies: jobs arrive paused, and nothing but resume() runs them
#
make_database('app');
$node->safe_psql('app', q{CREATE TABLE other AS SELECT i AS id, NULL::text AS tenant_id
	FROM generate_series(1, 1000) i});
$job = start_and_stop('app');
$node->safe_psql('app', "SELECT tenantmig.pause($job)");
wait_job_state($node, $job, 'paused', db => 'app');
stop_at($node, 'worker-start:wait');
my $queued = $node->safe_psql('app', q{SELECT tenantmig.backfill('other', value => 'acme', options => '{"method": "ranges"}')});
wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity
	WHERE application_name = 'tenantmig at worker-start'}, 'a worker is about to take the job');
# nobody may be connected while it is copied: a worker that was sent away
# leaves its job queued
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid, 60000)
	FROM pg_stat_activity WHERE backend_type = 'tenantmig worker'});
is(job_state($node, $queued, db => 'app'), 'queued', 'a job is queued when its database is copied');
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE app');

my $copied = q{SELECT id, state, phase FROM tenantmig.jobs ORDER BY id};
my $phase = 'restored from a dump or a copy';
is($node->safe_psql('copy', $copied), "$job|paused|$phase\n$queued|paused|$phase",
	'the jobs of a copied database are paused, and say why');
my $before = $node->safe_psql('copy', q{SELECT count(*) FROM item WHERE tenant_id IS NULL});
cmp_ok($before, '>', 0, 'the copy has rows to fill');
cmp_ok($before, '<', $rows, 'and some that are filled');

# The launcher visits each database after a restart, and runs what is queued
# in the one that the job was recorded in, not in the copy
release($node);
my $offset = log_size();
$node->restart;
wait_job_state($node, $queued, 'succeeded', db => 'app');
ok(poll_for($longest, sub { started('tenantmig starter', $offset) >= 3 }),
	'the launcher visits all databases');
wait_no_worker($node);
is(started("tenantmig job $queued", $offset), 1, 'the queued job was started once: at home');
is(started("tenantmig job $job", $offset), 0, 'the paused one nowhere');
is($node->safe_psql('copy', $copied), "$job|paused|$phase\n$queued|paused|$phase",
	'in the copy they are still paused');
is($node->safe_psql('copy', q{SELECT count(*) FROM item WHERE tenant_id IS NULL}), $before,
	'and nothing was filled there');

# neither does asking for the same call start them
my ($ret, $stdout, $stderr) = $node->psql('copy', "CALL tenantmig.run($job)");
isnt($ret, 0, 'run() does not take over a copied job');
$node->safe_psql('copy', "SELECT tenantmig.resume($job)");
wait_job_state($node, $job, 'succeeded', db => 'copy');
all_filled('copy', 'resume() in the copy completes it');
$node->safe_psql('copy', "SELECT tenantmig.resume($queued)");
wait_job_state($node, $queued, 'succeeded', db => 'copy');
is($node->safe_psql('copy', q{SELECT count(*) FROM other WHERE tenant_id = 'acme'}), '1000',
	'the queued one too');
is(job_state($node, $job, db => 'app'), 'paused', 'which does nothing to the original');
$node->safe_psql('app', "SELECT tenantmig.resume($job)");
wait_job_state($node, $job, 'succeeded', db => 'app');
all_filled('app', 'and resume() there completes that one');
$node->safe_psql('postgres', 'DROP DATABASE copy');
$node->safe_psql('postgres', 'DROP DATABASE app');

#
# Dump and restore in mid-job: with the worker at work, paused and queued
#
make_database('app');
$node->safe_psql('app', q{
	CREATE SCHEMA "Odd schema";
	CREATE TABLE "Odd schema"."Item" AS SELECT i AS id, NULL::text AS tenant_id
		FROM generate_series(1, 1000) i;
	CREATE TABLE done AS SELECT i AS id, NULL::text AS tenant_id
		FROM generate_series(1, 1000) i;
});
my $done = $node->safe_psql('app', q{SELECT tenantmig.backfill('done', value => 'acme', options => '{"method": "ranges"}')});
wait_job_state($node, $done, 'succeeded', db => 'app');
$job = start_and_stop('app');
$node->safe_psql('app', q{ALTER SYSTEM SET tenantmig.max_workers = 1});
$node->reload;
$queued = $node->safe_psql('app',
	q{SELECT tenantmig.backfill('"Odd schema"."Item"', value => 'acme', options => '{"method": "ranges"}')});
is(job_state($node, $job, db => 'app'), 'running', 'a job runs when its database is dumped');

my $dump = $PostgreSQL::Test::Utils::tmp_check . '/app.sql';
$node->command_ok([ 'pg_dump', '--file' => $dump, 'app' ], 'dump in mid-job');
# what is in the way of the new database's own OIDs: tables must be found by
# name there
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->safe_psql('restored', 'CREATE TABLE between (a int); CREATE TABLE between2 (a int)');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'restored', '-f', $dump ],
	'restore');
release($node);
$node->safe_psql('app', q{ALTER SYSTEM RESET tenantmig.max_workers});
$node->reload;
wait_job_state($node, $job, 'succeeded', db => 'app');

is($node->safe_psql('restored', q{SELECT id, relation, state, phase FROM tenantmig.jobs ORDER BY id}),
	qq{$done|public.done|succeeded|done\n}
	  . qq{$job|public.item|paused|$phase\n}
	  . qq{$queued|"Odd schema"."Item"|paused|$phase},
	'restored jobs are paused, the ended one is ended');
is($node->safe_psql('restored', q{SELECT j.relid = 'item'::regclass
	FROM tenantmig.stat_progress j WHERE job = } . $job), 't', 'found by name');
cmp_ok($node->safe_psql('restored', q{SELECT count(*) FROM item WHERE tenant_id IS NULL}),
	'>', 0, 'the restored database has rows to fill');
$node->safe_psql('restored', "SELECT tenantmig.resume($_)") foreach ($job, $queued);
wait_job_state($node, $job, 'succeeded', db => 'restored');
wait_job_state($node, $queued, 'succeeded', db => 'restored');
all_filled('restored', 'resumed where it was restored');
is($node->safe_psql('restored', q{SELECT count(*) FROM "Odd schema"."Item" WHERE tenant_id = 'acme'}),
	'1000', 'the queued one too');
my $next = $node->safe_psql('restored', q{SELECT tenantmig.create_tenant('x');
	CREATE TABLE later (id int, tenant_id text);
	SELECT tenantmig.backfill('later', value => 'acme', options => '{"method": "ranges"}')});
$next =~ s/.*\n//s;
cmp_ok($next, '>', $queued, 'the ids go on after a restore');
wait_job_state($node, $next, 'succeeded', db => 'restored');

# The other order: what the dump says of the original must not touch it
all_filled('app', 'the original is complete as well');
$node->safe_psql('postgres', 'DROP DATABASE restored WITH (FORCE)');
$node->safe_psql('postgres', 'DROP DATABASE app WITH (FORCE)');

#
# DROP EXTENSION, DROP + CREATE, and what an upgrade script does
#
make_database('app');

# a session that has called the extension's functions before
my ($session) = new_session($node, db => 'app');
$session->query_safe(q{SELECT count(*) FROM tenantmig.jobs});

$job = start_and_stop('app');
($ret, $stdout, $stderr) = $node->psql('app', 'DROP EXTENSION tenantmig');
isnt($ret, 0, 'plain DROP EXTENSION is refused while the fill trigger is there');
like($stderr, qr/cannot drop extension tenantmig because other objects depend on it/,
	'with the reason');
is(job_state($node, $job, db => 'app'), 'running', 'the job runs on');

# an upgrade script, as far as locks and catalogs are concerned
$node->safe_psql('app', q{
	BEGIN;
	ALTER EXTENSION tenantmig UPDATE;
	ALTER TABLE tenantmig.job ADD COLUMN later text;
	ALTER TABLE tenantmig.job_progress ADD COLUMN later integer DEFAULT 1;
	CREATE OR REPLACE FUNCTION tenantmig.pause(job bigint) RETURNS void
		LANGUAGE c STRICT AS 'tenantmig', 'tenantmig_pause';
	COMMIT;
});
is(job_state($node, $job, db => 'app'), 'running', 'the job survives an upgrade');
release($node);
wait_job_state($node, $job, 'succeeded', db => 'app');
all_filled('app', 'filled in spite of an upgrade');

# The same while a batch is open: the upgrade waits for its end, no longer
$node->safe_psql('app', 'UPDATE item SET tenant_id = NULL');
$job = start_and_stop('app');
stop_at($node, 'batch-updated:wait');
wait_at($node, $job, 'batch-updated', db => 'app');
my ($upgrade, $upgrade_pid) = new_session($node, db => 'app');
$upgrade->query_until(qr/started/, qq{\\echo started
ALTER TABLE tenantmig.job ADD COLUMN later2 text;
});
wait_blocked($node, $upgrade_pid, 'one waits for the other');
release($node);
$upgrade->query_safe('SELECT 1');
$upgrade->quit;
wait_job_state($node, $job, 'succeeded', db => 'app');
all_filled('app', 'filled in spite of an upgrade that waited');

# CASCADE between two batches
$node->safe_psql('app', 'UPDATE item SET tenant_id = NULL');
$job = start_and_stop('app');
$node->safe_psql('app', 'SET client_min_messages = error; DROP EXTENSION tenantmig CASCADE');
release($node);
wait_no_worker($node);
is($node->safe_psql('app', q{SELECT count(*), (SELECT count(*) FROM pg_trigger
		WHERE tgrelid = 'item'::regclass) FROM item WHERE pad = repeat('x', 40) || id}),
	"$rows|0", 'after DROP EXTENSION CASCADE the trigger is gone and the rows are all there');
$node->safe_psql('app', q{INSERT INTO item VALUES (-1, 'new'); DELETE FROM item WHERE id = -1});

# Made anew, it works, in a session that knew the old one too
$node->safe_psql('app', 'CREATE EXTENSION tenantmig');
is($session->query_safe(q{SELECT count(*) FROM tenantmig.jobs}), '0', 'the new one is empty');
$job = $session->query_safe(q{SELECT tenantmig.backfill('item', value => 'acme', options => '{"method": "ranges"}')});
wait_job_state($node, $job, 'succeeded', db => 'app');
all_filled('app', 'a new backfill works');

# CASCADE in the middle of a batch, and CREATE right behind it: the drop waits
# for the batch, and the worker must not take the new tables for its own
$node->safe_psql('app', 'UPDATE item SET tenant_id = NULL');
$job = start_and_stop('app');
stop_at($node, 'batch-updated:wait');
wait_at($node, $job, 'batch-updated', db => 'app');
my ($dropper, $dropper_pid) = new_session($node, db => 'app');
$dropper->query_until(qr/started/, qq{\\echo started
DROP EXTENSION tenantmig CASCADE; CREATE EXTENSION tenantmig;
});
wait_blocked($node, $dropper_pid, 'one waits for the other');
release($node);
$dropper->query_safe('SELECT 1');
$dropper->quit;
wait_no_worker($node);
is($node->safe_psql('app', q{SELECT count(*) FROM tenantmig.jobs}), '0',
	'the worker wrote nothing into the new tables');
is($node->safe_psql('app', q{SELECT count(*), (SELECT count(*) FROM pg_trigger
		WHERE tgrelid = 'item'::regclass) FROM item WHERE pad = repeat('x', 40) || id}),
	"$rows|0", 'no trigger, all rows');
$session->query_safe(q{SELECT count(*) FROM tenantmig.jobs});
$job = $session->query_safe(q{SELECT tenantmig.backfill('item', value => 'acme', options => '{"method": "ranges"}')});
$session->quit;
wait_job_state($node, $job, 'succeeded', db => 'app');
all_filled('app', 'and a new backfill works again');

# The same in one transaction with a new job, which gets the number of the old
# one: the worker, between two batches, must not go on with its own value
$node->safe_psql('app', 'UPDATE item SET tenant_id = NULL;
	SET client_min_messages = error;
	DROP EXTENSION tenantmig CASCADE; CREATE EXTENSION tenantmig');
$job = start_and_stop('app');
is( $node->safe_psql(
		'app', q{
		SET client_min_messages = error;
		BEGIN;
		DROP EXTENSION tenantmig CASCADE;
		CREATE EXTENSION tenantmig;
		UPDATE item SET tenant_id = NULL;
		SELECT tenantmig.backfill('item', value => 'other', options => '{"method": "ranges"}');
		COMMIT}),
	$job, 'a new job has the number of the old one');
release($node);
wait_job_state($node, $job, 'succeeded', db => 'app');
is(wrong_tenants($node, 'item', q('other'), db => 'app'),
	'0', 'its rows have its value, not that of the old one');
assert_clean($node, db => 'app');

# An uncommitted DROP EXTENSION holds a job up, and lets it go on when it is
# rolled back
$node->safe_psql('app', 'UPDATE item SET tenant_id = NULL');
$job = start_and_stop('app');
my ($undecided) = new_session($node, db => 'app');
$undecided->query_safe('BEGIN');
$undecided->query_safe('DROP EXTENSION tenantmig CASCADE');
my $worker = $node->safe_psql('postgres',
	q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'tenantmig worker'});
release($node);
wait_blocked($node, $worker, 'one waits for the other');
$undecided->query_safe('ROLLBACK');
$undecided->quit;
wait_job_state($node, $job, 'succeeded', db => 'app');
all_filled('app', 'a job goes on after a DROP EXTENSION that was rolled back');

assert_no_crash($node);
$node->stop;
done_testing();
