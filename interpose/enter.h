/*
 * enter.h - is this call ours? and the errno edge.
 *
 * The only place that touches the caller's thread control block: errno, and the
 * cancellation word that libc's pthread_cancel sets.
 */
#pragma once
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

#include "../runtime/arch/x86_64/context.h"
#include "../runtime/runtime.h"
#include "../runtime/signals.h"
#include "real.h"

/* struct pthread's offsets, from libc's own descriptors (preload/init.c). */
struct weft_libc_layout {
	uint32_t tid, cancelhandling, start_routine, sizeof_pthread;
};
extern struct weft_libc_layout weft_libc;

/* nptl/descr.h, CANCELED_BITMASK: a pthread_cancel has been decided. */
enum { WEFT_CANCELED = 8 };

static inline bool weft_cancel_pending(void)
{
	int word;

	__asm__ volatile("movl %%fs:(%1), %0"
			 : "=r"(word)
			 : "r"((uint64_t)weft_libc.cancelhandling));
	return word & WEFT_CANCELED;
}

/*
 * The fiber that calls a front-door function, or NULL: then the call is libc's
 * (not a fiber, not active, a vfork child; a fiber whose calls the kernel makes; or a
 * cancellation to act on, which libc's own code does). Until weft_leave no signal
 * redirects the fiber.
 */
static inline struct fiber *weft_enter(void)
{
	struct fiber *f = weft_enter_carried();

	if (!f || weft_cancel_pending())
		return NULL;
	weft_fiber_in_weft(f, true);
	return f;
}

/* After calls in which the kernel may have switched threads: cheaper than a fault. */
static inline void weft_fs_keep(void)
{
	if (weft_fs_is_lost())
		weft_fs_found();
}

void weft_leave_slow(struct fiber *f);
/* Back in the program's code: handlers that became due run now. */
static inline void weft_leave(struct fiber *f)
{
	weft_fs_keep();
	weft_fiber_in_weft(f, false);
	if (__builtin_expect(weft_signals_leave_due(f), 0))
		weft_leave_slow(f);
}

/* -EXXX becomes errno and -1. */
static inline long weft_errno(long r)
{
	if ((unsigned long)r > -4096ul) {
		errno = (int)-r;
		return -1;
	}
	return r;
}
