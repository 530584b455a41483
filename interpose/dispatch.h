/*
 * dispatch.h - system calls that arrive at patched sites; see dispatch.c.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "../runtime/arch/x86_64/context.h"
#include "../runtime/io.h"
#include "../runtime/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One call at a site. Handlers read the arguments from regs, never change them. */
struct weft_call {
	struct weft_regs *regs;
	struct fiber *fiber;
	uint64_t deadline; /* of a relative time-out: fixed when the call began */
	bool again;        /* the same call once more, after an interruption */
	bool once;         /* it was made, and what it says is not to be tried again */
	enum weft_tried tried; /* what the front door found out */
};

#define ARG1(c) ((c)->regs->rdi)
#define ARG2(c) ((c)->regs->rsi)
#define ARG3(c) ((c)->regs->rdx)
#define ARG4(c) ((c)->regs->r10)
#define ARG5(c) ((c)->regs->r8)
#define ARG6(c) ((c)->regs->r9)

/* The kernel makes this call itself, from the thunk. */
#define WEFT_RAW (-8192L)

/* The call as it stands, made here (not from the thunk). */
long weft_call_plain(const struct weft_call *c);
/* The same on a helper thread; a signal for the fiber ends it with -EINTR. */
long weft_call_offload(const struct weft_call *c);
/* The same for what only waits for a disk. */
long weft_call_on_disk(const struct weft_call *c);

enum weft_syscall_kind {
	WEFT_PASSES,
	WEFT_EMULATED,
	WEFT_PARKS,
	WEFT_OFFLOADED,
	WEFT_NATIVE
};
extern const uint8_t weft_syscall_class[WEFT_SYSCALL_TABLE_SIZE];
const char *weft_syscall_name(unsigned nr);

/* The fiber whose CPU time a clock measures: `self`, another, or NULL for no fiber's. */
struct fiber *weft_clock_fiber(int clock, struct fiber *self);
/* Is it the CPU time of this process? */
bool weft_clock_is_process(int clock);
/* clock_nanosleep on clocks that the ring's timers do not know. */
long weft_sleep_by_cpu(struct weft_call *c);

/* sys_bind.c: calls that make a fiber have a kernel thread of its own, or WEFT_RAW. */
long weft_setid_alone(void);
long weft_prctl_of_thread(const struct weft_call *c);

/* The open calls, of a file that is not weft's own to answer for. */
long weft_open_file(struct weft_call *c, int dir, const char *path, uint64_t flags);

/* fcntl's F_SETOWN_EX. */
long weft_set_owner(struct weft_call *c);
/* Has the program as many threads as it allowed itself (RLIMIT_NPROC)? */
bool weft_thread_limit_reached(void);

/* Called when the process is about to end through exit_group. */
extern void (*weft_at_exit_group)(void);

#define WEFT_SYSCALL(name, class, restarts, handler)                                     \
	long sys_##handler(struct weft_call *c);
#include "syscalls.def"
#undef WEFT_SYSCALL

#ifdef __cplusplus
}
#endif
