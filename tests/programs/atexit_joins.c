/* An atexit handler that still needs the threads: wakes one and joins it. */
#include "prog.h"

static pthread_t worker;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static bool stop;

static void *waits(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&lock);
	while (!stop)
		pthread_cond_wait(&cond, &lock);
	pthread_mutex_unlock(&lock);
	usleep(1000);
	say("worker ends");
	return (void *)11;
}

static void *late(void *arg)
{
	usleep(1000);
	return arg;
}

static void at_exit(void)
{
	pthread_mutex_lock(&lock);
	stop = true;
	pthread_cond_signal(&cond);
	pthread_mutex_unlock(&lock);
	say("joined: %ld", (long)(intptr_t)finish(worker));
	say("a thread made in the handler: %ld",
		(long)(intptr_t)on_thread(late, (void *)3));
}

int main(void)
{
	atexit(at_exit);
	worker = start(waits, NULL);
	return 0;
}
