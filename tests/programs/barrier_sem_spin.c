/* Barriers, semaphores and spin locks under contention. */
#include "prog.h"

#include <semaphore.h>

#define THREADS 20
#define ROUNDS  100

static pthread_barrier_t barrier;
static pthread_spinlock_t spin;
static sem_t sem, mutex_sem;
static int round_of[THREADS], serials, errors;
static long counter, spun;

static void *meets(void *arg)
{
	int id = (int)(intptr_t)arg;

	for (int i = 0; i < ROUNDS; i++) {
		__atomic_store_n(&round_of[id], i, __ATOMIC_SEQ_CST);
		int r = pthread_barrier_wait(&barrier);

		if (r == PTHREAD_BARRIER_SERIAL_THREAD)
			__atomic_fetch_add(&serials, 1, __ATOMIC_SEQ_CST);
		else
			ZERO(r);
		/* nobody is behind, and nobody more than one ahead */
		for (int k = 0; k < THREADS; k++) {
			int seen = __atomic_load_n(&round_of[k], __ATOMIC_SEQ_CST);

			if (seen < i || seen > i + 1)
				__atomic_fetch_add(&errors, 1, __ATOMIC_SEQ_CST);
		}
	}
	return NULL;
}

static void *counts(void *arg)
{
	for (int i = 0; i < ROUNDS; i++) {
		OK(sem_wait(&mutex_sem));
		long seen = counter;
		if (i % 10 == 0)
			sched_yield();
		counter = seen + 1;
		OK(sem_post(&mutex_sem));
		ZERO(pthread_spin_lock(&spin));
		spun++;
		ZERO(pthread_spin_unlock(&spin));
	}
	OK(sem_post(&sem));
	return arg;
}

static void *waits_sem(void *arg)
{
	struct timespec at;
	uint64_t deadline;
	int value;

	say("trywait: %s", RESULT(sem_trywait(&sem)));
	deadline = now_ns(CLOCK_REALTIME) + 10 * MS;
	at = to_timespec(deadline);
	int r = sem_timedwait(&sem, &at);
	say("timedwait: %d %s, early: %d", r, err_name(errno),
		now_ns(CLOCK_REALTIME) < deadline);
	deadline = now_ns(CLOCK_MONOTONIC) + 10 * MS;
	at = to_timespec(deadline);
	r = sem_clockwait(&sem, CLOCK_MONOTONIC, &at);
	say("clockwait: %d %s, early: %d", r, err_name(errno),
		now_ns(CLOCK_MONOTONIC) < deadline);
	OK(sem_getvalue(&sem, &value));
	say("value %d", value);
	return arg;
}

int main(void)
{
	pthread_t threads[THREADS];

	ZERO(pthread_barrier_init(&barrier, NULL, THREADS));
	ZERO(pthread_spin_init(&spin, PTHREAD_PROCESS_PRIVATE));
	OK(sem_init(&sem, 0, 0));
	OK(sem_init(&mutex_sem, 0, 1));
	say("barrier of none: %s",
		err_name(pthread_barrier_init(&(pthread_barrier_t){0}, NULL, 0)));
	for (intptr_t i = 0; i < THREADS; i++)
		threads[i] = start(meets, (void *)i);
	for (int i = 0; i < THREADS; i++)
		finish(threads[i]);
	say("barrier: %d serial threads, %d errors", serials, errors);
	ZERO(pthread_barrier_destroy(&barrier));

	on_thread(waits_sem, NULL);
	for (int i = 0; i < THREADS; i++)
		threads[i] = start(counts, NULL);
	for (int i = 0; i < THREADS; i++)
		OK(sem_wait(&sem));
	say("counter %ld, spun %ld", counter, spun);
	for (int i = 0; i < THREADS; i++)
		finish(threads[i]);
	return 0;
}
