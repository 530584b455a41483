// FS base on loan (runtime/arch/x86_64/context.h): what the kernel loses is found, at
// whatever instruction; and nobody else ever gets it.
#include "on_fibers.h"

#include <ucontext.h>

extern "C" {
#include "runtime/bind.h"
#include "runtime/pin.h"
#include "runtime/signals_impl.h"
}

namespace
{

// What the kernel gives to a child, and puts back at its next switch of threads.
uintptr_t kernels_fs_base()
{
	const struct timespec ms = {0, 1000000};
	const uintptr_t was = weft_fs_read();

	if (getauxval(AT_HWCAP2) & 2)
		return was;    // it looks
	weft_fs_write(0x2000); // neither one
	weft_sys2(SYS_nanosleep, &ms, 0);
	const uintptr_t v = weft_fs_read();
	weft_fs_write(was);
	return v;
}

// Also where the kernel has FSGSBASE: there only the test loses it.
void on_loan(Config config, const std::function<void()> &body)
{
	config.lend = true;
	on_runtime(config, [&] {
		if (!weft_fs_on_loan) {
			puts("skipped: the FSGSBASE instructions do not work here");
			return;
		}
		body();
	});
}

bool is_on_loan()
{
	return weft_carrier_self()->fs_on_loan;
}

void lose_once()
{
	if (is_on_loan())
		weft_fs_write(WEFT_FS_LOST);
}

// As often as it is called: also of whom the kernel has been told about meanwhile.
void lose()
{
	struct carrier *c = weft_carrier_self();

	if (!c->fs_on_loan && c->fs_lost_in == c->counters[WEFT_COUNTER_SWITCHES])
		weft_carrier_set_fs_slow(c, c->fs_loaded);
	lose_once();
}

thread_local uint64_t own[3];

// Reads and writes of thread-local storage, errno and malloc's, each just after the loss.
void use_tls(uint64_t x)
{
	lose();
	own[1] = x;
	lose();
	errno = (int)x;
	lose();
	void *p = malloc(x % 100 + 1);
	lose();
	free(p);
	lose();
	CHECK(own[1] == x);
	lose();
	CHECK(errno == (int)x);
}

void fibers_keep_what_is_theirs(const Config &config)
{
	on_loan(config, [] {
		Fibers fibers;

		for (int i = 0; i < 20; i++)
			fibers.start([i] {
				own[0] = own[2] = (uint64_t)i;
				for (uint64_t k = 0; k < (uint64_t)rounds(2000); k++) {
					use_tls((uint64_t)i << 20 | k);
					if (k % 3 == 0)
						weft_yield();
					if (k % 50 == 0)
						weft_sleep_until(weft_now_ns() + 1000);
				}
				CHECK(own[0] == (uint64_t)i && own[2] == (uint64_t)i);
			});
		fibers.join();
		EXPECT_GT(counted(WEFT_COUNTER_FS_FAULTS), 1000u);
	});
}

TEST(Loan, WhatIsLostIsFound)
{
	fibers_keep_what_is_theirs({1});
	fibers_keep_what_is_theirs({3});
}

// The kernel is told of one that loses it again and again, until another one runs. On a
// busy machine it is the kernel that takes it the first time, now and then.
TEST(Loan, WhoLosesItTwiceInARunHasIt)
{
	on_loan({1}, [] {
		Fibers fibers;
		int lent = 0, kept = 0;

		for (uint64_t i = 0; i < 2; i++)
			fibers.start([&, i] {
				own[0] = i;
				for (int k = 0; k < 100; k++) {
					const struct timespec us = {0, 1000};

					weft_yield();
					lent += is_on_loan();
					lose_once();
					EXPECT_EQ(own[0], i);
					kept += is_on_loan();
					lose_once();
					EXPECT_EQ(own[0], i);
					EXPECT_FALSE(is_on_loan());
					weft_sys2(SYS_nanosleep, &us, 0);
					EXPECT_NE(
						weft_fs_read(), (uintptr_t)WEFT_FS_LOST);
					EXPECT_EQ(own[0], i);
				}
			});
		fibers.join();
		EXPECT_GT(lent, 150) << "of 200, for each run";
		EXPECT_GT(kept, 100) << "of 200, the first time";
		EXPECT_LE(counted(WEFT_COUNTER_FS_FAULTS), 2u * 2 * 100 + 10);
	});
}

// vm.mmap_min_addr may be that of the second page: then it is any program's.
TEST(Loan, ThePageAfterTheFirstIsTheProgramsOwn)
{
	on_loan({1}, [] {
		Fibers fibers;
		void *p = mmap((void *)0x1000, 4096, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

		if (p == MAP_FAILED)
			puts("skipped: nobody may map it here");
		else
			memset(p, 7, 4096);
		fibers.start([] {
			weft_yield();
			for (uint64_t k = 0; k < 1000; k++)
				use_tls(k);
		});
		fibers.join();
	});
}

TEST(Loan, ItIsFoundOnWhateverCarrier)
{
	fibers_keep_what_is_theirs({3, true});
	fibers_keep_what_is_theirs({3, false, false, true});
}

// In the middle of the kick's and the program's handlers, too.
TEST(Loan, ItIsFoundUnderSignals)
{
	weft_seed();
	on_loan({2}, [] {
		static std::atomic<int> ran;
		Fibers fibers;
		std::atomic<bool> in{false};
		const int n = rounds(2000);
		struct weft_ksigaction act = {};

		ran = 0;
		act.handler = (void *)+[](int) {
			use_tls((uint64_t)ran);
			ran++;
		};
		ASSERT_EQ(weft_sig_action(SIGRTMIN + 1, &act, nullptr, 8), 0);
		struct fiber *f = fibers.start_on(1, [&] {
			const uint64_t none = 0;

			weft_sig_procmask(SIG_SETMASK, &none, nullptr, 8);
			in = true;
			OwnCode here;
			while (ran < n) {
				lose();
				own[0]++;
			}
		});
		int tid = weft_fiber_tid(f);
		until([&] { return in.load(); });
		for (int i = 0; i < n; i++) {
			EXPECT_EQ(weft_sig_send_thread(tid, SIGRTMIN + 1, nullptr), 0);
			if (i % 4 == 0)
				weft_yield();
		}
		until([&] { return ran == n; });
	});
}

// The program's own faults reach its handler once each, whether FS base was lost or not.
TEST(Loan, AFaultOfTheProgramsIsTheProgramsOwn)
{
	on_loan({1}, [] {
		static std::atomic<int> ran;
		static std::atomic<uintptr_t> address;
		struct weft_ksigaction act = {};
		Fibers fibers;

		ran = 0;
		act.handler = (void *)+[](int, siginfo_t *si, void *ctx) {
			auto *gregs = ((ucontext_t *)ctx)->uc_mcontext.gregs;

			ran++;
			address = (uintptr_t)si->si_addr;
			own[0]++;
			gregs[REG_RIP] += 2; // movl (%rax), %ecx
		};
		act.flags = SA_SIGINFO;
		ASSERT_EQ(weft_sig_action(SIGSEGV, &act, nullptr, 8), 0);
		fibers.start([] {
			const uint64_t none = 0;

			weft_sig_procmask(SIG_SETMASK, &none, nullptr, 8);
			weft_yield();
			for (int i = 0; i < 100; i++) {
				// As what is behind a lost FS base, and elsewhere.
				uintptr_t at = i % 2 ? WEFT_FS_LOST : 0x10;
				OwnCode here;

				if (i % 3 == 0)
					lose();
				__asm__ volatile("movl (%%rax), %%ecx"
						 :
						 : "a"(at)
						 : "ecx", "memory");
				CHECK(ran == i + 1 && address == at);
			}
			CHECK(own[0] == 100);
		});
		fibers.join();
		EXPECT_EQ(ran, 100);
	});
}

// With SA_RESETHAND the signal has its default action from then on, and FS base is found
// all the same.
TEST(Loan, AHandlerThatRunsOnceLeavesOurs)
{
	on_loan({1}, [] {
		static std::atomic<int> ran;
		Fibers fibers;

		for (bool fault : {false, true}) {
			struct weft_ksigaction act = {}, now;

			ran = 0;
			act.handler = (void *)+[](int, siginfo_t *, void *ctx) {
				ran++;
				if (((ucontext_t *)ctx)->uc_mcontext.gregs[REG_RAX] == 24)
					((ucontext_t *)ctx)->uc_mcontext.gregs[REG_RIP] +=
						2;
			};
			act.flags = SA_SIGINFO | SA_RESETHAND;
			ASSERT_EQ(weft_sig_action(SIGSEGV, &act, nullptr, 8), 0);
			fibers.start([fault] {
				const uint64_t none = 0;

				weft_sig_procmask(SIG_SETMASK, &none, nullptr, 8);
				weft_yield();
				if (fault) {
					OwnCode here;

					__asm__ volatile("movl (%%rax), %%ecx"
							 :
							 : "a"(24ul)
							 : "ecx", "memory");
				} else {
					weft_sig_send_thread(
						weft_fiber_tid(weft_fiber_self()),
						SIGSEGV, nullptr);
					weft_signals_deliver(nullptr);
				}
				CHECK(ran == 1);
				for (uint64_t k = 0; k < 100; k++)
					use_tls(k);
			});
			fibers.join();
			ASSERT_EQ(weft_sig_action(SIGSEGV, nullptr, &now, 8), 0);
			EXPECT_EQ(now.handler, nullptr);
			EXPECT_EQ(ran, 1);
		}
	});
}

TEST(Loan, AProgramsFaultWithoutAHandlerKillsIt)
{
	int status = status_of_child([] {
		const char *what;
		Config config = {1};
		Fibers fibers;

		config.lend = true;
		ASSERT_EQ(start_runtime(config, &what), 0);
		fibers.start([] {
			OwnCode here;

			weft_yield();
			lose();
			__asm__ volatile("movl (%0), %%ecx" : : "r"(16ul) : "ecx");
		});
		fibers.join();
	});

	EXPECT_EQ(WTERMSIG(status), SIGSEGV);
}

// Children find what the parent's thread has, as they would natively.
TEST(Loan, ChildrenGetTheFibersOwn)
{
	on_loan({1}, [] {
		Fibers fibers;

		fibers.start([] {
			uintptr_t fs = weft_rdfsbase();
			int status;

			weft_yield();
			CHECK(weft_carrier_self()->fs_on_loan);
			weft_runtime_lock_all();
			long pid = syscall(SYS_fork);
			if (!pid) {
				weft_runtime_forget();
				_exit(kernels_fs_base() != fs || weft_fs_on_loan);
			}
			weft_runtime_unlock_all();
			OK(waitpid((pid_t)pid, &status, 0));
			EXPECT_EQ(status, 0);
			// What makes a child that shares the memory says so first.
			weft_yield();
			weft_fiber_expect_vm_child(weft_fiber_self(), false);
			EXPECT_EQ(kernels_fs_base(), fs);
			weft_enter_fiber();
		});
		fibers.start([] {
			for (int i = 0; i < 10; i++)
				weft_yield();
		});
		fibers.join();
	});
}

// Whoever has a kernel thread for itself would lose it at each call that blocks.
TEST(Loan, ThreadsOfOneFiberKeepIt)
{
	on_loan({2}, [] {
		Fibers fibers;
		const auto check = [] {
			uintptr_t fs = weft_rdfsbase();

			EXPECT_FALSE(weft_carrier_self()->fs_on_loan);
			EXPECT_EQ(kernels_fs_base(), fs);
		};

		for (int i = 0; i < 4; i++)
			fibers.start([&, i] {
				weft_yield();
				if (i < 2) { // one in place, one on another thread
					if (i == 0)
						weft_fiber_pin(WEFT_PIN_CALL, 1);
					ASSERT_EQ(weft_fiber_bind(WEFT_BIND_OTHER), 0);
					check();
				} else {
					static const auto body = check;

					weft_offload(
						[](void *) -> long {
							body();
							return 0;
						},
						nullptr);
				}
			});
		fibers.join();
	});
}

// What it executes is to ignore it, too: then the handler cannot be there.
TEST(Loan, NotWhereTheProgramIgnoresTheFault)
{
	in_child([] {
		const char *what;
		Config config = {1};

		config.lend = true;
		signal(SIGSEGV, SIG_IGN);
		ASSERT_EQ(start_runtime(config, &what), 0);
		EXPECT_FALSE(weft_fs_on_loan);
	});
}

TEST(Loan, ToAskCostsNoSignal)
{
	in_child([] {
		static volatile sig_atomic_t got;
		sigset_t all, none;

		signal(SIGILL, [](int) { got++; });
		sigfillset(&all);
		sigemptyset(&none);
		OK(sigprocmask(SIG_SETMASK, &all, nullptr));
		const bool works = weft_fs_lend();
		weft_fs_on_loan = false;
		OK(raise(SIGILL));
		EXPECT_FALSE(weft_fs_lend());
		EXPECT_FALSE(weft_fs_on_loan);
		EXPECT_EQ(got, 0);
		OK(sigprocmask(SIG_SETMASK, &none, nullptr));
		EXPECT_EQ(got, 1);
		OK(sigprocmask(SIG_SETMASK, &all, nullptr));
		EXPECT_EQ(weft_fs_lend(), works);
	});
}

} // namespace
