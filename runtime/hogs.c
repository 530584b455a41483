/*
 * hogs.c - those that compute leave the CPU to those that answer.
 *
 * A thousand threads that answer have a thousand shares of the CPU, and each of them is
 * run at once when it has waited. The few carriers that run them here have used theirs up
 * after some milliseconds. Then the kernel lets run who computes, until its next tick (4
 * ms with CONFIG_HZ=250), and all that is ready waits for as long.
 *
 * So while there is a hog for each CPU, or two, and others have turns, the monitor looks
 * at the carriers beside them every millisecond. When one could have run and did not,
 * whoever had the CPU instead pauses for a millisecond, in the handler of a kick. It has
 * run for about as long before: it keeps at least half of what it would have, where
 * natively it is one of many. Only where it computes just now: a kick may end a system
 * call by an instruction of its own.
 *
 * (1,000 threads that ask and answer 19,000 times a second beside two that compute: 99th
 * percentile on one CPU 4.5 ms without, 3.5 with this, natively 1.5; on two 2.4, 1.6,
 * 0.6.)
 *
 * Rejected: a shorter slice for the carriers or the monitor (sched_setattr): it helps
 * little, and is a call for which a seccomp profile may end the process. More carriers:
 * their messages to each other cost more than their shares bring. Pauses beside more
 * hogs: another one runs instead.
 */
#include <time.h>

#include "engine.h"
#include "keepers.h"

enum {
	MOST = 2,       /* hogs, for each CPU */
	FEW_TURNS = 20, /* of others, in a tick, … */
	BUSY_TICKS = 5, /* … one of these */
	PAUSE_NS = 1000000,
	STARVED = 8, /* has run for less than this part of the time */
};

/* (monitor) */
static uint64_t looked_at; /* when it did last */
static uint64_t turns;     /* that all fibers have had by its last tick */
static unsigned busy_ticks;
static bool watched;

/* Not for a few who come now and then: each look takes the CPU from somebody. */
void weft_hogs_tick(unsigned hogs)
{
	uint64_t before = turns;

	turns = 0;
	busy_ticks -= busy_ticks > 0;
	for (unsigned i = 0; i < weft_rt.carriers; i++)
		turns += load_relaxed(
			&weft_rt.carrier[i]->counters[WEFT_COUNTER_SWITCHES]);
	if (turns - before >= FEW_TURNS)
		busy_ticks = BUSY_TICKS;
	watched = hogs >= weft_rt.cpus && hogs <= MOST * weft_rt.cpus && busy_ticks;
}

bool weft_hogs_watched(void)
{
	return watched;
}

/* What CPU time c has had since then; false if nobody looked at it then. */
static bool has_had(struct carrier *c, uint64_t since, uint64_t now, uint64_t *ns)
{
	bool known = c->room_at == since;

	*ns = c->room_cpu;
	c->room_at = now;
	c->room_cpu = weft_cpu_clock(c);
	*ns = c->room_cpu - *ns;
	return known;
}

static bool is_beside(const struct carrier *c)
{
	return c->kind == CARRIER_FULL && !(load_seq_cst(&c->odd) & ODD_AWAY) &&
	       !load_seq_cst(&c->sleeping);
}

/* One that blocks in a system call does not run, either, but it could not. */
static bool runs_or_could(const struct carrier *c)
{
	return weft_keepers_state(c) == 'R';
}

void weft_hogs_make_room(struct carrier *monitor)
{
	uint64_t now = weft_now_ns(), since = looked_at, ns;
	bool starved = false;

	looked_at = now;
	for (unsigned i = 0; i < weft_rt.carriers; i++) {
		struct carrier *c = weft_rt.carrier[i];

		c->in_the_way = false;
		if (load_seq_cst(&c->odd) & ODD_STUCK)
			c->in_the_way =
				has_had(c, since, now, &ns) && ns >= (now - since) / 2;
		else if (is_beside(c) && has_had(c, since, now, &ns) &&
			 ns < (now - since) / STARVED)
			starved = starved || runs_or_could(c);
	}
	if (!starved)
		return;
	for (unsigned i = 0; i < weft_rt.carriers; i++) {
		struct carrier *c = weft_rt.carrier[i];

		if (!c->in_the_way || !runs_or_could(c))
			continue;
		weft_count(monitor, PAUSES);
		store_seq_cst(&c->pause_due, 1);
		store_seq_cst(&c->called, 1);
		weft_carrier_kick(c);
	}
}

void weft_hogs_pause(void)
{
	const struct timespec pause = {0, PAUSE_NS};

	weft_sys2(SYS_nanosleep, (long)&pause, 0);
}
