/*
 * Robust and priority-inheritance mutexes that processes share, as LMDB uses them. A
 * child whose threads take and release them is killed at a random moment, with SIGKILL,
 * again and again; nobody may wait for a dead owner, and what a mutex guards may be torn
 * only where EOWNERDEAD says so. Then what a thread may do while it holds one: wait on a
 * condition variable, be cancelled there, hold other kinds of mutexes across it.
 */
#include "prog.h"

#define MUTEXES 4
#define THREADS 12
#define KILLS   8

static struct shared {
	struct {
		pthread_mutex_t mutex;
		long a, b;
	} guarded[MUTEXES];
	pthread_mutex_t inherits;
	pthread_cond_t cond;
	long count;
	int go;
} * shared;

static void init(void)
{
	pthread_mutexattr_t ma;
	pthread_condattr_t ca;

	shared = shared_memory(sizeof *shared);
	ZERO(pthread_mutexattr_init(&ma));
	ZERO(pthread_mutexattr_setpshared(&ma, PTHREAD_PROCESS_SHARED));
	ZERO(pthread_mutexattr_setprotocol(&ma, PTHREAD_PRIO_INHERIT));
	ZERO(pthread_mutex_init(&shared->inherits, &ma));
	ZERO(pthread_mutexattr_setprotocol(&ma, PTHREAD_PRIO_NONE));
	ZERO(pthread_mutexattr_setrobust(&ma, PTHREAD_MUTEX_ROBUST));
	for (int i = 0; i < MUTEXES; i++)
		ZERO(pthread_mutex_init(&shared->guarded[i].mutex, &ma));
	ZERO(pthread_condattr_init(&ca));
	ZERO(pthread_condattr_setpshared(&ca, PTHREAD_PROCESS_SHARED));
	ZERO(pthread_cond_init(&shared->cond, &ca));
}

/* Returns whether the owner died; anything but a whole pair needs that excuse. */
static int lock(int i)
{
	int err = pthread_mutex_lock(&shared->guarded[i].mutex);

	if (err == EOWNERDEAD) {
		shared->guarded[i].b = shared->guarded[i].a;
		ZERO(pthread_mutex_consistent(&shared->guarded[i].mutex));
		return 1;
	}
	ZERO(err);
	CHECK(shared->guarded[i].a == shared->guarded[i].b);
	return 0;
}

static void change(int i, bool slowly)
{
	shared->guarded[i].a++;
	if (slowly)
		usleep(50);
	shared->guarded[i].b++;
	ZERO(pthread_mutex_unlock(&shared->guarded[i].mutex));
}

/* Two at a time, in order. */
static void *works(void *arg)
{
	unsigned x = (unsigned)(uintptr_t)arg * 2654435761u;
	bool forever = (uintptr_t)arg & 0x100;

	for (int n = 0; forever || n < 60; n++) {
		x = x * 1103515245 + 12345;
		int i = (int)(x >> 16) % MUTEXES, k = (int)(x >> 20) % MUTEXES;

		lock(i < k ? i : k);
		if (i != k) {
			lock(i < k ? k : i);
			change(i < k ? k : i, x & 1);
		}
		change(i < k ? i : k, x & 2);
	}
	return NULL;
}

__attribute__((noreturn)) static void is_killed(void)
{
	for (uintptr_t i = 0; i < THREADS; i++)
		start(works, (void *)(0x100 + i));
	for (;;)
		pause();
}

static void *inherits(void *arg)
{
	for (int n = 0; n < 200; n++) {
		ZERO(pthread_mutex_lock(&shared->inherits));
		long was = shared->count;

		if (n % 20 == 0)
			usleep(20);
		shared->count = was + 1;
		ZERO(pthread_mutex_unlock(&shared->inherits));
	}
	return arg;
}

static void both_inherit(void)
{
	pthread_t threads[THREADS];
	int status;
	pid_t pid = OK(fork());

	for (int i = 0; i < THREADS; i++)
		threads[i] = start(inherits, NULL);
	inherits(NULL);
	for (int i = 0; i < THREADS; i++)
		finish(threads[i]);
	if (pid == 0)
		_exit(0);
	OK(waitpid(pid, &status, 0));
	say("priority inheritance: %s, count %ld", describe_status(status),
		shared->count);
}

static void *waits(void *arg)
{
	lock(0);
	while (!shared->go)
		ZERO(pthread_cond_wait(&shared->cond, &shared->guarded[0].mutex));
	ZERO(pthread_mutex_unlock(&shared->guarded[0].mutex));
	return arg;
}

static void give_back(void *mutex)
{
	ZERO(pthread_mutex_unlock(mutex));
}

static void *waits_for_ever(void *arg)
{
	lock(1);
	pthread_cleanup_push(give_back, &shared->guarded[1].mutex);
	for (;;)
		pthread_cond_wait(&shared->cond, &shared->guarded[1].mutex);
	pthread_cleanup_pop(1);
	return arg;
}

/* Other locks know their owner too, before, during and after. */
static void *holds_others(void *arg)
{
	pthread_mutex_t checks, recursive;
	pthread_rwlock_t rw = PTHREAD_RWLOCK_INITIALIZER;
	pthread_mutexattr_t ma;
	int *bad = arg;

	ZERO(pthread_mutexattr_init(&ma));
	ZERO(pthread_mutexattr_settype(&ma, PTHREAD_MUTEX_ERRORCHECK));
	ZERO(pthread_mutex_init(&checks, &ma));
	ZERO(pthread_mutexattr_settype(&ma, PTHREAD_MUTEX_RECURSIVE));
	ZERO(pthread_mutex_init(&recursive, &ma));
	*bad += pthread_mutex_lock(&recursive) != 0;
	*bad += pthread_rwlock_wrlock(&rw) != 0;
	lock(2);
	*bad += pthread_mutex_lock(&checks) != 0;
	*bad += pthread_mutex_lock(&recursive) != 0;
	*bad += pthread_mutex_lock(&checks) != EDEADLK;
	ZERO(pthread_mutex_unlock(&shared->guarded[2].mutex));
	*bad += pthread_mutex_lock(&checks) != EDEADLK;
	*bad += pthread_mutex_unlock(&checks) != 0;
	*bad += pthread_mutex_unlock(&recursive) != 0;
	*bad += pthread_mutex_unlock(&recursive) != 0;
	*bad += pthread_rwlock_unlock(&rw) != 0;
	*bad += pthread_rwlock_trywrlock(&rw) != 0;
	*bad += pthread_mutex_unlock(&shared->guarded[2].mutex) != EPERM;
	return NULL;
}

int main(void)
{
	pthread_t threads[THREADS];
	int dead = 0, bad = 0;

	init();
	for (int n = 0; n < KILLS; n++) {
		pid_t pid = OK(fork());

		if (pid == 0)
			is_killed();
		usleep((useconds_t)(2000 + random_number() % 15000));
		OK(kill(pid, SIGKILL));
		OK(waitpid(pid, NULL, 0));
		for (uintptr_t i = 0; i < THREADS; i++)
			threads[i] = start(works, (void *)i);
		for (int i = 0; i < THREADS; i++)
			finish(threads[i]);
		for (int i = 0; i < MUTEXES; i++) {
			dead += lock(i);
			ZERO(pthread_mutex_unlock(&shared->guarded[i].mutex));
		}
	}
	say("%d killed; left behind: %d", KILLS, dead);
	both_inherit();

	for (int i = 0; i < THREADS; i++)
		threads[i] = start(waits, NULL);
	usleep(5000);
	lock(0);
	shared->go = 1;
	ZERO(pthread_cond_broadcast(&shared->cond));
	ZERO(pthread_mutex_unlock(&shared->guarded[0].mutex));
	for (int i = 0; i < THREADS; i++)
		finish(threads[i]);
	say("waiters woken");
	for (int i = 0; i < THREADS; i++)
		threads[i] = start(waits_for_ever, NULL);
	usleep(5000);
	for (int i = 0; i < THREADS; i++)
		ZERO(pthread_cancel(threads[i]));
	for (int i = 0; i < THREADS; i++)
		CHECK(finish(threads[i]) == PTHREAD_CANCELED);
	lock(1);
	change(1, false);
	say("waiters cancelled");
	for (int i = 0; i < 3; i++)
		on_thread(holds_others, &bad);
	say("other locks: %d wrong", bad);
	return 0;
}
