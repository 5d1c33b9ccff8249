# Random schemas of tenant tables, and 10,000 random statements of two tenants:
# none sees or touches a row of another. The same statements find holes that
# are made on purpose.
#
# TENANTMIG_SEED makes it the same run again, TENANTMIG_STATEMENTS a longer one.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Attack;
use TenantMig;

my $seed = $ENV{TENANTMIG_SEED} // 20240611;
my $total = $ENV{TENANTMIG_STATEMENTS} // 10_000;
my $node = new_node('isolation', conf => "jit = off\nlog_statement = none\nlog_min_messages = fatal\n");
my @types = Attack::types();
my ($statements, $lines, $errors, %errors) = (0, 0, 0);

diag("TENANTMIG_SEED=$seed");
Attack::prepare_server($node);

# In hole, COL stands for the tenant column
sub make_attack
{
	my ($number, $type, $hole) = @_;
	my $attack = Attack->new(node => $node, seed => $seed + 1000 * $number, name => "s$number", type => $type);

	$attack->build;
	$attack->sql($hole =~ s/\bCOL\b/$attack->{column}/gr) if $hole;
	return $attack;
}

#
# No hole
#
foreach my $i (0 .. $#types)
{
	my $found = make_attack($i, $types[$i])->run($total / @types);
	my @leaks = @{ $found->{leaks} };

	is(scalar @leaks, 0, "$found->{statements} statements of tenants by $types[$i]: no row of another seen or touched");
	diag(join("\n", @leaks[ 0 .. ($#leaks < 9 ? $#leaks : 9) ])) if @leaks;
	is_deeply($found->{strange}, [], 'each error was one of the tenants\' own');
	$statements += $found->{statements};
	$lines += $found->{lines};
	$errors{$_} += $found->{errors}{$_} foreach keys %{ $found->{errors} };
}
$errors += $_ foreach values %errors;
note("$statements statements, $lines lines of own rows, errors: " . join(', ', map { "$_ $errors{$_}" } sort keys %errors));
cmp_ok($statements, '>=', $total, 'as many statements as were to be run');
cmp_ok($lines, '>', $statements, 'the tenants see their own rows');
cmp_ok($errors, '<', $statements / 2, 'most statements get through');
cmp_ok($errors{42501} // 0, '>', $statements / 100, 'and many are refused');

#
# A hole of each kind is found
#
my $mine = q{COL = (SELECT NULLIF(current_setting('app.current_tenant_id', true), ''))};
my $some = qq{
	DROP POLICY tenantmig_isolation ON t1; DROP POLICY tenantmig_access ON t1;
	CREATE POLICY s ON t1 FOR SELECT USING ($mine); CREATE POLICY i ON t1 FOR INSERT WITH CHECK ($mine);};
my %holes = (
	'no row-level security on a partition' => 'ALTER TABLE t2_a DISABLE ROW LEVEL SECURITY',
	'a permissive policy alone' => 'DROP POLICY tenantmig_isolation ON t1; CREATE POLICY p ON t1 USING (true)',
	'a view of a superuser' => 'ALTER VIEW v2 OWNER TO CURRENT_USER',
	'a function that runs as a superuser' =>
		'ALTER FUNCTION all_marks() OWNER TO CURRENT_USER; ALTER FUNCTION all_marks() SECURITY DEFINER',
	'a function that tells, marked leakproof' => 'ALTER FUNCTION tell(text) LEAKPROOF',
	'DELETE without a condition' =>
		"$some CREATE POLICY u ON t1 FOR UPDATE USING ($mine); CREATE POLICY d ON t1 FOR DELETE USING (true)",
	'UPDATE without a check' =>
		"DROP TRIGGER IF EXISTS after ON t1; $some CREATE POLICY u ON t1 FOR UPDATE USING ($mine) WITH CHECK (true); CREATE POLICY d ON t1 FOR DELETE USING ($mine)",
	'a foreign key without the tenant' => q{
		DO $$ DECLARE c record; BEGIN
			FOR c IN SELECT conname, conrelid::regclass AS rel FROM pg_constraint
				WHERE contype = 'f' AND conparentid = 0 AND confrelid IN ('t1'::regclass, 't3'::regclass) LOOP
				EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.rel, c.conname);
			END LOOP;
		END $$;
		ALTER TABLE t3 ADD above int REFERENCES t1 (id) ON DELETE CASCADE;
		CREATE FUNCTION cross_over() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
			$$ BEGIN NEW.above := (SELECT id FROM t1 ORDER BY random() LIMIT 1); RETURN NEW; END $$;
		CREATE TRIGGER cross_over BEFORE INSERT OR UPDATE ON t3 FOR EACH ROW EXECUTE FUNCTION cross_over();
		UPDATE t3 SET n = n},
	'a plan that was made for another tenant' => q{
		CREATE FUNCTION this_tenant() RETURNS text IMMUTABLE LANGUAGE sql AS
			'SELECT NULLIF(current_setting(''app.current_tenant_id'', true), '''')';
		ALTER POLICY tenantmig_isolation ON t1 USING (COL = this_tenant()) WITH CHECK (COL = this_tenant())});
my $number = 100;
foreach my $name (sort keys %holes)
{
	my $attack = make_attack(++$number, 'text', $holes{$name});
	my ($found, $tried) = ({ leaks => [] }, 0);

	while (!@{ $found->{leaks} } && $tried < 4000)
	{
		$found = $attack->run(200);
		$tried += $found->{statements};
	}
	cmp_ok(scalar @{ $found->{leaks} }, '>', 0, "found within $tried statements: $name");
	note($found->{leaks}[0]) if @{ $found->{leaks} };
}
assert_no_crash($node);

done_testing();
