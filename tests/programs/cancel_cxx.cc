// Cancellation unwinds C++ frames: destructors run once, catch (...) sees it and
// rethrows.
#include "prog.h"

#include <cxxabi.h>

static int fds[2], destroyed, caught;

struct Guard {
	~Guard()
	{
		__atomic_fetch_add(&destroyed, 1, __ATOMIC_SEQ_CST);
	}
};

static void deep(int depth)
{
	Guard guard;
	char c;

	if (depth)
		return deep(depth - 1);
	CHECK(read(fds[0], &c, 1) != 1);
}

static void *run(void *arg)
{
	Guard guard;

	try {
		deep(5);
	} catch (abi::__forced_unwind &) {
		__atomic_fetch_add(&caught, 1, __ATOMIC_SEQ_CST);
		throw;
	}
	return arg;
}

int main()
{
	pthread_t threads[20];
	int cancelled = 0;

	OK(pipe(fds));
	for (auto &t : threads)
		t = start(run, nullptr);
	settle();
	for (auto &t : threads)
		ZERO(pthread_cancel(t));
	for (auto &t : threads)
		cancelled += finish(t) == PTHREAD_CANCELED;
	say("%d cancelled, %d caught", cancelled, caught);
	// A thread that had not begun has no frames yet: count those that had.
	say("each frame destroyed once: %d", destroyed == 7 * caught);
	return 0;
}
