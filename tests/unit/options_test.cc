// preload/options.c: what is accepted, what is not, and what the user is told.
#include "options.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace
{

std::vector<std::string> lines;

void complain(const char *line)
{
	lines.emplace_back(line);
}

struct Parsed {
	std::vector<std::string> entries; // opt.stats_path points in here
	weft_options opt;
	std::vector<std::string> lines;
};

Parsed parse(std::vector<std::string> entries, bool secure = false)
{
	Parsed p{std::move(entries), {}, {}};
	std::vector<char *> env;

	for (std::string &e : p.entries)
		env.push_back(e.data());
	env.push_back(nullptr);
	memset(&p.opt, 0xa5, sizeof(p.opt)); // nothing may be left unset
	lines.clear();
	weft_options_parse(env.data(), secure, &p.opt, complain);
	p.lines = lines;
	return p;
}

void expect_defaults(const weft_options &o)
{
	EXPECT_FALSE(o.off);
	EXPECT_EQ(o.stats, WEFT_STATS_NONE);
	EXPECT_EQ(o.stats_every_s, 0u);
	EXPECT_EQ(o.stats_path, nullptr);
	EXPECT_EQ(o.carriers, 0u);
	EXPECT_FALSE(o.stress_migrate || o.stress_wouldblock || o.stress_shuffle);
	EXPECT_EQ(o.seed, 0u);
	EXPECT_FALSE(o.seed_given);
	EXPECT_FALSE(o.verbose);
	EXPECT_FALSE(o.sites_decode);
	EXPECT_FALSE(o.bases_by_calls);
	EXPECT_EQ(o.engine, WEFT_OPTION_ENGINE_AUTO);
	EXPECT_EQ(o.uring_without, 0u);
	EXPECT_EQ(o.fault_mmap + o.fault_io_uring_setup + o.fault_io_uring_enter +
			  o.fault_clone,
		0u);
}

bool contains(const std::string &text, const std::string &part)
{
	return text.find(part) != std::string::npos;
}

void expect_one_line(const Parsed &p)
{
	ASSERT_EQ(p.lines.size(), 1u);
	const std::string &line = p.lines[0];
	EXPECT_EQ(line.rfind("weft: ", 0), 0u) << line;
	EXPECT_EQ(line.find('\n'), line.size() - 1) << line;
	EXPECT_LT(line.size(), size_t{WEFT_OPTIONS_LINE_MAX});
}

} // namespace

TEST(Options, EmptyEnvironmentGivesDefaults)
{
	Parsed p = parse({});
	expect_defaults(p.opt);
	EXPECT_TRUE(p.lines.empty());

	memset(&p.opt, 0xa5, sizeof(p.opt));
	weft_options_parse(nullptr, false, &p.opt, complain);
	expect_defaults(p.opt);
}

TEST(Options, EachOptionIsUnderstood)
{
	const Parsed p = parse({"WEFT=on", "WEFT_STATS=exit", "WEFT_CARRIERS=64",
		"WEFT_STRESS=shuffle,migrate", "WEFT_SEED=18446744073709551615",
		"WEFT_VERBOSE=1", "WEFT_SITES=decode", "WEFT_FSGSBASE=off",
		"WEFT_ENGINE=epoll", "WEFT_URING=-defer_taskrun,-single_issuer",
		"WEFT_FAULT=mmap:3,io_uring_enter:1000000000,clone:1"});

	EXPECT_TRUE(p.lines.empty()) << p.lines[0];
	EXPECT_FALSE(p.opt.off);
	EXPECT_EQ(p.opt.stats, WEFT_STATS_EXIT);
	EXPECT_EQ(p.opt.carriers, 64u);
	EXPECT_TRUE(p.opt.stress_shuffle);
	EXPECT_TRUE(p.opt.stress_migrate);
	EXPECT_FALSE(p.opt.stress_wouldblock);
	EXPECT_EQ(p.opt.seed, UINT64_MAX);
	EXPECT_TRUE(p.opt.seed_given);
	EXPECT_TRUE(p.opt.verbose);
	EXPECT_TRUE(p.opt.sites_decode);
	EXPECT_TRUE(p.opt.bases_by_calls);
	EXPECT_FALSE(p.opt.bases_by_gs);
	EXPECT_EQ(p.opt.engine, WEFT_OPTION_ENGINE_EPOLL);
	EXPECT_EQ(p.opt.uring_without, 3u);
	EXPECT_EQ(p.opt.fault_mmap, 3u);
	EXPECT_EQ(p.opt.fault_io_uring_setup, 0u);
	EXPECT_EQ(p.opt.fault_io_uring_enter, 1000000000u);
	EXPECT_EQ(p.opt.fault_clone, 1u);
}

TEST(Options, StatsTakesExitSecondsOrPath)
{
	Parsed p = parse({"WEFT_STATS=1s"});
	EXPECT_EQ(p.opt.stats, WEFT_STATS_EVERY);
	EXPECT_EQ(p.opt.stats_every_s, 1u);

	p = parse({"WEFT_STATS=86400s"});
	EXPECT_EQ(p.opt.stats_every_s, 86400u);

	p = parse({"WEFT_STATS=/tmp/some where:1s"});
	EXPECT_EQ(p.opt.stats, WEFT_STATS_FILE);
	EXPECT_STREQ(p.opt.stats_path, "/tmp/some where:1s");
	EXPECT_TRUE(p.lines.empty());
}

// The message names what the table of features has, in its order.
TEST(Options, UringNamesAreThoseOfTheTable)
{
	const std::string names =
#define WEFT_URING_FEATURE(name) " " #name
#include "../../runtime/uring_features.def"
#undef WEFT_URING_FEATURE
		"";
	EXPECT_EQ(names, WEFT_URING_NAMES);

	unsigned bit = 1;
#define WEFT_URING_FEATURE(name)                                                         \
	EXPECT_EQ(parse({"WEFT_URING=-" #name}).opt.uring_without, bit);                 \
	bit <<= 1;
#include "../../runtime/uring_features.def"
#undef WEFT_URING_FEATURE
	EXPECT_EQ(parse({"WEFT_URING=-5.15"}).opt.uring_without, bit / 2 - 1);
	EXPECT_EQ(parse({"WEFT_URING=-5.15,-large_rings"}).opt.uring_without, bit - 1);
}

TEST(Options, EngineHasThreeNames)
{
	EXPECT_EQ(parse({"WEFT_ENGINE=auto"}).opt.engine, WEFT_OPTION_ENGINE_AUTO);
	EXPECT_EQ(
		parse({"WEFT_ENGINE=io_uring"}).opt.engine, WEFT_OPTION_ENGINE_IO_URING);
	EXPECT_EQ(parse({"WEFT_ENGINE=epoll"}).opt.engine, WEFT_OPTION_ENGINE_EPOLL);
	EXPECT_TRUE(parse({"WEFT_FSGSBASE=gs"}).opt.bases_by_gs);
	EXPECT_TRUE(parse({"WEFT_FSGSBASE=gs"}).opt.bases_by_calls);
	EXPECT_TRUE(parse({"WEFT_FSGSBASE=loan"}).opt.bases_lent);
	EXPECT_FALSE(parse({"WEFT_FSGSBASE=loan"}).opt.bases_by_calls);
	EXPECT_FALSE(parse({"WEFT_FSGSBASE=gs"}).opt.bases_lent);
	EXPECT_FALSE(parse({"WEFT_FSGSBASE=auto"}).opt.bases_lent);
	EXPECT_FALSE(parse({"WEFT_FSGSBASE=auto"}).opt.bases_by_calls);
}

TEST(Options, NativeTakesFileNamesAndNothingElse)
{
	const std::string longest(63, 'x');

	EXPECT_STREQ(parse({"WEFT_NATIVE=libfoo.so"}).opt.native, "libfoo.so");
	EXPECT_STREQ(parse({"WEFT_NATIVE=libfoo.so,bar.plugin.2"}).opt.native,
		"libfoo.so,bar.plugin.2");
	EXPECT_STREQ(parse({"WEFT_NATIVE=" + longest}).opt.native, longest.c_str());
	EXPECT_EQ(parse({"WEFT=on"}).opt.native, nullptr);

	std::string many = "WEFT_NATIVE=";
	for (int i = 0; i < WEFT_NATIVE_NAMES_MAX; i++)
		many += (i ? ",x" : "x") + std::to_string(i);
	EXPECT_NE(parse({many}).opt.native, nullptr);
	for (const std::string &bad : std::vector<std::string>{"", ",", "a,", ",a",
		     "a,,b", "/lib/a.so", "a/b.so", "..", "a b", "a\tb", longest + "x"}) {
		const Parsed p = parse({"WEFT_NATIVE=" + bad});

		EXPECT_EQ(p.opt.native, nullptr) << bad;
		expect_one_line(p);
	}
	EXPECT_EQ(parse({many + ",more"}).opt.native, nullptr);
}

TEST(Options, TraceTakesPin)
{
	EXPECT_TRUE(parse({"WEFT_TRACE=pin"}).opt.trace_pins);
	EXPECT_FALSE(parse({"WEFT_TRACE=pins"}).opt.trace_pins);
	EXPECT_FALSE(parse({"WEFT_STATS=exit"}).opt.trace_pins);
}

TEST(Options, ZeroSeedCountsAsGiven)
{
	const Parsed p = parse({"WEFT_SEED=0"});
	EXPECT_TRUE(p.opt.seed_given);
	EXPECT_EQ(p.opt.seed, 0u);
}

TEST(Options, DefaultsCanBeNamed)
{
	const Parsed p = parse({"WEFT=on", "WEFT_VERBOSE=0", "WEFT_SITES=auto"});
	expect_defaults(p.opt);
	EXPECT_TRUE(p.lines.empty());
}

TEST(Options, MalformedValueIsOneLineAndTheDefault)
{
	static const char *const bad[] = {
		"WEFT=",
		"WEFT=Off",
		"WEFT=0",
		"WEFT=off ",
		"WEFT=of",
		"WEFT=offf",
		"WEFT_STATS=",
		"WEFT_STATS=0s",
		"WEFT_STATS=86401s",
		"WEFT_STATS=5",
		"WEFT_STATS=5m",
		"WEFT_STATS=5ss",
		"WEFT_STATS=s",
		"WEFT_STATS=+5s",
		"WEFT_STATS=-5s",
		"WEFT_STATS= 5s",
		"WEFT_STATS=5 s",
		"WEFT_STATS=exit ",
		"WEFT_STATS=EXIT",
		"WEFT_STATS=relative/path",
		"WEFT_STATS=./x",
		"WEFT_STATS=18446744073709551617s",
		"WEFT_STATS=0x5s",
		"WEFT_CARRIERS=",
		"WEFT_CARRIERS=0",
		"WEFT_CARRIERS=65",
		"WEFT_CARRIERS=-1",
		"WEFT_CARRIERS_CAP=0",
		"WEFT_CARRIERS_CAP=32769",
		"WEFT_CARRIERS=+1",
		"WEFT_CARRIERS= 1",
		"WEFT_CARRIERS=1 ",
		"WEFT_CARRIERS=1x",
		"WEFT_CARRIERS=0x1",
		"WEFT_CARRIERS=1.0",
		"WEFT_CARRIERS=4294967297",
		"WEFT_CARRIERS=18446744073709551617",
		"WEFT_CARRIERS=99999999999999999999999999999999",
		"WEFT_ENGINE=",
		"WEFT_ENGINE=select",
		"WEFT_ENGINE=epoll,io_uring",
		"WEFT_URING=",
		"WEFT_URING=defer_taskrun",
		"WEFT_URING=-",
		"WEFT_URING=-defer_taskrun,",
		"WEFT_URING=-defer",
		"WEFT_URING=-defer_taskrun,-defer_taskrun",
		"WEFT_URING=-5.15,-defer_taskrun",
		"WEFT_URING=-5.1",
		"WEFT_STRESS=",
		"WEFT_STRESS=,",
		"WEFT_STRESS=migrate,",
		"WEFT_STRESS=,migrate",
		"WEFT_STRESS=migrate,,shuffle",
		"WEFT_STRESS=migrate,migrate",
		"WEFT_STRESS=migrat",
		"WEFT_STRESS=migratee",
		"WEFT_STRESS=migrate shuffle",
		"WEFT_STRESS=migrate,nonsense",
		"WEFT_STRESS=all",
		"WEFT_SEED=",
		"WEFT_SEED=-1",
		"WEFT_SEED=18446744073709551616",
		"WEFT_SEED=1e3",
		"WEFT_SEED=abc",
		"WEFT_VERBOSE=",
		"WEFT_VERBOSE=2",
		"WEFT_VERBOSE=yes",
		"WEFT_VERBOSE=01",
		"WEFT_SITES=",
		"WEFT_SITES=table",
		"WEFT_SITES=autos",
		"WEFT_FAULT=",
		"WEFT_FAULT=mmap",
		"WEFT_FAULT=mmap:",
		"WEFT_FAULT=mmap:0",
		"WEFT_FAULT=mmap:-1",
		"WEFT_FAULT=mmap:1000000001",
		"WEFT_FAULT=mmap:18446744073709551617",
		"WEFT_FAULT=mmap:1,",
		"WEFT_FAULT=mmap:1,mmap:2",
		"WEFT_FAULT=munmap:1",
		"WEFT_FAULT=:1",
		"WEFT_FAULT=mmap:1;clone:1",
		"WEFT_FAULT=clone:1x",
	};

	for (const char *entry : bad) {
		SCOPED_TRACE(entry);
		const Parsed p = parse({entry});
		const std::string text = entry;
		const size_t equals = text.find('=');

		expect_defaults(p.opt);
		expect_one_line(p);
		EXPECT_TRUE(
			contains(p.lines[0], "weft: " + text.substr(0, equals) + "='" +
						     text.substr(equals + 1) + "'"))
			<< p.lines[0];
		EXPECT_TRUE(contains(p.lines[0], "; allowed: ")) << p.lines[0];
		EXPECT_TRUE(contains(p.lines[0], "; the default is used: "))
			<< p.lines[0];
	}
}

TEST(Options, MessageNamesTheAllowedValues)
{
	EXPECT_EQ(parse({"WEFT_CARRIERS=0"}).lines.at(0),
		"weft: WEFT_CARRIERS='0' is not understood; allowed: 1 to 64; the default"
		" is used: one for each CPU the process may use, at least two\n");
	EXPECT_EQ(parse({"WEFT_STRESS=x"}).lines.at(0),
		"weft: WEFT_STRESS='x' is not understood; allowed: a comma-separated list"
		" from migrate wouldblock shuffle; the default is used: none\n");
	EXPECT_EQ(parse({"WEFT=x"}).lines.at(0),
		"weft: WEFT='x' is not understood; allowed: on or off; the default is"
		" used: on\n");
}

TEST(Options, MalformedValueChangesNothingElse)
{
	const Parsed p = parse({"WEFT_CARRIERS=4", "WEFT_STRESS=migrate,x",
		"WEFT_FAULT=mmap:2,clone", "WEFT_SEED=7"});

	EXPECT_EQ(p.lines.size(), 2u);
	EXPECT_EQ(p.opt.carriers, 4u);
	EXPECT_EQ(p.opt.seed, 7u);
	EXPECT_FALSE(p.opt.stress_migrate);
	EXPECT_EQ(p.opt.fault_mmap, 0u);
}

TEST(Options, UnknownVariableIsOneLineWithTheKnownOnes)
{
	for (const char *entry : {"WEFT_STAT=exit", "WEFT_STATSS=exit", "WEFT_=1",
		     "WEFT_stats=exit", "WEFT_OFF=1", "WEFT_STATS_=exit"}) {
		SCOPED_TRACE(entry);
		const Parsed p = parse({entry});

		expect_defaults(p.opt);
		expect_one_line(p);
		for (const char *known : {" WEFT ", " WEFT_STATS ", " WEFT_CARRIERS ",
			     " WEFT_STRESS ", " WEFT_SEED ", " WEFT_VERBOSE ",
			     " WEFT_SITES ", " WEFT_FAULT;"})
			EXPECT_TRUE(contains(p.lines[0], known)) << p.lines[0];
		EXPECT_TRUE(contains(p.lines[0], "there is no such option"));
		EXPECT_TRUE(contains(p.lines[0], "default"));
	}
}

TEST(Options, OtherProductsAreLeftAlone)
{
	const Parsed p = parse({"WEFTY=1", "WEFTOFF=1", "XWEFT_STATS=exit", "weft=off",
		"WEAVE=1", "", "=", "=WEFT_X=1", "WEFT", "WEFT_STATS", "WEFT_NOVALUE"});

	expect_defaults(p.opt);
	EXPECT_TRUE(p.lines.empty()) << p.lines[0];
}

TEST(Options, OffIsSilentAndAlone)
{
	const Parsed p = parse({"WEFT_STATS=exit", "WEFT_CARRIERS=bad", "WEFT_WHAT=1",
		"WEFT=off", "WEFT_VERBOSE=1"});

	EXPECT_TRUE(p.opt.off);
	EXPECT_TRUE(p.lines.empty());
	EXPECT_EQ(p.opt.stats, WEFT_STATS_NONE);
	EXPECT_FALSE(p.opt.verbose);
}

TEST(Options, FirstOfTwoCounts)
{
	Parsed p = parse({"WEFT_CARRIERS=3", "WEFT_CARRIERS=5", "WEFT_CARRIERS=bad"});
	EXPECT_EQ(p.opt.carriers, 3u);
	EXPECT_TRUE(p.lines.empty());

	p = parse({"WEFT_CARRIERS=bad", "WEFT_CARRIERS=5"});
	EXPECT_EQ(p.opt.carriers, 0u);
	EXPECT_EQ(p.lines.size(), 1u);

	p = parse({"WEFT=on", "WEFT=off"});
	EXPECT_FALSE(p.opt.off);
}

TEST(Options, SecureProcessHeedsOnlyOff)
{
	Parsed p = parse({"WEFT_STATS=/etc/shadow", "WEFT_CARRIERS=4", "WEFT_BAD=1",
				 "WEFT_VERBOSE=x"},
		true);
	expect_defaults(p.opt);
	EXPECT_TRUE(p.lines.empty());

	p = parse({"WEFT_STATS=/etc/shadow", "WEFT=off"}, true);
	EXPECT_TRUE(p.opt.off);
	EXPECT_EQ(p.opt.stats, WEFT_STATS_NONE);

	p = parse({"WEFT=nonsense"}, true);
	expect_defaults(p.opt);
	EXPECT_TRUE(p.lines.empty());
}

TEST(Options, ControlCharactersDoNotReachTheTerminal)
{
	const Parsed p = parse({"WEFT_CARRIERS=1\n2\x1b[31m\x7f\t", "WEFT_A\nB=\r"});

	ASSERT_EQ(p.lines.size(), 2u);
	for (const std::string &line : p.lines)
		for (size_t i = 0; i + 1 < line.size(); i++)
			EXPECT_TRUE(line[i] >= 0x20 && line[i] != 0x7f) << line;
	EXPECT_TRUE(contains(p.lines[0], "'1?2?[31m?"
					 "?'"))
		<< p.lines[0];
	EXPECT_TRUE(contains(p.lines[1], "WEFT_A?B='?'")) << p.lines[1];
}

TEST(Options, LongValuesAreShortenedBetweenCharacters)
{
	Parsed p = parse({"WEFT_CARRIERS=" + std::string(100000, '7')});
	expect_one_line(p);
	EXPECT_TRUE(contains(p.lines[0], std::string(80, '7') + "...'")) << p.lines[0];
	EXPECT_TRUE(contains(p.lines[0], "1 to 64")) << p.lines[0];

	std::string umlauts;
	for (int i = 0; i < 1000; i++)
		umlauts += "\xc3\xa4";
	p = parse({"WEFT_CARRIERS=x" + umlauts});
	expect_one_line(p);
	EXPECT_TRUE(contains(p.lines[0], "\xc3\xa4...'")) << p.lines[0];

	p = parse(
		{"WEFT_" + std::string(100000, 'N') + "=" + std::string(100000, '\x80')});
	expect_one_line(p);
	EXPECT_TRUE(contains(p.lines[0], "default")) << p.lines[0];
}

TEST(Options, ComplainMayBeNull)
{
	char entry[] = "WEFT_CARRIERS=bad", unknown[] = "WEFT_X=1";
	char *env[] = {entry, unknown, nullptr};
	weft_options o;

	weft_options_parse(env, false, &o, nullptr);
	expect_defaults(o);
}

TEST(Options, SetDecidesAloneAndLeavesTheRest)
{
	weft_options o;

	weft_options_parse(nullptr, false, &o, nullptr);
	EXPECT_TRUE(weft_options_set(WEFT_OPTION_CARRIERS, "8", &o));
	EXPECT_FALSE(weft_options_set(WEFT_OPTION_CARRIERS, "65", &o));
	EXPECT_EQ(o.carriers, 8u);
	EXPECT_FALSE(weft_options_set(WEFT_OPTION_COUNT, "8", &o));
}

TEST(Options, RandomEnvironmentsAreSurvived)
{
	static const char *const pieces[] = {"WEFT", "_STATS", "_FAULT", "_STRESS", "_",
		"=", "mmap:", "1", "9999999999", ",", "migrate", "off", "exit", "s", "/",
		"\n", "\xff", "\x80", ":", "clone:2"};
	std::mt19937 random(20261122);

	for (int round = 0; round < 20000; round++) {
		std::vector<std::string> entries(random() % 4);

		for (std::string &e : entries) {
			e = random() % 4 != 0 ? "WEFT" : "";
			for (unsigned n = random() % 8; n > 0; n--)
				e += pieces[random() % std::size(pieces)];
		}
		const Parsed p = parse(entries);
		ASSERT_LE(p.lines.size(), entries.size());
		ASSERT_LE(p.opt.carriers, unsigned{WEFT_CARRIERS_MAX});
		ASSERT_LE(p.opt.fault_mmap, unsigned{WEFT_FAULT_MAX});
		for (const std::string &line : p.lines)
			ASSERT_EQ(line.find('\n'), line.size() - 1) << line;
	}
}
