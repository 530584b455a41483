/*
 * mutex.c - the front door for mutexes: what libc cannot know.
 *
 * The objects, their layouts and every rule stay libc's; its own code runs, and
 * parks in weft's futex. Counting contention is a look at the lock word before.
 *
 * A mutex that processes share and that is robust or inherits priorities is owned by
 * kernel thread id. Around libc's code for such a one the thread's id in its control
 * block, from which libc takes the owner, is that of the fiber's proxy (proxy.c).
 * What else the fiber holds does not see it, nor do signal handlers during a wait.
 */
#include <linux/futex.h>
#include <pthread.h>

#include "../runtime/arch/x86_64/context.h"
#include "enter.h"
#include "real.h"

/* nptl/pthreadP.h: bits of __kind. Robust ones count as shared whatever they are. */
enum { ROBUST = 16, INHERIT = 32, SHARED = 128 };

static inline void count(const pthread_mutex_t *m)
{
	if (__builtin_expect(
		    __atomic_load_n(&m->__data.__lock, __ATOMIC_RELAXED) != 0, 0))
		weft_count_mutex_contended();
}

struct disguise {
	struct fiber *f;
	int *tid; /* in the thread control block; NULL: as it is */
	int own;
};

/*
 * Held under its own id: the first thread's, from before there were fibers, or one that
 * was locked when no proxy was to be had.
 */
static bool held_as_itself(const pthread_mutex_t *m, int own)
{
	int word = __atomic_load_n(&m->__data.__lock, __ATOMIC_RELAXED);

	return (word & FUTEX_TID_MASK) == own;
}

static __attribute__((noinline)) struct disguise put_on(const pthread_mutex_t *m)
{
	struct disguise d = {NULL, NULL, 0};
	struct fiber *f = weft_enter_fiber(); /* also in a cancelled thread's clean-up */
	int tid, *own = (int *)(weft_rdfsbase() + weft_libc.tid);

	if (!f || !weft_libc.tid || held_as_itself(m, *own))
		return d;
	weft_fiber_in_weft(f, true);
	tid = weft_proxy_tid(
		__atomic_load_n(&m->__data.__kind, __ATOMIC_RELAXED) & INHERIT);
	weft_leave(f);
	if (tid) {
		d.f = f;
		d.tid = own;
		d.own = *own;
		weft_fiber_lent_id(f, own);
		__atomic_store_n(own, tid, __ATOMIC_RELAXED);
	}
	return d;
}

static inline void take_off(struct disguise *d)
{
	if (__builtin_expect(d->tid == NULL, 1))
		return;
	__atomic_store_n(d->tid, d->own, __ATOMIC_RELAXED);
	weft_fiber_lent_id(d->f, NULL);
}

static inline struct disguise for_mutex(const pthread_mutex_t *m)
{
	int kind = __atomic_load_n(&m->__data.__kind, __ATOMIC_RELAXED);

	if (__builtin_expect(kind & SHARED && kind & (ROBUST | INHERIT), 0))
		return put_on(m);
	return (struct disguise){NULL, NULL, 0};
}

WEFT_EXPORT int pthread_mutex_lock(pthread_mutex_t *m)
{
	struct disguise d = for_mutex(m);
	int r;

	count(m);
	r = WEFT_REAL(pthread_mutex_lock)(m);
	take_off(&d);
	return r;
}

WEFT_EXPORT int pthread_mutex_trylock(pthread_mutex_t *m)
{
	struct disguise d = for_mutex(m);
	int r = WEFT_REAL(pthread_mutex_trylock)(m);

	take_off(&d);
	return r;
}

WEFT_EXPORT int pthread_mutex_timedlock(pthread_mutex_t *m, const struct timespec *t)
{
	struct disguise d = for_mutex(m);
	int r;

	count(m);
	r = WEFT_REAL(pthread_mutex_timedlock)(m, t);
	take_off(&d);
	return r;
}

WEFT_EXPORT int pthread_mutex_clocklock(
	pthread_mutex_t *m, clockid_t clock, const struct timespec *t)
{
	struct disguise d = for_mutex(m);
	int r;

	count(m);
	r = WEFT_REAL(pthread_mutex_clocklock)(m, clock, t);
	take_off(&d);
	return r;
}

WEFT_EXPORT int pthread_mutex_unlock(pthread_mutex_t *m)
{
	struct disguise d = for_mutex(m);
	int r = WEFT_REAL(pthread_mutex_unlock)(m);

	take_off(&d);
	return r;
}

WEFT_EXPORT int pthread_mutex_consistent(pthread_mutex_t *m)
{
	struct disguise d = for_mutex(m);
	int r = WEFT_REAL(pthread_mutex_consistent)(m);

	take_off(&d);
	return r;
}

/*
 * A wait gives the mutex back and takes it again. Programs from before 2003 have other
 * condition variables, for which libc keeps functions of the same names with an older
 * version: these two must not reach them, so the exports have the newer one.
 */
#define EXPORT_2_3_2(name)                                                               \
	__attribute__((symver(#name "@@GLIBC_2.3.2"), visibility("default")))

int weft_cond_wait(pthread_cond_t *c, pthread_mutex_t *m);
int weft_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *t);

/* libc's, of the time before compilers knew clean-ups: run when a cancellation unwinds.
 */
struct _pthread_cleanup_buffer;
extern void _pthread_cleanup_push(
	struct _pthread_cleanup_buffer *b, void (*fn)(void *), void *arg);
extern void _pthread_cleanup_pop(struct _pthread_cleanup_buffer *b, int execute);

static void taken_off(void *disguise)
{
	take_off(disguise);
}

static __attribute__((noinline)) int wait_disguised(struct disguise *d, pthread_cond_t *c,
	pthread_mutex_t *m, clockid_t clock, const struct timespec *t)
{
	struct _pthread_cleanup_buffer b;
	int r;

	_pthread_cleanup_push(&b, taken_off, d);
	if (!t)
		r = WEFT_REAL(pthread_cond_wait)(c, m);
	else if (clock < 0)
		r = WEFT_REAL(pthread_cond_timedwait)(c, m, t);
	else
		r = WEFT_REAL(pthread_cond_clockwait)(c, m, clock, t);
	_pthread_cleanup_pop(&b, 1);
	return r;
}

EXPORT_2_3_2(pthread_cond_wait) int weft_cond_wait(pthread_cond_t *c, pthread_mutex_t *m)
{
	struct disguise d = for_mutex(m);

	if (__builtin_expect(d.tid != NULL, 0))
		return wait_disguised(&d, c, m, -1, NULL);
	return WEFT_REAL(pthread_cond_wait)(c, m);
}

EXPORT_2_3_2(pthread_cond_timedwait)
int weft_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *t)
{
	struct disguise d = for_mutex(m);

	if (__builtin_expect(d.tid != NULL, 0))
		return wait_disguised(&d, c, m, -1, t);
	return WEFT_REAL(pthread_cond_timedwait)(c, m, t);
}

WEFT_EXPORT int pthread_cond_clockwait(
	pthread_cond_t *c, pthread_mutex_t *m, clockid_t clock, const struct timespec *t)
{
	struct disguise d = for_mutex(m);

	if (__builtin_expect(d.tid != NULL, 0))
		return wait_disguised(&d, c, m, clock, t);
	return WEFT_REAL(pthread_cond_clockwait)(c, m, clock, t);
}
