/* exit(7) from a worker while others sleep, compute, hold locks and block. */
#include "prog.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t ready;
static int fds[2];

static void at_exit(void)
{
	say("atexit handler");
}

static void *blocks(void *arg)
{
	char c;

	pthread_barrier_wait(&ready);
	switch ((intptr_t)arg) {
	case 0:
		read(fds[0], &c, 1);
		break;
	case 1:
		pthread_mutex_lock(&lock);
		break;
	case 2:
		sleep(1000);
		break;
	default:
		for (;;)
			sched_yield();
	}
	say("not reached");
	return NULL;
}

static void *leaves(void *arg)
{
	(void)arg;
	pthread_barrier_wait(&ready);
	printf("buffered until exit\n");
	exit(7);
}

int main(void)
{
	atexit(at_exit);
	OK(pipe(fds));
	pthread_mutex_lock(&lock);
	ZERO(pthread_barrier_init(&ready, NULL, 6));
	for (intptr_t i = 0; i < 4; i++)
		start(blocks, (void *)i);
	pthread_t t = start(leaves, NULL);
	pthread_barrier_wait(&ready);
	pthread_join(t, NULL);
	pause();
	return 1;
}
