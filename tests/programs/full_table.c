/*
 * full_table.c - the program's descriptors are used up, and more threads block where
 * nobody sees it than there are kernel threads: one that begins later lets them go on.
 */
#include "prog.h"
#include "raw.h"

#include <sys/resource.h>

enum { BLOCKED = 12 };

static int hold[2];

static void *blocks(void *arg)
{
	char c;

	CHECK(inline_syscall(SYS_read, hold[0], (long)&c, 1) == 1);
	return arg;
}

static void *lets_go(void *arg)
{
	for (int i = 0; i < BLOCKED; i++)
		CHECK(write(hold[1], "", 1) == 1);
	return arg;
}

static void *nothing(void *arg)
{
	return arg;
}

int main(void)
{
	pthread_t threads[BLOCKED + 1];
	struct rlimit rl;
	int fds[64], n = 0;

	OK(pipe(hold));
	on_thread(nothing, NULL);
	OK(getrlimit(RLIMIT_NOFILE, &rl));
	rl.rlim_cur = 40;
	OK(setrlimit(RLIMIT_NOFILE, &rl));
	while ((fds[n] = dup(0)) >= 0)
		n++;
	say("%s", err_name(errno));
	for (int i = 0; i < BLOCKED; i++)
		threads[i] = start(blocks, NULL);
	usleep(20000);
	threads[BLOCKED] = start(lets_go, NULL);
	for (int i = 0; i <= BLOCKED; i++)
		finish(threads[i]);
	OK(getrlimit(RLIMIT_NOFILE, &rl));
	while (n > 0)
		OK(close(fds[--n]));
	say("%d let go, the limit is %d", BLOCKED, (int)rl.rlim_cur);
	return 0;
}
