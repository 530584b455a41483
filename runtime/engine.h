/*
 * engine.h - how a carrier waits in the kernel: with a ring of io_uring, or with an
 * epoll set where that is refused.
 *
 * Both take a fiber that has just left its stack and give it back, on the same
 * carrier, with a result. The ring makes some calls itself; the epoll set only ever
 * tells that a descriptor is ready, and the call follows on the carrier, in a form
 * that does not wait. The engine is chosen at the start and then constant; both are
 * known here so that the linker can inline them: a branch that is never mispredicted
 * costs less than a call through a pointer.
 */
#pragma once
#include "sched_impl.h"

struct msghdr;

static inline bool weft_on_epoll(void)
{
	return unlikely(weft_rt.engine == WEFT_ENGINE_EPOLL);
}

/* ---- engine.c: the choice ------------------------------------------------- */

/*
 * Chooses as the configuration says; -EXXX when only io_uring will do and even to
 * ask for it ends a process.
 */
int weft_engine_choose(void);
/* io_uring said no: true when epoll may be tried instead, which is chosen then. */
bool weft_engine_fall_back(int error);
/* "epoll", and in one word why. */
const char *weft_engine_name(void);
const char *weft_engine_reason(void);
/*
 * A call that usually does not wait, but has no form that never does, on the
 * carrier: -EINTR when it would have waited, a few microseconds later. Without a
 * timer for that it is made, and may wait, on a helper thread.
 */
long weft_call_briefly(long nr, const long args[6]);

/* ---- ring.c --------------------------------------------------------------- */

int weft_ring_open(struct weft_ring **ret);
int weft_ring_take_event(struct weft_ring *r, int event_fd);
int weft_ring_enable(struct weft_ring *r);
void weft_ring_close(struct weft_ring *r);
void weft_ring_forget(struct weft_ring *r);
int weft_ring_fd(const struct weft_ring *r);
void weft_ring_set_fd(struct weft_ring *r, int fd); /* a duplicate's number */
void weft_ring_arm_event(struct weft_ring *r, uint64_t *value);
/*
 * `tied`: the file is let go of when the process ends, not a moment later. Only where
 * weft_ring_can_futex().
 */
void weft_ring_poll(
	struct weft_ring *r, int fd, unsigned events, bool tied, uint64_t user_data);
void weft_ring_accept(struct weft_ring *r, int fd, void *addr, void *addrlen, int flags,
	bool tied, uint64_t user_data);
void weft_ring_connect(
	struct weft_ring *r, int fd, const void *addr, unsigned len, uint64_t user_data);
void weft_ring_recv(struct weft_ring *r, int fd, void *buf, size_t len, bool tied,
	uint64_t user_data);
void weft_ring_send(struct weft_ring *r, int fd, const void *buf, size_t len, int flags,
	uint64_t user_data);
void weft_ring_sendmsg(struct weft_ring *r, int fd, const struct msghdr *msg, int flags,
	uint64_t user_data);
void weft_ring_futex_wait(struct weft_ring *r, uint32_t *word, uint32_t val,
	uint32_t bitset, uint64_t user_data);
void weft_ring_waitid(
	struct weft_ring *r, int idtype, int id, int options, uint64_t user_data);
void weft_ring_cancel(struct weft_ring *r, uint64_t target);
/* What has been queued so far, and whether the kernel has taken all of it. */
unsigned weft_ring_mark(const struct weft_ring *r);
bool weft_ring_submitted(const struct weft_ring *r, unsigned mark);
void weft_ring_submit(struct weft_ring *r);
bool weft_ring_pending(const struct weft_ring *r); /* something to submit or reap */
bool weft_ring_reap(struct carrier *c);            /* what is there already */
void weft_ring_flush(struct carrier *c);           /* submit, run task work, reap */
void weft_ring_wait(struct carrier *c, uint64_t deadline_ns);
bool weft_ring_ready(const struct weft_ring *r);
bool weft_ring_completed(const struct weft_ring *r);
bool weft_ring_unsubmitted(const struct weft_ring *r);
unsigned weft_ring_waits(const struct weft_ring *r);
bool weft_ring_evict(struct carrier *c);
/* Which of enum weft_uring_feature are in use. */
unsigned weft_ring_features(void);

/* ---- engine_epoll.c ------------------------------------------------------- */

int weft_poller_open(struct weft_poller **ret);
void weft_poller_close(struct weft_poller *p);
void weft_poller_forget(struct weft_poller *p);
int weft_poller_fd(const struct weft_poller *p);
void weft_poller_set_fd(struct weft_poller *p, int fd);
int weft_poller_arm_event(struct weft_poller *p, int fd);
/*
 * f waits for fd, or for one more. 0, or the result of the wait when it is there
 * already; then f waits for nothing at all.
 */
long weft_poller_add(struct carrier *c, struct fiber *f, int fd, unsigned events);
/* f waits for what was added and for nothing more: it may be ended from now on. */
void weft_poller_abort(struct carrier *c, struct fiber *f);
/* The number `fd` that f waits for is about to be closed; `to` is the same file. */
void weft_poller_moved(struct fiber *f, int fd, int to);
/* The same for fibers that wait for several: they get numbers of their own. */
void weft_poller_closing(unsigned first, unsigned last);
/* They are closed: whoever began to wait meanwhile looks at what they mean now. */
void weft_poller_closed(unsigned first, unsigned last);
bool weft_poller_pending(const struct weft_poller *p);
bool weft_poller_reap(struct carrier *c);
void weft_poller_flush(struct carrier *c);
void weft_poller_wait(struct carrier *c, uint64_t deadline_ns);
bool weft_poller_completed(struct weft_poller *p);
unsigned weft_poller_waits(const struct weft_poller *p);
bool weft_poller_evict(struct carrier *c);

/* ---- either --------------------------------------------------------------- */

static inline int weft_engine_fd(const struct carrier *c)
{
	return weft_on_epoll() ? weft_poller_fd(c->poller) : weft_ring_fd(c->ring);
}

static inline void weft_engine_set_fd(struct carrier *c, int fd)
{
	if (weft_on_epoll())
		weft_poller_set_fd(c->poller, fd);
	else
		weft_ring_set_fd(c->ring, fd);
}

static inline int weft_engine_open(struct carrier *c)
{
	return weft_on_epoll() ? weft_poller_open(&c->poller) : weft_ring_open(&c->ring);
}

/* What weft_carrier_event() writes to wakes it up. Once both are open. */
static inline int weft_engine_take_event(struct carrier *c)
{
	return weft_on_epoll() ? weft_poller_arm_event(c->poller, c->event_fd)
			       : weft_ring_take_event(c->ring, c->event_fd);
}

/* On the carrier's own kernel thread, before its first fiber waits. */
static inline int weft_engine_enable(struct carrier *c)
{
	return weft_on_epoll() ? 0 : weft_ring_enable(c->ring);
}

/* … and when that thread is the carrier: its event is what wakes it up. */
static inline void weft_engine_enter(struct carrier *c)
{
	if (!weft_on_epoll())
		weft_ring_arm_event(c->ring, &c->event_value);
}

static inline void weft_engine_close(struct carrier *c)
{
	weft_ring_close(c->ring);
	weft_poller_close(c->poller);
	c->ring = NULL;
	c->poller = NULL;
}

/* In a fork child. */
static inline void weft_engine_forget(struct carrier *c)
{
	weft_ring_forget(c->ring);
	weft_poller_forget(c->poller);
}

static inline bool weft_engine_pending(const struct carrier *c)
{
	return weft_on_epoll() ? weft_poller_pending(c->poller)
			       : weft_ring_pending(c->ring);
}

static inline bool weft_engine_reap(struct carrier *c)
{
	return weft_on_epoll() ? weft_poller_reap(c) : weft_ring_reap(c);
}

static inline void weft_engine_flush(struct carrier *c)
{
	if (weft_on_epoll())
		weft_poller_flush(c);
	else
		weft_ring_flush(c);
}

static inline void weft_engine_wait(struct carrier *c, uint64_t deadline_ns)
{
	if (weft_on_epoll())
		weft_poller_wait(c, deadline_ns);
	else
		weft_ring_wait(c, deadline_ns);
}

/* Perhaps something is ready: on c's own thread, without asking the kernel. */
static inline bool weft_engine_ready(const struct carrier *c)
{
	return weft_on_epoll() ? weft_poller_waits(c->poller) : weft_ring_ready(c->ring);
}

/* What fibers wait for has not been begun; from anywhere, a moment old. */
static inline bool weft_engine_unsubmitted(const struct carrier *c)
{
	return !weft_on_epoll() && weft_ring_unsubmitted(c->ring);
}

/* Something is ready, as far as can be told from anywhere. */
static inline bool weft_engine_completed(const struct carrier *c)
{
	return weft_on_epoll() ? weft_poller_completed(c->poller)
			       : weft_ring_completed(c->ring);
}

/* What fibers wait for here; from anywhere, a moment old. */
static inline unsigned weft_engine_waits(const struct carrier *c)
{
	return weft_on_epoll() ? weft_poller_waits(c->poller) : weft_ring_waits(c->ring);
}

/*
 * On c's own thread: ends every wait; the fibers are ready afterwards, with
 * WEFT_WAKE_MOVED, and wait again where they run next. False when some are left.
 */
static inline bool weft_engine_evict(struct carrier *c)
{
	return weft_on_epoll() ? weft_poller_evict(c) : weft_ring_evict(c);
}
