// on_fibers.h - a runtime of its own for each unit test, and fibers to run on it
//
// The runtime turns the process it is started in for good, so every test that starts one
// does it in a child process. Assertions made there, on whatever fiber, are printed by
// the child; its exit status tells the parent.
//
// Fibers get stacks of their own and, unless they say otherwise, a genuine thread control
// block with static TLS, made by ld.so as for a pthread: errno, malloc and gtest work on
// any carrier. Fibers::Shared runs with the main thread's; such a body touches no TLS, or
// there is one carrier only.
//
// All of it runs marked as inside weft, as behind a door: neither a signal nor the kick
// for stuck carriers interrupts. What plays the program's own code says so
// (OwnCode).
#ifndef TESTS_UNIT_SUPPORT_ON_FIBERS_H
#define TESTS_UNIT_SUPPORT_ON_FIBERS_H

#include "seeded.h"

#include <dirent.h>
#include <dlfcn.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <atomic>
#include <climits>
#include <cstddef>
#include <memory>
#include <set>
#include <string>
#include <thread>

extern "C" {
#include "runtime/futex.h"
#include "runtime/io.h"
#include "runtime/sched_impl.h"
#include "runtime/signals.h"
#include "runtime/stack.h"
#include "runtime/stats.h"
}

#if defined(__SANITIZE_ADDRESS__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

// Rounds of a stress loop: the sanitizers cost a factor of their own.
inline int rounds(int n)
{
	return SANITIZED ? (n + 9) / 10 : n;
}

// ---- a process of its own

// Nothing takes more than two seconds on a quiet machine.
enum { CHILD_LIMIT_MS = SANITIZED ? 100000 : 30000 };

// Assertions of this test that failed so far.
inline int failures()
{
	auto *result = testing::UnitTest::GetInstance()->current_test_info()->result();
	int n = 0;

	for (int i = 0; i < result->total_part_count(); i++)
		n += result->GetTestPartResult(i).failed();
	return n;
}

// Ends a child; 1 if an assertion failed here that had not failed in the parent.
[[noreturn]] inline void end_child(int failures_before, int status = 0)
{
	fflush(nullptr);
	_exit(failures() > failures_before ? 1 : status);
}

// Runs body in a forked child; its wait status, -1 if it did not end.
inline int status_of_child(const std::function<void()> &body)
{
	pid_t parent = getpid();
	int before = failures();

	fflush(nullptr);
	pid_t pid = OK(fork());

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(99);
		body();
		end_child(before);
	}
	pollfd p = {(int)OK(syscall(SYS_pidfd_open, pid, 0)), POLLIN, 0};
	int status = -1, n;

	while ((n = poll(&p, 1, CHILD_LIMIT_MS)) < 0)
		CHECK(errno == EINTR);
	if (!n)
		kill(pid, SIGKILL);
	OK(waitpid(pid, &status, 0));
	close(p.fd);
	return n ? status : -1;
}

inline void in_child(const std::function<void()> &body)
{
	int status = status_of_child(body);

	if (status == -1)
		ADD_FAILURE() << "the child hangs";
	else if (WIFSIGNALED(status))
		ADD_FAILURE() << "the child died of " << strsignal(WTERMSIG(status));
	else
		EXPECT_EQ(WEXITSTATUS(status), 0) << "see the child's output above";
}

// ---- the runtime

struct Config {
	unsigned carriers = 2;
	bool migrate = false, wouldblock = false, shuffle = false;
	bool watched = false; // with the monitor, which lets others in
	weft_engine engine = WEFT_ENGINE_AUTO;
	unsigned uring_without = 0;
	bool lend = false; // FS base, also where the kernel has FSGSBASE
};

// The tests of what waits are run on each engine: those that do not say which are told
// by the environment.
inline void choose_engine(weft_config *config)
{
	const char *name = getenv("WEFT_TEST_ENGINE");

	if (!name || config->engine != WEFT_ENGINE_AUTO || config->uring_without)
		return;
	if (!strcmp(name, "epoll"))
		config->engine = WEFT_ENGINE_EPOLL;
	else if (!strcmp(name, "oldkernel"))
		config->uring_without = ~0u;
	else
		CHECK(!"WEFT_TEST_ENGINE");
}

// What the contract demands of the caller: one thread, every signal blocked.
// libc has to believe in threads, or it leaves its locks open.
inline void prepare_process(uint64_t *ret_mask)
{
	sigset_t all, was;

	std::thread([] {}).join();
	sigfillset(&all);
	OK(sigprocmask(SIG_BLOCK, &all, &was));
	memcpy(ret_mask, &was, sizeof *ret_mask);
}

// As preload/init.c does: what the kernel does not keep is not written by instructions.
// WEFT_TEST_BASES: as WEFT_FSGSBASE there.
inline const bool fsgsbase = [] {
	const char *how = getenv("WEFT_TEST_BASES");
	bool kept = getauxval(AT_HWCAP2) & 2 && !how;

	if (kept)
		weft_bases_use_instructions();
	else if (!how || strcmp(how, "gs"))
		weft_bases_use_selectors();
	return kept;
}();

inline int start_runtime(const Config &c, const char **ret_what)
{
	weft_config config = {};

	prepare_process(&config.initial_mask);
	config.carriers = c.carriers;
	config.unwatched = !c.watched;
	config.engine = c.engine;
	config.uring_without = c.uring_without;
	choose_engine(&config);
	config.stress_migrate = c.migrate;
	config.stress_wouldblock = c.wouldblock;
	config.stress_shuffle = c.shuffle;
	config.seed = c.shuffle ? weft_seed() : 0;
	config.fs_template = weft_rdfsbase();
	config.lend_fs = c.lend || (!fsgsbase && !getenv("WEFT_TEST_BASES"));
	int err = weft_runtime_start(&config, ret_what);

	if (!err)
		weft_fiber_in_weft(weft_fiber_self(), true);
	return err;
}

// Runs body on the main fiber of a fresh runtime.
inline void on_runtime(const Config &c, const std::function<void()> &body)
{
	if (c.shuffle)
		weft_seed(); // printed here, once
	in_child([&] {
		const char *what = "";
		int err = start_runtime(c, &what);

		ASSERT_EQ(err, 0) << what << ": " << strerror(-err);
		body();
	});
}

inline void on_runtime(const std::function<void()> &body)
{
	on_runtime(Config(), body);
}

inline uint64_t counted(weft_counter id)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < weft_rt.carriers; i++)
		sum += load_relaxed(&weft_rt.carrier[i]->counters[id]);
	return sum;
}

inline uint64_t in_ms(uint64_t ms)
{
	return weft_now_ns() + ms * 1000000;
}

inline void compute(uint64_t ns)
{
	uint64_t until = weft_now_ns() + ns;

	while (weft_now_ns() < until)
		__builtin_ia32_pause();
}

// ---- what a process has

// The numbers in a folder of /proc/self, without that of the look itself.
inline std::set<std::string> names_in(const char *dir)
{
	std::set<std::string> names;
	DIR *d = opendir(dir);

	CHECK(d);
	while (dirent *e = readdir(d))
		if (e->d_name[0] != '.' && atoi(e->d_name) != dirfd(d))
			names.insert(e->d_name);
	closedir(d);
	return names;
}

// ---- memory for fibers

// Never freed: taken again by the next fiber, while the process lives.
class StackPool
{
      public:
	explicit StackPool(size_t size) : size_(size) {}
	char *take()
	{
		if (free_.empty())
			refill();
		char *base = free_.back();
		free_.pop_back();
		return base;
	}
	void give(char *base)
	{
		free_.push_back(base);
	}
	size_t size() const
	{
		return size_;
	}

      private:
	void refill()
	{
		size_t n = 64;
		char *p = (char *)mmap(nullptr, n * size_, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		CHECK(p != MAP_FAILED);
		madvise(p, n * size_, MADV_NOHUGEPAGE);
		for (size_t i = n; i--;)
			free_.push_back(p + i * size_);
	}
	size_t size_;
	std::vector<char *> free_;
};

// A thread control block as ld.so makes it for pthread_create.
inline uintptr_t new_tls()
{
	static auto allocate = (void *(*)(void *))dlsym(RTLD_DEFAULT, "_dl_allocate_tls");
	CHECK(allocate);
	auto tcb = (uintptr_t *)allocate(nullptr);
	auto like = (const uintptr_t *)weft_rdfsbase();

	CHECK(tcb);
	tcb[0] = tcb[2] = (uintptr_t)tcb; // tcb, self (glibc's nptl/tls.h)
	tcb[5] = like[5];                 // stack guard
	tcb[6] = like[6];                 // pointer guard
	return (uintptr_t)tcb;
}

// ---- fibers

class Fibers
{
      public:
	enum Tls { Own, Shared };

	explicit Fibers(Tls tls = Own, size_t stack = 256 << 10)
	    : tls_(tls), stacks_(stack)
	{
	}
	Fibers(const Fibers &) = delete;
	Fibers &operator=(const Fibers &) = delete;
	~Fibers()
	{
		join();
	}

	// Made, not started.
	struct fiber *make(std::function<void()> body)
	{
		auto job = std::make_unique<Job>();

		job->body = std::move(body);
		job->stack = stacks_.take();
		if (tls_ == Shared) {
			job->fs = weft_rdfsbase();
		} else if (free_tls_.empty()) {
			job->fs = new_tls();
		} else {
			job->fs = free_tls_.back();
			free_tls_.pop_back();
		}
		struct fiber *f = weft_fiber_new(
			job->stack + stacks_.size(), job->fs, entry, job.get());
		CHECK(f);
		weft_fiber_in_weft(f, true);
		job->alive = weft_fiber_tid(f);
		weft_fiber_set_clear_tid(f, &job->alive);
		jobs_.push_back(std::move(job));
		return f;
	}
	struct fiber *start(std::function<void()> body)
	{
		struct fiber *f = make(std::move(body));

		weft_fiber_start(f);
		return f;
	}
	// Starts it on another carrier than the calling one.
	struct fiber *start_on(unsigned carrier, std::function<void()> body)
	{
		struct fiber *f = make(std::move(body));

		weft_sched_post(weft_rt.carrier[carrier], f);
		return f;
	}
	// Waits for all, as pthread_join does: until clear_tid is 0.
	void join()
	{
		for (auto &job : jobs_) {
			while (int tid = load_acquire(&job->alive))
				weft_futex_wait((uint32_t *)&job->alive, (uint32_t)tid,
					UINT32_MAX, true, WEFT_NO_DEADLINE);
			stacks_.give(job->stack);
			if (tls_ == Own)
				free_tls_.push_back(job->fs);
		}
		jobs_.clear();
	}

      private:
	struct Job {
		std::function<void()> body;
		char *stack;
		uintptr_t fs;
		int alive;
	};

	__attribute__((noinline)) static void run(Job *job)
	{
		job->body();
	}
	// ASan would clear what it takes for this thread's stack before a call that
	// does not return; every frame that has red zones has returned by then.
	__attribute__((no_sanitize_address)) static void entry(void *job)
	{
		run((Job *)job);
		weft_fiber_exit();
	}

	Tls tls_;
	StackPool stacks_;
	std::vector<uintptr_t> free_tls_;
	std::vector<std::unique_ptr<Job>> jobs_;
};

// While it lives the calling fiber runs code of the program's.
class OwnCode
{
      public:
	OwnCode()
	{
		weft_fiber_in_weft(weft_fiber_self(), false);
	}
	~OwnCode()
	{
		weft_fiber_in_weft(weft_fiber_self(), true);
	}
};

// A kernel thread that the runtime does not know: GS base 0 tells.
class Native
{
      public:
	// From the main fiber: a new kernel thread inherits its creator's GS base. libc
	// blocks signals meanwhile, as it never does behind the doors: FS base must not
	// be lost.
	explicit Native(std::function<void()> body)
	{
		weft_fs_settle();
		thread_ = std::thread([body] {
			weft_wrgsbase(0);
			body();
		});
	}
	// Blocks the carrier: the body must be about to end.
	void join()
	{
		thread_.join();
	}
	~Native()
	{
		if (thread_.joinable())
			thread_.join();
	}

      private:
	std::thread thread_;
};

// ---- waiting for events

// A number that grows; fibers and native threads wait until it reaches something.
class Count
{
      public:
	void add(uint32_t n = 1)
	{
		fetch_add_acq_rel(&word_, n);
		weft_futex_wake(&word_, INT_MAX, UINT32_MAX, false);
	}
	void await(uint32_t n)
	{
		uint32_t now;

		while ((now = load_acquire(&word_)) < n)
			weft_futex_wait(&word_, now, UINT32_MAX, false, WEFT_NO_DEADLINE);
	}
	uint32_t get() const
	{
		return load_acquire(&word_);
	}

      private:
	uint32_t word_ = 0;
};

// Yields until it is so, for states that nobody announces.
template <typename F> void until(F so)
{
	while (!so())
		weft_yield();
}

// Holds the carrier, as a computation does.
template <typename F> void spin_until(F so)
{
	while (!so())
		__builtin_ia32_pause();
}

inline bool is_parked(const struct fiber *f, enum weft_park_reason reason)
{
	return load_relaxed(&f->state) == FIBER_PARKED &&
	       load_relaxed(&f->reason) == reason;
}

#endif
