// runtime/walk.c and runtime/unwind.c: the frames of a stack that nobody runs on.
// runtime/native.c: whose frames they are.
#include "on_fibers.h"

#include <gnu/libc-version.h>

#include <execinfo.h>
#include <link.h>

extern "C" {
#include "runtime/native.h"
#include "runtime/walk.h"
}

namespace
{

bool find_module(uintptr_t address, weft_module *ret)
{
	dl_find_object o;

	if (_dl_find_object((void *)address, &o))
		return false;
	*ret = {o.dlfo_link_map->l_name, o.dlfo_link_map->l_addr,
		(uintptr_t)o.dlfo_map_start, (uintptr_t)o.dlfo_map_end,
		(uintptr_t)o.dlfo_eh_frame};
	return true;
}

// Before the runtime starts, as preload/ does.
void open_unwinder()
{
	void *plugin = dlopen(WEFT_UNWIND_PLUGIN, RTLD_NOW | RTLD_LOCAL);

	CHECK(plugin);
	weft_walk_set_find(find_module);
	CHECK(weft_walk_open(
		(weft_unwind_open_fn *)dlsym(plugin, WEFT_UNWIND_OPEN_NAME)));
}

// What the scheduler finds on a parked fiber's stack. No gtest there: the thread-local
// storage is a carrier's.
struct Found {
	uintptr_t pc[200] = {};
	unsigned n = 0;
	int end = -1;

	static bool walk(struct fiber *f, void *arg)
	{
		Found *found = (Found *)arg;
		weft_unwind_frame at;
		bool mark;
		int r = 1;

		weft_walk_begin(&at, f->sp);
		for (found->n = 0; r > 0 && found->n < 200;) {
			found->pc[found->n++] = at.reg[WEFT_UNWIND_PC];
			r = weft_walk_next(&at, &mark);
		}
		found->end = r;
		return false; // go on at once
	}
};

struct Frames {
	Found found;
	void *expected[200];
	int n = 0;
};

// Frames of all kinds: of a size known at run time only, with every register in use.
__attribute__((noinline)) int deep(Frames *f, int depth)
{
	volatile char room[16 + depth % 5 * 40];

	room[0] = (char)depth;
	if (depth)
		return deep(f, depth - 1) + room[0];
	f->n = backtrace(f->expected, 200);
	weft_park(WEFT_REASON_YIELD, Found::walk, &f->found);
	return room[0];
}

// The same callers, from the innermost that both have on.
void expect_same(const Frames &f)
{
	const Found &w = f.found;
	int outer = 0;

	EXPECT_EQ(w.end, 0) << "the walk ends where nobody called";
	ASSERT_GT(f.n, 3);
	while (outer < f.n - 1 && outer < (int)w.n &&
		w.pc[w.n - 1 - outer] == (uintptr_t)f.expected[f.n - 1 - outer])
		outer++;
	// All but deep() itself, which went on to another call, and a function that the
	// sanitizer puts before backtrace().
	EXPECT_GE(outer, f.n - 1 - SANITIZED) << "of " << f.n;
}

TEST(Walk, FindsTheCallersThatGccFinds)
{
	in_child([] {
		const char *what;

		open_unwinder();
		ASSERT_EQ(start_runtime({1}, &what), 0) << what;
		Fibers fibers;
		Frames frames[6];

		for (int i = 0; i < 6; i++)
			fibers.start([&, i] { deep(&frames[i], 5 * i); });
		fibers.join();
		for (Frames &f : frames)
			expect_same(f);
		EXPECT_EQ(frames[5].found.n - frames[0].found.n, 25u);
	});
}

std::atomic<unsigned> asked;

bool count_questions(const weft_module *)
{
	asked++;
	return false;
}

TEST(Walk, AsksOnceForEachCallSiteUntilCodeIsUnmapped)
{
	in_child([] {
		const char *what;

		open_unwinder();
		weft_walk_mark = count_questions;
		ASSERT_EQ(start_runtime({1}, &what), 0) << what;
		Fibers fibers;

		fibers.start([] {
			unsigned first, second, third;
			Frames f;

			auto questions = [&f] {
				asked = 0;
				deep(&f, 5);
				return asked.load();
			};
			for (unsigned *n : {&first, &second, &third}) {
				*n = questions();
				if (n == &second)
					weft_walk_forget();
			}
			EXPECT_GT(first, 5u);
			EXPECT_EQ(second, 0u);
			EXPECT_EQ(third, first);
			expect_same(f);
		});
		fibers.join();
	});
}

TEST(Walk, SurvivesWhatIsNotThere)
{
	in_child([] {
		const char *what;

		open_unwinder();
		ASSERT_EQ(start_runtime({1}, &what), 0) << what;
		weft_unwind_frame f = {};
		uint64_t garbage[4] = {1, 2, 3, 4};
		bool mark, guessed;
		uintptr_t pc[8];

		f.reg[WEFT_UNWIND_PC] = (uint64_t)weft_park + 40;
		f.reg[WEFT_UNWIND_SP] = 0x1000;
		f.reg[WEFT_UNWIND_BP] = 0x1000;
		EXPECT_LT(weft_walk_next(&f, &mark), 0) << "an unreadable stack";
		f.reg[WEFT_UNWIND_PC] = (uint64_t)garbage;
		f.reg[WEFT_UNWIND_SP] = f.reg[WEFT_UNWIND_BP] = (uint64_t)garbage;
		for (int i = 0; i < 10 && weft_walk_next(&f, &mark) > 0; i++)
			EXPECT_FALSE(mark);
		weft_walk_begin(&f, (void *)0x2000);
		EXPECT_EQ(f.reg[WEFT_UNWIND_PC], 0u);
		EXPECT_EQ(weft_walk_collect(f, pc, 8, &guessed), 0u);
	});
}

TEST(Walk, NamesPlacesByModuleAndOffset)
{
	char where[WEFT_WHERE_MAX], expected[WEFT_WHERE_MAX];
	Dl_info info;

	weft_walk_set_find(nullptr);
	EXPECT_STREQ(weft_where(where, 0x1234), "0x1234");
	weft_walk_set_find(find_module);
	CHECK(dladdr((void *)fopen, &info));
	snprintf(expected, sizeof expected, "%s+0x%lx", basename(info.dli_fname),
		(uintptr_t)fopen - (uintptr_t)info.dli_fbase);
	EXPECT_STREQ(weft_where(where, (uintptr_t)fopen), expected);
}

TEST(Native, NamesStandForTheirVersions)
{
	weft_native_set("libfoo.so,plugin.so.2");
	EXPECT_EQ(weft_native_count(true), 2u);
	EXPECT_EQ(weft_native_match("libfoo.so"), 0);
	EXPECT_EQ(weft_native_match("libfoo.so.1.2"), 0);
	EXPECT_EQ(weft_native_match("libfoo.socket"), -1);
	EXPECT_EQ(weft_native_match("libfoo"), -1);
	EXPECT_FALSE(weft_native_met(1));
	EXPECT_EQ(weft_native_match("plugin.so.2"), 1);
	EXPECT_EQ(weft_native_match("plugin.so"), -1);
	EXPECT_TRUE(weft_native_met(1));
	EXPECT_GE(weft_native_match("libgo.so.21"), 2) << "built in";
	weft_native_set(nullptr);
	EXPECT_EQ(weft_native_count(true), 0u);
	EXPECT_EQ(weft_native_match("libfoo.so"), -1);
	EXPECT_GE(weft_native_match("libjvm.so"), 0);
}

TEST(Native, ALibrarysFramePinsForThePark)
{
	if (SANITIZED)
		GTEST_SKIP() << "the sanitizer's qsort_r is not libc's";
	in_child([] {
		const char *what;
		Dl_info info;

		open_unwinder();
		// A function of libc's that no sanitizer puts its own before.
		auto libcs = (uintptr_t)gnu_get_libc_version;
		CHECK(dladdr((void *)libcs, &info));
		weft_native_set(basename(info.dli_fname)); // libc.so.6
		EXPECT_FALSE(weft_native_has(libcs)) << "nothing is asked";
		weft_native_expect();
		EXPECT_TRUE(weft_native_has(libcs));
		EXPECT_FALSE(weft_native_has((uintptr_t)open_unwinder));
		weft_native_watch();
		// More than can be held, main's among them: without the monitor nobody
		// brings away what was given to one when all were.
		ASSERT_EQ(start_runtime({8, true}, &what), 0) << what;
		Fibers fibers;
		std::atomic<int> moved{0}, stayed{0};

		for (int i = 0; i < 4; i++)
			fibers.start([&] {
				struct Seen {
					std::atomic<int> *moved, *stayed;
				} seen = {&moved, &stayed};
				int two[2] = {2, 1};

				qsort_r(
					two, 2, sizeof *two,
					[](const void *, const void *, void *arg) {
						Seen *s = (Seen *)arg;
						carrier *c = weft_carrier_self();

						weft_sleep_until(in_ms(2));
						(weft_carrier_self() == c ? *s->stayed
									  : *s->moved)++;
						return 0;
					},
					&seen);
			});
		fibers.join();
		EXPECT_EQ(moved, 0);
		EXPECT_GE(stayed, 4);
		EXPECT_TRUE(weft_native_stays()) << "libc calls main()";
		fibers.start(
			[] { EXPECT_FALSE(weft_native_stays()) << "nothing of libc"; });
		fibers.join();
	});
}

} // namespace
