/*
 * System calls that meet memory which another thread of the process serves (userfaultfd):
 * the kernel waits inside them, and no signal ends that. The thread that serves them
 * waits for the next fault by read, poll or select, and between by sleeps and a socket;
 * it must have its turn whatever is stuck.
 */
#include "faults.h"
#include "pairs.h"

#include <sys/select.h>

#define WRITERS 16
#define PAGES   640 /* for each way to wait */
#define ASKED   500 /* meanwhile, by those who wait on one carrier after the other */

enum way { BY_READ, BY_POLL, BY_SELECT, WAYS };
static const char *const names[] = {"read", "poll", "select"};

static int uffd, next_page, stop[2];
static enum way way;
static char *memory;

/* False: there is none, and it is to end. */
static bool waits_for_one(void)
{
	struct pollfd p[2] = {{uffd, POLLIN, 0}, {stop[0], POLLIN, 0}};
	fd_set set;

	switch (way) {
	case BY_POLL:
		OK(poll(p, 2, -1));
		return !p[1].revents;
	case BY_SELECT:
		FD_ZERO(&set);
		FD_SET(uffd, &set);
		FD_SET(stop[0], &set);
		OK(select((uffd > stop[0] ? uffd : stop[0]) + 1, &set, NULL, NULL, NULL));
		return !FD_ISSET(stop[0], &set);
	default:
		return true;
	}
}

static void *serves(void *arg)
{
	struct uffd_msg msg;

	/* By read alone it ends with the last page. */
	for (bool last = false; !last && waits_for_one();) {
		ssize_t r = read(uffd, &msg, sizeof msg);

		if (r < 0 && errno == EAGAIN)
			continue;
		CHECK(r == sizeof msg && msg.event == UFFD_EVENT_PAGEFAULT);
		size_t n = (msg.arg.pagefault.address - (uint64_t)memory) / PAGE;

		last = way == BY_READ && n == PAGES;
		if (n % 8 == 0)
			usleep(100);
		CHECK(!faults_serve(uffd, memory, n) || errno == EEXIST);
	}
	return arg;
}

static void *writes(void *arg)
{
	intptr_t wrong = 0;
	int ends[2];
	char c;

	OK(pipe(ends));
	for (;;) {
		int n = __atomic_fetch_add(&next_page, 1, __ATOMIC_SEQ_CST);

		if (n >= PAGES)
			break;
		CHECK(write(ends[1], memory + (size_t)n * PAGE, 1) == 1);
		CHECK(read(ends[0], &c, 1) == 1);
		wrong += c != (char)(n + 1);
	}
	close(ends[0]);
	close(ends[1]);
	(void)arg;
	return (void *)wrong;
}

static void one_way(void)
{
	const size_t size = (size_t)(PAGES + 1) * PAGE;
	pthread_t server, writer[WRITERS];
	struct pair pair;
	intptr_t wrong = 0;

	uffd = faults_open(way == BY_READ ? 0 : O_NONBLOCK, size, &memory);
	OK(pipe(stop));
	next_page = 0;
	server = start(serves, NULL);
	pair_start(&pair, ASKED, 20);
	for (int i = 0; i < WRITERS; i++)
		writer[i] = start(writes, NULL);
	for (int i = 0; i < WRITERS; i++)
		wrong += (intptr_t)finish(writer[i]);
	if (way == BY_READ)
		wrong += memory[(size_t)PAGES * PAGE] != (char)(PAGES + 1);
	else
		CHECK(write(stop[1], "", 1) == 1);
	finish(server);
	wrong += pair_finish(&pair) != ASKED;
	for (int i = 0; i < 2; i++) {
		close(pair.fds[i]);
		close(stop[i]);
	}
	close(uffd);
	munmap(memory, size);
	say("%s: %d pages, %d wrong", names[way], PAGES, (int)wrong);
}

int main(void)
{
	for (; way < WAYS; way++)
		one_way();
	return 0;
}
