/* close, shutdown and dup2 of a descriptor that another thread is blocked on. */
#include "prog.h"

static int fds[2], listener;
static struct sockaddr_in address;

static void *receives(void *arg)
{
	char c = '-';
	ssize_t n = recv(fds[0], &c, 1, 0);

	say("%s: recv %zd %c", (char *)arg, n, n > 0 ? c : '-');
	return NULL;
}

static void *polls(void *arg)
{
	struct pollfd p = {fds[0], POLLIN, 0};
	int n = poll(&p, 1, -1);

	say("%s: poll %d, hup or in: %d", (char *)arg, n,
		(p.revents & (POLLIN | POLLHUP)) != 0);
	return NULL;
}

static void *accepts(void *arg)
{
	int c = accept(listener, NULL, NULL);

	say("%s: accept %d %s", (char *)arg, c, err_name(errno));
	return NULL;
}

static void *sends(void *arg)
{
	size_t len = 32 << 20;
	char *block = calloc(1, len);
	ssize_t n = send(fds[0], block, len, MSG_NOSIGNAL);

	say("%s: send was partial or refused: %d", (char *)arg, n < (ssize_t)len);
	free(block);
	return NULL;
}

static bool sees_end(int fd)
{
	char c;

	return recv(fd, &c, 1, MSG_DONTWAIT) == 0;
}

/* shutdown wakes. */
static void shutdowns(void)
{
	pthread_t t;

	tcp_pair(fds);
	t = start(receives, (void *)"shutdown");
	settle();
	OK(shutdown(fds[0], SHUT_RD));
	finish(t);
	OK(close(fds[0]));
	OK(close(fds[1]));

	tcp_pair(fds);
	t = start(polls, (void *)"shutdown by the peer");
	settle();
	OK(shutdown(fds[1], SHUT_WR));
	finish(t);
	OK(close(fds[0]));
	OK(close(fds[1]));

	tcp_pair(fds);
	t = start(sends, (void *)"shutdown");
	settle();
	OK(shutdown(fds[0], SHUT_RDWR));
	finish(t);
	OK(close(fds[0]));
	OK(close(fds[1]));

	listener = tcp_listen(4, &address);
	t = start(accepts, (void *)"shutdown of the listener");
	settle();
	OK(shutdown(listener, SHUT_RDWR));
	finish(t);
	OK(close(listener));
}

/* close and dup2 do not. */
static void closes(void)
{
	pthread_t t;
	int other[2];
	char c;

	/*
	 * close does not wake: the blocked call keeps the file, the peer sees no end
	 * until it returns, and data still reaches it.
	 */
	unix_pair(fds);
	t = start(receives, (void *)"close");
	settle();
	OK(close(fds[0]));
	say("close: peer sees the end at once: %d", sees_end(fds[1]));
	OK(send(fds[1], "d", 1, 0));
	finish(t);
	CHECK(recv(fds[1], &c, 1, 0) == 0);
	say("close: peer sees it after the call");
	OK(close(fds[1]));

	/* dup2 puts another file there: the blocked call stays with the old one. */
	unix_pair(fds);
	unix_pair(other);
	t = start(receives, (void *)"dup2");
	settle();
	OK(dup2(other[0], fds[0]));
	OK(send(other[1], "n", 1, 0));
	OK(send(fds[1], "o", 1, 0));
	finish(t);
	CHECK(recv(fds[0], &c, 1, 0) == 1);
	say("dup2: the new file's byte %c", c);
	CHECK(recv(fds[1], &c, 1, 0) == 0);
	say("dup2: the old one is gone");

	/* After a poll on two, nothing may keep the other open. */
	int a[2], b[2];
	tcp_pair(a);
	tcp_pair(b);
	struct pollfd p[2] = {{a[0], POLLIN, 0}, {b[0], POLLIN, 0}};
	OK(send(a[1], "x", 1, 0));
	say("poll of two: %d", poll(p, 2, -1));
	OK(close(b[0]));
	CHECK(recv(b[1], &c, 1, 0) == 0);
	say("poll of two: the other's peer sees the end");
}

int main(int argc, char **argv)
{
	if (argc < 2 || strcmp(argv[1], "shutdown") == 0)
		shutdowns();
	if (argc < 2 || strcmp(argv[1], "close") == 0)
		closes();
	return 0;
}
