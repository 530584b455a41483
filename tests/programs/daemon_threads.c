/* daemon() before the first thread and again with threads alive; then threads that do
 * I/O. */
#include "prog.h"

static int report[2];

static void *works(void *arg)
{
	int *fds = arg;
	char c;

	recv_all(fds[0], &c, 1);
	usleep(500);
	send_all(fds[0], &c, 1);
	return NULL;
}

static void io(const char *what)
{
	int fds[2];
	char c = 'x';

	unix_pair(fds);
	pthread_t t = start(works, fds);
	send_all(fds[1], &c, 1);
	recv_all(fds[1], &c, 1);
	finish(t);
	say_to(report[1], "%s: echoed", what);
	OK(close(fds[0]));
	OK(close(fds[1]));
}

/* The first process waits for the last of the daemons to close the pipe. */
int main(void)
{
	char buf[1024];
	ssize_t n;
	int status;

	OK(pipe(report));
	pid_t pid = OK(fork());
	if (pid == 0) {
		OK(close(report[0]));
		pid_t before = getpid();
		OK(daemon(1, 0));
		say_to(report[1], "another pid %d, session leader %d, pid is tid %d",
			getpid() != before, getsid(0) == getpid(), getpid() == gettid());
		io("daemon");
		OK(daemon(1, 0)); /* with carriers alive, if there are any */
		io("daemon of the daemon");
		io("and again");
		_exit(0);
	}
	OK(close(report[1]));
	OK(waitpid(pid, &status, 0));
	say("first: %s", describe_status(status));
	while ((n = read(report[0], buf, sizeof buf)) > 0)
		OK(write(1, buf, (size_t)n));
	/* Threads in this one as well, which fork left alone. */
	OK(pipe(report));
	int keep = report[1];
	report[1] = 1;
	io("first process");
	OK(close(keep));
	return 0;
}
