/*
 * inbox.c - what comes to a carrier from other kernel threads.
 *
 * Sleeping and posting are a store-before-load race on both sides:
 *
 *     poster                          sleeper
 *     push onto c->inbox              c->sleeping = 1
 *     (seq_cst)  [inbox-sleep]        (seq_cst)
 *     c->sleeping set? wake it        inbox empty? sleep
 *
 * Impossible must be: the poster sees no sleeper *and* the sleeper sees no work. The
 * sleeper is idle() in sched.c.
 */
#include "queue_impl.h"

#include <linux/futex.h>

#include "engine.h"

static void wake_bound(struct carrier *c)
{
	store_seq_cst(&c->helper_word, 1);
	weft_sys3(SYS_futex, (long)&c->helper_word, FUTEX_WAKE_PRIVATE, 1);
	/* Its fiber runs, and this is not for that one: somebody has to bring it away. */
	if (load_seq_cst(&c->current))
		weft_monitor_wake();
}

void weft_carrier_wake(struct carrier *c)
{
	/* [stuck-post] It will not look: the monitor finds somebody who does. */
	if (unlikely(load_seq_cst(&c->odd) & ODD_STUCK))
		weft_monitor_wake();
	if (unlikely(load_seq_cst(&c->kind) == CARRIER_BOUND)) { /* [bound-post] */
		wake_bound(c);
		return;
	}
	if (!load_seq_cst(&c->sleeping) || !xchg_seq_cst(&c->sleeping, 0))
		return;
	if (c->kind == CARRIER_HELPER)
		return;
	struct carrier *self = (struct carrier *)weft_rdgsbase();

	/* A thread may have a descriptor table that is older than this carrier. */
	if (unlikely(!weft_carrier_event(c)))
		weft_monitor_wake_carrier(c);

	if (self)
		weft_count(self, WAKES);
}

static void inbox_push(struct carrier *c, struct fiber *f)
{
	struct fiber *head = load_relaxed(&c->inbox);

	do {
		f->qnext = head;
	} while (!cas_seq_cst(&c->inbox, &head, f)); /* [inbox-sleep] */
}

struct carrier *weft_somebody_but(const struct carrier *c)
{
	unsigned n = load_acquire(&weft_rt.carriers);

	for (unsigned i = 1; i < n; i++) {
		struct carrier *v = weft_rt.carrier[(c->id + i) % n];

		if (v != c && weft_carrier_serves(v))
			return v;
	}
	return NULL;
}

/* To this carrier, whatever it is at. */
void weft_sched_give(struct carrier *c, struct fiber *f)
{
	store_relaxed(&f->state, FIBER_READY);
	inbox_push(c, f);
	/* A bound carrier looks before it sleeps. */
	if (c != (struct carrier *)weft_rdgsbase() || c->kind != CARRIER_BOUND)
		weft_carrier_wake(c);
}

void weft_sched_post(struct carrier *c, struct fiber *f)
{
	if (unlikely(f->flags & FIBER_BOUND)) {
		weft_sched_give(f->bound, f);
		return;
	}
	if (unlikely(f->flags & FIBER_PINNED) && f->carrier)
		c = f->carrier;
	if (unlikely(load_relaxed(&c->odd) & ODD_AWAY) && !(f->flags & FIBER_PINNED)) {
		struct carrier *other = weft_somebody_but(c);

		c = other ? other : c;
	}
	weft_sched_give(c, f);
}

/* All of it, the oldest first. */
static struct fiber *inbox_take(struct carrier *c)
{
	struct fiber *f = xchg_acq_rel(&c->inbox, NULL), *rev = NULL;

	while (f) {
		struct fiber *next = f->qnext;

		f->qnext = rev;
		rev = f;
		f = next;
	}
	return rev;
}

/*
 * One that comes back from a helper has waited for a disk. What it holds, and who waits
 * for that, need not wait for a round of the queue as well: natively a thread that slept
 * is soon given a CPU. (MariaDB with 4,096 connections, at their first queries: who
 * closes a table synchronizes a file with a mutex held. The last of ten such had an
 * answer after eight seconds.)
 */
static void ready_returned(struct carrier *c, struct fiber *f)
{
	f->returns = 0;
	weft_ready_first(c, f);
}

bool weft_inbox_drain(struct carrier *c, struct carrier *from)
{
	if (!load_relaxed(&from->inbox))
		return false;
	struct fiber *rev = inbox_take(from);
	struct waited waited = {0};

	while (rev) {
		struct fiber *next = rev->qnext;

		/* `from` may have become a carrier for one alone meanwhile. */
		if (c != from && unlikely(rev->flags & (FIBER_PINNED | FIBER_BOUND))) {
			weft_sched_give(from, rev);
		} else {
			weft_count(c, REMOTE);
			if (unlikely(rev->returns)) {
				ready_returned(c, rev);
			} else if (unlikely(rev->waited)) {
				rev->waited = 0;
				waited_add(&waited, rev);
			} else {
				weft_sched_ready(c, rev);
			}
		}
		rev = next;
	}
	weft_spill_merge(c, &waited);
	return true;
}

/* From anywhere: ends f's operation in c's ring. */
void weft_sched_interrupt(struct carrier *c, struct fiber *f)
{
	struct fiber *head;

	if (xchg_seq_cst(&f->sig_queued, 1))
		return;
	head = load_relaxed(&c->sig_inbox);
	do {
		f->sig_next = head;
	} while (!cas_seq_cst(&c->sig_inbox, &head, f));
	weft_carrier_wake(c);
}

/*
 * Fibers whose ring operation is to end: for a signal, or to be begun anew. One that was
 * done before we came here may wait on another carrier by now; who interrupts it there
 * finds that it is queued, and leaves it to us.
 */
bool weft_sig_inbox_drain(struct carrier *c)
{
	if (!load_relaxed(&c->sig_inbox))
		return false;
	struct fiber *f = xchg_acq_rel(&c->sig_inbox, NULL);

	while (f) {
		struct fiber *next = f->sig_next;

		store_seq_cst(&f->sig_queued, 0);
		struct carrier *on = load_seq_cst(&f->io_carrier);

		if (on && on != c)
			weft_sched_interrupt(on, f);
		else if (on && f->io_pending && f->interruptible)
			weft_io_abort(c, f,
				load_seq_cst(&f->attention) ? WEFT_WAKE_INTERRUPT
							    : WEFT_WAKE_MOVED);
		f = next;
	}
	return true;
}

/* ---- bound carriers; see bind.c -------------------------------------------- */

/* What is others' in the inbox, or in the queue of one that has just become bound
 * (express.c), goes to them; its own fiber, if it is there, is returned. */
static struct fiber *hand_on(struct carrier *c)
{
	struct fiber *found = NULL, *f;

	weft_sig_inbox_drain(c);
	while ((f = weft_spill_take(c)))
		weft_sched_post(c, f);
	if (!load_seq_cst(&c->inbox))
		return NULL;
	f = inbox_take(c);
	for (struct fiber *next; f; f = next) {
		next = f->qnext;
		if (f == c->bound)
			found = f;
		else
			weft_sched_post(c, f);
	}
	return found;
}

struct fiber *weft_sched_take_bound(struct carrier *c)
{
	struct fiber *found = hand_on(c);

	/* Others' came back: there is nobody to take them just now. */
	if (load_relaxed(&c->inbox))
		weft_monitor_wake();
	return found;
}

void weft_sched_rescue(struct carrier *c)
{
	struct fiber *own = hand_on(c);

	if (own)
		weft_sched_give(c, own);
}
