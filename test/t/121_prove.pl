# prove_isolation and assert_isolation among others: in a pipeline, beside
# writers, with rows and tables locked by others, cancelled half-way.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TenantMig;

my $node = new_node('prove', conf => "tenantmig.lock_timeout = '200ms'\nshared_preload_libraries = 'tenantmig'\n");
my $proof = q{tenantmig.prove_isolation('app', 'acme', 'zeta', '{shop}')};
my $assert = q{SELECT tenantmig.assert_isolation('app', 'acme', 'zeta', '{shop}')};

$node->safe_psql('postgres', q{
	CREATE ROLE owner; CREATE ROLE app LOGIN;
	CREATE SCHEMA shop AUTHORIZATION owner; GRANT USAGE ON SCHEMA shop TO app;
	SET ROLE owner;
	CREATE TABLE shop.orders (id serial PRIMARY KEY, tenant_id text NOT NULL, note text);
	CREATE INDEX ON shop.orders (tenant_id);
	CREATE TABLE shop.items (id serial PRIMARY KEY, tenant_id text NOT NULL, order_id int REFERENCES shop.orders ON DELETE CASCADE);
	INSERT INTO shop.orders (tenant_id, note) SELECT (ARRAY['acme', 'zeta', 'gold'])[g % 3 + 1], 'note ' || g FROM generate_series(1, 300) g;
	INSERT INTO shop.items (tenant_id, order_id) SELECT tenant_id, id FROM shop.orders;
	CREATE VIEW shop.totals AS SELECT count(*) FROM shop.orders;
	GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA shop TO app;
	GRANT USAGE ON ALL SEQUENCES IN SCHEMA shop TO app;
	RESET ROLE;
	SELECT tenantmig.enable_rls('shop.orders'), tenantmig.enable_rls('shop.items')});

sub not_ok
{
	return $node->safe_psql('postgres', "SELECT relation, probe, command, seen FROM $proof WHERE ok IS NOT TRUE");
}

#
# In a pipeline
#
sub pipeline
{
	return system($node->installed_command('psql'), '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'),
		'-o', '/dev/null', '-c', $assert) >> 8;
}
is(not_ok(), '', 'clean');
is(pipeline(), 0, 'psql ends with 0');
$node->safe_psql('postgres', 'ALTER TABLE shop.items DISABLE ROW LEVEL SECURITY');
is(pipeline(), 1, 'and with 1 when a table is open');
my $error = sql_error($node, $assert);
is($error->{sqlstate}, '55000', 'SQLSTATE of a failed proof');
like($error->{message}, qr/^role "app" is not isolated: \d+ of \d+ probes failed$/, 'its message');
like($error->{text}, qr/^DETAIL:  shop\.items, unset, SELECT: expected no rows, seen 300 rows\.$/m, 'the first failures');
my ($hint) = $error->{text} =~ /^HINT:  See all: (SELECT .*);$/m;
cmp_ok(number($node, "SELECT count(*) FROM ($hint) f"), '>', 5, 'the query of the hint shows them');
$node->safe_psql('postgres', 'ALTER TABLE shop.items ENABLE ROW LEVEL SECURITY');

is($node->safe_psql('postgres', "SET row_security = off; SELECT count(*) FROM $proof WHERE ok IS FALSE"), '0',
	'row_security of the caller does not matter');

#
# Beside writers: no false alarm, and no error of theirs
#
my $script = $PostgreSQL::Test::Utils::tmp_check . '/writer.sql';
append_to_file($script, q{
\set t random(1, 2)
\set id random(1, 300)
BEGIN;
SELECT set_config('app.current_tenant_id', (ARRAY['acme', 'zeta'])[:t], true);
INSERT INTO shop.orders (tenant_id, note) VALUES ((ARRAY['acme', 'zeta'])[:t], 'new');
UPDATE shop.orders SET note = note || '.' WHERE id = :id;
DELETE FROM shop.items WHERE id = :id;
COMMIT;
});
my ($out, $err) = ('', '');
my $writers = IPC::Run::start(
	[ $node->installed_command('pgbench'), '-n', '-c', 3, '-T', 8, '-f', $script, '-U', 'app', '-h', $node->host, '-p', $node->port, 'postgres' ],
	'>', \$out, '2>', \$err, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
my ($proofs, @alarms) = (0);
while ($writers->pumpable && $proofs < 100)
{
	my $found = $node->safe_psql('postgres', "SELECT relation, probe, command, seen FROM $proof WHERE NOT ok");

	$writers->pump_nb;
	$proofs++;
	push @alarms, $found if $found ne '';
	last if $out =~ /tps = /;
}
ok($writers->finish, 'the writers met no error');
cmp_ok($proofs, '>', 1, "$proofs proofs beside writers");
is_deeply(\@alarms, [], 'none of them raised a false alarm');
like($out, qr/number of failed transactions: 0/, 'no transaction of the writers failed');

#
# Locked rows are passed over, locked tables not waited for
#
my ($holder) = new_session($node);
$node->safe_psql('postgres', q{TRUNCATE shop.items; INSERT INTO shop.items (tenant_id) VALUES ('acme'), ('acme'), ('zeta')});
$holder->query_safe(q{BEGIN});
$holder->query_safe(q{SELECT 1 FROM shop.items WHERE tenant_id = 'zeta' FOR UPDATE});
is($node->safe_psql('postgres', "SELECT DISTINCT relation, seen FROM $proof WHERE ok IS NOT TRUE"),
	'shop.items|not tried: others have locked the rows', 'a locked row is passed over');
like(sql_error($node, $assert)->{text}, qr/WARNING:  01000: \d+ probes could not be tried/, 'and assert_isolation warns');
$holder->query_safe('LOCK TABLE shop.items IN ACCESS EXCLUSIVE MODE');
is(sql_error($node, $assert)->{sqlstate}, '55P03', 'a locked table is not waited for');
$holder->query_safe('ROLLBACK');
is(not_ok(), '', 'nothing of that is left');

#
# Cut off half-way, or refused in a block that goes on: nothing is left
#
my $before = digest($node, 'shop.orders', with => 1) . digest($node, 'shop.items', with => 1);
my ($session) = new_session($node);
$session->query_safe('SET search_path = shop');
my %seen;
foreach my $ms (1, 2, 5, 10, 20, 40)
{
	$seen{ sql_error($node, [ "SET statement_timeout = $ms", $assert ])->{sqlstate} }++;
}
delete @seen{ '', '57014' };
is_deeply(\%seen, {}, 'a proof that is cut off says so, or ends');
is(digest($node, 'shop.orders', with => 1) . digest($node, 'shop.items', with => 1), $before, 'and leaves nothing behind');

# the session can go on as before, whatever happened
is($session->query_safe(q{
	DO $$ BEGIN
		PERFORM tenantmig.assert_isolation('app', 'acme', 'nobody', '{shop}');
	EXCEPTION WHEN OTHERS THEN NULL;
	END $$;
	SELECT current_user = session_user, current_setting('search_path'), current_setting('row_security'), count(*) > 0 FROM shop.orders}),
	't|shop|on|t', 'the session is as it was');
is($session->query_safe("COPY (SELECT 'to the client') TO STDOUT"), 'to the client', 'and COPY speaks to the client again');
assert_no_crash($node);

done_testing();
