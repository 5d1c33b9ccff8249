/*
 * crew_helper.c
 *		Several workers on one pass: the helper's side.
 *
 * A helper has a JobRun and a Pass of its own, made from what the leader has
 * shared.  It never claims the job, and of the job's rows it writes only its
 * share of the progress, and rows that failed.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/guc.h"

#include "engine/compat.h"
#include "engine/locks.h"
#include "engine/stop_point.h"
#include "engine/worker.h"
#include "steps/backfill.h"
#include "steps/crew.h"

StaticAssertDecl(sizeof(HelperArgs) <= BGW_EXTRALEN,
				 "arguments of a helper must fit into bgw_extra");

static bool
told_to_stop(CrewShared *shared)
{
	bool		stop;

	SpinLockAcquire(&shared->mutex);
	stop = shared->stop;
	SpinLockRelease(&shared->mutex);
	return stop;
}

static void
help_tend(JobRun *run)
{
	CrewShared *shared = run->crew->shared;

	if (told_to_stop(shared))
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("a helper of job " INT64_FORMAT " was told to stop",
						shared->job)));
	/* a function of the user's may have released it */
	lock_claim_helper(shared->job);
	run->sharers = crew_sharers(shared);
}

/* Within a transaction: what the pass needs of the rows of the job */
static void
resolve_body(JobRun *run, void *arg)
{
	Pass	   *pass = arg;
	CrewShared *shared = run->crew->shared;
	BackfillOptions options;
	Identity	saved;
	Job		   *from;

	MemoryContextSwitchTo(run->context);
	run->job = job_get(shared->job);
	run->job->attempts = shared->attempts;
	run->job->stalled = -1;		/* to set it back is the leader's */
	from = pass->source_job == shared->job ? run->job : job_get(pass->source_job);
	run_enter_owner(run, &saved);
	pass->source = source_resolve(from->arguments, run->relid);
	backfill_read_options(from->options, pass->source, &options);
	pass->orphan_value = options.orphan_value;
	identity_leave(&saved);
}

static void
take_over_bad_rows(JobRun *run, CrewShared *shared, BadRows *bad)
{
	int			count;

	SpinLockAcquire(&shared->mutex);
	count = shared->bad_count;
	bad->rows = shared->bad_rows;
	SpinLockRelease(&shared->mutex);
	for (int i = 0; i < count; i++)
		split_remember(run->context, bad, shared->bad[i]);
}

static void
help(JobRun *run, void *arg)
{
	Pass	   *pass = arg;

	run_or_error(run, resolve_body, pass);
	if (pass->bad)
		take_over_bad_rows(run, run->crew->shared, pass->bad);
	pass_open(run, pass);
	pass_work(run, pass);
}

static void
copy_text(char *to, Size size, const char *from)
{
	int			length = from ? pg_mbcliplen(from, strlen(from), size - 1) : 0;

	if (from)
		memcpy(to, from, length);
	to[length] = '\0';
}

/* The first error is written by one helper, and then said to be there */
static void
report_error(CrewShared *shared, const ErrorData *error)
{
	CrewError  *copy = &shared->error;
	bool		first;

	SpinLockAcquire(&shared->mutex);
	first = !shared->failing;
	shared->failing = true;
	SpinLockRelease(&shared->mutex);
	if (!first)
		return;
	copy->sqlerrcode = error->sqlerrcode;
	copy_text(copy->message, sizeof(copy->message), error->message);
	copy_text(copy->detail, sizeof(copy->detail), error->detail);
	copy_text(copy->hint, sizeof(copy->hint), error->hint);
	SpinLockAcquire(&shared->mutex);
	shared->failed = true;
	SpinLockRelease(&shared->mutex);
}

static JobRun *
make_run(Crew *crew)
{
	JobRun	   *run = run_new(false);

	run->helping = true;
	run->relid = crew->shared->relid;
	run->owner = crew->shared->owner;
	run->crew = crew;
	run->tend = help_tend;
	run->progress.blocks_done = -1;
	return run;
}

/* With a slot: take part in the pass until there is nothing more to take */
static void
take_part(Crew *crew, int taker)
{
	CrewShared *shared = crew->shared;
	JobRun	   *run = make_run(crew);
	BadRows		bad = {0};
	Pass		pass = shared->pass;
	ErrorData  *error;

	pass.phase = "helping";
	pass.rows = shared->by_pages ? &page_cursor : &range_cursor;
	pass.feed = (Feed *) ((char *) shared + shared->feed_offset);
	pass.taker = taker;
	pass.bad = shared->has_bad ? &bad : NULL;
	lock_claim_helper(shared->job);
	STOP_POINT("helper-working");
	error = run_catch(run, help, &pass);
	/* what comes now is not for the pass any more, and this process ends */
	HOLD_CANCEL_INTERRUPTS();
	if (error && !run->lost && !told_to_stop(shared))
		report_error(shared, error);
	lock_release_helper(shared->job);
}

void
tenantmig_helper_main(Datum arg)
{
	HelperArgs	args;
	Crew		crew = {0};
	int			slot;

	memcpy(&args, MyBgworkerEntry->bgw_extra, sizeof(args));
	worker_begin(args.database);
	crew.segment = dsm_attach(args.segment);
	/* the pass has ended meanwhile */
	if (crew.segment == NULL)
		proc_exit(0);
	dsm_pin_mapping(crew.segment);
	crew.shared = dsm_segment_address(crew.segment);
	SetConfigOption("application_name",
					psprintf("tenantmig job " INT64_FORMAT ", helper %d",
							 crew.shared->job, args.taker),
					PGC_USERSET, PGC_S_SESSION);
	slot = lock_claim_slot();
	if (slot < 0)
		(void) crew_set_state(crew.shared, args.taker, CREW_NO_SLOT);
	else if (crew_set_state(crew.shared, args.taker, CREW_WORKING))
	{
		take_part(&crew, args.taker);
		lock_release_slot(slot);
		(void) crew_set_state(crew.shared, args.taker, CREW_DONE);
	}
	SetLatch(crew.shared->leader);
	dsm_detach(crew.segment);
	/* jobs that waited for the place */
	(void) worker_start_ready(false);
	proc_exit(0);
}
