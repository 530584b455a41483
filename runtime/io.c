/*
 * io.c - waiting for operations in the ring; connections.
 *
 * A fiber with operations in flight belongs to that ring's carrier (io_carrier)
 * until the last completion is reaped; only that carrier resumes it. A time-out or
 * a signal therefore never claims such a fiber, it cancels the operations
 * (weft_io_abort) and the completions do the rest. When the operation won the
 * race, its result counts and the time-out is forgotten.
 */
#include "io.h"

#include <errno.h>
#include <sys/socket.h>
#include <time.h>

#include "io_impl.h"

enum { INDEX_SHIFT = 48 }; /* user_data: the fiber, and which of its operations */

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
	for (unsigned w = 0; w < f->io_words; w++)
		for (uint64_t bits = f->io_bits[w]; bits; bits &= bits - 1)
			weft_ring_cancel(c->ring,
				pack(f, w * 64 + (unsigned)__builtin_ctzll(bits)));
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
		/* The first of several: the others must not outlive the call. */
		weft_io_abort(c, f, how);
		return;
	}
	f->io_res = res;
	if (f->io_cancelled && (res == -ECANCELED || res == -EINTR))
		how = (enum weft_wake)f->io_how;
	store_seq_cst(&f->io_carrier, NULL);
	weft_park_finish(f, how);
	weft_unpark(f);
}

enum op_kind {
	OP_POLL,
	OP_POLL_MANY,
	OP_RECV,
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
	uint64_t deadline;
	uint64_t *bits; /* one for each operation that is in the ring */
};

static void submit(struct carrier *c, struct fiber *f, const struct op *op)
{
	struct weft_ring *r = c->ring;

	f->io_bits = op->bits;
	f->io_bits[0] = 1;
	f->io_words = 1;
	f->io_pending = 1;
	switch (op->kind) {
	case OP_POLL:
		weft_ring_poll(r, op->fd, op->events, pack(f, 0));
		break;
	case OP_POLL_MANY:
		f->io_words = (op->count + 63) / 64;
		weft_memset(f->io_bits, 0, f->io_words * sizeof *f->io_bits);
		f->io_pending = 0;
		for (unsigned i = 0; i < op->count; i++) {
			if (op->fds[i].fd < 0)
				continue;
			weft_ring_poll(r, op->fds[i].fd,
				(unsigned short)op->fds[i].events, pack(f, i));
			f->io_bits[i / 64] |= 1ull << i % 64;
			f->io_pending++;
		}
		break;
	case OP_RECV:
		weft_ring_recv(r, op->fd, op->addr, op->count, pack(f, 0));
		break;
	case OP_ACCEPT:
		weft_ring_accept(r, op->fd, op->addr, op->addrlen, op->flags, pack(f, 0));
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

static bool op_commit(struct fiber *f, void *arg)
{
	struct op *op = arg;
	struct carrier *c = weft_carrier_self();

	f->io_cancelled = 0;
	submit(c, f, op);
	store_relaxed(&f->io_mark, weft_ring_mark(c->ring));
	weft_timer_arm(f, op->deadline);
	/* [attention-open] as in weft_park_open, with the cancel as the claim. */
	store_seq_cst(&f->io_carrier, c);
	if (unlikely(load_seq_cst(&f->attention)))
		weft_io_abort(c, f, WEFT_WAKE_INTERRUPT);
	return true;
}

/*
 * Parks for op: its result, -ETIMEDOUT or -EINTR. While it waits for one descriptor
 * its number is marked (weft_io_closing); *ret_fd is the number afterwards.
 */
static long op_wait(struct op *op, enum weft_park_reason reason, int *ret_fd)
{
	struct fiber *f = weft_fiber_self();
	uint64_t one;
	enum weft_wake how;

	if (!op->bits)
		op->bits = &one;
	weft_count(weft_carrier_self(), IO_PARKS);
	if (op->fd >= 0) {
		weft_fd_busy(op->fd, 1);
		f->io_direct = op->kind != OP_POLL;
		store_seq_cst(&f->io_fd, op->fd);
	}
	f->interruptible = 1;
	do {
		how = weft_park(reason, op_commit, op);
		weft_timer_disarm(f);
		/* A close may have given the wait another number: it goes on there. */
		if (unlikely(how == WEFT_WAKE_MOVED && op->fd >= 0))
			op->fd = load_seq_cst(&f->io_fd);
	} while (unlikely(how == WEFT_WAKE_MOVED));
	f->interruptible = 0;
	*ret_fd = op->fd;
	if (op->fd >= 0) {
		*ret_fd = xchg_seq_cst(&f->io_fd, -1);
		weft_fd_busy(op->fd, -1);
	}
	switch (how) {
	case WEFT_WAKE_TIMEOUT:
		return -ETIMEDOUT;
	case WEFT_WAKE_INTERRUPT:
		return -EINTR;
	default:
		return f->io_res;
	}
}

/* The same where a kernel thread waits: revents, -ETIMEDOUT, -EINTR. */
static long wait_in_kernel(int fd, unsigned events, uint64_t deadline)
{
	struct pollfd p = {fd, (short)events, 0};
	struct timespec ts, *left = NULL;
	long r;

	if (deadline != WEFT_NO_DEADLINE) {
		uint64_t now = weft_now_ns();
		uint64_t ns = deadline > now ? deadline - now : 0;

		ts.tv_sec = (time_t)(ns / 1000000000u);
		ts.tv_nsec = (long)(ns % 1000000000u);
		left = &ts;
	}
	r = weft_io_in_kernel(SYS_ppoll, (long)&p, 1, (long)left, 0, 8, 0);
	return r > 0 ? p.revents : r ? r : -ETIMEDOUT;
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
	/* A file with more than two wait queues; a pty, when many wait for it. */
	if (unlikely(r == -EINVAL))
		return wait_in_kernel(h->fd, events, deadline);
	return r;
}

long weft_io_wait_many(
	struct pollfd *fds, unsigned n, uint64_t deadline, enum weft_park_reason reason)
{
	uint64_t bits[(n + 63) / 64];
	struct op op = {.kind = OP_POLL_MANY,
		.fd = -1,
		.fds = fds,
		.count = n,
		.deadline = deadline,
		.bits = bits};

	return op_wait(&op, reason, &(int){0});
}

long weft_io_ring_recv(int fd, void *buf, size_t len)
{
	struct op op = {.kind = OP_RECV,
		.fd = fd,
		.addr = buf,
		.count = len < 1u << 30 ? (unsigned)len : 1u << 30,
		.deadline = WEFT_NO_DEADLINE};

	return op_wait(&op, WEFT_REASON_READ, &(int){0});
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

	return op_wait(&op, WEFT_REASON_FUTEX, &(int){0});
}

long weft_io_wait_child(int idtype, int id, int options)
{
	struct op op = {.kind = OP_CHILD,
		.fd = -1,
		.flags = options,
		.events = (unsigned)id,
		.count = (unsigned)idtype,
		.deadline = WEFT_NO_DEADLINE};

	return op_wait(&op, WEFT_REASON_CHILD, &(int){0});
}

/* ---- connections ---------------------------------------------------------- */

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
	long r = op_wait(&op, WEFT_REASON_ACCEPT, &(int){0});

	if (r == -EINTR && op.deadline != WEFT_NO_DEADLINE)
		return WEFT_RESTART_NEVER;
	return r == -ETIMEDOUT ? -EAGAIN : r;
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
	long r = op_wait(&op, WEFT_REASON_CONNECT, &(int){0});
	int value = 0;
	socklen_t size = sizeof value;

	if (r == -EALREADY) {
		/* A connection under way, e.g. after a signal: a blocking call waits for
		 * it. */
		struct weft_held file = {fd, false};

		r = weft_io_wait_ready(&file, POLLOUT, op.deadline, WEFT_REASON_CONNECT);
		if (r >= 0) {
			weft_sys5(SYS_getsockopt, file.fd, SOL_SOCKET, SO_ERROR,
				(long)&value, (long)&size);
			r = -value;
		}
		weft_held_release(&file);
	}
	if (r == -EINTR && op.deadline != WEFT_NO_DEADLINE)
		return WEFT_RESTART_NEVER;
	if (r != -ETIMEDOUT)
		return r;
	/* A TCP connection goes on in the background; a full UNIX listener says no. */
	weft_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_DOMAIN, (long)&value, (long)&size);
	return value == AF_UNIX ? -EAGAIN : -EINPROGRESS;
}
