/*
 * signal_wait.c - sigwait and its kind: fibers that take a signal instead of having it
 * handled.
 *
 * A signal for the process that everybody blocks stays in the kernel, where signalfd,
 * exec and sigpending find it, until somebody asks for it. So the receiver takes what
 * some fiber waits for, and no more: one signal ends one wait, and before the call of the
 * fiber returns the receiver has stopped looking for what only that one wanted.
 */
#include "deadline.h"
#include "signals_impl.h"

static struct sig_waiter *waiters, **last = &waiters; /* (l) first come, first served */
static uint32_t count[SIGNALS + 1];                   /* (l) who wants it */

/* (lock held) True when the receiver has to hear of it. */
static bool begin(struct sig_waiter *w)
{
	uint64_t before = weft_sig.waited_for;

	w->next = NULL;
	w->at = last;
	*last = w;
	last = &w->next;
	for (uint64_t m = w->want; m; m &= m - 1)
		if (!count[__builtin_ctzll(m) + 1]++)
			weft_sig.waited_for |= m & -m;
	return weft_sig.waited_for != before;
}

static bool end(struct sig_waiter *w)
{
	uint64_t before = weft_sig.waited_for;

	if (!w->at) /* it was served */
		return false;
	*w->at = w->next;
	if (w->next)
		w->next->at = w->at;
	else
		last = w->at;
	w->at = NULL;
	for (uint64_t m = w->want; m; m &= m - 1)
		if (!--count[__builtin_ctzll(m) + 1])
			weft_sig.waited_for &= ~(m & -m);
	return weft_sig.waited_for != before;
}

/* As the kernel chooses (complete_signal): the main thread, when it takes part. */
static struct sig_waiter *find(int sig)
{
	struct fiber *main_fiber = weft_fiber_main();
	struct sig_waiter *first = NULL;

	for (struct sig_waiter *w = waiters; w; w = w->next) {
		if (!(w->want & BIT(sig)))
			continue;
		if (w->fiber == main_fiber)
			return w;
		if (!first)
			first = w;
	}
	return main_fiber && !(load_relaxed(&main_fiber->sig.mask) & BIT(sig)) ? NULL
									       : first;
}

bool weft_sig_serve_waiter(int sig, const void *info)
{
	struct fiber *f = NULL;
	struct sig_waiter *w;

	weft_lock(&weft_sig.lock);
	w = find(sig);
	if (w) {
		f = w->fiber;
		w->sig = sig;
		weft_memcpy(w->info, info, INFO_SIZE);
		end(w);
		store_seq_cst(&f->attention, 1); /* [attention-open] */
	}
	weft_unlock(&weft_sig.lock);
	if (f)
		weft_sig_interrupt(f);
	return f;
}

/* In a fork child: nobody waits. */
void weft_sig_wait_forget(void)
{
	waiters = NULL;
	last = &waiters;
	weft_memset(count, 0, sizeof count);
	weft_sig.waited_for = 0;
}

/* ---- the call ------------------------------------------------------------- */

static bool wait_commit(struct fiber *f, void *arg)
{
	weft_timer_arm(f, *(const uint64_t *)arg);
	return weft_park_open(f) != WEFT_PARK_SELF;
}

static void park_for(struct sig_waiter *w, uint64_t deadline)
{
	struct fiber *f = w->fiber;
	bool tell;

	weft_lock(&weft_sig.lock);
	tell = begin(w);
	weft_unlock(&weft_sig.lock);
	if (tell)
		weft_sig_receiver_sync();
	f->interruptible = 1;
	weft_park(WEFT_REASON_SIGNAL, wait_commit, &deadline);
	f->interruptible = 0;
	weft_timer_disarm(f);
	weft_lock(&weft_sig.lock);
	/* Who was served is not on the list; the receiver knows, it served. */
	tell = end(w);
	weft_unlock(&weft_sig.lock);
	if (tell)
		weft_sig_receiver_sync();
}

/* Is there a signal, no wanted one, whose handler has to run? */
static bool handler_is_due(struct fiber *f, uint64_t mask, uint64_t want)
{
	uint64_t pending;

	weft_lock(&weft_sig.lock);
	pending = f->sig.pending | load_relaxed(&weft_sig.shared_pending);
	weft_unlock(&weft_sig.lock);
	return !(pending & want) && pending & ~mask;
}

static int take_pending(struct fiber *f, uint64_t want, void *info)
{
	struct timespec zero = {0, 0};
	struct sig_node *n;
	int sig = 0;

	weft_lock(&weft_sig.lock);
	n = weft_sig_take(f, want);
	if (n) {
		sig = n->sig;
		weft_memcpy(info, n->info, INFO_SIZE);
		weft_sig_node_put(n);
	}
	weft_unlock(&weft_sig.lock);
	if (sig)
		return sig;
	want &= ~(BIT(KICK) | BIT(KICK_EINTR));
	return (int)weft_sys4(
		SYS_rt_sigtimedwait, (long)&want, (long)info, (long)&zero, 8);
}

long weft_sig_timedwait(
	const uint64_t *set, void *info, const struct timespec *timeout, size_t size)
{
	struct fiber *f = weft_fiber_here();
	struct sig_waiter w = {.fiber = f};
	uint64_t want, mask = f->sig.mask, deadline = WEFT_NO_DEADLINE;
	long r;

	if (size != 8)
		return -EINVAL;
	want = *set & ~UNBLOCKABLE;
	w.want = want & ~(BIT(KICK) | BIT(KICK_EINTR));
	if (timeout) {
		if (timeout->tv_sec < 0 || (uint64_t)timeout->tv_nsec >= 1000000000u)
			return -EINVAL;
		deadline = weft_deadline_in(
			(uint64_t)timeout->tv_sec, (uint64_t)timeout->tv_nsec);
	}
	weft_signals_publish(f);
	for (;;) {
		/*
		 * While we wait the wanted signals count as let in by us: whoever
		 * sends one to this fiber sets attention and interrupts.
		 */
		store_seq_cst(&f->attention, 0);
		store_seq_cst(&f->sig.mask, mask & ~want);
		r = take_pending(f, want, w.info);
		if (r > 0)
			break;
		if (timeout && weft_now_ns() >= deadline) {
			r = -EAGAIN;
			break;
		}
		park_for(&w, deadline);
		r = w.sig;
		if (r)
			break;
		if (handler_is_due(f, mask, want)) {
			r = -EINTR;
			break;
		}
	}
	store_seq_cst(&f->sig.mask, mask);
	if ((load_relaxed(&f->sig.pending) | load_seq_cst(&weft_sig.shared_pending)) &
			~mask ||
		load_acquire(&f->bind_due))
		store_seq_cst(&f->attention, 1);
	if (r > 0 && info)
		weft_memcpy(info, w.info, INFO_SIZE);
	return r;
}
