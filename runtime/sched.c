/*
 * sched.c - which fiber runs where, and the one place where stacks are switched.
 *
 * A carrier alternates between its scheduler's stack and one fiber's. It takes
 * from its own FIFO queue first, or before that whom its fibers woke (ready_first); new
 * and woken fibers go to the queues of the carrier that made or woke them, because
 * waking another core costs more here (8 us of the waker's time, 17-30 us until the other
 * runs) than most wake-ups are worth. Another carrier is woken only when a backlog has
 * lasted BACKLOG_NS, and takes the older half; or when who wakes a fiber has computed for
 * LONG_NS before that, now or before its last park, and will not soon make room for it.
 *
 * Sleeping and posting are a store-before-load race on both sides:
 *
 *     poster                          sleeper
 *     push onto c->inbox              c->sleeping = 1
 *     (seq_cst)  [inbox-sleep]        (seq_cst)
 *     c->sleeping set? wake it        inbox empty? sleep
 *
 * Impossible must be: the poster sees no sleeper *and* the sleeper sees no work.
 */
#include "engine.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>

#include "signals.h"

enum {
	BACKLOG_NS = 50000, /* how long a queue may stand before another core is woken */
	LONG_NS = 100000,   /* how long a run pays for waking another core */
	WOKEN_NS = 300000,  /* after each of the queue who was woken goes first so long */
	WOKEN_RUNS = 32,    /* … or so often, if that takes longer … */
	WOKEN_MOST_NS = 2000000, /* … but than this */
	FIRSTS = 8,              /* how often in a row one may go before the queue */
	POLL_EVERY = 32,  /* switches between two looks at ring, inbox and timers */
	LOOK_NS = 300000, /* … for those that give way */
	TIMERS_MOST = 32, /* that fire at each look, less by those that are ready … */
	TIMERS_LEAST = 8, /* … but these */
	SPILL_REFILL = RUNQ_SIZE / 2,
	FEW = 64,           /* for each of more that wait, a turn is longer: */
	EACH_NS = 200,      /* by this, */
	MANY = 256,         /* for each of more than these … */
	MORE_NS = 40,       /* … by this */
	LEVEL_FROM = 8,     /* a queue that is 9/8 of ours and this is too long */
	LEVEL_AT_ONCE = 64, /* of it, at each look */
};

/* The TSC runs at 2-4 GHz on every machine of these years: 2.5 is near enough. */
static const uint64_t BACKLOG_TSC = BACKLOG_NS * 5 / 2;
static const uint64_t LONG_TSC = LONG_NS * 5 / 2;
static const uint64_t LOOK_TSC = LOOK_NS * 5 / 2;
static const uint64_t WOKEN_TSC = WOKEN_NS * 5 / 2;
static const uint64_t WOKEN_MOST_TSC = WOKEN_MOST_NS * 5 / 2;
/* How long a turn may last while others wait, by the call that could end it. */
static const uint64_t TURN_TSC[] = {
	[WEFT_TURN_ANSWER] = 20000 * 5 / 2, /* … and longer: turn_tsc() */
	[WEFT_TURN_REQUEST] = 600000 * 5 / 2,
	[WEFT_TURN_LOCK] = 2400000 * 5 / 2,
};

static uint64_t next_random(struct carrier *c)
{
	uint64_t x = c->rng;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return c->rng = x;
}

/* ---- the bounded queue ---------------------------------------------------- */

static bool runq_push(struct runq *q, struct fiber *f)
{
	uint32_t t = q->tail;

	if (t - load_acquire(&q->head) >= RUNQ_SIZE) /* [runq-head] */
		return false;
	store_relaxed(&q->slot[t % RUNQ_SIZE], f);
	store_release(&q->tail, t + 1); /* [runq-tail] the slot is filled first */
	return true;
}

static struct fiber *runq_pop(struct runq *q)
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
static uint32_t runq_length(const struct runq *q)
{
	uint32_t head = load_acquire(&q->head);

	return load_acquire(&q->tail) - head;
}

static uint32_t ready_on(const struct carrier *c)
{
	return runq_length(&c->woken) + runq_length(&c->runq) +
	       load_relaxed(&c->spill_count);
}

/* The spill is where a full queue overflows to, e.g. a broadcast to 100,000. */
static void spill_push(struct carrier *c, struct fiber *f)
{
	f->qnext = NULL;
	weft_lock(&c->spill_lock);
	if (c->spill_tail)
		c->spill_tail->qnext = f;
	else
		c->spill_head = f;
	c->spill_tail = f;
	store_relaxed(&c->spill_count, c->spill_count + 1);
	weft_unlock(&c->spill_lock);
}

/* Those that have waited elsewhere, the oldest first; {0} before the first. */
struct waited {
	struct fiber *first, *last;
	uint32_t count;
};

static void waited_add(struct waited *w, struct fiber *f)
{
	f->qnext = NULL;
	if (w->last)
		w->last->qnext = f;
	else
		w->first = f;
	w->last = f;
	w->count++;
}

/* By turns with those that are here. Behind all of them they would wait a second time. */
static void spill_merge(struct carrier *c, const struct waited *w)
{
	struct fiber **at = &c->spill_head, *next = w->first;

	if (!next)
		return;
	weft_lock(&c->spill_lock);
	store_relaxed(&c->spill_count, c->spill_count + w->count);
	while (next) {
		struct fiber *f = next;

		next = f->qnext;
		f->qnext = *at;
		*at = f;
		if (!f->qnext)
			c->spill_tail = f;
		at = f->qnext ? &f->qnext->qnext : &f->qnext;
	}
	weft_unlock(&c->spill_lock);
}

static struct fiber *spill_take(struct carrier *c)
{
	weft_lock(&c->spill_lock);
	struct fiber *f = c->spill_head;

	if (f) {
		c->spill_head = f->qnext;
		if (!c->spill_head)
			c->spill_tail = NULL;
		store_relaxed(&c->spill_count, c->spill_count - 1);
	}
	weft_unlock(&c->spill_lock);
	return f;
}

static void spill_refill(struct carrier *c)
{
	for (int i = 0; i < SPILL_REFILL; i++) {
		struct fiber *f = spill_take(c);

		if (!f)
			return;
		if (!runq_push(&c->runq, f)) {
			spill_push(c, f);
			return;
		}
	}
}

void weft_sched_ready(struct carrier *c, struct fiber *f)
{
	store_relaxed(&f->state, FIBER_READY);
	f->firsts = 0;
	/* Once something has spilled, order is kept by spilling on. */
	if (unlikely(load_relaxed(&c->spill_count)) || !runq_push(&c->runq, f))
		spill_push(c, f);
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
static void ready_first(struct carrier *c, struct fiber *f)
{
	store_relaxed(&f->state, FIBER_READY);
	if ((weft_rt.config.stress_shuffle && next_random(c) % 2) ||
		f->firsts >= FIRSTS || !runq_push(&c->woken, f))
		weft_sched_ready(c, f);
	else
		f->firsts++;
}

/* The oldest in the queue. */
static struct fiber *queue_take(struct carrier *c)
{
	struct fiber *f = runq_pop(&c->runq);

	return f ? f : spill_take(c);
}

/* Any that is ready, for those who take all. */
static struct fiber *ready_take(struct carrier *c)
{
	struct fiber *f = runq_pop(&c->woken);

	return f ? f : queue_take(c);
}

/* ---- from other kernel threads -------------------------------------------- */

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

/* Another carrier that does its ordinary work; NULL when there is none. */
static struct carrier *somebody_but(const struct carrier *c)
{
	unsigned n = load_acquire(&weft_rt.carriers);

	for (unsigned i = 1; i < n; i++) {
		struct carrier *v = weft_rt.carrier[(c->id + i) % n];

		if (v != c && !(load_relaxed(&v->odd) & (ODD_AWAY | ODD_RETIRING)))
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
		struct carrier *other = somebody_but(c);

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
	ready_first(c, f);
}

/* What others gave to `from` becomes ready on c, the calling carrier. */
static bool inbox_drain(struct carrier *c, struct carrier *from)
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
	spill_merge(c, &waited);
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
static bool sig_inbox_drain(struct carrier *c)
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

/* ---- stealing ------------------------------------------------------------- */

/* One that was taken from another carrier; NULL if its home is there: it goes back. */
static struct fiber *unless_homely(
	struct carrier *home, struct fiber *f, unsigned homely_flags)
{
	if (!f || !(f->flags & homely_flags))
		return f;
	weft_sched_post(home, f);
	return NULL;
}

static void count_stolen(struct carrier *c, unsigned n)
{
	if (!n)
		return;
	weft_count(c, STEALS);
	weft_count_add(c, STOLEN, n);
}

/*
 * Takes the older half of victim's queue, or of whom it woke, who are still in its cache,
 * when there is none; returns one, the rest goes to c's queue. The main fiber only from a
 * carrier that keeps it waiting.
 */
static struct fiber *steal_from(struct carrier *c, struct carrier *victim, bool kept)
{
	unsigned homely = kept ? FIBER_PINNED : FIBER_MAIN | FIBER_PINNED;
	struct runq *q = runq_length(&victim->runq) || load_relaxed(&victim->spill_count)
				 ? &victim->runq
				 : &victim->woken;
	uint32_t want = (runq_length(q) + 1) / 2;
	struct fiber *first = NULL;
	unsigned got = 0;

	while (want--) {
		struct fiber *f = runq_pop(q);

		if (!f)
			break;
		f = unless_homely(victim, f, homely);
		if (!f)
			continue;
		if (!first)
			first = f;
		else
			weft_sched_ready(c, f);
		got++;
	}
	if (!first && load_relaxed(&victim->spill_count)) {
		first = unless_homely(victim, spill_take(victim), homely);
		got += first != NULL;
	}
	if (!first) {
		first = unless_homely(victim, runq_pop(&victim->woken), homely);
		got += first != NULL;
	}
	count_stolen(c, got);
	return first;
}

/* Everything but what is in its ring: the main fiber too, and what sleeps. */
static bool take_over(struct carrier *c, struct carrier *stuck)
{
	bool held = load_relaxed(&stuck->odd) & ODD_HELD;
	struct waited waited = {0};
	struct fiber *f;
	unsigned n;

	while ((f = ready_take(stuck))) {
		if (f->flags & FIBER_PINNED) {
			weft_sched_give(stuck, f);
			break; /* that is what it waits for */
		}
		waited_add(&waited, f);
	}
	spill_merge(c, &waited);
	n = waited.count;
	/* Its own fiber comes by the inbox. */
	n += !held && inbox_drain(c, stuck);
	n += weft_timers_move(stuck, c, true);
	count_stolen(c, n);
	return n;
}

/*
 * Carriers that never run out of work do not steal: of 1,000 connections one served 50,
 * another 950, each as often as it could. The shorter queue takes the oldest of the
 * longest one.
 */
static void level(struct carrier *c)
{
	unsigned n = load_acquire(&weft_rt.carriers);
	uint32_t mine = ready_on(c), most = 0;
	struct carrier *longest = NULL;
	struct waited waited = {0};

	if (weft_rt.cpus < 2)
		return;
	for (unsigned i = 0; i < n; i++) {
		struct carrier *v = weft_rt.carrier[i];
		uint32_t queued = v == c || v->kind != CARRIER_FULL ? 0 : ready_on(v);

		if (queued > most) {
			most = queued;
			longest = v;
		}
	}
	if (likely(most < mine + mine / 8 + LEVEL_FROM))
		return;
	for (uint32_t left = (most - mine) / 2; left && waited.count < LEVEL_AT_ONCE;
		left--) {
		struct fiber *f = queue_take(longest);

		if (!f)
			break;
		f = unless_homely(longest, f, FIBER_MAIN | FIBER_PINNED);
		if (f)
			waited_add(&waited, f);
	}
	spill_merge(c, &waited);
	count_stolen(c, waited.count);
}

static bool relieve(struct carrier *c)
{
	unsigned n = load_acquire(&weft_rt.carriers);
	bool got = false;

	for (unsigned i = 0; i < n; i++) {
		struct carrier *v = weft_rt.carrier[i];

		if (v != c && load_relaxed(&v->odd) & (ODD_STUCK | ODD_HELD))
			got |= take_over(c, v);
	}
	return got;
}

/* Its fiber runs for long, or did so last time. */
static bool computes(const struct carrier *v)
{
	const struct fiber *f = load_relaxed(&v->current);

	return f && (load_relaxed(&f->ran) > LONG_TSC ||
			    weft_tsc() - load_relaxed(&v->run_tsc) > LONG_TSC);
}

/*
 * A single ready fiber is about to be run by its own carrier, in the cache where it is
 * warm: leave it. Unless that carrier said that it goes on computing, or has not
 * switched since we found the same before (and have slept for LONG_NS, see idle). On one
 * CPU we would only take turns with it, in the middle of whatever it does, unless the
 * monitor has found that it computes; and a fiber that is to migrate has just been sent
 * away from here.
 */
static bool keeps_one(struct carrier *c, struct carrier *v, struct carrier *before)
{
	uint64_t switches = load_relaxed(&v->counters[WEFT_COUNTER_SWITCHES]);

	if (weft_rt.config.stress_migrate)
		return false;
	if (load_relaxed(&v->shares))
		return true;
	if (weft_rt.cpus < 2 || !load_relaxed(&v->current))
		return false;
	if (before == v && c->lone_switches == switches)
		return true;
	c->lone = v;
	c->lone_switches = switches;
	return false;
}

static struct fiber *steal(struct carrier *c)
{
	unsigned n = load_acquire(&weft_rt.carriers), start;
	struct carrier *before = c->lone;

	c->lone = NULL;
	if (n < 2)
		return NULL;
	start = (unsigned)(next_random(c) % n);
	for (unsigned i = 0; i < n; i++) {
		struct carrier *v = weft_rt.carrier[(start + i) % n];
		bool kept = false;

		if (v == c || !weft_sched_queued(v))
			continue;
		if (ready_on(v) < 2) {
			kept = v->kind == CARRIER_FULL && keeps_one(c, v, before);
			if (!kept)
				continue;
		}
		struct fiber *f = steal_from(c, v, kept);

		if (f)
			return f;
		if (kept && inbox_drain(c, v)) {
			weft_count(c, STEALS);
			return ready_take(c);
		}
	}
	return NULL;
}

/* Wakes a sleeping carrier; false when none sleeps. */
bool weft_sched_wake_one(const struct carrier *c)
{
	unsigned n = load_acquire(&weft_rt.carriers);

	for (unsigned i = 0; i < n; i++) {
		struct carrier *v = weft_rt.carrier[i];

		if (v != c && load_relaxed(&v->sleeping) &&
			!(load_relaxed(&v->odd) & (ODD_AWAY | ODD_RETIRING))) {
			weft_carrier_wake(v);
			return true;
		}
	}
	return false;
}

/* On one CPU another carrier would only take turns with this one. */
static inline bool others_could_help(void)
{
	return unlikely(load_relaxed(&weft_rt.sleepers)) && weft_rt.cpus > 1;
}

/*
 * A fiber is ready behind f, which runs here or is about to. If that computes, another
 * carrier takes the ready one, woken if need be; each wake-up is paid for by LONG_NS of
 * computing. Who parks right after (a request's answer, a turn passed on) has run for
 * less, and wakes nobody.
 */
static void share(struct carrier *c, struct fiber *f)
{
	if (f->ran > LONG_TSC)
		store_relaxed(&f->ran, f->ran - LONG_TSC);
	else
		store_relaxed(&c->run_tsc, c->run_tsc + LONG_TSC);
	store_relaxed(&c->shares, true);
	weft_sched_wake_one(c);
}

/* Wakes one sleeping carrier when our queue has stood for BACKLOG_NS. */
static void watch_backlog(struct carrier *c)
{
	if (likely(!others_could_help()))
		return;
	if (ready_on(c) < 2) {
		c->backlog_tsc = 0;
		return;
	}
	uint64_t now = weft_tsc();

	if (!c->backlog_tsc) {
		c->backlog_tsc = now;
		return;
	}
	if (now - c->backlog_tsc < BACKLOG_TSC)
		return;
	c->backlog_tsc = now;
	weft_sched_wake_one(c);
}

/*
 * f is about to run, and computes: the kernel is given what is to be begun, as it would
 * wait for the end of the run; who is ready need not wait for it either.
 */
static void before_long_run(struct carrier *c, struct fiber *f)
{
	if (weft_engine_unsubmitted(c) || weft_engine_ready(c))
		weft_engine_flush(c);
	if (others_could_help() && ready_on(c))
		share(c, f);
}

/* ---- the loop ------------------------------------------------------------- */

/*
 * Of those whose time has come while the carrier did not run, not all at once: what they
 * begin is behind all of them, and its end behind all that they began. Who has begun goes
 * first. (1,000 threads ask every 25 ms, or answer, beside two that compute: 99th
 * percentile of the answers 0.74 and 0.29 ms on two CPUs, 1.4 and 0.35 on one; natively
 * 0.33 and 0.45.)
 */
static unsigned run_timers(struct carrier *c)
{
	uint32_t n = ready_on(c);

	return weft_timers_run(c, weft_now_ns(),
		n < TIMERS_MOST - TIMERS_LEAST ? TIMERS_MOST - n : TIMERS_LEAST);
}

static void look_here(struct carrier *c)
{
	c->looked_tsc = weft_tsc();
	store_relaxed(&c->cpu, weft_cpu_here());
	inbox_drain(c, c);
	sig_inbox_drain(c);
	if (weft_engine_pending(c))
		weft_engine_flush(c);
	if (load_relaxed(&c->timers.first) != WEFT_NO_DEADLINE)
		run_timers(c);
}

static void look_outside(struct carrier *c)
{
	look_here(c);
	if (unlikely(load_relaxed(&c->odd)))
		return;
	level(c);
	if (unlikely(load_relaxed(&weft_rt.stuck)))
		relieve(c);
}

/* ---- stuck carriers; see monitor.c ---------------------------------------- */

unsigned weft_sched_queued(const struct carrier *c)
{
	return ready_on(c) + (load_seq_cst(&c->inbox) != NULL);
}

bool weft_sched_has_work(const struct carrier *c)
{
	return weft_sched_queued(c) || load_seq_cst(&c->sig_inbox) ||
	       load_relaxed(&c->timers.first) != WEFT_NO_DEADLINE || weft_engine_waits(c);
}

/* Of what the kernel has not been asked for it cannot tell that it is there. */
bool weft_sched_unseen(const struct carrier *c)
{
	return load_relaxed(&c->inbox) || load_relaxed(&c->sig_inbox) ||
	       load_relaxed(&c->timers.first) <= weft_now_ns() ||
	       weft_engine_unsubmitted(c) || weft_engine_completed(c);
}

/*
 * In the handler of the monitor's kick, on a carrier's signal stack, between two
 * instructions of the fiber's own code (or in a system call of its own). The ring answers
 * to this thread alone. Where it is stuck, what waits there is ended and begun anew by
 * other carriers.
 *
 * One that makes call after call of which none waits is met inside weft most of the time,
 * or always: it gives way when it leaves (weft_sched_give_way).
 */
void weft_sched_called(struct carrier *c)
{
	struct fiber *f = c->current;
	bool stuck = load_relaxed(&c->odd) & ODD_STUCK;

	if (!f || c->kind != CARRIER_FULL || !(stuck || load_relaxed(&c->look_due)))
		return;
	if (load_relaxed(&f->in_weft)) {
		store_relaxed(&f->give_way, 1);
		return;
	}
	store_relaxed(&c->called, 0);
	store_relaxed(&c->look_due, 0);
	look_here(c);
	if (!stuck) {
		weft_count(c, LOOKS);
		store_relaxed(&c->shares, true);
		if (weft_sched_queued(c))
			weft_sched_wake_one(c);
		return;
	}
	weft_engine_evict(c);
	if (weft_sched_queued(c) && !weft_sched_wake_one(c))
		weft_monitor_wake();
}

static bool yield_commit(struct fiber *f, void *arg);

/* The fiber leaves weft, and may have been asked to let its carrier do its work. */
void weft_sched_give_way(void)
{
	struct carrier *c = weft_carrier_self();
	struct fiber *f = c->current;

	if (likely(!load_relaxed(&f->give_way)))
		return;
	store_relaxed(&f->give_way, 0);
	/* It may have waited for something meanwhile. */
	if (c->kind != CARRIER_FULL || !load_relaxed(&c->called))
		return;
	store_relaxed(&c->called, 0);
	store_relaxed(&c->look_due, 0);
	/*
	 * What is there comes first, and then this one again. Not only when nobody is
	 * ready: two that take turns would keep the ring waiting for POLL_EVERY turns.
	 * Not each time: it is a system call.
	 */
	if (!ready_on(c) || weft_tsc() - c->looked_tsc > LOOK_TSC)
		look_outside(c);
	weft_park(WEFT_REASON_YIELD, yield_commit, NULL);
}

static bool others_wait(const struct carrier *c)
{
	uint64_t first = load_relaxed(&c->timers.first);

	return ready_on(c) || load_relaxed(&c->inbox) || weft_engine_ready(c) ||
	       (first != WEFT_NO_DEADLINE && first <= weft_now_ns());
}

static void ask_way(struct carrier *c)
{
	store_relaxed(&c->called, 1);
	store_relaxed(&c->current->give_way, 1);
}

/*
 * The longer the queue, the longer all wait anyway, and the less of what a fiber needs is
 * still in the cache when it is its turn again: more is done at a time. Not where FEW
 * wait. (MariaDB, 128 connections, its own pool 1: transactions 1.12 with longer turns
 * there and 1.09 without, 99th percentile 0.96 and 0.85.)
 */
static uint64_t turn_tsc(const struct carrier *c, enum weft_turn at)
{
	uint64_t n = at == WEFT_TURN_ANSWER ? ready_on(c) : 0;
	uint64_t more = n > MANY ? n - MANY : 0;
	uint64_t each = n > FEW ? n - FEW - more : 0;

	return TURN_TSC[at] + (each * EACH_NS + more * MORE_NS) * 5 / 2;
}

/*
 * Has the fiber had the CPU for its turn? Where many want it, the kernel takes it away
 * from a carrier for many milliseconds, which is no reason to stop a fiber that may hold
 * locks as soon as it goes on. It tells from the second time in a run on, as only the
 * first one reads the clock. (MariaDB, the first second of 4,096 connections: mutexes
 * were contended 1,100 to 1,800 times, 3,500 to 7,200 times without this.)
 */
static bool used_turn(struct carrier *c, enum weft_turn at)
{
	uint64_t cpu = weft_cpu_clock(c), since = c->turn_cpu;
	bool again = c->turn_run == c->ticks;

	c->turn_run = c->ticks;
	c->turn_cpu = cpu;
	return again && (cpu - since) * 5 / 2 >= TURN_TSC[at] / 2;
}

/*
 * A call of the calling fiber was done without waiting. Where the peers are on the same
 * CPUs, the kernel runs the one that was just written to, and its next request is there
 * before the fiber asks for it: fiber and peer go on for as long as the kernel likes, and
 * all others wait. That is the cheapest way to serve them, and the most unfair one. Not
 * from its first call on: a turn goes from one fiber to whom it wakes.
 *
 * (MariaDB, a local sysbench on the same two CPUs, its own pool 1; runs of four seconds,
 * by turns of 60 us and 0.04 for each that waits / 20 us and 0.15 for each, 150 at most:
 * transactions with 16, 128, 1,024, 4,096 connections 1.25, 1.19, 1.24, 1.27
 * / 1.20, 1.15, 1.22, 1.17; 99th percentile 1.3, 1.2, 0.75, 1.05 / 0.93, 0.84,
 * 0.96, 1.13. With 0.4 us for all: 1.10, 1.30, 0.93, 0.93; 1.1, 0.68, 1.02, 1.06.)
 *
 * It ends where an answer was given, as nobody waits for this one then. Who has taken a
 * request in hand has somebody waiting, for one more round of the whole queue (of 1,024
 * connections one answer in fifty took that): it goes on to its answer, or for many
 * turns.
 *
 * Who wakes somebody at a lock may hold others, and whoever waits for these waits for as
 * long as this one does: turns end there much later. (MariaDB with 4,096 connections that
 * have spoken before: 99th percentile 1.8 and 1.0 s as at other calls, 1.1 and 0.8 with
 * this; its own pool 0.8 and 0.6.)
 */
void weft_sched_turn(enum weft_turn at)
{
	struct carrier *c = weft_carrier_self();
	uint64_t now = weft_tsc();

	if (likely(now - c->turn_tsc < TURN_TSC[at]))
		return;
	if (now - c->turn_tsc < turn_tsc(c, at))
		return;
	c->turn_tsc = now;
	if (c->kind != CARRIER_FULL || c->current->flags & FIBER_PINNED ||
		!others_wait(c))
		return;
	if (at != WEFT_TURN_ANSWER && !used_turn(c, at))
		return;
	ask_way(c);
}

/* Stress: now and then as if the monitor had called just when the call began. */
void weft_sched_stress_call(void)
{
	struct carrier *c = weft_carrier_self();

	if (likely(!weft_rt.config.stress_shuffle) || c->kind != CARRIER_FULL ||
		next_random(c) % 4)
		return;
	ask_way(c);
}

/* The fiber that kept it has left its stack: the carrier is its own master again. */
static void back(struct carrier *c)
{
	int was;

	/* Under the lock: whoever moves its timers does so only while it is stuck. */
	weft_lock(&c->timers.lock);
	/* One from the pool that was given something after all is no longer there. */
	was = fetch_and_seq_cst(&c->odd, ~(ODD_WATCHED | ODD_AWAY));
	weft_unlock(&c->timers.lock);
	if (likely(!(was & ODD_STUCK)))
		return;
	store_relaxed(&c->called, 0);
	weft_count_add(c, STUCK_MS, (weft_now_ns() - c->stuck_since) / 1000000);
	weft_monitor_wake();
}

bool weft_sched_retire(struct carrier *c)
{
	struct carrier *to = somebody_but(c);
	struct fiber *f;

	if (!to || !weft_engine_evict(c)) {
		fetch_and_seq_cst(&c->odd, ~ODD_RETIRING);
		return false;
	}
	fetch_or_seq_cst(&c->odd, ODD_RETIRED);
	inbox_drain(c, c);
	while ((f = ready_take(c))) {
		f->waited = 1;
		weft_sched_post(to, f);
	}
	weft_timers_move(c, to, false);
	/* It may sleep until a later deadline than those it has now. */
	weft_carrier_wake(to);
	fetch_and_seq_cst(&c->odd, ~ODD_RETIRING);
	return true;
}

/* There is a carrier too many: hands everything over and goes to the pool. */
static void retire(struct carrier *c)
{
	if (weft_sched_retire(c))
		weft_count(c, RETIRED);
}

/* ---- bound carriers; see bind.c ------------------------------------------- */

/* What is others' in the inbox goes to them; its own fiber, if it is there, is returned.
 */
static struct fiber *hand_on(struct carrier *c)
{
	struct fiber *found = NULL;

	sig_inbox_drain(c);
	if (!load_seq_cst(&c->inbox))
		return NULL;
	for (struct fiber *f = inbox_take(c), *next; f; f = next) {
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

/* Sleeps until something is posted, a completion arrives or a timer is due. */
static void idle(struct carrier *c)
{
	unsigned pooled = (load_relaxed(&c->odd) & ODD_RETIRED) != 0;
	uint64_t deadline;

	store_seq_cst(&c->sleeping, 1); /* [inbox-sleep] */
	__atomic_add_fetch(&weft_rt.sleepers, 1 - pooled, __ATOMIC_SEQ_CST);
	deadline = load_seq_cst(&c->timers.first);
	/* Once; whoever goes on switching does not keep its fibers waiting. */
	if (c->lone && c->napped != c->counters[WEFT_COUNTER_SWITCHES]) {
		uint64_t again = weft_now_ns() + LONG_NS;

		c->napped = c->counters[WEFT_COUNTER_SWITCHES];
		deadline = again < deadline ? again : deadline;
	}
	if (!load_seq_cst(&c->inbox) && !load_seq_cst(&c->sig_inbox) &&
		!(load_seq_cst(&c->odd) & ODD_RETIRING) &&
		pooled == ((load_seq_cst(&c->odd) & ODD_RETIRED) != 0)) {
		weft_count(c, SLEEPS);
		weft_engine_wait(c, deadline);
	}
	store_seq_cst(&c->sleeping, 0); /* [monitor-sleep] */
	__atomic_sub_fetch(&weft_rt.sleepers, 1 - pooled, __ATOMIC_SEQ_CST);
	weft_monitor_wake();
	store_relaxed(&c->run_tsc, weft_tsc());
}

/*
 * A pinned fiber has parked here: nothing else runs until it goes on. What becomes ready
 * by this carrier's ring and timers is handed to others; when there are none it stays in
 * the queue, where those that the monitor makes find it.
 */
static struct fiber *wait_for_held(struct carrier *c)
{
	struct fiber *held = c->held, *found = NULL, *f;

	c->held = NULL;
	store_relaxed(&c->held_since, weft_now_ns());
	store_relaxed(&c->holds, held);
	weft_count(c, HELD);
	fetch_or_seq_cst(&c->odd, ODD_HELD);
	weft_monitor_wake();
	for (;;) {
		struct carrier *to;

		/* Another has to go: with this set it would never sleep, nor submit. */
		if (unlikely(load_relaxed(&c->odd) & ODD_RETIRING))
			fetch_and_seq_cst(&c->odd, ~ODD_RETIRING);
		inbox_drain(c, c);
		sig_inbox_drain(c);
		if (load_relaxed(&c->timers.first) != WEFT_NO_DEADLINE)
			weft_timers_run(c, weft_now_ns(), UINT_MAX);
		weft_engine_reap(c);
		for (uint32_t n = weft_sched_queued(c); n--;) {
			f = ready_take(c);
			if (!f)
				break;
			if (f == held)
				found = f;
			else if ((to = somebody_but(c)))
				weft_sched_post(to, f);
			else
				spill_push(c, f);
		}
		if (found)
			break;
		if (weft_sched_queued(c))
			weft_monitor_wake();
		idle(c);
	}
	fetch_and_seq_cst(&c->odd, ~ODD_HELD);
	weft_count_add(c, HELD_MS, (weft_now_ns() - c->held_since) / 1000000);
	if (found->flags & FIBER_NATIVE)
		weft_native_end(found);
	return found;
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

static struct fiber *take_next(struct carrier *c)
{
	struct fiber *f;

	if (unlikely(c->kind == CARRIER_BOUND))
		return weft_bound_next(c);
	if (unlikely(c->held))
		return wait_for_held(c);
	if (unlikely(++c->ticks % POLL_EVERY == 0)) {
		look_outside(c);
		if (unlikely(load_relaxed(&c->odd) & ODD_RETIRING))
			retire(c);
	}
	for (;;) {
		if (unlikely(weft_rt.config.stress_shuffle))
			for (uint64_t k = next_random(c) % 4; k--;) {
				f = runq_pop(&c->runq);
				if (f)
					weft_sched_ready(c, f);
			}
		if (woken_first(c) && (f = runq_pop(&c->woken))) {
			c->woken_runs++;
			watch_backlog(c);
			return f;
		}
		c->woken_runs = 0;
		c->turn_tsc = c->run_tsc;
		f = runq_pop(&c->runq);
		if (likely(f)) {
			watch_backlog(c);
			return f;
		}
		if (load_relaxed(&c->spill_count)) {
			spill_refill(c);
			continue;
		}
		f = runq_pop(&c->woken);
		if (f)
			return f;
		c->backlog_tsc = 0;
		if (inbox_drain(c, c) || sig_inbox_drain(c))
			continue;
		if (load_relaxed(&c->timers.first) != WEFT_NO_DEADLINE && run_timers(c))
			continue;
		if (weft_engine_reap(c))
			continue;
		if (likely(!(load_relaxed(&c->odd) & (ODD_RETIRING | ODD_RETIRED)))) {
			f = steal(c);
			if (f)
				return f;
			if (load_relaxed(&weft_rt.stuck) && relieve(c))
				continue;
		} else if (load_relaxed(&c->odd) & ODD_RETIRING) {
			retire(c);
			continue;
		}
		idle(c);
	}
}

static struct fiber *next_fiber(struct carrier *c)
{
	struct fiber *f = take_next(c);

	if (unlikely(load_relaxed(&f->ran) > LONG_TSC) && c->kind == CARRIER_FULL)
		before_long_run(c, f);
	return f;
}

/* The fiber has left its stack; only now may others find it. False: run it on. */
static bool left_stack(struct carrier *c, struct fiber *f)
{
	c->current = NULL;
	if (unlikely(load_relaxed(&c->odd)) && c->kind != CARRIER_BOUND)
		back(c);
	if (unlikely(weft_native_watches))
		weft_native_look(c, f);
	if (unlikely((f->flags & (FIBER_PINNED | FIBER_BOUND)) == FIBER_PINNED))
		c->held = f; /* before others may find it: they give it to this carrier */
	store_relaxed(&f->state, FIBER_PARKED);
	if (likely(c->commit(f, c->commit_arg)))
		return true;
	if (unlikely(c->held)) {
		/* It goes on at once, and may park unpinned next time. */
		c->held = NULL;
		if (f->flags & FIBER_NATIVE)
			weft_native_end(f);
	}
	return false;
}

/*
 * The next one's begins at once: what the scheduler does between two is little. Who
 * computes also meets a lock now and then: one short run does not say that the next is.
 */
static void run_ended(struct carrier *c, struct fiber *f)
{
	uint64_t now = weft_tsc();

	/* On another kind it waits. */
	uint64_t ran = likely(c->kind == CARRIER_FULL) ? now - c->run_tsc : 0;

	store_relaxed(&f->ran, ran > f->ran / 2 ? ran : f->ran / 2);
	store_relaxed(&c->run_tsc, now);
	if (unlikely(c->shares))
		store_relaxed(&c->shares, false);
}

void weft_sched_run_fiber(struct carrier *c, struct fiber *f)
{
	do {
		if (likely(c->kind == CARRIER_FULL))
			f->carrier = c;
		store_relaxed(&f->state, FIBER_RUNNING);
		weft_carrier_set_fs(c, f->fs_base);
		if (unlikely(weft_rt.config.stress_shuffle) && c->fs_on_loan &&
			next_random(c) % 2)
			weft_fs_write(WEFT_FS_LOST);
		if (unlikely(load_relaxed(&f->accounted)))
			weft_cpu_begin(c, f);
		c->current = f;
		weft_count(c, SWITCHES);
		weft_switch(&c->sched_sp, f->sp);
		run_ended(c, f);
		if (unlikely(load_relaxed(&f->accounted)))
			weft_cpu_end(c, f);
	} while (!left_stack(c, f));
}

void weft_sched_loop(void *arg)
{
	struct carrier *c = arg;

	for (;;)
		weft_sched_run_fiber(c, next_fiber(c));
}

/* Carrier 0's scheduler begins when the main fiber parks for the first time. */
void weft_sched_home(void *arg)
{
	struct carrier *c = arg;
	struct fiber *f = c->current;

	if (load_relaxed(&f->accounted))
		weft_cpu_end(c, f);
	run_ended(c, f);
	if (!left_stack(c, f))
		weft_sched_run_fiber(c, f);
	weft_sched_loop(c);
}

/* ---- park and unpark ------------------------------------------------------ */

enum weft_wake weft_park(
	enum weft_park_reason reason, bool (*commit)(struct fiber *, void *), void *arg)
{
	struct carrier *c = weft_carrier_self();
	struct fiber *f = c->current;
	bool vector = f->vector_live;

	f->reason = (uint8_t)reason;
	store_relaxed(&f->wake, (f->wake & ~WAKE_STATE) + WAKE_PARK + WEFT_WAKE_BUSY);
	if (vector) {
		if (unlikely(!f->vector_area))
			f->vector_area = weft_vector_area_get();
		weft_vector_save(f->vector_area);
		weft_count(c, VECTOR_SAVES);
	}
	c->commit = commit;
	c->commit_arg = arg;
	weft_switch(&f->sp, c->sched_sp);
	/* Another carrier, perhaps: c is stale from here on. */
	if (vector)
		weft_vector_restore(f->vector_area);
	f->reason = WEFT_REASON_NONE;
	return (enum weft_wake)(load_relaxed(&f->wake) & WAKE_STATE);
}

bool weft_claim(struct fiber *f, enum weft_wake how)
{
	uint32_t w = load_acquire(&f->wake);

	return (w & WAKE_STATE) == WEFT_WAKE_NONE &&
	       cas_seq_cst(&f->wake, &w, w + (uint32_t)how);
}

/* A park that nobody can claim (ring operations): its only waker says how. */
void weft_park_finish(struct fiber *f, enum weft_wake how)
{
	store_relaxed(&f->wake, (f->wake & ~WAKE_STATE) + (uint32_t)how);
}

/*
 * Signals and parking race like sleeping and posting do:
 *
 *     sender                          parking fiber's commit
 *     attention = 1               wake = NONE
 *     (seq_cst)  [attention-open]     (seq_cst)
 *     claim                           attention set? claim ourselves
 */
enum weft_park_state weft_park_open(struct fiber *f)
{
	uint32_t none = (f->wake & ~WAKE_STATE) + WEFT_WAKE_NONE;
	bool interruptible = f->interruptible;

	/*
	 * After the store the fiber may be running elsewhere, even be parked
	 * again: the park's number in the word keeps us from claiming that one.
	 */
	store_seq_cst(&f->wake, none);
	if (likely(!interruptible || !load_seq_cst(&f->attention)))
		return WEFT_PARK_OPEN;
	return cas_seq_cst(&f->wake, &none, none + WEFT_WAKE_INTERRUPT) ? WEFT_PARK_SELF
									: WEFT_PARK_TAKEN;
}

/* WEFT_STRESS=migrate: the carrier after the one it ran on. */
static struct carrier *elsewhere(struct fiber *f)
{
	struct carrier *on = f->carrier ? f->carrier : weft_rt.carrier[0];
	struct carrier *to = somebody_but(on);

	return to ? to : on;
}

/*
 * To the carrier that runs where its peer does (follow.c), where that costs nobody more
 * than it helps: not one that sleeps, as waking it is dearer; nor one that computes, or
 * has the longer queue.
 */
static bool follow(struct carrier *c, struct fiber *f)
{
	struct carrier *to = f->follows;

	f->follows = NULL;
	if (to == c || !c || c->kind != CARRIER_FULL || to->kind != CARRIER_FULL ||
		load_relaxed(&to->odd))
		return false;
	if ((load_relaxed(&to->sleeping) || ready_on(to) > ready_on(c) || computes(to)) &&
		!weft_rt.config.stress_shuffle)
		return false;
	weft_count(c, FOLLOWED);
	weft_sched_post(to, f);
	return true;
}

static void unpark(struct fiber *f, bool first)
{
	struct carrier *c = (struct carrier *)weft_rdgsbase();

	if (unlikely(f->flags & FIBER_BOUND)) {
		weft_sched_give(f->bound, f);
		return;
	}
	if (unlikely(f->flags & FIBER_PINNED)) {
		if (c == f->carrier)
			weft_sched_ready(c, f);
		else
			weft_sched_give(f->carrier, f);
		return;
	}
	if (unlikely(f->flags & FIBER_MAIN)) {
		struct carrier *home = weft_rt.carrier[0];

		/* A stuck home would keep it for as long as it pleases, and one that
		 * computes until it is found to be stuck. */
		if (c != home && !(load_relaxed(&home->odd) & ODD_AWAY) &&
			!(c && c->kind == CARRIER_FULL && computes(home))) {
			weft_sched_post(home, f);
			return;
		}
	} else if (unlikely(weft_rt.config.stress_migrate)) {
		struct carrier *to = elsewhere(f);

		if (to != c) {
			weft_sched_post(to, f);
			return;
		}
	}
	if (unlikely(f->follows) && !first && follow(c, f))
		return;
	if (likely(c && c->kind == CARRIER_FULL)) {
		if (first && c->current)
			ready_first(c, f);
		else
			weft_sched_ready(c, f);
		if (others_could_help() && c->current && computes(c))
			share(c, c->current);
		return;
	}
	/* From a helper or a native thread: back to where it ran last. */
	c = f->carrier ? f->carrier : weft_rt.carrier[f->index % weft_rt.carriers];
	weft_sched_post(c, f);
}

void weft_unpark(struct fiber *f)
{
	unpark(f, false);
}

void weft_unpark_woken(struct fiber *f, unsigned n)
{
	const struct carrier *c = (struct carrier *)weft_rdgsbase();
	bool first = c && n <= RUNQ_SIZE - runq_length(&c->woken);

	while (f) {
		struct fiber *next = f->qnext;

		unpark(f, first);
		f = next;
	}
}

static bool yield_commit(struct fiber *f, void *arg)
{
	(void)arg;
	weft_unpark(f);
	return true;
}

static bool sleep_commit(struct fiber *f, void *arg)
{
	weft_timer_arm(f, *(const uint64_t *)arg);
	return weft_park_open(f) != WEFT_PARK_SELF;
}

enum weft_wake weft_sleep_until(uint64_t deadline_ns)
{
	struct fiber *f = weft_fiber_self();
	enum weft_wake how;

	f->interruptible = 1;
	how = weft_park(WEFT_REASON_SLEEP, sleep_commit, &deadline_ns);
	f->interruptible = 0;
	weft_timer_disarm(f);
	return how;
}

void weft_yield(void)
{
	struct carrier *c = weft_carrier_self();

	if (unlikely(c->kind == CARRIER_BOUND)) {
		weft_sys0(SYS_sched_yield);
		return;
	}
	/*
	 * Alone here: look outside only now and then, but then let the kernel run
	 * others too. The one who sets the flag we spin on may be on another
	 * carrier of the same CPU.
	 */
	if (!ready_on(c) && !weft_rt.config.stress_migrate) {
		if (++c->yields % POLL_EVERY)
			return;
		weft_sys0(SYS_sched_yield);
		c->ticks = POLL_EVERY - 1;
	}
	weft_park(WEFT_REASON_YIELD, yield_commit, NULL);
}

void weft_looked_in_vain(void)
{
	struct carrier *c = weft_carrier_self();
	uint64_t turn = c->counters[WEFT_COUNTER_SWITCHES];

	if (c->current->looked == turn)
		weft_yield();
	else
		c->current->looked = turn;
}

void weft_runq_init(struct carrier *c)
{
	c->runq.head = c->runq.tail = 0;
	c->spill_head = c->spill_tail = NULL;
	c->spill_count = 0;
	c->woken.head = c->woken.tail = 0;
	c->woken_runs = 0;
	c->inbox = NULL;
	c->sig_inbox = NULL;
	c->turn_tsc = 0;
	c->run_tsc = weft_tsc();
	c->shares = false;
	c->napped = ~0ull;
	c->lone = NULL;
	c->rng = (weft_rt.config.seed ? weft_rt.config.seed : 0x9e3779b97f4a7c15ull) +
		 (c->id + 1) * 0xbf58476d1ce4e5b9ull;
}
