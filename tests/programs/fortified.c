/*
 * Built with _FORTIFY_SOURCE: the calls go to __read_chk, __recv_chk, __poll_chk and so
 * on. They must park like the plain ones, or the threads here block all carriers at once.
 */
#include "prog.h"

#include <setjmp.h>
#include <sys/select.h>

#define THREADS 40

/* From outside, so that the compiler knows the object's size but not the length. */
static volatile size_t length = 1;
static volatile nfds_t one = 1;

static int pairs[THREADS][2];

static void *run(void *arg)
{
	int fd = pairs[(intptr_t)arg][0], fds[2];
	struct pollfd p[2] = {{fd, POLLIN, 0}};
	struct timespec ts = {60, 0};
	char buf[8];

	CHECK(read(fd, buf, length) == 1);
	CHECK(recv(fd, buf, length, 0) == 1);
	CHECK(recvfrom(fd, buf, length, 0, NULL, NULL) == 1);
	CHECK(poll(p, one, -1) == 1);
	CHECK(ppoll(p, one, &ts, NULL) == 1);
	CHECK(recv(fd, buf, length, 0) == 1);
	OK(pipe(fds));
	OK(write(fds[1], "x", 1));
	CHECK(read(fds[0], buf, length) == 1);
	OK(close(fds[0]));
	OK(close(fds[1]));
	int file = OK(open("file", O_RDWR | O_CREAT, 0600));
	CHECK(pread(file, buf, length, 0) == 0);
	OK(close(file));
	return arg;
}

static void *overflows(void *arg)
{
	char buf[8];

	length = 9;
	return read(pairs[0][0], buf, length) < 0 ? arg : NULL;
}

int main(void)
{
	pthread_t threads[THREADS];
	int status;

	for (intptr_t i = 0; i < THREADS; i++) {
		unix_pair(pairs[i]);
		threads[i] = start(run, (void *)i);
	}
	for (int round = 0; round < 4; round++)
		for (int i = 0; i < THREADS; i++) {
			send_all(pairs[i][1], "x", 1);
			usleep(20);
		}
	for (int i = 0; i < THREADS; i++)
		finish(threads[i]);
	say("%d threads through", THREADS);
	pid_t pid = OK(fork());
	if (pid == 0) {
		dup2(OK(open("/dev/null", O_WRONLY)), 2);
		on_thread(overflows, NULL);
		_exit(0);
	}
	OK(waitpid(pid, &status, 0));
	say("a length that is too large: %s", describe_status(status));
	return 0;
}
