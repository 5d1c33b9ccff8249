# A whole database that others have made: every primary key of pagila becomes
# tenant-scoped, with its foreign keys, partitions and views, and back.
#
# PAGILA=DIR names the directory with pagila-schema.sql and pagila-data.sql.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TenantMig;

plan skip_all => 'PAGILA is not set to the directory of pagila'
  unless $ENV{PAGILA} && -r "$ENV{PAGILA}/pagila-schema.sql";

my $node = new_node('pagila', extension => 0);
my $db = 'pagila';

$node->safe_psql('postgres', 'CREATE DATABASE pagila');
foreach my $part ('schema', 'data')
{
	IPC::Run::run([ $node->installed_command('psql'), '-Xq', '-d', $node->connstr($db),
			'-f', "$ENV{PAGILA}/pagila-$part.sql" ], '>', \my $out, '2>', \my $err);
}
$node->safe_psql($db, 'CREATE EXTENSION tenantmig; CREATE EXTENSION amcheck');

sub dump_of
{
	my $dump = '';

	IPC::Run::run([ $node->installed_command('pg_dump'), '-s', '-n', 'public',
			'-d', $node->connstr($db) ], '>', \$dump)
	  or BAIL_OUT('pg_dump failed');
	$dump =~ s/^\\(un)?restrict .*\n//mg;
	return $dump;
}

sub rows_of
{
	my @tables = split /\n/, $node->safe_psql($db, q{SELECT oid::regclass FROM pg_class
		WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY 1});

	return join "\n", map { "$_ " . digest($node, $_, db => $db) } @tables;
}

sub done
{
	my ($call) = @_;
	my $job = submit($node, $call, db => $db);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_job_state($node, $job, 'succeeded', db => $db);
	return $job;
}

my @tables = split /\n/, $node->safe_psql($db, q{SELECT conrelid::regclass FROM pg_constraint
	WHERE contype = 'p' AND conparentid = 0 AND connamespace = 'public'::regnamespace
	  AND NOT (SELECT relispartition FROM pg_class WHERE oid = conrelid) ORDER BY conrelid});
my @referencing = split /\n/, $node->safe_psql($db, q{SELECT DISTINCT conrelid::regclass::text FROM pg_constraint
	WHERE contype = 'f' AND conparentid = 0 AND connamespace = 'public'::regnamespace ORDER BY 1});
my $rows = rows_of();
cmp_ok(scalar(@tables), '>=', 14, 'there are tables with keys');
cmp_ok(scalar(@referencing), '>=', 8, 'and with foreign keys');

my %seen;
foreach my $table (grep { !$seen{$_}++ } @tables, @referencing)
{
	next if $node->safe_psql($db, "SELECT count(*) FROM pg_attribute WHERE attrelid = '$table'::regclass AND attname = 'tenant_id'");
	submit($node, "tenantmig.add_tenant_column('$table', value => 'acme')", db => $db);
}
foreach my $table (grep { $seen{$_} } sort keys %seen)
{
	next if $node->safe_psql($db, "SELECT attnotnull FROM pg_attribute WHERE attrelid = '$table'::regclass AND attname = 'tenant_id'") eq 't';
	done("tenantmig.set_not_null('$table')");
}

# A view that groups by a key alone is refused by name, and done when it has
# all its columns
my $before = dump_of();
my @jobs;
foreach my $table (@tables)
{
	my $columns = $node->safe_psql($db, qq{SELECT '{tenant_id,' || string_agg(attname, ',' ORDER BY n) || '}'
		FROM pg_index, unnest(indkey::int2[]) WITH ORDINALITY k (attnum, n), pg_attribute a
		WHERE indrelid = '$table'::regclass AND indisprimary AND attrelid = indrelid AND a.attnum = k.attnum});
	my $error = sql_error($node, "SELECT tenantmig.set_primary_key('$table', '$columns', dry_run => true)", db => $db);

	if ($error->{sqlstate} eq '2BP01')
	{
		like($error->{detail}, qr/view public\.\w+/, "$table: what depends on the key is named: $error->{detail}");
		next;
	}
	is($error->{sqlstate}, '', "$table: can be done") or diag($error->{text});
	unshift @jobs, done("tenantmig.set_primary_key('$table', '$columns')");
}
cmp_ok(scalar(@jobs), '>=', 10, 'keys were changed');
is(rows_of(), $rows, 'no row was touched');
is(number($node, q{SELECT count(*) FROM pg_constraint f JOIN pg_constraint p ON p.contype = 'p' AND p.conindid = f.conindid
		WHERE f.contype = 'f' AND f.connamespace = 'public'::regnamespace
		  AND p.conkey @> (SELECT ARRAY[attnum] FROM pg_attribute WHERE attrelid = p.conrelid AND attname = 'tenant_id')
		  AND pg_get_constraintdef(f.oid) NOT LIKE 'FOREIGN KEY (tenant_id, %'}, db => $db), 0,
	'every foreign key to a changed key has the tenant');
sql_ok($node, q{SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_am a ON a.oid = c.relam
	WHERE c.relkind = 'i' AND a.amname = 'btree' AND c.relnamespace = 'public'::regnamespace},
	'amcheck finds the indexes whole', db => $db);
is(sql_error($node, q{INSERT INTO rental (tenant_id, rental_date, inventory_id, customer_id, staff_id)
	SELECT 'other', now(), inventory_id, customer_id, staff_id FROM rental LIMIT 1}, db => $db)->{sqlstate}, '23503',
	'another tenant cannot rent what is theirs');
assert_clean($node, db => $db);

done("tenantmig.undo($_)") foreach @jobs;
is(dump_of(), $before, 'undo brings back what pg_dump can see');
is(rows_of(), $rows, 'no row was touched');
assert_clean($node, db => $db);
$node->stop;
done_testing();
