/*
 * deadline.c - deadlines on clocks that can be set, and hearing that one was.
 *
 * Timers are kept by CLOCK_MONOTONIC (timer.c). What was asked for on another clock is
 * kept beside it: when a clock is set, each such timer is placed anew, and none fires
 * before its own clock says so. Nothing is missed: a deadline is turned into a time of
 * CLOCK_MONOTONIC with its heap locked, after weft began to listen; a clock that is set
 * after that is heard of, and whoever places timers anew takes that lock.
 *
 * A kernel thread listens, made for the first such deadline: it sleeps in a read of a
 * timerfd with TFD_TIMER_CANCEL_ON_SET, which ends when CLOCK_REALTIME was set or the
 * machine was suspended. That thread has a descriptor table of its own with nothing else
 * in it. So the descriptor has no number in the program's table that could be closed,
 * taken or inherited, and no limit of the program's matters. The signal receiver, which
 * has that table, passes on what was heard: to wake a carrier takes a descriptor.
 *
 * Rejected: the ring's timers on CLOCK_REALTIME (one per carrier, and the epoll set has
 * none); waking up now and then to compare the clocks (a process that sleeps sleeps).
 */
#include "deadline.h"

#include <errno.h>
#include <linux/close_range.h>
#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <time.h>

#include "engine.h"
#include "signals.h"

enum { LISTENER_ID = 2002 };

/* ---- one word ------------------------------------------------------------- */

static const uint64_t SECOND = 1000000000u;

/*
 * 10 and 62 bits: CLOCK_REALTIME, until 2116. 110 and 61 bits: CLOCK_BOOTTIME. 111 and 61
 * bits: CLOCK_TAI, until 2043.
 */
static const uint64_t ON_REALTIME = 2ull << 62, ON_BOOTTIME = 6ull << 61,
		      ON_TAI = 7ull << 61;
static const uint64_t REALTIME_MAX = (1ull << 62) - 1, OTHER_MAX = (1ull << 61) - 2;

static int64_t pretended; /* (a) by tests */

/* Saturating. */
static uint64_t to_ns(uint64_t sec, uint64_t ns, uint64_t max)
{
	if (sec >= max / SECOND)
		return max;
	ns += sec * SECOND;
	return ns < max ? ns : max;
}

static int64_t clock_ns(int clock)
{
	struct timespec t;

	weft_clock_get(clock, &t);
	return (int64_t)t.tv_sec * (int64_t)SECOND + t.tv_nsec + load_relaxed(&pretended);
}

int weft_deadline_clock(uint64_t deadline, uint64_t *ret_ns)
{
	if (deadline < ON_REALTIME) {
		*ret_ns = deadline;
		return CLOCK_MONOTONIC;
	}
	if (deadline < ON_BOOTTIME) {
		*ret_ns = deadline - ON_REALTIME;
		return CLOCK_REALTIME;
	}
	*ret_ns = deadline < ON_TAI ? deadline - ON_BOOTTIME : deadline - ON_TAI;
	return deadline < ON_TAI ? CLOCK_BOOTTIME : CLOCK_TAI;
}

uint64_t weft_deadline_left(uint64_t deadline)
{
	uint64_t at;
	int clock = weft_deadline_clock(deadline, &at);
	int64_t now = clock == CLOCK_MONOTONIC ? (int64_t)weft_now_ns() : clock_ns(clock);

	return (int64_t)at > now ? at - (uint64_t)now : 0;
}

uint64_t weft_deadline_monotonic(uint64_t deadline)
{
	if (!weft_deadline_moves(deadline))
		return deadline;

	/* This order: a little early is looked at again, and late would be late. */
	uint64_t now = weft_now_ns();

	return now + weft_deadline_left(deadline);
}

uint64_t weft_deadline_in(uint64_t sec, uint64_t ns)
{
	uint64_t now = weft_now_ns();

	return now + to_ns(sec, ns, WEFT_FAR_DEADLINE - now);
}

/* ---- when a clock was set ------------------------------------------------- */

static int to_tell; /* (a) the receiver is asked to */

static void tell_carriers(void)
{
	unsigned n = load_acquire(&weft_rt.carriers);

	for (unsigned i = 0; i < n; i++)
		if (weft_timers_clock_set(&weft_rt.carrier[i]->timers))
			weft_carrier_wake(weft_rt.carrier[i]);
	for (struct carrier *c = load_acquire(&weft_rt.helpers); c; c = c->all_next)
		if (c->kind == CARRIER_BOUND && weft_timers_clock_set(&c->timers))
			weft_carrier_wake(c);
}

void weft_clocks_tell(void)
{
	if (load_relaxed(&to_tell) && xchg_seq_cst(&to_tell, 0))
		tell_carriers();
}

void weft_clocks_pretend(int64_t ns, bool tell)
{
	__atomic_add_fetch(&pretended, ns, __ATOMIC_SEQ_CST);
	if (tell)
		tell_carriers();
}

/* ---- listening ------------------------------------------------------------ */

enum { DEAF, LISTENS, CANNOT };
static int listening;            /* (a) [clock-listens] */
static int listener_started;     /* (a) 1, or -errno */
static struct carrier *listener; /* (threads_lock) */

static long open_timer(void)
{
	long fd, r;

	/* Nothing of the program's table is copied, so that nothing is kept open. */
	r = weft_sys3(SYS_close_range, 0, ~0u, CLOSE_RANGE_UNSHARE);
	if (weft_sys_failed(r))
		return r;
	fd = weft_sys2(SYS_timerfd_create, CLOCK_REALTIME, TFD_CLOEXEC);
	return fd;
}

/* Never due, but ended when the clock is set. */
static long arm(long fd)
{
	const struct itimerspec never = {.it_value.tv_sec = INT64_MAX};
	long r;

	do
		r = weft_sys4(SYS_timerfd_settime, fd,
			TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, (long)&never, 0);
	while (r == -ECANCELED); /* armed, just when the clock was set */
	return r;
}

static void listener_main(void *arg)
{
	long fd = open_timer(), r = weft_sys_failed(fd) ? fd : arm(fd);
	uint64_t times;

	(void)arg;
	weft_sys2(SYS_prctl, PR_SET_NAME, "weft/clock");
	store_seq_cst(&listener_started, weft_sys_failed(r) ? (int)r : 1);
	weft_sys3(SYS_futex, (long)&listener_started, FUTEX_WAKE_PRIVATE, 1);
	while (!weft_sys_failed(r)) {
		r = weft_sys3(SYS_read, fd, (long)&times, sizeof times);
		if (r == -EINTR)
			r = 0;
		else if (r == -ECANCELED || r == sizeof times) {
			r = arm(fd);
			/* It has no descriptors to wake carriers with. */
			store_seq_cst(&to_tell, 1);
			weft_signals_rouse_receiver();
		}
	}
	/* Still a kernel thread of weft's: it takes part in changes of the user. */
	for (;;)
		weft_sys0(SYS_pause);
}

/* (threads_lock) Returns when it listens. */
static int start_listener(void)
{
	struct carrier *c = weft_carrier_new(LISTENER_ID, CARRIER_HELPER);
	int err;

	if (!c)
		return -ENOMEM;
	listener_started = 0;
	err = weft_carrier_spawn(c, listener_main);
	if (err) {
		weft_carrier_free(c);
		return err;
	}
	listener = c;
	while (!(err = load_seq_cst(&listener_started)))
		weft_sys4(SYS_futex, (long)&listener_started, FUTEX_WAIT_PRIVATE, 0, 0);
	return err > 0 ? 0 : err;
}

static void listen(void)
{
	char text[21];
	int err = 0;

	weft_lock(&weft_rt.threads_lock);
	if (load_relaxed(&listening) == DEAF) {
		err = start_listener();
		store_release(&listening, err ? CANNOT : LISTENS); /* [clock-listens] */
	}
	weft_unlock(&weft_rt.threads_lock);
	if (err)
		weft_log_parts("setting the clock will not end waits before their time: "
			       "nothing tells of it, errno ",
			weft_format_u64(text, (uint64_t)-err), NULL);
}

uint64_t weft_deadline_at(int clock, uint64_t sec, uint64_t ns)
{
	if (clock == CLOCK_MONOTONIC)
		return to_ns(sec, ns, WEFT_FAR_DEADLINE);
	if (!load_acquire(&listening) && weft_fiber_self()) /* [clock-listens] */
		listen();
	switch (clock) {
	case CLOCK_REALTIME:
		return ON_REALTIME + to_ns(sec, ns, REALTIME_MAX);
	case CLOCK_BOOTTIME:
		return ON_BOOTTIME + to_ns(sec, ns, OTHER_MAX);
	default:
		return ON_TAI + to_ns(sec, ns, OTHER_MAX);
	}
}

void weft_clocks_forget(void)
{
	listening = DEAF;
	listener = NULL;
	to_tell = 0;
}

struct carrier *weft_clocks_listener(void)
{
	return listener;
}
