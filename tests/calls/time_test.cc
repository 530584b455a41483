// Sleeping: never early, whatever the number of sleepers.
#include "on_threads.h"

TEST(Sleep, NoneIsEarly)
{
	on_threads(60, [](int i) {
		struct timespec ts = {0, (i % 20 + 1) * 500000}, rest = {7, 7};
		uint64_t start = now_ns(CLOCK_MONOTONIC);
		switch (i % 4) {
		case 0:
			EXPECT_EQ(usleep((useconds_t)(ts.tv_nsec / 1000)), 0);
			break;
		case 1:
			EXPECT_EQ(nanosleep(&ts, &rest), 0);
			EXPECT_EQ(rest.tv_sec, 7) << "only written when interrupted";
			break;
		case 2:
			EXPECT_EQ(clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, nullptr), 0);
			break;
		default:
			EXPECT_EQ(clock_nanosleep(CLOCK_REALTIME, 0, &ts, nullptr), 0);
		}
		EXPECT_GE(now_ns(CLOCK_MONOTONIC) - start, (uint64_t)ts.tv_nsec);
	});
}

TEST(Sleep, SecondsAreSeconds)
{
	on_threads(10, [](int) {
		uint64_t start = now_ns(CLOCK_MONOTONIC);
		EXPECT_EQ(sleep(1), 0u);
		EXPECT_GE(MS_SINCE(start), 1000u);
	});
}

TEST(Sleep, AbsoluteOnesEndAtTheirTime)
{
	on_threads(20, [](int i) {
		const clockid_t clocks[] = {
			CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME, CLOCK_TAI};
		clockid_t clock = clocks[i % 4];
		uint64_t deadline = now_ns(clock) + (uint64_t)(i + 1) * MS;
		struct timespec at = to_timespec(deadline);
		EXPECT_EQ(clock_nanosleep(clock, TIMER_ABSTIME, &at, nullptr), 0);
		EXPECT_GE(now_ns(clock), deadline);
		at.tv_sec = 1;
		EXPECT_EQ(clock_nanosleep(clock, TIMER_ABSTIME, &at, nullptr), 0)
			<< "in the past";
	});
}

TEST(Sleep, TellsBadArguments)
{
	on_one_thread([] {
		struct timespec bad = {0, 1000000000}, negative = {-1, 0}, ok = {0, 1};
		EXPECT_EQ(error_of([&] { return nanosleep(&bad, nullptr); }), EINVAL);
		EXPECT_EQ(
			error_of([&] { return nanosleep(&negative, nullptr); }), EINVAL);
		EXPECT_EQ(error_of([&] {
			return nanosleep((struct timespec *)bad_pointer, nullptr);
		}),
			EFAULT);
		errno = ERANGE;
		EXPECT_EQ(clock_nanosleep(CLOCK_MONOTONIC, 0, &bad, nullptr), EINVAL);
		EXPECT_EQ(clock_nanosleep(999, 0, &ok, nullptr), EINVAL);
		EXPECT_EQ(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &ok, nullptr),
			EINVAL);
		EXPECT_EQ(errno, ERANGE) << "clock_nanosleep leaves it alone";
	});
}

TEST(Sleep, ZeroIsAYieldThatLetsOthersRun)
{
	volatile int flag = 0;
	Thread setter([&] {
		usleep(2000);
		flag = 1;
	});
	on_threads(2, [&](int i) {
		struct timespec zero = {0, 0};
		while (!flag)
			if (i)
				usleep(0);
			else
				nanosleep(&zero, nullptr);
	});
	EXPECT_EQ(flag, 1);
}

TEST(SchedYield, LetsOthersRun)
{
	/* A token goes round by yielding only. */
	const int threads = 6, rounds = 50;
	int turn = 0;
	on_threads(threads, [&](int id) {
		for (int i = 0; i < rounds; i++) {
			while (__atomic_load_n(&turn, __ATOMIC_SEQ_CST) % threads != id)
				EXPECT_EQ(sched_yield(), 0);
			__atomic_fetch_add(&turn, 1, __ATOMIC_SEQ_CST);
		}
	});
	EXPECT_EQ(turn, threads * rounds);
}
