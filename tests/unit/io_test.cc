// runtime/io.c, transfer.c, multiplex.c, descriptor.c and ring.c: the blocking calls'
// contract, met by fibers. One carrier wherever possible: who blocks it hangs the test.
#include "on_fibers.h"

#include <pty.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <termios.h>

#include <algorithm>

namespace
{

using Bytes = std::vector<char>;

Bytes pattern(size_t n, unsigned seed = 1)
{
	Bytes b(n);

	for (size_t i = 0; i < n; i++)
		b[i] = (char)(i * 31 + (i >> 8) * 7 + seed);
	return b;
}

long do_read(int fd, void *buf, size_t len)
{
	iovec v = {buf, len};

	return weft_io_read(fd, &v, 1, WEFT_TRIED_NOT);
}

long do_write(int fd, const void *buf, size_t len)
{
	iovec v = {(void *)buf, len};

	return weft_io_write(fd, &v, 1, WEFT_TRIED_NOT);
}

long do_recv(int fd, void *buf, size_t len, int flags = 0)
{
	return weft_io_recv(fd, buf, len, flags, nullptr, nullptr, WEFT_TRIED_NOT);
}

long do_send(int fd, const void *buf, size_t len, int flags = 0)
{
	return weft_io_send(fd, buf, len, flags, nullptr, 0, WEFT_TRIED_NOT);
}

void set_nonblocking(int fd)
{
	OK(fcntl(fd, F_SETFL, OK(fcntl(fd, F_GETFL)) | O_NONBLOCK));
}

void set_timeout(int fd, int option, int ms)
{
	timeval tv = {ms / 1000, ms % 1000 * 1000};

	OK(setsockopt(fd, SOL_SOCKET, option, &tv, sizeof tv));
	weft_io_expect_timeouts();
}

// With a signal for it, as weft_signals sends them.
void interrupt_when_parked(struct fiber *f, enum weft_park_reason reason)
{
	until([&] { return is_parked(f, reason); });
	EXPECT_EQ(weft_sig_send_thread(weft_fiber_tid(f), SIGUSR1, nullptr), 0);
}

void catch_usr1()
{
	struct weft_ksigaction act = {};

	act.handler = (void *)(void (*)(int))[](int){};
	ASSERT_EQ(weft_sig_action(SIGUSR1, &act, nullptr, 8), 0);
}

void allow_signals()
{
	uint64_t none = 0;

	weft_sig_procmask(SIG_SETMASK, &none, nullptr, 8);
}

const Config all_configs[] = {
	{1}, {3}, {3, true}, {1, false, true}, {3, true, true, true}};

// ---- streams

// Much more than any buffer, written at once, read in pieces of all sizes.
void stream(int in, int out, size_t total)
{
	Bytes sent = pattern(total), got;
	Fibers fibers;

	fibers.start([&] {
		EXPECT_EQ(do_write(out, sent.data(), total), (long)total)
			<< "the whole of it";
		OK(close(out));
	});
	fibers.start([&] {
		Random random(1);
		Bytes buf(100000);

		for (;;) {
			long n =
				do_read(in, buf.data(), 1 + random.below(buf.size() - 1));

			ASSERT_GE(n, 0);
			if (!n)
				break;
			got.insert(got.end(), buf.data(), buf.data() + n);
		}
	});
	fibers.join();
	EXPECT_TRUE(got == sent);
}

class EveryWay : public testing::TestWithParam<Config>
{
};

std::string name_of_way(const testing::TestParamInfo<Config> &info)
{
	static const char *const names[] = {
		"OneCarrier", "ThreeCarriers", "Migrating", "WouldBlock", "AllKnobs"};

	return names[info.index];
}

INSTANTIATE_TEST_SUITE_P(Io, EveryWay, testing::ValuesIn(all_configs), name_of_way);

TEST_P(EveryWay, StreamsArriveWhole)
{
	weft_seed();
	on_runtime(GetParam(), [] {
		for (Pair::Kind kind : all_kinds) {
			Pair p(kind);

			stream(p.in(), p.out(), 3 << 20);
			p.fd[1] = -1; // closed by the writer
		}
	});
}

TEST_P(EveryWay, VectorsArriveWholeAndInOrder)
{
	weft_seed();
	on_runtime(GetParam(), [] {
		for (Pair::Kind kind : all_kinds) {
			Pair p(kind);
			Bytes sent = pattern(600000), got(600000);
			Fibers fibers;

			fibers.start([&] {
				iovec v[50]; // more than the rest of a partial write may
					     // hold
				size_t at = 0;

				for (int i = 0; i < 50; i++) {
					size_t n = i == 49 ? sent.size() - at
							   : (size_t)(i * i * 7 % 20011);
					v[i] = {sent.data() + at, n};
					at += n;
				}
				EXPECT_EQ(weft_io_write(p.out(), v, 50, WEFT_TRIED_NOT),
					600000);
			});
			for (size_t at = 0; at < got.size();) {
				iovec v[2] = {{got.data() + at, std::min<size_t>(7,
									got.size() - at)},
					{nullptr, 0}};
				v[1] = {got.data() + at + v[0].iov_len,
					std::min<size_t>(
						9000, got.size() - at - v[0].iov_len)};
				long n = weft_io_read(p.in(), v, 2, WEFT_TRIED_NOT);

				ASSERT_GT(n, 0);
				at += (size_t)n;
			}
			fibers.join();
			EXPECT_TRUE(got == sent);
		}
	});
}

TEST_P(EveryWay, ManyPairsPlayPingPong)
{
	weft_seed();
	on_runtime(GetParam(), [] {
		enum { PAIRS = 50 };
		const int n = rounds(100);
		std::vector<std::unique_ptr<Pair>> pairs;
		Fibers fibers;

		for (int i = 0; i < PAIRS; i++)
			pairs.push_back(
				std::make_unique<Pair>(i % 2 ? Pair::TCP : Pair::UNIX));
		for (int i = 0; i < PAIRS; i++)
			for (int side = 0; side < 2; side++)
				fibers.start([&, i, side] {
					int fd = pairs[(size_t)i]->fd[side];
					uint32_t ball = 0;

					for (int k = 0; k < n; k++) {
						if (side == 0) {
							ASSERT_EQ(
								do_send(fd, &ball, 4), 4);
						}
						uint32_t before = ball;
						ASSERT_EQ(do_recv(fd, &ball, 4), 4);
						ASSERT_EQ(ball,
							side == 0 || k ? before + 1 : 0);
						ball++;
						if (side == 1) {
							ASSERT_EQ(
								do_send(fd, &ball, 4), 4);
						}
					}
				});
	});
}

TEST(Transfer, FirstAttemptsSayWhatTheyFound)
{
	on_runtime({1}, [] {
		Pair p;
		char buf[8] = "1234567";

		EXPECT_EQ(weft_io_try_recv(p.in(), buf, 8, 0), WEFT_WOULD_BLOCK);
		EXPECT_EQ(weft_io_try_recv(p.in(), buf, 8, MSG_DONTWAIT), -EAGAIN);
		EXPECT_EQ(weft_io_try_recv(p.in(), buf, 8, MSG_WAITALL), WEFT_FULL_PATH);
		EXPECT_EQ(weft_io_try_send(p.out(), "abc", 3, 0), 3);
		EXPECT_EQ(weft_io_try_recv(p.in(), buf, 8, 0), 3);
		EXPECT_EQ(memcmp(buf, "abc4", 4), 0) << "and no more is touched";
		set_nonblocking(p.in());
		EXPECT_EQ(weft_io_try_recv(p.in(), buf, 8, 0), -EAGAIN);
		EXPECT_EQ(weft_io_try_recv(-1, buf, 8, 0), -EBADF);
		EXPECT_EQ(weft_io_try_read(0, buf, 8), WEFT_FULL_PATH)
			<< "not known to be a socket";
		EXPECT_EQ(weft_io_try_write(p.out(), "abc", 3), 3) << "known by now";
		p.shut(1);
		EXPECT_EQ(weft_io_try_recv(p.in(), buf, 8, 0), 3);
		EXPECT_EQ(weft_io_try_recv(p.in(), buf, 8, 0), 0) << "the end";
	});
}

// Who wrote a line into a log may hold the lock of that, and goes on to its answer.
TEST(Transfer, AnAnswerGoesToASocketAndNotToALog)
{
	on_runtime({1}, [] {
		int pair[2], pipe[2], file = OK(memfd_create("log", 0));
		const int err = OK(dup(STDERR_FILENO));

		unix_pair(pair);
		OK(pipe2(pipe, 0));
		for (int fd : {pair[0], pipe[1], file}) {
			EXPECT_EQ(do_write(fd, "line", 4), 4);
			EXPECT_EQ(weft_io_answers(fd), fd == pair[0]) << fd;
		}
		// A journal's socket, as systemd gives it to its services.
		OK(dup2(pair[0], STDERR_FILENO));
		EXPECT_EQ(do_write(STDERR_FILENO, "line", 4), 4);
		const bool answers = weft_io_answers(STDERR_FILENO);
		OK(dup2(err, STDERR_FILENO));
		EXPECT_FALSE(answers);
	});
}

// The habit of a descriptor must never hide what is there.
TEST(Transfer, LearnedHabitsOnlyChangeTheWay)
{
	on_runtime({1}, [] {
		Pair p;
		Fibers fibers;
		long likely = 0;
		int received = 0;

		struct fiber *reader = fibers.start([&] {
			for (int i = 0; i < 500; i++) {
				char c = 0;
				long r = weft_io_try_recv(p.in(), &c, 1, 0);

				likely += r == WEFT_LIKELY_BLOCKS;
				if (r == WEFT_LIKELY_BLOCKS || r == WEFT_WOULD_BLOCK)
					r = weft_io_recv(p.in(), &c, 1, 0, nullptr,
						nullptr,
						r == WEFT_LIKELY_BLOCKS
							? WEFT_TRIED_LIKELY
							: WEFT_TRIED_BLOCKS);
				ASSERT_EQ(r, 1);
				ASSERT_EQ(c, (char)i);
				received++;
			}
		});
		fibers.start([&] {
			for (int i = 0; i < 500; i++) {
				char c = (char)i;

				if (i < 200 ||
					i > 300) // in between, data is always there
					until([&] {
						return received == i &&
						       is_parked(
							       reader, WEFT_REASON_READ);
					});
				ASSERT_EQ(do_send(p.out(), &c, 1), 1);
			}
		});
		fibers.join();
		EXPECT_GT(likely, 0);
	});
}

TEST(Transfer, AReceiveOfTheLikelyKindHonoursONonblock)
{
	on_runtime({1}, [] {
		Pair p;
		char c;

		set_nonblocking(p.in());
		EXPECT_EQ(weft_io_recv(
				  p.in(), &c, 1, 0, nullptr, nullptr, WEFT_TRIED_LIKELY),
			-EAGAIN);
	});
}

// Who writes first on a file system asks what it is, by a helper; the others wait for
// that.
TEST(Transfer, AFileSystemIsAskedForOnce)
{
	on_runtime({1}, [] {
		const int n = 50;
		int file = OK(memfd_create("log", MFD_CLOEXEC));
		const uint64_t before = counted(WEFT_COUNTER_OFFLOADS);
		Fibers fibers;

		for (int i = 0; i < n; i++)
			fibers.start([=] { EXPECT_EQ(do_write(file, "line", 4), 4); });
		fibers.join();
		EXPECT_EQ(counted(WEFT_COUNTER_OFFLOADS) - before, 1u);
		EXPECT_EQ(OK(lseek(file, 0, SEEK_CUR)), n * 4);
		close(file);
	});
}

TEST(Transfer, EndOfFileAndBrokenPipe)
{
	on_runtime({1}, [] {
		for (Pair::Kind kind : all_kinds) {
			char c;
			{
				Pair p(kind);
				p.shut(1);
				EXPECT_EQ(do_read(p.in(), &c, 1), 0);
			}
			{
				Pair p(kind);
				p.shut(0);
				long r = do_write(p.out(), "x", 1);
				if (r == 1) // TCP learns of it from the reset
					until([&] {
						return (r = do_write(p.out(), "x", 1)) <
						       0;
					});
				EXPECT_TRUE(r == -EPIPE || r == -ECONNRESET) << r;
				/* Pending for this fiber, and not for the kernel thread.
				 */
				uint64_t pending = 0;
				syscall(SYS_rt_sigpending, &pending, 8);
				EXPECT_FALSE(pending >> (SIGPIPE - 1) & 1);
				EXPECT_TRUE(weft_signals_attention(weft_fiber_self()) ||
					    r == -ECONNRESET);
				struct weft_ksigaction ign = {};
				ign.handler = (void *)1;
				weft_sig_action(SIGPIPE, &ign, nullptr, 8);
				weft_signals_deliver(nullptr);
				ign.handler = nullptr;
				weft_sig_action(SIGPIPE, &ign, nullptr, 8);
			}
		}
	});
}

TEST(Transfer, AReaderThatWaitsSeesTheEnd)
{
	on_runtime({1}, [] {
		for (Pair::Kind kind : all_kinds) {
			Pair p(kind);
			Fibers fibers;
			struct fiber *f = fibers.start([&] {
				char c;
				EXPECT_EQ(do_read(p.in(), &c, 1), 0);
			});

			until([&] { return is_parked(f, WEFT_REASON_READ); });
			p.shut(1);
		}
	});
}

TEST(Transfer, ONonblockIsHonoured)
{
	on_runtime({1}, [] {
		for (Pair::Kind kind : all_kinds) {
			Pair p(kind);
			Bytes big = pattern(8 << 20);
			char c;

			set_nonblocking(p.in());
			set_nonblocking(p.out());
			EXPECT_EQ(do_read(p.in(), &c, 1), -EAGAIN);
			long n = do_write(p.out(), big.data(), big.size());
			EXPECT_GT(n, 0);
			EXPECT_LT(n, (long)big.size()) << "a part";
			while (do_write(p.out(), big.data(), 1) == 1)
				;
			EXPECT_EQ(do_write(p.out(), big.data(), 1), -EAGAIN);
			EXPECT_EQ(fcntl(p.in(), F_GETFL) & O_NONBLOCK, O_NONBLOCK);
		}
		/* And blocking descriptors stay what they are. */
		Pair p;
		Fibers fibers;
		fibers.start([&] {
			char c;
			EXPECT_EQ(do_read(p.in(), &c, 1), 1);
		});
		weft_yield();
		EXPECT_EQ(fcntl(p.in(), F_GETFL) & O_NONBLOCK, 0);
		do_write(p.out(), "x", 1);
	});
}

TEST(Transfer, ReceiveTimeoutsEndWithEagain)
{
	on_runtime({1}, [] {
		for (Pair::Kind kind : {Pair::UNIX, Pair::TCP}) {
			Pair p(kind);
			char c;

			set_timeout(p.in(), SO_RCVTIMEO, 20);
			uint64_t start = weft_now_ns();
			EXPECT_EQ(do_recv(p.in(), &c, 1), -EAGAIN);
			EXPECT_GE(weft_now_ns() - start, 19000000u);
			EXPECT_EQ(do_read(p.in(), &c, 1), -EAGAIN);
			set_timeout(p.out(), SO_SNDTIMEO, 20);
			Bytes big = pattern(16 << 20);
			long n = do_send(p.out(), big.data(), big.size());
			EXPECT_GT(n, 0);
			EXPECT_LT(n, (long)big.size()) << "what fitted";
			/* The peer's buffer may have grown meanwhile; once it is full. */
			do
				n = do_send(p.out(), big.data(), 100000);
			while (n > 0);
			EXPECT_EQ(n, -EAGAIN);
		}
	});
}

// The kernel's time-out is for the whole call (net/unix/af_unix.c, net/ipv4/tcp.c).
TEST(Transfer, ATimeoutIsForTheWholeCallNotForEachWait)
{
	on_runtime({1}, [] {
		for (Pair::Kind kind : {Pair::UNIX, Pair::TCP}) {
			Pair p(kind);
			Fibers fibers;
			bool stop = false;
			char buf[100];

			set_timeout(p.in(), SO_RCVTIMEO, 200);
			fibers.start([&] {
				for (int i = 0; i < 100 && !stop; i++) {
					EXPECT_EQ(do_send(p.out(), "x", 1), 1);
					weft_sleep_until(in_ms(20));
				}
			});
			/* A hundred bytes take two seconds at least. */
			long n = do_recv(p.in(), buf, 100, MSG_WAITALL);
			EXPECT_GT(n, 0);
			EXPECT_LT(n, 100);
			stop = true;
		}
	});
}

TEST(Transfer, WaitallGathersOnStreams)
{
	on_runtime({1}, [] {
		for (Pair::Kind kind : {Pair::UNIX, Pair::TCP}) {
			Pair p(kind);
			Fibers fibers;
			char buf[16] = "";

			fibers.start([&] {
				for (const char *part : {"ab", "cd", "ef", "gh"}) {
					do_send(p.out(), part, 2);
					for (int i = 0; i < 3; i++)
						weft_yield();
				}
				OK(shutdown(p.out(), SHUT_WR));
			});
			EXPECT_EQ(do_recv(p.in(), buf, 5, MSG_WAITALL), 5);
			EXPECT_EQ(memcmp(buf, "abcde", 5), 0);
			EXPECT_EQ(do_recv(p.in(), buf, 16, MSG_WAITALL), 3)
				<< "up to the end";
			EXPECT_EQ(memcmp(buf, "fgh", 3), 0);
		}
	});
}

// recv(2): MSG_WAITALL has no effect on datagram sockets.
TEST(Transfer, WaitallOnDatagramsReturnsOne)
{
	on_runtime({1}, [] {
		for (int type : {SOCK_DGRAM, SOCK_SEQPACKET}) {
			int fd[2];
			char buf[16];

			OK(socketpair(AF_UNIX, type, 0, fd));
			OK(send(fd[1], "abc", 3, 0));
			OK(send(fd[1], "de", 2, 0));
			EXPECT_EQ(do_recv(fd[0], buf, 16, MSG_WAITALL), 3);
			EXPECT_EQ(do_recv(fd[0], buf, 16, MSG_WAITALL), 2);
			close(fd[0]);
			close(fd[1]);
		}
	});
}

TEST(Transfer, PeekingForAnAmountWaitsForIt)
{
	on_runtime({1}, [] {
		Pair p(Pair::TCP);
		Fibers fibers;
		char buf[4];

		fibers.start([&] {
			do_send(p.out(), "ab", 2);
			weft_sleep_until(in_ms(5));
			do_send(p.out(), "cd", 2);
		});
		EXPECT_EQ(do_recv(p.in(), buf, 4, MSG_PEEK | MSG_WAITALL), 4);
		EXPECT_EQ(do_recv(p.in(), buf, 4), 4) << "still there";
	});
}

TEST(Transfer, LowWaterMarkIsHonoured)
{
	on_runtime({1}, [] {
		Pair p; // TCP forgets to wake a receiver that has taken a part
		Fibers fibers;
		int low = 4;
		char buf[16];

		OK(setsockopt(p.in(), SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low));
		weft_io_expect_timeouts();
		fibers.start([&] {
			do_send(p.out(), "ab", 2);
			weft_sleep_until(in_ms(5));
			do_send(p.out(), "cd", 2);
		});
		EXPECT_EQ(do_recv(p.in(), buf, 16), 4);
	});
}

TEST(Transfer, DatagramsKeepTheirBordersAndAddresses)
{
	on_runtime({2}, [] {
		int a = OK(socket(AF_INET, SOCK_DGRAM, 0)),
		    b = OK(socket(AF_INET, SOCK_DGRAM, 0));
		sockaddr_in at = {}, from = {};
		socklen_t len = sizeof at;
		Fibers fibers;

		at.sin_family = AF_INET;
		at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		OK(bind(a, (sockaddr *)&at, sizeof at));
		OK(getsockname(a, (sockaddr *)&at, &len));
		fibers.start([&] {
			for (int i = 1; i <= 50; i++) {
				Bytes d = pattern((size_t)i * 20);
				EXPECT_EQ(weft_io_send(b, d.data(), d.size(), 0, &at,
						  sizeof at, WEFT_TRIED_NOT),
					(long)d.size());
			}
		});
		for (int i = 1; i <= 50; i++) {
			char buf[2000];
			socklen_t from_len = sizeof from;

			ASSERT_EQ(weft_io_recv(a, buf, sizeof buf, 0, &from, &from_len,
					  WEFT_TRIED_NOT),
				i * 20);
			ASSERT_EQ(from_len, sizeof from);
			ASSERT_EQ(from.sin_family, AF_INET);
		}
		close(a);
		close(b);
	});
}

TEST(Transfer, ADatagramSenderWaitsForAFullPeer)
{
	on_runtime({1}, [] {
		int fd[2];
		Fibers fibers;
		const int n = 500; // max_dgram_qlen is 10, or 512

		OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, fd));
		fibers.start([&] {
			for (int i = 0; i < n; i++)
				ASSERT_EQ(do_send(fd[1], &i, sizeof i), (long)sizeof i);
		});
		fibers.start([&] {
			for (int i = 0; i < n; i++) {
				int got = -1;
				ASSERT_EQ(do_recv(fd[0], &got, sizeof got),
					(long)sizeof got);
				ASSERT_EQ(got, i);
			}
		});
		fibers.join();
		close(fd[0]);
		close(fd[1]);
	});
}

TEST(Transfer, MessagesCarryDescriptorsAndNames)
{
	on_runtime({1}, [] {
		Pair p;
		Fibers fibers;

		fibers.start([&] {
			char data[1] = {'d'}, control[CMSG_SPACE(sizeof(int))] = {};
			iovec v = {data, 1};
			msghdr m = {};
			int fd = 0;

			m.msg_iov = &v, m.msg_iovlen = 1;
			m.msg_control = control, m.msg_controllen = sizeof control;
			cmsghdr *c = CMSG_FIRSTHDR(&m);
			c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS;
			c->cmsg_len = CMSG_LEN(sizeof fd);
			memcpy(CMSG_DATA(c), &fd, sizeof fd);
			weft_yield();
			EXPECT_EQ(weft_io_sendmsg(p.out(), &m, 0), 1);
		});
		char data[4], control[64];
		iovec v = {data, 4};
		msghdr m = {};
		m.msg_iov = &v, m.msg_iovlen = 1;
		m.msg_control = control, m.msg_controllen = sizeof control;
		EXPECT_EQ(weft_io_recvmsg(p.in(), &m, 0), 1);
		cmsghdr *c = CMSG_FIRSTHDR(&m);
		ASSERT_NE(c, nullptr);
		int fd;
		memcpy(&fd, CMSG_DATA(c), sizeof fd);
		EXPECT_GE(fcntl(fd, F_GETFD), 0);
		close(fd);
	});
}

TEST(Transfer, ManyMessagesAtOnce)
{
	on_runtime({1}, [] {
		int fd[2];
		Fibers fibers;

		OK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fd));
		fibers.start([&] {
			mmsghdr vec[20] = {};
			iovec v[20];
			char data[20];

			for (int i = 0; i < 20; i++) {
				data[i] = (char)i;
				v[i] = {&data[i], 1};
				vec[i].msg_hdr.msg_iov = &v[i];
				vec[i].msg_hdr.msg_iovlen = 1;
			}
			for (int k = 0; k < 20; k++)
				ASSERT_EQ(weft_io_sendmmsg(fd[1], vec, 20, 0), 20);
		});
		for (int got = 0; got < 400;) {
			mmsghdr vec[7] = {};
			iovec v[7];
			char data[7];

			for (int i = 0; i < 7; i++) {
				v[i] = {&data[i], 1};
				vec[i].msg_hdr.msg_iov = &v[i];
				vec[i].msg_hdr.msg_iovlen = 1;
			}
			long n = weft_io_recvmmsg(fd[0], vec, 7, MSG_WAITFORONE, nullptr);
			ASSERT_GE(n, 1);
			for (long i = 0; i < n; i++)
				ASSERT_EQ(data[i], (char)(got++ % 20));
		}
		timespec bad = {0, 1000000000};
		mmsghdr one = {};
		EXPECT_EQ(weft_io_recvmmsg(fd[0], &one, 1, 0, &bad), -EINVAL);
		fibers.join();
		close(fd[0]);
		close(fd[1]);
	});
}

TEST(Transfer, RegularFilesAndDirectoriesAreThePlainCalls)
{
	on_runtime({1}, [] {
		char path[] = "/tmp/weft-io-XXXXXX", buf[8] = "";
		int fd = OK(mkstemp(path));

		unlink(path);
		EXPECT_EQ(do_write(fd, "hello", 5), 5);
		EXPECT_EQ(do_read(fd, buf, 5), 0) << "at the end";
		OK(lseek(fd, 1, SEEK_SET));
		EXPECT_EQ(do_read(fd, buf, 8), 4);
		EXPECT_EQ(memcmp(buf, "ello", 4), 0);
		close(fd);
		fd = OK(open("/tmp", O_RDONLY));
		EXPECT_EQ(do_read(fd, buf, 1), -EISDIR);
		EXPECT_EQ(do_write(fd, buf, 1), -EBADF);
		close(fd);
		fd = OK(open("/dev/zero", O_RDWR));
		EXPECT_EQ(do_read(fd, buf, 8), 8);
		EXPECT_EQ(do_write(fd, buf, 8), 8);
		close(fd);
		EXPECT_EQ(do_read(-1, buf, 1), -EBADF);
		EXPECT_EQ(do_write(999, buf, 1), -EBADF);
		/* The number means something else now: the hint is wrong, the call right.
		 */
		Pair p;
		int number = p.in();
		do_send(p.out(), "x", 1);
		EXPECT_EQ(do_read(number, buf, 1), 1);
		fd = OK(open("/dev/zero", O_RDONLY));
		OK(dup2(fd, number));
		EXPECT_EQ(do_read(number, buf, 1), 1);
		EXPECT_EQ(weft_io_try_read(number, buf, 1), WEFT_FULL_PATH);
		close(fd);
	});
}

TEST(Transfer, BadBuffersGiveEfault)
{
	on_runtime({1}, [] {
		Pair p;
		char *bad = (char *)mmap(
			nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		EXPECT_EQ(do_send(p.out(), bad, 10), -EFAULT);
		do_send(p.out(), "abc", 3);
		EXPECT_EQ(do_recv(p.in(), bad, 3), -EFAULT);
	});
}

// ---- special files

TEST(Special, EventfdsCountAndBlock)
{
	on_runtime({1}, [] {
		int fd = OK(eventfd(0, 0));
		Fibers fibers;
		uint64_t got = 0, add = 3;

		fibers.start([&] { EXPECT_EQ(do_read(fd, &got, 8), 8); });
		weft_yield();
		EXPECT_EQ(do_write(fd, &add, 8), 8);
		fibers.join();
		EXPECT_EQ(got, 3u);
		EXPECT_EQ(do_read(fd, &got, 4), -EINVAL);
		close(fd);
	});
}

// POLLOUT of an eventfd says that 1 can be added, not that this number can.
TEST(Special, AnEventfdWriteThatDoesNotFitLetsTheReaderRun)
{
	on_runtime({1}, [] {
		int fd = OK(eventfd(0, 0));
		Fibers fibers;
		uint64_t nearly = UINT64_MAX - 5, add = 10, got = 0;

		EXPECT_EQ(do_write(fd, &nearly, 8), 8);
		fibers.start([&] { EXPECT_EQ(do_write(fd, &add, 8), 8); });
		fibers.start([&] { EXPECT_EQ(do_read(fd, &got, 8), 8); });
		fibers.join();
		EXPECT_EQ(got, nearly);
		close(fd);
	});
}

void raw_pty(int *master, int *slave)
{
	termios t;

	OK(openpty(master, slave, nullptr, nullptr, nullptr));
	OK(tcgetattr(*slave, &t));
	cfmakeraw(&t);
	OK(tcsetattr(*slave, TCSANOW, &t));
}

TEST(Special, ATerminalReaderWaitsForTheOtherSide)
{
	on_runtime({1}, [] {
		int master, slave;
		Fibers fibers;
		char c = 0;

		raw_pty(&master, &slave);
		fibers.start([&] { EXPECT_EQ(do_read(slave, &c, 1), 1); });
		weft_yield();
		EXPECT_EQ(do_write(master, "k", 1), 1);
		fibers.join();
		EXPECT_EQ(c, 'k');
	});
}

TEST(Special, AWriteLargerThanATerminalHoldsLetsTheReaderRun)
{
	on_runtime({1}, [] {
		int master, slave;
		Fibers fibers;
		Bytes sent = pattern(100000), got;

		raw_pty(&master, &slave);
		fibers.start([&] {
			EXPECT_EQ(do_write(slave, sent.data(), sent.size()),
				(long)sent.size());
		});
		fibers.start([&] {
			char buf[5000];

			while (got.size() < sent.size()) {
				long n = do_read(master, buf, sizeof buf);

				ASSERT_GT(n, 0);
				got.insert(got.end(), buf, buf + n);
			}
		});
		fibers.join();
		EXPECT_TRUE(got == sent);
	});
}

TEST(Special, PipeWritesUpToPipeBufAreAtomic)
{
	on_runtime({2}, [] {
		Pair p(Pair::PIPE);
		Fibers fibers;
		enum { WRITERS = 8, SIZE = 4000, N = 30 };

		for (int i = 0; i < WRITERS; i++)
			fibers.start([&, i] {
				Bytes b(SIZE, (char)('a' + i));

				for (int k = 0; k < N; k++)
					ASSERT_EQ(
						do_write(p.out(), b.data(), SIZE), SIZE);
			});
		for (int i = 0; i < WRITERS * N; i++) {
			Bytes b(SIZE);
			size_t at = 0;

			while (at < SIZE) {
				long n = do_read(p.in(), b.data() + at, SIZE - at);
				ASSERT_GT(n, 0);
				at += (size_t)n;
			}
			ASSERT_EQ(std::count(b.begin(), b.end(), b[0]), SIZE);
		}
	});
}

// ---- connections

int listener(sockaddr_in *at)
{
	int fd = OK(socket(AF_INET, SOCK_STREAM, 0));
	socklen_t len = sizeof *at;

	*at = {};
	at->sin_family = AF_INET;
	at->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	OK(bind(fd, (sockaddr *)at, sizeof *at));
	OK(listen(fd, 128));
	OK(getsockname(fd, (sockaddr *)at, &len));
	return fd;
}

TEST_P(EveryWay, ConnectionsMeet)
{
	weft_seed();
	on_runtime(GetParam(), [] {
		enum { N = 100, ACCEPTORS = 5 };
		sockaddr_in at;
		int server = listener(&at);
		Fibers fibers;

		for (int i = 0; i < ACCEPTORS; i++)
			fibers.start([&] {
				for (int k = 0; k < N / ACCEPTORS; k++) {
					sockaddr_in from = {};
					socklen_t len = sizeof from;
					char c;
					long fd = weft_io_accept(
						server, &from, &len, SOCK_CLOEXEC);

					ASSERT_GE(fd, 0);
					EXPECT_EQ(len, sizeof from);
					EXPECT_EQ(fcntl((int)fd, F_GETFD), FD_CLOEXEC);
					EXPECT_EQ(
						fcntl((int)fd, F_GETFL) & O_NONBLOCK, 0);
					ASSERT_EQ(do_recv((int)fd, &c, 1), 1);
					ASSERT_EQ(do_send((int)fd, &c, 1), 1);
					close((int)fd);
				}
			});
		for (int i = 0; i < N; i++)
			fibers.start([&, i] {
				int fd = OK(socket(AF_INET, SOCK_STREAM, 0));
				char c = (char)i, got = 0;

				ASSERT_EQ(weft_io_connect(fd, &at, sizeof at), 0);
				ASSERT_EQ(do_send(fd, &c, 1), 1);
				ASSERT_EQ(do_recv(fd, &got, 1), 1);
				EXPECT_EQ(got, c);
				EXPECT_EQ(do_recv(fd, &got, 1), 0);
				close(fd);
			});
		fibers.join();
		close(server);
	});
}

// Somebody is always ready: who accepts is not behind it for each connection, and does
// not keep it from running while there are more.
TEST(Connect, ManyThatWaitAreAcceptedInARow)
{
	on_runtime({1, false, false, false, false, WEFT_ENGINE_IO_URING}, [] {
		enum { N = 64 };
		sockaddr_in at;
		int server = listener(&at), gave_way = 0, turns = 0;
		bool stop = false;
		Fibers fibers;

		for (int i = 0; i < N; i++) {
			int fd = OK(socket(AF_INET, SOCK_STREAM, 0));

			OK(connect(fd, (sockaddr *)&at, sizeof at));
		}
		fibers.start([&] {
			for (; !stop; turns++)
				weft_yield();
		});
		weft_yield();
		for (int i = 0; i < N; i++) {
			int before = turns;

			ASSERT_GE(weft_io_accept(server, nullptr, nullptr, 0), 0);
			gave_way += turns != before;
		}
		stop = true;
		fibers.join();
		EXPECT_GE(gave_way, 2);
		EXPECT_LE(gave_way, N / 8);
	});
}

TEST(Connect, ErrorsAreTheKernels)
{
	on_runtime({1}, [] {
		sockaddr_in at;
		int server = listener(&at), fd = OK(socket(AF_INET, SOCK_STREAM, 0));

		close(server);
		EXPECT_EQ(weft_io_connect(fd, &at, sizeof at), -ECONNREFUSED);
		EXPECT_EQ(weft_io_connect(-1, &at, sizeof at), -EBADF);
		EXPECT_EQ(weft_io_connect(0, &at, sizeof at), -ENOTSOCK);
		EXPECT_EQ(weft_io_accept(fd, nullptr, nullptr, 0), -EINVAL)
			<< "does not listen";
		EXPECT_EQ(weft_io_accept(-1, nullptr, nullptr, 0), -EBADF);
		close(fd);
		server = listener(&at);
		set_nonblocking(server);
		EXPECT_EQ(weft_io_accept(server, nullptr, nullptr, 0), -EAGAIN);
		fd = OK(socket(AF_INET, SOCK_STREAM, 0));
		OK(weft_io_connect(fd, &at, sizeof at));
		EXPECT_EQ(weft_io_connect(fd, &at, sizeof at), -EISCONN);
		close(fd);
		close(server);
	});
}

TEST(Connect, TimeoutsEndAcceptAndConnect)
{
	on_runtime({1}, [] {
		sockaddr_un un = {};
		int server = OK(socket(AF_UNIX, SOCK_STREAM, 0)), fd[3];
		long r = 0;

		un.sun_family = AF_UNIX;
		snprintf(un.sun_path + 1, sizeof un.sun_path - 1, "weft-%d", getpid());
		OK(bind(server, (sockaddr *)&un, sizeof un));
		OK(listen(server, 0));
		for (int &one : fd) { // the queue holds one
			one = OK(socket(AF_UNIX, SOCK_STREAM, 0));
			set_timeout(one, SO_SNDTIMEO, 20);
			r = weft_io_connect(one, &un, sizeof un);
		}
		EXPECT_EQ(r, -EAGAIN);
		close(server);

		sockaddr_in at;
		server = listener(&at);
		set_timeout(server, SO_RCVTIMEO, 20);
		EXPECT_EQ(weft_io_accept(server, nullptr, nullptr, 0), -EAGAIN);
		/* What was cancelled has taken nobody's connection. */
		int client = OK(socket(AF_INET, SOCK_STREAM, 0));
		EXPECT_EQ(weft_io_connect(client, &at, sizeof at), 0);
		EXPECT_GE(weft_io_accept(server, nullptr, nullptr, 0), 0);
	});
}

// ---- poll, select, epoll

TEST_P(EveryWay, PollTellsWhatIsReady)
{
	weft_seed();
	on_runtime(GetParam(), [] {
		for (size_t n : {1, 2, 20, 64, 65, 100}) {
			std::vector<std::unique_ptr<Pair>> pairs;
			std::vector<pollfd> fds;
			Fibers fibers;

			for (size_t i = 0; i < n; i++) {
				pairs.push_back(std::make_unique<Pair>());
				fds.push_back({pairs[i]->in(), POLLIN, 99});
			}
			EXPECT_EQ(
				weft_io_poll(fds.data(), (unsigned)n, 0, WEFT_TRIED_NOT),
				0);
			EXPECT_EQ(fds[0].revents, 0);
			uint64_t deadline = in_ms(3);
			EXPECT_EQ(weft_io_poll(fds.data(), (unsigned)n, deadline,
					  WEFT_TRIED_NOT),
				0);
			EXPECT_GE(weft_now_ns(), deadline);
			fibers.start([&] {
				weft_yield();
				do_send(pairs[n - 1]->out(), "x", 1);
			});
			EXPECT_EQ(weft_io_poll(fds.data(), (unsigned)n, WEFT_NO_DEADLINE,
					  WEFT_TRIED_NOT),
				1);
			for (size_t i = 0; i < n; i++)
				EXPECT_EQ(fds[i].revents, i == n - 1 ? POLLIN : 0) << i;
		}
	});
}

TEST(Poll, ErrorsHangupsAndIgnoredOnes)
{
	on_runtime({1}, [] {
		Pair p, q;
		pollfd fds[4] = {{-1, POLLIN, 7}, {999, POLLIN, 7}, {p.in(), 0, 7},
			{q.in(), POLLIN, 7}};

		EXPECT_EQ(weft_io_poll(fds, 4, WEFT_NO_DEADLINE, WEFT_TRIED_NOT), 1);
		EXPECT_EQ(fds[0].revents, 0);
		EXPECT_EQ(fds[1].revents, POLLNVAL);
		Fibers fibers;
		struct fiber *f = fibers.start([&] {
			pollfd one = {p.in(), 0, 0};
			EXPECT_EQ(weft_io_poll(&one, 1, WEFT_NO_DEADLINE, WEFT_TRIED_NOT),
				1);
			EXPECT_EQ(one.revents, POLLHUP);
		});
		until([&] { return is_parked(f, WEFT_REASON_POLL); });
		do_send(p.out(), "x", 1); // nobody asked for that
		for (int i = 0; i < 100; i++)
			weft_yield();
		EXPECT_TRUE(is_parked(f, WEFT_REASON_POLL));
		p.shut(1);
		fibers.join();
		pollfd none = {-1, POLLIN, 7};
		EXPECT_EQ(weft_io_poll(&none, 1, in_ms(2), WEFT_TRIED_NOT), 0);
		EXPECT_EQ(weft_io_poll(nullptr, 0, in_ms(2), WEFT_TRIED_NOT), 0);
		EXPECT_EQ(weft_io_poll((pollfd *)8, 1, 0, WEFT_TRIED_NOT), -EFAULT);
	});
}

TEST(Poll, WaitsInAllKindsOfFiles)
{
	on_runtime({1}, [] {
		int master, slave, event = OK(eventfd(0, 0));
		Pair pipe(Pair::PIPE), tcp(Pair::TCP);

		raw_pty(&master, &slave);
		struct {
			int in, out;
			const char *data;
			size_t n;
		} files[] = {{pipe.in(), pipe.out(), "x", 1},
			{tcp.in(), tcp.out(), "x", 1}, {slave, master, "x", 1},
			{event, event, "12345678", 8}};
		for (auto &file : files) {
			Fibers fibers;
			struct fiber *f = fibers.start([&] {
				pollfd p = {file.in, POLLIN, 0};
				EXPECT_EQ(weft_io_poll(&p, 1, WEFT_NO_DEADLINE,
						  WEFT_TRIED_NOT),
					1);
				EXPECT_EQ(p.revents, POLLIN);
			});

			until([&] { return is_parked(f, WEFT_REASON_POLL); });
			EXPECT_EQ(do_write(file.out, file.data, file.n), (long)file.n);
		}
	});
}

TEST(Poll, AfterAnEagainItStillFindsWhatIsThere)
{
	on_runtime({1}, [] {
		Pair p;
		char c;
		pollfd fd = {p.in(), POLLIN, 0};

		set_nonblocking(p.in());
		EXPECT_EQ(do_recv(p.in(), &c, 1), -EAGAIN);
		do_send(p.out(), "x", 1);
		/* Skips its look, because of the EAGAIN: the ring must find it. */
		EXPECT_EQ(weft_io_poll(&fd, 1, WEFT_NO_DEADLINE, WEFT_TRIED_NOT), 1);
		EXPECT_EQ(fd.revents, POLLIN);
		EXPECT_EQ(do_recv(p.in(), &c, 1), 1);
		EXPECT_EQ(do_recv(p.in(), &c, 1), -EAGAIN);
		EXPECT_EQ(weft_io_poll(&fd, 1, in_ms(2), WEFT_TRIED_NOT), 0);
		EXPECT_EQ(fd.revents, 0);
	});
}

TEST_P(EveryWay, SelectTellsWhatIsReady)
{
	weft_seed();
	on_runtime(GetParam(), [] {
		Pair a, b;
		fd_set in, out;
		Fibers fibers;
		int n = std::max(a.in(), b.in()) + 1;

		FD_ZERO(&in);
		FD_SET(a.in(), &in);
		FD_SET(b.in(), &in);
		EXPECT_EQ(weft_io_select(n, &in, nullptr, nullptr, in_ms(2)), 0);
		EXPECT_FALSE(FD_ISSET(a.in(), &in) || FD_ISSET(b.in(), &in)) << "cleared";
		FD_SET(a.in(), &in);
		FD_SET(b.in(), &in);
		fibers.start([&] {
			weft_yield();
			do_send(b.out(), "x", 1);
		});
		EXPECT_EQ(weft_io_select(n, &in, nullptr, nullptr, WEFT_NO_DEADLINE), 1);
		EXPECT_FALSE(FD_ISSET(a.in(), &in));
		EXPECT_TRUE(FD_ISSET(b.in(), &in));
		FD_ZERO(&out);
		FD_SET(a.in(), &out);
		EXPECT_EQ(weft_io_select(n, &in, &out, nullptr, WEFT_NO_DEADLINE), 2);
		EXPECT_EQ(weft_io_select(0, nullptr, nullptr, nullptr, in_ms(2)), 0);
		FD_ZERO(&in);
		FD_SET(900, &in);
		EXPECT_EQ(weft_io_select(901, &in, nullptr, nullptr, WEFT_NO_DEADLINE),
			-EBADF);
		EXPECT_EQ(weft_io_select(-1, nullptr, nullptr, nullptr, 0), -EINVAL);
	});
}

TEST_P(EveryWay, EpollWaitsForItsEvents)
{
	weft_seed();
	on_runtime(GetParam(), [] {
		Pair a, b;
		int ep = OK(epoll_create1(0));
		epoll_event ev = {}, got[4];
		Fibers fibers;

		ev.events = EPOLLIN | EPOLLET;
		ev.data.u32 = 1;
		OK(epoll_ctl(ep, EPOLL_CTL_ADD, a.in(), &ev));
		ev.data.u32 = 2;
		OK(epoll_ctl(ep, EPOLL_CTL_ADD, b.in(), &ev));
		EXPECT_EQ(weft_io_epoll_wait(ep, got, 4, 0), 0);
		EXPECT_EQ(weft_io_epoll_wait(ep, got, 4, in_ms(2)), 0);
		for (int i = 0; i < 20; i++) {
			fibers.start([&] {
				weft_yield();
				do_send(b.out(), "x", 1);
			});
			EXPECT_EQ(weft_io_epoll_wait(ep, got, 4, WEFT_NO_DEADLINE), 1);
			EXPECT_EQ(got[0].data.u32, 2u);
			fibers.join();
		}
		EXPECT_EQ(weft_io_epoll_wait(ep, got, 4, in_ms(2)), 0)
			<< "edges are told once";
		EXPECT_EQ(weft_io_epoll_wait(ep, got, 0, 0), -EINVAL);
		EXPECT_EQ(weft_io_epoll_wait(-1, got, 4, 0), -EBADF);
		EXPECT_EQ(weft_io_epoll_wait(a.in(), got, 4, WEFT_NO_DEADLINE), -EINVAL);
		close(ep);
	});
}

// ---- signals and deadlines

TEST(Interrupt, EndsEveryKindOfWaitAndLosesNothing)
{
	for (const Config &config : {Config{1}, Config{3}})
		on_runtime(config, [] {
			Pair p, full, q;
			sockaddr_in at;
			int server = listener(&at), ep = OK(epoll_create1(0));
			struct {
				enum weft_park_reason reason;
				std::function<long()> call;
			} calls[] = {
				{WEFT_REASON_READ,
					[&] {
						char c;
						return do_recv(p.in(), &c, 1);
					}},
				{WEFT_REASON_READ,
					[&] {
						char c;
						return weft_io_recv(p.in(), &c, 1, 0,
							nullptr, nullptr,
							WEFT_TRIED_LIKELY);
					}},
				{WEFT_REASON_WRITE,
					[&] { return do_send(full.out(), "x", 1); }},
				{WEFT_REASON_ACCEPT,
					[&] {
						return weft_io_accept(
							server, nullptr, nullptr, 0);
					}},
				{WEFT_REASON_POLL,
					[&] {
						pollfd f = {p.in(), POLLIN, 0};
						return weft_io_poll(&f, 1,
							WEFT_NO_DEADLINE, WEFT_TRIED_NOT);
					}},
				{WEFT_REASON_POLL,
					[&] {
						pollfd f[2] = {{p.in(), POLLIN, 0},
							{q.in(), POLLIN, 0}};
						return weft_io_poll(f, 2, in_ms(3600000),
							WEFT_TRIED_NOT);
					}},
				{WEFT_REASON_SELECT,
					[&] {
						fd_set in;
						FD_ZERO(&in);
						FD_SET(p.in(), &in);
						long r = weft_io_select(p.in() + 1, &in,
							nullptr, nullptr,
							WEFT_NO_DEADLINE);
						EXPECT_TRUE(FD_ISSET(p.in(), &in))
							<< "unchanged";
						return r;
					}},
				{WEFT_REASON_EPOLL,
					[&] {
						epoll_event ev;
						return weft_io_epoll_wait(
							ep, &ev, 1, WEFT_NO_DEADLINE);
					}},
				{WEFT_REASON_SLEEP,
					[&] {
						return weft_io_poll(nullptr, 0,
							WEFT_NO_DEADLINE, WEFT_TRIED_NOT);
					}},
			};
			int size = 4096;

			catch_usr1();
			OK(setsockopt(
				full.out(), SOL_SOCKET, SO_SNDBUF, &size, sizeof size));
			set_nonblocking(full.out());
			while (write(full.out(), "xxxxxxxxxxxxxxxx", 16) > 0)
				;
			OK(fcntl(full.out(), F_SETFL, O_RDWR));
			for (auto &one : calls) {
				Fibers fibers;
				struct fiber *f = fibers.start([&] {
					allow_signals();
					long r = one.call();
					EXPECT_TRUE(
						r == -EINTR || r == WEFT_RESTART_NEVER)
						<< r;
					weft_signals_deliver(nullptr);
				});

				interrupt_when_parked(f, one.reason);
				fibers.join();
			}
			/* Nothing of theirs is left in a ring to eat this. */
			char c = 0;
			do_send(p.out(), "!", 1);
			for (int i = 0; i < 50; i++)
				weft_yield();
			EXPECT_EQ(do_recv(p.in(), &c, 1), 1);
			EXPECT_EQ(c, '!');
		});
}

TEST(Interrupt, AfterTheFirstByteTheAmountIsTold)
{
	on_runtime({1}, [] {
		Pair p, full;
		Fibers fibers;
		Bytes big = pattern(8 << 20);

		catch_usr1();
		struct fiber *f = fibers.start([&] {
			char buf[10];
			allow_signals();
			EXPECT_EQ(do_recv(p.in(), buf, 10, MSG_WAITALL), 4);
			weft_signals_deliver(nullptr);
			long n = do_send(full.out(), big.data(), big.size());
			EXPECT_GT(n, 0);
			EXPECT_LT(n, (long)big.size());
			weft_signals_deliver(nullptr);
		});
		do_send(p.out(), "abcd", 4);
		int left = 1;
		until([&] {
			ioctl(p.in(), FIONREAD, &left);
			return !left;
		});
		interrupt_when_parked(f, WEFT_REASON_READ);
		interrupt_when_parked(f, WEFT_REASON_WRITE);
	});
}

// Data, a deadline and a signal race for one receive after the other: no byte is lost,
// none is doubled.
void receives_race(const Config &config)
{
	weft_seed();
	on_runtime(config, [] {
		enum { PAIRS = 8 };
		const int n = rounds(1000);
		std::vector<std::unique_ptr<Pair>> pairs;
		std::atomic<int> running{PAIRS}, timed_out{0}, interrupted{0};
		std::vector<int> tids(PAIRS);
		Fibers fibers;

		catch_usr1();
		for (int i = 0; i < PAIRS; i++) {
			pairs.push_back(
				std::make_unique<Pair>(i % 2 ? Pair::TCP : Pair::UNIX));
			timeval tv = {0, 1000};
			OK(setsockopt(pairs.back()->in(), SOL_SOCKET, SO_RCVTIMEO, &tv,
				sizeof tv));
		}
		weft_io_expect_timeouts();
		for (int i = 0; i < PAIRS; i++) {
			struct fiber *f = fibers.start([&, i] {
				allow_signals();
				for (int k = 0; k < n;) {
					char c = 0;
					long r = do_recv(pairs[(size_t)i]->in(), &c, 1);

					if (r == -EAGAIN) {
						timed_out++;
					} else if (r == -EINTR ||
						   r == WEFT_RESTART_NEVER) {
						interrupted++;
						weft_signals_deliver(nullptr);
					} else {
						ASSERT_EQ(r, 1);
						ASSERT_EQ(c, (char)k);
						k++;
					}
				}
				running--;
			});
			tids[(size_t)i] = weft_fiber_tid(f);
			fibers.start([&, i] {
				Random random(i);

				for (int k = 0; k < n; k++) {
					char c = (char)k;
					if (random.one_in(20))
						weft_sleep_until(
							weft_now_ns() +
							random.below(6000) * 1000);
					/* Silence until it has happened. */
					while (k == n / 2 && (!timed_out || !interrupted))
						weft_sleep_until(in_ms(1));
					ASSERT_EQ(do_send(pairs[(size_t)i]->out(), &c, 1),
						1);
				}
			});
		}
		fibers.start([&] {
			Random random(77);

			while (running) {
				/* Long enough for a time-out, which the kernel rounds up.
				 */
				if (random.one_in(50))
					weft_sleep_until(in_ms(12));
				weft_sig_send_thread(
					tids[random.below(PAIRS)], SIGUSR1, nullptr);
				weft_sleep_until(
					weft_now_ns() + random.below(100) * 1000);
			}
		});
		fibers.join();
		EXPECT_GT(timed_out, 0);
		EXPECT_GT(interrupted, 0);
	});
}

TEST(Race, DataDeadlinesAndSignalsOnOneCarrier)
{
	receives_race({1});
}

TEST(Race, DataDeadlinesAndSignalsOnThreeCarriers)
{
	receives_race({3});
}

TEST(Race, DataDeadlinesAndSignalsWithEverythingShaken)
{
	receives_race({4, true, true, true});
}

// More cancellations at once than the submission queue holds, more completions than the
// completion queue does.
TEST(Ring, TenThousandPollsTimeOutAtOnce)
{
	on_runtime({1}, [] {
		const int n = rounds(10000);
		Fibers fibers(Fibers::Shared, 16 << 10);
		Pair p;
		uint64_t deadline = in_ms(300);
		std::vector<long> results;

		for (int i = 0; i < n; i++)
			fibers.start([&] {
				pollfd f = {p.in(), POLLIN, 0};
				results.push_back(
					weft_io_poll(&f, 1, deadline, WEFT_TRIED_NOT));
			});
		fibers.join();
		ASSERT_EQ(results.size(), (size_t)n);
		for (long r : results)
			ASSERT_EQ(r, 0);
	});
}

TEST(Ring, TenThousandReadersAreWokenAtOnce)
{
	on_runtime({1}, [] {
		const int n = rounds(10000);
		Fibers fibers(Fibers::Shared, 16 << 10);
		Pair p;
		int ready = 0, parked = 0;

		for (int i = 0; i < n; i++)
			fibers.start([&] {
				pollfd f = {p.in(), POLLIN, 0};
				parked++;
				long r = weft_io_poll(
					&f, 1, WEFT_NO_DEADLINE, WEFT_TRIED_NOT);
				ASSERT_EQ(r, 1);
				ready++;
			});
		until([&] { return parked == n; });
		do_send(p.out(), "x", 1);
		fibers.join();
		EXPECT_EQ(ready, n);
	});
}

// An enter that did not happen is made up for by the next.
TEST(Ring, NoLostEnterChangesAnything)
{
	for (unsigned nth = 1; nth <= 40; nth++)
		on_runtime({nth % 2 + 1}, [nth] {
			Pair p(Pair::TCP);
			Fibers fibers;

			weft_fault_arm(WEFT_FAULT_IO_URING_ENTER, nth);
			fibers.start([&] {
				for (int i = 0; i < 20; i++) {
					char c = 0;
					ASSERT_EQ(do_recv(p.in(), &c, 1), 1);
					ASSERT_EQ(c, (char)i);
				}
			});
			fibers.start([&] {
				for (int i = 0; i < 20; i++) {
					char c = (char)i;
					weft_sleep_until(weft_now_ns() + 100000);
					ASSERT_EQ(do_send(p.out(), &c, 1), 1);
				}
			});
			fibers.join();
		});
}

// ---- descriptors that go away

// As the doors do: tell first, then close.
void close_as_the_program_does(int fd)
{
	weft_io_closing((unsigned)fd, (unsigned)fd);
	OK(close(fd));
	weft_io_closed((unsigned)fd, (unsigned)fd);
}

// Whoever closes found nobody who waits, and somebody began to just before the call. The
// epoll set holds no file: there is nothing any more that would wake that one up.
void close_too_late_to_tell(bool replaced, unsigned beside = 0)
{
	Config config = {1};

	config.engine = WEFT_ENGINE_EPOLL;
	on_runtime(config, [replaced, beside] {
		Pair p, next;
		Fibers fibers;
		char c = 0;
		long r = 0;
		struct fiber *f = fibers.start([&] { r = do_recv(p.in(), &c, 1); });
		const int fd = p.in();

		until([&] { return is_parked(f, WEFT_REASON_READ); });
		if (replaced)
			OK(dup2(next.in(), fd));
		else
			OK(close(fd));
		weft_io_closed((unsigned)fd - std::min((unsigned)fd, beside),
			(unsigned)fd + beside);
		if (replaced)
			do_send(next.out(), "n", 1);
		fibers.join();
		EXPECT_EQ(r, replaced ? 1 : -EBADF);
		EXPECT_EQ(c, replaced ? 'n' : 0);
		if (!replaced)
			p.fd[0] = -1;
	});
}

TEST(Closing, WhoBeganToWaitMeanwhileHearsOfIt)
{
	close_too_late_to_tell(false);
}

TEST(Closing, WhoBeganToWaitForOneOfManyHearsOfIt)
{
	close_too_late_to_tell(false, 1);
	close_too_late_to_tell(false, 1000);
}

TEST(Closing, WhoBeganToWaitMeanwhileWaitsForTheNextFile)
{
	close_too_late_to_tell(true);
}

TEST(Closing, AWaitingReadStaysWithItsFile)
{
	on_runtime({1}, [] {
		Pair p;
		Fibers fibers;
		char c = 0;
		struct fiber *f =
			fibers.start([&] { EXPECT_EQ(do_recv(p.in(), &c, 1), 1); });

		until([&] { return is_parked(f, WEFT_REASON_READ); });
		weft_sleep_until(in_ms(2)); // its request is in the kernel
		close_as_the_program_does(p.in());
		p.fd[0] = -1;
		do_send(p.out(), "x", 1);
		fibers.join();
		EXPECT_EQ(c, 'x');
	});
}

// The wait has begun for the program, but its request is not in the kernel yet.
TEST(Closing, AReadThatJustBeganToWaitStaysWithItsFileToo)
{
	on_runtime({1}, [] {
		Pair p, other;
		Fibers fibers;
		char c = 0;
		int number = p.in();

		fibers.start([&] { EXPECT_EQ(do_recv(number, &c, 1), 1); });
		/* Runs next, before the carrier looks at its ring. */
		fibers.start([&] {
			ASSERT_EQ(weft_fiber_by_tid(getpid()), weft_fiber_main());
			close_as_the_program_does(number);
			OK(dup2(other.in(), number)); // and it means another file
			do_send(p.out(), "x", 1);
		});
		fibers.join();
		EXPECT_EQ(c, 'x');
	});
}

TEST(Closing, NothingKeepsAFileOnceTheCallHasReturned)
{
	on_runtime({1}, [] {
		Pair p(Pair::TCP);
		char c;

		/* Time-outs leave cancelled requests behind: they must be gone. */
		set_timeout(p.in(), SO_RCVTIMEO, 1);
		for (int i = 0; i < 10; i++)
			EXPECT_EQ(do_recv(p.in(), &c, 1), -EAGAIN);
		p.shut(0);
		EXPECT_EQ(do_recv(p.out(), &c, 1), 0) << "the peer sees the FIN";
	});
}

} // namespace
