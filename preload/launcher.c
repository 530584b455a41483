/*
 * The `weft` command: starts a program with libweft.so preloaded.
 *
 *	weft [OPTION]... PROGRAM [ARG]...
 *
 * Its promises: it says in one line, before anything runs, why a program cannot
 * be served (instead of letting the loader ignore LD_PRELOAD in silence); it
 * leaves nothing behind, as it becomes PROGRAM by execve(); it finds PROGRAM
 * and exits as env(1) does; its options are those of options.def and do no more
 * than set the variable; and --check takes the very same decisions.
 *
 * An existing LD_PRELOAD is kept, in order, with ours behind it. Whoever is in
 * front is asked first: an allocator or a profiler that the user preloads keeps
 * its place, and what it calls in turn reaches weft.
 */
#include "elfcheck.h"
#include "options.h"

#include <errno.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <libgen.h>
#include <limits.h>
#include <linux/io_uring.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef WEFT_VERSION
#error "WEFT_VERSION comes from the build"
#endif
/* From the launcher's folder to the installed library's. */
#ifndef WEFT_LIBRARY_FOLDERS
#define WEFT_LIBRARY_FOLDERS
#endif
#ifndef WEFT_DOCDIR
#define WEFT_DOCDIR "/usr/share/doc/weft"
#endif

/* env's own, which keeps 1 to 124 and 128 up for PROGRAM */
enum {
	EXIT_TROUBLE = 125, /* weft itself failed */
	EXIT_CANNOT = 126,  /* found, but cannot be executed or served */
	EXIT_MISSING = 127, /* not found, or none given */
};

enum { COLUMNS = 80 };

static const char library_name[] = "libweft.so";

/* ---- messages ---- */

/* One line on stderr, in one write, whatever is in the arguments. */
static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void say(const char *format, ...)
{
	char line[2 * PATH_MAX];
	va_list ap;
	size_t len;
	int n;

	(void)snprintf(line, sizeof(line), "weft: ");
	len = strlen(line);
	va_start(ap, format);
	n = vsnprintf(line + len, sizeof(line) - len - 1, format, ap);
	va_end(ap);
	if (n < 0)
		return;
	len = strlen(line);
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = '?';
	line[len++] = '\n';
	if (write(STDERR_FILENO, line, len) < 0)
		return; /* nobody left to tell */
}

static int flush_output(int status)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	say("writing the output failed: %s", strerror(errno));
	return EXIT_TROUBLE;
}

/* ---- the options ---- */

static const struct option {
	enum weft_option_id id;
	bool for_tests;
	const char *variable, *flag, *metavar, *implies;
	const char *allowed, *standard, *help;
} options[] = {
#define USER false
#define TEST true
#define WEFT_OPTION(                                                                     \
	id, variable, kind, fields, flag, metavar, implies, allowed, standard, help)     \
	{WEFT_OPTION_##id, kind, variable, flag, metavar, implies, allowed, standard,    \
		help},
#include "options.def"
#undef WEFT_OPTION
#undef USER
#undef TEST
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

_Static_assert(COUNT(options) == WEFT_OPTION_COUNT, "the table is complete");

/* The launcher's own, which are not in the table: they set nothing. */
static const struct {
	const char *flag, *help;
} own_options[] = {
	{"--check", "Says without running PROGRAM what would happen and why."},
	{"--help", "Prints this help."},
	{"--version", "Prints the version and where the library is."},
};

struct command {
	bool check, help, version;
	const char *man_template, *man_output; /* --man, for the build */
	char **program; /* and its arguments; NULL-terminated, maybe empty */
};

/*
 * Validates and sets one option of the table. arg is what follows "=", or NULL;
 * then *rest, the next argument, is taken where the option needs one.
 */
static int take_option(const struct option *o, const char *arg, char ***rest)
{
	struct weft_options scratch;

	if (o->metavar == NULL && arg != NULL) {
		say("%s takes no value", o->flag);
		return EXIT_TROUBLE;
	}
	if (o->metavar == NULL)
		arg = o->implies;
	else if (arg == NULL && (arg = **rest) != NULL)
		++*rest;
	if (arg == NULL) {
		say("%s needs a value; allowed: %s", o->flag, o->allowed);
		return EXIT_TROUBLE;
	}
	if (!weft_options_set(o->id, arg, &scratch)) {
		say("%s '%s' is not understood; allowed: %s", o->flag, arg, o->allowed);
		return EXIT_TROUBLE;
	}
	if (setenv(o->variable, arg, 1) != 0) {
		say("setting %s: %s", o->variable, strerror(errno));
		return EXIT_TROUBLE;
	}
	return 0;
}

static int parse_command(char **argv, struct command *ret)
{
	char **arg = argv[0] != NULL ? argv + 1 : argv;

	while (*arg != NULL && (*arg)[0] == '-' && (*arg)[1] != '\0') {
		const char *flag = *arg++;
		const size_t len = strcspn(flag, "=");
		const struct option *found = NULL;
		int status;

		if (strcmp(flag, "--") == 0)
			break;
		for (size_t i = 0; i < COUNT(options) && found == NULL; i++)
			if (options[i].flag != NULL && strlen(options[i].flag) == len &&
				memcmp(options[i].flag, flag, len) == 0)
				found = &options[i];
		if (found != NULL) {
			status = take_option(
				found, flag[len] == '=' ? flag + len + 1 : NULL, &arg);
			if (status != 0)
				return status;
		} else if (strcmp(flag, "--check") == 0) {
			ret->check = true;
		} else if (strcmp(flag, "--help") == 0 || strcmp(flag, "-h") == 0) {
			ret->help = true;
		} else if (strcmp(flag, "--version") == 0) {
			ret->version = true;
		} else if (strcmp(flag, "--man") == 0 && arg[0] != NULL &&
			   arg[1] != NULL) {
			ret->man_template = *arg++;
			ret->man_output = *arg++;
		} else {
			say("unknown option '%s'; 'weft --help' lists them", flag);
			return EXIT_TROUBLE;
		}
	}
	ret->program = arg;
	return 0;
}

/* ---- help and manual ---- */

/* text from column at on, wrapped, further lines indented; ends the line. */
static void print_wrapped(size_t at, size_t indent, const char *text)
{
	while (*(text += strspn(text, " ")) != '\0') {
		const size_t word = strcspn(text, " ");

		if (at > indent && at + 1 + word >= COLUMNS) {
			printf("\n%*s", (int)indent, "");
			at = indent;
		} else if (at < indent) {
			printf("%*s", (int)(indent - at), "");
			at = indent;
		} else if (at > indent) {
			putchar(' ');
			at++;
		}
		printf("%.*s", (int)word, text);
		at += word;
		text += word;
	}
	putchar('\n');
}

static void print_item(const char *name, const char *metavar, const char *text)
{
	enum { INDENT = 20 };
	int at = printf("  %s%s%s", name, metavar != NULL ? " " : "",
		metavar != NULL ? metavar : "");

	if (at >= INDENT - 1)
		at = printf("\n") - 1;
	print_wrapped((size_t)at, INDENT, text);
}

static void print_variables(bool for_tests)
{
	char text[1024];

	for (size_t i = 0; i < COUNT(options); i++) {
		if (options[i].for_tests != for_tests)
			continue;
		(void)snprintf(text, sizeof(text), "%s Allowed: %s. Default: %s.",
			options[i].help, options[i].allowed, options[i].standard);
		print_item(options[i].variable, NULL, text);
	}
}

static int print_help(void)
{
	char text[256];

	puts("Usage: weft [OPTION]... PROGRAM [ARG]...\n"
	     "Runs PROGRAM, unmodified, with its threads as fibers over"
	     " io_uring.\n\n"
	     "Options, up to PROGRAM or --; each sets the variable named:");
	for (size_t i = 0; i < COUNT(options); i++) {
		if (options[i].flag == NULL)
			continue;
		if (options[i].implies != NULL)
			(void)snprintf(text, sizeof(text), "Sets %s=%s.",
				options[i].variable, options[i].implies);
		else
			(void)snprintf(text, sizeof(text), "Sets %s: %s.",
				options[i].variable, options[i].allowed);
		print_item(options[i].flag, options[i].metavar, text);
	}
	for (size_t i = 0; i < COUNT(own_options); i++)
		print_item(own_options[i].flag, NULL, own_options[i].help);
	puts("\nEnvironment:");
	print_variables(false);
	puts("\nEnvironment, for tests and for hunting bugs:");
	print_variables(true);
	puts("\nExit status: PROGRAM's, or");
	print_item("125", NULL,
		"weft itself failed: a wrong option, no"
		" libweft.so, a failed write");
	print_item("126", NULL,
		"PROGRAM was found but cannot be executed, or"
		" weft cannot serve it");
	print_item("127", NULL, "PROGRAM was not found, or none was given");
	puts("\nLimitations:");
	print_wrapped(0, 2,
		"Dynamically linked x86-64 programs for glibc only."
		" Refused: static, Go, Java, .NET, Mono, sanitizer,"
		" 32-bit and set-user-ID programs. A program that makes"
		" no threads is left as it is, and event loops gain"
		" nothing.");
	puts("\nDocumentation: man weft, and " WEFT_DOCDIR);
	return flush_output(0);
}

/* Text for troff: no line may start with a control character. */
static void roff_text(FILE *out, const char *text)
{
	if (*text == '.' || *text == '\'')
		fputs("\\&", out);
	for (; *text != '\0'; text++) {
		if (*text == '-' || *text == '\\')
			fputs(*text == '-' ? "\\-" : "\\e", out);
		else
			fputc(*text, out);
	}
}

static void roff_item(FILE *out, const char *name, const char *metavar)
{
	fputs(".TP\n\\fB", out);
	roff_text(out, name);
	fputs("\\fR", out);
	if (metavar != NULL)
		fprintf(out, " \\fI%s\\fR", metavar);
	fputc('\n', out);
}

static void roff_options(FILE *out)
{
	for (size_t i = 0; i < COUNT(options); i++) {
		const struct option *o = &options[i];

		if (o->flag == NULL)
			continue;
		roff_item(out, o->flag, o->metavar);
		roff_text(out, o->help);
		fputs("\nSets \\fB", out);
		roff_text(out, o->variable);
		if (o->implies != NULL) {
			fputc('=', out);
			roff_text(out, o->implies);
			fputs("\\fR.\n", out);
		} else {
			fputs("\\fR: ", out);
			roff_text(out, o->allowed);
			fputs(".\n", out);
		}
	}
	for (size_t i = 0; i < COUNT(own_options); i++) {
		roff_item(out, own_options[i].flag, NULL);
		roff_text(out, own_options[i].help);
		fputc('\n', out);
	}
}

static void roff_variables(FILE *out, bool for_tests)
{
	for (size_t i = 0; i < COUNT(options); i++) {
		if (options[i].for_tests != for_tests)
			continue;
		roff_item(out, options[i].variable, NULL);
		roff_text(out, options[i].help);
		fputs("\nAllowed: ", out);
		roff_text(out, options[i].allowed);
		fputs(".\nDefault: ", out);
		roff_text(out, options[i].standard);
		fputs(".\n", out);
	}
}

/* Copies the template, with the lines that only this table knows filled in. */
static void write_man(FILE *in, FILE *out)
{
	char line[1024];

	while (fgets(line, sizeof(line), in) != NULL) {
		char *version = strstr(line, "@VERSION@");

		if (strcmp(line, "@OPTIONS@\n") == 0)
			roff_options(out);
		else if (strcmp(line, "@ENVIRONMENT@\n") == 0)
			roff_variables(out, false);
		else if (strcmp(line, "@TEST_ENVIRONMENT@\n") == 0)
			roff_variables(out, true);
		else if (version != NULL)
			fprintf(out, "%.*s%s%s", (int)(version - line), line,
				WEFT_VERSION, version + strlen("@VERSION@"));
		else
			fputs(line, out);
	}
}

static int print_man(const struct command *cmd)
{
	FILE *in = fopen(cmd->man_template, "re");
	FILE *out = in != NULL ? fopen(cmd->man_output, "we") : NULL;
	bool bad = out == NULL;

	if (!bad) {
		write_man(in, out);
		bad = ferror(in) || ferror(out);
		bad = fclose(out) != 0 || bad;
	}
	if (in != NULL)
		fclose(in);
	if (bad) {
		say("making %s from %s: %s", cmd->man_output, cmd->man_template,
			strerror(errno));
		return EXIT_TROUBLE;
	}
	return 0;
}

/* ---- libweft.so ---- */

static bool is_shared_object(const char *path)
{
	struct weft_elf elf;
	bool ok;
	const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return false;
	ok = weft_elf_read(fd, &elf) == 0 && elf.dynamic && elf.interp == NULL;
	weft_elf_free(&elf);
	close(fd);
	return ok;
}

/*
 * Beside the launcher (the build tree), else where an installation has it,
 * seen from the launcher, so that a prefix can be moved as a whole.
 */
static bool find_library(char *ret_path, size_t size)
{
	static const char *const folders[] = {
		".",
		WEFT_LIBRARY_FOLDERS /* each with its comma */
		"../lib/x86_64-linux-gnu/weft",
		"../lib/x86_64-linux-gnu",
		"../lib64/weft",
		"../lib64",
		"../lib/weft",
		"../lib",
	};
	char self[PATH_MAX], folder[PATH_MAX * 2], *real;
	const ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
	bool found = false;

	if (len > 0) {
		self[len] = '\0';
	} else { /* no /proc here */
		const char *name = (const char *)getauxval(AT_EXECFN);

		if (name == NULL || realpath(name, self) == NULL)
			return false;
	}
	(void)dirname(self);
	for (size_t i = 0; i < COUNT(folders) && !found; i++) {
		int n;

		(void)snprintf(folder, sizeof(folder), "%s/%s", self, folders[i]);
		real = realpath(folder, NULL);
		if (real == NULL)
			continue;
		n = snprintf(ret_path, size, "%s/%s", real, library_name);
		found = n > 0 && (size_t)n < size && is_shared_object(ret_path);
		free(real);
	}
	return found;
}

/* Is the LD_PRELOAD entry of len bytes the file that path names? */
static bool same_file(const char *entry, size_t len, const struct stat *ours)
{
	char path[PATH_MAX];
	struct stat st;

	if (len >= sizeof(path) || memchr(entry, '/', len) == NULL)
		return false;
	memcpy(path, entry, len);
	path[len] = '\0';
	return stat(path, &st) == 0 && st.st_dev == ours->st_dev &&
	       st.st_ino == ours->st_ino;
}

static bool named_like_ours(const char *entry, size_t len)
{
	const size_t name = strlen(library_name);

	return len >= name && memcmp(entry + len - name, library_name, name) == 0 &&
	       (len == name || entry[len - name - 1] == '/');
}

/*
 * LD_PRELOAD with library in it once: where it or another libweft.so already
 * is (two of them in one process would fight), else at the end. NULL if out of
 * memory.
 */
static char *make_preload(const char *old, const char *library)
{
	const size_t room = (old != NULL ? strlen(old) : 0) + strlen(library) + 2;
	struct stat ours = {0};
	bool placed = false;
	char *all, *end;

	/* Every entry is copied once at most, or is replaced by ours. */
	all = end = malloc(room);
	if (all == NULL)
		return NULL;
	(void)stat(library, &ours);
	for (const char *entry = old; entry != NULL && *entry != '\0';) {
		const size_t len = strcspn(entry, " :");
		const bool is_ours =
			named_like_ours(entry, len) || same_file(entry, len, &ours);

		if (len > 0 && !(is_ours && placed)) {
			const char *what = is_ours ? library : entry;
			const size_t n = is_ours ? strlen(library) : len;

			if (end != all)
				*end++ = ':';
			memcpy(end, what, n);
			end += n;
			placed = placed || is_ours;
		}
		entry += len + (entry[len] != '\0');
	}
	if (!placed) {
		if (end != all)
			*end++ = ':';
		memcpy(end, library, strlen(library));
		end += strlen(library);
	}
	*end = '\0';
	return all;
}

/* ld.so splits at both separators and expands $ORIGIN and its like. */
static bool preloadable(const char *library)
{
	return strpbrk(library, " :$") == NULL;
}

static int set_preload(const char *library)
{
	char *value;
	int err;

	if (!preloadable(library)) {
		say("%s: LD_PRELOAD cannot name a path with a space, a colon"
		    " or a dollar sign; move weft elsewhere",
			library);
		return EXIT_TROUBLE;
	}
	value = make_preload(getenv("LD_PRELOAD"), library);
	err = value == NULL ? -1 : setenv("LD_PRELOAD", value, 1);
	free(value);
	if (err != 0) {
		say("setting LD_PRELOAD: %s", strerror(errno));
		return EXIT_TROUBLE;
	}
	return 0;
}

/* ---- PROGRAM ---- */

/* 0, or the errno that execve() would give for an unsuitable file. */
static int executable(const char *path)
{
	struct stat st;

	if (stat(path, &st) != 0)
		return errno;
	if (!S_ISREG(st.st_mode))
		return EACCES;
	return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0 ? 0 : errno;
}

/* As execvp() searches: 0, or its errno. */
static int search(const char *name, char *ret_path, size_t size)
{
	const char *dirs = getenv("PATH");
	int err = ENOENT;

	if (*name == '\0')
		return ENOENT;
	if (strchr(name, '/') != NULL) {
		if (strlen(name) >= size)
			return ENAMETOOLONG;
		memcpy(ret_path, name, strlen(name) + 1);
		return executable(ret_path);
	}
	if (strlen(name) > NAME_MAX)
		return ENAMETOOLONG;
	if (dirs == NULL)
		dirs = "/bin:/usr/bin"; /* confstr(_CS_PATH) */
	for (;;) {
		const size_t len = strcspn(dirs, ":");
		int n, e;

		/* an empty element is the working directory */
		n = snprintf(ret_path, size, "%.*s%s%s", (int)len, dirs,
			len > 0 ? "/" : "./", name);
		if (len < PATH_MAX && n > 0 && (size_t)n < size) {
			e = executable(ret_path);
			if (e == 0)
				return 0;
			if (e == EACCES)
				err = EACCES;
		}
		if (dirs[len] == '\0')
			return err;
		dirs += len + 1;
	}
}

static int exit_status(int err)
{
	return err == ENOENT ? EXIT_MISSING : EXIT_CANNOT;
}

/* The kernel's BINPRM_BUF_SIZE, and its depth of interpreters of interpreters. */
enum { SCRIPT_HEAD = 256, SCRIPT_DEPTH = 5 };

/*
 * The interpreter and its one argument, as fs/binfmt_script.c takes them from
 * the first line. Both point into head; *ret_arg is "" if there is none. False
 * if this is no script that the kernel would run.
 */
static bool parse_script(
	const char *path, char head[SCRIPT_HEAD + 1], char **ret_interp, char **ret_arg)
{
	const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n;
	char *end;

	if (fd < 0)
		return false;
	memset(head, 0, SCRIPT_HEAD + 1);
	n = pread(fd, head, SCRIPT_HEAD, 0);
	close(fd);
	if (n < 3 || head[0] != '#' || head[1] != '!')
		return false;
	end = strchr(head, '\n');
	*ret_interp = head + 2 + strspn(head + 2, " \t");
	if (end != NULL)
		*end = '\0';
	else if (strcspn(*ret_interp, " \t") == strlen(*ret_interp) && n == SCRIPT_HEAD)
		return false; /* cut off in the name */
	end = *ret_interp + strlen(*ret_interp);
	while (end > *ret_interp && (end[-1] == ' ' || end[-1] == '\t'))
		*--end = '\0';
	if (**ret_interp == '\0')
		return false;
	*ret_arg = *ret_interp + strcspn(*ret_interp, " \t");
	if (**ret_arg != '\0') {
		*(*ret_arg)++ = '\0';
		*ret_arg += strspn(*ret_arg, " \t");
	}
	return true;
}

/*
 * The program that `#!/usr/bin/env …` starts, or NULL if that cannot be told
 * from here (an option, quotes). arg is cut behind it.
 */
static char *env_program(char *arg)
{
	static const char split[] = "-S", long_split[] = "--split-string=";
	bool several = false; /* words; without -S all of arg is one */

	if (strncmp(arg, long_split, strlen(long_split)) == 0) {
		arg += strlen(long_split);
		several = true;
	} else if (strncmp(arg, split, strlen(split)) == 0) {
		arg += strlen(split);
		several = true;
	}
	if (!several)
		return *arg == '\0' || *arg == '-' || strchr(arg, '=') != NULL ? NULL
									       : arg;
	if (strpbrk(arg, "\\'\"$#") != NULL)
		return NULL;
	for (;;) {
		const size_t blank = strspn(arg, " \t");
		const size_t len = strcspn(arg + blank, " \t");

		arg += blank;
		if (len == 0 || *arg == '-')
			return NULL;
		if (memchr(arg, '=', len) == NULL) {
			arg[len] = '\0';
			return arg;
		}
		arg += len; /* NAME=VALUE */
	}
}

static void note_nothing(const char *name, const char *outcome)
{
	(void)name;
	(void)outcome;
}

/*
 * The ELF file that runs in the end when the kernel executes path. 0 or an exit
 * status, after a message.
 */
static int follow_scripts(const char *path,
	void (*note)(const char *name, const char *outcome), char *ret_image, size_t size)
{
	char head[SCRIPT_HEAD + 1], next[PATH_MAX], text[2 * PATH_MAX];
	char *interp, *arg;
	int err;

	if (strlen(path) >= size) {
		say("%s: %s", path, strerror(ENAMETOOLONG));
		return EXIT_CANNOT;
	}
	memcpy(ret_image, path, strlen(path) + 1);
	for (int depth = 0; parse_script(ret_image, head, &interp, &arg); depth++) {
		const char *slash = strrchr(interp, '/');
		const char *by_env = NULL;

		if (depth == SCRIPT_DEPTH) {
			say("%s: %s", path, strerror(ELOOP));
			return EXIT_CANNOT;
		}
		err = executable(interp);
		if (err == 0 && slash != NULL && strcmp(slash, "/env") == 0)
			by_env = env_program(arg);
		if (by_env != NULL)
			err = search(by_env, next, sizeof(next));
		else
			(void)snprintf(next, sizeof(next), "%s", interp);
		if (err != 0) {
			say("%s: its interpreter %s: %s", ret_image,
				by_env != NULL ? by_env : interp, strerror(err));
			return exit_status(err);
		}
		(void)snprintf(text, sizeof(text), "%s, run by %s%s", ret_image, next,
			by_env != NULL ? ", which env finds" : "");
		note("script", text);
		if (strlen(next) >= size)
			return EXIT_CANNOT;
		memcpy(ret_image, next, strlen(next) + 1);
	}
	return 0;
}

/* ---- --check: what the machine offers ---- */

static void print_note(const char *name, const char *outcome)
{
	printf("  %-11s %s\n", name, outcome);
}

static int read_number(const char *path, int missing)
{
	FILE *f = fopen(path, "re");
	int n = missing;

	if (f == NULL)
		return missing;
	if (fscanf(f, "%d", &n) != 1)
		n = missing;
	fclose(f);
	return n;
}

static const char *uring_refusal(int err)
{
	switch (err) {
	case EPERM:
		switch (read_number("/proc/sys/kernel/io_uring_disabled", 0)) {
		case 0:
			return "refused, by a seccomp filter or a security"
			       " module (EPERM)";
		case 1:
			return "refused, kernel.io_uring_disabled=1 leaves it"
			       " to kernel.io_uring_group and CAP_SYS_ADMIN";
		default:
			return "refused, switched off for all by"
			       " kernel.io_uring_disabled=2";
		}
	case ENOSYS:
		return "missing, the kernel or a seccomp filter does not have"
		       " it (ENOSYS)";
	case ENOMEM:
		return "failed, not enough memory, or RLIMIT_MEMLOCK is too"
		       " low (ENOMEM)";
	case EMFILE:
	case ENFILE:
		return "failed, no file descriptor is left";
	default:
		return strerror(err);
	}
}

/*
 * NULL if io_uring_setup() works here, else why not. Tried in a child, since a
 * seccomp filter may also kill who calls it.
 */
static const char *try_uring(void)
{
	const pid_t pid = fork();
	int status;

	if (pid < 0)
		return strerror(errno);
	if (pid == 0) {
		struct io_uring_params params;

		memset(&params, 0, sizeof(params));
		_exit(syscall(SYS_io_uring_setup, 4, &params) >= 0 ? 0 : errno);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return strerror(errno);
	if (WIFSIGNALED(status))
		return "refused, a seccomp filter kills whoever calls it";
	return WEXITSTATUS(status) == 0 ? NULL : uring_refusal(WEXITSTATUS(status));
}

/* What the user set, and does not amount to the default. */
static void print_settings(void)
{
	char text[PATH_MAX + 64];
	bool any = false;

	for (size_t i = 0; i < COUNT(options); i++) {
		const char *value = getenv(options[i].variable);
		struct weft_options scratch;

		if (value == NULL || strcmp(value, options[i].standard) == 0 ||
			!weft_options_set(options[i].id, value, &scratch))
			continue;
		(void)snprintf(text, sizeof(text), "%s=%s", options[i].variable, value);
		print_note("setting", text);
		any = true;
	}
	if (!any)
		print_note("setting", "all defaults");
}

static void complain(const char *line)
{
	if (write(STDERR_FILENO, line, strlen(line)) < 0)
		return;
}

/* Bit 1 of AT_HWCAP2 (asm/hwcap2.h), or tried by a child. */
static const char *try_fsgsbase(void)
{
	int status = 0;
	pid_t pid;

	if (getauxval(AT_HWCAP2) & 2)
		return "works";
	pid = fork();
	if (pid == 0) {
		const struct rlimit no_core = {0, 0};

		(void)setrlimit(RLIMIT_CORE, &no_core);
		(void)signal(SIGILL, SIG_DFL);
		__asm__ volatile("rdfsbase %%rax; wrfsbase %%rax" : : : "rax");
		_exit(0);
	}
	if (pid > 0)
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	if (pid > 0 && WIFEXITED(status))
		return "unknown to the kernel, but the instructions work";
	return "missing: switching fibers takes a system call";
}

/* Prints what the machine offers; the reason to run natively, or NULL. */
static const char *check_machine(bool *ret_uring)
{
	const char *native = NULL, *why;
	char text[256];
	struct utsname un;
	unsigned major = 0, minor = 0;

	why = try_uring();
	(void)snprintf(text, sizeof(text), "%s", why != NULL ? why : "works");
	print_note("io_uring", text);
	*ret_uring = why == NULL;
	print_note("FSGSBASE", try_fsgsbase());
	if (uname(&un) == 0 && sscanf(un.release, "%u.%u", &major, &minor) == 2) {
		print_note("kernel", un.release);
		if (major < 5 || (major == 5 && minor < 15))
			native = "the kernel is older than 5.15";
	}
	print_note("glibc", gnu_get_libc_version());
	return native;
}

static int verdict(const char *what, const char *reason, int status)
{
	printf("%s%s\n", what, reason);
	return flush_output(status);
}

static int run_check(const struct weft_elfcheck *elf, const char *library)
{
	const char *native;
	struct weft_options opt;
	char *preload;
	bool uring;

	print_note("libweft.so", library != NULL ? library : "not found");
	if (library != NULL && preloadable(library)) {
		preload = make_preload(getenv("LD_PRELOAD"), library);
		print_note("LD_PRELOAD", preload != NULL ? preload : "");
		free(preload);
	}
	native = check_machine(&uring);
	fflush(stdout);
	weft_options_parse(environ, false, &opt, complain);
	print_settings();
	if (opt.off)
		return verdict("would run natively: ", "WEFT=off", 0);
	if (elf->refused)
		return verdict("would be refused: ", elf->reason, EXIT_CANNOT);
	if (library == NULL)
		return verdict(
			"would be refused: ", "libweft.so is missing", EXIT_CANNOT);
	if (!preloadable(library))
		return verdict("would be refused: ",
			"LD_PRELOAD cannot name"
			" libweft.so's path",
			EXIT_CANNOT);
	if (native == NULL && !uring && opt.engine == WEFT_OPTION_ENGINE_IO_URING)
		native = "io_uring cannot be used here, and WEFT_ENGINE asks for it";
	if (native != NULL)
		return verdict("would run natively: ", native, 0);
	if (!elf->creates_threads)
		return verdict("would run natively: ",
			"weft would stay dormant: the program itself"
			" does not create threads (a library it loads"
			" later may)",
			0);
	if (opt.engine == WEFT_OPTION_ENGINE_EPOLL)
		return verdict("would run on fibers", ", with epoll: WEFT_ENGINE", 0);
	if (!uring)
		return verdict("would run on fibers",
			", with epoll: io_uring cannot be used here", 0);
	return verdict("would run on fibers", "", 0);
}

/* ---- the whole ---- */

static int print_version(void)
{
	char library[PATH_MAX];

	printf("weft %s\n%s: %s\n", WEFT_VERSION, library_name,
		find_library(library, sizeof(library)) ? library : "not found");
	return flush_output(0);
}

/* Looks at the file that is to run. 0 or an exit status, after a message. */
static int examine(const char *path, void (*note)(const char *name, const char *outcome),
	struct weft_elfcheck *ret)
{
	struct weft_libraries *libs;
	struct weft_caller caller;
	char image[PATH_MAX];
	const int status = follow_scripts(path, note, image, sizeof(image));

	if (status != 0)
		return status;
	libs = weft_libraries_new(NULL, getenv("LD_LIBRARY_PATH"));
	if (libs == NULL) {
		say("out of memory");
		return EXIT_TROUBLE;
	}
	weft_caller_self(&caller);
	weft_elfcheck(image, &caller, libs, note, ret);
	weft_libraries_free(libs);
	if (ret->refused && strcmp(image, path) != 0) {
		char reason[sizeof(ret->reason)];

		memcpy(reason, ret->reason, sizeof(reason));
		(void)snprintf(ret->reason, sizeof(ret->reason),
			"of its interpreter %.90s: %.190s", image, reason);
	}
	return 0;
}

/* Preloads, unless switched off. 0 or an exit status, after a message. */
static int prepare(const char *name, const char *path)
{
	struct weft_elfcheck elf;
	struct weft_options opt;
	char library[PATH_MAX];
	int status;

	/* libweft.so complains about the variables, once. */
	weft_options_parse(environ, false, &opt, NULL);
	if (opt.off)
		return 0; /* so nothing needs to be served */
	status = examine(path, note_nothing, &elf);
	if (status != 0)
		return status;
	if (elf.refused) {
		say("%s: cannot be served: %s", name, elf.reason);
		return EXIT_CANNOT;
	}
	if (!find_library(library, sizeof(library))) {
		say("%s is neither beside this command nor in ../lib", library_name);
		return EXIT_TROUBLE;
	}
	status = set_preload(library);
	if (status == 0 && opt.verbose)
		say("LD_PRELOAD=%s %s", getenv("LD_PRELOAD"), path);
	return status;
}

static int check(const char *path)
{
	struct weft_elfcheck elf;
	char library[PATH_MAX];
	int status;

	print_note("program", path);
	status = examine(path, print_note, &elf);
	if (status != 0)
		return flush_output(status);
	return run_check(&elf, find_library(library, sizeof(library)) ? library : NULL);
}

int main(int argc, char **argv)
{
	struct command cmd = {0};
	char path[PATH_MAX];
	int status, err;

	(void)argc;
	status = parse_command(argv, &cmd);
	if (status != 0)
		return status;
	if (cmd.help)
		return print_help();
	if (cmd.version)
		return print_version();
	if (cmd.man_template != NULL)
		return print_man(&cmd);
	if (cmd.program[0] == NULL) {
		say("no program given (usage: weft [OPTION]... PROGRAM"
		    " [ARG]...; 'weft --help' says more)");
		return EXIT_MISSING;
	}
	err = search(cmd.program[0], path, sizeof(path));
	if (err != 0) {
		say("%s: %s", cmd.program[0], strerror(err));
		return exit_status(err);
	}
	if (cmd.check)
		return check(path);
	status = prepare(cmd.program[0], path);
	if (status != 0)
		return status;
	execve(path, cmd.program, environ);
	err = errno;
	say("%s: %s", cmd.program[0], strerror(err));
	return exit_status(err);
}
