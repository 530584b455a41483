/*
 * connect(2) to a TCP listener whose queue is full waits (net/ipv4/af_inet.c,
 * inet_stream_connect): interrupted, or timed out, it goes on, and the same call again
 * waits for it and tells what came of it. Then the socket is connected, or free for
 * another attempt.
 */
#include "sig.h"

#include <netinet/in.h>

static struct sockaddr_in address = {.sin_family = AF_INET};
static int entered, left;

static int listens(int queue)
{
	int fd = OK(socket(AF_INET, SOCK_STREAM, 0));
	socklen_t length = sizeof address;

	OK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)));
	OK(bind(fd, (struct sockaddr *)&address, sizeof address));
	OK(listen(fd, queue));
	OK(getsockname(fd, (struct sockaddr *)&address, &length));
	return fd;
}

static const char *connects(int fd)
{
	return connect(fd, (struct sockaddr *)&address, sizeof address)
		       ? strerrorname_np(errno)
		       : "connected";
}

/* One is queued, the next has to wait. */
static int fills(void)
{
	int fd = OK(socket(AF_INET, SOCK_STREAM, 0));

	CHECK(strcmp(connects(fd), "connected") == 0);
	return fd;
}

struct attempts {
	int fd;
	const char *first, *second;
};

static void *attempts(void *arg)
{
	struct attempts *a = arg;

	sig_mask(SIG_UNBLOCK, SIGUSR1);
	__atomic_store_n(&entered, 1, __ATOMIC_SEQ_CST);
	a->first = connects(a->fd);
	__atomic_store_n(&left, 1, __ATOMIC_SEQ_CST);
	a->second = connects(a->fd);
	return NULL;
}

/* A thread that was interrupted and waits again. */
static pthread_t interrupted(struct attempts *a)
{
	entered = left = 0;
	pthread_t t = start(attempts, a);

	while (!__atomic_load_n(&entered, __ATOMIC_SEQ_CST))
		usleep(1000);
	usleep(100000);
	ZERO(pthread_kill(t, SIGUSR1));
	while (!__atomic_load_n(&left, __ATOMIC_SEQ_CST))
		usleep(1000);
	usleep(100000);
	return t;
}

static void *gets_through(void *arg)
{
	struct attempts a = {.fd = OK(socket(AF_INET, SOCK_STREAM, 0))};
	const char *third;
	int listener, filler;
	pthread_t t;

	listener = listens(0);
	filler = fills();
	t = interrupted(&a);
	OK(close(OK(accept(listener, NULL, NULL))));
	finish(t);
	third = connects(a.fd);
	say("interrupted: %s, again: %s, and again: %s, %s", a.first, a.second, third,
		connects(a.fd));
	OK(close(a.fd));
	OK(close(filler));
	OK(close(listener));
	return arg;
}

static void *is_refused(void *arg)
{
	struct attempts a = {.fd = OK(socket(AF_INET, SOCK_STREAM, 0))};
	const char *third;
	int listener, filler;
	pthread_t t;

	address.sin_port = 0;
	listener = listens(0);
	filler = fills();
	t = interrupted(&a);
	OK(close(listener));
	finish(t);
	third = connects(a.fd);
	listener = listens(5);
	say("interrupted: %s, again: %s, and again: %s, with a listener: %s", a.first,
		a.second, third, connects(a.fd));
	OK(close(a.fd));
	OK(close(filler));
	OK(close(listener));
	return arg;
}

static void *times_out(void *arg)
{
	struct timeval tv = {0, 100000};
	int fd = OK(socket(AF_INET, SOCK_STREAM, 0)), listener, filler;
	const char *first, *second;

	address.sin_port = 0;
	listener = listens(0);
	filler = fills();
	OK(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv));
	first = connects(fd);
	second = connects(fd);
	say("timed out: %s, again: %s", first, second);
	OK(close(fd));
	OK(close(filler));
	OK(close(listener));
	return arg;
}

int main(void)
{
	sig_mask(SIG_BLOCK, SIGUSR1);
	sig_install(SIGUSR1, 0, sig_count);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	on_thread(gets_through, NULL);
	on_thread(is_refused, NULL);
	on_thread(times_out, NULL);
	return 0;
}
