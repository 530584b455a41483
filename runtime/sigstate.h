/*
 * sigstate.h - the signal state of one fiber: what the kernel keeps per thread.
 *
 * Masks and private pending sets are virtual. The kernel masks of carriers block
 * every application signal; what arrives is queued here and taken by the fiber
 * itself at the next safe point (signals.h has the rules).
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sig_node;

struct sigstate {
	uint64_t mask;      /* (o) blocked; bit n-1 is signal n */
	uint64_t published; /* (signal lock) `mask` as the receiver knows it */
	uint64_t pending;   /* (signal lock) signals in `queue` */
	struct sig_node *queue, **queue_tail; /* (signal lock) FIFO */
	uint64_t saved_mask; /* (o) to restore after sigsuspend, ppoll, … */
	bool has_saved;      /* (o) */
	uintptr_t alt_sp;    /* (o) sigaltstack */
	uint64_t alt_size;
	int alt_flags;
};

#ifdef __cplusplus
}
#endif
