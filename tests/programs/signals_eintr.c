/*
 * Which blocked calls a handler interrupts, with and
 * without SA_RESTART. Each call is entered by a thread of its own and hit until it ends;
 * one that restarts is let go by its event afterwards.
 */
#include "sig.h"

#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>

static int sock[2], timed[2], pipe_fds[2], event, notify, listener, set, queue, sems,
	lock_fd;
static int locker[2];
static struct sockaddr_in address;
static sem_t sem;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static char buf[4096];

/* Each makes the call once; the other half lets it end. */

static long do_recv(void)
{
	return recv(sock[0], buf, 1, 0);
}
static void let_recv(void)
{
	send_all(sock[1], "x", 1);
}
static long do_read_pipe(void)
{
	return read(pipe_fds[0], buf, 1);
}
static void let_read_pipe(void)
{
	OK(write(pipe_fds[1], "x", 1));
}
static long do_read_eventfd(void)
{
	return read(event, buf, 8);
}
static void let_read_eventfd(void)
{
	OK(eventfd_write(event, 1));
}
static long do_read_inotify(void)
{
	return read(notify, buf, sizeof buf) > 0;
}
static void let_read_inotify(void)
{
	OK(close(OK(open("x", O_CREAT | O_WRONLY, 0600))));
	OK(unlink("x"));
}
static long do_accept(void)
{
	int fd = accept(listener, NULL, NULL);

	return fd >= 0 ? close(fd) : fd;
}
static void let_accept(void)
{
	OK(close(tcp_connect(&address)));
}
static pid_t child;
static long do_waitpid(void)
{
	int status;
	pid_t pid = waitpid(child, &status, 0);

	return pid == child ? 0 : pid;
}
static void let_waitpid(void)
{
	OK(kill(child, SIGKILL));
}
static long do_flock(void)
{
	int r = flock(lock_fd, LOCK_EX);

	return r;
}
static void let_locks(void)
{
	OK(write(locker[1], "x", 1));
}
static long do_setlkw(void)
{
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	return fcntl(lock_fd, F_SETLKW, &fl);
}
static long do_sem_wait(void)
{
	return sem_wait(&sem);
}
static void let_sem_wait(void)
{
	OK(sem_post(&sem));
}
static long do_recv_timed(void)
{
	return recv(timed[0], buf, 1, 0);
}
static long do_sem_timedwait(void)
{
	struct timespec at = to_timespec(now_ns(CLOCK_REALTIME) + 60000 * MS);

	return sem_timedwait(&sem, &at);
}
static long do_cond_timedwait(void)
{
	struct timespec at = to_timespec(now_ns(CLOCK_REALTIME) + 300 * MS);
	int err = 0;

	pthread_mutex_lock(&mutex);
	while (!err)
		err = pthread_cond_timedwait(&cond, &mutex, &at);
	pthread_mutex_unlock(&mutex);
	errno = err;
	return err == ETIMEDOUT ? 0 : -1;
}
static void let_alone(void) {}
static long do_poll(void)
{
	struct pollfd p = {pipe_fds[0], POLLIN, 0};

	return poll(&p, 1, -1);
}
static long do_ppoll(void)
{
	struct timespec ts = {60, 0};
	struct pollfd p = {pipe_fds[0], POLLIN, 0};

	return ppoll(&p, 1, &ts, NULL);
}
static long do_select(void)
{
	struct timeval tv = {60, 0};
	fd_set in;

	FD_ZERO(&in);
	FD_SET(pipe_fds[0], &in);
	long r = select(pipe_fds[0] + 1, &in, NULL, NULL, &tv);
	return r < 0 && tv.tv_sec >= 60 ? -2 : r;
}
static long do_epoll_wait(void)
{
	struct epoll_event ev;

	return epoll_wait(set, &ev, 1, -1);
}
static long do_nanosleep(void)
{
	struct timespec ts = {60, 0}, rest = {0, 0};
	long r = nanosleep(&ts, &rest);

	return r < 0 && (rest.tv_sec < 50 || rest.tv_sec > 59) ? -2 : r;
}
static long do_clock_nanosleep(void)
{
	struct timespec ts = {60, 0};
	int err = clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);

	errno = err;
	return err ? -1 : 0;
}
static long do_usleep(void)
{
	return usleep(60000000);
}
static long do_sleep(void)
{
	unsigned rest = sleep(60);

	return rest > 50 && rest < 60 ? -1 : 0;
}
static long do_pause(void)
{
	return pause();
}
static long do_sigsuspend(void)
{
	sigset_t none;

	sigemptyset(&none);
	return sigsuspend(&none);
}
static long do_sigtimedwait(void)
{
	struct timespec ts = {60, 0};
	sigset_t usr2;

	sigemptyset(&usr2);
	sigaddset(&usr2, SIGUSR2);
	return sigtimedwait(&usr2, NULL, &ts);
}
static long do_msgrcv(void)
{
	return msgrcv(queue, buf, 16, 0, 0);
}
static long do_semop(void)
{
	struct sembuf op = {0, -1, 0};

	return semop(sems, &op, 1);
}

static const struct row {
	const char *name;
	long (*call)(void);
	void (*let)(void);
	const char *needs;
} rows[] = {
	{"recv", do_recv, let_recv, ""},
	{"read pipe", do_read_pipe, let_read_pipe, ""},
	{"read eventfd", do_read_eventfd, let_read_eventfd, ""},
	{"read inotify", do_read_inotify, let_read_inotify, ""},
	{"accept", do_accept, let_accept, ""},
	{"waitpid", do_waitpid, let_waitpid, "child"},
	{"flock", do_flock, let_locks, "flock"},
	{"F_SETLKW", do_setlkw, let_locks, "setlk"},
	{"sem_wait", do_sem_wait, let_sem_wait, ""},
	{"recv with SO_RCVTIMEO", do_recv_timed, let_alone, ""},
	{"sem_timedwait", do_sem_timedwait, let_alone, ""},
	{"pthread_cond_timedwait", do_cond_timedwait, let_alone, ""},
	{"poll", do_poll, let_alone, ""},
	{"ppoll", do_ppoll, let_alone, ""},
	{"select", do_select, let_alone, ""},
	{"epoll_wait", do_epoll_wait, let_alone, ""},
	{"nanosleep", do_nanosleep, let_alone, ""},
	{"clock_nanosleep", do_clock_nanosleep, let_alone, ""},
	{"usleep", do_usleep, let_alone, ""},
	{"sleep", do_sleep, let_alone, ""},
	{"pause", do_pause, let_alone, ""},
	{"sigsuspend", do_sigsuspend, let_alone, ""},
	{"sigtimedwait", do_sigtimedwait, let_alone, ""},
	{"msgrcv", do_msgrcv, let_alone, ""},
	{"semop", do_semop, let_alone, ""},
};

static int done, entered;
static long result;
static int result_errno;

static void *calls(void *arg)
{
	const struct row *row = arg;

	sig_mask(SIG_UNBLOCK, SIGUSR1);
	__atomic_store_n(&entered, 1, __ATOMIC_SEQ_CST);
	result = row->call();
	result_errno = errno;
	__atomic_store_n(&done, 1, __ATOMIC_SEQ_CST);
	sig_mask(SIG_BLOCK, SIGUSR1);
	return NULL;
}

/* Another process holds the lock until it is told to go. */
static pid_t hold_lock(bool posix)
{
	char c, ready;
	int told[2];

	OK(pipe(locker));
	OK(pipe(told));
	pid_t pid = OK(fork());
	if (pid == 0) {
		int fd = OK(open("lock", O_RDWR));
		struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

		if (posix)
			OK(fcntl(fd, F_SETLK, &fl));
		else
			OK(flock(fd, LOCK_EX));
		OK(write(told[1], "r", 1));
		OK(read(locker[0], &c, 1));
		_exit(0);
	}
	CHECK(read(told[0], &ready, 1) == 1);
	OK(close(told[0]));
	OK(close(told[1]));
	return pid;
}

static void hit(const struct row *row, bool restart)
{
	pid_t holder = 0;
	bool interrupted;

	if (strcmp(row->needs, "child") == 0) {
		child = OK(fork());
		if (child == 0)
			for (;;)
				pause();
	} else if (*row->needs) {
		lock_fd = OK(open("lock", O_RDWR | O_CREAT, 0600));
		holder = hold_lock(strcmp(row->needs, "setlk") == 0);
	}
	sig_install(SIGUSR1, restart ? SA_RESTART : 0, sig_count);
	done = entered = 0;
	pthread_t t = start(calls, (void *)row);
	while (!__atomic_load_n(&entered, __ATOMIC_SEQ_CST))
		usleep(100);
	int before = sig_handled;
	for (int i = 0; i < 200 && !__atomic_load_n(&done, __ATOMIC_SEQ_CST); i++) {
		ZERO(pthread_kill(t, SIGUSR1));
		usleep(5000);
		/* 30 signals inside the call say that it restarts; fewer under load
		 * would only mean that it was not there yet. */
		if (restart && i == 30 && row->let != let_alone)
			break;
	}
	CHECK(sig_handled > before);
	interrupted = __atomic_load_n(&done, __ATOMIC_SEQ_CST);
	if (!interrupted)
		row->let();
	finish(t);
	say("%s, %s: %s, %ld %s", row->name, restart ? "SA_RESTART" : "plain",
		interrupted ? "ended" : "restarted", result,
		result < 0 ? err_name(result_errno) : "");
	if (interrupted && *row->needs)
		row->let();
	if (holder) {
		OK(waitpid(holder, NULL, 0));
		OK(close(lock_fd));
		OK(close(locker[0]));
		OK(close(locker[1]));
	} else if (child) {
		if (interrupted)
			OK(waitpid(child, NULL, 0));
	}
	child = 0;
}

int main(void)
{
	struct timeval tv = {60, 0};
	struct epoll_event ev = {.events = EPOLLIN};

	sig_mask(SIG_BLOCK, SIGUSR1); /* only the thread under test takes it */
	sig_mask(SIG_BLOCK, SIGUSR2);
	tcp_pair(sock);
	tcp_pair(timed);
	OK(setsockopt(timed[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
	OK(pipe(pipe_fds));
	event = OK(eventfd(0, 0));
	notify = OK(inotify_init1(0));
	OK(inotify_add_watch(notify, ".", IN_CREATE));
	listener = tcp_listen(4, &address);
	set = OK(epoll_create1(0));
	OK(epoll_ctl(set, EPOLL_CTL_ADD, pipe_fds[0], &ev));
	queue = OK(msgget(IPC_PRIVATE, 0600));
	sems = OK(semget(IPC_PRIVATE, 1, 0600));
	OK(sem_init(&sem, 0, 0));
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		hit(&rows[i], true);
		hit(&rows[i], false);
	}
	OK(msgctl(queue, IPC_RMID, NULL));
	OK(semctl(sems, 0, IPC_RMID));
	return 0;
}
