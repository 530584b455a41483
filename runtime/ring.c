/*
 * ring.c - a carrier's io_uring; the only file that includes liburing.h.
 *
 * Each ring belongs to one carrier: only it submits, only it reaps. Operations
 * carry the fiber in their user_data (io.c packs it), cancels that of what they
 * cancel plus CANCEL; EVENT is the eventfd that wakes a sleeping carrier.
 *
 * Rings are opened by the thread that starts the runtime, disabled, and enabled
 * by their carrier: SINGLE_ISSUER binds a ring to the task that enables it. The
 * flags are tried from the best to none, down to Linux 5.15.
 */
#include <errno.h>
#include <liburing.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "sched_impl.h"

enum {
	SQ_ENTRIES = 256,
	CQ_ENTRIES = 4096,
	EVENT = 1,
	CANCEL = 2,     /* fibers are aligned: no bit of theirs */
	OP_WAITID = 50, /* linux 6.7, not in Debian 12's headers */
	OP_FUTEX_WAIT = 51,
	FUTEX2_SIZE_U32 = 2,
};

struct weft_ring {
	struct io_uring ring;
	uint16_t poll_first; /* IORING_RECVSEND_POLL_FIRST, or 0 before 5.19 */
	unsigned inflight;   /* operations whose completion is still to come */
	int event_fd;
	uint64_t *event_value;
};

static bool has_futex, has_waitid;

int weft_ring_open(struct weft_ring **ret)
{
	static const unsigned flag_sets[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			IORING_SETUP_TASKRUN_FLAG,                     /* 6.1 */
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, /* 5.19 */
		0,
	};
	long p = weft_sys_map(sizeof(struct weft_ring), PROT_READ | PROT_WRITE, 0);
	struct weft_ring *r = (struct weft_ring *)p;
	int err = -ENOSYS;

	if (weft_sys_failed(p))
		return (int)p;
	for (size_t i = 0; i < sizeof flag_sets / sizeof *flag_sets; i++) {
		struct io_uring_params params = {
			.flags = flag_sets[i] | IORING_SETUP_R_DISABLED |
				 IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
			.cq_entries = CQ_ENTRIES,
		};

		err = weft_fault_hits(WEFT_FAULT_IO_URING_SETUP)
			      ? -ENOSYS
			      : io_uring_queue_init_params(SQ_ENTRIES, &r->ring, &params);
		/* COOP_TASKRUN came with the same kernel as POLL_FIRST. */
		r->poll_first = flag_sets[i] ? IORING_RECVSEND_POLL_FIRST : 0;
		if (err != -EINVAL)
			break;
	}
	if (err < 0) {
		weft_sys_unmap(r, sizeof *r);
		return err;
	}
	/* Timed waits need EXT_ARG (5.11); polls must not be lost on overflow. */
	if (!(r->ring.features & IORING_FEAT_EXT_ARG) ||
		!(r->ring.features & IORING_FEAT_NODROP)) {
		weft_ring_close(r);
		return -ENOSYS;
	}
	/* A fork child must not keep it alive: with it, sockets of the parent's. */
	io_uring_ring_dontfork(&r->ring);
	*ret = r;
	return 0;
}

static void probe(struct weft_ring *r)
{
	/* 256 ops at most; on the scheduler's stack, once. */
	char buf[sizeof(struct io_uring_probe) + 128 * sizeof(struct io_uring_probe_op)];
	struct io_uring_probe *p = (struct io_uring_probe *)buf;

	weft_memset(buf, 0, sizeof buf);
	if (io_uring_register_probe(&r->ring, p, 128))
		return;
	has_futex = p->last_op >= OP_FUTEX_WAIT &&
		    (p->ops[OP_FUTEX_WAIT].flags & IO_URING_OP_SUPPORTED);
	has_waitid = p->last_op >= OP_WAITID &&
		     (p->ops[OP_WAITID].flags & IO_URING_OP_SUPPORTED);
}

/* On the carrier's own kernel thread, before its first operation. */
int weft_ring_enable(struct weft_ring *r)
{
	int err = io_uring_enable_rings(&r->ring);

	if (err < 0)
		return err;
	probe(r);
	/*
	 * io_uring's worker threads are not wanted; what gets punted anyway must
	 * not multiply (bounded, unbounded). 5.15; older kernels say -EINVAL.
	 */
	unsigned workers[2] = {2, 2};

	io_uring_register_iowq_max_workers(&r->ring, workers);
	return 0;
}

bool weft_ring_can_futex(void)
{
	return has_futex;
}

bool weft_ring_can_waitid(void)
{
	return has_waitid;
}

void weft_ring_close(struct weft_ring *r)
{
	if (!r)
		return;
	io_uring_queue_exit(&r->ring);
	weft_sys_unmap(r, sizeof *r);
}

/*
 * In a fork child: the mappings are gone (MADV_DONTFORK above), the descriptor
 * was inherited. Kept open it would keep the parent's sockets alive.
 */
void weft_ring_forget(struct weft_ring *r)
{
	if (r)
		weft_sys1(SYS_close, r->ring.ring_fd);
}

int weft_ring_fd(const struct weft_ring *r)
{
	return r->ring.ring_fd;
}

/* Gives the ring another descriptor number, `fd`, a duplicate of its own. */
void weft_ring_set_fd(struct weft_ring *r, int fd)
{
	r->ring.ring_fd = r->ring.enter_ring_fd = fd;
}

static struct io_uring_sqe *next_sqe(struct weft_ring *r)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

	/*
	 * Full: submit. The kernel takes all of them unless memory is short, and
	 * then (-EAGAIN, -EBUSY) completions have to be reaped, which the caller
	 * cannot do here: wait for the kernel's task work instead.
	 */
	while (unlikely(!sqe)) {
		int n = io_uring_submit(&r->ring);

		if (n < 0 && n != -EAGAIN && n != -EBUSY && n != -EINTR)
			weft_bug("io_uring_enter refused a submission");
		sqe = io_uring_get_sqe(&r->ring);
	}
	weft_count(weft_carrier_self(), SQES);
	return sqe;
}

unsigned weft_ring_mark(const struct weft_ring *r)
{
	return r->ring.sq.sqe_tail;
}

/* The kernel moves the head when it has taken what was submitted. */
bool weft_ring_submitted(const struct weft_ring *r, unsigned mark)
{
	return (int)(load_acquire(r->ring.sq.khead) - mark) >= 0;
}

/* On the ring's own carrier, also from a fiber. */
void weft_ring_submit(struct weft_ring *r)
{
	io_uring_submit(&r->ring);
}

void weft_ring_arm_event(struct weft_ring *r, int fd, uint64_t *value)
{
	struct io_uring_sqe *sqe = next_sqe(r);

	r->event_fd = fd;
	r->event_value = value;
	io_uring_prep_read(sqe, fd, value, sizeof *value, 0);
	io_uring_sqe_set_data64(sqe, EVENT);
}

void weft_ring_poll(struct weft_ring *r, int fd, unsigned events, uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(r);

	io_uring_prep_poll_add(sqe, fd, events);
	io_uring_sqe_set_data64(sqe, user_data);
	r->inflight++;
}

void weft_ring_accept(struct weft_ring *r, int fd, void *addr, void *addrlen, int flags,
	uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(r);

	io_uring_prep_accept(sqe, fd, addr, addrlen, flags);
	io_uring_sqe_set_data64(sqe, user_data);
	r->inflight++;
}

void weft_ring_connect(
	struct weft_ring *r, int fd, const void *addr, unsigned len, uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(r);

	io_uring_prep_connect(sqe, fd, addr, len);
	io_uring_sqe_set_data64(sqe, user_data);
	r->inflight++;
}

/* Readiness first, without a try that is expected to find nothing (5.19). */
void weft_ring_recv(
	struct weft_ring *r, int fd, void *buf, size_t len, uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(r);

	io_uring_prep_recv(sqe, fd, buf, len, 0);
	sqe->ioprio = r->poll_first;
	io_uring_sqe_set_data64(sqe, user_data);
	r->inflight++;
}

/* A word shared with other processes: the kernel's own futex, waited for here. */
void weft_ring_futex_wait(struct weft_ring *r, uint32_t *word, uint32_t val,
	uint32_t bitset, uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(r);

	io_uring_prep_rw(OP_FUTEX_WAIT, sqe, FUTEX2_SIZE_U32, word, 0, val);
	sqe->addr3 = bitset;
	io_uring_sqe_set_data64(sqe, user_data);
	r->inflight++;
}

/* waitid(2) for a child of the process; what became of it is not asked here. */
void weft_ring_waitid(
	struct weft_ring *r, int idtype, int id, int options, uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(r);

	io_uring_prep_rw(OP_WAITID, sqe, id, NULL, (unsigned)idtype, 0);
	sqe->file_index = (unsigned)options;
	io_uring_sqe_set_data64(sqe, user_data);
	r->inflight++;
}

void weft_ring_cancel(struct weft_ring *r, uint64_t target)
{
	struct io_uring_sqe *sqe = next_sqe(r);

	io_uring_prep_cancel64(sqe, target, 0);
	io_uring_sqe_set_data64(sqe, target | CANCEL);
}

unsigned weft_ring_waits(const struct weft_ring *r)
{
	return load_relaxed(&r->inflight);
}

bool weft_ring_pending(const struct weft_ring *r)
{
	return r->inflight || io_uring_sq_ready(&r->ring) || io_uring_cq_ready(&r->ring);
}

/* ---- reaping -------------------------------------------------------------- */

static bool reap(struct carrier *c)
{
	struct weft_ring *r = c->ring;
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;

	io_uring_for_each_cqe(&r->ring, head, cqe)
	{
		uint64_t user_data = cqe->user_data;
		int res = cqe->res;

		n++;
		if (user_data == EVENT) {
			weft_ring_arm_event(r, r->event_fd, r->event_value);
			continue;
		}
		if (!user_data) /* weft_ring_evict */
			continue;
		if (user_data & CANCEL) {
			if (res == -EALREADY || res == -ENOENT)
				weft_io_cancel_failed(c, user_data & ~(uint64_t)CANCEL);
			continue;
		}
		r->inflight--;
		weft_io_complete(c, user_data, res);
	}
	if (!n)
		return false;
	io_uring_cq_advance(&r->ring, n);
	weft_count_add(c, CQES, n);
	return true;
}

bool weft_ring_reap(struct carrier *c)
{
	return io_uring_cq_ready(&c->ring->ring) && reap(c);
}

static void check(int r)
{
	/* What a full kernel says in passing; what is left is tried again. */
	if (r >= 0 || r == -EINTR || r == -EAGAIN || r == -EBUSY || r == -ETIME)
		return;
	weft_bug_error("io_uring_enter failed", r);
}

void weft_ring_flush(struct carrier *c)
{
	weft_count(c, ENTERS);
	if (!weft_fault_hits(WEFT_FAULT_IO_URING_ENTER))
		check(io_uring_submit_and_get_events(&c->ring->ring));
	reap(c);
}

void weft_ring_wait(struct carrier *c, uint64_t deadline_ns)
{
	struct __kernel_timespec ts, *tp = NULL;
	struct io_uring_cqe *cqe;

	if (deadline_ns != WEFT_NO_DEADLINE) {
		uint64_t now = weft_now_ns();
		uint64_t left = deadline_ns > now ? deadline_ns - now : 0;

		ts.tv_sec = (long long)(left / 1000000000u);
		ts.tv_nsec = (long long)(left % 1000000000u);
		tp = &ts;
	}
	weft_count(c, ENTERS);
	if (!weft_fault_hits(WEFT_FAULT_IO_URING_ENTER))
		check(io_uring_submit_and_wait_timeout(
			&c->ring->ring, &cqe, 1, tp, NULL));
	reap(c);
}

/*
 * One request cancels all of them (5.19). On an older kernel it fails, and they end on
 * this carrier in their own time. More completions than the queue holds come in rounds.
 */
bool weft_ring_evict(struct carrier *c)
{
	struct weft_ring *r = c->ring;
	unsigned before = r->inflight, left = before;

	if (!before)
		return true;
	struct io_uring_sqe *sqe = next_sqe(r);

	io_uring_prep_cancel64(sqe, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
	io_uring_sqe_set_data64(sqe, 0);
	do {
		left = r->inflight;
		weft_ring_flush(c);
	} while (r->inflight && r->inflight < left);
	weft_count_add(c, MOVED, before - r->inflight);
	return !r->inflight;
}
