/*
 * signal_receiver.c - the kernel thread that takes process-directed signals.
 *
 * It may take those that some fiber does not block. The set of signals blocked by
 * all fibers changes with every mask change of every fiber, so it is kept lazily:
 * main's mask says which signals are of interest (what main lets in is let in), and
 * only for those the other fibers are counted. "Everything blocked", which libc sets
 * for a moment in pthread_create and the like, is not taken for a change.
 */
#include <linux/futex.h>

#include "deadline.h"
#include "signals_impl.h"
#include "thread_timers.h"

static uint64_t interest;                /* (l) what main blocks */
static uint32_t open_count[SIGNALS + 1]; /* (l) other fibers that let it in */
static int quit;                         /* (a) the runtime did not start after all */
static uint32_t receiver_want, receiver_done; /* (a) generations of the set */

/* ---- what the receiver may take ------------------------------------------- */

/* (lock held) Recomputes; true when the receiver has to hear of it. */
static bool update_blocked(void)
{
	uint64_t now = interest;

	for (uint64_t m = interest; m; m &= m - 1) {
		int sig = __builtin_ctzll(m) + 1;

		if (open_count[sig])
			now &= ~BIT(sig);
	}
	if (now == weft_sig.blocked_by_all)
		return false;
	store_seq_cst(&weft_sig.blocked_by_all, now);
	return true;
}

static void count_fiber(uint64_t open, int delta)
{
	for (uint64_t m = open & interest; m; m &= m - 1)
		open_count[__builtin_ctzll(m) + 1] += (uint32_t)delta;
}

/* (lock held) Main's mask changed, or main is gone: count anew what became interesting.
 */
static void set_interest(uint64_t mask)
{
	struct fiber *main_fiber = weft_fiber_main();
	uint64_t added = mask & ~interest;

	interest = mask;
	if (!added)
		return;
	for (uint64_t m = added; m; m &= m - 1)
		open_count[__builtin_ctzll(m) + 1] = 0;
	for (uint32_t i = 0; i < load_acquire(&weft_rt.fresh); i++) {
		struct fiber *f = weft_fiber_at(i);

		if (!load_relaxed(&f->tid) || f == main_fiber)
			continue;
		for (uint64_t m = ~f->sig.published & added; m; m &= m - 1)
			open_count[__builtin_ctzll(m) + 1]++;
	}
}

void weft_sig_receiver_sync(void)
{
	uint32_t want = __atomic_add_fetch(&receiver_want, 1, __ATOMIC_SEQ_CST);

	if (!weft_sig.receiver)
		return;
	kick(weft_sig.receiver, KICK_EINTR);
	for (;;) {
		uint32_t done = load_seq_cst(&receiver_done);

		if ((int32_t)(done - want) >= 0)
			return;
		weft_sys4(SYS_futex, (long)&receiver_done, FUTEX_WAIT_PRIVATE, done, 0);
	}
}

void weft_signals_publish(struct fiber *f)
{
	bool tell;

	if (likely(f->sig.published == f->sig.mask))
		return;
	weft_lock(&weft_sig.lock);
	if (f == weft_fiber_main()) {
		set_interest(f->sig.mask);
	} else {
		count_fiber(~f->sig.mask & f->sig.published, 1);
		count_fiber(f->sig.mask & ~f->sig.published, -1);
	}
	f->sig.published = f->sig.mask;
	tell = update_blocked();
	weft_unlock(&weft_sig.lock);
	if (tell)
		weft_sig_receiver_sync();
}

/* ---- who gets one --------------------------------------------------------- */

static void hand_out(int sig, const void *info)
{
	struct fiber *f;

	if (weft_sig_serve_waiter(sig, info))
		return;
	f = weft_sig_computing(sig, info);
	if (!f || weft_sig_send_fiber(f, sig, info, true) == WEFT_SIG_NATIVE)
		weft_sig_send_any(sig, info);
}

/* ---- synchronous signals that somebody sent ------------------------------- */

enum { EMPTY, FILLING, FULL };

/* SIGSYS is the last of them. */
static struct handed_over {
	int state; /* (a) whoever is FILLING it owns the rest, then the receiver */
	unsigned char info[INFO_SIZE] __attribute__((aligned(8)));
} handed_over[SIGSYS + 1];

void weft_sig_hand_over(int sig, const void *info)
{
	struct handed_over *h = &handed_over[sig];
	int empty = EMPTY;

	if (!cas_acq_rel(&h->state, &empty, FILLING))
		return;
	weft_memcpy(h->info, info, INFO_SIZE);
	store_release(&h->state, FULL); /* [hand-over] */
	kick(weft_sig.receiver, KICK_EINTR);
}

static void take_handed_over(void)
{
	unsigned char info[INFO_SIZE] __attribute__((aligned(8)));

	for (uint64_t m = SYNCHRONOUS; m; m &= m - 1) {
		int sig = __builtin_ctzll(m) + 1;
		struct handed_over *h = &handed_over[sig];

		if (load_acquire(&h->state) != FULL) /* [hand-over] */
			continue;
		weft_memcpy(info, h->info, INFO_SIZE);
		store_release(&h->state, EMPTY);
		hand_out(sig, info);
	}
}

/* ---- the receiver --------------------------------------------------------- */

/*
 * Signals with a handler are waited for; signals without one are unblocked, so
 * that the kernel's default action happens, or nothing for SIG_IGN.
 */
static void receiver_main(void *arg)
{
	(void)arg;
	/* A kick before the first wait stays pending: its sender waits for the answer. */
	kernel_mask(~BIT(KICK)); /* [receiver-begins] */
	for (;;) {
		uint32_t generation = load_seq_cst(&receiver_want);
		uint64_t closed, wait, mask;
		unsigned char info[INFO_SIZE] __attribute__((aligned(8)));
		long sig;

		weft_lock(&weft_sig.lock);
		closed = load_seq_cst(&weft_sig.blocked_by_all);
		wait = (weft_sig.handled & ~closed & ~SYNCHRONOUS) | weft_sig.waited_for;
		mask = (weft_sig.handled & ~SYNCHRONOUS) | weft_sig.waited_for | closed;
		weft_unlock(&weft_sig.lock);
		wait |= BIT(KICK_EINTR);
		mask = (mask | BIT(KICK_EINTR)) & ~BIT(KICK);
		kernel_mask(mask);
		store_seq_cst(&receiver_done, generation);
		weft_sys3(SYS_futex, (long)&receiver_done, FUTEX_WAKE_PRIVATE, INT32_MAX);
		sig = weft_sys4(SYS_rt_sigtimedwait, (long)&wait, (long)info, 0, 8);
		if (sig > 0 && sig != KICK_EINTR)
			hand_out((int)sig, info);
		if (sig == KICK_EINTR && ((siginfo_t *)info)->si_code == SI_TIMER)
			weft_thread_timer_fired(
				(uint64_t)((siginfo_t *)info)->si_value.sival_ptr,
				((siginfo_t *)info)->si_overrun);
		take_handed_over();
		weft_clocks_tell();
		if (load_seq_cst(&quit))
			weft_sys1(SYS_exit, 0);
	}
}

/* ---- life ----------------------------------------------------------------- */

bool weft_sig_unpublish(struct fiber *f)
{
	if (f == weft_fiber_main())
		set_interest(~UNBLOCKABLE);
	else
		count_fiber(~f->sig.published, -1);
	f->sig.mask = f->sig.published = ~0ull;
	return update_blocked();
}

void weft_signals_rouse_receiver(void)
{
	kick(weft_sig.receiver, KICK_EINTR);
}

int weft_signals_receiver_tid(void)
{
	return weft_sig.receiver->tid;
}

int weft_sig_receiver_new(uint64_t main_mask)
{
	interest = main_mask;
	weft_memset(open_count, 0, sizeof open_count);
	update_blocked();
	quit = 0;
	weft_sig.receiver = weft_carrier_new(2000, CARRIER_HELPER);
	return weft_sig.receiver ? 0 : -ENOMEM;
}

int weft_sig_receiver_spawn(void)
{
	return weft_carrier_spawn(weft_sig.receiver, receiver_main);
}

void weft_sig_receiver_stop(void)
{
	store_seq_cst(&quit, 1);
	if (load_acquire(&weft_sig.receiver->lives))
		kick(weft_sig.receiver, KICK_EINTR);
	weft_carrier_join(weft_sig.receiver);
	weft_carrier_free(weft_sig.receiver);
	weft_sig.receiver = NULL;
}

void weft_sig_receiver_forget(void)
{
	weft_sig.receiver = NULL;
	receiver_want = receiver_done = 0;
	weft_memset(handed_over, 0, sizeof handed_over);
}
