// runtime/making.c: weft makes descriptors, or the program closes numbers.
#include "on_fibers.h"

#include "runtime/making.h"

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
		EXPECT_EQ(weft_carrier_add(), 0);
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
		EXPECT_EQ(weft_carrier_add(), 0);
		/* It is known by now. */
		for (int i = 0; i < 20; i++)
			EXPECT_EQ(weft_carrier_add(), 0);
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

// Somebody closed one of its descriptors all the same.
TEST(Making, ThatFailsLateIsTriedAgain)
{
	on_runtime({2}, [] {
		unsigned n = weft_rt.carriers;

		for (int i = 0; i < 3; i++) {
			weft_fault_arm(WEFT_FAULT_ENABLE, 1);
			EXPECT_EQ(weft_carrier_add(), -EBADF);
			EXPECT_EQ(weft_rt.carriers, n);
		}
		for (; n < 5; n++) {
			Fibers fibers;
			std::atomic<bool> ran{false};

			ASSERT_EQ(weft_carrier_add(), 0);
			EXPECT_EQ(weft_rt.carriers, n + 1);
			fibers.start_on(n, [&] { ran = true; });
			fibers.join();
			EXPECT_TRUE(ran);
		}
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
