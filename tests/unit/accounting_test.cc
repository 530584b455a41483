// runtime/accounting.c: whose CPU time it is.
#include "on_fibers.h"

extern "C" {
#include "runtime/accounting.h"
}

namespace
{

uint64_t cpu_ns(clockid_t clock)
{
	timespec t;

	OK(syscall(SYS_clock_gettime, clock, &t));
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void compute_until(const std::function<bool()> &done)
{
	volatile long x = 0;

	while (!done())
		for (int i = 0; i < 1000; i++)
			x += i;
}

TEST(CpuTime, StartsNearNothingAndMainsWithWhatTheThreadHad)
{
	in_child([] {
		compute_until([] { return cpu_ns(CLOCK_THREAD_CPUTIME_ID) > 5000000; });
		const char *what;
		ASSERT_EQ(start_runtime({1}, &what), 0);
		EXPECT_GE(weft_cpu_time(weft_fiber_self()), 5000000u);
		Fibers fibers;
		fibers.start([] {
			uint64_t t = weft_cpu_time(weft_fiber_self());

			EXPECT_GT(t, 0u);
			EXPECT_LT(t, 50000000u);
		});
	});
}

TEST(CpuTime, IsThatOfTheCarrierWhileOneRunsAlone)
{
	on_runtime({1}, [] {
		Fibers fibers;

		fibers.start([] {
			struct fiber *self = weft_fiber_self();
			uint64_t mine = weft_cpu_time(self);
			uint64_t its = cpu_ns(CLOCK_THREAD_CPUTIME_ID);

			compute_until(
				[&] { return weft_cpu_time(self) - mine > 10000000; });
			uint64_t a = weft_cpu_time(self) - mine;
			uint64_t b = cpu_ns(CLOCK_THREAD_CPUTIME_ID) - its;
			// Somebody may run between the two looks.
			EXPECT_LT(a, b + 2000000);
			EXPECT_LT(b, a + 2000000);
		});
	});
}

TEST(CpuTime, StandsStillInAPark)
{
	on_runtime({2}, [] {
		Fibers fibers;
		Count asked, go;
		struct fiber *sleeper = fibers.start([&] {
			weft_cpu_time(weft_fiber_self());
			asked.add();
			go.await(1);
		});

		asked.await(1);
		until([&] { return load_relaxed(&sleeper->state) == FIBER_PARKED; });
		uint64_t before = weft_cpu_time(sleeper);

		compute_until([end = in_ms(20)] { return weft_now_ns() > end; });
		EXPECT_EQ(weft_cpu_time(sleeper), before);
		go.add();
	});
}

TEST(CpuTime, BelongsToTheFiberOnAHelperToo)
{
	on_runtime({1}, [] {
		Fibers fibers;

		fibers.start([] {
			struct fiber *self = weft_fiber_self();
			uint64_t before = weft_cpu_time(self);

			weft_offload(
				[](void *) -> long {
					uint64_t from = cpu_ns(CLOCK_THREAD_CPUTIME_ID);

					compute_until([&] {
						return cpu_ns(CLOCK_THREAD_CPUTIME_ID) -
							       from >
						       5000000;
					});
					return 0;
				},
				nullptr);
			EXPECT_GE(weft_cpu_time(self) - before, 5000000u);
			EXPECT_EQ(load_relaxed(&self->helper), nullptr);
		});
	});
}

// Everybody asks for everybody's while all move about.
void storm(const Config &config)
{
	on_runtime(config, [&] {
		enum { N = 8 };
		Fibers fibers;
		struct fiber *f[N];
		std::atomic<int> left{N};
		uint64_t process = cpu_ns(CLOCK_PROCESS_CPUTIME_ID);

		for (int i = 0; i < N; i++)
			f[i] = fibers.make([&, i] {
				uint64_t last[N] = {};

				for (int round = 0; round < rounds(3000); round++) {
					int k = (i + round) % N;
					uint64_t t = weft_cpu_time(f[k]);

					ASSERT_GE(t, last[k]) << "of " << k;
					last[k] = t;
					weft_yield();
				}
				left--;
				while (left)
					weft_yield();
			});
		for (auto *one : f)
			weft_fiber_start(one);
		until([&] { return left == 0; });
		uint64_t sum = 0;

		for (auto *one : f)
			sum += weft_cpu_time(one);
		fibers.join();
		EXPECT_LE(sum, cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - process + N * 20000000);
	});
}

TEST(CpuTime, NeverGoesBack)
{
	storm({2});
}

TEST(CpuTime, NeverGoesBackWhileFibersMigrate)
{
	storm({2, true});
	storm({4, true});
}

TEST(CpuTime, PartsAddUpAndNeverShrink)
{
	on_runtime({1}, [] {
		Fibers fibers;

		fibers.start([] {
			struct fiber *self = weft_fiber_self();
			uint64_t user, system, last_user = 0, last_system = 0;

			for (int i = 0; i < 200; i++) {
				uint64_t low = weft_cpu_time(self);

				weft_cpu_usage(self, &user, &system);
				EXPECT_GE(user + system, low);
				EXPECT_LE(user + system, weft_cpu_time(self));
				EXPECT_GE(user, last_user);
				EXPECT_GE(system, last_system);
				last_user = user;
				last_system = system;
				for (int k = 0; k < 50; k++)
					weft_sys0(SYS_getppid);
			}
		});
	});
}

TEST(CpuTime, OfAReusedEntryBeginsAnew)
{
	on_runtime({1}, [] {
		struct fiber *first = nullptr;
		bool again = false;

		for (int i = 0; i < 1000 && !again; i++) {
			Fibers fibers(Fibers::Shared, 64 << 10);
			struct fiber *f = fibers.start([i] {
				struct fiber *self = weft_fiber_self();
				uint64_t t = weft_cpu_time(self);

				/* A busy machine may take a few ms out of the middle. */
				EXPECT_LT(t, 20000000u);
				if (i == 0)
					compute_until([&] {
						return weft_cpu_time(self) > 50000000;
					});
			});

			again = f == first;
			first = first ? first : f;
		}
		EXPECT_TRUE(again);
	});
}

} // namespace
