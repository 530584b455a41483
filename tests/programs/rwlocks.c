/* rwlocks: shared readers, exclusive writers, time-outs, writer preference. */
#include "prog.h"

static pthread_rwlock_t lock;
static pthread_barrier_t together;
static long value, copy;
static int torn;

static void *reader(void *arg)
{
	for (int i = 0; i < 300; i++) {
		ZERO(pthread_rwlock_rdlock(&lock));
		long a = value;
		if (i % 30 == 0)
			sched_yield();
		if (a != copy)
			__atomic_fetch_add(&torn, 1, __ATOMIC_SEQ_CST);
		ZERO(pthread_rwlock_unlock(&lock));
	}
	return arg;
}

static void *writer(void *arg)
{
	for (int i = 0; i < 300; i++) {
		ZERO(pthread_rwlock_wrlock(&lock));
		value++;
		if (i % 30 == 0)
			usleep(100);
		copy++;
		ZERO(pthread_rwlock_unlock(&lock));
	}
	return arg;
}

/* All of them hold it for reading at the same time, or this hangs. */
static void *reads_together(void *arg)
{
	ZERO(pthread_rwlock_rdlock(&lock));
	pthread_barrier_wait(&together);
	ZERO(pthread_rwlock_unlock(&lock));
	return arg;
}

static void *tries(void *arg)
{
	struct timespec at = to_timespec(now_ns(CLOCK_REALTIME) + 5 * MS);

	say("%s: tryrdlock %s", (char *)arg, err_name(pthread_rwlock_tryrdlock(&lock)));
	say("%s: trywrlock %s", (char *)arg, err_name(pthread_rwlock_trywrlock(&lock)));
	say("%s: timedwrlock %s", (char *)arg,
		err_name(pthread_rwlock_timedwrlock(&lock, &at)));
	at = to_timespec(now_ns(CLOCK_MONOTONIC) + 5 * MS);
	say("%s: clockrdlock %s", (char *)arg,
		err_name(pthread_rwlock_clockrdlock(&lock, CLOCK_MONOTONIC, &at)));
	return NULL;
}

int main(void)
{
	pthread_rwlockattr_t attr;
	pthread_t threads[16];

	for (int kind = 0; kind < 2; kind++) {
		ZERO(pthread_rwlockattr_init(&attr));
		if (kind)
			ZERO(pthread_rwlockattr_setkind_np(
				&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP));
		ZERO(pthread_rwlock_init(&lock, &attr));
		value = copy = 0;
		for (int i = 0; i < 16; i++)
			threads[i] = start(i % 4 ? reader : writer, NULL);
		for (int i = 0; i < 16; i++)
			finish(threads[i]);
		say("kind %d: value %ld, torn %d", kind, value, torn);

		ZERO(pthread_barrier_init(&together, NULL, 16));
		for (int i = 0; i < 16; i++)
			threads[i] = start(reads_together, NULL);
		for (int i = 0; i < 16; i++)
			finish(threads[i]);
		say("kind %d: 16 readers at once", kind);
		ZERO(pthread_barrier_destroy(&together));

		ZERO(pthread_rwlock_wrlock(&lock));
		say("wrlock of one's own %s", err_name(pthread_rwlock_wrlock(&lock)));
		on_thread(tries, (void *)"write-locked");
		ZERO(pthread_rwlock_unlock(&lock));
		ZERO(pthread_rwlock_destroy(&lock));
	}
	return 0;
}
