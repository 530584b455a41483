/*
 * Robust lists as the kernel walks them when their thread ends: at most 2048 entries,
 * what the thread owns is marked and nothing else, waiters stay announced,
 * priority-inheritance entries, the entry that was just being worked on, lists in a
 * circle and bad pointers. The lists are registered by the threads themselves, with the
 * system call.
 */
#include "prog.h"

#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>

enum { LONG = 3000 };

struct entry {
	struct robust_list link;
	uint32_t word;
};

static struct {
	struct robust_list_head head;
	struct entry entry[LONG];
} list;

static struct robust_list *tagged(struct entry *e, bool pi)
{
	return (struct robust_list *)((uintptr_t)&e->link | pi);
}

static void make(int n)
{
	memset(&list, 0, sizeof list);
	list.head.futex_offset = offsetof(struct entry, word);
	list.head.list.next = n ? &list.entry[0].link : &list.head.list;
	for (int i = 0; i < n; i++)
		list.entry[i].link.next =
			i + 1 < n ? &list.entry[i + 1].link : &list.head.list;
}

static void *owns(void *arg)
{
	uint32_t self = (uint32_t)syscall(SYS_gettid);
	void (*prepare)(uint32_t) = arg;
	struct robust_list_head *head;
	size_t len;

	OK(syscall(SYS_set_robust_list, &list.head, sizeof list.head));
	OK(syscall(SYS_get_robust_list, 0, &head, &len));
	CHECK(head == &list.head && len == sizeof list.head);
	prepare(self);
	return NULL;
}

static void show(const char *what, void (*prepare)(uint32_t))
{
	int died = 0, waiters = 0, owned = 0, others = 0, first = -1;

	on_thread(owns, prepare);
	for (int i = 0; i < LONG; i++) {
		uint32_t w = list.entry[i].word;

		died += (w & FUTEX_OWNER_DIED) != 0;
		waiters += (w & FUTEX_WAITERS) != 0;
		owned += (w & FUTEX_TID_MASK) != 0 && (w & FUTEX_TID_MASK) != 1;
		others += (w & FUTEX_TID_MASK) == 1;
		if (first < 0 && (w & FUTEX_OWNER_DIED))
			first = i;
	}
	say("%s: %d died, first %d, %d with waiters, %d still owned, %d of others", what,
		died, first, waiters, owned, others);
}

static void all_of(int n, uint32_t self)
{
	make(n);
	for (int i = 0; i < n; i++)
		list.entry[i].word = self;
}

static void none(uint32_t self)
{
	(void)self;
	make(0);
}
static void few(uint32_t self)
{
	all_of(10, self);
}
static void to_the_limit(uint32_t self)
{
	all_of(2048, self);
}
static void one_too_many(uint32_t self)
{
	all_of(2049, self);
}
static void many_too_many(uint32_t self)
{
	all_of(LONG, self);
}
static void with_waiters(uint32_t self)
{
	all_of(10, self);
	for (int i = 0; i < 10; i += 2)
		list.entry[i].word |= FUTEX_WAITERS;
}
static void of_others(uint32_t self)
{
	all_of(10, self);
	for (int i = 0; i < 10; i += 3)
		list.entry[i].word = 1;
	list.entry[1].word = 0;
}
static void inheriting(uint32_t self)
{
	all_of(10, self);
	for (int i = 0; i < 9; i++)
		list.entry[i].link.next = tagged(&list.entry[i + 1], i % 2);
	list.head.list.next = tagged(&list.entry[0], true);
}
static void pending_owned(uint32_t self)
{
	make(2);
	list.entry[7].word = self;
	list.head.list_op_pending = &list.entry[7].link;
}
static void pending_not_yet(uint32_t self)
{
	(void)self;
	make(2);
	list.head.list_op_pending = &list.entry[7].link;
}
static void pending_inheriting(uint32_t self)
{
	make(0);
	list.entry[7].word = self;
	list.head.list_op_pending = tagged(&list.entry[7], true);
}
static void pending_on_the_list(uint32_t self)
{
	all_of(3, self);
	list.head.list_op_pending = &list.entry[1].link;
}
static void in_a_circle(uint32_t self)
{
	all_of(5, self);
	list.entry[4].link.next = &list.entry[0].link;
}
static void into_nowhere(uint32_t self)
{
	all_of(5, self);
	list.entry[2].link.next = bad_pointer;
}
static void misaligned(uint32_t self)
{
	all_of(5, self);
	list.head.futex_offset = offsetof(struct entry, word) + 2;
}
static void no_next_of_the_last(uint32_t self)
{
	all_of(5, self);
	list.entry[4].link.next = NULL;
}

int main(void)
{
	show("none", none);
	show("few", few);
	show("2048", to_the_limit);
	show("2049", one_too_many);
	show("3000", many_too_many);
	show("with waiters", with_waiters);
	show("of others", of_others);
	show("inheriting", inheriting);
	show("pending, owned", pending_owned);
	show("pending, not yet", pending_not_yet);
	show("pending, inheriting", pending_inheriting);
	show("pending, on the list", pending_on_the_list);
	show("in a circle", in_a_circle);
	show("into nowhere", into_nowhere);
	show("misaligned", misaligned);
	show("no next", no_next_of_the_last);
	say("bad length: %s", RESULT(syscall(SYS_set_robust_list, &list.head, 8)));
	return 0;
}
