// runtime/offload.c: blocking calls on helper kernel threads.
#include "on_fibers.h"

namespace
{

struct Call {
	int fd[2];
	long where = 0;
	long got = 0;

	static long read_one(void *arg)
	{
		Call *c = (Call *)arg;
		char byte = 0;

		c->where = weft_sys0(SYS_gettid);
		long r = weft_sys3(SYS_read, c->fd[0], (long)&byte, 1);
		return r == 1 ? (long)byte : r;
	}
};

TEST(Offload, RunsElsewhereAndComesBackWithTheResult)
{
	on_runtime({1}, [] {
		Fibers fibers;

		fibers.start([] {
			struct carrier *before = weft_carrier_self();
			long where = weft_offload(
				[](void *) { return weft_sys0(SYS_gettid); }, nullptr);

			EXPECT_NE(where, getpid());
			EXPECT_EQ(weft_sys0(SYS_gettid), getpid());
			EXPECT_EQ(weft_carrier_self(), before);
			EXPECT_EQ(
				weft_offload([](void *) { return -42l; }, nullptr), -42);
		});
		fibers.join();
		EXPECT_EQ(weft_offload(
				  [](void *) {
					  return weft_sys0(SYS_gettid) == getpid() ? 1l
										   : 0l;
				  },
				  nullptr),
			0)
			<< "main, too";
		EXPECT_EQ(weft_sys0(SYS_gettid), getpid()) << "and is at home again";
	});
}

// Who waits for what it holds, waits for it: natively, a thread that slept runs soon. Of
// the rounds, as its helper may be interrupted between the call and the way back.
TEST(Offload, WhoComesBackDoesNotWaitForTheWholeQueue)
{
	on_runtime({1}, [] {
		enum { QUEUE = 300, ROUNDS = 30 };
		static uint64_t turns, at_end;
		std::vector<uint64_t> waited;
		Fibers fibers;
		bool done = false;

		for (int i = 0; i < QUEUE; i++)
			fibers.start([&] {
				while (!done) {
					turns++;
					compute(5000);
					weft_yield();
				}
			});
		fibers.start([&] {
			for (int i = 0; i < ROUNDS; i++) {
				weft_offload(
					[](void *) {
						at_end = load_relaxed(&turns);
						return 0l;
					},
					nullptr);
				waited.push_back(turns - at_end);
			}
			done = true;
		});
		fibers.join();
		std::sort(waited.begin(), waited.end());
		EXPECT_LT(waited[ROUNDS / 2], QUEUE / 2u);
	});
}

TEST(Offload, ThreadLocalsTravelAlong)
{
	on_runtime({2}, [] {
		Fibers fibers;

		for (int i = 0; i < 10; i++)
			fibers.start([i] {
				for (int k = 0; k < 50; k++) {
					errno = i;
					long seen = weft_offload(
						[](void *) {
							long e = errno;
							errno = (int)e + 100;
							return e;
						},
						nullptr);
					ASSERT_EQ(seen, i);
					ASSERT_EQ(errno, i + 100);
				}
			});
	});
}

TEST(Offload, ManyBlockAtOnceAndTheOthersRunOn)
{
	on_runtime({1}, [] {
		enum { N = 60 };
		Fibers fibers;
		std::vector<Call> calls(N);
		long turns = 0;

		for (auto &c : calls) {
			OK(pipe(c.fd));
			fibers.start([&c] { c.got = weft_offload(Call::read_one, &c); });
		}
		until([&] { return counted(WEFT_COUNTER_OFFLOADS) == N; });
		for (int i = 0; i < 100; i++, turns++)
			weft_yield();
		for (int i = 0; i < N; i++) {
			char byte = (char)i;
			OK(write(calls[(size_t)i].fd[1], &byte, 1));
		}
		fibers.join();
		std::set<long> threads;
		for (int i = 0; i < N; i++) {
			EXPECT_EQ(calls[(size_t)i].got, i);
			threads.insert(calls[(size_t)i].where);
		}
		EXPECT_EQ(threads.size(), (size_t)N) << "a kernel thread each";

		/* The next ones take the helpers that are there. */
		size_t before = names_in("/proc/self/task").size();
		fibers.start([] {
			for (int i = 0; i < 200; i++)
				weft_offload([](void *) { return 0l; }, nullptr);
		});
		fibers.join();
		EXPECT_EQ(names_in("/proc/self/task").size(), before);
	});
}

TEST(Offload, WithoutAHelperTheAnswerIsStillRight)
{
	for (weft_fault kind : {WEFT_FAULT_CLONE, WEFT_FAULT_MMAP})
		on_runtime({2}, [kind] {
			Fibers fibers;

			fibers.start([kind] {
				weft_fault_arm(kind, 1);
				long where = weft_offload(
					[](void *) { return weft_sys0(SYS_gettid); },
					nullptr);
				EXPECT_EQ(where, weft_sys0(SYS_gettid))
					<< "here, blocking";
				where = weft_offload(
					[](void *) { return weft_sys0(SYS_gettid); },
					nullptr);
				EXPECT_NE(where, weft_sys0(SYS_gettid))
					<< "the next one works";
				EXPECT_EQ(counted(WEFT_COUNTER_IN_PLACE), 1u);
				EXPECT_EQ(counted(WEFT_COUNTER_OFFLOADS), 1u);
			});
		});
}

TEST(Offload, TheLastCarrierDoesNotBlockForWantOfAHelper)
{
	on_runtime({1}, [] {
		Fibers fibers;

		fibers.start([] {
			long here = weft_sys0(SYS_gettid);

			weft_fault_arm(WEFT_FAULT_CLONE, 1);
			EXPECT_NE(
				weft_offload([](void *) { return weft_sys0(SYS_gettid); },
					nullptr),
				here)
				<< "it waited until there was one";
			EXPECT_EQ(counted(WEFT_COUNTER_IN_PLACE), 0u);
		});
	});
}

TEST(Offload, NestedCallsStayOnTheHelper)
{
	on_runtime({1}, [] {
		Fibers fibers;

		fibers.start([] {
			long same = weft_offload(
				[](void *) {
					long outer = weft_sys0(SYS_gettid);
					long inner = weft_offload(
						[](void *) {
							return weft_sys0(SYS_gettid);
						},
						nullptr);
					return (long)(outer == inner);
				},
				nullptr);
			EXPECT_EQ(same, 1);
		});
	});
}

TEST(Offload, OutsideFibersItIsAPlainCall)
{
	EXPECT_EQ(weft_offload([](void *arg) { return (long)arg; }, (void *)5), 5);
	on_runtime([] {
		std::atomic<long> got{0};
		Native thread([&] {
			got = weft_offload(
				[](void *arg) { return (long)arg; }, (void *)6);
		});
		until([&] { return got != 0; });
		EXPECT_EQ(got, 6);
	});
}

struct Interruptible {
	const int *attention;
	int fd;

	static long read(void *arg)
	{
		Interruptible *i = (Interruptible *)arg;
		char byte;
		const long args[6] = {i->fd, (long)&byte, 1, 0, 0, 0};

		return weft_sys_interruptible(i->attention, SYS_read, args);
	}
};

// A signal reaches a call that blocks a helper, also in the moment before it starts.
TEST(Offload, ASignalInterruptsTheBlockedCall)
{
	weft_seed();
	on_runtime({2}, [] {
		struct weft_ksigaction act = {};
		static std::atomic<int> handled{0};
		int fd[2];
		Fibers fibers;
		Random random(1);

		OK(pipe(fd));
		act.handler = (void *)(void (*)(int))[](int)
		{
			handled++;
		};
		ASSERT_EQ(weft_sig_action(SIGUSR1, &act, nullptr, 8), 0);
		for (int i = 0; i < rounds(500); i++) {
			std::atomic<bool> in{false};
			long got = 0;
			struct fiber *f = fibers.start([&] {
				struct fiber *self = weft_fiber_self();
				uint64_t none = 0;
				Interruptible call = {
					weft_signals_attention_word(self), fd[0]};

				weft_sig_procmask(SIG_SETMASK, &none, nullptr, 8);
				in = true;
				got = weft_offload(Interruptible::read, &call);
				weft_signals_deliver(nullptr);
			});
			int tid = weft_fiber_tid(f);

			until([&] { return in.load(); });
			for (size_t k = random.below(3000); k--;)
				__builtin_ia32_pause();
			EXPECT_EQ(weft_sig_send_thread(tid, SIGUSR1, nullptr), 0);
			fibers.join();
			ASSERT_EQ(got, -EINTR);
			ASSERT_EQ(handled, i + 1);
		}
	});
}

TEST(Offload, AStormOfShortCallsMigratesAndComesBack)
{
	weft_seed();
	on_runtime({3, true}, [] {
		Fibers fibers;
		std::atomic<long> sum{0};
		const int n = rounds(200);

		for (int i = 0; i < 30; i++)
			fibers.start([&, i] {
				for (int k = 0; k < n; k++) {
					long arg = i * 1000 + k;
					long got = weft_offload(
						[](void *a) { return *(long *)a * 2; },
						&arg);

					ASSERT_EQ(got, arg * 2);
					sum += 1;
					if (k % 3 == 0)
						weft_yield();
				}
			});
		fibers.join();
		EXPECT_EQ(sum, 30l * n);
	});
}

} // namespace
