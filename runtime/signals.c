/*
 * signals.c - dispositions, and the beginning and end of everything about signals.
 * See signals.h for the model and signals_impl.h for the other files.
 */
#include "signals_impl.h"

struct signals weft_sig;

void weft_carrier_kick(struct carrier *c)
{
	kick(c, KICK);
}

/* ---- dispositions --------------------------------------------------------- */

/* (kernel/signal.c, sig_ignored) */
bool weft_sig_ignored(int sig, uint64_t mask)
{
	if (mask & BIT(sig))
		return false;
	return (uintptr_t)weft_sig.table[sig].handler == IGN ||
	       ((uintptr_t)weft_sig.table[sig].handler == DFL && default_ignores(sig));
}

/*
 * The kernel's handler reads an action while this very thread may be at setting it: the
 * one that version & 1 names is whole, and is written again only after the other one.
 */
static struct {
	uint32_t version; /* (a) */
	struct weft_ksigaction of[2];
} shown[SIGNALS + 1];

/* (lock held) */
static void set_action(int sig, const struct weft_ksigaction *act)
{
	uint32_t next = shown[sig].version + 1;

	weft_sig.table[sig] = *act;
	shown[sig].of[next & 1] = *act;
	store_release(&shown[sig].version, next); /* [action] */
}

void weft_sig_read_action(int sig, struct weft_ksigaction *ret)
{
	uint32_t version;

	do {
		version = load_acquire(&shown[sig].version); /* [action] */
		*ret = shown[sig].of[version & 1];
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
	} while (load_relaxed(&shown[sig].version) != version);
}

static void install(int sig, unsigned long flags)
{
	struct weft_ksigaction act = {
		.handler = (void *)weft_sig_first_level,
		.flags = SA_SIGINFO | SA_ONSTACK | 0x04000000 /* SA_RESTORER */ | flags,
		.restorer = (void *)weft_restore_rt,
		.mask = ~0ull,
	};

	kernel_action(sig, &act, NULL);
}

/* (lock held) The kernel's disposition that goes with table[sig]. */
static void install_for(int sig)
{
	struct weft_ksigaction *act = &weft_sig.table[sig];
	bool has_handler = (uintptr_t)act->handler > IGN;

	if (sig == KICK || sig == KICK_EINTR)
		return;
	if (has_handler) {
		weft_sig.handled |= BIT(sig);
		install(sig, SA_RESTART | (act->flags & (SA_NOCLDSTOP | SA_NOCLDWAIT)));
	} else {
		weft_sig.handled &= ~BIT(sig);
		if (((sig == SIGSEGV || sig == SIGBUS) &&
			    (uintptr_t)act->handler == DFL) ||
			(sig == SIGSEGV && weft_fs_on_loan)) {
			/* Guards are explained, bad pointers survived, FS base found. */
			install(sig, 0);
			return;
		}
		kernel_action(sig, act, NULL);
	}
}

/* (lock held) SA_RESETHAND. What weft itself takes the signal for goes on. */
void weft_sig_reset_handler(int sig)
{
	struct weft_ksigaction act = weft_sig.table[sig];

	act.handler = NULL;
	set_action(sig, &act);
	install_for(sig);
}

long weft_sig_action(int sig, const struct weft_ksigaction *act,
	struct weft_ksigaction *old, size_t size)
{
	struct weft_ksigaction copy, was;
	bool tell = false;

	if (size != 8 || sig < 1 || sig > SIGNALS)
		return -EINVAL;
	if (act && BIT(sig) & UNBLOCKABLE)
		return -EINVAL;
	if (BIT(sig) & UNBLOCKABLE)
		return kernel_action(sig, act, old);
	if (act)
		copy = *act;
	weft_lock(&weft_sig.lock);
	was = weft_sig.table[sig];
	if (act) {
		uint64_t before = weft_sig.handled;

		copy.mask &= ~UNBLOCKABLE;
		set_action(sig, &copy);
		install_for(sig);
		tell = before != weft_sig.handled;
		/* Ignoring discards what is pending (POSIX, sigaction). */
		if (weft_sig_ignored(sig, 0)) {
			struct fiber *f = weft_fiber_self();
			struct sig_node *n;

			while (f && (n = weft_sig_take(f, BIT(sig))))
				weft_sig_node_put(n);
		}
	}
	weft_unlock(&weft_sig.lock);
	if (old)
		*old = was;
	if (tell)
		weft_sig_receiver_sync();
	return 0;
}

/* ---- life ----------------------------------------------------------------- */

/*
 * Somebody may have chosen it in its last life, and have looked at its mask before that
 * ended: it lets nothing in at any moment, and is not found half made.
 */
void weft_signals_reset(struct fiber *f)
{
	const struct sigstate fresh = {
		.mask = ~UNBLOCKABLE,
		.published = ~UNBLOCKABLE,
		.queue_tail = &f->sig.queue,
		.alt_flags = SS_DISABLE,
	};
	struct sig_node *n;

	weft_lock(&weft_sig.lock);
	/* Sent to the thread that it was, too late. */
	while ((n = f->sig.queue)) {
		f->sig.queue = n->next;
		weft_sig_node_put(n);
	}
	f->sig = fresh;
	weft_unlock(&weft_sig.lock);
}

void weft_signals_inherit(struct fiber *child, const struct fiber *parent)
{
	child->sig.mask = parent->sig.mask;
}

void weft_signals_drop(struct fiber *f)
{
	struct sig_node *orphans = NULL, *n;
	bool tell = false;

	if (!weft_sig.active)
		return;
	/* The mask no longer lets anything in: nobody picks this fiber. */
	if (f->sig.published != ~UNBLOCKABLE || f == weft_fiber_main() ||
		load_relaxed(&f->sig.queue)) {
		weft_lock(&weft_sig.lock);
		tell = weft_sig_unpublish(f);
		while ((n = f->sig.queue)) {
			f->sig.queue = n->next;
			if (n->process) {
				n->next = orphans;
				orphans = n;
			} else {
				weft_sig_node_put(n);
			}
		}
		f->sig.queue_tail = &f->sig.queue;
		f->sig.pending = 0;
		weft_unlock(&weft_sig.lock);
	}
	f->sig.mask = ~0ull;
	if (tell)
		weft_sig_receiver_sync();
	while ((n = orphans)) {
		orphans = n->next;
		weft_sig_send_any(n->sig, n->info);
		weft_lock(&weft_sig.lock);
		weft_sig_node_put(n);
		weft_unlock(&weft_sig.lock);
	}
}

void weft_signals_lock(void)
{
	weft_lock(&weft_sig.lock);
}

void weft_signals_unlock(void)
{
	weft_unlock(&weft_sig.lock);
}

void weft_signals_enter_thread(struct carrier *c)
{
	stack_t ss = {.ss_sp = c->signal_stack, .ss_size = c->signal_stack_size};

	weft_sys2(SYS_sigaltstack, &ss, 0);
	if (c != weft_sig.receiver)
		kernel_mask(CARRIER_MASK);
}

/* On the program's only thread, everything blocked: its state becomes main's. */
int weft_signals_start(void)
{
	struct fiber *f = weft_fiber_main();
	stack_t alt = {.ss_flags = SS_DISABLE};
	struct weft_ksigaction act;
	int err;

	weft_sys2(SYS_sigaltstack, 0, &alt);
	f->sig.alt_sp = (uintptr_t)alt.ss_sp;
	f->sig.alt_size = alt.ss_size;
	f->sig.alt_flags = alt.ss_flags & ~SS_ONSTACK;
	f->sig.mask = f->sig.published = weft_rt.config.initial_mask & ~UNBLOCKABLE;
	weft_sig.handled = 0;
	weft_sig.shared_queue = NULL;
	weft_sig.shared_pending = 0;
	for (int sig = 1; sig <= SIGNALS; sig++) {
		if (BIT(sig) & UNBLOCKABLE)
			continue;
		kernel_action(sig, NULL, &act);
		set_action(sig, &act);
	}
	err = weft_sig_receiver_new(f->sig.mask);
	if (err)
		return err;
	/* Who ignores SIGSEGV makes programs that it executes ignore it. */
	if (weft_rt.config.lend_fs && (uintptr_t)weft_sig.table[SIGSEGV].handler != IGN)
		weft_fs_lend();
	for (int sig = 1; sig <= SIGNALS; sig++)
		if (!(BIT(sig) & UNBLOCKABLE) &&
			((uintptr_t)weft_sig.table[sig].handler > IGN || sig == SIGSEGV ||
				sig == SIGBUS))
			install_for(sig);
	install(KICK, SA_RESTART);
	install(KICK_EINTR, 0);
	weft_sig.active = true;
	weft_sig_adopt_pending(f);
	err = weft_sig_receiver_spawn();
	if (err)
		weft_signals_stop();
	return err;
}

static void restore_kernel(struct fiber *f)
{
	stack_t ss = {.ss_flags = SS_DISABLE};

	for (int sig = 1; sig <= SIGNALS; sig++)
		if (!(BIT(sig) & UNBLOCKABLE))
			kernel_action(sig, &weft_sig.table[sig], NULL);
	if (f && !(f->sig.alt_flags & SS_DISABLE)) {
		ss.ss_sp = (void *)f->sig.alt_sp;
		ss.ss_size = f->sig.alt_size;
		ss.ss_flags = f->sig.alt_flags;
	}
	weft_sys2(SYS_sigaltstack, &ss, 0);
}

/* Activation failed after weft_signals_start; the caller restores the mask. */
void weft_signals_stop(void)
{
	weft_sig_receiver_stop();
	weft_sig_return_pending(weft_fiber_main());
	restore_kernel(weft_fiber_main());
	weft_fs_on_loan = false;
	weft_sig.active = false;
}

/* In a fork child (lock held since before the fork), still on fiber f's stack. */
void weft_signals_forget(void)
{
	struct fiber *f = weft_fiber_here();

	restore_kernel(f);
	/* What was asked of the parent's fiber: nobody is there to do it. */
	store_relaxed(&f->attention, 0);
	store_relaxed(&f->give_way, 0);
	weft_sig_receiver_forget();
	weft_sig.active = false;
	weft_sig_queue_forget();
	weft_sig_wait_forget();
	kernel_mask(f->sig.mask);
}

void weft_signals_before_exec(void)
{
	kernel_mask(weft_fiber_self()->sig.mask);
}

void weft_signals_block(void)
{
	kernel_mask(~0ull);
}

void weft_signals_unblock(void)
{
	kernel_mask(CARRIER_MASK);
}

uint64_t weft_signals_mask(const struct fiber *f)
{
	return f->sig.mask;
}

void weft_signals_stop_kicks(void)
{
	struct carrier *c = weft_carrier_self();
	const uint64_t kicks = BIT(KICK) | BIT(KICK_EINTR);
	const struct timespec zero = {0, 0};

	weft_carrier_stop_tick(c);
	store_seq_cst(&c->executes, 1); /* [kick-exec] */
	while (load_seq_cst(&c->kickers))
		weft_sys0(SYS_sched_yield);
	weft_signals_block();
	while (weft_sys4(SYS_rt_sigtimedwait, (long)&kicks, 0, (long)&zero, 8) > 0)
		;
}

/* What it was kicked for it looks for when it leaves weft, but for the broadcast. */
void weft_signals_resume_kicks(void)
{
	struct carrier *c = weft_carrier_self();

	store_seq_cst(&c->executes, 0);
	weft_sig_join_broadcast(c);
	weft_carrier_resume_tick(c);
}
