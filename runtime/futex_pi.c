/*
 * futex_pi.c - FUTEX_LOCK_PI and its family, in user space.
 *
 * The word's protocol is the kernel's (futex(2)): the owner's thread id, FUTEX_WAITERS
 * when somebody waits, FUTEX_OWNER_DIED. The kernel finds owners by kernel thread id,
 * which fibers do not have, so it cannot be asked. What is left out is the inheritance
 * of priorities: fibers have none to inherit.
 *
 * Ownership is handed over: unlocking writes the next waiter's id into the word, in
 * the order of arrival, and a waiter that is woken owns the lock.
 */
#include <errno.h>
#include <linux/futex.h>
#include <time.h>

#include "deadline.h"
#include "futex_impl.h"

static int own_tid(void)
{
	struct fiber *f = weft_fiber_self();

	return f ? f->tid : (int)weft_sys0(SYS_gettid);
}

/* (bucket lock held) The longest waiter for the word, NULL when none is left. */
static struct futex_waiter *first_waiter(
	struct futex_bucket *b, uintptr_t addr, bool *ret_more)
{
	struct futex_waiter *first = NULL;

	*ret_more = false;
	list_for_each (l, &b->waiters) {
		struct futex_waiter *w = container_of(l, struct futex_waiter, link);

		if (w->addr != addr || !w->pi)
			continue;
		if (first) {
			*ret_more = true;
			break;
		}
		first = w;
	}
	return first;
}

/* (bucket lock held) Takes a free word for tid: 0, -EAGAIN when owned, -EDEADLK. */
static long acquire(uint32_t *word, int tid, bool waiters)
{
	uint32_t now;
	long r = weft_load_user(word, &now);

	if (r)
		return r;
	while (!(now & FUTEX_TID_MASK)) {
		uint32_t mine = (uint32_t)tid | (now & FUTEX_OWNER_DIED) |
				(waiters ? FUTEX_WAITERS : 0);

		if (cas_seq_cst(word, &now, mine))
			return 0;
	}
	return (now & FUTEX_TID_MASK) == (uint32_t)tid ? -EDEADLK : -EAGAIN;
}

struct pi_arg {
	uint32_t *word;
	uint64_t deadline;
	long ret; /* when the park did not happen */
};

/*
 * (bucket lock held) Announces a waiter: FUTEX_WAITERS makes the owner's unlock come
 * here. -EAGAIN: it may wait now. 0: it owns the lock. -ESRCH: the owner is nobody
 * (kernel/futex/pi.c says the same of a thread that does not exist).
 */
static long announce(uint32_t *word, int tid)
{
	for (;;) {
		uint32_t now;
		long r = acquire(word, tid, false);

		if (r != -EAGAIN)
			return r;
		r = weft_load_user(word, &now);
		if (r)
			return r;
		if (!(now & FUTEX_TID_MASK))
			continue;
		if ((now & FUTEX_TID_MASK) > WEFT_TID_MIN &&
			!weft_fiber_by_tid((int)(now & FUTEX_TID_MASK)))
			return -ESRCH;
		if (now & FUTEX_WAITERS || cas_seq_cst(word, &now, now | FUTEX_WAITERS))
			return -EAGAIN;
	}
}

static bool pi_commit(struct fiber *f, void *arg)
{
	struct pi_arg *a = arg;
	struct futex_bucket *b = weft_futex_bucket((uintptr_t)a->word);
	enum weft_park_state open;

	weft_timer_arm(f, a->deadline);
	weft_futex_lock(b);
	a->ret = announce(a->word, f->tid);
	if (a->ret != -EAGAIN) {
		weft_unlock(&b->lock);
		return false;
	}
	weft_futex_enqueue(b, &f->fw);
	open = weft_park_open(f);
	if (open == WEFT_PARK_SELF)
		weft_futex_dequeue(&f->fw);
	weft_unlock(&b->lock);
	return open != WEFT_PARK_SELF;
}

static long wait_fiber(struct fiber *f, uint32_t *word, uint64_t deadline)
{
	struct pi_arg a = {word, deadline, 0};
	enum weft_wake how;

	f->fw.addr = (uintptr_t)word;
	f->fw.bitset = 0;
	f->fw.shared = false;
	f->fw.pi = true;
	f->fw.tid = f->tid;
	f->fw.fiber = f;
	f->interruptible = 1;
	how = weft_park(WEFT_REASON_FUTEX, pi_commit, &a);
	f->interruptible = 0;
	weft_timer_disarm(f);
	if (a.ret != -EAGAIN)
		return a.ret;
	if (how == WEFT_WAKE_DONE)
		return 0; /* handed over */
	weft_futex_withdraw(&f->fw);
	return how == WEFT_WAKE_TIMEOUT ? -ETIMEDOUT : -EINTR;
}

/* A native thread: it sleeps in the kernel until ownership is handed to it. */
static long wait_native(uint32_t *word, uint64_t deadline)
{
	struct futex_waiter w = {
		.addr = (uintptr_t)word, .pi = true, .tid = (int)weft_sys0(SYS_gettid)};
	struct futex_bucket *b = weft_futex_bucket(w.addr);
	long r, op = FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG;
	struct timespec ts;
	const struct timespec *at = weft_futex_timeout(deadline, &op, &ts);

	weft_futex_lock(b);
	r = announce(word, w.tid);
	if (r != -EAGAIN) {
		weft_unlock(&b->lock);
		return r;
	}
	weft_futex_enqueue(b, &w);
	weft_unlock(&b->lock);
	r = 0;
	while (!load_acquire(&w.word)) {
		r = weft_sys6(SYS_futex, (long)&w.word, op, 0, (long)at, 0,
			FUTEX_BITSET_MATCH_ANY);
		if (r == -ETIMEDOUT)
			break;
	}
	weft_futex_withdraw(&w);
	return load_acquire(&w.word) ? 0 : r;
}

long weft_futex_lock_pi(uint32_t *word, uint64_t deadline_ns)
{
	struct fiber *f = weft_fiber_self();
	struct futex_bucket *b = weft_futex_bucket((uintptr_t)word);
	long r;

	weft_futex_lock(b);
	r = acquire(word, own_tid(), false);
	weft_unlock(&b->lock);
	if (r != -EAGAIN)
		return r;
	/* A lock that is taken over after a signal handler is waited for again. */
	do {
		r = f ? wait_fiber(f, word, deadline_ns) : wait_native(word, deadline_ns);
	} while (r == -EAGAIN);
	return r;
}

long weft_futex_trylock_pi(uint32_t *word)
{
	struct futex_bucket *b = weft_futex_bucket((uintptr_t)word);
	long r;

	weft_futex_lock(b);
	r = acquire(word, own_tid(), false);
	weft_unlock(&b->lock);
	return r;
}

/* (bucket lock held) Gives the word to the next waiter, or sets it to `nobody`. */
static void hand_over(
	struct futex_bucket *b, uint32_t *word, uint32_t nobody, struct fiber ***tail)
{
	struct futex_waiter *w;
	bool more;

	while ((w = first_waiter(b, (uintptr_t)word, &more))) {
		int tid = w->tid;

		/*
		 * The word first: a native waiter returns as soon as it is taken. One
		 * that has given up meanwhile is passed over.
		 */
		store_seq_cst(word, (uint32_t)tid | (more ? FUTEX_WAITERS : 0) |
					    (nobody & FUTEX_OWNER_DIED));
		if (weft_futex_take(w, tail))
			return;
	}
	store_seq_cst(word, nobody);
}

long weft_futex_unlock_pi(uint32_t *word)
{
	struct futex_bucket *b = weft_futex_bucket((uintptr_t)word);
	struct fiber *woken = NULL, **tail = &woken;
	uint32_t now;
	long r;

	weft_futex_lock(b);
	r = weft_load_user(word, &now);
	if (r == 0 && (now & FUTEX_TID_MASK) != (uint32_t)own_tid())
		r = -EPERM;
	if (r == 0)
		hand_over(b, word, 0, &tail);
	weft_unlock(&b->lock);
	weft_futex_unpark(woken, woken != NULL);
	return r;
}

void weft_futex_pi_died(uint32_t *word)
{
	struct futex_bucket *b = weft_futex_bucket((uintptr_t)word);
	struct fiber *woken = NULL, **tail = &woken;

	weft_futex_lock(b);
	hand_over(b, word, FUTEX_OWNER_DIED, &tail);
	weft_unlock(&b->lock);
	weft_futex_unpark(woken, woken != NULL);
}
