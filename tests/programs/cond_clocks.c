/* Condition variables: all clocks, time-outs never early, no wake-up lost. */
#include "prog.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond;

static void init(clockid_t clock)
{
	pthread_condattr_t attr;

	ZERO(pthread_condattr_init(&attr));
	ZERO(pthread_condattr_setclock(&attr, clock));
	ZERO(pthread_cond_init(&cond, &attr));
	ZERO(pthread_condattr_destroy(&attr));
}

static void *times_out(void *arg)
{
	clockid_t clock = (clockid_t)(intptr_t)arg;
	struct timespec past = {1, 0}, bad = {1, 1000000000}, at;
	uint64_t deadline = now_ns(clock) + 20 * MS;
	int err = 0;

	at = to_timespec(deadline);
	ZERO(pthread_mutex_lock(&lock));
	while (err == 0) /* spurious wake-ups are allowed */
		err = pthread_cond_timedwait(&cond, &lock, &at);
	say("timedwait %s, early: %d", err_name(err), now_ns(clock) < deadline);
	say("in the past %s", err_name(pthread_cond_timedwait(&cond, &lock, &past)));
	say("bad time %s", err_name(pthread_cond_timedwait(&cond, &lock, &bad)));
	deadline = now_ns(CLOCK_MONOTONIC) + 20 * MS;
	at = to_timespec(deadline);
	err = 0;
	while (err == 0)
		err = pthread_cond_clockwait(&cond, &lock, CLOCK_MONOTONIC, &at);
	say("clockwait %s, early: %d", err_name(err), now_ns(CLOCK_MONOTONIC) < deadline);
	ZERO(pthread_mutex_unlock(&lock));
	return NULL;
}

static int waiting, woken, tickets;

static void *takes_ticket(void *arg)
{
	struct timespec at = to_timespec(now_ns(CLOCK_MONOTONIC) + 60000 * MS);

	ZERO(pthread_mutex_lock(&lock));
	waiting++;
	while (!tickets) {
		if ((intptr_t)arg % 2)
			ZERO(pthread_cond_timedwait(&cond, &lock, &at));
		else
			ZERO(pthread_cond_wait(&cond, &lock));
	}
	tickets--;
	woken++;
	ZERO(pthread_mutex_unlock(&lock));
	return NULL;
}

static void wait_waiting(int n)
{
	ZERO(pthread_mutex_lock(&lock));
	while (waiting < n) {
		ZERO(pthread_mutex_unlock(&lock));
		usleep(1000);
		ZERO(pthread_mutex_lock(&lock));
	}
	ZERO(pthread_mutex_unlock(&lock));
}

int main(void)
{
	pthread_t threads[100];

	init(CLOCK_REALTIME);
	on_thread(times_out, (void *)(intptr_t)CLOCK_REALTIME);
	ZERO(pthread_cond_destroy(&cond));
	init(CLOCK_MONOTONIC);
	on_thread(times_out, (void *)(intptr_t)CLOCK_MONOTONIC);

	for (intptr_t i = 0; i < 100; i++)
		threads[i] = start(takes_ticket, (void *)i);
	wait_waiting(100);
	for (int i = 0; i < 50; i++) { /* one by one … */
		ZERO(pthread_mutex_lock(&lock));
		tickets++;
		ZERO(pthread_cond_signal(&cond));
		ZERO(pthread_mutex_unlock(&lock));
	}
	ZERO(pthread_mutex_lock(&lock)); /* … and all the others */
	tickets += 50;
	ZERO(pthread_cond_broadcast(&cond));
	ZERO(pthread_mutex_unlock(&lock));
	for (int i = 0; i < 100; i++)
		finish(threads[i]);
	say("woken %d, tickets left %d", woken, tickets);
	/* destroy waits for the woken to have left */
	ZERO(pthread_cond_destroy(&cond));
	return 0;
}
