/*
 * offload.c - calls that must block a kernel thread: the fiber itself is resumed
 * on a helper, makes the call there, and comes back.
 *
 * Its TLS travels with it, so a helper is just another place to run. A helper is
 * a carrier without ring, queue and timers: it takes one fiber at a time, and
 * the fiber leaves it by parking with a commit that unparks it elsewhere. Idle
 * helpers wait on a list, the warmest first, and never exit (see carrier.c).
 */
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>

#include "io_impl.h"
#include "signals.h"

static struct weft_lock idle_lock;
static struct carrier *idle;  /* (idle_lock) linked by helper_next */
static unsigned helper_count; /* (idle_lock) */

static void helper_loop(void *arg)
{
	struct carrier *c = arg;

	for (;;) {
		struct fiber *f;

		for (;;) {
			/* Cleared before looking: a fiber posted after sets it again. */
			store_seq_cst(&c->helper_word, 0);
			f = xchg_seq_cst(&c->inbox, NULL); /* [helper-work] */
			if (f)
				break;
			weft_sys4(SYS_futex, (long)&c->helper_word, FUTEX_WAIT_PRIVATE, 0,
				0);
		}
		store_seq_cst(&f->helper, c);
		weft_sched_run_fiber(c, f);
		weft_lock(&idle_lock);
		c->helper_next = idle;
		idle = c;
		weft_unlock(&idle_lock);
	}
}

static struct carrier *take_helper(void)
{
	struct carrier *c;
	unsigned id;
	bool made;

	weft_lock(&idle_lock);
	c = idle;
	if (c)
		idle = c->helper_next;
	id = helper_count + (c == NULL);
	helper_count = id;
	weft_unlock(&idle_lock);
	if (c)
		return c;
	c = weft_carrier_new(1000 + id, CARRIER_HELPER);
	if (!c)
		return NULL;
	weft_lock(&weft_rt.threads_lock);
	made = !weft_carrier_spawn(c, helper_loop);
	if (made) {
		c->all_next = weft_rt.helpers;
		store_release(&weft_rt.helpers, c);
	}
	weft_unlock(&weft_rt.threads_lock);
	if (!made) {
		weft_carrier_free(c);
		return NULL;
	}
	return c;
}

static bool go_commit(struct fiber *f, void *arg)
{
	struct carrier *helper = arg;

	store_seq_cst(&helper->inbox, f); /* [helper-work] */
	store_seq_cst(&helper->helper_word, 1);
	weft_sys3(SYS_futex, (long)&helper->helper_word, FUTEX_WAKE_PRIVATE, 1);
	return true;
}

static bool back_commit(struct fiber *f, void *arg)
{
	(void)arg;
	store_seq_cst(&f->helper, NULL);
	weft_unpark(f);
	return true;
}

long weft_offload(long (*fn)(void *), void *arg)
{
	struct fiber *f = weft_fiber_self();
	struct carrier *helper;
	long ret;

	if (!f || f->helper || f->pins)
		return fn(arg);
	helper = take_helper();
	/*
	 * No thread to be had: then this carrier blocks. Wrong for the others,
	 * but the call is right, and it is what every call did before weft.
	 */
	if (!helper)
		return fn(arg);
	weft_count(weft_carrier_self(), OFFLOADS);
	weft_park(WEFT_REASON_OFFLOAD, go_commit, helper);
	f->reason = WEFT_REASON_OFFLOAD;
	ret = fn(arg);
	weft_park(WEFT_REASON_OFFLOAD, back_commit, NULL);
	return ret;
}

struct kernel_call {
	const int *attention; /* NULL: no fiber */
	long nr, args[6];
};

static long make_kernel_call(void *arg)
{
	struct kernel_call *k = arg;
	const long *a = k->args;

	return weft_signals_after_write(
		k->attention ? weft_sys_interruptible(k->attention, k->nr, a)
			     : weft_sys6(k->nr, a[0], a[1], a[2], a[3], a[4], a[5]));
}

long weft_io_in_kernel(long nr, long a, long b, long c, long d, long e, long f)
{
	struct fiber *self = weft_fiber_self();
	struct kernel_call k = {
		.attention = self ? weft_signals_attention_word(self) : NULL,
		.nr = nr,
		.args = {a, b, c, d, e, f},
	};

	weft_count_native((unsigned)nr);
	return weft_offload(make_kernel_call, &k);
}

/* In a fork child: the helpers did not come along. */
void weft_offload_forget(void)
{
	idle_lock.word = 0;
	idle = NULL;
	helper_count = 0;
}

void weft_offload_lock(void)
{
	weft_lock(&idle_lock);
}

void weft_offload_unlock(void)
{
	weft_unlock(&idle_lock);
}
