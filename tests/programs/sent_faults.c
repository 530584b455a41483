/*
 * SIGSEGV and its kind, sent by another process while the threads are busy with signals
 * themselves: each arrives, with its sender, at one thread that lets it in. Without a
 * handler it kills.
 */
#include "../support/prog.h"

#include <stdatomic.h>
#include <sys/resource.h>

enum { THREADS = 6, SENT = 600 };

static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
enum { KINDS = sizeof signals / sizeof *signals };

static atomic_int handled, wrong, quit, pokes;
static pid_t sender;
static pthread_t threads[THREADS];
static pthread_barrier_t all_made, none_ended;

static void on_sent(int sig, siginfo_t *si, void *ctx)
{
	bool one = false;

	(void)ctx;
	for (int i = 0; i < KINDS; i++)
		one |= sig == signals[i];
	if (!one || si->si_signo != sig || si->si_code != SI_USER || si->si_pid != sender)
		wrong++;
	handled++;
}

static void on_poke(int sig)
{
	(void)sig;
	pokes++;
}

static void install(int sig, void (*handler)(int, siginfo_t *, void *))
{
	struct sigaction act = {.sa_flags = SA_SIGINFO | SA_RESTART};

	act.sa_sigaction = handler;
	ZERO(sigaction(sig, &act, NULL));
}

/* Calls that set actions and masks, and send signals to the neighbour. */
static void *busy(void *arg)
{
	int me = (int)(intptr_t)arg;
	sigset_t set, old;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_barrier_wait(&all_made);
	for (unsigned n = 0; !quit; n++) {
		ZERO(pthread_sigmask(SIG_BLOCK, &set, &old));
		ZERO(pthread_kill(threads[(me + 1) % THREADS], SIGUSR1));
		ZERO(pthread_sigmask(SIG_SETMASK, &old, NULL));
		if (n % 4 == 0)
			install(signals[n / 4 % KINDS], on_sent);
		if (n % 64 == 0)
			sched_yield();
	}
	pthread_barrier_wait(&none_ended);
	return NULL;
}

/* One at a time: a second one that is pending would be one with the first. */
static void send_signals(int from_parent, int to_parent)
{
	char c;

	for (int i = 0; i < SENT; i++) {
		ZERO(kill(getppid(), signals[i % KINDS]));
		if (write(to_parent, "s", 1) != 1 || read(from_parent, &c, 1) != 1)
			_exit(1);
	}
	_exit(0);
}

static void *wait_long(void *arg)
{
	(void)arg;
	for (;;)
		pause();
	return NULL;
}

/* Returns what a process with threads and no handler ended with. */
static int killed_by(int sig)
{
	int status, ready[2];
	pthread_t t;
	char c;
	pid_t pid;

	OK(pipe(ready));
	fflush(stdout);
	OK((pid = fork()));
	if (!pid) {
		signal(sig, SIG_DFL);
		ZERO(pthread_create(&t, NULL, wait_long, NULL));
		CHECK(write(ready[1], "r", 1) == 1);
		wait_long(NULL);
	}
	CHECK(read(ready[0], &c, 1) == 1);
	ZERO(kill(pid, sig));
	OK(waitpid(pid, &status, 0));
	close(ready[0]);
	close(ready[1]);
	return WIFSIGNALED(status) ? WTERMSIG(status) : -1;
}

int main(void)
{
	int there[2], back[2], status;
	struct rlimit none = {0, 0};
	char c;

	ZERO(setrlimit(RLIMIT_CORE, &none));
	OK(pipe(there));
	OK(pipe(back));
	OK((sender = fork()));
	if (!sender) {
		CHECK(read(there[0], &c, 1) == 1);
		send_signals(there[0], back[1]);
	}
	for (int i = 0; i < KINDS; i++)
		install(signals[i], on_sent);
	signal(SIGUSR1, on_poke);
	ZERO(pthread_barrier_init(&all_made, NULL, THREADS));
	ZERO(pthread_barrier_init(&none_ended, NULL, THREADS));
	for (int i = 0; i < THREADS; i++)
		ZERO(pthread_create(&threads[i], NULL, busy, (void *)(intptr_t)i));
	/* On a busy machine they may begin only when the last signal has come. */
	while (!pokes)
		usleep(50);
	CHECK(write(there[1], "b", 1) == 1);
	for (int i = 0; i < SENT; i++) {
		CHECK(read(back[0], &c, 1) == 1);
		while (handled <= i)
			usleep(50);
		CHECK(write(there[1], "n", 1) == 1);
	}
	quit = 1;
	for (int i = 0; i < THREADS; i++)
		ZERO(pthread_join(threads[i], NULL));
	OK(waitpid(sender, &status, 0));
	printf("handled %d, wrong %d, pokes %s, sender's status %d\n", handled, wrong,
		pokes ? "some" : "none", status);
	for (int i = 0; i < KINDS; i++)
		printf("without a handler: signal %d\n",
			killed_by(signals[i]) == signals[i]);
	return 0;
}
