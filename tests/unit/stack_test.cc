// runtime/stack.c: slabs, guards, reuse. Most of it needs no runtime, only a clean
// process.
#include "on_fibers.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/resource.h>

#include <algorithm>
#include <fstream>

namespace
{

enum { PAGE = 4096, KB = 1024 };

char *map_stack(size_t size)
{
	long p = weft_stack_map(size);

	CHECK(!weft_sys_failed(p));
	return (char *)p;
}

uint64_t warm_stacks()
{
	struct weft_stack_stats s;

	weft_stack_stats(&s);
	return s.warm;
}

uint64_t live_stacks()
{
	struct weft_stack_stats s;

	weft_stack_stats(&s);
	return s.live;
}

size_t resident_pages(const char *p, size_t len)
{
	std::vector<unsigned char> vec(len / PAGE);

	OK(mincore((void *)p, len, vec.data()));
	return (size_t)std::count_if(
		vec.begin(), vec.end(), [](unsigned char c) { return c & 1; });
}

size_t count_mappings()
{
	std::ifstream in("/proc/self/maps");
	std::string line;
	size_t n = 0;

	while (std::getline(in, line))
		n++;
	return n;
}

// The signal that touching p ends with, or 0.
int signal_of_touch(char *p, bool write)
{
	int status = status_of_child([=] {
		struct sigaction dfl = {};

		sigaction(SIGSEGV, &dfl, nullptr); // not the sanitizer's
		if (write)
			*(volatile char *)p = 1;
		else
			(void)*(volatile char *)p;
	});
	return status != -1 && WIFSIGNALED(status) ? WTERMSIG(status) : status;
}

TEST(Stack, IsReadableWritableZeroAndPageAligned)
{
	in_child([] {
		for (size_t size : {16u * KB, 64u * KB, 132u * KB, 8192u * KB}) {
			char *p = map_stack(size);
			uintptr_t base;
			size_t got, guard;

			EXPECT_EQ((uintptr_t)p % PAGE, 0u);
			for (size_t i = 0; i < size; i += PAGE) {
				ASSERT_EQ(p[i], 0);
				p[i] = 1;
			}
			EXPECT_TRUE(weft_stack_owns((uintptr_t)p, size));
			EXPECT_TRUE(weft_stack_owns((uintptr_t)p + size - 1, 1));
			EXPECT_FALSE(weft_stack_owns((uintptr_t)p, size + 1));
			EXPECT_FALSE(weft_stack_owns((uintptr_t)p + 1, size));
			ASSERT_TRUE(weft_stack_bounds(
				(uintptr_t)p + size / 2, &base, &got, &guard));
			EXPECT_EQ(base, (uintptr_t)p);
			EXPECT_EQ(got, size);
			EXPECT_EQ(guard, 0u);
			EXPECT_TRUE(weft_stack_unmap((uintptr_t)p, size));
		}
	});
}

TEST(Stack, OtherMemoryIsNoStack)
{
	in_child([] {
		char local, *p = map_stack(64 * KB);
		uintptr_t base;
		size_t size, guard;

		for (uintptr_t at : {(uintptr_t)&local, (uintptr_t)0, (uintptr_t)-PAGE,
			     (uintptr_t)p + (1ul << 28)}) {
			EXPECT_FALSE(weft_stack_owns(at, 1));
			EXPECT_FALSE(weft_stack_bounds(at, &base, &size, &guard));
			EXPECT_EQ(weft_stack_guard(at, PAGE), -EINVAL);
			EXPECT_FALSE(weft_stack_unmap(at, 64 * KB));
			EXPECT_FALSE(weft_stack_skip_trim(at));
			weft_stack_taint(at);
		}
		EXPECT_FALSE(weft_stack_unmap((uintptr_t)p, 32 * KB))
			<< "a part is not a stack";
		EXPECT_FALSE(weft_stack_unmap((uintptr_t)p + PAGE, 64 * KB));
		EXPECT_TRUE(weft_stack_unmap((uintptr_t)p, 64 * KB));
		EXPECT_FALSE(weft_stack_unmap((uintptr_t)p, 64 * KB)) << "not twice";
		EXPECT_FALSE(weft_stack_owns((uintptr_t)p, 1))
			<< "free ones are nobody's";
	});
}

TEST(Stack, ManyDoNotOverlap)
{
	in_child([] {
		std::vector<char *> all;
		const size_t size = 16 * KB;

		for (int i = 0; i < 20000; i++)
			all.push_back(map_stack(size));
		std::sort(all.begin(), all.end());
		for (size_t i = 1; i < all.size(); i++)
			ASSERT_GE(all[i] - all[i - 1], (ptrdiff_t)size);
		EXPECT_EQ(live_stacks(), 20000u);
		for (char *p : all)
			ASSERT_TRUE(weft_stack_unmap((uintptr_t)p, size));
		EXPECT_EQ(live_stacks(), 0u);
		EXPECT_EQ(warm_stacks(), 20000u);
	});
}

TEST(Stack, TheLastFreedIsTheNextTaken)
{
	in_child([] {
		std::vector<char *> all;

		for (int i = 0; i < 20; i++)
			all.push_back(map_stack(64 * KB));
		for (char *p : all)
			weft_stack_unmap((uintptr_t)p, 64 * KB);
		for (int i = 20; i--;)
			EXPECT_EQ(map_stack(64 * KB), all[(size_t)i]);
	});
}

TEST(Stack, AReusedOneIsWarmAndItsTopIsZero)
{
	in_child([] {
		const size_t size = 64 * KB, top = 2304;
		char *p = map_stack(size);

		weft_stack_set_clear_top(top);
		memset(p, 0xaa, size);
		weft_stack_unmap((uintptr_t)p, size);
		ASSERT_EQ(map_stack(size), p);
		EXPECT_EQ(resident_pages(p, size), size / PAGE);
		for (size_t i = size - top; i < size; i++)
			ASSERT_EQ(p[i], 0);
		EXPECT_EQ((unsigned char)p[size - top - 1], 0xaa);
	});
}

// ---- guards

void check_guard(char *p, size_t size, size_t guard)
{
	uintptr_t base;
	size_t got_size, got_guard;

	ASSERT_TRUE(weft_stack_bounds((uintptr_t)p, &base, &got_size, &got_guard));
	EXPECT_EQ(got_guard, guard);
	if (guard) {
		EXPECT_EQ(signal_of_touch(p, false), SIGSEGV);
		EXPECT_EQ(signal_of_touch(p, true), SIGSEGV);
		EXPECT_EQ(signal_of_touch(p + guard - 1, true), SIGSEGV);
	}
	for (size_t i = guard; i < size; i += PAGE)
		p[i] = 2;
}

void guards_grow_and_shrink()
{
	const size_t size = 64 * KB;
	char *p = map_stack(size), *neighbour = map_stack(size);

	memset(neighbour, 3, size);
	for (size_t guard : {1, 4, 2, 0, 1, 8, 0, 15, 1}) {
		ASSERT_EQ(weft_stack_guard((uintptr_t)p, guard * PAGE), 0) << guard;
		check_guard(p, size, guard * PAGE);
	}
	for (size_t i = 0; i < size; i++)
		ASSERT_EQ(neighbour[i], 3);
	EXPECT_EQ(weft_stack_guard((uintptr_t)p, size + PAGE), -EINVAL);
	EXPECT_EQ(weft_stack_guard((uintptr_t)p + PAGE, PAGE), -EINVAL);
	/* It stays with the stack, for the next with the same wish. */
	ASSERT_TRUE(weft_stack_unmap((uintptr_t)p, size));
	ASSERT_EQ(map_stack(size), p);
	check_guard(p, size, PAGE);
}

TEST(Guard, FaultsAndFollowsItsSize)
{
	in_child(guards_grow_and_shrink);
}

bool kernel_has_guard_install()
{
	void *p = mmap(nullptr, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		-1, 0);
	bool has = madvise(p, PAGE, 102) == 0;

	munmap(p, PAGE);
	return has;
}

TEST(Guard, CostsNoMappingWhereTheKernelCanHelp)
{
	if (!kernel_has_guard_install())
		GTEST_SKIP() << "no MADV_GUARD_INSTALL (Linux 6.13)";
	in_child([] {
		char *p = map_stack(16 * KB);

		weft_stack_guard((uintptr_t)p, PAGE);
		size_t before = count_mappings();
		for (int i = 0; i < 4000; i++) {
			p = map_stack(16 * KB);
			ASSERT_EQ(weft_stack_guard((uintptr_t)p, PAGE), 0);
		}
		EXPECT_LT(count_mappings() - before, 30u);
	});
}

// As on a kernel before 6.13: the advice is unknown.
void refuse_guard_install()
{
	sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[2])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 102, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	sock_fprog program = {sizeof code / sizeof *code, code};

	OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

TEST(Guard, FaultsOnAnOlderKernelToo)
{
	in_child([] {
		refuse_guard_install();
		guards_grow_and_shrink();
	});
}

TEST(Guard, OnAnOlderKernelTheBudgetEndsWithOneLineAndNoError)
{
	int fd[2];

	OK(pipe(fd));
	in_child([&] {
		OK(dup2(fd[1], 2));
		refuse_guard_install();
		for (int i = 0; i < 16100; i++) {
			char *p = map_stack(16 * KB);

			ASSERT_EQ(weft_stack_guard((uintptr_t)p, PAGE), 0)
				<< "stack " << i;
			p[PAGE] = 1;
		}
	});
	close(fd[1]);
	char text[4096];
	ssize_t n = OK(read(fd[0], text, sizeof text));
	std::string lines(text, (size_t)n);
	EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 1) << lines;
	EXPECT_EQ(lines.rfind("weft: ", 0), 0u) << lines;
	close(fd[0]);
}

// Same stacks over and over: changing guards does not use the budget up.
TEST(Guard, OnAnOlderKernelReusedStacksKeepTheirGuards)
{
	in_child([] {
		refuse_guard_install();
		char *p = nullptr;
		for (int i = 0; i < 20000; i++) {
			p = map_stack(16 * KB);
			ASSERT_EQ(weft_stack_guard((uintptr_t)p, i % 2 ? PAGE : 2 * PAGE),
				0);
			ASSERT_TRUE(weft_stack_unmap((uintptr_t)p, 16 * KB));
		}
		p = map_stack(16 * KB);
		ASSERT_EQ(weft_stack_guard((uintptr_t)p, PAGE), 0);
		EXPECT_EQ(signal_of_touch(p, true), SIGSEGV);
		ASSERT_EQ(weft_stack_guard((uintptr_t)p, 3 * PAGE), 0);
		EXPECT_EQ(signal_of_touch(p + 2 * PAGE, true), SIGSEGV);
	});
}

TEST(Guard, AnOverflowIsExplainedInOneLineAndKills)
{
	int fd[2];

	OK(pipe(fd));
	int status = status_of_child([&] {
		const char *what;
		struct sigaction dfl = {};

		sigaction(SIGSEGV, &dfl, nullptr);
		OK(dup2(fd[1], 2));
		ASSERT_EQ(start_runtime({2}, &what), 0);
		char *p = map_stack(64 * KB);
		weft_stack_guard((uintptr_t)p, PAGE);
		struct fiber *f = weft_fiber_new(
			p + 64 * KB, new_tls(),
			[](void *) {
				weft_fiber_set_name(weft_fiber_self(), "deep");
				uintptr_t base;
				size_t size, guard;
				CHECK(weft_stack_bounds(
					(uintptr_t)__builtin_frame_address(0), &base,
					&size, &guard));
				*(volatile char *)(base + 100) = 1;
				_exit(3);
			},
			nullptr);
		weft_fiber_start(f);
		for (;;)
			weft_yield();
	});
	close(fd[1]);
	char text[4096];
	ssize_t n = OK(read(fd[0], text, sizeof text));
	std::string lines(text, (size_t)n);
	ASSERT_TRUE(WIFSIGNALED(status)) << lines;
	EXPECT_EQ(WTERMSIG(status), SIGSEGV);
	EXPECT_EQ(lines.rfind("weft: stack overflow: thread ", 0), 0u) << lines;
	EXPECT_NE(lines.find("\"deep\" with a stack of 60 KiB"), std::string::npos)
		<< lines;
	EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 1) << lines;
	close(fd[0]);
}

// ---- giving back

TEST(Stack, AboveTheCapFreedMemoryIsGivenBack)
{
	in_child([] {
		const size_t size = 64 * KB, n = 8000;
		std::vector<char *> all;
		size_t warm = 0, cold = 0;

		for (size_t i = 0; i < n; i++) {
			char *p = map_stack(size);

			for (int page = 0; page < 3; page++)
				p[size - 1 - (size_t)page * PAGE] = 1;
			all.push_back(p);
		}
		for (char *p : all)
			weft_stack_unmap((uintptr_t)p, size);
		for (char *p : all)
			(resident_pages(p, size) ? warm : cold)++;
		EXPECT_GT(warm, 4000u);
		EXPECT_LE(warm * 3 * PAGE, (64u << 20) + 3 * PAGE) << "the cap";
		EXPECT_GT(cold, 1000u);
		/* They come back usable and zero. */
		for (size_t i = 0; i < n; i++) {
			char *p = map_stack(size);

			ASSERT_EQ(p[size - 1], 0);
			ASSERT_EQ(p[size - 2 * PAGE - 1] & ~1, 0);
		}
	});
}

TEST(Stack, GuardsSurviveBeingGivenBack)
{
	in_child([] {
		const size_t size = 64 * KB, n = 6500;
		std::vector<char *> all;

		for (size_t i = 0; i < n; i++) {
			all.push_back(map_stack(size));
			ASSERT_EQ(weft_stack_guard((uintptr_t)all.back(), PAGE), 0);
			all.back()[size - 1] = 1;
		}
		for (char *p : all)
			weft_stack_unmap((uintptr_t)p, size);
		char *cold = map_stack(size);
		EXPECT_EQ(cold, all.back());
		check_guard(cold, size, PAGE);
	});
}

TEST(Stack, AfterManyTaintedOnesReuseIsStillWarm)
{
	in_child([] {
		const size_t size = 64 * KB;

		/* More than the cap of warm memory, if each were to stay counted. */
		for (int i = 0; i < 7000; i++) {
			char *p = map_stack(size);

			weft_stack_taint((uintptr_t)p);
			ASSERT_TRUE(weft_stack_unmap((uintptr_t)p, size));
		}
		char *p = map_stack(size);
		memset(p, 1, size);
		weft_stack_unmap((uintptr_t)p, size);
		EXPECT_EQ(resident_pages(p, size), size / PAGE) << "nothing else is warm";
	});
}

TEST(Stack, ATaintedOneIsMadeAnew)
{
	in_child([] {
		const size_t size = 64 * KB;
		char *p = map_stack(size);

		weft_stack_guard((uintptr_t)p, PAGE);
		memset(p + PAGE, 7, size - PAGE);
		OK(mprotect(p + 4 * PAGE, PAGE, PROT_READ));
		weft_stack_taint((uintptr_t)p + 5 * PAGE);
		ASSERT_TRUE(weft_stack_unmap((uintptr_t)p, size));
		ASSERT_EQ(map_stack(size), p);
		for (size_t i = 0; i < size; i++)
			ASSERT_EQ(p[i], 0) << i;
		memset(p, 1, size);
		check_guard(p, size, 0);
	});
}

TEST(Stack, SomeEndsTrimAndMostDoNot)
{
	in_child([] {
		char *p = map_stack(64 * KB);
		int trims = 0;

		for (int i = 0; i < 1600; i++)
			trims += !weft_stack_skip_trim((uintptr_t)p);
		EXPECT_GE(trims, 1600 / 64);
		EXPECT_LE(trims, 1600 / 8);
	});
}

// ---- limits

TEST(Stack, HugeSizesAreRefused)
{
	in_child([] {
		EXPECT_EQ(weft_stack_map(0), -ENOMEM);
		EXPECT_EQ(weft_stack_map((16ull << 30) + PAGE), -ENOMEM);
		EXPECT_EQ(weft_stack_map(SIZE_MAX & ~4095ul), -ENOMEM);
		char *p = map_stack(1ull << 30);
		p[0] = p[(1ull << 30) - 1] = 1;
		EXPECT_TRUE(weft_stack_unmap((uintptr_t)p, 1ull << 30));
	});
}

TEST(Stack, WhenAddressSpaceEndsItIsEnomemAndFreedOnesWorkAgain)
{
	if (SANITIZED)
		GTEST_SKIP() << "the sanitizer's shadow needs the address space";
	in_child([] {
		rlimit limit = {3ul << 30, 3ul << 30};
		std::vector<char *> all;
		const size_t size = 8192 * KB;

		OK(setrlimit(RLIMIT_AS, &limit));
		for (;;) {
			long p = weft_stack_map(size);

			if (weft_sys_failed(p)) {
				EXPECT_EQ(p, -ENOMEM);
				break;
			}
			*(char *)(p + (long)size - 1) = 1;
			all.push_back((char *)p);
			ASSERT_LT(all.size(), 1000u);
		}
		EXPECT_GT(all.size(), 100u) << "of about 380 that would fit";
		EXPECT_EQ(live_stacks(), all.size());
		char *p = all.back();
		ASSERT_TRUE(weft_stack_unmap((uintptr_t)p, size));
		EXPECT_EQ(weft_stack_map(size), (long)p);
	});
}

TEST(Stack, EveryFailedMmapIsEnomemOrSurvived)
{
	for (unsigned n = 1; n <= 6; n++)
		in_child([n] {
			weft_fault_arm(WEFT_FAULT_MMAP, n);
			for (int i = 0; i < 40; i++) {
				long p = weft_stack_map(64 * KB);

				if (weft_sys_failed(p)) {
					EXPECT_EQ(p, -ENOMEM);
					p = weft_stack_map(64 * KB);
				}
				ASSERT_FALSE(weft_sys_failed(p)) << "the next one works";
				*(char *)p = 1;
			}
			EXPECT_EQ(live_stacks(), 40u);
		});
}

TEST(Stack, ManySizesLiveSideBySide)
{
	weft_seed();
	in_child([] {
		struct One {
			char *p;
			size_t size;
			char mark;
		};
		std::vector<One> live;
		Random random(1);

		for (int i = 0; i < 5000; i++) {
			if (live.size() > 200 || (!live.empty() && random.one_in(3))) {
				size_t at = random.below(live.size());
				One one = live[at];

				ASSERT_EQ(one.p[0], one.mark);
				ASSERT_EQ(one.p[one.size - 1], one.mark);
				ASSERT_TRUE(weft_stack_unmap((uintptr_t)one.p, one.size));
				live[at] = live.back();
				live.pop_back();
				continue;
			}
			size_t size = (4 + random.below(30)) * PAGE;
			char *p = map_stack(size), mark = (char)random.next();

			p[0] = p[size - 1] = mark;
			live.push_back({p, size, mark});
		}
	});
}

TEST(Stack, ManyThreadsTakeAndGiveAtOnce)
{
	in_child([] {
		std::vector<std::thread> threads;

		for (int t = 0; t < 4; t++)
			threads.emplace_back([t] {
				for (int i = 0; i < rounds(20000); i++) {
					size_t size = (size_t)(16 + i % 3 * 16) * KB;
					char *p = map_stack(size);

					*(volatile char *)(p + size - 1) = (char)t;
					sched_yield();
					CHECK(p[size - 1] == (char)t);
					CHECK(weft_stack_unmap((uintptr_t)p, size));
				}
			});
		for (auto &t : threads)
			t.join();
		EXPECT_EQ(live_stacks(), 0u);
	});
}

} // namespace
