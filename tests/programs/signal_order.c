/*
 * Several signals at once: which goes first, which handler interrupts which, what masks,
 * SA_NODEFER and SA_RESETHAND do to that, and which of two decides about a restart.
 */
#include "sig.h"

#include <ucontext.h>

static char line[512];
static int depth;

static void note(const char *fmt, int sig, int more)
{
	size_t n = strlen(line);

	snprintf(line + n, sizeof line - n, fmt, sig, more);
}

static void nests(int sig)
{
	note(" (%d", sig, 0);
	depth++;
	getppid();
	depth--;
	note(")", 0, 0);
}

static void queued(int sig, siginfo_t *info, void *context)
{
	(void)context;
	note(" %d:%d", sig - SIGRTMIN, info->si_value.sival_int);
}

/* Comes again while its handler runs, three times in all. */
static int times;
static void again(int sig)
{
	note(" (%d@%d", sig, depth);
	depth++;
	if (++times < 3)
		OK(raise(sig));
	depth--;
	note(")", 0, 0);
}

static void blocks_in_context(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)info;
	sigaddset(&((ucontext_t *)context)->uc_sigmask, SIGUSR2);
}

static void install(int sig, int flags, void (*handler)(int), int masks)
{
	struct sigaction sa = {.sa_handler = handler, .sa_flags = flags};

	sigemptyset(&sa.sa_mask);
	if (masks)
		sigaddset(&sa.sa_mask, masks);
	OK(sigaction(sig, &sa, NULL));
}

static void block(int how, int a, int b, int c)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, a);
	sigaddset(&set, b);
	sigaddset(&set, c);
	ZERO(pthread_sigmask(how, &set, NULL));
}

/* All three are pending when they are let in. */
static void three(const char *what, bool process)
{
	*line = 0;
	block(SIG_BLOCK, SIGHUP, SIGUSR1, SIGUSR2);
	for (int i = 0; i < 2; i++) /* twice: standard signals do not queue */
		for (int k = 0; k < 3; k++) {
			int sig = (int[]){SIGUSR2, SIGHUP, SIGUSR1}[k];

			if (process)
				OK(kill(getpid(), sig));
			else
				OK(raise(sig));
		}
	block(SIG_UNBLOCK, SIGHUP, SIGUSR1, SIGUSR2);
	say("%s:%s", what, line);
}

static void realtime(void)
{
	union sigval v;

	*line = 0;
	for (int i = 0; i < 3; i++) {
		struct sigaction sa = {.sa_sigaction = queued, .sa_flags = SA_SIGINFO};

		OK(sigaction(SIGRTMIN + i, &sa, NULL));
	}
	block(SIG_BLOCK, SIGRTMIN, SIGRTMIN + 1, SIGRTMIN + 2);
	for (int i = 0; i < 9; i++) {
		v.sival_int = i;
		ZERO(pthread_sigqueue(pthread_self(), SIGRTMIN + 2 - i % 3, v));
	}
	block(SIG_UNBLOCK, SIGRTMIN, SIGRTMIN + 1, SIGRTMIN + 2);
	say("real-time signals:%s", line);

	*line = 0;
	block(SIG_BLOCK, SIGRTMIN, SIGRTMIN + 1, SIGRTMIN + 2);
	for (int i = 0; i < 6; i++) {
		sigset_t set;
		siginfo_t info;

		v.sival_int = i;
		ZERO(pthread_sigqueue(pthread_self(), SIGRTMIN + 2 - i % 3, v));
		if (i < 3)
			continue;
		sigemptyset(&set);
		for (int k = 0; k < 3; k++)
			sigaddset(&set, SIGRTMIN + k);
		OK(sigwaitinfo(&set, &info));
		note(" %d:%d", info.si_signo - SIGRTMIN, info.si_value.sival_int);
	}
	block(SIG_UNBLOCK, SIGRTMIN, SIGRTMIN + 1, SIGRTMIN + 2);
	say("taken first:%s", line);
}

static int pipe_fds[2];

/* Both come while the call waits; the one that is taken first decides. */
static void two_while_waiting(int restart, int plain)
{
	struct sigaction sa = {.sa_handler = sig_count};
	sigset_t old, set;
	char c;

	sa.sa_flags = SA_RESTART;
	OK(sigaction(restart, &sa, NULL));
	sa.sa_flags = 0;
	OK(sigaction(plain, &sa, NULL));
	sigemptyset(&set);
	sigaddset(&set, restart);
	sigaddset(&set, plain);
	ZERO(pthread_sigmask(SIG_BLOCK, &set, &old));
	OK(raise(restart));
	OK(raise(plain));
	/* ppoll lets both in at once. */
	struct pollfd p = {pipe_fds[0], POLLIN, 0};
	sig_handled = 0;
	const char *r = RESULT(ppoll(&p, 1, NULL, &old));
	say("both in ppoll: %s, %d handled", r, (int)sig_handled);
	ZERO(pthread_sigmask(SIG_SETMASK, &old, NULL));
	OK(write(pipe_fds[1], "x", 1));
	OK(read(pipe_fds[0], &c, 1));
}

static void *run(void *arg)
{
	install(SIGHUP, 0, nests, 0);
	install(SIGUSR1, 0, nests, 0);
	install(SIGUSR2, 0, nests, 0);
	three("each interrupts the one before", false);
	three("sent to the process", true);
	install(SIGHUP, 0, nests, SIGUSR2);
	three("the first blocks the last", false);
	install(SIGHUP, 0, nests, 0);
	install(SIGUSR1, 0, nests, SIGUSR2);
	three("the second blocks the last", false);

	install(SIGUSR1, SA_NODEFER, again, 0);
	*line = 0;
	times = 0;
	OK(raise(SIGUSR1));
	say("SA_NODEFER:%s", line);
	install(SIGUSR1, 0, again, 0);
	*line = 0;
	times = 0;
	OK(raise(SIGUSR1));
	say("deferred:%s", line);
	install(SIGUSR1, SA_RESETHAND | SA_NODEFER, nests, 0);
	*line = 0;
	OK(raise(SIGUSR1));
	struct sigaction now;
	OK(sigaction(SIGUSR1, NULL, &now));
	say("SA_RESETHAND:%s, default %d", line, now.sa_handler == SIG_DFL);

	struct sigaction sa = {.sa_sigaction = blocks_in_context, .sa_flags = SA_SIGINFO};
	sigset_t mask;
	OK(sigaction(SIGUSR1, &sa, NULL));
	OK(raise(SIGUSR1));
	ZERO(pthread_sigmask(SIG_SETMASK, NULL, &mask));
	say("handler blocked another: %d", sigismember(&mask, SIGUSR2));
	sig_mask(SIG_UNBLOCK, SIGUSR2);

	realtime();
	two_while_waiting(SIGUSR1, SIGUSR2);
	two_while_waiting(SIGUSR2, SIGUSR1);
	return arg;
}

int main(void)
{
	OK(pipe(pipe_fds));
	block(SIG_BLOCK, SIGHUP, SIGUSR1, SIGUSR2); /* the thread alone takes them */
	on_thread(run, NULL);
	block(SIG_UNBLOCK, SIGHUP, SIGUSR1, SIGUSR2);
	return 0;
}
