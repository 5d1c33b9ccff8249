
=pod

=head1 NAME

Attack - random schemas of tenant tables, and random statements of two tenants

=head1 SYNOPSIS

  my $attack = Attack->new(node => $node, seed => 42, name => 's1', type => 'uuid');
  $attack->build;                       # tables, views, functions, enable_rls
  my $found = $attack->run(500);        # statements; what one tenant saw or touched of another
  print "$_\n" foreach @{$found->{leaks}};

Every row says whose it is: its mark holds "mark-of-A", and so does whatever a
statement of tenant A writes. There are three tenants; A and B run statements,
C only has rows. A psql runs a script in which each stretch of statements is
preceded by what its tenant may see; whatever it prints of another tenant's
marks, on stdout, in a NOTICE or in the DETAIL of an error, is a leak. After
each stretch a function compares the rows of those that were not at work with
what they were before, and all marks with the tenants of their rows.

=cut

package Attack;

use strict;
use warnings FATAL => 'all';

use IPC::Run;
use PostgreSQL::Test::Utils;

my %VALUES = (
	text => [ 'acme', 'zeta', 'gold' ],
	'varchar(10)' => [ 'acme', 'zeta', 'gold' ],
	uuid => [ map { ($_ x 8) . "-$_$_$_$_-$_$_$_$_-$_$_$_$_-" . ($_ x 12) } 1 .. 3 ],
	int => [ 1, 2, 3 ],
	tenant_number => [ 10, 20, 30 ],
	tenant_kind => [ 'one', 'two', 'three' ]);

sub types { return sort keys %VALUES }

sub new
{
	my ($class, %option) = @_;
	my $self = bless { setting => 'app.current_tenant_id', %option }, $class;
	my $values = $VALUES{ $self->{type} };

	$self->{state} = $self->{seed} * 2654435761 % 4294967291 || 1;
	$self->number(2) foreach 1 .. 9;
	$self->{value} = { A => $values->[0], B => $values->[1], C => $values->[2] };
	$self->{column} = $self->chance(30) ? '"Tenant Id"' : 'tenant_id';
	return $self;
}

# A generator of our own: the same numbers with the same seed, everywhere
sub number
{
	my ($self, $below) = @_;
	my $x = $self->{state};

	$x ^= ($x << 13) & 0xffffffff;
	$x ^= $x >> 17;
	$x ^= ($x << 5) & 0xffffffff;
	$self->{state} = $x;
	return $x % $below;
}

sub chance { my ($self, $percent) = @_; return $self->number(100) < $percent }
sub pick { my ($self, @list) = @_; return $list[ $self->number(scalar @list) ] }

sub literal
{
	my ($self, $letter) = @_;
	return "'$self->{value}{$letter}'::$self->{schema_type}";
}

#
# The schema
#

sub sql
{
	my ($self, $sql) = @_;
	return $self->{node}->safe_psql('postgres', "SET client_min_messages = warning; SET search_path = $self->{name}, public; $sql");
}

# Once for a server: the roles, and who judges
sub prepare_server
{
	my ($node) = @_;

	$node->safe_psql('postgres', q{
CREATE ROLE owner; CREATE ROLE app LOGIN; CREATE ROLE app2 LOGIN; GRANT app2 TO app;
CREATE SCHEMA judge; GRANT USAGE ON SCHEMA judge TO PUBLIC;
CREATE TABLE judge.tables (schema text, rel text, col text, parent text);
CREATE TABLE judge.letters (schema text, letter text, value text);
CREATE TABLE judge.kept (schema text, rel text, value text, digest text);

-- digests of all rows, by tenant
CREATE FUNCTION judge.digests(s text) RETURNS TABLE (rel text, value text, digest text) LANGUAGE plpgsql AS $$
DECLARE
	t judge.tables;
BEGIN
	FOR t IN SELECT * FROM judge.tables WHERE schema = s LOOP
		RETURN QUERY EXECUTE format('SELECT %L, x.%s::text, md5(string_agg(x::text, chr(10) ORDER BY x::text)) FROM %s x GROUP BY 2', t.rel, t.col, t.rel);
	END LOOP;
END $$;

-- before a stretch: see that everybody has rows, but not too many, and remember them
CREATE FUNCTION judge.start(s text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
	t judge.tables;
	least bigint;
	total bigint;
BEGIN
	FOR t IN SELECT * FROM judge.tables WHERE schema = s LOOP
		EXECUTE format('SELECT min(n), sum(n) FROM (SELECT count(x.id) AS n FROM judge.letters l
			LEFT JOIN %s x ON x.%s::text = l.value WHERE l.schema = %L GROUP BY l.letter) c', t.rel, t.col, s) INTO least, total;
		IF total > 150 THEN
			EXECUTE format('DELETE FROM %s WHERE id > 60', t.rel);
		END IF;
		IF least < 8 OR total > 150 THEN
			EXECUTE format('INSERT INTO %s (id, %s, mark, n)
				SELECT g * 3 + ascii(l.letter) - 65, l.value::%s, ''mark-of-'' || l.letter, g
				FROM judge.letters l, generate_series(1, 12) g WHERE l.schema = %L ON CONFLICT DO NOTHING',
				t.rel, t.col, (SELECT format_type(atttypid, -1) FROM pg_attribute
					WHERE attrelid = t.rel::regclass AND quote_ident(attname) = t.col), s);
			IF t.parent IS NOT NULL THEN
				EXECUTE format('UPDATE %s x SET parent = id WHERE EXISTS (SELECT FROM %s p WHERE p.%s = x.%s AND p.id = x.id)',
					t.rel, t.parent, t.col, t.col);
			END IF;
		END IF;
	END LOOP;
	DELETE FROM judge.kept WHERE schema = s;
	INSERT INTO judge.kept SELECT s, d.* FROM judge.digests(s) d;
END $$;

-- after it: nobody else's rows have changed, and no row has somebody else's mark
CREATE FUNCTION judge.finish(s text, at_work text) RETURNS SETOF text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
	t judge.tables;
BEGIN
	RETURN QUERY
		SELECT format('LEAK rows of %s in %s were touched', l.letter, COALESCE(d.rel, k.rel))
		FROM judge.digests(s) d FULL JOIN (SELECT * FROM judge.kept WHERE schema = s) k ON k.rel = d.rel AND k.value = d.value
			LEFT JOIN judge.letters l ON l.schema = s AND l.value = COALESCE(d.value, k.value)
		WHERE d.digest IS DISTINCT FROM k.digest AND COALESCE(strpos(at_work, l.letter), 0) = 0;
	FOR t IN SELECT * FROM judge.tables WHERE schema = s LOOP
		RETURN QUERY EXECUTE format('SELECT format(''LEAK %s has a row of %%s with %%s'', x.%s, x.mark)
			FROM %s x LEFT JOIN judge.letters l ON l.schema = %L AND l.value = x.%s::text
			WHERE x.mark NOT LIKE ''mark-of-'' || l.letter || ''%%'' OR l.letter IS NULL', t.rel, t.col, t.rel, s, t.col);
	END LOOP;
END $$;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA judge TO PUBLIC});
}

sub build
{
	my ($self) = @_;
	my ($s, $col) = ($self->{name}, $self->{column});
	my @shapes = (qw(plain list range inherited), $self->pick(qw(plain list range inherited)));

	$self->{schema_type} = $self->{type} =~ /^tenant_/ ? "$s.$self->{type}" : $self->{type};
	$self->{node}->safe_psql('postgres', qq{
CREATE SCHEMA $s AUTHORIZATION owner; GRANT USAGE ON SCHEMA $s TO app, app2;
SET ROLE owner;
CREATE DOMAIN $s.tenant_number AS int CHECK (VALUE > 0);
CREATE TYPE $s.tenant_kind AS ENUM ('one', 'two', 'three');
CREATE SEQUENCE $s.ids START 10000;
CREATE TABLE $s.log (id int DEFAULT nextval('$s.ids'), $col $self->{schema_type} NOT NULL, mark text NOT NULL, n int, PRIMARY KEY ($col, id));
CREATE FUNCTION $s.before() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.n := NEW.n + 1; RETURN NEW; END';
CREATE FUNCTION $s.after() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN INSERT INTO $s.log ($col, mark, n) VALUES (NEW.$col, NEW.mark, NEW.n); RETURN NULL; END'});
	$self->{tables} = [];
	$self->{direct} = [];
	$self->build_table($_, shift @shapes) foreach 1 .. 5;
	$self->build_views;
	$self->build_functions;
	$self->sql(qq{
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA $s TO app, app2;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA $s TO app, app2;
INSERT INTO judge.tables VALUES ('$s', '$s.log', '$col', NULL);
INSERT INTO judge.letters VALUES } . join(', ', map { "('$s', '$_', '$self->{value}{$_}')" } 'A' .. 'C'));
	foreach my $table (@{ $self->{tables} }, 'log')
	{
		my $parent = $self->{parent}{$table} ? "'$s.$self->{parent}{$table}'" : 'NULL';

		$self->sql("INSERT INTO judge.tables VALUES ('$s', '$s.$table', '$col', $parent)") if $table ne 'log';
		(my $name = $col) =~ s/"//g;
		$self->sql("SELECT tenantmig.enable_rls('$s.$table', column_name => '$name')");
	}
	$self->sql("SELECT judge.start('$s'); SELECT judge.start('$s')");
	$self->sql('ANALYZE');
}

sub build_table
{
	my ($self, $i, $shape) = @_;
	my ($s, $col, $name) = ($self->{name}, $self->{column}, "t$i");
	my $columns = "id int NOT NULL, $col $self->{schema_type} NOT NULL, mark text NOT NULL, n int, parent int";
	my $parent = @{ $self->{tables} } ? $self->pick(@{ $self->{tables} }) : undef;
	my $action = $self->pick('CASCADE', 'SET NULL (parent)', 'NO ACTION DEFERRABLE INITIALLY DEFERRED');
	my @sql;

	if ($shape eq 'list')
	{
		push @sql, "CREATE TABLE $name ($columns) PARTITION BY LIST ($col)",
		  "CREATE TABLE ${name}_a PARTITION OF $name FOR VALUES IN ('$self->{value}{A}')",
		  "CREATE TABLE ${name}_rest PARTITION OF $name DEFAULT";
		push @{ $self->{direct} }, "${name}_a", "${name}_rest";
	}
	elsif ($shape eq 'range')
	{
		push @sql, "CREATE TABLE $name ($columns) PARTITION BY RANGE (id)",
		  "CREATE TABLE ${name}_low PARTITION OF $name FOR VALUES FROM (MINVALUE) TO (20)",
		  "CREATE TABLE ${name}_high PARTITION OF $name FOR VALUES FROM (20) TO (MAXVALUE)";
		push @{ $self->{direct} }, "${name}_low", "${name}_high";
	}
	else
	{
		push @sql, "CREATE TABLE $name ($columns)";
	}
	# a key of the plain kind that tenants share, or one of their own; foreign keys follow
	push @sql, "ALTER TABLE $name ADD UNIQUE ($col, id)";
	push @sql, "ALTER TABLE $name ADD PRIMARY KEY (id)" if $shape eq 'plain' || $shape eq 'inherited';
	push @sql, "CREATE INDEX ON $name (mark)" if $self->chance(50);
	push @sql, "CREATE INDEX ON $name (n)" if $self->chance(50);
	if ($parent && $parent ne ($self->{inherited} // ''))
	{
		push @sql, "ALTER TABLE $name ADD FOREIGN KEY ($col, parent) REFERENCES $parent ($col, id) ON UPDATE CASCADE ON DELETE $action";
		$self->{parent}{$name} = $parent;
	}
	if ($shape eq 'inherited')
	{
		push @sql, "CREATE TABLE ${name}_child (extra text) INHERITS ($name)", "ALTER TABLE ${name}_child ADD PRIMARY KEY (id)";
		push @{ $self->{direct} }, "${name}_child";
		$self->{inherited} = $name;
	}
	push @sql, "CREATE TRIGGER before BEFORE INSERT OR UPDATE ON $name FOR EACH ROW EXECUTE FUNCTION before()" if $self->chance(50);
	push @sql, "CREATE TRIGGER after AFTER INSERT OR UPDATE ON $name FOR EACH ROW EXECUTE FUNCTION after()" if $self->chance(40);
	push @{ $self->{tables} }, $name;
	$self->sql('SET ROLE owner; ' . join('; ', @sql));
}

# Of both kinds: those of the caller, and those of the owner, for whom the policies hold as well
sub build_views
{
	my ($self) = @_;
	my @tables = @{ $self->{tables} };
	my @sql;

	foreach my $i (1 .. 4)
	{
		my ($t, $u) = ($self->pick(@tables), $self->pick(@tables));
		my $with = $i % 2 ? 'WITH (security_invoker)' : $self->chance(50) ? 'WITH (security_barrier)' : '';

		push @sql, "CREATE VIEW v$i $with AS SELECT id, $self->{column}, mark, n FROM $t WHERE n IS NOT NULL";
		push @sql, "CREATE VIEW w$i $with AS SELECT string_agg(t.mark, ',' ORDER BY t.id) AS mark, count(*) AS n, max(t.id) AS id
			FROM $t t LEFT JOIN $u u ON u.id = t.id GROUP BY t.n % 3";
	}
	$self->{views} = [ map { "v$_" } 1 .. 4 ];
	$self->{reading} = [ map { "w$_" } 1 .. 4 ];
	$self->sql('SET ROLE owner; ' . join('; ', @sql));
}

sub build_functions
{
	my ($self) = @_;
	my @tables = @{ $self->{tables} };
	my ($t, $u) = ($self->pick(@tables), $self->pick(@tables));

	$self->sql(qq{SET ROLE owner;
CREATE FUNCTION marks(low int) RETURNS SETOF text LANGUAGE plpgsql STABLE AS
	\$\$ BEGIN RETURN QUERY SELECT x.mark FROM $self->{name}.$t x WHERE x.id > low; END \$\$;
CREATE FUNCTION all_marks() RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS
	\$\$ BEGIN RETURN (SELECT string_agg(mark, ',') FROM $self->{name}.$u); END \$\$;
CREATE FUNCTION inlined(low int) RETURNS TABLE (id int, mark text) LANGUAGE sql STABLE PARALLEL SAFE AS
	'SELECT id, mark FROM $self->{name}.$u WHERE id > low';
CREATE FUNCTION dynamic(rel text) RETURNS SETOF text LANGUAGE plpgsql AS
	\$\$ BEGIN RETURN QUERY EXECUTE format('SELECT mark FROM $self->{name}.%I', rel); END \$\$;
CREATE FUNCTION touch(with_mark text, low int) RETURNS SETOF text LANGUAGE plpgsql AS
	\$\$ DECLARE r record; BEGIN FOR r IN UPDATE $self->{name}.$t x SET mark = with_mark WHERE x.id > low RETURNING x.mark, x.id LOOP RETURN NEXT r.mark; END LOOP; END \$\$;
CREATE FUNCTION remove(low int) RETURNS SETOF text LANGUAGE plpgsql AS
	\$\$ BEGIN RETURN QUERY DELETE FROM $self->{name}.$u x WHERE x.id = low RETURNING x.mark; END \$\$;
CREATE FUNCTION walk(low int) RETURNS SETOF text LANGUAGE plpgsql AS
	\$\$ DECLARE c CURSOR FOR SELECT x.mark FROM $self->{name}.$t x WHERE x.id > low; BEGIN FOR r IN c LOOP RETURN NEXT r.mark; END LOOP; END \$\$;
-- tells what it was asked about: it must be asked about rows that may be seen only
CREATE FUNCTION tell(mark text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
	\$\$ BEGIN RAISE NOTICE 'told %', mark; RETURN true; END \$\$;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA $self->{name} TO app, app2});
}

#
# Statements. Each is one, without the semicolon; "me" is who writes, and it
# writes its own mark whatever tenant it gives a row.
#

sub relation { my ($self) = @_; return $self->pick(@{ $self->{tables} }, @{ $self->{tables} }, @{ $self->{views} }, @{ $self->{direct} }, 'log') }
sub readable { my ($self) = @_; return $self->chance(20) ? $self->pick(@{ $self->{reading} }) : $self->relation }
sub id { my ($self) = @_; return 3 + $self->number(40) }
sub mark { my ($self, $me) = @_; return "'mark-of-$me " . $self->number(100) . "'" }
# mostly another's
sub whose { my ($self, $me) = @_; return $self->literal($self->pick($me, $me, 'A', 'B', 'C')) }

sub condition
{
	my ($self, $me, $alias) = @_;
	return $self->pick(
		'true', 'true', "$alias.id = " . $self->id, "$alias.id > " . $self->id, "$alias.mark LIKE '%B%'",
		"$alias.n IS NOT NULL", "$alias.id IN (SELECT id FROM " . $self->relation . ')',
		"EXISTS (SELECT FROM " . $self->relation . " e WHERE e.id = $alias.id + 1)",
		"tell($alias.mark)", "$alias.mark ~ 'mark' OR tell($alias.mark)", "NOT $alias.id = " . $self->id);
}

sub where { my ($self, $me, $alias) = @_; my $c = $self->condition($me, $alias); return $c eq 'true' ? '' : " WHERE $c" }

sub select_text
{
	my ($self, $me) = @_;
	my ($r, $u, $id) = ($self->readable, $self->readable, $self->id);
	my $lock = $self->chance(10) ? $self->pick(' FOR UPDATE', ' FOR SHARE') : '';

	return $self->pick(
		sub { 'SELECT x.mark FROM ' . $self->relation . ' x' . $self->where($me, 'x') . $lock },
		sub { "SELECT * FROM $r x" . $self->where($me, 'x') },
		sub { "SELECT x FROM $r x" . $self->where($me, 'x') . ' ORDER BY x.id DESC LIMIT 5' },
		sub { "SELECT string_agg(DISTINCT x.mark, ','), count(*), min(x.mark), max(x.mark) FROM $r x" . $self->where($me, 'x') },
		sub { "SELECT x.mark, y.mark FROM $r x JOIN $u y ON y.id = x.id" . $self->where($me, 'x') },
		sub { "SELECT x.mark, y.mark FROM $r x LEFT JOIN $u y ON y.n = x.n AND tell(y.mark)" . $self->where($me, 'x') },
		sub { "SELECT x.mark, (SELECT string_agg(y.mark, ',') FROM $u y WHERE y.id < x.id) FROM $r x" },
		sub { "SELECT x.mark, l.mark FROM $r x, LATERAL (SELECT y.mark FROM $u y WHERE y.id >= x.id LIMIT 2) l" },
		sub { "WITH c AS " . $self->pick('', 'MATERIALIZED ') . "(SELECT * FROM $r) SELECT mark FROM c WHERE c.id > $id" },
		sub { "SELECT mark FROM $r UNION ALL SELECT mark FROM $u EXCEPT SELECT NULL" },
		sub { "SELECT mark, row_number() OVER (PARTITION BY n ORDER BY id) FROM $r" },
		sub { "TABLE $r" },
		sub { "SELECT mark FROM " . $self->pick(@{ $self->{tables} }) . " TABLESAMPLE BERNOULLI (90)" },
		sub { "SELECT tableoid::regclass, ctid, mark FROM " . $self->pick(@{ $self->{tables} }) . " WHERE ctid < '(5,1)'" },
		sub { "SELECT mark FROM ONLY " . $self->pick(@{ $self->{tables} }) },
		sub { "EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT mark FROM $r x" . $self->where($me, 'x') },
		sub { "SELECT most_common_vals, histogram_bounds FROM pg_stats WHERE schemaname = '$self->{name}' AND attname = 'mark'" },
		sub { "SELECT json_agg(x), xmlforest(max(x.mark) AS m) FROM $r x" })->();
}

sub call_text
{
	my ($self, $me) = @_;
	my $id = $self->id;

	return $self->pick(
		"SELECT * FROM marks($id)", 'SELECT all_marks()', "SELECT * FROM inlined($id) WHERE tell(mark)",
		"SELECT * FROM dynamic('" . $self->relation . "')", "SELECT * FROM touch(" . $self->mark($me) . ", $id)",
		"SELECT * FROM remove($id)", "SELECT * FROM walk($id)", "SELECT m FROM " . $self->relation . " x, marks(x.id) m");
}

sub row { my ($self, $me) = @_; return '(' . $self->id . ', ' . $self->whose($me) . ', ' . $self->mark($me) . ', ' . $self->number(9) . ')' }

sub write_text
{
	my ($self, $me) = @_;
	my ($r, $u, $id, $col) = ($self->relation, $self->readable, $self->id, $self->{column});
	my $target = $self->pick(@{ $self->{tables} }, @{ $self->{direct} }, 'log');
	my $returning = $self->pick('', ' RETURNING mark', ' RETURNING *');
	my $mark = $self->mark($me);

	return $self->pick(
		sub { "INSERT INTO $r (id, $col, mark, n) VALUES " . join(', ', map { $self->row($me) } 0 .. $self->number(2)) . $returning },
		sub { "INSERT INTO $r (id, $col, mark, n) SELECT id + 100, " . $self->whose($me) . ", $mark, n FROM $u LIMIT 3$returning" },
		sub { "INSERT INTO $r (id, $col, mark, n) VALUES " . $self->row($me) . " ON CONFLICT DO NOTHING$returning" },
		sub { "INSERT INTO $target AS x (id, $col, mark, n) VALUES " . $self->row($me)
			  . ' ON CONFLICT (' . $self->pick('id', "$col, id") . ") DO UPDATE SET mark = $mark"
			  . $self->pick('', ", $col = " . $self->whose($me), ' WHERE tell(x.mark)') . " RETURNING x.mark" },
		sub { "UPDATE $r x SET mark = $mark" . $self->where($me, 'x') . $self->pick('', ' RETURNING x.mark') },
		sub { "UPDATE " . $self->pick(@{ $self->{tables} }) . " SET parent = " . $self->pick('id', $id) . ", mark = $mark WHERE id > $id RETURNING mark" },
		sub { "UPDATE $r x SET $col = " . $self->whose($me) . ", mark = $mark WHERE x.id = $id$returning" },
		sub { "UPDATE $r x SET mark = $mark, n = y.n FROM $u y WHERE y.id = x.id" . $self->pick('', ' RETURNING x.mark, y.mark') },
		sub { "UPDATE $target SET id = id + 1000, mark = $mark WHERE id = $id RETURNING mark" },
		sub { "DELETE FROM $r x" . $self->where($me, 'x') . $returning },
		sub { "DELETE FROM $r x USING $u y WHERE y.id = x.id AND x.id < $id RETURNING x.mark, y.mark" },
		sub { "DELETE FROM $r WHERE id = $id" },
		sub { "WITH d AS (DELETE FROM $r WHERE id < $id RETURNING mark), u AS (UPDATE $target SET mark = $mark WHERE id > $id RETURNING mark) SELECT * FROM d UNION ALL SELECT * FROM u" },
		sub { "MERGE INTO $target x USING (SELECT id, mark FROM $u) y ON x.id = y.id"
			  . " WHEN MATCHED AND x.id < $id THEN DELETE WHEN MATCHED THEN UPDATE SET mark = $mark"
			  . " WHEN NOT MATCHED THEN INSERT (id, $col, mark, n) VALUES (y.id, " . $self->whose($me) . ", $mark, 1)" },
		sub { "MERGE INTO $target x USING (VALUES ($id), (" . $self->id . ")) y (id) ON x.id = y.id"
			  . " WHEN MATCHED AND tell(x.mark) THEN UPDATE SET mark = $mark, $col = " . $self->whose($me)
			  . " WHEN NOT MATCHED THEN INSERT (id, $col, mark) VALUES (y.id, " . $self->whose($me) . ", $mark)" })->();
}

# What looks at no column, so that the policies for SELECT do not help
sub blind_text
{
	my ($self, $me) = @_;
	my $r = $self->chance(70) ? $self->pick(@{ $self->{tables} }) : $self->relation;
	my $mark = $self->mark($me);

	return $self->pick("DELETE FROM $r", "UPDATE $r SET mark = $mark", "UPDATE $r SET $self->{column} = " . $self->whose($me) . ", mark = $mark");
}

sub copy_text
{
	my ($self, $me) = @_;
	my $r = $self->relation;

	return $self->pick(
		"COPY " . $self->pick(@{ $self->{tables} }, @{ $self->{direct} }) . ' TO STDOUT',
		"COPY (SELECT mark FROM $r) TO STDOUT (FORMAT csv)",
		"COPY (UPDATE $r SET mark = " . $self->mark($me) . " WHERE id = " . $self->id . " RETURNING mark) TO STDOUT",
		"\\copy " . $self->pick(@{ $self->{tables} }, @{ $self->{direct} }) . " FROM '$self->{file}'");
}

# What the session prepared once, for whichever tenant and role it was then
sub prepare_lines
{
	my ($self) = @_;
	my @lines;

	foreach my $i (1 .. 12)
	{
		my $r = $self->relation;
		my $u = $self->readable;
		my $body = $self->pick(
			"SELECT mark FROM $u WHERE id > \$1", "SELECT string_agg(mark, ',') FROM $u WHERE id > \$1 OR \$2 IS NULL",
			"SELECT x.mark, y.mark FROM $u x JOIN $r y USING (id) WHERE x.id >= \$1",
			"UPDATE $r SET mark = \$2 WHERE id > \$1 RETURNING mark", "DELETE FROM $r WHERE id = \$1 RETURNING mark",
			"SELECT * FROM marks(\$1)", "SELECT mark FROM inlined(\$1)");
		push @lines, "PREPARE p$i (int, text) AS $body;";
	}
	return @lines;
}

sub execute_text { my ($self, $me) = @_; return 'EXECUTE p' . (1 + $self->number(12)) . '(' . $self->id . ', ' . $self->mark($me) . ')' }

sub statement
{
	my ($self, $me) = @_;
	my $n = $self->number(100);

	$self->{statements}++;
	return $n < 35 ? $self->select_text($me) : $n < 60 ? $self->write_text($me)
	  : $n < 66 ? $self->blind_text($me) : $n < 80 ? $self->execute_text($me) : $n < 92 ? $self->call_text($me) : $self->copy_text($me);
}

#
# Scripts
#

sub say { my ($self, @lines) = @_; push @{ $self->{script} }, @lines; }
sub may_see { my ($self, $letters) = @_; $self->say("\\echo #T $letters", "\\warn #T $letters"); }
sub run_one { my ($self, $me) = @_; my $text = $self->statement($me); $self->say($text =~ /^\\/ ? $text : "$text;"); }
sub set_tenant
{
	my ($self, $letter, $how) = @_;
	my $value = $self->{value}{$letter};

	$self->say($self->pick("SET $how $self->{setting} = '$value';",
		"SELECT set_config('$self->{setting}', '$value', " . ($how eq 'LOCAL' ? 'true' : 'false') . ') IS NULL;'));
	$self->may_see($letter);
}

# One tenant, for the session
sub stretch_session
{
	my ($self, $me) = @_;
	$self->set_tenant($me, 'SESSION');
	$self->run_one($me) foreach 1 .. 20;
	return $me;
}

# One tenant for a transaction, with savepoints, by nobody afterwards
sub stretch_local
{
	my ($self, $me) = @_;
	my $other = $me eq 'A' ? 'B' : 'A';

	$self->say("RESET $self->{setting};", 'BEGIN;');
	$self->set_tenant($me, 'LOCAL');
	$self->run_one($me) foreach 1 .. 5;
	$self->say('SAVEPOINT s;');
	$self->set_tenant($other, 'LOCAL');
	# it is going to be undone: reads only
	$self->say($self->select_text($other) . ';') foreach 1 .. 3;
	$self->{statements} += 3;
	$self->say('ROLLBACK TO s;');
	$self->may_see($me);
	$self->run_one($me) foreach 1 .. 5;
	$self->say($self->pick('COMMIT;', 'ROLLBACK;'));
	$self->may_see('');
	$self->run_one($me) foreach 1 .. 3;
	return $me;
}

sub stretch_nobody
{
	my ($self, $me) = @_;
	$self->say("SET $self->{setting} = " . $self->pick("''", 'DEFAULT', "'nobody'", "''' OR true --'") . ';');
	$self->may_see('');
	$self->run_one($me) foreach 1 .. 8;
	return '';
}

# Both, turn by turn: plans and functions that were made for the other
sub stretch_turns
{
	my ($self, $me) = @_;
	foreach my $turn (1 .. 6)
	{
		$me = $me eq 'A' ? 'B' : 'A';
		$self->set_tenant($me, 'SESSION');
		$self->run_one($me) foreach 1 .. 3;
	}
	return 'AB';
}

# A cursor that was opened by one and is read on when another is set. It goes
# on with the rows of who was set when it gave its first one; over several
# tables, each goes by who was set when it was first read.
sub stretch_cursor
{
	my ($self, $me) = @_;
	my $other = $me eq 'A' ? 'B' : 'A';
	my $single = $self->chance(60);
	my $hold = $self->chance(40);
	my $began = $self->chance(70);
	my $query = $single ? 'SELECT mark FROM ' . $self->pick(@{ $self->{tables} })
	  : 'SELECT mark FROM ' . $self->readable . ' UNION ALL SELECT mark FROM ' . $self->readable;
	my $sees = !$single ? 'AB' : $began ? $me : $other;

	$self->say('BEGIN;');
	$self->set_tenant($me, 'LOCAL');
	$self->say('DECLARE c ' . $self->pick('', 'SCROLL ') . 'CURSOR ' . ($hold ? 'WITH HOLD ' : '') . "FOR $query;");
	$self->say('FETCH 2 FROM c;') if $began;
	$self->set_tenant($other, 'LOCAL');
	$self->say($self->select_text($other) . ';');
	$self->may_see($sees);
	$self->say('FETCH 3 FROM c;', 'MOVE 1 FROM c;', 'FETCH ALL FROM c;');
	$self->say('COMMIT;');
	$self->may_see($hold ? $sees : '');
	$self->say('FETCH ALL FROM c;', 'CLOSE ALL;');
	$self->{statements} += 6;
	return '';
}

# The same session as a superuser, as another role, and back
sub stretch_roles
{
	my ($self, $me) = @_;
	my $free = !$self->{login};

	$self->set_tenant($me, 'SESSION');
	foreach my $turn (1 .. 4)
	{
		if ($free && $self->chance(50))
		{
			$self->say('RESET ROLE;');
			$self->may_see('ABC');
			$self->say('BEGIN;');
			$self->say($_ . ';') foreach $self->execute_text('A'), 'SELECT all_marks()', "SELECT * FROM marks(3)", "SELECT mark FROM inlined(1)";
			$self->say('ROLLBACK;');
		}
		$self->say('SET ROLE ' . $self->pick('app', 'app2') . ';');
		$self->may_see($me);
		$self->run_one($me) foreach 1 .. 4;
		$self->say('SET row_security = off;', $self->select_text($me) . ';', 'SET row_security = on;');
	}
	$self->say('SET ROLE app;');
	return $me;
}

sub stretch
{
	my ($self) = @_;
	my $n = $self->number(100);
	my $me = $self->pick('A', 'B');
	my $how = $n < 40 ? 'session' : $n < 60 ? 'local' : $n < 70 ? 'nobody' : $n < 82 ? 'turns' : $n < 90 ? 'cursor' : 'roles';
	my $method = "stretch_$how";
	my $at_work;

	$self->say("SELECT judge.start('$self->{name}');");
	$self->say('SET plan_cache_mode = ' . $self->pick(qw(auto force_generic_plan force_custom_plan)) . ';');
	$self->say('DISCARD PLANS;') if $self->chance(10);
	my $parallel = $self->chance(15) ? 'on' : 'off';
	$self->say("SET $self->{parallel} = $parallel;", "SET parallel_setup_cost = " . ($parallel eq 'on' ? 0 : 1000) . ';');
	$self->say("SET enable_seqscan = " . $self->pick(qw(on on off)) . ';');
	$at_work = $self->$method($me);
	$self->may_see('judge');
	$self->say("SELECT * FROM judge.finish('$self->{name}', '$at_work');");
}

=pod

run(statements) returns a hash: leaks, a list of texts; statements, how many
there were; errors, how often each SQLSTATE was raised; lines, how many lines
of own rows were printed.

=cut

sub run
{
	my ($self, $count) = @_;
	my ($out, $err) = ('', '');
	my $major = $self->{node}->pg_version->{num}[0];

	$self->{parallel} = $major >= 16 ? 'debug_parallel_query' : 'force_parallel_mode';
	$self->{login} = $self->chance(50);
	$self->{script} = [];
	$self->{statements} = 0;
	$self->{file} = PostgreSQL::Test::Utils::tempdir_short() . '/rows';
	PostgreSQL::Test::Utils::append_to_file($self->{file}, "5\t$self->{value}{B}\tmark-of-A\t1\t\\N\n");
	$self->say('\set VERBOSITY verbose', '\set ON_ERROR_ROLLBACK on', "SET search_path = $self->{name}, public;",
		'SET min_parallel_table_scan_size = 0; SET parallel_tuple_cost = 0;');
	$self->say('SET ROLE app;') unless $self->{login};
	$self->may_see('');
	$self->say($self->prepare_lines);
	$self->stretch while $self->{statements} < $count;

	IPC::Run::run(
		[ $self->{node}->installed_command('psql'), '-XAtq', '-U', $self->{login} ? 'app' : $ENV{PGUSER} // scalar getpwuid($<),
			'-d', $self->{node}->connstr('postgres'), '-f', '-' ],
		'<', \join("\n", @{ $self->{script} }, ''), '>', \$out, '2>', \$err,
		IPC::Run::timeout(10 * $PostgreSQL::Test::Utils::timeout_default));
	return $self->judge($out, $err);
}

sub judge
{
	my ($self, $out, $err) = @_;
	my %result = (leaks => [], statements => $self->{statements}, errors => {}, lines => 0, strange => []);

	foreach my $stream ($out, $err)
	{
		my $sees = '';
		foreach my $line (split /\n/, $stream)
		{
			if ($line =~ /^#T (\w*)$/) { $sees = $1; next }
			if ($line =~ /^LEAK/) { push @{ $result{leaks} }, $line; next }
			my @others = grep { index($sees, $_) < 0 } $line =~ /mark-of-([ABC])/g;
			push @{ $result{leaks} }, "seen by \"$sees\": $line" if @others;
			$result{lines}++ if !@others && $line =~ /mark-of/;
			next unless $line =~ /(?:ERROR|FATAL|PANIC):  (\w{5}): (.*)/;
			$result{errors}{$1}++;
			# what the generator is to blame for, and what nobody may see
			push @{ $result{strange} }, $line if $1 =~ /^(?:42601|42P01|42703|42883|42804|42702|XX|08|57|58|25P)/;
		}
	}
	return \%result;
}

1;
