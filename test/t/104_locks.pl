# Who waits for whom: builds of indexes beside open transactions, and strong
# locks behind a long reader, with short readers behind them.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use TenantMig;

my $lock_timeout = 300;			# ms, tenantmig.lock_timeout

# What a busy machine may add to a statement that waits for that long
my $slack = 2000;

my $node = new_node(
	'locks',
	stop_points => 1,
	conf => "tenantmig.lock_timeout = ${lock_timeout}ms\n");

make_table($node, 'orders', rows => 8000);

sub index_is
{
	my ($name, $expected, $message) = @_;

	is( $node->safe_psql('postgres', qq{
			SELECT indisvalid, indisready, indislive FROM pg_index
			WHERE indexrelid = to_regclass('$name')}), $expected, $message);
}

sub blocked_by
{
	my ($job, $pid, $name) = @_;

	wait_until($node, "SELECT blocker_pid = $pid FROM tenantmig.stat_progress WHERE job = $job", $name);
}

#
# create_index
#

# with an open writer
my ($writer, $writer_pid) = new_session($node);
$writer->query_safe('BEGIN');
$writer->query_safe('UPDATE orders SET touched = 1 WHERE id = 1');
my $job = submit($node, q(tenantmig.create_index('orders', '{customer}', name => 'by_customer')));
blocked_by($job, $writer_pid, 'stat_progress names the writer that a build waits for');
like($node->safe_psql('postgres', "SELECT blocker_query FROM tenantmig.stat_progress WHERE job = $job"),
	qr/UPDATE orders/, 'and its query');
sql_ok($node, [ "SET statement_timeout = '60s'", 'UPDATE orders SET touched = 2 WHERE id = 2' ],
	'other writers do not wait');
$writer->query_safe('COMMIT');
wait_job_state($node, $job, 'succeeded');
index_is('by_customer', 't|t|t', 'the index is valid');
assert_clean($node);

# lock_timeout of the database, the role and the server: no limit for a build
$node->safe_psql('postgres', q{
	ALTER DATABASE postgres SET lock_timeout = '20ms';
	ALTER ROLE postgres SET lock_timeout = '20ms';
	ALTER SYSTEM SET lock_timeout = '20ms';
	ALTER SYSTEM SET statement_timeout = '50ms'});
$node->reload;
($writer, $writer_pid) = new_session($node);
$writer->query_safe('SET statement_timeout = 0; BEGIN');
$writer->query_safe('UPDATE orders SET touched = 1 WHERE id = 1');
$job = submit($node, q(tenantmig.create_index('orders', '{touched}', name => 'by_touched')));
blocked_by($job, $writer_pid, 'the build waits');
wait_until($node, qq{SELECT clock_timestamp() - xact_start > '500 ms' FROM pg_stat_activity
	WHERE pid = tenantmig.job_pid($job) AND wait_event_type = 'Lock'}, 'longer than lock_timeout');
index_is('by_touched', 'f|f|t', 'the index is being built');
$writer->query_safe('COMMIT');
wait_job_state($node, $job, 'succeeded');
index_is('by_touched', 't|t|t', 'lock_timeout left no invalid index');
is(job_field($node, $job, 'attempts'), '1', 'at the first attempt');
$node->safe_psql('postgres', q{
	ALTER DATABASE postgres RESET lock_timeout;
	ALTER ROLE postgres RESET lock_timeout;
	ALTER SYSTEM RESET lock_timeout;
	ALTER SYSTEM RESET statement_timeout});
$node->reload;
assert_clean($node);

# duplicate rows
$job = submit($node, q(tenantmig.create_index('orders', '{customer}', name => 'one_customer', is_unique => true)));
wait_job_state($node, $job, 'failed');
is(job_field($node, $job, 'sqlstate'), '23505', 'a unique index on duplicates fails');
like(job_field($node, $job, 'error'), qr/could not create unique index "one_customer"/, 'with the reason');
index_is('one_customer', '', 'and is dropped');
assert_clean($node);
$node->safe_psql('postgres', 'DELETE FROM orders o USING orders p
	WHERE o.customer = p.customer AND o.id > p.id');
$node->safe_psql('postgres', "SELECT tenantmig.retry($job)");
wait_job_state($node, $job, 'succeeded');
index_is('one_customer', 't|t|t', 'retry() builds it when the duplicates are gone');
is(sql_error($node, q{INSERT INTO orders SELECT -1, customer, 'x' FROM orders LIMIT 1})->{sqlstate},
	'23505', 'and it is unique');
assert_clean($node);

# cancelled while it waits: pg_cancel_backend pauses it, cancel() ends it
($writer, $writer_pid) = new_session($node);
$writer->query_safe('BEGIN');
$writer->query_safe('UPDATE orders SET touched = 3 WHERE id = 1');
$job = submit($node, q(tenantmig.create_index('orders', '{body}', name => 'by_body')));
blocked_by($job, $writer_pid, 'a build waits');
$node->safe_psql('postgres', "SELECT pg_cancel_backend(tenantmig.job_pid($job))");
wait_job_state($node, $job, 'paused');
index_is('by_body', 'f|f|t', 'a paused build leaves what it has, in its own records');
$writer->query_safe('COMMIT');
$node->safe_psql('postgres', "SELECT tenantmig.resume($job)");
wait_job_state($node, $job, 'succeeded');
index_is('by_body', 't|t|t', 'resume() drops that and builds anew');
assert_clean($node);

$writer->query_safe('BEGIN');
$writer->query_safe('UPDATE orders SET touched = 4 WHERE id = 1');
$job = submit($node, q(tenantmig.create_index('orders', '{body,id}', name => 'by_body_id')));
blocked_by($job, $writer_pid, 'a build waits');
$node->safe_psql('postgres', "SELECT tenantmig.cancel($job)");
$writer->query_safe('COMMIT');
wait_job_state($node, $job, 'cancelled');
index_is('by_body_id', '', 'cancel() leaves nothing');
assert_clean($node);
$node->safe_psql('postgres', "SELECT tenantmig.retry($job)");
wait_job_state($node, $job, 'succeeded');
index_is('by_body_id', 't|t|t', 'retry() builds it');

# Somebody else's invalid index of that name: there before the call, or made
# between the call and the build
$node->safe_psql('postgres', q{CREATE TABLE twins AS SELECT 1 AS a, NULL::text AS tenant_id FROM generate_series(1, 2)});
isnt($node->psql('postgres', 'CREATE UNIQUE INDEX CONCURRENTLY theirs ON twins (a)'), 0, 'an invalid index');
index_is('theirs', 'f|f|t', 'is there');
my $oid = $node->safe_psql('postgres', q{SELECT 'theirs'::regclass::oid});
my $error = sql_error($node, q{SELECT tenantmig.create_index('twins', '{a}', name => 'theirs')});
is($error->{sqlstate}, '42P07', 'an invalid index that is not ours is an error');
like($error->{hint}, qr/DROP INDEX CONCURRENTLY public.theirs/, 'with a hint');
is($node->safe_psql('postgres', q{SELECT 'theirs'::regclass::oid}), $oid, 'and is left alone');
$node->safe_psql('postgres', 'DROP INDEX theirs');

stop_at($node, 'job-start:wait');
$job = submit($node, q(tenantmig.create_index('twins', '{a}', name => 'theirs')));
wait_at($node, $job, 'job-start');
isnt($node->psql('postgres', 'CREATE UNIQUE INDEX CONCURRENTLY theirs ON twins (a)'), 0, 'an invalid index');
$oid = $node->safe_psql('postgres', q{SELECT 'theirs'::regclass::oid});
release($node);
wait_job_state($node, $job, 'failed');
is(job_field($node, $job, 'sqlstate'), '42P07', 'an index that came before the build is an error too');
is($node->safe_psql('postgres', q{SELECT 'theirs'::regclass::oid}), $oid, 'and is left alone too');
$node->safe_psql('postgres', 'DROP TABLE twins');
assert_clean($node);

#
# The lock queue
#
my ($long, $long_pid) = new_session($node);
my ($short) = new_session($node);
$node->safe_psql('postgres', q{UPDATE orders SET tenant_id = 'acme'});

# Runs short statements until the condition holds, and at least some; returns
# the longest time that one took
sub longest_of
{
	my ($sql, $until) = @_;
	my $longest = 0;
	my $count = 0;
	my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;

	while (time() < $deadline)
	{
		my $start = time();

		$short->query_safe($sql);
		$longest = (time() - $start) * 1000 if (time() - $start) * 1000 > $longest;
		last if ++$count >= 20 && $until->();
	}
	return $longest;
}

sub names_blocker
{
	my ($job) = @_;

	return sub {
		return $node->safe_psql('postgres', qq{
			SELECT throttle_reason LIKE '%rocess $long_pid %' OR blocker_pid = $long_pid
			FROM tenantmig.stat_progress WHERE job = $job}) eq 't';
	};
}

# A job that needs a strong lock, with that statement in an open transaction
# and this one passing by
sub queue_behind
{
	my ($name, $call, $held, $passing, $check) = @_;
	my ($job, $longest);

	$long->query_safe('BEGIN');
	$long->query_safe($held);
	$job = submit($node, $call);
	$longest = longest_of($passing, names_blocker($job));
	ok(names_blocker($job)->() || poll_for(60, names_blocker($job)), "$name: says whom it waits for");
	is(job_state($node, $job), 'running', "$name: it waits");
	is($node->safe_psql('postgres', "$check WHERE job = $job"), 't', "$name: where it should")
	  if $check;
	$long->query_safe('COMMIT');
	wait_job_state($node, $job, 'succeeded');
	cmp_ok($longest, '<', $lock_timeout + $slack, "$name: nobody waited long behind it");
	note("$name: longest $longest ms");
	assert_clean($node);
	return $job;
}

my $read = 'SELECT count(*) FROM orders WHERE id < 10';
my $write = 'UPDATE orders SET touched = touched + 1 WHERE id = 5';

queue_behind('set_not_null', q(tenantmig.set_not_null('orders')), $read, $read);

# the swap of a unique constraint, there and back
$node->safe_psql('postgres', 'ALTER TABLE orders ADD CONSTRAINT orders_body UNIQUE (body, id)');
my $swapping = q(SELECT phase = 'swapping' FROM tenantmig.stat_progress);
my $scoped = queue_behind('scope_unique', q(tenantmig.scope_unique('orders', 'orders_body')),
	$read, $read, $swapping);
queue_behind('undo of scope_unique', "tenantmig.undo($scoped)", $read, $read, $swapping);
$node->safe_psql('postgres', 'ALTER TABLE orders DROP CONSTRAINT orders_body');

# the fill trigger waits for writers, not for readers
$node->safe_psql('postgres', q{ALTER TABLE orders ALTER tenant_id DROP NOT NULL;
	UPDATE orders SET tenant_id = NULL});
queue_behind('fill trigger', q(tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges"}')),
	'UPDATE orders SET touched = 9 WHERE id = 1', $write);
is(wrong_tenants($node, 'orders', q('acme')), 0, 'all rows are filled');
$node->safe_psql('postgres', 'UPDATE orders SET tenant_id = NULL');
# Its removal waits for readers too, and for as long as they take; all else is
# done meanwhile
queue_behind('removal of the fill trigger', q(tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges"}')),
	$read, $read, q(SELECT phase = 'removing helpers' FROM tenantmig.stat_progress));
is(wrong_tenants($node, 'orders', q('acme')), 0, 'all rows are filled');

# A cancelled job says so when its trigger has gone
$node->safe_psql('postgres', 'UPDATE orders SET tenant_id = NULL');
stop_at($node, 'backfill-covered:wait');
$job = submit($node, q(tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges"}')));
wait_at($node, $job, 'backfill-covered');
$long->query_safe('BEGIN');
$long->query_safe($read);
$node->safe_psql('postgres', "SELECT tenantmig.cancel($job)");
release($node);
ok(poll_for($PostgreSQL::Test::Utils::timeout_default, names_blocker($job)),
	'a cancelled job says whom its clean-up waits for');
isnt(job_state($node, $job), 'cancelled', 'it is not over');
$long->query_safe('COMMIT');
wait_job_state($node, $job, 'cancelled');
is($node->safe_psql('postgres', 'SELECT count(tenant_id) FROM orders'), '0', 'no row was filled');
assert_clean($node);

my $added = submit($node, q(tenantmig.add_tenant_column('orders', 'region', value => 'eu')));
queue_behind('undo of add_tenant_column', "tenantmig.undo($added)", $read, $read);
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_attribute
	WHERE attrelid = 'orders'::regclass AND attname = 'region'}), '0', 'the column is gone');

# Functions that work in the caller's transaction give up and name the blocker
foreach my $call (q(tenantmig.add_tenant_column('orders', 'region')), q(tenantmig.enable_rls('orders')))
{
	my ($caller, $caller_pid) = new_session($node);
	my ($longest, $start);

	$long->query_safe('BEGIN');
	$long->query_safe($read);
	$caller->query_safe('SET tenantmig.lock_retries = 1');
	$start = time();
	$caller->query_until(qr/asking/, "\\echo asking\nSELECT $call;\n\\echo given up\n");
	$longest = longest_of($read, sub {
		return $node->safe_psql('postgres', qq{SELECT state = 'idle' AND query LIKE '%tenantmig%'
			FROM pg_stat_activity WHERE pid = $caller_pid}) eq 't' });
	cmp_ok(time() - $start, '<', 60, "$call: gives up in bounded time");
	cmp_ok($longest, '<', $lock_timeout + $slack, "$call: nobody waited long behind it");
	$caller->quit;

	$error = sql_error($node, [ 'SET tenantmig.lock_retries = 1', "SELECT $call" ]);
	is($error->{sqlstate}, '55P03', "$call: SQLSTATE");
	like($error->{detail}, qr/Process $long_pid holds a lock on public.orders; its last query: SELECT count/,
		"$call: names the blocker");
	like($error->{hint}, qr/pg_terminate_backend\($long_pid\)/, "$call: and what to do");
	is($node->safe_psql('postgres', q{SELECT (SELECT count(*) FROM pg_attribute
			WHERE attrelid = 'orders'::regclass AND attname = 'region') +
			(SELECT count(*) FROM pg_policy WHERE polrelid = 'orders'::regclass)}), '0',
		"$call: nothing is half done");
	$long->query_safe('COMMIT');
	sql_ok($node, "SELECT $call", "$call: works when the reader has gone");
	$node->safe_psql('postgres', 'SELECT tenantmig.disable_rls(\'orders\')') if $call =~ /rls/;
	$node->safe_psql('postgres', 'ALTER TABLE orders DROP COLUMN IF EXISTS region');
}

# Waiting for a lock that is never had ends too: the job fails with the reason,
# its helpers are removed when the reader has gone
$node->append_conf('postgresql.conf', 'tenantmig.lock_retries = 1');
$node->reload;
$node->safe_psql('postgres', q{UPDATE orders SET tenant_id = 'acme'});
$long->query_safe('BEGIN');
$long->query_safe($read);
$job = submit($node, q(tenantmig.set_not_null('orders')));
wait_job_state($node, $job, 'failed');
is(job_field($node, $job, 'sqlstate'), '55P03', 'a job gives up after tenantmig.lock_retries');
like(job_field($node, $job, 'error_detail'), qr/Process $long_pid holds a lock/, 'and names the blocker');
$long->query_safe('COMMIT');
assert_clean($node);
$node->safe_psql('postgres', "SELECT tenantmig.retry($job)");
wait_job_state($node, $job, 'succeeded');

$_->quit foreach ($writer, $long, $short);
assert_no_crash($node);
$node->stop;
done_testing();
