// Sockets: send and recv in all forms, accept, connect, their flags and errors.
#include "on_threads.h"

#include <sys/uio.h>
#include <sys/un.h>

static const int many = 24;

TEST(Recv, WaitsAndReturnsWhatCame)
{
	on_threads(many, [](int) {
		Pair pair(Pair::TCP);
		Thread sender([&] {
			usleep(1000);
			send_all(pair.out(), "hello", 5);
		});
		char buf[16];
		EXPECT_EQ(recv(pair.in(), buf, sizeof buf, 0), 5);
	});
}

TEST(Recv, WaitallGathersEverything)
{
	on_threads(8, [](int) {
		Pair pair(Pair::TCP);
		Thread sender([&] {
			for (int i = 0; i < 10; i++) {
				usleep(300);
				send_all(pair.out(), "0123456789", 10);
			}
		});
		char buf[100];
		EXPECT_EQ(recv(pair.in(), buf, 100, MSG_WAITALL), 100);
		EXPECT_EQ(memcmp(buf + 90, "0123456789", 10), 0);
	});
}

TEST(Recv, WaitallIsShortAtTheEnd)
{
	on_one_thread([] {
		Pair pair(Pair::TCP);
		Thread sender([&] {
			send_all(pair.out(), "abc", 3);
			usleep(2000);
			OK(shutdown(pair.out(), SHUT_WR));
		});
		char buf[100];
		EXPECT_EQ(recv(pair.in(), buf, 100, MSG_WAITALL), 3);
	});
}

TEST(Recv, PeekLeavesTheData)
{
	on_one_thread([] {
		Pair pair(Pair::TCP);
		Thread sender([&] {
			usleep(2000);
			send_all(pair.out(), "abc", 3);
		});
		char buf[4] = "";
		EXPECT_EQ(recv(pair.in(), buf, 2, MSG_PEEK), 2);
		EXPECT_EQ(recv(pair.in(), buf, 3, MSG_WAITALL), 3);
		EXPECT_STREQ(buf, "abc");
	});
}

TEST(Recv, DontwaitGivesEagain)
{
	on_one_thread([] {
		Pair pair(Pair::TCP);
		char c;
		EXPECT_EQ(error_of([&] { return recv(pair.in(), &c, 1, MSG_DONTWAIT); }),
			EAGAIN);
	});
}

TEST(Recv, ResetIsTold)
{
	on_one_thread([] {
		Pair pair(Pair::TCP);
		struct linger linger = {1, 0};
		OK(setsockopt(pair.out(), SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
		Thread closer([&] {
			usleep(2000);
			pair.shut(1);
		});
		char c;
		EXPECT_EQ(
			error_of([&] { return recv(pair.in(), &c, 1, 0); }), ECONNRESET);
		EXPECT_EQ(recv(pair.in(), &c, 1, 0), 0) << "the error is told once";
	});
}

TEST(Recv, TellsBadArguments)
{
	on_one_thread([] {
		Pair pipe(Pair::PIPE), pair;
		char c;
		EXPECT_EQ(error_of([&] { return recv(-1, &c, 1, 0); }), EBADF);
		EXPECT_EQ(error_of([&] { return recv(pipe.in(), &c, 1, 0); }), ENOTSOCK);
		EXPECT_EQ(error_of([&] { return send(pipe.out(), &c, 1, 0); }), ENOTSOCK);
		int fresh = OK(socket(AF_INET, SOCK_STREAM, 0));
		EXPECT_EQ(error_of([&] { return recv(fresh, &c, 1, 0); }), ENOTCONN);
		EXPECT_EQ(error_of([&] { return send(fresh, &c, 1, MSG_NOSIGNAL); }),
			EPIPE);
		OK(close(fresh));
	});
}

TEST(Recvfrom, FillsTheAddress)
{
	on_threads(8, [](int) {
		struct sockaddr_in addr = {}, own = {}, from = {};
		socklen_t len = sizeof addr;
		int a = OK(socket(AF_INET, SOCK_DGRAM, 0)),
		    b = OK(socket(AF_INET, SOCK_DGRAM, 0));
		addr.sin_family = AF_INET;
		addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		OK(bind(a, (struct sockaddr *)&addr, sizeof addr));
		OK(bind(b, (struct sockaddr *)&addr, sizeof addr));
		OK(getsockname(a, (struct sockaddr *)&addr, &len));
		OK(getsockname(b, (struct sockaddr *)&own, &len));
		Thread sender([&] {
			usleep(1000);
			EXPECT_EQ(sendto(b, "datagram", 8, 0, (struct sockaddr *)&addr,
					  sizeof addr),
				8);
		});
		char buf[32];
		len = sizeof from;
		EXPECT_EQ(recvfrom(a, buf, sizeof buf, 0, (struct sockaddr *)&from, &len),
			8);
		EXPECT_EQ(len, sizeof from);
		EXPECT_EQ(from.sin_port, own.sin_port);
		/* cut to the room, with the true length told */
		EXPECT_EQ(sendto(b, "datagram", 8, 0, (struct sockaddr *)&addr,
				  sizeof addr),
			8);
		len = 4;
		EXPECT_EQ(recvfrom(a, buf, 3, MSG_TRUNC, (struct sockaddr *)&from, &len),
			8);
		EXPECT_EQ(len, sizeof from);
		sender.join();
		OK(close(a));
		OK(close(b));
	});
}

TEST(Recvmsg, PassesDescriptors)
{
	on_one_thread([] {
		Pair pair, passed(Pair::PIPE);
		char control[CMSG_SPACE(sizeof(int))] = {}, data = 'd';
		struct iovec iov = {&data, 1};
		struct msghdr msg = {};
		msg.msg_iov = &iov;
		msg.msg_iovlen = 1;
		msg.msg_control = control;
		msg.msg_controllen = sizeof control;
		Thread sender([&] {
			char ctl[CMSG_SPACE(sizeof(int))] = {}, x = 'x';
			struct iovec out = {&x, 1};
			struct msghdr m = {};
			m.msg_iov = &out;
			m.msg_iovlen = 1;
			m.msg_control = ctl;
			m.msg_controllen = sizeof ctl;
			struct cmsghdr *c = CMSG_FIRSTHDR(&m);
			c->cmsg_level = SOL_SOCKET;
			c->cmsg_type = SCM_RIGHTS;
			c->cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(c), &passed.fd[1], sizeof(int));
			usleep(2000);
			EXPECT_EQ(sendmsg(pair.out(), &m, 0), 1);
		});
		EXPECT_EQ(recvmsg(pair.in(), &msg, MSG_CMSG_CLOEXEC), 1);
		EXPECT_EQ(data, 'x');
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		ASSERT_NE(c, nullptr);
		int fd;
		memcpy(&fd, CMSG_DATA(c), sizeof fd);
		EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
		EXPECT_EQ(write(fd, "p", 1), 1);
		EXPECT_EQ(read(passed.in(), &data, 1), 1);
		EXPECT_EQ(data, 'p');
		OK(close(fd));
	});
}

TEST(Recvmmsg, TakesSeveralAtOnce)
{
	on_one_thread([] {
		int fds[2];
		OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds));
		struct mmsghdr out[3] = {}, in[5] = {};
		struct iovec oiov[3] = {
			{(void *)"a", 1}, {(void *)"bb", 2}, {(void *)"ccc", 3}};
		char bufs[5][8];
		struct iovec iiov[5];
		for (int i = 0; i < 3; i++) {
			out[i].msg_hdr.msg_iov = &oiov[i];
			out[i].msg_hdr.msg_iovlen = 1;
		}
		for (int i = 0; i < 5; i++) {
			iiov[i] = {bufs[i], 8};
			in[i].msg_hdr.msg_iov = &iiov[i];
			in[i].msg_hdr.msg_iovlen = 1;
		}
		Thread sender([&] {
			usleep(2000);
			EXPECT_EQ(sendmmsg(fds[1], out, 3, 0), 3);
		});
		EXPECT_EQ(recvmmsg(fds[0], in, 3, 0, nullptr), 3);
		EXPECT_EQ(in[2].msg_len, 3u);
		sender.join();
		EXPECT_EQ(sendmmsg(fds[1], out, 2, 0), 2);
		EXPECT_EQ(recvmmsg(fds[0], in, 5, MSG_WAITFORONE, nullptr), 2);
		OK(close(fds[0]));
		OK(close(fds[1]));
	});
}

TEST(Send, BlockingOneIsWhole)
{
	on_threads(4, [](int i) {
		Pair pair(i % 2 ? Pair::TCP : Pair::UNIX);
		std::vector<char> data(6 << 20);
		Thread reader([&] {
			std::vector<char> buf(100000);
			size_t got = 0;
			while (got < data.size()) {
				got += (size_t)OK(
					recv(pair.in(), buf.data(), buf.size(), 0));
				usleep(30);
			}
		});
		EXPECT_EQ(send(pair.out(), data.data(), data.size(), 0),
			(ssize_t)data.size());
	});
}

TEST(Send, DontwaitIsPartialThenEagain)
{
	on_one_thread([] {
		Pair pair;
		std::vector<char> data(4 << 20);
		ssize_t n = send(pair.out(), data.data(), data.size(), MSG_DONTWAIT);
		EXPECT_GT(n, 0);
		EXPECT_LT(n, (ssize_t)data.size());
		while (n > 0)
			n = send(pair.out(), data.data(), data.size(), MSG_DONTWAIT);
		EXPECT_EQ(errno, EAGAIN);
	});
}

TEST(Accept, GivesEachConnectionToOne)
{
	struct sockaddr_in addr;
	int l = tcp_listen(many, &addr);
	{
		Thread clients([&] {
			std::vector<int> fds;
			for (int i = 0; i < many; i++)
				fds.push_back(tcp_connect(&addr));
			char c;
			for (int fd : fds) {
				EXPECT_EQ(recv(fd, &c, 1, 0), 1);
				OK(close(fd));
			}
		});
		on_threads(many, [&](int) {
			struct sockaddr_in peer;
			socklen_t len = sizeof peer;
			int fd = accept(l, (struct sockaddr *)&peer, &len);
			ASSERT_GE(fd, 0);
			EXPECT_EQ(len, sizeof peer);
			EXPECT_EQ(peer.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
			send_all(fd, "x", 1);
			OK(close(fd));
		});
	}
	OK(close(l));
}

TEST(Accept, NonblockingSocketGivesEagain)
{
	on_one_thread([] {
		struct sockaddr_in addr;
		int l = tcp_listen(4, &addr);
		OK(fcntl(l, F_SETFL, O_RDWR | O_NONBLOCK));
		EXPECT_EQ(error_of([&] { return accept(l, nullptr, nullptr); }), EAGAIN);
		EXPECT_EQ(error_of([&] {
			return accept4(l, nullptr, nullptr, SOCK_CLOEXEC);
		}),
			EAGAIN);
		OK(close(l));
	});
}

TEST(Accept, ShutdownOfTheListenerEndsIt)
{
	struct sockaddr_in addr;
	int l = tcp_listen(4, &addr);
	{
		Thread acceptor([&] {
			EXPECT_EQ(error_of([&] { return accept(l, nullptr, nullptr); }),
				EINVAL);
		});
		settle();
		OK(shutdown(l, SHUT_RD));
	}
	OK(close(l));
}

TEST(Accept, TellsBadArguments)
{
	on_one_thread([] {
		Pair pipe(Pair::PIPE), pair;
		EXPECT_EQ(error_of([&] { return accept(-1, nullptr, nullptr); }), EBADF);
		EXPECT_EQ(error_of([&] { return accept(pipe.in(), nullptr, nullptr); }),
			ENOTSOCK);
		EXPECT_EQ(error_of([&] { return accept(pair.in(), nullptr, nullptr); }),
			EINVAL);
		EXPECT_EQ(error_of([&] {
			return accept4(pair.in(), nullptr, nullptr, 0x40000000);
		}),
			EINVAL);
	});
}

TEST(Accept4, SetsTheFlags)
{
	on_one_thread([] {
		struct sockaddr_in addr;
		int l = tcp_listen(4, &addr);
		Thread client([&] {
			usleep(2000);
			OK(close(tcp_connect(&addr)));
		});
		int fd = accept4(l, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
		ASSERT_GE(fd, 0);
		EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
		EXPECT_TRUE(fcntl(fd, F_GETFL) & O_NONBLOCK);
		OK(close(fd));
		OK(close(l));
	});
}

TEST(Connect, WaitsForTheConnection)
{
	struct sockaddr_in addr;
	int l = tcp_listen(many, &addr);
	{
		Thread acceptor([&] {
			for (int i = 0; i < many; i++)
				OK(close(OK(accept(l, nullptr, nullptr))));
		});
		on_threads(many, [&](int) {
			int fd = tcp_connect(&addr);
			int error = -1;
			socklen_t len = sizeof error;
			OK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len));
			EXPECT_EQ(error, 0);
			char c;
			EXPECT_EQ(recv(fd, &c, 1, 0), 0);
			EXPECT_EQ(error_of([&] {
				return connect(fd, (struct sockaddr *)&addr, sizeof addr);
			}),
				EISCONN);
			OK(close(fd));
		});
	}
	OK(close(l));
}

TEST(Connect, RefusalIsTold)
{
	on_one_thread([] {
		struct sockaddr_in addr;
		int l = tcp_listen(4, &addr), fd = OK(socket(AF_INET, SOCK_STREAM, 0));
		OK(close(l));
		EXPECT_EQ(error_of([&] {
			return connect(fd, (struct sockaddr *)&addr, sizeof addr);
		}),
			ECONNREFUSED);
		OK(close(fd));
	});
}

TEST(Connect, NonblockingOneIsInProgress)
{
	on_one_thread([] {
		/* 192.0.2.0/24 is documentation's: nobody answers, or the net refuses. A
		 * full UNIX backlog says EAGAIN for certain. */
		struct sockaddr_un addr = {};
		addr.sun_family = AF_UNIX;
		strcpy(addr.sun_path, "listener");
		int l = OK(socket(AF_UNIX, SOCK_STREAM, 0));
		OK(bind(l, (struct sockaddr *)&addr, sizeof addr));
		OK(listen(l, 0));
		int first = OK(socket(AF_UNIX, SOCK_STREAM, 0));
		int second = OK(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
		EXPECT_EQ(connect(first, (struct sockaddr *)&addr, sizeof addr), 0);
		EXPECT_EQ(error_of([&] {
			return connect(second, (struct sockaddr *)&addr, sizeof addr);
		}),
			EAGAIN);
		OK(close(first));
		OK(close(second));
		OK(close(l));
	});
}

TEST(Connect, FullBacklogMakesItWait)
{
	on_one_thread([] {
		struct sockaddr_un addr = {};
		addr.sun_family = AF_UNIX;
		strcpy(addr.sun_path, "listener");
		int l = OK(socket(AF_UNIX, SOCK_STREAM, 0));
		OK(bind(l, (struct sockaddr *)&addr, sizeof addr));
		OK(listen(l, 0));
		{
			Thread acceptor([&] {
				usleep(3000);
				for (int i = 0; i < 6; i++)
					OK(close(OK(accept(l, nullptr, nullptr))));
			});
			on_threads(6, [&](int) {
				int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));
				EXPECT_EQ(connect(fd, (struct sockaddr *)&addr,
						  sizeof addr),
					0);
				OK(close(fd));
			});
		}
		OK(close(l));
	});
}

TEST(Shutdown, EndsABlockedRecv)
{
	Pair pair(Pair::TCP);
	Thread reader([&] {
		char c;
		EXPECT_EQ(recv(pair.in(), &c, 1, 0), 0);
	});
	settle();
	OK(shutdown(pair.in(), SHUT_RDWR));
	reader.join();
}

TEST(SocketTimeout, EndsRecvWithEagainAndNotEarly)
{
	on_threads(8, [](int) {
		Pair pair(Pair::TCP);
		struct timeval tv = {0, 30000};
		OK(setsockopt(pair.in(), SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
		char buf[8];
		uint64_t start = now_ns(CLOCK_MONOTONIC);
		EXPECT_EQ(error_of([&] { return recv(pair.in(), buf, 8, 0); }), EAGAIN);
		EXPECT_GE(MS_SINCE(start), 30u);
		start = now_ns(CLOCK_MONOTONIC);
		EXPECT_EQ(error_of([&] { return read(pair.in(), buf, 8); }), EAGAIN);
		EXPECT_GE(MS_SINCE(start), 30u);
		send_all(pair.out(), "ab", 2);
		EXPECT_EQ(recv(pair.in(), buf, 8, MSG_WAITALL), 2) << "the partial count";
	});
}

TEST(SocketTimeout, EndsSendWithThePartialCount)
{
	on_one_thread([] {
		Pair pair(Pair::TCP);
		struct timeval tv = {0, 30000};
		OK(setsockopt(pair.out(), SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv));
		std::vector<char> data(32 << 20);
		ssize_t n = send(pair.out(), data.data(), data.size(), 0);
		EXPECT_GT(n, 0);
		EXPECT_LT(n, (ssize_t)data.size());
	});
}
