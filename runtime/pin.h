/* pin.h - fibers that must not change their kernel thread. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { WEFT_PIN_SLOTS = 6 }; /* under 10 us, 100 us, 1 ms, 10 ms, 100 ms, and longer */

enum weft_pin_reason {
#define WEFT_PIN_REASON(id, text) WEFT_PIN_##id,
#include "pin_reasons.def"
#undef WEFT_PIN_REASON
	WEFT_PIN_REASONS
};
const char *weft_pin_reason_text(enum weft_pin_reason why);

struct weft_pin_site {
	uint64_t key;      /* (a) who asked, and why; 0: sites beyond the table's end */
	uint64_t count;    /* (a) */
	uint64_t total_ns; /* (a) of those that ended */
	uint64_t duration[WEFT_PIN_SLOTS]; /* (a) */
	char where[64];                    /* (a) in its module, "" until it is known */
};
uintptr_t weft_pin_site_address(const struct weft_pin_site *s);
enum weft_pin_reason weft_pin_site_reason(const struct weft_pin_site *s);

/*
 * The calling fiber stays on its kernel thread until it has been unpinned as often as
 * pinned. `address` says for whom, or at which lock. Unpinning what is not pinned is
 * false and one line.
 */
void weft_fiber_pin(enum weft_pin_reason why, uintptr_t address);
bool weft_fiber_unpin(void);

/* For the statistics: the first used site from number i on, NULL behind the last. */
const struct weft_pin_site *weft_pin_site(unsigned i);
unsigned weft_pin_site_next(const struct weft_pin_site *s);

#ifdef __cplusplus
}
#endif
