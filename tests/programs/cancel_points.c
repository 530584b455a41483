/*
 * pthread_cancel at every cancellation point that glibc has: of threads that wait in it,
 * and of those that come to it with a request pending, which it honours before it does
 * anything. Clean-up once, lock held again.
 */
#include "prog.h"

#include <mqueue.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/random.h>
#include <sys/select.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <termios.h>
#include <threads.h>

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
static void do_recvfrom(void)
{
	char c;
	recvfrom(fds[0], &c, 1, 0, NULL, NULL);
}
static void do_recvmmsg(void)
{
	char c;
	struct iovec iov = {&c, 1};
	struct mmsghdr msg = {.msg_hdr = {.msg_iov = &iov, .msg_iovlen = 1}};
	recvmmsg(fds[0], &msg, 1, 0, NULL);
}
static void do_preadv2(void)
{
	char c;
	struct iovec iov = {&c, 1};
	preadv2(fds[0], &iov, 1, -1, 0);
}
static struct iovec big_iov = {big, sizeof big};
static void do_writev(void)
{
	for (;;)
		writev(full[1], &big_iov, 1);
}
static void do_pwritev2(void)
{
	for (;;)
		pwritev2(full[1], &big_iov, 1, -1, 0);
}
static void do_sendto(void)
{
	for (;;)
		sendto(full[1], big, sizeof big, MSG_NOSIGNAL, NULL, 0);
}
static void do_sendmsg(void)
{
	struct msghdr msg = {.msg_iov = &big_iov, .msg_iovlen = 1};
	for (;;)
		sendmsg(full[1], &msg, MSG_NOSIGNAL);
}
static void do_sendmmsg(void)
{
	struct mmsghdr msg = {.msg_hdr = {.msg_iov = &big_iov, .msg_iovlen = 1}};
	for (;;)
		sendmmsg(full[1], &msg, 1, MSG_NOSIGNAL);
}
static void do_accept4(void)
{
	accept4(listener, NULL, NULL, SOCK_CLOEXEC);
}
static struct sockaddr_un busy = {.sun_family = AF_UNIX};
static socklen_t busy_len = sizeof busy;
static void do_connect(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	connect(fd, (struct sockaddr *)&busy, busy_len);
}
static void do_ppoll(void)
{
	struct pollfd p = {fds[0], POLLIN, 0};
	ppoll(&p, 1, NULL, NULL);
}
static void do_pselect(void)
{
	fd_set in;
	FD_ZERO(&in);
	FD_SET(fds[0], &in);
	pselect(fds[0] + 1, &in, NULL, NULL, NULL, NULL);
}
static int epfd;
static void do_epoll_wait(void)
{
	struct epoll_event ev;
	epoll_wait(epfd, &ev, 1, -1);
}
static void do_epoll_pwait(void)
{
	struct epoll_event ev;
	sigset_t none;
	sigemptyset(&none);
	epoll_pwait(epfd, &ev, 1, -1, &none);
}
static void do_epoll_pwait2(void)
{
	struct epoll_event ev;
	epoll_pwait2(epfd, &ev, 1, NULL, NULL);
}
static void do_usleep(void)
{
	usleep(900000000);
}
static void do_thrd_sleep(void)
{
	struct timespec ts = {1000, 0};
	thrd_sleep(&ts, NULL);
}
static struct timespec far(clockid_t clock)
{
	return to_timespec(now_ns(clock) + 1000000 * MS);
}
static void do_sem_timedwait(void)
{
	struct timespec at = far(CLOCK_REALTIME);
	sem_timedwait(&sem, &at);
}
static void do_sem_clockwait(void)
{
	struct timespec at = far(CLOCK_MONOTONIC);
	sem_clockwait(&sem, CLOCK_MONOTONIC, &at);
}
static void do_timedjoin(void)
{
	struct timespec at = far(CLOCK_REALTIME);
	pthread_timedjoin_np(forever, NULL, &at);
}
static void do_clockjoin(void)
{
	struct timespec at = far(CLOCK_MONOTONIC);
	pthread_clockjoin_np(forever, NULL, CLOCK_MONOTONIC, &at);
}
static void do_sigsuspend(void)
{
	sigset_t none;
	sigemptyset(&none);
	sigsuspend(&none);
}
static sigset_t usr1(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	return set;
}
static void do_sigwaitinfo(void)
{
	sigset_t set = usr1();
	sigwaitinfo(&set, NULL);
}
static void do_sigtimedwait(void)
{
	struct timespec ts = {1000, 0};
	sigset_t set = usr1();
	sigtimedwait(&set, NULL, &ts);
}
static pid_t child;
static void do_wait4(void)
{
	wait4(child, NULL, 0, NULL);
}
static void do_waitid(void)
{
	siginfo_t si;
	waitid(P_PID, (id_t)child, &si, WEXITED);
}
static int messages, full_messages;
static void do_msgrcv(void)
{
	struct msgbuf {
		long type;
		char text[8];
	} m;
	msgrcv(messages, &m, sizeof m.text, 0, 0);
}
static void do_msgsnd(void)
{
	static const struct {
		long type;
		char text[4000];
	} m = {.type = 1};
	for (;;)
		msgsnd(full_messages, &m, sizeof m.text, 0);
}
static mqd_t queue, full_queue;
static void do_mq_receive(void)
{
	char text[8];
	mq_receive(queue, text, sizeof text, NULL);
}
static void do_mq_timedreceive(void)
{
	struct timespec at = far(CLOCK_REALTIME);
	char text[8];
	mq_timedreceive(queue, text, sizeof text, NULL, &at);
}
static void do_mq_send(void)
{
	for (;;)
		mq_send(full_queue, "x", 1, 0);
}
static void do_mq_timedsend(void)
{
	struct timespec at = far(CLOCK_REALTIME);
	for (;;)
		mq_timedsend(full_queue, "x", 1, 0, &at);
}
static int empty_pipe[2], other_pipe[2];
static void do_splice(void)
{
	splice(empty_pipe[0], NULL, other_pipe[1], NULL, 1, 0);
}
static void do_tee(void)
{
	tee(empty_pipe[0], other_pipe[1], 1, 0);
}
static void do_vmsplice(void)
{
	for (;;)
		vmsplice(other_pipe[1], &big_iov, 1, 0);
}
static int terminal; /* a pseudoterminal has nothing to drain, and nobody waits */
static void do_tcdrain(void)
{
	tcdrain(terminal);
}
static int file;
static struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
static void do_setlkw(void)
{
	fcntl(file, F_SETLKW, &range);
}
static void do_ofd_setlkw(void)
{
	fcntl(file, F_OFD_SETLKW, &range);
}
static void do_lockf(void)
{
	lockf(file, F_LOCK, 0);
}
static void do_open_fifo(void)
{
	open("fifo", O_RDONLY);
}
static void do_openat_fifo(void)
{
	openat(AT_FDCWD, "fifo", O_WRONLY);
}

/* ---- calls that do not wait here --------------------------------------------- */

static void do_pread(void)
{
	char c;
	pread(file, &c, 1, 0);
}
static void do_pwrite(void)
{
	pwrite(file, "!", 1, 0);
}
static void do_preadv(void)
{
	char c;
	struct iovec iov = {&c, 1};
	preadv(file, &iov, 1, 0);
}
static void do_pwritev(void)
{
	struct iovec iov = {"!", 1};
	pwritev(file, &iov, 1, 0);
}
static void do_open(void)
{
	open("made", O_RDWR | O_CREAT, 0600);
}
static void do_openat(void)
{
	openat(AT_FDCWD, "made", O_RDWR | O_CREAT, 0600);
}
static void do_creat(void)
{
	creat("made", 0600);
}
static int spare = -1;
static void do_close(void)
{
	close(spare);
}
static void do_fsync(void)
{
	fsync(file);
}
static void do_fdatasync(void)
{
	fdatasync(file);
}
static void do_msync(void)
{
	msync(big, 4096, MS_SYNC);
}
static void do_sync_file_range(void)
{
	sync_file_range(file, 0, 1, SYNC_FILE_RANGE_WRITE);
}
static void do_fallocate(void)
{
	fallocate(file, 0, 0, 100000);
}
static void do_posix_fallocate(void)
{
	posix_fallocate(file, 0, 100000);
}
static void do_copy_file_range(void)
{
	off_t from = 0, to = 50000;
	copy_file_range(file, &from, file, &to, 1, 0);
}
static void do_getrandom(void)
{
	char c;
	getrandom(&c, 1, 0);
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
	{"recvfrom", do_recvfrom},
	{"recvmmsg", do_recvmmsg},
	{"preadv2", do_preadv2},
	{"writev", do_writev},
	{"pwritev2", do_pwritev2},
	{"sendto", do_sendto},
	{"sendmsg", do_sendmsg},
	{"sendmmsg", do_sendmmsg},
	{"accept4", do_accept4},
	{"connect", do_connect},
	{"ppoll", do_ppoll},
	{"pselect", do_pselect},
	{"epoll_wait", do_epoll_wait},
	{"epoll_pwait", do_epoll_pwait},
	{"epoll_pwait2", do_epoll_pwait2},
	{"usleep", do_usleep},
	{"thrd_sleep", do_thrd_sleep},
	{"sem_timedwait", do_sem_timedwait},
	{"sem_clockwait", do_sem_clockwait},
	{"pthread_timedjoin_np", do_timedjoin},
	{"pthread_clockjoin_np", do_clockjoin},
	{"sigsuspend", do_sigsuspend},
	{"sigwaitinfo", do_sigwaitinfo},
	{"sigtimedwait", do_sigtimedwait},
	{"wait4", do_wait4},
	{"waitid", do_waitid},
	{"msgrcv", do_msgrcv},
	{"msgsnd", do_msgsnd},
	{"mq_receive", do_mq_receive},
	{"mq_timedreceive", do_mq_timedreceive},
	{"mq_send", do_mq_send},
	{"mq_timedsend", do_mq_timedsend},
	{"splice", do_splice},
	{"tee", do_tee},
	{"vmsplice", do_vmsplice},
	{"F_SETLKW", do_setlkw},
	{"F_OFD_SETLKW", do_ofd_setlkw},
	{"lockf", do_lockf},
	{"open", do_open_fifo},
	{"openat", do_openat_fifo},
};

static const struct row ready[] = {
	{"pread", do_pread},
	{"pwrite", do_pwrite},
	{"preadv", do_preadv},
	{"pwritev", do_pwritev},
	{"open", do_open},
	{"openat", do_openat},
	{"creat", do_creat},
	{"close", do_close},
	{"fsync", do_fsync},
	{"fdatasync", do_fdatasync},
	{"msync", do_msync},
	{"sync_file_range", do_sync_file_range},
	{"fallocate", do_fallocate},
	{"posix_fallocate", do_posix_fallocate},
	{"copy_file_range", do_copy_file_range},
	{"getrandom", do_getrandom},
	{"tcdrain", do_tcdrain},
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

/* The request is there before the call. */
static void *comes(void *arg)
{
	const struct row *row = arg;

	pthread_cleanup_push(cleanup, NULL);
	ZERO(pthread_cancel(pthread_self()));
	row->call();
	say("%s went on", row->name);
	pthread_cleanup_pop(0);
	return NULL;
}

static void *waits_cond(void *arg)
{
	struct timespec at = far(CLOCK_REALTIME), mono = far(CLOCK_MONOTONIC);
	int way = (int)(intptr_t)arg;

	pthread_mutex_lock(&lock);
	pthread_cleanup_push(cleanup, (void *)1);
	__atomic_store_n(&inside, 1, __ATOMIC_SEQ_CST);
	for (;;)
		if (way == 0)
			pthread_cond_wait(&cond, &lock);
		else if (way == 1)
			pthread_cond_timedwait(&cond, &lock, &at);
		else
			pthread_cond_clockwait(&cond, &lock, CLOCK_MONOTONIC, &mono);
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

static void comes_to(const struct row *row)
{
	pthread_t t;
	int had = cleanups;

	t = start(comes, (void *)row);
	bool cancelled = finish(t) == PTHREAD_CANCELED;
	say("before %s: %s, %d clean-up", row->name, cancelled ? "cancelled" : "ended",
		cleanups - had);
}

static void fill_terminal(void)
{
	struct termios t;
	int master = OK(posix_openpt(O_RDWR | O_NOCTTY));

	OK(grantpt(master));
	OK(unlockpt(master));
	terminal = OK(open(ptsname(master), O_RDWR | O_NOCTTY));
	OK(tcgetattr(terminal, &t));
	cfmakeraw(&t);
	OK(tcsetattr(terminal, TCSANOW, &t));
	OK(fcntl(terminal, F_SETFL, O_NONBLOCK));
	while (write(terminal, big, 4096) > 0)
		;
	OK(fcntl(terminal, F_SETFL, 0));
}

/* What the calls work on that are not about the sockets. */
static void prepare(void)
{
	struct epoll_event ev = {.events = EPOLLIN};
	struct mq_attr attr = {.mq_maxmsg = 1, .mq_msgsize = 8};
	int go[2], other = OK(socket(AF_UNIX, SOCK_STREAM, 0));
	char c;

	OK(bind(other, (struct sockaddr *)&busy, sizeof busy.sun_family));
	OK(listen(other, 0));
	OK(getsockname(other, (struct sockaddr *)&busy, &busy_len));
	int first = OK(socket(AF_UNIX, SOCK_STREAM, 0));
	OK(connect(first, (struct sockaddr *)&busy, busy_len));

	epfd = OK(epoll_create1(0));
	OK(epoll_ctl(epfd, EPOLL_CTL_ADD, fds[0], &ev));
	OK(pipe(empty_pipe));
	OK(pipe(other_pipe));
	messages = OK(msgget(IPC_PRIVATE, 0600));
	full_messages = OK(msgget(IPC_PRIVATE, 0600));
	queue = OK(mq_open(
		brief("/weft-cancel-%d", (int)getpid()), O_RDWR | O_CREAT, 0600, &attr));
	OK(mq_unlink(brief("/weft-cancel-%d", (int)getpid())));
	full_queue = OK(mq_open(
		brief("/weft-cancel-%d", (int)getpid()), O_RDWR | O_CREAT, 0600, &attr));
	OK(mq_unlink(brief("/weft-cancel-%d", (int)getpid())));
	fill_terminal();
	OK(mkfifo("fifo", 0600));
	file = OK(open("file", O_RDWR | O_CREAT, 0600));
	OK(write(file, "0123456789", 10));
	spare = OK(dup(0));
	OK(pipe(go));
	child = OK(fork());
	if (child == 0) {
		OK(fcntl(OK(open("file", O_RDWR)), F_SETLK, &range));
		OK(write(go[1], "x", 1));
		for (;;)
			pause();
	}
	CHECK(read(go[0], &c, 1) == 1);
}

int main(void)
{
	char c;
	struct stat st;

	unix_pair(fds);
	unix_pair(full);
	listener = tcp_listen(4, &address);
	OK(sem_init(&sem, 0, 0));
	prepare();
	forever = start(lives, NULL);
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		cancel(rows[i].name, waits, &rows[i], false);
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		comes_to(&rows[i]);
	for (size_t i = 0; i < sizeof ready / sizeof *ready; i++)
		comes_to(&ready[i]);
	OK(fstat(file, &st));
	say("nothing was done: %ld bytes, first %s, made %s, open %d", (long)st.st_size,
		pread(file, &c, 1, 0) == 1 && c == '0' ? "as it was" : "written",
		RESULT(access("made", F_OK)), fcntl(spare, F_GETFD) == 0);
	cancel("pthread_cond_timedwait", waits_cond, (void *)1, false);
	cancel("pthread_cond_clockwait", waits_cond, (void *)2, false);
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
	OK(msgctl(messages, IPC_RMID, NULL));
	OK(msgctl(full_messages, IPC_RMID, NULL));
	OK(kill(child, SIGKILL));
	OK(waitpid(child, NULL, 0));
	return 0;
}
