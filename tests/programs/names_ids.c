/* Who am I: gettid, getpid, pthread_self, names, scheduling, affinity, CPU clocks. */
#include "prog.h"

#include <sys/mman.h>
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
	void *head;
	size_t len;

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
	say("the process by a thread's id: %s", RESULT(kill(gettid(), 0)));
	OK(syscall(SYS_get_robust_list, gettid(), &head, &len));
	say("robust list: %d %zu", head != NULL, len);
	return arg;
}

/* What a file of /proc calls it. */
static const char *comm(const char *path)
{
	static __thread char line[32];
	FILE *f = fopen(path, "re");

	if (!f)
		return err_name(errno);
	if (!fgets(line, sizeof line, f))
		strcpy(line, "nothing");
	line[strcspn(line, "\n")] = 0;
	CHECK(fgetc(f) == EOF);
	fclose(f);
	return line;
}

static const char *comm_of(pid_t tid)
{
	return comm(brief("/proc/self/task/%d/comm", tid));
}

static pthread_t main_thread;
static pid_t child_tid;

static void *child(void *arg)
{
	char name[16];

	child_tid = gettid();
	ZERO(pthread_getname_np(pthread_self(), name, sizeof name));
	say("a child is called %s", name);
	return arg;
}

static void *named(void *arg)
{
	char name[16], page_end[] = "at the very end of a page";
	char *pages = mmap(
		NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_t t;

	CHECK(pages != MAP_FAILED);
	OK(mprotect(pages + 4096, 4096, PROT_NONE));
	ZERO(pthread_setname_np(pthread_self(), "parent"));
	say("by file: %s, %s", comm_of(gettid()), comm("/proc/thread-self/comm"));
	say("by the process's number: %s",
		comm(brief("/proc/%d/task/%d/comm", getpid(), gettid())));
	t = start(child, NULL);
	finish(t);
	say("ended: %s, tgkill %s", comm_of(child_tid),
		RESULT(syscall(SYS_tgkill, getpid(), child_tid, 0)));
	say("nobody's: %s", comm("/proc/self/task/268435455/comm"));
	say("main's by file: %s", comm_of(getpid()));
	ZERO(pthread_setname_np(main_thread, "head"));
	say("renamed: %s, the process %s", comm_of(getpid()), comm("/proc/self/comm"));
	ZERO(pthread_getname_np(main_thread, name, sizeof name));
	say("says libc: %s", name);
	say("too little room: %s", err_name(pthread_getname_np(main_thread, name, 15)));
	say("too long for main: %s", err_name(pthread_setname_np(main_thread, page_end)));
	OK(prctl(PR_SET_NAME, "a name of more than fifteen"));
	OK(prctl(PR_GET_NAME, name));
	say("prctl cuts: %s", name);
	strcpy(pages + 4096 - 4, "end");
	OK(prctl(PR_SET_NAME, pages + 4096 - 4));
	OK(prctl(PR_GET_NAME, name));
	say("prctl stops: %s", name);
	say("bad names: %s %s", RESULT(prctl(PR_SET_NAME, pages + 4096)),
		RESULT(prctl(PR_GET_NAME, pages + 4096)));
	say("after that: %s", comm_of(gettid()));
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
	main_thread = pthread_self();
	on_thread(named, NULL);
	OK(prctl(PR_GET_NAME, name));
	say("main is %s", name);
	on_thread(policies, NULL);
	on_thread(burns, NULL);
	return 0;
}
