/*
 * bind.c - fibers with a kernel thread of their own, for life.
 *
 * Such a kernel thread is a carrier of kind BOUND: no ring, no queue, one fiber. Calls
 * that wait are made by the kernel, in place, as on any thread (the fiber's `helper` is
 * its carrier); what is waited for in user space (futexes, sleeps, signals) stops the
 * fiber as ever, and its carrier then sleeps in a kernel futex until the fiber is given
 * back or one of its deadlines is due. Nothing of weft's needs a descriptor there: a
 * filter that the fiber installs sees hardly more calls than natively.
 *
 * The main fiber's is the process's first thread, whose attributes the world sees as the
 * process's: its carrier hands over all it has (weft_sched_retire) and changes its kind.
 * A pinned fiber's carrier does the same. Others get a new kernel thread, made by a
 * carrier, so that it has the attributes that all of them have; it ends with its fiber.
 *
 *     poster                              carrier that changes its kind
 *     push onto c->inbox                  kind = BOUND
 *     (seq_cst)  [bound-post]             (seq_cst)
 *     kind BOUND? wake by futex           inbox empty? sleep
 */
#include "bind.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/prctl.h>
#include <time.h>

#include "accounting.h"
#include "attributes.h"
#include "engine.h"
#include "futex.h"
#include "signals.h"

enum { BOUND_ID = 5000 };

static uint64_t bound[WEFT_BIND_REASONS]; /* (a) */
static unsigned made;                     /* (threads_lock) */

const char *weft_bind_reason_text(enum weft_bind_reason why)
{
	static const char *const texts[] = {
#define WEFT_BIND(id, text) [WEFT_BIND_##id] = text,
#include "bind_reasons.def"
#undef WEFT_BIND
	};

	return texts[why];
}

uint64_t weft_bound_count(enum weft_bind_reason why)
{
	return load_relaxed(&bound[why]);
}

bool weft_fiber_is_bound(const struct fiber *f)
{
	return f->flags & FIBER_BOUND;
}

int weft_fiber_kernel_tid(const struct fiber *f)
{
	return load_acquire(&f->kernel_tid); /* [kernel-tid] */
}

/* ---- the carrier's side --------------------------------------------------- */

/* The fiber is gone. The first thread and those of the table stay, asleep. */
static void end(struct carrier *c)
{
	if (c->id < BOUND_ID)
		return;
	weft_carrier_end(c);
}

static void sleep_until(struct carrier *c, uint64_t deadline)
{
	struct timespec ts, *tp = NULL;

	if (deadline != WEFT_NO_DEADLINE) {
		ts.tv_sec = (time_t)(deadline / 1000000000u);
		ts.tv_nsec = (long)(deadline % 1000000000u);
		tp = &ts;
	}
	weft_sys6(SYS_futex, (long)&c->helper_word, FUTEX_WAIT_BITSET_PRIVATE, 0,
		(long)tp, 0, FUTEX_BITSET_MATCH_ANY);
}

struct fiber *weft_bound_next(struct carrier *c)
{
	for (;;) {
		struct fiber *f;

		/* Cleared before looking: who is given after sets it again. */
		store_seq_cst(&c->helper_word, 0); /* [bound-post] */
		f = weft_sched_take_bound(c);
		if (f)
			return f;
		if (!load_relaxed(&c->bound))
			end(c);
		if (load_relaxed(&c->timers.first) != WEFT_NO_DEADLINE &&
			weft_timers_run(c, weft_now_ns(), UINT_MAX))
			continue;
		sleep_until(c, load_seq_cst(&c->timers.first));
	}
}

static void bound_main(void *arg)
{
	struct carrier *c = arg;

	weft_sys2(SYS_prctl, PR_SET_NAME, c->bound->name);
	weft_sched_loop(c);
}

/* ---- the fiber's side ----------------------------------------------------- */

/* (threads_lock held) One whose kernel thread has ended. */
static struct carrier *used_one(void)
{
	struct carrier *c = weft_rt.helpers;

	while (c && !(c->kind == CARRIER_BOUND && c->over && !load_acquire(&c->lives)))
		c = c->all_next;
	return c;
}

static struct carrier *make(struct fiber *f)
{
	struct carrier *c;
	bool fresh;

	weft_lock(&weft_rt.threads_lock);
	c = used_one();
	fresh = !c;
	if (fresh)
		c = weft_carrier_new(BOUND_ID + made, CARRIER_BOUND);
	else
		weft_sched_init(c);
	if (!c)
		goto out;
	c->bound = f;
	if (weft_carrier_spawn(c, bound_main)) {
		if (fresh)
			weft_carrier_free(c);
		c = NULL;
	} else if (fresh) {
		made++;
		c->all_next = weft_rt.helpers;
		store_release(&weft_rt.helpers, c);
	}
out:
	weft_unlock(&weft_rt.threads_lock);
	return c;
}

static void become_bound(struct fiber *f, struct carrier *c)
{
	f->flags |= FIBER_BOUND;
	store_seq_cst(&f->helper, c);
	store_release(&f->bound, c);
}

static bool move_commit(struct fiber *f, void *arg)
{
	struct carrier *c = arg;

	become_bound(f, c);
	weft_sched_give(c, f);
	return true;
}

static bool home_commit(struct fiber *f, void *arg)
{
	weft_sched_give(arg, f);
	return true;
}

/*
 * The carrier that the fiber stands on becomes its own. False: others are not to be had,
 * or something in its ring does not end at once.
 */
static bool bind_in_place(struct fiber *f)
{
	struct carrier *c = weft_carrier_self(), *further;

	/* Made while this thread still is like the others: it takes this one's place. */
	if (weft_carrier_add(&further))
		return false;
	if (!weft_somebody_but(c) && !weft_carrier_begins(further))
		return false;
	if (!weft_sched_retire(c))
		return false;
	c->bound = f;
	become_bound(f, c);
	weft_fs_settle();
	store_seq_cst(&c->kind, CARRIER_BOUND); /* [bound-post] */
	weft_sched_rescue(c);
	return true;
}

bool weft_fiber_go_home(void)
{
	struct carrier *home = weft_rt.carrier[0];

	while (weft_carrier_self() != home) {
		if (load_relaxed(&home->odd) & ODD_AWAY)
			return false;
		weft_park(WEFT_REASON_YIELD, home_commit, home);
	}
	return true;
}

/*
 * The kernel marks what the thread held in robust locks when it dies, however it dies
 * (of the first thread libc told it). When it ends in order that is done here: its list
 * may be gone before the kernel thread.
 */
static void lend_robust(struct fiber *f)
{
	if (f->robust_head && f->bound->tid != f->tid && !f->proxy)
		weft_sys2(SYS_set_robust_list, f->robust_head, f->robust_len);
}

int weft_fiber_bind(enum weft_bind_reason why)
{
	struct fiber *f = weft_fiber_here();
	struct carrier *c;

	if (f->flags & FIBER_BOUND)
		return 0;
	/* Of the carriers' clocks it has so far; from here on one clock is its own. */
	weft_cpu_time(f);
	/* Home is stuck with somebody else: then any thread is as good. */
	if ((f->pins || (f->flags & FIBER_MAIN && weft_fiber_go_home())) &&
		bind_in_place(f))
		goto out;
	if (f->pins)
		return -EAGAIN;
	c = make(f);
	if (!c)
		return -EAGAIN;
	weft_park(WEFT_REASON_OFFLOAD, move_commit, c);
out:
	lend_robust(f);
	weft_attributes_bound(f);
	fetch_add_relaxed(&bound[why], 1);
	return 0;
}

void weft_fiber_bind_soon(struct fiber *f, enum weft_bind_reason why)
{
	if (load_relaxed(&f->flags) & FIBER_BOUND)
		return;
	store_release(&f->bind_due, (uint8_t)(why + 1)); /* [bind-due] */
	weft_signals_nudge(f);
}

void weft_fiber_bind_if_due(void)
{
	struct fiber *f = weft_fiber_here();
	uint8_t due = load_acquire(&f->bind_due); /* [bind-due] */

	if (likely(!due))
		return;
	store_relaxed(&f->bind_due, 0);
	if (weft_fiber_bind((enum weft_bind_reason)(due - 1)))
		weft_log("a kernel thread for a thread's own attributes cannot be made: "
			 "they have no effect");
}

void weft_bound_drop_robust(struct fiber *f)
{
	if (f->bound->tid == f->tid || !f->robust_head)
		return;
	weft_futex_walk_robust(f->robust_head, f->robust_len, f->bound->tid);
	weft_sys2(SYS_set_robust_list, 0, f->robust_len);
}

struct fiber *weft_bound_owner(int tid)
{
	for (struct carrier *c = load_acquire(&weft_rt.helpers); c; c = c->all_next)
		if (c->kind == CARRIER_BOUND && load_relaxed(&c->tid) == tid)
			return load_acquire(&c->bound);
	return NULL;
}

/* (on its carrier) The fiber has ended. */
void weft_bound_end(struct fiber *f)
{
	struct carrier *c = f->bound;

	store_relaxed(&f->bound, NULL);
	store_relaxed(&c->bound, NULL);
}

/* In a fork child: the caller is an ordinary thread, and the others did not come along.
 */
void weft_bound_forget(void)
{
	made = 0;
	for (unsigned i = 0; i < WEFT_BIND_REASONS; i++)
		bound[i] = 0;
}
