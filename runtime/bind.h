/*
 * bind.h - fibers with a kernel thread of their own, for life.
 *
 * What the kernel keeps per kernel thread (scheduling, credentials, filters, namespaces)
 * belongs to one fiber alone once that fiber has changed it: no other fiber may run under
 * it, and this one nowhere else.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "fiber.h"

#ifdef __cplusplus
extern "C" {
#endif

enum weft_bind_reason {
#define WEFT_BIND(id, text) WEFT_BIND_##id,
#include "bind_reasons.def"
#undef WEFT_BIND
	WEFT_BIND_REASONS,
};

/*
 * The calling fiber gets its kernel thread: the process's first one for the main fiber,
 * a new one for others. Comes back on it: 0, or -EAGAIN when there is no thread to be
 * had and nothing has changed. A bound fiber stays as it is.
 */
int weft_fiber_bind(enum weft_bind_reason why);
/*
 * The main fiber goes on, on the process's first kernel thread. False: that one is stuck
 * with another fiber.
 */
bool weft_fiber_go_home(void);
/* Another fiber: it binds itself as soon as it runs and is not inside weft. */
void weft_fiber_bind_soon(struct fiber *f, enum weft_bind_reason why);
/* Of the calling fiber: what somebody asked for by weft_fiber_bind_soon. */
void weft_fiber_bind_if_due(void);

bool weft_fiber_is_bound(const struct fiber *f);
/* The id of a bound fiber's kernel thread when that has its attributes; else 0. */
int weft_fiber_kernel_tid(const struct fiber *f);

/* For the statistics: how many were bound for that reason. */
uint64_t weft_bound_count(enum weft_bind_reason why);
const char *weft_bind_reason_text(enum weft_bind_reason why);

#ifdef __cplusplus
}
#endif
