// runtime/runtime.c and carrier.c: starting, all or nothing; descriptors; fork.
#include "on_fibers.h"

#include <sys/resource.h>

#include "runtime/keepers.h"

#include <algorithm>
#include <fstream>
#include <map>

namespace
{

// ---- what a process has

struct Possessions {
	std::set<std::string> fds, threads;
	std::vector<std::string> maps;
	std::vector<std::string> actions;
	std::string altstack, mask, limits;
	uintptr_t gs;
};

template <typename T> std::string bytes_of(const T &v)
{
	return std::string((const char *)&v, sizeof v);
}

// The address ranges and protections; neighbours are merged, as the kernel may.
std::vector<std::string> mappings()
{
	std::ifstream in("/proc/self/maps");
	std::string line;
	std::vector<std::string> maps;
	unsigned long end = 0;

	while (std::getline(in, line)) {
		unsigned long from, to;
		char prot[8];

		CHECK(sscanf(line.c_str(), "%lx-%lx %7s", &from, &to, prot) == 3);
		/* libc's heap, and what the sanitizers map, come and go. */
		if (line.find("[heap]") != std::string::npos || prot[3] == 's')
			continue;
		maps.push_back(line.substr(0, line.find(' ')) + " " + prot);
		end = to;
	}
	(void)end;
	return maps;
}

struct kernel_action {
	void *handler;
	unsigned long flags;
	void *restorer;
	uint64_t mask;
};

void look(Possessions *p)
{
	stack_t ss = {};
	uint64_t mask = 0;
	rlimit limit;

	p->actions.clear();
	for (int sig = 1; sig <= 64; sig++) {
		kernel_action act = {};

		syscall(SYS_rt_sigaction, sig, nullptr, &act, 8);
		p->actions.push_back(bytes_of(act));
	}
	sigaltstack(nullptr, &ss);
	p->altstack =
		std::to_string((uintptr_t)ss.ss_sp) + " " + std::to_string(ss.ss_flags);
	syscall(SYS_rt_sigprocmask, 0, nullptr, &mask, 8);
	getrlimit(RLIMIT_NOFILE, &limit);
	p->limits = bytes_of(limit);
	p->gs = weft_rdgsbase();
	p->fds = names_in("/proc/self/fd");
	p->threads = names_in("/proc/self/task");
	p->maps = mappings();
}

// A kernel thread that ends needs a moment; nothing else may.
void look_until_one_thread(Possessions *p)
{
	for (int i = 0; i < 2000 && names_in("/proc/self/task").size() > 1; i++)
		usleep(1000);
	look(p);
}

std::string difference(
	const std::vector<std::string> &a, const std::vector<std::string> &b)
{
	std::string text;

	for (auto &s : a)
		if (std::find(b.begin(), b.end(), s) == b.end())
			text += "- " + s + "\n";
	for (auto &s : b)
		if (std::find(a.begin(), a.end(), s) == a.end())
			text += "+ " + s + "\n";
	return text;
}

void run_a_few_fibers()
{
	Fibers fibers;
	Count count;

	for (int i = 0; i < 10; i++)
		fibers.start([&] {
			weft_yield();
			weft_sleep_until(in_ms(1));
			count.add();
		});
	fibers.join();
	EXPECT_EQ(count.get(), 10u);
}

int start_with(
	unsigned carriers, const char **ret_what, weft_engine engine = WEFT_ENGINE_AUTO)
{
	weft_config config = {};

	config.carriers = carriers;
	config.engine = engine;
	config.fs_template = weft_rdfsbase();
	int err = weft_runtime_start(&config, ret_what);

	if (!err)
		weft_fiber_in_weft(weft_fiber_self(), true);
	return err;
}

// The n-th call of a kind fails, for every n until the start succeeds.
void every_failure_leaves_nothing(weft_engine engine, weft_fault kind, unsigned at_least)
{
	enum { STARTED = 10 };
	unsigned n = 1;

	for (;; n++) {
		int status = status_of_child([&] {
			Possessions before, after;
			const char *what = "nothing";
			uint64_t mask;

			prepare_process(&mask);
			look_until_one_thread(&before);
			look(&before); // the first look itself allocates
			weft_fault_arm(kind, n);
			int err = start_with(3, &what, engine);
			weft_fault_arm(kind, 0);
			if (!err) {
				int failed = failures();
				run_a_few_fibers();
				end_child(failed, STARTED);
			}
			SCOPED_TRACE("call " + std::to_string(n) + " failed: " + what);
			EXPECT_LT(err, 0);
			ASSERT_NE(what, nullptr);
			EXPECT_FALSE(weft_runtime_running());
			EXPECT_EQ(weft_fiber_self(), nullptr);
			EXPECT_EQ(weft_fiber_main(), nullptr);
			look_until_one_thread(&after);
			EXPECT_EQ(after.fds, before.fds) << "descriptors";
			EXPECT_EQ(after.threads, before.threads) << "kernel threads";
			EXPECT_EQ(after.actions, before.actions) << "dispositions";
			EXPECT_EQ(after.altstack, before.altstack);
			EXPECT_EQ(after.limits, before.limits);
			EXPECT_EQ(after.gs, 0u);
			EXPECT_EQ(weft_rt.alive, 0u) << "fibers in the table";
			if (!SANITIZED) { // whose own mappings come and go
				EXPECT_EQ(difference(before.maps, after.maps), "")
					<< "mappings";
			}

			ASSERT_EQ(start_with(3, &what, engine), 0)
				<< "the second try: " << what;
			EXPECT_EQ(weft_rt.alive, 1u);
			run_a_few_fibers();
		});
		ASSERT_NE(status, -1) << "call " << n << ": hangs";
		ASSERT_TRUE(WIFEXITED(status))
			<< "call " << n << ": " << strsignal(WTERMSIG(status));
		if (WEXITSTATUS(status) == STARTED)
			break; // all of them succeeded
		EXPECT_EQ(WEXITSTATUS(status), 0) << "call " << n;
		ASSERT_LT(n, 50u);
	}
	EXPECT_GT(n, at_least) << "as many calls were expected to matter";
}

TEST(Start, EveryFailedMmapLeavesNothing)
{
	// carriers, rings, table, receiver
	every_failure_leaves_nothing(WEFT_ENGINE_IO_URING, WEFT_FAULT_MMAP, 6);
}

TEST(Start, EveryFailedMmapLeavesNothingOnEpoll)
{
	every_failure_leaves_nothing(WEFT_ENGINE_EPOLL, WEFT_FAULT_MMAP, 6);
}

TEST(Start, EveryRefusedRingLeavesNothing)
{
	every_failure_leaves_nothing(WEFT_ENGINE_IO_URING, WEFT_FAULT_IO_URING_SETUP, 3);
}

// Whichever ring is refused: no other is left, and fibers wait with epoll.
TEST(Start, WithoutAllRingsThereIsEpoll)
{
	for (unsigned n = 1; n <= 4; n++)
		in_child([n] {
			uint64_t mask;
			const char *what;
			unsigned rings = 0;

			prepare_process(&mask);
			weft_fault_arm(WEFT_FAULT_IO_URING_SETUP, n);
			ASSERT_EQ(start_with(3, &what), 0) << what;
			EXPECT_STREQ(weft_engine_name(), n <= 3 ? "epoll" : "io_uring");
			EXPECT_STREQ(weft_engine_reason(),
				n <= 3 ? "io_uring:ENOSYS" : "default");
			for (auto &fd : names_in("/proc/self/fd")) {
				char link[64] = "";

				OK(readlink(("/proc/self/fd/" + fd).c_str(), link,
					sizeof link - 1));
				rings += strstr(link, "io_uring") != nullptr;
			}
			EXPECT_EQ(rings, n <= 3 ? 0u : 3u);
			run_a_few_fibers();
		});
}

TEST(Start, EveryFailedCloneLeavesNothing)
{
	// receiver, monitor, carrier 1
	every_failure_leaves_nothing(WEFT_ENGINE_IO_URING, WEFT_FAULT_CLONE, 3);
	every_failure_leaves_nothing(WEFT_ENGINE_EPOLL, WEFT_FAULT_CLONE, 3);
}

TEST(Start, FailsWithEmfileWhenNoDescriptorIsLeft)
{
	in_child([] {
		uint64_t mask;
		const char *what;

		prepare_process(&mask);
		size_t used = names_in("/proc/self/fd").size();
		rlimit limit = {used + 2, used + 2};
		OK(setrlimit(RLIMIT_NOFILE, &limit));
		std::set<std::string> before = names_in("/proc/self/fd");
		EXPECT_EQ(start_with(3, &what, WEFT_ENGINE_IO_URING), -EMFILE);
		EXPECT_STREQ(what, "io_uring");
		EXPECT_EQ(names_in("/proc/self/fd"), before);
		EXPECT_EQ(start_with(3, &what), -EMFILE);
		EXPECT_STREQ(what, "epoll");
		EXPECT_EQ(names_in("/proc/self/fd"), before);
		EXPECT_FALSE(weft_runtime_running());
	});
}

// A failed activation must leave the program its signals.
TEST(Start, AfterAFailedCloneSignalsReachTheProgram)
{
	for (unsigned n = 1; n <= 3; n++)
		in_child([n] {
			static volatile sig_atomic_t got;
			uint64_t mask;
			const char *what;

			signal(SIGUSR1, [](int) { got = 1; });
			prepare_process(&mask);
			weft_fault_arm(WEFT_FAULT_CLONE, n);
			ASSERT_LT(start_with(2, &what), 0);
			/* Blocked, it stays pending until it is let in. */
			sigset_t set, pending;
			sigfillset(&set);
			OK(sigprocmask(SIG_BLOCK, &set, nullptr));
			OK(kill(getpid(), SIGUSR1));
			usleep(20000); /* for the one who must not take it */
			OK(sigpending(&pending));
			EXPECT_TRUE(sigismember(&pending, SIGUSR1)) << "somebody took it";
			OK(sigprocmask(SIG_UNBLOCK, &set, nullptr));
			EXPECT_EQ(got, 1);
		});
}

// ---- carriers

TEST(Start, FewerKernelThreadsAreFewerCarriers)
{
	for (unsigned n = 4; n <= 9; n++)
		in_child([n] {
			uint64_t mask;
			const char *what;

			prepare_process(&mask);
			weft_fault_arm(WEFT_FAULT_CLONE,
				n); /* receiver and monitor come first */
			ASSERT_EQ(start_with(8, &what), 0);
			EXPECT_EQ(weft_rt.carriers, n - 2);
			run_a_few_fibers();
		});
}

// The carriers that run already look for work at those that are taken back.
TEST(Start, RunningCarriersDoNotSeeTheOnesTakenBack)
{
	for (int i = 0; i < rounds(60); i++)
		in_child([i] {
			uint64_t mask;
			const char *what;

			prepare_process(&mask);
			weft_fault_arm(WEFT_FAULT_CLONE, 4 + (unsigned)i % 40);
			ASSERT_EQ(start_with(64, &what), 0);
			run_a_few_fibers();
		});
}

TEST(Start, OneCarrierIsEnough)
{
	on_runtime({1}, [] {
		EXPECT_EQ(weft_rt.carriers, 1u);
		run_a_few_fibers();
	});
}

TEST(Start, ThereAreAtMost64Carriers)
{
	on_runtime({1000}, [] {
		EXPECT_EQ(weft_rt.carriers, 64u);
		/* … and the receiver; */
		EXPECT_EQ(names_in("/proc/self/task").size(), 65u);
		run_a_few_fibers();
	});
}

TEST(Start, WithoutAWishThereIsOneCarrierPerCpuAndAtLeastTwo)
{
	cpu_set_t all;
	OK(sched_getaffinity(0, sizeof all, &all));
	unsigned cpus = (unsigned)CPU_COUNT(&all);

	on_runtime({0}, [cpus] {
		EXPECT_EQ(weft_runtime_cpus(), cpus);
		EXPECT_EQ(weft_rt.carriers, std::max(2u, cpus));
	});
	in_child([] {
		cpu_set_t one;
		const char *what;

		CPU_ZERO(&one);
		CPU_SET((unsigned)sched_getcpu(), &one);
		OK(sched_setaffinity(0, sizeof one, &one));
		ASSERT_EQ(start_runtime({0}, &what), 0);
		EXPECT_EQ(weft_runtime_cpus(), 1u);
		EXPECT_EQ(weft_rt.carriers, 2u);
		run_a_few_fibers();
	});
}

TEST(Start, TheCallingThreadBecomesCarrierZeroAndTheMainFiber)
{
	on_runtime([] {
		struct fiber *f = weft_fiber_self();

		ASSERT_NE(f, nullptr);
		EXPECT_EQ(f, weft_fiber_main());
		EXPECT_EQ(f, weft_enter_fiber());
		EXPECT_EQ(weft_fiber_tid(f), getpid());
		EXPECT_EQ(weft_fiber_by_tid(getpid()), f);
		EXPECT_EQ(weft_carrier_self()->id, 0u);
		EXPECT_EQ(weft_carrier_self()->tid, getpid());
	});
}

TEST(Start, KernelThreadsHaveNamesThatSayWhoTheyAre)
{
	on_runtime({3, false, false, false, true}, [] {
		std::multiset<std::string> names;

		until([&] {
			names.clear();
			for (auto &tid : names_in("/proc/self/task")) {
				std::ifstream in("/proc/self/task/" + tid + "/comm");
				std::string name;

				std::getline(in, name);
				if (tid != std::to_string(getpid()))
					names.insert(name);
			}
			return names.count("weft/1") && names.count("weft/2") &&
			       names.count("weft/monitor");
		});
		EXPECT_EQ(names.size(), 4u)
			<< "two more carriers, the receiver and the monitor";
	});
}

TEST(Carriers, SleepInTheKernelWhenThereIsNothingToDo)
{
	on_runtime({4}, [] {
		weft_sleep_until(in_ms(20)); // what starting up leaves to do
		uint64_t before = counted(WEFT_COUNTER_SLEEPS);
		timespec cpu[2];

		OK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu[0]));
		weft_sleep_until(in_ms(500));
		OK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu[1]));
		EXPECT_LT(counted(WEFT_COUNTER_SLEEPS) - before, 10u);
		int64_t used = (cpu[1].tv_sec - cpu[0].tv_sec) * 1000000000 +
			       cpu[1].tv_nsec - cpu[0].tv_nsec;
		EXPECT_LT(used, 50000000) << "ns of CPU in half a second of nothing";
	});
}

TEST(Spawn, RunsAFunctionOnAKernelThreadOfItsOwn)
{
	on_runtime([] {
		static std::atomic<long> tid{0};

		ASSERT_EQ(weft_runtime_spawn([](void *) {
			tid = weft_sys0(SYS_gettid);
			for (;;)
				weft_sys0(SYS_pause);
		}),
			0);
		until([] { return tid != 0; });
		EXPECT_NE(tid, getpid());
		weft_fault_arm(WEFT_FAULT_CLONE, 1);
		EXPECT_LT(weft_runtime_spawn([](void *) {}), 0);
		weft_fault_arm(WEFT_FAULT_MMAP, 1);
		EXPECT_EQ(weft_runtime_spawn([](void *) {}), -ENOMEM);
	});
}

// ---- descriptors

std::vector<int> own_fds()
{
	std::vector<int> fds;

	for (auto &name : names_in("/proc/self/fd"))
		if (weft_runtime_owns_fd(atoi(name.c_str())))
			fds.push_back(atoi(name.c_str()));
	std::sort(fds.begin(), fds.end());
	return fds;
}

TEST(Descriptors, AreHighCloseOnExecAndKnown)
{
	int lowest_free = OK(dup(0));
	close(lowest_free);

	on_runtime({3}, [lowest_free] {
		std::vector<int> fds = own_fds();
		int low, high, fd = OK(dup(0));

		EXPECT_EQ(fds.size(), 9u) << "a ring, an eventfd and its state each";
		EXPECT_EQ(fd, lowest_free) << "the lowest numbers stay the program's";
		close(fd);
		for (int own : fds)
			EXPECT_EQ(fcntl(own, F_GETFD), FD_CLOEXEC);
		ASSERT_TRUE(weft_runtime_fd_range(&low, &high));
		EXPECT_EQ(low, fds.front());
		EXPECT_EQ(high, fds.back());
		EXPECT_FALSE(weft_runtime_owns_fd(0));
		EXPECT_FALSE(weft_runtime_owns_fd(-1));
	});
}

TEST(Descriptors, CanBeMovedWhileCarriersUseThem)
{
	on_runtime({3}, [] {
		for (int round = 0; round < 5; round++) {
			for (int fd : own_fds()) {
				struct stat st;

				ASSERT_EQ(weft_runtime_move_fd(fd), 0);
				EXPECT_FALSE(weft_runtime_owns_fd(fd));
				EXPECT_EQ(fstat(fd, &st), 0)
					<< "the old number stays open";
				close(fd);
			}
			run_a_few_fibers();
		}
		EXPECT_EQ(own_fds().size(), 9u);
	});
}

// A carrier asks for its event anew after each time it was woken.
TEST(Descriptors, TheOldNumberOfAnEventIsTheProgramsAlone)
{
	on_runtime({2}, [] {
		int old = weft_rt.carrier[1]->event_fd, fd[2];
		char text[8];

		OK(pipe(fd));
		weft_sleep_until(in_ms(20)); // until carrier 1 has asked for it
		ASSERT_EQ(weft_runtime_move_fd(old), 0);
		OK(dup2(fd[0], old));
		EXPECT_EQ(write(fd[1], "8 bytes.", 8), 8);
		for (int wake = 0; wake < 4; wake++) {
			Fibers fibers;
			std::atomic<bool> ran{false};
			uint64_t give_up = in_ms(5000);

			weft_sleep_until(in_ms(5)); // until carrier 1 sleeps
			fibers.start_on(1, [&] { ran = true; });
			spin_until([&] { return ran || weft_now_ns() > give_up; });
			ASSERT_TRUE(ran);
			fibers.join();
		}
		OK(fcntl(old, F_SETFL, O_NONBLOCK));
		EXPECT_EQ(read(old, text, sizeof text), 8);
		close(old);
	});
}

// A number that is taken at each look would be seen by others, or be theirs.
TEST(Descriptors, NoneIsTakenToTellWhatACarrierDoes)
{
	on_runtime({2}, [] {
		struct rlimit before, none;

		OK(getrlimit(RLIMIT_NOFILE, &before));
		none = before;
		none.rlim_cur = 0;
		OK(setrlimit(RLIMIT_NOFILE, &none));
		EXPECT_LT(dup(0), 0);
		EXPECT_EQ(weft_keepers_state(weft_carrier_self()), 'R');
		OK(setrlimit(RLIMIT_NOFILE, &before));
	});
}

// Its first thread is made, and the limit lowered: not all carriers have begun yet.
TEST(Descriptors, TheLimitMayBeLoweredAtOnce)
{
	for (int i = 0; i < rounds(20); i++)
		on_runtime({8}, [] {
			const struct rlimit none = {0, 4096};
			Fibers fibers;
			std::atomic<int> ran{0};

			OK(setrlimit(RLIMIT_NOFILE, &none));
			for (int k = 0; k < 32; k++)
				fibers.start([&] {
					weft_sleep_until(weft_now_ns() + 1000000);
					ran++;
				});
			fibers.join();
			EXPECT_EQ(ran, 32);
			carrier *later;
			ASSERT_EQ(weft_carrier_add(&later), 0);
			EXPECT_TRUE(weft_carrier_begins(later));
		});
}

TEST(Descriptors, WhereTheyAreFewItIsNotKnownWhatACarrierDoes)
{
	struct rlimit few = {64, 64};

	OK(setrlimit(RLIMIT_NOFILE, &few));
	on_runtime({2}, [] {
		int low, high;

		EXPECT_EQ(own_fds().size(), 4u);
		EXPECT_EQ(weft_keepers_state(weft_carrier_self()), 0);
		ASSERT_TRUE(weft_runtime_fd_range(&low, &high));
		EXPECT_EQ(low, 60);
		EXPECT_EQ(high, 63);
	});
}

TEST(Descriptors, ThereAreNoneBeforeTheStart)
{
	int low, high;

	EXPECT_FALSE(weft_runtime_fd_range(&low, &high));
	EXPECT_FALSE(weft_runtime_owns_fd(3));
}

// ---- fork

// The child starts anew; its parent goes on.
void fork_and_start_again(bool from_main)
{
	on_runtime({2}, [from_main] {
		Fibers fibers;
		auto body = [] {
			int failed = failures();

			weft_runtime_lock_all();
			long pid = syscall(SYS_fork);
			if (pid == 0) {
				const char *what;

				weft_runtime_forget();
				EXPECT_FALSE(weft_runtime_running());
				EXPECT_EQ(weft_rdgsbase(), 0u);
				EXPECT_EQ(weft_fiber_self(), nullptr);
				EXPECT_EQ(names_in("/proc/self/task").size(), 1u);
				for (auto &name : names_in("/proc/self/fd")) {
					char link[64] = "";
					std::string path = "/proc/self/fd/" + name;

					if (readlink(path.c_str(), link,
						    sizeof link - 1) > 0) {
						EXPECT_EQ(strstr(link, "io_uring"),
							nullptr);
					}
				}
				ASSERT_EQ(start_runtime({3}, &what), 0) << what;
				run_a_few_fibers();
				end_child(failed);
			}
			weft_runtime_unlock_all();
			ASSERT_GT(pid, 0);
			int status;
			OK(waitpid((pid_t)pid, &status, 0));
			EXPECT_EQ(status, 0);
			run_a_few_fibers();
		};

		if (from_main) {
			body();
			return;
		}
		fibers.start(body);
		fibers.join();
	});
}

TEST(Fork, ChildOfMainStartsAnew)
{
	fork_and_start_again(true);
}

TEST(Fork, ChildOfAFiberStartsAnew)
{
	fork_and_start_again(false);
}

} // namespace
