/*
 * signal_deliver.c - running handlers, as ordinary code of the fiber.
 *
 * weft_signals_deliver() when the fiber leaves weft; weft_signals_async(), called by
 * weft_signal_trampoline, when the kernel's handler redirected it from where it
 * computed (signal_entry.c).
 */
#include <linux/futex.h>
#include <ucontext.h>

#include "futex.h"
#include "bind.h"
#include "signals_impl.h"

/* ---- running handlers ----------------------------------------------------- */

/* What the kernel would have done to this thread: die, stop, dump core. */
static void default_action(int sig)
{
	struct weft_ksigaction dfl = {0};
	uint64_t open = ~BIT(sig), old;

	if (default_ignores(sig))
		return;
	if (!(BIT(sig) & (BIT(SIGTSTP) | BIT(SIGTTIN) | BIT(SIGTTOU))))
		weft_futex_walk_all_robust();
	kernel_action(sig, &dfl, NULL);
	weft_sys4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&open, (long)&old, 8);
	weft_sys3(SYS_tgkill, weft_rt.pid, weft_sys0(SYS_gettid), sig);
	kernel_mask(old); /* it was a stop signal, and we go on */
}

uintptr_t weft_sig_alternate_stack(
	struct fiber *f, const struct weft_ksigaction *act, uintptr_t sp)
{
	const struct sigstate *s = &f->sig;

	if (!(act->flags & SA_ONSTACK) || s->alt_flags & SS_DISABLE || !s->alt_size)
		return 0;
	if (sp > s->alt_sp && sp <= s->alt_sp + s->alt_size)
		return 0; /* on it already */
	return s->alt_sp + s->alt_size;
}

static uintptr_t stack_pointer(void)
{
	return (uintptr_t)__builtin_frame_address(0);
}

/*
 * Does all that attention was called for: gives the fiber the kernel thread that others
 * want it to have, and takes one deliverable signal. True when a handler is to be run for
 * it; *ret_info is filled then. Default actions and ignored signals are done with here.
 */
static bool next_signal(
	struct fiber *f, struct weft_ksigaction *ret_act, int *ret_sig, void *ret_info)
{
	for (;;) {
		struct sig_node *n;
		int sig;

		store_seq_cst(&f->attention, 0); /* [attention-open] then look */
		weft_fiber_bind_if_due();
		weft_lock(&weft_sig.lock);
		n = weft_sig_take(f, ~f->sig.mask);
		if (!n) {
			weft_unlock(&weft_sig.lock);
			return false;
		}
		sig = n->sig;
		weft_memcpy(ret_info, n->info, INFO_SIZE);
		weft_sig_node_put(n);
		*ret_act = weft_sig.table[sig];
		if ((uintptr_t)ret_act->handler > IGN && ret_act->flags & SA_RESETHAND)
			weft_sig_reset_handler(sig);
		weft_unlock(&weft_sig.lock);
		*ret_sig = sig;
		if ((uintptr_t)ret_act->handler > IGN)
			return true;
		if ((uintptr_t)ret_act->handler == DFL)
			default_action(sig);
	}
}

static bool deliverable(const struct fiber *f)
{
	return (load_relaxed(&f->sig.pending) | load_seq_cst(&weft_sig.shared_pending)) &
	       ~f->sig.mask;
}

static void run_nested(struct fiber *f, const struct weft_ksigaction *outer,
	const struct kucontext *uc, uintptr_t stack);

/*
 * (no lock held) Runs act's handler with the masks that sigaction(2) promises.
 * uc is what the handler sees and may change.
 */
static void run_handler(struct fiber *f, const struct weft_ksigaction *act, int sig,
	void *info, struct kucontext *uc, uintptr_t stack)
{
	uint64_t keep = f->sig.has_saved ? f->sig.saved_mask : f->sig.mask;
	uint64_t mask = f->sig.mask | act->mask;
	struct carrier *c = (struct carrier *)weft_rdgsbase();
	uint8_t vector_live = f->vector_live, tried = f->tried, creating = f->creating;
	/* SIGCANCEL: a wait that it ends takes its mutex again, in the proxy's name. */
	int *lent = sig == KICK_EINTR ? NULL : f->lent_id;
	int id = lent ? *lent : 0, own = f->own_id;

	if (!(act->flags & SA_NODEFER))
		mask |= BIT(sig);
	f->sig.has_saved = false;
	f->sig.mask = mask & ~UNBLOCKABLE;
	uc->sigmask = keep;
	uc->stack.ss_sp = (void *)f->sig.alt_sp;
	uc->stack.ss_size = f->sig.alt_size;
	uc->stack.ss_flags = f->sig.alt_flags;
	weft_count(c, SIGNALS);
	f->creating = 0;
	/* One that is left by a jump leaves the thread its own id. */
	if (unlikely(lent)) {
		*lent = own;
		f->lent_id = NULL;
	}
	if (unlikely(deliverable(f)))
		run_nested(f, act, uc, stack);
	weft_fiber_in_weft(f, false);
	weft_call_handler(act->handler, sig, info, uc, stack);
	weft_fiber_in_weft(f, true);
	f->vector_live = vector_live;
	f->tried = tried;
	f->creating = creating;
	if (unlikely(lent)) {
		*lent = id;
		f->own_id = own;
		f->lent_id = lent;
	}
	weft_sig_set_mask(f, uc->sigmask);
}

/*
 * The kernel makes frames for all deliverable signals before it returns to the program:
 * the one it took last runs first, and interrupts the others at their first instruction.
 */
static void run_nested(struct fiber *f, const struct weft_ksigaction *outer,
	const struct kucontext *uc, uintptr_t stack)
{
	unsigned char info[INFO_SIZE] __attribute__((aligned(8)));
	struct weft_ksigaction act;
	int sig;

	while (next_signal(f, &act, &sig, info)) {
		struct kucontext inner = *uc;

		inner.rip = (uint64_t)outer->handler;
		if (stack)
			inner.rsp = stack;
		run_handler(f, &act, sig, info, &inner,
			stack ? stack
			      : weft_sig_alternate_stack(f, &act, stack_pointer()));
	}
}

/* An approximate context: general registers at a site, little at the front door. */
static void make_context(struct kucontext *uc, const struct weft_regs *r)
{
	weft_memset(uc, 0, sizeof *uc);
	uc->cs = 0x33;
	uc->ss = 0x2b;
	uc->eflags = 0x202;
	if (!r) {
		uc->rsp = stack_pointer();
		uc->rip = (uintptr_t)__builtin_return_address(0);
		return;
	}
	uc->r8 = r->r8;
	uc->r9 = r->r9;
	uc->r10 = r->r10;
	uc->r12 = r->r12;
	uc->r13 = r->r13;
	uc->r14 = r->r14;
	uc->r15 = r->r15;
	uc->rdi = r->rdi;
	uc->rsi = r->rsi;
	uc->rbp = r->rbp;
	uc->rbx = r->rbx;
	uc->rdx = r->rdx;
	uc->rax = (uint64_t)-EINTR;
	uc->rcx = r->rip;
	uc->rsp = r->rsp;
	uc->rip = r->rip;
}

/* Handlers clobber vector registers, which matter when we came through a site. */
static void deliver_one(struct fiber *f, const struct weft_ksigaction *act, int sig,
	void *info, struct weft_regs *regs)
{
	struct kucontext uc;
	unsigned char fx[512 + 64] __attribute__((aligned(64)));
	size_t room = f->vector_live ? weft_vector_size() + 64 : 1;
	unsigned char vector[room < 4096 ? room : 4096]; /* AVX-512 needs 2.7 KiB */
	void *area = (void *)(((uintptr_t)vector + 63) & ~63ul);

	make_context(&uc, regs);
	/* What fpregs points at; vector state itself is kept in `area`. */
	__asm__ volatile("fxsave64 %0" : "=m"(fx));
	uc.fpstate = fx;
	if (f->vector_live)
		weft_vector_save(area);
	run_handler(f, act, sig, info, &uc,
		weft_sig_alternate_stack(f, act, stack_pointer()));
	if (f->vector_live)
		weft_vector_restore(area);
}

enum weft_delivered weft_signals_deliver(struct weft_regs *regs)
{
	struct fiber *f = weft_fiber_here();
	enum weft_delivered how = WEFT_DELIVERED_NONE;
	unsigned char info[INFO_SIZE] __attribute__((aligned(8)));
	struct weft_ksigaction act;
	int sig;

	weft_sched_give_way();
	while (next_signal(f, &act, &sig, info)) {
		/* The first one decides, as in the kernel. */
		if (how == WEFT_DELIVERED_NONE)
			how = act.flags & SA_RESTART ? WEFT_DELIVERED_RESTART
						     : WEFT_DELIVERED_EINTR;
		deliver_one(f, &act, sig, info, regs);
	}
	return how;
}

/*
 * Calls that the kernel made for the fiber itself: native ones, and those of the
 * program's own `syscall` instructions. The kick restarts them (SA_RESTART), because
 * whether they are to restart is known only now. A restarted call stands before its
 * instruction again, which has left the address behind it in rcx.
 */
static bool in_restarted_call(const struct kucontext *uc)
{
	const unsigned char *insn = (const unsigned char *)uc->rip;

	return uc->rcx == uc->rip + 2 && insn[0] == 0x0f && insn[1] == 0x05;
}

/*
 * Does it answer EINTR to a signal? Not those that the kernel restarts whatever handler
 * ran (ERESTARTNOINTR): fork, the locking futexes.
 */
static bool answers_eintr(const struct kucontext *uc)
{
	switch (uc->rax) {
	case SYS_read:
	case SYS_readv:
	case SYS_write:
	case SYS_writev:
	case SYS_preadv2:
	case SYS_pwritev2:
	case SYS_recvfrom:
	case SYS_recvmsg:
	case SYS_recvmmsg:
	case SYS_sendto:
	case SYS_sendmsg:
	case SYS_sendmmsg:
	case SYS_accept:
	case SYS_accept4:
	case SYS_connect:
	case SYS_open:
	case SYS_openat:
	case SYS_openat2:
	case SYS_creat:
	case SYS_ioctl:
	case SYS_fcntl:
	case SYS_flock:
	case SYS_wait4:
	case SYS_waitid:
	case SYS_mq_timedsend:
	case SYS_mq_timedreceive:
	case SYS_sendfile:
	case SYS_splice:
	case SYS_tee:
	case SYS_vmsplice:
	case SYS_getrandom:
	case SYS_futex_waitv:
		return true;
	case SYS_futex:
		return (uc->rsi & FUTEX_CMD_MASK) == FUTEX_WAIT ||
		       (uc->rsi & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET;
	default:
		return false;
	}
}

/* The first handler decides, as in the kernel, and sees what it decided. */
static void end_call(struct kucontext *uc, const struct weft_ksigaction *act)
{
	if (act->flags & SA_RESTART || !in_restarted_call(uc) || !answers_eintr(uc))
		return;
	uc->rip += 2;
	uc->rax = (uint64_t)-EINTR;
}

struct fiber *weft_signals_async(struct async_frame *frame);

/* Ordinary code of the interrupted fiber; called by weft_signal_trampoline. */
__attribute__((used)) struct fiber *weft_signals_async(struct async_frame *frame)
{
	struct fiber *f = weft_fiber_here();
	unsigned char info[INFO_SIZE] __attribute__((aligned(8)));
	struct weft_ksigaction act;
	struct carrier *c;
	int sig = frame->sig;
	bool first = !sig;

	/* After a vfork the kernel still has the fiber's own mask: it may park here. */
	weft_enter_fiber();
	weft_fiber_in_weft(f, true);
	f->vector_live = 0; /* all of it is in the frame */
	if (sig) {
		weft_fiber_bind_if_due();
		frame->sig = 0;
		weft_lock(&weft_sig.lock);
		act = weft_sig.table[sig];
		if (act.flags & SA_RESETHAND)
			weft_sig_reset_handler(sig);
		weft_unlock(&weft_sig.lock);
		run_handler(f, &act, sig, frame->info, &frame->uc, 0);
	}
	while (next_signal(f, &act, &sig, info)) {
		if (first)
			end_call(&frame->uc, &act);
		first = false;
		run_handler(f, &act, sig, info, &frame->uc,
			weft_sig_alternate_stack(f, &act, stack_pointer()));
	}
	/*
	 * What rt_sigreturn installs belongs to the kernel thread, which may be
	 * another one by now.
	 */
	c = weft_carrier_self();
	frame->uc.sigmask = CARRIER_MASK;
	frame->uc.stack.ss_sp = c->signal_stack;
	frame->uc.stack.ss_size = c->signal_stack_size;
	frame->uc.stack.ss_flags = 0;
	return f;
}
