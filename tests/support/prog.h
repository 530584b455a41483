/*
 * prog.h - what every test program needs: fail loudly, print whole lines, start
 * threads, make connected sockets. Plain POSIX, nothing of weft. C and C++.
 *
 * A transcript must not depend on scheduling: threads put their findings where
 * main() prints them in order, or print one at a time.
 */
#ifndef TESTS_SUPPORT_PROG_H
#define TESTS_SUPPORT_PROG_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PROG_UNUSED __attribute__((unused))

/* One line in one write: whole also when threads, forks and stdio mix. */
__attribute__((format(printf, 2, 3))) PROG_UNUSED static void say_to(
	int fd, const char *fmt, ...)
{
	char buf[1024];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(buf, sizeof buf - 1, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof buf - 2)
		n = (int)sizeof buf - 2;
	buf[n] = '\n';
	if (write(fd, buf, (size_t)n + 1) != n + 1)
		_exit(71);
}

#define say(...) say_to(1, __VA_ARGS__)

PROG_UNUSED static void prog_die(const char *file, int line, const char *what, int err)
{
	const char *slash = strrchr(file, '/');

	say_to(2, "%s:%d: %s: %s", slash ? slash + 1 : file, line, what, strerror(err));
	_exit(70);
}

/* Must hold. */
#define CHECK(cond)                                                                      \
	do {                                                                             \
		if (!(cond))                                                             \
			prog_die(__FILE__, __LINE__, "not so: " #cond, errno);           \
	} while (0)

/* A call that says -1 and errno when it fails; its value. */
#define OK(expr)                                                                         \
	({                                                                               \
		__typeof__(expr) ok_ = (expr);                                           \
		if (ok_ == (__typeof__(expr))-1)                                         \
			prog_die(__FILE__, __LINE__, #expr, errno);                      \
		ok_;                                                                     \
	})

/* A pthread call, which returns the error. */
#define ZERO(expr)                                                                       \
	do {                                                                             \
		int zero_ = (expr);                                                      \
		if (zero_)                                                               \
			prog_die(__FILE__, __LINE__, #expr, zero_);                      \
	} while (0)

/* Name of errno (or of a pthread error), for transcripts. */
PROG_UNUSED static const char *err_name(int err)
{
	return err ? strerrorname_np(err) : "0";
}

/* Text that outlives the call by a few more: enough for one say(). */
__attribute__((format(printf, 1, 2))) PROG_UNUSED static const char *brief(
	const char *fmt, ...)
{
	static __thread char bufs[8][64];
	static __thread unsigned next;
	char *buf = bufs[next++ % 8];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(buf, sizeof bufs[0], fmt, ap);
	va_end(ap);
	return buf;
}

/* What a call returned: "3", or "-1 EAGAIN". C leaves open whether an argument
 * err_name(errno) beside the call is evaluated before it. */
#define RESULT(expr)                                                                     \
	({                                                                               \
		long result_ = (long)(expr);                                             \
		result_ == -1 ? brief("-1 %s", err_name(errno)) : brief("%ld", result_); \
	})

PROG_UNUSED static pthread_t start(void *(*fn)(void *), void *arg)
{
	pthread_t t;

	ZERO(pthread_create(&t, NULL, fn, arg));
	return t;
}

PROG_UNUSED static pthread_t start_small(void *(*fn)(void *), void *arg, size_t stack)
{
	pthread_attr_t attr;
	pthread_t t;

	ZERO(pthread_attr_init(&attr));
	ZERO(pthread_attr_setstacksize(&attr, stack));
	ZERO(pthread_create(&t, &attr, fn, arg));
	ZERO(pthread_attr_destroy(&attr));
	return t;
}

PROG_UNUSED static void *finish(pthread_t t)
{
	void *value;

	ZERO(pthread_join(t, &value));
	return value;
}

/* Runs one function on a thread of its own and waits for it. */
PROG_UNUSED static void *on_thread(void *(*fn)(void *), void *arg)
{
	return finish(start(fn, arg));
}

PROG_UNUSED static uint64_t now_ns(clockid_t clock)
{
	struct timespec ts;

	OK(clock_gettime(clock, &ts));
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

PROG_UNUSED static struct timespec to_timespec(uint64_t ns)
{
	struct timespec ts;

	ts.tv_sec = (time_t)(ns / 1000000000);
	ts.tv_nsec = (long)(ns % 1000000000);
	return ts;
}

#define MS UINT64_C(1000000)

/* Another one each time; the same ones again with WEFT_SEED, which the harness prints. */
PROG_UNUSED static uint64_t random_number(void)
{
	static uint64_t random;

	if (!random) {
		const char *seed = getenv("WEFT_SEED");

		random = seed ? strtoull(seed, NULL, 10) : now_ns(CLOCK_REALTIME);
	}
	random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return random >> 33;
}

/* Zeroes that stay the same memory in fork children. */
PROG_UNUSED static void *shared_memory(size_t size)
{
	return OK(mmap(
		NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
}

/* Points nowhere, and the compiler cannot know it. */
PROG_UNUSED static void *volatile bad_pointer = (void *)8;

/*
 * Gives others the time to block in the kernel. Whether another thread already
 * waits inside a call cannot be observed portably; where a test needs it (close
 * of a busy descriptor), this is the one place that waits for time instead.
 */
PROG_UNUSED static void settle(void)
{
	struct timespec ts = {0, 150 * 1000000};

	while (nanosleep(&ts, &ts) < 0)
		;
}

/* ---- sockets ----------------------------------------------------------- */

/* Listens on a loopback port the kernel chose. */
PROG_UNUSED static int tcp_listen(int backlog, struct sockaddr_in *ret_addr)
{
	socklen_t len = sizeof *ret_addr;
	int fd = OK(socket(AF_INET, SOCK_STREAM, 0));

	memset(ret_addr, 0, sizeof *ret_addr);
	ret_addr->sin_family = AF_INET;
	ret_addr->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	OK(bind(fd, (struct sockaddr *)ret_addr, sizeof *ret_addr));
	OK(listen(fd, backlog));
	OK(getsockname(fd, (struct sockaddr *)ret_addr, &len));
	return fd;
}

PROG_UNUSED static int tcp_connect(const struct sockaddr_in *addr)
{
	int fd = OK(socket(AF_INET, SOCK_STREAM, 0));

	OK(connect(fd, (const struct sockaddr *)addr, sizeof *addr));
	return fd;
}

PROG_UNUSED static void tcp_pair(int fds[2])
{
	struct sockaddr_in addr;
	int l = tcp_listen(1, &addr);

	fds[0] = tcp_connect(&addr);
	fds[1] = OK(accept(l, NULL, NULL));
	OK(close(l));
}

PROG_UNUSED static void unix_pair(int fds[2])
{
	OK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
}

/* Exactly len bytes, or die. */
PROG_UNUSED static void send_all(int fd, const void *buf, size_t len)
{
	CHECK(send(fd, buf, len, MSG_NOSIGNAL) == (ssize_t)len);
}

PROG_UNUSED static void recv_all(int fd, void *buf, size_t len)
{
	CHECK(recv(fd, buf, len, MSG_WAITALL) == (ssize_t)len);
}

/* FNV-1a, to compare streams that are too long to print. */
PROG_UNUSED static uint64_t checksum(uint64_t sum, const void *data, size_t len)
{
	const unsigned char *p = (const unsigned char *)data;

	for (size_t i = 0; i < len; i++)
		sum = (sum ^ p[i]) * UINT64_C(0x100000001b3);
	return sum;
}

#define CHECKSUM_INIT UINT64_C(0xcbf29ce484222325)

/* Byte i of the stream that every bulk test sends. */
PROG_UNUSED static unsigned char pattern(uint64_t i)
{
	return (unsigned char)(i ^ (i >> 8) * 31 ^ (i >> 16) * 7 ^ (i >> 24));
}

PROG_UNUSED static const char *describe_status(int status)
{
	if (WIFSIGNALED(status))
		return brief("SIG%s", sigabbrev_np(WTERMSIG(status)));
	return brief("exit %d", WEXITSTATUS(status));
}

#endif
