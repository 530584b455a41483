/*
 * making.c - descriptors that weft makes while the program runs.
 *
 * Each further carrier has some. Until they are moved to where no program looks, and
 * listed, they have numbers that the program does not use, which it may close all the
 * same: by closefrom(3), in a loop over all numbers, or because it takes one by dup2.
 * So one waits for the other: the closer writes to a line of its own carrier and looks at
 * one that nobody writes to, or hardly ever.
 *
 *     closer, on its carrier           maker, with threads_lock
 *     closing odd                      making = 1
 *     (seq_cst)  [closing-making]      (seq_cst)
 *     making? even, wait, again        closing odd? wait
 *     is it weft's? its call           its calls, and the list
 *     closing even                     making = 0
 *
 * Impossible: the closer sees no maker and the maker sees no closer.
 *
 * A close may wait for long when its number is free already (SO_LINGER, a file on
 * another machine), perhaps for somebody whom only a further carrier can run. So the
 * maker has its patience, once for each. A native thread's call is made by the thunk,
 * where a cancellation may end it, and is not waited for. What these two may do all the
 * same makes the making fail (weft_carrier_add), and is tried again.
 *
 * Rejected: to ask whether the number is open before each close (a system call more).
 */
#include "making.h"

#include <linux/futex.h>
#include <time.h>

#include "keepers.h"
#include "sched_impl.h"

enum {
	PATIENCE_NS = 20000000,
	/* … with one that is in no wait, but that the kernel does not let run. */
	PATIENCE_RUNNING_NS = 200000000,
	LOOK_NS = 50000,
};

static uint32_t making; /* (a) */

static void turn(struct carrier *c)
{
	store_seq_cst(&c->closing, c->closing + 1); /* [closing-making] */
}

bool weft_closing_begin(void)
{
	struct carrier *c = (struct carrier *)weft_rdgsbase();

	for (;;) {
		if (c)
			turn(c);
		if (likely(!load_seq_cst(&making))) /* [closing-making] */
			return c;
		if (c)
			turn(c);
		weft_sys4(SYS_futex, (long)&making, FUTEX_WAIT_PRIVATE, 1, 0);
	}
}

long weft_closing_call(long nr, long a, long b, long d)
{
	struct carrier *c = (struct carrier *)weft_rdgsbase();
	long r;

	if (!c)
		return weft_sys3(nr, a, b, d);
	store_relaxed(&c->in_close, true); /* for our own signal handler */
	r = weft_sys3(nr, a, b, d);
	store_relaxed(&c->in_close, false);
	return r;
}

void weft_closing_end(void)
{
	struct carrier *c = weft_carrier_self();

	store_release(&c->closing, c->closing + 1);
}

static void await_closer(struct carrier *c)
{
	const struct timespec look = {0, LOOK_NS};
	uint32_t is = load_seq_cst(&c->closing); /* [closing-making] */
	uint64_t since;

	if (!(is & 1) || is == c->closing_seen)
		return;
	since = weft_now_ns();
	while (load_acquire(&c->closing) == is) {
		bool runs = weft_keepers_state(c) == 'R';

		if (weft_now_ns() - since > (runs ? PATIENCE_RUNNING_NS : PATIENCE_NS)) {
			c->closing_seen = is;
			return;
		}
		weft_sys2(SYS_nanosleep, (long)&look, 0);
	}
}

void weft_making_begin(void)
{
	store_seq_cst(&making, 1); /* [closing-making] */
	for (unsigned i = 0; i < weft_rt.carriers; i++)
		await_closer(weft_rt.carrier[i]);
	/* Also where bound fibers are. */
	for (struct carrier *c = weft_rt.helpers; c; c = c->all_next)
		await_closer(c);
}

void weft_making_end(void)
{
	store_seq_cst(&making, 0);
	weft_sys3(SYS_futex, (long)&making, FUTEX_WAKE_PRIVATE, INT32_MAX);
}

void weft_making_forget(void)
{
	store_relaxed(&making, 0);
}
