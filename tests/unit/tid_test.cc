// runtime/fiber.c: virtual ids of different processes.
#include "on_fibers.h"

namespace
{

// The ids that the first n fibers have in a process that believes its pid to be this.
std::vector<int> ids_of(int pid, int n)
{
	weft_fiber_ids_start(pid);
	Fibers fibers(Fibers::Shared, 16 << 10);
	std::vector<int> ids;
	Count go;

	for (int i = 0; i < n; i++) {
		struct fiber *f = fibers.make([&go] { go.await(1); });

		ids.push_back(weft_fiber_tid(f));
		EXPECT_EQ(weft_fiber_by_tid(ids.back()), f);
		weft_fiber_start(f);
	}
	for (int id : ids) {
		EXPECT_GT(id, WEFT_TID_MIN);
		EXPECT_LE(id, WEFT_TID_MAX);
		EXPECT_NE(weft_fiber_by_tid(id), nullptr);
	}
	go.add();
	fibers.join();
	for (int id : ids)
		EXPECT_EQ(weft_fiber_by_tid(id), nullptr) << "ended";
	return ids;
}

// glibc's clock of a thread: the id's complement, shifted, in an int.
TEST(Tids, SurviveTheEncodingOfCpuClocks)
{
	for (int id : {WEFT_TID_MIN + 1, WEFT_TID_MAX}) {
		int clock = (int)(~(unsigned)id << 3 | 6);

		EXPECT_LT(clock, 0);
		EXPECT_EQ(~(clock >> 3), id);
	}
}

TEST(Tids, OfRelativesNeverCoincide)
{
	on_runtime({1}, [] {
		std::set<int> seen;
		size_t all = 0;

		// Generations differ: every round reuses entries of the one before.
		for (int pid : {1000, 1001, 1002, 1100, 1255}) {
			for (int id : ids_of(pid, 1000))
				seen.insert(id);
			all += 1000;
			EXPECT_EQ(seen.size(), all) << "pid " << pid;
		}
	});
}

TEST(Tids, WrapAroundTheirRange)
{
	// The largest pid, and one whose ids begin just below the end of the range.
	const int64_t range = WEFT_TID_MAX - WEFT_TID_MIN;
	int edge = 0;

	for (int pid = 1; pid < 1 << 22 && !edge; pid++)
		if (range - (int64_t)pid * 8191 % range < 3000000)
			edge = pid;
	ASSERT_NE(edge, 0);
	for (int pid : {(1 << 22) - 1, edge})
		on_runtime({1}, [pid] { EXPECT_EQ(ids_of(pid, 300).size(), 300u); });
}

TEST(Tids, ComeBackLate)
{
	on_runtime({1}, [] {
		std::set<int> seen;

		for (int i = 0; i < rounds(20000); i++) {
			Fibers fibers(Fibers::Shared, 16 << 10);
			int id = weft_fiber_tid(fibers.start([] {}));

			fibers.join();
			ASSERT_TRUE(seen.insert(id).second) << "after " << i;
		}
	});
}

} // namespace
