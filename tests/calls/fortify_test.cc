// The fortified twins: what a program built with _FORTIFY_SOURCE calls instead.
#include "on_threads.h"

#include <dlfcn.h>

#include <sys/select.h>

// Looked up by name, so that the test does not depend on what the compiler makes of it.
template <typename F> static F twin(const char *name)
{
	F f = (F)dlsym(RTLD_DEFAULT, name);
	EXPECT_NE(f, nullptr) << name;
	return f;
}

// Waits on many threads: if one of the twins were to block its kernel thread, the
// writers at the end of the queue would never run.
static void with_waiting(
	const std::function<void(int fd)> &call, Pair::Kind kind = Pair::TCP)
{
	on_threads(24, [&](int) {
		Pair pair(kind);
		Thread writer([&] {
			usleep(2000);
			EXPECT_EQ(write(pair.out(), "twin", 4), 4);
		});
		call(pair.in());
	});
}

TEST(ReadChk, WaitsLikeRead)
{
	auto call = twin<ssize_t (*)(int, void *, size_t, size_t)>("__read_chk");
	for (Pair::Kind kind : all_kinds)
		with_waiting(
			[&](int fd) {
				char buf[8];
				EXPECT_EQ(call(fd, buf, 4, sizeof buf), 4);
			},
			kind);
}

TEST(RecvChk, WaitsLikeRecv)
{
	auto call = twin<ssize_t (*)(int, void *, size_t, size_t, int)>("__recv_chk");
	with_waiting([&](int fd) {
		char buf[8];
		EXPECT_EQ(call(fd, buf, 4, sizeof buf, MSG_WAITALL), 4);
		EXPECT_EQ(error_of([&] {
			return call(fd, buf, 4, sizeof buf, MSG_DONTWAIT);
		}),
			EAGAIN);
	});
}

TEST(RecvfromChk, WaitsLikeRecvfrom)
{
	auto call = twin<ssize_t (*)(int, void *, size_t, size_t, int, struct sockaddr *,
		socklen_t *)>("__recvfrom_chk");
	with_waiting([&](int fd) {
		char buf[8];
		EXPECT_EQ(call(fd, buf, 4, sizeof buf, 0, nullptr, nullptr), 4);
	});
}

TEST(PollChk, WaitsLikePoll)
{
	auto call = twin<int (*)(struct pollfd *, nfds_t, int, size_t)>("__poll_chk");
	with_waiting([&](int fd) {
		struct pollfd p = {fd, POLLIN, 0};
		EXPECT_EQ(call(&p, 1, -1, sizeof p), 1);
		EXPECT_EQ(p.revents, POLLIN);
	});
}

TEST(PpollChk, WaitsLikePpoll)
{
	auto call = twin<int (*)(struct pollfd *, nfds_t, const struct timespec *,
		const sigset_t *, size_t)>("__ppoll_chk");
	with_waiting([&](int fd) {
		struct pollfd p = {fd, POLLIN, 0};
		struct timespec ts = {60, 0};
		EXPECT_EQ(call(&p, 1, &ts, nullptr, sizeof p), 1);
	});
}

TEST(PreadChk, ReadsFiles)
{
	auto call = twin<ssize_t (*)(int, void *, size_t, off_t, size_t)>("__pread_chk");
	auto call64 =
		twin<ssize_t (*)(int, void *, size_t, off_t, size_t)>("__pread64_chk");
	on_one_thread([&] {
		int fd = OK(open("file", O_RDWR | O_CREAT, 0600));
		char buf[8] = "";
		ASSERT_EQ(write(fd, "0123456789", 10), 10);
		EXPECT_EQ(call(fd, buf, 3, 4, sizeof buf), 3);
		EXPECT_STREQ(buf, "456");
		EXPECT_EQ(call64(fd, buf, 3, 7, sizeof buf), 3);
		EXPECT_STREQ(buf, "789");
		OK(close(fd));
	});
}

TEST(ReadChk, AbortsOnAnOverflow)
{
	auto call = twin<ssize_t (*)(int, void *, size_t, size_t)>("__read_chk");
	on_one_thread([] {}); /* the parent has had a thread, too */
	pid_t pid = OK(fork());
	if (pid == 0) {
		dup2(OK(open("/dev/null", O_WRONLY)), 2);
		on_one_thread([&] {
			char buf[8];
			call(0, buf, 9, sizeof buf);
		});
		_exit(0);
	}
	int status;
	OK(waitpid(pid, &status, 0));
	EXPECT_STREQ(describe_status(status), "SIGABRT");
}
