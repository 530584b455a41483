/*
 * signal_entry.c - the kernel's handler: for the kicks, for synchronous signals and
 * for signals that hit native threads; on the carrier's signal stack. It never runs a
 * fiber's handler there: it redirects the interrupted fiber to weft_signal_trampoline.
 */
#include <ucontext.h>

#include "signals_impl.h"
#include "stack.h"

/* ---- the kernel's handler ------------------------------------------------- */

/* sw_reserved of the kernel's signal frame: how long the extended state is. */
static size_t fpstate_size(const unsigned char *fp)
{
	uint32_t magic = *(const uint32_t *)(fp + 464),
		 size = *(const uint32_t *)(fp + 468);

	return magic == 0x46505853 && size >= 512 && size < 32768 ? size : 512;
}

/*
 * Makes the interrupted fiber continue in the trampoline, on its own stack below
 * the red zone (or its alternate stack), with a copy of the kernel's frame.
 * False when there is no room, as when the kernel cannot push a frame.
 */
static bool redirect(struct fiber *f, struct kucontext *uc, int sig, const void *info,
	const struct weft_ksigaction *act)
{
	size_t fp_size = uc->fpstate ? fpstate_size(uc->fpstate) : 0;
	uintptr_t sp = uc->rsp - WEFT_RED_ZONE, fp, base;
	struct async_frame *frame;
	size_t size, guard;

	if (sig) {
		uintptr_t alt = weft_sig_alternate_stack(f, act, uc->rsp);

		if (alt)
			sp = alt;
	}
	fp = (sp - fp_size) & ~63ul;
	frame = (struct async_frame *)((fp - sizeof *frame) & ~15ul);
	/* A handler needs a little more than its frame. */
	if (weft_stack_bounds(sp, &base, &size, &guard) &&
		(uintptr_t)frame < base + guard + 512)
		return false;
	if (fp_size)
		weft_memcpy((void *)fp, uc->fpstate, fp_size);
	weft_memcpy(&frame->uc, uc, sizeof *uc);
	frame->uc.fpstate = fp_size ? (void *)fp : NULL;
	frame->sig = sig;
	if (sig)
		weft_memcpy(frame->info, info, INFO_SIZE);
	f->in_weft = 1;
	uc->rip = (uint64_t)weft_signal_trampoline;
	uc->rdi = (uint64_t)frame;
	uc->rsp = (uint64_t)frame;
	uc->eflags &= ~0x400ul; /* DF */
	return true;
}

static bool within(uint64_t rip, const char *from, const char *to)
{
	return rip >= (uint64_t)from && rip < (uint64_t)to;
}

static void on_kick(struct fiber *f, struct kucontext *uc)
{
	if (within(uc->rip, weft_interruptible_begin, weft_interruptible_end)) {
		/* [begin, syscall]: not started. After it, rip is `end`. */
		uc->rip = (uint64_t)weft_interruptible_out;
		return;
	}
	if (!f || !load_relaxed(&f->attention))
		return;
	if (within(uc->rip, weft_signal_tail, weft_signal_tail_end)) {
		uc->rip = (uint64_t)weft_signal_again;
		return;
	}
	if (!load_relaxed(&f->in_weft))
		redirect(f, uc, 0, NULL, NULL);
}

/*
 * Is the stack that begins at `base` the fiber's? libc has a thread's control block at
 * its end; otherwise it is not if another one is in use.
 */
static bool stands_on(const struct fiber *f, uintptr_t sp, uintptr_t base)
{
	uintptr_t own;
	size_t size, guard;

	if (weft_stack_bounds(f->fs_base, &own, &size, &guard) ||
		weft_stack_bounds(sp, &own, &size, &guard))
		return own == base;
	return !(f->flags & FIBER_MAIN);
}

/*
 * The process is about to die of a stack that ran into its guard: say whose. Not of
 * another thread's guard that it touched.
 */
static void explain_guard(const struct fiber *f, uintptr_t addr, uintptr_t sp)
{
	uintptr_t base;
	size_t size, guard;
	char a[21], b[21];

	if (!f || !weft_stack_bounds(addr, &base, &size, &guard) ||
		addr >= base + guard || !stands_on(f, sp, base))
		return;
	weft_log_parts("stack overflow: thread ", weft_format_u64(a, (uint64_t)f->tid),
		f->name[0] ? " \"" : "", f->name, f->name[0] ? "\"" : "",
		" with a stack of ", weft_format_u64(b, (size - guard) / 1024),
		" KiB ran into its guard", NULL);
}

/* Gives the signal the kernel's default action when the instruction runs again. */
static void give_up(int sig)
{
	struct weft_ksigaction dfl = {0};

	kernel_action(sig, &dfl, NULL);
}

/* No instruction runs again to raise it: the kernel does when this handler returns. */
static void die_of(int sig)
{
	give_up(sig);
	weft_sys2(SYS_tkill, weft_sys0(SYS_gettid), sig);
}

static void on_fault(struct fiber *f, int sig, void *info, struct kucontext *uc)
{
	const siginfo_t *si = info;
	struct weft_ksigaction act;

	weft_sig_read_action(sig, &act);
	/* force_sig: blocked or ignored means default, whatever was installed. */
	if (f && (uintptr_t)act.handler > IGN && !(f->sig.mask & BIT(sig)) &&
		redirect(f, uc, sig, info, &act))
		return;
	if (sig == SIGSEGV)
		explain_guard(f, (uintptr_t)si->si_addr, uc->rsp);
	give_up(sig);
}

/*
 * Native threads (no GS base) have real masks: their handlers run right here. So do
 * those of a process that shares our memory and has not yet set its own.
 */
static void on_native(int sig, siginfo_t *si, void *uc)
{
	struct weft_ksigaction act;

	weft_sig_read_action(sig, &act);
	if ((uintptr_t)act.handler > IGN) {
		/* rt_sigreturn ends it, or a siglongjmp. */
		kernel_mask(((struct kucontext *)uc)->sigmask | act.mask |
			    (act.flags & SA_NODEFER ? 0 : BIT(sig)));
		weft_call_handler(act.handler, sig, si, uc, 0);
	} else if (BIT(sig) & SYNCHRONOUS && si->si_code > 0) {
		give_up(sig); /* force_sig: also if it is ignored */
	} else if (BIT(sig) & SYNCHRONOUS && (uintptr_t)act.handler == DFL) {
		die_of(sig);
	}
}

/*
 * Somebody's kill(pid, SIGSEGV). Without a handler, and if any fiber lets it in, the
 * process dies here and now; the rest takes the lock, which we may have interrupted.
 */
static void on_sent(int sig, const siginfo_t *si)
{
	struct weft_ksigaction act;

	weft_sig_read_action(sig, &act);
	if ((uintptr_t)act.handler == IGN)
		return;
	if ((uintptr_t)act.handler == DFL && weft_sig_target(sig))
		die_of(sig);
	else
		weft_sig_hand_over(sig, si);
}

/* Where a fiber computes: for the monitor, who names those that keep carriers. */
static void keep_sample(struct carrier *c, const struct kucontext *uc)
{
	store_relaxed(&c->sample[0], uc->rip);
	store_relaxed(&c->sample[1], uc->rsp);
	store_relaxed(&c->sample[2], uc->rbp);
	store_relaxed(&c->sample[3], uc->rbx);
}

void weft_sig_first_level(int sig, siginfo_t *si, void *ctx)
{
	struct carrier *c = (struct carrier *)weft_rdgsbase();
	struct kucontext *uc = ctx;

	if ((uc->rip == (uint64_t)weft_load_user_insn ||
		    uc->rip == (uint64_t)weft_load_word_insn ||
		    uc->rip == (uint64_t)weft_cas_user_insn ||
		    uc->rip == (uint64_t)weft_copy_user_insn) &&
		BIT(sig) & SYNCHRONOUS && si->si_code > 0) {
		uc->rip = (uint64_t)weft_load_user_fixup;
		return;
	}
	if (sig == SIGSEGV && si->si_code > 0 && weft_fs_found()) {
		if (c)
			weft_count(c, FS_FAULTS);
		return;
	}
	if (!c || (uintptr_t)c == weft_stranger()) {
		if (sig != KICK && sig != KICK_EINTR)
			on_native(sig, si, ctx);
		return;
	}
	if (sig == KICK || sig == KICK_EINTR) {
		if (si->si_code == SI_TIMER) {
			weft_cpu_sample(c);
			keep_sample(c, uc);
		}
		if (unlikely(load_relaxed(&c->called)))
			weft_sched_called(c);
		weft_sig_join_broadcast(c);
		on_kick(c->current, uc);
	} else if (!(BIT(sig) & SYNCHRONOUS)) {
		/* Before an exec, when the mask is the fiber's own. */
		weft_sig_send_any(sig, si);
	} else if (si->si_code > 0) {
		on_fault(c->current, sig, si, uc);
	} else {
		on_sent(sig, si);
	}
}
