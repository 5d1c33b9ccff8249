# Row-level security that is there before us, on the table and on its parent,
# and the one that enable_rls puts on a table whose queries are prepared.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TenantMig;

my $node = new_node('row_security');

sub as_role
{
	my ($role, $sql) = @_;
	return $node->safe_psql('postgres', $sql, extra_params => [ '-U', $role ]);
}

$node->safe_psql('postgres', q{
	CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN; CREATE ROLE app LOGIN;
	CREATE SCHEMA a AUTHORIZATION alice; CREATE SCHEMA b AUTHORIZATION bob;
	GRANT USAGE ON SCHEMA a TO bob; GRANT USAGE ON SCHEMA b TO alice;
});

#
# A policy that hides rows from the owner herself
#
my $hide = q{
	ALTER TABLE %1$s ENABLE ROW LEVEL SECURITY;
	ALTER TABLE %1$s FORCE ROW LEVEL SECURITY;
	CREATE POLICY few ON %1$s USING (id %% 10 = 0);
};

sub make_hidden
{
	my ($name) = @_;
	as_role('alice', qq{
		CREATE TABLE $name (id int PRIMARY KEY, body text, parent int, tenant_id text);
		INSERT INTO $name SELECT g, md5(g::text), g % 100 + 1 FROM generate_series(1, 5000) g;}
		  . sprintf($hide, $name));
	is(as_role('alice', "SELECT count(*) FROM $name"), '500', "the owner of $name does not see all rows");
}

foreach my $caller ('alice', 'postgres')
{
	my $table = "a.hidden_$caller";
	my $before;

	make_hidden($table);
	$before = digest($node, $table);
	foreach my $call (
		qq(tenantmig.backfill('$table', value => 'acme', options => '{"method": "ranges"}')),
		qq(tenantmig.set_not_null('$table')),
		qq(tenantmig.create_index('$table', '{tenant_id}')))
	{
		my $job = as_role($caller, "SELECT $call");
		wait_job_state($node, $job, 'succeeded');
		is(job_field($node, $job, 'rows_done'), '5000', "$caller: all rows were seen") if $call =~ /backfill/;
	}
	is(wrong_tenants($node, $table, q('acme')), 0, "$caller: all rows are filled, hidden ones too");
	is(digest($node, $table), $before, "$caller: and otherwise as they were");
	is( $node->safe_psql('postgres', qq{SELECT relrowsecurity, relforcerowsecurity FROM pg_class
			WHERE oid = '$table'::regclass}), 't|t', "$caller: row-level security is as it was");
}

# in the foreground, an expression, a dry run and undo: the same
make_hidden('a.hidden_run');
my $plan = as_role('alice', q{SELECT tenantmig.backfill('a.hidden_run', value => 'acme', options => '{"method": "ranges"}', dry_run => true)});
is($node->safe_psql('postgres', "SELECT plan ->> 'rows_total' FROM tenantmig.job WHERE id = $plan"), '5000',
	'a dry run counts all rows');
$node->append_conf('postgresql.conf', 'tenantmig.max_workers = 0');
$node->reload;
my $job = as_role('alice', q{SELECT tenantmig.backfill('a.hidden_run', expression => 'lower(''ACME'')')});
wait_no_worker($node);
as_role('alice', "CALL tenantmig.run($job)");
is(wrong_tenants($node, 'a.hidden_run', q('acme')), 0, 'run() fills all rows');
is(as_role('alice', 'SELECT count(*) FROM a.hidden_run'), '500', 'the owner sees no more than before');
$node->append_conf('postgresql.conf', 'tenantmig.max_workers = 2');
$node->reload;
$job = as_role('alice', "SELECT tenantmig.undo($job)");
wait_job_state($node, $job, 'succeeded');
is($node->safe_psql('postgres', 'SELECT count(tenant_id) FROM a.hidden_run'), '0', 'undo takes all back');

# a residue that only a superuser sees is a residue
$node->safe_psql('postgres', q{UPDATE a.hidden_run SET tenant_id = 'acme' WHERE id % 10 = 0});
$job = as_role('alice', q{SELECT tenantmig.set_not_null('a.hidden_run')});
wait_job_state($node, $job, 'failed');
like(job_field($node, $job, 'error'), qr/\b4500\b/, 'set_not_null counts hidden rows');

#
# A parent that belongs to somebody else, whose policy hides rows
#
as_role('bob', q{
	CREATE TABLE b.parent (id int PRIMARY KEY, tenant_id text);
	INSERT INTO b.parent SELECT g, 'tenant ' || g % 3 FROM generate_series(1, 100) g;
	GRANT SELECT, REFERENCES ON b.parent TO alice});
as_role('alice', q{
	CREATE TABLE a.child (id int PRIMARY KEY, parent int REFERENCES b.parent, tenant_id text);
	INSERT INTO a.child SELECT g, g % 100 + 1 FROM generate_series(1, 1000) g});
as_role('bob', q{
	ALTER TABLE b.parent ENABLE ROW LEVEL SECURITY;
	CREATE POLICY few ON b.parent USING (id % 2 = 0)});
my $via = q(tenantmig.backfill('a.child', via => 'parent'));
foreach my $caller ('alice', 'postgres')
{
	my $error = sql_error($node, $caller eq 'alice' ? [ 'SET ROLE alice', "SELECT $via" ] : "SELECT $via");
	is($error->{sqlstate}, '42501', "$caller: a parent whose rows are hidden from the owner is refused");
	like($error->{message}, qr/row-level security of b.parent would hide rows from role alice/, "$caller: with the reason");
	like($error->{hint}, qr/BYPASSRLS/, "$caller: and what to do");
}
# the same through a sub-select
is( sql_error($node, q{SELECT tenantmig.backfill('a.child',
		expression => '(SELECT p.tenant_id FROM b.parent p WHERE p.id = child.parent)')})->{sqlstate},
	'42501', 'and so is an expression that reads it');
is($node->safe_psql('postgres', 'SELECT count(tenant_id) FROM a.child'), '0', 'nothing was filled');

# hidden only after the job was recorded
as_role('bob', 'ALTER TABLE b.parent DISABLE ROW LEVEL SECURITY');
$node->append_conf('postgresql.conf', 'tenantmig.max_workers = 0');
$node->reload;
$job = as_role('alice', "SELECT $via");
wait_no_worker($node);
as_role('bob', 'ALTER TABLE b.parent ENABLE ROW LEVEL SECURITY');
$node->append_conf('postgresql.conf', 'tenantmig.max_workers = 2');
$node->reload;
$node->safe_psql('postgres', "SELECT tenantmig.resume($job)");
wait_job_state($node, $job, 'failed');
is(job_field($node, $job, 'sqlstate'), '42501', 'it is looked at again when the job starts');
$node->safe_psql('postgres', 'ALTER ROLE alice BYPASSRLS');
as_role('alice', "SELECT tenantmig.retry($job)");
wait_job_state($node, $job, 'succeeded');
is( $node->safe_psql('postgres', q{
		SELECT count(*) FROM a.child c JOIN b.parent p ON p.id = c.parent
		WHERE c.tenant_id = p.tenant_id}), '1000', 'what the hint says helps');
$node->safe_psql('postgres', 'ALTER ROLE alice NOBYPASSRLS');
assert_clean($node);

#
# Plans that were made before enable_rls, or for another role or tenant
#
as_role('alice', q{
	CREATE TABLE a.doc (id int PRIMARY KEY, tenant_id text NOT NULL);
	INSERT INTO a.doc SELECT g, 'tenant ' || g % 3 FROM generate_series(1, 900) g;
	GRANT USAGE ON SCHEMA a TO app;
	GRANT SELECT, UPDATE, DELETE ON a.doc TO app;
	CREATE FUNCTION a.how_many() RETURNS bigint LANGUAGE plpgsql AS
		'BEGIN RETURN (SELECT count(*) FROM a.doc); END';
	CREATE VIEW a.doc_view WITH (security_invoker) AS SELECT * FROM a.doc;
	GRANT SELECT ON a.doc_view TO app});

my ($app) = new_session($node, user => 'app');
my ($root) = new_session($node);
my %prepared = (
	counted => 'SELECT count(*) FROM a.doc',
	by_key => 'SELECT count(*) FROM a.doc WHERE id = ANY ($1)',
	viewed => 'SELECT count(*) FROM a.doc_view',
	changed => 'WITH u AS (UPDATE a.doc SET id = id RETURNING 1) SELECT count(*) FROM u');

# often enough for a generic plan, and once more
sub prepare_all
{
	my ($session) = @_;
	$session->query_safe("PREPARE $_ AS $prepared{$_}") foreach sort keys %prepared;
	foreach my $round (1 .. 7)
	{
		is_all($session, 900, 'before enable_rls', $round < 7);
	}
}

sub is_all
{
	my ($session, $count, $name, $quietly) = @_;
	my $everything = "'{" . join(',', 1 .. 900) . "}'";
	my @seen = map { $session->query_safe($_) } (
		'EXECUTE changed', 'EXECUTE counted', "EXECUTE by_key ($everything)",
		'EXECUTE viewed', 'SELECT a.how_many()');
	is("@seen", join(' ', ($count) x 5), $name) unless $quietly;
}

prepare_all($app);
prepare_all($root);
as_role('alice', q{SELECT tenantmig.enable_rls('a.doc')});
is_all($app, 0, 'without a tenant: no row');
foreach my $tenant (0, 1, 0, 2)
{
	$app->query_safe("SET app.current_tenant_id = 'tenant $tenant'");
	is_all($app, 300, "tenant $tenant: its own rows");
	is($app->query_safe('SELECT string_agg(DISTINCT tenant_id, \',\') FROM a.doc'), "tenant $tenant",
		"tenant $tenant: and no other's");
}
$app->query_safe('RESET app.current_tenant_id');
is_all($app, 0, 'without a tenant again: no row');
$app->query_safe(q{SET app.current_tenant_id = ''});
is_all($app, 0, 'with an empty tenant: no row');

# one session, other roles: a superuser's plans are not the application's
is_all($root, 900, 'a superuser sees all');
$root->query_safe('SET ROLE app');
is_all($root, 0, 'the same session as the application: no row');
$root->query_safe(q{SET app.current_tenant_id = 'tenant 1'});
is_all($root, 300, 'and with a tenant, its rows');
$root->query_safe('RESET ROLE');
is_all($root, 900, 'and back');

as_role('alice', q{SELECT tenantmig.disable_rls('a.doc')});
is_all($app, 900, 'after disable_rls: all rows');
$_->quit foreach ($app, $root);

assert_no_crash($node);
$node->stop;
done_testing();
