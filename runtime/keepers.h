/* keepers.h - who keeps the carriers, and where: for one line to the user. */
#pragma once
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Appends to buf, from *at on and never beyond size, what is known of a few of the
 * fibers that keep carriers: thread, how, and the innermost frames. For the monitor
 * alone, from which nothing is safe to read: it may run on meanwhile, or end.
 */
void weft_keepers_tell(char *buf, size_t size, size_t *at);
/* Appends text. */
void weft_keepers_put(char *buf, size_t size, size_t *at, const char *text);

/* A file of the kernel's on one of our threads ("/stat"), at the lowest number. Or -EXXX.
 */
long weft_keepers_open(int tid, const char *name);

struct carrier;
/*
 * What its kernel thread does: 'R' runs or would like to, 'S' waits, 'D' waits for what
 * no signal ends, a lock of the kernel's or a disk … (proc_pid_stat(5)). 0 where it is
 * not known: without /proc, or where descriptors are few (weft_carrier_watch).
 */
char weft_keepers_state(const struct carrier *c);

#ifdef __cplusplus
}
#endif
