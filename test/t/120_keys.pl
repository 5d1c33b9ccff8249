# Primary keys that change with the foreign keys that point at them: tables of
# every shape, forth and back, with nothing lost that pg_dump can see, indexes
# that amcheck finds whole, and tenants that cannot reach each other.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TenantMig;

my $node = new_node('keys');
my $amcheck = $node->psql('postgres', 'CREATE EXTENSION amcheck') == 0;

sub dump_of
{
	my ($schema) = @_;
	my $dump = '';

	IPC::Run::run([ $node->installed_command('pg_dump'), '-s', '-n', $schema,
			'-d', $node->connstr('postgres') ], '>', \$dump)
	  or BAIL_OUT('pg_dump failed');
	$dump =~ s/^\\(un)?restrict .*\n//mg;
	return $dump;
}

# Names of ours, invalid indexes, and foreign keys that are not valid though
# they are to be
sub leftovers
{
	return $node->safe_psql('postgres', q{
		SELECT conname || ' on ' || conrelid::regclass FROM pg_constraint
		WHERE connamespace = 'shapes'::regnamespace
		  AND (conname LIKE '%tenantmig%' OR NOT convalidated AND conname NOT LIKE 'unchecked%')
		UNION ALL SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class c ON c.oid = indexrelid
		WHERE relnamespace = 'shapes'::regnamespace
		  AND (NOT indisvalid OR NOT indisready OR relname LIKE 'tenantmig%')
		ORDER BY 1});
}

# amcheck over all btrees: every row of the table has its entry
sub indexes_are_whole
{
	my ($name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return unless $amcheck;
	sql_ok($node, q{SELECT bt_index_check(c.oid, true) FROM pg_class c
		JOIN pg_am a ON a.oid = c.relam
		WHERE c.relkind = 'i' AND a.amname = 'btree' AND c.relnamespace = 'shapes'::regnamespace},
		"$name: amcheck finds the indexes whole");
}

my $shapes = q{
	CREATE SCHEMA shapes; SET search_path = shapes;
	CREATE FUNCTION rows_of(relation regclass, low int, high int, columns text, list text) RETURNS void
	LANGUAGE plpgsql AS $$ BEGIN
		EXECUTE format('INSERT INTO %s (%s) SELECT %s FROM generate_series(%s, %s) i', relation, columns, list, low, high);
	END $$;

	-- all that a key can have of its own, and all kinds of foreign keys
	CREATE TABLE whole (id int, tenant_id text NOT NULL, a int,
		CONSTRAINT "Whole key; --" PRIMARY KEY (id) INCLUDE (a) WITH (fillfactor = 70, deduplicate_items = off));
	ALTER TABLE whole CLUSTER ON "Whole key; --";
	ALTER TABLE whole REPLICA IDENTITY USING INDEX "Whole key; --";
	COMMENT ON CONSTRAINT "Whole key; --" ON whole IS 'it''s the 100% %R key';
	COMMENT ON INDEX "Whole key; --" IS 'its index';
	CREATE STATISTICS whole_stats ON tenant_id, a FROM whole;
	CREATE TABLE cascades (id int PRIMARY KEY, tenant_id text NOT NULL,
		f int REFERENCES whole ON DELETE CASCADE ON UPDATE CASCADE);
	COMMENT ON CONSTRAINT cascades_f_fkey ON cascades IS 'points';
	CREATE TABLE defaults (id int PRIMARY KEY, tenant_id text NOT NULL,
		f int DEFAULT 1 CONSTRAINT "the fk" REFERENCES whole MATCH FULL ON DELETE SET DEFAULT DEFERRABLE INITIALLY DEFERRED);
	CREATE TABLE nulls (id int PRIMARY KEY, tenant_id text NOT NULL,
		f int NOT NULL REFERENCES whole MATCH FULL ON DELETE RESTRICT DEFERRABLE,
		g int CONSTRAINT sets_null REFERENCES whole ON DELETE SET NULL, h int);
	ALTER TABLE nulls ADD CONSTRAINT unchecked FOREIGN KEY (h) REFERENCES whole NOT VALID;

	-- with itself, and in a circle
	CREATE TABLE tree (id int PRIMARY KEY, tenant_id text NOT NULL, up int REFERENCES tree ON DELETE CASCADE, peer int);
	CREATE TABLE peers (id int PRIMARY KEY, tenant_id text NOT NULL, t int REFERENCES tree);
	ALTER TABLE tree ADD FOREIGN KEY (peer) REFERENCES peers;

	CREATE TABLE late (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, tenant_id text NOT NULL);
	CREATE TABLE keyless (id int NOT NULL, tenant_id text NOT NULL);
	CREATE TABLE elder (id int PRIMARY KEY, tenant_id text NOT NULL);
	CREATE TABLE younger (more int) INHERITS (elder);
	CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY, tenant_id text NOT NULL, f int REFERENCES unlogged);

	-- partitioned referencing table, on two levels
	CREATE TABLE parts (id int, tenant_id text NOT NULL, f int, d int, PRIMARY KEY (id, d)) PARTITION BY RANGE (d);
	CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
	CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
	CREATE TABLE parts_21 PARTITION OF parts_2 FOR VALUES FROM (0) TO (1000);
	ALTER TABLE parts ADD CONSTRAINT parts_f FOREIGN KEY (f) REFERENCES whole ON DELETE SET NULL;
	COMMENT ON CONSTRAINT parts_f ON parts IS 'of partitions';
	-- the same once more, of a partition alone
	ALTER TABLE parts_1 ADD CONSTRAINT "an own" FOREIGN KEY (f) REFERENCES whole ON DELETE SET NULL;

	-- partitioned referenced table: columns in another order, names of its own
	CREATE TABLE roots (id int, tenant_id text NOT NULL, x int, up int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
	CREATE TABLE roots_1 PARTITION OF roots FOR VALUES FROM (0) TO (100);
	CREATE TABLE roots_2 PARTITION OF roots FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (id);
	CREATE TABLE roots_21 (x int, junk int, up int, id int NOT NULL, tenant_id text NOT NULL, CONSTRAINT "odd key" PRIMARY KEY (id));
	ALTER TABLE roots_21 DROP COLUMN junk;
	ALTER TABLE roots_2 ATTACH PARTITION roots_21 FOR VALUES FROM (100) TO (150);
	COMMENT ON CONSTRAINT roots_1_pkey ON roots_1 IS 'of a leaf';
	ALTER TABLE roots_1 REPLICA IDENTITY USING INDEX roots_1_pkey;
	ALTER TABLE roots_21 CLUSTER ON "odd key";
	CREATE TABLE of_roots (id int PRIMARY KEY, tenant_id text NOT NULL, p int REFERENCES roots ON DELETE CASCADE);
	CREATE TABLE parts_of_roots (id int, tenant_id text NOT NULL, p int REFERENCES roots) PARTITION BY RANGE (id);
	CREATE TABLE parts_of_roots_1 PARTITION OF parts_of_roots FOR VALUES FROM (0) TO (1000);
	ALTER TABLE roots ADD FOREIGN KEY (up) REFERENCES roots;

	SELECT rows_of('whole', 1, 200, 'id, tenant_id, a', 'i, $$t$$ || i % 2, i');
	SELECT rows_of('cascades', 1, 200, 'id, tenant_id, f', 'i, $$t$$ || i % 2, i');
	SELECT rows_of('defaults', 1, 200, 'id, tenant_id, f', 'i, $$t$$ || i % 2, NULLIF(i, 7)');
	SELECT rows_of('nulls', 1, 200, 'id, tenant_id, f, g, h', 'i, $$t$$ || i % 2, i, i, i');
	SELECT rows_of('tree', 1, 200, 'id, tenant_id, up', 'i, $$t$$ || i % 2, CASE WHEN i > 2 THEN i - 2 END');
	SELECT rows_of('peers', 1, 200, 'id, tenant_id, t', 'i, $$t$$ || i % 2, i');
	UPDATE tree SET peer = id;
	SELECT rows_of('late', 1, 200, 'id, tenant_id', 'i, $$t$$ || i % 2');
	SELECT rows_of('keyless', 1, 200, 'id, tenant_id', 'i, $$t$$ || i % 2');
	SELECT rows_of('elder', 1, 200, 'id, tenant_id', 'i, $$t$$ || i % 2');
	SELECT rows_of('younger', 1, 200, 'id, tenant_id', 'i, $$t$$ || i % 2');
	SELECT rows_of('unlogged', 1, 200, 'id, tenant_id, f', 'i, $$t$$ || i % 2, i');
	SELECT rows_of('parts', 1, 200, 'id, tenant_id, f, d', 'i, $$t$$ || i % 2, i, i % 15');
	SELECT rows_of('roots', 1, 149, 'id, tenant_id, x, up', 'i, $$t$$ || i % 2, i, i');
	SELECT rows_of('of_roots', 1, 149, 'id, tenant_id, p', 'i, $$t$$ || i % 2, i');
	SELECT rows_of('parts_of_roots', 1, 149, 'id, tenant_id, p', 'i, $$t$$ || i % 2, i');
};
my @changed = qw(whole tree peers late keyless elder unlogged roots);
my @referencing = (
	[ 'cascades', 'f', 'whole' ], [ 'defaults', 'f', 'whole' ], [ 'nulls', 'g', 'whole' ],
	[ 'tree', 'up', 'tree' ], [ 'peers', 't', 'tree' ], [ 'tree', 'peer', 'peers' ],
	[ 'parts', 'f', 'whole' ], [ 'of_roots', 'p', 'roots' ], [ 'parts_of_roots', 'p', 'roots' ],
	[ 'roots', 'up', 'roots' ]);
my @tables = qw(whole cascades defaults nulls tree peers late keyless elder younger unlogged parts roots of_roots parts_of_roots);

sub digests { return join "\n", map { digest($node, "shapes.$_", with => 1) } @tables; }

# What tenant t1 can reach through each foreign key: by pointing, by a cascade
sub tenants_are_apart
{
	foreach my $pair (@referencing)
	{
		my ($table, $column, $referenced) = @$pair;
		my $other = $node->safe_psql('postgres',
			"SELECT max(id) FROM shapes.$referenced WHERE tenant_id = 't0' AND id < 140");
		my $error = sql_error($node, "UPDATE shapes.$table SET $column = $other WHERE id = 5; SET CONSTRAINTS ALL IMMEDIATE");

		# a deferred one raises at the commit of the same message
		is($error->{sqlstate}, '23503', "$table.$column of t1 cannot point at a row of t0");
	}
	foreach my $referenced (qw(whole tree roots))
	{
		my $before = $node->safe_psql('postgres', kept_of('t0'));

		# the same key for the other tenant, so that nothing but the tenant differs
		$node->safe_psql('postgres', qq{
			INSERT INTO shapes.$referenced (id, tenant_id) SELECT id, 't1' FROM shapes.$referenced
			WHERE tenant_id = 't0' AND id < 100});
		$node->safe_psql('postgres', 'UPDATE shapes.nulls SET f = (SELECT max(id) FROM shapes.whole WHERE tenant_id = $$t1$$ AND id > 150), g = NULL, h = NULL WHERE tenant_id = $$t1$$; UPDATE shapes.defaults SET f = NULL WHERE tenant_id = $$t1$$')
		  if $referenced eq 'whole';
		$node->safe_psql('postgres', 'UPDATE shapes.peers SET t = NULL WHERE tenant_id = $$t1$$')
		  if $referenced eq 'tree';
		$node->safe_psql('postgres', 'UPDATE shapes.roots SET up = NULL WHERE tenant_id = $$t1$$; DELETE FROM shapes.parts_of_roots WHERE tenant_id = $$t1$$')
		  if $referenced eq 'roots';
		sql_ok($node, "DELETE FROM shapes.$referenced WHERE tenant_id = 't1' AND id < 100",
			"t1 deletes its rows of $referenced");
		is($node->safe_psql('postgres', kept_of('t0')), $before,
			"which reaches no row of t0, though they have the same ids");
	}
	is(number($node, 'SELECT count(*) FROM shapes.cascades WHERE tenant_id = $$t1$$ AND f < 100'), 0,
		'those of t1 went along');
	is(number($node, 'SELECT count(*) FROM shapes.parts WHERE tenant_id IS NULL'), 0,
		'and no tenant was set to NULL');
}

sub kept_of
{
	my ($tenant) = @_;

	return join ' UNION ALL ', map {
		"SELECT '$_', count(*), sum(hashtextextended(to_jsonb(t)::text, 0)) FROM shapes.$_ t WHERE tenant_id = '$tenant'"
	} @tables;
}

foreach my $mode ('composite', 'keep')
{
	my (@jobs, $before, $rows);

	$node->safe_psql('postgres', $shapes);
	$before = dump_of('shapes');
	$rows = digests();
	foreach my $table (@changed)
	{
		my $job = submit($node, "tenantmig.set_primary_key('shapes.$table', '{tenant_id,id}', '$mode')");

		wait_job_state($node, $job, 'succeeded');
		unshift @jobs, $job;
	}
	is(leftovers(), '', "$mode: nothing of ours is left, and nothing invalid");
	is(number($node, q{SELECT count(*) FROM pg_constraint WHERE contype = 'p' AND connamespace = 'shapes'::regnamespace
			AND pg_get_constraintdef(oid) LIKE 'PRIMARY KEY (tenant_id, id)%'}), scalar(@changed) + 3,
		"$mode: all tables and partitions have the new key");
	is(number($node, q{SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 AND connamespace = 'shapes'::regnamespace
			AND pg_get_constraintdef(oid) NOT LIKE 'FOREIGN KEY (tenant_id, %) REFERENCES %(tenant_id, id)%'}),
		$mode eq 'composite' ? 0 : 14, "$mode: the foreign keys have the tenant, or are as they were");
	is(digests(), $rows, "$mode: no row was touched");
	indexes_are_whole($mode);
	foreach my $job (@jobs)
	{
		my $undo = submit($node, "tenantmig.undo($job)");

		wait_job_state($node, $undo, 'succeeded');
	}
	is(dump_of('shapes'), $before, "$mode: undo brings back what pg_dump can see");
	is(leftovers(), '', "$mode: and leaves nothing");
	is(digests(), $rows, "$mode: no row was touched");
	indexes_are_whole("undo of $mode");
	if ($mode eq 'composite')
	{
		foreach my $table (@changed)
		{
			my $job = submit($node, "tenantmig.set_primary_key('shapes.$table', '{tenant_id,id}')");

			wait_job_state($node, $job, 'succeeded');
		}
		tenants_are_apart();
	}
	assert_clean($node);
	$node->safe_psql('postgres', 'SET client_min_messages = error; DROP SCHEMA shapes CASCADE');
}

assert_no_crash($node);
$node->stop;
done_testing();
