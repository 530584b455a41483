/*
 * engine_epoll.c - a carrier's epoll set, where io_uring is refused.
 *
 * A descriptor stays in the set, disarmed (EPOLLONESHOT), after it was waited for: to
 * wait for it again costs one call and not two. What is in the set holds no file
 * open. It is known there by file *and* number, so a number that means another file
 * by now is not found (ENOENT) and added anew, and an entry whose number was closed
 * while its file lives on elsewhere is told from it by its serial.
 *
 * Several fibers may wait for one number: all their waiters stand in one bucket,
 * and the set looks for what any of them wants. Only the carrier itself adds, removes
 * and reaps; whoever closes a number changes waiters too, hence the lock.
 */
#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>

#include "engine.h"
#include "io_impl.h"

enum {
	FIRST_BUCKETS = 256,
	SLAB = 64 * 1024,
	EVENTS = 64, /* taken at once */
	/* What poll says of a file that cannot be waited for (linux/poll.h). */
	ALWAYS_READY = POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM,
};

static const uint64_t THE_EVENT = ~0ull; /* no number has this many bits */

struct poll_waiter {
	struct poll_waiter *next, **at; /* in its bucket */
	struct poll_waiter *sibling;    /* of the same fiber; or the next free one */
	struct fiber *fiber;
	int fd;
	uint32_t serial; /* of the last arming */
	uint16_t events;
	bool alone; /* an acceptor: one connection wakes one of them */
	bool moved; /* fd was closed by the program, and is a duplicate now … */
	bool own;   /* … that is closed with the waiter */
};

struct slab {
	struct slab *next;
};

struct weft_poller {
	struct weft_lock lock;
	int fd; /* (a) */
	uint32_t serial;
	unsigned count; /* (a) waiters */
	unsigned buckets;
	struct poll_waiter **bucket;
	struct poll_waiter *free;
	struct slab *slabs;
	struct fiber *ended; /* whose wait is over; linked by qnext */
};

static long control(struct weft_poller *p, int op, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event ev = {.events = events, .data.u64 = data};

	return weft_sys4(SYS_epoll_ctl, load_relaxed(&p->fd), op, fd, (long)&ev);
}

static long map(size_t size)
{
	return weft_sys_map(size, PROT_READ | PROT_WRITE, 0);
}

int weft_poller_open(struct weft_poller **ret)
{
	long at = map(sizeof(struct weft_poller)), buckets, fd;
	struct weft_poller *p = (struct weft_poller *)at;

	if (weft_sys_failed(at))
		return (int)at;
	buckets = map(FIRST_BUCKETS * sizeof *p->bucket);
	fd = weft_sys_failed(buckets) ? buckets
				      : weft_sys1(SYS_epoll_create1, EPOLL_CLOEXEC);
	if (weft_sys_failed(fd)) {
		if (!weft_sys_failed(buckets))
			weft_sys_unmap(
				(void *)buckets, FIRST_BUCKETS * sizeof *p->bucket);
		weft_sys_unmap(p, sizeof *p);
		return (int)fd;
	}
	p->fd = (int)fd;
	p->buckets = FIRST_BUCKETS;
	p->bucket = (struct poll_waiter **)buckets;
	*ret = p;
	return 0;
}

void weft_poller_close(struct weft_poller *p)
{
	if (!p)
		return;
	weft_sys1(SYS_close, p->fd);
	for (struct slab *s = p->slabs, *next; s; s = next) {
		next = s->next;
		weft_sys_unmap(s, SLAB);
	}
	weft_sys_unmap(p->bucket, p->buckets * sizeof *p->bucket);
	weft_sys_unmap(p, sizeof *p);
}

/* In a fork child: the set is the parent's, the memory a copy. */
void weft_poller_forget(struct weft_poller *p)
{
	weft_poller_close(p);
}

int weft_poller_fd(const struct weft_poller *p)
{
	return load_relaxed(&p->fd);
}

void weft_poller_set_fd(struct weft_poller *p, int fd)
{
	store_relaxed(&p->fd, fd);
}

/* Each write to it is an edge: it never has to be read. */
int weft_poller_arm_event(struct weft_poller *p, int fd)
{
	return (int)control(p, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLET, THE_EVENT);
}

/* ---- waiters (all with the lock held) ------------------------------------- */

static struct poll_waiter **bucket_of(struct weft_poller *p, int fd)
{
	return &p->bucket[(unsigned)fd & (p->buckets - 1)];
}

static void link_in(struct weft_poller *p, struct poll_waiter *w)
{
	struct poll_waiter **at = bucket_of(p, w->fd);

	/* At the end: who waits longest is served first. */
	while (*at)
		at = &(*at)->next;
	w->next = NULL;
	w->at = at;
	*at = w;
}

static void unlink_from(struct poll_waiter *w)
{
	*w->at = w->next;
	if (w->next)
		w->next->at = w->at;
}

/* More buckets when they get full; without memory for that they get fuller. */
static void grow(struct weft_poller *p)
{
	unsigned old_buckets = p->buckets;
	struct poll_waiter **old = p->bucket;
	long at = map(2 * old_buckets * sizeof *old);

	if (weft_sys_failed(at))
		return;
	p->bucket = (struct poll_waiter **)at;
	p->buckets = 2 * old_buckets;
	for (unsigned i = 0; i < old_buckets; i++)
		for (struct poll_waiter *w = old[i], *next; w; w = next) {
			next = w->next;
			link_in(p, w);
		}
	weft_sys_unmap(old, old_buckets * sizeof *old);
}

static struct poll_waiter *take(struct weft_poller *p)
{
	struct poll_waiter *w = p->free;

	if (unlikely(!w)) {
		long at = map(SLAB);
		struct slab *s = (struct slab *)at;
		struct poll_waiter *all = (struct poll_waiter *)(s + 1);

		if (weft_sys_failed(at))
			return NULL;
		s->next = p->slabs;
		p->slabs = s;
		for (size_t i = 0; i < (SLAB - sizeof *s) / sizeof *all; i++) {
			all[i].sibling = w;
			w = &all[i];
		}
	}
	p->free = w->sibling;
	return w;
}

static void remove_all(struct weft_poller *p, struct fiber *f)
{
	struct poll_waiter *w = f->io_waiters;

	f->io_waiters = NULL;
	while (w) {
		struct poll_waiter *next = w->sibling;

		unlink_from(w);
		/* The program does not know the number: nobody else removes it. */
		if (unlikely(w->moved))
			control(p, EPOLL_CTL_DEL, w->fd, 0, 0);
		if (unlikely(w->own))
			weft_sys1(SYS_close, w->fd);
		w->sibling = p->free;
		p->free = w;
		store_relaxed(&p->count, p->count - 1);
		w = next;
	}
}

/* The fiber's wait is over with this result; its carrier says so to it. */
static void end(struct weft_poller *p, struct fiber *f, long res)
{
	remove_all(p, f);
	f->io_in_set = false;
	f->io_res = (int)res;
	f->qnext = p->ended;
	p->ended = f;
}

/* Lets the set look for what all waiters of fd want. */
static long arm(struct weft_poller *p, int fd)
{
	uint32_t events = EPOLLONESHOT, serial = ++p->serial;
	uint64_t data = (uint64_t)serial << 32 | (uint32_t)fd;
	long r;

	for (struct poll_waiter *w = *bucket_of(p, fd); w; w = w->next)
		if (w->fd == fd) {
			events |= w->events;
			w->serial = serial;
		}
	r = control(p, EPOLL_CTL_MOD, fd, events, data);
	if (r == -ENOENT)
		r = control(p, EPOLL_CTL_ADD, fd, events, data);
	return r;
}

/* The same for w: 0, or the result of its wait when it is there already. */
static long arm_for(struct weft_poller *p, const struct poll_waiter *w)
{
	long r = arm(p, w->fd);

	/* A regular file, or another that makes nobody wait. */
	return r == -EPERM ? (int)(w->events & ALWAYS_READY) : r;
}

/* ---- adding --------------------------------------------------------------- */

static long add(struct weft_poller *p, struct fiber *f, int fd, unsigned events)
{
	struct poll_waiter *w = take(p);

	if (!w)
		return -ENOMEM;
	w->fiber = f;
	w->fd = fd;
	w->events = (uint16_t)events;
	w->alone = f->reason == WEFT_REASON_ACCEPT;
	w->moved = w->own = false;
	w->sibling = f->io_waiters;
	f->io_waiters = w;
	link_in(p, w);
	store_relaxed(&p->count, p->count + 1);
	return arm_for(p, w);
}

long weft_poller_add(struct carrier *c, struct fiber *f, int fd, unsigned events)
{
	struct weft_poller *p = c->poller;
	long r;

	weft_count(c, SQES);
	weft_lock(&p->lock);
	/* Closed just now? Then it has got another number. */
	if (f->io_fd >= 0)
		fd = load_seq_cst(&f->io_fd);
	if (p->count > 2 * p->buckets)
		grow(p);
	r = add(p, f, fd, events & 0xffff);
	f->io_pending = !r;
	f->io_in_set = !r;
	if (r)
		remove_all(p, f);
	weft_unlock(&p->lock);
	return r;
}

void weft_poller_abort(struct carrier *c, struct fiber *f)
{
	struct weft_poller *p = c->poller;

	weft_lock(&p->lock);
	if (f->io_in_set)
		end(p, f, -ECANCELED);
	weft_unlock(&p->lock);
}

/* ---- closing -------------------------------------------------------------- */

/* Gives a waiter another number of the same file. */
static bool move(struct weft_poller *p, struct poll_waiter *w, int to, bool own)
{
	unlink_from(w);
	w->fd = to;
	w->moved = true;
	w->own = own;
	link_in(p, w);
	return arm(p, to) == 0;
}

void weft_poller_moved(struct fiber *f, int fd, int to)
{
	for (unsigned i = 0; i < load_acquire(&weft_rt.carriers); i++) {
		struct carrier *c = weft_rt.carrier[i];
		struct poll_waiter *w;

		weft_lock(&c->poller->lock);
		for (w = *bucket_of(c->poller, fd); w; w = w->next)
			if (w->fd == fd && w->fiber == f)
				break;
		/* Still the same wait, not its next one for the same number? */
		if (w && load_seq_cst(&f->io_fd) == to && !move(c->poller, w, to, false))
			end(c->poller, f, -EBADF);
		weft_unlock(&c->poller->lock);
		if (w) {
			weft_carrier_wake(c);
			return;
		}
	}
}

/* How many buckets the numbers are in, beginning with that of the first. */
static unsigned buckets_of(const struct weft_poller *p, unsigned first, unsigned last)
{
	return last - first < p->buckets ? last - first + 1 : p->buckets;
}

/* Does it wait for such a number, as the program gave it? */
static bool is_of(const struct poll_waiter *w, unsigned first, unsigned last)
{
	return (unsigned)w->fd >= first && (unsigned)w->fd <= last && !w->moved;
}

static struct poll_waiter *first_in(struct weft_poller *p, unsigned first, unsigned last)
{
	unsigned n = buckets_of(p, first, last);

	for (unsigned i = 0; i < n; i++)
		for (struct poll_waiter *w = *bucket_of(p, (int)(first + i)); w;
			w = w->next)
			if (is_of(w, first, last))
				return w;
	return NULL;
}

void weft_poller_closing(unsigned first, unsigned last)
{
	for (unsigned i = 0; i < load_acquire(&weft_rt.carriers); i++) {
		struct carrier *c = weft_rt.carrier[i];
		struct weft_poller *p = c->poller;
		struct poll_waiter *w;
		bool ended = false;

		weft_lock(&p->lock);
		while ((w = first_in(p, first, last))) {
			int fd = w->fd, to = weft_fd_duplicate(fd);

			/* Out of numbers: it hears now that something is wrong. */
			if (to < 0 || !move(p, w, to, true)) {
				end(p, w->fiber, -EBADF);
				ended = true;
			}
			control(p, EPOLL_CTL_DEL, fd, 0, 0);
		}
		if (first == last)
			control(p, EPOLL_CTL_DEL, (int)first, 0, 0);
		weft_unlock(&p->lock);
		if (ended)
			weft_carrier_wake(c);
	}
}

/* Looks again for those of [first, last] that have the numbers' files of now. */
static bool arm_again(struct weft_poller *p, unsigned first, unsigned last)
{
	unsigned n = buckets_of(p, first, last);
	bool ended = false;

	for (unsigned i = 0; i < n; i++) {
		struct poll_waiter **bucket = bucket_of(p, (int)(first + i)), *w;

		for (w = *bucket; w;) {
			long r = is_of(w, first, last) ? arm_for(p, w) : 0;

			if (!r) {
				w = w->next;
				continue;
			}
			end(p, w->fiber, r);
			ended = true;
			w = *bucket; /* it may have had several here */
		}
	}
	return ended;
}

void weft_poller_closed(unsigned first, unsigned last)
{
	for (unsigned i = 0; i < load_acquire(&weft_rt.carriers); i++) {
		struct carrier *c = weft_rt.carrier[i];
		bool ended;

		weft_lock(&c->poller->lock);
		ended = arm_again(c->poller, first, last);
		weft_unlock(&c->poller->lock);
		if (ended)
			weft_carrier_wake(c);
	}
}

/* ---- reaping -------------------------------------------------------------- */

bool weft_poller_pending(const struct weft_poller *p)
{
	return load_relaxed(&p->count) || load_relaxed(&p->ended);
}

static struct poll_waiter *next_match(
	struct weft_poller *p, int fd, uint32_t serial, uint32_t revents, bool *alone)
{
	struct poll_waiter *w;

	for (w = *bucket_of(p, fd); w; w = w->next) {
		if (w->fd != fd || w->serial != serial ||
			!(revents & (w->events | (unsigned)(POLLERR | POLLHUP))))
			continue;
		if (!w->alone)
			return w;
		if (!*alone) {
			*alone = true;
			return w;
		}
	}
	return NULL;
}

static void fired(struct weft_poller *p, const struct epoll_event *ev)
{
	int fd = (int)(uint32_t)ev->data.u64;
	uint32_t serial = (uint32_t)(ev->data.u64 >> 32);
	bool alone = false, more = false;
	struct poll_waiter *w;
	long r;

	if (ev->data.u64 == THE_EVENT)
		return;
	while ((w = next_match(p, fd, serial, ev->events, &alone)))
		end(p, w->fiber,
			ev->events & (w->events | (unsigned)(POLLERR | POLLHUP)));
	for (w = *bucket_of(p, fd); w; w = w->next)
		more |= w->fd == fd && w->serial == serial;
	r = more ? arm(p, fd) : 0;
	if (!r)
		return;
	for (;;) {
		for (w = *bucket_of(p, fd); w && w->fd != fd; w = w->next)
			;
		if (!w)
			break;
		end(p, w->fiber, r);
	}
}

static bool resume(struct carrier *c)
{
	struct weft_poller *p = c->poller;
	struct fiber *f, *rev = NULL;
	unsigned n = 0;

	weft_lock(&p->lock);
	f = p->ended;
	store_relaxed(&p->ended, NULL);
	weft_unlock(&p->lock);
	while (f) { /* newest first: turn it round */
		struct fiber *next = f->qnext;

		f->qnext = rev;
		rev = f;
		f = next;
	}
	for (; rev; n++) {
		f = rev;
		rev = f->qnext;
		weft_io_finish(f, WEFT_WAKE_DONE);
	}
	weft_count_add(c, CQES, n);
	return n > 0;
}

/* Waits without epoll_pwait2 (before Linux 5.11, or filtered), and still exactly. */
static long wait_with_poll(
	struct weft_poller *p, struct epoll_event *events, const struct timespec *t)
{
	struct pollfd set = {load_relaxed(&p->fd), POLLIN, 0};
	struct timespec left;

	if (t)
		left = *t; /* the kernel writes back what is left */
	weft_sys5(SYS_ppoll, (long)&set, 1, t ? (long)&left : 0, 0, 8);
	return weft_sys4(SYS_epoll_wait, set.fd, (long)events, EVENTS, 0);
}

static bool no_pwait2; /* (a) */

static void take_events(struct carrier *c, const struct timespec *t)
{
	struct weft_poller *p = c->poller;
	struct epoll_event events[EVENTS];
	long n = -ENOSYS;

	weft_count(c, ENTERS);
	if (t && !t->tv_sec && !t->tv_nsec) {
		n = weft_sys4(
			SYS_epoll_wait, load_relaxed(&p->fd), (long)events, EVENTS, 0);
	} else if (!t) {
		n = weft_sys4(
			SYS_epoll_wait, load_relaxed(&p->fd), (long)events, EVENTS, -1);
	} else {
		if (!load_relaxed(&no_pwait2))
			n = weft_sys6(SYS_epoll_pwait2, load_relaxed(&p->fd),
				(long)events, EVENTS, (long)t, 0, 8);
		if (n == -ENOSYS || n == -EPERM) {
			store_relaxed(&no_pwait2, true);
			n = wait_with_poll(p, events, t);
		}
	}
	if (n < 0 && n != -EINTR)
		weft_bug_error("epoll_wait failed", n);
	if (n > 0) {
		weft_lock(&p->lock);
		for (long i = 0; i < n; i++)
			fired(p, &events[i]);
		weft_unlock(&p->lock);
	}
}

bool weft_poller_reap(struct carrier *c)
{
	return load_relaxed(&c->poller->ended) && resume(c);
}

void weft_poller_flush(struct carrier *c)
{
	static const struct timespec now = {0, 0};

	if (load_relaxed(&c->poller->count))
		take_events(c, &now);
	resume(c);
}

void weft_poller_wait(struct carrier *c, uint64_t deadline_ns)
{
	struct timespec ts, *t = NULL;
	bool ended;

	if (deadline_ns != WEFT_NO_DEADLINE) {
		uint64_t now = weft_now_ns();
		uint64_t left = deadline_ns > now ? deadline_ns - now : 0;

		ts.tv_sec = (time_t)(left / 1000000000u);
		ts.tv_nsec = (long)(left % 1000000000u);
		t = &ts;
	}
	/* Who closes a number ends waits under the lock and then looks for sleepers. */
	weft_lock(&c->poller->lock);
	ended = c->poller->ended;
	weft_unlock(&c->poller->lock);
	if (!ended)
		take_events(c, t);
	resume(c);
}

/* From a thread whose descriptors are older than the set's it finds nothing. */
bool weft_poller_completed(struct weft_poller *p)
{
	struct pollfd set = {load_relaxed(&p->fd), POLLIN, 0};

	return load_relaxed(&p->ended) ||
	       (load_relaxed(&p->count) && weft_sys3(SYS_poll, (long)&set, 1, 0) > 0 &&
		       set.revents & POLLIN);
}

unsigned weft_poller_waits(const struct weft_poller *p)
{
	return load_relaxed(&p->count);
}

bool weft_poller_evict(struct carrier *c)
{
	struct weft_poller *p = c->poller;
	unsigned n = 0;

	weft_lock(&p->lock);
	for (unsigned i = 0; i < p->buckets; i++)
		while (p->bucket[i]) {
			struct fiber *f = p->bucket[i]->fiber;

			f->io_cancelled = 1;
			f->io_how = WEFT_WAKE_MOVED;
			end(p, f, -ECANCELED);
			n++;
		}
	weft_unlock(&p->lock);
	resume(c);
	weft_count_add(c, MOVED, n);
	return true;
}
