# The launcher and the databases: it resumes jobs in all that have the
# extension, leaves alone those it must not enter, and outlives the extension.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TenantMig;

my $node = new_node('databases', preload => 1, stop_points => 1);
my @databases = ('one', 'two', 'Three "quoted"');
my %job;

sub plain { my ($db) = @_; return $db =~ s/\W/_/gr }

$node->safe_psql('postgres', "CREATE DATABASE " . ($_ =~ s/"/""/gr =~ s/(.*)/"$1"/r)) for @databases;
for my $db (@databases)
{
	$node->safe_psql($db, 'CREATE EXTENSION tenantmig');
	make_table($node, 'orders', rows => 3000, db => $db);
}

# A database without the extension, a template that has it, with an interrupted
# job, and one that takes no connections any more, with another
$node->safe_psql('postgres', 'CREATE DATABASE without');
for my $db ('a_template', 'closed')
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION tenantmig');
	make_table($node, 'orders', rows => 3000, db => $db);
}

# The default of two workers counts for each database
stop_at($node, 'filling rows:wait');
for my $db (@databases, 'a_template', 'closed')
{
	$job{$db} = submit($node,
		q(tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges", "batch_target": "1ms"}')),
		db => $db);
	wait_at($node, $job{$db}, 'filling rows', db => $db);
}
is( number($node, "SELECT count(DISTINCT datname) FROM pg_stat_activity WHERE backend_type = 'tenantmig worker'"),
	5, 'a job is at work in each database');
$node->safe_psql('postgres', q(
	UPDATE pg_database SET datistemplate = true WHERE datname = 'a_template';
	UPDATE pg_database SET datallowconn = false WHERE datname = 'closed';));
my $log = -s $node->logfile;
$node->stop('immediate');
stop_at($node, '');
$node->start;

for my $db (@databases)
{
	wait_job_state($node, $job{$db}, 'succeeded', db => $db);
	is(job_field($node, $job{$db}, 'attempts', db => $db), 2, "resumed in $db");
	is(wrong_tenants($node, 'orders', q('acme'), db => $db), 0, 'and completed');
	assert_clean($node, db => $db);
}
is(job_field($node, $job{a_template}, 'state, phase, attempts', db => 'a_template'),
	'paused|interrupted|1', 'the template was left alone');
$node->safe_psql('postgres',
	"UPDATE pg_database SET datallowconn = true WHERE datname = 'closed'");
is(job_field($node, $job{closed}, 'state, phase, attempts', db => 'closed'),
	'paused|interrupted|1', 'so was the database that takes no connections');
unlike(slurp_file($node->logfile, $log), qr/FATAL:  (?!the database system|terminating)/,
	'nobody was turned away');

# There they are resumed by hand
for my $db ('a_template', 'closed')
{
	$node->safe_psql($db, "SELECT tenantmig.resume($job{$db})");
	wait_job_state($node, $job{$db}, 'succeeded', db => $db);
	assert_clean($node, db => $db);
}

# --- the extension goes and comes back -----------------------------------------------

my $launcher = $node->safe_psql('postgres',
	"SELECT pid FROM pg_stat_activity WHERE backend_type = 'tenantmig launcher'");
for my $round (1 .. 3)
{
	$node->safe_psql('one', 'DROP EXTENSION tenantmig');
	$node->safe_psql('one', 'CREATE EXTENSION tenantmig');
	$node->safe_psql('one', 'UPDATE orders SET tenant_id = NULL');
	my $id = submit($node, q(tenantmig.backfill('orders', value => 'other', options => '{"method": "ranges"}')), db => 'one');
	wait_job_state($node, $id, 'succeeded', db => 'one');
	is(wrong_tenants($node, 'orders', q('other'), db => 'one'), 0, 'a new extension works');
}

# Restarted with a database without it, and with one more than there was
$node->safe_psql('two', 'DROP EXTENSION tenantmig');
$node->restart;
wait_until($node,
	"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'tenantmig launcher' AND wait_event_type = 'Extension'",
	'the launcher waits again');
wait_no_worker($node);
$node->safe_psql('two', 'CREATE EXTENSION tenantmig');
$node->safe_psql('two', 'UPDATE orders SET tenant_id = NULL');
my $id = submit($node, q(tenantmig.backfill('orders', value => 'other', options => '{"method": "ranges"}')), db => 'two');
wait_job_state($node, $id, 'succeeded', db => 'two');

# The launcher itself comes back, and does its work
$node->safe_psql('postgres',
	"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'tenantmig launcher'");
wait_until($node,
	"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'tenantmig launcher' AND wait_event_type = 'Extension'",
	'the launcher is back');
assert_clean($node, db => $_) for @databases;

# Databases can be dropped and copied: nobody stays connected
wait_no_worker($node);
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE two');
is( $node->safe_psql('copy', 'SELECT DISTINCT state FROM tenantmig.jobs'),
	'succeeded', 'a copy can be made');
$node->safe_psql('postgres', 'DROP DATABASE copy');
$node->safe_psql('postgres', 'DROP DATABASE one');
$node->stop;

done_testing();
