/*
 * sched.c - which fiber runs where, and the one place where stacks are switched.
 *
 * A carrier alternates between its scheduler's stack and one fiber's. It takes from its
 * own queues first (queue.c), then looks at what others gave it (inbox.c), at timers and
 * ring, and at other carriers (balance.c). New and woken fibers go to the queues of the
 * carrier that made or woke them.
 */
#include "engine.h"

#include <limits.h>

#include "queue_impl.h"
#include "signals.h"

enum {
	TIMERS_MOST = 32, /* that fire at each look, less by those that are ready … */
	TIMERS_LEAST = 8, /* … but these */
	FOLLOW_BY = 2,    /* a queue that is longer by so many and an eighth is not */
	FEW_WAITS = 64,   /* that are begun anew elsewhere before a call that may last */
};

/* ---- the loop -------------------------------------------------------------- */

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
	weft_inbox_drain(c, c);
	weft_sig_inbox_drain(c);
	if (weft_engine_pending(c))
		weft_engine_flush(c);
	if (load_relaxed(&c->timers.first) != WEFT_NO_DEADLINE)
		run_timers(c);
}

void weft_sched_look(struct carrier *c)
{
	look_here(c);
	if (unlikely(load_relaxed(&c->odd)))
		return;
	weft_balance_level(c);
	if (unlikely(load_relaxed(&weft_rt.stuck)))
		weft_balance_relieve(c);
}

/* ---- stuck carriers; see monitor.c ----------------------------------------- */

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
 * instructions of the fiber's own code, or in a system call of its own, as close is here:
 * weft makes it, but it may take long. The ring answers to this thread alone. Where it is
 * stuck, what waits there is ended and begun anew by other carriers.
 *
 * One that makes call after call of which none waits is met inside weft most of the time,
 * or always: it gives way when it leaves (weft_sched_give_way).
 */
void weft_sched_called(struct carrier *c)
{
	struct fiber *f = c->current;
	bool stuck = load_relaxed(&c->odd) & ODD_STUCK;
	int pause = xchg_seq_cst(&c->pause_due, 0);

	if (!f || c->kind != CARRIER_FULL || !(stuck || load_relaxed(&c->look_due)))
		return;
	if (load_relaxed(&f->in_weft) && !load_relaxed(&c->in_close)) {
		store_relaxed(&f->give_way, GIVE_WAY);
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
	if (pause)
		weft_hogs_pause(c, (enum weft_pause)pause);
}

/*
 * A kick ends no wait for a vfork child, and what the child does before it executes may
 * be somebody's here to answer for (a FIFO that it opens). Who waits in the ring waits
 * elsewhere, where they are few: it costs each of them a turn.
 */
void weft_sched_keeps_carrier(void)
{
	struct carrier *c = weft_carrier_self();
	unsigned waits;

	if (c->kind != CARRIER_FULL)
		return;
	waits = weft_engine_waits(c);
	if (waits && waits <= FEW_WAITS)
		weft_engine_evict(c);
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
	struct carrier *to = weft_somebody_but(c);
	struct fiber *f;

	if (!to || !weft_engine_evict(c)) {
		fetch_and_seq_cst(&c->odd, ~ODD_RETIRING);
		return false;
	}
	fetch_or_seq_cst(&c->odd, ODD_RETIRED);
	weft_inbox_drain(c, c);
	while ((f = runq_pop(&c->woken))) {
		f->returns = 1; /* there it goes before the queue too */
		weft_sched_post(to, f);
	}
	while ((f = weft_queue_take(c))) {
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

/* ---- what runs next -------------------------------------------------------- */

/*
 * f is about to run, and computes: the kernel is given what is to be begun, as it would
 * wait for the end of the run; who is ready need not wait for it either.
 */
static void before_long_run(struct carrier *c, struct fiber *f)
{
	if (weft_engine_unsubmitted(c) || weft_engine_ready(c))
		weft_engine_flush(c);
	if (others_could_help() && ready_on(c))
		weft_balance_share(c, f);
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
		uint64_t again = weft_now_ns() + WEFT_LONG_NS;

		c->napped = c->counters[WEFT_COUNTER_SWITCHES];
		deadline = again < deadline ? again : deadline;
	}
	if (!load_seq_cst(&c->inbox) && !load_seq_cst(&c->sig_inbox) &&
		/* [spill-sleep]; whom a pinned one cannot give to others stays there. */
		(!load_seq_cst(&c->spill_count) || load_relaxed(&c->odd) & ODD_HELD) &&
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
		weft_inbox_drain(c, c);
		weft_sig_inbox_drain(c);
		if (load_relaxed(&c->timers.first) != WEFT_NO_DEADLINE)
			weft_timers_run(c, weft_now_ns(), UINT_MAX);
		weft_engine_reap(c);
		for (uint32_t n = weft_sched_queued(c); n--;) {
			f = weft_ready_take(c);
			if (!f)
				break;
			if (f == held)
				found = f;
			else if ((to = weft_somebody_but(c)))
				weft_sched_post(to, f);
			else
				weft_spill_push(c, f);
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
 * The scheduler was in the kernel, which let others run meanwhile: that is none of the
 * next one's time. Its turn would have ended before it began.
 */
static void was_away(struct carrier *c)
{
	store_relaxed(&c->run_tsc, weft_tsc());
}

static struct fiber *take_next(struct carrier *c)
{
	struct fiber *f;

	if (unlikely(c->kind == CARRIER_BOUND))
		return weft_bound_next(c);
	if (unlikely(c->held))
		return wait_for_held(c);
	if (unlikely(weft_answers_due(c, c->run_tsc))) {
		weft_engine_flush(c);
		was_away(c);
	}
	if (unlikely(++c->ticks % WEFT_POLL_EVERY == 0)) {
		weft_sched_look(c);
		was_away(c);
		if (unlikely(load_relaxed(&c->odd) & ODD_RETIRING))
			retire(c);
	}
	if (unlikely(c->makes_room) && !runq_length(&c->woken)) {
		weft_crowd_make_room(c);
		was_away(c);
	}
	for (;;) {
		f = weft_ready_next(c);
		if (likely(f)) {
			weft_balance_watch(c);
			return f;
		}
		c->backlog_tsc = 0;
		if (c->answers) {
			weft_engine_flush(c);
			was_away(c);
			continue;
		}
		if (weft_inbox_drain(c, c) || weft_sig_inbox_drain(c))
			continue;
		if (load_relaxed(&c->timers.first) != WEFT_NO_DEADLINE && run_timers(c))
			continue;
		if (weft_engine_reap(c))
			continue;
		if (likely(!(load_relaxed(&c->odd) & (ODD_RETIRING | ODD_RETIRED)))) {
			f = weft_balance_steal(c);
			if (f)
				return f;
			if (load_relaxed(&weft_rt.stuck) && weft_balance_relieve(c))
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
	for (;;) {
		struct fiber *f = take_next(c);

		if (likely(load_relaxed(&f->ran) <= WEFT_LONG_TSC) ||
			c->kind != CARRIER_FULL)
			return f;
		if (likely(!weft_express_hands_on(c, f))) {
			before_long_run(c, f);
			return f;
		}
	}
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
	if (unlikely(ran > WEFT_LONG_TSC))
		store_relaxed(&c->long_tsc, c->long_tsc + ran);
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
			weft_random(c) % 2)
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

/* ---- park and unpark ------------------------------------------------------- */

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
	struct carrier *to = weft_somebody_but(on);

	return to ? to : on;
}

/*
 * To the carrier that runs where its peer does (follow.c), where that costs nobody more
 * than it helps: not one that sleeps, as waking it is dearer; nor one whose fibers
 * compute; nor one with a longer queue than this, if not by as little as is left alone
 * anyway. (A fiber that has run for long by the clock does not compute: where the CPUs
 * are busy the kernel took its carrier's. Of 1,024 in MariaDB seven of eight that wanted
 * to follow did not.)
 */
static bool follow(struct carrier *c, struct fiber *f)
{
	struct carrier *to = f->follows;

	f->follows = NULL;
	if (to == c || !c || c->kind != CARRIER_FULL || to->kind != CARRIER_FULL ||
		load_relaxed(&to->odd))
		return false;

	uint32_t here = ready_on(c);

	if ((load_relaxed(&to->sleeping) || load_relaxed(&to->slow) ||
		    ready_on(to) > here + here / 8 + FOLLOW_BY) &&
		!weft_rt.config.stress_shuffle)
		return false;
	weft_count(c, FOLLOWED);
	f->asked_on = to;
	weft_sched_post(to, f);
	return true;
}

enum place { PLACE_LAST, PLACE_FIRST, PLACE_AGAIN };

static void unpark(struct fiber *f, enum place place)
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
			!(c && c->kind == CARRIER_FULL && weft_balance_computes(home))) {
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
	if (unlikely(f->follows) && place != PLACE_FIRST && follow(c, f))
		return;
	if (likely(c && c->kind == CARRIER_FULL)) {
		if (unlikely(load_relaxed(&weft_rt.express)) && c->current &&
			weft_express_takes(c, f))
			return;
		if (place == PLACE_FIRST && c->current)
			weft_ready_first(c, f);
		else if (place == PLACE_AGAIN)
			weft_ready_again(c, f);
		else
			weft_sched_ready(c, f);
		if (others_could_help() && c->current && weft_balance_computes(c))
			weft_balance_share(c, c->current);
		return;
	}
	/* From a helper or a native thread: back to where it ran last. One that has just
	 * been made need not run yet. */
	c = f->carrier ? f->carrier : weft_rt.carrier[f->index % weft_rt.target];
	weft_sched_post(c, f);
}

void weft_unpark(struct fiber *f)
{
	unpark(f, PLACE_LAST);
}

void weft_unpark_again(struct fiber *f)
{
	unpark(f, PLACE_AGAIN);
}

void weft_unpark_woken(struct fiber *f, unsigned n)
{
	const struct carrier *c = (struct carrier *)weft_rdgsbase();
	bool first = c && n <= RUNQ_SIZE - runq_length(&c->woken);

	while (f) {
		struct fiber *next = f->qnext;

		unpark(f, first ? PLACE_FIRST : PLACE_LAST);
		f = next;
	}
}

void weft_unpark_behind(struct fiber *f)
{
	struct carrier *c = (struct carrier *)weft_rdgsbase();

	if (unlikely(f->flags & FIBER_MAIN) || weft_rt.config.stress_migrate)
		unpark(f, PLACE_LAST);
	else
		weft_ready_first(c, f);
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

void weft_sched_init(struct carrier *c)
{
	c->runq.head = c->runq.tail = 0;
	c->spill_head = c->spill_tail = NULL;
	c->spill_count = 0;
	c->woken.head = c->woken.tail = 0;
	c->woken_runs = 0;
	c->inbox = NULL;
	c->sig_inbox = NULL;
	c->turn_tsc = 0;
	c->answers = 0;
	c->run_tsc = weft_tsc();
	c->shares = c->slow = false;
	c->napped = c->fs_lost_in = ~0ull;
	c->lone = NULL;
	c->makes_room = NULL;
	c->rooms_paid = 0;
	c->rng = (weft_rt.config.seed ? weft_rt.config.seed : 0x9e3779b97f4a7c15ull) +
		 (c->id + 1) * 0xbf58476d1ce4e5b9ull;
}
