/*
 * More threads than there are carriers block in system calls nobody can intercept:
 * `syscall` instructions of the program's own. The others must go on and free them.
 */
#include "prog.h"
#include "raw.h"

#define BLOCKERS 40

static int raw[2], ordinary[2];

static void *blocks(void *arg)
{
	char c;

	CHECK(inline_syscall(SYS_read, raw[0], (long)&c, 1) == 1);
	return arg;
}

static void *relays(void *arg)
{
	char c;

	for (int i = 0; i < 20; i++) {
		CHECK(read(ordinary[0], &c, 1) == 1);
		usleep(500);
		CHECK(write(ordinary[1], &c, 1) == 1);
	}
	return arg;
}

static void *frees(void *arg)
{
	for (int i = 0; i < BLOCKERS; i++)
		OK(write(raw[1], "x", 1));
	return arg;
}

int main(void)
{
	pthread_t threads[BLOCKERS], others[5];
	char c;

	OK(pipe(raw));
	OK(pipe(ordinary));
	for (int i = 0; i < BLOCKERS; i++)
		threads[i] = start(blocks, NULL);
	for (int i = 0; i < 5; i++)
		others[i] = start(relays, NULL);
	OK(write(ordinary[1], "tok", 3));
	for (int i = 0; i < 5; i++)
		finish(others[i]);
	say("others went on");
	on_thread(frees, NULL);
	for (int i = 0; i < BLOCKERS; i++)
		finish(threads[i]);
	CHECK(read(ordinary[0], &c, 1) == 1);
	say("%d freed", BLOCKERS);
	return 0;
}
