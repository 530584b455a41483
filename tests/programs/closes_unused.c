/*
 * A thread closes numbers that are not in use, over and over, as those do that close
 * whatever they do not know ("close"), all above the ones they know ("closefrom"), or
 * puts a file onto the lowest free number ("dup2"). Beside it more and more threads block
 * where nobody sees it, so that weft makes kernel threads with descriptors all the time.
 * Nothing is closed but what the thread put there, and nobody else uses that.
 */
#include "prog.h"
#include "raw.h"

#define ROUNDS 4
#define MORE   25

static int hold[2], data[2], begun, stop, lowest;
static long closed, wrong;

static void *blocks(void *arg)
{
	char c;

	__atomic_add_fetch(&begun, 1, __ATOMIC_SEQ_CST);
	CHECK(inline_syscall(SYS_read, hold[0], (long)&c, 1) == 1);
	return arg;
}

static void by_close(void)
{
	for (int fd = lowest; fd < lowest + 64; fd++)
		closed += close(fd) == 0;
}

static void by_closefrom(void)
{
	closefrom(lowest);
}

static void by_dup2(void)
{
	char c = 'x';

	CHECK(write(data[1], &c, 1) == 1);
	OK(dup2(data[0], lowest));
	for (volatile int i = 0; i < 1000; i++)
		;
	wrong += read(lowest, &c, 1) != 1;
	wrong += close(lowest) != 0;
}

static void *closes(void *arg)
{
	void (*once)(void) = arg;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
		once();
	return NULL;
}

static void burst(int n)
{
	pthread_t threads[ROUNDS * MORE];

	begun = 0;
	for (int i = 0; i < n; i++)
		threads[i] = start_small(blocks, NULL, 65536);
	while (__atomic_load_n(&begun, __ATOMIC_SEQ_CST) < n)
		usleep(1000);
	for (int i = 0; i < n; i++)
		OK(write(hold[1], "x", 1));
	for (int i = 0; i < n; i++)
		finish(threads[i]);
	say("%d threads", n);
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "close";
	pthread_t closer;

	closefrom(3);
	OK(pipe(hold));
	OK(pipe(data));
	OK(fcntl(data[0], F_SETFL, O_NONBLOCK));
	lowest = data[1] + 1;
	closer = start(closes, strcmp(how, "close") == 0       ? (void *)by_close
			       : strcmp(how, "closefrom") == 0 ? (void *)by_closefrom
							       : (void *)by_dup2);
	for (int i = 1; i <= ROUNDS; i++)
		burst(i * MORE);
	stop = 1;
	finish(closer);
	say("closed: %ld, wrong: %ld", closed, wrong);
	return 0;
}
