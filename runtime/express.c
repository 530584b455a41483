/*
 * express.c - one carrier is kept free of those that compute.
 *
 * Fibers that compute for milliseconds and then wait, as many as there are CPUs or more:
 * each carrier runs some, and for as long keeps who waits in its ring and its queue. The
 * monitor glances every millisecond and finds that, but an answer that needs two such
 * carriers takes two or three glances. Natively who has waited is run at once.
 *
 * So while there are such fibers, one carrier runs those alone that do not compute. They
 * end up there by themselves, and so do their operations: whoever waits in a ring goes on
 * where that is. The carrier sleeps most of the time, and the kernel lets it run at once
 * when it is woken. Fibers that compute it gives to others. If it has more to do than one
 * kernel thread can, others take of its queue as of any.
 *
 * (20 that ask every millisecond and 20 that answer, two CPUs: mean time of an answer
 * without / with this, natively. Beside four that compute for 5 ms and sleep for one: 2.6
 * / 0.2, 0.06 ms; 16 of those: 30 / 0.2, 0.5; four that compute for 1 ms: 1.5 / 0.2,
 * 0.09; 16 for 20 ms, which are stuck at times: 15 / 1.3 to 2.7, 0.2.)
 */
#include "queue_impl.h"

enum {
	COMPUTES_NS = 100000000, /* it does, so long after the monitor saw it */
	AT_ONCE = 32,            /* looked at in a queue, to find one that does not */
};

static const uint64_t COMPUTES_TSC = WEFT_TSC((uint64_t)COMPUTES_NS);

/* Seen by the monitor: the time since its last switch would also tell of a fiber whose
 * carrier the kernel does not let run. */
static bool computes(const struct fiber *f)
{
	uint64_t seen = load_relaxed(&f->computed_tsc);

	return seen && weft_tsc() - seen < COMPUTES_TSC;
}

static bool at_home(const struct fiber *f)
{
	return f->flags & (FIBER_MAIN | FIBER_PINNED | FIBER_BOUND);
}

static bool usable(const struct carrier *c)
{
	return c->kind == CARRIER_FULL && weft_carrier_serves(c);
}

/* ---- who goes there, and who does not -------------------------------------- */

/*
 * Into v's queue, by how long they have waited. Not by its inbox: that would look to the
 * monitor as if v had to be kicked.
 */
static void put_into(struct carrier *v, struct waited *w)
{
	if (!w->first)
		return;
	weft_spill_merge(v, w);
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* [spill-sleep] */
	weft_carrier_wake(v);
}

bool weft_express_hands_on(struct carrier *c, struct fiber *f)
{
	unsigned n = load_acquire(&weft_rt.carriers), others = 0;
	struct carrier *to = NULL;
	struct waited waited = {0};
	uint32_t least = UINT32_MAX;

	if (likely(load_relaxed(&weft_rt.express) != c) || !computes(f) || at_home(f))
		return false;
	for (unsigned i = 0; i < n; i++) {
		struct carrier *v = weft_rt.carrier[i];
		uint32_t queued;

		if (v == c || !usable(v))
			continue;
		others++;
		queued = ready_on(v) + (load_relaxed(&v->current) != NULL);
		if (queued < least) {
			least = queued;
			to = v;
		}
	}
	if (others < weft_rt.cpus)
		return false;
	weft_count(c, HANDED_ON);
	waited_add(&waited, f);
	put_into(to, &waited);
	return true;
}

bool weft_express_takes(struct carrier *c, struct fiber *f)
{
	struct carrier *to = load_relaxed(&weft_rt.express);

	if (!to || to == c || !usable(to) || !computes(c->current) || computes(f) ||
		at_home(f))
		return false;
	weft_sched_post(to, f);
	return true;
}

/* Among the first of q, which others may take from meanwhile. */
static bool has_one(const struct runq *q)
{
	uint32_t head = load_acquire(&q->head), n = load_acquire(&q->tail) - head;

	for (uint32_t i = 0; i < n && i < AT_ONCE; i++)
		if (!computes(load_relaxed(&q->slot[(head + i) % RUNQ_SIZE])))
			return true;
	return false;
}

bool weft_express_wanted(const struct carrier *v)
{
	return load_relaxed(&v->inbox) || has_one(&v->woken) || has_one(&v->runq);
}

struct fiber *weft_express_steal(struct carrier *c, struct carrier *v)
{
	struct waited kept = {0};
	struct fiber *found = NULL, *f;

	for (unsigned left = AT_ONCE; left && !found; left--) {
		f = weft_ready_take(v);
		if (!f)
			break;
		if (f->flags & FIBER_PINNED) {
			f->waited = 1;
			weft_sched_post(v, f);
			continue;
		}
		if (computes(f) || (f->flags & FIBER_MAIN && !load_relaxed(&v->shares)))
			waited_add(&kept, f);
		else
			found = f;
	}
	put_into(v, &kept);
	if (found) {
		weft_count(c, STEALS);
		weft_count(c, STOLEN);
	}
	return found;
}

/* ---- the monitor's --------------------------------------------------------- */

void weft_express_saw(struct carrier *c)
{
	struct fiber *f = load_relaxed(&c->current);

	if (f)
		store_relaxed(&f->computed_tsc, weft_tsc());
}

/*
 * One that sleeps rather than one that computes just now; not the main fiber's home. Only
 * where there is one more than CPUs, or those that compute would be left one too few.
 */
void weft_express_open(void)
{
	struct carrier *now = load_relaxed(&weft_rt.express), *best = NULL;
	unsigned n = load_acquire(&weft_rt.carriers), all = 0;

	for (unsigned i = 0; i < n; i++) {
		struct carrier *v = weft_rt.carrier[i];

		if (!usable(v))
			continue;
		all++;
		if (i && (!best || load_relaxed(&v->sleeping)))
			best = v;
	}
	if (now && usable(now))
		best = now;
	store_relaxed(&weft_rt.express, all > weft_rt.cpus ? best : NULL);
}

void weft_express_close(void)
{
	store_relaxed(&weft_rt.express, NULL);
}
