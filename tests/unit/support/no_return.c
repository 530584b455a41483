/*
 * no_return.c - the unit tests under AddressSanitizer: what it does before a call that
 * does not return.
 *
 * Its own version clears the shadow of the calling kernel thread's stack, which it asks
 * libc for through FS base. A carrier has no such thread behind its FS base, and the
 * stack of a fiber or scheduler is none that libc knows. Nothing is lost without it: the
 * calls that do not return are the scheduler's loops, which keep their frames, and a
 * fiber's exit, which every frame with red zones has left before (on_fibers.h). No test
 * throws over a frame.
 */
void __asan_handle_no_return(void);

__attribute__((visibility("default"))) void __asan_handle_no_return(void) {}
