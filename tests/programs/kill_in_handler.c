/*
 * kill_in_handler.c - a signal for the process while its handler runs
 *
 * Only one thread lets it in. The second signal waits for the handler's end and is
 * delivered there, before the interrupted call returns: not some time later, when the
 * thread may have blocked it again or ended.
 */
#include "prog.h"

#include <semaphore.h>

enum { ROUNDS = 300 };

static sem_t inside, sent;
static volatile sig_atomic_t handled, nested;

static void handler(int sig)
{
	(void)sig;
	nested++;
	if (nested > 1)
		say("nested");
	if (++handled % 2 == 1) {
		sem_post(&inside);
		while (sem_wait(&sent))
			;
	}
	nested--;
}

static void *sends(void *arg)
{
	for (int i = 0; i < ROUNDS; i++) {
		while (sem_wait(&inside))
			;
		OK(kill(getpid(), SIGUSR1));
		sem_post(&sent);
	}
	return arg;
}

static void *takes(void *arg)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	ZERO(pthread_sigmask(SIG_UNBLOCK, &set, NULL));
	pthread_kill(pthread_self(), SIGUSR1);
	ZERO(pthread_sigmask(SIG_BLOCK, &set, NULL));
	return arg;
}

int main(void)
{
	struct sigaction sa = {.sa_handler = handler};
	pthread_t sender;
	int late = 0;
	sigset_t set;

	OK(sem_init(&inside, 0, 0));
	OK(sem_init(&sent, 0, 0));
	OK(sigaction(SIGUSR1, &sa, NULL));
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	ZERO(pthread_sigmask(SIG_BLOCK, &set, NULL));
	sender = start(sends, NULL);
	for (int i = 0; i < ROUNDS; i++) {
		on_thread(takes, NULL);
		late += handled != 2 * (i + 1);
	}
	finish(sender);
	say("%d handled, %d times not at once", (int)handled, late);
	return 0;
}
