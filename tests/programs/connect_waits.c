/*
 * connect to a UNIX listener whose queue is full waits: a signal, SO_SNDTIMEO and
 * pthread_cancel end it wherever it is caught, many times over.
 */
#include "sig.h"

#include <sys/un.h>

#define ROUNDS 150

static int listener;
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static socklen_t length = sizeof address;
static int entered, left;

static int connects(void)
{
	return connect(
		OK(socket(AF_UNIX, SOCK_STREAM, 0)), (struct sockaddr *)&address, length);
}

static void *until_interrupted(void *arg)
{
	int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));

	sig_mask(SIG_UNBLOCK, SIGUSR1);
	__atomic_store_n(&entered, 1, __ATOMIC_SEQ_CST);
	CHECK(connect(fd, (struct sockaddr *)&address, length) == -1 && errno == EINTR);
	__atomic_store_n(&left, 1, __ATOMIC_SEQ_CST);
	OK(close(fd));
	return arg;
}

static void *until_timeout(void *arg)
{
	struct timeval tv = {0, 1000};
	int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));

	OK(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv));
	CHECK(connect(fd, (struct sockaddr *)&address, length) == -1);
	CHECK(errno == EAGAIN);
	OK(close(fd));
	return arg;
}

static void closes(void *arg)
{
	OK(close(*(int *)arg));
}

static void *until_cancelled(void *arg)
{
	int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));

	pthread_cleanup_push(closes, &fd);
	connect(fd, (struct sockaddr *)&address, length);
	pthread_cleanup_pop(1);
	return arg;
}

int main(void)
{
	sig_mask(SIG_BLOCK, SIGUSR1);
	sig_install(SIGUSR1, 0, sig_count);
	listener = OK(socket(AF_UNIX, SOCK_STREAM, 0));
	OK(bind(listener, (struct sockaddr *)&address, sizeof address.sun_family));
	OK(listen(listener, 0));
	OK(getsockname(listener, (struct sockaddr *)&address, &length));
	OK(connects());
	for (int i = 0; i < ROUNDS; i++) {
		entered = left = 0;
		pthread_t t = start(until_interrupted, NULL);
		while (!__atomic_load_n(&entered, __ATOMIC_SEQ_CST))
			sched_yield();
		/* The signal may come before the call, on its way, or when it waits. */
		for (int k = 0; k < i % 50; k++)
			sched_yield();
		for (int n = 0; !__atomic_load_n(&left, __ATOMIC_SEQ_CST); n++) {
			int before = sig_handled;

			ZERO(pthread_kill(t, SIGUSR1));
			/* A thread that left meanwhile takes no signal any more. */
			while (sig_handled == before &&
				!__atomic_load_n(&left, __ATOMIC_SEQ_CST))
				usleep(100);
			if (n)
				usleep(500);
		}
		finish(t);
	}
	say("%d interrupted", ROUNDS);
	for (int i = 0; i < ROUNDS / 10; i++)
		on_thread(until_timeout, NULL);
	say("%d timed out", ROUNDS / 10);
	for (int i = 0; i < ROUNDS; i++) {
		pthread_t t = start(until_cancelled, NULL);

		for (int k = 0; k < i % 50; k++)
			sched_yield();
		ZERO(pthread_cancel(t));
		CHECK(finish(t) == PTHREAD_CANCELED);
	}
	say("%d cancelled", ROUNDS);
	return 0;
}
