/*
 * The signals of timers that measure the process's CPU time go to the threads that use
 * it, each as many as its share: what a profiler lives by. None to threads that wait; the
 * share of one that blocks them is main's. One that has a kernel thread of its own (its
 * nice value) is like the others. The signal of a timer on a thread's time goes to the
 * thread.
 */
#include "sig.h"

#include <sys/resource.h>
#include <sys/time.h>
#include <sys/utsname.h>

enum { MAIN, FIRST, SECOND, WAITING, THREADS };
enum { PROF = 1, VIRTUAL = 2, TIMER = 4, OF_FIRST = 8 }; /* timers */
enum { NICE = 1, BLOCKS = 2 };                           /* what the second one does */
enum { NONE = 5, PART = 10 }; /* per cent of the signals: at most, at least */
enum { MANY = 400 };          /* signals that tell, whatever the shares */

static volatile int handled[2][THREADS]; /* SIGPROF and SIGVTALRM */
static _Thread_local int me;
static pthread_barrier_t begun;
static int go_on[2];
static int habits, timers_in_use;

static void count(int sig)
{
	handled[sig == SIGVTALRM][me]++;
}

static int sum(const volatile int *got)
{
	int all = 0;

	for (int i = 0; i < THREADS; i++)
		all += got[i];
	return all;
}

/*
 * The signal has been counted often enough to tell who gets it. On a busy machine one of
 * two that compute had 4 of the first 50, natively; that is neither a part nor none.
 */
static bool tells(const volatile int *got)
{
	int all = sum(got);

	for (int i = 0; i < THREADS && all < MANY; i++)
		if (got[i] * 100 > all * NONE && got[i] * 100 < all * PART)
			return false;
	return all >= 40;
}

static bool enough(void)
{
	return (!(timers_in_use & ~VIRTUAL) || tells(handled[0])) &&
	       (!(timers_in_use & VIRTUAL) || tells(handled[1]));
}

static void *computes(void *arg)
{
	volatile unsigned long x = 0;
	uint64_t until;

	me = (int)(intptr_t)arg;
	if (me == SECOND && habits & NICE)
		OK(setpriority(PRIO_PROCESS, (id_t)gettid(), 1));
	if (me == SECOND && habits & BLOCKS)
		sig_mask(SIG_BLOCK, SIGPROF);
	pthread_barrier_wait(&begun);
	until = now_ns(CLOCK_THREAD_CPUTIME_ID) + 250 * MS;
	while (now_ns(CLOCK_THREAD_CPUTIME_ID) < until || !enough())
		for (int i = 0; i < 5000000; i++)
			x++;
	return NULL;
}

static void *waits(void *arg)
{
	char c;

	me = (int)(intptr_t)arg;
	pthread_barrier_wait(&begun);
	CHECK(read(go_on[0], &c, 1) == 1);
	return NULL;
}

static const char *part(const volatile int *got, int who)
{
	int all = sum(got);

	if (got[who] * 100 >= all * PART)
		return "a part";
	return got[who] * 100 <= all * NONE ? "none" : brief("%d of %d", got[who], all);
}

static void report(const char *what, const volatile int *got)
{
	say("%s: main %s, who waits %s, first %s, second %s", what, part(got, MAIN),
		part(got, WAITING), part(got, FIRST), part(got, SECOND));
}

/* Two threads compute while timers run. */
static void measure(const char *what, int timers, timer_t *timer)
{
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGPROF};
	struct itimerspec spec = {{0, 10 * MS}, {0, 10 * MS}};
	struct itimerval every = {{0, 10000}, {0, 10000}}, off = {{0, 0}, {0, 0}};
	pthread_t t[THREADS];
	clockid_t clock;

	timers_in_use = timers;
	for (int i = 0; i < THREADS; i++)
		handled[0][i] = handled[1][i] = 0;
	for (int i = FIRST; i < THREADS; i++)
		t[i] = start(i == WAITING ? waits : computes, (void *)(intptr_t)i);
	if (timers & OF_FIRST) {
		ZERO(pthread_getcpuclockid(t[FIRST], &clock));
		OK(timer_create(clock, &ev, timer));
	}
	if (timer)
		OK(timer_settime(*timer, 0, &spec, NULL));
	OK(setitimer(ITIMER_PROF, timers & PROF ? &every : &off, NULL));
	OK(setitimer(ITIMER_VIRTUAL, timers & VIRTUAL ? &every : &off, NULL));
	pthread_barrier_wait(&begun);
	finish(t[FIRST]);
	finish(t[SECOND]);
	OK(setitimer(ITIMER_PROF, &off, NULL));
	OK(setitimer(ITIMER_VIRTUAL, &off, NULL));
	if (timer)
		OK(timer_delete(*timer));
	CHECK(write(go_on[1], "", 1) == 1);
	finish(t[WAITING]);
	if (timers & ~VIRTUAL)
		report(what, handled[0]);
	if (timers & VIRTUAL)
		report(what, handled[1]);
}

/* Before, main was asked first (signal: posix-timers: prefer the current thread). */
static bool kernel_is_6_4(void)
{
	struct utsname u;
	int major, minor;

	OK(uname(&u));
	CHECK(sscanf(u.release, "%d.%d", &major, &minor) == 2);
	return major > 6 || (major == 6 && minor >= 4);
}

int main(void)
{
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGPROF};
	timer_t early, timer;

	sig_install(SIGPROF, SA_RESTART, count);
	sig_install(SIGVTALRM, SA_RESTART, count);
	OK(timer_create(CLOCK_PROCESS_CPUTIME_ID, &ev, &early));
	OK(pipe(go_on));
	ZERO(pthread_barrier_init(&begun, NULL, THREADS));

	measure("ITIMER_PROF", PROF, NULL);
	measure("ITIMER_VIRTUAL", VIRTUAL, NULL);
	measure("both", PROF | VIRTUAL, NULL);
	habits = NICE;
	measure("beside a nice one", PROF, NULL);
	habits = BLOCKS;
	measure("beside one that blocks it", PROF, NULL);
	habits = 0;
	if (!kernel_is_6_4())
		return 0;
	measure("made before the threads", TIMER, &early);
	OK(timer_create(CLOCK_PROCESS_CPUTIME_ID, &ev, &timer));
	measure("made after them", TIMER, &timer);
	measure("of the first's time", TIMER | OF_FIRST, &timer);
	return 0;
}
