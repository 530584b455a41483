// preload/elfcheck.c: what is read from real and from broken files, and the rules.
// The fixtures come from launcher_tests.cmake.
#include "elfcheck.h"

#include <gtest/gtest.h>

#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

namespace
{

using Bytes = std::vector<unsigned char>;

std::string fixture(const std::string &name)
{
	return WEFT_TEST_FIXTURES "/" + name;
}

Bytes load(const std::string &path)
{
	std::ifstream in(path, std::ios::binary);

	EXPECT_TRUE(in) << path;
	return Bytes(std::istreambuf_iterator<char>(in), {});
}

// A file with these contents, gone when the object goes.
class MemoryFile
{
      public:
	explicit MemoryFile(const Bytes &bytes) : fd(memfd_create("elf", MFD_CLOEXEC))
	{
		EXPECT_GE(fd, 0);
		rewrite(bytes);
	}
	~MemoryFile()
	{
		close(fd);
	}
	MemoryFile(const MemoryFile &) = delete;
	MemoryFile &operator=(const MemoryFile &) = delete;

	void rewrite(const Bytes &bytes)
	{
		ASSERT_EQ(ftruncate(fd, 0), 0);
		ASSERT_EQ(
			pwrite(fd, bytes.data(), bytes.size(), 0), (ssize_t)bytes.size());
	}
	std::string path() const
	{
		return "/proc/self/fd/" + std::to_string(fd);
	}

	const int fd;
};

class Elf
{
      public:
	explicit Elf(const std::string &path)
	{
		const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);

		EXPECT_GE(fd, 0) << path;
		err = weft_elf_read(fd, &elf);
		close(fd);
	}
	~Elf()
	{
		weft_elf_free(&elf);
	}
	Elf(const Elf &) = delete;
	Elf &operator=(const Elf &) = delete;

	bool needs(const std::string &name) const
	{
		for (size_t i = 0; i < elf.needed_count; i++)
			if (name == elf.needed[i])
				return true;
		return false;
	}

	int err;
	weft_elf elf;
};

std::vector<std::string> notes;

void take_note(const char *name, const char *outcome)
{
	notes.push_back(std::string(name) + ": " + outcome);
}

bool noted(const std::string &part)
{
	for (const std::string &note : notes)
		if (note.find(part) != std::string::npos)
			return true;
	return false;
}

struct weft_elfcheck check(const std::string &path, const char *ld_library_path = nullptr)
{
	weft_libraries *libs = weft_libraries_new(nullptr, ld_library_path);
	weft_caller caller;
	struct weft_elfcheck ret;

	notes.clear();
	weft_caller_self(&caller);
	weft_elfcheck(path.c_str(), &caller, libs, take_note, &ret);
	weft_libraries_free(libs);
	return ret;
}

void expect_refused(const std::string &path, const std::string &reason)
{
	const struct weft_elfcheck c = check(path);

	EXPECT_TRUE(c.refused) << path;
	EXPECT_NE(std::string(c.reason).find(reason), std::string::npos)
		<< path << ": " << c.reason;
}

Elf64_Ehdr header_of(const Bytes &bytes)
{
	Elf64_Ehdr eh;

	memcpy(&eh, bytes.data(), sizeof(eh));
	return eh;
}

} // namespace

TEST(ElfRead, PlainProgramIsUnderstood)
{
	const Elf e(fixture("plain"));

	ASSERT_EQ(e.err, 0);
	EXPECT_EQ(e.elf.machine, unsigned{EM_X86_64});
	EXPECT_EQ(e.elf.elf_class, unsigned{ELFCLASS64});
	EXPECT_TRUE(e.elf.dynamic);
	EXPECT_STREQ(e.elf.interp, "/lib64/ld-linux-x86-64.so.2");
	EXPECT_TRUE(e.needs("libc.so.6"));
	EXPECT_EQ(e.elf.creates, nullptr);
	EXPECT_EQ(e.elf.foreign, nullptr);
}

TEST(ElfRead, ImportOfPthreadCreateIsSeenWithEveryHashStyle)
{
	for (const char *name :
		{"threads", "threads_gnu_hash", "threads_sysv_hash", "threads_now"}) {
		const Elf e(fixture(name));

		ASSERT_EQ(e.err, 0) << name;
		ASSERT_NE(e.elf.creates, nullptr) << name;
		EXPECT_STREQ(e.elf.creates, "pthread_create") << name;
	}
}

TEST(ElfRead, SymbolsAreFoundWithoutSectionHeaders)
{
	for (const char *name : {"threads", "threads_gnu_hash", "threads_sysv_hash",
		     "threads_now", "threads_library"}) {
		Bytes bytes = load(fixture(name));
		Elf64_Ehdr eh = header_of(bytes);

		eh.e_shoff = 0;
		eh.e_shnum = eh.e_shstrndx = 0;
		memcpy(bytes.data(), &eh, sizeof(eh));
		const MemoryFile file(bytes);
		const Elf e(file.path());
		ASSERT_EQ(e.err, 0) << name;
		EXPECT_NE(e.elf.creates, nullptr) << name;
	}
	// libc exports thousands, which only the hash table counts
	const Elf libc("/lib/x86_64-linux-gnu/libc.so.6");
	ASSERT_EQ(libc.err, 0);
	EXPECT_STREQ(libc.elf.soname, "libc.so.6");
	EXPECT_EQ(libc.elf.creates, nullptr);
}

TEST(ElfRead, OtherMachinesAreNamedNotRead)
{
	Bytes bytes = load(fixture("plain"));

	bytes[EI_CLASS] = ELFCLASS32;
	bytes[offsetof(Elf64_Ehdr, e_machine)] = EM_386;
	const MemoryFile file(bytes);
	const Elf e(file.path());
	EXPECT_EQ(e.err, 0);
	EXPECT_EQ(e.elf.machine, unsigned{EM_386});
	EXPECT_FALSE(e.elf.dynamic);
}

TEST(ElfRead, WhatIsNotElfIsSaidSo)
{
	for (const std::string &text : {std::string(), std::string("\x7f"),
		     std::string("\x7f"
				 "ELF"),
		     std::string("#!/bin/sh\n"), std::string(100, 'x')}) {
		const MemoryFile file(Bytes(text.begin(), text.end()));
		EXPECT_EQ(Elf(file.path()).err, -ENOEXEC) << text;
	}
	EXPECT_EQ(Elf("/").err, -ENOEXEC);
	EXPECT_EQ(Elf("/dev/null").err, -ENOEXEC);
}

TEST(ElfRead, EveryTruncationIsSurvived)
{
	const Bytes whole = load(fixture("threads"));
	MemoryFile file(whole);

	for (size_t size = 0; size < whole.size(); size += size < 1024 ? 1 : 97) {
		Bytes part(whole.begin(), whole.begin() + (ptrdiff_t)size);

		file.rewrite(part);
		const Elf e(file.path());
		EXPECT_TRUE(e.err == -ENOEXEC || e.err == -EBADMSG ||
			    (e.err == 0 && size >= sizeof(Elf64_Ehdr)))
			<< size << ": " << e.err;
	}
}

// Random bytes, and numbers that like to break arithmetic, where they hurt most: in the
// header, the program and section headers and the dynamic section.
TEST(ElfRead, ThousandsOfMutationsAreSurvived)
{
	static const uint64_t nasty[] = {0, 1, 7, 8, 0x7f, 0xff, 0xffff, 0x7fffffff,
		0xffffffff, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff,
		0xfffffffffffff000, 0x100000000, 0x3fffffffffffffff};
	const auto start = std::chrono::steady_clock::now();
	std::mt19937_64 random(20261122);

	for (const char *name : {"threads", "threads_gnu_hash", "threads_sysv_hash", "go",
		     "threads_library"}) {
		const Bytes whole = load(fixture(name));
		const Elf64_Ehdr eh = header_of(whole);
		MemoryFile file(whole);
		std::vector<std::pair<size_t, size_t>> ranges = {
			{0, sizeof(eh)},
			{eh.e_phoff, size_t{eh.e_phnum} * sizeof(Elf64_Phdr)},
			{eh.e_shoff, size_t{eh.e_shnum} * sizeof(Elf64_Shdr)},
			{0, whole.size()},
		};
		for (unsigned i = 0; i < eh.e_phnum; i++) {
			Elf64_Phdr ph;

			memcpy(&ph, &whole[eh.e_phoff + i * sizeof(ph)], sizeof(ph));
			if (ph.p_type == PT_DYNAMIC || ph.p_type == PT_NOTE ||
				ph.p_type == PT_INTERP)
				ranges.push_back({ph.p_offset, ph.p_filesz});
			if (ph.p_type == PT_LOAD && ph.p_offset == 0) // hash, symbols
				ranges.push_back({sizeof(eh), ph.p_filesz - sizeof(eh)});
		}
		for (int round = 0; round < 600; round++) {
			Bytes bytes = whole;

			for (unsigned n = 1 + random() % 6; n > 0; n--) {
				const auto &range = ranges[random() % ranges.size()];
				uint64_t value = nasty[random() % std::size(nasty)];
				const size_t width = size_t{1} << (random() % 4);
				size_t at = range.first + random() % range.second;

				if (random() % 2 == 0)
					at &= ~(width - 1);
				if (random() % 4 == 0)
					value = random();
				if (random() % 4 == 0)
					value = bytes.size() - random() % 32;
				if (at + width <= bytes.size())
					memcpy(&bytes[at], &value, width);
			}
			if (random() % 8 == 0)
				bytes.resize(random() % bytes.size());
			file.rewrite(bytes);
			const Elf e(file.path());
			ASSERT_TRUE(e.err == 0 || e.err == -ENOEXEC || e.err == -EBADMSG)
				<< e.err;
			check(file.path()); // and through all the rules
		}
	}
	EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(50));
}

TEST(ElfRead, HugeSparseFileIsNotReadWhole)
{
	Bytes bytes = load(fixture("threads"));
	Elf64_Ehdr eh = header_of(bytes);

	// Every section claims a terabyte, and the file has it.
	for (unsigned i = 0; i < eh.e_shnum; i++) {
		const size_t at = eh.e_shoff + i * sizeof(Elf64_Shdr) +
				  offsetof(Elf64_Shdr, sh_size);
		const uint64_t size = uint64_t{1} << 40;

		memcpy(&bytes[at], &size, sizeof(size));
	}
	const MemoryFile file(bytes);
	if (ftruncate(file.fd, (off_t)1 << 41) != 0)
		GTEST_SKIP() << "no sparse files of 2 TiB: " << strerror(errno);
	const Elf e(file.path());
	EXPECT_EQ(e.err, 0);
}

TEST(ElfCheck, ServesOrdinaryPrograms)
{
	struct weft_elfcheck c = check(fixture("threads"));
	EXPECT_FALSE(c.refused) << c.reason;
	EXPECT_TRUE(c.creates_threads);
	EXPECT_TRUE(noted("threads: the program calls pthread_create"));

	c = check(fixture("plain"));
	EXPECT_FALSE(c.refused) << c.reason;
	EXPECT_FALSE(c.creates_threads);

	c = check(fixture("by_library"));
	EXPECT_FALSE(c.refused) << c.reason;
	EXPECT_TRUE(c.creates_threads);
	EXPECT_TRUE(noted("threads: a direct dependency")) << "its RUNPATH leads there";
}

TEST(ElfCheck, AskingForASanitizerIsNotHavingOne)
{
	EXPECT_FALSE(check(fixture("asks_asan")).refused);
}

TEST(ElfCheck, RefusesEachKindWithItsReason)
{
	expect_refused(fixture("static"), "statically linked");
	expect_refused(fixture("static_pie"), "statically linked");
	expect_refused(fixture("musl"), "it was built for musl");
	expect_refused(fixture("no_loader"), "No such file or directory");
	expect_refused(fixture("go"), "the Go runtime (.go.buildinfo section)");
	expect_refused(fixture("go_stripped"), "the Go runtime (Go build id note)");
	expect_refused(fixture("by_go_library"),
		"its library go_library contains the Go runtime");
	expect_refused(fixture("jvm"), "a Java virtual machine (libjli.so)");
	expect_refused(fixture("by_tsan"), "ThreadSanitizer (libtsan.so)");
	expect_refused(fixture("asan"), "AddressSanitizer (__asan_init)");
	expect_refused(fixture("dotnet"), "the .NET runtime");
	expect_refused(fixture("by_mono"), "the Mono runtime");
	expect_refused(fixture("preloaded"), "shared library");
	expect_refused("/lib64/ld-linux-x86-64.so.2", "the loader itself");
	expect_refused(fixture("plain.c"), "neither an ELF program nor a script");
	expect_refused(fixture("missing"), "cannot be read (No such file or directory)");
}

TEST(ElfCheck, RefusesOtherMachines)
{
	struct {
		unsigned char elf_class, data;
		uint16_t machine;
		const char *name;
	} const cases[] = {
		{ELFCLASS32, ELFDATA2LSB, EM_386, "i386"},
		{ELFCLASS32, ELFDATA2LSB, EM_X86_64, "x32"},
		{ELFCLASS64, ELFDATA2LSB, EM_AARCH64, "aarch64"},
		{ELFCLASS64, ELFDATA2MSB, EM_S390, "s390"},
		{ELFCLASS64, ELFDATA2LSB, 0xbeef, "another machine"},
	};

	for (const auto &c : cases) {
		Bytes bytes = load(fixture("plain"));
		uint16_t machine = c.machine;

		if (c.data == ELFDATA2MSB)
			machine = __builtin_bswap16(machine);
		bytes[EI_CLASS] = c.elf_class;
		bytes[EI_DATA] = c.data;
		memcpy(&bytes[offsetof(Elf64_Ehdr, e_machine)], &machine, 2);
		const MemoryFile file(bytes);
		expect_refused(file.path(), c.name);
	}
}

TEST(ElfCheck, RefusesObjectsAndDamage)
{
	Bytes bytes = load(fixture("plain"));

	bytes[offsetof(Elf64_Ehdr, e_type)] = ET_CORE;
	expect_refused(MemoryFile(bytes).path(), "object or core file");
	bytes[offsetof(Elf64_Ehdr, e_type)] = ET_DYN;
	bytes.resize(sizeof(Elf64_Ehdr));
	expect_refused(MemoryFile(bytes).path(), "damaged");
}

TEST(ElfCheck, MissingLibraryIsTheLoadersBusiness)
{
	Bytes bytes = load(fixture("by_library"));
	const std::string from = "threads_library", to = "threads_lost___";
	const auto at = std::search(bytes.begin(), bytes.end(), from.begin(), from.end());

	ASSERT_NE(at, bytes.end());
	std::copy(to.begin(), to.end(), at);
	const MemoryFile file(bytes);
	EXPECT_FALSE(check(file.path()).refused);
	EXPECT_TRUE(noted("library: threads_lost___: not found"));
}

TEST(Libraries, SearchPathsCountInTheLoadersOrder)
{
	char dir[] = "/tmp/weft-libs-XXXXXX", path[PATH_MAX];
	ASSERT_NE(mkdtemp(dir), nullptr);
	const std::string in_dir = std::string(dir) + "/libz-fixture.so";
	const std::string beside = fixture("libjli.so");
	char origin[] = "$ORIGIN", braces[] = "${ORIGIN}/../x", lib[] = "/usr/$LIB";
	weft_elf elf = {};
	weft_libraries *libs = weft_libraries_new("/nonexistent", dir);

	ASSERT_NE(libs, nullptr);
	ASSERT_EQ(symlink(beside.c_str(), in_dir.c_str()), 0);
	const std::string of = fixture("plain");

	EXPECT_EQ(weft_libraries_find(
			  libs, "libz-fixture.so", &elf, of.c_str(), path, sizeof(path)),
		0);
	EXPECT_EQ(path, in_dir);
	EXPECT_EQ(weft_libraries_find(
			  libs, "libjli.so", &elf, of.c_str(), path, sizeof(path)),
		-ENOENT);
	elf.runpath = origin;
	EXPECT_EQ(weft_libraries_find(
			  libs, "libjli.so", &elf, of.c_str(), path, sizeof(path)),
		0);
	EXPECT_EQ(path, beside);
	elf.runpath = braces;
	EXPECT_EQ(weft_libraries_find(libs, "libjli.so", &elf, fixture("x/prog").c_str(),
			  path, sizeof(path)),
		-ENOENT);
	elf.runpath = lib;
	EXPECT_EQ(weft_libraries_find(
			  libs, "libjli.so", &elf, of.c_str(), path, sizeof(path)),
		-ENOENT);
	elf.runpath = nullptr;
	// a file of that name which is no library is passed over
	ASSERT_EQ(unlink(in_dir.c_str()), 0);
	std::ofstream(in_dir) << "INPUT(-lz)\n";
	EXPECT_EQ(weft_libraries_find(
			  libs, "libz-fixture.so", &elf, of.c_str(), path, sizeof(path)),
		-ENOENT);
	EXPECT_EQ(weft_libraries_find(
			  libs, "libc.so.6", &elf, of.c_str(), path, sizeof(path)),
		0)
		<< "in the standard folders";
	weft_libraries_free(libs);
	unlink(in_dir.c_str());
	rmdir(dir);
}

TEST(Libraries, BrokenCachesAreSurvived)
{
	const Bytes whole = load("/etc/ld.so.cache");
	std::mt19937_64 random(7);
	char path[PATH_MAX];
	weft_elf elf = {};
	MemoryFile file(whole);

	for (int round = 0; round < 300; round++) {
		Bytes bytes = whole;

		for (unsigned n = random() % 8; n > 0; n--)
			bytes[20 + random() % (bytes.size() < 4000 ? bytes.size() - 20
								   : 3900)] =
				(unsigned char)random();
		if (round % 3 == 1)
			bytes.resize(random() % bytes.size());
		if (round % 50 == 2 && bytes.size() > 24)
			memset(&bytes[20], 0xff, 4);
		file.rewrite(bytes);
		weft_libraries *libs = weft_libraries_new(file.path().c_str(), nullptr);
		ASSERT_NE(libs, nullptr);
		(void)weft_libraries_find(
			libs, "libnone.so", &elf, "/bin/ls", path, sizeof(path));
		weft_libraries_free(libs);
	}
}

TEST(Secure, KernelsRuleIsFollowed)
{
	const unsigned char effective[20] = {1, 0, 0, 2}, permitted[20] = {0, 0, 0, 2, 4},
			    high[20] = {0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1},
			    none[20] = {0, 0, 0, 2};
	const weft_caller user = {1000, 1000, 1000, 1000, false};
	const weft_caller confined = {1000, 1000, 1000, 1000, true};
	const weft_caller root = {0, 0, 0, 0, false};
	const weft_caller raised = {1000, 0, 1000, 1000, false};
	const auto reason = [](mode_t mode, uid_t uid, gid_t gid,
				    const weft_caller &caller, bool nosuid = false,
				    const void *caps = nullptr) {
		struct stat st = {};
		st.st_mode = S_IFREG | mode;
		st.st_uid = uid;
		st.st_gid = gid;
		const char *r =
			weft_secure_reason(&st, nosuid, caps, caps ? 20 : -1, &caller);
		return std::string(r != nullptr ? r : "");
	};

	EXPECT_EQ(reason(0755, 0, 0, user), "");
	EXPECT_EQ(reason(04755, 0, 0, user), "it is set-user-ID");
	EXPECT_EQ(reason(04755, 1000, 0, user), "") << "no change";
	EXPECT_EQ(reason(04755, 0, 0, root), "") << "no change";
	EXPECT_EQ(reason(04755, 1000, 0, root), "it is set-user-ID");
	EXPECT_EQ(reason(04755, 0, 0, user, true), "") << "mounted nosuid";
	EXPECT_EQ(reason(04755, 0, 0, confined), "") << "no_new_privs";
	EXPECT_EQ(reason(02755, 0, 0, user), "it is set-group-ID");
	EXPECT_EQ(reason(02745, 0, 0, user), "") << "no group execute bit";
	EXPECT_EQ(reason(02755, 0, 1000, user), "");
	EXPECT_EQ(reason(0755, 0, 0, raised), "its real and effective user would differ");
	EXPECT_EQ(reason(04755, 1000, 0, raised), "") << "drops back to the real user";
	EXPECT_EQ(reason(0755, 0, 0, user, false, effective), "it has file capabilities");
	EXPECT_EQ(reason(0755, 0, 0, user, false, permitted), "it has file capabilities");
	EXPECT_EQ(reason(0755, 0, 0, user, false, high), "it has file capabilities");
	EXPECT_EQ(reason(0755, 0, 0, user, false, none), "");
	EXPECT_EQ(reason(0755, 0, 0, user, true, effective), "") << "mounted nosuid";
	EXPECT_EQ(reason(0755, 0, 0, root, false, effective), "")
		<< "root has them anyway";
}
