// poll and ppoll, select and pselect, on fibers.
#include "on_threads.h"

#include <sys/select.h>

static const int many = 24;

TEST(Poll, WaitsForOneDescriptor)
{
	on_threads(many, [](int i) {
		Pair pair(all_kinds[i % 3]);
		Thread writer([&] {
			usleep(1000);
			EXPECT_EQ(write(pair.out(), "x", 1), 1);
		});
		struct pollfd p = {pair.in(), POLLIN, 0};
		EXPECT_EQ(poll(&p, 1, i % 2 ? -1 : 60000), 1);
		EXPECT_EQ(p.revents, POLLIN);
	});
}

TEST(Poll, TimesOutAndNotEarly)
{
	on_threads(many, [](int i) {
		Pair pair;
		struct pollfd p = {pair.in(), POLLIN, 77};
		uint64_t start = now_ns(CLOCK_MONOTONIC);
		EXPECT_EQ(poll(&p, 1, 5 + i), 0);
		EXPECT_GE(MS_SINCE(start), (uint64_t)(5 + i));
		EXPECT_EQ(p.revents, 0);
		start = now_ns(CLOCK_MONOTONIC);
		EXPECT_EQ(poll(nullptr, 0, 3), 0);
		EXPECT_GE(MS_SINCE(start), 3u);
	});
}

TEST(Poll, ZeroTimeoutReturnsAtOnce)
{
	on_one_thread([] {
		Pair pair;
		struct pollfd p = {pair.in(), POLLIN, 0};
		for (int i = 0; i < 100; i++)
			EXPECT_EQ(poll(&p, 1, 0), 0);
		send_all(pair.out(), "x", 1);
		EXPECT_EQ(poll(&p, 1, 0), 1);
	});
}

TEST(Poll, TellsAllThatAreReady)
{
	on_one_thread([] {
		Pair a, b, c(Pair::PIPE);
		struct pollfd p[6] = {{a.in(), POLLIN, 0}, {-5, POLLIN, 1},
			{9999, POLLIN, 0}, {b.in(), POLLIN | POLLOUT, 0},
			{c.in(), POLLIN, 0}, {c.out(), POLLOUT, 0}};
		send_all(a.out(), "x", 1);
		EXPECT_EQ(poll(p, 6, -1), 4);
		EXPECT_EQ(p[0].revents, POLLIN);
		EXPECT_EQ(p[1].revents, 0);
		EXPECT_EQ(p[2].revents, POLLNVAL);
		EXPECT_EQ(p[3].revents, POLLOUT);
		EXPECT_EQ(p[4].revents, 0);
		EXPECT_EQ(p[5].revents, POLLOUT);
	});
}

TEST(Poll, HangUpIsToldUnasked)
{
	on_one_thread([] {
		Pair pipe(Pair::PIPE);
		Thread closer([&] {
			usleep(2000);
			pipe.shut(1);
		});
		struct pollfd p = {pipe.in(), 0, 0};
		EXPECT_EQ(poll(&p, 1, -1), 1);
		EXPECT_EQ(p.revents, POLLHUP);
	});
}

TEST(Poll, TellsBadArguments)
{
	on_one_thread([] {
		struct pollfd p = {0, 0, 0};
		volatile nfds_t too_many = 100000000;
		EXPECT_EQ(error_of([&] {
			return poll((struct pollfd *)bad_pointer, 1, 0);
		}),
			EFAULT);
		EXPECT_EQ(error_of([&] { return poll(&p, too_many, 0); }), EINVAL);
	});
}

TEST(Poll, AfterEagainFindsTheData)
{
	/* The hottest pattern of real servers. */
	on_threads(8, [](int) {
		Pair pair(Pair::TCP);
		Thread sender([&] {
			for (int i = 0; i < 200; i++)
				send_all(pair.out(), "0123456789", 10);
		});
		size_t got = 0;
		while (got < 2000) {
			char buf[64];
			ssize_t n = recv(pair.in(), buf, sizeof buf, MSG_DONTWAIT);
			if (n < 0) {
				ASSERT_EQ(errno, EAGAIN);
				struct pollfd p = {pair.in(), POLLIN, 0};
				ASSERT_EQ(poll(&p, 1, -1), 1);
				continue;
			}
			got += (size_t)n;
		}
		EXPECT_EQ(got, 2000u);
	});
}

TEST(Poll, NoReferenceIsKept)
{
	on_one_thread([] {
		Pair a(Pair::TCP), b(Pair::TCP);
		struct pollfd p[2] = {{a.in(), POLLIN, 0}, {b.in(), POLLIN, 0}};
		Thread sender([&] {
			usleep(2000);
			send_all(a.out(), "x", 1);
		});
		EXPECT_EQ(poll(p, 2, -1), 1);
		b.shut(0);
		char c;
		EXPECT_EQ(recv(b.out(), &c, 1, 0), 0) << "close() must have sent the end";
	});
}

TEST(Ppoll, KeepsTheTimeAndTheMask)
{
	on_threads(8, [](int) {
		Pair pair;
		struct pollfd p = {pair.in(), POLLIN, 0};
		struct timespec ts = {0, 4 * 1000000};
		sigset_t all, before, after;
		sigfillset(&all);
		ZERO(pthread_sigmask(SIG_SETMASK, nullptr, &before));
		uint64_t start = now_ns(CLOCK_MONOTONIC);
		EXPECT_EQ(ppoll(&p, 1, &ts, &all), 0);
		EXPECT_GE(MS_SINCE(start), 4u);
		EXPECT_EQ(ts.tv_nsec, 4 * 1000000);
		ZERO(pthread_sigmask(SIG_SETMASK, nullptr, &after));
		EXPECT_EQ(memcmp(&before, &after, 8), 0);
		ts.tv_nsec = 1000000000;
		EXPECT_EQ(error_of([&] { return ppoll(&p, 1, &ts, nullptr); }), EINVAL);
		send_all(pair.out(), "x", 1);
		EXPECT_EQ(ppoll(&p, 1, nullptr, nullptr), 1);
	});
}

TEST(Select, WaitsAndTellsTheSets)
{
	on_threads(many, [](int) {
		Pair a, b;
		Thread writer([&] {
			usleep(1000);
			send_all(b.out(), "x", 1);
		});
		fd_set in, out;
		FD_ZERO(&in);
		FD_SET(a.in(), &in);
		FD_SET(b.in(), &in);
		int top = std::max(a.in(), b.in()) + 1;
		EXPECT_EQ(select(top, &in, nullptr, nullptr, nullptr), 1);
		EXPECT_FALSE(FD_ISSET(a.in(), &in));
		EXPECT_TRUE(FD_ISSET(b.in(), &in));
		FD_ZERO(&in);
		FD_ZERO(&out);
		FD_SET(a.in(), &in);
		FD_SET(a.in(), &out);
		EXPECT_EQ(select(top, &in, &out, nullptr, nullptr), 1);
		struct timespec ts = {0, 2000000};
		FD_ZERO(&in);
		FD_SET(a.in(), &in);
		EXPECT_EQ(pselect(top, &in, nullptr, nullptr, &ts, nullptr), 0);
		EXPECT_FALSE(FD_ISSET(a.in(), &in));
	});
}
