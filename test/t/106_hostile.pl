# A table whose owner is hostile: every piece of the owner's code that a job, a
# function or the fill trigger may run records as whom it runs and tries to
# become somebody else.  The callers are superusers; the code must never have
# more than its owner's rights, nor leave settings behind.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TenantMig;

my $node = new_node('hostile', stop_points => 1);

# In a session that is mallory's own: in one of a superuser's who has set the
# session authorization, everything below would rightly succeed
sub as_mallory
{
	my ($sql) = @_;

	$node->safe_psql('postgres', $sql, extra_params => [ '-U', 'mallory' ]);
}

$node->safe_psql('postgres', q{
	CREATE ROLE mallory LOGIN;
	CREATE SCHEMA m AUTHORIZATION mallory;
	CREATE TABLE secret AS SELECT 'untouched' AS word;
	REVOKE ALL ON secret FROM PUBLIC;
});

# What mallory's code tries, each in a subtransaction of its own
my @attempts = (
	'SET ROLE postgres',
	'SET LOCAL ROLE postgres',
	'RESET ROLE',
	'SET ROLE none',
	'SET SESSION AUTHORIZATION postgres',
	'SET LOCAL SESSION AUTHORIZATION DEFAULT',
	'RESET SESSION AUTHORIZATION',
	q{SELECT set_config('role', 'postgres', false)},
	q{SELECT set_config('role', 'none', false)},
	q{SELECT set_config('session_authorization', 'postgres', false)},
	'ALTER ROLE mallory SUPERUSER',
	'CREATE ROLE evil SUPERUSER',
	q{UPDATE public.secret SET word = 'stolen'},
	q{COPY public.secret TO PROGRAM 'cat > /dev/null'},
	q{COPY (SELECT 1) TO '/tmp/tenantmig_hostile'},
	q{UPDATE tenantmig.job SET caller = 10},
	q{DELETE FROM tenantmig.job_step},
	q{ALTER TABLE tenantmig.job OWNER TO mallory},
	q{CREATE TEMP TABLE pg_class (a int)},
	q{DECLARE c CURSOR WITH HOLD FOR SELECT 1},
	q{ALTER SYSTEM SET tenantmig.max_workers = 0},
	q{SELECT set_config('session_preload_libraries', 'x', false)});

# Settings it is free to change while it runs, which must not outlive it
my @settings = (
	[ 'search_path', 'm, pg_temp' ],
	[ 'lock_timeout', '7ms' ],
	[ 'statement_timeout', '7h' ],
	[ 'synchronous_commit', 'local' ],
	[ 'work_mem', '77kB' ],
	[ 'tenantmig.lock_retries', '77' ],
	[ 'app.mine', 'yes' ]);

my $tries = join(
	"\n",
	map {
		my $sql = $_;
		"BEGIN EXECUTE \$a\$$sql\$a\$; "
		  . "INSERT INTO m.spy VALUES (place, \$a\$$sql\$a\$, current_user, 'done'); "
		  . "EXCEPTION WHEN OTHERS THEN "
		  . "INSERT INTO m.spy VALUES (place, \$a\$$sql\$a\$, current_user, SQLSTATE); END;"
	} @attempts);
my $sets =
  join("\n", map { "PERFORM set_config('$_->[0]', '$_->[1]', false);" } @settings);

as_mallory(qq{
	CREATE TABLE m.spy (place text, attempt text, cur name, result text);
	CREATE FUNCTION m.spy(place text) RETURNS boolean LANGUAGE plpgsql AS \$\$
	BEGIN
		INSERT INTO m.spy VALUES (place, '', current_user, 'seen');
		-- also when all of this is rolled back
		IF current_user <> 'mallory' THEN
			RAISE LOG 'the code of % ran as %', place, current_user;
		END IF;
		$tries
		PERFORM pg_advisory_unlock_all();
		$sets
		INSERT INTO m.spy VALUES (place, '', current_user, 'seen');
		RETURN true;
	END \$\$;

	-- what the server believes not to write
	CREATE FUNCTION m.value(int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
		\$\$ BEGIN PERFORM m.spy('expression'); RETURN 'acme'; END \$\$;
	CREATE FUNCTION m.indexed(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
		\$\$ BEGIN PERFORM m.spy('index'); RETURN left(\$1, 3); END \$\$;
	CREATE FUNCTION m.generated(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
		\$\$ BEGIN PERFORM m.spy('generated'); RETURN \$1; END \$\$;
	CREATE FUNCTION m.checked(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
		\$\$ BEGIN RETURN m.spy('domain'); END \$\$;
	CREATE FUNCTION m.checked(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
		\$\$ BEGIN RETURN m.spy('check'); END \$\$;
	CREATE FUNCTION m.visible(int) RETURNS boolean LANGUAGE plpgsql STABLE AS
		\$\$ BEGIN PERFORM m.spy('policy'); RETURN true; END \$\$;
	CREATE FUNCTION m.fired() RETURNS trigger LANGUAGE plpgsql AS
		\$\$ BEGIN PERFORM m.spy(TG_NAME); RETURN NEW; END \$\$;
	CREATE DOMAIN m.tenant AS text CHECK (m.checked(VALUE));
});

# A table with a few rows, and its traps
sub make_trap
{
	my ($name, $type, $traps) = @_;

	as_mallory(qq{
		CREATE TABLE m.$name (id int PRIMARY KEY, body text, tenant_id $type);
		INSERT INTO m.$name (id, body) SELECT g, md5(g::text) FROM generate_series(1, 5) g;
		$traps});
	$node->safe_psql('postgres', 'TRUNCATE m.spy');
}

my $triggers = sub {
	my ($name) = @_;
	return qq{
		CREATE TRIGGER before BEFORE UPDATE ON m.$name FOR EACH ROW EXECUTE FUNCTION m.fired();
		CREATE TRIGGER after AFTER UPDATE ON m.$name FOR EACH ROW EXECUTE FUNCTION m.fired();
		CREATE TRIGGER statement AFTER UPDATE ON m.$name FOR EACH STATEMENT EXECUTE FUNCTION m.fired();
		CREATE CONSTRAINT TRIGGER deferred AFTER UPDATE ON m.$name
			DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION m.fired();
	};
};

# The traps in those places were sprung, as mallory and nobody else, and
# nothing that mallory may not do was done
sub caught
{
	my ($name, @places) = @_;
	is($node->safe_psql('postgres', 'SELECT DISTINCT place FROM m.spy ORDER BY 1'),
		join("\n", sort @places), "$name: what of the owner's code was run");
	is($node->safe_psql('postgres', q{SELECT DISTINCT cur FROM m.spy}), @places ? 'mallory' : '',
		"$name: as the owner only");
	is($node->safe_psql('postgres', q{SELECT DISTINCT attempt FROM m.spy WHERE result = 'done'}), '',
		"$name: no attempt succeeded");
	is( $node->safe_psql('postgres', q{
			SELECT (SELECT word FROM secret), (SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'),
				(SELECT count(*) FROM pg_roles WHERE rolname = 'evil'),
				(SELECT relowner::regrole FROM pg_class WHERE oid = 'tenantmig.job'::regclass)}),
		'untouched|f|0|postgres', "$name: and nothing has changed hands");
	$node->safe_psql('postgres', 'TRUNCATE m.spy');
}

my $show = 'SELECT current_user, session_user, '
  . join(', ', map { "coalesce(current_setting('$_->[0]', true), '')" } @settings);

# The session's settings after these statements are those from before
sub settings_kept
{
	my ($name, @sql) = @_;
	my ($session) = new_session($node);
	my $before;

	# with the library loaded, so that its settings are there
	$session->query_safe('SELECT count(*) FROM tenantmig.jobs');
	$before = $session->query_safe($show);
	$session->{stderr} = '';
	$session->query($_) foreach @sql;
	is($session->{stderr}, '', "$name: no error");
	is($session->query($show), $before, "$name: settings and user of the session are what they were");
	is($session->query('CREATE TABLE mine (a int); DROP TABLE mine; SELECT 1'), '1',
		"$name: and the session has its rights");
	$session->quit;
}

#
# backfill by a worker
#
make_trap('a', 'm.tenant', $triggers->('a') . q{
	ALTER TABLE m.a ADD CHECK (m.checked(id)) NOT VALID;
	CREATE INDEX ON m.a (m.indexed(tenant_id));
	ALTER TABLE m.a ADD generated int GENERATED ALWAYS AS (m.generated(id)) STORED;
	CREATE POLICY p ON m.a USING (m.visible(id));
	ALTER TABLE m.a ENABLE ROW LEVEL SECURITY;
	ALTER TABLE m.a FORCE ROW LEVEL SECURITY});
settings_kept('call of backfill', q{SELECT tenantmig.backfill('m.a', value => 'acme', options => '{"method": "ranges"}')});
my $job = $node->safe_psql('postgres', 'SELECT max(id) FROM tenantmig.jobs');
wait_job_state($node, $job, 'succeeded');
is(wrong_tenants($node, 'm.a', q('acme')), 0, 'all rows are filled');
caught('backfill', qw(before after statement deferred check index generated domain));
assert_clean($node);

settings_kept('undo', "SELECT tenantmig.undo($job)");
wait_job_state($node, $node->safe_psql('postgres', 'SELECT max(id) FROM tenantmig.jobs'), 'succeeded');
is($node->safe_psql('postgres', 'SELECT count(tenant_id) FROM m.a'), '0', 'undo takes them back');
caught('undo', qw(before after statement deferred check index generated domain));

# in the foreground, in a superuser's session
make_trap('b', 'm.tenant', $triggers->('b'));
$node->append_conf('postgresql.conf', 'tenantmig.max_workers = 0');
$node->reload;
$job = submit($node, q(tenantmig.backfill('m.b', value => 'acme', options => '{"method": "ranges"}')));
wait_no_worker($node);
settings_kept('run()', "CALL tenantmig.run($job)");
is(job_state($node, $job), 'succeeded', 'run() succeeds');
is(wrong_tenants($node, 'm.b', q('acme')), 0, 'run() fills all rows');
caught('run()', qw(before after statement deferred domain));

# and once more where it fails: settings come back after an error too
make_trap('c', 'text', q{
	CREATE FUNCTION m.fail() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN PERFORM m.spy('failing'); RAISE 'no'; END $$;
	CREATE TRIGGER failing BEFORE UPDATE ON m.c FOR EACH ROW EXECUTE FUNCTION m.fail()});
$job = submit($node, q(tenantmig.backfill('m.c', value => 'acme', options => '{"method": "ranges"}')));
wait_no_worker($node);
{
	my ($session) = new_session($node);
	$session->query_safe('SELECT count(*) FROM tenantmig.jobs');
	my $before = $session->query_safe($show);
	$session->query("CALL tenantmig.run($job)");
	like($session->{stderr}, qr/no/, 'run() of a job that fails raises its error');
	is($session->query($show), $before, 'settings and user are what they were after an error');
	$session->{stderr} = '';
	$session->quit;
}
is(job_state($node, $job), 'failed', 'the job has failed');
$node->append_conf('postgresql.conf', 'tenantmig.max_workers = 2');
$node->reload;
assert_clean($node);

# A trigger that makes a deferred one wait for the commit, when the user would
# be the session's: refused by the server, and the job fails
foreach my $foreground (0, 1)
{
	my $table = "d$foreground";

	make_trap($table, 'text', qq{
		CREATE OR REPLACE FUNCTION m.defer() RETURNS trigger LANGUAGE plpgsql AS
			\$\$ BEGIN SET CONSTRAINTS ALL DEFERRED; RETURN NEW; END \$\$;
		CREATE TRIGGER a BEFORE UPDATE ON m.$table FOR EACH ROW EXECUTE FUNCTION m.defer();
		CREATE CONSTRAINT TRIGGER deferred AFTER UPDATE ON m.$table
			DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION m.fired()});
	stop_at($node, 'worker-start:error') if $foreground;
	$job = submit($node, qq(tenantmig.backfill('m.$table', value => 'acme', options => '{"method": "ranges"}')));
	if ($foreground)
	{
		wait_no_worker($node);
		$node->psql('postgres', "CALL tenantmig.run($job)");
		release($node);
	}
	wait_job_state($node, $job, 'failed');
	like(job_field($node, $job, 'error'), qr/deferred trigger within security-restricted/,
		'a deferred trigger cannot wait for the commit');
	is($node->safe_psql('postgres', q{SELECT DISTINCT cur FROM m.spy WHERE cur <> 'mallory'}), '',
		'and has not run as anybody else');
	assert_clean($node);
}

#
# create_index, set_not_null
#
make_trap('e', 'text', q{UPDATE m.e SET tenant_id = 'acme';
	ALTER TABLE m.e ADD CHECK (m.checked(id)) NOT VALID});
settings_kept('create_index', q{SELECT tenantmig.create_index('m.e', '{m.indexed(body)}')});
$job = $node->safe_psql('postgres', 'SELECT max(id) FROM tenantmig.jobs');
wait_job_state($node, $job, 'succeeded');
caught('create_index', 'index');
settings_kept('set_not_null', q{SELECT tenantmig.set_not_null('m.e')});
$job = $node->safe_psql('postgres', 'SELECT max(id) FROM tenantmig.jobs');
wait_job_state($node, $job, 'succeeded');
caught('set_not_null');
settings_kept('dry run', q{SELECT tenantmig.create_index('m.e', '{m.indexed(body)}', name => 'z', dry_run => true)},
	q{SELECT tenantmig.backfill('m.e', expression => 'm.value(id)', dry_run => true)});
is($node->safe_psql('postgres', q{SELECT DISTINCT cur FROM m.spy WHERE cur <> 'mallory'}), '',
	'a dry run runs the code as the owner as well');
$node->safe_psql('postgres', 'TRUNCATE m.spy');

#
# direct functions
#
make_trap('f', 'text', '');
is( sql_error($node, q{SELECT tenantmig.add_tenant_column('m.f', 'domain_id', 'm.tenant', 'acme')})->{sqlstate},
	'0A000', 'a domain with a check is refused');
as_mallory('CREATE TABLE m.empty (id int)');
settings_kept('add_tenant_column to an empty table',
	q{SELECT tenantmig.add_tenant_column('m.empty', 'domain_id', 'm.tenant', 'acme')});
caught('add_tenant_column to an empty table', 'domain');
settings_kept('add_tenant_column', q{SELECT tenantmig.add_tenant_column('m.f', 'plain_id', 'text', 'acme')});
is($node->safe_psql('postgres', q{SELECT count(*) FROM m.f WHERE plain_id = 'acme'}), '5', 'the column is there');
caught('add_tenant_column');
settings_kept('enable_rls', q{SELECT tenantmig.enable_rls('m.f')}, q{SELECT tenantmig.disable_rls('m.f')});
caught('enable_rls');

#
# The fill trigger, fired by a superuser's own insert
#
make_trap('g', 'text', '');
stop_at($node, 'backfill-covered:wait');
$job = submit($node, q(tenantmig.backfill('m.g', expression => 'm.value(id)')));
wait_at($node, $job, 'backfill-covered');
$node->safe_psql('postgres', 'TRUNCATE m.spy');
settings_kept('fill trigger', q{INSERT INTO m.g (id, body) VALUES (100, 'new')},
	q{UPDATE m.g SET id = 101 WHERE id = 100},
	q{BEGIN; INSERT INTO m.g (id, body) VALUES (102, 'new'); COMMIT});
is($node->safe_psql('postgres', q{SELECT string_agg(tenant_id, ',') FROM m.g WHERE id > 99}), 'acme,acme',
	'the rows have their tenant');
caught('fill trigger', 'expression');
release($node);
wait_job_state($node, $job, 'succeeded');
is(wrong_tenants($node, 'm.g', q('acme')), 0, 'all rows are filled');
caught('expression', 'expression');
assert_clean($node);

my $log = slurp_file($node->logfile);
is(join("\n", $log =~ /LOG:  (the code of .*)/g), '', 'nor was it run as another in what was rolled back');
assert_no_crash($node);
$node->stop;
done_testing();
