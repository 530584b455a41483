/* pairs.h - two threads each that ask and answer each other, beside whatever is tested.
 */
#ifndef TESTS_PROGRAMS_PAIRS_H
#define TESTS_PROGRAMS_PAIRS_H

#include "prog.h"

struct pair {
	pthread_t asks, answers;
	int fds[2], rounds;
	useconds_t pause; /* before each question */
};

static void *pair_answers(void *arg)
{
	struct pair *p = (struct pair *)arg;
	char c;

	while (OK(read(p->fds[0], &c, 1)) == 1) {
		c++;
		CHECK(write(p->fds[0], &c, 1) == 1);
	}
	return NULL;
}

static void *pair_asks(void *arg)
{
	struct pair *p = (struct pair *)arg;
	intptr_t right = 0;

	for (int n = 0; n < p->rounds; n++) {
		char c = (char)n;

		usleep(p->pause);
		CHECK(write(p->fds[1], &c, 1) == 1);
		CHECK(read(p->fds[1], &c, 1) == 1);
		right += c == (char)(n + 1);
	}
	OK(shutdown(p->fds[1], SHUT_WR));
	return (void *)right;
}

static void pair_start(struct pair *p, int rounds, useconds_t pause)
{
	p->rounds = rounds;
	p->pause = pause;
	unix_pair(p->fds);
	p->answers = start_small(pair_answers, p, 16384);
	p->asks = start_small(pair_asks, p, 16384);
}

/* How many answers were right. */
static int pair_finish(struct pair *p)
{
	int right = (int)(intptr_t)finish(p->asks);

	finish(p->answers);
	return right;
}

#endif
