/* MSG_WAITALL, MSG_PEEK, MSG_DONTWAIT, SO_RCVLOWAT, MSG_TRUNC, OOB, end of stream, empty
 * datagrams. */
#include "prog.h"

static int fds[2];

/* Sends in three parts, each after a token, so that the reader really waits between. */
static void *sends_in_parts(void *arg)
{
	(void)arg;
	for (int i = 0; i < 3; i++) {
		usleep(3000);
		send_all(fds[1], "abcdefghij", 10);
	}
	return NULL;
}

static void *sends_then_ends(void *arg)
{
	(void)arg;
	usleep(3000);
	send_all(fds[1], "12345", 5);
	usleep(3000);
	OK(shutdown(fds[1], SHUT_WR));
	return NULL;
}

static void *streams(void *arg)
{
	bool unix_socket = arg != NULL;
	char buf[64] = "";
	pthread_t t;
	int low = 20;

	if (unix_socket)
		unix_pair(fds);
	else
		tcp_pair(fds);
	t = start(sends_in_parts, NULL);
	ssize_t n = recv(fds[0], buf, 30, MSG_WAITALL);
	finish(t);
	say("WAITALL: %zd %.30s", n, buf);

	say("DONTWAIT on nothing: %s", RESULT(recv(fds[0], buf, 1, MSG_DONTWAIT)));
	t = start(sends_in_parts, NULL);
	n = recv(fds[0], buf, 4, MSG_PEEK | MSG_WAITALL);
	say("PEEK: %zd %.4s", n, buf);
	finish(t);
	n = recv(fds[0], buf, 30, MSG_WAITALL);
	say("and again: %zd %.30s", n, buf);
	say("WAITALL|DONTWAIT on nothing: %s",
		RESULT(recv(fds[0], buf, 8, MSG_WAITALL | MSG_DONTWAIT)));

	if (!unix_socket) { /* AF_UNIX streams know no low-water mark for recv */
		OK(setsockopt(fds[0], SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low));
		t = start(sends_in_parts, NULL);
		n = recv(fds[0], buf, 64, 0);
		say("RCVLOWAT: at least 20: %d", n >= 20);
		finish(t);
		low = 1;
		OK(setsockopt(fds[0], SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low));
		if (n < 30)
			recv_all(fds[0], buf, (size_t)(30 - n));
		OK(send(fds[1], "!", 1, MSG_OOB));
		struct pollfd p = {fds[0], POLLPRI, 0};
		OK(poll(&p, 1, -1));
		n = recv(fds[0], buf, 1, MSG_OOB);
		say("OOB: %zd %c", n, buf[0]);
	}
	t = start(sends_then_ends, NULL);
	memset(buf, 0, sizeof buf);
	n = recv(fds[0], buf, 30, MSG_WAITALL);
	say("WAITALL at the end: %zd %s", n, buf);
	say("after the end: %zd", recv(fds[0], buf, 1, 0));
	finish(t);
	OK(close(fds[0]));
	OK(close(fds[1]));
	return NULL;
}

static void *datagrams(void *arg)
{
	struct sockaddr_in addr = {.sin_family = AF_INET}, from;
	socklen_t len = sizeof addr;
	char buf[16];
	int a = OK(socket(AF_INET, SOCK_DGRAM, 0)),
	    b = OK(socket(AF_INET, SOCK_DGRAM, 0));

	(void)arg;
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	OK(bind(a, (struct sockaddr *)&addr, sizeof addr));
	OK(getsockname(a, (struct sockaddr *)&addr, &len));
	OK(sendto(b, "", 0, 0, (struct sockaddr *)&addr, sizeof addr));
	OK(sendto(b, "hello", 5, 0, (struct sockaddr *)&addr, sizeof addr));
	OK(sendto(b, "0123456789", 10, 0, (struct sockaddr *)&addr, sizeof addr));
	say("empty datagram: %zd", recv(a, buf, sizeof buf, 0));
	len = sizeof from;
	ssize_t n = recvfrom(a, buf, sizeof buf, 0, (struct sockaddr *)&from, &len);
	say("datagram: %zd %.5s, address of %u bytes", n, buf, len);
	say("cut: %zd", recv(a, buf, 4, MSG_TRUNC));
	say("DONTWAIT: %s", RESULT(recv(a, buf, 4, MSG_DONTWAIT)));
	OK(close(a));
	OK(close(b));
	return NULL;
}

int main(void)
{
	on_thread(streams, NULL);
	on_thread(streams, (void *)1);
	on_thread(datagrams, NULL);
	return 0;
}
