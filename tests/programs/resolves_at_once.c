/*
 * getaddrinfo in a thousand threads at once, each waiting for a name server that thinks
 * for a while before it answers: the resolver's own sockets, polls and locks inside
 * libc. The server is a thread of this program, at the port that each resolver's state
 * (a thread's own, resolver(3)) is told.
 */
#include "prog.h"

#include <netdb.h>
#include <resolv.h>
#include <sys/resource.h>

#define THREADS 1000
#define THINKS  300 /* ms */

static struct sockaddr_in server;
static int socket_fd, asked, right;

struct question {
	struct sockaddr_in from;
	socklen_t len;
	unsigned char text[512];
	ssize_t size;
	uint64_t due;
};

/* "t123.example" with type A: 10.0.0.123 and so on. */
static void answer(struct question *q)
{
	unsigned char *p = q->text;
	int number = 0;
	bool wants_a;
	ssize_t end = 12;

	for (int i = 1; i < 1 + p[12] - 1; i++)
		number = number * 10 + p[12 + 1 + i] - '0';
	while (p[end])
		end += p[end] + 1;
	wants_a = p[end + 2] == 1;
	end += 5;
	p[2] = 0x81; /* a response; recursion as asked */
	p[3] = 0x80;
	p[7] = wants_a; /* answers */
	p[8] = p[9] = p[10] = p[11] = 0;
	if (wants_a) {
		unsigned char rr[16] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0,
			(unsigned char)(number >> 8), (unsigned char)number};

		memcpy(p + end, rr, sizeof rr);
		end += (ssize_t)sizeof rr;
	}
	OK(sendto(socket_fd, p, (size_t)end, 0, (struct sockaddr *)&q->from, q->len));
}

static void *serves(void *arg)
{
	static struct question questions[4 * THREADS];
	int first = 0, count = 0;

	for (;;) {
		uint64_t now = now_ns(CLOCK_MONOTONIC);
		struct pollfd p = {socket_fd, POLLIN, 0};

		for (; first < count && questions[first].due <= now; first++) {
			if (questions[first].size < 0)
				return arg;
			answer(&questions[first]);
		}
		if (!poll(&p, 1, first < count ? 1 : -1))
			continue;
		struct question *q = &questions[count];

		CHECK(count < 4 * THREADS);
		q->len = sizeof q->from;
		q->size = OK(recvfrom(socket_fd, q->text, sizeof q->text, 0,
			(struct sockaddr *)&q->from, &q->len));
		q->due = now_ns(CLOCK_MONOTONIC) + THINKS * MS;
		if (q->size < 12) /* the end */
			return arg;
		__atomic_fetch_add(&asked, 1, __ATOMIC_SEQ_CST);
		count++;
	}
}

static void *resolves(void *arg)
{
	struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *ai;
	char name[64];
	unsigned want = 0x0a000000u + (unsigned)(intptr_t)arg;
	int err;

	CHECK(res_init() == 0);
	_res.nscount = 1;
	_res.nsaddr_list[0] = server;
	_res.retrans = 20;
	_res.retry = 1;
	snprintf(name, sizeof name, "t%ld.example.", (long)(intptr_t)arg);
	err = getaddrinfo(name, "80", &hints, &ai);
	if (err) {
		say("%s", gai_strerror(err));
		return NULL;
	}
	if (((struct sockaddr_in *)ai->ai_addr)->sin_addr.s_addr == htonl(want))
		__atomic_fetch_add(&right, 1, __ATOMIC_SEQ_CST);
	freeaddrinfo(ai);
	res_nclose(&_res);
	return NULL;
}

int main(void)
{
	pthread_t threads[THREADS], s;
	socklen_t len = sizeof server;
	struct rlimit files;
	int large = 1 << 20;

	OK(getrlimit(RLIMIT_NOFILE, &files)); /* a socket for each thread */
	if (files.rlim_max < 2 * THREADS) {
		say("no room for %d sockets", THREADS);
		return 77;
	}
	files.rlim_cur = 2 * THREADS;
	OK(setrlimit(RLIMIT_NOFILE, &files));
	socket_fd = OK(socket(AF_INET, SOCK_DGRAM, 0));
	OK(setsockopt(socket_fd, SOL_SOCKET, SO_RCVBUF, &large, sizeof large));
	server.sin_family = AF_INET;
	server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	OK(bind(socket_fd, (struct sockaddr *)&server, len));
	OK(getsockname(socket_fd, (struct sockaddr *)&server, &len));
	s = start(serves, NULL);
	for (intptr_t i = 0; i < THREADS; i++)
		threads[i] = start_small(resolves, (void *)i, 256 * 1024);
	for (int i = 0; i < THREADS; i++)
		finish(threads[i]);
	OK(sendto(socket_fd, "end", 3, 0, (struct sockaddr *)&server, sizeof server));
	finish(s);
	say("%d names, %d right", THREADS, right);
	return 0;
}
