/*
 * thread_limit.c - RLIMIT_NPROC, set by a program that has threads
 *
 * pthread_create says EAGAIN at the limit, works again when it is lifted, and does not
 * mind it when it is far away. Root is above it: this becomes nobody first.
 */
#include "prog.h"

#include <grp.h>
#include <sys/resource.h>

static void *nothing(void *arg)
{
	return arg;
}

static void *waits(void *arg)
{
	pthread_barrier_wait(arg);
	return NULL;
}

static void try_with(rlim_t soft)
{
	struct rlimit rl;
	pthread_t thread;
	int r;

	OK(getrlimit(RLIMIT_NPROC, &rl));
	rl.rlim_cur = soft > rl.rlim_max ? rl.rlim_max : soft;
	OK(setrlimit(RLIMIT_NPROC, &rl));
	r = pthread_create(&thread, NULL, nothing, NULL);
	if (!r)
		r = pthread_join(thread, NULL);
	say("limit %lu: %s", (unsigned long)soft, strerror(r));
}

static void *tries(void *arg)
{
	try_with(1);
	return arg;
}

int main(void)
{
	pthread_barrier_t barrier;
	pthread_t thread;

	if (geteuid() == 0) {
		OK(setgroups(0, NULL));
		OK(setresgid(65534, 65534, 65534));
		OK(setresuid(65534, 65534, 65534));
	}
	ZERO(pthread_barrier_init(&barrier, NULL, 2));
	thread = start(waits, &barrier);
	try_with(1);
	try_with(0);
	try_with(100000);
	try_with(2);
	pthread_barrier_wait(&barrier);
	finish(thread);
	try_with(100000);
	on_thread(tries, NULL);
	try_with(100000);
	return 0;
}
