/* Every sleep: never early, right result, absolute ones on every clock, the woken in
 * order. */
#include "prog.h"

#include <threads.h>

static void check(
	const char *name, clockid_t clock, uint64_t since, uint64_t at_least, int r)
{
	say("%s: %d early %d", name, r, now_ns(clock) - since < at_least);
}

static void *sleeps(void *arg)
{
	struct timespec ts = {0, 12 * MS}, bad = {0, 1000000000}, past = {1, 0};
	uint64_t t = now_ns(CLOCK_MONOTONIC);

	check("usleep", CLOCK_MONOTONIC, t, 11 * MS, usleep(11000));
	t = now_ns(CLOCK_MONOTONIC);
	check("nanosleep", CLOCK_MONOTONIC, t, 12 * MS, nanosleep(&ts, NULL));
	t = now_ns(CLOCK_MONOTONIC);
	check("thrd_sleep", CLOCK_MONOTONIC, t, 12 * MS, thrd_sleep(&ts, NULL));
	t = now_ns(CLOCK_MONOTONIC);
	check("sleep", CLOCK_MONOTONIC, t, 1000 * MS, (int)sleep(1));
	static const struct {
		const char *name;
		clockid_t clock;
	} clocks[] = {
		{"MONOTONIC", CLOCK_MONOTONIC},
		{"REALTIME", CLOCK_REALTIME},
		{"BOOTTIME", CLOCK_BOOTTIME},
		{"TAI", CLOCK_TAI},
	};
	for (int i = 0; i < 4; i++) {
		t = now_ns(clocks[i].clock);
		check(clocks[i].name, clocks[i].clock, t, 12 * MS,
			clock_nanosleep(clocks[i].clock, 0, &ts, NULL));
		t = now_ns(clocks[i].clock);
		struct timespec at = to_timespec(t + 9 * MS);
		check("absolute", clocks[i].clock, t, 9 * MS,
			clock_nanosleep(clocks[i].clock, TIMER_ABSTIME, &at, NULL));
		say("in the past: %d",
			clock_nanosleep(clocks[i].clock, TIMER_ABSTIME, &past, NULL));
	}
	say("bad time: %s", RESULT(nanosleep(&bad, NULL)));
	say("bad clock: %s", err_name(clock_nanosleep(777, 0, &ts, NULL)));
	say("own CPU clock: %s",
		err_name(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &ts, NULL)));
	say("bad pointer: %s", RESULT(nanosleep((struct timespec *)bad_pointer, NULL)));
	ts = (struct timespec){0, 0};
	say("zero: %d %d %d", nanosleep(&ts, NULL), usleep(0), (int)sleep(0));
	return arg;
}

/* 500 sleepers in disorder: each one wakes at its own time or later. */
static uint64_t base;
static int early;

static void *sleeps_until(void *arg)
{
	uint64_t deadline = base + (uint64_t)(intptr_t)arg * MS / 4;
	struct timespec at = to_timespec(deadline);

	ZERO(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL));
	if (now_ns(CLOCK_MONOTONIC) < deadline)
		__atomic_fetch_add(&early, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

int main(void)
{
	pthread_t threads[500];

	on_thread(sleeps, NULL);
	base = now_ns(CLOCK_MONOTONIC) + 50 * MS;
	for (intptr_t i = 0; i < 500; i++)
		threads[i] = start_small(sleeps_until, (void *)(i * 7919 % 500), 65536);
	for (int i = 0; i < 500; i++)
		finish(threads[i]);
	say("500 sleepers, %d early, all after the last: %d", early,
		now_ns(CLOCK_MONOTONIC) >= base + 499 * MS / 4);
	return 0;
}
