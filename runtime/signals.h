/*
 * signals.h - signals for fibers: virtual masks, dispositions and pending sets.
 *
 * What the kernel keeps per thread is kept per fiber here. Carriers block every
 * signal but the synchronous ones and weft's own kick. One kernel thread, the
 * receiver, takes the process-directed signals that some fiber lets in and hands
 * them to a fiber, main first as the kernel would; those of timers that measure CPU time
 * to one that computes. Signals that every fiber blocks stay pending in the kernel, where
 * sigwait, signalfd and exec find them. SIG_DFL and SIG_IGN are real kernel dispositions.
 *
 * A handler is ordinary code of the fiber, on the fiber's own (or alternate)
 * stack: it may park, migrate, longjmp, throw.
 *
 * Functions that stand for system calls return what the kernel returns.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fiber.h"
#include "sys.h"

#ifdef __cplusplus
extern "C" {
#endif

struct weft_regs;
struct timespec;

/* ---- life ----------------------------------------------------------------- */

int weft_signals_start(void);
void weft_signals_stop(void);
/* In a fork child: real dispositions, mask and alternate stack of fiber f again. */
void weft_signals_forget(void);
/* The kernel thread that takes signals for fibers. */
int weft_signals_receiver_tid(void);
/* Lets it look whether there is anything else to do (weft_clocks_tell). */
void weft_signals_rouse_receiver(void);
void weft_signals_lock(void);
void weft_signals_unlock(void);
void weft_signals_enter_thread(struct carrier *c);
void weft_signals_new_thread(struct carrier *c); /* (threads lock held) */
/* A new fiber: everything blocked, nothing pending, no alternate stack. */
void weft_signals_reset(struct fiber *f);
/* Its end: what was pending for the process goes to another fiber. */
void weft_signals_drop(struct fiber *f);
/* Before a park: what the fiber's mask changed for the receiver. */
void weft_signals_publish(struct fiber *f);
void weft_signals_inherit(struct fiber *child, const struct fiber *parent);

/* ---- the system calls ----------------------------------------------------- */

long weft_sig_action(int sig, const struct weft_ksigaction *act,
	struct weft_ksigaction *old, size_t size);
long weft_sig_procmask(int how, const uint64_t *set, uint64_t *old, size_t size);
long weft_sig_pending(uint64_t *set, size_t size);
long weft_sig_suspend(const uint64_t *mask, size_t size);
long weft_sig_pause(void);
long weft_sig_timedwait(
	const uint64_t *set, void *info, const struct timespec *timeout, size_t size);
long weft_sig_altstack(const void *ss, void *old, uintptr_t sp);
/* tgkill, tkill, rt_tgsigqueueinfo; WEFT_SIG_NATIVE: the tid is no fiber's. */
#define WEFT_SIG_NATIVE (-4097)
long weft_sig_send_thread(int tid, int sig, const void *info);
/* kill and rt_sigqueueinfo to this very process, by its id or that of a fiber. */
long weft_sig_send_process(int id, int sig, const void *info);

/* The program makes a signalfd, which must see signals for fibers. */
void weft_signals_expect_signalfd(void);

/* ---- temporary masks: ppoll, pselect, epoll_pwait ------------------------- */

/* Swaps the mask in until the next handler ran or weft_sig_mask_end. */
void weft_sig_mask_begin(uint64_t mask);
void weft_sig_mask_end(void);

/* ---- delivery ------------------------------------------------------------- */

enum weft_delivered {
	WEFT_DELIVERED_NONE,    /* no handler ran */
	WEFT_DELIVERED_RESTART, /* the first handler has SA_RESTART */
	WEFT_DELIVERED_EINTR,   /* … or has not */
};
/* Makes f look what is to be done when it leaves weft, and stop waiting for it. */
void weft_signals_nudge(struct fiber *f);
/* Something may be deliverable to the calling fiber. */
bool weft_signals_attention(const struct fiber *f);
/* … or it is asked to give way: weft_signals_deliver does what there is to do. */
bool weft_signals_leave_due(const struct fiber *f);
/* Runs the handlers of what is deliverable; regs may be NULL (front door). */
enum weft_delivered weft_signals_deliver(struct weft_regs *regs);

/* EPIPE of a call whose kernel half had MSG_NOSIGNAL: the fiber's own SIGPIPE. */
void weft_signals_raise_pipe(void);
/* Takes the SIGPIPE that the kernel left pending on this carrier. */
void weft_signals_drain_pipe(void);
/*
 * -EFBIG: the kernel has sent SIGXFSZ to this kernel thread, where it is blocked;
 * it becomes the fiber's. Returns r.
 */
long weft_signals_after_write(long r);

/*
 * A system call that a signal for the fiber interrupts (-EINTR), also when it
 * arrives just before: for calls that block a helper.
 */
long weft_sys_interruptible(const int *attention, long nr, const long args[6]);
const int *weft_signals_attention_word(const struct fiber *f);

/* This kernel thread lets no signal in; and what carriers let in again. */
void weft_signals_block(void);
void weft_signals_unblock(void);
/*
 * … and what the calling fiber lets in: what it executes inherits that.
 * weft_signals_unblock() when exec failed.
 */
void weft_signals_before_exec(void);
/*
 * Before that: no kick of weft's may be pending for the new program. Leaves every signal
 * blocked. `resume` when exec failed.
 */
void weft_signals_stop_kicks(void);
void weft_signals_resume_kicks(void);
uint64_t weft_signals_mask(const struct fiber *f);

/*
 * Makes a system call here and, when it succeeded, on every other kernel thread of
 * weft's: credentials are the kernel thread's. Returns what the first call returned.
 */
long weft_signals_on_all_threads(long nr, const long args[3]);

#ifdef __cplusplus
}
#endif
