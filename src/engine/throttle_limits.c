/*
 * throttle_limits.c
 *		Each limit: what it is compared with, and what follows from that.
 *
 * Limits on the state of the server (a lag, a backlog, a VACUUM) hold the job
 * for as long as they are exceeded, and are looked at once a second.  Limits
 * on what the job itself takes are debts: the rest is as long as it takes to
 * pay them at the rate that is allowed.
 */
#include "postgres.h"

#include "pgtime.h"

#include "engine/compat.h"
#include "engine/throttle_limits.h"

/* Longer than any debt: the reason is told that cannot be paid */
#define UNTIL_IT_CHANGES	1e12

static char *
time_text(int seconds)
{
	return psprintf("%02d:%02d", seconds / 3600, seconds / 60 % 60);
}

static void
judge_window(const Scene *scene, ThrottleLimit *limit)
{
	const Throttle *t = scene->throttle;
	pg_time_t	now = (pg_time_t) time(NULL);
	struct pg_tm *tm = pg_localtime(&now, session_timezone);
	int			second = tm->tm_hour * 3600 + tm->tm_min * 60 + tm->tm_sec;
	bool		within;

	limit->current = psprintf("it is %s", time_text(second));
	if (t->not_from < 0)
		return;
	limit->limit = psprintf("%s to %s", time_text(t->not_from),
							time_text(t->not_until));
	within = t->not_from <= t->not_until
		? second >= t->not_from && second < t->not_until
		: second >= t->not_from || second < t->not_until;
	if (within)
		limit->rest_ms = UNTIL_IT_CHANGES;
}

static void
judge_lag(const Scene *scene, ThrottleLimit *limit)
{
	int			most = scene->throttle->max_replication_lag;

	if (most <= 0)
		return;
	limit->current = scene->signals->lag_ms < 0 ? pstrdup("no standby is behind")
		: psprintf("a standby is " INT64_FORMAT " ms behind", scene->signals->lag_ms);
	limit->limit = psprintf("%d ms", most);
	if (scene->signals->lag_ms > most)
		limit->rest_ms = UNTIL_IT_CHANGES;
}

/* A slot that is unreserved loses what it needs at the next checkpoint,
 * however much the limit would let it keep */
static void
judge_slot(const Scene *scene, ThrottleLimit *limit)
{
	const Signals *s = scene->signals;
	int64		most = scene->throttle->max_slot_retention;

	if (most <= 0)
		return;
	if (NameStr(s->slot)[0] == '\0')
		limit->current = pstrdup("no slot retains WAL");
	else
		limit->current = psprintf("slot \"%s\" retains " INT64_FORMAT " bytes%s",
								  NameStr(s->slot), s->slot_bytes,
								  s->slot_unreserved ? " and is unreserved" : "");
	limit->limit = psprintf(INT64_FORMAT " bytes", most);
	if (s->slot_bytes > most || s->slot_unreserved)
		limit->rest_ms = UNTIL_IT_CHANGES;
}

static void
judge_archive(const Scene *scene, ThrottleLimit *limit)
{
	int64		ready = scene->signals->archive_ready;
	int			most = scene->throttle->max_archive_backlog;

	if (most <= 0)
		return;
	limit->current = ready < 0 ? pstrdup("archive_mode is off")
		: psprintf(INT64_FORMAT " WAL segments wait for the archiver", ready);
	limit->limit = psprintf("%d", most);
	if (ready > most)
		limit->rest_ms = UNTIL_IT_CHANGES;
}

static void
judge_vacuum(const Scene *scene, ThrottleLimit *limit)
{
	const Throttle *t = scene->throttle;
	const Signals *s = scene->signals;
	double		rested = scene->facts ? scene->facts->vacuum_rested_ms : 0;

	if (!t->yield_to_vacuum)
		return;
	limit->limit = psprintf("%d s", t->max_vacuum_rest / 1000);
	if (s->vacuum_pid == 0)
	{
		limit->current = pstrdup("no VACUUM");
		return;
	}
	limit->current = psprintf("process %d vacuums %s, rested %d s for it",
							  s->vacuum_pid, s->vacuum_relation,
							  (int) (rested / 1000));
	if (rested < t->max_vacuum_rest)
		limit->rest_ms = UNTIL_IT_CHANGES;
}

static void
judge_waiters(const Scene *scene, ThrottleLimit *limit)
{
	if (scene->throttle->max_waiters < 0)
		return;
	limit->limit = psprintf("%d", scene->throttle->max_waiters);
	if (scene->facts == NULL)
		return;
	limit->current = psprintf("%d sessions waited for the last batch",
							  scene->facts->waiters);
	limit->rest_ms = scene->owed->waiters_ms;
}

static double
part(double limit, int sharers)
{
	return limit / Max(sharers, 1);
}

static int
wal_sharers(const Scene *scene)
{
	return scene->throttle->wal_rate_of_server ? scene->signals->workers
		: scene->sharers;
}

double
limit_rows_per_second(const Scene *scene)
{
	return part(scene->throttle->max_rows_per_second, scene->sharers);
}

double
limit_wal_rate(const Scene *scene)
{
	return part(scene->throttle->max_wal_rate, wal_sharers(scene));
}

/* "500 a second", or what is left of that when others share it */
static char *
rate_text(double limit, int sharers, const char *unit)
{
	return sharers > 1
		? psprintf("%.10g%s a second (%.10g shared by %d)", part(limit, sharers),
				   unit, limit, sharers)
		: psprintf("%.10g%s a second", limit, unit);
}

static void
judge_rows(const Scene *scene, ThrottleLimit *limit)
{
	double		most = scene->throttle->max_rows_per_second;

	if (scene->facts)
		limit->current = psprintf("%.0f a second", scene->facts->rows_per_second);
	if (most <= 0)
		return;
	limit->limit = rate_text(most, scene->sharers, "");
	limit->rest_ms = 1000 * scene->owed->rows / limit_rows_per_second(scene);
}

static void
judge_wal(const Scene *scene, ThrottleLimit *limit)
{
	double		most = scene->throttle->max_wal_rate;

	if (scene->facts)
		limit->current = psprintf("%.0f bytes a second", scene->facts->wal_per_second);
	if (most <= 0)
		return;
	limit->limit = rate_text(most, wal_sharers(scene), " bytes");
	limit->rest_ms = 1000 * scene->owed->wal_bytes / limit_wal_rate(scene);
}

static void
judge_nice(const Scene *scene, ThrottleLimit *limit)
{
	double		nice = scene->throttle->nice;

	if (scene->facts)
		limit->current = psprintf("the last batch took %.0f ms",
								  scene->facts->batch_ms);
	if (nice <= 0)
		return;
	limit->limit = psprintf("rest %g times as long", nice);
	limit->rest_ms = nice * scene->owed->work_ms;
}

void
limits_judge(const Scene *scene, ThrottleLimit limits[THROTTLE_LIMITS])
{
	static const struct
	{
		const char *name;
		void		(*judge) (const Scene *scene, ThrottleLimit *limit);
	}			all[THROTTLE_LIMITS] = {
		{"not_between", judge_window},
		{"max_replication_lag", judge_lag},
		{"max_slot_retention", judge_slot},
		{"max_archive_backlog", judge_archive},
		{"yield_to_vacuum", judge_vacuum},
		{"max_waiters", judge_waiters},
		{"max_rows_per_second", judge_rows},
		{"max_wal_rate", judge_wal},
		{"nice", judge_nice},
	};

	for (int i = 0; i < THROTTLE_LIMITS; i++)
	{
		limits[i] = (ThrottleLimit)
		{
			.name = all[i].name
		};
		all[i].judge(scene, &limits[i]);
	}
}

int
limits_signals(const Throttle *t)
{
	return (t->max_replication_lag > 0 ? SIGNAL_LAG : 0) |
		(t->max_slot_retention > 0 ? SIGNAL_SLOT : 0) |
		(t->max_archive_backlog > 0 ? SIGNAL_ARCHIVE : 0) |
		(t->yield_to_vacuum ? SIGNAL_VACUUM : 0) |
		(t->max_wal_rate > 0 && t->wal_rate_of_server ? SIGNAL_WORKERS : 0);
}
