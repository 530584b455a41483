/*
 * fiber.h - a fiber: one pthread of the program, as weft runs it.
 *
 * A fiber has a stack, an FS base (the thread control block that libc made for
 * it), a thread id that no kernel thread has, and runs on whichever carrier
 * takes it. This header is what the rooms above the runtime may know of one.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fiber;
struct carrier;
struct weft_regs;

enum weft_park_reason {
#define WEFT_REASON(id, text) WEFT_REASON_##id,
#include "park_reasons.def"
#undef WEFT_REASON
	WEFT_REASONS,
};

/* How a park ended. */
enum weft_wake {
	WEFT_WAKE_NONE,      /* parked, waiting to be claimed */
	WEFT_WAKE_DONE,      /* what it waited for happened */
	WEFT_WAKE_TIMEOUT,   /* the deadline passed first */
	WEFT_WAKE_INTERRUPT, /* a signal wants the fiber */
	WEFT_WAKE_MOVED,     /* nothing yet: to be waited for on another carrier */
	WEFT_WAKE_BUSY = 7,  /* running, or not to be claimed */
};

/* Virtual thread ids: above any kernel pid, below FUTEX_TID_MASK, and small
   enough that glibc's encoding of per-thread CPU clocks stays reversible. */
#define WEFT_TID_MIN (1 << 22)
#define WEFT_TID_MAX ((1 << 28) - 1)

#define WEFT_NO_DEADLINE UINT64_MAX

/* ---- a life --------------------------------------------------------------- */

/*
 * Makes a fiber that will call fn(arg) on the given stack; it is not started.
 * Returns NULL when no memory is left. For the runtime's own use and tests.
 */
struct fiber *weft_fiber_new(
	void *stack_top, uintptr_t fs_base, void (*fn)(void *), void *arg);
/* The same as the child of clone/clone3: starts from `regs` with rax = 0. */
struct fiber *weft_fiber_new_clone(
	void *stack_top, uintptr_t fs_base, const struct weft_regs *regs);
/* Makes it runnable, on the calling carrier. From then on do not touch it. */
void weft_fiber_start(struct fiber *f);
/*
 * Ends the calling fiber. On the scheduler's stack and FS base every reference
 * to it is dropped, then *clear_tid becomes 0, then one shared futex waiter
 * there is woken (CLONE_CHILD_CLEARTID, clone(2)). After the store the fiber's
 * stack and thread control block may be gone.
 */
void weft_fiber_exit(void) __attribute__((noreturn));

/* The fiber that runs here, NULL on kernel threads that are not carriers. */
struct fiber *weft_fiber_self(void);
int weft_fiber_tid(const struct fiber *f);
/* The live fiber with this id, or NULL. It may end any time after. */
struct fiber *weft_fiber_by_tid(int tid);
/* How many there are now, the main one among them. */
uint32_t weft_fibers_alive(void);
struct fiber *weft_fiber_main(void);
void weft_fiber_set_clear_tid(struct fiber *f, int *word);
/* set_tid_address(2): by the fiber itself, to any word, also a bad one. */
void weft_fiber_move_clear_tid(struct fiber *f, int *word);
int *weft_fiber_clear_tid(const struct fiber *f);

/* ---- stopping and going on ------------------------------------------------ */

/*
 * The only way to stop. `commit` runs on the carrier after the fiber has left
 * its stack: it makes the fiber findable for whoever wakes it, and may return
 * false to say that there is nothing to wait for. From the moment it is findable
 * the fiber may already run elsewhere. Returns how the wait ended; the carrier
 * may be another one afterwards.
 */
enum weft_wake weft_park(enum weft_park_reason reason,
	bool (*commit)(struct fiber *f, void *arg), void *arg);
/*
 * Inside commit: from here on the fiber can be claimed. It must be findable (on
 * its list) before, and must not be touched after, except:
 *   SELF   a signal wants it: undo, return false; the park ends as INTERRUPT
 *   TAKEN  somebody claimed it meanwhile: return true
 */
enum weft_park_state { WEFT_PARK_OPEN, WEFT_PARK_SELF, WEFT_PARK_TAKEN };
enum weft_park_state weft_park_open(struct fiber *f);
/*
 * Takes the right to wake a parked fiber; true for exactly one caller per park.
 * The winner must call weft_unpark (and must not touch the fiber after).
 */
bool weft_claim(struct fiber *f, enum weft_wake how);
/* Makes a claimed fiber runnable. May be called from any kernel thread. */
void weft_unpark(struct fiber *f);
/*
 * The same for a list, linked by qnext, that was woken at once. They run before those who
 * are in the queue of the caller's carrier, if there is room for n: all of them, or else
 * they would change their order.
 */
void weft_unpark_woken(struct fiber *list, unsigned n);
/* Lets the others run first. */
void weft_yield(void);
/*
 * A call that does not wait found nothing. Once in a turn is a look; twice is a loop
 * that waits for somebody, and others get the carrier.
 */
void weft_looked_in_vain(void);
/* Deadlines are times of CLOCK_MONOTONIC in ns, or of other clocks: deadline.h. */
enum weft_wake weft_sleep_until(uint64_t deadline_ns);

/* Inside commit: wake the fiber with WEFT_WAKE_TIMEOUT at deadline_ns. */
void weft_timer_arm(struct fiber *f, uint64_t deadline_ns);
/* After the park: forget the timer if it did not fire. */
void weft_timer_disarm(struct fiber *f);

#ifdef __cplusplus
}
#endif
