/*
 * Signals for the process, which only threads let in that live for a moment: each is
 * handled by one of them, while their places in weft's table are given to the next.
 */
#include "../support/prog.h"

#include <semaphore.h>
#include <stdatomic.h>

enum { SENDERS = 2, SENT = 8000, MAKERS = 2 };

static const int signals[SENDERS] = {SIGUSR1, SIGUSR2};
static sem_t handled[SENDERS];
static atomic_int count[SENDERS], running = SENDERS;
static sigset_t ours;

static void on_signal(int sig)
{
	int which = sig == signals[1];

	count[which]++;
	sem_post(&handled[which]);
}

static void wait_for(sem_t *sem)
{
	while (sem_wait(sem))
		CHECK(errno == EINTR);
}

static void *send_them(void *arg)
{
	int me = (int)(intptr_t)arg;

	for (int i = 0; i < SENT; i++) {
		ZERO(kill(getpid(), signals[me]));
		wait_for(&handled[me]);
	}
	running--;
	return NULL;
}

static void *live(void *arg)
{
	ZERO(pthread_sigmask(SIG_UNBLOCK, &ours, NULL));
	ZERO(pthread_detach(pthread_self()));
	sem_post(arg);
	return NULL;
}

static void *make_them(void *arg)
{
	sem_t there;

	ZERO(sem_init(&there, 0, 0));
	while (running) {
		pthread_t t;

		ZERO(pthread_create(&t, NULL, live, &there));
		wait_for(&there);
	}
	return arg;
}

int main(void)
{
	pthread_t sender[SENDERS], maker[MAKERS];

	sigemptyset(&ours);
	for (int i = 0; i < SENDERS; i++) {
		struct sigaction act = {.sa_handler = on_signal};

		sigaddset(&ours, signals[i]);
		ZERO(sigaction(signals[i], &act, NULL));
		ZERO(sem_init(&handled[i], 0, 0));
	}
	ZERO(pthread_sigmask(SIG_BLOCK, &ours, NULL));
	for (int i = 0; i < MAKERS; i++)
		ZERO(pthread_create(&maker[i], NULL, make_them, NULL));
	for (int i = 0; i < SENDERS; i++)
		ZERO(pthread_create(&sender[i], NULL, send_them, (void *)(intptr_t)i));
	for (int i = 0; i < SENDERS; i++)
		ZERO(pthread_join(sender[i], NULL));
	for (int i = 0; i < MAKERS; i++)
		ZERO(pthread_join(maker[i], NULL));
	for (int i = 0; i < SENDERS; i++)
		printf("sent %d, handled %d\n", SENT, count[i]);
	return 0;
}
