// Priority-inheriting mutexes: the kernel looks their owner up by its tid.
#include "on_threads.h"

static bool init(pthread_mutex_t *m, int type)
{
	pthread_mutexattr_t attr;

	ZERO(pthread_mutexattr_init(&attr));
	ZERO(pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT));
	ZERO(pthread_mutexattr_settype(&attr, type));
	int err = pthread_mutex_init(m, &attr);
	ZERO(pthread_mutexattr_destroy(&attr));
	EXPECT_TRUE(err == 0 || err == ENOTSUP);
	return err == 0;
}

TEST(PiMutex, ExcludesAcrossParks)
{
	pthread_mutex_t m;
	if (!init(&m, PTHREAD_MUTEX_NORMAL))
		GTEST_SKIP() << "the kernel has no FUTEX_LOCK_PI";
	long counter = 0;
	on_threads(8, [&](int) {
		for (int i = 0; i < 50; i++) {
			ASSERT_EQ(pthread_mutex_lock(&m), 0);
			long seen = counter;
			if (i % 10 == 0)
				usleep(50);
			counter = seen + 1;
			ASSERT_EQ(pthread_mutex_unlock(&m), 0);
		}
	});
	EXPECT_EQ(counter, 400);
}

TEST(PiMutex, OwnerIsTheThread)
{
	pthread_mutex_t m;
	if (!init(&m, PTHREAD_MUTEX_ERRORCHECK))
		GTEST_SKIP() << "the kernel has no FUTEX_LOCK_PI";
	on_one_thread([&] {
		ASSERT_EQ(pthread_mutex_lock(&m), 0);
		usleep(500);
		EXPECT_EQ(pthread_mutex_lock(&m), EDEADLK);
		on_one_thread([&] {
			struct timespec at = to_timespec(now_ns(CLOCK_REALTIME) + 5 * MS);
			EXPECT_EQ(pthread_mutex_trylock(&m), EBUSY);
			EXPECT_EQ(pthread_mutex_unlock(&m), EPERM);
			EXPECT_EQ(pthread_mutex_timedlock(&m, &at), ETIMEDOUT);
		});
		EXPECT_EQ(pthread_mutex_unlock(&m), 0);
		EXPECT_EQ(pthread_mutex_unlock(&m), EPERM);
	});
}
