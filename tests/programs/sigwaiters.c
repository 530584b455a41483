/*
 * Many threads in sigwait, sigwaitinfo and sigtimedwait: a signal for the process ends
 * one wait and no more; what nobody waits for stays pending, for signalfd and exec to
 * find; time-outs, children, timers and queued values are as ever.
 */
#include "sig.h"

#include <sys/signalfd.h>

#ifndef WAITERS
#define WAITERS 100
#endif

static sigset_t all;
static int begun, served, timed_out;
static long sum;

static sigset_t set_of(int sig)
{
	sigset_t s;

	sigemptyset(&s);
	sigaddset(&s, sig);
	return s;
}

static void *waits_for_value(void *arg)
{
	sigset_t s = set_of(SIGRTMIN + 1);
	siginfo_t info;

	__atomic_fetch_add(&begun, 1, __ATOMIC_SEQ_CST);
	/* Natively one may be woken for a signal that another one takes. */
	while (sigwaitinfo(&s, &info) != SIGRTMIN + 1)
		CHECK(errno == EINTR);
	__atomic_fetch_add(&sum, info.si_value.sival_int, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&served, 1, __ATOMIC_SEQ_CST);
	return arg;
}

/* From another process: it sees one process, not its threads. */
static void send_values(int from, int n)
{
	pid_t pid = OK(fork());

	if (!pid) {
		for (int i = 0; i < n; i++)
			OK(sigqueue(getppid(), SIGRTMIN + 1,
				(union sigval){.sival_int = from + i}));
		_exit(0);
	}
	CHECK(waitpid(pid, NULL, 0) == pid);
}

static void await(int *what, int n)
{
	while (__atomic_load_n(what, __ATOMIC_SEQ_CST) < n)
		usleep(1000);
}

static int pending_values(void)
{
	sigset_t s = set_of(SIGRTMIN + 1);
	struct timespec now = {0, 0};
	int n = 0;

	while (sigtimedwait(&s, NULL, &now) > 0)
		n++;
	return n;
}

static void one_each(void)
{
	pthread_t t[WAITERS];

	for (int i = 0; i < WAITERS; i++)
		t[i] = start(waits_for_value, NULL);
	await(&begun, WAITERS);
	usleep(50000);
	send_values(1, WAITERS / 2);
	await(&served, WAITERS / 2);
	usleep(50000);
	say("half: %d served, %d pending", served, pending_values());
	send_values(WAITERS / 2 + 1, WAITERS);
	for (int i = 0; i < WAITERS; i++)
		finish(t[i]);
	say("all: %d served, the sum is right: %d, %d pending", served,
		sum == (long)WAITERS * (WAITERS + 1) / 2, pending_values());
}

/* What the kernel has pending for the process, of ours. */
static unsigned long kernel_pending(void)
{
	FILE *f = fopen("/proc/self/status", "r");
	unsigned long v = 0;
	char line[256];

	CHECK(f);
	while (fgets(line, sizeof line, f))
		if (!strncmp(line, "ShdPnd:", 7))
			v = strtoul(line + 7, NULL, 16);
	fclose(f);
	return v & (1ul << (SIGUSR1 - 1) | 1ul << (SIGUSR2 - 1));
}

static void *waits_a_little(void *arg)
{
	struct timespec ts = {0, 20 * MS};
	sigset_t s = set_of(SIGUSR1);

	for (int i = 0; i < 5; i++) {
		CHECK(sigtimedwait(&s, NULL, &ts) == -1 && errno == EAGAIN);
		__atomic_fetch_add(&timed_out, 1, __ATOMIC_SEQ_CST);
	}
	return arg;
}

/* Sent while nobody waits: it stays where signalfd and exec look for it. */
static void stays_pending(void)
{
	struct signalfd_siginfo info;
	sigset_t s = set_of(SIGUSR1);
	pthread_t t[10];
	int fd;

	for (int i = 0; i < 10; i++)
		t[i] = start(waits_a_little, NULL);
	OK(kill(getpid(), SIGUSR2)); /* not theirs */
	for (int i = 0; i < 10; i++)
		finish(t[i]);
	for (int i = 0; i < 200; i++) {
		struct timespec ts = {0, 100000};

		CHECK(sigtimedwait(&s, NULL, &ts) == -1 && errno == EAGAIN);
		OK(kill(getpid(), SIGUSR1));
		CHECK(kernel_pending() & 1ul << (SIGUSR1 - 1));
		CHECK(sigtimedwait(&s, NULL, &ts) == SIGUSR1);
	}
	OK(kill(getpid(), SIGUSR1));
	fd = OK(signalfd(-1, &s, 0));
	CHECK(read(fd, &info, sizeof info) == sizeof info);
	say("%d in time; signalfd has %s; pending still: %s", timed_out,
		sigabbrev_np((int)info.ssi_signo),
		kernel_pending() == 1ul << (SIGUSR2 - 1) ? "USR2" : "something else");
	OK(close(fd));
	s = set_of(SIGUSR2);
	CHECK(sigwaitinfo(&s, NULL) == SIGUSR2);
}

static void *waits_child(void *arg)
{
	sigset_t s = set_of(SIGCHLD);
	siginfo_t info;

	CHECK(sigwaitinfo(&s, &info) == SIGCHLD);
	say("SIGCHLD: code %d, status %d, of the child: %d", info.si_code, info.si_status,
		waitpid(info.si_pid, NULL, 0) == info.si_pid);
	return arg;
}

static void *waits_timer(void *arg)
{
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 2};
	struct itimerspec its = {{0, 10 * MS}, {0, 10 * MS}};
	sigset_t s = set_of(SIGRTMIN + 2);
	siginfo_t info;
	timer_t timer;

	ev.sigev_value.sival_int = 77;
	OK(timer_create(CLOCK_MONOTONIC, &ev, &timer));
	OK(timer_settime(timer, 0, &its, NULL));
	for (int i = 0; i < 5; i++)
		CHECK(sigwaitinfo(&s, &info) == SIGRTMIN + 2 &&
			info.si_code == SI_TIMER && info.si_value.sival_int == 77);
	usleep(100000); /* all of these in one */
	CHECK(sigwaitinfo(&s, &info) == SIGRTMIN + 2);
	say("timer: others were missed: %d", info.si_overrun > 3);
	OK(timer_delete(timer));
	return arg;
}

/* Every signal, also those that faults send. */
static void *waits_all(void *arg)
{
	int sig;

	ZERO(sigwait(&all, &sig));
	*(int *)arg = sig;
	return NULL;
}

int main(void)
{
	const int some[] = {SIGHUP, SIGTERM, SIGABRT, SIGALRM, SIGURG, SIGWINCH, SIGPIPE,
		SIGSEGV, SIGRTMAX};
	sigset_t children = set_of(SIGCHLD);
	struct timespec now = {0, 0};
	int got, status;
	pthread_t t;
	pid_t pid;

	sigfillset(&all);
	ZERO(pthread_sigmask(SIG_BLOCK, &all, NULL));
	one_each();
	stays_pending();
	while (sigtimedwait(&children, NULL, &now) > 0)
		;
	t = start(waits_child, NULL);
	pid = OK(fork());
	if (!pid)
		_exit(9);
	finish(t);
	on_thread(waits_timer, NULL);
	for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
		got = 0;
		t = start(waits_all, &got);
		usleep(20000);
		if (some[i] == SIGSEGV)
			ZERO(pthread_kill(t, SIGSEGV));
		else
			OK(kill(getpid(), some[i]));
		finish(t);
		CHECK(got == some[i]);
	}
	say("every kind");
	pid = OK(fork()); /* the child of one who has waiters has none itself */
	if (!pid) {
		struct timespec ts = {0, 1};
		_exit(sigtimedwait(&all, NULL, &ts) == -1 && errno == EAGAIN ? 3 : 4);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	say("the child: %s", describe_status(status));
	return 0;
}
