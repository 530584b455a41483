/*
 * crowd.c - many at one mutex of libc's.
 *
 * (MariaDB, the first requests of 4,096 connections: whoever executes a statement takes
 * one mutex to get a table from a cache, and again to give it back. Where its owner loses
 * the CPU for long, up to 2,600 wait there, those that have a table behind those that
 * want one; so 3,000 to 5,000 are opened, each for a millisecond. Its own pool, which
 * does one request after the other, opens 25.)
 */
#include <linux/futex.h>
#include <time.h>

#include "engine.h"
#include "futex_impl.h"

enum {
	CROWD = 8,            /* so many wait for a mutex, */
	CROWD_RUNS = 4,       /* who runs joins them, if not each time then nearly, … */
	OWNER_NS = 300000,    /* … and its owner runs for so long: */
	ROOM_NS = 250000,     /* the CPU is left to others for so long, … */
	ROOMS = 4,            /* … so often, if that run does not end, … */
	ROOMS_NS = 50000000,  /* … and for so long in all; then only … */
	ROOMS_EACH = 4,       /* … one nanosecond of so many */
	CONVOY_NS = 10000000, /* who has waited for a free mutex for so long … */
	CONVOY_AT_ONCE = 8,   /* … is not alone: so many more are woken */
	VAIN = 3,             /* woken so often, and back to wait each time, … */
	VAIN_NS = 2000000,    /* … for so long: goes on before its waker, … */
	GIVEN = 2,            /* … so often in a row */
	PLACES = 64,          /* how far back it finds its place, and is a crowd seen */
};

static const uint64_t CONVOY_TSC = WEFT_TSC(CONVOY_NS);
static const uint64_t OWNER_TSC = WEFT_TSC(OWNER_NS);
static const uint64_t ROOMS_TSC = WEFT_TSC((uint64_t)ROOMS_NS * ROOMS_EACH);
static const uint64_t VAIN_TSC = WEFT_TSC(VAIN_NS);

/* ---- who comes ------------------------------------------------------------- */

/*
 * Where the owner of a pthread_mutex_t is (nptl: lock, count, owner), if it is not c and
 * has to go on there before anybody gets the mutex; or NULL. Other locks of libc's have
 * no owner there: what is in that place is hardly ever the number of a thread, and if it
 * is, somebody waits for a millisecond.
 */
static struct carrier *keeps_owner(const uint32_t *word, const struct carrier *c)
{
	uint32_t tid;
	const struct fiber *f;
	struct carrier *on;

	if (weft_load_user(word + 2, &tid) ||
		(tid != (uint32_t)weft_rt.pid &&
			(tid <= WEFT_TID_MIN || tid > WEFT_TID_MAX)))
		return NULL;
	f = weft_fiber_by_tid((int)tid);
	on = f ? load_relaxed(&f->carrier) : NULL;
	if (!on || on == c || on->kind != CARRIER_FULL ||
		load_relaxed(&on->odd) & ODD_AWAY)
		return NULL;
	switch (load_relaxed(&f->state)) {
	case FIBER_READY:
		/* Where it ran last: it may have been taken elsewhere, also to c. */
		return on;
	case FIBER_RUNNING: /* there, or elsewhere: on a kernel thread of its own */
		return load_relaxed(&on->current) == f &&
				       weft_tsc() - load_relaxed(&on->run_tsc) > OWNER_TSC
			       ? on
			       : NULL;
	}
	return NULL;
}

/*
 * Natively whoever finds a mutex taken leaves the CPU to others, and its owner may be the
 * one that gets it. Here its carrier goes on with the next request; where the CPUs are
 * wanted by many, the carrier of the owner gets none for many milliseconds, and all who
 * are begun meanwhile wait as well, in the middle of what they do. So once a crowd waits,
 * and nearly everybody who is begun joins it, nobody is begun for a while.
 *
 * (MariaDB as above, fresh servers, 99th percentile of the first run: 2.0, 2.1, 2.7 and
 * 1.0, 1.1, 1.1 s; its own pool 1.1, 1.1, 1.5. It opened 200 tables.)
 */
void weft_crowd_joined(struct futex_bucket *b, const uint32_t *word)
{
	struct carrier *c = (struct carrier *)weft_rdgsbase();
	const struct list *l = b->waiters.next;
	uint64_t runs;
	unsigned n = 0;

	if (!c || c->kind != CARRIER_FULL)
		return;
	/* Thousands that wait for something else may be in the bucket, too. */
	for (int i = 0; i < PLACES && n < CROWD && l != &b->waiters; i++, l = l->next)
		n += weft_futex_matches(container_of(l, struct futex_waiter, link),
			(uintptr_t)word, false);
	if (n < CROWD)
		return;
	runs = c->counters[WEFT_COUNTER_SWITCHES] - c->joined_crowd;
	c->joined_crowd = c->counters[WEFT_COUNTER_SWITCHES];
	if (runs <= CROWD_RUNS && c->rooms_paid < weft_tsc() + ROOMS_TSC)
		c->makes_room = keeps_owner(word, c);
}

/*
 * Who comes back from a time-out or a signal joins as well, and the owner may wait for
 * something that weft does not see: so there is an end to it, for the sake of those that
 * have nothing to do with that mutex.
 */
void weft_crowd_make_room(struct carrier *c)
{
	const struct carrier *owners = c->makes_room;
	uint64_t run = load_relaxed(&owners->run_tsc), begun = weft_tsc();
	const struct timespec room = {0, ROOM_NS};
	const int never = 0;

	c->makes_room = NULL;
	weft_count(c, ROOMS);
	weft_engine_flush(c); /* answers go out, and the peers may use the CPU */
	for (int i = 0; i < ROOMS && load_relaxed(&owners->run_tsc) == run &&
			!load_relaxed(&c->sig_inbox);
		i++)
		weft_sys4(SYS_futex, (long)&never, FUTEX_WAIT_PRIVATE, 0, (long)&room);
	if (c->rooms_paid < begun)
		c->rooms_paid = begun;
	c->rooms_paid += (weft_tsc() - begun) * ROOMS_EACH;
}

/*
 * Somebody who takes what it gave back at once, and sleeps with it, is found with it by
 * whomever it wakes on the same carrier, time and again: that one runs when its waker
 * parks. Natively another CPU runs it at once, or it preempts its waker some time. So who
 * waits for nothing else all the while, whatever kind of lock that is and however often
 * it gives up meanwhile, goes on before its waker now and then: twice in a row, as it may
 * be woken for a flag under a mutex that its waker still has.
 */
void weft_crowd_waits(struct fiber *f)
{
	struct futex_waiter *w = &f->fw;

	if (w->park != (f->wake & ~WAKE_STATE)) {
		w->vain = 0; /* it has waited for something else */
		w->woken = false;
	}
	if (!w->vain) {
		w->begun = weft_tsc();
		w->given = 0;
	}
	w->vain += w->woken || !w->vain;
}

bool weft_crowd_gives_way(struct fiber *f)
{
	struct futex_waiter *w = &f->fw;

	if (w->vain <= VAIN || weft_tsc() - w->begun < VAIN_TSC)
		return false;
	if (++w->given >= GIVEN)
		w->vain = 0; /* anew */
	return true;
}

/* ---- who wakes them -------------------------------------------------------- */

/* One that had waited for long when it was woken, and came too late all the same. */
void weft_crowd_enqueue_again(struct futex_bucket *b, struct futex_waiter *w)
{
	struct list *at = b->waiters.next;

	for (int i = 0; i < PLACES && at != &b->waiters; i++, at = at->next)
		if (container_of(at, struct futex_waiter, link)->since > w->since)
			break;
	store_relaxed(&w->bucket, b);
	w->woken = w->early = false;
	list_push_back(at, &w->link); /* before that one */
}

/*
 * A mutex of libc's (nptl/lowlevellock.c: 0 free, 2 others wait) was given back, and the
 * first of those who wait for it has waited for long. More of them than that one.
 *
 * Each wakes the next when it gives the mutex back, and natively the next one runs at
 * once. Here it runs when who woke it parks, which is a whole request later; so a crowd
 * that has come together while somebody held the mutex for long dissolves as slowly as
 * one carrier serves requests, while others take the mutex, which is free most of the
 * time, in passing. (MariaDB, 4,096 connections that begin at once: 2,000 at one mutex,
 * free whenever it was looked at, and the last of them had an answer after 3 s; the
 * others each 0.2 s.) They may find it taken: libc waits again, as for any wake-up that
 * is not for it (futex(2), "spurious"), and gets its place back.
 */
int weft_crowd_wake(
	struct futex_bucket *b, uintptr_t addr, struct fiber *first, struct fiber ***tail)
{
	uint64_t now = weft_tsc();
	uint32_t word;
	int n = 0;

	if (first->fw.val != 2 || now - first->fw.since < CONVOY_TSC ||
		weft_load_user((const uint32_t *)addr, &word) || word)
		return 0;
	first->fw.early = true;
	for (struct list *l = b->waiters.next, *next;
		l != &b->waiters && n < CONVOY_AT_ONCE; l = next) {
		struct futex_waiter *w = container_of(l, struct futex_waiter, link);

		next = l->next;
		if (!weft_futex_matches(w, addr, false) || !w->fiber)
			continue;
		if (w->val != 2 || now - w->since < CONVOY_TSC)
			break;
		w->early = true;
		n += weft_futex_take(w, tail);
	}
	return n;
}
