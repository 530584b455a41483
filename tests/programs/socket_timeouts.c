/* SO_RCVTIMEO and SO_SNDTIMEO: every call, with and without some bytes; never early. */
#include "prog.h"

#include <sys/uio.h>
#include <sys/un.h>

#define TIMEOUT_MS 30

static void set_timeout(int fd, int which, int ms)
{
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};

	OK(setsockopt(fd, SOL_SOCKET, which, &tv, sizeof tv));
}

static ssize_t with_recv(int fd, void *buf, size_t len)
{
	return recv(fd, buf, len, 0);
}

static ssize_t with_waitall(int fd, void *buf, size_t len)
{
	return recv(fd, buf, len, MSG_WAITALL);
}

static ssize_t with_readv(int fd, void *buf, size_t len)
{
	struct iovec iov = {buf, len};

	return readv(fd, &iov, 1);
}

static ssize_t with_recvmsg(int fd, void *buf, size_t len)
{
	struct iovec iov = {buf, len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	return recvmsg(fd, &msg, 0);
}

static ssize_t with_recvfrom(int fd, void *buf, size_t len)
{
	return recvfrom(fd, buf, len, 0, NULL, NULL);
}

static void *receives(void *arg)
{
	static const struct {
		const char *name;
		ssize_t (*call)(int, void *, size_t);
	} calls[] = {
		{"read", read},
		{"recv", with_recv},
		{"recv WAITALL", with_waitall},
		{"readv", with_readv},
		{"recvmsg", with_recvmsg},
		{"recvfrom", with_recvfrom},
	};
	char buf[64];
	int fds[2];

	tcp_pair(fds);
	set_timeout(fds[0], SO_RCVTIMEO, TIMEOUT_MS);
	for (int some = 0; some < 2; some++) {
		for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
			uint64_t start = now_ns(CLOCK_MONOTONIC);

			if (some)
				send_all(fds[1], "abc", 3);
			if (some) { /* the bytes are there: loopback still has a softirq
				       between */
				struct pollfd p = {fds[0], POLLIN, 0};
				OK(poll(&p, 1, -1));
			}
			errno = 0;
			ssize_t n = calls[i].call(fds[0], buf, sizeof buf);
			int err = errno;
			bool early = n != 3 &&
				     now_ns(CLOCK_MONOTONIC) - start < TIMEOUT_MS * MS;

			say("%s with %d bytes: %zd %s early %d", calls[i].name, some * 3,
				n, n < 0 ? err_name(err) : "", early);
		}
	}
	/* Turned off again it waits as long as it takes. */
	set_timeout(fds[0], SO_RCVTIMEO, 0);
	OK(close(fds[0]));
	OK(close(fds[1]));
	return arg;
}

static void *sends(void *arg)
{
	size_t len = 32 << 20;
	char *block = calloc(1, len);
	int fds[2];

	tcp_pair(fds);
	set_timeout(fds[1], SO_SNDTIMEO, TIMEOUT_MS);
	uint64_t start = now_ns(CLOCK_MONOTONIC);
	ssize_t n = send(fds[1], block, len, 0);
	bool early = now_ns(CLOCK_MONOTONIC) - start < TIMEOUT_MS * MS;
	say("send of much: partial %d early %d", n > 0 && (size_t)n < len, early);
	start = now_ns(CLOCK_MONOTONIC);
	n = send(fds[1], block, len, 0);
	/* a last bit may still have fitted */
	while (n > 0)
		n = send(fds[1], block, len, 0);
	say("send into the full buffer: %zd %s", n, err_name(errno));
	while ((n = write(fds[1], block, 65536)) > 0)
		;
	say("write into the full buffer: %zd %s", n, err_name(errno));
	OK(close(fds[0]));
	OK(close(fds[1]));
	free(block);
	return arg;
}

static void *accepts_and_connects(void *arg)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX, .sun_path = "socket"};
	struct sockaddr_in in;
	struct timeval tv;
	socklen_t len = sizeof tv;
	int l = tcp_listen(4, &in), c, filler[8], r;

	set_timeout(l, SO_RCVTIMEO, TIMEOUT_MS);
	uint64_t start = now_ns(CLOCK_MONOTONIC);
	c = accept(l, NULL, NULL);
	say("accept: %d %s early %d", c, err_name(errno),
		now_ns(CLOCK_MONOTONIC) - start < TIMEOUT_MS * MS);
	int client = tcp_connect(&in);
	c = OK(accept(l, NULL, NULL));
	OK(getsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &tv, &len));
	say("inherited: %d", tv.tv_usec > 0);
	say("and works: %s", RESULT(read(c, &tv, 1)));
	OK(close(c));
	OK(close(client));
	OK(close(l));

	/* A UNIX listener with a full backlog makes connect wait. */
	l = OK(socket(AF_UNIX, SOCK_STREAM, 0));
	OK(bind(l, (struct sockaddr *)&addr, sizeof addr));
	OK(listen(l, 0));
	r = 0;
	for (int i = 0; i < 8 && r == 0; i++) {
		filler[i] = OK(socket(AF_UNIX, SOCK_STREAM, 0));
		set_timeout(filler[i], SO_SNDTIMEO, TIMEOUT_MS);
		r = connect(filler[i], (struct sockaddr *)&addr, sizeof addr);
		if (r < 0)
			say("connect: %d %s", r, err_name(errno));
	}
	return arg;
}

int main(void)
{
	on_thread(receives, NULL);
	on_thread(sends, NULL);
	on_thread(accepts_and_connects, NULL);
	return 0;
}
