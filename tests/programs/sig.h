/*
 * sig.h - how the signal programs hit a thread inside a call
 *
 * Whether a thread has already blocked cannot be seen from outside, so the signal is
 * repeated until the thread says that it is through. A handler counts, a call that is
 * restarted stays where it is, a call that fails with EINTR fails at the first signal
 * that finds it blocked.
 */
#ifndef TESTS_PROGRAMS_SIG_H
#define TESTS_PROGRAMS_SIG_H

#include "prog.h"

static volatile sig_atomic_t sig_handled;
static __thread volatile sig_atomic_t sig_handled_here;

PROG_UNUSED static void sig_count(int sig)
{
	(void)sig;
	sig_handled++;
	sig_handled_here++;
}

PROG_UNUSED static void sig_install(int sig, int flags, void (*handler)(int))
{
	struct sigaction sa;

	memset(&sa, 0, sizeof sa);
	sa.sa_handler = handler;
	sa.sa_flags = flags;
	OK(sigaction(sig, &sa, NULL));
}

PROG_UNUSED static void sig_mask(int how, int sig)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, sig);
	ZERO(pthread_sigmask(how, &set, NULL));
}

/* Signals the thread every few milliseconds until *done. */
PROG_UNUSED static void sig_until(pthread_t t, int sig, volatile int *done)
{
	while (!__atomic_load_n(done, __ATOMIC_SEQ_CST)) {
		ZERO(pthread_kill(t, sig));
		usleep(5000);
	}
}

#endif
