/*
 * half_closed.c - waiting on a connection whose peer has shut down its side
 *
 * The kernel's own poll ends for POLLRDHUP only when that was asked for; io_uring's
 * ends always. Whatever else is waited for must still be waited for, time-outs must
 * come, and signals must interrupt.
 */
#include "prog.h"

#include <sys/select.h>

static int near, far;
static pthread_barrier_t both;

static void fill(int fd)
{
	static char block[65536];

	while (send(fd, block, sizeof block, MSG_DONTWAIT) > 0)
		;
	CHECK(errno == EAGAIN);
}

static void *drain(void *arg)
{
	static char block[65536];
	ssize_t n;

	(void)arg;
	pthread_barrier_wait(&both);
	usleep(20000);
	do
		n = recv(far, block, sizeof block, 0);
	while (n > 0);
	return (void *)(intptr_t)n;
}

static void ignore(int sig)
{
	(void)sig;
}

static pthread_t waiter;

static void *interrupt(void *arg)
{
	pthread_barrier_wait(&both);
	usleep(20000);
	pthread_kill(waiter, SIGUSR1);
	return arg;
}

static void *wait_all(void *arg)
{
	struct pollfd p = {.fd = near};
	struct pollfd two[2] = {{.fd = near}, {.fd = near, .events = POLLPRI}};
	struct timespec short_while = {0, 30000000};
	pthread_t thread;
	fd_set set;
	int n;

	waiter = pthread_self();
	n = poll(&p, 1, 50);
	say("nothing asked: %d %x", n, p.revents);
	p.events = POLLPRI;
	n = poll(&p, 1, 50);
	say("urgent data: %d %x", n, p.revents);
	n = poll(two, 2, 50);
	say("two: %d %x %x", n, two[0].revents, two[1].revents);
	p.events = POLLRDHUP;
	n = poll(&p, 1, -1);
	say("the shutdown itself: %d %x", n, p.revents);
	FD_ZERO(&set);
	FD_SET(near, &set);
	n = pselect(near + 1, NULL, NULL, &set, &short_while, NULL);
	say("exceptional: %d %d", n, FD_ISSET(near, &set));

	thread = start(interrupt, NULL);
	p.events = POLLPRI;
	pthread_barrier_wait(&both);
	n = poll(&p, 1, -1);
	say("interrupted: %d %s", n, strerror(errno));
	finish(thread);

	thread = start(interrupt, NULL);
	FD_SET(near, &set);
	pthread_barrier_wait(&both);
	n = select(near + 1, NULL, NULL, &set, NULL);
	say("interrupted: %d %s, asked %d", n, strerror(errno),
		FD_ISSET(near, &set) != 0);
	finish(thread);

	fill(near);
	p.events = POLLOUT;
	n = poll(&p, 1, 50);
	say("full: %d", n);
	thread = start(drain, NULL);
	pthread_barrier_wait(&both);
	n = poll(&p, 1, -1);
	say("room: %d %x", n, p.revents);
	fill(near);
	FD_SET(near, &set);
	n = select(near + 1, NULL, &set, NULL, NULL);
	say("room: %d %d", n, FD_ISSET(near, &set) != 0);
	close(near);
	finish(thread);
	return arg;
}

int main(void)
{
	struct sigaction sa = {.sa_handler = ignore};
	int fds[2];

	OK(sigaction(SIGUSR1, &sa, NULL));
	pthread_barrier_init(&both, NULL, 2);
	tcp_pair(fds);
	near = fds[0];
	far = fds[1];
	OK(shutdown(far, SHUT_WR));
	on_thread(wait_all, NULL);
	return 0;
}
