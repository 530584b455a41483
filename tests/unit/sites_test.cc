/*
 * sites_test.cc - interpose/sites.c, site_finder.c, thunk_area.S.
 *
 * Patching happens in forked children, so every test starts from libc's own text.
 * In them weft_site_entry is support/sites_entry.S. The module is in a library of its
 * own, libsites_under_test.so, as it must be near libc. A child reports by its exit
 * status; CHECK names the line.
 */
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <link.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <unwind.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#define UNW_LOCAL_ONLY
#include <libunwind.h>

#include "interpose/sites.h"
#include "runtime/sys.h"
#include "tests/support/sites_fault.h"
#include "tests/unit/support/single_steps.h"

extern char **environ;

#define CHECK(cond)                                                                      \
	do {                                                                             \
		if (!(cond)) {                                                           \
			dprintf(2, "%s:%d: %s (errno %d)\n", __FILE__, __LINE__, #cond,  \
				errno);                                                  \
			_exit(1);                                                        \
		}                                                                        \
	} while (0)

/* -- what support/sites_entry.S needs ------------------------------------------------ */

constexpr long GO_RAW = -99999;

struct State {
	uint64_t reg[16]; /* rax rcx rdx rbx rbp rsi rdi rsp r8..r15 */
	uint64_t flags;
	uint64_t pad[7];
	uint8_t ymm[16][32];
};
static_assert(sizeof(State) == 192 + 16 * 32, "sites_entry.S");

extern "C" {
extern const void *sites_entry;
extern char sites_entry_raw[], sites_entry_hook[], sites_entry_record[];
extern State sites_seen;
void sites_run(const State *in, const void *go);
extern uint8_t *const sites_thunk_area, *const sites_thunk_probe;
extern const uint8_t *const sites_entry_address;
}

static std::function<long(const weft_slot *, long nr, const long *arg)> hook;
static bool in_hook;

extern "C" long sites_hook(uintptr_t raw, long nr, const long *arg)
{
	if (in_hook)
		return GO_RAW;
	struct Guard {
		Guard()
		{
			in_hook = true;
		}
		~Guard()
		{
			in_hook = false;
		}
	} guard;
	return hook(weft_slot_of(raw), nr, arg);
}

/* The n-th call of a kind fails with this; 0: none. Called while libc cannot be. */
static long fail_nr, fail_error;
static int fail_after;
static bool fail_for_good;

extern "C" long sites_test_syscall(
	long nr, long a, long b, long c, long d, long e, long f)
{
	if (fail_error && nr == fail_nr && --fail_after <= 0) {
		long r = fail_error;

		if (!fail_for_good)
			fail_error = 0;
		return r;
	}
	return weft_sys6(nr, a, b, c, d, e, f);
}

static void fail(long nr, int nth, int error, bool for_good = false)
{
	fail_nr = nr;
	fail_after = nth;
	fail_error = -error;
	fail_for_good = for_good;
}

/* -- helpers --------------------------------------------------------------------------
 */

struct Loaded {
	weft_dso dso[2];
	const weft_site_table *table[2];
	weft_sites_report report;

	Loaded()
	{
		CHECK(weft_dso_find("libc.so", &dso[0]) == 0);
		CHECK(weft_dso_find("ld-linux-x86-64.so", &dso[1]) == 0);
		for (int k = 0; k < 2; k++)
			CHECK((table[k] = weft_sites_table(&dso[k])) != nullptr);
	}

	int install()
	{
		const weft_dso *d[] = {&dso[0], &dso[1]};
		sigset_t all, old;

		sigfillset(&all);
		sigprocmask(SIG_SETMASK, &all, &old);
		int r = weft_sites_install(d, table, 2, &report);
		sigprocmask(SIG_SETMASK, &old, nullptr);
		return r;
	}

	const weft_site *named(const char *name, int k = 0) const
	{
		for (uint32_t i = 0; i < table[k]->count; i++)
			if (!strcmp(table[k]->names + table[k]->site[i].name, name))
				return &table[k]->site[i];
		return nullptr;
	}
};

static int in_child(const std::function<void()> &body)
{
	fflush(nullptr);
	pid_t pid = fork();

	if (pid == 0) {
		alarm(60);
		body();
		_exit(0);
	}
	int status = -1;

	EXPECT_EQ(waitpid(pid, &status, 0), pid);
	return status;
}

static void expect_success(int line, const std::function<void()> &body)
{
	int status = in_child(body);

	if (status)
		ADD_FAILURE_AT(__FILE__, line) << "status 0x" << std::hex << status;
}
#define IN_CHILD(...) expect_success(__LINE__, [&]() __VA_ARGS__)

static std::string read_file(const char *path)
{
	std::ifstream f(path, std::ios::binary);

	return std::string(std::istreambuf_iterator<char>(f), {});
}

/* The text in memory is what the file holds. */
static bool text_is_pristine(const weft_dso &d, const std::string &file)
{
	const auto *eh = reinterpret_cast<const ElfW(Ehdr) *>(file.data());
	const auto *ph = reinterpret_cast<const ElfW(Phdr) *>(file.data() + eh->e_phoff);

	for (int i = 0; i < eh->e_phnum; i++)
		if (ph[i].p_type == PT_LOAD && ph[i].p_flags & PF_X)
			return !memcmp(file.data() + ph[i].p_offset,
				reinterpret_cast<void *>(d.base + ph[i].p_vaddr),
				ph[i].p_filesz);
	return false;
}

/* Permissions of every mapping that touches [start, end), each once. */
static std::set<std::string> permissions(uintptr_t start, uintptr_t end)
{
	std::ifstream maps("/proc/self/maps");
	std::set<std::string> perms;
	std::string line;

	while (std::getline(maps, line)) {
		unsigned long a, b;
		char p[5];

		if (sscanf(line.c_str(), "%lx-%lx %4s", &a, &b, p) == 3 && a < end &&
			b > start)
			perms.insert(p);
	}
	return perms;
}

static void check_pristine(const Loaded &l)
{
	static const std::string libc = read_file(WEFT_LIBC), ldso = read_file(WEFT_LDSO);
	const std::set<std::string> rx = {"r-xp"};

	CHECK(text_is_pristine(l.dso[0], libc));
	CHECK(text_is_pristine(l.dso[1], ldso));
	for (auto &d : l.dso)
		CHECK(permissions(d.text, d.text_end) == rx);
}

/* -- tables ---------------------------------------------------------------------------
 */

TEST(SiteTable, CoversThisMachinesLibcAndLoader)
{
	ASSERT_GE(weft_site_table_count, 2u); /* and liburing, libgomp */
	Loaded l;

	for (int k = 0; k < 2; k++) {
		const weft_site_table *t = l.table[k];
		unsigned no_vector = 0, after = 0, rip = 0;

		for (uint32_t i = 0; i < t->count; i++) {
			no_vector += t->site[i].flags & WEFT_SITE_NO_VECTOR;
			after += t->site[i].after != 0;
			rip += t->site[i].rip_disp != 0;
		}
		printf("%s: %u sites (%u take following instructions, %u rip-relative, "
		       "%u "
		       "without vectors), %u left, %u excluded\n",
			t->soname, t->count, after, rip, no_vector, t->left_count,
			t->excluded);
		for (uint32_t i = 0; i < t->left_count; i++)
			printf("  left: %s+%x, reason %u\n", t->names + t->left[i].name,
				t->left[i].rva, t->left[i].reason);
		EXPECT_LE(t->left_count, 3u);
		EXPECT_EQ(t->excluded, 1u); /* __restore_rt */
	}
	EXPECT_GE(l.table[0]->count, 520u);
	EXPECT_GE(l.table[1]->count, 44u);
	EXPECT_LE(l.table[0]->count + l.table[1]->count, unsigned(WEFT_SLOT_COUNT));
	for (const char *name : {"read", "write", "poll", "accept", "clone", "vfork",
		     "syscall", "pthread_create", "_exit", "fork", "nanosleep",
		     "clock_nanosleep"})
		if (!l.named(name))
			printf("no site is called %s\n", name);
	for (const char *name :
		{"read", "write", "poll", "accept", "clone", "vfork", "syscall"})
		EXPECT_NE(l.named(name), nullptr) << name;
}

static void expect_same(const weft_site_table &a, const weft_site_table &b)
{
	EXPECT_STREQ(a.soname, b.soname);
	ASSERT_EQ(a.build_id_len, b.build_id_len);
	EXPECT_EQ(memcmp(a.build_id, b.build_id, sizeof(a.build_id)), 0);
	ASSERT_EQ(a.count, b.count);
	for (uint32_t i = 0; i < a.count; i++)
		EXPECT_EQ(memcmp(&a.site[i], &b.site[i], sizeof(weft_site)), 0)
			<< a.names + a.site[i].name;
	ASSERT_EQ(a.left_count, b.left_count);
	for (uint32_t i = 0; i < a.left_count; i++)
		EXPECT_EQ(memcmp(&a.left[i], &b.left[i], sizeof(weft_site_left)), 0);
	EXPECT_EQ(a.excluded, b.excluded);
	ASSERT_EQ(a.names_len, b.names_len);
	EXPECT_EQ(memcmp(a.names, b.names, a.names_len), 0);
}

TEST(SitePlugin, DecodesTheMappedImageAsTheGeneratorDidTheFile)
{
	Loaded l;
	weft_site_table t[2];
	auto start = std::chrono::steady_clock::now();
	void *plugin = dlopen(WEFT_SITES_PLUGIN, RTLD_NOW | RTLD_LOCAL);

	ASSERT_NE(plugin, nullptr) << dlerror();
	auto *decode = reinterpret_cast<weft_sites_decode_fn *>(
		dlsym(plugin, WEFT_SITES_DECODE_NAME));
	ASSERT_NE(decode, nullptr);
	for (int k = 0; k < 2; k++)
		ASSERT_EQ(decode(&l.dso[k], &t[k]), 0);
	dlclose(plugin);
	printf("decoding both took %.1f ms\n",
		std::chrono::duration<double, std::milli>(
			std::chrono::steady_clock::now() - start)
			.count());
	EXPECT_EQ(dlopen(WEFT_SITES_PLUGIN, RTLD_NOW | RTLD_NOLOAD), nullptr);
	for (int k = 0; k < 2; k++)
		expect_same(*l.table[k], t[k]);
}

/* Its decoding does not fall for a debugger: what int3 hides is not guessed at. */
TEST(SitePlugin, LeavesFunctionsWithBreakpointsAlone)
{
	IN_CHILD({
		Loaded l;
		const weft_site *site = l.named("sched_yield");
		void *plugin = dlopen(WEFT_SITES_PLUGIN, RTLD_NOW | RTLD_LOCAL);
		auto *decode = reinterpret_cast<weft_sites_decode_fn *>(
			dlsym(plugin, WEFT_SITES_DECODE_NAME));
		weft_site_table t;

		CHECK(site && decode);
		auto *func = reinterpret_cast<uint8_t *>(l.dso[0].base + site->func);
		auto page = reinterpret_cast<uintptr_t>(func) & -4096ul;
		CHECK(!mprotect(reinterpret_cast<void *>(page), 8192, 7));
		*func = 0xcc;
		CHECK(decode(&l.dso[0], &t) == 0);
		CHECK(t.count == l.table[0]->count - 1);
		CHECK(t.left_count == l.table[0]->left_count + 1);
		CHECK(t.left[0].rva == site->rva &&
			t.left[0].reason == WEFT_SITE_TAINTED);
	});
}

struct Expected {
	const char *name;
	int before, after; /* -1: left */
	int rip_disp;
	bool vectors;
};

TEST(SiteFinder, IsNotFooledByTrickyCode)
{
	const Expected expected[] = {
		{"plain", 5, 0, 0, false},
		{"two_before", 5, 0, 0, false},
		{"jump_to_syscall", 0, 6, 0, false},
		{"jump_to_before", 5, 0, 0, false},
		{"no_room", -1, WEFT_SITE_MOVE, 0, false},
		{"by_loop", -1, WEFT_SITE_MOVE, 0, false},
		{"from_elsewhere", -1, WEFT_SITE_MOVE, 0, false},
		{"by_switch", -1, WEFT_SITE_MOVE, 0, false},
		{"by_goto", -1, WEFT_SITE_MOVE, 0, false},
		{"by_pointer", -1, WEFT_SITE_MOVE, 0, false},
		{"by_address", -1, WEFT_SITE_MOVE, 0, false},
		{"by_unknown_sum", -1, WEFT_SITE_INDIRECT, 0, false},
		{"tail_call", 5, 0, 0, false},
		{"landing_pad", -1, WEFT_SITE_MOVE, 0, false},
		{"stack", -1, WEFT_SITE_MOVE, 0, false},
		{"reads_stack", 4, 0, 0, false},
		{"row", 0, 6, 0, false},
		{"writes_rcx", -1, WEFT_SITE_MOVE, 0, false},
		{"reads_rcx", 3, 0, 0, false},
		{"reads_r11_after", -1, WEFT_SITE_MOVE, 0, false},
		{"twins", 5, 0, 0, false},
		{"twins", 0, 7, 0, false},
		{"begins_with_endbr", -1, WEFT_SITE_MOVE, 0, false},
		{"rip_relative", 7, 0, 4, false},
		{"rip_relative_after", 0, 7, 6, false},
		{"with_vectors", 5, 0, 0, true},
		{"with_x87", 5, 0, 0, true},
		{"with_cold_vectors", 5, 0, 0, true},
		{"known_callee", 5, 0, 0, true},
		{"unknown_callee", 5, 0, 0, false},
		{"ends_early+0x5", 0, 3, 0, false},
	};
	void *plugin = dlopen(WEFT_SITES_PLUGIN, RTLD_NOW | RTLD_LOCAL);
	void *tricky = dlopen(SITES_TRICKY, RTLD_NOW | RTLD_LOCAL);
	weft_dso dso;
	weft_site_table t;
	uint32_t site = 0, left = 0;

	ASSERT_TRUE(plugin && tricky) << dlerror();
	auto *decode = reinterpret_cast<weft_sites_decode_fn *>(
		dlsym(plugin, WEFT_SITES_DECODE_NAME));
	ASSERT_EQ(weft_dso_find("libsites_tricky", &dso), 0);
	ASSERT_EQ(decode(&dso, &t), 0);
	for (const Expected &e : expected) {
		if (e.before < 0) {
			ASSERT_LT(left, t.left_count) << e.name;
			const weft_site_left &l = t.left[left++];

			EXPECT_STREQ(t.names + l.name, e.name);
			EXPECT_EQ(l.reason, unsigned(e.after)) << e.name;
			continue;
		}
		ASSERT_LT(site, t.count) << e.name;
		const weft_site &s = t.site[site++];

		EXPECT_STREQ(t.names + s.name, e.name);
		EXPECT_EQ(s.before, e.before) << e.name;
		EXPECT_EQ(s.after, e.after) << e.name;
		EXPECT_EQ(s.rip_disp, e.rip_disp) << e.name;
		EXPECT_EQ(!(s.flags & WEFT_SITE_NO_VECTOR), e.vectors) << e.name;
	}
	EXPECT_EQ(site, t.count);
	EXPECT_EQ(left, t.left_count);
	EXPECT_EQ(t.excluded, 1u);
	dlclose(tricky);
	dlclose(plugin);
}

struct Disassembly {
	std::set<uint64_t> start, syscall;
	std::map<uint64_t, uint64_t> target; /* to -> one from */
};

/* Another disassembler's opinion, by the text it prints. */
static bool disassemble(const char *path, Disassembly *ret)
{
	FILE *p = popen(
		(std::string("objdump -d --no-show-raw-insn ") + path).c_str(), "r");
	char line[1024];

	while (p && fgets(line, sizeof(line), p)) {
		char *end;
		uint64_t at = strtoull(line, &end, 16), to;

		if (end == line || end[0] != ':' || end[1] != '\t')
			continue;
		std::string text(end + 2);
		ret->start.insert(at);
		if (text.compare(0, 7, "syscall") == 0)
			ret->syscall.insert(at);
		size_t hash = text.find("# ");

		if (hash != std::string::npos) {
			ret->target[strtoull(text.c_str() + hash + 2, nullptr, 16)] = at;
			continue;
		}
		/* the last word but the symbol: "bnd jmp  27555 <gnu_get...>" */
		size_t sym = text.find(" <");
		if (sym == std::string::npos)
			continue;
		size_t word = text.find_last_of(" ,", sym - 1);
		to = strtoull(text.c_str() + word + 1, &end, 16);
		if (*end == ' ')
			ret->target[to] = at;
	}
	return p && pclose(p) == 0 && !ret->start.empty();
}

static void check_against_objdump(const weft_site_table &t, const char *path)
{
	Disassembly d;

	ASSERT_TRUE(disassemble(path, &d));
	EXPECT_GT(d.target.size(), 1000u);
	EXPECT_EQ(d.syscall.size(), t.count + t.left_count + t.excluded);
	uint64_t last = 0;

	for (uint32_t i = 0; i < t.count; i++) {
		const weft_site &s = t.site[i];
		uint64_t start = s.rva - s.before, end = s.rva + 2 + s.after;
		const char *name = t.names + s.name;

		EXPECT_GE(start, last) << name;
		last = end;
		EXPECT_GE(end - start, 5u) << name;
		EXPECT_TRUE(d.syscall.count(s.rva)) << name;
		EXPECT_TRUE(d.start.count(start)) << name;
		EXPECT_TRUE(d.start.count(end)) << name;
		for (auto it = d.target.upper_bound(start);
			it != d.target.end() && it->first < end; ++it)
			ADD_FAILURE()
				<< name << ": " << std::hex << it->second << " goes to "
				<< it->first << ", inside " << start << "-" << end;
	}
}

TEST(SiteTable, NoBranchOfObjdumpsLeadsIntoASpan)
{
	if (system("objdump --version >/dev/null 2>&1"))
		GTEST_SKIP() << "objdump is not installed";
	Loaded l;

	check_against_objdump(*l.table[0], WEFT_LIBC);
	check_against_objdump(*l.table[1], WEFT_LDSO);
}

/* -- patching
 * ---------------------------------------------------------------------------- */

TEST(Sites, LeaveNoPageWritableAndNoDescriptor)
{
	IN_CHILD({
		Loaded l;
		const std::set<std::string> rx = {"r-xp"};
		auto area = reinterpret_cast<uintptr_t>(sites_thunk_area);
		int before = dup(0);

		close(before);
		CHECK(l.install() == 0);
		CHECK(l.report.wrote_through_mem == 0);
		CHECK(l.report.patched == l.table[0]->count + l.table[1]->count);
		CHECK(l.report.left == l.table[0]->left_count + l.table[1]->left_count);
		for (auto &d : l.dso)
			CHECK(permissions(d.text, d.text_end) == rx);
		CHECK(permissions(area, area + WEFT_SLOT_COUNT * WEFT_SLOT_SIZE + 4096) ==
			rx);
		int after = dup(0);
		CHECK(before == after);
		CHECK(l.install() == -EBUSY);
	});
}

TEST(Sites, ComeBackByteForByte)
{
	IN_CHILD({
		Loaded l;

		CHECK(l.install() == 0);
		CHECK(weft_sites_uninstall() == 0);
		check_pristine(l);
		CHECK(weft_sites_uninstall() == 0);
		CHECK(l.install() == 0);
	});
}

/* Thunks and spans byte by byte, against an encoding spelled out here. */
TEST(Sites, ThunksHoldTheSpansCode)
{
	IN_CHILD({
		Loaded l;
		unsigned slot = 0;

		CHECK(l.install() == 0);
		for (int k = 0; k < 2; k++)
			for (uint32_t i = 0; i < l.table[k]->count; i++, slot++) {
				const weft_site &s = l.table[k]->site[i];
				const uint8_t *t = sites_thunk_area + slot * 128, *p = t;
				auto *span = reinterpret_cast<const uint8_t *>(
					l.dso[k].base + s.rva - s.before);
				auto rel = [](const uint8_t *at) {
					int32_t v;
					memcpy(&v, at, 4);
					return at + 4 + v;
				};
				auto moved = [&](unsigned off, unsigned len) {
					unsigned disp = s.rip_disp - 1u;

					for (unsigned b = 0; b < len; b++)
						if (!s.rip_disp || off + b < disp ||
							off + b >= disp + 4)
							CHECK(p[b] == s.orig[off + b]);
					if (s.rip_disp && disp >= off &&
						disp < off + len) {
						int32_t was, is;

						memcpy(&was, s.orig + disp, 4);
						memcpy(&is, p + disp - off, 4);
						CHECK(span + disp + was ==
							p + disp - off + is);
					}
					p += len;
				};

				CHECK(span[0] == 0xe9 && rel(span + 1) == t);
				moved(0, s.before);
				const uint8_t *raw = p + 12;
				CHECK(p[0] == 0x4c && p[1] == 0x8d && p[2] == 0x1d &&
					rel(p + 3) == raw);
				CHECK(p[7] == 0xe9 && rel(p + 8) == sites_entry_address);
				CHECK(raw[0] == 0x0f && raw[1] == 0x05);
				p = raw + 2;
				moved(s.before + 2u, s.after);
				CHECK(p[0] == 0xe9 &&
					rel(p + 1) == span + s.before + 2 + s.after);
				auto *sl = weft_slot_of(reinterpret_cast<uintptr_t>(raw));
				CHECK(weft_slot_site(sl) == &s);
				CHECK(sl->table == l.table[k]);
				CHECK(weft_slot_return_address(sl) ==
					l.dso[k].base + s.rva + 2);
				CHECK(weft_slot_span(sl) ==
					reinterpret_cast<uintptr_t>(span));
				CHECK(weft_in_thunk(reinterpret_cast<uintptr_t>(raw)));
			}
		CHECK(!weft_in_thunk(reinterpret_cast<uintptr_t>(sites_thunk_probe)));
	});
}

static sigjmp_buf faulted;

/*
 * Every site is entered with a pattern in every register and once more as a copy of
 * the original instructions: both must come out the same, memory included.
 */
TEST(Sites, EveryRegisterReachesTheEntry)
{
	if (!__builtin_cpu_supports("avx2"))
		GTEST_SKIP() << "needs AVX";
	IN_CHILD({
		Loaded l;
		constexpr size_t LEN = 1 << 20;
		auto *code = static_cast<uint8_t *>(mmap(
			reinterpret_cast<void *>((l.dso[0].base & -4096ul) - (64 << 20)),
			4096, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		std::vector<uint8_t> memory(LEN), after(LEN);
		State in;
		volatile unsigned tried = 0, faults = 0;
		struct sigaction sa = {};
		stack_t alt = {};

		sa.sa_handler = [](int) { siglongjmp(faulted, 1); };
		sa.sa_flags = SA_ONSTACK;
		sigaction(SIGSEGV, &sa, nullptr);
		alt.ss_size = 65536;
		alt.ss_sp = malloc(alt.ss_size);
		CHECK(sigaltstack(&alt, nullptr) == 0);
		CHECK(code != MAP_FAILED);
		CHECK(l.install() == 0);
		auto reset = [&] {
			for (size_t i = 0; i < LEN; i++)
				memory[i] = uint8_t(i * 37 >> 3);
		};
		for (int i = 0; i < 16; i++)
			in.reg[i] =
				reinterpret_cast<uintptr_t>(&memory[LEN / 2]) + 1024u * i;
		in.flags = 0x202 | 0x1 | 0x4 | 0x10 | 0x80 | 0x800; /* CF PF AF SF OF */
		for (int i = 0; i < 16; i++)
			for (int b = 0; b < 32; b++)
				in.ymm[i][b] = uint8_t(i * 32 + b + 1);
		for (volatile int k = 0; k < 2; k = k + 1)
			for (volatile uint32_t i = 0; i < l.table[k]->count; i = i + 1) {
				const weft_site &s = l.table[k]->site[i];
				auto span = l.dso[k].base + s.rva - s.before;
				State want;

				memcpy(code, s.orig, s.before);
				if (s.rip_disp) {
					int32_t d;

					memcpy(&d, code + s.rip_disp - 1, 4);
					d += int32_t(
						span - reinterpret_cast<uintptr_t>(code));
					memcpy(code + s.rip_disp - 1, &d, 4);
				}
				const void *to = sites_entry_record;
				const uint8_t jmp[] = {0xff, 0x25, 0, 0, 0, 0};
				memcpy(code + s.before, jmp, 6);
				memcpy(code + s.before + 6, &to, 8);
				reset();
				/* a pattern is no thread-local address: %fs:(%r10) */
				if (sigsetjmp(faulted, 1)) {
					faults = faults + 1;
					continue;
				}
				sites_run(&in, code);
				want = sites_seen;
				after = memory;
				reset();
				sites_entry = sites_entry_record;
				sites_run(&in, reinterpret_cast<void *>(span));
				sites_entry = sites_entry_raw;
				CHECK(memory == after);
				want.reg[11] = sites_seen.reg[11];
				CHECK(!memcmp(&want, &sites_seen, sizeof(want)));
				CHECK(*reinterpret_cast<uint16_t *>(want.reg[11]) ==
					0x050f);
				tried = tried + 1;
			}
		CHECK(tried + faults == l.report.patched);
		CHECK(faults <= 5);
	});
}

static volatile sig_atomic_t signals_seen;

static void *work(void *arg)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
	static int turn;
	long me = reinterpret_cast<long>(arg);

	for (int i = 0; i < 50; i++) {
		pthread_mutex_lock(&lock);
		while (turn % 4 != me)
			pthread_cond_wait(&cond, &lock);
		turn++;
		pthread_cond_broadcast(&cond);
		pthread_mutex_unlock(&lock);
		free(malloc(100000));
	}
	return arg;
}

static void cleanup(void *p)
{
	*static_cast<int *>(p) += 1;
}

static void *sleeper(void *p)
{
	pthread_cleanup_push(cleanup, p);
	for (;;)
		pause();
	pthread_cleanup_pop(0);
	return nullptr;
}

static void exited_with(pid_t pid, int code)
{
	int status;

	CHECK(pid > 0);
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == code);
}

/* A bit of everything that goes through sites in earnest. */
static void use_libc()
{
	char name[] = "/tmp/sites_test.XXXXXX", line[64], buf[8];
	int fd = mkstemp(name), p[2], cleaned = 0;
	FILE *f = fdopen(fd, "w+");
	const char *const sh[] = {"sh", "-c", "exit 7", nullptr};

	CHECK(f && unlink(name) == 0);
	for (int i = 0; i < 5000; i++)
		fprintf(f, "line %d\n", i);
	rewind(f);
	for (int i = 0; i < 5000; i++) {
		CHECK(fgets(line, sizeof(line), f));
		CHECK(atoi(line + 5) == i);
	}
	fclose(f);

	CHECK(pipe(p) == 0);
	CHECK(write(p[1], "hello", 5) == 5 && read(p[0], buf, 5) == 5);
	CHECK(!memcmp(buf, "hello", 5));
	CHECK(close(99) == -1 && errno == EBADF);
	CHECK(syscall(SYS_getppid) == getppid());

	struct sigaction sa = {};
	sa.sa_handler = [](int) { signals_seen = signals_seen + 1; };
	CHECK(sigaction(SIGUSR1, &sa, nullptr) == 0);
	CHECK(raise(SIGUSR1) == 0 && signals_seen > 0);
	sigjmp_buf jb;
	volatile int jumps = 0;
	if (sigsetjmp(jb, 1) < 3) {
		jumps = jumps + 1;
		siglongjmp(jb, jumps);
	}
	CHECK(jumps == 3);

	pthread_t t[4];
	for (long i = 0; i < 4; i++)
		CHECK(pthread_create(&t[i], nullptr, work, reinterpret_cast<void *>(i)) ==
			0);
	for (long i = 0; i < 4; i++) {
		void *r;

		CHECK(pthread_join(t[i], &r) == 0 && r == reinterpret_cast<void *>(i));
	}
	CHECK(pthread_create(&t[0], nullptr, sleeper, &cleaned) == 0);
	usleep(1000);
	CHECK(pthread_cancel(t[0]) == 0 && pthread_join(t[0], nullptr) == 0);
	CHECK(cleaned == 1);

	pid_t pid = fork();
	if (pid == 0) {
		CHECK(pthread_create(&t[0], nullptr, work, nullptr) == 0);
		_exit(5);
	}
	exited_with(pid, 5);
	pid = vfork();
	if (pid == 0) {
		execve("/bin/sh", const_cast<char **>(sh), environ);
		_exit(1);
	}
	exited_with(pid, 7);
	CHECK(posix_spawn(&pid, "/bin/sh", nullptr, nullptr, const_cast<char **>(sh),
		      environ) == 0);
	exited_with(pid, 7);
	CHECK(WEXITSTATUS(system("exit 3")) == 3);
	f = popen("echo out", "r");
	CHECK(f && fgets(line, sizeof(line), f) && !strcmp(line, "out\n") &&
		pclose(f) == 0);
	void *lib = dlopen("libm.so.6", RTLD_NOW);
	CHECK(lib && dlclose(lib) == 0);
	close(p[0]);
	close(p[1]);
}

TEST(Sites, LibcWorksOnNativePaths)
{
	IN_CHILD({
		Loaded l;

		CHECK(l.install() == 0);
		use_libc();
		use_libc();
		CHECK(weft_sites_uninstall() == 0);
		use_libc();
	});
}

TEST(Sites, LibcWorksWithAHookThatSavesEverything)
{
	IN_CHILD({
		Loaded l;
		static unsigned long count;

		hook = [](const weft_slot *, long, const long *) {
			count++;
			return GO_RAW;
		};
		CHECK(l.install() == 0);
		FILE *f = fopen("/dev/null", "w");
		sites_entry = sites_entry_hook;
		for (int i = 0; i < 1000; i++) {
			fprintf(f, "%d %f\n", i, i / 3.0);
			fflush(f);
			free(malloc(200000));
		}
		sites_entry = sites_entry_raw;
		CHECK(count >= 1000);
	});
}

TEST(Sites, AnEmulatedResultIsWhatTheProgramSees)
{
	IN_CHILD({
		Loaded l;
		std::string seen;
		char c;

		hook = [&](const weft_slot *s, long nr, const long *arg) -> long {
			if (nr == SYS_getppid)
				return 4242;
			if (nr == SYS_read && arg[0] == 77) {
				seen = weft_site_name(s);
				return -EMLINK;
			}
			return GO_RAW;
		};
		CHECK(l.install() == 0);
		sites_entry = sites_entry_hook;
		pid_t parent = getppid();
		ssize_t r = read(77, &c, 1);
		int error = errno;
		sites_entry = sites_entry_raw;
		CHECK(parent == 4242);
		CHECK(r == -1 && error == EMLINK);
		CHECK(seen == "read");
	});
}

/* -- W^X, failures, breakpoints
 * ------------------------------------------------------------ */

#ifndef PR_SET_MDWE
#define PR_SET_MDWE              65
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

TEST(Sites, AreWrittenThroughProcWhereWxIsEnforced)
{
	IN_CHILD({
		Loaded l;

		if (prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)) {
			printf("no PR_SET_MDWE (Linux 6.3)\n");
			fflush(stdout);
			_exit(0);
		}
		CHECK(l.install() == 0);
		CHECK(l.report.wrote_through_mem == 1);
		CHECK(l.report.patched == l.table[0]->count + l.table[1]->count);
		for (auto &d : l.dso)
			CHECK(permissions(d.text, d.text_end) ==
				std::set<std::string>{"r-xp"});
		use_libc();
		CHECK(weft_sites_uninstall() == 0);
		check_pristine(l);
		CHECK(l.install() == 0);
		use_libc();
	});
}

TEST(Sites, AreLeftAloneWhenNeitherWayIsAllowed)
{
	for (long nr : {long(SYS_openat), long(SYS_pwrite64)})
		IN_CHILD({
			Loaded l;

			CHECK(prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) ==
					0 ||
				errno == EINVAL);
			if (prctl(66 /* PR_GET_MDWE */, 0, 0, 0, 0) != 1)
				_exit(0);
			fail(nr, 1, nr == SYS_openat ? ENOENT : EIO, true);
			CHECK(l.install() == -EACCES);
			check_pristine(l);
			use_libc();
			fail_error = 0;
			CHECK(l.install() == 0);
		});
}

/* Whatever mprotect fails and with what, the text is all patched or all original. */
TEST(Sites, AreAllOrNothingWhenMprotectFails)
{
	int refused = 0, by_mem = 0;

	for (int error : {ENOMEM, EACCES})
		for (int nth = 1; nth <= 8; nth++) {
			int status = in_child([&] {
				Loaded l;

				fail(SYS_mprotect, nth, error);
				int r = l.install();
				CHECK(fail_error == 0); /* it was reached */
				CHECK(r == 0 || r == -error);
				if (r == 0) {
					CHECK(l.report.wrote_through_mem);
					use_libc();
					_exit(2);
				}
				check_pristine(l);
				use_libc();
				CHECK(l.install() == 0);
				use_libc();
				_exit(3);
			});
			ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) >= 2)
				<< "call " << nth << ", " << strerror(error)
				<< ", status " << status;
			refused += WEXITSTATUS(status) == 3;
			by_mem += WEXITSTATUS(status) == 2;
		}
	EXPECT_EQ(refused, 8);
	EXPECT_EQ(by_mem, 8);
}

TEST(Sites, AreAllOrNothingWhenWritingThroughProcFails)
{
	for (int nth : {1, 2, 300, 572, 800, 1141})
		IN_CHILD({
			Loaded l;

			/* mprotect first: the probe page says no */
			CHECK(prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) ==
					0 ||
				errno == EINVAL);
			if (prctl(66, 0, 0, 0, 0) != 1)
				_exit(0);
			fail(SYS_pwrite64, nth, EIO);
			CHECK(l.install() == -EACCES);
			CHECK(fail_error == 0);
			check_pristine(l);
			use_libc();
		});
}

static void poke(uintptr_t at, uint8_t byte)
{
	auto *page = reinterpret_cast<void *>(at & -4096ul);

	CHECK(mprotect(page, 4096, 7) == 0);
	*reinterpret_cast<uint8_t *>(at) = byte;
	CHECK(mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0);
}

TEST(Sites, WithABreakpointAreLeftAloneAndReported)
{
	IN_CHILD({
		Loaded l;
		const weft_site *a = l.named("sched_yield"), *b = l.named("sethostname");
		std::set<std::string> left;
		unsigned cursor = 0;
		const char *name, *reason, *soname;

		CHECK(a && b);
		uintptr_t at = l.dso[0].base + a->rva; /* on the syscall itself */
		uintptr_t bt = l.dso[0].base + b->rva - b->before;
		poke(at, 0xcc);
		poke(bt, 0xcc);
		CHECK(l.install() == 0);
		CHECK(l.report.dso[0].left == l.table[0]->left_count + 2);
		CHECK(l.report.dso[0].patched == l.table[0]->count - 2);
		while (weft_sites_next_left(&cursor, &soname, &name, &reason)) {
			left.insert(name);
			CHECK(strstr(reason, "breakpoint"));
		}
		CHECK(left == (std::set<std::string>{"sched_yield", "sethostname"}));
		CHECK(*reinterpret_cast<uint8_t *>(at) == 0xcc);
		CHECK(*reinterpret_cast<uint8_t *>(bt) == 0xcc);
		poke(at, 0x0f); /* the debugger takes them out again */
		poke(bt, b->orig[0]);
		use_libc();
		CHECK(weft_sites_uninstall() == 0);
		check_pristine(l);
	});
}

TEST(Sites, OfOtherCodeAreRefused)
{
	IN_CHILD({
		Loaded l;
		const weft_site *s = l.named("sethostname");

		poke(l.dso[0].base + s->rva - s->before, 0x90);
		CHECK(l.install() == -ESTALE);
		poke(l.dso[0].base + s->rva - s->before, s->orig[0]);
		check_pristine(l);

		weft_site_table other = *l.table[0];
		l.table[0] = &other;
		other.build_id[0] ^= 1;
		CHECK(l.install() == -ESTALE);
		other.build_id[0] ^= 1;
		std::vector<weft_site> sites(other.site, other.site + other.count);
		other.site = sites.data();
		sites[5].before = 200;
		CHECK(l.install() == -ESTALE);
		sites[5] = l.table[1]->site[0];
		CHECK(l.install() == -ESTALE);
		std::vector<weft_site> many(WEFT_SLOT_COUNT + 1);
		other.site = many.data();
		other.count = WEFT_SLOT_COUNT + 1;
		CHECK(l.install() == -ENOSPC);
		check_pristine(l);
	});
}

/* -- unwinding
 * ------------------------------------------------------------------------------ */

static __attribute__((noinline)) ssize_t marked_read(int fd, void *buf)
{
	ssize_t r = read(fd, buf, 1);

	__asm__ volatile("" : : : "memory"); /* no tail call */
	return r;
}

static bool in_function(uintptr_t pc, void *func, size_t len = 200)
{
	return pc - reinterpret_cast<uintptr_t>(func) < len;
}

struct Walk {
	std::vector<uintptr_t> pc;
	std::vector<uintptr_t> cfa;
};

static Walk by_libgcc()
{
	Walk w;

	_Unwind_Backtrace(
		[](_Unwind_Context *c, void *p) {
			auto *walk = static_cast<Walk *>(p);

			walk->pc.push_back(_Unwind_GetIP(c));
			walk->cfa.push_back(_Unwind_GetCFA(c));
			return _URC_NO_REASON;
		},
		&w);
	return w;
}

/*
 * Loaded, not linked: libunwind exports _Unwind_* of its own, and a program that has
 * them first in line throws through one unwinder and catches through another.
 */
struct Libunwind {
	void *lib = dlopen("libunwind.so.8", RTLD_NOW | RTLD_LOCAL);
/* two steps, as the names are macros for the real ones */
#define LIBUNWIND_NAME(f) #f
#define LIBUNWIND_FUNCTION(f)                                                            \
	reinterpret_cast<decltype(&f)>(lib ? dlsym(lib, LIBUNWIND_NAME(f)) : nullptr)
	decltype(&unw_init_local) init = LIBUNWIND_FUNCTION(unw_init_local);
	decltype(&unw_step) step = LIBUNWIND_FUNCTION(unw_step);
	decltype(&unw_get_reg) get_reg = LIBUNWIND_FUNCTION(unw_get_reg);
	decltype(&unw_tdep_getcontext) getcontext =
		LIBUNWIND_FUNCTION(unw_tdep_getcontext);
};

static Walk by_libunwind(const Libunwind &u)
{
	Walk w;
	unw_context_t uc;
	unw_cursor_t c;

	u.getcontext(&uc);
	if (u.init(&c, &uc))
		return w;
	do {
		unw_word_t pc, sp;

		u.get_reg(&c, UNW_REG_IP, &pc);
		u.get_reg(&c, UNW_REG_SP, &sp);
		w.pc.push_back(pc);
		w.cfa.push_back(sp);
	} while (w.pc.size() < 100 && u.step(&c) > 0);
	return w;
}

/* hook, entry, thunk, libc right after its syscall, our caller, ..., the process */
static void check_walk(const Walk &w, const weft_slot *slot)
{
	size_t i = 0;
	Dl_info info;

	while (i < w.pc.size() && !weft_in_thunk(w.pc[i]))
		i++;
	CHECK(i > 0 && i + 2 < w.pc.size());
	CHECK(weft_slot_of(w.pc[i]) == slot);
	CHECK(w.pc[i + 1] == weft_slot_return_address(slot));
	CHECK(dladdr(reinterpret_cast<void *>(w.pc[i + 1]), &info));
	CHECK(strstr(info.dli_fname, "libc.so"));
	bool marked = false, to_end = false;
	for (; i < w.pc.size(); i++) {
		marked |= in_function(w.pc[i], reinterpret_cast<void *>(marked_read));
		to_end |= dladdr(reinterpret_cast<void *>(w.pc[i]), &info) &&
			  info.dli_sname && !strcmp(info.dli_sname, "__libc_start_main");
	}
	CHECK(marked);
	CHECK(to_end);
}

TEST(SiteUnwinding, LibgccWalksToTheBottom)
{
	IN_CHILD({
		Loaded l;
		Walk w;
		const weft_slot *slot = nullptr;
		char c;

		by_libgcc(); /* loads libgcc's caches */
		hook = [&](const weft_slot *s, long nr, const long *) {
			if (nr == SYS_read) {
				slot = s;
				w = by_libgcc();
				return 0l;
			}
			return GO_RAW;
		};
		CHECK(l.install() == 0);
		sites_entry = sites_entry_hook;
		marked_read(0, &c);
		sites_entry = sites_entry_raw;
		CHECK(slot);
		check_walk(w, slot);
	});
}

TEST(SiteUnwinding, LibunwindWalksToTheBottom)
{
	IN_CHILD({
		Loaded l;
		Libunwind u;
		Walk w;
		const weft_slot *slot = nullptr;
		char c;

		CHECK(u.lib && u.init && u.step && u.get_reg && u.getcontext);
		hook = [&](const weft_slot *s, long nr, const long *) {
			if (nr == SYS_read && !slot) {
				slot = s;
				w = by_libunwind(u);
				return 0l;
			}
			return GO_RAW;
		};
		CHECK(l.install() == 0);
		sites_entry = sites_entry_hook;
		marked_read(0, &c);
		sites_entry = sites_entry_raw;
		CHECK(slot);
		check_walk(w, slot);
	});
}

static int counted;
struct Counted {
	~Counted()
	{
		counted++;
	}
};

static __attribute__((noinline)) ssize_t read_with_destructor(int fd, void *buf)
{
	Counted c;

	return marked_read(fd, buf);
}

TEST(SiteUnwinding, AnExceptionPassesThroughASite)
{
	IN_CHILD({
		Loaded l;
		char c;
		int caught = 0;

		hook = [&](const weft_slot *, long nr, const long *) -> long {
			if (nr == SYS_read)
				throw std::runtime_error("from below");
			return GO_RAW;
		};
		CHECK(l.install() == 0);
		sites_entry = sites_entry_hook;
		for (int i = 0; i < 3; i++) {
			try {
				read_with_destructor(0, &c);
			} catch (const std::runtime_error &e) {
				caught += !strcmp(e.what(), "from below");
			}
		}
		sites_entry = sites_entry_raw;
		CHECK(caught == 3 && counted == 3);
	});
}

/* A signal handler walks from each instruction of a thunk, by single steps. */
static unsigned good_steps, steps_in_thunk;

static void on_step(int, siginfo_t *, void *context)
{
	auto *uc = static_cast<ucontext_t *>(context);
	auto pc = uintptr_t(uc->uc_mcontext.gregs[REG_RIP]);

	if (!weft_in_thunk(pc))
		return;
	steps_in_thunk++;
	Walk w = by_libgcc();
	for (size_t i = 0; i + 2 < w.pc.size(); i++)
		if (weft_in_thunk(w.pc[i])) {
			good_steps += w.pc[i + 1] == weft_slot_return_address(
							     weft_slot_of(pc)) &&
				      in_function(w.pc[i + 2],
					      reinterpret_cast<void *>(marked_read));
			break;
		}
}

TEST(SiteUnwinding, WorksFromEveryInstructionOfAThunk)
{
	IN_CHILD({
		Loaded l;
		char c;
		struct sigaction sa = {};

		by_libgcc();
		sa.sa_sigaction = on_step;
		sa.sa_flags = SA_SIGINFO;
		sigaction(SIGTRAP, &sa, nullptr);
		CHECK(l.install() == 0);
		single_steps(true);
		marked_read(-1, &c);
		single_steps(false);
		CHECK(steps_in_thunk >= 4); /* lea, jmp, syscall's end, after, jmp */
		CHECK(good_steps == steps_in_thunk);
	});
}
