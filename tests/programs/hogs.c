/*
 * A thousand threads ask and answer each other in pairs, beside threads that compute all
 * the time, more of them than there are CPUs, until the last answer has come. All answers
 * come, and those that compute get on as well: each handles the signals it is sent, lets
 * go of the lock it holds, and changes its credentials with all others. A child of the
 * process is one as any other.
 */
#include "pairs.h"
#include "sig.h"

#include <sys/wait.h>

#define PAIRS  500
#define ROUNDS 10
#define HOGS   4
#define TIMES  3

static int done, begun, handled[HOGS], locked;
static uint64_t computed[HOGS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int *own_handled;

static void on_signal(int sig)
{
	(void)sig;
	__atomic_fetch_add(own_handled, 1, __ATOMIC_SEQ_CST);
}

static void *hog(void *arg)
{
	uint64_t n = 1, turns = 0;

	own_handled = &handled[(intptr_t)arg];
	__atomic_fetch_add(&begun, 1, __ATOMIC_SEQ_CST);
	while (!__atomic_load_n(&done, __ATOMIC_RELAXED)) {
		for (int i = 0; i < 1000; i++)
			n = n * 6364136223846793005u + 1442695040888963407u;
		turns++;
	}
	computed[(intptr_t)arg] = turns + (n == 0);
	return arg;
}

/* Computes, and has the lock meanwhile, for milliseconds. */
static void *holds(void *arg)
{
	uint64_t n = 1;

	while (!__atomic_load_n(&done, __ATOMIC_RELAXED)) {
		ZERO(pthread_mutex_lock(&lock));
		for (int i = 0; i < 5000000; i++)
			n = n * 6364136223846793005u + 1442695040888963407u;
		ZERO(pthread_mutex_unlock(&lock));
		__atomic_fetch_add(&locked, n != 0, __ATOMIC_SEQ_CST);
		usleep(100);
	}
	return arg;
}

static void disturb(pthread_t hogs[HOGS])
{
	while (__atomic_load_n(&begun, __ATOMIC_SEQ_CST) < HOGS)
		usleep(1000);
	for (int t = 1; t <= TIMES; t++) {
		int status = 0, before = __atomic_load_n(&locked, __ATOMIC_SEQ_CST);
		pid_t pid;

		for (int i = 0; i < HOGS; i++)
			ZERO(pthread_kill(hogs[i], SIGUSR1));
		for (int i = 0; i < HOGS; i++)
			while (__atomic_load_n(&handled[i], __ATOMIC_SEQ_CST) < t)
				usleep(1000);
		ZERO(setresgid(getgid(), getgid(), getgid()));
		pid = fork();
		if (!pid)
			_exit(3);
		CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 3);
		while (__atomic_load_n(&locked, __ATOMIC_SEQ_CST) == before)
			usleep(1000);
		ZERO(pthread_mutex_lock(&lock));
		ZERO(pthread_mutex_unlock(&lock));
	}
}

int main(void)
{
	static struct pair pairs[PAIRS];
	pthread_t hogs[HOGS], holder;
	int right = 0, got_on = 0, signals = 0;

	sig_install(SIGUSR1, SA_RESTART, on_signal);

	for (intptr_t i = 0; i < HOGS; i++)
		hogs[i] = start(hog, (void *)i);
	holder = start(holds, NULL);
	for (int i = 0; i < PAIRS; i++)
		pair_start(&pairs[i], ROUNDS, 500);
	disturb(hogs);
	for (int i = 0; i < PAIRS; i++)
		right += pair_finish(&pairs[i]);
	__atomic_store_n(&done, 1, __ATOMIC_RELAXED);
	for (int i = 0; i < HOGS; i++) {
		finish(hogs[i]);
		got_on += computed[i] > 0;
		signals += handled[i];
	}
	finish(holder);
	say("%d of %d answers are right, %d of %d hogs got on, %d signals", right,
		PAIRS * ROUNDS, got_on, HOGS, signals);
	return 0;
}
