// Mutexes, condition variables and what is built on futexes, by the calls of the front
// door.
#include "on_threads.h"

#include <semaphore.h>

#include <linux/futex.h>
#include <sys/syscall.h>

static const int many = 24;

static void init(pthread_mutex_t *m, int type)
{
	pthread_mutexattr_t attr;

	ZERO(pthread_mutexattr_init(&attr));
	ZERO(pthread_mutexattr_settype(&attr, type));
	ZERO(pthread_mutex_init(m, &attr));
	ZERO(pthread_mutexattr_destroy(&attr));
}

TEST(Mutex, ExcludesAcrossParks)
{
	for (int type : {PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_RECURSIVE,
		     PTHREAD_MUTEX_ERRORCHECK, PTHREAD_MUTEX_ADAPTIVE_NP}) {
		pthread_mutex_t m;
		int inside = 0, most = 0;
		init(&m, type);
		on_threads(many, [&](int) {
			for (int i = 0; i < 10; i++) {
				ZERO(pthread_mutex_lock(&m));
				most = std::max(most, ++inside);
				usleep(20);
				inside--;
				ZERO(pthread_mutex_unlock(&m));
			}
		});
		EXPECT_EQ(most, 1);
		EXPECT_EQ(pthread_mutex_destroy(&m), 0);
	}
}

TEST(Mutex, OwnerIsTheThread)
{
	on_one_thread([] {
		pthread_mutex_t check, recursive;
		init(&check, PTHREAD_MUTEX_ERRORCHECK);
		init(&recursive, PTHREAD_MUTEX_RECURSIVE);
		for (int i = 0; i < 20; i++) {
			ZERO(pthread_mutex_lock(&check));
			ZERO(pthread_mutex_lock(&recursive));
			usleep(300); /* may go on elsewhere */
			EXPECT_EQ(pthread_mutex_lock(&check), EDEADLK);
			EXPECT_EQ(pthread_mutex_trylock(&recursive), 0);
			on_one_thread([&] {
				EXPECT_EQ(pthread_mutex_unlock(&check), EPERM);
				EXPECT_EQ(pthread_mutex_unlock(&recursive), EPERM);
				EXPECT_EQ(pthread_mutex_trylock(&check), EBUSY);
				EXPECT_EQ(pthread_mutex_trylock(&recursive), EBUSY);
			});
			EXPECT_EQ(pthread_mutex_unlock(&recursive), 0);
			EXPECT_EQ(pthread_mutex_unlock(&recursive), 0);
			EXPECT_EQ(pthread_mutex_unlock(&recursive), EPERM);
			EXPECT_EQ(pthread_mutex_unlock(&check), 0);
			EXPECT_EQ(pthread_mutex_unlock(&check), EPERM);
		}
	});
}

TEST(Mutex, TimedLockTimesOutAndNotEarly)
{
	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
	ZERO(pthread_mutex_lock(&m));
	on_threads(many, [&](int i) {
		clockid_t clock = i % 2 ? CLOCK_REALTIME : CLOCK_MONOTONIC;
		uint64_t deadline = now_ns(clock) + 15 * MS;
		struct timespec at = to_timespec(deadline);
		if (i % 2)
			EXPECT_EQ(pthread_mutex_timedlock(&m, &at), ETIMEDOUT);
		else
			EXPECT_EQ(pthread_mutex_clocklock(&m, clock, &at), ETIMEDOUT);
		EXPECT_GE(now_ns(clock), deadline);
	});
	ZERO(pthread_mutex_unlock(&m));
	struct timespec past = {1, 0};
	EXPECT_EQ(pthread_mutex_timedlock(&m, &past), 0) << "a free one is taken even so";
	EXPECT_EQ(pthread_mutex_unlock(&m), 0);
}

TEST(Mutex, ErrnoIsLeftAlone)
{
	on_one_thread([] {
		pthread_mutex_t m;
		init(&m, PTHREAD_MUTEX_ERRORCHECK);
		errno = ERANGE;
		EXPECT_EQ(pthread_mutex_unlock(&m), EPERM);
		EXPECT_EQ(pthread_mutex_lock(&m), 0);
		EXPECT_EQ(pthread_mutex_lock(&m), EDEADLK);
		EXPECT_EQ(errno, ERANGE);
	});
}

TEST(Mutex, ProcessSharedOneExcludesThreads)
{
	pthread_mutexattr_t attr;
	pthread_mutex_t m;
	ZERO(pthread_mutexattr_init(&attr));
	ZERO(pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED));
	ZERO(pthread_mutex_init(&m, &attr));
	long counter = 0;
	on_threads(6, [&](int) {
		for (int i = 0; i < 100; i++) {
			ZERO(pthread_mutex_lock(&m));
			long seen = counter;
			if (i % 20 == 0)
				sched_yield();
			counter = seen + 1;
			ZERO(pthread_mutex_unlock(&m));
		}
	});
	EXPECT_EQ(counter, 600);
}

TEST(Cond, EverySignalWakesOne)
{
	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t cond = PTHREAD_COND_INITIALIZER, back = PTHREAD_COND_INITIALIZER;
	int tokens = 0, taken = 0;
	Thread giver([&] {
		for (int i = 0; i < many; i++) {
			ZERO(pthread_mutex_lock(&m));
			tokens++;
			ZERO(pthread_cond_signal(&cond));
			while (taken <= i)
				ZERO(pthread_cond_wait(&back, &m));
			ZERO(pthread_mutex_unlock(&m));
		}
	});
	on_threads(many, [&](int) {
		ZERO(pthread_mutex_lock(&m));
		while (!tokens)
			ZERO(pthread_cond_wait(&cond, &m));
		tokens--;
		taken++;
		ZERO(pthread_cond_signal(&back));
		ZERO(pthread_mutex_unlock(&m));
	});
	EXPECT_EQ(taken, many);
}

TEST(Cond, TimedWaitTimesOutAndNotEarly)
{
	on_threads(many, [](int i) {
		pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
		pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
		clockid_t clock = i % 2 ? CLOCK_REALTIME : CLOCK_MONOTONIC;
		uint64_t deadline = now_ns(clock) + (uint64_t)(5 + i) * MS;
		struct timespec at = to_timespec(deadline);
		int err = 0;
		ZERO(pthread_mutex_lock(&m));
		while (!err)
			err = i % 2 ? pthread_cond_timedwait(&cond, &m, &at)
				    : pthread_cond_clockwait(&cond, &m, clock, &at);
		EXPECT_EQ(err, ETIMEDOUT);
		EXPECT_GE(now_ns(clock), deadline);
		EXPECT_EQ(pthread_mutex_unlock(&m), 0) << "it is ours again";
	});
}

TEST(Semaphore, CountsAndTimesOut)
{
	sem_t sem;
	OK(sem_init(&sem, 0, 0));
	Thread poster([&] {
		for (int i = 0; i < many; i++) {
			usleep(100);
			OK(sem_post(&sem));
		}
	});
	on_threads(many, [&](int i) {
		struct timespec at = to_timespec(now_ns(CLOCK_REALTIME) + 60000 * MS);
		EXPECT_EQ(i % 2 ? sem_wait(&sem) : sem_timedwait(&sem, &at), 0);
	});
	on_one_thread([&] {
		EXPECT_EQ(error_of([&] { return sem_trywait(&sem); }), EAGAIN);
		uint64_t deadline = now_ns(CLOCK_MONOTONIC) + 5 * MS;
		struct timespec at = to_timespec(deadline);
		EXPECT_EQ(error_of([&] {
			return sem_clockwait(&sem, CLOCK_MONOTONIC, &at);
		}),
			ETIMEDOUT);
		EXPECT_GE(now_ns(CLOCK_MONOTONIC), deadline);
	});
}

static long futex(int *word, int op, int value, const struct timespec *ts = nullptr,
	int *word2 = nullptr, int value3 = 0)
{
	return syscall(SYS_futex, word, op, value, ts, word2, value3);
}

TEST(Futex, ThroughSyscallIsTheSameWorld)
{
	/* As C++20's atomic::wait and Rust's locks do it. */
	int word = 0, woken = 0;
	Thread waker([&] {
		settle();
		__atomic_store_n(&word, 1, __ATOMIC_SEQ_CST);
		long n = futex(&word, FUTEX_WAKE_PRIVATE, 1000);
		EXPECT_GE(n, 0);
		EXPECT_LE(n, many);
	});
	on_threads(many, [&](int) {
		while (!__atomic_load_n(&word, __ATOMIC_SEQ_CST)) {
			long r = futex(&word, FUTEX_WAIT_PRIVATE, 0);
			EXPECT_TRUE(r == 0 || errno == EAGAIN);
		}
		__atomic_fetch_add(&woken, 1, __ATOMIC_SEQ_CST);
	});
	EXPECT_EQ(woken, many);
}

TEST(Futex, KeepsItsErrors)
{
	on_one_thread([] {
		int word = 5;
		struct timespec soon = {0, 3000000}, bad = {0, 1000000000};
		EXPECT_EQ(error_of([&] { return futex(&word, FUTEX_WAIT_PRIVATE, 4); }),
			EAGAIN);
		uint64_t start = now_ns(CLOCK_MONOTONIC);
		EXPECT_EQ(error_of([&] {
			return futex(&word, FUTEX_WAIT_PRIVATE, 5, &soon);
		}),
			ETIMEDOUT);
		EXPECT_GE(now_ns(CLOCK_MONOTONIC) - start, 3 * MS);
		EXPECT_EQ(error_of([&] {
			return futex(&word, FUTEX_WAIT_PRIVATE, 5, &bad);
		}),
			EINVAL);
		EXPECT_EQ(error_of([&] {
			return futex((int *)bad_pointer, FUTEX_WAIT_PRIVATE, 5);
		}),
			EFAULT);
		EXPECT_EQ(error_of([&] {
			return futex((int *)((char *)&word + 1), FUTEX_WAIT_PRIVATE, 5);
		}),
			EINVAL);
		EXPECT_EQ(futex(&word, FUTEX_WAKE_PRIVATE, 1), 0);
		EXPECT_EQ(error_of([&] {
			return futex(
				&word, FUTEX_WAIT_BITSET_PRIVATE, 5, nullptr, nullptr, 0);
		}),
			EINVAL);
		EXPECT_EQ(error_of([&] { return futex(&word, 63, 5); }), ENOSYS);
	});
}

TEST(Futex, SharedOnesWork)
{
	int word = 0;
	Thread waiter([&] {
		while (!__atomic_load_n(&word, __ATOMIC_SEQ_CST))
			futex(&word, FUTEX_WAIT, 0);
	});
	settle();
	__atomic_store_n(&word, 1, __ATOMIC_SEQ_CST);
	futex(&word, FUTEX_WAKE, 1);
	waiter.join();
}

TEST(Futex, RequeueMovesWaiters)
{
	int from = 0, to = 0, woken = 0;
	{
		std::vector<std::unique_ptr<Thread>> waiters;
		for (int i = 0; i < 5; i++)
			waiters.push_back(std::make_unique<Thread>([&] {
				/* Woken on the second word, though it waited on the
				 * first. */
				if (futex(&from, FUTEX_WAIT_PRIVATE, 0) == 0)
					__atomic_fetch_add(&woken, 1, __ATOMIC_SEQ_CST);
			}));
		long moved = 0;
		while (moved < 5) {
			usleep(1000);
			moved += futex(&from, FUTEX_CMP_REQUEUE_PRIVATE, 0,
				(const struct timespec *)1000, &to, 0);
		}
		EXPECT_EQ(moved, 5);
		EXPECT_EQ(futex(&from, FUTEX_WAKE_PRIVATE, 10), 0);
		EXPECT_EQ(futex(&to, FUTEX_WAKE_PRIVATE, 2), 2);
		EXPECT_EQ(futex(&to, FUTEX_WAKE_PRIVATE, 10), 3);
	}
	EXPECT_EQ(woken, 5);
}
