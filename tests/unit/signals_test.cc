// runtime/signals.c without the doors: what is queued, who gets it, what a mask hides.
// The whole of it with real programs: tests/programs/signals_*.c.
#include "on_fibers.h"

#include <ucontext.h>

extern "C" {
#include "runtime/signals_impl.h"
}

namespace
{

const uint64_t ALL = ~0ull;

uint64_t bit(int sig)
{
	return 1ull << (sig - 1);
}

std::vector<int> *caught; // by the handler, in order

void note(int sig)
{
	caught->push_back(sig);
}

void set_action(int sig, void (*handler)(int), unsigned long flags = 0, uint64_t mask = 0)
{
	struct weft_ksigaction act = {};

	act.handler = (void *)handler;
	act.flags = flags;
	act.mask = mask;
	ASSERT_EQ(weft_sig_action(sig, &act, nullptr, 8), 0);
}

void set_mask(uint64_t mask)
{
	ASSERT_EQ(weft_sig_procmask(SIG_SETMASK, &mask, nullptr, 8), 0);
}

uint64_t pending()
{
	uint64_t set = 0;

	EXPECT_EQ(weft_sig_pending(&set, 8), 0);
	return set;
}

int own_tid()
{
	return weft_fiber_tid(weft_fiber_self());
}

// On one carrier, main blocking everything.
void on_signals(const std::function<void()> &body)
{
	on_runtime({1}, [&] {
		std::vector<int> list;

		caught = &list;
		set_mask(ALL);
		body();
	});
}

TEST(Signals, ABlockedOneWaitsAndIsDeliveredWhenLetIn)
{
	on_signals([] {
		set_action(SIGUSR1, note);
		EXPECT_EQ(weft_sig_send_thread(own_tid(), SIGUSR1, nullptr), 0);
		EXPECT_EQ(pending(), bit(SIGUSR1));
		EXPECT_FALSE(weft_signals_attention(weft_fiber_self()));
		EXPECT_EQ(weft_signals_deliver(nullptr), WEFT_DELIVERED_NONE);
		set_mask(0);
		EXPECT_TRUE(weft_signals_attention(weft_fiber_self()));
		EXPECT_EQ(weft_signals_deliver(nullptr), WEFT_DELIVERED_EINTR);
		EXPECT_EQ(*caught, std::vector<int>{SIGUSR1});
		EXPECT_EQ(pending(), 0u);
	});
}

TEST(Signals, StandardOnesMergeAndRealTimeOnesQueueInOrder)
{
	on_signals([] {
		for (int sig : {SIGUSR1, SIGRTMIN + 3, SIGRTMIN + 1, SIGUSR2})
			set_action(sig, note, SA_RESTART);
		for (int i = 0; i < 3; i++)
			for (int sig : {SIGRTMIN + 3, SIGUSR2, SIGRTMIN + 1, SIGUSR1})
				weft_sig_send_thread(own_tid(), sig, nullptr);
		set_mask(0);
		EXPECT_EQ(weft_signals_deliver(nullptr), WEFT_DELIVERED_RESTART);
		const int rt1 = SIGRTMIN + 1, rt3 = SIGRTMIN + 3;
		EXPECT_EQ(*caught, (std::vector<int>{rt3, rt3, rt3, rt1, rt1, rt1,
					   SIGUSR2, SIGUSR1}))
			<< "the lowest is taken first, and interrupted by the next";
	});
}

TEST(Signals, TheHandlersMaskHoldsWhileItRuns)
{
	on_signals([] {
		static uint64_t inside;

		set_action(
			SIGUSR1,
			[](int) {
				weft_sig_procmask(SIG_BLOCK, nullptr, &inside, 8);
				weft_sig_send_thread(own_tid(), SIGUSR1, nullptr);
				weft_sig_send_thread(own_tid(), SIGUSR2, nullptr);
				EXPECT_EQ(pending(), bit(SIGUSR1) | bit(SIGUSR2));
				caught->push_back(SIGUSR1);
				if (caught->size() > 2)
					set_action(SIGUSR1, SIG_IGN);
			},
			0, bit(SIGUSR2) | bit(SIGKILL));
		set_action(SIGUSR2, note);
		weft_sig_send_thread(own_tid(), SIGUSR1, nullptr);
		set_mask(bit(SIGTERM));
		weft_signals_deliver(nullptr);
		EXPECT_EQ(inside, bit(SIGTERM) | bit(SIGUSR1) | bit(SIGUSR2))
			<< "never SIGKILL";
		EXPECT_GE(caught->size(), 3u);
		uint64_t now;
		weft_sig_procmask(SIG_BLOCK, nullptr, &now, 8);
		EXPECT_EQ(now, bit(SIGTERM)) << "restored";
	});
}

TEST(Signals, IgnoringDiscardsWhatIsPending)
{
	on_signals([] {
		set_action(SIGUSR1, note);
		weft_sig_send_thread(own_tid(), SIGUSR1, nullptr);
		set_action(SIGUSR1, SIG_IGN);
		EXPECT_EQ(pending(), 0u);
		set_action(SIGUSR1, note);
		set_mask(0);
		EXPECT_EQ(weft_signals_deliver(nullptr), WEFT_DELIVERED_NONE);
	});
}

TEST(Signals, OneShotHandlersRunOnce)
{
	on_signals([] {
		struct weft_ksigaction now = {};

		set_action(SIGUSR1, note, SA_RESETHAND);
		weft_sig_send_thread(own_tid(), SIGUSR1, nullptr);
		set_mask(0);
		weft_signals_deliver(nullptr);
		EXPECT_EQ(caught->size(), 1u);
		EXPECT_EQ(weft_sig_action(SIGUSR1, nullptr, &now, 8), 0);
		EXPECT_EQ(now.handler, nullptr);
	});
}

TEST(Signals, ErrorsAreTheKernels)
{
	on_signals([] {
		struct weft_ksigaction act = {};
		uint64_t set = 0;

		act.handler = (void *)note;
		EXPECT_EQ(weft_sig_action(SIGKILL, &act, nullptr, 8), -EINVAL);
		EXPECT_EQ(weft_sig_action(0, &act, nullptr, 8), -EINVAL);
		EXPECT_EQ(weft_sig_action(65, &act, nullptr, 8), -EINVAL);
		EXPECT_EQ(weft_sig_action(SIGUSR1, &act, nullptr, 16), -EINVAL);
		EXPECT_EQ(weft_sig_procmask(99, &set, nullptr, 8), -EINVAL);
		EXPECT_EQ(weft_sig_procmask(SIG_BLOCK, &set, nullptr, 4), -EINVAL);
		EXPECT_EQ(weft_sig_send_thread(own_tid(), 65, nullptr), -EINVAL);
		EXPECT_EQ(weft_sig_send_thread(own_tid(), 0, nullptr), 0);
		EXPECT_EQ(weft_sig_send_thread(WEFT_TID_MIN + 12345, SIGUSR1, nullptr),
			-ESRCH);
		EXPECT_EQ(weft_sig_send_thread(1, SIGUSR1, nullptr), WEFT_SIG_NATIVE);
	});
}

TEST(Signals, EachFiberHasItsOwnMaskAndPendingSet)
{
	on_signals([] {
		Fibers fibers;
		Count go;
		std::vector<struct fiber *> f;

		set_action(SIGUSR1, note);
		for (int i = 0; i < 3; i++)
			f.push_back(fibers.start([&, i] {
				set_mask(i == 1 ? 0 : ALL);
				go.await(1);
				EXPECT_EQ(pending(), i == 2 ? bit(SIGUSR1) : 0) << i;
				EXPECT_EQ(weft_signals_deliver(nullptr),
					i == 1 ? WEFT_DELIVERED_EINTR
					       : WEFT_DELIVERED_NONE);
			}));
		for (auto *one : f)
			until([one] { return is_parked(one, WEFT_REASON_FUTEX); });
		weft_sig_send_thread(weft_fiber_tid(f[1]), SIGUSR1, nullptr);
		weft_sig_send_thread(weft_fiber_tid(f[2]), SIGUSR1, nullptr);
		go.add();
		fibers.join();
		EXPECT_EQ(caught->size(), 1u);
	});
}

// A process-directed signal goes to somebody who lets it in, main first.
TEST(Signals, TheReceiverFindsSomebodyWhoLetsItIn)
{
	on_runtime({2}, [] {
		static std::atomic<int> by_tid{0};
		Fibers fibers;

		set_mask(ALL);
		set_action(SIGUSR1, [](int) { by_tid = own_tid(); });
		struct fiber *f = fibers.start([] {
			set_mask(0);
			until([] {
				if (weft_sleep_until(in_ms(1)) == WEFT_WAKE_INTERRUPT)
					weft_signals_deliver(nullptr);
				return by_tid != 0;
			});
		});
		int tid = weft_fiber_tid(f);
		until([f] { return is_parked(f, WEFT_REASON_SLEEP); });
		OK(kill(getpid(), SIGUSR1));
		fibers.join();
		EXPECT_EQ(by_tid, tid);

		by_tid = 0;
		set_mask(0);
		weft_signals_publish(weft_fiber_self());
		OK(kill(getpid(), SIGUSR1));
		until([] {
			weft_signals_deliver(nullptr);
			return by_tid != 0;
		});
		EXPECT_EQ(by_tid, getpid());
	});
}

uint64_t pending_for_thread(int tid)
{
	char path[64], line[256];
	unsigned long long set = 0;

	snprintf(path, sizeof path, "/proc/self/task/%d/status", tid);
	FILE *f = fopen(path, "re");
	CHECK(f);
	while (fgets(line, sizeof line, f))
		sscanf(line, "SigPnd: %llx", &set);
	fclose(f);
	return set;
}

// [receiver-begins] The receiver has looked what is wanted and cannot go on, as the lock
// is held here; now it is kicked, because the sets change. Its answer would never come if
// a handler took that kick.
TEST(Signals, AKickThatMeetsTheReceiversFirstInstructionsIsNotLost)
{
	on_runtime({2}, [] {
		std::atomic<bool> answered{false};

		weft_sig_receiver_stop();
		weft_lock(&weft_sig.lock);
		ASSERT_EQ(weft_sig_receiver_new(ALL), 0);
		ASSERT_EQ(weft_sig_receiver_spawn(), 0);
		int tid = weft_sig.receiver->tid;
		until([] { return load_relaxed(&weft_sig.lock.word) == 2; });
		EXPECT_FALSE(pending_for_thread(tid) & BIT(KICK_EINTR));
		Native changes([&] {
			weft_sig_receiver_sync();
			answered = true;
		});
		for (int i = 0; i < 2000 && !(pending_for_thread(tid) & BIT(KICK_EINTR));
			i++)
			weft_sleep_until(in_ms(1));
		EXPECT_TRUE(pending_for_thread(tid) & BIT(KICK_EINTR)) << "lost";
		weft_unlock(&weft_sig.lock);
		for (int i = 0; i < 2000 && !answered; i++)
			weft_sleep_until(in_ms(1));
		EXPECT_TRUE(answered);
		if (!answered) // lets it end
			weft_signals_rouse_receiver();
	});
}

// The kernel looks for signals even in a poll that does not wait. Weft's own are not for
// the program to see.
TEST(Signals, APollWithoutTimeIsNotEndedByAKick)
{
	on_runtime({1}, [] {
		std::atomic<bool> over{false};
		std::atomic<int> polls{0};
		const pid_t carrier = gettid();
		long ended = 0, other = 0;
		int ends[2];

		OK(pipe(ends));
		Native kicks([&] {
			for (int seen = 0; !over; seen = polls) {
				while (polls == seen && !over)
					std::this_thread::yield();
				OK(syscall(SYS_tgkill, getpid(), carrier, KICK));
			}
		});
		while (++polls < rounds(20000)) {
			pollfd fd = {ends[0], POLLIN, 0};
			const long r = weft_io_try_poll(&fd, 1, 0);

			ended += r == -EINTR;
			other += r != -EINTR && r != 0 && r != WEFT_FULL_PATH;
		}
		over = true;
		EXPECT_EQ(ended, 0);
		EXPECT_EQ(other, 0);
	});
}

// Who was chosen for a signal may end before it is sent, and its place in the table be
// given to a new fiber: that one never seems to let it in, nor is it found half made.
TEST(Signals, AFiberThatIsBeingMadeLetsNothingIn)
{
	on_runtime({2}, [] {
		Fibers fibers;
		std::atomic<bool> ready{false}, stop{false};
		int let_in = 0;

		set_action(SIGUSR1, note);
		struct fiber *made = fibers.make([] {});
		fibers.start_on(1, [&] {
			unsigned char info[INFO_SIZE] = {};

			ready = true;
			while (!stop)
				let_in += weft_sig_send_fiber(made, SIGUSR1, info,
						  true) != WEFT_SIG_NATIVE;
		});
		spin_until([&] { return ready.load(); });
		for (int i = 0; i < 1000000; i++)
			weft_signals_reset(made);
		stop = true;
		weft_fiber_start(made);
		fibers.join();
		EXPECT_EQ(let_in, 0);
	});
}

// The kernel's handler turns a fault of weft's own look at the program's memory into an
// error. One that somebody sends just then is none.
TEST(Signals, WhatIsSentIsNoFaultOfWeftsOwn)
{
	on_signals([] {
		const auto goes_on_at = [](int code) {
			siginfo_t info[2] = {}; // the kernel's is as long as one
			struct kucontext uc = {};

			info->si_signo = SIGSEGV;
			info->si_code = code;
			uc.rip = (uint64_t)weft_load_user_insn;
			weft_sig_first_level(SIGSEGV, info, &uc);
			return uc.rip;
		};

		set_action(SIGSEGV, note);
		EXPECT_EQ(goes_on_at(SEGV_MAPERR), (uint64_t)weft_load_user_fixup);
		EXPECT_EQ(goes_on_at(SI_USER), (uint64_t)weft_load_user_insn);
	});
}

TEST(Signals, OneThatEverybodyBlocksStaysPendingInTheKernel)
{
	on_runtime({2}, [] {
		std::vector<int> list;

		caught = &list;
		set_action(SIGUSR1, note);
		set_mask(ALL);
		weft_signals_publish(weft_fiber_self());
		OK(kill(getpid(), SIGUSR1));
		EXPECT_EQ(pending(), bit(SIGUSR1));
		weft_sleep_until(in_ms(10)); // for the receiver, who must not take it
		EXPECT_TRUE(list.empty());
		EXPECT_EQ(pending(), bit(SIGUSR1));
		set_mask(0);
		weft_signals_deliver(nullptr);
		EXPECT_EQ(list, std::vector<int>{SIGUSR1});
	});
}

TEST(Signals, TimedwaitTakesWhatIsBlocked)
{
	on_signals([] {
		uint64_t want = bit(SIGUSR1) | bit(SIGUSR2);
		siginfo_t info = {};
		timespec zero = {0, 0}, bad = {0, -1}, soon = {0, 5000000};

		EXPECT_EQ(weft_sig_timedwait(&want, &info, &zero, 8), -EAGAIN);
		EXPECT_EQ(weft_sig_timedwait(&want, &info, &soon, 8), -EAGAIN);
		EXPECT_EQ(weft_sig_timedwait(&want, &info, &bad, 8), -EINVAL);
		weft_sig_send_thread(own_tid(), SIGUSR2, nullptr);
		EXPECT_EQ(weft_sig_timedwait(&want, &info, nullptr, 8), SIGUSR2);
		EXPECT_EQ(info.si_signo, SIGUSR2);
		EXPECT_EQ(info.si_pid, getpid());
		EXPECT_EQ(pending(), 0u);

		Fibers fibers;
		struct fiber *f = fibers.start([&] {
			set_mask(ALL);
			EXPECT_EQ(
				weft_sig_timedwait(&want, nullptr, nullptr, 8), SIGUSR1);
		});
		until([&] { return is_parked(f, WEFT_REASON_SIGNAL); });
		weft_sig_send_thread(weft_fiber_tid(f), SIGUSR1, nullptr);
	});
}

TEST(Signals, SuspendSwapsTheMaskUntilAHandlerHasRun)
{
	on_signals([] {
		Fibers fibers;

		set_action(SIGUSR1, note);
		struct fiber *f = fibers.start([] {
			uint64_t open = ~bit(SIGUSR1), now;

			set_mask(ALL);
			EXPECT_EQ(weft_sig_suspend(&open, 8), -EINTR);
			weft_signals_deliver(nullptr);
			weft_sig_mask_end();
			EXPECT_EQ(*caught, std::vector<int>{SIGUSR1});
			weft_sig_procmask(SIG_BLOCK, nullptr, &now, 8);
			EXPECT_EQ(now, ALL & ~(bit(SIGKILL) | bit(SIGSTOP)));
		});
		until([f] { return is_parked(f, WEFT_REASON_SIGNAL); });
		weft_sig_send_thread(
			weft_fiber_tid(f), SIGUSR2, nullptr); // stays blocked
		weft_sig_send_thread(weft_fiber_tid(f), SIGUSR1, nullptr);
	});
}

TEST(Signals, HandlersRunOnTheAlternateStack)
{
	on_signals([] {
		static char alt[64 << 10];
		static uintptr_t where;
		stack_t ss = {}, old = {}, tiny = {};

		ss.ss_sp = alt, ss.ss_size = sizeof alt;
		tiny.ss_sp = alt, tiny.ss_size = 100;
		uintptr_t sp = (uintptr_t)__builtin_frame_address(0);
		EXPECT_EQ(weft_sig_altstack(&tiny, nullptr, sp), -ENOMEM);
		EXPECT_EQ(weft_sig_altstack(&ss, nullptr, sp), 0);
		EXPECT_EQ(weft_sig_altstack(nullptr, &old, sp), 0);
		EXPECT_EQ(old.ss_sp, alt);
		EXPECT_EQ(old.ss_flags, 0);
		EXPECT_EQ(weft_sig_altstack(nullptr, &old, (uintptr_t)alt + 1000), 0);
		EXPECT_EQ(old.ss_flags, SS_ONSTACK);
		EXPECT_EQ(weft_sig_altstack(&ss, nullptr, (uintptr_t)alt + 1000), -EPERM);
		set_action(
			SIGUSR1,
			[](int) { where = (uintptr_t)__builtin_frame_address(0); },
			SA_ONSTACK);
		weft_sig_send_thread(own_tid(), SIGUSR1, nullptr);
		set_mask(0);
		weft_signals_deliver(nullptr);
		EXPECT_GT(where, (uintptr_t)alt);
		EXPECT_LT(where, (uintptr_t)alt + sizeof alt);
	});
}

// A handler is ordinary code of the fiber: it may park, and wake up elsewhere.
TEST(Signals, HandlersMayParkAndMigrate)
{
	weft_seed();
	on_runtime({3, true}, [] {
		static std::atomic<int> ran;
		Fibers fibers;
		std::atomic<bool> stop{false};
		std::vector<int> tids;

		ran = 0;
		set_action(SIGUSR1, [](int) {
			for (int i = 0; i < 3; i++)
				weft_yield();
			ran++;
		});
		for (int i = 0; i < 4; i++)
			tids.push_back(weft_fiber_tid(fibers.start([&] {
				set_mask(0);
				while (!stop) {
					weft_yield();
					if (weft_signals_attention(weft_fiber_self()))
						weft_signals_deliver(nullptr);
				}
			})));
		Random random(1);
		/* Several that are sent before one is taken are one. */
		while (ran < rounds(500)) {
			weft_sig_send_thread(tids[random.below(4)], SIGUSR1, nullptr);
			weft_yield();
		}
		stop = true;
	});
}

// Vector registers are live at a site: a handler must leave them alone, whatever is on
// the stack where they are kept.
TEST(Signals, DeliveryAtASiteKeepsWideVectorRegisters)
{
	if (SANITIZED)
		GTEST_SKIP() << "the sanitizer's own functions use vector registers";
	if (!__builtin_cpu_supports("avx"))
		GTEST_SKIP() << "the CPU has no AVX";
	on_signals([] {
		alignas(32) unsigned char in[32], out[32];

		for (int i = 0; i < 32; i++)
			in[i] = (unsigned char)(i * 7 + 1);
		set_action(SIGUSR1, [](int) {
			__asm__ volatile("vxorps %%ymm5, %%ymm5, %%ymm5" : : : "xmm5");
			caught->push_back(SIGUSR1);
		});
		auto deliver = +[] {
			weft_fiber_set_vector_live(weft_fiber_self(), true);
			weft_signals_deliver(nullptr);
			weft_fiber_set_vector_live(weft_fiber_self(), false);
		};
		/* What earlier calls leave on a stack. */
		auto dirty_stack = +[] {
			volatile unsigned char junk[16384];
			for (size_t i = 0; i < sizeof junk; i++)
				junk[i] = 0xff;
		};
		weft_sig_send_thread(own_tid(), SIGUSR1, nullptr);
		set_mask(0);
		dirty_stack();
		__asm__ volatile("mov %%rsp, %%rbx\n\t"
				 "sub $256, %%rsp\n\t"
				 "and $-64, %%rsp\n\t"
				 "vmovups (%1), %%ymm5\n\t"
				 "call *%2\n\t"
				 "mov %%rbx, %%rsp\n\t"
				 "vmovups %%ymm5, (%0)\n\t"
				 :
				 : "r"(out), "r"(in), "r"(deliver)
				 : "rbx", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9",
				 "r10", "r11", "cc", "memory", "xmm0", "xmm1", "xmm2",
				 "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
				 "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
		EXPECT_EQ(caught->size(), 1u);
		EXPECT_EQ(memcmp(in, out, 32), 0);
	});
}

// A fiber that computes in its own code is interrupted there.
TEST(Signals, AComputingFiberIsInterrupted)
{
	on_runtime({2}, [] {
		static std::atomic<bool> ran;
		Fibers fibers;
		std::atomic<bool> in{false};

		ran = false;
		set_action(SIGUSR1, [](int) { ran = true; });
		struct fiber *f = fibers.start_on(1, [&] {
			set_mask(0);
			in = true;
			OwnCode here;
			spin_until([] { return ran.load(); });
		});
		int tid = weft_fiber_tid(f);
		until([&] { return in.load(); });
		weft_sig_send_thread(tid, SIGUSR1, nullptr);
	});
}

TEST(Signals, ManyAtOnceOnAComputingFiberLoseNoRegister)
{
	weft_seed();
	on_runtime({2}, [] {
		static std::atomic<int> ran;
		Fibers fibers;
		std::atomic<bool> in{false}, stop{false};
		const int n = rounds(3000);

		ran = 0;
		set_action(SIGRTMIN + 1, [](int) { ran++; });
		struct fiber *f = fibers.start_on(1, [&] {
			set_mask(0);
			in = true;
			OwnCode here;
			/* A sum that any lost register spoils. */
			while (!stop) {
				double x = 0;
				uint64_t y = 1;
				for (int i = 1; i <= 1000; i++) {
					x += i * 0.5;
					y = y * 6364136223846793005u + (uint64_t)i;
				}
				uint64_t z = 1;
				for (int i = 1; i <= 1000; i++)
					z = z * 6364136223846793005u + (uint64_t)i;
				CHECK(x == 250250.0 && y == z);
			}
		});
		int tid = weft_fiber_tid(f);
		until([&] { return in.load(); });
		for (int i = 0; i < n; i++) {
			EXPECT_EQ(weft_sig_send_thread(tid, SIGRTMIN + 1, nullptr), 0);
			if (i % 16 == 0)
				weft_yield();
		}
		until([&] { return ran == n; });
		stop = true;
	});
}

} // namespace
