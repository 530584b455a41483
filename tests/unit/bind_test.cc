// runtime/bind.c: fibers with a kernel thread of their own.
#include "on_fibers.h"

#include "runtime/bind.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <poll.h>
#include <sys/timerfd.h>

extern "C" {
#include "runtime/io_impl.h"
#include "runtime/queue_impl.h"
}

namespace
{

long kernel_tid()
{
	return weft_sys0(SYS_gettid);
}

bool is_carrier(long tid)
{
	for (unsigned i = 0; i < weft_rt.carriers; i++)
		if (weft_rt.carrier[i]->tid == tid)
			return true;
	return false;
}

TEST(Bind, TheFiberStaysOnAKernelThreadThatIsNobodyElses)
{
	on_runtime({2}, [] {
		Fibers fibers;
		std::atomic<int> others{0};
		std::atomic<bool> done{false};

		for (int i = 0; i < 4; i++)
			fibers.start([&] {
				ASSERT_EQ(weft_fiber_bind(WEFT_BIND_OTHER), 0);
				long tid = kernel_tid();

				EXPECT_FALSE(is_carrier(tid));
				EXPECT_EQ(weft_fiber_kernel_tid(weft_fiber_self()), tid);
				EXPECT_TRUE(weft_fiber_is_bound(weft_fiber_self()));
				EXPECT_EQ(weft_fiber_bind(WEFT_BIND_SECCOMP), 0);
				for (int k = 0; k < 20; k++) {
					weft_sleep_until(weft_now_ns() + 1000000);
					EXPECT_EQ(kernel_tid(), tid);
					weft_yield();
					EXPECT_EQ(kernel_tid(), tid);
					EXPECT_EQ(weft_offload(
							  [](void *) {
								  return kernel_tid();
							  },
							  nullptr),
						tid)
						<< "its calls are made in place";
				}
				done = true;
			});
		for (int i = 0; i < 4; i++)
			fibers.start([&] {
				while (!done) {
					EXPECT_TRUE(is_carrier(kernel_tid()));
					weft_sleep_until(weft_now_ns() + 100000);
					others++;
				}
			});
		fibers.join();
		EXPECT_GT(others, 0);
		EXPECT_EQ(weft_bound_count(WEFT_BIND_OTHER), 4u);
		EXPECT_EQ(weft_bound_count(WEFT_BIND_SECCOMP), 0u)
			<< "it was bound already";
	});
}

TEST(Bind, FutexesWakeItFromCarriersAndTheOtherWayRound)
{
	on_runtime({2}, [] {
		Fibers fibers;
		uint32_t word = 0;
		constexpr int turns = 300;
		auto play = [&](uint32_t mine) {
			for (int i = 0; i < turns; i++) {
				uint32_t now;
				while ((now = __atomic_load_n(&word, __ATOMIC_SEQ_CST)) %
						2 !=
					mine)
					weft_futex_wait(&word, now, UINT32_MAX, false,
						WEFT_NO_DEADLINE);
				__atomic_add_fetch(&word, 1, __ATOMIC_SEQ_CST);
				weft_futex_wake(&word, INT_MAX, UINT32_MAX, false);
			}
		};

		fibers.start([&] {
			ASSERT_EQ(weft_fiber_bind(WEFT_BIND_OTHER), 0);
			play(0);
		});
		fibers.start([&] { play(1); });
		fibers.join();
		EXPECT_EQ(word, 2u * turns);
	});
}

TEST(Bind, TheMainFiberGetsTheFirstThreadAndHandsOverWhatWasThere)
{
	on_runtime({2}, [] {
		Fibers fibers;
		std::atomic<int> ended{0};

		for (int i = 0; i < 200; i++)
			fibers.start([&, i] {
				weft_sleep_until(weft_now_ns() + 1000000 + i * 10000);
				for (int k = 0; k < 10; k++)
					weft_yield();
				ended++;
			});
		ASSERT_EQ(weft_fiber_bind(WEFT_BIND_OTHER), 0);
		EXPECT_EQ(kernel_tid(), getpid());
		// Not parked once: what was here goes on all the same.
		for (uint64_t until = in_ms(5000); ended < 200 && weft_now_ns() < until;)
			weft_sys0(SYS_sched_yield);
		EXPECT_EQ(ended, 200);
		fibers.join();
		EXPECT_EQ(kernel_tid(), getpid());
		fibers.start([] { EXPECT_NE(kernel_tid(), getpid()); });
		fibers.join();
	});
}

// express.c puts fibers into the queue of a carrier that may become bound just then.
TEST(Bind, WhatComesIntoTheQueueAfterwardsIsHandedOver)
{
	on_runtime({2}, [] {
		Fibers fibers;
		std::atomic<int> ran{0};
		auto into_queue = [](struct fiber *f, void *home) {
			auto *c = (struct carrier *)home;

			store_relaxed(&f->state, FIBER_READY);
			weft_spill_push(c, f);
			weft_carrier_wake(c);
			return true;
		};

		ASSERT_EQ(weft_fiber_bind(WEFT_BIND_OTHER), 0);
		for (int i = 0; i < 5; i++)
			fibers.start([&] {
				weft_park(WEFT_REASON_YIELD, into_queue,
					weft_rt.carrier[0]);
				ran++;
			});
		fibers.join();
		EXPECT_EQ(ran, 5);
	});
}

TEST(Bind, APinnedFiberKeepsItsKernelThread)
{
	on_runtime({2}, [] {
		Fibers fibers;

		fibers.start([] {
			weft_fiber_pin(WEFT_PIN_CALL, 1);
			long tid = kernel_tid();
			ASSERT_EQ(weft_fiber_bind(WEFT_BIND_OTHER), 0);
			EXPECT_EQ(kernel_tid(), tid);
			weft_sleep_until(weft_now_ns() + 1000000);
			EXPECT_EQ(kernel_tid(), tid);
			weft_fiber_unpin();
			weft_sleep_until(weft_now_ns() + 1000000);
			EXPECT_EQ(kernel_tid(), tid);
		});
		fibers.join();
	});
}

// It does not have the descriptors of carriers that were made later. The monitor may have
// made the first few before.
TEST(Bind, AThreadWithADescriptorTableOfItsOwnWakesWhoSleepsThere)
{
	Config config = {1};

	config.watched = true;
	on_runtime(config, [] {
		Fibers fibers;
		std::atomic<bool> unshared{false};
		std::atomic<unsigned> latest{0};
		std::atomic<int> ended{0};
		static uint32_t word;

		fibers.start([&] {
			ASSERT_EQ(weft_fiber_bind(WEFT_BIND_NAMESPACES), 0);
			OK(unshare(CLONE_FILES));
			unshared = true;
			int without = 0;
			for (unsigned n = 1; n <= 20; n++) {
				while (latest != n)
					weft_sleep_until(weft_now_ns() + 100000);
				const struct carrier *c = weft_rt.carrier[n];
				while (!load_relaxed(&c->sleeping))
					weft_sys0(SYS_sched_yield);
				without += !weft_carrier_event(c);
				EXPECT_EQ(weft_futex_wake(&word, 1, ~0u, false), 1);
			}
			EXPECT_GE(without, 15);
		});
		until([&] { return unshared.load(); });
		for (unsigned n = 1; n <= 20; n++) {
			carrier *added;
			ASSERT_EQ(weft_carrier_add(&added), 0);
			ASSERT_TRUE(weft_carrier_begins(added));
			std::atomic<bool> waits{false};

			fibers.start_on(n, [&] {
				waits = true;
				EXPECT_EQ(weft_futex_wait(
						  &word, 0, ~0u, false, in_ms(10000)),
					0);
				ended++;
			});
			until([&] { return waits.load(); });
			latest = n;
			until([&] { return ended == (int)n; });
		}
		fibers.join();
	});
}

TEST(Bind, AnotherFiberIsBoundWhenItRuns)
{
	on_runtime({2}, [] {
		Fibers fibers;
		std::atomic<struct fiber *> sleeper{nullptr};
		std::atomic<bool> bound{false};

		fibers.start([&] {
			sleeper = weft_fiber_self();
			for (uint64_t until = in_ms(5000);
				weft_now_ns() < until && !bound;) {
				weft_sleep_until(weft_now_ns() + 100000);
				weft_signals_deliver(nullptr);
				bound = weft_fiber_is_bound(weft_fiber_self());
			}
		});
		fibers.start([&] {
			while (!sleeper)
				weft_yield();
			weft_fiber_bind_soon(sleeper, WEFT_BIND_AFFINITY);
		});
		fibers.join();
		EXPECT_TRUE(bound);
		EXPECT_EQ(weft_bound_count(WEFT_BIND_AFFINITY), 1u);
	});
}

TEST(Bind, KernelThreadsEndAndTheirMemoryIsUsedAgain)
{
	on_runtime({2}, [] {
		size_t before = names_in("/proc/self/task").size();
		struct carrier *helpers;
		int structs = 0;

		for (int round = 0; round < 50; round++) {
			Fibers fibers;

			for (int i = 0; i < 4; i++)
				fibers.start([] {
					ASSERT_EQ(weft_fiber_bind(WEFT_BIND_OTHER), 0);
				});
			fibers.join();
		}
		for (uint64_t until = in_ms(5000);
			names_in("/proc/self/task").size() > before + 1 &&
			weft_now_ns() < until;)
			weft_sleep_until(weft_now_ns() + 1000000);
		EXPECT_LE(names_in("/proc/self/task").size(), before + 1);
		for (helpers = weft_rt.helpers; helpers; helpers = helpers->all_next)
			structs += helpers->kind == CARRIER_BOUND;
		EXPECT_LT(structs, 100) << "of 200";
	});
}

TEST(Bind, WithoutAThreadNothingChanges)
{
	on_runtime({2}, [] {
		Fibers fibers;

		fibers.start([] {
			weft_fault_arm(WEFT_FAULT_CLONE, 1);
			EXPECT_EQ(weft_fiber_bind(WEFT_BIND_OTHER), -EAGAIN);
			weft_fault_arm(WEFT_FAULT_CLONE, 0);
			EXPECT_FALSE(weft_fiber_is_bound(weft_fiber_self()));
			EXPECT_TRUE(is_carrier(kernel_tid()));
			EXPECT_EQ(weft_fiber_bind(WEFT_BIND_OTHER), 0) << "the next time";
		});
		fibers.join();
	});
}

// A number for a notifier; the filter lets everything pass. No other call asks for one.
int seccomp_notifier()
{
	sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	sock_fprog program = {1, &allow};

	OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
		SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

// Where one is not to be had (no privileges) the others are asked all the same.
TEST(Bind, WhatTheKernelAsksByIsKnown)
{
	in_child([] {
		const std::pair<const char *, int> asks[] = {
			{"userfaultfd", (int)syscall(SYS_userfaultfd, O_CLOEXEC)},
			{"fuse", open("/dev/fuse", O_RDWR | O_CLOEXEC)},
			{"fanotify", fanotify_init(FAN_CLASS_CONTENT, O_RDONLY)},
			{"seccomp", seccomp_notifier()}};
		int ends[2], known = 0;

		for (auto &a : asks) {
			if (a.second < 0) {
				printf("%s: none here (%s)\n", a.first, strerror(errno));
				continue;
			}
			EXPECT_TRUE(weft_fd_kernel_asks(a.second)) << a.first;
			EXPECT_TRUE(weft_fd_kernel_asks(a.second)) << "and is kept";
			known++;
		}
		EXPECT_GT(known, 0);
		OK(pipe(ends));
		for (int fd : {ends[0], OK(eventfd(0, 0)),
			     OK(timerfd_create(CLOCK_MONOTONIC, 0)),
			     OK(open("/dev/null", O_RDONLY)), OK(open("/", O_RDONLY)),
			     4000})
			EXPECT_FALSE(weft_fd_kernel_asks(fd));
	});
}

TEST(Bind, WhoWaitsForTheKernelsQuestionsIsBound)
{
	on_runtime({1}, [] {
		int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
		uffdio_api api = {UFFD_API, 0, 0};
		int event = OK(eventfd(0, 0));
		Fibers fibers;

		if (uffd < 0) {
			printf("no userfaultfd here (%s)\n", strerror(errno));
			return;
		}
		OK(ioctl(uffd, UFFDIO_API, &api));
		for (int other : {event, uffd})
			fibers.start([=] {
				pollfd p[2] = {{event, POLLIN, 0}, {other, POLLIN, 0}};

				EXPECT_EQ(weft_io_poll(p, 2, weft_now_ns() + 1000000,
						  WEFT_TRIED_NOT),
					0);
				EXPECT_EQ(weft_fiber_is_bound(weft_fiber_self()),
					other == uffd);
			});
		fibers.join();
		EXPECT_EQ(weft_bound_count(WEFT_BIND_ANSWERS_KERNEL), 1u);
	});
}

} // namespace
