# DDL on the table of a backfill between two of its batches: either the job
# ends with a reason, or it goes on and leaves no row without a tenant.  In
# both cases nothing of ours stays behind.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TenantMig;

my $rows = 8000;
my $node = new_node('ddl', stop_points => 1);
my $options = q(options => '{"method": "ranges", "batch_target": "1ms"}');

$node->safe_psql('postgres', 'CREATE SCHEMA attic; CREATE ROLE bob');

sub start_and_stop
{
	my ($call) = @_;

	stop_at($node, 'backfill-covered:wait');
	my $job = submit($node, $call);
	wait_at($node, $job, 'backfill-covered');
	stop_at($node, 'batch-committed:wait');
	wait_at($node, $job, 'batch-committed');
	return $job;
}

my $by_value = qq(tenantmig.backfill('orders', value => 'acme', $options));
my $by_expression =
  qq(tenantmig.backfill('orders', expression => 'lower(''ACME'')', $options));
my $by_own_name =
  qq(tenantmig.backfill('orders', expression => 'substr(''acme'', 1, orders.customer + 4)', $options));

# to: where the rows are afterwards; error: the job fails with that
my @scenarios = (
	{
		name => 'DROP TABLE',
		sql => 'DROP TABLE orders',
		error => qr/relation public.orders was dropped while job \d+ worked on it/,
		sqlstate => '42P01',
	},
	{
		name => 'DROP TABLE and a new one of the same name',
		sql => 'DROP TABLE orders; CREATE TABLE orders (id bigint, tenant_id text);
			INSERT INTO orders VALUES (1, NULL)',
		error => qr/relation public.orders was dropped while job \d+ worked on it/,
		sqlstate => '42P01',
		untouched => 'orders',
	},
	{
		name => 'DROP COLUMN of the tenant',
		sql => 'ALTER TABLE orders DROP COLUMN tenant_id',
		error => qr/column tenant_id of relation public.orders was dropped or changed/,
		sqlstate => '42703',
	},
	{
		name => 'RENAME of the tenant column',
		sql => 'ALTER TABLE orders RENAME COLUMN tenant_id TO owner_id',
		error => qr/column tenant_id of relation public.orders was dropped or changed/,
		sqlstate => '42703',
		mend => 'ALTER TABLE orders RENAME COLUMN owner_id TO tenant_id',
		skip_digest => 1,
	},
	{
		name => 'ALTER TYPE of the tenant column',
		sql => 'ALTER TABLE orders ALTER COLUMN tenant_id TYPE varchar(20)',
		error => qr/column tenant_id of relation public.orders was dropped or changed/,
		sqlstate => '42703',
		retry => 1,
	},
	{
		name => 'DROP COLUMN of another one',
		sql => 'ALTER TABLE orders DROP COLUMN touched',
	},
	{
		name => 'ADD COLUMN with a default',
		sql => 'ALTER TABLE orders ADD COLUMN more int DEFAULT 5',
	},
	{
		name => 'ALTER TYPE of another column, which rewrites the table',
		sql => 'ALTER TABLE orders ALTER COLUMN customer TYPE bigint',
	},
	{
		name => 'VACUUM FULL',
		sql => 'VACUUM FULL orders',
	},
	{
		name => 'CLUSTER, which turns the rows round',
		sql => 'CREATE INDEX orders_down ON orders (id DESC); CLUSTER orders USING orders_down',
	},
	{
		name => 'TRUNCATE and new rows',
		sql => q{TRUNCATE orders; INSERT INTO orders (id, customer, body) VALUES (1, 1, 'x')},
		rows => 1,
	},
	{
		name => 'RENAME TABLE',
		sql => 'ALTER TABLE orders RENAME TO "Orders of old"',
		to => '"Orders of old"',
		renamed => 'public."Orders of old"',
	},
	{
		name => 'RENAME TABLE, filled by an expression',
		call => $by_expression,
		sql => 'ALTER TABLE orders RENAME TO orders2',
		to => 'orders2',
		renamed => 'public.orders2',
	},
	{
		name => 'RENAME TABLE under an expression that names it',
		call => $by_own_name,
		sql => 'ALTER TABLE orders RENAME TO orders2',
		to => 'orders2',
		error => qr/orders/,
		sqlstate => '42P01',
		mend => 'ALTER TABLE orders2 RENAME TO orders',
		mended_to => 'orders',
		# the call says "orders"; the job has followed the table
		no_retry => 1,
	},
	{
		name => 'SET SCHEMA',
		sql => 'ALTER TABLE orders SET SCHEMA attic',
		to => 'attic.orders',
		renamed => 'attic.orders',
	},
	{
		name => 'two tables change places',
		sql => 'CREATE TABLE orders_new (LIKE orders); INSERT INTO orders_new SELECT * FROM orders LIMIT 5;
			UPDATE orders_new SET tenant_id = NULL;
			ALTER TABLE orders RENAME TO orders_old; ALTER TABLE orders_new RENAME TO orders',
		to => 'orders_old',
		renamed => 'public.orders_old',
		untouched => 'orders',
	},
	{
		name => 'OWNER TO',
		sql => 'ALTER TABLE orders OWNER TO bob',
		error => qr/has got another owner/,
		sqlstate => '55000',
		retry => 1,
	},
	{
		name => 'a new index on the tenant column',
		sql => 'CREATE INDEX orders_tenant ON orders (tenant_id)',
		check => q{SELECT count(*) = (SELECT count(*) FROM orders) FROM orders WHERE tenant_id = 'acme'},
	},
	{
		name => 'a unique index that two tenants would break',
		sql => 'DELETE FROM orders WHERE tenant_id IS NOT NULL;
			CREATE UNIQUE INDEX orders_one ON orders (tenant_id)',
		error => qr/duplicate key value violates unique constraint "orders_one"/,
		sqlstate => '23505',
		mend => 'DROP INDEX orders_one',
		retry => 1,
		skip_digest => 1,
	},
	{
		name => 'a trigger of somebody\'s',
		sql => q{CREATE FUNCTION quiet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
			CREATE TRIGGER quiet BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION quiet()},
	},
	{
		name => 'DROP of our trigger',
		sql => q{DO $$ DECLARE t name; BEGIN
			SELECT tgname INTO t FROM pg_trigger WHERE tgname LIKE 'zz_tenantmig_%';
			EXECUTE format('DROP TRIGGER %I ON orders', t); END $$},
	});

foreach my $s (@scenarios)
{
	my $name = $s->{name};
	my $to = $s->{to} // 'orders';
	my ($job, $before);

	note($name);
	$node->safe_psql('postgres', q{
		SET client_min_messages = error;
		DROP TABLE IF EXISTS orders, orders2, orders_old, "Orders of old", attic.orders;
		DROP FUNCTION IF EXISTS quiet()});
	make_table($node, 'orders', rows => $rows);
	$job = start_and_stop($s->{call} // $by_value);
	$node->safe_psql('postgres', $s->{sql});
	$before = $s->{error} && $s->{sql} =~ /DROP (TABLE|COLUMN)/ ? '' : digest($node, $to);
	release($node);

	if ($s->{error})
	{
		wait_job_state($node, $job, 'failed');
		like(job_field($node, $job, 'error'), $s->{error}, "$name: the reason is said");
		is(job_field($node, $job, 'sqlstate'), $s->{sqlstate}, "$name: SQLSTATE");
		assert_clean($node);
		$node->safe_psql('postgres', $s->{mend}) if $s->{mend};
		$to = $s->{mended_to} // $to;
		if (($s->{mend} || $s->{retry}) && !$s->{no_retry})
		{
			$node->safe_psql('postgres', "SELECT tenantmig.retry($job)");
			wait_job_state($node, $job, 'succeeded');
			is(wrong_tenants($node, $to, q('acme')), 0, "$name: retry() fills all rows");
		}
	}
	else
	{
		wait_job_state($node, $job, 'succeeded');
		is(wrong_tenants($node, $to, q('acme')), 0, "$name: all rows are filled");
		is($node->safe_psql('postgres', "SELECT count(*) FROM $to"), $s->{rows} // $rows,
			"$name: all rows are there");
	}
	is(digest($node, $to), $before, "$name: and otherwise as they were")
	  if $before ne '' && !$s->{skip_digest};
	is($node->safe_psql('postgres', "SELECT count(tenant_id) FROM $s->{untouched}"), '0',
		"$name: the other table was not touched")
	  if $s->{untouched};
	is(job_field($node, $job, 'relation'), $s->{renamed}, "$name: the job has followed")
	  if $s->{renamed};
	is($node->safe_psql('postgres', $s->{check}), 't', "$name: consistent") if $s->{check};
	assert_clean($node);
}

# A kept trigger is kept under the new name, and undo finds it
$node->safe_psql('postgres', 'DROP TABLE IF EXISTS orders, orders2');
make_table($node, 'orders', rows => $rows);
my $job = start_and_stop(
	q(tenantmig.backfill('orders', value => 'acme', options => '{"method": "ranges", "batch_target": "1ms", "keep_trigger": true}')));
$node->safe_psql('postgres', 'ALTER TABLE orders RENAME TO orders2');
release($node);
wait_job_state($node, $job, 'succeeded');
is( $node->safe_psql('postgres', q{
		INSERT INTO orders2 (id, customer, body) VALUES (-1, 0, 'new') RETURNING tenant_id}),
	'acme', 'a kept trigger works on the renamed table');
is( $node->safe_psql('postgres', qq{
		SELECT kind, relation, state, count(*) FROM tenantmig.job_steps WHERE job = $job GROUP BY 1, 2, 3 ORDER BY 1}),
	"batches|public.orders2|done|1\nstatement|public.orders2|done|1", 'its journal has followed');
my $undo = submit($node, "tenantmig.undo($job)");
wait_job_state($node, $undo, 'succeeded');
is($node->safe_psql('postgres', 'SELECT count(tenant_id) FROM orders2'), '0', 'undo takes the values back');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal
		AND tgrelid = 'orders2'::regclass}), '0', 'and the trigger away');

# Paused, renamed, resumed: jobs know their table whatever it is called
$node->safe_psql('postgres', 'DROP TABLE orders2');
make_table($node, 'orders', rows => $rows);
$job = start_and_stop($by_expression);
$node->safe_psql('postgres', "SELECT tenantmig.pause($job)");
wait_job_state($node, $job, 'paused');
$node->safe_psql('postgres', 'ALTER TABLE orders RENAME TO orders2');
release($node);
$node->safe_psql('postgres', "SELECT tenantmig.resume($job)");
wait_job_state($node, $job, 'succeeded');
is(wrong_tenants($node, 'orders2', q('acme')), 0, 'the table is found under its new name');
$node->safe_psql('postgres', 'ALTER TABLE orders2 RENAME TO orders');
assert_clean($node);

#
# Partitions
#
sub make_partitioned
{
	$node->safe_psql('postgres', q{
		DROP TABLE IF EXISTS part, part_1, part_2, part_3, outsider;
		CREATE TABLE part (id bigint PRIMARY KEY, body text NOT NULL, tenant_id text)
			PARTITION BY RANGE (id);
		CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (4000);
		CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (4000) TO (8000);
		INSERT INTO part SELECT g, repeat(md5(g::text), 3) FROM generate_series(0, 7999) g;
		CREATE TABLE outsider (tenant_id text, body text NOT NULL, id bigint PRIMARY KEY);
		INSERT INTO outsider (id, body) SELECT g, md5(g::text) FROM generate_series(8000, 8999) g;
	});
	return start_and_stop(qq(tenantmig.backfill('part', value => 'acme', $options)));
}

$job = make_partitioned();
$node->safe_psql('postgres', 'ALTER TABLE part ATTACH PARTITION outsider FOR VALUES FROM (8000) TO (9000)');
release($node);
wait_job_state($node, $job, 'succeeded');
is(wrong_tenants($node, 'part', q('acme')), 0, 'ATTACH: the rows of the new partition are filled');
is($node->safe_psql('postgres', 'SELECT count(*) FROM part'), '9000', 'ATTACH: all rows are there');
assert_clean($node);

$job = make_partitioned();
$node->safe_psql('postgres', q{
	CREATE TABLE part_3 PARTITION OF part FOR VALUES FROM (9000) TO (10000);
	INSERT INTO part SELECT g, md5(g::text) FROM generate_series(9000, 9999) g});
release($node);
wait_job_state($node, $job, 'succeeded');
is(wrong_tenants($node, 'part', q('acme')), 0, 'CREATE PARTITION OF: its rows are filled');
is($node->safe_psql('postgres', 'SELECT count(*) FROM part'), '9000', 'CREATE PARTITION OF: all rows');
assert_clean($node);

foreach my $how ('DETACH PARTITION part_2', 'DETACH PARTITION part_2 CONCURRENTLY')
{
	$job = make_partitioned();
	$node->safe_psql('postgres', "ALTER TABLE part $how");
	release($node);
	wait_job_state($node, $job, 'succeeded');
	is(wrong_tenants($node, 'part', q('acme')), 0, "$how: the rows that stayed are filled");
	is($node->safe_psql('postgres', 'SELECT count(tenant_id) FROM part_2'), '0',
		"$how: those that went are let alone");
	assert_clean($node);
}

$job = make_partitioned();
$node->safe_psql('postgres', 'DROP TABLE part_2');
release($node);
wait_job_state($node, $job, 'succeeded');
is(wrong_tenants($node, 'part', q('acme')), 0, 'DROP of a partition: the others are filled');
assert_clean($node);

#
# set_not_null: the table gets another name, or goes, between its steps
#
foreach my $point ('not-null-added', 'not-null-validated', 'not-null-set')
{
	foreach my $what ('RENAME TO orders2', 'SET SCHEMA attic', 'DROP')
	{
		my $table = $what =~ /RENAME/ ? 'orders2' : 'attic.orders';

		$node->safe_psql('postgres', q{SET client_min_messages = error;
			DROP TABLE IF EXISTS orders, orders2, attic.orders});
		make_table($node, 'orders', rows => 100);
		$node->safe_psql('postgres', q{UPDATE orders SET tenant_id = 'acme'});
		stop_at($node, "$point:wait");
		$job = submit($node, q(tenantmig.set_not_null('orders')));
		wait_at($node, $job, $point);
		$node->safe_psql('postgres', $what eq 'DROP' ? 'DROP TABLE orders' : "ALTER TABLE orders $what");
		release($node);
		if ($what eq 'DROP')
		{
			wait_job_state($node, $job, $point eq 'not-null-set' ? 'succeeded|failed' : 'failed');
		}
		else
		{
			wait_job_state($node, $job, 'succeeded');
			is($node->safe_psql('postgres', qq{SELECT attnotnull FROM pg_attribute
				WHERE attrelid = '$table'::regclass AND attname = 'tenant_id'}), 't',
				"$what at $point: the column is NOT NULL");
		}
		assert_clean($node);
	}
}

#
# create_index: the table goes to another schema, a partition gets another
# name, and another one the old one, between two steps
#
$node->safe_psql('postgres', q{
	SET client_min_messages = error;
	DROP TABLE IF EXISTS part, part_1, part_2, part_3, outsider;
	CREATE TABLE part (id bigint, tenant_id text) PARTITION BY RANGE (id);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (4000);
	CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (4000) TO (8000);
});
stop_at($node, 'index-parent-created:wait');
$job = submit($node, q(tenantmig.create_index('part', '{tenant_id}', name => 'part_tenant')));
wait_at($node, $job, 'index-parent-created');
$node->safe_psql('postgres', q{
	ALTER TABLE part SET SCHEMA attic;
	ALTER TABLE part_1 RENAME TO "part 1%R";
	CREATE TABLE part (id bigint, tenant_id text);
	CREATE TABLE part_1 (id bigint, tenant_id text);
	CREATE INDEX part_tenant ON part (tenant_id);
});
release($node);
wait_job_state($node, $job, 'succeeded');
my $indexes = q{SELECT indrelid::regclass, indisvalid FROM pg_index JOIN pg_class ON oid = indrelid
	WHERE relname LIKE 'part%' ORDER BY indrelid::regclass::text COLLATE "C"};
is($node->safe_psql('postgres', $indexes),
	qq{"part 1%R"|t\nattic.part|t\npart|t\npart_2|t}, 'the index is on the tables of the job');
$undo = submit($node, "tenantmig.undo($job)");
wait_job_state($node, $undo, 'succeeded');
is($node->safe_psql('postgres', $indexes), 'part|t', 'undo takes it away from them, and from no other');
assert_clean($node);

assert_no_crash($node);
$node->stop;
done_testing();
