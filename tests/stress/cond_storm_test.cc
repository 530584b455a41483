// Queues between many producers and consumers: nothing lost, nothing twice, nobody left
// asleep.
#include "seeded.h"

#include <deque>

// A bounded queue; every wait is timed or not, every wake-up single or for all, at
// random.
class Queue
{
      public:
	explicit Queue(size_t room) : room_(room) {}

	void put(int item, Random &random)
	{
		ZERO(pthread_mutex_lock(&lock_));
		while (items_.size() >= room_)
			wait(&not_full_, random);
		items_.push_back(item);
		wake(&not_empty_, random);
		ZERO(pthread_mutex_unlock(&lock_));
	}
	int take(Random &random)
	{
		ZERO(pthread_mutex_lock(&lock_));
		while (items_.empty())
			wait(&not_empty_, random);
		int item = items_.front();
		items_.pop_front();
		wake(&not_full_, random);
		ZERO(pthread_mutex_unlock(&lock_));
		return item;
	}

      private:
	void wait(pthread_cond_t *cond, Random &random)
	{
		if (random.one_in(3)) {
			struct timespec at = to_timespec(
				now_ns(CLOCK_REALTIME) + random.below(2 * MS));
			int err = pthread_cond_timedwait(cond, &lock_, &at);
			CHECK(err == 0 || err == ETIMEDOUT);
		} else {
			ZERO(pthread_cond_wait(cond, &lock_));
		}
	}
	// A timed waiter may swallow a single wake-up only together with the item.
	void wake(pthread_cond_t *cond, Random &random)
	{
		if (random.one_in(8))
			ZERO(pthread_cond_broadcast(cond));
		else
			ZERO(pthread_cond_signal(cond));
	}

	pthread_mutex_t lock_ = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t not_empty_ = PTHREAD_COND_INITIALIZER,
		       not_full_ = PTHREAD_COND_INITIALIZER;
	std::deque<int> items_;
	size_t room_;
};

TEST(CondStorm, QueueLosesNothing)
{
	const int producers = 20, each = 400, consumers = 20;
	Queue queue(5);
	std::vector<int> seen(producers * each);
	weft_seed();
	on_threads(producers + consumers, [&](int id) {
		Random random(id);
		for (int i = 0; i < each; i++) {
			random_pause(random);
			if (id < producers)
				queue.put(id * each + i, random);
			else
				__atomic_fetch_add(
					&seen[queue.take(random)], 1, __ATOMIC_SEQ_CST);
		}
	});
	for (int n : seen)
		ASSERT_EQ(n, 1);
}

TEST(CondStorm, RwlockAndBarrierRounds)
{
	const int n = 16, rounds = 60;
	pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
	pthread_barrier_t barrier;
	long a = 0, b = 0;
	ZERO(pthread_barrier_init(&barrier, nullptr, n));
	on_threads(n, [&](int id) {
		Random random(id);
		for (int i = 0; i < rounds; i++) {
			if (random.one_in(3)) {
				ZERO(pthread_rwlock_wrlock(&lock));
				a++;
				random_pause(random);
				b++;
			} else {
				ZERO(pthread_rwlock_rdlock(&lock));
				long seen = a;
				random_pause(random);
				ASSERT_EQ(seen, b);
			}
			ZERO(pthread_rwlock_unlock(&lock));
			pthread_barrier_wait(&barrier);
		}
	});
	EXPECT_EQ(a, b);
}
