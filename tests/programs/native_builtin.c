/*
 * A library that weft knows by its name, loaded when threads run already: its threads are
 * kernel threads from then on, those of the program are not asked for more. (What is here
 * in its place has nothing of it but the name.)
 */
#include "prog.h"

#include "native_library.h"
#include <dlfcn.h>

static __typeof__(native_kernel_thread) *kernel_thread;
static int kernel_threads;

static void *counts(void *arg)
{
	usleep(200);
	__atomic_fetch_add(
		&kernel_threads, gettid() == kernel_thread(), __ATOMIC_SEQ_CST);
	return arg;
}

static void *nothing(void *arg)
{
	return arg;
}

int main(int argc, char **argv)
{
	__typeof__(native_thread_for) *make;
	pthread_t t[20];
	void *library;

	(void)argc;
	on_thread(nothing, NULL);
	library = dlopen(argv[1], RTLD_NOW);
	CHECK(library);
	kernel_thread = dlsym(library, "native_kernel_thread");
	make = dlsym(library, "native_thread_for");
	for (int i = 0; i < 20; i++)
		ZERO(make(&t[i], counts, NULL));
	for (int i = 0; i < 20; i++)
		finish(t[i]);
	say("%d of 20 are kernel threads", kernel_threads);
	return 0;
}
