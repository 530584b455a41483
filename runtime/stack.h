/*
 * stack.h - memory for fiber stacks: slabs, guards, warm reuse.
 *
 * To libc these are the results of its own mmap, mprotect and munmap calls in
 * pthread_create; interpose/ recognises those and asks here instead.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* `clear_top`: how many bytes at the top must read as zero (libc's thread
   control block; fresh mmap memory is zero, a warm stack is not). */
void weft_stack_set_clear_top(size_t bytes);

/* A stack of `size` bytes (page multiple), readable and writable; or -ENOMEM. */
long weft_stack_map(size_t size);
/* Is [addr, addr+len) part of one slab stack? */
bool weft_stack_owns(uintptr_t addr, size_t len);
/* The first `len` bytes of the stack at `addr` become its guard; len may be 0. */
long weft_stack_guard(uintptr_t addr, size_t len);
/* Where the stack that holds addr begins, how long it is and how much of it is guard. */
bool weft_stack_bounds(
	uintptr_t addr, uintptr_t *ret_base, size_t *ret_size, size_t *ret_guard);
/* The program changed protections itself: do not reuse this stack as it is. */
void weft_stack_taint(uintptr_t addr);
/* Gives the whole stack back; true if [addr, addr+len) was exactly one. */
bool weft_stack_unmap(uintptr_t addr, size_t len);
/* libc would now drop the unused part of the stack: true if that can wait. */
bool weft_stack_skip_trim(uintptr_t addr);

struct weft_stack_stats {
	uint64_t live, warm, reserved_bytes;
};
void weft_stack_stats(struct weft_stack_stats *ret);

#ifdef __cplusplus
}
#endif
