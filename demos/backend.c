/*
 * backend.c - the server behind the proxies of the demo: one thread, epoll,
 * no threads to put on fibers. It is the same natively in every run, so what
 * differs is the proxy in front of it.
 *
 *	backend PORT                PORT 0 lets the kernel choose one
 *
 * GET /N/SEED answers with the N bytes that body.h describes, on a connection
 * that stays open unless the request says otherwise (HTTP/1.0, or
 * "Connection: close"). Expect the line "listening on 127.0.0.1:PORT".
 * SIGTERM or SIGINT ends it with status 0 and a line with totals.
 *
 * A client may send its next request before it has read the answer to the
 * last one; it is then answered when the last one is out.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "body.h"

#define REQUEST_MAX 4096

struct conn {
	int fd;
	bool close_after;
	bool answering;
	uint32_t request_len;
	uint32_t head_len, head_done;
	const unsigned char *body;
	uint32_t body_len, body_done;
	char head[128];
	char request[REQUEST_MAX + 1]; /* room for a NUL */
};

static int epoll_fd;
static unsigned long connections, answers;

static void conn_close(struct conn *c)
{
	close(c->fd);
	free(c);
}

static void answer_prepare(struct conn *c)
{
	uint32_t len = 0, seed = 0;
	bool found = strncmp(c->request, "GET ", 4) == 0 &&
		     body_parse(c->request + 4, &len, &seed) == 0;

	c->close_after = strcasestr(c->request, "\r\nConnection: close") ||
			 (strstr(c->request, " HTTP/1.0\r\n") &&
				 !strcasestr(c->request, "\r\nConnection: keep-alive"));
	c->body = body_at(seed);
	c->body_len = found ? len : 0;
	c->body_done = c->head_done = 0;
	c->head_len = (uint32_t)snprintf(c->head, sizeof(c->head),
		"HTTP/1.1 %s\r\nContent-Length: %u\r\n%s\r\n",
		found ? "200 OK" : "404 Not Found", c->body_len,
		c->close_after ? "Connection: close\r\n" : "");
	c->answering = true;
	answers++;
}

/* 1 when the answer is out, 0 when it would block, -1 when the client left. */
static int answer_send(struct conn *c)
{
	while (c->head_done < c->head_len || c->body_done < c->body_len) {
		struct iovec parts[2] = {
			{c->head + c->head_done, c->head_len - c->head_done},
			{(void *)(c->body + c->body_done), c->body_len - c->body_done},
		};
		struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
		ssize_t n = sendmsg(c->fd, &message, MSG_NOSIGNAL);
		uint32_t head;

		if (n < 0)
			return errno == EAGAIN ? 0 : -1;
		head = c->head_len - c->head_done;
		if (head > n)
			head = (uint32_t)n;
		c->head_done += head;
		c->body_done += (uint32_t)n - head;
	}
	return 1;
}

/* The end of the first request in the buffer, or NULL. */
static char *request_end(struct conn *c)
{
	char *end;

	c->request[c->request_len] = '\0';
	end = strstr(c->request, "\r\n\r\n");
	return end ? end + 4 : NULL;
}

/*
 * Go on with a connection until it would block. Edge-triggered: it is left
 * only after an EAGAIN, of whichever direction it then waits for.
 */
static void conn_advance(struct conn *c)
{
	for (;;) {
		char *end;
		ssize_t n;

		if (c->answering) {
			int done = answer_send(c);

			if (done == 0)
				return;
			if (done < 0 || c->close_after)
				goto out_close;
			c->answering = false;
		}
		end = request_end(c);
		if (end) {
			char kept = *end;

			*end = '\0'; /* the head alone is searched */
			answer_prepare(c);
			*end = kept;
			c->request_len -= (uint32_t)(end - c->request);
			memmove(c->request, end, c->request_len);
			continue;
		}
		if (c->request_len == REQUEST_MAX)
			goto out_close;
		n = recv(c->fd, c->request + c->request_len, REQUEST_MAX - c->request_len,
			0);
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0)
			goto out_close;
		c->request_len += (uint32_t)n;
	}
out_close:
	conn_close(c);
}

static void accept_all(int listener)
{
	int fd;

	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		struct conn *c = calloc(1, sizeof(*c));
		struct epoll_event event = {
			.events = EPOLLIN | EPOLLOUT | EPOLLET,
			.data.ptr = c,
		};

		if (!c || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
			perror("backend: accept");
			close(fd);
			free(c);
			continue;
		}
		c->fd = fd;
		connections++;
	}
	if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) {
		perror("backend: accept");
		usleep(10000);
	}
}

static int open_listener(unsigned short port)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	socklen_t len = sizeof(addr);
	int one = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0 ||
		bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
		listen(fd, 4096) < 0 ||
		getsockname(fd, (struct sockaddr *)&addr, &len) < 0) {
		perror("backend: listen");
		exit(1);
	}
	printf("listening on 127.0.0.1:%u\n", ntohs(addr.sin_port));
	fflush(stdout);
	return fd;
}

static void watch(int *fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = fd};

	if (*fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, *fd, &event) < 0) {
		perror("backend: epoll");
		exit(1);
	}
}

int main(int argc, char **argv)
{
	static int listener, signals; /* their addresses mark the events */
	struct epoll_event events[256];
	struct rlimit files;
	sigset_t stop;
	char *end;
	long port;

	port = argc > 1 ? strtol(argv[1], &end, 10) : -1;
	if (argc != 2 || end == argv[1] || *end || port < 0 || port > 65535) {
		fprintf(stderr, "usage: backend PORT\n");
		return 2;
	}
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	sigemptyset(&stop);
	sigaddset(&stop, SIGTERM);
	sigaddset(&stop, SIGINT);
	sigprocmask(SIG_BLOCK, &stop, NULL);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_fd < 0 || body_init() < 0) {
		perror("backend");
		return 1;
	}
	listener = open_listener((unsigned short)port);
	signals = signalfd(-1, &stop, SFD_CLOEXEC);
	watch(&listener);
	watch(&signals);

	for (;;) {
		int n = epoll_wait(epoll_fd, events, 256, -1);

		for (int i = 0; i < n; i++) {
			void *who = events[i].data.ptr;

			if (who == &signals)
				goto out;
			if (who == &listener)
				accept_all(listener);
			else
				conn_advance(who);
		}
	}
out:
	printf("backend: %lu connections served, %lu answers\n", connections, answers);
	return 0;
}
