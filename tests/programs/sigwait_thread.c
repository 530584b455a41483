/* All threads block the signals; one takes them with sigwait, in order of number. As
 * MariaDB does. */
#include "sig.h"

static sigset_t set;
static int fds[2];

static void *takes(void *arg)
{
	siginfo_t info;
	int sig;

	for (;;) {
		ZERO(sigwait(&set, &sig));
		say("sigwait: %s", sigabbrev_np(sig));
		OK(write(fds[1], "a", 1));
		if (sig == SIGTERM)
			break;
	}
	int r = sigwaitinfo(&set, &info);
	say("sigwaitinfo: %s value %d", sigabbrev_np(r), info.si_value.sival_int);
	OK(write(fds[1], "a", 1));
	struct timespec ts = {0, 5 * MS};
	uint64_t t0 = now_ns(CLOCK_MONOTONIC);
	r = sigtimedwait(&set, &info, &ts);
	say("sigtimedwait: %d %s early %d", r, err_name(errno),
		now_ns(CLOCK_MONOTONIC) - t0 < 5 * MS);
	return arg;
}

static int socks[2];

static void *works(void *arg)
{
	char c;

	CHECK(recv(socks[0], &c, 1, 0) == 1);
	return arg;
}

static void wait_ack(void)
{
	char c;

	CHECK(read(fds[0], &c, 1) == 1);
}

int main(void)
{
	pthread_t taker, threads[10];

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGTERM);
	ZERO(pthread_sigmask(SIG_BLOCK, &set, NULL));
	OK(pipe(fds));
	unix_pair(socks);
	for (int i = 0; i < 10; i++)
		threads[i] = start(works, NULL);
	/* pending before anybody waits: still there */
	OK(kill(getpid(), SIGUSR1));
	OK(kill(getpid(), SIGHUP));
	sigset_t pending;
	OK(sigpending(&pending));
	say("pending: %d %d %d", sigismember(&pending, SIGUSR1),
		sigismember(&pending, SIGHUP), sigismember(&pending, SIGTERM));
	taker = start(takes, NULL);
	wait_ack();
	wait_ack();
	ZERO(pthread_kill(taker, SIGUSR1)); /* to the thread … */
	wait_ack();
	OK(kill(getpid(), SIGTERM)); /* … and to the process */
	wait_ack();
	OK(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 12}));
	wait_ack();
	finish(taker);
	OK(send(socks[1], "0123456789", 10, 0));
	for (int i = 0; i < 10; i++)
		finish(threads[i]);
	return 0;
}
