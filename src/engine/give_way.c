/*
 * give_way.c
 *		Others who want the processor go first.
 *
 * A job computes without end.  A client wants the processor for a moment, a few
 * times in each transaction: when its statement comes, when the disk has
 * flushed its commit.  Where no processor is free, the system lets who runs
 * finish some milliseconds before who has just woken up gets its turn.  So the
 * job offers the processor at much shorter intervals, which costs next to
 * nothing if nobody wants it.
 *
 * A lower priority would do that, too, and be in force while the job holds what
 * others wait for.
 *
 * Where no processor is ever free, the others would use up their milliseconds
 * whenever the job has worked for an instant, and it would all but stop, with
 * rows locked.  So the longer it had to wait, the longer it works then.
 */
#include "postgres.h"

#include <sched.h>

#include "portability/instr_time.h"

#include "engine/give_way.h"
#include "engine/settings.h"

/* How long to work before it is offered again, in us: a share of the time that
 * others took, and at least */
#define SHARE		10
#define SHORTEST	50

static int64
clock_us(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return INSTR_TIME_GET_MICROSEC(now);
}

void
give_way(void)
{
	static int64 next_at = 0;
	int64		left;
	int64		back;

	if (!setting_give_way)
		return;
	left = clock_us();
	if (left < next_at)
		return;
	(void) sched_yield();
	back = clock_us();
	next_at = back + Max(SHORTEST, (back - left) / SHARE);
}
