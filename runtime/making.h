/*
 * making.h - weft makes no descriptor while the program closes numbers that it does not
 * use, and the other way round; see making.c.
 */
#pragma once
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Around close, dup2 and their kind, from the look whether a number is weft's to the end
 * of the call: weft makes no descriptors meanwhile, and lists none. False on a native
 * thread, which has only waited until none are made; then nothing is to be ended.
 */
bool weft_closing_begin(void);
/* The call itself: it may take long, and weft's work on this carrier goes on. */
long weft_closing_call(long nr, long a, long b, long c);
void weft_closing_end(void);

/* Around the making of weft's own, until they are listed. (threads_lock held) */
void weft_making_begin(void);
void weft_making_end(void);
void weft_making_forget(void); /* in a fork child */

#ifdef __cplusplus
}
#endif
