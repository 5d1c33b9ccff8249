
=pod

=head1 NAME

TenantMig - what the TAP tests of tenantmig share

=head1 SYNOPSIS

  use TenantMig;

  my $node = new_node('main', preload => 1, stop_points => 1);
  make_table($node, 'orders', rows => 20000);
  my $before = digest($node, 'orders');

  stop_at($node, 'batch-committed:wait');
  my $job = submit($node, q(tenantmig.backfill('orders', value => 'acme')));
  wait_at($node, $job, 'batch-committed');
  $node->stop('immediate');
  stop_at($node, '');           # works on a stopped server too
  $node->start;

  wait_job_state($node, $job, 'succeeded');
  is(digest($node, 'orders'), $before, 'no other column was touched');
  assert_clean($node);

All helpers work on the database "postgres" unless told otherwise with
C<< db => 'name' >> as a last argument. Those that wait have a deadline, that
of poll_query_until (PG_TEST_TIMEOUT_DEFAULT, 180 s), report a failed test and
show the jobs when it passes.

=cut

package TenantMig;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = qw(
  new_node make_table stop_at release submit job_state job_field jobs_text
  wait_until wait_job_state wait_at wait_no_worker worker_pid poll_for
  background digest wrong_tenants assert_clean sql_error sql_ok number seconds_until
  new_session wait_blocked assert_no_crash
);

=pod

=head1 SERVERS

=over

=item new_node(name, option => value, ...)

A server with the extension created in "postgres", started. Options:

  preload      shared_preload_libraries = 'tenantmig'
  stop_points  load the build with stop points (see stop_at)
  conf         more lines for postgresql.conf
  extension    0: do not create the extension
  start        0: do not even start (nor create the extension)

It restarts after a crash, as servers do outside of tests.

=cut

sub new_node
{
	my ($name, %option) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	my $conf = "restart_after_crash = on\n"
	  . "max_worker_processes = 16\n"
	  . "log_line_prefix = '%m [%p] %b %q%u@%d '\n";

	$conf .= "shared_preload_libraries = 'tenantmig'\n" if $option{preload};
	if ($option{stop_points})
	{
		BAIL_OUT('TENANTMIG_STOP_LIB is not set: run the tests with test/run')
		  unless $ENV{TENANTMIG_STOP_LIB};
		$conf .=
		  "dynamic_library_path = '$ENV{TENANTMIG_STOP_LIB}:\$libdir'\n";
	}
	$node->init;
	$node->append_conf('postgresql.conf', $conf . ($option{conf} // ''));
	return $node if exists $option{start} && !$option{start};
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION tenantmig')
	  unless exists $option{extension} && !$option{extension};
	return $node;
}

=pod

=item make_table(node, name, rows => 20000, column => 1, db => ...)

Makes a table (id, customer, body, touched) with a primary key and that many
rows, about 60 to a block, and with the column tenant_id, without a value in
any row, unless column is 0. body is a function of id.

=cut

sub make_table
{
	my ($node, $name, %option) = @_;
	my $rows = $option{rows} // 20000;
	my $column = ($option{column} // 1) ? ', tenant_id text' : '';

	$node->safe_psql(
		$option{db} // 'postgres', qq(
		CREATE TABLE $name (id bigint PRIMARY KEY, customer int NOT NULL,
			body text NOT NULL, touched int NOT NULL DEFAULT 0$column);
		INSERT INTO $name (id, customer, body)
		SELECT g, g % 97, repeat(md5(g::text), 2) FROM generate_series(1, $rows) g;
		ANALYZE $name;));
}

=pod

=back

=head1 STOP POINTS

=over

=item stop_at(node, 'name:action')

Sets tenantmig.stop_point and reloads; action is wait, error, crash or exit
(src/engine/stop_point.h). '' takes it away, and lets go who waits there. On a
server that is stopped it only writes the setting.

=item release(node)

stop_at(node, '').

=item wait_at(node, job, 'name', db => ...)

Waits until the worker of the job stays at that stop point.

=cut

sub stop_at
{
	my ($node, $point) = @_;

	$node->append_conf('postgresql.conf', "tenantmig.stop_point = '$point'\n");
	$node->reload if defined $node->{_pid};
}

sub release
{
	my ($node) = @_;
	stop_at($node, '');
}

sub wait_at
{
	my ($node, $job, $point, %option) = @_;

	return wait_until(
		$node,
		"SELECT count(*) = 1 FROM pg_stat_activity "
		  . "WHERE application_name = 'tenantmig at $point' "
		  . "AND pid = tenantmig.job_pid($job)",
		"job $job stays at $point",
		%option);
}

=pod

=back

=head1 JOBS

=over

=item submit(node, 'tenantmig.backfill(...)', db => ...)

SELECTs the call and returns what it returns, the id of the job.

=item job_state(node, job), job_field(node, job, 'column'), jobs_text(node)

The live state; any column or expression over tenantmig.jobs; all jobs, to
print. Two ended words: a NULL is ''.

=item wait_job_state(node, job, 'succeeded', db => ...)

Waits until the job is in that state (or in one of them: 'failed|cancelled').
Gives up at once when the job has reached another end. A test of its own.

=item worker_pid(node, job)

The pid of the process that works on the job, or ''.

=item wait_no_worker(node)

Waits until no worker or starter of ours is left.

=cut

sub submit
{
	my ($node, $call, %option) = @_;
	return $node->safe_psql($option{db} // 'postgres', "SELECT $call");
}

sub job_field
{
	my ($node, $job, $field, %option) = @_;
	return $node->safe_psql($option{db} // 'postgres',
		"SELECT $field FROM tenantmig.jobs WHERE id = $job");
}

sub job_state
{
	my ($node, $job, %option) = @_;
	return job_field($node, $job, 'state', %option);
}

sub worker_pid
{
	my ($node, $job, %option) = @_;
	return $node->safe_psql($option{db} // 'postgres',
		"SELECT tenantmig.job_pid($job)");
}

sub jobs_text
{
	my ($node, %option) = @_;
	my ($rc, $out, $err) = $node->psql($option{db} // 'postgres',
		'SELECT id, kind, relation, state, phase, attempts, rows_done, error '
		  . 'FROM tenantmig.jobs ORDER BY id');
	my (undef, $processes) = $node->psql('postgres',
		"SELECT pid, backend_type, application_name, wait_event, query "
		  . "FROM pg_stat_activity WHERE backend_type LIKE 'tenantmig%'");
	return join("\n", $out // '', $err // '', $processes // '');
}

sub wait_job_state
{
	my ($node, $job, $states, %option) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my $state = '';

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	while (time < $deadline)
	{
		$state = job_state($node, $job, %option);
		if ($state =~ /^(?:$states)$/)
		{
			pass("job $job is $state");
			return 1;
		}
		last if $state =~ /^(?:succeeded|failed|cancelled)$/;
		select(undef, undef, undef, 0.05);
	}
	fail("job $job is $states");
	diag("it is $state\n" . jobs_text($node, %option));
	return 0;
}

sub wait_no_worker
{
	my ($node, %option) = @_;
	return wait_until(
		$node,
		"SELECT count(*) = 0 FROM pg_stat_activity "
		  . "WHERE backend_type IN ('tenantmig worker', 'tenantmig starter')",
		'no worker is left',
		%option);
}

=pod

=back

=head1 WAITING AND MEASURING

=over

=item wait_until(node, query, name, db => ..., expected => 't')

poll_query_until as a test with a name, which shows the jobs when it fails.

=item poll_for(seconds, sub { ... })

Calls the sub again and again until it returns true, at most for that long.
Returns what it returned last. Never fails a test: for what must not happen,
and for conditions outside of the database.

=item seconds_until(node, query, db => ...)

How long it takes until the query gives "t", by the clock of the caller.

=cut

sub wait_until
{
	my ($node, $query, $name, %option) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my $expected = $option{expected} // 't';
	my ($rc, $out, $err) = (1, '', '');

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	while (time < $deadline)
	{
		# the server may be restarting just now; a psql that is turned away has
		# not read what it was to ask, which is an exception of its own
		eval { ($rc, $out, $err) = $node->psql($option{db} // 'postgres', $query); 1 }
		  or ($rc, $out, $err) = (2, '', $@);
		if ($rc == 0 && $out eq $expected)
		{
			pass($name);
			return 1;
		}
		select(undef, undef, undef, 0.05);
	}
	fail($name);
	diag("last answer of $query: $out $err\n" . jobs_text($node, %option));
	return 0;
}

sub poll_for
{
	my ($seconds, $condition) = @_;
	my $deadline = time + $seconds;
	my $result;

	until ($result = $condition->())
	{
		last if time >= $deadline;
		select(undef, undef, undef, 0.05);
	}
	return $result;
}

sub seconds_until
{
	my ($node, $query, %option) = @_;
	my $start = time;

	poll_for(
		$PostgreSQL::Test::Utils::timeout_default,
		sub {
			my ($rc, $out) = $node->psql($option{db} // 'postgres', $query);
			return $rc == 0 && $out eq 't';
		});
	return time - $start;
}

=pod

=back

=head1 LOOKING

=over

=item background(node, db => ...)

A psql in the background (PostgreSQL::Test::BackgroundPsql) that shows no
notices, since query_safe takes whatever comes by stderr for an error.

=item digest(node, table, with => 1, column => 'tenant_id', db => ...)

Count and digest of all rows, whatever their order, without the tenant column;
with it if with is true.

=item wrong_tenants(node, table, expression, column => ..., db => ...)

How many rows have a tenant that is distinct from the expression.

=item number(node, query, db => ...)

One number.

=item sql_ok(node, sql, name, db => ...)

A test that the statement raises no error.

=item sql_error(node, sql, db => ...)

A hash of what the statement raised: sqlstate ('' for success), message,
detail, hint, and all of stderr as text. Statements are sent one by one when
given as a list reference, in one session.

=cut

sub background
{
	my ($node, %option) = @_;
	my $session = $node->background_psql($option{db} // 'postgres');

	$session->query_safe('SET client_min_messages = warning');
	return $session;
}

sub digest
{
	my ($node, $table, %option) = @_;
	my $column = $option{column} // 'tenant_id';
	my $row = $option{with} ? 'to_jsonb(t)' : "to_jsonb(t) - '$column'";

	return $node->safe_psql($option{db} // 'postgres',
		"SELECT count(*) || ' ' || coalesce(sum(hashtextextended(($row)::text, 0)), 0) "
		  . "FROM $table t");
}

sub wrong_tenants
{
	my ($node, $table, $expression, %option) = @_;
	my $column = $option{column} // 'tenant_id';

	return $node->safe_psql($option{db} // 'postgres',
		"SELECT count(*) FROM $table WHERE $column IS DISTINCT FROM ($expression)"
	);
}

sub number
{
	my ($node, $query, %option) = @_;
	my $answer = $node->safe_psql($option{db} // 'postgres', $query);
	return $answer eq '' ? 0 : 0 + $answer;
}

sub sql_error
{
	my ($node, $sql, %option) = @_;
	my @statements = ref $sql ? @$sql : ($sql);
	my ($out, $err) = ('', '');
	my %error = (sqlstate => '', message => '', detail => '', hint => '');

	IPC::Run::run(
		[
			$node->installed_command('psql'), '-XAtq',
			'-v', 'ON_ERROR_STOP=1',
			'-v', 'VERBOSITY=verbose',
			'-d', $node->connstr($option{db} // 'postgres'),
			map { ('-c', $_) } @statements
		],
		'>', \$out, '2>', \$err,
		IPC::Run::timeout(2 * $PostgreSQL::Test::Utils::timeout_default));
	$error{text} = $err;
	$error{out} = $out;
	if ($err =~ /(?:ERROR|FATAL):  ([0-9A-Z]{5}): (.*(?:\n(?:DETAIL|HINT|CONTEXT|LOCATION|LINE).*)*)/)
	{
		my $rest = $2;
		$error{sqlstate} = $1;
		($error{message}) = $rest =~ /^(.*)/;
		$error{detail} = $1 if $rest =~ /^DETAIL:  (.*)/m;
		$error{hint} = $1 if $rest =~ /^HINT:  (.*)/m;
	}
	return \%error;
}

sub sql_ok
{
	my ($node, $sql, $name, %option) = @_;
	my $error = sql_error($node, $sql, %option);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($error->{sqlstate} . $error->{message}, '', $name);
}

=pod

=item assert_clean(node, db => ..., jobs => 1)

After all jobs have ended: no invalid index, no trigger or constraint of ours
that the records do not say was kept, no lock of ours held, no worker at work,
no job that says running without a live worker. One test. What takes the last
moments of a worker (its locks, its process) is waited for.

With jobs => 0 the locks, processes and jobs are not looked at, only the
catalog.

=back

=cut

sub assert_clean
{
	my ($node, %option) = @_;
	my $looks_at_jobs = $option{jobs} // 1;
	my $query = q(
		SELECT 'invalid index ' || indexrelid::regclass
		  FROM pg_index WHERE NOT indisvalid OR NOT indisready
		UNION ALL
		SELECT 'trigger ' || t.tgname || ' on ' || t.tgrelid::regclass
		  FROM pg_trigger t
		 WHERE t.tgname LIKE '%tenantmig%' AND t.tgparentid = 0
		   AND NOT EXISTS (SELECT FROM tenantmig.job_step s
				WHERE s.state = 'done' AND NOT s.temporary
				  AND s.statement LIKE 'CREATE%TRIGGER%'
				  AND strpos(s.statement, t.tgname) > 0)
		UNION ALL
		SELECT 'constraint ' || c.conname || ' on ' || c.conrelid::regclass
		  FROM pg_constraint c
		 WHERE c.conname LIKE '%tenantmig%'
		   AND c.connamespace <> 'tenantmig'::regnamespace
		   AND NOT EXISTS (SELECT FROM tenantmig.job_step s
				WHERE s.state = 'done' AND NOT s.temporary
				  AND s.statement LIKE '%ADD CONSTRAINT%'
				  AND strpos(s.statement, c.conname) > 0));
	my $jobs = q(
		UNION ALL
		SELECT 'lock ' || l.objsubid || ' ' || l.objid || ' of ' || l.pid
		  FROM pg_locks l
		 WHERE l.locktype = 'advisory' AND l.objsubid BETWEEN 29697 AND 29700
		UNION ALL
		SELECT a.backend_type || ' ' || a.pid || ' ' || a.application_name
		  FROM pg_stat_activity a
		 WHERE a.backend_type IN ('tenantmig worker', 'tenantmig starter')
		UNION ALL
		SELECT 'job ' || j.id || ' says running' FROM tenantmig.job j
		 WHERE j.state = 'running');
	my $left = '';

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll_for(
		$looks_at_jobs ? $PostgreSQL::Test::Utils::timeout_default / 6 : 0,
		sub {
			$left = $node->safe_psql($option{db} // 'postgres',
				$query . ($looks_at_jobs ? $jobs : ''));
			return $left eq '';
		});
	is($left, '', 'nothing is left behind');
}

=pod

=head1 OTHER SESSIONS AND THE LOG

=over

=item new_session(node, db => ..., user => ...)

A background_psql that goes on after errors, shows no NOTICE, and restarts its
deadline with each query. Returns it and its pid.

=item wait_blocked(node, pid, name)

Waits until that process waits for a heavyweight lock.

=item assert_no_crash(node)

No process of the server crashed since the log was begun.

=back

=cut

sub new_session
{
	my ($node, %option) = @_;
	my @user =
	  $option{user} ? (extra_params => [ '-U', $option{user} ]) : ();
	my $session = $node->background_psql($option{db} // 'postgres',
		on_error_stop => 0, @user);
	my $pid;

	$session->set_query_timer_restart();
	$session->query_safe('SET client_min_messages = error');
	$pid = $session->query_safe('SELECT pg_backend_pid()');
	return ($session, $pid);
}

sub wait_blocked
{
	my ($node, $pid, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until(
		$node,
		"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $pid",
		$name);
}

sub assert_no_crash
{
	my ($node) = @_;
	my $log = slurp_file($node->logfile);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	unlike($log, qr/terminated by signal|PANIC:|TRAP: |server process .* exited with/,
		'no process of the server crashed');
}

1;
