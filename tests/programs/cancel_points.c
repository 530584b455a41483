/* pthread_cancel of threads that wait in each cancellation point: clean-up once, lock
 * held again. */
#include "prog.h"

#include <semaphore.h>
#include <sys/select.h>
#include <sys/uio.h>

static int fds[2], listener, full[2];
static struct sockaddr_in address;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static sem_t sem;
static pthread_t forever;
static char big[1 << 20];

static int cleanups, locked_in_cleanup;

static void cleanup(void *arg)
{
	__atomic_fetch_add(&cleanups, 1, __ATOMIC_SEQ_CST);
	if (arg) { /* cond_wait takes the mutex again first */
		locked_in_cleanup = pthread_mutex_trylock(&lock) == EBUSY;
		pthread_mutex_unlock(&lock);
	}
}

static void do_read(void)
{
	char c;
	read(fds[0], &c, 1);
}
static void do_readv(void)
{
	char c;
	struct iovec iov = {&c, 1};
	readv(fds[0], &iov, 1);
}
static void do_recv(void)
{
	char c;
	recv(fds[0], &c, 1, 0);
}
static void do_recvmsg(void)
{
	char c;
	struct iovec iov = {&c, 1};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	recvmsg(fds[0], &msg, 0);
}
static void do_accept(void)
{
	accept(listener, NULL, NULL);
}
static void do_write(void)
{
	for (;;)
		write(full[1], big, sizeof big);
}
static void do_send(void)
{
	for (;;)
		send(full[1], big, sizeof big, MSG_NOSIGNAL);
}
static void do_poll(void)
{
	struct pollfd p = {fds[0], POLLIN, 0};
	poll(&p, 1, -1);
}
static void do_select(void)
{
	fd_set in;
	FD_ZERO(&in);
	FD_SET(fds[0], &in);
	select(fds[0] + 1, &in, NULL, NULL, NULL);
}
static void do_sleep(void)
{
	sleep(1000);
}
static void do_nanosleep(void)
{
	struct timespec ts = {1000, 0};
	nanosleep(&ts, NULL);
}
static void do_clock_nanosleep(void)
{
	struct timespec at = to_timespec(now_ns(CLOCK_MONOTONIC) + 1000000 * MS);
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}
static void do_sem_wait(void)
{
	sem_wait(&sem);
}
static void do_join(void)
{
	pthread_join(forever, NULL);
}
static void do_pause(void)
{
	pause();
}
static void do_sigwait(void)
{
	sigset_t set;
	int sig;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	sigwait(&set, &sig);
}
static void do_testcancel(void)
{
	for (;;)
		pthread_testcancel();
}
static void do_wait(void)
{
	for (;;)
		if (waitpid(-1, NULL, 0) < 0)
			usleep(1000);
}

static const struct row {
	const char *name;
	void (*call)(void);
} rows[] = {
	{"read", do_read},
	{"readv", do_readv},
	{"recv", do_recv},
	{"recvmsg", do_recvmsg},
	{"accept", do_accept},
	{"write", do_write},
	{"send", do_send},
	{"poll", do_poll},
	{"select", do_select},
	{"sleep", do_sleep},
	{"nanosleep", do_nanosleep},
	{"clock_nanosleep", do_clock_nanosleep},
	{"sem_wait", do_sem_wait},
	{"pthread_join", do_join},
	{"pause", do_pause},
	{"sigwait", do_sigwait},
	{"pthread_testcancel", do_testcancel},
	{"waitpid", do_wait},
};

static int inside;

static void *waits(void *arg)
{
	const struct row *row = arg;

	pthread_cleanup_push(cleanup, NULL);
	__atomic_store_n(&inside, 1, __ATOMIC_SEQ_CST);
	row->call();
	pthread_cleanup_pop(0);
	return NULL;
}

static void *waits_cond(void *arg)
{
	pthread_mutex_lock(&lock);
	pthread_cleanup_push(cleanup, (void *)1);
	__atomic_store_n(&inside, 1, __ATOMIC_SEQ_CST);
	for (;;)
		pthread_cond_wait(&cond, &lock);
	pthread_cleanup_pop(0);
	return arg;
}

static void *lives(void *arg)
{
	char c;

	read(fds[0], &c, 1);
	return arg;
}

/* Requests that come while cancelling is off wait; a thread that never looks goes on. */
static void *disabled(void *arg)
{
	int old;

	ZERO(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old));
	__atomic_store_n(&inside, 1, __ATOMIC_SEQ_CST);
	for (int i = 0; i < 30; i++)
		usleep(1000);
	say("disabled: went on");
	ZERO(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old));
	pthread_testcancel();
	say("not reached");
	return arg;
}

/* A request that is already there is honoured although data is, and takes none of it. */
static void *reads_ready(void *arg)
{
	char c;

	while (!__atomic_load_n(&inside, __ATOMIC_SEQ_CST))
		;
	read(fds[0], &c, 1);
	say("not reached");
	return arg;
}

/* May be cancelled anywhere. */
static void *asynchronous(void *arg)
{
	int old;
	volatile unsigned long x = 0;

	ZERO(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old));
	__atomic_store_n(&inside, 1, __ATOMIC_SEQ_CST);
	for (;;)
		x++;
	return arg;
}

static void cancel(const char *name, void *(*fn)(void *), const void *arg, bool before)
{
	pthread_t t;
	int had = cleanups;

	inside = 0;
	t = start(fn, (void *)arg);
	while (!before && !__atomic_load_n(&inside, __ATOMIC_SEQ_CST))
		usleep(100);
	if (!before) /* in it, or on the way there: both must end */
		usleep(3000);
	ZERO(pthread_cancel(t));
	inside = 1;
	bool cancelled = finish(t) == PTHREAD_CANCELED;
	say("%s: %s, %d clean-up", name, cancelled ? "cancelled" : "ended",
		cleanups - had);
}

int main(void)
{
	char c;

	unix_pair(fds);
	unix_pair(full);
	listener = tcp_listen(4, &address);
	OK(sem_init(&sem, 0, 0));
	forever = start(lives, NULL);
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		cancel(rows[i].name, waits, &rows[i], false);
	cancel("pthread_cond_wait", waits_cond, NULL, false);
	say("mutex held in its clean-up: %d, free afterwards: %d", locked_in_cleanup,
		pthread_mutex_trylock(&lock) == 0);
	cancel("disabled", disabled, NULL, false);
	cancel("asynchronous", asynchronous, NULL, false);

	OK(write(fds[1], "12", 2)); /* one for the thread that lives */
	finish(forever);
	cancel("with data there", reads_ready, NULL, true);
	CHECK(read(fds[0], &c, 1) == 1);
	say("the data is still there");
	return 0;
}
