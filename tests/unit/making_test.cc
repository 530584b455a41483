// runtime/making.c: weft makes descriptors, or the program closes numbers.
#include "on_fibers.h"

extern "C" {
#include "runtime/engine.h"
#include "runtime/keepers.h"
}
#include "runtime/making.h"

#include <sanitizer/asan_interface.h>

namespace
{

// In the kernel, where weft does not see it.
void block(int fd)
{
	char c;

	EXPECT_EQ(weft_sys3(SYS_read, fd, (long)&c, 1), 1);
}

TEST(Making, WaitsForWhoCloses)
{
	on_runtime({2}, [] {
		Fibers fibers;
		std::atomic<bool> closing{false}, ended{false};
		unsigned before = weft_rt.carriers;

		fibers.start_on(1, [&] {
			uint64_t until = in_ms(20);

			ASSERT_TRUE(weft_closing_begin());
			closing = true;
			spin_until([&] { return weft_now_ns() > until; });
			EXPECT_EQ(load_seq_cst(&weft_rt.carriers), before);
			ended = true;
			weft_closing_end();
		});
		spin_until([&] { return closing.load(); });
		EXPECT_EQ(weft_carrier_add(nullptr), 0);
		EXPECT_TRUE(ended);
		fibers.join();
	});
}

TEST(Making, IsWaitedForByWhoCloses)
{
	on_runtime({2}, [] {
		Fibers fibers;
		std::atomic<bool> close{false}, begun{false};
		std::atomic<bool> made{false};

		weft_lock(&weft_rt.threads_lock);
		weft_making_begin();
		fibers.start_on(1, [&] {
			close = true;
			ASSERT_TRUE(weft_closing_begin());
			EXPECT_TRUE(made);
			begun = true;
			weft_closing_end();
		});
		spin_until([&] { return close.load(); });
		for (uint64_t until = in_ms(20); weft_now_ns() < until;)
			EXPECT_FALSE(begun);
		made = true;
		weft_making_end();
		weft_unlock(&weft_rt.threads_lock);
		fibers.join();
		EXPECT_TRUE(begun);
	});
}

// A close that lingers may wait for somebody whom only the new carrier can run.
TEST(Making, DoesNotWaitForLongForACloseThatBlocks)
{
	on_runtime({2}, [] {
		Fibers fibers;
		std::atomic<bool> closing{false};
		int fds[2];

		OK(pipe(fds));
		fibers.start_on(1, [&] {
			ASSERT_TRUE(weft_closing_begin());
			closing = true;
			block(fds[0]);
			weft_closing_end();
		});
		spin_until([&] { return closing.load(); });
		EXPECT_EQ(weft_carrier_add(nullptr), 0);
		/* It is known by now. */
		for (int i = 0; i < 20; i++)
			EXPECT_EQ(weft_carrier_add(nullptr), 0);
		OK(write(fds[1], "x", 1));
		fibers.join();
	});
}

// What waits in the ring of a carrier that is in a long close is begun anew elsewhere.
TEST(Making, ACloseThatBlocksKeepsNobodyInItsRing)
{
	Config config = {2};

	config.watched = true;
	on_runtime(config, [] {
		Fibers fibers;
		std::atomic<bool> waits{false};
		std::atomic<int> got{0};
		int fds[2], hold[2];

		OK(pipe(fds));
		OK(pipe(hold));
		fibers.start_on(1, [&] {
			char c;
			iovec v = {&c, 1};

			waits = true;
			got = (int)weft_io_read(fds[0], &v, 1, WEFT_TRIED_NOT);
		});
		until([&] { return waits.load(); });
		fibers.start_on(1, [&] {
			char c;

			weft_fiber_in_weft(weft_fiber_self(), true);
			ASSERT_TRUE(weft_closing_begin());
			EXPECT_EQ(weft_closing_call(SYS_read, hold[0], (long)&c, 1), 1);
			weft_closing_end();
			weft_fiber_in_weft(weft_fiber_self(), false);
		});
		weft_sleep_until(in_ms(20));
		OK(write(fds[1], "x", 1));
		until([&] { return got != 0; });
		EXPECT_EQ(got, 1);
		OK(write(hold[1], "x", 1));
		fibers.join();
	});
}

// Who makes it has others to look after.
TEST(Making, DoesNotWaitUntilTheKernelRunsTheNewOne)
{
	on_runtime({2}, [] {
		std::atomic<bool> stop{false};
		std::vector<std::thread> spinning;
		std::vector<carrier *> added;
		Fibers fibers;
		std::atomic<unsigned> ran{0};
		int not_yet = 0;

		for (unsigned i = 0; i < 8 * weft_rt.cpus; i++)
			spinning.emplace_back(
				[&] { spin_until([&] { return stop.load(); }); });
		for (int i = 0; i < 10; i++) {
			carrier *c;

			ASSERT_EQ(weft_carrier_add(&c), 0);
			not_yet += load_acquire(&c->began) == 0;
			EXPECT_EQ(weft_rt.carrier[weft_rt.carriers - 1], c);
			EXPECT_TRUE(weft_runtime_owns_fd(c->event_fd));
			added.push_back(c);
		}
		EXPECT_GT(not_yet, 0);
		stop = true;
		for (auto &t : spinning)
			t.join();
		for (carrier *c : added) {
			EXPECT_TRUE(weft_carrier_begins(c));
			fibers.start_on(c->id, [&] { ran++; });
		}
		fibers.join();
		EXPECT_EQ(ran, added.size());
	});
}

// Its kernel thread has left its stack. The sanitizer remembers frames there all the
// same.
void await_end(carrier *c)
{
	spin_until([&] { return !load_acquire(&c->lives); });
	ASAN_UNPOISON_MEMORY_REGION((char *)c->sched_top - (16 << 10), 16 << 10);
}

// Somebody closed one of its descriptors all the same: they may be the program's.
TEST(Making, OfOneThatCannotBeginIsTriedAgain)
{
	on_runtime({2}, [] {
		unsigned n = weft_rt.carriers;
		carrier *c, *again;

		weft_fault_arm(WEFT_FAULT_ENABLE, 1);
		ASSERT_EQ(weft_carrier_add(&c), 0);
		EXPECT_FALSE(weft_carrier_begins(c));
		EXPECT_EQ(weft_engine_fd(c), -1);
		EXPECT_EQ(c->event_fd, -1);
		for (int i = 0; i < 3; i++) {
			await_end(c);
			weft_fault_arm(WEFT_FAULT_ENABLE, 1);
			ASSERT_EQ(weft_carrier_add(&again), 0);
			EXPECT_EQ(again, c);
			EXPECT_FALSE(weft_carrier_begins(c));
			EXPECT_EQ(weft_rt.carriers, n + 1);
		}
		await_end(c);
		for (; n < 5; n++) {
			Fibers fibers;
			std::atomic<bool> ran{false};

			ASSERT_EQ(weft_carrier_add(&c), 0);
			ASSERT_TRUE(weft_carrier_begins(c));
			EXPECT_EQ(weft_rt.carriers, n + 1);
			EXPECT_EQ(weft_keepers_state(c) != 0, true);
			fibers.start_on(n, [&] { ran = true; });
			fibers.join();
			EXPECT_TRUE(ran);
		}
	});
}

// … nor can its kernel thread be made.
TEST(Making, OfOneThatCannotBeginMayFailAsWell)
{
	on_runtime({2}, [] {
		unsigned n = weft_rt.carriers;
		Fibers fibers;
		std::atomic<bool> ran{false};
		carrier *c;

		weft_fault_arm(WEFT_FAULT_ENABLE, 1);
		ASSERT_EQ(weft_carrier_add(&c), 0);
		EXPECT_FALSE(weft_carrier_begins(c));
		await_end(c);
		for (int i = 0; i < 2; i++) {
			weft_fault_arm(WEFT_FAULT_CLONE, 1);
			EXPECT_EQ(weft_carrier_add(nullptr), -EAGAIN);
			EXPECT_LT(load_relaxed(&c->began), 0);
		}
		std::set<std::string> had = names_in("/proc/self/fd");
		ASSERT_EQ(weft_carrier_add(nullptr), 0);
		EXPECT_TRUE(weft_carrier_begins(c));
		EXPECT_LE(names_in("/proc/self/fd").size(), had.size() + 1)
			<< "its engine was there already";
		EXPECT_EQ(weft_rt.carriers, n + 1);
		fibers.start_on(c->id, [&] { ran = true; });
		fibers.join();
		EXPECT_TRUE(ran);
	});
}

TEST(Making, IsOverInAForkChild)
{
	weft_making_begin();
	in_child([] {
		weft_making_forget();
		EXPECT_FALSE(weft_closing_begin()) << "a native thread";
	});
	weft_making_end();
}

} // namespace
