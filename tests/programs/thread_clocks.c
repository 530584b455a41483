/* CPU time is the thread's own: by clock, by clock id of another, by getrusage. */
#include "prog.h"

#include <sys/resource.h>
#include <sys/syscall.h>

static pthread_barrier_t gate;

static uint64_t rusage_ns(void)
{
	struct rusage ru;

	OK(getrusage(RUSAGE_THREAD, &ru));
	return (uint64_t)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1000000000 +
	       (uint64_t)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) * 1000;
}

static void burn(clockid_t clock, uint64_t ns)
{
	uint64_t until = now_ns(clock) + ns;
	volatile long x = 0;

	while (now_ns(clock) < until)
		for (int i = 0; i < 1000; i++)
			x += i;
}

/*
 * Without asking any clock for it. On the fastest machines an addition takes a third
 * of a nanosecond: still several times what main asks for and a tick of weft's.
 */
static void burn_blindly(void)
{
	volatile long x = 0;

	for (long i = 0; i < 300000000; i++)
		x += i;
}

static clockid_t clock_of(pthread_t t)
{
	clockid_t clock;

	ZERO(pthread_getcpuclockid(t, &clock));
	return clock;
}

static void *sleeper(void *arg)
{
	burn(CLOCK_THREAD_CPUTIME_ID, MS);
	pthread_barrier_wait(&gate); /* main reads our clock twice while we wait */
	pthread_barrier_wait(&gate);
	return arg;
}

static void *blind(void *arg)
{
	burn_blindly();
	pthread_barrier_wait(&gate);
	pthread_barrier_wait(&gate);
	return arg;
}

static volatile int stop;

static void *spinner(void *arg)
{
	volatile long x = 0;

	pthread_barrier_wait(&gate);
	while (!stop)
		x++;
	return arg;
}

/* Three that take turns: what each used is its own, and only grows. */
static void *turns(void *arg)
{
	uint64_t want = (uint64_t)(intptr_t)arg * 20 * MS, last = 0, now, all = 0;
	long bad = 0;

	while (all < want) {
		uint64_t before = now_ns(CLOCK_THREAD_CPUTIME_ID);

		burn(CLOCK_THREAD_CPUTIME_ID, MS);
		now = now_ns(CLOCK_THREAD_CPUTIME_ID);
		all += now - before;
		bad += before < last;
		last = now;
		sched_yield();
		usleep(500);
	}
	now = now_ns(CLOCK_THREAD_CPUTIME_ID);
	/* All of it was burnt above, give or take what the sleeps cost. */
	bad += now < want || now > want * 3 + 100 * MS;
	return (void *)bad;
}

static void *own(void *arg)
{
	struct timespec ts, zero = {0, 0};
	struct rusage ru;
	uint64_t a, b, c;
	int k;

	say("starts near nothing: %d", now_ns(CLOCK_THREAD_CPUTIME_ID) < 50 * MS);
	say("but not at nothing: %d", now_ns(CLOCK_THREAD_CPUTIME_ID) > 0);
	burn(CLOCK_THREAD_CPUTIME_ID, 30 * MS);
	a = now_ns(CLOCK_THREAD_CPUTIME_ID);
	b = now_ns(clock_of(pthread_self()));
	OK(syscall(SYS_clock_gettime, CLOCK_THREAD_CPUTIME_ID, &ts));
	c = (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
	say("one clock by three names: %d", a <= b && b <= c && c - a < 50 * MS);
	a = rusage_ns();
	say("getrusage agrees: %d", a + 20 * MS > c && a < c + 50 * MS);
	OK(getrusage(RUSAGE_THREAD, &ru));
	say("has a size: %d", ru.ru_maxrss > 0);
	k = (int)ru.ru_nvcsw;
	for (int i = 0; i < 5; i++)
		usleep(1000);
	OK(getrusage(RUSAGE_THREAD, &ru));
	say("switches grow: %d", ru.ru_nvcsw >= k + 5);
	say("bad pointer: %s",
		RESULT(syscall(SYS_clock_gettime, CLOCK_THREAD_CPUTIME_ID, (void *)8)));
	say("getrusage, bad pointer: %s",
		RESULT(syscall(SYS_getrusage, RUSAGE_THREAD, (void *)8)));
	say("set: %s", RESULT(clock_settime(clock_of(pthread_self()), &ts)));
	OK(clock_getres(clock_of(pthread_self()), &ts));
	say("resolution: %ld ns", ts.tv_nsec);
	say("sleep by own time: %s",
		err_name(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &zero, NULL)));
	say("sleep by own clock id: %s",
		err_name(clock_nanosleep(clock_of(pthread_self()), 0, &zero, NULL)));
	return arg;
}

int main(void)
{
	struct timespec ts = {0, 30 * MS}, bad_time = {0, 1000000000};
	pthread_t t, three[3];
	uint64_t a, b, process;
	clockid_t clock;

	burn(CLOCK_THREAD_CPUTIME_ID, 20 * MS);
	on_thread(own, NULL);
	say("main has what it used before: %d",
		now_ns(CLOCK_THREAD_CPUTIME_ID) >= 20 * MS);

	ZERO(pthread_barrier_init(&gate, NULL, 2));
	t = start(sleeper, NULL);
	clock = clock_of(t);
	pthread_barrier_wait(&gate);
	usleep(20000);
	a = now_ns(clock);
	burn(CLOCK_THREAD_CPUTIME_ID, 30 * MS);
	usleep(20000);
	b = now_ns(clock);
	say("one that waits: %s, %s", a >= MS ? "has used some" : "nothing",
		b - a < 5 * MS ? "uses none" : "uses some");
	OK(clock_getres(clock, &ts));
	say("its resolution: %ld ns", ts.tv_nsec);
	say("set: %s", RESULT(clock_settime(clock, &ts)));
	pthread_barrier_wait(&gate);
	finish(t);
	/*
	 * The kernel tells who joins before it takes the thread out of its tables
	 * (exit_mm and release_task in kernel/exit.c): on a busy machine the clock
	 * lives on for a moment.
	 */
	for (int i = 0; i < 1000 && clock_gettime(clock, &ts) == 0; i++)
		usleep(1000);
	say("ended: %s", RESULT(clock_gettime(clock, &ts)));
	say("ended, resolution: %s", RESULT(clock_getres(clock, &ts)));
	say("ended, sleep: %s", err_name(clock_nanosleep(clock, 0, &ts, NULL)));

	/* Nobody asked before it was over. */
	t = start(blind, NULL);
	pthread_barrier_wait(&gate);
	a = now_ns(clock_of(t));
	say("asked late: %s", a > 20 * MS ? "has used much" : "has used little");
	pthread_barrier_wait(&gate);
	finish(t);

	/* One that computes, seen from outside, slept by. */
	t = start(spinner, NULL);
	pthread_barrier_wait(&gate);
	clock = clock_of(t);
	a = b = now_ns(clock);
	/* As long as it takes to get that much of a busy machine. */
	for (int i = 0; i < 100 && b - a <= 20 * MS; i++) {
		usleep(20000);
		b = now_ns(clock);
	}
	say("one that computes: %s", b - a > 20 * MS ? "uses" : "does not use");
	ts = (struct timespec){0, 30 * MS};
	a = now_ns(clock);
	say("sleep by another's time: %s",
		err_name(clock_nanosleep(clock, 0, &ts, NULL)));
	b = now_ns(clock);
	say("for as long: %d", b - a >= 30 * MS);
	ts = (struct timespec){(time_t)(b / 1000000000), (long)(b % 1000000000)};
	say("until then: %s", err_name(clock_nanosleep(clock, TIMER_ABSTIME, &ts, NULL)));
	say("bad time: %s", err_name(clock_nanosleep(clock, 0, &bad_time, NULL)));
	stop = 1;
	finish(t);

	a = now_ns(CLOCK_PROCESS_CPUTIME_ID);
	for (intptr_t i = 0; i < 3; i++)
		three[i] = start(turns, (void *)(i + 1));
	b = 0;
	for (int i = 0; i < 3; i++)
		b += (uint64_t)(uintptr_t)finish(three[i]);
	process = now_ns(CLOCK_PROCESS_CPUTIME_ID) - a;
	say("turns: %d wrong; the process's time is the sum: %d", (int)b,
		process >= 118 * MS);
	return 0;
}
