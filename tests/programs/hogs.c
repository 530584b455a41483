/*
 * A thousand threads ask and answer each other in pairs, beside threads that compute all
 * the time, more of them than there are CPUs, until the last answer has come. All answers
 * come, and those that compute get on as well.
 */
#include "prog.h"

#define PAIRS  500
#define ROUNDS 10
#define HOGS   4

static int fds[PAIRS][2], done;
static uint64_t computed[HOGS];

static void *answers(void *arg)
{
	int fd = fds[(intptr_t)arg][0];
	char c;

	for (int n = 0; n < ROUNDS; n++) {
		CHECK(read(fd, &c, 1) == 1);
		c++;
		CHECK(write(fd, &c, 1) == 1);
	}
	return arg;
}

static void *asks(void *arg)
{
	int fd = fds[(intptr_t)arg][1];
	intptr_t right = 0;

	for (int n = 0; n < ROUNDS; n++) {
		char c = (char)n;

		usleep(500);
		CHECK(write(fd, &c, 1) == 1);
		CHECK(read(fd, &c, 1) == 1);
		right += c == n + 1;
	}
	return (void *)right;
}

static void *hog(void *arg)
{
	uint64_t n = 1, turns = 0;

	while (!__atomic_load_n(&done, __ATOMIC_RELAXED)) {
		for (int i = 0; i < 1000; i++)
			n = n * 6364136223846793005u + 1442695040888963407u;
		turns++;
	}
	computed[(intptr_t)arg] = turns + (n == 0);
	return arg;
}

int main(void)
{
	pthread_t hogs[HOGS], a[PAIRS], b[PAIRS];
	intptr_t right = 0;
	int got_on = 0;

	for (intptr_t i = 0; i < HOGS; i++)
		hogs[i] = start(hog, (void *)i);
	for (intptr_t i = 0; i < PAIRS; i++) {
		unix_pair(fds[i]);
		a[i] = start_small(answers, (void *)i, 16384);
		b[i] = start_small(asks, (void *)i, 16384);
	}
	for (int i = 0; i < PAIRS; i++) {
		finish(a[i]);
		right += (intptr_t)finish(b[i]);
	}
	__atomic_store_n(&done, 1, __ATOMIC_RELAXED);
	for (int i = 0; i < HOGS; i++) {
		finish(hogs[i]);
		got_on += computed[i] > 0;
	}
	say("%d of %d answers are right, %d of %d hogs got on", (int)right,
		PAIRS * ROUNDS, got_on, HOGS);
	return 0;
}
