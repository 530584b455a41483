/*
 * sys_timer.c - POSIX timers that meet fibers: the target of SIGEV_THREAD_ID, or a
 * clock that measures a fiber's CPU time. All others are the kernel's.
 */
#include <errno.h>
#include <signal.h>
#include <time.h>

#include "../runtime/signals.h"
#include "../runtime/sys.h"
#include "../runtime/thread_timers.h"
#include "dispatch.h"

static bool bad(uint64_t p, size_t bytes)
{
	uint32_t probe;

	return weft_load_user((const uint32_t *)p, &probe) ||
	       weft_load_user((const uint32_t *)(p + bytes - 4), &probe);
}

static long to_native(long r)
{
	return r == WEFT_TIMER_NATIVE ? WEFT_RAW : r;
}

/* Is there such a thread in this process, a fiber or not? */
static bool is_thread(int tid)
{
	return weft_fiber_by_tid(tid) ||
	       (tid > 0 && !weft_sys3(SYS_tgkill, weft_sys0(SYS_getpid), tid, 0));
}

/* Whom the timer tells, and how (Linux, good_sigevent). */
static long target_of(const struct sigevent *ev, struct weft_timer_target *ret)
{
	if (!ev) {
		*ret = (struct weft_timer_target){.notify = SIGEV_SIGNAL, .sig = SIGALRM};
		return 0;
	}
	*ret = (struct weft_timer_target){
		.notify = ev->sigev_notify,
		.sig = ev->sigev_signo,
		.own_value = true,
		.value = (uint64_t)ev->sigev_value.sival_ptr,
	};
	switch (ev->sigev_notify) {
	case SIGEV_NONE:
		return 0;
	case SIGEV_THREAD_ID:
		ret->tid = ev->_sigev_un._tid;
		if (!is_thread(ret->tid))
			return -EINVAL;
		break;
	case SIGEV_SIGNAL:
	case SIGEV_THREAD:
		ret->notify = SIGEV_SIGNAL;
		break;
	default:
		return -EINVAL;
	}
	return ret->sig > 0 && ret->sig <= 64 ? 0 : -EINVAL;
}

/* The receiver will want to know whether it tells of CPU time. */
static long native_timer(struct weft_call *c)
{
	long r = weft_call_plain(c);

	if (!r)
		weft_thread_timer_made(
			*(const int *)ARG3(c), weft_clock_is_process((int)ARG1(c)));
	return r;
}

long sys_timer_create(struct weft_call *c)
{
	const struct sigevent *ev = (const void *)ARG2(c);
	struct fiber *measured = weft_clock_fiber((int)ARG1(c), c->fiber);
	struct weft_timer_target to;
	int id;
	long r;

	if ((ev && bad(ARG2(c), sizeof *ev)) || bad(ARG3(c), sizeof id))
		return WEFT_RAW; /* the kernel says what is wrong */
	if (!measured && (!ev || ev->sigev_notify != SIGEV_THREAD_ID ||
				 !weft_fiber_by_tid(ev->_sigev_un._tid)))
		return native_timer(c);
	r = target_of(ev, &to);
	if (r)
		return r;
	r = weft_thread_timer_create((int)ARG1(c), measured, &to, &id);
	if (!r)
		*(int *)ARG3(c) = id;
	return r;
}

static bool bad_time(const struct timespec *t)
{
	return t->tv_sec < 0 || (uint64_t)t->tv_nsec >= 1000000000u;
}

long sys_timer_settime(struct weft_call *c)
{
	const struct itimerspec *set = (const void *)ARG3(c);
	struct itimerspec *old = (void *)ARG4(c);

	if (!set || bad(ARG3(c), sizeof *set) || bad_time(&set->it_value) ||
		bad_time(&set->it_interval) || (old && bad(ARG4(c), sizeof *old)))
		return WEFT_RAW;
	return to_native(weft_thread_timer_settime(
		(int)ARG1(c), ARG2(c) & TIMER_ABSTIME, set, old));
}

long sys_timer_gettime(struct weft_call *c)
{
	if (bad(ARG2(c), sizeof(struct itimerspec)))
		return WEFT_RAW;
	return to_native(weft_thread_timer_gettime((int)ARG1(c), (void *)ARG2(c)));
}

long sys_timer_getoverrun(struct weft_call *c)
{
	return to_native(weft_thread_timer_getoverrun((int)ARG1(c)));
}

long sys_timer_delete(struct weft_call *c)
{
	return to_native(weft_thread_timer_delete((int)ARG1(c)));
}
