// runtime/futex.c against the kernel's own futex: the same operations, the same answers.
#include "on_fibers.h"
#include "single_steps.h"

#include <linux/futex.h>
#include <ucontext.h>

#include <functional>
#include <optional>

extern "C" {
#include "runtime/futex_impl.h"
}

namespace
{

const long NONE = -9999;

long kernel_futex(uint32_t *word, int op, uint32_t val, const void *timeout,
	uint32_t *word2, uint32_t val3)
{
	long r = syscall(SYS_futex, word, op, val, timeout, word2, val3);

	return r < 0 ? -errno : r;
}

// ---- two worlds with the same calls

struct World {
	virtual ~World() = default;
	// Starts a waiter; returns when it waits, or has returned.
	virtual void wait(uint32_t *word, uint32_t val, uint32_t bitset, bool shared) = 0;
	virtual long wake(uint32_t *word, int n, uint32_t bitset, bool shared) = 0;
	virtual long requeue(uint32_t *word, int wake, int move, uint32_t *to,
		const uint32_t *val, bool shared) = 0;
	virtual long wake_op(uint32_t *word, int wake, uint32_t *word2, int wake2,
		uint32_t op, bool shared) = 0;

	// How many wait there: a requeue to the same word that moves them all.
	long waiting(uint32_t *word, bool shared)
	{
		uint32_t val = load_acquire(word);

		return requeue(word, 0, INT_MAX, word, &val, shared);
	}
	// What the i-th waiter's call returned, or NONE.
	long result(size_t i) const
	{
		return load_acquire(results_[i].get());
	}
	size_t waiters() const
	{
		return results_.size();
	}
	size_t returned() const
	{
		size_t n = 0;

		for (size_t i = 0; i < results_.size(); i++)
			n += result(i) != NONE;
		return n;
	}

      protected:
	long *new_result()
	{
		results_.push_back(std::make_unique<long>(NONE));
		return results_.back().get();
	}
	std::vector<std::unique_ptr<long>> results_;
};

int flag(bool shared)
{
	return shared ? 0 : FUTEX_PRIVATE_FLAG;
}

// Kernel threads and the kernel's table, in a process without the runtime.
struct KernelWorld : World {
	void wait(uint32_t *word, uint32_t val, uint32_t bitset, bool shared) override
	{
		long before = waiting(word, shared), *ret = new_result();

		threads_.emplace_back([=] {
			long r = kernel_futex(word, FUTEX_WAIT_BITSET | flag(shared), val,
				nullptr, nullptr, bitset);
			store_release(ret, r);
		});
		while (waiting(word, shared) == before && load_acquire(ret) == NONE)
			sched_yield();
	}
	long wake(uint32_t *word, int n, uint32_t bitset, bool shared) override
	{
		return kernel_futex(word, FUTEX_WAKE_BITSET | flag(shared), (uint32_t)n,
			nullptr, nullptr, bitset);
	}
	long requeue(uint32_t *word, int wake, int move, uint32_t *to,
		const uint32_t *val, bool shared) override
	{
		return kernel_futex(word,
			(val ? FUTEX_CMP_REQUEUE : FUTEX_REQUEUE) | flag(shared),
			(uint32_t)wake, (void *)(uintptr_t)(unsigned)move, to,
			val ? *val : 0);
	}
	long wake_op(uint32_t *word, int wake, uint32_t *word2, int wake2, uint32_t op,
		bool shared) override
	{
		return kernel_futex(word, FUTEX_WAKE_OP | flag(shared), (uint32_t)wake,
			(void *)(uintptr_t)(unsigned)wake2, word2, op);
	}
	~KernelWorld() override
	{
		for (auto &t : threads_)
			t.join();
	}

      private:
	std::vector<std::thread> threads_;
};

// Fibers and, every third time, a kernel thread that the runtime does not know.
struct WeftWorld : World {
	explicit WeftWorld(bool mixed) : mixed_(mixed) {}
	void wait(uint32_t *word, uint32_t val, uint32_t bitset, bool shared) override
	{
		long before = waiting(word, shared), *ret = new_result();
		auto body = [=] {
			store_release(ret, weft_futex_wait(word, val, bitset, shared,
						   WEFT_NO_DEADLINE));
		};

		if (mixed_ && waiters() % 3 == 0)
			natives_.push_back(std::make_unique<Native>(body));
		else
			fibers_.start(body);
		until([&] {
			return waiting(word, shared) != before ||
			       load_acquire(ret) != NONE;
		});
	}
	long wake(uint32_t *word, int n, uint32_t bitset, bool shared) override
	{
		return weft_futex_wake(word, n, bitset, shared);
	}
	long requeue(uint32_t *word, int wake, int move, uint32_t *to,
		const uint32_t *val, bool shared) override
	{
		return weft_futex_requeue(word, wake, move, to, val, shared);
	}
	long wake_op(uint32_t *word, int wake, uint32_t *word2, int wake2, uint32_t op,
		bool shared) override
	{
		return weft_futex_wake_op(word, wake, word2, wake2, op, shared);
	}
	~WeftWorld() override
	{
		fibers_.join();
		natives_.clear();
	}

      private:
	bool mixed_;
	Fibers fibers_;
	std::vector<std::unique_ptr<Native>> natives_;
};

// ---- a random sequence in both worlds

enum { WORDS = 3, OPS = 40 };

// Everything that can be observed, as text.
std::string run_sequence(World &w, int stream, const std::function<void()> &pause)
{
	Random random(stream);
	static uint32_t word[WORDS];
	std::string log;
	auto line = [&](const char *what, long r) {
		log += std::string(what) + " " + std::to_string(r) + "\n";
	};
	auto expect_returned = [&](long n) {
		/* n were woken just now: wait for exactly them, in their order. */
		static size_t total;
		if (n < 0 && n != NONE)
			return;
		total = n == NONE ? 0 : total + (size_t)n;
		while (n != NONE && w.returned() < total)
			pause();
	};

	memset(word, 0, sizeof word);
	expect_returned(NONE);
	for (int i = 0; i < OPS; i++) {
		uint32_t *a = &word[random.below(WORDS)], *b = &word[random.below(WORDS)];
		bool shared = random.one_in(3);
		uint32_t bits = random.one_in(2) ? UINT32_MAX : 1u << random.below(3);
		int n = random.one_in(5) ? INT_MAX : (int)random.below(3);
		int m = random.one_in(5) ? INT_MAX : (int)random.below(3);
		uint32_t val = random.one_in(4) ? 5 : 0;
		long r;

		switch (random.below(8)) {
		case 0:
		case 1:
		case 2:
			w.wait(a, 0, bits, shared);
			if (w.result(w.waiters() - 1) != NONE)
				return log + "a wait returned at once\n";
			break;
		case 3:
			r = w.wake(a, n, bits, shared);
			line("wake", r);
			expect_returned(r);
			break;
		case 4:
			/*
			 * Moves only, so that what it says is what it moved; and to a
			 * word where nobody waits: among others, where the moved ones
			 * stand depends on the kernel's hash.
			 */
			if (a != b && w.waiting(b, shared))
				break;
			line("requeue", w.requeue(a, 0, m, b, nullptr, shared));
			break;
		case 5:
			if (a != b && w.waiting(b, shared))
				break;
			line("cmp_requeue", w.requeue(a, 0, m, b, &val, shared));
			break;
		case 6:
			line("negative", w.requeue(a, -1, m, b, nullptr, shared));
			line("negative", w.requeue(a, 1, -1, b, nullptr, shared));
			break;
		case 7:
			r = w.wake_op(a, n, b, m,
				FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_EQ,
					(int)random.below(2)),
				shared);
			line("wake_op", r);
			expect_returned(r);
			break;
		}
		for (int k = 0; k < WORDS; k++)
			for (bool s : {false, true})
				line("waiting", w.waiting(&word[k], s));
		/* FIFO: the same waiters have returned in both worlds. */
		std::string who;
		for (size_t k = 0; k < w.waiters(); k++)
			who += w.result(k) == NONE ? '.' : w.result(k) == 0 ? 'w' : '!';
		log += who + "\n";
	}
	for (int k = 0; k < WORDS; k++)
		for (bool s : {false, true})
			w.wake(&word[k], INT_MAX, UINT32_MAX, s);
	while (w.returned() < w.waiters())
		pause();
	return log;
}

void sequences_agree(const Config &config, bool mixed)
{
	weft_seed();
	on_runtime(config, [mixed] {
		/* The kernel's answer comes from a child made before any waiter. */
		for (int stream = 0; stream < rounds(30); stream++) {
			int fd[2];
			std::string native, ours;
			char buf[65536];
			ssize_t n;

			OK(pipe(fd));
			weft_runtime_lock_all();
			long pid = syscall(SYS_fork);
			if (pid == 0) {
				weft_runtime_forget();
				{
					KernelWorld w;
					native = run_sequence(
						w, stream, [] { sched_yield(); });
				}
				CHECK(write(fd[1], native.data(), native.size()) ==
					(ssize_t)native.size());
				_exit(0);
			}
			weft_runtime_unlock_all();
			close(fd[1]);
			while ((n = read(fd[0], buf, sizeof buf)) > 0)
				native.append(buf, (size_t)n);
			close(fd[0]);
			OK(waitpid((pid_t)pid, nullptr, 0));
			{
				WeftWorld w(mixed);
				ours = run_sequence(w, stream, weft_yield);
			}
			ASSERT_FALSE(native.empty());
			ASSERT_EQ(native, ours) << "stream " << stream;
		}
	});
}

TEST(Futex, RandomSequencesAgreeWithTheKernelOnOneCarrier)
{
	sequences_agree({1}, false);
}

TEST(Futex, RandomSequencesAgreeWithTheKernelOnThreeCarriers)
{
	sequences_agree({3}, false);
}

TEST(Futex, RandomSequencesAgreeWhenEveryParkMigrates)
{
	sequences_agree({3, true}, false);
}

TEST(Futex, RandomSequencesAgreeWithNativeThreadsAmongTheWaiters)
{
	sequences_agree({2}, true);
}

// ---- the answers one by one

// The kernel counts the moved waiters too, whatever the manual says of FUTEX_REQUEUE.
TEST(Futex, RequeueCountsTheWokenAndTheMoved)
{
	for (bool cmp : {false, true}) {
		uint32_t a = 0, b = 0;
		const uint32_t *val = cmp ? &a : nullptr;

		in_child([&] {
			KernelWorld w;

			for (int i = 0; i < 5; i++)
				w.wait(&a, 0, UINT32_MAX, false);
			EXPECT_EQ(w.requeue(&a, 1, 3, &b, val, false), 4);
			EXPECT_EQ(w.waiting(&a, false), 1);
			EXPECT_EQ(w.waiting(&b, false), 3);
			w.wake(&a, 9, UINT32_MAX, false);
			w.wake(&b, 9, UINT32_MAX, false);
		});
		on_runtime({1}, [&] {
			WeftWorld w(false);

			for (int i = 0; i < 5; i++)
				w.wait(&a, 0, UINT32_MAX, false);
			EXPECT_EQ(w.requeue(&a, 1, 3, &b, val, false), 4);
			EXPECT_EQ(w.waiting(&a, false), 1);
			EXPECT_EQ(w.waiting(&b, false), 3);
			w.wake(&a, 9, UINT32_MAX, false);
			w.wake(&b, 9, UINT32_MAX, false);
		});
	}
}

TEST(Futex, WakeOpAgreesWithTheKernelOnEveryOperation)
{
	const int args[] = {0, 1, 5, 31, 32, 2047, -1, -2048};
	const uint32_t olds[] = {0, 1, 5, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffff800};
	uint32_t first = 0;
	long cases = 0;

	for (uint32_t kind = 0; kind < 16; kind++) // 8 and above: shifted operand
		for (uint32_t cmp = 0; cmp < 16; cmp++)
			for (int arg : args)
				for (int cmparg : args)
					for (uint32_t old : olds) {
						uint32_t op = kind << 28 | cmp << 24 |
							      ((uint32_t)arg & 0xfff)
								      << 12 |
							      ((uint32_t)cmparg & 0xfff);
						uint32_t native = old, ours = old;
						long want = kernel_futex(&first,
							FUTEX_WAKE_OP_PRIVATE, 1,
							(void *)1, &native, op);
						long got = weft_futex_wake_op(
							&first, 1, &ours, 1, op, false);

						ASSERT_EQ(got, want) << std::hex << op
								     << " on " << old;
						ASSERT_EQ(ours, native) << std::hex << op
									<< " on " << old;
						cases++;
					}
	EXPECT_EQ(cases, 16 * 16 * 8 * 8 * 7);
}

TEST(Futex, WaitComparesFirst)
{
	on_runtime({1}, [] {
		uint32_t word = 3;

		EXPECT_EQ(weft_futex_wait(&word, 4, UINT32_MAX, false, WEFT_NO_DEADLINE),
			-EAGAIN);
		EXPECT_EQ(weft_futex_wait(&word, 3, UINT32_MAX, false, 1), -ETIMEDOUT);
		EXPECT_EQ(weft_futex_wake(&word, 1, UINT32_MAX, false), 0)
			<< "nobody is left";
	});
}

// ---- one waiter and one waker, each stopped after any of its instructions

// A call on a kernel thread of its own, by single steps until it is stopped.
class Stepped
{
      public:
	Stepped(long steps, std::function<long()> call)
	    : steps_(steps), thread_([this, call] {
		      current = this;
		      single_steps(true);
		      long r = call();
		      single_steps(false);
		      store_release(&result_, r);
	      })
	{
	}
	bool stopped_or_done() const
	{
		return load_acquire(&stopped_) || load_acquire(&result_) != NONE;
	}
	void go_on()
	{
		store_release(&may_go_on_, true);
	}
	long result() const
	{
		return load_acquire(&result_);
	}
	long steps() const
	{
		return done_;
	}
	// Called after so many steps, from a signal handler.
	static inline std::function<void(long)> at_each_step;
	static void on_step(int, siginfo_t *, void *context)
	{
		auto *uc = static_cast<ucontext_t *>(context);
		Stepped *s = current;

		s->done_++;
		if (at_each_step)
			at_each_step(s->done_);
		if (s->done_ != s->steps_)
			return;
		uc->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
		store_release(&s->stopped_, true);
		while (!load_acquire(&s->may_go_on_))
			sched_yield();
	}

      private:
	static inline thread_local Stepped *current;
	const long steps_;
	long done_ = 0, result_ = NONE;
	bool stopped_ = false, may_go_on_ = false;
	Native thread_; // last: it uses the others
};

/*
 * The waiter has the lock and goes on after the waker's j-th instruction, all the way:
 * whether it has compared the word before the waker changed it or has not, somebody sees
 * the other. (A waker that looked whether the list was empty first, and whether the lock
 * was held then, left its waiter behind.)
 */
TEST(Futex, AWaiterAndAWakerMeetAfterAnyOfTheirInstructions)
{
	on_runtime({1}, [] {
		struct sigaction sa = {};
		uint32_t word = 0;
		futex_bucket *b = weft_futex_bucket(uintptr_t(&word));
		std::vector<long> with_lock;
		auto wait = [&] {
			return weft_futex_wait(
				&word, 0, UINT32_MAX, false, WEFT_NO_DEADLINE);
		};
		auto wake = [&] {
			store_release(&word, 1u);
			return weft_futex_wake(&word, 1, UINT32_MAX, false);
		};
		auto waits = [&] {
			return !load_acquire(&b->lock.word) && !list_empty(&b->waiters);
		};
		long lost = 0, met = 0, compared_later = 0;
		bool asleep = false; // from then on it is the waker that has the lock

		sa.sa_sigaction = Stepped::on_step;
		sa.sa_flags = SA_SIGINFO;
		ASSERT_EQ(sigaction(SIGTRAP, &sa, nullptr), 0);
		// Where it has the lock; not the first time, which makes the bucket's
		// list.
		weft_futex_requeue(&word, 0, 0, &word, nullptr, false);
		with_lock.reserve(1000); // no more: it grows in a signal handler
		Stepped::at_each_step = [&](long n) {
			if (load_relaxed(&b->lock.word) && !load_relaxed(&asleep))
				with_lock.push_back(n);
		};
		{
			Stepped waiter(-1, wait);

			until(waits);
			store_seq_cst(&asleep, true);
			wake();
		}
		Stepped::at_each_step = nullptr;
		ASSERT_GT(with_lock.size(), 5u);
		ASSERT_LT(with_lock.size(), 1000u);
		// The waker's, up to where it has seen that nobody waits.
		Stepped in_vain(-1, wake);
		until([&] { return in_vain.result() != NONE; });
		EXPECT_EQ(in_vain.result(), 0);
		const long waker_steps = in_vain.steps();
		ASSERT_GT(waker_steps, 10);
		// Some of them: with a sanitizer there are many, and each step is slow.
		const size_t stride = with_lock.size() / 12 + 1;
		const long waker_stride = waker_steps / (SANITIZED ? 15 : 60) + 1;
		for (size_t k = 0; k < with_lock.size(); k += stride)
			for (long j = 1; j <= waker_steps; j += waker_stride) {
				word = 0;
				Stepped waiter(with_lock[k], wait);
				until([&] { return waiter.stopped_or_done(); });
				ASSERT_EQ(load_relaxed(&b->lock.word), 1);
				Stepped waker(j, wake);
				until([&] { return waker.stopped_or_done(); });
				waiter.go_on();
				until([&] { return waits() || waiter.result() != NONE; });
				compared_later += waiter.result() == -EAGAIN;
				waker.go_on();
				until([&] { return waker.result() != NONE; });
				met += waker.result();
				if (waker.result() == 0 && waiter.result() == NONE) {
					lost++;
					weft_futex_wake(&word, 1, UINT32_MAX, false);
				}
			}
		EXPECT_EQ(lost, 0);
		EXPECT_GT(met, 0);
		EXPECT_GT(compared_later, 0);
	});
}

TEST(Futex, ATimeoutIsNeverEarlyAndLeavesNobodyBehind)
{
	on_runtime({2}, [] {
		Fibers fibers;
		uint32_t word = 0;

		for (int i = 0; i < 100; i++)
			fibers.start([&, i] {
				uint64_t deadline = in_ms((uint64_t)(i % 10));

				EXPECT_EQ(weft_futex_wait(
						  &word, 0, UINT32_MAX, false, deadline),
					-ETIMEDOUT);
				EXPECT_GE(weft_now_ns(), deadline);
			});
		fibers.join();
		EXPECT_EQ(weft_futex_wake(&word, 1, UINT32_MAX, false), 0);
	});
}

TEST(Futex, ASignalEndsTheWaitWithEintr)
{
	on_runtime({2}, [] {
		Fibers fibers;
		uint32_t word = 0;
		struct fiber *f = fibers.start([&] {
			EXPECT_EQ(weft_futex_wait(
					  &word, 0, UINT32_MAX, false, WEFT_NO_DEADLINE),
				-EINTR);
			store_seq_cst(&weft_fiber_self()->attention, 0);
			EXPECT_EQ(weft_futex_wake(&word, 1, UINT32_MAX, false), 0);
		});

		until([&] { return is_parked(f, WEFT_REASON_FUTEX); });
		store_seq_cst(&f->attention, 1);
		until([&] { return weft_claim(f, WEFT_WAKE_INTERRUPT); });
		weft_unpark(f);
	});
}

TEST(Futex, WordsThatCannotBeReadGiveEfault)
{
	on_runtime({2}, [] {
		uint32_t *none = (uint32_t *)mmap(
			nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		uint32_t ok = 0;
		auto check = [&](const char *who) {
			SCOPED_TRACE(who);
			for (uint32_t *bad : {none, (uint32_t *)4096}) {
				EXPECT_EQ(weft_futex_wait(bad, 0, UINT32_MAX, false, 1),
					-EFAULT);
				EXPECT_EQ(weft_futex_requeue(bad, 1, 1, &ok, &ok, false),
					-EFAULT);
				EXPECT_EQ(weft_futex_wake_op(&ok, 1, bad, 1, 0, false),
					-EFAULT);
			}
		};
		std::atomic<bool> done{false};
		Fibers fibers;

		check("main");
		fibers.start([&] { check("fiber"); });
		fibers.join();
		Native thread([&] {
			check("native thread");
			done = true;
		});
		until([&] { return done.load(); });
	});
}

// WAKE_OP writes: the kernel says EFAULT, it does not kill the program.
TEST(Futex, WakeOpOnAReadOnlyWordGivesEfault)
{
	uint32_t *word = (uint32_t *)mmap(
		nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t first = 0;
	const uint32_t op = FUTEX_OP(FUTEX_OP_SET, 1, FUTEX_OP_CMP_EQ, 0);

	EXPECT_EQ(kernel_futex(&first, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, word, op),
		-EFAULT);
	on_runtime({1}, [&] {
		EXPECT_EQ(weft_futex_wake_op(&first, 1, word, 1, op, false), -EFAULT);
	});
}

TEST(Futex, AWordBehindTheEndOfItsFileGivesEfault)
{
	char path[] = "/tmp/weft-futex-XXXXXX";
	int fd = OK(mkstemp(path));

	unlink(path);
	OK(ftruncate(fd, 4096));
	uint32_t *word = (uint32_t *)mmap(
		nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE((void *)word, MAP_FAILED);
	OK(ftruncate(fd, 0));
	EXPECT_EQ(kernel_futex(word, FUTEX_WAIT, 0, nullptr, nullptr, 0), -EFAULT);
	on_runtime({1}, [&] {
		EXPECT_EQ(weft_futex_wait(word, 0, UINT32_MAX, true, 1), -EFAULT);
	});
	close(fd);
}

// ---- races

// A lock as glibc's lowlevellock: 0 free, 1 held, 2 held and waited for.
void lock_word(uint32_t *w)
{
	uint32_t free = 0;

	if (cas_acq_rel(w, &free, 1u))
		return;
	while (xchg_acq_rel(w, 2u))
		weft_futex_wait(w, 2, UINT32_MAX, false, WEFT_NO_DEADLINE);
}

void unlock_word(uint32_t *w)
{
	if (xchg_acq_rel(w, 0u) == 2)
		weft_futex_wake(w, 1, UINT32_MAX, false);
}

void one_lock(const Config &config, int fibers_n, int natives_n)
{
	weft_seed();
	on_runtime(config, [=] {
		uint32_t word = 0;
		long counter = 0;
		const int n = rounds(2000);
		Count done;
		Fibers fibers;
		std::vector<std::unique_ptr<Native>> natives;
		auto body = [&](int stream, bool native) {
			Random random(stream);

			for (int k = 0; k < n; k++) {
				lock_word(&word);
				long was = counter;
				if (!native && random.one_in(20))
					weft_yield(); // others run into the lock
				counter = was + 1;
				unlock_word(&word);
			}
			done.add();
		};

		for (int i = 0; i < fibers_n; i++)
			fibers.start([&, i] { body(i, false); });
		for (int i = 0; i < natives_n; i++)
			natives.push_back(std::make_unique<Native>(
				[&, i] { body(100 + i, true); }));
		done.await((uint32_t)(fibers_n + natives_n));
		EXPECT_EQ(counter, (long)(fibers_n + natives_n) * n);
		EXPECT_EQ(word, 0u);
	});
}

TEST(FutexStress, FibersShareALock)
{
	one_lock({4}, 20, 0);
}

TEST(FutexStress, FibersAndNativeThreadsShareALock)
{
	one_lock({3}, 10, 3);
}

TEST(FutexStress, MigratingFibersAndNativeThreadsShareALock)
{
	one_lock({4, true, false, true}, 10, 2);
}

// Every wake that says 1 woke one waiter, and every waiter that returned 0 was counted,
// while deadlines and signals end other waits at the same moment.
void wakes_are_counted_exactly(const Config &config, bool natives)
{
	weft_seed();
	on_runtime(config, [natives] {
		enum { WAITERS = 8 };
		uint32_t word = 0, other = 0;
		const int n = rounds(1500);
		std::atomic<long> returned{0}, woken{0}, timed_out{0};
		std::atomic<int> running{0};
		Count done;
		Fibers fibers;
		std::vector<std::unique_ptr<Native>> threads;
		auto waiter = [&](int stream) {
			Random random(stream);

			for (int k = 0; k < n; k++) {
				long r = weft_futex_wait(&word, 0, UINT32_MAX, false,
					weft_now_ns() + random.below(80000));

				CHECK(r == 0 || r == -ETIMEDOUT);
				(r ? timed_out : returned)++;
			}
			running--;
			done.add();
		};

		running = WAITERS;
		for (int i = 0; i < WAITERS; i++) {
			if (natives && i % 4 == 3)
				threads.push_back(
					std::make_unique<Native>([&, i] { waiter(i); }));
			else
				fibers.start([&, i] { waiter(i); });
		}
		for (int i = 0; i < 2; i++)
			fibers.start([&, i] {
				Random random(200 + i);

				while (running) {
					switch (random.below(3)) {
					case 0:
						woken += weft_futex_wake(
							&word, 1, UINT32_MAX, false);
						break;
					case 1:
						/* Moved waiters are woken there. */
						weft_futex_requeue(&word, 0, 1, &other,
							nullptr, false);
						break;
					case 2:
						woken += weft_futex_wake(
							&other, 2, UINT32_MAX, false);
						break;
					}
					for (size_t k = random.below(3000); k--;)
						__builtin_ia32_pause();
					weft_yield();
				}
			});
		done.await(WAITERS);
		fibers.join();
		EXPECT_EQ(returned, woken);
		EXPECT_GT(woken, 0);
		EXPECT_GT(timed_out, 0);
		EXPECT_EQ(weft_futex_wake(&word, 9, UINT32_MAX, false), 0);
		EXPECT_EQ(weft_futex_wake(&other, 9, UINT32_MAX, false), 0);
	});
}

TEST(FutexStress, WakesAndTimeoutsAreCountedExactly)
{
	wakes_are_counted_exactly({3}, false);
}

TEST(FutexStress, WakesAndTimeoutsOfNativeThreadsAreCountedExactly)
{
	wakes_are_counted_exactly({3}, true);
}

TEST(FutexStress, ABroadcastWakesEverybodyInOrder)
{
	on_runtime({1}, [] {
		const int n = rounds(20000);
		Fibers fibers(Fibers::Shared, 16 << 10);
		uint32_t word = 0;
		std::vector<int> order;

		for (int i = 0; i < n; i++)
			fibers.start([&, i] {
				weft_futex_wait(
					&word, 0, UINT32_MAX, false, WEFT_NO_DEADLINE);
				order.push_back(i);
			});
		until([&] { return counted(WEFT_COUNTER_FUTEX_WAITS) == (uint64_t)n; });
		EXPECT_EQ(weft_futex_wake(&word, INT_MAX, UINT32_MAX, false), n);
		fibers.join();
		for (int i = 0; i < n; i++)
			ASSERT_EQ(order[(size_t)i], i);
	});
}

// ---- a crowd at a mutex of libc's

// nptl/lowlevellock.c
void lock(uint32_t &word)
{
	uint32_t free = 0;

	if (cas_seq_cst(&word, &free, 1))
		return;
	while (xchg_seq_cst(&word, 2))
		weft_futex_wait(&word, 2, UINT32_MAX, false, WEFT_NO_DEADLINE);
}

long unlock(uint32_t &word)
{
	return xchg_seq_cst(&word, 0) == 2 ? weft_futex_wake_one(&word) : 0;
}

enum { CROWD = 20, CONVOY_MS = 10 };

// How many of a crowd that has waited for `ms` one wake-up makes ready; the word is
// `seen` while they wait.
unsigned woken_after(
	uint32_t seen, uint64_t ms, uint64_t *ret_waited_ns, bool by_libc = true)
{
	static uint32_t word;
	struct carrier *c = weft_rt.carrier[0];
	Fibers fibers;
	uint64_t since = weft_now_ns();
	unsigned n;

	word = seen;
	for (int i = 0; i < CROWD; i++)
		fibers.start([=] {
			EXPECT_EQ(weft_futex_wait(&word, seen, UINT32_MAX, false,
					  WEFT_NO_DEADLINE),
				0);
		});
	uint64_t waits = counted(WEFT_COUNTER_FUTEX_WAITS) + CROWD;
	until([&] { return counted(WEFT_COUNTER_FUTEX_WAITS) == waits; });
	if (ms)
		weft_sleep_until(in_ms(ms));
	store_seq_cst(&word, 0);
	EXPECT_EQ(by_libc ? weft_futex_wake_one(&word)
			  : weft_futex_wake(&word, 1, UINT32_MAX, false),
		1);
	*ret_waited_ns = weft_now_ns() - since;
	n = c->woken.tail - c->woken.head;
	weft_futex_wake(&word, INT_MAX, UINT32_MAX, false);
	return n;
}

TEST(Convoy, MoreThanOneIsWokenOfACrowdThatHasWaitedForLong)
{
	on_runtime({1}, [] {
		uint64_t waited_ns;

		EXPECT_EQ(woken_after(2, CONVOY_MS + 5, &waited_ns), 9u);
	});
}

TEST(Convoy, OneIsWokenOfThoseThatWaitForSomethingElse)
{
	on_runtime({1}, [] {
		uint64_t waited_ns;

		EXPECT_EQ(woken_after(1, CONVOY_MS + 5, &waited_ns), 1u);
	});
}

TEST(Convoy, AProgramThatWakesOneByItselfWakesOne)
{
	on_runtime({1}, [] {
		uint64_t waited_ns;

		EXPECT_EQ(woken_after(2, CONVOY_MS + 5, &waited_ns, false), 1u);
	});
}

TEST(Convoy, OneIsWokenOfACrowdThatHasJustCome)
{
	on_runtime({1}, [] {
		for (int i = 0; i < 100; i++) {
			uint64_t waited_ns;
			unsigned woken = woken_after(2, 0, &waited_ns);

			if (waited_ns > CONVOY_MS * 500000)
				continue; // the machine was away
			EXPECT_EQ(woken, 1u);
			return;
		}
		FAIL() << "the machine is too slow";
	});
}

// Who finds it taken again waits where it has waited before. About: after eight times in
// a row it is behind who is ready (queue.c), and the next one takes the mutex.
TEST(Convoy, WhoIsWokenInVainKeepsItsPlace)
{
	on_runtime({1}, [] {
		Fibers fibers;
		uint32_t word = 1;
		std::vector<int> order;

		for (int i = 0; i < CROWD; i++) {
			fibers.start([&, i] {
				lock(word);
				order.push_back(i);
				weft_sleep_until(in_ms(1));
				EXPECT_EQ(unlock(word), order.size() < CROWD);
			});
		}
		until([&] { return counted(WEFT_COUNTER_FUTEX_WAITS) == CROWD; });
		weft_sleep_until(in_ms(CONVOY_MS + 5));
		EXPECT_EQ(unlock(word), 1);
		fibers.join();
		EXPECT_EQ(order.size(), (size_t)CROWD);
		for (int i = 0; i < (int)order.size(); i++)
			EXPECT_LE(abs(order[(size_t)i] - i), 1) << i;
		EXPECT_GT(counted(WEFT_COUNTER_FUTEX_WAITS), 2u * CROWD)
			<< "none in vain";
	});
}

// Who takes it again at once, and sleeps with it, lets the one go on that it wakes.
void greedy_owner(uint32_t val, bool shared, bool gives_up)
{
	const uint64_t give_up = in_ms(10000);
	std::atomic<int> had{0};
	Fibers fibers;
	uint32_t word = 0;
	auto take = [&] {
		uint32_t free = 0;

		while (!cas_seq_cst(&word, &free, val)) {
			weft_futex_wait(&word, val, UINT32_MAX, shared,
				gives_up ? in_ms(3) : WEFT_NO_DEADLINE);
			free = 0;
		}
	};
	auto give_back = [&] {
		store_seq_cst(&word, 0);
		weft_futex_wake(&word, 1, UINT32_MAX, shared);
	};

	fibers.start([&] {
		while (had < 3 && weft_now_ns() < give_up) {
			take();
			weft_sleep_until(in_ms(1));
			give_back();
			weft_sched_give_way(); // when it leaves weft
		}
	});
	for (int i = 0; i < 3; i++)
		fibers.start([&] {
			take();
			had++;
			give_back();
		});
	fibers.join();
	EXPECT_LT(weft_now_ns(), give_up);
}

TEST(Convoy, WhoIsFoundWithAMutexTimeAndAgainGivesWay)
{
	on_runtime({1}, [] { greedy_owner(2, false, false); });
}

TEST(Convoy, WhoIsFoundWithAnyLockTimeAndAgainGivesWay)
{
	on_runtime({1}, [] { greedy_owner(7, false, false); });
	on_runtime({1}, [] { greedy_owner(7, true, false); });
}

TEST(Convoy, AlsoToThoseThatGiveUpMeanwhile)
{
	on_runtime({1}, [] { greedy_owner(2, false, true); });
}

// A pthread_mutex_t as nptl lays it out.
struct Mutex {
	uint32_t word, count;
	int owner;
};

// How often the CPU was left to the owner of a mutex, which is `state` on carrier 1,
// while a crowd began to wait for it on carrier 0, one after each `others` that did not.
uint64_t rooms_made(int state, uint32_t seen, bool shared, int others, int crowd = CROWD)
{
	static Mutex m;
	static std::atomic<bool> done;
	std::atomic<bool> begun{false};
	Fibers fibers;

	m = {seen, 0, 0};
	done = false;
	auto keep_the_carrier = [&] {
		compute(1000000);
		begun = true;
		spin_until([] { return done.load(); });
	};
	struct fiber *owner = fibers.start_on(1, [&] {
		m.owner = weft_fiber_tid(weft_fiber_self());
		if (state == FIBER_RUNNING)
			keep_the_carrier();
		else
			weft_sleep_until(WEFT_NO_DEADLINE);
	});
	if (state != FIBER_RUNNING) {
		until([&] { return is_parked(owner, WEFT_REASON_SLEEP); });
		store_relaxed(&owner->state, (decltype(owner->state))state);
		fibers.start_on(1, keep_the_carrier); // and it takes nobody of the crowd
	}
	until([&] { return begun.load(); });
	for (int i = 0; i < crowd; i++) {
		for (int k = 0; k < others; k++)
			fibers.start_on(0, [] {});
		fibers.start_on(0, [=] {
			weft_futex_wait(
				&m.word, seen, UINT32_MAX, shared, WEFT_NO_DEADLINE);
		});
	}
	until([&] { return counted(WEFT_COUNTER_FUTEX_WAITS) >= (uint64_t)crowd; });
	uint64_t rooms = counted(WEFT_COUNTER_ROOMS);
	done = true;
	store_seq_cst(&m.word, 0);
	EXPECT_EQ(weft_futex_wake(&m.word, INT_MAX, UINT32_MAX, shared), crowd);
	if (state != FIBER_RUNNING && weft_claim(owner, WEFT_WAKE_DONE))
		weft_unpark(owner);
	fibers.join();
	return rooms;
}

TEST(Crowd, TheCpuIsLeftToTheOwnerThatRuns)
{
	on_runtime({2}, [] { EXPECT_GT(rooms_made(FIBER_RUNNING, 2, false, 0), 0u); });
}

TEST(Crowd, TheCpuIsLeftToTheOwnerThatIsReady)
{
	on_runtime({2}, [] { EXPECT_GT(rooms_made(FIBER_READY, 2, false, 0), 0u); });
}

// It may have been taken to the very carrier that would wait for it, or be in the kernel.
TEST(Crowd, TheCpuIsNotLeftToOthersForLongInAll)
{
	on_runtime({2}, [] {
		EXPECT_LE(rooms_made(FIBER_RUNNING, 2, false, 0, 20 * CROWD), 100u);
	});
	on_runtime({2}, [] {
		EXPECT_LE(rooms_made(FIBER_READY, 2, false, 0, 20 * CROWD), 100u);
	});
}

TEST(Crowd, NobodyWaitsForAnOwnerThatIsParked)
{
	on_runtime({2}, [] { EXPECT_EQ(rooms_made(FIBER_PARKED, 2, false, 0), 0u); });
}

TEST(Crowd, OthersThatDoNotJoinItGoOn)
{
	on_runtime({2}, [] { EXPECT_EQ(rooms_made(FIBER_RUNNING, 2, false, 8), 0u); });
}

TEST(Crowd, OnlyMutexesOfThisProcessHaveOwners)
{
	on_runtime({2}, [] { EXPECT_EQ(rooms_made(FIBER_RUNNING, 2, true, 0), 0u); });
	on_runtime({2}, [] { EXPECT_EQ(rooms_made(FIBER_RUNNING, 1, false, 0), 0u); });
}

} // namespace
