/*
 * turn.c - how long a fiber may run on while others wait.
 */
#include "queue_impl.h"

#include "engine.h"

enum {
	LOOK_NS = 300000,        /* between two looks of those that give way */
	FEW = 64,                /* for each of more that wait, a turn is longer: */
	EACH_NS = 200,           /* by this, */
	MANY = 256,              /* for each of more than these … */
	MORE_NS = 40,            /* … by this */
	WOKE_EACH = 4,           /* who has woken so many gives way */
	HELD_NS = 20000,         /* for each that waits, of who may hold something, … */
	HELD_MOST_NS = 10000000, /* … up to this, where the monitor calls anyway */
};

static const uint64_t LOOK_TSC = WEFT_TSC(LOOK_NS);
static const uint64_t HELD_MOST_TSC = WEFT_TSC(HELD_MOST_NS);
/* How long a turn may last while others wait, by the call that could end it. */
static const uint64_t TURN_TSC[] = {
	[WEFT_TURN_ANSWER] = WEFT_TSC(20000), /* … and longer: turn_tsc() */
	[WEFT_TURN_REQUEST] = WEFT_TSC(600000),
	[WEFT_TURN_LOCK] = WEFT_TSC(2400000),
};

static bool yield_commit(struct fiber *f, void *arg)
{
	(void)arg;
	weft_unpark(f);
	return true;
}

/* Behind whom it woke, before the queue. */
static bool behind_woken_commit(struct fiber *f, void *arg)
{
	(void)arg;
	weft_unpark_behind(f);
	return true;
}

/* The fiber leaves weft, and may have been asked to let its carrier do its work. */
void weft_sched_give_way(void)
{
	struct carrier *c = weft_carrier_self();
	struct fiber *f = c->current;
	int how = load_relaxed(&f->give_way);

	if (likely(!how))
		return;
	store_relaxed(&f->give_way, 0);
	/* It may have waited for something meanwhile. */
	if (c->kind != CARRIER_FULL || !load_relaxed(&c->called))
		return;
	if (how == GIVE_WAY_TO_WOKEN && !load_relaxed(&c->look_due)) {
		store_relaxed(&c->called, 0);
		weft_park(WEFT_REASON_YIELD, behind_woken_commit, NULL);
		return;
	}
	store_relaxed(&c->called, 0);
	store_relaxed(&c->look_due, 0);
	/*
	 * What is there comes first, and then this one again. Not only when nobody is
	 * ready: two that take turns would keep the ring waiting for WEFT_POLL_EVERY
	 * turns. Not each time: it is a system call.
	 */
	if (!ready_on(c) || weft_tsc() - c->looked_tsc > LOOK_TSC)
		weft_sched_look(c);
	weft_park(WEFT_REASON_YIELD, yield_commit, NULL);
}

static bool others_wait(const struct carrier *c)
{
	uint64_t first = load_relaxed(&c->timers.first);

	return ready_on(c) || load_relaxed(&c->inbox) || weft_engine_ready(c) ||
	       (first != WEFT_NO_DEADLINE && first <= weft_now_ns());
}

static bool may_give_way(const struct carrier *c)
{
	return c->kind == CARRIER_FULL && !(c->current->flags & FIBER_PINNED);
}

static void ask_way(struct carrier *c, enum weft_give_way how)
{
	store_relaxed(&c->called, 1);
	store_relaxed(&c->current->give_way, how);
}

void weft_sched_let_woken(void)
{
	struct carrier *c = weft_carrier_self();

	if (may_give_way(c))
		ask_way(c, GIVE_WAY_TO_WOKEN);
}

/*
 * The longer the queue, the longer all wait anyway, and the less of what a fiber needs is
 * still in the cache when it is its turn again: more is done at a time. Not where FEW
 * wait. (MariaDB, 128 connections, its own pool 1: transactions 1.12 with longer turns
 * there and 1.09 without, 99th percentile 0.96 and 0.85.)
 *
 * Who has not answered comes back behind all of them, and if it holds a lock that they
 * want, each such turn costs everybody a round. (MariaDB, the first requests of 4,096
 * connections: 2,100 of them wait for one mutex, for up to four seconds, and others that
 * have it already are served meanwhile. 99th percentile of the first run, by turns
 * 600 us for all / with this: 1.3, 2.8 / 1.1, 1.3 s.)
 */
static uint64_t turn_tsc(const struct carrier *c, enum weft_turn at)
{
	uint64_t n = ready_on(c);

	if (at != WEFT_TURN_ANSWER) {
		uint64_t held = TURN_TSC[at] + WEFT_TSC(n * HELD_NS);

		return held < HELD_MOST_TSC ? held : HELD_MOST_TSC;
	}
	uint64_t more = n > MANY ? n - MANY : 0;
	uint64_t each = n > FEW ? n - FEW - more : 0;

	return TURN_TSC[at] + WEFT_TSC(each * EACH_NS + more * MORE_NS);
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
	uint64_t cpu = weft_cpu_clock(c);

	if (c->turn_run != c->ticks) {
		c->turn_run = c->ticks;
		c->turn_cpu = cpu;
		return false;
	}
	/* From that on: of each of many short turns it may have had less than half. */
	if (WEFT_TSC(cpu - c->turn_cpu) < TURN_TSC[at] / 2)
		return false;
	c->turn_cpu = cpu;
	return true;
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
void weft_sched_turn(enum weft_turn at, int fd)
{
	struct carrier *c = weft_carrier_self();
	uint64_t now = weft_tsc();

	if (unlikely(weft_answers_due(c, now)))
		weft_engine_flush(c);
	if (likely(now - c->turn_tsc < TURN_TSC[at]))
		return;
	if (now - c->turn_tsc < turn_tsc(c, at))
		return;
	c->turn_tsc = now;
	if (!may_give_way(c) || !others_wait(c))
		return;
	if (at != WEFT_TURN_ANSWER && !used_turn(c, at))
		return;
	ask_way(c, GIVE_WAY);
	if (at == WEFT_TURN_ANSWER && fd >= 0)
		weft_follow_peer(c->current, fd);
}

/*
 * Whom the kernel has woken runs when a carrier looks there. A fiber that takes the lock
 * again at once, and parks with it, would be found with it each time (crowd.c).
 */
void weft_sched_woke_outside(void)
{
	struct carrier *c = weft_carrier_self();

	if (++c->woke % WOKE_EACH == 0 && may_give_way(c))
		ask_way(c, GIVE_WAY);
}

/* Stress: now and then as if the monitor had called just when the call began. */
void weft_sched_stress_call(void)
{
	struct carrier *c = weft_carrier_self();

	if (likely(!weft_rt.config.stress_shuffle) || c->kind != CARRIER_FULL ||
		weft_random(c) % 4)
		return;
	ask_way(c, GIVE_WAY);
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
		if (++c->yields % WEFT_POLL_EVERY)
			return;
		weft_sys0(SYS_sched_yield);
		c->ticks = WEFT_POLL_EVERY - 1;
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
