/*
 * io.c - waiting for operations in the ring or readiness in the epoll set;
 * connections.
 *
 * A fiber with operations in flight belongs to that ring's carrier (io_carrier)
 * until the last completion is reaped; only that carrier resumes it. A time-out or
 * a signal therefore never claims such a fiber, it cancels the operations
 * (weft_io_abort) and the completions do the rest. When the operation won the
 * race, its result counts and the time-out is forgotten. The epoll set keeps to the
 * same rules.
 */
#include "io.h"

#include <errno.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <time.h>

#include "bind.h"
#include "deadline.h"
#include "engine.h"
#include "futex.h"
#include "io_impl.h"

enum {
	INDEX_SHIFT = 48, /* user_data: the fiber, and which of its operations */
	AT_ONCE = 16,     /* connections in a row before others have their turn */
};

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
	if (weft_on_epoll()) {
		weft_poller_abort(c, f);
		return;
	}
	for (unsigned w = 0; w < f->io_words; w++)
		for (uint64_t bits = f->io_bits[w]; bits; bits &= bits - 1)
			weft_ring_cancel(c->ring,
				pack(f, w * 64 + (unsigned)__builtin_ctzll(bits)));
}

void weft_io_move_all(struct carrier *c)
{
	for (uint32_t i = 0; i < load_relaxed(&weft_rt.fresh); i++) {
		struct fiber *f = weft_fiber_at(i);

		/* Only this carrier begins and ends what is in its ring. */
		if (load_seq_cst(&f->io_carrier) == c && f->io_pending)
			weft_io_abort(c, f, WEFT_WAKE_MOVED);
	}
}

static struct fiber *fiber_of(uint64_t user_data)
{
	return (struct fiber *)(uintptr_t)(user_data & ((1ull << INDEX_SHIFT) - 1));
}

/*
 * The operation was just being made by a kernel worker, whose sleep the cancel did not
 * end: it had not begun (a connect to a full UNIX listener, Linux 6.18). Until it ends
 * it is cancelled again. An operation that ended meanwhile has cleared its bit.
 */
void weft_io_cancel_failed(struct carrier *c, uint64_t user_data)
{
	struct fiber *f = fiber_of(user_data);
	unsigned index = (unsigned)(user_data >> INDEX_SHIFT);

	if (load_seq_cst(&f->io_carrier) == c && f->io_cancelled &&
		index / 64 < f->io_words && f->io_bits[index / 64] & 1ull << index % 64)
		weft_ring_cancel(c->ring, user_data);
}

void weft_io_complete(struct carrier *c, uint64_t user_data, int res)
{
	struct fiber *f = fiber_of(user_data);
	unsigned index = (unsigned)(user_data >> INDEX_SHIFT);
	enum weft_wake how = WEFT_WAKE_DONE;

	f->io_bits[index / 64] &= ~(1ull << index % 64);
	/* Nobody asked for this one's end: its carrier got rid of all (weft_ring_evict).
	 */
	if (unlikely(res == -ECANCELED && !f->io_cancelled))
		how = WEFT_WAKE_MOVED;
	if (--f->io_pending) {
		/* The first of several, whose result it is: the others must not outlive
		 * the call. */
		if (!f->io_cancelled)
			f->io_res = res;
		weft_io_abort(c, f, how);
		return;
	}
	if (!f->io_cancelled || f->io_how != WEFT_WAKE_DONE || res != -ECANCELED)
		f->io_res = res;
	if (unlikely(c->at_once == f)) { /* accepted_at_once() */
		c->at_once = NULL;
		weft_park_finish(f, how);
		return;
	}
	weft_io_finish(f, how);
}

void weft_io_finish(struct fiber *f, enum weft_wake how)
{
	f->io_pending = 0;
	if (f->io_cancelled && (f->io_res == -ECANCELED || f->io_res == -EINTR))
		how = (enum weft_wake)f->io_how;
	store_seq_cst(&f->io_carrier, NULL);
	weft_park_finish(f, how);
	if (f->answered) {
		f->answered = 0;
		weft_unpark_again(f);
		return;
	}
	weft_unpark(f);
}

enum op_kind {
	OP_POLL,
	OP_POLL_MANY,
	OP_RECV,
	OP_SEND,
	OP_ACCEPT,
	OP_CONNECT,
	OP_FUTEX,
	OP_CHILD
};

struct op {
	enum op_kind kind;
	int fd, flags;
	unsigned events; /* or a futex's bitset, or a child's id */
	unsigned
		count; /* of fds; or an address's length, a futex's value, an id's type */
	struct pollfd *fds;
	void *addr, *addrlen;
	const struct msghdr *msg; /* OP_SEND: or addr and count */
	uint64_t deadline;
	uint64_t *bits; /* one for each operation that is in the ring */
};

/* A wait for fd has to end with the process: see ring.c. */
static bool is_tied(int fd)
{
	return weft_ring_can_futex() && weft_fd_others_see(fd);
}

static void submit(struct carrier *c, struct fiber *f, const struct op *op)
{
	struct weft_ring *r = c->ring;

	f->io_bits = op->bits;
	f->io_bits[0] = 1;
	f->io_words = 1;
	f->io_pending = 1;
	switch (op->kind) {
	case OP_POLL:
		weft_ring_poll(r, op->fd, op->events, is_tied(op->fd), pack(f, 0));
		break;
	case OP_POLL_MANY:
		f->io_words = (op->count + 63) / 64;
		weft_memset(f->io_bits, 0, f->io_words * sizeof *f->io_bits);
		f->io_pending = 0;
		for (unsigned i = 0; i < op->count; i++) {
			if (op->fds[i].fd < 0)
				continue;
			weft_ring_poll(r, op->fds[i].fd,
				(unsigned short)op->fds[i].events, is_tied(op->fds[i].fd),
				pack(f, i));
			f->io_bits[i / 64] |= 1ull << i % 64;
			f->io_pending++;
		}
		break;
	case OP_RECV:
		weft_ring_recv(
			r, op->fd, op->addr, op->count, is_tied(op->fd), pack(f, 0));
		break;
	case OP_SEND:
		if (op->msg)
			weft_ring_sendmsg(r, op->fd, op->msg, op->flags, pack(f, 0));
		else
			weft_ring_send(
				r, op->fd, op->addr, op->count, op->flags, pack(f, 0));
		weft_answer_queued(c);
		f->answered = 1;
		break;
	case OP_ACCEPT:
		weft_ring_accept(r, op->fd, op->addr, op->addrlen, op->flags,
			weft_ring_can_futex(), pack(f, 0));
		break;
	case OP_CONNECT:
		weft_ring_connect(r, op->fd, op->addr, op->count, pack(f, 0));
		break;
	case OP_FUTEX:
		weft_ring_futex_wait(r, op->addr, op->count, op->events, pack(f, 0));
		break;
	case OP_CHILD:
		weft_ring_waitid(
			r, (int)op->count, (int)op->events, op->flags, pack(f, 0));
		break;
	}
}

/* Only readiness can be waited for in the epoll set. 0, or a result right away. */
static long wait_in_set(struct carrier *c, struct fiber *f, const struct op *op)
{
	long r = 0;

	if (op->kind == OP_POLL)
		return weft_poller_add(c, f, op->fd, op->events);
	for (unsigned i = 0; i < op->count && !r; i++)
		if (op->fds[i].fd >= 0)
			r = weft_poller_add(
				c, f, op->fds[i].fd, (unsigned short)op->fds[i].events);
	return r;
}

/*
 * A connection may be there already, and there is no other way to ask. Others are ready
 * and have their turn first, and those of a server that is busy are long: one connection
 * for each round of all others, where a thread that accepts has no others before it. (64
 * connections to Apache: 500 ms until the last was accepted; natively 100.) So the kernel
 * is asked at once, AT_ONCE times in a row.
 */
static bool accepted_at_once(struct carrier *c, struct fiber *f)
{
	if (f->accepted++ >= AT_ONCE || !weft_sched_queued(c) ||
		weft_rt.config.stress_migrate || weft_rt.config.stress_wouldblock) {
		f->accepted = 0;
		return false;
	}
	c->at_once = f;
	weft_ring_flush(c);
	if (!c->at_once)
		return true;
	c->at_once = NULL;
	f->accepted = 0;
	return false;
}

static bool op_commit(struct fiber *f, void *arg)
{
	struct op *op = arg;
	struct carrier *c = weft_carrier_self();

	f->io_cancelled = 0;
	if (weft_on_epoll()) {
		long r = wait_in_set(c, f, op);

		if (r) {
			f->io_res = (int)r;
			weft_park_finish(f, WEFT_WAKE_DONE);
			return false;
		}
	} else {
		submit(c, f, op);
		if (op->kind == OP_ACCEPT && accepted_at_once(c, f))
			return false;
		store_relaxed(&f->io_mark, weft_ring_mark(c->ring));
	}
	weft_timer_arm(f, op->deadline);
	/* [attention-open] as in weft_park_open, with the cancel as the claim. */
	store_seq_cst(&f->io_carrier, c);
	if (unlikely(load_seq_cst(&f->attention)))
		weft_io_abort(c, f, WEFT_WAKE_INTERRUPT);
	return true;
}

static long poll_in_kernel(struct pollfd *fds, unsigned n, uint64_t deadline)
{
	struct timespec left;
	long r;

	if (deadline != WEFT_NO_DEADLINE) {
		uint64_t ns = weft_deadline_left(deadline);

		left.tv_sec = (time_t)(ns / 1000000000u);
		left.tv_nsec = (long)(ns % 1000000000u);
	}
	r = weft_io_in_kernel(SYS_ppoll, (long)fds, n,
		deadline == WEFT_NO_DEADLINE ? 0 : (long)&left, 0, 8, 0);
	return r ? r : -ETIMEDOUT;
}

/* By its proxy, on its own kernel thread, or on a helper. */
static long futex_in_kernel(const struct op *op)
{
	struct timespec ts;
	long args[6] = {(long)op->addr, FUTEX_WAIT_BITSET, op->count, 0, 0, op->events};

	args[3] = (long)weft_futex_timeout(op->deadline, &args[1], &ts);
	return weft_proxy_futex(args);
}

/*
 * A bound fiber's carrier has no ring. Most of its calls do not come here, the kernel
 * makes them in place; these are the waits of those that swap signal masks.
 */
static long wait_bound(struct op *op)
{
	struct pollfd p = {op->fd, (short)op->events, 0};
	long r;

	switch (op->kind) {
	case OP_POLL:
		r = poll_in_kernel(&p, 1, op->deadline);
		return r < 0 ? r : p.revents & POLLNVAL ? -EBADF : p.revents;
	case OP_POLL_MANY:
		return poll_in_kernel(op->fds, op->count, op->deadline);
	case OP_FUTEX:
		return futex_in_kernel(op);
	default:
		weft_bug("a bound fiber waits for a ring");
	}
}

/*
 * Who answers the kernel must not wait in a ring: its carrier's next fiber may be the one
 * whose page fault, or file, it is to answer for, and what is in the ring would be told
 * after that. Nor must anything else that it then waits for, so it is bound for life.
 * Where no kernel thread is to be had it waits like others.
 */
static void bind_if_kernel_asks(const struct fiber *f, const struct op *op)
{
	bool asks = false;

	if (unlikely(f->flags & FIBER_BOUND))
		return;
	if (op->kind == OP_POLL)
		asks = weft_fd_kernel_asks(op->fd);
	else if (op->kind == OP_POLL_MANY)
		for (unsigned i = 0; i < op->count && !asks; i++)
			asks = op->fds[i].fd >= 0 && weft_fd_kernel_asks(op->fds[i].fd);
	if (unlikely(asks))
		(void)weft_fiber_bind(WEFT_BIND_ANSWERS_KERNEL);
}

/*
 * Parks for op: its result, -ETIMEDOUT or -EINTR. While it waits for one descriptor
 * its number is marked (weft_io_closing); *ret_fd is the number afterwards, and with NULL
 * another one is closed here. (What the ring does itself needs none, but gets one if its
 * fiber began it while the closer took it for the wait before.)
 */
static long op_wait(struct op *op, enum weft_park_reason reason, int *ret_fd)
{
	struct fiber *f = weft_fiber_self();
	const int fd = op->fd;
	uint64_t one;
	enum weft_wake how;

	if (ret_fd)
		*ret_fd = fd;
	bind_if_kernel_asks(f, op);
	if (unlikely(f->flags & FIBER_BOUND))
		return wait_bound(op);
	if (!op->bits)
		op->bits = &one;
	if (op->kind == OP_SEND)
		weft_count(weft_carrier_self(), TOGETHER);
	else
		weft_count(weft_carrier_self(), IO_PARKS);
	if (fd >= 0) {
		weft_fd_busy(fd, 1);
		f->io_direct = op->kind != OP_POLL;
		store_seq_cst(&f->io_fd, fd);
	}
	f->interruptible = 1;
	do {
		how = weft_park(reason, op_commit, op);
		weft_timer_disarm(f);
		/* A close may have given the wait another number: it goes on there. */
		if (unlikely(how == WEFT_WAKE_MOVED && fd >= 0)) {
			op->fd = load_seq_cst(&f->io_fd);
			store_seq_cst(&f->io_disturbed, 1);
		}
	} while (unlikely(how == WEFT_WAKE_MOVED));
	f->interruptible = 0;
	if (fd >= 0) {
		int now = xchg_seq_cst(&f->io_fd, -1);

		weft_fd_busy(fd, -1);
		if (ret_fd) {
			*ret_fd = now;
		} else if (unlikely(now != fd)) {
			weft_sys1(SYS_close, now);
			op->fd = fd;
		}
	}
	switch (how) {
	case WEFT_WAKE_TIMEOUT:
		return -ETIMEDOUT;
	case WEFT_WAKE_INTERRUPT:
		return -EINTR;
	default:
		if (op->kind == OP_RECV || op->kind == OP_SEND || op->kind == OP_POLL)
			weft_follow_peer(f, op->fd);
		return f->io_res;
	}
}

/*
 * What the engine does not take, the kernel waits for on a helper. The ring: files
 * with more than two wait queues (a pty, when many wait for it), and what can never
 * happen, like urgent data in a regular file. The epoll set: more than its limit of
 * watches, sets of the program's that are nested too deeply for one more.
 */
static bool engine_refuses(long r)
{
	if (likely(r >= 0))
		return false;
	return weft_on_epoll() ? r == -ENOSPC || r == -ENOMEM || r == -ELOOP
			       : r == -EINVAL;
}

long weft_io_wait_ready(struct weft_held *h, unsigned events, uint64_t deadline,
	enum weft_park_reason reason)
{
	struct op op = {
		.kind = OP_POLL, .fd = h->fd, .events = events, .deadline = deadline};
	int fd;
	long r = op_wait(&op, reason, &fd);

	if (unlikely(fd != h->fd)) {
		h->fd = fd;
		h->moved = true;
	}
	if (unlikely(engine_refuses(r))) {
		struct pollfd p = {h->fd, (short)events, 0};

		r = poll_in_kernel(&p, 1, deadline);
		if (r > 0)
			r = p.revents & POLLNVAL ? -EBADF : p.revents;
	}
	return r;
}

/* The epoll set holds no file: who closes one of these has to know. */
static void mark_all(const struct pollfd *fds, unsigned n, int delta)
{
	for (unsigned i = 0; i < n; i++)
		if (fds[i].fd >= 0)
			weft_fd_busy(fds[i].fd, delta);
}

long weft_io_wait_many(
	struct pollfd *fds, unsigned n, uint64_t deadline, enum weft_park_reason reason)
{
	if (n > WEFT_POLL_MANY)
		__builtin_unreachable();

	uint64_t bits[(n + 63) / 64];
	struct op op = {.kind = OP_POLL_MANY,
		.fd = -1,
		.fds = fds,
		.count = n,
		.deadline = deadline,
		.bits = bits};
	long r;

	if (!weft_on_epoll())
		r = op_wait(&op, reason, NULL);
	else {
		mark_all(fds, n, 1);
		r = op_wait(&op, reason, NULL);
		mark_all(fds, n, -1);
	}
	return engine_refuses(r) ? poll_in_kernel(fds, n, deadline) : r;
}

long weft_io_ring_recv(struct weft_held *h, void *buf, size_t len)
{
	struct op op = {.kind = OP_RECV,
		.fd = h->fd,
		.addr = buf,
		.count = len < 1u << 30 ? (unsigned)len : 1u << 30,
		.deadline = WEFT_NO_DEADLINE};

	if (weft_on_epoll()) {
		long r = weft_io_wait_ready(h, POLLIN, op.deadline, WEFT_REASON_READ);

		return r < 0 ? r : -EAGAIN;
	}
	return op_wait(&op, WEFT_REASON_READ, NULL);
}

long weft_io_ring_send(
	int fd, const struct msghdr *msg, const void *buf, size_t len, int flags)
{
	struct op op = {.kind = OP_SEND,
		.fd = fd,
		.flags = flags,
		.msg = msg,
		.addr = (void *)(uintptr_t)buf,
		.count = (unsigned)len,
		.deadline = WEFT_NO_DEADLINE};
	long r = op_wait(&op, WEFT_REASON_WRITE, NULL);

	/* Its turn is not over by what kept the carrier before it ran. */
	weft_carrier_self()->turn_tsc = weft_tsc();
	return r;
}

void weft_io_pretend_to_block(int fd, unsigned events)
{
	struct weft_held h = {fd, false};

	if (!weft_io_forced_to_fail())
		return;
	weft_io_wait_ready(&h, events, weft_now_ns(), WEFT_REASON_POLL);
	weft_held_release(&h);
}

long weft_io_futex_shared(
	uint32_t *word, uint32_t val, uint32_t bitset, uint64_t deadline_ns)
{
	struct op op = {.kind = OP_FUTEX,
		.fd = -1,
		.addr = word,
		.count = val,
		.events = bitset,
		.deadline = deadline_ns};

	if (!weft_ring_can_futex() || weft_proxy_waits(weft_fiber_self()))
		return futex_in_kernel(&op);
	return op_wait(&op, WEFT_REASON_FUTEX, NULL);
}

long weft_io_wait_child(int idtype, int id, int options)
{
	struct op op = {.kind = OP_CHILD,
		.fd = -1,
		.flags = options,
		.events = (unsigned)id,
		.count = (unsigned)idtype,
		.deadline = WEFT_NO_DEADLINE};

	return op_wait(&op, WEFT_REASON_CHILD, NULL);
}

/* ---- connections ---------------------------------------------------------- */

/*
 * Without a ring: when a connection is there, it is accepted on the carrier. Who
 * else waits for this listener, in this process or another, may have been faster:
 * then the call is interrupted and waits for the next one.
 */
static long accept_when_ready(
	int fd, void *addr, void *addrlen, int flags, uint64_t deadline)
{
	struct weft_held file = {fd, false};
	bool listens = false;
	long r;

	for (;;) {
		if (weft_fd_poll_now(file.fd, POLLIN) ||
			(!listens && !weft_fd_int_option(file.fd, SO_ACCEPTCONN, 0))) {
			const long args[6] = {
				file.fd, (long)addr, (long)addrlen, flags, 0, 0};

			r = weft_call_briefly(SYS_accept4, args);
			if (r != -EINTR)
				break;
		}
		listens = true;
		r = weft_io_wait_ready(&file, POLLIN, deadline, WEFT_REASON_ACCEPT);
		if (r < 0)
			break;
	}
	weft_held_release(&file);
	return r;
}

/* One that waits for this listener looks again, and passes on what it leaves. */
static void pass_on(int fd)
{
	for (uint32_t i = 0; i < load_acquire(&weft_rt.fresh); i++) {
		struct fiber *f = weft_fiber_at(i);
		struct carrier *c;

		if (load_seq_cst(&f->io_fd) != fd ||
			load_relaxed(&f->reason) != WEFT_REASON_ACCEPT)
			continue;
		store_seq_cst(&f->io_disturbed, 1); /* [accept-pass] */
		c = load_seq_cst(&f->io_carrier);
		if (c)
			weft_sched_interrupt(c, f);
		/* It has not begun, or is not through: then it finds the word set. */
		if (load_seq_cst(&f->io_fd) == fd)
			return;
	}
}

/*
 * Whoever waits for a listener waits alone: a connection wakes one of them. The kernel
 * marks an operation as cancelled before it takes it off the listener's queue, and what
 * arrives in between wakes that one in vain (io_poll_wake, Linux 6.18), even several
 * connections the same one. So who was disturbed, by a signal, a time-out or a carrier
 * that got rid of its ring, looks again before it leaves: a connection that is there
 * comes first, as in inet_csk_wait_for_connect. What is left is for the next, who
 * does the same.
 *
 *     passing on                      the other one
 *     io_disturbed = 1                io_fd = -1
 *     (seq_cst)  [accept-pass]        (seq_cst)
 *     io_fd still there? done         io_disturbed set? look
 */
static long accept_in_ring(struct op *op)
{
	struct fiber *f = weft_fiber_self();
	bool disturbed = false, again;
	long r;

	do {
		r = op_wait(op, WEFT_REASON_ACCEPT, NULL);
		again = r == -EINTR || r == -ETIMEDOUT;
		disturbed |= again;
		if (unlikely(load_seq_cst(&f->io_disturbed))) {
			store_seq_cst(&f->io_disturbed, 0);
			disturbed = true;
		}
		/* The number may be closed: then there is nothing to ask. */
		if (likely(!disturbed) || !(weft_fd_poll_now(op->fd, POLLIN) & POLLIN))
			return r;
	} while (again);
	pass_on(op->fd);
	return r;
}

/*
 * There is no non-blocking accept on a blocking socket, and readiness can be
 * stolen by another process: the ring waits and accepts in one operation.
 */
long weft_io_accept(int fd, void *addr, void *addrlen, int flags)
{
	if (weft_fd_nonblocking(fd)) {
		long r = weft_sys4(SYS_accept4, fd, (long)addr, (long)addrlen, flags);

		if (r == -EAGAIN)
			weft_fd_note_again(fd, POLLIN);
		return r;
	}
	struct op op = {.kind = OP_ACCEPT,
		.fd = fd,
		.addr = addr,
		.addrlen = addrlen,
		.flags = flags,
		.deadline = weft_fd_deadline(fd, SO_RCVTIMEO)};
	long r = weft_on_epoll()
			 ? accept_when_ready(fd, addr, addrlen, flags, op.deadline)
			 : accept_in_ring(&op);

	if (r == -EINTR && op.deadline != WEFT_NO_DEADLINE)
		return WEFT_RESTART_NEVER;
	return r == -ETIMEDOUT ? -EAGAIN : r;
}

/*
 * Without a ring. A TCP connection that is not there at once goes on when the call
 * is interrupted, and the same call tells later what came of it
 * (net/ipv4/af_inet.c, inet_stream_connect). What else may wait, like a UNIX
 * listener with a full backlog, has nothing to poll for.
 */
static long connect_when_ready(int fd, const void *addr, unsigned len, uint64_t deadline)
{
	struct weft_held file = {fd, false};
	int protocol = weft_fd_int_option(fd, SO_PROTOCOL, -1);
	long r;

	for (;;) {
		const long args[6] = {file.fd, (long)addr, len, 0, 0, 0};

		if (protocol == IPPROTO_TCP ||
			weft_fd_int_option(fd, SO_DOMAIN, -1) == AF_UNIX)
			r = weft_call_briefly(SYS_connect, args);
		else if (protocol == IPPROTO_UDP || protocol < 0)
			r = weft_sys3(SYS_connect, fd, (long)addr, len);
		else
			r = weft_io_in_kernel(
				SYS_connect, file.fd, (long)addr, len, 0, 0, 0);
		if (r == -EINTR && protocol != IPPROTO_TCP)
			r = weft_io_in_kernel(
				SYS_connect, file.fd, (long)addr, len, 0, 0, 0);
		if (r != -EINTR || protocol != IPPROTO_TCP)
			break;
		r = weft_io_wait_ready(&file, POLLOUT, deadline, WEFT_REASON_CONNECT);
		if (r < 0)
			break;
	}
	weft_held_release(&file);
	return r;
}

static bool connects(int fd)
{
	uint8_t state = 0; /* the first of struct tcp_info */

	return !weft_fd_option(fd, IPPROTO_TCP, TCP_INFO, &state, sizeof state) &&
	       state == TCP_SYN_SENT;
}

long weft_io_connect(int fd, const void *addr, unsigned len)
{
	if (weft_fd_nonblocking(fd))
		return weft_sys3(SYS_connect, fd, (long)addr, len);
	struct op op = {.kind = OP_CONNECT,
		.fd = fd,
		.addr = (void *)(uintptr_t)addr,
		.count = len,
		.deadline = weft_fd_deadline(fd, SO_SNDTIMEO)};
	bool under_way =
		weft_on_epoll() && op.deadline != WEFT_NO_DEADLINE && connects(fd);
	long r = weft_on_epoll() ? connect_when_ready(fd, addr, len, op.deadline)
				 : op_wait(&op, WEFT_REASON_CONNECT, NULL);

	if (r == -EALREADY) {
		/* Since an earlier call, e.g. one that a signal ended: this one waits. */
		struct weft_held file = {fd, false};

		under_way = true;
		r = weft_io_wait_ready(&file, POLLOUT, op.deadline, WEFT_REASON_CONNECT);
		/* Only connect(2) itself takes note that it is connected, or free again.
		 */
		if (r >= 0)
			r = weft_sys3(SYS_connect, file.fd, (long)addr, len);
		if (r == -EISCONN) /* another thread's call has just done so */
			r = 0;
		weft_held_release(&file);
	}
	if (r == -EINTR && op.deadline != WEFT_NO_DEADLINE)
		return WEFT_RESTART_NEVER;
	if (r != -ETIMEDOUT)
		return r;
	/* A TCP connection goes on in the background; a full UNIX listener says no. */
	if (weft_fd_int_option(fd, SO_DOMAIN, -1) == AF_UNIX)
		return -EAGAIN;
	return under_way ? -EALREADY : -EINPROGRESS;
}
