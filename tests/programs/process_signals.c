/*
 * Signals for the process: the main thread is asked first, then whoever lets them in;
 * SIGSTOP and SIGCONT stop and continue all threads; the signal that kills is told.
 */
#include "sig.h"

#define OTHERS 4

static pid_t main_tid;
static volatile sig_atomic_t in_main, in_others;
static int go[2];
static bool stop;

static void counts(int sig)
{
	(void)sig;
	if (gettid() == main_tid)
		in_main++;
	else
		in_others++;
}

static void *sleeps(void *arg)
{
	char c;

	while (read(go[0], &c, 1) < 0 && errno == EINTR)
		;
	return arg;
}

static void send_one(int sig)
{
	int before = in_main + in_others;

	OK(kill(getpid(), sig));
	while (in_main + in_others == before)
		usleep(100);
}

static void preferences(void)
{
	pthread_t others[OTHERS];

	main_tid = gettid();
	OK(pipe(go));
	sig_install(SIGUSR1, SA_RESTART, counts);
	for (int i = 0; i < OTHERS; i++)
		others[i] = start(sleeps, NULL);
	settle();
	for (int i = 0; i < 200; i++)
		send_one(SIGUSR1);
	say("all let it in: main took %d of 200", (int)in_main);
	in_main = in_others = 0;
	sig_mask(SIG_BLOCK, SIGUSR1);
	for (int i = 0; i < 200; i++)
		send_one(SIGUSR1);
	say("main blocks it: others took %d of 200", (int)in_others);
	OK(write(go[1], "xxxx", OTHERS));
	for (int i = 0; i < OTHERS; i++)
		finish(others[i]);
	/* Nobody is left to take it: it waits for somebody who lets it in. */
	in_main = in_others = 0;
	OK(kill(getpid(), SIGUSR1));
	sigset_t pending;
	OK(sigpending(&pending));
	say("nobody: pending %d, handled %d", sigismember(&pending, SIGUSR1),
		in_main + in_others);
	sig_mask(SIG_UNBLOCK, SIGUSR1);
	say("let in: handled by main %d", (int)in_main);
}

static void *beats(void *arg)
{
	int *fds = arg;
	char c = 'b';

	while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
		OK(write(fds[1], &c, 1));
		usleep(1000);
	}
	return NULL;
}

/* A process with threads that say they live, until it is killed. */
static pid_t living(int fds[2])
{
	pid_t pid = OK(fork());

	if (pid)
		return pid;
	for (int i = 0; i < OTHERS; i++)
		start(beats, fds);
	for (;;)
		pause();
}

static void read_beats(int fd)
{
	char c;

	for (int i = 0; i < 20; i++)
		CHECK(read(fd, &c, 1) == 1);
}

static void stops_and_continues(void)
{
	int fds[2], status;
	char buf[4096];

	OK(pipe(fds));
	pid_t pid = living(fds);
	read_beats(fds[0]);
	OK(kill(pid, SIGSTOP));
	OK(waitpid(pid, &status, WUNTRACED));
	say("stopped: %d", WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
	OK(fcntl(fds[0], F_SETFL, O_NONBLOCK));
	while (read(fds[0], buf, sizeof buf) > 0)
		;
	settle();
	say("beats while stopped: %s", RESULT(read(fds[0], buf, 1)));
	OK(fcntl(fds[0], F_SETFL, 0));
	OK(kill(pid, SIGCONT));
	OK(waitpid(pid, &status, WCONTINUED));
	say("continued: %d", WIFCONTINUED(status));
	read_beats(fds[0]);
	OK(kill(pid, SIGTERM));
	OK(waitpid(pid, &status, 0));
	say("%s", describe_status(status));
}

int main(void)
{
	preferences();
	stops_and_continues();
	return 0;
}
