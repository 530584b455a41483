/*
 * dlopen and dlclose of a library with thread-local storage while others create and join,
 * ROUNDS times; then in 1000 threads that were there before it.
 */
#include "prog.h"

#include <dlfcn.h>

enum { WAITERS = 1000 };

static int rounds = 150;
static const char *path;
static volatile bool stop;
static long created;
static int pipe_fds[2];
static int (*add)(int);

static void *nothing(void *arg)
{
	return arg;
}

static void *creates(void *arg)
{
	while (!stop) {
		on_thread(nothing, arg);
		__atomic_fetch_add(&created, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static void *loads(void *arg)
{
	long wrong = 0;

	for (int i = 0; i < rounds; i++) {
		void *lib = dlopen(path, RTLD_NOW);
		int (*fn)(int);

		if (!lib) {
			say("%s", dlerror());
			return (void *)-1;
		}
		fn = (int (*)(int))dlsym(lib, "tls_add");
		wrong += fn(1) != 4712 + 816;
		sched_yield();
		wrong += fn(1) != 4713 + 817;
		dlclose(lib);
	}
	return (void *)(intptr_t)(wrong + (long)(intptr_t)arg);
}

/* Alive before the library was: its storage must be there when it wakes. */
static void *waits(void *arg)
{
	char c;

	CHECK(read(pipe_fds[0], &c, 1) == 1);
	return (void *)(intptr_t)(add(2) != 4713 + 817 || arg);
}

int main(int argc, char **argv)
{
	pthread_t creators[3], loader, waiters[WAITERS];
	long wrong = 0;

	path = argc > 1 ? argv[1] : "./libtls_library.so";
	rounds = argc > 2 ? atoi(argv[2]) : rounds;
	for (int i = 0; i < 3; i++)
		creators[i] = start(creates, NULL);
	loader = start(loads, NULL);
	say("loads: %ld wrong", (long)(intptr_t)finish(loader));
	while (__atomic_load_n(&created, __ATOMIC_SEQ_CST) < 3)
		usleep(1000);
	stop = true;
	for (int i = 0; i < 3; i++)
		finish(creators[i]);

	OK(pipe(pipe_fds));
	for (int i = 0; i < WAITERS; i++)
		waiters[i] = start_small(waits, NULL, 64 << 10);
	void *lib = dlopen(path, RTLD_NOW);
	CHECK(lib);
	add = (int (*)(int))dlsym(lib, "tls_add");
	for (int i = 0; i < WAITERS; i++)
		OK(write(pipe_fds[1], "x", 1));
	for (int i = 0; i < WAITERS; i++)
		wrong += (long)(intptr_t)finish(waiters[i]);
	say("waiters: %ld wrong", wrong);
	return 0;
}
