/*
 * Policy, priority, nice value, affinity, I/O priority, timer slack: of oneself and of
 * others, what is refused, what children inherit; threads, and processes made by them.
 */
#include "prog.h"

#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define IOPRIO(class, data) ((class) << 13 | (data))

struct attr {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

static cpu_set_t all;
static int all_count;
static pthread_barrier_t gate;

static const char *policy_name(int policy)
{
	static const char *const names[] = {"other", "fifo", "rr", "batch"};

	return policy & SCHED_RESET_ON_FORK ? "reset on fork"
	       : policy >= 0 && policy < 4  ? names[policy]
	       : policy == SCHED_IDLE       ? "idle"
					    : "?";
}

/*
 * As the thread itself sees it; tid 0: of the caller. It may run on one CPU if `whose`
 * begins with a 1, else wherever the process may.
 */
static void show(const char *whose, pid_t tid)
{
	struct sched_param p = {0};
	struct attr a = {0};
	cpu_set_t cpus;
	int policy = OK(sched_getscheduler(tid));
	int count = *whose == '1' ? 1 : all_count;

	OK(sched_getparam(tid, &p));
	OK(syscall(SYS_sched_getattr, tid, &a, sizeof a, 0));
	errno = 0;
	CPU_ZERO(&cpus);
	OK(sched_getaffinity(tid, sizeof cpus, &cpus));
	say("%s: %s %d, nice %d, attr %s %u nice %d, CPUs %d, I/O %ld", whose,
		policy_name(policy), p.sched_priority,
		getpriority(PRIO_PROCESS, (id_t)tid), policy_name((int)a.policy),
		a.priority, a.nice, CPU_COUNT(&cpus) == count,
		syscall(SYS_ioprio_get, 1, tid));
}

static void *show_child(void *arg)
{
	show(arg, 0);
	return NULL;
}

static void children(const char *how)
{
	char self[] = "/proc/self/exe", count[16];
	char *argv[] = {self, (char *)"child", (char *)how, count, NULL};
	extern char **environ;
	int status;
	pid_t pid;

	snprintf(count, sizeof count, "%d", all_count);
	on_thread(show_child, (void *)how);
	pid = OK(fork());
	if (!pid) {
		show("1 forked", 0);
		on_thread(show_child, (void *)"1 its thread");
		_exit(0);
	}
	OK(waitpid(pid, &status, 0));
	ZERO(posix_spawn(&pid, self, NULL, NULL, argv, environ));
	OK(waitpid(pid, &status, 0));
	pid = OK(fork());
	if (!pid) {
		execv(self, argv);
		_exit(1);
	}
	OK(waitpid(pid, &status, 0));
}

static void one_cpu(cpu_set_t *ret)
{
	CPU_ZERO(ret);
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &all)) {
			CPU_SET(i, ret);
			return;
		}
}

static void *refused(void *arg)
{
	struct sched_param p = {0}, five = {5}, many = {1000};
	struct attr a = {.size = sizeof a, .policy = 77};
	cpu_set_t none, cpus;
	struct timespec ts;

	CPU_ZERO(&none);
	say("no such policy: %s", RESULT(sched_setscheduler(0, 77, &p)));
	say("negative policy: %s", RESULT(sched_setscheduler(0, -1, &p)));
	say("other, priority 5: %s", RESULT(sched_setscheduler(0, SCHED_OTHER, &five)));
	say("fifo, priority 0: %s", RESULT(sched_setscheduler(0, SCHED_FIFO, &p)));
	say("fifo, priority 1000: %s", RESULT(sched_setscheduler(0, SCHED_FIFO, &many)));
	say("setparam 5: %s", RESULT(sched_setparam(0, &five)));
	say("setparam, bad pointer: %s", RESULT(syscall(SYS_sched_setparam, 0, 8)));
	say("setattr: %s", RESULT(syscall(SYS_sched_setattr, 0, &a, 0)));
	a = (struct attr){.size = 7};
	say("setattr, bad size: %s", RESULT(syscall(SYS_sched_setattr, 0, &a, 0)));
	say("setattr, flags: %s", RESULT(syscall(SYS_sched_setattr, 0, &a, 1)));
	say("getattr, small: %s", RESULT(syscall(SYS_sched_getattr, 0, &a, 8, 0)));
	say("no CPU: %s", RESULT(sched_setaffinity(0, sizeof none, &none)));
	say("affinity, bad pointer: %s", RESULT(syscall(SYS_sched_setaffinity, 0, 8, 8)));
	say("affinity, odd size: %s",
		RESULT(syscall(SYS_sched_getaffinity, 0, 7, &cpus)));
	say("nice of nobody: %s", RESULT(getpriority(PRIO_PROCESS, 0x7ffffff0)));
	say("nice of what: %s", RESULT(setpriority(7, 0, 0)));
	say("I/O class 7: %s", RESULT(syscall(SYS_ioprio_set, 1, 0, IOPRIO(7, 0))));
	say("I/O level 9: %s", RESULT(syscall(SYS_ioprio_set, 1, 0, IOPRIO(2, 9))));
	say("of nobody: %s %s %s", RESULT(sched_getscheduler(0x7ffffff0)),
		RESULT(sched_setparam(0x7ffffff0, &p)),
		RESULT(sched_getaffinity(0x7ffffff0, sizeof cpus, &cpus)));
	say("of a negative id: %s %s %s", RESULT(sched_getscheduler(-5)),
		RESULT(sched_setscheduler(-5, SCHED_OTHER, &p)),
		RESULT(sched_rr_get_interval(-5, &ts)));
	show("nothing changed", 0);
	return arg;
}

static void *changes(void *arg)
{
	struct sched_param p = {0};
	struct timespec ts = {-1, -1};
	struct attr a = {.size = sizeof a};
	cpu_set_t one;
	int policy;

	one_cpu(&one);
	OK(setpriority(PRIO_PROCESS, 0, 7));
	show("nice 7", 0);
	say("nice(2): %s", RESULT(nice(2)));
	OK(sched_setaffinity(0, sizeof one, &one));
	OK(syscall(SYS_ioprio_set, 1, 0, IOPRIO(2, 6)));
	show("1 CPU, I/O 6", 0);
	OK(sched_setscheduler(0, SCHED_BATCH, &p));
	show("1 batch", 0);
	children("1 inherited");
	OK(sched_setscheduler(0, SCHED_IDLE, &p));
	show("1 idle", 0);
	if (geteuid() == 0) {
		p.sched_priority = 3;
		say("fifo: %s", RESULT(sched_setscheduler(0, SCHED_FIFO, &p)));
		p.sched_priority = 4;
		say("setparam: %s", RESULT(sched_setparam(0, &p)));
		say("getschedparam: %s",
			err_name(pthread_getschedparam(pthread_self(), &policy, &p)));
		say("%s %d", policy_name(policy), p.sched_priority);
		say("interval: %s", RESULT(sched_rr_get_interval(0, &ts)));
		say("of fifo: %ld.%09ld", (long)ts.tv_sec, ts.tv_nsec);
		say("rr: %s", RESULT(sched_setscheduler(
				      0, SCHED_RR | SCHED_RESET_ON_FORK, &p)));
		show("1 rr", 0);
		OK(sched_rr_get_interval(0, &ts));
		say("of rr: %ld.%09ld", (long)ts.tv_sec, ts.tv_nsec);
		children("1 reset");
		a.policy = SCHED_OTHER;
		a.nice = -5;
		say("setattr: %s", RESULT(syscall(SYS_sched_setattr, 0, &a, 0)));
		show("1 nice -5", 0);
	}
	return arg;
}

static pid_t waiters_tid;

static void *waiter(void *arg)
{
	waiters_tid = gettid();
	pthread_barrier_wait(&gate);
	pthread_barrier_wait(&gate);
	show("1 the waiter of itself", 0);
	pthread_barrier_wait(&gate);
	pthread_barrier_wait(&gate);
	return arg;
}

static void others(void)
{
	pthread_t t = start(waiter, NULL);
	struct sched_param p = {0};
	cpu_set_t one, got;
	int policy = -1;
	pid_t tid;

	one_cpu(&one);
	pthread_barrier_wait(&gate);
	tid = waiters_tid;
	show("the waiter", tid);
	OK(setpriority(PRIO_PROCESS, (id_t)tid, 11));
	ZERO(pthread_setaffinity_np(t, sizeof one, &one));
	ZERO(pthread_setschedparam(t, SCHED_BATCH, &p));
	show("1 the waiter", tid);
	ZERO(pthread_getaffinity_np(t, sizeof got, &got));
	ZERO(pthread_getschedparam(t, &policy, &p));
	say("%s, one CPU: %d", policy_name(policy), CPU_EQUAL(&one, &got));
	show("main", 0);
	pthread_barrier_wait(&gate);
	pthread_barrier_wait(&gate);
	say("its group is ours: %d, its session: %d", getpgid(tid) == getpgid(0),
		getsid(tid) == getsid(0));
	say("limits by its id: %s",
		RESULT(syscall(SYS_prlimit64, tid, RLIMIT_NOFILE, NULL, NULL)));
	say("same memory: %ld", syscall(SYS_kcmp, getpid(), tid, 1 /* VM */, 0, 0));
	pthread_barrier_wait(&gate);
	finish(t);
	/* Natively a joiner may be faster than the last steps of the thread's end. */
	while (!syscall(SYS_tgkill, getpid(), tid, 0))
		sched_yield();
	say("ended: %s %s %s", RESULT(sched_getscheduler(tid)),
		RESULT(getpriority(PRIO_PROCESS, (id_t)tid)),
		RESULT(sched_setaffinity(tid, sizeof one, &one)));
}

/* What an attribute object asks for is there from the first instruction. */
static void created(void)
{
	struct sched_param p = {0};
	pthread_attr_t attr;
	cpu_set_t one;
	pthread_t t;

	one_cpu(&one);
	ZERO(pthread_attr_init(&attr));
	ZERO(pthread_attr_setaffinity_np(&attr, sizeof one, &one));
	ZERO(pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED));
	ZERO(pthread_attr_setschedpolicy(&attr, SCHED_OTHER));
	ZERO(pthread_attr_setschedparam(&attr, &p));
	ZERO(pthread_create(&t, &attr, show_child, (void *)"1 created"));
	finish(t);
	if (geteuid() == 0) {
		p.sched_priority = 9;
		ZERO(pthread_attr_setschedpolicy(&attr, SCHED_RR));
		ZERO(pthread_attr_setschedparam(&attr, &p));
		ZERO(pthread_create(&t, &attr, show_child, (void *)"1 created for rr"));
		finish(t);
	}
	CPU_ZERO(&one);
	ZERO(pthread_attr_setaffinity_np(&attr, sizeof one, &one));
	say("on no CPU: %s", err_name(pthread_create(&t, &attr, show_child, NULL)));
	ZERO(pthread_attr_destroy(&attr));
}

static void *slack(void *arg)
{
	int was = OK(prctl(PR_GET_TIMERSLACK)), child;

	say("slack %d", was);
	OK(prctl(PR_SET_TIMERSLACK, 77777));
	say("set %d", prctl(PR_GET_TIMERSLACK));
	if (arg)
		on_thread(slack, NULL);
	child = OK(fork());
	if (!child) {
		say("forked %d", prctl(PR_GET_TIMERSLACK));
		_exit(0);
	}
	OK(waitpid(child, NULL, 0));
	OK(prctl(PR_SET_TIMERSLACK, 0));
	say("default again %d", prctl(PR_GET_TIMERSLACK));
	return NULL;
}

/* The child of fork is the thread that called, by name too. */
static void *named(void *arg)
{
	char name[16];
	pid_t pid;

	ZERO(pthread_setname_np(pthread_self(), "forker"));
	pid = OK(fork());
	if (!pid) {
		FILE *f = fopen("/proc/self/comm", "re");

		CHECK(f && fgets(name, sizeof name, f));
		name[strcspn(name, "\n")] = 0;
		say("its child is called %s", name);
		_exit(0);
	}
	OK(waitpid(pid, NULL, 0));
	return arg;
}

int main(int argc, char **argv)
{
	OK(sched_getaffinity(0, sizeof all, &all));
	all_count = CPU_COUNT(&all);
	if (argc > 3 && !strcmp(argv[1], "child")) {
		all_count = atoi(argv[3]);
		show(argv[2], 0);
		return 0;
	}
	ZERO(pthread_barrier_init(&gate, NULL, 2));
	on_thread(show_child, (void *)"as it was");
	on_thread(refused, NULL);
	on_thread(changes, NULL);
	on_thread(show_child, (void *)"main's child");
	others();
	created();
	on_thread(slack, (void *)1);
	on_thread(named, NULL);
	OK(setpriority(PRIO_PROCESS, (id_t)getpid(), 3));
	show("main, by the process's id", 0);
	on_thread(show_child, (void *)"its child");
	OK(setpriority(PRIO_PGRP, 0, 5));
	say("main, by its group: %d", getpriority(PRIO_PROCESS, 0));
	return 0;
}
