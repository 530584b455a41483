/*
 * Threads have been at work; then everything above 2 is closed, by closefrom, close_range
 * and a loop over every number, with threads still alive. Afterwards blocking I/O works.
 */
#include "prog.h"

static void *pings(void *arg)
{
	int *fds = arg;
	char c;

	for (int i = 0; i < 50; i++) {
		recv_all(fds[0], &c, 1);
		usleep(100);
		send_all(fds[0], &c, 1);
	}
	return NULL;
}

static void io(const char *when)
{
	int fds[2], lowest;
	char c = 'p';

	unix_pair(fds);
	lowest = fds[0];
	pthread_t t = start(pings, fds);
	for (int i = 0; i < 50; i++) {
		send_all(fds[1], &c, 1);
		recv_all(fds[1], &c, 1);
	}
	finish(t);
	say("%s: 50 round trips on descriptors %d and %d", when, lowest, fds[1]);
	OK(close(fds[0]));
	OK(close(fds[1]));
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static bool stop;

static void *stays(void *arg)
{
	pthread_mutex_lock(&lock);
	while (!stop)
		pthread_cond_wait(&cond, &lock);
	pthread_mutex_unlock(&lock);
	usleep(1000);
	return arg;
}

static void *everything(void *arg)
{
	int highest = (int)sysconf(_SC_OPEN_MAX), closed = 0;

	io("before");
	closefrom(3);
	io("closefrom");
	OK(close_range(3, ~0U, 0));
	io("close_range");
	for (int fd = 3; fd < highest; fd++)
		closed += close(fd) == 0;
	say("the loop closed %d", closed);
	io("loop");
	OK(close_range(3, ~0U, CLOSE_RANGE_CLOEXEC));
	io("close_range with CLOEXEC");
	/* dup2 onto every number, then close it again */
	int fd = OK(dup(0)), odd = 0;
	for (int target = highest - 40; target < highest; target++) {
		odd += dup2(fd, target) != target;
		odd += close(target) != 0;
	}
	OK(close(fd));
	say("dup2 onto the highest numbers: %d refused", odd);
	io("dup2");
	return arg;
}

int main(void)
{
	pthread_t sleeper = start(stays, NULL);

	on_thread(everything, NULL);
	everything(NULL);
	pthread_mutex_lock(&lock);
	stop = true;
	pthread_cond_signal(&cond);
	pthread_mutex_unlock(&lock);
	finish(sleeper);
	return 0;
}
