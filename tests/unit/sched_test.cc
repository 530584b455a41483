// runtime/sched.c, queue.c, inbox.c, balance.c, turn.c: who runs when and where; parking,
// claiming, waking.
#include "on_fibers.h"

#include <mutex>

extern "C" {
#include "runtime/engine.h"
}

namespace
{

void wait_on(uint32_t &word)
{
	EXPECT_EQ(weft_futex_wait(&word, 0, UINT32_MAX, false, WEFT_NO_DEADLINE), 0);
}

// Begins one that waits on the word, and returns it when it does.
struct fiber *start_waiting(Fibers &fibers, uint32_t &word, std::function<void()> then)
{
	struct fiber *f = fibers.start([&word, then] {
		wait_on(word);
		then();
	});

	until([&] { return is_parked(f, WEFT_REASON_FUTEX); });
	return f;
}

long wake_one(uint32_t &word)
{
	return weft_futex_wake(&word, 1, UINT32_MAX, false);
}

std::vector<int> usable_cpus()
{
	std::vector<int> result;
	cpu_set_t all;

	OK(sched_getaffinity(0, sizeof all, &all));
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &all))
			result.push_back(i);
	return result;
}

void move_to(int tid, int cpu)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	OK(sched_setaffinity(tid, sizeof one, &one));
}

// ---- order

TEST(Sched, YieldRunsTheOthersFirstInTurn)
{
	on_runtime({1}, [] {
		Fibers fibers;
		std::vector<int> order;
		enum { N = 50, ROUNDS = 20 };

		for (int i = 0; i < N; i++)
			fibers.start([&order, i] {
				for (int k = 0; k < ROUNDS; k++) {
					order.push_back(i);
					weft_yield();
				}
			});
		fibers.join();
		ASSERT_EQ(order.size(), (size_t)N * ROUNDS);
		for (size_t i = 0; i < order.size(); i++)
			ASSERT_EQ(order[i], (int)(i % N)) << "turn " << i;
	});
}

// More than the bounded queue holds: the order is kept over the spill.
TEST(Sched, AHundredThousandReadyFibersKeepTheirOrder)
{
	on_runtime({1}, [] {
		const int n = rounds(100000);
		Fibers fibers(Fibers::Shared, 16 << 10);
		std::vector<int> order;

		order.reserve((size_t)n * 2);
		for (int i = 0; i < n; i++)
			fibers.start([&order, i] {
				order.push_back(i);
				weft_yield();
				order.push_back(i);
			});
		EXPECT_GT(weft_rt.carrier[0]->spill_count, 0u);
		fibers.join();
		ASSERT_EQ(order.size(), (size_t)n * 2);
		for (int i = 0; i < n * 2; i++)
			ASSERT_EQ(order[(size_t)i], i % n) << "turn " << i;
	});
}

/*
 * One whose calls never wait, while another is ready, a third one's data is there and a
 * fourth one's time has come: all get their turn, on this carrier. The monitor would help
 * them, too, but 20 times as late and elsewhere; on a busy machine it may be first now
 * and then.
 */
TEST(Sched, AFiberWhoseCallsNeverWaitGivesWay)
{
	on_runtime({1}, [] {
		enum { ROUNDS = 20 };
		int here = 0;

		for (int i = 0; i < ROUNDS; i++) {
			std::atomic<struct carrier *> ran{nullptr}, read{nullptr},
				slept{nullptr};
			struct carrier *on = weft_carrier_self();
			Fibers fibers;
			int fd[2];
			char c;

			unix_pair(fd);
			fibers.start([&] {
				EXPECT_EQ(weft_io_recv(fd[0], &c, 1, 0, nullptr, nullptr,
						  WEFT_TRIED_NOT),
					1);
				read = weft_carrier_self();
			});
			fibers.start([&] {
				weft_sleep_until(in_ms(1));
				slept = weft_carrier_self();
			});
			weft_yield();
			fibers.start([&] {
				EXPECT_EQ(write(fd[1], "x", 1), 1);
				while (!ran || !read || !slept) {
					weft_count_first_try(WEFT_TURN_ANSWER, -1);
					weft_sched_give_way();
				}
			});
			fibers.start([&] { ran = weft_carrier_self(); });
			fibers.join();
			here += ran == on && read == on && slept == on;
			close(fd[0]);
			close(fd[1]);
		}
		EXPECT_GE(here, ROUNDS / 2);
	});
}

/*
 * What many hands pass on, while others keep the queue long, does not wait for the whole
 * queue with each hand.
 */
TEST(Sched, WhatIsPassedOnIsNotHeldUpByTheQueue)
{
	on_runtime({1}, [] {
		enum { HANDS = 20, OTHERS = 50 };
		Fibers fibers;
		uint32_t word[HANDS + 1] = {};
		bool passed = false;
		int turns = 0;

		for (int i = 0; i < HANDS; i++)
			fibers.start([&, i] {
				wait_on(word[i]);
				passed = !wake_one(word[i + 1]);
			});
		weft_yield();
		for (int i = 0; i < OTHERS; i++)
			fibers.start([&] {
				while (!passed) {
					turns++;
					weft_yield();
				}
			});
		fibers.start([&] { wake_one(word[0]); });
		fibers.join();
		EXPECT_TRUE(passed);
		/* Once for each before it begins; when a turn ends, one comes between. */
		EXPECT_LT(turns, 3 * OTHERS);
	});
}

// Begins two that take turns and wake each other, until `turn` says that there are
// enough.
void start_pair(Fibers &fibers, uint32_t (&word)[2], const std::function<bool()> &turn)
{
	word[0] = 1;
	for (int i = 0; i < 2; i++)
		fibers.start([&word, turn, i] {
			bool more;

			do {
				while (!word[i])
					wait_on(word[i]);
				word[i] = 0;
				more = turn();
				word[!i] = 1;
				wake_one(word[!i]);
			} while (more);
		});
}

TEST(Sched, TwoThatWakeEachOtherLetTheQueueRun)
{
	on_runtime({1}, [] {
		enum { TIMES = 20, AT_MOST = 1000000 };
		int most = 0;

		/* A turn also ends when the kernel takes the CPU for milliseconds. */
		for (int i = 0; i < TIMES && most <= 10; i++) {
			Fibers fibers;
			uint32_t word[2] = {};
			bool ran = false;
			int rounds = 0;

			start_pair(
				fibers, word, [&] { return ++rounds < AT_MOST && !ran; });
			weft_yield();
			ran = true;
			fibers.join();
			EXPECT_LT(rounds, AT_MOST);
			most = std::max(most, rounds);
		}
		EXPECT_GT(most, 10) << "they went on in one turn";
	});
}

// … sooner when they compute.
TEST(Sched, TwoThatComputeAndWakeEachOtherLetTheQueueRun)
{
	on_runtime({1}, [] {
		Fibers fibers;
		uint32_t word[2] = {};
		bool ran = false;
		int rounds = 0;

		start_pair(fibers, word, [&] {
			compute(1000000);
			return ++rounds < 30 && !ran;
		});
		weft_yield();
		ran = true;
		fibers.join();
		// 2 ms are up to 2.5 where the TSC has 2 GHz, after the first one's own
		// turn; two more when all are told to end.
		EXPECT_LT(rounds, 7);
	});
}

enum { WOKEN = 30 };

// How many of those in the queue run before all that `wake` wakes have run, which take
// 20 us each; the fewest of many times, as the kernel may stop us for milliseconds.
int queue_before_woken(const std::function<void(uint32_t *words)> &wake)
{
	enum { TIMES = 200, EARLIER = 12, OTHERS = 50 };
	int fewest = OTHERS;

	for (int i = 0; i < TIMES && fewest; i++) {
		Fibers fibers;
		uint32_t words[WOKEN] = {};
		int woken = 0, others = 0, before = 0;

		for (int k = 0; k < WOKEN; k++) {
			struct fiber *f = start_waiting(fibers, words[k], [&, k] {
				for (int e = 0; e < EARLIER; e++)
					wait_on(words[k]);
				compute(20000);
				woken++;
				wait_on(words[k]); // to end can take longer than that
			});

			/* They have had that place before, too. */
			for (int e = 0; e < EARLIER; e++) {
				EXPECT_EQ(wake_one(words[k]), 1);
				weft_yield();
				until([&] { return is_parked(f, WEFT_REASON_FUTEX); });
			}
		}
		/* The first of the queue: its turn is not as old as ours by then. */
		fibers.start([&] { wake(words); });
		for (int k = 0; k < OTHERS; k++)
			fibers.start([&] {
				before += woken < WOKEN;
				others++;
			});
		until([&] { return woken == WOKEN && others == OTHERS; });
		for (uint32_t &word : words)
			until([&] { return wake_one(word) == 1; });
		fibers.join();
		fewest = std::min(fewest, before);
	}
	return fewest;
}

TEST(Sched, AllWhomAFiberWakesGoBeforeTheQueue)
{
	on_runtime({1}, [] {
		int before = queue_before_woken([](uint32_t *words) {
			for (int k = 0; k < WOKEN; k++)
				EXPECT_EQ(wake_one(words[k]), 1);
		});

		EXPECT_EQ(before, 0);
	});
}

TEST(Sched, ABroadcastGoesBeforeTheQueue)
{
	on_runtime({1}, [] {
		int before = queue_before_woken([](uint32_t *words) {
			for (int k = 1; k < WOKEN; k++)
				EXPECT_EQ(weft_futex_requeue(
						  words + k, 0, 1, words, nullptr, false),
					1);
			EXPECT_EQ(weft_futex_wake(words, INT_MAX, UINT32_MAX, false),
				WOKEN);
		});

		EXPECT_EQ(before, 0);
	});
}

// … but not again and again: pairs that do nothing else take turns with it, whatever it
// costs them to wake each other.
TEST(Sched, WhoIsWokenAgainAndAgainIsInTheQueueNowAndThen)
{
	on_runtime({1}, [] {
		enum { PAIRS = 10, TURNS = 20000 };
		Fibers fibers;
		uint32_t word[PAIRS][2] = {};
		int turns = 0, rounds = 0;

		for (auto &pair : word)
			start_pair(fibers, pair, [&] { return ++turns < TURNS; });
		while (turns < TURNS) {
			rounds++;
			weft_yield();
		}
		fibers.join();
		/* Each of the 20 runs 9 times between two of its times in the queue. */
		EXPECT_GT(rounds, TURNS / (PAIRS * 2 * 9) * 3 / 4);
	});
}

// A turn ends soon where an answer was given, later where a request was taken in hand,
// and latest at a call that only wakes others: that one may hold what they wait for.
// Longer behind a long queue.
TEST(Sched, ATurnLastsLongerForWhoHoldsARequestOrALock)
{
	on_runtime({1}, [] {
		Fibers fibers;
		struct carrier *c = weft_carrier_self();
		const uint64_t ms = 2500000; // in TSC ticks, as queue_impl.h takes it
		// How long a turn lasts that is looked at all the time; 0: nobody is
		// asked to give way.
		const auto lasts = [&](enum weft_turn at) {
			struct fiber *f = c->current;
			uint64_t begin = c->turn_tsc = weft_tsc(), now = begin;

			f->give_way = 0;
			while (!f->give_way && now - begin < 100 * ms) {
				weft_sched_turn(at, -1);
				now = weft_tsc(); // later than its own look
			}
			const bool asked = f->give_way;
			f->give_way = 0;
			store_relaxed(&c->called, 0);
			return asked ? now - begin : 0;
		};

		EXPECT_EQ(lasts(WEFT_TURN_ANSWER), 0u) << "nobody waits";
		fibers.start([] {});
		EXPECT_GT(lasts(WEFT_TURN_ANSWER), ms / 60);
		EXPECT_GT(lasts(WEFT_TURN_REQUEST), ms / 2);
		EXPECT_GT(lasts(WEFT_TURN_LOCK), 2 * ms);
		// Where many wait all wait long, and what they need has left the cache.
		for (int i = 0; i < 2000; i++)
			fibers.start([] {});
		EXPECT_GT(lasts(WEFT_TURN_ANSWER), ms / 10);
		// Who may hold a lock would come back behind all of them.
		EXPECT_GT(lasts(WEFT_TURN_REQUEST), 5 * ms);
		EXPECT_GT(lasts(WEFT_TURN_LOCK), 5 * ms);
	});
}

// The kernel lets it run for a third of the time, as on a busy machine.
TEST(Sched, ATurnEndsAlsoWhereTheKernelTakesMostOfIt)
{
	on_runtime({1}, [] {
		Fibers fibers;
		struct carrier *c = weft_carrier_self();
		struct fiber *f = c->current;
		int rounds = 0;

		fibers.start([] {});
		c->turn_tsc = weft_tsc();
		c->turn_run = c->ticks - 1;
		for (; !f->give_way && rounds < 50; rounds++) {
			const timespec away = {0, 2000000};
			uint64_t begin = weft_cpu_clock(c);

			while (weft_cpu_clock(c) - begin < 800000)
				weft_sched_turn(WEFT_TURN_LOCK, -1);
			nanosleep(&away, nullptr);
			weft_sched_turn(WEFT_TURN_LOCK, -1);
		}
		EXPECT_TRUE(f->give_way);
		EXPECT_GT(rounds, 1) << "it has hardly run";
		f->give_way = 0;
		store_relaxed(&c->called, 0);
	});
}

// The time of 200 has come while their carrier did not run. Each asks, and waits for the
// answer: the first ones have it before the last ones ask.
TEST(Sched, WhoHasBegunGoesBeforeThoseWhoseTimeHasCome)
{
	on_runtime({1}, [] {
		const int n = 200;
		Fibers fibers;
		uint64_t at = 0;
		uint32_t all_there = 0;
		int begun = 0, sleeping = 0, waiting = 0, most = 0, answered = 0;

		for (int i = 0; i < n; i++) {
			int fd[2];

			unix_pair(fd);
			fibers.start([&, asks = fd[0]] {
				char c = 0;

				begun++;
				wait_on(all_there);
				sleeping++;
				weft_sleep_until(at);
				most = std::max(most, ++waiting);
				EXPECT_EQ(weft_io_send(asks, &c, 1, 0, nullptr, 0,
						  WEFT_TRIED_NOT),
					1);
				EXPECT_EQ(weft_io_recv(asks, &c, 1, 0, nullptr, nullptr,
						  WEFT_TRIED_NOT),
					1);
				waiting--;
				answered++;
			});
			fibers.start([answers = fd[1]] {
				char c;

				EXPECT_EQ(weft_io_recv(answers, &c, 1, 0, nullptr,
						  nullptr, WEFT_TRIED_NOT),
					1);
				EXPECT_EQ(weft_io_send(answers, &c, 1, 0, nullptr, 0,
						  WEFT_TRIED_NOT),
					1);
			});
		}
		until([&] { return begun == n; });
		at = in_ms(50); // not while the rest of them still begins
		EXPECT_EQ(weft_futex_wake(&all_there, n, UINT32_MAX, false), n);
		until([&] { return sleeping == n; });
		spin_until([&] { return weft_now_ns() > at; });
		fibers.join();
		EXPECT_EQ(answered, n);
		EXPECT_LT(most, n / 2); // all 200 if they went first
	});
}

// On a machine that is wanted by many, time goes by in which a carrier does not run.
TEST(Sched, ATurnThatTheKernelTookIsNoReasonToStopWhoMayHoldALock)
{
	on_runtime({1}, [] {
		Fibers fibers;
		struct carrier *c = weft_carrier_self();
		struct timespec turn = {0, 3000000};

		fibers.start([] {});
		for (enum weft_turn at : {WEFT_TURN_REQUEST, WEFT_TURN_LOCK}) {
			c->turn_tsc = weft_tsc();
			c->turn_run = c->ticks - 1;
			int asked = 0;

			for (int i = 0; i < 10; i++) {
				weft_sys2(SYS_nanosleep, (long)&turn, 0);
				weft_sched_turn(at, -1);
				asked += c->current->give_way;
				c->current->give_way = 0;
				store_relaxed(&c->called, 0);
			}
			/* What the hypervisor takes counts as ours; by the clock all are
			 * asked. */
			EXPECT_LT(asked, 5) << "at " << at;
		}
		weft_sys2(SYS_nanosleep, (long)&turn, 0);
		weft_sched_turn(WEFT_TURN_ANSWER, -1);
		EXPECT_TRUE(c->current->give_way);
		c->current->give_way = 0;
		store_relaxed(&c->called, 0);
	});
}

// Others' operations would otherwise begin when it parks.
TEST(Sched, BeforeALongRunTheKernelIsGivenWhatIsToBeBegun)
{
	on_runtime({1}, [] {
		Fibers fibers;
		int fd[2];
		char c;

		unix_pair(fd);
		compute(1000000);
		fibers.start([&] {
			EXPECT_EQ(weft_io_recv(fd[0], &c, 1, 0, nullptr, nullptr,
					  WEFT_TRIED_NOT),
				1);
		});
		weft_yield();
		EXPECT_EQ(weft_engine_waits(weft_carrier_self()), 1u);
		EXPECT_FALSE(weft_engine_unsubmitted(weft_carrier_self()));
		OK(write(fd[1], "x", 1));
		fibers.join();
	});
}

TEST(Sched, AFiberThatNeverStopsYieldingDoesNotStarveTimersAndRing)
{
	on_runtime({1}, [] {
		Fibers fibers;
		int fd[2];
		bool slept = false, read = false;
		char c;

		unix_pair(fd);
		fibers.start([&] {
			weft_sleep_until(in_ms(1));
			slept = true;
			write(fd[1], "x", 1);
		});
		fibers.start([&] {
			EXPECT_EQ(weft_io_recv(fd[0], &c, 1, 0, nullptr, nullptr,
					  WEFT_TRIED_NOT),
				1);
			read = true;
		});
		until([&] { return slept && read; }); // main alone never parks otherwise
		fibers.join();
	});
}

// ---- stealing

int carrier_id()
{
	return (int)weft_carrier_self()->id;
}

uint32_t queued_on(unsigned carrier)
{
	struct carrier *c = weft_rt.carrier[carrier];

	return load_relaxed(&c->woken.tail) - load_relaxed(&c->woken.head) +
	       load_relaxed(&c->runq.tail) - load_relaxed(&c->runq.head) +
	       load_relaxed(&c->spill_count);
}

// Eight become ready on carrier 0: begun, or woken.
void older_half_is_taken(bool woken)
{
	on_runtime({2}, [=] {
		Fibers fibers;
		std::atomic<bool> hold{true}, holding{false}, first{false}, go{false};
		std::vector<int> ran;
		uint32_t words[8] = {};

		auto runs = [&](int i) {
			if (i == 0) {
				first = true;
				spin_until([&] { return go.load(); });
			}
			if (carrier_id() == 1)
				ran.push_back(i);
		};
		for (int i = 0; woken && i < 8; i++)
			start_waiting(fibers, words[i], [&, i] { runs(i); });
		/* Carrier 1 is kept busy while carrier 0 collects eight. */
		fibers.start_on(1, [&] {
			holding = true;
			spin_until([&] { return !hold; });
		});
		spin_until([&] { return holding.load(); });
		/* It may have taken some before they waited. */
		const uint64_t *stolen =
			&weft_rt.carrier[1]->counters[WEFT_COUNTER_STOLEN];
		const uint64_t before = *stolen;
		for (int i = 0; i < 8; i++)
			if (woken)
				EXPECT_EQ(wake_one(words[i]), 1);
			else
				fibers.start([&, i] { runs(i); });
		EXPECT_EQ(queued_on(0), 8u);
		hold = false;
		spin_until([&] { return first.load(); });
		EXPECT_EQ(queued_on(0), 4u) << "the younger half stays";
		EXPECT_EQ(queued_on(1), 3u) << "the older half, less the one that runs";
		go = true;
		/*
		 * 0-3, then two of four, then one of two. A last one is left alone,
		 * unless main does not get as far as joining for as long as it may be.
		 */
		spin_until([&] { return queued_on(0) <= 1; });
		fibers.join();
		ran.resize(7);
		EXPECT_EQ(ran, (std::vector<int>{0, 1, 2, 3, 4, 5, 6}));
		EXPECT_GE(*stolen - before, 7u);
		EXPECT_LE(*stolen - before, 8u);
	});
}

TEST(Steal, ThiefTakesTheOlderHalf)
{
	older_half_is_taken(false);
}

TEST(Steal, ThiefTakesTheOlderHalfOfTheWoken)
{
	older_half_is_taken(true);
}

// But for now and then: where that is kept from running by the kernel, or by a fiber.
TEST(Steal, MainStaysOnItsKernelThread)
{
	on_runtime({4}, [] {
		Fibers fibers;
		std::atomic<bool> stop{false};
		const int n = rounds(20000);
		int away = 0;

		for (int i = 0; i < 20; i++)
			fibers.start([&] {
				for (int k = 0; !stop; k++) {
					for (int spin = 0; spin < 200; spin++)
						__builtin_ia32_pause();
					weft_yield();
				}
			});
		for (int i = 0; i < n; i++) {
			weft_yield();
			away += carrier_id() != 0;
			if (i % 100 == 0) {
				ASSERT_EQ(
					weft_sys0(SYS_gettid) == getpid(), !carrier_id());
			}
		}
		stop = true;
		EXPECT_LT(away, n / 5);
	});
}

// Those that may be used, as the runtime counts them.
unsigned cpus()
{
	cpu_set_t set;

	OK(sched_getaffinity(0, sizeof set, &set));
	return (unsigned)CPU_COUNT(&set);
}

// On one CPU carriers leave each other alone, and only the monitor helps.
class StealOnTwoCpus : public testing::Test
{
	void SetUp() override
	{
		if (cpus() < 2)
			GTEST_SKIP() << "one CPU";
	}
};

TEST_F(StealOnTwoCpus, ABacklogThatLastsWakesASleepingCarrier)
{
	on_runtime({2}, [] {
		Fibers fibers;
		std::atomic<bool> elsewhere{false};

		weft_sleep_until(in_ms(5)); // until carrier 1 sleeps
		for (int i = 0; i < 16; i++)
			fibers.start([&] {
				while (!elsewhere) {
					if (carrier_id() == 1)
						elsewhere = true;
					for (int spin = 0; spin < 1000; spin++)
						__builtin_ia32_pause();
					weft_yield();
				}
			});
		fibers.join();
		EXPECT_GT(counted(WEFT_COUNTER_STEALS), 0u);
	});
}

// There is no monitor in these: without what they test nobody would ever be helped.

// On a busy machine the kernel lets carrier 1 run late: who is ready is not told to one
// that is about to sleep, which has looked for the last time.
void sleep_until_carrier_1_sleeps()
{
	weft_sleep_until(in_ms(2));
	spin_until([] { return load_relaxed(&weft_rt.sleepers) > 0; });
}

// Computes before it sleeps or after, until carrier 1 sleeps; then wakes one, and
// computes until that has run.
void computes_and_wakes(uint64_t before_ns, uint64_t after_ns)
{
	on_runtime({2}, [=] {
		for (int i = 0; i < 20; i++) {
			Fibers fibers;
			std::atomic<bool> ran{false};

			compute(before_ns);
			sleep_until_carrier_1_sleeps();
			compute(after_ns);
			fibers.start([&] { ran = true; });
			spin_until([&] { return ran.load(); });
			fibers.join();
		}
	});
}

TEST_F(StealOnTwoCpus, WhoHasComputedSharesWhomItWakes)
{
	computes_and_wakes(0, 1000000);
}

// The same when it computes after waking, as it did last time.
TEST_F(StealOnTwoCpus, WhoComputedLastTimeSharesWhomItWakes)
{
	computes_and_wakes(1000000, 0);
}

// … and when that one is the next to run, before the queue.
TEST_F(StealOnTwoCpus, WhoHasComputedSharesWhomItWakesFromAFutex)
{
	on_runtime({2}, [=] {
		for (int i = 0; i < 20; i++) {
			Fibers fibers;
			std::atomic<bool> ran{false};
			uint32_t word = 0;

			start_waiting(fibers, word, [&] { ran = true; });
			sleep_until_carrier_1_sleeps();
			compute(1000000);
			EXPECT_EQ(wake_one(word), 1);
			spin_until([&] { return ran.load(); });
			fibers.join();
		}
	});
}

// Not only who is woken by one that computes: two that do are ready behind each other. A
// short run or two in between, e.g. as far as a lock, does not make it one that waits.
TEST_F(StealOnTwoCpus, WhoComputesNowAndThenLeavesASingleOneToOthers)
{
	on_runtime({2}, [=] {
		for (int i = 0; i < 20; i++) {
			Fibers fibers;
			std::atomic<bool> ran{false};
			uint32_t first = 0, second = 0;

			struct fiber *f = start_waiting(fibers, first, [&] {
				compute(4000000);
				for (int run = 0; run < 2; run++)
					wait_on(first);
				spin_until([&] { return ran.load(); });
			});
			for (int run = 0; run < 2; run++) {
				weft_sleep_until(in_ms(1));
				until([&] { return is_parked(f, WEFT_REASON_FUTEX); });
				EXPECT_EQ(wake_one(first), 1);
				weft_yield();
			}
			until([&] { return is_parked(f, WEFT_REASON_FUTEX); });
			start_waiting(fibers, second, [&] { ran = true; });
			sleep_until_carrier_1_sleeps();
			EXPECT_EQ(wake_one(first), 1);
			EXPECT_EQ(wake_one(second), 1);
			fibers.join();
		}
	});
}

// None of them ever waits, so that nobody steals: `on_0` and `on_1` of them begin on each
// carrier, and in the end each has more than `least`.
void share_out(unsigned on_0, unsigned on_1, unsigned least)
{
	on_runtime({2}, [=] {
		Fibers fibers;
		std::atomic<unsigned> here{0};
		std::atomic<bool> stop{false};
		auto yields = [&] {
			here++;
			while (!stop)
				weft_yield();
		};

		for (unsigned i = 0; i < on_1; i++)
			fibers.start_on(1, yields);
		spin_until([&] { return here == on_1; });
		for (unsigned i = 0; i < on_0; i++)
			fibers.start(yields);
		/* In the long run the kernel's preemption makes for idle moments. */
		unsigned fewest = 0;
		for (int i = 0; i < 3000 && fewest <= least; i++) {
			fewest = std::min(queued_on(0), queued_on(1));
			weft_yield();
		}
		EXPECT_GT(fewest, least);
		stop = true;
		fibers.join();
	});
}

TEST_F(StealOnTwoCpus, ALongQueueIsSharedWithOneThatIsNeverIdle)
{
	share_out(200, 4, 80);
}

// Whoever is in the longer queue waits longer for each of its turns.
TEST_F(StealOnTwoCpus, AQueueTwiceAsLongIsSharedToo)
{
	share_out(130, 70, 80);
}

// 1,000 are ready on carrier 0, and `n` that have waited for longer, or less, on carrier
// 1, which gives them away: how many of the former have run when the first and the 40th
// of the latter run on 0.
enum class They { AreOlder, AreYounger };
struct Before {
	int first, fortieth;
};
using Give = std::function<void(struct carrier *, std::atomic<bool> &hold)>;
Before others_before(They they, int n, const Give &give)
{
	void *shared = mmap(nullptr, sizeof(Before), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	Before &before = *(Before *)shared;

	before = {-1, -1};
	on_runtime({2}, [&] {
		Fibers fibers;
		std::vector<struct fiber *> given, others;
		std::atomic<bool> hold{true}, holding{false}, done{false}, begin{false};
		int others_ran = 0, given_ran = 0;

		// Made before: it takes so long that the monitor would see to the rest.
		for (int i = 0; i < n; i++)
			given.push_back(fibers.make([&] {
				if (carrier_id() != 0)
					return;
				if (++given_ran == 1)
					before.first = others_ran;
				if (given_ran == 40) {
					before.fortieth = others_ran;
					done = true;
				}
			}));
		for (int i = 0; i < 1000; i++)
			others.push_back(fibers.make([&] { others_ran++; }));
		weft_yield();
		auto start_others = [&] {
			for (struct fiber *f : others)
				weft_fiber_start(f);
		};
		fibers.start_on(1, [&] {
			holding = true;
			spin_until([&] { return begin.load(); });
			for (struct fiber *f : given)
				weft_fiber_start(f);
			holding = false;
			spin_until([&] { return !hold; });
		});
		spin_until([&] { return holding.load(); });
		if (they == They::AreYounger)
			start_others();
		begin = true;
		spin_until([&] { return !holding; });
		if (they == They::AreOlder)
			start_others();
		fibers.start([&] { done = true; });
		give(weft_rt.carrier[1], hold);
		until([&] { return done.load(); });
		hold = false;
		fibers.join();
	});
	const Before result = before;
	munmap(shared, sizeof(Before));
	return result;
}

// They have waited already: not behind all that wait here.
TEST_F(StealOnTwoCpus, TheOldestOfALongQueueAreNotTheYoungestOfAnother)
{
	const Before b = others_before(
		They::AreOlder, 2000, [](struct carrier *, std::atomic<bool> &) {});

	EXPECT_GE(b.first, 0);
	EXPECT_LT(b.first, 500);
	EXPECT_LT(b.fortieth, 600);
}

// Gives everything away, unless the other one is stuck at that moment: then it stays.
void retires(struct carrier *c, std::atomic<bool> &hold)
{
	c->ticks = 31; // it looks before it runs one of them
	fetch_or_seq_cst(&c->odd, ODD_RETIRING);
	hold = false;
	spin_until([&] { return !(load_seq_cst(&c->odd) & ODD_RETIRING); });
}

void is_stuck(struct carrier *c, std::atomic<bool> &)
{
	c->stuck_since = weft_now_ns();
	fetch_or_seq_cst(&c->odd, ODD_STUCK);
	weft_rt.stuck = 1; // for who looks outside
}

Before given_by_one_that_retires(They they)
{
	Before b = {-1, -1};

	for (int i = 0; i < 50 && b.fortieth < 0; i++)
		b = others_before(they, 500, retires);
	return b;
}

TEST_F(StealOnTwoCpus, ARetiringCarriersQueueIsNotBehindAllOfAnother)
{
	const Before b = given_by_one_that_retires(They::AreOlder);

	EXPECT_GE(b.first, 0);
	EXPECT_LT(b.first, 500);
	EXPECT_LT(b.fortieth, 600);
}

// … nor before those that have waited for longer.
TEST_F(StealOnTwoCpus, ARetiringCarriersQueueIsNotBeforeAnOlderOne)
{
	const Before b = given_by_one_that_retires(They::AreYounger);

	EXPECT_GE(b.first, 900);
}

TEST_F(StealOnTwoCpus, AStuckCarriersQueueIsNotBehindAllOfAnother)
{
	const Before b = others_before(They::AreOlder, 500, is_stuck);

	EXPECT_GE(b.first, 0);
	EXPECT_LT(b.first, 500);
	EXPECT_LT(b.fortieth, 600);
}

TEST_F(StealOnTwoCpus, AStuckCarriersQueueIsNotBeforeAnOlderOne)
{
	const Before b = others_before(They::AreYounger, 500, is_stuck);

	EXPECT_GE(b.first, 900);
}

// Whom a fiber woke goes before the queue, also that of another carrier: it may hold what
// many wait for. One wakes the other, behind `n` that are older, and its carrier gives
// all of them away: how many of the 1,000 on carrier 0, older still, run before that one.
int others_before_woken(const Give &give)
{
	int *result = (int *)mmap(nullptr, sizeof(int), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	*result = -1;
	on_runtime({2}, [&] {
		Fibers fibers;
		std::vector<struct fiber *> behind;
		std::atomic<bool> hold{true}, holding{false}, begin{false}, done{false};
		uint32_t word = 0;
		int ran = 0;

		start_waiting(fibers, word, [&] {
			if (carrier_id() == 0)
				*result = ran;
			done = true;
		});
		for (int i = 0; i < 500; i++)
			behind.push_back(fibers.make([] {}));
		fibers.start_on(1, [&] {
			holding = true;
			spin_until([&] { return begin.load(); });
			for (struct fiber *f : behind)
				weft_fiber_start(f);
			EXPECT_EQ(wake_one(word), 1);
			holding = false;
			spin_until([&] { return !hold; });
		});
		spin_until([&] { return holding.load(); });
		for (int i = 0; i < 1000; i++)
			fibers.start([&] { ran++; });
		begin = true;
		spin_until([&] { return !holding; });
		give(weft_rt.carrier[1], hold);
		until([&] { return done.load(); });
		hold = false;
		fibers.join();
	});
	const int before = *result;
	munmap(result, sizeof(int));
	return before;
}

TEST_F(StealOnTwoCpus, WhomAStuckCarrierWokeGoesBeforeTheQueue)
{
	const int before = others_before_woken(is_stuck);

	EXPECT_GE(before, 0);
	EXPECT_LT(before, 100);
}

TEST_F(StealOnTwoCpus, WhomARetiringCarrierWokeGoesBeforeTheQueue)
{
	int before = -1;

	for (int i = 0; i < 50 && before < 0; i++)
		before = others_before_woken(retires);
	EXPECT_GE(before, 0);
	EXPECT_LT(before, 100);
}

// The kernel may give one carrier less than another, and then its queue is no longer, but
// older: who waits in it asks for nothing more.
TEST_F(StealOnTwoCpus, WhoHasWaitedForLongerIsTakenFromAQueueThatIsNoLonger)
{
	on_runtime({2}, [] {
		Fibers fibers;
		std::vector<struct fiber *> old;
		std::atomic<bool> stop{false}, holding{false};
		std::atomic<int> taken{0};

		for (int i = 0; i < 100; i++)
			old.push_back(fibers.make([&] { taken += carrier_id() == 0; }));
		fibers.start_on(1, [&] {
			for (struct fiber *f : old)
				weft_fiber_start(f);
			holding = true;
			spin_until([&] { return stop.load(); });
		});
		spin_until([&] { return holding.load(); });
		for (int i = 0; i < 100; i++)
			fibers.start([&] {
				while (!stop)
					weft_yield();
			});
		until([&] { return taken == 100; });
		stop = true;
		fibers.join();
	});
}

// The main fiber stays at home, and is not sent to the end of the queue there each time
// that others meet it at its beginning.
TEST_F(StealOnTwoCpus, MainKeepsItsPlaceWhereOthersMeetIt)
{
	on_runtime({2}, [] {
		const struct carrier *home = weft_rt.carrier[0];
		Fibers fibers;
		std::vector<struct fiber *> behind;
		std::atomic<bool> stop{false};
		std::atomic<int> ran{0};
		auto yields = [&] {
			ran += carrier_id() == 0;
			while (!stop)
				weft_yield();
		};

		for (int i = 0; i < 1000; i++)
			behind.push_back(fibers.make(yields));
		for (int i = 0; i < 2; i++)
			fibers.start_on(1, yields);
		fibers.start([&] {
			for (struct fiber *f : behind)
				weft_fiber_start(f);
			spin_until([&] { return load_acquire(&home->inbox) != nullptr; });
		});
		weft_yield();
		EXPECT_EQ(carrier_id(), 0);
		/* It is back at the next look, and may be met there again. */
		EXPECT_LT(ran.load(), 300);
		stop = true;
		fibers.join();
	});
}

// Carrier 1 has nothing more to do and sees one behind somebody who computes.
TEST_F(StealOnTwoCpus, WhoGoesToSleepLooksAgainAtAQueueOfOne)
{
	on_runtime({2}, [] {
		for (int i = 0; i < 20; i++) {
			Fibers fibers;
			std::atomic<bool> hold{true}, holding{false}, ran{false};

			fibers.start_on(1, [&] {
				holding = true;
				spin_until([&] { return !hold; });
			});
			spin_until([&] { return holding.load(); });
			fibers.start([&] { ran = true; });
			hold = false;
			spin_until([&] { return ran.load(); });
			fibers.join();
		}
	});
}

TEST_F(StealOnTwoCpus, WhoGoesToSleepLooksAgainAtAnInbox)
{
	on_runtime({2}, [] {
		for (int i = 0; i < 20; i++) {
			Fibers fibers;
			std::atomic<bool> ran{false};

			fibers.start_on(1, [&] {
				weft_sleep_until(in_ms(1));
				fibers.start_on(0, [&] { ran = true; });
			});
			spin_until([&] { return ran.load(); });
			fibers.join();
		}
	});
}

// The main fiber, too, whose home computes: it was posted there before that began.
TEST_F(StealOnTwoCpus, MainIsTakenFromAHomeThatComputes)
{
	on_runtime({2}, [] {
		for (int i = 0; i < 20; i++) {
			Fibers fibers;
			std::atomic<bool> begun{false}, back{false};

			fibers.start([&] {
				begun = true;
				spin_until([&] { return back.load(); });
			});
			fibers.start_on(
				1, [&] { spin_until([&] { return begun.load(); }); });
			weft_yield();
			back = true;
			fibers.join();
		}
	});
}

// While it exists, the process has the first of its CPUs alone.
class OneCpu
{
	cpu_set_t all;

      public:
	OneCpu()
	{
		cpu_set_t one;

		OK(sched_getaffinity(0, sizeof all, &all));
		CPU_ZERO(&one);
		for (int i = 0; !CPU_COUNT(&one); i++)
			if (CPU_ISSET(i, &all))
				CPU_SET(i, &one);
		OK(sched_setaffinity(0, sizeof one, &one));
	}
	~OneCpu()
	{
		OK(sched_setaffinity(0, sizeof all, &all));
	}
};

// It would be run in the middle of what the other one does, and have no CPU more for it.
TEST(Steal, OnOneCpuASingleFiberStaysWhereItIs)
{
	OneCpu here;

	on_runtime({2}, [] {
		ASSERT_EQ(weft_rt.cpus, 1u);
		for (int i = 0; i < 20; i++) {
			Fibers fibers;
			int on = -1;

			// Carrier 1 is awake, and finds the next one.
			fibers.start_on(1, [] { compute(1000000); });
			fibers.start([&] { on = (int)carrier_id(); });
			compute(10000000);
			fibers.join();
			EXPECT_EQ(on, 0);
		}
	});
}

// ---- peers

// Echoes what comes, on the CPU it is told.
static void peer_loop(int fd, const std::atomic<int> &cpu)
{
	int on = -1;
	char c;

	while (read(fd, &c, 1) == 1) {
		if (on != cpu) {
			on = cpu;
			move_to(0, on);
		}
		EXPECT_EQ(write(fd, &c, 1), 1);
	}
}

// A yield of who is brought back where others have taken it away.
static bool go_home(struct fiber *f, void *home)
{
	if (weft_carrier_self() == home)
		weft_unpark(f);
	else
		weft_sched_post((struct carrier *)home, f);
	return true;
}

// A fiber does round after round with a peer that changes its CPU, and goes there too.
static void expect_to_follow(void (*round)(int fd))
{
	std::vector<int> cpus = usable_cpus();

	on_runtime({2}, [&] {
		std::atomic<int> peers_cpu{-1};
		std::atomic<bool> done{false};
		int fd[2], carrier = -1;
		Fibers fibers;

		tcp_pair(fd);
		for (int i = 0; i < 2; i++)
			move_to(weft_rt.carrier[i]->tid, cpus[(size_t)i]);
		/* Both have others to run all the time, and none has many: a carrier that
		 * gets no CPU loses some for a while. */
		for (int i = 0; i < 6; i++)
			fibers.start_on((unsigned)i % 2, [&, home = i % 2] {
				while (!done) {
					compute(5000);
					weft_park(WEFT_REASON_YIELD, go_home,
						weft_rt.carrier[home]);
				}
			});
		fibers.start_on(0, [&] {
			/* Three times, or more often, where a carrier that got no CPU
			 * for long had it taken away. */
			uint64_t end = in_ms(10000);
			for (int n = 0; n < 3 || counted(WEFT_COUNTER_FOLLOWED) < 3;
				n++) {
				const int wanted = !(n % 2);

				peers_cpu = cpus[(size_t)wanted];
				do {
					round(fd[0]);
					carrier = (int)carrier_id();
				} while (carrier != wanted && weft_now_ns() < end);
				EXPECT_EQ(carrier, wanted);
				if (weft_now_ns() >= end)
					break;
			}
			EXPECT_GE(counted(WEFT_COUNTER_FOLLOWED), 3u);
			done = true;
			OK(shutdown(fd[0], SHUT_WR));
		});
		std::thread peer([&] { peer_loop(fd[1], peers_cpu); });
		fibers.join();
		peer.join();
	});
}

// Where whoever writes to a socket runs, there its reader goes.
TEST(Follow, AFiberGoesToTheCpuOfItsPeer)
{
	if (usable_cpus().size() < 2)
		GTEST_SKIP() << "one CPU";
	expect_to_follow([](int fd) {
		char c;

		EXPECT_EQ(write(fd, "x", 1), 1);
		EXPECT_EQ(
			weft_io_recv(fd, &c, 1, 0, nullptr, nullptr, WEFT_TRIED_NOT), 1);
	});
}

// Also if it never waits, as the peer is always done before its turn comes again.
TEST(Follow, AFiberGoesToTheCpuOfAPeerThatItNeverWaitsFor)
{
	if (usable_cpus().size() < 2)
		GTEST_SKIP() << "one CPU";
	expect_to_follow([](int fd) {
		char c;

		EXPECT_EQ(weft_io_try_send(fd, "x", 1, 0), 1);
		compute(100000); // its turn has been long enough to end here
		weft_count_first_try(WEFT_TURN_ANSWER, fd);
		weft_sched_give_way();
		while (recv(fd, &c, 1, MSG_DONTWAIT) < 0)
			weft_yield();
		EXPECT_EQ(counted(WEFT_COUNTER_IO_PARKS), 0u);
	});
}

// ---- stuck carriers

// A fiber that computes does not hold the others, on any number of carriers.
void computing_holds_nobody(const Config &config)
{
	on_runtime(config, [] {
		Fibers fibers;
		std::atomic<int> ran{0};
		const int n = 3 * (int)weft_rt.carriers;

		/* Each goes on only when all have begun. */
		for (int i = 0; i < n; i++)
			fibers.start([&] {
				ran++;
				OwnCode here;
				spin_until([&] { return ran == n; });
			});
		fibers.join();
		EXPECT_EQ(ran, n);
	});
}

TEST(Stuck, ComputingFibersOnOneCarrierHoldNobody)
{
	computing_holds_nobody({1, false, false, false, true});
}

TEST(Stuck, ComputingFibersOnTwoCarriersHoldNobody)
{
	computing_holds_nobody({2, false, false, false, true});
}

TEST(Stuck, AComputingFiberDoesNotHoldWhomItWoke)
{
	on_runtime({1, false, false, false, true}, [] {
		for (int i = 0; i < 5; i++) {
			Fibers fibers;
			std::atomic<bool> ran{false};
			uint32_t word = 0;

			start_waiting(fibers, word, [&] { ran = true; });
			EXPECT_EQ(wake_one(word), 1);
			OwnCode here;
			spin_until([&] { return ran.load(); });
		}
	});
}

TEST(Stuck, AComputingMainHoldsNobody)
{
	on_runtime({1, false, false, false, true}, [] {
		Fibers fibers;
		std::atomic<bool> ran{false};
		int fd[2];
		char c;

		/* It waits in the ring of the carrier that main then keeps. */
		unix_pair(fd);
		struct fiber *f = fibers.start([&] {
			EXPECT_EQ(weft_io_recv(fd[0], &c, 1, 0, nullptr, nullptr,
					  WEFT_TRIED_NOT),
				1);
			ran = true;
		});
		until([&] { return is_parked(f, WEFT_REASON_READ); });
		OK(write(fd[1], "x", 1));
		{
			OwnCode here;
			spin_until([&] { return ran.load(); });
		}
	});
}

unsigned free_carriers()
{
	unsigned n = 0;

	for (unsigned i = 0; i < weft_rt.carriers; i++)
		n += !(load_relaxed(&weft_rt.carrier[i]->odd) & ODD_AWAY);
	return n;
}

// A carrier whose fibers compute for 5 ms each is not stuck. `make_ready` is called as
// such a run begins; who is ready then runs before it ends, now or after a few more. The
// carrier has to get the CPU for that: these run alone (CMakeLists.txt).
template <typename F>
void is_seen_beside_runs_of_milliseconds(std::atomic<int> &ran, F make_ready)
{
	const uint64_t give_up = in_ms(20000);
	bool seen = false;

	while (!seen && weft_now_ns() < give_up) {
		/* Or one that came for another reason, in a run that was stuck after all,
		 * sees to it without a look. */
		while (free_carriers() != 1)
			weft_sleep_until(in_ms(1));

		uint64_t looks = counted(WEFT_COUNTER_LOOKS), end = in_ms(5);
		int before = ran;

		make_ready();
		{
			OwnCode here;
			spin_until([&] { return ran != before || weft_now_ns() > end; });
		}
		seen = ran != before && counted(WEFT_COUNTER_LOOKS) > looks;
		until([&] { return ran != before; });
		compute(1000000);
	}
	EXPECT_TRUE(seen);
}

void is_seen_in_the_ring()
{
	on_runtime({1, false, false, false, true}, [] {
		Fibers fibers;
		std::atomic<int> ran{0};
		int fd[2];

		unix_pair(fd);
		struct fiber *f = fibers.start([&] {
			char c;

			while (weft_io_recv(fd[0], &c, 1, 0, nullptr, nullptr,
				       WEFT_TRIED_NOT) == 1)
				ran++;
		});
		is_seen_beside_runs_of_milliseconds(ran, [&] {
			until([&] { return is_parked(f, WEFT_REASON_READ); });
			OK(write(fd[1], "x", 1));
		});
		OK(shutdown(fd[1], SHUT_WR));
		fibers.join();
	});
}

TEST(Bursts, WhoWaitsInTheRingIsSeen)
{
	is_seen_in_the_ring();
}

TEST(Bursts, WhoWaitsInTheRingIsSeenOnOneCpuToo)
{
	OneCpu here;

	is_seen_in_the_ring();
}

TEST(Bursts, WhoSleepsIsSeen)
{
	on_runtime({1, false, false, false, true}, [] {
		Fibers fibers;
		std::atomic<int> ran{0};
		std::atomic<bool> stop{false};

		struct fiber *f = fibers.start([&] {
			while (!stop) {
				weft_sleep_until(in_ms(1));
				ran++;
			}
		});
		is_seen_beside_runs_of_milliseconds(ran,
			[&] { until([&] { return is_parked(f, WEFT_REASON_SLEEP); }); });
		stop = true;
		fibers.join();
	});
}

// Python's threads on one CPU: whoever gives up its lock is woken by the one who takes
// it, and has to wait for it before that one is asked for it again. It computes for less
// than a tick each time, which is not being stuck.
TEST(Bursts, ASingleOneWhomItWokeIsSeenOnOneCpuToo)
{
	OneCpu here;

	on_runtime({2, false, false, false, true}, [] {
		const uint64_t give_up = in_ms(20000);
		bool seen = false;

		while (!seen && weft_now_ns() < give_up) {
			std::atomic<bool> ran{false};
			uint32_t word = 0;
			Fibers fibers;

			start_waiting(fibers, word, [&] { ran = true; });
			EXPECT_EQ(wake_one(word), 1);
			{
				OwnCode here;
				const uint64_t end = in_ms(8);
				spin_until([&] {
					return ran.load() || weft_now_ns() > end;
				});
			}
			seen = ran;
			fibers.join();
		}
		EXPECT_TRUE(seen);
	});
}

bool on_express()
{
	return weft_fiber_self()->carrier == load_relaxed(&weft_rt.express);
}

// More that compute than CPUs, for 5 ms at a time, and wait for those that do not. These
// end up on a carrier that is kept free for them, and whom they wake there is given away.
void others_have_a_carrier_of_their_own()
{
	on_runtime({2, false, false, false, true}, [] {
		enum { N = 4, WINDOW = 200 };
		const uint64_t give_up = in_ms(20000);
		Fibers fibers;
		uint32_t word[N] = {};
		std::atomic<bool> stop{false};
		std::atomic<unsigned> there{0}, elsewhere{0}, in_the_way{0};
		bool seen = false;

		for (auto &w : word)
			fibers.start([&] {
				while (!stop) {
					wait_on(w);
					in_the_way += on_express();
					OwnCode here;
					compute(5000000);
				}
			});
		for (auto &w : word)
			fibers.start([&] {
				while (!stop) {
					weft_sleep_until(in_ms(1));
					(on_express() ? there : elsewhere)++;
					wake_one(w);
				}
			});
		while (!seen && weft_now_ns() < give_up) {
			uint64_t given = counted(WEFT_COUNTER_HANDED_ON);

			there = elsewhere = in_the_way = 0;
			while (there + elsewhere < WINDOW && weft_now_ns() < give_up)
				weft_sleep_until(in_ms(10));
			seen = there >= 9 * elsewhere && !in_the_way &&
			       counted(WEFT_COUNTER_HANDED_ON) >= given + N;
		}
		stop = true;
		while (weft_fibers_alive() > 1) {
			for (auto &w : word)
				wake_one(w);
			weft_sleep_until(in_ms(1));
		}
		fibers.join();
		EXPECT_TRUE(seen) << there << " there, " << elsewhere << " elsewhere, "
				  << in_the_way << " in the way";
	});
}

TEST(Bursts, TheOthersHaveACarrierOfTheirOwn)
{
	others_have_a_carrier_of_their_own();
}

TEST(Bursts, TheOthersHaveACarrierOfTheirOwnOnOneCpuToo)
{
	OneCpu here;

	others_have_a_carrier_of_their_own();
}

// One for each tick would take 640 ms, however quiet the machine is. The pool is empty
// each time: who has gone there is not there at once either.
TEST(Bursts, ManyThatBlockAtOnceAreMadeUpForAtOnce)
{
	enum { MANY = 64 };

	on_runtime({2, false, false, false, true}, [] {
		const uint64_t give_up = in_ms(20000);
		bool fast = false;

		while (!fast && weft_now_ns() < give_up) {
			std::atomic<bool> ran{false};
			Fibers fibers;
			int fd[2];

			OK(pipe(fd));
			while (free_carriers() != 2)
				weft_sleep_until(in_ms(1));
			uint64_t limit = in_ms(320);
			for (int i = 0; i < MANY; i++)
				fibers.start([&] {
					OwnCode here;
					char c;

					EXPECT_EQ(read(fd[0], &c, 1), 1);
				});
			fibers.start([&] { ran = true; });
			until([&] { return ran.load(); });
			fast = weft_now_ns() < limit;
			OK(write(fd[1], std::string(MANY, 'x').data(), MANY));
			fibers.join();
			close(fd[0]);
			close(fd[1]);
		}
		EXPECT_TRUE(fast);
	});
}

// A child on the memory of its parent, which waits for its end as for a lock of the
// kernel's.
static int read_and_exit(void *fd)
{
	char c;

	_exit(read(*(int *)fd, &c, 1) == 1 ? 0 : 1);
}

// Whoever comes would wait for the same: one comes for each tick, not as many as wait.
TEST(Bursts, ThoseThatWaitForTheKernelAreNotMadeUpForByNumber)
{
	enum { MANY = 64 };

	on_runtime({2, false, false, false, true}, [] {
		static char stacks[MANY][16384] __attribute__((aligned(16)));
		std::atomic<bool> ran{false};
		Fibers fibers;
		int fd[2];

		OK(pipe(fd));
		uint64_t at_least = in_ms(320);
		for (int i = 0; i < MANY; i++)
			fibers.start([&, i] {
				OwnCode here;
				int child =
					clone(read_and_exit, stacks[i] + sizeof stacks[i],
						CLONE_VM | CLONE_VFORK | SIGCHLD, &fd[0]);
				int status;

				OK(waitpid(child, &status, 0));
				EXPECT_EQ(status, 0);
			});
		fibers.start([&] { ran = true; });
		until([&] { return ran.load(); });
		EXPECT_GE(weft_now_ns(), at_least);
		OK(write(fd[1], std::string(MANY, 'x').data(), MANY));
		fibers.join();
		close(fd[0]);
		close(fd[1]);
	});
}

// Until there are as many free carriers, beside so many fibers that compute and one that
// is always awake; then until there are as many as at the beginning.
void beside_hogs(unsigned hogs, unsigned free)
{
	unsigned before = free_carriers();
	Fibers fibers;
	std::atomic<bool> stop{false};

	EXPECT_NE(before, free);
	for (unsigned i = 0; i < hogs; i++)
		fibers.start([&] {
			OwnCode here;
			spin_until([&] { return stop.load(); });
		});
	/* And it stays so: a tick is 10 ms. */
	for (uint64_t since = 0; !since || weft_now_ns() < since + 30000000u;) {
		if (free_carriers() != free)
			since = 0;
		else if (!since)
			since = weft_now_ns();
		weft_yield();
	}
	stop = true;
	fibers.join();
	while (free_carriers() != before)
		weft_sleep_until(in_ms(1));
}

TEST(Stuck, BesideAHogForEachCpuThereIsOneCarrier)
{
	on_runtime({cpus() + 2, false, false, false, true},
		[] { beside_hogs(weft_rt.cpus, 1); });
}

TEST(Stuck, BesideMoreHogsThereAreTwoCarriersForEach)
{
	on_runtime({2, false, false, false, true},
		[] { beside_hogs(weft_rt.cpus + 1, 2 * weft_rt.cpus + 2); });
}

uint64_t pauses()
{
	return load_relaxed(&weft_monitor_carrier()->counters[WEFT_COUNTER_PAUSES]);
}

// The kernel would let it run for a slice each time. And it does not pause for nobody.
TEST(Stuck, AHogLeavesTheOnlyCpuToThoseWhoCouldRun)
{
	OneCpu here;

	on_runtime({2, false, false, false, true}, [] {
		const uint64_t give_up = in_ms(20000);
		std::atomic<bool> stop{false}, others_stop{false};
		Fibers fibers, others;
		uint64_t before;

		fibers.start([&] {
			OwnCode here;
			spin_until([&] { return stop.load(); });
		});
		/* Two, or each yield would leave the CPU to the kernel. */
		for (int i = 0; i < 2; i++)
			others.start([&] {
				while (!others_stop)
					weft_yield();
			});
		while (pauses() < 10 && weft_now_ns() < give_up)
			weft_sleep_until(in_ms(1));
		EXPECT_GE(pauses(), 10u);
		others_stop = true;
		others.join();
		weft_sleep_until(in_ms(100));
		before = pauses();
		weft_sleep_until(in_ms(300));
		EXPECT_LE(pauses(), before + 1) << "one when this one is woken";
		stop = true;
		fibers.join();
	});
}

unsigned awaiting_turns()
{
	unsigned n = 0;

	for (unsigned i = 0; i < weft_rt.carriers; i++)
		n += load_relaxed(&weft_rt.carrier[i]->awaits_turn);
	return n;
}

// All get on, also beside others; one that ends makes room for the next. When there are
// no others they all run as the kernel lets them.
TEST(Stuck, HogsTakeTurns)
{
	OneCpu here;

	on_runtime({2, false, false, false, true}, [] {
		enum { HOGS = 4 };
		const uint64_t give_up = in_ms(20000);
		std::atomic<uint64_t> did[HOGS] = {};
		std::atomic<int> stop{0};
		std::atomic<bool> others_stop{false};
		Fibers fibers, others;
		auto all_get_on = [&] {
			uint64_t before[HOGS];

			std::copy(did, did + HOGS, before);
			for (int i = 0; i < HOGS; i++)
				while (did[i] == before[i] && weft_now_ns() < give_up)
					weft_sleep_until(in_ms(1));
			EXPECT_LT(weft_now_ns(), give_up);
		};

		for (int i = 0; i < HOGS; i++)
			fibers.start([&, i] {
				OwnCode here;
				while (stop <= i)
					did[i]++;
			});
		/* Many: where there is one alone each yield leaves the CPU to the kernel.
		 */
		for (int i = 0; i < 40; i++)
			others.start([&] {
				while (!others_stop)
					weft_yield();
			});
		while (awaiting_turns() < HOGS - 1 && weft_now_ns() < give_up)
			weft_sleep_until(in_ms(1));
		for (int i = 0; i < 3; i++)
			all_get_on();
		stop = 1;
		while (awaiting_turns() != HOGS - 2 && weft_now_ns() < give_up)
			weft_sleep_until(in_ms(1));
		EXPECT_LT(weft_now_ns(), give_up) << awaiting_turns() << " wait";
		others_stop = true;
		others.join();
		while (awaiting_turns() && weft_now_ns() < give_up)
			weft_sleep_until(in_ms(1));
		EXPECT_LT(weft_now_ns(), give_up) << awaiting_turns() << " wait";
		stop = HOGS;
		fibers.join();
	});
}

// … nor does one wait for a turn that nobody gives.
TEST(Stuck, AHogThatIsForgottenGoesOn)
{
	on_runtime({2}, [] {
		carrier *c = weft_carrier_self();

		store_relaxed(&c->awaits_turn, 1);
		weft_hogs_pause(c, WEFT_PAUSE_UNTIL_TURN);
		EXPECT_EQ(load_relaxed(&c->awaits_turn), 0);
	});
}

// ---- claims

// A parked fiber that anybody may try to wake.
struct Box {
	struct fiber *f = nullptr; // (a) set by commit
	std::atomic<uint64_t> claims{0};

	static bool commit(struct fiber *f, void *arg)
	{
		store_release(&((Box *)arg)->f, f);
		return weft_park_open(f) != WEFT_PARK_SELF;
	}
	enum weft_wake park()
	{
		return weft_park(WEFT_REASON_SLEEP, commit, this);
	}
	bool wake(enum weft_wake how = WEFT_WAKE_DONE)
	{
		struct fiber *parked = load_acquire(&f);

		if (!parked || !weft_claim(parked, how))
			return false;
		claims++;
		weft_unpark(parked);
		return true;
	}
};

// Whether the wakers are fibers on other carriers or kernel threads: one wins.
void one_claim_wins_per_park(const Config &config, bool natives)
{
	uint64_t seed = weft_seed();

	(void)seed;
	on_runtime(config, [natives] {
		enum { SLEEPERS = 4, WAKERS = 6 };
		const int n = rounds(3000);
		Box box[SLEEPERS];
		Fibers fibers;
		std::vector<std::unique_ptr<Native>> threads;
		std::atomic<int> running{SLEEPERS};
		uint64_t parks[SLEEPERS] = {};

		for (int i = 0; i < SLEEPERS; i++)
			fibers.start([&, i] {
				Random random(i);

				for (int k = 0; k < n; k++) {
					ASSERT_EQ(box[i].park(), WEFT_WAKE_DONE);
					parks[i]++;
					if (random.one_in(8))
						weft_yield();
				}
				running--;
			});
		auto waker = [&](int stream, bool native) {
			Random random(100 + stream);

			while (running) {
				box[random.below(SLEEPERS)].wake();
				if (!native && random.one_in(4))
					weft_yield();
			}
		};
		for (int i = 0; i < WAKERS; i++) {
			if (natives && i % 2)
				threads.push_back(std::make_unique<Native>(
					[&, i] { waker(i, true); }));
			else
				fibers.start([&, i] { waker(i, false); });
		}
		fibers.join();
		threads.clear();
		for (int i = 0; i < SLEEPERS; i++) {
			EXPECT_EQ(parks[i], (uint64_t)n);
			EXPECT_EQ(box[i].claims, (uint64_t)n) << "claims equal parks";
		}
	});
}

TEST(Claim, ExactlyOneOfManyFibersWinsPerPark)
{
	one_claim_wins_per_park({4}, false);
}

TEST(Claim, ExactlyOneWinsOnOneCarrier)
{
	one_claim_wins_per_park({1}, false);
}

TEST(Claim, NativeThreadsWakeFibersToo)
{
	one_claim_wins_per_park({3}, true);
}

TEST(Claim, ExactlyOneWinsWhenEveryParkMigrates)
{
	one_claim_wins_per_park({4, true}, true);
}

TEST(Claim, RunningAndReadyFibersCannotBeClaimed)
{
	on_runtime({1}, [] {
		Fibers fibers;
		struct fiber *f = fibers.make([] {});

		EXPECT_FALSE(weft_claim(weft_fiber_self(), WEFT_WAKE_DONE));
		EXPECT_FALSE(weft_claim(f, WEFT_WAKE_DONE));
		weft_fiber_start(f);
		EXPECT_FALSE(weft_claim(f, WEFT_WAKE_DONE));
	});
}

TEST(Park, ACommitThatRefusesRunsTheFiberOn)
{
	on_runtime([] {
		int calls = 0;

		weft_park(
			WEFT_REASON_SLEEP,
			[](struct fiber *, void *arg) {
				++*(int *)arg;
				return false;
			},
			&calls);
		EXPECT_EQ(calls, 1);
		EXPECT_EQ(weft_fiber_self(), weft_fiber_main());
	});
}

TEST(Park, ASignalThatCameBeforeTheParkEndsIt)
{
	on_runtime([] {
		Fibers fibers;

		fibers.start([] {
			struct fiber *f = weft_fiber_self();
			Box box;

			/* As interrupt() does: the flag first. */
			store_seq_cst(&f->attention, 1);
			f->interruptible = 1;
			/* SELF: the fiber claims itself; weft_park reports how. */
			EXPECT_EQ(box.park(), WEFT_WAKE_INTERRUPT);
			f->interruptible = 0;
			EXPECT_EQ(
				weft_sleep_until(WEFT_NO_DEADLINE), WEFT_WAKE_INTERRUPT);
			store_seq_cst(&f->attention, 0);
		});
	});
}

// A deadline, a waker and an interrupter at once: exactly one of them ends each park.
TEST(Park, TimeoutWakeAndInterruptNeverWinTogether)
{
	weft_seed();
	on_runtime({3}, [] {
		enum { SLEEPERS = 8 };
		struct Timed : Box {
			uint64_t deadline = 0;
			static bool commit_timed(struct fiber *f, void *arg)
			{
				Timed *t = (Timed *)arg;

				weft_timer_arm(f, t->deadline);
				return commit(f, t);
			}
		};
		const int n = rounds(2000);
		static Timed box[SLEEPERS];
		static std::atomic<uint64_t> won[3], claimed[3];
		std::atomic<int> running{SLEEPERS};
		Fibers fibers;

		for (int i = 0; i < SLEEPERS; i++)
			fibers.start([&, i] {
				Random random(i);
				struct fiber *f = weft_fiber_self();

				for (int k = 0; k < n; k++) {
					uint64_t now = weft_now_ns();

					box[i].deadline = now + random.below(60) * 1000;
					enum weft_wake how = weft_park(WEFT_REASON_SLEEP,
						Timed::commit_timed, &box[i]);
					weft_timer_disarm(f);
					ASSERT_GE(how, WEFT_WAKE_DONE);
					ASSERT_LE(how, WEFT_WAKE_INTERRUPT);
					if (how == WEFT_WAKE_TIMEOUT) {
						ASSERT_GE(weft_now_ns(), box[i].deadline);
					}
					won[how - 1]++;
				}
				running--;
			});
		for (int i = 0; i < 2; i++)
			fibers.start([&, i] {
				Random random(50 + i);

				while (running) {
					enum weft_wake how =
						i ? WEFT_WAKE_INTERRUPT : WEFT_WAKE_DONE;

					if (box[random.below(SLEEPERS)].wake(how))
						claimed[how - 1]++;
					for (size_t k = random.below(2000); k--;)
						__builtin_ia32_pause();
					weft_yield();
				}
			});
		fibers.join();
		EXPECT_EQ(won[0] + won[1] + won[2], (uint64_t)SLEEPERS * (uint64_t)n);
		EXPECT_EQ(won[0], claimed[0]);
		EXPECT_EQ(won[2], claimed[2]);
		EXPECT_GT(won[1], 0u) << "some timed out";
		for (unsigned i = 0; i < weft_rt.carriers; i++)
			EXPECT_EQ(weft_rt.carrier[i]->timers.count, 0u) << "timers left";
	});
}

// ---- carriers

// A ring of fibers hands a token round over all carriers; nobody is lost or doubled.
void tokens_go_round(const Config &config)
{
	weft_seed();
	on_runtime(config, [] {
		enum { N = 100, TOKENS = 10 };
		const uint32_t laps = (uint32_t)rounds(200);
		std::vector<Count> place(N);
		Fibers fibers;

		for (uint32_t i = 0; i < N; i++)
			fibers.start([&, i] {
				for (uint32_t k = 1; k <= laps * TOKENS; k++) {
					place[i].await(k);
					place[(i + 1) % N].add();
				}
			});
		place[0].add(TOKENS);
		fibers.join();
		for (uint32_t i = 0; i < N; i++)
			EXPECT_EQ(place[i].get(), laps * TOKENS + (i ? 0 : TOKENS));
	});
}

TEST(Carriers, TokensGoRoundOnOne)
{
	tokens_go_round({1});
}

TEST(Carriers, TokensGoRoundOnThree)
{
	tokens_go_round({3});
}

TEST(Carriers, TokensGoRoundOnSixtyFour)
{
	tokens_go_round({64});
}

TEST(Carriers, TokensGoRoundWhenEveryParkMigrates)
{
	tokens_go_round({5, true});
}

TEST(Carriers, TokensGoRoundShuffled)
{
	tokens_go_round({3, false, false, true});
}

TEST(Carriers, TokensGoRoundShuffledAndMigrating)
{
	tokens_go_round({4, true, true, true});
}

TEST(Carriers, MigrateMovesAFiberAtEveryPark)
{
	on_runtime({4, true}, [] {
		Fibers fibers;

		fibers.start([] {
			for (int k = 0; k < 100; k++) {
				int before = carrier_id();

				weft_yield();
				EXPECT_NE(carrier_id(), before);
			}
		});
	});
}

// Nobody fetches it back meanwhile.
TEST(Carriers, MigrateMovesAFiberAlsoToOneThatComputes)
{
	on_runtime({2, true}, [] {
		Fibers fibers;
		int before = -1, after = -1;

		fibers.start_on(1, [&] {
			before = carrier_id();
			weft_yield();
			after = carrier_id();
		});
		compute(20000000);
		fibers.join();
		EXPECT_EQ(before, 1);
		EXPECT_EQ(after, 0);
	});
}

TEST(Carriers, ShuffleRunsAnotherOrderForAnotherSeedAndTheSameForTheSame)
{
	auto order_with = [](uint64_t seed) {
		int fd[2];
		std::string got(200, 0);

		OK(pipe(fd));
		in_child([&] {
			weft_config config = {};
			config.unwatched = true;
			const char *what;

			prepare_process(&config.initial_mask);
			config.carriers = 1;
			config.stress_shuffle = true;
			config.seed = seed;
			config.fs_template = weft_rdfsbase();
			ASSERT_EQ(weft_runtime_start(&config, &what), 0);
			Fibers fibers;
			std::string order;
			for (int i = 0; i < 200; i++)
				fibers.start([&order, i] { order += (char)i; });
			fibers.join();
			OK(write(fd[1], order.data(), order.size()));
		});
		EXPECT_EQ(OK(read(fd[0], got.data(), got.size())), 200);
		close(fd[0]);
		close(fd[1]);
		return got;
	};
	std::string one = order_with(1), two = order_with(2);

	EXPECT_EQ(order_with(1), one);
	EXPECT_NE(one, two);
}

// It is queued for a fiber whose operation ends before the carrier looks, and which waits
// on another one when the next interrupt comes.
TEST(Carriers, AnInterruptThatWasLeftBehindIsPassedOn)
{
	on_runtime({2, true}, [] {
		Fibers fibers;
		struct carrier **on = weft_rt.carrier;
		std::atomic<bool> holding{false}, go{false}, release{false};
		int a[2], b[2];

		unix_pair(a);
		unix_pair(b);
		struct fiber *f = fibers.start_on(1, [&] {
			for (int fd : {a[0], b[0]}) {
				char c;

				EXPECT_EQ(weft_io_recv(fd, &c, 1, 0, nullptr, nullptr,
						  WEFT_TRIED_NOT),
					1);
			}
		});
		const auto waits_on = [&](unsigned id) {
			return is_parked(f, WEFT_REASON_READ) &&
			       load_seq_cst(&f->io_carrier) == on[id];
		};

		until([&] { return waits_on(1); });
		fibers.start_on(1, [&] {
			holding = true;
			spin_until([&] { return go.load(); });
			weft_engine_flush(on[1]);
			spin_until([&] { return release.load(); });
		});
		spin_until([&] { return holding.load(); });
		weft_sched_interrupt(on[1], f);
		OK(write(a[1], "x", 1));
		go = true;
		until([&] { return waits_on(0); });
		weft_sched_interrupt(on[0], f);
		release = true;
		// It begins its wait anew, which here is elsewhere.
		const uint64_t give_up = in_ms(5000);
		until([&] { return waits_on(1) || weft_now_ns() > give_up; });
		EXPECT_TRUE(waits_on(1));
		OK(write(b[1], "x", 1));
		fibers.join();
	});
}

TEST(Carriers, AnInboxKeepsTheOrderOfItsPosts)
{
	on_runtime({2}, [] {
		Fibers fibers;
		std::vector<int> order;
		std::atomic<bool> holding{false}, hold{true};

		fibers.start_on(1, [&] {
			holding = true;
			spin_until([&] { return !hold; });
		});
		spin_until([&] { return holding.load(); });
		/* Main does not park: the others run on carrier 1 alone, or are stolen.
		 */
		for (int i = 0; i < 100; i++)
			fibers.start_on(1, [&order, i] { order.push_back(i); });
		hold = false;
		spin_until([&] {
			return load_relaxed(&weft_rt.carrier[1]
						     ->counters[WEFT_COUNTER_EXITED]) ==
			       101;
		});
		ASSERT_EQ(order.size(), 100u);
		for (int i = 0; i < 100; i++)
			ASSERT_EQ(order[(size_t)i], i);
	});
}

// The race drawn at the head of inbox.c: post against going to sleep.
TEST(Carriers, APostNeverMissesACarrierThatGoesToSleep)
{
	on_runtime({2}, [] {
		Fibers fibers;
		const int n = rounds(20000);

		for (int i = 0; i < n; i++) {
			std::atomic<bool> ran{false};

			fibers.start_on(1, [&] { ran = true; });
			spin_until([&] { return ran.load(); });
			if (i % 64 == 0)
				fibers.join();
		}
	});
}

} // namespace
