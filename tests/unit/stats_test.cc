// runtime/stats.c: what the user is told.
#include "on_fibers.h"

#include <map>
#include <sstream>

namespace
{

// All pairs of "weft stats: [group] key=value …", as "group key" or "key".
std::map<std::string, uint64_t> read_stats(std::string *ret_text = nullptr)
{
	int fd = OK(memfd_create("stats", 0));
	char buf[16384];
	std::map<std::string, uint64_t> pairs;
	std::string line;

	weft_stats_write(fd);
	ssize_t n = OK(pread(fd, buf, sizeof buf, 0));
	close(fd);
	std::istringstream in(std::string(buf, (size_t)n));
	if (ret_text)
		*ret_text = in.str();
	while (std::getline(in, line)) {
		EXPECT_EQ(line.rfind("weft stats:", 0), 0u) << line;
		std::istringstream words(line.substr(11));
		std::string word, group;
		while (words >> word) {
			size_t eq = word.find('=');

			if (eq == std::string::npos)
				group += word + " ";
			else
				pairs[group + word.substr(0, eq)] =
					strtoull(word.c_str() + eq + 1, nullptr, 10);
		}
	}
	return pairs;
}

TEST(Stats, AreSilentBeforeTheStart)
{
	EXPECT_TRUE(read_stats().empty());
}

TEST(Stats, CountFibersByWhatTheyWaitFor)
{
	on_runtime({2}, [] {
		Fibers fibers;
		Count go;
		int fd[2];

		unix_pair(fd);
		for (int i = 0; i < 5; i++)
			fibers.start([&] { go.await(1); });
		for (int i = 0; i < 3; i++)
			fibers.start([&] { weft_sleep_until(in_ms(3600000)); });
		for (int i = 0; i < 2; i++)
			fibers.start([&] {
				char c;
				weft_io_recv(fd[0], &c, 1, 0, nullptr, nullptr,
					WEFT_TRIED_NOT);
			});
		until([&] {
			auto s = read_stats();
			return s["parked futex"] == 5 && s["parked sleep"] == 3 &&
			       s["parked read"] == 2;
		});
		auto s = read_stats();
		EXPECT_EQ(s["fibers created"], 10u);
		EXPECT_EQ(s["fibers alive"], 11u);
		EXPECT_EQ(s["fibers peak"], 11u);
		EXPECT_EQ(s["fibers running"], 1u);
		EXPECT_EQ(s["fibers ready"], 0u);
		EXPECT_EQ(s["carriers count"], 2u);
		EXPECT_EQ(s["carriers cpus"], weft_runtime_cpus());
		EXPECT_GE(s["futex_waits_parked"], 5u);
		EXPECT_GE(s["calls_that_parked_for_a_descriptor"], 2u);
		end_child(0); // not waiting for those who sleep
	});
}

TEST(Stats, EveryCounterHasALine)
{
	on_runtime([] {
		auto s = read_stats();

#define WEFT_COUNTER(id, text)                                                           \
	{                                                                                \
		std::string key = text;                                                  \
		for (char &c : key)                                                      \
			c = c == ' ' ? '_' : c;                                          \
		EXPECT_TRUE(s.count(key) || key == "fibers_created") << key;             \
	}
#include "runtime/counters.def"
#undef WEFT_COUNTER
	});
}

TEST(Stats, ReasonsHaveTexts)
{
	for (int r = 0; r < WEFT_REASONS; r++)
		EXPECT_GT(strlen(weft_reason_text((enum weft_park_reason)r)), 2u) << r;
	EXPECT_STREQ(weft_reason_text(WEFT_REASONS), "?");
}

TEST(Stats, NameNativeCallsWhenTheyCan)
{
	on_runtime([] {
		weft_count_native(SYS_uname);
		weft_count_native(SYS_uname);
		weft_count_native(SYS_sync);
		weft_count_native(100000); // unknown numbers are nobody's
		weft_count_first_try(WEFT_TURN_ANSWER, -1);
		weft_count_mutex_contended();
		auto s = read_stats();
		EXPECT_EQ(s["native " + std::to_string(SYS_uname)], 2u);
		weft_stats_call_name = [](unsigned nr) -> const char * {
			return nr == SYS_uname ? "uname" : nullptr;
		};
		s = read_stats();
		EXPECT_EQ(s["native uname"], 2u);
		EXPECT_EQ(s["native " + std::to_string(SYS_sync)], 1u);
		EXPECT_EQ(s["calls_done_at_the_first_attempt"], 1u);
		EXPECT_EQ(s["contended_mutex_locks"], 1u);
	});
}

TEST(Stats, CanBeWrittenFromEverywhereAtOnce)
{
	on_runtime({3}, [] {
		Fibers fibers;
		std::atomic<int> running{8};

		for (int i = 0; i < 8; i++)
			fibers.start([&] {
				for (int k = 0; k < 20; k++) {
					std::string text;
					auto s = read_stats(&text);

					ASSERT_EQ(s["carriers count"], 3u) << text;
					ASSERT_EQ(text.back(), '\n');
					weft_yield();
				}
				running--;
			});
		Native thread([&] {
			while (running)
				read_stats();
		});
		until([&] { return running == 0; });
	});
}

TEST(Stats, ABrokenDescriptorDoesNoHarm)
{
	on_runtime([] {
		weft_stats_write(-1);
		EXPECT_GT(read_stats().size(), 10u);
	});
}

} // namespace
