/*
 * Which blocked calls a handler ends, and how: with SA_RESTART and without. Every call
 * is made by a thread of its own, all at the same time, and each thread is hit by signals
 * until its call ends; one that goes on is let go by its event afterwards.
 */
#include "sig.h"

#include <mqueue.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <termios.h>
#include <threads.h>

#define BIG (8 << 20)

/* One call in one thread; what it works on is made for each run. */
struct row {
	const char *name;
	void (*prepare)(struct row *);
	long (*call)(struct row *);
	void (*let)(struct row *); /* NULL: no event, only a signal ends it */
	bool never;                /* no signal ends it */

	int fd[2], id;
	pid_t pid;
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	pthread_rwlock_t rwlock;
	pthread_barrier_t barrier;
	sem_t sem;
	mqd_t mq;
	uint32_t word;
	pthread_t thread, other;

	int entered, done, error;
	long result;
	volatile sig_atomic_t *handled;
};

static char big[BIG], sink[BIG];
static const struct timespec minute = {60, 0};

/* USR2 stays blocked by all: it is for those who wait for it. */
static sigset_t all_but_usr1(void)
{
	sigset_t set;

	sigfillset(&set);
	sigdelset(&set, SIGUSR1);
	return set;
}

static struct timespec in_a_minute(clockid_t clock)
{
	return to_timespec(now_ns(clock) + 60000 * MS);
}

/* A pthread_* call's error as a result. */
static long by_error(int err)
{
	errno = err;
	return err ? -1 : 0;
}

/* How much of BIG came through is not the same every time. */
static long partly(ssize_t n)
{
	return n > 0 && n < BIG ? 1 : n;
}

/* ---- what calls work on ---------------------------------------------------- */

static void pipes(struct row *r)
{
	OK(pipe(r->fd));
}
static void sockets(struct row *r)
{
	tcp_pair(r->fd);
}
static void unix_sockets(struct row *r)
{
	unix_pair(r->fd);
}
static void set_time(int fd, int which)
{
	struct timeval tv = {60, 0};

	OK(setsockopt(fd, SOL_SOCKET, which, &tv, sizeof tv));
}
static void timed_sockets(struct row *r)
{
	tcp_pair(r->fd);
	set_time(r->fd[0], SO_RCVTIMEO);
}
/* Into fd[1] as much as it takes, in pieces small enough that nothing fits any more. */
static void fill(struct row *r)
{
	OK(fcntl(r->fd[1], F_SETFL, O_NONBLOCK));
	while (write(r->fd[1], big, 65536) > 0)
		;
	while (write(r->fd[1], big, 1) > 0)
		;
	OK(fcntl(r->fd[1], F_SETFL, 0));
}
static void full_pipe(struct row *r)
{
	pipes(r);
	fill(r);
}
static void full_sockets(struct row *r)
{
	unix_sockets(r);
	fill(r);
}
static void full_timed_sockets(struct row *r)
{
	full_sockets(r);
	set_time(r->fd[1], SO_SNDTIMEO);
}
static void eventfds(struct row *r)
{
	r->fd[0] = OK(eventfd(0, 0));
}
static void timerfds(struct row *r)
{
	r->fd[0] = OK(timerfd_create(CLOCK_MONOTONIC, 0));
}
static void signalfds(struct row *r)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	r->fd[0] = OK(signalfd(-1, &set, 0));
}
static void inotifies(struct row *r)
{
	r->fd[0] = OK(inotify_init1(0));
	OK(mkdir("watched", 0700));
	OK(inotify_add_watch(r->fd[0], "watched", IN_CREATE));
}
static void terminals(struct row *r)
{
	struct termios t;

	r->fd[1] = OK(posix_openpt(O_RDWR | O_NOCTTY));
	OK(grantpt(r->fd[1]));
	OK(unlockpt(r->fd[1]));
	r->fd[0] = OK(open(ptsname(r->fd[1]), O_RDWR | O_NOCTTY));
	OK(tcgetattr(r->fd[0], &t));
	cfmakeraw(&t);
	OK(tcsetattr(r->fd[0], TCSANOW, &t));
}
static void stopped_terminals(struct row *r)
{
	terminals(r);
	OK(tcflow(r->fd[0], TCOOFF));
}
static void listeners(struct row *r)
{
	struct sockaddr_in at;

	r->fd[0] = tcp_listen(4, &at);
	r->fd[1] = OK(socket(AF_INET, SOCK_STREAM, 0));
}
static void timed_listeners(struct row *r)
{
	listeners(r);
	set_time(r->fd[0], SO_RCVTIMEO);
}
/* A UNIX listener whose queue is full: connect waits. */
static void full_listeners(struct row *r)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	socklen_t len = sizeof at;

	r->fd[0] = OK(socket(AF_UNIX, SOCK_STREAM, 0));
	OK(bind(r->fd[0], (struct sockaddr *)&at, sizeof at.sun_family));
	OK(listen(r->fd[0], 0));
	r->fd[1] = OK(socket(AF_UNIX, SOCK_STREAM, 0));
	OK(getsockname(r->fd[0], (struct sockaddr *)&at, &len));
	OK(connect(r->fd[1], (struct sockaddr *)&at, len));
}
static void epolls(struct row *r)
{
	struct epoll_event ev = {.events = EPOLLIN};
	int in = OK(eventfd(0, 0));

	r->fd[0] = OK(epoll_create1(0));
	OK(epoll_ctl(r->fd[0], EPOLL_CTL_ADD, in, &ev));
	r->fd[1] = in;
}
static void queues(struct row *r)
{
	r->id = OK(msgget(IPC_PRIVATE, 0600));
}
static void full_queues(struct row *r)
{
	static const struct {
		long type;
		char text[4000];
	} m = {.type = 1};

	queues(r);
	while (!msgsnd(r->id, &m, sizeof m.text, IPC_NOWAIT))
		;
}
static void semaphores(struct row *r)
{
	r->id = OK(semget(IPC_PRIVATE, 1, 0600));
}
static void mqs(struct row *r)
{
	struct mq_attr attr = {.mq_maxmsg = 1, .mq_msgsize = 8};
	const char *name = brief("/weft-eintr-%d-%d", (int)getpid(), r->id++);

	r->mq = OK(mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attr));
	OK(mq_unlink(name));
}
static void full_mqs(struct row *r)
{
	mqs(r);
	OK(mq_send(r->mq, "x", 1, 0));
}
static void children(struct row *r)
{
	r->pid = OK(fork());
	if (r->pid == 0) {
		OK(prctl(PR_SET_PDEATHSIG, SIGKILL));
		for (;;)
			pause();
	}
}
/* Another process holds the lock until it is told to go. */
static void locked(struct row *r)
{
	int go[2], told[2];
	char c;
	const char *name = brief("lock %s", r->name);

	OK(pipe(go));
	OK(pipe(told));
	r->fd[0] = OK(open(name, O_RDWR | O_CREAT, 0600));
	r->pid = OK(fork());
	if (r->pid == 0) {
		int fd = OK(open(name, O_RDWR));
		struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

		OK(prctl(PR_SET_PDEATHSIG, SIGKILL));
		OK(close(go[1]));
		if (strcmp(r->name, "flock") == 0)
			OK(flock(fd, LOCK_EX));
		else
			OK(fcntl(fd, F_SETLK, &fl));
		OK(write(told[1], "r", 1));
		OK(read(go[0], &c, 1));
		_exit(0);
	}
	CHECK(read(told[0], &c, 1) == 1);
	OK(close(told[0]));
	OK(close(told[1]));
	OK(close(go[0]));
	r->fd[1] = go[1];
}
static void mutexes(struct row *r)
{
	ZERO(pthread_mutex_init(&r->mutex, NULL));
	ZERO(pthread_mutex_lock(&r->mutex));
}
static void conds(struct row *r)
{
	ZERO(pthread_mutex_init(&r->mutex, NULL));
	ZERO(pthread_cond_init(&r->cond, NULL));
	r->word = 0;
}
static void rwlocks(struct row *r)
{
	ZERO(pthread_rwlock_init(&r->rwlock, NULL));
	ZERO(pthread_rwlock_wrlock(&r->rwlock));
}
static void barriers(struct row *r)
{
	ZERO(pthread_barrier_init(&r->barrier, NULL, 2));
}
static void sems(struct row *r)
{
	OK(sem_init(&r->sem, 0, 0));
}
static void shared_sems(struct row *r)
{
	OK(sem_init(&r->sem, 1, 0));
}
static void words(struct row *r)
{
	r->word = 0;
}
static void *sleeps_until_let(void *arg)
{
	struct row *r = arg;

	while (sem_wait(&r->sem))
		CHECK(errno == EINTR);
	return NULL;
}
static void threads(struct row *r)
{
	sems(r);
	r->other = start(sleeps_until_let, r);
}
static void nothing(struct row *r)
{
	(void)r;
}

/* ---- the calls, and what lets them go --------------------------------------- */

#define CALL(name) static long name(struct row *r)
#define LET(name)  static void name(struct row *r)

CALL(do_recv)
{
	return recv(r->fd[0], sink, 1, 0);
}
CALL(do_recv_all)
{
	OK(write(r->fd[1], "1234", 4));
	return recv(r->fd[0], big, 10, MSG_WAITALL);
}
CALL(do_recvfrom)
{
	struct sockaddr_in from;
	socklen_t len = sizeof from;

	return recvfrom(r->fd[0], sink, 1, 0, (struct sockaddr *)&from, &len);
}
CALL(do_recvmsg)
{
	char c;
	struct iovec v = {&c, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};

	return recvmsg(r->fd[0], &m, 0);
}
CALL(do_recvmmsg)
{
	char c;
	struct iovec v = {&c, 1};
	struct mmsghdr m = {.msg_hdr = {.msg_iov = &v, .msg_iovlen = 1}};

	return recvmmsg(r->fd[0], &m, 1, 0, NULL);
}
CALL(do_read)
{
	char buf[128];

	return read(r->fd[0], buf, sizeof buf) > 0 ? 1 : -1;
}
CALL(do_readv)
{
	char c;
	struct iovec v = {&c, 1};

	return readv(r->fd[0], &v, 1);
}
CALL(do_fgetc)
{
	FILE *f = fdopen(dup(r->fd[0]), "r");
	int c = fgetc(f), err = errno;

	fclose(f);
	errno = err;
	return c == EOF ? -1 : c;
}
LET(let_write)
{
	OK(write(r->fd[1], "x", 1));
}
LET(let_event)
{
	OK(eventfd_write(r->fd[0], 1));
}
LET(let_timer)
{
	struct itimerspec soon = {.it_value = {0, 1}};

	OK(timerfd_settime(r->fd[0], 0, &soon, NULL));
}
LET(let_usr2)
{
	ZERO(pthread_kill(r->thread, SIGUSR2));
}
LET(let_io)
{
	ZERO(pthread_kill(r->thread, SIGIO));
}
LET(let_create)
{
	(void)r;
	OK(close(OK(open("watched/x", O_CREAT | O_WRONLY, 0600))));
}

CALL(do_send)
{
	return send(r->fd[1], "x", 1, 0);
}
CALL(do_sendmsg)
{
	struct iovec v = {(void *)"x", 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};

	return sendmsg(r->fd[1], &m, 0);
}
CALL(do_send_big)
{
	return partly(send(r->fd[1], big, BIG, 0));
}
CALL(do_write)
{
	return write(r->fd[1], "x", 1);
}
CALL(do_write_big)
{
	return partly(write(r->fd[1], big, BIG));
}
CALL(do_writev_big)
{
	struct iovec v[2] = {{big, 100}, {big + 100, BIG - 100}};

	return partly(writev(r->fd[1], v, 2));
}
CALL(do_write_terminal)
{
	return write(r->fd[0], "x", 1);
}
CALL(do_splice)
{
	int out = OK(open("/dev/null", O_WRONLY));
	long n = splice(r->fd[0], NULL, out, NULL, 1, 0);
	int err = errno;

	close(out);
	errno = err;
	return n;
}
CALL(do_sendfile)
{
	int in = OK(open("/proc/self/exe", O_RDONLY));
	long n = sendfile(r->fd[1], in, NULL, 1);
	int err = errno;

	close(in);
	errno = err;
	return n;
}
LET(let_flow)
{
	OK(tcflow(r->fd[0], TCOON));
}
LET(let_drain)
{
	OK(read(r->fd[0], sink, BIG));
	OK(fcntl(r->fd[0], F_SETFL, O_NONBLOCK));
	while (read(r->fd[0], sink, BIG) > 0)
		;
}

CALL(do_accept)
{
	int fd = accept(r->fd[0], NULL, NULL);

	return fd >= 0 ? close(fd) : fd;
}
CALL(do_accept4)
{
	int fd = accept4(r->fd[0], NULL, NULL, SOCK_CLOEXEC);

	return fd >= 0 ? close(fd) : fd;
}
LET(let_connect)
{
	struct sockaddr_in at;
	socklen_t len = sizeof at;

	OK(getsockname(r->fd[0], (struct sockaddr *)&at, &len));
	OK(connect(r->fd[1], (struct sockaddr *)&at, len));
}
CALL(do_connect)
{
	struct sockaddr_un at;
	socklen_t len = sizeof at;
	int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));

	OK(getsockname(r->fd[0], (struct sockaddr *)&at, &len));
	long ret = connect(fd, (struct sockaddr *)&at, len);
	int err = errno;
	close(fd);
	errno = err;
	return ret;
}
LET(let_accept)
{
	OK(close(OK(accept(r->fd[0], NULL, NULL))));
}

CALL(do_poll)
{
	struct pollfd p = {r->fd[0], POLLIN, 0};

	return poll(&p, 1, -1);
}
CALL(do_poll_timed)
{
	struct pollfd p = {r->fd[0], POLLIN, 0};

	return poll(&p, 1, 60000);
}
CALL(do_ppoll)
{
	struct pollfd p = {r->fd[0], POLLIN, 0};

	return ppoll(&p, 1, &minute, NULL);
}
CALL(do_ppoll_masked)
{
	struct pollfd p = {r->fd[0], POLLIN, 0};
	sigset_t others = all_but_usr1();

	return ppoll(&p, 1, NULL, &others);
}
CALL(do_select)
{
	struct timeval tv = {60, 0};
	fd_set in;

	FD_ZERO(&in);
	FD_SET(r->fd[0], &in);
	long n = select(r->fd[0] + 1, &in, NULL, NULL, &tv);
	return n < 0 && tv.tv_sec >= 60 ? -2 : n;
}
CALL(do_pselect)
{
	struct timespec ts = minute;
	sigset_t others = all_but_usr1();
	fd_set in;

	FD_ZERO(&in);
	FD_SET(r->fd[0], &in);
	long n = pselect(r->fd[0] + 1, &in, NULL, NULL, &ts, &others);
	return n < 0 && ts.tv_sec != 60 ? -2 : n; /* libc hides what is left */
}
CALL(do_epoll_wait)
{
	struct epoll_event ev;

	return epoll_wait(r->fd[0], &ev, 1, -1);
}
CALL(do_epoll_pwait)
{
	struct epoll_event ev;
	sigset_t others = all_but_usr1();

	return epoll_pwait(r->fd[0], &ev, 1, 60000, &others);
}
CALL(do_epoll_pwait2)
{
	struct epoll_event ev;

	return epoll_pwait2(r->fd[0], &ev, 1, &minute, NULL);
}

CALL(do_nanosleep)
{
	struct timespec rest = {0, 0};

	(void)r;
	long n = nanosleep(&minute, &rest);
	return n < 0 && (rest.tv_sec < 30 || rest.tv_sec > 59) ? -2 : n;
}
CALL(do_clock_nanosleep)
{
	(void)r;
	return by_error(clock_nanosleep(CLOCK_MONOTONIC, 0, &minute, NULL));
}
CALL(do_clock_nanosleep_abs)
{
	struct timespec at = in_a_minute(CLOCK_REALTIME);

	(void)r;
	return by_error(clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &at, NULL));
}
CALL(do_thrd_sleep)
{
	(void)r;
	return thrd_sleep(&minute, NULL);
}
CALL(do_usleep)
{
	(void)r;
	return usleep(60000000);
}
CALL(do_sleep)
{
	unsigned rest = sleep(60);

	(void)r;
	return rest > 30 && rest < 60 ? -1 : 0;
}
CALL(do_pause)
{
	(void)r;
	return pause();
}
CALL(do_sigsuspend)
{
	sigset_t others = all_but_usr1();

	(void)r;
	return sigsuspend(&others);
}
static sigset_t usr2(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	return set;
}
CALL(do_sigtimedwait)
{
	sigset_t set = usr2();

	(void)r;
	return sigtimedwait(&set, NULL, &minute);
}
CALL(do_sigwaitinfo)
{
	sigset_t set = usr2();

	(void)r;
	return sigwaitinfo(&set, NULL);
}
CALL(do_sigwait)
{
	sigset_t set = usr2();
	int sig = 0;

	(void)r;
	return by_error(sigwait(&set, &sig)) ? -1 : sig == SIGUSR2;
}

CALL(do_waitpid)
{
	int status;

	return waitpid(r->pid, &status, 0) == r->pid ? 0 : -1;
}
CALL(do_waitid)
{
	siginfo_t info;

	return waitid(P_PID, (id_t)r->pid, &info, WEXITED);
}
LET(let_child)
{
	OK(kill(r->pid, SIGKILL));
}
CALL(do_flock)
{
	return flock(r->fd[0], LOCK_EX);
}
CALL(do_setlkw)
{
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	return fcntl(r->fd[0], F_SETLKW, &fl);
}
CALL(do_ofd_setlkw)
{
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	return fcntl(r->fd[0], F_OFD_SETLKW, &fl);
}
CALL(do_lockf)
{
	return lockf(r->fd[0], F_LOCK, 0);
}

CALL(do_msgrcv)
{
	char m[32];

	return msgrcv(r->id, m, 16, 0, 0);
}
CALL(do_msgsnd)
{
	static const struct {
		long type;
		char text[4000];
	} m = {.type = 1};

	return msgsnd(r->id, &m, sizeof m.text, 0);
}
CALL(do_semop)
{
	struct sembuf op = {0, -1, 0};

	return semop(r->id, &op, 1);
}
CALL(do_semtimedop)
{
	struct sembuf op = {0, -1, 0};

	return semtimedop(r->id, &op, 1, &minute);
}
CALL(do_mq_receive)
{
	char m[8];

	return mq_receive(r->mq, m, sizeof m, NULL);
}
CALL(do_mq_timedreceive)
{
	struct timespec at = in_a_minute(CLOCK_REALTIME);
	char m[8];

	return mq_timedreceive(r->mq, m, sizeof m, NULL, &at);
}
LET(let_mq_receive)
{
	OK(mq_send(r->mq, "x", 1, 0));
}
CALL(do_mq_send)
{
	return mq_send(r->mq, "y", 1, 0);
}
LET(let_mq_send)
{
	char m[8];

	OK(mq_receive(r->mq, m, sizeof m, NULL));
}

CALL(do_sem_wait)
{
	return sem_wait(&r->sem);
}
LET(let_sem)
{
	OK(sem_post(&r->sem));
}
CALL(do_sem_timedwait)
{
	struct timespec at = in_a_minute(CLOCK_REALTIME);

	return sem_timedwait(&r->sem, &at);
}
CALL(do_sem_clockwait)
{
	struct timespec at = in_a_minute(CLOCK_MONOTONIC);

	return sem_clockwait(&r->sem, CLOCK_MONOTONIC, &at);
}
CALL(do_mutex_lock)
{
	return by_error(pthread_mutex_lock(&r->mutex));
}
CALL(do_mutex_timedlock)
{
	struct timespec at = in_a_minute(CLOCK_REALTIME);

	return by_error(pthread_mutex_timedlock(&r->mutex, &at));
}
LET(let_mutex)
{
	ZERO(pthread_mutex_unlock(&r->mutex));
}
CALL(do_cond_wait)
{
	int err = 0;

	pthread_mutex_lock(&r->mutex);
	while (!r->word && !err)
		err = pthread_cond_wait(&r->cond, &r->mutex);
	pthread_mutex_unlock(&r->mutex);
	return by_error(err);
}
CALL(do_cond_timedwait)
{
	struct timespec at = in_a_minute(CLOCK_REALTIME);
	int err = 0;

	pthread_mutex_lock(&r->mutex);
	while (!r->word && !err)
		err = pthread_cond_timedwait(&r->cond, &r->mutex, &at);
	pthread_mutex_unlock(&r->mutex);
	return by_error(err);
}
LET(let_cond)
{
	pthread_mutex_lock(&r->mutex);
	r->word = 1;
	pthread_cond_signal(&r->cond);
	pthread_mutex_unlock(&r->mutex);
}
CALL(do_rdlock)
{
	return by_error(pthread_rwlock_rdlock(&r->rwlock));
}
CALL(do_wrlock)
{
	struct timespec at = in_a_minute(CLOCK_REALTIME);

	return by_error(pthread_rwlock_timedwrlock(&r->rwlock, &at));
}
LET(let_rwlock)
{
	ZERO(pthread_rwlock_unlock(&r->rwlock));
}
CALL(do_barrier)
{
	pthread_barrier_wait(&r->barrier);
	return 0;
}
LET(let_barrier)
{
	pthread_barrier_wait(&r->barrier);
}
CALL(do_join)
{
	return by_error(pthread_join(r->other, NULL));
}
CALL(do_timedjoin)
{
	struct timespec at = in_a_minute(CLOCK_REALTIME);

	return by_error(pthread_timedjoin_np(r->other, NULL, &at));
}
CALL(do_futex)
{
	return syscall(SYS_futex, &r->word, 0 /* WAIT */ | 128 /* PRIVATE */, 0, NULL);
}
CALL(do_futex_timed)
{
	return syscall(SYS_futex, &r->word, 0 | 128, 0, &minute);
}
CALL(do_futex_shared)
{
	return syscall(SYS_futex, &r->word, 0, 0, NULL);
}
/*
 * The word stays what it is, so a wake-up that comes while the thread is still in its
 * last handler wakes nobody, and the call that is restarted then waits.
 */
LET(let_futex)
{
	while (!__atomic_load_n(&r->done, __ATOMIC_SEQ_CST)) {
		syscall(SYS_futex, &r->word, 1 /* WAKE */ | 128, 1);
		syscall(SYS_futex, &r->word, 1, 1);
		usleep(100);
	}
}

#define ROW(n, p, c, l)                                                                  \
	{                                                                                \
		.name = n, .prepare = p, .call = c, .let = l                             \
	}
#define NEVER(n, p, c, l)                                                                \
	{                                                                                \
		.name = n, .prepare = p, .call = c, .let = l, .never = true              \
	}

static struct row rows[] = {
	ROW("recv", sockets, do_recv, let_write),
	ROW("recv of a part with MSG_WAITALL", sockets, do_recv_all, let_write),
	ROW("recvfrom", sockets, do_recvfrom, let_write),
	ROW("recvmsg", unix_sockets, do_recvmsg, let_write),
	ROW("recvmmsg", unix_sockets, do_recvmmsg, let_write),
	ROW("read from a pipe", pipes, do_read, let_write),
	ROW("readv from a socket", sockets, do_readv, let_write),
	ROW("fgetc", pipes, do_fgetc, let_write),
	ROW("read from an eventfd", eventfds, do_read, let_event),
	ROW("read from a timerfd", timerfds, do_read, let_timer),
	ROW("read from a signalfd", signalfds, do_read, let_io),
	ROW("read from an inotify descriptor", inotifies, do_read, let_create),
	ROW("read from a terminal", terminals, do_read, let_write),
	ROW("recv with SO_RCVTIMEO", timed_sockets, do_recv, NULL),
	ROW("read with SO_RCVTIMEO", timed_sockets, do_read, NULL),
	ROW("accept with SO_RCVTIMEO", timed_listeners, do_accept, NULL),
	ROW("send", full_sockets, do_send, let_drain),
	ROW("sendmsg", full_sockets, do_sendmsg, let_drain),
	ROW("write to a socket", full_sockets, do_write, let_drain),
	ROW("write to a pipe", full_pipe, do_write, let_drain),
	ROW("write to a stopped terminal", stopped_terminals, do_write_terminal,
		let_flow),
	ROW("send with SO_SNDTIMEO", full_timed_sockets, do_send, NULL),
	ROW("send after some bytes", sockets, do_send_big, NULL),
	ROW("write to a pipe after some bytes", pipes, do_write_big, NULL),
	ROW("writev after some bytes", unix_sockets, do_writev_big, NULL),
	ROW("splice", pipes, do_splice, let_write),
	ROW("sendfile", full_sockets, do_sendfile, let_drain),
	ROW("accept", listeners, do_accept, let_connect),
	ROW("accept4", listeners, do_accept4, let_connect),
	ROW("connect to a full queue", full_listeners, do_connect, let_accept),
	ROW("poll", pipes, do_poll, NULL),
	ROW("poll with a time-out", pipes, do_poll_timed, NULL),
	ROW("ppoll", pipes, do_ppoll, NULL),
	ROW("ppoll with a mask", pipes, do_ppoll_masked, NULL),
	ROW("select", pipes, do_select, NULL),
	ROW("pselect", pipes, do_pselect, NULL),
	ROW("epoll_wait", epolls, do_epoll_wait, NULL),
	ROW("epoll_pwait", epolls, do_epoll_pwait, NULL),
	ROW("epoll_pwait2", epolls, do_epoll_pwait2, NULL),
	ROW("nanosleep", nothing, do_nanosleep, NULL),
	ROW("clock_nanosleep", nothing, do_clock_nanosleep, NULL),
	ROW("clock_nanosleep until", nothing, do_clock_nanosleep_abs, NULL),
	ROW("thrd_sleep", nothing, do_thrd_sleep, NULL),
	ROW("usleep", nothing, do_usleep, NULL),
	ROW("sleep", nothing, do_sleep, NULL),
	ROW("pause", nothing, do_pause, NULL),
	ROW("sigsuspend", nothing, do_sigsuspend, NULL),
	ROW("sigtimedwait", nothing, do_sigtimedwait, NULL),
	ROW("sigwaitinfo", nothing, do_sigwaitinfo, NULL),
	NEVER("sigwait", nothing, do_sigwait, let_usr2),
	ROW("waitpid", children, do_waitpid, let_child),
	ROW("waitid", children, do_waitid, let_child),
	ROW("flock", locked, do_flock, let_write),
	ROW("F_SETLKW", locked, do_setlkw, let_write),
	ROW("F_OFD_SETLKW", locked, do_ofd_setlkw, let_write),
	ROW("lockf", locked, do_lockf, let_write),
	ROW("msgrcv", queues, do_msgrcv, NULL),
	ROW("msgsnd", full_queues, do_msgsnd, NULL),
	ROW("semop", semaphores, do_semop, NULL),
	ROW("semtimedop", semaphores, do_semtimedop, NULL),
	ROW("mq_receive", mqs, do_mq_receive, let_mq_receive),
	ROW("mq_timedreceive", mqs, do_mq_timedreceive, let_mq_receive),
	ROW("mq_send", full_mqs, do_mq_send, let_mq_send),
	ROW("sem_wait", sems, do_sem_wait, let_sem),
	ROW("sem_wait on a shared one", shared_sems, do_sem_wait, let_sem),
	ROW("sem_timedwait", sems, do_sem_timedwait, NULL),
	ROW("sem_clockwait", sems, do_sem_clockwait, NULL),
	NEVER("pthread_mutex_lock", mutexes, do_mutex_lock, let_mutex),
	NEVER("pthread_mutex_timedlock", mutexes, do_mutex_timedlock, let_mutex),
	NEVER("pthread_cond_wait", conds, do_cond_wait, let_cond),
	NEVER("pthread_cond_timedwait", conds, do_cond_timedwait, let_cond),
	NEVER("pthread_rwlock_rdlock", rwlocks, do_rdlock, let_rwlock),
	NEVER("pthread_rwlock_timedwrlock", rwlocks, do_wrlock, let_rwlock),
	NEVER("pthread_barrier_wait", barriers, do_barrier, let_barrier),
	NEVER("pthread_join", threads, do_join, let_sem),
	NEVER("pthread_timedjoin_np", threads, do_timedjoin, let_sem),
	ROW("futex", words, do_futex, let_futex),
	ROW("futex with a time-out", words, do_futex_timed, NULL),
	ROW("futex without PRIVATE", words, do_futex_shared, let_futex),
};
enum { ROWS = sizeof rows / sizeof *rows };

/* ---- one run ----------------------------------------------------------------- */

static void *calls(void *arg)
{
	struct row *r = arg;

	r->handled = &sig_handled_here;
	sig_mask(SIG_UNBLOCK, SIGUSR1);
	__atomic_store_n(&r->entered, 1, __ATOMIC_SEQ_CST);
	r->result = r->call(r);
	r->error = errno;
	__atomic_store_n(&r->done, 1, __ATOMIC_SEQ_CST);
	sig_mask(SIG_BLOCK, SIGUSR1);
	/* Alive, with its counter, until nobody signals it any more. */
	while (__atomic_load_n(&r->done, __ATOMIC_SEQ_CST) == 1)
		usleep(500);
	return NULL;
}

static bool is(int *word)
{
	return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

/* How often a call must survive before it counts as one that goes on. */
enum { ENOUGH = 30 };

static void clean(struct row *r)
{
	if (r->fd[0])
		OK(close(r->fd[0]));
	if (r->fd[1])
		close(r->fd[1]);
	if (r->prepare == queues || r->prepare == full_queues)
		OK(msgctl(r->id, IPC_RMID, NULL));
	if (r->prepare == semaphores)
		OK(semctl(r->id, 0, IPC_RMID));
	if (r->prepare == mqs || r->prepare == full_mqs)
		OK(mq_close(r->mq));
	if (r->prepare == inotifies) {
		unlink("watched/x");
		OK(rmdir("watched"));
	}
	r->fd[0] = r->fd[1] = 0;
}

static void run(bool restart)
{
	const char *how = restart ? "SA_RESTART" : "plain";
	bool ended[ROWS], all;

	sig_install(SIGUSR1, restart ? SA_RESTART : 0, sig_count);
	for (int i = 0; i < ROWS; i++)
		rows[i].prepare(&rows[i]);
	for (int i = 0; i < ROWS; i++) {
		rows[i].entered = rows[i].done = 0;
		rows[i].thread = start(calls, &rows[i]);
	}
	for (int i = 0; i < ROWS; i++)
		while (!is(&rows[i].entered))
			usleep(100);
	/*
	 * A call that fails with EINTR is through after one signal that finds it there;
	 * one that should go on could only be taken for it if it were never there.
	 */
	for (int turn = 0, more = 1; turn < ENOUGH || more; turn++) {
		more = 0;
		for (int i = 0; i < ROWS; i++) {
			struct row *r = &rows[i];
			bool goes_on = r->never || (restart && r->let);

			if (is(&r->done) || (goes_on && turn >= ENOUGH))
				continue;
			more |= !goes_on;
			ZERO(pthread_kill(r->thread, SIGUSR1));
		}
		CHECK(turn < 10000);
		usleep(1000);
	}
	for (int i = 0; i < ROWS; i++) {
		struct row *r = &rows[i];

		while (!*r->handled) /* it was sent some */
			usleep(100);
		ended[i] = is(&r->done);
		if (!ended[i])
			r->let(r);
	}
	do {
		all = true;
		for (int i = 0; i < ROWS; i++)
			all &= is(&rows[i].done);
		usleep(100);
	} while (!all);
	for (int i = 0; i < ROWS; i++) {
		struct row *r = &rows[i];

		__atomic_store_n(&r->done, 2, __ATOMIC_SEQ_CST);
		finish(r->thread);
		say("%s, %s: %s, %ld %s", r->name, how, ended[i] ? "ended" : "went on",
			r->result, r->result < 0 ? err_name(r->error) : "");
		if (ended[i] && r->pid) {
			r->let(r);
			OK(waitpid(r->pid, NULL, 0));
		} else if (r->prepare == locked) {
			OK(waitpid(r->pid, NULL, 0));
		}
		r->pid = 0;
		clean(r);
	}
}

int main(void)
{
	sig_mask(SIG_BLOCK, SIGUSR1); /* only the threads under test take it */
	sig_mask(SIG_BLOCK, SIGUSR2);
	sig_mask(SIG_BLOCK, SIGIO);
	run(true);
	run(false);
	return 0;
}
