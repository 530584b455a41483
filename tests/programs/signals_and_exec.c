/*
 * Signals that meet exec, fork and the end of a process with threads: none is lost at an
 * exec that fails, none of weft's own is left for the program that is executed, what is
 * sent to a child at once reaches it, and kill() of oneself does not return.
 */
#include "../support/prog.h"

#include <stdatomic.h>
#include <sys/resource.h>

enum { QUEUED = 1500, EXECS = 40, FORKS = 40 };

static atomic_int got, quit, started;

static void count_it(int sig)
{
	(void)sig;
	got++;
}

static void *fails_to_execute(void *arg)
{
	char *const nothing[] = {NULL};

	while (!quit) {
		CHECK(execve("/dev/null", nothing, nothing) < 0 && errno == EACCES);
		started++;
	}
	return arg;
}

/* Each is handled before the next is sent: whatever the limit, none can be refused. */
static void while_exec_fails(void)
{
	pthread_t t[2];

	signal(SIGRTMIN + 3, count_it);
	for (int i = 0; i < 2; i++)
		ZERO(pthread_create(&t[i], NULL, fails_to_execute, NULL));
	while (started < 10)
		usleep(100);
	for (int i = 0; i < QUEUED; i++) {
		ZERO(kill(getpid(), SIGRTMIN + 3));
		while (got <= i)
			sched_yield();
	}
	quit = 1;
	for (int i = 0; i < 2; i++)
		ZERO(pthread_join(t[i], NULL));
	say("at exec that fails: %d of %d", got, QUEUED);
}

static void *waits(void *arg)
{
	for (;;)
		pause();
	return arg;
}

/* The child runs `child` with a thread beside it; what it ended with. */
static int ends_with(void (*child)(void))
{
	pthread_t t;
	int status;
	pid_t pid;

	OK((pid = fork()));
	if (!pid) {
		ZERO(pthread_create(&t, NULL, waits, NULL));
		child();
		_exit(3);
	}
	OK(waitpid(pid, &status, 0));
	return WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status);
}

static void kills_itself(void)
{
	kill(getpid(), SIGSEGV);
}

static void ends_as_crash_handlers_do(void)
{
	signal(SIGBUS, SIG_DFL);
	kill(getpid(), SIGBUS);
}

/* From a process with threads, so that the fork itself is weft's. */
static int sent_to_children_at_once(void)
{
	int killed = 0, status;

	for (int i = 0; i < FORKS; i++) {
		pid_t pid;

		OK((pid = fork()));
		if (!pid)
			waits(NULL);
		ZERO(kill(pid, SIGSEGV));
		OK(waitpid(pid, &status, 0));
		killed += WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
	}
	return killed;
}

/* Executes itself again and again while SIGWINCH, harmless without a handler, comes. */
static void execute_again(int left)
{
	char number[16];
	pthread_t t;

	signal(SIGWINCH, count_it);
	ZERO(pthread_create(&t, NULL, waits, NULL));
	if (!left)
		_exit(5);
	snprintf(number, sizeof number, "%d", left - 1);
	execl("/proc/self/exe", "signals_and_exec", number, NULL);
	_exit(6);
}

static int executes_again(void)
{
	pid_t pid, sender;
	int status;

	OK((pid = fork()));
	if (!pid)
		execute_again(EXECS);
	OK((sender = fork()));
	if (!sender)
		for (;;) {
			kill(pid, SIGWINCH);
			usleep(30);
		}
	OK(waitpid(pid, &status, 0));
	kill(sender, SIGKILL);
	OK(waitpid(sender, NULL, 0));
	return WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status);
}

/* Children of threads that are no fibers leave the parent's actions and life alone. */
static void *has_children(void *arg)
{
	ZERO(system("kill -s TERM $$; exit 9") == -1);
	return arg;
}

static void children_of_a_confined_process(void)
{
	struct sigaction act;
	cpu_set_t set;
	pthread_t t;
	int cpu = 0;

	ZERO(sched_getaffinity(0, sizeof set, &set));
	while (!CPU_ISSET(cpu, &set))
		cpu++;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	signal(SIGINT, count_it);
	signal(SIGTERM, count_it);
	ZERO(sched_setaffinity(0, sizeof set, &set));
	ZERO(pthread_create(&t, NULL, has_children, NULL));
	ZERO(pthread_join(t, NULL));
	got = 0;
	ZERO(sigaction(SIGINT, NULL, &act));
	raise(SIGINT);
	raise(SIGTERM);
	_exit(act.sa_handler == count_it && got == 2 ? 7 : 8);
}

int main(int argc, char **argv)
{
	struct rlimit none = {0, 0};

	if (argc > 1)
		execute_again(atoi(argv[1]));
	ZERO(setrlimit(RLIMIT_CORE, &none));
	while_exec_fails();
	say("kill of itself: %d", ends_with(kills_itself));
	say("and of SIGBUS: %d", ends_with(ends_as_crash_handlers_do));
	say("children killed at once: %d of %d", sent_to_children_at_once(), FORKS);
	say("executed again: %d", executes_again());
	say("confined: %d", ends_with(children_of_a_confined_process));
	return 0;
}
