/*
 * twice.c - run a program natively, then under weft, and demand equality
 *
 * The native run is the oracle: standard output, standard error and the wait
 * status under weft must be the same bytes. A run under weft also has to prove,
 * by weft's own statistics, that it really ran on fibers; otherwise a library
 * that quietly stayed out of the way would pass every test.
 *
 * By hand, all in one:         twice --library libweft.so [--config C] PROG
 * As ctest uses it:            twice --record DIR PROG           the native run
 *                              twice --against DIR --library … PROG
 * A GoogleTest binary, one process and time limit per test:
 *                              twice --gtest --config native PROG
 *                              twice --gtest --config migrate --library … PROG
 */
#define _GNU_SOURCE
#include "confine.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <ftw.h>
#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXIT_SKIP 77 /* what a program exits with to skip; and what we do then */

/* The ways to run weft that every program must survive. */
static const struct config {
	const char *name;
	const char *carriers;
	const char *stress;
	const char *engine, *uring, *fsgsbase;
	bool one_cpu;
} configs[] = {
	{.name = "default"},
	{.name = "carriers1", .carriers = "1"},
	{.name = "carriers8", .carriers = "8"},
	{.name = "cpu0", .one_cpu = true},
	{.name = "migrate", .stress = "migrate"},
	{.name = "wouldblock", .stress = "wouldblock"},
	{.name = "shuffle", .stress = "shuffle"},
	{.name = "storm", .stress = "migrate,wouldblock,shuffle"},
	{.name = "epoll", .engine = "epoll"},
	{.name = "epollstorm", .engine = "epoll", .stress = "migrate,wouldblock,shuffle"},
	/* What Linux 5.15 has of io_uring, and rings that overflow. */
	{.name = "oldkernel", .engine = "io_uring", .uring = "-5.15,-large_rings"},
	/* As where FSGSBASE is missing, and the program has something in ES or DS. */
	{.name = "gs", .fsgsbase = "gs"},
};

static struct {
	const char *library;
	const char *config;
	const char *filter; /* of GoogleTest names */
	const char *record, *against;
	const char *weft_only; /* why there is no native run */
	int status;            /* the wait status the program is declared to have */
	long min_fibers;
	int timeout_s;
	bool dormant, ignore_stderr, stats_on_stderr, refused, gtest, keep;
	char *const *argv;
} opt = {.config = "default", .filter = "*", .min_fibers = 1, .timeout_s = 60};

static char scratch[PATH_MAX];

/* ---- small things ------------------------------------------------------ */

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *fmt, ...)
{
	va_list ap;

	fputs("twice: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void remove_scratch(void)
{
	if (scratch[0] && !opt.keep)
		nftw(scratch, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void make_scratch(void)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(scratch, sizeof scratch, "%s/weft-test-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(scratch))
		fail("%s: %s", scratch, strerror(errno));
	atexit(remove_scratch);
	confine_before_death = remove_scratch;
}

__attribute__((format(printf, 1, 2))) static char *text(const char *fmt, ...)
{
	va_list ap;
	char *s;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		abort();
	va_end(ap);
	return s;
}

static int create_file(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);

	if (fd < 0)
		fail("%s: %s", path, strerror(errno));
	return fd;
}

/* Prints a whole file with each line indented, so that it is told from ours. */
static void show_file(const char *title, const char *path)
{
	FILE *f = fopen(path, "re");
	char *line = NULL;
	size_t room = 0;
	bool any = false;

	while (f && getline(&line, &room, f) >= 0) {
		if (!any)
			fprintf(stderr, "%s:\n", title);
		any = true;
		fprintf(stderr, "    %s%s", line, strchr(line, '\n') ? "" : "\n");
	}
	free(line);
	if (f)
		fclose(f);
}

static const char *describe(int status)
{
	if (WIFSIGNALED(status))
		return text("killed by SIG%s", sigabbrev_np(WTERMSIG(status)));
	return text("exit status %d", WEXITSTATUS(status));
}

/* "7" or "SIGTERM" to a wait status. */
static int parse_status(const char *s)
{
	for (int sig = 1; strncmp(s, "SIG", 3) == 0 && sig < 32; sig++)
		if (sigabbrev_np(sig) && strcmp(s + 3, sigabbrev_np(sig)) == 0)
			return sig;
	if (*s < '0' || *s > '9')
		fail("--status: neither a number nor a signal: %s", s);
	return (atoi(s) & 0xff) << 8;
}

/* ---- weft's statistics ------------------------------------------------- */

/*
 * The one place that knows their form: each report has a line with
 * "fibers created=N". A program that forks reports once per process; the
 * largest N counts. -1 if there is no such line.
 */
static long fibers_created(const char *stats_path)
{
	static const char key[] = "fibers created=";
	FILE *f = fopen(stats_path, "re");
	char *line = NULL, *p;
	size_t room = 0;
	long most = -1, n;

	while (f && getline(&line, &room, f) >= 0) {
		p = strstr(line, key);
		if (!p)
			continue;
		n = strtol(p + strlen(key), NULL, 10);
		if (n > most)
			most = n;
	}
	free(line);
	if (f)
		fclose(f);
	return most;
}

/* Moves the lines with that beginning from one file to another; how many. */
static int take_lines(const char *prefix, const char *path, const char *to_path)
{
	char *rest_path = text("%s.rest", path), *line = NULL;
	FILE *in = fopen(path, "re"), *to = fopen(to_path, "we");
	FILE *rest = fopen(rest_path, "we");
	size_t room = 0;
	ssize_t len;
	int taken = 0;

	if (!in || !to || !rest)
		fail("%s: %s", path, strerror(errno));
	while ((len = getline(&line, &room, in)) >= 0) {
		bool match = strncmp(line, prefix, strlen(prefix)) == 0;

		fwrite(line, 1, (size_t)len, match ? to : rest);
		taken += match;
	}
	free(line);
	fclose(in);
	if (fclose(to) != 0 || fclose(rest) != 0 || rename(rest_path, path) < 0)
		fail("%s: %s", path, strerror(errno));
	return taken;
}

/* ---- one run ----------------------------------------------------------- */

struct run {
	char *out, *err, *stats; /* paths */
	struct confine_result result;
};

static void add_env(char **env, size_t *n, const char *name, const char *value)
{
	if (value)
		env[(*n)++] = text("%s=%s", name, value);
}

/* The caller's environment without what decides how a program runs, plus that. */
static char **make_env(const struct config *config, const char *stats, const char *dir)
{
	extern char **environ;
	static const char *const ours[] = {"WEFT",
		"LD_PRELOAD=", "TMPDIR=", "LC_ALL=", "LANG=", "LANGUAGE=", "GTEST_",
		"TZ="};
	const char *preload = getenv("LD_PRELOAD"), *seed = getenv("WEFT_SEED");
	size_t n = 0, count = 0;
	char **env;

	while (environ[count])
		count++;
	env = calloc(count + 20, sizeof *env);
	if (!env)
		abort();
	for (size_t i = 0; i < count; i++) {
		bool skip = false;

		for (size_t k = 0; k < sizeof ours / sizeof *ours; k++)
			skip |= strncmp(environ[i], ours[k], strlen(ours[k])) == 0;
		if (!skip)
			env[n++] = environ[i];
	}
	add_env(env, &n, "TMPDIR", dir);
	add_env(env, &n, "LC_ALL", "C");
	add_env(env, &n, "WEFT_SEED", seed); /* the stress tests take it natively too */
	if (!config) {
		add_env(env, &n, "LD_PRELOAD", preload);
		return env;
	}
	add_env(env, &n, "LD_PRELOAD",
		preload ? text("%s %s", opt.library, preload) : opt.library);
	add_env(env, &n, "WEFT_STATS", opt.stats_on_stderr ? "exit" : stats);
	add_env(env, &n, "WEFT_CARRIERS", config->carriers);
	add_env(env, &n, "WEFT_STRESS", config->stress);
	add_env(env, &n, "WEFT_ENGINE", config->engine);
	add_env(env, &n, "WEFT_URING", config->uring);
	add_env(env, &n, "WEFT_FSGSBASE", config->fsgsbase);
	/* Whatever else of weft the caller set holds under weft. */
	for (size_t i = 0; i < count; i++)
		if (strncmp(environ[i], "WEFT_FAULT=", 11) == 0 ||
			strncmp(environ[i], "WEFT_SITES=", 11) == 0 ||
			strncmp(environ[i], "WEFT_NATIVE=", 12) == 0 ||
			strncmp(environ[i], "WEFT_VERBOSE=", 13) == 0 ||
			(strncmp(environ[i], "WEFT_ENGINE=", 12) == 0 &&
				!config->engine) ||
			(strncmp(environ[i], "WEFT_URING=", 11) == 0 && !config->uring) ||
			(strncmp(environ[i], "WEFT_CARRIERS=", 14) == 0 &&
				!config->carriers))
			env[n++] = environ[i];
	return env;
}

/* config NULL: natively. Fails by itself on a hang and on left-over processes. */
static bool run_once(
	const char *name, const struct config *config, char *const *argv, struct run *run)
{
	struct confine c = {.argv = argv, .timeout_s = opt.timeout_s};
	char *dir = text("%s/%s", scratch, name);
	int err;

	if (mkdir(dir, 0755) < 0)
		fail("%s: %s", dir, strerror(errno));
	run->out = text("%s.stdout", dir);
	run->err = text("%s.stderr", dir);
	run->stats = text("%s.stats", dir);
	c.stdout_fd = create_file(run->out);
	c.stderr_fd = create_file(run->err);
	c.cwd = dir;
	c.envp = make_env(config, run->stats, dir);
	c.one_cpu = config && config->one_cpu;
	err = confine_run(&c, &run->result);
	close(c.stdout_fd);
	close(c.stderr_fd);
	if (config && opt.stats_on_stderr)
		take_lines("weft stats:", run->err, run->stats);
	if (err < 0)
		fail("%s: cannot run: %s", argv[0], strerror(-err));
	if (run->result.timed_out)
		fprintf(stderr, "twice: %s: still running after %d s\n", name,
			opt.timeout_s);
	if (run->result.leftovers)
		fprintf(stderr, "twice: %s: left %d processes behind\n", name,
			run->result.leftovers);
	return !run->result.timed_out && !run->result.leftovers;
}

static bool ran_on_fibers(const char *name, const struct run *run, long at_least)
{
	long n = fibers_created(run->stats);

	if (opt.dormant && n > 0)
		fprintf(stderr, "twice: %s: not dormant: %ld fibers\n", name, n);
	else if (!opt.dormant && at_least > 0 && n < 0)
		fprintf(stderr,
			"twice: %s: no \"fibers created=\" in weft's statistics:"
			" it did not run on fibers\n",
			name);
	else if (!opt.dormant && at_least > 0 && n < at_least)
		fprintf(stderr, "twice: %s: %ld fibers created, expected at least %ld\n",
			name, n, at_least);
	else
		return true;
	show_file("weft's statistics", run->stats);
	return false;
}

/* ---- transcripts ------------------------------------------------------- */

static bool same_files(const char *a, const char *b)
{
	FILE *fa = fopen(a, "re"), *fb = fopen(b, "re");
	int ca = 0, cb = 0;

	if (!fa || !fb)
		fail("%s: %s", fa ? b : a, strerror(errno));
	while (ca == cb && ca != EOF) {
		ca = getc(fa);
		cb = getc(fb);
	}
	fclose(fa);
	fclose(fb);
	return ca == cb;
}

static bool compare_files(const char *what, const char *native, const char *weft)
{
	pid_t pid;

	if (same_files(native, weft))
		return true;
	fprintf(stderr, "twice: %s differs:\n", what);
	fflush(stderr);
	pid = fork();
	if (pid == 0) {
		dup2(2, 1);
		execlp("diff", "diff", "-au", "--label", "native", "--label", "weft",
			native, weft, (char *)NULL);
		_exit(127);
	}
	waitpid(pid, NULL, 0);
	return false;
}

static void copy_file(const char *from, const char *to)
{
	char buf[65536];
	int in = open(from, O_RDONLY | O_CLOEXEC), out = create_file(to);
	ssize_t n;

	while ((n = read(in, buf, sizeof buf)) > 0)
		if (write(out, buf, (size_t)n) != n)
			fail("%s: %s", to, strerror(errno));
	close(in);
	close(out);
}

/* The record of a native run is three files in a directory. */
static void save_record(const char *dir, const struct run *run)
{
	FILE *f;

	mkdir(dir, 0755);
	copy_file(run->out, text("%s/stdout", dir));
	copy_file(run->err, text("%s/stderr", dir));
	f = fopen(text("%s/status", dir), "we");
	if (!f || fprintf(f, "%d\n", run->result.status) < 0 || fclose(f) != 0)
		fail("%s: %s", dir, strerror(errno));
}

static void load_record(const char *dir, struct run *ret_run)
{
	FILE *f = fopen(text("%s/status", dir), "re");

	if (!f || fscanf(f, "%d", &ret_run->result.status) != 1)
		fail("%s: no record of a native run", dir);
	fclose(f);
	ret_run->out = text("%s/stdout", dir);
	ret_run->err = text("%s/stderr", dir);
}

/* ---- a program --------------------------------------------------------- */

static bool skipped(const struct run *run)
{
	return run->result.status == EXIT_SKIP << 8;
}

static void run_native(struct run *native)
{
	bool ok = run_once("native", NULL, opt.argv, native);

	if (ok && skipped(native)) {
		show_file("skipped", native->out);
		if (opt.record)
			save_record(opt.record, native);
		exit(EXIT_SKIP);
	}
	if (ok && native->result.status != opt.status) {
		fprintf(stderr, "twice: native run: %s, declared: %s\n",
			describe(native->result.status), describe(opt.status));
		ok = false;
	}
	if (!ok) {
		show_file("native stdout", native->out);
		show_file("native stderr", native->err);
		exit(1);
	}
}

static bool judge(const struct run *native, const struct run *weft)
{
	bool ok = true;

	if (weft->result.status != native->result.status) {
		fprintf(stderr, "twice: native: %s, weft: %s\n",
			describe(native->result.status), describe(weft->result.status));
		ok = false;
	}
	ok &= compare_files("stdout", native->out, weft->out);
	if (!opt.ignore_stderr)
		ok &= compare_files("stderr", native->err, weft->err);
	return ok;
}

/* weft stays out of the way, and says so in one line. */
static bool was_refused(const struct run *weft)
{
	char *said = text("%s.said", weft->err);
	int lines = take_lines("weft: ", weft->err, said);

	if (lines == 1 && fibers_created(weft->stats) <= 0) {
		show_file("said", said);
		return true;
	}
	fprintf(stderr, "twice: refused: %d lines instead of one, %ld fibers\n", lines,
		fibers_created(weft->stats));
	show_file("weft said", said);
	return false;
}

static bool run_weft(const struct config *config, const struct run *native)
{
	struct run weft = {0};
	bool ok;

	ok = run_once(config->name, config, opt.argv, &weft);
	if (opt.refused)
		ok &= was_refused(&weft);
	if (native && !weft.result.timed_out) {
		ok &= judge(native, &weft);
	} else if (!native) {
		if (!weft.result.timed_out && skipped(&weft)) {
			show_file("skipped", weft.out);
			exit(EXIT_SKIP);
		}
		if (weft.result.status != opt.status) {
			fprintf(stderr, "twice: weft: %s, declared: %s\n",
				describe(weft.result.status), describe(opt.status));
			ok = false;
		}
	}
	if (ok && !opt.refused)
		ok = ran_on_fibers(config->name, &weft, opt.min_fibers);
	if (!ok) {
		show_file("weft stdout", weft.out);
		show_file("weft stderr", weft.err);
		show_file("weft's statistics", weft.stats);
	}
	printf("%s: %s: %.2f s, %.2f s of CPU, %ld KiB, %ld fibers\n", config->name,
		ok ? "same" : "FAILED", weft.result.wall_s, weft.result.cpu_s,
		weft.result.max_rss_kib, fibers_created(weft.stats));
	return ok;
}

/* ---- a GoogleTest binary ----------------------------------------------- */

/* Reads --gtest_list_tests: suites end in '.', their tests are indented. */
static size_t list_tests(const char *path, char ***ret_names)
{
	FILE *f = fopen(path, "re");
	char *line = NULL, *suite = NULL, **names = NULL;
	size_t room = 0, n = 0, len;

	while (f && getline(&line, &room, f) >= 0) {
		len = strcspn(line, " \n#");
		if (line[0] != ' ') {
			if (len && line[len - 1] == '.')
				suite = strndup(line, len);
			continue;
		}
		len = strcspn(line + 2, " \n#");
		names = realloc(names, (n + 1) * sizeof *names);
		if (!names || !suite)
			abort();
		names[n++] = text("%s%.*s", suite, (int)len, line + 2);
	}
	free(line);
	if (f)
		fclose(f);
	*ret_names = names;
	return n;
}

static bool file_has(const char *path, const char *what)
{
	FILE *f = fopen(path, "re");
	char *line = NULL;
	size_t room = 0;
	bool has = false;

	while (f && !has && getline(&line, &room, f) >= 0)
		has = strstr(line, what);
	free(line);
	if (f)
		fclose(f);
	return has;
}

static int run_gtest(const struct config *config)
{
	char *list_argv[] = {opt.argv[0], "--gtest_list_tests", NULL};
	struct run run = {0};
	size_t n, failed = 0, ran = 0, skips = 0;
	char **names;

	if (!run_once("list", NULL, list_argv, &run) || run.result.status != 0)
		fail("%s: cannot list its tests", opt.argv[0]);
	n = list_tests(run.out, &names);
	for (size_t i = 0; i < n; i++) {
		char *argv[] = {opt.argv[0], text("--gtest_filter=%s", names[i]),
			"--gtest_color=no", NULL};
		bool ok, skip;

		if (fnmatch(opt.filter, names[i], 0) != 0 ||
			strstr(names[i], "DISABLED_"))
			continue;
		ran++;
		ok = run_once(names[i], config, argv, &run) && run.result.status == 0;
		skip = ok && file_has(run.out, "[  SKIPPED ]");
		if (ok && !skip && !file_has(run.out, "[  PASSED  ] 1 test")) {
			fprintf(stderr, "twice: %s: did not say that it passed\n",
				names[i]);
			ok = false;
		}
		if (ok && !skip && config)
			ok = ran_on_fibers(names[i], &run, opt.min_fibers);
		printf("%s %s (%.2f s)\n",
			skip ? "skip  "
			: ok ? "ok    "
			     : "FAILED",
			names[i], run.result.wall_s);
		if (skip)
			show_file("skipped", run.out);
		if (!ok) {
			fflush(stdout);
			if (!run.result.timed_out)
				fprintf(stderr, "%s\n", describe(run.result.status));
			show_file("stdout", run.out);
			show_file("stderr", run.err);
			show_file("weft's statistics", run.stats);
		}
		failed += !ok;
		skips += skip;
	}
	printf("%zu tests, %zu skipped, %zu failed\n", ran, skips, failed);
	if (!ran)
		fail("%s: no test matches %s", opt.argv[0], opt.filter);
	return failed ? 1 : skips == ran ? EXIT_SKIP : 0;
}

/* ---- the command ------------------------------------------------------- */

static const char usage[] =
	"usage: twice [OPTION]… [--] PROGRAM [ARG…]\n"
	"  --library FILE     the libweft.so to use\n"
	"  --config NAME      default carriers1 carriers8 cpu0 migrate wouldblock\n"
	"                     shuffle storm epoll epollstorm oldkernel; all;\n"
	"                     native (only with --gtest)\n"
	"  --record DIR       only the native run; leave its transcript in DIR\n"
	"  --against DIR      only the run under weft; compare with DIR\n"
	"  --weft-only WHY    there is no native run to compare with\n"
	"  --min-fibers N     what the run under weft must have created (1)\n"
	"  --refused          weft must say in one line why it stays out, and do so\n"
	"  --dormant          it must have created none\n"
	"  --status S         the declared exit status or signal (0)\n"
	"  --ignore-stderr    compare only standard output and status\n"
	"  --stats-on-stderr  take weft's statistics from there: the program loses\n"
	"                     its way to the file by chroot or setuid\n"
	"  --timeout S        of each run (60)\n"
	"  --gtest            PROGRAM is a GoogleTest binary: each test on its own\n"
	"  --filter PATTERN   which tests of it, as a shell pattern\n"
	"  --keep             leave the working directory\n"
	"WEFT_SEED is passed on; without it a random one is used and printed.\n";

static void parse(int argc, char **argv)
{
	enum {
		LIBRARY = 1000,
		CONFIG,
		RECORD,
		AGAINST,
		WEFT_ONLY,
		MIN_FIBERS,
		DORMANT,
		REFUSED,
		STATUS,
		IGNORE_STDERR,
		STATS_ON_STDERR,
		TIMEOUT,
		GTEST,
		FILTER,
		KEEP,
		HELP
	};
	static const struct option options[] = {
		{"library", required_argument, NULL, LIBRARY},
		{"config", required_argument, NULL, CONFIG},
		{"record", required_argument, NULL, RECORD},
		{"against", required_argument, NULL, AGAINST},
		{"weft-only", required_argument, NULL, WEFT_ONLY},
		{"min-fibers", required_argument, NULL, MIN_FIBERS},
		{"refused", no_argument, NULL, REFUSED},
		{"dormant", no_argument, NULL, DORMANT},
		{"status", required_argument, NULL, STATUS},
		{"ignore-stderr", no_argument, NULL, IGNORE_STDERR},
		{"stats-on-stderr", no_argument, NULL, STATS_ON_STDERR},
		{"timeout", required_argument, NULL, TIMEOUT},
		{"gtest", no_argument, NULL, GTEST},
		{"filter", required_argument, NULL, FILTER},
		{"keep", no_argument, NULL, KEEP},
		{"help", no_argument, NULL, HELP},
		{0},
	};
	int o;

	while ((o = getopt_long(argc, argv, "+h", options, NULL)) != -1) {
		switch (o) {
		case LIBRARY:
			/* LD_PRELOAD takes it from another directory */
			opt.library = realpath(optarg, NULL);
			if (!opt.library)
				fail("%s: %s", optarg, strerror(errno));
			break;
		case CONFIG:
			opt.config = optarg;
			break;
		case RECORD:
			opt.record = optarg;
			break;
		case AGAINST:
			opt.against = optarg;
			break;
		case WEFT_ONLY:
			opt.weft_only = optarg;
			break;
		case MIN_FIBERS:
			opt.min_fibers = atol(optarg);
			break;
		case DORMANT:
			opt.dormant = true;
			break;
		case REFUSED:
			opt.refused = true;
			break;
		case STATUS:
			opt.status = parse_status(optarg);
			break;
		case IGNORE_STDERR:
			opt.ignore_stderr = true;
			break;
		case STATS_ON_STDERR:
			opt.stats_on_stderr = true;
			break;
		case TIMEOUT:
			opt.timeout_s = atoi(optarg);
			break;
		case GTEST:
			opt.gtest = true;
			break;
		case FILTER:
			opt.filter = optarg;
			break;
		case KEEP:
			opt.keep = true;
			break;
		case HELP:
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			fputs(usage, stderr);
			exit(2);
		}
	}
	opt.argv = argv + optind;
	if (optind == argc || opt.timeout_s <= 0) {
		fputs(usage, stderr);
		exit(2);
	}
	/* The program runs in a directory of its own. */
	if (strchr(argv[optind], '/')) {
		char *path = realpath(argv[optind], NULL);

		if (path)
			argv[optind] = path;
	}
}

/* Set before the runs, so that all of them and a repetition by hand agree. */
static void choose_seed(void)
{
	uint64_t seed;

	if (!getenv("WEFT_SEED")) {
		if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
			fail("getrandom: %s", strerror(errno));
		setenv("WEFT_SEED", text("%llu", (unsigned long long)seed), 1);
	}
	printf("WEFT_SEED=%s\n", getenv("WEFT_SEED"));
}

int main(int argc, char **argv)
{
	size_t n = sizeof configs / sizeof *configs, chosen = 0;
	bool all, native_only, ok = true;
	struct run native = {0};

	confine_die_with_parent();
	setlinebuf(stdout);
	parse(argc, argv);
	all = strcmp(opt.config, "all") == 0;
	native_only = opt.record || strcmp(opt.config, "native") == 0;
	if (!native_only && !opt.library)
		fail("--library is missing");
	make_scratch();
	choose_seed();

	if (opt.gtest && native_only)
		return run_gtest(NULL);
	if (opt.against)
		load_record(opt.against, &native);
	else if (!opt.weft_only && !opt.gtest)
		run_native(&native);
	if (opt.record)
		save_record(opt.record, &native);
	if (native_only)
		return 0;
	if (opt.against && skipped(&native)) {
		show_file("skipped", native.out);
		return EXIT_SKIP;
	}
	for (size_t i = 0; i < n; i++) {
		if (!all && strcmp(opt.config, configs[i].name) != 0)
			continue;
		chosen++;
		if (opt.gtest)
			return run_gtest(&configs[i]);
		ok &= run_weft(&configs[i], opt.weft_only ? NULL : &native);
	}
	if (!chosen)
		fail("--config: unknown: %s", opt.config);
	return ok ? 0 : 1;
}
