/*
 * crew.c
 *		Several workers on one pass: the leader's side.
 *
 * The claim on the job, its phases, its end and its progress row are the
 * leader's.  A helper is a background worker for one pass.  It takes pieces of
 * the feed, does batches under the same rules and as the same owner, and each
 * batch adds its share to the progress row, in its own transaction, with the
 * checkpoint: the place before which all that was taken is done.
 *
 * Ends.  A helper that finds nothing more to take says that it is done.  One
 * that fails leaves its error, and the leader raises it as its own.  One that is
 * sent away (pg_terminate_backend) leaves what it held to the others, and no
 * other takes its place.  When the leader ends the pass, for whatever reason
 * (pause, cancel, an error), it says stop, interrupts those that are in the
 * midst of a batch, and waits until none of them is at work; when it is sent
 * away itself, it sends away its helpers first.  If a process is killed, the
 * server takes down all, and the job goes on from the checkpoint.
 *
 * Places.  A helper needs one of tenantmig.max_workers, like any job.  If there
 * is none, the pass begins without, and the leader asks again from time to time.
 *
 * The horizon.  The transaction of one worker keeps the row versions that
 * another has just replaced from being pruned.  So page cycling lets a chunk
 * rest until all transactions that overlapped its last lap are over, and each
 * worker has some chunks to choose from (pages.c).
 */
#include "postgres.h"

#include <signal.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "engine/compat.h"
#include "engine/locks.h"
#include "engine/settings.h"
#include "steps/crew.h"

/* Less is not worth a helper; and a worker should come back for more at least so
 * many times, or one has nothing to do while the last one ends */
#define HELPER_BLOCKS	128
#define FAIR_PIECES		8

#define MOST_BAD		65536

/* How long until helpers are asked for again, and one look at them, in ms */
#define TRY_EVERY		5000
#define LOOK_EVERY		100

/* The crew to send away when this process is */
static Crew *leading = NULL;

/* --- shared ----------------------------------------------------------- */

CrewState
crew_state(CrewShared *shared, int taker)
{
	CrewState	state;

	SpinLockAcquire(&shared->mutex);
	state = shared->states[taker];
	SpinLockRelease(&shared->mutex);
	return state;
}

bool
crew_set_state(CrewShared *shared, int taker, CrewState state)
{
	bool		refused;

	SpinLockAcquire(&shared->mutex);
	refused = state == CREW_WORKING && shared->stop;
	shared->states[taker] = refused ? CREW_DONE : state;
	SpinLockRelease(&shared->mutex);
	return !refused;
}

int
crew_sharers(CrewShared *shared)
{
	int			count = 0;

	SpinLockAcquire(&shared->mutex);
	for (int i = 0; i < FEED_MOST_TAKERS; i++)
		count += shared->states[i] == CREW_WORKING;
	SpinLockRelease(&shared->mutex);
	return Max(count, 1);
}

static bool
helpers_at_work(CrewShared *shared)
{
	for (int i = 1; i < FEED_MOST_TAKERS; i++)
		if (crew_state(shared, i) == CREW_WORKING)
			return true;
	return false;
}

void
crew_add_batch(JobRun *run, Pass *pass)
{
	Crew	   *crew = run->crew;

	if (crew == NULL)
		return;
	for (int i = 0; i < lengthof(crew->told); i++)
	{
		(void) pg_atomic_fetch_add_u64(&crew->shared->counted[i],
									   pass->counted[i] - crew->told[i]);
		crew->told[i] = pass->counted[i];
	}
	if (!pass->passed_over)
		return;
	SpinLockAcquire(&crew->shared->mutex);
	crew->shared->passed_over = true;
	SpinLockRelease(&crew->shared->mutex);
}

/* If the list is full, the place is found out once more in a later pass */
void
crew_add_bad_row(JobRun *run, Pass *pass, BadRow row, bool is_new)
{
	CrewShared *shared = run->crew ? run->crew->shared : NULL;

	if (shared == NULL)
		return;
	SpinLockAcquire(&shared->mutex);
	if (shared->bad_count < shared->bad_room)
		shared->bad[shared->bad_count++] = row;
	if (is_new)
		shared->bad_rows++;
	pass->bad->rows = shared->bad_rows;
	SpinLockRelease(&shared->mutex);
}

/* --- the segment ------------------------------------------------------ */

static int
bad_room(const Pass *pass)
{
	return pass->bad == NULL ? 0
		: pass->bad->count + (int) Min(pass->max_errors + 1, MOST_BAD);
}

/* What a helper needs of the pass; the rest is this process's own */
static Pass
portable(const JobRun *run, const Pass *pass)
{
	return (Pass)
	{
		.what = pass->what,.only_so = pass->only_so,
			.resumable = pass->resumable,.count_rows = pass->count_rows,
			.totals = pass->totals,
			.limited = pass->limited,.max_errors = pass->max_errors,
			.triggers_off = pass->triggers_off,.sets = pass->sets,
			.source_job = pass->source_job ? pass->source_job : run->job->id
	};
}

static void
fill_shared(CrewShared *shared, const JobRun *run, const Pass *pass,
			Size feed_offset)
{
	memset(shared, 0, feed_offset);
	shared->job = run->job->id;
	shared->attempts = run->job->attempts;
	shared->relid = run->relid;
	shared->owner = run->owner;
	shared->leader = MyLatch;
	shared->pass = portable(run, pass);
	shared->by_pages = pass->rows == &page_cursor;
	shared->has_bad = pass->bad != NULL;
	shared->feed_offset = feed_offset;
	for (int i = 0; i < lengthof(shared->counted); i++)
		pg_atomic_init_u64(&shared->counted[i], 0);
	SpinLockInit(&shared->mutex);
	shared->states[0] = CREW_WORKING;
	shared->bad_room = bad_room(pass);
	if (pass->bad == NULL)
		return;
	shared->bad_rows = pass->bad->rows;
	shared->bad_count = pass->bad->count;
	if (pass->bad->count > 0)
		memcpy(shared->bad, pass->bad->list, sizeof(BadRow) * pass->bad->count);
}

Feed *
crew_make(JobRun *run, Pass *pass, Size size)
{
	Crew	   *crew = MemoryContextAllocZero(run->context, sizeof(Crew));
	Size		feed_offset = MAXALIGN(offsetof(CrewShared, bad) +
									   sizeof(BadRow) * bad_room(pass));

	crew->segment = dsm_create(feed_offset + size, 0);
	dsm_pin_mapping(crew->segment);
	crew->shared = dsm_segment_address(crew->segment);
	fill_shared(crew->shared, run, pass, feed_offset);
	run->crew = crew;
	return (Feed *) ((char *) crew->shared + feed_offset);
}

/* --- helpers ---------------------------------------------------------- */

/* Why there are fewer workers than were asked for, NULL when there are not */
static void
set_reason(JobRun *run, const char *reason)
{
	char	   *old = run->progress.workers_reason;
	bool		same = old && reason ? strcmp(old, reason) == 0
		: old == NULL && reason == NULL;

	if (same)
		return;
	run->progress.workers_reason =
		reason ? MemoryContextStrdup(run->context, reason) : NULL;
	if (old)
		pfree(old);
	if (reason)
		ereport(LOG,
				(errmsg("job " INT64_FORMAT " works with fewer workers than were asked for: %s",
						run->job->id, reason)));
}

static void
say_no_place(JobRun *run)
{
	set_reason(run, psprintf("all of tenantmig.max_workers (%d) are at work",
							 setting_max_workers));
}

static bool
start_helper(JobRun *run, Crew *crew, int taker)
{
	BackgroundWorker worker;
	HelperArgs	args = {MyDatabaseId, dsm_segment_handle(crew->segment), taker};
	MemoryContext context;
	bool		started;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "tenantmig");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name),
			 "tenantmig_helper_main");
	snprintf(worker.bgw_name, BGW_MAXLEN, "tenantmig helper %d of job " INT64_FORMAT,
			 taker, run->job->id);
	snprintf(worker.bgw_type, BGW_MAXLEN, "tenantmig worker");
	memcpy(worker.bgw_extra, &args, sizeof(args));
	(void) crew_set_state(crew->shared, taker, CREW_STARTING);
	context = MemoryContextSwitchTo(run->context);
	started = RegisterDynamicBackgroundWorker(&worker, &crew->handles[taker]);
	MemoryContextSwitchTo(context);
	if (!started)
	{
		crew->handles[taker] = NULL;
		(void) crew_set_state(crew->shared, taker, CREW_FREE);
	}
	return started;
}

static int
helper_count(const Crew *crew)
{
	int			count = 0;

	for (int i = 1; i < FEED_MOST_TAKERS; i++)
		count += crew->handles[i] != NULL;
	return count;
}

/* As many as are missing, if there is a place for them */
static void
start_helpers(JobRun *run, Crew *crew)
{
	int			places = setting_max_workers - lock_slots_taken();

	crew->tried_at = GetCurrentTimestamp();
	for (int i = 1; i < FEED_MOST_TAKERS && helper_count(crew) + 1 < crew->wanted; i++)
	{
		if (crew->handles[i] != NULL || crew->gone[i])
			continue;
		if (places-- <= 0)
		{
			say_no_place(run);
			return;
		}
		if (!start_helper(run, crew, i))
		{
			set_reason(run, "no free worker slot (max_worker_processes)");
			return;
		}
	}
}

static void
helper_is_gone(JobRun *run, Crew *crew, int taker)
{
	crew->gone[taker] = true;
	crew->wanted--;
	(void) crew_set_state(crew->shared, taker, CREW_FREE);
	set_reason(run, "a helper was terminated, and the others do what it had begun");
}

/* What has become of it; the handle goes when it works no more */
static void
look_at_helper(JobRun *run, Pass *pass, int taker)
{
	Crew	   *crew = run->crew;
	pid_t		pid;
	BgwHandleStatus status = GetBackgroundWorkerPid(crew->handles[taker], &pid);
	CrewState	state = crew_state(crew->shared, taker);

	if (status != BGWH_STOPPED && (state == CREW_STARTING || state == CREW_WORKING))
		return;
	if (state == CREW_NO_SLOT)
		say_no_place(run);
	else if (state != CREW_DONE)
		helper_is_gone(run, crew, taker);
	if (state == CREW_DONE || state == CREW_WORKING)
		feed_give_back(pass->feed, taker);
	pfree(crew->handles[taker]);
	crew->handles[taker] = NULL;
}

static void
raise_error(const CrewError *error)
{
	ereport(ERROR,
			(errcode(error->sqlerrcode),
			 errmsg_internal("%s", error->message),
			 error->detail[0] ? errdetail_internal("%s", error->detail) : 0,
			 error->hint[0] ? errhint("%s", error->hint) : 0));
}

/* --- the leader ------------------------------------------------------- */

/* The pass that run->tend looks after */
static Pass *led_pass = NULL;

static void
lead_tend(JobRun *run)
{
	Crew	   *crew = run->crew;
	CrewShared *shared = crew->shared;
	bool		failed;

	for (int i = 1; i < FEED_MOST_TAKERS; i++)
		if (crew->handles[i])
			look_at_helper(run, led_pass, i);
	SpinLockAcquire(&shared->mutex);
	failed = shared->failed;
	SpinLockRelease(&shared->mutex);
	if (failed)
		raise_error(&shared->error);
	if (helper_count(crew) + 1 < crew->wanted && feed_has_more(led_pass->feed) &&
		TimestampDifferenceExceeds(crew->tried_at, GetCurrentTimestamp(), TRY_EVERY))
		start_helpers(run, crew);
	if (helper_count(crew) + 1 >= crew->wanted && crew->wanted == led_pass->workers)
		set_reason(run, NULL);
	run->sharers = crew_sharers(shared);
	run->most_sharers = Max(run->most_sharers, run->sharers);
}

/* How many workers there is something to do for */
static int
useful_workers(JobRun *run, Pass *pass)
{
	FeedProgress feed = feed_progress(pass->feed);
	int64		blocks = feed.blocks_total - feed.blocks_done;
	int64		most = pass->sets == ROWS_WHOLE ? feed.leaves_total - feed.leaves_done
		: 1 + blocks / HELPER_BLOCKS;

	if (most >= pass->workers)
		return pass->workers;
	if (pass->count_rows)
		set_reason(run, "the table is small");
	return (int) Max(most, 1);
}

static void
lead(JobRun *run, void *arg)
{
	Pass	   *pass = arg;
	Crew	   *crew = run->crew;

	crew->wanted = useful_workers(run, pass);
	if (pass->sets != ROWS_WHOLE)
	{
		FeedProgress feed = feed_progress(pass->feed);

		feed_cut(pass->feed, (double) (feed.blocks_total - feed.blocks_done) /
				 (crew->wanted * FAIR_PIECES));
	}
	start_helpers(run, crew);
	for (;;)
	{
		(void) crew_set_state(crew->shared, 0, CREW_WORKING);
		pass_work(run, pass);
		(void) crew_set_state(crew->shared, 0, CREW_DONE);
		while (helpers_at_work(crew->shared) && !feed_has_returned(pass->feed))
			run_rest(run, LOOK_EVERY, "waiting for the other workers of the job");
		lead_tend(run);
		if (!feed_has_returned(pass->feed))
			break;
	}
	run_forget_throttle(run);
}

static void
say_stop(CrewShared *shared)
{
	SpinLockAcquire(&shared->mutex);
	shared->stop = true;
	SpinLockRelease(&shared->mutex);
}

/* Nobody takes up work from here on; wait for those who are at it.  Their
 * batches are not worth waiting for. */
static void
dismiss(Crew *crew)
{
	say_stop(crew->shared);
	HOLD_CANCEL_INTERRUPTS();
	for (int i = 1; i < FEED_MOST_TAKERS; i++)
	{
		pid_t		pid;
		BgwHandleStatus status;

		if (crew->handles[i] == NULL)
			continue;
		while ((status = GetBackgroundWorkerPid(crew->handles[i], &pid)) != BGWH_STOPPED &&
			   crew_state(crew->shared, i) == CREW_WORKING)
		{
			if (status == BGWH_STARTED)
				kill(pid, SIGINT);
			(void) WaitLatch(MyLatch,
							 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 LOOK_EVERY, PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
		pfree(crew->handles[i]);
		crew->handles[i] = NULL;
	}
	RESUME_CANCEL_INTERRUPTS();
}

/* Sent away in the midst of a pass */
static void
leave_crew(int code, Datum arg)
{
	if (leading == NULL)
		return;
	say_stop(leading->shared);
	for (int i = 1; i < FEED_MOST_TAKERS; i++)
		if (leading->handles[i])
			TerminateBackgroundWorker(leading->handles[i]);
	leading = NULL;
}

static void
take_sums(JobRun *run, Pass *pass, const CrewShared *shared)
{
	pass->updated = feed_progress(pass->feed).rows;
	pass->passed_over = pass->passed_over || shared->passed_over;
	for (int i = 0; i < lengthof(pass->counted); i++)
		pass->counted[i] = (int64) pg_atomic_read_u64(unconstify(pg_atomic_uint64 *,
																  &shared->counted[i]));
	if (pass->bad == NULL)
		return;
	pass->bad->count = 0;
	for (int i = 0; i < shared->bad_count; i++)
		split_remember(run->context, pass->bad, shared->bad[i]);
	pass->bad->rows = shared->bad_rows;
}

static void
read_sums_body(JobRun *run, void *arg)
{
	run_read_sums(run);
}

void
crew_work(JobRun *run, Pass *pass)
{
	static bool registered = false;
	Crew	   *crew = run->crew;
	ErrorData  *error;

	if (!registered)
		before_shmem_exit(leave_crew, 0);
	registered = true;
	leading = crew;
	led_pass = pass;
	run->tend = lead_tend;
	error = run_catch(run, lead, pass);
	run->tend = NULL;
	dismiss(crew);
	take_sums(run, pass, crew->shared);
	leading = NULL;
	led_pass = NULL;
	run->crew = NULL;
	run->sharers = 0;
	dsm_detach(crew->segment);
	pfree(crew);
	if (error)
		ReThrowError(error);
	/* what helpers have added since */
	run_or_error(run, read_sums_body, NULL);
}
