/*
 * walk.h - the frames of a stack that nobody runs on, or of one that may change: nothing
 * that is read there is trusted to be there.
 *
 * How a call site's frame is left is asked of libweft-unwind.so once and then remembered
 * by its address, so that a walk costs a few nanoseconds a frame.
 */
#pragma once
#include <stddef.h>

#include "unwind.h"

#ifdef __cplusplus
extern "C" {
#endif

struct fiber;

/* At activation: how modules are found, and the opened libweft-unwind.so, or NULL. */
void weft_walk_set_find(weft_module_find_fn *find);
bool weft_walk_open(weft_unwind_open_fn *open);
bool weft_walk_ready(void);

/* The module that has this address; false when it is nobody's, or unknown. */
bool weft_module_of(uintptr_t address, struct weft_module *ret);
/* "libfoo.so+0x1234", or a bare address, into buf; returns buf. */
enum { WEFT_WHERE_MAX = 64 };
const char *weft_where(char buf[WEFT_WHERE_MAX], uintptr_t address);
/* The file name of a path; reads it as memory that may go away. */
void weft_module_name(char *buf, size_t size, const struct weft_module *m);

/* A fiber that left its stack: where it stopped. */
void weft_walk_begin(struct weft_unwind_frame *f, const void *sp);
/*
 * From a frame to its caller: 1; 0 when it was the outermost; negative when nobody
 * knows. *ret_mark is what `mark` said about the frame's module, asked once per pc.
 */
int weft_walk_next(struct weft_unwind_frame *f, bool *ret_mark);
/* Is this module a marked one? Set before the first walk. */
extern bool (*weft_walk_mark)(const struct weft_module *m);

/*
 * Up to `max` return addresses from `f` on: by the frames if they are known, else the
 * words of the stack that could be some. Returns how many; *ret_guessed tells which.
 */
unsigned weft_walk_collect(
	struct weft_unwind_frame f, uintptr_t *ret, unsigned max, bool *ret_guessed);

/* Code is gone from there: what was remembered may be wrong. */
void weft_walk_forget(void);

/* Around fork. */
void weft_walk_lock(void);
void weft_walk_unlock(void);

#ifdef __cplusplus
}
#endif
