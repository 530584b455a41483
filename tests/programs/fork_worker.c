/*
 * fork from a worker while others block, hold locks and transfer. The child has one
 * thread; it does I/O, makes threads, forks again, exits. The parent's traffic goes on.
 */
#include "prog.h"

static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;
static int traffic[2], blocked[2];
static volatile bool stop;
static volatile long round_trips;
static char atfork_log[16];

static void *echoes(void *arg)
{
	char c;

	while (recv(traffic[0], &c, 1, 0) == 1)
		send_all(traffic[0], &c, 1);
	return arg;
}

static void *drives(void *arg)
{
	char c = 't';

	while (!stop) {
		send_all(traffic[1], &c, 1);
		recv_all(traffic[1], &c, 1);
		round_trips++;
	}
	OK(shutdown(traffic[1], SHUT_WR));
	return arg;
}

static void *blocks(void *arg)
{
	char c;

	return read(blocked[0], &c, 1) == 1 ? arg : (void *)-1;
}

static void *holds(void *arg)
{
	pthread_mutex_lock(&held);
	blocks(arg);
	pthread_mutex_unlock(&held);
	return arg;
}

static int pipe_fds[2];

static void *childs_thread(void *arg)
{
	char c;

	CHECK(read(pipe_fds[0], &c, 1) == 1);
	usleep(1000);
	return arg;
}

static void child(int depth)
{
	pthread_t threads[10];
	long sum = 0;
	int status;

	say("depth %d: pid is tid %d", depth, getpid() == gettid());
	OK(pipe(pipe_fds));
	for (intptr_t i = 0; i < 10; i++)
		threads[i] = start(childs_thread, (void *)i);
	OK(write(pipe_fds[1], "0123456789", 10));
	for (int i = 0; i < 10; i++)
		sum += (long)(intptr_t)finish(threads[i]);
	say("depth %d: 10 threads, sum %ld", depth, sum);
	if (depth < 2) {
		pid_t pid = OK(fork());

		if (pid == 0)
			child(depth + 1);
		OK(waitpid(pid, &status, 0));
		say("depth %d: grandchild %s", depth, describe_status(status));
	}
	exit(10 + depth);
}

static void *forks(void *arg)
{
	for (int i = 0; i < 3; i++) {
		int status;
		pid_t pid = OK(fork());

		if (pid == 0) {
			strcat(atfork_log, "!");
			say("child %d: handlers ran: %s", i, atfork_log);
			if (i == 0)
				child(1);
			if (i == 1)
				pthread_exit(NULL); /* the only thread: exit status 0 */
			abort();
		}
		OK(waitpid(pid, &status, 0));
		say("child %d: %s", i, describe_status(status));
		atfork_log[0] = 0;
	}
	return arg;
}

static void log_prepare(void)
{
	strcat(atfork_log, "1");
}

static void log_parent(void)
{
	strcat(atfork_log, "P");
}

static void log_child(void)
{
	strcat(atfork_log, "C");
}

int main(void)
{
	pthread_t threads[4];
	int status;

	ZERO(pthread_atfork(log_prepare, log_parent, log_child));
	tcp_pair(traffic);
	OK(pipe(blocked));
	threads[0] = start(echoes, NULL);
	threads[1] = start(drives, NULL);
	threads[2] = start(blocks, NULL);
	threads[3] = start(holds, NULL);
	on_thread(forks, NULL);

	/* and from main, with a thread that computes */
	pid_t pid = OK(fork());
	if (pid == 0)
		child(2);
	OK(waitpid(pid, &status, 0));
	say("main's child: %s", describe_status(status));

	/* it went on meanwhile, or does at last: the machine may be busy */
	for (long before = round_trips; round_trips == before;)
		usleep(1000);
	stop = true;
	OK(write(blocked[1], "xx", 2));
	for (int i = 0; i < 4; i++)
		finish(threads[i]);
	say("traffic went on: %d", round_trips > 0);
	return 0;
}
