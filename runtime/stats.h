/* stats.h - the statistics as text; see runtime.h for weft_stats_write. */
#pragma once
#include "runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Names system calls; set by interpose/, which has the table. */
extern const char *(*weft_stats_call_name)(unsigned nr);
const char *weft_reason_text(enum weft_park_reason r);

#ifdef __cplusplus
}
#endif
