/*
 * Time-outs of centuries, as programs write "never": nobody comes back from one, whatever
 * the sum with the time of day would be in 64 bits. Then all are cancelled.
 */
#include "prog.h"

#include <limits.h>
#include <mqueue.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/select.h>

static const time_t seconds[] = {9300000000, 18446744073, 18446744074, 20000000000,
	LONG_MAX / 1000000000, LONG_MAX};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static sem_t sem;
static mqd_t queue;
static int epfd;

static void do_nanosleep(const struct timespec *t)
{
	nanosleep(t, NULL);
}
static void do_monotonic(const struct timespec *t)
{
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, t, NULL);
}
static void do_realtime(const struct timespec *t)
{
	clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, t, NULL);
}
static void do_tai(const struct timespec *t)
{
	clock_nanosleep(CLOCK_TAI, TIMER_ABSTIME, t, NULL);
}
static void do_boottime(const struct timespec *t)
{
	clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, t, NULL);
}
static void do_cpu(const struct timespec *t)
{
	clock_nanosleep(CLOCK_PROCESS_CPUTIME_ID, 0, t, NULL);
}
static void do_sem_timedwait(const struct timespec *t)
{
	sem_timedwait(&sem, t);
}
static void do_sem_clockwait(const struct timespec *t)
{
	sem_clockwait(&sem, CLOCK_MONOTONIC, t);
}
static void unlock(void *arg)
{
	pthread_mutex_unlock(arg);
}
static void do_cond_timedwait(const struct timespec *t)
{
	pthread_mutex_lock(&lock);
	pthread_cleanup_push(unlock, &lock);
	while (!pthread_cond_timedwait(&cond, &lock, t))
		;
	pthread_cleanup_pop(1);
}
static void do_sigtimedwait(const struct timespec *t)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigtimedwait(&set, NULL, t);
}
static void do_ppoll(const struct timespec *t)
{
	ppoll(NULL, 0, t, NULL);
}
static void do_pselect(const struct timespec *t)
{
	pselect(0, NULL, NULL, NULL, t, NULL);
}
static void do_epoll(const struct timespec *t)
{
	struct epoll_event ev;

	epoll_pwait2(epfd, &ev, 1, t, NULL);
}
static void do_mq(const struct timespec *t)
{
	char text[8];

	mq_timedreceive(queue, text, sizeof text, NULL, t);
}

static const struct row {
	const char *name;
	void (*call)(const struct timespec *);
} rows[] = {
	{"nanosleep", do_nanosleep},
	{"clock_nanosleep until, MONOTONIC", do_monotonic},
	{"clock_nanosleep until, REALTIME", do_realtime},
	{"clock_nanosleep until, TAI", do_tai},
	{"clock_nanosleep until, BOOTTIME", do_boottime},
	{"clock_nanosleep, CPU time", do_cpu},
	{"sem_timedwait", do_sem_timedwait},
	{"sem_clockwait", do_sem_clockwait},
	{"pthread_cond_timedwait", do_cond_timedwait},
	{"sigtimedwait", do_sigtimedwait},
	{"ppoll", do_ppoll},
	{"pselect", do_pselect},
	{"epoll_pwait2", do_epoll},
	{"mq_timedreceive", do_mq},
};
enum {
	ROWS = sizeof rows / sizeof *rows,
	TIMES = sizeof seconds / sizeof *seconds,
};

static void *waits(void *arg)
{
	intptr_t i = (intptr_t)arg;
	struct timespec t = {seconds[i % TIMES], 999999999};

	rows[i / TIMES].call(&t);
	return NULL;
}

int main(void)
{
	pthread_t threads[ROWS * TIMES];
	struct mq_attr attr = {.mq_maxmsg = 1, .mq_msgsize = 8};
	char name[64];
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	ZERO(pthread_sigmask(SIG_BLOCK, &set, NULL));
	OK(sem_init(&sem, 0, 0));
	epfd = OK(epoll_create1(0));
	snprintf(name, sizeof name, "/weft-far-%d", (int)getpid());
	queue = OK(mq_open(name, O_RDONLY | O_CREAT, 0600, &attr));
	OK(mq_unlink(name));
	for (intptr_t i = 0; i < ROWS * TIMES; i++)
		threads[i] = start(waits, (void *)i);
	settle();
	for (int i = 0; i < ROWS * TIMES; i++)
		pthread_cancel(threads[i]);
	for (int i = 0; i < ROWS * TIMES; i++) {
		bool waited = finish(threads[i]) == PTHREAD_CANCELED;

		say("%s, %ld s: %s", rows[i / TIMES].name, (long)seconds[i % TIMES],
			waited ? "waited" : "came back");
	}
	return 0;
}
