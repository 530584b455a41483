/*
 * follow.c - fibers run where their peers do.
 *
 * Who writes to a socket of this machine wakes the reader, and the kernel lets a reader
 * that last ran on another CPU wait there: an interrupt for each answer, which is dear on
 * a virtual machine. A kernel thread and its peer find each other by the kernel's
 * wake-affine rules. A carrier serves hundreds of peers, and each goes on finding its
 * fiber on another one: of the wake-ups by MariaDB with 128 connections of a local
 * sysbench 54 in 100 went to another CPU at first, and 12 after half a minute. So the
 * fiber goes to its peer: the kernel knows on which CPU what it received last was sent
 * (SO_INCOMING_CPU, socket(7); for what comes by a network card, whose interrupts that
 * CPU serves, which is as good a place).
 *
 * It asks when it has waited for the peer, and when its turn ends with an answer: where
 * the CPUs are busy the next request is there when its turn comes, and it never waits.
 *
 * By turns, pool 1, without / with: transactions 0.96/1.22 with 128 connections, 99th
 * percentile 1.02/0.75. Where system calls and interrupts are dear, only where it waits
 * / also at the end of a turn: transactions with 16, 128, 1,024, 4,096 connections 1.20,
 * 1.01, 1.01, 1.11 / 1.36, 1.36, 1.20, 1.31; of the wake-ups with 128 went to another
 * CPU 45 / 2 in 100.
 */
#include <sys/socket.h>

#include "sched_impl.h"

/* Waits and turns; asking is a system call. At once where others have moved it. */
enum { ASK_EVERY = 4 };

/* One that was on this CPU when it looked last, and is not stuck; or NULL. */
static struct carrier *carrier_on(unsigned cpu)
{
	unsigned n = load_acquire(&weft_rt.carriers);

	for (unsigned i = 0; i < n; i++) {
		struct carrier *c = weft_rt.carrier[i];

		if (c->kind == CARRIER_FULL && !load_relaxed(&c->odd) &&
			load_relaxed(&c->cpu) == cpu)
			return c;
	}
	return NULL;
}

void weft_follow_peer(struct fiber *f, int fd)
{
	int cpu = -1, len = sizeof cpu;

	if (likely(f->asked_on == f->carrier && ++f->heard % ASK_EVERY &&
		    !weft_rt.config.stress_shuffle) ||
		weft_rt.cpus < 2 || load_relaxed(&weft_rt.carriers) < 2 ||
		f->flags & (FIBER_PINNED | FIBER_MAIN))
		return;
	f->asked_on = f->carrier;
	/* Not a socket, or of a kind that does not know. */
	if (weft_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_INCOMING_CPU, (long)&cpu,
		    (long)&len) ||
		cpu < 0 || (unsigned)cpu == weft_cpu_here())
		return;
	f->follows = carrier_on((unsigned)cpu);
}
