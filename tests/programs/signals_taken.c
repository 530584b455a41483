/*
 * Signals that are taken instead of handled, by sigwaitinfo, sigtimedwait and signalfd:
 * a thread's own come before the process's, lower numbers first, with what their senders
 * said; an unrelated handler ends the wait, and a signal that another thread was sent is
 * not to be had.
 */
#include "sig.h"

#include <sys/signalfd.h>

static const int sigs[] = {SIGUSR1, SIGHUP};
static sigset_t set;
static pthread_barrier_t gate;

static void block(int how)
{
	sigemptyset(&set);
	for (size_t i = 0; i < sizeof sigs / sizeof *sigs; i++)
		sigaddset(&set, sigs[i]);
	for (int i = 0; i < 3; i++)
		sigaddset(&set, SIGRTMIN + i);
	ZERO(pthread_sigmask(how, &set, NULL));
}

static const char *name(int sig)
{
	return sig >= SIGRTMIN ? brief("RTMIN+%d", sig - SIGRTMIN) : sigabbrev_np(sig);
}

static const char *code(int c)
{
	switch (c) {
	case SI_USER:
		return "USER";
	case SI_TKILL:
		return "TKILL";
	case SI_QUEUE:
		return "QUEUE";
	case SI_TIMER:
		return "TIMER";
	default:
		return brief("%d", c);
	}
}

static void take_all(const char *how)
{
	struct timespec none = {0, 0};
	siginfo_t si;
	int sig;

	while ((sig = sigtimedwait(&set, &si, &none)) > 0)
		say("%s: %s %s, from us %d, value %d", how, name(sig), code(si.si_code),
			si.si_pid == getpid() && si.si_uid == getuid(),
			si.si_code == SI_QUEUE ? si.si_value.sival_int : 0);
	say("%s: then %s", how, err_name(errno));
}

static void queue_to(pthread_t t, int sig, int value)
{
	ZERO(pthread_sigqueue(t, sig, (union sigval){.sival_int = value}));
}

static void send_to_process(void)
{
	OK(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 1}));
	OK(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 3}));
	OK(kill(getpid(), SIGUSR1));
	OK(kill(getpid(), SIGHUP));
	OK(sigqueue(getpid(), SIGHUP, (union sigval){.sival_int = 6})); /* merges */
}

static void send_to(pthread_t t)
{
	queue_to(t, SIGRTMIN + 1, 2);
	queue_to(t, SIGRTMIN + 2, 4);
	queue_to(t, SIGRTMIN + 1, 5);
	ZERO(pthread_kill(t, SIGUSR1));
	ZERO(pthread_kill(t, SIGUSR1)); /* merges */
}

static void *takes(void *arg)
{
	send_to_process();
	send_to(pthread_self());
	take_all(arg);
	return NULL;
}

/* What another thread is sent is its own. */
static void *has_pending(void *arg)
{
	pthread_barrier_wait(&gate);
	pthread_barrier_wait(&gate);
	take_all("its own");
	return arg;
}

static void of_another(void)
{
	pthread_t t = start(has_pending, NULL);
	sigset_t pending;

	pthread_barrier_wait(&gate);
	queue_to(t, SIGRTMIN, 7);
	ZERO(pthread_kill(t, SIGUSR1));
	OK(sigpending(&pending));
	say("seen by another: %d %d", sigismember(&pending, SIGUSR1),
		sigismember(&pending, SIGRTMIN));
	take_all("another's");
	pthread_barrier_wait(&gate);
	finish(t);
}

static volatile sig_atomic_t handled;

static void on_usr2(int sig)
{
	(void)sig;
	handled++;
}

static pthread_t waiter;
static int inside;

static void *pokes(void *arg)
{
	while (!__atomic_load_n(&inside, __ATOMIC_SEQ_CST))
		usleep(1000);
	settle();
	ZERO(pthread_kill(waiter, SIGUSR2));
	return arg;
}

/* An unrelated handler ends the wait, whatever its flags. */
static void *is_interrupted(void *arg)
{
	struct timespec minute = {60, 0};
	pthread_t t;

	for (int flags = 0; flags <= SA_RESTART; flags += SA_RESTART) {
		struct sigaction sa = {.sa_handler = on_usr2, .sa_flags = flags};

		OK(sigaction(SIGUSR2, &sa, NULL));
		for (int timed = 0; timed < 2; timed++) {
			waiter = pthread_self();
			inside = 0;
			handled = 0;
			t = start(pokes, NULL);
			__atomic_store_n(&inside, 1, __ATOMIC_SEQ_CST);
			const char *r = RESULT(timed ? sigtimedwait(&set, NULL, &minute)
						     : sigwaitinfo(&set, NULL));
			say("restart %d, timed %d: %s, handled %d", flags != 0, timed, r,
				(int)handled);
			finish(t);
		}
	}
	return arg;
}

static void read_all(const char *whose, int fd)
{
	struct signalfd_siginfo si[16];
	ssize_t n;

	while ((n = read(fd, si, sizeof si)) > 0)
		for (size_t i = 0; i < (size_t)n / sizeof *si; i++)
			say("signalfd, %s: %s, from us %d, value %d", whose,
				name((int)si[i].ssi_signo),
				si[i].ssi_pid == (uint32_t)getpid(),
				si[i].ssi_code == SI_QUEUE ? si[i].ssi_int : 0);
	say("signalfd: then %s", err_name(errno));
}

/* signalfd shows the reader's own and the process's, and takes them. */
static void *reads_fd(void *arg)
{
	int fd = OK(signalfd(-1, &set, SFD_NONBLOCK));

	send_to(pthread_self());
	read_all("own", fd);
	send_to_process();
	read_all("the process's", fd);
	send_to_process();
	take_all("not by signalfd");
	read_all("left", fd);
	OK(close(fd));
	return arg;
}

int main(void)
{
	ZERO(pthread_barrier_init(&gate, NULL, 2));
	block(SIG_BLOCK);
	on_thread(takes, "a thread");
	takes("main");
	of_another();
	on_thread(is_interrupted, NULL);
	is_interrupted(NULL);
	on_thread(reads_fd, NULL);
	return 0;
}
