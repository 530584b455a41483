/*
 * Handlers end calls that only the kernel knows of, too: a FIFO that is being opened, and
 * system calls that a program makes with an instruction of its own. One thread makes the
 * call, another process sends the signals; one that goes on is let go by its event.
 */
#include "sig.h"

#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>

static long raw(long number, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long r;

	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	if (r < 0 && r > -4096) {
		errno = (int)-r;
		return -1;
	}
	return r;
}

static int fds[2], lock_fd;
static int *word; /* shared with the other process */
static char buf[64];

static long open_to_read(void)
{
	int fd = open("fifo", O_RDONLY);

	return fd < 0 ? -1 : close(fd);
}
static long open_to_write(void)
{
	int fd = open("fifo", O_WRONLY);

	return fd < 0 ? -1 : close(fd);
}
static long raw_open(void)
{
	long fd = raw(SYS_open, (long)"fifo", O_RDONLY, 0, 0);

	return fd < 0 ? -1 : close((int)fd);
}
/* Who opens it for both ends waits for nobody. */
static void let_fifo(void)
{
	OK(open("fifo", O_RDWR));
}
static long raw_read(void)
{
	return raw(SYS_read, fds[0], (long)buf, 1, 0);
}
static long raw_recvfrom(void)
{
	return raw(SYS_recvfrom, fds[0], (long)buf, 1, 0);
}
static void let_write(void)
{
	OK(write(fds[1], "x", 1));
}
static long raw_poll(void)
{
	struct pollfd p = {fds[0], POLLIN, 0};

	return raw(SYS_poll, (long)&p, 1, -1, 0);
}
static long raw_nanosleep(void)
{
	struct timespec ts = {60, 0};

	return raw(SYS_nanosleep, (long)&ts, 0, 0, 0);
}
static long raw_futex(void)
{
	return raw(SYS_futex, (long)word, 0 /* WAIT */, 0, 0);
}
/* Whoever is in its handler just now, or on its way back, is not woken. */
static void let_futex(void)
{
	while (OK(syscall(SYS_futex, word, 1 /* WAKE */, 1)) == 0)
		usleep(200);
}
static long raw_flock(void)
{
	return raw(SYS_flock, lock_fd, LOCK_EX, 0, 0);
}
static int taken;
static void take_lock(void)
{
	taken = OK(open("lock", O_RDWR));
	OK(flock(taken, LOCK_EX));
}
static void let_lock(void)
{
	OK(close(taken));
}
static void nothing(void) {}

static const struct row {
	const char *name;
	long (*call)(void);
	void (*first)(void); /* by the other process, before the call */
	void (*let)(void);   /* NULL: only a signal ends it */
} rows[] = {
	{"open of a FIFO to read", open_to_read, nothing, let_fifo},
	{"open of a FIFO to write", open_to_write, nothing, let_fifo},
	{"own open", raw_open, nothing, let_fifo},
	{"own read", raw_read, nothing, let_write},
	{"own recvfrom", raw_recvfrom, nothing, let_write},
	{"own poll", raw_poll, nothing, NULL},
	{"own nanosleep", raw_nanosleep, nothing, NULL},
	{"own futex", raw_futex, nothing, let_futex},
	{"own flock", raw_flock, take_lock, let_lock},
};

static int to_other[2], from_other[2];
static const struct row *now;
static long result;
static int result_errno;

static void *calls(void *arg)
{
	sig_mask(SIG_UNBLOCK, SIGUSR1);
	OK(write(to_other[1], "e", 1));
	result = now->call();
	result_errno = errno;
	sig_mask(SIG_BLOCK, SIGUSR1);
	OK(write(to_other[1], "d", 1));
	return arg;
}

/* Signals the parent until its call ends; after enough of them lets a call go on. */
static void signals(bool restart)
{
	struct pollfd done = {to_other[0], POLLIN, 0};
	char c;

	now->first();
	OK(write(from_other[1], "f", 1));
	CHECK(read(to_other[0], &c, 1) == 1);
	for (int i = 0; !restart || !now->let || i < 30; i++) {
		OK(kill(getppid(), SIGUSR1));
		if (OK(poll(&done, 1, 2)) == 1)
			_exit(1);
	}
	now->let();
	OK(poll(&done, 1, -1)); /* what it opened stays open until then */
	_exit(0);
}

static void hit(bool restart)
{
	int status;
	pthread_t t;

	char c;

	OK(pipe(to_other));
	OK(pipe(from_other));
	sig_install(SIGUSR1, restart ? SA_RESTART : 0, sig_count);
	pid_t pid = OK(fork());
	if (pid == 0)
		signals(restart);
	CHECK(read(from_other[0], &c, 1) == 1);
	t = start(calls, NULL);
	finish(t);
	OK(waitpid(pid, &status, 0));
	say("%s, %s: %s, %ld %s", now->name, restart ? "SA_RESTART" : "plain",
		WEXITSTATUS(status) ? "ended" : "went on", result,
		result < 0 ? err_name(result_errno) : "");
	OK(close(to_other[0]));
	OK(close(to_other[1]));
	OK(close(from_other[0]));
	OK(close(from_other[1]));
	OK(flock(lock_fd, LOCK_UN));
}

int main(void)
{
	sig_mask(SIG_BLOCK, SIGUSR1);
	OK(mkfifo("fifo", 0600));
	lock_fd = OK(open("lock", O_RDWR | O_CREAT, 0600));
	unix_pair(fds);
	word = shared_memory(4096);
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		now = &rows[i];
		hit(true);
		hit(false);
	}
	return 0;
}
