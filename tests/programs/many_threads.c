/*
 * COUNT threads alive at once with stacks of 16 KiB: all wait, all are woken one
 * after the other through each other, all are joined.
 */
#include "prog.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t all_here = PTHREAD_COND_INITIALIZER, go = PTHREAD_COND_INITIALIZER;
static long here, count;
static bool released;
static __thread long mine;

static void *run(void *arg)
{
	mine = (long)(intptr_t)arg;
	pthread_mutex_lock(&lock);
	if (++here == count)
		pthread_cond_signal(&all_here);
	while (!released)
		pthread_cond_wait(&go, &lock);
	here--;
	pthread_mutex_unlock(&lock);
	return (void *)(intptr_t)mine;
}

int main(int argc, char **argv)
{
	pthread_t *threads;
	pthread_attr_t attr;
	long sum = 0;

	count = argc > 1 ? atol(argv[1]) : 10000;
	threads = calloc((size_t)count, sizeof *threads);
	CHECK(threads);
	ZERO(pthread_attr_init(&attr));
	ZERO(pthread_attr_setstacksize(&attr, 16384));
	for (long i = 0; i < count; i++) {
		int err = pthread_create(&threads[i], &attr, run, (void *)(intptr_t)i);

		if (err) {
			say("thread %ld: %s", i, err_name(err));
			return 1;
		}
	}
	pthread_mutex_lock(&lock);
	while (here < count)
		pthread_cond_wait(&all_here, &lock);
	say("%ld threads alive", here);
	released = true;
	pthread_cond_broadcast(&go);
	pthread_mutex_unlock(&lock);
	for (long i = 0; i < count; i++)
		sum += (long)(intptr_t)finish(threads[i]);
	say("sum of results right: %d; still here: %ld", sum == count * (count - 1) / 2,
		here);
	return 0;
}
