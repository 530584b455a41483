// seeded.h - random decisions of the stress tests, replayed with WEFT_SEED=<n>
#ifndef TESTS_SUPPORT_SEEDED_H
#define TESTS_SUPPORT_SEEDED_H

#include "on_threads.h"

#include <sys/random.h>

// The seed of this process, printed when first asked for.
inline uint64_t weft_seed()
{
	static uint64_t seed = [] {
		const char *text = getenv("WEFT_SEED");
		uint64_t n;

		if (text)
			n = strtoull(text, nullptr, 10);
		else
			CHECK(getrandom(&n, sizeof n, 0) == sizeof n);
		printf("WEFT_SEED=%llu\n", (unsigned long long)n);
		return n;
	}();
	return seed;
}

// splitmix64; each thread has one of its own, by its number.
class Random
{
      public:
	explicit Random(int stream)
	    : state_(weft_seed() + (uint64_t)stream * UINT64_C(0x9e3779b97f4a7c15))
	{
	}
	uint64_t next()
	{
		uint64_t z = state_ += UINT64_C(0x9e3779b97f4a7c15);

		z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
		z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
		return z ^ (z >> 31);
	}
	size_t below(size_t n)
	{
		return (size_t)(next() % n);
	}
	bool one_in(size_t n)
	{
		return below(n) == 0;
	}

      private:
	uint64_t state_;
};

// A short wait of a random kind, or none.
inline void random_pause(Random &random)
{
	switch (random.below(6)) {
	case 0:
		usleep((useconds_t)random.below(300));
		break;
	case 1:
		sched_yield();
		break;
	case 2:
		poll(nullptr, 0, (int)random.below(2));
		break;
	default:
		break;
	}
}

#endif
