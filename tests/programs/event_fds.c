/* eventfd, timerfd, signalfd and inotify read by threads that block. */
#include "prog.h"

#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

static int counter, semaphore, timer, notify, sigfd;
static int taken;

static void *takes(void *arg)
{
	eventfd_t v;

	OK(eventfd_read(semaphore, &v));
	__atomic_fetch_add(&taken, (int)v, __ATOMIC_SEQ_CST);
	return arg;
}

static void *adds(void *arg)
{
	for (int i = 0; i < 100; i++)
		OK(eventfd_write(counter, 1));
	return arg;
}

static void *sums(void *arg)
{
	uint64_t sum = 0, v;

	while (sum < 400) {
		CHECK(read(counter, &v, 8) == 8);
		sum += v;
	}
	return (void *)(intptr_t)(sum + (uint64_t)(intptr_t)arg);
}

/* The writer blocks at the maximum until somebody reads. */
static void *overfills(void *arg)
{
	OK(eventfd_write(counter, UINT64_MAX - 1));
	OK(eventfd_write(counter, 5));
	return arg;
}

static void *ticks(void *arg)
{
	struct itimerspec its = {{0, 2 * MS}, {0, 5 * MS}};
	uint64_t ticks = 0, n, t0 = now_ns(CLOCK_MONOTONIC);

	OK(timerfd_settime(timer, 0, &its, NULL));
	while (ticks < 6) {
		CHECK(read(timer, &n, 8) == 8);
		ticks += n;
	}
	say("timer: early %d", now_ns(CLOCK_MONOTONIC) - t0 < (5 + 5 * 2) * MS);
	return arg;
}

static void *watches(void *arg)
{
	char buf[4096] __attribute__((aligned(8)));
	struct inotify_event *ev = (struct inotify_event *)buf;

	OK(read(notify, buf, sizeof buf));
	say("inotify: created %s", ev->name);
	return arg;
}

static void *takes_signal(void *arg)
{
	struct signalfd_siginfo info;

	CHECK(read(sigfd, &info, sizeof info) == sizeof info);
	say("signalfd: %d from ourselves %d", (int)info.ssi_signo,
		info.ssi_pid == (uint32_t)getpid());
	return arg;
}

int main(void)
{
	pthread_t threads[10];
	eventfd_t v;
	sigset_t mask;

	counter = OK(eventfd(0, 0));
	semaphore = OK(eventfd(0, EFD_SEMAPHORE));
	timer = OK(timerfd_create(CLOCK_MONOTONIC, 0));
	notify = OK(inotify_init1(0));
	OK(inotify_add_watch(notify, ".", IN_CREATE));
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	ZERO(pthread_sigmask(SIG_BLOCK, &mask, NULL)); /* threads inherit it */
	sigfd = OK(signalfd(-1, &mask, 0));

	for (int i = 0; i < 10; i++)
		threads[i] = start(takes, NULL);
	OK(eventfd_write(semaphore, 10));
	for (int i = 0; i < 10; i++)
		finish(threads[i]);
	say("semaphore: %d taken", taken);

	threads[0] = start(sums, NULL);
	for (int i = 1; i < 5; i++)
		threads[i] = start(adds, NULL);
	for (int i = 1; i < 5; i++)
		finish(threads[i]);
	say("eventfd: sum %ld", (long)(intptr_t)finish(threads[0]));
	threads[0] = start(overfills, NULL);
	OK(eventfd_read(counter, &v));
	uint64_t sum = v;
	while (sum != UINT64_MAX - 1 + 5) {
		OK(eventfd_read(counter, &v));
		sum += v;
	}
	finish(threads[0]);
	say("eventfd: overfilled and emptied");

	on_thread(ticks, NULL);
	threads[0] = start(watches, NULL);
	OK(close(OK(open("new-file", O_CREAT | O_WRONLY, 0600))));
	finish(threads[0]);
	threads[0] = start(takes_signal, NULL);
	OK(kill(getpid(), SIGUSR1));
	finish(threads[0]);
	return 0;
}
