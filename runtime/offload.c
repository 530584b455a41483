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

/* How long a call waits before it asks again for a thread, when there was none. */
enum { PAUSE_NS = 10000000 };

static struct weft_lock idle_lock;
static struct carrier *idle;  /* (idle_lock) linked by helper_next */
static unsigned helper_count; /* (idle_lock) */
static unsigned in_place;     /* (a) carriers that block for want of a helper */
static int said_failure;      /* (a) once per process */

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

static struct carrier *take_helper(int *ret_err)
{
	struct carrier *c;
	unsigned id;
	int err;

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
	if (!c) {
		*ret_err = -ENOMEM;
		return NULL;
	}
	weft_lock(&weft_rt.threads_lock);
	err = weft_carrier_spawn(c, helper_loop);
	if (!err) {
		c->all_next = weft_rt.helpers;
		store_release(&weft_rt.helpers, c);
	}
	weft_unlock(&weft_rt.threads_lock);
	if (err) {
		weft_carrier_free(c);
		*ret_err = err;
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
	f->returns = 1;
	weft_unpark(f);
	return true;
}

/* On the carrier, which blocks. A signal for the fiber ends the call as on a helper. */
static long make_in_place(struct fiber *f, long (*fn)(void *), void *arg)
{
	long ret;

	store_seq_cst(&f->helper, weft_carrier_self());
	ret = fn(arg);
	store_seq_cst(&f->helper, NULL);
	return ret;
}

/* Is a carrier left that runs the others, whoever of them ends this call? */
static bool may_block_carrier(void)
{
	unsigned n = __atomic_add_fetch(&in_place, 1, __ATOMIC_SEQ_CST);

	if (n < load_acquire(&weft_rt.carriers))
		return true;
	__atomic_fetch_sub(&in_place, 1, __ATOMIC_SEQ_CST);
	return false;
}

static void say_failure(int err)
{
	char text[21];

	if (xchg_seq_cst(&said_failure, 1))
		return;
	weft_log_parts("no kernel thread can be made for a call that only the kernel can"
		       " wait for (errno ",
		weft_format_u64(text, (uint64_t)-err),
		"): such calls block carriers now, or wait for a thread", NULL);
}

/*
 * No thread to be had. Then this carrier blocks, and the monitor lets the others take
 * over what waits here; but not the last one: whoever ends the call may be a fiber. That
 * call is put off, and looked at again when a helper may have come back.
 */
static long make_without(
	struct fiber *f, int err, long (*fn)(void *), void *arg, bool ends)
{
	long ret;

	say_failure(err);
	if (ends) {
		weft_count(weft_carrier_self(), IN_PLACE);
		return make_in_place(f, fn, arg);
	}
	if (!may_block_carrier()) {
		weft_sleep_until(weft_now_ns() + PAUSE_NS);
		/* With a signal due the call does not begin, but ends as it would. */
		return weft_signals_attention(f) ? make_in_place(f, fn, arg)
						 : WEFT_RESTART_ALWAYS;
	}
	weft_count(weft_carrier_self(), IN_PLACE);
	ret = make_in_place(f, fn, arg);
	__atomic_fetch_sub(&in_place, 1, __ATOMIC_SEQ_CST);
	return ret;
}

/* `ends`: by itself, sooner or later, whatever other fibers do. */
static long offload(long (*fn)(void *), void *arg, bool ends)
{
	struct fiber *f = weft_fiber_self();
	struct carrier *helper;
	int err = 0;
	long ret;

	if (!f || f->helper)
		return fn(arg);
	if (f->pins || (unlikely(weft_native_watches) && weft_native_stays()))
		return make_in_place(f, fn, arg);
	helper = take_helper(&err);
	if (unlikely(!helper))
		return make_without(f, err, fn, arg, ends);
	weft_count(weft_carrier_self(), OFFLOADS);
	weft_park(WEFT_REASON_OFFLOAD, go_commit, helper);
	f->reason = WEFT_REASON_OFFLOAD;
	ret = fn(arg);
	weft_park(WEFT_REASON_OFFLOAD, back_commit, NULL);
	return ret;
}

long weft_offload_or_again(long (*fn)(void *), void *arg)
{
	return offload(fn, arg, false);
}

long weft_offload_ending(long (*fn)(void *), void *arg)
{
	return offload(fn, arg, true);
}

long weft_offload(long (*fn)(void *), void *arg)
{
	long ret;

	do
		ret = offload(fn, arg, false);
	while (unlikely(ret == WEFT_RESTART_ALWAYS));
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

static long in_kernel(struct kernel_call *k, long (*how)(long (*)(void *), void *))
{
	struct fiber *self = weft_fiber_self();

	k->attention = self ? weft_signals_attention_word(self) : NULL;
	weft_count_native((unsigned)k->nr);
	return how(make_kernel_call, k);
}

long weft_io_in_kernel(long nr, long a, long b, long c, long d, long e, long f)
{
	struct kernel_call k = {.nr = nr, .args = {a, b, c, d, e, f}};

	return in_kernel(&k, weft_offload);
}

long weft_io_on_disk(long nr, long a, long b, long c, long d, long e, long f)
{
	struct kernel_call k = {.nr = nr, .args = {a, b, c, d, e, f}};

	return in_kernel(&k, weft_offload_ending);
}

/* In a fork child: the helpers did not come along. */
void weft_offload_forget(void)
{
	idle_lock.word = 0;
	idle = NULL;
	helper_count = 0;
	in_place = 0;
}

void weft_offload_lock(void)
{
	weft_lock(&idle_lock);
}

void weft_offload_unlock(void)
{
	weft_unlock(&idle_lock);
}
