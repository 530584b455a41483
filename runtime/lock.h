/*
 * lock.h - weft's only lock.
 *
 * A word: 0 free, 1 held, 2 held and somebody sleeps. Sections are a few dozen
 * instructions, so a waiter spins first; when the holder's kernel thread was
 * preempted it sleeps in the kernel's futex (never in weft's own). No lock of
 * weft's is held across a park, so a holder always runs on.
 *
 * Ranks, outermost first; a lock is taken only below those already held:
 *   threads < fiber table < signals < futex bucket < timer heap < spill < stacks < idle
 *   helpers < walks
 */
#pragma once
#include "atomic.h"

#ifdef __cplusplus
extern "C" {
#endif

struct weft_lock {
	int word;
};

void weft_lock_slow(struct weft_lock *l);
void weft_unlock_slow(struct weft_lock *l);

static inline void weft_lock(struct weft_lock *l)
{
	int free = 0;

	if (unlikely(!cas_acq_rel(&l->word, &free, 1)))
		weft_lock_slow(l);
}

static inline int weft_trylock(struct weft_lock *l)
{
	int free = 0;

	return cas_acq_rel(&l->word, &free, 1);
}

static inline void weft_unlock(struct weft_lock *l)
{
	if (unlikely(xchg_acq_rel(&l->word, 0) == 2))
		weft_unlock_slow(l);
}

#ifdef __cplusplus
}
#endif
