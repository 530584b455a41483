/*
 * thread.c - the front door for making threads: the first of these calls in a
 * process is where weft becomes active. What follows is libc's own code, whose
 * clone3 site makes the fiber.
 */
#include <aio.h>
#include <mqueue.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <threads.h>
#include <time.h>

#include "../runtime/native.h"
#include "../runtime/runtime.h"
#include "../runtime/thread_timers.h"
#include "dispatch.h"
#include "enter.h"
#include "real.h"

struct weft_libc_layout weft_libc;

static void not_loaded_yet(void)
{
	/* Another library's constructor makes a thread before ours ran: stay native. */
}

/* Set by preload/init.c; the runtime and the doors never call upwards. */
void (*weft_activate)(void) = not_loaded_yet;

/* What a native library makes is a kernel thread, on a stack that libc maps itself. */
static enum weft_creating creating_for(uintptr_t caller)
{
	return weft_native_has(caller - 1) ? WEFT_CREATING_NATIVE : WEFT_CREATING_FIBER;
}

WEFT_EXPORT int pthread_create(pthread_t *restrict thread,
	const pthread_attr_t *restrict attr, void *(*start)(void *), void *restrict arg)
{
	struct fiber *f;
	int r;

	weft_activate();
	f = weft_enter_fiber();
	if (!f)
		return WEFT_REAL(pthread_create)(thread, attr, start, arg);
	weft_fiber_set_creating(f, creating_for((uintptr_t)__builtin_return_address(0)));
	r = WEFT_REAL(pthread_create)(thread, attr, start, arg);
	weft_fiber_set_creating(f, WEFT_CREATING_NOTHING);
	return r;
}

WEFT_EXPORT int thrd_create(thrd_t *thread, thrd_start_t start, void *arg)
{
	struct fiber *f;
	int r;

	weft_activate();
	f = weft_enter_fiber();
	if (!f)
		return WEFT_REAL(thrd_create)(thread, start, arg);
	weft_fiber_set_creating(f, creating_for((uintptr_t)__builtin_return_address(0)));
	r = WEFT_REAL(thrd_create)(thread, start, arg);
	weft_fiber_set_creating(f, WEFT_CREATING_NOTHING);
	return r;
}

/*
 * These make threads inside libc, which stay native (policy.c); but once one of
 * them runs, libc's text can no longer be patched safely, so weft starts first.
 */
WEFT_EXPORT int timer_create(
	clockid_t clock, struct sigevent *restrict ev, timer_t *restrict timer)
{
	bool threaded = ev && ev->sigev_notify == SIGEV_THREAD;
	int r;

	if (threaded)
		weft_activate();
	r = WEFT_REAL(timer_create)(clock, ev, timer);
	/* From then on it is seen at the back door; libc's handle is the kernel's id. */
	if (!r && !threaded && !weft_runtime_running())
		weft_thread_timer_made(
			(int)(intptr_t)*timer, weft_clock_is_process(clock));
	return r;
}

WEFT_EXPORT int mq_notify(mqd_t queue, const struct sigevent *ev)
{
	if (ev && ev->sigev_notify == SIGEV_THREAD)
		weft_activate();
	return WEFT_REAL(mq_notify)(queue, ev);
}

WEFT_EXPORT int aio_read(struct aiocb *cb)
{
	weft_activate();
	return WEFT_REAL(aio_read)(cb);
}

WEFT_EXPORT int aio_write(struct aiocb *cb)
{
	weft_activate();
	return WEFT_REAL(aio_write)(cb);
}

WEFT_EXPORT int aio_fsync(int op, struct aiocb *cb)
{
	weft_activate();
	return WEFT_REAL(aio_fsync)(op, cb);
}

WEFT_EXPORT int lio_listio(
	int mode, struct aiocb *const list[restrict], int n, struct sigevent *restrict ev)
{
	weft_activate();
	return WEFT_REAL(lio_listio)(mode, list, n, ev);
}

WEFT_EXPORT int getaddrinfo_a(
	int mode, struct gaicb *list[restrict], int n, struct sigevent *restrict ev)
{
	weft_activate();
	return WEFT_REAL(getaddrinfo_a)(mode, list, n, ev);
}
