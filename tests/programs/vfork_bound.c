/*
 * A thread that blocks every signal makes a child with vfork and computes on, without a
 * call; meanwhile another one confines it to a CPU. The threads beside it use what is
 * theirs alone, and are interrupted all the time.
 */
#include "../support/prog.h"

#include <sched.h>
#include <sys/wait.h>

enum { BESIDE = 4 };

static __thread volatile uint64_t counted;
static volatile int ready, bound, stop;

static void *compute(void *arg)
{
	volatile int pid, status = 0;
	sigset_t all;

	(void)arg;
	sigfillset(&all);
	ZERO(pthread_sigmask(SIG_SETMASK, &all, NULL));
	ready = 1;
	pid = vfork();
	if (!pid) {
		execl("/bin/true", "true", NULL);
		_exit(9);
	}
	while (!bound)
		counted++;
	for (int i = 0; i < 100000000; i++)
		counted++;
	OK(waitpid(pid, (int *)&status, 0));
	say("child: %d", status);
	CHECK(counted >= 100000000);
	return NULL;
}

static void *beside(void *arg)
{
	int me = (int)(intptr_t)arg;

	counted = 0;
	for (uint64_t n = 0; !stop; n++) {
		for (int i = 0; i < 20000; i++)
			counted++;
		CHECK(counted == (n + 1) * 20000);
		errno = me;
		sched_yield();
		CHECK(errno == me);
	}
	return NULL;
}

int main(void)
{
	const struct timespec ms = {0, 20000000};
	pthread_t t[BESIDE], computing;
	cpu_set_t set;

	for (int i = 0; i < BESIDE; i++)
		t[i] = start(beside, (void *)(intptr_t)i);
	computing = start(compute, NULL);
	while (!ready)
		sched_yield();
	nanosleep(&ms, NULL);
	CPU_ZERO(&set);
	CPU_SET(0, &set);
	for (int i = 0; i < 10; i++) {
		ZERO(pthread_setaffinity_np(computing, sizeof set, &set));
		nanosleep(&ms, NULL);
	}
	bound = 1;
	ZERO(pthread_join(computing, NULL));
	stop = 1;
	for (int i = 0; i < BESIDE; i++)
		ZERO(pthread_join(t[i], NULL));
	say("all ended");
	return 0;
}
