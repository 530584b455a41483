/* pin.h - fibers that must not change their kernel thread. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { WEFT_PIN_SLOTS = 6 }; /* under 10 us, 100 us, 1 ms, 10 ms, 100 ms, and longer */

struct weft_pin_site {
	uintptr_t address; /* (a) who asked; 0: more sites than the table has room for */
	uint64_t count;    /* (a) */
	uint64_t total_ns; /* (a) of those that ended */
	uint64_t duration[WEFT_PIN_SLOTS]; /* (a) */
};

/*
 * The calling fiber stays on its kernel thread until it has been unpinned as often as
 * pinned. `address` says for whom. Unpinning what is not pinned is false and one line.
 */
void weft_fiber_pin(uintptr_t address);
bool weft_fiber_unpin(void);

/* For the statistics: the first used site from number i on, NULL behind the last. */
const struct weft_pin_site *weft_pin_site(unsigned i);
unsigned weft_pin_site_next(const struct weft_pin_site *s);

#ifdef __cplusplus
}
#endif
