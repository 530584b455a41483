// thread_local destructors, exceptions thrown across parks and threads, futures.
#include "prog.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <future>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

static std::atomic<int> built, destroyed, unwound;

struct Counted {
	int value = 7;
	Counted()
	{
		built++;
	}
	~Counted()
	{
		destroyed++;
	}
};

static thread_local Counted counted;

struct Unwound {
	~Unwound()
	{
		unwound++;
	}
};

static int pipe_fds[2];

static void throws_after_parking(int depth)
{
	Unwound guard;

	if (depth > 0)
		return throws_after_parking(depth - 1);
	char c;
	CHECK(read(pipe_fds[0], &c, 1) == 1);
	throw std::runtime_error(std::string("read ") + c);
}

int main()
{
	std::vector<std::thread> threads;
	for (int i = 0; i < 30; i++)
		threads.emplace_back([i] {
			counted.value += i;
			std::this_thread::yield();
			CHECK(counted.value == 7 + i);
		});
	for (auto &t : threads)
		t.join();
	say("thread_local: %d built, %d destroyed", built.load(), destroyed.load());

	OK(pipe(pipe_fds));
	std::vector<std::future<void>> futures;
	for (int i = 0; i < 10; i++)
		futures.push_back(
			std::async(std::launch::async, throws_after_parking, 5));
	for (int i = 0; i < 10; i++)
		OK(write(pipe_fds[1], "x", 1));
	int caught = 0;
	for (auto &f : futures) {
		try {
			f.get();
		} catch (const std::runtime_error &e) {
			caught += std::string(e.what()) == "read x";
		}
	}
	say("exceptions: %d caught, %d frames unwound", caught, unwound.load());

	// Parks between throw and rethrow: the caught exception is the thread's.
	std::vector<std::thread> holders;
	std::atomic<int> right{0};
	for (int i = 0; i < 20; i++)
		holders.emplace_back([i, &right] {
			try {
				throw i;
			} catch (int) {
				usleep(1000);
				try {
					throw;
				} catch (int again) {
					right += again == i &&
						 std::uncaught_exceptions() == 0;
				}
			}
		});
	for (auto &t : holders)
		t.join();
	say("rethrown after a sleep: %d right", right.load());

	std::promise<int> promise;
	std::thread setter([&promise] { promise.set_value_at_thread_exit(5); });
	say("promise: %d", promise.get_future().get());
	setter.join();

	// pthread_exit unwinds C++ frames.
	unwound = 0;
	std::thread leaver([] {
		Unwound guard;
		pthread_exit(nullptr);
	});
	leaver.join();
	say("pthread_exit unwound %d", unwound.load());
	return 0;
}
