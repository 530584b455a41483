/* native_library.h - see native_library.c. */
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

int native_kernel_thread(void);
/* Call back; false when that came back on another kernel thread. */
bool native_call(void (*fn)(void *), void *arg);
bool native_call_deep(void (*fn)(void *), void *arg, int depth);
/* Make a thread: one that begins in the library, one that begins at fn. */
int native_thread(pthread_t *ret, void (*fn)(void *), void *arg);
int native_thread_for(pthread_t *ret, void *(*fn)(void *), void *arg);
/* A thread's first function: stores its kernel thread's id. */
void *native_start(void *arg);
