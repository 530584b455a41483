/*
 * io.c - see io.h. Here are the two halves: waiting for operations in the ring,
 * and the loops that turn non-blocking transfers into blocking calls.
 *
 * Operations in the ring: a fiber with some in flight belongs to that ring's
 * carrier (io_carrier) until the last completion is reaped; only that carrier
 * resumes it. A time-out or a signal therefore never claims such a fiber, it
 * cancels the operations (weft_io_abort) and the completions do the rest. When
 * the operation won the race, its result counts and the time-out is forgotten.
 */
#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>

#include "sched_impl.h"
#include "signals.h"

/* ---- operations in the ring ----------------------------------------------- */

enum { INDEX_SHIFT = 48, POLL_MANY = 64 };

static uint64_t pack(struct fiber *f, unsigned index)
{
	return (uint64_t)(uintptr_t)f | (uint64_t)index << INDEX_SHIFT;
}

void weft_io_abort(struct carrier *c, struct fiber *f, enum weft_wake how)
{
	if (f->io_cancelled)
		return;
	f->io_cancelled = 1;
	f->io_how = (uint8_t)how;
	for (unsigned i = 0; i < POLL_MANY; i++)
		if (f->io_bits >> i & 1)
			weft_ring_cancel(c->ring, pack(f, i));
}

void weft_io_complete(struct carrier *c, uint64_t user_data, int res)
{
	struct fiber *f = (struct fiber *)(uintptr_t)(user_data & ((1ull << INDEX_SHIFT) - 1));
	unsigned index = (unsigned)(user_data >> INDEX_SHIFT);
	enum weft_wake how = WEFT_WAKE_DONE;

	f->io_bits &= ~(1ull << index);
	if (--f->io_pending) {
		/* The first of several: the others must not outlive the call. */
		weft_io_abort(c, f, WEFT_WAKE_DONE);
		return;
	}
	f->io_res = res;
	if (f->io_cancelled && (res == -ECANCELED || res == -EINTR))
		how = (enum weft_wake)f->io_how;
	store_seq_cst(&f->io_carrier, NULL);
	weft_park_finish(f, how);
	weft_unpark(f);
}

enum op_kind { OP_POLL, OP_POLL_MANY, OP_ACCEPT, OP_CONNECT, OP_FUTEX };

struct op {
	enum op_kind kind;
	int fd;
	unsigned events;
	struct pollfd *fds;
	unsigned count;
	void *addr, *addrlen;
	int flags;
	uint64_t deadline;
};

static bool op_commit(struct fiber *f, void *arg)
{
	struct op *op = arg;
	struct carrier *c = weft_carrier_self();

	f->io_cancelled = 0;
	f->io_bits = 1;
	f->io_pending = 1;
	switch (op->kind) {
	case OP_POLL:
		weft_ring_poll(c->ring, op->fd, op->events, pack(f, 0));
		break;
	case OP_POLL_MANY:
		f->io_bits = 0;
		f->io_pending = 0;
		for (unsigned i = 0; i < op->count; i++) {
			if (op->fds[i].fd < 0)
				continue;
			weft_ring_poll(c->ring, op->fds[i].fd,
				(unsigned short)op->fds[i].events, pack(f, i));
			f->io_bits |= 1ull << i;
			f->io_pending++;
		}
		break;
	case OP_ACCEPT:
		weft_ring_accept(
			c->ring, op->fd, op->addr, op->addrlen, op->flags, pack(f, 0));
		break;
	case OP_CONNECT:
		weft_ring_connect(c->ring, op->fd, op->addr, op->count, pack(f, 0));
		break;
	case OP_FUTEX:
		weft_ring_futex_wait(
			c->ring, op->addr, op->count, op->events, pack(f, 0));
		break;
	}
	weft_timer_arm(f, op->deadline);
	/* [attention-open] as in weft_park_open, with the cancel as the claim. */
	store_seq_cst(&f->io_carrier, c);
	if (unlikely(load_seq_cst(&f->attention)))
		weft_io_abort(c, f, WEFT_WAKE_INTERRUPT);
	return true;
}

/* Parks for op. Its result, -ETIMEDOUT or -EINTR. */
static long op_wait(struct op *op, enum weft_park_reason reason)
{
	struct fiber *f = weft_fiber_self();
	enum weft_wake how;

	weft_count(weft_carrier_self(), IO_PARKS);
	f->interruptible = 1;
	how = weft_park(reason, op_commit, op);
	f->interruptible = 0;
	weft_timer_disarm(f);
	switch (how) {
	case WEFT_WAKE_TIMEOUT:
		return -ETIMEDOUT;
	case WEFT_WAKE_INTERRUPT:
		return -EINTR;
	default:
		return f->io_res;
	}
}

/* Readiness of one descriptor: revents (> 0), -ETIMEDOUT, -EINTR, -EBADF. */
static long wait_ready(
	int fd, unsigned events, uint64_t deadline, enum weft_park_reason reason)
{
	struct op op = {.kind = OP_POLL, .fd = fd, .events = events, .deadline = deadline};

	return op_wait(&op, reason);
}

long weft_io_futex_shared(
	uint32_t *word, uint32_t val, uint32_t bitset, uint64_t deadline_ns)
{
	struct op op = {.kind = OP_FUTEX,
		.addr = word,
		.count = val,
		.events = bitset,
		.deadline = deadline_ns};

	return op_wait(&op, WEFT_REASON_FUTEX);
}

/* ---- what the descriptor says --------------------------------------------- */

static int timeouts_possible; /* (a) */

void weft_io_expect_timeouts(void)
{
	store_relaxed(&timeouts_possible, 1);
}

void weft_io_scan_descriptors(void)
{
	int misses = 0;

	/* Low numbers are dense; a long gap ends the scan. */
	for (int fd = 0; misses < 64 && !timeouts_possible; fd++) {
		struct timeval tv[2] = {{0, 0}, {0, 0}};
		socklen_t len[2] = {sizeof tv[0], sizeof tv[1]};
		int low = 1;
		socklen_t low_len = sizeof low;
		long r = weft_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_RCVTIMEO,
			(long)&tv[0], (long)&len[0]);

		if (r == -EBADF) {
			misses++;
			continue;
		}
		misses = 0;
		if (r)
			continue;
		weft_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, (long)&tv[1],
			(long)&len[1]);
		weft_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_RCVLOWAT, (long)&low,
			(long)&low_len);
		if (tv[0].tv_sec || tv[0].tv_usec || tv[1].tv_sec || tv[1].tv_usec || low > 1)
			timeouts_possible = 1;
	}
}

/* The moment at which a blocking call on fd gives up by itself. */
static uint64_t socket_deadline(int fd, int option)
{
	struct timeval tv = {0, 0};
	socklen_t len = sizeof tv;

	if (likely(!load_relaxed(&timeouts_possible)))
		return WEFT_NO_DEADLINE;
	if (weft_sys5(SYS_getsockopt, fd, SOL_SOCKET, option, (long)&tv, (long)&len))
		return WEFT_NO_DEADLINE;
	if (!tv.tv_sec && !tv.tv_usec)
		return WEFT_NO_DEADLINE;
	return weft_now_ns() + (uint64_t)tv.tv_sec * 1000000000u + (uint64_t)tv.tv_usec * 1000u;
}

static bool is_nonblocking(int fd)
{
	long flags = weft_sys3(SYS_fcntl, fd, F_GETFL, 0);

	return weft_sys_failed(flags) || flags & O_NONBLOCK;
}

/* For how much a blocking receive waits: SO_RCVLOWAT, or 1. */
static size_t low_water(int fd)
{
	int low = 1;
	socklen_t len = sizeof low;

	if (unlikely(load_relaxed(&timeouts_possible)))
		weft_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_RCVLOWAT, (long)&low, (long)&len);
	return low > 1 ? (size_t)low : 1;
}

/*
 * A descriptor's kind, remembered as a hint only: it says which attempt to make
 * first, and every attempt finds out when it was wrong (the number was reused).
 */
enum kind { KIND_UNKNOWN, KIND_SOCKET, KIND_PIPE, KIND_FILE, KIND_OTHER };
enum { HINTS = 65536 };
static uint8_t hints[HINTS];

static enum kind hint_of(int fd)
{
	return (unsigned)fd < HINTS ? (enum kind)load_relaxed(&hints[fd]) : KIND_UNKNOWN;
}

static void set_hint(int fd, enum kind k)
{
	if ((unsigned)fd < HINTS && load_relaxed(&hints[fd]) != k)
		store_relaxed(&hints[fd], (uint8_t)k);
}

static enum kind find_kind(int fd)
{
	struct stat st;
	enum kind k = KIND_OTHER;

	if (weft_sys2(SYS_fstat, fd, &st))
		return KIND_FILE; /* let the plain call say what is wrong */
	if (S_ISSOCK(st.st_mode))
		k = KIND_SOCKET;
	else if (S_ISFIFO(st.st_mode))
		k = KIND_PIPE;
	else if (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode) || S_ISBLK(st.st_mode))
		k = KIND_FILE;
	set_hint(fd, k);
	return k;
}

static bool forced_to_fail(void)
{
	return unlikely(weft_rt.config.stress_wouldblock);
}

/* ---- sockets: receiving --------------------------------------------------- */

static long raw_recvfrom(
	int fd, void *buf, size_t len, int flags, void *addr, void *addrlen)
{
	return weft_sys6(
		SYS_recvfrom, fd, (long)buf, (long)len, flags, (long)addr, (long)addrlen);
}

/* The calling fiber just saw EAGAIN on fd: its next poll there will block. */
static void note_again(int fd, unsigned events)
{
	struct fiber *f = weft_fiber_self();

	if (f) {
		f->again_fd = fd;
		f->again_events = (uint16_t)events;
	}
}

long weft_io_try_recv(int fd, void *buf, size_t len, int flags)
{
	long r = -EAGAIN;

	/* These wait for an amount, or for more than data: the full path knows. */
	if (unlikely(flags & (MSG_WAITALL | MSG_OOB | MSG_ERRQUEUE)) ||
		unlikely(load_relaxed(&timeouts_possible)))
		return WEFT_FULL_PATH;
	if (!forced_to_fail() || flags & MSG_DONTWAIT || is_nonblocking(fd))
		r = raw_recvfrom(fd, buf, len, flags | MSG_DONTWAIT, NULL, NULL);
	if (r != -EAGAIN) {
		if (likely(r >= 0))
			set_hint(fd, KIND_SOCKET);
		return r;
	}
	if (flags & MSG_DONTWAIT || is_nonblocking(fd)) {
		note_again(fd, POLLIN);
		return r;
	}
	return WEFT_WOULD_BLOCK;
}

struct recv_call {
	int fd, flags;
	void *buf;
	size_t len;
	void *addr, *addrlen;
	struct msghdr *msg;
};

static long recv_once(const struct recv_call *c, int extra)
{
	if (c->msg)
		return weft_sys3(SYS_recvmsg, c->fd, (long)c->msg, c->flags | extra);
	return raw_recvfrom(c->fd, c->buf, c->len, c->flags | extra, c->addr, c->addrlen);
}

static long recv_plain(void *arg)
{
	return recv_once(arg, 0);
}

/*
 * Receives as a blocking socket does. MSG_WAITALL is gathered here; peeking for
 * an amount cannot be (nothing is consumed, so readiness never goes away): that
 * one call is made by the kernel on a helper thread.
 */
static long recv_loop(struct recv_call *c, bool tried)
{
	bool all = (c->flags & MSG_WAITALL) && !(c->flags & (MSG_DONTWAIT | MSG_ERRQUEUE));
	size_t low, got = 0;
	unsigned events = c->flags & MSG_OOB ? POLLPRI : POLLIN;
	uint64_t deadline;

	if (c->flags & (MSG_DONTWAIT | MSG_ERRQUEUE)) {
		long r = recv_once(c, 0);

		if (r == -EAGAIN)
			note_again(c->fd, events);
		return r;
	}
	low = low_water(c->fd);
	if (all || low > 1) {
		if (is_nonblocking(c->fd))
			return recv_once(c, 0);
		/* With ancillary data or peeking, the kernel alone can gather. */
		if (c->msg || c->flags & MSG_PEEK || low > 1)
			return weft_offload(recv_plain, c);
	}
	if (!tried && forced_to_fail())
		tried = !is_nonblocking(c->fd);
	for (int round = 0;; round++) {
		long r = -EAGAIN;

		if (!(tried && round == 0)) {
			r = recv_once(c, MSG_DONTWAIT);
			if (r > 0 && all) {
				got += (size_t)r;
				if ((size_t)r == c->len)
					return (long)got;
				c->buf = (char *)c->buf + r;
				c->len -= (size_t)r;
				r = -EAGAIN;
			}
		}
		if (r != -EAGAIN)
			return r < 0 && got ? (long)got : r + (r > 0 ? 0 : (long)got);
		if (round == 0 && !tried && is_nonblocking(c->fd)) {
			note_again(c->fd, events);
			return got ? (long)got : -EAGAIN;
		}
		deadline = socket_deadline(c->fd, SO_RCVTIMEO);
		r = wait_ready(c->fd, events, deadline, WEFT_REASON_READ);
		if (r == -ETIMEDOUT) {
			r = recv_once(c, MSG_DONTWAIT);
			if (r > 0)
				return (long)got + r;
			return got ? (long)got : r;
		}
		if (r < 0)
			return got ? (long)got : r;
	}
}

long weft_io_recv(int fd, void *buf, size_t len, int flags, void *addr, void *addrlen,
	bool tried)
{
	struct recv_call c = {fd, flags, buf, len, addr, addrlen, NULL};

	return recv_loop(&c, tried);
}

long weft_io_recvmsg(int fd, struct msghdr *msg, int flags)
{
	struct recv_call c = {.fd = fd, .flags = flags, .msg = msg};
	long r;

	if (unlikely((uintptr_t)msg < 4096))
		return weft_sys3(SYS_recvmsg, fd, (long)msg, flags);
	/* The kernel writes these back even when it then says EAGAIN. */
	socklen_t namelen = msg->msg_namelen;
	size_t controllen = msg->msg_controllen;

	r = recv_loop(&c, false);
	if (r < 0) {
		msg->msg_namelen = namelen;
		msg->msg_controllen = controllen;
	} else if (controllen && msg->msg_controllen) {
		/* Descriptors may have arrived, with time-outs of their own. */
		weft_io_expect_timeouts();
	}
	return r;
}

struct mmsg_call {
	int fd;
	struct mmsghdr *vec;
	unsigned n, flags;
	const struct timespec *t;
};

long weft_io_recvmmsg(
	int fd, struct mmsghdr *vec, unsigned n, unsigned flags, const struct timespec *t)
{
	unsigned done = 0;
	uint64_t deadline = WEFT_NO_DEADLINE;

	if (!n || flags & (MSG_DONTWAIT | MSG_ERRQUEUE))
		return weft_sys5(SYS_recvmmsg, fd, (long)vec, n, flags, (long)t);
	if (t) {
		if (t->tv_sec < 0 || (uint64_t)t->tv_nsec >= 1000000000u)
			return -EINVAL;
		deadline = weft_now_ns() + (uint64_t)t->tv_sec * 1000000000u +
			(uint64_t)t->tv_nsec;
	}
	/* recvmmsg(2): blocks for each message; the time-out is looked at between. */
	while (done < n) {
		int f = (int)(flags & ~(unsigned)MSG_WAITFORONE);
		long r;

		if (done && flags & MSG_WAITFORONE)
			f |= MSG_DONTWAIT;
		r = weft_io_recvmsg(fd, &vec[done].msg_hdr, f);
		if (r < 0)
			return done ? (long)done : r;
		vec[done++].msg_len = (unsigned)r;
		if (deadline != WEFT_NO_DEADLINE && weft_now_ns() >= deadline)
			break;
	}
	return done;
}

/* ---- sockets: sending ----------------------------------------------------- */

/* The kernel was told MSG_NOSIGNAL; the fiber gets its SIGPIPE here (D7). */
static long sent(long r, int flags)
{
	if (unlikely(r == -EPIPE) && !(flags & MSG_NOSIGNAL))
		weft_signals_raise_pipe();
	return r;
}

static long raw_sendto(
	int fd, const void *buf, size_t len, int flags, const void *addr, unsigned addrlen)
{
	return weft_sys6(SYS_sendto, fd, (long)buf, (long)len, flags | MSG_NOSIGNAL,
		(long)addr, addrlen);
}

long weft_io_try_send(int fd, const void *buf, size_t len, int flags)
{
	long r;

	r = -EAGAIN;
	if (!forced_to_fail() || flags & MSG_DONTWAIT || is_nonblocking(fd))
		r = raw_sendto(fd, buf, len, flags | MSG_DONTWAIT, NULL, 0);
	if (r == (long)len || flags & MSG_DONTWAIT) {
		set_hint(fd, KIND_SOCKET);
		if (r == -EAGAIN)
			note_again(fd, POLLOUT);
		return sent(r, flags);
	}
	if (r >= 0) {
		/* Partly sent: the rest is a blocking call's business. */
		struct iovec rest = {(char *)(uintptr_t)buf + r, len - (size_t)r};
		long more;

		if (is_nonblocking(fd))
			return r;
		more = weft_io_send(fd, rest.iov_base, rest.iov_len, flags, NULL, 0, false);
		return more > 0 ? r + more : r;
	}
	if (r != -EAGAIN)
		return sent(r, flags);
	if (!is_nonblocking(fd))
		return WEFT_WOULD_BLOCK;
	note_again(fd, POLLOUT);
	return r;
}

struct send_call {
	int fd, flags;
	const void *buf;
	size_t len;
	const void *addr;
	unsigned addrlen;
	const struct msghdr *msg;
};

static long send_plain(void *arg)
{
	struct send_call *c = arg;

	if (c->msg)
		return weft_sys3(
			SYS_sendmsg, c->fd, (long)c->msg, c->flags | MSG_NOSIGNAL);
	return raw_sendto(c->fd, c->buf, c->len, c->flags, c->addr, c->addrlen);
}

/*
 * POLLOUT may promise what a datagram socket cannot keep (a full peer that is not
 * the connected one): after a few empty promises the kernel waits instead, on a
 * helper thread.
 */
enum { EMPTY_PROMISES = 3 };

long weft_io_send(int fd, const void *buf, size_t len, int flags, const void *addr,
	unsigned addrlen, bool tried)
{
	struct send_call c = {fd, flags, buf, len, addr, addrlen, NULL};
	size_t done = 0;
	int empty = 0;

	if (flags & MSG_DONTWAIT) {
		long r = sent(raw_sendto(fd, buf, len, flags, addr, addrlen), flags);

		if (r == -EAGAIN)
			note_again(fd, POLLOUT);
		return r;
	}
	if (!tried && forced_to_fail())
		tried = !is_nonblocking(fd);
	for (int round = 0;; round++) {
		long r = -EAGAIN;

		if (!(tried && round == 0)) {
			r = raw_sendto(fd, c.buf, c.len, flags | MSG_DONTWAIT, addr, addrlen);
			if (r >= 0) {
				done += (size_t)r;
				if ((size_t)r >= c.len)
					return (long)done;
				c.buf = (const char *)c.buf + r;
				c.len -= (size_t)r;
				empty = 0;
				r = -EAGAIN;
			}
		}
		if (r != -EAGAIN)
			return done ? (long)done : sent(r, flags);
		if (round == 0 && !tried && is_nonblocking(fd)) {
			note_again(fd, POLLOUT);
			return done ? (long)done : -EAGAIN;
		}
		if (empty++ > EMPTY_PROMISES) {
			r = weft_offload(send_plain, &c);
			return r < 0 && done ? (long)done : sent(r, flags) + (r < 0 ? 0 : (long)done);
		}
		r = wait_ready(
			fd, POLLOUT, socket_deadline(fd, SO_SNDTIMEO), WEFT_REASON_WRITE);
		if (r == -ETIMEDOUT)
			return done ? (long)done : -EAGAIN;
		if (r < 0)
			return done ? (long)done : r;
	}
}

static size_t iov_total(const struct iovec *iov, size_t n)
{
	size_t total = 0;

	for (size_t i = 0; i < n; i++)
		total += iov[i].iov_len;
	return total;
}

/*
 * The part of iov[] behind the first `skip` bytes, at most `room` entries of it.
 * Returns how many entries `out` holds.
 */
static size_t iov_rest(
	const struct iovec *iov, size_t n, size_t skip, struct iovec *out, size_t room)
{
	size_t k = 0;

	for (size_t i = 0; i < n && k < room; i++) {
		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		out[k].iov_base = (char *)iov[i].iov_base + skip;
		out[k++].iov_len = iov[i].iov_len - skip;
		skip = 0;
	}
	return k;
}

enum { REST = 8 }; /* entries on a small stack; a longer rest takes more rounds */

long weft_io_sendmsg(int fd, const struct msghdr *msg, int flags)
{
	struct send_call c = {.fd = fd, .flags = flags, .msg = msg};
	size_t total, done = 0;
	int empty = 0;

	if (unlikely((uintptr_t)msg < 4096) || flags & MSG_DONTWAIT || msg->msg_iovlen > 1024)
		return sent(send_plain(&c), flags);
	total = iov_total(msg->msg_iov, msg->msg_iovlen);
	for (int round = 0;; round++) {
		long r = -EAGAIN;

		if (!(forced_to_fail() && round == 0)) {
			if (!done) {
				r = weft_sys3(SYS_sendmsg, fd, (long)msg,
					flags | MSG_DONTWAIT | MSG_NOSIGNAL);
			} else {
				/* The name and the control data went with the first part. */
				struct iovec rest[REST];
				struct msghdr m = {.msg_iov = rest};

				m.msg_iovlen = iov_rest(
					msg->msg_iov, msg->msg_iovlen, done, rest, REST);
				r = weft_sys3(SYS_sendmsg, fd, (long)&m,
					flags | MSG_DONTWAIT | MSG_NOSIGNAL);
			}
			if (r >= 0) {
				done += (size_t)r;
				if (done >= total)
					return (long)done;
				empty = 0;
				if (r > 0 && done)
					continue;
				r = -EAGAIN;
			}
		}
		if (r != -EAGAIN)
			return done ? (long)done : sent(r, flags);
		if ((round == 0 || done) && is_nonblocking(fd)) {
			if (forced_to_fail() && !done)
				return sent(send_plain(&c), flags);
			note_again(fd, POLLOUT);
			return done ? (long)done : -EAGAIN;
		}
		if (!done && empty++ > EMPTY_PROMISES)
			return sent(weft_offload(send_plain, &c), flags);
		r = wait_ready(
			fd, POLLOUT, socket_deadline(fd, SO_SNDTIMEO), WEFT_REASON_WRITE);
		if (r == -ETIMEDOUT)
			return done ? (long)done : -EAGAIN;
		if (r < 0)
			return done ? (long)done : r;
	}
}

long weft_io_sendmmsg(int fd, struct mmsghdr *vec, unsigned n, unsigned flags)
{
	unsigned done = 0;

	if (!n || flags & MSG_DONTWAIT)
		return weft_sys4(SYS_sendmmsg, fd, (long)vec, n, flags);
	if (n > 1024) /* UIO_MAXIOV, sendmmsg(2) */
		n = 1024;
	while (done < n) {
		long r = weft_io_sendmsg(fd, &vec[done].msg_hdr, (int)flags);

		if (r < 0)
			return done ? (long)done : r;
		vec[done++].msg_len = (unsigned)r;
	}
	return done;
}

/* ---- read and write on anything ------------------------------------------- */

static long raw_readv(int fd, const struct iovec *iov, int n)
{
	return n == 1 ? weft_sys3(SYS_read, fd, (long)iov->iov_base, (long)iov->iov_len)
		      : weft_sys3(SYS_readv, fd, (long)iov, n);
}

static long raw_writev(int fd, const struct iovec *iov, int n)
{
	return n == 1 ? weft_sys3(SYS_write, fd, (long)iov->iov_base, (long)iov->iov_len)
		      : weft_sys3(SYS_writev, fd, (long)iov, n);
}

enum { NOWAIT = 8 /* RWF_NOWAIT */ };

/* Pipes and most special files: the current position, without waiting. */
static long readv_nowait(int fd, const struct iovec *iov, int n)
{
	return weft_sys6(SYS_preadv2, fd, (long)iov, n, -1, -1, NOWAIT);
}

static long writev_nowait(int fd, const struct iovec *iov, int n)
{
	return weft_sys6(SYS_pwritev2, fd, (long)iov, n, -1, -1, NOWAIT);
}

static int poll_now(int fd, unsigned events)
{
	struct pollfd p = {fd, (short)events, 0};

	return weft_sys3(SYS_poll, (long)&p, 1, 0) > 0 ? p.revents : 0;
}

long weft_io_try_read(int fd, void *buf, size_t len)
{
	long r;

	if (hint_of(fd) != KIND_SOCKET || !len)
		return WEFT_FULL_PATH;
	r = weft_io_try_recv(fd, buf, len, 0);
	if (unlikely(r == -ENOTSOCK)) {
		set_hint(fd, KIND_UNKNOWN);
		return WEFT_FULL_PATH;
	}
	return r;
}

long weft_io_try_write(int fd, const void *buf, size_t len)
{
	long r;

	if (hint_of(fd) != KIND_SOCKET || !len)
		return WEFT_FULL_PATH;
	r = weft_io_try_send(fd, buf, len, 0);
	if (unlikely(r == -ENOTSOCK)) {
		set_hint(fd, KIND_UNKNOWN);
		return WEFT_FULL_PATH;
	}
	return r;
}

/*
 * read on something that is neither a socket nor a regular file. Files without
 * a non-blocking form (EOPNOTSUPP: ttys, timerfd on old kernels) are waited for
 * and then read plainly; when another reader is faster that blocks the carrier.
 */
static long read_special(int fd, const struct iovec *iov, int n, bool tried)
{
	for (int round = 0;; round++) {
		long r = -EAGAIN;

		if (!(round == 0 && (tried || forced_to_fail()))) {
			r = readv_nowait(fd, iov, n);
			if (r == -EOPNOTSUPP) {
				if (poll_now(fd, POLLIN) || is_nonblocking(fd))
					return raw_readv(fd, iov, n);
				r = -EAGAIN;
			}
		}
		if (r != -EAGAIN)
			return r;
		if (round == 0 && is_nonblocking(fd))
			return raw_readv(fd, iov, n);
		r = wait_ready(fd, POLLIN, WEFT_NO_DEADLINE, WEFT_REASON_READ);
		if (r < 0)
			return r == -EPERM ? raw_readv(fd, iov, n) : r;
	}
}

static long write_special(int fd, const struct iovec *iov, int n)
{
	size_t total = iov_total(iov, (size_t)n), done = 0;

	for (int round = 0;; round++) {
		struct iovec rest[REST];
		const struct iovec *v = iov;
		int k = n;
		long r = -EAGAIN;

		if (done) {
			k = (int)iov_rest(iov, (size_t)n, done, rest, REST);
			v = rest;
		}
		if (!(round == 0 && forced_to_fail())) {
			r = writev_nowait(fd, v, k);
			if (r == -EOPNOTSUPP) {
				if (poll_now(fd, POLLOUT) || is_nonblocking(fd))
					r = raw_writev(fd, v, k);
				else
					r = -EAGAIN;
				if (r >= 0 || r != -EAGAIN || is_nonblocking(fd))
					return r < 0 && done ? (long)done
							     : r + (r < 0 ? 0 : (long)done);
			}
		}
		if (r == -EPIPE) {
			/* The kernel has raised it on this carrier, where it is blocked. */
			weft_signals_drain_pipe();
			return done ? (long)done : sent(r, 0);
		}
		if (r >= 0) {
			done += (size_t)r;
			if (done >= total)
				return (long)done;
			r = -EAGAIN;
		}
		if (r != -EAGAIN)
			return done ? (long)done : r;
		if (is_nonblocking(fd)) {
			if (done)
				return (long)done;
			r = raw_writev(fd, iov, n);
			if (r == -EPIPE) {
				weft_signals_drain_pipe();
				return sent(r, 0);
			}
			return r;
		}
		r = wait_ready(fd, POLLOUT, WEFT_NO_DEADLINE, WEFT_REASON_WRITE);
		if (r < 0)
			return done ? (long)done : r == -EPERM ? raw_writev(fd, iov, n) : r;
	}
}

long weft_io_read(int fd, const struct iovec *iov, int n, bool tried)
{
	enum kind k = hint_of(fd);

	/* Reading nothing never waits, and must not eat a datagram. */
	if (n <= 0 || n > 1024 || (n == 1 && !iov->iov_len))
		return raw_readv(fd, iov, n);
	if (k == KIND_SOCKET || k == KIND_UNKNOWN) {
		struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov,
			.msg_iovlen = (size_t)n};
		long r = n == 1 ? weft_io_recv(fd, iov->iov_base, iov->iov_len, 0, NULL,
					   NULL, tried && k == KIND_SOCKET)
				: weft_io_recvmsg(fd, &m, 0);

		if (r != -ENOTSOCK) {
			set_hint(fd, KIND_SOCKET);
			return r;
		}
	}
	switch (find_kind(fd)) {
	case KIND_SOCKET:
		return weft_io_read(fd, iov, n, false);
	case KIND_FILE:
		return raw_readv(fd, iov, n);
	default:
		return read_special(fd, iov, n, false);
	}
}

long weft_io_write(int fd, const struct iovec *iov, int n, bool tried)
{
	enum kind k = hint_of(fd);

	if (n <= 0 || n > 1024 || (n == 1 && !iov->iov_len))
		return raw_writev(fd, iov, n);
	if (k == KIND_SOCKET || k == KIND_UNKNOWN) {
		struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov,
			.msg_iovlen = (size_t)n};
		long r = n == 1 ? weft_io_send(fd, iov->iov_base, iov->iov_len, 0, NULL, 0,
					   tried && k == KIND_SOCKET)
				: weft_io_sendmsg(fd, &m, 0);

		if (r != -ENOTSOCK) {
			set_hint(fd, KIND_SOCKET);
			return r;
		}
	}
	switch (find_kind(fd)) {
	case KIND_SOCKET:
		return weft_io_write(fd, iov, n, false);
	case KIND_FILE:
		return raw_writev(fd, iov, n);
	default:
		return write_special(fd, iov, n);
	}
}

/* ---- connections ---------------------------------------------------------- */

/*
 * There is no non-blocking accept on a blocking socket, and readiness can be
 * stolen by another process: the ring waits and accepts in one operation.
 */
long weft_io_accept(int fd, void *addr, void *addrlen, int flags)
{
	if (is_nonblocking(fd)) {
		long r = weft_sys4(SYS_accept4, fd, (long)addr, (long)addrlen, flags);

		if (r == -EAGAIN)
			note_again(fd, POLLIN);
		return r;
	}
	struct op op = {.kind = OP_ACCEPT,
		.fd = fd,
		.addr = addr,
		.addrlen = addrlen,
		.flags = flags,
		.deadline = socket_deadline(fd, SO_RCVTIMEO)};
	long r = op_wait(&op, WEFT_REASON_ACCEPT);

	return r == -ETIMEDOUT ? -EAGAIN : r;
}

long weft_io_connect(int fd, const void *addr, unsigned len)
{
	if (is_nonblocking(fd))
		return weft_sys3(SYS_connect, fd, (long)addr, len);
	struct op op = {.kind = OP_CONNECT,
		.fd = fd,
		.addr = (void *)(uintptr_t)addr,
		.count = len,
		.deadline = socket_deadline(fd, SO_SNDTIMEO)};
	long r = op_wait(&op, WEFT_REASON_CONNECT);

	/* A time-out leaves the connection attempt running, as natively. */
	return r == -ETIMEDOUT ? -EINPROGRESS : r;
}

/* ---- multiplexing --------------------------------------------------------- */

struct poll_call {
	struct pollfd *fds;
	unsigned n;
	uint64_t deadline;
};

static void time_left(uint64_t deadline, struct timespec *ret)
{
	uint64_t now = weft_now_ns(), left = deadline > now ? deadline - now : 0;

	ret->tv_sec = (time_t)(left / 1000000000u);
	ret->tv_nsec = (long)(left % 1000000000u);
}

static long poll_plain(void *arg)
{
	struct poll_call *p = arg;
	struct timespec ts;

	if (p->deadline != WEFT_NO_DEADLINE)
		time_left(p->deadline, &ts);
	return weft_sys5(SYS_ppoll, (long)p->fds, p->n,
		p->deadline == WEFT_NO_DEADLINE ? 0 : (long)&ts, 0, 8);
}

/* One descriptor: the completion's mask is poll's answer. */
static long poll_one(struct pollfd *p, uint64_t deadline)
{
	long r = wait_ready(p->fd, (unsigned short)p->events, deadline, WEFT_REASON_POLL);

	p->revents = 0;
	if (r == -ETIMEDOUT)
		return 0;
	if (r == -EINTR)
		return r;
	if (r == -EBADF)
		r = POLLNVAL;
	else if (r < 0)
		return weft_sys3(SYS_poll, (long)p, 1, 0); /* e.g. a file without poll */
	p->revents = (short)r;
	return 1;
}

/*
 * The program saw EAGAIN on this very descriptor a moment ago: polling it will
 * block, so the look that costs a system call is saved.
 */
static bool expected_to_block(const struct pollfd *fds, unsigned n)
{
	struct fiber *f = weft_fiber_self();
	int fd = f->again_fd;
	uint32_t readable;

	f->again_fd = -1;
	return n == 1 && fd >= 0 && !weft_load_user((const uint32_t *)fds, &readable) &&
		fds->fd == fd && !(fds->events & ~(int)f->again_events);
}

long weft_io_try_poll(struct pollfd *fds, unsigned n, int timeout_ms)
{
	long r;

	if (timeout_ms && (forced_to_fail() || expected_to_block(fds, n)))
		return WEFT_WOULD_BLOCK;
	r = n || !timeout_ms ? weft_sys3(SYS_poll, (long)fds, n, 0) : 0;
	return r || !timeout_ms ? r : WEFT_WOULD_BLOCK;
}

long weft_io_poll(struct pollfd *fds, unsigned n, uint64_t deadline, bool tried)
{
	if (deadline && (forced_to_fail() || expected_to_block(fds, n)))
		tried = true;
	for (;;) {
		long r = 0;

		if (tried) {
			tried = false;
		} else if (n) {
			r = weft_sys3(SYS_poll, (long)fds, n, 0);
			if (r || deadline == 0)
				return r;
		}
		if (n == 1 && fds->fd >= 0)
			return poll_one(fds, deadline);
		if (n > POLL_MANY) {
			struct poll_call p = {fds, n, deadline};

			return weft_offload(poll_plain, &p);
		}
		struct op op = {.kind = OP_POLL_MANY, .fds = fds, .count = n, .deadline = deadline};
		bool any = false;

		for (unsigned i = 0; i < n; i++)
			any |= fds[i].fd >= 0;
		if (any)
			r = op_wait(&op, WEFT_REASON_POLL);
		else if (weft_sleep_until(deadline) == WEFT_WAKE_TIMEOUT)
			r = -ETIMEDOUT;
		else
			r = -EINTR;
		if (r == -EINTR)
			return r;
		if (r == -ETIMEDOUT)
			deadline = 0; /* one last look, or plain 0 */
		if (r == -ETIMEDOUT && !n)
			return 0;
	}
}

struct select_call {
	int n;
	void *set[3];
	uint64_t deadline;
};

static long select_plain(void *arg)
{
	struct select_call *s = arg;
	struct timespec ts;

	if (s->deadline != WEFT_NO_DEADLINE)
		time_left(s->deadline, &ts);
	return weft_sys6(SYS_pselect6, s->n, (long)s->set[0], (long)s->set[1],
		(long)s->set[2], s->deadline == WEFT_NO_DEADLINE ? 0 : (long)&ts, 0);
}

static bool in_set(const void *set, int fd)
{
	return set && ((const unsigned long *)set)[fd / 64] >> (fd % 64) & 1;
}

enum { SELECT_WORDS = 16 }; /* FD_SETSIZE */

/*
 * select's sets are both question and answer, so the question is kept. What it
 * looks for is polled for in the ring; the answer is the kernel's own, from a
 * select that does not wait.
 */
long weft_io_select(int n, void *in, void *out, void *ex, uint64_t deadline)
{
	struct select_call call = {n, {in, out, ex}, deadline};
	unsigned long ask[3][SELECT_WORDS];
	struct pollfd fds[POLL_MANY];
	size_t bytes = ((size_t)(n > 0 ? n : 0) + 63) / 64 * 8;
	unsigned count = 0;

	if (n < 0 || n > SELECT_WORDS * 64)
		return weft_offload(select_plain, &call);
	for (int k = 0; k < 3; k++)
		if (call.set[k])
			weft_memcpy(ask[k], call.set[k], bytes);
	for (int fd = 0; fd < n; fd++) {
		short events = 0;

		events |= in_set(in, fd) ? POLLIN : 0;
		events |= in_set(out, fd) ? POLLOUT : 0;
		events |= in_set(ex, fd) ? POLLPRI : 0;
		if (!events)
			continue;
		if (count == POLL_MANY)
			return weft_offload(select_plain, &call);
		fds[count++] = (struct pollfd){fd, events, 0};
	}
	for (;;) {
		struct select_call now = {n, {in, out, ex}, 0};
		long r = select_plain(&now);

		if (r || deadline == 0)
			return r;
		if (count) {
			struct op op = {.kind = OP_POLL_MANY,
				.fds = fds,
				.count = count,
				.deadline = deadline};

			r = op_wait(&op, WEFT_REASON_SELECT);
		} else {
			r = weft_sleep_until(deadline) == WEFT_WAKE_TIMEOUT ? -ETIMEDOUT
									    : -EINTR;
		}
		for (int k = 0; k < 3; k++)
			if (call.set[k])
				weft_memcpy(call.set[k], ask[k], bytes);
		if (r == -EINTR)
			return r;
		if (r == -ETIMEDOUT)
			deadline = 0;
	}
}

long weft_io_epoll_wait(int epfd, void *events, int max, uint64_t deadline)
{
	for (;;) {
		long r = weft_sys4(SYS_epoll_wait, epfd, (long)events, max, 0);

		if (r || deadline == 0)
			return r;
		r = wait_ready(epfd, POLLIN, deadline, WEFT_REASON_EPOLL);
		if (r == -EINTR)
			return r;
		if (r == -ETIMEDOUT)
			deadline = 0;
		else if (r < 0)
			return weft_sys4(SYS_epoll_wait, epfd, (long)events, max, 0);
	}
}
