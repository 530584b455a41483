// runtime/fiber.c: ids, beginning and end, what the doors keep in a fiber.
#include "on_fibers.h"

#include <linux/futex.h>

#include <unordered_set>

namespace
{

TEST(Ids, AreVirtualUniqueAndFoundByNumber)
{
	on_runtime({2}, [] {
		Fibers fibers(Fibers::Own, 64 << 10);
		std::set<int> ids;
		Count go;

		for (int i = 0; i < 3000; i++) {
			struct fiber *f = fibers.start([&go] {
				struct fiber *self = weft_fiber_self();

				EXPECT_EQ(weft_fiber_by_tid(weft_fiber_tid(self)), self);
				go.await(1);
			});
			int tid = weft_fiber_tid(f);

			EXPECT_GT(tid, WEFT_TID_MIN);
			EXPECT_LE(tid, WEFT_TID_MAX);
			EXPECT_EQ(weft_fiber_by_tid(tid), f);
			ids.insert(tid);
		}
		EXPECT_EQ(ids.size(), 3000u);
		EXPECT_EQ(weft_rt.alive, 3001u);
		go.add();
		fibers.join();
		EXPECT_EQ(weft_rt.alive, 1u);
		for (int tid : ids)
			ASSERT_EQ(weft_fiber_by_tid(tid), nullptr) << "ended";
	});
}

TEST(Ids, NumbersThatAreNobodysFindNobody)
{
	on_runtime({1}, [] {
		for (int tid :
			{0, -1, 1, WEFT_TID_MIN, WEFT_TID_MIN + 1, WEFT_TID_MIN + 2000000,
				WEFT_TID_MAX, WEFT_TID_MAX + 1, INT_MAX, INT_MIN})
			EXPECT_EQ(weft_fiber_by_tid(tid), nullptr) << tid;
	});
}

// As with kernel pids: a stale id must not name somebody else soon.
TEST(Ids, AreNotReusedWithinThirtyThousandCreations)
{
	on_runtime({1}, [] {
		Fibers fibers(Fibers::Shared, 16 << 10);
		std::vector<int> ids;
		std::unordered_set<int> seen;
		const int n = 31000;

		for (int i = 0; i < n; i++) {
			ids.push_back(weft_fiber_tid(fibers.start([] {})));
			fibers.join();
		}
		for (int i = 0; i < n; i++) {
			if (i >= 30000)
				seen.erase(ids[(size_t)(i - 30000)]);
			ASSERT_TRUE(seen.insert(ids[(size_t)i]).second)
				<< "creation " << i;
		}
	});
}

TEST(Ids, TheTableGrowsOverChunksAndSurvivesAFailedOne)
{
	on_runtime({1}, [] {
		std::vector<struct fiber *> made;
		static char stack[4096];

		/* Not started: their ids are taken, they never end. */
		while (weft_rt.fresh % WEFT_FIBER_CHUNK)
			ASSERT_NE(
				weft_fiber_new(stack + sizeof stack, 0, nullptr, nullptr),
				nullptr);
		weft_fault_arm(WEFT_FAULT_MMAP, 1);
		EXPECT_EQ(weft_fiber_new(stack + sizeof stack, 0, nullptr, nullptr),
			nullptr)
			<< "no memory for the next chunk, nothing free";
		for (int i = 0; i < 3 * WEFT_FIBER_CHUNK; i++)
			ASSERT_NE(
				weft_fiber_new(stack + sizeof stack, 0, nullptr, nullptr),
				nullptr);
	});
}

// ---- the end

TEST(Exit, ClearsTheTidAndWakesOneSharedWaiter)
{
	on_runtime({2}, [] {
		Fibers fibers;
		Count go, woken;
		struct fiber *f = fibers.make([&] { go.await(1); });
		int *word = weft_fiber_clear_tid(f), tid = weft_fiber_tid(f);

		EXPECT_EQ(*word, tid);
		weft_fiber_start(f);
		for (int i = 0; i < 3; i++)
			fibers.start([&, word, tid] {
				if (weft_futex_wait((uint32_t *)word, (uint32_t)tid,
					    UINT32_MAX, true, WEFT_NO_DEADLINE) == 0)
					woken.add();
			});
		until([&] {
			return weft_rt.carrier[0]->counters[WEFT_COUNTER_FUTEX_WAITS] +
				       weft_rt.carrier[1]
					       ->counters[WEFT_COUNTER_FUTEX_WAITS] >=
			       4;
		});
		until([&] {
			return weft_futex_requeue((uint32_t *)word, 0, INT_MAX,
				       (uint32_t *)word, (uint32_t *)&tid, true) == 3;
		});
		go.add();
		woken.await(1);
		EXPECT_EQ(load_acquire(word), 0);
		EXPECT_EQ(weft_fiber_by_tid(tid), nullptr) << "gone before the store";
		EXPECT_EQ(weft_futex_wake(word, INT_MAX, UINT32_MAX, true), 2);
		woken.await(3);
	});
}

// Touches nothing that thread-local storage could be needed for.
void yield_and_exit(void *)
{
	weft_yield();
	weft_fiber_exit();
}

TEST(Exit, StackAndTlsMayGoAtOnce)
{
	weft_seed();
	on_runtime({3}, [] {
		/* Unmapped the moment the word is 0: whoever still stands there dies. */
		for (int i = 0; i < rounds(2000); i++) {
			enum { SIZE = 64 << 10 };
			char *p = (char *)mmap(nullptr, SIZE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			ASSERT_NE((void *)p, MAP_FAILED);
			uintptr_t *tcb = (uintptr_t *)(p + SIZE - 1024);
			static int alive;

			tcb[0] = tcb[2] = (uintptr_t)tcb;
			struct fiber *f = weft_fiber_new(
				tcb, (uintptr_t)tcb, yield_and_exit, nullptr);
			weft_fiber_in_weft(f, true);
			store_release(&alive, weft_fiber_tid(f));
			weft_fiber_set_clear_tid(f, &alive);
			weft_sched_post(weft_rt.carrier[i % 3], f);
			while (int tid = load_acquire(&alive))
				weft_futex_wait((uint32_t *)&alive, (uint32_t)tid,
					UINT32_MAX, true, WEFT_NO_DEADLINE);
			munmap(p, SIZE);
		}
	});
}

TEST(Exit, ThreadLocalsBelongToTheFiber)
{
	static thread_local int mine = 7;

	on_runtime({3, true}, [] {
		Fibers fibers;

		for (int i = 0; i < 20; i++)
			fibers.start([i] {
				volatile int *p = &mine;

				EXPECT_EQ(*p, 7);
				*p = i;
				errno = i;
				for (int k = 0; k < 100; k++) {
					weft_yield();
					ASSERT_EQ(*p, i);
					ASSERT_EQ(errno, i);
				}
			});
		fibers.join();
		EXPECT_EQ(mine, 7);
	});
}

// ---- clone

// The child of clone continues behind the "syscall" of regs.raw, all registers as in
// regs.
extern "C" void clone_child();
extern "C" void clone_child_body(uint64_t *regs);
__asm__(".text\n"
	"clone_syscall:\n"
	"	syscall\n"
	"clone_child:\n"
	"	push %rsp\n"
	"	push %rax\n	push %rbx\n	push %rdx\n	push %rsi\n	push %rdi\n"
	"	push %rbp\n	push %r8\n	push %r9\n	push %r10\n	push %r12\n"
	"	push %r13\n	push %r14\n	push %r15\n"
	"	mov %rsp, %rdi\n"
	"	and $-16, %rsp\n"
	"	call clone_child_body\n"
	"	ud2\n");
extern "C" const char clone_syscall[];

uint64_t child_regs[14];

extern "C" __attribute__((used, no_sanitize_address)) void clone_child_body(
	uint64_t *regs)
{
	for (int i = 0; i < 14; i++)
		child_regs[i] = regs[i];
	weft_fiber_exit();
}

TEST(Clone, ChildStartsBehindTheSyscallWithItsRegistersAndZero)
{
	on_runtime({2}, [] {
		alignas(16) static char stack[64 << 10];
		char *top = stack + sizeof stack - 40; // not aligned: exactly this one
		struct weft_regs r = {};
		int alive = 1;

		r.r15 = 15, r.r14 = 14, r.r13 = 13, r.r12 = 12, r.rbp = 5, r.rbx = 3;
		r.r9 = 9, r.r8 = 8, r.r10 = 10, r.rdx = 2, r.rsi = 6, r.rdi = 7;
		r.rax = 56;
		r.raw = (uint64_t)clone_syscall;
		r.rsp = 0x1234;
		struct fiber *f = weft_fiber_new_clone(top, weft_rdfsbase(), &r);
		ASSERT_NE(f, nullptr);
		weft_fiber_in_weft(f, true);
		weft_fiber_set_clear_tid(f, &alive);
		weft_fiber_start(f);
		until([&] { return !load_acquire(&alive); });
		const uint64_t want[14] = {
			15, 14, 13, 12, 10, 9, 8, 5, 7, 6, 2, 3, 0, (uint64_t)top};
		for (int i = 0; i < 14; i++)
			EXPECT_EQ(child_regs[i], want[i]) << "register " << i;
	});
}

// ---- what the doors keep

TEST(Fiber, NamesAreCutAtFifteen)
{
	on_runtime({1}, [] {
		struct fiber *f = weft_fiber_self();

		EXPECT_STREQ(weft_fiber_name(f), "");
		weft_fiber_set_name(f, "worker");
		EXPECT_STREQ(weft_fiber_name(f), "worker");
		weft_fiber_set_name(f, "a-name-that-is-too-long");
		EXPECT_STREQ(weft_fiber_name(f), "a-name-that-is-");
		weft_fiber_set_name(f, "w");
		EXPECT_STREQ(weft_fiber_name(f), "w");
	});
}

TEST(Fiber, ANewOneHasNothingOfTheOneBefore)
{
	on_runtime({1}, [] {
		Fibers fibers(Fibers::Shared, 16 << 10);

		for (int i = 0; i < 1000; i++) {
			fibers.start([] {
				struct fiber *f = weft_fiber_self();
				void *head;
				size_t len;

				weft_fiber_get_robust(f, &head, &len);
				EXPECT_EQ(head, nullptr);
				EXPECT_EQ(len, 0u);
				EXPECT_STREQ(weft_fiber_name(f), "");
				EXPECT_FALSE(weft_fiber_creating(f));
				EXPECT_EQ(weft_fiber_take_tried(f), WEFT_TRIED_NOT);
				EXPECT_FALSE(weft_signals_attention(f));
				weft_fiber_set_name(f, "old");
				weft_fiber_set_creating(f, WEFT_CREATING_FIBER);
				weft_fiber_set_tried(f, WEFT_TRIED_BLOCKS);
				weft_fiber_set_vector_live(f, true);
			});
			fibers.join();
		}
	});
}

TEST(Fiber, TriedIsTakenOnce)
{
	on_runtime({1}, [] {
		struct fiber *f = weft_fiber_self();

		weft_fiber_set_tried(f, WEFT_TRIED_BLOCKS);
		EXPECT_EQ(weft_fiber_take_tried(f), WEFT_TRIED_BLOCKS);
		EXPECT_EQ(weft_fiber_take_tried(f), WEFT_TRIED_NOT);
		EXPECT_TRUE(weft_fiber_in_weft(f, false));
		EXPECT_FALSE(weft_fiber_in_weft(f, true));
	});
}

TEST(Fiber, NativeThreadsHaveNone)
{
	on_runtime({2}, [] {
		std::atomic<bool> done{false};
		Native thread([&] {
			EXPECT_EQ(weft_fiber_self(), nullptr);
			EXPECT_EQ(weft_enter_fiber(), nullptr);
			EXPECT_EQ(weft_fiber_by_tid(getpid()), weft_fiber_main());
			done = true;
		});
		until([&] { return done.load(); });
	});
}

// vfork's child has its parent's FS and GS base, and belongs to the kernel.
TEST(Fiber, AVmChildIsNotItsParent)
{
	on_runtime({2}, [] {
		struct fiber *f = weft_fiber_self();
		static struct fiber *volatile seen;
		alignas(16) static char stack[64 << 10];

		for (bool outlive : {false, true}) {
			seen = f;
			weft_fiber_expect_vm_child(f, outlive);
			int pid = clone(
				[](void *) {
					seen = weft_enter_fiber();
					syscall(SYS_exit, 0);
					return 0;
				},
				stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD,
				nullptr);
			ASSERT_GT(pid, 0);
			EXPECT_EQ(seen, nullptr);
			EXPECT_EQ(weft_enter_fiber(), f);
			OK(waitpid(pid, nullptr, 0));
		}
	});
}

// ---- robust lists

struct Robust {
	struct robust_list_head head;
	struct Lock {
		struct robust_list link;
		uint32_t word;
	} lock[4];

	// The first n locks are on the list.
	explicit Robust(int n)
	{
		memset(this, 0, sizeof *this);
		struct robust_list *at = &head.list;

		for (int i = 0; i < n; i++) {
			at->next = &lock[i].link;
			at = &lock[i].link;
		}
		at->next = &head.list;
		head.futex_offset = offsetof(Lock, word);
	}
};

// The same list, left behind by a dying kernel thread and by a dying fiber.
void compare_with_the_kernel(
	int n, const std::function<void(Robust &, uint32_t tid)> &set)
{
	Robust native(n), ours(n);
	uint32_t kernel_tid = 0, our_tid = 0;

	Native([&] {
		kernel_tid = (uint32_t)syscall(SYS_gettid);
		set(native, kernel_tid);
		OK(syscall(SYS_set_robust_list, &native.head, sizeof native.head));
	}).join();
	Fibers fibers;
	fibers.start([&] {
		struct fiber *f = weft_fiber_self();

		our_tid = (uint32_t)weft_fiber_tid(f);
		set(ours, our_tid);
		weft_fiber_set_robust(f, &ours.head, sizeof ours.head);
	});
	fibers.join();
	for (int i = 0; i < 4; i++) {
		uint32_t a = native.lock[i].word, b = ours.lock[i].word;

		EXPECT_EQ(a & ~FUTEX_TID_MASK, b & ~FUTEX_TID_MASK) << "lock " << i;
		EXPECT_EQ((a & FUTEX_TID_MASK) == kernel_tid,
			(b & FUTEX_TID_MASK) == our_tid);
		EXPECT_EQ(!(a & FUTEX_TID_MASK), !(b & FUTEX_TID_MASK)) << "lock " << i;
	}
}

TEST(Robust, OwnedLocksAreMarkedOthersAreNot)
{
	on_runtime({1}, [] {
		compare_with_the_kernel(4, [](Robust &r, uint32_t tid) {
			r.lock[0].word = tid;
			r.lock[1].word = tid | FUTEX_WAITERS;
			r.lock[2].word = 1; // somebody else's
			r.lock[3].word = 0;
		});
	});
}

TEST(Robust, ThePendingLockCountsToo)
{
	on_runtime({1}, [] {
		compare_with_the_kernel(1, [](Robust &r, uint32_t tid) {
			r.lock[0].word = tid;
			r.lock[2].word = tid;
			r.head.list_op_pending = &r.lock[2].link;
		});
	});
}

TEST(Robust, APendingLockThatIsOnTheListIsDoneOnce)
{
	on_runtime({1}, [] {
		compare_with_the_kernel(3, [](Robust &r, uint32_t tid) {
			for (int i = 0; i < 3; i++)
				r.lock[i].word = tid | FUTEX_WAITERS;
			r.head.list_op_pending = &r.lock[1].link;
		});
	});
}

TEST(Robust, PiLocksOnTheListAreMarked)
{
	on_runtime({1}, [] {
		compare_with_the_kernel(2, [](Robust &r, uint32_t tid) {
			r.lock[0].word = tid;
			r.lock[1].word = tid;
			r.head.list.next =
				(struct robust_list *)((uintptr_t)r.head.list.next | 1);
		});
	});
}

TEST(Robust, AListInACircleEnds)
{
	on_runtime({1}, [] {
		compare_with_the_kernel(4, [](Robust &r, uint32_t tid) {
			r.lock[0].word = tid;
			r.lock[3].word = tid;
			r.lock[3].link.next = &r.lock[1].link; // never back to the head
		});
	});
}

TEST(Robust, ABadNextPointerEndsTheWalkAfterItsLock)
{
	on_runtime({1}, [] {
		compare_with_the_kernel(2, [](Robust &r, uint32_t tid) {
			r.lock[0].word = tid;
			r.lock[1].word = tid;
			r.lock[1].link.next = (struct robust_list *)8; // not mapped
		});
	});
}

TEST(Robust, ABadHeadIsIgnored)
{
	on_runtime({1}, [] {
		Fibers fibers;

		for (uintptr_t head : {(uintptr_t)8, (uintptr_t)-64})
			fibers.start([head] {
				weft_fiber_set_robust(weft_fiber_self(), (void *)head,
					sizeof(struct robust_list_head));
			});
	});
}

TEST(Robust, AWaiterIsWokenByTheOwnersDeath)
{
	on_runtime({2}, [] {
		Robust r(1);
		Fibers fibers;
		Count owned, woken;
		uint32_t tid = 0;

		struct fiber *owner = fibers.make([&] {
			struct fiber *f = weft_fiber_self();

			weft_fiber_set_robust(f, &r.head, sizeof r.head);
			owned.await(2);
		});
		tid = (uint32_t)weft_fiber_tid(owner);
		r.lock[0].word = tid | FUTEX_WAITERS;
		weft_fiber_start(owner);
		for (bool shared : {false, true})
			fibers.start([&, shared] {
				long n = weft_futex_wait(&r.lock[0].word,
					tid | FUTEX_WAITERS, UINT32_MAX, shared,
					WEFT_NO_DEADLINE);
				EXPECT_EQ(n, 0);
				woken.add();
			});
		for (bool shared : {false, true})
			until([&] {
				return weft_futex_requeue(&r.lock[0].word, 0, INT_MAX,
					       &r.lock[0].word, nullptr, shared) >= 0 &&
				       weft_futex_requeue(&r.lock[0].word, 0, INT_MAX,
					       &r.lock[0].word, &r.lock[0].word,
					       shared) == 1;
			});
		owned.add(2);
		woken.await(2);
		EXPECT_EQ(r.lock[0].word, FUTEX_WAITERS | FUTEX_OWNER_DIED);
	});
}

} // namespace
