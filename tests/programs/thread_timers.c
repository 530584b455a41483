/*
 * Timers with SIGEV_THREAD_ID: the signal comes to that thread, with its code, value and
 * overruns. Timers on a thread's CPU time. Timers end with fork. Other signals that are
 * sent by a thread's id.
 */
#include "sig.h"

#include <sys/syscall.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static _Thread_local int my_id;
static volatile int handled_by, handled_code, handled_value, handled;

static void handler(int sig, siginfo_t *si, void *uc)
{
	(void)sig;
	(void)uc;
	handled_by = my_id;
	handled_code = si->si_code;
	handled_value = si->si_value.sival_int;
	handled++;
}

static timer_t make(clockid_t clock, int sig, pid_t tid, int value)
{
	struct sigevent ev;
	timer_t t;

	memset(&ev, 0, sizeof ev);
	ev.sigev_notify = SIGEV_THREAD_ID;
	ev.sigev_signo = sig;
	ev.sigev_value.sival_int = value;
	ev.sigev_notify_thread_id = tid;
	OK(timer_create(clock, &ev, &t));
	return t;
}

static void set(timer_t t, uint64_t first_ns, uint64_t every_ns)
{
	struct itimerspec its = {
		{(time_t)(every_ns / 1000000000), (long)(every_ns % 1000000000)},
		{(time_t)(first_ns / 1000000000), (long)(first_ns % 1000000000)}};

	OK(timer_settime(t, 0, &its, NULL));
}

static pid_t tids[3];
static pthread_barrier_t gate;

static void *parks(void *arg)
{
	int id = (int)(intptr_t)arg;

	my_id = id;
	tids[id] = gettid();
	pthread_barrier_wait(&gate);
	pthread_barrier_wait(&gate); /* signals come meanwhile */
	return arg;
}

static void to_each(void)
{
	pthread_t threads[3];

	my_id = 9;
	ZERO(pthread_barrier_init(&gate, NULL, 4));
	for (intptr_t i = 0; i < 3; i++)
		threads[i] = start(parks, (void *)i);
	pthread_barrier_wait(&gate);
	for (int i = 0; i < 4; i++) {
		pid_t tid = i < 3 ? tids[i] : gettid();
		timer_t t = make(CLOCK_MONOTONIC, SIGRTMIN + 1, tid, 100 + i);

		handled = 0;
		set(t, 5 * MS, 0);
		while (!handled)
			usleep(500);
		say("handled by %d, timer's %d, value %d", handled_by,
			handled_code == SI_TIMER, handled_value);
		OK(timer_delete(t));
	}
	/* A process may be named by any of its threads; that one is asked first. */
	for (int i = 0; i < 3; i++) {
		handled = 0;
		if (i < 2)
			OK(kill(tids[i], SIGRTMIN + 1));
		else
			OK(sigqueue(tids[i], SIGRTMIN + 1, (union sigval){66}));
		while (!handled)
			usleep(500);
		say("killed %d: handled by %d, code %d, value %d", i, handled_by,
			handled_code, i == 2 ? handled_value : 0);
	}
	pthread_barrier_wait(&gate);
	for (int i = 0; i < 3; i++)
		finish(threads[i]);
}

static void *waits(void *arg)
{
	timer_t t = make(CLOCK_MONOTONIC, SIGRTMIN + 2, gettid(), 55);
	struct itimerspec its;
	siginfo_t si;
	sigset_t s;

	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN + 2);
	ZERO(pthread_sigmask(SIG_BLOCK, &s, NULL));
	set(t, 5 * MS, 0);
	OK(sigwaitinfo(&s, &si));
	say("waited for: code %d, value %d, overrun %d", si.si_code == SI_TIMER,
		si.si_value.sival_int, si.si_overrun);
	/* It comes once, however often it expires. */
	set(t, MS, MS);
	usleep(100000);
	OK(sigwaitinfo(&s, &si));
	say("blocked for long: overrun %d, and so says the timer %d", si.si_overrun > 20,
		timer_getoverrun(t) > 20);
	OK(timer_gettime(t, &its));
	say("goes on: %d every %ld", its.it_value.tv_nsec > 0, its.it_interval.tv_nsec);
	set(t, 0, 0);
	OK(timer_gettime(t, &its));
	say("stopped: %ld", its.it_value.tv_nsec);
	OK(timer_delete(t));
	say("deleted: %s %s", RESULT(timer_delete(t)), RESULT(timer_getoverrun(t)));
	return arg;
}

static void *profiled(void *arg)
{
	struct itimerspec its;
	volatile unsigned long x = 0;
	uint64_t from;
	clockid_t clock;
	timer_t t;

	my_id = 7;
	ZERO(pthread_getcpuclockid(pthread_self(), &clock));
	t = make(arg ? clock : CLOCK_THREAD_CPUTIME_ID, SIGRTMIN + 1, gettid(), 1);
	handled = 0;
	set(t, 20 * MS, 20 * MS);
	usleep(60000);
	say("asleep: %d", handled);
	from = now_ns(CLOCK_THREAD_CPUTIME_ID);
	while (handled < 3)
		x++;
	say("by %d, in time: %d", handled_by,
		now_ns(CLOCK_THREAD_CPUTIME_ID) - from >= 55 * MS);
	OK(timer_gettime(t, &its));
	say("goes on: %d", its.it_value.tv_nsec > 0 && its.it_value.tv_nsec <= 20000000);
	set(t, 0, 0);
	OK(timer_gettime(t, &its));
	say("stopped: %ld", its.it_value.tv_nsec);
	OK(timer_delete(t));
	return NULL;
}

static void *by_process(void *arg)
{
	volatile unsigned long x = 0;
	struct sigevent ev;
	timer_t t;

	memset(&ev, 0, sizeof ev);
	ev.sigev_notify = SIGEV_SIGNAL;
	ev.sigev_signo = SIGRTMIN + 1;
	ev.sigev_value.sival_int = 77;
	OK(timer_create(CLOCK_THREAD_CPUTIME_ID, &ev, &t));
	handled = 0;
	set(t, 10 * MS, 0);
	while (!handled)
		x++;
	say("to the process: value %d", handled_value);
	OK(timer_delete(t));
	return arg;
}

static void refused(void)
{
	struct sigevent ev;
	timer_t t;

	memset(&ev, 0, sizeof ev);
	ev.sigev_notify = SIGEV_THREAD_ID;
	ev.sigev_signo = SIGRTMIN;
	ev.sigev_notify_thread_id = 0x7ffffff;
	say("for nobody: %s", RESULT(timer_create(CLOCK_MONOTONIC, &ev, &t)));
	ev.sigev_notify_thread_id = gettid();
	ev.sigev_signo = 99;
	say("no such signal: %s", RESULT(timer_create(CLOCK_MONOTONIC, &ev, &t)));
	say("on a thread's time: %s",
		RESULT(timer_create(CLOCK_THREAD_CPUTIME_ID, &ev, &t)));
	ev.sigev_signo = SIGRTMIN;
	say("no such clock: %s", RESULT(timer_create(55, &ev, &t)));
}

/* Signal-driven input for the main thread, by its id. */
static void input(void)
{
	struct f_owner_ex owner = {F_OWNER_TID, gettid()};
	int fds[2];

	OK(pipe(fds));
	OK(fcntl(fds[0], F_SETSIG, SIGRTMIN + 1));
	OK(fcntl(fds[0], F_SETOWN_EX, &owner));
	OK(fcntl(fds[0], F_SETFL, O_ASYNC | O_NONBLOCK));
	handled = 0;
	CHECK(write(fds[1], "x", 1) == 1);
	while (!handled)
		usleep(500);
	say("input: handled by %d, code %d", handled_by, handled_code == POLL_IN);
	OK(fcntl(fds[0], F_SETFL, O_NONBLOCK));
	close(fds[0]);
	close(fds[1]);
}

static void *forks(void *arg)
{
	timer_t t = make(CLOCK_MONOTONIC, SIGRTMIN + 1, gettid(), 5);
	struct itimerspec its;
	pid_t pid = OK(fork());

	if (!pid) {
		say("in the child: %s", RESULT(timer_gettime(t, &its)));
		_exit(0);
	}
	OK(waitpid(pid, NULL, 0));
	say("in the parent: %s", RESULT(timer_gettime(t, &its)));
	OK(timer_delete(t));
	return arg;
}

int main(void)
{
	struct sigaction act = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};

	OK(sigaction(SIGRTMIN + 1, &act, NULL));
	to_each();
	on_thread(waits, NULL);
	waits(NULL);
	on_thread(profiled, NULL);
	on_thread(profiled, (void *)1);
	on_thread(by_process, NULL);
	refused();
	input();
	on_thread(forks, NULL);
	return 0;
}
