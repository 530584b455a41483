/*
 * One thread serves a number: it waits for a byte and answers with two. Another gives it
 * a file and takes that away again, while the first goes from its wait to an answer: the
 * file is closed when both have let it go, and its peer sees the end.
 */
#include "prog.h"

#include <poll.h>
#include <sched.h>

enum { PAIRS = 40, ROUNDS = 750, FIRST = 200 };

static int round_of[PAIRS]; /* which file the number has by now; -1: no more */

static void *serves(void *arg)
{
	const int g = (int)(long)arg, fd = FIRST + g;
	int now, last = 0;
	char b;

	for (;;) {
		struct iovec v = {&b, 1};
		struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};

		while ((now = __atomic_load_n(&round_of[g], __ATOMIC_ACQUIRE)) == last)
			sched_yield();
		if (now < 0)
			return NULL;
		last = now;
		while (recvmsg(fd, &m, 0) > 0 && send(fd, &b, 1, MSG_NOSIGNAL) > 0 &&
			send(fd, &b, 1, MSG_NOSIGNAL) > 0)
			;
	}
}

/* The end of the peer's stream, of which some bytes may be left. Who sees its number
 * closed only after it has begun to wait is woken by one more byte. */
static bool sees_the_end(int fd)
{
	struct pollfd p = {fd, POLLIN, 0};
	char b[64];

	for (;;) {
		if (!poll(&p, 1, 3)) {
			send(fd, "y", 1, MSG_NOSIGNAL);
			if (!poll(&p, 1, 5000))
				return false;
		}
		if (recv(fd, b, sizeof b, MSG_DONTWAIT) <= 0)
			return true;
	}
}

static void *closes(void *arg)
{
	const int g = (int)(long)arg, fd = FIRST + g;
	unsigned seed = (unsigned)g + 1;
	long lost = 0;

	for (int n = 1; n <= ROUNDS; n++) {
		int pair[2];
		char b;

		unix_pair(pair);
		OK(dup2(pair[0], fd));
		OK(close(pair[0]));
		__atomic_store_n(&round_of[g], n, __ATOMIC_RELEASE);
		for (int i = rand_r(&seed) % 4; i--;) {
			OK(send(pair[1], "x", 1, 0));
			OK(recv(pair[1], &b, 1, 0));
			OK(recv(pair[1], &b, 1, 0));
		}
		for (int i = rand_r(&seed) % 3; i--;)
			sched_yield();
		OK(send(pair[1], "x", 1, 0));
		if (rand_r(&seed) % 2)
			sched_yield();
		OK(close(fd));
		lost += !sees_the_end(pair[1]);
		OK(close(pair[1]));
	}
	__atomic_store_n(&round_of[g], -1, __ATOMIC_RELEASE);
	return (void *)lost;
}

int main(void)
{
	pthread_t server[PAIRS], closer[PAIRS];
	long lost = 0;
	void *r;

	for (long g = 0; g < PAIRS; g++) {
		ZERO(pthread_create(&server[g], NULL, serves, (void *)g));
		ZERO(pthread_create(&closer[g], NULL, closes, (void *)g));
	}
	for (int g = 0; g < PAIRS; g++) {
		ZERO(pthread_join(server[g], NULL));
		ZERO(pthread_join(closer[g], &r));
		lost += (long)r;
	}
	say("files that nobody closed: %ld", lost);
	return 0;
}
