/*
 * pending_before.c - signals that are pending when the first thread is made
 *
 * What was raised for the first thread stays its own, what was sent to the process is
 * pending for everybody, real-time signals keep their order.
 */
#include "prog.h"

static sigset_t set;

static void show(const char *who)
{
	sigset_t pending;

	OK(sigpending(&pending));
	say("%s: USR1 %d, USR2 %d, TERM %d, RT0 %d, RT1 %d", who,
		sigismember(&pending, SIGUSR1), sigismember(&pending, SIGUSR2),
		sigismember(&pending, SIGTERM), sigismember(&pending, SIGRTMIN + 3),
		sigismember(&pending, SIGRTMIN + 4));
}

static void *other(void *arg)
{
	show("thread");
	return arg;
}

static void *takes(void *arg)
{
	struct timespec none = {0, 0};
	siginfo_t si;
	int sig;

	while ((sig = sigtimedwait(&set, &si, &none)) > 0)
		say("%s takes %d, code %d, value %d", (char *)arg, sig, si.si_code,
			si.si_code == SI_QUEUE ? si.si_value.sival_int : 0);
	return NULL;
}

int main(void)
{
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGRTMIN + 3);
	sigaddset(&set, SIGRTMIN + 4);
	OK(sigprocmask(SIG_BLOCK, &set, NULL));
	OK(raise(SIGUSR1));
	OK(kill(getpid(), SIGUSR1));
	OK(raise(SIGTERM));
	OK(kill(getpid(), SIGUSR2));
	OK(raise(SIGRTMIN + 4));
	OK(raise(SIGRTMIN + 4));
	for (int i = 1; i <= 3; i++)
		OK(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = i}));
	show("before");
	on_thread(other, NULL);
	show("main");
	on_thread(takes, (char[]){"thread"});
	show("main");
	takes((char[]){"main"});
	show("main");
	on_thread(other, NULL);
	return 0;
}
