/*
 * atomic.h - atomics with their order in the name, on plain objects.
 *
 * Both ends of a pair carry the same [label] in a comment, so that one grep
 * shows the pair.
 */
#pragma once

#define load_relaxed(p)         __atomic_load_n(p, __ATOMIC_RELAXED)
#define load_acquire(p)         __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define load_seq_cst(p)         __atomic_load_n(p, __ATOMIC_SEQ_CST)
#define store_relaxed(p, v)     __atomic_store_n(p, v, __ATOMIC_RELAXED)
#define store_release(p, v)     __atomic_store_n(p, v, __ATOMIC_RELEASE)
#define store_seq_cst(p, v)     __atomic_store_n(p, v, __ATOMIC_SEQ_CST)
#define xchg_acq_rel(p, v)      __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL)
#define xchg_seq_cst(p, v)      __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST)
#define fetch_add_relaxed(p, v) __atomic_fetch_add(p, v, __ATOMIC_RELAXED)
#define fetch_add_acq_rel(p, v) __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL)
#define fetch_or_seq_cst(p, v)  __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST)
#define fetch_and_seq_cst(p, v) __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST)
#define fence_seq_cst()         __atomic_thread_fence(__ATOMIC_SEQ_CST)

/* Compare and swap; *expected is overwritten on failure. */
#define cas_acq_rel(p, expected, desired)                                                \
	__atomic_compare_exchange_n(                                                     \
		p, expected, desired, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
#define cas_seq_cst(p, expected, desired)                                                \
	__atomic_compare_exchange_n(                                                     \
		p, expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)

/*
 * A counter that only its owner writes and anybody may read: no lock prefix,
 * no torn reads.
 */
#define counter_inc(p)    __atomic_store_n(p, *(p) + 1, __ATOMIC_RELAXED)
#define counter_add(p, v) __atomic_store_n(p, *(p) + (v), __ATOMIC_RELAXED)

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
