/*
 * time.c - the front door for sleeping: libc keeps the arithmetic, the remaining
 * time and the cancellation; its clock_nanosleep site parks. Yielding needs none
 * of that.
 */
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include "enter.h"
#include "real.h"

WEFT_EXPORT unsigned sleep(unsigned seconds)
{
	return WEFT_REAL(sleep)(seconds);
}

WEFT_EXPORT int usleep(useconds_t us)
{
	return WEFT_REAL(usleep)(us);
}

WEFT_EXPORT int nanosleep(const struct timespec *t, struct timespec *left)
{
	return WEFT_REAL(nanosleep)(t, left);
}

WEFT_EXPORT int clock_nanosleep(
	clockid_t clock, int flags, const struct timespec *t, struct timespec *left)
{
	return WEFT_REAL(clock_nanosleep)(clock, flags, t, left);
}

WEFT_EXPORT int sched_yield(void)
{
	struct fiber *f = weft_enter_fiber();

	if (!f)
		return WEFT_REAL(sched_yield)();
	weft_fiber_in_weft(f, true);
	weft_fiber_set_vector_live(f, false);
	weft_yield();
	weft_leave(f);
	return 0;
}
