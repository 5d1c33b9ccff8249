# The audit where a database is not enough: settings in files, a standby, and a
# table that somebody has locked.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TenantMig;

my $node = new_node('main', conf => "wal_level = replica\nmax_wal_senders = 5\n");
$node->safe_psql('postgres', q{
	CREATE ROLE app;
	CREATE TABLE customers (tenant_id text NOT NULL, id int, PRIMARY KEY (tenant_id, id), UNIQUE (id));
	CREATE TABLE orders (tenant_id text NOT NULL, id int, customer int REFERENCES customers (id), PRIMARY KEY (tenant_id, id));
	CREATE INDEX ON orders (customer);
	INSERT INTO customers VALUES ('a', 1), ('b', 2);
	INSERT INTO orders VALUES ('a', 1, 2);
	GRANT SELECT ON customers, orders TO app;
	SELECT tenantmig.enable_rls('customers');
	SELECT tenantmig.enable_rls('orders');
});
my $look = q{SELECT check_name FROM tenantmig.audit_rls('app') ORDER BY 1};
my $found = "foreign_key_not_paired\nkey_without_tenant\nrows_cross_tenants";
is($node->safe_psql('postgres', $look), $found, 'what is found');

# A standby
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql('postgres', $look), $found, 'a standby says the same');
$standby->stop;

# A table that is locked is not waited for
my ($session) = new_session($node);
$session->query('BEGIN');
$session->query('LOCK TABLE customers');
is($node->safe_psql('postgres', "SET lock_timeout = '1ms'; $look"),
	"foreign_key_not_paired\nkey_without_tenant\nrows_not_checked",
	'rows of a locked table are not waited for');
like($node->safe_psql('postgres', q{SELECT detail FROM tenantmig.audit_rls('app') WHERE check_name = 'rows_not_checked'}),
	qr/locked by another session/, 'and it says so');
$session->query('ROLLBACK');
$session->quit;

# The setting in a file that only an editor changes, and in that of ALTER SYSTEM
my $preset = q{SELECT mend FROM tenantmig.audit_rls('app') WHERE check_name = 'setting_preset'};
is($node->safe_psql('postgres', $preset), '', 'the setting is in no file');
$node->append_conf('postgresql.conf', "app.current_tenant_id = 'a'\n");
$node->reload;
is($node->safe_psql('postgres', "SELECT count(*), count(mend) FROM tenantmig.audit_rls('app') WHERE check_name = 'setting_preset'"),
	'1|0', 'a setting in postgresql.conf is found, and nothing mends it');
wait_until($node, q{SELECT current_setting('app.current_tenant_id', true) = 'a'}, 'the setting has been read');
$node->safe_psql('postgres', q{ALTER SYSTEM SET app.current_tenant_id = 'b'});
my $mend = $node->safe_psql('postgres', "$preset AND mend IS NOT NULL");
is($mend, 'ALTER SYSTEM RESET app.current_tenant_id', 'one of ALTER SYSTEM is, too');
$node->safe_psql('postgres', $mend);
is($node->safe_psql('postgres', "$preset AND mend IS NOT NULL"), '', 'and mended');

assert_no_crash($node);
$node->stop;
done_testing();
