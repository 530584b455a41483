/*
 * Processes that share the memory and go on beside the threads (clone with CLONE_VM
 * alone, as LinuxThreads and some sandboxes make them): their calls are their own,
 * whichever threads run meanwhile, and what they do with descriptors, signals and their
 * end is theirs.
 */
#include "../support/prog.h"

#include <stdatomic.h>

enum { CHILDREN = 6, STACK = 65536, TALKERS = 8, WORDS = 60 };

struct child {
	int request[2], answer[2];
	pid_t pid, seen, parent;
	atomic_int handled;
	char stack[STACK] __attribute__((aligned(64)));
};

static struct child children[CHILDREN];
static atomic_int quit, parents_handled;
static pid_t main_pid;

static void on_usr1(int sig)
{
	(void)sig;
	if (getpid() == main_pid) {
		parents_handled++;
		return;
	}
	for (int i = 0; i < CHILDREN; i++)
		if (children[i].seen == getpid())
			children[i].handled++;
}

/* No thread of its own: nothing here touches what libc keeps per thread but errno. */
static int live(void *arg)
{
	struct child *me = arg;
	const struct timespec us = {0, 20000};
	char c;

	me->seen = getpid();
	me->parent = getppid();
	kill(me->seen, SIGUSR1);
	for (int i = 0; i < WORDS; i++) {
		if (read(me->request[0], &c, 1) != 1)
			return 1;
		clock_nanosleep(CLOCK_MONOTONIC, 0, &us, NULL);
		sched_yield();
		c++;
		if (write(me->answer[1], &c, 1) != 1)
			return 2;
	}
	/* Its own table of actions: the parent's stays. */
	signal(SIGUSR1, SIG_IGN);
	kill(me->seen, SIGUSR1);
	/* Its own descriptors. */
	close(me->answer[1]);
	close(me->request[0]);
	return 40 + (int)(me - children);
}

/* Threads that park all the time, on every carrier. */
static void *talk(void *arg)
{
	int fd[2];
	char c = 0;

	(void)arg;
	OK(pipe(fd));
	while (!quit) {
		CHECK(write(fd[1], "x", 1) == 1);
		CHECK(read(fd[0], &c, 1) == 1 && c == 'x');
		usleep(100);
	}
	close(fd[0]);
	close(fd[1]);
	return NULL;
}

static void *keep(void *arg)
{
	struct child *ch = arg;
	int wrong = 0, status;
	char c;

	OK(pipe(ch->request));
	OK(pipe(ch->answer));
	OK((ch->pid = clone(live, ch->stack + STACK, CLONE_VM | SIGCHLD, ch)));
	for (int i = 0; i < WORDS; i++) {
		c = (char)('A' + i % 20);
		CHECK(write(ch->request[1], &c, 1) == 1);
		CHECK(read(ch->answer[0], &c, 1) == 1);
		wrong += c != (char)('B' + i % 20);
	}
	CHECK(waitpid(ch->pid, &status, 0) == ch->pid);
	wrong += ch->seen != ch->pid || ch->parent != main_pid || ch->handled != 1;
	wrong += !WIFEXITED(status) || WEXITSTATUS(status) != 40 + (int)(ch - children);
	/* The child has closed its own. */
	CHECK(write(ch->answer[1], "y", 1) == 1);
	CHECK(read(ch->answer[0], &c, 1) == 1 && c == 'y');
	return (void *)(intptr_t)wrong;
}

/* ---- what is sent to one as soon as it has an id --------------------------- */

enum { BIRTHS = 100 };

static atomic_int born, in_child, in_parent;
static volatile pid_t newborn;

static void on_usr2(int sig)
{
	(void)sig;
	if (getpid() == main_pid)
		in_parent++;
	else
		in_child++;
}

static int live_until_told(void *arg)
{
	const int *before = arg;

	while (in_child + in_parent == *before)
		;
	return 0;
}

static void *tell(void *arg)
{
	for (int i = 0; i < BIRTHS; i++) {
		while (!newborn)
			sched_yield();
		ZERO(kill(newborn, SIGUSR2));
		newborn = 0;
		born++;
	}
	return arg;
}

static void tell_newborns(void)
{
	static char stack[STACK] __attribute__((aligned(64)));
	pthread_t t;

	signal(SIGUSR2, on_usr2);
	ZERO(pthread_create(&t, NULL, tell, NULL));
	for (int i = 0; i < BIRTHS; i++) {
		int status;
		pid_t pid;

		OK((pid = clone(live_until_told, stack + STACK,
			    CLONE_VM | CLONE_PARENT_SETTID | SIGCHLD, &i, &newborn)));
		while (born <= i)
			sched_yield();
		CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	}
	ZERO(pthread_join(t, NULL));
	printf("told at birth: %d, the parent instead: %d\n", in_child, in_parent);
}

int main(void)
{
	pthread_t talkers[TALKERS], keepers[CHILDREN];
	struct sigaction act;
	void *wrong;

	main_pid = getpid();
	signal(SIGUSR1, on_usr1);
	for (int i = 0; i < TALKERS; i++)
		ZERO(pthread_create(&talkers[i], NULL, talk, NULL));
	for (int i = 0; i < CHILDREN; i++)
		ZERO(pthread_create(&keepers[i], NULL, keep, &children[i]));
	for (int i = 0; i < CHILDREN; i++) {
		ZERO(pthread_join(keepers[i], &wrong));
		printf("child %d: %d wrong\n", i, (int)(intptr_t)wrong);
	}
	quit = 1;
	for (int i = 0; i < TALKERS; i++)
		ZERO(pthread_join(talkers[i], NULL));
	ZERO(sigaction(SIGUSR1, NULL, &act));
	printf("the parent's handler %s, called %d times\n",
		act.sa_handler == on_usr1 ? "is there" : "has gone", parents_handled);
	tell_newborns();
	raise(SIGUSR1);
	printf("and now %d\n", parents_handled);
	return 0;
}
