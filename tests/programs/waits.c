/*
 * What only shows where a descriptor is waited for by its number: acceptors in two
 * processes, connections that nobody answers yet, numbers that are closed or mean
 * another file while somebody waits, sets of sets (the argument says which).
 */
#include "prog.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/un.h>

/* ---- many acceptors, two processes, one listener ----------------------------- */

enum { ACCEPTORS = 6, CONNECTIONS = 200 };

static int listener, accepted;

static void *accepts(void *arg)
{
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		if (fd < 0) {
			CHECK(errno == EINVAL); /* it was shut down */
			return arg;
		}
		__atomic_fetch_add(&accepted, 1, __ATOMIC_SEQ_CST);
		send_all(fd, "x", 1);
		OK(close(fd));
	}
}

static void accept_until_shutdown(int report)
{
	pthread_t threads[ACCEPTORS];

	for (int i = 0; i < ACCEPTORS; i++)
		threads[i] = start(accepts, NULL);
	for (int i = 0; i < ACCEPTORS; i++)
		finish(threads[i]);
	OK(write(report, &accepted, sizeof accepted));
}

static void *connects_often(void *arg)
{
	long served = 0;

	for (int i = 0; i < CONNECTIONS; i++) {
		int fd = tcp_connect(arg);
		char c[2];

		served += recv(fd, c, 1, 0) == 1 && recv(fd, c, 1, 0) == 0;
		OK(close(fd));
	}
	return (void *)served;
}

static void herd(void)
{
	struct sockaddr_in address;
	pthread_t clients[3];
	long served = 0;
	int report[2], here, there, status;
	pid_t pid;

	listener = tcp_listen(128, &address);
	OK(pipe(report));
	pid = OK(fork());
	if (pid == 0) {
		accept_until_shutdown(report[1]);
		exit(0);
	}
	pthread_t threads[ACCEPTORS];

	for (int i = 0; i < ACCEPTORS; i++)
		threads[i] = start(accepts, NULL);
	for (int i = 0; i < 3; i++)
		clients[i] = start(connects_often, &address);
	for (int i = 0; i < 3; i++)
		served += (long)finish(clients[i]);
	OK(shutdown(listener, SHUT_RDWR));
	for (int i = 0; i < ACCEPTORS; i++)
		finish(threads[i]);
	here = accepted;
	CHECK(read(report[0], &there, sizeof there) == sizeof there);
	OK(waitpid(pid, &status, 0));
	say("herd: %ld served, %d accepted, %s", served, here + there,
		describe_status(status));
}

/* ---- accept and connect that wait -------------------------------------------- */

static void on_signal(int sig)
{
	(void)sig;
}

struct connecting {
	struct sockaddr_in address;
	int fd, timeout_ms;
	const char *first, *second;
	bool done;
};

static void *connects(void *arg)
{
	struct connecting *c = arg;
	struct timeval tv = {c->timeout_ms / 1000, c->timeout_ms % 1000 * 1000};

	c->fd = OK(socket(AF_INET, SOCK_STREAM, 0));
	if (c->timeout_ms)
		OK(setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv));
	c->first = strdup(RESULT(
		connect(c->fd, (struct sockaddr *)&c->address, sizeof c->address)));
	c->done = true;
	if (strcmp(c->first, "-1 EINTR") == 0)
		c->second = strdup(RESULT(connect(
			c->fd, (struct sockaddr *)&c->address, sizeof c->address)));
	return NULL;
}

/* A listener whose queue is full drops what asks for a connection. */
static void unanswered(void)
{
	struct connecting c[3] = {{.fd = -1}, {.fd = -1, .timeout_ms = 100}, {.fd = -1}};
	struct sigaction act = {.sa_handler = on_signal};
	struct sockaddr_in address;
	pthread_t t[3];
	int l = tcp_listen(0, &address), first = tcp_connect(&address), got[4];

	OK(sigaction(SIGUSR1, &act, NULL));
	for (int i = 0; i < 3; i++) {
		c[i].address = address;
		t[i] = start(connects, &c[i]);
	}
	finish(t[1]);
	say("unanswered: with a time-out %s", c[1].first);
	settle();
	say("unanswered: others wait: %d %d", !c[0].done, !c[2].done);
	ZERO(pthread_kill(t[2], SIGUSR1));
	settle();
	say("unanswered: interrupted %s", c[2].first);
	/* Room for all, also for the one that went on after its time-out. */
	OK(listen(l, 16));
	for (int i = 0; i < 4; i++)
		got[i] = OK(accept(l, NULL, NULL));
	finish(t[0]);
	finish(t[2]);
	say("unanswered: then %s, %s", c[0].first, c[2].second);
	OK(close(c[1].fd));
	for (int i = 0; i < 4; i++)
		OK(close(got[i]));
	OK(close(first));
	OK(close(l));

	/* Nobody listens there any more. */
	c[0] = (struct connecting){.address = address};
	on_thread(connects, &c[0]);
	say("refused: %s", c[0].first);
}

static struct sockaddr_un local = {.sun_family = AF_UNIX, .sun_path = "waits.socket"};
static bool local_done;

static void *connects_locally(void *arg)
{
	int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));

	OK(connect(fd, (struct sockaddr *)&local, sizeof local));
	local_done = true;
	OK(close(fd));
	return arg;
}

static void backlog(void)
{
	int l = OK(socket(AF_UNIX, SOCK_STREAM, 0)), extra = 0;
	pthread_t t;

	unlink(local.sun_path);
	OK(bind(l, (struct sockaddr *)&local, sizeof local));
	OK(listen(l, 0));
	on_thread(connects_locally, NULL);
	local_done = false;
	t = start(connects_locally, NULL);
	settle();
	say("backlog: waits: %d", !local_done);
	for (int i = 0; i < 2; i++, extra++)
		OK(close(OK(accept(l, NULL, NULL))));
	finish(t);
	say("backlog: connected: %d", local_done);
	OK(close(l));
}

/* What accept and connect say at once, they say at once. */
static void *errors(void *arg)
{
	int udp = OK(socket(AF_INET, SOCK_DGRAM, 0)),
	    tcp = OK(socket(AF_INET, SOCK_STREAM, 0));
	int pair[2], dgram[2], fds[2];
	struct sockaddr_in address = {.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons(9)};
	struct sockaddr nowhere = {.sa_family = AF_UNSPEC};

	tcp_pair(pair);
	OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, dgram));
	OK(pipe(fds));
	say("accept: %s %s %s %s %s %s", RESULT(accept(udp, NULL, NULL)),
		RESULT(accept(tcp, NULL, NULL)), RESULT(accept(pair[0], NULL, NULL)),
		RESULT(accept(dgram[0], NULL, NULL)), RESULT(accept(fds[0], NULL, NULL)),
		RESULT(accept(-1, NULL, NULL)));
	say("accept4: %s", RESULT(accept4(tcp, NULL, NULL, 0x10)));
	say("connect: %s %s %s %s %s %s",
		RESULT(connect(udp, (struct sockaddr *)&address, sizeof address)),
		RESULT(connect(udp, &nowhere, sizeof nowhere)),
		RESULT(connect(pair[0], (struct sockaddr *)&address, sizeof address)),
		RESULT(connect(tcp, (struct sockaddr *)bad_pointer, sizeof address)),
		RESULT(connect(fds[0], (struct sockaddr *)&address, sizeof address)),
		RESULT(connect(tcp, (struct sockaddr *)&address, 3)));
	return arg;
}

/* ---- numbers ------------------------------------------------------------------- */

static int a[2], b[2];
static struct pollfd polled[3];

static void *polls_three(void *arg)
{
	int n;

	polled[0] = (struct pollfd){a[0], POLLIN, 0};
	polled[1] = (struct pollfd){b[0], POLLIN, 0};
	polled[2] = (struct pollfd){a[0], POLLIN | POLLPRI, 0}; /* the same again */
	n = poll(polled, 3, 10000);
	say("%s: poll %d: %#x %#x %#x", (const char *)arg, n, polled[0].revents,
		polled[1].revents, polled[2].revents);
	return NULL;
}

static void *receives(void *arg)
{
	char c = '-';
	ssize_t n = recv(a[0], &c, 1, 0);

	say("%s: recv %zd %c", (const char *)arg, n, c);
	return NULL;
}

static void *fills(void *arg)
{
	static char block[1 << 20];
	ssize_t n = send(a[0], block, sizeof block, MSG_NOSIGNAL);

	say("%s: sent %zd", (const char *)arg, n);
	return NULL;
}

static void drain(int fd, size_t len)
{
	static char block[65536];

	while (len) {
		ssize_t n =
			OK(recv(fd, block, len < sizeof block ? len : sizeof block, 0));

		CHECK(n > 0);
		len -= (size_t)n;
	}
}

static void numbers(void)
{
	pthread_t t, u;
	struct pollfd p;

	/* One number in both directions, by two threads. */
	tcp_pair(a);
	t = start(receives, (void *)"both ways");
	settle();
	u = start(fills, (void *)"both ways");
	settle();
	drain(a[1], 1 << 20);
	finish(u);
	send_all(a[1], "r", 1);
	finish(t);
	OK(close(a[1]));

	/* Closed by another thread: poll holds the file until it looks again. */
	OK(close(a[0]));
	tcp_pair(a);
	tcp_pair(b);
	t = start(polls_three, (void *)"closed");
	settle();
	OK(close(a[0]));
	p = (struct pollfd){a[1], POLLIN, 0};
	say("closed: the peer sees nothing: %d", poll(&p, 1, 0));
	send_all(a[1], "x", 1);
	finish(t);
	p = (struct pollfd){a[1], POLLIN, 0};
	say("closed: now it does: %d", poll(&p, 1, 5000));
	OK(close(a[1]));

	/* Another file under that number, while the old one lives under one more. */
	tcp_pair(a);
	t = start(receives, (void *)"replaced");
	settle();
	int old = OK(dup(a[0]));

	OK(dup2(b[0], a[0]));
	u = start(polls_three, (void *)"replaced");
	settle();
	send_all(a[1], "o", 1); /* for the first one alone */
	finish(t);
	settle();
	send_all(b[1], "n", 1);
	finish(u);
	OK(close(old));
	OK(close(a[0]));
	OK(close(a[1]));

	/* Waited for before under the same number, by both carriers perhaps. */
	for (int i = 0; i < 20; i++) {
		tcp_pair(a);
		t = start(receives, (void *)"again");
		if (i % 2)
			usleep(1000);
		send_all(a[1], &"abcdefghijklmnopqrst"[i], 1);
		finish(t);
		OK(close(a[0]));
		OK(close(a[1]));
	}
	OK(close(b[0]));
	OK(close(b[1]));
}

/* ---- sets of sets, and what cannot be in a set ----------------------------------- */

static int deepest;

static void *waits_in_set(void *arg)
{
	struct epoll_event ev;
	int n = epoll_wait((int)(intptr_t)arg, &ev, 1, 10000);

	say("set of depth %d: %d event", deepest, n);
	return NULL;
}

static void *polls_file(void *arg)
{
	struct pollfd p[2] = {
		{OK(open("waits.file", O_RDWR | O_CREAT, 0600)), POLLPRI, 0}, {-1, 0, 0}};
	struct pollfd q = p[0];

	(void)arg;
	say("regular file: urgent data %s", RESULT(poll(p, 2, 100)));
	say("regular file alone: urgent data %s", RESULT(poll(&q, 1, 100)));
	q.events = POLLIN | POLLOUT;
	say("regular file: %s", RESULT(poll(&q, 1, 100)));
	say("regular file: %#x", q.revents);
	return NULL;
}

static void sets(void)
{
	int fd = OK(eventfd(0, 0)), inner = fd;
	uint64_t one = 1;
	pthread_t t;

	for (deepest = 0; deepest < 10; deepest++) {
		struct epoll_event ev = {.events = EPOLLIN};
		int set = OK(epoll_create1(0));

		if (epoll_ctl(set, EPOLL_CTL_ADD, inner, &ev) < 0) {
			say("set of depth %d: %s", deepest + 1, err_name(errno));
			close(set);
			break;
		}
		inner = set;
		/* waited for at each depth, so that something may remember it */
		t = start(waits_in_set, (void *)(intptr_t)set);
		settle();
		OK(write(fd, &one, sizeof one));
		finish(t);
		CHECK(read(fd, &one, sizeof one) == sizeof one);
		one = 1;
	}
	on_thread(polls_file, NULL);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (strcmp(what, "herd") == 0) {
		herd();
	} else if (strcmp(what, "connect") == 0) {
		unanswered();
		backlog();
		on_thread(errors, NULL);
	} else if (strcmp(what, "numbers") == 0) {
		numbers();
	} else if (strcmp(what, "sets") == 0) {
		sets();
	} else {
		return 2;
	}
	return 0;
}
