/*
 * thread_timers.h - POSIX timers that the kernel cannot make because it does not know
 * fibers: those that signal one fiber, and those that measure a fiber's CPU time. Of the
 * others it knows which ones measure the process's.
 *
 * Functions that stand for system calls return what the kernel returns.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "fiber.h"

#ifdef __cplusplus
extern "C" {
#endif

struct itimerspec;

struct weft_timer_target {
	int notify; /* SIGEV_NONE, SIGEV_SIGNAL, SIGEV_THREAD_ID */
	int sig;
	int tid;        /* with SIGEV_THREAD_ID: a fiber's, or a kernel thread's */
	bool own_value; /* false: the timer's id (timer_create with NULL) */
	uint64_t value;
};

/* `measured`: the fiber whose CPU time is the clock; NULL: the kernel's `clock`. */
long weft_thread_timer_create(int clock, struct fiber *measured,
	const struct weft_timer_target *target, int *ret_id);

/* The kernel has made timer `id` for the program; on the CPU time of this process? */
void weft_thread_timer_made(int id, bool of_process);
/* Whose CPU time a timer measures: a fiber's id, the process's, or 0. */
#define WEFT_TIMER_PROCESS (-1)
int weft_thread_timer_measures(int id);

/* The rest of a timer's life; WEFT_TIMER_NATIVE: it is the kernel's own. */
#define WEFT_TIMER_NATIVE (-4097)
long weft_thread_timer_settime(
	int id, bool absolute, const struct itimerspec *set, struct itimerspec *ret_old);
long weft_thread_timer_gettime(int id, struct itimerspec *ret);
long weft_thread_timer_getoverrun(int id);
long weft_thread_timer_delete(int id);

/* signals.c: the receiver got a signal of one of these timers. */
void weft_thread_timer_fired(uint64_t ticket, int overrun);
/* signals.c, under its lock: a fiber takes the signal of any timer. */
void weft_thread_timer_taken(int id, int overrun);

/* Around fork, and in the child, which inherits no timer. */
void weft_thread_timers_lock(void);
void weft_thread_timers_unlock(void);
void weft_thread_timers_forget(void);

#ifdef __cplusplus
}
#endif
