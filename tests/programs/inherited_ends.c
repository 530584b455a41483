/*
 * Threads that end holding a mutex that processes share and that inherits priorities,
 * while threads of their own process and of another one wait for it: the kernel passes it
 * on. A robust one tells the next owner, and is usable again; at the other kind libc ends
 * the process of whoever gets it. Nobody gets it by being a later thread.
 */
#include "prog.h"

#include <linux/futex.h>
#include <sys/wait.h>

#define OURS   4
#define THEIRS 3
#define ROUNDS 20

static struct shared {
	pthread_mutex_t robust, stalled;
	int waiting;      /* (a) how many are about to lock */
	int got, of_dead; /* (a) */
} * shared;

static void init(void)
{
	pthread_mutexattr_t ma;

	shared = shared_memory(sizeof *shared);
	ZERO(pthread_mutexattr_init(&ma));
	ZERO(pthread_mutexattr_setpshared(&ma, PTHREAD_PROCESS_SHARED));
	ZERO(pthread_mutexattr_setprotocol(&ma, PTHREAD_PRIO_INHERIT));
	ZERO(pthread_mutex_init(&shared->stalled, &ma));
	ZERO(pthread_mutexattr_setrobust(&ma, PTHREAD_MUTEX_ROBUST));
	ZERO(pthread_mutex_init(&shared->robust, &ma));
}

static void add(int *n)
{
	__atomic_fetch_add(n, 1, __ATOMIC_SEQ_CST);
}

static void wait_for(int n)
{
	while (__atomic_load_n(&shared->waiting, __ATOMIC_SEQ_CST) < n)
		usleep(200);
	usleep(3000);
}

static void *waits(void *arg)
{
	int err;

	add(&shared->waiting);
	err = pthread_mutex_lock(&shared->robust);
	if (err == EOWNERDEAD) {
		add(&shared->of_dead);
		ZERO(pthread_mutex_consistent(&shared->robust));
	} else {
		ZERO(err);
	}
	add(&shared->got);
	ZERO(pthread_mutex_unlock(&shared->robust));
	return arg;
}

static void *ends_with_robust(void *arg)
{
	ZERO(pthread_mutex_lock(&shared->robust));
	add(&shared->waiting);
	wait_for(1 + OURS + THEIRS);
	return arg;
}

static void *ends_with_stalled(void *arg)
{
	ZERO(pthread_mutex_lock(&shared->stalled));
	add(&shared->waiting);
	/* Who comes when it is over waits for ever: libc knows no answer to that. */
	while (arg &&
		!(__atomic_load_n(&shared->stalled.__data.__lock, __ATOMIC_SEQ_CST) &
			FUTEX_WAITERS))
		usleep(200);
	usleep(3000);
	return NULL;
}

static int passed_on(void)
{
	pthread_t t[OURS > THEIRS ? OURS : THEIRS], owner;
	pid_t pid;
	int status;

	shared->waiting = shared->got = shared->of_dead = 0;
	owner = start(ends_with_robust, NULL);
	wait_for(1);
	pid = OK(fork());
	if (pid == 0) {
		for (int i = 0; i < THEIRS; i++)
			t[i] = start(waits, NULL);
		for (int i = 0; i < THEIRS; i++)
			finish(t[i]);
		_exit(0);
	}
	for (int i = 0; i < OURS; i++)
		t[i] = start(waits, NULL);
	for (int i = 0; i < OURS; i++)
		finish(t[i]);
	finish(owner);
	OK(waitpid(pid, &status, 0));
	return status == 0 && shared->got == OURS + THEIRS && shared->of_dead == 1;
}

static void *waits_for_stalled(void *arg)
{
	add(&shared->waiting);
	printf("got it: %s\n", err_name(pthread_mutex_lock(&shared->stalled)));
	fflush(stdout);
	_exit(3);
	return arg;
}

/* Where: who waits is of the owner's process, or of one of its own. */
static void stalls(bool here)
{
	pthread_t owner;
	int status;
	pid_t pid;

	init();
	pid = OK(fork());
	if (pid == 0) {
		OK(dup2(OK(open("/dev/null", O_WRONLY)), 2)); /* libc says why */
		alarm(20);
		owner = start(ends_with_stalled, &owner);
		wait_for(1);
		if (here || OK(fork()) == 0) {
			alarm(20);
			on_thread(waits_for_stalled, NULL);
		}
		finish(owner);
		OK(wait(&status));
		_exit(WIFSIGNALED(status) ? 100 + WTERMSIG(status) : WEXITSTATUS(status));
	}
	OK(waitpid(pid, &status, 0));
	if (WIFSIGNALED(status))
		say("stalled, %s: ended by %s", here ? "here" : "there",
			strsignal(WTERMSIG(status)));
	else
		say("stalled, %s: %d", here ? "here" : "there", WEXITSTATUS(status));
}

static void *gives_back(void *arg)
{
	say("another unlocks: %s", err_name(pthread_mutex_unlock(&shared->stalled)));
	return arg;
}

int main(void)
{
	int right = 0;

	init();
	for (int i = 0; i < ROUNDS; i++)
		right += passed_on();
	say("robust: passed on %d times", right);

	stalls(true);
	stalls(false);

	init();
	on_thread(ends_with_stalled, NULL);
	for (int i = 0; i < 3; i++)
		on_thread(gives_back, NULL);
	say("still locked: %d", shared->stalled.__data.__lock != 0);
	return 0;
}
