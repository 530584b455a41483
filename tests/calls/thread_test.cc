// pthread_create and the life of a thread, by every version of the symbol.
#include "on_threads.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <stdexcept>

static void *plus_one(void *arg)
{
	return (void *)((intptr_t)arg + 1);
}

TEST(PthreadCreate, EverySymbolVersionMakesThreads)
{
	using Create =
		int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
	for (const char *version : {"GLIBC_2.2.5", "GLIBC_2.34"}) {
		auto create = (Create)dlvsym(RTLD_DEFAULT, "pthread_create", version);
		ASSERT_NE(create, nullptr) << version;
		pthread_t t;
		ASSERT_EQ(create(&t, nullptr, plus_one, (void *)41), 0);
		EXPECT_EQ(finish(t), (void *)42) << version;
	}
	auto create = (Create)dlsym(RTLD_DEFAULT, "pthread_create");
	pthread_t t;
	ASSERT_EQ(create(&t, nullptr, plus_one, nullptr), 0);
	EXPECT_EQ(finish(t), (void *)1);
}

TEST(PthreadCreate, LibcsOwnHandleMakesThreadsToo)
{
	/* As a library loaded with RTLD_DEEPBIND, or dlsym on libc, would call it. */
	on_one_thread([] {});
	void *libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
	ASSERT_NE(libc, nullptr);
	using Create =
		int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
	auto create = (Create)dlsym(libc, "pthread_create");
	ASSERT_NE(create, nullptr);
	for (int i = 0; i < 10; i++) {
		pthread_t t;
		ASSERT_EQ(create(&t, nullptr, plus_one, (void *)(intptr_t)i), 0);
		EXPECT_EQ(finish(t), (void *)(intptr_t)(i + 1));
	}
	dlclose(libc);
}

TEST(PthreadCreate, ThreadsMakeThreads)
{
	std::atomic<int> leaves{0};
	std::function<void(int)> grow = [&](int depth) {
		if (!depth) {
			leaves++;
			return;
		}
		on_threads(3, [&](int) { grow(depth - 1); });
	};
	grow(5);
	EXPECT_EQ(leaves, 243);
}

TEST(PthreadCreate, StacksAreApart)
{
	const int n = 200;
	std::vector<char *> locals(n);
	pthread_barrier_t barrier;
	ZERO(pthread_barrier_init(&barrier, nullptr, n));
	on_threads(n, [&](int i) {
		volatile char block[8000];
		memset((void *)block, i, sizeof block);
		locals[i] = (char *)block;
		pthread_barrier_wait(&barrier);
		for (size_t k = 0; k < sizeof block; k += 100)
			ASSERT_EQ(block[k], (char)i);
	});
	std::sort(locals.begin(), locals.end());
	for (int i = 1; i < n; i++)
		EXPECT_GE(locals[i] - locals[i - 1], 8000);
}

TEST(PthreadCreate, RefusesBadAttributes)
{
	pthread_attr_t attr;
	pthread_t t;
	ZERO(pthread_attr_init(&attr));
	EXPECT_EQ(pthread_attr_setstacksize(&attr, 100), EINVAL);
	ZERO(pthread_attr_setstacksize(&attr, (size_t)1 << 60));
	int err = pthread_create(&t, &attr, plus_one, nullptr);
	EXPECT_TRUE(err == EAGAIN || err == EINVAL || err == ENOMEM) << err;
	ZERO(pthread_attr_destroy(&attr));
	on_one_thread([] {});
}

TEST(PthreadSelf, IsDistinctAmongTheLiving)
{
	std::set<pthread_t> seen;
	std::set<pid_t> tids;
	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
	pthread_barrier_t barrier;
	ZERO(pthread_barrier_init(&barrier, nullptr, 100));
	on_threads(100, [&](int) {
		ZERO(pthread_mutex_lock(&m));
		seen.insert(pthread_self());
		tids.insert(gettid());
		ZERO(pthread_mutex_unlock(&m));
		pthread_barrier_wait(&barrier);
		EXPECT_NE(gettid(), getpid());
	});
	EXPECT_EQ(seen.size(), 100u);
	EXPECT_EQ(tids.size(), 100u);
	EXPECT_EQ(gettid(), getpid());
}

TEST(PthreadJoin, TellsErrors)
{
	EXPECT_EQ(pthread_join(pthread_self(), nullptr), EDEADLK);
	pthread_attr_t attr;
	pthread_t t;
	Pair pair;
	char c = 'x';
	ZERO(pthread_attr_init(&attr));
	ZERO(pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED));
	ZERO(pthread_create(
		&t, &attr,
		[](void *arg) -> void * {
			int fd = *(int *)arg;
			char byte;
			recv_all(fd, &byte, 1);
			send_all(fd, &byte, 1);
			return nullptr;
		},
		&pair.fd[0]));
	EXPECT_EQ(pthread_join(t, nullptr), EINVAL);
	EXPECT_EQ(pthread_detach(t), EINVAL);
	send_all(pair.out(), &c, 1);
	recv_all(pair.out(), &c, 1); /* it no longer needs the pair */
	ZERO(pthread_attr_destroy(&attr));
}

TEST(PthreadJoin, GivesTheValueHoweverLateOrEarly)
{
	for (int i = 0; i < 200; i++) {
		pthread_t t;
		ZERO(pthread_create(&t, nullptr, plus_one, (void *)(intptr_t)i));
		if (i % 4 == 0)
			usleep(200); /* it has ended already */
		EXPECT_EQ(finish(t), (void *)(intptr_t)(i + 1));
	}
}

TEST(PthreadKeys, AreEachThreadsOwn)
{
	pthread_key_t key;
	static std::atomic<int> destroyed;
	destroyed = 0;
	ZERO(pthread_key_create(&key, [](void *) { destroyed++; }));
	on_threads(50, [&](int i) {
		EXPECT_EQ(pthread_getspecific(key), nullptr);
		ZERO(pthread_setspecific(key, (void *)(intptr_t)(i + 1)));
		usleep(500);
		EXPECT_EQ(pthread_getspecific(key), (void *)(intptr_t)(i + 1));
	});
	EXPECT_EQ(destroyed, 50);
	ZERO(pthread_key_delete(key));
}

TEST(Exceptions, UnwindThroughBlockingCalls)
{
	on_threads(24, [](int i) {
		for (int round = 0; round < 10; round++) {
			try {
				usleep(100);
				throw std::runtime_error(std::to_string(i));
			} catch (const std::runtime_error &e) {
				sched_yield();
				EXPECT_EQ(e.what(), std::to_string(i));
			}
		}
	});
}
