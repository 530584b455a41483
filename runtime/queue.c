/*
 * queue.c - the queues of a carrier, and whose turn it is.
 *
 * `runq` is bounded, first in first out, and open to thieves; what does not fit goes to
 * the spill, a list under a lock. Whom a fiber wakes goes to `woken`, which is taken from
 * before the other, within limits.
 */
#include "queue_impl.h"

enum {
	WOKEN_NS = 300000, /* after each of the queue who was woken goes first so long */
	WOKEN_RUNS = 32,   /* … or so often, if that takes longer … */
	WOKEN_MOST_NS = 2000000, /* … but than this */
	FIRSTS = 8,              /* how often in a row one may go before the queue */
	AGAIN_FROM = 256, /* … once, if it has answered, where so many wait, … */
	AGAIN_TWICE_FROM = 768, /* … or twice where these do, … */
	AGAIN_NS = 400000000,   /* … and none of them has waited for so long */
	SPILL_REFILL = RUNQ_SIZE / 2,
};

static const uint64_t WOKEN_TSC = WEFT_TSC(WOKEN_NS);
static const uint64_t WOKEN_MOST_TSC = WEFT_TSC(WOKEN_MOST_NS);
static const uint64_t AGAIN_TSC = WEFT_TSC((uint64_t)AGAIN_NS);

/* ---- the spill ------------------------------------------------------------- */

/* Under its lock: others ask how old it is without that. */
static void spill_head(struct carrier *c, struct fiber *f)
{
	c->spill_head = f;
	if (f)
		store_relaxed(&c->spill_since, load_relaxed(&f->ready_tsc));
	else
		c->spill_tail = NULL;
}

/* The spill is where a full queue overflows to, e.g. a broadcast to 100,000. */
void weft_spill_push(struct carrier *c, struct fiber *f)
{
	f->qnext = NULL;
	weft_lock(&c->spill_lock);
	if (c->spill_tail)
		c->spill_tail->qnext = f;
	else
		spill_head(c, f);
	c->spill_tail = f;
	store_relaxed(&c->spill_count, c->spill_count + 1);
	weft_unlock(&c->spill_lock);
}

void weft_spill_merge(struct carrier *c, const struct waited *w)
{
	struct fiber *before = NULL, *next = w->first;

	if (!next)
		return;
	weft_lock(&c->spill_lock);
	store_relaxed(&c->spill_count, c->spill_count + w->count);
	while (next) {
		struct fiber *f = next, *at = before ? before->qnext : c->spill_head;

		next = f->qnext;
		while (at &&
			load_relaxed(&at->ready_tsc) <= load_relaxed(&f->ready_tsc)) {
			before = at;
			at = at->qnext;
		}
		f->qnext = at;
		if (!at)
			c->spill_tail = f;
		if (before)
			before->qnext = f;
		else
			spill_head(c, f);
		before = f;
	}
	weft_unlock(&c->spill_lock);
}

struct fiber *weft_spill_take(struct carrier *c)
{
	if (!load_relaxed(&c->spill_count))
		return NULL;
	weft_lock(&c->spill_lock);
	struct fiber *f = c->spill_head;

	if (f) {
		spill_head(c, f->qnext);
		store_relaxed(&c->spill_count, c->spill_count - 1);
	}
	weft_unlock(&c->spill_lock);
	return f;
}

static void spill_refill(struct carrier *c)
{
	for (int i = 0; i < SPILL_REFILL; i++) {
		struct fiber *f = weft_spill_take(c);

		if (!f)
			return;
		if (!runq_push(&c->runq, f)) {
			weft_spill_push(c, f);
			return;
		}
	}
}

/* ---- in -------------------------------------------------------------------- */

/* Between two runs the last one has just ended: no need to look at the clock. */
static void becomes_ready(const struct carrier *c, struct fiber *f)
{
	store_relaxed(&f->state, FIBER_READY);
	store_relaxed(&f->ready_tsc, c->current ? weft_tsc() : c->run_tsc);
}

void weft_queue_put(struct carrier *c, struct fiber *f)
{
	f->firsts = f->again = 0;
	/* Once something has spilled, order is kept by spilling on. */
	if (unlikely(load_relaxed(&c->spill_count)) || !runq_push(&c->runq, f))
		weft_spill_push(c, f);
}

void weft_sched_ready(struct carrier *c, struct fiber *f)
{
	becomes_ready(c, f);
	weft_queue_put(c, f);
}

/*
 * A place before the queue for whom a running fiber woke: it waited for a lock, or its
 * turn with the waker. Who is in the queue has a request to serve, and nobody waits for
 * it yet; behind hundreds of those, one that was given a lock would hold up whoever waits
 * for that, one of them for each time the queue goes round, and the more begin the more
 * of them wait. (MariaDB, 1,024 connections that update rows, most of them the same
 * hundred: 2.5 times the transactions of a place for one alone. 99th percentile of 128:
 * 9.2 and 5.9 ms. With 4,096 it is too late in most runs: InnoDB has too many queued.)
 *
 * FIRSTS times, and once in the queue. Those that do nothing but wake each other would
 * keep it waiting without an end, as would many that try in vain to have what one of them
 * gets, and wake each other for that (InnoDB's readers: some stood for 286 seconds). (10
 * pairs that take turns beside 200 threads that ask and answer: 50th percentile of the
 * answers 19.4 and 0.05 ms, natively 0.06; 500 pairs: 184 and 0.8, natively 3.5.)
 */
void weft_ready_first(struct carrier *c, struct fiber *f)
{
	becomes_ready(c, f);
	if ((weft_rt.config.stress_shuffle && weft_random(c) % 2) ||
		f->firsts >= FIRSTS || !runq_push(&c->woken, f))
		weft_queue_put(c, f);
	else
		f->firsts++;
}

/*
 * Answers are given together (answer.c), and a peer on this machine has often asked again
 * by the time all of them are. What it and the fiber need is in the caches then, and not
 * any more when the queue has gone round: of 1,024 connections one after the other a
 * request costs both sides twice as much as of 16. So the fiber goes on at once, once for
 * each time in the queue, or twice where that is very long anyway; not where that already
 * makes others wait for long. Natively a few that the kernel has just run are served
 * again and again, at the cost of the others.
 *
 * (MariaDB, sysbench beside it, by turns: its pool, without this, with it; transactions
 * / 99th percentile. 1,024 connections: 15.6k, 20.4k, 25.4k / 150, 91, 145 ms. 4,096, for
 * 30 s: 12.3k, 14.8k, 20.1k / 831, 591, 540 ms; its threads 16.6k / 6,136. With 128 it
 * would be as many as without, at twice the 99th percentile: the caches hold them. All
 * that is with twice. On a machine that is three times as fast, its pool, twice, once:
 * 1,024: 31.3k, 54.4k, 49.7k / 73, 71, 60 ms; 4,096, 12 s: 23.9k, 36.0k, 31.5k / 357,
 * 306, 332 ms.)
 */
void weft_ready_again(struct carrier *c, struct fiber *f)
{
	uint32_t waiting = ready_on(c);
	unsigned most = waiting >= AGAIN_TWICE_FROM ? 2 : waiting >= AGAIN_FROM;
	bool at_once = f->again < most && weft_queue_since(c) >= c->run_tsc - AGAIN_TSC;

	if (unlikely(weft_rt.config.stress_shuffle))
		at_once = weft_random(c) % 2;
	becomes_ready(c, f);
	if (at_once && runq_push(&c->woken, f))
		f->again++;
	else
		weft_queue_put(c, f);
}

/* ---- out ------------------------------------------------------------------- */

/* About: one that is just taken was the oldest, and its slot may have the next by now. */
static uint64_t runq_since(const struct runq *q)
{
	uint32_t h = load_acquire(&q->head);

	return h == load_acquire(&q->tail)
		       ? UINT64_MAX
		       : load_relaxed(&load_relaxed(&q->slot[h % RUNQ_SIZE])->ready_tsc);
}

static uint64_t spill_since(const struct carrier *c)
{
	return load_relaxed(&c->spill_count) ? load_relaxed(&c->spill_since) : UINT64_MAX;
}

uint64_t weft_queue_since(const struct carrier *c)
{
	uint64_t queue = runq_since(&c->runq), spill = spill_since(c);

	return queue < spill ? queue : spill;
}

/* What has spilled is younger than the queue; not what was taken from elsewhere. */
struct fiber *weft_queue_take(struct carrier *c)
{
	struct fiber *f = NULL;

	if (unlikely(load_relaxed(&c->spill_count)) &&
		spill_since(c) < runq_since(&c->runq))
		f = weft_spill_take(c);
	if (!f)
		f = runq_pop(&c->runq);
	return f ? f : weft_spill_take(c);
}

struct fiber *weft_ready_take(struct carrier *c)
{
	struct fiber *f = runq_pop(&c->woken);

	return f ? f : weft_queue_take(c);
}

/*
 * One of the queue now and then all the same. Not more often, as most of the woken stand
 * for one of the queue that has begun: another one each 300 us, as fast as they end,
 * would keep their number as large as it is.
 */
static bool woken_first(const struct carrier *c)
{
	uint64_t since = c->run_tsc - c->turn_tsc;

	return since < WOKEN_TSC ||
	       (c->woken_runs < WOKEN_RUNS && since < WOKEN_MOST_TSC);
}

struct fiber *weft_ready_next(struct carrier *c)
{
	struct fiber *f;

	if (unlikely(weft_rt.config.stress_shuffle))
		for (uint64_t k = weft_random(c) % 4; k--;) {
			f = runq_pop(&c->runq);
			if (f)
				weft_sched_ready(c, f);
		}
	if (woken_first(c) && (f = runq_pop(&c->woken))) {
		c->woken_runs++;
		return f;
	}
	c->woken_runs = 0;
	c->turn_tsc = c->run_tsc;
	if (unlikely(load_relaxed(&c->spill_count)) && !runq_length(&c->runq))
		spill_refill(c);
	f = weft_queue_take(c);
	return f ? f : runq_pop(&c->woken);
}
