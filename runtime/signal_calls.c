/*
 * signal_calls.c - masks, waiting for signals, alternate stacks: system calls on the
 * calling fiber's own state. Functions return what the kernel returns.
 */
#include "signals_impl.h"

bool weft_signals_attention(const struct fiber *f)
{
	return load_relaxed(&f->attention);
}

bool weft_signals_leave_due(const struct fiber *f)
{
	return load_relaxed(&f->attention) | load_relaxed(&f->give_way);
}

const int *weft_signals_attention_word(const struct fiber *f)
{
	return &f->attention;
}

/* ---- mask changes --------------------------------------------------------- */

/*
 * Signals that nobody let in wait in the kernel. One that this fiber lets in now
 * must be handled before its call returns: take it from there at once.
 */
static void fetch_from_kernel(struct fiber *f, uint64_t opened)
{
	unsigned char info[INFO_SIZE] __attribute__((aligned(8)));
	struct timespec zero = {0, 0};

	opened &= ~(SYNCHRONOUS | UNBLOCKABLE);
	while (opened) {
		long sig = weft_sys4(
			SYS_rt_sigtimedwait, (long)&opened, (long)info, (long)&zero, 8);

		if (sig <= 0)
			return;
		if (sig == KICK || sig == KICK_EINTR)
			continue;
		weft_lock(&weft_sig.lock);
		weft_sig_queue(f, (int)sig, info, true);
		weft_unlock(&weft_sig.lock);
	}
}

void weft_sig_set_mask(struct fiber *f, uint64_t mask)
{
	uint64_t opened, was_closed;

	mask &= ~UNBLOCKABLE;
	opened = f->sig.mask & ~mask;
	was_closed = load_seq_cst(&weft_sig.blocked_by_all);
	store_seq_cst(&f->sig.mask, mask); /* [shared-pending] then look */
	if (unlikely(was_closed & opened))
		fetch_from_kernel(f, was_closed & opened);
	/* Only libc itself blocks 32 and 33, around its critical sections. */
	if (mask != f->sig.published && mask != ~UNBLOCKABLE)
		weft_signals_publish(f);
	if (likely(!opened))
		return;
	if (load_relaxed(&f->sig.pending) & ~mask ||
		load_seq_cst(&weft_sig.shared_pending) & ~mask)
		store_seq_cst(&f->attention, 1);
}

long weft_sig_procmask(int how, const uint64_t *set, uint64_t *old, size_t size)
{
	struct fiber *f = weft_fiber_here();
	uint64_t was = f->sig.mask, arg;

	if (size != 8)
		return -EINVAL;
	if (set) {
		arg = *set;
		if (how == SIG_BLOCK)
			arg |= was;
		else if (how == SIG_UNBLOCK)
			arg = was & ~arg;
		else if (how != SIG_SETMASK)
			return -EINVAL;
		weft_sig_set_mask(f, arg);
	}
	if (old)
		*old = was;
	return 0;
}

long weft_sig_pending(uint64_t *set, size_t size)
{
	struct fiber *f = weft_fiber_here();
	uint64_t kernel = 0;

	if (size > 8)
		return -EINVAL;
	weft_sys2(SYS_rt_sigpending, &kernel, 8);
	kernel &= ~(BIT(KICK) | BIT(KICK_EINTR));
	weft_lock(&weft_sig.lock);
	kernel |= f->sig.pending | weft_sig.shared_pending;
	weft_unlock(&weft_sig.lock);
	kernel &= f->sig.mask;
	weft_memcpy(set, &kernel, size);
	return 0;
}

static bool wait_commit(struct fiber *f, void *arg)
{
	(void)arg;
	return weft_park_open(f) != WEFT_PARK_SELF;
}

/* Parks until attention; handlers run when the call returns to its door. */
static long wait_for_signal(struct fiber *f)
{
	f->interruptible = 1;
	while (!load_seq_cst(&f->attention))
		weft_park(WEFT_REASON_SIGNAL, wait_commit, NULL);
	f->interruptible = 0;
	return -EINTR;
}

void weft_sig_mask_begin(uint64_t mask)
{
	struct fiber *f = weft_fiber_here();

	f->sig.saved_mask = f->sig.mask;
	f->sig.has_saved = true;
	weft_sig_set_mask(f, mask);
	weft_signals_publish(f);
}

void weft_sig_mask_end(void)
{
	struct fiber *f = weft_fiber_here();

	if (!f->sig.has_saved)
		return;
	f->sig.has_saved = false;
	weft_sig_set_mask(f, f->sig.saved_mask);
}

long weft_sig_suspend(const uint64_t *mask, size_t size)
{
	if (size != 8)
		return -EINVAL;
	if (!weft_fiber_self()->sig.has_saved) /* not when the wait goes on */
		weft_sig_mask_begin(*mask);
	return wait_for_signal(weft_fiber_self());
}

long weft_sig_pause(void)
{
	weft_signals_publish(weft_fiber_self());
	return wait_for_signal(weft_fiber_self());
}

long weft_sig_altstack(const void *ss, void *old, uintptr_t sp)
{
	struct fiber *f = weft_fiber_here();
	struct sigstate *s = &f->sig;
	bool on = !(s->alt_flags & SS_DISABLE) && sp > s->alt_sp &&
		  sp <= s->alt_sp + s->alt_size;
	const stack_t *new = ss;
	stack_t copy;

	if (new)
		copy = *new; /* may be the same memory as old */
	if (old) {
		stack_t *o = old;

		o->ss_sp = (void *)s->alt_sp;
		o->ss_size = s->alt_size;
		o->ss_flags = s->alt_flags & SS_DISABLE ? SS_DISABLE
			      : on                      ? SS_ONSTACK
							: 0;
	}
	if (!new)
		return 0;
	if (on)
		return -EPERM;
	if (copy.ss_flags & ~(SS_DISABLE | SS_ONSTACK | (int)(1u << 31)))
		return -EINVAL;
	if (copy.ss_flags & SS_DISABLE) {
		s->alt_sp = s->alt_size = 0;
		s->alt_flags = SS_DISABLE;
		return 0;
	}
	if (copy.ss_size < 2048) /* MINSIGSTKSZ of the kernel's ABI */
		return -ENOMEM;
	s->alt_sp = (uintptr_t)copy.ss_sp;
	s->alt_size = copy.ss_size;
	s->alt_flags = copy.ss_flags & (int)(1u << 31);
	return 0;
}
