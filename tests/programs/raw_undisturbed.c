/*
 * Timed system calls by instructions of the program's own, which a signal handler would
 * end with EINTR: no signal is sent here, so none ends. Each thread first makes a
 * socket's reader wait, so that somebody has an interest in what runs it; the readers get
 * their bytes meanwhile, from another process.
 */
#include "prog.h"

#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/sem.h>
#include <sys/syscall.h>

#define EACH    2
#define ROUNDS  4
#define READERS 40

static int pairs[READERS][2], tell[2], sem, epfd;

static long raw6(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long r;

	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return r;
}

static const struct {
	const char *name;
	long expected;
} calls[] = {
	{"nanosleep", 0},
	{"clock_nanosleep", 0},
	{"poll", 0},
	{"select", 0},
	{"epoll_wait", 0},
	{"futex", -ETIMEDOUT},
	{"semtimedop", -EAGAIN},
	{"rt_sigtimedwait", -EAGAIN},
};
#define CALLS ((int)(sizeof calls / sizeof *calls))

static long make(int which)
{
	struct timespec ts = {0, 60 * 1000000}, rem = {0, 0};
	struct timeval tv = {0, 60 * 1000};
	struct sembuf op = {0, -1, 0};
	struct epoll_event ev;
	uint64_t set = 1ull << (SIGUSR2 - 1);
	int word = 0;

	switch (which) {
	case 0:
		return raw6(SYS_nanosleep, (long)&ts, (long)&rem, 0, 0, 0, 0);
	case 1:
		return raw6(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, (long)&ts, 0, 0, 0);
	case 2:
		return raw6(SYS_poll, 0, 0, 60, 0, 0, 0);
	case 3:
		return raw6(SYS_select, 0, 0, 0, 0, (long)&tv, 0);
	case 4:
		return raw6(SYS_epoll_wait, epfd, (long)&ev, 1, 60, 0, 0);
	case 5:
		return raw6(
			SYS_futex, (long)&word, FUTEX_WAIT_PRIVATE, 0, (long)&ts, 0, 0);
	case 6:
		return raw6(SYS_semtimedop, sem, (long)&op, 1, (long)&ts, 0, 0);
	default:
		return raw6(SYS_rt_sigtimedwait, (long)&set, 0, (long)&ts, 8, 0, 0);
	}
}

static long worst[CALLS][EACH];

static void *calls_on(void *arg)
{
	int i = (int)(intptr_t)arg, which = i / EACH;

	worst[which][i % EACH] = calls[which].expected;
	for (int n = 0; n < ROUNDS; n++) {
		long r = make(which);

		if (r != calls[which].expected)
			worst[which][i % EACH] = r;
		usleep(500);
	}
	return NULL;
}

static void *reads(void *arg)
{
	int i = (int)(intptr_t)arg;
	char c;

	for (int n = 0; n < ROUNDS; n++)
		CHECK(read(pairs[i][0], &c, 1) == 1);
	return arg;
}

static void feeds(void)
{
	char c;

	CHECK(read(tell[1], &c, 1) == 1);
	for (int n = 0; n < ROUNDS; n++)
		for (int i = 0; i < READERS; i++) {
			OK(write(pairs[i][1], "x", 1));
			usleep(1000);
		}
	_exit(0);
}

int main(void)
{
	pthread_t readers[READERS], callers[CALLS * EACH];
	int status;

	unix_pair(tell);
	for (int i = 0; i < READERS; i++)
		unix_pair(pairs[i]);
	sem = OK(semget(IPC_PRIVATE, 1, 0600));
	epfd = OK(epoll_create1(0));
	pid_t pid = OK(fork());

	if (pid == 0)
		feeds();
	for (int i = 0; i < READERS; i++)
		readers[i] = start(reads, (void *)(intptr_t)i);
	usleep(5000);
	OK(write(tell[0], "x", 1));
	for (int i = 0; i < CALLS * EACH; i++)
		callers[i] = start(calls_on, (void *)(intptr_t)i);
	for (int i = 0; i < CALLS * EACH; i++)
		finish(callers[i]);
	for (int i = 0; i < READERS; i++)
		finish(readers[i]);
	OK(semctl(sem, 0, IPC_RMID));
	for (int i = 0; i < CALLS; i++)
		say("%s: %ld, %ld", calls[i].name, worst[i][0], worst[i][1]);
	OK(waitpid(pid, &status, 0));
	say("feeder: %s", describe_status(status));
	return 0;
}
