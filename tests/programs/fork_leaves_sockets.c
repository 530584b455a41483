/* A child that lives on keeps nothing of the parent's blocked calls: the peers see the
 * end when the parent dies. */
#include "prog.h"

static int fds[2];

static void *receives(void *arg)
{
	char c;

	recv(fds[0], &c, 1, 0);
	return arg;
}

static void *forks(void *arg)
{
	int *alive = arg;
	pid_t pid = OK(fork());

	if (pid == 0) { /* lives until its parent's parent says so */
		char c;

		OK(close(fds[0]));
		OK(close(fds[1]));
		OK(write(alive[1], "u", 1));
		OK(read(alive[0], &c, 1));
		_exit(0);
	}
	kill(getpid(), SIGKILL);
	return NULL;
}

int main(void)
{
	int alive[2], status;
	char c;

	/* SEQPACKET pair: the middle process's end of it dies with it */
	tcp_pair(fds);
	OK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, alive));
	pid_t pid = OK(fork());
	if (pid == 0) {
		int swapped[2] = {alive[1], alive[1]};

		OK(close(fds[1]));
		fds[1] = OK(dup(0));
		for (int i = 0; i < 20; i++)
			start(receives, NULL);
		settle();
		on_thread(forks, swapped);
		_exit(1);
	}
	OK(close(fds[0]));
	CHECK(read(alive[0], &c, 1) == 1);
	OK(waitpid(pid, &status, 0));
	say("parent: %s", describe_status(status));
	struct pollfd p = {fds[1], POLLIN, 0};
	say("peer sees the end: %d", poll(&p, 1, 20000));
	OK(write(alive[0], "x", 1)); /* the grandchild ends */
	OK(close(alive[1]));
	say("grandchild gone: %zd", read(alive[0], &c, 1));
	on_thread(receives,
		NULL); /* of a closed descriptor: a thread of this process too */
	return 0;
}
