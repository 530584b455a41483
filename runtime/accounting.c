/*
 * accounting.c - how much CPU time a fiber has used.
 *
 * The kernel accounts to kernel threads. Reading a clock at every switch would cost
 * more than the switch's own arithmetic (RDTSC 8 ns, CLOCK_THREAD_CPUTIME_ID 150 ns,
 * a switch 40 ns), and almost no program asks. So a fiber's time is kept two ways:
 *
 *   sampled   until somebody asks: each tick of a carrier (10 ms of its CPU time) is
 *             charged to the fiber it hits. One that computes gets all of its time,
 *             the others get theirs in the long run.
 *   accounted from the first question on: the carrier's CPU clock is read when the
 *             fiber is switched to and from. What was sampled is what it starts with.
 *
 * What the scheduler and the ring do belongs to nobody.
 *
 * Asking about a running fiber races with its end of the slice:
 *
 *     asker (first question)          carrier, after the fiber switched back
 *     accounted = 1                   accounted set? end the slice
 *     (seq_cst)  [accounted]          current = NULL
 *     current == f? begin a slice
 *
 * The carrier may have looked before, and the slice that the asker begins then has no
 * end. It counts nothing: a slice counts only while its carrier's `current` is the
 * fiber, and becoming that again begins a new one.
 */
#include "accounting.h"

#include <sys/resource.h>
#include <time.h>

#include "sched_impl.h"

enum {
	/* A thread that exists has used some: making it took that much at the least. */
	BIRTH_NS = 1000,
	/* Linux, posix-timers_types.h: CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED. */
	THREAD_CLOCK = 4 | 2,
};

uint64_t weft_cpu_clock(const struct carrier *c)
{
	struct timespec t = {0, 0};
	int clock = CLOCK_THREAD_CPUTIME_ID;

	if (c != (const struct carrier *)weft_rdgsbase())
		clock = (int)(~(unsigned)load_relaxed(&c->tid) << 3 | THREAD_CLOCK);
	weft_sys2(SYS_clock_gettime, clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void weft_cpu_reset(struct fiber *f)
{
	store_relaxed(&f->accounted, 0);
	store_relaxed(&f->cpu_sampled, BIRTH_NS);
	f->cpu_first_park = f->wake;
	f->cpu.on = NULL;
	f->cpu.sum = f->cpu.last = f->cpu.user = f->cpu.system = 0;
}

/* The program's first thread has run before it became a fiber. */
void weft_cpu_start(struct carrier *home, struct fiber *f)
{
	struct timespec t = {0, 0};

	weft_sys2(SYS_clock_gettime, CLOCK_THREAD_CPUTIME_ID, &t);
	home->cpu_sampled_at = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
	store_relaxed(&f->cpu_sampled, home->cpu_sampled_at);
}

/* In the tick's handler, on c's own kernel thread. */
void weft_cpu_sample(struct carrier *c)
{
	struct fiber *f = c->current;
	uint64_t now = weft_cpu_clock(c), used = now - c->cpu_sampled_at;

	c->cpu_sampled_at = now;
	c->cpu_sampled_switches = load_relaxed(&c->counters[WEFT_COUNTER_SWITCHES]);
	if (f && !load_relaxed(&f->accounted))
		store_relaxed(&f->cpu_sampled, f->cpu_sampled + used);
}

void weft_cpu_begin(struct carrier *c, struct fiber *f)
{
	weft_lock(&f->cpu.lock);
	f->cpu.on = c;
	f->cpu.begun = weft_cpu_clock(c);
	weft_unlock(&f->cpu.lock);
}

void weft_cpu_end(struct carrier *c, struct fiber *f)
{
	weft_lock(&f->cpu.lock);
	if (f->cpu.on == c) {
		f->cpu.sum += weft_cpu_clock(c) - f->cpu.begun;
		f->cpu.on = NULL;
	}
	weft_unlock(&f->cpu.lock);
}

/* The carrier or helper that stands on f's stack, if one does. */
static struct carrier *runs_on(struct fiber *f)
{
	struct carrier *c = load_seq_cst(&f->helper);

	if (c && load_seq_cst(&c->current) == f)
		return c;
	c = load_relaxed(&f->carrier);
	return c && load_seq_cst(&c->current) == f ? c : NULL;
}

/* (account lock) The first question: what was sampled, and exactly from here on. */
static void begin_accounting(struct fiber *f)
{
	struct carrier *c;
	uint64_t now;

	store_seq_cst(&f->accounted, 1); /* [accounted] */
	f->cpu.sum = load_relaxed(&f->cpu_sampled);
	c = runs_on(f);
	if (!c)
		return;
	now = weft_cpu_clock(c);
	/* Nobody else ran there since the last tick: all of that is its own too. */
	if (c->kind == CARRIER_FULL &&
		load_relaxed(&c->cpu_sampled_switches) ==
			load_relaxed(&c->counters[WEFT_COUNTER_SWITCHES]) &&
		now > load_relaxed(&c->cpu_sampled_at))
		f->cpu.sum += now - load_relaxed(&c->cpu_sampled_at);
	f->cpu.begun = now;
	f->cpu.on = c;
}

/* (account lock) */
static uint64_t time_of(struct fiber *f)
{
	struct cpu_account *a = &f->cpu;
	uint64_t t, now;

	if (!load_relaxed(&f->accounted))
		begin_accounting(f);
	t = a->sum;
	if (a->on && load_seq_cst(&a->on->current) == f) {
		now = weft_cpu_clock(a->on);
		if (now > a->begun)
			t += now - a->begun;
	}
	if (t < a->last)
		t = a->last;
	return a->last = t;
}

uint64_t weft_cpu_time(struct fiber *f)
{
	uint64_t t;

	weft_lock(&f->cpu.lock);
	t = time_of(f);
	weft_unlock(&f->cpu.lock);
	return t;
}

/*
 * The kernel divides a thread's time by where its ticks hit. Here that is known of the
 * carrier only, whose proportion stands for the fiber's. As there (cputime_adjust),
 * what was once reported is never taken back.
 */
void weft_cpu_usage(struct fiber *f, uint64_t *ret_user_ns, uint64_t *ret_system_ns)
{
	struct cpu_account *a = &f->cpu;
	struct rusage ru = {.ru_utime = {0, 0}};
	uint64_t total, user, system, all;

	weft_sys2(SYS_getrusage, RUSAGE_THREAD, &ru);
	user = (uint64_t)ru.ru_utime.tv_sec * 1000000 + (uint64_t)ru.ru_utime.tv_usec;
	system = (uint64_t)ru.ru_stime.tv_sec * 1000000 + (uint64_t)ru.ru_stime.tv_usec;
	all = user + system;
	weft_lock(&a->lock);
	total = time_of(f);
	/* Microseconds, and thousandths: no overflow in centuries. */
	system = all ? total / 1000 * (system * 1000 / all) : 0;
	if (system < a->system)
		system = a->system;
	if (system > total - a->user)
		system = total - a->user;
	a->system = system;
	a->user = total - system;
	*ret_user_ns = a->user;
	*ret_system_ns = a->system;
	weft_unlock(&a->lock);
}

uint64_t weft_cpu_parks(const struct fiber *f)
{
	uint32_t first = f->cpu_first_park & ~(uint32_t)WAKE_STATE;

	return (load_relaxed(&f->wake) - first) / WAKE_PARK;
}
