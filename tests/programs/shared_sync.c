/*
 * Synchronisation between processes, through shared memory: mutex, condition variable,
 * semaphore, barrier and rwlock with threads on both sides; a robust mutex whose owner
 * ends, by exit of the thread and by SIGKILL of the process.
 */
#include "prog.h"

#include <semaphore.h>

#define THREADS 5
#define ROUNDS  200

static struct shared {
	pthread_mutex_t mutex, robust;
	pthread_cond_t cond;
	pthread_barrier_t barrier;
	pthread_rwlock_t rwlock;
	sem_t sem;
	int turn;
	long counter, rw_a, rw_b, torn;
} * shared;

static void init(void)
{
	pthread_mutexattr_t ma;
	pthread_condattr_t ca;
	pthread_barrierattr_t ba;
	pthread_rwlockattr_t ra;

	shared = shared_memory(sizeof *shared);
	ZERO(pthread_mutexattr_init(&ma));
	ZERO(pthread_mutexattr_setpshared(&ma, PTHREAD_PROCESS_SHARED));
	ZERO(pthread_mutex_init(&shared->mutex, &ma));
	ZERO(pthread_mutexattr_setrobust(&ma, PTHREAD_MUTEX_ROBUST));
	ZERO(pthread_mutex_init(&shared->robust, &ma));
	ZERO(pthread_condattr_init(&ca));
	ZERO(pthread_condattr_setpshared(&ca, PTHREAD_PROCESS_SHARED));
	ZERO(pthread_cond_init(&shared->cond, &ca));
	ZERO(pthread_barrierattr_init(&ba));
	ZERO(pthread_barrierattr_setpshared(&ba, PTHREAD_PROCESS_SHARED));
	ZERO(pthread_barrier_init(&shared->barrier, &ba, 2 * THREADS));
	ZERO(pthread_rwlockattr_init(&ra));
	ZERO(pthread_rwlockattr_setpshared(&ra, PTHREAD_PROCESS_SHARED));
	ZERO(pthread_rwlock_init(&shared->rwlock, &ra));
	OK(sem_init(&shared->sem, 1, 3));
}

static int parity; /* which process this is */

static void *works(void *arg)
{
	for (int i = 0; i < ROUNDS; i++) {
		ZERO(pthread_mutex_lock(&shared->mutex));
		shared->counter++;
		if (i % 50 == 0)
			usleep(100);
		ZERO(pthread_mutex_unlock(&shared->mutex));

		OK(sem_wait(&shared->sem));
		OK(sem_post(&shared->sem));

		if (i % 5 == 0) {
			ZERO(pthread_rwlock_wrlock(&shared->rwlock));
			shared->rw_a++;
			sched_yield();
			shared->rw_b++;
		} else {
			ZERO(pthread_rwlock_rdlock(&shared->rwlock));
			if (shared->rw_a != shared->rw_b)
				__atomic_fetch_add(&shared->torn, 1, __ATOMIC_SEQ_CST);
		}
		ZERO(pthread_rwlock_unlock(&shared->rwlock));
		if (i % 20 == 0)
			pthread_barrier_wait(&shared->barrier);
	}
	return arg;
}

/* One thread of each process in turn. */
static void *alternates(void *arg)
{
	for (int i = 0; i < ROUNDS; i++) {
		ZERO(pthread_mutex_lock(&shared->mutex));
		while (shared->turn % 2 != parity)
			ZERO(pthread_cond_wait(&shared->cond, &shared->mutex));
		shared->turn++;
		ZERO(pthread_cond_broadcast(&shared->cond));
		ZERO(pthread_mutex_unlock(&shared->mutex));
	}
	return arg;
}

static void both(void)
{
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		threads[i] = start(works, NULL);
	for (int i = 0; i < THREADS; i++)
		finish(threads[i]);
	on_thread(alternates, NULL);
}

static void *takes_robust(void *arg)
{
	ZERO(pthread_mutex_lock(&shared->robust));
	return arg;
}

__attribute__((noreturn)) static void *takes_and_exits(void *arg)
{
	takes_robust(arg);
	_exit(0);
}

__attribute__((noreturn)) static void *holds_robust(void *arg)
{
	takes_robust(arg);
	OK(write(*(int *)arg, "r", 1));
	for (;;)
		pause();
}

static void *recovers(void *arg)
{
	int err = pthread_mutex_lock(&shared->robust);

	say("%s: %s", (char *)arg, err_name(err));
	if (err == EOWNERDEAD)
		ZERO(pthread_mutex_consistent(&shared->robust));
	ZERO(pthread_mutex_unlock(&shared->robust));
	ZERO(pthread_mutex_lock(&shared->robust));
	ZERO(pthread_mutex_unlock(&shared->robust));
	return NULL;
}

int main(void)
{
	int ready[2], status;
	char c;

	init();
	pid_t pid = OK(fork());
	if (pid == 0) {
		parity = 1;
		both();
		_exit(0);
	}
	both();
	OK(waitpid(pid, &status, 0));
	say("other process: %s", describe_status(status));
	say("counter %ld, torn %ld, turns %d", shared->counter, shared->torn,
		shared->turn);

	on_thread(takes_robust, NULL);
	on_thread(recovers, (void *)"owner's thread ended");

	OK(pipe(ready));
	for (int way = 0; way < 2; way++) {
		pid = OK(fork());
		if (pid == 0) {
			start(way ? holds_robust : takes_and_exits, &ready[1]);
			for (;;)
				pause();
		}
		if (way == 1) {
			CHECK(read(ready[0], &c, 1) == 1);
			OK(kill(pid, SIGKILL));
		}
		OK(waitpid(pid, NULL, 0));
		on_thread(recovers,
			way ? (void *)"owner was killed" : (void *)"owner exited");
	}
	return 0;
}
