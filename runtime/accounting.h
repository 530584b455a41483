/*
 * accounting.h - the CPU time of fibers; see accounting.c for how exact it is.
 */
#pragma once
#include <stdint.h>

#include "fiber.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Nanoseconds that `f` has run; never less than at the last call. */
uint64_t weft_cpu_time(struct fiber *f);
/* The same in two parts, neither of which ever shrinks. */
void weft_cpu_usage(struct fiber *f, uint64_t *ret_user_ns, uint64_t *ret_system_ns);
/* How often `f` has stopped to wait or to let others run. */
uint64_t weft_cpu_parks(const struct fiber *f);

#ifdef __cplusplus
}
#endif
