/*
 * crowd.c - many at one mutex of libc's.
 */
#include "futex_impl.h"

enum {
	CONVOY_NS = 10000000, /* who has waited for a free mutex for so long … */
	CONVOY_AT_ONCE = 8,   /* … is not alone: so many more are woken */
	PLACES = 64,          /* how far back it finds its place again */
};

static const uint64_t CONVOY_TSC = WEFT_TSC(CONVOY_NS);

/* One that had waited for long when it was woken, and came too late all the same. */
void weft_crowd_enqueue_again(struct futex_bucket *b, struct futex_waiter *w)
{
	struct list *at = b->waiters.next;

	for (int i = 0; i < PLACES && at != &b->waiters; i++, at = at->next)
		if (container_of(at, struct futex_waiter, link)->since > w->since)
			break;
	store_relaxed(&w->bucket, b);
	w->early = false;
	list_push_back(at, &w->link); /* before that one */
}

/*
 * A mutex of libc's (nptl/lowlevellock.c: 0 free, 2 others wait) was given back, and the
 * first of those who wait for it has waited for long. More of them than that one.
 *
 * Each wakes the next when it gives the mutex back, and natively the next one runs at
 * once. Here it runs when who woke it parks, which is a whole request later; so a crowd
 * that has come together while somebody held the mutex for long dissolves as slowly as
 * one carrier serves requests, while others take the mutex, which is free most of the
 * time, in passing. (MariaDB, 4,096 connections that begin at once: 2,000 at one mutex,
 * free whenever it was looked at, and the last of them had an answer after 3 s; the
 * others each 0.2 s.) They may find it taken: libc waits again, as for any wake-up that
 * is not for it (futex(2), "spurious"), and gets its place back.
 */
int weft_crowd_wake(
	struct futex_bucket *b, uintptr_t addr, struct fiber *first, struct fiber ***tail)
{
	uint64_t now = weft_tsc();
	uint32_t word;
	int n = 0;

	if (!first || first->fw.val != 2 || now - first->fw.since < CONVOY_TSC)
		return 0;
	first->fw.early = true;
	if (weft_load_user((const uint32_t *)addr, &word) || word)
		return 0;
	for (struct list *l = b->waiters.next, *next;
		l != &b->waiters && n < CONVOY_AT_ONCE; l = next) {
		struct futex_waiter *w = container_of(l, struct futex_waiter, link);

		next = l->next;
		if (!weft_futex_matches(w, addr, false) || !w->fiber)
			continue;
		if (w->val != 2 || now - w->since < CONVOY_TSC)
			break;
		w->early = true;
		n += weft_futex_take(w, tail);
	}
	return n;
}
