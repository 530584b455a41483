/*
 * signal_broadcast.c - a call that every kernel thread has to make: posted here, made
 * in the kick's handler, counted down. One at a time (threads_lock), and no thread is
 * made meanwhile: it would have the credentials of before.
 */
#include "signals_impl.h"

static struct {
	long nr, args[3];
	uint32_t generation; /* (a) */
	uint32_t left;       /* (a) */
	uint32_t failed;     /* (a) */
} broadcast;

void weft_sig_join_broadcast(struct carrier *c)
{
	uint32_t generation = load_acquire(&broadcast.generation);

	if (c->broadcast_done == generation)
		return;
	c->broadcast_done = generation;
	if (weft_sys3(broadcast.nr, broadcast.args[0], broadcast.args[1],
		    broadcast.args[2]) < 0)
		store_relaxed(&broadcast.failed, 1);
	__atomic_sub_fetch(&broadcast.left, 1, __ATOMIC_SEQ_CST);
}

/* A thread made from now on has today's credentials. */
void weft_signals_new_thread(struct carrier *c)
{
	c->broadcast_done = load_relaxed(&broadcast.generation);
}

static void call_on(struct carrier *c, struct carrier *self)
{
	if (c == self || !c || load_acquire(&c->over))
		return;
	__atomic_add_fetch(&broadcast.left, 1, __ATOMIC_SEQ_CST);
	kick(c, KICK);
}

long weft_signals_on_all_threads(long nr, const long args[3])
{
	struct carrier *self = weft_carrier_self();
	long r;

	weft_lock(&weft_rt.threads_lock);
	r = weft_sys3(nr, args[0], args[1], args[2]);
	if (r < 0) {
		weft_unlock(&weft_rt.threads_lock);
		return r;
	}
	broadcast.nr = nr;
	for (int i = 0; i < 3; i++)
		broadcast.args[i] = args[i];
	store_relaxed(&broadcast.left, 0);
	self->broadcast_done = broadcast.generation + 1;
	store_release(&broadcast.generation, broadcast.generation + 1);
	for (unsigned i = 0; i < weft_rt.carriers; i++)
		call_on(weft_rt.carrier[i], self);
	for (struct carrier *c = load_acquire(&weft_rt.helpers); c; c = c->all_next)
		call_on(c, self);
	call_on(weft_sig.receiver, self);
	call_on(weft_monitor_carrier(), self);
	call_on(weft_clocks_listener(), self);
	while (load_seq_cst(&broadcast.left))
		weft_sys0(SYS_sched_yield);
	weft_unlock(&weft_rt.threads_lock);
	/* Half the threads with old credentials would be a hole (nptl: abort). */
	if (load_relaxed(&broadcast.failed))
		weft_bug("a kernel thread could not change its credentials");
	return r;
}
