/*
 * io.c - the front door for transfers: a first attempt without libc, and libc's
 * function (whose site parks, with libc's own cancellation protocol) when that
 * would block. Wrappers hold no policy: ask, try, convert.
 */
#include <fcntl.h>
#include <stdarg.h>

#include "../runtime/io.h"
#include "enter.h"
#include "real.h"

void weft_leave_slow(struct fiber *f)
{
	do {
		weft_fiber_in_weft(f, true);
		weft_signals_deliver(NULL);
		weft_fiber_in_weft(f, false);
	} while (weft_signals_leave_due(f));
}

/*
 * Ends a first attempt: true when `r` is the call's result. Otherwise libc's
 * function follows, and its site learns what is known already.
 */
static inline bool finished(struct fiber *f, long r, enum weft_turn at, int fd)
{
	bool done = r > WEFT_WOULD_BLOCK;

	if (done)
		weft_count_first_try(at, fd);
	else if (r == WEFT_WOULD_BLOCK)
		weft_fiber_set_tried(f, WEFT_TRIED_BLOCKS);
	else if (r == WEFT_LIKELY_BLOCKS)
		weft_fiber_set_tried(f, WEFT_TRIED_LIKELY);
	/* The C ABI lets a call clobber vector registers: none to keep. */
	weft_leave(f);
	return done;
}

#define TRY(attempt, kind, fd)                                                           \
	do {                                                                             \
		struct fiber *f = weft_enter();                                          \
                                                                                         \
		if (f) {                                                                 \
			long r = attempt;                                                \
                                                                                         \
			if (finished(f, r, WEFT_TURN_##kind, fd))                        \
				return weft_errno(r);                                    \
		}                                                                        \
	} while (0)

WEFT_EXPORT ssize_t read(int fd, void *buf, size_t len)
{
	TRY(weft_io_try_read(fd, buf, len), REQUEST, fd);
	return WEFT_REAL(read)(fd, buf, len);
}

WEFT_EXPORT ssize_t write(int fd, const void *buf, size_t len)
{
	TRY(weft_io_try_write(fd, buf, len), ANSWER, fd);
	return WEFT_REAL(write)(fd, buf, len);
}

WEFT_EXPORT ssize_t recv(int fd, void *buf, size_t len, int flags)
{
	TRY(weft_io_try_recv(fd, buf, len, flags), REQUEST, fd);
	return WEFT_REAL(recv)(fd, buf, len, flags);
}

WEFT_EXPORT ssize_t send(int fd, const void *buf, size_t len, int flags)
{
	TRY(weft_io_try_send(fd, buf, len, flags), ANSWER, fd);
	return WEFT_REAL(send)(fd, buf, len, flags);
}

WEFT_EXPORT ssize_t recvfrom(int fd, void *restrict buf, size_t len, int flags,
	__SOCKADDR_ARG addr, socklen_t *restrict addrlen)
{
	if (!addr.__sockaddr__)
		TRY(weft_io_try_recv(fd, buf, len, flags), REQUEST, fd);
	return WEFT_REAL(recvfrom)(fd, buf, len, flags, addr, addrlen);
}

WEFT_EXPORT ssize_t sendto(int fd, const void *buf, size_t len, int flags,
	__CONST_SOCKADDR_ARG addr, socklen_t addrlen)
{
	if (!addr.__sockaddr__)
		TRY(weft_io_try_send(fd, buf, len, flags), ANSWER, fd);
	return WEFT_REAL(sendto)(fd, buf, len, flags, addr, addrlen);
}

WEFT_EXPORT int poll(struct pollfd *fds, nfds_t n, int timeout)
{
	TRY(weft_io_try_poll(fds, (unsigned)n, timeout), REQUEST, -1);
	return WEFT_REAL(poll)(fds, n, timeout);
}

/* ---- calls whose first attempt is as well made at libc's site -------------- */

WEFT_EXPORT ssize_t readv(int fd, const struct iovec *iov, int n)
{
	return WEFT_REAL(readv)(fd, iov, n);
}

WEFT_EXPORT ssize_t writev(int fd, const struct iovec *iov, int n)
{
	return WEFT_REAL(writev)(fd, iov, n);
}

WEFT_EXPORT ssize_t recvmsg(int fd, struct msghdr *msg, int flags)
{
	return WEFT_REAL(recvmsg)(fd, msg, flags);
}

WEFT_EXPORT ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
	return WEFT_REAL(sendmsg)(fd, msg, flags);
}

WEFT_EXPORT int accept(int fd, __SOCKADDR_ARG addr, socklen_t *restrict addrlen)
{
	return WEFT_REAL(accept)(fd, addr, addrlen);
}

WEFT_EXPORT int accept4(
	int fd, __SOCKADDR_ARG addr, socklen_t *restrict addrlen, int flags)
{
	return WEFT_REAL(accept4)(fd, addr, addrlen, flags);
}

WEFT_EXPORT int connect(int fd, __CONST_SOCKADDR_ARG addr, socklen_t len)
{
	return WEFT_REAL(connect)(fd, addr, len);
}

WEFT_EXPORT int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout,
	const sigset_t *mask)
{
	return WEFT_REAL(ppoll)(fds, n, timeout, mask);
}

/* ---- fortified twins ------------------------------------------------------ */

/* A check that fails is libc's to report: it says which call, and aborts. */
WEFT_EXPORT ssize_t __read_chk(int fd, void *buf, size_t len, size_t room)
{
	if (len <= room)
		return read(fd, buf, len);
	return WEFT_REAL(__read_chk)(fd, buf, len, room);
}

WEFT_EXPORT ssize_t __recv_chk(int fd, void *buf, size_t len, size_t room, int flags)
{
	if (len <= room)
		return recv(fd, buf, len, flags);
	return WEFT_REAL(__recv_chk)(fd, buf, len, room, flags);
}

WEFT_EXPORT ssize_t __recvfrom_chk(int fd, void *buf, size_t len, size_t room, int flags,
	struct sockaddr *addr, socklen_t *addrlen)
{
	if (len <= room)
		return recvfrom(fd, buf, len, flags, addr, addrlen);
	return WEFT_REAL(__recvfrom_chk)(fd, buf, len, room, flags, addr, addrlen);
}

WEFT_EXPORT int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t room)
{
	if (n <= room / sizeof *fds)
		return poll(fds, n, timeout);
	return WEFT_REAL(__poll_chk)(fds, n, timeout, room);
}

WEFT_EXPORT int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout,
	const sigset_t *mask, size_t room)
{
	if (n <= room / sizeof *fds)
		return ppoll(fds, n, timeout, mask);
	return WEFT_REAL(__ppoll_chk)(fds, n, timeout, mask, room);
}

/* ---- weft's own descriptors ----------------------------------------------- */

/*
 * Closing is a cancellation point and has a site of its own, which protects weft's
 * descriptors for every caller inside libc as well: these only lead there.
 */
WEFT_EXPORT int close(int fd)
{
	return WEFT_REAL(close)(fd);
}

WEFT_EXPORT int dup2(int from, int to)
{
	return WEFT_REAL(dup2)(from, to);
}

WEFT_EXPORT int dup3(int from, int to, int flags)
{
	return WEFT_REAL(dup3)(from, to, flags);
}

WEFT_EXPORT void closefrom(int low)
{
	WEFT_REAL(closefrom)(low);
}

WEFT_EXPORT int close_range(unsigned first, unsigned last, int flags)
{
	return WEFT_REAL(close_range)(first, last, flags);
}
