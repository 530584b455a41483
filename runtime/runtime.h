/*
 * runtime.h - starting the runtime, and what the rooms above it may ask of it.
 *
 * The runtime knows no libc name and no LD_PRELOAD: a unit test links it into an
 * ordinary program and starts it by hand.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fiber.h"

#ifdef __cplusplus
extern "C" {
#endif

enum weft_engine { WEFT_ENGINE_AUTO, WEFT_ENGINE_IO_URING, WEFT_ENGINE_EPOLL };

enum weft_uring_feature_number {
#define WEFT_URING_FEATURE(name) WEFT_URING_NUMBER_##name,
#include "uring_features.def"
#undef WEFT_URING_FEATURE
};

enum weft_uring_feature {
#define WEFT_URING_FEATURE(name) WEFT_URING_##name = 1 << WEFT_URING_NUMBER_##name,
#include "uring_features.def"
#undef WEFT_URING_FEATURE
};

struct weft_config {
	unsigned carriers;     /* 0: one per CPU of the affinity mask, at least two */
	unsigned carriers_cap; /* at most so many while not all are stuck; 0: the default
				*/
	bool lend_fs; /* where the kernel has no FSGSBASE: FS base on loan (context.h) */
	bool unwatched; /* no monitor: who keeps a carrier keeps the others */
	enum weft_engine engine;
	unsigned uring_without; /* of enum weft_uring_feature */
	bool stress_migrate;
	bool stress_wouldblock;
	bool stress_shuffle;
	bool trace_pins; /* says where threads are pinned, once for each place */
	uint64_t seed;
	uintptr_t
		fs_template; /* a thread control block whose guard words carriers copy */
	uint64_t initial_mask; /* the main thread's signal mask before the start */
};

/*
 * Turns the calling kernel thread into carrier 0 and its thread into the main
 * fiber, and starts the other carriers. All or nothing: on failure (-ENOMEM,
 * -ENOSYS, -EPERM, -EMFILE, …) nothing is left and *ret_what names what failed.
 * The caller has every signal blocked, and no other thread exists.
 */
int weft_runtime_start(const struct weft_config *config, const char **ret_what);
bool weft_runtime_running(void);
/* Asks the kernel: false in other processes that share or have copied our memory. */
bool weft_runtime_is_here(void);
/* A kernel thread of weft's own for `fn`, which never returns and calls no libc. */
int weft_runtime_spawn(void (*fn)(void *));
/*
 * In a fork child: forgets every carrier, ring and fiber of the parent and turns
 * the calling fiber's thread back into an ordinary one. The runtime can be
 * started again later.
 */
void weft_runtime_forget(void);
/* Taken around fork: the child finds no lock of weft's held, and its FS base. */
void weft_runtime_lock_all(void);
void weft_runtime_unlock_all(void);

const struct weft_config *weft_runtime_config(void);
/* How many CPUs the affinity mask had at the start. */
unsigned weft_runtime_cpus(void);
/* Is `fd` one of weft's own descriptors? */
bool weft_runtime_owns_fd(int fd);
/* Gives one of weft's descriptors another number: the program wants this one. */
int weft_runtime_move_fd(int fd);
/* The lowest and highest of weft's own descriptors; false when there are none. */
bool weft_runtime_fd_range(int *ret_low, int *ret_high);

/* ---- the calling fiber, seen from the doors ------------------------------- */

/*
 * The fiber that calls, or NULL when this kernel thread is no carrier or a
 * CLONE_VM child (vfork, posix_spawn) runs in the fiber's name: then the call
 * belongs to the kernel.
 */
struct fiber *weft_enter_fiber(void);
/*
 * The GS base of a process that shares our memory and goes on beside us (clone with
 * CLONE_VM): weft_enter_fiber() is NULL there, too.
 */
uintptr_t weft_stranger(void);
/* As weft_enter_fiber, but NULL for a fiber with a kernel thread of its own (bind.h). */
struct fiber *weft_enter_carried(void);
/* The kernel learns the calling thread's FS base, if it is on loan (context.h). */
void weft_fs_settle(void);
/* Was it lost just now? Then it is written again. */
bool weft_fs_found(void);
/* The door it came through: true when vector registers are live (a site). */
void weft_fiber_set_vector_live(struct fiber *f, bool live);
/* A vfork-like clone follows: until the parent is seen again, bypass. */
void weft_fiber_expect_vm_child(struct fiber *f, bool may_outlive);
/*
 * *id, the calling fiber's in its control block, is not its own for a while: handlers
 * that run meanwhile see the one it has now. NULL: it is its own again.
 */
void weft_fiber_lent_id(struct fiber *f, int *id);
/* What the front door found out (enum weft_tried), to be taken once by the site. */
void weft_fiber_set_tried(struct fiber *f, uint8_t tried);
uint8_t weft_fiber_take_tried(struct fiber *f);
/* arch_prctl(2): by the fiber itself. */
uintptr_t weft_fiber_fs_base(const struct fiber *f);
void weft_fiber_set_fs_base(struct fiber *f, uintptr_t v);
void weft_fiber_set_robust(struct fiber *f, void *head, size_t len);
void weft_fiber_get_robust(struct fiber *f, void **ret_head, size_t *ret_len);
/* libc's pthread_create runs: the mappings it makes now are stacks of fibers. */
enum weft_creating { WEFT_CREATING_NOTHING, WEFT_CREATING_FIBER, WEFT_CREATING_NATIVE };
void weft_fiber_set_creating(struct fiber *f, enum weft_creating what);
enum weft_creating weft_fiber_creating(const struct fiber *f);
void weft_fiber_set_name(struct fiber *f, const char *name);
const char *weft_fiber_name(const struct fiber *f);
void weft_fiber_set_start(struct fiber *f, uint64_t start_routine);
/* Signals may (false) or may not (true) redirect the fiber at this instruction. */
bool weft_fiber_in_weft(struct fiber *f, bool in);

/*
 * Runs fn(arg) of the calling fiber on a helper kernel thread that may block, and
 * comes back to a carrier. Returns what fn returned. When the caller is no fiber, or is
 * pinned, or no helper can be made and another carrier is left for the others, fn runs
 * where it is and blocks that kernel thread.
 */
long weft_offload(long (*fn)(void *arg), void *arg);
/*
 * The same; where it would block the last carrier, it returns WEFT_RESTART_ALWAYS a
 * little later: the call may have become one that need not wait.
 */
long weft_offload_or_again(long (*fn)(void *arg), void *arg);
/* … and for what ends by itself: then it may as well block the last carrier. */
long weft_offload_ending(long (*fn)(void *arg), void *arg);

/*
 * The kernel thread id that stands for the calling fiber in locks that processes share,
 * or 0: its own is as good, or no kernel thread is to be had.
 */
int weft_proxy_tid(bool inherits);
/* Is there a kernel thread that the kernel takes for the owner of the fiber's locks? */
bool weft_proxy_serves(const struct fiber *f);
/* Must it be that kernel thread that waits for the word, as it would natively? */
bool weft_proxy_waits(const struct fiber *f);
/*
 * futex(2) by that kernel thread while the fiber waits; by a helper when it has none.
 * -EINTR when a signal for the fiber ended it.
 */
long weft_proxy_futex(const long args[6]);
/*
 * The main fiber's, for a lock that it holds or takes under its own id, which is that of
 * the process's first kernel thread: made there, and in place.
 */
long weft_home_futex(const long args[6]);

/* Can words shared with other processes be waited for in the ring (Linux 6.7)? */
bool weft_ring_can_futex(void);
/* … and children (Linux 6.7)? */
bool weft_ring_can_waitid(void);
/* The engine's name, and in one word why it and no other. */
const char *weft_engine_name(void);
const char *weft_engine_reason(void);

/* ---- counting ------------------------------------------------------------- */

void weft_count_native(unsigned nr);
void weft_count_mutex_contended(void);
/* What a call that may wait, and did not, leaves its caller with. */
enum weft_turn {
	WEFT_TURN_ANSWER,  /* nothing: it gave something out */
	WEFT_TURN_REQUEST, /* what it took in, or knows to be there */
	WEFT_TURN_LOCK,    /* perhaps other locks: it only woke who waited for one */
};
/* fd: whom an answer went to, or -1. */
void weft_count_first_try(enum weft_turn at, int fd);
/* A call that may wait did not: whoever goes on like that gives way now and then. */
void weft_sched_turn(enum weft_turn at, int fd);
/* sched.c: the calling fiber is about to make a call that no signal ends. */
void weft_sched_keeps_carrier(void);
/* turn.c: the calling fiber has had the kernel wake somebody that waits for a futex. */
void weft_sched_woke_outside(void);
/*
 * What other fibers of this carrier have answered is sent: the process is about to end,
 * or the calling fiber to keep the carrier. From anywhere.
 */
void weft_answers_give_here(void);
/* WEFT_STRESS=shuffle: perhaps asks the calling fiber, which begins a call, to give way.
 */
void weft_sched_stress_call(void);
/* Writes the statistics as text lines to fd. */
void weft_stats_write(int fd);

#ifdef __cplusplus
}
#endif
