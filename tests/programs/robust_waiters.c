/*
 * Waiters for a robust mutex that are killed with a wake-up in hand: whoever unlocks
 * wakes one of them, and when that one dies first, it is the kernel that wakes another. A
 * child's threads wait, then one of ours; the child is killed and the mutex given back at
 * about the same time. What the first thread locked before there was another one, and
 * beside others: when it dies, and when it does not. Then what a signal does to such a
 * wait, and to one for a mutex that inherits priorities: the handler runs while it lasts,
 * knows its thread by its other locks, and the wait goes on, or is left by a jump.
 */
#include "prog.h"

#include <setjmp.h>

#define WAITERS 6
#define ROUNDS  60

static struct shared {
	pthread_mutex_t robust, inherits, both;
	int ready;
	int waiting; /* (a) how many are about to lock */
} * shared;

static int handled;          /* (a) */
static int knew_itself;      /* (a) */
static pthread_mutex_t mine; /* recursive, of who waits */
static sigjmp_buf *leaves;   /* of who waits; NULL: it goes on */

static void on_signal(int sig)
{
	(void)sig;
	if (pthread_mutex_trylock(&mine) == 0) {
		ZERO(pthread_mutex_unlock(&mine));
		__atomic_fetch_add(&knew_itself, 1, __ATOMIC_SEQ_CST);
	}
	__atomic_fetch_add(&handled, 1, __ATOMIC_SEQ_CST);
	if (leaves)
		siglongjmp(*leaves, 1);
}

static void init(void)
{
	pthread_mutexattr_t ma;

	shared = shared_memory(sizeof *shared);
	ZERO(pthread_mutexattr_init(&ma));
	ZERO(pthread_mutexattr_setpshared(&ma, PTHREAD_PROCESS_SHARED));
	ZERO(pthread_mutexattr_setrobust(&ma, PTHREAD_MUTEX_ROBUST));
	ZERO(pthread_mutex_init(&shared->robust, &ma));
	ZERO(pthread_mutexattr_setprotocol(&ma, PTHREAD_PRIO_INHERIT));
	ZERO(pthread_mutex_init(&shared->both, &ma));
	ZERO(pthread_mutexattr_setrobust(&ma, PTHREAD_MUTEX_STALLED));
	ZERO(pthread_mutex_init(&shared->inherits, &ma));
}

static int lock(pthread_mutex_t *m, int seconds)
{
	struct timespec t;
	int err;

	OK(clock_gettime(CLOCK_REALTIME, &t));
	t.tv_sec += seconds;
	__atomic_fetch_add(&shared->waiting, 1, __ATOMIC_SEQ_CST);
	err = pthread_mutex_timedlock(m, &t);
	if (err == EOWNERDEAD) {
		ZERO(pthread_mutex_consistent(m));
		err = 0;
	}
	return err;
}

/* For ever, unless killed. */
static void *is_killed(void *arg)
{
	for (;;) {
		ZERO(lock(&shared->robust, 1000));
		ZERO(pthread_mutex_unlock(&shared->robust));
	}
	return arg;
}

static void *gets_it(void *arg)
{
	int err = lock(&shared->robust, 20);

	if (!err)
		ZERO(pthread_mutex_unlock(&shared->robust));
	*(int *)arg = err;
	return NULL;
}

static void *returns(void *arg)
{
	return arg;
}

static void wait_for(int n)
{
	while (__atomic_load_n(&shared->waiting, __ATOMIC_SEQ_CST) < n)
		usleep(200);
	usleep(300);
}

static int round_of(unsigned delay_us)
{
	pthread_t ours;
	int status, err = -1;
	pid_t pid;
	uint64_t at;

	shared->waiting = 0;
	pid = OK(fork());
	if (pid == 0) {
		for (int i = 0; i < WAITERS; i++)
			start(is_killed, NULL);
		is_killed(NULL);
	}
	wait_for(WAITERS + 1);
	ours = start(gets_it, &err);
	wait_for(WAITERS + 2);
	OK(kill(pid, SIGKILL));
	for (at = now_ns(CLOCK_MONOTONIC) + delay_us * 1000ull;
		now_ns(CLOCK_MONOTONIC) < at;)
		;
	ZERO(pthread_mutex_unlock(&shared->robust));
	OK(waitpid(pid, &status, 0));
	finish(ours);
	ZERO(lock(&shared->robust, 20));
	return err;
}

static void killed(void)
{
	int lost = 0;

	ZERO(lock(&shared->robust, 20));
	for (int n = 0; n < ROUNDS && !lost; n++) {
		lost += round_of(random_number() % 400) != 0;
	}
	ZERO(pthread_mutex_unlock(&shared->robust));
	say("waiters killed: %s",
		lost ? "the others wait for ever" : "the others got it");
}

static void *locks(void *arg)
{
	pthread_mutex_t *m = arg;

	ZERO(pthread_mutex_lock(&mine));
	__atomic_fetch_add(&shared->waiting, 1, __ATOMIC_SEQ_CST);
	ZERO(pthread_mutex_lock(m));
	ZERO(pthread_mutex_unlock(m));
	ZERO(pthread_mutex_unlock(&mine));
	return NULL;
}

static void *jumps_out(void *arg)
{
	sigjmp_buf here;

	ZERO(pthread_mutex_lock(&mine));
	if (!sigsetjmp(here, 1)) {
		leaves = &here;
		__atomic_fetch_add(&shared->waiting, 1, __ATOMIC_SEQ_CST);
		pthread_mutex_lock(arg);
	}
	leaves = NULL;
	say("left by a jump: %s", err_name(pthread_mutex_unlock(&mine)));
	return NULL;
}

/* Locked while there is one thread, given back when there are more. */
static void held_since_before(void)
{
	int status;
	pid_t pid;

	ZERO(pthread_mutex_lock(&shared->inherits));
	shared->waiting = 0;
	pid = OK(fork());
	if (pid == 0) {
		ZERO(lock(&shared->inherits, 20));
		ZERO(pthread_mutex_unlock(&shared->inherits));
		_exit(0);
	}
	wait_for(1);
	on_thread(returns, NULL);
	ZERO(pthread_mutex_unlock(&shared->inherits));
	OK(waitpid(pid, &status, 0));
	say("held since before: %s", describe_status(status));
}

/* What the first thread of a child held, some of it since before it made another one. */
static void first_thread_dies(bool killed)
{
	pthread_mutex_t *m[2] = {&shared->robust, &shared->both};
	int status;
	pid_t pid;

	shared->waiting = 0;
	pid = OK(fork());
	if (pid == 0) {
		ZERO(lock(m[killed], 20));
		on_thread(returns, NULL);
		ZERO(lock(m[!killed], 20));
		__atomic_fetch_add(&shared->waiting, 1, __ATOMIC_SEQ_CST);
		if (!killed)
			_exit(0);
		for (;;)
			pause();
	}
	if (killed) {
		wait_for(3);
		OK(kill(pid, SIGKILL));
	}
	OK(waitpid(pid, &status, 0));
	for (int i = 0; i < 2; i++) {
		int err = pthread_mutex_trylock(m[i]);

		say("first thread: %s, %s", describe_status(status), strerror(err));
		if (err == EOWNERDEAD)
			ZERO(pthread_mutex_consistent(m[i]));
		if (err == EOWNERDEAD || !err)
			ZERO(pthread_mutex_unlock(m[i]));
	}
}

static void *wakes(void *cond)
{
	ZERO(lock(&shared->inherits, 20));
	shared->ready = 1;
	ZERO(pthread_cond_signal(cond));
	usleep(2000); /* so that who was woken waits for the mutex */
	ZERO(pthread_mutex_unlock(&shared->inherits));
	return NULL;
}

/* Locked while there was one thread, given back and taken again beside others. */
static void waits_with_it(void)
{
	pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
	pthread_t t;

	ZERO(lock(&shared->inherits, 20));
	t = start(wakes, &cond);
	while (!shared->ready)
		ZERO(pthread_cond_wait(&cond, &shared->inherits));
	ZERO(pthread_mutex_unlock(&shared->inherits));
	finish(t);
	say("taken again");
}

/* In a process that has one thread so far. */
static void afresh(void (*fn)(void))
{
	int status;
	pid_t pid = OK(fork());

	if (pid == 0) {
		fn();
		_exit(0);
	}
	OK(waitpid(pid, &status, 0));
	CHECK(status == 0);
}

/* By the first thread, and by another one that is not the kernel's first. */
static void *interrupts(void *arg)
{
	pthread_mutex_t *m = arg;
	pthread_t t;

	ZERO(pthread_mutex_lock(m));
	shared->waiting = 0;
	handled = knew_itself = 0;
	t = start(locks, m);
	wait_for(1);
	for (int i = 0; i < 5; i++) {
		ZERO(pthread_kill(t, SIGUSR1));
		for (int n = 0;
			n < 5000 && __atomic_load_n(&handled, __ATOMIC_SEQ_CST) <= i; n++)
			usleep(1000);
	}
	say("while it waits: %d of 5 handled, %d knew their thread, %s", handled,
		knew_itself, pthread_mutex_trylock(m) ? "held still" : "not held");
	ZERO(pthread_mutex_unlock(m));
	finish(t);
	return NULL;
}

static void stays(void *arg)
{
	(void)arg;
	__atomic_fetch_add(&shared->waiting, 1, __ATOMIC_SEQ_CST);
	for (;;)
		pause();
}

static void *waits_for_ever(void *arg)
{
	pthread_cond_t cond = PTHREAD_COND_INITIALIZER;

	ZERO(pthread_mutex_lock(arg));
	__atomic_fetch_add(&shared->waiting, 1, __ATOMIC_SEQ_CST);
	pthread_cleanup_push(stays, NULL);
	for (;;)
		pthread_cond_wait(&cond, arg);
	pthread_cleanup_pop(0);
	return NULL;
}

/* A wait that is cancelled takes the mutex again, and dies with it. */
static void is_cancelled(pthread_mutex_t *m)
{
	int status, err;
	pid_t pid;

	shared->waiting = 0;
	pid = OK(fork());
	if (pid == 0) {
		pthread_t t = start(waits_for_ever, m);

		wait_for(1);
		ZERO(pthread_cancel(t));
		for (;;)
			pause();
	}
	wait_for(2);
	OK(kill(pid, SIGKILL));
	OK(waitpid(pid, &status, 0));
	err = pthread_mutex_trylock(m);
	say("cancelled, then killed: %s", strerror(err));
	if (err == EOWNERDEAD)
		ZERO(pthread_mutex_consistent(m));
	if (err == EOWNERDEAD || !err)
		ZERO(pthread_mutex_unlock(m));
}

/* Held by us; who waits for it does not get it. */
static void *is_left(void *arg)
{
	pthread_mutex_t *m = arg;
	pthread_t t;

	ZERO(pthread_mutex_lock(m));
	shared->waiting = 0;
	t = start(jumps_out, m);
	wait_for(1);
	ZERO(pthread_kill(t, SIGUSR1));
	finish(t);
	ZERO(pthread_mutex_unlock(m));
	return NULL;
}

/* On a kernel thread of its own, with another one beside it. */
static void *interrupts_bound(void *arg)
{
	cpu_set_t set;
	int cpu = sched_getcpu();

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	ZERO(pthread_setaffinity_np(pthread_self(), sizeof set, &set));
	return interrupts(arg);
}

int main(void)
{
	struct sigaction sa = {.sa_handler = on_signal};
	pthread_mutexattr_t ma;

	init();
	first_thread_dies(true);
	first_thread_dies(false);
	afresh(waits_with_it);
	afresh(held_since_before);
	killed();
	OK(sigaction(SIGUSR1, &sa, NULL));
	ZERO(pthread_mutexattr_init(&ma));
	ZERO(pthread_mutexattr_settype(&ma, PTHREAD_MUTEX_RECURSIVE));
	ZERO(pthread_mutex_init(&mine, &ma));
	interrupts(&shared->robust);
	interrupts(&shared->inherits);
	on_thread(interrupts, &shared->robust);
	on_thread(interrupts, &shared->inherits);
	on_thread(interrupts_bound, &shared->robust);
	on_thread(interrupts_bound, &shared->inherits);
	is_cancelled(&shared->robust);
	is_cancelled(&shared->both);
	on_thread(is_left, &shared->robust);
	on_thread(is_left, &shared->inherits);
	return 0;
}
