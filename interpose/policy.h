/*
 * policy.h - which threads become fibers, and fork's two halves.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "dispatch.h"

/*
 * Should the thread whose control block is at `tls` be a fiber? Threads whose
 * start routine lies inside libc.so.6 itself (timer_create's SIGEV_THREAD helper,
 * aio workers, mq_notify) wait with signals and kernel thread ids of their own:
 * they stay native. So do those that a fiber with a kernel thread of its own makes: they
 * have its attributes. So do those that begin in a native library (native.h).
 */
bool weft_policy_wants_fiber(const struct fiber *creator, uintptr_t tls);
void weft_policy_set_libc_text(uintptr_t from, uintptr_t to);

/* Did the program make this call by its number, with libc's syscall(2)? */
bool weft_policy_by_number(const struct weft_call *c);
void weft_policy_set_libc_syscall(uintptr_t at);

/* fork: the child has one thread, and is an ordinary process until it makes more. */
long weft_fork(struct weft_call *c);
