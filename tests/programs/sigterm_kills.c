/* No handler: SIGTERM ends the process, with hundreds of threads blocked in everything.
 */
#include "prog.h"

static int fds[2];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t ready;

static void *blocks(void *arg)
{
	char c;

	pthread_barrier_wait(&ready);
	switch ((intptr_t)arg % 3) {
	case 0:
		read(fds[0], &c, 1);
		break;
	case 1:
		pthread_mutex_lock(&lock);
		break;
	default:
		sleep(1000);
	}
	return arg;
}

int main(void)
{
	OK(pipe(fds));
	pthread_mutex_lock(&lock);
	ZERO(pthread_barrier_init(&ready, NULL, 301));
	for (intptr_t i = 0; i < 300; i++)
		start(blocks, (void *)i);
	pthread_barrier_wait(&ready);
	say("ready");
	kill(getpid(), SIGTERM);
	for (;;)
		pause();
}
