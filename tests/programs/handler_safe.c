/* A storm of timer signals whose handler does sem_post and write, while threads come and
 * go. */
#include "sig.h"

#include <semaphore.h>
#include <sys/time.h>

static sem_t sem;
static int fds[2], posts;

static void handler(int sig)
{
	int saved = errno;

	(void)sig;
	__atomic_fetch_add(&posts, 1, __ATOMIC_SEQ_CST);
	sem_post(&sem);
	if (write(fds[1], "s", 1) != 1)
		_exit(72);
	errno = saved;
}

static void *nothing(void *arg)
{
	return malloc((size_t)arg % 1000 + 1);
}

static void *creates(void *arg)
{
	for (intptr_t i = 0; i < 2000; i++)
		free(on_thread(nothing, (void *)i));
	return arg;
}

static void *drains(void *arg)
{
	char c;

	while (read(fds[0], &c, 1) == 1 && c == 's')
		;
	return arg;
}

int main(void)
{
	struct itimerval every = {{0, 500}, {0, 500}}, off = {{0, 0}, {0, 0}};
	pthread_t threads[3], drain;
	int value;

	OK(sem_init(&sem, 0, 0));
	OK(pipe(fds));
	sig_install(SIGALRM, SA_RESTART, handler);
	drain = start(drains, NULL);
	OK(setitimer(ITIMER_REAL, &every, NULL));
	for (int i = 0; i < 3; i++)
		threads[i] = start(creates, NULL);
	for (int i = 0; i < 3; i++)
		finish(threads[i]);
	/* On a busy machine all of them may have ended before the first one comes. */
	for (int i = 0; i < 5000 && !__atomic_load_n(&posts, __ATOMIC_SEQ_CST); i++)
		usleep(1000);
	OK(setitimer(ITIMER_REAL, &off, NULL));
	usleep(1000);
	OK(write(fds[1], "e", 1));
	finish(drain);
	OK(sem_getvalue(&sem, &value));
	say("signals came: %d, none lost: %d", posts > 0, value == posts);
	return 0;
}
