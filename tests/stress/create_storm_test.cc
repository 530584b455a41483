// Threads that make, join and detach threads, with stacks and lives of all lengths.
#include "seeded.h"

#include <sys/mman.h>

#include <atomic>

static std::atomic<long> alive, born;

struct Life {
	uint64_t stream;
	int depth;
	bool detached;
};

static void *live(void *arg);

// Makes a few, and waits for those it may join.
static void make(Random &random, int depth)
{
	std::vector<pthread_t> joinable;

	for (size_t i = random.below(5); i > 0; i--) {
		Life *life = new Life{random.next(), depth - 1, random.one_in(3)};
		pthread_attr_t attr;
		pthread_t t;

		ZERO(pthread_attr_init(&attr));
		ZERO(pthread_attr_setstacksize(&attr, (size_t)32768 << random.below(6)));
		if (random.one_in(4))
			ZERO(pthread_attr_setguardsize(&attr, 4096 * random.below(5)));
		if (life->detached)
			ZERO(pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED));
		bool detached = life->detached;
		alive++;
		born++;
		ZERO(pthread_create(&t, &attr, live, life));
		ZERO(pthread_attr_destroy(&attr));
		if (detached)
			continue;
		if (random.one_in(5))
			ZERO(pthread_detach(t));
		else
			joinable.push_back(t);
	}
	for (pthread_t t : joinable)
		EXPECT_NE(finish(t), nullptr);
}

static thread_local std::vector<int> own; /* has a destructor */

static void *live(void *arg)
{
	Life *life = (Life *)arg;
	Random random((int)life->stream);

	own.assign(random.below(100), 7);
	random_pause(random);
	if (life->depth > 0)
		make(random, life->depth);
	for (int n : own)
		CHECK(n == 7);
	void *result = malloc(random.below(2000) + 1);
	free(result);
	delete life;
	alive--;
	return (void *)1;
}

TEST(CreateStorm, EverybodyEnds)
{
	weft_seed();
	on_threads(10, [](int id) {
		Random random(id);
		for (int i = 0; i < 12; i++)
			make(random, 4);
	});
	while (alive)
		usleep(1000);
	printf("%ld threads\n", born.load());
	EXPECT_GT(born, 100);
}

TEST(CreateStorm, OwnStacksAreFreeAfterJoin)
{
	on_threads(8, [](int id) {
		Random random(id + 1000);
		for (int i = 0; i < 60; i++) {
			size_t size = (size_t)32768 << random.below(4);
			void *stack = mmap(nullptr, size, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			pthread_attr_t attr;
			pthread_t t;

			ASSERT_NE(stack, MAP_FAILED);
			ZERO(pthread_attr_init(&attr));
			ZERO(pthread_attr_setstack(&attr, stack, size));
			ZERO(pthread_create(
				&t, &attr,
				[](void *arg) -> void * {
					usleep((useconds_t)(intptr_t)arg);
					return arg;
				},
				(void *)(intptr_t)random.below(200)));
			finish(t);
			/* nobody stands on it any more */
			OK(munmap(stack, size));
			ZERO(pthread_attr_destroy(&attr));
		}
	});
}
