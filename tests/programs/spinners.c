/*
 * Many threads spin until a flag is set by a thread that comes last: with sched_yield,
 * with usleep(0), with an empty select or poll, with nothing at all, or in a spin lock
 * that the last one holds (the argument says which). A spinner never waits in the kernel,
 * so whoever runs it must let the last one in.
 */
#include "prog.h"

#include <sys/select.h>

#define SPINNERS 12

static int flag, arrived;
static pthread_spinlock_t spin;

static void *yields(void *arg)
{
	__atomic_fetch_add(&arrived, 1, __ATOMIC_SEQ_CST);
	while (!__atomic_load_n(&flag, __ATOMIC_SEQ_CST))
		sched_yield();
	return arg;
}

static void *sleeps(void *arg)
{
	__atomic_fetch_add(&arrived, 1, __ATOMIC_SEQ_CST);
	while (!__atomic_load_n(&flag, __ATOMIC_SEQ_CST))
		usleep(0);
	return arg;
}

static void *selects(void *arg)
{
	__atomic_fetch_add(&arrived, 1, __ATOMIC_SEQ_CST);
	while (!__atomic_load_n(&flag, __ATOMIC_SEQ_CST)) {
		struct timeval zero = {0, 0};

		select(0, NULL, NULL, NULL, &zero);
	}
	return arg;
}

static void *polls(void *arg)
{
	__atomic_fetch_add(&arrived, 1, __ATOMIC_SEQ_CST);
	while (!__atomic_load_n(&flag, __ATOMIC_SEQ_CST))
		poll(NULL, 0, 0);
	return arg;
}

static void *computes(void *arg)
{
	__atomic_fetch_add(&arrived, 1, __ATOMIC_SEQ_CST);
	while (!__atomic_load_n(&flag, __ATOMIC_SEQ_CST))
		__builtin_ia32_pause();
	return arg;
}

static void *spins(void *arg)
{
	__atomic_fetch_add(&arrived, 1, __ATOMIC_SEQ_CST);
	ZERO(pthread_spin_lock(&spin));
	CHECK(__atomic_load_n(&flag, __ATOMIC_SEQ_CST));
	ZERO(pthread_spin_unlock(&spin));
	return arg;
}

static void *sets(void *arg)
{
	/* after all spin, so that none finds it set */
	while (__atomic_load_n(&arrived, __ATOMIC_SEQ_CST) < SPINNERS)
		usleep(1000);
	__atomic_store_n(&flag, 1, __ATOMIC_SEQ_CST);
	ZERO(pthread_spin_unlock(&spin));
	return arg;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void *(*run)(void *);
	} ways[] = {{"yield", yields}, {"usleep", sleeps}, {"select", selects},
		{"poll", polls}, {"compute", computes}, {"spin", spins}};
	pthread_t threads[SPINNERS], last;

	ZERO(pthread_spin_init(&spin, PTHREAD_PROCESS_PRIVATE));
	for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
		if (argc < 2 || strcmp(argv[1], ways[i].name) != 0)
			continue;
		ZERO(pthread_spin_lock(&spin)); /* given back by the last one */
		for (int k = 0; k < SPINNERS; k++)
			threads[k] = start(ways[i].run, NULL);
		last = start(sets, NULL);
		for (int k = 0; k < SPINNERS; k++)
			finish(threads[k]);
		finish(last);
		say("%s: %d spinners saw the flag", ways[i].name, SPINNERS);
	}
	return 0;
}
