/*
 * Connections that come just when the threads they would wake up are called away by a
 * signal: others that wait for the same listener must get them. Natively a thread takes
 * itself off the list of those who wait and looks once more, so nothing gets lost.
 */
#include "prog.h"

#include <semaphore.h>

#define CALLED 48 /* give up when a signal comes, until their next turn */
#define STAY   4
#define EACH   4 /* connections in a round */
#define ROUNDS 600

static int listener;
static sem_t begin, done;
static int got, interrupted;
static volatile int over;

static void on_signal(int sig)
{
	(void)sig;
}

static void wait_for(sem_t *sem)
{
	while (sem_wait(sem))
		CHECK(errno == EINTR);
}

static void *called_away(void *arg)
{
	for (;;) {
		int fd;

		wait_for(&begin);
		if (over)
			return arg;
		fd = accept(listener, NULL, NULL);
		if (fd >= 0) {
			OK(close(fd));
			__atomic_fetch_add(&got, 1, __ATOMIC_SEQ_CST);
		} else {
			CHECK(errno == EINTR);
			__atomic_fetch_add(&interrupted, 1, __ATOMIC_SEQ_CST);
		}
		OK(sem_post(&done));
	}
}

static void *stays(void *arg)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	ZERO(pthread_sigmask(SIG_BLOCK, &set, NULL));
	for (;;) {
		int fd = OK(accept(listener, NULL, NULL));

		OK(close(fd));
		if (over)
			return arg;
		__atomic_fetch_add(&got, 1, __ATOMIC_SEQ_CST);
	}
}

/* Another process: connects each time it is told to, some microseconds later. */
static void connects(int told, const struct sockaddr_in *address)
{
	unsigned char delay;

	while (read(told, &delay, 1) == 1) {
		uint64_t until = now_ns(CLOCK_MONOTONIC) + delay * UINT64_C(4000);

		while (now_ns(CLOCK_MONOTONIC) < until)
			;
		for (int i = 0; i < EACH; i++)
			OK(close(tcp_connect(address)));
	}
	_exit(0);
}

int main(void)
{
	struct sigaction sa = {.sa_handler = on_signal};
	pthread_t called[CALLED], stay[STAY];
	struct sockaddr_in address;
	int tell[2], status;
	pid_t pid;

	OK(sigaction(SIGUSR1, &sa, NULL));
	OK(pipe(tell));
	OK(sem_init(&begin, 0, 0));
	OK(sem_init(&done, 0, 0));
	listener = tcp_listen(64, &address);
	pid = OK(fork());
	if (pid == 0) {
		OK(close(tell[1]));
		connects(tell[0], &address);
	}
	for (int i = 0; i < CALLED; i++)
		called[i] = start(called_away, NULL);
	for (int i = 0; i < STAY; i++)
		stay[i] = start(stays, NULL);
	for (int round = 1; round <= ROUNDS; round++) {
		unsigned char delay = (unsigned char)(round * 37);

		for (int i = 0; i < CALLED; i++)
			OK(sem_post(&begin));
		usleep(200);
		OK(write(tell[1], &delay, 1));
		/* Some have been served by then; and some had not begun to wait. */
		for (int left = CALLED; left;) {
			for (int i = 0; i < CALLED; i++)
				ZERO(pthread_kill(called[i], SIGUSR1));
			usleep(100);
			while (left && sem_trywait(&done) == 0)
				left--;
		}
		while (__atomic_load_n(&got, __ATOMIC_SEQ_CST) < round * EACH)
			usleep(50);
	}
	say("%d of %d accepted", got, ROUNDS * EACH);
	say("many were called away: %d", interrupted > ROUNDS);
	over = 1;
	for (int i = 0; i < CALLED; i++)
		OK(sem_post(&begin));
	for (int i = 0; i < CALLED; i++)
		finish(called[i]);
	for (int i = 0; i < STAY; i++)
		OK(close(tcp_connect(&address)));
	for (int i = 0; i < STAY; i++)
		finish(stay[i]);
	OK(close(tell[1]));
	OK(waitpid(pid, &status, 0));
	say("the other process: %s", describe_status(status));
	return 0;
}
