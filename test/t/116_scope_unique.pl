# scope_unique: every shape there and back, compared as pg_dump sees it; and
# every way to be interrupted, with duplicates knocking at the door all the time.
use strict;
use warnings FATAL => 'all';

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TenantMig;

my $node = new_node(
	'scope',
	stop_points => 1,
	preload => 1,
	conf => "allow_in_place_tablespaces = on\ntenantmig.lock_timeout = 300ms\n");

$node->safe_psql('postgres', 'CREATE EXTENSION amcheck');

sub dump_of
{
	my ($schema) = @_;
	my ($out, $err) = run_command([ 'pg_dump', '-s', '-n', $schema, '-d', $node->connstr('postgres') ]);

	is($err, '', "the dump of $schema");
	$out =~ s/^\\(un)?restrict .*$//mg;
	return $out;
}

sub scope
{
	my ($table, $key) = @_;
	my $job = submit($node, qq{tenantmig.scope_unique('$table', '$key')});

	wait_job_state($node, $job, 'succeeded');
	return $job;
}

sub undo
{
	my ($job) = @_;
	my $undo = submit($node, "tenantmig.undo($job)");

	wait_job_state($node, $undo, 'succeeded');
	return $undo;
}

sub indexes_are_whole
{
	my ($schema) = @_;

	is($node->safe_psql('postgres', qq{
		SELECT count(bt_index_check(i.indexrelid, true)) = count(*) FROM pg_index i
		JOIN pg_class c ON c.oid = i.indexrelid
		WHERE c.relkind = 'i' AND c.relnamespace = '$schema'::regnamespace}), 't',
		"the indexes of $schema hold every row");
}

#
# Shapes
#
my $long = 'l' x 63;
$node->safe_psql('postgres', qq{
	CREATE TABLESPACE elsewhere LOCATION '';
	CREATE SCHEMA app;
	SET search_path = app;
	CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT \$1 * 2';
	-- one that shadows the server's, where the server's path comes later
	CREATE FUNCTION app.lower(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ''x''';

	CREATE TABLE plain (id int PRIMARY KEY, tenant_id text NOT NULL, email text NOT NULL, ref int, at date DEFAULT '2026-01-01',
		CONSTRAINT plain_email UNIQUE (email) WITH (fillfactor = 70) USING INDEX TABLESPACE elsewhere,
		CONSTRAINT plain_ref UNIQUE NULLS NOT DISTINCT (ref) INCLUDE (at, tenant_id) DEFERRABLE INITIALLY DEFERRED,
		CONSTRAINT "Odd ""name%R" UNIQUE (email, ref) DEFERRABLE);
	COMMENT ON CONSTRAINT plain_email ON plain IS 'it''s 100% one';
	COMMENT ON INDEX plain_email IS 'its index';
	ALTER TABLE plain REPLICA IDENTITY USING INDEX plain_email;
	CREATE UNIQUE INDEX plain_expr ON plain (pg_catalog.lower(email) COLLATE "C" text_pattern_ops DESC NULLS LAST, app.lower(email), twice(ref))
		INCLUDE (at, tenant_id) NULLS NOT DISTINCT WITH (deduplicate_items = off) TABLESPACE elsewhere
		WHERE at > '2020-01-01' AND email <> '%s';
	ALTER INDEX plain_expr ALTER COLUMN 1 SET STATISTICS 500;
	ALTER INDEX plain_expr ALTER COLUMN 3 SET STATISTICS 0;
	ALTER INDEX plain_expr DEPENDS ON EXTENSION amcheck;
	COMMENT ON INDEX plain_expr IS 'an expression';
	ALTER TABLE plain CLUSTER ON "Odd ""name%R";
	CREATE UNIQUE INDEX $long ON plain (id, ref);

	CREATE TABLE parted (id int NOT NULL, at int NOT NULL, tenant_id text NOT NULL, email text, ref int,
		CONSTRAINT parted_email UNIQUE (email, at, id)) PARTITION BY RANGE (at);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
	CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (100) TO (200) PARTITION BY LIST (id);
	CREATE TABLE parted_2_b (email text, gone int, ref int, tenant_id text NOT NULL, at int NOT NULL, id int NOT NULL);
	ALTER TABLE parted_2_b DROP COLUMN gone;
	ALTER TABLE parted_2 ATTACH PARTITION parted_2_b DEFAULT;
	-- indexes of its own, which are taken for those of the parent
	CREATE TABLE parted_3 (LIKE parted);
	ALTER TABLE parted_3 ADD CONSTRAINT its_own UNIQUE (email, at, id) WITH (fillfactor = 50);
	COMMENT ON CONSTRAINT its_own ON parted_3 IS 'its own';
	ALTER TABLE parted_3 CLUSTER ON its_own;
	CREATE UNIQUE INDEX its_ref ON parted_3 (ref, at, id) WITH (fillfactor = 60) TABLESPACE elsewhere;
	ALTER TABLE parted ATTACH PARTITION parted_3 FOR VALUES FROM (200) TO (300);
	CREATE UNIQUE INDEX parted_ref ON parted (ref, at, id);
	COMMENT ON INDEX parted_ref IS 'of all';
	COMMENT ON CONSTRAINT parted_email ON parted IS 'of all, too';

	CREATE TABLE base (id int, tenant_id text NOT NULL, email text, CONSTRAINT base_email UNIQUE (email));
	CREATE TABLE derived (CONSTRAINT derived_email UNIQUE (email)) INHERITS (base);

	INSERT INTO plain (id, tenant_id, email, ref) SELECT i, 't' || i % 7, 'Mail' || i, i FROM generate_series(1, 2000) i;
	INSERT INTO parted SELECT i % 9, i % 300, 't' || i % 7, 'm' || i, i FROM generate_series(1, 2000) i;
	INSERT INTO base SELECT i, 't', 'm' || i FROM generate_series(1, 100) i;
	INSERT INTO derived SELECT i, 't', 'm' || i FROM generate_series(1, 100) i;});

my $before = dump_of('app');
my @shapes = (
	[ 'app.plain', 'plain_email' ], [ 'app.plain', 'plain_ref' ], [ 'app.plain', 'Odd "name%R' ],
	[ 'app.plain', 'plain_expr' ], [ 'app.plain', $long ], [ 'app.parted', 'parted_email' ],
	[ 'app.parted', 'parted_ref' ], [ 'app.base', 'base_email' ], [ 'app.derived', 'derived_email' ]);

# one by one
for my $shape (@shapes)
{
	my $job = scope(@$shape);

	isnt(dump_of('app'), $before, "$shape->[1] has changed");
	undo($job);
	is(dump_of('app'), $before, "$shape->[1] is what it was");
	assert_clean($node);
}

# all, and what has become of them
my @jobs = map { scope(@$_) } @shapes;
indexes_are_whole('app');
assert_clean($node);
my $expected = $before;
$expected =~ s/UNIQUE ((?:NULLS NOT DISTINCT )?)\(/UNIQUE $1(tenant_id, /g;
$expected =~ s/INCLUDE \(at, tenant_id\)/INCLUDE (at)/g;
$expected =~ s/^(CREATE UNIQUE INDEX .* USING btree )\(/$1(tenant_id, /mg;
$expected =~ s/(plain_expr ALTER COLUMN )(\d)/$1 . ($2 + 1)/ge;
is(dump_of('app'), $expected, 'the tenant comes first, and nothing else has changed');

# per tenant, and within it
sql_ok($node, q{INSERT INTO app.parted VALUES (1, 1, 'u1', 'same', -1), (1, 1, 'u2', 'same', -1)}, 'two tenants may have the same');
is(sql_error($node, q{INSERT INTO app.parted VALUES (1, 1, 'u1', 'same', -2)})->{sqlstate}, '23505', 'one may not');
sql_ok($node, q{INSERT INTO app.plain VALUES (-1, 'u1', 'same', -1), (-2, 'u2', 'same', -1)}, 'two tenants may have the same');
is(sql_error($node, q{INSERT INTO app.plain VALUES (-3, 'u1', 'same', -3)})->{sqlstate}, '23505', 'one may not');
is(sql_error($node, [ 'BEGIN', 'SET CONSTRAINTS ALL DEFERRED',
	q{UPDATE app.plain SET ref = ref + 1 WHERE tenant_id = 't1'}, 'COMMIT' ])->{sqlstate}, '', 'and later, if it is deferred');
$node->safe_psql('postgres', q{UPDATE app.plain SET ref = ref - 1 WHERE tenant_id = 't1'});

# a partition that came since gets the old one too; one that is gone does not matter
$node->safe_psql('postgres', q{
	CREATE TABLE app.parted_4 PARTITION OF app.parted FOR VALUES FROM (300) TO (400);
	INSERT INTO app.parted VALUES (1, 300, 't1', 'm', 1)});

# the way back is closed while two tenants have the same: the new one stays
my $scoped = dump_of('app');
my ($email) = grep { $shapes[$_][1] eq 'parted_email' } 0 .. $#shapes;
my $undo = submit($node, "tenantmig.undo($jobs[$email])");
wait_job_state($node, $undo, 'failed');
is(job_field($node, $undo, 'sqlstate'), '23505', 'the undo fails');
is(dump_of('app'), $scoped, 'and changes nothing');
assert_clean($node);
$node->safe_psql('postgres', q{DELETE FROM app.parted WHERE email = 'same'; DELETE FROM app.plain WHERE email = 'same'});
$node->safe_psql('postgres', "SELECT tenantmig.retry($undo)");
wait_job_state($node, $undo, 'succeeded');
undo($jobs[$_]) for grep { $_ != $email } 0 .. $#jobs;
is($node->safe_psql('postgres', q{
	SELECT string_agg(pg_get_indexdef(indexrelid), ' ' ORDER BY 1) FROM pg_index WHERE indrelid = 'app.parted_4'::regclass}),
	'CREATE UNIQUE INDEX parted_4_tenant_id_email_at_id_key ON app.parted_4 USING btree (email, at, id) '
	. 'CREATE UNIQUE INDEX parted_4_tenant_id_ref_at_id_idx ON app.parted_4 USING btree (ref, at, id)', 'one that came since has the old ones');
$node->safe_psql('postgres', 'DROP TABLE app.parted_4');
is(dump_of('app'), $before, 'all is what it was');
indexes_are_whole('app');

#
# Interrupted, while one client tries to insert what is not unique
#
$node->safe_psql('postgres', q{
	CREATE SCHEMA live;
	CREATE TABLE live.u (id serial, tenant_id text NOT NULL, email text, CONSTRAINT u_email UNIQUE (email));
	CREATE TABLE live.p (id serial, at int, tenant_id text NOT NULL, email text, CONSTRAINT p_email UNIQUE (email, at)) PARTITION BY LIST (at);
	CREATE TABLE live.p_1 PARTITION OF live.p FOR VALUES IN (1);
	CREATE TABLE live.p_2 PARTITION OF live.p FOR VALUES IN (2);
	INSERT INTO live.u (tenant_id, email) SELECT 't' || i % 3, i FROM generate_series(1, 1000) i;
	INSERT INTO live.p (at, tenant_id, email) SELECT 1 + i % 2, 't' || i % 3, i FROM generate_series(1, 1000) i;
	CREATE TABLE live.caught (n int);
	CREATE FUNCTION live.knock() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
		BEGIN INSERT INTO live.u (tenant_id, email) VALUES ('t1', '1'); INSERT INTO live.caught VALUES (0);
		EXCEPTION WHEN unique_violation THEN NULL; END;
		BEGIN INSERT INTO live.p (at, tenant_id, email) VALUES (2, 't1', '1'); INSERT INTO live.caught VALUES (0);
		EXCEPTION WHEN unique_violation THEN NULL; END;
	END $$});

# A unique index that is valid, of either kind, on every table that holds rows
sub is_guarded
{
	my ($when) = @_;

	is($node->safe_psql('postgres', q{
		SELECT string_agg(c.relname, ' ') FROM pg_class c WHERE c.relnamespace = 'live'::regnamespace AND c.relkind = 'r'
			AND c.relname <> 'caught' AND NOT EXISTS (SELECT FROM pg_index i
				WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indislive)}), '', "unique $when");
}

my $script = $node->basedir . '/knock.sql';
append_to_file($script, "SELECT live.knock();\n");
my $live = dump_of('live');

# Runs pgbench beside the code; no error but the expected ones
sub knocking
{
	my ($code) = @_;
	my ($out, $err) = ('', '');
	my $pgbench = IPC::Run::start(
		[ $node->installed_command('pgbench'), '-n', '-f', $script, '-T', '600', '-R', '50', '-d', $node->connstr('postgres') ],
		'>', \$out, '2>', \$err);

	$code->();
	ok($pgbench->pumpable, 'the client never got another error') or diag($err);
	$pgbench->kill_kill;
}

my @points = ('toplevel-before', 'toplevel-after', 'index-built', 'unique-built', 'unique-swapping', 'unique-swapped', 'job-end');

for my $table (['live.u', 'u_email'], ['live.p', 'p_email'])
{
	knocking(sub {
		for my $point (@points)
		{
			# ended by force, in an orderly way, and gone on with; and so is the way back
			stop_at($node, "$point:wait");
			my $job = submit($node, "tenantmig.scope_unique('$table->[0]', '$table->[1]')");
			wait_at($node, $job, $point);
			is_guarded("at $point");
			$node->safe_psql('postgres', "SELECT pg_terminate_backend(tenantmig.job_pid($job))");
			stop_at($node, '');
			wait_until($node, "SELECT tenantmig.job_pid($job) IS NULL OR state = 'succeeded' FROM tenantmig.jobs WHERE id = $job",
				'the worker has gone');
			is_guarded("after the end of the worker at $point");
			$node->safe_psql('postgres', "SELECT CASE WHEN state = 'paused' THEN tenantmig.resume($job) END FROM tenantmig.jobs WHERE id = $job");
			wait_job_state($node, $job, 'succeeded');
			assert_clean($node);
			stop_at($node, "$point:wait");
			my $undo = submit($node, "tenantmig.undo($job)");
			wait_at($node, $undo, $point);
			is_guarded("at $point of the undo");
			$node->safe_psql('postgres', "SELECT pg_terminate_backend(tenantmig.job_pid($undo))");
			stop_at($node, '');
			wait_until($node, "SELECT tenantmig.job_pid($undo) IS NULL OR state = 'succeeded' FROM tenantmig.jobs WHERE id = $undo",
				'the worker has gone');
			$node->safe_psql('postgres', "SELECT CASE WHEN state = 'paused' THEN tenantmig.resume($undo) END FROM tenantmig.jobs WHERE id = $undo");
			wait_job_state($node, $undo, 'succeeded');
			is_guarded("after the undo");
			assert_clean($node);

			# cancelled: all of it or nothing of it, and undo takes it back; in the
			# midst of the swap the request would wait for its end
			next if $point eq 'unique-swapping';
			stop_at($node, "$point:wait");
			$job = submit($node, "tenantmig.scope_unique('$table->[0]', '$table->[1]')");
			wait_at($node, $job, $point);
			$node->safe_psql('postgres', "SELECT tenantmig.cancel($job)");
			stop_at($node, '');
			wait_job_state($node, $job, 'cancelled');
			is_guarded("after a cancel at $point");
			undo($job) if $point =~ /swapped|job-end/;
			assert_clean($node);
		}
	});
	is(dump_of('live'), $live, 'all is what it was');
}

# the server goes down, and comes back, at each point
for my $table (['live.u', 'u_email'], ['live.p', 'p_email'])
{
	for my $point (@points)
	{
		for my $how ('kill', 'immediate')
		{
			my $down = sub {
				my ($job) = @_;
				wait_at($node, $job, $point);
				if ($how eq 'kill')
				{
					kill 9, worker_pid($node, $job);
					stop_at($node, '');
					wait_until($node, 'SELECT true', 'the server is back');
				}
				else
				{
					$node->stop('immediate');
					stop_at($node, '');
					$node->start;
				}
				is_guarded("after $how at $point");
				wait_job_state($node, $job, 'succeeded');
				is_guarded('at the end');
				assert_clean($node);
			};
			stop_at($node, "$point:wait");
			my $job = submit($node, "tenantmig.scope_unique('$table->[0]', '$table->[1]')");
			$down->($job);
			stop_at($node, "$point:wait");
			$down->(submit($node, "tenantmig.undo($job)"));
		}
	}
}
is(dump_of('live'), $live, 'all is what it was');
is(number($node, 'SELECT count(*) FROM live.caught'), 0, 'nothing that is not unique came in');
indexes_are_whole('live');

#
# DDL between the steps
#
sub meanwhile
{
	my ($point, @ddl) = @_;

	stop_at($node, "$point:wait");
	my $job = submit($node, q{tenantmig.scope_unique('live.p', 'p_email')});
	wait_at($node, $job, $point);
	sql_ok($node, [@ddl], "meanwhile: $ddl[0]");
	release($node);
	return $job;
}

# partitions come and go: the new one is built for, too
my $job = meanwhile('unique-built', 'CREATE TABLE live.p_3 PARTITION OF live.p FOR VALUES IN (3)',
	q{INSERT INTO live.p (at, tenant_id, email) SELECT 3, 't', i FROM generate_series(1, 100) i}, 'DROP TABLE live.p_1');
wait_job_state($node, $job, 'succeeded');
like($node->safe_psql('postgres', q{SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'live.p_3'::regclass}),
	qr/\(tenant_id, email, at\)/, 'a partition that has come has it');
undo($job);
assert_clean($node);

# renamed: the table is the job's by its OID
$job = meanwhile('unique-built', 'ALTER TABLE live.p RENAME TO q', 'ALTER TABLE live.p_2 RENAME TO q_2');
wait_job_state($node, $job, 'succeeded');
undo($job);
$node->safe_psql('postgres', 'ALTER TABLE live.q RENAME TO p; ALTER TABLE live.q_2 RENAME TO p_2');
assert_clean($node);

# the index that was built is dropped by somebody: built again
$job = meanwhile('unique-built', 'DROP INDEX live.p_2_tenant_id_email_at_idx');
wait_job_state($node, $job, 'succeeded');
undo($job);
assert_clean($node);

# the constraint is another one by then: that is what is scoped
$node->safe_psql('postgres', 'DROP TABLE live.p_3');
$job = meanwhile('unique-built', 'ALTER TABLE live.p DROP CONSTRAINT p_email, ADD CONSTRAINT p_email UNIQUE (at, email)');
wait_job_state($node, $job, 'succeeded');
is($node->safe_psql('postgres', q{SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'live.p'::regclass AND contype = 'u'}),
	'UNIQUE (tenant_id, at, email)', 'the one that is there is scoped');
is(number($node, q{SELECT count(*) FROM pg_index WHERE indrelid = 'live.p_2'::regclass}), 1, 'and no other index is left');
undo($job);
assert_clean($node);

# it is gone: the job fails, and says so; what it built goes with undo
$job = meanwhile('unique-built', 'ALTER TABLE live.p DROP CONSTRAINT p_email');
wait_job_state($node, $job, 'failed');
is(job_field($node, $job, 'sqlstate'), '42704', 'no such constraint any more');
undo($job);
is(number($node, q{SELECT count(*) FROM pg_index WHERE indrelid = 'live.p_2'::regclass}), 0, 'and no index is left');
assert_clean($node);

# dropped
$job = submit($node, q{tenantmig.scope_unique('live.u', 'u_email')});
wait_job_state($node, $job, 'succeeded');
stop_at($node, 'unique-built:wait');
$undo = submit($node, "tenantmig.undo($job)");
wait_at($node, $undo, 'unique-built');
$node->safe_psql('postgres', 'DROP TABLE live.u CASCADE');
release($node);
wait_until($node, "SELECT state IN ('failed', 'succeeded') FROM tenantmig.jobs WHERE id = $undo", 'the undo of a table that is dropped ends');
assert_clean($node);

$node->stop;
done_testing();
