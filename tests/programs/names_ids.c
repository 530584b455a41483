/* Who am I: gettid, getpid, pthread_self, names, scheduling, affinity, CPU clocks. */
#include "prog.h"

#include <sys/prctl.h>
#include <sys/syscall.h>

#define THREADS 12

static pthread_barrier_t gate;
static pid_t tids[THREADS];

static void *run(void *arg)
{
	int id = (int)(intptr_t)arg;
	char name[16], got[16];
	int bad = 0;

	tids[id] = gettid();
	snprintf(name, sizeof name, "worker-%d", id);
	ZERO(pthread_setname_np(pthread_self(), name));
	pthread_barrier_wait(&gate);
	for (int i = 0; i < 20; i++) {
		bad += gettid() != tids[id];
		bad += syscall(SYS_gettid) != tids[id];
		bad += getpid() == gettid();
		bad += pthread_getname_np(pthread_self(), got, sizeof got) != 0 ||
		       strcmp(got, name) != 0;
		bad += prctl(PR_GET_NAME, got) != 0 || strcmp(got, name) != 0;
		usleep(300);
	}
	pthread_barrier_wait(&gate); /* main looks at us by name */
	pthread_barrier_wait(&gate);
	prctl(PR_GET_NAME, got);
	bad += strncmp(got, "renamed-", 8) != 0;
	return (void *)(intptr_t)bad;
}

static void *burns(void *arg)
{
	struct timespec ts;
	clockid_t clock;
	uint64_t before = now_ns(CLOCK_THREAD_CPUTIME_ID), own;
	volatile long x = 0;

	while (now_ns(CLOCK_THREAD_CPUTIME_ID) - before < 5 * MS)
		for (int i = 0; i < 1000; i++)
			x += i;
	own = now_ns(CLOCK_THREAD_CPUTIME_ID);
	usleep(30000); /* sleeping costs none */
	say("sleep costs CPU time: %d", now_ns(CLOCK_THREAD_CPUTIME_ID) - own > 20 * MS);
	ZERO(pthread_getcpuclockid(pthread_self(), &clock));
	OK(clock_gettime(clock, &ts));
	say("clock id agrees: %d",
		(uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec >= own);
	return arg;
}

static void *policies(void *arg)
{
	struct sched_param param = {0};
	cpu_set_t mask, process;
	int policy = -1;

	ZERO(pthread_getschedparam(pthread_self(), &policy, &param));
	say("policy %d priority %d", policy, param.sched_priority);
	ZERO(pthread_getaffinity_np(pthread_self(), sizeof mask, &mask));
	OK(sched_getaffinity(getpid(), sizeof process, &process));
	say("affinity as the process's: %d", CPU_EQUAL(&mask, &process));
	say("setschedparam to what it is: %s",
		err_name(pthread_setschedparam(pthread_self(), SCHED_OTHER, &param)));
	param.sched_priority = 5;
	say("bad priority: %s",
		err_name(pthread_setschedparam(pthread_self(), SCHED_OTHER, &param)));
	say("tgkill 0 of oneself: %ld", syscall(SYS_tgkill, getpid(), gettid(), 0));
	say("tgkill of nobody: %s", RESULT(syscall(SYS_tgkill, getpid(), 0x7ffffff, 0)));
	say("kill 0: %s", err_name(pthread_kill(pthread_self(), 0)));
	return arg;
}

int main(void)
{
	pthread_t threads[THREADS];
	char name[16], too_long[] = "a name of more than fifteen";
	long bad = 0, equal = 0;

	say("main: gettid is getpid %d", gettid() == getpid());
	ZERO(pthread_barrier_init(&gate, NULL, THREADS + 1));
	for (intptr_t i = 0; i < THREADS; i++)
		threads[i] = start(run, (void *)i);
	pthread_barrier_wait(&gate);
	pthread_barrier_wait(&gate);
	for (int i = 0; i < THREADS; i++) {
		char expected[16];

		snprintf(expected, sizeof expected, "worker-%d", i);
		ZERO(pthread_getname_np(threads[i], name, sizeof name));
		bad += strcmp(name, expected) != 0;
		snprintf(name, sizeof name, "renamed-%d", i);
		ZERO(pthread_setname_np(threads[i], name));
	}
	pthread_barrier_wait(&gate);
	for (int i = 0; i < THREADS; i++)
		bad += (long)(intptr_t)finish(threads[i]);
	for (int i = 0; i < THREADS; i++)
		for (int k = 0; k < i; k++)
			equal += tids[i] == tids[k];
	say("%ld wrong, %ld ids equal", bad, equal);
	say("name too long: %s", err_name(pthread_setname_np(pthread_self(), too_long)));
	ZERO(pthread_getname_np(pthread_self(), name, sizeof name));
	say("main's name: %s", name);
	on_thread(policies, NULL);
	on_thread(burns, NULL);
	return 0;
}
