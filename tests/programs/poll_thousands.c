/*
 * poll, ppoll, select and pselect over thousands of descriptors, by many threads at
 * once: every one that is ready is told, time-outs and signals end the call, and no
 * waiting poll costs a kernel thread of its own.
 */
#include "prog.h"

#include <dirent.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/select.h>

#define THREADS 30
#define FDS     1200
#define STRIDE  (FDS / THREADS)

static int fds[FDS], highest, waiting;
static volatile sig_atomic_t handled;

static int kernel_threads(void)
{
	DIR *d = opendir("/proc/self/task");
	int n = 0;

	CHECK(d);
	while (readdir(d))
		n++;
	OK(closedir(d));
	return n - 2;
}

/* Each thread looks at all, and answers for its own stretch. */
static void fill(struct pollfd *p, intptr_t me)
{
	for (int i = 0; i < FDS; i++) {
		bool mine = i / STRIDE == me;

		p[i] = (struct pollfd){
			i % 97 == 5 && !mine ? -1 : fds[i], mine ? POLLIN : POLLPRI, 99};
	}
}

static void *polls(void *arg)
{
	intptr_t me = (intptr_t)arg;
	struct pollfd *p = (struct pollfd *)calloc(FDS, sizeof *p);
	eventfd_t v;
	int n, found = 0;

	fill(p, me);
	__atomic_fetch_add(&waiting, 1, __ATOMIC_SEQ_CST);
	n = me % 2 ? poll(p, FDS, -1) : ppoll(p, FDS, NULL, NULL);
	/* Two were made ready by one writer, perhaps not yet both. */
	CHECK(n == 1 || n == 2);
	for (int i = 0; i < FDS; i++) {
		CHECK(p[i].revents == 0 || p[i].revents == POLLIN);
		if (p[i].revents) {
			CHECK(i / STRIDE == me);
			found++;
		}
	}
	CHECK(found == n);
	OK(eventfd_read(fds[me * STRIDE], &v));
	OK(eventfd_read(fds[me * STRIDE + STRIDE - 1], &v));
	free(p);
	return NULL;
}

static fd_set *big_set(void)
{
	return (fd_set *)calloc((size_t)highest / 1024 + 1, sizeof(fd_set));
}

/* FD_SET of a fortified program refuses what lies beyond FD_SETSIZE. */
static void add(fd_set *set, int fd)
{
	((unsigned long *)set)[fd / 64] |= 1ul << fd % 64;
}

static bool has(const fd_set *set, int fd)
{
	return ((const unsigned long *)set)[fd / 64] >> fd % 64 & 1;
}

static void *selects(void *arg)
{
	intptr_t me = (intptr_t)arg;
	fd_set *in = big_set(), *ex = big_set();
	eventfd_t v;
	int n, found = 0;

	for (int i = 0; i < FDS; i++)
		add(i / STRIDE == me ? in : ex, fds[i]);
	__atomic_fetch_add(&waiting, 1, __ATOMIC_SEQ_CST);
	n = me % 2 ? select(highest + 1, in, NULL, ex, NULL)
		   : pselect(highest + 1, in, NULL, ex, NULL, NULL);
	CHECK(n == 1 || n == 2);
	for (int i = 0; i < FDS; i++) {
		CHECK(!has(ex, fds[i]));
		if (has(in, fds[i])) {
			CHECK(i / STRIDE == me);
			found++;
		}
	}
	CHECK(found == n);
	OK(eventfd_read(fds[me * STRIDE], &v));
	OK(eventfd_read(fds[me * STRIDE + STRIDE - 1], &v));
	free(in);
	free(ex);
	return NULL;
}

static void *writes(void *arg)
{
	for (int i = 0; i < THREADS; i++) {
		OK(eventfd_write(fds[i * STRIDE], 1));
		OK(eventfd_write(fds[i * STRIDE + STRIDE - 1], 1));
	}
	return arg;
}

static void all_at_once(void *(*fn)(void *), const char *name)
{
	pthread_t threads[THREADS];

	waiting = 0;
	for (intptr_t i = 0; i < THREADS; i++)
		threads[i] = start_small(fn, (void *)i, 64 * 1024);
	while (__atomic_load_n(&waiting, __ATOMIC_SEQ_CST) < THREADS)
		usleep(1000);
	settle();
	/* Natively one for each thread. A busy machine has a few helpers come all the
	 * same. */
	CHECK(kernel_threads() <= THREADS + 1);
	on_thread(writes, NULL);
	for (int i = 0; i < THREADS; i++)
		finish(threads[i]);
	say("%s: %d threads on %d descriptors", name, THREADS, FDS);
}

static void handler(int sig)
{
	(void)sig;
	handled = handled + 1;
}

static void *details(void *arg)
{
	struct pollfd *p = (struct pollfd *)calloc(FDS, sizeof *p);
	fd_set *in = big_set();
	struct timeval tv = {0, 20000};
	uint64_t t0;
	int n;

	fill(p, 0);
	t0 = now_ns(CLOCK_MONOTONIC);
	n = poll(p, FDS, 20);
	say("time-out: %d early %d", n, now_ns(CLOCK_MONOTONIC) - t0 < 20 * MS);
	for (int i = 0; i < FDS; i++)
		CHECK(p[i].revents == 0);
	for (int i = 0; i < FDS; i++)
		add(in, fds[i]);
	n = select(highest + 1, in, NULL, NULL, &tv);
	say("select, time-out: %d, left %ld", n, (long)tv.tv_usec);
	for (int i = 0; i < FDS; i++)
		CHECK(!has(in, fds[i]));

	for (int i = 0; i < FDS; i += 2)
		p[i].events = POLLIN | POLLOUT;
	n = poll(p, FDS, -1);
	int out = 0;
	for (int i = 0; i < FDS; i++)
		out += p[i].revents == POLLOUT;
	say("ready at once: %d, writable %d", n, out);
	for (int i = 0; i < FDS; i++)
		add(in, fds[i]);
	n = select(highest + 1, NULL, in, NULL, NULL);
	say("select, all writable: %d", n);

	fill(p, 0);
	p[FDS - 1].fd = highest + 7; /* not open */
	n = poll(p, FDS, -1);
	say("not open: %d %d", n, p[FDS - 1].revents == POLLNVAL);
	memset(in, 0, (size_t)highest / 8);
	for (int i = 0; i < FDS; i++)
		add(in, fds[i]);
	add(in, highest + 7);
	say("select, not open: %s", RESULT(select(highest + 8, in, NULL, NULL, NULL)));
	free(p);
	free(in);
	return arg;
}

/* Signals end the wait, without SA_RESTART or with, and the mask is swapped in. */
static void *interrupted(void *arg)
{
	struct pollfd *p = (struct pollfd *)calloc(FDS, sizeof *p);
	fd_set *in = big_set();
	sigset_t none;

	sigemptyset(&none);
	fill(p, 0);
	for (int i = 0; i < FDS; i++)
		add(in, fds[i]);
	__atomic_store_n(&waiting, 1, __ATOMIC_SEQ_CST);
	say("poll: %s", RESULT(poll(p, FDS, -1)));
	ZERO(pthread_sigmask(SIG_BLOCK, &(sigset_t){{1ul << (SIGUSR1 - 1)}}, NULL));
	__atomic_store_n(&waiting, 2, __ATOMIC_SEQ_CST);
	say("ppoll: %s", RESULT(ppoll(p, FDS, NULL, &none)));
	__atomic_store_n(&waiting, 3, __ATOMIC_SEQ_CST);
	say("pselect: %s", RESULT(pselect(highest + 1, in, NULL, NULL, NULL, &none)));
	int kept = 0;
	for (int i = 0; i < FDS; i++)
		kept += has(in, fds[i]);
	say("sets kept: %d", kept);
	__atomic_store_n(&waiting, 4, __ATOMIC_SEQ_CST);
	free(p);
	free(in);
	return arg;
}

int main(void)
{
	struct sigaction sa = {.sa_handler = handler, .sa_flags = SA_RESTART};
	struct rlimit rl;
	pthread_t t;

	OK(getrlimit(RLIMIT_NOFILE, &rl));
	rl.rlim_cur = FDS + 200;
	if (rl.rlim_max < rl.rlim_cur || setrlimit(RLIMIT_NOFILE, &rl)) {
		say("no room for %d descriptors", FDS);
		return 77;
	}
	for (int i = 0; i < FDS; i++) {
		fds[i] = OK(eventfd(0, 0));
		highest = fds[i] > highest ? fds[i] : highest;
	}
	all_at_once(polls, "poll");
	all_at_once(selects, "select");
	on_thread(details, NULL);
	OK(sigaction(SIGUSR1, &sa, NULL));
	waiting = 0;
	t = start(interrupted, NULL);
	for (int i = 1; i < 4; i++) {
		int seen = handled;

		while (__atomic_load_n(&waiting, __ATOMIC_SEQ_CST) < i)
			usleep(1000);
		/*
		 * One that comes before the call is lost to poll, as natively. A second
		 * one for the call before this ended this one, too: nobody waits.
		 */
		do {
			if (i == 1)
				settle();
			ZERO(pthread_kill(t, SIGUSR1));
			usleep(20000);
		} while (handled == seen &&
			 __atomic_load_n(&waiting, __ATOMIC_SEQ_CST) == i);
	}
	finish(t);
	return 0;
}
