/*
 * timer.c - deadlines of parked fibers: a 4-ary heap on each carrier.
 *
 * A fiber arms its timer in the commit of its park, on the carrier it parks on.
 * The timer fires there; the fiber may be woken by others and then disarms it
 * from wherever it runs, hence the lock. Firing claims the fiber (weft_claim), so
 * a wake-up and a timeout can never both win. A fiber with operations in a ring
 * is not claimed: its operations are cancelled and the completion reports the
 * timeout, because the ring still points at it.
 */
#include <errno.h>
#include <sys/mman.h>

#include "deadline.h"
#include "sched_impl.h"

enum { FANOUT = 4, FIRST_ROOM = 512 };

static void place(struct timer_heap *h, uint32_t i, struct fiber *f)
{
	h->slot[i] = f;
	f->timer_index = i;
}

static void sift_up(struct timer_heap *h, uint32_t i, struct fiber *f)
{
	while (i > 0) {
		uint32_t up = (i - 1) / FANOUT;

		if (h->slot[up]->deadline <= f->deadline)
			break;
		place(h, i, h->slot[up]);
		i = up;
	}
	place(h, i, f);
}

static void sift_down(struct timer_heap *h, uint32_t i, struct fiber *f)
{
	for (;;) {
		uint32_t child = i * FANOUT + 1, best = child;

		if (child >= h->count)
			break;
		for (uint32_t k = child + 1; k < child + FANOUT && k < h->count; k++)
			if (h->slot[k]->deadline < h->slot[best]->deadline)
				best = k;
		if (h->slot[best]->deadline >= f->deadline)
			break;
		place(h, i, h->slot[best]);
		i = best;
	}
	place(h, i, f);
}

static void publish_first(struct timer_heap *h)
{
	store_seq_cst(&h->first, h->count ? h->slot[0]->deadline : WEFT_NO_DEADLINE);
}

static bool grow(struct timer_heap *h)
{
	uint32_t room = h->room ? h->room * 2 : FIRST_ROOM;
	long p = weft_sys_map(
		room * sizeof *h->slot, PROT_READ | PROT_WRITE, MAP_NORESERVE);

	if (weft_sys_failed(p))
		return false;
	if (h->slot) {
		weft_memcpy((void *)p, h->slot, h->count * sizeof *h->slot);
		weft_sys_unmap(h->slot, h->room * sizeof *h->slot);
	}
	h->slot = (struct fiber **)p;
	h->room = room;
	return true;
}

void weft_timers_init(struct timer_heap *h)
{
	h->first = WEFT_NO_DEADLINE;
}

void weft_timers_free(struct timer_heap *h)
{
	if (h->slot)
		weft_sys_unmap(h->slot, h->room * sizeof *h->slot);
	h->slot = NULL;
	h->count = h->room = 0;
	h->first = WEFT_NO_DEADLINE;
}

void weft_timer_arm(struct fiber *f, uint64_t deadline_ns)
{
	if (deadline_ns == WEFT_NO_DEADLINE)
		return;
	struct carrier *c = weft_carrier_self();
	struct timer_heap *h = &c->timers;

	weft_lock(&h->lock);
	/*
	 * No memory for a deadline. The room doubles, so this is the 512th, 1024th…
	 * sleeper of a process that has no page left; there is no error a sleeping
	 * call could return instead, and never waking up would be worse.
	 */
	if (unlikely(h->count == h->room) && !grow(h))
		weft_bug("out of memory while arming a timer");
	/* [clock-set] Now: whoever hears later that a clock was set finds it here. */
	f->asked = deadline_ns;
	f->deadline = weft_deadline_monotonic(deadline_ns);
	f->timer_carrier = c;
	sift_up(h, h->count++, f);
	publish_first(h);
	weft_unlock(&h->lock);
}

static void remove_at(struct timer_heap *h, uint32_t i)
{
	struct fiber *last = h->slot[--h->count];

	if (i == h->count)
		return;
	if (i > 0 && last->deadline < h->slot[(i - 1) / FANOUT]->deadline)
		sift_up(h, i, last);
	else
		sift_down(h, i, last);
}

void weft_timer_disarm(struct fiber *f)
{
	struct carrier *c;

	/* Only the fiber itself arms, and it is the one that disarms. */
	while ((c = load_relaxed(&f->timer_carrier))) {
		struct timer_heap *h = &c->timers;

		weft_lock(&h->lock);
		/* Fired, or moved to another carrier's, before we had the lock. */
		if (f->timer_carrier == c) {
			remove_at(h, f->timer_index);
			store_relaxed(&f->timer_carrier, NULL);
			publish_first(h);
		}
		weft_unlock(&h->lock);
	}
}

/*
 * Heap locks are taken in the order of the carriers' ids, as around a fork. A deadline
 * of an operation in a ring stays: only that ring's carrier can cancel it.
 */
unsigned weft_timers_move(struct carrier *from, struct carrier *to, bool if_stuck)
{
	struct carrier *low = from->id < to->id ? from : to;
	struct carrier *high = from->id < to->id ? to : from;
	struct timer_heap *a = &from->timers, *b = &to->timers;
	uint32_t left = 0, n;

	if (load_relaxed(&a->first) == WEFT_NO_DEADLINE)
		return 0;
	weft_lock(&low->timers.lock);
	weft_lock(&high->timers.lock);
	n = if_stuck && !(load_relaxed(&from->odd) & ODD_STUCK) ? 0 : a->count;
	for (uint32_t i = 0; i < n; i++) {
		struct fiber *f = a->slot[i];

		if (f->io_pending || (b->count == b->room && !grow(b))) {
			a->slot[left++] = f;
			continue;
		}
		store_relaxed(&f->timer_carrier, to);
		/* Whoever places timers anew may be between the two heaps. */
		f->deadline = weft_deadline_monotonic(f->asked);
		sift_up(b, b->count++, f);
	}
	if (n) {
		uint32_t count = left;

		a->count = 0;
		for (uint32_t i = 0; i < count; i++)
			sift_up(a, a->count++, a->slot[i]);
		publish_first(a);
		publish_first(b);
	}
	weft_unlock(&high->timers.lock);
	weft_unlock(&low->timers.lock);
	return n - left;
}

bool weft_timers_clock_set(struct timer_heap *h)
{
	bool moved = false;

	weft_lock(&h->lock); /* [clock-set] */
	for (uint32_t i = 0; i < h->count; i++) {
		struct fiber *f = h->slot[i];

		moved |= weft_deadline_moves(f->asked);
		f->deadline = weft_deadline_monotonic(f->asked);
	}
	if (moved) {
		for (uint32_t i = (h->count - 1) / FANOUT + 1; i--;)
			sift_down(h, i, h->slot[i]);
		publish_first(h);
	}
	weft_unlock(&h->lock);
	return moved;
}

/*
 * (heap lock) The first one's time has come on CLOCK_MONOTONIC. On its own clock, too? It
 * may have been set back just now, and nobody has been told yet.
 */
static bool not_yet(struct timer_heap *h)
{
	struct fiber *f = h->slot[0];

	if (likely(!weft_deadline_moves(f->asked)) || !weft_deadline_left(f->asked))
		return false;
	f->deadline = weft_deadline_monotonic(f->asked);
	sift_down(h, 0, f);
	publish_first(h);
	return true;
}

/* Fires at most that many of those due on c; returns how many. On c's own scheduler. */
unsigned weft_timers_run(struct carrier *c, uint64_t now, unsigned most)
{
	struct timer_heap *h = &c->timers;
	unsigned fired = 0;

	if (load_relaxed(&h->first) > now)
		return 0;
	while (fired < most) {
		struct fiber *f = NULL;
		bool claimed = false;

		weft_lock(&h->lock);
		while (h->count && h->slot[0]->deadline <= now && not_yet(h))
			;
		if (h->count && h->slot[0]->deadline <= now) {
			f = h->slot[0];
			remove_at(h, 0);
			/*
			 * Claimed under the lock: once timer_carrier is NULL the
			 * fiber may run on, park again and even end.
			 */
			if (!f->io_pending)
				claimed = weft_claim(f, WEFT_WAKE_TIMEOUT);
			else
				weft_io_abort(c, f, WEFT_WAKE_TIMEOUT);
			store_relaxed(&f->timer_carrier, NULL);
			publish_first(h);
		}
		weft_unlock(&h->lock);
		if (!f)
			break;
		weft_count(c, TIMEOUTS);
		fired++;
		if (claimed)
			weft_unpark(f);
	}
	return fired;
}
