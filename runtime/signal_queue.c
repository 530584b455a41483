/*
 * signal_queue.c - pending signals: who gets one, sending, taking.
 *
 * A signal for a thread, or for the process when a fiber lets it in, is queued on
 * that fiber, which takes it itself at the next safe point. What arrived for the
 * process just when the last fiber that let it in blocked it is on shared_queue.
 */
#include <sys/mman.h>

#include "signals_impl.h"
#include "thread_timers.h"

enum { NODE_CHUNK = 64 * 1024 };

static struct sig_node *node_free; /* (l) */
static int signalfds;              /* (a) the program has made one */
static char *node_next, *node_end; /* (l) */

static void make_info(void *info, int sig, int code)
{
	siginfo_t *si = info;

	weft_memset(info, 0, INFO_SIZE);
	si->si_signo = sig;
	si->si_code = code;
	si->si_pid = weft_rt.pid;
	si->si_uid = (uid_t)weft_sys0(SYS_getuid);
}

static struct sig_node *node_get(void)
{
	struct sig_node *n = node_free;

	if (n) {
		node_free = n->next;
		return n;
	}
	if ((size_t)(node_end - node_next) < sizeof *n) {
		long p = weft_sys_map(NODE_CHUNK, PROT_READ | PROT_WRITE, MAP_NORESERVE);

		if (weft_sys_failed(p))
			return NULL;
		node_next = (char *)p;
		node_end = node_next + NODE_CHUNK;
	}
	n = (struct sig_node *)node_next;
	node_next += sizeof *n;
	return n;
}

void weft_sig_node_put(struct sig_node *n)
{
	n->next = node_free;
	node_free = n;
}

/* ---- sending -------------------------------------------------------------- */

void weft_sig_interrupt(struct fiber *f)
{
	struct carrier *c;

	if (f == weft_fiber_self())
		return; /* it looks when it leaves weft */
	if (weft_claim(f, WEFT_WAKE_INTERRUPT)) {
		weft_unpark(f);
		return;
	}
	c = load_seq_cst(&f->helper);
	if (c) {
		/* A bound fiber that is not inside weft makes calls of its own. */
		kick(c, load_relaxed(&f->flags) & FIBER_BOUND &&
					!load_seq_cst(&f->in_weft)
				? KICK
				: KICK_EINTR);
		return;
	}
	c = load_seq_cst(&f->io_carrier);
	if (c) {
		weft_sched_interrupt(c, f);
		return;
	}
	c = load_relaxed(&f->carrier);
	if (c && load_relaxed(&c->current) == f)
		kick(c, KICK);
}

void weft_signals_nudge(struct fiber *f)
{
	store_seq_cst(&f->attention, 1); /* [attention-open] */
	weft_sig_interrupt(f);
}

/*
 * A timer has one signal pending at most: what expires meanwhile is counted in it
 * (kernel/time/posix-timers.c).
 */
static bool count_overrun(struct fiber *f, int sig, const void *info)
{
	const siginfo_t *si = info;
	struct sig_node *n;

	if (si->si_code != SI_TIMER || !(f->sig.pending & BIT(sig)))
		return false;
	for (n = f->sig.queue; n; n = n->next) {
		siginfo_t *waits = (siginfo_t *)n->info;

		if (n->sig != sig || waits->si_code != SI_TIMER ||
			waits->si_timerid != si->si_timerid)
			continue;
		if (__builtin_add_overflow(
			    waits->si_overrun, si->si_overrun + 1, &waits->si_overrun))
			waits->si_overrun = INT32_MAX;
		return true;
	}
	return false;
}

/*
 * (lock held) Queues for f. Standard signals do not queue twice; real-time ones
 * do. Returns -EAGAIN when there is no memory for a real-time signal.
 */
long weft_sig_queue(struct fiber *f, int sig, const void *info, bool process)
{
	struct sig_node *n;

	if (count_overrun(f, sig, info))
		return 0;
	if (f->sig.pending & BIT(sig) && sig < 34)
		return 0;
	n = node_get();
	if (!n)
		return -EAGAIN;
	n->sig = sig;
	n->process = process;
	weft_memcpy(n->info, info, INFO_SIZE);
	n->next = NULL;
	*f->sig.queue_tail = n;
	f->sig.queue_tail = &n->next;
	store_relaxed(&f->sig.pending, f->sig.pending | BIT(sig));
	return 0;
}

void weft_signals_expect_signalfd(void)
{
	store_relaxed(&signalfds, 1);
}

/*
 * A signalfd shows what is pending in the kernel. A signal for a thread waits there when
 * no thread lets it in, which is how programs with a signalfd have it: then nobody but
 * the reader of the descriptor can tell it from one for the process.
 */
static bool keep_in_kernel(int sig, uint64_t mask)
{
	return load_relaxed(&signalfds) &&
	       BIT(sig) & mask & load_seq_cst(&weft_sig.blocked_by_all);
}

/* The kernel lets only a process's first thread say SI_TKILL here: SI_USER, then. */
static long send_to_kernel(int sig, const void *info)
{
	long r = weft_sys3(SYS_rt_sigqueueinfo, weft_rt.pid, sig, (long)info);

	return r == -EPERM ? weft_sys2(SYS_kill, weft_rt.pid, sig) : r;
}

long weft_sig_send_fiber(struct fiber *f, int sig, const void *info, bool process)
{
	bool open, told;
	long r;

	weft_lock(&weft_sig.lock);
	/*
	 * The other carrier may be changing the mask right now; natively that is
	 * the same race, decided one way or the other.
	 */
	if (weft_sig_ignored(sig, load_relaxed(&f->sig.mask))) {
		weft_unlock(&weft_sig.lock);
		return 0;
	}
	if (process && load_relaxed(&f->sig.mask) & BIT(sig)) {
		weft_unlock(&weft_sig.lock);
		return WEFT_SIG_NATIVE; /* blocked it or ended: pick another */
	}
	if (keep_in_kernel(sig, load_relaxed(&f->sig.mask))) {
		r = send_to_kernel(sig, info);
		weft_unlock(&weft_sig.lock);
		return r;
	}
	/*
	 * One that is pending already is on its way. Who sends it again and again must
	 * not interrupt each instruction of a thread that could take it.
	 */
	told = sig < 34 && load_relaxed(&f->sig.pending) & BIT(sig) &&
	       load_seq_cst(&f->attention);
	r = weft_sig_queue(f, sig, info, process);
	open = !(load_relaxed(&f->sig.mask) & BIT(sig));
	if (open)
		store_seq_cst(&f->attention, 1); /* [attention-open] */
	weft_unlock(&weft_sig.lock);
	if (open && !told)
		weft_sig_interrupt(f);
	return r;
}

struct fiber *weft_sig_target(int sig)
{
	struct fiber *f = weft_fiber_main();

	if (f && !(load_relaxed(&f->sig.mask) & BIT(sig)))
		return f;
	for (uint32_t i = 0; i < load_acquire(&weft_rt.fresh); i++) {
		f = weft_fiber_at(i);
		if (load_acquire(&f->tid) && load_relaxed(&f->state) != FIBER_NEW &&
			!(load_relaxed(&f->sig.mask) & BIT(sig)))
			return f;
	}
	return NULL;
}

void weft_sig_send_any(int sig, const void *info)
{
	struct fiber *f;

	while ((f = weft_sig_target(sig)))
		if (weft_sig_send_fiber(f, sig, info, true) != WEFT_SIG_NATIVE)
			return;
	/* Everybody blocks it at present: kept until somebody asks for it. */
	weft_lock(&weft_sig.lock);
	if (!(weft_sig.shared_pending & BIT(sig)) || sig >= 34) {
		struct sig_node *n = node_get();

		if (n) {
			n->sig = sig;
			n->process = true;
			weft_memcpy(n->info, info, INFO_SIZE);
			n->next = NULL;
			struct sig_node **at = &weft_sig.shared_queue;

			while (*at)
				at = &(*at)->next;
			*at = n;
			store_seq_cst(&weft_sig.shared_pending,
				weft_sig.shared_pending | BIT(sig));
		}
	}
	weft_unlock(&weft_sig.lock);
	/*
	 * [shared-pending] Who lets it in now looks for it after changing its mask, or
	 * is seen here.
	 */
	f = weft_sig_target(sig);
	if (f) {
		store_seq_cst(&f->attention, 1);
		weft_sig_interrupt(f);
	}
}

/* ---- taking --------------------------------------------------------------- */

/* (kernel/signal.c, next_signal) */
static bool before(int a, int b)
{
	bool sync_a = BIT(a) & SYNCHRONOUS, sync_b = BIT(b) & SYNCHRONOUS;

	return sync_a != sync_b ? sync_a : a < b;
}

/* (lock held) Unlinks the first deliverable node of a queue; synchronous-like and
   standard signals before real-time ones, each in order of arrival. */
static struct sig_node *take_from(
	struct sig_node **head, struct sig_node ***tail, uint64_t *pending, uint64_t open)
{
	struct sig_node **best = NULL;

	if (!(*pending & open))
		return NULL;
	for (struct sig_node **at = head; *at; at = &(*at)->next)
		if (BIT((*at)->sig) & open && (!best || before((*at)->sig, (*best)->sig)))
			best = at;
	if (!best)
		return NULL;

	struct sig_node *n = *best;
	bool more = false;

	*best = n->next;
	if (tail && *tail == &n->next)
		*tail = best;
	for (struct sig_node *k = *head; k; k = k->next)
		more |= k->sig == n->sig;
	if (!more)
		store_seq_cst(pending, *pending & ~BIT(n->sig));
	return n;
}

struct sig_node *weft_sig_take(struct fiber *f, uint64_t open)
{
	struct sig_node *n =
		take_from(&f->sig.queue, &f->sig.queue_tail, &f->sig.pending, open);
	siginfo_t *si;

	if (!n)
		n = take_from(
			&weft_sig.shared_queue, NULL, &weft_sig.shared_pending, open);
	if (n && (si = (siginfo_t *)n->info)->si_code == SI_TIMER)
		weft_thread_timer_taken(si->si_timerid, si->si_overrun);
	return n;
}
long weft_sig_send_thread(int tid, int sig, const void *info)
{
	struct fiber *f = weft_fiber_by_tid(tid);
	unsigned char own[INFO_SIZE] __attribute__((aligned(8)));

	if (sig < 0 || sig > SIGNALS)
		return -EINVAL;
	if (!f)
		return tid > WEFT_TID_MIN && tid <= WEFT_TID_MAX ? -ESRCH
								 : WEFT_SIG_NATIVE;
	if (!sig)
		return 0;
	/*
	 * glibc's setxid broadcast: fibers have no credentials of their own. Told
	 * that the thread is gone, it goes on to the next.
	 */
	if (sig == KICK)
		return -ESRCH;
	if (BIT(sig) & UNBLOCKABLE)
		return weft_sys3(SYS_tgkill, weft_rt.pid, weft_sys0(SYS_gettid), sig);
	if (!info) {
		make_info(own, sig, SI_TKILL);
		info = own;
	}
	return weft_sig_send_fiber(f, sig, info, false);
}

long weft_sig_send_process(int id, int sig, const void *info)
{
	struct fiber *self = weft_fiber_self();
	unsigned char own[INFO_SIZE] __attribute__((aligned(8)));
	uintptr_t handler;
	struct fiber *f;
	long r;

	if (sig <= 0 || sig > SIGNALS || BIT(sig) & UNBLOCKABLE)
		return WEFT_SIG_NATIVE;
	handler = (uintptr_t)weft_sig.table[sig].handler;
	/* Carriers let the synchronous ones in also when all fibers block them. */
	if (handler == IGN || (handler == DFL && !(BIT(sig) & SYNCHRONOUS)))
		return WEFT_SIG_NATIVE;
	if (!info) {
		make_info(own, sig, SI_USER);
		info = own;
	}
	/* Named by a thread's id: that one first (complete_signal, as for main). */
	f = weft_fiber_by_tid(id);
	if (!f || load_relaxed(&f->sig.mask) & BIT(sig))
		f = weft_sig_target(sig);
	r = f ? weft_sig_send_fiber(f, sig, info, true) : WEFT_SIG_NATIVE;
	if (r != WEFT_SIG_NATIVE)
		return r;
	/* Blocked by all: the kernel keeps it, if the receiver knows. */
	if (self)
		weft_signals_publish(self);
	if (load_seq_cst(&weft_sig.blocked_by_all) & BIT(sig))
		return WEFT_SIG_NATIVE;
	/*
	 * Blocked for a moment, by a handler that runs. By way of the kernel it would
	 * come, but late: the receiver has to wake up first, and the fiber that is owed
	 * the signal when its handler returns could end meanwhile.
	 */
	weft_sig_send_any(sig, info);
	return 0;
}

/* ---- what was pending before there were fibers ----------------------------- */

/*
 * Signals for this very kernel thread, which it blocks, are the main fiber's: on a
 * carrier the kernel would show them to every fiber. The kernel hands out a thread's
 * own before the process's; what tells them apart is how they were sent (tgkill is
 * what raise and pthread_kill make; a pthread_sigqueue before the first thread is
 * taken for one to the process). The others go back, in their order.
 */
void weft_sig_adopt_pending(struct fiber *f)
{
	struct timespec zero = {0, 0};
	struct sig_node *back = NULL, **tail = &back, *n;
	uint64_t pending = 0;

	weft_sys2(SYS_rt_sigpending, (long)&pending, 8);
	pending &= ~(UNBLOCKABLE | BIT(KICK) | BIT(KICK_EINTR));
	for (uint64_t m = pending; m; m &= m - 1) {
		uint64_t set = m & -m;
		int sig = __builtin_ctzll(m) + 1;

		while ((n = node_get())) {
			if (weft_sys4(SYS_rt_sigtimedwait, (long)&set, (long)n->info,
				    (long)&zero, 8) != sig) {
				weft_sig_node_put(n);
				break;
			}
			if (((siginfo_t *)n->info)->si_code == SI_TKILL) {
				weft_sig_queue(f, sig, n->info, false);
				weft_sig_node_put(n);
				continue;
			}
			n->sig = sig;
			n->next = NULL;
			*tail = n;
			tail = &n->next;
		}
	}
	while ((n = back)) {
		back = n->next;
		weft_sys3(SYS_rt_sigqueueinfo, weft_rt.pid, n->sig, (long)n->info);
		weft_sig_node_put(n);
	}
}

/* There are no fibers after all. */
void weft_sig_return_pending(struct fiber *f)
{
	struct sig_node *n;

	while ((n = weft_sig_take(f, ~0ull))) {
		weft_sys4(SYS_rt_tgsigqueueinfo, weft_rt.pid, weft_rt.pid, n->sig,
			(long)n->info);
		weft_sig_node_put(n);
	}
}

void weft_signals_raise_pipe(void)
{
	struct fiber *f = weft_fiber_here();
	unsigned char info[INFO_SIZE] __attribute__((aligned(8)));

	make_info(info, SIGPIPE, SI_USER);
	weft_sig_send_fiber(f, SIGPIPE, info, false);
}

void weft_signals_drain_pipe(void)
{
	uint64_t set = BIT(SIGPIPE);
	struct timespec zero = {0, 0};

	weft_sys4(SYS_rt_sigtimedwait, (long)&set, 0, (long)&zero, 8);
}

long weft_signals_after_write(long r)
{
	unsigned char info[INFO_SIZE] __attribute__((aligned(8)));
	struct timespec zero = {0, 0};
	uint64_t set = BIT(SIGXFSZ);

	if (unlikely(r == -EFBIG) && weft_sys4(SYS_rt_sigtimedwait, (long)&set,
					     (long)info, (long)&zero, 8) > 0)
		weft_sig_send_fiber(weft_fiber_self(), SIGXFSZ, info, false);
	return r;
}

void weft_sig_queue_forget(void)
{
	/* Pending signals are not inherited (fork(2)). */
	node_free = NULL;
	node_next = node_end = NULL;
	weft_sig.shared_queue = NULL;
	store_relaxed(&weft_sig.shared_pending, 0);
}
