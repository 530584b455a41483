/*
 * Threads with 16 KiB of stack make every kind of call that weft takes over; the lowest
 * bytes of the stack keep their pattern, so nothing of weft's stood there.
 */
#include "prog.h"

#include <sys/mman.h>
#include <sys/select.h>
#include <sys/uio.h>

#define STACK   16384
#define THREADS 8
#define CANARY  1024

static int listener;
static struct sockaddr_in address;

static void transfers(int a, int b)
{
	char x[16] = "x", y[16];
	struct iovec iov[2] = {{x, 1}, {x, 2}}, in[2] = {{y, 1}, {y + 1, 2}};
	struct msghdr out_msg = {.msg_iov = iov, .msg_iovlen = 2};
	struct msghdr in_msg = {.msg_iov = in, .msg_iovlen = 2};
	struct pollfd p = {b, POLLIN, 0};
	struct timespec ms = {0, 1000000};
	struct timeval tv = {0, 1000};
	fd_set set;

	CHECK(write(a, x, 1) == 1 && read(b, y, 16) == 1);
	CHECK(writev(a, iov, 2) == 3 && readv(b, in, 2) == 3);
	CHECK(send(a, x, 2, 0) == 2 && recv(b, y, 2, MSG_WAITALL) == 2);
	CHECK(sendto(a, x, 2, 0, NULL, 0) == 2 && recvfrom(b, y, 16, 0, NULL, NULL) == 2);
	CHECK(sendmsg(a, &out_msg, 0) == 3 && recvmsg(b, &in_msg, 0) == 3);
	CHECK(recv(b, y, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
	CHECK(poll(&p, 1, 1) == 0 && ppoll(&p, 1, &ms, NULL) == 0);
	FD_ZERO(&set);
	FD_SET(b, &set);
	CHECK(select(b + 1, &set, NULL, NULL, &tv) == 0);
	FD_SET(b, &set);
	CHECK(pselect(b + 1, &set, NULL, NULL, &ms, NULL) == 0);
}

static void sleeps(void)
{
	struct timespec ms = {0, 1000000};

	CHECK(usleep(1000) == 0 && nanosleep(&ms, NULL) == 0);
	CHECK(clock_nanosleep(CLOCK_MONOTONIC, 0, &ms, NULL) == 0);
	CHECK(sleep(0) == 0 && sched_yield() == 0);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;

static void *nothing(void *arg)
{
	return arg;
}

static void locks(void)
{
	struct timespec at = to_timespec(now_ns(CLOCK_REALTIME) + MS);

	ZERO(pthread_mutex_lock(&lock));
	pthread_cond_timedwait(&cond, &lock, &at);
	sched_yield();
	ZERO(pthread_mutex_unlock(&lock));
	ZERO(pthread_rwlock_wrlock(&rwlock));
	usleep(100);
	ZERO(pthread_rwlock_unlock(&rwlock));
	finish(start_small(nothing, NULL, STACK));
}

static void connections(void)
{
	int c = tcp_connect(&address), s = OK(accept(listener, NULL, NULL)), d;
	char x;

	/* Several threads accept here: the two ends need not be one connection. */
	OK(shutdown(c, SHUT_WR));
	CHECK(read(s, &x, 1) == 0);
	d = OK(dup(s));
	OK(dup2(c, d));
	OK(close(d));
	OK(close(c));
	OK(close(s));
}

static void *run(void *arg)
{
	int fds[2];

	(void)arg;
	for (int i = 0; i < 3; i++) {
		unix_pair(fds);
		transfers(fds[0], fds[1]);
		OK(close(fds[0]));
		OK(close(fds[1]));
		sleeps();
		locks();
		connections();
	}
	return NULL;
}

int main(void)
{
	unsigned char *stacks[THREADS];
	pthread_t threads[THREADS];
	pthread_attr_t attr;
	int touched = 0;

	listener = tcp_listen(THREADS, &address);
	ZERO(pthread_attr_init(&attr));
	for (int i = 0; i < THREADS; i++) {
		stacks[i] = mmap(NULL, STACK, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(stacks[i] != MAP_FAILED);
		memset(stacks[i], 0xa5, STACK);
		ZERO(pthread_attr_setstack(&attr, stacks[i], STACK));
		ZERO(pthread_create(&threads[i], &attr, run, NULL));
	}
	for (int i = 0; i < THREADS; i++)
		finish(threads[i]);
	/*
	 * At its end a thread gives back the pages below its frame (it may do so: then
	 * they read as zero). Anything else there was written by somebody.
	 */
	for (int i = 0; i < THREADS; i++)
		for (int k = 0; k < CANARY; k++)
			touched += stacks[i][k] != 0xa5 && stacks[i][k] != 0;
	say("%d threads of %d bytes, %d canary bytes touched", THREADS, STACK, touched);
	return 0;
}
