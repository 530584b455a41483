/*
 * signals.c - see signals.h for the model.
 *
 * Who runs where:
 *   first_level()  the kernel's handler for the kicks, for synchronous signals
 *                  and for signals that hit native threads; on the carrier's
 *                  signal stack. It never runs a fiber's handler there: it
 *                  redirects the interrupted fiber to weft_signal_trampoline.
 *   receiver       one kernel thread in sigtimedwait; hands signals to fibers.
 *   deliver        ordinary code of the fiber, when it leaves weft (attention).
 *
 * Which process-directed signals the receiver may take: those that some fiber
 * does not block. The set of signals blocked by all fibers changes with every
 * mask change of every fiber, so it is kept lazily: main's mask says which
 * signals are of interest (what main lets in is let in), and only for those the
 * other fibers are counted. "Everything blocked", which libc sets for a moment in
 * pthread_create and the like, is not taken for a change.
 *
 * Lock: one for everything here; sections are short. Rank: below the fiber
 * table, above timers and inboxes.
 */
#include "signals.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

#include "futex.h"
#include "sched_impl.h"
#include "stack.h"
#include "thread_timers.h"

#define BIT(sig) (1ull << ((sig)-1))

enum {
	KICK = 33,       /* glibc's SIGSETXID, which fibers only know virtually */
	KICK_EINTR = 32, /* glibc's SIGCANCEL, likewise; does not restart calls */
	SIGNALS = 64,
	INFO_SIZE = 128,
	DFL = 0,
	IGN = 1,
	NODE_CHUNK = 64 * 1024,
};

static const uint64_t SYNCHRONOUS = BIT(SIGSEGV) | BIT(SIGBUS) | BIT(SIGFPE) |
				    BIT(SIGILL) | BIT(SIGTRAP) | BIT(SIGSYS);
static const uint64_t UNBLOCKABLE = BIT(SIGKILL) | BIT(SIGSTOP);
/* A terminal answers EIO to a background reader that blocks SIGTTIN: let it in. */
static const uint64_t CARRIER_MASK =
	~(BIT(SIGSEGV) | BIT(SIGBUS) | BIT(SIGFPE) | BIT(SIGILL) | BIT(SIGTRAP) |
		BIT(SIGSYS) | BIT(SIGTTIN) | BIT(SIGTTOU) | BIT(KICK) | BIT(KICK_EINTR));

/* The kernel's ucontext, which is shorter than the C library's ucontext_t. */
struct kucontext {
	unsigned long flags;
	void *link;
	stack_t stack;
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx,
		rsp, rip, eflags;
	uint16_t cs, gs, fs, ss;
	uint64_t err, trapno, oldmask, cr2;
	void *fpstate;
	uint64_t reserved[8];
	uint64_t sigmask;
};
_Static_assert(offsetof(struct kucontext, rsp) == 160, "signal.S");
_Static_assert(offsetof(struct kucontext, sigmask) == 296, "kernel ABI");

struct sig_node {
	struct sig_node *next;
	int sig;
	bool process; /* was sent to the process, not to the thread */
	unsigned char info[INFO_SIZE] __attribute__((aligned(8)));
};

/* What weft_signal_trampoline works on; the ucontext must come first. */
struct async_frame {
	struct kucontext uc;
	unsigned char info[INFO_SIZE] __attribute__((aligned(8)));
	int sig; /* a synchronous signal to deliver first, or 0 */
};

extern void weft_restore_rt(void);
extern void weft_signal_trampoline(void);
extern const char weft_signal_again[], weft_signal_tail[], weft_signal_tail_end[];
extern const char weft_interruptible_begin[], weft_interruptible_end[],
	weft_interruptible_out[];
void weft_call_handler(void *handler, int sig, void *info, void *uc, uintptr_t stack);

static struct weft_lock lock;
static struct weft_ksigaction table[SIGNALS + 1]; /* (lock) */
static uint64_t handled;                          /* (lock) signals with a handler */
static struct sig_node *node_free;                /* (lock) */
static char *node_next, *node_end;                /* (lock) */
static struct sig_node *shared_queue;    /* (lock) process-directed, blocked by all */
static uint64_t shared_pending;          /* (a) */
static uint64_t interest;                /* (lock) what main blocks */
static uint64_t blocked_by_all;          /* (a) */
static uint32_t open_count[SIGNALS + 1]; /* (lock) other fibers that let it in */
static struct carrier *receiver;
static int receiver_quit; /* (a) the runtime did not start after all */
static uint32_t receiver_want, receiver_done; /* (a) generations of the set */
static bool active;

/* ---- small things --------------------------------------------------------- */

static long kernel_mask(uint64_t mask)
{
	return weft_sys4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, 8);
}

static long kernel_action(
	int sig, const struct weft_ksigaction *act, struct weft_ksigaction *old)
{
	return weft_sys4(SYS_rt_sigaction, sig, (long)act, (long)old, 8);
}

static void kick(struct carrier *c, int sig)
{
	weft_sys3(SYS_tgkill, weft_rt.pid, c->tid, sig);
}

static void make_info(void *info, int sig, int code)
{
	siginfo_t *si = info;

	weft_memset(info, 0, INFO_SIZE);
	si->si_signo = sig;
	si->si_code = code;
	si->si_pid = weft_rt.pid;
	si->si_uid = (uid_t)weft_sys0(SYS_getuid);
}

static bool default_ignores(int sig)
{
	return BIT(sig) & (BIT(SIGCHLD) | BIT(SIGCONT) | BIT(SIGURG) | BIT(SIGWINCH));
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

static void node_put(struct sig_node *n)
{
	n->next = node_free;
	node_free = n;
}

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
	if (now == blocked_by_all)
		return false;
	store_seq_cst(&blocked_by_all, now);
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
		struct fiber *f =
			&weft_rt.chunk[i / WEFT_FIBER_CHUNK][i % WEFT_FIBER_CHUNK];

		if (!load_relaxed(&f->tid) || f == main_fiber)
			continue;
		for (uint64_t m = ~f->sig.published & added; m; m &= m - 1)
			open_count[__builtin_ctzll(m) + 1]++;
	}
}

/* Waits until the receiver runs with the present sets: rare, tens of microseconds. */
static void sync_receiver(void)
{
	uint32_t want = __atomic_add_fetch(&receiver_want, 1, __ATOMIC_SEQ_CST);

	if (!receiver)
		return;
	kick(receiver, KICK_EINTR);
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
	weft_lock(&lock);
	if (f == weft_fiber_main()) {
		set_interest(f->sig.mask);
	} else {
		count_fiber(~f->sig.mask & f->sig.published, 1);
		count_fiber(f->sig.mask & ~f->sig.published, -1);
	}
	f->sig.published = f->sig.mask;
	tell = update_blocked();
	weft_unlock(&lock);
	if (tell)
		sync_receiver();
}

/* ---- sending -------------------------------------------------------------- */

/* Makes a parked fiber run, or a running one look. The flag is already set. */
static void interrupt(struct fiber *f)
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
		kick(c, KICK_EINTR);
		return;
	}
	c = load_seq_cst(&f->io_carrier);
	if (c) {
		if (!xchg_seq_cst(&f->sig_queued, 1)) {
			struct fiber *head = load_relaxed(&c->sig_inbox);

			do {
				f->sig_next = head;
			} while (!cas_seq_cst(&c->sig_inbox, &head, f));
			weft_carrier_wake(c);
		}
		return;
	}
	c = load_relaxed(&f->carrier);
	if (c && load_relaxed(&c->current) == f)
		kick(c, KICK);
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
static long queue(struct fiber *f, int sig, const void *info, bool process)
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

/* Would sending it now have no effect? (kernel/signal.c, sig_ignored) */
static bool ignored(int sig, uint64_t mask)
{
	if (mask & BIT(sig))
		return false;
	return (uintptr_t)table[sig].handler == IGN ||
	       ((uintptr_t)table[sig].handler == DFL && default_ignores(sig));
}

static long send_to_fiber(struct fiber *f, int sig, const void *info, bool process)
{
	bool open;
	long r;

	weft_lock(&lock);
	/*
	 * The other carrier may be changing the mask right now; natively that is
	 * the same race, decided one way or the other.
	 */
	if (ignored(sig, load_relaxed(&f->sig.mask))) {
		weft_unlock(&lock);
		return 0;
	}
	if (process && load_relaxed(&f->sig.mask) & BIT(sig)) {
		weft_unlock(&lock);
		return WEFT_SIG_NATIVE; /* blocked it or ended: pick another */
	}
	r = queue(f, sig, info, process);
	open = !(load_relaxed(&f->sig.mask) & BIT(sig));
	if (open)
		store_seq_cst(&f->attention, 1); /* [attention-open] */
	weft_unlock(&lock);
	if (open)
		interrupt(f);
	return r;
}

/* Who gets a process-directed signal: main if it lets it in, else somebody who does. */
static struct fiber *pick_target(int sig)
{
	struct fiber *f = weft_fiber_main();

	if (f && !(load_relaxed(&f->sig.mask) & BIT(sig)))
		return f;
	for (uint32_t i = 0; i < load_acquire(&weft_rt.fresh); i++) {
		f = &weft_rt.chunk[i / WEFT_FIBER_CHUNK][i % WEFT_FIBER_CHUNK];
		if (load_acquire(&f->tid) && load_relaxed(&f->state) != FIBER_NEW &&
			!(load_relaxed(&f->sig.mask) & BIT(sig)))
			return f;
	}
	return NULL;
}

static void send_to_process(int sig, const void *info)
{
	struct fiber *f;

	while ((f = pick_target(sig)))
		if (send_to_fiber(f, sig, info, true) != WEFT_SIG_NATIVE)
			return;
	/* Everybody blocked it in the meantime: kept until somebody asks for it. */
	weft_lock(&lock);
	if (!(shared_pending & BIT(sig)) || sig >= 34) {
		struct sig_node *n = node_get();

		if (n) {
			n->sig = sig;
			n->process = true;
			weft_memcpy(n->info, info, INFO_SIZE);
			n->next = NULL;
			struct sig_node **at = &shared_queue;

			while (*at)
				at = &(*at)->next;
			*at = n;
			store_seq_cst(&shared_pending, shared_pending | BIT(sig));
		}
	}
	weft_unlock(&lock);
}

/* ---- the receiver --------------------------------------------------------- */

static int carrier_wanted; /* (a) */

void weft_carrier_call_for_another(void)
{
	if (receiver && !xchg_seq_cst(&carrier_wanted, 1))
		kick(receiver, KICK_EINTR);
}

/*
 * Signals with a handler are waited for; signals without one are unblocked, so
 * that the kernel's default action happens, or nothing for SIG_IGN.
 */
static void receiver_main(void *arg)
{
	(void)arg;
	for (;;) {
		uint32_t generation = load_seq_cst(&receiver_want);
		uint64_t closed, wait, mask;
		unsigned char info[INFO_SIZE] __attribute__((aligned(8)));
		long sig;

		weft_lock(&lock);
		closed = load_seq_cst(&blocked_by_all);
		wait = handled & ~closed & ~SYNCHRONOUS;
		mask = (handled & ~SYNCHRONOUS) | closed;
		weft_unlock(&lock);
		wait |= BIT(KICK_EINTR);
		mask = (mask | BIT(KICK_EINTR)) & ~BIT(KICK);
		kernel_mask(mask);
		store_seq_cst(&receiver_done, generation);
		weft_sys3(SYS_futex, (long)&receiver_done, FUTEX_WAKE_PRIVATE, INT32_MAX);
		sig = weft_sys4(SYS_rt_sigtimedwait, (long)&wait, (long)info, 0, 8);
		if (sig > 0 && sig != KICK_EINTR)
			send_to_process((int)sig, info);
		if (sig == KICK_EINTR && ((siginfo_t *)info)->si_code == SI_TIMER)
			weft_thread_timer_fired(
				(uint64_t)((siginfo_t *)info)->si_value.sival_ptr,
				((siginfo_t *)info)->si_overrun);
		if (load_seq_cst(&receiver_quit))
			weft_sys1(SYS_exit, 0);
		if (xchg_seq_cst(&carrier_wanted, 0))
			weft_carrier_add();
	}
}

/* ---- taking --------------------------------------------------------------- */

/* (lock held) Unlinks the first deliverable node of a queue; synchronous-like and
   standard signals before real-time ones, each in order of arrival. */
static struct sig_node *take_from(
	struct sig_node **head, struct sig_node ***tail, uint64_t *pending, uint64_t open)
{
	struct sig_node **best = NULL;

	if (!(*pending & open))
		return NULL;
	for (struct sig_node **at = head; *at; at = &(*at)->next)
		if (BIT((*at)->sig) & open && (!best || (*at)->sig < (*best)->sig))
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

static struct sig_node *take(struct fiber *f, uint64_t open)
{
	struct sig_node *n =
		take_from(&f->sig.queue, &f->sig.queue_tail, &f->sig.pending, open);
	siginfo_t *si;

	if (!n)
		n = take_from(&shared_queue, NULL, &shared_pending, open);
	if (n && (si = (siginfo_t *)n->info)->si_code == SI_TIMER)
		weft_thread_timer_taken(si->si_timerid, si->si_overrun);
	return n;
}

bool weft_signals_attention(const struct fiber *f)
{
	return load_relaxed(&f->attention);
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
		weft_lock(&lock);
		queue(f, (int)sig, info, true);
		weft_unlock(&lock);
	}
}

static void set_mask(struct fiber *f, uint64_t mask)
{
	uint64_t opened, was_closed;

	mask &= ~UNBLOCKABLE;
	opened = f->sig.mask & ~mask;
	was_closed = load_seq_cst(&blocked_by_all);
	store_relaxed(&f->sig.mask, mask);
	if (unlikely(was_closed & opened))
		fetch_from_kernel(f, was_closed & opened);
	/* Only libc itself blocks 32 and 33, around its critical sections. */
	if (mask != f->sig.published && mask != ~UNBLOCKABLE)
		weft_signals_publish(f);
	if (likely(!opened))
		return;
	if (load_relaxed(&f->sig.pending) & ~mask ||
		load_seq_cst(&shared_pending) & ~mask)
		store_seq_cst(&f->attention, 1);
}

/* ---- running handlers ----------------------------------------------------- */

/* What the kernel would have done to this thread: die, stop, dump core. */
static void default_action(int sig, const void *info)
{
	struct weft_ksigaction dfl = {0};
	uint64_t open = ~BIT(sig), old;

	if (default_ignores(sig))
		return;
	(void)info;
	if (!(BIT(sig) & (BIT(SIGTSTP) | BIT(SIGTTIN) | BIT(SIGTTOU))))
		weft_futex_walk_all_robust();
	kernel_action(sig, &dfl, NULL);
	weft_sys4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&open, (long)&old, 8);
	weft_sys3(SYS_tgkill, weft_rt.pid, weft_sys0(SYS_gettid), sig);
	kernel_mask(old); /* it was a stop signal, and we go on */
}

static uintptr_t alternate_stack(
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
	weft_fiber_in_weft(f, false);
	weft_call_handler(act->handler, sig, info, uc, stack);
	weft_fiber_in_weft(f, true);
	f->vector_live = vector_live;
	f->tried = tried;
	f->creating = creating;
	set_mask(f, uc->sigmask);
}

/*
 * Takes one deliverable signal. True when a handler is to be run for it; *ret_info
 * is filled then. Default actions and ignored signals are done with here.
 */
static bool next_signal(
	struct fiber *f, struct weft_ksigaction *ret_act, int *ret_sig, void *ret_info)
{
	for (;;) {
		struct sig_node *n;
		int sig;

		store_seq_cst(&f->attention, 0); /* [attention-open] then look */
		weft_lock(&lock);
		n = take(f, ~f->sig.mask);
		if (!n) {
			weft_unlock(&lock);
			return false;
		}
		sig = n->sig;
		weft_memcpy(ret_info, n->info, INFO_SIZE);
		node_put(n);
		*ret_act = table[sig];
		if ((uintptr_t)ret_act->handler > IGN && ret_act->flags & SA_RESETHAND) {
			struct weft_ksigaction dfl = {0};

			table[sig].handler = NULL;
			handled &= ~BIT(sig);
			kernel_action(sig, &dfl, NULL);
		}
		weft_unlock(&lock);
		*ret_sig = sig;
		if ((uintptr_t)ret_act->handler > IGN)
			return true;
		if ((uintptr_t)ret_act->handler == DFL)
			default_action(sig, ret_info);
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
	run_handler(f, act, sig, info, &uc, alternate_stack(f, act, stack_pointer()));
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

	while (next_signal(f, &act, &sig, info)) {
		deliver_one(f, &act, sig, info, regs);
		if (!(act.flags & SA_RESTART))
			how = WEFT_DELIVERED_EINTR;
		else if (how == WEFT_DELIVERED_NONE)
			how = WEFT_DELIVERED_RESTART;
	}
	return how;
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

	weft_fiber_in_weft(f, true);
	f->vector_live = 0; /* all of it is in the frame */
	if (sig) {
		frame->sig = 0;
		weft_lock(&lock);
		act = table[sig];
		if (act.flags & SA_RESETHAND)
			table[sig].handler = NULL;
		weft_unlock(&lock);
		run_handler(f, &act, sig, frame->info, &frame->uc, 0);
	}
	while (next_signal(f, &act, &sig, info))
		run_handler(f, &act, sig, info, &frame->uc,
			alternate_stack(f, &act, stack_pointer()));
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
static bool redirect(struct fiber *f, struct kucontext *uc, int sig, const void *info)
{
	size_t fp_size = uc->fpstate ? fpstate_size(uc->fpstate) : 0;
	uintptr_t sp = uc->rsp - WEFT_RED_ZONE, fp, base;
	struct async_frame *frame;
	size_t size, guard;

	if (sig) {
		uintptr_t alt = alternate_stack(f, &table[sig], uc->rsp);

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
		redirect(f, uc, 0, NULL);
}

/* A stack that ran into its guard: say whose, once per fault. */
static void explain_guard(struct fiber *f, uintptr_t addr)
{
	uintptr_t base;
	size_t size, guard;
	char a[21], b[21];

	if (!f || !weft_stack_bounds(addr, &base, &size, &guard) || addr >= base + guard)
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

static void on_fault(struct fiber *f, int sig, void *info, struct kucontext *uc)
{
	const siginfo_t *si = info;
	struct weft_ksigaction *act = &table[sig];

	if (sig == SIGSEGV)
		explain_guard(f, (uintptr_t)si->si_addr);
	/* force_sig: blocked or ignored means default, whatever was installed. */
	if (!f || (uintptr_t)act->handler <= IGN || f->sig.mask & BIT(sig)) {
		give_up(sig);
		return;
	}
	if (!redirect(f, uc, sig, info))
		give_up(sig);
}

/* Native threads (no GS base) have real masks: their handlers run right here. */
static void on_native(int sig, void *info, void *uc)
{
	struct weft_ksigaction act;

	weft_lock(&lock);
	act = table[sig];
	weft_unlock(&lock);
	if ((uintptr_t)act.handler > IGN)
		weft_call_handler(act.handler, sig, info, uc, 0);
	else if ((uintptr_t)act.handler == DFL && BIT(sig) & SYNCHRONOUS)
		give_up(sig);
}

/*
 * The call that every kernel thread has to make: posted here, made in the kick's
 * handler, counted down. One at a time (threads_lock), and no thread is made
 * meanwhile: it would have the credentials of before.
 */
static struct {
	long nr, args[3];
	uint32_t generation; /* (a) */
	uint32_t left;       /* (a) */
	uint32_t failed;     /* (a) */
} broadcast;

static void join_broadcast(struct carrier *c)
{
	uint32_t generation = load_acquire(&broadcast.generation);

	if (c->broadcast_done == generation)
		return;
	c->broadcast_done = generation;
	if (weft_sys3(broadcast.nr, broadcast.args[0], broadcast.args[1],
		    broadcast.args[2]) < 0)
		store_relaxed(&broadcast.failed, 1);
	__atomic_sub_fetch(&broadcast.left, 1, __ATOMIC_SEQ_CST);
}

/* A thread made from now on has today's credentials. */
void weft_signals_new_thread(struct carrier *c)
{
	c->broadcast_done = load_relaxed(&broadcast.generation);
}

static void call_on(struct carrier *c, struct carrier *self)
{
	if (c == self || !c)
		return;
	__atomic_add_fetch(&broadcast.left, 1, __ATOMIC_SEQ_CST);
	kick(c, KICK);
}

long weft_signals_on_all_threads(long nr, const long args[3])
{
	struct carrier *self = weft_carrier_self();
	long r;

	weft_lock(&weft_rt.threads_lock);
	r = weft_sys3(nr, args[0], args[1], args[2]);
	if (r < 0) {
		weft_unlock(&weft_rt.threads_lock);
		return r;
	}
	broadcast.nr = nr;
	for (int i = 0; i < 3; i++)
		broadcast.args[i] = args[i];
	store_relaxed(&broadcast.left, 0);
	self->broadcast_done = broadcast.generation + 1;
	store_release(&broadcast.generation, broadcast.generation + 1);
	for (unsigned i = 0; i < weft_rt.carriers; i++)
		call_on(weft_rt.carrier[i], self);
	for (struct carrier *c = load_acquire(&weft_rt.helpers); c; c = c->all_next)
		call_on(c, self);
	call_on(receiver, self);
	while (load_seq_cst(&broadcast.left))
		weft_sys0(SYS_sched_yield);
	weft_unlock(&weft_rt.threads_lock);
	/* Half the threads with old credentials would be a hole (nptl: abort). */
	if (load_relaxed(&broadcast.failed))
		weft_bug("a kernel thread could not change its credentials");
	return r;
}

static void first_level(int sig, siginfo_t *si, void *ctx)
{
	struct carrier *c = (struct carrier *)weft_rdgsbase();
	struct kucontext *uc = ctx;

	if ((uc->rip == (uint64_t)weft_load_user_insn ||
		    uc->rip == (uint64_t)weft_cas_user_insn) &&
		BIT(sig) & SYNCHRONOUS) {
		uc->rip = (uint64_t)weft_load_user_fixup;
		return;
	}
	if (!c) {
		if (sig != KICK && sig != KICK_EINTR)
			on_native(sig, si, ctx);
		return;
	}
	if (sig == KICK || sig == KICK_EINTR) {
		if (si->si_code == SI_TIMER)
			weft_sched_tick(c);
		join_broadcast(c);
		on_kick(c->current, uc);
	} else if (BIT(sig) & SYNCHRONOUS && si->si_code > 0)
		on_fault(c->current, sig, si, uc);
	else
		send_to_process(sig, si); /* somebody's kill(pid, SIGSEGV) */
}

static void install(int sig, unsigned long flags)
{
	struct weft_ksigaction act = {
		.handler = (void *)first_level,
		.flags = SA_SIGINFO | SA_ONSTACK | 0x04000000 /* SA_RESTORER */ | flags,
		.restorer = (void *)weft_restore_rt,
		.mask = ~0ull,
	};

	kernel_action(sig, &act, NULL);
}

/* (lock held) The kernel's disposition that goes with table[sig]. */
static void install_for(int sig)
{
	struct weft_ksigaction *act = &table[sig];
	bool has_handler = (uintptr_t)act->handler > IGN;

	if (sig == KICK || sig == KICK_EINTR)
		return;
	if (has_handler) {
		handled |= BIT(sig);
		install(sig, SA_RESTART | (act->flags & (SA_NOCLDSTOP | SA_NOCLDWAIT)));
	} else {
		handled &= ~BIT(sig);
		if ((sig == SIGSEGV || sig == SIGBUS) && (uintptr_t)act->handler == DFL) {
			install(sig, 0); /* guards are explained, bad pointers survived */
			return;
		}
		kernel_action(sig, act, NULL);
	}
}

/* ---- the system calls ----------------------------------------------------- */

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
	weft_lock(&lock);
	was = table[sig];
	if (act) {
		uint64_t before = handled;

		copy.mask &= ~UNBLOCKABLE;
		table[sig] = copy;
		install_for(sig);
		tell = before != handled;
		/* Ignoring discards what is pending (POSIX, sigaction). */
		if (ignored(sig, 0)) {
			struct fiber *f = weft_fiber_self();
			struct sig_node *n;

			while (f && (n = take(f, BIT(sig))))
				node_put(n);
		}
	}
	weft_unlock(&lock);
	if (old)
		*old = was;
	if (tell)
		sync_receiver();
	return 0;
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
		set_mask(f, arg);
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
	weft_lock(&lock);
	kernel |= f->sig.pending | shared_pending;
	weft_unlock(&lock);
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
	set_mask(f, mask);
	weft_signals_publish(f);
}

void weft_sig_mask_end(void)
{
	struct fiber *f = weft_fiber_here();

	if (!f->sig.has_saved)
		return;
	f->sig.has_saved = false;
	set_mask(f, f->sig.saved_mask);
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

struct timedwait_call {
	const int *attention;
	uint64_t set;
	void *info;
	uint64_t deadline;
};

/* On a helper: process-directed signals that everybody blocks wait in the kernel. */
static long timedwait_plain(void *arg)
{
	struct timedwait_call *t = arg;
	struct timespec ts, *tp = NULL;

	if (t->deadline != WEFT_NO_DEADLINE) {
		uint64_t now = weft_now_ns();
		uint64_t left = t->deadline > now ? t->deadline - now : 0;

		ts.tv_sec = (time_t)(left / 1000000000u);
		ts.tv_nsec = (long)(left % 1000000000u);
		tp = &ts;
	}
	const long args[6] = {(long)&t->set, (long)t->info, (long)tp, 8, 0, 0};

	return weft_sys_interruptible(t->attention, SYS_rt_sigtimedwait, args);
}

long weft_sig_timedwait(
	const uint64_t *set, void *info, const struct timespec *timeout, size_t size)
{
	struct fiber *f = weft_fiber_here();
	struct timedwait_call call = {
		.attention = &f->attention, .deadline = WEFT_NO_DEADLINE};
	unsigned char buf[INFO_SIZE] __attribute__((aligned(8)));
	struct timespec zero = {0, 0};
	uint64_t want, mask = f->sig.mask;
	long r;

	if (size != 8)
		return -EINVAL;
	want = *set & ~UNBLOCKABLE;
	if (timeout) {
		if (timeout->tv_sec < 0 || (uint64_t)timeout->tv_nsec >= 1000000000u)
			return -EINVAL;
		call.deadline = weft_now_ns() + (uint64_t)timeout->tv_sec * 1000000000u +
				(uint64_t)timeout->tv_nsec;
	}
	call.info = buf;
	weft_signals_publish(f);
	for (;;) {
		struct sig_node *n;

		/*
		 * While we wait the wanted signals count as let in by us: whoever
		 * sends one to this fiber sets attention and interrupts.
		 */
		store_seq_cst(&f->attention, 0);
		store_seq_cst(&f->sig.mask, mask & ~want);
		weft_lock(&lock);
		n = take(f, want);
		if (n) {
			r = n->sig;
			weft_memcpy(buf, n->info, INFO_SIZE);
			node_put(n);
		}
		weft_unlock(&lock);
		if (n)
			break;
		call.set = want & ~(BIT(KICK) | BIT(KICK_EINTR));
		/* What is there already costs no helper. */
		r = weft_sys4(
			SYS_rt_sigtimedwait, (long)&call.set, (long)buf, (long)&zero, 8);
		if (r > 0)
			break;
		if (timeout && weft_now_ns() >= call.deadline) {
			r = -EAGAIN;
			break;
		}
		r = weft_offload(timedwait_plain, &call);
		if (r != -EINTR)
			break;
		/* Something else than a wanted signal: a handler has to run. */
		weft_lock(&lock);
		bool mine = f->sig.pending & want;
		bool other = f->sig.pending & ~mask & ~want;
		weft_unlock(&lock);
		if (!mine && other)
			break;
	}
	store_seq_cst(&f->sig.mask, mask);
	if (load_relaxed(&f->sig.pending) & ~mask)
		store_seq_cst(&f->attention, 1);
	if (r > 0 && info)
		weft_memcpy(info, buf, INFO_SIZE);
	return r;
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
	return send_to_fiber(f, sig, info, false);
}

long weft_sig_send_process(int id, int sig, const void *info)
{
	struct fiber *self = weft_fiber_self();
	unsigned char own[INFO_SIZE] __attribute__((aligned(8)));
	struct fiber *f;

	if (sig <= 0 || sig > SIGNALS || BIT(sig) & UNBLOCKABLE ||
		(uintptr_t)table[sig].handler <= IGN)
		return WEFT_SIG_NATIVE;
	/* Named by a thread's id: that one first (complete_signal, as for main). */
	f = weft_fiber_by_tid(id);
	if (!f || load_relaxed(&f->sig.mask) & BIT(sig))
		f = pick_target(sig);
	if (!f) {
		/* Blocked by all: the kernel keeps it, if the receiver knows. */
		if (self)
			weft_signals_publish(self);
		return WEFT_SIG_NATIVE;
	}
	if (!info) {
		make_info(own, sig, SI_USER);
		info = own;
	}
	return send_to_fiber(f, sig, info, true);
}

void weft_signals_raise_pipe(void)
{
	struct fiber *f = weft_fiber_here();
	unsigned char info[INFO_SIZE] __attribute__((aligned(8)));

	make_info(info, SIGPIPE, SI_USER);
	send_to_fiber(f, SIGPIPE, info, false);
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
		send_to_fiber(weft_fiber_self(), SIGXFSZ, info, false);
	return r;
}

/* ---- life ----------------------------------------------------------------- */

void weft_signals_reset(struct fiber *f)
{
	weft_memset(&f->sig, 0, sizeof f->sig);
	f->sig.mask = f->sig.published = ~UNBLOCKABLE;
	f->sig.queue_tail = &f->sig.queue;
	f->sig.alt_flags = SS_DISABLE;
}

void weft_signals_inherit(struct fiber *child, const struct fiber *parent)
{
	child->sig.mask = parent->sig.mask;
}

void weft_signals_drop(struct fiber *f)
{
	struct sig_node *orphans = NULL, *n;
	bool tell = false;

	if (!active)
		return;
	/* The mask no longer lets anything in: nobody picks this fiber. */
	if (f->sig.published != ~UNBLOCKABLE || f == weft_fiber_main() ||
		load_relaxed(&f->sig.queue)) {
		weft_lock(&lock);
		if (f == weft_fiber_main())
			set_interest(~UNBLOCKABLE);
		else
			count_fiber(~f->sig.published, -1);
		f->sig.mask = f->sig.published = ~0ull;
		tell = update_blocked();
		while ((n = f->sig.queue)) {
			f->sig.queue = n->next;
			if (n->process) {
				n->next = orphans;
				orphans = n;
			} else {
				node_put(n);
			}
		}
		f->sig.queue_tail = &f->sig.queue;
		f->sig.pending = 0;
		weft_unlock(&lock);
	}
	f->sig.mask = ~0ull;
	if (tell)
		sync_receiver();
	while ((n = orphans)) {
		orphans = n->next;
		send_to_process(n->sig, n->info);
		weft_lock(&lock);
		node_put(n);
		weft_unlock(&lock);
	}
}

int weft_signals_receiver_tid(void)
{
	return receiver->tid;
}

void weft_signals_lock(void)
{
	weft_lock(&lock);
}

void weft_signals_unlock(void)
{
	weft_unlock(&lock);
}

void weft_signals_enter_thread(struct carrier *c)
{
	stack_t ss = {.ss_sp = c->signal_stack, .ss_size = c->signal_stack_size};

	weft_sys2(SYS_sigaltstack, &ss, 0);
	if (c != receiver)
		kernel_mask(CARRIER_MASK);
}

/* On the program's only thread, everything blocked: its state becomes main's. */
int weft_signals_start(void)
{
	struct fiber *f = weft_fiber_main();
	stack_t alt = {.ss_flags = SS_DISABLE};
	int err;

	weft_sys2(SYS_sigaltstack, 0, &alt);
	f->sig.alt_sp = (uintptr_t)alt.ss_sp;
	f->sig.alt_size = alt.ss_size;
	f->sig.alt_flags = alt.ss_flags & ~SS_ONSTACK;
	f->sig.mask = f->sig.published = weft_rt.config.initial_mask & ~UNBLOCKABLE;
	interest = f->sig.mask;
	weft_memset(open_count, 0, sizeof open_count);
	handled = 0;
	shared_queue = NULL;
	shared_pending = 0;
	for (int sig = 1; sig <= SIGNALS; sig++) {
		if (BIT(sig) & UNBLOCKABLE)
			continue;
		kernel_action(sig, NULL, &table[sig]);
	}
	update_blocked();
	receiver = weft_carrier_new(2000, CARRIER_HELPER);
	if (!receiver)
		return -ENOMEM;
	for (int sig = 1; sig <= SIGNALS; sig++)
		if (!(BIT(sig) & UNBLOCKABLE) && ((uintptr_t)table[sig].handler > IGN ||
							 sig == SIGSEGV || sig == SIGBUS))
			install_for(sig);
	install(KICK, SA_RESTART);
	install(KICK_EINTR, 0);
	active = true;
	receiver_quit = 0;
	err = weft_carrier_spawn(receiver, receiver_main);
	if (err)
		weft_signals_stop();
	return err;
}

static void restore_kernel(struct fiber *f)
{
	stack_t ss = {.ss_flags = SS_DISABLE};

	for (int sig = 1; sig <= SIGNALS; sig++)
		if (!(BIT(sig) & UNBLOCKABLE))
			kernel_action(sig, &table[sig], NULL);
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
	store_seq_cst(&receiver_quit, 1);
	if (load_acquire(&receiver->lives))
		kick(receiver, KICK_EINTR);
	weft_carrier_join(receiver);
	weft_carrier_free(receiver);
	receiver = NULL;
	restore_kernel(weft_fiber_main());
	active = false;
}

/* In a fork child (lock held since before the fork), still on fiber f's stack. */
void weft_signals_forget(void)
{
	struct fiber *f = weft_fiber_here();

	restore_kernel(f);
	store_relaxed(&f->attention, 0);
	receiver = NULL;
	receiver_want = receiver_done = 0;
	active = false;
	/* Pending signals are not inherited (fork(2)). */
	node_free = NULL;
	node_next = node_end = NULL;
	shared_queue = NULL;
	store_relaxed(&shared_pending, 0);
	kernel_mask(f->sig.mask);
}

void weft_signals_before_exec(void)
{
	kernel_mask(weft_fiber_self()->sig.mask);
}

void weft_signals_undo_exec(void)
{
	kernel_mask(CARRIER_MASK);
}
