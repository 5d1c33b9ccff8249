# What becomes of a job when something happens to the owner of its table, or
# to the role that recorded it: while it is queued, and while it runs.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TenantMig;

my $node = new_node('owner', stop_points => 1);

# alice owns the table; dev may act as her and records the jobs; bob is who
# takes over
sub set_up
{
	my ($superuser) = @_;

	$node->safe_psql('postgres', q{
		SET client_min_messages = error;
		DROP TABLE IF EXISTS orders;
		DROP ROLE IF EXISTS alice; DROP ROLE IF EXISTS alicia;
		DROP ROLE IF EXISTS dev; DROP ROLE IF EXISTS bob;
		CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN;
		CREATE ROLE dev LOGIN IN ROLE alice;
	});
	$node->safe_psql('postgres', 'ALTER ROLE alice SUPERUSER') if $superuser;
	make_table($node, 'orders', rows => 8000);
	$node->safe_psql('postgres', 'ALTER TABLE orders OWNER TO alice');
}

# A neighbour, whose jobs must never notice
$node->safe_psql('postgres', 'CREATE ROLE carol LOGIN');
make_table($node, 'neighbour', rows => 1000);
$node->safe_psql('postgres', 'ALTER TABLE neighbour OWNER TO carol');

# Somebody else's table, which a superuser may read
$node->safe_psql('postgres', q{
	CREATE TABLE customer (id int PRIMARY KEY, tenant_id text);
	INSERT INTO customer SELECT g, 'acme' FROM generate_series(0, 96) g;
});

my @scenarios = (
	{
		name => 'owner dropped, recorded by herself',
		as => 'alice',
		sql => 'DROP ROLE dev; REASSIGN OWNED BY alice TO bob; DROP ROLE alice',
		queued => qr/the role that recorded job \d+ no longer exists/,
		running => qr/has got another owner/,
		retry => 'bob',
	},
	{
		name => 'owner dropped, recorded by a superuser',
		as => 'postgres',
		sql => 'DROP ROLE dev; REASSIGN OWNED BY alice TO bob; DROP ROLE alice',
		queued => 'succeeded',
		running => qr/has got another owner/,
		retry => 'bob',
	},
	{
		name => 'table given away',
		as => 'dev',
		sql => 'ALTER TABLE orders OWNER TO bob',
		queued => qr/role dev, which recorded job \d+, no longer has the rights of the owner/,
		running => qr/has got another owner/,
		retry => 'bob',
	},
	{
		name => 'owner renamed',
		as => 'dev',
		sql => 'ALTER ROLE alice RENAME TO alicia',
		queued => 'succeeded',
		running => 'succeeded',
	},
	{
		name => 'owner made NOLOGIN, without connections',
		as => 'dev',
		sql => q{ALTER ROLE alice NOLOGIN CONNECTION LIMIT 0 VALID UNTIL '2000-01-01'},
		queued => 'succeeded',
		running => 'succeeded',
	},
	{
		name => 'database without connections',
		as => 'dev',
		sql => 'ALTER DATABASE postgres CONNECTION LIMIT 0',
		undo => 'ALTER DATABASE postgres CONNECTION LIMIT -1',
		queued => 'succeeded',
		running => 'succeeded',
	},
	{
		name => 'owner demoted from superuser',
		superuser => 1,
		as => 'alice',
		expression => q{(SELECT c.tenant_id FROM customer c WHERE c.id = orders.customer)},
		sql => 'ALTER ROLE alice NOSUPERUSER',
		queued => qr/role alice may not read public.customer|permission denied for table customer/,
		running => qr/role alice may not read public.customer|permission denied for table customer/,
		mend => 'GRANT SELECT ON customer TO alice',
		unmend => 'REVOKE SELECT ON customer FROM alice',
		retry => 'alice',
	},
	{
		name => 'membership lost',
		as => 'dev',
		sql => 'REVOKE alice FROM dev',
		queued => qr/role dev, which recorded job \d+, no longer has the rights of the owner/,
		# it had them when it started, and what it does is done as the owner
		running => 'succeeded',
		retry => 'alice',
	},
	{
		name => 'recording role dropped',
		as => 'dev',
		sql => 'DROP ROLE dev',
		queued => qr/the role that recorded job \d+ no longer exists/,
		running => 'succeeded',
		retry => 'alice',
	});

sub run_scenario
{
	my ($s, $stage) = @_;
	my $name = "$s->{name}, $stage";
	my $source = $s->{expression}
	  ? "expression => \$\$$s->{expression}\$\$" : q{value => 'acme'};
	my ($job, $neighbour, $before);

	note($name);
	set_up($s->{superuser});
	$node->safe_psql('postgres', 'UPDATE neighbour SET tenant_id = NULL');
	$before = digest($node, 'orders');

	stop_at($node, $stage eq 'queued' ? 'worker-start:wait' : 'backfill-covered:wait');
	$job = $node->safe_psql('postgres', qq{
		SET ROLE $s->{as};
		SELECT tenantmig.backfill('orders', $source, options => '{"method": "ranges", "batch_target": "1ms"}')});
	if ($stage eq 'queued')
	{
		wait_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity
			WHERE application_name = 'tenantmig at worker-start'}, "$name: worker is there");
		is(job_state($node, $job), 'queued', "$name: the job is queued");
	}
	else
	{
		wait_at($node, $job, 'backfill-covered');
		stop_at($node, 'batch-committed:wait');
		wait_at($node, $job, 'batch-committed');
	}

	$node->safe_psql('postgres', $s->{sql});
	$neighbour = $node->safe_psql('postgres', q{
		SET ROLE carol;
		SELECT tenantmig.backfill('neighbour', value => 'acme', options => '{"method": "ranges"}')});
	release($node);

	if (!ref $s->{$stage})
	{
		wait_job_state($node, $job, $s->{$stage});
	}
	else
	{
		wait_job_state($node, $job, 'failed');
		like(job_field($node, $job, 'error'), $s->{$stage}, "$name: jobs.error says why");
		like(job_field($node, $job, 'sqlstate'), qr/^(42501|55000)$/, "$name: SQLSTATE");
		is(job_field($node, $job, 'next_action'), "SELECT tenantmig.retry($job);",
			"$name: and what to do");
		assert_clean($node);
		$node->safe_psql('postgres', $s->{mend}) if $s->{mend};
		# whoever owns the table now takes the job over
		$node->safe_psql('postgres', "SET ROLE $s->{retry}; SELECT tenantmig.retry($job)");
		wait_job_state($node, $job, 'succeeded');
	}
	is(wrong_tenants($node, 'orders', q('acme')), 0, "$name: all rows are filled");
	is(digest($node, 'orders'), $before, "$name: and otherwise as they were");
	wait_job_state($node, $neighbour, 'succeeded');
	is(wrong_tenants($node, 'neighbour', q('acme')), 0, "$name: the neighbour's too");
	$node->safe_psql('postgres', $s->{unmend}) if $s->{unmend};
	$node->safe_psql('postgres', $s->{undo}) if $s->{undo};
	assert_clean($node);
}

foreach my $scenario (@scenarios)
{
	run_scenario($scenario, $_) foreach qw(queued running);
}

# A job is not taken over by somebody who does not own the table
set_up(0);
stop_at($node, 'backfill-covered:wait');
my $job = $node->safe_psql('postgres', q{
	SET ROLE dev; SELECT tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges"}')});
wait_at($node, $job, 'backfill-covered');
$node->safe_psql('postgres', 'ALTER TABLE orders OWNER TO bob');
release($node);
wait_job_state($node, $job, 'failed');
is(sql_error($node, [ 'SET ROLE carol', "SELECT tenantmig.retry($job)" ])->{sqlstate}, '42501',
	'a stranger cannot retry it');
# the role that recorded it sees it, and may ask; it has no rights any more
$node->safe_psql('postgres', "SET ROLE dev; SELECT tenantmig.retry($job)");
wait_job_state($node, $job, 'failed');
like(job_field($node, $job, 'error'), qr/no longer has the rights of the owner/,
	'nor does the old role get it done');
is($node->safe_psql('postgres', 'SELECT count(tenant_id) FROM orders'), '0', 'no row was touched');
assert_clean($node);

# The owner may read the key of the parent, but not its tenant: that comes out
# before there is a trigger that would make the inserts of others fail
set_up(0);
$node->safe_psql('postgres', q{
	REVOKE ALL ON customer FROM alice;
	GRANT SELECT (id), REFERENCES ON customer TO alice;
	ALTER TABLE orders ADD FOREIGN KEY (customer) REFERENCES customer;
});
$job = submit($node, q(tenantmig.backfill('orders', via => 'customer')));
wait_job_state($node, $job, 'failed');
like(job_field($node, $job, 'error'), qr/permission denied for table customer/, 'the owner may not read the tenant of the parent');
is(number($node, "SELECT count(*) FROM tenantmig.job_steps WHERE job = $job"), 0, 'and nothing was begun');
assert_clean($node);

assert_no_crash($node);
$node->stop;
done_testing();
