
# Locked sessions and suspended tenants beyond one session: wrong tokens, the
# configuration file, prepared transactions, connection options, a crash, and
# dump and restore.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TenantMig;

my $lb = "-c app.current_tenant_id=lb";

foreach my $preload (0, 1)
{
	my $how = $preload ? 'preloaded' : 'not preloaded';
	my $node = new_node("lock$preload", preload => $preload,
		conf => "max_prepared_transactions = 5\n");

	$node->safe_psql('postgres', q{
		SELECT tenantmig.create_tenant('la'), tenantmig.create_tenant('lb');
		CREATE TABLE orders (id int PRIMARY KEY, tenant_id text);
		SELECT tenantmig.fence_tenants('orders');
		CREATE FUNCTION guess(tries int) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			FOR i IN 1..tries LOOP
				BEGIN
					PERFORM tenantmig.unlock_tenant(repeat('0', 32));
				EXCEPTION WHEN OTHERS THEN NULL;
				END;
			END LOOP;
		END $$});

	# --- the token cannot be guessed
	my ($status, $out, $err) = $node->psql('postgres', q{
		DO $$ BEGIN PERFORM tenantmig.lock_tenant('la'); END $$;
		SELECT guess(2);
		SELECT tenantmig.locked_tenant();
		SELECT guess(1);
		SELECT 'never'});
	like($out, qr/^la$/m, "$how: two wrong tokens change nothing");
	like($err, qr/FATAL:  terminating connection after 3 wrong tokens/, "$how: the third ends the session");
	unlike($out, qr/never/, "$how: and nothing runs after it");
	assert_no_crash($node);

	# --- the configuration file
	my ($session, $pid) = new_session($node);
	$session->query_safe(q{DO $$ BEGIN PERFORM tenantmig.lock_tenant('la'); END $$});
	$node->append_conf('postgresql.conf', "app.current_tenant_id = 'lb'\napp.reloaded = 'yes'");
	$node->reload;
	ok(poll_for($PostgreSQL::Test::Utils::timeout_default, sub { $session->query_safe(q{SELECT current_setting('app.reloaded', true)}) =~ /yes/ }),
		"$how: the file is read again");
	like($session->query_safe('SHOW app.current_tenant_id'), qr/^la$/m, "$how: the file does not change the tenant");
	like($session->query_safe('RESET app.current_tenant_id; SHOW app.current_tenant_id'), qr/^la$/m, "$how: nor does RESET");
	is($node->safe_psql('postgres', 'SELECT tenantmig.current_tenant()'), 'lb', "$how: new sessions have it");

	# --- a prepared transaction leaves the lock to the session
	$session->query_safe("BEGIN; INSERT INTO orders VALUES (1, 'la'); PREPARE TRANSACTION 'p'");
	like($session->query_safe('SELECT tenantmig.locked_tenant()'), qr/^la$/m, "$how: a prepared transaction does not unlock");
	$session->quit;

	# --- and holds its tenant against suspend_tenant
	($status, $out, $err) = $node->psql('postgres', q{
		SET tenantmig.lock_timeout = '10ms'; SET tenantmig.lock_retries = 1;
		SELECT tenantmig.suspend_tenant('la')});
	like($err, qr/could not close tenant "la" in time.*A prepared transaction has written for it/s,
		"$how: a prepared transaction of a writer is waited for");
	is($node->safe_psql('postgres', q{COMMIT PREPARED 'p'; SELECT tenantmig.suspend_tenant('la', 'test')}), 't',
		"$how: and no longer when it has ended");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM orders'), '1', "$how: its row is there");

	# --- what comes with the connection
	($status, $out, $err) = $node->psql('postgres', 'SELECT tenantmig.locked_tenant() IS NULL',
		connstr => $node->connstr('postgres') . " options='-c tenantmig.session_lock=app.current_tenant_id=lb'");
	isnt($out, 'f', "$how: the lock cannot be set with the connection");
	like($err, qr/is set by tenantmig.lock_tenant\(\) only|removed|invalid configuration parameter name/, "$how: and that is said");

	# --- a crash
	$node->stop('immediate');
	$node->start;
	($status, $out, $err) = $node->psql('postgres', q{INSERT INTO orders VALUES (2, 'la')});
	like($err, qr/tenant "la" is suspended/, "$how: a suspension survives a crash");

	# --- dump and restore
	my $dump = $node->basedir . '/dump.sql';
	$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], "$how: dump");
	$node->safe_psql('postgres', 'CREATE DATABASE copy');
	$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('copy') ], "$how: restore");
	is($node->safe_psql('copy', 'SELECT count(*) FROM orders'), '1', "$how: the rows of a suspended tenant are restored");
	($status, $out, $err) = $node->psql('copy', q{INSERT INTO orders VALUES (2, 'la')});
	like($err, qr/tenant "la" is suspended/, "$how: and it is suspended there too");
	is($node->safe_psql('copy', q{SELECT tenantmig.reactivate_tenant('la'); INSERT INTO orders VALUES (2, 'la') RETURNING id}), "t\n2",
		"$how: and can be reactivated");
	($status, $out, $err) = $node->psql('postgres', q{INSERT INTO orders VALUES (2, 'la')});
	like($err, qr/tenant "la" is suspended/, "$how: which the other database does not notice");
	$node->stop;
}

done_testing();
