// runtime/answer.c: answers that are given together.
#include "on_fibers.h"

#include <algorithm>

extern "C" {
#include "runtime/io_impl.h"
}

namespace
{

uint64_t together()
{
	return counted(WEFT_COUNTER_TOGETHER);
}

// Others are ready while it lives.
class Others
{
      public:
	Others()
	{
		for (int i = 0; i < 3; i++)
			fibers_.start([this] {
				while (!done_)
					weft_yield();
			});
	}
	~Others()
	{
		done_ = true;
	}

      private:
	Fibers fibers_;
	std::atomic<bool> done_{false};
};

bool has_data(int fd)
{
	char c;

	return recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

// The calling fiber is from now on the one that speaks there.
void take(int fd)
{
	weft_fd_spoken_by(fd, weft_fiber_self());
}

long receive(int fd, void *buf, size_t len)
{
	long r;

	do
		r = weft_io_recv(fd, buf, len, 0, nullptr, nullptr, WEFT_TRIED_NOT);
	while (r == -EINTR);
	return r;
}

long send_full(int fd, const void *buf, size_t len, int flags)
{
	return weft_io_send(fd, buf, len, flags, nullptr, 0, WEFT_TRIED_NOT);
}

long answer(int fd, const char *text = "x", int flags = 0)
{
	return weft_io_try_send(fd, text, strlen(text), flags);
}

TEST(Answers, AreGivenToTheKernelTogether)
{
	on_runtime({1}, [] {
		enum { N = 20 };
		Pair pairs[N];
		Fibers fibers;
		uint64_t enters = 0;

		for (auto &p : pairs) {
			send_all(p.out(), "question", 8);
			fibers.start([&p] {
				char buf[9] = "";

				EXPECT_EQ(weft_io_try_recv(p.in(), buf, 8, 0), 8);
				EXPECT_STREQ(buf, "question");
				EXPECT_EQ(answer(p.in(), "answer"), 6);
			});
		}
		enters = counted(WEFT_COUNTER_ENTERS);
		fibers.join();
		EXPECT_GE(together(), N - 2u) << "all but the last";
		EXPECT_LE(counted(WEFT_COUNTER_ENTERS) - enters, N / 2u);
		for (auto &p : pairs) {
			char buf[9] = "";

			EXPECT_EQ(recv(p.out(), buf, 8, MSG_DONTWAIT), 6);
			EXPECT_STREQ(buf, "answer");
		}
	});
}

TEST(Answers, AreGivenAloneWhenNobodyElseIsReady)
{
	on_runtime({1}, [] {
		Pair p;

		for (int i = 0; i < 10; i++)
			EXPECT_EQ(answer(p.in()), 1);
		EXPECT_EQ(together(), 0u);
	});
}

// To give them takes longer than a turn, and whose run is next has not had one: it need
// not go behind all others before it has asked for the next request.
TEST(Answers, AreNobodysTurnButTheKernels)
{
	on_runtime({1}, [] {
		enum { N = 48, EACH = 10 };
		Pair pairs[N];
		Fibers fibers;
		int sent_away = 0;

		for (auto &p : pairs)
			fibers.start([&] {
				std::vector<char> text(4096, 'x');

				take(p.in());
				for (int i = 0; i < EACH; i++) {
					EXPECT_EQ(weft_io_try_send(p.in(), text.data(),
							  text.size(), 0),
						(long)text.size());
					weft_count_first_try(WEFT_TURN_ANSWER, p.in());
					sent_away += weft_fiber_self()->give_way;
					weft_fiber_self()->give_way = 0;
				}
			});
		fibers.join();
		EXPECT_GE(together(), N * EACH / 2u);
		EXPECT_LE(sent_away, N * EACH / 50) << "but for who met an interrupt";
	});
}

// The first ones do not wait for all of a hundred.
TEST(Answers, WaitForFewOthers)
{
	on_runtime({1}, [] {
		enum { N = 100, FEW = 24 };
		Pair pairs[N];
		Fibers fibers;
		int answered = 0, late = 0;

		for (auto &p : pairs)
			fibers.start([&] {
				int before = answered - FEW;

				late += before >= 0 && !has_data(pairs[before].out());
				take(p.in());
				answered++;
				EXPECT_EQ(answer(p.in()), 1);
			});
		fibers.join();
		EXPECT_EQ(late, 0);
		EXPECT_GE(together(), N / 2u);
		for (auto &p : pairs)
			EXPECT_TRUE(has_data(p.out()));
	});
}

// An answer waits for no more than a moment, and the machine may be away for longer. So a
// scene in which one waits is played until one does: `scene` tells whether.
void until_one_waits(std::function<bool()> scene)
{
	for (int i = 0; i < 100; i++)
		if (scene())
			return;
	ADD_FAILURE() << "no answer ever waited for another fiber";
}

// An answer that is given together, and who runs on behind it until that has arrived.
void answers_behind(Config config, std::function<void(std::function<bool()>)> run_on)
{
	on_runtime(config, [&] {
		until_one_waits([&] {
			Pair p;
			Fibers fibers;
			uint64_t before = together();
			bool arrived = false, waits = false;

			fibers.start([&] {
				take(p.in());
				EXPECT_EQ(answer(p.in()), 1);
			});
			fibers.start([&] {
				waits = !has_data(p.out());
				run_on([&] {
					return arrived = arrived || has_data(p.out());
				});
			});
			fibers.start([] {});
			fibers.join();
			EXPECT_TRUE(arrived);
			return waits && together() == before + 1;
		});
	});
}

TEST(Answers, DoNotWaitForWhoComputes)
{
	Config watched = {1};

	watched.watched = true;
	answers_behind(watched, [](std::function<bool()> arrived) {
		OwnCode here;

		spin_until(arrived);
	});
}

TEST(Answers, DoNotWaitForWhoMakesCallAfterCall)
{
	answers_behind({1}, [](std::function<bool()> arrived) {
		uint64_t end = in_ms(10000);

		while (!arrived() && weft_now_ns() < end)
			weft_count_first_try(WEFT_TURN_REQUEST, -1);
	});
}

TEST(Answers, AreGivenBeforeTheProcessEnds)
{
	answers_behind({1}, [](std::function<bool()> arrived) {
		weft_answers_give_here();
		EXPECT_TRUE(arrived());
	});
}

// By how many answers one fiber was ahead of another, of `n` that give `each` on one
// carrier. The first one computes for a while before that.
int most_ahead(size_t n, int each, uint64_t compute_ms = 0)
{
	std::vector<Pair> pairs(n);
	std::vector<int> answered(n);
	Fibers fibers;
	int most = 0;

	fibers.start([&] {
		for (uint64_t end = in_ms(compute_ms); weft_now_ns() < end;)
			;
	});
	for (size_t k = 0; k < n; k++)
		fibers.start([&, k] {
			take(pairs[k].in());
			for (int i = 0; i < each; i++) {
				answered[k]++;
				most = std::max(most,
					answered[k] - *std::min_element(answered.begin(),
							      answered.end()));
				EXPECT_EQ(answer(pairs[k].in()), 1);
			}
		});
	fibers.join();
	return most;
}

// The longer, the more.
TEST(Answers, LetTheirFibersGoOnInALongQueue)
{
	on_runtime({1}, [] {
		EXPECT_EQ(most_ahead(400, 12), 2) << "two for each time in the queue";
	});
	on_runtime({1}, [] {
		int ahead = most_ahead(1200, 12);

		EXPECT_GE(ahead, 3);
		EXPECT_LE(ahead, 4) << "three for each time in the queue";
	});
}

TEST(Answers, TakeTurnsInAShortQueue)
{
	on_runtime({1}, [] { EXPECT_EQ(most_ahead(40, 12), 1); });
}

TEST(Answers, TakeTurnsWhereTheOldestHaveWaitedForLong)
{
	on_runtime({1}, [] { EXPECT_EQ(most_ahead(400, 2, 500), 1); });
}

// A log's socket, under a lock: whoever holds that would come back behind all others.
TEST(Answers, OfManyOnTheSameSocketAreGivenAlone)
{
	on_runtime({1}, [] {
		enum { N = 10, EACH = 5 };
		int log[2];
		Fibers fibers;

		OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, log));
		for (int i = 0; i < N; i++)
			fibers.start([&] {
				for (int k = 0; k < EACH; k++) {
					EXPECT_EQ(answer(log[0], "line"), 4);
					weft_yield();
				}
			});
		fibers.start([&] {
			for (int i = 0; i < N * EACH; i++) {
				char buf[8];

				EXPECT_EQ(receive(log[1], buf, 8), 4);
			}
		});
		fibers.join();
		EXPECT_EQ(together(), 0u);
	});
}

TEST(Answers, OfOtherKindsAreGivenAlone)
{
	on_runtime({1}, [] {
		Pair p(Pair::TCP);
		Others others;
		std::vector<char> large(5000, 'l');
		sockaddr_in to = {};
		socklen_t size = sizeof to;

		take(p.in());
		EXPECT_EQ(send_full(p.in(), "u", 1, MSG_OOB), 1);
		EXPECT_EQ(send_full(p.in(), "m", 1, MSG_MORE), 1);
		EXPECT_GT(weft_io_try_send(p.in(), large.data(), large.size(), 0), 0);
		EXPECT_EQ(answer(p.in(), ""), 0);
		OK(getpeername(p.in(), (sockaddr *)&to, &size));
		EXPECT_EQ(weft_io_send(p.in(), "a", 1, 0, &to, size, WEFT_TRIED_NOT), 1);
		EXPECT_EQ(together(), 0u);
		EXPECT_EQ(answer(p.in()), 1);
		EXPECT_EQ(together(), 1u) << "it would have been";
	});
}

// What each kind of call tells is what it tells of an attempt that is made alone.
TEST(Answers, HaveTheResultsOfAttempts)
{
	on_runtime({1}, [] {
		Pair p(Pair::TCP), ended, full;
		Others others;
		int unconnected = OK(socket(AF_INET, SOCK_STREAM, 0));
		int fds[2];
		uint64_t n = 0;
		auto expect = [&](long want, long got, const char *what) {
			EXPECT_EQ(got, want) << what;
			EXPECT_EQ(together(), ++n) << what;
		};
		char part[3] = {'a', 'b', 'c'};
		iovec iov[3] = {{part, 1}, {part + 1, 1}, {part + 2, 1}};
		msghdr m = {};

		m.msg_iov = iov;
		m.msg_iovlen = 3;
		OK(pipe(fds));
		ended.shut(1);
		OK(fcntl(full.in(), F_SETFL, O_RDWR | O_NONBLOCK));
		while (send(full.in(), "0123456789abcdef", 16, 0) > 0)
			;
		for (int fd : {p.in(), ended.in(), full.in(), unconnected, fds[1]})
			take(fd);
		expect(3, weft_io_write(p.in(), iov, 3, WEFT_TRIED_NOT), "writev");
		expect(3, weft_io_sendmsg(p.in(), &m, 0), "sendmsg");
		expect(3, weft_io_sendmsg(p.in(), &m, MSG_DONTWAIT),
			"sendmsg, no waiting");
		expect(1, send_full(p.in(), "s", 1, MSG_DONTWAIT), "send, no waiting");
		expect(1, answer(p.in()), "send");
		expect(-EPIPE, answer(ended.in(), "x", MSG_NOSIGNAL), "broken");
		expect(-EAGAIN, answer(full.in()), "full");
		expect(-EAGAIN, answer(full.in(), "x", MSG_DONTWAIT), "full, no waiting");
		expect(-EPIPE, answer(unconnected, "x", MSG_NOSIGNAL), "not connected");
		expect(-EFAULT, weft_io_try_send(p.in(), (void *)16, 5, 0),
			"bad address");
		expect(-ENOTSOCK, answer(fds[1]), "a pipe");
		std::vector<iovec> many(1025, iovec{part, 1}); // more than UIO_MAXIOV
		m.msg_iov = many.data();
		m.msg_iovlen = many.size();
		expect(-EMSGSIZE, weft_io_sendmsg(p.in(), &m, MSG_DONTWAIT),
			"too many parts");
		OK(close(unconnected));
		expect(-EBADF, answer(unconnected), "closed");

		char got[16] = "";

		EXPECT_EQ(recv(p.out(), got, 15, MSG_DONTWAIT), 11);
		EXPECT_STREQ(got, "abcabcabcsx");
	});
}

// Some of it fits, and the rest when the peer has read.
TEST(Answers, WaitForTheRest)
{
	on_runtime({1}, [] {
		Pair p(Pair::TCP);
		Others others;
		Fibers fibers;
		enum { EACH = 4000, TIMES = 1600 };
		std::vector<char> data(EACH);
		uint64_t sum = 0, got = 0;

		fibers.start([&] {
			take(p.in());
			for (int i = 0; i < TIMES; i++) {
				for (int k = 0; k < EACH; k++)
					data[(size_t)k] = (char)(i + k);
				EXPECT_EQ(weft_io_try_send(p.in(), data.data(), EACH, 0),
					EACH);
			}
			p.shut(0);
		});
		for (char buf[4096];;) {
			long r = weft_io_recv(p.out(), buf, sizeof buf, 0, nullptr,
				nullptr, WEFT_TRIED_NOT);

			if (r <= 0)
				break;
			for (long k = 0; k < r; k++, got++)
				sum += buf[k] != (char)(got / EACH + got % EACH);
		}
		fibers.join();
		EXPECT_EQ(got, (uint64_t)EACH * TIMES);
		EXPECT_EQ(sum, 0u);
		EXPECT_GE(together(), TIMES / 2u);
	});
}

// A full socket: whoever waits for room does that as anybody does.
TEST(Answers, HonourSendTimeouts)
{
	on_runtime({1}, [] {
		Pair full;
		Others others;
		timeval tv = {0, 5000};
		iovec one = {(void *)"x", 1};

		while (send(full.in(), "0123456789abcdef", 16, MSG_DONTWAIT) > 0)
			;
		OK(setsockopt(full.in(), SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv));
		weft_io_expect_timeouts();
		take(full.in());
		EXPECT_EQ(send_full(full.in(), "x", 1, 0), -EAGAIN);
		EXPECT_EQ(weft_io_write(full.in(), &one, 1, WEFT_TRIED_NOT), -EAGAIN);
		EXPECT_EQ(answer(full.in()), WEFT_WOULD_BLOCK);
		EXPECT_GE(together(), 3u);
	});
}

// Its number means another file before the kernel was asked.
TEST(Answers, StayWithTheirFile)
{
	on_runtime({1}, [] {
		until_one_waits([] {
			Pair p, other;
			Fibers fibers;
			int number = p.in();
			bool waits = false;

			fibers.start([&] {
				take(number);
				EXPECT_EQ(answer(number), 1);
			});
			fibers.start([&] {
				waits = !has_data(p.out());
				weft_io_closing((unsigned)number, (unsigned)number);
				OK(dup2(other.in(), number));
			});
			fibers.start([] {});
			fibers.join();
			EXPECT_TRUE(has_data(p.out()));
			EXPECT_FALSE(has_data(other.out()));
			return waits;
		});
	});
}

// A signal that comes while an answer waits for others does not undo it.
TEST(Answers, AreNotUndoneBySignals)
{
	static std::atomic<unsigned> caught{0};

	on_runtime({2, true, false, true}, [] {
		enum { N = 8 };
		const int each = rounds(300);
		Pair pairs[N];
		Fibers fibers;
		std::vector<struct fiber *> who;
		std::atomic<int> left{N};
		struct weft_ksigaction act = {};

		act.handler = (void *)(void (*)(int))[](int)
		{
			caught++;
		};
		ASSERT_EQ(weft_sig_action(SIGUSR1, &act, nullptr, 8), 0);
		for (auto &p : pairs)
			who.push_back(fibers.start([&] {
				uint64_t none = 0;

				weft_sig_procmask(SIG_SETMASK, &none, nullptr, 8);
				take(p.in());
				for (int i = 0; i < each; i++) {
					char c = (char)i, back = 0;

					EXPECT_EQ(weft_io_try_send(p.in(), &c, 1, 0), 1);
					EXPECT_EQ(receive(p.out(), &back, 1), 1);
					EXPECT_EQ(back, c);
					weft_signals_deliver(nullptr);
				}
				left--;
				while (left) // whom signals are sent to is there
					weft_yield();
			}));
		fibers.start([&] {
			for (unsigned i = 0; left; i++) {
				weft_sig_send_thread(
					weft_fiber_tid(who[i % N]), SIGUSR1, nullptr);
				weft_yield();
			}
		});
		fibers.join();
		EXPECT_GE(together(), (unsigned)(N * each) / 4);
		EXPECT_GE(caught, 10u);
	});
}

} // namespace
