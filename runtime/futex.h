/*
 * futex.h - the futex system call in user space, for fibers and kernel threads.
 *
 * One table for everybody: a fiber parks, a kernel thread that is no carrier
 * sleeps on a word of its waiter, and each wakes the other. The contract is
 * futex(2)'s; results are -EXXX.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * FUTEX_WAIT_BITSET. `shared` is the absence of FUTEX_PRIVATE_FLAG and part of
 * the key, as in the kernel. 0, -EAGAIN, -ETIMEDOUT, -EINTR, -EFAULT.
 */
long weft_futex_wait(
	uint32_t *word, uint32_t val, uint32_t bitset, bool shared, uint64_t deadline_ns);
/* FUTEX_WAKE_BITSET: how many were woken. */
long weft_futex_wake(void *word, int max, uint32_t bitset, bool shared);
/*
 * FUTEX_WAKE of one on a private word by libc, which neither counts whom it wakes nor
 * minds a wake-up for nothing: where a crowd waits for a mutex, more are woken. 0 or 1.
 */
long weft_futex_wake_one(void *word);
/* FUTEX_REQUEUE, or FUTEX_CMP_REQUEUE when val is given (-EAGAIN if it differs). */
long weft_futex_requeue(uint32_t *word, int wake, int move, uint32_t *to,
	const uint32_t *val, bool shared);
/* FUTEX_WAKE_OP. */
long weft_futex_wake_op(
	uint32_t *word, int wake, uint32_t *word2, int wake2, uint32_t op, bool shared);
/* FUTEX_LOCK_PI, FUTEX_TRYLOCK_PI and FUTEX_UNLOCK_PI, without the priorities. */
long weft_futex_lock_pi(uint32_t *word, uint64_t deadline_ns);
long weft_futex_trylock_pi(uint32_t *word);
long weft_futex_unlock_pi(uint32_t *word);

/*
 * A deadline as FUTEX_WAIT_BITSET takes it: the time in *room, its clock as a flag of
 * *op; NULL for WEFT_NO_DEADLINE.
 */
const struct timespec *weft_futex_timeout(
	uint64_t deadline_ns, long *op, struct timespec *room);

/* What the kernel does to a dead thread's robust list (kernel/futex/core.c,
 * exit_robust_list). */
void weft_futex_walk_robust(void *head, size_t len, int tid);
/* The same for every fiber: the process is about to end. */
void weft_futex_walk_all_robust(void);
/* Is its owner, who registered that list, in the middle of locking a robust mutex? */
bool weft_futex_locks_robust(const void *head, size_t len);

#ifdef __cplusplus
}
#endif
