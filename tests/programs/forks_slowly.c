/*
 * fork takes long where there is much memory to copy the page tables of: long enough for
 * whoever looks after stuck threads to notice, while others want to run. What was meant
 * for the parent must not reach the child.
 */
#include "prog.h"

#include <sys/mman.h>

enum { MEMORY = 160 << 20, ROUNDS = 6, OTHERS = 4 };

static volatile bool stop;

static void *runs(void *arg)
{
	for (; !stop; sched_yield())
		for (volatile int i = 0; i < 5000; i++)
			;
	return arg;
}

/* Each returns the child's status. */
static int with_fork(void)
{
	pid_t pid = OK(fork());
	int status;

	if (pid == 0) {
		if (usleep(100))
			_exit(1);
		_exit(7);
	}
	OK(waitpid(pid, &status, 0));
	return status;
}

static int with_underscore_fork(void)
{
	pid_t pid = OK(_Fork());
	int status;

	if (pid == 0)
		_exit(getppid() > 0 ? 8 : 1);
	OK(waitpid(pid, &status, 0));
	return status;
}

static int with_system(void)
{
	return system("exit 9");
}

static void *forks(void *arg)
{
	static int (*const ways[])(void) = {with_fork, with_underscore_fork, with_system};

	for (int i = 0; i < ROUNDS; i++)
		say("%d: %s", i, describe_status(ways[i % 3]()));
	return arg;
}

int main(void)
{
	char *memory = mmap(
		NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_t others[OTHERS];

	CHECK(memory != MAP_FAILED);
	madvise(memory, MEMORY, MADV_NOHUGEPAGE);
	memset(memory, 1, MEMORY);
	for (int i = 0; i < OTHERS; i++)
		others[i] = start(runs, NULL);
	on_thread(forks, NULL);
	stop = true;
	for (int i = 0; i < OTHERS; i++)
		finish(others[i]);
	return 0;
}
