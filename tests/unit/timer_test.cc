// runtime/timer.c: the heap by itself against a model, then deadlines of real fibers.
#include "on_fibers.h"

#include <algorithm>
#include <climits>
#include <map>

namespace
{

// ---- the heap alone

// This kernel thread poses as a carrier that never runs what it makes ready.
class FakeCarrier
{
      public:
	FakeCarrier()
	{
		size_t size = (sizeof(struct carrier) + 4095) & ~4095ul;
		c_ = (struct carrier *)mmap(nullptr, size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK((void *)c_ != MAP_FAILED);
		c_->self = c_;
		c_->kind = CARRIER_FULL;
		weft_sched_init(c_);
		weft_timers_init(&c_->timers);
		weft_wrgsbase((uintptr_t)c_);
	}
	~FakeCarrier()
	{
		weft_timers_free(&c_->timers);
		weft_wrgsbase(0);
		munmap(c_, (sizeof(struct carrier) + 4095) & ~4095ul);
	}
	struct carrier *operator->() const
	{
		return c_;
	}
	struct carrier *get() const
	{
		return c_;
	}
	// The fibers made ready since the last call, in order.
	std::vector<struct fiber *> take_ready()
	{
		std::vector<struct fiber *> out;

		for (; c_->runq.head != c_->runq.tail; c_->runq.head++)
			out.push_back(c_->runq.slot[c_->runq.head % RUNQ_SIZE]);
		for (; c_->spill_head; c_->spill_head = c_->spill_head->qnext)
			out.push_back(c_->spill_head);
		c_->spill_tail = nullptr;
		c_->spill_count = 0;
		return out;
	}

      private:
	struct carrier *c_;
};

struct FakeFibers {
	std::vector<struct fiber> f;

	explicit FakeFibers(size_t n) : f(n)
	{
		for (auto &one : f)
			park(one);
	}
	static void park(struct fiber &one)
	{
		one.wake = WEFT_WAKE_NONE;
		one.state = FIBER_PARKED;
	}
};

TEST(TimerHeap, FiresInOrderOfDeadlines)
{
	FakeCarrier c;
	FakeFibers fibers(1000);
	Random random(1);

	for (auto &f : fibers.f)
		weft_timer_arm(&f, 1 + random.below(500)); // many ties
	EXPECT_EQ(c->timers.count, 1000u);
	uint64_t fired = 0, last = 0;
	for (uint64_t now = 0; now <= 501; now++) {
		fired += weft_timers_run(c.get(), now, UINT_MAX);
		for (struct fiber *f : c.take_ready()) {
			EXPECT_EQ(f->deadline, now) << "neither early nor late";
			EXPECT_GE(f->deadline, last);
			last = f->deadline;
			EXPECT_EQ(f->timer_carrier, nullptr);
			EXPECT_EQ(f->wake & WAKE_STATE, (uint32_t)WEFT_WAKE_TIMEOUT);
		}
	}
	EXPECT_EQ(fired, 1000u);
	EXPECT_EQ(c->timers.count, 0u);
	EXPECT_EQ(c->timers.first, WEFT_NO_DEADLINE);
}

TEST(TimerHeap, AgreesWithAModelThroughRandomArmsAndDisarms)
{
	FakeCarrier c;
	FakeFibers fibers(3000);
	std::multimap<uint64_t, struct fiber *> model;
	std::map<struct fiber *, uint64_t> armed;
	Random random(2);
	uint64_t now = 1;

	for (int i = 0; i < rounds(200000); i++) {
		struct fiber *f = &fibers.f[random.below(fibers.f.size())];
		auto at = armed.find(f);

		if (at == armed.end()) {
			uint64_t deadline = now + random.below(2000);

			FakeFibers::park(*f);
			weft_timer_arm(f, deadline);
			model.emplace(deadline, f);
			armed[f] = deadline;
		} else if (random.one_in(2)) {
			weft_timer_disarm(f);
			EXPECT_EQ(f->timer_carrier, nullptr);
			auto range = model.equal_range(at->second);
			for (auto m = range.first; m != range.second; ++m)
				if (m->second == f) {
					model.erase(m);
					break;
				}
			armed.erase(at);
		}
		if (random.one_in(50)) {
			now += random.below(200);
			unsigned n = weft_timers_run(c.get(), now, UINT_MAX);
			auto ready = c.take_ready();

			ASSERT_EQ((size_t)n, ready.size());
			for (struct fiber *one : ready) {
				ASSERT_LE(one->deadline, now);
				ASSERT_EQ(armed.count(one), 1u);
				armed.erase(one);
			}
			while (!model.empty() && model.begin()->first <= now) {
				ASSERT_EQ(armed.count(model.begin()->second), 0u)
					<< "not fired";
				model.erase(model.begin());
			}
		}
		ASSERT_EQ(c->timers.count, model.size());
		ASSERT_EQ(c->timers.first,
			model.empty() ? WEFT_NO_DEADLINE : model.begin()->first);
	}
}

TEST(TimerHeap, NoDeadlineArmsNothing)
{
	FakeCarrier c;
	FakeFibers fibers(1);

	weft_timer_arm(&fibers.f[0], WEFT_NO_DEADLINE);
	EXPECT_EQ(c->timers.count, 0u);
	weft_timer_disarm(&fibers.f[0]);
	weft_timer_disarm(&fibers.f[0]);
}

TEST(TimerHeap, AFiberThatIsClaimedAlreadyIsNotWokenAgain)
{
	FakeCarrier c;
	FakeFibers fibers(1);

	weft_timer_arm(&fibers.f[0], 10);
	ASSERT_TRUE(weft_claim(&fibers.f[0], WEFT_WAKE_DONE));
	EXPECT_EQ(weft_timers_run(c.get(), 20, UINT_MAX), 1u);
	EXPECT_TRUE(c.take_ready().empty());
	EXPECT_EQ(fibers.f[0].wake & WAKE_STATE, (uint32_t)WEFT_WAKE_DONE);
}

// ---- real fibers

TEST(Sleep, IsNeverTooShort)
{
	on_runtime({2}, [] {
		Fibers fibers;
		Count late;

		for (int i = 0; i < 200; i++)
			fibers.start([&late, i] {
				Random random(i);

				for (int k = 0; k < 20; k++) {
					uint64_t deadline =
						weft_now_ns() + random.below(3000000);

					EXPECT_EQ(weft_sleep_until(deadline),
						WEFT_WAKE_TIMEOUT);
					EXPECT_GE(weft_now_ns(), deadline);
				}
			});
	});
}

TEST(Sleep, APastDeadlineReturnsAtOnce)
{
	on_runtime({1}, [] {
		EXPECT_EQ(weft_sleep_until(0), WEFT_WAKE_TIMEOUT);
		EXPECT_EQ(weft_sleep_until(1), WEFT_WAKE_TIMEOUT);
		EXPECT_EQ(weft_sleep_until(weft_now_ns()), WEFT_WAKE_TIMEOUT);
	});
}

TEST(Sleep, ShorterOnesEndFirst)
{
	on_runtime({1}, [] {
		Fibers fibers;
		std::vector<int> order;
		uint64_t base = in_ms(50);

		/* Armed in another order than they end in. */
		for (int i : {3, 0, 4, 1, 2})
			fibers.start([&order, base, i] {
				weft_sleep_until(base + (uint64_t)i * 3000000);
				order.push_back(i);
			});
		fibers.join();
		EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4}));
	});
}

TEST(Sleep, AHundredThousandAtOnce)
{
	on_runtime({1}, [] {
		const int n = rounds(100000);
		Fibers fibers(Fibers::Shared, 16 << 10);
		uint64_t early = 0, woken = 0, base = in_ms(400);

		for (int i = 0; i < n; i++)
			fibers.start([&, i] {
				uint64_t deadline =
					base + (uint64_t)(i * 7919 % n) * 1000;

				weft_sleep_until(deadline);
				early += weft_now_ns() < deadline;
				woken++;
			});
		until([&] { return weft_rt.carrier[0]->timers.count || woken; });
		fibers.join();
		EXPECT_EQ(woken, (uint64_t)n);
		EXPECT_EQ(early, 0u);
		EXPECT_EQ(weft_rt.carrier[0]->timers.count, 0u);
		EXPECT_GE(counted(WEFT_COUNTER_TIMEOUTS), (uint64_t)n);
	});
}

TEST(Sleep, SleepersOfEveryCarrierWakeWithoutAnybodysHelp)
{
	on_runtime({4}, [] {
		Fibers fibers;
		Count done;

		for (unsigned i = 0; i < 4; i++)
			fibers.start_on(i, [&] {
				weft_sleep_until(in_ms(30));
				done.add();
			});
		done.await(4);
	});
}

// Woken fibers disarm on another carrier than the one whose heap they are in.
TEST(Sleep, CancelledTimersLeaveOtherCarriersHeaps)
{
	weft_seed();
	on_runtime({4, true}, [] {
		Fibers fibers;
		uint32_t words[16] = {};
		std::atomic<int> running{16};

		for (int i = 0; i < 16; i++)
			fibers.start([&, i] {
				for (int k = 0; k < rounds(500); k++) {
					long r = weft_futex_wait(&words[i], 0, UINT32_MAX,
						false, in_ms(5000));
					ASSERT_EQ(r, 0);
				}
				running--;
			});
		fibers.start([&] {
			Random random(3);

			while (running) {
				weft_futex_wake(
					&words[random.below(16)], 1, UINT32_MAX, false);
				weft_yield();
			}
		});
		fibers.join();
		for (unsigned i = 0; i < 4; i++)
			EXPECT_EQ(weft_rt.carrier[i]->timers.count, 0u);
	});
}

} // namespace
