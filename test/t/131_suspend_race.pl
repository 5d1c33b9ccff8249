
# suspend_tenant against many writers: once it has returned, nothing of the
# tenant changes any more, while the others go on; and after reactivate_tenant
# the tenant writes again.
use strict;
use warnings FATAL => 'all';

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TenantMig;

my $rounds = $ENV{SUSPEND_ROUNDS} // 25;
my $node = new_node('race', conf => "fsync = off\n");

$node->safe_psql('postgres', q{
	CREATE TABLE fenced (id int PRIMARY KEY, tenant_id text, n bigint DEFAULT 0);
	INSERT INTO fenced SELECT g, 't' || g % 4 FROM generate_series(1, 400) g;
	SELECT tenantmig.create_tenant('t' || g) FROM generate_series(0, 3) g;
	SELECT tenantmig.fence_tenants('fenced');
	-- an error of the fence must not end the client
	CREATE FUNCTION write(tenant text, which int) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		UPDATE fenced SET n = n + 1 WHERE tenant_id = tenant AND id = which;
	EXCEPTION WHEN object_not_in_prerequisite_state THEN NULL;
	END $$});

my $script = $node->basedir . '/write.sql';
append_to_file($script, q{
\set t random(0, 3)
\set a 4 * random(1, 99) + :t
\set b 4 * random(1, 99) + :t
\set u random(0, 3)
\set c 4 * random(1, 99) + :u
BEGIN ISOLATION LEVEL READ COMMITTED;
SELECT write('t' || :t, :a);
SAVEPOINT s;
SELECT write('t' || :u, :c);
ROLLBACK TO s;
SELECT write('t' || :t, :b);
COMMIT;
});
my ($out, $err) = ('', '');
my $bench = IPC::Run::start(
	[ $node->installed_command('pgbench'), '-n', '-c', '6', '-j', '2', '-T', '3600', '--max-tries=100',
		'-f', $script, $node->connstr('postgres') ],
	'>', \$out, '2>', \$err,
	IPC::Run::timeout(10 * $PostgreSQL::Test::Utils::timeout_default));

my $sum = sub { $node->safe_psql('postgres', "SELECT sum(n) FROM fenced WHERE $_[0]") };
my $changes = sub {
	my ($which, $from) = @_;
	return poll_for($PostgreSQL::Test::Utils::timeout_default, sub { $sum->($which) ne $from });
};
my ($moved, $stuck, $refused) = (0, 0, 0);

foreach my $round (1 .. $rounds)
{
	my $tenant = 't' . $round % 4;
	my $others = "tenant_id <> '$tenant'";
	my $ours = "tenant_id = '$tenant'";

	$node->safe_psql('postgres', "SELECT tenantmig.suspend_tenant('$tenant', 'round $round')");
	my $before = $sum->($ours);
	my $theirs = $sum->($others);
	# twice: transactions that began before have ended by then
	$changes->($others, $theirs) or $stuck++ for 1 .. 2;
	$moved++ if $sum->($ours) ne $before;
	$refused++
	  if sql_error($node, "UPDATE fenced SET n = n + 1 WHERE $ours")->{sqlstate} eq '55000';
	$node->safe_psql('postgres', "SELECT tenantmig.reactivate_tenant('$tenant')");
	$changes->($ours, $before) or $stuck++;
}
is($moved, 0, "no row of a suspended tenant changed in $rounds rounds");
is($stuck, 0, 'the others went on, and so did the tenant afterwards');
is($refused, $rounds, 'its own writes were refused');
ok($bench->pumpable, 'the writers are still there');
$bench->signal('TERM');
$bench->finish;
unlike($err, qr/ERROR/, 'and saw no error');
assert_no_crash($node);
$node->stop;
done_testing();
