/*
 * answer.c - answers that are given together.
 *
 * Who writes to a socket of this machine wakes the reader, and the kernel lets that run
 * at once on the writer's CPU: a switch to another process and back for each answer. It
 * costs as much as the answer where address spaces are dear to switch, and pushes the
 * caches' contents to and fro. So while others are ready, a fiber that answers puts that
 * into the ring and the next one runs. All answers are given to the kernel in one call;
 * the peers run one after the other, and their next requests are there when it returns.
 *
 * An answer waits for few others, and for a time that whoever asked does not notice
 * behind a queue: it is looked at before each fiber runs and at each call of those that
 * run on. Of a fiber that does not call weft at all the monitor knows, as of any carrier
 * whose ring was not submitted. Where fibers compute for long on the average, and before
 * the carrier is kept by a fork, nothing waits.
 *
 * After it the fiber stands behind those that are ready, as it does after a turn that
 * gave an answer. It may hold a lock that others want: a socket that many write to, under
 * one, is not written to together. So only who received from the descriptor last, or
 * wrote to it last, does it.
 *
 * The transfer is one that does not wait, made in the name of the same process: its
 * result is the result of the first attempt (transfer.c), whatever that is. Sockets only.
 */
#include <sys/socket.h>
#include <unistd.h>

#include "engine.h"
#include "io_impl.h"
#include "queue_impl.h"

enum {
	LARGEST = 4096, /* bytes; more is a stream rather, which goes on for its turn */
	OTHERS = 2,     /* ready, or it is not worth the way through the ring */
};

bool weft_answer_joins(int fd, size_t len, int flags)
{
	struct carrier *c = weft_carrier_self();
	struct fiber *f = c->current;
	bool mine = weft_fd_spoken_by(fd, f);

	/* Who looks at stacks would find a reason to keep the carrier, each time. */
	if (weft_on_epoll() || weft_native_watches || c->kind != CARRIER_FULL ||
		f->flags & FIBER_PINNED || fd <= STDERR_FILENO ||
		flags & ~(MSG_NOSIGNAL | MSG_DONTWAIT) || !len || len > LARGEST)
		return false;
	if (unlikely(weft_rt.config.stress_shuffle) && weft_random(c) % 2)
		return true;
	return mine && (c->answers || ready_on(c) >= OTHERS) && !load_relaxed(&c->slow);
}

void weft_answer_queued(struct carrier *c)
{
	if (!c->answers++)
		c->answers_tsc = c->run_tsc; /* when its run ended, a moment ago */
}

void weft_answers_give_here(void)
{
	struct carrier *c = (struct carrier *)weft_rdgsbase();

	if (c && c->answers) {
		c->answers = 0;
		weft_ring_submit(c->ring);
	}
}
