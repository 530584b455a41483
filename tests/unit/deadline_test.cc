// runtime/deadline.c: times of clocks that are set while somebody waits for them. Mostly
// the runtime is made to believe so; what the kernel tells is made with a clock that is
// set to what it shows.
#include "on_fibers.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <time.h>

extern "C" {
#include "runtime/deadline.h"
}

namespace
{

const int64_t HOUR = 3600ll * 1000000000;

uint64_t shows(int clock)
{
	timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t at(int clock, int64_t from_now)
{
	uint64_t ns = shows(clock) + (uint64_t)from_now;

	return weft_deadline_at(clock, ns / 1000000000u, ns % 1000000000u);
}

// ---- one word

TEST(Deadline, KeepsItsClockAndItsTime)
{
	for (int clock : {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME, CLOCK_TAI}) {
		uint64_t ns, want = 1795000000u * 1000000000ull + 999999999;
		uint64_t d = weft_deadline_at(clock, 1795000000, 999999999);

		EXPECT_EQ(weft_deadline_clock(d, &ns), clock);
		EXPECT_EQ(ns, want);
		EXPECT_EQ(weft_deadline_moves(d), clock != CLOCK_MONOTONIC);
		d = weft_deadline_at(clock, 0, 0);
		EXPECT_EQ(weft_deadline_clock(d, &ns), clock);
		EXPECT_EQ(ns, 0u);
		EXPECT_EQ(weft_deadline_left(d), 0u);
	}
}

TEST(Deadline, CenturiesAreFarAndNotOver)
{
	for (int clock : {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME, CLOCK_TAI})
		for (uint64_t sec : {20000000000ull, (unsigned long long)INT64_MAX}) {
			uint64_t ns, d = weft_deadline_at(clock, sec, 999999999);

			EXPECT_NE(d, WEFT_NO_DEADLINE);
			EXPECT_EQ(weft_deadline_clock(d, &ns), clock);
			EXPECT_GT(weft_deadline_left(d), 24ull * 365 * HOUR);
			EXPECT_LE(weft_deadline_monotonic(d), WEFT_FAR_DEADLINE);
		}
	EXPECT_EQ(weft_deadline_in(INT64_MAX, 999999999), WEFT_FAR_DEADLINE);
	EXPECT_EQ(weft_deadline_in(9223372036u, 0), WEFT_FAR_DEADLINE);
	EXPECT_FALSE(weft_deadline_moves(WEFT_NO_DEADLINE));
	EXPECT_FALSE(weft_deadline_moves(WEFT_FAR_DEADLINE));
}

TEST(Deadline, OnMonotonicItIsWhenTheClockWillShowIt)
{
	for (int clock : {CLOCK_REALTIME, CLOCK_BOOTTIME, CLOCK_TAI}) {
		uint64_t before = weft_now_ns();
		uint64_t got = weft_deadline_monotonic(at(clock, HOUR));

		EXPECT_LE(got, weft_now_ns() + HOUR);
		EXPECT_GE(got + 1000000000, before + HOUR);
	}
}

// ---- every kind of wait

struct Wait {
	const char *name;
	std::function<bool(uint64_t)> times_out; // until then
};

std::vector<Wait> waits()
{
	return {
		{"sleep",
			[](uint64_t d) {
				return weft_sleep_until(d) == WEFT_WAKE_TIMEOUT;
			}},
		{"futex",
			[](uint64_t d) {
				uint32_t word = 1;

				return weft_futex_wait(&word, 1, UINT32_MAX, false, d) ==
				       -ETIMEDOUT;
			}},
		{"a lock with priority inheritance",
			[](uint64_t d) {
				uint32_t word =
					(uint32_t)weft_fiber_tid(weft_fiber_main());

				return weft_futex_lock_pi(&word, d) == -ETIMEDOUT;
			}},
		{"poll",
			[](uint64_t d) {
				pollfd p = {eventfd(0, EFD_CLOEXEC), POLLIN, 0};
				bool out = weft_io_poll(&p, 1, d, WEFT_TRIED_NOT) == 0;

				close(p.fd);
				return out;
			}},
	};
}

// All fibers but the main one sleep.
void settle(const Count &begun, unsigned n)
{
	until([&] {
		return begun.get() == n && weft_rt.sleepers + 1 >= weft_rt.carriers;
	});
}

TEST(ClockStep, ForwardEndsEveryWaitAtOnce)
{
	on_runtime({3}, [] {
		for (int clock : {CLOCK_REALTIME, CLOCK_TAI, CLOCK_BOOTTIME}) {
			Fibers fibers;
			Count begun, ended;
			unsigned n = 0;
			uint64_t start;

			for (auto &wait : waits())
				for (unsigned on = 0; on < 3; on++, n++)
					fibers.start_on(on, [&, wait] {
						begun.add();
						EXPECT_TRUE(
							wait.times_out(at(clock, HOUR)))
							<< wait.name;
						ended.add();
					});
			settle(begun, n);
			EXPECT_EQ(ended.get(), 0u);
			start = weft_now_ns();
			weft_clocks_pretend(HOUR + 1000000000, true);
			ended.await(n);
			EXPECT_LT(weft_now_ns() - start, 5000000000u);
			fibers.join();
			weft_clocks_pretend(-HOUR - 1000000000, true);
		}
	});
}

TEST(ClockStep, BackwardProlongsEveryWait)
{
	on_runtime({3}, [] {
		for (bool told : {true, false}) {
			Fibers fibers;
			Count begun, ended;
			unsigned n = 0;

			for (auto &wait : waits())
				for (unsigned on = 0; on < 3; on++, n++)
					fibers.start_on(on, [&, wait] {
						begun.add();
						EXPECT_TRUE(wait.times_out(
							at(CLOCK_REALTIME, 100000000)))
							<< wait.name;
						ended.add();
					});
			settle(begun, n);
			/* Also when a timer is due before anybody is told. */
			weft_clocks_pretend(-HOUR, told);
			EXPECT_EQ(ended.get(), 0u);
			weft_sleep_until(in_ms(300));
			EXPECT_EQ(ended.get(), 0u);
			weft_clocks_pretend(HOUR, true);
			ended.await(n);
			fibers.join();
		}
	});
}

TEST(ClockStep, OtherWaitsDoNotMove)
{
	on_runtime({2}, [] {
		Fibers fibers;
		Count begun, ended;

		for (auto &wait : waits())
			fibers.start_on(1, [&, wait] {
				uint64_t deadline = in_ms(200);

				begun.add();
				EXPECT_TRUE(wait.times_out(deadline)) << wait.name;
				EXPECT_GE(weft_now_ns(), deadline);
				ended.add();
			});
		settle(begun, 4);
		weft_clocks_pretend(HOUR, true);
		weft_sleep_until(in_ms(50));
		EXPECT_EQ(ended.get(), 0u);
		weft_clocks_pretend(-2 * HOUR, true);
		ended.await(4);
		weft_clocks_pretend(HOUR, true);
	});
}

// Clocks jump to and fro while fibers of four carriers sleep by any of them, and are
// taken over by others: none is early by its own clock, all wake up, and what waits by
// the clock of the jumps ends when the last jump has brought the clock there.
TEST(ClockStep, StormOfSteps)
{
	weft_seed();
	on_runtime({4}, [] {
		const int n = rounds(200);
		Random random(-1);
		Fibers fibers;
		static int64_t jumped;
		Count ended;

		jumped = 0;
		for (int i = 0; i < n; i++)
			fibers.start_on((unsigned)i % 4, [&, i] {
				Random own(i);

				for (int k = 0; k < 20; k++) {
					bool real = own.below(2);
					uint64_t in = own.below(5000000);
					uint64_t d =
						real ? at(CLOCK_REALTIME, (int64_t)in)
						     : weft_now_ns() + in;

					EXPECT_EQ(weft_sleep_until(d), WEFT_WAKE_TIMEOUT);
					EXPECT_TRUE(real || weft_now_ns() >= d);
				}
				ended.add();
			});
		while (ended.get() < (uint32_t)n) {
			/* Never further back than where it began: the clock gets there.
			 */
			int64_t to = (int64_t)random.below(10000000);
			bool tell = random.below(4) || ended.get() * 2 > (uint32_t)n;

			weft_clocks_pretend(to - jumped, tell);
			jumped = to;
			weft_sleep_until(weft_now_ns() + random.below(500000));
		}
	});
}

// Whoever takes a stuck carrier's timers places them by what the clock shows then.
TEST(ClockStep, TimersThatMoveAreNotForgotten)
{
	on_runtime({2}, [] {
		Fibers fibers;
		Count begun, ended;

		fibers.start_on(1, [&] {
			begun.add();
			EXPECT_EQ(weft_sleep_until(at(CLOCK_REALTIME, HOUR)),
				WEFT_WAKE_TIMEOUT);
			ended.add();
		});
		settle(begun, 1);
		weft_clocks_pretend(HOUR + 1000000000, false);
		weft_timers_move(weft_rt.carrier[1], weft_rt.carrier[0], false);
		ended.await(1);
		weft_clocks_pretend(-HOUR - 1000000000, false);
	});
}

// ---- the kernel tells

TEST(ClockStep, TheKernelTells)
{
	timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (clock_settime(CLOCK_REALTIME, &now))
		GTEST_SKIP() << "no CAP_SYS_TIME";
	on_runtime({2}, [] {
		auto descriptors = names_in("/proc/self/fd");

		for (int round = 0; round < 3; round++) {
			Fibers fibers;
			Count begun, ended;
			timespec same;

			fibers.start_on(1, [&] {
				begun.add();
				EXPECT_EQ(weft_sleep_until(at(CLOCK_REALTIME, HOUR)),
					WEFT_WAKE_TIMEOUT);
				ended.add();
			});
			settle(begun, 1);
			weft_clocks_pretend(HOUR + 1000000000, false);
			weft_sleep_until(in_ms(50));
			EXPECT_EQ(ended.get(), 0u);
			clock_gettime(CLOCK_REALTIME, &same);
			EXPECT_EQ(clock_settime(CLOCK_REALTIME, &same), 0);
			ended.await(1);
			fibers.join();
			weft_clocks_pretend(-HOUR - 1000000000, false);
		}
		EXPECT_EQ(names_in("/proc/self/fd"), descriptors)
			<< "the listener's is in a table of its own";
	});
}

TEST(ClockStep, NobodyListensUntilSomebodyWaitsByAClock)
{
	on_runtime({2}, [] {
		auto threads = names_in("/proc/self/task").size();
		Fibers fibers;

		weft_sleep_until(in_ms(1));
		weft_deadline_at(CLOCK_MONOTONIC, 1, 0);
		EXPECT_EQ(weft_clocks_listener(), nullptr);
		EXPECT_EQ(names_in("/proc/self/task").size(), threads);
		for (int i = 0; i < 20; i++)
			fibers.start_on((unsigned)i % 2,
				[] { weft_sleep_until(at(CLOCK_REALTIME, 1000000)); });
		fibers.join();
		EXPECT_NE(weft_clocks_listener(), nullptr);
		EXPECT_EQ(names_in("/proc/self/task").size(), threads + 1);
	});
}

// A socket that the program closes is closed, whatever the listener copied.
TEST(ClockStep, TheListenerKeepsNoFileOpen)
{
	on_runtime({2}, [] {
		int fds[2];
		char c;

		EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
		weft_sleep_until(at(CLOCK_REALTIME, 1000000));
		EXPECT_NE(weft_clocks_listener(), nullptr);
		close(fds[1]);
		EXPECT_EQ(read(fds[0], &c, 1), 0);
		close(fds[0]);
	});
}

} // namespace
