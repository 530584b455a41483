/*
 * deadline.h - until when a wait lasts, in one word.
 *
 * A time of CLOCK_MONOTONIC in ns is itself. One of a clock that can be set says so in
 * its highest bits: the wait ends when that clock shows that time, however often it is
 * set meanwhile. WEFT_NO_DEADLINE is none.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "fiber.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Further away than anybody waits (292 years). */
#define WEFT_FAR_DEADLINE (UINT64_MAX >> 1)

/*
 * CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_TAI or CLOCK_BOOTTIME shows `sec` and `ns`. For
 * a fiber: from now on weft hears when a clock is set.
 */
uint64_t weft_deadline_at(int clock, uint64_t sec, uint64_t ns);
/* So long from now, on CLOCK_MONOTONIC. */
uint64_t weft_deadline_in(uint64_t sec, uint64_t ns);

/* Does it move when a clock is set? */
static inline bool weft_deadline_moves(uint64_t deadline)
{
	return deadline > WEFT_FAR_DEADLINE && deadline != WEFT_NO_DEADLINE;
}

/* How long it takes from now, 0 when it is over. Not for WEFT_NO_DEADLINE. */
uint64_t weft_deadline_left(uint64_t deadline);
/* When that is on CLOCK_MONOTONIC, if no clock is set until then. */
uint64_t weft_deadline_monotonic(uint64_t deadline);
/* The clock that it is a time of; the time itself in *ret_ns. */
int weft_deadline_clock(uint64_t deadline, uint64_t *ret_ns);

/* On a kernel thread of weft's that has the program's descriptors: passes on what the
 * listener heard, if anything. */
void weft_clocks_tell(void);
/* In a fork child: nobody listens to the clocks any more. */
void weft_clocks_forget(void);
/*
 * For tests: in weft's eyes all clocks that can be set go forward by `ns`, or backward;
 * with `tell`, what happens when the kernel says so happens now.
 */
void weft_clocks_pretend(int64_t ns, bool tell);

#ifdef __cplusplus
}
#endif
