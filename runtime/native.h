/*
 * native.h - libraries whose code must not see its kernel thread change.
 *
 * A thread that parks with a frame of such a library on its stack is pinned for that
 * park; threads that such a library makes, or whose first function lies in one, are
 * kernel threads.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "unwind.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { WEFT_NATIVE_MAX = 32 };

/* "libfoo.so,libbar.so.2", which stays where it is; NULL: none but the built-in ones. */
void weft_native_set(const char *names);
/* How many names there are, and the i-th; the user's come first. */
unsigned weft_native_count(bool users_only);
void weft_native_name(char *buf, unsigned size, unsigned i);
/* Which name a file's stands for, or -1. */
int weft_native_match(const char *file);
/* Has a library of that name been met? */
bool weft_native_met(unsigned i);

/* Does this address lie in such a library? Any kernel thread may ask. */
bool weft_native_has(uintptr_t address);
/* There is one, or something is being loaded: until then nothing is asked. */
void weft_native_expect(void);

/* From here on the stacks of parking fibers are looked at: the unwinder is there. */
void weft_native_watch(void);

#ifdef __cplusplus
}
#endif
