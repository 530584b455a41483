/*
 * A thousand threads ask and answer each other in pairs, beside threads that compute all
 * the time, more of them than there are CPUs, until the last answer has come. All answers
 * come, and those that compute get on as well.
 */
#include "pairs.h"

#define PAIRS  500
#define ROUNDS 10
#define HOGS   4

static int done;
static uint64_t computed[HOGS];

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
	static struct pair pairs[PAIRS];
	pthread_t hogs[HOGS];
	int right = 0, got_on = 0;

	for (intptr_t i = 0; i < HOGS; i++)
		hogs[i] = start(hog, (void *)i);
	for (int i = 0; i < PAIRS; i++)
		pair_start(&pairs[i], ROUNDS, 500);
	for (int i = 0; i < PAIRS; i++)
		right += pair_finish(&pairs[i]);
	__atomic_store_n(&done, 1, __ATOMIC_RELAXED);
	for (int i = 0; i < HOGS; i++) {
		finish(hogs[i]);
		got_on += computed[i] > 0;
	}
	say("%d of %d answers are right, %d of %d hogs got on", right, PAIRS * ROUNDS,
		got_on, HOGS);
	return 0;
}
