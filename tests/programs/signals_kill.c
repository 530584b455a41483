/*
 * pthread_kill to a thread that is parked, that computes, and to oneself: the handler
 * runs in that thread, on its stack, with the right siginfo; a partial send keeps its
 * count.
 */
#include "sig.h"

static __thread int who;
static volatile int handled_by, code, sender_is_us, value, on_own_stack;
static int done, fds[2];

static void info_handler(int sig, siginfo_t *info, void *context)
{
	char here;
	pthread_attr_t attr;
	void *addr;
	size_t size;

	(void)sig;
	(void)context;
	/* not async-signal-safe in general; the threads here are in no libc lock */
	ZERO(pthread_getattr_np(pthread_self(), &attr));
	ZERO(pthread_attr_getstack(&attr, &addr, &size));
	on_own_stack = &here >= (char *)addr && &here < (char *)addr + size;
	handled_by = who;
	code = info->si_code;
	sender_is_us = info->si_pid == getpid();
	value = info->si_value.sival_int;
}

static void *parked(void *arg)
{
	char c;

	who = (int)(intptr_t)arg;
	ssize_t n = recv(fds[0], &c, 1, 0);
	return (void *)(intptr_t)n;
}

static void *computes(void *arg)
{
	volatile unsigned long x = 0;

	who = (int)(intptr_t)arg;
	while (!__atomic_load_n(&done, __ATOMIC_SEQ_CST))
		x++;
	return NULL;
}

static void *kills_itself(void *arg)
{
	who = (int)(intptr_t)arg;
	handled_by = 0;
	ZERO(pthread_kill(pthread_self(), SIGUSR1));
	say("oneself: handled at return %d, code %d", handled_by == who,
		code == SI_TKILL);
	handled_by = 0;
	OK(raise(SIGUSR1));
	say("raise: handled at return %d", handled_by == who);
	sig_mask(SIG_BLOCK, SIGUSR1);
	handled_by = 0;
	OK(raise(SIGUSR1));
	OK(raise(SIGUSR1)); /* a standard signal does not queue */
	say("blocked: handled %d", handled_by);
	sig_mask(SIG_UNBLOCK, SIGUSR1);
	say("unblocked: handled %d", handled_by == who);
	return NULL;
}

/* Real-time signals queue, lowest number first. */
static int order[16], order_n;

static void rt_handler(int sig, siginfo_t *info, void *context)
{
	(void)context;
	order[order_n++] = (sig - SIGRTMIN) * 100 + info->si_value.sival_int;
}

static void *queues(void *arg)
{
	struct sigaction sa = {.sa_sigaction = rt_handler, .sa_flags = SA_SIGINFO};
	sigset_t set;
	char line[128] = "";

	sigfillset(&sa.sa_mask);
	OK(sigaction(SIGRTMIN, &sa, NULL));
	OK(sigaction(SIGRTMIN + 1, &sa, NULL));
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	sigaddset(&set, SIGRTMIN + 1);
	ZERO(pthread_sigmask(SIG_BLOCK, &set, NULL));
	for (int i = 0; i < 3; i++) {
		ZERO(pthread_sigqueue(
			pthread_self(), SIGRTMIN + 1, (union sigval){.sival_int = i}));
		ZERO(pthread_sigqueue(
			pthread_self(), SIGRTMIN, (union sigval){.sival_int = i}));
	}
	ZERO(pthread_sigmask(SIG_UNBLOCK, &set, NULL));
	for (int i = 0; i < order_n; i++)
		sprintf(line + strlen(line), " %d", order[i]);
	say("queued:%s", line);
	return arg;
}

static void *sends_much(void *arg)
{
	size_t len = 32 << 20;
	char *block = calloc(1, len);
	ssize_t n = send(((int *)arg)[0], block, len, 0);

	__atomic_store_n(&done, 1, __ATOMIC_SEQ_CST);
	say("interrupted send: partial %d", n > 0 && n < (ssize_t)len);
	free(block);
	return NULL;
}

int main(void)
{
	struct sigaction sa = {
		.sa_sigaction = info_handler, .sa_flags = SA_SIGINFO | SA_RESTART};
	pthread_t t;
	int pair[2];

	OK(sigaction(SIGUSR1, &sa, NULL));
	unix_pair(fds);
	t = start(parked, (void *)1);
	do {
		ZERO(pthread_kill(t, SIGUSR1));
		usleep(5000);
	} while (handled_by != 1);
	say("parked: code %d from us %d own stack %d", code == SI_TKILL, sender_is_us,
		on_own_stack);
	handled_by = 0;
	ZERO(pthread_sigqueue(t, SIGUSR1, (union sigval){.sival_int = 99}));
	while (handled_by != 1)
		usleep(1000);
	say("sigqueue: code %d value %d", code == SI_QUEUE, value);
	OK(send(fds[1], "x", 1, 0));
	say("and recv went on: %ld", (long)(intptr_t)finish(t));

	t = start(computes, (void *)2);
	do {
		ZERO(pthread_kill(t, SIGUSR1));
		usleep(5000);
	} while (handled_by != 2);
	done = 1;
	finish(t);
	say("computing: own stack %d", on_own_stack);

	on_thread(kills_itself, (void *)3);
	on_thread(queues, NULL);

	sa.sa_flags = SA_SIGINFO; /* and even with SA_RESTART */
	OK(sigaction(SIGUSR1, &sa, NULL));
	tcp_pair(pair);
	done = 0;
	t = start(sends_much, pair);
	settle();
	sig_until(t, SIGUSR1, &done);
	finish(t);
	return 0;
}
