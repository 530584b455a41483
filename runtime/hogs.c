/*
 * hogs.c - those that compute leave the CPU to those that answer.
 *
 * A thousand threads that answer have a thousand shares of the CPU, and each of them is
 * run at once when it has waited. The few carriers that run them here have used theirs up
 * after some milliseconds. Then the kernel lets run who computes, until its next tick (4
 * ms with CONFIG_HZ=250), and all that is ready waits for as long.
 *
 * So while there is a hog for each CPU, or more, and others have turns, the monitor looks
 * at the carriers every millisecond.
 *
 *   - When one beside the hogs could have run and did not, whoever had the CPU instead
 *     yields it, in the handler of a kick. It has run for about as long before: it keeps
 *     at least half of what it would have, where natively it is one of many.
 *   - Of more hogs than CPUs as many run as there are CPUs, by turns. The others wait for
 *     theirs, in that handler, too: or one that yields would only make room for the next.
 *
 * Only who computes just now is kicked: a kick may end a system call by an instruction of
 * its own.
 *
 * (1,000 threads that ask and answer 18,000 times a second, 99th percentile; without
 * this, with it, natively. Beside two that compute, on two CPUs: 2.4, 0.6 to 1.3, 0.5 ms;
 * on one: 4.5, 1.7, 7. Beside eight: 14, 2.5, 1.2 ms; on one, 0.9 and 2.8. What those
 * compute: 0.93, 1.2 and 1.0.)
 *
 * Rejected: to sleep for a millisecond instead of yielding (who wakes up is run at once:
 * beside eight 3 ms, on one CPU 2 to 6). Shorter turns (4 ms: 4 ms beside eight). A
 * shorter slice for the carriers or the monitor (sched_setattr): it helps little, and is
 * a call for which a seccomp profile may end the process. More carriers: their messages
 * to each other cost more than their shares bring.
 */
#include <errno.h>
#include <linux/futex.h>
#include <time.h>

#include "engine.h"
#include "keepers.h"

enum {
	FEW_TURNS = 20, /* of others, in a tick, … */
	BUSY_TICKS = 5, /* … one of these */
	PAUSE_NS = 1000000,
	ALONE_NS = 20000,         /* a yield that is shorter lets nobody run */
	STARVED = 8,              /* has run for less than this part of the time */
	ROUND_LOOKS = 40,         /* until each has had its turn, but … */
	TURN_LOOKS = 3,           /* … no turn is shorter */
	FORGOTTEN_NS = 500000000, /* by a monitor that is not let run */
};

/* (monitor) */
static uint64_t looked_at; /* when it did last */
static uint64_t turns;     /* that all fibers have had by its last tick */
static unsigned busy_ticks;
static bool watched;
static bool by_turns;       /* there are more hogs than CPUs */
static unsigned last_turn;  /* an index of weft_rt.carrier */
static unsigned turn_looks; /* left of it */

/* ---- hogs take turns ------------------------------------------------------- */

/* One that blocks in a system call does not run, either, but it could not. */
static bool runs_or_could(const struct carrier *c)
{
	return weft_keepers_state(c) == 'R';
}

static bool is_hog(const struct carrier *c)
{
	return c->hog && load_seq_cst(&c->odd) & ODD_STUCK;
}

static void kick_to_pause(struct carrier *c, enum weft_pause how)
{
	store_seq_cst(&c->pause_due, how);
	store_seq_cst(&c->called, 1);
	weft_carrier_kick(c);
}

static void let_run(struct carrier *c)
{
	if (load_relaxed(&c->awaits_turn) && xchg_seq_cst(&c->awaits_turn, 0))
		weft_sys3(SYS_futex, (long)&c->awaits_turn, FUTEX_WAKE_PRIVATE, 1);
}

static void let_wait(struct carrier *c, struct carrier *monitor)
{
	if (load_relaxed(&c->awaits_turn) || !runs_or_could(c))
		return;
	weft_count(monitor, PAUSES);
	store_seq_cst(&c->awaits_turn, 1);
	kick_to_pause(c, WEFT_PAUSE_UNTIL_TURN);
}

/* Those that come next in the table run, one for each CPU. */
static void next_turn(struct carrier *monitor)
{
	unsigned n = weft_rt.carriers, first = last_turn + 1, left = weft_rt.cpus;
	unsigned hogs = 0;

	for (unsigned i = 0; i < n; i++) {
		struct carrier *c = weft_rt.carrier[(first + i) % n];

		if (!is_hog(c)) {
			let_run(c);
			continue;
		}
		hogs++;
		if (!left) {
			let_wait(c, monitor);
			continue;
		}
		let_run(c);
		last_turn = c->id;
		left--;
	}
	turn_looks = hogs ? ROUND_LOOKS * weft_rt.cpus / hogs : 0;
	if (turn_looks < TURN_LOOKS)
		turn_looks = TURN_LOOKS;
}

void weft_hogs_forget(void)
{
	watched = by_turns = false;
	busy_ticks = 0;
}

static void end_turns(void)
{
	by_turns = false;
	for (unsigned i = 0; i < weft_rt.carriers; i++)
		let_run(weft_rt.carrier[i]);
}

bool weft_hogs_by_turns(void)
{
	return by_turns;
}

/* ---- others ---------------------------------------------------------------- */

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
	watched = hogs >= weft_rt.cpus && busy_ticks;
	if (watched && hogs > weft_rt.cpus)
		by_turns = true;
	else if (by_turns)
		end_turns();
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

void weft_hogs_make_room(struct carrier *monitor)
{
	uint64_t now = weft_now_ns(), since = looked_at, ns;
	unsigned used = 0; /* turns, by who computes */
	bool starved = false;

	looked_at = now;
	for (unsigned i = 0; i < weft_rt.carriers; i++) {
		struct carrier *c = weft_rt.carrier[i];

		c->in_the_way = false;
		if (load_relaxed(&c->awaits_turn) && is_hog(c))
			continue;
		if (is_hog(c)) {
			bool known = has_had(c, since, now, &ns);

			c->in_the_way = known && ns >= (now - since) / 2;
			c->hog = !known || ns || runs_or_could(c);
			used += c->hog;
		} else if (is_beside(c) && has_had(c, since, now, &ns) &&
			   ns < (now - since) / STARVED) {
			starved = starved || runs_or_could(c);
		}
	}
	turn_looks -= turn_looks > 0;
	if (by_turns && (!turn_looks || used < weft_rt.cpus))
		next_turn(monitor);
	if (!starved)
		return;
	for (unsigned i = 0; i < weft_rt.carriers; i++) {
		struct carrier *c = weft_rt.carrier[i];

		if (!c->in_the_way || load_relaxed(&c->awaits_turn) || !runs_or_could(c))
			continue;
		weft_count(monitor, PAUSES);
		kick_to_pause(c, WEFT_PAUSE_BRIEFLY);
	}
}

/* ---- in the handler of the kick -------------------------------------------- */

static void await_turn(struct carrier *c)
{
	const struct timespec forgotten = {0, FORGOTTEN_NS};

	while (load_acquire(&c->awaits_turn))
		if (weft_sys4(SYS_futex, (long)&c->awaits_turn, FUTEX_WAIT_PRIVATE, 1,
			    (long)&forgotten) == -ETIMEDOUT)
			store_seq_cst(&c->awaits_turn, 0);
}

/* Once may be for microseconds, as long as others come and go. */
static void yield(void)
{
	uint64_t begin = weft_now_ns(), now = begin, before;

	do {
		before = now;
		weft_sys0(SYS_sched_yield);
		now = weft_now_ns();
	} while (now - before > ALONE_NS && now - begin < PAUSE_NS);
}

void weft_hogs_pause(struct carrier *c, enum weft_pause how)
{
	if (how == WEFT_PAUSE_UNTIL_TURN)
		await_turn(c);
	else
		yield();
}
