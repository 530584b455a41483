/*
 * thread_timers.c - see thread_timers.h.
 *
 * Behind each is a timer of the kernel's that signals weft's receiver, with a ticket in
 * place of the program's value. The receiver sends the program's signal on: to a fiber
 * by way of its pending set, to a kernel thread or the process by the kernel's.
 *
 * One that measures a fiber's CPU time uses the kernel's as an alarm clock: the fiber
 * cannot have computed for longer than time has passed. When the alarm goes off early,
 * it is set again; for a fiber that has not run meanwhile, at growing distances. Such a
 * timer is late by LOOK_MIN_NS at most for a fiber that computes, by LOOK_MAX_NS for one
 * that begins to.
 */
#include "thread_timers.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>

#include "accounting.h"
#include "sched_impl.h"
#include "signals.h"

enum {
	LOOK_MIN_NS = 1000000,
	LOOK_MAX_NS = 50000000,
	BUCKETS = 256,
	CHUNK = 512, /* timers made at once */
	CHUNKS = 64,
	NATIVE_MAX = 4096,    /* before the first thread nobody sees them deleted */
	CARRIES_TICKETS = 32, /* the signal that the receiver always waits for */
};

struct timer {
	struct timer *next; /* in its bucket, or free */
	uint32_t index;
	uint32_t generation; /* tells tickets of earlier timers */
	int id;              /* the kernel's; -1: free */
	int overrun;         /* of the signal taken last */
	struct weft_timer_target target;
	int measured;     /* the fiber's id, or 0: the clock is the kernel's */
	bool native;      /* all of it is: on the process's CPU time, which is noted */
	uint64_t expires; /* in CPU time; 0: not armed */
	uint64_t interval;
	uint64_t looked, distance; /* what the clock said last, and when to look again */
};

static struct weft_lock lock; /* below the signal lock, above accounts */
static struct timer *bucket[BUCKETS];
static struct timer *free_timers;
static struct timer *chunks[CHUNKS];
static unsigned chunk_count;
static unsigned native_count;

static struct timer **bucket_of(int id)
{
	return &bucket[(unsigned)id % BUCKETS];
}

/* (lock held) */
static struct timer *find(int id)
{
	struct timer *t = *bucket_of(id);

	while (t && t->id != id)
		t = t->next;
	return t;
}

/* (lock held) */
static struct timer *by_ticket(uint64_t ticket)
{
	uint32_t index = (uint32_t)(ticket >> 32);
	struct timer *t;

	if (index / CHUNK >= chunk_count)
		return NULL;
	t = &chunks[index / CHUNK][index % CHUNK];
	return t->id >= 0 && t->generation == (uint32_t)ticket ? t : NULL;
}

/* (lock held) */
static struct timer *take_free(void)
{
	struct timer *t = free_timers;

	if (!t && chunk_count < CHUNKS) {
		long p = weft_sys_map(sizeof *t * CHUNK, PROT_READ | PROT_WRITE, 0);

		if (weft_sys_failed(p))
			return NULL;
		t = (struct timer *)p;
		chunks[chunk_count] = t;
		for (unsigned i = CHUNK; i--;) {
			t[i].index = chunk_count * CHUNK + i;
			t[i].id = -1;
			t[i].next = free_timers;
			free_timers = &t[i];
		}
		chunk_count++;
		t = free_timers;
	}
	if (t)
		free_timers = t->next;
	return t;
}

/* (lock held) */
static void give_back(struct timer *t)
{
	native_count -= t->native;
	t->native = false;
	t->id = -1;
	t->generation++;
	t->next = free_timers;
	free_timers = t;
}

/* (lock held) */
static void keep(struct timer *t, int id)
{
	t->id = id;
	t->next = *bucket_of(id);
	*bucket_of(id) = t;
}

/* (lock held) */
static void drop(struct timer *t)
{
	struct timer **at = bucket_of(t->id);

	while (*at != t)
		at = &(*at)->next;
	*at = t->next;
	give_back(t);
}

static uint64_t ns_of(const struct timespec *t)
{
	return (uint64_t)t->tv_sec * 1000000000u + (uint64_t)t->tv_nsec;
}

static void time_of(uint64_t ns, struct timespec *ret)
{
	ret->tv_sec = (time_t)(ns / 1000000000u);
	ret->tv_nsec = (long)(ns % 1000000000u);
}

/* (lock held) The alarm that makes the receiver look, or none. */
static long set_alarm(const struct timer *t, uint64_t ns)
{
	struct itimerspec in = {.it_value = {0, 0}};

	time_of(ns, &in.it_value);
	return weft_sys4(SYS_timer_settime, t->id, 0, (long)&in, 0);
}

/* (lock held) The measured fiber's clock; false when it has ended. */
static bool measure(const struct timer *t, uint64_t *ret)
{
	struct fiber *f = weft_fiber_by_tid(t->measured);

	if (f)
		*ret = weft_cpu_time(f);
	return f != NULL;
}

/* (lock held) */
static void look_again(struct timer *t, uint64_t now)
{
	uint64_t ns = t->expires > now ? t->expires - now : 1;

	if (now != t->looked)
		t->distance = LOOK_MIN_NS;
	else if (t->distance < LOOK_MAX_NS)
		t->distance *= 2;
	t->looked = now;
	set_alarm(t, t->expires > now && ns < t->distance ? t->distance : ns);
}

/* ---- the calls ------------------------------------------------------------ */

long weft_thread_timer_create(int clock, struct fiber *measured,
	const struct weft_timer_target *target, int *ret_id)
{
	struct sigevent ev = {
		.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = CARRIES_TICKETS};
	struct timer *t;
	uint64_t ticket;
	int id;
	long r;

	weft_lock(&lock);
	t = take_free();
	if (!t) {
		weft_unlock(&lock);
		return -EAGAIN;
	}
	ticket = (uint64_t)t->index << 32 | t->generation;
	ev.sigev_value.sival_ptr = (void *)ticket;
	ev._sigev_un._tid = weft_signals_receiver_tid();
	r = weft_sys3(SYS_timer_create, measured ? CLOCK_MONOTONIC : clock, (long)&ev,
		(long)&id);
	if (r) {
		give_back(t);
		weft_unlock(&lock);
		return r;
	}
	t->overrun = 0;
	t->target = *target;
	if (!target->own_value)
		t->target.value = (uint64_t)id;
	t->measured = measured ? weft_fiber_tid(measured) : 0;
	t->expires = t->interval = t->looked = t->distance = 0;
	keep(t, id);
	weft_unlock(&lock);
	*ret_id = id;
	return 0;
}

void weft_thread_timer_made(int id, bool of_process)
{
	struct timer *t;

	weft_lock(&lock);
	/* Deleted before the first thread, or a parent's that had none. */
	t = find(id);
	if (t)
		drop(t);
	t = of_process && native_count < NATIVE_MAX ? take_free() : NULL;
	if (t) {
		native_count++;
		t->native = true;
		t->measured = 0;
		keep(t, id);
	}
	weft_unlock(&lock);
}

int weft_thread_timer_measures(int id)
{
	int measured = 0;
	struct timer *t;

	weft_lock(&lock);
	t = find(id);
	if (t)
		measured = t->native ? WEFT_TIMER_PROCESS : t->measured;
	weft_unlock(&lock);
	return measured;
}

/* (lock held) */
static void tell(const struct timer *t, struct itimerspec *ret)
{
	uint64_t now;

	time_of(t->interval, &ret->it_interval);
	if (!t->expires || !measure(t, &now))
		time_of(0, &ret->it_value);
	else
		time_of(t->expires > now ? t->expires - now : 1, &ret->it_value);
}

long weft_thread_timer_settime(
	int id, bool absolute, const struct itimerspec *set, struct itimerspec *ret_old)
{
	uint64_t value = ns_of(&set->it_value), now;
	struct timer *t;
	long r = 0;

	weft_lock(&lock);
	t = find(id);
	if (!t || !t->measured) {
		r = WEFT_TIMER_NATIVE;
		goto out;
	}
	if (ret_old)
		tell(t, ret_old);
	t->interval = ns_of(&set->it_interval);
	t->expires = 0;
	if (!measure(t, &now)) {
		r = -ESRCH; /* as the kernel says of a thread that has ended */
	} else if (value) {
		t->expires = absolute ? value : now + value;
		t->looked = now + 1; /* nearest distance first */
		look_again(t, now);
	} else {
		set_alarm(t, 0);
	}
out:
	weft_unlock(&lock);
	return r;
}

long weft_thread_timer_gettime(int id, struct itimerspec *ret)
{
	struct timer *t;
	long r = WEFT_TIMER_NATIVE;

	weft_lock(&lock);
	t = find(id);
	if (t && t->measured) {
		tell(t, ret);
		r = 0;
	}
	weft_unlock(&lock);
	return r;
}

long weft_thread_timer_getoverrun(int id)
{
	struct timer *t;
	long r;

	weft_lock(&lock);
	t = find(id);
	r = t && !t->native ? t->overrun : WEFT_TIMER_NATIVE;
	weft_unlock(&lock);
	return r;
}

long weft_thread_timer_delete(int id)
{
	struct timer *t;
	long r = WEFT_TIMER_NATIVE;

	weft_lock(&lock);
	t = find(id);
	if (t) {
		r = weft_sys1(SYS_timer_delete, id);
		drop(t);
	}
	weft_unlock(&lock);
	return r;
}

/* ---- signals -------------------------------------------------------------- */

/* (lock held) Is the time up? Counts the periods that passed beyond the first. */
static bool is_up(struct timer *t, int *overrun)
{
	uint64_t now, more = 0;

	if (!t->expires || !measure(t, &now))
		return false;
	if (now < t->expires) {
		look_again(t, now);
		return false;
	}
	if (t->interval) {
		more = (now - t->expires) / t->interval;
		t->expires += (more + 1) * t->interval;
		look_again(t, now);
	} else {
		t->expires = 0;
	}
	*overrun = more < INT_MAX ? (int)more : INT_MAX;
	return true;
}

static void send(const struct weft_timer_target *to, int id, int overrun)
{
	union {
		siginfo_t si;
		unsigned char bytes[128];
	} u;

	weft_memset(&u, 0, sizeof u);
	u.si.si_signo = to->sig;
	u.si.si_code = SI_TIMER;
	u.si.si_timerid = id;
	u.si.si_overrun = overrun;
	u.si.si_value.sival_ptr = (void *)to->value;
	if (to->notify == SIGEV_SIGNAL) {
		weft_sys3(SYS_rt_sigqueueinfo, weft_rt.pid, to->sig, (long)&u);
		return;
	}
	if (weft_sig_send_thread(to->tid, to->sig, &u) == WEFT_SIG_NATIVE)
		weft_sys4(SYS_rt_tgsigqueueinfo, weft_rt.pid, to->tid, to->sig, (long)&u);
}

void weft_thread_timer_fired(uint64_t ticket, int overrun)
{
	struct weft_timer_target to = {.notify = SIGEV_NONE};
	struct timer *t;
	int id = 0;

	weft_lock(&lock);
	t = by_ticket(ticket);
	if (t && (!t->measured || is_up(t, &overrun))) {
		to = t->target;
		id = t->id;
	}
	weft_unlock(&lock);
	if (to.notify != SIGEV_NONE)
		send(&to, id, overrun);
}

void weft_thread_timer_taken(int id, int overrun)
{
	struct timer *t;

	if (!load_relaxed(&chunk_count))
		return;
	weft_lock(&lock);
	t = find(id);
	if (t)
		t->overrun = overrun;
	weft_unlock(&lock);
}

void weft_thread_timers_lock(void)
{
	weft_lock(&lock);
}

void weft_thread_timers_unlock(void)
{
	weft_unlock(&lock);
}

void weft_thread_timers_forget(void)
{
	for (unsigned i = 0; i < BUCKETS; i++) {
		struct timer *t = bucket[i], *next;

		bucket[i] = NULL;
		for (; t; t = next) {
			next = t->next;
			give_back(t);
		}
	}
}
