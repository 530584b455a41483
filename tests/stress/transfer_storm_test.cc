// Streams through randomly chosen calls on both sides: every byte in its place.
#include "seeded.h"

#include <sys/uio.h>

static size_t send_some(
	int fd, const unsigned char *data, size_t len, Random &random, bool socket)
{
	struct iovec iov[3];
	struct msghdr msg = {};
	size_t a = random.below(len + 1), b = random.below(len - a + 1);

	iov[0] = {(void *)data, a};
	iov[1] = {(void *)(data + a), b};
	iov[2] = {(void *)(data + a + b), len - a - b};
	msg.msg_iov = iov;
	msg.msg_iovlen = 3;
	ssize_t n;
	switch (random.below(socket ? 5 : 2)) {
	case 0:
		n = write(fd, data, len);
		break;
	case 1:
		n = writev(fd, iov, 3);
		break;
	case 2:
		n = send(fd, data, len, MSG_NOSIGNAL);
		break;
	case 3:
		n = sendmsg(fd, &msg, MSG_NOSIGNAL);
		break;
	default: /* what fits now; the rest by waiting */
		n = send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0) {
			CHECK(errno == EAGAIN);
			struct pollfd p = {fd, POLLOUT, 0};
			CHECK(poll(&p, 1, -1) == 1);
			return 0;
		}
		return (size_t)n;
	}
	CHECK(n == (ssize_t)len); /* a blocking one is whole */
	return len;
}

static size_t receive_some(
	int fd, unsigned char *data, size_t len, Random &random, bool socket)
{
	struct iovec iov[2];
	struct msghdr msg = {};
	size_t a = random.below(len + 1);

	iov[0] = {data, a};
	iov[1] = {data + a, len - a};
	msg.msg_iov = iov;
	msg.msg_iovlen = 2;
	ssize_t n;
	switch (random.below(socket ? 6 : 2)) {
	case 0:
		n = read(fd, data, len);
		break;
	case 1:
		n = readv(fd, iov, 2);
		break;
	case 2:
		n = recv(fd, data, len, 0);
		break;
	case 3:
		n = recvmsg(fd, &msg, 0);
		break;
	case 4: /* look first */
		n = recv(fd, data, len, MSG_PEEK);
		CHECK(n >= 0);
		return n ? receive_some(fd, data, (size_t)n, random, socket) : 0;
	default:
		struct pollfd p = {fd, POLLIN, 0};
		CHECK(poll(&p, 1, random.one_in(2) ? -1 : 60000) == 1);
		n = recv(fd, data, len, MSG_DONTWAIT);
	}
	CHECK(n >= 0);
	return (size_t)n;
}

TEST(TransferStorm, StreamsAreWhole)
{
	const int streams = 24;
	std::vector<std::unique_ptr<Pair>> pairs;
	std::vector<uint64_t> sent(streams), got(streams);
	weft_seed();
	for (int i = 0; i < streams; i++)
		pairs.push_back(std::make_unique<Pair>(all_kinds[i % 3]));
	on_threads(2 * streams, [&](int id) {
		Random random(id);
		int stream = id / 2;
		bool socket = all_kinds[stream % 3] != Pair::PIPE;
		std::vector<unsigned char> buf(40000);
		if (id % 2 == 0) {
			for (int i = 0; i < 120; i++) {
				size_t len =
					1 + random.below(
						    random.one_in(10) ? buf.size() : 700);
				for (size_t k = 0; k < len; k++)
					buf[k] = pattern(
						sent[stream] + k + (uint64_t)stream);
				sent[stream] += send_some(pairs[stream]->out(),
					buf.data(), len, random, socket);
				random_pause(random);
			}
			pairs[stream]->shut(1);
		} else {
			size_t n;
			do {
				n = receive_some(pairs[stream]->in(), buf.data(),
					1 + random.below(buf.size()), random, socket);
				for (size_t k = 0; k < n; k++)
					ASSERT_EQ(buf[k], pattern(got[stream] + k +
								  (uint64_t)stream));
				got[stream] += n;
				random_pause(random);
			} while (n);
		}
	});
	EXPECT_EQ(sent, got);
}

TEST(TransferStorm, ConnectionsComeAndGo)
{
	struct sockaddr_in addr;
	int l = tcp_listen(64, &addr);
	const int clients = 24, each = 15;
	weft_seed();
	{
		Thread acceptor([&] {
			std::vector<std::unique_ptr<Thread>> servers;
			for (int i = 0; i < clients * each; i++) {
				int fd = OK(accept(l, nullptr, nullptr));
				servers.push_back(std::make_unique<Thread>([fd] {
					char buf[512];
					ssize_t n;
					while ((n = recv(fd, buf, sizeof buf, 0)) > 0)
						if (send(fd, buf, (size_t)n,
							    MSG_NOSIGNAL) != n)
							break;
					OK(close(fd));
				}));
			}
		});
		on_threads(clients, [&](int id) {
			Random random(id);
			for (int i = 0; i < each; i++) {
				int fd = tcp_connect(&addr);
				for (size_t k = random.below(4); k > 0; k--) {
					char out[256], in[256];
					size_t len = 1 + random.below(sizeof out);
					memset(out, id + (int)k, len);
					send_all(fd, out, len);
					recv_all(fd, in, len);
					ASSERT_EQ(memcmp(in, out, len), 0);
					random_pause(random);
				}
				if (random.one_in(4)) { /* goes without a word, or with a
							   reset */
					struct linger linger = {1, 0};
					send_all(fd, "bye", 3);
					OK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger,
						sizeof linger));
				}
				OK(close(fd));
			}
		});
	}
	OK(close(l));
}
