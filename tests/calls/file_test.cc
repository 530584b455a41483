// Descriptors as numbers: close, dup, ranges; nothing of weft's is seen or lost.
#include "on_threads.h"

#include <dirent.h>
#include <sys/resource.h>

static void still_works()
{
	on_threads(8, [](int) {
		Pair pair(Pair::TCP);
		Thread sender([&] {
			usleep(500);
			send_all(pair.out(), "x", 1);
		});
		char c;
		EXPECT_EQ(recv(pair.in(), &c, 1, 0), 1);
		EXPECT_EQ(usleep(500), 0);
	});
}

TEST(Close, GivesEbadfForWhatIsNotOpen)
{
	on_one_thread([] {
		EXPECT_EQ(error_of([] { return close(-1); }), EBADF);
		EXPECT_EQ(error_of([] { return close(7777); }), EBADF);
		int fd = OK(dup(0));
		EXPECT_EQ(close(fd), 0);
		EXPECT_EQ(error_of([fd] { return close(fd); }), EBADF);
	});
}

TEST(Close, OfEveryNumberLeavesThreadsWorking)
{
	still_works();
	on_one_thread([] {
		struct rlimit rl;
		OK(getrlimit(RLIMIT_NOFILE, &rl));
		int closed = 0;
		for (int fd = 3; fd < (int)rl.rlim_cur; fd++)
			closed += close(fd) == 0;
		EXPECT_EQ(closed, 0);
	});
	still_works();
}

TEST(Closefrom, LeavesThreadsWorking)
{
	still_works();
	on_one_thread([] {
		int fd = OK(dup(0));
		closefrom(3);
		EXPECT_EQ(error_of([fd] { return fcntl(fd, F_GETFD); }), EBADF);
	});
	still_works();
	closefrom(3);
	still_works();
}

TEST(CloseRange, LeavesThreadsWorking)
{
	still_works();
	on_one_thread([] {
		int fd = OK(dup(0));
		EXPECT_EQ(close_range(3, ~0U, CLOSE_RANGE_CLOEXEC), 0);
		EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
		EXPECT_EQ(close_range(3, ~0U, 0), 0);
		EXPECT_EQ(error_of([fd] { return fcntl(fd, F_GETFD); }), EBADF);
		EXPECT_EQ(error_of([] { return close_range(5, 4, 0); }), EINVAL);
		EXPECT_EQ(error_of([] { return close_range(3, 4, 0x100); }), EINVAL);
	});
	still_works();
}

TEST(Dup2, ReplacesAndTellsErrors)
{
	on_one_thread([] {
		Pair pair, other;
		char c = 'd';
		EXPECT_EQ(dup2(other.out(), pair.out()), pair.out());
		EXPECT_EQ(write(pair.out(), &c, 1), 1);
		EXPECT_EQ(read(other.in(), &c, 1), 1);
		EXPECT_EQ(read(pair.in(), &c, 1), 0) << "the replaced one was closed";
		EXPECT_EQ(dup2(pair.in(), pair.in()), pair.in());
		EXPECT_EQ(error_of([] { return dup2(7777, 5); }), EBADF);
		EXPECT_EQ(error_of([] { return dup2(0, -1); }), EBADF);
		EXPECT_EQ(error_of([] { return dup2(0, 1 << 30); }), EBADF);
	});
}

TEST(Dup3, SetsCloexecAndTellsErrors)
{
	on_one_thread([] {
		int fd = OK(dup(0));
		EXPECT_EQ(dup3(0, fd, O_CLOEXEC), fd);
		EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
		EXPECT_EQ(error_of([fd] { return dup3(fd, fd, 0); }), EINVAL);
		EXPECT_EQ(error_of([fd] { return dup3(0, fd, 1); }), EINVAL);
		OK(close(fd));
	});
}

TEST(Dup2, OntoEveryHighNumberLeavesThreadsWorking)
{
	still_works();
	on_one_thread([] {
		struct rlimit rl;
		OK(getrlimit(RLIMIT_NOFILE, &rl));
		for (int fd = (int)rl.rlim_cur - 64; fd < (int)rl.rlim_cur; fd++) {
			EXPECT_EQ(dup2(0, fd), fd);
			EXPECT_GE(fcntl(fd, F_GETFD), 0);
			EXPECT_EQ(close(fd), 0);
		}
	});
	still_works();
}

TEST(Descriptors, LowestFreeNumberIsGivenOut)
{
	int before = OK(dup(0));
	OK(close(before));
	on_one_thread([before] {
		usleep(1000);
		int fd = OK(dup(0));
		EXPECT_EQ(fd, before);
		int next = OK(socket(AF_INET, SOCK_STREAM, 0));
		EXPECT_EQ(next, before + 1);
		OK(close(fd));
		EXPECT_EQ(OK(open("/dev/null", O_RDONLY)), before);
		OK(close(before));
		OK(close(next));
	});
}

TEST(Descriptors, TableMayBeFullWhileThreadsWait)
{
	struct rlimit rl;
	OK(getrlimit(RLIMIT_NOFILE, &rl));
	rl.rlim_cur = 40;
	OK(setrlimit(RLIMIT_NOFILE, &rl));
	Pair pair;
	on_threads(6, [&](int id) {
		char c;
		if (id) {
			EXPECT_EQ(recv(pair.in(), &c, 1, 0), 1);
			usleep(500);
			return;
		}
		std::vector<int> fds;
		int fd;
		while ((fd = dup(0)) >= 0)
			fds.push_back(fd);
		EXPECT_EQ(errno, EMFILE);
		EXPECT_EQ(fds.back(), 39);
		send_all(pair.out(), "12345", 5);
		usleep(500);
		for (int open_fd : fds)
			OK(close(open_fd));
	});
}
