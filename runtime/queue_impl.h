/*
 * queue_impl.h - who is ready on a carrier, and who is on the way there: shared by
 * those that fill its queues, take from them, and move fibers between carriers.
 */
#pragma once
#include "sched_impl.h"

enum {
	WEFT_LONG_NS = 100000, /* who ran so long computes: worth another core's waking */
	WEFT_POLL_EVERY = 32,  /* switches between two looks at ring, inbox and timers */
};

static const uint64_t WEFT_LONG_TSC = WEFT_TSC(WEFT_LONG_NS);

static inline uint64_t weft_random(struct carrier *c)
{
	uint64_t x = c->rng;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return c->rng = x;
}
/* ---- the bounded queue ----------------------------------------------------- */

static inline bool runq_push(struct runq *q, struct fiber *f)
{
	uint32_t t = q->tail;

	if (t - load_acquire(&q->head) >= RUNQ_SIZE) /* [runq-head] */
		return false;
	store_relaxed(&q->slot[t % RUNQ_SIZE], f);
	store_release(&q->tail, t + 1); /* [runq-tail] the slot is filled first */
	return true;
}

static inline struct fiber *runq_pop(struct runq *q)
{
	uint32_t h = load_acquire(&q->head);

	for (;;) {
		if (h == load_acquire(&q->tail)) /* [runq-tail] */
			return NULL;
		struct fiber *f = load_relaxed(&q->slot[h % RUNQ_SIZE]);

		if (cas_acq_rel(&q->head, &h, h + 1)) /* [runq-head] */
			return f;
	}
}

/* May be asked by others: head first, which only grows towards the later tail. */
static inline uint32_t runq_length(const struct runq *q)
{
	uint32_t head = load_acquire(&q->head);

	return load_acquire(&q->tail) - head;
}

/* It does its ordinary work, and may be given something. */
static inline bool weft_carrier_serves(const struct carrier *c)
{
	return !(load_relaxed(&c->odd) & (ODD_AWAY | ODD_RETIRING));
}

static inline uint32_t ready_on(const struct carrier *c)
{
	return runq_length(&c->woken) + runq_length(&c->runq) +
	       load_relaxed(&c->spill_count);
}

/* ---- queue.c --------------------------------------------------------------- */

/* Those that have waited elsewhere, the oldest first; {0} before the first. */
struct waited {
	struct fiber *first, *last;
	uint32_t count;
};

static inline void waited_add(struct waited *w, struct fiber *f)
{
	f->qnext = NULL;
	if (w->last)
		w->last->qnext = f;
	else
		w->first = f;
	w->last = f;
	w->count++;
}

void weft_spill_push(struct carrier *c, struct fiber *f);
struct fiber *weft_spill_take(struct carrier *c);
/* Each in its place, by how long it has waited. Behind those that are here they would
 * wait a second time, and a third one where the next carrier takes them. */
void weft_spill_merge(struct carrier *c, const struct waited *w);
/* Before the queue, some times in a row; on c's own thread. */
void weft_ready_first(struct carrier *c, struct fiber *f);
/* The same for one that has answered, if it may go on at once. */
void weft_ready_again(struct carrier *c, struct fiber *f);
/* One that has been in another's queue. */
void weft_queue_put(struct carrier *c, struct fiber *f);
/* Since when the oldest has been in a queue, about: of the TSC; UINT64_MAX if there is
 * none. From any carrier. */
uint64_t weft_queue_since(const struct carrier *c);
/* The oldest in the queue. */
struct fiber *weft_queue_take(struct carrier *c);
/* Any that is ready, for those who take all. */
struct fiber *weft_ready_take(struct carrier *c);
/* Whose turn it is on c; NULL when nobody is ready. On its own thread. */
struct fiber *weft_ready_next(struct carrier *c);

/* ---- inbox.c --------------------------------------------------------------- */

/* What others gave to `from` becomes ready on c, the calling carrier. */
bool weft_inbox_drain(struct carrier *c, struct carrier *from);
/* The same for fibers of c whose operation in its ring is to end. */
bool weft_sig_inbox_drain(struct carrier *c);

/* ---- balance.c ------------------------------------------------------------- */

/* On one CPU another carrier would only take turns with this one. */
static inline bool others_could_help(void)
{
	return unlikely(load_relaxed(&weft_rt.sleepers)) && weft_rt.cpus > 1;
}

/* One that is ready on another carrier; more of its may come along to c's queue. */
struct fiber *weft_balance_steal(struct carrier *c);
/* Takes of the longest queue where that is much longer than c's. */
void weft_balance_level(struct carrier *c);
/* Takes all that waits on stuck carriers; was there anything? */
bool weft_balance_relieve(struct carrier *c);
/* Its fiber runs for long, or did so last time. */
bool weft_balance_computes(const struct carrier *v);
/* Somebody is ready behind f, which computes on c: another carrier is to take them. */
void weft_balance_share(struct carrier *c, struct fiber *f);
/* Called at each fiber that c takes; wakes a carrier when c's queue has stood too long.
 */
void weft_balance_watch(struct carrier *c);

/* ---- express.c -------------------------------------------------------------- */

/* f is not for c, as it computes and c is for those that do not: somebody else has it. */
bool weft_express_hands_on(struct carrier *c, struct fiber *f);
/* The same, for whom a fiber that computes has woken on c. */
bool weft_express_takes(struct carrier *c, struct fiber *f);
/* Is somebody ready on v whom that carrier would run? */
bool weft_express_wanted(const struct carrier *v);
/* c is that carrier: one of v that does not compute, or NULL. */
struct fiber *weft_express_steal(struct carrier *c, struct carrier *v);

/* ---- sched.c --------------------------------------------------------------- */

/* What others, the kernel and the clock have for c, and what other carriers need. */
void weft_sched_look(struct carrier *c);

/* ---- answer.c -------------------------------------------------------------- */

enum {
	WEFT_ANSWERS = 24,        /* that wait for each other at most … */
	WEFT_ANSWERS_NS = 200000, /* … and for how long */
};

/* Is it time to give the kernel what c's fibers answered? `now`: of the TSC. */
static inline bool weft_answers_due(const struct carrier *c, uint64_t now)
{
	return c->answers >= WEFT_ANSWERS ||
	       (c->answers && now - c->answers_tsc > WEFT_TSC(WEFT_ANSWERS_NS));
}
