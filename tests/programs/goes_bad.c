/*
 * Memory and descriptors that become bad while a thread waits in a call that uses them,
 * and time-outs in memory that cannot be written: EFAULT and EBADF as the kernel has
 * them, never a fault inside the call.
 */
#include "prog.h"

#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/uio.h>

static int fds[2], pair[2];
static char *page;
static volatile sig_atomic_t handled;

/* A page that a call uses, and that goes while it waits. */
static char *new_page(void)
{
	page = (char *)mmap(
		NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(page != MAP_FAILED);
	memset(page, 0, 4096);
	return page;
}

static void *spoils(void *arg)
{
	usleep(30000); /* a call that had not begun would say the same */
	OK(munmap(page, 4096));
	OK(write(fds[1], "x", 1));
	OK(write(pair[1], "x", 1));
	return arg;
}

static void outcome(const char *name, long r, pthread_t t)
{
	char c;

	say("%s: %s", name, RESULT(r));
	finish(t);
	/* Who took it, and who did not? */
	struct pollfd left[2] = {{fds[0], POLLIN, 0}, {pair[0], POLLIN, 0}};
	OK(poll(left, 2, 0));
	if (left[0].revents)
		OK(read(fds[0], &c, 1));
	if (left[1].revents)
		OK(recv(pair[0], &c, 1, 0));
	say("left: %d %d", left[0].revents, left[1].revents);
}

#define SPOILED(name, prepare, call)                                                     \
	do {                                                                             \
		prepare;                                                                 \
		pthread_t t_ = start(spoils, NULL);                                      \
		long r_ = (call);                                                        \
		outcome(name, r_, t_);                                                   \
	} while (0)

static void *waits(void *arg)
{
	struct msghdr *m;
	struct iovec *v;
	struct pollfd *p;
	fd_set *set;
	struct epoll_event ev = {.events = EPOLLIN};
	int ep = OK(epoll_create1(0));

	SPOILED("read", new_page(), read(fds[0], page, 1));
	SPOILED("recv", new_page(), recv(pair[0], page, 1, 0));
	SPOILED("recvfrom", new_page(), recvfrom(pair[0], page, 1, 0, NULL, NULL));
	SPOILED("readv, data", (new_page(), v = (struct iovec[]){{page, 1}}),
		readv(fds[0], v, 1));
	SPOILED("recvmsg, data",
		(new_page(), m = &(struct msghdr){.msg_iov = (struct iovec[]){{page, 1}},
				     .msg_iovlen = 1}),
		recvmsg(pair[0], m, 0));
	SPOILED("poll",
		(p = (struct pollfd *)(void *)new_page(), p->fd = fds[0],
			p->events = POLLIN),
		poll(p, 1, -1));
	SPOILED("poll of two",
		(p = (struct pollfd *)(void *)new_page(), p[0].fd = fds[0],
			p[1].fd = pair[0], p[0].events = p[1].events = POLLIN),
		poll(p, 2, -1));
	SPOILED("select", (set = (fd_set *)(void *)new_page(), FD_SET(fds[0], set)),
		select(fds[0] + 1, set, NULL, NULL, NULL));
	OK(epoll_ctl(ep, EPOLL_CTL_ADD, fds[0], &ev));
	SPOILED("epoll_wait", new_page(),
		epoll_wait(ep, (struct epoll_event *)(void *)page, 1, -1));
	OK(close(ep));
	return arg;
}

/* A reader that begins when the page is gone, and takes all there is. */
static size_t taken;

static void *spoils_and_takes(void *arg)
{
	int fd = *(int *)arg;
	char buf[4096];
	ssize_t n;

	usleep(30000);
	OK(munmap(page, 4096));
	while ((n = OK(read(fd, buf, sizeof buf))) > 0)
		taken += (size_t)n;
	return NULL;
}

/* The vector, or the message, goes; the data stays. The kernel has read it already. */
static void *sends(void *arg)
{
	static char much[1 << 20];
	enum { PARTS = 20 };

	for (int way = 0; way < 6; way++) {
		int ends[2], parts = way % 2 ? PARTS : 2;
		struct msghdr m, *msg = &m;
		struct iovec *v = (struct iovec *)(void *)new_page();
		ssize_t n;

		if (way < 2)
			OK(pipe(ends));
		else
			unix_pair(ends);
		for (int i = 0; i < parts; i++) {
			v[i].iov_base = much + i * 1000;
			v[i].iov_len = i < parts - 1 ? 1000 : sizeof much - PARTS * 1000;
		}
		memset(&m, 0, sizeof m);
		m.msg_iov = v;
		m.msg_iovlen = (size_t)parts;
		msg = (struct msghdr *)(void *)(page + 2048);
		*msg = m;
		taken = 0;
		/* pipe: [0] reads; socket pair: either does */
		pthread_t t = start(spoils_and_takes, &ends[0]);
		n = way < 4 ? writev(ends[1], v, parts) : sendmsg(ends[1], msg, 0);
		OK(close(ends[1]));
		finish(t);
		say("%s of %d: all of it %d, as much as was taken %d",
			way < 4 ? "writev" : "sendmsg", parts,
			n == (ssize_t)sizeof much - PARTS * 1000 + (parts - 1) * 1000,
			n == (ssize_t)taken);
		OK(close(ends[0]));
	}
	return arg;
}

static void handler(int sig)
{
	(void)sig;
	handled = 1;
}

static void *signals_main(void *arg)
{
	settle();
	while (!handled) {
		ZERO(pthread_kill(*(pthread_t *)arg, SIGUSR1));
		usleep(10000);
	}
	return NULL;
}

/* The remaining time goes to memory that cannot be written, or to none. */
static void *times(void *arg)
{
	struct sigaction sa = {.sa_handler = handler};
	struct timespec *constant;
	struct timespec ts = {100, 0};
	pthread_t self = pthread_self(), t;

	OK(sigaction(SIGUSR1, &sa, NULL));
	constant = (struct timespec *)(void *)new_page();
	constant->tv_nsec = 2000000;
	OK(mprotect(page, 4096, PROT_READ));
	struct pollfd p = {fds[0], POLLIN, 0};
	say("ppoll, read-only time: %ld", syscall(SYS_ppoll, &p, 1, constant, NULL, 8));
	say("pselect6, read-only time: %ld",
		syscall(SYS_pselect6, 0, NULL, NULL, NULL, constant, NULL));
	say("select, read-only time: %ld",
		syscall(SYS_select, 0, NULL, NULL, NULL, constant));
	t = start(signals_main, &self);
	say("nanosleep, bad rest: %s",
		RESULT(syscall(SYS_nanosleep, &ts, (struct timespec *)bad_pointer)));
	finish(t);
	handled = 0;
	t = start(signals_main, &self);
	say("nanosleep, read-only rest: %s",
		RESULT(syscall(SYS_nanosleep, &ts, constant)));
	finish(t);
	OK(munmap(page, 4096));
	return arg;
}

int main(void)
{
	OK(pipe(fds));
	unix_pair(pair);
	on_thread(waits, NULL);
	on_thread(times, NULL);
	on_thread(sends, NULL);
	return 0;
}
