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
 * By turns, pool 1, without / with: transactions 0.96/1.22 with 128 connections, 99th
 * percentile 1.02/0.75.
 */
#include <sys/socket.h>

#include "io_impl.h"

enum { ASK_EVERY = 4 }; /* waits; asking is a system call, and moving a cold cache */

/* The one that was on this CPU when it looked last; NULL when there is none. */
static struct carrier *carrier_on(unsigned cpu)
{
	unsigned n = load_acquire(&weft_rt.carriers);

	for (unsigned i = 0; i < n; i++) {
		struct carrier *c = weft_rt.carrier[i];

		if (c->kind == CARRIER_FULL && load_relaxed(&c->cpu) == cpu)
			return c;
	}
	return NULL;
}

void weft_follow_peer(struct fiber *f, int fd)
{
	int cpu = -1, len = sizeof cpu;

	if (likely(++f->heard % ASK_EVERY && !weft_rt.config.stress_shuffle) ||
		weft_rt.cpus < 2 || load_relaxed(&weft_rt.carriers) < 2 ||
		f->flags & (FIBER_PINNED | FIBER_MAIN))
		return;
	/* Not a socket, or of a kind that does not know. */
	if (weft_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_INCOMING_CPU, (long)&cpu,
		    (long)&len) ||
		cpu < 0 || (unsigned)cpu == weft_cpu_here())
		return;
	f->follows = carrier_on((unsigned)cpu);
}
