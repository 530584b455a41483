/*
 * A library that must not see its kernel thread change: listed in WEFT_NATIVE by the
 * tests that use it. It calls back, and tells whether it came back elsewhere.
 */
#define _GNU_SOURCE
#include "native_library.h"

#include <stdlib.h>
#include <sys/syscall.h>

int native_kernel_thread(void)
{
	long r;

	__asm__ volatile("syscall" : "=a"(r) : "a"(SYS_gettid) : "rcx", "r11", "memory");
	return (int)r;
}

bool native_call(void (*fn)(void *), void *arg)
{
	int before = native_kernel_thread();

	fn(arg);
	return native_kernel_thread() == before;
}

/* A frame whose size is known at run time only, and whose registers are all in use. */
bool native_call_deep(void (*fn)(void *), void *arg, int depth)
{
	volatile char room[16 + depth % 7 * 24];
	bool same;

	room[0] = (char)depth;
	same = depth ? native_call_deep(fn, arg, depth - 1) : native_call(fn, arg);
	return same && room[0] == (char)depth;
}

struct call {
	void (*fn)(void *);
	void *arg;
};

static void *calls_back(void *arg)
{
	struct call c = *(struct call *)arg;

	free(arg);
	return (void *)(intptr_t)native_call(c.fn, c.arg);
}

int native_thread(pthread_t *ret, void (*fn)(void *), void *arg)
{
	struct call *c = malloc(sizeof *c);

	c->fn = fn;
	c->arg = arg;
	return pthread_create(ret, NULL, calls_back, c);
}

int native_thread_for(pthread_t *ret, void *(*fn)(void *), void *arg)
{
	return pthread_create(ret, NULL, fn, arg);
}

void *native_start(void *arg)
{
	int *tid = arg;

	*tid = native_kernel_thread();
	return arg;
}
