/*
 * ring.c - a carrier's io_uring; the only file that includes liburing.h.
 *
 * Each ring belongs to one carrier: only it submits, only it reaps. Operations
 * carry the fiber in their user_data (io.c packs it), cancels that of what they
 * cancel plus CANCEL; EVENT is the eventfd that wakes a sleeping carrier.
 *
 * Rings are opened by the thread that starts the runtime, disabled, and enabled
 * by their carrier: SINGLE_ISSUER binds a ring to the task that enables it. The
 * flags are tried from the best to none, down to Linux 5.15. What is used beyond that
 * is listed in uring_features.def and can be switched off.
 */
#include <errno.h>
#include <liburing.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "engine.h"

enum {
	SQ_ENTRIES = 256,
	CQ_ENTRIES = 4096,
	FEW_ENTRIES = 32,
	STASHED = 4095,
	EVENT = 1,
	CANCEL = 2,     /* fibers are aligned: no bit of theirs */
	OP_WAITID = 50, /* linux 6.7, not in Debian 12's headers */
	OP_FUTEX_WAIT = 51,
	FUTEX2_SIZE_U32 = 2,
	FUTEX2_PRIVATE = 128,
};

/* Completions taken out of a full ring, for the next reaping. */
struct stash {
	struct stash *next;
	unsigned count, taken;
	struct {
		uint64_t user_data;
		int res;
	} cqe[STASHED];
};

struct weft_ring {
	struct io_uring ring;
	struct stash *stash; /* oldest first */
	uint16_t poll_first; /* IORING_RECVSEND_POLL_FIRST, or 0 before 5.19 */
	unsigned inflight;   /* operations whose completion is still to come */
	uint64_t *event_value;
};

static bool has_futex, has_waitid;
static unsigned features; /* in use, as far as the flags of a ring tell */

static const struct {
	unsigned flags, features;
} flag_sets[] = {
	{IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			IORING_SETUP_TASKRUN_FLAG,
		WEFT_URING_single_issuer | WEFT_URING_defer_taskrun |
			WEFT_URING_taskrun_flag},
	{IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN |
			IORING_SETUP_TASKRUN_FLAG,
		WEFT_URING_single_issuer | WEFT_URING_coop_taskrun |
			WEFT_URING_taskrun_flag},
	{IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		WEFT_URING_coop_taskrun | WEFT_URING_taskrun_flag},
	{IORING_SETUP_COOP_TASKRUN, WEFT_URING_coop_taskrun},
	{0, 0},
};

static bool wanted(unsigned feature)
{
	return !(weft_rt.config.uring_without & feature);
}

unsigned weft_ring_features(void)
{
	unsigned tried = WEFT_URING_cancel_any | WEFT_URING_submit_overflow |
			 WEFT_URING_large_rings;

	/* A better way to the same end is nothing that is missing. */
	if (features & WEFT_URING_defer_taskrun)
		tried |= WEFT_URING_coop_taskrun;
	return features | (has_futex ? WEFT_URING_futex_wait : 0) |
	       (has_waitid ? WEFT_URING_waitid : 0) |
	       (tried & ~weft_rt.config.uring_without);
}

int weft_ring_open(struct weft_ring **ret)
{
	long p = weft_sys_map(sizeof(struct weft_ring), PROT_READ | PROT_WRITE, 0);
	struct weft_ring *r = (struct weft_ring *)p;
	int err = -ENOSYS;

	if (weft_sys_failed(p))
		return (int)p;
	for (size_t i = 0; i < sizeof flag_sets / sizeof *flag_sets; i++) {
		bool large = wanted(WEFT_URING_large_rings);
		struct io_uring_params params = {
			.flags = flag_sets[i].flags | IORING_SETUP_R_DISABLED |
				 IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
			.cq_entries = large ? CQ_ENTRIES : FEW_ENTRIES,
		};

		if (weft_rt.config.uring_without & flag_sets[i].features)
			continue;
		err = weft_fault_hits(WEFT_FAULT_IO_URING_SETUP)
			      ? -ENOSYS
			      : io_uring_queue_init_params(
					large ? SQ_ENTRIES : FEW_ENTRIES, &r->ring,
					&params);
		features = flag_sets[i].features;
		/* COOP_TASKRUN came with the same kernel as POLL_FIRST. */
		r->poll_first = 0;
		if (features && wanted(WEFT_URING_poll_first)) {
			features |= WEFT_URING_poll_first;
			r->poll_first = IORING_RECVSEND_POLL_FIRST;
		}
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
	has_futex = wanted(WEFT_URING_futex_wait) && p->last_op >= OP_FUTEX_WAIT &&
		    (p->ops[OP_FUTEX_WAIT].flags & IO_URING_OP_SUPPORTED);
	has_waitid = wanted(WEFT_URING_waitid) && p->last_op >= OP_WAITID &&
		     (p->ops[OP_WAITID].flags & IO_URING_OP_SUPPORTED);
}

/*
 * The event is the ring's file 0: its number may become the program's
 * (weft_runtime_move_fd) while a read of it is queued, or before the next one is. Where
 * the ring is opened: the kernel refuses it by the limit of descriptors, which the
 * program may lower as soon as it has made its first thread. (Not
 * io_uring_register_files(), which has a stack protector; see weft_ring_wait.)
 */
int weft_ring_take_event(struct weft_ring *r, int event_fd)
{
	return (int)weft_sys4(SYS_io_uring_register, r->ring.ring_fd,
		IORING_REGISTER_FILES, (long)&event_fd, 1);
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
	return has_futex && !weft_on_epoll();
}

bool weft_ring_can_waitid(void)
{
	return has_waitid && !weft_on_epoll();
}

void weft_ring_close(struct weft_ring *r)
{
	if (!r)
		return;
	io_uring_queue_exit(&r->ring);
	for (struct stash *s = r->stash, *next; s; s = next) {
		next = s->next;
		weft_sys_unmap(s, sizeof *s);
	}
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

/* ---- submitting ----------------------------------------------------------- */

/* liburing's own ways to look would enter the kernel when there is none. */
static const struct io_uring_cqe *first_cqe(const struct weft_ring *r)
{
	return &r->ring.cq.cqes[*r->ring.cq.khead & r->ring.cq.ring_mask];
}

/*
 * Before Linux 6.0 nothing is submitted while completions overflow: here they are
 * put aside, so that the kernel finds room for the others. To reap them would resume
 * fibers, in the middle of whatever wants to submit.
 */
static void put_aside(struct weft_ring *r)
{
	struct stash **at = &r->stash;

	while (*at && (*at)->next)
		at = &(*at)->next;
	while (io_uring_cq_ready(&r->ring)) {
		const struct io_uring_cqe *cqe = first_cqe(r);
		struct stash *s = *at;

		if (!s || s->count == STASHED) {
			long p = weft_sys_map(sizeof *s, PROT_READ | PROT_WRITE, 0);

			if (weft_sys_failed(p))
				weft_bug("no memory for completions");
			if (s)
				at = &s->next;
			*at = s = (struct stash *)p;
		}
		s->cqe[s->count].user_data = cqe->user_data;
		s->cqe[s->count++].res = cqe->res;
		io_uring_cq_advance(&r->ring, 1);
		weft_count(weft_carrier_self(), ASIDE);
	}
}

/* What an old kernel would say now; see WEFT_URING=-submit_overflow. */
static bool refuses(struct weft_ring *r)
{
	return !wanted(WEFT_URING_submit_overflow) &&
	       io_uring_cq_has_overflow(&r->ring) &&
	       io_uring_cq_ready(&r->ring) >= r->ring.cq.ring_entries;
}

/* Gives the kernel all that is queued, whatever stands in the way. */
static void submit_all(struct weft_ring *r)
{
	while (io_uring_sq_ready(&r->ring)) {
		int n = unlikely(refuses(r)) ? -EBUSY : io_uring_submit(&r->ring);

		if (n >= 0 || n == -EINTR)
			continue;
		if (n == -EBUSY)
			put_aside(r);
		else if (n == -EAGAIN) /* no memory at the moment */
			weft_sys0(SYS_sched_yield);
		else
			weft_bug_error("io_uring_enter refused a submission", n);
	}
}

static struct io_uring_sqe *next_sqe(struct weft_ring *r)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

	if (unlikely(!sqe)) {
		submit_all(r);
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
	submit_all(r);
}

void weft_ring_arm_event(struct weft_ring *r, uint64_t *value)
{
	struct io_uring_sqe *sqe = next_sqe(r);

	r->event_value = value;
	io_uring_prep_read(sqe, 0, value, sizeof *value, 0);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data64(sqe, EVENT);
}

/*
 * A request that is in a ring holds its file open. The kernel lets go of it some ten
 * milliseconds after the process has ended and its parent knows (io_ring_exit_work): a
 * server that is killed and started again would find its port in use, and who writes to
 * a pipe whose reader is dead would not hear of it. As a task ends the kernel cancels
 * what it counts as in flight (io_uring_files_cancel), which is futex waits (Linux 6.16)
 * and what one of those is linked to. So a request that is `tied` to the process gets one
 * behind it, which does not wait: the word is not what it is to be. Where the kernel does
 * not count them it does no harm.
 *
 * Only those of files that others can see (weft_fd_others_see): an echo server's requests
 * would take 1.05 to 1.08 of the CPU time.
 */
static struct io_uring_sqe *first_sqe(struct weft_ring *r, bool tied)
{
	/* A chain ends where a submission does. */
	if (tied && io_uring_sq_space_left(&r->ring) < 2)
		submit_all(r);
	return next_sqe(r);
}

static void tie(struct weft_ring *r, struct io_uring_sqe *sqe, bool tied)
{
	static uint32_t word; /* (c) */

	if (!tied)
		return;
	io_uring_sqe_set_flags(sqe, IOSQE_IO_LINK);
	sqe = next_sqe(r);
	io_uring_prep_rw(
		OP_FUTEX_WAIT, sqe, FUTEX2_SIZE_U32 | FUTEX2_PRIVATE, &word, 0, 1);
	sqe->addr3 = 1;
	io_uring_sqe_set_data64(sqe, 0);
}

void weft_ring_poll(
	struct weft_ring *r, int fd, unsigned events, bool tied, uint64_t user_data)
{
	struct io_uring_sqe *sqe = first_sqe(r, tied);

	io_uring_prep_poll_add(sqe, fd, events);
	io_uring_sqe_set_data64(sqe, user_data);
	tie(r, sqe, tied);
	r->inflight++;
}

void weft_ring_accept(struct weft_ring *r, int fd, void *addr, void *addrlen, int flags,
	bool tied, uint64_t user_data)
{
	struct io_uring_sqe *sqe = first_sqe(r, tied);

	io_uring_prep_accept(sqe, fd, addr, addrlen, flags);
	io_uring_sqe_set_data64(sqe, user_data);
	tie(r, sqe, tied);
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
	struct weft_ring *r, int fd, void *buf, size_t len, bool tied, uint64_t user_data)
{
	struct io_uring_sqe *sqe = first_sqe(r, tied);

	io_uring_prep_recv(sqe, fd, buf, len, 0);
	sqe->ioprio = r->poll_first;
	io_uring_sqe_set_data64(sqe, user_data);
	tie(r, sqe, tied);
	r->inflight++;
}

/* What does not fit is not waited for, if flags say so (MSG_DONTWAIT). */
void weft_ring_send(struct weft_ring *r, int fd, const void *buf, size_t len, int flags,
	uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(r);

	io_uring_prep_send(sqe, fd, buf, len, flags);
	io_uring_sqe_set_data64(sqe, user_data);
	r->inflight++;
}

void weft_ring_sendmsg(struct weft_ring *r, int fd, const struct msghdr *msg, int flags,
	uint64_t user_data)
{
	struct io_uring_sqe *sqe = next_sqe(r);

	io_uring_prep_sendmsg(sqe, fd, msg, (unsigned)flags);
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

/*
 * The kernel says when it has something to do here, since 5.19; before that it
 * interrupts who computes to do it.
 */
bool weft_ring_completed(const struct weft_ring *r)
{
	unsigned told = IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW;

	return io_uring_cq_ready(&r->ring) ||
	       IO_URING_READ_ONCE(*r->ring.sq.kflags) & told;
}

bool weft_ring_unsubmitted(const struct weft_ring *r)
{
	return load_relaxed(&r->ring.sq.sqe_tail) != load_relaxed(&r->ring.sq.sqe_head);
}

bool weft_ring_ready(const struct weft_ring *r)
{
	if (weft_ring_completed(r) || r->stash)
		return true;
	return !(features & WEFT_URING_taskrun_flag) && r->inflight;
}

unsigned weft_ring_waits(const struct weft_ring *r)
{
	return load_relaxed(&r->inflight);
}

bool weft_ring_pending(const struct weft_ring *r)
{
	return r->inflight || io_uring_sq_ready(&r->ring) ||
	       io_uring_cq_ready(&r->ring) || r->stash;
}

/* ---- reaping -------------------------------------------------------------- */

static void complete(struct carrier *c, uint64_t user_data, int res)
{
	struct weft_ring *r = c->ring;

	if (user_data == EVENT) {
		weft_ring_arm_event(r, r->event_value);
		return;
	}
	if (!user_data) /* weft_ring_evict */
		return;
	if (user_data & CANCEL) {
		if (res == -EALREADY || res == -ENOENT)
			weft_io_cancel_failed(c, user_data & ~(uint64_t)CANCEL);
		return;
	}
	r->inflight--;
	weft_io_complete(c, user_data, res);
}

/* What was put aside is older than all that is in the ring. */
static unsigned reap_stash(struct carrier *c)
{
	struct weft_ring *r = c->ring;
	unsigned n = 0;

	while (r->stash) {
		struct stash *s = r->stash;

		if (s->taken == s->count) {
			r->stash = s->next;
			weft_sys_unmap(s, sizeof *s);
			continue;
		}
		complete(c, s->cqe[s->taken].user_data, s->cqe[s->taken].res);
		s->taken++;
		n++;
	}
	return n;
}

/*
 * Each is taken out of the ring before it is looked at: that may submit, and find
 * that completions have to be put aside.
 */
static bool reap(struct carrier *c)
{
	struct weft_ring *r = c->ring;
	unsigned n = unlikely(r->stash) ? reap_stash(c) : 0;

	for (unsigned left = io_uring_cq_ready(&r->ring);
		left && io_uring_cq_ready(&r->ring); left--, n++) {
		const struct io_uring_cqe *cqe = first_cqe(r);
		uint64_t user_data = cqe->user_data;
		int res = cqe->res;

		io_uring_cq_advance(&r->ring, 1);
		complete(c, user_data, res);
	}
	if (!n)
		return false;
	weft_count_add(c, CQES, n);
	return true;
}

bool weft_ring_reap(struct carrier *c)
{
	return (io_uring_cq_ready(&c->ring->ring) || c->ring->stash) && reap(c);
}

static void check(int r)
{
	/* What a full kernel says in passing; what is left is tried again. */
	if (r >= 0 || r == -EINTR || r == -EAGAIN || r == -EBUSY || r == -ETIME)
		return;
	weft_bug_error("io_uring_enter failed", r);
}

/* The kernel is about to be given all that is queued. False: a test forbids it. */
static bool may_enter(struct carrier *c)
{
	weft_count(c, ENTERS);
	c->answers = 0;
	return !weft_fault_hits(WEFT_FAULT_IO_URING_ENTER);
}

void weft_ring_flush(struct carrier *c)
{
	if (may_enter(c))
		check(io_uring_submit_and_get_events(&c->ring->ring));
	reap(c);
}

/* Shows the kernel what is queued, as io_uring_submit() does before it enters. */
static unsigned publish(struct io_uring_sq *sq)
{
	unsigned tail = *sq->ktail;

	for (; sq->sqe_head != sq->sqe_tail; sq->sqe_head++, tail++)
		sq->array[tail & sq->ring_mask] = sq->sqe_head & sq->ring_mask;
	io_uring_smp_store_release(sq->ktail, tail);
	return tail - io_uring_smp_load_acquire(sq->khead);
}

/*
 * Not io_uring_submit_and_wait_timeout(): Debian compiles it with the stack protector,
 * and it sleeps between its two looks at the canary. That would be the one of whichever
 * fiber ran here last, whose thread control block may be gone meanwhile; to leave its
 * FS base first costs two writes for every wait. scripts/symbols.sh looks for others.
 */
void weft_ring_wait(struct carrier *c, uint64_t deadline_ns)
{
	struct io_uring *ring = &c->ring->ring;
	struct __kernel_timespec ts;
	struct io_uring_getevents_arg arg = {.sigmask_sz = _NSIG / 8};

	if (deadline_ns != WEFT_NO_DEADLINE) {
		uint64_t now = weft_now_ns();
		uint64_t left = deadline_ns > now ? deadline_ns - now : 0;

		ts.tv_sec = (long long)(left / 1000000000u);
		ts.tv_nsec = (long long)(left % 1000000000u);
		arg.ts = (uintptr_t)&ts;
	}
	if (may_enter(c))
		check(io_uring_enter2((unsigned)ring->enter_ring_fd, publish(&ring->sq),
			1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG,
			(sigset_t *)&arg, sizeof arg));
	reap(c);
}

/* More completions than the queue holds come in rounds. */
static void flush_while_it_helps(struct carrier *c)
{
	unsigned left;

	do {
		left = c->ring->inflight;
		weft_ring_flush(c);
	} while (c->ring->inflight && c->ring->inflight < left);
}

/*
 * One request cancels all of them (5.19). On an older kernel it fails, and each is
 * cancelled by itself.
 */
bool weft_ring_evict(struct carrier *c)
{
	struct weft_ring *r = c->ring;
	unsigned before = r->inflight;

	if (!before)
		return true;
	if (wanted(WEFT_URING_cancel_any)) {
		struct io_uring_sqe *sqe = next_sqe(r);

		io_uring_prep_cancel64(
			sqe, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
		io_uring_sqe_set_data64(sqe, 0);
		flush_while_it_helps(c);
	}
	if (r->inflight == before) {
		weft_io_move_all(c);
		flush_while_it_helps(c);
	}
	weft_count_add(c, MOVED, before - r->inflight);
	return !r->inflight;
}
