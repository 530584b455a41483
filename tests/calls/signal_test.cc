// Calls about signals that a front-door function or a site handler answers.
#include "on_threads.h"

#include <sys/signalfd.h>

namespace
{
sigset_t only(int sig)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, sig);
	return set;
}

// Made before the first thread, read by one: signals for the process and for the thread.
TEST(Signalfd, ShowsSignalsForTheProcessAndForTheReader)
{
	sigset_t set = only(SIGUSR1);
	int fd;

	ASSERT_EQ(0, pthread_sigmask(SIG_BLOCK, &set, nullptr));
	fd = OK(signalfd(-1, &set, 0));
	on_one_thread([fd] {
		struct signalfd_siginfo info;

		OK(kill(getpid(), SIGUSR1));
		ASSERT_EQ((ssize_t)sizeof info, read(fd, &info, sizeof info));
		EXPECT_EQ((uint32_t)SIGUSR1, info.ssi_signo);
		EXPECT_EQ(SI_USER, info.ssi_code);
		EXPECT_EQ((uint32_t)getpid(), info.ssi_pid);

		ZERO(pthread_kill(pthread_self(), SIGUSR1));
		ASSERT_EQ((ssize_t)sizeof info, read(fd, &info, sizeof info));
		EXPECT_EQ((uint32_t)SIGUSR1, info.ssi_signo);
		EXPECT_TRUE(info.ssi_code == SI_TKILL || info.ssi_code == SI_USER);

		union sigval value = {.sival_int = 77};
		ZERO(pthread_sigqueue(pthread_self(), SIGUSR1, value));
		ASSERT_EQ((ssize_t)sizeof info, read(fd, &info, sizeof info));
		EXPECT_EQ(SI_QUEUE, info.ssi_code);
		EXPECT_EQ(77, info.ssi_int);
	});
	OK(close(fd));
}

TEST(Signalfd, WakesAReaderThatWaits)
{
	sigset_t set = only(SIGUSR1);
	int fd;

	ASSERT_EQ(0, pthread_sigmask(SIG_BLOCK, &set, nullptr));
	fd = OK(signalfd(-1, &set, 0));
	Thread reader([fd] {
		struct signalfd_siginfo info;
		struct pollfd p = {fd, POLLIN, 0};

		EXPECT_EQ(1, poll(&p, 1, -1));
		EXPECT_EQ((ssize_t)sizeof info, read(fd, &info, sizeof info));
	});
	settle();
	ZERO(pthread_kill(reader.id(), SIGUSR1));
	reader.join();
	OK(close(fd));
}

TEST(Signalfd, BadArgumentsAreErrors)
{
	sigset_t set = only(SIGUSR1);

	on_one_thread([&set] {
		EXPECT_EQ(EINVAL, error_of([&] { return signalfd(-1, &set, 3); }));
		EXPECT_EQ(EBADF, error_of([&] { return signalfd(9999, &set, 0); }));
		EXPECT_EQ(EINVAL, error_of([&] { return signalfd(0, &set, 0); }));
	});
}
} // namespace
