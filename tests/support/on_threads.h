// on_threads.h - what the call tests share: bodies on pthreads, descriptors that close
//
// Every assertion is about what POSIX, glibc or Linux promise, and the tests run natively
// first: libc is the oracle. The bodies run on threads of their own, so that under weft
// they run on fibers; main() only creates and joins.
#ifndef TESTS_SUPPORT_ON_THREADS_H
#define TESTS_SUPPORT_ON_THREADS_H

#include "prog.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <vector>

// Like start() of prog.h, for anything that can be called.
class Thread
{
      public:
	explicit Thread(std::function<void()> body) : body_(std::move(body))
	{
		ZERO(pthread_create(&thread_, nullptr, run, this));
	}
	Thread(const Thread &) = delete;
	Thread &operator=(const Thread &) = delete;
	~Thread()
	{
		join();
	}

	void join()
	{
		if (!joined_)
			ZERO(pthread_join(thread_, nullptr));
		joined_ = true;
	}
	pthread_t id() const
	{
		return thread_;
	}

      private:
	static void *run(void *self)
	{
		static_cast<Thread *>(self)->body_();
		return nullptr;
	}
	std::function<void()> body_;
	pthread_t thread_;
	bool joined_ = false;
};

// body(0) … body(n - 1) at the same time. More than there are carriers, so that they
// park.
inline void on_threads(int n, const std::function<void(int)> &body)
{
	std::vector<std::unique_ptr<Thread>> threads;

	for (int i = 0; i < n; i++)
		threads.push_back(std::make_unique<Thread>([&body, i] { body(i); }));
}

inline void on_one_thread(const std::function<void()> &body)
{
	Thread thread(body);
}

// Two connected descriptors, [0] to read and [1] to write on; closed at the end.
struct Pair {
	enum Kind { TCP, UNIX, PIPE };
	int fd[2];

	explicit Pair(Kind kind = UNIX)
	{
		if (kind == TCP)
			tcp_pair(fd);
		else if (kind == UNIX)
			unix_pair(fd);
		else
			OK(pipe(fd));
	}
	Pair(const Pair &) = delete;
	Pair &operator=(const Pair &) = delete;
	~Pair()
	{
		shut(0);
		shut(1);
	}
	void shut(int side)
	{
		if (fd[side] >= 0)
			OK(close(fd[side]));
		fd[side] = -1;
	}
	int in() const
	{
		return fd[0];
	}
	int out() const
	{
		return fd[1];
	}
};

inline const Pair::Kind all_kinds[] = {Pair::TCP, Pair::UNIX, Pair::PIPE};

// The error of a call that must fail; 0 if it did not.
template <typename F> int error_of(F call)
{
	errno = 0;
	return call() == -1 ? errno : 0;
}

#define MS_SINCE(start) ((now_ns(CLOCK_MONOTONIC) - (start)) / 1000000)

#endif
