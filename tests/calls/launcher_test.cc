// The `weft` command, run for real: a copy of it in a folder of its own, with a stand-in
// for libweft.so beside it that leaves FIXTURE_LOADED in the program's environment.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

namespace
{

std::string fixture(const std::string &name)
{
	return WEFT_TEST_FIXTURES "/" + name;
}

std::string contents(const std::string &path)
{
	std::ifstream in(path, std::ios::binary);
	std::stringstream all;

	EXPECT_TRUE(in) << path;
	all << in.rdbuf();
	return all.str();
}

bool contains(const std::string &text, const std::string &part)
{
	return text.find(part) != std::string::npos;
}

struct Result {
	int status; // exit status, or 1000 + signal
	std::string out, err;
};

std::vector<char *> pointers(const Words &words)
{
	std::vector<char *> all;

	for (const std::string &word : words)
		all.push_back(const_cast<char *>(word.c_str()));
	all.push_back(nullptr);
	return all;
}

// Runs command with exactly this environment; prepare runs in the child.
Result run(const Words &command, const Words &env,
	const std::function<void()> &prepare = {}, const char *stdout_to = nullptr)
{
	const std::vector<char *> argv = pointers(command), envp = pointers(env);
	int out[2], err[2], status;
	Result r{};

	if (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0)
		abort();
	const pid_t parent = getpid();
	const pid_t pid = fork();
	if (pid == 0) {
		// no process outlives a test that is killed
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(99);
		dup2(open("/dev/null", O_RDONLY), 0);
		dup2(stdout_to != nullptr ? open(stdout_to, O_WRONLY) : out[1], 1);
		dup2(err[1], 2);
		if (prepare)
			prepare();
		execve(argv[0], argv.data(), envp.data());
		_exit(98);
	}
	close(out[1]);
	close(err[1]);
	struct pollfd fds[] = {{out[0], POLLIN, 0}, {err[0], POLLIN, 0}};
	std::string *const texts[] = {&r.out, &r.err};
	while (fds[0].fd >= 0 || fds[1].fd >= 0) {
		poll(fds, 2, -1);
		for (int i = 0; i < 2; i++) {
			char buf[4096];

			if (fds[i].fd < 0 || fds[i].revents == 0)
				continue;
			const ssize_t n = read(fds[i].fd, buf, sizeof(buf));
			if (n > 0)
				texts[i]->append(buf, (size_t)n);
			else
				fds[i].fd = -1;
		}
	}
	close(out[0]);
	close(err[0]);
	waitpid(pid, &status, 0);
	r.status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
	return r;
}

// A folder tree of its own: bin/weft and libweft.so where the test wants it.
class Launcher : public testing::Test
{
      protected:
	void SetUp() override
	{
		char name[] = "/tmp/weft-launcher-XXXXXX";

		ASSERT_NE(mkdtemp(name), nullptr);
		ASSERT_EQ(chmod(name, 0755), 0);
		root = name;
		install(root + "/bin", root + "/bin/libweft.so");
	}
	void TearDown() override
	{
		fs::remove_all(root);
	}

	void install(const std::string &bin, const std::string &lib)
	{
		fs::create_directories(bin);
		fs::create_directories(fs::path(lib).parent_path());
		command = bin + "/weft";
		library = lib;
		fs::copy_file(WEFT_TEST_COMMAND, command);
		fs::copy_file(fixture("preloaded"), library);
	}

	// An executable file in root.
	std::string file(
		const std::string &name, const std::string &text, mode_t mode = 0755)
	{
		const std::string path = root + "/" + name;

		std::ofstream(path, std::ios::binary) << text;
		EXPECT_EQ(chmod(path.c_str(), mode), 0);
		return path;
	}

	Result weft(const Words &args, const Words &env = {},
		std::function<void()> prepare = {}, const char *stdout_to = nullptr)
	{
		Words all = {command}, environment = {"PATH=/usr/bin:/bin"};

		all.insert(all.end(), args.begin(), args.end());
		for (const std::string &e : env) {
			if (e.rfind("PATH=", 0) == 0)
				environment.clear();
			environment.push_back(e);
		}
		return run(all, environment, prepare, stdout_to);
	}

	// The lines of env(1) run by weft that start with prefix.
	Words variables(const Result &r, const std::string &prefix)
	{
		std::istringstream in(r.out);
		Words found;

		for (std::string line; std::getline(in, line);)
			if (line.rfind(prefix, 0) == 0)
				found.push_back(line);
		return found;
	}

	void expect_refused(const std::string &program, const std::string &reason)
	{
		SCOPED_TRACE(program);
		Result r = weft({program});
		EXPECT_EQ(r.status, 126);
		EXPECT_EQ(r.out, "");
		EXPECT_EQ(r.err.rfind("weft: " + program + ": cannot be served: ", 0), 0u)
			<< r.err;
		EXPECT_TRUE(contains(r.err, reason)) << r.err;
		EXPECT_EQ(r.err.find('\n'), r.err.size() - 1) << r.err;

		r = weft({"--check", program});
		EXPECT_EQ(r.status, 126);
		EXPECT_EQ(r.err, "");
		EXPECT_TRUE(contains(r.out, "\nwould be refused: ")) << r.out;
		EXPECT_TRUE(contains(r.out, reason)) << r.out;
	}

	void expect_line(const Result &r, int status, const std::string &line)
	{
		EXPECT_EQ(r.status, status);
		EXPECT_EQ(r.out, "");
		EXPECT_EQ(r.err, line + "\n");
	}

	std::string root, command, library;
};

std::string last_line(const std::string &text)
{
	const size_t end = text.find_last_not_of('\n');
	const size_t start = text.rfind('\n', end);

	return text.substr(start + 1, end - start);
}

// What io_uring_setup() does from here on.
void deny_uring(uint32_t action)
{
	sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const sock_fprog program = {(unsigned short)std::size(code), code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
		_exit(97);
}

} // namespace

// ---- starting programs ----

TEST_F(Launcher, RunsTheProgramWithTheLibrary)
{
	const Result r = weft({"env"}, {"A=b c"});

	EXPECT_EQ(r.status, 0);
	EXPECT_EQ(r.err, "");
	EXPECT_EQ(variables(r, "LD_PRELOAD"), Words{"LD_PRELOAD=" + library});
	EXPECT_EQ(variables(r, "FIXTURE"), Words{"FIXTURE_LOADED=1"});
	EXPECT_EQ(variables(r, "A="), Words{"A=b c"});
	EXPECT_EQ(variables(r, "WEFT"), Words{});
}

TEST_F(Launcher, PassesArgumentsAndStatusThrough)
{
	const Result r = weft({"sh", "-c", "printf '%s|' \"$0\" \"$@\"; exit 42", "",
		"--stats", "a b", "--"});
	EXPECT_EQ(r.status, 42);
	EXPECT_EQ(r.out, "|--stats|a b|--|");

	EXPECT_EQ(weft({"sh", "-c", "kill -9 $$"}).status, 1009);
	EXPECT_EQ(weft({fixture("plain")}).status, 7);
}

TEST_F(Launcher, KeepsArgvZeroAsGiven)
{
	EXPECT_EQ(weft({"sh", "-c", "tr '\\0' '\\n' < /proc/$$/cmdline | head -n 1"}).out,
		"sh\n");
}

TEST_F(Launcher, BecomesTheProgramAndLeavesNothingOpen)
{
	const Words list = {"sh", "-c", "echo $PPID; ls /proc/$$/fd"};
	Words native = {"/usr/bin/env"};

	native.insert(native.end(), list.begin(), list.end());
	EXPECT_EQ(weft(list).out, run(native, {"PATH=/usr/bin:/bin"}).out)
		<< "the test is its parent, and has left it some descriptors of ctest's";
}

TEST_F(Launcher, SearchesLikeEnv)
{
	file("tool", "#!/bin/sh\necho from root\n");
	fs::create_directories(root + "/first/tool"); // a folder of that name
	fs::create_directories(root + "/second");
	std::ofstream(root + "/second/tool") << "#!/bin/sh\n"; // not executable

	EXPECT_EQ(weft({"tool"},
			  {"PATH=" + root + "/first:" + root + "/second:/none:" + root})
			  .out,
		"from root\n");
	const auto from_root = [this] {
		if (chdir(root.c_str()) != 0)
			_exit(96);
	};
	EXPECT_EQ(weft({"tool"}, {"PATH=/none:"}, from_root).out, "from root\n")
		<< "an empty element is the working directory";
	expect_line(weft({"tool"}, {"PATH=/none:" + root + "/second"}), 126,
		"weft: tool: Permission denied");
	expect_line(weft({"tool"}, {"PATH=/none"}), 127,
		"weft: tool: No such file or directory");
	// without PATH, /bin and /usr/bin
	EXPECT_EQ(run({command, "true"}, {}).status, 0);
}

TEST_F(Launcher, SaysWhatIsMissing)
{
	expect_line(weft({"no-such-program"}), 127,
		"weft: no-such-program: No such file or directory");
	expect_line(
		weft({"./no-such"}), 127, "weft: ./no-such: No such file or directory");
	expect_line(weft({""}), 127, "weft: : No such file or directory");
	expect_line(weft({"/"}), 126, "weft: /: Permission denied");
	expect_line(weft({"/etc/passwd"}), 126, "weft: /etc/passwd: Permission denied");
	expect_line(weft({"/etc/passwd/x"}), 126, "weft: /etc/passwd/x: Not a directory");
	expect_line(
		weft({"new\nline"}), 127, "weft: new?line: No such file or directory");
	expect_line(weft({"--check", "no-such"}), 127,
		"weft: no-such: No such file or directory");
	for (const Words &args :
		{Words{}, Words{"--"}, Words{"--verbose"}, Words{"--check"}}) {
		const Result r = weft(args);
		EXPECT_EQ(r.status, 127);
		EXPECT_EQ(r.err.rfind("weft: no program given", 0), 0u) << r.err;
		EXPECT_EQ(r.err.find('\n'), r.err.size() - 1) << r.err;
	}
}

TEST_F(Launcher, AgreesWithEnvOnExitStatus)
{
	for (const std::string &program :
		{std::string("no-such"), std::string("/etc/passwd"), std::string("/"),
			std::string("/etc/passwd/x"), std::string(5000, 'x'),
			std::string("true"), std::string("false")}) {
		const Words env = {"PATH=/usr/bin:/bin"};
		EXPECT_EQ(weft({program}).status,
			run({"/usr/bin/env", program}, env).status)
			<< program.substr(0, 40);
	}
}

// ---- options ----

TEST_F(Launcher, OptionsSetTheirVariable)
{
	const Result r =
		weft({"--stats=exit", "--carriers", "3", "--verbose", "--", "env"},
			{"WEFT_STATS=5s", "WEFT_SEED=9"});

	EXPECT_EQ(r.status, 0);
	EXPECT_EQ(variables(r, "WEFT_STATS"), Words{"WEFT_STATS=exit"});
	EXPECT_EQ(variables(r, "WEFT_CARRIERS"), Words{"WEFT_CARRIERS=3"});
	EXPECT_EQ(variables(r, "WEFT_VERBOSE"), Words{"WEFT_VERBOSE=1"});
	EXPECT_EQ(variables(r, "WEFT_SEED"), Words{"WEFT_SEED=9"});
	EXPECT_EQ(r.err, "weft: LD_PRELOAD=" + library + " /usr/bin/env\n");
	EXPECT_EQ(variables(weft({"--stats", "/tmp/x", "env"}), "WEFT"),
		Words{"WEFT_STATS=/tmp/x"});
}

TEST_F(Launcher, WrongOptionsAreOneLineAndNothingRuns)
{
	expect_line(weft({"--stats=5", "env"}), 125,
		"weft: --stats '5' is not understood; allowed: exit, or <n>s with n from "
		"1 to"
		" 86400, or an absolute path");
	expect_line(weft({"--carriers", "0", "env"}), 125,
		"weft: --carriers '0' is not understood; allowed: 1 to 64");
	expect_line(weft({"--carriers"}), 125,
		"weft: --carriers needs a value; allowed: 1 to 64");
	expect_line(weft({"--verbose=1", "env"}), 125, "weft: --verbose takes no value");
	expect_line(weft({"--nonsense", "env"}), 125,
		"weft: unknown option '--nonsense'; 'weft --help' lists them");
	expect_line(weft({"--stat", "exit", "env"}), 125,
		"weft: unknown option '--stat'; 'weft --help' lists them");
	expect_line(weft({"-x\n", "env"}), 125,
		"weft: unknown option '-x?'; 'weft --help' lists them");
}

TEST_F(Launcher, OffRunsAnythingNatively)
{
	const Result r = weft({"--off", "env"}, {"LD_PRELOAD="});

	EXPECT_EQ(variables(r, "LD_PRELOAD"), Words{"LD_PRELOAD="});
	EXPECT_EQ(variables(r, "FIXTURE"), Words{});
	EXPECT_EQ(variables(r, "WEFT"), Words{"WEFT=off"});
	EXPECT_EQ(weft({fixture("static")}, {"WEFT=off"}).status, 7);
	fs::remove(library);
	EXPECT_EQ(weft({"--off", "true"}).status, 0) << "even without the library";
	EXPECT_EQ(last_line(weft({"--check", fixture("static")}, {"WEFT=off"}).out),
		"would run natively: WEFT=off");
}

TEST_F(Launcher, LeavesComplaintsAboutVariablesToTheLibrary)
{
	const Result r = weft({"env"}, {"WEFT_CARRIERS=bad", "WEFT_STAT=1"});

	EXPECT_EQ(r.err, "");
	EXPECT_EQ(variables(r, "WEFT").size(), 2u);
}

// ---- LD_PRELOAD and the library ----

TEST_F(Launcher, AppendsToAnExistingPreload)
{
	const std::string other = root + "/other.so", copy = root + "/libweft.so";
	const auto preload = [&](const std::string &old) {
		const Words found =
			variables(weft({"env"}, {"LD_PRELOAD=" + old}), "LD_PRELOAD=");
		return found.size() == 1 ? found[0].substr(strlen("LD_PRELOAD=")) : "?";
	};

	fs::copy_file(fixture("libjli.so"), other);
	EXPECT_EQ(preload(""), library);
	EXPECT_EQ(preload(other), other + ":" + library);
	EXPECT_EQ(preload(other + " " + fixture("libtsan.so.2")),
		other + ":" + fixture("libtsan.so.2") + ":" + library);
	EXPECT_EQ(preload(library), library) << "already there";
	EXPECT_EQ(preload(library + ":" + other), library + ":" + other) << "in front";
	EXPECT_EQ(preload(root + "/bin/../bin/libweft.so"), library) << "by another name";
	EXPECT_EQ(preload("::" + other + ": "), other + ":" + library);
	// another one is replaced: two would fight
	fs::copy_file(fixture("preloaded"), copy);
	EXPECT_EQ(preload(copy + ":" + other), library + ":" + other);
	EXPECT_EQ(preload(copy + ":" + library), library);
}

TEST_F(Launcher, FindsTheLibraryWhereInstallationsHaveIt)
{
	for (const char *folder : {"lib", "lib/weft", "lib64", "lib64/weft",
		     "lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu/weft"}) {
		const std::string prefix = root + "/prefix";

		install(prefix + "/bin", prefix + "/" + folder + "/libweft.so");
		const Result r = weft({"env"});
		EXPECT_EQ(variables(r, "LD_PRELOAD"), Words{"LD_PRELOAD=" + library})
			<< r.err;
		fs::remove_all(prefix);
	}
}

TEST_F(Launcher, IsFoundThroughLinks)
{
	fs::create_symlink(command, root + "/w");
	command = root + "/w";
	EXPECT_EQ(variables(weft({"env"}), "FIXTURE"), Words{"FIXTURE_LOADED=1"});
}

TEST_F(Launcher, SaysThatTheLibraryIsMissingOrNone)
{
	fs::remove(library);
	expect_line(weft({"true"}), 125,
		"weft: libweft.so is neither beside this command nor in ../lib");
	EXPECT_EQ(last_line(weft({"--check", "true"}).out),
		"would be refused: libweft.so is missing");
	std::ofstream(library) << "no library";
	EXPECT_EQ(weft({"true"}).status, 125);
}

TEST_F(Launcher, RefusesPathsThatThePreloadCannotName)
{
	for (const char *name : {"a b", "a:b", "a$b"}) {
		const std::string bin = root + "/" + name;

		install(bin, bin + "/libweft.so");
		const Result r = weft({"true"});
		EXPECT_EQ(r.status, 125);
		EXPECT_TRUE(contains(
			r.err, "LD_PRELOAD cannot name a path with a space, a colon"))
			<< r.err;
		EXPECT_EQ(weft({"--check", "true"}).status, 126);
	}
}

// ---- what cannot be served ----

TEST_F(Launcher, RefusesWithTheReason)
{
	expect_refused(fixture("static"), "it is statically linked");
	expect_refused(fixture("static_pie"), "it is statically linked");
	expect_refused(fixture("musl"), "it was built for musl");
	expect_refused(fixture("go"), "the Go runtime");
	expect_refused(fixture("jvm"), "a Java virtual machine");
	expect_refused(fixture("dotnet"), "the .NET runtime");
	expect_refused(fixture("by_mono"), "the Mono runtime");
	expect_refused(fixture("asan"), "AddressSanitizer");
	expect_refused(fixture("by_tsan"), "ThreadSanitizer");
	expect_refused(
		file("text", "echo hello\n"), "neither an ELF program nor a script");
	expect_refused(file("empty", ""), "neither an ELF program nor a script");

	std::string i386 = contents(fixture("plain"));
	i386[4] = 1;  // ELFCLASS32
	i386[18] = 3; // EM_386
	expect_refused(file("i386", i386), "it is a program for i386");
	expect_refused(file("cut", contents(fixture("plain")).substr(0, 200)), "damaged");
}

TEST_F(Launcher, RunsItself)
{
	EXPECT_EQ(weft({command, "env"}).status, 0) << "its tables are not a .NET host";
}

TEST_F(Launcher, RefusesWhatTheLoaderWouldNotPreload)
{
	if (geteuid() != 0)
		GTEST_SKIP() << "needs root, to make files of others";
	struct statfs where;
	ASSERT_EQ(statfs(root.c_str(), &where), 0);
	const std::string suid = file("suid", contents(fixture("plain")));

	ASSERT_EQ(chmod(suid.c_str(), 04755), 0);
	EXPECT_EQ(weft({suid}).status, 7) << "set-user-ID to the caller is no change";
	ASSERT_EQ(chown(suid.c_str(), 1, 0), 0);
	ASSERT_EQ(chmod(suid.c_str(), 04755), 0);
	if ((where.f_flags & 2 /* ST_NOSUID */) != 0)
		GTEST_SKIP() << "/tmp is mounted nosuid";
	expect_refused(suid, "it is set-user-ID, so the loader ignores LD_PRELOAD");
	ASSERT_EQ(chown(suid.c_str(), 0, 1), 0);
	ASSERT_EQ(chmod(suid.c_str(), 02755), 0);
	expect_refused(suid, "it is set-group-ID");
}

TEST_F(Launcher, RefusesFileCapabilitiesAndUnreadableFilesToOthers)
{
	if (geteuid() != 0)
		GTEST_SKIP() << "needs root, to become another user";
	const unsigned char caps[20] = {1, 0, 0, 2, 0, 4}; // cap_net_bind_service=ep
	const std::string capable = file("capable", contents(fixture("plain")));
	const std::string secret = file("secret", contents(fixture("plain")), 0711);
	const auto other_user = [] {
		if (setgroups(0, nullptr) != 0 || setgid(65534) != 0 ||
			setuid(65534) != 0)
			_exit(96);
	};

	Result r = weft({secret}, {}, other_user);
	EXPECT_EQ(r.status, 126);
	EXPECT_TRUE(contains(r.err, "cannot be read (Permission denied)")) << r.err;
	if (setxattr(capable.c_str(), "security.capability", caps, sizeof(caps), 0) != 0)
		GTEST_SKIP() << "no file capabilities here: " << strerror(errno);
	EXPECT_EQ(weft({capable}).status, 7) << "root gains nothing by them";
	r = weft({capable}, {}, other_user);
	EXPECT_EQ(r.status, 126);
	EXPECT_TRUE(contains(r.err, "it has file capabilities")) << r.err;
}

// ---- scripts ----

TEST_F(Launcher, FollowsScriptsToTheirInterpreter)
{
	EXPECT_EQ(variables(weft({file("a", "#!/bin/sh\nenv\n")}), "FIXTURE"),
		Words{"FIXTURE_LOADED=1"});
	EXPECT_EQ(weft({file("b", "#! \t/bin/sh -e \nfalse\necho no\n")}).status, 1);
	EXPECT_EQ(weft({file("c", "#!/usr/bin/env sh\nexit 5\n")}).status, 5);
	EXPECT_EQ(weft({file("d", "#!/usr/bin/env -S A=1 sh -e\nexit 6\n")}).status, 6);
	EXPECT_EQ(weft({file("no_newline", "#!/bin/true")}).status, 0);
	EXPECT_EQ(weft({file("nested", "#!" + root + "/a\n")}).status, 0);
}

TEST_F(Launcher, RefusesScriptsByTheirInterpreter)
{
	const std::string bad = fixture("static");
	const std::string reason = "of its interpreter " + bad.substr(0, 90);

	expect_refused(file("direct", "#!" + bad + "\n"), "it is statically linked");
	expect_refused(file("direct", "#!" + bad + "\n"), reason);
	expect_refused(
		file("nested", "#!" + root + "/direct\n"), "it is statically linked");
	fs::create_symlink(bad, root + "/tool");
	for (const char *line : {"#!/usr/bin/env tool\n",
		     "#!/usr/bin/env -S X=1 tool -x\n", "#!/usr/bin/env -Stool\n",
		     "#!/usr/bin/env --split-string=tool -a b\n"}) {
		const Result r = weft({file("by_env", line)}, {"PATH=" + root});
		EXPECT_EQ(r.status, 126) << line;
		EXPECT_TRUE(contains(r.err, "it is statically linked")) << r.err;
	}
	// what env does with these is not guessed; env itself can be served
	for (const char *line :
		{"#!/usr/bin/env -S -i tool\n", "#!/usr/bin/env -S 'to'ol\n"})
		EXPECT_EQ(
			weft({"--check", file("by_env", line)}, {"PATH=" + root}).status,
			0)
			<< line;
}

TEST_F(Launcher, SaysWhichInterpreterIsMissing)
{
	const std::string lost = file("lost", "#!/no/such/shell\n");
	expect_line(weft({lost}), 127,
		"weft: " + lost +
			": its interpreter /no/such/shell: No such file or directory");

	const std::string by_env = file("by_env", "#!/usr/bin/env no-such-tool\n");
	expect_line(weft({by_env}), 127,
		"weft: " + by_env +
			": its interpreter no-such-tool: No such file or directory");

	const std::string denied = file("denied", "#!/etc/passwd\n");
	expect_line(weft({denied}), 126,
		"weft: " + denied + ": its interpreter /etc/passwd: Permission denied");
	for (const char *text : {"#!", "#!\n", "#!  \t \n"})
		expect_refused(file("bare", text), "neither an ELF program nor a script");
	expect_refused(file("endless", "#!/" + std::string(400, 'x')),
		"neither an ELF program nor a script");
}

TEST_F(Launcher, StopsAtTheKernelsScriptDepth)
{
	std::string last = file("s0", "#!/bin/true\n");

	for (int i = 1; i < 8; i++) {
		const Result native = run({last}, {"PATH=/bin"});
		const Result r = weft({last});

		EXPECT_EQ(r.status == 0, native.status == 0) << i;
		EXPECT_EQ(
			r.err, native.status == 0
				       ? ""
				       : "weft: " + last +
						 ": Too many levels of symbolic links\n");
		last = file("s" + std::to_string(i), "#!" + last + "\n");
	}
	const std::string loop = root + "/loop";
	file("loop", "#!" + loop + "\n");
	EXPECT_EQ(weft({loop}).status, 126);
	file("loop", "#!/usr/bin/env " + loop + "\n");
	EXPECT_EQ(weft({loop}).status, 126);
}

// ---- --check ----

TEST_F(Launcher, CheckSaysWhatWouldHappenAndRunsNothing)
{
	const std::string mark = root + "/ran";
	const std::string script = file("script", "#!/bin/sh\ntouch " + mark + "\n");

	Result r = weft({"--check", script});
	EXPECT_EQ(r.status, 0);
	EXPECT_FALSE(fs::exists(mark));
	EXPECT_TRUE(contains(last_line(r.out),
		"would run natively: weft would stay dormant: the"
		" program itself does not create threads (a library it loads later may)"))
		<< r.out;

	r = weft({"--check", "--carriers", "4", fixture("threads")},
		{"WEFT_STRESS=migrate", "WEFT_SITES=auto", "WEFT_FAULT=bad"});
	EXPECT_EQ(r.status, 0);
	for (const char *part : {"\n  format ", "\n  loader ", "\n  privileges ",
		     "\n  runtime ", "\n  library     libc.so.6: ",
		     "\n  threads     the program calls pthread_create\n",
		     "\n  io_uring ", "\n  FSGSBASE ", "\n  kernel ", "\n  glibc ",
		     "\n  setting     WEFT_CARRIERS=4\n",
		     "\n  setting     WEFT_STRESS=migrate\n"})
		EXPECT_TRUE(contains(r.out, part)) << part << r.out;
	EXPECT_TRUE(contains(r.out, "\n  LD_PRELOAD  " + library + "\n")) << r.out;
	EXPECT_FALSE(contains(r.out, "WEFT_SITES")) << "the default";
	EXPECT_FALSE(contains(r.out, "WEFT_FAULT")) << "not in effect";
	EXPECT_TRUE(contains(r.err, "weft: WEFT_FAULT='bad' is not understood")) << r.err;
}

TEST_F(Launcher, CheckTellsWhyUringIsRefused)
{
	const std::string epoll =
		"would run on fibers, with epoll: io_uring cannot be used here";
	const Words args = {"--check", fixture("threads")};

	Result r = weft(args, {}, [] { deny_uring(SECCOMP_RET_ERRNO | EPERM); });
	EXPECT_EQ(last_line(r.out), epoll) << r.out;
	EXPECT_TRUE(contains(r.out, "  io_uring    refused, ")) << r.out;

	r = weft(args, {}, [] { deny_uring(SECCOMP_RET_ERRNO | ENOSYS); });
	EXPECT_EQ(last_line(r.out), epoll) << r.out;
	EXPECT_TRUE(contains(r.out, "(ENOSYS)")) << r.out;

	r = weft(args, {}, [] { deny_uring(SECCOMP_RET_KILL_PROCESS); });
	EXPECT_EQ(last_line(r.out), epoll) << r.out;
	EXPECT_TRUE(contains(r.out, "a seccomp filter kills")) << r.out;
	EXPECT_EQ(r.status, 0);

	// unless the user wants nothing else; or asks for epoll anyhow
	r = weft(args, {"WEFT_ENGINE=io_uring"},
		[] { deny_uring(SECCOMP_RET_ERRNO | EPERM); });
	EXPECT_EQ(last_line(r.out),
		"would run natively: io_uring cannot be used here, and WEFT_ENGINE asks"
		" for it")
		<< r.out;
	r = weft(args, {"WEFT_ENGINE=epoll"});
	EXPECT_EQ(last_line(r.out), "would run on fibers, with epoll: WEFT_ENGINE")
		<< r.out;

	// and starting a program does not probe
	EXPECT_EQ(weft({fixture("threads")}, {},
			  [] { deny_uring(SECCOMP_RET_KILL_PROCESS); })
			  .status,
		0);
}

// ---- what it prints ----

TEST_F(Launcher, HelpFitsAndNamesEverything)
{
	const Result r = weft({"--help"});
	std::istringstream lines(r.out);

	EXPECT_EQ(r.status, 0);
	EXPECT_EQ(r.err, "");
	for (std::string line; std::getline(lines, line);)
		EXPECT_LE(line.size(), 80u) << line;
	for (const char *part : {"--stats WHEN", "--carriers N", "--verbose", "--off",
		     "--check", "--help", "--version", "WEFT_STATS", "WEFT_CARRIERS",
		     "WEFT_STRESS", "WEFT_SEED", "WEFT_VERBOSE", "WEFT_SITES",
		     "WEFT_FAULT", "\n  125 ", "\n  126 ", "\n  127 "})
		EXPECT_TRUE(contains(r.out, part)) << part;
	const size_t limits = r.out.find("\nLimitations:"),
		     docs = r.out.find("\nDocumentation:");
	ASSERT_NE(docs, std::string::npos);
	EXPECT_LT(limits, docs) << "they are the end";
	EXPECT_EQ(r.out, weft({"-h"}).out);
}

TEST_F(Launcher, VersionNamesTheLibrary)
{
	EXPECT_TRUE(contains(weft({"--version"}).out, "\nlibweft.so: " + library + "\n"));
	fs::remove(library);
	EXPECT_TRUE(contains(weft({"--version"}).out, "\nlibweft.so: not found\n"));
}

TEST_F(Launcher, LostOutputIsAnError)
{
	for (const Words &args :
		{Words{"--help"}, Words{"--version"}, Words{"--check", "true"}}) {
		const Result r = weft(args, {}, {}, "/dev/full");
		EXPECT_EQ(r.status, 125);
		EXPECT_EQ(r.err,
			"weft: writing the output failed: No space left on device\n");
	}
}

TEST_F(Launcher, ManPageIsCompleteAndHasLimitationsEarly)
{
	const std::string man = contents(WEFT_TEST_MAN);
	size_t at = 0;

	for (const char *section :
		{".SH NAME", ".SH SYNOPSIS", ".SH LIMITATIONS", ".SH OPTIONS",
			".SH ENVIRONMENT", ".SH EXIT STATUS", ".SH EXAMPLES"}) {
		const size_t found = man.find(std::string("\n") + section + "\n");
		ASSERT_NE(found, std::string::npos) << section;
		EXPECT_GE(found, at) << section << " comes later";
		at = found;
	}
	for (const char *name : {"\\fBWEFT\\fR", "WEFT_STATS", "WEFT_CARRIERS",
		     "WEFT_STRESS", "WEFT_SEED", "WEFT_VERBOSE", "WEFT_SITES",
		     "WEFT_FAULT", "\\-\\-stats", "\\-\\-check"})
		EXPECT_TRUE(contains(man, name)) << name;
	EXPECT_FALSE(contains(man, "@")) << "every place is filled in";
}
