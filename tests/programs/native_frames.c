/*
 * A library that keeps state by kernel thread calls back, and the program then waits: in
 * reads, sleeps, locks, condition variables, polls, a call that only the kernel can wait
 * for, a signal handler, on the smallest stacks, and behind many frames; more such
 * threads at once than there are carriers. Each comes back to the library where it left
 * it. The others go on beside them, and are who lets them go. The same for a library that
 * is loaded late, unloaded, and loaded again. Threads that the library makes are kernel
 * threads. Run with WEFT_NATIVE naming both.
 */
#include "prog.h"

#include "native_library.h"
#include <dlfcn.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/syscall.h>

#define CALLERS 24
#define OTHERS  12
#define ROUNDS  6

static int pairs[CALLERS][2], ring[2], waiting, turn, elsewhere, wrong;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;

static void note(bool same)
{
	if (!same)
		__atomic_store_n(&elsewhere, 1, __ATOMIC_SEQ_CST);
}

/* What is waited for is given only when all of them are here. */
static void reads(void *arg)
{
	int i = (int)(intptr_t)arg;
	char c;

	__atomic_fetch_add(&waiting, 1, __ATOMIC_SEQ_CST);
	CHECK(read(pairs[i][0], &c, 1) == 1);
}

static void takes_turns(void *arg)
{
	(void)arg;
	ZERO(pthread_mutex_lock(&mutex));
	turn++;
	ZERO(pthread_cond_broadcast(&cond));
	usleep(50);
	ZERO(pthread_mutex_unlock(&mutex));
}

static void waits_for_all(void *arg)
{
	int until = *(int *)arg;

	ZERO(pthread_mutex_lock(&mutex));
	while (turn < until)
		ZERO(pthread_cond_wait(&cond, &mutex));
	ZERO(pthread_mutex_unlock(&mutex));
}

static void polls(void *arg)
{
	struct pollfd p = {pairs[(int)(intptr_t)arg][0], POLLIN, 0};

	CHECK(poll(&p, 1, 1) == 0);
	sched_yield();
	usleep(200);
}

/* Two open files of one name exclude each other, in the kernel alone. */
static void locks_file(void *arg)
{
	(void)arg;
	int fd = OK(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));

	OK(flock(fd, LOCK_EX));
	usleep(100);
	OK(close(fd));
}

static void calls_again(void *arg)
{
	note(native_call_deep(polls, arg, 3));
}

static void *caller(void *arg)
{
	int i = (int)(intptr_t)arg;

	for (int n = 0; n < ROUNDS; n++) {
		int until = (n + 1) * CALLERS;

		note(native_call(reads, arg));
		note(native_call(takes_turns, arg));
		note(native_call(waits_for_all, &until));
		usleep(50); /* not in the library: may go anywhere */
		note(native_call_deep(polls, arg, i));
		note(native_call(locks_file, arg));
		note(native_call(calls_again, arg));
	}
	return arg;
}

static void *relays(void *arg)
{
	char c;

	for (int n = 0; n < ROUNDS; n++) {
		CHECK(read(ring[0], &c, 1) == 1);
		usleep(200);
		CHECK(write(ring[1], &c, 1) == 1);
	}
	return arg;
}

static void *releases(void *arg)
{
	for (int n = 0; n < ROUNDS; n++) {
		while (__atomic_load_n(&waiting, __ATOMIC_SEQ_CST) < (n + 1) * CALLERS)
			usleep(500);
		for (int i = 0; i < CALLERS; i++)
			OK(write(pairs[i][1], "x", 1));
	}
	return arg;
}

static void all_at_once(void)
{
	pthread_t callers[CALLERS], others[OTHERS], last;

	for (int i = 0; i < CALLERS; i++)
		callers[i] = start(caller, (void *)(intptr_t)i);
	for (int i = 0; i < OTHERS; i++)
		others[i] = start(relays, NULL);
	OK(write(ring[1], "abc", 3));
	last = start(releases, NULL);
	for (int i = 0; i < CALLERS; i++)
		finish(callers[i]);
	for (int i = 0; i < OTHERS; i++)
		finish(others[i]);
	finish(last);
	say("%d turns, %s", turn, elsewhere ? "moved" : "none moved");
}

/* ---- odd stacks ------------------------------------------------------------- */

static void *on_small_stack(void *arg)
{
	note(native_call_deep(polls, arg, 10));
	return arg;
}

static int in_handler[2];

static void handler(int sig)
{
	char c;

	(void)sig;
	if (read(in_handler[0], &c, 1) != 1)
		wrong = 1;
}

static void waits_in_handler(void *arg)
{
	(void)arg;
	OK(raise(SIGUSR1));
}

static void computes_until_handled(void *arg)
{
	uint64_t n = 0;

	while (!__atomic_load_n((int *)arg, __ATOMIC_SEQ_CST))
		n += n / 3 + 1;
	wrong |= n == 1;
}

static void handler_that_lets_go(int sig, siginfo_t *si, void *uc)
{
	(void)sig;
	(void)uc;
	usleep(2000); /* parks on top of an arbitrary instruction */
	__atomic_store_n((int *)si->si_value.sival_ptr, 1, __ATOMIC_SEQ_CST);
}

static void *signalled_in_call(void *arg)
{
	note(native_call(computes_until_handled, arg));
	return arg;
}

static void *gives(void *arg)
{
	usleep(1000);
	OK(write(in_handler[1], "x", 1));
	return arg;
}

static void odd_stacks(void)
{
	struct sigaction sa = {.sa_handler = handler},
			 sb = {.sa_sigaction = handler_that_lets_go,
				 .sa_flags = SA_SIGINFO};
	pthread_t small[8], t, u;
	int done = 0;

	for (int i = 0; i < 8; i++)
		small[i] = start_small(
			on_small_stack, (void *)(intptr_t)i, (size_t)PTHREAD_STACK_MIN);
	for (int i = 0; i < 8; i++)
		finish(small[i]);
	say("small stacks: %s", elsewhere ? "moved" : "none moved");

	OK(pipe(in_handler));
	OK(sigaction(SIGUSR1, &sa, NULL));
	OK(sigaction(SIGUSR2, &sb, NULL));
	t = start(gives, NULL);
	note(native_call(waits_in_handler, NULL));
	finish(t);
	u = start(signalled_in_call, &done);
	usleep(5000);
	ZERO(pthread_sigqueue(u, SIGUSR2, (union sigval){.sival_ptr = &done}));
	finish(u);
	say("handlers: %s, %s", elsewhere ? "moved" : "none moved",
		wrong ? "wrong" : "right");
}

/* ---- a library that comes and goes ------------------------------------------ */

typedef bool call_fn(void (*fn)(void *), void *arg);

static void *late_caller(void *arg)
{
	for (int i = 0; i < 20; i++)
		note(((call_fn *)arg)(polls, (void *)(intptr_t)i));
	return arg;
}

static void comes_and_goes(const char *path)
{
	for (int n = 0; n < 3; n++) {
		void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
		pthread_t t[8];

		CHECK(library);
		for (int i = 0; i < 8; i++)
			t[i] = start(late_caller, dlsym(library, "native_call"));
		for (int i = 0; i < 8; i++)
			finish(t[i]);
		CHECK(dlclose(library) == 0);
	}
	say("loaded late: %s", elsewhere ? "moved" : "none moved");
}

/* ---- threads of the library --------------------------------------------------- */

static int kernel_threads;

static void counts(void *arg)
{
	(void)arg;
	usleep(300);
	ZERO(pthread_mutex_lock(&mutex));
	kernel_threads += gettid() == native_kernel_thread();
	ZERO(pthread_mutex_unlock(&mutex));
}

static void *counts_too(void *arg)
{
	counts(NULL);
	return arg;
}

static void its_threads(void)
{
	pthread_t t[20];
	int tid;

	for (int round = 0; round < 10; round++) {
		for (int i = 0; i < 10; i++) {
			ZERO(native_thread(&t[i], counts, NULL));
			ZERO(native_thread_for(&t[10 + i], counts_too, NULL));
		}
		for (int i = 0; i < 20; i++)
			finish(t[i]);
	}
	say("%d of 200 are kernel threads", kernel_threads);
	t[0] = start(native_start, &tid);
	finish(t[0]);
	say("one that begins in the library %s the main thread's",
		tid == getpid() ? "is" : "is not");
}

int main(int argc, char **argv)
{
	(void)argc;
	OK(pipe(ring));
	for (int i = 0; i < CALLERS; i++)
		unix_pair(pairs[i]);
	all_at_once();
	odd_stacks();
	comes_and_goes(argv[1]);
	its_threads();
	note(native_call(polls, NULL));
	say("main too: %s", elsewhere ? "moved" : "none moved");
	return wrong;
}
