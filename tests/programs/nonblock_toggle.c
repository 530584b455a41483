/*
 * O_NONBLOCK belongs to the open file description: another process that shares it turns
 * it on and off between our calls, and each call must follow the flag of its moment.
 */
#include "prog.h"

static int orders[2], answers[2];

static void toggle(int fd, bool on)
{
	int flags = OK(fcntl(fd, F_GETFL));

	OK(fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK));
}

/* The child: '1' and '0' set and clear, 's' sends a byte after a moment. */
static void child(int shared, int peer)
{
	char c;

	while (read(orders[0], &c, 1) == 1) {
		if (c == 's') {
			usleep(5000);
			CHECK(write(peer, "d", 1) == 1);
		} else {
			toggle(shared, c == '1');
		}
		CHECK(write(answers[1], &c, 1) == 1);
	}
	_exit(0);
}

static void order(char c)
{
	CHECK(write(orders[1], &c, 1) == 1);
	CHECK(read(answers[0], &c, 1) == 1);
}

static void *run(void *arg)
{
	int *fds = arg;
	char c, s = 's';

	for (int i = 0; i < 5; i++) {
		order('1');
		ssize_t n = read(fds[0], &c, 1);
		say("on: %zd %s", n, n < 0 ? err_name(errno) : "");
		order('0');
		CHECK(write(orders[1], &s, 1) == 1); /* answered after the byte came */
		n = read(fds[0], &c, 1);
		say("off: %zd %c", n, c);
		CHECK(read(answers[0], &c, 1) == 1);
	}
	return NULL;
}

static void *accepts(void *arg)
{
	struct sockaddr_in addr;
	int l = tcp_listen(4, &addr), c;

	(void)arg;
	toggle(l, true);
	c = accept(l, NULL, NULL);
	say("accept on: %d %s", c, err_name(errno));
	toggle(l, false);
	int client = tcp_connect(&addr);
	c = OK(accept(l, NULL, NULL));
	say("accepted; inherits no flag: %d", !(OK(fcntl(c, F_GETFL)) & O_NONBLOCK));
	OK(close(c));
	int again = tcp_connect(&addr);
	c = OK(accept4(l, NULL, NULL, SOCK_NONBLOCK));
	say("accept4: %s", RESULT(recv(c, &addr, 1, 0)));
	/* A full buffer with the flag: what fits, then EAGAIN. */
	char *block = calloc(1, 1 << 20);
	ssize_t n;
	bool partial = false;
	while ((n = send(c, block, 1 << 20, 0)) > 0)
		partial |= n < 1 << 20;
	say("send on: %s, partial before: %d", err_name(errno), partial);
	say("write on: %s", RESULT(write(c, block, 1)));
	free(block);
	OK(close(again));
	OK(close(c));
	OK(close(client));
	OK(close(l));
	return NULL;
}

int main(void)
{
	int pairs[3][2];

	OK(pipe(orders));
	OK(pipe(answers));
	tcp_pair(pairs[0]);
	unix_pair(pairs[1]);
	OK(pipe(pairs[2]));
	for (int i = 0; i < 3; i++) {
		pid_t pid = OK(fork());

		if (pid == 0) {
			OK(close(orders[1]));
			child(pairs[i][0], pairs[i][1]);
		}
		say("%s:", i == 0 ? "TCP" : i == 1 ? "UNIX" : "pipe");
		on_thread(run, pairs[i]);
		/* This child ends by a signal: later ones hold the pipe too. */
		OK(kill(pid, SIGKILL));
		OK(waitpid(pid, NULL, 0));
	}
	on_thread(accepts, NULL);
	return 0;
}
