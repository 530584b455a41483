/* Joins that race with the end of the joined; try, timed and clock joins; late detach. */
#include "prog.h"

static void *ends_at_once(void *arg)
{
	return arg;
}

static void *ends_soon(void *arg)
{
	sched_yield();
	return arg;
}

static pthread_t target;
static int fds[2];

static void *joins(void *arg)
{
	(void)arg;
	return finish(target);
}

static void *waits(void *arg)
{
	char c;

	CHECK(read(fds[0], &c, 1) == 1);
	return arg;
}

int main(void)
{
	struct timespec at;
	pthread_t t;
	void *value;
	long sum = 0;

	for (intptr_t i = 0; i < 3000; i++)
		sum += (intptr_t)on_thread(i % 2 ? ends_soon : ends_at_once, (void *)i);
	say("3000 joins, sum %ld", sum);

	for (intptr_t i = 0; i < 300; i++) { /* joined by another thread */
		target = start(ends_soon, (void *)i);
		CHECK(on_thread(joins, NULL) == (void *)i);
	}
	say("300 joins by others");

	for (intptr_t i = 0; i < 300; i++) { /* detach races with the end */
		t = start(ends_at_once, NULL);
		ZERO(pthread_detach(t));
	}
	say("300 detaches");

	OK(pipe(fds));
	t = start(waits, (void *)9);
	say("tryjoin of one that lives: %s", err_name(pthread_tryjoin_np(t, &value)));
	at = to_timespec(now_ns(CLOCK_REALTIME) + 10 * MS);
	say("timedjoin: %s", err_name(pthread_timedjoin_np(t, &value, &at)));
	at = to_timespec(now_ns(CLOCK_MONOTONIC) + 10 * MS);
	say("clockjoin: %s",
		err_name(pthread_clockjoin_np(t, &value, CLOCK_MONOTONIC, &at)));
	OK(write(fds[1], "x", 1));
	at = to_timespec(now_ns(CLOCK_REALTIME) + 60000 * MS);
	ZERO(pthread_timedjoin_np(t, &value, &at));
	say("value %ld", (long)(intptr_t)value);

	t = start(ends_at_once, (void *)4);
	while (pthread_tryjoin_np(t, &value) == EBUSY)
		usleep(100);
	say("tryjoin in the end: %ld", (long)(intptr_t)value);
	return 0;
}
