/*
 * futex.c - a wait table keyed by address, FIFO per word.
 *
 * A waiter is on one bucket's list from its commit until somebody dequeues it
 * under the bucket's lock: a waker (who must also win weft_claim, or the waiter
 * timed out in the same moment and is not counted), or the fiber itself after a
 * timeout or a signal. `bucket` is NULL once dequeued; a requeue changes it, so
 * whoever takes a waiter's bucket lock checks it again (as the kernel does with
 * lock_ptr).
 *
 * Comparing and enqueueing happen under the bucket lock, after the fiber has
 * left its stack, so no wake-up between the two can be lost.
 */
#include "futex.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <time.h>

#include "deadline.h"
#include "futex_impl.h"

enum {
	BUCKETS = 1024,
	ROBUST_LIMIT = 2048,
};

static struct futex_bucket bucket[BUCKETS];

struct futex_bucket *weft_futex_bucket(uintptr_t addr)
{
	uint64_t h = (uint64_t)(addr >> 2) * 0x9e3779b97f4a7c15ull;
	struct futex_bucket *b = &bucket[h >> 54];

	return b;
}
_Static_assert(BUCKETS == 1 << (64 - 54), "the hash's top bits");

/* Zero pages are valid, empty buckets: no initialisation pass over 64 KiB. */
static void bucket_ready(struct futex_bucket *b)
{
	if (unlikely(!b->waiters.next))
		list_init(&b->waiters);
}

void weft_futex_lock(struct futex_bucket *b)
{
	weft_lock(&b->lock);
	bucket_ready(b);
}

/* Two buckets in address order. */
static void lock_two(struct futex_bucket *a, struct futex_bucket *b)
{
	weft_futex_lock(a < b ? a : b);
	if (a != b)
		weft_futex_lock(a < b ? b : a);
}

static void unlock_two(struct futex_bucket *a, struct futex_bucket *b)
{
	weft_unlock(&a->lock);
	if (a != b)
		weft_unlock(&b->lock);
}

void weft_futex_enqueue(struct futex_bucket *b, struct futex_waiter *w)
{
	store_relaxed(&w->bucket, b);
	w->since = weft_tsc();
	w->woken = w->early = false;
	list_push_back(&b->waiters, &w->link);
}

void weft_futex_dequeue(struct futex_waiter *w)
{
	list_remove(&w->link);
	store_release(&w->bucket, NULL); /* [futex-dequeued] */
}

/* After a wait that nobody ended by a wake-up. */
void weft_futex_withdraw(struct futex_waiter *w)
{
	struct futex_bucket *b;

	while ((b = load_acquire(&w->bucket))) { /* [futex-dequeued] */
		weft_lock(&b->lock);
		if (load_relaxed(&w->bucket) == b)
			weft_futex_dequeue(w);
		weft_unlock(&b->lock);
	}
}

/* ---- waiting -------------------------------------------------------------- */

struct wait_arg {
	uint32_t *word;
	uint32_t val;
	uint64_t deadline;
	bool shared;
	bool again; /* it comes back to its place: has not waited since it was woken */
	long ret;
};

static bool wait_commit(struct fiber *f, void *arg)
{
	struct wait_arg *a = arg;
	struct futex_bucket *b = weft_futex_bucket((uintptr_t)a->word);
	enum weft_park_state open;
	uint32_t now;

	/*
	 * The timer first: once enqueued the fiber may run elsewhere and disarm
	 * it. It cannot fire before we return, because it fires here.
	 */
	weft_timer_arm(f, a->deadline);
	weft_futex_lock(b);
	a->ret = weft_load_user(a->word, &now);
	if (a->ret == 0 && now != a->val)
		a->ret = -EAGAIN;
	if (a->ret) {
		weft_unlock(&b->lock);
		return false;
	}
	/*
	 * Queued before it can be claimed: whoever claims it may run it at once,
	 * and it then withdraws, which waits for this lock.
	 */
	if (unlikely(a->again))
		weft_crowd_enqueue_again(b, &f->fw);
	else
		weft_futex_enqueue(b, &f->fw);
	open = weft_park_open(f);
	if (open == WEFT_PARK_SELF)
		weft_futex_dequeue(&f->fw);
	else if (a->val == 2 && !a->shared)
		weft_crowd_joined(b, a->word);
	weft_unlock(&b->lock);
	return open != WEFT_PARK_SELF;
}

static long wait_fiber(struct fiber *f, struct wait_arg *a, uint32_t bitset, bool shared)
{
	enum weft_wake how;

	weft_crowd_waits(f);
	a->again = f->fw.woken && f->fw.early && f->fw.addr == (uintptr_t)a->word &&
		   f->fw.park == (f->wake & ~WAKE_STATE);
	f->fw.park = (f->wake & ~WAKE_STATE) + WAKE_PARK;
	f->fw.addr = (uintptr_t)a->word;
	f->fw.val = a->val;
	f->fw.bitset = bitset;
	f->fw.shared = shared;
	f->fw.pi = false;
	f->fw.fiber = f;
	f->interruptible = 1;
	weft_count(weft_carrier_self(), FUTEX_WAITS);
	how = weft_park(WEFT_REASON_FUTEX, wait_commit, a);
	f->interruptible = 0;
	weft_timer_disarm(f);
	if (a->ret)
		return a->ret;
	if (how == WEFT_WAKE_DONE)
		return 0;
	weft_futex_withdraw(&f->fw);
	return how == WEFT_WAKE_TIMEOUT ? -ETIMEDOUT : -EINTR;
}

const struct timespec *weft_futex_timeout(
	uint64_t deadline_ns, long *op, struct timespec *room)
{
	uint64_t ns;

	if (deadline_ns == WEFT_NO_DEADLINE)
		return NULL;
	if (weft_deadline_clock(deadline_ns, &ns) == CLOCK_REALTIME)
		*op |= FUTEX_CLOCK_REALTIME;
	room->tv_sec = (time_t)(ns / 1000000000u);
	room->tv_nsec = (long)(ns % 1000000000u);
	return room;
}

/* A kernel thread that is no carrier: same queue, but it sleeps in the kernel. */
static long wait_native(struct wait_arg *a, uint32_t bitset, bool shared)
{
	struct futex_waiter w = {
		.addr = (uintptr_t)a->word, .bitset = bitset, .shared = shared};
	struct futex_bucket *b = weft_futex_bucket(w.addr);
	long op = FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG;
	const struct timespec *at;
	struct timespec ts;
	uint32_t now;
	long r;

	weft_futex_lock(b);
	r = weft_load_user(a->word, &now);
	if (r == 0 && now != a->val)
		r = -EAGAIN;
	if (r) {
		weft_unlock(&b->lock);
		return r;
	}
	weft_futex_enqueue(b, &w);
	weft_unlock(&b->lock);
	at = weft_futex_timeout(a->deadline, &op, &ts);
	r = 0;
	while (!load_acquire(&w.word)) {
		r = weft_sys6(SYS_futex, (long)&w.word, op, 0, (long)at, 0,
			FUTEX_BITSET_MATCH_ANY);
		if (r == -ETIMEDOUT || r == -EINTR)
			break;
	}
	weft_futex_withdraw(&w);
	/* A wake-up that came while we gave up was counted: it is ours. */
	return load_acquire(&w.word) ? 0 : r;
}

long weft_futex_wait(
	uint32_t *word, uint32_t val, uint32_t bitset, bool shared, uint64_t deadline_ns)
{
	struct wait_arg a = {word, val, deadline_ns, shared, false, 0};
	struct fiber *f = weft_fiber_self();
	uint32_t now;
	long r = weft_load_user(word, &now);

	if (r)
		return r;
	if (now != val)
		return -EAGAIN;
	if (f)
		return wait_fiber(f, &a, bitset, shared);
	return wait_native(&a, bitset, shared);
}

/* ---- waking --------------------------------------------------------------- */

/*
 * Dequeues w and takes the right to wake it; fibers are collected on *list and
 * unparked after the lock is dropped. False: it had given up already.
 */
bool weft_futex_take(struct futex_waiter *w, struct fiber ***tail)
{
	struct fiber *f = w->fiber;

	if (f) {
		bool won = weft_claim(f, WEFT_WAKE_DONE);

		if (won) {
			w->woken = true;
			f->qnext = NULL;
			**tail = f;
			*tail = &f->qnext;
		}
		weft_futex_dequeue(w);
		return won;
	}
	/*
	 * The waiter withdraws before it returns, so its frame stays while we hold
	 * the lock. Its word is set before it is dequeued: a waiter that timed out
	 * and finds itself dequeued was counted, and must see it.
	 */
	int *word = &w->word;

	store_release(word, 1);
	weft_futex_dequeue(w);
	weft_sys3(SYS_futex, (long)word, FUTEX_WAKE_PRIVATE, 1);
	return true;
}

static int wake_locked(struct futex_bucket *b, uintptr_t addr, int max, uint32_t bitset,
	bool shared, struct fiber ***tail)
{
	int n = 0;

	for (struct list *l = b->waiters.next, *next; l != &b->waiters && n < max;
		l = next) {
		struct futex_waiter *w = container_of(l, struct futex_waiter, link);

		next = l->next;
		if (weft_futex_matches(w, addr, shared) && (w->bitset & bitset))
			n += weft_futex_take(w, tail);
	}
	return n;
}

void weft_futex_unpark(struct fiber *f, int n)
{
	struct carrier *c = (struct carrier *)weft_rdgsbase();

	if (c)
		weft_count_add(c, FUTEX_WAKES, (unsigned)n);
	weft_unpark_woken(f, (unsigned)n);
}

static long wake(void *word, int max, uint32_t bitset, bool shared, bool libc)
{
	struct futex_bucket *b = weft_futex_bucket((uintptr_t)word);
	struct fiber *woken = NULL, **tail = &woken, *self = weft_fiber_self();
	int n, more = 0;

	/* Whoever gives it back was not woken in vain. */
	if (self && self->fw.addr == (uintptr_t)word) {
		self->fw.woken = false;
		self->fw.vain = 0;
	}
	/*
	 * [futex-waiters] A waiter compares the word and is enqueued under this lock. The
	 * lock is looked at first: one that compared before the waker changed the word
	 * holds it still, or is on the list by now. The other way round it could do all
	 * of that between the two looks, and nobody would wake it.
	 */
	fence_seq_cst();
	if (!load_acquire(&b->lock.word)) {
		const struct list *first = load_relaxed(&b->waiters.next);

		if (!first || first == &b->waiters)
			return 0;
	}
	weft_futex_lock(b);
	n = wake_locked(b, (uintptr_t)word, max > 0 ? max : 1, bitset, shared, &tail);
	if (woken && self && weft_crowd_gives_way(woken))
		weft_sched_let_woken();
	if (libc && woken)
		more = weft_crowd_wake(b, (uintptr_t)word, woken, &tail);
	weft_unlock(&b->lock);
	weft_futex_unpark(woken, n + more);
	return n;
}

long weft_futex_wake(void *word, int max, uint32_t bitset, bool shared)
{
	return wake(word, max, bitset, shared, false);
}

long weft_futex_wake_one(void *word)
{
	return wake(word, 1, FUTEX_BITSET_MATCH_ANY, false, true);
}

long weft_futex_requeue(uint32_t *word, int wake, int move, uint32_t *to,
	const uint32_t *val, bool shared)
{
	struct futex_bucket *from_b = weft_futex_bucket((uintptr_t)word);
	struct futex_bucket *to_b = weft_futex_bucket((uintptr_t)to);
	struct fiber *woken = NULL, **tail = &woken;
	int n = 0, moved = 0;
	uint32_t now = 0;

	if (wake < 0 || move < 0)
		return -EINVAL;
	lock_two(from_b, to_b);
	if (val) {
		long r = weft_load_user(word, &now);

		if (r == 0 && now != *val)
			r = -EAGAIN;
		if (r) {
			unlock_two(from_b, to_b);
			return r;
		}
	}
	for (struct list *l = from_b->waiters.next, *next;
		l != &from_b->waiters && (n < wake || moved < move); l = next) {
		struct futex_waiter *w = container_of(l, struct futex_waiter, link);

		next = l->next;
		if (!weft_futex_matches(w, (uintptr_t)word, shared))
			continue;
		if (n < wake) {
			n += weft_futex_take(w, &tail);
			continue;
		}
		moved++;
		w->addr = (uintptr_t)to;
		w->val = 0; /* it is not known what it would see there */
		if (from_b != to_b) {
			list_remove(&w->link);
			weft_futex_enqueue(to_b, w);
		}
	}
	unlock_two(from_b, to_b);
	weft_futex_unpark(woken, n);
	/* Both count, for REQUEUE too, whatever futex(2) says (kernel/futex/requeue.c).
	 */
	return n + moved;
}

/* The operand encoding of FUTEX_OP(), linux/futex.h. */
static long apply_op(uint32_t *word, uint32_t op, bool *ret_true)
{
	uint32_t kind = op >> 28 & 7, cmp = op >> 24 & 15;
	int32_t oparg = (int32_t)(op << 8) >> 20, cmparg = (int32_t)(op << 20) >> 20;
	uint32_t old, check;
	int swapped;
	long r = weft_load_user(word, &check);

	if (r)
		return r;
	if (op >> 31) { /* FUTEX_OP_OPARG_SHIFT */
		if (oparg < 0 || oparg > 31)
			oparg &= 31;
		oparg = (int32_t)(1u << oparg);
	}
	old = check;
	do {
		switch (kind) {
		case FUTEX_OP_SET:
			check = (uint32_t)oparg;
			break;
		case FUTEX_OP_ADD:
			check = old + (uint32_t)oparg;
			break;
		case FUTEX_OP_OR:
			check = old | (uint32_t)oparg;
			break;
		case FUTEX_OP_ANDN:
			check = old & ~(uint32_t)oparg;
			break;
		case FUTEX_OP_XOR:
			check = old ^ (uint32_t)oparg;
			break;
		default:
			return -ENOSYS;
		}
		swapped = weft_cas_user(word, &old, check);
	} while (!swapped);
	if (swapped < 0)
		return swapped;
	switch (cmp) {
	case FUTEX_OP_CMP_EQ:
		*ret_true = (int32_t)old == cmparg;
		return 0;
	case FUTEX_OP_CMP_NE:
		*ret_true = (int32_t)old != cmparg;
		return 0;
	case FUTEX_OP_CMP_LT:
		*ret_true = (int32_t)old < cmparg;
		return 0;
	case FUTEX_OP_CMP_LE:
		*ret_true = (int32_t)old <= cmparg;
		return 0;
	case FUTEX_OP_CMP_GT:
		*ret_true = (int32_t)old > cmparg;
		return 0;
	case FUTEX_OP_CMP_GE:
		*ret_true = (int32_t)old >= cmparg;
		return 0;
	}
	return -ENOSYS;
}

long weft_futex_wake_op(
	uint32_t *word, int wake, uint32_t *word2, int wake2, uint32_t op, bool shared)
{
	struct futex_bucket *b1 = weft_futex_bucket((uintptr_t)word);
	struct futex_bucket *b2 = weft_futex_bucket((uintptr_t)word2);
	struct fiber *woken = NULL, **tail = &woken;
	bool second = false;
	int n;
	long r;

	lock_two(b1, b2);
	r = apply_op(word2, op, &second);
	if (r) {
		unlock_two(b1, b2);
		return r;
	}
	n = wake_locked(
		b1, (uintptr_t)word, wake > 0 ? wake : 1, UINT32_MAX, shared, &tail);
	if (second)
		n += wake_locked(b2, (uintptr_t)word2, wake2 > 0 ? wake2 : 1, UINT32_MAX,
			shared, &tail);
	unlock_two(b1, b2);
	weft_futex_unpark(woken, n);
	return n;
}

/* ---- robust lists --------------------------------------------------------- */

enum {
	OFFSET = offsetof(struct robust_list_head, futex_offset),
	PENDING = offsetof(struct robust_list_head, list_op_pending),
};

/* kernel/futex/core.c, handle_futex_death: one word of a dead owner. */
static void robust_death(uintptr_t entry, long offset, int tid, bool pi, bool pending)
{
	uint32_t *word = (uint32_t *)(entry + (uintptr_t)offset), now;

	if ((uintptr_t)word % 4 || weft_load_user(word, &now))
		return;
	for (;;) {
		uint32_t owner = now & FUTEX_TID_MASK;

		if (pending && !pi && !owner) {
			weft_futex_wake(word, 1, UINT32_MAX, true);
			weft_futex_wake(word, 1, UINT32_MAX, false);
			weft_sys3(SYS_futex, (long)word, FUTEX_WAKE, 1);
			return;
		}
		if (owner != (uint32_t)tid)
			return;
		uint32_t dead = (now & FUTEX_WAITERS) | FUTEX_OWNER_DIED;

		if (cas_seq_cst(word, &now, dead))
			break;
	}
	if (pi)
		weft_futex_pi_died(word);
	else if (now & FUTEX_WAITERS) {
		weft_futex_wake(word, 1, UINT32_MAX, true);
		weft_futex_wake(word, 1, UINT32_MAX, false);
		weft_sys3(SYS_futex, (long)word, FUTEX_WAKE, 1);
	}
}

static bool load_pointer(uintptr_t at, uintptr_t *ret)
{
	uint32_t lo, hi;

	if (weft_load_user((const uint32_t *)at, &lo) ||
		weft_load_user((const uint32_t *)at + 1, &hi))
		return false;
	*ret = (uintptr_t)hi << 32 | lo;
	return true;
}

void weft_futex_walk_robust(void *head, size_t len, int tid)
{
	uintptr_t h = (uintptr_t)head, entry, pending, next, offset;
	unsigned limit = ROBUST_LIMIT;

	if (!h || len != sizeof(struct robust_list_head))
		return;
	if (!load_pointer(h, &entry) || !load_pointer(h + OFFSET, &offset) ||
		!load_pointer(h + PENDING, &pending))
		return;
	if ((entry & ~1ul) == h && !pending)
		return; /* what nearly every thread leaves behind */
	while ((entry & ~1ul) != h && limit--) {
		uintptr_t at = entry & ~1ul;

		/* Read on first: the word's new owner may unlink or free it. */
		if (!load_pointer(at, &next))
			return;
		if (at != (pending & ~1ul))
			robust_death(at, (long)offset, tid, entry & 1, false);
		entry = next;
	}
	if (pending)
		robust_death(pending & ~1ul, (long)offset, tid, pending & 1, true);
}

bool weft_futex_locks_robust(const void *head, size_t len)
{
	uintptr_t pending;

	return head && len == sizeof(struct robust_list_head) &&
	       load_pointer((uintptr_t)head + PENDING, &pending) && pending;
}

void weft_futex_walk_all_robust(void)
{
	for (uint32_t i = 0; i < load_acquire(&weft_rt.fresh); i++) {
		struct fiber *f = weft_fiber_at(i);
		int tid = load_acquire(&f->tid);

		if (tid && f->robust_head)
			weft_futex_walk_robust(f->robust_head, f->robust_len, tid);
	}
}

/* ---- fork ----------------------------------------------------------------- */

void weft_futex_lock_all(void)
{
	for (int i = 0; i < BUCKETS; i++)
		weft_lock(&bucket[i].lock);
}

void weft_futex_unlock_all(void)
{
	for (int i = 0; i < BUCKETS; i++)
		weft_unlock(&bucket[i].lock);
}

void weft_futex_forget(void)
{
	for (int i = 0; i < BUCKETS; i++) {
		bucket[i].lock.word = 0;
		bucket[i].waiters.next = NULL;
	}
}
