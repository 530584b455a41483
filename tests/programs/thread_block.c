/*
 * What libc keeps per thread or tells about threads, seen from many of them across waits:
 * stack protector and pointer guard, thread pointer, __libc_single_threaded, the CPU;
 * and what backtrace() finds above a handler that interrupted a waiting call.
 */
#include "sig.h"

#include <execinfo.h>
#include <setjmp.h>
#include <sys/rseq.h>
#include <sys/single_threaded.h>
#include <sys/syscall.h>

#define THREADS 1000

static uintptr_t guard, pointer_guard;
static int same, own, cpus_known, cpus_agree, no_rseq;
static int fds[2];
static pthread_barrier_t all_there;

static uintptr_t word(long offset)
{
	uintptr_t v;

	__asm__ volatile("movq %%fs:(%1), %0" : "=r"(v) : "r"(offset));
	return v;
}

__attribute__((noinline, optimize("stack-protector-all"))) static int guarded(int depth)
{
	volatile char buf[64];

	memset((void *)buf, depth, sizeof buf);
	usleep(200);
	return depth ? guarded(depth - 1) + buf[3] : 0;
}

/*
 * libc's area for restartable sequences (glibc 2.35, sys/rseq.h): it says that there is
 * none, or where the thread runs. A second one, as an allocator of the program's own
 * would want it, is refused; if it were not, the kernel would write to it from then on.
 */
static void rseq_is_nobodys(void)
{
	int32_t cpu_id;
	struct {
		_Alignas(32) unsigned char area[32];
	} mine = {{0}};

	memcpy(&cpu_id, (char *)__builtin_thread_pointer() + __rseq_offset + 4, 4);
	if (cpu_id < sysconf(_SC_NPROCESSORS_CONF) &&
		syscall(SYS_rseq, &mine, 32, 0, 0x53053053) < 0)
		__atomic_fetch_add(&no_rseq, 1, __ATOMIC_SEQ_CST);
}

static void *looks(void *arg)
{
	jmp_buf env;
	unsigned cpu;
	volatile int tries = 0;

	if (setjmp(env) == 0) {
		guarded(3);
		tries++;
		longjmp(env, 1);
	}
	if (tries == 1 && word(0x28) == guard && word(0x30) == pointer_guard)
		__atomic_fetch_add(&same, 1, __ATOMIC_SEQ_CST);
	if (word(0) == (uintptr_t)pthread_self() && word(0x10) == word(0))
		__atomic_fetch_add(&own, 1, __ATOMIC_SEQ_CST);
	/* Together, so that each has its own part of what the loader keeps per thread. */
	pthread_barrier_wait(&all_there);
	rseq_is_nobodys();
	for (int i = 0; i < 1000; i++) {
		OK(syscall(SYS_getcpu, &cpu, NULL, NULL));
		if ((int)cpu == sched_getcpu()) {
			__atomic_fetch_add(&cpus_agree, 1, __ATOMIC_SEQ_CST);
			break;
		}
		usleep(100); /* elsewhere by then, perhaps */
	}
	if (sched_getcpu() < sysconf(_SC_NPROCESSORS_CONF) &&
		cpu < (unsigned)sysconf(_SC_NPROCESSORS_CONF))
		__atomic_fetch_add(&cpus_known, 1, __ATOMIC_SEQ_CST);
	return arg;
}

static void *frames[64];
static volatile int frame_count, deep;

static void walks(int sig)
{
	(void)sig;
	if (deep)
		frame_count = backtrace(frames, 64);
}

static __attribute__((noinline)) int waits_deep(int n)
{
	char c;

	deep = !n;
	volatile int r = n ? waits_deep(n - 1) : (int)recv(fds[0], &c, 1, 0);

	__asm__ volatile("" ::: "memory");
	return r + 1;
}

static __attribute__((noinline)) int computes_deep(int n)
{
	volatile int r = 0;

	deep = !n;
	if (n)
		r = computes_deep(n - 1);
	else
		while (!frame_count)
			__asm__ volatile("" ::: "memory");
	__asm__ volatile("" ::: "memory");
	return r + 1;
}

/* Frames within a function, which is not longer than a few hundred bytes. */
static int found(int (*fn)(int))
{
	int n = 0;

	for (int i = 0; i < frame_count; i++)
		n += (uintptr_t)frames[i] > (uintptr_t)fn &&
		     (uintptr_t)frames[i] < (uintptr_t)fn + 160;
	return n;
}

static int sunk;

static void *waits(void *arg)
{
	sunk = waits_deep(9);
	return arg;
}

static void *computes(void *arg)
{
	sunk = computes_deep(9);
	return arg;
}

static void walk_through(const char *what, void *(*body)(void *), int (*fn)(int))
{
	pthread_t t;

	frame_count = deep = 0;
	t = start(body, NULL);
	for (int i = 0; i < 20 || !frame_count; i++) {
		ZERO(pthread_kill(t, SIGUSR1));
		usleep(1000);
	}
	OK(write(fds[1], "x", 1));
	finish(t);
	say("backtrace through %s: %d frames", what, found(fn));
}

int main(void)
{
	pthread_t threads[THREADS];

	say("single-threaded at first: %d", __libc_single_threaded);
	guard = word(0x28);
	pointer_guard = word(0x30);
	ZERO(pthread_barrier_init(&all_there, NULL, THREADS));
	for (int i = 0; i < THREADS; i++)
		threads[i] = start(looks, NULL);
	say("then: %d", __libc_single_threaded);
	for (int i = 0; i < THREADS; i++)
		finish(threads[i]);
	say("guards as main's %d, thread pointers right %d, CPUs known %d", same, own,
		cpus_known);
	say("libc and the kernel agree on the CPU: %d, no other rseq: %d", cpus_agree,
		no_rseq);
	unix_pair(fds);
	backtrace(frames, 64); /* loads what it needs outside of a handler */
	sig_install(SIGUSR1, SA_RESTART, walks);
	walk_through("a waiting call", waits, waits_deep);
	walk_through("computation", computes, computes_deep);
	return 0;
}
