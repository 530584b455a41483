// read, write and their vector forms, natively and on fibers.
#include "on_threads.h"

#include <sys/uio.h>

static const int many = 24;

TEST(Read, WaitsForDataOnEveryKind)
{
	for (Pair::Kind kind : all_kinds) {
		std::vector<std::unique_ptr<Pair>> pairs;
		for (int i = 0; i < many; i++)
			pairs.push_back(std::make_unique<Pair>(kind));
		Thread writer([&] {
			for (int i = many - 1; i >= 0; i--) {
				usleep(200);
				char c = (char)('a' + i);
				EXPECT_EQ(write(pairs[i]->out(), &c, 1), 1);
			}
		});
		on_threads(many, [&](int i) {
			char buf[8] = "";
			EXPECT_EQ(read(pairs[i]->in(), buf, sizeof buf), 1);
			EXPECT_EQ(buf[0], 'a' + i);
		});
	}
}

TEST(Read, ReturnsWhatIsThereAndNotMore)
{
	on_one_thread([] {
		Pair pair;
		char buf[16];
		ASSERT_EQ(write(pair.out(), "abcde", 5), 5);
		EXPECT_EQ(read(pair.in(), buf, 3), 3);
		EXPECT_EQ(memcmp(buf, "abc", 3), 0);
		EXPECT_EQ(read(pair.in(), buf, sizeof buf), 2);
		EXPECT_EQ(memcmp(buf, "de", 2), 0);
	});
}

TEST(Read, SeesTheEndOfStream)
{
	for (Pair::Kind kind : all_kinds)
		on_one_thread([kind] {
			Pair pair(kind);
			Thread closer([&] {
				usleep(2000);
				pair.shut(1);
			});
			char c;
			EXPECT_EQ(read(pair.in(), &c, 1), 0);
			EXPECT_EQ(read(pair.in(), &c, 1), 0);
		});
}

TEST(Read, ZeroLengthReturnsAtOnce)
{
	on_one_thread([] {
		Pair pipe(Pair::PIPE);
		EXPECT_EQ(read(pipe.in(), nullptr, 0), 0);
	});
}

TEST(Read, NonblockingGivesEagain)
{
	for (Pair::Kind kind : all_kinds)
		on_one_thread([kind] {
			Pair pair(kind);
			char c;
			OK(fcntl(pair.in(), F_SETFL, O_RDWR | O_NONBLOCK));
			EXPECT_EQ(
				error_of([&] { return read(pair.in(), &c, 1); }), EAGAIN);
			OK(fcntl(pair.in(), F_SETFL, O_RDWR));
			ASSERT_EQ(write(pair.out(), "x", 1), 1);
			EXPECT_EQ(read(pair.in(), &c, 1), 1);
		});
}

TEST(Read, TellsBadArguments)
{
	on_one_thread([] {
		Pair pair;
		char c;
		EXPECT_EQ(error_of([&] { return read(-1, &c, 1); }), EBADF);
		EXPECT_EQ(error_of([&] { return read(9999, &c, 1); }), EBADF);
		ASSERT_EQ(write(pair.out(), "x", 1), 1);
		EXPECT_EQ(error_of([&] { return read(pair.in(), bad_pointer, 1); }),
			EFAULT);
		Pair pipe(Pair::PIPE);
		EXPECT_EQ(error_of([&] { return read(pipe.out(), &c, 1); }), EBADF);
		EXPECT_EQ(error_of([&] { return write(pipe.in(), &c, 1); }), EBADF);
		int dir = OK(open(".", O_RDONLY));
		EXPECT_EQ(error_of([&] { return read(dir, &c, 1); }), EISDIR);
		OK(close(dir));
	});
}

TEST(Read, TellsABadPointerAlsoWhenItHadToWait)
{
	on_one_thread([] {
		Pair pair;
		Thread writer([&] {
			usleep(3000);
			send_all(pair.out(), "x", 1);
		});
		EXPECT_EQ(error_of([&] { return read(pair.in(), bad_pointer, 1); }),
			EFAULT);
	});
}

TEST(Read, KeepsErrnoOnSuccess)
{
	on_one_thread([] {
		Pair pair;
		char c;
		Thread writer([&] {
			usleep(2000);
			send_all(pair.out(), "x", 1);
		});
		errno = ERANGE;
		EXPECT_EQ(read(pair.in(), &c, 1), 1);
		EXPECT_EQ(errno, ERANGE);
	});
}

TEST(Read, OneByteGoesToExactlyOneOfManyReaders)
{
	Pair pair(Pair::PIPE);
	int taken = 0;
	Thread writer([&] {
		for (int i = 0; i < many; i++) {
			EXPECT_EQ(write(pair.out(), "x", 1), 1);
			sched_yield();
		}
	});
	on_threads(many, [&](int) {
		char buf[4];
		EXPECT_EQ(read(pair.in(), buf, 1), 1);
		__atomic_fetch_add(&taken, 1, __ATOMIC_SEQ_CST);
	});
	EXPECT_EQ(taken, many);
}

TEST(Write, BlockingOneIsWhole)
{
	for (Pair::Kind kind : all_kinds)
		on_one_thread([kind] {
			static char data[3 << 20];
			Pair pair(kind);
			Thread reader([&] {
				std::vector<char> buf(77777);
				size_t got = 0;
				ssize_t n;
				while (got < sizeof data &&
					(n = read(pair.in(), buf.data(), buf.size())) >
						0) {
					got += (size_t)n;
					usleep(50);
				}
				EXPECT_EQ(got, sizeof data);
			});
			EXPECT_EQ(write(pair.out(), data, sizeof data),
				(ssize_t)sizeof data);
		});
}

TEST(Write, NonblockingOneIsPartial)
{
	for (Pair::Kind kind : all_kinds)
		on_one_thread([kind] {
			std::vector<char> data(16 << 20);
			Pair pair(kind);
			OK(fcntl(pair.out(), F_SETFL, O_RDWR | O_NONBLOCK));
			ssize_t n = write(pair.out(), data.data(), data.size());
			EXPECT_GT(n, 0);
			EXPECT_LT(n, (ssize_t)data.size());
		});
}

TEST(Write, SmallOnesIntoAPipeAreAtomic)
{
	Pair pair(Pair::PIPE);
	const int writers = 8, records = 60, size = 4096;
	Thread reader([&] {
		std::vector<char> record(size);
		for (int i = 0; i < writers * records; i++) {
			for (int got = 0; got < size;)
				got += (int)OK(read(pair.in(), record.data() + got,
					(size_t)(size - got)));
			for (char c : record)
				ASSERT_EQ(c, record[0]);
		}
	});
	on_threads(writers, [&](int id) {
		std::vector<char> record(size, (char)id);
		for (int i = 0; i < records; i++)
			ASSERT_EQ(write(pair.out(), record.data(), size), size);
	});
}

TEST(Write, ToNobodyIsEpipe)
{
	signal(SIGPIPE, SIG_IGN);
	for (Pair::Kind kind : {Pair::UNIX, Pair::PIPE})
		on_one_thread([kind] {
			Pair pair(kind);
			pair.shut(0);
			EXPECT_EQ(error_of([&] { return write(pair.out(), "x", 1); }),
				EPIPE);
		});
}

TEST(Write, AReaderThatLeavesEndsABlockedOne)
{
	signal(SIGPIPE, SIG_IGN);
	on_one_thread([] {
		std::vector<char> data(4 << 20);
		Pair pair(Pair::PIPE);
		Thread leaver([&] {
			char c;
			EXPECT_EQ(read(pair.in(), &c, 1), 1);
			pair.shut(0);
		});
		/* What had fitted is reported; nothing tells of the rest. */
		ssize_t n = write(pair.out(), data.data(), data.size());
		EXPECT_TRUE((n > 0 && n < (ssize_t)data.size()) ||
			    (n == -1 && errno == EPIPE));
		leaver.join();
		EXPECT_EQ(error_of([&] { return write(pair.out(), "x", 1); }), EPIPE);
	});
}

TEST(Readv, ScattersAndWritevGathers)
{
	for (Pair::Kind kind : all_kinds)
		on_one_thread([kind] {
			Pair pair(kind);
			char a[2], b[3], c[8];
			struct iovec out[] = {
				{(void *)"ab", 2}, {nullptr, 0}, {(void *)"cdefg", 5}};
			struct iovec in[] = {{a, 2}, {b, 3}, {nullptr, 0}, {c, 8}};
			Thread writer([&] {
				usleep(2000);
				EXPECT_EQ(writev(pair.out(), out, 3), 7);
			});
			EXPECT_EQ(readv(pair.in(), in, 4), 7);
			EXPECT_EQ(memcmp(a, "ab", 2) | memcmp(b, "cde", 3) |
					  memcmp(c, "fg", 2),
				0);
		});
}

TEST(Writev, IsWholeAcrossPiecesWhenItHadToWait)
{
	for (Pair::Kind kind : all_kinds)
		on_one_thread([kind] {
			Pair pair(kind);
			const size_t total = 2 << 20;
			std::vector<unsigned char> data(total), got(total);
			std::vector<struct iovec> iov;
			for (size_t i = 0; i < total; i++)
				data[i] = pattern(i);
			size_t at = 0;
			for (int i = 0; at < total; i++) {
				size_t n = i > 900 ? total - at
						   : std::min<size_t>(total - at,
							     (size_t)i * 7 % 4099);
				iov.push_back({&data[at], n});
				at += n;
			}
			Thread reader([&] {
				size_t n = 0;
				while (n < total) {
					n += (size_t)OK(read(pair.in(), &got[n],
						std::min<size_t>(50021, total - n)));
					usleep(20);
				}
			});
			EXPECT_EQ(writev(pair.out(), iov.data(), (int)iov.size()),
				(ssize_t)total);
			reader.join();
			EXPECT_EQ(data, got);
		});
}

TEST(Readv, TellsBadCounts)
{
	on_one_thread([] {
		Pair pair;
		struct iovec iov = {nullptr, 0};
		volatile int negative = -1, too_many = 1025;
		EXPECT_EQ(error_of([&] { return readv(pair.in(), &iov, negative); }),
			EINVAL);
		EXPECT_EQ(error_of([&] { return writev(pair.out(), &iov, too_many); }),
			EINVAL);
		EXPECT_EQ(error_of([&] { return readv(-1, &iov, 1); }), EBADF);
		/* Nothing to write is nothing to wait for. */
		EXPECT_EQ(writev(pair.out(), &iov, 0), 0);
	});
}

TEST(Pread, UsesItsOwnPosition)
{
	on_threads(8, [](int id) {
		char name[32], buf[8] = "";
		snprintf(name, sizeof name, "file-%d", id);
		int fd = OK(open(name, O_RDWR | O_CREAT, 0600));
		EXPECT_EQ(pwrite(fd, "0123456789", 10, 0), 10);
		EXPECT_EQ(pread(fd, buf, 4, 3), 4);
		EXPECT_STREQ(buf, "3456");
		EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 0);
		struct iovec iov[] = {{buf, 2}, {buf + 2, 2}};
		EXPECT_EQ(preadv(fd, iov, 2, 6), 4);
		EXPECT_EQ(memcmp(buf, "6789", 4), 0);
		EXPECT_EQ(preadv2(fd, iov, 2, 0, 0), 4);
		EXPECT_EQ(memcmp(buf, "0123", 4), 0);
		EXPECT_EQ(pwritev(fd, iov, 2, 8), 4);
		EXPECT_EQ(pread(fd, buf, 8, 12), 0);
		OK(close(fd));
		Pair pair;
		EXPECT_EQ(error_of([&] { return pread(pair.in(), buf, 1, 0); }), ESPIPE);
	});
}
