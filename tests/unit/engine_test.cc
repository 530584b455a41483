// runtime/engine.c, engine_epoll.c and what ring.c does on old kernels.
#include "on_fibers.h"

#include "runtime/runtime.h"

#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

namespace
{

const Config on_epoll = {1, false, false, false, false, WEFT_ENGINE_EPOLL};
const Config as_on_5_15 = {1, false, false, false, false, WEFT_ENGINE_IO_URING, ~0u};

int poll_one(int fd, short events, uint64_t deadline = WEFT_NO_DEADLINE)
{
	pollfd p = {fd, events, 0};
	long n = weft_io_poll(&p, 1, deadline, WEFT_TRIED_NOT);

	return n < 0 ? (int)n : n ? p.revents : 0;
}

TEST(Engine, IsTheOneAskedFor)
{
	on_runtime(on_epoll, [] {
		EXPECT_STREQ(weft_engine_name(), "epoll");
		EXPECT_STREQ(weft_engine_reason(), "WEFT_ENGINE");
	});
	on_runtime(as_on_5_15, [] {
		EXPECT_STREQ(weft_engine_name(), "io_uring");
		EXPECT_STREQ(weft_engine_reason(), "WEFT_ENGINE");
		EXPECT_FALSE(weft_ring_can_futex());
	});
	on_runtime([] { EXPECT_STREQ(weft_engine_reason(), "default"); });
}

// Before Linux 6.0 nothing can be submitted while completions overflow: more become
// ready at once than a ring of 32 entries holds, and one call has to submit more than 32.
TEST(Engine, SubmitsWhileCompletionsOverflow)
{
	on_runtime(as_on_5_15, [] {
		enum { N = 300, MANY = 60 };
		std::vector<int> fds(N);
		std::vector<pollfd> many(MANY);
		Fibers fibers;
		uint64_t one = 1;

		for (int &fd : fds) {
			fd = OK(eventfd(0, 0));
			fibers.start([&] { EXPECT_EQ(poll_one(fd, POLLIN), POLLIN); });
		}
		for (auto &p : many)
			p = {OK(eventfd(0, 0)), POLLIN, 0};
		until([&] { return counted(WEFT_COUNTER_IO_PARKS) == N; });
		for (int i = 0; i < 100; i++)
			weft_yield(); // they are in the kernel now
		for (int fd : fds)
			OK(write(fd, &one, sizeof one));
		EXPECT_EQ(weft_io_poll(many.data(), MANY, in_ms(20), WEFT_TRIED_NOT), 0);
		fibers.join();
		EXPECT_GT(counted(WEFT_COUNTER_ASIDE), 0u) << "it did not overflow";
		fibers.start([&] {
			EXPECT_EQ(weft_io_poll(many.data(), MANY, WEFT_NO_DEADLINE,
					  WEFT_TRIED_NOT),
				1);
			EXPECT_EQ(many[MANY - 1].revents, POLLIN);
		});
		until([&] { return counted(WEFT_COUNTER_IO_PARKS) == N + 2; });
		OK(write(many[MANY - 1].fd, &one, sizeof one));
		fibers.join();
	});
}

// Each of many fibers that wait for one number gets what it waits for.
TEST(Epoll, ManyWaitForOneNumber)
{
	on_runtime(on_epoll, [] {
		enum { N = 200 };
		int pair[2];
		Fibers fibers;
		Count readers, writers, woken;
		char block[4096] = {};

		OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
		while (send(pair[0], block, sizeof block, MSG_DONTWAIT) > 0)
			;
		for (int i = 0; i < N; i++) {
			fibers.start([&] {
				readers.add();
				EXPECT_EQ(poll_one(pair[0], POLLIN), POLLIN);
				woken.add();
			});
			fibers.start([&] {
				writers.add();
				EXPECT_EQ(poll_one(pair[0], POLLOUT), POLLOUT);
				woken.add();
			});
		}
		until([&] { return counted(WEFT_COUNTER_IO_PARKS) == 2 * N; });
		OK(write(pair[1], "x", 1)); // now it can be read, and still not written
		woken.await(N);
		EXPECT_EQ(recv(pair[0], block, 1, MSG_DONTWAIT), 1);
		for (int i = 0; i < 20; i++)
			weft_yield();
		EXPECT_EQ(woken.get(), (uint32_t)N);
		while (recv(pair[1], block, sizeof block, MSG_DONTWAIT) > 0)
			;
		fibers.join();
	});
}

// What was waited for under a number tells nothing about what the number means now,
// also while the old file lives on.
TEST(Epoll, AnOldFileDoesNotSpeakForItsNumber)
{
	on_runtime(on_epoll, [] {
		int old = OK(eventfd(0, 0)), keep = OK(dup(old));
		uint64_t one = 1;

		// Ends by its time-out: the set still looks for the old file.
		EXPECT_EQ(poll_one(old, POLLIN, in_ms(5)), 0);
		// As some other process would: nobody tells weft.
		OK(close(old));
		ASSERT_EQ(OK(eventfd(0, 0)), old);
		Fibers fibers;

		fibers.start([&] { EXPECT_EQ(poll_one(old, POLLIN, in_ms(60)), 0); });
		until([&] { return counted(WEFT_COUNTER_IO_PARKS) == 2; });
		OK(write(keep, &one, sizeof one));
		fibers.join();
		EXPECT_EQ(counted(WEFT_COUNTER_IO_PARKS), 2u)
			<< "it was woken for nothing";

		fibers.start([&] { EXPECT_EQ(poll_one(old, POLLIN), POLLIN); });
		until([&] { return counted(WEFT_COUNTER_IO_PARKS) == 3; });
		OK(write(old, &one, sizeof one));
		fibers.join();
	});
}

// Numbers far apart, more of them than there are buckets at first.
TEST(Epoll, TakesThousandsOfNumbers)
{
	on_runtime(on_epoll, [] {
		rlimit limit;
		OK(getrlimit(RLIMIT_NOFILE, &limit));
		int n = limit.rlim_cur < 3100 ? 500 : 3000;
		std::vector<int> fds((size_t)n);
		Fibers fibers(Fibers::Own, 64 << 10);
		Count woken;
		uint64_t one = 1;

		for (int &fd : fds) {
			fd = OK(eventfd(0, 0));
			fibers.start([&] {
				EXPECT_EQ(poll_one(fd, POLLIN), POLLIN);
				woken.add();
			});
		}
		until([&] { return counted(WEFT_COUNTER_IO_PARKS) == (uint64_t)n; });
		for (int fd : fds)
			OK(write(fd, &one, sizeof one));
		woken.await((uint32_t)n);
		fibers.join();
	});
}

// A carrier never stands still in an accept whose connection somebody else took.
TEST(Epoll, AnAcceptThatComesTooLateWaits)
{
	on_runtime(on_epoll, [] {
		sockaddr_in address = {};
		socklen_t len = sizeof address;
		int l = OK(socket(AF_INET, SOCK_STREAM, 0)), turns = 0;
		Fibers fibers;
		Count done;

		address.sin_family = AF_INET;
		address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		OK(bind(l, (sockaddr *)&address, sizeof address));
		OK(listen(l, 16));
		OK(getsockname(l, (sockaddr *)&address, &len));
		enum { N = 4 };
		for (int i = 0; i < N; i++)
			fibers.start([&] {
				OK((int)weft_io_accept(l, nullptr, nullptr, 0));
				done.add();
			});
		until([&] { return counted(WEFT_COUNTER_IO_PARKS) == N; });
		for (int i = 0; i < N; i++) {
			int c = OK(socket(AF_INET, SOCK_STREAM, 0));

			OK(connect(c, (sockaddr *)&address, sizeof address));
			if (i == 0)
				OK(accept(l, nullptr, nullptr)); // stolen
			for (int k = 0; k < 100; k++, turns++)
				weft_yield();
		}
		int c = OK(socket(AF_INET, SOCK_STREAM, 0));

		OK(connect(c, (sockaddr *)&address, sizeof address));
		fibers.join();
		EXPECT_EQ(done.get(), (uint32_t)N);
		EXPECT_EQ(turns, 100 * N);
	});
}

} // namespace
