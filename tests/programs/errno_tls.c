/* errno and __thread variables stay a thread's own across every kind of wait. */
#include "prog.h"

#define THREADS 24
#define ROUNDS  60

static __thread int mine;
static __thread char block[3000];
static int fds[2];

static void *run(void *arg)
{
	int id = (int)(intptr_t)arg;
	pthread_t self = pthread_self();
	int *addr = &mine, *errno_addr = &errno;
	char c;

	memset(block, id, sizeof block);
	for (int i = 0; i < ROUNDS; i++) {
		mine = id * 1000 + i;
		errno = id + 1;
		switch (i % 4) {
		case 0: /* a token goes round */
			if (read(fds[0], &c, 1) != 1 || write(fds[1], &c, 1) != 1)
				return (void *)1;
			break;
		case 1:
			usleep(500);
			break;
		case 2:
			sched_yield();
			break;
		case 3:
			poll(NULL, 0, 1);
			break;
		}
		/* Neither success nor a switch may touch it. */
		if (errno != id + 1 || &errno != errno_addr)
			return (void *)2;
		if (mine != id * 1000 + i || &mine != addr)
			return (void *)3;
		if (block[0] != (char)id || block[2999] != (char)id)
			return (void *)4;
		if (!pthread_equal(self, pthread_self()))
			return (void *)5;
		if (read(-1, &c, 1) != -1 || errno != EBADF)
			return (void *)6;
	}
	return NULL;
}

int main(void)
{
	pthread_t threads[THREADS];
	int wrong = 0;

	OK(pipe(fds));
	errno = ERANGE;
	for (intptr_t i = 0; i < THREADS; i++)
		threads[i] = start(run, (void *)(i + 1));
	OK(write(fds[1], "abc", 3));
	for (int i = 0; i < THREADS; i++) {
		intptr_t r = (intptr_t)finish(threads[i]);

		if (r)
			say("thread %d: wrong at %ld", i, (long)r);
		wrong += r != 0;
	}
	say("%d threads, %d wrong; main's errno %s", THREADS, wrong, err_name(errno));
	return 0;
}
