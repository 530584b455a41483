/*
 * signal_cpu.c - who gets the signal of a timer that measures CPU time.
 *
 * The kernel gives it to the thread that runs when the time is up (check_process_timers;
 * of POSIX timers since 6.4, posixtimer_get_target): that is how a profiler learns who
 * computes. Carriers block it, so here it is the receiver who hears of it, a little
 * later, when nobody can see whose time it was. So each carrier is due for what its
 * kernel thread has run since it got that signal last, and the fiber of the one that is
 * due for most gets it: each as many as its share of the time, in turn. If it blocks the
 * signal, others have that share, main first, as the kernel has it. (A common account
 * for all signals would give each of two timers that expire together a thread of its
 * own.)
 *
 * Only fibers that stand on a carrier now are asked, and only if that has run since it
 * was looked at last, or when others were who had: who waits in the kernel, where weft
 * does not see it, is not to be disturbed. Helpers make calls that wait. Reading a clock
 * is a system call of 0.2 to 0.5 microseconds for each of those carriers, at most once a
 * tick of the kernel's.
 *
 * All on the receiver, and without locks: a fiber may have left its carrier, or have
 * ended, when it is told. It is the same race as for any other signal.
 */
#include "signals_impl.h"
#include "thread_timers.h"

/*
 * Two signals came together, and nobody has run between the looks: so long the receiver
 * may wait for a CPU itself. (1 ms is not enough beside eight others that want each CPU.)
 */
enum { TOGETHER_NS = 100000000 };

/*
 * Signals that came together are given by one look. While the receiver runs, one of the
 * threads that compute does not, as it has its CPU: a second look would find that only
 * the others have run since, and give them all of the second signal.
 */
enum { ONE_LOOK_NS = 500000 };

/* From ITIMER_PROF, ITIMER_VIRTUAL and RLIMIT_CPU. */
static const uint64_t FROM_KERNEL = BIT(SIGPROF) | BIT(SIGVTALRM) | BIT(SIGXCPU);

struct choice {
	struct carrier *carrier;
	struct fiber *fiber;
	uint64_t due;
};

static void look_at(struct carrier *c, uint64_t now)
{
	uint64_t ran = weft_cpu_clock(c);

	if (ran > c->ran) {
		c->ran = ran;
		c->ran_at = now;
	}
}

static void consider(
	struct carrier *c, int slot, uint64_t now, bool look, struct choice *best)
{
	struct fiber *f = load_seq_cst(&c->current);
	uint64_t due;

	if (!f)
		return;
	if (look)
		look_at(c, now);
	if (now - c->ran_at >= TOGETHER_NS)
		return;
	due = c->ran - c->signalled[slot];
	if (!best->carrier || c->ran_at > best->carrier->ran_at ||
		(c->ran_at == best->carrier->ran_at && due > best->due))
		*best = (struct choice){c, f, due};
}

static struct fiber *who_computes(int sig)
{
	unsigned n = load_acquire(&weft_rt.carriers);
	struct choice best = {NULL, NULL, 0};
	int slot = sig % WEFT_CPU_SLOTS;
	static uint64_t looked;
	uint64_t now = weft_now_ns();
	bool look = now - looked >= ONE_LOOK_NS;

	if (look)
		looked = now;
	for (unsigned i = 0; i < n; i++)
		consider(weft_rt.carrier[i], slot, now, look, &best);
	for (struct carrier *c = load_acquire(&weft_rt.helpers); c; c = c->all_next)
		if (c->kind == CARRIER_BOUND)
			consider(c, slot, now, look, &best);
	if (best.carrier)
		best.carrier->signalled[slot] = best.carrier->ran;
	return best.fiber;
}

struct fiber *weft_sig_computing(int sig, const void *info)
{
	const siginfo_t *si = info;
	int measured;

	if (si->si_code == SI_KERNEL && BIT(sig) & FROM_KERNEL)
		return who_computes(sig);
	if (si->si_code != SI_TIMER)
		return NULL;
	measured = weft_thread_timer_measures(si->si_timerid);
	if (measured == WEFT_TIMER_PROCESS)
		return who_computes(sig);
	return measured ? weft_fiber_by_tid(measured) : NULL;
}
