/*
 * sys_uring.c - io_uring as the program uses it: a thread that waits for its own
 * ring's completions parks.
 *
 * Reached from liburing's sites and from syscall(2). A ring belongs to the process
 * but for what newer kernels tie to one kernel thread, which fibers change: that one
 * thread alone submits is not passed on, and registered ring descriptors are refused
 * as older kernels refuse them.
 */
#include <errno.h>
#include <linux/io_uring.h>
#include <poll.h>

#include "../runtime/io.h"
#include "../runtime/sys.h"
#include "dispatch.h"

/* linux/io_uring.h of newer kernels. */
enum {
	SETUP_COOP_TASKRUN = 1 << 8,
	SETUP_TASKRUN_FLAG = 1 << 9,
	SETUP_SINGLE_ISSUER = 1 << 12,
	SETUP_DEFER_TASKRUN = 1 << 13,
	SETUP_REGISTERED_FD_ONLY = 1 << 15,
	REGISTER_RING_FDS = 20,
	UNREGISTER_RING_FDS = 21,
	PARAMS_FLAGS = 2, /* the word in struct io_uring_params */
};

/*
 * One completion to wait for, which is what liburing asks for nearly always: what is
 * to be submitted is submitted, then the ring is polled like any descriptor. That it
 * comes back with readiness and not with a count is no difference: the callers of
 * io_uring_enter(2) look at their queue, also since signals may end it early.
 *
 * More completions, a time-out, a mask or SQPOLL's own waiting: a helper thread.
 */
long sys_io_uring_enter(struct weft_call *c)
{
	const unsigned simple = IORING_ENTER_GETEVENTS | IORING_ENTER_SQ_WAKEUP;
	const int fd = (int)ARG1(c);
	unsigned want = (unsigned)ARG3(c), flags = (unsigned)ARG4(c);
	struct pollfd look = {fd, POLLIN, 0};
	long submitted, r;

	if (!(flags & (IORING_ENTER_GETEVENTS | IORING_ENTER_SQ_WAIT)) || !want)
		return WEFT_RAW;
	if (want > 1 || flags & ~simple || ARG5(c))
		return weft_call_offload(c);
	submitted = weft_sys6(SYS_io_uring_enter, fd, (long)ARG2(c), 0, flags, 0, 0);
	/* Some were not taken: then the kernel does not wait either. */
	if (submitted < 0 || (unsigned)submitted != (unsigned)ARG2(c))
		return submitted;
	r = weft_io_poll(&look, 1, WEFT_NO_DEADLINE, WEFT_TRIED_NOT);
	return r == -EINTR && !submitted ? r : submitted;
}

/*
 * That one thread alone submits, and that completions are delivered when it enters:
 * both are hints to the kernel, which then holds it against the kernel thread. The
 * program's word is what it was when the call returns; without the hints all it may
 * rely on holds.
 */
static uint32_t without_hints(uint32_t flags)
{
	uint32_t less = flags & ~(uint32_t)(SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN);

	/* The kernel wants the first for the second, and one of two for the flag. */
	if (flags & SETUP_DEFER_TASKRUN && !(flags & SETUP_SINGLE_ISSUER))
		return flags;
	if (flags & SETUP_DEFER_TASKRUN && flags & SETUP_TASKRUN_FLAG)
		less |= SETUP_COOP_TASKRUN;
	return less;
}

long sys_io_uring_setup(struct weft_call *c)
{
	uint32_t *word = (uint32_t *)ARG2(c) + PARAMS_FLAGS, flags, less;
	long r;

	if (weft_load_user(word, &flags))
		return WEFT_RAW;
	if (flags & SETUP_REGISTERED_FD_ONLY)
		return -EINVAL;
	less = without_hints(flags);
	if (less == flags || weft_cas_user(word, &flags, less) != 1)
		return WEFT_RAW;
	r = weft_call_plain(c);
	weft_cas_user(word, &less, flags);
	return r;
}

long sys_io_uring_register(struct weft_call *c)
{
	unsigned op = (unsigned)ARG2(c);

	if (op == REGISTER_RING_FDS || op == UNREGISTER_RING_FDS)
		return -EINVAL;
	return WEFT_RAW;
}
