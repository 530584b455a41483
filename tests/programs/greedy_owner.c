/*
 * greedy_owner.c - a thread takes a mutex again as soon as it has given it back, and
 * waits with it now and then. Others get it all the same, each many times.
 */
#include "prog.h"

#include <stdatomic.h>

enum { OTHERS = 3, TIMES = 5 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static atomic_int done;

static void *greedy(void *arg)
{
	for (unsigned n = 0; atomic_load(&done) < OTHERS; n++) {
		pthread_mutex_lock(&mutex);
		for (volatile int i = 0; i < 1000; i++)
			;
		if (n % 100 == 0)
			usleep(5000);
		pthread_mutex_unlock(&mutex);
	}
	return arg;
}

static void *other(void *arg)
{
	for (int i = 0; i < TIMES; i++) {
		pthread_mutex_lock(&mutex);
		pthread_mutex_unlock(&mutex);
		usleep(1);
	}
	atomic_fetch_add(&done, 1);
	return arg;
}

int main(void)
{
	pthread_t t[1 + OTHERS];

	t[0] = start(greedy, NULL);
	for (int i = 1; i <= OTHERS; i++)
		t[i] = start(other, NULL);
	for (int i = 0; i <= OTHERS; i++)
		finish(t[i]);
	say("%d had it %d times each", OTHERS, TIMES);
	return 0;
}
