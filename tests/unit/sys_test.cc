// runtime/sys.c: locks, fault injection, clocks, messages; needs no runtime.
#include "on_fibers.h"

#include <elf.h>
#include <sys/auxv.h>

namespace
{

std::string stderr_of(const std::function<void()> &body, int *ret_status = nullptr)
{
	int fd[2];
	char buf[2048];

	OK(pipe(fd));
	int status = status_of_child([&] {
		OK(dup2(fd[1], 2));
		body();
	});
	close(fd[1]);
	ssize_t n = OK(read(fd[0], buf, sizeof buf));
	close(fd[0]);
	if (ret_status)
		*ret_status = status;
	return std::string(buf, (size_t)n);
}

TEST(Lock, ProtectsACounterFromManyThreads)
{
	struct weft_lock lock = {0};
	long counter = 0;
	std::vector<std::thread> threads;
	const int n = rounds(100000);

	for (int i = 0; i < 4; i++)
		threads.emplace_back([&] {
			for (int k = 0; k < n; k++) {
				weft_lock(&lock);
				counter++;
				weft_unlock(&lock);
			}
		});
	for (auto &t : threads)
		t.join();
	EXPECT_EQ(counter, 4l * n);
	EXPECT_EQ(lock.word, 0);
}

TEST(Lock, WaiterSleepsAndIsWokenByUnlock)
{
	struct weft_lock lock = {0};
	std::atomic<bool> got{false};

	weft_lock(&lock);
	std::thread waiter([&] {
		weft_lock(&lock);
		got = true;
		weft_unlock(&lock);
	});
	while (__atomic_load_n(&lock.word, __ATOMIC_SEQ_CST) != 2) // somebody sleeps
		sched_yield();
	EXPECT_FALSE(got);
	EXPECT_FALSE(weft_trylock(&lock));
	weft_unlock(&lock);
	waiter.join();
	EXPECT_TRUE(got);
	EXPECT_TRUE(weft_trylock(&lock));
}

TEST(Fault, HitsTheNthCallOnly)
{
	for (unsigned n = 1; n < 6; n++) {
		weft_fault_arm(WEFT_FAULT_CLONE, n);
		for (unsigned i = 1; i < 10; i++)
			EXPECT_EQ(!!weft_fault_hits(WEFT_FAULT_CLONE), i == n);
		EXPECT_FALSE(weft_fault_hits(WEFT_FAULT_MMAP));
	}
}

TEST(Fault, AnArmedMmapFailsWithEnomem)
{
	weft_fault_arm(WEFT_FAULT_MMAP, 1);
	EXPECT_EQ(weft_sys_map(4096, PROT_READ, 0), -ENOMEM);
	long p = weft_sys_map(4096, PROT_READ | PROT_WRITE, 0);
	ASSERT_FALSE(weft_sys_failed(p));
	EXPECT_EQ(weft_sys_unmap((void *)p, 4096), 0);
}

void compare_clocks()
{
	for (int clock : {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME}) {
		timespec before, ours, after;

		clock_gettime(clock, &before);
		ASSERT_EQ(weft_clock_get(clock, &ours), 0);
		clock_gettime(clock, &after);
		auto ns = [](const timespec &t) {
			return t.tv_sec * 1000000000l + t.tv_nsec;
		};
		EXPECT_LE(ns(before), ns(ours));
		EXPECT_LE(ns(ours), ns(after));
	}
	timespec t;
	EXPECT_EQ(weft_clock_get(12345, &t), -EINVAL);
}

TEST(Clock, AgreesWithLibcWithoutTheVdso)
{
	compare_clocks();
}

TEST(Clock, AgreesWithLibcThroughTheVdso)
{
	in_child([] {
		weft_vdso_init(getauxval(AT_SYSINFO_EHDR));
		compare_clocks();
	});
}

TEST(Format, WritesEveryUnsignedNumber)
{
	char buf[21];

	EXPECT_STREQ(weft_format_u64(buf, 0), "0");
	EXPECT_STREQ(weft_format_u64(buf, 10), "10");
	EXPECT_STREQ(weft_format_u64(buf, UINT64_MAX), "18446744073709551615");
}

TEST(Log, IsOneLineThatStartsWithTheName)
{
	EXPECT_EQ(stderr_of([] { weft_log("hello"); }), "weft: hello\n");
	EXPECT_EQ(stderr_of([] { weft_log_parts("a", "b", "c", NULL); }), "weft: abc\n");
}

TEST(Log, CutsWhatIsTooLong)
{
	std::string longer(1000, 'x');
	std::string got = stderr_of([&] { weft_log(longer.c_str()); });

	EXPECT_EQ(got.size(), 481u);
	EXPECT_EQ(got.back(), '\n');
}

TEST(Bug, SaysWhatBrokeAndAborts)
{
	int status;
	std::string got = stderr_of(
		[] {
			signal(SIGABRT, SIG_IGN);
			weft_bug("nothing holds");
		},
		&status);

	EXPECT_EQ(got, "weft: bug: nothing holds (please report this)\n");
	ASSERT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(WTERMSIG(status), SIGABRT);
}

} // namespace
