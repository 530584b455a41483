/*
 * balance.c - which carrier does whose work: stealing, levelling, and who is woken for
 * it.
 *
 * Waking another core costs more here (8 us of the waker's time, 17-30 us until the other
 * runs) than most wake-ups are worth. Another carrier is woken only when a backlog has
 * lasted BACKLOG_NS, and takes the older half; or when who wakes a fiber has computed for
 * LONG_NS before that, now or before its last park, and will not soon make room for it.
 */
#include "queue_impl.h"

enum {
	BACKLOG_NS = 50000,  /* how long a queue may stand before another core is woken */
	LEVEL_FROM = 8,      /* a queue that is 9/8 of ours and this is too long */
	LEVEL_NS = 20000000, /* who waits for 9/8 of ours and this waits for too long */
	LEVEL_AT_ONCE = 64,  /* of them, at each look */
};

static const uint64_t BACKLOG_TSC = WEFT_TSC(BACKLOG_NS);
static const uint64_t LEVEL_TSC = WEFT_TSC(LEVEL_NS);

/* One that was taken from another carrier; NULL if its home is there: it goes back. */
static struct fiber *unless_homely(
	struct carrier *home, struct fiber *f, unsigned homely_flags)
{
	if (!f || !(f->flags & homely_flags))
		return f;
	f->waited = 1;
	weft_sched_post(home, f);
	return NULL;
}

/* One that was taken from before another's queue: before ours. */
static void put_first(struct carrier *c, struct fiber *f)
{
	if (!runq_push(&c->woken, f))
		weft_queue_put(c, f);
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
	bool woken = !runq_length(&victim->runq) && !load_relaxed(&victim->spill_count);
	uint32_t want = (runq_length(woken ? &victim->woken : &victim->runq) + 1) / 2;
	struct fiber *first = NULL;
	unsigned got = 0;

	while (want--) {
		struct fiber *f =
			woken ? runq_pop(&victim->woken) : weft_queue_take(victim);

		if (!f)
			break;
		f = unless_homely(victim, f, homely);
		if (!f)
			continue;
		if (!first)
			first = f;
		else if (woken)
			put_first(c, f);
		else
			weft_queue_put(c, f);
		got++;
	}
	if (!first && load_relaxed(&victim->spill_count)) {
		first = unless_homely(victim, weft_spill_take(victim), homely);
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

	for (n = 0; (f = runq_pop(&stuck->woken)) && !(f->flags & FIBER_PINNED); n++)
		put_first(c, f);
	while (!f && (f = weft_queue_take(stuck)) && !(f->flags & FIBER_PINNED)) {
		waited_add(&waited, f);
		f = NULL;
	}
	if (f)
		weft_sched_give(stuck, f); /* that is what it waits for */
	weft_spill_merge(c, &waited);
	n += waited.count;
	/* Its own fiber comes by the inbox. */
	n += !held && weft_inbox_drain(c, stuck);
	n += weft_timers_move(stuck, c, true);
	count_stolen(c, n);
	return n;
}

/* How long the oldest of v has waited, at `now`. */
static uint64_t longest_wait(const struct carrier *v, uint64_t now)
{
	uint64_t since = weft_queue_since(v);

	return since < now ? now - since : 0;
}

/* The oldest of v, which may leave it; false when v has none. */
static bool take_oldest(struct carrier *v, struct waited *to)
{
	struct fiber *f = weft_queue_take(v);

	if (!f)
		return false;
	f = unless_homely(v, f, FIBER_MAIN | FIBER_PINNED);
	if (f)
		waited_add(to, f);
	return true;
}

/*
 * Carriers that never run out of work do not steal: of 1,000 connections one served 50,
 * another 950, each as often as it could. The shorter queue takes the oldest of the
 * longest one. Nor does the kernel give all of them the same: beside many that run, or
 * of three on two CPUs, one is served for a third as long as another, with a queue that
 * is no longer, as who waits in it asks no more. So whose oldest have waited for less
 * takes of those who have waited for longest.
 */
void weft_balance_level(struct carrier *c)
{
	unsigned n = load_acquire(&weft_rt.carriers);
	uint32_t mine = ready_on(c), most = 0;
	uint64_t now = c->looked_tsc, longest = 0, ours;
	struct carrier *fullest = NULL, *slowest = NULL;
	struct waited waited = {0};

	if (weft_rt.cpus < 2 || load_relaxed(&weft_rt.express) == c)
		return;
	for (unsigned i = 0; i < n; i++) {
		struct carrier *v = weft_rt.carrier[i];
		uint32_t queued = v == c || v->kind != CARRIER_FULL ? 0 : ready_on(v);
		uint64_t wait = queued ? longest_wait(v, now) : 0;

		if (queued > most) {
			most = queued;
			fullest = v;
		}
		if (wait > longest) {
			longest = wait;
			slowest = v;
		}
	}
	if (unlikely(most >= mine + mine / 8 + LEVEL_FROM)) {
		uint32_t left = (most - mine) / 2;

		while (left-- && waited.count < LEVEL_AT_ONCE)
			if (!take_oldest(fullest, &waited))
				break;
	} else if (unlikely(longest > LEVEL_TSC)) {
		ours = longest_wait(c, now);
		ours += ours / 8 + LEVEL_TSC;
		while (longest_wait(slowest, now) > ours && waited.count < LEVEL_AT_ONCE)
			if (!take_oldest(slowest, &waited))
				break;
	}
	weft_spill_merge(c, &waited);
	count_stolen(c, waited.count);
}

bool weft_balance_relieve(struct carrier *c)
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

bool weft_balance_computes(const struct carrier *v)
{
	const struct fiber *f = load_relaxed(&v->current);

	return f && (load_relaxed(&f->ran) > WEFT_LONG_TSC ||
			    weft_tsc() - load_relaxed(&v->run_tsc) > WEFT_LONG_TSC);
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

/* The carrier that is for those that do not compute has no use for others, and keeps
 * its own for as long as it serves them as they come. */
static bool passes_by(const struct carrier *c, const struct carrier *v)
{
	const struct carrier *express = load_relaxed(&weft_rt.express);

	if (likely(!express))
		return false;
	return c == express
		       ? !weft_express_wanted(v)
		       : v == express && ready_on(v) > 1 && !weft_balance_computes(v) &&
				 longest_wait(v, weft_tsc()) < WEFT_LONG_TSC;
}

struct fiber *weft_balance_steal(struct carrier *c)
{
	unsigned n = load_acquire(&weft_rt.carriers), start;
	struct carrier *before = c->lone;

	c->lone = NULL;
	if (n < 2)
		return NULL;
	start = (unsigned)(weft_random(c) % n);
	for (unsigned i = 0; i < n; i++) {
		struct carrier *v = weft_rt.carrier[(start + i) % n];
		bool kept = false;

		if (v == c || !weft_sched_queued(v) || passes_by(c, v))
			continue;
		if (ready_on(v) < 2) {
			kept = v->kind == CARRIER_FULL && keeps_one(c, v, before);
			if (!kept)
				continue;
		}
		struct fiber *f = load_relaxed(&weft_rt.express) == c
					  ? weft_express_steal(c, v)
					  : steal_from(c, v, kept);

		if (f)
			return f;
		if (kept && weft_inbox_drain(c, v)) {
			weft_count(c, STEALS);
			return weft_ready_take(c);
		}
	}
	return NULL;
}

static bool can_be_woken(const struct carrier *v)
{
	return load_relaxed(&v->sleeping) && weft_carrier_serves(v);
}

bool weft_sched_wake_one(const struct carrier *c)
{
	struct carrier *express = load_relaxed(&weft_rt.express);
	unsigned n = load_acquire(&weft_rt.carriers);

	if (unlikely(express) && express != c && can_be_woken(express) &&
		(!c || weft_express_wanted(c))) {
		weft_carrier_wake(express);
		return true;
	}
	for (unsigned i = 0; i < n; i++) {
		struct carrier *v = weft_rt.carrier[i];

		if (v != c && v != express && can_be_woken(v)) {
			weft_carrier_wake(v);
			return true;
		}
	}
	return false;
}

/*
 * A fiber is ready behind f, which runs here or is about to. If that computes, another
 * carrier takes the ready one, woken if need be; each wake-up is paid for by LONG_NS of
 * computing. Who parks right after (a request's answer, a turn passed on) has run for
 * less, and wakes nobody.
 */
void weft_balance_share(struct carrier *c, struct fiber *f)
{
	if (f->ran > WEFT_LONG_TSC)
		store_relaxed(&f->ran, f->ran - WEFT_LONG_TSC);
	else
		store_relaxed(&c->run_tsc, c->run_tsc + WEFT_LONG_TSC);
	store_relaxed(&c->shares, true);
	weft_sched_wake_one(c);
}

/* Wakes one sleeping carrier when our queue has stood for BACKLOG_NS. */
void weft_balance_watch(struct carrier *c)
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
