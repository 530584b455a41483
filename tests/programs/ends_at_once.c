/*
 * When wait() tells that a process has ended, nothing of it is left, whatever its threads
 * waited for and however it ended: its port can be bound again, who writes to its pipe
 * gets EPIPE, who reads from its socket sees the end. (Not TCP connections: their end is
 * on its way then, see LIMITATIONS.)
 */
#include "prog.h"

#include <stddef.h>
#include <sys/un.h>

enum way { ACCEPT, POLL, POLL_TWO, DATAGRAM, LOCAL, PIPE, PAIR, WAYS };
enum how { KILL, TERM, AT_ONCE, RETURNS, HOWS };

static const char *const way_names[] = {"accept on a TCP port", "poll of a TCP port",
	"poll of a TCP and a UDP port", "recv on a UDP port", "accept on a name",
	"read of a pipe", "recv on a pair"};
static const char *const how_names[] = {"SIGKILL", "SIGTERM", "_exit", "exit"};

static unsigned number; /* of the case: it has an address of its own */
static int from[2], pair[2];

/* 0, or the error. */
static int bound(enum way way, int type, int *ret)
{
	struct sockaddr_in in = {.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(0x7f000000u | (unsigned)getpgrp() % 30000 << 8 |
					 (number % 250 + 1))};
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1);
	int fd = OK(socket(way == LOCAL ? AF_UNIX : AF_INET, type, 0)), r;

	in.sin_port = htons((uint16_t)(40000 + number % 20000));
	length += (socklen_t)snprintf(un.sun_path + 1, sizeof un.sun_path - 1,
		"weft-ends-at-once-%d-%u", (int)getpgrp(), number);
	r = way == LOCAL ? bind(fd, (struct sockaddr *)&un, length)
			 : bind(fd, (struct sockaddr *)&in, sizeof in);
	if (r == 0 && type == SOCK_STREAM)
		r = listen(fd, 5);
	*ret = fd;
	return r ? errno : 0;
}

static int waits_for[2];
/* A number that meant a TCP connection when the process that forks waited for it. */
static int connection = -1;

static void *receives(void *arg)
{
	char c;

	CHECK(recv(connection, &c, 1, 0) == 1);
	return arg;
}

static void wait_for_connection(void)
{
	int ends[2];

	tcp_pair(ends);
	connection = ends[0];
	pthread_t t = start(receives, NULL);
	usleep(20000);
	OK(write(ends[1], "x", 1));
	finish(t);
	OK(close(ends[1]));
}

static void *waits(void *arg)
{
	enum way way = *(enum way *)arg;
	struct pollfd p[2] = {{waits_for[0], POLLIN, 0}, {waits_for[1], POLLIN, 0}};
	char c;

	for (;;)
		switch (way) {
		case ACCEPT:
		case LOCAL:
			accept(waits_for[0], NULL, NULL);
			break;
		case POLL:
		case POLL_TWO:
			poll(p, way == POLL ? 1 : 2, -1);
			break;
		case DATAGRAM:
		case PAIR:
			recv(waits_for[0], &c, 1, 0);
			break;
		default:
			CHECK(read(waits_for[0], &c, 1) == 1);
		}
	return NULL;
}

static int child(enum way way, enum how how, int ready, int end)
{
	char c;

	OK(close(from[1]));
	OK(close(pair[1]));
	switch (way) {
	case PIPE:
		waits_for[0] = from[0];
		break;
	case PAIR:
		waits_for[0] = pair[0];
		break;
	default:
		CHECK(bound(way, way == DATAGRAM ? SOCK_DGRAM : SOCK_STREAM,
			      &waits_for[0]) == 0);
		if (way == POLL_TWO)
			CHECK(bound(way, SOCK_DGRAM, &waits_for[1]) == 0);
	}
	if (connection >= 0) {
		OK(dup2(waits_for[0], connection));
		OK(close(waits_for[0]));
		waits_for[0] = connection;
	}
	start(waits, &way);
	start(waits, &way);
	usleep(20000); /* they wait by now; if not, this case shows nothing this time */
	OK(write(ready, "r", 1));
	CHECK(read(end, &c, 1) == 1);
	if (how == AT_ONCE)
		_exit(0);
	return 0;
}

/* What is left of it; 0 when nothing is. */
static int left(enum way way)
{
	int fd = -1, err;
	char c = 'x';

	if (way == PIPE)
		return write(from[1], &c, 1) == 1 ? 1 : errno == EPIPE ? 0 : errno;
	if (way == PAIR)
		return recv(pair[1], &c, 1, MSG_DONTWAIT) == 0 ? 0 : errno;
	err = bound(way, way == DATAGRAM ? SOCK_DGRAM : SOCK_STREAM, &fd);
	OK(close(fd));
	if (!err && way == POLL_TWO) {
		err = bound(way, SOCK_DGRAM, &fd);
		OK(close(fd));
	}
	return err;
}

static int one(enum way way, enum how how)
{
	int ready[2], end[2], status, err;
	char c;

	number++;
	OK(pipe2(ready, O_CLOEXEC));
	OK(pipe2(end, O_CLOEXEC));
	OK(pipe(from));
	OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	pid_t pid = OK(fork());
	if (!pid)
		exit(child(way, how, ready[1], end[0]));
	OK(close(from[0]));
	OK(close(pair[0]));
	OK(close(ready[1]));
	OK(close(end[0]));
	CHECK(read(ready[0], &c, 1) == 1);
	if (how <= TERM)
		OK(kill(pid, how == KILL ? SIGKILL : SIGTERM));
	else
		OK(write(end[1], "e", 1));
	OK(waitpid(pid, &status, 0));
	err = left(way);
	CHECK(how == KILL     ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL
		: how == TERM ? WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM
			      : WIFEXITED(status) && WEXITSTATUS(status) == 0);
	OK(close(from[1]));
	OK(close(pair[1]));
	OK(close(ready[0]));
	OK(close(end[1]));
	return err;
}

/* A thread's children: what they inherit has fibers already. */
static void *all(void *arg)
{
	int rounds = *(int *)arg;

	for (int way = 0; way < WAYS; way++)
		for (int how = 0; how < HOWS; how++) {
			int again = 0, err = 0;

			for (int i = 0; i < rounds; i++) {
				int e = one((enum way)way, (enum how)how);

				again += e != 0;
				err = e ? e : err;
			}
			say("%s, %s: left over in %d, %s", way_names[way], how_names[how],
				again, err_name(err));
		}
	return NULL;
}

int main(void)
{
	int rounds = 2;

	signal(SIGPIPE, SIG_IGN);
	all(&rounds); /* before there is a thread */
	wait_for_connection();
	on_thread(all, &rounds);
	return 0;
}
