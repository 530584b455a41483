/* futex_impl.h - the wait table's inside, for futex.c and futex_pi.c. */
#pragma once
#include "futex.h"
#include "sched_impl.h"

struct futex_bucket {
	struct weft_lock lock;
	struct list waiters;
} __attribute__((aligned(64)));

struct futex_bucket *weft_futex_bucket(uintptr_t addr);
void weft_futex_lock(struct futex_bucket *b);
/* (bucket lock held) */
void weft_futex_enqueue(struct futex_bucket *b, struct futex_waiter *w);
void weft_futex_dequeue(struct futex_waiter *w);
static inline bool weft_futex_matches(
	const struct futex_waiter *w, uintptr_t addr, bool shared)
{
	return w->addr == addr && w->shared == shared && !w->pi;
}
/*
 * (bucket lock held) Dequeues w and takes the right to wake it; fibers are collected
 * on a list and unparked after the lock is dropped. False: it had given up already.
 */
bool weft_futex_take(struct futex_waiter *w, struct fiber ***tail);
void weft_futex_unpark(struct fiber *list, int n);
/* After a wait that nobody ended by a wake-up. */
void weft_futex_withdraw(struct futex_waiter *w);

/* The owner of a robust PI word is dead, and the word says so: the next one has it. */
void weft_futex_pi_died(uint32_t *word);

/* crowd.c */
/* f, the calling one, is about to wait. */
void weft_crowd_waits(struct fiber *f);
/* (bucket lock held, all the others) Is who wakes f, the calling one, to go on behind it?
 */
bool weft_crowd_gives_way(struct fiber *f);
/* The calling carrier's fiber has just begun to wait there for a mutex of libc's. */
void weft_crowd_joined(struct futex_bucket *b, const uint32_t *word);
/* As weft_futex_enqueue, of who was woken and came too late. */
void weft_crowd_enqueue_again(struct futex_bucket *b, struct futex_waiter *w);
/* libc has woken one, `first`: how many more of those who wait there have been taken. */
int weft_crowd_wake(struct futex_bucket *b, uintptr_t addr, struct fiber *first,
	struct fiber ***tail);
