/*
 * A peer (another process) that does everything a peer may do: bytes one by one, resets
 * after every byte, ends that close half, connections opened and aborted by the
 * thousand, answers that nobody reads. Every way to receive and to send meets it.
 */
#include "prog.h"

#include <netinet/tcp.h>
#include <sys/uio.h>

#define REQUEST  48
#define TRICKLED 600
#define ABORTED  10000
#define REPLY    200000

static struct sockaddr_in address;
static int listener;

/* ---- the peer -------------------------------------------------------------- */

static int dial(void)
{
	int fd = tcp_connect(&address), one = 1;

	OK(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
	return fd;
}

static void reset(int fd)
{
	struct linger l = {1, 0};

	OK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l));
	OK(close(fd));
}

static void expect(int fd, char what)
{
	char c;

	CHECK(recv(fd, &c, 1, 0) == 1 && c == what);
}

static void peer_trickles(void)
{
	int fd = dial();

	for (int i = 0; i < TRICKLED; i++) {
		char c = i % 50 == 49 ? '\n' : (char)pattern((uint64_t)i);

		if (c == 0 || (c == '\n' && i % 50 != 49))
			c = 'x';
		OK(send(fd, &c, 1, 0));
		if (i % 7 == 0)
			sched_yield();
	}
	expect(fd, 'k');
	OK(close(fd));
}

/* After k bytes were taken: the other one says so, then sees a reset. */
static void peer_resets(int k)
{
	int fd = dial();
	char buf[REQUEST] = "";

	if (k)
		send_all(fd, buf, (size_t)k);
	expect(fd, 'k');
	reset(fd);
}

static void peer_half_closes(void)
{
	int fd = dial(), n;
	char buf[4096];
	uint64_t sum = CHECKSUM_INIT, want = CHECKSUM_INIT;
	size_t total = 0;

	send_all(fd, "give", 4);
	OK(shutdown(fd, SHUT_WR));
	while ((n = (int)OK(recv(fd, buf, sizeof buf, 0))) > 0) {
		sum = checksum(sum, buf, (size_t)n);
		total += (size_t)n;
	}
	for (uint64_t i = 0; i < REPLY; i++) {
		unsigned char c = pattern(i);

		want = checksum(want, &c, 1);
	}
	CHECK(total == REPLY && sum == want);
	OK(close(fd));
}

/* Lets the other one write into a full connection, then resets it. */
static void peer_never_reads(void)
{
	int fd = dial();

	settle();
	reset(fd);
}

static void peer_aborts(void)
{
	for (int i = 0; i < ABORTED; i++) {
		int fd = dial();

		if (i % 3 == 0)
			send_all(fd, "x", 1);
		if (i % 2)
			reset(fd);
		else
			OK(close(fd));
	}
}

enum { WAYS = 7, ENDS = 6 };

static void peer(void)
{
	for (int i = 0; i < WAYS; i++)
		peer_trickles();
	for (int way = 0; way < 4; way++)
		for (int k = 0; k < REQUEST; k++)
			peer_resets(k);
	peer_half_closes();
	for (int i = 0; i < ENDS; i++)
		peer_never_reads();
	peer_aborts();
	_exit(0);
}

/* ---- the program ----------------------------------------------------------- */

static int answer_call(void)
{
	return OK(accept(listener, NULL, NULL));
}

/* One way to get some bytes; the last ones gather all of them. */
static ssize_t receive(int way, int fd, char *buf, size_t len)
{
	struct iovec iov[2] = {{buf, 1}, {buf + 1, len - 1}};
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
	struct mmsghdr mm = {.msg_hdr = m};

	if (len == 1)
		m.msg_iovlen = mm.msg_hdr.msg_iovlen = 1;
	switch (way) {
	case 0:
		return recv(fd, buf, len, 0);
	case 1:
		return read(fd, buf, len);
	case 2:
		return readv(fd, iov, (int)m.msg_iovlen);
	case 3:
		return recvmsg(fd, &m, 0);
	case 4:
		return recvmmsg(fd, &mm, 1, 0, NULL) == 1 ? (ssize_t)mm.msg_len : -1;
	default:
		return recv(fd, buf, len, MSG_WAITALL);
	}
}

static void *takes_bytes(void *arg)
{
	int way = (int)(intptr_t)arg, fd = answer_call();
	char buf[TRICKLED + 1] = "";
	size_t got = 0;

	if (way == WAYS - 1) {
		FILE *f = fdopen(OK(dup(fd)), "r");

		while (got < TRICKLED && fgets(buf + got, (int)(TRICKLED + 1 - got), f))
			got += strlen(buf + got);
		fclose(f);
	}
	while (got < TRICKLED) {
		ssize_t n = receive(way, fd, buf + got, TRICKLED - got);

		CHECK(n > 0);
		got += (size_t)n;
	}
	send_all(fd, "k", 1);
	say("byte by byte, way %d: %zu, %llx", way, got,
		(unsigned long long)checksum(CHECKSUM_INIT, buf, got));
	OK(close(fd));
	return NULL;
}

static void *sees_resets(void *arg)
{
	static const int ways[] = {0, 1, 3, 5};
	int way = ways[(intptr_t)arg], resets = 0;
	char buf[REQUEST];

	for (int k = 0; k < REQUEST; k++) {
		int fd = answer_call();
		size_t got = 0;

		while (got < (size_t)k)
			got += (size_t)OK(receive(way, fd, buf, (size_t)k - got));
		send_all(fd, "k", 1);
		resets += receive(way, fd, buf, sizeof buf) == -1 && errno == ECONNRESET;
		OK(close(fd));
	}
	say("resets after 0 to %d bytes, way %d: %d", REQUEST - 1, way, resets);
	return NULL;
}

static void *replies(void *arg)
{
	int fd = answer_call();
	char buf[8], *reply = (char *)malloc(REPLY);

	for (uint64_t i = 0; i < REPLY; i++)
		reply[i] = (char)pattern(i);
	ssize_t n = recv(fd, buf, sizeof buf, MSG_WAITALL);
	say("half closed: %zd, at the end %zd, reply %zd", n, recv(fd, buf, 1, 0),
		send(fd, reply, REPLY, 0));
	free(reply);
	OK(close(fd));
	return arg;
}

/* Blocked in a send of much more than fits; a part of it is what comes back. */
static void *sends_in_vain(void *arg)
{
	static char much[32 << 20];
	int way = (int)(intptr_t)arg, fd = answer_call();
	struct iovec iov[2] = {{much, 1 << 20}, {much, sizeof much - (1 << 20)}};
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
	struct mmsghdr mm = {.msg_hdr = m};
	ssize_t n = 0;
	const char *then;

	switch (way) {
	case 0:
		n = send(fd, much, sizeof much, 0);
		break;
	case 1:
		n = write(fd, much, sizeof much);
		break;
	case 2:
		n = writev(fd, iov, 2);
		break;
	case 3:
		n = sendmsg(fd, &m, 0);
		break;
	case 4:
		n = sendmmsg(fd, &mm, 1, 0) == 1 ? (ssize_t)mm.msg_len : -1;
		break;
	default: {
		FILE *f = fdopen(OK(dup(fd)), "w");

		CHECK(fwrite(much, 1, sizeof much, f) < sizeof much && ferror(f));
		fclose(f);
		n = 1;
	}
	}
	then = RESULT(send(fd, "x", 1, 0));
	say("nobody reads, way %d: a part %d, then %s", way,
		n > 0 && n < (ssize_t)sizeof much, then);
	OK(close(fd));
	return NULL;
}

static int accepted, closed;

static void *accepts(void *arg)
{
	char c;

	while (__atomic_add_fetch(&accepted, 1, __ATOMIC_SEQ_CST) <= ABORTED) {
		int fd = answer_call();

		while (recv(fd, &c, 1, 0) > 0)
			;
		OK(close(fd));
		__atomic_add_fetch(&closed, 1, __ATOMIC_SEQ_CST);
	}
	return arg;
}

int main(void)
{
	pthread_t t[8];
	int status;
	pid_t pid;

	signal(SIGPIPE, SIG_IGN);
	listener = tcp_listen(4096, &address);
	pid = OK(fork());
	if (!pid)
		peer();
	for (intptr_t i = 0; i < WAYS; i++)
		on_thread(takes_bytes, (void *)i);
	for (intptr_t i = 0; i < 4; i++)
		on_thread(sees_resets, (void *)i);
	on_thread(replies, NULL);
	for (intptr_t i = 0; i < ENDS; i++)
		on_thread(sends_in_vain, (void *)i);
	for (int i = 0; i < 8; i++)
		t[i] = start(accepts, NULL);
	for (int i = 0; i < 8; i++)
		finish(t[i]);
	say("%d opened and aborted", closed);
	CHECK(waitpid(pid, &status, 0) == pid);
	say("the peer: %s", describe_status(status));
	return 0;
}
