# Each limit holds a job, says so with its value and the limit, and lets go
# when alter_job() lifts it or when its cause is gone.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use TenantMig;

my $stop_archiving = PostgreSQL::Test::Utils::tempdir() . '/stop';
my $node = new_node('throttle', conf => qq{
autovacuum = off
wal_level = replica
max_wal_senders = 5
max_replication_slots = 5
archive_mode = on
archive_command = 'test ! -e "$stop_archiving"'
});
my $job;

# A job on a table of its own, with these options beside short batches
sub start_job
{
	my ($table, $options, %option) = @_;

	make_table($node, $table, rows => $option{rows} // 2000);
	return submit($node, qq(tenantmig.backfill('$table', value => 'acme',
		options => '{"method": "ranges", "batch_target": "2ms"}'::jsonb || '$options')));
}

sub alter
{
	my ($options) = @_;
	$node->safe_psql('postgres', "SELECT tenantmig.alter_job($job, '$options')");
}

sub reason_is
{
	my ($pattern, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_until($node, "SELECT throttle_reason ~ '$pattern' FROM tenantmig.stat_progress WHERE job = $job", $name);
}

# What throttles() says of one limit
sub throttle
{
	my ($name) = @_;
	return $node->safe_psql('postgres',
		"SELECT current, limit_value, source, in_force FROM tenantmig.throttles($job) WHERE name = '$name'");
}

# The job rests for this limit, and finishes when it is lifted
sub held_and_lifted
{
	my ($name, $current, $limit, $lift) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	reason_is("^$name: $current, limit $limit\$", "$name holds the job, with value and limit");
	like(throttle($name), qr/^$current\|$limit\|option\|t$/, "throttles() shows it");
	is(job_state($node, $job), 'running', 'the job is running');
	alter($lift);
	wait_job_state($node, $job, 'succeeded');
}

#
# A standby that does not replay
#
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->append_conf('postgresql.conf', "wal_receiver_status_interval = 1s\narchive_mode = off\n");
$standby->start;
wait_until($node, 'SELECT count(*) = 1 FROM pg_stat_replication', 'there is a standby');
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
$node->safe_psql('postgres', 'CREATE TABLE wal AS SELECT generate_series(1, 1000) AS n');
wait_until($node, q(SELECT replay_lag > '300 ms' FROM pg_stat_replication), 'it falls behind');
$job = start_job('lagging', '{"max_replication_lag": "300ms"}');
held_and_lifted('max_replication_lag', 'a standby is [0-9]+ ms behind', '300 ms',
	'{"max_replication_lag": null}');
# from a setting, and the standby catches up
$node->append_conf('postgresql.conf', 'tenantmig.max_replication_lag = 300ms');
$node->reload;
$job = start_job('lagging2', '{}');
reason_is('^max_replication_lag: ', 'the setting holds a job as well');
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
wait_job_state($node, $job, 'succeeded');
$node->append_conf('postgresql.conf', 'tenantmig.max_replication_lag = 0');
$node->reload;
$standby->stop;

#
# A slot whose consumer is gone
#
$node->safe_psql('postgres', q{
SELECT pg_create_physical_replication_slot('stalled', true);
INSERT INTO wal SELECT generate_series(1, 20000)});
$job = start_job('retained', '{"max_slot_retention": "64kB"}');
held_and_lifted('max_slot_retention', 'slot "stalled" retains [0-9]+ bytes', '65536 bytes',
	'{"max_slot_retention": "1TB"}');
$node->safe_psql('postgres', q{SELECT pg_drop_replication_slot('stalled')});

#
# An archive_command that fails
#
append_to_file($stop_archiving, '');
foreach my $i (1 .. 3)
{
	$node->safe_psql('postgres', 'INSERT INTO wal VALUES (1)');
	$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
}
$job = start_job('archived', '{"max_archive_backlog": 2}');
held_and_lifted('max_archive_backlog', '[0-9]+ WAL segments wait for the archiver', '2',
	'{"max_archive_backlog": null}');
unlink $stop_archiving;

#
# A window of the day
#
my ($from, $until) = split /\|/, $node->safe_psql('postgres',
	q(SELECT to_char(now() - '1h'::interval, 'HH24:MI'), to_char(now() + '1h'::interval, 'HH24:MI')));
$job = start_job('windowed', qq({"not_between": ["$from", "$until"]}));
held_and_lifted('not_between', 'it is [0-9]{2}:[0-9]{2}', "$from to $until",
	'{"not_between": null}');

#
# Time that went by at rest does not allow a burst afterwards
#
$job = start_job('paced', qq({"not_between": ["$from", "$until"], "max_rows_per_second": 5000}), rows => 15000);
my $held_at = time;
reason_is('^not_between: ', 'the window comes first');
poll_for(10, sub { time > $held_at + 3 });
my $lifted_at = time;
alter('{"not_between": null}');
reason_is('^max_rows_per_second: [0-9]+ a second, limit 5000 a second$', 'then the rate holds it');
like(throttle('max_rows_per_second'), qr/^\d+ a second\|5000 a second\|option\|t$/, 'throttles() shows it');
wait_job_state($node, $job, 'succeeded');
cmp_ok(time - $lifted_at, '>', 2.5, '15000 rows take three seconds');

#
# nice
#
$job = start_job('nice', '{"nice": 1000}');
held_and_lifted('nice', 'the last batch took [0-9]+ ms', 'rest 1000 times as long', '{"nice": null}');

#
# The WAL rate of a job, and that of the server, which jobs share
#
$job = start_job('wal_job', '{"max_wal_rate": "16kB"}');
held_and_lifted('max_wal_rate', '[0-9]+ bytes a second', '16384 bytes a second', '{"max_wal_rate": 0}');
$node->append_conf('postgresql.conf', "tenantmig.max_wal_rate = 16kB\n");
$node->reload;
my @jobs = (start_job('wal1', '{}'), start_job('wal2', '{}'));
foreach my $each (@jobs)
{
	$job = $each;
	reason_is('^max_wal_rate: [0-9]+ bytes a second, limit 8192 bytes a second \(16384 shared by 2\)$',
		'two jobs share the rate of the server');
	like(throttle('max_wal_rate'), qr/\|setting\|t$/, 'throttles() knows the setting');
}
foreach my $each (@jobs)
{
	$job = $each;
	alter('{"max_wal_rate": 0}');
}
wait_job_state($node, $_, 'succeeded') foreach @jobs;
$node->append_conf('postgresql.conf', "tenantmig.max_wal_rate = 0\n");
$node->reload;

#
# VACUUM. The job is in the middle of its rows by then, since it cannot make
# its trigger nor drop it beside a VACUUM.
#
sub start_in_the_middle
{
	my ($table) = @_;

	$job = start_job($table, '{"max_rows_per_second": 1}');
	reason_is('^max_rows_per_second: ', 'a job is in the middle of its rows');
}

sub vacuum_slowly
{
	my ($table) = @_;
	my ($session, $pid) = new_session($node);

	$session->query_safe('SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1');
	$session->query_until(qr/started/, "\\echo started\nVACUUM (DISABLE_PAGE_SKIPPING) $table;\n");
	wait_until($node, "SELECT count(*) = 1 FROM pg_stat_progress_vacuum WHERE pid = $pid", "$table is vacuumed");
	return ($session, $pid);
}

sub vacuum_goes_on
{
	my ($pid) = @_;
	return number($node, "SELECT count(*) FROM pg_stat_progress_vacuum WHERE pid = $pid");
}

my ($session, $pid);
my $filled = 'SELECT rows_done = rows_total FROM tenantmig.stat_progress WHERE job = ';

start_in_the_middle('vacuumed');
($session, $pid) = vacuum_slowly('vacuumed');
alter('{"max_rows_per_second": null}');
reason_is("^yield_to_vacuum: process $pid vacuums public.vacuumed, rested [0-9]+ s for it, limit 600 s\$",
	'a VACUUM holds the job, with value and limit');
like(throttle('yield_to_vacuum'), qr/^process $pid vacuums .*\|600 s\|default\|t$/, 'throttles() shows it');
alter('{"yield_to_vacuum": false}');
wait_until($node, "$filled $job", 'the job goes on when it need not yield');
is(vacuum_goes_on($pid), 1, 'beside the VACUUM');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
wait_job_state($node, $job, 'succeeded');

# one that takes longer than the job is to wait for it
start_in_the_middle('vacuumed2');
($session, $pid) = vacuum_slowly('vacuumed2');
alter('{"max_rows_per_second": null, "max_vacuum_rest": "2s"}');
reason_is("^yield_to_vacuum: process $pid .*, limit 2 s\$", 'a VACUUM holds the job');
wait_until($node, "$filled $job", 'but not for longer than it may');
is(vacuum_goes_on($pid), 1, 'and the VACUUM goes on');
like(slurp_file($node->logfile), qr/job $job goes on while process $pid vacuums its table/, 'the log says so');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
wait_job_state($node, $job, 'succeeded');

# one that waits, for a partition; when it is over, the job goes on
$node->safe_psql('postgres', q{
CREATE TABLE parts (id int, tenant_id text) PARTITION BY RANGE (id);
CREATE TABLE leaf PARTITION OF parts FOR VALUES FROM (0) TO (100000);
INSERT INTO parts SELECT generate_series(1, 5000)});
$job = submit($node, q(tenantmig.backfill('parts', value => 'acme',
	options => '{"method": "ranges", "batch_target": "2ms", "max_rows_per_second": 1}')));
reason_is('^max_rows_per_second: ', 'a job is in the middle of its rows');
my ($holder) = new_session($node);
$holder->query_safe('BEGIN; LOCK TABLE leaf IN SHARE UPDATE EXCLUSIVE MODE');
($session, $pid) = new_session($node);
$session->query_until(qr/started/, "\\echo started\nVACUUM leaf;\n");
wait_blocked($node, $pid, 'a VACUUM waits');
alter('{"max_rows_per_second": null}');
reason_is("^yield_to_vacuum: process $pid vacuums public.leaf, ", 'the VACUUM that waits holds the job');
$holder->query_safe('COMMIT');
wait_job_state($node, $job, 'succeeded');
$holder->quit;
$session->quit;

is(number($node, 'SELECT count(*) FROM tenantmig.jobs WHERE rows_done <> rows_total'), 0, 'all rows were filled');
assert_clean($node);
assert_no_crash($node);

done_testing();
