/*
 * echo.c - a TCP echo server as one writes it without thinking: one thread a
 * connection, blocking accept, recv and send.
 *
 * It shows what weft is for. Nothing here knows of weft, and the same binary
 * runs both ways:
 *
 *	echo 7000                   natively: a kernel thread per connection
 *	weft echo 7000              on fibers: a handful of kernel threads
 *
 *	echo PORT [STACK_KB]        PORT 0 lets the kernel choose one
 *
 * Expect the line "listening on 127.0.0.1:PORT", then every byte back in
 * order. `grep Threads /proc/$(pidof echo)/status` counts the connections
 * natively and stays where it is under weft. SIGTERM or SIGINT ends it with
 * status 0 and a line with totals.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int listener = -1;
static volatile sig_atomic_t stopping;

static atomic_ulong served;  /* connections whose thread was started */
static atomic_ulong alive;   /* of those, still open */
static atomic_ulong peak;    /* most of them at once; main writes it */
static atomic_ulong refused; /* accepted, but no thread could be had */
static atomic_ullong echoed; /* bytes sent back */

/*
 * shutdown() ends the accept() that main stands in, and also one that it is
 * only about to enter: a mere flag would miss that one.
 */
static void stop(int sig)
{
	(void)sig;
	int saved = errno;

	stopping = 1;
	shutdown(listener, SHUT_RDWR);
	errno = saved;
}

static int send_all(int fd, const char *buf, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, buf, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		buf += n;
		len -= (size_t)n;
	}
	return 0;
}

static void *serve(void *arg)
{
	int fd = (int)(intptr_t)arg;
	char buf[4096]; /* fits the smallest stack, 16 KiB */

	for (;;) {
		ssize_t n = recv(fd, buf, sizeof(buf), 0);

		if (n < 0 && errno == EINTR)
			continue;
		/* End of file, or a peer that is gone: both end the talk. */
		if (n <= 0 || send_all(fd, buf, (size_t)n) < 0)
			break;
		atomic_fetch_add_explicit(
			&echoed, (unsigned long long)n, memory_order_relaxed);
	}
	close(fd);
	atomic_fetch_sub(&alive, 1);
	return NULL;
}

/* Say it once per second, however often it happens. */
static void complain(const char *what, int error)
{
	static time_t last;
	time_t now = time(NULL);

	if (now != last)
		fprintf(stderr, "echo: %s: %s\n", what, strerror(error));
	last = now;
}

/* The next connection, or -1 when the server is to stop. */
static int next_connection(void)
{
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		if (fd >= 0)
			return fd;
		if (stopping)
			return -1;
		switch (errno) {
		case EINTR:
		case ECONNABORTED: /* it left while it queued */
		case EPROTO:
			break;
		case EMFILE:
		case ENFILE:
		case ENOBUFS:
		case ENOMEM:
			/*
			 * The connection stays queued; it is served once
			 * others have left. Without the pause this would spin.
			 */
			complain("accept", errno);
			usleep(10000);
			break;
		default:
			perror("echo: accept");
			exit(1);
		}
	}
}

static void start_thread(const pthread_attr_t *attr, int fd)
{
	unsigned long now = atomic_fetch_add(&alive, 1) + 1;
	pthread_t thread;
	int error = pthread_create(&thread, attr, serve, (void *)(intptr_t)fd);

	if (error) {
		complain("pthread_create", error);
		atomic_fetch_sub(&alive, 1);
		atomic_fetch_add(&refused, 1);
		close(fd);
		return;
	}
	atomic_fetch_add(&served, 1);
	if (now > atomic_load(&peak))
		atomic_store(&peak, now);
}

static int open_listener(unsigned short port)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	socklen_t len = sizeof(addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int one = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
		/* Accepted sockets inherit it. */
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0 ||
		bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
		listen(fd, 4096) < 0 ||
		getsockname(fd, (struct sockaddr *)&addr, &len) < 0) {
		perror("echo: listen");
		exit(1);
	}
	printf("listening on 127.0.0.1:%u\n", ntohs(addr.sin_port));
	fflush(stdout);
	return fd;
}

static long number(const char *text, long min, long max)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || end == text || *end || value < min || value > max) {
		fprintf(stderr, "echo: '%s' is not a number from %ld to %ld\n", text, min,
			max);
		exit(2);
	}
	return value;
}

int main(int argc, char **argv)
{
	struct sigaction on_stop = {.sa_handler = stop};
	struct rlimit files;
	pthread_attr_t attr;
	long port;
	int fd;

	if (argc < 2 || argc > 3) {
		fprintf(stderr, "usage: echo PORT [STACK_KB]\n");
		return 2;
	}
	port = number(argv[1], 0, 65535);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	if (argc == 3) {
		long kb = number(argv[2], PTHREAD_STACK_MIN / 1024, 1 << 20);

		pthread_attr_setstacksize(&attr, (size_t)kb * 1024);
	}

	/* A descriptor each: take as many as this user may have. */
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	listener = open_listener((unsigned short)port);
	sigaction(SIGTERM, &on_stop, NULL);
	sigaction(SIGINT, &on_stop, NULL);

	while ((fd = next_connection()) >= 0)
		start_thread(&attr, fd);

	printf("echo: %lu connections served (at most %lu at once, %lu open "
	       "now), %lu refused, %llu bytes echoed\n",
		atomic_load(&served), atomic_load(&peak), atomic_load(&alive),
		atomic_load(&refused), atomic_load(&echoed));
	return 0;
}
