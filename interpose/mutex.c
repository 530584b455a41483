/*
 * mutex.c - the front door for mutexes: what libc cannot know.
 *
 * The objects, their layouts and every rule stay libc's; its own code runs, and
 * parks in weft's futex. Counting contention is a look at the lock word before.
 */
#include <pthread.h>

#include "enter.h"
#include "real.h"

static inline void count(const pthread_mutex_t *m)
{
	if (__builtin_expect(
		    __atomic_load_n(&m->__data.__lock, __ATOMIC_RELAXED) != 0, 0))
		weft_count_mutex_contended();
}

WEFT_EXPORT int pthread_mutex_lock(pthread_mutex_t *m)
{
	count(m);
	return WEFT_REAL(pthread_mutex_lock)(m);
}

WEFT_EXPORT int pthread_mutex_trylock(pthread_mutex_t *m)
{
	return WEFT_REAL(pthread_mutex_trylock)(m);
}

WEFT_EXPORT int pthread_mutex_timedlock(pthread_mutex_t *m, const struct timespec *t)
{
	count(m);
	return WEFT_REAL(pthread_mutex_timedlock)(m, t);
}

WEFT_EXPORT int pthread_mutex_clocklock(
	pthread_mutex_t *m, clockid_t clock, const struct timespec *t)
{
	count(m);
	return WEFT_REAL(pthread_mutex_clocklock)(m, clock, t);
}

WEFT_EXPORT int pthread_mutex_unlock(pthread_mutex_t *m)
{
	return WEFT_REAL(pthread_mutex_unlock)(m);
}
