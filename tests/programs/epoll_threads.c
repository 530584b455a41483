/* epoll: several waiters, edge, oneshot, nested sets, changes while others wait. */
#include "prog.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#define WORKERS  4
#define CONNS    40
#define MESSAGES 25

static int set, stop_fd, handled;
static int pairs[CONNS][2];

static void arm(int op, int fd, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.fd = fd};

	OK(epoll_ctl(set, op, fd, &ev));
}

static void *works(void *arg)
{
	struct epoll_event ev;
	char buf[16];

	for (;;) {
		CHECK(epoll_wait(set, &ev, 1, -1) == 1);
		if (ev.data.fd == stop_fd)
			return arg;
		ssize_t n = recv(ev.data.fd, buf, 1, MSG_DONTWAIT);

		CHECK(n == 1); /* oneshot: it is ours alone */
		CHECK(send(ev.data.fd, buf, 1, 0) == 1);
		__atomic_fetch_add(&handled, 1, __ATOMIC_SEQ_CST);
		arm(EPOLL_CTL_MOD, ev.data.fd, EPOLLIN | EPOLLONESHOT);
	}
}

static void *talks(void *arg)
{
	int fd = pairs[(intptr_t)arg][1];

	for (int i = 0; i < MESSAGES; i++) {
		char c = (char)i, back;

		send_all(fd, &c, 1);
		recv_all(fd, &back, 1);
		CHECK(back == c);
	}
	return NULL;
}

static void *details(void *arg)
{
	int inner = OK(epoll_create1(0)), outer = OK(epoll_create1(0)), fds[2];
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.u64 = 5};
	struct timespec ts = {0, 3 * MS};
	uint64_t t0;

	OK(pipe(fds));
	OK(epoll_ctl(inner, EPOLL_CTL_ADD, fds[0], &ev));
	t0 = now_ns(CLOCK_MONOTONIC);
	int n = epoll_wait(inner, &ev, 1, 10);
	say("time-out: %d early %d", n, now_ns(CLOCK_MONOTONIC) - t0 < 10 * MS);
	say("pwait2: %d", epoll_pwait2(inner, &ev, 1, &ts, NULL));
	OK(write(fds[1], "x", 1));
	say("edge: %d", epoll_wait(inner, &ev, 1, -1));
	say("edge again: %d", epoll_wait(inner, &ev, 1, 0));
	OK(write(fds[1], "x", 1));
	n = epoll_pwait(inner, &ev, 1, -1, NULL);
	say("next edge: %d data %d", n, (int)ev.data.u64);
	ev = (struct epoll_event){.events = EPOLLIN, .data.u64 = 6};
	OK(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &ev));
	OK(write(fds[1], "x", 1));
	n = epoll_wait(outer, &ev, 1, -1);
	say("nested: %d data %d", n, (int)ev.data.u64);
	struct pollfd p = {inner, POLLIN, 0};
	say("polled: %d", poll(&p, 1, -1));
	say("no room: %s", RESULT(epoll_wait(outer, &ev, 0, 0)));
	say("not a set: %s", RESULT(epoll_wait(fds[0], &ev, 1, 0)));
	return arg;
}

int main(void)
{
	pthread_t workers[WORKERS], clients[CONNS];

	set = OK(epoll_create1(EPOLL_CLOEXEC));
	stop_fd = OK(eventfd(0, EFD_SEMAPHORE));
	for (int i = 0; i < WORKERS; i++) /* they wait on an empty set */
		workers[i] = start(works, NULL);
	for (intptr_t i = 0; i < CONNS; i++) {
		unix_pair(pairs[i]);
		clients[i] = start(talks, (void *)i);
		arm(EPOLL_CTL_ADD, pairs[i][0], EPOLLIN | EPOLLONESHOT);
	}
	for (int i = 0; i < CONNS; i++)
		finish(clients[i]);
	arm(EPOLL_CTL_ADD, stop_fd, EPOLLIN);
	OK(eventfd_write(stop_fd, WORKERS));
	for (int i = 0; i < WORKERS; i++)
		finish(workers[i]);
	say("%d handled", handled);
	on_thread(details, NULL);
	return 0;
}
