/*
 * attributes.h - what the program set of a fiber's scheduling: policy, nice value,
 * affinity, I/O priority, timer slack.
 *
 * A fiber has the attributes of its carrier (all carriers are alike) until the program
 * gives it its own. Those are checked by the kernel, kept, read back and inherited; when
 * they differ from the carriers', the fiber is bound to a kernel thread of its own, which
 * gets them (bind.h).
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fiber.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Linux, uapi/linux/sched/types.h. */
struct weft_sched_attr {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
	uint32_t util_min, util_max;
};

enum {
	WEFT_OWN_SCHED = 1, /* policy, priority, nice value */
	WEFT_OWN_AFFINITY = 2,
	WEFT_OWN_IOPRIO = 4,
	WEFT_OWN_SLACK = 8,
};

enum { WEFT_AFFINITY_WORDS = 128 }; /* 8192 CPUs, the most that Linux can have */

/* Which of them are the fiber's own says `own`; the others are undefined. */
struct weft_attributes {
	uint32_t own;
	int32_t ioprio;
	struct weft_sched_attr sched; /* nice is right whatever the policy is */
	uint64_t slack, default_slack;
	uint32_t affinity_bytes;
	uint64_t affinity[WEFT_AFFINITY_WORDS];
};

/* At the runtime's start, on the program's first thread. */
void weft_attributes_start(void);

/* Which attributes are f's own, without their values. */
uint32_t weft_attributes_own(struct fiber *f);
bool weft_attributes_sched(struct fiber *f, struct weft_sched_attr *ret);
/* Copies at most `room` bytes, the rest of ret is left alone. */
bool weft_attributes_affinity(struct fiber *f, void *ret, size_t room);
bool weft_attributes_ioprio(struct fiber *f, int *ret);
uint64_t weft_attributes_slack(struct fiber *f);

/*
 * Makes a system call that speaks of the calling thread (an id of 0) on a thread that
 * has f's attributes. `keep`, of WEFT_OWN_…: when it succeeds, f has what that thread
 * then has. Returns what the kernel returned.
 */
long weft_attributes_ask(struct fiber *f, uint32_t keep, long nr, const long args[3]);
/* A nice value that the kernel has already agreed to. */
void weft_attributes_set_nice(struct fiber *f, int nice);
/* 0: the default one again. */
void weft_attributes_set_slack(struct fiber *f, uint64_t slack);

/* clone(2): the child has its parent's, but for SCHED_RESET_ON_FORK. */
void weft_attributes_inherit(struct fiber *child, struct fiber *parent);
/*
 * The calling kernel thread gets what is f's: it is the child of its fork, or is about
 * to execute something. `undo` when that failed.
 */
void weft_attributes_apply(struct fiber *f, bool forked);
void weft_attributes_undo_apply(struct fiber *f);
/* f's own become those of the kernel thread that is its own from now on; bind.h. */
void weft_attributes_bound(struct fiber *f);
/* Are some of `which` others than the carriers'? */
bool weft_attributes_matter(struct fiber *f, uint32_t which);
/* The same for a vfork-like child that is about to execute something. */
void weft_attributes_apply_vm_child(void);
void weft_attributes_drop(struct fiber *f);
/* Around fork. The child uses nothing that was kept before it. */
void weft_attributes_lock(void);
void weft_attributes_unlock(void);

#ifdef __cplusplus
}
#endif
