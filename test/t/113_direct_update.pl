# Rows that are put back without a statement are the same rows as with one: each
# shape is filled twice, as it is, and with a trigger on it that forces the
# statement. And what is out of the ordinary is left to the statement, which
# raises what it must.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TenantMig;

my $node = new_node('direct', conf => "autovacuum = off\nshared_preload_libraries = 'tenantmig, pg_stat_statements'\npg_stat_statements.track = all\n");

$node->safe_psql('postgres', q{
	CREATE EXTENSION amcheck;
	CREATE EXTENSION pg_stat_statements;
	CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
	CREATE FUNCTION doubled(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1 || $1';
	CREATE TYPE mood AS ENUM ('sad', 'happy');
	CREATE DOMAIN tenant AS text CHECK (VALUE <> 'nobody');
	CREATE TABLE firms (id int PRIMARY KEY, tenant_id text);
	INSERT INTO firms SELECT i, CASE WHEN i % 10 > 0 THEN 't' || i % 7 END FROM generate_series(1, 500) i;
	CREATE TABLE places (land text, town int, tenant_id uuid, PRIMARY KEY (town, land));
	INSERT INTO places SELECT 'l' || i % 5, i, md5(i::text)::uuid FROM generate_series(1, 300) i;
});

# Of a shape: what makes the table, what the source is, and another option
my %shapes = (
	plain => [
		q{CREATE TABLE %1$s (id int PRIMARY KEY, body text, tenant_id text);
		INSERT INTO %1$s SELECT i, repeat(md5(i::text), 3) FROM generate_series(1, 6000) i},
		q{value => 'acme'} ],
	# columns that rows do not have yet, and one that is gone but for its values
	columns => [
		q{CREATE TABLE %1$s (id int PRIMARY KEY, gone text, body text);
		INSERT INTO %1$s SELECT i, repeat(md5(i::text), 60), repeat(md5(i::text), 3) FROM generate_series(1, 6000) i;
		ALTER TABLE %1$s DROP COLUMN gone, ADD COLUMN since date DEFAULT '2020-01-01', ADD COLUMN tenant_id uuid, ADD COLUMN last int DEFAULT 7},
		q{value => '6b1c9f3e-0000-4000-8000-000000000001'} ],
	# values out of line, compressed and not; index on expressions and a condition
	wide => [
		q{CREATE TABLE %1$s (id int PRIMARY KEY, body text, doc jsonb, raw text, tenant_id tenant);
		ALTER TABLE %1$s ALTER raw SET STORAGE EXTERNAL;
		INSERT INTO %1$s SELECT i, repeat(md5(i::text), 200), jsonb_build_object('k', md5(i::text)), repeat(md5(i::text), 100) FROM generate_series(1, 2000) i;
		CREATE INDEX ON %1$s (doubled(left(body, 10)));
		CREATE INDEX ON %1$s USING gin (doc);
		CREATE INDEX ON %1$s (id) WHERE id %% 3 = 0},
		q{value => 'acme'} ],
	# what is set stays
	some => [
		q{CREATE TABLE %1$s (id int PRIMARY KEY, body text, tenant_id mood CHECK (tenant_id IS NULL OR id > 0));
		INSERT INTO %1$s SELECT i, repeat(md5(i::text), 3), CASE WHEN i %% 4 = 0 THEN 'sad'::mood END FROM generate_series(1, 6000) i},
		q{value => 'happy'} ],
	partitions => [
		q{CREATE TABLE %1$s (id int, body text, tenant_id text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
		CREATE TABLE %1$s_a PARTITION OF %1$s FOR VALUES FROM (0) TO (4000);
		CREATE TABLE %1$s_b (tenant_id text, id int NOT NULL, junk int, body text);
		ALTER TABLE %1$s_b DROP COLUMN junk;
		ALTER TABLE %1$s ATTACH PARTITION %1$s_b FOR VALUES FROM (4000) TO (9000);
		INSERT INTO %1$s SELECT i, repeat(md5(i::text), 3) FROM generate_series(1, 8000) i},
		q{value => 'acme'} ],
	# indexes that get a new entry for each row
	indexed => [
		q{CREATE TABLE %1$s (id int PRIMARY KEY, body text, tenant_id text);
		INSERT INTO %1$s SELECT i, repeat(md5(i::text), 3) FROM generate_series(1, 6000) i;
		CREATE INDEX ON %1$s (tenant_id) WHERE id %% 2 = 0;
		CREATE UNIQUE INDEX ON %1$s (tenant_id, id);
		CREATE INDEX ON %1$s USING brin (tenant_id);
		CREATE INDEX ON %1$s USING hash (tenant_id)},
		q{value => 'acme'} ],
	# parents without a tenant, and rows without a parent
	children => [
		q{CREATE TABLE %1$s (id int PRIMARY KEY, firm int REFERENCES firms, body text, tenant_id text);
		INSERT INTO %1$s SELECT i, CASE WHEN i %% 11 > 0 THEN 1 + i %% 500 END, repeat(md5(i::text), 3) FROM generate_series(1, 6000) i},
		q{via => 'firm'}, '"on_orphan": "leave"' ],
	composite => [
		q{CREATE TABLE %1$s (id int PRIMARY KEY, body text, land text, town bigint, tenant_id uuid, FOREIGN KEY (land, town) REFERENCES places (land, town));
		INSERT INTO %1$s SELECT i, repeat(md5(i::text), 3), 'l' || (1 + i %% 300) %% 5, 1 + i %% 300 FROM generate_series(1, 6000) i},
		q{via => 'town'} ]);

sub everything
{
	my ($table) = @_;
	return $node->safe_psql('postgres', "SELECT count(*), count(tenant_id), md5(string_agg(t::text, ',' ORDER BY id)) FROM $table t");
}

sub fill
{
	my ($table, $source, $option) = @_;
	my $method = $table =~ /by_ranges/ ? 'ranges' : 'pages';
	my $options = join(', ', qq("method": "$method"), $option // ());
	my $job = submit($node, "tenantmig.backfill('$table', $source, options => '{$options}')");
	wait_job_state($node, $job, 'succeeded');
	return $job;
}

foreach my $shape (sort keys %shapes)
{
	my ($make, $source, $option) = @{ $shapes{$shape} };
	my @came;

	foreach my $table ("${shape}_by_pages", "${shape}_by_ranges", "${shape}_by_statement")
	{
		$node->safe_psql('postgres', sprintf($make, $table));
		$node->safe_psql('postgres', "CREATE TRIGGER noted AFTER UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION noted()")
		  if $table =~ /by_statement/;
		fill($table, $source, $option);
		push @came, everything($table);
		is( $node->safe_psql('postgres', "SELECT sum((SELECT count(*) FROM verify_heapam(c.oid, check_toast => true))) FROM pg_class c WHERE relkind = 'r' AND relname LIKE '$table%'"),
			'0', "$table: the heap is sound");
		is( $node->safe_psql('postgres', "SELECT count(bt_index_check(c.oid, true)) = count(*) FROM pg_class c JOIN pg_index ON indexrelid = c.oid JOIN pg_am ON pg_am.oid = relam WHERE c.relkind = 'i' AND amname = 'btree' AND indrelid IN (SELECT oid FROM pg_class WHERE relname LIKE '$table%')"),
			't', "$table: so are its indexes");
	}
	is($came[0], $came[2], "$shape: the same rows by pages as by statements");
	is($came[1], $came[2], "$shape: and by ranges");
	is( $node->safe_psql('postgres', "SELECT count(*) FILTER (WHERE query !~ '_by_statement') || ' ' || (count(*) > 0) FROM pg_stat_statements WHERE query ~ 'UPDATE ONLY [^ ]*${shape}_by_'"),
		'0 true', "$shape: of which only the last are there");
	like($came[0], qr/^\d+\|[1-9]/, "$shape: which have a tenant");
}

# The statement really is what the others avoid: it is the only one that fires
$node->safe_psql('postgres', q{
	CREATE TABLE fired (relation regclass);
	CREATE OR REPLACE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO fired VALUES (TG_RELID); RETURN NULL; END$$;
	CREATE TABLE watched (id int PRIMARY KEY, body text, tenant_id text);
	INSERT INTO watched SELECT i, repeat(md5(i::text), 3) FROM generate_series(1, 3000) i;
	CREATE TRIGGER noted AFTER UPDATE OF tenant_id ON watched FOR EACH ROW EXECUTE FUNCTION noted();
});
fill('watched', q{value => 'acme'});
is($node->safe_psql('postgres', 'SELECT count(*) FROM fired'), '3000', 'a trigger fires for each row');

# A type that has become shorter since the job began
$node->safe_psql('postgres', q{
	CREATE TABLE cut (id int PRIMARY KEY, body text, tenant_id char(20));
	INSERT INTO cut SELECT i, repeat(md5(i::text), 3) FROM generate_series(1, 20000) i;
});
my $cut = submit($node, q{tenantmig.backfill('cut', value => 'acme', options => '{"method": "pages", "max_rows_per_second": 4000}')});
wait_until($node, "SELECT rows_done > 1000 FROM tenantmig.stat_progress WHERE job = $cut", 'some rows are filled');
$node->safe_psql('postgres', 'ALTER TABLE cut ALTER tenant_id TYPE char(10)');
$node->safe_psql('postgres', qq(SELECT tenantmig.alter_job($cut, '{"max_rows_per_second": null}')));
wait_job_state($node, $cut, 'succeeded');
is($node->safe_psql('postgres', 'SELECT count(*), max(octet_length(tenant_id)) FROM cut'), '20000|10', 'values have the length of the type');

# What generates a column, what another foreign key asks of the column, a rule
$node->safe_psql('postgres', q{
	CREATE TABLE tenants (id text PRIMARY KEY);
	INSERT INTO tenants VALUES ('acme');
	CREATE TABLE generated (id int PRIMARY KEY, body text, tenant_id text, both_of_them text GENERATED ALWAYS AS (id::text || coalesce(tenant_id, '')) STORED);
	CREATE TABLE referring (id int PRIMARY KEY, body text, tenant_id text REFERENCES tenants);
	INSERT INTO generated (id, body) SELECT i, repeat(md5(i::text), 3) FROM generate_series(1, 3000) i;
	INSERT INTO referring SELECT i, repeat(md5(i::text), 3) FROM generate_series(1, 3000) i;
});
fill('generated', q{value => 'acme'});
is($node->safe_psql('postgres', q{SELECT count(*) FROM generated WHERE both_of_them = id::text || 'acme'}), '3000', 'a generated column follows');
my $job = submit($node, q{tenantmig.backfill('referring', value => 'nobody', options => '{"method": "pages"}')});
wait_job_state($node, $job, 'failed');
is($node->safe_psql('postgres', "SELECT count(*), min(sqlstate) FROM tenantmig.job_errors WHERE job = $job AND key IS NOT NULL"), '1|23503', 'a foreign key of the column is checked');
is($node->safe_psql('postgres', 'SELECT count(tenant_id) FROM referring'), '0', 'and nothing gets past it');

# What a unique index and an exclusion constraint say of the tenant; and a unique
# index that is not valid, which knows nothing of the old versions
$node->safe_psql('postgres', q{
	CREATE TABLE twice (id int PRIMARY KEY, email text, tenant_id text);
	INSERT INTO twice SELECT i, 'e' || least(i, 2999) FROM generate_series(1, 3000) i;
	CREATE UNIQUE INDEX ON twice (tenant_id, email);
	CREATE TABLE alone (id int PRIMARY KEY, body text, tenant_id text);
	INSERT INTO alone SELECT i, repeat(md5(i::text), 3) FROM generate_series(1, 3000) i;
	ALTER TABLE alone ADD EXCLUDE (tenant_id WITH =) WHERE (id IN (7, 8));
	CREATE TABLE doubtful (id int PRIMARY KEY, email text, tenant_id text);
	CREATE INDEX doubtful_email ON doubtful (email);
});
# As between the phases of CREATE UNIQUE INDEX CONCURRENTLY
$node->safe_psql('postgres', q{UPDATE pg_index SET indisready = false, indisvalid = false, indisunique = true WHERE indexrelid = 'doubtful_email'::regclass});
$node->safe_psql('postgres', q{INSERT INTO doubtful SELECT i, 'e' || greatest(i, 2) FROM generate_series(1, 3000) i});
$node->safe_psql('postgres', q{UPDATE pg_index SET indisready = true WHERE indexrelid = 'doubtful_email'::regclass});
foreach my $of ([ 'twice', '23505' ], [ 'alone', '23P01' ], [ 'doubtful', '23505' ])
{
	my ($table, $sqlstate) = @$of;

	$job = submit($node, qq(tenantmig.backfill('$table', value => 'acme', options => '{"method": "ranges", "max_errors": 5}')));
	wait_job_state($node, $job, 'failed');
	is($node->safe_psql('postgres', "SELECT count(*), min(sqlstate) FROM tenantmig.job_errors WHERE job = $job AND key IS NOT NULL"), "1|$sqlstate", "$table: the row that offends is named");
	is($node->safe_psql('postgres', "SELECT count(tenant_id) FROM $table"), '2999', 'and all others are filled');
}

# A check that may look for other rows of its batch
$node->safe_psql('postgres', q{
	CREATE FUNCTION looks(int) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$BEGIN RETURN $1 = 1 OR EXISTS (SELECT FROM looked WHERE id = $1 - 1); END$$;
	CREATE TABLE looked (id int PRIMARY KEY, body text, tenant_id text);
	INSERT INTO looked SELECT i, repeat(md5(i::text), 3) FROM generate_series(1, 1000) i;
	ALTER TABLE looked ADD CHECK (looks(id));
});
$node->safe_psql('postgres', 'SELECT pg_stat_statements_reset()');
fill('looked', q{value => 'acme'});
is($node->safe_psql('postgres', q{SELECT count(tenant_id), (SELECT count(*) > 0 FROM pg_stat_statements WHERE query ~ 'UPDATE ONLY [^ ]*looked') FROM looked}), '1000|t', 'a volatile check is left to the statement');

# A parent that has moved, has another key or has gone since its place was seen,
# and a table of parents that is shorter than it was
$node->safe_psql('postgres', q{
	CREATE TABLE movers (id int PRIMARY KEY, filler text, tenant_id text);
	INSERT INTO movers SELECT i, repeat('x', 500), 'first' FROM generate_series(1, 2000) i;
	CREATE TABLE moved (id int PRIMARY KEY, mover int REFERENCES movers ON UPDATE CASCADE ON DELETE CASCADE, body text, tenant_id text);
	INSERT INTO moved SELECT i, 1 + i % 2000, repeat(md5(i::text), 3) FROM generate_series(1, 60000) i;
});
$job = submit($node, q{tenantmig.backfill('moved', via => 'mover', options => '{"method": "pages", "max_rows_per_second": 5000}')});
wait_until($node, "SELECT rows_done > 3000 FROM tenantmig.stat_progress WHERE job = $job", 'some parents have been found');
wait_until($node, "SELECT n_tup_upd > 0 FROM pg_stat_user_tables, tenantmig.jobs j WHERE relname = 'moved' AND j.id = $job AND state = 'running'", 'the statistics of the server know of them already');
$node->safe_psql('postgres', q{
	BEGIN;
	UPDATE movers SET id = id + 10000 WHERE id % 3 = 0;
	UPDATE movers SET tenant_id = 'second' WHERE id % 5 = 0;
	DELETE FROM movers WHERE id % 7 = 0;
	COMMIT;
});
$node->safe_psql('postgres', 'VACUUM movers');
$node->safe_psql('postgres', 'VACUUM FULL movers');
$node->safe_psql('postgres', qq(SELECT tenantmig.alter_job($job, '{"max_rows_per_second": null}')));
wait_job_state($node, $job, 'succeeded');
is( $node->safe_psql('postgres', q{SELECT count(*) FROM moved JOIN movers ON movers.id = mover WHERE moved.tenant_id IS NULL OR (moved.tenant_id <> movers.tenant_id AND moved.tenant_id <> 'first')}),
	'0', 'each row has what its parent has or had');
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM moved WHERE tenant_id = 'second'}), '>', 0, 'and the later ones what it has');
is($node->safe_psql('postgres', q{SELECT count(*) FROM moved WHERE mover NOT IN (SELECT id FROM movers)}), '0', 'no row is without its parent');
assert_no_crash($node);

$node->stop;
done_testing();
