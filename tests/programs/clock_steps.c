/*
 * The clock is set, by a fraction of a second and back again, while threads wait until a
 * time that it shows: every kind of wait ends when the clock shows it.
 *
 * All of the machine notices. So it is skipped unless TESTS_MAY_SET_CLOCK is in the
 * environment and CAP_SYS_TIME is there; without the clock tests/unit/deadline_test.cc
 * shows the same.
 */
#include "prog.h"

#include <linux/futex.h>
#include <mqueue.h>
#include <semaphore.h>
#include <sys/syscall.h>

enum { KINDS = 13, STEP_MS = 400, WAIT_MS = 500 };

static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER, inherits;
static pthread_rwlock_t written = PTHREAD_RWLOCK_INITIALIZER;
static pthread_t never_ends;
static sem_t empty;
static mqd_t queue;
static pthread_barrier_t begin;
static struct timespec at; /* of CLOCK_REALTIME */

static int wait_cond(
	pthread_condattr_t *attr, int (*lock_cond)(pthread_cond_t *, pthread_mutex_t *))
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t cond;
	int err;

	ZERO(pthread_cond_init(&cond, attr));
	ZERO(pthread_mutex_lock(&lock));
	while (!(err = lock_cond(&cond, &lock)))
		;
	ZERO(pthread_mutex_unlock(&lock));
	ZERO(pthread_cond_destroy(&cond));
	return err;
}

static int timedwait(pthread_cond_t *c, pthread_mutex_t *m)
{
	return pthread_cond_timedwait(c, m, &at);
}

static int clockwait(pthread_cond_t *c, pthread_mutex_t *m)
{
	return pthread_cond_clockwait(c, m, CLOCK_REALTIME, &at);
}

static int error_of(long r)
{
	return r < 0 ? errno : 0;
}

static int wait_one(int kind)
{
	static int word;
	char text[64];

	switch (kind) {
	case 0:
		return wait_cond(NULL, timedwait);
	case 1:
		return wait_cond(NULL, clockwait);
	case 2:
		return pthread_mutex_timedlock(&held, &at);
	case 3:
		return pthread_rwlock_timedrdlock(&written, &at);
	case 4:
		return error_of(sem_timedwait(&empty, &at));
	case 5:
		return error_of(sem_clockwait(&empty, CLOCK_REALTIME, &at));
	case 6:
		return clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &at, NULL);
	case 7:
		return error_of(mq_timedreceive(queue, text, sizeof text, NULL, &at));
	case 8:
		return error_of(syscall(SYS_futex, &word,
			FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, &at, NULL,
			FUTEX_BITSET_MATCH_ANY));
	case 9:
		return error_of(syscall(SYS_futex, &word,
			FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME | FUTEX_PRIVATE_FLAG, 0,
			&at, NULL, FUTEX_BITSET_MATCH_ANY));
	case 10:
		return pthread_timedjoin_np(never_ends, NULL, &at);
	case 11:
		return pthread_mutex_clocklock(&held, CLOCK_REALTIME, &at);
	default:
		return pthread_mutex_timedlock(&inherits, &at);
	}
}

static struct {
	int error;
	bool early;
	uint64_t waited_ms; /* as no clock shows that can be set */
} result[KINDS];

static void *waits(void *arg)
{
	int kind = (int)(intptr_t)arg;
	uint64_t begun, deadline;

	pthread_barrier_wait(&begin);
	begun = now_ns(CLOCK_MONOTONIC);
	deadline = (uint64_t)at.tv_sec * 1000 * MS + (uint64_t)at.tv_nsec;
	result[kind].error = wait_one(kind);
	result[kind].early = now_ns(CLOCK_REALTIME) < deadline;
	result[kind].waited_ms = (now_ns(CLOCK_MONOTONIC) - begun) / MS;
	return NULL;
}

static void *sleeps(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static int step(int64_t ms)
{
	struct timespec t =
		to_timespec(now_ns(CLOCK_REALTIME) + (uint64_t)(ms * 1000000));

	return clock_settime(CLOCK_REALTIME, &t);
}

/* They all wait WAIT_MS by the clock, which is set soon after they began. */
static void waits_while_set(const char *what, int64_t ms)
{
	pthread_t thread[KINDS];
	uint64_t least = UINT64_MAX, most = 0;

	at = to_timespec(now_ns(CLOCK_REALTIME) + WAIT_MS * MS);
	for (int i = 0; i < KINDS; i++)
		thread[i] = start(waits, (void *)(intptr_t)i);
	pthread_barrier_wait(&begin);
	usleep(50000);
	OK(step(ms));
	for (int i = 0; i < KINDS; i++) {
		finish(thread[i]);
		say("%s, %d: %s, early %d", what, i, err_name(result[i].error),
			result[i].early);
		least = result[i].waited_ms < least ? result[i].waited_ms : least;
		most = result[i].waited_ms > most ? result[i].waited_ms : most;
	}
	OK(step(-ms));
	/* Forward: not as long as without the step. Backward: longer. */
	if (ms > 0)
		say("%s: %s", what, most < WAIT_MS - 50 ? "sooner" : "late");
	else
		say("%s: %s", what, least > WAIT_MS + 50 ? "later" : "too soon");
}

int main(void)
{
	pthread_mutexattr_t inherit;
	struct mq_attr attr = {.mq_maxmsg = 1, .mq_msgsize = 64};
	char name[64];

	if (!getenv("TESTS_MAY_SET_CLOCK") || (step(0) < 0 && errno == EPERM)) {
		say_to(2, "skipped: the clock may not be set");
		return 77;
	}
	snprintf(name, sizeof name, "/weft-clock-steps-%d", (int)getpid());
	queue = OK(mq_open(name, O_RDONLY | O_CREAT, 0600, &attr));
	OK(mq_unlink(name));
	OK(sem_init(&empty, 0, 0));
	ZERO(pthread_mutexattr_init(&inherit));
	ZERO(pthread_mutexattr_setprotocol(&inherit, PTHREAD_PRIO_INHERIT));
	ZERO(pthread_mutex_init(&inherits, &inherit));
	ZERO(pthread_mutex_lock(&inherits));
	ZERO(pthread_mutex_lock(&held));
	ZERO(pthread_rwlock_wrlock(&written));
	ZERO(pthread_barrier_init(&begin, NULL, KINDS + 1));
	never_ends = start(sleeps, NULL);
	waits_while_set("forward", STEP_MS);
	waits_while_set("backward", -STEP_MS);
	return 0;
}
