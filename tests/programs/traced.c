/*
 * A process that its parent traces as strace -f does: each call and each signal stops the
 * thread, and the kernel runs another process meanwhile.
 */
#include "prog.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

enum { PAIRS = 2, ROUNDS = 30 };

static int to[PAIRS][2], from[PAIRS][2];

static void *echo(void *arg)
{
	long k = (long)arg;
	char c;

	while (read(to[k][0], &c, 1) == 1)
		CHECK(write(from[k][1], &c, 1) == 1);
	return NULL;
}

static void *ask(void *arg)
{
	static __thread int asked;
	long k = (long)arg;

	while (asked < ROUNDS) {
		char c = (char)++asked, back = 0;

		CHECK(write(to[k][1], &c, 1) == 1);
		CHECK(read(from[k][0], &back, 1) == 1 && back == c);
	}
	close(to[k][1]);
	return NULL;
}

static void traced(void)
{
	pthread_t t[2 * PAIRS];

	CHECK(!ptrace(PTRACE_TRACEME, 0, NULL, NULL));
	raise(SIGSTOP);
	for (long k = 0; k < PAIRS; k++) {
		CHECK(!pipe(to[k]) && !pipe(from[k]));
		CHECK(!pthread_create(&t[2 * k], NULL, echo, (void *)k));
		CHECK(!pthread_create(&t[2 * k + 1], NULL, ask, (void *)k));
	}
	for (int i = 0; i < 2 * PAIRS; i++)
		CHECK(!pthread_join(t[i], NULL));
	exit(7);
}

/* What the thread gets when it goes on: a signal, if that is why it stopped. */
static long signal_of(int status)
{
	int sig = WSTOPSIG(status);
	bool from_tracing = sig == (SIGTRAP | 0x80) || sig == SIGTRAP || sig == SIGSTOP;

	return from_tracing ? 0 : sig;
}

int main(void)
{
	pid_t child = fork(), who;
	int status;

	CHECK(child >= 0);
	if (!child)
		traced();
	CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
	CHECK(!ptrace(PTRACE_SETOPTIONS, child, NULL,
		PTRACE_O_TRACECLONE | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL));
	CHECK(!ptrace(PTRACE_SYSCALL, child, NULL, NULL));
	for (;;) {
		who = waitpid(-1, &status, __WALL);
		CHECK(who > 0);
		if (WIFSTOPPED(status))
			ptrace(PTRACE_SYSCALL, who, NULL, signal_of(status));
		else if (who == child)
			break;
	}
	printf("exited %d, status %d\n", WIFEXITED(status), WEXITSTATUS(status));
	return 0;
}
