/*
 * Threads blocked in every kind of call there is, at once. While they are, others go
 * on; then each gets what it waits for. Or each gets a signal, and the call ends with
 * EINTR, or goes on, as signal(7) says; or each is cancelled.
 *
 *   blocked_kinds wake|eintr|restart|cancel
 */
#include "prog.h"

#include <dirent.h>
#include <mqueue.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#ifndef EACH
#define EACH 4 /* threads in each kind of call */
#endif
#ifndef FEW
#define FEW EACH /* … and in those that cost a kernel thread each, or a process */
#endif

static volatile int blocked, handled;
static int pipes[EACH][2], full[EACH][2], events, timer, pairs[EACH][2];
static int notify[FEW], watched[EACH][2];
static int listener, set, queue, semaphores, master;
static struct sockaddr_in address;
static mqd_t posix_queue, full_queue;
static pid_t child[FEW], others[FEW];
static char buf[1 << 16];

/* What locks the file, as another process does. */
static pid_t locker;
static int locker_says[2], tell_locker[2];

static long reads_pipe(int i)
{
	return read(pipes[i][0], &(char){0}, 1);
}

static long writes_pipe(int i)
{
	return write(full[i][1], buf, 4096);
}

static long reads_event(int i)
{
	(void)i;
	return read(events, &(uint64_t){0}, 8);
}

static long reads_timer(int i)
{
	(void)i;
	return read(timer, &(uint64_t){0}, 8);
}

static long reads_notify(int i)
{
	char event[512] __attribute__((aligned(8)));

	return read(notify[i], event, sizeof event) > 0 ? 0 : -1;
}

static long reads_terminal(int i)
{
	(void)i;
	return read(master, &(char){0}, 1);
}

static long receives(int i)
{
	return recv(pairs[i][0], &(char){0}, 1, 0);
}

static long gathers(int i)
{
	struct iovec iov = {(char[4]){""}, 4};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	return recvmsg(pairs[i][0], &m, MSG_WAITALL);
}

static long accepts(int i)
{
	int fd = accept(listener, NULL, NULL);

	(void)i;
	if (fd >= 0)
		close(fd);
	return fd < 0 ? -1 : 0;
}

static long polls(int i)
{
	struct pollfd p[2] = {{watched[i][0], POLLIN, 0}, {events, POLLPRI, 0}};

	return poll(p, 2, 100000);
}

static long selects(int i)
{
	unsigned long in[128] = {0}; /* of more than FD_SETSIZE */
	int fd = watched[i][0];

	in[fd / 64] |= 1ul << fd % 64;
	return select(fd + 1, (fd_set *)in, NULL, NULL, NULL);
}

static long waits_epoll(int i)
{
	struct epoll_event ev;

	(void)i;
	return epoll_wait(set, &ev, 1, -1);
}

static const char *fifo(int i, const char *which)
{
	return brief("fifo-%s-%d", which, i);
}

static long opens_to_read(int i)
{
	int fd = open(fifo(i, "r"), O_RDONLY);

	if (fd >= 0)
		close(fd);
	return fd < 0 ? -1 : 0;
}

static long opens_to_write(int i)
{
	int fd = open(fifo(i, "w"), O_WRONLY);

	if (fd >= 0)
		close(fd);
	return fd < 0 ? -1 : 0;
}

static long locks_file(int i)
{
	int fd = OK(open("flock", O_RDWR | O_CREAT, 0600));
	long r = flock(fd, LOCK_SH);

	(void)i;
	int e = errno;

	close(fd);
	errno = e;
	return r;
}

static long locks_range(int i)
{
	struct flock l = {.l_type = F_WRLCK, .l_start = 0, .l_len = 1};
	int fd = OK(open("posix", O_RDWR | O_CREAT, 0600));
	long r = fcntl(fd, F_SETLKW, &l); /* the process's: all of us get it */

	(void)i;
	return r;
}

static long locks_ofd(int i)
{
	struct flock l = {.l_type = F_RDLCK, .l_start = 0, .l_len = 1};
	int fd = OK(open("ofd", O_RDWR | O_CREAT, 0600));
	long r = fcntl(fd, F_OFD_SETLKW, &l);

	(void)i;
	return r;
}

struct message {
	long type;
	char text[8];
};

static long receives_message(int i)
{
	struct message m;

	(void)i;
	return msgrcv(queue, &m, sizeof m.text, 1, 0);
}

static long takes_semaphore(int i)
{
	struct sembuf op = {0, -1, 0};

	(void)i;
	return semop(semaphores, &op, 1);
}

static long takes_semaphore_in_time(int i)
{
	struct sembuf op = {1, -1, 0};
	struct timespec ts = {100, 0};

	(void)i;
	return semtimedop(semaphores, &op, 1, &ts);
}

static long receives_posix(int i)
{
	char text[16];

	(void)i;
	return mq_receive(posix_queue, text, sizeof text, NULL);
}

static long sends_posix(int i)
{
	struct timespec ts = to_timespec(now_ns(CLOCK_REALTIME) + 100000 * MS);

	(void)i;
	return mq_timedsend(full_queue, "x", 1, 0, &ts);
}

static long waits_child(int i)
{
	int status;

	return waitpid(child[i], &status, 0) > 0 ? WEXITSTATUS(status) : -1;
}

static long waits_id(int i)
{
	siginfo_t info;

	return waitid(P_PID, (id_t)others[i], &info, WEXITED) ? -1 : info.si_status;
}

static long sleeps(int i)
{
	struct timespec ts = {i ? 100000 : 100001, 0};

	return clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL) ? (errno = EINTR, -1) : 0;
}

static long waits_signal(int i)
{
	sigset_t s;

	(void)i;
	sigemptyset(&s);
	sigaddset(&s, SIGUSR2);
	return sigwaitinfo(&s, NULL) == SIGUSR2 ? 0 : -1;
}

static const struct kind {
	const char *name;
	long (*call)(int i);
	bool endless; /* nothing wakes it but a signal */
	bool few;
} kinds[] = {
	{"read pipe", reads_pipe, false, false},
	{"write pipe", writes_pipe, false, false},
	{"read eventfd", reads_event, false, false},
	{"read timerfd", reads_timer, false, false},
	{"read inotify", reads_notify, false, true},
	{"read pty", reads_terminal, false, false},
	{"recv", receives, false, false},
	{"recvmsg", gathers, false, false},
	{"accept", accepts, false, false},
	{"poll", polls, false, false},
	{"select", selects, false, false},
	{"epoll_wait", waits_epoll, false, false},
	{"open fifo to read", opens_to_read, false, true},
	{"open fifo to write", opens_to_write, false, true},
	{"flock", locks_file, false, true},
	{"F_SETLKW", locks_range, false, true},
	{"F_OFD_SETLKW", locks_ofd, false, true},
	{"msgrcv", receives_message, false, true},
	{"semop", takes_semaphore, false, true},
	{"semtimedop", takes_semaphore_in_time, false, true},
	{"mq_receive", receives_posix, false, false},
	{"mq_timedsend", sends_posix, false, false},
	{"waitpid", waits_child, false, true},
	{"waitid", waits_id, false, true},
	{"nanosleep", sleeps, true, false},
	{"sigwaitinfo", waits_signal, false, false},
};

enum { KINDS = sizeof kinds / sizeof *kinds };

static struct waiter {
	pthread_t thread;
	int kind, i;
	volatile int began;
	const char *result;
	char text[32];
} waiters[KINDS][EACH];

static int how_many(int kind)
{
	return kinds[kind].few ? FEW : EACH;
}

static int all_of_them(void)
{
	int n = 0;

	for (int k = 0; k < KINDS; k++)
		n += how_many(k);
	return n;
}

static void *waits(void *arg)
{
	struct waiter *w = (struct waiter *)arg;
	long r;

	w->began = 1;
	__atomic_fetch_add(&blocked, 1, __ATOMIC_SEQ_CST);
	r = kinds[w->kind].call(w->i);
	snprintf(w->text, sizeof w->text, "%s", RESULT(r));
	w->result = w->text;
	return NULL;
}

/* Blocks the process that holds the locks until it is told to go. */
static void start_locker(void)
{
	char c;

	OK(pipe(locker_says));
	OK(pipe(tell_locker));
	locker = OK(fork());
	if (!locker) {
		struct flock l = {.l_type = F_WRLCK, .l_start = 0, .l_len = 1};

		OK(flock(OK(open("flock", O_RDWR | O_CREAT, 0600)), LOCK_EX));
		OK(fcntl(OK(open("posix", O_RDWR | O_CREAT, 0600)), F_SETLK, &l));
		OK(fcntl(OK(open("ofd", O_RDWR | O_CREAT, 0600)), F_OFD_SETLK, &l));
		OK(close(tell_locker[1]));
		OK(write(locker_says[1], "x", 1));
		OK(read(tell_locker[0], &c, 1));
		_exit(0);
	}
	CHECK(read(locker_says[0], &c, 1) == 1);
}

static void prepare(void)
{
	struct mq_attr attr = {.mq_maxmsg = 1, .mq_msgsize = 16};
	struct epoll_event ev = {.events = EPOLLIN};
	char name[64];

	start_locker();
	for (int i = 0; i < EACH; i++) {
		OK(pipe(pipes[i]));
		OK(pipe(watched[i]));
		OK(pipe(full[i]));
		OK(fcntl(full[i][1], F_SETPIPE_SZ, 4096));
		CHECK(write(full[i][1], buf, 4096) == 4096);
		unix_pair(pairs[i]);
	}
	for (int i = 0; i < FEW; i++) {
		OK(mkfifo(fifo(i, "r"), 0600));
		OK(mkfifo(fifo(i, "w"), 0600));
		for (int k = 0; k < 2; k++) {
			pid_t pid = OK(fork());

			if (!pid) {
				char c;

				for (int j = 0; j <= i; j++)
					close(tell_locker[1]);
				OK(read(tell_locker[0], &c, 1));
				_exit(40 + i);
			}
			(k ? others : child)[i] = pid;
		}
	}
	events = OK(eventfd(0, EFD_SEMAPHORE));
	timer = OK(timerfd_create(CLOCK_MONOTONIC, 0));
	OK(mkdir("watched", 0700));
	for (int i = 0; i < FEW; i++) {
		notify[i] = OK(inotify_init1(0));
		OK(inotify_add_watch(notify[i], "watched", IN_CREATE));
	}
	master = OK(posix_openpt(O_RDWR | O_NOCTTY));
	OK(grantpt(master));
	OK(unlockpt(master));
	listener = tcp_listen(EACH, &address);
	set = OK(epoll_create1(0));
	OK(epoll_ctl(set, EPOLL_CTL_ADD, watched[0][0], &ev));
	queue = OK(msgget(IPC_PRIVATE, 0600));
	semaphores = OK(semget(IPC_PRIVATE, 2, 0600));
	OK(semctl(semaphores, 0, SETALL, (unsigned short[]){0, 0}));
	snprintf(name, sizeof name, "/weft-test-%d", getpid());
	posix_queue = OK(mq_open(name, O_RDWR | O_CREAT, 0600, &attr));
	OK(mq_unlink(name));
	full_queue = OK(mq_open(name, O_RDWR | O_CREAT, 0600, &attr));
	OK(mq_unlink(name));
	OK(mq_send(full_queue, "x", 1, 0));
}

static void clean_up(void)
{
	OK(msgctl(queue, IPC_RMID, NULL));
	OK(semctl(semaphores, 0, IPC_RMID));
}

/* Somebody else's progress while all of them block. */
static void *passes_on(void *arg)
{
	int *ring = (int *)arg;
	char c;

	for (int i = 0; i < 50; i++) {
		CHECK(read(ring[0], &c, 1) == 1);
		CHECK(write(ring[1], &c, 1) == 1);
	}
	return NULL;
}

static volatile bool enough;
static volatile uint64_t computed;

static void *computes(void *arg)
{
	while (!enough)
		computed = checksum(computed, buf, 1024) + 1;
	return arg;
}

/*
 * Natively each thread is one of the kernel's. Under weft only what the kernel alone can
 * wait for has one; and there are carriers, of which some more may have been made, the
 * receiver and the monitor.
 */
static void count_kernel_threads(int threads)
{
	const char *preload = getenv("LD_PRELOAD"), *carriers = getenv("WEFT_CARRIERS");
	DIR *d = opendir("/proc/self/task");
	int n = -2, most = 2 + 16 + (carriers ? atoi(carriers) : 2);

	CHECK(d);
	while (readdir(d))
		n++;
	closedir(d);
	for (int k = 0; k < KINDS; k++)
		most += kinds[k].few ? FEW : 0;
	if (!preload || !strstr(preload, "weft"))
		most = threads;
	CHECK(n <= most);
	say("%d threads in the kernel's calls, and no more kernel threads than that takes",
		all_of_them());
}

static void others_go_on(void)
{
	int there[2], back[2], x[2], y[2];
	pthread_t a, b, busy = start(computes, NULL);

	while (!computed)
		usleep(1000);
	count_kernel_threads(all_of_them() + 2);

	OK(pipe(there));
	OK(pipe(back));
	x[0] = there[0];
	x[1] = back[1];
	y[0] = back[0];
	y[1] = there[1];
	a = start(passes_on, x);
	b = start(passes_on, y);
	OK(write(there[1], "x", 1));
	finish(a);
	finish(b);
	uint64_t then = computed;
	while (computed == then)
		usleep(1000);
	enough = true;
	finish(busy);
	say("others went on, one of them computing");
}

static void start_all(void)
{
	for (int k = 0; k < KINDS; k++)
		for (int i = 0; i < how_many(k); i++) {
			struct waiter *w = &waiters[k][i];

			w->kind = k;
			w->i = i;
			w->thread = start(waits, w);
		}
	while (blocked < all_of_them())
		usleep(1000);
	settle();
}

static void *wakes(void *arg)
{
	struct itimerspec its = {{0, 1}, {0, 1}};
	struct message m = {1, "hello"};
	char text[16];
	int fd;

	OK(write(tell_locker[1], buf, 1 + 2 * FEW));
	OK(timerfd_settime(timer, 0, &its, NULL));
	int slave = OK(open(ptsname(master), O_RDWR | O_NOCTTY));
	for (int i = 0; i < EACH; i++) {
		OK(write(pipes[i][1], "1", 1));
		OK(write(watched[i][1], "1", 1)); /* stays there: poll, select, epoll */
		OK(eventfd_write(events, 1));
		OK(write(slave, "x", 1));
		CHECK(read(full[i][0], buf, 4096) == 4096);
		OK(write(pairs[i][1], "12345", 5));
		OK(close(tcp_connect(&address)));
		OK(mq_send(posix_queue, "hi", 2, 0));
		CHECK(mq_receive(full_queue, text, sizeof text, NULL) == 1);
		for (int k = 0; k < KINDS; k++)
			if (kinds[k].call == waits_signal)
				ZERO(pthread_kill(waiters[k][i].thread, SIGUSR2));
	}
	for (int i = 0; i < FEW; i++) {
		OK(close(OK(open(brief("watched/%d", i), O_CREAT | O_WRONLY, 0600))));
		OK(close(OK(open(fifo(i, "r"), O_WRONLY))));
		fd = OK(open(fifo(i, "w"), O_RDONLY));
		OK(close(fd));
		OK(msgsnd(queue, &m, sizeof m.text, 0));
		OK(semop(semaphores, (struct sembuf[]){{0, 1, 0}, {1, 1, 0}}, 2));
	}
	return arg;
}

static void handler(int sig)
{
	(void)sig;
	__atomic_fetch_add(&handled, 1, __ATOMIC_SEQ_CST);
}

/* Signals each until it has ended, or once when its call goes on. */
static void signal_all(bool restarted)
{
	for (int k = 0; k < KINDS; k++)
		for (int i = 0; i < how_many(k); i++) {
			struct waiter *w = &waiters[k][i];
			int before = handled;

			ZERO(pthread_kill(w->thread, SIGUSR1));
			while (handled == before)
				usleep(500);
			for (int n = 0; n < 400 && !w->result; n++) {
				if (restarted && n == 10)
					break;
				usleep(500);
			}
		}
}

static void report(const char *how)
{
	for (int k = 0; k < KINDS; k++) {
		int different = 0;

		for (int i = 1; i < how_many(k); i++)
			different += strcmp(waiters[k][i].text, waiters[k][0].text) != 0;
		say("%s: %s: %s, %d different", kinds[k].name, how, waiters[k][0].text,
			different);
	}
}

static void join_all(void)
{
	for (int k = 0; k < KINDS; k++)
		for (int i = 0; i < how_many(k); i++)
			if (!kinds[k].endless || waiters[k][i].result)
				finish(waiters[k][i].thread);
}

static void cancel_all(void)
{
	int cancelled[KINDS] = {0};
	void *value;

	for (int k = 0; k < KINDS; k++)
		for (int i = 0; i < how_many(k); i++)
			ZERO(pthread_cancel(waiters[k][i].thread));
	/* Some are no cancellation points: flock, semop, semtimedop. */
	OK(kill(locker, SIGKILL));
	OK(semop(semaphores, (struct sembuf[]){{0, FEW, 0}, {1, FEW, 0}}, 2));
	for (int k = 0; k < KINDS; k++) {
		for (int i = 0; i < how_many(k); i++) {
			ZERO(pthread_join(waiters[k][i].thread, &value));
			cancelled[k] += value == PTHREAD_CANCELED;
		}
		say("%s: %d of %d cancelled", kinds[k].name, cancelled[k], how_many(k));
	}
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "wake";
	struct sigaction sa = {.sa_handler = handler};
	struct rlimit files;
	sigset_t usr2;

	OK(getrlimit(RLIMIT_NOFILE, &files));
	if (files.rlim_max < 9 * EACH + 100) {
		say("no room for %d descriptors", 9 * EACH + 100);
		return 77;
	}
	files.rlim_cur =
		files.rlim_cur > 9 * EACH + 100 ? files.rlim_cur : 9 * EACH + 100;
	OK(setrlimit(RLIMIT_NOFILE, &files));
	sigemptyset(&usr2);
	sigaddset(&usr2, SIGUSR2);
	ZERO(pthread_sigmask(SIG_BLOCK, &usr2, NULL));
	prepare();
	if (!strcmp(mode, "restart"))
		sa.sa_flags = SA_RESTART;
	OK(sigaction(SIGUSR1, &sa, NULL));
	start_all();
	others_go_on();
	if (!strcmp(mode, "wake")) {
		on_thread(wakes, NULL);
		join_all();
		report("woken");
	} else if (!strcmp(mode, "eintr")) {
		signal_all(false);
		join_all();
		report("a signal");
	} else if (!strcmp(mode, "restart")) {
		signal_all(true);
		for (int k = 0; k < KINDS; k++) {
			int ended = 0;

			for (int i = 0; i < how_many(k); i++)
				ended += waiters[k][i].result != NULL;
			say("%s: %d of %d ended", kinds[k].name, ended, how_many(k));
		}
	} else {
		cancel_all();
	}
	clean_up();
	kill(locker, SIGKILL);
	for (int i = 0; i < FEW; i++) {
		kill(child[i], SIGKILL);
		kill(others[i], SIGKILL);
	}
	fflush(NULL);
	_exit(0);
}
