/*
 * signals_impl.h - what the files of the signals share; signals.h has the model.
 *
 *   signals.c           dispositions; beginning and end
 *   signal_queue.c      pending signals: who gets one, sending, taking
 *   signal_receiver.c   the kernel thread that takes signals for fibers
 *   signal_cpu.c        who gets the signal of a timer that measures CPU time
 *   signal_calls.c      masks, waiting for a handler, alternate stacks
 *   signal_wait.c       taking a signal instead (sigwait)
 *   signal_deliver.c    running handlers, as ordinary code of a fiber
 *   signal_entry.c      the kernel's handler on carriers
 *   signal_broadcast.c  calls that every kernel thread has to make
 *
 * One lock for all of it; sections are short. Rank: below the fiber table, above
 * timers and inboxes.
 */
#pragma once
#include <errno.h>
#include <signal.h>
#include <time.h>

#include "sched_impl.h"
#include "signals.h"

#define BIT(sig) (1ull << ((sig)-1))

enum {
	KICK = 33,       /* glibc's SIGSETXID, which fibers only know virtually */
	KICK_EINTR = 32, /* glibc's SIGCANCEL, likewise; does not restart calls */
	SIGNALS = 64,
	INFO_SIZE = 128,
	DFL = 0,
	IGN = 1,
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
#ifndef __cplusplus
_Static_assert(offsetof(struct kucontext, rsp) == 160, "signal.S");
_Static_assert(offsetof(struct kucontext, sigmask) == 296, "kernel ABI");
#endif

struct sig_node {
	struct sig_node *next;
	int sig;
	bool process; /* was sent to the process, not to the thread */
	unsigned char info[INFO_SIZE] __attribute__((aligned(8)));
};

/* A fiber that waits for a signal of the process's, on its stack. All (l). */
struct sig_waiter {
	struct sig_waiter *next, **at; /* at NULL: it waits no more */
	struct fiber *fiber;
	uint64_t want;
	int sig; /* what it got */
	unsigned char info[INFO_SIZE] __attribute__((aligned(8)));
};

/* What weft_signal_trampoline works on; the ucontext must come first. */
struct async_frame {
	struct kucontext uc;
	unsigned char info[INFO_SIZE] __attribute__((aligned(8)));
	int sig; /* a synchronous signal to deliver first, or 0 */
};

/* Of the process. Key: (l) the lock, (a) atomic, (c) constant while active. */
struct signals {
	struct weft_lock lock;
	struct weft_ksigaction table[SIGNALS + 1]; /* (l) */
	uint64_t handled;                          /* (l) signals with a handler */
	struct sig_node *shared_queue; /* (l) process-directed, blocked by all */
	uint64_t shared_pending;       /* (a) */
	uint64_t blocked_by_all;       /* (a) */
	uint64_t waited_for;           /* (l) by fibers, with sigwait and its kind */
	struct carrier *receiver;      /* (c) */
	bool active;                   /* (c) */
};
extern struct signals weft_sig;

/* arch/x86_64/signal.S */
extern void weft_signal_trampoline(void);
extern const char weft_signal_again[], weft_signal_tail[], weft_signal_tail_end[];
extern const char weft_interruptible_begin[], weft_interruptible_end[],
	weft_interruptible_out[];
void weft_call_handler(void *handler, int sig, void *info, void *uc, uintptr_t stack);

/* signals.c */
bool weft_sig_ignored(int sig, uint64_t mask); /* sending it now has no effect (l) */

/* signal_queue.c */
void weft_sig_node_put(struct sig_node *n); /* (l) */
/* (l) Queues for f; -EAGAIN when there is no memory for a real-time signal. */
long weft_sig_queue(struct fiber *f, int sig, const void *info, bool process);
/* (l) Unlinks the first signal of `open` that is pending for f, or NULL. */
struct sig_node *weft_sig_take(struct fiber *f, uint64_t open);
/* WEFT_SIG_NATIVE: sent to the process, but f does not let it in. */
long weft_sig_send_fiber(struct fiber *f, int sig, const void *info, bool process);
/* Makes a parked fiber run, or a running one look. Its attention is already set. */
void weft_sig_interrupt(struct fiber *f);
/* Who gets one that is sent to the process: main, or somebody else who lets it in. */
struct fiber *weft_sig_target(int sig);
/* To whoever lets it in, main first. */
void weft_sig_send_any(int sig, const void *info);
/* At the start, and when the start failed: signals for the first thread are main's. */
void weft_sig_adopt_pending(struct fiber *f);
void weft_sig_return_pending(struct fiber *f);
void weft_sig_queue_forget(void); /* in a fork child */

/* signal_receiver.c */
int weft_sig_receiver_new(uint64_t main_mask);
int weft_sig_receiver_spawn(void);
void weft_sig_receiver_stop(void);
void weft_sig_receiver_forget(void); /* in a fork child */
/* Waits until the receiver runs with the present sets: rare, tens of microseconds. */
void weft_sig_receiver_sync(void);
/* (l) f ends and blocks everything; true when the receiver has to hear of it. */
bool weft_sig_unpublish(struct fiber *f);
/*
 * In the kernel's handler, which may have interrupted whoever holds the lock: a
 * synchronous signal that somebody sent is given to a fiber by the receiver. One of each,
 * with what came with the first, as the kernel keeps those that are pending.
 */
void weft_sig_hand_over(int sig, const void *info);

/* signal_cpu.c: on the receiver */
/*
 * Whom the kernel would ask first, because it computes; NULL: nobody does, or the signal
 * is not that of a timer that measures CPU time. It may block the signal.
 */
struct fiber *weft_sig_computing(int sig, const void *info);

/* signal_calls.c */
void weft_sig_set_mask(struct fiber *f, uint64_t mask);

/* signal_wait.c */
/* A signal of the process's that was taken ends the wait of one who wants it. */
bool weft_sig_serve_waiter(int sig, const void *info);
void weft_sig_wait_forget(void);

/* signal_deliver.c */
/* Where a handler that may use the alternate stack starts on it; 0: it does not. */
uintptr_t weft_sig_alternate_stack(
	struct fiber *f, const struct weft_ksigaction *act, uintptr_t sp);

/* signal_entry.c */
void weft_sig_first_level(int sig, siginfo_t *si, void *ctx);

/* signal_broadcast.c */
void weft_sig_join_broadcast(struct carrier *c);

/* signals.c */
void weft_sig_reset_handler(int sig);
/* Without the lock: for the kernel's handler. */
void weft_sig_read_action(int sig, struct weft_ksigaction *ret);

static inline long kernel_mask(uint64_t mask)
{
	return weft_sys4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, 8);
}

static inline long kernel_action(
	int sig, const struct weft_ksigaction *act, struct weft_ksigaction *old)
{
	return weft_sys4(SYS_rt_sigaction, sig, (long)act, (long)old, 8);
}

/*
 * A kick that is pending for a thread when it executes another program would kill that
 * one:
 *
 *     kicker                          who executes
 *     kickers + 1                     executes = 1
 *     (seq_cst)  [kick-exec]          (seq_cst)
 *     executes set? leave it          kickers? wait for them; take what is pending
 */
static inline void kick(struct carrier *c, int sig)
{
	__atomic_add_fetch(&c->kickers, 1, __ATOMIC_SEQ_CST); /* [kick-exec] */
	if (likely(!load_seq_cst(&c->executes)))
		weft_sys3(SYS_tgkill, weft_rt.pid, c->tid, sig);
	__atomic_sub_fetch(&c->kickers, 1, __ATOMIC_SEQ_CST);
}

static inline bool default_ignores(int sig)
{
	return BIT(sig) & (BIT(SIGCHLD) | BIT(SIGCONT) | BIT(SIGURG) | BIT(SIGWINCH));
}
