# Several workers on one table: all rows once, whatever becomes of one of them;
# the sums of the job are those of all; limits hold for the job as a whole; and
# the workers do not keep each other from making room.
use strict;
use warnings FATAL => 'all';

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use TenantMig;

my $node = new_node('crew',
	preload => 1,
	stop_points => 1,
	conf => "autovacuum = off\ntenantmig.max_workers = 3\nmax_connections = 40\n");
my $job;
my $helpers = q{SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'tenantmig%helper%'};

# A backfill of one table by two workers, or more
sub submit_crew
{
	my ($table, $options, %option) = @_;
	my $source = $option{source} // q(expression => $$'t' || customer % 7$$);
	my $workers = $option{workers} // 2;

	return submit($node, qq(tenantmig.backfill('$table', $source,
		options => '{"workers": $workers, "keep_trigger": true}'::jsonb || '$options')));
}

sub helper_pid { return $node->safe_psql('postgres', "SELECT helper_pids[1] FROM tenantmig.stat_progress WHERE job = $job") }

sub wait_helper
{
	my ($point) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'tenantmig at $point'",
		"a helper stays at $point");
}

sub assert_filled
{
	my ($table, $before) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_job_state($node, $job, 'succeeded');
	is(wrong_tenants($node, $table, q('t' || customer % 7)), 0, 'all rows have their tenant');
	is(digest($node, $table), $before, 'and nothing else was changed');
}

#
# Two workers, by pages and by ranges, and what the views say of them
#
foreach my $method ('pages', 'ranges')
{
	my $table = "by_$method";

	make_table($node, $table, rows => 60000);
	my $before = digest($node, $table);
	stop_at($node, 'helper-committed:wait');
	# slow at first: on a busy machine the helper comes when the leader is done
	$job = submit_crew($table, qq({"method": "$method", "batch_target": "5ms", "max_rows_per_second": 20000}));
	wait_helper('helper-committed');
	$node->safe_psql('postgres', qq(SELECT tenantmig.alter_job($job, '{"max_rows_per_second": null}')));
	my $pid = helper_pid();
	is($node->safe_psql('postgres', "SELECT workers, helper_pids = ARRAY[$pid], pid <> $pid, workers_reason IS NULL FROM tenantmig.stat_progress WHERE job = $job"),
		'2|t|t|t', "$method: the view shows both workers");
	is(number($node, q(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 29698)), 2,
		'each has one of max_workers');
	# the leader does what is left but for the piece of the helper
	wait_until($node, "SELECT rows_done > 40000 AND blocks_done < blocks_total FROM tenantmig.stat_progress WHERE job = $job",
		'the other one goes on');
	cmp_ok(number($node, "SELECT (checkpoint ->> 'block')::int FROM tenantmig.job_progress WHERE job = $job"), '<',
		number($node, "SELECT blocks_total - 1 FROM tenantmig.job_progress WHERE job = $job"),
		'the checkpoint does not pass what the helper holds');
	is(job_state($node, $job), 'running', 'and waits for the helper in the end');
	release($node);
	assert_filled($table, $before);
	is(job_field($node, $job, 'rows_done, rows_total'), '60000|60000', 'each row was counted once');
	like($node->safe_psql('postgres', "SELECT tenantmig.report($job)"), qr/^Workers: +2$/m, 'the report says how many there were');
	assert_clean($node);
}

#
# Undo by two workers
#
stop_at($node, 'helper-committed:wait');
$job = submit($node, "tenantmig.undo($job)");
wait_helper('helper-committed');
release($node);
wait_job_state($node, $job, 'succeeded');
is(number($node, 'SELECT count(*) FROM by_ranges WHERE tenant_id IS NOT NULL'), 0, 'undo takes all back');
is(job_field($node, $job, 'rows_done'), 60000, 'and counts each row once');
assert_clean($node);

#
# A helper is sent away: the leader does what it held. A batch of it is rolled
# back, another is not.
#
foreach my $point ('helper-working', 'helper-updated', 'helper-committed')
{
	make_table($node, "gone", rows => 60000);
	my $gone = digest($node, 'gone');
	stop_at($node, "$point:wait");
	$job = submit_crew('gone', '{"batch_target": "5ms"}');
	wait_helper($point);
	$node->safe_psql('postgres', 'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE ' . "'tenantmig at helper%'");
	stop_at($node, '');
	assert_filled('gone', $gone);
	is(job_field($node, $job, 'rows_done, attempts'), '60000|1', "$point: each row was counted once, in one attempt");
	assert_clean($node);
	$node->safe_psql('postgres', 'DROP TABLE gone');
}
like(slurp_file($node->logfile), qr/works with fewer workers than were asked for: a helper was terminated/, 'the log says so');

#
# Counting, which changes nothing, is exact as well when a helper is sent away
#
make_table($node, 'counted', rows => 60000);
stop_at($node, 'helper-counted:wait');
$job = submit_crew('counted', '{"batch_target": "1ms", "nice": 100}');
wait_helper('helper-counted');
is(job_field($node, $job, 'phase'), 'counting rows', 'in the first phase');
$node->safe_psql('postgres', q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tenantmig at helper-counted'));
$node->safe_psql('postgres', qq(SELECT tenantmig.alter_job($job, '{"nice": null}')));
stop_at($node, '');
wait_job_state($node, $job, 'succeeded');
is(job_field($node, $job, 'rows_done, rows_total'), '60000|60000', 'the count is exact');
assert_clean($node);

#
# A helper that fails is the job's failure, with its error
#
make_table($node, 'fails', rows => 60000);
stop_at($node, 'helper-updated:error');
$job = submit_crew('fails', '{"batch_target": "5ms"}');
wait_job_state($node, $job, 'failed');
is(job_field($node, $job, 'sqlstate, error'), 'XX000|stop point "helper-updated" reached', 'with the error of the helper');
stop_at($node, '');
assert_clean($node);
$node->safe_psql('postgres', "SELECT tenantmig.retry($job)");
assert_filled('fails', digest($node, 'fails'));
assert_clean($node);

# pg_cancel_backend of a helper pauses the job, as that of its worker does
$node->safe_psql('postgres', "DROP TABLE counted");
make_table($node, 'counted', rows => 60000);
stop_at($node, 'helper-updated:wait');
$job = submit_crew('counted', '{"batch_target": "5ms"}');
wait_helper('helper-updated');
$node->safe_psql('postgres', q(SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'tenantmig at helper-updated'));
wait_job_state($node, $job, 'paused');
is(job_field($node, $job, 'error'), 'canceling statement due to user request', 'with the reason');
wait_no_worker($node);
stop_at($node, '');
$node->safe_psql('postgres', "SELECT tenantmig.resume($job)");
assert_filled('counted', digest($node, 'counted'));
assert_clean($node);

#
# Pause, resume, cancel: both stop at once
#
make_table($node, 'control', rows => 100000);
my $control = digest($node, 'control');
$job = submit_crew('control', '{"max_rows_per_second": 8000}');
wait_until($node, "SELECT rows_done > 500 AND workers = 2 FROM tenantmig.stat_progress WHERE job = $job", 'both are at work');
foreach my $round (1, 2)
{
	$node->safe_psql('postgres', "SELECT tenantmig.pause($job)");
	cmp_ok(seconds_until($node, "SELECT state = 'paused' FROM tenantmig.jobs WHERE id = $job"), '<', 2, 'pause() takes effect at once');
	cmp_ok(seconds_until($node, "SELECT count(*) = 0 FROM ($helpers) h"), '<', 2, 'and no helper is left');
	my $done = job_field($node, $job, 'rows_done');
	is(number($node, 'SELECT count(tenant_id) FROM control'), $done, 'rows_done tells what was committed');
	$node->safe_psql('postgres', "SELECT tenantmig.resume($job)");
	wait_until($node, "SELECT rows_done > $done + 500 AND workers = 2 FROM tenantmig.stat_progress WHERE job = $job", 'both go on');
}
# the leader is sent away: so are its helpers, and the job is interrupted
kill 'TERM', worker_pid($node, $job);
wait_job_state($node, $job, 'paused');
cmp_ok(seconds_until($node, "SELECT count(*) = 0 FROM ($helpers) h"), '<', 2, 'no helper works without its leader');
is(job_field($node, $job, 'phase'), 'interrupted', 'the job is interrupted');
is(number($node, 'SELECT count(tenant_id) FROM control'), job_field($node, $job, 'rows_done'), 'rows_done tells what was committed');
$node->safe_psql('postgres', "SELECT tenantmig.resume($job)");
wait_until($node, "SELECT workers = 2 FROM tenantmig.stat_progress WHERE job = $job", 'both go on');
$node->safe_psql('postgres', "SELECT tenantmig.cancel($job)");
cmp_ok(seconds_until($node, "SELECT state = 'cancelled' FROM tenantmig.jobs WHERE id = $job"), '<', 2, 'cancel() takes effect at once');
assert_clean($node);
is(digest($node, 'control'), $control, 'nothing else was changed');
# while a helper is in the midst of a batch, too
stop_at($node, 'helper-updated:wait');
$node->safe_psql('postgres', "SELECT tenantmig.retry($job)");
$node->safe_psql('postgres', qq(SELECT tenantmig.alter_job($job, '{"max_rows_per_second": null}')));
wait_helper('helper-updated');
$node->safe_psql('postgres', "SELECT tenantmig.pause($job)");
cmp_ok(seconds_until($node, "SELECT state = 'paused' FROM tenantmig.jobs WHERE id = $job"), '<', 2, 'pause() interrupts the batch of a helper');
stop_at($node, '');
$node->safe_psql('postgres', "SELECT tenantmig.resume($job)");
assert_filled('control', $control);
assert_clean($node);

#
# The rate is that of the job, not of each worker; alter_job() reaches both
#
make_table($node, 'paced', rows => 30000);
my $start = time;
$job = submit_crew('paced', '{"max_rows_per_second": 6000, "batch_target": "5ms"}', workers => 3);
wait_until($node, "SELECT workers = 3 FROM tenantmig.stat_progress WHERE job = $job", 'three are at work');
wait_until($node, "SELECT rows_done > 12000 FROM tenantmig.stat_progress WHERE job = $job", 'for a while');
cmp_ok(time - $start, '>', 1.5, 'together they keep to the rate of the job');
like($node->safe_psql('postgres', "SELECT limit_value FROM tenantmig.throttles($job) WHERE name = 'max_rows_per_second'"),
	qr/^2000 a second \(6000 shared by 3\)$/, 'throttles() says how it is shared');
$node->safe_psql('postgres', qq(SELECT tenantmig.alter_job($job, '{"max_rows_per_second": null}')));
assert_filled('paced', digest($node, 'paced'));
assert_clean($node);

#
# No place for a helper: the job does without, says so, and takes one later
#
$node->append_conf('postgresql.conf', 'tenantmig.max_workers = 1');
$node->reload;
wait_until($node, q(SELECT current_setting('tenantmig.max_workers') = '1'), 'one worker may work');
make_table($node, 'alone', rows => 60000);
$job = submit_crew('alone', '{"max_rows_per_second": 3000}');
wait_until($node, "SELECT workers = 1 AND workers_reason = 'all of tenantmig.max_workers (1) are at work' AND rows_done > 0
	FROM tenantmig.stat_progress WHERE job = $job", 'it works alone, and says why');
$node->append_conf('postgresql.conf', 'tenantmig.max_workers = 3');
$node->reload;
wait_until($node, "SELECT workers = 2 AND workers_reason IS NULL FROM tenantmig.stat_progress WHERE job = $job",
	'and takes a helper when there is a place');
$node->safe_psql('postgres', qq(SELECT tenantmig.alter_job($job, '{"max_rows_per_second": null}')));
assert_filled('alone', digest($node, 'alone'));
assert_clean($node);
$node->safe_psql('postgres', 'DROP TABLE by_pages, by_ranges, counted, control, paced, fails, alone');

#
# Rows that are rejected: each is found once, whoever meets it, and max_errors
# is the limit of the job
#
make_table($node, 'strict', rows => 40000);
$node->safe_psql('postgres', 'ALTER TABLE strict ADD CHECK (tenant_id IS NULL OR id % 2000 <> 0)');
$job = submit_crew('strict', '{"max_errors": 20, "batch_target": "5ms"}');
wait_job_state($node, $job, 'failed');
is(number($node, "SELECT count(DISTINCT key) FROM tenantmig.job_errors WHERE job = $job AND key IS NOT NULL"), 20, 'each bad row is listed');
is(number($node, "SELECT count(*) FROM tenantmig.job_errors WHERE job = $job AND key IS NOT NULL"), 20, 'once');
is(number($node, 'SELECT count(*) FROM strict WHERE tenant_id IS NULL'), 20, 'all others have their tenant');
is(job_field($node, $job, 'rows_done'), 39980, 'and are counted');
$node->safe_psql('postgres', 'UPDATE strict SET tenant_id = NULL');
$job = submit_crew('strict', '{"max_errors": 5, "batch_target": "5ms"}');
wait_job_state($node, $job, 'failed');
is(job_field($node, $job, 'sqlstate'), '23514', 'one too many ends the job');
# each of the two may come upon the one too many before it hears of the other's
like(number($node, "SELECT count(*) FROM tenantmig.job_errors WHERE job = $job AND key IS NOT NULL"), qr/^[67]$/, 'with those that were found');
assert_clean($node);

#
# Orphans and conflicts are those of the whole table
#
$node->safe_psql('postgres', q{
CREATE TABLE customers (id int PRIMARY KEY, tenant_id text);
INSERT INTO customers SELECT i, CASE WHEN i % 10 > 0 THEN 't' || i % 7 END FROM generate_series(0, 96) i;
});
make_table($node, 'bills', rows => 40000);
$node->safe_psql('postgres', q{
ALTER TABLE bills ADD FOREIGN KEY (customer) REFERENCES customers;
UPDATE bills SET tenant_id = 'other' WHERE id % 1000 = 7});
my $bills = digest($node, 'bills');
$job = submit_crew('bills', '{"on_orphan": "assign", "orphan_value": "nobody", "on_conflict": "overwrite", "batch_target": "5ms"}',
	source => q(via => 'customer'));
wait_job_state($node, $job, 'succeeded');
is($node->safe_psql('postgres', q{SELECT count(*) FROM bills b JOIN customers c ON c.id = b.customer
	WHERE b.tenant_id IS DISTINCT FROM coalesce(c.tenant_id, CASE WHEN b.id % 1000 = 7 THEN 'other' ELSE 'nobody' END)}), '0', 'each has the tenant of its parent, or that of orphans');
is(digest($node, 'bills'), $bills, 'and nothing else was changed');
assert_clean($node);

#
# Two workers whose triggers write to the same rows of another table
#
$node->safe_psql('postgres', q{
CREATE TABLE totals (customer int PRIMARY KEY, n int NOT NULL DEFAULT 0);
INSERT INTO totals SELECT i FROM generate_series(0, 96) i;
CREATE FUNCTION add_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE public.totals SET n = n + 1 WHERE customer = NEW.customer;
	RETURN NULL;
END $$;
});
make_table($node, 'summed', rows => 20000);
my $summed = digest($node, 'summed');
$node->safe_psql('postgres', 'CREATE TRIGGER sum_up AFTER UPDATE ON summed FOR EACH ROW EXECUTE FUNCTION add_up()');
$job = submit_crew('summed', '{"batch_target": "5ms"}');
assert_filled('summed', $summed);
is(number($node, 'SELECT sum(n) FROM totals'), 20000, 'the trigger has fired once for each row');
is(number($node, "SELECT count(*) FROM tenantmig.job_errors WHERE job = $job"), 0, 'and no error is left');
assert_clean($node);
$node->safe_psql('postgres', 'DROP TABLE strict, bills, summed');

#
# Two workers do not keep each other from making room: the table grows as much
# as with one, within three in a hundred
#
my %growth;
foreach my $workers (1, 2)
{
	make_table($node, 'grown', rows => 200000);
	my $before = number($node, q(SELECT pg_relation_size('grown')));
	$job = submit_crew('grown', '{"method": "pages"}', workers => $workers);
	wait_job_state($node, $job, 'succeeded');
	is(wrong_tenants($node, 'grown', q('t' || customer % 7)), 0, 'all rows have their tenant');
	$growth{$workers} = 100 * (number($node, q(SELECT pg_relation_size('grown'))) / $before - 1);
	note("$workers: growth of $growth{$workers} %");
	$node->safe_psql('postgres', 'DROP TABLE grown');
}
cmp_ok($growth{2}, '<', $growth{1} + 3, 'the table grows no more with two workers');
cmp_ok($growth{2}, '<', 20, 'and by far less than twice');

#
# A helper is killed, again and again, beside writers that do the same to a
# shadow of the table
#
my $writers = q{
\set id random(1, 60000)
\set new random(100000, 2000000000)
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

sub writer
{
	my %writer = (out => '', err => '');

	$writer{run} = IPC::Run::start([ $node->installed_command('pgbench'), '-n', '-c', '3', '-R', '200', '-T', $_[0], '-f', $script, $node->connstr('postgres') ],
		'<', \undef, '>', \$writer{out}, '2>', \$writer{err});
	return \%writer;
}

make_table($node, 'shot', rows => 60000);
$node->safe_psql('postgres', 'CREATE TABLE shadow (LIKE shot INCLUDING ALL); INSERT INTO shadow SELECT * FROM shot');
$job = submit_crew('shot', '{"max_rows_per_second": 20000}');
foreach my $round (1 .. 3)
{
	my $writer = writer(600);
	my $target = $round * 12000;

	wait_until($node, "SELECT workers = 2 AND rows_done > $target FROM tenantmig.stat_progress WHERE job = $job", "round $round: both are at work");
	kill 'KILL', helper_pid();
	eval { $writer->{run}->finish };
	wait_until($node, 'SELECT NOT pg_is_in_recovery()', 'the server is back');
}
$node->safe_psql('postgres', qq(SELECT tenantmig.alter_job($job, '{"max_rows_per_second": 50000}'))) if job_state($node, $job) ne 'succeeded';
my $writer = writer(3);
$writer->{run}->finish;
is($writer->{run}->result(0), 0, 'the application saw no error') or diag($writer->{err});
wait_job_state($node, $job, 'succeeded');
is($node->safe_psql('postgres', q{SELECT count(*) FROM ((TABLE shadow EXCEPT ALL SELECT id, customer, body, touched, NULL FROM shot) UNION ALL (SELECT id, customer, body, touched, NULL FROM shot EXCEPT ALL TABLE shadow)) d}),
	'0', 'the rows are those of the shadow');
is(wrong_tenants($node, 'shot', q('t' || customer % 7)), 0, 'and all have their tenant');
assert_clean($node);

#
# The table, and then the extension, are dropped while both are at work
#
sub at_work
{
	my ($table) = @_;

	make_table($node, $table, rows => 60000);
	stop_at($node, 'helper-committed:wait');
	$job = submit_crew($table, '{"max_rows_per_second": 20000}');
	wait_helper('helper-committed');
	wait_until($node, "SELECT rows_done > 3000 FROM tenantmig.stat_progress WHERE job = $job", 'and the other one goes on');
}

sub crashes { return scalar(() = slurp_file($node->logfile) =~ /terminated by signal/g) }

my $crashes = crashes();
at_work('gone');
$node->safe_psql('postgres', 'DROP TABLE gone');
release($node);
wait_job_state($node, $job, 'failed');
like($node->safe_psql('postgres', "SELECT error FROM tenantmig.jobs WHERE id = $job"),
	qr/relation public\.gone was dropped while job \d+ worked on it/, 'the job says that its table was dropped');
wait_no_worker($node);
is(number($node, "SELECT count(*) FROM ($helpers) h"), 0, 'and no helper is left');
assert_clean($node);

at_work('kept');
$node->safe_psql('postgres', 'SET client_min_messages = error; DROP EXTENSION tenantmig CASCADE');
release($node);
wait_no_worker($node);
wait_until($node, "SELECT count(*) = 0 FROM ($helpers) h", 'all are gone with the extension');
is($node->safe_psql('postgres', q{SELECT count(*), count(*) FILTER (WHERE tenant_id <> 't' || customer % 7),
		(SELECT count(*) FROM pg_trigger WHERE tgrelid = 'kept'::regclass) FROM kept}),
	'60000|0|0', 'all rows are there, none has a wrong tenant, and no trigger is left');
is(crashes(), $crashes, 'nothing crashed');

#
# No slot of the server for a helper
#
$node->stop;
$node = new_node('few', stop_points => 1, conf => "max_worker_processes = 1\nmax_logical_replication_workers = 0\n");
make_table($node, 'orders', rows => 30000);
$job = submit_crew('orders', '{"max_rows_per_second": 10000}');
wait_until($node, "SELECT workers = 1 AND workers_reason = 'no free worker slot (max_worker_processes)' AND rows_done > 0
	FROM tenantmig.stat_progress WHERE job = $job", 'it works alone, and says why');
assert_filled('orders', digest($node, 'orders'));
assert_clean($node);
# nor for the job itself
$node->safe_psql('postgres', 'UPDATE orders SET tenant_id = NULL');
$node->safe_psql('postgres', 'ALTER SYSTEM SET max_worker_processes = 0');
$node->restart;
$job = submit($node, q(tenantmig.backfill('orders', expression => $$'t' || customer % 7$$, options => '{"workers": 2}', unset => 'none')));
sql_ok($node, "CALL tenantmig.run($job)", 'run() does it alone');
assert_filled('orders', digest($node, 'orders'));
assert_clean($node);

done_testing();
