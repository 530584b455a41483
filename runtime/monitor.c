/*
 * monitor.c - whoever keeps a carrier does not keep the others.
 *
 * A fiber may compute, or block in something that weft does not see: a system call
 * instruction of its own, an ioctl, a page fault that somebody serves slowly. Its carrier
 * is then stuck, with the fibers that are ready there, that sleep there and whose
 * transfers are in its ring. One kernel thread looks every 10 ms whether each carrier has
 * switched fibers since the last look; the second time it has not, it counts as stuck:
 *
 *   - nothing is given to it any more (ODD_STUCK), and carriers that are free take its
 *     queue, inbox and timers (take_over, balance.c);
 *   - its ring answers to its own kernel thread alone: a kick makes that thread, between
 *     two instructions of the fiber, end all operations there; the fibers begin them anew
 *     on the carriers that run them next. That happens once per episode, so a call that
 *     a handler ends (poll, nanosleep, by instructions of the program's own) is disturbed
 *     once, and only if somebody waited there, but for pauses beside others (hogs.c);
 *   - when nobody is free, another carrier is woken from the pool or made. The kernel
 *     shares the CPUs among them, as it does with threads: that is preemption, and with
 *     every fiber stuck it is one thread per fiber, which is what the program asked for.
 *
 * When a stuck carrier comes back there is one too many; the youngest goes to the pool
 * after a while. It does not exit (see carrier.c).
 *
 * Fibers that compute for milliseconds, each not for long enough to be stuck, keep who
 * waits in their carrier's ring just as often as they run: while there are such, it
 * glances at them every millisecond. A carrier that has used the CPU for one fiber since
 * the last glance, and has not seen that others are ready, is kicked to look. It keeps
 * what waits there; who was ready is taken by those that are free, or by one more.
 * (pigz -p2 | md5sum: its writer waits for the pipe in the ring of a carrier that
 * compresses a block for 3 ms. 1.0 to 1.75 times as long as natively without this.) And
 * one carrier is kept free of them (express.c).
 *
 * The monitor sleeps when nothing can go wrong: every carrier is asleep, or stuck with
 * nothing left that waits for it.
 *
 *     monitor                         carrier                    poster
 *     asleep = 1                      sleeping = 0               push onto stuck's inbox
 *     (seq_cst)  [monitor-sleep]      (seq_cst)                  (seq_cst) [stuck-post]
 *     all asleep or empty? sleep      monitor asleep? wake it    stuck? monitor asleep?
 *
 * Rejected: a timer signal per carrier (it ends system calls that must not be ended, and
 * never comes while the carrier is blocked); watching CPU clocks or /proc (a carrier that
 * the kernel does not let run keeps its fibers just as well; leaving such a one alone for
 * 50 ms changes neither MariaDB's transactions nor their 99th percentile).
 */
#include <errno.h>
#include <linux/futex.h>
#include <sys/prctl.h>
#include <time.h>

#include "engine.h"
#include "keepers.h"

enum {
	TICK_NS = 10000000,
	GLANCE_NS = 1000000,
	COMPUTED_NS = 2000000, /* by a stuck one that the kernel does let run */
	SLOW_SWITCHES = 32,    /* in a tick, of a carrier whose fibers compute */
	COMPANY_TICKS = 100,   /* after it was wanted beside those */
	VAIN_MOST = 2, /* … without a find, each makes the next glances half as many */
	QUIET_TICKS = 10,     /* with nothing to watch before the monitor sleeps */
	SURPLUS_TICKS = 10,   /* with a carrier too many before one goes */
	BUSY_TICKS = 10,      /* beside hogs, without a pause, before one comes */
	BURST_TICKS = 3,      /* without a newcomer that got stuck before that is over */
	RETIRING_SHARE = 8,   /* of a surplus: one in so many goes at once */
	HOGS_LOOKED_AT = 256, /* stuck ones whose CPU clock is read; each a system call */
	TWO_SLICES_NS = 5000000,
	ASKED_AFTER = 8, /* of many stuck ones, at each tick, whether they compute */
	EXEC_NS = 1000000000,
	MONITOR_ID = 2001,
};

int weft_monitor_asleep; /* (a) */
static struct carrier *monitor;
static int quit;                       /* (a) */
static int asked;                      /* (a) some carrier has wake_due */
static unsigned quiet, surplus;        /* ticks in a row */
static unsigned beside = 1, busy;      /* beside a hog for each CPU; ticks towards more */
static unsigned burst, calm;           /* ticks with and without one that got stuck */
static bool found;                     /* by a glance since the last tick */
static unsigned vain;                  /* ticks in a row without */
static unsigned company_ticks;         /* left for one beside those that compute */
static bool said_cap[2], said_failure; /* once per process */
static unsigned failures;              /* in a row, to make a kernel thread */
static int failed_to_begin;            /* one that was made, by this error; or 0 */

struct look {
	unsigned running, stuck, held, sleeping;
	unsigned coming; /* those that the kernel has not run yet */
	unsigned fresh;  /* of the stuck ones, those that were not the last time */
	unsigned hogs;   /* of the stuck ones, those that compute */
	unsigned asked;  /* … whose state was read to tell that */
	unsigned busy;   /* of the running ones, those with more to do than one */
	unsigned queued; /* lengths of the stuck ones' queues */
	unsigned ready;  /* … and of the running ones' */
	unsigned wanted; /* running and sleeping ones there should be */
	bool waiting;    /* somebody waits for a stuck carrier */
	bool slow;       /* … or for one whose fibers compute, if each not for long */
	bool quiet;      /* nothing can become wrong without somebody waking us */
};
static struct look last; /* of the last tick; `slow`: glances till the next one */

/* ---- looking -------------------------------------------------------------- */

/*
 * [odd-stuck] The carrier takes the bit away when a fiber leaves its stack, under the
 * same lock; still there, no fiber has, since the last look 10 ms ago. The counter tells
 * that none has begun either.
 */
static bool has_got_stuck(struct carrier *c)
{
	bool stuck;

	weft_lock(&c->timers.lock);
	stuck = load_relaxed(&c->odd) & ODD_WATCHED && load_relaxed(&c->current) &&
		c->seen_switches == load_relaxed(&c->counters[WEFT_COUNTER_SWITCHES]);
	if (stuck) {
		c->stuck_since = weft_now_ns() - TICK_NS;
		fetch_or_seq_cst(&c->odd, ODD_STUCK);
	}
	weft_unlock(&c->timers.lock);
	if (stuck) {
		c->hog = false;
		c->stuck_cpu = weft_cpu_clock(c);
		weft_count(monitor, STUCK);
	}
	return stuck;
}

/*
 * It uses the CPU, and does not wait for something that weft does not see. One of many
 * has only a small part of it: it has had two slices, and wants more.
 */
static bool is_hog(const struct carrier *c, unsigned *asked)
{
	uint64_t stuck = weft_now_ns() - c->stuck_since;
	uint64_t had = weft_cpu_clock(c) - c->stuck_cpu;

	if (had * 8 > stuck)
		return true;
	return had >= TWO_SLICES_NS && (*asked)++ < ASKED_AFTER &&
	       weft_keepers_state(c) == 'R';
}

static void look_at_stuck(struct carrier *c, struct look *l)
{
	l->stuck++;
	c->hog = l->stuck <= HOGS_LOOKED_AT &&
		 ((c->hog && weft_hogs_by_turns()) || is_hog(c, &l->asked));
	if (c->hog) {
		l->hogs++;
		weft_express_saw(c);
	}
	l->queued += weft_sched_queued(c);
	if (!weft_sched_has_work(c))
		return;
	l->waiting = true;
	if (weft_engine_waits(c) || load_seq_cst(&c->sig_inbox)) {
		store_seq_cst(&c->called, 1);
		weft_carrier_kick(c);
	}
}

/*
 * The CPU clock tells who computes from who is not let run by the kernel: half of the
 * time. Where the CPUs are wanted by many one more carrier makes it worse. (MariaDB, the
 * first seconds of 4,096 connections: with an eighth 22,000 and 24,000 transactions a
 * second instead of 26,000 and 27,000.)
 */
static void look_whether_slow(struct carrier *c, struct look *l)
{
	uint64_t before = c->seen_cpu, longs = load_relaxed(&c->long_tsc);
	bool few = load_relaxed(&c->counters[WEFT_COUNTER_SWITCHES]) - c->seen_switches <=
		   SLOW_SWITCHES;
	bool much = longs - c->seen_long >= WEFT_TSC(TICK_NS) / 2, computes;

	c->seen_long = longs;
	c->seen_cpu = weft_cpu_clock(c);
	computes = before && c->seen_cpu - before >= TICK_NS / 2;
	store_relaxed(&c->slow, few && computes);
	if (computes && (few || much))
		l->slow |= weft_sched_has_work(c);
}

/* One that could not begin is made again when another one is wanted. */
static void look_at_new(const struct carrier *c, struct look *l)
{
	int began = load_acquire(&c->began); /* [carrier-began] */

	if (began < 0) {
		failed_to_begin = began;
		return;
	}
	l->coming++;
	l->quiet = false;
}

static void look_at(struct carrier *c, struct look *l)
{
	int odd = load_seq_cst(&c->odd);

	if (c->kind == CARRIER_BOUND) {
		weft_sched_rescue(c);
		l->queued += weft_sched_queued(c);
		l->waiting |= weft_sched_queued(c) > 0;
		return;
	}
	if (odd & ODD_HELD) {
		l->held++;
		l->queued += load_relaxed(&c->sleeping) ? weft_sched_queued(c) : 0;
		l->waiting |= l->queued > 0;
		return;
	}
	if (odd & ODD_NEW) {
		look_at_new(c, l);
		return;
	}
	if (load_seq_cst(&c->sleeping)) {
		l->sleeping += !(odd & ODD_RETIRED);
		return;
	}
	if (odd & ODD_STUCK) {
		look_at_stuck(c, l);
		return;
	}
	if (has_got_stuck(c)) {
		l->fresh++;
		look_at_stuck(c, l);
		return;
	}
	l->quiet = false;
	if (!(odd & ODD_RETIRED)) {
		l->running++;
		unsigned queued = weft_sched_queued(c);

		l->ready += queued;
		l->busy += queued > 1;
		look_whether_slow(c, l);
	}
	c->seen_switches = load_relaxed(&c->counters[WEFT_COUNTER_SWITCHES]);
	fetch_or_seq_cst(&c->odd, ODD_WATCHED);
}

/* ---- acting --------------------------------------------------------------- */

static bool from_pool(void)
{
	for (unsigned i = 0; i < weft_rt.carriers; i++) {
		struct carrier *c = weft_rt.carrier[i];

		if (load_relaxed(&c->odd) & ODD_RETIRED && c->kind != CARRIER_BOUND) {
			fetch_and_seq_cst(&c->odd, ~ODD_RETIRED);
			weft_carrier_wake(c);
			weft_count(monitor, COMPENSATED);
			return true;
		}
	}
	return false;
}

/*
 * Once when carriers stop being added, and once when they are added all the same: who
 * has a process that stands still finds here what it stands in.
 */
static void say_cap(const struct look *l, bool lifted)
{
	static char buf[2048];
	size_t at = 0, room = sizeof buf - 1;
	char n[21];

	if (said_cap[lifted])
		return;
	said_cap[lifted] = true;
	weft_keepers_put(buf, room, &at,
		lifted ? "weft: all kernel threads are kept, more than the cap of "
		       : "weft: no kernel threads are added beyond the cap of ");
	weft_keepers_put(buf, room, &at, weft_format_u64(n, weft_rt.config.carriers_cap));
	weft_keepers_put(buf, room, &at, lifted ? " are made: " : ": ");
	weft_keepers_put(buf, room, &at, weft_format_u64(n, l->stuck));
	weft_keepers_put(buf, room, &at, " are stuck, ");
	weft_keepers_put(buf, room, &at, weft_format_u64(n, l->held));
	weft_keepers_put(buf, room, &at, " wait for pinned threads");
	weft_keepers_tell(buf, room, &at);
	buf[at++] = '\n';
	weft_log_text(buf, at);
}

/*
 * The next tick tries again. While a thread of the process is in execve, which may fail,
 * there are no new ones (EAGAIN: fs->in_exec, kernel/fork.c); one that fails again and
 * again is met by several in a row.
 */
static bool has_failed_for_long(int err)
{
	static uint64_t since, last_time;
	uint64_t now = weft_now_ns();

	if (now - last_time > EXEC_NS)
		failures = 0;
	last_time = now;
	if (!failures++)
		since = now;
	return failures > 1 && (err != -EAGAIN || now - since > EXEC_NS);
}

static void failed(int err)
{
	char text[21];

	if (!has_failed_for_long(err) || said_failure)
		return;
	said_failure = true;
	weft_log_parts("a kernel thread that should stand in for a blocked one"
		       " cannot be made: errno ",
		weft_format_u64(text, (uint64_t)-err), NULL);
}

/*
 * One carrier more that will run fibers. False when there is none to be had. It is not
 * waited for: beside many that compute the kernel runs it late.
 */
static bool add_one(const struct look *l)
{
	int err, failure;

	if (from_pool())
		return true;
	if (weft_rt.carriers >= weft_rt.config.carriers_cap) {
		if (l->running + l->sleeping) {
			weft_count(monitor, CAP_HITS);
			say_cap(l, false);
			return false;
		}
		weft_count(monitor, CAP_LIFTS);
		say_cap(l, true);
	}
	err = weft_carrier_add(NULL);
	failure = err ? err : failed_to_begin;
	failed_to_begin = 0;
	if (failure)
		failed(failure);
	else
		failures = 0;
	if (!err)
		weft_count(monitor, COMPENSATED);
	return !err;
}

/*
 * How many carriers there should be beside the stuck ones. Against fibers that compute
 * they have to share the CPUs as the kernel sees fit, where natively each thread has a
 * share of its own.
 *
 * One hog for each CPU: carriers wake each other for every message between two fibers,
 * and the kernel lets a hog run for 4 ms whenever they have had their share. One does the
 * same work at half the cost and the delay at a fifth of it, as long as it keeps up; when
 * it has not for most of BUSY_TICKS there is another. (1,000 fibers, 5,000 answers a
 * second, two CPUs: 99th percentile 0.7 ms with one carrier, 3.8 with two, 0.9 natively.)
 *
 * More hogs: one would wait for several of them each time. With two for each hog they get
 * what they need. (Eight hogs: 54 ms with one, 10 with two, 4 with 16, 2.6 natively.)
 */
static unsigned company(const struct look *l)
{
	unsigned target = weft_rt.target, most = 8 * weft_rt.cpus;
	bool one_each = l->hogs == weft_rt.cpus || weft_hogs_by_turns();

	if (!one_each) {
		beside = 1;
		busy = 0;
	}
	if (l->hogs < weft_rt.cpus)
		return target;
	if (!one_each) {
		most = most < 2 * l->hogs ? most : 2 * l->hogs;
		return most > target ? most : target;
	}
	if (l->running && l->busy == l->running)
		busy++;
	else
		busy -= busy > 0;
	if (busy >= BUSY_TICKS) {
		busy = 0;
		beside += beside < target;
	}
	return beside;
}

/*
 * The stuck ones beside which more carriers get more done: not those that the kernel does
 * not let run, nor those that wait for a lock of its own; whoever comes waits there, too.
 * (Four stunnels with 200 connections each on two busy CPUs, where each handshake maps
 * and unmaps memory: 26 kernel threads instead of 38, at most 38 instead of 58. 64
 * threads that spin until all have begun: 1.1 times as long.)
 */
static unsigned worth_company(const struct look *l)
{
	unsigned n = 0;

	for (unsigned i = 0; i < weft_rt.carriers; i++) {
		struct carrier *c = weft_rt.carrier[i];
		char state;

		if (!(load_relaxed(&c->odd) & ODD_STUCK))
			continue;
		state = weft_keepers_state(c);
		if (state == 'R' || load_relaxed(&c->awaits_turn))
			n += weft_cpu_clock(c) - c->stuck_cpu >= COMPUTED_NS;
		else
			n += state != 'D';
	}
	return n < l->stuck ? n : l->stuck;
}

/*
 * Somebody waits for a stuck carrier: who is free takes it over, or somebody is made.
 * While newcomers get stuck as well they come by the number of those that are, but not
 * more than there is work for: who waits behind many that block does not wait for a tick
 * for each of them. (100 threads that block at once beside 1,000 that ask and answer: for
 * 1,011 ms nobody had an answer with one newcomer for each tick, 170 with this, natively
 * 10.) Who sleeps since the last burst is woken by the same number. (100 threads that
 * block beside nobody: the second and third time all have begun after 790 ms with one
 * that is woken for each tick, 200 with this.)
 */
static void compensate(const struct look *l)
{
	bool none = !l->running && !l->sleeping;
	/* Not one now and then, which the kernel did not let run beside those that do. */
	bool most = l->fresh && l->fresh >= l->running;
	unsigned work = l->queued + l->ready, want = 0, left;

	if (none || most) {
		calm = 0;
		burst++;
	} else if (++calm > BURST_TICKS) {
		burst = 0;
	}
	if (burst > 1 && (none || most)) {
		want = worth_company(l);
		want = want < work ? want : work;
	}
	left = want ? want : 1;
	while (left && !none && weft_sched_wake_one(NULL))
		left--;
	if (!want && !none && l->running + l->sleeping >= l->wanted)
		return; /* they look now and then */
	left -= left < l->coming ? left : l->coming;
	while (left && add_one(l))
		left--;
}

/* The youngest go; the main fiber is at home on the first. */
static void ask_to_retire(unsigned n)
{
	for (unsigned i = weft_rt.carriers; n && i-- > 1;) {
		struct carrier *c = weft_rt.carrier[i];

		if (load_relaxed(&c->odd) & (ODD_AWAY | ODD_RETIRING) ||
			c == load_relaxed(&weft_rt.express))
			continue;
		fetch_or_seq_cst(&c->odd, ODD_RETIRING);
		weft_carrier_wake(c);
		n--;
	}
}

static void tick(void)
{
	struct look l = {.quiet = true};
	unsigned available;

	for (unsigned i = 0; i < weft_rt.carriers; i++)
		look_at(weft_rt.carrier[i], &l);
	store_relaxed(&weft_rt.stuck, l.stuck + l.held);
	l.wanted = company(&l);
	if (company_ticks) {
		if (!--company_ticks)
			weft_express_close();
		l.wanted += l.hogs < weft_rt.cpus;
		l.quiet = false;
	}
	available = l.running + l.sleeping;
	if (available < l.wanted) {
		/* While some are pinned down, or compute, the others may be too few. */
		l.waiting |= l.busy && l.held + l.stuck;
		if (l.running && l.hogs > weft_rt.cpus && available + l.coming < l.wanted)
			add_one(&l);
		/* One that went beside hogs, and these have ended. */
		if (available + l.coming + l.stuck + l.held < weft_rt.target)
			from_pool();
	}
	if (l.waiting) {
		l.quiet = false;
		compensate(&l);
	} else {
		burst = 0;
	}
	surplus = available > l.wanted ? surplus + 1 : 0;
	if (surplus)
		l.quiet = false;
	if (surplus >= SURPLUS_TICKS) {
		surplus = 0;
		ask_to_retire((available - l.wanted - 1) / RETIRING_SHARE + 1);
	}
	quiet = l.quiet ? quiet + 1 : 0;
	vain = found ? 0 : vain + 1;
	found = false;
	last = l;
	weft_hogs_tick(l.hogs);
}

/* ---- glances between two ticks -------------------------------------------- */

/* Has its fiber had the CPU for half of the time since the last glance, or of what it has
 * run since? */
static bool has_computed(struct carrier *c)
{
	uint64_t before = c->glanced_cpu, since = c->glanced_at, now = weft_now_ns();
	uint64_t ran = (weft_tsc() - load_relaxed(&c->run_tsc)) * 2 / 5;

	c->glanced_at = now;
	c->glanced_cpu = 0;
	if (c->kind != CARRIER_FULL || load_seq_cst(&c->odd) & ODD_AWAY ||
		load_seq_cst(&c->sleeping) || !load_relaxed(&c->current))
		return false;
	c->glanced_cpu = weft_cpu_clock(c);
	if (!before || ran < GLANCE_NS / 2)
		return false;
	if (ran > now - since)
		ran = now - since;
	return c->glanced_cpu - before > now - since - ran / 2;
}

/*
 * Who is ready where another computes is taken by a carrier that is free. When all of
 * them compute there is one more, up to two for each CPU: natively the kernel would have
 * a thread for each.
 */
static void accompany(const struct carrier *c)
{
	unsigned available = last.running + last.coming + last.sleeping;

	if (weft_sched_wake_one(c) || available >= 2 * weft_rt.cpus || !add_one(&last))
		return;
	last.coming++; /* until the next tick counts them */
	company_ticks = COMPANY_TICKS;
}

static void glance(void)
{
	struct carrier *want = NULL;

	for (unsigned i = 0; i < weft_rt.carriers; i++) {
		struct carrier *c = weft_rt.carrier[i];

		if (!has_computed(c))
			continue;
		weft_express_saw(c);
		if (company_ticks)
			company_ticks = COMPANY_TICKS;
		if (weft_sched_unseen(c)) {
			found = true;
			store_seq_cst(&c->look_due, 1);
			store_seq_cst(&c->called, 1);
			weft_carrier_kick(c);
		}
		if (!weft_sched_queued(c))
			continue;
		/* Also a single one, also on one CPU: see keeps_one() in balance.c. */
		store_relaxed(&c->shares, true);
		want = c;
		found = true;
	}
	if (want) {
		weft_express_open();
		if (load_relaxed(&weft_rt.express))
			company_ticks = COMPANY_TICKS;
		accompany(want);
	}
}

/* ---- sleeping ------------------------------------------------------------- */

static bool nothing_to_watch(void)
{
	for (unsigned i = 0; i < load_acquire(&weft_rt.carriers); i++) {
		struct carrier *c = weft_rt.carrier[i];

		if (c->kind == CARRIER_BOUND) {
			if (weft_sched_queued(c) || load_seq_cst(&c->sig_inbox))
				return false;
			continue;
		}
		if (load_seq_cst(&c->odd) & ODD_HELD) {
			if (weft_sched_queued(c))
				return false;
			continue;
		}
		if (load_seq_cst(&c->sleeping))
			continue;
		if (load_acquire(&c->began) < 0)
			continue;
		if (!(load_seq_cst(&c->odd) & ODD_STUCK) || weft_sched_has_work(c))
			return false;
	}
	return true;
}

void weft_monitor_rouse(void)
{
	if (xchg_seq_cst(&weft_monitor_asleep, 0))
		weft_sys3(SYS_futex, (long)&weft_monitor_asleep, FUTEX_WAKE_PRIVATE, 1);
}

void weft_monitor_wake_carrier(struct carrier *c)
{
	store_seq_cst(&c->wake_due, 1);
	store_seq_cst(&asked, 1); /* [monitor-asked] */
	weft_sys3(SYS_futex, (long)&asked, FUTEX_WAKE_PRIVATE, 1);
	weft_monitor_wake();
}

static void wake_for_others(void)
{
	if (!xchg_seq_cst(&asked, 0)) /* [monitor-asked] */
		return;
	for (unsigned i = 0; i < weft_rt.carriers; i++) {
		struct carrier *c = weft_rt.carrier[i];

		if (xchg_seq_cst(&c->wake_due, 0))
			weft_carrier_event(c);
	}
}

/*
 * Each glance takes the CPU from somebody who computes. Where they find nothing there are
 * fewer. (xz -T2, whose main thread waits with a time limit: 2,800 and 1,600 switches in
 * three seconds.)
 */
static uint64_t between_glances(void)
{
	return (uint64_t)GLANCE_NS << (vain < VAIN_MOST ? vain : VAIN_MOST);
}

/* All of the time: what is stuck is told by what happened between two looks. */
static void nap(void)
{
	bool room = weft_hogs_watched(), looks = room || last.slow;
	uint64_t next = room ? GLANCE_NS : between_glances();
	uint64_t now = weft_now_ns(), until = now + TICK_NS;

	for (; now < until && !load_seq_cst(&quit); now = weft_now_ns()) {
		uint64_t left = until - now;
		struct timespec ts = {0, (long)(looks && left > next ? next : left)};

		weft_sys4(SYS_futex, (long)&asked, FUTEX_WAIT_PRIVATE, 0, (long)&ts);
		wake_for_others();
		if (room)
			weft_hogs_make_room(monitor);
		if (last.slow)
			glance();
	}
}

static void sleep_until_woken(void)
{
	store_seq_cst(&weft_monitor_asleep, 1); /* [monitor-sleep] */
	if (nothing_to_watch() && !load_seq_cst(&quit) && !load_seq_cst(&asked))
		weft_sys4(
			SYS_futex, (long)&weft_monitor_asleep, FUTEX_WAIT_PRIVATE, 1, 0);
	store_seq_cst(&weft_monitor_asleep, 0);
	wake_for_others();
	quiet = 0;
}

static void monitor_main(void *arg)
{
	(void)arg;
	weft_sys2(SYS_prctl, PR_SET_NAME, "weft/monitor");
	while (!load_seq_cst(&quit)) {
		tick();
		if (quiet > QUIET_TICKS)
			sleep_until_woken();
		else
			nap();
	}
	weft_sys1(SYS_exit, 0);
}

/* ---- life ----------------------------------------------------------------- */

struct carrier *weft_monitor_carrier(void)
{
	return load_acquire(&monitor);
}

int weft_monitor_start(void)
{
	struct carrier *c = weft_carrier_new(MONITOR_ID, CARRIER_HELPER);
	int err;

	if (!c)
		return -ENOMEM;
	quit = 0;
	weft_monitor_asleep = 0;
	quiet = surplus = burst = calm = company_ticks = 0;
	last.slow = false;
	weft_express_close();
	store_release(&monitor, c);
	err = weft_carrier_spawn(c, monitor_main);
	if (err) {
		monitor = NULL;
		weft_carrier_free(c);
	}
	return err;
}

/* Activation failed after all. */
void weft_monitor_stop(void)
{
	if (!monitor)
		return;
	store_seq_cst(&quit, 1);
	store_seq_cst(&asked, 1);
	weft_sys3(SYS_futex, (long)&asked, FUTEX_WAKE_PRIVATE, 1);
	weft_monitor_rouse();
	weft_carrier_join(monitor);
	weft_carrier_free(monitor);
	monitor = NULL;
}

/* In a fork child: it did not come along. */
void weft_monitor_forget(void)
{
	monitor = NULL;
	weft_monitor_asleep = 0;
	weft_hogs_forget();
	weft_express_close();
}
